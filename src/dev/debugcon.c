/* SPDX-License-Identifier: MIT */
/*
 * Debug console: each byte written to port 0x402 is a character of text; reading gives 0xe9, by
 * which firmware finds it. No state. There is no flow control, so text that the console has no room
 * for is lost: the vCPU's thread does not wait for the host. The guest controls the bytes.
 */
#include "dev/debugcon.h"

#include <errno.h>
#include <stdlib.h>

struct debugcon {
    struct console *console;
};

static uint64_t debugcon_read(void *device, uint64_t offset, unsigned size)
{
    return DEBUGCON_SIGNATURE;
}

static void debugcon_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct debugcon *d = device;

    if (d->console != NULL)
        console_put(d->console, (uint8_t)value);
}

static const struct bus_ops debugcon_ops = {
    .read = debugcon_read,
    .write = debugcon_write,
    .max_size = 1,
};

int debugcon_create(struct debugcon **out, struct bus *bus, struct console *console,
                    struct error *e)
{
    struct debugcon *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return error_set(e, ENOMEM, "no memory for the debug console");
    d->console = console;
    int err = bus_add(bus, BUS_PIO, "debugcon", DEBUGCON_PORT, 1, &debugcon_ops, d, NULL, e);
    if (err != 0) {
        debugcon_destroy(d);
        return err;
    }
    *out = d;
    return 0;
}

void debugcon_destroy(struct debugcon *d)
{
    free(d);
}
