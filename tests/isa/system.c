/* SPDX-License-Identifier: MIT */
/*
 * System instructions: SYSCALL and SYSENTER with their returns, SWAPGS, FSGSBASE, RDTSCP, XSAVE,
 * MSRs, what CR0, CR4, EFER and XCR0 refuse, compatibility mode (SDM 2; SDM 3A 2.5, 5.8.7; SDM 1
 * chapter 13; AMD 24594). Where the vendors differ, what is wanted follows CPUID's.
 */
#include "isa.h"

#define MSR_NONE 0x12345678 /* of no processor */

static u8 area[4096] __attribute__((aligned(64)));

SNIPPET(syscall_op, "syscall");
SNIPPET(landed, "nop");
SNIPPET(sysretq_op, "sysretq");
SNIPPET(sysretl_op, "sysretl");
SNIPPET(sysretl_null_ss, "xor %edx, %edx\nmov %edx, %ss\nsysretl");
SNIPPET(sysenter_op, "sysenter");
SNIPPET(sysexitq_op, "sysexitq");
SNIPPET(sysexitl_op, "sysexitl");
SNIPPET(swapgs_op, "swapgs");
SNIPPET(rdfs, "rdfsbase %rax");
SNIPPET(rdfs_32, "rdfsbase %eax");
SNIPPET(wrfs, "wrfsbase %rax");
SNIPPET(wrfs_32, "wrfsbase %eax");
SNIPPET(wrgs, "wrgsbase %rax");
SNIPPET(rdtscp_op, "rdtscp");
SNIPPET(rdpid_op, ".byte 0xf3, 0x0f, 0xc7, 0xf8"); /* RDPID RAX */
SNIPPET(rdmsr_op, "rdmsr");
SNIPPET(wrmsr_op, "wrmsr");
SNIPPET(to_cr0, "mov %rax, %cr0");
SNIPPET(to_cr4, "mov %rax, %cr4");
SNIPPET(to_cr8, "mov %rax, %cr8");
SNIPPET(xgetbv_op, "xgetbv");
SNIPPET(xsetbv_op, "xsetbv");
SNIPPET(xsave_op, "xsave (%rbx)");
SNIPPET(xrstor_op, "xrstor (%rbx)");
SNIPPET(fxsave_op, "fxsave (%rbx)");
SNIPPET(vaddps_op, "vaddps %ymm0, %ymm1, %ymm2");
SNIPPET(cmpxchg16b_op, "lock cmpxchg16b (%rdi)");
SNIPPET(far_to_32, "ljmp *(%rbx)");
SNIPPET32(inc_32, ".byte 0x40"); /* INC EAX */
SNIPPET32(push_32, "push %eax\npop %ecx");
SNIPPET32(lahf_32, "mov %ds, %ecx\nmov (%ebx), %edx");
SNIPPET32(syscall_32, "syscall");
SNIPPET32(sysenter_32, "sysenter");

