/* SPDX-License-Identifier: MIT */
/*
 * Multiboot 2 kernels (Multiboot2 Specification 2.0), entered in 32-bit protected mode (3.3). The
 * header is a list of tags, each of which the loader must understand unless the tag says that it is
 * optional; the information for the kernel is another. The file controls every byte. Wiring thread.
 */
#include <errno.h>

#include "boot/multiboot.h"

#define GIB4        (1ull << 32)
#define MIB         (1ull << 20)
#define SEARCH_SIZE 32768u /* the header lies whole within these (3.1.1) */
#define MAGIC       0xe85250d6u
#define MAGIC_EAX   0x36d76289u
#define HEADER_SIZE 16u
#define INFO_MAX    4096u
#define TAG_ALIGN   8u

enum { /* tags of the header (3.1.3 and on) */
       WANT_END = 0,
       WANT_INFORMATION = 1,
       WANT_ADDRESS = 2,
       WANT_ENTRY = 3,
       WANT_CONSOLE = 4,
       WANT_FRAMEBUFFER = 5,
       WANT_MODULE_ALIGN = 6,
       WANT_EFI_BOOT_SERVICES = 7,
       WANT_EFI_ENTRY_I386 = 8,
       WANT_EFI_ENTRY_AMD64 = 9,
       WANT_RELOCATABLE = 10,
};
#define TAG_OPTIONAL     1u
#define CONSOLE_REQUIRED 1u

enum { /* tags of the information (3.6) */
       HAVE_END = 0,
       HAVE_CMDLINE = 1,
       HAVE_LOADER_NAME = 2,
       HAVE_MODULE = 3,
       HAVE_MEMORY = 4,
       HAVE_MMAP = 6,
       HAVE_ACPI_OLD = 14,
       HAVE_ACPI_NEW = 15,
       HAVE_LAST = 21, /* the highest that the specification knows */
};

struct header {
    size_t at, size;
    bool has_addresses, has_entry;
    struct multiboot_addresses addresses;
    uint32_t entry;
};

static uint32_t word(const uint8_t *p, size_t at)
{
    return (uint32_t)boot_field(p + at, 4);
}

/* The first header whose checksum and length are good; at = SIZE_MAX when there is none, though
 * perhaps a bad one. */
static bool find_header(const struct boot_bytes *k, struct header *h)
{
    size_t end = k->size < SEARCH_SIZE ? k->size : SEARCH_SIZE;
    bool found = false;

    *h = (struct header){.at = SIZE_MAX};
    for (size_t at = 0; at + HEADER_SIZE <= end && h->at == SIZE_MAX; at += TAG_ALIGN) {
        const uint8_t *p = k->data + at;
        if (word(p, 0) != MAGIC)
            continue;
        found = true;
        h->size = word(p, 8);
        if ((uint32_t)(MAGIC + word(p, 4) + word(p, 8) + word(p, 12)) == 0 &&
            h->size >= HEADER_SIZE && boot_inside(at, h->size, end))
            h->at = at;
    }
    return found;
}

static bool recognise(const struct boot_bytes *k)
{
    struct header h;
    return find_header(k, &h);
}

static int refuse(struct error *e, const char *what)
{
    return error_set(e, EINVAL, "multiboot 2 kernel %s, which is not supported", what);
}

/* What it wants to be told. All that the specification knows may be missing on a machine. */
static int take_information(const uint8_t *tag, uint32_t size, bool optional, struct error *e)
{
    for (uint32_t at = 8; at + 4 <= size; at += 4) {
        if (word(tag, at) > HAVE_LAST && !optional)
            return error_set(e, EINVAL,
                             "multiboot 2 kernel asks for information of the unknown type %u",
                             word(tag, at));
    }
    return 0;
}

