/* SPDX-License-Identifier: MIT */
/*
 * Real-time clock and CMOS memory (Motorola MC146818A data sheet; the PC's use of the memory bytes:
 * Intel PCH data sheet and the firmware's convention). Thread rule: the device's lock guards all
 * state; the bus takes it for register access, the clock for the timer. The guest controls index
 * and data.
 *
 * Time is not counted but computed: seconds since 1970 = clock_epoch + clock_now + an offset. While
 * SET is on, or the divider is held in reset, the time registers are plain memory; when both are
 * off the offset is computed from them. The flags of register C are brought up to date whenever
 * they can be seen; the clock's timer runs only for an interrupt that is enabled.
 */
#include "dev/rtc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/calendar.h"

#define NS_PER_S      1000000000
#define UPDATE_NS     244000 /* UIP is set this long before the update ("Update cycle") */
#define CRYSTAL_HZ    32768
#define SECONDS_A_DAY 86400
#define SECONDS_MAX   ((int64_t)1 << 40) /* beyond any date that the registers can hold */
#define CMOS_SIZE     128

enum {
    SECOND = 0x00,
    SECOND_ALARM = 0x01,
    MINUTE = 0x02,
    MINUTE_ALARM = 0x03,
    HOUR = 0x04,
    HOUR_ALARM = 0x05,
    WEEKDAY = 0x06,
    DAY = 0x07,
    MONTH = 0x08,
    YEAR = 0x09,
    REGISTER_A = 0x0a,
    REGISTER_B = 0x0b,
    REGISTER_C = 0x0c,
    REGISTER_D = 0x0d,
    SHUTDOWN = 0x0f,
    EQUIPMENT = 0x14,
    BASE_KIB = 0x15,
    EXTENDED_KIB = 0x17,
    SUM_FIRST = 0x10,
    SUM_LAST = 0x2d,
    SUM = 0x2e,
    EXTENDED_KIB_2 = 0x30,
    EXTENDED_64KIB = 0x34,
    HIGH_64KIB = 0x5b,
};

#define A_UIP           0x80
#define A_DIVIDER       0x70
#define A_DIVIDER_RESET 0x60 /* 11x */
#define A_RATE          0x0f
#define B_SET           0x80
#define B_PIE           0x40
#define B_AIE           0x20
#define B_UIE           0x10
#define B_BINARY        0x04
#define B_24_HOURS      0x02
#define C_IRQF          0x80
#define C_PF            0x40
#define C_AF            0x20
#define C_UF            0x10
#define C_FLAGS         (C_PF | C_AF | C_UF)
#define D_VRT           0x80
#define HOUR_PM         0x80
#define ALARM_ANY       0xc0 /* both bits: matches every value */
#define EQUIPMENT_FPU   0x02

struct rtc {
    pthread_mutex_t lock;
    struct vm_clock *clock;
    struct irq_line line;
    struct clock_timer timer;

    uint8_t index;           /* bit 7: NMI masked */
    uint8_t cmos[CMOS_SIZE]; /* registers A, B, C too; UIP is computed */
    int64_t offset_seconds;  /* see above */
    uint32_t offset_ns;      /* the phase, below one second */
    int64_t seen_second;     /* up to which UF and AF are brought up to date */
    uint64_t seen_period;    /* likewise PF */
};

