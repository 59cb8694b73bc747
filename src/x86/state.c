/* SPDX-License-Identifier: MIT */
/*
 * What of a vCPU is saved, and which states are refused. A stream comes from a file or a peer: a
 * state that no processor can be in would break what the engines take for granted (a table index, a
 * control word given to the host), so it is refused here, once, by name.
 */
#include <errno.h>
#include <string.h>

#include "x86/cpuid.h"
#include "x86/vcpu.h"

#define FIELD_SEGMENT(name, index)                                                \
    {name ".selector", offsetof(struct vcpu, seg[index].selector), 2, 1},         \
        {name ".attributes", offsetof(struct vcpu, seg[index].attributes), 4, 1}, \
        {name ".limit", offsetof(struct vcpu, seg[index].limit), 4, 1},           \
    {                                                                             \
        name ".base", offsetof(struct vcpu, seg[index].base), 8, 1                \
    }

static const struct field vcpu_fields[] = {
    FIELD_ARRAY(struct vcpu, gpr),
    FIELD(struct vcpu, rip),
    FIELD(struct vcpu, rflags),
    FIELD_SEGMENT("es", SEG_ES),
    FIELD_SEGMENT("cs", SEG_CS),
    FIELD_SEGMENT("ss", SEG_SS),
    FIELD_SEGMENT("ds", SEG_DS),
    FIELD_SEGMENT("fs", SEG_FS),
    FIELD_SEGMENT("gs", SEG_GS),
    FIELD_SEGMENT("ldtr", SEG_LDTR),
    FIELD_SEGMENT("tr", SEG_TR),
    FIELD(struct vcpu, cpl),
    FIELD(struct vcpu, interrupt_shadow),
    FIELD(struct vcpu, shadow_blocks_debug),
    FIELD(struct vcpu, nmi_blocked),
    FIELD(struct vcpu, activity),
    FIELD(struct vcpu, requests),
    FIELD(struct vcpu, cr0),
    FIELD(struct vcpu, cr2),
    FIELD(struct vcpu, cr3),
    FIELD(struct vcpu, cr4),
    FIELD_ARRAY(struct vcpu, dr),
    FIELD(struct vcpu, dr6),
    FIELD(struct vcpu, dr7),
    FIELD(struct vcpu, efer),
    FIELD(struct vcpu, xcr0),
    FIELD(struct vcpu, gdtr.base),
    FIELD(struct vcpu, gdtr.limit),
    FIELD(struct vcpu, idtr.base),
    FIELD(struct vcpu, idtr.limit),
    FIELD_ARRAY(struct vcpu, pae_pdpte),
    FIELD(struct vcpu, star),
    FIELD(struct vcpu, lstar),
    FIELD(struct vcpu, cstar),
    FIELD(struct vcpu, fmask),
    FIELD(struct vcpu, kernel_gs_base),
    FIELD(struct vcpu, tsc_aux),
    FIELD(struct vcpu, sysenter_cs),
    FIELD(struct vcpu, sysenter_esp),
    FIELD(struct vcpu, sysenter_eip),
    FIELD(struct vcpu, pat),
    FIELD(struct vcpu, misc_enable),
    FIELD(struct vcpu, mtrr_def_type),
    FIELD_ARRAY(struct vcpu, mtrr_fixed),
    FIELD_ARRAY(struct vcpu, mtrr_base),
    FIELD_ARRAY(struct vcpu, mtrr_mask),
    FIELD(struct vcpu, tsc_offset),
    FIELD(struct vcpu, tsc_adjust),
    FIELD(struct vcpu, spec_ctrl),
    FIELD(struct vcpu, mcg_status),
    FIELD(struct vcpu, debug_pending),
    X86_VECTOR_FIELDS(struct vcpu, vector),
    FIELD(struct vcpu,
          counters.instructions), /* the position, and the time of the instruction clock */
    FIELD_END,
};

#define CR0_KNOWN                                                                              \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
     CR0_PG)
#define CR4_KNOWN                                                                                 \
    (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |     \
     CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_LA57 | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | \
     CR4_SMEP | CR4_SMAP)
#define FLAGS_KNOWN                                                                              \
    (FLAGS_ARITHMETIC | FLAG_ONE | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | \
     FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID)
#define REQUESTS_KEPT                                                                   \
    (VCPU_REQUEST_INTR | VCPU_REQUEST_NMI | VCPU_REQUEST_NMI_NEXT | VCPU_REQUEST_INIT | \
     VCPU_REQUEST_SIPI)
#define REQUESTS_KNOWN \
    (REQUESTS_KEPT | VCPU_REQUEST_STOP | VCPU_REQUEST_CODE | VCPU_REQUEST_LIMIT | VCPU_REQUEST_A20)
#define ATTR_KNOWN   (0xf0ffu | ATTR_UNUSABLE)
#define DR6_SETTABLE (0xfu | DR6_BD | DR6_BS | 1u << 15)

/* Registers that hold an address are checked against the widest paging the processor has. */
static bool canonical57(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 7) >> 7) == a;
}

static bool is_bool(const bool *b)
{
    uint8_t byte; /* a bool with another value may not even be looked at */
    memcpy(&byte, b, 1);
    return byte <= 1;
}