/* One tag of the header; its size is at least `least`, where it matters. */
static int take_tag(struct header *h, const uint8_t *tag, uint32_t size, struct error *e)
{
    unsigned type = (unsigned)boot_field(tag, 2);
    bool optional = boot_field(tag + 2, 2) & TAG_OPTIONAL;
    static const uint8_t least[] = {8, 8, 24, 12, 12, 20, 8, 8, 12, 12, 24};

    if (type < sizeof(least) && size < least[type])
        return error_set(e, EINVAL, "bad multiboot 2 kernel: a tag of type %u has %u bytes", type,
                         size);
    switch (type) {
    case WANT_INFORMATION:
        return take_information(tag, size, optional, e);
    case WANT_ADDRESS:
        h->has_addresses = true;
        h->addresses =
            (struct multiboot_addresses){word(tag, 8), word(tag, 12), word(tag, 16), word(tag, 20)};
        return 0;
    case WANT_ENTRY:
        h->has_entry = true;
        h->entry = word(tag, 8);
        return 0;
    case WANT_CONSOLE:
        return (word(tag, 8) & CONSOLE_REQUIRED) && !optional ? refuse(e, "needs a screen") : 0;
    case WANT_FRAMEBUFFER:
        return optional ? 0 : refuse(e, "needs a framebuffer");
    case WANT_EFI_BOOT_SERVICES:
        return optional ? 0 : refuse(e, "needs EFI boot services");
    case WANT_MODULE_ALIGN: /* modules lie on pages */
    case WANT_EFI_ENTRY_I386:
    case WANT_EFI_ENTRY_AMD64: /* there is no EFI, so the other entry is right */
    case WANT_RELOCATABLE:     /* it may be moved and need not */
        return 0;
    default:
        if (optional)
            return 0;
        return error_set(e, EINVAL, "multiboot 2 kernel needs the unknown feature %u", type);
    }
}

static int read_header(const struct boot_bytes *k, struct header *h, struct error *e)
{
    if (!find_header(k, h) || h->at == SIZE_MAX)
        return error_set(e, EINVAL,
                         "bad multiboot 2 kernel: the checksum or length of its header is wrong");
    const uint8_t *p = k->data + h->at;
    if (word(p, 4) != 0)
        return error_set(e, EINVAL, "multiboot 2 kernel is for architecture %u, not for i386",
                         word(p, 4));
    for (size_t at = HEADER_SIZE; boot_inside(at, 8, h->size);) {
        uint32_t size = word(p, at + 4);
        if (boot_field(p + at, 2) == WANT_END)
            return 0;
        if (size < 8 || !boot_inside(at, size, h->size))
            break;
        int r = take_tag(h, p + at, size, e);
        if (r != 0)
            return r;
        at += ((size_t)size + TAG_ALIGN - 1) & ~(size_t)(TAG_ALIGN - 1);
    }
    return error_set(e, EINVAL, "bad multiboot 2 kernel: the tags of its header do not end");
}

/* The information as it grows. */
struct info {
    uint8_t bytes[INFO_MAX];
    size_t size;
    bool full;
};

/* A tag with room for n bytes after its type and size; NULL when there is none. */
static uint8_t *add_tag(struct info *i, uint32_t type, size_t n)
{
    size_t size = 8 + n, padded = (size + TAG_ALIGN - 1) & ~(size_t)(TAG_ALIGN - 1);
    uint8_t *tag = i->bytes + i->size;

    if (i->full || padded > sizeof(i->bytes) - i->size) {
        i->full = true;
        return NULL;
    }
    memcpy(tag, &type, 4);
    memcpy(tag + 4, &(uint32_t){(uint32_t)size}, 4);
    i->size += padded;
    return tag + 8;
}

static void add_bytes(struct info *i, uint32_t type, const void *bytes, size_t n)
{
    uint8_t *p = add_tag(i, type, n);
    if (p != NULL)
        memcpy(p, bytes, n);
}

