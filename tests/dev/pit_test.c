/* SPDX-License-Identifier: MIT */
/* The 8254 over the bus at exact times: ticks of 1.193182 MHz, the waveforms of the data sheet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"
#include "dev/pit.h"

static struct rig rig;
static struct pit *pit;

static struct {
    bool level, pending;
    unsigned edges;
    uint64_t at; /* ns of the last edge */
} line;

static void line_set(void *sink, unsigned gsi, bool level)
{
    if (level && !line.level) {
        line.edges++;
        line.at = clock_now(rig.clock);
    }
    line.level = level;
}

static bool line_pending(void *sink, unsigned gsi)
{
    return line.pending;
}

static const struct irq_line sink = {.set = line_set, .pending = line_pending};

static int setup(void **state)
{
    rig_init(&rig, 0);
    line.level = line.pending = false;
    assert_int_equal(pit_create(&pit, &rig.bus, rig.clock, sink, NULL), 0);
    line.edges = 0;
    line.at = 0;
    return 0;
}

static int teardown(void **state)
{
    pit_destroy(pit);
    rig_fini(&rig);
    return 0;
}

/* The first ns of tick n. */
static uint64_t ns(uint64_t n)
{
    return (n * 1000000000 + PIT_HZ - 1) / PIT_HZ;
}

static void program(unsigned channel, unsigned mode, unsigned count)
{
    rig_out(&rig, 0x43, channel << 6 | 0x30 | mode << 1);
    rig_out(&rig, 0x40 + channel, count & 0xff);
    rig_out(&rig, 0x40 + channel, count >> 8);
}

static unsigned read16(unsigned channel)
{
    unsigned low = rig_in(&rig, 0x40 + channel);
    return low | rig_in(&rig, 0x40 + channel) << 8;
}

static unsigned latch(unsigned channel)
{
    rig_out(&rig, 0x43, channel << 6);
    return read16(channel);
}

static unsigned status(unsigned channel)
{
    rig_out(&rig, 0x43, 0xe0 | 2u << channel);
    return rig_in(&rig, 0x40 + channel);
}

static void mode_2_ticks_at_the_rate(void **state)
{
    rig_to(&rig, ns(100));
    program(0, 2, 1193);
    assert_int_equal(status(0), 0xf4); /* OUT high, not loaded yet */
    rig_to(&rig, ns(101));
    assert_int_equal(status(0), 0xb4);
    assert_int_equal(latch(0), 1193);
    rig_to(&rig, ns(101 + 1192));
    assert_int_equal(latch(0), 1);
    assert_int_equal(status(0) & 0x80, 0); /* low for one tick */
    assert_int_equal(line.edges, 0);
    rig_to(&rig, ns(101 + 1193) - 1);
    assert_int_equal(line.edges, 0);
    rig_to(&rig, ns(101 + 1193));
    assert_int_equal(line.edges, 1);
    assert_int_equal(line.at, ns(101 + 1193));
    rig_to(&rig, 1000000000);
    assert_int_equal(line.edges, (PIT_HZ - 101) / 1193);
}

static void a_new_count_waits_for_the_period(void **state)
{
    program(0, 2, 1000);
    rig_to(&rig, ns(1 + 2500));
    rig_out(&rig, 0x40, 2000 & 0xff);
    rig_out(&rig, 0x40, 2000 >> 8);
    assert_int_equal(latch(0), 500);
    rig_to(&rig, ns(1 + 3000));
    assert_int_equal(line.edges, 3);
    assert_int_equal(latch(0), 2000);
    rig_to(&rig, ns(1 + 5000) - 1);
    assert_int_equal(line.edges, 3);
    rig_to(&rig, ns(1 + 5000));
    assert_int_equal(line.edges, 4);
}

