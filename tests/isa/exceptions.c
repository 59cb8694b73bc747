/* SPDX-License-Identifier: MIT */
/*
 * Exceptions (SDM 3A chapter 6): each vector with its error code, RIP and flags; the order of
 * checks; frames, IST and stack alignment (6.14); faults in delivery (table 6-5). With a word on
 * the command line: a triple fault.
 */
#include "isa.h"

#define MISSING 0x6000dead000ul /* in no table */

static u8 data[128] __attribute__((aligned(64)));

SNIPPET(div_op, "div %ecx");
SNIPPET(idiv_op, "idiv %rcx");
SNIPPET(idiv_32, "idiv %ecx");
SNIPPET(div_mem, "divl (%rbx)");
SNIPPET(int3_op, "int3\nnop");
PLACE(after_int3);
SNIPPET(int_3, ".byte 0xcd, 3" AT(after_int3));
SNIPPET(ud2_op, "ud2");
SNIPPET(ud1_op, "ud1 (%rbx), %eax");
SNIPPET(lock_mov, ".byte 0xf0, 0x89, 0x03"); /* LOCK MOV [rbx], eax */
SNIPPET(lock_reg, ".byte 0xf0, 0x01, 0xc8"); /* LOCK ADD eax, ecx */
SNIPPET(lock_cli, ".byte 0xf0, 0xfa");
SNIPPET(into_64, ".byte 0xce");
SNIPPET(aam_64, ".byte 0xd4, 0x0a");
SNIPPET(push_es_64, ".byte 0x06");
SNIPPET(mov_cs, ".byte 0x8e, 0xc8"); /* MOV CS, EAX */
SNIPPET(mov_cr1, ".byte 0x0f, 0x20, 0xc8");
SNIPPET(too_long, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,"
                  "0x66,0x90");
SNIPPET(longest, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,"
                 "0x90");
SNIPPET(fld1_op, "fld1");
SNIPPET(fld_bad, "flds (%rbx)");
SNIPPET(fwait_op, "fwait");
SNIPPET(sse_op, "xorps %xmm0, %xmm0");
SNIPPET(mmx_op, "pxor %mm0, %mm0");
SNIPPET(ldmxcsr_op, "ldmxcsr (%rbx)");
SNIPPET(movaps_op, "movaps (%rbx), %xmm0");
PLACE(mf_at);
SNIPPET(mf_op, "fninit\nfldcw (%rbx)\nfld1\nfldz\nfdivrp" AT(mf_at) "fwait");
PLACE(xm_at);
SNIPPET(xm_op, "ldmxcsr (%rbx)" AT(xm_at) "divps %xmm1, %xmm0");
SNIPPET(load_op, "mov (%rbx), %eax");
SNIPPET(store_op, "mov %eax, (%rbx)");
SNIPPET(word_load, "mov (%rbx), %ax");
SNIPPET(byte_load, "mov (%rbx), %al");
SNIPPET(push_op, "push %rax");
SNIPPET(load_ds, "mov %eax, %ds");
SNIPPET(load_ss, "mov %eax, %ss");
SNIPPET(cli_op, "cli");
SNIPPET(cr0_op, "mov %cr0, %rax");
SNIPPET(lldt_mem, "lldt (%rbx)");
SNIPPET(int80, "int $0x80");
SNIPPET(int81, "int $0x81");
SNIPPET(icebp_op, ".byte 0xf1\nnop");
PLACE(done_at);
SNIPPET(done_op, AT(done_at) "nop");
SNIPPET(cmpxchg16b_op, "cmpxchg16b (%rbx)");
SNIPPET32(into_32, "into");
SNIPPET32(bound_32, "bound %eax, (%ebx)");
SNIPPET32(aam_32, ".byte 0xd4, 0x00");
SNIPPET32(arpl_32, "arpl %ax, %cx");
PLACE(after_into);
SNIPPET32(into_set, "into" AT(after_into) "nop");

/* One instruction, both privileges: the fault at it with RF in the pushed flags (6.6.1), registers
 * as they were. */
