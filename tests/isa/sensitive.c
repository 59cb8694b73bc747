/* SPDX-License-Identifier: MIT */
/*
 * The 17 sensitive, unprivileged instructions of the classic list (Robin and Irvine, 2000): SGDT
 * SIDT SLDT SMSW PUSHF POPF LAR LSL VERR VERW POP PUSH CALL JMP INT RET STR MOV, at CPL 0 and 3;
 * and what UMIP and IOPL make of them and of the privileged ones (SDM 2; SDM 3A 2.5, 5.9; SDM
 * 1 19.5).
 */
#include "isa.h"

static u8 data[64] __attribute__((aligned(64)));

SNIPPET(sgdt_op, "sgdt (%rbx)");
SNIPPET(sidt_op, "sidt (%rbx)");
SNIPPET(sldt_op, "sldt %eax");
SNIPPET(sldt_mem, "sldt (%rbx)");
SNIPPET(str_op, "str %rax");
SNIPPET(str_mem, "str (%rbx)");
SNIPPET(smsw_op, "smsw %rax");
SNIPPET(smsw_mem, "smsw (%rbx)");
SNIPPET(pushf_op, "pushfq\npop %rax");
SNIPPET(pushfw_op, "pushfw\npop %ax");
SNIPPET(popf_op, "push %rax\npopfq\npushfq\npop %rax");
SNIPPET(popfw_op, "push %rax\npopfw\nadd $6, %rsp\npushfq\npop %rax");
SNIPPET(lar_op, "lar %cx, %eax");
SNIPPET(lsl_op, "lsl %cx, %eax");
SNIPPET(verr_op, "verr %cx");
SNIPPET(verw_op, "verw %cx");
SNIPPET(mov_from_cs, "mov %cs, %eax");
SNIPPET(mov_from_ss, "mov %ss, %eax");
SNIPPET(mov_to_fs, "mov %ecx, %fs\nmov %fs, %eax");
SNIPPET(mov_to_ss, "mov %ecx, %ss");
SNIPPET(push_fs, "push %fs\npop %rax");
SNIPPET(pop_fs, "push %rcx\npop %fs\nmov %fs, %eax");
PLACE(pop_fs_at);
SNIPPET(pop_fs_fault, "push %rcx" AT(pop_fs_at) "pop %fs");
SNIPPET(lret_op, "lretq");
SNIPPET(lcall_op, "lcall *(%rbx)");
SNIPPET(ljmp_op, "ljmp *(%rbx)");
SNIPPET(int_op, "int $0x90");
SNIPPET(iret_op, "iretq");
SNIPPET(landed, "nop");
SNIPPET(cli_op, "cli");
SNIPPET(sti_op, "sti");
SNIPPET(in_op, "in %dx, %al");
SNIPPET(inw_op, "in %dx, %ax");
SNIPPET(out_op, "out %al, $0x80");
SNIPPET(outsb_op, "outsb");
SNIPPET(hlt_op, "hlt");
SNIPPET(lgdt_op, "lgdt (%rbx)");
SNIPPET(lidt_op, "lidt (%rbx)");
SNIPPET(lldt_op, "lldt %cx");
SNIPPET(ltr_op, "ltr %cx");
SNIPPET(lmsw_op, "lmsw %cx");
SNIPPET(clts_op, "clts");
SNIPPET(invd_op, "invd");
SNIPPET(wbinvd_op, "wbinvd");
SNIPPET(rdmsr_op, "rdmsr");
SNIPPET(wrmsr_op, "wrmsr");
SNIPPET(from_cr0, "mov %cr0, %rax");
SNIPPET(to_cr0, "mov %rax, %cr0");
SNIPPET(from_cr8, "mov %cr8, %rax");
SNIPPET(to_cr3, "mov %rax, %cr3");
SNIPPET(from_dr7, "mov %dr7, %rax");
SNIPPET(to_dr7, "mov %rax, %dr7");
SNIPPET(swapgs_op, "swapgs");
SNIPPET(sysret_op, "sysretq");
SNIPPET(sysexit_op, "sysexitq");
SNIPPET(xsetbv_op, "xsetbv");
SNIPPET(rdpmc_op, "rdpmc");
SNIPPET(rdtsc_op, "rdtsc");
SNIPPET(rdtscp_op, "rdtscp");
SNIPPET(stac_op, "stac");
SNIPPET(clac_op, "clac");

