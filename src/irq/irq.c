/* SPDX-License-Identifier: MIT */
/*
 * Interrupt routing and the life of the controllers; see irq.h and internal.h.
 *
 * Threads: any; locks as irq.h orders them.
 */
#include "irq/internal.h"

#include <errno.h>
#include <stdlib.h>

#define PIC_LINES    16u
#define GSI_CASCADE  2u /* the slave is on the PIC's input 2: no device's line */
#define PIN_OF_GSI_0 2u /* MADT: interrupt source override of the PIT */

static int wire(struct irq *irq, struct bus *bus, struct msr_table *msrs, struct vcpu **vcpus,
                unsigned count, struct error *e)
{
    for (unsigned i = 0; i < count; i++) {
        if (vcpus[i]->id != i)
            return error_set(e, EINVAL, "vCPU %u has APIC ID %u; they must be equal", i,
                             vcpus[i]->id);
        int err = lapic_init(&irq->lapics[i], irq, vcpus[i]);
        if (err != 0)
            return error_set(e, -err, "cannot make the lock of local APIC %u", i);
        irq->lapic_count++;
    }
    int err = pic_init(&irq->pic, irq, bus, e);
    if (err == 0)
        err = ioapic_init(&irq->ioapic, irq, bus, e);
    if (err == 0)
        err = bus_add(bus, BUS_MMIO, "lapic", X86_APIC_PAGE, 0x1000, &lapic_page_ops, irq, NULL, e);
    if (err == 0)
        err = lapic_register_msrs(irq, msrs, e);
    return err;
}

int irq_create(struct irq **out, struct bus *bus, struct vm_clock *clock, struct msr_table *msrs,
               struct vcpu **vcpus, unsigned vcpu_count, struct error *e)
{
    struct irq *irq = calloc(1, sizeof(*irq));
    if (irq == NULL)
        return error_set(e, ENOMEM, "no memory for the interrupt controllers");
    pthread_mutex_init(&irq->lock, NULL);
    irq->clock = clock;
    irq->lapics = calloc(vcpu_count, sizeof(*irq->lapics));
    int err = irq->lapics != NULL ? wire(irq, bus, msrs, vcpus, vcpu_count, e)
                                  : error_set(e, ENOMEM, "no memory for the local APICs");
    if (err != 0) {
        irq_destroy(irq);
        return err;
    }
    irq_reset(irq);
    *out = irq;
    return 0;
}

void irq_destroy(struct irq *irq)
{
    if (irq == NULL)
        return;
    for (unsigned i = 0; i < irq->lapic_count; i++)
        lapic_fini(&irq->lapics[i]);
    free(irq->lapics);
    pthread_mutex_destroy(&irq->lock);
    free(irq);
}

void irq_reset(struct irq *irq)
{
    pthread_mutex_lock(&irq->lock);
    ioapic_reset(&irq->ioapic);
    pic_reset(&irq->pic);
    pthread_mutex_unlock(&irq->lock);
    for (unsigned i = 0; i < irq->lapic_count; i++)
        lapic_reset(&irq->lapics[i], false);
}

/* irq_line_of has checked gsi. */
static void line_set(void *sink, unsigned gsi, bool level)
{
    struct irq *irq = sink;
    pthread_mutex_lock(&irq->lock);
    if (gsi < PIC_LINES)
        pic_set_line(&irq->pic, gsi, level);
    ioapic_set_line(&irq->ioapic, gsi == 0 ? PIN_OF_GSI_0 : gsi, level);
    pthread_mutex_unlock(&irq->lock);
}

static bool line_pending(void *sink, unsigned gsi)
{
    struct irq *irq = sink;
    pthread_mutex_lock(&irq->lock);
    bool pending = (gsi < PIC_LINES && pic_line_pending(&irq->pic, gsi)) ||
                   ioapic_line_pending(&irq->ioapic, gsi == 0 ? PIN_OF_GSI_0 : gsi);
    pthread_mutex_unlock(&irq->lock);
    return pending;
}

struct irq_line irq_line_of(struct irq *irq, unsigned gsi)
{
    if (gsi >= IRQ_LINES || gsi == GSI_CASCADE)
        return (struct irq_line){0};
    return (struct irq_line){.set = line_set, .sink = irq, .gsi = gsi, .pending = line_pending};
}

void irq_nmi(struct irq *irq)
{
    for (unsigned i = 0; i < irq->lapic_count; i++) {
        lapic_set_lint(&irq->lapics[i], 1, true);
        lapic_set_lint(&irq->lapics[i], 1, false);
    }
}

void irq_pic_output(struct irq *irq, bool level)
{
    for (unsigned i = 0; i < irq->lapic_count; i++)
        lapic_set_lint(&irq->lapics[i], 0, level);
}

/* Of those addressed that can take it, the one at the lowest priority; the first among equals. */
static struct lapic *lowest_of(struct irq *irq, const struct apic_message *m,
                               const struct lapic *except)
{
    struct lapic *best = NULL;
    uint8_t best_priority = 0;
    for (unsigned i = 0; i < irq->lapic_count; i++) {
        struct lapic *l = &irq->lapics[i];
        if (l == except || !lapic_matches(l, m) || !lapic_accepts(l))
            continue;
        uint8_t priority = lapic_priority(l);
        if (best == NULL || priority < best_priority) {
            best = l;
            best_priority = priority;
        }
    }
    return best;
}

bool irq_deliver(struct irq *irq, const struct apic_message *m, const struct lapic *except)
{
    if (m->lowest) {
        struct lapic *l = lowest_of(irq, m, except);
        return l != NULL && lapic_deliver(l, m);
    }
    bool taken = false;
    for (unsigned i = 0; i < irq->lapic_count; i++) {
        struct lapic *l = &irq->lapics[i];
        if (l != except && lapic_matches(l, m))
            taken |= lapic_deliver(l, m);
    }
    return taken;
}

bool irq_vector_pending(struct irq *irq, const struct apic_message *m)
{
    if (m->mode != APIC_FIXED && m->mode != APIC_LOWEST)
        return false;
    for (unsigned i = 0; i < irq->lapic_count; i++) {
        struct lapic *l = &irq->lapics[i];
        if (lapic_matches(l, m) && lapic_has_vector(l, m->vector))
            return true;
    }
    return false;
}

bool irq_msi(struct irq *irq, uint64_t address, uint32_t data)
{
    if (address >> 20 != 0xfee)
        return false;
    bool hint = address & 8;
    struct apic_message m = {
        .destination = (uint32_t)(address >> 12) & 0xff,
        .logical = address & 4,
        .level = data & (1u << 15),
        .mode = data >> 8 & 7,
        .vector = (uint8_t)data,
    };
    m.lowest = m.mode == APIC_LOWEST || (m.mode == APIC_FIXED && hint);
    if (!m.logical && m.destination == 0xff)
        m.destination = APIC_BROADCAST;
    irq_deliver(irq, &m, NULL);
    return true;
}

void irq_visit_state(struct irq *irq,
                     void (*visit)(void *context, const struct field_table *t, uint32_t instance,
                                   void *object),
                     void *context)
{
    visit(context, &pic_state, 0, &irq->pic);
    visit(context, &ioapic_state, 0, &irq->ioapic);
    for (unsigned i = 0; i < irq->lapic_count; i++)
        visit(context, &lapic_state, i, &irq->lapics[i]);
}