static void fault(const char *name, const u8 *code, const struct regs *in, unsigned vector,
                  unsigned privileges)
{
    for (unsigned u = 0; u < 2; u++) {
        if (!(privileges & 1u << u))
            continue;
        struct regs r = *in;
        r.rax |= 0x5a0000;
        if (u)
            run_user(&r, code);
        else
            run_kernel(&r, code);
        want_trap(&r, vector, 0, u ? user(code) : (u64)code);
        want("rf", r.rflags & FLAG_RF, FLAG_RF);
        want("rax", r.rax, in->rax | 0x5a0000);
        want("rcx", r.rcx, in->rcx);
        want("rdx", r.rdx, in->rdx);
        want("cs", r.cs, u ? USER_CS : KERNEL_CS);
    }
    verdict(name);
}
enum { CPL0 = 1, CPL3 = 2, BOTH = 3 };
#define IN(...) (&(struct regs){__VA_ARGS__})

static void test_simple(void)
{
    fault("de/by-zero", div_op, IN(.rdx = 1), VECTOR_DE, BOTH);
    fault("de/quotient-too-large", div_op, IN(.rdx = 5, .rcx = 5), VECTOR_DE, BOTH);
    fault("de/idiv-overflow", idiv_op, IN(.rax = 0, .rdx = 1ul << 63, .rcx = ~0ul), VECTOR_DE,
          BOTH);
    struct regs most = {.rax = 0x80000000, .rcx = 1}; /* exactly one too large */
    run_user(&most, idiv_32);
    want_trap(&most, VECTOR_DE, 0, user(idiv_32));
    verdict("de/idiv-one-too-large");
    struct regs least = {.rax = 0x80000000, .rdx = 0xffffffff, .rcx = 1};
    run_user(&least, idiv_32);
    want_done(&least);
    want("quotient", least.rax, 0x80000000);
    verdict("de/idiv-least-fits");
    fault("ud/ud2", ud2_op, IN(0), VECTOR_UD, BOTH);
    fault("ud/ud1", ud1_op, IN(.rbx = user(data)), VECTOR_UD, BOTH);
    fault("ud/lock-mov", lock_mov, IN(.rbx = user(data)), VECTOR_UD, BOTH);
    fault("ud/lock-register", lock_reg, IN(0), VECTOR_UD, BOTH);
    fault("ud/lock-before-privilege", lock_cli, IN(0), VECTOR_UD, BOTH);
    fault("ud/into-in-64-bit", into_64, IN(0), VECTOR_UD, BOTH);
    fault("ud/aam-in-64-bit", aam_64, IN(0), VECTOR_UD, BOTH);
    fault("ud/push-es-in-64-bit", push_es_64, IN(0), VECTOR_UD, BOTH);
    fault("ud/mov-to-cs", mov_cs, IN(0), VECTOR_UD, BOTH);
    fault("ud/mov-from-cr1", mov_cr1, IN(0), VECTOR_UD, BOTH);
    fault("gp/sixteen-bytes", too_long, IN(0), VECTOR_GP, BOTH);
    fault("gp/cli-at-cpl3", cli_op, IN(0), VECTOR_GP, CPL3);
    fault("gp/mov-cr0-at-cpl3", cr0_op, IN(0), VECTOR_GP, CPL3);
    fault("gp/movaps-misaligned", movaps_op, IN(.rbx = user(data) + 8), VECTOR_GP, BOTH);
    fault("gp/cmpxchg16b-misaligned", cmpxchg16b_op, IN(.rbx = user(data) + 8), VECTOR_GP, BOTH);
    *(u32 *)data = 0x10000;
    fault("gp/ldmxcsr-reserved", ldmxcsr_op, IN(.rbx = user(data)), VECTOR_GP, BOTH);
    struct regs r = {0};
    run_user(&r, longest);
    want_done(&r);
    verdict("fifteen-bytes-run");
}

static void test_traps(void)
{
    static const struct {
        const char *name;
        const u8 *code;
        u8 vector, length;
    } t[] = {{"bp/int3", int3_op, VECTOR_BP, 1},
             {"bp/int-3", int_3, VECTOR_BP, 2},
             {"db/icebp", icebp_op, VECTOR_DB, 1}};
    for (unsigned n = 0; n < 3; n++) {
        struct regs r = {.rflags = FLAG_CF | FLAG_OF};
        run_user(&r, t[n].code);
        want_trap(&r, t[n].vector, 0, user(t[n].code) + t[n].length);
        want("rflags", r.rflags, FLAG_CF | FLAG_OF | 2); /* no RF: a trap */
        verdict(t[n].name);
    }
}

