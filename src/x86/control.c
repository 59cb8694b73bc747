/* SPDX-License-Identifier: MIT */
/* Control and debug registers, LMSW and XSETBV with every check (SDM 3A 2.5, 2.6, 4.1, 4.4.1,
 * 4.10.4, 9.8.5; SDM 2B MOV to CR, MOV to DR; SDM 3B 17.2). Values are the guest's. */
#include "x86/cpuid.h"
#include "x86/descriptor.h"
#include "x86/segment.h"

#define CR0_WRITABLE \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR3_NO_FLUSH (1ull << 63)
/* Bits that decide how the tables are read or what they permit: a cached translation is void. */
#define CR0_TRANSLATES (CR0_PE | CR0_WP | CR0_PG)
#define CR4_TRANSLATES (CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP)
#define DR6_WRITABLE   (0xfu | DR6_BD | DR6_BS | 1u << 15)
#define DR7_WRITABLE   0xffff23ffu

/* CR4 bits and the CPUID feature that makes each writable: leaf, register (0 = EAX), bit. */
static const struct {
    uint32_t bit, leaf;
    uint8_t reg, feature;
} cr4_features[] = {
    {CR4_VME | CR4_PVI, 1, 3, 1}, {CR4_DE, 1, 3, 2},       {CR4_PSE, 1, 3, 3},
    {CR4_TSD, 1, 3, 4},           {CR4_PAE, 1, 3, 6},      {CR4_MCE, 1, 3, 7},
    {CR4_PGE, 1, 3, 13},          {CR4_OSFXSR, 1, 3, 24},  {CR4_OSXMMEXCPT, 1, 3, 25},
    {CR4_PCIDE, 1, 2, 17},        {CR4_OSXSAVE, 1, 2, 26}, {CR4_FSGSBASE, 7, 1, 0},
    {CR4_SMEP, 7, 1, 7},          {CR4_SMAP, 7, 1, 20},    {CR4_UMIP, 7, 2, 2},
    {CR4_LA57, 7, 2, 16},
};

static uint64_t cr4_writable(const struct vcpu *v)
{
    uint64_t mask = CR4_PCE; /* RDPMC has no feature bit of its own */
    for (unsigned i = 0; i < sizeof(cr4_features) / sizeof(cr4_features[0]); i++)
        if (cpuid_has(v->platform->cpuid, cr4_features[i].leaf, 0, cr4_features[i].reg,
                      cr4_features[i].feature))
            mask |= cr4_features[i].bit;
    return mask;
}

static uint64_t physical_reserved(const struct vcpu *v)
{
    return ~((1ull << v->platform->physical_address_bits) - 1);
}

/* PAE paging keeps four PDPTEs in the processor (SDM 3A 4.4.1); a reserved bit in one is #GP(0). */
static void read_pdptes(struct vcpu *v, uint64_t cr3, uint64_t pdpte[4])
{
    uint64_t reserved = physical_reserved(v) | 0x1e6;
    for (unsigned i = 0; i < 4; i++) {
        gpa_t address = GPA((cr3 & 0xffffffe0) + 8 * i);
        if (!mem_load64(v->platform->mem, GPA(address.v & ~v->a20_low), &pdpte[i]))
            pdpte[i] = UINT64_MAX; /* what no device claims reads as ones */
        if ((pdpte[i] & 1) && (pdpte[i] & reserved))
            x86_raise_gp0(v);
    }
}

static void reload_pdptes(struct vcpu *v, uint64_t cr3)
{
    uint64_t pdpte[4];
    read_pdptes(v, cr3, pdpte);
    for (unsigned i = 0; i < 4; i++)
        v->pae_pdpte[i] = pdpte[i];
}

/* Paging is being switched on: IA-32e mode when LME (SDM 3A 9.8.5). Returns the new EFER. */
static uint64_t paging_on(struct vcpu *v)
{
    if (!(v->efer & EFER_LME)) {
        if (v->cr4 & CR4_PAE)
            reload_pdptes(v, v->cr3);
        return v->efer;
    }
    unsigned tr = v->seg[SEG_TR].attributes & (ATTR_UNUSABLE | ATTR_TYPE);
    if (!(v->cr4 & CR4_PAE) || (v->seg[SEG_CS].attributes & ATTR_L) ||
        tr == SYSTEM_TSS16_AVAILABLE || tr == SYSTEM_TSS16_BUSY)
        x86_raise_gp0(v);
    return v->efer | EFER_LMA;
}

static uint64_t paging_off(struct vcpu *v)
{
    if (v->code64 || (v->cr4 & CR4_PCIDE))
        x86_raise_gp0(v);
    return v->efer & ~(uint64_t)EFER_LMA;
}

static void write_cr0(struct vcpu *v, uint64_t value)
{
    if (value >> 32 || ((value & CR0_PG) && !(value & CR0_PE)) ||
        ((value & CR0_NW) && !(value & CR0_CD)))
        x86_raise_gp0(v);
    uint64_t cr0 = (value & CR0_WRITABLE) | CR0_ET;
    uint64_t changed = cr0 ^ v->cr0, efer = v->efer;
    if (changed & CR0_PG)
        efer = (cr0 & CR0_PG) ? paging_on(v) : paging_off(v);
    else if ((changed & (CR0_CD | CR0_NW)) && (cr0 & CR0_PG) && (v->cr4 & CR4_PAE) && !v->long_mode)
        reload_pdptes(v, v->cr3); /* SDM 3A 4.4.1 */
    v->cr0 = cr0;
    v->efer = efer;
    vcpu_update_mode(v);
    if (changed & CR0_TRANSLATES)
        tlb_flush_all(v);
}

