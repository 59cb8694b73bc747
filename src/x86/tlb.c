/* SPDX-License-Identifier: MIT */
/*
 * Filling and forgetting the software TLB, and every access that its fast path cannot serve; see
 * tlb.h. On the vCPU's own thread.
 *
 * Global pages (SDM 3A 4.10.2.4): an entry is tagged with the space it was filled in, global or
 * not; a miss in another space takes a global one over. INVLPG forgets a global page in every
 * space. So invalidation by address ignores the space in the tag; the index depends on the address
 * alone, so it is one entry for each reach.
 *
 * Large pages: an entry holds 4 KiB of one. INVLPG must forget all of its pieces, and the tables
 * may by then say something else, so each entry remembers the size of the mapping it came from.
 */
#include "x86/tlb_fast.h"

#include "engine/gate.h"
#include "x86/access.h"
#include "x86/mmu.h"

#define ASID_END 0xfffu /* with it a tag could equal TLB_NONE */

/* One page as an access sees it. */
struct target {
    uint8_t *host;     /* of the page; NULL = a device or nothing */
    uint64_t physical; /* of the page */
    _Atomic uint8_t *flags;
};

/* Whatever was found by fetch translations may be something else now. */
static void fetches_forget(struct tlb *t)
{
    t->fetch_generation++;
    t->global_generation++;
    memset(t->fetched, 0, sizeof(t->fetched));
}

static inline unsigned fetched_bit(uint64_t linear)
{
    return (unsigned)(linear >> 12 ^ linear >> 28) & (TLB_FETCHED - 1);
}

static inline unsigned fetched_other_bit(uint64_t linear)
{
    return (unsigned)((linear >> 12) * 0x9e3779b97f4a7c15u >> 48) & (TLB_FETCHED - 1);
}

static inline void note_fetched(struct tlb *t, uint64_t linear)
{
    unsigned i = fetched_bit(linear), k = fetched_other_bit(linear);
    t->fetched[i / 64] |= (uint64_t)1 << i % 64;
    t->fetched[k / 64] |= (uint64_t)1 << k % 64;
}

static inline bool was_fetched(const struct tlb *t, uint64_t linear)
{
    unsigned i = fetched_bit(linear), k = fetched_other_bit(linear);
    return (t->fetched[i / 64] >> i % 64 & 1) && (t->fetched[k / 64] >> k % 64 & 1);
}

void tlb_init(struct tlb *t)
{
    tlb_fast_init(t);
    memset(t->entries, 0xff, sizeof(t->entries)); /* every tag TLB_NONE */
    memset(t->spaces, 0, sizeof(t->spaces));
    memset(t->physical, 0, sizeof(t->physical));
    t->asid = 0;
    t->next_asid = 1;
    t->next_space = 0;
    memset(t->large, 0, sizeof(t->large));
    t->rmw_flags = NULL;
    fetches_forget(t);
}

/* An asid that no entry carries. */
static uint64_t fresh_asid(struct tlb *t)
{
    if (t->next_asid == ASID_END) {
        tlb_init(t);
        t->next_asid = 0;
    }
    return t->next_asid++;
}

static int space_of(const struct tlb *t, uint16_t pcid)
{
    for (unsigned i = 0; i < TLB_PCIDS; i++)
        if (t->spaces[i].valid && t->spaces[i].pcid == pcid)
            return (int)i;
    return -1;
}

/* Gives the current address space an asid that nothing was cached under. */
static void enter_fresh_space(struct vcpu *v)
{
    struct tlb *t = &v->tlb;
    uint16_t pcid = v->cr3 & 0xfff;

    t->asid = fresh_asid(t);
    tlb_fast_leave_space(t);
    t->fetch_generation++;
    v->counters.tlb_flushes++;
    if (!(v->cr4 & CR4_PCIDE))
        return;
    int i = space_of(t, pcid);
    for (unsigned n = 0; i < 0 && n < TLB_PCIDS; n++)
        if (!t->spaces[n].valid)
            i = (int)n;
    if (i < 0)
        i = (int)(t->next_space++ % TLB_PCIDS);
    t->spaces[i].pcid = pcid;
    t->spaces[i].valid = true;
    t->spaces[i].asid = t->asid;
}