/* SDM 3A 2.5 (control registers), 4.1 (paging modes), 13.3 of volume 1 (XCR0). */
static const char *bad_control(const struct vcpu *v)
{
    bool paging = v->cr0 & CR0_PG;
    bool long_mode = v->efer & EFER_LMA;

    if ((v->cr0 & ~(uint64_t)CR0_KNOWN) || !(v->cr0 & CR0_ET) || (paging && !(v->cr0 & CR0_PE)) ||
        ((v->cr0 & CR0_NW) && !(v->cr0 & CR0_CD)))
        return "cr0";
    if ((v->cr4 & ~(uint64_t)CR4_KNOWN) || ((v->cr4 & CR4_PCIDE) && !long_mode) ||
        (long_mode && !(v->cr4 & CR4_PAE)))
        return "cr4";
    if ((v->efer & ~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_AIBRSE)) ||
        long_mode != ((v->efer & EFER_LME) && paging))
        return "efer";
    if (v->cr3 >> v->platform->physical_address_bits)
        return "cr3";
    uint64_t all = v->platform->cpuid != NULL ? v->platform->cpuid->xcr0_supported
                                              : XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
    uint64_t high = v->xcr0 & XCR0_AVX512;
    if (!(v->xcr0 & XCR0_X87) || (v->xcr0 & ~all) ||
        ((v->xcr0 & XCR0_AVX) && !(v->xcr0 & XCR0_SSE)) ||
        (high != 0 && (high != XCR0_AVX512 || !(v->xcr0 & XCR0_AVX))))
        return "xcr0";
    if ((v->dr6 & ~(uint64_t)DR6_SETTABLE) != DR6_FIXED)
        return "dr6";
    if (v->dr7 >> 32)
        return "dr7";
    return NULL;
}

static const char *bad_segment(const struct vcpu *v)
{
    static const char *const names[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        if (v->seg[i].attributes & ~ATTR_KNOWN)
            return names[i];
        bool wide = (v->efer & EFER_LMA) && i >= SEG_FS;
        if (wide ? !canonical57(v->seg[i].base) : v->seg[i].base >> 32 != 0)
            return names[i];
    }
    uint32_t cs = v->seg[SEG_CS].attributes;
    if ((cs & ATTR_UNUSABLE) || ((cs & ATTR_L) && (cs & ATTR_DB) && (v->efer & EFER_LMA)))
        return "cs";
    if (v->seg[SEG_TR].attributes & ATTR_UNUSABLE)
        return "tr";
    return NULL;
}

static const char *bad_address(const struct vcpu *v)
{
    bool code64 = (v->efer & EFER_LMA) && (v->seg[SEG_CS].attributes & ATTR_L);
    if (code64 ? !x86_canonical(v, v->rip) : v->rip >> 32 != 0)
        return "rip";
    const struct {
        const char *name;
        uint64_t value;
    } addresses[] = {
        {"gdtr.base", v->gdtr.base},
        {"idtr.base", v->idtr.base},
        {"lstar", v->lstar},
        {"cstar", v->cstar},
        {"kernel_gs_base", v->kernel_gs_base},
        {"sysenter_esp", v->sysenter_esp},
        {"sysenter_eip", v->sysenter_eip},
    };
    for (unsigned i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
        if (!canonical57(addresses[i].value))
            return addresses[i].name;
    }
    return NULL;
}

static const char *bad_rest(const struct vcpu *v)
{
    if ((v->rflags & ~(uint64_t)FLAGS_KNOWN) || !(v->rflags & FLAG_ONE) ||
        ((v->rflags & FLAG_VM) && (v->efer & EFER_LMA)))
        return "rflags";
    if (v->cpl > 3)
        return "cpl";
    if (!is_bool(&v->interrupt_shadow))
        return "interrupt_shadow";
    if (!is_bool(&v->shadow_blocks_debug))
        return "shadow_blocks_debug";
    if (!is_bool(&v->nmi_blocked))
        return "nmi_blocked";
    if (v->activity > VCPU_SHUTDOWN)
        return "activity";
    if (vcpu_requests(v) & ~(uint32_t)REQUESTS_KNOWN)
        return "requests";
    if (v->debug_pending & ~(uint64_t)DR6_SETTABLE)
        return "debug_pending";
    if (v->fmask >> 32)
        return "fmask";
    for (unsigned i = 0; i < 8; i++) {
        unsigned type = (v->pat >> (8 * i)) & 0xff;
        if (type > 7 || type == 2 || type == 3)
            return "pat";
    }
    return x86_vector_check(&v->vector);
}

static int check(const void *object, struct error *e)
{
    const struct vcpu *v = object;
    const char *bad = bad_control(v);
    if (bad == NULL)
        bad = bad_segment(v);
    if (bad == NULL)
        bad = bad_address(v);
    if (bad == NULL)
        bad = bad_rest(v);
    if (bad != NULL)
        return error_set(e, EINVAL, "saved state: section 'vcpu' has an impossible value of '%s'",
                         bad);
    return 0;
}

static void loaded(void *object)
{
    struct vcpu *v = object;
    vcpu_request_clear(v, ~(uint32_t)REQUESTS_KEPT);
    vcpu_update_mode(v);
    tlb_init(&v->tlb);
}

const struct field_table vcpu_state = {
    .name = "vcpu",
    .version = 1,
    .size = sizeof(struct vcpu),
    .fields = vcpu_fields,
    .check = check,
    .loaded = loaded,
};
