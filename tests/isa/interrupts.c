/* SPDX-License-Identifier: MIT */
/*
 * Interrupts: the local APIC's priorities and the 8259 behind it, what STI and MOV SS hold back,
 * HLT, NMIs until IRET, strings interrupted half-way (SDM 3A 6.7, 6.8, 10.5, 10.8; SDM 2B STI,
 * REP).
 */
#include "isa.h"

#define APIC       0xfee00000ul
#define APIC_ID    0x20
#define APIC_TPR   0x80
#define APIC_PPR   0xa0
#define APIC_EOI   0xb0
#define APIC_SVR   0xf0
#define APIC_ISR   0x100
#define APIC_IRR   0x200
#define APIC_ICR   0x300
#define APIC_ICR2  0x310
#define APIC_TIMER 0x320
#define APIC_LINT0 0x350
#define APIC_COUNT 0x380
#define APIC_DIV   0x3e0
#define ICR_SELF   (1u << 18)
#define ICR_NMI    0x400u
#define LVT_MASKED (1u << 16)
#define BIG        0x2000000ul /* 32 MiB: free memory, 64 MiB of it are written */
#define BIG_SIZE   0x4000000ul

PLACE(sti_1);
PLACE(sti_2);
SNIPPET(sti_op, "sti" AT(sti_1) "nop" AT(sti_2) "nop\nnop");
PLACE(ss_end);
SNIPPET(sti_ss, "sti\nmov %eax, %ss\nnop" AT(ss_end) "nop\nnop");
PLACE(popf_end);
SNIPPET(popf_op, "pushq $0x202\npopfq" AT(popf_end) "nop\nnop");
PLACE(hlt_end);
SNIPPET(hlt_op, "sti\nhlt" AT(hlt_end) "nop\nnop");
PLACE(cr8_end);
SNIPPET(cr8_op, "mov %rax, %cr8" AT(cr8_end) "nop\nnop");
SNIPPET(cr8_read, "mov %cr8, %rax");
SNIPPET(nops, "nop\nnop\nnop\nnop");
SNIPPET(sti_cli, "sti\ncli\nnop\nnop");
SNIPPET(sti_sti, "sti\nsti\nnop\nnop");
SNIPPET(rep_op, "rep stosb");
SNIPPET(spin, "1: dec %rcx\njnz 1b");

static void apic_write(unsigned reg, u32 v)
{
    *(volatile u32 *)(APIC + reg) = v;
}
static u32 apic_read(unsigned reg)
{
    return *(volatile u32 *)(APIC + reg);
}
static void eoi(void)
{
    apic_write(APIC_EOI, 0);
}
static void send_self(u8 vector)
{
    apic_write(APIC_ICR, ICR_SELF | vector);
}
static bool pending(u8 vector)
{
    return apic_read(APIC_IRR + vector / 32 * 16) >> vector % 32 & 1;
}
static bool in_service(u8 vector)
{
    return apic_read(APIC_ISR + vector / 32 * 16) >> vector % 32 & 1;
}

static void want_interrupt(const struct regs *r, u8 vector, const void *rip)
{
    want_trap(r, vector, 0, (u64)rip);
    want("in service", in_service(vector), 1);
    want("still requested", pending(vector), 0);
    eoi();
}

