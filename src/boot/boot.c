/* SPDX-License-Identifier: MIT */
/* The start of a kernel; see boot.h. Wiring thread. */
#include "boot/boot.h"

#include <errno.h>

#include "boot/image.h"
#include "boot/mptable.h"
#include "x86/cpuid.h"

#define MIB  (1ull << 20)
#define GIB4 (1ull << 32)

/* The first that recognises the file loads it. */
#define BIOS_SEGMENT 0xf000u
#define BIOS_MASTER  0xfea5u
#define BIOS_SLAVE   0xfeb0u
#define BIOS_NOTHING 0xff53u

static const struct boot_loader *const loaders[] = {&boot_bzimage, &boot_pvh, &boot_multiboot2,
                                                    &boot_multiboot};

int boot_put(struct boot_job *j, uint64_t at, const void *bytes, size_t n, struct error *e)
{
    if (mem_write(j->mem, GPA(at), bytes, n) != 0)
        return error_set(e, EFAULT, "0x%zx bytes at guest address 0x%llx are not RAM", n,
                         (unsigned long long)at);
    return 0;
}

int boot_put_string(struct boot_job *j, const char *text, const char *what, uint64_t *at,
                    struct error *e)
{
    size_t n = strlen(text) + 1;
    int r = layout_find(&j->layout, LAYOUT_UP, n, 16, 0, GIB4, what, at, e);
    return r != 0 ? r : boot_put(j, *at, text, n, e);
}

int boot_put_initrd(struct boot_job *j, uint64_t high, uint64_t *at, struct error *e)
{
    int r = layout_find(&j->layout, LAYOUT_DOWN, j->initrd->size, MEM_PAGE_SIZE, MIB, high,
                        "the initrd", at, e);
    if (r == 0)
        r = boot_put(j, *at, j->initrd->data, j->initrd->size, e);
    j->culprit = r != 0 ? j->initrd->path : j->kernel->path;
    return r;
}

const char *boot_module_cmdline(const struct boot_job *j)
{
    if (j->config->module_cmdline != NULL)
        return j->config->module_cmdline;
    const char *slash = strrchr(j->initrd->path, '/');
    return slash != NULL ? slash + 1 : j->initrd->path;
}

/* What a PC BIOS leaves in its data area and small kernels look for: the port of COM1, the segment
 * of the extended area, the KiB of conventional memory. */
static int put_bios_data(struct boot_job *j, struct error *e)
{
    uint8_t bda[256] = {0};
    const uint16_t com1 = 0x3f8, ebda = MEMMAP_EBDA >> 4, kib = MEMMAP_EBDA >> 10;
    memcpy(bda + 0x00, &com1, 2);
    memcpy(bda + 0x0e, &ebda, 2);
    memcpy(bda + 0x13, &kib, 2);
    return boot_put(j, MEMMAP_BDA, bda, sizeof(bda), e);
}

/* The interrupt table of real mode, as a BIOS leaves it: nothing happens at a vector but the end of
 * interrupt where the 8259A pair is sent to (8 to 0xf, 0x70 to 0x77). The entry of vector 8 and the
 * IRET are at the addresses that every PC has had them at. */
static int put_vectors(struct boot_job *j, struct error *e)
{
    static const uint8_t master[] = {0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf};
    static const uint8_t slave[] = {0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf};
    static const uint8_t nothing[] = {0xcf}; /* IRET */
    uint16_t table[256][2];
    for (unsigned n = 0; n < 256; n++) {
        table[n][0] = n / 8 == 1 ? BIOS_MASTER : n / 8 == 14 ? BIOS_SLAVE : BIOS_NOTHING;
        table[n][1] = BIOS_SEGMENT;
    }
    int r = boot_put(j, 0, table, sizeof(table), e);
    if (r == 0)
        r = boot_put(j, BIOS_SEGMENT * 16 + BIOS_MASTER, master, sizeof(master), e);
    if (r == 0)
        r = boot_put(j, BIOS_SEGMENT * 16 + BIOS_SLAVE, slave, sizeof(slave), e);
    return r != 0 ? r : boot_put(j, BIOS_SEGMENT * 16 + BIOS_NOTHING, nothing, 1, e);
}

/* ACPI tables and the MP table, which say the same. */
static int put_tables(struct boot_job *j, struct error *e)
{
    const struct cpuid_model *model = j->bsp->platform->cpuid;
    uint32_t signature = 0, features = 0;

    for (unsigned i = 0; model != NULL && i < model->count; i++) {
        if (model->entries[i].leaf != 1)
            continue;
        signature = model->entries[i].eax;
        features = model->entries[i].edx;
    }
    int r = acpi_build(j->mem, j->config->acpi, &j->rsdp, e);
    return r == 0 ? mptable_build(j->mem, j->config->acpi, signature, features, e) : r;
}

static int load(struct boot_job *j, struct error *e)
{
    for (unsigned i = 0; i < sizeof(loaders) / sizeof(loaders[0]); i++)
        if (loaders[i]->recognise(j->kernel))
            return loaders[i]->load(j, e);
    return error_set(e, ENOEXEC,
                     "not a kernel: a bzImage, an ELF file with the PVH note or a multiboot "
                     "kernel is needed");
}

bool boot_wants_bios_state(const struct boot_files *f)
{
    return f->firmware.data == NULL &&
           (boot_multiboot2.recognise(&f->kernel) || boot_multiboot.recognise(&f->kernel));
}

int boot_place(struct mem *m, struct vcpu *bsp, const struct boot_files *f,
               const struct boot_config *c, struct error *e)
{
    struct error own;
    struct boot_job j = {
        .mem = m,
        .bsp = bsp,
        .config = c,
        .kernel = &f->kernel,
        .initrd = f->initrd.data != NULL ? &f->initrd : NULL,
        .culprit = f->kernel.path,
        .cmdline = c->cmdline != NULL ? c->cmdline : "",
    };
    e = e != NULL ? e : &own; /* a prefix needs a text */
    if (f->firmware.data != NULL)
        return boot_firmware_place(m, &f->firmware, e);
    int r = memmap_build(c->ram_size, &j.map, e);
    if (r != 0)
        return r;
    j.layout.map = &j.map;
    r = layout_claim(&j.layout, 0, MEM_PAGE_SIZE, "the BIOS data area", e);
    if (r == 0)
        r = put_vectors(&j, e);
    if (r == 0)
        r = put_bios_data(&j, e);
    if (r == 0 && c->acpi != NULL)
        r = put_tables(&j, e);
    if (r != 0)
        return r;
    r = load(&j, e);
    return r == 0 ? 0 : error_prefix(e, "%s", j.culprit);
}

int boot_load(struct mem *m, struct vcpu *bsp, const struct boot_config *c, struct error *e)
{
    struct boot_files files;
    int r = boot_files_read(&files, c, e);
    if (r != 0)
        return r;
    r = boot_place(m, bsp, &files, c, e);
    boot_files_free(&files);
    return r;
}
