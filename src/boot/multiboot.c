/* SPDX-License-Identifier: MIT */
/*
 * Multiboot 1 kernels (Multiboot Specification 0.6.96): by the addresses in their header, or in
 * ELF, 32-bit, or 64-bit with a 32-bit entry as GRUB takes them. The file controls every byte.
 * Wiring thread.
 */
#include <errno.h>

#include "boot/multiboot.h"

#define GIB4        (1ull << 32)
#define MIB         (1ull << 20)
#define SEARCH_SIZE 8192u /* the header lies whole within these (3.1) */
#define MAGIC       0x1badb002u
#define MAGIC_EAX   0x2badb002u

#define HEADER_WITH_ADDRESSES 32u

enum { /* flags of the header (3.1.2) */
       WANT_PAGE_ALIGN = 1 << 0,
       WANT_MEMORY = 1 << 1,
       WANT_VIDEO = 1 << 2,
       WANT_KNOWN = WANT_PAGE_ALIGN | WANT_MEMORY,
       WANT_REQUIRED = 0xffff, /* bits that must be understood */
       WANT_ADDRESSES = 1 << 16,
};

enum { /* flags of the information (3.3) */
       HAVE_MEMORY = 1 << 0,
       HAVE_CMDLINE = 1 << 2,
       HAVE_MODULES = 1 << 3,
       HAVE_MMAP = 1 << 6,
       HAVE_LOADER_NAME = 1 << 9,
};

struct info { /* 3.3, up to the fields that we have */
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name;
    uint32_t apm_table;
};

struct module {
    uint32_t start, end, string, reserved;
};

struct __attribute__((packed)) mmap_entry {
    uint32_t size; /* of the rest */
    uint64_t base, length;
    uint32_t type;
};

enum header_state { HEADER_NONE, HEADER_BAD, HEADER_GOOD };

struct header {
    size_t at; /* in the file */
    uint32_t flags;
};

/* The first header with a good checksum; HEADER_BAD = only bad ones. */
static enum header_state find_header(const struct boot_bytes *k, struct header *h)
{
    size_t end = k->size < SEARCH_SIZE ? k->size : SEARCH_SIZE;
    enum header_state state = HEADER_NONE;

    for (size_t at = 0; at + 12 <= end; at += 4) {
        if (boot_field(k->data + at, 4) != MAGIC)
            continue;
        *h = (struct header){at, (uint32_t)boot_field(k->data + at + 4, 4)};
        if ((uint32_t)(MAGIC + h->flags + (uint32_t)boot_field(k->data + at + 8, 4)) == 0)
            return HEADER_GOOD;
        state = HEADER_BAD;
    }
    return state;
}

static bool recognise(const struct boot_bytes *k)
{
    struct header h;
    return find_header(k, &h) != HEADER_NONE;
}

static int check_header(const struct boot_bytes *k, struct header *h, struct error *e)
{
    if (find_header(k, h) != HEADER_GOOD)
        return error_set(e, EINVAL, "bad multiboot kernel: the checksum of its header is wrong");
    if (h->flags & WANT_VIDEO)
        return error_set(e, EINVAL,
                         "multiboot kernel wants a video mode (flag 2), which is not "
                         "supported");
    if (h->flags & WANT_REQUIRED & ~WANT_KNOWN)
        return error_set(e, EINVAL, "multiboot kernel wants unknown features: flags 0x%x",
                         h->flags);
    return 0;
}

