/* SPDX-License-Identifier: MIT */
/*
 * The hardware's task switch (SDM 3A chapter 7): by JMP, CALL and IRET, through task gates of the
 * GDT and the IDT, 32-bit and 16-bit; what it saves and loads, links, busy bits, and what it
 * refuses.
 */
#include "legacy.h"

enum { OTHER = FREE, OTHER_16 = FREE + 8, TASK_GATE = FREE + 16, SHORT = FREE + 24 };

#define BUSY 2u /* in the type of a TSS */

struct __attribute__((packed)) tss16 {
    u16 link, sp0, ss0, sp1, ss1, sp2, ss2;
    u16 ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};

static struct tss32 other __attribute__((aligned(16)));
static struct tss16 other16 __attribute__((aligned(16)));
static u8 other_stack[1024] __attribute__((aligned(16)));

SNIPPET(jump, "ljmp $0x40, $0");
SNIPPET(call, "lcall $0x40, $0\nback: .globl back");
SNIPPET(call_16, "lcall $0x48, $0");
SNIPPET(call_gate, "lcall $0x50, $0");
SNIPPET(call_short, "lcall $0x58, $0");
SNIPPET(software, "int $0x60");
SNIPPET(ticket, "mov %cr0, %edi"); /* where the other task begins */
/* The other task that returns: what it saw, then IRET by NT; entered again behind it. */
SNIPPET(back_again,
        "1: mov %eax, %esi\npushf\npop %edi\nmov %edi, seen_flags\nstr seen_task\niret\n"
        "jmp 1b");
/* Takes the error code, makes the gate of vector 0x68 that of 0x40, and goes back. */
SNIPPET(handler, "pop %eax\nmov %eax, seen_error\n"
                 "mov legacy_idt+0x200, %ecx\nmov %ecx, legacy_idt+0x340\n"
                 "mov legacy_idt+0x204, %ecx\nmov %ecx, legacy_idt+0x344\niret\n"
                 ".data\nseen_error: .long 0\nseen_flags: .long 0\nseen_task: .long 0\n"
                 ".globl seen_error, seen_flags, seen_task\n.previous");
SNIPPET(empty_gate, "int $0x68");
SNIPPET(nested_iret, "pushf\norl $0x4000, (%esp)\npopf\niret");
extern u8 back[];
extern u32 seen_error, seen_flags, seen_task;

static void make(const u8 *code)
{
    memset(&other, 0, sizeof(other));
    other.eip = (u32)code;
    other.eflags = 2;
    other.esp = (u32)(other_stack + sizeof(other_stack));
    other.cs = CODE;
    other.ss = other.ds = other.es = other.fs = other.gs = DATA;
    other.eax = 0x0a0a0a0a;
    other.ebx = 0x0b0b0b0b;
    other.io_base = 0xffff;
    set_descriptor(OTHER, (u32)&other, 103, 0x89, 0);
    set_descriptor(TSS, (u32)&legacy_tss, sizeof(legacy_tss) - 1, 0x8b, 0);
}

static u8 type(unsigned selector)
{
    return legacy_gdt[selector / 8] >> 40 & 15;
}

/* Back to the first task, as if nothing had been. */
static void reload(void)
{
    set_descriptor(TSS, (u32)&legacy_tss, sizeof(legacy_tss) - 1, 0x89, 0);
    __asm__ volatile("clts\nltr %w0" ::"r"(TSS) : "memory");
}

static void switches(void)
{
    make(ticket);
    struct regs r = {.eax = 1, .ecx = 2, .edx = 3, .ebp = 5, .esi = 6, .edi = 7, .eflags = FLAG_CF};
    run(&r, jump);
    want_done(&r);
    want("eax", r.eax, 0x0a0a0a0a);
    want("ebx", r.ebx, 0x0b0b0b0b);
    want("esp", r.esp, (u32)(other_stack + sizeof(other_stack)));
    want("cr0.ts", r.edi & CR0_TS, CR0_TS);
    want("nt", r.eflags & FLAG_NT, 0);
    want("saved eip", legacy_tss.eip, (u32)jump + 7);
    want("saved ecx", legacy_tss.ecx, 2);
    want("saved edi", legacy_tss.edi, 7);
    want("saved flags", legacy_tss.eflags & 0x4001, FLAG_CF);
    want("saved ds", legacy_tss.ds & 0xffff, DATA);
    want("new is busy", type(OTHER) & BUSY, BUSY);
    want("old is not", type(TSS) & BUSY, 0);
    verdict("jmp");
    reload();

    make(ticket);
    r = (struct regs){0};
    run(&r, call);
    want_done(&r);
    want("nt", r.eflags & FLAG_NT, FLAG_NT);
    want("link", other.link, TSS);
    want("both busy", type(OTHER) & type(TSS) & BUSY, BUSY);
    verdict("call");
    reload();

    make(back_again);
    r = (struct regs){.eax = 0x1234};
    run(&r, call);
    want_done(&r);
    want("eax", r.eax, 0x1234);
    want("eip", r.eip, (u32)back + 2);
    want("nt there", seen_flags & FLAG_NT, FLAG_NT);
    want("task there", seen_task & 0xffff, OTHER);
    want("nt here", r.eflags & FLAG_NT, 0);
    want("other is free", type(OTHER) & BUSY, 0);
    want("other goes on", other.eip > (u32)back_again, 1);
    want("nt in its image", other.eflags & FLAG_NT, 0);
    verdict("call-iret");
    r = (struct regs){.eax = 0x5678};
    run(&r, call); /* it goes on behind its IRET */
    want_done(&r);
    want("eax", r.eax, 0x5678);
    verdict("call-again");
    reload();
}

