/* SPDX-License-Identifier: MIT */
/*
 * The local APIC (SDM 3A chapter 10): acceptance, priorities, acknowledge and EOI. Registers as the
 * guest reads and writes them are in lapic_regs.c, the timer is in lapic_timer.c.
 *
 * VCPU_REQUEST_INTR is a level: it is changed only here, under the local APIC's lock, to what the
 * acknowledge would find.
 *
 * Threads: any; each function takes the local APIC's lock, `_locked` ones want it held.
 */
#include "irq/internal.h"
#include "x86/cpuid.h"

#include <errno.h>
#include <string.h>

static bool bit_test(const uint32_t set[8], uint8_t vector)
{
    return set[vector >> 5] & (1u << (vector & 31));
}

static void bit_put(uint32_t set[8], uint8_t vector, bool value)
{
    uint32_t bit = 1u << (vector & 31);
    set[vector >> 5] = value ? set[vector >> 5] | bit : set[vector >> 5] & ~bit;
}

static int bit_highest(const uint32_t set[8])
{
    for (int i = 7; i >= 0; i--) {
        if (set[i] != 0)
            return i * 32 + 31 - __builtin_clz(set[i]);
    }
    return -1;
}

/* SDM 3A 10.8.3.1 */
uint8_t lapic_ppr_locked(const struct lapic *l)
{
    int in_service = bit_highest(l->isr);
    uint8_t service = in_service < 0 ? 0 : (uint8_t)in_service & 0xf0;
    return (l->tpr & 0xf0) >= service ? (uint8_t)l->tpr : service;
}

/* With the local APIC disabled LINT0 is the processor's INTR pin (SDM 3A 10.4.3). */
static bool extint_ready(const struct lapic *l)
{
    if (!(l->base & BASE_ENABLE))
        return l->lint[0];
    uint32_t lvt = l->lvt[LVT_LINT0];
    return l->extint || (l->lint[0] && !(lvt & LVT_MASKED) && LVT_MODE(lvt) == APIC_EXTINT);
}

static int fixed_ready(const struct lapic *l)
{
    int vector = (l->base & BASE_ENABLE) ? bit_highest(l->irr) : -1;
    return vector >= 0 && (vector & 0xf0) > (lapic_ppr_locked(l) & 0xf0) ? vector : -1;
}

void lapic_update_locked(struct lapic *l)
{
    bool want = extint_ready(l) || fixed_ready(l) >= 0;
    bool have = vcpu_requests(l->vcpu) & VCPU_REQUEST_INTR;
    if (want && !have)
        vcpu_request(l->vcpu, VCPU_REQUEST_INTR);
    else if (!want && have)
        vcpu_request_clear(l->vcpu, VCPU_REQUEST_INTR);
}

void lapic_error_locked(struct lapic *l, uint32_t bit)
{
    l->esr_pending |= bit;
    uint32_t lvt = l->lvt[LVT_ERROR];
    if (!(lvt & LVT_MASKED) && (uint8_t)lvt >= 16)
        lapic_set_irr_locked(l, (uint8_t)lvt, false);
}

void lapic_set_irr_locked(struct lapic *l, uint8_t vector, bool level)
{
    if (vector < 16) {
        lapic_error_locked(l, ESR_RECEIVE);
        return;
    }
    bit_put(l->irr, vector, true);
    bit_put(l->tmr, vector, level);
    lapic_update_locked(l);
}

void lapic_fire_lvt_locked(struct lapic *l, enum lapic_lvt which)
{
    uint32_t lvt = l->lvt[which];
    if (lvt & LVT_MASKED)
        return;
    bool lint = which == LVT_LINT0 || which == LVT_LINT1;
    bool level = lint && (lvt & LVT_LEVEL);
    switch (which == LVT_TIMER || which == LVT_ERROR ? (unsigned)APIC_FIXED : LVT_MODE(lvt)) {
    case APIC_FIXED:
        if (level)
            l->lvt[which] |= LVT_REMOTE_IRR;
        lapic_set_irr_locked(l, (uint8_t)lvt, level);
        break;
    case APIC_NMI:
        vcpu_request_nmi(l->vcpu);
        break;
    case APIC_INIT:
        vcpu_request(l->vcpu, VCPU_REQUEST_INIT);
        break;
    default: /* ExtINT is a level, looked at by update; there is no system management mode */
        break;
    }
}

