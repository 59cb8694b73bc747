/* SPDX-License-Identifier: MIT */
/*
 * Errors. A function that can fail for a reason outside the program (host, file, option) returns
 * 0 or -errno and, when it takes a `struct error *`, leaves there the one sentence the user reads:
 * what is wrong, where, and what to do. Guest errors never come this way: they fault the guest or
 * the device. Impossible states are asserts.
 */
#ifndef DOPPEL_BASE_ERROR_H
#define DOPPEL_BASE_ERROR_H

#define ERROR_TEXT_MAX 512

struct error {
    int code; /* errno, positive; 0 = none */
    char text[ERROR_TEXT_MAX];
};

/* Fills *e (may be NULL) and returns -code, so that `return error_set(e, EINVAL, "…")` reads well.
 * A text set earlier is replaced. */
int error_set(struct error *e, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text already there; returns -e->code. */
int error_prefix(struct error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One line on stderr, "doppel: …". log_warn is for what the user should know but need not stop. */
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