static bool held(const struct rtc *r)
{
    return (r->cmos[REGISTER_B] & B_SET) ||
           (r->cmos[REGISTER_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static uint64_t phased_now(const struct rtc *r)
{
    return clock_now(r->clock) + r->offset_ns;
}

static int64_t second_now(const struct rtc *r)
{
    return (int64_t)(clock_epoch(r->clock) + phased_now(r) / NS_PER_S) + r->offset_seconds;
}

static int64_t fraction_now(const struct rtc *r)
{
    return (int64_t)(phased_now(r) % NS_PER_S);
}

/* It is now `fraction` ns after that second. */
static void set_second(struct rtc *r, int64_t second, int64_t fraction)
{
    int64_t phase = fraction - (int64_t)(clock_now(r->clock) % NS_PER_S);
    r->offset_ns = (uint32_t)(phase < 0 ? phase + NS_PER_S : phase);
    r->offset_seconds = 0;
    r->offset_seconds = second - second_now(r);
}

static uint8_t encode(const struct rtc *r, unsigned value)
{
    return (uint8_t)(r->cmos[REGISTER_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static unsigned decode(const struct rtc *r, uint8_t value)
{
    return r->cmos[REGISTER_B] & B_BINARY ? value : (value >> 4) * 10u + (value & 15);
}

static uint8_t encode_hour(const struct rtc *r, unsigned hour)
{
    if (r->cmos[REGISTER_B] & B_24_HOURS)
        return encode(r, hour);
    return encode(r, hour % 12 == 0 ? 12 : hour % 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct rtc *r, uint8_t value)
{
    if (r->cmos[REGISTER_B] & B_24_HOURS)
        return decode(r, value);
    return decode(r, value & ~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

/* The time registers as of now, unless they are held. */
static void latch(struct rtc *r)
{
    if (held(r))
        return;
    struct calendar c;
    calendar_from_seconds(second_now(r), &c);
    r->cmos[SECOND] = encode(r, c.second);
    r->cmos[MINUTE] = encode(r, c.minute);
    r->cmos[HOUR] = encode_hour(r, c.hour);
    r->cmos[WEEKDAY] = encode(r, c.weekday);
    r->cmos[DAY] = encode(r, c.day);
    r->cmos[MONTH] = encode(r, c.month);
    r->cmos[YEAR] = encode(r, (unsigned)(c.year % 100));
    r->cmos[RTC_CENTURY] = encode(r, (unsigned)(c.year / 100 % 100));
}

/* The time registers become the time; fraction = ns since the last whole second. */
static void set_time(struct rtc *r, int64_t fraction)
{
    struct calendar c = {
        .second = decode(r, r->cmos[SECOND]),
        .minute = decode(r, r->cmos[MINUTE]),
        .hour = decode_hour(r, r->cmos[HOUR]),
        .day = decode(r, r->cmos[DAY]),
        .month = decode(r, r->cmos[MONTH]),
        .year = decode(r, r->cmos[RTC_CENTURY]) * 100 + decode(r, r->cmos[YEAR]),
    };
    set_second(r, calendar_to_seconds(&c), fraction);
    r->seen_second = second_now(r);
}

/* Ticks of the crystal in one period of the rate, 0 when off (data sheet table 5). */
static uint64_t period_ticks(const struct rtc *r)
{
    unsigned rate = r->cmos[REGISTER_A] & A_RATE;
    if (rate == 0 || (r->cmos[REGISTER_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET)
        return 0;
    return (uint64_t)1 << (rate <= 2 ? rate + 6 : rate - 1);
}

static uint64_t period_number(const struct rtc *r)
{
    uint64_t ticks = period_ticks(r);
    if (ticks == 0)
        return 0;
    return (uint64_t)((unsigned __int128)clock_now(r->clock) * CRYSTAL_HZ / NS_PER_S) / ticks;
}

static bool alarm_part(uint8_t alarm, unsigned wanted, unsigned now)
{
    return alarm >= ALARM_ANY || wanted == now;
}

static bool alarm_matches(const struct rtc *r, int64_t second)
{
    int64_t day = second - floor_div(second, SECONDS_A_DAY) * SECONDS_A_DAY;
    unsigned s = (unsigned)day;
    const uint8_t *c = r->cmos;
    return alarm_part(c[SECOND_ALARM], decode(r, c[SECOND_ALARM]), s % 60) &&
           alarm_part(c[MINUTE_ALARM], decode(r, c[MINUTE_ALARM]), s / 60 % 60) &&
           alarm_part(c[HOUR_ALARM], decode_hour(r, c[HOUR_ALARM]), s / 3600);
}

/* Sets what has become due in register C since the last call. */
static void collect(struct rtc *r)
{
    uint64_t period = period_number(r);
    int64_t second = second_now(r);

    if (period > r->seen_period)
        r->cmos[REGISTER_C] |= C_PF;
    r->seen_period = period;
    if (held(r) || second <= r->seen_second)
        return;
    r->cmos[REGISTER_C] |= C_UF;
    int64_t from = r->seen_second;
    if (second - from > SECONDS_A_DAY) /* every time of day has passed */
        from = second - SECONDS_A_DAY;
    for (int64_t s = from + 1; s <= second && !(r->cmos[REGISTER_C] & C_AF); s++) {
        if (alarm_matches(r, s))
            r->cmos[REGISTER_C] |= C_AF;
    }
    r->seen_second = second;
}

/* When the next enabled flag that is not set yet may become so. */
static uint64_t next_deadline(const struct rtc *r)
{
    uint64_t now = clock_now(r->clock), deadline = CLOCK_NEVER;
    uint8_t awaited = r->cmos[REGISTER_B] & ~r->cmos[REGISTER_C] & C_FLAGS;
    uint64_t ticks = period_ticks(r);

    if ((awaited & C_PF) && ticks != 0) {
        unsigned __int128 at = (unsigned __int128)(r->seen_period + 1) * ticks;
        deadline = (uint64_t)((at * NS_PER_S + CRYSTAL_HZ - 1) / CRYSTAL_HZ);
    }
    if ((awaited & (C_UF | C_AF)) && !held(r)) {
        uint64_t at = now + (uint64_t)(NS_PER_S - fraction_now(r));
        if (at < deadline)
            deadline = at;
    }
    return deadline;
}

static void update(struct rtc *r)
{
    collect(r);
    bool raised = (r->cmos[REGISTER_C] & r->cmos[REGISTER_B] & C_FLAGS) != 0;
    r->cmos[REGISTER_C] = (r->cmos[REGISTER_C] & C_FLAGS) | (raised ? C_IRQF : 0);
    irq_line_set(&r->line, raised);
    uint64_t deadline = next_deadline(r);
    if (deadline != CLOCK_NEVER)
        clock_arm(r->clock, &r->timer, deadline);
    else
        clock_disarm(r->clock, &r->timer);
}

static void timer_fire(void *context)
{
    update(context);
}

static bool is_time(uint8_t at)
{
    return at == SECOND || at == MINUTE || at == HOUR || (at >= WEEKDAY && at <= YEAR) ||
           at == RTC_CENTURY;
}

static uint8_t register_a(const struct rtc *r)
{
    bool soon = !held(r) && fraction_now(r) >= NS_PER_S - UPDATE_NS;
    return r->cmos[REGISTER_A] | (soon ? A_UIP : 0);
}

/* Registers A and B: the time stops or goes on when SET or the divider's reset change. After the
 * divider's reset the first update comes half a second later ("Divider bits"). */
static void write_control(struct rtc *r, uint8_t at, uint8_t value)
{
    bool was_held = held(r);
    bool was_reset = (r->cmos[REGISTER_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;

    latch(r);
    if (at == REGISTER_A) {
        r->cmos[REGISTER_A] = value & ~A_UIP;
        r->seen_period = period_number(r);
    } else {
        r->cmos[REGISTER_B] = value & B_SET ? value & ~B_UIE : value;
    }
    bool is_reset = (r->cmos[REGISTER_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
    if (was_held && !held(r))
        set_time(r, was_reset && !is_reset ? NS_PER_S / 2 : fraction_now(r));
    else if (was_reset && !is_reset) /* SET holds on; the phase is kept in the offset */
        set_second(r, second_now(r), NS_PER_S / 2);
}

static void write_cmos(struct rtc *r, uint8_t at, uint8_t value)
{
    if (at == REGISTER_C || at == REGISTER_D)
        return;
    if (at == REGISTER_A || at == REGISTER_B) {
        write_control(r, at, value);
    } else if (is_time(at)) {
        latch(r);
        r->cmos[at] = value;
        if (!held(r))
            set_time(r, fraction_now(r));
    } else {
        r->cmos[at] = value;
    }
}

static uint64_t rtc_read(void *device, uint64_t offset, unsigned size)
{
    struct rtc *r = device;
    uint8_t at = r->index & (CMOS_SIZE - 1), value;

    if (offset == 0)
        return r->index;
    update(r);
    if (is_time(at))
        latch(r);
    value = at == REGISTER_A ? register_a(r) : r->cmos[at];
    if (at == REGISTER_C) {
        r->cmos[REGISTER_C] = 0;
        update(r);
    }
    return value;
}

static void rtc_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtc *r = device;

    if (offset == 0) {
        r->index = (uint8_t)value;
        return;
    }
    update(r);
    write_cmos(r, r->index & (CMOS_SIZE - 1), (uint8_t)value);
    update(r);
}

static void put16(uint8_t *at, uint64_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static uint64_t at_most(uint64_t value, uint64_t most)
{
    return value < most ? value : most;
}

/* What firmware leaves in the memory bytes. */
static void fill_memory_sizes(struct rtc *r, uint64_t below_4g, uint64_t above_4g)
{
    uint64_t extended = below_4g > 1 << 20 ? (below_4g - (1 << 20)) >> 10 : 0;
    uint64_t from_16m = below_4g > 16 << 20 ? (below_4g - (16 << 20)) >> 16 : 0;
    uint64_t high = at_most(above_4g >> 16, 0xffffff);
    uint16_t sum = 0;

    r->cmos[EQUIPMENT] = EQUIPMENT_FPU;
    put16(&r->cmos[BASE_KIB], 640);
    put16(&r->cmos[EXTENDED_KIB], at_most(extended, 0xffff));
    put16(&r->cmos[EXTENDED_KIB_2], at_most(extended, 0xffff));
    put16(&r->cmos[EXTENDED_64KIB], at_most(from_16m, 0xffff));
    put16(&r->cmos[HIGH_64KIB], high);
    r->cmos[HIGH_64KIB + 2] = (uint8_t)(high >> 16);
    for (unsigned i = SUM_FIRST; i <= SUM_LAST; i++)
        sum += r->cmos[i];
    r->cmos[SUM] = (uint8_t)(sum >> 8); /* high byte first */
    r->cmos[SUM + 1] = (uint8_t)sum;
}

static const struct bus_ops rtc_ops = {
    .read = rtc_read,
    .write = rtc_write,
    .max_size = 1,
};

int rtc_create(struct rtc **out, struct bus *bus, struct vm_clock *clock, struct irq_line line,
               uint64_t ram_below_4g, uint64_t ram_above_4g, struct error *e)
{
    struct rtc *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return error_set(e, ENOMEM, "no memory for the real-time clock");
    pthread_mutex_init(&r->lock, NULL);
    r->clock = clock;
    r->line = line;
    clock_timer_init(&r->timer, timer_fire, r, &r->lock);
    r->cmos[REGISTER_A] = 0x26; /* 32,768 Hz crystal, 1,024 Hz rate */
    r->cmos[REGISTER_B] = B_24_HOURS;
    r->cmos[REGISTER_D] = D_VRT;
    fill_memory_sizes(r, ram_below_4g, ram_above_4g);
    r->seen_second = second_now(r);
    rtc_reset(r);
    int err = bus_add(bus, BUS_PIO, "rtc", RTC_PORT, 2, &rtc_ops, r, &r->lock, e);
    if (err != 0) {
        rtc_destroy(r);
        return err;
    }
    *out = r;
    return 0;
}

void rtc_destroy(struct rtc *r)
{
    if (r == NULL)
        return;
    pthread_mutex_lock(&r->lock);
    clock_disarm(r->clock, &r->timer);
    pthread_mutex_unlock(&r->lock);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void rtc_reset(struct rtc *r)
{
    pthread_mutex_lock(&r->lock);
    r->index = 0;
    r->cmos[REGISTER_B] &= ~(B_PIE | B_AIE | B_UIE);
    r->cmos[REGISTER_C] = 0;
    r->seen_period = period_number(r);
    latch(r);
    update(r);
    pthread_mutex_unlock(&r->lock);
}

uint8_t rtc_take_shutdown(struct rtc *r)
{
    pthread_mutex_lock(&r->lock);
    uint8_t code = r->cmos[SHUTDOWN];
    r->cmos[SHUTDOWN] = 0;
    pthread_mutex_unlock(&r->lock);
    return code;
}

static int state_check(const void *object, struct error *e)
{
    const struct rtc *r = object;
    if (r->cmos[REGISTER_A] & A_UIP)
        return error_set(e, EINVAL, "saved state: rtc: cmos has UIP set in register A");
    if (r->cmos[REGISTER_C] & ~(C_IRQF | C_FLAGS))
        return error_set(e, EINVAL, "saved state: rtc: cmos has reserved bits in register C");
    if (r->offset_ns >= NS_PER_S)
        return error_set(e, EINVAL, "saved state: rtc: offset_ns is a second or more");
    if (llabs(r->offset_seconds / 2) > SECONDS_MAX / 2)
        return error_set(e, EINVAL, "saved state: rtc: offset_seconds is out of range");
    if (llabs(r->seen_second / 2) > SECONDS_MAX) /* the epoch comes on top of the offset */
        return error_set(e, EINVAL, "saved state: rtc: seen_second is out of range");
    if (r->cmos[REGISTER_D] != D_VRT)
        return error_set(e, EINVAL, "saved state: rtc: cmos has another register D");
    return 0;
}

static void state_loaded(void *object)
{
    struct rtc *r = object;
    pthread_mutex_lock(&r->lock);
    update(r);
    pthread_mutex_unlock(&r->lock);
}

static const struct field fields[] = {
    FIELD(struct rtc, index),
    FIELD_ARRAY(struct rtc, cmos),
    FIELD(struct rtc, offset_seconds),
    FIELD(struct rtc, offset_ns),
    FIELD(struct rtc, seen_second),
    FIELD(struct rtc, seen_period),
    FIELD_END,
};

const struct field_table rtc_state = {
    .name = "rtc",
    .version = 1,
    .size = sizeof(struct rtc),
    .fields = fields,
    .check = state_check,
    .loaded = state_loaded,
};
