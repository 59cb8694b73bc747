/* SPDX-License-Identifier: MIT */
/*
 * Canonical addresses (SDM 1 3.3.7.1): #GP(0) everywhere, #SS(0) through RSP, RBP and the stack
 * (SDM 3A 6.15), nothing where nothing is accessed. A faulting instruction changes nothing.
 */
#include "isa.h"

#define BAD 0x0000800000000000ul
/* Bases are held against the width that the processor has, not the one that CR4.LA57 selects, so
 * this is bad for 57 bits as well. */
#define BAD_BASE  0x0100000000000000ul
#define BAD_STACK 0x4000000000000000ul
#define LAST      0x00007ffffffffffful /* the last canonical address of the lower half */
#define END_PAGE  0x00007ffffffff000ul

static u8 data[64] __attribute__((aligned(64)));
static u8 page[4096] __attribute__((aligned(4096)));

SNIPPET(load_rax, "mov (%rbx), %rax");
SNIPPET(store_rax, "mov %rax, (%rbx)");
SNIPPET(rmw_rax, "lock addq $1, (%rbx)");
SNIPPET(load_sum, "mov 8(%rbx,%rcx,4), %rax");
SNIPPET(load_rbp, "mov (%rbp), %rax");
SNIPPET(store_rbp, "mov %rax, 8(%rbp)");
SNIPPET(load_rsp, "mov (%rsp), %rax");
SNIPPET(index_rbp, "mov (%rbx,%rbp), %rax"); /* RBP as the index does not name the stack */
SNIPPET(load_fs, "mov %fs:(%rbx), %rax");
SNIPPET(load_fs_rbp, "mov %fs:(%rbp), %rax");
SNIPPET(load_gs_rsp, "mov %gs:(%rsp), %rax");
SNIPPET(push_reg, "push %rax");
SNIPPET(pop_reg, "pop %rax");
SNIPPET(pushf_op, "pushf");
SNIPPET(popf_op, "popf");
SNIPPET(push_mem, "pushq (%rbx)");
SNIPPET(push_mem_rbp, "pushq (%rbp)");
SNIPPET(pop_mem, "popq (%rbx)");
SNIPPET(leave_op, "leave");
SNIPPET(enter_op, "enter $16, $0");
SNIPPET(call_near, "call 1f\n1:");
SNIPPET(call_mem, "call *(%rbx)");
SNIPPET(call_mem_rsp, "call *8(%rsp)");
SNIPPET(call_reg, "call *%rbx");
SNIPPET(jump_reg, "jmp *%rbx");
SNIPPET(jump_mem, "jmp *(%rbx)");
SNIPPET(ret_op, "ret");
SNIPPET(ret_imm, "ret $16");
SNIPPET(lretq_op, "lretq");
SNIPPET(iretq_op, "iretq");
SNIPPET(sysretq_op, "sysretq");
SNIPPET(sysexitq_op, "sysexitq");
SNIPPET(wrmsr_op, "wrmsr");
SNIPPET(wrfsbase_op, "wrfsbase %rbx");
SNIPPET(wrgsbase_op, "wrgsbase %rbx");
SNIPPET(lgdt_op, "lgdt (%rbx)");
SNIPPET(lidt_op, "lidt (%rbx)");
SNIPPET(movs_op, "rep movsb");
SNIPPET(stos_op, "stosq");
SNIPPET(lods_op, "lodsq");
SNIPPET(cmps_op, "cmpsb");
SNIPPET(xlat_op, "xlat");
SNIPPET(bts_op, "bts %rcx, (%rbx)");
SNIPPET(lea_op, "lea (%rbx), %rax");
SNIPPET(prefetch_op, "prefetcht0 (%rbx)");
SNIPPET(nop_mem, "nopl (%rbx)");
SNIPPET(clflush_op, "clflush (%rbx)");
SNIPPET(cmpxchg16b_op, "cmpxchg16b (%rdi)");
SNIPPET(address32, "mov (%ebx), %eax");
SNIPPET(moffs_op, "movabs 0x0000800000000000, %rax");
SNIPPET(movups_op, "movups (%rbx), %xmm0");
SNIPPET(sgdt_op, "sgdt (%rbx)");
SNIPPET(ljmp_mem, ".byte 0x48, 0xff, 0x2b"); /* JMP m16:64 [rbx] */