static void mode_3_is_square(void **state)
{
    program(2, 3, 101);
    rig_out(&rig, 0x61, 1);
    rig_to(&rig, ns(1));
    for (unsigned t = 0; t < 303; t++) {
        rig_to(&rig, ns(1 + t));
        assert_int_equal(!!(rig_in(&rig, 0x61) & 0x20), t % 101 < 51); /* odd: one tick longer */
    }
    program(0, 3, 0); /* 65536 */
    uint64_t start = clock_now(rig.clock) * PIT_HZ / 1000000000 + 1;
    rig_to(&rig, ns(start + 65536));
    assert_int_equal(line.edges, 1);
    assert_int_equal(line.at, ns(start + 65536));
}

static void mode_0_ends_once(void **state)
{
    line.level = true;
    rig_out(&rig, 0x43, 0x30);
    assert_false(line.level); /* OUT falls with the control word */
    program(0, 0, 500);
    assert_int_equal(status(0), 0x70);
    rig_to(&rig, ns(501) - 1);
    assert_int_equal(line.edges, 0);
    rig_to(&rig, ns(501));
    assert_int_equal(line.at, ns(501));
    assert_int_equal(status(0), 0xb0);
    rig_to(&rig, ns(601));
    assert_int_equal(latch(0), 65536 - 100); /* goes on counting */
    rig_to(&rig, ns(200000));
    assert_int_equal(line.edges, 1);
}

static void modes_1_and_5_wait_for_the_gate(void **state)
{
    program(2, 1, 50);
    rig_to(&rig, ns(200));
    assert_true(rig_in(&rig, 0x61) & 0x20);
    rig_out(&rig, 0x61, 1);
    rig_to(&rig, ns(201));
    assert_false(rig_in(&rig, 0x61) & 0x20);
    rig_to(&rig, ns(250));
    assert_false(rig_in(&rig, 0x61) & 0x20);
    rig_to(&rig, ns(251));
    assert_true(rig_in(&rig, 0x61) & 0x20);

    rig_out(&rig, 0x61, 0);
    program(2, 5, 50);
    rig_to(&rig, ns(300));
    rig_out(&rig, 0x61, 1);
    for (unsigned t = 301; t < 500; t++) {
        rig_to(&rig, ns(t));
        assert_int_equal(!(rig_in(&rig, 0x61) & 0x20), t == 351);
    }
}

static void mode_4_strobes_once(void **state)
{
    program(0, 4, 10);
    rig_to(&rig, ns(11));
    assert_int_equal(status(0) & 0x80, 0);
    assert_int_equal(line.edges, 0);
    rig_to(&rig, ns(12));
    assert_int_equal(status(0) & 0x80, 0x80);
    assert_int_equal(line.edges, 1);
    rig_to(&rig, ns(100000));
    assert_int_equal(line.edges, 1);
}

static void the_gate_holds_the_count(void **state)
{
    rig_out(&rig, 0x61, 1);
    program(2, 0, 1000);
    rig_to(&rig, ns(401));
    rig_out(&rig, 0x61, 0);
    rig_to(&rig, ns(5000));
    assert_int_equal(latch(2), 600);
    assert_false(rig_in(&rig, 0x61) & 0x20);
    rig_out(&rig, 0x61, 3);
    rig_to(&rig, ns(5599));
    assert_false(rig_in(&rig, 0x61) & 0x20);
    rig_to(&rig, ns(5600));
    assert_int_equal(rig_in(&rig, 0x61) & 0x2f, 0x23);
    /* In mode 2 the gate forces OUT high, and its rise loads the count. */
    program(2, 2, 10);
    rig_out(&rig, 0x61, 0);
    assert_true(rig_in(&rig, 0x61) & 0x20);
}

static void latches_and_bcd(void **state)
{
    rig_out(&rig, 0x43, 0x35); /* mode 2, BCD */
    rig_out(&rig, 0x40, 0x00);
    rig_out(&rig, 0x40, 0x12);
    rig_to(&rig, ns(2));
    assert_int_equal(latch(0), 0x1199);
    rig_out(&rig, 0x43, 0x00);
    rig_to(&rig, ns(500));
    rig_out(&rig, 0x43, 0x00); /* the first latch holds until it is read */
    assert_int_equal(read16(0), 0x1199);
    rig_out(&rig, 0x43, 0xc2); /* status and count: the status comes first */
    assert_int_equal(rig_in(&rig, 0x40), 0xb5);
    assert_int_equal(read16(0), 0x0701);
    rig_out(&rig, 0x43, 0x14); /* low byte only */
    rig_out(&rig, 0x40, 200);
    rig_to(&rig, ns(502 + 50));
    assert_int_equal(rig_in(&rig, 0x40), 199 - 50);
    assert_int_equal(rig_in(&rig, 0x40), 199 - 50);
    assert_int_equal(rig_in(&rig, 0x43), 0xff);
}

