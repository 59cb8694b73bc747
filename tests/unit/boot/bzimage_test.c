/* SPDX-License-Identifier: MIT */
/* bzImage: where everything lies, and every field of the setup header made wrong. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "boot_images.h"

#define MIB (1ull << 20)

/* Translates by the tables at cr3, as the walk of SDM 3A 4.5 does for 2 MiB pages. */
static uint64_t translate(const struct boot_bench *b, uint64_t linear)
{
    uint64_t entry = b->v->cr3;
    for (unsigned shift = 39; shift >= 21; shift -= 9) {
        entry = bench_read(b, (entry & ~0xfffull) + (linear >> shift & 511) * 8, 8);
        assert_int_equal(entry & 3, 3);
    }
    assert_int_equal(entry & 0x80, 0x80);
    return (entry & ~0x1fffffull) + (linear & 0x1fffff);
}

static void check_cpu(const struct boot_bench *b, uint64_t kernel)
{
    const struct vcpu *v = b->v;
    assert_int_equal(v->rip, kernel + 0x200);
    assert_int_equal(v->rflags, FLAG_ONE);
    assert_int_equal(v->cr0 & (CR0_PE | CR0_PG), CR0_PE | CR0_PG);
    assert_true(v->cr4 & CR4_PAE);
    assert_int_equal(v->efer & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
    assert_true(v->long_mode && v->code64);
    assert_int_equal(v->cpl, 0);
    assert_int_equal(v->seg[SEG_CS].selector, 0x10);
    assert_int_equal(v->seg[SEG_CS].attributes, 0xa09b);
    assert_int_equal(v->seg[SEG_DS].selector, 0x18);
    assert_int_equal(v->seg[SEG_SS].attributes, 0xc093);
    /* The descriptors in memory say the same as the hidden parts. */
    assert_int_equal(v->gdtr.limit, 31);
    uint64_t code = bench_read(b, v->gdtr.base + 0x10, 8);
    assert_int_equal(code >> 40 & 0xf0ff, v->seg[SEG_CS].attributes);
    uint64_t data = bench_read(b, v->gdtr.base + 0x18, 8);
    assert_int_equal(data >> 40 & 0xf0ff, v->seg[SEG_DS].attributes);
    for (uint64_t a = 0x1234; a < 1ull << 32; a += 0x10000000 + 0x20100)
        assert_int_equal(translate(b, a), a);
}

static void test_start(void **state)
{
    static struct image image;
    struct boot_bench b;
    uint8_t body[BZIMAGE_BODY_SIZE], initrd[5000];
    char text[32] = {0};

    bench_init(&b, 64 * MIB);
    image_bzimage(&image);
    memset(initrd, 0x5a, sizeof(initrd));
    bench_kernel(&b, image.bytes, image.size);
    bench_initrd(&b, initrd, sizeof(initrd));
    b.config.cmdline = "console=ttyS0 quiet";
    assert_int_equal(bench_place(&b), 0);
    check_cpu(&b, BZIMAGE_PREFERRED);
    assert_int_equal(mem_read(&b.mem, GPA(BZIMAGE_PREFERRED), body, sizeof(body)), 0);
    assert_memory_equal(body, image.bytes + BZIMAGE_BODY, sizeof(body));

    uint64_t zero = b.v->gpr[RSI];
    assert_int_equal(zero % 4096, 0);
    assert_int_equal(bench_read(&b, zero + 0x1ef, 1), 0); /* sentinel */
    assert_int_equal(bench_read(&b, zero + 0x202, 4), 0x53726448);
    assert_int_equal(bench_read(&b, zero + 0x210, 1), 0xff);
    assert_int_equal(bench_read(&b, zero + 0x214, 4), BZIMAGE_PREFERRED);
    assert_int_equal(bench_read(&b, zero + 0x260, 4), BZIMAGE_INIT_SIZE);
    bench_read_string(&b, bench_read(&b, zero + 0x228, 4), text, sizeof(text));
    assert_string_equal(text, b.config.cmdline);
    uint64_t at = bench_read(&b, zero + 0x218, 4);
    assert_int_equal(bench_read(&b, zero + 0x21c, 4), sizeof(initrd));
    assert_int_equal(at, 64 * MIB - 8192);
    assert_int_equal(bench_read(&b, at + sizeof(initrd) - 1, 1), 0x5a);
    assert_int_equal(bench_read(&b, bench_read(&b, zero + 0x70, 8), 8), 0x2052545020445352);
    assert_int_equal(bench_read(&b, zero + 0x1e8, 1), 5);
    assert_int_equal(bench_read(&b, zero + 0x2d0 + 3 * 20, 8), MIB);
    assert_int_equal(bench_read(&b, zero + 0x2d0 + 3 * 20 + 8, 8), 63 * MIB);
    assert_int_equal(bench_read(&b, 0x40e, 2), 0x9fc0);
    /* The decompressor takes the top of conventional memory: nothing of ours may be there. */
    assert_true(zero < 0x80000 && b.v->cr3 < 0x80000 && b.v->gdtr.base < 0x80000);
    bench_fini(&b);
}

/* Without XLF_KERNEL_64, or by a protocol that does not know it: flat 32-bit code. */
static void test_start_32(void **state)
{
    static const struct {
        unsigned version, flags;
    } cases[] = {{0x20f, 2}, {0x20a, 3}, {0x20b, 3}};
    static struct image image;
    uint8_t initrd[5000] = {0};

    for (unsigned i = 0; i < 3; i++) {
        struct boot_bench b;
        bench_init(&b, 64 * MIB);
        image_bzimage(&image);
        image_set(&image, 0x206, 2, cases[i].version);
        image_set(&image, 0x236, 2, cases[i].flags);
        image_set(&image, 0x22c, 4, 0x2ffffff); /* initrd_addr_max */
        bench_kernel(&b, image.bytes, image.size);
        bench_initrd(&b, initrd, sizeof(initrd));
        assert_int_equal(bench_place(&b), 0);
        const struct vcpu *v = b.v;
        assert_int_equal(v->rip, BZIMAGE_PREFERRED);
        assert_int_equal(v->cr0 & (CR0_PE | CR0_PG), CR0_PE);
        assert_false(v->long_mode);
        assert_int_equal(v->rflags, FLAG_ONE);
        assert_int_equal(v->seg[SEG_CS].selector, 0x10);
        assert_int_equal(v->seg[SEG_CS].attributes, 0xc09b);
        assert_int_equal(v->gdtr.limit, 31);
        for (unsigned n = SEG_ES; n <= SEG_DS; n++) {
            uint64_t d = bench_read(&b, v->gdtr.base + v->seg[n].selector, 8);
            assert_int_equal(d >> 40 & 0xf0ff, v->seg[n].attributes);
        }
        assert_int_equal(v->gpr[RBP] | v->gpr[RDI] | v->gpr[RBX], 0);
        uint64_t zero = v->gpr[RSI];
        assert_int_equal(bench_read(&b, zero + 0x202, 4), 0x53726448);
        assert_int_equal(bench_read(&b, zero + 0x218, 4), 48 * MIB - 8192);
        bench_fini(&b);
    }
}

static void test_no_initrd_no_acpi(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 64 * MIB);
    image_bzimage(&image);
    bench_kernel(&b, image.bytes, image.size);
    b.config.acpi = NULL;
    assert_int_equal(bench_place(&b), 0);
    uint64_t zero = b.v->gpr[RSI];
    assert_int_equal(bench_read(&b, zero + 0x218, 8), 0);
    assert_int_equal(bench_read(&b, zero + 0x70, 8), 0);
    assert_int_equal(bench_read(&b, bench_read(&b, zero + 0x228, 4), 1), 0);
    bench_fini(&b);
}

