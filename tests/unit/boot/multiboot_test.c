/* SPDX-License-Identifier: MIT */
/* Multiboot 1 in ELF: the state and information of the specification, and headers made wrong. */
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "boot_images.h"

#define MIB    (1ull << 20)
#define MAGIC  0x1badb002u
#define HEADER IMAGE_MULTIBOOT

static void set_flags(struct image *i, uint32_t flags)
{
    image_set(i, HEADER + 4, 4, flags);
    image_set(i, HEADER + 8, 4, 0u - (MAGIC + flags));
}

static void check_info(const struct boot_bench *b)
{
    char text[32] = {0};
    uint64_t info = b->v->gpr[RBX];
    assert_int_equal(b->v->gpr[RAX], 0x2badb002);
    assert_int_equal(bench_read(b, info, 4), 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9);
    assert_int_equal(bench_read(b, info + 4, 4), 639);
    assert_int_equal(bench_read(b, info + 8, 4), 15 * 1024);
    bench_read_string(b, bench_read(b, info + 16, 4), text, sizeof(text));
    assert_string_equal(text, "a b=c");
    bench_read_string(b, bench_read(b, info + 64, 4), text, sizeof(text));
    assert_string_equal(text, "doppel");
    /* The memory map is walked by the size that each entry states. */
    uint64_t at = bench_read(b, info + 48, 4), end = at + bench_read(b, info + 44, 4);
    unsigned n = 0;
    for (; at < end; at += 4 + bench_read(b, at, 4), n++)
        if (bench_read(b, at + 4, 8) == MIB) {
            assert_int_equal(bench_read(b, at + 12, 8), 15 * MIB);
            assert_int_equal(bench_read(b, at + 20, 4), 1);
        }
    assert_int_equal(at, end);
    assert_int_equal(n, 5);
    assert_int_equal(bench_read(b, info + 20, 4), 1);
    uint64_t module = bench_read(b, info + 24, 4), start = bench_read(b, module, 4);
    assert_int_equal(start % 4096, 0);
    assert_int_equal(bench_read(b, module + 4, 4), start + 6);
    assert_int_equal(bench_read(b, start, 4), 0x74696e69);
    bench_read_string(b, bench_read(b, module + 8, 4), text, sizeof(text));
    assert_string_equal(text, "module args");
}

static void test_start(void **state)
{
    static struct image image;
    for (int is_64 = 0; is_64 < 2; is_64++) {
        struct boot_bench b;
        bench_init(&b, 16 * MIB);
        image_multiboot(&image, is_64);
        bench_kernel(&b, image.bytes, image.size);
        bench_initrd(&b, "initrd", 6);
        b.config.cmdline = "a b=c";
        b.config.module_cmdline = "module args";
        assert_int_equal(bench_place(&b), 0);
        assert_int_equal(b.v->rip, IMAGE_ELF_ENTRY);
        assert_int_equal(b.v->cr0 & (CR0_PE | CR0_PG), CR0_PE);
        assert_int_equal(b.v->rflags, FLAG_ONE);
        assert_int_equal(b.v->seg[SEG_CS].attributes, 0xc09b);
        assert_int_equal(b.v->seg[SEG_SS].attributes, 0xc093);
        assert_false(b.v->code64);
        check_info(&b);
        bench_fini(&b);
    }
}

static void test_entry(void **state)
{
    static const struct {
        uint64_t entry, starts_at; /* 0 = refused */
    } cases[] = {
        {IMAGE_ELF_VIRTUAL + 0x100000, 0x100000},
        {IMAGE_ELF_VIRTUAL + 0x102fff, 0x102fff},
        {IMAGE_ELF_VIRTUAL + 0x103000, 0},
        {IMAGE_ELF_VIRTUAL + 0xfffff, 0},
        {0x100010, 0x100010},
        /* physical */ {0x103000, 0},
        {UINT64_MAX, 0},
        {0, 0},
    };
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        image_multiboot(&image, true);
        image_set(&image, offsetof(Elf64_Ehdr, e_entry), 8, cases[i].entry);
        bench_kernel(&b, image.bytes, image.size);
        assert_int_equal(bench_place(&b), cases[i].starts_at ? 0 : -EINVAL);
        if (cases[i].starts_at)
            assert_int_equal(b.v->rip, cases[i].starts_at);
        else
            assert_non_null(strstr(b.e.text, "entry"));
    }
    bench_fini(&b);
}

