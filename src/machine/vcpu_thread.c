/* SPDX-License-Identifier: MIT */
/*
 * The vCPU's thread: engine->run between instruction boundaries, sleep in HLT, and the instruction
 * clock's timers.
 *
 * Real clock: run has no limit; the clock's own thread fires timers, and HLT sleeps until a request
 * comes that can end it. Instruction clock: run is limited to the next deadline, exactly; timers
 * fire here, and HLT moves time forward to the next deadline instead of sleeping, so that two runs
 * are equal to the instruction. When a device arms a nearer timer during run, the limit moves
 * closer (machine_rearmed).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"
#include "machine/internal.h"

uint64_t machine_host_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t machine_instructions(void *context)
{
    struct machine *m = context;
    return m->pc.vcpu_count > 0 ? m->pc.vcpus[0]->counters.instructions : 0;
}

#define LIMIT_FAR (ENGINE_NO_LIMIT - 1) /* never reached, but the instructions are counted */

/* The count of instructions at which the earliest timer is due, never early. */
static uint64_t next_limit(struct machine *m)
{
    uint64_t deadline = clock_deadline(m->pc.clock);
    uint64_t now = clock_now(m->pc.clock), done = machine_instructions(m), limit;

    if (deadline == CLOCK_NEVER)
        return LIMIT_FAR;
    if (deadline <= now)
        return done;
    uint64_t more = (deadline - now - 1) / CLOCK_NS_PER_INSTRUCTION + 1;
    return __builtin_add_overflow(done, more, &limit) ? LIMIT_FAR : limit;
}

void machine_rearmed(void *context)
{
    struct machine *m = context;

    if (m->config.clock != CLOCK_SOURCE_INSTRUCTIONS || m->pc.vcpu_count == 0)
        return;
    struct vcpu *v = m->pc.vcpus[0];
    if (!pthread_equal(pthread_self(), m->threads[0].thread)) {
        vcpu_request(v, VCPU_REQUEST_STOP); /* comes back here and takes a new limit */
        return;
    }
    uint64_t limit = next_limit(m);
    if (limit < v->instruction_limit) {
        v->instruction_limit = limit;
        vcpu_request(v, VCPU_REQUEST_LIMIT);
    }
}

/* Requests that end the vCPU's sleep (SDM 2A HLT; SDM 3A 6.8, 8.4). */
static uint32_t waking(const struct vcpu *v)
{
    uint32_t wanted = VCPU_REQUEST_STOP | VCPU_REQUEST_INIT;

    if (v->activity == VCPU_WAIT_FOR_SIPI)
        return wanted | VCPU_REQUEST_SIPI;
    if (!v->nmi_blocked)
        wanted |= VCPU_REQUEST_NMI;
    if (v->rflags & FLAG_IF)
        wanted |= VCPU_REQUEST_INTR;
    return wanted;
}

static void halted(struct machine *m, struct vcpu *v)
{
    uint32_t wanted = waking(v);
    uint64_t start = machine_host_ns();

    while (!(vcpu_requests(v) & wanted)) {
        uint64_t deadline = CLOCK_NEVER;
        if (m->config.clock == CLOCK_SOURCE_INSTRUCTIONS)
            deadline = clock_deadline(m->pc.clock);
        if (deadline == CLOCK_NEVER) {
            vcpu_wait(v, wanted, UINT64_MAX);
        } else {
            clock_skip(m->pc.clock, deadline);
            clock_poll(m->pc.clock);
        }
    }
    v->counters.exit_ns[EXIT_HLT] += machine_host_ns() - start;
}

static void run_once(struct machine *m, struct vcpu *v)
{
    bool counted = m->config.clock == CLOCK_SOURCE_INSTRUCTIONS;

    if (counted)
        clock_poll(m->pc.clock);
    v->instruction_limit = counted ? next_limit(m) : ENGINE_NO_LIMIT;
    switch (m->pc.engine->run(v, v->instruction_limit)) {
    case EXIT_NONE:
    case EXIT_REQUEST:
        break;
    case EXIT_HLT:
        halted(m, v);
        break;
    case EXIT_SHUTDOWN:
        machine_post(m, MACHINE_EVENT_TRIPLE_FAULT, v->id);
        break;
    default: /* EXIT_ERROR: the engine has logged why */
        machine_post(m, MACHINE_EVENT_FAILED, 0);
        break;
    }
}

static void *vcpu_main(void *context)
{
    struct machine_thread *t = context;

    thread_prompt(); /* out of HLT */
    while (machine_thread_may_run(t))
        run_once(t->machine, t->vcpu);
    return NULL;
}

int machine_thread_start(struct machine_thread *t, struct error *e)
{
    char name[16];
    int rc = pthread_create(&t->thread, NULL, vcpu_main, t);

    if (rc != 0)
        return error_set(e, rc, "cannot start the thread of processor %u: %s", t->vcpu->id,
                         strerror(rc));
    t->started = true;
    snprintf(name, sizeof(name), "vcpu %u", t->vcpu->id);
    pthread_setname_np(t->thread, name);
    return 0;
}