static void test_syscall(void)
{
    struct regs r;
    write_msr(MSR_STAR, (u64)0x18 << 48 | (u64)KERNEL_CS << 32);
    write_msr(MSR_LSTAR, (u64)landed);
    write_msr(MSR_FMASK, FLAG_IF | FLAG_DF | FLAG_AC | FLAG_CF);
    u64 in = FLAG_CF | FLAG_ZF | FLAG_DF | FLAG_AC | FLAG_ID | 2;
    r = (struct regs){.rflags = in, .rcx = 7, .r11 = 7};
    run_user(&r, syscall_op);
    want("vector", r.vector, VECTOR_DONE);
    want("rip", r.rip, (u64)landed + 3);
    want("cs", r.cs, KERNEL_CS);
    want("ss", r.ss, KERNEL_DS);
    want("rcx", r.rcx, user(syscall_op) + 2);
    want("r11", r.r11, in);
    want("rflags", r.rflags, FLAG_ZF | FLAG_ID | 2);
    want("rsp", r.rsp, user(isa_user_stack + 4096));
    verdict("syscall");

    r = (struct regs){.rcx = user(landed), .r11 = in | FLAG_RF | FLAG_VM | FLAG_NT};
    run_kernel(&r, sysretq_op);
    want("vector", r.vector, VECTOR_DONE);
    want("rip", r.rip, user(landed) + 3);
    want("cs", r.cs, USER_CS);
    want("ss", r.ss, is_amd() ? USER_DS & ~3 : USER_DS); /* AMD: the RPL is that of STAR + 8 */
    want("rflags", r.rflags, in | FLAG_NT);              /* RF and VM are cleared (SDM 2B SYSRET) */
    verdict("sysretq");
    r = (struct regs){.rcx = 0xffff800000000000 | user(inc_32), .r11 = 2, .rax = 0xff};
    run_kernel(&r, sysretl_op);
    want("vector", r.vector, VECTOR_DONE);
    want("cs", r.cs, USER_CS32);
    want("eax", r.rax, 0x100);
    verdict("sysretl");
    r = (struct regs){.rcx = user(push_32), .r11 = 2, .rax = 5};
    r.rsp = user(isa_user_stack + 4096);
    run_kernel(&r, sysretl_null_ss);
    if (is_amd()) { /* base, limit and attributes of SS stay (24594, SYSRET) */
        want_trap(&r, VECTOR_SS, 0, user(push_32));
    } else {
        want("vector", r.vector, VECTOR_DONE);
        want("ecx", r.rcx, 5);
        want("ss", r.ss, USER_DS);
    }
    want("cs", r.cs, USER_CS32);
    verdict("sysret-ss");
    r = (struct regs){0};
    run_user(&r, sysretq_op);
    want_trap(&r, VECTOR_GP, 0, user(sysretq_op));
    write_msr(MSR_EFER, read_msr(MSR_EFER) & ~1ul);
    r = (struct regs){0};
    run_user(&r, syscall_op);
    want_trap(&r, VECTOR_UD, 0, user(syscall_op));
    r = (struct regs){0};
    run_kernel(&r, sysretq_op);
    want_trap(&r, VECTOR_UD, 0, (u64)sysretq_op);
    write_msr(MSR_EFER, read_msr(MSR_EFER) | 1);
    verdict("syscall-without-sce");
    write_msr(MSR_CSTAR, (u64)landed);
    r = (struct regs){.rflags = in};
    run_user32(&r, syscall_32);
    if (is_amd()) {
        want("vector", r.vector, VECTOR_DONE);
        want("rip", r.rip, (u64)landed + 3);
        want("cs", r.cs, KERNEL_CS);
        want("ss", r.ss, KERNEL_DS);
        want("rcx", r.rcx, user(syscall_32) + 2);
        want("r11", r.r11, in);
        want("rflags", r.rflags, FLAG_ZF | FLAG_ID | 2);
    } else { /* 64-bit code only (SDM 2B SYSCALL) */
        want_trap(&r, VECTOR_UD, 0, user(syscall_32));
    }
    verdict("syscall-in-compatibility-mode");
}

/* AMD: there are none in long mode (24594, SYSENTER, SYSEXIT). */
static void test_no_sysenter(void)
{
    static const struct {
        const char *name;
        const u8 *code;
    } t[] = {{"sysenter", sysenter_op}, {"sysexitq", sysexitq_op}, {"sysexitl", sysexitl_op}};
    write_msr(MSR_SYSENTER_CS, KERNEL_CS);
    write_msr(MSR_SYSENTER_EIP, (u64)landed);
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        struct regs r = {.rdx = user(landed), .rcx = user(isa_user_stack) + 2048};
        run_kernel(&r, t[n].code);
        want_trap(&r, VECTOR_UD, 0, (u64)t[n].code);
        r = (struct regs){0};
        run_user(&r, t[n].code);
        /* a Zen 3 looks at CPL before SYSEXIT is undefined */
        want_trap(&r, t[n].code == sysenter_op ? VECTOR_UD : VECTOR_GP, 0, user(t[n].code));
        verdict(t[n].name);
    }
    struct regs r = {0};
    run_user32(&r, sysenter_32);
    want_trap(&r, VECTOR_UD, 0, user(sysenter_32));
    verdict("sysenter-in-compatibility-mode");
}