static void refresh_toggles(void **state)
{
    unsigned toggles = 0, last = rig_in(&rig, 0x61) & 0x10;
    for (unsigned us = 1; us <= 1508; us++) {
        rig_to(&rig, us * 1000);
        unsigned now = rig_in(&rig, 0x61) & 0x10;
        toggles += now != last;
        last = now;
    }
    assert_int_equal(toggles, 99);
}

static void a_backlog_comes_later(void **state)
{
    program(0, 2, 11932); /* 10 ms */
    line.pending = true;
    clock_skip(rig.clock, 55000000);
    clock_poll(rig.clock);
    assert_int_equal(line.edges, 0);
    line.pending = false;
    rig_to(&rig, 55100000);
    assert_int_equal(line.edges, 1);
    rig_to(&rig, 56000000);
    assert_int_equal(line.edges, 5); /* all that were due, none lost or twice */
    line.pending = true;
    clock_skip(rig.clock, 10000000000);
    clock_poll(rig.clock);
    line.pending = false;
    line.edges = 0;
    clock_skip(rig.clock, 10000000001);
    rig_to(&rig, 10100000000);
    assert_in_range(line.edges, 99, 111); /* a second's worth, and those of 100 ms */
}

static void state_goes_round(void **state)
{
    struct rig other;
    struct pit *copy;
    rig_init(&other, 0);
    assert_int_equal(pit_create(&copy, &other.bus, other.clock, (struct irq_line){0}, NULL), 0);
    program(0, 2, 5000);
    program(2, 3, 77);
    rig_to(&rig, ns(7777));
    rig_out(&rig, 0x43, 0xc4);
    clock_stop(rig.clock);
    clock_stop(other.clock);
    rig_copy_state(&clock_state, rig.clock, other.clock);
    rig_copy_state(&pit_state, pit, copy);
    clock_start(rig.clock);
    clock_start(other.clock);
    for (unsigned i = 0; i < 40; i++) {
        rig_to(&rig, ns(8000 + i * 13));
        rig_to(&other, ns(8000 + i * 13));
        unsigned port = 0x40 + i % 3;
        assert_int_equal(rig_in(&rig, port), rig_in(&other, port));
    }
    assert_int_equal(clock_deadline(rig.clock), clock_deadline(other.clock));
    rig_refuses(&pit_state, pit, copy, "channel[0].count", 0);
    rig_refuses(&pit_state, pit, copy, "channel[1].mode", 6);
    rig_refuses(&pit_state, pit, copy, "channel[2].start", UINT64_MAX);
    rig_refuses(&pit_state, pit, copy, "channel[2].latched", 3);
    rig_refuses(&pit_state, pit, copy, "port61", 0x10);
    pit_destroy(copy);
    rig_fini(&other);
}

static void hostile(void **state)
{
    rig_hostile(&rig, BUS_PIO, 0x3f, 6, 200000);
    rig_hostile(&rig, BUS_PIO, 0x40, 0x24, 200000);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(mode_2_ticks_at_the_rate),
        TEST(a_new_count_waits_for_the_period),
        TEST(mode_3_is_square),
        TEST(mode_0_ends_once),
        TEST(modes_1_and_5_wait_for_the_gate),
        TEST(mode_4_strobes_once),
        TEST(the_gate_holds_the_count),
        TEST(latches_and_bcd),
        TEST(refresh_toggles),
        TEST(a_backlog_comes_later),
        TEST(state_goes_round),
        TEST(hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
