/* SPDX-License-Identifier: MIT */
/*
 * The processor's own MSRs (SDM 4 chapter 2; AMD manual volume 2 appendix A). Each function checks
 * what WRMSR checks for its register and returns false for #GP(0). Those that only one vendor has
 * look at the CPUID model, as software does before it touches them.
 *
 * On the vCPU's own thread. The guest controls every value.
 */
#include "x86/msr_processor.h"

#include "engine/gate.h"
#include "x86/cpuid.h"

#define MSR_PLATFORM_ID       0x17u
#define MSR_FEATURE_CONTROL   0x3au
#define MSR_SPEC_CTRL         0x48u
#define MSR_PRED_CMD          0x49u
#define MSR_BIOS_SIGN_ID      0x8bu
#define MSR_MTRRCAP           0xfeu
#define MSR_ARCH_CAPABILITIES 0x10au
#define MSR_MCG_CAP           0x179u
#define MSR_MCG_STATUS        0x17au
#define MSR_DEBUGCTL          0x1d9u
#define MSR_MTRR_PHYS_FIRST   0x200u
#define MSR_MTRR_PHYS_LAST    0x20fu
#define MSR_MTRR_FIX64K       0x250u
#define MSR_MTRR_FIX16K       0x258u
#define MSR_MTRR_FIX4K        0x268u
#define MSR_AMD_SYSCFG        0xc0010010u
#define MSR_AMD_HWCR          0xc0010015u
#define MSR_AMD_TOP_MEM       0xc001001au
#define MSR_AMD_TOP_MEM2      0xc001001du
#define MSR_AMD_NB_CFG        0xc001001fu
#define MSR_AMD_DE_CFG        0xc0011029u

#define FEATURE_CONTROL_LOCK 1u
#define SPEC_CTRL_IBRS       (1u << 0)
#define PRED_CMD_IBPB        (1u << 0)
#define MTRRCAP_VALUE        (8u /* VCNT */ | 1u << 8 /* FIX */ | 1u << 10 /* WC */)
#define MTRR_DEF_TYPE_KNOWN  (0xffu | 1u << 10 /* FE */ | 1u << 11 /* E */)
#define MTRR_PHYS_MASK_V     (1u << 11)
/* What a guest may change in IA32_MISC_ENABLE (SDM 4, table 2-2): fast strings, thermal control,
 * SpeedStep, MONITOR, limit of CPUID, xTPR messages, XD disable. They are kept and switch nothing.
 */
#define MISC_ENABLE_WRITABLE \
    (1ull << 0 | 1ull << 3 | 1ull << 16 | 1ull << 18 | 1ull << 22 | 1ull << 23 | 1ull << 34)
#define MICROCODE_REVISION ((uint64_t)1 << 32)
#define AMD_PATCH_LEVEL    0x01000065u /* as under KVM */
#define MCG_STATUS_KNOWN   7u
#define HWCR_SMMLOCK       (1u << 0)
#define HWCR_TSC_FREQ_SEL  (1u << 24)          /* the TSC counts at the P0 frequency */
#define DE_CFG_LFENCE      (1u << 1)           /* LFENCE serializes */
#define NB_CFG_CF8_EXT     ((uint64_t)1 << 46) /* port 0xcf8 has bits 11:8 of the register */

/* UC, WC, WT, WP, WB (SDM 3A table 11-8) */
static bool mtrr_type_valid(uint64_t type)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

static bool tsc_read(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    *value = index == MSR_TSC_ADJUST ? v->tsc_adjust : gate_tsc(v) + v->tsc_offset;
    return true;
}

/* A write to either moves the other by as much (SDM 3B 17.17.3). */
static bool tsc_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    uint64_t old;
    tsc_read(context, v, index, &old);
    v->tsc_offset += value - old;
    v->tsc_adjust += value - old;
    if (v->irq != NULL && v->irq->tsc_moved != NULL)
        v->irq->tsc_moved(v->irq_context);
    if (v->platform->paravirt != NULL)
        v->platform->paravirt->tsc_moved(v->platform->paravirt_context, v);
    return true;
}

/* SDM 3A 2.2.1: LME may not change while paging is on; LMA is the processor's. */
static bool efer_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    const struct cpuid_model *m = v->platform->cpuid;
    uint64_t known = EFER_LMA;
    if (cpuid_has(m, 0x80000001, 0, 3, 11))
        known |= EFER_SCE;
    if (cpuid_has(m, 0x80000001, 0, 3, 20))
        known |= EFER_NXE;
    if (cpuid_has(m, 0x80000001, 0, 3, 29))
        known |= EFER_LME;
    if (cpuid_has(m, 0x80000021, 0, 0, 8))
        known |= EFER_AIBRSE;
    if (value & ~known)
        return false;
    if (((value ^ v->efer) & EFER_LME) && (v->cr0 & CR0_PG))
        return false;
    uint64_t changed = value ^ v->efer;
    v->efer = (value & ~(uint64_t)EFER_LMA) | (v->efer & EFER_LMA);
    vcpu_update_mode(v);
    if (changed & EFER_NXE)
        tlb_flush_all(v);
    return true;
}

