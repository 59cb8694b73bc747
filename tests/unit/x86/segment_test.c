/* SPDX-License-Identifier: MIT */
/* Segment loads, LDTR, TR, LAR and friends, linear addresses, the I/O bitmap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "guest.h"
#include "x86/segment.h"

#define DPL(n) ((uint32_t)(n) << 5)
#define NONE   (-2) /* does not raise */

struct load_case {
    const char *name;
    enum x86_sreg sreg;
    unsigned cpl, bits;
    uint16_t selector;
    uint32_t attributes; /* of the descriptor in SEL_FREE */
    int vector;          /* NONE, or what is raised */
    int error;
};

static const struct load_case loads[] = {
    {"ds data", SEG_DS, 0, 64, SEL_FREE, 0x93, NONE, 0},
    {"ds not accessed yet", SEG_DS, 0, 64, SEL_FREE, 0x92, NONE, 0},
    {"ds readable code", SEG_DS, 0, 64, SEL_FREE, 0x9a, NONE, 0},
    {"ds null", SEG_DS, 3, 64, 3, 0, NONE, 0},
    {"ds execute-only", SEG_DS, 0, 64, SEL_FREE, 0x98, VECTOR_GP, SEL_FREE},
    {"ds system", SEG_DS, 0, 64, SEL_FREE, 0x82, VECTOR_GP, SEL_FREE},
    {"ds CPL > DPL", SEG_DS, 3, 64, SEL_FREE, 0x93, VECTOR_GP, SEL_FREE},
    {"ds RPL > DPL", SEG_DS, 0, 64, SEL_FREE | 3, 0x93, VECTOR_GP, SEL_FREE},
    {"ds conforming code of ring 0 from ring 3", SEG_DS, 3, 64, SEL_FREE | 3, 0x9e, NONE, 0},
    {"ds not present", SEG_DS, 0, 64, SEL_FREE, 0x13, VECTOR_NP, SEL_FREE},
    {"ds beyond the GDT", SEG_DS, 0, 64, 0x100, 0, VECTOR_GP, 0x100},
    {"ds beyond the LDT", SEG_DS, 0, 64, 0x104, 0, VECTOR_GP, 0x104},
    {"fs user data", SEG_FS, 3, 64, SEL_FREE | 3, 0xf3, NONE, 0},
    {"ss data", SEG_SS, 0, 64, SEL_FREE, 0x93, NONE, 0},
    {"ss null ring 0", SEG_SS, 0, 64, 0, 0, NONE, 0},
    {"ss null ring 0 RPL 1", SEG_SS, 0, 64, 1, 0, VECTOR_GP, 0},
    {"ss null ring 3", SEG_SS, 3, 64, 3, 0, VECTOR_GP, 0},
    {"ss null in compatibility mode", SEG_SS, 0, 32, 0, 0, VECTOR_GP, 0},
    {"ss RPL", SEG_SS, 0, 64, SEL_FREE | 1, 0x93, VECTOR_GP, SEL_FREE},
    {"ss DPL", SEG_SS, 0, 64, SEL_FREE, 0xf3, VECTOR_GP, SEL_FREE},
    {"ss read-only", SEG_SS, 0, 64, SEL_FREE, 0x91, VECTOR_GP, SEL_FREE},
    {"ss code", SEG_SS, 0, 64, SEL_FREE, 0x9b, VECTOR_GP, SEL_FREE},
    {"ss not present", SEG_SS, 0, 64, SEL_FREE, 0x13, VECTOR_SS, SEL_FREE},
    {"ss beyond", SEG_SS, 0, 64, 0x100, 0, VECTOR_GP, 0x100},
};

static void check_loaded(struct guest *g, const struct load_case *c)
{
    const struct x86_segment *s = &g->v->seg[c->sreg];
    assert_int_equal(s->selector, c->selector);
    if ((c->selector & 0xfffc) == 0) {
        assert_true(s->attributes & ATTR_UNUSABLE);
        return;
    }
    assert_int_equal(s->attributes, c->attributes | ATTR_G | 1);
    assert_int_equal(s->base, 0x12345678);
    assert_int_equal(s->limit, 0xabcdefff);
    assert_true(guest_read(g, GUEST_GDT + SEL_FREE + 5, 1) & 1);
}

