/* SPDX-License-Identifier: MIT */
/* Task switches and virtual-8086 mode (SDM 3A chapter 7, 3B chapter 20). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "guest.h"
#include "x86/segment.h"

#define TSS2     0x14000u /* of SEL_FREE */
#define SEL_GATE (SEL_FREE + 8)
#define SEL_ODD  (SEL_FREE + 16)
#define VECTOR   0x21
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void put32(struct guest *g, unsigned offset, uint32_t value)
{
    guest_write(g, TSS2 + offset, value, 4);
}

/* A runnable 32-bit TSS and a task gate to it. */
static void second_task(struct guest *g)
{
    static const uint32_t segments[6] = {SEL_DATA,      SEL_CODE64, SEL_DATA,
                                         SEL_USER_DATA, 0,          SEL_DATA};
    guest_set_gdt(g, SEL_FREE, guest_descriptor(TSS2, 0x67, 0x89));
    guest_set_gdt(g, SEL_GATE, (uint64_t)SEL_FREE << 16 | 0x85ull << 40);
    put32(g, 0x20, 0x7000);
    put32(g, 0x24, FLAG_ONE | FLAG_CF);
    for (unsigned i = 0; i < 8; i++)
        put32(g, 0x28 + 4 * i, 0x1000 * (i + 1));
    put32(g, 0x38, 0x26000); /* ESP */
    for (unsigned i = 0; i < 6; i++)
        put32(g, 0x48 + 4 * i, segments[i]);
    put32(g, 0x60, SEL_LDT);
}

static unsigned type_of(struct guest *g, uint16_t selector)
{
    return guest_read(g, GUEST_GDT + selector + 5, 1) & 0xf;
}

static void in_second_task(struct guest *g)
{
    struct vcpu *v = g->v;
    assert_int_equal(v->rip, 0x7000);
    assert_int_equal(v->gpr[RAX], 0x1000);
    assert_int_equal(v->gpr[RDI], 0x8000);
    assert_int_equal(v->gpr[RSP], 0x26000);
    assert_int_equal(v->seg[SEG_TR].selector, SEL_FREE);
    assert_int_equal(v->seg[SEG_TR].base, TSS2);
    assert_int_equal(v->seg[SEG_DS].selector, SEL_USER_DATA);
    assert_int_equal(v->seg[SEG_FS].attributes & ATTR_UNUSABLE, ATTR_UNUSABLE);
    assert_int_equal(v->seg[SEG_LDTR].base, GUEST_LDT);
    assert_true(v->cr0 & CR0_TS);
    assert_int_equal(type_of(g, SEL_FREE), 0xb);
    assert_int_equal(guest_read(g, GUEST_TSS + 0x20, 4), 0x5007);
    assert_int_equal(guest_read(g, GUEST_TSS + 0x2c, 4), 0xc0ffee); /* ECX */
    assert_int_equal(guest_read(g, GUEST_TSS + 0x4c, 2), SEL_CODE64);
}

