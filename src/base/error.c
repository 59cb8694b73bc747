/* SPDX-License-Identifier: MIT */
/* Errors and log lines; see error.h. Any thread. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *e, int code, const char *format, ...)
{
    if (e != NULL) {
        va_list args;
        va_start(args, format);
        vsnprintf(e->text, sizeof(e->text), format, args);
        va_end(args);
        e->code = code;
    }
    return -code;
}

int error_prefix(struct error *e, const char *format, ...)
{
    char old[ERROR_TEXT_MAX];
    char prefix[ERROR_TEXT_MAX / 2];
    va_list args;

    memcpy(old, e->text, sizeof(old));
    va_start(args, format);
    vsnprintf(prefix, sizeof(prefix), format, args);
    va_end(args);
    int n = snprintf(e->text, sizeof(e->text), "%s: ", prefix);
    snprintf(e->text + n, sizeof(e->text) - (size_t)n, "%s", old);
    return -e->code;
}

static void log_line(const char *kind, const char *format, va_list args)
{
    char line[2 * ERROR_TEXT_MAX];
    int n = snprintf(line, sizeof(line), "doppel: %s", kind);
    vsnprintf(line + n, sizeof(line) - (size_t)n, format, args);
    fprintf(stderr, "%s\n", line); /* one call, so that lines of two threads do not mix */
}

void log_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_line("", format, args);
    va_end(args);
}

void log_warn(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_line("warning: ", format, args);
    va_end(args);
}
