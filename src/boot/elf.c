/* SPDX-License-Identifier: MIT */
/* ELF executables; see elf.h. Wiring thread. The file controls every byte. */
#include "boot/elf.h"

#include <elf.h>
#include <errno.h>

_Static_assert(ELF_PT_LOAD == PT_LOAD && ELF_PT_NOTE == PT_NOTE, "elf.h has them by number");

bool elf_recognise(const struct boot_bytes *k)
{
    return k->size >= SELFMAG && memcmp(k->data, ELFMAG, SELFMAG) == 0;
}

/* The fields of both classes in one struct. */
struct file_header {
    uint16_t type, machine, entry_size, count;
    uint64_t entry, table;
};

static int read_header(const struct boot_bytes *k, struct elf *elf, struct file_header *h,
                       struct error *e)
{
    if (k->size < sizeof(Elf32_Ehdr))
        return error_set(e, EINVAL, "ELF file is cut short in its header: copy it again");
    unsigned class = k->data[EI_CLASS];
    if (k->data[EI_DATA] != ELFDATA2LSB || (class != ELFCLASS32 && class != ELFCLASS64))
        return error_set(e, EINVAL, "ELF file is not for x86 (class %u, data encoding %u)", class,
                         k->data[EI_DATA]);
    elf->is_64 = class == ELFCLASS64;
    if (elf->is_64) {
        Elf64_Ehdr x;
        if (k->size < sizeof(x))
            return error_set(e, EINVAL, "ELF file is cut short in its header: copy it again");
        memcpy(&x, k->data, sizeof(x));
        *h = (struct file_header){x.e_type,  x.e_machine, x.e_phentsize,
                                  x.e_phnum, x.e_entry,   x.e_phoff};
    } else {
        Elf32_Ehdr x;
        memcpy(&x, k->data, sizeof(x));
        *h = (struct file_header){x.e_type,  x.e_machine, x.e_phentsize,
                                  x.e_phnum, x.e_entry,   x.e_phoff};
    }
    if (h->machine != EM_386 && h->machine != EM_X86_64)
        return error_set(e, EINVAL, "ELF file is for machine %u, not x86", h->machine);
    if (h->type != ET_EXEC && h->type != ET_DYN)
        return error_set(e, EINVAL, "ELF file of type %u is not an executable: link it", h->type);
    size_t want = elf->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (h->entry_size != want)
        return error_set(e, EINVAL, "bad ELF file: program headers of %u bytes, not %zu",
                         h->entry_size, want);
    if (!boot_inside(h->table, (uint64_t)h->count * want, k->size))
        return error_set(e, EINVAL,
                         "bad ELF file: its %u program headers at 0x%llx reach beyond its end",
                         h->count, (unsigned long long)h->table);
    return 0;
}

static struct elf_segment read_segment(const uint8_t *p, bool is_64)
{
    if (is_64) {
        Elf64_Phdr x;
        memcpy(&x, p, sizeof(x));
        return (struct elf_segment){x.p_type,  x.p_offset, x.p_filesz, x.p_vaddr,
                                    x.p_paddr, x.p_memsz,  x.p_align};
    }
    Elf32_Phdr x;
    memcpy(&x, p, sizeof(x));
    return (struct elf_segment){x.p_type,  x.p_offset, x.p_filesz, x.p_vaddr,
                                x.p_paddr, x.p_memsz,  x.p_align};
}

static int check_segment(const struct elf_segment *s, unsigned index, uint64_t file_size,
                         struct error *e)
{
    uint64_t end;
    if (!boot_inside(s->offset, s->file_size, file_size))
        return error_set(e, EINVAL,
                         "bad ELF file: segment %u (0x%llx bytes at offset 0x%llx) reaches beyond "
                         "its end; is it cut short?",
                         index, (unsigned long long)s->file_size, (unsigned long long)s->offset);
    if (s->type != PT_LOAD)
        return 0;
    if (s->file_size > s->memory_size)
        return error_set(e, EINVAL,
                         "bad ELF file: segment %u has 0x%llx bytes in the file for 0x%llx in "
                         "memory",
                         index, (unsigned long long)s->file_size,
                         (unsigned long long)s->memory_size);
    if (__builtin_add_overflow(s->physical, s->memory_size, &end))
        return error_set(e, EINVAL, "bad ELF file: segment %u (0x%llx bytes at 0x%llx) wraps",
                         index, (unsigned long long)s->memory_size,
                         (unsigned long long)s->physical);
    return 0;
}

int elf_parse(const struct boot_bytes *k, struct elf *elf, struct error *e)
{
    struct file_header h = {0};

    memset(elf, 0, sizeof(*elf));
    int r = read_header(k, elf, &h, e);
    if (r != 0)
        return r;
    elf->entry = h.entry;
    for (unsigned i = 0; i < h.count; i++) {
        struct elf_segment s =
            read_segment(k->data + h.table + (size_t)i * h.entry_size, elf->is_64);
        if (s.type != PT_LOAD && s.type != PT_NOTE)
            continue;
        if ((r = check_segment(&s, i, k->size, e)) != 0)
            return r;
        if (elf->count == ELF_SEGMENTS_MAX)
            return error_set(e, EINVAL, "ELF file has more than %u segments", ELF_SEGMENTS_MAX);
        elf->segments[elf->count++] = s;
    }
    return 0;
}

int elf_load(struct boot_job *j, const struct elf *elf, struct error *e)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *s = &elf->segments[i];
        if (s->type != PT_LOAD || s->memory_size == 0)
            continue;
        int r = layout_claim(&j->layout, s->physical, s->memory_size, "a segment of the kernel", e);
        if (r == 0)
            r = boot_put(j, s->physical, j->kernel->data + s->offset, s->file_size, e);
        if (r != 0)
            return r;
        uint64_t bss = s->physical + s->file_size;
        if (mem_fill(j->mem, GPA(bss), 0, s->memory_size - s->file_size) != 0)
            return error_set(e, EFAULT, "guest address 0x%llx is not RAM", (unsigned long long)bss);
    }
    return 0;
}

const struct elf_segment *elf_find_physical(const struct elf *elf, uint64_t address)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *s = &elf->segments[i];
        if (s->type == PT_LOAD && address - s->physical < s->memory_size)
            return s;
    }
    return NULL;
}

const struct elf_segment *elf_find_virtual(const struct elf *elf, uint64_t address)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *s = &elf->segments[i];
        if (s->type == PT_LOAD && address - s->virtual < s->memory_size)
            return s;
    }
    return NULL;
}
