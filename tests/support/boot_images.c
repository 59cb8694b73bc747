/* SPDX-License-Identifier: MIT */
/* Small kernels made by hand; see boot_images.h. */
#include "boot_images.h"

#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

void image_set(struct image *i, size_t offset, unsigned size, uint64_t value)
{
    assert_true(offset + size <= IMAGE_MAX);
    memcpy(i->bytes + offset, &value, size);
}

uint64_t image_get(const struct image *i, size_t offset, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, i->bytes + offset, size);
    return v;
}

void image_bzimage(struct image *i)
{
    memset(i, 0, sizeof(*i));
    i->size = BZIMAGE_BODY + BZIMAGE_BODY_SIZE;
    image_set(i, 0x1f1, 1, 1);
    image_set(i, 0x1f4, 4, BZIMAGE_BODY_SIZE / 16);
    image_set(i, 0x1fe, 2, 0xaa55);
    image_set(i, 0x200, 2, 0x6aeb);
    memcpy(i->bytes + 0x202, "HdrS", 4);
    image_set(i, 0x206, 2, 0x20f);
    image_set(i, 0x211, 1, 1);
    image_set(i, 0x22c, 4, 0x7fffffff);
    image_set(i, 0x230, 4, 0x200000);
    image_set(i, 0x234, 1, 1);
    image_set(i, 0x235, 1, 21);
    image_set(i, 0x236, 2, 1);
    image_set(i, 0x238, 4, 2047);
    image_set(i, 0x248, 4, 0x300);
    image_set(i, 0x24c, 4, 0x400);
    image_set(i, 0x258, 8, BZIMAGE_PREFERRED);
    image_set(i, 0x260, 4, BZIMAGE_INIT_SIZE);
    for (size_t n = BZIMAGE_BODY; n < i->size; n++)
        i->bytes[n] = (uint8_t)(n * 7);
}

size_t image_phdr(bool is_64, unsigned index)
{
    return is_64 ? sizeof(Elf64_Ehdr) + index * sizeof(Elf64_Phdr)
                 : sizeof(Elf32_Ehdr) + index * sizeof(Elf32_Phdr);
}

#define HEADERS(bits, machine)                                             \
    do {                                                                   \
        Elf##bits##_Ehdr h = {                                             \
            .e_ident = {0x7f, 'E', 'L', 'F', bits / 32, 1, 1},             \
            .e_type = ET_EXEC,                                             \
            .e_machine = machine,                                          \
            .e_version = 1,                                                \
            .e_entry = IMAGE_ELF_ENTRY + IMAGE_ELF_VIRTUAL,                \
            .e_phoff = sizeof(h),                                          \
            .e_phentsize = sizeof(Elf##bits##_Phdr),                       \
            .e_phnum = 2,                                                  \
        };                                                                 \
        Elf##bits##_Phdr p[2] = {                                          \
            {.p_type = PT_LOAD,                                            \
             .p_offset = IMAGE_ELF_CODE,                                   \
             .p_vaddr = IMAGE_ELF_ADDRESS + IMAGE_ELF_VIRTUAL,             \
             .p_paddr = IMAGE_ELF_ADDRESS,                                 \
             .p_filesz = 256,                                              \
             .p_memsz = 0x3000,                                            \
             .p_align = 0x1000},                                           \
            {.p_type = PT_NOTE, .p_offset = IMAGE_ELF_NOTE, .p_align = 4}, \
        };                                                                 \
        memcpy(i->bytes, &h, sizeof(h));                                   \
        memcpy(i->bytes + sizeof(h), p, sizeof(p));                        \
    } while (0)

static void image_elf(struct image *i, bool is_64)
{
    memset(i, 0, sizeof(*i));
    if (is_64)
        HEADERS(64, EM_X86_64);
    else
        HEADERS(32, EM_386);
    i->size = IMAGE_ELF_CODE + 256;
    for (size_t n = IMAGE_ELF_CODE; n < i->size; n++)
        i->bytes[n] = (uint8_t)(n * 5 + 1);
}

void image_pvh(struct image *i, bool is_64)
{
    /* A note of somebody else's first, with a name and data that need padding. */
    static const uint32_t notes[] = {5, 3,  77,         0x6f727458,     0, 0x00aaaaaa, 4,
                                     4, 18, 0x006e6558, IMAGE_ELF_ENTRY};
    image_elf(i, is_64);
    memcpy(i->bytes + IMAGE_ELF_NOTE, notes, sizeof(notes));
    size_t size_at = image_phdr(is_64, 1) + (is_64 ? 32 : 16);
    image_set(i, size_at, 4, sizeof(notes));
}

void image_multiboot(struct image *i, bool is_64)
{
    image_elf(i, is_64);
    image_set(i, IMAGE_MULTIBOOT, 4, 0x1badb002);
    image_set(i, IMAGE_MULTIBOOT + 4, 4, 3);
    image_set(i, IMAGE_MULTIBOOT + 8, 4, -(0x1badb002u + 3));
}

