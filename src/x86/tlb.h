/* SPDX-License-Identifier: MIT */
/*
 * The software TLB and the guest's accesses to linear addresses (SDM 3A 4.10).
 *
 * Three TLBs, one per reach: what a user access, a supervisor access, and a supervisor access that
 * SMAP does not stop (RFLAGS.AC, or SMAP off) may touch. A tag is the linear page address with the
 * address-space number (asid) in its low 12 bits: a new asid forgets an address space in O(1), and
 * PCIDs keep theirs. An entry serves reads, writes and fetches each by its own tag, which is
 * TLB_NONE where that access must take the slow path: MMIO, ROM writes, pages that hold decoded
 * code (write), a page whose D bit is clear (write), pages with an armed data breakpoint.
 *
 * A vCPU's TLB is written only by its own thread (decision 9).
 *
 * Fast path: tag equal and the access within the page -> one host access of the guest's width at
 * addend + linear address. Everything else: tlb_load_slow and friends, which walk, set A/D, cross
 * pages (both checked before either is written), reach devices through the gate, or raise.
 */
#ifndef DOPPEL_X86_TLB_H
#define DOPPEL_X86_TLB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct vcpu;

enum tlb_reach {
    REACH_USER,
    REACH_SUPERVISOR,
    REACH_SUPERVISOR_AC,
    REACH_USER_ALIGNED, /* a user access under alignment checks: no entries, always the slow path */
    REACH_COUNT
};

#define TLB_ENTRIES     1024u
#define TLB_GLOBAL      4u
#define TLB_EPOCH_SHIFT 3u
#define TLB_EPOCHS      512u
#define TLB_LARGE_WORDS 8u /* of 64 bits */
#define TLB_FETCHED     (64u << 10)
#define TLB_NONE        UINT64_MAX /* no page | asid is this: asid 0xfff is never used */
#define TLB_PCIDS       8u         /* address spaces whose asid is remembered */

struct tlb_entry {
    uint64_t read, write, fetch; /* tags */
    uintptr_t addend;            /* host page - linear page */
};

/*
 * The same once more for machine code: engines that translate look here first. No address-space
 * number, so one addition and one unsigned comparison decide: linear + negative_page is the offset
 * in the page when the entry is this page's, and at least 4096 otherwise. Holds nothing that
 * `entries` could not give at the time; every way to forget is followed here.
 *
 * `slots` are copies that the engine makes of `fast` entries under indices of its own choice, by
 * the place in the code rather than by the address: it may do so at any time, setting slots_used.
 */
struct tlb_fast {
    uint64_t negative_page; /* - linear page; of an empty entry, a page that belongs elsewhere */
    uint64_t addend;        /* host page - linear page */
};

#define TLB_FAST_ENTRIES 4096u
#define TLB_FAST_LOG     2048u /* entries filled since the last flush; more: all are emptied */
#define TLB_FAST_REACHES REACH_USER_ALIGNED
#define TLB_FAST_PAGES   (16u << 10)
#define TLB_FAST_NOTED   2048u /* more: the filter is full of pages that went long ago */
#define TLB_SLOTS        4096u
#define TLB_SLOT_LOG     4096u
#define TLB_SLOT_KEPT    4096u
/* Of an empty slot, with an addend of 0: only addresses that are not canonical match, and those the
 * host's processor refuses as well. */
#define TLB_SLOT_EMPTY 0x4000000000000000u

struct tlb {
    struct tlb_entry entries[REACH_COUNT][TLB_ENTRIES];
    struct tlb_fast fast[TLB_FAST_REACHES][2][TLB_FAST_ENTRIES]; /* by reach and write */
    struct tlb_fast slots[TLB_FAST_REACHES][2][TLB_SLOTS];
    /* Filled since they were emptied, by whether the page is global: MOV CR3 leaves those alone. */
    struct tlb_fast *fast_log[2][TLB_FAST_LOG];
    unsigned fast_filled[2];
    /* Byte offsets in `slots` of those filled since they were emptied; slots_filled counts in bytes
     * of the log, which goes round: more than it holds means any. */
    uint32_t slot_log[TLB_SLOT_LOG];
    uint32_t slots_filled;
    uint32_t slot_kept[TLB_SLOT_KEPT]; /* that outlived a MOV CR3 */
    unsigned slots_kept;
    /* Pages, by hash, that slots held when the first slots_noted bytes of the log were looked at.
     */
    uint64_t slot_pages[TLB_FAST_PAGES / 64];
    uint32_t slots_noted;
    /* Pages, by hash, that `fast` was filled for since they were emptied: INVLPG of another need
     * not look for it. */
    uint64_t fast_pages[TLB_FAST_PAGES / 64];
    unsigned fast_noted; /* times that one was noted since it was made anew */
    /* Pages, by two hashes, that a fetch translation was given out of since fetch_generation moved
     * for all. */
    uint64_t fetched[TLB_FETCHED / 64];
    uint64_t asid; /* of the current address space, 0…0xffe */
    uint64_t next_asid;
    struct {
        uint16_t pcid;
        bool valid;
        uint64_t asid;
    } spaces[TLB_PCIDS];
    uint32_t next_space;
    /* Where pages larger than 4 KiB may be, by hash of each size's page number: INVLPG there looks
     * for every piece of a large page (which goes as one, SDM 3A 4.10.4.1). By the mark, as below.
     */
    uint64_t large[4][TLB_LARGE_WORDS];
    /* Physical page of each entry, and in its low bits the mapping: 0 = 4 KiB, 1 = 2 MiB, 2 = 1
     * GiB, 3 = 4 MiB, TLB_GLOBAL, and the epoch, for an entry of a global page is good in every
     * space until all is flushed. Apart from the entries, for only fills, fetches and INVLPG need
     * it. */
    uint64_t physical[REACH_COUNT][TLB_ENTRIES];
    unsigned epoch;
    uint64_t fetch_generation;  /* moves whenever a cached fetch translation may have gone */
    uint64_t global_generation; /* … one of a global page too */
    /* Page handed out last by the slow path of tlb_pointer_rmw, for tlb_pointer_wrote; NULL flags
     * when the fast path served it. */
    _Atomic uint8_t *rmw_flags;
    uint64_t rmw_physical;
};

