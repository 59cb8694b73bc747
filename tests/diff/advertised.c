/* SPDX-License-Identifier: MIT */
/* See advertised.h. */
#include "advertised.h"

#include <cpuid.h>

#include "x86/regs.h"

#ifdef DIFF_MODEL
#include "x86/cpuid.h"
#endif

enum { EAX, EBX, ECX, EDX };

/* Up to two feature bits of one leaf that a set needs. A leaf of
 * ALWAYS: part of every 64-bit processor. */
#define ALWAYS UINT32_MAX

struct need {
    uint32_t leaf, subleaf;
    uint8_t reg, bit;
};

struct set_needs {
    ZydisISASet first, last; /* ORDER ZydisISASet: consecutive sets of one feature */
    struct need need[2];
};

#define L1(r, b)   \
    {              \
        1, 0, r, b \
    }
#define L7(r, b)   \
    {              \
        7, 0, r, b \
    }
#define L71(r, b)  \
    {              \
        7, 1, r, b \
    }
#define LD1(b)        \
    {                 \
        13, 1, EAX, b \
    }
#define X1(r, b)            \
    {                       \
        0x80000001, 0, r, b \
    }
#define YES             \
    {                   \
        ALWAYS, 0, 0, 0 \
    }
#define ONE(set, ...)                             \
    {                                             \
        ZYDIS_ISA_SET_##set, ZYDIS_ISA_SET_##set, \
        {                                         \
            __VA_ARGS__                           \
        }                                         \
    }
#define RANGE(a, b, ...)                      \
    {                                         \
        ZYDIS_ISA_SET_##a, ZYDIS_ISA_SET_##b, \
        {                                     \
            __VA_ARGS__                       \
        }                                     \
    }
#define VL L7(EBX, 31)

