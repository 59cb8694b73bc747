/* SPDX-License-Identifier: MIT */
/* MOV to and from control and debug registers, LMSW, XSETBV. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "guest.h"
#include "x86/access.h"
#include "x86/segment.h"

#define NONE     (-2) /* does not raise */
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define LONG_CR0 (CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG)

struct cr_case {
    const char *name;
    unsigned cr, cpl, bits;
    uint64_t cr3, cr4; /* before */
    uint64_t value, after;
    int vector, error;
};

static const struct cr_case in_long_mode[] = {
    {"cr0 TS", 0, 0, 64, 0, CR4_PAE, LONG_CR0 | CR0_TS, LONG_CR0 | CR0_TS, NONE, 0},
    {"cr0 ET is fixed, unknown bits dropped", 0, 0, 64, 0, CR4_PAE, (LONG_CR0 & ~CR0_ET) | 1u << 20,
     LONG_CR0, NONE, 0},
    {"cr0 upper half", 0, 0, 64, 0, CR4_PAE, LONG_CR0 | 1ull << 32, 0, VECTOR_GP, 0},
    {"cr0 PG without PE", 0, 0, 64, 0, CR4_PAE, CR0_PG, 0, VECTOR_GP, 0},
    {"cr0 NW without CD", 0, 0, 64, 0, CR4_PAE, LONG_CR0 | CR0_NW, 0, VECTOR_GP, 0},
    {"cr0 NW and CD", 0, 0, 64, 0, CR4_PAE, LONG_CR0 | CR0_NW | CR0_CD, LONG_CR0 | CR0_NW | CR0_CD,
     NONE, 0},
    {"cr0 ring 3", 0, 3, 64, 0, CR4_PAE, LONG_CR0, 0, VECTOR_GP, 0},
    {"cr0 PG off in 64-bit mode", 0, 0, 64, 0, CR4_PAE, CR0_PE, 0, VECTOR_GP, 0},
    {"cr0 PG off with PCIDE", 0, 0, 32, 0, CR4_PAE | CR4_PCIDE, CR0_PE, 0, VECTOR_GP, 0},
    {"cr1", 1, 0, 64, 0, CR4_PAE, 0, 0, VECTOR_UD, -1},
    {"cr5", 5, 3, 64, 0, CR4_PAE, 0, 0, VECTOR_UD, -1},
    {"cr9", 9, 0, 64, 0, CR4_PAE, 0, 0, VECTOR_UD, -1},
    {"cr2", 2, 0, 64, 0, CR4_PAE, 0x123456789abcdef0, 0x123456789abcdef0, NONE, 0},
    {"cr3", 3, 0, 64, 0, CR4_PAE, 0x12345018, 0x12345018, NONE, 0},
    {"cr3 beyond MAXPHYADDR", 3, 0, 64, 0, CR4_PAE, 1ull << 46, 0, VECTOR_GP, 0},
    {"cr3 bit 63 without PCIDE", 3, 0, 64, 0, CR4_PAE, 1ull << 63, 0, VECTOR_GP, 0},
    {"cr3 bit 63 with PCIDE", 3, 0, 64, 0, CR4_PAE | CR4_PCIDE, 1ull << 63 | 0x1005, 0x1005, NONE,
     0},
    {"cr3 bit 62 with PCIDE", 3, 0, 64, 0, CR4_PAE | CR4_PCIDE, 1ull << 62, 0, VECTOR_GP, 0},
    {"cr3 ring 3", 3, 3, 64, 0, CR4_PAE, 0, 0, VECTOR_GP, 0},
    {"cr4 all that CPUID has", 4, 0, 64, 0, CR4_PAE, 0x3707ec, 0x3707ec, NONE, 0},
    {"cr4 VME, which CPUID has not", 4, 0, 64, 0, CR4_PAE, CR4_PAE | CR4_VME, 0, VECTOR_GP, 0},
    {"cr4 VMXE", 4, 0, 64, 0, CR4_PAE, CR4_PAE | 1u << 13, 0, VECTOR_GP, 0},
    {"cr4 PKE", 4, 0, 64, 0, CR4_PAE, CR4_PAE | 1u << 22, 0, VECTOR_GP, 0},
    {"cr4 upper half", 4, 0, 64, 0, CR4_PAE, CR4_PAE | 1ull << 32, 0, VECTOR_GP, 0},
    {"cr4 PAE off", 4, 0, 64, 0, CR4_PAE, CR4_PGE, 0, VECTOR_GP, 0},
    {"cr4 LA57 on", 4, 0, 64, 0, CR4_PAE, CR4_PAE | CR4_LA57, 0, VECTOR_GP, 0},
    {"cr4 LA57 off", 4, 0, 64, 0, CR4_PAE | CR4_LA57, CR4_PAE, 0, VECTOR_GP, 0},
    {"cr4 PCIDE", 4, 0, 64, 0x1000, CR4_PAE, CR4_PAE | CR4_PCIDE, CR4_PAE | CR4_PCIDE, NONE, 0},
    {"cr4 PCIDE with a PCID", 4, 0, 64, 0x1001, CR4_PAE, CR4_PAE | CR4_PCIDE, 0, VECTOR_GP, 0},
    {"cr4 ring 3", 4, 3, 64, 0, CR4_PAE, CR4_PAE, 0, VECTOR_GP, 0},
    {"cr8", 8, 0, 64, 0, CR4_PAE, 0xf, 0xf, NONE, 0},
    {"cr8 reserved", 8, 0, 64, 0, CR4_PAE, 0x10, 0, VECTOR_GP, 0},
};

