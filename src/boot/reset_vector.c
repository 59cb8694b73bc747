/* SPDX-License-Identifier: MIT */
/*
 * What stands at the reset vector (SDM 3A 9.1.4) of a machine without firmware: code that resets
 * the machine by port 0xcf9, which then looks for the shutdown code in CMOS as a BIOS does first
 * (machine/pc.h). So INIT of the boot processor, and a jump to FFFF:0000, end as on a PC. Wiring
 * thread.
 */
#include <errno.h>

#include "boot/boot.h"
#include "boot/memmap.h"

#define VECTOR_OFFSET 0xff0u /* in the page: 16 bytes below 4 GiB, and below 1 MiB */

static const uint8_t code[] = {
    0xba, 0xf9, 0x0c, /* mov $0xcf9, %dx */
    0xb0, 0x02,       /* mov $2, %al: a hard reset */
    0xee,             /* out %al, %dx */
    0xb0, 0x06,       /* mov $6, %al: now */
    0xee,             /* out %al, %dx */
    0xf4,             /* hlt */
    0xeb, 0xfd,       /* jmp to it */
};
_Static_assert(VECTOR_OFFSET + sizeof(code) <= MEM_PAGE_SIZE, "it ends with the page");

int boot_reset_vector_add(struct mem *m, struct error *e)
{
    return mem_add(m, "reset vector", GPA(MEMMAP_HOLE_END - MEM_PAGE_SIZE), MEM_PAGE_SIZE,
                   MEM_ANONYMOUS, true, e);
}

int boot_reset_vector_place(struct mem *m, struct error *e)
{
    static const uint64_t pages[] = {MEMMAP_HOLE_END - MEM_PAGE_SIZE,
                                     MEMMAP_BIOS_END - MEM_PAGE_SIZE};
    for (unsigned i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
        if (mem_write(m, GPA(pages[i] + VECTOR_OFFSET), code, sizeof(code)) != 0)
            return error_set(e, EFAULT, "there is no memory at 0x%llx for the reset vector",
                             (unsigned long long)(pages[i] + VECTOR_OFFSET));
    }
    return 0;
}
