/* SPDX-License-Identifier: MIT */
/*
 * ELF kernels with the PVH note (Xen docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h):
 * XEN_ELFNOTE_PHYS32_ENTRY names the entry, in flat 32-bit protected mode, with EBX pointing to
 * hvm_start_info. The file controls every byte. Wiring thread.
 */
#include <errno.h>

#include "boot/elf.h"

#define GIB4 (1ull << 32)

#define NOTE_PHYS32_ENTRY 18u
#define START_INFO_MAGIC  0x336ec578u

struct start_info { /* version 1 */
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist, cmdline, rsdp, memmap;
    uint32_t memmap_entries, reserved;
};
_Static_assert(sizeof(struct start_info) == 56, "hvm_start_info of version 1");

struct module {
    uint64_t address, size, cmdline, reserved;
};

struct memmap_entry {
    uint64_t address, size;
    uint32_t type, reserved;
};

/* One step through the notes of a segment (System V ABI, "Note Section"): each part is padded to
 * the segment's alignment, 4 or 8. false = the end, or no room for the rest. */
struct note {
    uint32_t type, name_size, data_size;
    const uint8_t *name, *data;
};

static bool next_note(const uint8_t *p, uint64_t size, uint64_t align, uint64_t *at,
                      struct note *note)
{
    if (!boot_inside(*at, 12, size))
        return false;
    note->name_size = (uint32_t)boot_field(p + *at, 4);
    note->data_size = (uint32_t)boot_field(p + *at + 4, 4);
    note->type = (uint32_t)boot_field(p + *at + 8, 4);
    uint64_t name = *at + 12;
    uint64_t data = (name + note->name_size + align - 1) & ~(align - 1);
    if (!boot_inside(name, note->name_size, size) || !boot_inside(data, note->data_size, size))
        return false;
    note->name = p + name;
    note->data = p + data;
    *at = (data + note->data_size + align - 1) & ~(align - 1);
    return true;
}

static bool find_entry(const struct boot_bytes *k, const struct elf *elf, uint64_t *entry)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *s = &elf->segments[i];
        struct note n;
        uint64_t at = 0;
        if (s->type != ELF_PT_NOTE)
            continue;
        while (next_note(k->data + s->offset, s->file_size, s->align == 8 ? 8 : 4, &at, &n)) {
            if (n.type != NOTE_PHYS32_ENTRY || n.name_size != 4 || memcmp(n.name, "Xen", 4) != 0 ||
                (n.data_size != 4 && n.data_size != 8))
                continue;
            *entry = boot_field(n.data, n.data_size);
            return true;
        }
    }
    return false;
}

/* A multiboot kernel in ELF is left to its own loader, unless it has the note as well. */
static bool recognise(const struct boot_bytes *k)
{
    struct elf elf;
    uint64_t entry;

    if (!elf_recognise(k))
        return false;
    if (!boot_multiboot.recognise(k) && !boot_multiboot2.recognise(k))
        return true;
    return elf_parse(k, &elf, NULL) == 0 && find_entry(k, &elf, &entry);
}

static int put_module(struct boot_job *j, uint64_t *at, struct error *e)
{
    struct module m = {.size = j->initrd->size};
    int r = boot_put_initrd(j, GIB4, &m.address, e);
    if (r == 0)
        r = boot_put_string(j, boot_module_cmdline(j), "the initrd's command line", &m.cmdline, e);
    if (r == 0)
        r = layout_find(&j->layout, LAYOUT_UP, sizeof(m), 16, 0, GIB4, "the module list", at, e);
    return r != 0 ? r : boot_put(j, *at, &m, sizeof(m), e);
}

static int put_memmap(struct boot_job *j, uint64_t *at, struct error *e)
{
    struct memmap_entry list[MEMMAP_E820_MAX];
    unsigned n = j->map.e820_count;

    for (unsigned i = 0; i < n; i++)
        list[i] =
            (struct memmap_entry){j->map.e820[i].base, j->map.e820[i].size, j->map.e820[i].type, 0};
    int r = layout_find(&j->layout, LAYOUT_UP, n * sizeof(list[0]), 16, 0, GIB4, "the memory map",
                        at, e);
    return r != 0 ? r : boot_put(j, *at, list, n * sizeof(list[0]), e);
}

static int put_start_info(struct boot_job *j, uint64_t *at, struct error *e)
{
    struct start_info info = {
        .magic = START_INFO_MAGIC,
        .version = 1,
        .nr_modules = j->initrd != NULL,
        .rsdp = j->rsdp,
        .memmap_entries = j->map.e820_count,
    };
    int r = layout_find(&j->layout, LAYOUT_UP, sizeof(info), 16, 0, GIB4, "hvm_start_info", at, e);
    if (r == 0)
        r = boot_put_string(j, j->cmdline, "the command line", &info.cmdline, e);
    if (r == 0)
        r = put_memmap(j, &info.memmap, e);
    if (r == 0 && j->initrd != NULL)
        r = put_module(j, &info.modlist, e);
    return r != 0 ? r : boot_put(j, *at, &info, sizeof(info), e);
}

static int load(struct boot_job *j, struct error *e)
{
    struct elf elf;
    uint64_t entry, info;

    int r = elf_parse(j->kernel, &elf, e);
    if (r != 0)
        return r;
    if (!find_entry(j->kernel, &elf, &entry))
        return error_set(e, ENOEXEC,
                         "ELF file with neither the PVH note (XEN_ELFNOTE_PHYS32_ENTRY) nor a "
                         "multiboot header: build Linux with CONFIG_PVH, or take its bzImage");
    if (entry >= GIB4 || elf_find_physical(&elf, entry) == NULL)
        return error_set(e, EINVAL, "bad PVH kernel: its entry 0x%llx is in no segment below 4 GiB",
                         (unsigned long long)entry);
    r = elf_load(j, &elf, e);
    if (r == 0)
        r = put_start_info(j, &info, e);
    if (r != 0)
        return r;
    boot_cpu_protected(j->bsp, (uint32_t)entry);
    j->bsp->gpr[RBX] = info;
    return 0;
}

const struct boot_loader boot_pvh = {
    .name = "PVH",
    .recognise = recognise,
    .load = load,
};
