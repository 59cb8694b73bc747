/* SPDX-License-Identifier: MIT */
/*
 * Protected mode without paging, 16-bit and 32-bit: limits, expand-down segments, types and
 * privileges of loads, stacks of 16 bits, far transfers, call gates to an inner ring, conforming
 * code, the LDT, environments of the x87 (SDM 3A chapter 5; SDM 1 8.1.10).
 */
#include "legacy.h"

enum {
    BYTES = FREE,        /* data, 4 KiB by bytes at `arena` */
    PAGES = FREE + 8,    /* data, the same by a page */
    DOWN = FREE + 16,    /* expand-down above 0xfff, 32-bit */
    DOWN_16 = FREE + 24, /* the same of 64 KiB */
    READ_ONLY = FREE + 32,
    EXECUTE = FREE + 40, /* execute-only */
    ABSENT = FREE + 48,
    CONFORMING = FREE + 56,
    GATE = FREE + 64, /* 32-bit call gate of DPL 3 to CODE, two parameters */
    GATE_16 = FREE + 72,
    GATE_ABSENT = FREE + 80,
    LDT = FREE + 88,
    CODE_LIMITED = FREE + 96,
    STACK_16 = FREE + 104, /* B = 0, base 0 */
    USER_BYTES = FREE + 112,
};

#define RING3 3

static u8 arena[8192] __attribute__((aligned(4096)));
static u64 ldt[4] __attribute__((aligned(8)));

SNIPPET(read_fs, "mov %fs:(%ebx), %eax");
SNIPPET(write_fs, "mov %eax, %fs:(%ebx)");
SNIPPET(write_fs_8, "movb $1, %fs:(%ebx)");
SNIPPET(load_fs, "mov %eax, %fs");
SNIPPET(load_ss, "mov %eax, %ss");
SNIPPET(push_ss, "push $0x12345678");
SNIPPET(read_cs, "mov %cs:(%ebx), %eax");
SNIPPET(far_jump, "ljmp *(%ebx)");
SNIPPET(far_call, "lcall *(%ebx)");
SNIPPET(gate_call, "push $0x11111111\npush $0x22222222\nlcall $0x83, $0");
SNIPPET(gate_call_16, "pushw $0x3333\npushw $0x4444\nlcall $0x8b, $0");
/* Ring 0, by the gates: parameters are above the return address; back with them taken off. */
SNIPPET(inner, "mov %ss, %eax\nmov 8(%esp), %ecx\nmov 12(%esp), %edx\nmov 16(%esp), %esi\n"
               "mov 20(%esp), %edi\nmov %esp, %ebx\nlret $8");
SNIPPET(inner_16, "mov %esp, %ebx\nmovw 4(%esp), %cx\nmovw 6(%esp), %dx\nlretw $4");
SNIPPET(where, "mov %cs, %eax");
SNIPPET(query, "lar %eax, %ecx\nsetz %dl\nlsl %eax, %ebx\nsetz %dh\nverr %ax\nsetz %al\n");
SNIPPET16(stack_16, "pushw $0x5566\npushl $0x778899aa\npush %cs\nmov %sp, %cx\npop %dx\npopl %eax\n"
                    "popw %bx");
SNIPPET16(environment, "fninit\nfldpi\nfnstenv (%ebx)");
SNIPPET(environment32, "fninit\nfldpi\nfnstenv (%ebx)");

static void descriptors(void)
{
    u32 at = (u32)arena;
    set_descriptor(BYTES, at, 0xfff, 0x93, 4);
    set_descriptor(PAGES, at, 0, 0x93, 12);
    set_descriptor(DOWN, at, 0xfff, 0x97, 4);
    set_descriptor(DOWN_16, at, 0xfff, 0x97, 0);
    set_descriptor(READ_ONLY, at, 0xfff, 0x91, 4);
    set_descriptor(EXECUTE, 0, 0xfffff, 0x99, 12);
    set_descriptor(ABSENT, at, 0xfff, 0x13, 4);
    set_descriptor(CONFORMING, 0, 0xfffff, 0x9f, 12);
    set_descriptor(CODE_LIMITED, (u32)where, 2, 0x9b, 4);
    set_descriptor(USER_BYTES, at, 0xfff, 0xf3, 4);
    set_descriptor(STACK_16, 0, 0xffff, 0x93, 0);
    legacy_gdt[GATE / 8] = gate(CODE, (u32)inner, 0xec, 2);
    legacy_gdt[GATE_16 / 8] = gate(CODE, (u32)inner_16 & 0xffff, 0xe4, 2);
    legacy_gdt[GATE_ABSENT / 8] = gate(CODE, (u32)inner, 0x6c, 0);
    ldt[1] = legacy_gdt[BYTES / 8];
    set_descriptor(LDT, (u32)ldt, sizeof(ldt) - 1, 0x82, 0);
    __asm__ volatile("lldt %w0" ::"r"(LDT));
}