static void test_sysenter(void)
{
    struct regs r;
    write_msr(MSR_SYSENTER_CS, KERNEL_CS);
    write_msr(MSR_SYSENTER_EIP, (u64)landed);
    write_msr(MSR_SYSENTER_ESP, (u64)isa_kernel_stack + 2048);
    r = (struct regs){.rflags = FLAG_CF | FLAG_DF};
    run_user(&r, sysenter_op);
    want("vector", r.vector, VECTOR_DONE);
    want("rip", r.rip, (u64)landed + 3);
    want("cs", r.cs, KERNEL_CS);
    want("ss", r.ss, KERNEL_DS);
    want("rsp", r.rsp, (u64)isa_kernel_stack + 2048);
    want("rflags", r.rflags, FLAG_CF | FLAG_DF | 2);
    verdict("sysenter");
    r = (struct regs){.rflags = FLAG_CF};
    run_user32(&r, sysenter_32);
    want("vector", r.vector, VECTOR_DONE);
    want("rip", r.rip, (u64)landed + 3);
    want("cs", r.cs, KERNEL_CS);
    verdict("sysenter-in-compatibility-mode");
    u64 stack = user(isa_user_stack) + 2048;
    r = (struct regs){.rdx = user(landed), .rcx = stack};
    run_kernel(&r, sysexitq_op);
    want("vector", r.vector, VECTOR_DONE);
    want("cs", r.cs, USER_CS);
    want("ss", r.ss, 0x33);
    want("rsp", r.rsp, stack);
    verdict("sysexitq");
    r = (struct regs){.rdx = user(inc_32), .rcx = stack, .rax = 0xff};
    run_kernel(&r, sysexitl_op);
    want("vector", r.vector, VECTOR_DONE);
    want("cs", r.cs, USER_CS32);
    want("ss", r.ss, USER_DS);
    want("eax", r.rax, 0x100);
    verdict("sysexitl");
    write_msr(MSR_SYSENTER_CS, 3);
    r = (struct regs){0};
    run_user(&r, sysenter_op);
    want_trap(&r, VECTOR_GP, 0, user(sysenter_op));
    r = (struct regs){.rdx = user(landed), .rcx = stack};
    run_kernel(&r, sysexitq_op);
    want_trap(&r, VECTOR_GP, 0, (u64)sysexitq_op);
    verdict("sysenter-null");
}

static void test_bases(void)
{
    struct regs r = {0};
    write_msr(MSR_GS_BASE, 0x1111);
    write_msr(MSR_KERNEL_GS, 0xffff800000002222);
    run_kernel(&r, swapgs_op);
    want_done(&r);
    want("gs base", read_msr(MSR_GS_BASE), 0xffff800000002222);
    want("kernel gs base", read_msr(MSR_KERNEL_GS), 0x1111);
    verdict("swapgs");
    write_cr4(read_cr4() & ~CR4_FSGSBASE);
    r = (struct regs){0};
    run_user(&r, rdfs);
    want_trap(&r, VECTOR_UD, 0, user(rdfs));
    write_cr4(read_cr4() | CR4_FSGSBASE);
    r = (struct regs){.rax = 0x7fff12345678};
    run_user(&r, wrfs);
    want_done(&r);
    want("fs base", read_msr(MSR_FS_BASE), 0x7fff12345678);
    r = (struct regs){.rax = ~0ul};
    run_user(&r, rdfs);
    want("rdfsbase", r.rax, 0x7fff12345678);
    r = (struct regs){.rax = ~0ul};
    run_user(&r, rdfs_32);
    want("rdfsbase, 32 bits", r.rax, 0x12345678);
    r = (struct regs){.rax = 0xffffffff87654321};
    run_user(&r, wrfs_32);
    want("fs base", read_msr(MSR_FS_BASE), 0x87654321);
    r = (struct regs){.rax = 0xffffffff80000000};
    run_user(&r, wrgs);
    want("gs base", read_msr(MSR_GS_BASE), 0xffffffff80000000);
    verdict("fsgsbase");
    write_msr(MSR_TSC_AUX, 0x55aa);
    r = (struct regs){.rcx = ~0ul, .rax = ~0ul, .rdx = ~0ul};
    run_user(&r, rdtscp_op);
    want_done(&r);
    want("rcx", r.rcx, 0x55aa);
    want("upper halves", r.rax >> 32 | r.rdx >> 32, 0);
    u64 first = r.rax | r.rdx << 32;
    r = (struct regs){0};
    run_user(&r, rdtscp_op);
    want("goes on", (r.rax | r.rdx << 32) > first, 1);
    r = (struct regs){0};
    run_user(&r, rdpid_op);
    want("rdpid", r.rax, 0x55aa);
    verdict("rdtscp-rdpid");
}

