/* SPDX-License-Identifier: MIT */
/* The port by which a guest kernel says that it panicked; see pvpanic.c. */
#ifndef DOPPEL_DEV_PVPANIC_H
#define DOPPEL_DEV_PVPANIC_H

#include "bus/bus.h"
#include "dev/events.h"

#define PVPANIC_PORT         0x505 /* the DSDT's QEMU0001 device names it */
#define PVPANIC_PANICKED     0x01
#define PVPANIC_CRASH_LOADED 0x02

struct pvpanic;

int pvpanic_create(struct pvpanic **out, struct bus *bus, struct machine_sink sink,
                   struct error *e);
void pvpanic_destroy(struct pvpanic *p);

#endif
