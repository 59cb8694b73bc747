/* SPDX-License-Identifier: MIT */
/* Any bytes as a kernel file (libFuzzer). The first byte chooses whether there is an initrd, and
 * which loader's mark is put into the file, with checksums that hold, so that each is got past. */
#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"

#define RAM_SIZE (4ull << 20)

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

static void put32(uint8_t *p, uint32_t value)
{
    memcpy(p, &value, sizeof(value));
}

static void mark(uint8_t *p, size_t size, unsigned format)
{
    const uint32_t multiboot1 = 0x1badb002, multiboot2 = 0xe85250d6;
    uint32_t flags, length = (uint32_t)size & ~7u;

    if (format == 1 && size >= 0x300) {
        memcpy(p + 0x1fe, "\x55\xaa\xeb", 3);
        memcpy(p + 0x202, "HdrS\x0f\x02", 6);
        p[0x211] |= 1;
    } else if (format == 2 && size >= 8) {
        memcpy(p,
               "\x7f"
               "ELF\x02\x01\x01",
               7);
    } else if (format == 3 && size >= 8) {
        memcpy(p,
               "\x7f"
               "ELF\x01\x01\x01",
               7);
    } else if (format == 4 && size >= 32) {
        memcpy(&flags, p + 4, 4);
        put32(p, multiboot1);
        put32(p + 8, 0u - multiboot1 - flags);
    } else if (format == 5 && size >= 32 && size < 32768) {
        put32(p, multiboot2);
        put32(p + 4, 0);
        put32(p + 8, length);
        put32(p + 12, 0u - multiboot2 - length);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t initrd[4096];
    if (size < 2)
        return 0;
    struct boot_config config = {
        .cmdline = "console=ttyS0", .ram_size = RAM_SIZE, .acpi = data[0] & 0x80 ? &acpi : NULL};
    struct boot_files files = {
        .kernel = {.path = (char *)"kernel", .data = malloc(size - 1), .size = size - 1},
    };
    if (files.kernel.data == NULL)
        abort();
    memcpy(files.kernel.data, data + 1, size - 1);
    mark(files.kernel.data, size - 1, (data[0] >> 1) % 6);
    if (data[0] & 1)
        files.initrd = (struct boot_bytes){(char *)"initrd", initrd, sizeof(initrd)};
    struct error e = {0};
    int r = boot_place(&mem, vcpu, &files, &config, &e);
    if (r != -e.code)
        abort(); /* every failure has its sentence, and no success has one */
    free(files.kernel.data);
    return 0;
}
