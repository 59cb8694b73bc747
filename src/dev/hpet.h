/* SPDX-License-Identifier: MIT */
/*
 * High-precision event timers (IA-PC HPET specification 1.0a) at 0xfed00000: a 64-bit counter of
 * 100 MHz and three timers, each periodic, 64 bits wide, and able to send MSIs.
 *
 * Legacy replacement cuts the lines of the PIT (GSI 0) and the RTC (GSI 8): those two devices are
 * given hpet_legacy_line in place of the interrupt routing's own line.
 */
#ifndef DOPPEL_DEV_HPET_H
#define DOPPEL_DEV_HPET_H

#include "irq/irq.h"

#define HPET_BASE 0xfed00000u
/* Low half of the capabilities: Intel, legacy replacement, 64 bits, 3 timers, revision 1. */
#define HPET_ID 0x8086a201u

struct hpet;

int hpet_create(struct hpet **out, struct bus *bus, struct vm_clock *clock, struct irq *irq,
                struct error *e);
void hpet_destroy(struct hpet *h);
void hpet_reset(struct hpet *h);

/* gsi is 0 or 8. The line leads on to the interrupt routing while LEG_RT_CNF is clear. */
struct irq_line hpet_legacy_line(struct hpet *h, unsigned gsi);

extern const struct field_table hpet_state;

#endif
