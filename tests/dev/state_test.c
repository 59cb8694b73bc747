/* SPDX-License-Identifier: MIT */
/*
 * Every field table over random states. From a state that the thing was really in, a few elements
 * are given other values. The stream is either taken, and then what is saved again is taken and
 * saved the same; or it is refused, in a sentence that has the section's and a field's name, and
 * nothing has changed. Whatever was taken, the registers can be read and written afterwards.
 */
#include "harness.h"

#include <stdio.h>

#include "dev/acpi_pm.h"
#include "dev/fw_cfg.h"
#include "dev/hpet.h"
#include "dev/i440fx.h"
#include "dev/i8042.h"
#include "dev/pit.h"
#include "dev/reset.h"
#include "dev/rtc.h"
#include "dev/test_device.h"
#include "dev/uart.h"
#include "irq/internal.h"
#include "rig.h"
#include "x86/kvmclock.h"
#include "x86/steal_time.h"

#ifdef __SANITIZE_THREAD__ /* slow, and one thread: what the trials find, other builds find */
#define TRIALS 1000
#else
#define TRIALS 10000
#endif

static struct rig rig;
static uint64_t seed;

static uint64_t some_value(void)
{
    uint64_t r = harness_random(&seed);
    switch (r & 7) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX;
    case 2:
    case 3:
        return (uint64_t)1 << (r >> 8 & 63);
    case 4:
        return r >> 60;
    default:
        return harness_random(&seed);
    }
}

/* Gives a few elements other values; often one bit of what was there. */
static void mutate(const struct field_table *t, uint8_t *stream)
{
    unsigned fields = 0;
    for (const struct field *f = t->fields; f->name != NULL; f++)
        fields++;
    for (uint64_t n = harness_random(&seed) % 3 + 1; n > 0; n--) {
        uint8_t *at = stream + 4 + strlen(t->name) + 12;
        const struct field *f = t->fields;
        for (uint64_t i = harness_random(&seed) % fields; i > 0; i--, f++)
            at += (size_t)f->size * f->count;
        at += harness_random(&seed) % f->count * f->size;
        uint64_t value = some_value(), old = 0;
        memcpy(&old, at, f->size);
        value = harness_random(&seed) & 1 ? value : old ^ (uint64_t)1 << (value % (8u * f->size));
        memcpy(at, &value, f->size);
    }
}

/* A field of which the sentence says the name: the whole, or a part of it as "cs" of "cs.limit". */
static bool names_a_field(const struct field_table *t, const char *text)
{
    char name[64];
    for (const struct field *f = t->fields; f->name != NULL; f++) {
        const char *dot = strrchr(f->name, '.');
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(f->name, "["), f->name);
        if (strstr(text, f->name) != NULL || (dot != NULL && strstr(text, dot + 1) != NULL) ||
            strstr(text, name) != NULL)
            return true;
        snprintf(name, sizeof(name), "'%.*s'", (int)strcspn(f->name, "."), f->name);
        if (strstr(text, name) != NULL)
            return true;
    }
    return false;
}

static int load(const struct field_table *t, void *object, const struct field_buffer *b,
                struct error *e)
{
    const uint8_t *data = b->data;
    size_t size = b->size;
    return field_load(t, 0, object, &data, &size, e);
}

static void assert_same(const struct field_table *t, const struct field_buffer *a,
                        const struct field_buffer *b)
{
    size_t at = 4 + strlen(t->name) + 12;
    assert_int_equal(a->size, b->size);
    for (const struct field *f = t->fields; f->name != NULL; f++) {
        if (memcmp(a->data + at, b->data + at, (size_t)f->size * f->count) != 0)
            fail_msg("%s: %s is another", t->name, f->name);
        at += (size_t)f->size * f->count;
    }
}

