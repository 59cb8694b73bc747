/* SPDX-License-Identifier: MIT */
/* The local APIC and the I/O APIC over the bus and the MSRs (SDM 3A chapter 10, 82093AA). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"
#include "irq/internal.h"

#define LAPIC  0xfee00000u
#define IOAPIC 0xfec00000u

static struct rig rig;

static int setup(void **state)
{
    rig_init(&rig, 0);
    rig_irq(&rig);
    for (unsigned i = 0; i < RIG_CPUS; i++)
        rig_write(&rig, i, LAPIC + 0xf0, 0x1ff);
    return 0;
}

static int teardown(void **state)
{
    rig_fini(&rig);
    return 0;
}

static uint32_t get(unsigned cpu, unsigned reg)
{
    return rig_read(&rig, cpu, LAPIC + reg);
}

static void set(unsigned cpu, unsigned reg, uint32_t value)
{
    rig_write(&rig, cpu, LAPIC + reg, value);
}

static void send(unsigned cpu, uint32_t destination, uint32_t low)
{
    set(cpu, 0x310, destination << 24);
    set(cpu, 0x300, low);
}

static void io_write(unsigned reg, uint32_t value)
{
    rig_write(&rig, 0, IOAPIC, reg);
    rig_write(&rig, 0, IOAPIC + 0x10, value);
}

static uint32_t io_read(unsigned reg)
{
    rig_write(&rig, 0, IOAPIC, reg);
    return rig_read(&rig, 0, IOAPIC + 0x10);
}

static void line(unsigned gsi, bool level)
{
    struct irq_line l = irq_line_of(rig.irq, gsi);
    irq_line_set(&l, level);
}

static bool wrmsr(unsigned cpu, uint32_t msr, uint64_t value)
{
    return msr_write(rig.cpu[cpu], msr, value);
}

static uint64_t rdmsr(unsigned cpu, uint32_t msr)
{
    uint64_t value = 0;
    assert_true(msr_read(rig.cpu[cpu], msr, &value));
    return value;
}

static void each_cpu_has_its_own_page(void **state)
{
    for (unsigned i = 0; i < RIG_CPUS; i++)
        assert_int_equal(get(i, 0x20), i << 24);
    set(1, 0x80, 0x35);
    assert_int_equal(get(1, 0x80), 0x35);
    assert_int_equal(get(0, 0x80), 0);
    assert_int_equal(get(0, 0x30) & 0xff00ff, 0x050014);
    assert_int_equal(rig.cpu[1]->irq->cr8_read(rig.cpu[1]->irq_context), 3);
}

static void priorities(void **state)
{
    send(1, 0, 0x51);
    send(1, 0, 0x62);
    assert_true(rig_intr(&rig, 0));
    assert_int_equal(rig_ack(&rig, 0), 0x62);
    assert_int_equal(get(0, 0xa0), 0x60);
    assert_false(rig_intr(&rig, 0));
    send(1, 0, 0x6f); /* the same class waits */
    assert_false(rig_intr(&rig, 0));
    send(1, 0, 0x71);
    assert_int_equal(rig_ack(&rig, 0), 0x71);
    set(0, 0xb0, 0);
    set(0, 0xb0, 0);
    assert_int_equal(rig_ack(&rig, 0), 0x6f);
    set(0, 0xb0, 0);
    rig.cpu[0]->irq->cr8_write(rig.cpu[0]->irq_context, 5);
    assert_false(rig_intr(&rig, 0));
    assert_int_equal(rig_ack(&rig, 0), -1);
    rig.cpu[0]->irq->cr8_write(rig.cpu[0]->irq_context, 4);
    assert_true(rig_intr(&rig, 0));
    assert_int_equal(get(0, 0x220), 1u << 17); /* IRR of 0x51 */
    assert_int_equal(rig_ack(&rig, 0), 0x51);
    assert_int_equal(get(0, 0x120), 1u << 17); /* ISR */
}

