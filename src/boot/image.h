/* SPDX-License-Identifier: MIT */
/*
 * What the loaders of this folder share: the file under the hand, where things lie in guest memory,
 * the states a processor can start in. Wiring thread only.
 */
#ifndef DOPPEL_BOOT_IMAGE_H
#define DOPPEL_BOOT_IMAGE_H

#include <stdbool.h>
#include <string.h>

#include "boot/boot.h"

/* Where things lie, so that nothing is put over something else. */
#define LAYOUT_CLAIMS_MAX 128
struct layout {
    const struct memmap *map;
    struct {
        uint64_t base, size;
        const char *what;
    } claims[LAYOUT_CLAIMS_MAX];
    unsigned count;
};

enum layout_direction { LAYOUT_UP, LAYOUT_DOWN };

/* Takes [base, base+size) for `what` (a string constant). -EINVAL with the sentence when it is not
 * RAM free for use, or something else lies there. size 0 takes nothing. */
int layout_claim(struct layout *l, uint64_t base, uint64_t size, const char *what, struct error *e);

/* Takes the lowest (UP) or highest (DOWN) free place in [low, high) for size bytes, aligned to
 * align, a power of two. -ENOSPC with the sentence when there is none. */
int layout_find(struct layout *l, enum layout_direction d, uint64_t size, uint64_t align,
                uint64_t low, uint64_t high, const char *what, uint64_t *base, struct error *e);

/* One start of one kernel. */
struct boot_job {
    struct mem *mem;
    struct vcpu *bsp;
    const struct boot_config *config;
    const struct boot_bytes *kernel;
    const struct boot_bytes *initrd; /* NULL = none */
    const char *culprit;             /* the file that an error is about */
    const char *cmdline;             /* never NULL */
    uint64_t rsdp;                   /* 0 = no ACPI tables */
    struct memmap map;
    struct layout layout;
};

struct boot_loader {
    const char *name;
    bool (*recognise)(const struct boot_bytes *kernel);
    int (*load)(struct boot_job *j, struct error *e);
};

extern const struct boot_loader boot_bzimage, boot_pvh, boot_multiboot, boot_multiboot2;

/* Firmware (firmware.c): its size; its bytes at the top of 4 GiB and in the shadow RAM. */
int boot_firmware_check(const struct boot_bytes *rom, struct error *e);
int boot_firmware_place(struct mem *m, const struct boot_bytes *rom, struct error *e);

/* Writes to guest memory; -EFAULT with the sentence when it is not RAM. */
int boot_put(struct boot_job *j, uint64_t at, const void *bytes, size_t n, struct error *e);

/* Copies a string with its end to the lowest free place below 1 MiB, else below 4 GiB. */
int boot_put_string(struct boot_job *j, const char *text, const char *what, uint64_t *at,
                    struct error *e);

/* Takes a place for the initrd, as high as it goes in [1 MiB, high), and copies it there. */
int boot_put_initrd(struct boot_job *j, uint64_t high, uint64_t *at, struct error *e);

/* The command line of the initrd as a module. */
const char *boot_module_cmdline(const struct boot_job *j);

/* CPU states: flat 32-bit protected mode without paging; 64-bit mode with the GDT of `gdt` (its
 * four entries are in memory: 0x10 code, 0x18 data) and the page tables at cr3. Interrupts off,
 * general registers 0. */
void boot_cpu_protected(struct vcpu *v, uint32_t eip);
void boot_cpu_long(struct vcpu *v, uint64_t rip, uint64_t gdt, uint64_t cr3);

#define BOOT_GDT_SIZE 32u
extern const uint64_t boot_gdt[BOOT_GDT_SIZE / 8], boot_gdt_32[BOOT_GDT_SIZE / 8];

/* Little-endian fields of a file; the caller has checked that they are there. */
static inline uint64_t boot_field(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, p, size);
    return v;
}

static inline bool boot_inside(uint64_t offset, uint64_t n, uint64_t size)
{
    return offset <= size && n <= size - offset;
}

#endif
