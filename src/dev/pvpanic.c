/* SPDX-License-Identifier: MIT */
/*
 * pvpanic (QEMU docs/specs/pvpanic): one byte port. Reading gives the events that are understood,
 * writing an event's bit reports it. No state, so no lock and no field table. The guest controls
 * the written byte; bits that were not offered are ignored.
 */
#include "dev/pvpanic.h"

#include <errno.h>
#include <stdlib.h>

struct pvpanic {
    struct machine_sink sink;
};

static uint64_t pvpanic_read(void *device, uint64_t offset, unsigned size)
{
    return PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
}

static void pvpanic_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct pvpanic *p = device;

    if (value & PVPANIC_PANICKED)
        p->sink.events->panic(p->sink.context, false);
    else if (value & PVPANIC_CRASH_LOADED)
        p->sink.events->panic(p->sink.context, true);
}

static const struct bus_ops pvpanic_ops = {
    .read = pvpanic_read,
    .write = pvpanic_write,
    .max_size = 1,
};

int pvpanic_create(struct pvpanic **out, struct bus *bus, struct machine_sink sink, struct error *e)
{
    struct pvpanic *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return error_set(e, ENOMEM, "no memory for pvpanic");
    p->sink = sink;
    int err = bus_add(bus, BUS_PIO, "pvpanic", PVPANIC_PORT, 1, &pvpanic_ops, p, NULL, e);
    if (err != 0) {
        pvpanic_destroy(p);
        return err;
    }
    *out = p;
    return 0;
}

void pvpanic_destroy(struct pvpanic *p)
{
    free(p);
}