void tlb_flush_all(struct vcpu *v)
{
    memset(v->tlb.spaces, 0, sizeof(v->tlb.spaces));
    memset(v->tlb.large, 0, sizeof(v->tlb.large));
    v->tlb.epoch = (v->tlb.epoch + 1) % TLB_EPOCHS;
    if (v->tlb.epoch == 0) /* none may be left from the last time */
        memset(v->tlb.entries, 0xff, sizeof(v->tlb.entries));
    tlb_fast_flush(&v->tlb);
    fetches_forget(&v->tlb);
    enter_fresh_space(v);
}

void tlb_switch_space(struct vcpu *v, bool keep)
{
    int i = keep && (v->cr4 & CR4_PCIDE) ? space_of(&v->tlb, v->cr3 & 0xfff) : -1;
    if (i < 0) {
        enter_fresh_space(v);
        return;
    }
    v->tlb.asid = v->tlb.spaces[i].asid;
    tlb_fast_leave_space(&v->tlb);
    v->tlb.fetch_generation++;
}

static inline void forget(struct tlb_entry *e)
{
    e->read = e->write = e->fetch = TLB_NONE;
}

/* The linear page an entry was filled for; TLB_NONE's when it holds nothing. */
static inline uint64_t entry_page(const struct tlb_entry *e)
{
    uint64_t tag = e->read != TLB_NONE ? e->read : e->write != TLB_NONE ? e->write : e->fetch;
    return tag & MEM_PAGE_MASK;
}

/* By the mark in tlb.physical. */
static const uint64_t large_size[4] = {0, 2u << 20, 1u << 30, MMU_PAGE_4M};

static unsigned large_mark(uint64_t page_size)
{
    unsigned mark = 0;
    if (page_size != MEM_PAGE_SIZE)
        for (mark = 1; large_size[mark] != page_size;)
            mark++;
    return mark;
}

static unsigned large_bit(uint64_t linear, unsigned mark)
{
    return (unsigned)(linear / large_size[mark] % (64 * TLB_LARGE_WORDS));
}

static void note_large(struct tlb *t, uint64_t linear, unsigned mark)
{
    unsigned bit = large_bit(linear, mark);
    t->large[mark][bit / 64] |= (uint64_t)1 << bit % 64;
}

static bool may_be_large(const struct tlb *t, uint64_t linear)
{
    for (unsigned mark = 1; mark < 4; mark++) {
        unsigned bit = large_bit(linear, mark);
        if (t->large[mark][bit / 64] >> bit % 64 & 1)
            return true;
    }
    return false;
}

/* Forgets the pieces of the large page that linear lies in, in every space. */
static void forget_large(struct tlb *t, uint64_t linear)
{
    for (unsigned reach = 0; reach < REACH_COUNT; reach++) {
        for (unsigned i = 0; i < TLB_ENTRIES; i++) {
            unsigned large = t->physical[reach][i] & 3;
            if (large == 0)
                continue;
            uint64_t mask = ~(large_size[large] - 1);
            if (((entry_page(&t->entries[reach][i]) ^ linear) & mask) == 0)
                forget(&t->entries[reach][i]);
        }
    }
}

void tlb_invlpg(struct vcpu *v, uint64_t linear)
{
    struct tlb *t = &v->tlb;
    for (unsigned reach = 0; reach < REACH_COUNT; reach++) {
        struct tlb_entry *e = tlb_entry_of(t, (enum tlb_reach)reach, linear);
        if (entry_page(e) == (linear & MEM_PAGE_MASK))
            forget(e);
    }
    tlb_fast_forget_page(t, linear);
    if (may_be_large(t, linear)) {
        forget_large(t, linear);
        tlb_fast_flush(t);
        fetches_forget(t);
    } else if (was_fetched(t, linear)) {
        fetches_forget(t);
    }
}

void tlb_invpcid(struct vcpu *v, unsigned type, uint16_t pcid, uint64_t linear)
{
    switch (type) {
    case 0:
        tlb_invlpg(v, linear);
        break;
    case 1: {
        uint16_t current = (v->cr4 & CR4_PCIDE) ? v->cr3 & 0xfff : 0;
        int i = space_of(&v->tlb, pcid);
        if (pcid == current)
            enter_fresh_space(v);
        else if (i >= 0)
            v->tlb.spaces[i].valid = false;
        break;
    }
    default: /* 2: all; 3: all but global pages, which may go as well */
        tlb_flush_all(v);
        break;
    }
}

