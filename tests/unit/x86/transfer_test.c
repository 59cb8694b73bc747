/* SPDX-License-Identifier: MIT */
/* Far jumps, calls, call gates, far returns and IRET. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "guest.h"
#include "x86/segment.h"

#define NONE     (-2) /* does not raise */
#define CODE     (0x9bu | ATTR_L)
#define CODE3    (0xfbu | ATTR_L)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

struct transfer {
    const char *name;
    unsigned cpl;
    uint16_t selector;
    uint64_t offset;
    uint32_t code; /* attributes of SEL_FREE, whose limit is 0xffff */
    int vector, error;
};

static const struct transfer direct[] = {
    {"64-bit", 0, SEL_FREE, 0x12345678, CODE, NONE, 0},
    {"compatibility", 0, SEL_FREE, 0xffff, 0x9b | ATTR_DB, NONE, 0},
    {"not accessed", 0, SEL_FREE, 0x8000, 0x9a | ATTR_L, NONE, 0},
    {"conforming", 3, SEL_FREE | 3, 0x8000, CODE | 4, NONE, 0},
    {"conforming, RPL does not count", 0, SEL_FREE | 3, 0x8000, CODE | 4, NONE, 0},
    {"null", 0, 3, 0, 0, VECTOR_GP, 0},
    {"beyond", 0, 0x100, 0, 0, VECTOR_GP, 0x100},
    {"data", 0, SEL_FREE, 0, 0x93, VECTOR_GP, SEL_FREE},
    {"L and D", 0, SEL_FREE, 0, CODE | ATTR_DB, VECTOR_GP, SEL_FREE},
    {"inner ring", 3, SEL_FREE, 0, CODE, VECTOR_GP, SEL_FREE},
    {"outer ring", 0, SEL_FREE, 0, CODE3, VECTOR_GP, SEL_FREE},
    {"RPL", 0, SEL_FREE | 3, 0, CODE, VECTOR_GP, SEL_FREE},
    {"conforming of an outer ring", 0, SEL_FREE, 0, CODE3 | 4, VECTOR_GP, SEL_FREE},
    {"not present", 0, SEL_FREE, 0, 0x1b | ATTR_L, VECTOR_NP, SEL_FREE},
    {"not canonical", 0, SEL_FREE, 1ull << 47, CODE, VECTOR_GP, 0},
    {"limit", 0, SEL_FREE, 0x10000, 0x9b | ATTR_DB, VECTOR_GP, 0},
    {"TSS", 0, SEL_FREE, 0, 0x89, VECTOR_GP, SEL_FREE},
    {"task gate", 0, SEL_FREE, 0, 0x85, VECTOR_GP, SEL_FREE},
    {"16-bit call gate", 0, SEL_FREE, 0, 0x84, VECTOR_GP, SEL_FREE},
    {"interrupt gate", 0, SEL_FREE, 0, 0x8e, VECTOR_GP, SEL_FREE},
};

static void check_direct(struct guest *g, const struct transfer *c)
{
    struct vcpu *v = g->v;
    assert_int_equal(v->rip, c->offset);
    assert_int_equal(v->seg[SEG_CS].selector, (c->selector & 0xfffc) | c->cpl);
    assert_int_equal(v->seg[SEG_CS].attributes, c->code | 1);
    assert_int_equal(v->code64, (c->code & ATTR_L) != 0);
    assert_int_equal(v->cpl, c->cpl);
    assert_true(guest_read(g, GUEST_GDT + SEL_FREE + 5, 1) & 1);
}

