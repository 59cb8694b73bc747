/* SPDX-License-Identifier: MIT */
/*
 * HPET; see hpet.h. The counter is computed: offset + now / 10 ns while enabled. A comparator
 * matches when the counter reaches it; one that is written behind the counter waits for the wrap,
 * as hardware does. Edges of a periodic timer that the guest was too slow for make a backlog
 * (decision 17).
 *
 * Threads: the device's lock (bus dispatch, clock); the legacy gate is an atomic, since it is read
 * under the PIT's and the RTC's locks. The guest controls every register.
 */
#include "dev/hpet.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#define TIMERS      3u
#define TICK_NS     10u
#define PERIOD_FS   10000000ull
#define FIRE_MIN_NS 20000u  /* a guest must not keep the clock's thread busy */
#define RETRY_NS    100000u /* how often a backlog looks whether the last edge was taken */
#define BACKLOG_NS  1000000000u

#define REG_CAPABILITIES 0x000u
#define REG_CONFIG       0x010u
#define REG_STATUS       0x020u
#define REG_COUNTER      0x0f0u
#define REG_TIMER        0x100u /* + 0x20 n: configuration, comparator, FSB route */

#define CONFIG_ENABLE   1u
#define CONFIG_LEGACY   2u
#define CONFIG_WRITABLE (CONFIG_ENABLE | CONFIG_LEGACY)

#define TN_LEVEL    (1u << 1)
#define TN_ENABLE   (1u << 2)
#define TN_PERIODIC (1u << 3)
#define TN_SETVAL   (1u << 6)
#define TN_32BIT    (1u << 8)
#define TN_ROUTE(c) ((unsigned)((c) >> 9 & 31))
#define TN_FSB      (1u << 14)
#define TN_WRITABLE 0x7f4eu
#define TN_CAPS     (1u << 4 | 1u << 5 | 1u << 15) /* periodic, 64 bits, FSB */
#define ROUTE_CAPS  0x00f00000u                    /* GSI 20 to 23 */

struct hpet_timer {
    struct hpet *hpet;
    struct clock_timer timer;
    uint64_t config, comparator, period, fsb;
    uint64_t backlog, lost;
};

struct hpet {
    struct vm_clock *clock;
    struct irq *irq;
    pthread_mutex_t lock;
    _Atomic bool cut; /* the PIT's and RTC's lines, while CONFIG_LEGACY */

    uint64_t config, status;
    uint64_t counter; /* while disabled; else what is added to now / TICK_NS */
    uint64_t raised;  /* timers whose level line is up */
    struct hpet_timer timer[TIMERS];
};

static bool running(const struct hpet *h)
{
    return h->config & CONFIG_ENABLE;
}

static uint64_t counter(const struct hpet *h)
{
    return running(h) ? h->counter + clock_now(h->clock) / TICK_NS : h->counter;
}

static uint64_t width(const struct hpet_timer *t)
{
    return t->config & TN_32BIT ? UINT32_MAX : UINT64_MAX;
}

static bool periodic(const struct hpet_timer *t)
{
    return (t->config & TN_PERIODIC) && t->period != 0;
}

/* ---- Lines */

static struct irq_line line_of(const struct hpet *h, unsigned n)
{
    if ((h->config & CONFIG_LEGACY) && n < 2)
        return irq_line_of(h->irq, n == 0 ? 0 : 8);
    unsigned route = TN_ROUTE(h->timer[n].config);
    if (ROUTE_CAPS & (1u << route))
        return irq_line_of(h->irq, route);
    return (struct irq_line){0};
}

static void lower(struct hpet *h, unsigned n)
{
    struct irq_line line = line_of(h, n);
    if (h->raised & (1u << n))
        irq_line_set(&line, false);
    h->raised &= ~(1ull << n);
}

static void update_level(struct hpet *h, unsigned n)
{
    uint64_t want = TN_LEVEL | TN_ENABLE;
    bool level = (h->timer[n].config & (want | TN_FSB)) == want && (h->status & (1u << n));
    if (!level) {
        lower(h, n);
    } else if (!(h->raised & (1u << n))) {
        struct irq_line line = line_of(h, n);
        h->raised |= 1u << n;
        irq_line_set(&line, true);
    }
}