static unsigned who_has_it(void)
{
    unsigned who = 0;
    for (unsigned i = 0; i < RIG_CPUS; i++) {
        if (rig_intr(&rig, i)) {
            who |= 1u << i;
            rig_ack(&rig, i);
            set(i, 0xb0, 0);
        }
    }
    return who;
}

static void destinations(void **state)
{
    send(0, 2, 0x40);
    assert_int_equal(who_has_it(), 4);
    send(0, 0xff, 0x40);
    assert_int_equal(who_has_it(), 15);
    send(2, 0, 0x40 | 1 << 18);
    assert_int_equal(who_has_it(), 4);
    send(2, 0, 0x40 | 2 << 18);
    assert_int_equal(who_has_it(), 15);
    send(2, 0, 0x40 | 3 << 18);
    assert_int_equal(who_has_it(), 11);
    for (unsigned i = 0; i < RIG_CPUS; i++)
        set(i, 0xd0, 1u << (24 + i));
    send(0, 0x0a, 0x40 | 1 << 11); /* flat */
    assert_int_equal(who_has_it(), 10);
    for (unsigned i = 0; i < RIG_CPUS; i++) {
        set(i, 0xe0, 0);
        set(i, 0xd0, (i / 2) << 28 | 1u << (24 + i % 2));
    }
    assert_int_equal(get(1, 0xe0), 0x0fffffff);
    send(0, 0x13, 0x40 | 1 << 11); /* cluster 1 */
    assert_int_equal(who_has_it(), 12);
    set(2, 0x80, 0x50);
    send(0, 0x13, 0x140 | 1 << 11); /* lowest priority */
    assert_int_equal(who_has_it(), 8);
    set(3, 0xf0, 0xff);
    send(0, 3, 0x40); /* disabled by software */
    assert_int_equal(who_has_it(), 0);
}

static void requests_to_the_processor(void **state)
{
    send(0, 1, 0x400);
    assert_int_equal(vcpu_requests(rig.cpu[1]), VCPU_REQUEST_NMI);
    send(0, 2, 0x4500);
    assert_int_equal(vcpu_requests(rig.cpu[2]), VCPU_REQUEST_INIT);
    send(0, 3, 0x8500); /* INIT de-assert: nothing */
    assert_int_equal(vcpu_requests(rig.cpu[3]), 0);
    send(0, 2, 0x46a5);
    assert_int_equal(vcpu_requests(rig.cpu[2]), VCPU_REQUEST_INIT | VCPU_REQUEST_SIPI);
    assert_int_equal(rig.cpu[2]->irq->sipi_vector(rig.cpu[2]->irq_context), 0xa5);
    rig.cpu[2]->irq->init(rig.cpu[2]->irq_context);
    assert_int_equal(get(2, 0xf0), 0xff);
    assert_int_equal(get(2, 0x20), 2 << 24);
    set(3, 0x360, 0x400);
    irq_nmi(rig.irq);
    assert_int_equal(vcpu_requests(rig.cpu[3]), VCPU_REQUEST_NMI);
    assert_int_equal(vcpu_requests(rig.cpu[0]), 0); /* LINT1 is masked */
}

static void errors(void **state)
{
    set(0, 0x370, 0xe3);
    send(0, 1, 0x05);
    assert_int_equal(rig_ack(&rig, 0), 0xe3);
    assert_int_equal(get(0, 0x280), 0);
    set(0, 0x280, 0);
    assert_int_equal(get(0, 0x280), 0x20); /* send illegal vector */
    get(0, 0x3d0);
    set(0, 0x280, 0);
    assert_int_equal(get(0, 0x280), 0x80); /* illegal register */
    set(0, 0x370, 0x03);
    assert_true(irq_msi(rig.irq, 0xfee00000, 0x07));
    set(0, 0x280, 0);
    assert_int_equal(get(0, 0x280), 0x40); /* receive illegal vector */
}

