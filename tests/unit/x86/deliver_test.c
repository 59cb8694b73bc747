/* SPDX-License-Identifier: MIT */
/* Delivery of exceptions and interrupts: frames, stacks, error codes, double and triple faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "guest.h"

#define INTERRUPT_GATE 0x8eu
#define TRAP_GATE      0x8fu
#define VECTOR         0x40

static void fault(struct guest *g, uint8_t vector, int error)
{
    g->v->fault.vector = vector;
    g->v->fault.has_error = error >= 0;
    g->v->fault.error = (uint32_t)error;
    x86_deliver_fault(g->v);
}

static void all_gates(struct guest *g, uint32_t attributes)
{
    for (unsigned i = 0; i < 256; i++)
        guest_set_idt(g, (uint8_t)i, SEL_CODE64, GUEST_HANDLER + i * 16, attributes, 0);
}

static uint64_t slot(struct guest *g, unsigned i)
{
    return guest_read(g, g->v->gpr[RSP] + 8 * i, 8);
}

static void test_same_ring(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    all_gates(g, INTERRUPT_GATE);
    v->gpr[RSP] = GUEST_STACK + 9; /* is aligned down to 16 */
    v->rflags = FLAG_ONE | FLAG_IF | FLAG_TF | FLAG_NT | FLAG_CF;
    fault(g, VECTOR_GP, 0x1238);
    assert_int_equal(v->rip, GUEST_HANDLER + 13 * 16);
    assert_int_equal(v->gpr[RSP], GUEST_STACK - 48);
    assert_int_equal(slot(g, 0), 0x1238);
    assert_int_equal(slot(g, 1), 0x5000);
    assert_int_equal(slot(g, 2), SEL_CODE64);
    assert_int_equal(slot(g, 3), FLAG_ONE | FLAG_IF | FLAG_TF | FLAG_NT | FLAG_CF | FLAG_RF);
    assert_int_equal(slot(g, 4), GUEST_STACK + 9);
    assert_int_equal(slot(g, 5), SEL_DATA);
    assert_int_equal(v->rflags, FLAG_ONE | FLAG_CF);
    assert_int_equal(v->seg[SEG_SS].selector, SEL_DATA);
    assert_int_equal(v->counters.exits[EXIT_EXCEPTION], 1);
}

static void test_from_user(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    all_gates(g, TRAP_GATE);
    guest_ring(g, 3, 64);
    v->rflags = FLAG_ONE | FLAG_IF;
    v->fault.address = 0x123456789;
    fault(g, VECTOR_PF, PF_USER);
    assert_int_equal(v->cpl, 0);
    assert_int_equal(v->cr2, 0x123456789);
    assert_int_equal(v->gpr[RSP], GUEST_RSP0 - 48);
    assert_int_equal(slot(g, 0), PF_USER);
    assert_int_equal(slot(g, 2), SEL_USER_CODE64);
    assert_int_equal(slot(g, 4), GUEST_USER);
    assert_int_equal(slot(g, 5), SEL_USER_DATA);
    assert_int_equal(v->seg[SEG_SS].selector, 0);
    assert_true(v->seg[SEG_SS].attributes & ATTR_UNUSABLE);
    assert_int_equal(v->seg[SEG_CS].selector, SEL_CODE64);
    assert_true(v->rflags & FLAG_IF); /* a trap gate */
    assert_int_not_equal(v->reach, REACH_USER);
}

/* Compatibility mode is interrupted as 64-bit mode is: 64-bit handler, 8-byte pushes, SS always. */
static void test_from_compatibility_mode(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    all_gates(g, INTERRUPT_GATE);
    guest_ring(g, 3, 32);
    x86_deliver_interrupt(v, VECTOR);
    assert_true(v->code64);
    assert_int_equal(v->gpr[RSP], GUEST_RSP0 - 40);
    assert_int_equal(slot(g, 1), SEL_USER_CODE32);
    assert_int_equal(slot(g, 2), FLAG_ONE); /* an interrupt pushes RF as it is */
    guest_ring(g, 0, 32);
    v->seg[SEG_SS].base = 0x3000; /* does not count for the handler's stack */
    x86_deliver_interrupt(v, VECTOR);
    assert_true(v->code64);
    assert_int_equal(v->gpr[RSP], GUEST_STACK - 48 + 8);
    assert_int_equal(slot(g, 4), SEL_DATA);
}

