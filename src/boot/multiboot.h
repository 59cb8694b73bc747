/* SPDX-License-Identifier: MIT */
/* What the loaders of the two Multiboot specifications share. Wiring thread. */
#ifndef DOPPEL_BOOT_MULTIBOOT_H
#define DOPPEL_BOOT_MULTIBOOT_H

#include "boot/elf.h"

/* Where the header says that parts of the file go: the "a.out kludge", for kernels that are not in
 * ELF (Multiboot 0.6.96, 3.1.3; Multiboot 2, 3.1.5). */
struct multiboot_addresses {
    uint32_t header, load, load_end,
        bss_end; /* load_end 0: the rest of the file; bss_end 0: none */
};

/* Loads by addresses; header_at is where the header lies in the file. -EINVAL … with the sentence.
 */
int multiboot_load_addresses(struct boot_job *j, size_t header_at,
                             const struct multiboot_addresses *a, struct error *e);

/* Loads an ELF file; *entry gets its physical entry. */
int multiboot_load_elf(struct boot_job *j, uint32_t *entry, struct error *e);

#endif