/* A set that is not here is not advertised. */
static const struct set_needs needs[] = {
    ONE(ADOX_ADCX, L7(EBX, 19)),
    ONE(AES, L1(ECX, 25)),
    ONE(AMD3DNOW, X1(EDX, 31)),
    ONE(AVX, L1(ECX, 28)),
    RANGE(AVX2, AVX2GATHER, L7(EBX, 5)),
    ONE(AVX512BW_128, L7(EBX, 30), VL),
    ONE(AVX512BW_128N, L7(EBX, 30)),
    ONE(AVX512BW_256, L7(EBX, 30), VL),
    RANGE(AVX512BW_512, AVX512BW_KOP, L7(EBX, 30)),
    RANGE(AVX512CD_128, AVX512CD_256, L7(EBX, 28), VL),
    ONE(AVX512CD_512, L7(EBX, 28)),
    ONE(AVX512DQ_128, L7(EBX, 17), VL),
    ONE(AVX512DQ_128N, L7(EBX, 17)),
    ONE(AVX512DQ_256, L7(EBX, 17), VL),
    RANGE(AVX512DQ_512, AVX512DQ_SCALAR, L7(EBX, 17)),
    ONE(AVX512F_128, L7(EBX, 16), VL),
    ONE(AVX512F_128N, L7(EBX, 16)),
    ONE(AVX512F_256, L7(EBX, 16), VL),
    RANGE(AVX512F_512, AVX512F_SCALAR, L7(EBX, 16)),
    RANGE(AVX512_BF16_128, AVX512_BF16_256, L71(EAX, 5), VL),
    ONE(AVX512_BF16_512, L71(EAX, 5)),
    RANGE(AVX512_BITALG_128, AVX512_BITALG_256, L7(ECX, 12), VL),
    ONE(AVX512_BITALG_512, L7(ECX, 12)),
    RANGE(AVX512_FP16_128, AVX512_FP16_256, L7(EDX, 23), VL),
    RANGE(AVX512_FP16_512, AVX512_FP16_SCALAR, L7(EDX, 23)),
    RANGE(AVX512_GFNI_128, AVX512_GFNI_256, L7(ECX, 8), VL),
    ONE(AVX512_GFNI_512, L7(ECX, 8), L7(EBX, 16)),
    RANGE(AVX512_IFMA_128, AVX512_IFMA_256, L7(EBX, 21), VL),
    ONE(AVX512_IFMA_512, L7(EBX, 21)),
    RANGE(AVX512_VAES_128, AVX512_VAES_256, L7(ECX, 9), VL),
    ONE(AVX512_VAES_512, L7(ECX, 9), L7(EBX, 16)),
    RANGE(AVX512_VBMI2_128, AVX512_VBMI2_256, L7(ECX, 6), VL),
    ONE(AVX512_VBMI2_512, L7(ECX, 6)),
    RANGE(AVX512_VBMI_128, AVX512_VBMI_256, L7(ECX, 1), VL),
    ONE(AVX512_VBMI_512, L7(ECX, 1)),
    RANGE(AVX512_VNNI_128, AVX512_VNNI_256, L7(ECX, 11), VL),
    ONE(AVX512_VNNI_512, L7(ECX, 11)),
    RANGE(AVX512_VP2INTERSECT_128, AVX512_VP2INTERSECT_256, L7(EDX, 8), VL),
    ONE(AVX512_VP2INTERSECT_512, L7(EDX, 8)),
    RANGE(AVX512_VPCLMULQDQ_128, AVX512_VPCLMULQDQ_256, L7(ECX, 10), VL),
    ONE(AVX512_VPCLMULQDQ_512, L7(ECX, 10), L7(EBX, 16)),
    RANGE(AVX512_VPOPCNTDQ_128, AVX512_VPOPCNTDQ_256, L7(ECX, 14), VL),
    ONE(AVX512_VPOPCNTDQ_512, L7(ECX, 14)),
    ONE(AVXAES, L1(ECX, 25), L1(ECX, 28)),
    ONE(AVX_GFNI, L7(ECX, 8), L1(ECX, 28)),
    ONE(AVX_VNNI, L71(EAX, 4)),
    ONE(BMI1, L7(EBX, 3)),
    ONE(BMI2, L7(EBX, 8)),
    ONE(CET, L7(ECX, 7)),
    ONE(CLDEMOTE, L7(ECX, 25)),
    ONE(CLFLUSHOPT, L7(EBX, 23)),
    ONE(CLFSH, L1(EDX, 19)),
    ONE(CLWB, L7(EBX, 24)),
    ONE(CLZERO, {0x80000008, 0, EBX, 0}),
    ONE(CMOV, L1(EDX, 15)),
    ONE(CMPXCHG16B, L1(ECX, 13)),
    ONE(F16C, L1(ECX, 29)),
    ONE(FAT_NOP, YES),
    ONE(FCMOV, L1(EDX, 15), L1(EDX, 0)),
    ONE(FMA, L1(ECX, 12)),
    ONE(FMA4, X1(ECX, 16)),
    RANGE(FXSAVE, FXSAVE64, L1(EDX, 24)),
    ONE(GFNI, L7(ECX, 8)),
    RANGE(I186, I86, YES),
    ONE(INVPCID, L7(EBX, 10)),
    ONE(LAHF, X1(ECX, 0)),
    ONE(LONGMODE, X1(EDX, 29)),
    ONE(LZCNT, X1(ECX, 5)),
    ONE(MONITOR, L1(ECX, 3)),
    ONE(MOVBE, L1(ECX, 22)),
    ONE(MPX, L7(EBX, 14)),
    ONE(PAUSE, YES),
    ONE(PCLMULQDQ, L1(ECX, 1)),
    ONE(PENTIUMMMX, L1(EDX, 23)),
    ONE(PENTIUMREAL, YES),
    ONE(PKU, L7(ECX, 3)),
    ONE(POPCNT, L1(ECX, 23)),
    ONE(PPRO, YES),
    ONE(PREFETCHWT1, L7(ECX, 0)),
    ONE(PREFETCH_NOP, YES),
    ONE(RDPID, L7(ECX, 22)),
    ONE(RDPMC, YES),
    ONE(RDRAND, L1(ECX, 30)),
    ONE(RDSEED, L7(EBX, 18)),
    ONE(RDTSCP, X1(EDX, 27)),
    ONE(RDWRFSGS, L7(EBX, 0)),
    ONE(RTM, L7(EBX, 11)),
    ONE(SERIALIZE, L7(EDX, 14)),
    ONE(SHA, L7(EBX, 29)),
    ONE(SMAP, L7(EBX, 20)),
    ONE(SSE, L1(EDX, 25)),
    ONE(SSE2, L1(EDX, 26)),
    ONE(SSE2MMX, L1(EDX, 26)),
    RANGE(SSE3, SSE3X87, L1(ECX, 0)),
    ONE(SSE4, L1(ECX, 19)),
    ONE(SSE42, L1(ECX, 20)),
    ONE(SSE4A, X1(ECX, 6)),
    RANGE(SSEMXCSR, SSE_PREFETCH, L1(EDX, 25)),
    RANGE(SSSE3, SSSE3MMX, L1(ECX, 9)),
    ONE(TBM, X1(ECX, 21)),
    ONE(VAES, L7(ECX, 9)),
    ONE(VPCLMULQDQ, L7(ECX, 10)),
    ONE(WAITPKG, L7(ECX, 5)),
    ONE(X87, L1(EDX, 0)),
    ONE(XOP, X1(ECX, 11)),
    ONE(XSAVE, L1(ECX, 26)),
    ONE(XSAVEC, LD1(1)),
    ONE(XSAVEOPT, LD1(0)),
    ONE(XSAVES, LD1(3)),
};

