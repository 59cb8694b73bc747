/* SPDX-License-Identifier: MIT */
/*
 * Who gets an interprocessor interrupt: every destination mode and shorthand of the interrupt
 * command register (SDM 3A 10.6, 10.12.9 and 10.12.10) from an xAPIC and from an x2APIC, as a fixed
 * vector, at the lowest priority and as NMI.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "irq/internal.h"
#include "rig.h"

#define VECTOR  0x51u
#define LOGICAL (1u << 11)
#define SELF    (1u << 18)
#define ALL     (2u << 18)
#define OTHERS  (3u << 18)

enum model { FLAT, CLUSTER, X2APIC, MODELS };
#define IN(model) (1u << (model))
#define XAPIC     (IN(FLAT) | IN(CLUSTER))
#define EVERY     (XAPIC | IN(X2APIC))

static struct rig rig;

/* In FLAT processor n has logical ID 1 << n; in CLUSTER 0 and 1 are cluster 0, 2 and 3 cluster 1;
 * an x2APIC derives its own. */
static int setup(void **state)
{
    enum model model = *(enum model *)*state;
    rig_init(&rig, 0);
    rig_irq(&rig);
    for (unsigned i = 0; i < RIG_CPUS; i++) {
        uint64_t base;
        rig_write(&rig, i, X86_APIC_PAGE + 0xf0, 0x1ff);
        rig_write(&rig, i, X86_APIC_PAGE + 0xe0, model == FLAT ? UINT32_MAX : 0x0fffffff);
        rig_write(&rig, i, X86_APIC_PAGE + 0xd0,
                  model == FLAT ? 1u << (24 + i) : (i / 2) << 28 | 1u << (24 + i % 2));
        assert_true(msr_read(rig.cpu[i], MSR_APIC_BASE, &base));
        if (model == X2APIC)
            assert_true(msr_write(rig.cpu[i], MSR_APIC_BASE, base | BASE_X2APIC));
    }
    return 0;
}

static int teardown(void **state)
{
    rig_fini(&rig);
    return 0;
}

static void send(enum model model, unsigned from, uint32_t destination, uint32_t low)
{
    if (model == X2APIC) {
        assert_true(msr_write(rig.cpu[from], 0x830, (uint64_t)destination << 32 | low));
    } else {
        rig_write(&rig, from, X86_APIC_PAGE + 0x310, destination << 24);
        rig_write(&rig, from, X86_APIC_PAGE + 0x300, low);
    }
}

/* Takes what has come: the processors that had `vector`, or an NMI. */
static unsigned who_got(enum model model, int vector)
{
    unsigned who = 0;
    for (unsigned i = 0; i < RIG_CPUS; i++) {
        if (vcpu_requests(rig.cpu[i]) & VCPU_REQUEST_NMI)
            who |= vector < 0 ? 1u << i : 1u << 31;
        if (rig_intr(&rig, i)) {
            who |= rig_ack(&rig, i) == vector ? 1u << i : 1u << 31;
            if (model == X2APIC)
                msr_write(rig.cpu[i], 0x80b, 0);
            else
                rig_write(&rig, i, X86_APIC_PAGE + 0xb0, 0);
        }
        vcpu_request_clear(rig.cpu[i], VCPU_REQUEST_NMI | VCPU_REQUEST_NMI_NEXT);
    }
    return who;
}

static const struct {
    unsigned models; /* IN(…) */
    unsigned from;
    uint32_t destination, bits;
    unsigned who; /* bit n = processor n */
} rows[] = {
    {EVERY, 0, 2, 0, 4},
    {EVERY, 3, 0, 0, 1},
    {EVERY, 1, 1, 0, 2},         /* to itself by its own ID */
    {EVERY, 0, 9, 0, 0},         /* nobody's */
    {XAPIC, 0, 0xff, 0, 15},     /* broadcast, the sender too */
    {IN(X2APIC), 0, 0xff, 0, 0}, /* 255 is an ID there */
    {IN(X2APIC), 0, UINT32_MAX, 0, 15},
    {IN(X2APIC), 0, 0x102, 0, 0}, /* all 32 bits count */
    {EVERY, 2, 0, SELF, 4},       /* shorthands pay no heed to destination and mode */
    {EVERY, 2, 0xff, SELF | LOGICAL, 4},
    {EVERY, 2, 1, ALL, 15},
    {EVERY, 2, 1, OTHERS, 11},
    {EVERY, 0, 0, OTHERS | LOGICAL, 14},
    {IN(FLAT), 0, 0x0a, LOGICAL, 10},
    {IN(FLAT), 0, 0xff, LOGICAL, 15},
    {IN(FLAT), 0, 0xf0, LOGICAL, 0},
    {IN(FLAT), 0, 0, LOGICAL, 0},
    {IN(CLUSTER), 0, 0x01, LOGICAL, 1},
    {IN(CLUSTER), 0, 0x13, LOGICAL, 12},
    {IN(CLUSTER), 0, 0x12, LOGICAL, 8},
    {IN(CLUSTER), 0, 0x23, LOGICAL, 0}, /* no such cluster */
    {IN(CLUSTER), 0, 0xff, LOGICAL, 15},
    {IN(X2APIC), 1, 0x0005, LOGICAL, 5},
    {IN(X2APIC), 1, 0x000f, LOGICAL, 15},
    {IN(X2APIC), 1, 0x1000f, LOGICAL, 0}, /* cluster 1 has nobody */
    {IN(X2APIC), 1, UINT32_MAX, LOGICAL, 15},
};

