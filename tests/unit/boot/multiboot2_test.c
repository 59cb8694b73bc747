/* SPDX-License-Identifier: MIT */
/* Multiboot 2 kernels: tags of the header, the information, and bad ones of both. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "boot_images.h"

#define MIB    (1ull << 20)
#define MAGIC  0xe85250d6u
#define HEADER 0x80u
#define SIZE   0x2000u
#define LOAD   0x200000u

/* A flat file; tags are appended, image_close ends them and sets length and checksum. */
static struct image image;
static size_t tags;

static void image_open(void)
{
    memset(&image, 0x90, sizeof(image));
    image.size = SIZE;
    image_set(&image, HEADER, 4, MAGIC);
    image_set(&image, HEADER + 4, 4, 0);
    tags = HEADER + 16;
}

static void tag(unsigned type, unsigned flags, unsigned n, const uint32_t *words)
{
    image_set(&image, tags, 2, type);
    image_set(&image, tags + 2, 2, flags);
    image_set(&image, tags + 4, 4, 8 + 4 * n);
    for (unsigned i = 0; i < n; i++)
        image_set(&image, tags + 8 + 4 * i, 4, words[i]);
    tags = (tags + 8 + 4 * n + 7) & ~(size_t)7;
}

static void image_close(void)
{
    tag(0, 0, 0, NULL);
    uint32_t length = (uint32_t)(tags - HEADER);
    image_set(&image, HEADER + 8, 4, length);
    image_set(&image, HEADER + 12, 4, 0u - MAGIC - length);
}

static void image_flat(void)
{
    image_open();
    tag(2, 0, 4, (uint32_t[]){LOAD + HEADER, LOAD, 0, LOAD + 0x4000});
    tag(3, 0, 1, (uint32_t[]){LOAD + 0x400});
}

static int place(struct boot_bench *b)
{
    bench_kernel(b, image.bytes, image.size);
    return bench_place(b);
}

/* The tag of that type in the information; 0 = none. */
static uint64_t find(const struct boot_bench *b, unsigned type)
{
    uint64_t info = b->v->gpr[RBX], end = info + bench_read(b, info, 4), found = 0;
    bool ended = false;
    assert_int_equal(info % 8, 0);
    for (uint64_t at = info + 8; at < end; at += (bench_read(b, at + 4, 4) + 7) & ~7ull) {
        assert_false(ended);
        assert_true(bench_read(b, at + 4, 4) >= 8);
        ended = bench_read(b, at, 4) == 0;
        if (bench_read(b, at, 4) == type && !ended)
            found = at;
    }
    assert_true(ended);
    return found;
}

static void test_information(void **state)
{
    struct boot_bench b;
    char text[64] = {0};
    bench_init(&b, 16 * MIB);
    image_flat();
    tag(1, 0, 4, (uint32_t[]){1, 3, 6, 21});
    image_close();
    bench_initrd(&b, "initrd", 6);
    b.config.cmdline = "a b=c";
    b.config.module_cmdline = "module args";
    assert_int_equal(place(&b), 0);
    assert_int_equal(b.v->rip, LOAD + 0x400);
    assert_int_equal(b.v->gpr[RAX], 0x36d76289);
    assert_int_equal(b.v->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(b.v->rflags, FLAG_ONE);
    assert_int_equal(b.v->seg[SEG_CS].attributes, 0xc09b);
    assert_int_equal(bench_read(&b, LOAD + HEADER, 4), MAGIC);
    assert_int_equal(bench_read(&b, LOAD + SIZE, 8), 0);

    bench_read_string(&b, find(&b, 1) + 8, text, sizeof(text));
    assert_string_equal(text, "a b=c");
    bench_read_string(&b, find(&b, 2) + 8, text, sizeof(text));
    assert_string_equal(text, "doppel");
    uint64_t module = find(&b, 3), start = bench_read(&b, module + 8, 4);
    assert_int_equal(start % 4096, 0);
    assert_int_equal(bench_read(&b, module + 12, 4), start + 6);
    bench_read_string(&b, start, text, 7);
    assert_memory_equal(text, "initrd", 6);
    bench_read_string(&b, module + 16, text, sizeof(text));
    assert_string_equal(text, "module args");
    assert_int_equal(bench_read(&b, find(&b, 4) + 8, 4), 0x9fc00 / 1024);
    assert_int_equal(bench_read(&b, find(&b, 4) + 12, 4), 15 * 1024);
    uint64_t map = find(&b, 6);
    assert_int_equal(bench_read(&b, map + 8, 4), 24);
    assert_int_equal(bench_read(&b, map + 4, 4), 16 + 5 * 24);
    assert_int_equal(bench_read(&b, map + 16 + 3 * 24, 8), MIB);
    assert_int_equal(bench_read(&b, map + 16 + 3 * 24 + 8, 8), 15 * MIB);
    assert_int_equal(bench_read(&b, map + 16 + 3 * 24 + 16, 4), 1);
    assert_int_equal(bench_read(&b, find(&b, 14) + 4, 4), 8 + 20);
    assert_int_equal(bench_read(&b, find(&b, 15) + 8, 8), 0x2052545020445352);
    bench_fini(&b);
}

static void test_elf(void **state)
{
    struct boot_bench b;
    for (unsigned is_64 = 0; is_64 < 2; is_64++) {
        bench_init(&b, 16 * MIB);
        image_multiboot(&image, is_64);
        image_set(&image, IMAGE_MULTIBOOT, 4, MAGIC);
        image_set(&image, IMAGE_MULTIBOOT + 4, 8, 24ull << 32);
        image_set(&image, IMAGE_MULTIBOOT + 12, 4, 0u - MAGIC - 24);
        image_set(&image, IMAGE_MULTIBOOT + 16, 8, 8ull << 32);
        b.config.acpi = NULL;
        assert_int_equal(place(&b), 0);
        assert_int_equal(b.v->rip, IMAGE_ELF_ENTRY);
        assert_int_equal(find(&b, 3) | find(&b, 14) | find(&b, 15), 0);
        bench_fini(&b);
    }
}

static void test_tags(void **state)
{
    static const struct {
        unsigned type, flags, n;
        uint32_t words[4];
        const char *word; /* NULL = starts */
    } cases[] = {
        {1, 0, 1, {22}, "information of the unknown type 22"},
        {1, 1, 1, {22}, NULL},
        {1, 0, 0, {0}, NULL},
        {2, 0, 3, {0}, "type 2 has 20"},
        {3, 0, 0, {0}, "type 3 has 8"},
        {4, 0, 1, {1}, "needs a screen"},
        {4, 0, 1, {2}, NULL},
        {4, 1, 1, {3}, NULL},
        {5, 0, 3, {0}, "framebuffer"},
        {5, 1, 3, {0}, NULL},
        {6, 0, 0, {0}, NULL},
        {7, 0, 0, {0}, "EFI"},
        {7, 1, 0, {0}, NULL},
        {8, 0, 1, {0}, NULL},
        {9, 0, 1, {0}, NULL},
        {10, 0, 4, {0}, NULL},
        {11, 0, 0, {0}, "unknown feature 11"},
        {11, 1, 0, {0}, NULL},
        {0xffff, 0, 0, {0}, "unknown feature 65535"},
    };
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        image_flat();
        tag(cases[i].type, cases[i].flags, cases[i].n, cases[i].words);
        image_close();
        assert_int_equal(place(&b), cases[i].word == NULL ? 0 : -EINVAL);
        if (cases[i].word != NULL)
            assert_non_null(strstr(b.e.text, cases[i].word));
    }
    bench_fini(&b);
}