static void access(const char *name, const u8 *code, u16 fs, u32 offset, bool faults)
{
    struct regs r = {.fs = fs, .ebx = offset, .eax = 0x1020304};
    run(&r, code);
    if (faults)
        want_trap(&r, VECTOR_GP, 0, (u32)code);
    else
        want_done(&r);
    verdict(name);
}

static void limits(void)
{
    access("limit/last-dword", read_fs, BYTES, 0xffc, false);
    access("limit/crosses", read_fs, BYTES, 0xffd, true);
    access("limit/write-crosses", write_fs, BYTES, 0xffd, true);
    access("limit/byte", write_fs_8, BYTES, 0xfff, false);
    access("limit/beyond", write_fs_8, BYTES, 0x1000, true);
    access("limit/granular", read_fs, PAGES, 0xffc, false);
    access("limit/granular-beyond", read_fs, PAGES, 0x1000, true);
    access("expand-down/below", read_fs, DOWN, 0xffc, true);
    access("expand-down/first", read_fs, DOWN, 0x1000, false);
    access("expand-down/crosses", read_fs, DOWN, 0xfff, true);
    access("expand-down/top-16", read_fs, DOWN_16, 0xfffc, false);
    access("expand-down/beyond-16", read_fs, DOWN_16, 0xfffd, true);
    access("type/read-only", write_fs, READ_ONLY, 0, true);
    access("type/read-only-read", read_fs, READ_ONLY, 0, false);

    struct regs r = {.cs = EXECUTE, .ebx = (u32)arena};
    run(&r, read_cs);
    want_trap(&r, VECTOR_GP, 0, (u32)read_cs);
    verdict("type/execute-only");
    r = (struct regs){.ss = USER_BYTES | RING3, .esp = 0x1002};
    run_user(&r, push_ss);
    want_trap(&r, VECTOR_SS, 0, (u32)push_ss);
    verdict("limit/stack");
    r = (struct regs){.cs = CODE_LIMITED};
    r.eip = 0;
    run(&r, NULL);
    want_trap(&r, VECTOR_GP, 0, 2); /* MOV to EAX is of two bytes; INT crosses the limit */
    verdict("limit/code");
}

static void load(const char *name, const u8 *code, u32 selector, u16 cs, unsigned vector)
{
    struct regs r = {.eax = selector};
    if (cs == USER_CODE)
        run_user(&r, code);
    else
        run(&r, code);
    if (vector == VECTOR_DONE)
        want_done(&r);
    else
        want_trap(&r, vector, selector & 0xfffc, (u32)code);
    verdict(name);
}

static void loads(void)
{
    load("load/data", load_fs, BYTES, CODE, VECTOR_DONE);
    load("load/ldt", load_fs, 8 | 4, CODE, VECTOR_DONE);
    load("load/null", load_fs, 0, CODE, VECTOR_DONE);
    load("load/beyond", load_fs, 0x100, CODE, VECTOR_GP);
    load("load/ldt-beyond", load_fs, 0x20 | 4, CODE, VECTOR_GP);
    load("load/absent", load_fs, ABSENT, CODE, VECTOR_NP);
    load("load/execute-only", load_fs, EXECUTE, CODE, VECTOR_GP);
    load("load/system", load_fs, TSS, CODE, VECTOR_GP);
    load("load/outer-reads-inner", load_fs, BYTES | RING3, USER_CODE, VECTOR_GP);
    load("load/ss-null", load_ss, 0, CODE, VECTOR_GP);
    load("load/ss-read-only", load_ss, READ_ONLY, CODE, VECTOR_GP);
    load("load/ss-absent", load_ss, ABSENT, CODE, VECTOR_SS);
    load("load/ss-other-ring", load_ss, USER_DATA, CODE, VECTOR_GP);

    struct regs r = {.eax = BYTES};
    run(&r, query);
    want_done(&r);
    want("rights", r.ecx, 0x409300);
    want("limit", r.ebx, 0xfff);
    want("zf", (r.edx & 0xffff) == 0x101 && (r.eax & 0xff) == 1, 1);
    verdict("query/data");
    r = (struct regs){.eax = BYTES, .edx = 0xffff};
    run_user(&r, query);
    want_done(&r);
    want("zf", (r.edx & 0xffff) | (r.eax & 0xff), 0);
    verdict("query/inner");
}

