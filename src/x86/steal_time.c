/* SPDX-License-Identifier: MIT */
/*
 * Steal time; see steal_time.h. The host's count comes through the gate, as all that the guest's
 * state does not determine. It begins with the thread, the guest's with its first enable; `steal`
 * is the guest's, and goes on where it was after a saved machine was loaded.
 */
#include "x86/steal_time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock/clock.h"
#include "engine/gate.h"

#define VCPUS_MAX      256u
#define STEAL_ENABLE   1u
#define STEAL_RESERVED 0x3eu /* the structure is 64-byte aligned */

/* struct kvm_steal_time */
struct steal_record {
    uint64_t steal;
    uint32_t version, flags;
    uint8_t preempted, pad[47];
};
_Static_assert(sizeof(struct steal_record) == 64, "the guest's layout");

struct steal_time {
    struct mem *mem;
    struct vm_clock *clock;
    unsigned vcpu_count;
    /* By vCPU; each thread has its own. */
    uint64_t msr[VCPUS_MAX];
    uint64_t steal[VCPUS_MAX];
    uint32_t version[VCPUS_MAX]; /* even */
    uint64_t host[VCPUS_MAX];    /* the host's count at the last look */
    uint64_t next[VCPUS_MAX];    /* clock_now of the next look */
};

/* "time on the processor, run delay, times run" (Linux Documentation/scheduler/sched-stats.rst).
 * thread-self is the thread that opens. */
uint64_t steal_time_host_ns(void)
{
    char text[96];
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;

    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    char *delay = strchr(text, ' ');
    return delay != NULL ? strtoull(delay, NULL, 10) : 0;
}

/* An odd version tells a reader that the rest is changing. Only the first 16 bytes are ours: the
 * guest may clear `preempted`, which is never set here. */
static void publish(struct steal_time *s, unsigned cpu)
{
    gpa_t at = GPA(s->msr[cpu] & ~(uint64_t)(STEAL_ENABLE | STEAL_RESERVED));
    uint32_t odd = s->version[cpu] + 1;
    uint64_t version = offsetof(struct steal_record, version);

    if (!mem_contains(s->mem, at, sizeof(struct steal_record)))
        return;
    s->version[cpu] += 2;
    mem_write(s->mem, GPA(at.v + version), &odd, sizeof(odd));
    atomic_thread_fence(memory_order_seq_cst);
    mem_write(s->mem, at, &s->steal[cpu], sizeof(s->steal[cpu]));
    atomic_thread_fence(memory_order_seq_cst);
    mem_write(s->mem, GPA(at.v + version), &s->version[cpu], sizeof(s->version[cpu]));
}

void steal_time_update(struct steal_time *s, struct vcpu *v)
{
    if (v->id >= s->vcpu_count || !(s->msr[v->id] & STEAL_ENABLE))
        return;
    uint64_t now = clock_now(s->clock);
    if (now < s->next[v->id])
        return;
    s->next[v->id] = now + STEAL_TIME_PERIOD_NS;
    uint64_t host = v->platform->gate->steal(v), before = s->host[v->id];
    s->host[v->id] = host;
    if (host <= before) /* nothing new, or another thread's count */
        return;
    s->steal[v->id] += host - before;
    publish(s, v->id);
}

static bool msr_get(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    struct steal_time *s = context;
    if (v->id >= s->vcpu_count)
        return false;
    *value = s->msr[v->id];
    return true;
}

static bool msr_set(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    struct steal_time *s = context;
    if (v->id >= s->vcpu_count || (value & STEAL_RESERVED))
        return false;
    s->msr[v->id] = value;
    if (!(value & STEAL_ENABLE))
        return true;
    struct steal_record none = {.version = s->version[v->id]};
    none.steal = s->steal[v->id];
    s->host[v->id] = v->platform->gate->steal(v);
    s->next[v->id] = clock_now(s->clock) + STEAL_TIME_PERIOD_NS;
    mem_write(s->mem, GPA(value & ~(uint64_t)STEAL_ENABLE), &none, sizeof(none));
    return true;
}

int steal_time_create(struct steal_time **out, struct mem *mem, struct vm_clock *clock,
                      struct msr_table *msrs, unsigned vcpu_count, struct error *e)
{
    if (vcpu_count > VCPUS_MAX)
        return error_set(e, EINVAL, "steal time serves at most %u vCPUs", VCPUS_MAX);
    struct steal_time *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return error_set(e, ENOMEM, "no memory for steal time");
    s->mem = mem;
    s->clock = clock;
    s->vcpu_count = vcpu_count;
    struct msr_entry entry = {
        MSR_KVM_STEAL_TIME, MSR_KVM_STEAL_TIME, "KVM_STEAL_TIME", msr_get, msr_set, s};
    int err = msr_register(msrs, entry, e);
    if (err != 0) {
        free(s);
        return err;
    }
    *out = s;
    return 0;
}

void steal_time_destroy(struct steal_time *s)
{
    free(s);
}

void steal_time_reset(struct steal_time *s)
{
    memset(s->msr, 0, sizeof(s->msr));
}

static int state_check(const void *object, struct error *e)
{
    const struct steal_time *s = object;
    for (unsigned i = 0; i < VCPUS_MAX; i++) {
        if ((s->msr[i] & STEAL_RESERVED) || (s->version[i] & 1))
            return error_set(e, EINVAL, "saved state: steal_time: msr or version of vCPU %u", i);
    }
    return 0;
}

/* The host's count is of threads that are not these: the first look after a load counts nothing. */
static void state_loaded(void *object)
{
    struct steal_time *s = object;
    for (unsigned i = 0; i < VCPUS_MAX; i++)
        s->host[i] = UINT64_MAX;
    memset(s->next, 0, sizeof(s->next));
}

static const struct field state_fields[] = {
    FIELD_ARRAY(struct steal_time, msr),
    FIELD_ARRAY(struct steal_time, steal),
    FIELD_ARRAY(struct steal_time, version),
    FIELD_END,
};

const struct field_table steal_time_state = {
    .name = "steal_time",
    .version = 1,
    .size = sizeof(struct steal_time),
    .fields = state_fields,
    .check = state_check,
    .loaded = state_loaded,
};
