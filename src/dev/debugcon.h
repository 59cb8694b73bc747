/* SPDX-License-Identifier: MIT */
/* Debug console port of firmware; see debugcon.c. */
#ifndef DOPPEL_DEV_DEBUGCON_H
#define DOPPEL_DEV_DEBUGCON_H

#include "backend/console.h"
#include "bus/bus.h"

#define DEBUGCON_PORT      0x402
#define DEBUGCON_SIGNATURE 0xe9

struct debugcon;

/* console: where the text goes, not owned; NULL throws it away. */
int debugcon_create(struct debugcon **out, struct bus *bus, struct console *console,
                    struct error *e);
void debugcon_destroy(struct debugcon *d);

#endif