static void test_cr(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    for (volatile unsigned i = 0; i < COUNT(in_long_mode); i++) {
        const struct cr_case *c = &in_long_mode[i];
        volatile uint64_t got = 0;
        print_message("  %s\n", c->name);
        v->cr0 = LONG_CR0;
        v->cr3 = c->cr3;
        v->cr4 = c->cr4;
        guest_ring(g, c->cpl, c->bits);
        if (c->vector != NONE) {
            GUEST_RAISES(g, x86_write_cr(v, c->cr, c->value), c->vector, c->error);
            continue;
        }
        GUEST_RUNS(g, x86_write_cr(v, c->cr, c->value));
        GUEST_RUNS(g, got = x86_read_cr(v, c->cr));
        assert_true(got == c->after);
    }
    guest_ring(g, 3, 64);
    GUEST_RAISES(g, x86_read_cr(v, 0), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_read_cr(v, 7), VECTOR_UD, -1);
}

/* The way into long mode and out, with each thing that forbids it (SDM 3A 9.8.5). */
static void test_long_mode_switch(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    uint64_t on = v->cr0 | CR0_PG, off = v->cr0;
    v->efer = EFER_LME;
    GUEST_RAISES(g, x86_write_cr(v, 0, on), VECTOR_GP, 0); /* PAE is clear */
    GUEST_RAISES(g, x86_write_cr(v, 4, CR4_PCIDE | CR4_PAE), VECTOR_GP, 0);
    GUEST_RUNS(g, x86_write_cr(v, 4, CR4_PAE | CR4_LA57));
    GUEST_RUNS(g, x86_write_cr(v, 4, CR4_PAE));
    v->seg[SEG_CS].attributes |= ATTR_L;
    GUEST_RAISES(g, x86_write_cr(v, 0, on), VECTOR_GP, 0);
    v->seg[SEG_CS].attributes &= ~ATTR_L;
    v->seg[SEG_TR].attributes = 0x83;
    GUEST_RAISES(g, x86_write_cr(v, 0, on), VECTOR_GP, 0);
    v->seg[SEG_TR].attributes = 0x8b;
    GUEST_RUNS(g, x86_write_cr(v, 0, on));
    assert_int_equal(v->efer, EFER_LME | EFER_LMA);
    assert_true(v->long_mode);
    assert_false(v->code64);
    GUEST_RUNS(g, x86_write_cr(v, 0, off));
    assert_int_equal(v->efer, EFER_LME);
    assert_false(v->long_mode);
}

static void test_pdptes(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_write(g, 0x40020, 0x50001, 8);
    guest_write(g, 0x40028, 0x51000 | 2, 8); /* not present: reserved bits do not count */
    GUEST_RUNS(g, x86_write_cr(v, 3, 0x40020));
    GUEST_RUNS(g, x86_write_cr(v, 4, CR4_PAE));
    GUEST_RUNS(g, x86_write_cr(v, 0, v->cr0 | CR0_PG));
    assert_int_equal(v->pae_pdpte[0], 0x50001);
    assert_false(v->long_mode);
    guest_write(g, 0x40038, 0x50003, 8); /* reserved bit 1 */
    GUEST_RAISES(g, x86_write_cr(v, 3, 0x40020), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_write_cr(v, 4, CR4_PAE | CR4_PGE), VECTOR_GP, 0);
    guest_write(g, 0x40038, 1ull << 46 | 1, 8);
    GUEST_RAISES(g, x86_write_cr(v, 3, 0x40020), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_write_cr(v, 3, 0x80000000), VECTOR_GP, 0); /* not RAM: all ones */
}

/* A translation cached before CR0.WP changed must not serve a write after. */
static void test_write_protect_flushes(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_set_page(g, 0x60000, 1 | 0x60);
    GUEST_RUNS(g, x86_write_cr(v, 0, v->cr0 & ~(uint64_t)CR0_WP));
    GUEST_RUNS(g, x86_store(v, 0x60000, 1, 8));
    GUEST_RUNS(g, x86_write_cr(v, 0, v->cr0 | CR0_WP));
    GUEST_RAISES(g, x86_store(v, 0x60000, 2, 8), VECTOR_PF, PF_PRESENT | PF_WRITE);
}

