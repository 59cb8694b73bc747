/* SPDX-License-Identifier: MIT */
/*
 * The features a guest may be offered (decision 18). What has no row here is never offered. Host
 * features are the user-mode instructions that engines run on the host processor and that Zydis 4.0
 * decodes; software features are those that doppel does itself.
 *
 * Left out on purpose:
 *  - state that the monitor never loads: PKU, OSPKE, CET, AMX, UINTR, MPX, XSAVES;
 *  - virtualization and enclaves: VMX, SVM, SGX, SMX, TME, PCONFIG;
 *  - waiting and shootdown: MONITOR/MWAIT, WAITPKG, INVLPGB, RDPRU;
 *  - RTM and HLE: a transaction cannot be run piecewise;
 *  - ERMS and FSRM: promises of speed for byte strings that interpretation does not keep; kernels
 *    then move quadwords, an eighth of the iterations;
 *  - performance counters, debug store, thermal and power control: no such hardware;
 *  - VME: virtual-8086 mode has no extensions;
 *  - MOVDIRI, MOVDIR64B, ENQCMD, CLDEMOTE, SERIALIZE, PTWRITE, AVX512_FP16, SSE4A, XOP, FMA4,
 * 3DNow!: not covered by the differential tests.
 */
#include "x86/cpuid.h"

#define EAX 0
#define EBX 1
#define ECX 2
#define EDX 3
#define ROW(name, leaf, subleaf, reg, bit, kind, base, vendor) \
    {                                                          \
        name, leaf, subleaf, reg, bit, kind, base, vendor      \
    }
#define HOST(name, leaf, subleaf, reg, bit) \
    ROW(name, leaf, subleaf, reg, bit, FEATURE_HOST, false, FEATURE_ANY)
#define HOST_BASE(name, leaf, subleaf, reg, bit) \
    ROW(name, leaf, subleaf, reg, bit, FEATURE_HOST, true, FEATURE_ANY)
#define SOFT(name, leaf, subleaf, reg, bit) \
    ROW(name, leaf, subleaf, reg, bit, FEATURE_SOFTWARE, true, FEATURE_ANY)
#define SOFT_MAX(name, leaf, subleaf, reg, bit) \
    ROW(name, leaf, subleaf, reg, bit, FEATURE_SOFTWARE, false, FEATURE_ANY)
#define SOFT_INTEL(name, leaf, subleaf, reg, bit) \
    ROW(name, leaf, subleaf, reg, bit, FEATURE_SOFTWARE, true, FEATURE_INTEL)
#define SOFT_AMD(name, leaf, subleaf, reg, bit) \
    ROW(name, leaf, subleaf, reg, bit, FEATURE_SOFTWARE, true, FEATURE_AMD)