/* taken and refused count what happened: both must. */
static void trial(const struct field_table *t, void *object, unsigned *taken, unsigned *refused)
{
    struct field_buffer before = {0}, stream = {0}, after = {0}, again = {0};
    struct error e = {0};

    assert_int_equal(field_save(t, 0, object, &before), 0);
    assert_int_equal(field_save(t, 0, object, &stream), 0);
    mutate(t, stream.data);
    if (load(t, object, &stream, &e) == 0) {
        ++*taken;
        assert_int_equal(field_save(t, 0, object, &after), 0);
        if (load(t, object, &after, &e) != 0)
            fail_msg("what was taken is refused: %s", e.text);
        assert_int_equal(field_save(t, 0, object, &again), 0);
        assert_same(t, &after, &again);
        if (harness_random(&seed) % 8 == 0)
            assert_int_equal(load(t, object, &before, &e), 0);
    } else {
        ++*refused;
        if (strstr(e.text, t->name) == NULL || !names_a_field(t, e.text) ||
            strchr(e.text, '\n') != NULL)
            fail_msg("a sentence without names: %s", e.text);
        assert_int_equal(field_save(t, 0, object, &after), 0);
        assert_same(t, &before, &after);
    }
    field_buffer_fini(&before);
    field_buffer_fini(&stream);
    field_buffer_fini(&after);
    field_buffer_fini(&again);
}

static void check(const struct field_table *t, void *object, bool can_refuse)
{
    unsigned taken = 0, refused = 0;
    seed = 0x9e3779b97f4a7c15u ^ strlen(t->name) ^ (uint64_t)t->name[0] << 32;
    for (unsigned i = 0; i < TRIALS; i++)
        trial(t, object, &taken, &refused);
    print_message("%s: %u taken, %u refused\n", t->name, taken, refused);
    assert_true(taken > 0);
    assert_int_equal(refused > 0, can_refuse);
}

static int setup(void **state)
{
    rig_init(&rig, 0);
    assert_int_equal(mem_add(&rig.mem, "ram", GPA(0), HARNESS_RAM, MEM_ANONYMOUS, false, NULL), 0);
    for (unsigned i = 0; i < RIG_CPUS; i++)
        vcpu_reset(rig.cpu[i]);
    rig_irq(&rig);
    return 0;
}

static int teardown(void **state)
{
    rig_fini(&rig);
    return 0;
}

static struct machine_sink sink(void)
{
    static struct harness counts;
    return harness_sink(&counts);
}

static void processor(void **state)
{
    check(&vcpu_state, rig.cpu[0], true);
}

static void controllers(void **state)
{
    check(&pic_state, &rig.irq->pic, true);
    check(&ioapic_state, &rig.irq->ioapic, true);
    check(&lapic_state, &rig.irq->lapics[0], true);
    rig_hostile(&rig, BUS_MMIO, 0xfee00000, 0x1000, 10000);
    rig_hostile(&rig, BUS_MMIO, 0xfec00000, 0x20, 10000);
}

static void timers(void **state)
{
    struct hpet *hpet;
    struct pit *pit;
    struct rtc *rtc;
    assert_int_equal(hpet_create(&hpet, &rig.bus, rig.clock, rig.irq, NULL), 0);
    assert_int_equal(pit_create(&pit, &rig.bus, rig.clock, hpet_legacy_line(hpet, 0), NULL), 0);
    assert_int_equal(
        rtc_create(&rtc, &rig.bus, rig.clock, irq_line_of(rig.irq, RTC_GSI), HARNESS_RAM, 0, NULL),
        0);
    check(&hpet_state, hpet, true);
    check(&pit_state, pit, true);
    check(&rtc_state, rtc, true);
    rig_hostile(&rig, BUS_PIO, 0x40, 4, 1000);
    rtc_destroy(rtc);
    pit_destroy(pit);
    hpet_destroy(hpet);
}