static void test_load(void **state)
{
    struct guest *g = *state;
    for (unsigned i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
        const struct load_case *c = &loads[i];
        print_message("  %s\n", c->name);
        guest_ring(g, c->cpl, c->bits);
        guest_set_gdt(g, SEL_FREE, guest_descriptor(0x12345678, 0xabcde, c->attributes | ATTR_G));
        if (c->vector == NONE) {
            GUEST_RUNS(g, x86_load_segment(g->v, c->sreg, c->selector));
            check_loaded(g, c);
        } else {
            GUEST_RAISES(g, x86_load_segment(g->v, c->sreg, c->selector), c->vector, c->error);
        }
    }
}

static void test_load_ldt_entry(void **state)
{
    struct guest *g = *state;
    guest_write(g, GUEST_LDT + 8, guest_descriptor(0x1000, 0xfff, 0x92), 8);
    GUEST_RUNS(g, x86_load_segment(g->v, SEG_ES, 8 | 4));
    assert_int_equal(g->v->seg[SEG_ES].base, 0x1000);
    assert_int_equal(g->v->seg[SEG_ES].limit, 0xfff);
    guest_set_gdt(g, 0xf8, guest_descriptor(0, 0xfff, 0x93));
    g->v->gdtr.limit = 0xfa; /* cuts the last entry */
    GUEST_RAISES(g, x86_load_segment(g->v, SEG_ES, 0xf8), VECTOR_GP, 0xf8);
    g->v->seg[SEG_LDTR].attributes = ATTR_UNUSABLE;
    GUEST_RAISES(g, x86_load_segment(g->v, SEG_ES, 8 | 4), VECTOR_GP, 0xc);
}

/* The accessed bit of a descriptor in a read-only page is a write by the supervisor. */
static void test_load_read_only_gdt(void **state)
{
    struct guest *g = *state;
    guest_set_gdt(g, SEL_FREE, guest_descriptor(0, 0xfff, 0x92));
    guest_set_page(g, GUEST_GDT, 5);
    GUEST_RAISES(g, x86_load_segment(g->v, SEG_DS, SEL_FREE), VECTOR_PF, PF_PRESENT | PF_WRITE);
    assert_int_equal(g->v->fault.address, GUEST_GDT + SEL_FREE + 5);
    GUEST_RUNS(g, x86_load_segment(g->v, SEG_DS, SEL_DATA)); /* accessed already */
}

struct system_case {
    const char *name;
    bool ldt;
    uint16_t selector;
    uint32_t attributes;
    uint64_t high;
    unsigned cpl;
    int vector, error;
};

