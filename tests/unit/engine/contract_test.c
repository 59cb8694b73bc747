/* SPDX-License-Identifier: MIT */
/* The contract of an engine by short sequences of instructions, for what a boot does not show:
 * traps, counts, faults at edges, code that changes. Every vector has a handler that is a HLT, so a
 * run ends with the vector known by RIP. Every test is run in each way of `ways`. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <cmocka.h>

#include "engine/engine.h"
#include "engine/host/processor.h"
#include "guest.h"
#include "x86/cpuid.h"
#include "x86/msr.h"

#define CODE        0x40000u
#define DATA        0x60000u
#define DEVICE_PAGE 0x1f0000u /* linear; mapped where there is no RAM */

static const struct way {
    const char *name;
    const struct engine_ops *engine;
    uint64_t limit; /* of instructions, for one go */
} ways[] = {
    {"interp", &engine_interp, 10000},
    {"bt", &engine_bt, 0}, /* none: it need not count */
    {"bt-counting", &engine_bt, 10000},
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

static const struct way *way;
static struct guest *g;
static void *engine_vm;
static struct msr_table msrs; /* empty: every MSR is #GP(0) */

static int setup(void **state, int (*guest_setup)(void **), const char *model)
{
    struct error e;
    if (guest_setup(state) != 0)
        return -1;
    g = *state;
    msr_table_init(&msrs);
    g->platform.msrs = &msrs;
    if (cpuid_model_build(&g->cpuid, model, 1000000000, 1, &e) != 0 ||
        way->engine->vm_init(&g->platform, &engine_vm, &e) != 0 ||
        way->engine->vcpu_init(engine_vm, g->v, &e) != 0)
        return -1;
    uint16_t selector = g->v->long_mode ? SEL_CODE64 : SEL_CODE32;
    for (unsigned vector = 0; vector < 0x81; vector++) {
        guest_set_idt(g, (uint8_t)vector, selector, GUEST_HANDLER + 16 * vector, 0xee, 0);
        guest_write(g, GUEST_HANDLER + 16 * vector, 0xf4, 1);
    }
    return 0;
}

static int setup_long(void **state)
{
    return setup(state, guest_setup_long, "max,vendor=intel");
}

static int setup_amd(void **state)
{
    return setup(state, guest_setup_long, "max,vendor=amd");
}

static int setup_protected(void **state)
{
    return setup(state, guest_setup_protected, "max,vendor=intel");
}

static int teardown(void **state)
{
    way->engine->vcpu_fini(g->v);
    guest_write(g, CODE, 0, 1); /* tells the engine, whose vCPU has gone */
    way->engine->vm_fini(engine_vm);
    return guest_teardown(state);
}

static void code_at(uint64_t address, const char *bytes, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        guest_write(g, address + k, (uint8_t)bytes[k], 1);
}

/* cmocka puts its own handlers in place of the engine's. */
static const int signals[] = {SIGSEGV, SIGFPE, SIGILL, SIGBUS};
static struct sigaction engine_handlers[4];

static void restore_handlers(void)
{
    for (unsigned n = 0; n < 4; n++)
        sigaction(signals[n], &engine_handlers[n], NULL);
}

/* Runs until HLT: the vector of the handler, -1 for a HLT elsewhere. */
static int go(void)
{
    struct vcpu *v = g->v;
    uint64_t limit = way->limit != 0 ? v->counters.instructions + way->limit : ENGINE_NO_LIMIT;
    restore_handlers();
    v->activity = VCPU_ACTIVE;
    assert_int_equal(way->engine->run(v, limit), EXIT_HLT);
    uint64_t at = v->rip - 1 - GUEST_HANDLER;
    return at < 16 * 0x81 && at % 16 == 0 ? (int)(at / 16) : -1;
}

static int run_at(uint64_t address, const char *bytes, unsigned n)
{
    code_at(address, bytes, n);
    g->v->rip = address;
    return go();
}

#define RUN(bytes) run_at(CODE, bytes, sizeof(bytes) - 1)

/* A word of the frame of the handler, which has no error code: 0 = RIP, 2 = RFLAGS. */
static uint64_t frame(unsigned n)
{
    return guest_read(g, g->v->gpr[RSP] + 8 * n, 8);
}

/* ---- traps ---- */

static void breakpoint_met_before_a_fault_is_forgotten(void **state)
{
    struct vcpu *v = g->v;
    v->dr[0] = DATA;
    v->dr7 = DR7_FIXED | 3 | 0xf0000; /* 4 bytes, read or write */
    v->gpr[RSI] = DATA;
    v->gpr[RDI] = DATA + 0x1000;
    guest_set_page(g, DATA + 0x1000, 0);
    assert_int_equal(RUN("\xa5\xf4"), VECTOR_PF); /* MOVSD: the load meets it, the store faults */
    assert_int_equal(v->debug_pending, 0);
    guest_set_page(g, DATA + 0x1000, 7);
    assert_int_equal(RUN("\xa5\xf4"), VECTOR_DB);
    assert_int_equal(v->dr6 & 0xf, 1);
}

static void single_step(void **state)
{
    struct vcpu *v = g->v;
    v->rflags |= FLAG_TF;
    assert_int_equal(RUN("\x90\x90\xf4"), VECTOR_DB);
    assert_int_equal(frame(0), CODE + 1);
    v->rflags |= FLAG_TF;
    assert_int_equal(RUN("\xcd\x80"), 0x80); /* INT is no step */
    assert_int_equal(v->debug_pending, 0);
    v->rflags |= FLAG_TF;
    assert_int_equal(run_at(CODE + 0xfff, "\xcd\x80", 2), 0x80); /* nor across a page's end */
    assert_int_equal(v->debug_pending, 0);
}

/* The step of MOV SS is lost, not late: an INT1 after it has only its own #DB. */
static void mov_ss_is_no_step(void **state)
{
    struct vcpu *v = g->v;
    v->gpr[RAX] = SEL_DATA;
    v->rflags |= FLAG_TF;
    assert_int_equal(RUN("\x8e\xd0\x90\xf4"), VECTOR_DB);
    assert_int_equal(frame(0), CODE + 3);
    assert_true(v->dr6 & DR6_BS);
    v->dr6 = DR6_FIXED;
    v->rflags |= FLAG_TF;
    assert_int_equal(RUN("\x8e\xd0\xf1"), VECTOR_DB);
    assert_int_equal(frame(0), CODE + 3);
    assert_int_equal(v->debug_pending, 0);
    assert_false(v->dr6 & DR6_BS);
}

static void int1_takes_what_mov_ss_held(void **state)
{
    struct vcpu *v = g->v;
    guest_write(g, DATA, SEL_DATA, 8);
    v->dr[0] = DATA;
    v->dr7 = DR7_FIXED | 3 | 0x30000; /* one byte, read or write */
    v->gpr[RAX] = DATA;
    assert_int_equal(RUN("\x8e\x10\xf1"), VECTOR_DB); /* MOV SS, [RAX] */
    assert_int_equal(frame(0), CODE + 3);
    assert_int_equal(v->dr6 & 0xf, 1);
    assert_int_equal(v->debug_pending, 0);
}

static void system_call_traps_by_the_new_flag(void **state)
{
    struct vcpu *v = g->v;
    code_at(CODE + 0x100, "\x90\xf4", 2);
    v->lstar = CODE + 0x100;
    v->star = (uint64_t)SEL_CODE64 << 32 | (uint64_t)(SEL_USER_CODE32 & ~3u) << 48;
    v->fmask = FLAG_TF;
    v->rflags |= FLAG_TF;
    assert_int_equal(RUN("\x0f\x05"), -1);
    assert_int_equal(v->rip, CODE + 0x102);
    v->fmask = 0;
    v->rflags |= FLAG_TF;
    assert_int_equal(RUN("\x0f\x05"), VECTOR_DB);
    assert_int_equal(frame(0), CODE + 0x100);
    v->gpr[RCX] = CODE + 0x100;
    v->gpr[R11] = FLAG_TF | FLAG_ONE;
    assert_int_equal(RUN("\x48\x0f\x07"), VECTOR_DB); /* at once, before the NOP */
    assert_int_equal(frame(0), CODE + 0x100);
    assert_int_equal(frame(1), SEL_USER_CODE64 | 3);
}

static void debug_registers_check_the_privilege_first(void **state)
{
    g->v->cr4 |= CR4_DE;
    guest_ring(g, 3, 64);
    assert_int_equal(RUN("\x0f\x23\xe0"), VECTOR_GP); /* MOV DR4, RAX */
    guest_ring(g, 0, 64);
    assert_int_equal(RUN("\x0f\x23\xe0"), VECTOR_UD);
    guest_ring(g, 3, 64);
    assert_int_equal(RUN("\x0f\x23\xc0"), VECTOR_GP);
}

/* ---- counts ---- */

static void every_iteration_counts(void **state)
{
    struct vcpu *v = g->v;
    for (unsigned warm = 0; warm < 2; warm++) { /* slow and fast iterations */
        uint64_t before = v->counters.instructions;
        v->gpr[RDI] = DATA;
        v->gpr[RCX] = 100;
        assert_int_equal(RUN("\xf3\xaa\xf4"), -1);
        if (way->limit != 0 || way->engine->counts_always)
            assert_int_equal(v->counters.instructions - before, 101);
        assert_int_equal(v->gpr[RDI], DATA + 100);
    }
    uint64_t before = v->counters.instructions;
    v->gpr[RDI] = DATA;
    v->gpr[RCX] = 100;
    v->rip = CODE;
    v->activity = VCPU_ACTIVE;
    assert_int_equal(way->engine->run(v, before + 37), EXIT_NONE);
    assert_int_equal(v->counters.instructions, before + 37);
    assert_int_equal(v->gpr[RCX], 63);
}

static void repeat_of_nothing_clears_upper_halves(void **state)
{
    struct vcpu *v = g->v;
    v->gpr[RCX] = v->gpr[RSI] = v->gpr[RDI] = 0xaaaa00000000ull;
    assert_int_equal(RUN("\x67\xf3\xac\xf4"), -1); /* LODSB */
    assert_int_equal(v->gpr[RCX], 0);
    assert_int_equal(v->gpr[RSI], 0xaaaa00000000ull);
    assert_int_equal(RUN("\x67\xf3\xaa\xf4"), -1); /* STOSB */
    assert_int_equal(v->gpr[RSI], 0xaaaa00000000ull);
    assert_int_equal(v->gpr[RDI], 0);
    v->gpr[RDI] = 0xaaaa00000000ull;
    assert_int_equal(RUN("\x67\xf3\xa4\xf4"), -1); /* MOVSB */
    assert_int_equal(v->gpr[RSI] | v->gpr[RDI], 0);
}

/* ---- memory ---- */

static uint64_t device_count;

static uint64_t counting_read(struct vcpu *v, enum bus_space space, uint64_t address, unsigned size)
{
    return ++device_count;
}

static void nothing_written(struct vcpu *v, enum bus_space space, uint64_t address, uint64_t value,
                            unsigned size)
{
}

static void locked_access_to_a_counting_device_ends(void **state)
{
    static const struct gate_ops gate = {.read = counting_read, .write = nothing_written};
    struct vcpu *v = g->v;
    device_count = 0;
    g->platform.gate = &gate;
    guest_write(g, GUEST_PT + (DEVICE_PAGE >> 12) * 8, GUEST_RAM | 3, 8); /* no RAM there */
    v->gpr[RBX] = DEVICE_PAGE;
    assert_int_equal(RUN("\x87\x03\xf0\x01\x03\xf0\x0f\xc1\x03\xf0\x0f\xab\x03\xf4"), -1);
    assert_in_range(v->gpr[RAX], 1, 4); /* XCHG, then LOCK ADD, XADD, BTS: one read each */
}

#define RUN_ALIGNED(bytes) run_aligned(bytes, sizeof(bytes) - 1)

/* At CPL 3 with AC; a whole run ends by INT 80h. */
static int run_aligned(const char *bytes, unsigned n)
{
    code_at(CODE + n, "\xcd\x80", 2);
    guest_ring(g, 3, 64);
    g->v->rflags |= FLAG_AC;
    vcpu_update_mode(g->v);
    return run_at(CODE, bytes, n);
}

static void misaligned_user_accesses_raise_ac(void **state)
{
    struct vcpu *v = g->v;
    v->cr4 |= CR4_OSFXSR;
    v->gpr[RSI] = v->gpr[RDI] = DATA + 1;
    assert_int_equal(RUN_ALIGNED("\x8b\x06"), 0x80); /* CR0.AM is clear */
    v->cr0 |= CR0_AM;
    assert_int_equal(RUN_ALIGNED("\x8b\x06"), VECTOR_AC); /* MOV EAX, [RSI] */
    assert_int_equal(frame(0), 0);
    assert_int_equal(RUN_ALIGNED("\x8a\x06"), 0x80);              /* MOV AL */
    assert_int_equal(RUN_ALIGNED("\x66\x89\x06"), VECTOR_AC);     /* MOV [RSI], AX */
    assert_int_equal(RUN_ALIGNED("\x01\x06"), VECTOR_AC);         /* ADD [RSI], EAX */
    assert_int_equal(RUN_ALIGNED("\xf0\x0f\xb1\x06"), VECTOR_AC); /* LOCK CMPXCHG */
    assert_int_equal(RUN_ALIGNED("\xa5"), VECTOR_AC);             /* MOVSD */
    assert_int_equal(RUN_ALIGNED("\xdd\x06"), VECTOR_AC);         /* FLD m64 */
    assert_int_equal(RUN_ALIGNED("\x0f\x10\x06"),                 /* MOVUPS */
                     host_processor.aligns_vectors ? VECTOR_AC : 0x80);
    assert_int_equal(RUN_ALIGNED("\x0f\x01\x06"), VECTOR_AC); /* SGDT */
    v->gpr[RSI] = DATA + 2;
    assert_int_equal(RUN_ALIGNED("\x0f\x01\x06"), 0x80);
    assert_int_equal(RUN_ALIGNED("\x0f\xb5\x06"), VECTOR_AC);         /* LGS EAX, m16:32 */
    assert_int_equal(RUN_ALIGNED("\x48\x83\xec\x04\x50"), VECTOR_AC); /* SUB RSP, 4; PUSH RAX */
    guest_set_page(g, DATA + 0x1000, 0);
    v->gpr[RSI] = DATA + 0xffe;
    assert_int_equal(RUN_ALIGNED("\x8b\x06"), VECTOR_AC); /* and not #PF, as on Intel's */
    v->gpr[RSI] = DATA + 0x1000;
    assert_int_equal(RUN_ALIGNED("\x8b\x06"), VECTOR_PF);
    assert_int_equal(v->fault.error, PF_USER);
}

/* A far call in ring 3 pushes nothing before it knows that all pushes are aligned. */
static void misaligned_far_call_changes_nothing(void **state)
{
    struct vcpu *v = g->v;
    v->cr0 |= CR0_AM;
    v->gpr[RSI] = DATA;
    guest_write(g, DATA, CODE, 4);
    guest_write(g, DATA + 4, SEL_USER_CODE64 | 3, 2);
    guest_write(g, GUEST_USER - 8, 0, 8);
    assert_int_equal(RUN_ALIGNED("\x48\x83\xec\x02\xff\x1e"), VECTOR_AC); /* CALL [RSI] */
    assert_int_equal(guest_read(g, GUEST_USER - 8, 8), 0);
}

/* ---- code ---- */

static void execution_does_not_leave_the_lower_half(void **state)
{
    struct vcpu *v = g->v;
    guest_write(g, GUEST_PML4 + 255 * 8, (GUEST_PML4 + 0x1000) | 7, 8);
    guest_write(g, GUEST_PML4 + 256 * 8, (GUEST_PML4 + 0x1000) | 7, 8);
    guest_write(g, GUEST_PML4 + 0x1000 + 511 * 8, (GUEST_PML4 + 0x2000) | 7, 8);
    guest_write(g, GUEST_PML4 + 0x2000 + 511 * 8, GUEST_PT | 7, 8);
    guest_write(g, GUEST_PT + 511 * 8, CODE | 7, 8);
    tlb_flush_all(v);
    code_at(CODE + 0xffe, "\x90\x90", 2);
    v->rip = 0x7ffffffffffe;
    assert_int_equal(go(), VECTOR_GP);
    assert_int_equal(frame(1), 0x800000000000);
    code_at(CODE + 0xffe, "\x66\x05", 2); /* ADD AX, imm16: its end is not canonical */
    v->rip = 0x7ffffffffffe;
    assert_int_equal(go(), VECTOR_GP);
    assert_int_equal(frame(1), 0x7ffffffffffe);
}

static void code_segment(uint32_t base, uint32_t limit)
{
    uint32_t attributes = 0x9b | ATTR_DB | (limit == UINT32_MAX ? ATTR_G : 0);
    guest_set_gdt(g, SEL_FREE, guest_descriptor(base, limit & 0xfffff, attributes));
    g->v->seg[SEG_CS] = (struct x86_segment){SEL_FREE, attributes, limit, base};
    vcpu_update_mode(g->v);
}

static void equal_offsets_in_two_segments_differ(void **state)
{
    code_segment(0x10000, UINT32_MAX);
    guest_ring(g, 0, 32);
    code_at(CODE + 0x10000, "\xf4", 1);
    assert_int_equal(RUN("\xea\x00\x00\x04\x00\x60\x00"), -1); /* JMP SEL_FREE:CODE */
    assert_int_equal(g->v->rip, CODE + 1);
    assert_int_equal(g->v->seg[SEG_CS].selector, SEL_FREE);
}

static void a_jump_over_a_page_that_offsets_do_not_show_is_not_linked(void **state)
{
    for (unsigned round = 0; round < 3; round++) {
        code_segment(0x800, UINT32_MAX);
        code_at(CODE + 0x800, "\xe9\xfb\x08\x00\x00", 5); /* to CODE + 0x900 in this segment */
        for (unsigned again = 0; again < 3; again++) {
            code_at(CODE + 0x1100 + round, "\x90\xf4", 2);
            code_segment(0x800, UINT32_MAX);
            g->v->rip = CODE;
            assert_int_equal(go(), -1);
            assert_int_equal(g->v->rip, CODE + 0x902 + round);
        }
    }
}

static void instructions_end_at_the_limit(void **state)
{
    static const char nops[] = "\x90\x90\x90\x90\x90\x90\x90\x90";
    code_at(CODE, nops, 8);
    code_segment(0, CODE + 3);
    g->v->rip = CODE;
    assert_int_equal(go(), VECTOR_GP);
    assert_int_equal(guest_read(g, g->v->gpr[RSP] + 4, 4), CODE + 4);

    guest_ring(g, 0, 32);
    code_at(CODE, "\xb8\x90\x90\x90\x90", 5); /* MOV EAX, imm32 */
    code_segment(0, CODE + 3);
    g->v->rip = CODE;
    assert_int_equal(go(), VECTOR_GP);
    assert_int_equal(guest_read(g, g->v->gpr[RSP] + 4, 4), CODE);

    guest_ring(g, 0, 32);
    code_at(CODE + 0xffe, "\xb8\x90\x90\x90\x90", 5); /* over a page's end */
    code_segment(0, CODE + 0x1001);
    g->v->rip = CODE + 0xffe;
    assert_int_equal(go(), VECTOR_GP);
    assert_int_equal(guest_read(g, g->v->gpr[RSP] + 4, 4), CODE + 0xffe);
    guest_ring(g, 0, 32);
    code_segment(0, CODE + 0x1003);
    code_at(CODE + 0x1003, "\xf4", 1);
    g->v->rip = CODE + 0xffe;
    assert_int_equal(go(), -1);
    assert_int_equal(g->v->gpr[RAX], 0x90909090);
}

static void the_second_page_is_fetched_when_needed(void **state)
{
    guest_set_page(g, CODE + 0x1000, 0);
    assert_int_equal(run_at(CODE + 0xffd, "\x90\x90\xf4", 3), -1);
    assert_int_equal(run_at(CODE + 0xffd, "\xb8\x01\x02", 3), VECTOR_PF);
    assert_int_equal(g->v->cr2, CODE + 0x1000);
    assert_int_equal(frame(0), PF_FETCH);
    assert_int_equal(frame(1), CODE + 0xffd);
}

static void a_store_changes_the_next_instruction(void **state)
{
    /* MOV BYTE [RIP], F4h; NOP, which is a HLT by then */
    assert_int_equal(RUN("\xc6\x05\x00\x00\x00\x00\xf4\x90\x90\x90"), -1);
    assert_int_equal(g->v->rip, CODE + 8);
    /* the same where the instruction that stores ends in the next page */
    assert_int_equal(run_at(CODE + 0xffd, "\xc6\x05\x00\x00\x00\x00\xf4\x90\x90", 9), -1);
    assert_int_equal(g->v->rip, CODE + 0x1005);
}

/* ---- forms ---- */

static void near_branches_ignore_the_operand_size(void **state)
{
    struct vcpu *v = g->v;
    /* 66 CALL rel32 to the RET; HLT; 66 RET */
    assert_int_equal(RUN("\x66\xe8\x01\x00\x00\x00\xf4\x66\xc3"), -1);
    assert_int_equal(v->rip, CODE + 7);
    assert_int_equal(v->gpr[RSP], GUEST_STACK);
    v->gpr[RCX] = 0xffffffff00000001;
    assert_int_equal(RUN("\x67\xe2\xfd\xf4"), -1); /* LOOP by ECX */
    assert_int_equal(v->gpr[RCX], 0);
}

/* There they take 16 bits, and cut RIP to them. */
static void near_branches_of_amd(void **state)
{
    struct vcpu *v = g->v;
    uint64_t to = (CODE + 4 + 0x20) & 0xffff;
    code_at(to, "\x66\xc3", 2); /* RET, by what the CALL has pushed */
    v->gpr[RAX] = 0xffffffff00000000 + to;
    code_at((CODE + 4) & 0xffff, "\x66\xeb\x00\xf4", 4); /* JMP; HLT */
    assert_int_equal(RUN("\x66\xe8\x20\x00\xf4"), -1);   /* CALL */
    assert_int_equal(v->rip, ((CODE + 4) & 0xffff) + 4);
    assert_int_equal(v->gpr[RSP], GUEST_STACK);
    code_at((CODE + 3) & 0xffff, "\x66\xeb\x00\xf4", 4);
    assert_int_equal(RUN("\x66\xff\xd0\xf4"), -1); /* CALL RAX */
    assert_int_equal(v->rip, ((CODE + 3) & 0xffff) + 4);
    v->gpr[RSI] = DATA;
    guest_write(g, DATA, to, 8);
    code_at(to, "\xf4", 1);
    assert_int_equal(RUN("\x66\xff\x26"), -1); /* JMP [RSI] */
    assert_int_equal(v->rip, to + 1);
    code_at(CODE + 0x10, "\xf4", 1);
    assert_int_equal(RUN("\x66\x48\xe9\x09\x00\x00\x00"), -1); /* REX.W JMP */
    assert_int_equal(v->rip, CODE + 0x11);
}

static void returns_take_their_size_from_rex(void **state)
{
    struct vcpu *v = g->v;
    v->star = (uint64_t)(SEL_USER_CODE32 & ~3u) << 48;
    v->gpr[RCX] = 0xff00000000 + CODE + 0x100;
    v->gpr[R11] = FLAG_ONE;
    code_at(CODE + 0x100, "\xcd\x80", 2);
    assert_int_equal(RUN("\x0f\x07"), 0x80); /* SYSRET to compatibility mode */
    assert_int_equal(frame(0), CODE + 0x102);
    assert_int_equal(frame(1), SEL_USER_CODE32);
    guest_ring(g, 0, 64);
    v->sysenter_cs = SEL_CODE64;
    v->gpr[RDX] = 0xff00000000 + CODE + 0x100;
    assert_int_equal(RUN("\x0f\x35"), 0x80); /* SYSEXIT */
    assert_int_equal(frame(0), CODE + 0x102);
    assert_int_equal(frame(1), SEL_USER_CODE32);
    guest_ring(g, 0, 64);
    v->gpr[RSI] = DATA;
    guest_write(g, DATA, CODE + 0x200, 8);
    guest_write(g, DATA + 8, SEL_CONFORMING, 2);
    code_at(CODE + 0x200, "\xf4", 1);
    assert_int_equal(RUN("\x48\xff\x2e"), -1); /* JMP m16:64 */
    assert_int_equal(v->seg[SEG_CS].selector, SEL_CONFORMING);
    assert_int_equal(v->rip, CODE + 0x201);
}

/* The same where SYSEXIT is not there and SYSRET changes no more of SS than the selector. */
static void returns_of_amd(void **state)
{
    struct vcpu *v = g->v;
    v->star = (uint64_t)(SEL_USER_CODE32 & ~3u) << 48;
    v->gpr[RCX] = 0xff00000000 + CODE + 0x100;
    v->gpr[R11] = FLAG_ONE;
    code_at(CODE + 0x100, "\xcd\x80", 2);
    assert_int_equal(RUN("\x0f\x07"), 0x80); /* SYSRET to compatibility mode */
    assert_int_equal(frame(0), CODE + 0x102);
    assert_int_equal(frame(1), SEL_USER_CODE32);
    assert_int_equal(frame(4), (SEL_USER_CODE32 & ~3u) + 8);
    guest_ring(g, 0, 64);
    v->gpr[RCX] = CODE + 0x100;
    v->gpr[R11] = FLAG_ONE;
    assert_int_equal(RUN("\x48\x0f\x07"), 0x80);
    assert_int_equal(frame(1), (SEL_USER_CODE32 & ~3u) + 16 + 3);
    guest_ring(g, 0, 64);
    v->sysenter_cs = SEL_CODE64;
    assert_int_equal(RUN("\x0f\x35"), VECTOR_UD); /* SYSEXIT */
    assert_int_equal(frame(0), CODE);
    guest_ring(g, 0, 64);
    assert_int_equal(RUN("\x0f\x34"), VECTOR_UD); /* SYSENTER */
    assert_int_equal(frame(0), CODE);
    guest_ring(g, 0, 64);
    v->gpr[RCX] = 0x800000000000; /* the fetch at CPL 3 faults */
    assert_int_equal(RUN("\x48\x0f\x07"), VECTOR_GP);
    assert_int_equal(frame(0), 0);
    assert_int_equal(frame(1), 0x800000000000);
}

/* AMD's far pointers in memory have no offset of 64 bits. */
static void far_pointers_of_amd(void **state)
{
    struct vcpu *v = g->v;
    v->gpr[RSI] = DATA;
    guest_write(g, DATA, CODE + 0x200, 4);
    guest_write(g, DATA + 4, SEL_CONFORMING, 2);
    guest_write(g, DATA + 6, UINT32_MAX, 4);
    code_at(CODE + 0x200, "\xf4", 1);
    assert_int_equal(RUN("\x48\xff\x2e"), -1); /* REX.W JMP [RSI] */
    assert_int_equal(v->seg[SEG_CS].selector, SEL_CONFORMING);
    assert_int_equal(v->rip, CODE + 0x201);
    assert_int_equal(RUN("\x48\xff\x1e"), -1); /* REX.W CALL [RSI]: two pushes of 64 bits */
    assert_int_equal(v->gpr[RSP], GUEST_STACK - 16);
    assert_int_equal(guest_read(g, GUEST_STACK - 16, 8), CODE + 3);
    v->gpr[RAX] = UINT64_MAX;
    guest_write(g, DATA + 4, 0, 2);
    assert_int_equal(RUN("\x48\x0f\xb4\x06\xf4"), -1); /* REX.W LFS RAX, [RSI] */
    assert_int_equal(v->gpr[RAX], CODE + 0x200);
}

static void non_canonical_operands_name_their_segment(void **state)
{
    struct vcpu *v = g->v;
    v->gpr[RAX] = v->gpr[RBP] = 0x7ffffffffffc;
    assert_int_equal(RUN("\x48\x8b\x00"), VECTOR_GP);
    assert_int_equal(RUN("\x48\x8b\x45\x00"), VECTOR_SS);
    assert_int_equal(RUN("\x36\x48\x8b\x00"), VECTOR_GP);     /* SS: does not count */
    assert_int_equal(RUN("\x3e\x48\x8b\x45\x00"), VECTOR_SS); /* nor does DS: */
    assert_int_equal(RUN("\x64\x48\x8b\x45\x00"), VECTOR_GP); /* FS: does */
}

static void stack_operands_use_the_right_rsp(void **state)
{
    struct vcpu *v = g->v;
    guest_write(g, GUEST_STACK, 0x1234, 8);
    guest_write(g, GUEST_STACK + 8, 0, 8);
    assert_int_equal(RUN("\x8f\x04\x24\xf4"), -1); /* POP [RSP]: the RSP after it */
    assert_int_equal(guest_read(g, GUEST_STACK + 8, 8), 0x1234);
    v->gpr[RSP] = GUEST_STACK;
    assert_int_equal(RUN("\x54\x5c\xf4"), -1); /* PUSH RSP, POP RSP */
    assert_int_equal(v->gpr[RSP], GUEST_STACK);
    v->gpr[RSP] = GUEST_STACK;
    guest_set_page(g, DATA, 0);
    v->gpr[RAX] = DATA;
    assert_int_equal(RUN("\x8f\x00"), VECTOR_PF); /* POP [RAX] */
    assert_int_equal(guest_read(g, v->gpr[RSP] + 32, 8), GUEST_STACK);
}

static void results_of_32_bits_clear_the_upper_half(void **state)
{
    struct vcpu *v = g->v;
    v->gpr[RAX] = v->gpr[RDX] = UINT64_MAX;
    v->gpr[RCX] = 0;
    v->gpr[RBX] = DATA;
    assert_int_equal(RUN("\xd3\xe0\x0f\xa5\xda\xf4"), -1); /* SHL EAX, CL; SHLD EDX, EBX, CL */
    assert_int_equal(v->gpr[RAX], 0xffffffff);
    assert_int_equal(v->gpr[RDX], 0xffffffff);
    v->gpr[RAX] = -9ull;
    guest_write(g, DATA - 8, 0x80ull << 48, 8);
    assert_int_equal(RUN("\x48\x0f\xab\x03\xf4"), -1); /* BTS [RBX], RAX: bit 55 of DATA - 8 */
    assert_int_equal(guest_read(g, DATA - 8, 8), 0x80ull << 48);
    assert_true(v->rflags & FLAG_CF);
}

static void pop_ss_moves_the_stack_pointer_by_the_old_width(void **state)
{
    struct vcpu *v = g->v;
    guest_set_gdt(g, SEL_FREE, guest_descriptor(0, 0xffff, 0x93)); /* 16-bit */
    v->gpr[RSP] = 0x2fffc;
    guest_write(g, 0x2fffc, SEL_FREE, 4);
    assert_int_equal(RUN("\x17\xf4"), -1);
    assert_int_equal(v->seg[SEG_SS].selector, SEL_FREE);
    assert_int_equal(v->gpr[RSP], 0x30000);
}

static void a_hypercall_answers_by_ring(void **state)
{
    struct vcpu *v = g->v;
    assert_int_equal(RUN("\x0f\x01\xc1\xf4"), -1);
    assert_int_equal(v->gpr[RAX], -1000ull);
    guest_ring(g, 3, 64);
    assert_int_equal(RUN("\x0f\x01\xc1\xcd\x80"), 0x80);
    assert_int_equal(v->gpr[RAX], -1ull);
    guest_ring(g, 3, 32);
    assert_int_equal(RUN("\x0f\x01\xc1\xcd\x80"), 0x80);
    assert_int_equal(v->gpr[RAX], 0xffffffff);
}

/* ---- a hostile guest ---- */

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void) /* xorshift64 (Marsaglia 2003) */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void on_alarm(int number)
{
    vcpu_request(g->v, VCPU_REQUEST_STOP);
}

