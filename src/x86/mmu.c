/* SPDX-License-Identifier: MIT */
/*
 * The page walk of 4-level and 5-level paging (SDM 3A 4.5), on every TLB miss.
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

#include <stdio.h>

#include "base/error.h"

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
    if (access == MMU_FETCH && ((v->efer & EFER_NXE) || (v->cr4 & CR4_SMEP)))
        code |= PF_FETCH;
    return code;
}

static bool unsupported(struct vcpu *v)
{
    if (v->activity != VCPU_SHUTDOWN) {
        vcpu_count_unsupported(v, (v->cr4 & CR4_PAE) ? "PAE paging" : "32-bit paging");
        log_error("the guest turned on %s outside long mode, which is not supported: vCPU %u is "
                  "shut down at rip %#llx",
                  v->unsupported, v->id, (unsigned long long)v->rip);
        v->activity = VCPU_SHUTDOWN;
    }
    return false;
}

/* Reads the entries from CR3 down to the leaf into steps[level]; returns the leaf's level (1 = PTE,
 * 2 = PDE, 3 = PDPTE) with the rights of all levels in *all_out and *any_out, or 0 with PF_PRESENT
 * and PF_RESERVED in *code. What is not RAM reads as all ones, as on the bus. */
static inline unsigned walk_tables(const struct vcpu *v, uint64_t linear, struct step steps[6],
                                   uint64_t *all_out, uint64_t *any_out, uint32_t *code)
{
    const struct mem *mem = v->platform->mem;
    uint64_t reserved = reserved_bits(v);
    uint64_t table = v->cr3 & PTE_ADDRESS & physical_mask(v);
    uint64_t all = ~(uint64_t)0, any = 0;

    for (unsigned level = (v->cr4 & CR4_LA57) ? 5 : 4;; level--) {
        uint64_t at = table + ((linear >> (12 + 9 * (level - 1))) & 511) * 8;
        uint64_t entry;
        if (__builtin_expect(!mem_load64(mem, GPA(at), &entry), 0))
            entry = ~(uint64_t)0;
        steps[level] = (struct step){at, entry};
        if (!(entry & PTE_P)) {
            *code = 0;
            return 0;
        }
        bool leaf = level == 1 || (level <= 3 && (entry & PTE_PS));
        uint64_t bad = reserved;
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
static inline bool set_accessed_dirty(struct vcpu *v, struct step steps[6], unsigned leaf,
                                      enum mmu_access access)
{
    for (unsigned level = (v->cr4 & CR4_LA57) ? 5 : 4; level >= leaf; level--) {
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

static void identity(uint64_t linear, struct mmu_page *out)
{
    *out = (struct mmu_page){.physical = linear & MEM_PAGE_MASK,
                             .page_size = MEM_PAGE_SIZE,
                             .user = true,
                             .writable = true,
                             .dirty = true};
}

bool mmu_walk(struct vcpu *v, uint64_t linear, enum mmu_access access, bool user, bool ac,
              struct mmu_page *out, uint32_t *fault_code)
{
    struct step steps[6];
    uint64_t all, any;
    unsigned leaf;

    *fault_code = 0;
    if (__builtin_expect(!(v->cr0 & CR0_PG), 0)) {
        identity(linear, out);
        return true;
    }
    if (__builtin_expect(!(v->efer & EFER_LMA), 0))
        return unsupported(v);

    do {
        v->counters.page_walks++;
        leaf = walk_tables(v, linear, steps, &all, &any, fault_code);
        if (leaf == 0) {
            *fault_code |= error_bits(v, access, user);
            return false;
        }
        describe(linear, leaf, steps[leaf].value, all, any, out);
        if (!permitted(v, out, access, user, ac)) {
            *fault_code = PF_PRESENT | error_bits(v, access, user);
            return false;
        }
    } while (__builtin_expect(!set_accessed_dirty(v, steps, leaf, access), 0));
    out->dirty = (steps[leaf].value & PTE_D) != 0;
    return true;
}

bool mmu_translate_debug(struct vcpu *v, uint64_t linear, uint64_t *physical)
{
    struct step steps[6];
    struct mmu_page page;
    uint64_t all, any;
    uint32_t code;

    if (!(v->cr0 & CR0_PG)) {
        *physical = linear;
        return true;
    }
    if (!(v->efer & EFER_LMA))
        return false;
    unsigned leaf = walk_tables(v, linear, steps, &all, &any, &code);
    if (leaf == 0)
        return false;
    describe(linear, leaf, steps[leaf].value, all, any, &page);
    *physical = page.physical | (linear & ~MEM_PAGE_MASK);
    return true;
}