/* Each with RBX = RSP-less BAD unless the row says otherwise. */
struct row {
    const char *name;
    const u8 *code;
    u8 vector;
    u8 stack; /* RSP is BAD, too */
    u64 rbx, rbp, rcx, rsi, rdi;
};

static const struct row rows[] = {
    {"load", load_rax, VECTOR_GP, 0, .rbx = BAD},
    {"load-negative", load_rax, VECTOR_GP, 0, .rbx = 0xffff7ffffffffff8},
    {"load-lone-bit", load_rax, VECTOR_GP, 0, .rbx = 1ul << 62},
    {"load-straddles", load_rax, VECTOR_GP, 0, .rbx = LAST - 3},
    {"load-last", load_rax, VECTOR_PF, 0, .rbx = LAST - 7},
    {"load-first-of-upper", load_rax, VECTOR_PF, 0, .rbx = 0xffff800000000000},
    {"store", store_rax, VECTOR_GP, 0, .rbx = BAD},
    {"store-straddles", store_rax, VECTOR_GP, 0, .rbx = LAST - 3},
    {"read-modify-write", rmw_rax, VECTOR_GP, 0, .rbx = BAD},
    {"base-index-disp", load_sum, VECTOR_GP, 0, .rbx = 0x7ffffffffff0, .rcx = 4},
    {"load-rbp", load_rbp, VECTOR_SS, 0, .rbp = BAD},
    {"store-rbp", store_rbp, VECTOR_SS, 0, .rbp = BAD},
    {"load-rsp", load_rsp, VECTOR_SS, 1, .rbx = 0},
    {"index-rbp", index_rbp, VECTOR_GP, 0, .rbx = 0, .rbp = BAD},
    {"fs", load_fs, VECTOR_GP, 0, .rbx = BAD},
    {"fs-rbp", load_fs_rbp, VECTOR_GP, 0, .rbp = BAD},
    {"gs-rsp", load_gs_rsp, VECTOR_GP, 1, .rbx = 0},
    {"push", push_reg, VECTOR_SS, 1, .rbx = 0},
    {"pop", pop_reg, VECTOR_SS, 1, .rbx = 0},
    {"pushf", pushf_op, VECTOR_SS, 1, .rbx = 0},
    {"popf", popf_op, VECTOR_SS, 1, .rbx = 0},
    {"push-memory", push_mem, VECTOR_GP, 0, .rbx = BAD},
    {"push-memory-rbp", push_mem_rbp, VECTOR_SS, 0, .rbp = BAD},
    {"push-memory-bad-stack", push_mem, VECTOR_SS, 1, .rbx = (u64)data},
    {"pop-memory", pop_mem, VECTOR_GP, 0, .rbx = BAD},
    {"pop-memory-bad-stack", pop_mem, VECTOR_SS, 1, .rbx = (u64)data},
    {"leave", leave_op, VECTOR_SS, 0, .rbp = BAD},
    {"enter", enter_op, VECTOR_SS, 1, .rbx = 0},
    {"call-bad-stack", call_near, VECTOR_SS, 1, .rbx = 0},
    {"call-memory", call_mem, VECTOR_GP, 0, .rbx = BAD},
    {"call-memory-rsp", call_mem_rsp, VECTOR_SS, 1, .rbx = 0},
    {"call-register", call_reg, VECTOR_GP, 0, .rbx = BAD},
    {"jump-register", jump_reg, VECTOR_GP, 0, .rbx = BAD},
    {"jump-memory", jump_mem, VECTOR_GP, 0, .rbx = BAD},
    {"ret-bad-stack", ret_op, VECTOR_SS, 1, .rbx = 0},
    {"lret-bad-stack", lretq_op, VECTOR_SS, 1, .rbx = 0},
    {"iret-bad-stack", iretq_op, VECTOR_SS, 1, .rbx = 0},
    {"wrfsbase", wrfsbase_op, VECTOR_GP, 0, .rbx = BAD_BASE},
    {"wrgsbase", wrgsbase_op, VECTOR_GP, 0, .rbx = BAD_BASE},
    {"lgdt-operand", lgdt_op, VECTOR_GP, 0, .rbx = BAD},
    {"sgdt-operand", sgdt_op, VECTOR_GP, 0, .rbx = BAD},
    {"movs-source", movs_op, VECTOR_GP, 0, .rcx = 1, .rsi = BAD, .rdi = (u64)data},
    {"movs-target", movs_op, VECTOR_GP, 0, .rcx = 1, .rsi = (u64)data, .rdi = BAD},
    {"movs-nothing", movs_op, VECTOR_DONE, 0, .rcx = 0, .rsi = BAD, .rdi = BAD},
    {"stos", stos_op, VECTOR_GP, 0, .rdi = BAD},
    {"lods", lods_op, VECTOR_GP, 0, .rsi = BAD},
    {"cmps", cmps_op, VECTOR_GP, 0, .rsi = (u64)data, .rdi = BAD},
    {"xlat", xlat_op, VECTOR_GP, 0, .rbx = BAD},
    {"bts", bts_op, VECTOR_GP, 0, .rbx = (u64)data, .rcx = 1ul << 51},
    {"lea", lea_op, VECTOR_DONE, 0, .rbx = BAD},
    {"prefetch", prefetch_op, VECTOR_DONE, 0, .rbx = BAD},
    {"nop-memory", nop_mem, VECTOR_DONE, 0, .rbx = BAD},
    {"clflush", clflush_op, VECTOR_GP, 0, .rbx = BAD},
    {"cmpxchg16b", cmpxchg16b_op, VECTOR_GP, 0, .rdi = BAD},
    {"address-size-32", address32, VECTOR_DONE, 0, .rbx = 0xffff800000100000},
    {"moffs", moffs_op, VECTOR_GP, 0, .rbx = 0},
    {"movups", movups_op, VECTOR_GP, 0, .rbx = BAD},
    {"movups-straddles", movups_op, VECTOR_GP, 0, .rbx = LAST - 14},
    {"far-jump-memory", ljmp_mem, VECTOR_GP, 0, .rbx = BAD},
};

