/* SPDX-License-Identifier: MIT */
/*
 * The VM clock; see clock.h.
 *
 * Both sources are one formula: now = elapsed + (counter - base) while running, where counter is
 * the host's CLOCK_MONOTONIC or the instructions retired in ns. Readers take no lock: a sequence
 * number tells them that start, stop or skip came between.
 *
 * The guest's TSC is this clock scaled, not the host's TSC scaled: then RDTSC, kvmclock and a TSC
 * deadline can never disagree with a timer, it is monotonic over vCPUs because CLOCK_MONOTONIC is,
 * no calibration is needed, and its frequency does not depend on the host, so that a saved VM goes
 * on anywhere. The price is the resolution of 1 ns and one call of the vDSO for each RDTSC.
 *
 * Timers: a sorted list under the clock's lock. The device's lock comes before the clock's, so the
 * firing thread may only try it while it holds the clock's; when it is taken, it lets go and looks
 * again. So a timer found in the list is alive and its device's lock exists, and once disarm has
 * returned neither is looked at.
 *
 * Threads: any. The guest controls deadlines, hence no arithmetic on them may overflow.
 */
#include "clock/clock.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"

#define NS_PER_S 1000000000u

/* 2024-01-01 00:00:00 UTC: where the instruction source begins, for equal runs. */
#define INSTRUCTION_EPOCH_S 1704067200u

/* A wait is cut at this, so that deadlines far away need no care. */
#define WAIT_MAX_NS (3600ull * NS_PER_S)

struct vm_clock {
    struct clock_config config;
    uint64_t epoch_ns;

    _Atomic uint32_t sequence; /* odd while the three below change */
    _Atomic bool running;
    _Atomic uint64_t elapsed; /* ns at the last start, stop or skip */
    _Atomic uint64_t base;    /* the counter at the last start */

    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    struct clock_timer *timers; /* earliest first; equal ones in the order of arming */
    bool firing, quit, started;
    pthread_t thread;
};

static uint64_t host_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t counter_ns(const struct vm_clock *c)
{
    if (c->config.source == CLOCK_SOURCE_REAL)
        return host_ns(CLOCK_MONOTONIC);
    return c->config.instructions(c->config.context) * CLOCK_NS_PER_INSTRUCTION;
}