const struct cpuid_feature cpuid_features[] = {
    HOST_BASE("SSE3", 1, 0, ECX, 0),
    HOST("PCLMULQDQ", 1, 0, ECX, 1),
    HOST_BASE("SSSE3", 1, 0, ECX, 9),
    HOST_BASE("FMA", 1, 0, ECX, 12),
    SOFT("CMPXCHG16B", 1, 0, ECX, 13),
    SOFT("PCID", 1, 0, ECX, 17),
    HOST_BASE("SSE4_1", 1, 0, ECX, 19),
    HOST_BASE("SSE4_2", 1, 0, ECX, 20),
    SOFT("x2APIC", 1, 0, ECX, 21),
    HOST_BASE("MOVBE", 1, 0, ECX, 22),
    HOST_BASE("POPCNT", 1, 0, ECX, 23),
    SOFT("TSC_DEADLINE", 1, 0, ECX, 24),
    HOST("AESNI", 1, 0, ECX, 25),
    HOST_BASE("XSAVE", 1, 0, ECX, 26),
    HOST_BASE("AVX", 1, 0, ECX, 28),
    HOST_BASE("F16C", 1, 0, ECX, 29),
    SOFT_MAX("RDRAND", 1, 0, ECX, 30), /* through the gate, from the host's kernel if need be */
    SOFT("hypervisor", 1, 0, ECX, 31),

    HOST_BASE("FPU", 1, 0, EDX, 0),
    SOFT("DE", 1, 0, EDX, 2),
    SOFT("PSE", 1, 0, EDX, 3),
    SOFT("TSC", 1, 0, EDX, 4),
    SOFT("MSR", 1, 0, EDX, 5),
    SOFT("PAE", 1, 0, EDX, 6),
    SOFT("MCE", 1, 0, EDX, 7),
    SOFT("CX8", 1, 0, EDX, 8),
    SOFT("APIC", 1, 0, EDX, 9),
    SOFT("SEP", 1, 0, EDX, 11),
    SOFT("MTRR", 1, 0, EDX, 12),
    SOFT("PGE", 1, 0, EDX, 13),
    SOFT("MCA", 1, 0, EDX, 14),
    SOFT("CMOV", 1, 0, EDX, 15),
    SOFT("PAT", 1, 0, EDX, 16),
    SOFT("PSE-36", 1, 0, EDX, 17),
    SOFT("CLFSH", 1, 0, EDX, 19),
    HOST_BASE("MMX", 1, 0, EDX, 23),
    HOST_BASE("FXSR", 1, 0, EDX, 24),
    HOST_BASE("SSE", 1, 0, EDX, 25),
    HOST_BASE("SSE2", 1, 0, EDX, 26),
    SOFT("SS", 1, 0, EDX, 27),

    SOFT("ARAT", 6, 0, EAX, 2),

    SOFT("FSGSBASE", 7, 0, EBX, 0),
    SOFT("TSC_ADJUST", 7, 0, EBX, 1),
    HOST_BASE("BMI1", 7, 0, EBX, 3),
    HOST_BASE("AVX2", 7, 0, EBX, 5),
    SOFT("SMEP", 7, 0, EBX, 7),
    HOST_BASE("BMI2", 7, 0, EBX, 8),
    SOFT("INVPCID", 7, 0, EBX, 10),
    SOFT("ZERO_FCS_FDS", 7, 0, EBX, 13),
    HOST("AVX512F", 7, 0, EBX, 16),
    HOST("AVX512DQ", 7, 0, EBX, 17),
    SOFT_MAX("RDSEED", 7, 0, EBX, 18),
    HOST("ADX", 7, 0, EBX, 19),
    SOFT("SMAP", 7, 0, EBX, 20),
    HOST("AVX512_IFMA", 7, 0, EBX, 21),
    HOST("CLFLUSHOPT", 7, 0, EBX, 23),
    HOST("CLWB", 7, 0, EBX, 24),
    HOST("AVX512CD", 7, 0, EBX, 28),
    HOST("SHA", 7, 0, EBX, 29),
    HOST("AVX512BW", 7, 0, EBX, 30),
    HOST("AVX512VL", 7, 0, EBX, 31),
    HOST("AVX512_VBMI", 7, 0, ECX, 1),
    SOFT("UMIP", 7, 0, ECX, 2),
    HOST("AVX512_VBMI2", 7, 0, ECX, 6),
    HOST("GFNI", 7, 0, ECX, 8),
    HOST("VAES", 7, 0, ECX, 9),
    HOST("VPCLMULQDQ", 7, 0, ECX, 10),
    HOST("AVX512_VNNI", 7, 0, ECX, 11),
    HOST("AVX512_BITALG", 7, 0, ECX, 12),
    HOST("AVX512_VPOPCNTDQ", 7, 0, ECX, 14),
    SOFT("LA57", 7, 0, ECX, 16),
    SOFT_MAX("RDPID", 7, 0, ECX, 22),
    HOST("AVX512_VP2INTERSECT", 7, 0, EDX, 8),
    SOFT_INTEL("IBRS/IBPB", 7, 0, EDX, 26),
    SOFT_INTEL("ARCH_CAPABILITIES", 7, 0, EDX, 29),
    HOST("AVX-VNNI", 7, 1, EAX, 4),
    HOST("AVX512_BF16", 7, 1, EAX, 5),

    SOFT_MAX("XSAVEOPT", 0xd, 1, EAX, 0),
    SOFT_MAX("XSAVEC", 0xd, 1, EAX, 1),
    SOFT_MAX("XGETBV1", 0xd, 1, EAX, 2),

    SOFT("LAHF/SAHF", 0x80000001, 0, ECX, 0),
    HOST_BASE("LZCNT", 0x80000001, 0, ECX, 5),
    HOST("PREFETCHW", 0x80000001, 0, ECX, 8),
    SOFT_AMD("TopologyExtensions", 0x80000001, 0, ECX, 22),
    SOFT("SYSCALL", 0x80000001, 0, EDX, 11),
    SOFT("NX", 0x80000001, 0, EDX, 20),
    SOFT("Page1GB", 0x80000001, 0, EDX, 26),
    SOFT("RDTSCP", 0x80000001, 0, EDX, 27),
    SOFT("LM", 0x80000001, 0, EDX, 29),
    SOFT("TscInvariant", 0x80000007, 0, EDX, 8),

    /* AMD's (volume 3, E.4.7, E.4.16, and the papers on each attack), the immunity bits of decision
     * 20 among them. XRSTOR and FXRSTOR load the error pointers always (fpu.c), a null selector has
     * base 0 (segment.c), EFER has no LMSLE, and there is no SMM. */
    SOFT_AMD("RstrFpErrPtrs", 0x80000008, 0, EBX, 2),
    SOFT_AMD("IBPB", 0x80000008, 0, EBX, 12),
    SOFT_AMD("IBRS", 0x80000008, 0, EBX, 14),
    SOFT_AMD("EferLmsleUnsupported", 0x80000008, 0, EBX, 20),
    SOFT_AMD("SSB_NO", 0x80000008, 0, EBX, 26),
    SOFT_AMD("BTC_NO", 0x80000008, 0, EBX, 29),
    SOFT_AMD("IBPB_RET", 0x80000008, 0, EBX, 30),
    SOFT_AMD("LFenceAlwaysSerializing", 0x80000021, 0, EAX, 2),
    SOFT_AMD("NullSelectorClearsBase", 0x80000021, 0, EAX, 6),
    SOFT_AMD("AutomaticIBRS", 0x80000021, 0, EAX, 8),
    SOFT_AMD("NoSmmCtlMSR", 0x80000021, 0, EAX, 9),
    SOFT_AMD("SRSO_NO", 0x80000021, 0, EAX, 29),
    SOFT_AMD("TSA_SQ_NO", 0x80000021, 0, ECX, 1),
    SOFT_AMD("TSA_L1_NO", 0x80000021, 0, ECX, 2),

    /* KVM's paravirtual leaf (Linux, Documentation/virt/kvm/x86/cpuid.rst) */
    SOFT("KVM_FEATURE_NOP_IO_DELAY", 0x40000001, 0, EAX, 1),
    SOFT("KVM_FEATURE_CLOCKSOURCE2", 0x40000001, 0, EAX, 3),
    SOFT("KVM_FEATURE_STEAL_TIME", 0x40000001, 0, EAX, 5),
    SOFT("KVM_FEATURE_PV_SEND_IPI", 0x40000001, 0, EAX, 11),
    SOFT("KVM_FEATURE_CLOCKSOURCE_STABLE_BIT", 0x40000001, 0, EAX, 24),
};