static void test_compatibility(void)
{
    struct regs r = {.rflags = FLAG_OF};
    run_user32(&r, into_set);
    want_trap(&r, VECTOR_OF, 0, user(after_into));
    want("cs", r.cs, USER_CS32);
    r = (struct regs){0};
    run_user32(&r, into_32);
    want_done(&r);
    verdict("of/into");

    ((int *)data)[0] = -5;
    ((int *)data)[1] = 10;
    static const struct {
        int index;
        bool inside;
    } t[] = {{-6, 0}, {-5, 1}, {10, 1}, {11, 0}};
    for (unsigned n = 0; n < 4; n++) {
        r = (struct regs){.rax = (u32)t[n].index, .rbx = user(data)};
        run_user32(&r, bound_32);
        if (t[n].inside)
            want_done(&r);
        else
            want_trap(&r, VECTOR_BR, 0, user(bound_32));
    }
    verdict("br/bound");
    r = (struct regs){.rax = 77};
    run_user32(&r, aam_32);
    want_trap(&r, VECTOR_DE, 0, user(aam_32));
    verdict("de/aam-0");
    r = (struct regs){.rax = 3, .rcx = 0x50};
    run_user32(&r, arpl_32);
    want_done(&r);
    want("rcx", r.rcx, 0x53);
    want("zf", r.rflags & FLAG_ZF, FLAG_ZF);
    verdict("arpl");
}

/* CR0.EM, TS, MP and CR4.OSFXSR (SDM 3A table 2-2, 13.1) */
static void test_fpu_controls(void)
{
    static const struct {
        const char *name;
        u64 cr0; /* of EM, TS, MP */
        bool no_osfxsr;
        u8 x87, wait, mmx, sse;
    } t[] = {
        {"none", CR0_MP, 0, VECTOR_DONE, VECTOR_DONE, VECTOR_DONE, VECTOR_DONE},
        {"ts-mp", CR0_TS | CR0_MP, 0, VECTOR_NM, VECTOR_NM, VECTOR_NM, VECTOR_NM},
        {"ts", CR0_TS, 0, VECTOR_NM, VECTOR_DONE, VECTOR_NM, VECTOR_NM},
        {"em", CR0_EM, 0, VECTOR_NM, VECTOR_DONE, VECTOR_UD, VECTOR_UD},
        {"em-ts-mp", CR0_EM | CR0_TS | CR0_MP, 0, VECTOR_NM, VECTOR_NM, VECTOR_UD, VECTOR_UD},
        {"no-osfxsr", CR0_MP, 1, VECTOR_DONE, VECTOR_DONE, VECTOR_DONE, VECTOR_UD},
        {"no-osfxsr-ts", CR0_MP | CR0_TS, 1, VECTOR_NM, VECTOR_NM, VECTOR_NM, VECTOR_UD},
    };
    u64 cr0 = read_cr0(), cr4 = read_cr4();
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        const u8 *codes[4] = {fld1_op, fwait_op, mmx_op, sse_op};
        const u8 wanted[4] = {t[n].x87, t[n].wait, t[n].mmx, t[n].sse};
        write_cr0((cr0 & ~(CR0_EM | CR0_TS | CR0_MP)) | t[n].cr0);
        write_cr4(t[n].no_osfxsr ? cr4 & ~CR4_OSFXSR : cr4);
        for (unsigned c = 0; c < 4; c++) {
            struct regs r = {0};
            run_user(&r, codes[c]);
            if (!want("vector", r.vector, wanted[c]))
                want("instruction", c, ~0ul);
        }
        write_cr4(cr4);
        write_cr0(cr0);
        __asm__ volatile("fninit");
        verdict2("fpu-controls/", t[n].name);
    }
}

