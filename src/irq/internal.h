/* SPDX-License-Identifier: MIT */
/*
 * What the interrupt controllers share among themselves; see irq.h for the outside.
 *
 * A line's way: irq_line_set -> pic_set_line and ioapic_set_line (irq->lock held) -> lapic_deliver
 * or lapic_set_lint (the local APIC's lock) -> request bits of the vCPU. The way back, EOI and
 * INTA, begins at a local APIC, which drops its own lock before irq->lock is taken.
 */
#ifndef DOPPEL_IRQ_INTERNAL_H
#define DOPPEL_IRQ_INTERNAL_H

#include "irq/irq.h"

/* Delivery modes, as in a redirection entry, ICR, LVT and MSI data (SDM 3A 10.5.1). */
enum apic_mode {
    APIC_FIXED = 0,
    APIC_LOWEST = 1,
    APIC_SMI = 2,
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_SIPI = 6,
    APIC_EXTINT = 7,
};

#define APIC_BROADCAST UINT32_MAX /* physical; 8-bit senders say 0xff */

struct apic_message {
    uint32_t destination;
    bool logical;
    bool lowest; /* to one of those addressed */
    bool level;  /* trigger mode */
    uint8_t mode, vector;
};

/* ---- 8259A (pic.c). irq->lock held. */

struct pic_chip {
    uint8_t lines; /* levels of the inputs */
    uint8_t edges; /* rising edges not yet acknowledged */
    uint8_t isr, imr, elcr;
    uint8_t base;   /* ICW2: vector of input 0 */
    uint8_t lowest; /* input of the lowest priority; 7 after ICW1 */
    uint8_t next;   /* the ICW awaited, 2 to 4; 0 = none */
    /* Flags; bytes, because a saved byte over 1 would be no legal bool. */
    uint8_t icw4, single, auto_eoi, rotate_auto, special_mask, fully_nested, read_isr, poll;
};

struct pic {
    struct irq *irq;
    struct pic_chip chip[2]; /* master, slave on its input 2 */
    bool output;
};

int pic_init(struct pic *p, struct irq *irq, struct bus *bus, struct error *e);
void pic_reset(struct pic *p);
void pic_set_line(struct pic *p, unsigned input, bool level);
bool pic_line_pending(const struct pic *p, unsigned input);
uint8_t pic_acknowledge(struct pic *p); /* the two INTA cycles; spurious: input 7 */
extern const struct field_table pic_state;

/* ---- 82093AA (ioapic.c). irq->lock held. */

struct ioapic {
    struct irq *irq;
    uint64_t entry[IRQ_LINES];
    uint32_t lines;
    uint8_t select, id;
};

int ioapic_init(struct ioapic *io, struct irq *irq, struct bus *bus, struct error *e);
void ioapic_reset(struct ioapic *io);
void ioapic_set_line(struct ioapic *io, unsigned pin, bool level);
bool ioapic_line_pending(const struct ioapic *io, unsigned pin);
void ioapic_eoi(struct ioapic *io, uint8_t vector);
extern const struct field_table ioapic_state;

/* ---- Local APIC (lapic.c, lapic_timer.c, lapic_regs.c) */

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVTS };

#define LVT_MASKED       (1u << 16)
#define LVT_LEVEL        (1u << 15)
#define LVT_REMOTE_IRR   (1u << 14)
#define LVT_MODE(lvt)    (((lvt) >> 8) & 7)
#define LVT_TIMER_MODE   (3u << 17)
#define TIMER_ONE_SHOT   (0u << 17)
#define TIMER_PERIODIC   (1u << 17)
#define TIMER_DEADLINE   (2u << 17)
#define SVR_ENABLE       (1u << 8)
#define SVR_NO_BROADCAST (1u << 12)
#define BASE_BSP         (1u << 8)
#define BASE_X2APIC      (1u << 10)
#define BASE_ENABLE      (1u << 11)
#define ESR_SEND         (1u << 5)
#define ESR_RECEIVE      (1u << 6)
#define ESR_REGISTER     (1u << 7)

struct lapic {
    struct irq *irq;
    struct vcpu *vcpu;
    pthread_mutex_t lock;
    struct clock_timer timer;

    uint64_t base; /* IA32_APIC_BASE */
    uint8_t id;    /* of the xAPIC, software may change it; the x2APIC's is the vCPU's */
    uint32_t tpr, ldr, dfr, svr, esr, esr_pending;
    uint32_t isr[8], irr[8], tmr[8];
    uint32_t lvt[LVTS];
    uint64_t icr;
    uint8_t lint[2]; /* levels of the pins */
    uint8_t extint;  /* an ExtINT message came */
    uint8_t sipi_vector;