static const struct system_case systems[] = {
    {"ldt", true, SEL_FREE, 0x82, 0x12, 0, NONE, 0},
    {"ldt null", true, 2, 0, 0, 0, NONE, 0},
    {"ldt of ring 3", true, SEL_FREE, 0x82, 0, 3, VECTOR_GP, 0},
    {"ldt from the LDT", true, SEL_FREE | 4, 0x82, 0, 0, VECTOR_GP, SEL_FREE | 4},
    {"ldt beyond", true, 0x100, 0x82, 0, 0, VECTOR_GP, 0x100},
    {"ldt second half beyond", true, 0xf8, 0x82, 0, 0, VECTOR_GP, 0xf8},
    {"ldt type", true, SEL_FREE, 0x89, 0, 0, VECTOR_GP, SEL_FREE},
    {"ldt data", true, SEL_FREE, 0x92, 0, 0, VECTOR_GP, SEL_FREE},
    {"ldt upper type", true, SEL_FREE, 0x82, 1ull << 40, 0, VECTOR_GP, SEL_FREE},
    {"ldt not canonical", true, SEL_FREE, 0x82, 0x1000000, 0, VECTOR_GP, SEL_FREE},
    {"ldt not present", true, SEL_FREE, 0x02, 0, 0, VECTOR_NP, SEL_FREE},
    {"tr", false, SEL_FREE, 0x89, 0xffff8000, 0, NONE, 0},
    {"tr null", false, 0, 0, 0, 0, VECTOR_GP, 0},
    {"tr of ring 3", false, SEL_FREE, 0x89, 0, 3, VECTOR_GP, 0},
    {"tr from the LDT", false, SEL_FREE | 4, 0x89, 0, 0, VECTOR_GP, SEL_FREE | 4},
    {"tr beyond", false, 0x100, 0x89, 0, 0, VECTOR_GP, 0x100},
    {"tr busy", false, SEL_FREE, 0x8b, 0, 0, VECTOR_GP, SEL_FREE},
    {"tr 16-bit in long mode", false, SEL_FREE, 0x81, 0, 0, VECTOR_GP, SEL_FREE},
    {"tr not canonical", false, SEL_FREE, 0x89, 0x1000000, 0, VECTOR_GP, SEL_FREE},
    {"tr not present", false, SEL_FREE, 0x09, 0, 0, VECTOR_NP, SEL_FREE},
};

static void test_system(void **state)
{
    struct guest *g = *state;
    for (unsigned i = 0; i < sizeof(systems) / sizeof(systems[0]); i++) {
        const struct system_case *c = &systems[i];
        void (*load)(struct vcpu *, uint16_t) = c->ldt ? x86_load_ldtr : x86_load_tr;
        print_message("  %s\n", c->name);
        guest_ring(g, c->cpl, 64);
        uint16_t slot = c->selector == 0xf8 ? 0xf8 : SEL_FREE;
        guest_set_gdt(g, slot, guest_descriptor(0x1000, 0xff, c->attributes));
        guest_write(g, GUEST_GDT + slot + 8, c->high, 8);
        guest_write(g, GUEST_LDT + SEL_FREE, guest_descriptor(0x1000, 0xff, c->attributes), 8);
        if (c->vector != NONE) {
            GUEST_RAISES(g, load(g->v, c->selector), c->vector, c->error);
            continue;
        }
        GUEST_RUNS(g, load(g->v, c->selector));
        const struct x86_segment *s = &g->v->seg[c->ldt ? SEG_LDTR : SEG_TR];
        assert_int_equal(s->selector, c->selector);
        if (c->selector == 2) {
            assert_true(s->attributes & ATTR_UNUSABLE);
            continue;
        }
        assert_int_equal(s->base, c->high << 32 | 0x1000);
        assert_int_equal(s->limit, 0xff);
        if (!c->ldt) {
            assert_int_equal(s->attributes, 0x8b);
            assert_int_equal(guest_read(g, GUEST_GDT + SEL_FREE + 5, 1), 0x8b);
        }
    }
}

/* A base beyond the current paging is loaded, for the processor has LA57, and faults when used. */
static void test_wide_bases(void **state)
{
    struct guest *g = *state;
    const uint64_t wide = 1ull << 55;
    guest_ring(g, 0, 64);
    guest_set_gdt(g, SEL_FREE, guest_descriptor(0, 0xff, 0x82));
    guest_write(g, GUEST_GDT + SEL_FREE + 8, wide >> 32, 8);
    GUEST_RUNS(g, x86_load_ldtr(g->v, SEL_FREE));
    assert_int_equal(g->v->seg[SEG_LDTR].base, wide);
    GUEST_RAISES(g, x86_load_segment(g->v, SEG_DS, 0xc), VECTOR_GP, 0xc);
    uint64_t gdt = g->v->gdtr.base;
    g->v->gdtr.base = wide;
    GUEST_RAISES(g, x86_load_segment(g->v, SEG_DS, SEL_DATA), VECTOR_GP, SEL_DATA);
    g->v->gdtr.base = gdt;
}

struct rights_case {
    const char *name;
    uint16_t selector;
    uint32_t attributes;
    unsigned cpl;
    bool lar, lsl, read, write;
};