static void test_float(void)
{
    struct regs r = {.rbx = user(data)};
    *(u16 *)data = 0x037b; /* zero divide is not masked */
    run_user(&r, mf_op);
    want_trap(&r, VECTOR_MF, 0, user(mf_at));
    __asm__ volatile("fnclex; fninit");
    verdict("mf");

    static const float one[4] = {1, 1, 1, 1};
    __asm__ volatile("movups %0, %%xmm0; xorps %%xmm1, %%xmm1" ::"m"(one));
    *(u32 *)data = 0x1d80; /* zero divide is not masked */
    r = (struct regs){.rbx = user(data)};
    run_user(&r, xm_op);
    want_trap(&r, VECTOR_XM, 0, user(xm_at));
    write_cr4(read_cr4() & ~CR4_OSXMMEXCPT);
    r = (struct regs){.rbx = user(data)};
    run_user(&r, xm_op);
    want_trap(&r, VECTOR_UD, 0, user(xm_at));
    write_cr4(read_cr4() | CR4_OSXMMEXCPT);
    *(u32 *)data = 0x1f80;
    __asm__ volatile("ldmxcsr %0" ::"m"(*(u32 *)data));
    verdict("xm");
}

static void test_alignment(void)
{
    u64 cr0 = read_cr0();
    struct regs r;
    write_cr0(cr0 | CR0_AM);
    static const struct {
        const u8 *code;
        u8 offset, vector;
    } t[] = {{load_op, 4, VECTOR_DONE},   {load_op, 2, VECTOR_AC},   {store_op, 1, VECTOR_AC},
             {word_load, 2, VECTOR_DONE}, {word_load, 1, VECTOR_AC}, {byte_load, 1, VECTOR_DONE}};
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        r = (struct regs){.rbx = user(data) + t[n].offset, .rflags = FLAG_AC};
        run_user(&r, t[n].code);
        want("vector", r.vector, t[n].vector);
        want("error", r.error, 0);
        if (t[n].vector == VECTOR_AC)
            want("rip", r.rip, user(t[n].code));
    }
    r = (struct regs){.rsp = user(isa_user_stack) + 4092, .rflags = FLAG_AC};
    run_user(&r, push_op);
    want_trap(&r, VECTOR_AC, 0, user(push_op));
    r = (struct regs){.rbx = user(data) + 1}; /* no AC */
    run_user(&r, load_op);
    want_done(&r);
    r = (struct regs){.rbx = (u64)data + 1, .rflags = FLAG_AC}; /* not below CPL 3 */
    run_kernel(&r, load_op);
    want_done(&r);
    write_cr0(cr0 & ~CR0_AM);
    r = (struct regs){.rbx = user(data) + 1, .rflags = FLAG_AC};
    run_user(&r, load_op);
    want_done(&r);
    write_cr0(cr0);
    verdict("ac");
}

static void test_selectors(void)
{
    struct regs r;
    set_descriptor(0x60, 0x00cf73000000ffff); /* data, DPL 3, not present */
    set_descriptor(0x68, 0x00cf13000000ffff); /* data, DPL 0, not present */
    static const struct {
        const char *name;
        const u8 *code;
        u16 selector;
        u8 user, vector;
        u16 error;
    } t[] = {
        {"np/ds", load_ds, 0x63, 1, VECTOR_NP, 0x60},
        {"ss/not-present", load_ss, 0x68, 0, VECTOR_SS, 0x68},
        {"gp/ds-beyond-limit", load_ds, 0x4003, 1, VECTOR_GP, 0x4000},
        {"gp/ds-ldt-absent", load_ds, 0x0f, 1, VECTOR_GP, 0x0c},
        {"gp/ds-privilege", load_ds, KERNEL_DS, 1, VECTOR_GP, KERNEL_DS},
        {"gp/ds-tss", load_ds, TSS_SELECTOR, 0, VECTOR_GP, TSS_SELECTOR},
        {"gp/ss-null-at-cpl3", load_ss, 0, 1, VECTOR_GP, 0},
        {"gp/ss-privilege", load_ss, USER_DS, 0, VECTOR_GP, 0x20},
        {"gp/ss-code", load_ss, KERNEL_CS, 0, VECTOR_GP, KERNEL_CS},
        {"ds-null", load_ds, 3, 1, VECTOR_DONE, 0},
        {"ss-null-at-cpl0", load_ss, 0, 0, VECTOR_DONE, 0},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        r = (struct regs){.rax = t[n].selector};
        if (t[n].user)
            run_user(&r, t[n].code);
        else
            run_kernel(&r, t[n].code);
        if (t[n].vector == VECTOR_DONE)
            want_done(&r);
        else
            want_trap(&r, t[n].vector, t[n].error, t[n].user ? user(t[n].code) : (u64)t[n].code);
        verdict(t[n].name);
    }
    __asm__ volatile("mov %0, %%ds" ::"r"(KERNEL_DS));
}