/* A level-triggered LINT pin delivers while it is asserted and not in service. */
static void service_lint(struct lapic *l, unsigned pin)
{
    uint32_t lvt = l->lvt[LVT_LINT0 + pin];
    if (l->lint[pin] && LVT_MODE(lvt) == APIC_FIXED && (lvt & LVT_LEVEL) && !(lvt & LVT_REMOTE_IRR))
        lapic_fire_lvt_locked(l, LVT_LINT0 + pin);
}

void lapic_set_lint(struct lapic *l, unsigned pin, bool level)
{
    pthread_mutex_lock(&l->lock);
    bool rose = level && !l->lint[pin];
    l->lint[pin] = level;
    if (!(l->base & BASE_ENABLE)) {
        if (pin == 1 && rose) /* the NMI pin */
            vcpu_request_nmi(l->vcpu);
    } else if (rose) {
        uint32_t lvt = l->lvt[LVT_LINT0 + pin];
        if (LVT_MODE(lvt) == APIC_FIXED && (lvt & LVT_LEVEL))
            service_lint(l, pin);
        else
            lapic_fire_lvt_locked(l, LVT_LINT0 + pin);
    }
    lapic_update_locked(l);
    pthread_mutex_unlock(&l->lock);
}

bool lapic_has_x2apic(const struct lapic *l)
{
    return cpuid_has(l->vcpu->platform->cpuid, 1, 0, 2, 21);
}

bool lapic_has_deadline(const struct lapic *l)
{
    return cpuid_has(l->vcpu->platform->cpuid, 1, 0, 2, 24);
}

