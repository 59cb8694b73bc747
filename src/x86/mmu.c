/* SPDX-License-Identifier: MIT */
/*
 * The page walk, on every TLB miss: 32-bit (SDM 3A 4.3), PAE (4.4), 4-level and 5-level paging
 * (4.5). PAE paging is the lower two levels of 4-level paging under the four PDPTEs that the
 * processor holds; 32-bit paging has entries of its own form and a walk of its own.
 *
 * An access is decided in three steps, as the manual orders them: the entries are read top down,
 * and the first that is not present or has a reserved bit set ends the walk; then the rights of all
 * levels together are compared with the access (4.6); only then are A and D set (4.8), each by a
 * compare-and-swap on the value that was read. Another processor that changed an entry in between
 * makes the swap fail, and the walk begins again with what is there now.
 *
 * On the vCPU's thread. The guest controls the tables at every moment, so each entry is loaded
 * once.
 */
#include "x86/mmu.h"

/* Paging-structure entries (SDM 3A tables 4-14 to 4-20) */
#define PTE_P  (1ull << 0)
#define PTE_RW (1ull << 1)
#define PTE_US (1ull << 2)
#define PTE_A  (1ull << 5)
#define PTE_D  (1ull << 6)
#define PTE_PS (1ull << 7)
#define PTE_G  (1ull << 8)
#define PTE_XD (1ull << 63)

#define PTE_ADDRESS 0x000ffffffffff000ull
/* Between the PAT bit 12 and the page's address bits, of a 1 GiB and a 2 MiB page */
#define PDPTE_RESERVED 0x3fffe000ull
#define PDE_RESERVED   0x001fe000ull
/* Bits 62:52, which 4-level paging ignores, of PDEs and PTEs of PAE paging (SDM 3A table 4-9) */
#define PAE_RESERVED 0x7ff0000000000000ull

struct step {
    uint64_t at, value; /* of one entry */
};

static inline uint64_t physical_mask(const struct vcpu *v)
{
    return ((uint64_t)1 << v->platform->physical_address_bits) - 1;
}

static inline uint64_t reserved_bits(const struct vcpu *v)
{
    return (PTE_ADDRESS & ~physical_mask(v)) | ((v->efer & EFER_NXE) ? 0 : PTE_XD);
}

static uint32_t error_bits(const struct vcpu *v, enum mmu_access access, bool user)
{
    uint32_t code = user ? PF_USER : 0;
    if (access == MMU_WRITE)
        code |= PF_WRITE;
    bool nx = (v->efer & EFER_NXE) && (v->cr4 & CR4_PAE);
    if (access == MMU_FETCH && (nx || (v->cr4 & CR4_SMEP)))
        code |= PF_FETCH;
    return code;
}

/* Where a walk begins: the table of level `top`, and the bits reserved in every entry. */
struct root {
    uint64_t table, reserved;
    unsigned top;
};

/* Reads the entries from the root down to the leaf into steps[level]; returns the leaf's level (1 =
 * PTE, 2 = PDE, 3 = PDPTE) with the rights of all levels in *all_out and *any_out, or 0 with
 * PF_PRESENT and PF_RESERVED in *code. What is not RAM reads as all ones, as on the bus. */
static inline unsigned walk_tables(const struct vcpu *v, const struct root *root, uint64_t linear,
                                   struct step steps[6], uint64_t *all_out, uint64_t *any_out,
                                   uint32_t *code)
{
    const struct mem *mem = v->platform->mem;
    uint64_t table = root->table;
    uint64_t all = ~(uint64_t)0, any = 0;

    for (unsigned level = root->top;; level--) {
        uint64_t at = (table & ~v->a20_low) + ((linear >> (12 + 9 * (level - 1))) & 511) * 8;
        uint64_t entry;
        if (__builtin_expect(!mem_load64(mem, GPA(at), &entry), 0))
            entry = ~(uint64_t)0;
        steps[level] = (struct step){at, entry};
        if (!(entry & PTE_P)) {
            *code = 0;
            return 0;
        }
        bool leaf = level == 1 || (level <= 3 && (entry & PTE_PS));
        uint64_t bad = root->reserved;
        if (level >= 4)
            bad |= PTE_PS;
        else if (leaf && level > 1)
            bad |= level == 3 ? PDPTE_RESERVED : PDE_RESERVED;
        if (__builtin_expect((entry & bad) != 0, 0)) {
            *code = PF_PRESENT | PF_RESERVED;
            return 0;
        }
        all &= entry;
        any |= entry;
        if (leaf) {
            *all_out = all;
            *any_out = any;
            return level;
        }
        table = entry & PTE_ADDRESS;
    }
}