static void test_direct(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    for (unsigned i = 0; i < COUNT(direct); i++) {
        const struct transfer *c = &direct[i];
        print_message("  %s\n", c->name);
        for (volatile unsigned call = 0; call < 2; call++) {
            guest_ring(g, c->cpl, 64);
            uint64_t rsp = v->gpr[RSP], cs = v->seg[SEG_CS].selector;
            guest_set_gdt(g, SEL_FREE, guest_descriptor(0, 0xffff, c->code));
            if (c->vector != NONE && call) {
                GUEST_RAISES(g, x86_far_call(v, c->selector, c->offset, 8, 0x5007), c->vector,
                             c->error);
            } else if (c->vector != NONE) {
                GUEST_RAISES(g, x86_far_jump(v, c->selector, c->offset, 8, 0x5007), c->vector,
                             c->error);
            } else if (call) {
                GUEST_RUNS(g, x86_far_call(v, c->selector, c->offset, 8, 0x5007));
                check_direct(g, c);
                assert_int_equal(v->gpr[RSP], rsp - 16);
                assert_int_equal(guest_read(g, rsp - 16, 8), 0x5007);
                assert_int_equal(guest_read(g, rsp - 8, 8), cs);
            } else {
                GUEST_RUNS(g, x86_far_jump(v, c->selector, c->offset, 8, 0x5007));
                check_direct(g, c);
                assert_int_equal(v->gpr[RSP], rsp);
            }
        }
    }
}

static void test_call_stack_faults(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    v->gpr[RSP] = (1ull << 47) + 0x100;
    GUEST_RAISES(g, x86_far_call(v, SEL_CODE64, 0, 8, 0x5007), VECTOR_SS, 0);
    v->gpr[RSP] = 0x21008;
    guest_set_page(g, 0x20000, 1);
    GUEST_RAISES(g, x86_far_call(v, SEL_CODE64, 0, 8, 0x5007), VECTOR_PF, PF_PRESENT | PF_WRITE);
}

struct gate_case {
    const char *name;
    uint32_t gate, upper; /* attributes; bits 8 and up of the last dword */
    uint16_t rpl, selector;
    uint64_t offset;
    uint32_t code; /* attributes of SEL_FREE */
    unsigned cpl;
    int call_vector, call_error, jump_vector, jump_error;
};

#define GATE (SEL_FREE + 0x10)
static const struct gate_case gates[] = {
    {"same ring", 0x8c, 0, 0, SEL_FREE, 0x123456789, CODE, 0, NONE, 0, NONE, 0},
    {"inner ring", 0xec, 0, 3, SEL_FREE, 0x123456789, CODE, 3, NONE, 0, VECTOR_GP, SEL_FREE},
    {"conforming", 0xec, 0, 3, SEL_FREE, 0x1000, CODE | 4, 3, NONE, 0, NONE, 0},
    {"gate DPL < CPL", 0x8c, 0, 0, SEL_FREE, 0, CODE, 3, VECTOR_GP, GATE, VECTOR_GP, GATE},
    {"gate DPL < RPL", 0x8c, 0, 3, SEL_FREE, 0, CODE, 0, VECTOR_GP, GATE, VECTOR_GP, GATE},
    {"gate upper type", 0x8c, 1, 0, SEL_FREE, 0, CODE, 0, VECTOR_GP, GATE, VECTOR_GP, GATE},
    {"gate not present", 0x0c, 0, 0, SEL_FREE, 0, CODE, 0, VECTOR_NP, GATE, VECTOR_NP, GATE},
    {"null", 0x8c, 0, 0, 0, 0, CODE, 0, VECTOR_GP, 0, VECTOR_GP, 0},
    {"beyond", 0x8c, 0, 0, 0x100, 0, CODE, 0, VECTOR_GP, 0x100, VECTOR_GP, 0x100},
    {"data", 0x8c, 0, 0, SEL_FREE, 0, 0x93, 0, VECTOR_GP, SEL_FREE, VECTOR_GP, SEL_FREE},
    {"32-bit", 0x8c, 0, 0, SEL_FREE, 0, 0x9b | ATTR_DB, 0, VECTOR_GP, SEL_FREE, VECTOR_GP,
     SEL_FREE},
    {"outer ring", 0x8c, 0, 0, SEL_FREE, 0, CODE3, 0, VECTOR_GP, SEL_FREE, VECTOR_GP, SEL_FREE},
    {"not present", 0x8c, 0, 0, SEL_FREE, 0, 0x1b | ATTR_L, 0, VECTOR_NP, SEL_FREE, VECTOR_NP,
     SEL_FREE},
    {"not canonical", 0x8c, 0, 0, SEL_FREE, 1ull << 47, CODE, 0, VECTOR_GP, 0, VECTOR_GP, 0},
};

