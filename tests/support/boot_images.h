/* SPDX-License-Identifier: MIT */
/* Small kernels made by hand, and a memory and processor to start them in. */
#ifndef TESTS_SUPPORT_BOOT_IMAGES_H
#define TESTS_SUPPORT_BOOT_IMAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/boot.h"

#define IMAGE_MAX 16384

struct image {
    uint8_t bytes[IMAGE_MAX];
    size_t size;
};

void image_set(struct image *i, size_t offset, unsigned size, uint64_t value);
uint64_t image_get(const struct image *i, size_t offset, unsigned size);

/* A bzImage of protocol 2.15: one setup sector of two, 4096 bytes of body, preferred at 16 MiB. */
void image_bzimage(struct image *i);
#define BZIMAGE_BODY      1024
#define BZIMAGE_BODY_SIZE 4096
#define BZIMAGE_PREFERRED 0x1000000ull
#define BZIMAGE_INIT_SIZE 0x40000u

/* An executable with PVH note, ELF64 or ELF32: segment 0 of 256 bytes in the file at 0x1000 and
 * 0x3000 in memory at 1 MiB (virtual + IMAGE_ELF_VIRTUAL), segment 1 the note. */
void image_pvh(struct image *i, bool is_64);
/* The same with a multiboot header in segment 0, and no note. */
void image_multiboot(struct image *i, bool is_64);
#define IMAGE_ELF_CODE    0x1000
#define IMAGE_ELF_NOTE    0x0f00
#define IMAGE_ELF_ADDRESS 0x100000ull
#define IMAGE_ELF_ENTRY   0x100040ull
#define IMAGE_ELF_VIRTUAL 0x40000000ull
#define IMAGE_MULTIBOOT   0x1010 /* where its header lies */

/* The program headers of the two. */
size_t image_phdr(bool is_64, unsigned index);

struct boot_bench {
    struct mem mem;
    struct x86_platform platform;
    struct vcpu *v;
    struct boot_config config;
    struct boot_files files;
    struct acpi_config acpi;
    struct error e;
};

/* ram_size bytes, no files yet, ACPI tables for one processor. Asserts on failure. */
void bench_init(struct boot_bench *b, uint64_t ram_size);
void bench_fini(struct boot_bench *b);
/* The bytes are copied. */
void bench_kernel(struct boot_bench *b, const void *bytes, size_t n);
void bench_initrd(struct boot_bench *b, const void *bytes, size_t n);
/* boot_place; a failure must have left one line. */
int bench_place(struct boot_bench *b);

uint64_t bench_read(const struct boot_bench *b, uint64_t at, unsigned size);
void bench_read_string(const struct boot_bench *b, uint64_t at, char *out, size_t n);

/* Places image with one field changed, and wants `error` with `word` in its sentence. */
struct image_mutation {
    const char *name;
    size_t offset;
    unsigned size;
    uint64_t value;
    int error; /* 0 = must start all the same */
    const char *word;
};
void bench_mutate(struct boot_bench *b, const struct image *image, const struct image_mutation *m,
                  unsigned count);

/* Places `image` cut to every length short of its own but those from `whole` on, which may start;
 * all others must be refused. */
void bench_truncate(struct boot_bench *b, const struct image *image, size_t whole);

/* `steps` times a few random bytes of [0, header_size) changed; returns how many started. */
unsigned bench_fuzz(struct boot_bench *b, const struct image *image, size_t header_size,
                    unsigned steps, uint64_t seed);

#endif
