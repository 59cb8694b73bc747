/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "dev/i440fx.h"

/* offset is that of a dword. */
static uint32_t config(struct harness *h, struct pci *pci, unsigned offset)
{
    pci_address_write(pci, 0x80000000u | offset);
    return in(h, 0xcfc, 4);
}

static void write_byte(struct harness *h, struct pci *pci, unsigned offset, uint8_t value)
{
    pci_address_write(pci, 0x80000000u | (offset & ~3u));
    outb(h, (uint16_t)(0xcfc + (offset & 3)), value);
}

static void identity(void **state)
{
    struct harness *h = harness_create();
    struct i440fx *b;
    struct pci *pci;
    assert_int_equal(pci_create(&pci, &h->bus, NULL), 0);
    assert_int_equal(i440fx_create(&b, pci, false, NULL), 0);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(config(h, pci, 0x00), 0x12378086);
        assert_int_equal(config(h, pci, 0x04), 0x02800006);
        assert_int_equal(config(h, pci, 0x08), 0x06000002); /* a host bridge */
        assert_int_equal(config(h, pci, 0x0c), 0);          /* one function, no BIST */
        assert_int_equal(config(h, pci, 0x2c), 0x11001af4);
        for (unsigned at = 0; at < I440FX_PAM; at++)
            write_byte(h, pci, at, (uint8_t)~at);
    }
    for (unsigned devfn = 1; devfn < PCI_FUNCTIONS; devfn++) {
        pci_address_write(pci, 0x80000000u | devfn << 8);
        assert_int_equal(in(h, 0xcfc, 4), 0xffffffff);
    }
    i440fx_destroy(b);
    pci_destroy(pci);
    harness_destroy(h);
}

static void attribute_map(void **state)
{
    struct harness *h = harness_create();
    struct i440fx *b;
    struct pci *pci;
    for (unsigned open = 0; open < 2; open++) {
        assert_int_equal(pci_create(&pci, &h->bus, NULL), 0);
        assert_int_equal(i440fx_create(&b, pci, open, NULL), 0);
        for (unsigned i = 0; i < I440FX_PAMS; i++) {
            uint8_t all = i == 0 ? 0x30 : 0x33;
            pci_address_write(pci, 0x80000000u | ((I440FX_PAM + i) & ~3u));
            uint16_t port = (uint16_t)(0xcfc + ((I440FX_PAM + i) & 3));
            assert_int_equal(inb(h, port), open ? all : 0);
            outb(h, port, 0xff);
            assert_int_equal(inb(h, port), all);
            outb(h, port, 0x10);
            assert_int_equal(inb(h, port), 0x10);
            i440fx_reset(b);
            assert_int_equal(inb(h, port), open ? all : 0);
        }
        i440fx_destroy(b);
        pci_destroy(pci);
        bus_init(&h->bus);
    }
    harness_destroy(h);
}

static void saved_state(void **state)
{
    struct harness *h = harness_create(), *g = harness_create();
    struct i440fx *a, *b;
    struct pci *pa, *pb;
    assert_int_equal(pci_create(&pa, &h->bus, NULL), 0);
    assert_int_equal(pci_create(&pb, &g->bus, NULL), 0);
    assert_int_equal(i440fx_create(&a, pa, false, NULL), 0);
    assert_int_equal(i440fx_create(&b, pb, true, NULL), 0);
    write_byte(h, pa, I440FX_PAM + 3, 0x21);
    harness_round_trip(&i440fx_state, a, b);
    harness_refused(&i440fx_state, a, "function.config", PCI_VENDOR_ID, 0);
    harness_refused(&i440fx_state, a, "function.config", I440FX_PAM, 1);
    harness_refused(&i440fx_state, a, "function.config", I440FX_PAM + 6, 0x40);
    harness_refused(&i440fx_state, a, "function.config", 0xff, 1);
    pci_address_write(pa, 0x80000000u);
    harness_hostile(h, 0xcfa, 8, 100000, 3);
    harness_round_trip(&i440fx_state, a, b);
    i440fx_destroy(a);
    i440fx_destroy(b);
    pci_destroy(pa);
    pci_destroy(pb);
    harness_destroy(h);
    harness_destroy(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity),
        cmocka_unit_test(attribute_map),
        cmocka_unit_test(saved_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
