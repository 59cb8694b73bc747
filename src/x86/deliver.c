/* SPDX-License-Identifier: MIT */
/* Delivery of exceptions and interrupts through the IDT (SDM 3A chapter 6; SDM 2A INT n), with
 * double and triple faults; real mode's vector table is real.c's, the switch behind a task gate
 * task.c's. The IDT, the TSS and the descriptors are the guest's. The vCPU's own thread. */
#include <setjmp.h>

#include "x86/descriptor.h"

enum source { SOURCE_EXCEPTION, SOURCE_EXTERNAL, SOURCE_SOFTWARE, SOURCE_INT1 };

struct event {
    uint8_t vector;
    enum source source;
    bool has_error;
    uint32_t error;
    uint64_t dr6;    /* of a #DB */
    uint64_t rip;    /* to be pushed */
    uint64_t rflags; /* to be pushed */
};

struct idt_gate {
    bool task; /* a task gate: selector is that of a TSS */
    uint16_t selector;
    uint64_t offset;
    unsigned size; /* of each push */
    unsigned ist;
    bool clears_if; /* an interrupt gate, not a trap gate */
};

/* What is wrong with an IDT entry: #GP or #NP with its index (SDM 3A 6.13). */
static _Noreturn void raise_idt(struct vcpu *v, uint8_t fault, uint8_t vector, uint32_t ext)
{
    x86_raise_error(v, fault, (uint32_t)vector << 3 | ERROR_IDT | ext);
}

static struct idt_gate gate_read(struct vcpu *v, const struct event *event, uint32_t ext)
{
    unsigned size = v->long_mode ? 16 : 8;
    uint64_t address = v->idtr.base + event->vector * size;
    if (!v->long_mode)
        address = (uint32_t)address;
    if (event->vector * size + size - 1 > v->idtr.limit || !x86_canonical(v, address))
        raise_idt(v, VECTOR_GP, event->vector, ext);
    struct x86_descriptor d = {.low = x86_load_reach(v, x86_implicit_reach(v), address, 8)};
    if (v->long_mode)
        d.high = x86_load_reach(v, x86_implicit_reach(v), address + 8, 8);

    uint32_t attributes = x86_attributes(&d);
    unsigned type = attributes & (ATTR_S | ATTR_TYPE);
    bool gate32 = type == SYSTEM_INTERRUPT || type == SYSTEM_TRAP;
    bool gate16 = type == SYSTEM_INTERRUPT16 || type == SYSTEM_TRAP16;
    bool task = type == SYSTEM_TASK_GATE;
    if (!gate32 && (v->long_mode || (!gate16 && !task)))
        raise_idt(v, VECTOR_GP, event->vector, ext);
    if (event->source == SOURCE_SOFTWARE && ATTR_GET_DPL(attributes) < v->cpl)
        raise_idt(v, VECTOR_GP, event->vector, ext);
    if (!(attributes & ATTR_P))
        raise_idt(v, VECTOR_NP, event->vector, ext);
    struct idt_gate gate = {
        .task = task,
        .selector = (uint16_t)(d.low >> 16),
        .offset = d.low & 0xffff,
        .size = v->long_mode ? 8
                : gate32     ? 4
                             : 2,
        .ist = v->long_mode ? (unsigned)(d.low >> 32) & 7 : 0,
        .clears_if = type == SYSTEM_INTERRUPT || type == SYSTEM_INTERRUPT16,
    };
    if (gate32)
        gate.offset |= (d.low >> 32) & 0xffff0000;
    if (v->long_mode)
        gate.offset |= d.high << 32;
    return gate;
}

/* What virtual-8086 mode has in its frame before SS; afterwards they are null (SDM 3B 20.2.2). */
static const enum x86_sreg v86_segments[4] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};

