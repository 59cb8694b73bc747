/* SPDX-License-Identifier: MIT */
/*
 * bzImage by its 64-bit entry or, when it has none, its 32-bit one (Linux
 * Documentation/arch/x86/boot.rst and zero-page.rst, protocol 2.10 and later). The file controls
 * every byte of the setup header. Wiring thread.
 *
 * In memory: GDT, page tables, zero page and command line in the lowest pages (the kernel's
 * decompressor uses the top of conventional memory for itself), the kernel at its preferred address
 * or the lowest that fits, the initrd as high as the kernel allows.
 */
#include <errno.h>

#include "boot/image.h"

#define MIB  (1ull << 20)
#define GIB4 (1ull << 32)

/* Fields of the setup header and the zero page: offset, size (boot.rst; zero-page.rst). */
#define ACPI_RSDP_ADDR     0x070, 8
#define EXT_RAMDISK_IMAGE  0x0c0, 4
#define EXT_RAMDISK_SIZE   0x0c4, 4
#define E820_ENTRIES       0x1e8, 1
#define SETUP_SECTS        0x1f1, 1
#define SYSSIZE            0x1f4, 4
#define VID_MODE           0x1fa, 2
#define BOOT_FLAG          0x1fe, 2
#define JUMP               0x200, 2
#define HEADER             0x202, 4
#define VERSION            0x206, 2
#define TYPE_OF_LOADER     0x210, 1
#define LOADFLAGS          0x211, 1
#define CODE32_START       0x214, 4
#define RAMDISK_IMAGE      0x218, 4
#define RAMDISK_SIZE       0x21c, 4
#define CMD_LINE_PTR       0x228, 4
#define INITRD_ADDR_MAX    0x22c, 4
#define KERNEL_ALIGNMENT   0x230, 4
#define RELOCATABLE_KERNEL 0x234, 1
#define XLOADFLAGS         0x236, 2
#define CMDLINE_SIZE       0x238, 4
#define PAYLOAD_OFFSET     0x248, 4
#define PAYLOAD_LENGTH     0x24c, 4
#define SETUP_DATA         0x250, 8
#define PREF_ADDRESS       0x258, 8
#define INIT_SIZE          0x260, 4
#define HEADER_START       0x1f1u
#define HEADER_END_2_10    0x264u
#define HEADER_END_MAX     0x290u /* the zero page has other fields from here */
#define E820_TABLE         0x2d0u
#define E820_ENTRY_SIZE    20u
#define E820_TABLE_MAX     128u

#define VERSION_INIT_SIZE  0x20au
#define VERSION_XLOADFLAGS 0x20cu

#define MAGIC_HDRS       0x53726448u
#define BOOT_FLAG_VALUE  0xaa55u
#define JUMP_SHORT       0xebu
#define LOADED_HIGH      (1u << 0)
#define XLF_KERNEL_64    (1u << 0)
#define XLF_ABOVE_4G     (1u << 1) /* XLF_CAN_BE_LOADED_ABOVE_4G */
#define LOADER_UNDEFINED 0xffu     /* type_of_loader: no number was assigned */
#define VID_MODE_NORMAL  0xffffu
#define ENTRY_64         0x200u /* from the start of the protected-mode part */
#define SECTOR           512u

/* The setup header after the checks. */
struct setup {
    const uint8_t *setup; /* start of the file */
    const uint8_t *body;  /* protected-mode part */
    uint64_t body_size;
    uint32_t header_end;
    uint64_t init_size, pref_address, alignment;
    uint64_t initrd_end; /* one past the last byte an initrd may have */
    uint64_t cmdline_max;
    bool relocatable, above_4g, entry_64;
};

/* get(p, FIELD): the offset and size of the field come from its macro. */
static uint64_t get(const uint8_t *p, unsigned offset, unsigned size)
{
    return boot_field(p + offset, size);
}

static void set(uint8_t *p, unsigned offset, unsigned size, uint64_t value)
{
    memcpy(p + offset, &value, size);
}

static bool recognise(const struct boot_bytes *k)
{
    return k->size >= 0x208 && get(k->data, HEADER) == MAGIC_HDRS;
}