static void check_gate_call(struct guest *g, const struct gate_case *c, uint64_t rsp)
{
    struct vcpu *v = g->v;
    bool inner = c->cpl == 3 && !(c->code & 4);
    assert_int_equal(v->cpl, inner ? 0 : c->cpl);
    assert_int_equal(v->rip, c->offset);
    assert_int_equal(v->gpr[RSP], inner ? GUEST_RSP0 - 32 : rsp - 16);
    assert_int_equal(guest_read(g, v->gpr[RSP], 8), 0x5007);
    if (inner) {
        assert_int_equal(guest_read(g, v->gpr[RSP] + 8, 8), SEL_USER_CODE64);
        assert_int_equal(guest_read(g, v->gpr[RSP] + 16, 8), rsp);
        assert_int_equal(guest_read(g, v->gpr[RSP] + 24, 8), SEL_USER_DATA);
        assert_int_equal(v->seg[SEG_SS].selector, 0);
    }
}

static void test_gates(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    for (volatile unsigned i = 0; i < COUNT(gates); i++) {
        const struct gate_case *c = &gates[i];
        uint64_t low = (c->offset & 0xffff) | (uint64_t)c->selector << 16 |
                       (uint64_t)c->gate << 40 | (c->offset & 0xffff0000) << 32;
        print_message("  %s\n", c->name);
        guest_set_gdt(g, SEL_FREE, guest_descriptor(0, 0xffff, c->code));
        guest_set_gdt(g, GATE, low);
        guest_write(g, GUEST_GDT + GATE + 8, c->offset >> 32 | (uint64_t)c->upper << 40, 8);
        guest_ring(g, c->cpl, 64);
        uint64_t rsp = v->gpr[RSP];
        if (c->jump_vector == NONE) {
            GUEST_RUNS(g, x86_far_jump(v, GATE | c->rpl, 0xbad, 8, 0x5007));
            assert_int_equal(v->rip, c->offset);
            assert_int_equal(v->cpl, c->cpl);
        } else {
            GUEST_RAISES(g, x86_far_jump(v, GATE | c->rpl, 0xbad, 8, 0x5007), c->jump_vector,
                         c->jump_error);
        }
        guest_ring(g, c->cpl, 64);
        if (c->call_vector == NONE) {
            GUEST_RUNS(g, x86_far_call(v, GATE | c->rpl, 0xbad, 4, 0x5007));
            check_gate_call(g, c, rsp);
        } else {
            GUEST_RAISES(g, x86_far_call(v, GATE | c->rpl, 0xbad, 8, 0x5007), c->call_vector,
                         c->call_error);
        }
    }
    guest_ring(g, 0, 64);
    GUEST_RAISES(g, x86_far_jump(v, 0xf8, 0, 8, 0x5007), VECTOR_GP,
                 0xf8); /* an empty entry, the last */
    guest_set_gdt(g, 0xf8, 0x8cull << 40);
    GUEST_RAISES(g, x86_far_jump(v, 0xf8, 0, 8, 0x5007), VECTOR_GP,
                 0xf8); /* second half is beyond */
}

static void test_gate_tss(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_set_gdt(g, GATE, 0x1000 | (uint64_t)SEL_CODE64 << 16 | 0xecull << 40);
    guest_ring(g, 3, 64);
    v->seg[SEG_TR].limit = 10;
    GUEST_RAISES(g, x86_far_call(v, GATE | 3, 0, 8, 0), VECTOR_TS, SEL_TSS);
    v->seg[SEG_TR].limit = 0xfff;
    guest_write(g, GUEST_TSS + 4, 1ull << 50, 8);
    GUEST_RAISES(g, x86_far_call(v, GATE | 3, 0, 8, 0), VECTOR_SS, 0);
}

