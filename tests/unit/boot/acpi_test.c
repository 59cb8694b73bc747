/* SPDX-License-Identifier: MIT */
/* The ACPI tables say what struct acpi_config says; tests/acpi checks their form with iasl. */
#include "boot/acpi.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "boot/aml.h"
#include "boot_images.h"

static uint8_t sum(const struct boot_bench *b, uint64_t at, uint64_t n)
{
    uint8_t s = 0;
    for (uint64_t i = 0; i < n; i++)
        s = (uint8_t)(s + bench_read(b, at + i, 1));
    return s;
}

/* The table of that signature, by way of the XSDT; 0 = none. */
static uint64_t find(const struct boot_bench *b, uint64_t rsdp, const char *signature)
{
    assert_int_equal(rsdp % 16, 0);
    assert_int_equal(sum(b, rsdp, 20), 0);
    assert_int_equal(sum(b, rsdp, 36), 0);
    uint64_t xsdt = bench_read(b, rsdp + 24, 8);
    uint64_t length = bench_read(b, xsdt + 4, 4), found = 0;
    assert_int_equal(sum(b, xsdt, length), 0);
    for (uint64_t i = 36; i < length; i += 8) {
        uint64_t at = bench_read(b, xsdt + i, 8);
        uint32_t name = (uint32_t)bench_read(b, at, 4);
        assert_int_equal(sum(b, at, bench_read(b, at + 4, 4)), 0);
        if (memcmp(&name, signature, 4) == 0)
            found = at;
    }
    return found;
}

static void test_fadt(void **state)
{
    struct boot_bench b;
    uint64_t rsdp;
    bench_init(&b, 4u << 20);
    b.acpi.pm1_event = 0xb000;
    b.acpi.pm1_control = 0xb004;
    b.acpi.pm_timer = 0xb008;
    b.acpi.gpe0 = 0xafe0;
    b.acpi.sci = 11;
    assert_int_equal(acpi_build(&b.mem, &b.acpi, &rsdp, &b.e), 0);
    uint64_t f = find(&b, rsdp, "FACP");
    assert_int_equal(bench_read(&b, f + 46, 2), 11);
    assert_int_equal(bench_read(&b, f + 48, 4), 0xb2);
    assert_int_equal(bench_read(&b, f + 56, 4), 0xb000);
    assert_int_equal(bench_read(&b, f + 64, 4), 0xb004);
    assert_int_equal(bench_read(&b, f + 76, 4), 0xb008);
    assert_int_equal(bench_read(&b, f + 80, 4), 0xafe0);
    assert_int_equal(bench_read(&b, f + 88, 1), 4);
    assert_int_equal(bench_read(&b, f + 91, 1), 4);
    assert_int_equal(bench_read(&b, f + 108, 1), 0x32);
    assert_int_equal(bench_read(&b, f + 109, 2), 7);
    assert_int_equal(bench_read(&b, f + 112, 4) >> 20 & 1, 0); /* hardware not reduced */
    assert_int_equal(bench_read(&b, f + 116 + 4, 8), 0xcf9);
    assert_int_equal(bench_read(&b, f + 128, 1), 6);
    assert_int_equal(bench_read(&b, f + 148 + 4, 8), 0xb000);
    uint64_t facs = bench_read(&b, f + 36, 4), dsdt = bench_read(&b, f + 140, 8);
    assert_int_equal(facs % 64, 0);
    assert_int_equal(bench_read(&b, facs, 4), 0x53434146);
    assert_int_equal(bench_read(&b, f + 40, 4), dsdt);
    assert_int_equal(sum(&b, dsdt, bench_read(&b, dsdt + 4, 4)), 0);
    bench_fini(&b);
}

static void count_madt(const struct boot_bench *b, uint64_t madt, unsigned counts[16])
{
    uint64_t end = madt + bench_read(b, madt + 4, 4), at = madt + 44;
    memset(counts, 0, 16 * sizeof(counts[0]));
    for (; at < end; at += bench_read(b, at + 1, 1)) {
        uint64_t type = bench_read(b, at, 1);
        assert_true(type < 16 && bench_read(b, at + 1, 1) >= 8 - 2 * (type == 4));
        if (type == 0)
            assert_int_equal(bench_read(b, at + 3, 1), counts[0]);
        if (type == 9)
            assert_int_equal(bench_read(b, at + 4, 4), 255 + counts[9]);
        counts[type]++;
    }
    assert_int_equal(at, end);
}

