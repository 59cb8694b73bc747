/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's registers as the guest sees them: the xAPIC page (SDM 3A 10.4.1), the x2APIC
 * MSRs (10.12), IA32_APIC_BASE (10.4.3, 10.12.5) and IA32_TSC_DEADLINE (10.5.4.1), and the
 * interrupt command register (10.6).
 *
 * The bus has the page at X86_APIC_PAGE; where APIC_BASE has moved it, the vCPU's TLB leads there.
 *
 * Threads: the vCPU's own, each function takes the local APIC's lock. The guest controls all.
 */
#include "irq/internal.h"

#include <errno.h>

/* Numbers of the registers: MSR - 0x800, page offset / 16. */
enum lapic_register {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT_TIMER = 0x32,
    REG_LVT_ERROR = 0x37,
    REG_INITIAL = 0x38,
    REG_CURRENT = 0x39,
    REG_DIVIDE = 0x3e,
    REG_SELF = 0x3f,
};

/* Six LVT entries, EOI broadcasts may be suppressed. */
#define VERSION (0x14u | (LVTS - 1) << 16 | 1u << 24)

#define ICR_LOGICAL  (1u << 11)
#define ICR_ASSERT   (1u << 14)
#define ICR_LEVEL    (1u << 15)
#define ICR_WRITABLE 0xccfffu
#define ICR_RESERVED 0xfff32000u /* of x2APIC; bit 12, delivery status, may be written back */

static uint32_t ldr_of(const struct lapic *l)
{
    uint32_t id = l->vcpu->id;
    return lapic_is_x2apic(l) ? (id >> 4) << 16 | 1u << (id & 15) : l->ldr;
}

/* False when there is no such register in the present mode. Lock held. */
static bool read_register(const struct lapic *l, unsigned reg, uint64_t *value)
{
    bool x2 = lapic_is_x2apic(l);
    if (reg >= REG_ISR && reg < REG_ESR) {
        const uint32_t *set = reg < REG_TMR ? l->isr : reg < REG_IRR ? l->tmr : l->irr;
        *value = set[reg & 7];
        return true;
    }
    if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR) {
        *value = l->lvt[reg - REG_LVT_TIMER];
        return true;
    }
    switch (reg) {
    case REG_ID:
        *value = x2 ? l->vcpu->id : (uint32_t)l->id << 24;
        return true;
    case REG_VERSION:
        *value = VERSION;
        return true;
    case REG_TPR:
        *value = l->tpr;
        return true;
    case REG_PPR:
        *value = lapic_ppr_locked(l);
        return true;
    case REG_LDR:
        *value = ldr_of(l);
        return true;
    case REG_SVR:
        *value = l->svr;
        return true;
    case REG_ESR:
        *value = l->esr;
        return true;
    case REG_ICR:
        *value = x2 ? l->icr : (uint32_t)l->icr;
        return true;
    case REG_INITIAL:
        *value = l->timer_initial;
        return true;
    case REG_CURRENT:
        *value = lapic_timer_current_locked(l);
        return true;
    case REG_DIVIDE:
        *value = l->timer_divide;
        return true;
    case REG_DFR:
        *value = l->dfr;
        return !x2;
    case REG_ICR_HIGH:
        *value = l->icr >> 32;
        return !x2;
    case REG_EOI: /* write-only; the xAPIC reads zero, as it does for the obsolete APR and RRD */
    case REG_APR:
    case REG_RRD:
        *value = 0;
        return !x2;
    }
    return false;
}

/* Registers without effects on others; ID, LDR, DFR and the high half of ICR are the xAPIC's alone.
 * False when there is none, or it may not be written. Lock held. */