static void test_shadow(void)
{
    static const struct {
        const char *name;
        const u8 *code, *rip;
    } t[] = {{"sti-holds-one", sti_op, sti_2}, {"popf-holds-none", popf_op, popf_end}};
    for (unsigned n = 0; n < 2; n++) {
        struct regs r = {0};
        send_self(0x51);
        run_kernel(&r, t[n].code);
        want_interrupt(&r, 0x51, t[n].rip);
        verdict(t[n].name);
    }
    struct regs r = {.rax = KERNEL_DS};
    send_self(0x51);
    run_kernel(&r, sti_ss); /* of two shadows in a row the second is not promised (SDM 2B STI) */
    if (r.rip == (u64)ss_end - 1)
        r.rip++;
    want_interrupt(&r, 0x51, ss_end);
    verdict("sti-then-mov-ss");
    r = (struct regs){.rflags = FLAG_IF};
    send_self(0x51);
    run_kernel(&r, nops);
    want_interrupt(&r, 0x51, nops); /* IRET holds none */
    verdict("iret-holds-none");
    send_self(0x51);
    r = (struct regs){.rflags = FLAG_IF};
    run_kernel(&r, sti_op); /* IF was set: no shadow, it comes before */
    want_interrupt(&r, 0x51, sti_op);
    verdict("sti-when-set");
    send_self(0x51);
    r = (struct regs){0};
    run_kernel(&r, sti_cli); /* the window never opens */
    want_done(&r);
    want("requested", pending(0x51), 1);
    verdict("sti-cli");
    r = (struct regs){0};
    run_kernel(&r, nops);
    want_done(&r);
    want("requested", pending(0x51), 1);
    verdict("cli-holds");
    r = (struct regs){0};
    run_kernel(&r, sti_sti); /* only the first STI holds */
    want_interrupt(&r, 0x51, sti_sti + 2);
    verdict("sti-sti");
    send_self(0x51);
    r = (struct regs){.rflags = FLAG_IF};
    run_user(&r, nops);
    want_interrupt(&r, 0x51, (void *)user(nops));
    want("cs", r.cs, USER_CS);
    want("if in the handler", r.handler_rflags & FLAG_IF, 0);
    want("rf", r.rflags & FLAG_RF, 0);
    verdict("from-user");
}

static void test_halt(void)
{
    struct regs r = {0};
    send_self(0x51);
    run_kernel(&r, hlt_op); /* STI holds it over HLT, which it then wakes */
    want_interrupt(&r, 0x51, hlt_end);
    verdict("halt/pending");
    apic_write(APIC_DIV, 0xb);
    apic_write(APIC_TIMER, 0x52);
    apic_write(APIC_COUNT, 100000);
    r = (struct regs){0};
    run_kernel(&r, hlt_op);
    want_interrupt(&r, 0x52, hlt_end);
    apic_write(APIC_TIMER, LVT_MASKED | 0x52);
    verdict("halt/timer");
}

static void test_priorities(void)
{
    struct regs r = {.rax = 4};
    write_cr8(5);
    want("tpr", apic_read(APIC_TPR), 0x50);
    send_self(0x51);
    r = (struct regs){.rflags = FLAG_IF};
    run_kernel(&r, nops);
    want_done(&r);
    r = (struct regs){.rflags = FLAG_IF, .rax = 4};
    run_kernel(&r, cr8_op);
    want_interrupt(&r, 0x51, cr8_end);
    verdict("priority/cr8");
    apic_write(APIC_TPR, 0x3f);
    r = (struct regs){0};
    run_kernel(&r, cr8_read);
    want("cr8", r.rax, 3);
    want("ppr", apic_read(APIC_PPR), 0x3f);
    write_cr8(0);
    verdict("priority/tpr-is-cr8");

    send_self(0x51);
    send_self(0x63);
    send_self(0x62);
    r = (struct regs){.rflags = FLAG_IF};
    run_kernel(&r, nops);
    want_trap(&r, 0x63, 0, (u64)nops);
    want("ppr", apic_read(APIC_PPR), 0x60);
    r = (struct regs){.rflags = FLAG_IF}; /* 0x62 is of the same class, 0x51 of a lower one */
    run_kernel(&r, nops);
    want_done(&r);
    send_self(0x71);
    r = (struct regs){.rflags = FLAG_IF};
    run_kernel(&r, nops);
    want_interrupt(&r, 0x71, nops); /* a higher one nests */
    eoi();
    r = (struct regs){.rflags = FLAG_IF};
    run_kernel(&r, nops);
    want_interrupt(&r, 0x62, nops);
    r = (struct regs){.rflags = FLAG_IF};
    run_kernel(&r, nops);
    want_interrupt(&r, 0x51, nops);
    want("ppr", apic_read(APIC_PPR), 0);
    verdict("priority/classes");
}

static void send_nmi(void)
{
    apic_write(APIC_ICR2, apic_read(APIC_ID));
    apic_write(APIC_ICR, ICR_NMI);
}

/* The NMI comes at once, in C code here: so send it from the code under test. */
SNIPPET(nmi_op, "mov %eax, (%rbx)\n.rept 200\nnop\n.endr");