static void test_cr3_flushes(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    GUEST_RUNS(g, x86_load(v, 0x60000, 8));
    guest_write(g, GUEST_PT + 0x60 * 8, 0, 8);
    GUEST_RUNS(g, x86_load(v, 0x60000, 8)); /* still cached */
    GUEST_RUNS(g, x86_write_cr(v, 4, v->cr4 | CR4_PCIDE));
    guest_write(g, GUEST_PT + 0x60 * 8, 0x60000 | 7, 8);
    GUEST_RUNS(g, x86_load(v, 0x60000, 8));
    guest_write(g, GUEST_PT + 0x60 * 8, 0, 8);
    GUEST_RUNS(g, x86_write_cr(v, 3, v->cr3 | 1ull << 63)); /* keeps what it has */
    GUEST_RUNS(g, x86_load(v, 0x60000, 8));
    GUEST_RUNS(g, x86_write_cr(v, 3, v->cr3));
    GUEST_RAISES(g, x86_load(v, 0x60000, 8), VECTOR_PF, 0);
}

static void test_lmsw(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    uint64_t cr0 = v->cr0;
    GUEST_RUNS(g, x86_lmsw(v, CR0_TS | CR0_MP | CR0_EM | 0xfff0));
    assert_int_equal(v->cr0, cr0 | CR0_TS | CR0_MP | CR0_EM);
    GUEST_RUNS(g, x86_lmsw(v, 0)); /* PE stays */
    assert_int_equal(v->cr0, cr0);
    guest_ring(g, 3, 64);
    GUEST_RAISES(g, x86_lmsw(v, 0), VECTOR_GP, 0);
}

static void test_dr(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    volatile uint64_t got = 0;
    GUEST_RUNS(g, x86_write_dr(v, 0, UINT64_MAX));
    assert_true(v->dr[0] == UINT64_MAX);
    GUEST_RUNS(g, x86_write_dr(v, 6, 0));
    assert_int_equal(v->dr6, DR6_FIXED);
    GUEST_RUNS(g, x86_write_dr(v, 4, 0xffffffff)); /* DR6 by its other name */
    assert_int_equal(v->dr6, 0xffffefff);
    GUEST_RUNS(g, x86_write_dr(v, 7, 0xffffdfff)); /* all but GD */
    assert_int_equal(v->dr7, 0xffff07ff);
    GUEST_RUNS(g, got = x86_read_dr(v, 5));
    assert_int_equal(got, 0xffff07ff);
    GUEST_RAISES(g, x86_write_dr(v, 6, 1ull << 32), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_write_dr(v, 7, 1ull << 32), VECTOR_GP, 0);
    v->cr4 |= CR4_DE;
    GUEST_RAISES(g, x86_write_dr(v, 4, 0), VECTOR_UD, -1);
    GUEST_RAISES(g, x86_read_dr(v, 5), VECTOR_UD, -1);
    GUEST_RAISES(g, x86_read_dr(v, 8), VECTOR_UD, -1);
    v->dr7 |= DR7_GD;
    GUEST_RAISES(g, x86_read_dr(v, 0), VECTOR_DB, -1);
    assert_int_equal(v->fault.dr6, DR6_BD);
    GUEST_RAISES(g, x86_write_dr(v, 7, 0), VECTOR_DB, -1);
    guest_ring(g, 3, 64);
    GUEST_RAISES(g, x86_write_dr(v, 0, 0), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_read_dr(v, 0), VECTOR_GP, 0);
}

static const struct {
    uint64_t value;
    bool legal;
} xcr0[] = {
    {1, true},           {3, true},      {7, true},     {0xe7, true},  {0, false},
    {2, false},          {5, false},     {0xe3, false}, {0x27, false}, {9, false},
    {1ull << 63, false}, {0x207, false}, {0xc7, false},
};

static void test_xsetbv(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    GUEST_RAISES(g, x86_xsetbv(v, 0, 7), VECTOR_UD, -1); /* OSXSAVE is clear */
    v->cr4 |= CR4_OSXSAVE;
    for (volatile unsigned i = 0; i < COUNT(xcr0); i++) {
        if (xcr0[i].legal) {
            GUEST_RUNS(g, x86_xsetbv(v, 0, xcr0[i].value));
            assert_int_equal(v->xcr0, xcr0[i].value);
        } else {
            GUEST_RAISES(g, x86_xsetbv(v, 0, xcr0[i].value), VECTOR_GP, 0);
        }
    }
    GUEST_RAISES(g, x86_xsetbv(v, 1, 7), VECTOR_GP, 0);
    guest_ring(g, 3, 64);
    GUEST_RAISES(g, x86_xsetbv(v, 0, 7), VECTOR_GP, 0);
}

#define LONG(f)      cmocka_unit_test_setup_teardown(f, guest_setup_long, guest_teardown)
#define PROTECTED(f) cmocka_unit_test_setup_teardown(f, guest_setup_protected, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LONG(test_cr),          PROTECTED(test_long_mode_switch),
        PROTECTED(test_pdptes), LONG(test_write_protect_flushes),
        LONG(test_cr3_flushes), LONG(test_lmsw),
        LONG(test_dr),          LONG(test_xsetbv),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