/* Registers that are one member of the vCPU. */
static uint64_t *plain_member(struct vcpu *v, uint32_t index)
{
    switch (index) {
    case MSR_EFER:
        return &v->efer;
    case MSR_SYSENTER_CS:
        return &v->sysenter_cs;
    case MSR_SYSENTER_ESP:
        return &v->sysenter_esp;
    case MSR_SYSENTER_EIP:
        return &v->sysenter_eip;
    case MSR_STAR:
        return &v->star;
    case MSR_LSTAR:
        return &v->lstar;
    case MSR_CSTAR:
        return &v->cstar;
    case MSR_FMASK:
        return &v->fmask;
    case MSR_FS_BASE:
        return &v->seg[SEG_FS].base;
    case MSR_GS_BASE:
        return &v->seg[SEG_GS].base;
    case MSR_KERNEL_GS_BASE:
        return &v->kernel_gs_base;
    case MSR_TSC_AUX:
        return &v->tsc_aux;
    case MSR_PAT:
        return &v->pat;
    case MSR_MTRR_DEF_TYPE:
        return &v->mtrr_def_type;
    case MSR_MCG_STATUS:
        return &v->mcg_status;
    default:
        return &v->spec_ctrl;
    }
}

static bool plain_read(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    *value = *plain_member(v, index);
    return true;
}

static bool any_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    *plain_member(v, index) = value;
    return true;
}

static bool address_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    return x86_canonical_register(v, value) && any_write(context, v, index, value);
}

static bool low32_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    return value >> 32 == 0 && any_write(context, v, index, value);
}

/* Of 32 bits on AMD's processors, which do not look at the others: SYSENTER is not there in long
 * mode (volume 2, 6.1.2). */
static bool sysenter_address_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    return cpuid_is_amd(v) ? any_write(context, v, index, (uint32_t)value)
                           : address_write(context, v, index, value);
}

static bool tsc_aux_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    return low32_write(context, v, index, cpuid_is_amd(v) ? (uint32_t)value : value);
}

/* Bits 63:32 are not there, and not checked (SDM 4 table 2-2: 15:0 are CS_SEL). */
static bool sysenter_cs_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    v->sysenter_cs = (uint32_t)value;
    return true;
}

static bool pat_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    for (unsigned i = 0; i < 64; i += 8) {
        uint64_t type = (value >> i) & 0xff;
        if (!mtrr_type_valid(type) && type != 7) /* UC- (SDM 3A table 11-10) */
            return false;
    }
    v->pat = value;
    return true;
}

static bool misc_enable_read(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    *value = v->misc_enable;
    return !cpuid_is_amd(v);
}

/* Only fast strings may be turned off: what the other bits turn on is not there. */
static bool misc_enable_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    if (cpuid_is_amd(v) || (value ^ v->misc_enable) & ~MISC_ENABLE_WRITABLE)
        return false;
    v->misc_enable = value;
    return true;
}

static bool mtrr_def_type_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    if ((value & ~(uint64_t)MTRR_DEF_TYPE_KNOWN) || !mtrr_type_valid(value & 0xff))
        return false;
    v->mtrr_def_type = value;
    return true;
}

static bool mcg_status_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    return (value & ~(uint64_t)MCG_STATUS_KNOWN) == 0 && any_write(context, v, index, value);
}

static uint64_t *mtrr_phys(struct vcpu *v, uint32_t index)
{
    unsigned pair = (index - MSR_MTRR_PHYS_FIRST) / 2;
    return (index & 1) ? &v->mtrr_mask[pair] : &v->mtrr_base[pair];
}

static bool mtrr_phys_read(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    *value = *mtrr_phys(v, index);
    return true;
}

static bool mtrr_phys_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    uint64_t address = (((uint64_t)1 << v->platform->physical_address_bits) - 1) & ~0xfffull;
    uint64_t known = address | ((index & 1) ? MTRR_PHYS_MASK_V : 0xff);
    if ((value & ~known) || (!(index & 1) && !mtrr_type_valid(value & 0xff)))
        return false;
    *mtrr_phys(v, index) = value;
    return true;
}

/* One of 64 KiB, two of 16 KiB, eight of 4 KiB ranges. */
static uint64_t *mtrr_fixed(struct vcpu *v, uint32_t index)
{
    if (index >= MSR_MTRR_FIX4K)
        return &v->mtrr_fixed[3 + index - MSR_MTRR_FIX4K];
    return &v->mtrr_fixed[index == MSR_MTRR_FIX64K ? 0 : 1 + index - MSR_MTRR_FIX16K];
}

