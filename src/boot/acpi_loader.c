/* SPDX-License-Identifier: MIT */
/*
 * The script for firmware; see acpi_loader.h. The tables are built as if they lay at 0, so that
 * each address in them is an offset in the file; firmware adds the place that it chose, and then
 * computes the checksums, whose bytes are 0 until then.
 */
#include "boot/acpi_loader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { COMMAND_ALLOCATE = 1, COMMAND_POINTER = 2, COMMAND_CHECKSUM = 3 };
enum { ZONE_HIGH = 1, ZONE_F_SEGMENT = 2 };

#define HEADER_CHECKSUM        9u /* in a table's header (ACPI 6.4, 5.2.6) */
#define RSDP_CHECKSUM          8u
#define RSDP_EXTENDED_CHECKSUM 32u

static struct acpi_command *next(struct acpi_files *f, uint32_t command)
{
    struct acpi_command *c = &f->script[f->commands++];
    memset(c, 0, sizeof(*c));
    c->command = command;
    return c;
}

static void allocate(struct acpi_files *f, const char *file, uint32_t align, uint8_t zone)
{
    struct acpi_command *c = next(f, COMMAND_ALLOCATE);
    strcpy(c->allocate.file, file);
    c->allocate.align = align;
    c->allocate.zone = zone;
}

/* Every address is one of a table. */
static void pointer(struct acpi_files *f, const char *file, uint32_t offset, uint8_t size)
{
    struct acpi_command *c = next(f, COMMAND_POINTER);
    strcpy(c->pointer.destination, file);
    strcpy(c->pointer.source, ACPI_FILE_TABLES);
    c->pointer.offset = offset;
    c->pointer.size = size;
}

static void checksum(struct acpi_files *f, const char *file, uint32_t offset, uint32_t start,
                     uint32_t length)
{
    struct acpi_command *c = next(f, COMMAND_CHECKSUM);
    strcpy(c->checksum.file, file);
    c->checksum.offset = offset;
    c->checksum.start = start;
    c->checksum.length = length;
}

_Static_assert(sizeof(struct acpi_command) == 128, "an entry of the script");
_Static_assert(2 + 2 + ACPI_POINTERS_MAX + ACPI_TABLES_MAX + 2 <= ACPI_SCRIPT_MAX,
               "room for every command");

static void write_script(struct acpi_files *f)
{
    struct acpi_image *image = f->image;

    allocate(f, ACPI_FILE_RSDP, 16, ZONE_F_SEGMENT);
    allocate(f, ACPI_FILE_TABLES, 64, ZONE_HIGH);
    for (unsigned i = 0; i < image->pointer_count; i++)
        pointer(f, ACPI_FILE_TABLES, image->pointers[i].at - ACPI_IMAGE_TABLES,
                image->pointers[i].size);
    for (unsigned i = 0; i < image->table_count; i++) {
        uint32_t at = image->tables[i].at;
        image->bytes[at + HEADER_CHECKSUM] = 0;
        checksum(f, ACPI_FILE_TABLES, at - ACPI_IMAGE_TABLES + HEADER_CHECKSUM,
                 at - ACPI_IMAGE_TABLES, image->tables[i].size);
    }
    pointer(f, ACPI_FILE_RSDP, ACPI_RSDP_RSDT, 4);
    pointer(f, ACPI_FILE_RSDP, ACPI_RSDP_XSDT, 8);
    image->bytes[RSDP_CHECKSUM] = image->bytes[RSDP_EXTENDED_CHECKSUM] = 0;
    checksum(f, ACPI_FILE_RSDP, RSDP_CHECKSUM, 0, ACPI_RSDP_1_SIZE);
    checksum(f, ACPI_FILE_RSDP, RSDP_EXTENDED_CHECKSUM, 0, ACPI_RSDP_SIZE);
}

int acpi_files_init(struct acpi_files *f, const struct acpi_config *c, struct error *e)
{
    struct error own = {0};
    e = e != NULL ? e : &own;
    f->commands = 0;
    f->image = acpi_image_create(c, -(uint64_t)ACPI_IMAGE_TABLES, e);
    if (f->image == NULL)
        return -e->code;
    write_script(f);
    return 0;
}

void acpi_files_fini(struct acpi_files *f)
{
    free(f->image);
}