static void timer_counts_by_the_divide(void **state)
{
    static const struct {
        unsigned code, divide;
    } d[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
    for (unsigned i = 0; i < 8; i++) {
        uint64_t now = clock_now(rig.clock);
        set(0, 0x320, 0x40);
        set(0, 0x3e0, d[i].code);
        set(0, 0x380, 1000000);
        rig_to(&rig, now + 400000ull * d[i].divide);
        assert_int_equal(get(0, 0x390), 600000);
        rig_to(&rig, now + 1000000ull * d[i].divide - 1);
        assert_false(rig_intr(&rig, 0));
        rig_to(&rig, now + 1000000ull * d[i].divide);
        assert_int_equal(rig_ack(&rig, 0), 0x40);
        assert_int_equal(get(0, 0x390), 0);
        set(0, 0xb0, 0);
    }
    rig_to(&rig, clock_now(rig.clock) + 1000000000);
    assert_false(rig_intr(&rig, 0));
}

static void timer_repeats_and_keeps_a_backlog(void **state)
{
    set(0, 0x3e0, 11);
    set(0, 0x320, 0x20040);
    set(0, 0x380, 10000000); /* 10 ms */
    for (unsigned i = 1; i < 10; i++) {
        rig_to(&rig, i * 10000000ull);
        assert_int_equal(rig_ack(&rig, 0), 0x40);
        set(0, 0xb0, 0);
        assert_false(rig_intr(&rig, 0));
    }
    rig_to(&rig, 155000000); /* 6 more are due */
    assert_int_equal(get(0, 0x390), 5000000);
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(rig_ack(&rig, 0), 0x40);
        set(0, 0xb0, 0);
    }
    assert_int_equal(rig_ack(&rig, 0), -1);
    rig_to(&rig, 10000000000);
    unsigned n = 0;
    for (; rig_ack(&rig, 0) >= 0; n++)
        set(0, 0xb0, 0);
    assert_int_equal(n, 101); /* the one in IRR and a second's worth */
    assert_int_equal(rig.irq->lapics[0].lost, 1000 - 15 - 101);
}

static void timer_changes_its_repeat(void **state)
{
    set(0, 0x3e0, 11);
    set(0, 0x320, 0x20040);
    set(0, 0x380, 10000000);
    rig_to(&rig, 33000000);
    while (rig_ack(&rig, 0) >= 0)
        set(0, 0xb0, 0);
    set(0, 0x320, 0x40); /* one-shot: to the end of this period */
    assert_int_equal(get(0, 0x390), 7000000);
    rig_to(&rig, 40000000);
    assert_int_equal(rig_ack(&rig, 0), 0x40);
    set(0, 0xb0, 0);
    assert_int_equal(get(0, 0x390), 0);
    set(0, 0x320, 0x20040); /* an ended count does not start again */
    assert_int_equal(get(0, 0x390), 0);
    rig_to(&rig, 60000000);
    assert_int_equal(rig_ack(&rig, 0), -1);
}

static void tsc_deadline(void **state)
{
    assert_true(wrmsr(0, MSR_TSC_DEADLINE, 5000));
    assert_int_equal(rdmsr(0, MSR_TSC_DEADLINE), 0); /* not in the mode */
    set(0, 0x320, 0x40040);
    rig.cpu[0]->tsc_offset = 1000000;
    wrmsr(0, MSR_TSC_DEADLINE, 1500000);
    assert_int_equal(rdmsr(0, MSR_TSC_DEADLINE), 1500000);
    rig_to(&rig, 499999);
    assert_false(rig_intr(&rig, 0));
    rig_to(&rig, 500000);
    assert_int_equal(rig_ack(&rig, 0), 0x40);
    assert_int_equal(rdmsr(0, MSR_TSC_DEADLINE), 0);
    set(0, 0xb0, 0);
    wrmsr(0, MSR_TSC_DEADLINE, 10); /* in the past: at once */
    assert_int_equal(rig_ack(&rig, 0), 0x40);
    set(0, 0xb0, 0);
    wrmsr(0, MSR_TSC_DEADLINE, 1700000);
    rig.cpu[0]->tsc_offset = 0; /* the TSC was moved back */
    rig.cpu[0]->irq->tsc_moved(rig.cpu[0]->irq_context);
    rig_to(&rig, 1699999);
    assert_false(rig_intr(&rig, 0));
    rig_to(&rig, 1700000);
    assert_int_equal(rig_ack(&rig, 0), 0x40);
    set(0, 0xb0, 0);
    wrmsr(0, MSR_TSC_DEADLINE, 2000000);
    set(0, 0x320, 0x40); /* leaving the mode disarms */
    rig_to(&rig, 3000000);
    assert_false(rig_intr(&rig, 0));
}

