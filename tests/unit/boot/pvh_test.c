/* SPDX-License-Identifier: MIT */
/* ELF with the PVH note, 32 and 64 bits: what the kernel finds, and every header made wrong. */
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "boot_images.h"

#define MIB (1ull << 20)

static void check_cpu(const struct vcpu *v)
{
    assert_int_equal(v->rip, IMAGE_ELF_ENTRY);
    assert_int_equal(v->rflags, FLAG_ONE);
    assert_int_equal(v->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(v->cr4, 0);
    assert_int_equal(v->efer, 0);
    assert_false(v->long_mode || v->code64);
    /* Memory types: RAM write-back, holes uncached (SDM 3A 11.11.2.1 to 11.11.2.3). */
    assert_int_equal(v->mtrr_def_type, 0xc06);
    assert_int_equal(v->mtrr_fixed[1], 0x0606060606060606);
    assert_int_equal(v->mtrr_fixed[2], 0); /* 0xa0000 */
    for (unsigned i = 3; i < 11; i++)      /* 0xc0000 and up */
        assert_int_equal(v->mtrr_fixed[i], 0x0606060606060606);
    assert_int_equal(v->mtrr_base[0], 0xc0000000);
    assert_int_equal(v->mtrr_mask[0],
                     (1ull << v->platform->physical_address_bits) - 0x40000000 + 0x800);
    assert_int_equal(v->seg[SEG_CS].attributes, 0xc09b);
    assert_int_equal(v->seg[SEG_TR].attributes, 0x8b);
    assert_int_equal(v->seg[SEG_TR].limit, 0x67);
    for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
        assert_int_equal(v->seg[i].base, 0);
        assert_int_equal(v->seg[i].limit, 0xffffffff);
        if (i != SEG_CS)
            assert_int_equal(v->seg[i].attributes, 0xc093);
    }
}

/* The code is there, and what follows it in the segment is zero even if RAM was not. */
static void check_segment(const struct boot_bench *b, const struct image *image)
{
    uint8_t got[0x3000];
    assert_int_equal(mem_read(&b->mem, GPA(IMAGE_ELF_ADDRESS), got, sizeof(got)), 0);
    assert_memory_equal(got, image->bytes + IMAGE_ELF_CODE, 256);
    for (unsigned i = 256; i < sizeof(got); i++)
        assert_int_equal(got[i], 0);
    assert_int_equal(bench_read(b, IMAGE_ELF_ADDRESS + sizeof(got), 1), 0xee);
}

static void check_start_info(const struct boot_bench *b)
{
    char text[32] = {0};
    uint64_t info = b->v->gpr[RBX];
    assert_int_equal(bench_read(b, info, 4), 0x336ec578);
    assert_int_equal(bench_read(b, info + 4, 4), 1);
    assert_int_equal(bench_read(b, info + 12, 4), 1);
    bench_read_string(b, bench_read(b, info + 24, 8), text, sizeof(text));
    assert_string_equal(text, "root=/dev/ram0");
    assert_int_equal(bench_read(b, bench_read(b, info + 32, 8), 8), 0x2052545020445352);
    uint64_t map = bench_read(b, info + 40, 8);
    assert_int_equal(bench_read(b, info + 48, 4), 5);
    assert_int_equal(bench_read(b, map + 3 * 24, 8), MIB);
    assert_int_equal(bench_read(b, map + 3 * 24 + 8, 8), 15 * MIB);
    assert_int_equal(bench_read(b, map + 3 * 24 + 16, 4), 1);
    uint64_t module = bench_read(b, info + 16, 8);
    uint64_t at = bench_read(b, module, 8);
    assert_int_equal(at % 4096, 0);
    assert_int_equal(bench_read(b, module + 8, 8), 6);
    assert_int_equal(bench_read(b, at, 4), 0x74696e69);
    bench_read_string(b, bench_read(b, module + 16, 8), text, sizeof(text));
    assert_string_equal(text, "initrd.gz");
}

static void test_start(void **state)
{
    static struct image image;
    for (int is_64 = 0; is_64 < 2; is_64++) {
        struct boot_bench b;
        bench_init(&b, 16 * MIB);
        assert_int_equal(mem_fill(&b.mem, GPA(MIB), 0xee, 15 * MIB), 0);
        image_pvh(&image, is_64);
        bench_kernel(&b, image.bytes, image.size);
        bench_initrd(&b, "initrd", 6);
        b.config.cmdline = "root=/dev/ram0";
        assert_int_equal(bench_place(&b), 0);
        check_cpu(b.v);
        check_segment(&b, &image);
        check_start_info(&b);
        bench_fini(&b);
    }
}

#define EHDR(field) offsetof(Elf64_Ehdr, field), sizeof(((Elf64_Ehdr *)0)->field)
#define PHDR(i, field)                                                           \
    sizeof(Elf64_Ehdr) + (i) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field), \
        sizeof(((Elf64_Phdr *)0)->field)
