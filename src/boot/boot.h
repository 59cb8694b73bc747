/* SPDX-License-Identifier: MIT */
/*
 * Kernels into memory. What is started is told from its bytes: a bzImage by its 64-bit entry, an
 * ELF file with the PVH note, a multiboot kernel. The loader writes the kernel, its initrd, its
 * command line, the memory map and the ACPI tables into guest memory and sets the state that the
 * first processor starts in.
 *
 * Or firmware is started, which loads what it likes (firmware.c).
 *
 * Files are made by strangers: they are read once, whole, into memory of our own (a file that is
 * changed meanwhile changes nothing), and every size and offset in them is checked before use.
 *
 * Errors name the file, what is wrong with it and what to do, in one line.
 */
#ifndef DOPPEL_BOOT_BOOT_H
#define DOPPEL_BOOT_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "boot/acpi.h"
#include "boot/memmap.h"
#include "mem/mem.h"
#include "x86/vcpu.h"

#define BOOT_KERNEL_MAX   (1ull << 30) /* bytes of a kernel file, debug information included */
#define BOOT_FIRMWARE_MAX (1ull << 30) /* its own limit is lower and has its own sentence */

struct boot_config {
    const char *firmware_path; /* NULL = none; otherwise nothing else is loaded */
    const char *kernel_path;
    const char *initrd_path;        /* NULL = none; the module of a multiboot or PVH kernel */
    const char *cmdline;            /* NULL = empty */
    const char *module_cmdline;     /* of the initrd as a module; NULL = its file name */
    uint64_t ram_size;              /* as given to memmap_build for m's blocks */
    const struct acpi_config *acpi; /* NULL = no tables */
};

/* A whole file in memory of our own. */
struct boot_bytes {
    char *path; /* for messages */
    uint8_t *data;
    size_t size;
};

/* Kept for the life of the VM, so that a reset starts what the first start started, whatever has
 * become of the files. */
struct boot_files {
    struct boot_bytes firmware, kernel, initrd; /* data NULL = none */
};

/* Reads the files of c. 0, or -ENOENT, -EACCES, -EISDIR, -EINVAL, -EFBIG, -ENOMEM, -EIO …; then
 * there is nothing to free. */
int boot_files_read(struct boot_files *f, const struct boot_config *c, struct error *e);
void boot_files_free(struct boot_files *f);

/* Places the files in m, whose blocks are those of memmap_build and, with firmware, a ROM of its
 * size that ends at 4 GiB; sets bsp, which is in the state of power-up reset, to the state that the
 * kernel's format asks for. Firmware starts at reset's. -EINVAL, -ENOSPC (does
 * not fit), -ENOEXEC (not a format we know), -EFAULT, with the sentence. */
int boot_place(struct mem *m, struct vcpu *bsp, const struct boot_files *f,
               const struct boot_config *c, struct error *e);

/* Multiboot kernels may count on interrupt controllers and timer as a BIOS leaves them (Multiboot
 * 0.6.96, 3.2); the memory's part of that boot_place does for all. */
bool boot_wants_bios_state(const struct boot_files *f);

/* The two in one, the files freed. */
int boot_load(struct mem *m, struct vcpu *bsp, const struct boot_config *c, struct error *e);

/* For a machine without firmware (reset_vector.c): the ROM at the top of 4 GiB, and code in it and
 * in the shadow RAM that resets the machine. */
int boot_reset_vector_add(struct mem *m, struct error *e);
int boot_reset_vector_place(struct mem *m, struct error *e);

/* The memory types (MTRRs) that firmware gives each processor: boot_place does it for the bsp, the
 * machine for the others, after their reset. INIT keeps them. */
void boot_cpu_mtrrs(struct vcpu *v);

#endif