static void x2apic_moves(void **state)
{
    uint64_t base = rdmsr(1, MSR_APIC_BASE);
    uint64_t value;
    assert_int_equal(base, 0xfee00800);
    assert_int_equal(rdmsr(0, MSR_APIC_BASE), 0xfee00900);
    assert_false(msr_read(rig.cpu[1], 0x802, &value));
    assert_false(wrmsr(1, MSR_APIC_BASE, base | 1));
    assert_false(wrmsr(1, MSR_APIC_BASE, base | 1ull << 46));
    assert_false(wrmsr(1, MSR_APIC_BASE, (base & ~0x800ull) | 0x400));
    assert_true(wrmsr(1, MSR_APIC_BASE, base | 0x400));
    assert_false(wrmsr(1, MSR_APIC_BASE, base)); /* not back */
    assert_int_equal(rdmsr(1, 0x802), 1);
    assert_int_equal(rdmsr(1, 0x80d), 2);
    assert_int_equal(get(1, 0x20), UINT32_MAX); /* the page is gone */
    assert_false(wrmsr(1, 0x80b, 1));
    assert_false(wrmsr(1, 0x802, 1));
    assert_false(wrmsr(1, 0x808, 0x100));
    assert_false(wrmsr(1, 0x828, 1));
    assert_false(wrmsr(1, 0x831, 0));
    assert_false(msr_read(rig.cpu[1], 0x80b, &value));
    assert_false(msr_read(rig.cpu[1], 0x80e, &value));
    assert_true(wrmsr(1, 0x83f, 0x45));
    assert_int_equal(rig_ack(&rig, 1), 0x45);
    assert_true(wrmsr(1, 0x80b, 0));
    assert_true(wrmsr(1, 0x830, 3ull << 32 | 0x46));
    assert_int_equal(rig_ack(&rig, 3), 0x46);
    assert_true(wrmsr(1, 0x830, UINT64_MAX << 32 | 0x47));
    assert_int_equal(rig_ack(&rig, 1), 0x47);
    assert_int_equal(rig_ack(&rig, 0), 0x47);
    assert_true(rig.cpu[1]->irq->apic_enabled(rig.cpu[1]->irq_context)); /* for CPUID */
    assert_true(wrmsr(1, MSR_APIC_BASE, base & ~0x800ull));
    assert_false(rig.cpu[1]->irq->apic_enabled(rig.cpu[1]->irq_context));
    assert_false(wrmsr(1, MSR_APIC_BASE, base | 0x400)); /* not from disabled */
    assert_true(wrmsr(1, MSR_APIC_BASE, base));
    assert_int_equal(get(1, 0xf0), 0xff);             /* as after power-up */
    assert_true(wrmsr(1, MSR_APIC_BASE, 0x12340800)); /* the TLB leads from there: tlb_test.c */
    assert_int_equal(rig.cpu[1]->apic_moved, 0x12340001);
    assert_true(wrmsr(1, MSR_APIC_BASE, base));
    assert_int_equal(rig.cpu[1]->apic_moved, 0);
}

