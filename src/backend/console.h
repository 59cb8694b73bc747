/* SPDX-License-Identifier: MIT */
/*
 * Character backend: the host's side of a serial port. Kinds: `stdio` (raw terminal when stdin is
 * one), `file:PATH` (output only), `none`.
 *
 * Threads: one I/O thread for each console that has a file behind it. console_put and
 * console_want_input never block and may be called with the client's lock held; client callbacks
 * run on the I/O thread with the client's lock held. Order: client's lock -> console's lock.
 *
 * Output: a bounded buffer; when it is full console_put refuses, and `room` is called later. No
 * byte is lost, and the order is kept. After a write error the failure is reported once, and output
 * is thrown away, since nobody could see it.
 *
 * Input: stdin is read only while the client wants bytes and at most as many as it wants, so that
 * what doppel does not use stays in a pipe (decision 22). A terminal is read at all times, for the
 * escape keys; what the client does not want yet waits in a buffer of CONSOLE_TYPED_MAX bytes, and
 * what does not fit there is dropped as a terminal's own queue drops it. EOF only ends input.
 *
 * Keys on a terminal: Ctrl-A x quits, Ctrl-A b sends a break, Ctrl-A h helps, Ctrl-A Ctrl-A sends
 * Ctrl-A. When stdin is not a terminal bytes pass through unchanged.
 */
#ifndef DOPPEL_BACKEND_CONSOLE_H
#define DOPPEL_BACKEND_CONSOLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define CONSOLE_OUTPUT_MAX (256u << 10)
#define CONSOLE_TYPED_MAX  4096u

struct console;

/* The device. Any may be NULL. */
struct console_client {
    /* At most as many bytes as were wanted; returns how many were taken, the rest comes again. */
    size_t (*receive)(void *context, const uint8_t *bytes, size_t n);
    void (*receive_break)(void *context);
    void (*room)(void *context); /* after console_put refused: there is room again */
};

/* The machine. Called on the I/O thread, without a lock; either may be NULL. */
struct console_events {
    void (*quit)(void *context); /* Ctrl-A x */
    /* Output failed; `sentence` names the file and the reason. The VM ends with status 4. */
    void (*failed)(void *context, const char *sentence);
};

/* spec: "stdio", "file:PATH" or "none". -EINVAL for another; -EBUSY when stdio is taken already;
 * otherwise what opening the file gave, with the sentence. Starts the I/O thread and, for a
 * terminal, makes it raw. */
int console_create(struct console **out, const char *spec, const struct console_events *events,
                   void *context, struct error *e);

/* Writes out what is buffered, for at most flush_ms without progress; joins the thread, restores
 * the terminal. Returns 0, or the -errno of a failed write or close with the sentence (whether or
 * not `failed` was called before). c may be NULL. */
int console_destroy(struct console *c, unsigned flush_ms, struct error *e);

/* Once, before the vCPUs run. lock is the client's. */
void console_attach(struct console *c, const struct console_client *client, void *context,
                    pthread_mutex_t *lock);
/* The client goes away: no callback runs after the return. The client's lock is not held. */
void console_detach(struct console *c);

/* false: no room; `room` will be called. */
bool console_put(struct console *c, uint8_t byte);

/* How many bytes receive would take now; replaces the earlier number. */
void console_want_input(struct console *c, size_t n);

/* Restores the terminal if a console has changed it. Async-signal-safe, for the machine's handlers
 * of SIGTERM, SIGINT and SIGHUP; also run by atexit. */
void console_restore(void);

#endif
