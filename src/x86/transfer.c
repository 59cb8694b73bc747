/* SPDX-License-Identifier: MIT */
/* Far jumps and calls, direct and through call gates (SDM 3A 5.8, 7.2.3; SDM 2A CALL, JMP). The
 * selector, the offset and the gate are the guest's. */
#include "x86/descriptor.h"
#include "x86/segment.h"

struct call_gate {
    bool task;         /* no call gate: selector is that of a TSS */
    uint16_t selector; /* of the code segment */
    uint64_t offset;
    unsigned size; /* of each push: 2, 4 or 8 */
    unsigned parameters;
};

static uint64_t truncate_offset(uint64_t offset, unsigned size)
{
    return size == 8 ? offset : offset & ((1ull << (8 * size)) - 1);
}

/* The system descriptor that a far jump or call names: a call gate or a task, or it raises. */
static struct call_gate gate_read(struct vcpu *v, struct x86_descriptor *d)
{
    uint32_t attributes = x86_attributes(d);
    unsigned type = x86_type(attributes), dpl = ATTR_GET_DPL(attributes);
    bool call = type == SYSTEM_CALL_GATE || (type == SYSTEM_CALL_GATE16 && !v->long_mode);
    bool task =
        type == SYSTEM_TASK_GATE || type == SYSTEM_TSS_AVAILABLE || type == SYSTEM_TSS16_AVAILABLE;
    if (!call && (v->long_mode || !task))
        x86_raise_selector(v, VECTOR_GP, d->selector, 0);
    if (dpl < v->cpl || dpl < (d->selector & 3u))
        x86_raise_selector(v, VECTOR_GP, d->selector, 0);
    if (call && !x86_descriptor_extend(v, d))
        x86_raise_selector(v, VECTOR_GP, d->selector, 0);
    if (!(attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_NP, d->selector, 0);
    if (task)
        return (struct call_gate){.task = true,
                                  .selector = type == SYSTEM_TASK_GATE ? (uint16_t)(d->low >> 16)
                                                                       : d->selector};

    struct call_gate gate = {.selector = (uint16_t)(d->low >> 16), .offset = d->low & 0xffff};
    gate.size = v->long_mode ? 8 : type == SYSTEM_CALL_GATE ? 4 : 2;
    if (gate.size > 2)
        gate.offset |= (d->low >> 32) & 0xffff0000;
    if (v->long_mode)
        gate.offset |= d->high << 32;
    else
        gate.parameters = (unsigned)(d->low >> 32) & 0x1f;
    return gate;
}

/* The code segment of a gate: 64-bit in long mode. */
static void gate_code(struct vcpu *v, const struct call_gate *gate, struct x86_code *c)
{
    x86_code_read(v, gate->selector, 0, c);
    if (ATTR_GET_DPL(c->segment.attributes) > v->cpl || (v->long_mode && !c->is64))
        x86_raise_selector(v, VECTOR_GP, gate->selector, 0);
}

/* Privilege of a direct transfer, and of a jump through a gate, which stays in its ring. */
static void check_same_ring(struct vcpu *v, const struct x86_code *c, unsigned rpl)
{
    unsigned dpl = ATTR_GET_DPL(c->segment.attributes);
    bool conforming = x86_is_conforming(c->segment.attributes);
    if (conforming ? dpl > v->cpl : (rpl > v->cpl || dpl != v->cpl))
        x86_raise_selector(v, VECTOR_GP, c->descriptor.selector, 0);
}

/* Null and out-of-table selectors raise; true = a code segment (or data: x86_code_read raises). */
static bool target_is_segment(struct vcpu *v, uint16_t selector, struct x86_descriptor *d)
{
    if (x86_selector_null(selector))
        x86_raise_gp0(v);
    if (!x86_descriptor_read(v, selector, d))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    return x86_attributes(d) & ATTR_S;
}

static void switch_task(struct vcpu *v, const struct call_gate *gate, enum x86_task_cause cause,
                        uint64_t next_rip)
{
    struct x86_task_event event = {.rip = next_rip, .rflags = v->rflags};
    x86_task_switch(v, gate->selector, cause, &event);
}

void x86_far_jump(struct vcpu *v, uint16_t selector, uint64_t offset, unsigned size,
                  uint64_t next_rip)
{
    struct x86_descriptor d;
    struct x86_code code;
    offset = truncate_offset(offset, size);
    if (x86_real_mode(v) || x86_virtual_8086(v)) {
        x86_real_jump(v, selector, offset);
        return;
    }
    if (target_is_segment(v, selector, &d)) {
        x86_code_read(v, selector, 0, &code);
        check_same_ring(v, &code, selector & 3);
    } else {
        struct call_gate gate = gate_read(v, &d);
        if (gate.task) {
            switch_task(v, &gate, TASK_JUMP, next_rip);
            return;
        }
        gate_code(v, &gate, &code);
        check_same_ring(v, &code, 0); /* the RPL of the gate's selector does not count */
        offset = gate.offset;
    }
    x86_code_finish(v, &code, offset, 0);
    x86_descriptor_mark(v, &code.descriptor, TYPE_ACCESSED);
    x86_code_commit(v, &code, v->cpl, offset);
    vcpu_update_mode(v);
}

/* All that can raise is in prepare; then memory, then registers. */
static void call_commit(struct vcpu *v, const struct x86_code *code, const struct x86_stack *stack,
                        unsigned cpl, uint64_t offset)
{
    x86_stack_prepare(v, stack);
    x86_descriptor_mark(v, &code->descriptor, TYPE_ACCESSED);
    x86_stack_store(v, stack);
    v->gpr[RSP] = x86_stack_pointer(v, stack);
    if (cpl != v->cpl)
        v->seg[SEG_SS] = stack->ss;
    x86_code_commit(v, code, cpl, offset);
    vcpu_update_mode(v);
}

static void call_inner(struct vcpu *v, const struct call_gate *gate, const struct x86_code *code,
                       uint64_t next_rip)
{
    unsigned cpl = ATTR_GET_DPL(code->segment.attributes);
    uint32_t parameters[31];
    struct x86_stack outer, stack;
    x86_stack_current(v, &outer, 0);
    x86_stack_of_tss(v, &stack, cpl, 0, 0);
    x86_code_finish(v, code, gate->offset, 0);
    for (unsigned i = 0; i < gate->parameters; i++)
        parameters[i] = (uint32_t)x86_stack_pop(v, &outer, gate->size);
    x86_stack_push(v, &stack, v->seg[SEG_SS].selector, gate->size);
    x86_stack_push(v, &stack, v->gpr[RSP], gate->size);
    for (unsigned i = gate->parameters; i-- > 0;)
        x86_stack_push(v, &stack, parameters[i], gate->size);
    x86_stack_push(v, &stack, v->seg[SEG_CS].selector, gate->size);
    x86_stack_push(v, &stack, next_rip, gate->size);
    call_commit(v, code, &stack, cpl, gate->offset);
}

static void call_same(struct vcpu *v, const struct x86_code *code, uint64_t offset, unsigned size,
                      uint64_t next_rip)
{
    struct x86_stack stack;
    x86_stack_current(v, &stack, 0);
    x86_code_finish(v, code, offset, 0);
    x86_stack_push(v, &stack, v->seg[SEG_CS].selector, size);
    x86_stack_push(v, &stack, next_rip, size);
    call_commit(v, code, &stack, v->cpl, offset);
}

void x86_far_call(struct vcpu *v, uint16_t selector, uint64_t offset, unsigned size,
                  uint64_t next_rip)
{
    struct x86_descriptor d;
    struct x86_code code;
    if (x86_real_mode(v) || x86_virtual_8086(v)) {
        x86_real_call(v, selector, truncate_offset(offset, size), size, next_rip);
        return;
    }
    if (target_is_segment(v, selector, &d)) {
        x86_code_read(v, selector, 0, &code);
        check_same_ring(v, &code, selector & 3);
        call_same(v, &code, truncate_offset(offset, size), size, next_rip);
        return;
    }
    struct call_gate gate = gate_read(v, &d);
    if (gate.task) {
        switch_task(v, &gate, TASK_CALL, next_rip);
        return;
    }
    gate_code(v, &gate, &code);
    if (!x86_is_conforming(code.segment.attributes) &&
        ATTR_GET_DPL(code.segment.attributes) < v->cpl)
        call_inner(v, &gate, &code, next_rip);
    else
        call_same(v, &code, gate.offset, gate.size, next_rip);
}
