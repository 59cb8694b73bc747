/* SPDX-License-Identifier: MIT */
/* System control port A (0x92) and the reset control register (0xcf9); see reset.c. */
#ifndef DOPPEL_DEV_RESET_H
#define DOPPEL_DEV_RESET_H

#include "base/field.h"
#include "bus/pci.h"
#include "dev/a20.h"
#include "dev/events.h"

#define RESET_PORT_A       0x92
#define RESET_PORT_A_RESET 0x01 /* 0 to 1: reset */
#define RESET_PORT_A_A20   0x02

#define RESET_CONTROL         0xcf9 /* FADT RESET_REG */
#define RESET_CONTROL_SYSTEM  0x02  /* hard rather than soft reset */
#define RESET_CONTROL_CPU     0x04  /* 0 to 1: reset */
#define RESET_CONTROL_FULL    0x08  /* with a power cycle */
#define RESET_CONTROL_TRIGGER 0x06  /* FADT RESET_VALUE */

struct reset;
extern const struct field_table reset_state;

/* Accesses to all of the dword 0xcf8 go to pci. */
int reset_create(struct reset **out, struct bus *bus, struct pci *pci, struct a20 *a20,
                 struct machine_sink sink, struct error *e);
void reset_destroy(struct reset *r);
void reset_reset(struct reset *r);

#endif
