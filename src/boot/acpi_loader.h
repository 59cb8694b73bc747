/* SPDX-License-Identifier: MIT */
/*
 * The ACPI tables as files of fw_cfg with the script by which firmware puts them into memory: the
 * "linker/loader" of QEMU, as SeaBIOS (src/fw/romfile_loader.c) and U-Boot
 * (drivers/misc/qfw_acpi.c) read it. Wiring thread.
 */
#ifndef DOPPEL_BOOT_ACPI_LOADER_H
#define DOPPEL_BOOT_ACPI_LOADER_H

#include "boot/acpi.h"

#define ACPI_FILE_SCRIPT "etc/table-loader"
#define ACPI_FILE_RSDP   "etc/acpi/rsdp"
#define ACPI_FILE_TABLES "etc/acpi/tables"

#define ACPI_SCRIPT_MAX 32 /* commands */

struct acpi_command { /* little-endian; 128 bytes */
    uint32_t command;
    union {
        struct __attribute__((packed)) {
            char file[56];
            uint32_t align;
            uint8_t zone;
        } allocate;
        struct __attribute__((packed)) {
            char destination[56], source[56];
            uint32_t offset;
            uint8_t size;
        } pointer;
        struct __attribute__((packed)) {
            char file[56];
            uint32_t offset, start, length;
        } checksum;
        char size[124];
    };
};

struct acpi_files {
    struct acpi_image *image;
    struct acpi_command script[ACPI_SCRIPT_MAX];
    unsigned commands;
};

/* -EINVAL, -ENOMEM with the sentence; then there is nothing to free. */
int acpi_files_init(struct acpi_files *f, const struct acpi_config *c, struct error *e);
void acpi_files_fini(struct acpi_files *f);

/* Bytes of the three files. */
static inline const void *acpi_files_rsdp(const struct acpi_files *f)
{
    return f->image->bytes;
}

static inline const void *acpi_files_tables(const struct acpi_files *f, size_t *size)
{
    *size = f->image->size - ACPI_IMAGE_TABLES;
    return f->image->bytes + ACPI_IMAGE_TABLES;
}

#endif
