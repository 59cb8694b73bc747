/* SPDX-License-Identifier: MIT */
/*
 * The part of the TLB that machine code looks into (struct tlb_fast in tlb.h): entries by address,
 * and slots by the place in the code. On the vCPU's own thread.
 *
 * Forgetting costs what was filled: logs name the entries, those of global pages apart from the
 * others, because MOV CR3 leaves global pages alone. A log that is too short means all.
 */
#include "x86/tlb_fast.h"

#include "x86/vcpu.h"

static struct tlb_fast *fast_of(struct tlb *t, enum tlb_reach reach, bool write, uint64_t linear)
{
    return &t->fast[reach][write][(linear >> 12) & (TLB_FAST_ENTRIES - 1)];
}

/* No address with this index is in the page that follows it. */
static inline void fast_empty(struct tlb *t, struct tlb_fast *f)
{
    uint64_t index = (uint64_t)(f - &t->fast[0][0][0]) & (TLB_FAST_ENTRIES - 1);
    f->negative_page = -((index + 1) << 12);
}

static inline unsigned page_bit(uint64_t linear)
{
    return (unsigned)(linear >> 12 ^ linear >> 26) & (TLB_FAST_PAGES - 1);
}

static inline void note_page(struct tlb *t, uint64_t linear)
{
    t->fast_pages[page_bit(linear) / 64] |= (uint64_t)1 << page_bit(linear) % 64;
    t->fast_noted++;
}

static struct tlb_fast *slot_at(struct tlb *t, uint32_t offset)
{
    return (struct tlb_fast *)((uint8_t *)t->slots + offset);
}

static inline void slot_empty(struct tlb_fast *f)
{
    *f = (struct tlb_fast){.negative_page = TLB_SLOT_EMPTY};
}

static bool slots_are_logged(const struct tlb *t)
{
    return t->slots_filled <= sizeof(t->slot_log) && t->slots_kept <= TLB_SLOT_KEPT;
}

static unsigned slots_logged(const struct tlb *t)
{
    return t->slots_filled / sizeof(t->slot_log[0]);
}

static void note_slot(struct tlb *t, uint32_t offset)
{
    unsigned bit = page_bit(-slot_at(t, offset)->negative_page);
    t->slot_pages[bit / 64] |= (uint64_t)1 << bit % 64;
}

/* A slot filled again is in the log again, so what has been looked at need not be. */
static void note_slots(struct tlb *t)
{
    for (unsigned n = t->slots_noted / sizeof(t->slot_log[0]); n < slots_logged(t); n++)
        note_slot(t, t->slot_log[n]);
    t->slots_noted = t->slots_filled;
}

static void slots_flush(struct tlb *t)
{
    if (t->slots_noted != 0 || t->slots_kept != 0)
        memset(t->slot_pages, 0, sizeof(t->slot_pages));
    t->slots_noted = 0;
    struct tlb_fast *all = &t->slots[0][0][0];
    if (slots_are_logged(t)) {
        for (unsigned n = 0; n < slots_logged(t); n++)
            slot_empty(slot_at(t, t->slot_log[n]));
        for (unsigned n = 0; n < t->slots_kept; n++)
            slot_empty(slot_at(t, t->slot_kept[n]));
    } else {
        for (unsigned n = 0; n < sizeof(t->slots) / sizeof(*all); n++)
            slot_empty(&all[n]);
    }
    t->slots_filled = 0;
    t->slots_kept = 0;
}

/* The entries of pages that are not global have gone: so do the slots that no entry stands behind.
 */
static void slots_sift(struct tlb *t)
{
    if (!slots_are_logged(t) || t->slots_kept + slots_logged(t) > TLB_SLOT_KEPT) {
        slots_flush(t);
        return;
    }
    for (unsigned n = 0; n < slots_logged(t); n++) {
        uint32_t offset = t->slot_log[n];
        struct tlb_fast *f = slot_at(t, offset);
        unsigned kind = offset / sizeof(t->slots[0][0]); /* reach and write */
        const struct tlb_fast *table = t->fast[kind / 2][kind % 2];
        if (table[(-f->negative_page >> 12) & (TLB_FAST_ENTRIES - 1)].negative_page ==
            f->negative_page)
            t->slot_kept[t->slots_kept++] = offset;
        else
            slot_empty(f);
    }
    note_slots(t);
    t->slots_filled = 0;
    t->slots_noted = 0;
}

static void slot_forget_page(struct tlb *t, uint32_t offset, uint64_t linear)
{
    struct tlb_fast *f = slot_at(t, offset);
    if (f->negative_page == -(linear & MEM_PAGE_MASK))
        slot_empty(f);
}

