/* SPDX-License-Identifier: MIT */
/* The XSAVE family, FXSAVE (SDM 1 chapter 13) and x87 environments by hand; every other x87 and
 * vector instruction runs as a copy on the host, see engine/host/copy.h. */
#include "engine/host/processor.h"
#include "engine/interp/interp.h"
#include "x86/access.h"

#define XSAVE_ALIGNMENT 64u

static uint64_t requested(const struct vcpu *v)
{
    return v->gpr[RDX] << 32 | (uint32_t)v->gpr[RAX];
}

/* In 64-bit mode the areas are checked as far as they are touched, so only the first byte's address
 * here; elsewhere n bytes must lie in the segment. */
static uint64_t area(struct vcpu *v, const struct insn *i, unsigned n, bool write,
                     unsigned alignment)
{
    uint64_t offset = effective_address(v, i);
    if (v->code64 && !x86_canonical(v, offset) && (offset & (alignment - 1)) &&
        host_processor.alignment_first)
        x86_raise_gp0(v); /* and not #SS */
    return mem_linear(v, i, v->code64 ? 1 : n, write);
}

static bool rex_w(const struct insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        return true;
    default:
        return false;
    }
}

static const struct insn *xsave(struct vcpu *v, const struct insn *i)
{
    bool compact = i->op == ZYDIS_MNEMONIC_XSAVEC || i->op == ZYDIS_MNEMONIC_XSAVEC64;
    bool optimized = i->op == ZYDIS_MNEMONIC_XSAVEOPT || i->op == ZYDIS_MNEMONIC_XSAVEOPT64;
    unsigned n = fpu_xsave_extent(v, requested(v), compact);
    fpu_xsave(v, area(v, i, n, true, XSAVE_ALIGNMENT), requested(v), compact, optimized, rex_w(i));
    return insn_next(v, i);
}

static const struct insn *xrstor(struct vcpu *v, const struct insn *i)
{
    uint64_t linear = area(v, i, fpu_xsave_extent(v, 0, false), false, XSAVE_ALIGNMENT);
    if (!v->code64)
        area(v, i, fpu_xrstor_extent(v, linear, requested(v)), false, XSAVE_ALIGNMENT);
    fpu_xrstor(v, linear, requested(v), rex_w(i));
    return insn_next(v, i);
}

static const struct insn *fxsave(struct vcpu *v, const struct insn *i)
{
    fpu_fxsave(v, area(v, i, FPU_FXSAVE_BYTES, true, 1), rex_w(i));
    return insn_next(v, i);
}

static const struct insn *fxrstor(struct vcpu *v, const struct insn *i)
{
    fpu_fxrstor(v, area(v, i, FPU_FXSAVE_BYTES, false, 1), rex_w(i));
    return insn_next(v, i);
}

/* The operand is of 14 or 28 bytes, with the registers 94 or 108. */
static const struct insn *environment(struct vcpu *v, const struct insn *i)
{
    bool registers = i->op == ZYDIS_MNEMONIC_FNSAVE || i->op == ZYDIS_MNEMONIC_FRSTOR;
    bool stores = i->op == ZYDIS_MNEMONIC_FNSAVE || i->op == ZYDIS_MNEMONIC_FNSTENV;
    unsigned size = i->size == 14 || i->size == 94 ? 2 : 4;
    fpu_check_environment(v, !stores); /* before the operand is looked at */
    uint64_t linear = mem_linear(v, i, 7 * size + (registers ? 80 : 0), stores);
    if (stores)
        fpu_store_environment(v, linear, size, registers);
    else
        fpu_load_environment(v, linear, size, registers);
    return insn_next(v, i);
}

insn_exec fpu_resolve(const struct insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        return xsave;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return xrstor;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        return fxsave;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        return fxrstor;
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
        return environment;
    default:
        return NULL;
    }
}
