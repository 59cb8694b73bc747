/* SPDX-License-Identifier: MIT */
/* The port by which a test guest ends doppel with a status of its choice (--debug-exit only). */
#ifndef DOPPEL_DEV_DEBUG_EXIT_H
#define DOPPEL_DEV_DEBUG_EXIT_H

#include "bus/bus.h"
#include "dev/events.h"

#define DEBUG_EXIT_PORT 0xf4
#define DEBUG_EXIT_SIZE 4

struct debug_exit;

int debug_exit_create(struct debug_exit **out, struct bus *bus, struct machine_sink sink,
                      struct error *e);
void debug_exit_destroy(struct debug_exit *d);

#endif