void tlb_protect_page(struct vcpu *v, const uint8_t *host_page)
{
    for (unsigned reach = 0; reach < REACH_COUNT; reach++) {
        for (unsigned i = 0; i < TLB_ENTRIES; i++) {
            struct tlb_entry *e = &v->tlb.entries[reach][i];
            if (e->write != TLB_NONE &&
                e->addend + (e->write & MEM_PAGE_MASK) == (uintptr_t)host_page)
                e->write = TLB_NONE;
        }
    }
    tlb_fast_protect(&v->tlb, host_page);
}

/* Data breakpoints (SDM 3B 17.2.4): length of DRn in bytes, 0 when it is not armed for data. */
static unsigned watch_length(const struct vcpu *v, unsigned n)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};
    unsigned control = (v->dr7 >> (16 + 4 * n)) & 15;
    bool armed = (v->dr7 >> (2 * n)) & 3;
    return armed && (control & 1) ? lengths[control >> 2] : 0;
}

static bool page_watched(const struct vcpu *v, uint64_t linear)
{
    for (unsigned n = 0; n < 4; n++)
        if (watch_length(v, n) != 0 && ((v->dr[n] ^ linear) & MEM_PAGE_MASK) == 0)
            return true;
    return false;
}

/* After the access can no longer fault: notes the breakpoints it meets. */
static void watch(struct vcpu *v, uint64_t linear, unsigned n, bool write)
{
    if (X86_LIKELY((v->dr7 & DR7_ENABLED) == 0))
        return;
    for (unsigned i = 0; i < 4; i++) {
        unsigned length = watch_length(v, i);
        bool writes_only = ((v->dr7 >> (16 + 4 * i)) & 3) == 1;
        if (length == 0 || (writes_only && !write))
            continue;
        uint64_t first = v->dr[i] & ~(uint64_t)(length - 1);
        if (linear - first < length || first - linear < n)
            v->debug_pending |= (uint64_t)1 << i;
    }
}

static inline bool is_user(enum tlb_reach reach)
{
    return reach == REACH_USER || reach == REACH_USER_ALIGNED;
}

/* Which tags the page may have under this reach: SDM 3A 4.6.1 once more, in tlb.h's terms. */
static void fill(struct vcpu *v, enum tlb_reach reach, uint64_t linear, const struct mmu_page *p,
                 const struct target *target)
{
    struct tlb *t = &v->tlb;
    struct tlb_entry *e = tlb_entry_of(t, reach, linear);
    uint64_t tag = tlb_tag(t, linear);
    uint8_t flags = atomic_load_explicit(target->flags, memory_order_relaxed);
    bool user = is_user(reach);
    bool read = user ? p->user : !p->user || reach == REACH_SUPERVISOR_AC || !(v->cr4 & CR4_SMAP);
    bool write = read && (p->writable || (!user && !(v->cr0 & CR0_WP)));
    bool fetch = !p->no_execute && (user ? p->user : !p->user || !(v->cr4 & CR4_SMEP));

    if (!p->dirty || (flags & (MEM_PAGE_CODE | MEM_PAGE_ROM | MEM_PAGE_DIRTY)) != MEM_PAGE_DIRTY)
        write = false;
    if (X86_UNLIKELY((v->dr7 & DR7_ENABLED) != 0) && page_watched(v, linear))
        read = write = false;

    unsigned large = large_mark(p->page_size);
    if (large != 0)
        note_large(t, linear, large);
    e->read = read ? tag : TLB_NONE;
    e->write = write ? tag : TLB_NONE;
    e->fetch = fetch ? tag : TLB_NONE;
    e->addend = (uintptr_t)target->host - (uintptr_t)(linear & MEM_PAGE_MASK);
    bool global = p->global && (v->cr4 & CR4_PGE);
    t->physical[reach][tlb_index(linear)] =
        p->physical | large | (global ? TLB_GLOBAL : 0) | (uint64_t)t->epoch << TLB_EPOCH_SHIFT;
}

#define NOWHERE (UINT64_MAX & MEM_PAGE_MASK) /* beyond any physical address: no device has it */

/* A moved local APIC answers for its page in place of RAM, this vCPU's alone, and no more where it
 * was (SDM 3A 10.4.5). */
