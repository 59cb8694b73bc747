/* SPDX-License-Identifier: MIT */
/* SYSCALL, SYSRET, SYSENTER, SYSEXIT under both vendors' rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "guest.h"
#include "x86/segment.h"

#define KERNEL_CS 0x08
#define USER_BASE 0x33 /* of SYSRET: its RPL is already there */

static int setup(void **state)
{
    if (guest_setup_long(state) != 0)
        return -1;
    struct vcpu *v = ((struct guest *)*state)->v;
    v->star = (uint64_t)USER_BASE << 48 | (uint64_t)KERNEL_CS << 32 | 0xc0de;
    v->lstar = 0xffffffff81000000;
    v->cstar = 0xffffffff82000000;
    v->fmask = FLAG_IF | FLAG_TF | FLAG_DF;
    v->sysenter_cs = 0x10;
    v->sysenter_eip = 0xffffffff83000000;
    v->sysenter_esp = 0xffff888000001000;
    return 0;
}

static void be_amd(struct guest *g)
{
    g->cpuid.amd = true;
}

static void check_flat(const struct vcpu *v, uint16_t cs, uint16_t ss, unsigned cpl, bool is64)
{
    uint32_t low = 0x93u | cpl << 5;
    assert_int_equal(v->cpl, cpl);
    assert_int_equal(v->code64, is64);
    assert_int_equal(v->seg[SEG_CS].selector, cs);
    assert_int_equal(v->seg[SEG_SS].selector, ss);
    assert_int_equal(v->seg[SEG_CS].attributes, low | 8 | ATTR_G | (is64 ? ATTR_L : ATTR_DB));
    assert_int_equal(v->seg[SEG_SS].attributes, low | ATTR_G | ATTR_DB);
    assert_int_equal(v->seg[SEG_CS].limit, UINT32_MAX);
    assert_int_equal(v->seg[SEG_SS].base, 0);
}

static void test_syscall(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_ring(g, 3, 64);
    v->rflags = FLAG_ONE | FLAG_IF | FLAG_CF | FLAG_DF | FLAG_RF | FLAG_AC;
    GUEST_RUNS(g, x86_syscall(v, 0x5002));
    assert_true(v->rip == 0xffffffff81000000);
    assert_int_equal(v->gpr[RCX], 0x5002);
    assert_int_equal(v->gpr[R11], FLAG_ONE | FLAG_IF | FLAG_CF | FLAG_DF | FLAG_AC);
    assert_int_equal(v->rflags, FLAG_ONE | FLAG_CF | FLAG_AC);
    assert_int_equal(v->gpr[RSP], GUEST_USER);
    check_flat(v, 0x08, 0x10, 0, true);
    v->efer &= ~(uint64_t)EFER_SCE;
    GUEST_RAISES(g, x86_syscall(v, 0x5002), VECTOR_UD, -1);
    GUEST_RAISES(g, x86_sysret(v, 8), VECTOR_UD, -1);
}

static void test_syscall_compatibility(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_ring(g, 3, 32);
    GUEST_RAISES(g, x86_syscall(v, 0x5002), VECTOR_UD, -1);
    be_amd(g);
    GUEST_RUNS(g, x86_syscall(v, 0x5002));
    assert_true(v->rip == 0xffffffff82000000);
    check_flat(v, 0x08, 0x10, 0, true);
}

static void test_sysret(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    v->gpr[RCX] = 0x7fff12345678;
    v->gpr[R11] = UINT64_MAX;
    GUEST_RUNS(g, x86_sysret(v, 8));
    assert_int_equal(v->rip, 0x7fff12345678);
    assert_int_equal(v->rflags, 0x3c7fd7);
    check_flat(v, 0x43, 0x3b, 3, true);
    GUEST_RAISES(g, x86_sysret(v, 8), VECTOR_GP, 0); /* ring 3 */
    guest_ring(g, 0, 64);
    GUEST_RUNS(g, x86_sysret(v, 4));
    assert_int_equal(v->rip, 0x12345678);
    check_flat(v, 0x33, 0x3b, 3, false);
    guest_ring(g, 0, 32);
    GUEST_RAISES(g, x86_sysret(v, 4), VECTOR_UD, -1);
}

/* AMD's changes the selector of SS alone, and gives it the RPL that MSR_STAR says. */
static void test_sysret_amd(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    be_amd(g);
    v->star = 0x30ull << 48;
    v->gpr[RCX] = 0x5000;
    v->gpr[R11] = FLAG_ONE;
    struct x86_segment before = v->seg[SEG_SS];
    GUEST_RUNS(g, x86_sysret(v, 8));
    assert_int_equal(v->cpl, 3);
    assert_int_equal(v->seg[SEG_CS].selector, 0x43);
    assert_int_equal(v->seg[SEG_SS].selector, 0x38);
    assert_int_equal(v->seg[SEG_SS].attributes, before.attributes);
    assert_int_equal(v->seg[SEG_SS].limit, before.limit);
    /* From 32-bit code RFLAGS is not R11's. */
    guest_ring(g, 0, 32);
    v->rflags = FLAG_ONE | FLAG_CF;
    GUEST_RUNS(g, x86_sysret(v, 4));
    assert_int_equal(v->rflags, FLAG_ONE | FLAG_CF | FLAG_IF);
    guest_ring(g, 3, 32);
    GUEST_RAISES(g, x86_sysret(v, 4), VECTOR_GP, 0);
}