static void add_memory(struct info *info, const struct memmap *map)
{
    struct {
        uint32_t entry_size, entry_version;
        struct {
            uint64_t base, size;
            uint32_t type, reserved;
        } entries[MEMMAP_E820_MAX];
    } list = {.entry_size = sizeof(list.entries[0])};
    uint32_t sizes[2] = {0, 0}; /* KiB from 0, and from 1 MiB */

    for (unsigned i = 0; i < map->e820_count; i++) {
        const struct memmap_e820 *r = &map->e820[i];
        list.entries[i].base = r->base;
        list.entries[i].size = r->size;
        list.entries[i].type = r->type;
        if (r->type == MEMMAP_E820_RAM && (r->base == 0 || r->base == MIB))
            sizes[r->base == MIB] = (uint32_t)(r->size >> 10);
    }
    add_bytes(info, HAVE_MEMORY, sizes, sizeof(sizes));
    add_bytes(info, HAVE_MMAP, &list, 8 + map->e820_count * sizeof(list.entries[0]));
}

static int add_module(struct info *i, struct boot_job *j, struct error *e)
{
    const char *text = boot_module_cmdline(j);
    size_t n = strlen(text) + 1;
    uint64_t start;
    int r = boot_put_initrd(j, GIB4, &start, e);

    if (r != 0)
        return r;
    uint32_t range[2] = {(uint32_t)start, (uint32_t)(start + j->initrd->size)};
    uint8_t *p = add_tag(i, HAVE_MODULE, sizeof(range) + n);
    if (p != NULL) {
        memcpy(p, range, sizeof(range));
        memcpy(p + sizeof(range), text, n);
    }
    return 0;
}

static int add_acpi(struct info *i, struct boot_job *j, struct error *e)
{
    uint8_t rsdp[ACPI_RSDP_SIZE];

    if (j->rsdp == 0)
        return 0;
    if (mem_read(j->mem, GPA(j->rsdp), rsdp, sizeof(rsdp)) != 0)
        return error_set(e, EFAULT, "the RSDP is not in RAM");
    add_bytes(i, HAVE_ACPI_OLD, rsdp, ACPI_RSDP_1_SIZE);
    add_bytes(i, HAVE_ACPI_NEW, rsdp, sizeof(rsdp));
    return 0;
}

static int put_info(struct boot_job *j, uint64_t *at, struct error *e)
{
    static const char name[] = "doppel";
    struct info i = {.size = 8}; /* its total size and a reserved word */

    add_bytes(&i, HAVE_CMDLINE, j->cmdline, strlen(j->cmdline) + 1);
    add_bytes(&i, HAVE_LOADER_NAME, name, sizeof(name));
    add_memory(&i, &j->map);
    int r = add_acpi(&i, j, e);
    if (r == 0 && j->initrd != NULL)
        r = add_module(&i, j, e);
    if (r != 0)
        return r;
    add_tag(&i, HAVE_END, 0);
    if (i.full)
        return error_set(e, EINVAL,
                         "the information for a multiboot 2 kernel has more than %u bytes: shorten "
                         "--append",
                         INFO_MAX);
    memcpy(i.bytes, &(uint32_t){(uint32_t)i.size}, 4);
    r = layout_find(&j->layout, LAYOUT_UP, i.size, MEM_PAGE_SIZE, 0, GIB4,
                    "the multiboot information", at, e);
    return r == 0 ? boot_put(j, *at, i.bytes, i.size, e) : r;
}

static int load(struct boot_job *j, struct error *e)
{
    struct header h;
    uint32_t entry = 0;
    uint64_t info;

    int r = read_header(j->kernel, &h, e);
    if (r == 0 && h.has_addresses && !h.has_entry)
        r = error_set(e, EINVAL, "bad multiboot 2 kernel: addresses without an entry");
    if (r == 0)
        r = h.has_addresses ? multiboot_load_addresses(j, h.at, &h.addresses, e)
                            : multiboot_load_elf(j, &entry, e);
    if (r == 0)
        r = put_info(j, &info, e);
    if (r != 0)
        return r;
    boot_cpu_protected(j->bsp, h.has_entry ? h.entry : entry);
    j->bsp->gpr[RAX] = MAGIC_EAX;
    j->bsp->gpr[RBX] = info;
    return 0;
}

const struct boot_loader boot_multiboot2 = {
    .name = "multiboot 2",
    .recognise = recognise,
    .load = load,
};
