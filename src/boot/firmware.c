/* SPDX-License-Identifier: MIT */
/*
 * Firmware in lieu of a kernel: a ROM that ends at 4 GiB, where the processor starts (SDM
 * 3A 9.1.4), and a copy of its end below 1 MiB, in RAM: the chipset's shadow, which firmware may
 * write at once. Nothing else is loaded. Wiring thread. Whoever made the file controls its bytes;
 * they are only copied.
 */
#include <errno.h>

#include "boot/image.h"

#define ROM_UNIT    (64u << 10) /* what a flash chip's size is a multiple of */
#define ROM_MAX     (16u << 20) /* down to 0xff000000, above the local APIC */
#define SHADOW_COPY (128u << 10)

_Static_assert(MEMMAP_HOLE_END - ROM_MAX > MEMMAP_LAPIC, "the ROM lies above the local APIC");

int boot_firmware_check(const struct boot_bytes *rom, struct error *e)
{
    if (rom->size % ROM_UNIT != 0 || rom->size > ROM_MAX)
        return error_set(e, EINVAL,
                         "%s has %zu bytes: firmware is a multiple of 64 KiB, up to 16 MiB; give "
                         "another file with --firmware",
                         rom->path, rom->size);
    return 0;
}

int boot_firmware_place(struct mem *m, const struct boot_bytes *rom, struct error *e)
{
    size_t copy = rom->size < SHADOW_COPY ? rom->size : SHADOW_COPY;

    if (mem_write(m, GPA(MEMMAP_HOLE_END - rom->size), rom->data, rom->size) != 0 ||
        mem_fill(m, GPA(MEMMAP_SHADOW), 0, MEMMAP_BIOS_END - MEMMAP_SHADOW) != 0 ||
        mem_write(m, GPA(MEMMAP_BIOS_END - copy), rom->data + rom->size - copy, copy) != 0)
        return error_set(e, EFAULT, "%s: there is no ROM at 0x%llx", rom->path,
                         MEMMAP_HOLE_END - rom->size);
    return 0;
}
