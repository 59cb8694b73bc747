/* SPDX-License-Identifier: MIT */
/* Real-address mode: segment loads, far transfers, delivery through the interrupt vector table and
 * IRET (SDM 3B 20.1; SDM 2A CALL, INT n, IRET; 2B JMP, RET). Segment loads, jumps, calls, returns
 * and IRET are those of virtual-8086 mode too. Loads change selector and base only: limit and
 * attributes stay what protected mode left in them, so "big real mode" works. The vCPU's own
 * thread; selectors, offsets, the stack and the vector table are the guest's. */
#include "x86/descriptor.h"

#define V86_ATTRIBUTES (ATTR_P | ATTR_DPL | ATTR_S | TYPE_WRITABLE | TYPE_ACCESSED)

void x86_real_load(struct vcpu *v, enum x86_sreg sreg, uint16_t selector)
{
    struct x86_segment *s = &v->seg[sreg];
    s->selector = selector;
    s->base = (uint64_t)selector << 4;
    if (x86_virtual_8086(v)) {
        s->limit = 0xffff;
        s->attributes = V86_ATTRIBUTES;
    } else if (sreg != SEG_CS) {
        s->attributes &= ~(ATTR_UNUSABLE | ATTR_TYPE | ATTR_DPL);
        s->attributes |= ATTR_P | ATTR_S | TYPE_WRITABLE | TYPE_ACCESSED;
    }
}

static void check_limit(struct vcpu *v, uint64_t offset)
{
    if (offset > v->seg[SEG_CS].limit)
        x86_raise_gp0(v);
}

static void commit(struct vcpu *v, const struct x86_stack *stack, uint16_t cs, uint64_t rip)
{
    v->gpr[RSP] = x86_stack_pointer(v, stack);
    x86_real_load(v, SEG_CS, cs);
    v->rip = rip;
    vcpu_update_mode(v);
}

void x86_real_jump(struct vcpu *v, uint16_t selector, uint64_t offset)
{
    check_limit(v, offset);
    x86_real_load(v, SEG_CS, selector);
    v->rip = offset;
    vcpu_update_mode(v);
}

void x86_real_call(struct vcpu *v, uint16_t selector, uint64_t offset, unsigned size,
                   uint64_t next_rip)
{
    struct x86_stack stack;
    x86_stack_current(v, &stack, 0);
    x86_stack_push(v, &stack, v->seg[SEG_CS].selector, size);
    x86_stack_push(v, &stack, next_rip, size);
    check_limit(v, offset);
    x86_stack_prepare(v, &stack);
    x86_stack_store(v, &stack);
    commit(v, &stack, selector, offset);
}

void x86_real_return(struct vcpu *v, unsigned size, uint16_t pop_bytes)
{
    struct x86_stack stack;
    x86_stack_current(v, &stack, 0);
    uint64_t rip = x86_stack_pop(v, &stack, size);
    uint16_t cs = x86_stack_pop_selector(v, &stack, size);
    check_limit(v, rip);
    x86_stack_skip(&stack, pop_bytes);
    commit(v, &stack, cs, rip);
}

void x86_real_iret(struct vcpu *v, unsigned size)
{
    /* SDM 2A IRET: EFLAGS := (popped AND 257FD5H) OR (EFLAGS AND 1A0000H) */
    uint64_t mask = FLAGS_ARITHMETIC | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT;
    struct x86_stack stack;
    if (size > 2)
        mask |= FLAG_RF | FLAG_AC | FLAG_ID;
    if (x86_virtual_8086(v)) {
        mask &= ~(uint64_t)FLAG_IOPL;
        if ((v->rflags & FLAG_IOPL) != FLAG_IOPL)
            x86_raise_gp0(v);
    }
    vcpu_unblock_nmi(v); /* even if this IRET faults (SDM 3C 27.2.3, "NMI unblocking") */
    x86_stack_current(v, &stack, 0);
    uint64_t rip = x86_stack_pop(v, &stack, size);
    uint16_t cs = x86_stack_pop_selector(v, &stack, size);
    uint64_t popped = x86_stack_pop(v, &stack, size);
    check_limit(v, rip);
    v->rflags = (v->rflags & ~mask) | (popped & mask) | FLAG_ONE;
    if (size == 2)
        v->rflags &= ~(uint64_t)FLAG_RF;
    commit(v, &stack, cs, rip);
}

void x86_real_interrupt(struct vcpu *v, uint8_t vector, uint64_t flags, uint64_t next_rip)
{
    struct x86_stack stack;
    if (vector * 4u + 3 > v->idtr.limit)
        x86_raise_error(v, VECTOR_GP, (uint32_t)vector << 3 | ERROR_IDT);
    x86_stack_current(v, &stack, 0);
    x86_stack_push(v, &stack, flags, 2);
    x86_stack_push(v, &stack, v->seg[SEG_CS].selector, 2);
    x86_stack_push(v, &stack, next_rip, 2);
    uint32_t entry = (uint32_t)x86_load_reach(v, x86_implicit_reach(v),
                                              (uint32_t)(v->idtr.base + vector * 4u), 4);
    check_limit(v, entry & 0xffff);
    x86_stack_prepare(v, &stack);
    x86_stack_store(v, &stack);
    v->rflags &= ~(uint64_t)(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
    commit(v, &stack, (uint16_t)(entry >> 16), entry & 0xffff);
}
