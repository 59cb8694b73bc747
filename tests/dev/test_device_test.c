/* SPDX-License-Identifier: MIT */
/* The device for test guests: scratch, lines, memory that is none. */
#include "dev/test_device.h"
#include "harness.h"

static struct test_device *create(struct harness *h)
{
    struct irq_line lines[IRQ_LINES];
    struct test_device *t;
    for (unsigned n = 0; n < IRQ_LINES; n++)
        lines[n] = harness_irq(h, n);
    assert_int_equal(test_device_create(&t, &h->bus, lines, NULL), 0);
    return t;
}

static void registers(void **state)
{
    struct harness *h = harness_create();
    struct test_device *t = create(h);
    out(h, 0xe0, 0x44332211, 4);
    assert_int_equal(in(h, 0xe1, 2), 0x3322);
    outb(h, 0xe3, 9);
    assert_int_equal(in(h, 0xe0, 4), 0x09332211);
    out(h, 0xe4, 0x1000, 4);
    outb(h, 0x200e, 1);
    assert_true(h->level[14]);
    assert_int_equal(inb(h, 0x200e), 1);
    out(h, 0x200e, 0xff00, 2); /* two lines */
    assert_false(h->level[14]);
    assert_true(h->level[15]);
    bus_write(&h->bus, 0, BUS_MMIO, TEST_DEVICE_MEMORY + 0xfff8, 0x1122334455667788, 8);
    assert_int_equal(bus_read(&h->bus, 0, BUS_MMIO, TEST_DEVICE_MEMORY + 0xfffb, 2), 0x4455);
    test_device_reset(t);
    assert_false(h->level[15]);
    assert_int_equal(bus_read(&h->bus, 0, BUS_MMIO, TEST_DEVICE_MEMORY + 0xfffb, 2), 0);
    test_device_destroy(t);
    harness_destroy(h);
}

static void saved_state(void **state)
{
    struct harness *h = harness_create(), *g = harness_create();
    struct test_device *a = create(h), *b = create(g);
    harness_hostile(h, 0xde, 12, 10000, 1);
    harness_hostile(h, 0x1ffe, 32, 10000, 2);
    harness_round_trip(&test_device_state, a, b);
    assert_int_equal(in(g, 0xe0, 4), in(h, 0xe0, 4));
    harness_refused(&test_device_state, a, "levels", 3, 2);
    test_device_destroy(a);
    test_device_destroy(b);
    harness_destroy(h);
    harness_destroy(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers),
        cmocka_unit_test(saved_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
