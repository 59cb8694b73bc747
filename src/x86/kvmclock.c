/* SPDX-License-Identifier: MIT */
/*
 * kvmclock; see kvmclock.h.
 *
 * The guest computes time = system_time + scale(TSC - tsc_timestamp). TSC and time are one clock
 * here (clock.c), so every page says the same straight line, anchored where the clock is 0: all
 * vCPUs agree to the nanosecond, which is what the flag TSC_STABLE promises, and a page need never
 * be written again but when its vCPU's TSC offset moves, or the vCPU stood still (GUEST_STOPPED).
 *
 * Threads: MSRs on the vCPU's own; each has its slots. The guest controls the addresses: mem_write
 * refuses what is not RAM, and then nothing is written.
 */
#include "x86/kvmclock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock/clock.h"

#define VCPUS_MAX       256u
#define SYSTEM_TIME_ON  1u
#define TSC_STABLE      1u
#define GUEST_STOPPED   2u /* set by the host, cleared by the guest */
#define MSR_WALL_CLOCK  0x11u
#define MSR_SYSTEM_TIME 0x12u
#define NS_PER_S        1000000000u

struct wall_clock {
    uint32_t version, seconds, nanoseconds;
};

struct time_info {
    uint32_t version, unused;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags, unused2[2];
};
_Static_assert(sizeof(struct time_info) == 32, "the guest's layout");

struct kvmclock {
    struct mem *mem;
    struct vm_clock *clock;
    unsigned vcpu_count;
    uint64_t wall;                   /* the last address written, of any vCPU */
    uint64_t system_time[VCPUS_MAX]; /* by vCPU */
    uint32_t version[VCPUS_MAX];     /* of its page; even */
    uint64_t interrupted[VCPUS_MAX]; /* clock_now of its last interrupt; 0 = none yet */
    uint32_t wall_version;
};

/* ns = ((ticks << shift) x mul) / 2^32 (shift right when negative); mul as large as it may be. */
static void scale_of(uint64_t hz, uint32_t *mul, int8_t *shift)
{
    unsigned __int128 ratio = ((unsigned __int128)NS_PER_S << 64) / hz; /* 2^64 = 1 ns a tick */
    int s = 0;
    while (ratio >> 64 != 0) {
        ratio >>= 1;
        s++;
    }
    while (ratio >> 63 == 0) {
        ratio <<= 1;
        s--;
    }
    *mul = (uint32_t)(ratio >> 32);
    *shift = (int8_t)s;
}

/* An odd version tells a reader on another vCPU that the rest is changing. */
static void publish(struct kvmclock *k, uint64_t address, uint32_t version, void *page, size_t size)
{
    uint32_t odd = version - 1;
    if (mem_write(k->mem, GPA(address), &odd, sizeof(odd)) != 0)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    memcpy(page, &odd, sizeof(odd));
    mem_write(k->mem, GPA(address), page, size);
    atomic_thread_fence(memory_order_seq_cst);
    mem_write(k->mem, GPA(address), &version, sizeof(version));
}

static uint64_t page_of(const struct kvmclock *k, const struct vcpu *v)
{
    return k->system_time[v->id] & ~(uint64_t)SYSTEM_TIME_ON;
}

static void write_page(struct kvmclock *k, struct vcpu *v, uint8_t flags)
{
    struct time_info t = {
        .tsc_timestamp = v->tsc_offset, /* the guest's TSC when the clock was 0 */
        .system_time = 0,
        .flags = TSC_STABLE | flags,
    };
    scale_of(clock_tsc_hz(k->clock), &t.tsc_to_system_mul, &t.tsc_shift);
    k->version[v->id] += 2;
    publish(k, page_of(k, v), k->version[v->id], &t, sizeof(t));
}

/* GUEST_STOPPED stays until the guest has seen it. */
void kvmclock_update(struct kvmclock *k, struct vcpu *v)
{
    uint8_t flags = 0;

    if (v->id >= k->vcpu_count || !(k->system_time[v->id] & SYSTEM_TIME_ON))
        return;
    mem_read(k->mem, GPA(page_of(k, v) + offsetof(struct time_info, flags)), &flags, 1);
    write_page(k, v, flags & GUEST_STOPPED);
}

void kvmclock_interrupt(struct kvmclock *k, struct vcpu *v)
{
    if (v->id >= k->vcpu_count || !(k->system_time[v->id] & SYSTEM_TIME_ON))
        return;
    uint64_t now = clock_now(k->clock), before = k->interrupted[v->id];
    k->interrupted[v->id] = now;
    if (before != 0 && now - before > KVMCLOCK_GAP_NS)
        write_page(k, v, GUEST_STOPPED);
}

