/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <time.h>

#include "dev/rtc.h"

#define SECOND 1000000000ull
#define A      0x0a
#define B      0x0b
#define C      0x0c
#define D      0x0d

static uint8_t get(struct harness *h, uint8_t at)
{
    outb(h, 0x70, at);
    return inb(h, 0x71);
}

static void put(struct harness *h, uint8_t at, uint8_t value)
{
    outb(h, 0x70, at);
    outb(h, 0x71, value);
}

static struct rtc *create(struct harness *h)
{
    struct rtc *r;
    assert_int_equal(
        rtc_create(&r, &h->bus, h->clock, harness_irq(h, RTC_GSI), 0xc0000000u, 5ull << 32, NULL),
        0);
    return r;
}

static void destroy(struct harness *h, struct rtc *r)
{
    rtc_destroy(r);
    harness_destroy(h);
}

static void set(struct harness *h, const uint8_t time[8])
{
    static const uint8_t at[8] = {0, 2, 4, 6, 7, 8, 9, RTC_CENTURY};
    uint8_t b = get(h, B);
    put(h, B, b | 0x80);
    for (unsigned i = 0; i < 8; i++)
        put(h, at[i], time[i]);
    put(h, B, b);
}

static void expect(struct harness *h, const uint8_t time[8])
{
    static const uint8_t at[8] = {0, 2, 4, 6, 7, 8, 9, RTC_CENTURY};
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(get(h, at[i]), time[i]);
}

static unsigned bcd(uint8_t v)
{
    return (v >> 4) * 10u + (v & 15);
}

static void tells_the_time_of_the_clock(void **state)
{
    struct harness *h = harness_create();
    struct rtc *r = create(h);
    harness_run(h, 86400 * SECOND * 3 + 12345 * SECOND);
    time_t t = (time_t)(clock_epoch(h->clock) + clock_now(h->clock) / SECOND);
    struct tm tm;
    gmtime_r(&t, &tm);
    assert_int_equal(bcd(get(h, 0)), tm.tm_sec);
    assert_int_equal(bcd(get(h, 2)), tm.tm_min);
    assert_int_equal(bcd(get(h, 4)), tm.tm_hour);
    assert_int_equal(bcd(get(h, 6)), tm.tm_wday + 1);
    assert_int_equal(bcd(get(h, 7)), tm.tm_mday);
    assert_int_equal(bcd(get(h, 8)), tm.tm_mon + 1);
    assert_int_equal(bcd(get(h, RTC_CENTURY)) * 100 + bcd(get(h, 9)), tm.tm_year + 1900);
    assert_int_equal(get(h, D), 0x80);
    destroy(h, r);
}

static void leap_days_and_centuries(void **state)
{
    static const uint8_t before[][8] = {
        {0x59, 0x59, 0x23, 4, 0x28, 0x02, 0x24, 0x20},
        {0x59, 0x59, 0x23, 1, 0x28, 0x02, 0x00, 0x21},
        {0x59, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x19},
        {0x59, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x99},
        {0x59, 0x59, 0x23, 3, 0x28, 0x02, 0x00, 0x00},
    };
    static const uint8_t after[][8] = {
        {0, 0, 0, 5, 0x29, 0x02, 0x24, 0x20}, {0, 0, 0, 2, 0x01, 0x03, 0x00, 0x21},
        {0, 0, 0, 7, 0x01, 0x01, 0x00, 0x20}, {0, 0, 0, 7, 0x01, 0x01, 0x00, 0x00},
        {0, 0, 0, 3, 0x29, 0x02, 0x00, 0x00},
    };
    struct harness *h = harness_create();
    struct rtc *r = create(h);
    for (unsigned i = 0; i < sizeof(before) / sizeof(before[0]); i++) {
        set(h, before[i]);
        harness_run(h, SECOND);
        expect(h, after[i]);
    }
    destroy(h, r);
}