static void xapic_id_is_written(void **state)
{
    uint64_t base = rdmsr(1, MSR_APIC_BASE);
    set(1, 0x20, 0x55123456);
    set(2, 0x20, 0x55000000);
    assert_int_equal(get(1, 0x20), 0x55000000);
    send(0, 1, 0x41); /* nobody any more */
    for (unsigned i = 0; i < RIG_CPUS; i++)
        assert_false(rig_intr(&rig, i));
    send(0, 0x55, 0x41); /* both */
    assert_int_equal(rig_ack(&rig, 1), 0x41);
    assert_int_equal(rig_ack(&rig, 2), 0x41);
    assert_false(rig_intr(&rig, 0) || rig_intr(&rig, 3));
    rig.cpu[1]->irq->init(rig.cpu[1]->irq_context);
    assert_int_equal(get(1, 0x20), 0x55000000); /* SDM 3A 10.4.7.3 */
    assert_true(wrmsr(1, MSR_APIC_BASE, base | 0x400));
    assert_int_equal(rdmsr(1, 0x802), 1);
    assert_true(wrmsr(1, 0x80f, 0x1ff));
    set(0, 0x310, 1u << 24);
    set(0, 0x300, 0x42);
    assert_int_equal(rig_ack(&rig, 1), 0x42);
    assert_true(wrmsr(1, MSR_APIC_BASE, base & ~0x800ull));
    assert_true(wrmsr(1, MSR_APIC_BASE, base));
    assert_int_equal(get(1, 0x20), 0x01000000);
    set(1, 0x20, 0xaa000000);
    irq_reset(rig.irq);
    assert_int_equal(get(1, 0x20), 0x01000000);
}

/* What --cpu takes away is gone for the MSRs, the LVT and a saved state alike. */
static void without_features(void **state)
{
    uint64_t base = rdmsr(1, MSR_APIC_BASE), value;
    struct rig full;
    rig_init(&full, 0);
    rig_irq(&full);
    struct lapic *from = &full.irq->lapics[1], *to = &rig.irq->lapics[1];
    assert_int_equal(
        cpuid_model_build(&rig.cpuid, "max,-x2apic,-tsc_deadline", 1000000000, RIG_CPUS, NULL), 0);
    assert_false(wrmsr(1, MSR_APIC_BASE, base | 0x400));
    assert_true(wrmsr(1, MSR_APIC_BASE, base));
    assert_false(wrmsr(1, MSR_TSC_DEADLINE, 1));
    assert_false(msr_read(rig.cpu[1], MSR_TSC_DEADLINE, &value));
    set(1, 0x320, 0x40055);
    assert_int_equal(get(1, 0x320), 0x55);
    rig_copy_state(&lapic_state, from, to);
    rig_refuses(&lapic_state, from, to, "base", 0xfee00c00);
    rig_refuses(&lapic_state, from, to, "tsc_deadline", 5);
    from->lvt[LVT_TIMER] = 0x40055;
    rig_refuses(&lapic_state, from, to, "tpr", 0);
    rig_fini(&full);
}

static void software_disable_masks_the_lvt(void **state)
{
    set(0, 0x320, 0x40);
    set(0, 0xf0, 0xff);
    assert_int_equal(get(0, 0x320), 0x10040);
    set(0, 0x320, 0x41);
    assert_int_equal(get(0, 0x320), 0x10041);
}

static void ioapic_edge(void **state)
{
    assert_int_equal(io_read(1), 0x170020);
    assert_int_equal(io_read(0x10), 0x10000);
    line(4, true); /* on a masked input: lost */
    line(4, false);
    io_write(0x19, 1 << 24);
    io_write(0x18, 0x34);
    assert_false(rig_intr(&rig, 1));
    line(4, true);
    line(4, false);
    assert_int_equal(rig_ack(&rig, 1), 0x34);
    set(1, 0xb0, 0);
    assert_false(rig_intr(&rig, 1));
    io_write(0x15, 1 << 24); /* the PIT is on pin 2 */
    io_write(0x14, 0x30);
    struct irq_line pit = irq_line_of(rig.irq, 0);
    assert_false(irq_line_pending(&pit));
    line(0, true);
    assert_true(irq_line_pending(&pit));
    assert_int_equal(rig_ack(&rig, 1), 0x30);
    assert_false(irq_line_pending(&pit));
}

