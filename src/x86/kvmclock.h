/* SPDX-License-Identifier: MIT */
/*
 * The paravirtual clock that Linux calls kvmclock (Linux Documentation/virt/kvm/x86/msr.rst): the
 * guest names a page by an MSR, the host writes there how TSC and time belong together.
 *
 * It lies in x86/ because it is a feature of the processor: MSRs and CPUID bits, no bus.
 */
#ifndef DOPPEL_X86_KVMCLOCK_H
#define DOPPEL_X86_KVMCLOCK_H

#include "x86/msr.h"

struct kvmclock;

/* Registers MSRs 0x11, 0x12, 0x4b564d00, 0x4b564d01 for vCPUs 0 to vcpu_count - 1. */
int kvmclock_create(struct kvmclock **out, struct mem *mem, struct vm_clock *clock,
                    struct msr_table *msrs, unsigned vcpu_count, struct error *e);
void kvmclock_destroy(struct kvmclock *k);
void kvmclock_reset(struct kvmclock *k);

/* Writes v's page again, on v's thread: after v->tsc_offset was changed. */
void kvmclock_update(struct kvmclock *k, struct vcpu *v);

/* Before an interrupt is delivered to v, on its thread: when v has taken none for KVMCLOCK_GAP_NS,
 * tells the guest that it was not running (the flag GUEST_STOPPED), so that its watchdogs do not
 * take the host's doing for a lockup. Told in vain, they only begin to count anew. */
#define KVMCLOCK_GAP_NS 3000000000u
void kvmclock_interrupt(struct kvmclock *k, struct vcpu *v);

extern const struct field_table kvmclock_state;

#endif