static void find_apic(const struct vcpu *v, struct target *t)
{
    if ((t->physical | 1) == v->apic_moved) {
        t->host = NULL;
        t->physical = X86_APIC_PAGE;
    } else if (t->physical == X86_APIC_PAGE) {
        t->physical = NOWHERE;
    }
}

static inline void take_over(uint64_t *tag, uint64_t current)
{
    if (*tag != TLB_NONE)
        *tag = current;
}

/* The entry is of this page, which is global, and was filled in another space: now it is this
 * one's. */
static bool revive_global(struct tlb *t, enum tlb_reach reach, uint64_t linear,
                          enum mmu_access access)
{
    struct tlb_entry *e = tlb_entry_of(t, reach, linear);
    uint64_t wanted = TLB_GLOBAL | (uint64_t)t->epoch << TLB_EPOCH_SHIFT;
    uint64_t mask = (MEM_PAGE_SIZE - 1) & ~(uint64_t)3;
    uint64_t tag = access == MMU_READ ? e->read : access == MMU_WRITE ? e->write : e->fetch;

    if (tag == TLB_NONE || ((tag ^ linear) & MEM_PAGE_MASK) != 0 ||
        (t->physical[reach][tlb_index(linear)] & mask) != wanted)
        return false;
    take_over(&e->read, tlb_tag(t, linear));
    take_over(&e->write, tlb_tag(t, linear));
    take_over(&e->fetch, tlb_tag(t, linear));
    return true;
}

/* Walks for one access, or raises #PF; fills the TLB when the page is RAM or ROM. */
static struct target resolve(struct vcpu *v, enum tlb_reach reach, uint64_t linear,
                             enum mmu_access access)
{
    struct mmu_page page;
    struct target target;
    uint32_t code;

    v->counters.tlb_misses++;
    if (revive_global(&v->tlb, reach, linear, access)) {
        target.physical = v->tlb.physical[reach][tlb_index(linear)] & MEM_PAGE_MASK;
        target.host = mem_page(v->platform->mem, GPA(target.physical), &target.flags);
        return target;
    }
    if (X86_UNLIKELY(!mmu_walk(v, linear, access, is_user(reach), reach == REACH_SUPERVISOR_AC,
                               &page, &code)))
        x86_raise_page_fault(v, linear, code);
    target.physical = page.physical;
    target.host = mem_page(v->platform->mem, GPA(page.physical), &target.flags);
    if (X86_UNLIKELY(v->apic_moved != 0))
        find_apic(v, &target);
    if (X86_LIKELY(target.host != NULL)) {
        if (access == MMU_WRITE && !(atomic_load_explicit(target.flags, memory_order_relaxed) &
                                     (MEM_PAGE_DIRTY | MEM_PAGE_ROM)))
            mem_page_dirty(v->platform->mem, GPA(page.physical), target.flags);
        if (X86_LIKELY(reach != REACH_USER_ALIGNED))
            fill(v, reach, linear, &page, &target);
    }
    return target;
}

/* Where the bytes after this page are. Outside 64-bit mode addresses wrap at 4 GiB. */
static inline uint64_t next_page(const struct vcpu *v, uint64_t linear)
{
    uint64_t next = (linear & MEM_PAGE_MASK) + MEM_PAGE_SIZE;
    return next == (uint64_t)1 << 32 && !v->code64 ? 0 : next;
}

/* The widest naturally aligned piece of at most 8 bytes. */
static inline unsigned piece(uint64_t address, unsigned n)
{
    unsigned size = 8;
    while (size > n || (address & (size - 1)) != 0)
        size >>= 1;
    return size;
}

static void copy_in(void *out, const uint8_t *host, unsigned n)
{
    uint8_t *to = out;
    while (n > 0) {
        unsigned size = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
        host_store(to, host_load(host, size), size);
        to += size;
        host += size;
        n -= size;
    }
}

static void read_target(struct vcpu *v, const struct target *t, unsigned offset, uint8_t *out,
                        unsigned n)
{
    if (t->host != NULL) {
        copy_in(out, t->host + offset, n);
        return;
    }
    while (n > 0) {
        unsigned size = piece(offset, n);
        host_store(out, gate_read(v, BUS_MMIO, t->physical + offset, size), size);
        out += size;
        offset += size;
        n -= size;
    }
}