static void run_at(struct regs *r, const u8 *code, unsigned cpl)
{
    if (cpl == 3)
        run_user(r, code);
    else
        run_kernel(r, code);
}
static u64 place(const u8 *code, unsigned cpl)
{
    return cpl == 3 ? user(code) : (u64)code;
}
static const char *const at_cpl[] = {"-cpl0", "", "", "-cpl3"};

static void test_umip(void)
{
    static const struct {
        const char *name;
        const u8 *code;
    } t[] = {{"sgdt", sgdt_op},         {"sidt", sidt_op},        {"sldt", sldt_op},
             {"sldt-memory", sldt_mem}, {"str", str_op},          {"str-memory", str_mem},
             {"smsw", smsw_op},         {"smsw-memory", smsw_mem}};
    struct table_register gdt, idt;
    __asm__("sgdt %0" : "=m"(gdt));
    __asm__("sidt %0" : "=m"(idt));
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        for (unsigned cpl = 0; cpl < 4; cpl += 3) {
            const u64 values[4] = {0, 0, TSS_SELECTOR, read_cr0()};
            memset(data, 0xcc, sizeof(data));
            struct regs r = {.rbx = cpl ? user(data) : (u64)data, .rax = ~0ul};
            run_at(&r, t[n].code, cpl);
            want_done(&r);
            if (n < 2) {
                const struct table_register *wanted = n ? &idt : &gdt;
                want("limit", *(u16 *)data, wanted->limit);
                want("base", *(u64 *)(data + 2), wanted->base);
                want("beyond", data[10], 0xcc);
            } else if (n & 1) {
                want("memory", *(u32 *)data, 0xcccc0000 | (values[n / 2] & 0xffff));
            } else {
                want("rax", r.rax, n == 6 ? values[3] : values[n / 2]);
            }
            write_cr4(read_cr4() | CR4_UMIP);
            r = (struct regs){.rbx = cpl ? user(data) : (u64)data};
            run_at(&r, t[n].code, cpl);
            if (cpl == 3)
                want_trap(&r, VECTOR_GP, 0, user(t[n].code));
            else
                want_done(&r);
            write_cr4(read_cr4() & ~CR4_UMIP);
            verdict2(t[n].name, at_cpl[cpl]);
        }
    }
}

static void test_flags(void)
{
    u64 all = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_DF | FLAG_OF | FLAG_NT |
              FLAG_AC | FLAG_ID;
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        for (unsigned iopl = 0; iopl < 4; iopl++) {
            u64 in = 2 | iopl << 12;
            struct regs r = {.rflags = in | FLAG_IF | FLAG_RF | FLAG_OF};
            run_at(&r, pushf_op, cpl);
            want("pushfq", r.rax, in | FLAG_IF | FLAG_OF); /* RF is pushed as 0 */
            r = (struct regs){.rflags = in | FLAG_IF | FLAG_OF, .rax = 0xffff0000};
            run_at(&r, pushfw_op, cpl);
            want("pushfw", r.rax, 0xffff0000 | in | FLAG_IF | FLAG_OF);

            r = (struct regs){.rflags = in, .rax = all | FLAG_IF | FLAG_IOPL | FLAG_RF | FLAG_VM};
            run_at(&r, popf_op, cpl);
            u64 wanted = all | 2 | (cpl == 0 ? FLAG_IOPL : iopl << 12);
            wanted |= cpl <= iopl ? FLAG_IF : 0;
            want_done(&r);
            want("popfq sets", r.rax, wanted);
            r = (struct regs){.rflags = in | FLAG_IF | FLAG_AC | FLAG_ID, .rax = 0};
            run_at(&r, popf_op, cpl);
            wanted = 2 | (cpl == 0 ? 0 : iopl << 12) | (cpl <= iopl ? 0 : FLAG_IF);
            want("popfq clears", r.rax, wanted);
            r = (struct regs){.rflags = in | FLAG_AC | FLAG_ID, .rax = FLAG_CF};
            run_at(&r, popfw_op, cpl); /* the upper half stays */
            wanted = 3 | FLAG_AC | FLAG_ID | (cpl == 0 ? 0 : iopl << 12);
            want("popfw", r.rax & ~(u64)(FLAG_PF | FLAG_AF), wanted & ~(u64)FLAG_CF);
        }
        verdict2("pushf-popf", at_cpl[cpl]);
        for (unsigned iopl = 0; iopl < 4; iopl++) {
            struct regs r = {.rflags = 2 | iopl << 12 | FLAG_IF};
            run_at(&r, cli_op, cpl);
            if (cpl <= iopl) {
                want_done(&r);
                want("if", r.rflags & FLAG_IF, 0);
            } else {
                want_trap(&r, VECTOR_GP, 0, place(cli_op, cpl));
                want("if", r.rflags & FLAG_IF, FLAG_IF);
            }
            r = (struct regs){.rflags = 2 | iopl << 12};
            run_at(&r, sti_op, cpl);
            if (cpl <= iopl) {
                want_done(&r);
                want("if", r.rflags & FLAG_IF, FLAG_IF);
            } else {
                want_trap(&r, VECTOR_GP, 0, place(sti_op, cpl));
            }
        }
        verdict2("cli-sti", at_cpl[cpl]);
    }
}

