/* SPDX-License-Identifier: MIT */
/*
 * ELF executables for x86 (System V ABI, chapters 4 and 5), 32 and 64 bits, as far as a loader by
 * physical address needs them. Everything in the file is checked by elf_parse.
 */
#ifndef DOPPEL_BOOT_ELF_H
#define DOPPEL_BOOT_ELF_H

#include "boot/image.h"

#define ELF_SEGMENTS_MAX 64 /* PT_LOAD and PT_NOTE together */

struct elf_segment {
    uint32_t type;
    uint64_t offset, file_size; /* inside the file */
    uint64_t virtual, physical; /* neither wraps over memory_size */
    uint64_t memory_size;       /* at least file_size when loaded */
    uint64_t align;
};

struct elf {
    bool is_64;
    uint64_t entry;
    struct elf_segment segments[ELF_SEGMENTS_MAX];
    unsigned count;
};

#define ELF_PT_LOAD 1u
#define ELF_PT_NOTE 4u

bool elf_recognise(const struct boot_bytes *k);

/* -EINVAL with the sentence when it is not an executable for x86, or not whole. */
int elf_parse(const struct boot_bytes *k, struct elf *elf, struct error *e);

/* Puts every PT_LOAD segment to its physical address, the rest of it zero. */
int elf_load(struct boot_job *j, const struct elf *elf, struct error *e);

/* The PT_LOAD segment whose physical (or virtual) memory has `address`; NULL = none. */
const struct elf_segment *elf_find_physical(const struct elf *elf, uint64_t address);
const struct elf_segment *elf_find_virtual(const struct elf *elf, uint64_t address);

#endif
