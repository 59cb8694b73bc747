/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "bus/bus.h"

struct recorder {
    uint8_t bytes[16];
    unsigned calls, sizes[16];
    pthread_mutex_t lock;
    bool was_locked;
};

static void note(struct recorder *d, unsigned size)
{
    d->sizes[d->calls++ % 16] = size;
    d->was_locked = pthread_mutex_trylock(&d->lock) == EBUSY;
    if (!d->was_locked)
        pthread_mutex_unlock(&d->lock);
}

static uint64_t recorder_read(void *device, uint64_t offset, unsigned size)
{
    struct recorder *d = device;
    uint64_t v = 0;
    note(d, size);
    assert_true(offset + size <= sizeof(d->bytes));
    memcpy(&v, d->bytes + offset, size);
    return v | ((uint64_t)0xaa << 56); /* what lies above the size must be masked off */
}

static void recorder_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct recorder *d = device;
    note(d, size);
    assert_true(offset + size <= sizeof(d->bytes));
    if (size < 8)
        assert_int_equal(value >> (size * 8), 0);
    memcpy(d->bytes + offset, &value, size);
}

static const struct bus_ops byte_ops = {recorder_read, recorder_write, 1, NULL};
static const struct bus_ops long_ops = {recorder_read, recorder_write, 4, NULL};

static void *second(void *device, unsigned cpu)
{
    return (struct recorder *)device + cpu;
}
static const struct bus_ops per_cpu_ops = {recorder_read, recorder_write, 4, second};

static void split_by_width(void **state)
{
    struct bus b;
    struct recorder d = {.lock = PTHREAD_MUTEX_INITIALIZER};
    bus_init(&b);
    assert_int_equal(bus_add(&b, BUS_MMIO, "d", 0x1000, 16, &long_ops, &d, &d.lock, NULL), 0);
    bus_write(&b, 0, BUS_MMIO, 0x1000, 0x1122334455667788, 8);
    assert_int_equal(d.calls, 2);
    assert_int_equal(d.sizes[0], 4);
    assert_true(d.was_locked);
    assert_int_equal(d.bytes[0], 0x88);
    assert_int_equal(d.bytes[7], 0x11);
    assert_int_equal(bus_read(&b, 0, BUS_MMIO, 0x1002, 4), 0x33445566);
    assert_int_equal(bus_read(&b, 0, BUS_MMIO, 0x1000, 8), 0x1122334455667788);
    assert_int_equal(bus_read(&b, 0, BUS_MMIO, 0x1007, 1), 0x11);
    assert_int_equal(b.unclaimed[BUS_MMIO], 0);
}

static void split_at_borders(void **state)
{
    struct bus b;
    struct recorder d = {.lock = PTHREAD_MUTEX_INITIALIZER},
                    f = {.lock = PTHREAD_MUTEX_INITIALIZER};
    bus_init(&b);
    assert_int_equal(bus_add(&b, BUS_PIO, "f", 0x104, 1, &byte_ops, &f, &f.lock, NULL), 0);
    assert_int_equal(bus_add(&b, BUS_PIO, "d", 0x100, 2, &byte_ops, &d, NULL, NULL), 0);
    d.bytes[1] = 0x12;
    f.bytes[0] = 0x34;
    assert_int_equal(bus_read(&b, 0, BUS_PIO, 0x101, 4), 0x34ffff12);
    assert_false(d.was_locked);
    assert_true(f.was_locked);
    assert_int_equal(b.unclaimed[BUS_PIO], 1);
    assert_int_equal(bus_read(&b, 0, BUS_PIO, 0xff, 2), 0x00ff);
    bus_write(&b, 0, BUS_PIO, 0x103, 0x5678, 2);
    assert_int_equal(f.bytes[0], 0x56);
    assert_int_equal(b.unclaimed[BUS_PIO], 3);
}