static void test_msrs(void)
{
    static const struct {
        const char *name;
        u32 index;
        u64 value;
    } t[] = {
        {"none", MSR_NONE, 0},
        {"efer-reserved", MSR_EFER, 1ul << 63 | 0xd01},
        {"efer-lme", MSR_EFER, 0xc01},
        {"apic-base-reserved", 0x1b, 0xfee00b00},
        {"pat-type", 0x277, 0x0007040600070402},
        {"mtrr-def-type", 0x2ff, 0xc02},
        {"fmask", MSR_NONE + 1, 0},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        struct regs r = {.rcx = t[n].index, .rax = (u32)t[n].value, .rdx = t[n].value >> 32};
        run_kernel(&r, wrmsr_op);
        want_trap(&r, VECTOR_GP, 0, (u64)wrmsr_op);
        verdict2("wrmsr/", t[n].name);
    }
    struct regs r = {.rcx = MSR_TSC_AUX, .rax = 7, .rdx = 1};
    run_kernel(&r, wrmsr_op);
    if (is_amd()) { /* the upper half is not looked at */
        want_done(&r);
        want("tsc aux", read_msr(MSR_TSC_AUX), 7);
    } else {
        want_trap(&r, VECTOR_GP, 0, (u64)wrmsr_op);
    }
    verdict("wrmsr/tsc-aux-high");
    r = (struct regs){.rcx = MSR_NONE, .rax = 1, .rdx = 2};
    run_kernel(&r, rdmsr_op);
    want_trap(&r, VECTOR_GP, 0, (u64)rdmsr_op);
    want("rax", r.rax, 1);
    want("rdx", r.rdx, 2);
    verdict("rdmsr/none");
    r = (struct regs){.rcx = 0xffffffff00000000 | MSR_EFER, .rax = ~0ul, .rdx = ~0ul};
    run_kernel(&r, rdmsr_op); /* ECX counts, results are 32 bits wide */
    want("rax", r.rax, 0xd01);
    want("rdx", r.rdx, 0);
    verdict("rdmsr/width");
}

static void test_controls(void)
{
    u64 cr0 = read_cr0(), cr4 = read_cr4();
    const struct {
        const char *name;
        const u8 *code;
        u64 value;
        u8 vector;
    } t[] = {
        {"cr0-high", to_cr0, cr0 | 1ul << 32, VECTOR_GP},
        {"cr0-pg-without-pe", to_cr0, cr0 & ~1ul, VECTOR_GP},
        {"cr0-nw-without-cd", to_cr0, cr0 | CR0_NW, VECTOR_GP},
        {"cr0-pg-off-in-64-bit", to_cr0, cr0 & ~CR0_PG, VECTOR_GP},
        {"cr0-same", to_cr0, cr0, VECTOR_DONE},
        {"cr4-reserved", to_cr4, cr4 | 1ul << 31, VECTOR_GP},
        {"cr4-high", to_cr4, cr4 | 1ul << 32, VECTOR_GP},
        {"cr4-pae-off", to_cr4, cr4 & ~CR4_PAE, VECTOR_GP},
        {"cr4-vmxe", to_cr4, cr4 | 1ul << 13, VECTOR_GP},
        {"cr4-pke", to_cr4, cr4 | 1ul << 22, VECTOR_GP},
        {"cr8-reserved", to_cr8, 0x10, VECTOR_GP},
        {"cr8", to_cr8, 5, VECTOR_DONE},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        struct regs r = {.rax = t[n].value};
        run_kernel(&r, t[n].code);
        if (t[n].vector == VECTOR_DONE)
            want_done(&r);
        else
            want_trap(&r, VECTOR_GP, 0, (u64)t[n].code);
        want("cr0", read_cr0(), cr0);
        want("cr4", read_cr4(), cr4);
        verdict2("control/", t[n].name);
    }
    write_cr8(0);
}