/* Is it a kernel that we can start at all? */
static int check_kind(const struct boot_bytes *k, struct error *e)
{
    const uint8_t *p = k->data;
    unsigned version = (unsigned)get(p, VERSION);

    if (get(p, BOOT_FLAG) != BOOT_FLAG_VALUE)
        return error_set(e, EINVAL, "bad bzImage: boot_flag is 0x%llx, not 0xaa55",
                         (unsigned long long)get(p, BOOT_FLAG));
    if (version < VERSION_INIT_SIZE)
        return error_set(e, EINVAL,
                         "boot protocol %u.%02u does not say how much memory the kernel needs: "
                         "take Linux 2.6.31 or later",
                         version >> 8, version & 0xff);
    if (k->size < HEADER_END_MAX)
        return error_set(e, EINVAL, "bzImage is cut short in its setup header: copy it again");
    if (!(get(p, LOADFLAGS) & LOADED_HIGH))
        return error_set(e, EINVAL, "zImage (loaded below 1 MiB) is not supported: take a bzImage");
    return 0;
}

/* The parts of the file and the end of the header. */
static int check_parts(const struct boot_bytes *k, struct setup *s, struct error *e)
{
    const uint8_t *p = k->data;
    uint64_t sectors = get(p, SETUP_SECTS) != 0 ? get(p, SETUP_SECTS) : 4;
    uint64_t setup_size = (sectors + 1) * SECTOR;
    uint64_t body_size = get(p, SYSSIZE) * 16;
    unsigned jump = (unsigned)get(p, JUMP);

    s->header_end = 0x202 + (jump >> 8);
    if ((jump & 0xff) != JUMP_SHORT || s->header_end < HEADER_END_2_10 ||
        s->header_end > HEADER_END_MAX)
        return error_set(e, EINVAL, "bad bzImage: its setup header ends at 0x%x", s->header_end);
    if (setup_size >= k->size)
        return error_set(e, EINVAL,
                         "bzImage is cut short: setup of %llu bytes, file of %zu; copy it again",
                         (unsigned long long)setup_size, k->size);
    s->setup = p;
    s->body = p + setup_size;
    s->body_size = k->size - setup_size;
    /* syssize counts units of 16 bytes; the last one need not be full. What comes after it, like
     * a signature, is not part of the kernel. */
    if (body_size > s->body_size + 15)
        return error_set(e, EINVAL,
                         "bzImage is cut short: syssize says %llu bytes, the file has %llu; copy "
                         "it again",
                         (unsigned long long)body_size, (unsigned long long)s->body_size);
    if (body_size < s->body_size)
        s->body_size = body_size;
    if (s->body_size <= ENTRY_64)
        return error_set(e, EINVAL, "bad bzImage: syssize of %llu bytes ends before the entry",
                         (unsigned long long)s->body_size);
    if (!boot_inside(get(p, PAYLOAD_OFFSET), get(p, PAYLOAD_LENGTH), s->body_size))
        return error_set(e, EINVAL,
                         "bad bzImage: payload_offset 0x%llx, payload_length 0x%llx reach beyond "
                         "its %llu bytes",
                         (unsigned long long)get(p, PAYLOAD_OFFSET),
                         (unsigned long long)get(p, PAYLOAD_LENGTH),
                         (unsigned long long)s->body_size);
    return 0;
}

