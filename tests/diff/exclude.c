/* SPDX-License-Identifier: MIT */
/* What cannot be compared with the processor, and why. Anything that is not named here is run, the
 * privileged instructions too: at CPL 3 they fault, which is compared. */
#include "forms.h"

static const struct {
    ZydisMnemonic mnemonic;
    const char *reason;
} exclusions[] = {
#define TIME "not a function of the state: time or counters"
    {ZYDIS_MNEMONIC_RDTSC, TIME},     {ZYDIS_MNEMONIC_RDTSCP, TIME},
    {ZYDIS_MNEMONIC_RDPMC, TIME},
#define CHANCE "not a function of the state: random numbers"
    {ZYDIS_MNEMONIC_RDRAND, CHANCE},  {ZYDIS_MNEMONIC_RDSEED, CHANCE},
#define MODEL "answers by the CPUID model or the machine, not the host"
    {ZYDIS_MNEMONIC_CPUID, MODEL},    {ZYDIS_MNEMONIC_XGETBV, MODEL},
    {ZYDIS_MNEMONIC_RDPID, MODEL},
#define KERNEL "enters the host's kernel"
    {ZYDIS_MNEMONIC_SYSCALL, KERNEL}, {ZYDIS_MNEMONIC_SYSENTER, KERNEL},
#define UMIP "the host's kernel emulates it under UMIP"
    {ZYDIS_MNEMONIC_SGDT, UMIP},      {ZYDIS_MNEMONIC_SIDT, UMIP},
    {ZYDIS_MNEMONIC_SLDT, UMIP},      {ZYDIS_MNEMONIC_STR, UMIP},
    {ZYDIS_MNEMONIC_SMSW, UMIP},
#define TRAP "its #DB cannot be told from the oracle's single step"
    {ZYDIS_MNEMONIC_INT1, TRAP},
};

const char *const form_partial_exclusions[] = {
    "int imm8: 80 enters the host's kernel",
    "popf, iret: images never set TF (the oracle's) or AC (memory accesses then raise #AC)",
    "every form: RFLAGS.TF, AC, NT, ID and RF are clear before it (sigreturn sets none of NT and "
    "ID)",
    "xsave, xrstor: components that the host's XCR0 has and the model's has not are not asked for",
    NULL,
};

const char *form_exclusion(const ZydisDecodedInstruction *insn)
{
    for (unsigned i = 0; i < sizeof(exclusions) / sizeof(exclusions[0]); i++)
        if (insn->mnemonic == exclusions[i].mnemonic)
            return exclusions[i].reason;
    return NULL;
}
