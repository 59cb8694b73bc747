/* SPDX-License-Identifier: MIT */
/* MSR dispatch (decision 15): one table per VM, built at wiring time. x86/ registers its own
 * entries, the local APIC and kvmclock register theirs. An MSR nobody registered raises #GP(0) and
 * is counted. */
#ifndef DOPPEL_X86_MSR_H
#define DOPPEL_X86_MSR_H

#include "x86/vcpu.h"

struct msr_entry {
    uint32_t first, last;
    const char *name;
    /* false = #GP(0). context is per VM; the vCPU is passed. A NULL write makes it read-only. */
    bool (*read)(void *context, struct vcpu *v, uint32_t index, uint64_t *value);
    bool (*write)(void *context, struct vcpu *v, uint32_t index, uint64_t value);
    void *context;
};

#define MSR_ENTRIES_MAX 64
struct msr_table {
    struct msr_entry entries[MSR_ENTRIES_MAX]; /* sorted by first, disjoint */
    unsigned count;
    _Atomic uint64_t unknown_reads, unknown_writes;
};

void msr_table_init(struct msr_table *t); /* with the processor's own MSRs */
int msr_register(struct msr_table *t, struct msr_entry entry, struct error *e);

/* RDMSR, WRMSR after the CPL check; false = #GP(0). */
bool msr_read(struct vcpu *v, uint32_t index, uint64_t *value);
bool msr_write(struct vcpu *v, uint32_t index, uint64_t value);

#endif
