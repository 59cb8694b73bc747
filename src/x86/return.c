/* SPDX-License-Identifier: MIT */
/* Far return and IRET (SDM 3A 5.8.6, 6.14.3; SDM 2A IRET, 2B RET). All that comes off the stack is
 * the guest's. */
#include "x86/cpuid.h"
#include "x86/descriptor.h"
#include "x86/segment.h"

/* CS from the stack: its RPL is the new CPL, which may not be an inner ring. */
static void return_code(struct vcpu *v, uint16_t selector, struct x86_code *code)
{
    unsigned rpl = selector & 3;
    x86_code_read(v, selector, 0, code);
    unsigned dpl = ATTR_GET_DPL(code->segment.attributes);
    bool conforming = x86_is_conforming(code->segment.attributes);
    if (rpl < v->cpl || (conforming ? dpl > rpl : dpl != rpl))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
}

/* Segments that the outer ring may not have are nullified. The hidden base stays, of those that
 * were null before as well: FS and GS use it in 64-bit mode, and SDM 2A IRET changes the selector
 * only. */
static void nullify_inner_segments(struct vcpu *v)
{
    static const enum x86_sreg data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < 4; i++) {
        struct x86_segment *s = &v->seg[data[i]];
        if (s->attributes & ATTR_UNUSABLE)
            continue;
        if (ATTR_GET_DPL(s->attributes) < v->cpl && !x86_is_conforming(s->attributes)) {
            uint64_t base = s->base;
            *s = x86_null_segment(0, 0);
            s->base = base;
        }
    }
}

/* Marks what was loaded (raises), then CS:RIP, SS:RSP, CPL. outer: SS comes from `stack`. */
static void return_commit(struct vcpu *v, const struct x86_code *code,
                          const struct x86_stack *stack, bool loads_ss, uint64_t rip)
{
    unsigned cpl = code->segment.selector & 3, old_cpl = v->cpl;
    x86_descriptor_mark(v, &code->descriptor, TYPE_ACCESSED);
    x86_stack_prepare(v, stack);
    v->gpr[RSP] = x86_stack_pointer(v, stack);
    if (loads_ss)
        v->seg[SEG_SS] = stack->ss;
    x86_code_commit(v, code, cpl, rip);
    if (cpl > old_cpl)
        nullify_inner_segments(v);
    vcpu_update_mode(v);
}

/* AMD's processors read SS and RSP before they look at CS. */
static void touch_outer(struct vcpu *v, struct x86_stack stack, unsigned size, uint16_t pop_bytes)
{
    struct x86_stack ss = stack;
    x86_stack_skip(&ss, pop_bytes + size);
    x86_stack_pop_selector(v, &ss, size);
    x86_stack_skip(&stack, pop_bytes);
    x86_stack_pop(v, &stack, size);
}