/* A 32-bit gate to an inner ring copies its parameters; the far return takes them off both. */
static void test_gate_parameters(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_set_gdt(g, GATE,
                  0x1000 | (uint64_t)SEL_CODE32 << 16 | 2ull << 32 | 0xecull << 40); /* two */
    guest_ring(g, 3, 32);
    guest_write(g, GUEST_USER, 0x2222222211111111, 8);
    GUEST_RUNS(g, x86_far_call(v, GATE | 3, 0, 4, 0x5007));
    uint64_t rsp = v->gpr[RSP];
    assert_int_equal(rsp, GUEST_RSP0 - 24);
    assert_int_equal(guest_read(g, rsp, 4), 0x5007);
    assert_int_equal(guest_read(g, rsp + 8, 8), 0x2222222211111111);
    assert_int_equal(guest_read(g, rsp + 16, 4), GUEST_USER);
    assert_int_equal(v->seg[SEG_SS].selector, SEL_DATA);
    GUEST_RUNS(g, x86_far_return(v, 4, 8));
    assert_int_equal(v->rip, 0x5007);
    assert_int_equal(v->gpr[RSP], GUEST_USER + 8);
    assert_int_equal(v->cpl, 3);
    assert_int_equal(v->seg[SEG_DS].selector, 0); /* was of ring 0 */
}

struct return_case {
    const char *name;
    unsigned cpl, bits;
    uint64_t rip;
    uint16_t cs;
    uint16_t ss;
    uint32_t code, data; /* attributes of SEL_FREE and SEL_FREE + 8 */
    int vector, error;
};

#define SSF (SEL_FREE + 8)
static const struct return_case returns[] = {
    {"outer", 0, 64, 0x6000, SEL_FREE | 3, SSF | 3, CODE3, 0xf3, NONE, 0},
    {"outer compatibility", 0, 64, 0x6000, SEL_FREE | 3, SSF | 3, 0xfb | ATTR_DB, 0xf3 | ATTR_DB,
     NONE, 0},
    {"cs null", 0, 64, 0, 3, SSF | 3, 0, 0xf3, VECTOR_GP, 0},
    {"cs beyond", 0, 64, 0, 0x103, SSF | 3, 0, 0xf3, VECTOR_GP, 0x100},
    {"cs data", 0, 64, 0, SEL_FREE | 3, SSF | 3, 0xf3, 0xf3, VECTOR_GP, SEL_FREE},
    {"cs inner ring", 3, 64, 0, SEL_FREE, SSF, CODE, 0x93, VECTOR_GP, SEL_FREE},
    {"cs DPL not RPL", 0, 64, 0, SEL_FREE | 3, SSF | 3, CODE, 0xf3, VECTOR_GP, SEL_FREE},
    {"cs conforming DPL > RPL", 0, 64, 0, SEL_FREE | 1, SSF | 1, CODE3 | 4, 0xb3, VECTOR_GP,
     SEL_FREE},
    {"cs L and D", 0, 64, 0, SEL_FREE | 3, SSF | 3, CODE3 | ATTR_DB, 0xf3, VECTOR_GP, SEL_FREE},
    {"cs not present", 0, 64, 0, SEL_FREE | 3, SSF | 3, 0x7b | ATTR_L, 0xf3, VECTOR_NP, SEL_FREE},
    {"rip not canonical", 0, 64, 1ull << 47, SEL_FREE | 3, SSF | 3, CODE3, 0xf3, VECTOR_GP, 0},
    {"eip beyond the limit", 0, 64, 0x10000, SEL_FREE | 3, SSF | 3, 0xfb, 0xf3, VECTOR_GP, 0},
    {"ss null to ring 3", 0, 64, 0, SEL_FREE | 3, 3, CODE3, 0, VECTOR_GP, 0},
    {"ss null to compatibility mode", 0, 64, 0, SEL_FREE | 1, 1, 0xbb, 0, VECTOR_GP, 0},
    {"ss null to 64-bit ring 1", 0, 64, 0x6000, SEL_FREE | 1, 1, 0xbb | ATTR_L, 0, NONE, 0},
    {"ss beyond", 0, 64, 0, SEL_FREE | 3, 0x103, CODE3, 0, VECTOR_GP, 0x100},
    {"ss RPL", 0, 64, 0, SEL_FREE | 3, SSF, CODE3, 0xf3, VECTOR_GP, SSF},
    {"ss DPL", 0, 64, 0, SEL_FREE | 3, SSF | 3, CODE3, 0x93, VECTOR_GP, SSF},
    {"ss read-only", 0, 64, 0, SEL_FREE | 3, SSF | 3, CODE3, 0xf1, VECTOR_GP, SSF},
    {"ss not present", 0, 64, 0, SEL_FREE | 3, SSF | 3, CODE3, 0x73, VECTOR_SS, SSF},
};