uint64_t clock_now(struct vm_clock *c)
{
    for (;;) {
        uint32_t sequence = atomic_load(&c->sequence);
        uint64_t now = atomic_load_explicit(&c->elapsed, memory_order_relaxed);
        if (atomic_load_explicit(&c->running, memory_order_relaxed))
            now += counter_ns(c) - atomic_load_explicit(&c->base, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        if ((sequence & 1) == 0 &&
            atomic_load_explicit(&c->sequence, memory_order_relaxed) == sequence)
            return now;
        sched_yield();
    }
}

/* Lock held. skip_ns is added to the time; the count begins again from here. */
static void rebase_locked(struct vm_clock *c, bool running, uint64_t skip_ns)
{
    atomic_fetch_add(&c->sequence, 1);
    atomic_thread_fence(memory_order_seq_cst);
    uint64_t counter = counter_ns(c);
    if (atomic_load(&c->running))
        atomic_fetch_add(&c->elapsed, counter - atomic_load(&c->base));
    atomic_fetch_add(&c->elapsed, skip_ns);
    atomic_store(&c->base, counter);
    atomic_store(&c->running, running);
    atomic_fetch_add(&c->sequence, 1);
}

static uint64_t earliest_locked(const struct vm_clock *c)
{
    return c->timers != NULL ? c->timers->deadline : CLOCK_NEVER;
}

/* Fires the first timer whose time has come. Lock held, and dropped around fire. */
static bool fire_one_locked(struct vm_clock *c)
{
    struct clock_timer *t = c->timers;
    if (t == NULL || !atomic_load(&c->running) || t->deadline > clock_now(c))
        return false;
    if (pthread_mutex_trylock(t->lock) != 0) {
        pthread_mutex_unlock(&c->lock);
        sched_yield();
        pthread_mutex_lock(&c->lock);
        return true;
    }
    c->timers = t->next;
    t->deadline = CLOCK_NEVER;
    c->firing = true;
    pthread_mutex_unlock(&c->lock);

    pthread_mutex_t *device = t->lock;
    t->fire(t->context);
    pthread_mutex_unlock(device);

    pthread_mutex_lock(&c->lock);
    c->firing = false;
    pthread_cond_broadcast(&c->idle);
    return true;
}

static void wait_locked(struct vm_clock *c)
{
    uint64_t deadline = earliest_locked(c);
    if (!atomic_load(&c->running) || deadline == CLOCK_NEVER) {
        pthread_cond_wait(&c->wake, &c->lock);
        return;
    }
    uint64_t now = clock_now(c);
    uint64_t wait = deadline > now ? deadline - now : 0;
    uint64_t until = host_ns(CLOCK_MONOTONIC) + (wait < WAIT_MAX_NS ? wait : WAIT_MAX_NS);
    struct timespec t = {.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};
    pthread_cond_timedwait(&c->wake, &c->lock, &t);
}

static void *timer_thread(void *context)
{
    struct vm_clock *c = context;
    pthread_setname_np(pthread_self(), "clock");
    thread_prompt();
    pthread_mutex_lock(&c->lock);
    while (!c->quit) {
        if (!fire_one_locked(c))
            wait_locked(c);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static int start_thread(struct vm_clock *c)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
    int err = pthread_create(&c->thread, NULL, timer_thread, c);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return err;
}

int clock_create(const struct clock_config *config, struct vm_clock **out, struct error *e)
{
    struct vm_clock *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return error_set(e, ENOMEM, "no memory for the clock");
    c->config = *config;
    if (c->config.tsc_hz == 0)
        c->config.tsc_hz = CLOCK_TSC_HZ;
    c->epoch_ns = config->source == CLOCK_SOURCE_REAL ? host_ns(CLOCK_REALTIME)
                                                      : (uint64_t)INSTRUCTION_EPOCH_S * NS_PER_S;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->wake, &attributes);
    pthread_cond_init(&c->idle, NULL);
    pthread_condattr_destroy(&attributes);

    int err = config->source == CLOCK_SOURCE_REAL ? start_thread(c) : 0;
    if (err != 0) {
        c->config.source = CLOCK_SOURCE_INSTRUCTIONS; /* no thread to join */
        clock_destroy(c);
        return error_set(e, err, "cannot start the clock's thread: %s", strerror(err));
    }
    *out = c;
    return 0;
}

void clock_destroy(struct vm_clock *c)
{
    if (c == NULL)
        return;
    if (c->config.source == CLOCK_SOURCE_REAL) {
        pthread_mutex_lock(&c->lock);
        c->quit = true;
        pthread_cond_signal(&c->wake);
        pthread_mutex_unlock(&c->lock);
        pthread_join(c->thread, NULL);
    }
    pthread_cond_destroy(&c->idle);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void clock_start(struct vm_clock *c)
{
    pthread_mutex_lock(&c->lock);
    if (!atomic_load(&c->running)) {
        if (!c->started && c->config.source == CLOCK_SOURCE_REAL)
            c->epoch_ns = host_ns(CLOCK_REALTIME) - atomic_load(&c->elapsed);
        c->started = true;
        rebase_locked(c, true, 0);
        pthread_cond_signal(&c->wake);
    }
    pthread_mutex_unlock(&c->lock);
}

void clock_stop(struct vm_clock *c)
{
    pthread_mutex_lock(&c->lock);
    if (atomic_load(&c->running))
        rebase_locked(c, false, 0);
    while (c->firing)
        pthread_cond_wait(&c->idle, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

static uint64_t scale(uint64_t value, uint64_t multiplier, uint64_t divisor, bool up)
{
    unsigned __int128 product = (unsigned __int128)value * multiplier + (up ? divisor - 1 : 0);
    unsigned __int128 result = product / divisor;
    return result < CLOCK_NEVER ? (uint64_t)result : CLOCK_NEVER;
}

uint64_t clock_tsc(struct vm_clock *c)
{
    return clock_ns_to_tsc(c, clock_now(c));
}

uint64_t clock_tsc_hz(const struct vm_clock *c)
{
    return c->config.tsc_hz;
}

/* Rounded up, so that a timer armed for it finds the TSC there. */
uint64_t clock_tsc_to_ns(const struct vm_clock *c, uint64_t tsc)
{
    return c->config.tsc_hz == NS_PER_S ? tsc : scale(tsc, NS_PER_S, c->config.tsc_hz, true);
}

uint64_t clock_ns_to_tsc(const struct vm_clock *c, uint64_t ns)
{
    return c->config.tsc_hz == NS_PER_S ? ns : scale(ns, c->config.tsc_hz, NS_PER_S, false);
}

uint64_t clock_epoch(const struct vm_clock *c)
{
    return c->epoch_ns / NS_PER_S;
}

uint64_t clock_epoch_ns(const struct vm_clock *c)
{
    return c->epoch_ns;
}

void clock_timer_init(struct clock_timer *t, void (*fire)(void *context), void *context,
                      pthread_mutex_t *device_lock)
{
    *t = (struct clock_timer){
        .fire = fire, .context = context, .lock = device_lock, .deadline = CLOCK_NEVER};
}

static void remove_locked(struct vm_clock *c, struct clock_timer *t)
{
    if (t->deadline == CLOCK_NEVER)
        return;
    struct clock_timer **link = &c->timers;
    while (*link != t)
        link = &(*link)->next;
    *link = t->next;
    t->deadline = CLOCK_NEVER;
}

void clock_arm(struct vm_clock *c, struct clock_timer *t, uint64_t deadline_ns)
{
    pthread_mutex_lock(&c->lock);
    uint64_t before = earliest_locked(c);
    remove_locked(c, t);
    if (deadline_ns != CLOCK_NEVER) {
        struct clock_timer **link = &c->timers;
        while (*link != NULL && (*link)->deadline <= deadline_ns)
            link = &(*link)->next;
        t->deadline = deadline_ns;
        t->next = *link;
        *link = t;
    }
    bool closer = earliest_locked(c) < before;
    if (closer)
        pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    if (closer && c->config.rearmed != NULL)
        c->config.rearmed(c->config.context);
}

void clock_disarm(struct vm_clock *c, struct clock_timer *t)
{
    pthread_mutex_lock(&c->lock);
    remove_locked(c, t);
    pthread_mutex_unlock(&c->lock);
}

uint64_t clock_deadline(struct vm_clock *c)
{
    pthread_mutex_lock(&c->lock);
    uint64_t deadline = earliest_locked(c);
    pthread_mutex_unlock(&c->lock);
    return deadline;
}

void clock_poll(struct vm_clock *c)
{
    pthread_mutex_lock(&c->lock);
    while (fire_one_locked(c))
        ;
    pthread_mutex_unlock(&c->lock);
}

void clock_skip(struct vm_clock *c, uint64_t ns)
{
    pthread_mutex_lock(&c->lock);
    uint64_t now = clock_now(c);
    if (ns > now && ns != CLOCK_NEVER)
        rebase_locked(c, atomic_load(&c->running), ns - now);
    pthread_mutex_unlock(&c->lock);
}

/* A time of load so far ahead that deadlines would overflow is no time that was ever saved. */
static int state_check(const void *object, struct error *e)
{
    const struct vm_clock *c = object;
    if (atomic_load(&c->elapsed) >> 62 != 0)
        return error_set(e, EINVAL, "saved state: clock: elapsed is out of range");
    return 0;
}

static void state_loaded(void *object)
{
    struct vm_clock *c = object;
    c->started = true; /* the epoch is the saved one */
}

static const struct field state_fields[] = {
    FIELD(struct vm_clock, elapsed),
    FIELD(struct vm_clock, epoch_ns),
    FIELD_END,
};

const struct field_table clock_state = {
    .name = "clock",
    .version = 1,
    .size = sizeof(struct vm_clock),
    .fields = state_fields,
    .check = state_check,
    .loaded = state_loaded,
};
