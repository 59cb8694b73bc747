/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's timer (SDM 3A 10.5.4). It counts at 1 GHz over the divide value, so that a tick
 * is a whole number of nanoseconds.
 *
 * Periodic ticks that come while the vector still waits in IRR make a backlog of at most one
 * second, delivered one at each acknowledge; the rest is counted (decision 17).
 *
 * Threads: the local APIC's lock is held; fire is called by the clock with it. The guest controls
 * counts, divide, mode and deadline.
 */
#include "irq/internal.h"

/* The shortest distance of two expiries of a periodic timer that doppel serves one by one; ticks
 * between them are due together. A guest must not keep the clock's thread busy. */
#define PERIOD_MIN_NS 20000u
#define BACKLOG_NS    1000000000u

static uint64_t tick_ns(const struct lapic *l)
{
    unsigned code = (l->timer_divide & 3) | (l->timer_divide >> 1 & 4);
    return code == 7 ? 1 : 2u << code;
}

static uint32_t mode(const struct lapic *l)
{
    return l->lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

static void stop(struct lapic *l)
{
    l->timer_running = 0;
    l->backlog = 0;
    l->tsc_deadline = 0;
    clock_disarm(l->irq->clock, &l->timer);
}

void lapic_timer_reset_locked(struct lapic *l)
{
    stop(l);
    l->timer_initial = l->timer_divide = 0;
    l->timer_start = l->timer_next = 0;
    l->lost = 0;
}

uint32_t lapic_timer_current_locked(const struct lapic *l)
{
    if (!l->timer_running)
        return 0;
    uint64_t ticks = (clock_now(l->irq->clock) - l->timer_start) / tick_ns(l);
    if (mode(l) == TIMER_PERIODIC)
        ticks %= l->timer_initial;
    return ticks < l->timer_initial ? l->timer_initial - (uint32_t)ticks : 0;
}

void lapic_timer_write_initial_locked(struct lapic *l, uint32_t value)
{
    if (mode(l) == TIMER_DEADLINE)
        return;
    stop(l);
    l->timer_initial = value;
    if (value == 0)
        return;
    l->timer_running = 1;
    l->timer_start = clock_now(l->irq->clock);
    l->timer_next = l->timer_start + value * tick_ns(l);
    clock_arm(l->irq->clock, &l->timer, l->timer_next);
}

/* The count goes on from where it is, at the new rate. */
void lapic_timer_write_divide_locked(struct lapic *l, uint32_t value)
{
    uint32_t current = lapic_timer_current_locked(l);
    l->timer_divide = value & 0xb;
    if (!l->timer_running)
        return;
    uint64_t now = clock_now(l->irq->clock);
    l->timer_start = now - (l->timer_initial - current) * tick_ns(l);
    l->timer_next = now + current * tick_ns(l);
    clock_arm(l->irq->clock, &l->timer, l->timer_next);
}

/* From periodic to one-shot the count goes on to the end of this period; from one-shot to periodic
 * a count that has ended stays at zero, also when the clock has not yet come to fire it. */
static void change_repeat(struct lapic *l)
{
    uint64_t now = clock_now(l->irq->clock);
    if (!l->timer_running)
        return;
    if (mode(l) != TIMER_PERIODIC) {
        l->timer_start = l->timer_next - l->timer_initial * tick_ns(l);
    } else if (now >= l->timer_next) {
        stop(l);
        lapic_fire_lvt_locked(l, LVT_TIMER);
    }
}

/* SDM 3A 10.5.4.1: a change between TSC-deadline and another mode disarms the timer. */
void lapic_timer_mode_changed_locked(struct lapic *l, uint32_t old_lvt)
{
    uint32_t old = old_lvt & LVT_TIMER_MODE;
    if (old != mode(l) && (old == TIMER_DEADLINE || mode(l) == TIMER_DEADLINE)) {
        stop(l);
        l->timer_initial = 0;
    } else if (old != mode(l)) {
        change_repeat(l);
    }
    if ((l->lvt[LVT_TIMER] & LVT_MASKED) || mode(l) != TIMER_PERIODIC)
        l->backlog = 0;
}

static void arm_deadline(struct lapic *l)
{
    uint64_t now = clock_tsc(l->irq->clock);
    uint64_t guest_now = now + l->vcpu->tsc_offset;
    if (l->tsc_deadline <= guest_now) {
        clock_disarm(l->irq->clock, &l->timer);
        l->tsc_deadline = 0;
        lapic_fire_lvt_locked(l, LVT_TIMER);
        return;
    }
    uint64_t at = now + (l->tsc_deadline - guest_now);
    clock_arm(l->irq->clock, &l->timer,
              at < now ? CLOCK_NEVER : clock_tsc_to_ns(l->irq->clock, at));
}

void lapic_timer_write_deadline_locked(struct lapic *l, uint64_t deadline)
{
    if (mode(l) != TIMER_DEADLINE)
        return;
    l->tsc_deadline = deadline;
    lapic_timer_rearm_locked(l);
}

void lapic_timer_rearm_locked(struct lapic *l)
{
    if (mode(l) == TIMER_DEADLINE && l->tsc_deadline != 0)
        arm_deadline(l);
    else
        clock_arm(l->irq->clock, &l->timer, l->timer_running ? l->timer_next : CLOCK_NEVER);
}

static bool in_irr(const struct lapic *l, uint8_t vector)
{
    return l->irr[vector >> 5] & (1u << (vector & 31));
}

/* `due` periods have ended. */
static void tick_periodic(struct lapic *l, uint64_t due, uint64_t period)
{
    if (l->lvt[LVT_TIMER] & LVT_MASKED)
        return;
    if (!in_irr(l, (uint8_t)l->lvt[LVT_TIMER])) {
        lapic_fire_lvt_locked(l, LVT_TIMER);
        due--;
    }
    uint64_t most = BACKLOG_NS / period;
    l->backlog += due;
    if (l->backlog > most) {
        l->lost += l->backlog - most;
        l->backlog = most;
    }
}

bool lapic_timer_redeliver_locked(struct lapic *l, uint8_t acknowledged)
{
    if (l->backlog == 0 || (uint8_t)l->lvt[LVT_TIMER] != acknowledged)
        return false;
    l->backlog--;
    lapic_fire_lvt_locked(l, LVT_TIMER);
    return true;
}

void lapic_timer_fire(void *lapic)
{
    struct lapic *l = lapic;
    if (mode(l) == TIMER_DEADLINE) {
        l->tsc_deadline = 0;
        lapic_fire_lvt_locked(l, LVT_TIMER);
    } else if (!l->timer_running) {
        return;
    } else if (mode(l) != TIMER_PERIODIC) {
        l->timer_running = 0;
        lapic_fire_lvt_locked(l, LVT_TIMER);
    } else {
        uint64_t now = clock_now(l->irq->clock);
        uint64_t period = l->timer_initial * tick_ns(l);
        uint64_t due = (now - l->timer_next) / period + 1;
        l->timer_next += due * period;
        tick_periodic(l, due, period);
        uint64_t soonest = now + PERIOD_MIN_NS;
        clock_arm(l->irq->clock, &l->timer, l->timer_next > soonest ? l->timer_next : soonest);
    }
}