void x86_far_return(struct vcpu *v, unsigned size, uint16_t pop_bytes)
{
    struct x86_stack stack, outer;
    struct x86_code code;
    if (x86_real_mode(v) || x86_virtual_8086(v)) {
        x86_real_return(v, size, pop_bytes);
        return;
    }
    x86_stack_current(v, &stack, 0);
    uint64_t rip = x86_stack_pop(v, &stack, size);
    uint16_t cs = x86_stack_pop_selector(v, &stack, size);
    if ((cs & 3) != v->cpl && cpuid_is_amd(v))
        touch_outer(v, stack, size, pop_bytes);
    return_code(v, cs, &code);
    x86_stack_skip(&stack, pop_bytes);
    if ((cs & 3) == v->cpl) {
        x86_code_finish(v, &code, rip, 0);
        return_commit(v, &code, &stack, false, rip);
        return;
    }
    if (!(code.segment.attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_NP, cs, 0);
    uint64_t rsp = x86_stack_pop(v, &stack, size);
    uint16_t ss = x86_stack_pop_selector(v, &stack, size);
    x86_stack_of_return(v, &outer, ss, rsp, cs & 3, code.is64);
    x86_stack_skip(&outer, pop_bytes);
    x86_code_finish(v, &code, rip, 0);
    return_commit(v, &code, &outer, true, rip);
}

/* Which flags IRET may change, by the CPL and IOPL before it (SDM 2A IRET). */
static uint64_t iret_flags(const struct vcpu *v, uint64_t popped, unsigned size)
{
    uint64_t mask = FLAGS_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT;
    if (size > 2)
        mask |= FLAG_RF | FLAG_AC | FLAG_ID;
    if (v->cpl <= (v->rflags & FLAG_IOPL) >> 12)
        mask |= FLAG_IF;
    if (v->cpl == 0) {
        mask |= FLAG_IOPL;
        if (size > 2)
            mask |= FLAG_VIF | FLAG_VIP;
    }
    return (v->rflags & ~mask) | (popped & mask) | FLAG_ONE;
}

/* The rest of the frame is ESP, SS, ES, DS, FS, GS (SDM 3B 20.2.1). */
static void return_to_v86(struct vcpu *v, struct x86_stack *stack, uint64_t rip, uint16_t cs,
                          uint64_t popped)
{
    static const enum x86_sreg order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint64_t mask = FLAGS_ARITHMETIC | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF |
                    FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
    uint16_t selectors[5];
    uint64_t rsp = x86_stack_pop(v, stack, 4);
    for (unsigned i = 0; i < 5; i++)
        selectors[i] = x86_stack_pop_selector(v, stack, 4);
    if (rip > 0xffff)
        x86_raise_gp0(v);
    v->rflags = (popped & mask) | FLAG_ONE;
    for (unsigned i = 0; i < 5; i++)
        x86_real_load(v, order[i], selectors[i]);
    x86_real_load(v, SEG_CS, cs);
    v->gpr[RSP] = rsp;
    v->cpl = 3;
    v->rip = rip;
    vcpu_update_mode(v);
}

void x86_iret(struct vcpu *v, unsigned size, uint64_t next_rip)
{
    struct x86_stack stack, outer;
    struct x86_code code;
    if (x86_real_mode(v) || x86_virtual_8086(v)) {
        x86_real_iret(v, size);
        return;
    }
    vcpu_unblock_nmi(v); /* even if this IRET faults (SDM 3C 27.2.3, "NMI unblocking") */
    if ((v->rflags & FLAG_NT) && v->long_mode)
        x86_raise_gp0(v);
    if (v->rflags & FLAG_NT) {
        x86_task_return(v, next_rip);
        return;
    }

    x86_stack_current(v, &stack, 0);
    uint64_t rip = x86_stack_pop(v, &stack, size);
    uint16_t cs = x86_stack_pop_selector(v, &stack, size);
    uint64_t popped = x86_stack_pop(v, &stack, size);
    if (!v->long_mode && v->cpl == 0 && size == 4 && (popped & FLAG_VM)) {
        return_to_v86(v, &stack, rip, cs, popped);
        return;
    }
    uint64_t flags = iret_flags(v, popped, size);
    bool loads_ss = v->code64 || (cs & 3) != v->cpl;
    if (loads_ss && cpuid_is_amd(v))
        touch_outer(v, stack, size, 0);
    return_code(v, cs, &code);
    if (loads_ss) {
        if (!(code.segment.attributes & ATTR_P))
            x86_raise_selector(v, VECTOR_NP, cs, 0);
        uint64_t rsp = x86_stack_pop(v, &stack, size);
        uint16_t ss = x86_stack_pop_selector(v, &stack, size);
        x86_stack_of_return(v, &outer, ss, rsp, cs & 3, code.is64);
    }
    x86_code_finish(v, &code, rip, 0);
    return_commit(v, &code, loads_ss ? &outer : &stack, loads_ss, rip);
    v->rflags = flags;
    vcpu_update_mode(v);
}
