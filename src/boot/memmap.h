/* SPDX-License-Identifier: MIT */
/*
 * The physical memory map of the PC for a given amount of RAM: the one home of its addresses.
 * machine/pc.c creates the RAM blocks from it, the loaders hand it to the guest as E820 entries
 * (ACPI 6.4, 15.1) and place what they load by it.
 *
 *   0x00000000  RAM ("low"): BIOS data area at 0x400, extended BIOS data area at 0x9fc00
 *   0x000a0000  nothing: VGA window
 *   0x000c0000  RAM ("shadow"): option ROMs; from 0xe0000 reserved: firmware or the ACPI tables
 *   0x00100000  RAM ("ram") up to 3 GiB
 *   0xc0000000  nothing: the hole for PCI and MMIO; from 0xfec00000 the chipset's own registers
 *   0x100000000 RAM ("high"), what did not fit below the hole
 *
 * Firmware (boot/firmware.h) is a ROM that ends at 4 GiB, with a copy in the shadow RAM.
 *
 * As in a PC, the hole below 1 MiB counts as RAM of the size asked for.
 */
#ifndef DOPPEL_BOOT_MEMMAP_H
#define DOPPEL_BOOT_MEMMAP_H

#include <stdint.h>

#include "base/error.h"

#define MEMMAP_BDA          0x400ull   /* BIOS data area */
#define MEMMAP_RESET_VECTOR 0x467ull   /* in it: far pointer for after a reset */
#define MEMMAP_EBDA         0x9fc00ull /* extended BIOS data area, 1 KiB */
#define MEMMAP_LOW_END      0xa0000ull /* end of conventional memory */
#define MEMMAP_SHADOW       0xc0000ull
#define MEMMAP_BIOS         0xe0000ull  /* where an OS looks for the RSDP (ACPI 6.4, 5.2.5.1) */
#define MEMMAP_BIOS_END     0x100000ull /* 1 MiB: RAM goes on */
#define MEMMAP_HOLE         0xc0000000ull
#define MEMMAP_IOAPIC       0xfec00000ull
#define MEMMAP_HPET         0xfed00000ull
#define MEMMAP_LAPIC        0xfee00000ull
#define MEMMAP_HOLE_END     0x100000000ull
#define MEMMAP_RAM_MIN      (2ull << 20)
#define MEMMAP_RAM_MAX      (1ull << 40)
#define MEMMAP_RANGES_MAX   4
#define MEMMAP_E820_MAX     8

enum memmap_type { /* E820 types (ACPI 6.4, table 15.2) */
                   MEMMAP_E820_RAM = 1,
                   MEMMAP_E820_RESERVED = 2,
};

struct memmap_range { /* one block for mem_add */
    const char *name;
    uint64_t base, size;
};

struct memmap_e820 {
    uint64_t base, size;
    uint32_t type; /* enum memmap_type */
};

struct memmap { /* both lists sorted by base, disjoint */
    struct memmap_range ram[MEMMAP_RANGES_MAX];
    unsigned ram_count;
    struct memmap_e820 e820[MEMMAP_E820_MAX];
    unsigned e820_count;
};

/* The map for ram_size bytes. -EINVAL with the sentence when the size is not a multiple of 4 KiB or
 * not between MEMMAP_RAM_MIN and MEMMAP_RAM_MAX. */
int memmap_build(uint64_t ram_size, struct memmap *map, struct error *e);

#endif
