/* SPDX-License-Identifier: MIT */
/*
 * Steal time (Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME; CPUID 0x40000001 EAX
 * bit 5): the guest names 64 bytes by an MSR, and finds there how long its vCPU wanted to run and
 * did not. What is counted is the host's run delay of the vCPU's thread: waiting for a processor,
 * or held by a cap (--cpu-cap). HLT, a pause and a stopped process are not in it.
 *
 * Thread: the vCPU's own. The guest controls the address.
 */
#ifndef DOPPEL_X86_STEAL_TIME_H
#define DOPPEL_X86_STEAL_TIME_H

#include "x86/msr.h"

#define MSR_KVM_STEAL_TIME 0x4b564d03u

struct steal_time;

/* Registers the MSR for vCPUs 0 to vcpu_count - 1. */
int steal_time_create(struct steal_time **out, struct mem *mem, struct vm_clock *clock,
                      struct msr_table *msrs, unsigned vcpu_count, struct error *e);
void steal_time_destroy(struct steal_time *s);
void steal_time_reset(struct steal_time *s);

/* Before an interrupt is delivered: brings v's structure up to date, at most once in
 * STEAL_TIME_PERIOD_NS. The guest looks at it in its timer tick, so no timer of ours is needed. */
#define STEAL_TIME_PERIOD_NS 1000000u
void steal_time_update(struct steal_time *s, struct vcpu *v);

/* The run delay of the calling thread in ns since it began; 0 where the host does not count it. */
uint64_t steal_time_host_ns(void);

extern const struct field_table steal_time_state;

#endif
