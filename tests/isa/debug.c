/* SPDX-License-Identifier: MIT */
/* Debug exceptions (SDM 3B chapter 17; 3A 6.8.3): single step, breakpoints, DR6, DR7. */
#include "isa.h"

#define DR6_FIXED 0xffff0ff0ul
#define DR6_BD    (1ul << 13)
#define DR6_BS    (1ul << 14)
#define DR7_GD    (1ul << 13)
#define DR7_L0    1ul

enum { EXECUTE, WRITES, PORTS, ACCESSES };
enum { LENGTH_1 = 0, LENGTH_2 = 1, LENGTH_4 = 3, LENGTH_8 = 2 };

static u8 data[8192] __attribute__((aligned(4096)));

PLACE(nop_1);
PLACE(nop_2);
SNIPPET(nops, "nop" AT(nop_1) "nop" AT(nop_2) "nop");
PLACE(popf_next);
PLACE(popf_after);
SNIPPET(popf_tf, "pushf\norl $0x100, (%rsp)\npopf" AT(popf_next) "nop" AT(popf_after) "nop");
PLACE(ss_after);
PLACE(ss_next);
SNIPPET(mov_ss, "mov %eax, %ss" AT(ss_next) "nop" AT(ss_after) "nop");
PLACE(pop_ss_after);
SNIPPET(load_bp_ss, "mov (%rbx), %ss\nnop" AT(pop_ss_after) "nop");
PLACE(rep_after);
SNIPPET(rep_op, "rep movsb" AT(rep_after) "nop");
SNIPPET(syscall_op, "syscall");
SNIPPET(syscall_target, "nop");
SNIPPET(fault_op, "ud2");
SNIPPET(int_op, "int $0x40");
PLACE(load_after);
SNIPPET(load_op, "mov (%rbx), %eax" AT(load_after) "nop");
PLACE(store_after);
SNIPPET(store_op, "mov %eax, (%rbx)" AT(store_after) "nop");
PLACE(byte_after);
SNIPPET(byte_op, "mov %al, (%rbx)" AT(byte_after) "nop");
PLACE(quad_after);
SNIPPET(quad_op, "mov %rax, (%rbx)" AT(quad_after) "nop");
PLACE(rmw_after);
SNIPPET(rmw_op, "lock incl (%rbx)" AT(rmw_after) "nop");
PLACE(vector_after);
SNIPPET(vector_op, "movups %xmm0, (%rbx)" AT(vector_after) "nop");
PLACE(push_after);
SNIPPET(push_op, "push %rax" AT(push_after) "nop");
PLACE(out_after);
SNIPPET(out_op, "out %al, %dx" AT(out_after) "nop");
SNIPPET(read_dr, "mov %dr0, %rax");
SNIPPET(read_dr6, "mov %dr6, %rax");
SNIPPET(write_dr6, "mov %rax, %dr6");
SNIPPET(write_dr7, "mov %rax, %dr7");
SNIPPET(write_dr0, "mov %rax, %dr0");
SNIPPET(read_dr4, ".byte 0x0f, 0x21, 0xe0"); /* MOV RAX, DR4 */
SNIPPET(read_dr5, ".byte 0x0f, 0x21, 0xe8");
SNIPPET(icebp_op, ".byte 0xf1");
PLACE(jump_target);
SNIPPET(jump_op, "jmp 1f\nnop" AT(jump_target) "1: nop");

static void set_dr6(u64 v)
{
    __asm__ volatile("mov %0, %%dr6" ::"r"(v));
}
static void set_dr7(u64 v)
{
    __asm__ volatile("mov %0, %%dr7" ::"r"(v));
}
static void set_dr(unsigned n, u64 v)
{
    switch (n) {
    case 0:
        __asm__ volatile("mov %0, %%dr0" ::"r"(v));
        break;
    case 1:
        __asm__ volatile("mov %0, %%dr1" ::"r"(v));
        break;
    case 2:
        __asm__ volatile("mov %0, %%dr2" ::"r"(v));
        break;
    default:
        __asm__ volatile("mov %0, %%dr3" ::"r"(v));
        break;
    }
}
static u64 dr7_of(unsigned n, unsigned kind, unsigned length)
{
    return DR7_L0 << 2 * n | (u64)(kind | length << 2) << (16 + 4 * n);
}