#ifdef DIFF_MODEL
static struct cpuid_model model;

static bool has(const struct need *n)
{
    return cpuid_has(&model, n->leaf, n->subleaf, n->reg, n->bit);
}

int features_init(struct error *e)
{
    return cpuid_model_build(&model, "max", 1000000000, 1, e);
}

uint64_t features_xcr0(void)
{
    return model.xcr0_supported;
}
#else
static bool has(const struct need *n)
{
    uint32_t regs[4];

    return __get_cpuid_count(n->leaf, n->subleaf, &regs[0], &regs[1], &regs[2], &regs[3]) &&
           (regs[n->reg] >> n->bit & 1);
}

int features_init(struct error *e)
{
    return 0;
}

uint64_t features_xcr0(void)
{
    return features_host_xcr0() & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
}
#endif

uint64_t features_host_xcr0(void)
{
    uint32_t low, high;

    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

bool features_advertise(ZydisISASet set)
{
    for (unsigned i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
        if (set < needs[i].first || set > needs[i].last)
            continue;
        for (unsigned n = 0; n < 2; n++)
            if (needs[i].need[n].leaf && needs[i].need[n].leaf != ALWAYS && !has(&needs[i].need[n]))
                return false;
        return true;
    }
    return false;
}

void features_decoder(ZydisDecoder *decoder)
{
    static const struct {
        ZydisDecoderMode mode;
        ZydisISASet set;
    } modes[] = {
        {ZYDIS_DECODER_MODE_MPX, ZYDIS_ISA_SET_MPX},
        {ZYDIS_DECODER_MODE_CET, ZYDIS_ISA_SET_CET},
        {ZYDIS_DECODER_MODE_LZCNT, ZYDIS_ISA_SET_LZCNT},
        {ZYDIS_DECODER_MODE_TZCNT, ZYDIS_ISA_SET_BMI1},
        {ZYDIS_DECODER_MODE_CLDEMOTE, ZYDIS_ISA_SET_CLDEMOTE},
    };

    ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_KNC, false);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, false);
    for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        ZydisDecoderEnableMode(decoder, modes[i].mode, features_advertise(modes[i].set));
}