/* Which of two faults comes first (table 6-2 and the instructions' own order). */
static void test_priorities(void)
{
    fault("order/nm-before-operand", fld_bad, IN(.rbx = 1ul << 63), VECTOR_GP, BOTH);
    u64 cr0 = read_cr0();
    write_cr0(cr0 | CR0_TS);
    struct regs r = {.rbx = MISSING};
    run_user(&r, fld_bad);
    want("vector", r.vector, VECTOR_NM);
    write_cr0(cr0);
    verdict("order/nm-before-page-fault");
    fault("order/privilege-before-operand", lldt_mem, IN(.rbx = 1ul << 63), VECTOR_GP, CPL3);
    r = (struct regs){.rbx = MISSING};
    run_user(&r, lldt_mem);
    want_trap(&r, VECTOR_GP, 0, user(lldt_mem));
    verdict("order/privilege-before-page-fault");
    r = (struct regs){.rbx = MISSING};
    run_user(&r, div_mem);
    want_trap(&r, VECTOR_PF, PF_U, user(div_mem));
    want("cr2", r.cr2, MISSING);
    verdict("order/page-fault-before-divide");
    r = (struct regs){.rbx = MISSING + 8};
    run_user(&r, movaps_op);
    want_trap(&r, VECTOR_GP, 0, user(movaps_op));
    verdict("order/movaps-alignment-before-page-fault");
    r = (struct regs){0};
    run_kernel(&r, (void *)MISSING);
    want_trap(&r, VECTOR_PF, PF_I, MISSING);
    want("cr2", r.cr2, MISSING);
    verdict("order/fetch-first");
}

/* ---- gates and frames ---- */