static void test_rows(void)
{
    for (unsigned n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
        const struct row *t = &rows[n];
        u64 rsp = t->stack ? BAD_STACK : (u64)(isa_kernel_stack + 4096);
        struct regs r = {.rax = 0xa5a5, .rbx = t->rbx, .rcx = t->rcx, .rbp = t->rbp, .rsp = rsp};
        r.rsi = t->rsi;
        r.rdi = t->rdi;
        run_kernel(&r, t->code);
        if (t->vector == VECTOR_DONE) {
            want_done(&r);
        } else {
            want("vector", r.vector, t->vector);
            if (t->vector != VECTOR_PF)
                want("error", r.error, 0);
            want("rip", r.rip, (u64)t->code);
            want("rax", r.rax, 0xa5a5);
            want("rcx", r.rcx, t->rcx);
            want("rsi", r.rsi, t->rsi);
            want("rdi", r.rdi, t->rdi);
            want("rbp", r.rbp, t->rbp);
            want("rsp", r.rsp, rsp);
        }
        verdict2("access/", t->name);
    }
}

static void test_sysexit(void)
{
    write_msr(MSR_SYSENTER_CS, KERNEL_CS);
    struct regs r = {.rdx = BAD};
    run_kernel(&r, sysexitq_op);
    want_trap(&r, VECTOR_GP, 0, (u64)sysexitq_op);
    want("cs", r.cs, KERNEL_CS);
    r = (struct regs){.rdx = user(sysexitq_op), .rcx = BAD};
    run_kernel(&r, sysexitq_op);
    want_trap(&r, VECTOR_GP, 0, (u64)sysexitq_op);
    want("cs", r.cs, KERNEL_CS);
    verdict("target/sysexit");
}