static void test_nmi(void)
{
    struct regs r = {.rax = ICR_NMI, .rbx = APIC + APIC_ICR};
    apic_write(APIC_ICR2, apic_read(APIC_ID));
    run_kernel(&r, nmi_op);
    want("vector", r.vector, VECTOR_NMI);
    verdict("nmi/with-if-clear");
    /* The handler left without IRET: NMIs are blocked until the IRET of the next run. */
    send_nmi();
    send_nmi();
    r = (struct regs){0};
    run_kernel(&r, nops);
    want_trap(&r, VECTOR_NMI, 0, (u64)nops);
    verdict("nmi/until-iret");
    r = (struct regs){0};
    run_kernel(&r, nops); /* two were one */
    want_done(&r);
    verdict("nmi/one-is-latched");
    /* NMI before an interrupt, at one boundary. */
    r = (struct regs){.rax = ICR_NMI, .rbx = APIC + APIC_ICR};
    run_kernel(&r, nmi_op);
    want("vector", r.vector, VECTOR_NMI);
    send_nmi();
    send_self(0x51);
    r = (struct regs){.rflags = FLAG_IF};
    run_kernel(&r, nops);
    want_trap(&r, VECTOR_NMI, 0, (u64)nops);
    r = (struct regs){.rflags = FLAG_IF};
    run_kernel(&r, nops);
    want_interrupt(&r, 0x51, nops);
    verdict("nmi/before-interrupts");
}

/* The 8259 pair through LINT0 as ExtINT; the PIT on line 0. */
static void test_pic(void)
{
    static const u8 init[][2] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1},    {0xa0, 0x11},
                                 {0xa1, 0x28}, {0xa1, 2},    {0xa1, 1}, {0xa1, 0xff}, {0x21, 0xfe}};
    struct regs r = {0};
    for (unsigned n = 0; n < sizeof(init) / 2; n++)
        out8(init[n][0], init[n][1]);
    apic_write(APIC_LINT0, 0x700);
    out8(0x43, 0x30); /* channel 0, mode 0 */
    out8(0x40, 0xff);
    out8(0x40, 0x01);
    run_kernel(&r, hlt_op);
    want_trap(&r, 0x20, 0, (u64)hlt_end);
    out8(0x20, 0x0b);
    want("in service", in8(0x20), 1);
    out8(0x43, 0x30);
    out8(0x40, 0x20);
    out8(0x40, 0x00);
    r = (struct regs){.rflags = FLAG_IF, .rcx = 2000000}; /* no EOI yet: the line stays silent */
    run_kernel(&r, spin);
    want_done(&r);
    out8(0x20, 0x20);
    r = (struct regs){0};
    run_kernel(&r, hlt_op);
    want_trap(&r, 0x20, 0, (u64)hlt_end);
    out8(0x20, 0x20);
    out8(0x21, 0xff);
    apic_write(APIC_LINT0, LVT_MASKED | 0x700);
    verdict("pic");
}

/* REP is interrupted between iterations, with the registers telling how far it is. */
static void test_rep(void)
{
    struct regs r = {.rflags = FLAG_IF, .rdi = BIG, .rcx = BIG_SIZE, .rax = 0x5a};
    unsigned times = 0;
    apic_write(APIC_TIMER, 1u << 17 | 0x53); /* periodic */
    apic_write(APIC_COUNT, 20000);
    run_kernel(&r, rep_op);
    while (r.vector == 0x53) {
        times++;
        want("sum", r.rdi + r.rcx, BIG + BIG_SIZE);
        want("rip", r.rip, (u64)rep_op + (r.rcx == 0 ? 2 : 0));
        eoi();
        if (times == 4)
            apic_write(APIC_TIMER, LVT_MASKED | 0x53);
        isa_enter(&r);
    }
    apic_write(APIC_COUNT, 0);
    want_done(&r);
    want("rcx", r.rcx, 0);
    want("interrupted", times > 0, 1);
    want("first", *(u8 *)BIG, 0x5a);
    want("last", *(u8 *)(BIG + BIG_SIZE - 1), 0x5a);
    verdict("rep-is-interrupted");
}

void isa_main(const char *command_line)
{
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_LINT0, LVT_MASKED | 0x700);
    write_cr8(0);
    test_shadow();
    test_halt();
    test_priorities();
    test_nmi();
    test_pic();
    test_rep();
}
