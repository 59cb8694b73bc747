/* SPDX-License-Identifier: MIT */
/* The PC memory map; see memmap.h. Any thread. Nothing here comes from the guest. */
#include "boot/memmap.h"

#include <errno.h>
#include <string.h>

static void add_ram(struct memmap *map, const char *name, uint64_t base, uint64_t end)
{
    map->ram[map->ram_count++] = (struct memmap_range){name, base, end - base};
}

static void add_e820(struct memmap *map, uint64_t base, uint64_t end, uint32_t type)
{
    map->e820[map->e820_count++] = (struct memmap_e820){base, end - base, type};
}

int memmap_build(uint64_t ram_size, struct memmap *map, struct error *e)
{
    memset(map, 0, sizeof(*map));
    if (ram_size % 4096 != 0)
        return error_set(e, EINVAL, "memory size %llu is not a multiple of 4096 bytes",
                         (unsigned long long)ram_size);
    if (ram_size < MEMMAP_RAM_MIN)
        return error_set(e, EINVAL, "memory size %llu KiB is too small: give at least %llu MiB",
                         (unsigned long long)ram_size >> 10, MEMMAP_RAM_MIN >> 20);
    if (ram_size > MEMMAP_RAM_MAX)
        return error_set(e, EINVAL, "memory size %llu GiB is too large: give at most %llu GiB",
                         (unsigned long long)ram_size >> 30, MEMMAP_RAM_MAX >> 30);

    uint64_t below = ram_size < MEMMAP_HOLE ? ram_size : MEMMAP_HOLE;
    uint64_t above = ram_size - below;

    add_ram(map, "low", 0, MEMMAP_LOW_END);
    add_ram(map, "shadow", MEMMAP_SHADOW, MEMMAP_BIOS_END);
    add_ram(map, "ram", MEMMAP_BIOS_END, below);
    if (above != 0)
        add_ram(map, "high", MEMMAP_HOLE_END, MEMMAP_HOLE_END + above);

    add_e820(map, 0, MEMMAP_EBDA, MEMMAP_E820_RAM);
    add_e820(map, MEMMAP_EBDA, MEMMAP_LOW_END, MEMMAP_E820_RESERVED);
    add_e820(map, MEMMAP_BIOS, MEMMAP_BIOS_END, MEMMAP_E820_RESERVED);
    add_e820(map, MEMMAP_BIOS_END, below, MEMMAP_E820_RAM);
    add_e820(map, MEMMAP_IOAPIC, MEMMAP_HOLE_END, MEMMAP_E820_RESERVED);
    if (above != 0)
        add_e820(map, MEMMAP_HOLE_END, MEMMAP_HOLE_END + above, MEMMAP_E820_RAM);
    return 0;
}
