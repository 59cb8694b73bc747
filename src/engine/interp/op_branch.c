/* SPDX-License-Identifier: MIT */
/* Near control transfer (SDM 1 5.1.7). A jump within its page goes straight to the target's record
 * once that is known; every branch polls the vCPU's requests. */
#include "engine/interp/condition.h"
#include "engine/interp/interp.h"

#define BODY static inline __attribute__((always_inline)) const struct insn *

/* The target of a near transfer: wrapped to the operand size outside 64-bit mode, and for AMD's
 * processors (the decoder) in it; canonical or within the CS limit, else #GP(0) with nothing
 * changed. */
static inline __attribute__((always_inline)) uint64_t
checked_target(struct vcpu *v, const struct insn *i, uint64_t target)
{
    if (X86_LIKELY(v->code64)) {
        if (X86_UNLIKELY(i->stack_size == 2))
            return (uint16_t)target;
        if (X86_UNLIKELY(!x86_canonical(v, target)))
            x86_raise_gp0(v);
        return target;
    }
    target = i->stack_size == 2 ? (uint16_t)target : (uint32_t)target;
    if (target > v->seg[SEG_CS].limit)
        x86_raise_gp0(v);
    return target;
}

/* Links are made and used only where the segment begins at a page: elsewhere the same record may
 * lead to another page, or wrap at 64 KiB. */
static const struct insn *link_within_page(struct vcpu *v, const struct insn *i, uint64_t from)
{
    const struct insn *next = code_continue(v);
    if (next != NULL && !(v->code_base & 0xfff) && ((from ^ v->rip) & ~(uint64_t)0xfff) == 0)
        ((struct insn *)i)->link = next; /* the record is ours; only handlers see it as const */
    return next;
}

/* A direct jump that is taken. */
static inline __attribute__((always_inline)) const struct insn *jump_relative(struct vcpu *v,
                                                                              const struct insn *i)
{
    uint64_t from = v->rip;
    v->rip = checked_target(v, i, from + i->length + i->imm);
    if (X86_LIKELY(i->link != NULL && vcpu_requests(v) == 0) && !(v->code_base & 0xfff))
        return i->link;
    return link_within_page(v, i, from);
}

BODY jcc(struct vcpu *v, const struct insn *i, enum condition cc)
{
    return condition_holds(v, cc) ? jump_relative(v, i) : insn_next(v, i);
}

#define JCC(suffix, cc)                                                        \
    static const struct insn *j_##suffix(struct vcpu *v, const struct insn *i) \
    {                                                                          \
        return jcc(v, i, cc);                                                  \
    }
CONDITIONS(JCC)

static const struct insn *jmp_i(struct vcpu *v, const struct insn *i)
{
    return jump_relative(v, i);
}

static const struct insn *jmp_r(struct vcpu *v, const struct insn *i)
{
    v->rip = checked_target(v, i, reg_read(v, i->dst, i->size));
    return code_continue(v);
}

static const struct insn *jmp_m(struct vcpu *v, const struct insn *i)
{
    v->rip = checked_target(v, i, mem_load(v, i, i->size));
    return code_continue(v);
}

BODY call_to(struct vcpu *v, const struct insn *i, uint64_t target)
{
    uint64_t sp = stack_wrap(v, v->gpr[RSP] - i->stack_size);
    /* The processor stores the return address before it looks at the target. */
    stack_store(v, sp, v->rip + i->length, i->stack_size);
    target = checked_target(v, i, target);
    stack_set(v, sp);
    v->rip = target;
    return code_continue(v);
}

static const struct insn *call_i(struct vcpu *v, const struct insn *i)
{
    return call_to(v, i, v->rip + i->length + i->imm);
}

static const struct insn *call_r(struct vcpu *v, const struct insn *i)
{
    return call_to(v, i, reg_read(v, i->dst, i->size));
}

static const struct insn *call_m(struct vcpu *v, const struct insn *i)
{
    return call_to(v, i, mem_load(v, i, i->size));
}

static const struct insn *ret(struct vcpu *v, const struct insn *i)
{
    uint64_t target = checked_target(v, i, stack_top(v, i->stack_size));
    stack_set(v, stack_wrap(v, v->gpr[RSP] + i->stack_size));
    v->rip = target;
    return code_continue(v);
}

static const struct insn *ret_i(struct vcpu *v, const struct insn *i)
{
    uint64_t target = checked_target(v, i, stack_top(v, i->stack_size));
    stack_set(v, stack_wrap(v, v->gpr[RSP] + i->stack_size + (i->imm & 0xffff)));
    v->rip = target;
    return code_continue(v);
}

/* RCX, ECX or CX by the address size. */
static uint64_t counter(const struct vcpu *v, const struct insn *i)
{
    return reg_read(v, RCX * 8, i->address_size);
}

static const struct insn *jrcxz(struct vcpu *v, const struct insn *i)
{
    return counter(v, i) == 0 ? jump_relative(v, i) : insn_next(v, i);
}

static const struct insn *loop(struct vcpu *v, const struct insn *i)
{
    uint64_t left = counter(v, i) - 1;
    if (i->address_size == 4)
        left = (uint32_t)left;
    else if (i->address_size == 2)
        left = (uint16_t)left;
    bool zero = (v->rflags & FLAG_ZF) != 0;
    bool taken = left != 0;
    if (i->op == ZYDIS_MNEMONIC_LOOPE)
        taken = taken && zero;
    else if (i->op == ZYDIS_MNEMONIC_LOOPNE)
        taken = taken && !zero;
    if (taken) /* before RCX changes: the target may raise */
        checked_target(v, i, v->rip + i->length + i->imm);
    reg_write(v, RCX * 8, left, i->address_size);
    return taken ? jump_relative(v, i) : insn_next(v, i);
}

#define JCC_CASE(suffix, cc)       \
    case ZYDIS_MNEMONIC_J##suffix: \
        return j_##suffix;

static insn_exec by_form(const struct insn *i, insn_exec imm, insn_exec reg, insn_exec mem)
{
    switch (i->form) {
    case FORM_I:
        return imm;
    case FORM_R:
        return reg;
    case FORM_M:
        return mem;
    default:
        return NULL;
    }
}

insn_exec branch_resolve(const struct insn *i)
{
    if (i->prefixes & INSN_FAR)
        return NULL;
    switch (i->op) {
        CONDITIONS(JCC_CASE)
    case ZYDIS_MNEMONIC_JMP:
        return by_form(i, jmp_i, jmp_r, jmp_m);
    case ZYDIS_MNEMONIC_CALL:
        return by_form(i, call_i, call_r, call_m);
    case ZYDIS_MNEMONIC_RET:
        return i->form == FORM_I ? ret_i : ret;
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JCXZ:
        return jrcxz;
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
        return loop;
    default:
        return NULL;
    }
}