static void test_idt(void)
{
    struct regs r;
    struct table_register small = {0x80 * 16 + 14, (u64)isa_idt};
    struct table_register whole = {sizeof(isa_idt) - 1, (u64)isa_idt};

    r = (struct regs){0};
    run_user(&r, int80); /* its gate has DPL 0 */
    want_trap(&r, VECTOR_GP, 0x80 * 8 + 2, user(int80));
    verdict("idt/int-dpl");
    set_gate(0x80, isa_vectors[0x80], KERNEL_CS, 0xee, 1);
    r = (struct regs){0};
    run_user(&r, int80);
    want_trap(&r, 0x80, 0, user(int80) + 2);
    want("rf", r.rflags & FLAG_RF, 0);
    verdict("idt/int");
    set_gate(0x80, isa_vectors[0x80], KERNEL_CS, 0x6e, 1);
    r = (struct regs){0};
    run_user(&r, int80);
    want_trap(&r, VECTOR_NP, 0x80 * 8 + 2, user(int80));
    set_gate(0x80, isa_vectors[0x80], KERNEL_CS, 0x0e, 1); /* DPL comes before P */
    run_user(&r, int80);
    want_trap(&r, VECTOR_GP, 0x80 * 8 + 2, user(int80));
    verdict("idt/int-not-present");
    __asm__ volatile("lidt %0" ::"m"(small));
    r = (struct regs){0};
    set_gate(0x80, isa_vectors[0x80], KERNEL_CS, 0xee, 1);
    run_user(&r, int80);
    __asm__ volatile("lidt %0" ::"m"(whole));
    want_trap(&r, VECTOR_GP, 0x80 * 8 + 2, user(int80));
    verdict("idt/limit");

    static const struct {
        const char *name;
        u16 selector;
        u8 type, vector;
        u16 error;
    } t[] = {
        {"idt/gate-type", KERNEL_CS, 0xe5, VECTOR_GP, 0x80 * 8 + 2},
        {"idt/gate-16-bit", KERNEL_CS, 0xe6, VECTOR_GP, 0x80 * 8 + 2},
        {"idt/null-selector", 0, 0xee, VECTOR_GP, 0},
        {"idt/32-bit-segment", KERNEL_CS32, 0xee, VECTOR_GP, KERNEL_CS32},
        {"idt/data-segment", KERNEL_DS, 0xee, VECTOR_GP, KERNEL_DS},
        {"idt/beyond-the-gdt", 0x1000, 0xee, VECTOR_GP, 0x1000},
        {"idt/segment-not-present", 0x60, 0xee, VECTOR_NP, 0x60},
    };
    set_descriptor(0x60, 0x00201b0000000000); /* 64-bit code, DPL 0, not present */
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        set_gate(0x80, isa_vectors[0x80], t[n].selector, t[n].type, 1);
        r = (struct regs){0};
        run_user(&r, int80);
        want_trap(&r, t[n].vector, t[n].error, user(int80));
        verdict(t[n].name);
    }
    set_gate(0x80, (void *)(1ul << 63), KERNEL_CS, 0xee, 1);
    r = (struct regs){0};
    run_user(&r, int80);
    want_trap(&r, VECTOR_GP, 0, user(int80));
    verdict("idt/non-canonical-handler");
    set_descriptor(0x60, 0x00209f0000000000); /* 64-bit conforming code: CPL stays (6.12.1.2) */
    set_gate(0x80, isa_vectors[0x80], 0x60, 0xee, 1);
    r = (struct regs){0};
    run_kernel(&r, int80);
    want_trap(&r, 0x80, 0, (u64)int80 + 2);
    verdict("idt/conforming");
    default_gate(0x80);
}

static void test_frames(void)
{
    struct regs r;
    for (unsigned ist = 1; ist < 8; ist++) {
        set_gate(VECTOR_UD, isa_vectors[VECTOR_UD], KERNEL_CS, 0x8e, ist);
        for (unsigned u = 0; u < 2; u++) {
            r = (struct regs){0};
            if (u)
                run_user(&r, ud2_op);
            else
                run_kernel(&r, ud2_op);
            want("frame", r.frame, (u64)isa_ist_stack[ist] + 4096 - 40);
        }
    }
    verdict("frame/ist");
    isa_tss.ist[1] -= 8; /* aligned down before the push, from the TSS as well */
    r = (struct regs){0};
    default_gate(VECTOR_UD);
    run_user(&r, ud2_op);
    want("frame", r.frame, (u64)isa_ist_stack[1] + 4096 - 16 - 40);
    isa_tss.ist[1] += 8;
    verdict("frame/ist-alignment");

    set_gate(VECTOR_UD, isa_vectors[VECTOR_UD], KERNEL_CS, 0x8e, 0);
    set_gate(VECTOR_GP, isa_vectors[VECTOR_GP], KERNEL_CS, 0x8e, 0);
    for (unsigned low = 0; low < 16; low++) {
        u64 rsp = (u64)isa_kernel_stack + 4096 + low;
        r = (struct regs){.rsp = rsp};
        run_kernel(&r, ud2_op);
        want("frame", r.frame, (u64)isa_kernel_stack + 4096 - 40);
        want("rsp", r.rsp, rsp);
        r = (struct regs){.rsp = rsp, .rbx = 1ul << 63};
        run_kernel(&r, load_op); /* with an error code */
        want("frame", r.frame, (u64)isa_kernel_stack + 4096 - 40);
        want("vector", r.vector, VECTOR_GP);
    }
    verdict("frame/alignment");
    r = (struct regs){0};
    run_user(&r, ud2_op);
    want("frame", r.frame, isa_tss.rsp[0] - 40);
    want("handler ss", r.handler_ss, 0); /* null with RPL = CPL (6.14.4) */
    want("ss", r.ss, USER_DS);
    r = (struct regs){0};
    run_kernel(&r, ud2_op);
    want("handler ss", r.handler_ss, KERNEL_DS);
    default_gate(VECTOR_GP);
    verdict("frame/stack-switch");

    u64 all = FLAG_CF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_AC | FLAG_ID;
    set_gate(VECTOR_UD, isa_vectors[VECTOR_UD], KERNEL_CS, 0x8e, 1);
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    r = (struct regs){.rflags = all};
    run_user(&r, ud2_op);
    want("flags", r.rflags, all | FLAG_RF | 2);
    want("handler flags", r.handler_rflags & ((all & ~(u64)FLAG_CF) | FLAG_RF | FLAG_TF | FLAG_NT),
         all & ~(u64)(FLAG_IF | FLAG_CF)); /* the stub has used CF */
    set_gate(VECTOR_UD, isa_vectors[VECTOR_UD], KERNEL_CS, 0x8f, 1);
    r = (struct regs){.rflags = all | FLAG_NT};
    isa_enter(&(struct regs){.rip = (u64)done_op,
                             .cs = KERNEL_CS,
                             .ss = KERNEL_DS,
                             .rflags = 2,
                             .rsp = (u64)isa_kernel_stack + 4096});
    run_user(&r, ud2_op);
    want("trap gate keeps IF", r.handler_rflags & (FLAG_IF | FLAG_NT), FLAG_IF);
    want("nt", r.rflags & FLAG_NT, FLAG_NT);
    default_gate(VECTOR_UD);
    verdict("frame/flags");
}