/* The target of a transfer is checked before anything is popped or pushed. */
static void test_targets(void)
{
    static u64 stack[16] __attribute__((aligned(64)));
    static const struct {
        const char *name;
        const u8 *code;
    } t[] = {{"ret", ret_op}, {"ret-imm", ret_imm}, {"lret", lretq_op}, {"iret", iretq_op}};
    for (unsigned n = 0; n < 4; n++) {
        for (unsigned u = 0; u < 2; u++) {
            bool user_target = u && n >= 2;
            stack[8] = BAD;
            stack[9] = user_target ? USER_CS : KERNEL_CS;
            stack[10] = n == 3 ? 2 : (u64)(isa_kernel_stack + 4096);
            stack[11] = n == 3 ? (u64)(isa_kernel_stack + 4096) : USER_DS;
            stack[12] = user_target ? USER_DS : KERNEL_DS;
            struct regs r = {.rsp = (u64)&stack[8]};
            run_kernel(&r, t[n].code);
            want_trap(&r, VECTOR_GP, 0, (u64)t[n].code);
            want("cs", r.cs, KERNEL_CS);
            want("rsp", r.rsp, (u64)&stack[8]);
        }
        verdict2("target/", t[n].name);
    }
    write_msr(MSR_STAR, (u64)USER_CS32 << 48);
    struct regs r = {.rcx = BAD, .r11 = 2};
    run_kernel(&r, sysretq_op);
    /* Intel: at CPL 0 (SDM 2B SYSRET). AMD: where it has led to. */
    want_trap(&r, VECTOR_GP, 0, is_amd() ? BAD : (u64)sysretq_op);
    want("cs", r.cs, is_amd() ? USER_CS : KERNEL_CS);
    verdict("target/sysret");

    if (!is_amd()) /* it has SYSEXIT outside long mode only */
        test_sysexit();
    static struct __attribute__((packed)) {
        u64 offset;
        u16 selector;
    } far = {BAD, KERNEL_CS};
    r = (struct regs){.rbx = (u64)&far};
    run_kernel(&r, ljmp_mem);
    /* AMD: no REX.W here, and the selector is bytes 4 and 5 (24594, JMP far). */
    want_trap(&r, VECTOR_GP, is_amd() ? BAD >> 32 & 0xfffc : 0, (u64)ljmp_mem);
    verdict("target/far-jump");

    stack[7] = 0x77;
    r = (struct regs){.rbx = BAD, .rsp = (u64)&stack[8]};
    run_kernel(&r, call_reg);
    want_trap(&r, VECTOR_GP, 0, (u64)call_reg);
    want("rsp", r.rsp, (u64)&stack[8]);
    verdict("target/call");
}

static void test_msrs(void)
{
    static const struct {
        const char *name;
        u32 index;
    } t[] = {{"fs-base", MSR_FS_BASE},
             {"gs-base", MSR_GS_BASE},
             {"kernel-gs-base", MSR_KERNEL_GS},
             {"lstar", MSR_LSTAR},
             {"cstar", MSR_CSTAR},
             {"sysenter-esp", MSR_SYSENTER_ESP},
             {"sysenter-eip", MSR_SYSENTER_EIP}};
    u64 bad = 0x0100000000000000; /* beyond 57 bits as well: MSRs are checked by the widest */
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        u64 old = read_msr(t[n].index);
        /* AMD: of 32 bits, the others are not looked at */
        bool half = is_amd() && (t[n].index == MSR_SYSENTER_ESP || t[n].index == MSR_SYSENTER_EIP);
        struct regs r = {.rcx = t[n].index, .rax = (u32)bad, .rdx = bad >> 32};
        run_kernel(&r, wrmsr_op);
        if (half) {
            want_done(&r);
            want("value", read_msr(t[n].index), 0);
        } else {
            want_trap(&r, VECTOR_GP, 0, (u64)wrmsr_op);
            want("value kept", read_msr(t[n].index), old);
        }
        u64 good = 0xffff800012345678;
        r = (struct regs){.rcx = t[n].index, .rax = (u32)good, .rdx = good >> 32};
        run_kernel(&r, wrmsr_op);
        want_done(&r);
        want("value", read_msr(t[n].index), half ? (u32)good : good);
        write_msr(t[n].index, old);
        verdict2("wrmsr/", t[n].name);
    }
}

