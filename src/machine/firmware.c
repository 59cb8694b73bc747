/* SPDX-License-Identifier: MIT */
/*
 * Firmware learns the machine from fw_cfg: how much RAM there is (file "etc/e820", as SeaBIOS's
 * qemu_early_e820 reads it; firmware itself takes off what it uses), and the ACPI tables. A kernel
 * that is started without firmware is told by its loader instead. Wiring thread.
 */
#include "machine/firmware.h"

#include "boot/acpi_loader.h"
#include "dev/fw_cfg.h"

#define FILE_E820 "etc/e820"

struct __attribute__((packed)) e820 {
    uint64_t base, size;
    uint32_t type;
};

/* Of RAM what lies below the hole and what lies above, as if there were nothing else below 1 MiB.
 */
static int add_e820(struct pc *pc, struct error *e)
{
    uint64_t ram = pc->config->mem, low = ram < MEMMAP_HOLE ? ram : MEMMAP_HOLE;
    const struct e820 entries[2] = {
        {0, low, MEMMAP_E820_RAM},
        {MEMMAP_HOLE_END, ram - low, MEMMAP_E820_RAM},
    };
    return fw_cfg_add_file(pc->fw_cfg, FILE_E820, entries,
                           ram > low ? sizeof(entries) : sizeof(entries[0]), e);
}

static int add_acpi(struct pc *pc, struct error *e)
{
    struct acpi_files files;
    size_t size;
    int rc = acpi_files_init(&files, &pc->acpi, e);

    if (rc != 0)
        return rc;
    const void *tables = acpi_files_tables(&files, &size);
    rc = fw_cfg_add_file(pc->fw_cfg, ACPI_FILE_RSDP, acpi_files_rsdp(&files), ACPI_RSDP_SIZE, e);
    if (rc == 0)
        rc = fw_cfg_add_file(pc->fw_cfg, ACPI_FILE_TABLES, tables, size, e);
    if (rc == 0)
        rc = fw_cfg_add_file(pc->fw_cfg, ACPI_FILE_SCRIPT, files.script,
                             files.commands * sizeof(files.script[0]), e);
    acpi_files_fini(&files);
    return rc;
}

int firmware_describe(struct pc *pc, struct error *e)
{
    int rc = add_e820(pc, e);
    return rc == 0 ? add_acpi(pc, e) : rc;
}