#define NOTE(word) IMAGE_ELF_NOTE + 4 * (word), 4

static const struct image_mutation mutations[] = {
    {"no ELF", 0, 1, 0, ENOEXEC, "not a kernel"},
    {"class", EI_CLASS, 1, 3, EINVAL, "class 3"},
    {"class 32 over 64", EI_CLASS, 1, 1, EINVAL, "program headers of 0"},
    {"big-endian", EI_DATA, 1, 2, EINVAL, "encoding 2"},
    {"machine", EHDR(e_machine), EM_AARCH64, EINVAL, "machine 183"},
    {"relocatable object", EHDR(e_type), ET_REL, EINVAL, "not an executable"},
    {"core", EHDR(e_type), ET_CORE, EINVAL, "not an executable"},
    {"phentsize 0", EHDR(e_phentsize), 0, EINVAL, "program headers of 0"},
    {"phentsize small", EHDR(e_phentsize), 55, EINVAL, "program headers of 55"},
    {"phnum 0", EHDR(e_phnum), 0, ENOEXEC, "PVH note"},
    {"phnum beyond the file", EHDR(e_phnum), 0xffff, EINVAL, "beyond its end"},
    {"more headers, of no type", EHDR(e_phnum), 70, 0, ""},
    {"phoff at the end", EHDR(e_phoff), 0x1100, EINVAL, "beyond its end"},
    {"phoff wraps", EHDR(e_phoff), UINT64_MAX - 55, EINVAL, "beyond its end"},
    {"phoff largest", EHDR(e_phoff), UINT64_MAX, EINVAL, "beyond its end"},
    {"offset beyond", PHDR(0, p_offset), 0x1001, EINVAL, "segment 0"},
    {"offset wraps", PHDR(0, p_offset), UINT64_MAX - 10, EINVAL, "segment 0"},
    {"filesz beyond", PHDR(0, p_filesz), 257, EINVAL, "segment 0"},
    {"filesz wraps", PHDR(0, p_filesz), UINT64_MAX, EINVAL, "segment 0"},
    {"filesz over memsz", PHDR(0, p_memsz), 255, EINVAL, "in memory"},
    {"memsz too large", PHDR(0, p_memsz), 16 * MIB, EINVAL, "--mem"},
    {"memsz wraps", PHDR(0, p_memsz), UINT64_MAX, EINVAL, "wraps"},
    {"paddr on the BIOS data", PHDR(0, p_paddr), 0x400, EINVAL, "entry"},
    {"paddr wraps", PHDR(0, p_paddr), UINT64_MAX - 0x2fff, EINVAL, "wraps"},
    {"paddr away from the entry", PHDR(0, p_paddr), 2 * MIB, EINVAL, "entry"},
    {"paddr in the hole", PHDR(0, p_paddr), 0xffff0, EINVAL, "--mem"},
    {"a note segment to load with no memory", PHDR(1, p_type), PT_LOAD, EINVAL, "in memory"},
    {"no note segment", PHDR(1, p_type), PT_NULL, ENOEXEC, "PVH note"},
    {"note offset wraps", PHDR(1, p_offset), UINT64_MAX, EINVAL, "segment 1"},
    {"note size wraps", PHDR(1, p_filesz), UINT64_MAX, EINVAL, "segment 1"},
    {"note cut before its data", PHDR(1, p_filesz), 40, ENOEXEC, "PVH note"},
    {"note cut in its data", PHDR(1, p_filesz), 43, ENOEXEC, "PVH note"},
    {"notes empty", PHDR(1, p_filesz), 0, ENOEXEC, "PVH note"},
    {"namesz largest", NOTE(0), 0xffffffff, ENOEXEC, "PVH note"},
    {"descsz largest", NOTE(1), 0xffffffff, ENOEXEC, "PVH note"},
    {"note alignment 8 misreads", PHDR(1, p_align), 8, ENOEXEC, "PVH note"},
    {"note alignment odd means 4", PHDR(1, p_align), 3, 0, ""},
    {"other type", NOTE(8), 17, ENOEXEC, "PVH note"},
    {"other owner", NOTE(9), 0x006e6559, ENOEXEC, "PVH note"},
    {"data of 2 bytes", NOTE(7), 2, ENOEXEC, "PVH note"},
    {"data of 8 bytes is not there", NOTE(7), 8, ENOEXEC, "PVH note"},
    {"entry before the segment", NOTE(10), 0xfffff, EINVAL, "entry"},
    {"entry in its last byte", NOTE(10), 0x102fff, 0, ""},
    {"entry after the segment", NOTE(10), 0x103000, EINVAL, "entry"},
};

static void test_mutations(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    image_pvh(&image, true);
    bench_mutate(&b, &image, mutations, sizeof(mutations) / sizeof(mutations[0]));
    bench_fini(&b);
}