static void binary_and_twelve_hours(void **state)
{
    struct harness *h = harness_create();
    struct rtc *r = create(h);
    set(h, (const uint8_t[8]){0x30, 0x15, 0x23, 3, 0x05, 0x11, 0x24, 0x20});
    put(h, B, 0x06);
    assert_int_equal(get(h, 4), 23);
    assert_int_equal(get(h, 9), 24);
    put(h, B, 0x04);
    assert_int_equal(get(h, 4), 0x80 | 11);
    put(h, B, 0x00);
    assert_int_equal(get(h, 4), 0x91);
    harness_run(h, 3600 * SECOND);
    assert_int_equal(get(h, 4), 0x12); /* midnight is 12 AM */
    harness_run(h, 12 * 3600 * SECOND);
    assert_int_equal(get(h, 4), 0x92); /* noon is 12 PM */
    set(h, (const uint8_t[8]){0, 0, 0x92, 3, 0x05, 0x11, 0x24, 0x20});
    put(h, B, 0x02);
    assert_int_equal(get(h, 4), 0x12);
    destroy(h, r);
}

static void set_holds_the_time(void **state)
{
    struct harness *h = harness_create();
    struct rtc *r = create(h);
    uint8_t b = get(h, B), s = get(h, 0);
    put(h, B, b | 0x80 | 0x10);
    assert_int_equal(get(h, B), b | 0x80); /* SET clears UIE */
    harness_run(h, 10 * SECOND);
    assert_int_equal(get(h, 0), s);
    assert_int_equal(get(h, A) & 0x80, 0);
    put(h, B, b);
    assert_int_equal(get(h, 0), s);
    harness_run(h, SECOND);
    assert_int_equal(get(h, 0), s + 1);
    destroy(h, r);
}

/* As Linux sets the clock: the first update comes half a second after the divider runs. */
static void divider_reset(void **state)
{
    struct harness *h = harness_create();
    struct rtc *r = create(h);
    uint8_t a = get(h, A), b = get(h, B);
    harness_run(h, 123456789);
    put(h, B, b | 0x80);
    put(h, A, a | 0x70);
    put(h, 0, 0x10);
    put(h, B, b);
    put(h, A, a);
    harness_run(h, SECOND / 2 - 1000000);
    assert_int_equal(get(h, 0), 0x10);
    assert_int_equal(get(h, A) & 0x80, 0);
    harness_run(h, 900000);
    assert_int_equal(get(h, A) & 0x80, 0x80); /* UIP within the last 244 us */
    harness_run(h, 200000);
    assert_int_equal(get(h, 0), 0x11);
    assert_int_equal(get(h, A) & 0x80, 0);
    destroy(h, r);
}

static void update_interrupt(void **state)
{
    struct harness *h = harness_create();
    struct rtc *r = create(h);
    get(h, C);
    harness_run(h, 2 * SECOND);
    assert_int_equal(get(h, C), 0x50); /* the flags come without the interrupts */
    put(h, A, 0x20);
    assert_int_equal(h->rises[RTC_GSI], 0);
    put(h, B, 0x12);
    for (unsigned i = 1; i <= 5; i++) {
        harness_run(h, SECOND);
        assert_true(h->level[RTC_GSI]);
        assert_int_equal(h->rises[RTC_GSI], i);
        assert_int_equal(get(h, C), 0x90);
        assert_false(h->level[RTC_GSI]);
        assert_int_equal(get(h, C), 0);
    }
    destroy(h, r);
}

static void periodic_interrupt(void **state)
{
    struct harness *h = harness_create();
    struct rtc *r = create(h);
    static const struct {
        uint8_t rate;
        unsigned hz;
    } rates[] = {{1, 256}, {2, 128}, {3, 8192}, {6, 1024}, {15, 2}};
    for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        put(h, A, 0x20 | rates[i].rate);
        get(h, C);
        put(h, B, 0x42);
        unsigned count = 0;
        for (uint64_t end = clock_now(h->clock) + SECOND; clock_now(h->clock) < end;) {
            harness_run(h, 10000);
            if (h->level[RTC_GSI]) {
                count++;
                assert_int_equal(get(h, C) & 0xc0, 0xc0);
            }
        }
        assert_in_range(count, rates[i].hz - 1, rates[i].hz + 1);
    }
    put(h, A, 0x20); /* off */
    get(h, C);
    harness_run(h, SECOND);
    assert_int_equal(get(h, C) & 0x40, 0);
    destroy(h, r);
}

