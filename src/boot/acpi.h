/* SPDX-License-Identifier: MIT */
/*
 * The ACPI tables (ACPI 6.4): RSDP, RSDT, XSDT, FADT, FACS, MADT, HPET, DSDT, built from the wiring
 * that machine/pc.c states in struct acpi_config, so that no address of a device is known here.
 * A kernel that is started without firmware finds them in memory; firmware has them by fw_cfg and
 * puts them where it likes (acpi_loader.h).
 */
#ifndef DOPPEL_BOOT_ACPI_H
#define DOPPEL_BOOT_ACPI_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "mem/mem.h"

/* Ports and lengths are those of the device that answers. Everything must be set but where 0 has a
 * meaning of its own. */
struct acpi_config {
    unsigned cpus;                     /* local APIC IDs 0 … cpus-1 */
    uint16_t pm1_event;                /* PM1a event block, 4 bytes: status and enable */
    uint16_t pm1_control;              /* PM1a control block, 2 bytes */
    uint16_t pm_timer;                 /* 4 bytes; a 32-bit counter */
    uint16_t gpe0;                     /* general-purpose event block 0; 0 = none */
    uint8_t gpe0_length;               /* bytes, half status and half enable */
    uint8_t sci;                       /* ISA interrupt of the SCI; level, active high */
    uint16_t smi_command;              /* 0 = always in ACPI mode, and the next two are 0 as well */
    uint8_t acpi_enable, acpi_disable; /* written to smi_command */
    uint8_t s5_sleep_type;             /* SLP_TYP of soft-off */
    uint16_t reset_port;
    uint8_t reset_value;
    uint32_t ioapic; /* I/O APIC, its ID in its ID register */
    uint8_t ioapic_id;
    uint32_t lapic;
    uint32_t hpet;         /* 0 = none */
    uint32_t hpet_id;      /* low half of its capabilities register */
    uint16_t pvpanic_port; /* 0 = none */
    uint16_t pci_config;   /* ports of configuration mechanism 1; 0 = no PCI */
};

#define ACPI_CPUS_MAX 4096u

/* The PC's usual wiring for `cpus` processors; machine/pc.c then sets what its devices say. */
struct acpi_config acpi_config_default(unsigned cpus);

/* Builds the tables and writes them to the BIOS area (boot/memmap.h). *rsdp gets the address of the
 * RSDP. -EINVAL, -ENOMEM, -EFAULT with the sentence. */
int acpi_build(struct mem *m, const struct acpi_config *c, uint64_t *rsdp, struct error *e);

/* The tables as one image: the RSDP first, at ACPI_IMAGE_TABLES the others. */
#define ACPI_IMAGE_MAX    (120u << 10) /* the MP table comes after it (boot/mptable.h) */
#define ACPI_IMAGE_TABLES 64u
#define ACPI_POINTERS_MAX 16
#define ACPI_TABLES_MAX   8
#define ACPI_RSDP_SIZE    36u
#define ACPI_RSDP_1_SIZE  20u /* the part that ACPI 1.0 knew, with a checksum of its own */
#define ACPI_RSDP_RSDT    16u /* offsets of its two pointers */
#define ACPI_RSDP_XSDT    24u

struct acpi_image {
    uint8_t bytes[ACPI_IMAGE_MAX];
    size_t size;
    struct acpi_pointer { /* an address in one of the tables, but the RSDP's two */
        uint32_t at;
        uint8_t size;
    } pointers[ACPI_POINTERS_MAX];
    unsigned pointer_count;
    struct acpi_table { /* of those with a checksum at byte 9 */
        uint32_t at, size;
    } tables[ACPI_TABLES_MAX];
    unsigned table_count;
};

/* The image as it is to lie at `base`, which is reckoned modulo 2^64; free() releases it. NULL with
 * the sentence: EINVAL, ENOMEM. */
struct acpi_image *acpi_image_create(const struct acpi_config *c, uint64_t base, struct error *e);

#endif