static void push_frame(struct vcpu *v, struct x86_stack *stack, const struct event *event,
                       unsigned size, bool with_ss)
{
    if (v->long_mode)
        stack->sp &= ~(uint64_t)0xf; /* SDM 3A 6.14.2 */
    for (unsigned i = 0; i < 4 && x86_virtual_8086(v); i++)
        x86_stack_push(v, stack, v->seg[v86_segments[i]].selector, size);
    if (with_ss) {
        x86_stack_push(v, stack, v->seg[SEG_SS].selector, size);
        x86_stack_push(v, stack, v->gpr[RSP], size);
    }
    x86_stack_push(v, stack, event->rflags, size);
    x86_stack_push(v, stack, v->seg[SEG_CS].selector, size);
    x86_stack_push(v, stack, event->rip, size);
    if (event->has_error)
        x86_stack_push(v, stack, event->error, size);
}

static void leave_shadow(struct vcpu *v)
{
    v->interrupt_shadow = false;
    v->shadow_blocks_debug = false;
}

/* Raises, with nothing changed but accessed bits, or leaves the vCPU at the handler. */
static void deliver(struct vcpu *v, const struct event *event)
{
    uint32_t ext = event->source == SOURCE_SOFTWARE ? 0 : ERROR_EXT;
    struct x86_stack stack;
    struct x86_code code;
    if (x86_real_mode(v)) {
        x86_real_interrupt(v, event->vector, event->rflags, event->rip);
        leave_shadow(v);
        return;
    }
    struct idt_gate gate = gate_read(v, event, ext);
    if (gate.task) {
        x86_task_switch(v, gate.selector, TASK_EVENT,
                        &(struct x86_task_event){.rip = event->rip,
                                                 .rflags = event->rflags,
                                                 .ext = ext,
                                                 .has_error = event->has_error,
                                                 .error = event->error});
        return;
    }
    x86_code_read(v, gate.selector, ext, &code);
    unsigned dpl = ATTR_GET_DPL(code.segment.attributes);
    if (dpl > v->cpl || (v->long_mode && !code.is64))
        x86_raise_selector(v, VECTOR_GP, gate.selector, ext);
    bool v86 = x86_virtual_8086(v);
    if (v86 && (dpl != 0 || x86_is_conforming(code.segment.attributes)))
        x86_raise_selector(v, VECTOR_GP, gate.selector, ext); /* SDM 3B 20.2.2 */
    if (!(code.segment.attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_NP, gate.selector, ext);
    unsigned cpl = x86_is_conforming(code.segment.attributes) ? v->cpl : dpl;
    bool inner = cpl != v->cpl;
    if (inner || gate.ist)
        x86_stack_of_tss(v, &stack, cpl, gate.ist, ext);
    else
        x86_stack_current(v, &stack, ext);
    stack.is64 = v->long_mode; /* a 64-bit handler may have interrupted compatibility mode */
    push_frame(v, &stack, event, gate.size, inner || v->long_mode);
    x86_code_finish(v, &code, gate.offset, ext);
    x86_stack_prepare(v, &stack);
    x86_descriptor_mark(v, &code.descriptor, TYPE_ACCESSED);
    x86_stack_store(v, &stack);

    v->gpr[RSP] = x86_stack_pointer(v, &stack);
    if (inner)
        v->seg[SEG_SS] = stack.ss;
    for (unsigned i = 0; i < 4 && v86; i++)
        v->seg[v86_segments[i]] = x86_null_segment(0, 0);
    x86_code_commit(v, &code, cpl, gate.offset);
    v->rflags &= ~(uint64_t)(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM);
    if (gate.clears_if)
        v->rflags &= ~(uint64_t)FLAG_IF;
    leave_shadow(v);
    vcpu_update_mode(v);
}

/* Faults push RF set, so that their instruction is not caught by its breakpoint again. A #DB of an
 * instruction breakpoint does not, nor do traps (SDM 3A 6.8.3; SDM 3B 17.3.1.1). */
static bool pushes_rf(const struct event *event)
{
    switch (event->vector) {
    case VECTOR_DB:
        return event->dr6 & DR6_BD;
    case VECTOR_NMI:
    case VECTOR_BP:
    case VECTOR_OF:
    case VECTOR_DF:
    case VECTOR_MC:
        return false;
    default:
        return true;
    }
}

static struct event event_of_fault(const struct vcpu *v)
{
    struct event event = {
        .vector = v->fault.vector,
        .source = SOURCE_EXCEPTION,
        .has_error = v->fault.has_error,
        .error = v->fault.error,
        .dr6 = v->fault.vector == VECTOR_DB ? v->fault.dr6 : 0,
        .rip = v->rip,
        .rflags = v->rflags,
    };
    if (pushes_rf(&event))
        event.rflags |= FLAG_RF;
    return event;
}

/* What an exception leaves in CR2, DR6 and DR7 before its handler is looked for. */
static void record_exception(struct vcpu *v)
{
    if (v->fault.vector == VECTOR_PF)
        v->cr2 = v->fault.address;
    if (v->fault.vector == VECTOR_DB) {
        v->dr6 = (v->dr6 & ~(uint64_t)0xf) | v->fault.dr6 | DR6_FIXED;
        v->dr7 &= ~(uint64_t)DR7_GD;
    }
    v->counters.exits[EXIT_EXCEPTION]++;
}

enum class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE_FAULT };