static void test_relocated(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 8 * MIB); /* the preferred 16 MiB are not there */
    image_bzimage(&image);
    bench_kernel(&b, image.bytes, image.size);
    assert_int_equal(bench_place(&b), 0);
    check_cpu(&b, 2 * MIB); /* the lowest multiple of kernel_alignment from 1 MiB */
    image_set(&image, 0x234, 1, 0);
    bench_kernel(&b, image.bytes, image.size);
    assert_int_equal(bench_place(&b), -EINVAL);
    assert_non_null(strstr(b.e.text, "--mem"));
    bench_fini(&b);
}

static void test_initrd_limits(void **state)
{
    static struct image image;
    struct boot_bench b;
    uint8_t *initrd = calloc(1, 40 * MIB);
    bench_init(&b, 64 * MIB);
    image_bzimage(&image);
    image_set(&image, 0x22c, 4, 40 * MIB - 1);
    bench_kernel(&b, image.bytes, image.size);
    bench_initrd(&b, initrd, 4096);
    assert_int_equal(bench_place(&b), 0);
    assert_int_equal(bench_read(&b, b.v->gpr[RSI] + 0x218, 4), 40 * MIB - 4096);
    bench_initrd(&b, initrd, 30 * MIB); /* free below 40 MiB: 15 and 23.75 MiB */
    assert_int_equal(bench_place(&b), -ENOSPC);
    assert_non_null(strstr(b.e.text, "dir/initrd.gz"));
    image_set(&image, 0x236, 2, 3); /* XLF_CAN_BE_LOADED_ABOVE_4G: initrd_addr_max is no limit */
    bench_kernel(&b, image.bytes, image.size);
    assert_int_equal(bench_place(&b), 0);
    image_set(&image, 0x22c, 4, 0);
    image_set(&image, 0x236, 2, 1);
    bench_kernel(&b, image.bytes, image.size);
    assert_int_equal(bench_place(&b), -ENOSPC);
    free(initrd);
    bench_fini(&b);
}

