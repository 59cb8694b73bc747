/* SPDX-License-Identifier: MIT */
/* kvmclock through its MSRs, read as Linux's pvclock reads it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "engine/gate.h"
#include "rig.h"
#include "x86/kvmclock.h"

#define SYSTEM_TIME 0x4b564d01u
#define WALL_CLOCK  0x4b564d00u

static struct rig rig;
static struct kvmclock *clock_page;

static void start(uint64_t hz)
{
    rig_init(&rig, hz);
    assert_int_equal(mem_add(&rig.mem, "ram", GPA(0), 1 << 20, MEM_ANONYMOUS, false, NULL), 0);
    assert_int_equal(kvmclock_create(&clock_page, &rig.mem, rig.clock, &rig.msrs, RIG_CPUS, NULL),
                     0);
}

static void finish(void)
{
    kvmclock_destroy(clock_page);
    rig_fini(&rig);
}

static uint64_t read(uint64_t a, unsigned size)
{
    uint64_t value = 0;
    assert_int_equal(mem_read(&rig.mem, GPA(a), &value, size), 0);
    return value;
}

/* What the guest computes from the page with its TSC. */
static uint64_t guest_ns(unsigned cpu, uint64_t page)
{
    uint64_t delta = clock_tsc(rig.clock) + rig.cpu[cpu]->tsc_offset - read(page + 8, 8);
    int8_t shift = (int8_t)read(page + 28, 1);
    delta = shift < 0 ? delta >> -shift : delta << shift;
    return read(page + 16, 8) + (uint64_t)((unsigned __int128)delta * read(page + 24, 4) >> 32);
}

static void time_is_the_clock_for_any_frequency(void **state)
{
    static const uint64_t hz[] = {0, 800000000, 2194842123, 3999999999, 5000000000};
    for (unsigned i = 0; i < 5; i++) {
        start(hz[i]);
        rig.cpu[1]->tsc_offset = 777777;
        rig_to(&rig, 123456789);
        assert_true(msr_write(rig.cpu[0], SYSTEM_TIME, 0x1001));
        rig_to(&rig, 200000000);
        assert_true(msr_write(rig.cpu[1], 0x12, 0x2041));
        assert_int_equal(read(0x1000 + 29, 1), 1);
        for (uint64_t ns = 200000000; ns < 100000000000; ns = ns * 3 + 7) {
            rig_to(&rig, ns);
            uint64_t a = guest_ns(0, 0x1000), b = guest_ns(1, 0x2040);
            assert_int_equal(a, b);
            assert_in_range(a, ns - 50, ns); /* 2^-32 of 100 s, and one tick */
        }
        if (hz[i] == 0)
            assert_int_equal(guest_ns(0, 0x1000), clock_now(rig.clock));
        finish();
    }
}

static void versions_and_moves(void **state)
{
    start(0);
    assert_true(msr_write(rig.cpu[0], SYSTEM_TIME, 0x1001));
    assert_int_equal(read(0x1000, 4), 2);
    rig.cpu[0]->tsc_offset = 12345;
    kvmclock_update(clock_page, rig.cpu[0]);
    assert_int_equal(read(0x1000, 4), 4);
    rig_to(&rig, 1000000);
    assert_int_equal(guest_ns(0, 0x1000), 1000000);
    uint64_t value = 0;
    assert_true(msr_read(rig.cpu[0], 0x12, &value)); /* the old MSR is the same register */
    assert_int_equal(value, 0x1001);
    assert_true(msr_write(rig.cpu[0], SYSTEM_TIME, 0x3000)); /* off: nothing is written */
    assert_int_equal(read(0x3000, 8), 0);
    assert_false(msr_write(rig.cpu[0], SYSTEM_TIME, 0x1003));
    assert_false(msr_write(rig.cpu[0], WALL_CLOCK, 0x1001));
    assert_true(msr_write(rig.cpu[2], WALL_CLOCK, 0x4000));
    assert_int_equal(read(0x4000, 4), 2);
    assert_int_equal(read(0x4004, 4), clock_epoch(rig.clock));
    assert_int_equal(read(0x4008, 4), 0);
    finish();
}

static uint64_t tsc(struct vcpu *v)
{
    return clock_tsc(v->platform->clock);
}

static void moved(void *context, struct vcpu *v)
{
    kvmclock_update(context, v);
}

/* SDM 3B 17.17.3: a write to IA32_TSC moves TSC_ADJUST, and the other way round; kvmclock's time
 * goes on as it was, whatever the guest writes. */