static void check_returned(struct guest *g, const struct return_case *c)
{
    struct vcpu *v = g->v;
    assert_int_equal(v->rip, c->rip);
    assert_int_equal(v->cpl, c->cs & 3);
    assert_int_equal(v->seg[SEG_CS].selector, c->cs);
    assert_int_equal(v->seg[SEG_SS].selector, c->ss);
    if (!(c->code & ATTR_L))
        assert_int_equal(v->gpr[RSP], GUEST_USER); /* 32 bits of it */
    assert_int_equal(v->seg[SEG_DS].selector, 0);
    assert_true(v->seg[SEG_DS].attributes & ATTR_UNUSABLE);
    assert_int_equal(v->seg[SEG_GS].selector, 0); /* made null: the base stays as well */
    assert_int_equal(v->seg[SEG_GS].base, 0x8000);
    assert_int_equal(v->seg[SEG_FS].base, 0x7000); /* null already: the base stays */
    assert_int_equal(v->seg[SEG_ES].selector, SEL_USER_DATA);
}

static void test_returns(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    for (volatile unsigned i = 0; i < 2 * COUNT(returns); i++) {
        const struct return_case *c = &returns[i / 2];
        bool iret = i & 1;
        unsigned at = 0;
        print_message("  %s %s\n", iret ? "iret" : "ret", c->name);
        guest_ring(g, c->cpl, c->bits);
        guest_set_gdt(g, SEL_FREE, guest_descriptor(0, 0xffff, c->code));
        guest_set_gdt(g, SSF, guest_descriptor(0, 0xfffff, c->data | ATTR_G));
        v->seg[SEG_DS] = (struct x86_segment){SEL_DATA, 0x93, UINT32_MAX, 0};
        v->seg[SEG_ES] = (struct x86_segment){SEL_USER_DATA, 0xf3, UINT32_MAX, 0};
        v->seg[SEG_FS] = (struct x86_segment){0, ATTR_UNUSABLE, 0, 0x7000};
        v->seg[SEG_GS] = (struct x86_segment){SEL_DATA, 0x93, UINT32_MAX, 0x8000};
        v->gpr[RSP] = GUEST_STACK;
        guest_write(g, GUEST_STACK + 8 * at++, c->rip, 8);
        guest_write(g, GUEST_STACK + 8 * at++, c->cs, 8);
        if (iret)
            guest_write(g, GUEST_STACK + 8 * at++, FLAG_ONE, 8);
        guest_write(g, GUEST_STACK + 8 * at++, 0xffffffff00000000 | GUEST_USER, 8);
        guest_write(g, GUEST_STACK + 8 * at++, c->ss, 8);
        if (c->vector != NONE && iret)
            GUEST_RAISES(g, x86_iret(v, 8, 0x5002), c->vector, c->error);
        else if (c->vector != NONE)
            GUEST_RAISES(g, x86_far_return(v, 8, 0), c->vector, c->error);
        else if (iret)
            GUEST_RUNS(g, x86_iret(v, 8, 0x5002));
        else
            GUEST_RUNS(g, x86_far_return(v, 8, 0));
        if (c->vector == NONE)
            check_returned(g, c);
    }
}

static void push_iret(struct guest *g, uint16_t cs, uint64_t flags, uint16_t ss)
{
    uint64_t frame[5] = {0x6000, cs, flags, GUEST_USER, ss};
    for (unsigned i = 0; i < 5; i++)
        guest_write(g, g->v->gpr[RSP] + 8 * i, frame[i], 8);
}

