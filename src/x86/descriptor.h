/* SPDX-License-Identifier: MIT */
/* Descriptors, staged stacks and code targets: what segment loads, far transfers and event delivery
 * share. Internal to x86/.
 *
 * Everything here follows one plan: read and check (raises), mark descriptors accessed or busy and
 * probe the stack (raises), then commit registers (cannot raise). Selectors, descriptors, gates and
 * the TSS are the guest's. */
#ifndef DOPPEL_X86_DESCRIPTOR_H
#define DOPPEL_X86_DESCRIPTOR_H

#include "x86/access.h"
#include "x86/vcpu.h"

/* Types of system descriptors (SDM 3A table 3-2) */
#define SYSTEM_TSS16_AVAILABLE 0x1u
#define SYSTEM_LDT             0x2u
#define SYSTEM_TSS16_BUSY      0x3u
#define SYSTEM_CALL_GATE16     0x4u
#define SYSTEM_TASK_GATE       0x5u
#define SYSTEM_INTERRUPT16     0x6u
#define SYSTEM_TRAP16          0x7u
#define SYSTEM_TSS_AVAILABLE   0x9u
#define SYSTEM_TSS_BUSY        0xbu
#define SYSTEM_CALL_GATE       0xcu
#define SYSTEM_INTERRUPT       0xeu
#define SYSTEM_TRAP            0xfu

/* Bits of the type of a code or data descriptor (SDM 3A table 3-1) */
#define TYPE_ACCESSED    0x1u
#define TYPE_BUSY        0x2u /* of a TSS */
#define TYPE_WRITABLE    0x2u /* data */
#define TYPE_READABLE    0x2u /* code */
#define TYPE_EXPAND_DOWN 0x4u /* data */
#define TYPE_CONFORMING  0x4u /* code */
#define TYPE_CODE        0x8u

/* EXT of an error code: the event that met the fault came from outside the program (SDM 3A 6.13) */
#define ERROR_EXT 1u
#define ERROR_IDT 2u

struct x86_descriptor {
    uint64_t low, high; /* high: second half of a 16-byte system descriptor */
    uint64_t address;   /* linear */
    uint16_t selector;
};

static inline bool x86_selector_null(uint16_t selector)
{
    return (selector & 0xfffc) == 0;
}

static inline bool x86_real_mode(const struct vcpu *v)
{
    return !(v->cr0 & CR0_PE);
}

static inline bool x86_virtual_8086(const struct vcpu *v)
{
    return (v->rflags & FLAG_VM) != 0;
}

static inline uint32_t x86_attributes(const struct x86_descriptor *d)
{
    return (uint32_t)(d->low >> 40) & 0xf0ff;
}

static inline unsigned x86_type(uint32_t attributes)
{
    return attributes & ATTR_TYPE;
}

static inline bool x86_is_code(uint32_t attributes)
{
    return (attributes & ATTR_S) && (attributes & TYPE_CODE);
}

static inline bool x86_is_conforming(uint32_t attributes)
{
    return x86_is_code(attributes) && (attributes & TYPE_CONFORMING);
}

static inline bool x86_is_writable_data(uint32_t attributes)
{
    return (attributes & ATTR_S) && !(attributes & TYPE_CODE) && (attributes & TYPE_WRITABLE);
}

/* #GP, #NP, #SS, #TS with a selector error code. ext is 0 or ERROR_EXT. */
static inline _Noreturn void x86_raise_selector(struct vcpu *v, uint8_t vector, uint16_t selector,
                                                uint32_t ext)
{
    x86_raise_error(v, vector, (selector & 0xfffcu) | ext);
}

/* The 8 bytes that selector names; false when its table ends before them (the caller's #GP, #TS or
 * ZF). Not for null selectors. Page faults raise. */
bool x86_descriptor_read(struct vcpu *v, uint16_t selector, struct x86_descriptor *d);
/* In long mode, the second half of a system descriptor; false when the table ends before it or its
 * type field is not zero (SDM 3A 3.5.2). Does nothing outside long mode. */
bool x86_descriptor_extend(struct vcpu *v, struct x86_descriptor *d);
/* Sets TYPE_ACCESSED or TYPE_BUSY in memory by a locked access, if it is clear. May raise #PF. */
void x86_descriptor_mark(struct vcpu *v, const struct x86_descriptor *d, uint8_t bit);
/* Clears TYPE_BUSY of the TSS descriptor that selector has in the GDT. May raise #PF. */
void x86_descriptor_clear_busy(struct vcpu *v, uint16_t selector);
/* The segment register as it is after loading d; the accessed bit is set in it. */
struct x86_segment x86_descriptor_segment(const struct x86_descriptor *d, uint16_t selector);

/* An unusable segment register. SS keeps the CPL in its DPL. */
struct x86_segment x86_null_segment(uint16_t selector, unsigned dpl);