/* Two segments, the second moved over the first from either side. */
static void test_overlap(void **state)
{
    static const struct {
        uint64_t address, size;
        bool starts;
    } cases[] = {
        {0x103000, 0x1000, true},   {0x102fff, 0x1000, false},   {0xff000, 0x1000, false},
        {0x100800, 0x10, false},    {0x100000, 0x3000, false},   {0x9f000, 0xc00, true},
        {0x9f000, 0xc01, false},    {0x1000, 0x1000, true},      {0xfff, 0x1000, false},
        {0x200000, 0xe00000, true}, {0x200000, 0xe00001, false}, {0x110000, 0, true},
    };
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        Elf64_Phdr p = {.p_type = PT_LOAD, .p_paddr = cases[i].address, .p_memsz = cases[i].size};
        image_pvh(&image, true);
        image_set(&image, EHDR(e_phnum), 3);
        memcpy(image.bytes + image_phdr(true, 2), &p, sizeof(p));
        bench_kernel(&b, image.bytes, image.size);
        if ((bench_place(&b) == 0) != cases[i].starts)
            fail_msg("case %u: %s", i, b.e.text);
    }
    bench_fini(&b);
}

static void test_too_many_segments(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 16 * MIB);
    for (unsigned n = 64; n <= 65; n++) {
        image_pvh(&image, true);
        image_set(&image, EHDR(e_phoff), 0x40);
        image_set(&image, EHDR(e_phnum), n);
        for (unsigned i = 2; i < n; i++)
            image_set(&image, image_phdr(true, i), 4, PT_LOAD);
        memmove(image.bytes + 0x1100 + 0xf00, image.bytes + IMAGE_ELF_NOTE, 64);
        image.size = 0x2100;
        image_set(&image, PHDR(1, p_offset), 0x2000);
        bench_kernel(&b, image.bytes, image.size);
        assert_int_equal(bench_place(&b), n == 64 ? 0 : -EINVAL);
        assert_true(n == 64 || strstr(b.e.text, "more than 64") != NULL);
    }
    bench_fini(&b);
}

static void test_initrd_too_large(void **state)
{
    static struct image image;
    struct boot_bench b;
    uint8_t *initrd = calloc(1, 15 * MIB);
    bench_init(&b, 16 * MIB);
    image_pvh(&image, true);
    bench_kernel(&b, image.bytes, image.size);
    bench_initrd(&b, initrd, 15 * MIB - 0x3000);
    assert_int_equal(bench_place(&b), 0);
    bench_initrd(&b, initrd, 15 * MIB - 0x2fff);
    assert_int_equal(bench_place(&b), -ENOSPC);
    assert_non_null(strstr(b.e.text, "dir/initrd.gz: no room for the initrd"));
    free(initrd);
    bench_fini(&b);
}

static void test_truncated(void **state)
{
    static struct image image;
    for (int is_64 = 0; is_64 < 2; is_64++) {
        struct boot_bench b;
        bench_init(&b, 16 * MIB);
        image_pvh(&image, is_64);
        bench_truncate(&b, &image, image.size);
        bench_fini(&b);
    }
}

static void test_fuzz(void **state)
{
    static struct image image;
    for (int is_64 = 0; is_64 < 2; is_64++) {
        struct boot_bench b;
        bench_init(&b, 4 * MIB);
        image_pvh(&image, is_64);
        unsigned started = bench_fuzz(&b, &image, image_phdr(is_64, 2), 40000, 77);
        /* The notes as well. */
        memmove(image.bytes + image_phdr(is_64, 2), image.bytes + IMAGE_ELF_NOTE, 44);
        image_set(&image, image_phdr(is_64, 1) + (is_64 ? 8 : 4), 4, image_phdr(is_64, 2));
        started += bench_fuzz(&b, &image, image_phdr(is_64, 2) + 44, 20000, 78);
        print_message("%u of 60000 started\n", started);
        assert_true(started > 0 && started < 60000);
        bench_fini(&b);
    }
}

static void test_random_bytes(void **state)
{
    struct boot_bench b;
    uint8_t bytes[9000];
    uint32_t s = 1;
    bench_init(&b, 4 * MIB);
    for (unsigned i = 0; i < 2000; i++) {
        for (size_t n = 0; n < sizeof(bytes); n++)
            bytes[n] = (uint8_t)((s = s * 1664525 + 1013904223) >> 24);
        if (i % 2)
            memcpy(bytes,
                   "\x7f"
                   "ELF\2\1\1",
                   7);
        bench_kernel(&b, bytes, s % sizeof(bytes));
        assert_int_not_equal(bench_place(&b), 0);
    }
    bench_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_too_many_segments),
        cmocka_unit_test(test_initrd_too_large),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_fuzz),
        cmocka_unit_test(test_random_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