/* SDM 3A table 6-4 */
static enum class class_of(uint8_t vector) {
    switch (vector){
        case VECTOR_DE : case VECTOR_TS : case VECTOR_NP : case VECTOR_SS : case
        VECTOR_GP : return CLASS_CONTRIBUTORY;
        case VECTOR_PF : return CLASS_PAGE_FAULT;
        case VECTOR_DF : return CLASS_DOUBLE_FAULT;
        default : return CLASS_BENIGN;
    }
}

/* The event after v->fault was met in delivering one of class `first` (SDM 3A table 6-5); false =
 * triple fault. */
static bool next_event(struct vcpu *v, enum class first, struct event *next)
{
    enum class second = class_of(v->fault.vector);
    bool doubles = (first == CLASS_CONTRIBUTORY && second == CLASS_CONTRIBUTORY) ||
                   (first == CLASS_PAGE_FAULT && second != CLASS_BENIGN);
    record_exception(v);
    if (first == CLASS_DOUBLE_FAULT)
        return false;
    *next = event_of_fault(v);
    if (doubles) {
        v->counters.exits[EXIT_EXCEPTION]++;
        *next = (struct event){.vector = VECTOR_DF,
                               .source = SOURCE_EXCEPTION,
                               .has_error = true,
                               .rip = v->rip,
                               .rflags = v->rflags};
    }
    return true;
}

static bool try_deliver(struct vcpu *v, const struct event *event)
{
    jmp_buf frame;
    v->unwind = &frame;
    if (setjmp(frame) != 0)
        return false;
    deliver(v, event);
    return true;
}

/* Ends: each turn is a benign event's exception, or a step to #DF and beyond. */
static void deliver_with_faults(struct vcpu *v, struct event event)
{
    jmp_buf *caller = v->unwind;
    enum class first = event.source == SOURCE_EXCEPTION ? class_of(event.vector) : CLASS_BENIGN;
    while (!try_deliver(v, &event)) {
        if (!next_event(v, first, &event)) {
            v->activity = VCPU_SHUTDOWN;
            break;
        }
        first = class_of(event.vector);
    }
    v->unwind = caller;
}

void x86_deliver_fault(struct vcpu *v)
{
    v->activity = VCPU_ACTIVE;
    record_exception(v);
    deliver_with_faults(v, event_of_fault(v));
}

void x86_deliver_interrupt(struct vcpu *v, uint8_t vector)
{
    v->activity = VCPU_ACTIVE;
    deliver_with_faults(
        v, (struct event){
               .vector = vector, .source = SOURCE_EXTERNAL, .rip = v->rip, .rflags = v->rflags});
}

void x86_software_interrupt(struct vcpu *v, uint8_t vector, uint64_t next_rip, bool int1)
{
    struct event event = {
        .vector = vector,
        .source = int1 ? SOURCE_INT1 : SOURCE_SOFTWARE,
        .rip = next_rip,
        .rflags = v->rflags & ~(uint64_t)FLAG_RF, /* the instruction has run */
    };
    deliver(v, &event);
    if (int1 && v->debug_pending) { /* what MOV SS held comes in the same #DB (SDM 3A 6.8.3) */
        v->dr6 = (v->dr6 & ~(uint64_t)0xf) | v->debug_pending | DR6_FIXED;
        v->debug_pending = 0;
    }
}
