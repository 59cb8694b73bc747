/* SPDX-License-Identifier: MIT */
/* The CPUID model (decision 18): what the guest is told, composed from a table. User-mode features
 * = host and decoder and tested; system features = what the software implements; vendor = host's.
 */
#ifndef DOPPEL_X86_CPUID_H
#define DOPPEL_X86_CPUID_H

#include "x86/vcpu.h"

struct cpuid_entry {
    uint32_t leaf, subleaf;
    bool indexed; /* subleaf matters */
    uint32_t eax, ebx, ecx, edx;
};

#define CPUID_ENTRIES_MAX 128
struct cpuid_model {
    struct cpuid_entry entries[CPUID_ENTRIES_MAX];
    unsigned count;
    uint64_t xcr0_supported;
    uint32_t xsave_size; /* of all supported components */
    uint32_t tsc_khz;
};

/* name: "max" (all that host and software have) or "base" (x86-64-v3). -EINVAL names an unknown
 * model; -ENOTSUP a host that lacks what the model needs. */
int cpuid_model_build(struct cpuid_model *m, const char *name, uint64_t tsc_hz, unsigned cpus,
                      struct error *e);

/* CPUID as executed by v: with APIC ID, OSXSAVE, XSAVE size by XCR0, out-of-range leaf rules. */
void cpuid_execute(const struct vcpu *v, uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);

/* One feature bit of the model: cpuid_has(m, 7, 0, 1, 5) = leaf 7.0 EBX bit 5 (register 0…3). */
bool cpuid_has(const struct cpuid_model *m, uint32_t leaf, uint32_t subleaf, unsigned reg,
               unsigned bit);

#endif
