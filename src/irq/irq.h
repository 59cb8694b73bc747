/* SPDX-License-Identifier: MIT */
/*
 * Interrupt routing of a PC: lines (GSI) to the PIC pair and the I/O APIC, MSIs to the local APICs.
 *
 * A device holds a `struct irq_line` and only raises or lowers it. GSI 0-15 go to the PIC pin of
 * the same number and to the I/O APIC pin, but for GSI 0 (the PIT), which is I/O APIC pin 2, as the
 * MADT's interrupt source override says. GSI 16-23 go to the I/O APIC alone.
 *
 * Locks: `irq->lock` guards PIC, I/O APIC and the routing; local APICs have a lock each; order
 * device -> irq -> local APIC -> vCPU request bits. PIC and I/O APIC register regions are added to
 * the bus with irq->lock as the device lock.
 */
#ifndef DOPPEL_IRQ_IRQ_H
#define DOPPEL_IRQ_IRQ_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/field.h"
#include "bus/bus.h"
#include "clock/clock.h"
#include "x86/msr.h"
#include "x86/vcpu.h"

#define IRQ_LINES 24

struct irq;

/* Made by irq_line_of; a test puts its own sink there. All zero: not connected, does nothing. */
struct irq_line {
    void (*set)(void *sink, unsigned gsi, bool level);
    void *sink;
    unsigned gsi;
    bool (*pending)(void *sink, unsigned gsi); /* may be NULL: never */
};

/* Wires PIC (0x20, 0xa0, ELCR 0x4d0), I/O APIC (0xfec00000), local APICs (0xfee00000 page, x2APIC
 * MSRs, TSC-deadline MSR, APIC_BASE MSR, CR8) for the given vCPUs: fills each vcpu's irq hooks. */
int irq_create(struct irq **out, struct bus *bus, struct vm_clock *clock, struct msr_table *msrs,
               struct vcpu **vcpus, unsigned vcpu_count, struct error *e);
void irq_destroy(struct irq *irq);
void irq_reset(struct irq *irq);

/* The line into this interrupt routing. */
struct irq_line irq_line_of(struct irq *irq, unsigned gsi);

/* Level of a line; an edge-triggered input takes the rising edge. Any thread, device lock held. */
static inline void irq_line_set(const struct irq_line *line, bool level)
{
    if (line->set != NULL)
        line->set(line->sink, line->gsi, level);
}

/* True while an earlier edge of the line waits, not yet acknowledged, so that another would be lost
 * in it: a periodic timer then keeps its tick for later (decision 17). As irq_line_set. */
static inline bool irq_line_pending(const struct irq_line *line)
{
    return line->pending != NULL && line->pending(line->sink, line->gsi);
}

/* The NMI button: an edge on LINT1 of every local APIC. */
void irq_nmi(struct irq *irq);

/* A message-signalled interrupt: address and data as a PCI device would write them (SDM 3A 10.11).
 * false when the address is not the local APICs'. */
bool irq_msi(struct irq *irq, uint64_t address, uint32_t data);

/* Saving and loading: calls visit for each part's table, in a fixed order. */
void irq_visit_state(struct irq *irq,
                     void (*visit)(void *context, const struct field_table *t, uint32_t instance,
                                   void *object),
                     void *context);

#endif
