/* SPDX-License-Identifier: MIT */
/* SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM 2B; AMD 24594 vol. 3). No memory is accessed: flat
 * segments are made from selectors in MSRs. The vendor of the CPUID model decides where the two
 * manuals differ: AMD has SYSCALL outside 64-bit mode and a SYSRET that changes no more of SS than
 * the selector; Intel has SYSENTER in long mode and checks RCX in SYSRET. */
#include "x86/cpuid.h"
#include "x86/descriptor.h"
#include "x86/segment.h"

#define SYSRET_FLAGS 0x3c7fd7u /* RFLAGS from R11: all but RF, VM and the reserved bits */

enum { CODE_64 = ATTR_L, CODE_32 = ATTR_DB };

static void load_code(struct vcpu *v, uint16_t cs, uint32_t width, unsigned cpl)
{
    v->seg[SEG_CS] = (struct x86_segment){
        .selector = (uint16_t)((cs & 0xfffc) | cpl),
        .attributes =
            ATTR_S | ATTR_P | ATTR_G | TYPE_ACCESSED | cpl << 5 | TYPE_CODE | TYPE_READABLE | width,
        .limit = 0xffffffff,
    };
    v->cpl = (uint8_t)cpl;
}

static void load_flat(struct vcpu *v, uint16_t cs, uint16_t ss, uint32_t width, unsigned cpl)
{
    load_code(v, cs, width, cpl);
    v->seg[SEG_SS] = (struct x86_segment){
        .selector = (uint16_t)((ss & 0xfffc) | cpl),
        .attributes = ATTR_S | ATTR_P | ATTR_G | TYPE_ACCESSED | cpl << 5 | TYPE_WRITABLE | ATTR_DB,
        .limit = 0xffffffff,
    };
}

void x86_syscall(struct vcpu *v, uint64_t next_rip)
{
    if (!(v->efer & EFER_SCE) || x86_real_mode(v) || (!v->code64 && !cpuid_is_amd(v)))
        x86_raise(v, VECTOR_UD);
    uint16_t cs = (uint16_t)(v->star >> 32);
    v->gpr[RCX] = next_rip;
    if (v->long_mode) {
        v->gpr[R11] = v->rflags & ~(uint64_t)FLAG_RF;
        v->rip = v->code64 ? v->lstar : v->cstar;
        v->rflags &= ~(v->fmask | FLAG_RF);
    } else {
        v->rip = (uint32_t)v->star;
        v->rflags &= ~(uint64_t)(FLAG_IF | FLAG_VM | FLAG_RF);
    }
    v->rflags |= FLAG_ONE;
    load_flat(v, cs, (uint16_t)((cs & 0xfffc) + 8), v->long_mode ? CODE_64 : CODE_32, 0);
    vcpu_update_mode(v);
}

void x86_sysret(struct vcpu *v, unsigned size)
{
    bool amd = cpuid_is_amd(v), from64 = v->code64;
    if (!(v->efer & EFER_SCE) || (!from64 && !amd))
        x86_raise(v, VECTOR_UD);
    if (x86_real_mode(v) || v->cpl != 0)
        x86_raise_gp0(v);
    /* AMD lets the fetch at CPL 3 fault; Intel faults here, at CPL 0. */
    if (size == 8 && !amd && !x86_canonical(v, v->gpr[RCX]))
        x86_raise_gp0(v);
    uint16_t base = (uint16_t)(v->star >> 48);
    uint16_t cs = (uint16_t)(base + (size == 8 ? 16 : 0)), ss = (uint16_t)(base + 8);
    uint32_t width = size == 8 ? CODE_64 : CODE_32;
    v->rip = size == 8 ? v->gpr[RCX] : (uint32_t)v->gpr[RCX];
    if (from64)
        v->rflags = (v->gpr[R11] & SYSRET_FLAGS) | FLAG_ONE;
    else
        v->rflags |= FLAG_IF;
    if (amd) {
        load_code(v, cs, width, 3);
        v->seg[SEG_SS].selector = ss; /* with the RPL that MSR_STAR gives it */
    } else {
        load_flat(v, cs, ss, width, 3);
    }
    vcpu_update_mode(v);
}

void x86_sysenter(struct vcpu *v)
{
    uint16_t cs = (uint16_t)(v->sysenter_cs & 0xfffc);
    if (v->long_mode && cpuid_is_amd(v))
        x86_raise(v, VECTOR_UD);
    if (x86_real_mode(v) || cs == 0)
        x86_raise_gp0(v);
    v->rflags &= ~(uint64_t)(FLAG_VM | FLAG_IF);
    v->rip = v->long_mode ? v->sysenter_eip : (uint32_t)v->sysenter_eip;
    v->gpr[RSP] = v->long_mode ? v->sysenter_esp : (uint32_t)v->sysenter_esp;
    load_flat(v, cs, (uint16_t)(cs + 8), v->long_mode ? CODE_64 : CODE_32, 0);
    vcpu_update_mode(v);
}

void x86_sysexit(struct vcpu *v, unsigned size)
{
    uint16_t cs = (uint16_t)(v->sysenter_cs & 0xfffc);
    bool to64 = size == 8 && v->long_mode;
    if (v->long_mode && cpuid_is_amd(v) && v->cpl == 0) /* a Zen 3 looks at CPL first */
        x86_raise(v, VECTOR_UD);
    if (x86_real_mode(v) || v->cpl != 0 || cs == 0)
        x86_raise_gp0(v);
    if (to64 && (!x86_canonical(v, v->gpr[RCX]) || !x86_canonical(v, v->gpr[RDX])))
        x86_raise_gp0(v);
    cs = (uint16_t)(cs + (to64 ? 32 : 16));
    v->rip = to64 ? v->gpr[RDX] : (uint32_t)v->gpr[RDX];
    v->gpr[RSP] = to64 ? v->gpr[RCX] : (uint32_t)v->gpr[RCX];
    load_flat(v, cs, (uint16_t)(cs + 8), to64 ? CODE_64 : CODE_32, 3);
    vcpu_update_mode(v);
}