static void ends_of_the_spaces(void **state)
{
    struct bus b;
    struct recorder d = {.lock = PTHREAD_MUTEX_INITIALIZER};
    bus_init(&b);
    assert_int_equal(bus_add(&b, BUS_PIO, "low", 0, 2, &byte_ops, &d, NULL, NULL), 0);
    d.bytes[0] = 0x77;
    assert_int_equal(bus_read(&b, 0, BUS_PIO, 0xffff, 2), 0x77ff);
    assert_int_equal(bus_read(&b, 0, BUS_MMIO, UINT64_MAX, 8), UINT64_MAX);
    bus_write(&b, 0, BUS_MMIO, UINT64_MAX - 2, 0, 8);
    assert_int_equal(bus_add(&b, BUS_MMIO, "top", UINT64_MAX - 15, 16, &long_ops, &d, NULL, NULL),
                     0);
    assert_int_equal(bus_read(&b, 0, BUS_MMIO, UINT64_MAX - 15, 1), 0x77);
    assert_int_equal(bus_add(&b, BUS_PIO, "x", 0xffff, 2, &byte_ops, &d, NULL, NULL), -EINVAL);
    assert_int_equal(bus_add(&b, BUS_PIO, "x", 0x10000, 1, &byte_ops, &d, NULL, NULL), -EINVAL);
    assert_int_equal(bus_add(&b, BUS_PIO, "x", 0x10, 0, &byte_ops, &d, NULL, NULL), -EINVAL);
}

static void overlaps_and_room(void **state)
{
    struct bus b;
    struct recorder d = {0};
    struct error e;
    bus_init(&b);
    assert_int_equal(bus_add(&b, BUS_PIO, "first", 0x60, 5, &byte_ops, &d, NULL, &e), 0);
    assert_int_equal(bus_add(&b, BUS_PIO, "other", 0x64, 1, &byte_ops, &d, NULL, &e), -EBUSY);
    assert_non_null(strstr(e.text, "first"));
    assert_non_null(strstr(e.text, "other"));
    assert_int_equal(bus_add(&b, BUS_PIO, "other", 0x50, 0x11, &byte_ops, &d, NULL, &e), -EBUSY);
    assert_int_equal(bus_add(&b, BUS_PIO, "other", 0x60, 1, &byte_ops, &d, NULL, &e), -EBUSY);
    assert_int_equal(bus_add(&b, BUS_MMIO, "other", 0x60, 1, &byte_ops, &d, NULL, &e), 0);
    for (unsigned i = 1; i < BUS_REGIONS_MAX; i++)
        assert_int_equal(bus_add(&b, BUS_PIO, "n", 0x8000 - i, 1, &byte_ops, &d, NULL, &e), 0);
    assert_int_equal(bus_add(&b, BUS_PIO, "late", 0x10, 1, &byte_ops, &d, NULL, &e), -ENOSPC);
    for (unsigned i = 1; i < BUS_REGIONS_MAX; i++)
        assert_true(b.regions[BUS_PIO][i - 1].base < b.regions[BUS_PIO][i].base);
}

static void instance_of_the_cpu(void **state)
{
    struct bus b;
    struct recorder d[2] = {{.lock = PTHREAD_MUTEX_INITIALIZER},
                            {.lock = PTHREAD_MUTEX_INITIALIZER}};
    bus_init(&b);
    assert_int_equal(bus_add(&b, BUS_MMIO, "d", 0x1000, 16, &per_cpu_ops, d, NULL, NULL), 0);
    bus_write(&b, 1, BUS_MMIO, 0x1000, 5, 1);
    assert_int_equal(d[0].bytes[0], 0);
    assert_int_equal(d[1].bytes[0], 5);
    assert_int_equal(bus_read(&b, 1, BUS_MMIO, 0x1000, 1), 5);
    assert_int_equal(bus_read(&b, 0, BUS_MMIO, 0x1000, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_by_width),      cmocka_unit_test(split_at_borders),
        cmocka_unit_test(ends_of_the_spaces),  cmocka_unit_test(overlaps_and_room),
        cmocka_unit_test(instance_of_the_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