/* ---- faults in delivery ---- */

enum { GATE_GOOD, GATE_ABSENT, GATE_BAD_TYPE, STACK_MISSING, STACK_BAD };

static void spoil(unsigned vector, unsigned how)
{
    switch (how) {
    case GATE_ABSENT:
        set_gate(vector, isa_vectors[vector], KERNEL_CS, 0x0e, 1);
        break;
    case GATE_BAD_TYPE:
        set_gate(vector, isa_vectors[vector], KERNEL_CS, 0x82, 1);
        break;
    case STACK_MISSING:
        isa_tss.ist[7] = MISSING;
        set_gate(vector, isa_vectors[vector], KERNEL_CS, 0x8e, 7);
        break;
    case STACK_BAD:
        isa_tss.ist[7] = 1ul << 63;
        set_gate(vector, isa_vectors[vector], KERNEL_CS, 0x8e, 7);
        break;
    }
}

static void test_double(void)
{
    static const struct {
        const char *name;
        const u8 *code;
        u8 first, how, vector;
        u16 error;
    } t[] = {
        {"benign-np", ud2_op, VECTOR_UD, GATE_ABSENT, VECTOR_NP, 6 * 8 + 3},
        {"benign-gp", ud2_op, VECTOR_UD, GATE_BAD_TYPE, VECTOR_GP, 6 * 8 + 3},
        {"benign-pf", ud2_op, VECTOR_UD, STACK_MISSING, VECTOR_PF, PF_W},
        {"benign-ss", ud2_op, VECTOR_UD, STACK_BAD, VECTOR_SS, 1},
        {"contributory-np", div_op, VECTOR_DE, GATE_ABSENT, VECTOR_DF, 0},
        {"contributory-gp", div_op, VECTOR_DE, GATE_BAD_TYPE, VECTOR_DF, 0},
        {"contributory-pf", div_op, VECTOR_DE, STACK_MISSING, VECTOR_PF, PF_W},
        {"contributory-ss", div_op, VECTOR_DE, STACK_BAD, VECTOR_DF, 0},
        {"gp-np", load_op, VECTOR_GP, GATE_ABSENT, VECTOR_DF, 0},
        {"page-fault-np", store_op, VECTOR_PF, GATE_ABSENT, VECTOR_DF, 0},
        {"page-fault-gp", store_op, VECTOR_PF, GATE_BAD_TYPE, VECTOR_DF, 0},
        {"page-fault-pf", store_op, VECTOR_PF, STACK_MISSING, VECTOR_DF, 0},
        {"page-fault-ss", store_op, VECTOR_PF, STACK_BAD, VECTOR_DF, 0},
        {"breakpoint-np", int3_op, VECTOR_BP, GATE_ABSENT, VECTOR_GP, 3 * 8 + 2},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        struct regs r = {.rbx = t[n].first == VECTOR_GP ? 1ul << 63 : MISSING + 0x10000};
        spoil(t[n].first, t[n].how);
        run_user(&r, t[n].code);
        want_trap(&r, t[n].vector, t[n].error, user(t[n].code));
        want("cs", r.cs, USER_CS);
        if (t[n].vector == VECTOR_PF)
            want("cr2", r.cr2 & ~0xffful, (MISSING - 8) & ~0xffful);
        default_gate(t[n].first);
        isa_tss.ist[7] = (u64)(isa_ist_stack[7] + 4096);
        verdict2("nested/", t[n].name);
    }
    /* contributory, then #PF, then another #PF: still a double fault */
    struct regs r = {0};
    spoil(VECTOR_DE, STACK_MISSING);
    spoil(VECTOR_PF, GATE_ABSENT);
    run_user(&r, div_op);
    want_trap(&r, VECTOR_DF, 0, user(div_op));
    default_gate(VECTOR_DE);
    default_gate(VECTOR_PF);
    isa_tss.ist[7] = (u64)(isa_ist_stack[7] + 4096);
    verdict("nested/three-steps");
}