/* LAR LSL VERR VERW: what each kind of descriptor allows (SDM 2A LAR, tables; 2B LSL, VERR). */
static void test_segments(void)
{
    static const struct {
        const char *name;
        u64 low;
        bool lar, lsl, verr, verw; /* with CPL and RPL right */
        bool conforming;
    } t[] = {
        {"data", 0x00c0f2000000ffff, 1, 1, 1, 1, 0},
        {"data-read-only", 0x0040f0001234ffff, 1, 1, 1, 0, 0},
        {"data-absent", 0x00c072000000ffff, 1, 1, 1, 1, 0},
        {"code", 0x00c0fa000000ffff, 1, 1, 1, 0, 0},
        {"code-execute-only", 0x00c0f8000000ffff, 1, 1, 0, 0, 0},
        {"conforming-dpl0", 0x00c09e000000ffff, 1, 1, 1, 0, 1},
        {"ldt", 0x0000e20000000fff, 1, 1, 0, 0, 0},
        {"tss", 0x0000e90000000067, 1, 1, 0, 0, 0},
        {"tss-busy", 0x0000eb0000000067, 1, 1, 0, 0, 0},
        {"call-gate", 0x0000ec0000080000, 1, 0, 0, 0, 0},
        {"interrupt-gate", 0x0000ee0000080000, 0, 0, 0, 0, 0},
        {"type-0", 0x0000e00000000000, 0, 0, 0, 0, 0},
        {"tss-16", 0x0000e10000000067, 0, 0, 0, 0, 0},
        {"call-gate-16", 0x0000e40000080000, 0, 0, 0, 0, 0},
        {"task-gate", 0x0000e50000000000, 0, 0, 0, 0, 0},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        for (unsigned cpl = 0; cpl < 4; cpl += 3) {
            for (unsigned lower = 0; lower < 2; lower++) {
                u64 low = lower && !t[n].conforming ? t[n].low & ~(3ul << 45) : t[n].low;
                for (unsigned rpl = 0; rpl < 4; rpl += 3) {
                    unsigned dpl = low >> 45 & 3;
                    bool reach = t[n].conforming || (dpl >= cpl && dpl >= rpl);
                    u32 high = (u32)(low >> 32);
                    u32 limit = (u32)(low & 0xffff) | (high & 0xf0000);
                    if (high & 1u << 23)
                        limit = limit << 12 | 0xfff;
                    const struct {
                        const u8 *code;
                        bool zf;
                        u64 rax;
                    } ops[] = {{lar_op, t[n].lar && reach, high & 0x00f0ff00},
                               {lsl_op, t[n].lsl && reach, limit},
                               {verr_op, t[n].verr && reach, 0},
                               {verw_op, t[n].verw && reach, 0}};
                    set_descriptor(0x60, low);
                    set_descriptor(0x68, 0);
                    for (unsigned o = 0; o < 4; o++) {
                        struct regs r = {.rax = 0x5555, .rcx = 0x60 | rpl};
                        r.rflags = ops[o].zf ? 0 : FLAG_ZF;
                        run_at(&r, ops[o].code, cpl);
                        want_done(&r);
                        if (!want("zf", r.rflags >> 6 & 1, ops[o].zf))
                            want("instruction", o, 99);
                        u64 rax = o < 2 && ops[o].zf ? ops[o].rax : 0x5555;
                        /* LAR's bits 19:16 are undefined (SDM 2A LAR) */
                        want("rax", o == 0 ? r.rax & ~0xf0000ul : r.rax, rax);
                    }
                }
            }
        }
        verdict2("lar-lsl-verr-verw/", t[n].name);
    }
    static const u16 none[] = {0, 3, 0x1000, 0x64};
    static const u8 *const codes[] = {lar_op, lsl_op, verr_op, verw_op};
    for (unsigned n = 0; n < 16; n++) {
        struct regs r = {.rcx = none[n / 4], .rflags = FLAG_ZF, .rax = 0x77};
        run_user(&r, codes[n & 3]);
        want_done(&r);
        want("zf", r.rflags & FLAG_ZF, 0);
        want("rax", r.rax, 0x77);
    }
    verdict("lar-lsl-verr-verw/null-and-beyond");
}