void bench_init(struct boot_bench *b, uint64_t ram_size)
{
    struct memmap map;

    memset(b, 0, sizeof(*b));
    b->v = aligned_alloc(64, (sizeof(*b->v) + 63) & ~(size_t)63);
    assert_non_null(b->v);
    memset(b->v, 0, sizeof(*b->v));
    b->platform.physical_address_bits = 46;
    b->v->platform = &b->platform;
    mem_init(&b->mem);
    assert_int_equal(memmap_build(ram_size, &map, &b->e), 0);
    for (unsigned i = 0; i < map.ram_count; i++)
        assert_int_equal(mem_add(&b->mem, map.ram[i].name, GPA(map.ram[i].base), map.ram[i].size,
                                 MEM_ANONYMOUS, false, &b->e),
                         0);
    b->acpi = acpi_config_default(1);
    b->config = (struct boot_config){.ram_size = ram_size, .acpi = &b->acpi};
}

void bench_fini(struct boot_bench *b)
{
    boot_files_free(&b->files);
    mem_fini(&b->mem);
    free(b->v);
}

/* Exactly n bytes on the heap, so that the address sanitizer sees a read beyond them. */
static void set_bytes(struct boot_bytes *to, const char *path, const void *bytes, size_t n)
{
    free(to->path);
    free(to->data);
    to->path = strdup(path);
    to->data = malloc(n != 0 ? n : 1);
    to->size = n;
    assert_true(to->path != NULL && to->data != NULL);
    memcpy(to->data, bytes, n);
}

void bench_kernel(struct boot_bench *b, const void *bytes, size_t n)
{
    set_bytes(&b->files.kernel, "dir/kernel.img", bytes, n);
}

void bench_initrd(struct boot_bench *b, const void *bytes, size_t n)
{
    set_bytes(&b->files.initrd, "dir/initrd.gz", bytes, n);
}

int bench_place(struct boot_bench *b)
{
    memset(&b->e, 0, sizeof(b->e));
    int r = boot_place(&b->mem, b->v, &b->files, &b->config, &b->e);
    assert_int_equal(r, -b->e.code);
    if (r == 0)
        return 0;
    assert_true(strlen(b->e.text) > 20);
    assert_null(strchr(b->e.text, '\n'));
    assert_true(strstr(b->e.text, "dir/") == b->e.text);
    return r;
}

uint64_t bench_read(const struct boot_bench *b, uint64_t at, unsigned size)
{
    uint64_t v = 0;
    assert_int_equal(mem_read(&b->mem, GPA(at), &v, size), 0);
    return v;
}

void bench_read_string(const struct boot_bench *b, uint64_t at, char *out, size_t n)
{
    assert_int_equal(mem_read(&b->mem, GPA(at), out, n), 0);
    assert_non_null(memchr(out, 0, n));
}

void bench_mutate(struct boot_bench *b, const struct image *image, const struct image_mutation *m,
                  unsigned count)
{
    static struct image changed;
    for (unsigned i = 0; i < count; i++) {
        changed = *image;
        image_set(&changed, m[i].offset, m[i].size, m[i].value);
        bench_kernel(b, changed.bytes, changed.size);
        int r = bench_place(b);
        if (r != -m[i].error || (r != 0 && strstr(b->e.text, m[i].word) == NULL))
            fail_msg("%s: got %d, \"%s\"; wanted %d, \"%s\"", m[i].name, r, b->e.text, -m[i].error,
                     m[i].word);
    }
}

void bench_truncate(struct boot_bench *b, const struct image *image, size_t whole)
{
    for (size_t n = 0; n < image->size; n += n < 1200 ? 1 : 97) {
        bench_kernel(b, image->bytes, n);
        if (bench_place(b) == 0 && n < whole)
            fail_msg("started with %zu bytes of %zu", n, image->size);
    }
}

static uint64_t xorshift(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    return *s ^= *s << 17;
}

unsigned bench_fuzz(struct boot_bench *b, const struct image *image, size_t header_size,
                    unsigned steps, uint64_t seed)
{
    static const uint64_t edges[] = {0,          1,          0x7fffffff,         0x80000000,
                                     0xfffff000, 0xffffffff, 0x7fffffffffffffff, UINT64_MAX};
    static struct image changed;
    unsigned started = 0;

    for (unsigned i = 0; i < steps; i++) {
        changed = *image;
        for (unsigned n = 1 + xorshift(&seed) % 4; n > 0; n--) {
            uint64_t r = xorshift(&seed);
            unsigned size = 1u << (r >> 60 & 3);
            uint64_t value = r >> 56 & 1 ? xorshift(&seed) : edges[r >> 48 & 7];
            image_set(&changed, r % header_size, size, value);
        }
        size_t size = xorshift(&seed) % 8 == 0 ? xorshift(&seed) % image->size : image->size;
        bench_kernel(b, changed.bytes, size);
        started += bench_place(b) == 0;
    }
    return started;
}
