/* SPDX-License-Identifier: MIT */
/* Events at an instruction boundary: order, blocking, shadows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "guest.h"
#include "x86/segment.h"

#define VECTOR 0x40

static int setup(void **state)
{
    if (guest_setup_long(state) != 0)
        return -1;
    struct guest *g = *state;
    for (unsigned i = 0; i < 256; i++)
        guest_set_idt(g, (uint8_t)i, SEL_CODE64, GUEST_HANDLER + i * 16, 0x8e, 0);
    g->v->rflags |= FLAG_IF;
    return 0;
}

static bool at_handler(const struct guest *g, unsigned vector)
{
    return g->v->rip == GUEST_HANDLER + vector * 16;
}

/* All at once come one at a time: trap, NMI, then the interrupt when IF is back. */
static void test_priorities(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    g->interrupt = VECTOR;
    vcpu_request(v, VCPU_REQUEST_INTR | VCPU_REQUEST_NMI);
    v->debug_pending = DR6_BS;
    assert_int_equal(x86_take_events(v), EXIT_NONE);
    assert_true(at_handler(g, VECTOR_DB));
    assert_int_equal(v->dr6, DR6_FIXED | DR6_BS);
    assert_int_equal(v->debug_pending, 0);
    assert_int_equal(x86_take_events(v), EXIT_NONE);
    assert_true(at_handler(g, VECTOR_NMI));
    assert_true(v->nmi_blocked);
    assert_int_equal(vcpu_requests(v) & VCPU_REQUEST_NMI, 0);
    assert_int_equal(x86_take_events(v), EXIT_NONE); /* the gates have cleared IF */
    assert_true(at_handler(g, VECTOR_NMI));
    assert_int_equal(g->acknowledged, 0);
    v->rflags |= FLAG_IF;
    assert_int_equal(x86_take_events(v), EXIT_NONE);
    assert_true(at_handler(g, VECTOR));
    assert_int_equal(v->counters.exits[EXIT_INTERRUPT], 1);
    assert_int_equal(v->counters.exits[EXIT_NMI], 1);
    assert_int_equal(v->counters.exits[EXIT_EXCEPTION], 1);
}

static void test_nmi_blocked_until_iret(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    vcpu_request(v, VCPU_REQUEST_NMI);
    x86_take_events(v);
    vcpu_request(v, VCPU_REQUEST_NMI);
    v->rip = 0x7000;
    x86_take_events(v);
    assert_int_equal(v->rip, 0x7000);
    assert_true(vcpu_requests(v) & VCPU_REQUEST_NMI);
    GUEST_RUNS(g, x86_iret(v, 8, 0x5002));
    assert_false(v->nmi_blocked);
    assert_int_equal(v->rip, 0x5000);
    x86_take_events(v);
    assert_true(at_handler(g, VECTOR_NMI));
}

/* Two that come together are both taken; behind one in service one is latched (SDM 3A 6.7.1). */
static void test_two_nmis(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    vcpu_request_nmi(v);
    vcpu_request_nmi(v);
    x86_take_events(v);
    assert_true(at_handler(g, VECTOR_NMI));
    assert_int_equal(vcpu_requests(v), VCPU_REQUEST_NMI);
    vcpu_request_nmi(v);
    GUEST_RUNS(g, x86_iret(v, 8, 0x5002));
    assert_int_equal(vcpu_requests(v), VCPU_REQUEST_NMI);
    x86_take_events(v);
    assert_true(at_handler(g, VECTOR_NMI));
    assert_int_equal(vcpu_requests(v), 0);
    assert_int_equal(v->counters.exits[EXIT_NMI], 2);
}

static void test_interrupt_flag_and_shadow(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    g->interrupt = VECTOR;
    vcpu_request(v, VCPU_REQUEST_INTR);
    v->rflags &= ~(uint64_t)FLAG_IF;
    x86_take_events(v);
    assert_int_equal(v->rip, 0x5000);
    v->rflags |= FLAG_IF;
    v->interrupt_shadow = true; /* STI */
    x86_take_events(v);
    assert_int_equal(v->rip, 0x5000);
    assert_int_equal(g->acknowledged, 0);
    vcpu_request_nmi(v); /* STI holds it too */
    x86_take_events(v);
    assert_int_equal(v->rip, 0x5000);
    v->interrupt_shadow = false;
    x86_take_events(v);
    assert_true(at_handler(g, VECTOR_NMI));
}