static void test_ist(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_set_idt(g, VECTOR, SEL_CODE64, GUEST_HANDLER, INTERRUPT_GATE, 1);
    x86_deliver_interrupt(v, VECTOR);
    assert_int_equal(v->gpr[RSP], GUEST_IST1 - 40);
    assert_int_equal(slot(g, 3), GUEST_STACK);
    assert_int_equal(v->seg[SEG_SS].selector, SEL_DATA); /* the ring is the same */
}

static void test_conforming_handler(void **state)
{
    struct guest *g = *state;
    guest_set_idt(g, VECTOR, SEL_CONFORMING, GUEST_HANDLER, INTERRUPT_GATE, 0);
    guest_ring(g, 3, 64);
    x86_deliver_interrupt(g->v, VECTOR);
    assert_int_equal(g->v->cpl, 3);
    assert_int_equal(g->v->seg[SEG_CS].selector, SEL_CONFORMING | 3);
    assert_int_equal(g->v->gpr[RSP], GUEST_USER - 40);
}

static const struct {
    const char *name;
    uint32_t gate; /* attributes */
    uint16_t selector;
    uint32_t code; /* attributes of SEL_FREE */
    uint64_t offset;
    unsigned cpl, ist;
    int vector, error; /* EXT clear */
} bad[] = {
    {"gate type", 0x8c, SEL_FREE, 0x9b | ATTR_L, 0x30000, 0, 0, VECTOR_GP, VECTOR * 8 + 2},
    {"16-bit gate", 0x86, SEL_FREE, 0x9b | ATTR_L, 0x30000, 0, 0, VECTOR_GP, VECTOR * 8 + 2},
    {"task gate", 0x85, SEL_FREE, 0x9b | ATTR_L, 0x30000, 0, 0, VECTOR_GP, VECTOR * 8 + 2},
    {"not a system gate", 0x9e, SEL_FREE, 0x9b | ATTR_L, 0, 0, 0, VECTOR_GP, VECTOR * 8 + 2},
    {"gate DPL", 0x8e, SEL_FREE, 0x9b | ATTR_L, 0x30000, 3, 0, VECTOR_GP, VECTOR * 8 + 2},
    {"gate not present", 0x0e, SEL_FREE, 0x9b | ATTR_L, 0, 0, 0, VECTOR_NP, VECTOR * 8 + 2},
    {"null selector", 0xee, 3, 0, 0x30000, 0, 0, VECTOR_GP, 0},
    {"selector beyond", 0xee, 0x100, 0, 0x30000, 0, 0, VECTOR_GP, 0x100},
    {"data", 0xee, SEL_DATA, 0, 0x30000, 0, 0, VECTOR_GP, SEL_DATA},
    {"code DPL > CPL", 0xee, SEL_USER_CODE64, 0, 0x30000, 0, 0, VECTOR_GP, 0x28},
    {"compatibility code", 0xee, SEL_FREE, 0x9b | ATTR_DB, 0, 0, 0, VECTOR_GP, SEL_FREE},
    {"L and D", 0xee, SEL_FREE, 0x9b | ATTR_DB | ATTR_L, 0, 0, 0, VECTOR_GP, SEL_FREE},
    {"code not present", 0xee, SEL_FREE, 0x1b | ATTR_L, 0, 0, 0, VECTOR_NP, SEL_FREE},
    {"rip not canonical", 0xee, SEL_FREE, 0x9b | ATTR_L, 1ull << 47, 0, 0, VECTOR_GP, 0},
    {"stack not canonical", 0xee, SEL_FREE, 0x9b | ATTR_L, 0, 0, 2, VECTOR_SS, 0},
    {"stack of ring 0 not canonical", 0xee, SEL_FREE, 0x9b | ATTR_L, 0, 3, 2, VECTOR_SS, 0},
    {"IST beyond the TSS", 0xee, SEL_FREE, 0x9b | ATTR_L, 0, 0, 7, VECTOR_TS, SEL_TSS},
};

static void test_causes(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_write(g, GUEST_TSS + 44, 1ull << 50, 8); /* IST 2 */
    v->seg[SEG_TR].limit = 36 + 8 * 7 - 2;
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        print_message("  %s\n", bad[i].name);
        guest_ring(g, bad[i].cpl, 64);
        guest_set_gdt(g, SEL_FREE, guest_descriptor(0, 0, bad[i].code));
        guest_set_idt(g, VECTOR, bad[i].selector, bad[i].offset, bad[i].gate, bad[i].ist);
        GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0x5002, false), bad[i].vector,
                     bad[i].error);
        if (bad[i].cpl == 3 && bad[i].gate == 0x8e)
            continue; /* the DPL of a gate is for software interrupts only */
        GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0x5002, true), bad[i].vector,
                     bad[i].error | 1);
    }
    v->idtr.limit = VECTOR * 16 + 14;
    GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0x5002, false), VECTOR_GP, VECTOR * 8 + 2);
}