static bool drop_rom_write(struct vcpu *v, const struct target *t)
{
    if (X86_LIKELY(!(atomic_load_explicit(t->flags, memory_order_relaxed) & MEM_PAGE_ROM)))
        return false;
    atomic_fetch_add_explicit(&v->platform->mem->rom_writes, 1, memory_order_relaxed);
    v->counters.exits[EXIT_ROM_WRITE]++;
    return true;
}

/* After a store by this vCPU. No fence is needed here: an engine that sets CODE waits until every
 * vCPU has passed a poll before it reads the bytes (decision 9). */
static inline void wrote(struct vcpu *v, const struct target *t)
{
    uint8_t flags = atomic_load_explicit(t->flags, memory_order_relaxed);
    if (X86_UNLIKELY((flags & (MEM_PAGE_CODE | MEM_PAGE_DIRTY)) != MEM_PAGE_DIRTY))
        mem_page_written(v->platform->mem, GPA(t->physical), t->flags);
}

static void write_target(struct vcpu *v, const struct target *t, unsigned offset,
                         const uint8_t *bytes, unsigned n)
{
    if (t->host != NULL) {
        if (!drop_rom_write(v, t)) {
            copy_in(t->host + offset, bytes, n);
            wrote(v, t);
        }
        return;
    }
    while (n > 0) {
        unsigned size = piece(offset, n);
        gate_write(v, BUS_MMIO, t->physical + offset, host_load(bytes, size), size);
        bytes += size;
        offset += size;
        n -= size;
    }
}

void tlb_check_alignment(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned alignment)
{
    if (X86_UNLIKELY(reach == REACH_USER_ALIGNED) && (linear & (alignment - 1)) != 0)
        x86_raise_error(v, VECTOR_AC, 0);
}

uint64_t tlb_load_slow(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned size)
{
    unsigned offset = linear & 0xfff;
    tlb_check_alignment(v, reach, linear, size);
    if (X86_UNLIKELY(offset > MEM_PAGE_SIZE - size)) {
        uint64_t value = 0;
        tlb_read_bytes(v, reach, linear, &value, size);
        return value;
    }
    struct target t = resolve(v, reach, linear, MMU_READ);
    watch(v, linear, size, false);
    if (X86_LIKELY(t.host != NULL))
        return host_load(t.host + offset, size);
    return gate_read(v, BUS_MMIO, t.physical + offset, size);
}

void tlb_store_slow(struct vcpu *v, enum tlb_reach reach, uint64_t linear, uint64_t value,
                    unsigned size)
{
    unsigned offset = linear & 0xfff;
    tlb_check_alignment(v, reach, linear, size);
    if (X86_UNLIKELY(offset > MEM_PAGE_SIZE - size)) {
        tlb_write_bytes(v, reach, linear, &value, size);
        return;
    }
    struct target t = resolve(v, reach, linear, MMU_WRITE);
    watch(v, linear, size, true);
    if (X86_UNLIKELY(t.host == NULL)) {
        gate_write(v, BUS_MMIO, t.physical + offset, value, size);
    } else if (!drop_rom_write(v, &t)) {
        host_store(t.host + offset, value, size);
        wrote(v, &t);
    }
}

void tlb_read_bytes(struct vcpu *v, enum tlb_reach reach, uint64_t linear, void *out, unsigned n)
{
    unsigned offset = linear & 0xfff;
    unsigned here = n <= MEM_PAGE_SIZE - offset ? n : MEM_PAGE_SIZE - offset;
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, reach, linear);

    if (X86_LIKELY(here == n && e->read == tlb_tag(&v->tlb, linear))) {
        copy_in(out, (const uint8_t *)(e->addend + linear), n);
        return;
    }
    struct target first = resolve(v, reach, linear, MMU_READ), second;
    uint64_t next = next_page(v, linear);
    if (here != n)
        second = resolve(v, reach, next, MMU_READ);
    watch(v, linear, here, false);
    read_target(v, &first, offset, out, here);
    if (here != n) {
        watch(v, next, n - here, false);
        read_target(v, &second, 0, (uint8_t *)out + here, n - here);
    }
}