/* One expiry; false when it must wait for the last edge to be taken. */
static bool interrupt(struct hpet *h, unsigned n)
{
    struct hpet_timer *t = &h->timer[n];
    if (t->config & TN_LEVEL) {
        h->status |= 1u << n;
        update_level(h, n);
    }
    if (!(t->config & TN_ENABLE))
        return true;
    if (t->config & TN_FSB) {
        irq_msi(h->irq, t->fsb >> 32, (uint32_t)t->fsb);
    } else if (!(t->config & TN_LEVEL)) {
        struct irq_line line = line_of(h, n);
        if (periodic(t) && irq_line_pending(&line))
            return false;
        irq_line_set(&line, true);
        irq_line_set(&line, false);
    }
    return true;
}

/* ---- Time */

static void arm(struct hpet_timer *t, uint64_t soonest)
{
    struct hpet *h = t->hpet;
    uint64_t now = clock_now(h->clock);
    uint64_t left = (t->comparator - counter(h)) & width(t); /* ticks */
    uint64_t at = CLOCK_NEVER;
    if (running(h) && left < UINT64_MAX / TICK_NS / 4)
        at = (now / TICK_NS + left) * TICK_NS;
    if (t->backlog != 0 && at > now + RETRY_NS)
        at = now + RETRY_NS;
    clock_arm(h->clock, &t->timer, at > soonest ? at : soonest);
}

static void arm_all(struct hpet *h)
{
    for (unsigned n = 0; n < TIMERS; n++)
        arm(&h->timer[n], 0);
}

/* Ticks by which the counter has passed the comparator; the clock may be late by less than half
 * of the counter's range. */
static bool reached(const struct hpet_timer *t, uint64_t *past)
{
    *past = (counter(t->hpet) - t->comparator) & width(t);
    return *past <= width(t) / 2;
}

static void fire(void *timer)
{
    struct hpet_timer *t = timer;
    struct hpet *h = t->hpet;
    uint64_t past, due = 0, most = 1;
    if (reached(t, &past)) {
        due = periodic(t) ? past / t->period + 1 : 1;
        if (periodic(t))
            t->comparator = (t->comparator + due * t->period) & width(t);
    }
    if (periodic(t))
        most = BACKLOG_NS / TICK_NS / t->period + 1;
    t->backlog += due;
    if (t->backlog != 0 && interrupt(h, (unsigned)(t - h->timer)))
        t->backlog--;
    if (!periodic(t) || (t->config & TN_LEVEL))
        t->backlog = 0;
    if (t->backlog > most) {
        t->lost += t->backlog - most;
        t->backlog = most;
    }
    uint64_t now = clock_now(h->clock);
    if (periodic(t)) {
        arm(t, now + FIRE_MIN_NS);
    } else if (t->config & TN_32BIT) { /* again when the counter has gone round */
        uint64_t round = (now / TICK_NS - past + (1ull << 32)) * TICK_NS;
        clock_arm(h->clock, &t->timer, round);
    }
}

/* ---- Registers */

static uint64_t read_timer(const struct hpet_timer *t, unsigned reg)
{
    switch (reg) {
    case 0x00:
        return t->config | TN_CAPS | (uint64_t)ROUTE_CAPS << 32;
    case 0x08:
        return t->comparator;
    case 0x10:
        return t->fsb;
    default:
        return 0;
    }
}

static uint64_t read_register(const struct hpet *h, unsigned reg)
{
    switch (reg) {
    case REG_CAPABILITIES:
        return PERIOD_FS << 32 | HPET_ID;
    case REG_CONFIG:
        return h->config;
    case REG_STATUS:
        return h->status;
    case REG_COUNTER:
        return counter(h);
    }
    unsigned n = (reg - REG_TIMER) / 0x20;
    return reg >= REG_TIMER && n < TIMERS ? read_timer(&h->timer[n], reg % 0x20) : 0;
}

