/* SPDX-License-Identifier: MIT */
/*
 * Intel 8254 (data sheet 231164) and the PC's port 0x61 (IBM AT technical reference).
 *
 * Nothing counts: a channel keeps the tick at which its counting element was loaded, and value and
 * output are computed from the ticks gone since. A tick is a period of 1.193182 MHz; tick n begins
 * at the first nanosecond >= n / 1193182 s. A count written at tick t is loaded at t + 1, as the
 * data sheet has it.
 *
 * Line: only rising edges of channel 0's output matter to an ISA interrupt; the line is lowered
 * just before each. Edges the guest was too slow for make a backlog (decision 17).
 *
 * Threads: the device's lock (bus dispatch, clock). The guest controls every register.
 */
#include "dev/pit.h"

#include <errno.h>
#include <stdlib.h>

#define NS_PER_S      1000000000u
#define EDGE_NONE     UINT64_MAX
#define FIRE_MIN_NS   20000u  /* a guest must not keep the clock's thread busy */
#define RETRY_NS      100000u /* how often a backlog looks whether the last edge was taken */
#define REFRESH_NS    15085u  /* half period of the refresh toggle: 18 ticks */
#define PORT61_MASK   0x0fu
#define PORT61_GATE2  0x01u
#define PORT61_TOGGLE 0x10u
#define PORT61_OUT2   0x20u

enum { RW_LOW = 1, RW_HIGH = 2, RW_BOTH = 3 };

struct pit_channel {
    uint32_t count; /* 1 to 65536 */
    uint32_t next;  /* a count written while counting, for the next period or trigger; 0 = none */
    int64_t start;  /* tick at which the counting element was loaded */
    int64_t held;   /* ticks counted when the gate fell */
    uint16_t latch;
    uint8_t latched; /* bytes of latch still to be read */
    uint8_t status, status_latched;
    uint8_t mode, rw, bcd, gate;
    uint8_t counting;  /* a count was written since the control word */
    uint8_t triggered; /* modes 1 and 5 */
    uint8_t paused;    /* by the gate */
    uint8_t read_high, write_high, write_low;
};

struct pit {
    struct bus *bus;
    struct vm_clock *clock;
    struct irq_line line;
    pthread_mutex_t lock;
    struct clock_timer timer;

    struct pit_channel channel[3];
    uint8_t port61;
    uint64_t edge; /* tick of the next rising edge of channel 0, or EDGE_NONE */
    uint64_t backlog, lost;
};

static int64_t tick_of(uint64_t ns)
{
    return (int64_t)((unsigned __int128)ns * PIT_HZ / NS_PER_S);
}

static uint64_t ns_of(uint64_t tick)
{
    unsigned __int128 ns = ((unsigned __int128)tick * NS_PER_S + PIT_HZ - 1) / PIT_HZ;
    return ns < CLOCK_NEVER ? (uint64_t)ns : CLOCK_NEVER;
}

static int64_t now_tick(const struct pit *p)
{
    return tick_of(clock_now(p->clock));
}

/* ---- One channel */

static int64_t elapsed(const struct pit_channel *c, int64_t tick)
{
    if (c->paused)
        return c->held;
    return tick > c->start ? tick - c->start : 0;
}