/* DR7 is armed for the run only: until the handler is in. */
static void run_armed(struct regs *r, const u8 *code, u64 dr7)
{
    set_dr6(0);
    set_dr7(dr7);
    run_kernel(r, code);
    set_dr7(0);
}

static void want_debug(const struct regs *r, u64 bits, const void *rip)
{
    want_trap(r, VECTOR_DB, 0, (u64)rip);
    want("dr6", r->dr6, DR6_FIXED | bits);
}

static void test_step(void)
{
    struct regs r = {.rflags = FLAG_TF};
    run_armed(&r, nops, 0);
    want_debug(&r, DR6_BS, nop_1);
    want("tf is pushed", r.rflags & (FLAG_TF | FLAG_RF), FLAG_TF);
    want("tf in the handler", r.handler_rflags & FLAG_TF, 0);
    verdict("step/after-iret");
    r = (struct regs){.rflags = FLAG_TF};
    set_dr6(0);
    run_user(&r, nops);
    want_debug(&r, DR6_BS, (void *)user(nop_1));
    verdict("step/user");
    r = (struct regs){0};
    run_armed(&r, popf_tf, 0);
    want_debug(&r, DR6_BS, popf_after);
    verdict("step/after-popf");
    r = (struct regs){.rflags = FLAG_TF};
    run_armed(&r, jump_op, 0);
    want_debug(&r, DR6_BS, jump_target);
    verdict("step/jump");
    r = (struct regs){.rflags = FLAG_TF, .rax = KERNEL_DS};
    run_armed(&r, mov_ss, 0);
    want_debug(&r, DR6_BS, ss_after);
    verdict("step/mov-ss-holds");
    r = (struct regs){.rflags = FLAG_TF};
    run_armed(&r, fault_op, 0);
    want_trap(&r, VECTOR_UD, 0, (u64)fault_op);
    want("dr6", r.dr6, DR6_FIXED);
    verdict("step/fault-comes-first");
    r = (struct regs){.rflags = FLAG_TF};
    run_armed(&r, int_op, 0);
    want("vector", r.vector, VECTOR_DONE);
    want("dr6", r.dr6, DR6_FIXED);
    want("tf is pushed", r.rflags & FLAG_TF, FLAG_TF);
    verdict("step/int-clears-tf");
    r = (struct regs){.rflags = FLAG_TF};
    run_armed(&r, icebp_op, 0);
    want_debug(&r, 0, icebp_op + 1);
    verdict("step/icebp");
}

static void test_step_rep(void)
{
    struct regs r = {.rflags = FLAG_TF, .rcx = 3, .rsi = (u64)data, .rdi = (u64)data + 64};
    for (u64 left = 2; left + 1 > 0; left--) {
        set_dr6(0);
        if (left == 2)
            run_kernel(&r, rep_op);
        else
            isa_enter(&r);
        want_debug(&r, DR6_BS, left ? rep_op : rep_after);
        want("rcx", r.rcx, left);
        want("rdi", r.rdi, (u64)data + 64 + 3 - left);
    }
    verdict("step/each-iteration");
}

static void test_step_syscall(void)
{
    write_msr(MSR_STAR, (u64)0x18 << 48 | (u64)KERNEL_CS << 32);
    write_msr(MSR_LSTAR, (u64)syscall_target);
    write_msr(MSR_FMASK, FLAG_TF);
    struct regs r = {.rflags = FLAG_TF};
    set_dr6(0);
    run_user(&r, syscall_op);
    want("vector", r.vector, VECTOR_DONE);
    want("cs", r.cs, KERNEL_CS);
    want("r11", r.r11 & FLAG_TF, FLAG_TF);
    want("dr6", r.dr6, DR6_FIXED);
    verdict("step/syscall-with-fmask");
}