static void write_config(struct hpet *h, uint64_t value)
{
    for (unsigned n = 0; n < TIMERS; n++)
        lower(h, n);
    uint64_t count = counter(h);
    h->config = value & CONFIG_WRITABLE;
    h->counter = running(h) ? count - clock_now(h->clock) / TICK_NS : count;
    bool cut = h->config & CONFIG_LEGACY;
    if (cut != atomic_exchange(&h->cut, cut)) { /* from here on a new owner drives both lines */
        for (unsigned gsi = 0; gsi <= 8; gsi += 8) {
            struct irq_line line = irq_line_of(h->irq, gsi);
            irq_line_set(&line, false);
        }
    }
    for (unsigned n = 0; n < TIMERS; n++)
        update_level(h, n);
    arm_all(h);
}

static void write_timer_config(struct hpet *h, unsigned n, uint64_t value)
{
    struct hpet_timer *t = &h->timer[n];
    lower(h, n);
    t->config = value & TN_WRITABLE;
    if (t->config & TN_32BIT) {
        t->comparator = (uint32_t)t->comparator;
        t->period = (uint32_t)t->period;
    }
    if (!(t->config & TN_LEVEL))
        h->status &= ~(1ull << n);
    t->backlog = 0;
    update_level(h, n);
    arm(t, 0);
}

/* `mask` = the bits that were written. The comparator of a periodic timer is its period, and with
 * SETVAL, which holds for one write, the next match as well (2.3.9.2.2). */
static void write_comparator(struct hpet_timer *t, uint64_t value, uint64_t mask)
{
    if (!(t->config & TN_PERIODIC) || (t->config & TN_SETVAL))
        t->comparator = ((t->comparator & ~mask) | (value & mask)) & width(t);
    if (t->config & TN_PERIODIC)
        t->period = ((t->period & ~mask) | (value & mask)) & width(t);
    t->config &= ~(uint64_t)TN_SETVAL;
    t->backlog = 0;
    arm(t, 0);
}

static void write_timer(struct hpet *h, unsigned n, unsigned reg, uint64_t value, uint64_t mask)
{
    struct hpet_timer *t = &h->timer[n];
    if (reg == 0x00)
        write_timer_config(h, n, (t->config & ~mask) | (value & mask));
    else if (reg == 0x08)
        write_comparator(t, value, mask);
    else if (reg == 0x10)
        t->fsb = (t->fsb & ~mask) | (value & mask);
}

static void write_register(struct hpet *h, unsigned reg, uint64_t value, uint64_t mask)
{
    unsigned n = (reg - REG_TIMER) / 0x20;
    switch (reg) {
    case REG_CONFIG:
        if (mask & CONFIG_WRITABLE)
            write_config(h, value & mask);
        return;
    case REG_STATUS:
        h->status &= ~(value & mask);
        for (unsigned i = 0; i < TIMERS; i++)
            update_level(h, i);
        return;
    case REG_COUNTER:
        value = (counter(h) & ~mask) | (value & mask);
        h->counter = running(h) ? value - clock_now(h->clock) / TICK_NS : value;
        arm_all(h);
        return;
    }
    if (reg >= REG_TIMER && n < TIMERS)
        write_timer(h, n, reg % 0x20, value, mask);
}

static uint64_t page_read(void *hpet, uint64_t offset, unsigned size)
{
    return read_register(hpet, (unsigned)offset & ~7u) >> (offset & 7) * 8;
}

/* Only aligned 32- and 64-bit writes are defined (2.3.1); others are dropped. */
static void page_write(void *hpet, uint64_t offset, uint64_t value, unsigned size)
{
    if (size < 4 || offset % size != 0)
        return;
    unsigned shift = (unsigned)(offset & 7) * 8;
    uint64_t mask = size == 8 ? UINT64_MAX : (uint64_t)UINT32_MAX << shift;
    write_register(hpet, (unsigned)offset & ~7u, value << shift, mask);
}

static const struct bus_ops page_ops = {.read = page_read, .write = page_write};

/* ---- Legacy gate: `sink` of the lines given to the PIT and the RTC */

static void gate_set(void *hpet, unsigned gsi, bool level)
{
    struct hpet *h = hpet;
    struct irq_line line = irq_line_of(h->irq, gsi);
    if (!atomic_load(&h->cut))
        irq_line_set(&line, level);
}