/* A code segment for CS: read by selector, which is checked for null, table limit, being code, and
 * in long mode L with D. The privilege checks follow, then x86_code_finish: present, and offset
 * within the limit or canonical. ext as above. */
struct x86_code {
    struct x86_descriptor descriptor;
    struct x86_segment segment;
    bool is64; /* it will run in 64-bit mode */
};
void x86_code_read(struct vcpu *v, uint16_t selector, uint32_t ext, struct x86_code *c);
void x86_code_finish(struct vcpu *v, const struct x86_code *c, uint64_t offset, uint32_t ext);
/* The commit: CS, CPL, rip; the caller calls vcpu_update_mode after SS and rflags. */
void x86_code_commit(struct vcpu *v, const struct x86_code *c, unsigned cpl, uint64_t rip);

/* Linear address in a segment that need not be loaded; vector and error on a violation. */
uint64_t x86_segment_linear(struct vcpu *v, const struct x86_segment *s, bool is64, uint64_t offset,
                            unsigned size, bool write, uint8_t vector, uint32_t error);

/* real.c: real mode, and what virtual-8086 mode has in common with it. */
void x86_real_load(struct vcpu *v, enum x86_sreg sreg, uint16_t selector);
void x86_real_jump(struct vcpu *v, uint16_t selector, uint64_t offset);
void x86_real_call(struct vcpu *v, uint16_t selector, uint64_t offset, unsigned size,
                   uint64_t next_rip);
void x86_real_return(struct vcpu *v, unsigned size, uint16_t pop_bytes);
void x86_real_iret(struct vcpu *v, unsigned size);
/* Real mode only: through the vector table, which has no error codes. */
void x86_real_interrupt(struct vcpu *v, uint8_t vector, uint64_t flags, uint64_t next_rip);

/* task.c: task switches. What is saved of the old task, and the exception that the new one gets. */
enum x86_task_cause { TASK_JUMP, TASK_CALL, TASK_EVENT, TASK_RETURN };
struct x86_task_event {
    uint64_t rip, rflags;
    uint32_t ext; /* of the error codes of its own faults */
    bool has_error;
    uint32_t error;
};
/* Not in long mode. The privilege and presence of the TSS descriptor or gate that led here were
 * checked, all else is inside. What is wrong with the new task's segments raises in the new task.
 */
void x86_task_switch(struct vcpu *v, uint16_t selector, enum x86_task_cause cause,
                     const struct x86_task_event *event);
/* IRET with NT: to the task in the link of this one. */
void x86_task_return(struct vcpu *v, uint64_t next_rip);
/* control.c: CR3 of the new task; raises #GP(0) for its PDPTEs. */
void x86_task_load_cr3(struct vcpu *v, uint32_t value);

/* A stack of which pushes are kept until every check is done. */
#define STACK_SLOTS 40 /* 31 parameters of a call gate, and the largest frame */
struct x86_stack {
    struct x86_segment ss;
    struct x86_descriptor descriptor; /* of ss, where it was loaded from the TSS or by a return */
    bool is64;
    bool loaded; /* descriptor is valid and is to be marked accessed */
    uint8_t reach;
    uint32_t error; /* of #SS */
    uint64_t sp;
    unsigned count;
    struct {
        uint64_t address, value;
        unsigned size;
    } slots[STACK_SLOTS];
};

/* The stack in use. ext is the error code of its #SS. */
void x86_stack_current(struct vcpu *v, struct x86_stack *s, uint32_t ext);
/* The stack that the TSS has for ring cpl (SDM 3A 5.8.5), or in long mode for IST entry `ist` when
 * that is not zero (SDM 3A 6.14.5). Raises #TS, #SS. */
void x86_stack_of_tss(struct vcpu *v, struct x86_stack *s, unsigned cpl, unsigned ist,
                      uint32_t ext);
/* SS by a return to ring cpl, into 64-bit mode or not (SDM 2A IRET, 2B RET). */
void x86_stack_of_return(struct vcpu *v, struct x86_stack *s, uint16_t selector, uint64_t sp,
                         unsigned cpl, bool to64);
void x86_stack_push(struct vcpu *v, struct x86_stack *s, uint64_t value, unsigned size);
uint64_t x86_stack_pop(struct vcpu *v, struct x86_stack *s, unsigned size);
/* A slot of `size` bytes of which a far return reads only the selector (as the processor does). */
uint16_t x86_stack_pop_selector(struct vcpu *v, struct x86_stack *s, unsigned size);
void x86_stack_skip(struct x86_stack *s, uint64_t bytes); /* towards the base of the stack */
/* Everything that can still raise: marks SS, probes the slots; then store. */
void x86_stack_prepare(struct vcpu *v, const struct x86_stack *s);
void x86_stack_store(struct vcpu *v, const struct x86_stack *s);
/* RSP after the transfer: only SP or ESP changes when that is the stack's width. */
uint64_t x86_stack_pointer(const struct vcpu *v, const struct x86_stack *s);

#endif