static void write_cr3(struct vcpu *v, uint64_t value)
{
    bool keep = false;
    if (v->long_mode) {
        if (v->cr4 & CR4_PCIDE) {
            keep = value & CR3_NO_FLUSH;
            value &= ~CR3_NO_FLUSH;
        }
        if (value & physical_reserved(v))
            x86_raise_gp0(v);
    } else {
        value = (uint32_t)value;
        if ((v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE))
            reload_pdptes(v, value);
    }
    v->cr3 = value;
    tlb_switch_space(v, keep);
}

void x86_task_load_cr3(struct vcpu *v, uint32_t value)
{
    write_cr3(v, value);
}

static void write_cr4(struct vcpu *v, uint64_t value)
{
    uint64_t changed = value ^ v->cr4;
    if (value & ~cr4_writable(v))
        x86_raise_gp0(v);
    if (v->long_mode && (!(value & CR4_PAE) || (changed & CR4_LA57)))
        x86_raise_gp0(v);
    if ((changed & value & CR4_PCIDE) && (!v->long_mode || (v->cr3 & 0xfff)))
        x86_raise_gp0(v);
    if ((v->cr0 & CR0_PG) && !v->long_mode && (value & CR4_PAE) &&
        (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP)))
        reload_pdptes(v, v->cr3);
    v->cr4 = value;
    vcpu_update_mode(v);
    if (changed & CR4_TRANSLATES)
        tlb_flush_all(v);
}

static void write_cr8(struct vcpu *v, uint64_t value)
{
    if (value > 0xf)
        x86_raise_gp0(v);
    if (v->irq)
        v->irq->cr8_write(v->irq_context, (uint8_t)value);
}

static void check_cr(struct vcpu *v, unsigned cr)
{
    if (cr > 8 || cr == 1 || (cr > 4 && cr < 8))
        x86_raise(v, VECTOR_UD);
    if (v->cpl != 0)
        x86_raise_gp0(v);
}

void x86_write_cr(struct vcpu *v, unsigned cr, uint64_t value)
{
    check_cr(v, cr);
    switch (cr) {
    case 0:
        write_cr0(v, value);
        break;
    case 2:
        v->cr2 = value;
        break;
    case 3:
        write_cr3(v, value);
        break;
    case 4:
        write_cr4(v, value);
        break;
    default:
        write_cr8(v, value);
        break;
    }
}

uint64_t x86_read_cr(struct vcpu *v, unsigned cr)
{
    check_cr(v, cr);
    switch (cr) {
    case 0:
        return v->cr0;
    case 2:
        return v->cr2;
    case 3:
        return v->cr3;
    case 4:
        return v->cr4;
    default:
        return v->irq ? v->irq->cr8_read(v->irq_context) : 0;
    }
}

/* LMSW sets PE but cannot clear it (SDM 2A). */
void x86_lmsw(struct vcpu *v, uint16_t value)
{
    uint64_t low = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
    if (v->cpl != 0)
        x86_raise_gp0(v);
    write_cr0(v, (v->cr0 & ~(low & ~(uint64_t)CR0_PE)) | (value & low));
}

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE; general detect comes after the privilege check. */
static unsigned check_dr(struct vcpu *v, unsigned dr)
{
    if (dr > 7)
        x86_raise(v, VECTOR_UD);
    if (v->cpl != 0) /* before the aliases are looked at, as the processor does (tests/diff) */
        x86_raise_gp0(v);
    if ((dr == 4 || dr == 5) && (v->cr4 & CR4_DE))
        x86_raise(v, VECTOR_UD);
    if (v->dr7 & DR7_GD) {
        v->fault.dr6 = DR6_BD;
        x86_raise(v, VECTOR_DB);
    }
    return dr == 4 || dr == 5 ? dr + 2 : dr;
}

void x86_write_dr(struct vcpu *v, unsigned dr, uint64_t value)
{
    bool was_armed = v->dr7 & DR7_ENABLED;
    dr = check_dr(v, dr);
    if (dr >= 6 && value >> 32)
        x86_raise_gp0(v);
    if (dr == 6)
        v->dr6 = (value & DR6_WRITABLE) | DR6_FIXED;
    else if (dr == 7)
        v->dr7 = (value & DR7_WRITABLE) | DR7_FIXED;
    else
        v->dr[dr] = value;
    if (dr != 6 && (was_armed || (v->dr7 & DR7_ENABLED)))
        tlb_flush_all(v);
}

uint64_t x86_read_dr(struct vcpu *v, unsigned dr)
{
    dr = check_dr(v, dr);
    return dr == 6 ? v->dr6 : dr == 7 ? v->dr7 : v->dr[dr];
}

/* SDM 1 13.3: x87 always, AVX needs SSE, the three AVX-512 components go together and need AVX. */
static bool xcr0_legal(const struct vcpu *v, uint64_t value)
{
    uint64_t avx512 = value & XCR0_AVX512;
    if (!(value & XCR0_X87) || (value & ~v->platform->cpuid->xcr0_supported))
        return false;
    if ((value & XCR0_AVX) && !(value & XCR0_SSE))
        return false;
    return avx512 == 0 || (avx512 == XCR0_AVX512 && (value & XCR0_AVX));
}

void x86_xsetbv(struct vcpu *v, uint32_t index, uint64_t value)
{
    if (!(v->cr4 & CR4_OSXSAVE))
        x86_raise(v, VECTOR_UD);
    if (v->cpl != 0 || index != 0 || !xcr0_legal(v, value))
        x86_raise_gp0(v);
    v->xcr0 = value;
}