/* SDM 3A 4.6.1. */
static inline bool permitted(const struct vcpu *v, const struct mmu_page *p, enum mmu_access access,
                             bool user, bool ac)
{
    if (user) {
        if (!p->user)
            return false;
    } else if (p->user) {
        if (access == MMU_FETCH ? (v->cr4 & CR4_SMEP) != 0 : (v->cr4 & CR4_SMAP) && !ac)
            return false;
    }
    if (access == MMU_WRITE)
        return p->writable || (!user && !(v->cr0 & CR0_WP));
    return access != MMU_FETCH || !p->no_execute;
}

/* Sets A in every entry used and D in the leaf of a write. false = an entry has changed. */
static inline bool set_accessed_dirty(struct vcpu *v, struct step steps[6], unsigned top,
                                      unsigned leaf, enum mmu_access access)
{
    for (unsigned level = top; level >= leaf; level--) {
        uint64_t want = PTE_A;
        if (level == leaf && access == MMU_WRITE)
            want |= PTE_D;
        uint64_t value = steps[level].value;
        if (__builtin_expect((value & want) == want, 1))
            continue;
        if (!mem_cas64(v->platform->mem, GPA(steps[level].at), &value, value | want))
            return false;
        steps[level].value |= want;
    }
    return true;
}

static inline void describe(uint64_t linear, unsigned level, uint64_t leaf, uint64_t all,
                            uint64_t any, struct mmu_page *out)
{
    uint64_t size = (uint64_t)MEM_PAGE_SIZE << (9 * (level - 1));
    /* Bit 12 of a large page's entry is PAT; it lies below the page's address bits. */
    out->physical = (leaf & PTE_ADDRESS & ~(size - 1)) | (linear & (size - 1) & MEM_PAGE_MASK);
    out->page_size = size;
    out->global = (leaf & PTE_G) != 0;
    out->user = (all & PTE_US) != 0;
    out->writable = (all & PTE_RW) != 0;
    out->no_execute = (any & PTE_XD) != 0;
    out->dirty = (leaf & PTE_D) != 0;
}

static void identity(const struct vcpu *v, uint64_t linear, struct mmu_page *out)
{
    *out = (struct mmu_page){.physical = linear & MEM_PAGE_MASK & ~v->a20_low,
                             .page_size = MEM_PAGE_SIZE,
                             .user = true,
                             .writable = true,
                             .dirty = true};
}

/* CR3, or with PAE paging one of the PDPTEs; false = that one is not present. */
static inline bool find_root(const struct vcpu *v, uint64_t linear, struct root *root)
{
    root->reserved = reserved_bits(v);
    if (__builtin_expect((v->efer & EFER_LMA) != 0, 1)) {
        root->top = (v->cr4 & CR4_LA57) ? 5 : 4;
        root->table = v->cr3 & PTE_ADDRESS & physical_mask(v);
        return true;
    }
    uint64_t pdpte = v->pae_pdpte[(linear >> 30) & 3];
    root->top = 2;
    root->table = pdpte & PTE_ADDRESS & physical_mask(v);
    root->reserved |= PAE_RESERVED;
    return pdpte & PTE_P;
}

/* ---- 32-bit paging ---- */

/* PDEs of 4 MiB pages have address bits 39:32 in bits 20:13, as far as there are any; above them
 * everything up to bit 21 is reserved (SDM 3A table 4-4, PSE-36). */
static uint32_t pde32_reserved(const struct vcpu *v)
{
    unsigned bits = v->platform->physical_address_bits;
    unsigned high = bits <= 32 ? 0 : bits >= 40 ? 8 : bits - 32;
    return 0x3fe000u & ~(((1u << high) - 1) << 13);
}

static uint32_t load32(const struct vcpu *v, uint64_t at)
{
    uint32_t entry;
    return mem_load32(v->platform->mem, GPA(at), &entry) ? entry : UINT32_MAX;
}

/* As walk_tables, with the page described: 0, 1 (4 KiB) or 2 (4 MiB). */
static unsigned walk_32(const struct vcpu *v, uint64_t linear, struct step steps[6],
                        struct mmu_page *out, uint32_t *code)
{
    uint64_t at = (v->cr3 & 0xfffff000 & ~v->a20_low) + (linear >> 22 & 0x3ff) * 4;
    uint32_t pde = load32(v, at), leaf = pde, all = pde;
    unsigned level = 2;