static bool mtrr_fixed_read(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    *value = *mtrr_fixed(v, index);
    return true;
}

static bool mtrr_fixed_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    for (unsigned i = 0; i < 64; i += 8)
        if (!mtrr_type_valid((value >> i) & 0xff))
            return false;
    *mtrr_fixed(v, index) = value;
    return true;
}

static bool spec_ctrl_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    return (value & ~(uint64_t)SPEC_CTRL_IBRS) == 0 && any_write(context, v, index, value);
}

static bool pred_cmd_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    return (value & ~(uint64_t)PRED_CMD_IBPB) == 0;
}

/* Registers with one value for all time. */
static bool constant_read(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    switch (index) {
    case MSR_FEATURE_CONTROL: /* locked with VMX off, as firmware leaves it */
        *value = FEATURE_CONTROL_LOCK;
        return !cpuid_is_amd(v);
    case MSR_BIOS_SIGN_ID:
        *value = cpuid_is_amd(v) ? AMD_PATCH_LEVEL : MICROCODE_REVISION;
        return true;
    case MSR_MTRRCAP:
        *value = MTRRCAP_VALUE;
        return true;
    case MSR_ARCH_CAPABILITIES:
        *value = CPUID_ARCH_CAPABILITIES;
        return true;
    case MSR_PLATFORM_ID:
        *value = 0;
        return !cpuid_is_amd(v);
    case MSR_AMD_HWCR:
        *value = HWCR_SMMLOCK | HWCR_TSC_FREQ_SEL;
        return cpuid_is_amd(v);
    case MSR_AMD_DE_CFG:
        *value = DE_CFG_LFENCE;
        return cpuid_is_amd(v);
    case MSR_AMD_NB_CFG: /* as firmware leaves it; no function has registers there (pci.c) */
        *value = NB_CFG_CF8_EXT;
        return cpuid_is_amd(v);
    case MSR_AMD_SYSCFG: /* neither of the TOP_MEM registers counts */
    case MSR_AMD_TOP_MEM:
    case MSR_AMD_TOP_MEM2:
        *value = 0;
        return cpuid_is_amd(v);
    default: /* MCG_CAP: no banks. DEBUGCTL: neither BTF nor LBR. */
        *value = 0;
        return true;
    }
}

/* A write that changes nothing is allowed; one that asks for what is not there is not. */
static bool same_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    uint64_t now;
    return constant_read(context, v, index, &now) && value == now;
}

/* Software writes 0, then CPUID puts the revision there (SDM 3A 9.11.7.1). */
static bool bios_sign_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    return true;
}

#define ONE(index, name, read, write)         \
    {                                         \
        index, index, name, read, write, NULL \
    }

