/* SPDX-License-Identifier: MIT */
/* Steal time through its MSR, with a host whose count the test sets, and the host's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>

#include "engine/gate.h"
#include "rig.h"
#include "x86/steal_time.h"

static struct rig rig;
static struct steal_time *steal;
static uint64_t host[RIG_CPUS];

static uint64_t host_steal(struct vcpu *v)
{
    return host[v->id];
}

static const struct gate_ops gate = {.steal = host_steal};

static void start(void)
{
    memset(host, 0, sizeof(host));
    rig_init(&rig, 0);
    rig.platform.gate = &gate;
    assert_int_equal(mem_add(&rig.mem, "ram", GPA(0), 1 << 20, MEM_ANONYMOUS, false, NULL), 0);
    assert_int_equal(steal_time_create(&steal, &rig.mem, rig.clock, &rig.msrs, RIG_CPUS, NULL), 0);
}

static void finish(void)
{
    steal_time_destroy(steal);
    rig_fini(&rig);
}

static uint64_t read(uint64_t a, unsigned size)
{
    uint64_t value = 0;
    assert_int_equal(mem_read(&rig.mem, GPA(a), &value, size), 0);
    return value;
}

static void counts_from_the_first_enable(void **state)
{
    uint64_t value, dirty[8] = {1, 2, 3, 4, 5, 6, 7, 8};

    start();
    host[0] = 5000;
    host[1] = 70;
    assert_int_equal(mem_write(&rig.mem, GPA(0x1000), dirty, sizeof(dirty)), 0);
    assert_true(msr_write(rig.cpu[0], MSR_KVM_STEAL_TIME, 0x1001));
    assert_true(msr_write(rig.cpu[1], MSR_KVM_STEAL_TIME, 0x1041));
    assert_true(msr_read(rig.cpu[0], MSR_KVM_STEAL_TIME, &value));
    assert_int_equal(value, 0x1001);
    for (unsigned i = 0; i < 64; i += 8)
        assert_int_equal(read(0x1000 + i, 8), 0);
    host[0] = 7500;
    steal_time_update(steal, rig.cpu[0]); /* too soon */
    assert_int_equal(read(0x1000, 8), 0);
    rig_to(&rig, STEAL_TIME_PERIOD_NS);
    steal_time_update(steal, rig.cpu[0]);
    steal_time_update(steal, rig.cpu[1]);
    assert_int_equal(read(0x1000, 8), 2500);
    assert_int_equal(read(0x1008, 4), 2);
    assert_int_equal(read(0x1040, 8), 0);
    host[0] = 7600;
    rig_to(&rig, 2 * STEAL_TIME_PERIOD_NS - 1);
    steal_time_update(steal, rig.cpu[0]);
    assert_int_equal(read(0x1000, 8), 2500);
    rig_to(&rig, 2 * STEAL_TIME_PERIOD_NS);
    steal_time_update(steal, rig.cpu[0]);
    assert_int_equal(read(0x1000, 8), 2600);
    assert_int_equal(read(0x1008, 4), 4);
    assert_true(msr_write(rig.cpu[0], MSR_KVM_STEAL_TIME, 0));
    host[0] = 9999;
    rig_to(&rig, 9 * STEAL_TIME_PERIOD_NS);
    steal_time_update(steal, rig.cpu[0]);
    assert_int_equal(read(0x1000, 8), 2600);
    finish();
}

static void reserved_bits_and_hostile_addresses(void **state)
{
    start();
    for (unsigned bit = 1; bit <= 5; bit++)
        assert_false(msr_write(rig.cpu[0], MSR_KVM_STEAL_TIME, 0x1001 | 1u << bit));
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t value = (uint64_t)rig_random(&rig) << rig_random(&rig) % 33;
        struct vcpu *v = rig.cpu[i % RIG_CPUS];
        msr_write(v, MSR_KVM_STEAL_TIME, (value & ~0x3eull) | 1);
        host[v->id] += 1000;
        rig_to(&rig, (i + 1) * (uint64_t)STEAL_TIME_PERIOD_NS);
        steal_time_update(steal, v);
    }
    finish();
}

static void state_goes_round(void **state)
{
    struct steal_time *copy;
    struct msr_table other;

    start();
    msr_table_init(&other);
    assert_int_equal(steal_time_create(&copy, &rig.mem, rig.clock, &other, RIG_CPUS, NULL), 0);
    assert_true(msr_write(rig.cpu[3], MSR_KVM_STEAL_TIME, 0x1001));
    host[3] = 400;
    rig_to(&rig, STEAL_TIME_PERIOD_NS);
    steal_time_update(steal, rig.cpu[3]);
    rig_copy_state(&steal_time_state, steal, copy);
    rig_refuses(&steal_time_state, steal, copy, "msr", 2);
    rig_refuses(&steal_time_state, steal, copy, "version", 1);
    /* On another host, whose threads have counts of their own. */
    host[3] = 100000;
    rig_copy_state(&steal_time_state, steal, copy);
    steal_time_update(copy, rig.cpu[3]);
    assert_int_equal(read(0x1000, 8), 400);
    host[3] = 100005;
    rig_to(&rig, 3 * STEAL_TIME_PERIOD_NS);
    steal_time_update(copy, rig.cpu[3]);
    assert_int_equal(read(0x1000, 8), 405);
    steal_time_destroy(copy);
    finish();
}

/* Two threads on one processor: each waits about half of the time. */
static void *spin(void *context)
{
    struct timespec t, start;
    uint64_t before = steal_time_host_ns();

    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &t);
    while ((t.tv_sec - start.tv_sec) * 1000 + (t.tv_nsec - start.tv_nsec) / 1000000 < 300);
    *(uint64_t *)context = steal_time_host_ns() - before;
    return NULL;
}

static void the_host_counts_waiting(void **state)
{
    pthread_t threads[2];
    uint64_t waited[2];
    cpu_set_t old, one;

    assert_int_equal(sched_getaffinity(0, sizeof(old), &old), 0);
    CPU_ZERO(&one);
    for (int i = 0; CPU_COUNT(&one) == 0; i++) {
        if (CPU_ISSET(i, &old))
            CPU_SET(i, &one);
    }
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, spin, &waited[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    sched_setaffinity(0, sizeof(old), &old);
    assert_in_range(waited[0] + waited[1], 150000000, 900000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_from_the_first_enable),
        cmocka_unit_test(reserved_bits_and_hostile_addresses),
        cmocka_unit_test(state_goes_round),
        cmocka_unit_test(the_host_counts_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