static void wrmsr_tsc_moves_the_page(void **state)
{
    static const struct gate_ops gate = {.tsc = tsc};
    static const struct x86_paravirt_ops ops = {.tsc_moved = moved};
    uint64_t value;

    start(0);
    rig.platform.gate = &gate;
    rig.platform.paravirt = &ops;
    rig.platform.paravirt_context = clock_page;
    rig_irq(&rig);
    rig_to(&rig, 5000000);
    assert_true(msr_write(rig.cpu[0], SYSTEM_TIME, 0x1001));
    assert_true(msr_write(rig.cpu[1], SYSTEM_TIME, 0x2001));
    assert_true(msr_write(rig.cpu[0], 0x10, 1000));
    assert_true(msr_read(rig.cpu[0], 0x10, &value));
    assert_int_equal(value, 1000);
    assert_true(msr_read(rig.cpu[0], 0x3b, &value));
    assert_int_equal((int64_t)value, 1000 - 5000000);
    assert_int_equal(guest_ns(0, 0x1000), 5000000);
    assert_int_equal(read(0x1000, 4), 4);
    assert_int_equal(read(0x2000, 4), 2); /* the other's is not touched */
    rig_to(&rig, 7000000);
    assert_true(msr_write(rig.cpu[0], 0x3b, 0));
    assert_true(msr_read(rig.cpu[0], 0x10, &value));
    assert_int_equal(value, 7000000);
    assert_int_equal(guest_ns(0, 0x1000), 7000000);
    assert_int_equal(guest_ns(1, 0x2000), 7000000);
    finish();
}

/* The guest learns by GUEST_STOPPED that it stood still, once, and clears the flag itself. */
static void a_gap_is_told(void **state)
{
    uint8_t cleared = 1;

    start(0);
    assert_true(msr_write(rig.cpu[0], SYSTEM_TIME, 0x1001));
    kvmclock_interrupt(clock_page, rig.cpu[1]); /* off: nothing to tell */
    for (unsigned i = 1; i <= 10; i++) {
        rig_to(&rig, i * 1000000000ull);
        kvmclock_interrupt(clock_page, rig.cpu[0]);
        assert_int_equal(read(0x1000 + 29, 1), 1);
    }
    rig_to(&rig, 10000000001 + KVMCLOCK_GAP_NS);
    kvmclock_interrupt(clock_page, rig.cpu[0]);
    assert_int_equal(read(0x1000 + 29, 1), 3);
    assert_int_equal(guest_ns(0, 0x1000), clock_now(rig.clock));
    kvmclock_update(clock_page, rig.cpu[0]);
    assert_int_equal(read(0x1000 + 29, 1), 3);
    assert_int_equal(mem_write(&rig.mem, GPA(0x1000 + 29), &cleared, 1), 0);
    kvmclock_interrupt(clock_page, rig.cpu[0]);
    kvmclock_update(clock_page, rig.cpu[0]);
    assert_int_equal(read(0x1000 + 29, 1), 1);
    finish();
}

static void hostile_addresses_write_nothing(void **state)
{
    start(0);
    static const uint64_t address[] = {(1 << 20) - 16, 1 << 20, UINT64_MAX - 3, 1ull << 45};
    for (unsigned i = 0; i < 4; i++) {
        assert_true(msr_write(rig.cpu[0], SYSTEM_TIME, (address[i] & ~3ull) | 1));
        assert_true(msr_write(rig.cpu[0], WALL_CLOCK, address[i] & ~3ull));
    }
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t value = (uint64_t)rig_random(&rig) << rig_random(&rig) % 33;
        msr_write(rig.cpu[i % RIG_CPUS], SYSTEM_TIME, value);
        msr_write(rig.cpu[i % RIG_CPUS], WALL_CLOCK, value);
    }
    finish();
}

static void state_goes_round(void **state)
{
    start(0);
    struct kvmclock *copy;
    struct msr_table other;
    msr_table_init(&other);
    assert_int_equal(kvmclock_create(&copy, &rig.mem, rig.clock, &other, RIG_CPUS, NULL), 0);
    assert_true(msr_write(rig.cpu[3], SYSTEM_TIME, 0x1001));
    assert_true(msr_write(rig.cpu[2], WALL_CLOCK, 0x4000));
    rig_copy_state(&kvmclock_state, clock_page, copy);
    rig_refuses(&kvmclock_state, clock_page, copy, "wall", 1);
    rig_refuses(&kvmclock_state, clock_page, copy, "system_time", 2);
    rig_refuses(&kvmclock_state, clock_page, copy, "version", 1);
    rig_refuses(&kvmclock_state, clock_page, copy, "wall_version", 7);
    kvmclock_destroy(copy);
    finish();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_is_the_clock_for_any_frequency),
        cmocka_unit_test(versions_and_moves),
        cmocka_unit_test(wrmsr_tsc_moves_the_page),
        cmocka_unit_test(a_gap_is_told),
        cmocka_unit_test(hostile_addresses_write_nothing),
        cmocka_unit_test(state_goes_round),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
