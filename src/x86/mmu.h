/* SPDX-License-Identifier: MIT */
/* The page walk (SDM 3A chapter 4): 32-bit, PAE, 4-level and 5-level paging. */
#ifndef DOPPEL_X86_MMU_H
#define DOPPEL_X86_MMU_H

#include "x86/vcpu.h"

#define MMU_PAGE_4M (4u << 20)

enum mmu_access { MMU_READ, MMU_WRITE, MMU_FETCH };

struct mmu_page {
    uint64_t physical;  /* of the 4 KiB page that holds the address */
    uint64_t page_size; /* 4 KiB, 2 MiB, 1 GiB, or MMU_PAGE_4M: of the mapping */
    bool global;
    bool user;     /* U/S of all levels: a user page */
    bool writable; /* R/W of all levels */
    bool no_execute;
    bool dirty; /* D after this walk */
};

/* Translates for one access; user = the access is a user access. Sets A (and D for a write) by
 * compare-and-swap on the value walked (decision 8). Returns 0, or the page-fault error code (of
 * which every value, even 0 = not present read, is an error when *fault is set). With paging off
 * the address maps to itself. `ac` lifts SMAP. */
bool mmu_walk(struct vcpu *v, uint64_t linear, enum mmu_access access, bool user, bool ac,
              struct mmu_page *out, uint32_t *fault_code);

/* For debuggers and dumps: no A/D, no permission. false = not mapped. */
bool mmu_translate_debug(struct vcpu *v, uint64_t linear, uint64_t *physical);

#endif