/* A stack whose second half is missing: nothing is written to the first. */
static void test_stack_page_fault(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    all_gates(g, 0xee);
    v->gpr[RSP] = 0x21010;
    guest_set_page(g, 0x20000, 0);
    GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0x5002, false), VECTOR_PF, PF_WRITE);
    guest_set_page(g, 0x20000, 1); /* present, supervisor, read-only */
    GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0x5002, false), VECTOR_PF,
                 PF_PRESENT | PF_WRITE);
    guest_set_page(g, 0x20000, 3);
    GUEST_RUNS(g, x86_software_interrupt(v, VECTOR, 0x5002, false));
    assert_int_equal(slot(g, 0), 0x5002);
}

/* Frames of ring 0 are supervisor accesses: a page of user mode is refused by SMAP. */
static void test_inner_stack_reach(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    all_gates(g, 0xee);
    guest_set_page(g, GUEST_RSP0, 3); /* supervisor only */
    guest_ring(g, 3, 64);
    GUEST_RUNS(g, x86_software_interrupt(v, VECTOR, 0x5002, false));
    assert_int_equal(v->cpl, 0);
    for (uint64_t page = 0x10000; page < 0x14000; page += 4096)
        guest_set_page(g, page, 3);
    guest_set_page(g, GUEST_RSP0, 7);
    guest_ring(g, 3, 64);
    v->cr4 |= CR4_SMAP;
    v->rflags |= FLAG_AC;
    tlb_flush_all(v);
    GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0x5002, false), VECTOR_PF,
                 PF_PRESENT | PF_WRITE);
}

static const struct {
    const char *name;
    uint8_t first;
    int second; /* caused by: GP = gate not of a gate's type, NP = not present, PF = page */
    uint8_t delivered;
    int error;
} pairs[] = {
    {"#UD then #GP", VECTOR_UD, VECTOR_GP, VECTOR_GP, VECTOR_UD * 8 + 3},
    {"#GP then #NP", VECTOR_GP, VECTOR_NP, VECTOR_DF, 0},
    {"#DE then #GP", VECTOR_DE, VECTOR_GP, VECTOR_DF, 0},
    {"#PF then #GP", VECTOR_PF, VECTOR_GP, VECTOR_DF, 0},
    {"#DB then #NP", VECTOR_DB, VECTOR_NP, VECTOR_NP, VECTOR_DB * 8 + 3},
    {"#AC then #NP", VECTOR_AC, VECTOR_NP, VECTOR_NP, VECTOR_AC * 8 + 3},
    {"#NP then #GP", VECTOR_NP, VECTOR_GP, VECTOR_DF, 0},
    {"#TS then #GP", VECTOR_TS, VECTOR_GP, VECTOR_DF, 0},
    {"#SS then #GP", VECTOR_SS, VECTOR_GP, VECTOR_DF, 0},
};

static void test_pairs(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    for (unsigned i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        print_message("  %s\n", pairs[i].name);
        guest_ring(g, 0, 64);
        all_gates(g, INTERRUPT_GATE);
        guest_set_idt(g, pairs[i].first, SEL_CODE64, 0, pairs[i].second == VECTOR_NP ? 0x0e : 0x82,
                      0);
        fault(g, pairs[i].first, pairs[i].first == VECTOR_UD ? -1 : 0);
        assert_int_equal(v->activity, VCPU_ACTIVE);
        assert_int_equal(v->rip, GUEST_HANDLER + pairs[i].delivered * 16);
        assert_int_equal(slot(g, 0), pairs[i].error);
        assert_int_equal(slot(g, 1), 0x5000);
        assert_int_equal(slot(g, 4), GUEST_STACK);
    }
}

/* The page of the stack is missing: #GP -> #PF is delivered (and fails again, on the same stack ->
 * #DF on its IST). #PF -> #PF is a double fault; CR2 is of the second. */
