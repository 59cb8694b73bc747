/* SPDX-License-Identifier: MIT */
/*
 * The test device, as QEMU's pc-testdev has it (hw/misc/pc-testdev.c) and kvm-unit-tests use it:
 *
 *   0xe0        4 bytes of scratch, for tests of port instructions
 *   0xe4        a write drops the host's mapping of a page elsewhere; nothing to do here
 *   0x2000 + n  a write sets interrupt line n to value != 0
 *   0xff000000  64 KiB that are MMIO and behave as RAM, for tests of instructions on devices
 *
 * Threads: bus dispatch holds the lock. The guest controls all.
 */
#include "dev/test_device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct test_device {
    pthread_mutex_t lock;
    struct irq_line lines[IRQ_LINES];
    uint8_t levels[IRQ_LINES]; /* 0 or 1 */
    uint8_t scratch[4];
    uint8_t bytes[TEST_DEVICE_BYTES];
};

/* The bus keeps offset + size within the region. */
static uint64_t load(const uint8_t *from, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, from, size);
    return value;
}

static uint64_t scratch_read(void *device, uint64_t offset, unsigned size)
{
    struct test_device *t = device;
    return load(t->scratch + offset, size);
}

static void scratch_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct test_device *t = device;
    memcpy(t->scratch + offset, &value, size);
}

static uint64_t nothing_read(void *device, uint64_t offset, unsigned size)
{
    return 0;
}

static void nothing_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
}

static uint64_t line_read(void *device, uint64_t offset, unsigned size)
{
    struct test_device *t = device;
    return t->levels[offset];
}

static void line_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct test_device *t = device;
    t->levels[offset] = value != 0;
    irq_line_set(&t->lines[offset], value != 0);
}

static uint64_t memory_read(void *device, uint64_t offset, unsigned size)
{
    struct test_device *t = device;
    return load(t->bytes + offset, size);
}

static void memory_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct test_device *t = device;
    memcpy(t->bytes + offset, &value, size);
}

static const struct bus_ops scratch_ops = {scratch_read, scratch_write, .max_size = 4};
static const struct bus_ops flush_ops = {nothing_read, nothing_write, .max_size = 4};
static const struct bus_ops line_ops = {line_read, line_write, .max_size = 1};
static const struct bus_ops memory_ops = {memory_read, memory_write, .max_size = 8};

static int add_regions(struct test_device *t, struct bus *bus, struct error *e)
{
    int err =
        bus_add(bus, BUS_PIO, "test scratch", TEST_DEVICE_PORT, 4, &scratch_ops, t, &t->lock, e);
    if (err == 0)
        err = bus_add(bus, BUS_PIO, "test flush", TEST_DEVICE_FLUSH, 4, &flush_ops, t, NULL, e);
    if (err == 0)
        err = bus_add(bus, BUS_PIO, "test lines", TEST_DEVICE_LINES, IRQ_LINES, &line_ops, t,
                      &t->lock, e);
    if (err == 0)
        err = bus_add(bus, BUS_MMIO, "test memory", TEST_DEVICE_MEMORY, TEST_DEVICE_BYTES,
                      &memory_ops, t, &t->lock, e);
    return err;
}

int test_device_create(struct test_device **out, struct bus *bus,
                       const struct irq_line lines[IRQ_LINES], struct error *e)
{
    struct test_device *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return error_set(e, ENOMEM, "no memory for the test device");
    pthread_mutex_init(&t->lock, NULL);
    memcpy(t->lines, lines, sizeof(t->lines));
    int err = add_regions(t, bus, e);
    if (err != 0) {
        test_device_destroy(t);
        return err;
    }
    *out = t;
    return 0;
}

void test_device_destroy(struct test_device *t)
{
    if (t == NULL)
        return;
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void test_device_reset(struct test_device *t)
{
    pthread_mutex_lock(&t->lock);
    for (unsigned n = 0; n < IRQ_LINES; n++) {
        if (t->levels[n])
            irq_line_set(&t->lines[n], false);
    }
    memset(t->levels, 0, sizeof(t->levels));
    memset(t->scratch, 0, sizeof(t->scratch));
    memset(t->bytes, 0, sizeof(t->bytes));
    pthread_mutex_unlock(&t->lock);
}

static int state_check(const void *object, struct error *e)
{
    const struct test_device *t = object;
    for (unsigned n = 0; n < IRQ_LINES; n++) {
        if (t->levels[n] > 1)
            return error_set(e, EINVAL, "saved state: test device: levels are not 0 or 1");
    }
    return 0;
}

static const struct field fields[] = {
    FIELD_ARRAY(struct test_device, levels),
    FIELD_ARRAY(struct test_device, scratch),
    FIELD_ARRAY(struct test_device, bytes),
    FIELD_END,
};

const struct field_table test_device_state = {
    .name = "test device",
    .version = 1,
    .size = sizeof(struct test_device),
    .fields = fields,
    .check = state_check,
};