static void ioapic_level_asks_again(void **state)
{
    io_write(0x31, 2 << 24);
    io_write(0x30, 0x8055);
    line(16, true);
    assert_int_equal(io_read(0x30), 0xc055); /* remote IRR */
    assert_int_equal(rig_ack(&rig, 2), 0x55);
    assert_int_equal(get(2, 0x1a0), 1u << 21); /* TMR */
    line(16, false);
    line(16, true);
    assert_false(rig_intr(&rig, 2));
    set(2, 0xb0, 0);
    assert_int_equal(rig_ack(&rig, 2), 0x55);
    line(16, false);
    set(2, 0xb0, 0);
    assert_false(rig_intr(&rig, 2));
    assert_int_equal(io_read(0x30), 0x8055);

    set(2, 0xf0, 0x11ff); /* EOI broadcasts off: the EOI register ends it */
    line(16, true);
    rig_ack(&rig, 2);
    set(2, 0xb0, 0);
    assert_int_equal(io_read(0x30), 0xc055);
    rig_write(&rig, 0, IOAPIC + 0x40, 0x55);
    assert_true(rig_intr(&rig, 2));
    io_write(0x30, 0x18055);
    io_write(0x30, 0x10055); /* edge: remote IRR goes */
    assert_int_equal(io_read(0x30), 0x10055);
    rig_ack(&rig, 2);
    set(2, 0xb0, 0);
    io_write(0x30, 0x8055); /* unmasked while asserted */
    assert_int_equal(rig_ack(&rig, 2), 0x55);
}

static void lint0_brings_the_pic(void **state)
{
    set(0, 0x350, 0x700);
    rig_out(&rig, 0x20, 0x11);
    rig_out(&rig, 0x21, 0x20);
    rig_out(&rig, 0x21, 4);
    rig_out(&rig, 0x21, 1);
    line(3, true);
    assert_int_equal(rig_ack(&rig, 0), 0x23);
    rig_out(&rig, 0x20, 0x20);
    line(3, false);
    set(0, 0x350, 0x66); /* fixed: the output's edge is an interrupt of its own */
    line(3, true);
    assert_int_equal(rig_ack(&rig, 0), 0x66);
    set(0, 0xb0, 0);
    wrmsr(0, MSR_APIC_BASE, 0xfee00100);
    assert_int_equal(rig_ack(&rig, 0), 0x23); /* disabled: LINT0 is INTR */
}

static void msi(void **state)
{
    assert_false(irq_msi(rig.irq, 0xfed00000, 0x41));
    assert_false(irq_msi(rig.irq, 0x1fee00000, 0x41));
    assert_true(irq_msi(rig.irq, 0xfee03000, 0x41));
    assert_int_equal(who_has_it(), 8);
    assert_true(irq_msi(rig.irq, 0xfeeff008, 0x41)); /* redirection hint: one of all */
    assert_int_equal(who_has_it(), 1);
}

static void visit(void *context, const struct field_table *t, uint32_t instance, void *object)
{
    struct rig *other = context;
    void *to = t == &pic_state      ? (void *)&other->irq->pic
               : t == &ioapic_state ? (void *)&other->irq->ioapic
                                    : (void *)&other->irq->lapics[instance];
    rig_copy_state(t, object, to);
}