static void test_jump_call_and_back(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    for (volatile unsigned how = 0; how < 4; how++) {
        bool call = how & 1;
        uint16_t selector = how & 2 ? SEL_GATE : SEL_FREE;
        second_task(g);
        guest_set_gdt(g, SEL_TSS, guest_descriptor(GUEST_TSS, 0xfff, 0x8b));
        v->seg[SEG_TR] = (struct x86_segment){SEL_TSS, 0x8b, 0xfff, GUEST_TSS};
        guest_ring(g, 0, 32);
        v->seg[SEG_CS].selector = SEL_CODE64;
        v->rflags = FLAG_ONE | FLAG_ZF;
        v->cr0 &= ~(uint64_t)CR0_TS;
        v->gpr[RCX] = 0xc0ffee;
        v->dr7 = DR7_FIXED | 3;
        if (call)
            GUEST_RUNS(g, x86_far_call(v, selector, 0xbad, 4, 0x5007));
        else
            GUEST_RUNS(g, x86_far_jump(v, selector, 0xbad, 4, 0x5007));
        in_second_task(g);
        assert_int_equal(v->dr7, DR7_FIXED | 2);
        assert_int_equal(v->rflags, FLAG_ONE | FLAG_CF | (call ? FLAG_NT : 0));
        assert_int_equal(type_of(g, SEL_TSS), call ? 0xb : 0x9);
        if (!call)
            continue;
        assert_int_equal(guest_read(g, TSS2, 2), SEL_TSS);
        v->gpr[RBX] = 0x77;
        GUEST_RUNS(g, x86_iret(v, 4, 0x7002));
        assert_int_equal(v->rip, 0x5007);
        assert_int_equal(v->gpr[RCX], 0xc0ffee);
        assert_int_equal(v->rflags, FLAG_ONE | FLAG_ZF);
        assert_int_equal(v->seg[SEG_TR].selector, SEL_TSS);
        assert_int_equal(type_of(g, SEL_FREE), 0x9);
        assert_int_equal(type_of(g, SEL_TSS), 0xb);
        assert_int_equal(guest_read(g, TSS2 + 0x20, 4), 0x7002);
        assert_int_equal(guest_read(g, TSS2 + 0x34, 4), 0x77);
        assert_int_equal(guest_read(g, TSS2 + 0x24, 4) & FLAG_NT, 0);
    }
}

static void test_16bit_tss(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_set_gdt(g, SEL_FREE, guest_descriptor(TSS2, 0x2b, 0x81));
    guest_write(g, TSS2 + 0x0e, 0x7000, 2);
    guest_write(g, TSS2 + 0x10, FLAG_ONE | FLAG_SF, 2);
    for (unsigned i = 0; i < 8; i++)
        guest_write(g, TSS2 + 0x12 + 2 * i, 0x10 * (i + 1), 2);
    guest_write(g, TSS2 + 0x22, SEL_DATA, 2);
    guest_write(g, TSS2 + 0x24, SEL_CODE64, 2);
    guest_write(g, TSS2 + 0x26, SEL_DATA, 2);
    v->seg[SEG_GS].selector = SEL_DATA;
    GUEST_RUNS(g, x86_far_jump(v, SEL_FREE, 0, 4, 0x5007));
    assert_int_equal(v->rip, 0x7000);
    assert_int_equal(v->gpr[RDX], 0xffff0030);
    assert_int_equal(v->rflags, FLAG_ONE | FLAG_SF);
    assert_int_equal(v->seg[SEG_GS].selector, 0); /* has no field */
    assert_int_equal(v->seg[SEG_TR].attributes, 0x83);
    guest_set_gdt(g, SEL_TSS, guest_descriptor(GUEST_TSS, 0xfff, 0x89));
    guest_write(g, GUEST_TSS + 0x4c, SEL_CODE64, 2);
    guest_write(g, GUEST_TSS + 0x50, SEL_DATA, 2);
    GUEST_RUNS(g, x86_far_jump(v, SEL_TSS, 0, 2, 0x12345)); /* back: IP is a word */
    assert_int_equal(guest_read(g, TSS2 + 0x0e, 2), 0x2345);
    assert_int_equal(guest_read(g, TSS2 + 0x10, 2), FLAG_ONE | FLAG_SF);
}