void tlb_write_bytes(struct vcpu *v, enum tlb_reach reach, uint64_t linear, const void *bytes,
                     unsigned n)
{
    unsigned offset = linear & 0xfff;
    unsigned here = n <= MEM_PAGE_SIZE - offset ? n : MEM_PAGE_SIZE - offset;
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, reach, linear);

    if (X86_LIKELY(here == n && e->write == tlb_tag(&v->tlb, linear))) {
        copy_in((void *)(e->addend + linear), bytes, n);
        return;
    }
    struct target first = resolve(v, reach, linear, MMU_WRITE), second;
    uint64_t next = next_page(v, linear);
    if (here != n)
        second = resolve(v, reach, next, MMU_WRITE);
    watch(v, linear, here, true);
    write_target(v, &first, offset, bytes, here);
    if (here != n) {
        watch(v, next, n - here, true);
        write_target(v, &second, 0, (const uint8_t *)bytes + here, n - here);
    }
}

void *tlb_pointer_rmw(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned size)
{
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, reach, linear);
    unsigned offset = linear & 0xfff;

    tlb_check_alignment(v, reach, linear, size);
    if (X86_UNLIKELY(offset > MEM_PAGE_SIZE - size))
        return NULL;
    v->tlb.rmw_flags = NULL;
    if (X86_LIKELY(e->write == tlb_tag(&v->tlb, linear)))
        return (void *)(e->addend + linear);
    struct target t = resolve(v, reach, linear, MMU_WRITE);
    if (t.host == NULL || (atomic_load_explicit(t.flags, memory_order_relaxed) & MEM_PAGE_ROM))
        return NULL;
    watch(v, linear, size, true);
    v->tlb.rmw_flags = t.flags;
    v->tlb.rmw_physical = t.physical;
    return t.host + offset;
}

void tlb_pointer_wrote(struct vcpu *v, void *host, unsigned size)
{
    struct target t = {host, v->tlb.rmw_physical, v->tlb.rmw_flags};
    if (t.flags != NULL)
        wrote(v, &t);
    v->tlb.rmw_flags = NULL;
}

bool tlb_fast_fill(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned n, bool write,
                   bool quiet)
{
    struct tlb *t = &v->tlb;
    const struct tlb_entry *e = tlb_entry_of(t, reach, linear);
    uint64_t tag = tlb_tag(t, linear);

    if ((linear & 0xfff) > MEM_PAGE_SIZE - n)
        return false;
    if ((write ? e->write : e->read) != tag) {
        if (quiet)
            return false;
        resolve(v, reach, linear, write ? MMU_WRITE : MMU_READ);
        if ((write ? e->write : e->read) != tag)
            return false;
    }
    tlb_fast_enter(t, reach, linear, write, e->addend,
                   t->physical[reach][tlb_index(linear)] & TLB_GLOBAL);
    return true;
}

void tlb_probe(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned n, bool write)
{
    for (;;) {
        const struct tlb_entry *e = tlb_entry_of(&v->tlb, reach, linear);
        unsigned here = MEM_PAGE_SIZE - (linear & 0xfff);
        if ((write ? e->write : e->read) != tlb_tag(&v->tlb, linear))
            resolve(v, reach, linear, write ? MMU_WRITE : MMU_READ);
        if (here >= n)
            return;
        n -= here;
        linear = next_page(v, linear);
    }
}

const uint8_t *tlb_fetch_page(struct vcpu *v, uint64_t linear, uint64_t *physical)
{
    /* SMAP does not concern fetches, so supervisor code has one of the two TLBs for them. */
    enum tlb_reach reach = v->cpl == 3 ? REACH_USER : REACH_SUPERVISOR_AC;
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, reach, linear);
    uint64_t page = linear & MEM_PAGE_MASK;

    note_fetched(&v->tlb, linear);
    if (X86_LIKELY(e->fetch == tlb_tag(&v->tlb, linear))) {
        if (physical != NULL)
            *physical = v->tlb.physical[reach][tlb_index(linear)] & MEM_PAGE_MASK;
        return (const uint8_t *)(e->addend + page);
    }
    struct target t = resolve(v, reach, linear, MMU_FETCH);
    if (physical != NULL)
        *physical = t.physical;
    return t.host;
}

bool tlb_fetch_is_global(struct vcpu *v, uint64_t linear)
{
    enum tlb_reach reach = v->cpl == 3 ? REACH_USER : REACH_SUPERVISOR_AC;
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, reach, linear);
    return e->fetch == tlb_tag(&v->tlb, linear) &&
           (v->tlb.physical[reach][tlb_index(linear)] & TLB_GLOBAL);
}