static void test_flags(void **state)
{
    static const struct {
        uint32_t flags;
        const char *word; /* NULL = starts */
    } cases[] = {
        {0, NULL},
        {1, NULL},
        {2, NULL},
        {3, NULL},
        {4, "video"},
        {8, "unknown"},
        {0x8000, "unknown"},
        {0x10000, "load_addr"},
        {0x10003, "load_addr"},
        {0x20000, NULL},
        {0xfffe0003, NULL},
        {0xffffffff, "video"},
    };
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        image_multiboot(&image, false);
        set_flags(&image, cases[i].flags);
        bench_kernel(&b, image.bytes, image.size);
        int r = bench_place(&b);
        assert_int_equal(r, cases[i].word == NULL ? 0 : -EINVAL);
        assert_true(r == 0 || strstr(b.e.text, cases[i].word) != NULL);
    }
    bench_fini(&b);
}

#define FLAT_HEADER 0x40u /* offset of the header in a flat file of FLAT_SIZE bytes */
#define FLAT_SIZE   0x1000u
#define FLAT_LOAD   0x200000u

/* A file that is not ELF, with header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr. */
static int place_flat(struct boot_bench *b, const uint32_t addresses[5])
{
    static struct image image;
    memset(&image, 0x90, sizeof(image));
    image.size = FLAT_SIZE;
    image_set(&image, FLAT_HEADER, 4, MAGIC);
    image_set(&image, FLAT_HEADER + 4, 4, 0x10000);
    image_set(&image, FLAT_HEADER + 8, 4, 0u - MAGIC - 0x10000);
    for (unsigned i = 0; i < 5; i++)
        image_set(&image, FLAT_HEADER + 12 + 4 * i, 4, addresses[i]);
    bench_kernel(b, image.bytes, image.size);
    return bench_place(b);
}

static void test_addresses(void **state)
{
    const uint32_t header = FLAT_LOAD + FLAT_HEADER;
    static const struct {
        uint32_t a[5];
        const char *word;
    } bad[] = {
        {{FLAT_LOAD, FLAT_LOAD + 1, 0, 0, 0}, "before"}, /* load above the header */
        {{FLAT_LOAD + FLAT_HEADER + 1, FLAT_LOAD, 0, 0, 0}, "before"},
        {{FLAT_LOAD + FLAT_HEADER, FLAT_LOAD, FLAT_LOAD - 1, 0, 0}, "below load_addr"},
        {{FLAT_LOAD + FLAT_HEADER, FLAT_LOAD, FLAT_LOAD + FLAT_SIZE + 1, 0, 0}, "cut short"},
        {{FLAT_LOAD + FLAT_HEADER, FLAT_LOAD, 0, FLAT_LOAD + FLAT_SIZE - 1, 0}, "bss_end_addr"},
        {{FLAT_LOAD + FLAT_HEADER, FLAT_LOAD, 0, 0xffffffff, 0}, "free memory"},
        {{0xa0000 + FLAT_HEADER, 0xa0000, 0, 0, 0}, "free memory"},
    };
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    assert_int_equal(mem_fill(&b.mem, GPA(FLAT_LOAD), 0xee, 0x4000), 0); /* as before a reset */
    assert_int_equal(place_flat(&b, (uint32_t[]){header, FLAT_LOAD, FLAT_LOAD + 0x800,
                                                 FLAT_LOAD + 0x3000, FLAT_LOAD + 0x123}),
                     0);
    assert_int_equal(b.v->rip, FLAT_LOAD + 0x123);
    assert_int_equal(b.v->gpr[RAX], 0x2badb002);
    assert_int_equal(bench_read(&b, header, 4), MAGIC);
    assert_int_equal(bench_read(&b, FLAT_LOAD + 0x7ff, 1), 0x90);
    assert_int_equal(bench_read(&b, FLAT_LOAD + 0x800, 8), 0);
    assert_int_equal(bench_read(&b, FLAT_LOAD + 0x2ff8, 8), 0);
    assert_int_equal(bench_read(&b, FLAT_LOAD + 0x3000, 1), 0xee);

    /* What lies before load_addr in the file is left out; without ends all the rest is loaded. */
    assert_int_equal(place_flat(&b, (uint32_t[]){header, header, 0, 0, header + 32}), 0);
    assert_int_equal(bench_read(&b, header, 4), MAGIC);
    assert_int_equal(bench_read(&b, header + FLAT_SIZE - FLAT_HEADER - 1, 1), 0x90);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(place_flat(&b, bad[i].a), -EINVAL);
        assert_non_null(strstr(b.e.text, bad[i].word));
    }
    bench_fini(&b);
}