static bool periodic(const struct pit_channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

/* Takes over a new count whose period has begun. */
static void advance(struct pit_channel *c, int64_t tick)
{
    if (periodic(c) && c->next != 0 && !c->paused && tick >= c->start + c->count) {
        c->start += c->count;
        c->count = c->next;
        c->next = 0;
    }
}

static bool output(const struct pit_channel *c, int64_t tick)
{
    if (!c->counting)
        return c->mode != 0;
    int64_t d = elapsed(c, tick);
    switch (c->mode) {
    case 0:
        return d >= c->count;
    case 1:
        return !c->triggered || tick < c->start || d >= c->count;
    case 2:
        return !c->gate || tick < c->start || d % c->count != c->count - 1;
    case 3:
        return !c->gate || d % c->count < (c->count + 1) / 2;
    case 4:
        return d != c->count;
    default:
        return !c->triggered || d != c->count;
    }
}

static uint16_t to_bcd(uint32_t v)
{
    return (uint16_t)(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

/* What the counting element holds. */
static uint16_t value(const struct pit_channel *c, int64_t tick)
{
    int64_t d = c->counting ? elapsed(c, tick) : 0;
    uint32_t range = c->bcd ? 10000 : 65536;
    uint32_t v;
    if (c->mode == 2) {
        v = c->count - (uint32_t)(d % c->count);
    } else if (c->mode == 3) { /* down by two, twice in a period */
        uint32_t h = (uint32_t)(d % c->count), half = (c->count + 1) / 2;
        v = (c->count & ~1u) - 2 * (h < half ? h : h - half);
    } else if ((c->mode == 1 || c->mode == 5) && !c->triggered) {
        v = c->count;
    } else { /* goes on below zero */
        v = (c->count % range + range - (uint32_t)(d % range)) % range;
    }
    return c->bcd ? to_bcd(v) : (uint16_t)v;
}

static void begin(struct pit_channel *c, uint32_t count, int64_t tick)
{
    c->count = count;
    c->next = 0;
    c->start = tick + 1;
    c->held = 0;
    c->counting = 1;
}

static void write_count(struct pit_channel *c, uint32_t v, int64_t tick)
{
    if (c->bcd)
        v = (v >> 12) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15);
    if (v == 0)
        v = c->bcd ? 10000 : 65536;
    if (c->mode == 0 || c->mode == 4 || !c->counting) {
        begin(c, v, tick);
        c->paused = !c->gate && c->mode != 1 && c->mode != 5;
        return;
    }
    if (periodic(c) && !c->paused && tick >= c->start) /* to the start of the present period */
        c->start = tick - (tick - c->start) % c->count;
    c->next = v;
}

static void set_gate(struct pit_channel *c, bool gate, int64_t tick)
{
    if (c->gate == gate)
        return;
    advance(c, tick);
    c->gate = gate;
    if (!c->counting)
        return;
    if (c->mode == 1 || c->mode == 5) {
        if (gate) {
            begin(c, c->next != 0 ? c->next : c->count, tick);
            c->triggered = 1;
        }
    } else if (!gate) {
        c->held = elapsed(c, tick);
        c->paused = 1;
    } else {
        c->paused = 0;
        if (periodic(c))
            begin(c, c->next != 0 ? c->next : c->count, tick);
        else
            c->start = tick - c->held;
    }
}

static void write_control(struct pit_channel *c, uint8_t v)
{
    c->rw = v >> 4 & 3;
    c->mode = v >> 1 & 7;
    if (c->mode > 5)
        c->mode -= 4; /* the data sheet's "don't care" bit */
    c->bcd = v & 1;
    c->counting = c->triggered = c->paused = 0;
    c->count = 65536;
    c->next = 0;
    c->latched = c->status_latched = c->read_high = c->write_high = 0;
}

static void latch_count(struct pit_channel *c, int64_t tick)
{
    if (c->latched)
        return;
    uint16_t v = value(c, tick);
    c->latched = c->rw == RW_BOTH ? 2 : 1;
    c->latch = c->rw == RW_HIGH ? v >> 8 : v;
}

static void latch_status(struct pit_channel *c, int64_t tick)
{
    if (c->status_latched)
        return;
    bool null = !c->counting || c->next != 0 || tick < c->start;
    c->status = (uint8_t)(output(c, tick) << 7 | null << 6 | c->rw << 4 | c->mode << 1 | c->bcd);
    c->status_latched = 1;
}

static uint8_t read_count(struct pit_channel *c, int64_t tick)
{
    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    if (c->latched) {
        uint8_t byte = (uint8_t)c->latch;
        c->latch >>= 8;
        c->latched--;
        return byte;
    }
    uint16_t v = value(c, tick);
    if (c->rw != RW_BOTH)
        return c->rw == RW_HIGH ? v >> 8 : (uint8_t)v;
    c->read_high = !c->read_high;
    return c->read_high ? (uint8_t)v : v >> 8;
}

/* ---- Channel 0 and its line */

static uint64_t next_edge(const struct pit_channel *c, int64_t tick)
{
    int64_t edge;
    if (!c->counting || c->paused)
        return EDGE_NONE;
    switch (c->mode) {
    case 0:
        edge = c->start + c->count;
        break;
    case 4:
        edge = c->start + c->count + 1;
        break;
    case 2:
    case 3: {
        int64_t periods = tick >= c->start ? (tick - c->start) / c->count + 1 : 1;
        return (uint64_t)(c->start + periods * c->count);
    }
    default: /* the gate of channel 0 never rises */
        return EDGE_NONE;
    }
    return edge > tick ? (uint64_t)edge : EDGE_NONE;
}

static void arm(struct pit *p)
{
    uint64_t now = clock_now(p->clock);
    uint64_t at = p->edge == EDGE_NONE ? CLOCK_NEVER : ns_of(p->edge);
    if (p->backlog != 0 && at > now + RETRY_NS)
        at = now + RETRY_NS;
    clock_arm(p->clock, &p->timer, at);
}

static void pulse(struct pit *p)
{
    irq_line_set(&p->line, false);
    irq_line_set(&p->line, true);
}

static void fire(void *pit)
{
    struct pit *p = pit;
    struct pit_channel *c = &p->channel[0];
    uint64_t now = clock_now(p->clock);
    int64_t tick = tick_of(now);
    if (p->edge != EDGE_NONE && (uint64_t)tick >= p->edge) {
        p->backlog += periodic(c) ? ((uint64_t)tick - p->edge) / c->count + 1 : 1;
        advance(c, tick);
        p->edge = next_edge(c, tick);
    }
    if (p->backlog != 0 && !irq_line_pending(&p->line)) {
        pulse(p);
        p->backlog--;
    }
    uint64_t most = PIT_HZ / c->count;
    if (p->backlog > most) {
        p->lost += p->backlog - most;
        p->backlog = most;
    }
    arm(p);
    if (p->timer.deadline < now + FIRE_MIN_NS)
        clock_arm(p->clock, &p->timer, now + FIRE_MIN_NS);
}

/* After channel 0 was written. */
static void reschedule(struct pit *p, int64_t tick)
{
    const struct pit_channel *c = &p->channel[0];
    p->backlog = 0;
    p->edge = next_edge(c, tick);
    if (!c->counting)
        irq_line_set(&p->line, output(c, tick));
    else if (c->mode == 0)
        irq_line_set(&p->line, false);
    arm(p);
}

/* ---- Ports */

static void write_command(struct pit *p, uint8_t v, int64_t tick)
{
    if (v >> 6 == 3) { /* read-back */
        for (unsigned i = 0; i < 3; i++) {
            if (!(v & (2u << i)))
                continue;
            if (!(v & 0x20))
                latch_count(&p->channel[i], tick);
            if (!(v & 0x10))
                latch_status(&p->channel[i], tick);
        }
        return;
    }
    struct pit_channel *c = &p->channel[v >> 6];
    if ((v & 0x30) == 0) {
        latch_count(c, tick);
        return;
    }
    write_control(c, v);
    if (c == &p->channel[0])
        reschedule(p, tick);
}

static void write_channel(struct pit *p, struct pit_channel *c, uint8_t v, int64_t tick)
{
    if (c->rw == RW_BOTH && !c->write_high) {
        c->write_low = v;
        c->write_high = 1;
        if (c->mode != 0)
            return;
        c->counting = 0; /* the first byte stops mode 0 */
    } else {
        c->write_high = 0;
        write_count(c,
                    c->rw == RW_BOTH   ? (uint32_t)v << 8 | c->write_low
                    : c->rw == RW_HIGH ? (uint32_t)v << 8
                                       : v,
                    tick);
    }
    if (c == &p->channel[0])
        reschedule(p, tick);
}

static void advance_all(struct pit *p, int64_t tick)
{
    for (unsigned i = 0; i < 3; i++)
        advance(&p->channel[i], tick);
}

static uint64_t port_read(void *pit, uint64_t offset, unsigned size)
{
    struct pit *p = pit;
    int64_t tick = now_tick(p);
    if (offset == 3)
        return 0xff; /* the command register is write-only */
    advance_all(p, tick);
    return read_count(&p->channel[offset], tick);
}

static void port_write(void *pit, uint64_t offset, uint64_t v, unsigned size)
{
    struct pit *p = pit;
    int64_t tick = now_tick(p);
    advance_all(p, tick);
    if (offset == 3)
        write_command(p, (uint8_t)v, tick);
    else
        write_channel(p, &p->channel[offset], (uint8_t)v, tick);
}

static uint64_t port61_read(void *pit, uint64_t offset, unsigned size)
{
    struct pit *p = pit;
    uint64_t now = clock_now(p->clock);
    advance_all(p, tick_of(now));
    return p->port61 | (now / REFRESH_NS & 1 ? PORT61_TOGGLE : 0) |
           (output(&p->channel[2], tick_of(now)) ? PORT61_OUT2 : 0);
}

static void port61_write(void *pit, uint64_t offset, uint64_t v, unsigned size)
{
    struct pit *p = pit;
    p->port61 = (uint8_t)v & PORT61_MASK;
    set_gate(&p->channel[2], v & PORT61_GATE2, now_tick(p));
}

static const struct bus_ops port_ops = {.read = port_read, .write = port_write, .max_size = 1};
static const struct bus_ops port61_ops = {
    .read = port61_read, .write = port61_write, .max_size = 1};

/* ---- Life and saved state */

int pit_create(struct pit **out, struct bus *bus, struct vm_clock *clock, struct irq_line line,
               struct error *e)
{
    struct pit *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return error_set(e, ENOMEM, "no memory for the PIT");
    p->bus = bus;
    p->clock = clock;
    p->line = line;
    pthread_mutex_init(&p->lock, NULL);
    clock_timer_init(&p->timer, fire, p, &p->lock);
    int err = bus_add(bus, BUS_PIO, "pit", 0x40, 4, &port_ops, p, &p->lock, e);
    if (err == 0)
        err = bus_add(bus, BUS_PIO, "pit port 61", 0x61, 1, &port61_ops, p, &p->lock, e);
    pit_reset(p);
    if (err != 0) {
        pit_destroy(p);
        return err;
    }
    *out = p;
    return 0;
}

void pit_destroy(struct pit *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    clock_disarm(p->clock, &p->timer);
    pthread_mutex_unlock(&p->lock);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void pit_reset(struct pit *p)
{
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < 3; i++) {
        p->channel[i] = (struct pit_channel){.gate = i != 2};
        write_control(&p->channel[i], RW_BOTH << 4 | 3 << 1);
    }
    p->port61 = 0;
    p->lost = 0;
    reschedule(p, now_tick(p));
    pthread_mutex_unlock(&p->lock);
}

static int state_check(const void *object, struct error *e)
{
    const struct pit *p = object;
    for (unsigned i = 0; i < 3; i++) {
        const struct pit_channel *c = &p->channel[i];
        if (c->count == 0 || c->count > 65536 || c->next > 65536)
            return error_set(e, EINVAL, "saved state: pit: count of channel %u is out of range", i);
        if (c->mode > 5 || c->rw > 3 || c->rw == 0 || c->bcd > 1 || c->gate > 1)
            return error_set(e, EINVAL, "saved state: pit: mode, rw, bcd or gate of channel %u", i);
        if (c->start < 0 || c->start >> 60 != 0 || c->held < 0 || c->held >> 60 != 0)
            return error_set(e, EINVAL, "saved state: pit: start of channel %u is out of range", i);
        if (c->latched > 2)
            return error_set(e, EINVAL, "saved state: pit: latched of channel %u", i);
    }
    if (p->port61 & ~PORT61_MASK)
        return error_set(e, EINVAL, "saved state: pit: port61 has read-only bits");
    return 0;
}

static void state_loaded(void *object)
{
    struct pit *p = object;
    pthread_mutex_lock(&p->lock);
    arm(p);
    pthread_mutex_unlock(&p->lock);
}

/* clang-format off */
#define CHANNEL_FIELDS(n)                                                                         \
    FIELD(struct pit, channel[n].count), FIELD(struct pit, channel[n].next),                      \
    FIELD(struct pit, channel[n].start), FIELD(struct pit, channel[n].held),                      \
    FIELD(struct pit, channel[n].latch), FIELD(struct pit, channel[n].latched),                   \
    FIELD(struct pit, channel[n].status), FIELD(struct pit, channel[n].status_latched),           \
    FIELD(struct pit, channel[n].mode), FIELD(struct pit, channel[n].rw),                         \
    FIELD(struct pit, channel[n].bcd), FIELD(struct pit, channel[n].gate),                        \
    FIELD(struct pit, channel[n].counting), FIELD(struct pit, channel[n].triggered),              \
    FIELD(struct pit, channel[n].paused), FIELD(struct pit, channel[n].read_high),                \
    FIELD(struct pit, channel[n].write_high), FIELD(struct pit, channel[n].write_low)
/* clang-format on */

static const struct field state_fields[] = {
    CHANNEL_FIELDS(0),       CHANNEL_FIELDS(1),
    CHANNEL_FIELDS(2),       FIELD(struct pit, port61),
    FIELD(struct pit, edge), FIELD(struct pit, backlog),
    FIELD(struct pit, lost), FIELD_END,
};

const struct field_table pit_state = {
    .name = "pit",
    .version = 1,
    .size = sizeof(struct pit),
    .fields = state_fields,
    .check = state_check,
    .loaded = state_loaded,
};
