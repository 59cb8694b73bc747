/* SPDX-License-Identifier: MIT */
/*
 * The live gate; see gate.h. Runs on vCPU threads. The time of an exit is taken with the host's
 * time-stamp counter, about 20 ns a reading, and kept in ns.
 */
#include "engine/gate.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <sys/random.h>
#include <time.h>
#include <x86intrin.h>

#include "base/error.h"
#include "clock/clock.h"
#include "x86/steal_time.h"

#define CALIBRATION_NS 1000000u
#define RANDOM_TRIES   10 /* SDM 1 7.3.17.1 */

/* Of the host, not of a VM. ns = ticks x multiplier / 2^32. */
static struct {
    pthread_once_t once;
    uint64_t multiplier;
    bool rdrand, rdseed;
} host = {.once = PTHREAD_ONCE_INIT};

static uint64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void look_at_host(void)
{
    unsigned a, b, c, d;
    uint64_t ns = monotonic_ns(), tsc = __rdtsc(), now;

    do
        now = monotonic_ns();
    while (now - ns < CALIBRATION_NS);
    tsc = __rdtsc() - tsc;
    host.multiplier = ((now - ns) << 32) / (tsc != 0 ? tsc : 1);
    host.rdrand = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_RDRND);
    host.rdseed = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_RDSEED);
}

static void count_exit(struct vcpu *v, enum exit_reason reason, uint64_t start)
{
    uint64_t ticks = __rdtsc() - start;
    v->counters.exits[reason]++;
    v->counters.exit_ns[reason] += (uint64_t)(((unsigned __int128)ticks * host.multiplier) >> 32);
}

static uint64_t live_tsc(struct vcpu *v)
{
    return clock_tsc(v->platform->clock);
}

static bool host_random(bool seed, uint64_t *value)
{
    bool ok = false;

    if (seed && host.rdseed) {
        for (int i = 0; i < RANDOM_TRIES && !ok; i++)
            __asm__ volatile("rdseed %0" : "=r"(*value), "=@ccc"(ok) : : "cc");
    } else if (!seed && host.rdrand) {
        for (int i = 0; i < RANDOM_TRIES && !ok; i++)
            __asm__ volatile("rdrand %0" : "=r"(*value), "=@ccc"(ok) : : "cc");
    }
    return ok;
}

static bool live_random(struct vcpu *v, bool seed, uint64_t *value)
{
    pthread_once(&host.once, look_at_host);
    return host_random(seed, value) || getrandom(value, sizeof(*value), 0) == sizeof(*value);
}

/* Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (SplitMix64). */
static bool repeatable_random(struct vcpu *v, bool seed, uint64_t *value)
{
    uint64_t z = *(uint64_t *)v->platform->gate_context += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    *value = z ^ (z >> 31);
    return true;
}

static uint64_t live_read(struct vcpu *v, enum bus_space space, uint64_t address, unsigned size)
{
    pthread_once(&host.once, look_at_host);
    uint64_t start = __rdtsc();
    uint64_t value = bus_read(v->platform->bus, v->id, space, address, size);
    count_exit(v, space == BUS_PIO ? EXIT_PIO : EXIT_MMIO, start);
    return value;
}

static void live_write(struct vcpu *v, enum bus_space space, uint64_t address, uint64_t value,
                       unsigned size)
{
    pthread_once(&host.once, look_at_host);
    uint64_t start = __rdtsc();
    bus_write(v->platform->bus, v->id, space, address, value, size);
    count_exit(v, space == BUS_PIO ? EXIT_PIO : EXIT_MMIO, start);
}

static int live_acknowledge(struct vcpu *v)
{
    return v->irq != NULL ? v->irq->acknowledge(v->irq_context) : -1;
}

static uint64_t live_steal(struct vcpu *v)
{
    return steal_time_host_ns();
}

static uint64_t repeatable_steal(struct vcpu *v)
{
    return 0;
}

const struct gate_ops gate_live = {
    .tsc = live_tsc,
    .random = live_random,
    .read = live_read,
    .write = live_write,
    .acknowledge = live_acknowledge,
    .steal = live_steal,
};

const struct gate_ops gate_repeatable = {
    .tsc = live_tsc,
    .random = repeatable_random,
    .read = live_read,
    .write = live_write,
    .acknowledge = live_acknowledge,
    .steal = repeatable_steal,
};