static bool write_register(struct lapic *l, unsigned reg, uint32_t value)
{
    bool x2 = lapic_is_x2apic(l);
    if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR) {
        lapic_write_lvt_locked(l, reg - REG_LVT_TIMER, value);
        return true;
    }
    switch (reg) {
    case REG_TPR:
        l->tpr = value & 0xff;
        lapic_update_locked(l);
        return true;
    case REG_SVR:
        lapic_write_svr_locked(l, value);
        return true;
    case REG_ESR: /* shows what was found since the last write */
        l->esr = l->esr_pending;
        l->esr_pending = 0;
        return true;
    case REG_INITIAL:
        lapic_timer_write_initial_locked(l, value);
        return true;
    case REG_DIVIDE:
        lapic_timer_write_divide_locked(l, value);
        return true;
    case REG_ID: /* some processors' software may change it (SDM 3A 10.4.6), as KVM's may */
        if (!x2)
            l->id = (uint8_t)(value >> 24);
        return !x2;
    case REG_LDR:
        if (!x2)
            l->ldr = value & 0xff000000;
        return !x2;
    case REG_DFR:
        if (!x2)
            l->dfr = value | 0x0fffffff;
        return !x2;
    case REG_ICR_HIGH:
        if (!x2)
            l->icr = (uint32_t)l->icr | (uint64_t)(value & 0xff000000) << 32;
        return !x2;
    }
    return false;
}

/* ---- Interrupt command register */

static bool icr_message(struct lapic *l, uint64_t icr, struct apic_message *m)
{
    *m = (struct apic_message){
        .destination = (uint32_t)(icr >> 32),
        .logical = icr & ICR_LOGICAL,
        .lowest = (icr >> 8 & 7) == APIC_LOWEST,
        .mode = icr >> 8 & 7,
        .vector = (uint8_t)icr,
    };
    pthread_mutex_lock(&l->lock);
    bool x2 = lapic_is_x2apic(l);
    bool good = true;
    if ((m->mode == APIC_FIXED || m->mode == APIC_LOWEST) && m->vector < 16) {
        lapic_error_locked(l, ESR_SEND);
        good = false;
    }
    pthread_mutex_unlock(&l->lock);
    if (!x2) {
        m->destination >>= 24;
        if (!m->logical && m->destination == 0xff)
            m->destination = APIC_BROADCAST;
    }
    /* ExtINT cannot be sent, 3 is reserved, the de-assert of INIT has no effect (table 10-1). */
    return good && m->mode != APIC_EXTINT && m->mode != 3 &&
           !(m->mode == APIC_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT));
}

void lapic_send_icr(struct lapic *l, uint64_t icr)
{
    struct apic_message m;
    if (!icr_message(l, icr, &m))
        return;
    switch (icr >> 18 & 3) {
    case 0:
        irq_deliver(l->irq, &m, NULL);
        break;
    case 1:
        lapic_deliver(l, &m);
        break;
    default:
        m.destination = APIC_BROADCAST;
        m.logical = false;
        irq_deliver(l->irq, &m, (icr >> 18 & 3) == 3 ? l : NULL);
    }
}

int64_t lapic_send_ipis(void *context, const uint64_t who[2], unsigned width, uint64_t first,
                        uint64_t icr)
{
    struct lapic *l = context;
    struct apic_message m;
    int64_t count = 0;

    if ((icr & ~(uint64_t)(ICR_WRITABLE & ~(ICR_LOGICAL | 3u << 18))) != 0)
        return -EINVAL;
    if (first < l->irq->lapic_count && !icr_message(l, icr, &m))
        return -EINVAL;
    for (uint64_t id = first; id < l->irq->lapic_count && id - first < 2 * width; id++) {
        unsigned n = (unsigned)(id - first);
        m.destination = (uint32_t)id;
        if (who[n / width] >> n % width & 1)
            count += irq_deliver(l->irq, &m, NULL);
    }
    return count;
}

/* ---- The page */

static bool page_answers(const struct lapic *l)
{
    return (l->base & (BASE_ENABLE | BASE_X2APIC)) == BASE_ENABLE;
}