static void test_page_fault_pairs(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    all_gates(g, INTERRUPT_GATE);
    guest_set_idt(g, VECTOR_PF, SEL_CODE64, GUEST_HANDLER, INTERRUPT_GATE, 1);
    guest_set_page(g, GUEST_STACK, 0);
    fault(g, VECTOR_GP, 0);
    assert_int_equal(v->rip, GUEST_HANDLER);
    assert_int_equal(v->gpr[RSP], GUEST_IST1 - 48);
    assert_int_equal(slot(g, 0), PF_WRITE);
    assert_in_range(v->cr2, GUEST_STACK - 48, GUEST_STACK);

    guest_ring(g, 0, 64);
    guest_set_idt(g, VECTOR_PF, SEL_CODE64, GUEST_HANDLER, INTERRUPT_GATE, 0);
    guest_set_idt(g, VECTOR_DF, SEL_CODE64, GUEST_HANDLER + 16, INTERRUPT_GATE, 1);
    v->fault.address = 0xdead000;
    fault(g, VECTOR_PF, 0);
    assert_int_equal(v->rip, GUEST_HANDLER + 16);
    assert_int_equal(slot(g, 0), 0);
    assert_in_range(v->cr2, GUEST_STACK - 48, GUEST_STACK);
}

static void test_triple_fault(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    jmp_buf mine;
    v->unwind = &mine;
    all_gates(g, 0x82);
    v->fault.address = 0;
    fault(g, VECTOR_PF, 0);
    assert_int_equal(v->activity, VCPU_SHUTDOWN);
    assert_int_equal(v->rip, 0x5000);
    assert_int_equal(v->gpr[RSP], GUEST_STACK);
    assert_ptr_equal(v->unwind, &mine);
    assert_int_equal(x86_take_events(v), EXIT_SHUTDOWN);
}

/* An external interrupt that cannot be delivered: the fault is, with EXT; one more is a #DF. */
static void test_interrupt_faults(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    all_gates(g, INTERRUPT_GATE);
    guest_set_idt(g, VECTOR, SEL_CODE64, 0, 0x0e, 0);
    x86_deliver_interrupt(v, VECTOR);
    assert_int_equal(v->rip, GUEST_HANDLER + VECTOR_NP * 16);
    assert_int_equal(slot(g, 0), VECTOR * 8 + 3);
    guest_ring(g, 0, 64);
    guest_set_idt(g, VECTOR_NP, SEL_CODE64, 0, 0x0e, 0);
    x86_deliver_interrupt(v, VECTOR);
    assert_int_equal(v->rip, GUEST_HANDLER + VECTOR_DF * 16);
}

static void test_debug(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    all_gates(g, INTERRUPT_GATE);
    v->dr6 = DR6_FIXED | 2;
    v->dr7 = DR7_FIXED | DR7_GD;
    v->fault.dr6 = 1; /* an instruction breakpoint: a fault, but RF is not pushed */
    fault(g, VECTOR_DB, -1);
    assert_int_equal(v->dr6, DR6_FIXED | 1);
    assert_int_equal(v->dr7, DR7_FIXED);
    assert_int_equal(slot(g, 2), FLAG_ONE);
    v->fault.dr6 = DR6_BD;
    fault(g, VECTOR_DB, -1);
    assert_int_equal(slot(g, 2), FLAG_ONE | FLAG_RF);
}

static void test_software(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    guest_set_idt(g, 3, SEL_CODE64, GUEST_HANDLER, 0xef, 0);
    guest_ring(g, 3, 64);
    v->rflags |= FLAG_IF | FLAG_RF;
    GUEST_RUNS(g, x86_software_interrupt(v, 3, 0x5001, false));
    assert_int_equal(slot(g, 0), 0x5001);
    assert_int_equal(slot(g, 2), FLAG_ONE | FLAG_IF);
    assert_int_equal(v->cpl, 0);
    assert_true(v->rflags & FLAG_IF);
}

static void protected_gates(struct guest *g, uint32_t attributes)
{
    for (unsigned i = 0; i < 256; i++)
        guest_set_idt(g, (uint8_t)i, SEL_CODE32, GUEST_HANDLER + i * 16, attributes, 0);
}

static void test_protected_same_ring(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    protected_gates(g, INTERRUPT_GATE);
    v->gpr[RSP] = GUEST_STACK + 2; /* is not aligned */
    v->rflags |= FLAG_IF;
    fault(g, VECTOR_GP, 0x18);
    assert_int_equal(v->rip, GUEST_HANDLER + VECTOR_GP * 16);
    assert_int_equal(v->gpr[RSP], GUEST_STACK + 2 - 16);
    assert_int_equal(guest_read(g, v->gpr[RSP], 4), 0x18);
    assert_int_equal(guest_read(g, v->gpr[RSP] + 4, 4), 0x5000);
    assert_int_equal(guest_read(g, v->gpr[RSP] + 8, 4), SEL_CODE32);
    assert_int_equal(guest_read(g, v->gpr[RSP] + 12, 4), FLAG_ONE | FLAG_IF | FLAG_RF);
    assert_false(v->rflags & FLAG_IF);
}

