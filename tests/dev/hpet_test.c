/* SPDX-License-Identifier: MIT */
/* The HPET over the bus at exact times (10 ns a tick), with the real interrupt routing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"
#include "dev/hpet.h"

static struct rig rig;
static struct hpet *hpet;

static uint64_t get(unsigned reg)
{
    return bus_read(&rig.bus, 0, BUS_MMIO, HPET_BASE + reg, 8);
}

static void set(unsigned reg, uint64_t value)
{
    bus_write(&rig.bus, 0, BUS_MMIO, HPET_BASE + reg, value, 8);
}

static void route(unsigned pin, unsigned entry)
{
    rig_write(&rig, 0, 0xfec00000, 0x10 + 2 * pin);
    rig_write(&rig, 0, 0xfec00010, entry);
}

static int setup(void **state)
{
    rig_init(&rig, 0);
    rig_irq(&rig);
    assert_int_equal(hpet_create(&hpet, &rig.bus, rig.clock, rig.irq, NULL), 0);
    rig_write(&rig, 0, 0xfee000f0, 0x1ff);
    route(2, 0x32);
    route(8, 0x38);
    route(20, 0x54);
    route(21, 0x8055);
    return 0;
}

static int teardown(void **state)
{
    hpet_destroy(hpet);
    rig_fini(&rig);
    return 0;
}

static int take(void)
{
    int vector = rig_ack(&rig, 0);
    if (vector >= 0)
        rig_write(&rig, 0, 0xfee000b0, 0);
    return vector;
}

static void the_counter_runs_when_enabled(void **state)
{
    assert_int_equal(get(0), 10000000ull << 32 | HPET_ID);
    rig_to(&rig, 5000);
    assert_int_equal(get(0xf0), 0);
    set(0x10, 1);
    rig_to(&rig, 15000);
    assert_int_equal(get(0xf0), 1000);
    set(0x10, 0);
    rig_to(&rig, 25000);
    assert_int_equal(get(0xf0), 1000);
    set(0xf0, 0x1fffffffe);
    set(0x10, 1);
    rig_to(&rig, 25020);
    assert_int_equal(rig_read(&rig, 0, HPET_BASE + 0xf4), 2);
    assert_int_equal(rig_read(&rig, 0, HPET_BASE + 0xf0), 0);
}

static void one_shot_on_a_route(void **state)
{
    set(0x10, 1);
    set(0x148, 3000);
    set(0x140, 4 | 20 << 9);
    assert_int_equal(get(0x140), 0x00f0000000008034 | 20 << 9);
    rig_to(&rig, 29999);
    assert_int_equal(take(), -1);
    rig_to(&rig, 30000);
    assert_int_equal(take(), 0x54);
    rig_to(&rig, 3000000000);
    assert_int_equal(take(), -1);
    set(0x148, 10); /* behind the counter: not before it wraps */
    rig_to(&rig, 4000000000);
    assert_int_equal(take(), -1);
    set(0x140, 4 | 20 << 9 | 1 << 8); /* 32 bits: that is after 42.9 s */
    rig_to(&rig, 42949673050);
    assert_int_equal(take(), -1);
    rig_to(&rig, 42949673060);
    assert_int_equal(take(), 0x54);
}

static void periodic_by_setval(void **state)
{
    set(0x100, 4 | 8 | 0x40 | 20 << 9 | 1 << 8);
    set(0x108, 10000);
    set(0x108, 5000);
    set(0x10, 1);
    unsigned n = 0;
    for (uint64_t ns = 0; ns <= 1000000; ns += 10000) {
        rig_to(&rig, ns);
        bool due = ns >= 100000 && ns % 50000 == 0;
        assert_int_equal(take(), due ? 0x54 : -1);
        n += due;
    }
    assert_int_equal(n, 19);
    assert_int_equal(get(0x108), 105000);
}