static int put_mmap(struct boot_job *j, struct info *info, struct error *e)
{
    struct mmap_entry list[MEMMAP_E820_MAX];
    unsigned n = j->map.e820_count;
    uint64_t at;

    for (unsigned i = 0; i < n; i++) {
        const struct memmap_e820 *r = &j->map.e820[i];
        list[i] = (struct mmap_entry){sizeof(list[i]) - 4, r->base, r->size, r->type};
        if (r->type == MEMMAP_E820_RAM && r->base == 0)
            info->mem_lower = (uint32_t)(r->size >> 10);
        if (r->type == MEMMAP_E820_RAM && r->base == MIB)
            info->mem_upper = (uint32_t)(r->size >> 10);
    }
    int r = layout_find(&j->layout, LAYOUT_UP, n * sizeof(list[0]), 16, 0, GIB4, "the memory map",
                        &at, e);
    info->mmap_addr = (uint32_t)at;
    info->mmap_length = (uint32_t)(n * sizeof(list[0]));
    return r != 0 ? r : boot_put(j, at, list, info->mmap_length, e);
}

static int put_module(struct boot_job *j, struct info *info, struct error *e)
{
    uint64_t start, string, list;
    int r = boot_put_initrd(j, GIB4, &start, e);
    if (r == 0)
        r = boot_put_string(j, boot_module_cmdline(j), "the module's command line", &string, e);
    if (r == 0)
        r = layout_find(&j->layout, LAYOUT_UP, sizeof(struct module), 16, 0, GIB4,
                        "the module list", &list, e);
    if (r != 0)
        return r;
    struct module m = {(uint32_t)start, (uint32_t)(start + j->initrd->size), (uint32_t)string, 0};
    info->mods_count = 1;
    info->mods_addr = (uint32_t)list;
    info->flags |= HAVE_MODULES;
    return boot_put(j, list, &m, sizeof(m), e);
}

static int put_info(struct boot_job *j, uint64_t *at, struct error *e)
{
    struct info info = {.flags = HAVE_MEMORY | HAVE_CMDLINE | HAVE_MMAP | HAVE_LOADER_NAME};
    uint64_t cmdline, name;

    int r = layout_find(&j->layout, LAYOUT_UP, sizeof(info), 16, 0, GIB4,
                        "the multiboot information", at, e);
    if (r == 0)
        r = boot_put_string(j, j->cmdline, "the command line", &cmdline, e);
    if (r == 0)
        r = boot_put_string(j, "doppel", "the boot loader's name", &name, e);
    if (r == 0)
        r = put_mmap(j, &info, e);
    if (r == 0 && j->initrd != NULL)
        r = put_module(j, &info, e);
    if (r != 0)
        return r;
    info.cmdline = (uint32_t)cmdline;
    info.boot_loader_name = (uint32_t)name;
    return boot_put(j, *at, &info, sizeof(info), e);
}

static int load_image(struct boot_job *j, const struct header *h, uint32_t *entry, struct error *e)
{
    struct multiboot_addresses a;
    const uint8_t *p = j->kernel->data + h->at;

    if (!(h->flags & WANT_ADDRESSES))
        return multiboot_load_elf(j, entry, e);
    if (!boot_inside(h->at, HEADER_WITH_ADDRESSES, j->kernel->size))
        return error_set(e, EINVAL, "multiboot kernel is cut short in its header: copy it again");
    a.header = (uint32_t)boot_field(p + 12, 4);
    a.load = (uint32_t)boot_field(p + 16, 4);
    a.load_end = (uint32_t)boot_field(p + 20, 4);
    a.bss_end = (uint32_t)boot_field(p + 24, 4);
    *entry = (uint32_t)boot_field(p + 28, 4);
    return multiboot_load_addresses(j, h->at, &a, e);
}

static int load(struct boot_job *j, struct error *e)
{
    struct header h;
    uint32_t entry = 0;
    uint64_t info;

    int r = check_header(j->kernel, &h, e);
    if (r == 0)
        r = load_image(j, &h, &entry, e);
    if (r == 0)
        r = put_info(j, &info, e);
    if (r != 0)
        return r;
    boot_cpu_protected(j->bsp, entry); /* the machine state of 3.2 */
    j->bsp->gpr[RAX] = MAGIC_EAX;
    j->bsp->gpr[RBX] = info;
    return 0;
}

const struct boot_loader boot_multiboot = {
    .name = "multiboot 1",
    .recognise = recognise,
    .load = load,
};