static void slots_forget_page(struct tlb *t, uint64_t linear)
{
    if (!slots_are_logged(t)) {
        slots_flush(t);
        return;
    }
    note_slots(t);
    if (!(t->slot_pages[page_bit(linear) / 64] >> page_bit(linear) % 64 & 1))
        return;
    for (unsigned n = 0; n < slots_logged(t); n++)
        slot_forget_page(t, t->slot_log[n], linear);
    for (unsigned n = 0; n < t->slots_kept; n++)
        slot_forget_page(t, t->slot_kept[n], linear);
}

static void fast_flush_log(struct tlb *t, bool global)
{
    for (unsigned n = 0; n < t->fast_filled[global]; n++)
        fast_empty(t, t->fast_log[global][n]);
    t->fast_filled[global] = 0;
}

/* Only what the log names is left. */
static void note_logged(struct tlb *t, bool global)
{
    memset(t->fast_pages, 0, sizeof(t->fast_pages));
    t->fast_noted = 0;
    for (unsigned n = 0; n < t->fast_filled[global]; n++)
        note_page(t, -t->fast_log[global][n]->negative_page);
}

/* Pages that are still in an entry or a slot, and some more: those that stand for empty ones. */
static void note_all(struct tlb *t)
{
    const struct tlb_fast *fast = &t->fast[0][0][0], *slots = &t->slots[0][0][0];
    memset(t->fast_pages, 0, sizeof(t->fast_pages));
    for (unsigned n = 0; n < sizeof(t->fast) / sizeof(*fast); n++)
        note_page(t, -fast[n].negative_page);
    for (unsigned n = 0; n < sizeof(t->slots) / sizeof(*slots); n++)
        note_page(t, -slots[n].negative_page);
    t->fast_noted = 0;
}

void tlb_fast_flush(struct tlb *t)
{
    slots_flush(t);
    if (t->fast_filled[0] <= TLB_FAST_LOG && t->fast_filled[1] <= TLB_FAST_LOG) {
        fast_flush_log(t, false);
        fast_flush_log(t, true);
    } else {
        struct tlb_fast *all = &t->fast[0][0][0];
        for (unsigned n = 0; n < sizeof(t->fast) / sizeof(*all); n++)
            fast_empty(t, &all[n]);
        t->fast_filled[0] = t->fast_filled[1] = 0;
    }
    note_logged(t, true);
}

/* All but global pages (SDM 3A 4.10.4.1, MOV to CR3). An entry may be in both logs: then it goes.
 */
void tlb_fast_leave_space(struct tlb *t)
{
    if (t->fast_filled[0] > TLB_FAST_LOG || t->fast_filled[1] > TLB_FAST_LOG) {
        tlb_fast_flush(t);
        return;
    }
    fast_flush_log(t, false);
    slots_sift(t);
    note_logged(t, true);
}

void tlb_fast_forget_page(struct tlb *t, uint64_t linear)
{
    if (t->fast_noted > TLB_FAST_NOTED)
        note_all(t);
    if (!(t->fast_pages[page_bit(linear) / 64] >> page_bit(linear) % 64 & 1))
        return;
    slots_forget_page(t, linear);
    for (unsigned reach = 0; reach < TLB_FAST_REACHES; reach++) {
        fast_empty(t, fast_of(t, (enum tlb_reach)reach, false, linear));
        fast_empty(t, fast_of(t, (enum tlb_reach)reach, true, linear));
    }
}

void tlb_fast_protect(struct tlb *t, const uint8_t *host_page)
{
    for (unsigned reach = 0; reach < TLB_FAST_REACHES; reach++) {
        for (unsigned i = 0; i < TLB_FAST_ENTRIES; i++) {
            struct tlb_fast *f = &t->fast[reach][true][i];
            if (f->addend - f->negative_page == (uintptr_t)host_page)
                fast_empty(t, f);
        }
    }
    slots_flush(t);
}

void tlb_fast_init(struct tlb *t)
{
    t->fast_filled[0] = TLB_FAST_LOG + 1;
    t->slots_filled = UINT32_MAX;
    tlb_fast_flush(t);
}

void tlb_fast_enter(struct tlb *t, enum tlb_reach reach, uint64_t linear, bool write,
                    uintptr_t addend, bool global)
{
    struct tlb_fast *f = fast_of(t, reach, write, linear);
    note_page(t, linear);
    f->negative_page = -(linear & MEM_PAGE_MASK);
    f->addend = addend;
    if (t->fast_filled[global] < TLB_FAST_LOG)
        t->fast_log[global][t->fast_filled[global]] = f;
    if (t->fast_filled[global] <= TLB_FAST_LOG)
        t->fast_filled[global]++;
}