static void test_same_ring_returns(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    push_iret(g, SEL_CODE64, FLAG_ONE, SEL_DATA);
    GUEST_RUNS(g, x86_far_return(v, 8, 24));
    assert_int_equal(v->gpr[RSP], GUEST_STACK + 40);
    assert_int_equal(v->rip, 0x6000);
    guest_ring(g, 0, 64);
    push_iret(g, SEL_CODE64, FLAG_ONE, 0); /* 64-bit IRET always loads SS: null in ring 0 */
    GUEST_RUNS(g, x86_iret(v, 8, 0x5002));
    assert_int_equal(v->gpr[RSP], GUEST_USER);
    assert_true(v->seg[SEG_SS].attributes & ATTR_UNUSABLE);
    guest_ring(g, 0, 32); /* compatibility mode: SS is not popped within the ring */
    guest_write(g, GUEST_STACK, 0x6000 | (uint64_t)SEL_CODE32 << 32, 8);
    guest_write(g, GUEST_STACK + 8, FLAG_ONE, 4);
    GUEST_RUNS(g, x86_iret(v, 4, 0x5002));
    assert_int_equal(v->gpr[RSP], GUEST_STACK + 12);
    assert_int_equal(v->seg[SEG_SS].selector, SEL_DATA);
    guest_ring(g, 0, 64);
    v->gpr[RSP] = 1ull << 47;
    GUEST_RAISES(g, x86_iret(v, 8, 0x5002), VECTOR_SS, 0);
    GUEST_RAISES(g, x86_far_return(v, 8, 0), VECTOR_SS, 0);
}

static const struct {
    const char *name;
    unsigned cpl, size;
    uint64_t before, popped, after;
} flags[] = {
    {"ring 0", 0, 8, 0, 0xffffffffffffffff & ~(uint64_t)FLAG_NT,
     FLAGS_ARITHMETIC | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_RF | FLAG_AC | FLAG_VIF |
         FLAG_VIP | FLAG_ID},
    {"ring 3, IOPL 0", 3, 8, FLAG_VIP, 0xffffffff,
     FLAGS_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID | FLAG_VIP},
    {"ring 3, IOPL 3", 3, 8, FLAG_IOPL, FLAG_IF, FLAG_IF | FLAG_IOPL},
    {"ring 3, IOPL 3, IF cleared", 3, 8, FLAG_IOPL | FLAG_IF, 0, FLAG_IOPL},
    {"ring 3 keeps IF", 3, 8, FLAG_IF, 0, FLAG_IF},
    {"16 bits", 0, 2, FLAG_AC | FLAG_RF, FLAG_CF, FLAG_AC | FLAG_RF | FLAG_CF},
};

static void test_iret_flags(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    for (unsigned i = 0; i < COUNT(flags); i++) {
        print_message("  %s\n", flags[i].name);
        guest_ring(g, flags[i].cpl, 64);
        uint64_t frame[5] = {0x6000, v->seg[SEG_CS].selector, flags[i].popped, 0x2000,
                             v->seg[SEG_SS].selector};
        for (unsigned j = 0; j < 5; j++)
            guest_write(g, v->gpr[RSP] + flags[i].size * j, frame[j], flags[i].size);
        v->rflags = FLAG_ONE | flags[i].before;
        GUEST_RUNS(g, x86_iret(v, flags[i].size, 0x5002));
        assert_int_equal(v->rflags, FLAG_ONE | flags[i].after);
    }
}

static void test_iret_rules(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    v->rflags |= FLAG_NT;
    v->nmi_blocked = false;
    GUEST_RAISES(g, x86_iret(v, 8, 0x5002), VECTOR_GP, 0);
    v->rflags &= ~(uint64_t)FLAG_NT;
    push_iret(g, 0, FLAG_ONE, SEL_DATA);
    v->nmi_blocked = true;
    GUEST_TRY(g, x86_iret(v, 8, 0x5002));
    assert_int_equal(g->vector, VECTOR_GP);
    assert_false(v->nmi_blocked); /* by a faulting IRET as well */
    assert_int_equal(v->gpr[RSP], GUEST_STACK);
}

#define LONG(f)      cmocka_unit_test_setup_teardown(f, guest_setup_long, guest_teardown)
#define PROTECTED(f) cmocka_unit_test_setup_teardown(f, guest_setup_protected, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LONG(test_direct),     LONG(test_call_stack_faults), LONG(test_gates),
        LONG(test_gate_tss),   LONG(test_returns),           LONG(test_same_ring_returns),
        LONG(test_iret_flags), LONG(test_iret_rules),        PROTECTED(test_gate_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