static void test_madt(void **state)
{
    static const unsigned cpus[] = {1, 2, 254, 255, 256, 300, ACPI_CPUS_MAX};
    struct boot_bench b;
    uint64_t rsdp;
    unsigned counts[16];
    bench_init(&b, 4u << 20);
    for (unsigned i = 0; i < sizeof(cpus) / sizeof(cpus[0]); i++) {
        unsigned n = cpus[i];
        b.acpi.cpus = n;
        assert_int_equal(acpi_build(&b.mem, &b.acpi, &rsdp, &b.e), 0);
        uint64_t madt = find(&b, rsdp, "APIC");
        assert_int_equal(bench_read(&b, madt + 36, 4), 0xfee00000);
        count_madt(&b, madt, counts);
        assert_int_equal(counts[0], n < 255 ? n : 255);
        assert_int_equal(counts[9], n > 255 ? n - 255 : 0);
        assert_int_equal(counts[1], 1);
        assert_int_equal(counts[2], 2);
        assert_int_equal(counts[4], 1);
        assert_int_equal(counts[10], n > 255);
    }
    bench_fini(&b);
}

static void test_optional(void **state)
{
    struct boot_bench b;
    uint64_t rsdp;
    bench_init(&b, 4u << 20);
    assert_int_equal(acpi_build(&b.mem, &b.acpi, &rsdp, &b.e), 0);
    uint64_t hpet = find(&b, rsdp, "HPET");
    assert_int_not_equal(hpet, 0);
    assert_int_equal(bench_read(&b, hpet + 36, 4), b.acpi.hpet_id);
    assert_int_equal(bench_read(&b, hpet + 44, 8), 0xfed00000);
    b.acpi.hpet = 0;
    b.acpi.pvpanic_port = 0;
    b.acpi.gpe0 = 0;
    assert_int_equal(acpi_build(&b.mem, &b.acpi, &rsdp, &b.e), 0);
    assert_int_equal(find(&b, rsdp, "HPET"), 0);
    assert_int_equal(bench_read(&b, find(&b, rsdp, "FACP") + 92, 1), 0);
    bench_fini(&b);
}

static void test_refused(void **state)
{
    struct boot_bench b;
    struct mem empty;
    uint64_t rsdp;
    bench_init(&b, 4u << 20);
    b.acpi.cpus = 0;
    assert_int_equal(acpi_build(&b.mem, &b.acpi, &rsdp, &b.e), -EINVAL);
    b.acpi.cpus = ACPI_CPUS_MAX + 1;
    assert_int_equal(acpi_build(&b.mem, &b.acpi, &rsdp, &b.e), -EINVAL);
    b.acpi.cpus = 1;
    mem_init(&empty);
    assert_int_equal(acpi_build(&empty, &b.acpi, &rsdp, &b.e), -EFAULT);
    mem_fini(&empty);
    bench_fini(&b);
}

/* Package lengths around each change of their own length, with the sizes that they must have. */
static void test_aml_lengths(void **state)
{
    static const struct {
        size_t content, length;
    } cases[] = {{4, 1}, {62, 1}, {63, 2}, {4093, 2}, {4094, 3}, {70000, 3}};
    static uint8_t bytes[80000];
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct aml a;
        aml_init(&a, bytes, sizeof(bytes));
        aml_begin_scope(&a, "\\AAA");
        for (size_t n = 4; n < cases[i].content; n++)
            aml_integer(&a, 1);
        aml_end(&a);
        assert_false(a.failed);
        assert_int_equal(a.size, 1 + cases[i].length + cases[i].content);
        size_t extra = bytes[1] >> 6, length = extra ? bytes[1] & 0xf : bytes[1];
        for (size_t n = 0; n < extra; n++)
            length |= (size_t)bytes[2 + n] << (4 + 8 * n);
        assert_int_equal(extra + 1, cases[i].length);
        assert_int_equal(length, cases[i].length + cases[i].content);
        assert_memory_equal(bytes + 1 + cases[i].length, "\\AAA", 4);
    }
}

/* Any room too small is noticed, and nothing is written beyond it (the heap block is exact). */
static void test_aml_room(void **state)
{
    for (size_t room = 0; room < 32; room++) {
        struct aml a;
        uint8_t *bytes = malloc(room + 1);
        bytes[room] = 0x5a;
        aml_init(&a, bytes, room);
        aml_begin_device(&a, "DEV0");
        aml_name(&a, "_CRS");
        aml_begin_resources(&a);
        aml_io(&a, 0x3f8, 8);
        aml_end_resources(&a);
        aml_end(&a);
        assert_int_equal(a.failed, room < 26);
        assert_int_equal(bytes[room], 0x5a);
        free(bytes);
    }
}

static void test_aml_misuse(void **state)
{
    uint8_t bytes[64];
    struct aml a;
    aml_init(&a, bytes, sizeof(bytes));
    aml_end(&a);
    assert_true(a.failed);
    aml_init(&a, bytes, sizeof(bytes));
    for (unsigned i = 0; i <= AML_DEPTH; i++)
        aml_begin_package(&a, 1);
    assert_true(a.failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fadt),        cmocka_unit_test(test_madt),
        cmocka_unit_test(test_optional),    cmocka_unit_test(test_refused),
        cmocka_unit_test(test_aml_lengths), cmocka_unit_test(test_aml_room),
        cmocka_unit_test(test_aml_misuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