static void test_bases(void)
{
    struct regs r;
    write_msr(MSR_FS_BASE, 0x7ffffffff000);
    r = (struct regs){.rbx = 0x1000};
    run_kernel(&r, load_fs);
    want_trap(&r, VECTOR_GP, 0, (u64)load_fs);
    write_msr(MSR_FS_BASE, (u64)data);
    r = (struct regs){.rbx = (u64)-8}; /* the sum counts, not its parts */
    run_kernel(&r, load_fs);
    want_done(&r);
    r = (struct regs){.rbx = BAD};
    run_kernel(&r, load_fs);
    want_trap(&r, VECTOR_GP, 0, (u64)load_fs);
    write_msr(MSR_FS_BASE, 0);
    verdict("fs-base-and-offset");

    static struct table_register t = {0xff, BAD_BASE};
    r = (struct regs){.rbx = (u64)&t};
    run_kernel(&r, lgdt_op);
    want_trap(&r, VECTOR_GP, 0, (u64)lgdt_op);
    run_kernel(&r, lidt_op);
    want_trap(&r, VECTOR_GP, 0, (u64)lidt_op);
    verdict("descriptor-table-base");
}

/* Running or jumping off the end of the lower half. */
static void test_end(void)
{
    u64 *leaf = page_entry(isa_pml4, 4, END_PAGE, 1, PTE_P | PTE_W | PTE_U);
    struct regs r = {0};
    *leaf = (u64)page | PTE_P | PTE_W;
    memset(page, 0x90, sizeof(page));
    run_kernel(&r, (void *)(END_PAGE + 4090));
    want_trap(&r, VECTOR_GP, 0, BAD);
    verdict("run-off-the-end");

    page[4090] = 0xeb; /* JMP +16 */
    page[4091] = 0x10;
    r = (struct regs){0};
    run_kernel(&r, (void *)(END_PAGE + 4090));
    want_trap(&r, VECTOR_GP, 0, END_PAGE + 4090);
    page[4090] = 0x74; /* JZ +16 */
    r = (struct regs){.rflags = FLAG_ZF};
    run_kernel(&r, (void *)(END_PAGE + 4090));
    want_trap(&r, VECTOR_GP, 0, END_PAGE + 4090);
    verdict("jump-off-the-end");

    memset(page + 4086, 0x90, 10);
    page[4091] = 0xe8; /* CALL +0: the return address may be BAD, the target not */
    memset(page + 4092, 0, 4);
    r = (struct regs){.rsp = (u64)(isa_kernel_stack + 4096)};
    run_kernel(&r, (void *)(END_PAGE + 4091));
    want_trap(&r, VECTOR_GP, 0, END_PAGE + 4091);
    want("rsp", r.rsp, (u64)(isa_kernel_stack + 4096));
    verdict("call-off-the-end");

    page[4095] = 0x48; /* an instruction that lies across it */
    r = (struct regs){0};
    run_kernel(&r, (void *)(END_PAGE + 4095));
    want_trap(&r, VECTOR_GP, 0, LAST);
    verdict("instruction-across-the-end");
    *leaf = 0;
    invlpg(END_PAGE);
}

/* IRET takes any RSP; the next use of it faults. */
static void test_iret_stack(void)
{
    struct regs r = {.rsp = BAD_STACK};
    run_kernel(&r, push_reg);
    want_trap(&r, VECTOR_SS, 0, (u64)push_reg);
    want("rsp", r.rsp, BAD_STACK);
    r = (struct regs){.rsp = BAD_STACK};
    run_user(&r, push_reg);
    want_trap(&r, VECTOR_SS, 0, user(push_reg));
    verdict("iret-loads-any-stack-pointer");
}

void isa_main(const char *command_line)
{
    write_cr4(read_cr4() | CR4_FSGSBASE);
    write_msr(MSR_GS_BASE, 0);
    test_rows();
    test_targets();
    test_msrs();
    test_bases();
    test_end();
    test_iret_stack();
}