static const struct rights_case rights[] = {
    {"null", 3, 0, 0, false, false, false, false},
    {"beyond", 0x100, 0, 0, false, false, false, false},
    {"data", SEL_FREE, 0x93, 0, true, true, true, true},
    {"read-only", SEL_FREE, 0x91, 0, true, true, true, false},
    {"not present", SEL_FREE, 0x13, 0, true, true, true, true},
    {"code", SEL_FREE, 0x9a, 0, true, true, true, false},
    {"execute-only", SEL_FREE, 0x98, 0, true, true, false, false},
    {"CPL > DPL", SEL_FREE, 0x93, 3, false, false, false, false},
    {"RPL > DPL", SEL_FREE | 3, 0x93, 0, false, false, false, false},
    {"conforming", SEL_FREE | 3, 0x9e, 3, true, true, true, false},
    {"ldt", SEL_FREE, 0x82, 0, true, true, false, false},
    {"tss", SEL_FREE, 0x89, 0, true, true, false, false},
    {"busy tss", SEL_FREE, 0x8b, 0, true, true, false, false},
    {"call gate", SEL_FREE, 0x8c, 0, true, false, false, false},
    {"16-bit tss", SEL_FREE, 0x81, 0, false, false, false, false},
    {"task gate", SEL_FREE, 0x85, 0, false, false, false, false},
    {"interrupt gate", SEL_FREE, 0x8e, 0, false, false, false, false},
};

static void test_rights(void **state)
{
    struct guest *g = *state;
    for (unsigned i = 0; i < sizeof(rights) / sizeof(rights[0]); i++) {
        const struct rights_case *c = &rights[i];
        uint32_t out = 0x5a5a;
        volatile bool ok = false; /* lives across setjmp */
        print_message("  %s\n", c->name);
        guest_ring(g, c->cpl, 64);
        guest_set_gdt(g, SEL_FREE, guest_descriptor(0, 0x12345, c->attributes | ATTR_G));
        GUEST_RUNS(g, ok = x86_lar(g->v, c->selector, &out));
        assert_int_equal(ok, c->lar);
        assert_int_equal(out, ok ? 0x00810000 | c->attributes << 8 : 0x5a5a);
        out = 0x5a5a;
        GUEST_RUNS(g, ok = x86_lsl(g->v, c->selector, &out));
        assert_int_equal(ok, c->lsl);
        assert_int_equal(out, ok ? 0x12345fff : 0x5a5a);
        GUEST_RUNS(g, ok = x86_verify(g->v, c->selector, false));
        assert_int_equal(ok, c->read);
        GUEST_RUNS(g, ok = x86_verify(g->v, c->selector, true));
        assert_int_equal(ok, c->write);
        assert_true(guest_unchanged(g)); /* not even the accessed bit */
    }
}

static void test_linear64(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    volatile uint64_t got = 0;    /* lives across setjmp */
    v->seg[SEG_DS].base = 0x1000; /* has no meaning */
    v->seg[SEG_GS].base = 0xffff800000000000;
    GUEST_RUNS(g, got = x86_linear(v, SEG_DS, 0x5000, 8, true));
    assert_int_equal(got, 0x5000);
    GUEST_RUNS(g, got = x86_linear(v, SEG_GS, 0x18, 8, true));
    assert_true(got == 0xffff800000000018);
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0x800000000000, 1, false), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_linear(v, SEG_SS, 0x800000000000, 1, false), VECTOR_SS, 0);
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0x7ffffffffffd, 4, false), VECTOR_GP, 0);
    GUEST_RUNS(g, x86_linear(v, SEG_DS, 0x7ffffffffffc, 4, false));
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0xffff7fffffffffff, 2, false), VECTOR_GP, 0);
    v->cr4 |= CR4_LA57;
    GUEST_RUNS(g, x86_linear(v, SEG_DS, 0x800000000000, 1, false));
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 1ull << 56, 1, false), VECTOR_GP, 0);
}

