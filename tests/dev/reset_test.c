/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "dev/reset.h"

static void port_92(void **state)
{
    struct harness *h = harness_create();
    struct pci *pci;
    struct reset *r;
    assert_int_equal(pci_create(&pci, &h->bus, NULL), 0);
    assert_int_equal(reset_create(&r, &h->bus, pci, h->a20, harness_sink(h), NULL), 0);
    assert_int_equal(inb(h, 0x92), RESET_PORT_A_A20);
    outb(h, 0x92, 0xfc);
    assert_int_equal(inb(h, 0x92), 0);
    assert_true(h->a20_closed);
    a20_set(h->a20, true); /* by the keyboard controller */
    assert_int_equal(inb(h, 0x92), RESET_PORT_A_A20);
    outb(h, 0x92, 0);
    outb(h, 0x92, 2);
    assert_false(h->a20_closed);
    assert_int_equal(h->resets, 0);
    outb(h, 0x92, 3);
    assert_int_equal(h->resets, 1);
    outb(h, 0x92, 3); /* no rising edge */
    assert_int_equal(h->resets, 1);
    reset_reset(r);
    outb(h, 0x92, 1);
    assert_int_equal(h->resets, 2);
    reset_destroy(r);
    pci_destroy(pci);
    harness_destroy(h);
}

static void control(void **state)
{
    struct harness *h = harness_create();
    struct pci *pci;
    struct reset *r;
    assert_int_equal(pci_create(&pci, &h->bus, NULL), 0);
    assert_int_equal(reset_create(&r, &h->bus, pci, h->a20, harness_sink(h), NULL), 0);
    outb(h, 0xcf9, RESET_CONTROL_SYSTEM);
    assert_int_equal(inb(h, 0xcf9), RESET_CONTROL_SYSTEM);
    assert_int_equal(h->resets, 0);
    outb(h, 0xcf9, RESET_CONTROL_TRIGGER);
    assert_int_equal(h->resets, 1);
    outb(h, 0xcf9, RESET_CONTROL_TRIGGER);
    assert_int_equal(h->resets, 1);
    reset_destroy(r);
    pci_destroy(pci);
    harness_destroy(h);
}

/* PCI configuration accesses (type 1) to function 4 of a device set bit 2 of the byte at 0xcf9. */
static void looking_for_pci_does_not_reset(void **state)
{
    struct harness *h = harness_create();
    struct pci *pci;
    struct reset *r;
    assert_int_equal(pci_create(&pci, &h->bus, NULL), 0);
    assert_int_equal(reset_create(&r, &h->bus, pci, h->a20, harness_sink(h), NULL), 0);
    for (uint32_t devfn = 0; devfn < 256; devfn++) {
        out(h, 0xcf8, 0x80000000u | devfn << 8, 4);
        assert_int_equal(in(h, 0xcfc, 4), 0xffffffff);
    }
    assert_int_equal(in(h, 0xcf8, 4), 0x8000ff00); /* the PCI core's */
    out(h, 0xcf8, 0xffff, 2);
    outb(h, 0xcf8, 0xff);
    out(h, 0xcfa, 0xffff, 2);
    assert_int_equal(in(h, 0xcf8, 4), 0x8000ff00);
    assert_int_equal(in(h, 0xcf8, 2), 0xffff);
    assert_int_equal(inb(h, 0xcf8), 0xff);
    assert_int_equal(h->resets, 0);
    reset_destroy(r);
    pci_destroy(pci);
    harness_destroy(h);
}

static void saved_state(void **state)
{
    struct harness *h = harness_create(), *g = harness_create();
    struct pci *pci, *other;
    struct reset *a, *b;
    assert_int_equal(pci_create(&pci, &h->bus, NULL), 0);
    assert_int_equal(pci_create(&other, &g->bus, NULL), 0);
    assert_int_equal(reset_create(&a, &h->bus, pci, h->a20, harness_sink(h), NULL), 0);
    assert_int_equal(reset_create(&b, &g->bus, other, g->a20, harness_sink(g), NULL), 0);
    outb(h, 0x92, 1);
    outb(h, 0xcf9, 0xe);
    harness_round_trip(&reset_state, a, b);
    assert_int_equal(inb(g, 0x92), 3); /* the gate is not its state */
    assert_int_equal(inb(g, 0xcf9), 0xe);
    assert_int_equal(g->resets, 0);
    harness_refused(&reset_state, a, "port_a", 0, 4);
    harness_refused(&reset_state, a, "port_a", 0, 2);
    harness_refused(&reset_state, a, "control", 0, 1);
    harness_hostile(h, 0x90, 8, 100000, 1);
    harness_hostile(h, 0xcf6, 8, 100000, 2);
    harness_round_trip(&reset_state, a, b);
    reset_destroy(a);
    reset_destroy(b);
    pci_destroy(pci);
    pci_destroy(other);
    harness_destroy(h);
    harness_destroy(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(port_92),
        cmocka_unit_test(control),
        cmocka_unit_test(looking_for_pci_does_not_reset),
        cmocka_unit_test(saved_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