void tlb_init(struct tlb *t);
/* All of it, global pages too: MOV CR0/CR4, WRMSR EFER, reset, and MOV to DR0-DR3 or DR7 when a
 * data breakpoint is or was armed (its page must lose its fast tags). */
void tlb_flush_all(struct vcpu *v);
/* MOV CR3 (after cr3 was replaced): keep = bit 63 was set under CR4.PCIDE. */
void tlb_switch_space(struct vcpu *v, bool keep);
void tlb_invlpg(struct vcpu *v, uint64_t linear);
/* INVPCID types 0 to 3 (SDM 2A); operands were checked. */
void tlb_invpcid(struct vcpu *v, unsigned type, uint16_t pcid, uint64_t linear);
/* The physical page at `host` may no longer be written by the fast path (it now holds code). */
void tlb_protect_page(struct vcpu *v, const uint8_t *host_page);

/* With the bits above: the operands of a copy often lie a power of two apart. */
static inline unsigned tlb_index(uint64_t linear)
{
    return (unsigned)(linear >> 12 ^ linear >> 22) & (TLB_ENTRIES - 1);
}

static inline struct tlb_entry *tlb_entry_of(struct tlb *t, enum tlb_reach reach, uint64_t linear)
{
    return &t->entries[reach][tlb_index(linear)];
}

static inline uint64_t tlb_tag(const struct tlb *t, uint64_t linear)
{
    return (linear & ~(uint64_t)0xfff) | t->asid;
}

/* #AC(0) under REACH_USER_ALIGNED when linear is not a multiple of alignment, a power of two
 * (SDM 3A 6.15). To be called before the access: #AC comes before #PF on Intel's processors. */
void tlb_check_alignment(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned alignment);

/* Slow paths; size is 1, 2, 4 or 8. They raise #PF, and #AC under REACH_USER_ALIGNED as does
 * tlb_pointer_rmw, but #GP(0)/#SS(0) never (canonical and segment checks are the caller's, done on
 * the effective address). Operands by bytes and probes have alignment rules of their own, the
 * caller's. */
uint64_t tlb_load_slow(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned size);
void tlb_store_slow(struct vcpu *v, enum tlb_reach reach, uint64_t linear, uint64_t value,
                    unsigned size);

/* Any length up to 4096: for vector operands, XSAVE areas, descriptors. Checks all pages before the
 * first byte is written. Not single-copy atomic above 8 bytes (nor is the hardware). */
void tlb_read_bytes(struct vcpu *v, enum tlb_reach reach, uint64_t linear, void *out, unsigned n);
void tlb_write_bytes(struct vcpu *v, enum tlb_reach reach, uint64_t linear, const void *bytes,
                     unsigned n);

/* A host pointer for a read-modify-write of `size` bytes (1 to 64) that lies within one page of RAM
 * and may be written, for LOCK by the host's LOCK; the page walk has set A and D. NULL when it
 * crosses a page or is not plain RAM: then tlb_probe_write, load, store under x86_lock_split.
 * `wrote` must be called with the pointer after the store (dirty and code flags). Raises #PF. */
void *tlb_pointer_rmw(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned size);
void tlb_pointer_wrote(struct vcpu *v, void *host, unsigned size);

/* To be called now and then by who fills slots, before slots_filled can have gone round. */
static inline void tlb_slots_limit(struct tlb *t)
{
    if (t->slots_filled > sizeof(t->slot_log))
        t->slots_filled = 2 * sizeof(t->slot_log);
}

/* Makes the fast entry of `linear` serve an access of n bytes within one page; false when it cannot
 * (a device, ROM, code or a watched page under a write, a page crossing): then the access must go
 * another way. Raises #PF unless `quiet`, which only looks at what is cached. */
bool tlb_fast_fill(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned n, bool write,
                   bool quiet);

/* Raises as a write (or read) of n bytes would, and changes nothing but A/D bits. */
void tlb_probe(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned n, bool write);

/* The instruction fetch: the host page of the linear page and its guest-physical address; raises
 * #PF with the fetch bit. NULL when the page is not RAM or ROM (the caller fetches bytes through
 * the gate or raises). `physical` may be NULL. */
const uint8_t *tlb_fetch_page(struct vcpu *v, uint64_t linear, uint64_t *physical);
/* Whether the page that tlb_fetch_page gave last for `linear` is known to be global: MOV CR3 does
 * not change what is fetched there. */
bool tlb_fetch_is_global(struct vcpu *v, uint64_t linear);

#endif