const struct msr_entry msr_processor[] = {
    ONE(MSR_TSC, "IA32_TIME_STAMP_COUNTER", tsc_read, tsc_write),
    ONE(MSR_PLATFORM_ID, "IA32_PLATFORM_ID", constant_read, NULL),
    ONE(MSR_FEATURE_CONTROL, "IA32_FEATURE_CONTROL", constant_read, NULL),
    ONE(MSR_TSC_ADJUST, "IA32_TSC_ADJUST", tsc_read, tsc_write),
    ONE(MSR_SPEC_CTRL, "IA32_SPEC_CTRL", plain_read, spec_ctrl_write),
    ONE(MSR_PRED_CMD, "IA32_PRED_CMD", NULL, pred_cmd_write),
    ONE(MSR_BIOS_SIGN_ID, "IA32_BIOS_SIGN_ID", constant_read, bios_sign_write),
    ONE(MSR_MTRRCAP, "IA32_MTRRCAP", constant_read, NULL),
    ONE(MSR_ARCH_CAPABILITIES, "IA32_ARCH_CAPABILITIES", constant_read, NULL),
    ONE(MSR_SYSENTER_CS, "IA32_SYSENTER_CS", plain_read, sysenter_cs_write),
    ONE(MSR_SYSENTER_ESP, "IA32_SYSENTER_ESP", plain_read, sysenter_address_write),
    ONE(MSR_SYSENTER_EIP, "IA32_SYSENTER_EIP", plain_read, sysenter_address_write),
    ONE(MSR_MCG_CAP, "IA32_MCG_CAP", constant_read, NULL),
    ONE(MSR_MCG_STATUS, "IA32_MCG_STATUS", plain_read, mcg_status_write),
    ONE(MSR_MISC_ENABLE, "IA32_MISC_ENABLE", misc_enable_read, misc_enable_write),
    ONE(MSR_DEBUGCTL, "IA32_DEBUGCTL", constant_read, same_write),
    {MSR_MTRR_PHYS_FIRST, MSR_MTRR_PHYS_LAST, "IA32_MTRR_PHYSBASE/MASK", mtrr_phys_read,
     mtrr_phys_write, NULL},
    ONE(MSR_MTRR_FIX64K, "IA32_MTRR_FIX64K", mtrr_fixed_read, mtrr_fixed_write),
    {MSR_MTRR_FIX16K, MSR_MTRR_FIX16K + 1, "IA32_MTRR_FIX16K", mtrr_fixed_read, mtrr_fixed_write,
     NULL},
    {MSR_MTRR_FIX4K, MSR_MTRR_FIX4K + 7, "IA32_MTRR_FIX4K", mtrr_fixed_read, mtrr_fixed_write,
     NULL},
    ONE(MSR_PAT, "IA32_PAT", plain_read, pat_write),
    ONE(MSR_MTRR_DEF_TYPE, "IA32_MTRR_DEF_TYPE", plain_read, mtrr_def_type_write),
    ONE(MSR_EFER, "IA32_EFER", plain_read, efer_write),
    ONE(MSR_STAR, "IA32_STAR", plain_read, any_write),
    ONE(MSR_LSTAR, "IA32_LSTAR", plain_read, address_write),
    ONE(MSR_CSTAR, "IA32_CSTAR", plain_read, address_write),
    ONE(MSR_FMASK, "IA32_FMASK", plain_read, low32_write),
    ONE(MSR_FS_BASE, "IA32_FS_BASE", plain_read, address_write),
    ONE(MSR_GS_BASE, "IA32_GS_BASE", plain_read, address_write),
    ONE(MSR_KERNEL_GS_BASE, "IA32_KERNEL_GS_BASE", plain_read, address_write),
    ONE(MSR_TSC_AUX, "IA32_TSC_AUX", plain_read, tsc_aux_write),
    ONE(MSR_AMD_SYSCFG, "SYSCFG", constant_read, same_write),
    ONE(MSR_AMD_HWCR, "HWCR", constant_read, same_write),
    ONE(MSR_AMD_TOP_MEM, "TOP_MEM", constant_read, same_write),
    ONE(MSR_AMD_TOP_MEM2, "TOP_MEM2", constant_read, same_write),
    ONE(MSR_AMD_NB_CFG, "NB_CFG", constant_read, same_write),
    ONE(MSR_AMD_DE_CFG, "DE_CFG", constant_read, same_write),
};

const unsigned msr_processor_count = sizeof(msr_processor) / sizeof(msr_processor[0]);

/* The feature that brings each MSR (SDM 4 table 2-2), the local APIC's among them; with two rows
 * either does. */
static const struct {
    uint32_t first, last, leaf;
    uint8_t reg, bit; /* reg: 0…3 = EAX, EBX, ECX, EDX */
} features[] = {
    {MSR_TSC_ADJUST, MSR_TSC_ADJUST, 7, 1, 1},
    {MSR_SPEC_CTRL, MSR_PRED_CMD, 7, 3, 26},           /* Intel's */
    {MSR_SPEC_CTRL, MSR_SPEC_CTRL, 0x80000008, 1, 14}, /* AMD's */
    {MSR_PRED_CMD, MSR_PRED_CMD, 0x80000008, 1, 12},
    {MSR_MTRRCAP, MSR_MTRRCAP, 1, 3, 12},
    {MSR_ARCH_CAPABILITIES, MSR_ARCH_CAPABILITIES, 7, 3, 29},
    {MSR_SYSENTER_CS, MSR_SYSENTER_EIP, 1, 3, 11},
    {MSR_MCG_CAP, MSR_MCG_STATUS, 1, 3, 14},
    {MSR_MTRR_PHYS_FIRST, MSR_MTRR_PHYS_LAST, 1, 3, 12},
    {MSR_MTRR_FIX64K, MSR_MTRR_FIX4K + 7, 1, 3, 12},
    {MSR_PAT, MSR_PAT, 1, 3, 16},
    {MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE, 1, 3, 12},
    {MSR_TSC_DEADLINE, MSR_TSC_DEADLINE, 1, 2, 24},
    {MSR_TSC_AUX, MSR_TSC_AUX, 0x80000001, 3, 27}, /* RDTSCP */
    {MSR_TSC_AUX, MSR_TSC_AUX, 7, 2, 22},          /* RDPID */
};

bool msr_offered(const struct cpuid_model *m, uint32_t index)
{
    bool named = false;
    for (unsigned i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        if (index < features[i].first || index > features[i].last)
            continue;
        if (cpuid_has(m, features[i].leaf, 0, features[i].reg, features[i].bit))
            return true;
        named = true;
    }
    return !named;
}