/* Bits that software may write, by register (SDM 3A figure 10-8). */
static uint32_t lvt_writable(const struct lapic *l, enum lapic_lvt which)
{
    static const uint32_t writable[LVTS] = {
        [LVT_TIMER] = 0x710ff, [LVT_THERMAL] = 0x107ff, [LVT_PERFORMANCE] = 0x107ff,
        [LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,   [LVT_ERROR] = 0x100ff,
    };
    if (which == LVT_TIMER && !lapic_has_deadline(l))
        return writable[which] & ~TIMER_DEADLINE;
    return writable[which];
}

void lapic_write_lvt_locked(struct lapic *l, enum lapic_lvt which, uint32_t value)
{
    uint32_t old = l->lvt[which];
    uint32_t lvt =
        value & lvt_writable(l, which) & ~(1u << 12); /* delivery status is always idle */
    if (!(l->svr & SVR_ENABLE))
        lvt |= LVT_MASKED;
    if (lvt & LVT_LEVEL)
        lvt |= old & LVT_REMOTE_IRR;
    l->lvt[which] = lvt;
    if (which == LVT_TIMER)
        lapic_timer_mode_changed_locked(l, old);
    if (which == LVT_LINT0 || which == LVT_LINT1)
        service_lint(l, which - LVT_LINT0);
    lapic_update_locked(l);
}

void lapic_write_svr_locked(struct lapic *l, uint32_t value)
{
    l->svr = value & (0xff | SVR_ENABLE | SVR_NO_BROADCAST);
    if (!(l->svr & SVR_ENABLE)) { /* SDM 3A 10.4.7.2 */
        for (unsigned i = 0; i < LVTS; i++)
            lapic_write_lvt_locked(l, i, l->lvt[i] | LVT_MASKED);
    }
    lapic_update_locked(l);
}

static bool matches_logical(const struct lapic *l, uint32_t destination)
{
    if (lapic_is_x2apic(l)) {
        uint32_t id = l->vcpu->id;
        return destination == APIC_BROADCAST ||
               (destination >> 16 == id >> 4 && (destination & 0xffff & (1u << (id & 15))) != 0);
    }
    if (destination == APIC_BROADCAST)
        return true;
    if (destination > 0xff)
        return false;
    if (destination == 0xff)
        return true;
    uint32_t ldr = l->ldr >> 24;
    if (l->dfr >> 28 == 0xf)
        return (ldr & destination) != 0;
    return ldr >> 4 == destination >> 4 && (ldr & destination & 15) != 0;
}

bool lapic_matches(struct lapic *l, const struct apic_message *m)
{
    pthread_mutex_lock(&l->lock);
    bool matches;
    if (!(l->base & BASE_ENABLE))
        matches = false;
    else if (m->logical)
        matches = matches_logical(l, m->destination);
    else
        matches = m->destination == APIC_BROADCAST ||
                  m->destination == (lapic_is_x2apic(l) ? l->vcpu->id : l->id);
    pthread_mutex_unlock(&l->lock);
    return matches;
}

bool lapic_accepts(struct lapic *l)
{
    pthread_mutex_lock(&l->lock);
    bool accepts = (l->base & BASE_ENABLE) && (l->svr & SVR_ENABLE);
    pthread_mutex_unlock(&l->lock);
    return accepts;
}

uint8_t lapic_priority(struct lapic *l)
{
    pthread_mutex_lock(&l->lock);
    uint8_t ppr = lapic_ppr_locked(l);
    pthread_mutex_unlock(&l->lock);
    return ppr;
}

bool lapic_has_vector(struct lapic *l, uint8_t vector)
{
    pthread_mutex_lock(&l->lock);
    bool has = bit_test(l->irr, vector);
    pthread_mutex_unlock(&l->lock);
    return has;
}

/* While disabled by software it takes only INIT, NMI, SMI and SIPI (SDM 3A 10.4.7.2). */
bool lapic_deliver(struct lapic *l, const struct apic_message *m)
{
    bool taken = true;
    pthread_mutex_lock(&l->lock);
    switch (m->mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        taken = (l->base & BASE_ENABLE) && (l->svr & SVR_ENABLE);
        if (taken)
            lapic_set_irr_locked(l, m->vector, m->level);
        break;
    case APIC_EXTINT:
        taken = (l->base & BASE_ENABLE) && (l->svr & SVR_ENABLE);
        l->extint |= taken;
        lapic_update_locked(l);
        break;
    case APIC_NMI:
        vcpu_request_nmi(l->vcpu);
        break;
    case APIC_INIT:
        vcpu_request(l->vcpu, VCPU_REQUEST_INIT);
        break;
    case APIC_SIPI:
        l->sipi_vector = m->vector;
        vcpu_request(l->vcpu, VCPU_REQUEST_SIPI);
        break;
    default: /* SMI: no system management mode; 3 is reserved */
        break;
    }
    pthread_mutex_unlock(&l->lock);
    return taken;
}

void lapic_eoi(struct lapic *l)
{
    pthread_mutex_lock(&l->lock);
    int vector = bit_highest(l->isr);
    bool broadcast = false;
    if (vector >= 0) {
        bit_put(l->isr, (uint8_t)vector, false);
        broadcast = bit_test(l->tmr, (uint8_t)vector) && !(l->svr & SVR_NO_BROADCAST);
        for (unsigned pin = 0; pin < 2; pin++) {
            uint32_t *lvt = &l->lvt[LVT_LINT0 + pin];
            if ((*lvt & LVT_REMOTE_IRR) && (uint8_t)*lvt == vector) {
                *lvt &= ~LVT_REMOTE_IRR;
                service_lint(l, pin);
            }
        }
        lapic_update_locked(l);
    }
    pthread_mutex_unlock(&l->lock);

    if (broadcast) {
        pthread_mutex_lock(&l->irq->lock);
        ioapic_eoi(&l->irq->ioapic, (uint8_t)vector);
        pthread_mutex_unlock(&l->irq->lock);
    }
}

/* ---- The processor's side */

/* INTA to the PIC pair. Without our lock, which comes after irq->lock. */
static int acknowledge_pic(struct irq *irq)
{
    pthread_mutex_lock(&irq->lock);
    int vector = pic_acknowledge(&irq->pic);
    pthread_mutex_unlock(&irq->lock);
    return vector;
}

static int acknowledge(void *context)
{
    struct lapic *l = context;
    pthread_mutex_lock(&l->lock);
    if (extint_ready(l)) {
        l->extint = false;
        lapic_update_locked(l);
        pthread_mutex_unlock(&l->lock);
        return acknowledge_pic(l->irq);
    }
    int vector = fixed_ready(l);
    if (vector >= 0) {
        bit_put(l->irr, (uint8_t)vector, false);
        bit_put(l->isr, (uint8_t)vector, true);
        lapic_timer_redeliver_locked(l, (uint8_t)vector);
    }
    lapic_update_locked(l);
    pthread_mutex_unlock(&l->lock);
    return vector;
}

static uint8_t cr8_read(void *context)
{
    struct lapic *l = context;
    pthread_mutex_lock(&l->lock);
    uint8_t value = (uint8_t)(l->tpr >> 4);
    pthread_mutex_unlock(&l->lock);
    return value;
}

static void cr8_write(void *context, uint8_t tpr)
{
    struct lapic *l = context;
    pthread_mutex_lock(&l->lock);
    l->tpr = (tpr & 15u) << 4;
    lapic_update_locked(l);
    pthread_mutex_unlock(&l->lock);
}

static uint8_t sipi_vector(void *context)
{
    struct lapic *l = context;
    pthread_mutex_lock(&l->lock);
    uint8_t vector = l->sipi_vector;
    pthread_mutex_unlock(&l->lock);
    return vector;
}

static void tsc_moved(void *context)
{
    struct lapic *l = context;
    pthread_mutex_lock(&l->lock);
    lapic_timer_rearm_locked(l);
    pthread_mutex_unlock(&l->lock);
}

/* ---- Life */

void lapic_reset_locked(struct lapic *l)
{
    l->tpr = l->ldr = l->esr = l->esr_pending = 0;
    l->dfr = UINT32_MAX;
    l->svr = 0xff;
    l->icr = 0;
    l->extint = 0;
    memset(l->isr, 0, sizeof(l->isr));
    memset(l->irr, 0, sizeof(l->irr));
    memset(l->tmr, 0, sizeof(l->tmr));
    for (unsigned i = 0; i < LVTS; i++)
        l->lvt[i] = LVT_MASKED;
    lapic_timer_reset_locked(l);
    lapic_update_locked(l);
}

/* At power-up the first processor's LINT0 is as firmware leaves it, in virtual wire mode (MP
 * specification 3.6.2.2): kernels started without firmware count on the PIC's interrupts. */
void lapic_reset(struct lapic *l, bool init)
{
    pthread_mutex_lock(&l->lock);
    if (!init) {
        lapic_set_base_locked(l, X86_APIC_PAGE | BASE_ENABLE | (l->vcpu->id == 0 ? BASE_BSP : 0));
        l->id = (uint8_t)l->vcpu->id;
    }
    lapic_reset_locked(l);
    if (!init && l->vcpu->id == 0)
        l->lvt[LVT_LINT0] = APIC_EXTINT << 8;
    lapic_update_locked(l);
    pthread_mutex_unlock(&l->lock);
}

static void init_signal(void *context)
{
    lapic_reset(context, true);
}

static bool apic_enabled(void *context)
{
    struct lapic *l = context;
    pthread_mutex_lock(&l->lock);
    bool enabled = l->base & BASE_ENABLE;
    pthread_mutex_unlock(&l->lock);
    return enabled;
}

int lapic_init(struct lapic *l, struct irq *irq, struct vcpu *v)
{
    l->irq = irq;
    l->vcpu = v;
    int err = pthread_mutex_init(&l->lock, NULL);
    if (err != 0)
        return -err;
    clock_timer_init(&l->timer, lapic_timer_fire, l, &l->lock);
    v->irq = &lapic_vcpu_ops;
    v->irq_context = l;
    return 0;
}

void lapic_fini(struct lapic *l)
{
    pthread_mutex_lock(&l->lock);
    clock_disarm(l->irq->clock, &l->timer);
    pthread_mutex_unlock(&l->lock);
    pthread_mutex_destroy(&l->lock);
    l->vcpu->irq = NULL;
    l->vcpu->irq_context = NULL;
}

const struct vcpu_irq_ops lapic_vcpu_ops = {
    .acknowledge = acknowledge,
    .cr8_read = cr8_read,
    .cr8_write = cr8_write,
    .sipi_vector = sipi_vector,
    .init = init_signal,
    .tsc_moved = tsc_moved,
    .apic_enabled = apic_enabled,
    .send_ipis = lapic_send_ipis,
};

/* ---- Saved state */

static int check_vectors(const struct lapic *l, struct error *e)
{
    if ((l->isr[0] | l->irr[0] | l->tmr[0]) & 0xffff)
        return error_set(e, EINVAL, "saved state: lapic: isr, irr or tmr has a vector below 16");
    for (unsigned i = 0; i < LVTS; i++) {
        if (l->lvt[i] & ~(lvt_writable(l, i) | LVT_REMOTE_IRR))
            return error_set(e, EINVAL, "saved state: lapic: lvt %u has reserved bits", i);
    }
    return 0;
}

static int state_check(const void *object, struct error *e)
{
    const struct lapic *l = object;
    uint64_t mode = l->base & (BASE_ENABLE | BASE_X2APIC);
    if (mode == BASE_X2APIC || (l->base & 0x2ff))
        return error_set(e, EINVAL, "saved state: lapic: base is not a legal APIC_BASE");
    if ((l->base & BASE_X2APIC) && !lapic_has_x2apic(l))
        return error_set(e, EINVAL, "saved state: lapic: x2APIC mode, which --cpu takes away");
    if ((l->base & BASE_X2APIC) && l->id != (uint8_t)l->vcpu->id)
        return error_set(e, EINVAL, "saved state: lapic: id is the xAPIC's alone to change");
    if (l->tsc_deadline != 0 && !lapic_has_deadline(l))
        return error_set(e, EINVAL, "saved state: lapic: tsc_deadline, which --cpu takes away");
    if (l->tpr > 0xff || (l->ldr & 0xffffff) || (l->dfr & 0xfffffff) != 0xfffffff ||
        (l->svr & ~(0xff | SVR_ENABLE | SVR_NO_BROADCAST)))
        return error_set(e, EINVAL, "saved state: lapic: tpr, ldr, dfr or svr has reserved bits");
    if (l->timer_divide & ~0xbu)
        return error_set(e, EINVAL, "saved state: lapic: timer_divide has reserved bits");
    bool deadline = (l->lvt[LVT_TIMER] & LVT_TIMER_MODE) == TIMER_DEADLINE;
    if (l->timer_running && (l->timer_initial == 0 || deadline))
        return error_set(e, EINVAL, "saved state: lapic: timer_running without a count");
    return check_vectors(l, e);
}

static void state_loaded(void *object)
{
    struct lapic *l = object;
    pthread_mutex_lock(&l->lock);
    lapic_set_base_locked(l, l->base);
    lapic_timer_rearm_locked(l);
    lapic_update_locked(l);
    pthread_mutex_unlock(&l->lock);
}

static const struct field state_fields[] = {
    FIELD(struct lapic, base),
    FIELD(struct lapic, id),
    FIELD(struct lapic, tpr),
    FIELD(struct lapic, ldr),
    FIELD(struct lapic, dfr),
    FIELD(struct lapic, svr),
    FIELD(struct lapic, esr),
    FIELD(struct lapic, esr_pending),
    FIELD_ARRAY(struct lapic, isr),
    FIELD_ARRAY(struct lapic, irr),
    FIELD_ARRAY(struct lapic, tmr),
    FIELD_ARRAY(struct lapic, lvt),
    FIELD(struct lapic, icr),
    FIELD_ARRAY(struct lapic, lint),
    FIELD(struct lapic, extint),
    FIELD(struct lapic, sipi_vector),
    FIELD(struct lapic, timer_initial),
    FIELD(struct lapic, timer_divide),
    FIELD(struct lapic, timer_running),
    FIELD(struct lapic, timer_start),
    FIELD(struct lapic, timer_next),
    FIELD(struct lapic, tsc_deadline),
    FIELD(struct lapic, backlog),
    FIELD(struct lapic, lost),
    FIELD_END,
};

const struct field_table lapic_state = {
    .name = "lapic",
    .version = 1,
    .size = sizeof(struct lapic),
    .fields = state_fields,
    .check = state_check,
    .loaded = state_loaded,
};