/* What the kernel says about its place in memory. */
static int check_placement(struct setup *s, struct error *e)
{
    const uint8_t *p = s->setup;
    uint64_t unused;
    uint64_t flags = get(p, VERSION) >= VERSION_XLOADFLAGS ? get(p, XLOADFLAGS) : 0;

    s->init_size = get(p, INIT_SIZE);
    s->pref_address = get(p, PREF_ADDRESS);
    s->alignment = get(p, KERNEL_ALIGNMENT);
    s->relocatable = get(p, RELOCATABLE_KERNEL) != 0;
    s->entry_64 = flags & XLF_KERNEL_64;
    s->above_4g = s->entry_64 && (flags & XLF_ABOVE_4G);
    s->initrd_end = s->above_4g ? UINT64_MAX : get(p, INITRD_ADDR_MAX) + 1;
    s->cmdline_max = get(p, CMDLINE_SIZE);

    if (s->init_size < s->body_size)
        return error_set(e, EINVAL, "bad bzImage: init_size 0x%llx is less than its 0x%llx bytes",
                         (unsigned long long)s->init_size, (unsigned long long)s->body_size);
    if (s->pref_address < MIB || __builtin_add_overflow(s->pref_address, s->init_size, &unused))
        return error_set(e, EINVAL, "bad bzImage: pref_address 0x%llx is out of range",
                         (unsigned long long)s->pref_address);
    if (s->alignment < MEM_PAGE_SIZE || (s->alignment & (s->alignment - 1)) != 0)
        return error_set(e, EINVAL,
                         "bad bzImage: kernel_alignment 0x%llx is not a power of two "
                         "of at least 4096",
                         (unsigned long long)s->alignment);
    return 0;
}

static int check_options(const struct boot_job *j, const struct setup *s, struct error *e)
{
    if (strlen(j->cmdline) > s->cmdline_max)
        return error_set(e, EINVAL,
                         "the command line has %zu bytes, this kernel takes %llu: shorten --append",
                         strlen(j->cmdline), (unsigned long long)s->cmdline_max);
    return 0;
}

/* At the preferred address, else the lowest that fits (below 4 GiB: the tables map no more). */
static int place_kernel(struct boot_job *j, const struct setup *s, uint64_t *at, struct error *e)
{
    const char *what = "the kernel while it starts (init_size)";
    int r = -EINVAL;

    *at = s->pref_address;
    if (*at < GIB4)
        r = layout_claim(&j->layout, *at, s->init_size, what, s->relocatable ? NULL : e);
    else if (!s->relocatable)
        error_set(e, EINVAL, "bad bzImage: pref_address 0x%llx is above 4 GiB",
                  (unsigned long long)*at);
    if (r != 0 && s->relocatable)
        r = layout_find(&j->layout, LAYOUT_UP, s->init_size, s->alignment, MIB, GIB4, what, at, e);
    return r != 0 ? r : boot_put(j, *at, s->body, s->body_size, e);
}

/* Below 4 GiB if there is room, for kernels in a hurry; above it if the kernel can. */
static int place_initrd(struct boot_job *j, const struct setup *s, uint64_t *at, struct error *e)
{
    *at = 0;
    if (j->initrd == NULL)
        return 0;
    uint64_t below = s->initrd_end < GIB4 ? s->initrd_end : GIB4;
    int r = boot_put_initrd(j, below, at, s->above_4g ? NULL : e);
    if (r != 0 && s->above_4g)
        r = boot_put_initrd(j, s->initrd_end, at, e);
    return r;
}

/* Identity map of the first 4 GiB with 2 MiB pages (SDM 3A 4.5): PML4, PDPT, four directories. */
static int put_page_tables(struct boot_job *j, uint64_t *cr3, struct error *e)
{
    enum { DIRECTORIES = 4, ENTRIES = 512, TABLES = 2 + DIRECTORIES };
    enum { PRESENT_WRITABLE = 3, LARGE = 1 << 7 };
    uint64_t at, table[ENTRIES];

    int r = layout_find(&j->layout, LAYOUT_UP, TABLES * MEM_PAGE_SIZE, MEM_PAGE_SIZE, 0, MIB,
                        "the first page tables", &at, e);
    if (r != 0)
        return r;
    for (uint64_t t = 0; t < TABLES; t++) {
        memset(table, 0, sizeof(table));
        if (t == 0)
            table[0] = (at + MEM_PAGE_SIZE) | PRESENT_WRITABLE;
        for (uint64_t i = 0; t == 1 && i < DIRECTORIES; i++)
            table[i] = (at + (2 + i) * MEM_PAGE_SIZE) | PRESENT_WRITABLE;
        for (uint64_t i = 0; t >= 2 && i < ENTRIES; i++)
            table[i] = ((t - 2) * ENTRIES + i) * (2 * MIB) | PRESENT_WRITABLE | LARGE;
        r = boot_put(j, at + t * MEM_PAGE_SIZE, table, sizeof(table), e);
        if (r != 0)
            return r;
    }
    *cr3 = at;
    return 0;
}

