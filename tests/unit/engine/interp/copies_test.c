/* SPDX-License-Identifier: MIT */
/* A guest that executes more different vector instructions than the cache of copies holds: they all
 * run, and the memory for them stays bounded. */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "runner.h"

#define BATCH     512u /* instructions at RUNNER_CODE at a time */
#define HEAP_GROW (8u << 20)

/* Instructions with two registers and any immediate: prefix, opcode. */
static const uint8_t kinds[][2] = {{0x66, 0x70}, {0xf2, 0x70}, {0xf3, 0x70}, {0x66, 0xc6},
                                   {0x3e, 0xc6}, {0x66, 0xc2}, {0x3e, 0xc2}};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))
#define EACH  (8u * 8u * 256u)

/* From the start again: the vector, or -1 when it has halted by itself. */
static int run_code(struct runner *r)
{
    r->v->rip = RUNNER_CODE;
    r->v->activity = VCPU_ACTIVE;
    return runner_vector(r);
}

static void put_batch(struct runner *r, unsigned kind, unsigned first)
{
    uint8_t code[BATCH * 5 + 1];
    for (unsigned i = 0; i < BATCH; i++) {
        unsigned n = first + i;
        const uint8_t bytes[5] = {kinds[kind][0], 0x0f, kinds[kind][1], (uint8_t)(0xc0 | n >> 8),
                                  (uint8_t)n};
        memcpy(code + 5 * i, bytes, 5);
    }
    code[sizeof(code) - 1] = 0xf4; /* hlt */
    runner_put(r, RUNNER_CODE, code, sizeof(code));
}

static void more_instructions_than_the_cache_holds(void **state)
{
    struct runner *r = *state;
    size_t most = 0, half = 0;
    uint64_t before = r->v->counters.instructions_decoded;
    uint64_t retired = r->v->counters.instructions;

    r->v->cr4 |= CR4_OSFXSR;
    for (unsigned kind = 0; kind < KINDS; kind++) {
        for (unsigned first = 0; first < EACH; first += BATCH) {
            put_batch(r, kind, first);
            assert_int_equal(run_code(r), -1);
        }
        struct mallinfo2 m = mallinfo2();
        if (m.uordblks + m.hblkhd > most)
            most = m.uordblks + m.hblkhd;
        if (kind == KINDS / 2)
            half = most;
    }
    assert_true(r->v->counters.instructions_decoded - before > 100000);
    assert_true(r->v->counters.instructions - retired > 100000);
    assert_true(most < half + HEAP_GROW);
}

/* Right results across a clearing: PSHUFD of XMM1 by 1Bh turns the words round. */
static void results_after_a_clearing(void **state)
{
    static const uint8_t code[] = {0x66, 0x0f, 0x70, 0xc1, 0x1b, 0xf4};
    struct runner *r = *state;
    uint64_t *xmm = r->v->vector.zmm;

    xmm[X86_ZMM_QWORDS] = 0x0000000200000001;
    xmm[X86_ZMM_QWORDS + 1] = 0x0000000400000003;
    runner_put(r, RUNNER_CODE, code, sizeof(code));
    assert_int_equal(run_code(r), -1);
    assert_true(xmm[0] == 0x0000000300000004 && xmm[1] == 0x0000000100000002);
}

static void vector_instructions_without_end(void **state)
{
    more_instructions_than_the_cache_holds(state);
    results_after_a_clearing(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(
        vector_instructions_without_end, runner_setup, runner_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