static void test_moves(void)
{
    static const u64 cs[] = {KERNEL_CS, 0, 0, USER_CS}, ss[] = {KERNEL_DS, 0, 0, USER_DS};
    set_descriptor(0x60, 0x00cff1000000ffff); /* data, read-only, DPL 3 */
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        struct regs r = {0};
        run_at(&r, mov_from_cs, cpl);
        want("cs", r.rax, cs[cpl]);
        r = (struct regs){0};
        run_at(&r, mov_from_ss, cpl);
        want("ss", r.rax, ss[cpl]);
        verdict2("mov-from-segment", at_cpl[cpl]);
        for (unsigned pop = 0; pop < 2; pop++) {
            r = (struct regs){.rcx = 0x63};
            run_at(&r, pop ? pop_fs : mov_to_fs, cpl);
            want_done(&r);
            want("fs", r.rax, 0x63);
            r = (struct regs){.rcx = KERNEL_DS};
            run_at(&r, pop ? pop_fs_fault : mov_to_fs, cpl);
            const u8 *at = pop ? pop_fs_at : mov_to_fs;
            if (cpl == 3) {
                want_trap(&r, VECTOR_GP, KERNEL_DS, user(at));
                if (pop)
                    want("rsp", r.rsp, user(isa_user_stack + 4096) - 8);
            } else {
                want_done(&r);
            }
        }
        __asm__ volatile("mov %0, %%fs" ::"r"(0x63));
        r = (struct regs){.rax = ~0ul};
        run_at(&r, push_fs, cpl);
        want("push fs", r.rax, 0x63);
        r = (struct regs){.rcx = cpl ? 0x63 : 0x60}; /* SS must be writable */
        run_at(&r, mov_to_ss, cpl);
        want_trap(&r, VECTOR_GP, 0x60, place(mov_to_ss, cpl));
        verdict2("mov-push-pop-segment", at_cpl[cpl]);
    }
    __asm__ volatile("mov %0, %%fs" ::"r"(0));
    struct regs weak = {.rcx = KERNEL_DS | 3}; /* the RPL counts as the CPL does */
    run_kernel(&weak, mov_to_fs);
    want_trap(&weak, VECTOR_GP, KERNEL_DS, (u64)mov_to_fs);
    verdict("mov-to-segment-rpl");
    /* A write sets the descriptor's accessed bit. */
    set_descriptor(0x60, 0x00cff2000000ffff);
    struct regs r = {.rcx = 0x63};
    run_user(&r, mov_to_fs);
    want("accessed", isa_gdt[0x60 >> 3] >> 40 & 1, 1);
    verdict("accessed-bit");
    __asm__ volatile("mov %0, %%fs" ::"r"(0));
}

struct __attribute__((packed)) far_pointer {
    u32 offset;
    u16 selector;
};
static struct far_pointer far;