static void zero_page_e820(uint8_t *zero, const struct memmap *map)
{
    unsigned n = map->e820_count < E820_TABLE_MAX ? map->e820_count : E820_TABLE_MAX;
    set(zero, E820_ENTRIES, n);
    for (unsigned i = 0; i < n; i++) {
        unsigned at = E820_TABLE + i * E820_ENTRY_SIZE;
        set(zero, at, 8, map->e820[i].base);
        set(zero, at + 8, 8, map->e820[i].size);
        set(zero, at + 16, 4, map->e820[i].type);
    }
}

static int put_zero_page(struct boot_job *j, const struct setup *s, uint64_t kernel,
                         uint64_t initrd, uint64_t *at, struct error *e)
{
    uint8_t zero[MEM_PAGE_SIZE] = {0};
    uint64_t cmdline, initrd_size = j->initrd != NULL ? j->initrd->size : 0;

    int r = boot_put_string(j, j->cmdline, "the command line", &cmdline, e);
    if (r == 0)
        r = layout_find(&j->layout, LAYOUT_UP, sizeof(zero), MEM_PAGE_SIZE, 0, MIB, "the zero page",
                        at, e);
    if (r != 0)
        return r;
    memcpy(zero + HEADER_START, s->setup + HEADER_START, s->header_end - HEADER_START);
    set(zero, VID_MODE, VID_MODE_NORMAL);
    set(zero, TYPE_OF_LOADER, LOADER_UNDEFINED);
    set(zero, CODE32_START, kernel);
    set(zero, RAMDISK_IMAGE, initrd);
    set(zero, EXT_RAMDISK_IMAGE, initrd >> 32);
    set(zero, RAMDISK_SIZE, initrd_size);
    set(zero, EXT_RAMDISK_SIZE, initrd_size >> 32);
    set(zero, CMD_LINE_PTR, cmdline);
    set(zero, SETUP_DATA, 0);
    set(zero, ACPI_RSDP_ADDR, j->rsdp);
    zero_page_e820(zero, &j->map);
    return boot_put(j, *at, zero, sizeof(zero), e);
}

/* The entry: 64-bit code with the page tables at cr3, or flat 32-bit code without. */
static void start(struct boot_job *j, const struct setup *s, uint64_t kernel, uint64_t gdt,
                  uint64_t cr3)
{
    if (s->entry_64) {
        boot_cpu_long(j->bsp, kernel + ENTRY_64, gdt, cr3);
        return;
    }
    boot_cpu_protected(j->bsp, (uint32_t)kernel);
    j->bsp->gdtr = (struct x86_table_register){gdt, BOOT_GDT_SIZE - 1};
}

static int load(struct boot_job *j, struct error *e)
{
    struct setup s;
    uint64_t kernel, initrd, gdt, cr3 = 0, zero;
    int r;

    if ((r = check_kind(j->kernel, e)) != 0 || (r = check_parts(j->kernel, &s, e)) != 0 ||
        (r = check_placement(&s, e)) != 0 || (r = check_options(j, &s, e)) != 0)
        return r;
    if ((r = layout_find(&j->layout, LAYOUT_UP, BOOT_GDT_SIZE, 16, 0, MIB, "the GDT", &gdt, e)) ||
        (r = boot_put(j, gdt, s.entry_64 ? boot_gdt : boot_gdt_32, BOOT_GDT_SIZE, e)) != 0 ||
        (s.entry_64 && (r = put_page_tables(j, &cr3, e)) != 0) ||
        (r = place_kernel(j, &s, &kernel, e)) != 0 || (r = place_initrd(j, &s, &initrd, e)) != 0 ||
        (r = put_zero_page(j, &s, kernel, initrd, &zero, e)) != 0)
        return r;
    start(j, &s, kernel, gdt, cr3);
    j->bsp->gpr[RSI] = zero;
    return 0;
}

const struct boot_loader boot_bzimage = {
    .name = "bzImage",
    .recognise = recognise,
    .load = load,
};