/* What stops a switch before anything has changed. */
static void test_refused(void **state)
{
    static const struct {
        const char *name;
        uint16_t selector;
        uint32_t attributes, limit;
        int vector, error;
    } cases[] = {
        {"busy", SEL_FREE, 0x8b, 0x67, VECTOR_GP, SEL_FREE},
        {"not present", SEL_FREE, 0x09, 0x67, VECTOR_NP, SEL_FREE},
        {"limit", SEL_FREE, 0x89, 0x66, VECTOR_TS, SEL_FREE},
        {"limit of 16 bits", SEL_FREE, 0x81, 0x2a, VECTOR_TS, SEL_FREE},
        {"ring", SEL_FREE | 3, 0x89, 0x67, VECTOR_GP, SEL_FREE},
        {"busy behind a gate", SEL_GATE, 0x8b, 0x67, VECTOR_GP, SEL_FREE},
        {"not present behind a gate", SEL_GATE, 0x09, 0x67, VECTOR_NP, SEL_FREE},
        {"no TSS behind a gate", SEL_GATE, 0x82, 0x67, VECTOR_GP, SEL_FREE},
    };
    struct guest *g = *state;
    struct vcpu *v = g->v;
    for (volatile unsigned i = 0; i < COUNT(cases); i++) {
        print_message("  %s\n", cases[i].name);
        second_task(g);
        guest_set_gdt(g, SEL_FREE, guest_descriptor(TSS2, cases[i].limit, cases[i].attributes));
        GUEST_RAISES(g, x86_far_jump(v, cases[i].selector, 0, 4, 0x5007), cases[i].vector,
                     cases[i].error);
    }
    second_task(g);
    guest_write(g, GUEST_GDT + SEL_GATE + 2, SEL_FREE | 4, 2);
    GUEST_RAISES(g, x86_far_call(v, SEL_GATE, 0, 4, 0x5007), VECTOR_GP, SEL_FREE | 4);
    v->rflags |= FLAG_NT; /* the link names a task that is not busy */
    guest_write(g, GUEST_TSS, SEL_FREE, 2);
    GUEST_RAISES(g, x86_iret(v, 4, 0x5002), VECTOR_TS, SEL_FREE);
    v->seg[SEG_TR].limit = 0x5e;
    v->rflags &= ~(uint64_t)FLAG_NT;
    GUEST_RAISES(g, x86_far_jump(v, SEL_FREE, 0, 4, 0x5007), VECTOR_TS, SEL_TSS);
}

/* What is wrong with the new task is an exception of the new task. */
static void test_new_task_faults(void **state)
{
    static const struct {
        const char *name;
        unsigned field;
        uint32_t value, attributes; /* attributes of SEL_ODD */
        int vector, error;
    } cases[] = {
        {"LDT", 0x60, SEL_DATA, 0x93, VECTOR_TS, SEL_DATA},
        {"CS null", 0x4c, 0, 0x93, VECTOR_TS, 0},
        {"CS data", 0x4c, SEL_ODD, 0x93, VECTOR_TS, SEL_ODD},
        {"CS ring", 0x4c, SEL_ODD | 3, 0x9b, VECTOR_TS, SEL_ODD},
        {"CS not present", 0x4c, SEL_ODD, 0x1b, VECTOR_NP, SEL_ODD},
        {"EIP", 0x4c, SEL_ODD, 0x9b, VECTOR_GP, 0},
        {"SS null", 0x50, 0, 0x93, VECTOR_TS, 0},
        {"SS ring", 0x50, SEL_ODD, 0xf3, VECTOR_TS, SEL_ODD},
        {"SS read-only", 0x50, SEL_ODD, 0x91, VECTOR_TS, SEL_ODD},
        {"SS not present", 0x50, SEL_ODD, 0x13, VECTOR_SS, SEL_ODD},
        {"DS system", 0x54, SEL_ODD, 0x82, VECTOR_TS, SEL_ODD},
        {"ES execute-only", 0x48, SEL_ODD, 0x99, VECTOR_TS, SEL_ODD},
        {"GS not present", 0x5c, SEL_ODD, 0x13, VECTOR_NP, SEL_ODD},
        {"FS beyond", 0x58, 0xff8, 0, VECTOR_TS, 0xff8},
    };
    struct guest *g = *state;
    struct vcpu *v = g->v;
    for (volatile unsigned i = 0; i < COUNT(cases); i++) {
        print_message("  %s\n", cases[i].name);
        second_task(g);
        guest_set_gdt(g, SEL_TSS, guest_descriptor(GUEST_TSS, 0xfff, 0x8b));
        guest_set_gdt(g, SEL_ODD, guest_descriptor(0, 0xff, cases[i].attributes));
        put32(g, cases[i].field, cases[i].value);
        v->seg[SEG_TR] = (struct x86_segment){SEL_TSS, 0x8b, 0xfff, GUEST_TSS};
        guest_ring(g, 0, 32);
        GUEST_TRY(g, x86_far_jump(v, SEL_FREE, 0, 4, 0x5007));
        assert_int_equal(g->vector, cases[i].vector);
        assert_int_equal(v->fault.error, cases[i].error);
        assert_int_equal(v->rip, 0x7000);
        assert_int_equal(v->seg[SEG_TR].selector, SEL_FREE);
        assert_int_equal(type_of(g, SEL_TSS), 0x9);
    }
}