/* With 5 GiB of RAM an initrd that a 32-bit limit leaves no room for goes above 4 GiB. RAM is only
 * touched where something is put. */
static void test_initrd_above_4g(void **state)
{
    static struct image image;
    struct boot_bench b;
    uint8_t initrd[64] = {1};
    bench_init(&b, 5ull << 30);
    image_bzimage(&image);
    image_set(&image, 0x236, 2, 3);
    image_set(&image, 0x258, 8, MIB);
    image_set(&image, 0x260, 4, 0xc0000000 - MIB); /* the kernel takes all below the hole */
    bench_kernel(&b, image.bytes, image.size);
    bench_initrd(&b, initrd, sizeof(initrd));
    assert_int_equal(bench_place(&b), 0);
    uint64_t zero = b.v->gpr[RSI];
    uint64_t at = bench_read(&b, zero + 0x218, 4) | bench_read(&b, zero + 0xc0, 4) << 32;
    assert_int_equal(at, (6ull << 30) - 4096); /* 2 GiB lie above the hole */
    assert_int_equal(bench_read(&b, at, 1), 1);
    image_set(&image, 0x236, 2, 1);
    bench_kernel(&b, image.bytes, image.size);
    assert_int_equal(bench_place(&b), -ENOSPC);
    bench_fini(&b);
}

static void test_cmdline(void **state)
{
    static struct image image;
    struct boot_bench b;
    char line[2049];
    bench_init(&b, 64 * MIB);
    image_bzimage(&image);
    bench_kernel(&b, image.bytes, image.size);
    memset(line, 'x', sizeof(line));
    b.config.cmdline = line;
    line[2047] = 0;
    assert_int_equal(bench_place(&b), 0);
    line[2047] = 'x';
    line[2048] = 0;
    assert_int_equal(bench_place(&b), -EINVAL);
    assert_non_null(strstr(b.e.text, "--append"));
    bench_fini(&b);
}

static const struct image_mutation mutations[] = {
    {"no magic", 0x202, 4, 0, ENOEXEC, "not a kernel"},
    {"setup_sects 0 means 4, body too short", 0x1f1, 1, 0, EINVAL, "syssize"},
    {"setup_sects beyond the file", 0x1f1, 1, 255, EINVAL, "cut short"},
    {"syssize one unit too many", 0x1f4, 4, 257, EINVAL, "syssize"},
    {"syssize overflows 32 bits", 0x1f4, 4, 0x10000100, EINVAL, "syssize"},
    {"syssize largest", 0x1f4, 4, 0xffffffff, EINVAL, "syssize"},
    {"syssize 0", 0x1f4, 4, 0, EINVAL, "before the entry"},
    {"syssize ends at the entry", 0x1f4, 4, 0x20, EINVAL, "before the entry"},
    {"boot_flag", 0x1fe, 2, 0xaa54, EINVAL, "boot_flag"},
    {"jump is no jump", 0x200, 1, 0x90, EINVAL, "setup header ends"},
    {"header too short", 0x201, 1, 0x61, EINVAL, "setup header ends"},
    {"header shortest", 0x201, 1, 0x62, 0, ""},
    {"header longest", 0x201, 1, 0x8e, 0, ""},
    {"header too long", 0x201, 1, 0x8f, EINVAL, "setup header ends"},
    {"version old", 0x206, 2, 0x209, EINVAL, "boot protocol 2.09"},
    {"version 2.10", 0x206, 2, 0x20a, 0, ""},
    {"version 0", 0x206, 2, 0, EINVAL, "boot protocol 0.00"},
    {"version 2.12", 0x206, 2, 0x20c, 0, ""},
    {"version of the future", 0x206, 2, 0xffff, 0, ""},
    {"loadflags low", 0x211, 1, 0xfe, EINVAL, "zImage"},
    {"kernel_alignment 0", 0x230, 4, 0, EINVAL, "kernel_alignment"},
    {"kernel_alignment odd", 0x230, 4, 0x300000, EINVAL, "kernel_alignment"},
    {"kernel_alignment small", 0x230, 4, 2048, EINVAL, "kernel_alignment"},
    {"kernel_alignment largest", 0x230, 4, 0x80000000, 0, ""},
    {"no 64-bit entry", 0x236, 2, 0xfffe, 0, ""},
    {"cmdline_size 0", 0x238, 4, 0, EINVAL, "command line"},
    {"cmdline_size exact", 0x238, 4, 4, 0, ""},
    {"payload_offset", 0x248, 4, 0xc01, EINVAL, "payload"},
    {"payload_offset largest", 0x248, 4, 0xffffffff, EINVAL, "payload"},
    {"payload_length", 0x24c, 4, 0xd01, EINVAL, "payload"},
    {"payload_length largest", 0x24c, 4, 0xffffffff, EINVAL, "payload"},
    {"pref_address 0", 0x258, 8, 0, EINVAL, "pref_address"},
    {"pref_address low", 0x258, 8, 0xfffff, EINVAL, "pref_address"},
    {"pref_address wraps", 0x258, 8, UINT64_MAX, EINVAL, "pref_address"},
    {"pref_address wraps to 0", 0x258, 8, 0ull - BZIMAGE_INIT_SIZE, EINVAL, "pref_address"},
    {"pref_address above 4 GiB moves", 0x258, 8, 1ull << 32, 0, ""},
    {"pref_address in the hole moves", 0x258, 8, 0xd0000000, 0, ""},
    {"init_size 0", 0x260, 4, 0, EINVAL, "init_size"},
    {"init_size less than the body", 0x260, 4, BZIMAGE_BODY_SIZE - 1, EINVAL, "init_size"},
    {"init_size largest", 0x260, 4, 0xffffffff, ENOSPC, "init_size"},
    {"init_size all of RAM", 0x260, 4, 63 * MIB + 1, ENOSPC, "init_size"},
};