/* XCR0, CR4.OSXSAVE, CR0.TS (SDM 1 13.3; SDM 2C XSETBV) */
static void test_xsave(void)
{
    struct regs r = {0};
    write_cr4(read_cr4() & ~CR4_OSXSAVE);
    static const struct {
        const char *name;
        const u8 *code;
    } ud[] = {{"xgetbv", xgetbv_op},
              {"xsetbv", xsetbv_op},
              {"xsave", xsave_op},
              {"xrstor", xrstor_op},
              {"avx", vaddps_op}};
    for (unsigned n = 0; n < 5; n++) {
        r = (struct regs){.rbx = (u64)area};
        run_kernel(&r, ud[n].code);
        want_trap(&r, VECTOR_UD, 0, (u64)ud[n].code);
        verdict2("no-osxsave/", ud[n].name);
    }
    write_cr4(read_cr4() | CR4_OSXSAVE);
    static const struct {
        const char *name;
        u32 index;
        u64 value;
        u8 vector;
    } t[] = {{"x87-off", 0, 2, VECTOR_GP},
             {"avx-without-sse", 0, 5, VECTOR_GP},
             {"avx512-partly", 0, 0x27, VECTOR_GP},
             {"reserved", 0, 1ul << 62 | 3, VECTOR_GP},
             {"xcr1", 1, 3, VECTOR_GP},
             {"x87", 0, 1, VECTOR_DONE},
             {"sse", 0, 3, VECTOR_DONE},
             {"avx", 0, 7, VECTOR_DONE}};
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        r = (struct regs){.rcx = t[n].index, .rax = (u32)t[n].value, .rdx = t[n].value >> 32};
        run_kernel(&r, xsetbv_op);
        if (t[n].vector == VECTOR_DONE) {
            want_done(&r);
            r = (struct regs){.rax = ~0ul, .rdx = ~0ul};
            run_user(&r, xgetbv_op);
            want("xcr0", r.rax | r.rdx << 32, t[n].value);
            r = (struct regs){0};
            run_user(&r, vaddps_op);
            want("avx", r.vector, t[n].value == 7 ? VECTOR_DONE : VECTOR_UD);
        } else {
            want_trap(&r, VECTOR_GP, 0, (u64)xsetbv_op);
        }
        verdict2("xsetbv/", t[n].name);
    }
    r = (struct regs){.rbx = user(area) + 8, .rax = 7};
    run_user(&r, xsave_op);
    want_trap(&r, VECTOR_GP, 0, user(xsave_op));
    r = (struct regs){.rbx = user(area) + 8};
    run_user(&r, fxsave_op);
    want_trap(&r, VECTOR_GP, 0, user(fxsave_op));
    verdict("xsave-alignment");
    memset(area, 0, sizeof(area));
    r = (struct regs){.rbx = user(area), .rax = 7};
    run_user(&r, xsave_op);
    want_done(&r);
    want("xstate_bv beyond", *(u64 *)(area + 512) & ~7ul, 0);
    *(u64 *)(area + 512) |= 1ul << 62;
    r = (struct regs){.rbx = user(area), .rax = 7};
    run_user(&r, xrstor_op);
    want_trap(&r, VECTOR_GP, 0, user(xrstor_op));
    *(u64 *)(area + 512) = 0;
    *(u64 *)(area + 528) = 1;
    r = (struct regs){.rbx = user(area), .rax = 7};
    run_user(&r, xrstor_op);
    want_trap(&r, VECTOR_GP, 0, user(xrstor_op));
    verdict("xrstor-header");
    write_cr0(read_cr0() | CR0_TS);
    r = (struct regs){.rbx = user(area), .rax = 7};
    run_user(&r, xsave_op);
    want_trap(&r, VECTOR_NM, 0, user(xsave_op));
    write_cr0(read_cr0() & ~CR0_TS);
    verdict("xsave-ts");
}