static void alarm_interrupt(void **state)
{
    struct harness *h = harness_create();
    struct rtc *r = create(h);
    set(h, (const uint8_t[8]){0x00, 0x00, 0x10, 3, 0x05, 0x11, 0x24, 0x20});
    put(h, 1, 0x05);
    put(h, 3, 0x01);
    put(h, 5, 0xc0); /* every hour */
    get(h, C);
    put(h, B, 0x22);
    harness_run(h, 64 * SECOND);
    assert_false(h->level[RTC_GSI]);
    harness_run(h, 2 * SECOND);
    assert_true(h->level[RTC_GSI]);
    assert_int_equal(get(h, C) & 0xa0, 0xa0);
    harness_run(h, 3599 * SECOND);
    assert_int_equal(h->rises[RTC_GSI], 2);
    put(h, 5, 0x10); /* at ten only */
    get(h, C);
    harness_run(h, 22 * 3600 * SECOND);
    assert_int_equal(h->rises[RTC_GSI], 2);
    harness_run(h, 3600 * SECOND);
    assert_int_equal(h->rises[RTC_GSI], 3);
    destroy(h, r);
}

static void memory(void **state)
{
    struct harness *h = harness_create();
    struct rtc *r = create(h);
    assert_int_equal(get(h, 0x15) | get(h, 0x16) << 8, 640);
    assert_int_equal(get(h, 0x17) | get(h, 0x18) << 8, 0xffff);
    assert_int_equal(get(h, 0x34) | get(h, 0x35) << 8, (0xc0000000u - (16 << 20)) >> 16);
    assert_int_equal(get(h, 0x5b) | get(h, 0x5c) << 8 | get(h, 0x5d) << 16, (5ull << 32) >> 16);
    unsigned sum = 0;
    for (uint8_t i = 0x10; i <= 0x2d; i++)
        sum += get(h, i);
    assert_int_equal(get(h, 0x2e) << 8 | get(h, 0x2f), sum);
    put(h, 0x0f, 0x0a);
    outb(h, 0x70, 0x80 | 0x0f); /* with NMI masked */
    assert_int_equal(inb(h, 0x70), 0x8f);
    assert_int_equal(inb(h, 0x71), 0x0a);
    put(h, B, 0x72);
    rtc_reset(r);
    assert_int_equal(get(h, 0x0f), 0x0a);
    assert_int_equal(get(h, B), 0x02);
    put(h, D, 0);
    assert_int_equal(get(h, D), 0x80);
    destroy(h, r);
}

static void saved_state(void **state)
{
    struct harness *h = harness_create(), *g = harness_create();
    struct rtc *a = create(h), *b = create(g);
    set(h, (const uint8_t[8]){0x58, 0x59, 0x23, 3, 0x31, 0x12, 0x33, 0x21});
    put(h, 0x40, 0x99);
    get(h, C);
    put(h, B, 0x12);
    harness_round_trip(&rtc_state, a, b);
    expect(g, (const uint8_t[8]){0x58, 0x59, 0x23, 5, 0x31, 0x12, 0x33, 0x21});
    harness_run(g, SECOND);
    assert_true(g->level[RTC_GSI]);
    assert_int_equal(get(g, 0x40), 0x99);
    harness_refused(&rtc_state, a, "cmos", A, 0xa6);
    harness_refused(&rtc_state, a, "cmos", C, 0x0f);
    harness_refused(&rtc_state, a, "cmos", D, 0);
    harness_refused(&rtc_state, a, "offset_ns", 0, SECOND);
    harness_refused(&rtc_state, a, "offset_seconds", 0, (uint64_t)INT64_MIN);
    harness_refused(&rtc_state, a, "seen_second", 0, INT64_MAX);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        uint64_t random = seed;
        for (unsigned i = 0; i < 10000; i++) { /* the index too, so that all bytes are met */
            uint64_t x = harness_random(&random);
            put(h, (uint8_t)x, (uint8_t)(x >> 8));
            get(h, (uint8_t)(x >> 16));
            if ((x >> 24 & 15) == 0)
                harness_run(h, x >> 40);
        }
        harness_hostile(h, 0x6f, 4, 10000, seed);
    }
    destroy(h, a);
    destroy(g, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_the_time_of_the_clock),
        cmocka_unit_test(leap_days_and_centuries),
        cmocka_unit_test(binary_and_twelve_hours),
        cmocka_unit_test(set_holds_the_time),
        cmocka_unit_test(divider_reset),
        cmocka_unit_test(update_interrupt),
        cmocka_unit_test(periodic_interrupt),
        cmocka_unit_test(alarm_interrupt),
        cmocka_unit_test(memory),
        cmocka_unit_test(saved_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
