/* SPDX-License-Identifier: MIT */
/* Images of multiboot kernels; see multiboot.h. The file controls every byte. */
#include "boot/multiboot.h"

#include <errno.h>

#define GIB4 (1ull << 32)

int multiboot_load_addresses(struct boot_job *j, size_t header_at,
                             const struct multiboot_addresses *a, struct error *e)
{
    uint64_t before = (uint64_t)a->header - a->load; /* bytes of the image before its header */

    if (a->header < a->load || before > header_at)
        return error_set(e, EINVAL,
                         "bad multiboot kernel: load_addr 0x%x and header_addr 0x%x lie before the "
                         "start of the file",
                         a->load, a->header);
    uint64_t offset = header_at - before, size = j->kernel->size - offset;
    if (a->load_end != 0 && a->load_end < a->load)
        return error_set(e, EINVAL, "bad multiboot kernel: load_end_addr 0x%x is below load_addr",
                         a->load_end);
    if (a->load_end != 0 && a->load_end - a->load > size)
        return error_set(e, EINVAL,
                         "multiboot kernel is cut short: load_end_addr 0x%x reaches beyond the "
                         "file; copy it again",
                         a->load_end);
    if (a->load_end != 0)
        size = a->load_end - a->load;
    uint64_t end = a->load + size, bss_end = a->bss_end != 0 ? a->bss_end : end;
    if (bss_end < end)
        return error_set(e, EINVAL, "bad multiboot kernel: bss_end_addr 0x%x is below its data",
                         a->bss_end);
    int r = layout_claim(&j->layout, a->load, bss_end - a->load, "the kernel", e);
    if (r == 0)
        r = boot_put(j, a->load, j->kernel->data + offset, size, e);
    if (r == 0 && mem_fill(j->mem, GPA(end), 0, bss_end - end) != 0)
        r = error_set(e, EFAULT, "guest address 0x%llx is not RAM", (unsigned long long)end);
    return r;
}

/* e_entry is virtual where that makes a difference, and some linker scripts make it physical. */
static int find_entry(const struct elf *elf, uint32_t *entry, struct error *e)
{
    const struct elf_segment *s = elf_find_virtual(elf, elf->entry);
    uint64_t at = elf->entry;
    if (s != NULL)
        at = elf->entry - s->virtual + s->physical;
    else
        s = elf_find_physical(elf, at);
    if (s == NULL || at >= GIB4)
        return error_set(e, EINVAL,
                         "bad multiboot kernel: its entry 0x%llx is in no segment below 4 GiB",
                         (unsigned long long)elf->entry);
    *entry = (uint32_t)at;
    return 0;
}

int multiboot_load_elf(struct boot_job *j, uint32_t *entry, struct error *e)
{
    struct elf elf;

    if (!elf_recognise(j->kernel))
        return error_set(e, EINVAL,
                         "multiboot kernel is not in ELF, and its header gives no addresses: link "
                         "it as ELF");
    int r = elf_parse(j->kernel, &elf, e);
    if (r == 0)
        r = find_entry(&elf, entry, e);
    return r == 0 ? elf_load(j, &elf, e) : r;
}