static void test_transfers(void)
{
    struct regs r;
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        const struct {
            const char *name;
            u16 selector;
            u16 error; /* 0: it lands */
            u16 cs;
        } t[] = {
            {"same", cpl ? USER_CS : KERNEL_CS, 0, cpl ? USER_CS : KERNEL_CS},
            {"other-privilege", cpl ? KERNEL_CS : USER_CS, cpl ? KERNEL_CS : USER_CS & ~3, 0},
            {"null", 0, 0xffff, 0},
            {"data", cpl ? USER_DS : KERNEL_DS, cpl ? USER_DS & ~3 : KERNEL_DS, 0},
            {"beyond", 0x2000, 0x2000, 0},
            {"conforming", 0x60, 0, (u16)(0x60 | cpl)},
            {"call-gate", 0x73, 0, KERNEL_CS},
        };
        set_descriptor(0x60, 0x00209f0000000000); /* conforming 64-bit code, DPL 0 */
        isa_gdt[0x70 >> 3] = ((u64)landed & 0xffff) | (u64)KERNEL_CS << 16 | 0xecul << 40 |
                             ((u64)landed >> 16 & 0xffff) << 48;
        isa_gdt[0x78 >> 3] = 0;
        far.offset = (u32)place(landed, cpl);
        for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
            for (unsigned call = 0; call < 2; call++) {
                const u8 *code = call ? lcall_op : ljmp_op;
                bool gate = t[n].selector == 0x73;
                far.selector = t[n].selector;
                r = (struct regs){.rbx = cpl ? user(&far) : (u64)&far};
                u64 rsp = cpl ? user(isa_user_stack + 4096) : (u64)isa_kernel_stack + 4096;
                run_at(&r, code, cpl);
                if (t[n].error != 0 || (gate && cpl == 3 && !call)) {
                    /* JMP may not change the privilege through a gate */
                    u64 error = gate ? KERNEL_CS : t[n].error == 0xffff ? 0 : t[n].error;
                    want_trap(&r, VECTOR_GP, error, place(code, cpl));
                    want("rsp", r.rsp, rsp);
                    continue;
                }
                want("vector", r.vector, VECTOR_DONE);
                want("cs", r.cs, t[n].cs);
                want("rip", r.rip, (gate ? (u64)landed : place(landed, cpl)) + 3);
                if (!call)
                    continue;
                if (gate && cpl == 3) { /* the stack of the TSS: RIP, CS, RSP, SS */
                    const u64 *frame = (u64 *)(isa_tss.rsp[0] - 32);
                    want("new rsp", r.rsp, (u64)frame);
                    want("rip pushed", frame[0], user(lcall_op) + 2);
                    want("cs pushed", frame[1], USER_CS);
                    want("rsp pushed", frame[2], rsp);
                    want("ss pushed", frame[3], USER_DS);
                    want("ss", r.ss, 0);
                } else if (gate) {
                    want("rsp", r.rsp, rsp - 16);
                    want("cs pushed", ((u64 *)rsp)[-1], KERNEL_CS);
                } else {
                    want("rsp", r.rsp, rsp - 8); /* two 32-bit pushes */
                }
            }
            verdict2(t[n].name, cpl ? "/jmp-call-far-cpl3" : "/jmp-call-far-cpl0");
        }
    }
    set_gate(0x90, landed, KERNEL_CS, 0x8e, 1);
    r = (struct regs){0};
    run_kernel(&r, int_op);
    want("vector", r.vector, VECTOR_DONE);
    r = (struct regs){0};
    run_user(&r, int_op);
    want_trap(&r, VECTOR_GP, 0x90 * 8 + 2, user(int_op));
    default_gate(0x90);
    verdict("int");
}