/* Registers are 32 bits wide and 16 bytes apart; what lies between reads as zero. */
static uint64_t page_read(void *device, uint64_t offset, unsigned size)
{
    struct lapic *l = device;
    uint64_t value = 0;
    pthread_mutex_lock(&l->lock);
    if (!page_answers(l))
        value = UINT64_MAX;
    else if ((offset & 15) < 4 && !read_register(l, (unsigned)offset >> 4, &value))
        lapic_error_locked(l, ESR_REGISTER);
    pthread_mutex_unlock(&l->lock);
    return value == UINT64_MAX ? value : value >> (offset & 3) * 8;
}

static void page_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct lapic *l = device;
    unsigned reg = (unsigned)offset >> 4;
    if ((offset & 15) != 0 || size != 4)
        return;
    pthread_mutex_lock(&l->lock);
    bool answers = page_answers(l);
    uint64_t icr = 0;
    if (answers && reg == REG_ICR)
        icr = l->icr = (l->icr & ~0xffffffffull) | (value & ICR_WRITABLE);
    else if (answers && reg != REG_EOI && !write_register(l, reg, (uint32_t)value) &&
             !read_register(l, reg, &value)) /* a read-only one is no error */
        lapic_error_locked(l, ESR_REGISTER);
    pthread_mutex_unlock(&l->lock);

    if (answers && reg == REG_EOI)
        lapic_eoi(l);
    else if (answers && reg == REG_ICR)
        lapic_send_icr(l, icr);
}

static void *page_instance(void *device, unsigned cpu)
{
    struct irq *irq = device;
    return &irq->lapics[cpu < irq->lapic_count ? cpu : 0];
}

const struct bus_ops lapic_page_ops = {
    .read = page_read, .write = page_write, .max_size = 4, .instance = page_instance};

/* ---- MSRs */

static struct lapic *lapic_of(void *irq, const struct vcpu *v)
{
    return &((struct irq *)irq)->lapics[v->id];
}

static bool x2apic_read(void *irq, struct vcpu *v, uint32_t index, uint64_t *value)
{
    struct lapic *l = lapic_of(irq, v);
    pthread_mutex_lock(&l->lock);
    bool good = lapic_is_x2apic(l) && read_register(l, index - MSR_X2APIC_FIRST, value);
    pthread_mutex_unlock(&l->lock);
    return good;
}

/* Bits that must be zero in a WRMSR (SDM 3A table 10-6); status bits may be written back. */
static uint64_t x2apic_reserved(const struct lapic *l, unsigned reg)
{
    switch (reg) {
    case REG_TPR:
    case REG_SELF:
        return ~0xffull;
    case REG_SVR:
        return ~(uint64_t)(0xff | SVR_ENABLE | SVR_NO_BROADCAST);
    case REG_EOI:
    case REG_ESR:
        return ~0ull;
    case REG_ICR:
        return ICR_RESERVED;
    case REG_LVT_TIMER:
        return ~(0x310ffull | (lapic_has_deadline(l) ? TIMER_DEADLINE : 0));
    case REG_LVT_TIMER + LVT_THERMAL:
    case REG_LVT_TIMER + LVT_PERFORMANCE:
        return ~0x117ffull;
    case REG_LVT_TIMER + LVT_LINT0:
    case REG_LVT_TIMER + LVT_LINT1:
        return ~0x1f7ffull;
    case REG_LVT_ERROR:
        return ~0x110ffull;
    case REG_DIVIDE:
        return ~0xbull;
    default:
        return ~0xffffffffull;
    }
}

static bool x2apic_write(void *irq, struct vcpu *v, uint32_t index, uint64_t value)
{
    struct lapic *l = lapic_of(irq, v);
    unsigned reg = index - MSR_X2APIC_FIRST;
    pthread_mutex_lock(&l->lock);
    bool good = lapic_is_x2apic(l) && (value & x2apic_reserved(l, reg)) == 0;
    bool command = reg == REG_EOI || reg == REG_ICR || reg == REG_SELF;
    if (good && reg == REG_ICR)
        l->icr = value & (0xffffffff00000000ull | ICR_WRITABLE);
    else if (good && !command)
        good = write_register(l, reg, (uint32_t)value);
    pthread_mutex_unlock(&l->lock);
    if (!good || !command)
        return good;

    if (reg == REG_EOI)
        lapic_eoi(l);
    else if (reg == REG_ICR)
        lapic_send_icr(l, value);
    else
        lapic_send_icr(l, value | 1u << 18);
    return true;
}