static void test_instruction(void)
{
    struct regs r;
    for (unsigned n = 0; n < 4; n++) {
        r = (struct regs){0};
        set_dr(n, (u64)nop_1);
        run_armed(&r, nops, dr7_of(n, EXECUTE, LENGTH_1));
        want_debug(&r, 1ul << n, nop_1);
        want("rf", r.rflags & FLAG_RF, 0); /* SDM 3A 6.8.3: not for an instruction breakpoint */
        r.rflags |= FLAG_RF;
        set_dr6(0);
        set_dr7(dr7_of(n, EXECUTE, LENGTH_1));
        isa_enter(&r); /* RF lets it run once */
        set_dr7(0);
        want_done(&r);
        set_dr(n, (u64)nop_2);
        r = (struct regs){.rflags = FLAG_RF}; /* for one instruction only */
        run_armed(&r, nops, dr7_of(n, EXECUTE, LENGTH_1));
        want_debug(&r, 1ul << n, nop_2);
        r = (struct regs){0};
        run_armed(&r, nops, 0); /* not enabled */
        want_done(&r);
        set_dr(n, 0);
    }
    verdict("instruction/dr0-to-dr3");
    set_dr(0, (u64)fault_op); /* before any other fault of the instruction */
    r = (struct regs){0};
    run_armed(&r, fault_op, dr7_of(0, EXECUTE, LENGTH_1));
    want_debug(&r, 1, fault_op);
    verdict("instruction/before-faults");
    set_dr(0, (u64)nop_1); /* a step and a breakpoint at one boundary are one #DB of both, or two */
    r = (struct regs){.rflags = FLAG_TF};
    run_armed(&r, nops, dr7_of(0, EXECUTE, LENGTH_1));
    want_trap(&r, VECTOR_DB, 0, (u64)nop_1);
    want("bs", r.dr6 & DR6_BS, DR6_BS);
    verdict("instruction/with-step");
    set_dr(0, (u64)ss_next); /* held by MOV SS (SDM 3A 6.8.3), and lost */
    r = (struct regs){.rax = KERNEL_DS};
    run_armed(&r, mov_ss, dr7_of(0, EXECUTE, LENGTH_1));
    want_done(&r);
    verdict("instruction/after-mov-ss");
    set_dr(0, 0);
}

static void test_data(void)
{
    static const struct {
        const u8 *code, *after;
        u8 size;
        bool write;
    } ops[] = {{load_op, load_after, 4, 0}, {store_op, store_after, 4, 1},
               {byte_op, byte_after, 1, 1}, {quad_op, quad_after, 8, 1},
               {rmw_op, rmw_after, 4, 1},   {vector_op, vector_after, 16, 1}};
    static const struct {
        const char *name;
        u8 length, bytes;
    } lengths[] = {{"1", LENGTH_1, 1}, {"2", LENGTH_2, 2}, {"4", LENGTH_4, 4}, {"8", LENGTH_8, 8}};
    for (unsigned l = 0; l < 4; l++) {
        for (unsigned o = 0; o < sizeof(ops) / sizeof(ops[0]); o++) {
            for (unsigned kind = WRITES; kind <= ACCESSES; kind += 2) {
                for (unsigned offset = 0; offset < 40; offset++) {
                    u64 watched = (u64)data + 4080; /* accesses beyond 4096 cross the page */
                    u64 at = watched - 20 + offset;
                    struct regs r = {.rbx = at};
                    set_dr(1, watched);
                    run_armed(&r, ops[o].code, dr7_of(1, kind, lengths[l].length));
                    bool hit = at < watched + lengths[l].bytes && watched < at + ops[o].size &&
                               (kind == ACCESSES || ops[o].write);
                    if (hit)
                        want_debug(&r, 2, ops[o].after);
                    else
                        want_done(&r);
                }
            }
        }
        verdict2("data/length-", lengths[l].name);
    }
    for (unsigned offset = 0; offset < 16; offset++) {
        struct regs r = {.rbx = (u64)data + 4096 - 16 + offset};
        set_dr(2, (u64)data + 4096);
        run_armed(&r, quad_op, dr7_of(2, WRITES, LENGTH_1));
        if (offset > 8)
            want_debug(&r, 4, quad_after);
        else
            want_done(&r);
    }
    verdict("data/across-pages");
}