    uint32_t timer_initial, timer_divide;
    uint8_t timer_running;
    uint64_t timer_start; /* ns; modulo 2^64 */
    uint64_t timer_next;  /* ns: when the running timer expires */
    uint64_t tsc_deadline;
    uint64_t backlog; /* periodic ticks to be delivered later */
    uint64_t lost;    /* ticks beyond the backlog: counted, never delivered */
};

int lapic_init(struct lapic *l, struct irq *irq, struct vcpu *v);
void lapic_fini(struct lapic *l);
void lapic_reset(struct lapic *l, bool init); /* INIT keeps the ID and APIC_BASE */
bool lapic_matches(struct lapic *l, const struct apic_message *m);
bool lapic_accepts(struct lapic *l);     /* enabled by hardware and software */
uint8_t lapic_priority(struct lapic *l); /* PPR */
bool lapic_deliver(struct lapic *l, const struct apic_message *m);
bool lapic_has_vector(struct lapic *l, uint8_t vector); /* in IRR */
void lapic_set_lint(struct lapic *l, unsigned pin, bool level);
extern const struct vcpu_irq_ops lapic_vcpu_ops;
extern const struct field_table lapic_state;

/* Within the local APIC, lock held. */
static inline bool lapic_is_x2apic(const struct lapic *l)
{
    return (l->base & (BASE_ENABLE | BASE_X2APIC)) == (BASE_ENABLE | BASE_X2APIC);
}
bool lapic_has_x2apic(const struct lapic *l); /* by the CPUID model */
bool lapic_has_deadline(const struct lapic *l);
void lapic_set_base_locked(struct lapic *l, uint64_t base);
void lapic_update_locked(struct lapic *l); /* VCPU_REQUEST_INTR */
uint8_t lapic_ppr_locked(const struct lapic *l);
void lapic_set_irr_locked(struct lapic *l, uint8_t vector, bool level);
void lapic_fire_lvt_locked(struct lapic *l, enum lapic_lvt which);
void lapic_error_locked(struct lapic *l, uint32_t bit);
void lapic_write_lvt_locked(struct lapic *l, enum lapic_lvt which, uint32_t value);
void lapic_write_svr_locked(struct lapic *l, uint32_t value);
void lapic_reset_locked(struct lapic *l);
void lapic_eoi(struct lapic *l); /* takes the locks it needs */
void lapic_send_icr(struct lapic *l, uint64_t icr);
int64_t lapic_send_ipis(void *context, const uint64_t who[2], unsigned width, uint64_t first,
                        uint64_t icr); /* vcpu.h */

void lapic_timer_fire(void *lapic);
void lapic_timer_reset_locked(struct lapic *l);
void lapic_timer_mode_changed_locked(struct lapic *l, uint32_t old_lvt);
void lapic_timer_write_initial_locked(struct lapic *l, uint32_t value);
void lapic_timer_write_divide_locked(struct lapic *l, uint32_t value);
uint32_t lapic_timer_current_locked(const struct lapic *l);
void lapic_timer_write_deadline_locked(struct lapic *l, uint64_t deadline);
void lapic_timer_rearm_locked(struct lapic *l);
bool lapic_timer_redeliver_locked(struct lapic *l, uint8_t acknowledged);

/* The registers as the guest sees them: the xAPIC page, the x2APIC MSRs, APIC_BASE. */
extern const struct bus_ops lapic_page_ops;
int lapic_register_msrs(struct irq *irq, struct msr_table *t, struct error *e);

/* ---- The whole (irq.c) */

struct irq {
    pthread_mutex_t lock; /* PIC, I/O APIC */
    struct vm_clock *clock;
    struct pic pic;
    struct ioapic ioapic;
    unsigned lapic_count;
    struct lapic *lapics;
};

/* To the local APICs addressed, `except` left out (NULL: none). True when one took it. No local
 * APIC's lock held. */
bool irq_deliver(struct irq *irq, const struct apic_message *m, const struct lapic *except);
bool irq_vector_pending(struct irq *irq, const struct apic_message *m);
/* The PIC pair's INTR output, wired to every LINT0. irq->lock held. */
void irq_pic_output(struct irq *irq, bool level);

#endif
