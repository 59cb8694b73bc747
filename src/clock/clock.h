/* SPDX-License-Identifier: MIT */
/*
 * The VM's one clock (decision 17). Devices read only this: nanoseconds since the machine started,
 * paused time not counted. Two sources:
 *  CLOCK_SOURCE_REAL          host CLOCK_MONOTONIC; timers fire on the clock's own thread;
 *  CLOCK_SOURCE_INSTRUCTIONS  instructions retired x CLOCK_NS_PER_INSTRUCTION plus the time skipped
 *                             while halted; timers fire on the vCPU thread, in clock_poll, so that
 *                             two runs are equal to the instruction.
 *
 * Timers: `fire` is called with the timer's device lock held, and never after clock_disarm or a
 * re-arm has returned (both are called with that same lock held). One-shots never fire early.
 * Lock order: device lock -> clock lock (a leaf).
 */
#ifndef DOPPEL_CLOCK_CLOCK_H
#define DOPPEL_CLOCK_CLOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/field.h"

#define CLOCK_NS_PER_INSTRUCTION 10u /* 100 million instructions a second of guest time */
#define CLOCK_NEVER              UINT64_MAX
#define CLOCK_TSC_HZ             1000000000u /* the guest's TSC unless the configuration says so */

enum clock_source { CLOCK_SOURCE_REAL, CLOCK_SOURCE_INSTRUCTIONS };

struct clock_timer {
    void (*fire)(void *context);
    void *context;
    pthread_mutex_t *lock; /* the device's; taken around fire */
    uint64_t deadline;     /* ns; CLOCK_NEVER = disarmed */
    struct clock_timer *next;
};

struct vm_clock;

/* instructions(context) returns instructions retired so far, exact at the calling instruction; used
 * only by CLOCK_SOURCE_INSTRUCTIONS. rearmed(context), may be NULL, is called when the earliest
 * deadline moved closer, so that the vCPU thread shortens its run. Starts paused at 0 ns. */
struct clock_config {
    enum clock_source source;
    uint64_t (*instructions)(void *context);
    void (*rearmed)(void *context);
    void *context;
    uint64_t tsc_hz; /* 0: CLOCK_TSC_HZ */
};
int clock_create(const struct clock_config *config, struct vm_clock **out, struct error *e);
void clock_destroy(struct vm_clock *c);

/* Time runs only between start and stop. After stop has returned no timer is being fired; the
 * caller of stop holds no device lock. */
void clock_start(struct vm_clock *c);
void clock_stop(struct vm_clock *c);

uint64_t clock_now(struct vm_clock *c); /* ns */

/* The guest's TSC: monotonic over vCPUs, clock_tsc_hz ticks a second of this clock. */
uint64_t clock_tsc(struct vm_clock *c);
uint64_t clock_tsc_hz(const struct vm_clock *c);
uint64_t clock_tsc_to_ns(const struct vm_clock *c, uint64_t tsc); /* the clock_now at that TSC */
uint64_t clock_ns_to_tsc(const struct vm_clock *c, uint64_t ns);

/* Seconds since the epoch (UTC) at clock_now() == 0: host time for the real source, a constant for
 * the instruction source. */
uint64_t clock_epoch(const struct vm_clock *c);
uint64_t clock_epoch_ns(const struct vm_clock *c); /* the same in ns */

/* Of a struct vm_clock that is stopped. Timers are re-armed by their devices. */
extern const struct field_table clock_state;

void clock_timer_init(struct clock_timer *t, void (*fire)(void *context), void *context,
                      pthread_mutex_t *device_lock);
void clock_arm(struct vm_clock *c, struct clock_timer *t, uint64_t deadline_ns);
void clock_disarm(struct vm_clock *c, struct clock_timer *t);

/* Instruction source only. Deadline: the earliest armed one, CLOCK_NEVER when none. poll fires all
 * that have passed. skip moves time forward to `ns` (the vCPU is halted). */
uint64_t clock_deadline(struct vm_clock *c);
void clock_poll(struct vm_clock *c);
void clock_skip(struct vm_clock *c, uint64_t ns);

#endif
