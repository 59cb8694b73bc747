/* SPDX-License-Identifier: MIT */
/*
 * Virtual-8086 mode without VME (SDM 3A chapter 21): its segments, what IOPL governs, INT n into
 * protected mode, ports by the TSS' map, and the way back by IRET.
 */
#include "legacy.h"

#define SEGMENT (LOW >> 4)
#define STACK   0x7000u
#define IOPL3   FLAG_IOPL

SNIPPET16(segment, "mov $0x1234, %ax\nmov %ax, %ds\nmov (0x10), %ebx\nmov %ax, %fs");
SNIPPET16(at_end, "mov (0xffff), %ax");
SNIPPET16(wide, "mov 0x10000(%esi), %eax");
SNIPPET16(soft, "int $0x55");
SNIPPET16(flags, "std\nstc\npushf\npop %bx\ncld");
SNIPPET16(set_flags, "pushw $0x7202\npopf\npushf\npop %bx\npushl $0\npopfl\npushfl\npop %ecx");
SNIPPET16(disable, "cli");
SNIPPET16(push_flags, "pushf");
SNIPPET16(pop_flags, "popf");
SNIPPET16(iret_16, "iret");
SNIPPET16(breakpoint, "int3");
SNIPPET16(privileged, "hlt");
SNIPPET16(no_such, "lldt %ax");
SNIPPET16(selectors, "lar %ax, %bx");
SNIPPET16(port, "in $0x80, %al");
SNIPPET16(port_word, "in $0x80, %ax");
SNIPPET16(far_jump, "ljmp $0x900, $4");
SNIPPET16(frame, "push $0x3002\npush $0x900\npush $6\niret");

/* Enters at LOW with segments of 0x10000 and the rest as given. */
static void v86(struct regs *r, const u8 *code, const u8 *end)
{
    place(code, end);
    r->cs = SEGMENT;
    r->eip = 0;
    r->eflags |= FLAG_VM;
    if (r->esp == 0)
        r->esp = STACK;
    r->ss = 0x10; /* linear 0x100 above */
    legacy_tss.esp0 = (u32)(fault_stack + sizeof(fault_stack));
    run(r, NULL);
    want("vm", r->eflags & FLAG_VM, FLAG_VM);
}
#define V86(r, code) v86(r, code, code##_end)

static void segments(void)
{
    struct regs r = {.eflags = IOPL3, .es = 0x1111, .gs = 0x2222};
    poke(0x12350, 0xfeedbeef);
    V86(&r, segment);
    want_done(&r);
    want("ebx", r.ebx, 0xfeedbeef);
    want("ds", r.ds, 0x1234);
    want("fs", r.fs, 0x1234);
    want("es", r.es, 0x1111);
    want("gs", r.gs, 0x2222);
    want("ss", r.ss, 0x10);
    want("frame", r.frame, (u32)(fault_stack + sizeof(fault_stack)) - 36);
    verdict("segments");
    r = (struct regs){.eflags = IOPL3};
    V86(&r, at_end);
    want_trap(&r, VECTOR_GP, 0, 0);
    verdict("limit");
    r = (struct regs){.eflags = IOPL3};
    V86(&r, wide);
    want_trap(&r, VECTOR_GP, 0, 0);
    verdict("limit-64k");
    poke(0x9004, 0x9040cd90); /* NOP, INT 0x40, NOP */
    r = (struct regs){.eflags = IOPL3};
    V86(&r, far_jump);
    want_done(&r);
    want("eip", r.eip, 7);
    verdict("far-jump");
}

static void trap(const char *name, const u8 *code, const u8 *end, u32 flags, unsigned vector,
                 u32 eip)
{
    struct regs r = {.eflags = flags};
    v86(&r, code, end);
    want_trap(&r, vector, 0, eip);
    verdict(name);
}
#define TRAP(name, code, flags, vector, eip) trap(name, code, code##_end, flags, vector, eip)

static void sensitive(void)
{
    struct regs r = {.eflags = IOPL3};
    legacy_idt[0x55] = gate(CODE, (u32)legacy_vectors[0x55], 0xee, 0);
    TRAP("int/iopl-3", soft, IOPL3, 0x55, 2);
    TRAP("int/iopl-0", soft, 0, VECTOR_GP, 0);
    legacy_idt[0x55] = gate(CODE, (u32)legacy_vectors[0x55], 0x8e, 0);
    r = (struct regs){.eflags = IOPL3};
    V86(&r, soft);
    want_trap(&r, VECTOR_GP, 0x55 * 8 + 2, 0);
    verdict("int/dpl-0");
    TRAP("int3/iopl-0", breakpoint, 0, VECTOR_BP, 1);
    r = (struct regs){.eflags = IOPL3};
    V86(&r, flags);
    want_done(&r);
    want("bx", r.ebx & 0xffff, IOPL3 | FLAG_DF | FLAG_CF | 2);
    verdict("pushf/iopl-3");
    r = (struct regs){.eflags = IOPL3};
    V86(&r, set_flags);
    want_done(&r);
    want("bx", r.ebx & 0xffff, 0x7202); /* NT, IF; IOPL stays */
    want("ecx", r.ecx, IOPL3 | 2);      /* VM and RF do not show */
    verdict("popf/iopl-3");
    TRAP("cli/iopl-0", disable, 0, VECTOR_GP, 0);
    TRAP("pushf/iopl-0", push_flags, 0, VECTOR_GP, 0);
    TRAP("popf/iopl-0", pop_flags, 0, VECTOR_GP, 0);
    TRAP("iret/iopl-0", iret_16, 0, VECTOR_GP, 0);
    TRAP("hlt", privileged, IOPL3, VECTOR_GP, 0);
    TRAP("lldt", no_such, IOPL3, VECTOR_UD, 0);
    TRAP("lar", selectors, IOPL3, VECTOR_UD, 0);
    poke(0x9004, 0x40cd9090); /* at 6: INT 0x40 */
    r = (struct regs){.eflags = IOPL3};
    V86(&r, frame);
    want_done(&r);
    want("cs", r.cs, 0x900);
    want("eip", r.eip, 8);
    verdict("iret/iopl-3");
}

static void ports(void)
{
    TRAP("port/refused", port, IOPL3, VECTOR_GP, 0); /* whatever IOPL is */
    legacy_tss.io_map[0x80 / 8] &= (u8)~1u;
    struct regs r = {0};
    V86(&r, port);
    want("vector", r.vector, VECTOR_GP); /* INT 0x40 by IOPL 0: the port was read */
    want("eip", r.eip, 2);
    verdict("port/allowed");
    TRAP("port/half", port_word, IOPL3, VECTOR_GP, 0);
    legacy_tss.io_map[0x80 / 8] |= 1;
}

void legacy_main(void)
{
    segments();
    sensitive();
    ports();
}