static void sixteen(void)
{
    make(ticket);
    place(ticket, ticket_end);
    other16 = (struct tss16){.ip = LOW,
                             .flags = 2,
                             .ax = 0xaaaa,
                             .sp = 0x7000,
                             .cs = CODE_16,
                             .ss = DATA_16,
                             .ds = DATA,
                             .es = DATA};
    /* 16-bit code of the snippet's bytes would read otherwise: only INT 0x40 is wanted. */
    poke(LOW, 0x9090 | 0x40cd << 16);
    set_descriptor(OTHER_16, (u32)&other16, sizeof(other16) - 1, 0x81, 0);
    struct regs r = {.eax = 0x12345678, .ecx = 0x11112222};
    run(&r, call_16);
    want_done(&r);
    want("ax", r.eax & 0xffff, 0xaaaa);
    want("cs", r.cs, CODE_16);
    want("link", other16.link, TSS);
    want("busy", type(OTHER_16) & BUSY, BUSY);
    want("saved ecx", legacy_tss.ecx, 0x11112222);
    want("fs", r.fs, 0);
    verdict("16-bit");
    reload();
}

static void task_gates(void)
{
    make(ticket);
    legacy_gdt[TASK_GATE / 8] = gate(OTHER, 0, 0x85, 0);
    struct regs r = {0};
    run(&r, call_gate);
    want_done(&r);
    want("link", other.link, TSS);
    verdict("gate/call");
    reload();

    make(back_again);
    legacy_idt[0x60] = gate(OTHER, 0, 0x85, 0);
    r = (struct regs){.ecx = 77};
    run(&r, software);
    want_done(&r);
    want("eip", r.eip, (u32)software + 4);
    want("ecx", r.ecx, 77);
    verdict("gate/int");
    reload();

    /* An exception with an error code: it lies on the new task's stack. */
    make(handler);
    u64 usual = legacy_idt[VECTOR_GP];
    legacy_idt[VECTOR_GP] = gate(OTHER, 0, 0x85, 0);
    legacy_idt[0x68] = 0;
    r = (struct regs){.edx = 99};
    run(&r, empty_gate);
    want_done(&r);
    want("error", seen_error, 0x68 * 8 + 2); /* by the IDT */
    want("edx", r.edx, 99);
    want("eip", r.eip, (u32)empty_gate + 2);
    verdict("gate/fault");
    legacy_idt[VECTOR_GP] = usual;
    reload();
}

static void refusals(void)
{
    make(ticket);
    set_descriptor(SHORT, (u32)&other, 102, 0x89, 0); /* one byte too few */
    struct regs r = {0};
    run(&r, call_short);
    want_trap(&r, VECTOR_TS, SHORT, (u32)call_short);
    verdict("refuse/short");
    make(ticket);
    legacy_gdt[OTHER / 8] |= (u64)BUSY << 40;
    r = (struct regs){0};
    run(&r, call);
    want_trap(&r, VECTOR_GP, OTHER, (u32)call);
    verdict("refuse/busy");
    make(ticket);
    legacy_gdt[OTHER / 8] &= ~((u64)0x80 << 40);
    r = (struct regs){0};
    run(&r, call);
    want_trap(&r, VECTOR_NP, OTHER, (u32)call);
    verdict("refuse/absent");
    make(ticket);
    r = (struct regs){0};
    run_user(&r, call);
    want_trap(&r, VECTOR_GP, OTHER, (u32)call);
    verdict("refuse/inner");
}

static void links(void)
{
    make(ticket);
    legacy_tss.link = OTHER; /* which is not busy */
    struct regs r = {0};
    run(&r, nested_iret);
    want("vector", r.vector, VECTOR_TS);
    want("error", r.error, OTHER);
    verdict("iret/not-busy");
    legacy_tss.link = 0;
    reload();
}

void legacy_main(void)
{
    switches();
    sixteen();
    task_gates();
    refusals();
    links();
}