static void fixed_and_nmi(void **state)
{
    enum model model = *(enum model *)*state;
    for (unsigned n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
        if (!(rows[n].models & IN(model)))
            continue;
        send(model, rows[n].from, rows[n].destination, rows[n].bits | VECTOR);
        unsigned fixed = who_got(model, VECTOR);
        send(model, rows[n].from, rows[n].destination, rows[n].bits | APIC_NMI << 8);
        unsigned nmi = who_got(model, -1);
        if (fixed != rows[n].who || nmi != rows[n].who)
            fail_msg("row %u: fixed to %#x, NMI to %#x, not %#x", n, fixed, nmi, rows[n].who);
    }
}

static void set_tpr(enum model model, unsigned cpu, uint32_t tpr)
{
    if (model == X2APIC)
        assert_true(msr_write(rig.cpu[cpu], 0x808, tpr));
    else
        rig_write(&rig, cpu, X86_APIC_PAGE + 0x80, tpr);
}

/* One of those addressed; of equals the first. */
static void lowest_priority(void **state)
{
    enum model model = *(enum model *)*state;
    uint32_t two = model == FLAT ? 0x0c : model == CLUSTER ? 0x13 : 0x000c; /* 2 and 3 */
    uint32_t low = APIC_LOWEST << 8 | LOGICAL | VECTOR;

    send(model, 0, two, low);
    assert_int_equal(who_got(model, VECTOR), 4);
    set_tpr(model, 2, 0x40);
    send(model, 0, two, low);
    assert_int_equal(who_got(model, VECTOR), 8);
    set_tpr(model, 3, 0x50); /* the lower of two, though 0x51 must wait there */
    set_tpr(model, 2, 0x60);
    send(model, 0, two, low);
    assert_int_equal(who_got(model, VECTOR), 0);
    set_tpr(model, 3, 0);
    assert_int_equal(who_got(model, VECTOR), 8);
    send(model, 0, model == X2APIC ? UINT32_MAX : 0xff, low);
    assert_int_equal(who_got(model, VECTOR), 1);
}

/* Disabled by software: no fixed vector, but NMI; by hardware: nothing (SDM 3A 10.4.3, 10.4.7.2).
 */
static void disabled_ones(void **state)
{
    enum model model = *(enum model *)*state;
    if (model == X2APIC)
        assert_true(msr_write(rig.cpu[1], 0x80f, 0xff));
    else
        rig_write(&rig, 1, X86_APIC_PAGE + 0xf0, 0xff);
    send(model, 0, 0, OTHERS | VECTOR);
    assert_int_equal(who_got(model, VECTOR), 12);
    send(model, 0, 0, OTHERS | APIC_NMI << 8);
    assert_int_equal(who_got(model, -1), 14);
    assert_true(msr_write(rig.cpu[1], MSR_APIC_BASE, X86_APIC_PAGE));
    send(model, 0, 0, OTHERS | APIC_NMI << 8);
    assert_int_equal(who_got(model, -1), 12);
}

static void self_register(void **state)
{
    assert_true(msr_write(rig.cpu[3], 0x83f, VECTOR));
    assert_int_equal(who_got(X2APIC, VECTOR), 8);
}

/* KVM_HC_SEND_IPI, as the local APIC answers it. */
static void by_hypercall(void **state)
{
    enum model model = *(enum model *)*state;
    struct vcpu *v = rig.cpu[0];
    const uint64_t some[2] = {5, 0}, high[2] = {0, 3}, all[2] = {UINT64_MAX, UINT64_MAX};
    int64_t (*send_ipis)(void *, const uint64_t *, unsigned, uint64_t, uint64_t) =
        v->irq->send_ipis;

    assert_int_equal(send_ipis(v->irq_context, some, 64, 1, VECTOR), 2);
    assert_int_equal(who_got(model, VECTOR), 10);
    assert_int_equal(send_ipis(v->irq_context, all, 64, 0, APIC_NMI << 8), 4);
    assert_int_equal(who_got(model, -1), 15);
    assert_int_equal(send_ipis(v->irq_context, high, 32, 0, VECTOR), 0); /* IDs 32 and 33 */
    assert_int_equal(send_ipis(v->irq_context, all, 64, UINT32_MAX, VECTOR), 0);
    assert_int_equal(send_ipis(v->irq_context, all, 64, UINT64_MAX, VECTOR), 0);
    assert_int_equal(send_ipis(v->irq_context, all, 64, 0, ALL | VECTOR), -EINVAL);
    assert_int_equal(send_ipis(v->irq_context, all, 64, 0, LOGICAL | VECTOR), -EINVAL);
    assert_int_equal(who_got(model, VECTOR), 0);
}

int main(void)
{
    static enum model models[MODELS] = {FLAT, CLUSTER, X2APIC};
#define TEST(name, f, model)                     \
    {                                            \
        name, f, setup, teardown, &models[model] \
    }
    const struct CMUnitTest tests[] = {
        TEST("flat", fixed_and_nmi, FLAT),
        TEST("cluster", fixed_and_nmi, CLUSTER),
        TEST("x2apic", fixed_and_nmi, X2APIC),
        TEST("flat_lowest_priority", lowest_priority, FLAT),
        TEST("cluster_lowest_priority", lowest_priority, CLUSTER),
        TEST("x2apic_lowest_priority", lowest_priority, X2APIC),
        TEST("xapic_disabled", disabled_ones, FLAT),
        TEST("x2apic_disabled", disabled_ones, X2APIC),
        TEST("xapic_hypercall", by_hypercall, FLAT),
        TEST("x2apic_hypercall", by_hypercall, X2APIC),
        TEST("x2apic_self", self_register, X2APIC),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