static void test_returns(void)
{
    static u64 stack[8] __attribute__((aligned(64)));
    static const struct {
        const char *name;
        u64 cs, ss;
        u8 from, vector;
        u16 error;
    } t[] = {
        {"same", KERNEL_CS, KERNEL_DS, 0, VECTOR_DONE, 0},
        {"to-user", USER_CS, USER_DS, 0, VECTOR_DONE, 0},
        {"to-inner", KERNEL_CS, KERNEL_DS, 3, VECTOR_GP, KERNEL_CS},
        {"null-cs", 0, KERNEL_DS, 0, VECTOR_GP, 0},
        {"data-as-code", USER_DS, USER_DS, 0, VECTOR_GP, USER_DS & ~3},
        {"ss-privilege", USER_CS, KERNEL_DS, 0, VECTOR_GP, KERNEL_DS},
        {"ss-null-to-user", USER_CS, 3, 0, VECTOR_DONE, 0},
        {"rpl-not-dpl", USER_CS & ~3ul, USER_DS, 0, VECTOR_GP, USER_CS & ~3},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        for (unsigned iret = 0; iret < 2; iret++) {
            const u8 *code = iret ? iret_op : lret_op;
            bool outer = (t[n].cs & 3) == 3;
            u64 top = t[n].from ? user(stack) : (u64)stack;
            u64 rsp = outer ? user(isa_user_stack + 4096) : (u64)isa_kernel_stack + 4096;
            u64 frame[5] = {outer ? user(landed) : (u64)landed, t[n].cs, 2, rsp, t[n].ss};
            memcpy(stack, frame, sizeof(frame));
            if (!iret) {
                stack[2] = rsp;
                stack[3] = t[n].ss;
            }
            struct regs r = {.rsp = top};
            run_at(&r, code, t[n].from);
            u8 vector = t[n].vector;
            bool null_user = t[n].cs == USER_CS && t[n].ss == 3;
            if (null_user) { /* a null SS is refused when CPL 3 is the target (SDM 2A IRET) */
                want_trap(&r, VECTOR_GP, 0, (u64)code);
            } else if (vector == VECTOR_DONE) {
                want("vector", r.vector, VECTOR_DONE);
                want("cs", r.cs, t[n].cs);
                want("ss", r.ss, t[n].ss);
                if (iret || outer)
                    want("rsp", r.rsp, rsp);
                else
                    want("rsp", r.rsp, top + 16);
            } else {
                want_trap(&r, vector, t[n].error, place(code, t[n].from));
                want("rsp", r.rsp, top);
            }
        }
        verdict2("ret-iret/", t[n].name);
    }
    /* IRET with NT set is #GP(0) in long mode. */
    u64 frame[5] = {(u64)landed, KERNEL_CS, 2, (u64)isa_kernel_stack + 4096, KERNEL_DS};
    memcpy(stack, frame, sizeof(frame));
    struct regs r = {.rsp = (u64)stack, .rflags = FLAG_NT};
    run_kernel(&r, iret_op);
    want_trap(&r, VECTOR_GP, 0, (u64)iret_op);
    verdict("ret-iret/nested-task");
    /* At CPL 3 IRET changes neither IOPL nor (IOPL < 3) IF. */
    u64 user_frame[5] = {user(landed), USER_CS, FLAG_IF | FLAG_IOPL | FLAG_CF | 2,
                         user(isa_user_stack + 4096), USER_DS};
    memcpy(stack, user_frame, sizeof(user_frame));
    r = (struct regs){.rsp = user(stack)};
    run_user(&r, iret_op);
    want("vector", r.vector, VECTOR_DONE);
    want("rflags", r.rflags, FLAG_CF | 2);
    verdict("ret-iret/flags-at-cpl3");
}