static void test_protected_from_user(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    protected_gates(g, INTERRUPT_GATE);
    guest_ring(g, 3, 32);
    x86_deliver_interrupt(v, VECTOR);
    assert_int_equal(v->gpr[RSP], GUEST_RSP0 - 20);
    assert_int_equal(v->seg[SEG_SS].selector, SEL_DATA);
    assert_int_equal(v->cpl, 0);
    assert_int_equal(guest_read(g, v->gpr[RSP] + 12, 4), GUEST_USER);
    assert_int_equal(guest_read(g, v->gpr[RSP] + 16, 4), SEL_USER_DATA);

    guest_ring(g, 3, 32);
    protected_gates(g, 0x86); /* 16-bit frames */
    guest_set_idt(g, VECTOR, SEL_CODE32, 0x3010, 0x86, 0);
    x86_deliver_interrupt(v, VECTOR);
    assert_int_equal(v->gpr[RSP], GUEST_RSP0 - 10);
    assert_int_equal(v->rip, 0x3010);
    assert_int_equal(guest_read(g, v->gpr[RSP] + 6, 2), GUEST_USER & 0xffff);
}

static const struct {
    const char *name;
    uint16_t ss;
    uint32_t attributes; /* of SEL_FREE */
    int vector, error;
} inner_ss[] = {
    {"null", 0, 0, VECTOR_TS, 0},
    {"beyond", 0x100, 0, VECTOR_TS, 0x100},
    {"RPL", SEL_FREE | 3, 0x93, VECTOR_TS, SEL_FREE},
    {"DPL", SEL_FREE, 0xf3, VECTOR_TS, SEL_FREE},
    {"read-only", SEL_FREE, 0x91, VECTOR_TS, SEL_FREE},
    {"code", SEL_FREE, 0x9b, VECTOR_TS, SEL_FREE},
    {"not present", SEL_FREE, 0x13, VECTOR_SS, SEL_FREE},
    {"limit", SEL_FREE, 0x93, VECTOR_SS, SEL_FREE},
};

static void test_protected_inner_ss(void **state)
{
    struct guest *g = *state;
    struct vcpu *v = g->v;
    protected_gates(g, 0xee);
    for (unsigned i = 0; i < sizeof(inner_ss) / sizeof(inner_ss[0]); i++) {
        print_message("  %s\n", inner_ss[i].name);
        guest_ring(g, 3, 32);
        guest_write(g, GUEST_TSS + 8, inner_ss[i].ss, 2);
        guest_set_gdt(g, SEL_FREE, guest_descriptor(0, 0xfff, inner_ss[i].attributes | ATTR_DB));
        GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0, false), inner_ss[i].vector,
                     inner_ss[i].error);
    }
    v->seg[SEG_TR].limit = 6;
    GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0, true), VECTOR_TS, SEL_TSS | 1);
    guest_set_idt(g, VECTOR, SEL_FREE, 0x1001, 0xee, 0);
    guest_set_gdt(g, SEL_FREE, guest_descriptor(0, 0x1000, 0x9b | ATTR_DB));
    guest_ring(g, 0, 32);
    GUEST_RAISES(g, x86_software_interrupt(v, VECTOR, 0, false), VECTOR_GP, 0); /* EIP > limit */
}

#define LONG(f)      cmocka_unit_test_setup_teardown(f, guest_setup_long, guest_teardown)
#define PROTECTED(f) cmocka_unit_test_setup_teardown(f, guest_setup_protected, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LONG(test_same_ring),
        LONG(test_from_user),
        LONG(test_from_compatibility_mode),
        LONG(test_ist),
        LONG(test_conforming_handler),
        LONG(test_causes),
        LONG(test_stack_page_fault),
        LONG(test_inner_stack_reach),
        LONG(test_pairs),
        LONG(test_page_fault_pairs),
        LONG(test_triple_fault),
        LONG(test_interrupt_faults),
        LONG(test_debug),
        LONG(test_software),
        PROTECTED(test_protected_same_ring),
        PROTECTED(test_protected_from_user),
        PROTECTED(test_protected_inner_ss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