/* Moves the header to `at`, in a file that goes on to `size`. */
static int place_header_at(struct boot_bench *b, size_t at, size_t size)
{
    static struct image image;
    image_multiboot(&image, false);
    image_set(&image, HEADER, 4, 0);
    image.size = size;
    image_set(&image, at, 4, MAGIC);
    image_set(&image, at + 4, 4, 0);
    image_set(&image, at + 8, 4, 0u - MAGIC);
    bench_kernel(b, image.bytes, image.size);
    return bench_place(b);
}

static void test_header_place(void **state)
{
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    assert_int_equal(place_header_at(&b, 0x200, IMAGE_MAX), 0);
    assert_int_equal(place_header_at(&b, 0x1200, 0x120c), 0);
    assert_int_equal(place_header_at(&b, 8192 - 12, IMAGE_MAX), 0);
    assert_int_equal(place_header_at(&b, 8192 - 8, IMAGE_MAX), -ENOEXEC);
    assert_int_equal(place_header_at(&b, 8192, IMAGE_MAX), -ENOEXEC);
    assert_int_equal(place_header_at(&b, 0x202, IMAGE_MAX), -ENOEXEC); /* not on 4 bytes */
    assert_int_equal(place_header_at(&b, 0x1200, 0x120b), -ENOEXEC);
    assert_non_null(strstr(b.e.text, "neither the PVH note"));
    bench_fini(&b);
}

static void test_bad_header(void **state)
{
    static const struct image_mutation mutations[] = {
        {"checksum", HEADER + 8, 4, 0, EINVAL, "checksum"},
        {"magic", HEADER, 4, MAGIC + 1, ENOEXEC, "neither"},
        {"no ELF", 0, 1, 0, EINVAL, "not in ELF"},
        {"phnum 0", 44, 2, 0, EINVAL, "entry"},
        {"phoff", 28, 4, 0xffffffff, EINVAL, "beyond its end"},
        {"filesz", 52 + 16, 4, 0xffffffff, EINVAL, "segment 0"},
        {"memsz", 52 + 20, 4, 0xffffffff, EINVAL, "--mem"},
    };
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    image_multiboot(&image, false);
    bench_mutate(&b, &image, mutations, sizeof(mutations) / sizeof(mutations[0]));
    /* A bad header before a good one is passed over. */
    image_set(&image, 0x800, 4, MAGIC);
    bench_kernel(&b, image.bytes, image.size);
    assert_int_equal(bench_place(&b), 0);
    bench_fini(&b);
}

/* A kernel with both is started by the PVH note. */
static void test_both(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    image_pvh(&image, true);
    image_set(&image, HEADER, 4, MAGIC);
    image_set(&image, HEADER + 4, 4, 0);
    image_set(&image, HEADER + 8, 4, 0u - MAGIC);
    bench_kernel(&b, image.bytes, image.size);
    assert_int_equal(bench_place(&b), 0);
    assert_int_equal(bench_read(&b, b.v->gpr[RBX], 4), 0x336ec578);
    bench_fini(&b);
}

static void test_fuzz(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 4 * MIB);
    image_multiboot(&image, false);
    image_set(&image, HEADER, 4, 0);
    image_set(&image, 0x80, 4, MAGIC); /* beside the program headers */
    image_set(&image, 0x88, 4, 0u - MAGIC);
    unsigned started = bench_fuzz(&b, &image, 0x90, 60000, 5);
    print_message("%u of 60000 started\n", started);
    assert_true(started > 0 && started < 60000);
    bench_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),        cmocka_unit_test(test_entry),
        cmocka_unit_test(test_flags),        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_header_place), cmocka_unit_test(test_bad_header),
        cmocka_unit_test(test_both),         cmocka_unit_test(test_fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