static void legacy_devices(void **state)
{
    struct uart *uart;
    struct i8042 *i8042;
    struct a20 *a20;
    struct fw_cfg *fw_cfg;
    struct acpi_pm *pm;
    struct test_device *device;
    struct irq_line lines[IRQ_LINES];
    assert_int_equal(a20_create(&a20, sink(), NULL), 0);
    for (unsigned n = 0; n < IRQ_LINES; n++)
        lines[n] = irq_line_of(rig.irq, n);
    assert_int_equal(test_device_create(&device, &rig.bus, lines, NULL), 0);
    assert_int_equal(uart_create(&uart, &rig.bus, UART_COM1, rig.clock,
                                 irq_line_of(rig.irq, UART_COM1_GSI), NULL, NULL),
                     0);
    assert_int_equal(
        i8042_create(&i8042, &rig.bus, irq_line_of(rig.irq, I8042_GSI), a20, sink(), NULL), 0);
    assert_int_equal(fw_cfg_create(&fw_cfg, &rig.bus, &rig.mem, HARNESS_RAM, 1, NULL), 0);
    assert_int_equal(
        acpi_pm_create(&pm, &rig.bus, rig.clock, irq_line_of(rig.irq, ACPI_SCI), sink(), NULL), 0);
    check(&uart_state, uart, true);
    check(&i8042_state, i8042, true);
    check(&a20_state, a20, true);
    check(&test_device_state, device, true);
    check(&fw_cfg_state, fw_cfg, true);
    check(&acpi_pm_state, pm, true);
    rig_hostile(&rig, BUS_PIO, UART_COM1, 8, 10000);
    rig_hostile(&rig, BUS_PIO, 0x60, 5, 10000);
    test_device_destroy(device);
    acpi_pm_destroy(pm);
    fw_cfg_destroy(fw_cfg);
    i8042_destroy(i8042);
    a20_destroy(a20);
    uart_destroy(uart);
}

static void pci_devices(void **state)
{
    struct pci *pci;
    struct i440fx *bridge;
    struct reset *reset;
    struct a20 *a20;
    assert_int_equal(a20_create(&a20, sink(), NULL), 0);
    assert_int_equal(pci_create(&pci, &rig.bus, NULL), 0);
    assert_int_equal(i440fx_create(&bridge, pci, false, NULL), 0);
    assert_int_equal(reset_create(&reset, &rig.bus, pci, a20, sink(), NULL), 0);
    check(&pci_state, pci, true);
    check(&i440fx_state, bridge, true);
    check(&reset_state, reset, true);
    rig_hostile(&rig, BUS_PIO, 0xcf8, 8, 10000);
    reset_destroy(reset);
    a20_destroy(a20);
    i440fx_destroy(bridge);
    pci_destroy(pci);
}

static void paravirtual_clocks(void **state)
{
    struct kvmclock *kvmclock;
    struct steal_time *steal;
    assert_int_equal(kvmclock_create(&kvmclock, &rig.mem, rig.clock, &rig.msrs, 1, NULL), 0);
    assert_int_equal(steal_time_create(&steal, &rig.mem, rig.clock, &rig.msrs, 1, NULL), 0);
    check(&kvmclock_state, kvmclock, true);
    check(&steal_time_state, steal, true);
    steal_time_destroy(steal);
    kvmclock_destroy(kvmclock);
}

static uint64_t no_instructions(void *context)
{
    return 0;
}

/* Which is stopped while its state is loaded. */
static void vm_clock(void **state)
{
    const struct clock_config config = {.source = CLOCK_SOURCE_INSTRUCTIONS,
                                        .instructions = no_instructions};
    struct vm_clock *clock;
    assert_int_equal(clock_create(&config, &clock, NULL), 0);
    check(&clock_state, clock, true);
    clock_start(clock);
    clock_now(clock);
    clock_destroy(clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(processor, setup, teardown),
        cmocka_unit_test_setup_teardown(controllers, setup, teardown),
        cmocka_unit_test_setup_teardown(timers, setup, teardown),
        cmocka_unit_test_setup_teardown(legacy_devices, setup, teardown),
        cmocka_unit_test_setup_teardown(pci_devices, setup, teardown),
        cmocka_unit_test_setup_teardown(paravirtual_clocks, setup, teardown),
        cmocka_unit_test(vm_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