static void test_linear32(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    volatile uint64_t got = 0; /* lives across setjmp */
    v->seg[SEG_DS] = (struct x86_segment){SEL_FREE, 0x93 | ATTR_DB, 0xfff, 0xfffff000};
    GUEST_RUNS(g, got = x86_linear(v, SEG_DS, 0xffc, 4, true));
    assert_int_equal(got, 0xfffffffc);
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0xffd, 4, false), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0xffffffff, 4, false), VECTOR_GP, 0);
    v->seg[SEG_SS].limit = 0xfff;
    GUEST_RAISES(g, x86_linear(v, SEG_SS, 0x1000, 1, false), VECTOR_SS, 0);
    v->seg[SEG_DS].attributes = 0x97 | ATTR_DB; /* expand-down */
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0xfff, 1, false), VECTOR_GP, 0);
    GUEST_RUNS(g, got = x86_linear(v, SEG_DS, 0x1000, 4, false));
    assert_int_equal(got, 0);
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0xffffffff, 2, false), VECTOR_GP, 0);
    v->seg[SEG_DS].attributes = 0x97; /* 16-bit: up to 0xffff */
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0xffff, 2, false), VECTOR_GP, 0);
    v->seg[SEG_DS].attributes = 0x91;
    v->seg[SEG_DS].limit = 0xffff;
    GUEST_RUNS(g, x86_linear(v, SEG_DS, 0, 1, false));
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0, 1, true), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_linear(v, SEG_CS, 0, 1, true), VECTOR_GP, 0);
    v->seg[SEG_DS].attributes = 0x98;
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0, 1, false), VECTOR_GP, 0);
    v->seg[SEG_DS].attributes = ATTR_UNUSABLE;
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0, 1, false), VECTOR_GP, 0);
}

static void test_io(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    GUEST_RUNS(g, x86_check_io(v, 0x3f8, 1));
    guest_ring(g, 3, 64);
    guest_write(g, GUEST_TSS + 0x66, 0x68, 2);
    GUEST_RUNS(g, x86_check_io(v, 0x3f8, 4));
    guest_write(g, GUEST_TSS + 0x68 + 0x3f8 / 8, 0x08, 1); /* port 0x3fb */
    GUEST_RUNS(g, x86_check_io(v, 0x3f8, 2));
    GUEST_RAISES(g, x86_check_io(v, 0x3f8, 4), VECTOR_GP, 0);
    GUEST_RAISES(g, x86_check_io(v, 0x3fb, 1), VECTOR_GP, 0);
    guest_write(g, GUEST_TSS + 0x68 + 0x400 / 8, 0x01, 1); /* port 0x400: in the next byte */
    GUEST_RAISES(g, x86_check_io(v, 0x3ff, 2), VECTOR_GP, 0);
    guest_write(g, GUEST_TSS + 0x66, 0xfff, 2); /* its second byte is beyond */
    GUEST_RAISES(g, x86_check_io(v, 0, 1), VECTOR_GP, 0);
    v->seg[SEG_TR].limit = 0x66;
    GUEST_RAISES(g, x86_check_io(v, 0, 1), VECTOR_GP, 0);
    v->seg[SEG_TR].limit = 0xfff;
    v->seg[SEG_TR].attributes = 0x83; /* 16-bit */
    GUEST_RAISES(g, x86_check_io(v, 0, 1), VECTOR_GP, 0);
    v->rflags |= FLAG_IOPL;
    GUEST_RUNS(g, x86_check_io(v, 0x3fb, 1));
}

#define LONG(f)      cmocka_unit_test_setup_teardown(f, guest_setup_long, guest_teardown)
#define PROTECTED(f) cmocka_unit_test_setup_teardown(f, guest_setup_protected, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LONG(test_load),
        LONG(test_load_ldt_entry),
        LONG(test_load_read_only_gdt),
        LONG(test_system),
        LONG(test_wide_bases),
        LONG(test_rights),
        LONG(test_linear64),
        LONG(test_io),
        PROTECTED(test_linear32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