static void test_mov_ss_shadow(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    g->interrupt = VECTOR;
    vcpu_request(v, VCPU_REQUEST_INTR | VCPU_REQUEST_NMI);
    v->interrupt_shadow = v->shadow_blocks_debug = true;
    v->debug_pending = 1;
    x86_take_events(v);
    assert_int_equal(v->rip, 0x5000);
    assert_int_equal(v->debug_pending, 1);
    v->interrupt_shadow = v->shadow_blocks_debug = false;
    x86_take_events(v);
    assert_true(at_handler(g, VECTOR_DB));
    assert_int_equal(v->dr6, DR6_FIXED | 1);
}

static void test_gone_interrupt(void **state)
{
    struct guest *g = *state;
    vcpu_request(g->v, VCPU_REQUEST_INTR);
    assert_int_equal(x86_take_events(g->v), EXIT_NONE);
    assert_int_equal(g->acknowledged, 1);
    assert_int_equal(g->v->rip, 0x5000);
}

static void test_halt(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    v->activity = VCPU_HALTED;
    assert_int_equal(x86_take_events(v), EXIT_HLT);
    g->interrupt = VECTOR;
    vcpu_request(v, VCPU_REQUEST_INTR);
    v->rflags &= ~(uint64_t)FLAG_IF;
    assert_int_equal(x86_take_events(v), EXIT_HLT);
    v->rflags |= FLAG_IF;
    assert_int_equal(x86_take_events(v), EXIT_NONE);
    assert_int_equal(v->activity, VCPU_ACTIVE);
    assert_true(at_handler(g, VECTOR));
}

static void test_stop(void **state)
{
    struct guest *g = *state;
    g->v->debug_pending = DR6_BS;
    vcpu_request(g->v, VCPU_REQUEST_STOP | VCPU_REQUEST_NMI);
    assert_int_equal(x86_take_events(g->v), EXIT_REQUEST);
    assert_int_equal(g->v->rip, 0x5000);
    assert_int_equal(vcpu_requests(g->v), VCPU_REQUEST_STOP | VCPU_REQUEST_NMI);
    assert_int_equal(g->v->debug_pending, DR6_BS);
}

static void test_init_and_sipi(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    v->id = 1;
    g->sipi = 0x9a;
    vcpu_request(v, VCPU_REQUEST_SIPI); /* not waiting: it is lost */
    assert_int_equal(x86_take_events(v), EXIT_NONE);
    assert_int_equal(v->rip, 0x5000);
    assert_int_equal(vcpu_requests(v), 0);
    vcpu_request(v, VCPU_REQUEST_INIT);
    assert_int_equal(x86_take_events(v), EXIT_HLT);
    assert_int_equal(g->inits, 1);
    assert_int_equal(v->activity, VCPU_WAIT_FOR_SIPI);
    vcpu_request(v, VCPU_REQUEST_NMI); /* waits too */
    assert_int_equal(x86_take_events(v), EXIT_HLT);
    vcpu_request(v, VCPU_REQUEST_SIPI);
    assert_int_equal(x86_take_events(v), EXIT_NONE);
    assert_int_equal(v->activity, VCPU_ACTIVE);
    assert_int_equal(v->seg[SEG_CS].selector, 0x9a00);
    assert_int_equal(v->seg[SEG_CS].base, 0x9a000);
    assert_int_equal(v->rip, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_priorities),
        TEST(test_nmi_blocked_until_iret),
        TEST(test_two_nmis),
        TEST(test_mov_ss_shadow),
        TEST(test_interrupt_flag_and_shadow),
        TEST(test_halt),
        TEST(test_gone_interrupt),
        TEST(test_stop),
        TEST(test_init_and_sipi),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
