/* SPDX-License-Identifier: MIT */
/* Random tables, selectors and stacks thrown at every transfer: each call must end with a fault
 * that changed nothing, or in a state that the architecture allows. Also the dump of what comes of
 * it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "guest.h"
#include "x86/segment.h"

#define STEPS 20000

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t next(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static uint16_t any_selector(void)
{
    return (uint16_t)(next() % 8 == 0 ? next() : next() & 0xff);
}

/* Mostly plausible descriptors, of every type, ring and width. */
static void scramble(struct guest *g)
{
    for (unsigned i = 0; i < 24; i++) {
        uint64_t raw = guest_descriptor((uint32_t)next() & 0xffff, (uint32_t)next() & 0xfffff,
                                        (uint32_t)next() & 0xf0ff);
        if (next() % 4)
            raw |= (uint64_t)ATTR_P << 40;
        guest_write(g, GUEST_GDT + 8 * (next() % 32), next() % 3 ? raw : raw & 0xffffffffffff, 8);
    }
    for (unsigned i = 0; i < 64; i++)
        guest_write(g, GUEST_STACK + 8 * i, next() % 2 ? any_selector() : next() & 0x1fffff, 8);
    for (unsigned i = 0; i < 16; i++)
        guest_write(g, GUEST_IDT + 16 * i,
                    (next() & 0xf) | (uint64_t)any_selector() << 16 | (next() & 0x6f07) << 32 |
                        0x8eull << 40,
                    8);
}

static void act(struct vcpu *v, unsigned what)
{
    uint16_t selector = any_selector();
    unsigned size = v->code64 ? 8 : next() % 2 ? 4 : 2;
    uint32_t out;
    switch (what) {
    case 0:
        x86_far_jump(v, selector, next() & 0xffff, size, 0x5007);
        break;
    case 1:
        x86_far_call(v, selector, next() & 0xffff, size, 0x5007);
        break;
    case 2:
        x86_far_return(v, size, (uint16_t)next());
        break;
    case 3:
        x86_iret(v, size, 0x5002);
        break;
    case 4:
        x86_load_segment(v, (enum x86_sreg[]){SEG_ES, SEG_SS, SEG_DS, SEG_GS}[next() % 4],
                         selector);
        break;
    case 5:
        x86_software_interrupt(v, (uint8_t)(next() % 20), 0x5002, next() % 2);
        break;
    case 6:
        x86_lar(v, selector, &out);
        x86_lsl(v, selector, &out);
        x86_verify(v, selector, next() % 2);
        break;
    case 7:
        next() % 2 ? x86_load_ldtr(v, selector) : x86_load_tr(v, selector);
        break;
    default:
        x86_linear(v, (enum x86_sreg)(next() % 6), next(), 8, next() % 2);
        break;
    }
}

/* What holds in every state that is not a real or virtual-8086 one. */
static void check_legal(const struct vcpu *v)
{
    const struct x86_segment *cs = &v->seg[SEG_CS], *ss = &v->seg[SEG_SS];
    assert_in_range(v->cpl, 0, 3);
    assert_int_equal(cs->selector & 3, v->cpl);
    assert_true((cs->attributes & 0x98) == 0x98);
    assert_false(v->long_mode && (cs->attributes & ATTR_L) && (cs->attributes & ATTR_DB));
    assert_int_equal(v->code64, v->long_mode && (cs->attributes & ATTR_L));
    assert_true(v->cpl == 3 ? v->reach == REACH_USER : v->reach != REACH_USER);
    assert_int_equal(ATTR_GET_DPL(ss->attributes), v->cpl);
    assert_true((ss->attributes & ATTR_UNUSABLE) || (ss->attributes & 0x9a) == 0x92);
    assert_true(v->rflags & FLAG_ONE);
    assert_true(v->code64 ? x86_canonical(v, v->rip) : v->rip <= cs->limit);
}

static void random_steps(struct guest *g, unsigned bits)
{
    struct vcpu *v = g->v;
    volatile unsigned faults = 0, done = 0;
    for (volatile unsigned i = 0; i < STEPS; i++) {
        volatile unsigned what = (unsigned)(next() % 9);
        jmp_buf frame;
        v->activity = VCPU_ACTIVE;
        v->seg[SEG_TR] = (struct x86_segment){SEL_TSS, 0x8b, 0xfff, GUEST_TSS};
        v->rflags = FLAG_ONE;
        v->cr0 &= ~(uint64_t)CR0_TS; /* a task switch sets it */
        guest_ring(g, next() % 3 ? 0 : 3, bits);
        v->gpr[RSP] = GUEST_STACK + 8 * (next() % 16);
        scramble(g);
        memcpy(g->before, v, offsetof(struct vcpu, vector));
        v->unwind = &frame;
        if (setjmp(frame) == 0) {
            act(v, what);
            done++;
        } else if (what == 6 || v->activity == VCPU_SHUTDOWN) {
            v->activity = VCPU_ACTIVE;
        } else {
            if (!(v->cr0 & CR0_TS)) /* else it was raised in the new task */
                assert_memory_equal(v, g->before, offsetof(struct vcpu, vector));
            x86_deliver_fault(v);
            faults++;
        }
        if (!(v->cr0 & CR0_TS) && !(v->rflags & FLAG_VM)) /* a random task may be anything */
            check_legal(v);
    }
    assert_true(faults > STEPS / 10 && done > STEPS / 10);
}

static void test_long(void **state)
{
    random_steps(*state, 64);
    random_steps(*state, 32);
}

static void test_protected(void **state)
{
    random_steps(*state, 32);
}

static void test_dump(void **state)
{
    struct guest *g = *state;
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    g->v->gpr[R13] = 0xfeedface;
    g->v->activity = VCPU_SHUTDOWN;
    g->v->rflags = FLAG_ONE | FLAG_ZF | FLAG_IOPL;
    vcpu_dump(g->v, f);
    fclose(f);
    assert_non_null(strstr(text, "64-bit mode, shut down, CPL 0"));
    assert_non_null(strstr(text, "r13  00000000feedface"));
    assert_non_null(strstr(text, "rip  0000000000005000"));
    assert_non_null(strstr(text, "[IOPL3 ZF]"));
    assert_non_null(strstr(text, "tr   0030  base 0000000000012000"));
    free(text);
}

#define LONG(f)      cmocka_unit_test_setup_teardown(f, guest_setup_long, guest_teardown)
#define PROTECTED(f) cmocka_unit_test_setup_teardown(f, guest_setup_protected, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {LONG(test_long), PROTECTED(test_protected), LONG(test_dump)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