static bool system_time_read(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    struct kvmclock *k = context;
    if (v->id >= k->vcpu_count)
        return false;
    *value = k->system_time[v->id];
    return true;
}

/* Bit 1 is reserved: the page is 4-byte aligned. */
static bool system_time_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    struct kvmclock *k = context;
    if (v->id >= k->vcpu_count || (value & 2))
        return false;
    k->system_time[v->id] = value;
    k->interrupted[v->id] = 0;
    if (value & SYSTEM_TIME_ON)
        write_page(k, v, 0);
    return true;
}

static bool wall_read(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    *value = __atomic_load_n(&((struct kvmclock *)context)->wall, __ATOMIC_RELAXED);
    return true;
}

/* The wall clock's page says when system_time was 0, once for each write. */
static bool wall_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    struct kvmclock *k = context;
    if (value & 3)
        return false;
    uint64_t epoch = clock_epoch_ns(k->clock);
    struct wall_clock w = {.seconds = (uint32_t)(epoch / NS_PER_S),
                           .nanoseconds = (uint32_t)(epoch % NS_PER_S)};
    __atomic_store_n(&k->wall, value, __ATOMIC_RELAXED);
    uint32_t version = __atomic_add_fetch(&k->wall_version, 2, __ATOMIC_RELAXED);
    if (value != 0)
        publish(k, value, version, &w, sizeof(w));
    return true;
}

static int register_msrs(struct kvmclock *k, struct msr_table *msrs, struct error *e)
{
    static const uint32_t wall[] = {MSR_WALL_CLOCK, MSR_KVM_WALL_CLOCK_NEW};
    static const uint32_t system_time[] = {MSR_SYSTEM_TIME, MSR_KVM_SYSTEM_TIME_NEW};
    int err = 0;
    for (unsigned i = 0; err == 0 && i < 2; i++) {
        struct msr_entry w = {wall[i], wall[i], "KVM_WALL_CLOCK", wall_read, wall_write, k};
        struct msr_entry t = {system_time[i],   system_time[i],    "KVM_SYSTEM_TIME",
                              system_time_read, system_time_write, k};
        err = msr_register(msrs, w, e);
        if (err == 0)
            err = msr_register(msrs, t, e);
    }
    return err;
}

int kvmclock_create(struct kvmclock **out, struct mem *mem, struct vm_clock *clock,
                    struct msr_table *msrs, unsigned vcpu_count, struct error *e)
{
    if (vcpu_count > VCPUS_MAX)
        return error_set(e, EINVAL, "kvmclock serves at most %u vCPUs", VCPUS_MAX);
    struct kvmclock *k = calloc(1, sizeof(*k));
    if (k == NULL)
        return error_set(e, ENOMEM, "no memory for kvmclock");
    k->mem = mem;
    k->clock = clock;
    k->vcpu_count = vcpu_count;
    int err = register_msrs(k, msrs, e);
    if (err != 0) {
        kvmclock_destroy(k);
        return err;
    }
    *out = k;
    return 0;
}

void kvmclock_destroy(struct kvmclock *k)
{
    free(k);
}

void kvmclock_reset(struct kvmclock *k)
{
    k->wall = 0;
    memset(k->system_time, 0, sizeof(k->system_time));
    memset(k->interrupted, 0, sizeof(k->interrupted));
}

static int state_check(const void *object, struct error *e)
{
    const struct kvmclock *k = object;
    if (k->wall & 3)
        return error_set(e, EINVAL, "saved state: kvmclock: wall is not aligned");
    for (unsigned i = 0; i < VCPUS_MAX; i++) {
        if ((k->system_time[i] & 2) || (k->version[i] & 1))
            return error_set(e, EINVAL, "saved state: kvmclock: system_time or version of vCPU %u",
                             i);
    }
    if (k->wall_version & 1)
        return error_set(e, EINVAL, "saved state: kvmclock: wall_version is odd");
    return 0;
}

static void state_loaded(void *object)
{
    struct kvmclock *k = object;
    memset(k->interrupted, 0, sizeof(k->interrupted));
}

/* The pages are in the saved memory. */
static const struct field state_fields[] = {
    FIELD(struct kvmclock, wall),
    FIELD_ARRAY(struct kvmclock, system_time),
    FIELD_ARRAY(struct kvmclock, version),
    FIELD(struct kvmclock, wall_version),
    FIELD_END,
};

const struct field_table kvmclock_state = {
    .name = "kvmclock",
    .version = 1,
    .size = sizeof(struct kvmclock),
    .fields = state_fields,
    .check = state_check,
    .loaded = state_loaded,
};