static void state_goes_round(void **state)
{
    struct rig other;
    rig_init(&other, 0);
    rig_irq(&other);
    send(0, 1, 0x71);
    rig_ack(&rig, 1);
    send(0, 1, 0x51);
    send(0, 1, 0x91);
    io_write(0x31, 2 << 24);
    io_write(0x30, 0x8055);
    line(16, true);
    set(0, 0x320, 0x20040);
    set(0, 0x380, 50000);
    set(3, 0x320, 0x40044);
    wrmsr(3, MSR_TSC_DEADLINE, 333333);
    rig_to(&rig, 260000);
    clock_stop(rig.clock);
    clock_stop(other.clock);
    rig_copy_state(&clock_state, rig.clock, other.clock);
    irq_visit_state(rig.irq, visit, &other);
    clock_start(rig.clock);
    clock_start(other.clock);
    rig_to(&rig, 400000);
    rig_to(&other, 400000);
    for (unsigned i = 0; i < RIG_CPUS; i++) {
        for (unsigned n = 0; n < 5; n++) {
            assert_int_equal(rig_intr(&rig, i), rig_intr(&other, i));
            assert_int_equal(rig_ack(&rig, i), rig_ack(&other, i));
            rig_write(&rig, i, LAPIC + 0xb0, 0);
            rig_write(&other, i, LAPIC + 0xb0, 0);
        }
    }
    struct lapic *a = &rig.irq->lapics[1], *b = &other.irq->lapics[1];
    rig_refuses(&lapic_state, a, b, "base", 0xfee00400);
    a->id = 9;
    rig_refuses(&lapic_state, a, b, "base", 0xfee00c00);
    a->id = 1;
    rig_refuses(&lapic_state, a, b, "isr", 1);
    rig_refuses(&lapic_state, a, b, "lvt", 1u << 30);
    rig_refuses(&lapic_state, a, b, "timer_divide", 4);
    rig_refuses(&lapic_state, a, b, "timer_running", 1);
    rig_refuses(&ioapic_state, &rig.irq->ioapic, &other.irq->ioapic, "lines", 1u << 24);
    rig_refuses(&ioapic_state, &rig.irq->ioapic, &other.irq->ioapic, "entry", 1u << 14);
    rig_fini(&other);
}

static void hostile(void **state)
{
    for (unsigned i = 0; i < 40000; i++) {
        rig_hostile(&rig, BUS_MMIO, LAPIC, 0x1000, 4);
        rig_hostile(&rig, BUS_MMIO, IOAPIC, 0x44, 4);
        unsigned cpu = rig_random(&rig) % RIG_CPUS;
        uint64_t value = rig_random(&rig) & rig_random(&rig);
        wrmsr(cpu, 0x800 + rig_random(&rig) % 64, value);
        if (i % 8 == 0)
            wrmsr(cpu, MSR_APIC_BASE, 0xfee00000 | (value & 0xc00));
        wrmsr(cpu, MSR_TSC_DEADLINE, value << rig_random(&rig) % 40);
        msr_read(rig.cpu[cpu], 0x800 + rig_random(&rig) % 256, &value);
        line(rig_random(&rig) % 24, rig_random(&rig) & 1);
        for (unsigned c = 0; c < RIG_CPUS; c++) {
            bool intr = rig_intr(&rig, c);
            if (rig_random(&rig) & 1)
                assert_int_equal(rig_ack(&rig, c) >= 0, intr);
        }
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(each_cpu_has_its_own_page),
        TEST(priorities),
        TEST(destinations),
        TEST(requests_to_the_processor),
        TEST(errors),
        TEST(timer_counts_by_the_divide),
        TEST(timer_repeats_and_keeps_a_backlog),
        TEST(timer_changes_its_repeat),
        TEST(tsc_deadline),
        TEST(x2apic_moves),
        TEST(xapic_id_is_written),
        TEST(without_features),
        TEST(software_disable_masks_the_lvt),
        TEST(ioapic_edge),
        TEST(ioapic_level_asks_again),
        TEST(lint0_brings_the_pic),
        TEST(msi),
        TEST(state_goes_round),
        TEST(hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