static void random_registers(void)
{
    struct vcpu *v = g->v;
    for (unsigned r = 0; r < 16; r++)
        v->gpr[r] = next_random() % (next_random() % 8 == 0 ? UINT64_MAX : GUEST_RAM);
    v->gpr[RCX] &= next_random() % 2 ? 0xff : UINT64_MAX;
    guest_ring(g, next_random() % 2 ? 0 : 3, next_random() % 4 && v->long_mode ? 64 : 32);
    v->rflags = FLAG_ONE | (next_random() & (FLAGS_ARITHMETIC | FLAG_DF | FLAG_AC | FLAG_IOPL));
    if (next_random() % 16 == 0)
        v->rflags |= FLAG_TF;
    if (next_random() % 16 == 0)
        v->dr7 |= next_random() & 0xffff00ff;
    v->dr[0] = v->dr[1] = DATA;
    v->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    v->cr0 |= next_random() & CR0_AM;
    vcpu_update_mode(v);
    tlb_flush_all(v);
}

/* Random code, ring and registers: nothing to expect but that the engine survives (under the
 * sanitizers), stays within its limit, and answers a request to stop. */
static void random_code_is_survived(void **state)
{
    struct vcpu *v = g->v;
    struct itimerval each_5_ms = {{0, 5000}, {0, 5000}}, off = {0};
    restore_handlers();
    signal(SIGALRM, on_alarm);
    guest_mark(g);
    setitimer(ITIMER_REAL, &each_5_ms, NULL);
    for (unsigned round = 0; round < 20000; round++) {
        if (round % 8 == 0)
            assert_int_equal(mem_write(&g->mem, GPA(0), g->ram_before, GUEST_RAM), 0);
        memcpy(v, g->before, offsetof(struct vcpu, vector));
        random_registers();
        v->rip = CODE + next_random() % 0x2000;
        for (unsigned n = 0; n < 32; n++)
            guest_write(g, v->rip + 8 * n, next_random(), 8);
        uint64_t limit = v->counters.instructions + 2000;
        enum exit_reason exit = way->engine->run(v, limit);
        assert_true(exit == EXIT_HLT || exit == EXIT_NONE || exit == EXIT_REQUEST ||
                    exit == EXIT_SHUTDOWN);
        assert_true(v->counters.instructions <= limit);
        vcpu_request_clear(v, VCPU_REQUEST_STOP);
    }
    setitimer(ITIMER_REAL, &off, NULL);
}