static void test_exception_through_gate(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    second_task(g);
    put32(g, 0x64, 1); /* T: debug trap */
    guest_set_idt(g, VECTOR_GP, SEL_FREE, 0, 0x85, 0);
    v->gpr[RCX] = 0xc0ffee;
    v->rip = 0x5007;
    v->fault.vector = VECTOR_GP;
    v->fault.has_error = true;
    v->fault.error = 0x1234;
    x86_deliver_fault(v);
    assert_int_equal(v->rip, 0x7000);
    assert_int_equal(v->gpr[RSP], 0x26000 - 4);
    assert_int_equal(guest_read(g, 0x26000 - 4, 4), 0x1234);
    assert_int_equal(v->rflags & FLAG_NT, FLAG_NT);
    assert_int_equal(guest_read(g, TSS2, 2), SEL_TSS);
    assert_int_equal(guest_read(g, GUEST_TSS + 0x24, 4) & FLAG_RF, FLAG_RF);
    assert_int_equal(v->debug_pending, 1u << 15);
}

/* ---- virtual-8086 mode ---- */

static void enter_v86(struct guest *g, uint32_t flags)
{
    static const uint16_t segments[5] = {0x1000, 0x2000, 0x3000, 0x4000, 0x5000};
    struct vcpu *v = g->v;
    uint64_t sp = GUEST_STACK - 36;
    guest_ring(g, 0, 32);
    v->rflags = FLAG_ONE;
    v->gpr[RSP] = sp;
    guest_write(g, sp, 0x100, 4);
    guest_write(g, sp + 4, 0x1234, 4);
    guest_write(g, sp + 8, flags | FLAG_ONE | FLAG_VM, 4);
    guest_write(g, sp + 12, 0x8000, 4);
    for (unsigned i = 0; i < 5; i++)
        guest_write(g, sp + 16 + 4 * i, segments[i], 4);
    GUEST_RUNS(g, x86_iret(v, 4, 0x5002));
}