static bool base_read(void *irq, struct vcpu *v, uint32_t index, uint64_t *value)
{
    struct lapic *l = lapic_of(irq, v);
    pthread_mutex_lock(&l->lock);
    *value = l->base;
    pthread_mutex_unlock(&l->lock);
    return true;
}

/* The legal moves of SDM 3A figure 10-27: x2APIC is entered from xAPIC and left only by disabling,
 * and a disabled local APIC comes back as after power-up. */
static bool base_move_legal(uint64_t from, uint64_t to)
{
    bool enable = to & BASE_ENABLE, x2 = to & BASE_X2APIC;
    if (x2)
        return enable && (from & BASE_ENABLE);
    return !enable || !(from & BASE_X2APIC);
}

/* On the vCPU's thread, or while it does not run. Only a page that answers is led to. */
void lapic_set_base_locked(struct lapic *l, uint64_t base)
{
    uint64_t page = base & ~0xfffull;
    bool moved = (base & (BASE_ENABLE | BASE_X2APIC)) == BASE_ENABLE && page != X86_APIC_PAGE;
    uint64_t before = l->vcpu->apic_moved;
    l->base = base;
    l->vcpu->apic_moved = moved ? page | 1 : 0;
    if (l->vcpu->apic_moved != before)
        tlb_flush_all(l->vcpu);
}

static bool base_write(void *irq, struct vcpu *v, uint32_t index, uint64_t value)
{
    struct lapic *l = lapic_of(irq, v);
    uint64_t reserved = ~((1ull << v->platform->physical_address_bits) - 1) | 0x2ff;
    if (!lapic_has_x2apic(l)) /* then EXTD is reserved */
        reserved |= BASE_X2APIC;
    if (value & reserved)
        return false;
    pthread_mutex_lock(&l->lock);
    bool good = base_move_legal(l->base, value);
    if (good) {
        bool disable = (l->base & BASE_ENABLE) && !(value & BASE_ENABLE);
        lapic_set_base_locked(l, value);
        if (disable)
            lapic_reset_locked(l);
        if (disable || (value & BASE_X2APIC)) /* the x2APIC's ID is the initial one (10.12.5.1) */
            l->id = (uint8_t)l->vcpu->id;
        lapic_update_locked(l);
    }
    pthread_mutex_unlock(&l->lock);
    return good;
}

static bool deadline_read(void *irq, struct vcpu *v, uint32_t index, uint64_t *value)
{
    struct lapic *l = lapic_of(irq, v);
    pthread_mutex_lock(&l->lock);
    *value = l->tsc_deadline;
    pthread_mutex_unlock(&l->lock);
    return true;
}

static bool deadline_write(void *irq, struct vcpu *v, uint32_t index, uint64_t value)
{
    struct lapic *l = lapic_of(irq, v);
    pthread_mutex_lock(&l->lock);
    lapic_timer_write_deadline_locked(l, value);
    pthread_mutex_unlock(&l->lock);
    return true;
}

int lapic_register_msrs(struct irq *irq, struct msr_table *t, struct error *e)
{
    const struct msr_entry entries[] = {
        {MSR_APIC_BASE, MSR_APIC_BASE, "APIC_BASE", base_read, base_write, irq},
        {MSR_TSC_DEADLINE, MSR_TSC_DEADLINE, "TSC_DEADLINE", deadline_read, deadline_write, irq},
        {MSR_X2APIC_FIRST, MSR_X2APIC_LAST, "x2APIC", x2apic_read, x2apic_write, irq},
    };
    int err = 0;
    for (unsigned i = 0; err == 0 && i < sizeof(entries) / sizeof(entries[0]); i++)
        err = msr_register(t, entries[i], e);
    return err;
}
