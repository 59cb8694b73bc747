/* SPDX-License-Identifier: MIT */
/* Which instruction sets a CPUID model offers: what it does not offer raises #UD, as on a processor
 * that does not have it. */
#ifndef DOPPEL_X86_ISA_H
#define DOPPEL_X86_ISA_H

#include <Zydis/Zydis.h>

#include "x86/cpuid.h"

bool isa_offered(const struct cpuid_model *m, ZydisISASet set);

#endif