static void refused(struct boot_bench *b, size_t offset, unsigned size, uint64_t value,
                    const char *word)
{
    uint64_t old = image_get(&image, offset, size);
    image_set(&image, offset, size, value);
    assert_int_equal(place(b), -EINVAL);
    assert_non_null(strstr(b->e.text, word));
    image_set(&image, offset, size, old);
}

static void test_bad_headers(void **state)
{
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    image_flat();
    image_close();
    assert_int_equal(place(&b), 0);
    refused(&b, HEADER + 12, 4, 1, "checksum");
    uint32_t length = (uint32_t)image_get(&image, HEADER + 8, 4);
    image_set(&image, HEADER + 4, 4, 4); /* MIPS */
    refused(&b, HEADER + 12, 4, 0u - MAGIC - length - 4, "architecture 4");
    image_set(&image, HEADER + 4, 4, 0);
    image_set(&image, HEADER + 8, 4, 0x10000);
    refused(&b, HEADER + 12, 4, 0u - MAGIC - 0x10000, "length");
    image_set(&image, HEADER + 8, 4, length - 8); /* without the end tag */
    refused(&b, HEADER + 12, 4, 0u - MAGIC - length + 8, "do not end");
    image_set(&image, HEADER + 8, 4, length);
    refused(&b, HEADER + 16 + 4, 4, 0, "do not end");
    refused(&b, HEADER + 16 + 4, 4, 0xffffffff, "do not end");
    image_open();
    tag(2, 0, 4, (uint32_t[]){LOAD + HEADER, LOAD, 0, 0});
    image_close();
    assert_int_equal(place(&b), -EINVAL);
    assert_non_null(strstr(b.e.text, "without an entry"));
    image_open();
    image_close();
    assert_int_equal(place(&b), -EINVAL);
    assert_non_null(strstr(b.e.text, "ELF"));
    bench_fini(&b);
}

static void test_long_command_line(void **state)
{
    static char text[5000];
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    image_flat();
    image_close();
    memset(text, 'x', sizeof(text) - 1);
    b.config.cmdline = text;
    assert_int_equal(place(&b), -EINVAL);
    assert_non_null(strstr(b.e.text, "--append"));
    text[3000] = '\0';
    assert_int_equal(place(&b), 0);
    bench_fini(&b);
}

static void test_random(void **state)
{
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    image_flat();
    tag(1, 1, 4, (uint32_t[]){1, 2, 3, 4});
    image_close();
    bench_truncate(&b, &image, tags);
    bench_fuzz(&b, &image, tags, 20000, 7);
    bench_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_information),
        cmocka_unit_test(test_elf),
        cmocka_unit_test(test_tags),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_long_command_line),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
