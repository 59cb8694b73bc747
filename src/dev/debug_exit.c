/* SPDX-License-Identifier: MIT */
/*
 * Debug exit: a write of 1, 2 or 4 bytes of `value` to port 0xf4 ends the run with exit status
 * (value << 1) | 1, of which the host keeps the low 8 bits; always odd, so that it cannot be taken
 * for one of doppel's own. Reads as zero. No state. The guest controls the value.
 */
#include "dev/debug_exit.h"

#include <errno.h>
#include <stdlib.h>

struct debug_exit {
    struct machine_sink sink;
};

static uint64_t debug_exit_read(void *device, uint64_t offset, unsigned size)
{
    return 0;
}

static void debug_exit_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct debug_exit *d = device;

    if (offset == 0)
        d->sink.events->debug_exit(d->sink.context, (int)((value << 1 | 1) & 0xff));
}

static const struct bus_ops debug_exit_ops = {
    .read = debug_exit_read,
    .write = debug_exit_write,
    .max_size = 4,
};

int debug_exit_create(struct debug_exit **out, struct bus *bus, struct machine_sink sink,
                      struct error *e)
{
    struct debug_exit *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return error_set(e, ENOMEM, "no memory for the debug exit port");
    d->sink = sink;
    int err = bus_add(bus, BUS_PIO, "debug exit", DEBUG_EXIT_PORT, DEBUG_EXIT_SIZE, &debug_exit_ops,
                      d, NULL, e);
    if (err != 0) {
        debug_exit_destroy(d);
        return err;
    }
    *out = d;
    return 0;
}

void debug_exit_destroy(struct debug_exit *d)
{
    free(d);
}
