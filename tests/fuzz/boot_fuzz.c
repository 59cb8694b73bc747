/* SPDX-License-Identifier: MIT */
/* Any bytes as a kernel file (libFuzzer). The first byte chooses whether there is an initrd. */
#include <stdlib.h>

#include "boot/boot.h"

#define RAM_SIZE (32ull << 20)

static struct mem mem;
static struct vcpu *vcpu;
static struct x86_platform platform = {.physical_address_bits = 46};
static struct acpi_config acpi;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct memmap map;
    struct error e;

    mem_init(&mem);
    vcpu = aligned_alloc(64, (sizeof(*vcpu) + 63) & ~(size_t)63);
    if (vcpu == NULL || memmap_build(RAM_SIZE, &map, &e) != 0)
        abort();
    vcpu->platform = &platform;
    for (unsigned i = 0; i < map.ram_count; i++)
        if (mem_add(&mem, map.ram[i].name, GPA(map.ram[i].base), map.ram[i].size, MEM_ANONYMOUS,
                    false, &e) != 0)
            abort();
    acpi = acpi_config_default(1);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t initrd[4096];
    if (size < 2)
        return 0;
    struct boot_config config = {.cmdline = "console=ttyS0", .ram_size = RAM_SIZE, .acpi = &acpi};
    struct boot_files files = {
        .kernel = {.path = (char *)"kernel", .data = (uint8_t *)data + 1, .size = size - 1},
    };
    if (data[0] & 1)
        files.initrd = (struct boot_bytes){(char *)"initrd", initrd, sizeof(initrd)};
    struct error e = {0};
    int r = boot_place(&mem, vcpu, &files, &config, &e);
    if (r != -e.code)
        abort(); /* every failure has its sentence, and no success has one */
    return 0;
}
