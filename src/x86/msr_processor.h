/* SPDX-License-Identifier: MIT */
/* The processor's own MSRs, which msr_table_init registers. */
#ifndef DOPPEL_X86_MSR_PROCESSOR_H
#define DOPPEL_X86_MSR_PROCESSOR_H

#include "x86/msr.h"

extern const struct msr_entry msr_processor[];
extern const unsigned msr_processor_count;

/* false = the model lacks the feature that brings the MSR: RDMSR and WRMSR raise #GP(0). */
bool msr_offered(const struct cpuid_model *m, uint32_t index);

#endif