static void test_v86_round_trip(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    enter_v86(g, FLAG_IF | FLAG_IOPL | FLAG_VIF);
    assert_int_equal(v->cpl, 3);
    assert_int_equal(v->rip, 0x100);
    assert_int_equal(v->seg[SEG_CS].base, 0x12340);
    assert_int_equal(v->seg[SEG_SS].base, 0x10000);
    assert_int_equal(v->seg[SEG_ES].base, 0x20000);
    assert_int_equal(v->seg[SEG_GS].selector, 0x5000);
    assert_int_equal(v->seg[SEG_GS].attributes, 0xf3);
    assert_int_equal(v->seg[SEG_GS].limit, 0xffff);
    assert_int_equal(v->gpr[RSP], 0x8000);
    assert_int_equal(v->rflags, FLAG_ONE | FLAG_VM | FLAG_IF | FLAG_IOPL | FLAG_VIF);
    assert_int_equal(v->reach, REACH_USER);

    guest_set_idt(g, VECTOR, SEL_CODE64, GUEST_HANDLER, 0xee, 0);
    GUEST_RUNS(g, x86_software_interrupt(v, VECTOR, 0x102, false));
    uint64_t sp = GUEST_RSP0 - 36;
    static const uint32_t frame[9] = {0x102,  0x1234, 0,      0x8000, 0x1000,
                                      0x2000, 0x3000, 0x4000, 0x5000};
    assert_int_equal(v->gpr[RSP], sp);
    for (unsigned i = 0; i < 9; i++)
        if (i != 2)
            assert_int_equal(guest_read(g, sp + 4 * i, 4), frame[i]);
    assert_int_equal(guest_read(g, sp + 8, 4), FLAG_ONE | FLAG_VM | FLAG_IF | FLAG_IOPL | FLAG_VIF);
    assert_int_equal(v->cpl, 0);
    assert_int_equal(v->rflags & (FLAG_VM | FLAG_IF), 0);
    assert_int_equal(v->seg[SEG_DS].attributes & ATTR_UNUSABLE, ATTR_UNUSABLE);
    assert_int_equal(v->seg[SEG_GS].selector, 0);
    GUEST_RUNS(g, x86_iret(v, 4, 0));
    assert_int_equal(v->rip, 0x102);
    assert_int_equal(v->seg[SEG_FS].base, 0x40000);
}

static void test_v86_rules(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    enter_v86(g, FLAG_IOPL);
    guest_set_idt(g, VECTOR, SEL_USER_CODE32, GUEST_HANDLER, 0xee, 0); /* DPL 3 */
    GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0, false), VECTOR_GP, SEL_USER_CODE32 & ~3);
    guest_set_idt(g, VECTOR, SEL_CONFORMING, GUEST_HANDLER, 0xee, 0);
    GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0, false), VECTOR_GP, SEL_CONFORMING);
    guest_set_idt(g, VECTOR, SEL_CODE64, GUEST_HANDLER, 0x8e, 0); /* gate DPL 0 */
    GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0, false), VECTOR_GP, VECTOR * 8 + 2);
    GUEST_RAISES(g, x86_far_jump(v, 0x1000, 0x10000, 4, 0), VECTOR_GP, 0);
    GUEST_RUNS(g, x86_far_jump(v, 0x1800, 0xffff, 4, 0));
    assert_int_equal(v->seg[SEG_CS].base, 0x18000);
    GUEST_RUNS(g, x86_load_segment(v, SEG_DS, 0x3fff));
    assert_int_equal(v->seg[SEG_DS].base, 0x3fff0);
    GUEST_RAISES(g, x86_linear(v, SEG_DS, 0xffff, 2, false), VECTOR_GP, 0);
    GUEST_RUNS(g, x86_linear(v, SEG_CS, 0, 1, true)); /* code may be written */
    GUEST_RAISES(g, x86_load_tr(v, SEL_TSS), VECTOR_UD, -1);
    guest_write(g, GUEST_TSS + 0x66, 0x200, 2);
    guest_write(g, GUEST_TSS + 0x210, 1, 2);
    GUEST_RAISES(g, x86_check_io(v, 0x80, 1), VECTOR_GP, 0); /* IOPL 3 is no help */
    GUEST_RUNS(g, x86_check_io(v, 0x81, 1));
    enter_v86(g, 0);
    GUEST_RAISES(g, x86_iret(v, 2, 0), VECTOR_GP, 0);
    enter_v86(g, FLAG_IOPL);
    guest_write(g, 0x18000, 0x200, 8); /* IP, CS, FLAGS = 0 */
    GUEST_RUNS(g, x86_iret(v, 2, 0));
    assert_int_equal(v->rflags, FLAG_ONE | FLAG_VM | FLAG_IOPL); /* kept */
    assert_int_equal(v->rip, 0x200);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, guest_setup_protected, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_jump_call_and_back),     TEST(test_16bit_tss),      TEST(test_refused),
        TEST(test_new_task_faults),        TEST(test_v86_round_trip), TEST(test_v86_rules),
        TEST(test_exception_through_gate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