static void a_backlog_comes_later(void **state)
{
    set(0x100, 4 | 8 | 0x40 | 20 << 9);
    set(0x108, 1000000); /* 10 ms */
    set(0x10, 1);
    rig_to(&rig, 55000000);
    unsigned n = 0;
    for (uint64_t ns = 55000000; ns < 57000000; ns += 50000) {
        n += take() == 0x54;
        rig_to(&rig, ns);
    }
    assert_int_equal(n, 5);
}

static void level_until_status_is_cleared(void **state)
{
    set(0x10, 1);
    set(0x128, 1000);
    set(0x120, 4 | 2 | 21 << 9);
    rig_to(&rig, 10000);
    assert_int_equal(get(0x20), 2);
    assert_int_equal(take(), 0x55);
    assert_int_equal(take(), 0x55); /* still asserted */
    set(0x20, 2);
    assert_int_equal(get(0x20), 0);
    take(); /* what was already sent */
    assert_int_equal(take(), -1);
}

static void messages(void **state)
{
    set(0x10, 1);
    set(0x110, 0xfee00000ull << 32 | 0x77);
    set(0x108, 1000);
    set(0x100, 4 | 1 << 14);
    rig_to(&rig, 10000);
    assert_int_equal(take(), 0x77);
}

static void legacy_replacement_cuts_the_lines(void **state)
{
    struct irq_line pit = hpet_legacy_line(hpet, 0), rtc = hpet_legacy_line(hpet, 8);
    irq_line_set(&pit, true);
    assert_int_equal(take(), 0x32);
    irq_line_set(&rtc, true);
    assert_int_equal(take(), 0x38);
    irq_line_set(&pit, false);
    irq_line_set(&rtc, false);
    set(0x10, 3);
    irq_line_set(&pit, true);
    irq_line_set(&rtc, true);
    assert_int_equal(take(), -1);
    set(0x108, 1000);
    set(0x128, 2000);
    set(0x100, 4);
    set(0x120, 4);
    rig_to(&rig, 10000);
    assert_int_equal(take(), 0x32);
    rig_to(&rig, 20000);
    assert_int_equal(take(), 0x38);
    set(0x10, 1);
    irq_line_set(&pit, false);
    irq_line_set(&pit, true);
    assert_int_equal(take(), 0x32);
}

static void state_goes_round(void **state)
{
    struct rig other;
    struct hpet *copy;
    rig_init(&other, 0);
    rig_irq(&other);
    assert_int_equal(hpet_create(&copy, &other.bus, other.clock, other.irq, NULL), 0);
    set(0x10, 3);
    set(0x100, 4 | 8 | 0x40 | 1 << 8);
    set(0x108, 7000);
    set(0x148, 123456);
    rig_to(&rig, 99990);
    clock_stop(rig.clock);
    clock_stop(other.clock);
    rig_copy_state(&clock_state, rig.clock, other.clock);
    rig_copy_state(&hpet_state, hpet, copy);
    clock_start(rig.clock);
    clock_start(other.clock);
    assert_int_equal(clock_deadline(rig.clock), clock_deadline(other.clock));
    for (unsigned reg = 0; reg < 0x160; reg += 8)
        assert_int_equal(get(reg), bus_read(&other.bus, 0, BUS_MMIO, HPET_BASE + reg, 8));
    rig_refuses(&hpet_state, hpet, copy, "config", 4);
    rig_refuses(&hpet_state, hpet, copy, "status", 8);
    rig_refuses(&hpet_state, hpet, copy, "timer[2].config", 1);
    rig_refuses(&hpet_state, hpet, copy, "timer[0].comparator", 1ull << 32);
    hpet_destroy(copy);
    rig_fini(&other);
}

static void hostile(void **state)
{
    rig_hostile(&rig, BUS_MMIO, HPET_BASE, 0x400, 100000);
    rig_hostile(&rig, BUS_MMIO, HPET_BASE, 0x180, 300000);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_counter_runs_when_enabled),
        TEST(one_shot_on_a_route),
        TEST(periodic_by_setval),
        TEST(a_backlog_comes_later),
        TEST(level_until_status_is_cleared),
        TEST(messages),
        TEST(legacy_replacement_cuts_the_lines),
        TEST(state_goes_round),
        TEST(hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
