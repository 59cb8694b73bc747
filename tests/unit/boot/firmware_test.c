/* SPDX-License-Identifier: MIT */
/* Firmware lies at the top of 4 GiB and, its end, below 1 MiB. */
#include "boot_images.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define KIB 1024u

static void give(struct boot_bench *b, size_t size)
{
    uint8_t *rom = malloc(size);
    assert_non_null(rom);
    for (size_t i = 0; i < size; i++)
        rom[i] = (uint8_t)(i >> 12 ^ i * 5);
    b->files.firmware = (struct boot_bytes){strdup("dir/firmware"), rom, size};
}

static void placed(void **state)
{
    static const size_t sizes[] = {64 * KIB, 128 * KIB, 256 * KIB, 16384 * KIB};

    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct boot_bench b;
        size_t size = sizes[i], copy = size < 128 * KIB ? size : 128 * KIB;
        uint8_t *got = malloc(size);
        bench_init(&b, 4u << 20);
        assert_int_equal(
            mem_add(&b.mem, "rom", GPA((1ull << 32) - size), size, MEM_ANONYMOUS, true, NULL), 0);
        give(&b, size);
        vcpu_reset(b.v);
        for (unsigned round = 0; round < 2; round++) { /* a reset restores what was overwritten */
            assert_int_equal(bench_place(&b), 0);
            assert_int_equal(mem_read(&b.mem, GPA((1ull << 32) - size), got, size), 0);
            assert_memory_equal(got, b.files.firmware.data, size);
            assert_int_equal(mem_read(&b.mem, GPA((1u << 20) - copy), got, copy), 0);
            assert_memory_equal(got, b.files.firmware.data + size - copy, copy);
            assert_int_equal(bench_read(&b, 0xc0000, 8), 0);
            assert_int_equal(bench_read(&b, (1u << 20) - copy - 8, 8), 0);
            assert_int_equal(mem_fill(&b.mem, GPA(0xc0000), 0xee, 256 * KIB), 0);
        }
        assert_int_equal(b.v->rip, 0xfff0); /* as reset left it */
        assert_int_equal(b.v->seg[SEG_CS].base, 0xffff0000);
        free(got);
        bench_fini(&b);
    }
}

static void without_a_rom(void **state)
{
    struct boot_bench b;
    bench_init(&b, 4u << 20);
    give(&b, 64 * KIB);
    assert_int_equal(bench_place(&b), -EFAULT);
    bench_fini(&b);
}

static void sizes(void **state)
{
    static const struct {
        size_t size;
        int result;
    } cases[] = {{64 * KIB, 0},           {64 * KIB - 1, -EINVAL},
                 {64 * KIB + 1, -EINVAL}, {16384 * KIB, 0},
                 {16448 * KIB, -EINVAL},  {1, -EINVAL},
                 {100 * KIB, -EINVAL},    {0, -EINVAL}};
    char path[] = "/tmp/firmware_test.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct boot_config config = {.firmware_path = path, .ram_size = 4u << 20};
        struct boot_files f;
        struct error e = {0};
        assert_int_equal(ftruncate(fd, (off_t)cases[i].size), 0);
        assert_int_equal(boot_files_read(&f, &config, &e), cases[i].result);
        if (cases[i].result != 0) {
            assert_non_null(strstr(e.text, path));
            assert_non_null(strstr(e.text, "--firmware"));
            continue;
        }
        assert_int_equal(f.firmware.size, cases[i].size);
        assert_null(f.kernel.data);
        boot_files_free(&f);
    }
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(placed),
        cmocka_unit_test(without_a_rom),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