/* The handlers are installed by the first VM of an engine. */
static void keep_handlers(void)
{
    void *state;
    for (way = ways; way < ways + WAYS; way++)
        if (setup_long(&state) != 0 || teardown(&state) != 0)
            abort();
    for (unsigned n = 0; n < 4; n++)
        sigaction(signals[n], NULL, &engine_handlers[n]);
}

static int run_way(const struct CMUnitTest *tests, size_t count)
{
    struct CMUnitTest *named = calloc(count, sizeof(*named));
    if (named == NULL)
        abort();
    for (size_t n = 0; n < count; n++) {
        char *name;
        named[n] = tests[n];
        if (asprintf(&name, "%s/%s", way->name, tests[n].name) < 0)
            abort();
        named[n].name = name;
    }
    int failed = _cmocka_run_group_tests(way->name, named, count, NULL, NULL);
    for (size_t n = 0; n < count; n++)
        free((char *)(uintptr_t)named[n].name);
    free(named);
    return failed;
}

int main(void)
{
#define LONG(f)      cmocka_unit_test_setup_teardown(f, setup_long, teardown)
#define AMD(f)       cmocka_unit_test_setup_teardown(f, setup_amd, teardown)
#define PROTECTED(f) cmocka_unit_test_setup_teardown(f, setup_protected, teardown)
    const struct CMUnitTest tests[] = {
        LONG(breakpoint_met_before_a_fault_is_forgotten),
        LONG(single_step),
        LONG(mov_ss_is_no_step),
        LONG(int1_takes_what_mov_ss_held),
        LONG(system_call_traps_by_the_new_flag),
        LONG(debug_registers_check_the_privilege_first),
        LONG(every_iteration_counts),
        LONG(repeat_of_nothing_clears_upper_halves),
        LONG(locked_access_to_a_counting_device_ends),
        LONG(misaligned_user_accesses_raise_ac),
        LONG(misaligned_far_call_changes_nothing),
        LONG(execution_does_not_leave_the_lower_half),
        LONG(the_second_page_is_fetched_when_needed),
        LONG(a_store_changes_the_next_instruction),
        LONG(near_branches_ignore_the_operand_size),
        LONG(returns_take_their_size_from_rex),
        AMD(near_branches_of_amd),
        AMD(returns_of_amd),
        AMD(far_pointers_of_amd),
        AMD(system_call_traps_by_the_new_flag),
        LONG(non_canonical_operands_name_their_segment),
        LONG(stack_operands_use_the_right_rsp),
        LONG(results_of_32_bits_clear_the_upper_half),
        LONG(a_hypercall_answers_by_ring),
        PROTECTED(pop_ss_moves_the_stack_pointer_by_the_old_width),
        LONG(random_code_is_survived),
        PROTECTED(random_code_is_survived),
        PROTECTED(equal_offsets_in_two_segments_differ),
        PROTECTED(a_jump_over_a_page_that_offsets_do_not_show_is_not_linked),
        PROTECTED(instructions_end_at_the_limit),
    };
    int failed = 0;
    keep_handlers();
    for (way = ways; way < ways + WAYS; way++)
        failed += run_way(tests, sizeof(tests) / sizeof(tests[0]));
    return failed;
}
