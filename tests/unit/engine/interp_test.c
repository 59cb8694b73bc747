/* SPDX-License-Identifier: MIT */
/* The reference engine by short sequences of instructions, for what a boot does not show: traps,
 * counts, faults at edges, code that changes. Every vector has a handler that is a HLT, so a run
 * ends with the vector known by RIP. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/engine.h"
#include "guest.h"
#include "x86/cpuid.h"

#define CODE        0x40000u
#define DATA        0x60000u
#define DEVICE_PAGE 0x1f0000u /* linear; mapped where there is no RAM */

static struct guest *g;
static void *engine_vm;

static int setup(void **state, int (*guest_setup)(void **))
{
    struct error e;
    if (guest_setup(state) != 0)
        return -1;
    g = *state;
    if (cpuid_model_build(&g->cpuid, "max", 1000000000, 1, &e) != 0 ||
        engine_interp.vm_init(&g->platform, &engine_vm, &e) != 0 ||
        engine_interp.vcpu_init(engine_vm, g->v, &e) != 0)
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
    return setup(state, guest_setup_long);
}

static int teardown(void **state)
{
    engine_interp.vcpu_fini(g->v);
    engine_interp.vm_fini(engine_vm);
    return guest_teardown(state);
}

static void code_at(uint64_t address, const char *bytes, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        guest_write(g, address + k, (uint8_t)bytes[k], 1);
}

/* Runs until HLT, at most 10000 instructions: the vector of the handler, -1 for a HLT elsewhere. */
static int go(void)
{
    struct vcpu *v = g->v;
    v->activity = VCPU_ACTIVE;
    assert_int_equal(engine_interp.run(v, v->counters.instructions + 10000), EXIT_HLT);
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

static void debug_registers_check_the_number_first(void **state)
{
    g->v->cr4 |= CR4_DE;
    guest_ring(g, 3, 64);
    assert_int_equal(RUN("\x0f\x23\xe0"), VECTOR_UD); /* MOV DR4, RAX */
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
        assert_int_equal(v->counters.instructions - before, 101);
        assert_int_equal(v->gpr[RDI], DATA + 100);
    }
    uint64_t before = v->counters.instructions;
    v->gpr[RDI] = DATA;
    v->gpr[RCX] = 100;
    v->rip = CODE;
    v->activity = VCPU_ACTIVE;
    assert_int_equal(engine_interp.run(v, before + 37), EXIT_NONE);
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

static uint64_t counting_read(struct vcpu *v, enum bus_space space, uint64_t address, unsigned size)
{
    static uint64_t count;
    return ++count;
}

static void nothing_written(struct vcpu *v, enum bus_space space, uint64_t address, uint64_t value,
                            unsigned size)
{
}

static void locked_access_to_a_counting_device_ends(void **state)
{
    static const struct gate_ops gate = {.read = counting_read, .write = nothing_written};
    struct vcpu *v = g->v;
    g->platform.gate = &gate;
    guest_write(g, GUEST_PT + (DEVICE_PAGE >> 12) * 8, GUEST_RAM | 3, 8); /* no RAM there */
    v->gpr[RBX] = DEVICE_PAGE;
    assert_int_equal(RUN("\x87\x03\xf0\x01\x03\xf0\x0f\xc1\x03\xf0\x0f\xab\x03\xf4"), -1);
    assert_in_range(v->gpr[RAX], 1, 4); /* XCHG, then LOCK ADD, XADD, BTS: one read each */
}

int main(void)
{
#define LONG(f) cmocka_unit_test_setup_teardown(f, setup_long, teardown)
    const struct CMUnitTest tests[] = {
        LONG(breakpoint_met_before_a_fault_is_forgotten),
        LONG(single_step),
        LONG(system_call_traps_by_the_new_flag),
        LONG(debug_registers_check_the_number_first),
        LONG(every_iteration_counts),
        LONG(repeat_of_nothing_clears_upper_halves),
        LONG(locked_access_to_a_counting_device_ends),
    };
    return cmocka_run_group_tests_name("interp", tests, NULL, NULL);
}