static void transfers(void)
{
    static u32 far[2];
    struct regs r = {.ebx = (u32)far};
    far[0] = (u32)where;
    far[1] = EXECUTE;
    run(&r, far_jump);
    want_done(&r);
    want("cs", r.eax, EXECUTE);
    verdict("far/jump");
    far[1] = CONFORMING;
    r = (struct regs){.ebx = (u32)far};
    run_user(&r, far_call);
    want_done(&r);
    want("cs", r.eax, CONFORMING | RING3); /* CPL does not change */
    verdict("far/conforming");
    far[1] = CODE;
    r = (struct regs){.ebx = (u32)far};
    run_user(&r, far_call);
    want_trap(&r, VECTOR_GP, CODE, (u32)far_call);
    verdict("far/inner");
    far[1] = GATE_ABSENT | RING3;
    r = (struct regs){.ebx = (u32)far};
    run_user(&r, far_call);
    want_trap(&r, VECTOR_NP, GATE_ABSENT, (u32)far_call);
    verdict("gate/absent");
    far[1] = GATE | RING3;
    r = (struct regs){.ebx = (u32)far};
    run_user(&r, far_jump);
    want_trap(&r, VECTOR_GP, CODE, (u32)far_jump); /* JMP does not go inward */
    verdict("gate/jump");
}

static void gates(void)
{
    u32 top = (u32)(fault_stack + sizeof(fault_stack)),
        user = (u32)(user_stack + sizeof(user_stack));
    struct regs r = {0};
    run_user(&r, gate_call);
    want_done(&r);
    want("ss", r.eax & 0xffff, DATA);
    want("second parameter", r.ecx, 0x22222222);
    want("first parameter", r.edx, 0x11111111);
    want("inner esp", r.ebx, top - 24); /* SS, ESP, two parameters, CS, EIP */
    want("esp", r.esp, user);
    want("cs", r.cs, USER_CODE);
    want("pushed esp", r.esi, user - 8);
    want("pushed ss", r.edi & 0xffff, USER_DATA);
    verdict("gate/32");
    /* The offset of a 16-bit gate has 16 bits: its code segment begins near the code. */
    set_descriptor(CODE_LIMITED, (u32)inner_16 & ~0xffffu, 0xfffff, 0x9b, 12);
    legacy_gdt[GATE_16 / 8] = gate(CODE_LIMITED, (u32)inner_16 & 0xffff, 0xe4, 2);
    set_descriptor(ABSENT, (u32)gate_call_16 & ~0xffffu, 0xfffff, 0xfb, 12);
    r = (struct regs){.cs = ABSENT | RING3,
                      .ss = USER_DATA,
                      .esp = user,
                      .ds = USER_DATA,
                      .es = USER_DATA,
                      .fs = USER_DATA,
                      .gs = USER_DATA};
    r.eip = (u32)gate_call_16 & 0xffff;
    run(&r, NULL);
    want_done(&r);
    want("second parameter", r.ecx & 0xffff, 0x4444);
    want("first parameter", r.edx & 0xffff, 0x3333);
    want("inner esp", r.ebx, top - 12);
    want("cs", r.cs, ABSENT | RING3);
    verdict("gate/16");
    set_descriptor(ABSENT, (u32)arena, 0xfff, 0x13, 4);
}

static void sixteen_bits(void)
{
    struct regs r = {.cs = CODE_16, .ss = STACK_16, .esp = 0xabcd7000};
    place(stack_16, stack_16_end);
    r.eip = LOW;
    run(&r, NULL);
    want_done(&r);
    want("sp", r.ecx & 0xffff, 0x7000 - 8);
    want("cs", r.edx & 0xffff, CODE_16);
    want("dword", r.eax, 0x778899aa);
    want("word", r.ebx & 0xffff, 0x5566);
    want("esp", r.esp, 0xabcd7000); /* the upper half stays */
    verdict("16-bit/stack");
    memset(arena, 0xee, 64);
    r = (struct regs){.cs = CODE_16, .ebx = (u32)arena};
    place(environment, environment_end);
    r.eip = LOW;
    run(&r, NULL);
    want_done(&r);
    want("control", arena[0] | arena[1] << 8, 0x37f);
    want("status", arena[2] | arena[3] << 8, 7 << 11);
    want("ip", arena[6] | arena[7] << 8, LOW + 2);
    want("past the end", arena[14], 0xee);
    verdict("16-bit/environment-14");
    memset(arena, 0xee, 64);
    r = (struct regs){.ebx = (u32)arena};
    run(&r, environment32);
    want_done(&r);
    want("status", arena[4] | arena[5] << 8, 7 << 11);
    want("ip", peek((u32)arena + 12), (u32)environment32 + 2);
    want("past the end", arena[28], 0xee);
    verdict("32-bit/environment-28");
}

void legacy_main(void)
{
    descriptors();
    limits();
    loads();
    transfers();
    gates();
    sixteen_bits();
}