static bool gate_pending(void *hpet, unsigned gsi)
{
    struct hpet *h = hpet;
    struct irq_line line = irq_line_of(h->irq, gsi);
    return !atomic_load(&h->cut) && irq_line_pending(&line);
}

struct irq_line hpet_legacy_line(struct hpet *h, unsigned gsi)
{
    return (struct irq_line){.set = gate_set, .sink = h, .gsi = gsi, .pending = gate_pending};
}

/* ---- Life and saved state */

int hpet_create(struct hpet **out, struct bus *bus, struct vm_clock *clock, struct irq *irq,
                struct error *e)
{
    struct hpet *h = calloc(1, sizeof(*h));
    if (h == NULL)
        return error_set(e, ENOMEM, "no memory for the HPET");
    h->clock = clock;
    h->irq = irq;
    pthread_mutex_init(&h->lock, NULL);
    for (unsigned n = 0; n < TIMERS; n++) {
        h->timer[n].hpet = h;
        clock_timer_init(&h->timer[n].timer, fire, &h->timer[n], &h->lock);
    }
    hpet_reset(h);
    int err = bus_add(bus, BUS_MMIO, "hpet", HPET_BASE, 0x400, &page_ops, h, &h->lock, e);
    if (err != 0) {
        hpet_destroy(h);
        return err;
    }
    *out = h;
    return 0;
}

void hpet_destroy(struct hpet *h)
{
    if (h == NULL)
        return;
    pthread_mutex_lock(&h->lock);
    for (unsigned n = 0; n < TIMERS; n++)
        clock_disarm(h->clock, &h->timer[n].timer);
    pthread_mutex_unlock(&h->lock);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

void hpet_reset(struct hpet *h)
{
    pthread_mutex_lock(&h->lock);
    write_config(h, 0);
    h->counter = h->status = 0;
    for (unsigned n = 0; n < TIMERS; n++) {
        struct hpet_timer *t = &h->timer[n];
        lower(h, n);
        t->config = t->period = t->fsb = t->backlog = t->lost = 0;
        t->comparator = UINT64_MAX;
        arm(t, 0);
    }
    pthread_mutex_unlock(&h->lock);
}

static int state_check(const void *object, struct error *e)
{
    const struct hpet *h = object;
    if (h->config & ~(uint64_t)CONFIG_WRITABLE)
        return error_set(e, EINVAL, "saved state: hpet: config has reserved bits");
    if ((h->status | h->raised) >> TIMERS)
        return error_set(e, EINVAL, "saved state: hpet: status or raised names no timer");
    for (unsigned n = 0; n < TIMERS; n++) {
        const struct hpet_timer *t = &h->timer[n];
        if (t->config & ~(uint64_t)TN_WRITABLE)
            return error_set(e, EINVAL, "saved state: hpet: config of timer %u", n);
        if ((t->comparator | t->period) & ~width(t))
            return error_set(e, EINVAL, "saved state: hpet: comparator of timer %u is too wide", n);
    }
    return 0;
}

static void state_loaded(void *object)
{
    struct hpet *h = object;
    pthread_mutex_lock(&h->lock);
    atomic_store(&h->cut, h->config & CONFIG_LEGACY);
    arm_all(h);
    pthread_mutex_unlock(&h->lock);
}

/* clang-format off */
#define TIMER_FIELDS(n)                                                                           \
    FIELD(struct hpet, timer[n].config), FIELD(struct hpet, timer[n].comparator),                 \
    FIELD(struct hpet, timer[n].period), FIELD(struct hpet, timer[n].fsb),                        \
    FIELD(struct hpet, timer[n].backlog), FIELD(struct hpet, timer[n].lost)
/* clang-format on */

static const struct field state_fields[] = {
    FIELD(struct hpet, config),
    FIELD(struct hpet, status),
    FIELD(struct hpet, counter),
    FIELD(struct hpet, raised),
    TIMER_FIELDS(0),
    TIMER_FIELDS(1),
    TIMER_FIELDS(2),
    FIELD_END,
};

const struct field_table hpet_state = {
    .name = "hpet",
    .version = 1,
    .size = sizeof(struct hpet),
    .fields = state_fields,
    .check = state_check,
    .loaded = state_loaded,
};
