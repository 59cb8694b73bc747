/* SPDX-License-Identifier: MIT */
/* The MP table, found and read as the specification says (MP 1.4, chapter 4). */
#include "boot/mptable.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "boot_images.h"

static uint8_t sum(const struct boot_bench *b, uint64_t at, uint64_t n)
{
    uint8_t s = 0;
    for (uint64_t i = 0; i < n; i++)
        s = (uint8_t)(s + bench_read(b, at + i, 1));
    return s;
}

static uint64_t find_table(const struct boot_bench *b)
{
    for (uint64_t at = 0xf0000; at < 0x100000; at += 16) {
        if (bench_read(b, at, 4) != 0x5f504d5f || sum(b, at, 16) != 0)
            continue;
        assert_int_equal(bench_read(b, at + 8, 1), 1);
        assert_int_equal(bench_read(b, at + 9, 1), 4);
        assert_int_equal(bench_read(b, at + 11, 1), 0); /* no default configuration */
        assert_int_equal(bench_read(b, at + 12, 1), 0); /* no IMCR: virtual wire */
        return bench_read(b, at + 4, 4);
    }
    fail_msg("no MP floating pointer");
    return 0;
}

static void check_interrupt(const struct boot_bench *b, uint64_t at)
{
    unsigned irq = (unsigned)bench_read(b, at + 5, 1);
    assert_int_equal(bench_read(b, at + 1, 1), 0);
    assert_int_equal(bench_read(b, at + 7, 1), irq == 0 ? 2 : irq);
    assert_int_equal(bench_read(b, at + 2, 2), irq == b->acpi.sci ? 0x0d : 0);
    assert_int_equal(bench_read(b, at + 6, 1), b->acpi.ioapic_id);
}

static void check(const struct boot_bench *b, unsigned cpus)
{
    static const uint8_t sizes[] = {20, 8, 8, 8, 8};
    uint64_t table = find_table(b), length = bench_read(b, table + 4, 2), at = table + 44;
    unsigned counts[8] = {0};

    assert_int_equal(bench_read(b, table, 4), 0x504d4350);
    assert_int_equal(sum(b, table, length), 0);
    assert_int_equal(bench_read(b, table + 36, 4), 0xfee00000);
    for (unsigned left = (unsigned)bench_read(b, table + 34, 2); left > 0; left--) {
        unsigned type = (unsigned)bench_read(b, at, 1);
        assert_in_range(type, 0, 4);
        if (type == 0) {
            assert_int_equal(bench_read(b, at + 1, 1), counts[0]);
            assert_int_equal(bench_read(b, at + 3, 1), counts[0] == 0 ? 3 : 1);
            assert_int_equal(bench_read(b, at + 4, 4), 0x50657);
            assert_int_equal(bench_read(b, at + 8, 4), 0xbfebfbff);
        }
        if (type == 2)
            assert_int_equal(bench_read(b, at + 4, 4), 0xfec00000);
        if (type == 3)
            check_interrupt(b, at);
        counts[type]++;
        at += sizes[type];
    }
    assert_int_equal(at, table + length);
    assert_int_equal(counts[0], cpus);
    assert_int_equal(counts[1], 2);
    assert_int_equal(counts[2], 1);
    assert_int_equal(counts[3], 15);
    assert_int_equal(counts[4], 2);
}

static void table(void **state)
{
    static const unsigned cpus[] = {1, 2, 16, 254, 255, 4096};
    for (unsigned i = 0; i < sizeof(cpus) / sizeof(cpus[0]); i++) {
        struct boot_bench b;
        uint64_t rsdp;
        bench_init(&b, 4u << 20);
        b.acpi.cpus = cpus[i];
        assert_int_equal(mptable_build(&b.mem, &b.acpi, 0x50657, 0xbfebfbff, &b.e), 0);
        assert_int_equal(acpi_build(&b.mem, &b.acpi, &rsdp, &b.e), 0); /* both have room */
        check(&b, cpus[i] < 254 ? cpus[i] : 254);
        bench_fini(&b);
    }
}

static void with_every_kernel(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 64u << 20);
    image_bzimage(&image);
    bench_kernel(&b, image.bytes, image.size);
    assert_int_equal(bench_place(&b), 0);
    assert_true(find_table(&b) > 0xf0000);
    bench_fini(&b);
}

static void no_memory(void **state)
{
    struct acpi_config c = acpi_config_default(1);
    struct error e = {0};
    struct mem m;
    mem_init(&m);
    assert_int_equal(mptable_build(&m, &c, 0, 0, &e), -EFAULT);
    mem_fini(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),
        cmocka_unit_test(with_every_kernel),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
