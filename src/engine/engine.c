/* SPDX-License-Identifier: MIT */
/* The engines there are, and the names of exits; see engine.h. */
#include "engine/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *const exit_names[EXIT_REASONS] = {
    [EXIT_NONE] = "none",
    [EXIT_REQUEST] = "request",
    [EXIT_PIO] = "pio",
    [EXIT_MMIO] = "mmio",
    [EXIT_MSR] = "msr",
    [EXIT_CPUID] = "cpuid",
    [EXIT_HLT] = "hlt",
    [EXIT_HYPERCALL] = "hypercall",
    [EXIT_INTERRUPT_WINDOW] = "interrupt_window",
    [EXIT_INTERRUPT] = "interrupt",
    [EXIT_NMI] = "nmi",
    [EXIT_EXCEPTION] = "exception",
    [EXIT_CR] = "cr",
    [EXIT_DR] = "dr",
    [EXIT_RDTSC] = "rdtsc",
    [EXIT_INVLPG] = "invlpg",
    [EXIT_PAUSE] = "pause",
    [EXIT_ROM_WRITE] = "rom_write",
    [EXIT_UNSUPPORTED] = "unsupported",
    [EXIT_SHUTDOWN] = "shutdown",
    [EXIT_ERROR] = "error",
};

const struct engine_ops *const engines[] = {
    &engine_bt,
    &engine_interp,
    &engine_none,
    NULL,
};

static const struct engine_ops *find_auto(struct error *e)
{
    struct error why = {0};

    for (unsigned i = 0; engines[i] != NULL; i++) {
        if (engines[i] != &engine_none && engines[i]->available(&why) == 0)
            return engines[i];
    }
    error_set(e, ENOTSUP, "no engine can run a guest here%s%s", why.code != 0 ? ": " : "",
              why.text);
    return NULL;
}

const struct engine_ops *engine_find(const char *name, struct error *e)
{
    char known[ERROR_TEXT_MAX / 2] = "auto";

    if (strcmp(name, "auto") == 0)
        return find_auto(e);
    for (unsigned i = 0; engines[i] != NULL; i++) {
        if (strcmp(engines[i]->name, name) == 0)
            return engines[i]->available(e) == 0 ? engines[i] : NULL;
        size_t n = strlen(known);
        snprintf(known + n, sizeof(known) - n, ", %s", engines[i]->name);
    }
    error_set(e, EINVAL, "unknown engine '%s'; choose one of: %s", name, known);
    return NULL;
}
