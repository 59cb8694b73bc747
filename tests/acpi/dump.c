/* SPDX-License-Identifier: MIT */
/*
 * dump DIRECTORY CPUS: builds the ACPI tables into guest memory, then finds them as an operating
 * system does (RSDP on a 16-byte boundary of the BIOS area, XSDT, FADT) and writes each into
 * DIRECTORY/SIGNATURE.dat. Status 1 with one line when the chain does not hold.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/acpi.h"
#include "boot/memmap.h"
#include "mem/mem.h"

static struct mem mem;
static const char *directory;

static void die(const char *what)
{
    printf("%s\n", what);
    exit(1);
}

static void get(uint64_t at, void *out, size_t n)
{
    if (mem_read(&mem, GPA(at), out, n) != 0)
        die("a table lies outside of RAM");
}

static uint64_t number(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, p, size);
    return v;
}

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    while (n-- > 0)
        s = (uint8_t)(s + *p++);
    return s;
}

/* Writes the table at `at`; the caller frees it. */
static uint8_t *table(uint64_t at, uint32_t *length)
{
    uint8_t head[8];
    char path[4096];

    get(at, head, sizeof(head));
    *length = (uint32_t)number(head + 4, 4);
    if (*length < 36 || *length > MEMMAP_BIOS_END - at)
        die("a table's length is wrong");
    uint8_t *t = malloc(*length);
    if (t == NULL)
        die("no memory");
    get(at, t, *length);
    if (memcmp(t, "FACS", 4) == 0 ? at % 64 != 0 : sum(t, *length) != 0)
        die("a checksum, or the alignment of the FACS, is wrong");
    snprintf(path, sizeof(path), "%s/%.4s.dat", directory, t);
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(t, 1, *length, f) != *length || fclose(f) != 0)
        die("cannot write");
    return t;
}

static uint64_t find_rsdp(void)
{
    uint8_t r[36];
    for (uint64_t at = MEMMAP_BIOS; at < MEMMAP_BIOS_END; at += 16) {
        get(at, r, sizeof(r));
        if (memcmp(r, "RSD PTR ", 8) == 0 && sum(r, 20) == 0 && sum(r, 36) == 0 && r[15] == 2)
            return number(r + 24, 8);
    }
    die("no RSDP");
    return 0;
}

int main(int argc, char **argv)
{
    struct error e = {0};
    struct memmap map;
    uint64_t rsdp;
    uint32_t length, sub;

    if (argc != 3)
        die("dump DIRECTORY CPUS");
    directory = argv[1];
    mem_init(&mem);
    if (memmap_build(16u << 20, &map, &e) != 0)
        die(e.text);
    for (unsigned i = 0; i < map.ram_count; i++)
        if (mem_add(&mem, map.ram[i].name, GPA(map.ram[i].base), map.ram[i].size, MEM_ANONYMOUS,
                    false, &e) != 0)
            die(e.text);
    struct acpi_config config = acpi_config_default((unsigned)atoi(argv[2]));
    if (acpi_build(&mem, &config, &rsdp, &e) != 0)
        die(e.text);

    uint8_t *xsdt = table(find_rsdp(), &length);
    for (uint32_t i = 36; i + 8 <= length; i += 8) {
        uint8_t *t = table(number(xsdt + i, 8), &sub);
        if (memcmp(t, "FACP", 4) == 0) {
            free(table(number(t + 36, 4), &sub));
            free(table(number(t + 140, 8), &sub));
        }
        free(t);
    }
    free(xsdt);
    mem_fini(&mem);
    return 0;
}