static void test_sysret_not_canonical(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    v->gpr[RCX] = 1ull << 47;
    GUEST_RAISES(g, x86_sysret(v, 8), VECTOR_GP, 0);
    be_amd(g); /* there, the fetch at ring 3 faults */
    GUEST_RUNS(g, x86_sysret(v, 8));
    assert_int_equal(v->cpl, 3);
    assert_int_equal(v->rip, 1ull << 47);
}

static void test_sysenter(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_ring(g, 3, 32);
    v->rflags |= FLAG_IF | FLAG_CF;
    GUEST_RUNS(g, x86_sysenter(v));
    assert_true(v->rip == 0xffffffff83000000);
    assert_true(v->gpr[RSP] == 0xffff888000001000);
    assert_int_equal(v->rflags, FLAG_ONE | FLAG_CF);
    check_flat(v, 0x10, 0x18, 0, true);
    v->sysenter_cs = 3;
    GUEST_RAISES(g, x86_sysenter(v), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_sysexit(v, 8), VECTOR_GP, 0);
    be_amd(g);
    GUEST_RAISES(g, x86_sysenter(v), VECTOR_UD, -1);
    GUEST_RAISES(g, x86_sysexit(v, 8), VECTOR_UD, -1);
}

static void test_sysexit(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    v->gpr[RCX] = 0x7fff00001000;
    v->gpr[RDX] = 0x7fff00002000;
    GUEST_RUNS(g, x86_sysexit(v, 8));
    assert_int_equal(v->rip, 0x7fff00002000);
    assert_int_equal(v->gpr[RSP], 0x7fff00001000);
    check_flat(v, 0x33, 0x3b, 3, true);
    GUEST_RAISES(g, x86_sysexit(v, 8), VECTOR_GP, 0); /* ring 3 */
    guest_ring(g, 0, 64);
    GUEST_RUNS(g, x86_sysexit(v, 4));
    assert_int_equal(v->rip, 0x2000);
    assert_int_equal(v->gpr[RSP], 0x1000);
    check_flat(v, 0x23, 0x2b, 3, false);
    guest_ring(g, 0, 64);
    v->gpr[RCX] = 1ull << 47;
    GUEST_RAISES(g, x86_sysexit(v, 8), VECTOR_GP, 0);
    v->gpr[RCX] = 0;
    v->gpr[RDX] = 1ull << 47;
    GUEST_RAISES(g, x86_sysexit(v, 8), VECTOR_GP, 0);
}

static void test_protected(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    v->sysenter_cs = 0x10;
    v->sysenter_eip = 0x123456789;
    v->sysenter_esp = 0x9876;
    GUEST_RUNS(g, x86_sysenter(v));
    assert_int_equal(v->rip, 0x23456789);
    check_flat(v, 0x10, 0x18, 0, false);
    v->efer = EFER_SCE;
    v->star = 0x0033000800005000;
    GUEST_RAISES(g, x86_syscall(v, 0x5002), VECTOR_UD, -1);
    be_amd(g);
    v->rflags |= FLAG_IF;
    GUEST_RUNS(g, x86_syscall(v, 0x5002));
    assert_int_equal(v->rip, 0x5000);
    assert_int_equal(v->rflags, FLAG_ONE);
    check_flat(v, 0x08, 0x10, 0, false);
    GUEST_RUNS(g, x86_sysret(v, 4));
    assert_int_equal(v->rip, 0x5002);
    assert_int_equal(v->rflags, FLAG_ONE | FLAG_IF);
    assert_int_equal(v->cpl, 3);
    assert_int_equal(v->seg[SEG_CS].selector, 0x33);
    assert_int_equal(v->seg[SEG_SS].selector, 0x3b);
    v->cr0 &= ~(uint64_t)CR0_PE;
    GUEST_RAISES(g, x86_sysenter(v), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_syscall(v, 0), VECTOR_UD, -1);
    GUEST_RAISES(g, x86_sysret(v, 4), VECTOR_GP, 0);
    g->cpuid.amd = false;
    GUEST_RAISES(g, x86_sysret(v, 4), VECTOR_UD, -1);
}

#define TEST(f)      cmocka_unit_test_setup_teardown(f, setup, guest_teardown)
#define PROTECTED(f) cmocka_unit_test_setup_teardown(f, guest_setup_protected, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_syscall),    TEST(test_syscall_compatibility), TEST(test_sysret),
        TEST(test_sysenter),   TEST(test_sysret_not_canonical),  TEST(test_sysexit),
        TEST(test_sysret_amd), PROTECTED(test_protected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