static void test_cmpxchg16b(void)
{
    u64 *m = (u64 *)area;
    m[0] = 1;
    m[1] = 2;
    struct regs r = {.rdi = user(area), .rax = 1, .rdx = 2, .rbx = 3, .rcx = 4};
    run_user(&r, cmpxchg16b_op);
    want_done(&r);
    want("zf", r.rflags & FLAG_ZF, FLAG_ZF);
    want("low", m[0], 3);
    want("high", m[1], 4);
    r = (struct regs){.rdi = user(area), .rax = 3, .rdx = 5, .rbx = 9, .rcx = 9};
    run_user(&r, cmpxchg16b_op);
    want("zf", r.rflags & FLAG_ZF, 0);
    want("rax", r.rax, 3);
    want("rdx", r.rdx, 4);
    want("low", m[0], 3);
    verdict("cmpxchg16b");
}

/* 32-bit code under long mode: operand and stack sizes, segments, flat addresses of 32 bits. */
static void test_compatibility(void)
{
    struct regs r = {.rax = 0xffffffff};
    run_user32(&r, inc_32);
    want_done(&r);
    want("eax", r.rax, 0);
    r = (struct regs){.rax = 0xfeedbeef};
    run_user32(&r, push_32);
    want_done(&r);
    want("ecx", r.rcx, 0xfeedbeef);
    want("esp", r.rsp, user(isa_user_stack + 4096));
    *(u32 *)area = 0x1badcafe;
    r = (struct regs){.rbx = user(area)};
    run_user32(&r, lahf_32);
    want_done(&r);
    want("ds", r.rcx & 0xffff, USER_DS);
    want("edx", r.rdx, 0x1badcafe);
    verdict("compatibility/code");
    static struct __attribute__((packed)) {
        u32 offset;
        u16 selector;
    } far;
    far.offset = (u32)user(inc_32);
    far.selector = USER_CS32;
    r = (struct regs){.rbx = user(&far), .rax = 0xff};
    run_user(&r, far_to_32);
    want("vector", r.vector, VECTOR_DONE);
    want("cs", r.cs, USER_CS32);
    want("eax", r.rax, 0x100);
    verdict("compatibility/far-jump");
    set_descriptor(0x60, 0x00cff20000000fff); /* data of 16 MiB from 0: a limit that counts */
    set_descriptor(0x60, 0x0040f20000000fff); /* 4 KiB */
    __asm__ volatile("mov %0, %%ds" ::"r"(0x63));
    r = (struct regs){.rbx = user(area)};
    r.rip = user(lahf_32);
    r.cs = USER_CS32;
    r.ss = USER_DS;
    r.rsp = user(isa_user_stack + 4096);
    r.rflags = 2;
    isa_enter(&r);
    want("vector", r.vector, VECTOR_GP);
    want("error", r.error, 0);
    __asm__ volatile("mov %0, %%ds" ::"r"(KERNEL_DS));
    verdict("compatibility/limit");
}

void isa_main(const char *command_line)
{
    test_syscall();
    if (is_amd())
        test_no_sysenter();
    else
        test_sysenter();
    test_bases();
    test_msrs();
    test_controls();
    test_xsave();
    test_cmpxchg16b();
    test_compatibility();
}
