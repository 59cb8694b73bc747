/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "bus/pci.h"

static struct bus bus;
static struct pci *pci;
static struct pci_function function;

static int set_up(void **state)
{
    bus_init(&bus);
    memset(&function, 0, sizeof(function));
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        function.config[i] = (uint8_t)i;
    return pci_create(&pci, &bus, NULL);
}

static int tear_down(void **state)
{
    pci_destroy(pci);
    return 0;
}

static uint32_t read_config(unsigned size, unsigned devfn, unsigned offset)
{
    pci_address_write(pci, 0x80000000u | devfn << 8 | (offset & ~3u));
    return (uint32_t)bus_read(&bus, 0, BUS_PIO, PCI_CONFIG_DATA + (offset & 3), size);
}

static void write_config(unsigned size, unsigned devfn, unsigned offset, uint32_t value)
{
    pci_address_write(pci, 0x80000000u | devfn << 8 | (offset & ~3u));
    bus_write(&bus, 0, BUS_PIO, PCI_CONFIG_DATA + (offset & 3), value, size);
}

static void absent_functions_read_as_ones(void **state)
{
    assert_int_equal(pci_add(pci, PCI_DEVFN(3, 1), &function, NULL), 0);
    for (unsigned devfn = 0; devfn < PCI_FUNCTIONS; devfn++) {
        uint32_t wanted = devfn == PCI_DEVFN(3, 1) ? 0x03020100 : 0xffffffff;
        assert_int_equal(read_config(4, devfn, 0), wanted);
    }
    pci_address_write(pci, 0x80010000u | PCI_DEVFN(3, 1) << 8); /* bus 1 */
    assert_int_equal(bus_read(&bus, 0, BUS_PIO, PCI_CONFIG_DATA, 4), 0xffffffff);
    bus_write(&bus, 0, BUS_PIO, PCI_CONFIG_DATA, 0, 4);
    pci_address_write(pci, 0x81000000u | PCI_DEVFN(3, 1) << 8); /* register 0x100 */
    assert_int_equal(bus_read(&bus, 0, BUS_PIO, PCI_CONFIG_DATA, 4), 0xffffffff);
    bus_write(&bus, 0, BUS_PIO, PCI_CONFIG_DATA, 0, 4);
    assert_int_equal(read_config(4, PCI_DEVFN(3, 1), 0), 0x03020100);
    pci_address_write(pci, PCI_DEVFN(3, 1) << 8); /* not enabled */
    assert_int_equal(bus_read(&bus, 0, BUS_PIO, PCI_CONFIG_DATA, 4), 0xffffffff);
    assert_int_equal(pci_address_read(pci), PCI_DEVFN(3, 1) << 8);
}

static void every_width_and_offset(void **state)
{
    assert_int_equal(pci_add(pci, 0, &function, NULL), 0);
    for (unsigned offset = 0; offset < PCI_CONFIG_SIZE; offset++) {
        assert_int_equal(read_config(1, 0, offset), offset);
        if (offset % 2 == 0)
            assert_int_equal(read_config(2, 0, offset), offset | (offset + 1) << 8);
    }
    assert_int_equal(read_config(4, 0, 0xfc), 0xfffefdfc);
}

static void writes_change_writable_bits_only(void **state)
{
    assert_int_equal(pci_add(pci, 0, &function, NULL), 0);
    function.writable[0x41] = 0xf0;
    function.writable[0x42] = 0xff;
    write_config(4, 0, 0x40, 0xabcdefff);
    assert_int_equal(read_config(4, 0, 0x40), 0x43cde140);
    write_config(1, 0, 0x42, 0x77);
    write_config(2, 0, 0x42, 0x9955);
    assert_int_equal(read_config(4, 0, 0x40), 0x4355e140);
    write_config(4, 0, 0, 0);
    assert_int_equal(read_config(4, 0, 0), 0x03020100);
}

static void a_place_is_taken_once(void **state)
{
    struct pci_function other = {{0}, {0}};
    struct error e = {0};
    assert_int_equal(pci_add(pci, PCI_DEVFN(31, 7), &function, &e), 0);
    assert_int_equal(pci_add(pci, PCI_DEVFN(31, 7), &other, &e), -EBUSY);
    assert_non_null(strstr(e.text, "1f.7"));
}

static void saved_state(void **state)
{
    struct field_buffer b = {0};
    struct error e = {0};
    const size_t address = 4 + strlen(pci_state.name) + 12;

    pci_address_write(pci, 0xffffffff); /* reserved bits are dropped */
    assert_int_equal(pci_address_read(pci), 0x8ffffffc);
    assert_int_equal(field_save(&pci_state, 0, pci, &b), 0);
    pci_reset(pci);
    assert_int_equal(pci_address_read(pci), 0);
    const uint8_t *data = b.data;
    size_t size = b.size;
    assert_int_equal(field_load(&pci_state, 0, pci, &data, &size, &e), 0);
    assert_int_equal(pci_address_read(pci), 0x8ffffffc);
    b.data[address] |= 1;
    data = b.data;
    size = b.size;
    assert_int_equal(field_load(&pci_state, 0, pci, &data, &size, &e), -EINVAL);
    assert_non_null(strstr(e.text, "address"));
    field_buffer_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(absent_functions_read_as_ones, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_width_and_offset, set_up, tear_down),
        cmocka_unit_test_setup_teardown(writes_change_writable_bits_only, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_place_is_taken_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(saved_state, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