/* The stack pointers must lie within the TSS: #TS with its selector (6.12.1). */
static void test_tss(void)
{
    struct regs r = {0};
    set_system_descriptor(TSS_SELECTOR, (u64)&isa_tss, 42, 0x89);
    __asm__ volatile("ltr %w0" ::"r"(TSS_SELECTOR));
    set_gate(VECTOR_TS, isa_vectors[VECTOR_TS], KERNEL_CS, 0x8e, 0);
    run_user(&r, ud2_op); /* IST1 is at 36 to 43 */
    u64 vector = r.vector, error = r.error;
    set_gate(VECTOR_DONE, isa_vectors[VECTOR_DONE], KERNEL_CS, 0xee, 1);
    r = (struct regs){0};
    run_user(&r, done_op);
    set_system_descriptor(TSS_SELECTOR, (u64)&isa_tss, sizeof(isa_tss) - 1, 0x89);
    __asm__ volatile("ltr %w0" ::"r"(TSS_SELECTOR));
    default_gate(VECTOR_TS);
    want("vector", vector, VECTOR_TS);
    want("error", error, TSS_SELECTOR | 1);
    want("vector of INT", r.vector, VECTOR_TS);
    want("error of INT", r.error, TSS_SELECTOR); /* no EXT: a software interrupt */
    verdict("ts/limit");
}

static void triple(const char *how)
{
    if (text_is(how, "triple-no-idt")) {
        struct table_register none = {0, 0};
        __asm__ volatile("lidt %0; mov $0xdeadbeef, %%eax; ud2" ::"m"(none) : "rax");
    } else if (text_is(how, "triple-bad-df")) {
        spoil(VECTOR_DF, GATE_ABSENT);
        spoil(VECTOR_DE, GATE_ABSENT);
        __asm__ volatile("mov $0xfeedface, %%ebx; xor %%ecx, %%ecx; div %%ecx" ::
                             : "rax", "rbx", "rcx", "rdx");
    } else if (text_is(how, "triple-no-stack")) {
        for (unsigned vector = 0; vector < 32; vector++)
            set_gate(vector, isa_vectors[vector], KERNEL_CS, 0x8e, 0);
        __asm__ volatile("mov %0, %%rsp; push %%rax" ::"r"(1ul << 63));
    }
    finish(1); /* alive */
}

void isa_main(const char *command_line)
{
    const char *word = command_line;
    for (const char *at = command_line; *at != '\0'; at++)
        if (*at == ' ')
            word = at + 1; /* the last word: some loaders put the file's name first */
    if (text_is(word, "triple-no-idt") || text_is(word, "triple-bad-df") ||
        text_is(word, "triple-no-stack"))
        triple(word);
    test_simple();
    test_traps();
    test_compatibility();
    test_fpu_controls();
    test_float();
    test_alignment();
    test_selectors();
    test_priorities();
    test_idt();
    test_frames();
    test_double();
    test_tss();
}