static void test_mutations(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 64 * MIB);
    b.config.cmdline = "1234";
    image_bzimage(&image);
    bench_mutate(&b, &image, mutations, sizeof(mutations) / sizeof(mutations[0]));
    image_set(&image, 0x234, 1, 0); /* what moved before, cannot now */
    static const struct image_mutation fixed[] = {
        {"pref_address above 4 GiB", 0x258, 8, 1ull << 32, EINVAL, "pref_address"},
        {"pref_address in the hole", 0x258, 8, 0xd0000000, EINVAL, "0xd0000000"},
        {"pref_address at the end", 0x258, 8, 64 * MIB - BZIMAGE_INIT_SIZE, 0, ""},
        {"pref_address over the end", 0x258, 8, 64 * MIB - BZIMAGE_INIT_SIZE + 1, EINVAL, "--mem"},
    };
    bench_mutate(&b, &image, fixed, sizeof(fixed) / sizeof(fixed[0]));
    bench_fini(&b);
}

static void test_truncated(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 64 * MIB);
    image_bzimage(&image);
    bench_truncate(&b, &image, image.size - 15); /* the last unit of syssize need not be full */
    bench_fini(&b);
}

static void test_fuzz(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 64 * MIB);
    b.config.cmdline = "console=ttyS0";
    image_bzimage(&image);
    bench_initrd(&b, "initrd", 6);
    unsigned started = bench_fuzz(&b, &image, 0x2f0, 20000, 0x1234567);
    print_message("%u of 20000 started\n", started);
    assert_true(started > 0 && started < 20000);
    bench_fini(&b);
}

/* The same with the changes kept to the setup header: every field is hit often. */
static void test_fuzz_header(void **state)
{
    static struct image image, changed;
    struct boot_bench b;
    unsigned started = 0;
    uint64_t s = 0x9e3779b97f4a7c15;
    bench_init(&b, 64 * MIB);
    image_bzimage(&image);
    for (unsigned i = 0; i < 80000; i++) {
        changed = image;
        for (unsigned n = 0; n < 2; n++) {
            s = s * 6364136223846793005 + 1442695040888963407;
            image_set(&changed, 0x1f1 + (s >> 40) % 0x80, 1u << (s >> 38 & 3),
                      s >> 37 & 1 ? s : 0 - (s >> 36 & 1));
        }
        bench_kernel(&b, changed.bytes, changed.size);
        started += bench_place(&b) == 0;
    }
    print_message("%u of 80000 started\n", started);
    assert_true(started > 0 && started < 80000);
    bench_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_start_32),
        cmocka_unit_test(test_no_initrd_no_acpi),
        cmocka_unit_test(test_relocated),
        cmocka_unit_test(test_initrd_limits),
        cmocka_unit_test(test_initrd_above_4g),
        cmocka_unit_test(test_cmdline),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_fuzz),
        cmocka_unit_test(test_fuzz_header),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
