/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "dev/acpi_pm.h"

#define EVENT_ENABLE (ACPI_PM1_EVENT + 2)
#define SECOND       1000000000ull

static struct acpi_pm *create(struct harness *h)
{
    struct acpi_pm *p;
    assert_int_equal(
        acpi_pm_create(&p, &h->bus, h->clock, harness_irq(h, ACPI_SCI), harness_sink(h), NULL), 0);
    return p;
}

static void enabling_acpi(void **state)
{
    struct harness *h = harness_create();
    struct acpi_pm *p = create(h);
    assert_int_equal(in(h, ACPI_PM1_CONTROL, 2) & ACPI_CONTROL_SCI_ENABLE, 0);
    outb(h, ACPI_SMI_COMMAND, ACPI_SMI_ENABLE);
    assert_int_equal(in(h, ACPI_PM1_CONTROL, 2) & ACPI_CONTROL_SCI_ENABLE, 1);
    assert_int_equal(inb(h, ACPI_SMI_COMMAND), ACPI_SMI_ENABLE);
    outb(h, ACPI_SMI_COMMAND, ACPI_SMI_DISABLE);
    assert_int_equal(in(h, ACPI_PM1_CONTROL, 2) & ACPI_CONTROL_SCI_ENABLE, 0);
    outb(h, ACPI_SMI_COMMAND + 1, 0x5a);
    assert_int_equal(inb(h, ACPI_SMI_COMMAND + 1), 0x5a);
    acpi_pm_destroy(p);
    harness_destroy(h);
}

static void power_button_interrupts(void **state)
{
    struct harness *h = harness_create();
    struct acpi_pm *p = create(h);
    outb(h, ACPI_SMI_COMMAND, ACPI_SMI_ENABLE);
    acpi_pm_power_button(p);
    assert_false(h->level[ACPI_SCI]);
    out(h, EVENT_ENABLE, ACPI_PM1_POWER_BUTTON, 2);
    assert_true(h->level[ACPI_SCI]);
    assert_int_equal(in(h, ACPI_PM1_EVENT, 2), ACPI_PM1_POWER_BUTTON);
    outb(h, ACPI_PM1_EVENT, 0xff); /* the other byte */
    assert_true(h->level[ACPI_SCI]);
    out(h, ACPI_PM1_EVENT, ACPI_PM1_POWER_BUTTON, 2);
    assert_false(h->level[ACPI_SCI]);
    assert_int_equal(in(h, ACPI_PM1_EVENT, 4), (uint32_t)ACPI_PM1_POWER_BUTTON << 16);
    acpi_pm_event(p, 3);
    assert_false(h->level[ACPI_SCI]);
    out(h, ACPI_GPE0 + 2, 8, 2);
    assert_true(h->level[ACPI_SCI]);
    out(h, ACPI_GPE0, 8, 1);
    assert_false(h->level[ACPI_SCI]);
    acpi_pm_destroy(p);
    harness_destroy(h);
}

static void timer_counts(void **state)
{
    struct harness *h = harness_create();
    struct acpi_pm *p = create(h);
    uint32_t a = in(h, ACPI_PM_TIMER, 4);
    harness_run(h, SECOND);
    assert_in_range(in(h, ACPI_PM_TIMER, 4) - a, ACPI_PM_TIMER_HZ - 1, ACPI_PM_TIMER_HZ + 1);
    out(h, ACPI_PM_TIMER, 0, 4);
    assert_in_range(in(h, ACPI_PM_TIMER, 4) - a, ACPI_PM_TIMER_HZ - 1, ACPI_PM_TIMER_HZ + 1);
    acpi_pm_destroy(p);
    harness_destroy(h);
}

static void timer_status_follows_its_highest_bit(void **state)
{
    struct harness *h = harness_create();
    struct acpi_pm *p = create(h);
    uint64_t half = (((uint64_t)1 << 31) * SECOND) / ACPI_PM_TIMER_HZ;
    outb(h, ACPI_SMI_COMMAND, ACPI_SMI_ENABLE);
    out(h, EVENT_ENABLE, ACPI_PM1_TIMER, 2);
    harness_run(h, half - SECOND);
    assert_int_equal(h->rises[ACPI_SCI], 0);
    harness_run(h, 2 * SECOND);
    assert_int_equal(h->rises[ACPI_SCI], 1);
    assert_true(in(h, ACPI_PM_TIMER, 4) & 0x80000000u);
    out(h, ACPI_PM1_EVENT, ACPI_PM1_TIMER, 2);
    assert_false(h->level[ACPI_SCI]);
    harness_run(h, half);
    assert_int_equal(h->rises[ACPI_SCI], 2);
    assert_false(in(h, ACPI_PM_TIMER, 4) & 0x80000000u);
    out(h, EVENT_ENABLE, 0, 2);
    out(h, ACPI_PM1_EVENT, ACPI_PM1_TIMER, 2);
    harness_run(h, half);
    assert_int_equal(in(h, ACPI_PM1_EVENT, 2), ACPI_PM1_TIMER); /* without the interrupt too */
    assert_int_equal(h->rises[ACPI_SCI], 2);
    acpi_pm_destroy(p);
    harness_destroy(h);
}

static void only_s5_powers_off(void **state)
{
    struct harness *h = harness_create();
    struct acpi_pm *p = create(h);
    for (unsigned type = 0; type < 8; type++) {
        out(h, ACPI_PM1_CONTROL, type << ACPI_CONTROL_SLEEP_SHIFT, 2);
        assert_int_equal(h->power_offs, type > ACPI_S5_TYPE);
        out(h, ACPI_PM1_CONTROL, type << ACPI_CONTROL_SLEEP_SHIFT | ACPI_CONTROL_SLEEP_ENABLE, 2);
        assert_int_equal(h->power_offs, type >= ACPI_S5_TYPE);
        assert_int_equal(in(h, ACPI_PM1_CONTROL, 2) & ACPI_CONTROL_SLEEP_ENABLE, 0);
    }
    acpi_pm_destroy(p);
    harness_destroy(h);
}

static void saved_state(void **state)
{
    struct harness *h = harness_create(), *g = harness_create();
    struct acpi_pm *a = create(h), *b = create(g);
    outb(h, ACPI_SMI_COMMAND, ACPI_SMI_ENABLE);
    acpi_pm_power_button(a);
    out(h, EVENT_ENABLE, ACPI_PM1_POWER_BUTTON, 2);
    harness_round_trip(&acpi_pm_state, a, b);
    assert_true(g->level[ACPI_SCI]);
    harness_refused(&acpi_pm_state, a, "status", 0, 2);
    harness_refused(&acpi_pm_state, a, "enable", 0, 0x8000);
    harness_refused(&acpi_pm_state, a, "control", 0, 0x2000);
    harness_hostile(h, ACPI_PM1_EVENT - 2, 0x30, 200000, 3);
    harness_hostile(h, ACPI_SMI_COMMAND - 1, 4, 100000, 4);
    harness_round_trip(&acpi_pm_state, a, b);
    acpi_pm_reset(a);
    assert_false(h->level[ACPI_SCI]);
    acpi_pm_destroy(a);
    acpi_pm_destroy(b);
    harness_destroy(h);
    harness_destroy(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(enabling_acpi),
        cmocka_unit_test(power_button_interrupts),
        cmocka_unit_test(timer_counts),
        cmocka_unit_test(timer_status_follows_its_highest_bit),
        cmocka_unit_test(only_s5_powers_off),
        cmocka_unit_test(saved_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