static void test_privileged(void)
{
    const struct {
        const char *name;
        const u8 *code;
        u8 vector;
    } t[] = {{"hlt", hlt_op, VECTOR_GP},        {"lgdt", lgdt_op, VECTOR_GP},
             {"lidt", lidt_op, VECTOR_GP},      {"lldt", lldt_op, VECTOR_GP},
             {"ltr", ltr_op, VECTOR_GP},        {"lmsw", lmsw_op, VECTOR_GP},
             {"clts", clts_op, VECTOR_GP},      {"invd", invd_op, VECTOR_GP},
             {"wbinvd", wbinvd_op, VECTOR_GP},  {"rdmsr", rdmsr_op, VECTOR_GP},
             {"wrmsr", wrmsr_op, VECTOR_GP},    {"mov-from-cr0", from_cr0, VECTOR_GP},
             {"mov-to-cr0", to_cr0, VECTOR_GP}, {"mov-from-cr8", from_cr8, VECTOR_GP},
             {"mov-to-cr3", to_cr3, VECTOR_GP}, {"mov-from-dr7", from_dr7, VECTOR_GP},
             {"mov-to-dr7", to_dr7, VECTOR_GP}, {"swapgs", swapgs_op, VECTOR_GP},
             {"sysret", sysret_op, VECTOR_GP},  {"sysexit", sysexit_op, VECTOR_GP},
             {"xsetbv", xsetbv_op, VECTOR_GP},  {"rdpmc", rdpmc_op, VECTOR_GP},
             {"stac", stac_op, VECTOR_UD},      {"clac", clac_op, VECTOR_UD}};
    write_cr4(read_cr4() | CR4_OSXSAVE | CR4_SMAP);
    write_msr(MSR_SYSENTER_CS, KERNEL_CS);
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        for (unsigned iopl = 0; iopl < 4; iopl += 3) { /* IOPL does not matter */
            struct regs r = {.rflags = iopl << 12, .rbx = user(data), .rcx = MSR_EFER};
            run_user(&r, t[n].code);
            want_trap(&r, t[n].vector, 0, user(t[n].code));
        }
        verdict2("cpl3/", t[n].name);
    }
    write_cr4(read_cr4() & ~CR4_SMAP);
    for (unsigned n = 0; n < 2; n++) { /* RDTSC, RDTSCP under CR4.TSD */
        const u8 *code = n ? rdtscp_op : rdtsc_op;
        struct regs r = {0};
        run_user(&r, code);
        want_done(&r);
        write_cr4(read_cr4() | CR4_TSD);
        r = (struct regs){0};
        run_user(&r, code);
        want_trap(&r, VECTOR_GP, 0, user(code));
        r = (struct regs){0};
        run_kernel(&r, code);
        want_done(&r);
        write_cr4(read_cr4() & ~CR4_TSD);
    }
    verdict("cpl3/rdtsc");
}

/* IOPL and the I/O map of the TSS (SDM 1 19.5). */
static void test_ports(void)
{
    struct regs r;
    isa_tss.io_base = offsetof(struct tss, io_map);
    memset(isa_tss.io_map, 0xff, sizeof(isa_tss.io_map));
    isa_tss.io_map[0x80 / 8] = 0xfe; /* port 0x80 alone */
    static const struct {
        const u8 *code;
        u16 port;
        u8 iopl, vector;
    } t[] = {
        {in_op, 0x80, 0, VECTOR_DONE},    {in_op, 0x81, 0, VECTOR_GP},
        {inw_op, 0x80, 0, VECTOR_GP},     {out_op, 0, 0, VECTOR_DONE},
        {in_op, 0x81, 3, VECTOR_DONE},    {in_op, 0x81, 2, VECTOR_GP},
        {inw_op, 0x80, 3, VECTOR_DONE},   {in_op, 0x7f, 0, VECTOR_GP},
        {in_op, 0xffff, 0, VECTOR_GP},    {outsb_op, 0x81, 0, VECTOR_GP},
        {outsb_op, 0x80, 0, VECTOR_DONE},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        r = (struct regs){.rdx = t[n].port, .rflags = (u64)t[n].iopl << 12, .rsi = user(data)};
        run_user(&r, t[n].code);
        if (t[n].vector == VECTOR_DONE)
            want_done(&r);
        else
            want_trap(&r, VECTOR_GP, 0, user(t[n].code));
        if (r.vector != t[n].vector)
            want("row", n, 99);
    }
    verdict("io-map");
    isa_tss.io_base = sizeof(isa_tss);
    r = (struct regs){.rdx = 0x80};
    run_user(&r, in_op);
    want_trap(&r, VECTOR_GP, 0, user(in_op));
    r = (struct regs){.rdx = 0x80};
    run_kernel(&r, in_op);
    want_done(&r);
    verdict("io-no-map");
}

void isa_main(const char *command_line)
{
    out8(0x21, 0xff); /* IF is set here and there: nothing may come */
    out8(0xa1, 0xff);
    test_umip();
    test_flags();
    test_segments();
    test_moves();
    test_transfers();
    test_returns();
    test_privileged();
    test_ports();
}