    *code = 0;
    steps[2] = (struct step){at, pde};
    if (!(pde & PTE_P))
        return 0;
    if (!(pde & PTE_PS) || !(v->cr4 & CR4_PSE)) {
        at = (pde & 0xfffff000 & ~v->a20_low) + (linear >> 12 & 0x3ff) * 4;
        leaf = load32(v, at);
        steps[1] = (struct step){at, leaf};
        if (!(leaf & PTE_P))
            return 0;
        all &= leaf;
        level = 1;
    } else if (pde & pde32_reserved(v)) {
        *code = PF_PRESENT | PF_RESERVED;
        return 0;
    }
    *out = (struct mmu_page){
        .physical = level == 1 ? leaf & 0xfffff000
                               : (leaf & 0xffc00000) | (uint64_t)(leaf & 0x1fe000) << 19 |
                                     (linear & 0x3ff000),
        .page_size = level == 1 ? MEM_PAGE_SIZE : MMU_PAGE_4M,
        .global = (leaf & PTE_G) != 0,
        .user = (all & PTE_US) != 0,
        .writable = (all & PTE_RW) != 0,
        .dirty = (leaf & PTE_D) != 0,
    };
    return level;
}

static bool set_accessed_dirty_32(struct vcpu *v, const struct step steps[6], unsigned leaf,
                                  enum mmu_access access)
{
    for (unsigned level = 2; level >= leaf; level--) {
        uint32_t value = (uint32_t)steps[level].value, want = PTE_A;
        if (level == leaf && access == MMU_WRITE)
            want |= PTE_D;
        if ((value & want) != want &&
            !mem_cas32(v->platform->mem, GPA(steps[level].at), &value, value | want))
            return false;
    }
    return true;
}

static __attribute__((noinline)) bool mmu_walk_32(struct vcpu *v, uint64_t linear,
                                                  enum mmu_access access, bool user, bool ac,
                                                  struct mmu_page *out, uint32_t *fault_code)
{
    struct step steps[6];
    unsigned leaf;

    do {
        v->counters.page_walks++;
        leaf = walk_32(v, linear, steps, out, fault_code);
        if (leaf == 0) {
            *fault_code |= error_bits(v, access, user);
            return false;
        }
        if (!permitted(v, out, access, user, ac)) {
            *fault_code = PF_PRESENT | error_bits(v, access, user);
            return false;
        }
    } while (!set_accessed_dirty_32(v, steps, leaf, access));
    out->physical &= ~v->a20_low;
    out->dirty |= access == MMU_WRITE;
    return true;
}

static inline bool is_32bit(const struct vcpu *v)
{
    return !(v->cr4 & CR4_PAE);
}

/* ---- all formats ---- */

bool mmu_walk(struct vcpu *v, uint64_t linear, enum mmu_access access, bool user, bool ac,
              struct mmu_page *out, uint32_t *fault_code)
{
    struct step steps[6];
    struct root root;
    uint64_t all, any;
    unsigned leaf;

    *fault_code = 0;
    if (__builtin_expect(!(v->cr0 & CR0_PG), 0)) {
        identity(v, linear, out);
        return true;
    }
    if (__builtin_expect(is_32bit(v), 0))
        return mmu_walk_32(v, linear, access, user, ac, out, fault_code);

    do {
        v->counters.page_walks++;
        leaf = 0;
        if (find_root(v, linear, &root))
            leaf = walk_tables(v, &root, linear, steps, &all, &any, fault_code);
        if (leaf == 0) {
            *fault_code |= error_bits(v, access, user);
            return false;
        }
        describe(linear, leaf, steps[leaf].value, all, any, out);
        if (!permitted(v, out, access, user, ac)) {
            *fault_code = PF_PRESENT | error_bits(v, access, user);
            return false;
        }
    } while (__builtin_expect(!set_accessed_dirty(v, steps, root.top, leaf, access), 0));
    out->physical &= ~v->a20_low;
    out->dirty = (steps[leaf].value & PTE_D) != 0;
    return true;
}

bool mmu_translate_debug(struct vcpu *v, uint64_t linear, uint64_t *physical)
{
    struct step steps[6];
    struct mmu_page page;
    struct root root;
    uint64_t all, any;
    uint32_t code;

    if (!(v->cr0 & CR0_PG)) {
        *physical = linear & ~v->a20_low;
        return true;
    }
    if (is_32bit(v)) {
        if (walk_32(v, linear, steps, &page, &code) == 0)
            return false;
    } else {
        if (!find_root(v, linear, &root))
            return false;
        unsigned leaf = walk_tables(v, &root, linear, steps, &all, &any, &code);
        if (leaf == 0)
            return false;
        describe(linear, leaf, steps[leaf].value, all, any, &page);
    }
    *physical = page.physical | (linear & ~MEM_PAGE_MASK);
    return true;
}
