/* SPDX-License-Identifier: MIT */
/*
 * The 8254 of a PC: ports 0x40 to 0x43, and port 0x61, which holds the gate and the output of
 * channel 2, the speaker bit and the refresh toggle. Channel 0's output is the line.
 */
#ifndef DOPPEL_DEV_PIT_H
#define DOPPEL_DEV_PIT_H

#include "irq/irq.h"

#define PIT_HZ 1193182u

struct pit;

/* The line should be GSI 0 (through the HPET's legacy gate when there is one). */
int pit_create(struct pit **out, struct bus *bus, struct vm_clock *clock, struct irq_line line,
               struct error *e);
void pit_destroy(struct pit *p);
void pit_reset(struct pit *p);

extern const struct field_table pit_state;

#endif