static void test_data_more(void)
{
    struct regs r = {.rsp = (u64)data + 512};
    set_dr(0, (u64)data + 504);
    run_armed(&r, push_op, dr7_of(0, WRITES, LENGTH_8));
    want_debug(&r, 1, push_after);
    verdict("data/push");

    set_dr(3, (u64)data + 66);
    r = (struct regs){.rcx = 6, .rsi = (u64)data + 1024, .rdi = (u64)data + 64};
    run_armed(&r, rep_op, dr7_of(3, WRITES, LENGTH_1));
    want_debug(&r, 8, rep_op); /* after the iteration that wrote */
    want("rcx", r.rcx, 3);
    verdict("data/rep-movs");

    *(u16 *)data = KERNEL_DS;
    set_dr(0, (u64)data);
    r = (struct regs){.rbx = (u64)data};
    run_armed(&r, load_bp_ss, dr7_of(0, ACCESSES, LENGTH_2));
    want_debug(&r, 1, pop_ss_after); /* held over the instruction after MOV SS */
    verdict("data/mov-ss-holds");

    set_dr(0, (u64)data);
    set_dr(1, (u64)data + 2);
    r = (struct regs){.rbx = (u64)data, .rflags = FLAG_TF};
    run_armed(&r, store_op, dr7_of(0, WRITES, LENGTH_1) | dr7_of(1, WRITES, LENGTH_1));
    want_debug(&r, 3 | DR6_BS, store_after);
    verdict("data/all-in-one");

    r = (struct regs){.rbx = (u64)data}; /* a global enable does as well */
    run_armed(&r, store_op, dr7_of(0, WRITES, LENGTH_4) << 0 | 2);
    want_debug(&r, 1, store_after);
    verdict("data/global-enable");
    set_dr(0, 0);
    set_dr(1, 0);

    write_cr4(read_cr4() | CR4_DE);
    set_dr(0, 0x80);
    r = (struct regs){.rdx = 0x80};
    run_armed(&r, out_op, dr7_of(0, PORTS, LENGTH_1));
    want_debug(&r, 1, out_after);
    r = (struct regs){.rdx = 0x81};
    run_armed(&r, out_op, dr7_of(0, PORTS, LENGTH_1));
    want_done(&r);
    write_cr4(read_cr4() & ~CR4_DE);
    set_dr(0, 0);
    verdict("port");
}

static void test_registers(void)
{
    struct regs r = {0};
    set_dr6(0);
    set_dr7(DR7_GD);
    run_kernel(&r, read_dr);
    want_debug(&r, DR6_BD, read_dr);
    u64 dr7;
    __asm__ volatile("mov %%dr7, %0" : "=r"(dr7));
    want("dr7", dr7, 0x400); /* GD is cleared for the handler */
    verdict("general-detect");

    static const struct {
        const char *name;
        const u8 *code;
        u64 value;
        u8 vector;
    } t[] = {
        {"dr6-high", write_dr6, 1ul << 32, VECTOR_GP},
        {"dr7-high", write_dr7, 1ul << 32, VECTOR_GP},
        {"dr6-low", write_dr6, 0xffffffff, VECTOR_DONE},
        {"dr0-any", write_dr0, ~0ul, VECTOR_DONE},
    };
    for (unsigned n = 0; n < 4; n++) {
        r = (struct regs){.rax = t[n].value};
        run_kernel(&r, t[n].code);
        if (t[n].vector == VECTOR_DONE)
            want_done(&r);
        else
            want_trap(&r, t[n].vector, 0, (u64)t[n].code);
        r = (struct regs){.rax = t[n].value};
        run_user(&r, t[n].code);
        want_trap(&r, VECTOR_GP, 0, user(t[n].code));
        verdict2("register/", t[n].name);
    }
    set_dr6(0);
    r = (struct regs){0};
    run_kernel(&r, read_dr6);
    want("dr6", r.rax, DR6_FIXED);
    r = (struct regs){0};
    run_kernel(&r, read_dr4); /* an alias of DR6 */
    want("dr4", r.rax, DR6_FIXED);
    r = (struct regs){0};
    run_kernel(&r, read_dr5);
    want("dr5", r.rax, 0x400);
    write_cr4(read_cr4() | CR4_DE);
    r = (struct regs){0};
    run_kernel(&r, read_dr4);
    want_trap(&r, VECTOR_UD, 0, (u64)read_dr4);
    write_cr4(read_cr4() & ~CR4_DE);
    verdict("register/dr4-dr5");
    set_dr(0, 0);
    /* DR6 keeps what it had, but for B0 to B3 of an instruction or data breakpoint. */
    set_dr6(DR6_BS);
    set_dr(0, (u64)nop_1);
    set_dr7(dr7_of(0, EXECUTE, LENGTH_1));
    r = (struct regs){0};
    run_kernel(&r, nops);
    set_dr7(0);
    want("dr6", r.dr6, DR6_FIXED | DR6_BS | 1);
    verdict("register/dr6-is-sticky");
}

void isa_main(const char *command_line)
{
    test_step();
    test_step_rep();
    test_step_syscall();
    test_instruction();
    test_data();
    test_data_more();
    test_registers();
}