const unsigned cpuid_feature_count = sizeof(cpuid_features) / sizeof(cpuid_features[0]);

/* What a feature stands on (SDM 1 chapters 11 to 15, SDM 2A CPUID): where that is missing, it is
 * not offered either. */
const struct cpuid_need cpuid_needs[] = {
    {"FXSR", "FPU"},
    {"MMX", "FPU"},
    {"SSE", "FXSR"},
    {"SSE2", "SSE"},
    {"SSE3", "SSE2"},
    {"PCLMULQDQ", "SSE2"},
    {"AESNI", "SSE2"},
    {"SHA", "SSE2"},
    {"GFNI", "SSE2"},
    {"SSSE3", "SSE3"},
    {"SSE4_1", "SSSE3"},
    {"SSE4_2", "SSE4_1"},
    {"XSAVE", "FXSR"},
    {"XSAVEOPT", "XSAVE"},
    {"XSAVEC", "XSAVE"},
    {"XGETBV1", "XSAVE"},
    {"AVX", "XSAVE"},
    {"AVX", "SSE4_2"},
    {"FMA", "AVX"},
    {"F16C", "AVX"},
    {"VAES", "AVX"},
    {"VPCLMULQDQ", "AVX"},
    {"AVX2", "AVX"},
    {"AVX-VNNI", "AVX2"},
    {"AVX512F", "AVX2"},
    {"AVX512DQ", "AVX512F"},
    {"AVX512_IFMA", "AVX512F"},
    {"AVX512CD", "AVX512F"},
    {"AVX512BW", "AVX512F"},
    {"AVX512VL", "AVX512F"},
    {"AVX512_VBMI", "AVX512BW"},
    {"AVX512_VBMI2", "AVX512BW"},
    {"AVX512_VNNI", "AVX512F"},
    {"AVX512_BITALG", "AVX512BW"},
    {"AVX512_VPOPCNTDQ", "AVX512F"},
    {"AVX512_VP2INTERSECT", "AVX512F"},
    {"AVX512_BF16", "AVX512BW"},
    {"PSE-36", "PSE"},
    {"x2APIC", "APIC"},
    {"TSC_DEADLINE", "APIC"},
    {"TSC_DEADLINE", "TSC"},
    {"TSC_ADJUST", "TSC"},
    {"RDTSCP", "TSC"},
    {"TscInvariant", "TSC"},
    {"ARAT", "APIC"},
    {"LA57", "LM"},
    {"PCID", "LM"},
    {"FSGSBASE", "LM"},
    {"Page1GB", "LM"},
    {"LM", "PAE"},
    {"NX", "PAE"},
};

const unsigned cpuid_need_count = sizeof(cpuid_needs) / sizeof(cpuid_needs[0]);
