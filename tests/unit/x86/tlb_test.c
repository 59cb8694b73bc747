/* SPDX-License-Identifier: MIT */
/* The software TLB: what it may keep, what it must forget, and every access of the slow path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#include "x86_fixture.h"

#define LINEAR 0x0000600000400000ull
#define HIGH   0xffff888000000000ull
#define DATA   (PTE_P | PTE_RW | PTE_US)
#define USER   REACH_USER
#define KERNEL REACH_SUPERVISOR_AC

static struct x86_fixture *start(void)
{
    struct x86_fixture *f = x86_fixture_create();
    x86_fixture_long_mode(f, false);
    return f;
}

static uint64_t load(struct x86_fixture *f, uint64_t linear)
{
    uint64_t value = ~0ull;
    assert_int_equal(try_load(f, KERNEL, linear, 8, &value), -1);
    return value;
}

/* Page n of RAM from 1 MiB holds its own number in every quadword. */
static uint64_t numbered_page(struct x86_fixture *f, unsigned n)
{
    uint64_t physical = (1u << 20) + (uint64_t)n * MEM_PAGE_SIZE;
    for (unsigned i = 0; i < 512; i++)
        x86_fixture_ram(f, physical)[i] = n;
    return physical;
}

static void switch_cr3(struct x86_fixture *f, uint64_t cr3, bool keep)
{
    f->v.cr3 = cr3;
    tlb_switch_space(&f->v, keep);
}

static void hit_costs_no_walk(void **state)
{
    struct x86_fixture *f = start();
    x86_fixture_map(f, LINEAR, numbered_page(f, 1), DATA);
    assert_int_equal(load(f, LINEAR), 1);
    uint64_t walks = f->v.counters.page_walks;
    assert_int_equal(load(f, LINEAR + 8), 1);
    assert_int_equal(f->v.counters.page_walks, walks);
    x86_fixture_destroy(f);
}

/* Two address spaces with the same linear page, under PCIDs 1 and 2. */
static void spaces_and_pcids(void **state)
{
    struct x86_fixture *f = start();
    uint64_t first = f->v.cr3, second = x86_fixture_table(f);
    f->v.cr4 |= CR4_PCIDE;
    tlb_flush_all(&f->v);
    *x86_fixture_entry(f, first, LINEAR, 1) = numbered_page(f, 1) | DATA;
    *x86_fixture_entry(f, second, LINEAR, 1) = numbered_page(f, 2) | DATA;

    switch_cr3(f, first | 1, false);
    assert_int_equal(load(f, LINEAR), 1);
    switch_cr3(f, second | 2, false);
    assert_int_equal(load(f, LINEAR), 2);
    switch_cr3(f, first | 1, true);
    assert_int_equal(load(f, LINEAR), 1);

    /* The one entry for this address now belongs to PCID 1; change the page below it. */
    *x86_fixture_entry(f, first, LINEAR, 1) = numbered_page(f, 3) | DATA;
    switch_cr3(f, second | 2, true);
    switch_cr3(f, first | 1, true);
    uint64_t walks = f->v.counters.page_walks;
    assert_int_equal(load(f, LINEAR), 1); /* kept over two switches */
    assert_int_equal(f->v.counters.page_walks, walks);
    switch_cr3(f, first | 1, false);
    assert_int_equal(load(f, LINEAR), 3);

    f->v.cr4 &= ~(uint64_t)CR4_PCIDE;
    tlb_flush_all(&f->v);
    switch_cr3(f, first, false);
    *x86_fixture_entry(f, first, LINEAR, 1) = numbered_page(f, 4) | DATA;
    switch_cr3(f, first, true); /* without PCIDs there is nothing to keep */
    assert_int_equal(load(f, LINEAR), 4);
    x86_fixture_destroy(f);
}

static void invpcid_types(void **state)
{
    for (unsigned type = 0; type < 4; type++) {
        for (unsigned current = 1; current <= 2; current++) {
            struct x86_fixture *f = start();
            uint64_t root = f->v.cr3;
            f->v.cr4 |= CR4_PCIDE;
            tlb_flush_all(&f->v);
            x86_fixture_map(f, LINEAR, numbered_page(f, 1), DATA);
            switch_cr3(f, root | 1, false);
            assert_int_equal(load(f, LINEAR), 1);
            *x86_fixture_entry(f, root, LINEAR, 1) = numbered_page(f, 2) | DATA;
            switch_cr3(f, root | current, true);
            uint64_t generation = f->v.tlb.fetch_generation;
            tlb_invpcid(&f->v, type, 1, LINEAR);
            bool may_stay =
                type == 0 || (type == 1 && current == 2); /* nothing was fetched there */
            assert_true(may_stay || f->v.tlb.fetch_generation != generation);
            switch_cr3(f, root | 1, true);
            assert_int_equal(load(f, LINEAR), 2);
            x86_fixture_destroy(f);
        }
    }
}

/* What was found by a fetch is forgotten with its page, and with no other. */
static void invlpg_fetched(void **state)
{
    struct x86_fixture *f = start();
    x86_fixture_map(f, LINEAR, numbered_page(f, 1), PTE_P);
    assert_non_null(tlb_fetch_page(&f->v, LINEAR, NULL));
    uint64_t generation = f->v.tlb.fetch_generation;
    tlb_invlpg(&f->v, LINEAR + 0x1000);
    assert_int_equal(f->v.tlb.fetch_generation, generation);
    tlb_invlpg(&f->v, LINEAR + 5);
    assert_int_not_equal(f->v.tlb.fetch_generation, generation);
    x86_fixture_destroy(f);
}

/* The host page by the fast entry of LINEAR, as machine code looks; 0 when it is not there. */
static uint64_t fast(const struct x86_fixture *f, bool write)
{
    const struct tlb_fast *e =
        &f->v.tlb.fast[f->v.reach][write][(LINEAR >> 12) & (TLB_FAST_ENTRIES - 1)];
    return LINEAR + e->negative_page < MEM_PAGE_SIZE ? e->addend + LINEAR : 0;
}

/* Fast entries and their copies go whenever the page may have changed. */
static void fast_entries(void **state)
{
    for (unsigned way = 0; way < 4; way++) {
        struct x86_fixture *f = start();
        struct tlb *t = &f->v.tlb;
        enum tlb_reach reach = (enum tlb_reach)f->v.reach;
        x86_fixture_map(f, LINEAR, numbered_page(f, 1), DATA);
        assert_int_equal(fast(f, true), 0);
        assert_false(tlb_fast_fill(&f->v, reach, LINEAR + 0xffd, 4, true, false)); /* crosses */
        assert_false(tlb_fast_fill(&f->v, reach, LINEAR, 4, true, true));          /* not cached */
        assert_true(tlb_fast_fill(&f->v, reach, LINEAR + 0xffc, 4, true, false));
        uint64_t host = fast(f, true);
        assert_int_not_equal(host, 0);
        assert_int_equal(*(const uint8_t *)(uintptr_t)host, load(f, LINEAR) & 0xff);
        t->slots[reach][true][7] = t->fast[reach][true][(LINEAR >> 12) & (TLB_FAST_ENTRIES - 1)];
        t->slot_log[0] = (uint32_t)((uint8_t *)&t->slots[reach][true][7] - (uint8_t *)t->slots);
        t->slots_filled = sizeof(t->slot_log[0]);
        switch (way) {
        case 0:
            tlb_invlpg(&f->v, LINEAR);
            break;
        case 1:
            tlb_flush_all(&f->v);
            break;
        case 2:
            switch_cr3(f, f->v.cr3, false);
            break;
        default:
            tlb_protect_page(&f->v, (const uint8_t *)(uintptr_t)host);
            break;
        }
        assert_int_equal(fast(f, true), 0);
        assert_true(LINEAR + t->slots[reach][true][7].negative_page >= MEM_PAGE_SIZE);
        x86_fixture_destroy(f);
    }
}

/* MOV CR3 leaves fast entries and slots of global pages alone, and takes those of others. */
static void fast_entries_global(void **state)
{
    for (unsigned global = 0; global < 2; global++) {
        struct x86_fixture *f = start();
        struct tlb *t = &f->v.tlb;
        enum tlb_reach reach = (enum tlb_reach)f->v.reach;
        struct tlb_fast *slot = &t->slots[reach][false][7];
        f->v.cr4 |= CR4_PGE;
        tlb_flush_all(&f->v);
        x86_fixture_map(f, LINEAR, numbered_page(f, 1), DATA | (global ? PTE_G : 0));
        assert_true(tlb_fast_fill(&f->v, reach, LINEAR, 4, false, false));
        *slot = t->fast[reach][false][(LINEAR >> 12) & (TLB_FAST_ENTRIES - 1)];
        t->slot_log[0] = (uint32_t)((uint8_t *)slot - (uint8_t *)t->slots);
        t->slots_filled = sizeof(t->slot_log[0]);
        uint64_t all = t->global_generation, any = t->fetch_generation;
        for (unsigned n = 0; n < 3; n++)
            switch_cr3(f, f->v.cr3, false);
        assert_int_equal(t->global_generation, all);
        assert_int_not_equal(t->fetch_generation, any);
        assert_int_equal(fast(f, false) != 0, global);
        assert_int_equal(LINEAR + slot->negative_page < MEM_PAGE_SIZE, global);
        tlb_invlpg(&f->v, LINEAR);
        assert_int_equal(fast(f, false), 0);
        assert_true(LINEAR + slot->negative_page >= MEM_PAGE_SIZE);
        tlb_flush_all(&f->v);
        assert_int_not_equal(t->global_generation, all);
        x86_fixture_destroy(f);
    }
}

/* INVLPG reaches a global page in every space. */
static void invlpg_global(void **state)
{
    struct x86_fixture *f = start();
    uint64_t root = f->v.cr3;
    f->v.cr4 |= CR4_PCIDE;
    tlb_flush_all(&f->v);
    x86_fixture_map(f, HIGH, numbered_page(f, 1), DATA | PTE_G);
    switch_cr3(f, root | 5, false);
    assert_int_equal(load(f, HIGH), 1);
    switch_cr3(f, root | 6, true);
    *x86_fixture_entry(f, root, HIGH, 1) = numbered_page(f, 2) | DATA | PTE_G;
    tlb_invlpg(&f->v, HIGH + 123);
    switch_cr3(f, root | 5, true);
    assert_int_equal(load(f, HIGH), 2);
    x86_fixture_destroy(f);
}

/* An entry of a global page serves every space, with the rights it had, until all are flushed. */
static void global_in_every_space(void **state)
{
    for (unsigned global = 0; global < 2; global++) {
        struct x86_fixture *f = start();
        f->v.cr4 |= CR4_PGE;
        tlb_flush_all(&f->v);
        uint64_t page = numbered_page(f, 1);
        x86_fixture_map(f, HIGH, page, (DATA & ~(uint64_t)PTE_D) | (global ? PTE_G : 0));
        assert_int_equal(load(f, HIGH), 1);
        uint64_t walks = f->v.counters.page_walks;
        for (unsigned n = 0; n < 3; n++) {
            switch_cr3(f, f->v.cr3, false);
            assert_int_equal(load(f, HIGH + 8 * n), 1);
        }
        assert_int_equal(f->v.counters.page_walks, global ? walks : walks + 3);
        tlb_store_slow(&f->v, (enum tlb_reach)f->v.reach, HIGH, 7, 8); /* walks to set D */
        assert_true(*x86_fixture_entry(f, f->v.cr3, HIGH, 1) & PTE_D);
        *x86_fixture_entry(f, f->v.cr3, HIGH, 1) = numbered_page(f, 2) | DATA | PTE_G;
        switch_cr3(f, f->v.cr3, false);
        assert_int_equal(load(f, HIGH), global ? 7 : 2);
        for (unsigned n = 0; n < TLB_EPOCHS; n++)
            tlb_flush_all(&f->v);
        assert_int_equal(load(f, HIGH), 2);
        x86_fixture_destroy(f);
    }
}

static void fill_slot(struct tlb *t, struct tlb_fast *slot, const struct tlb_fast *from)
{
    *slot = *from;
    t->slot_log[t->slots_filled / sizeof(t->slot_log[0])] =
        (uint32_t)((uint8_t *)slot - (uint8_t *)t->slots);
    t->slots_filled += sizeof(t->slot_log[0]);
}

/* INVLPG finds a page in slots that were filled before and after others looked at the log. */
static void invlpg_slots(void **state)
{
    for (unsigned kept = 0; kept < 2; kept++) {
        struct x86_fixture *f = start();
        struct tlb *t = &f->v.tlb;
        enum tlb_reach reach = (enum tlb_reach)f->v.reach;
        struct tlb_fast *slots = t->slots[reach][false], *fast = t->fast[reach][false];
        f->v.cr4 |= CR4_PGE;
        tlb_flush_all(&f->v);
        for (unsigned n = 0; n < 3; n++) {
            uint64_t linear = LINEAR + n * MEM_PAGE_SIZE;
            x86_fixture_map(f, linear, numbered_page(f, n), DATA | PTE_G);
            assert_true(tlb_fast_fill(&f->v, reach, linear, 4, false, false));
        }
        const struct tlb_fast *page = &fast[(LINEAR >> 12) & (TLB_FAST_ENTRIES - 1)];
        fill_slot(t, &slots[7], &page[0]);
        if (kept)
            switch_cr3(f, f->v.cr3, false);
        tlb_invlpg(&f->v, LINEAR + MEM_PAGE_SIZE); /* in no slot */
        assert_true(LINEAR + slots[7].negative_page < MEM_PAGE_SIZE);
        fill_slot(t, &slots[8], &page[2]);
        tlb_invlpg(&f->v, LINEAR);
        assert_true(LINEAR + slots[7].negative_page >= MEM_PAGE_SIZE);
        assert_true(LINEAR + 2 * MEM_PAGE_SIZE + slots[8].negative_page < MEM_PAGE_SIZE);
        tlb_invlpg(&f->v, LINEAR + 2 * MEM_PAGE_SIZE);
        assert_true(LINEAR + 2 * MEM_PAGE_SIZE + slots[8].negative_page >= MEM_PAGE_SIZE);
        x86_fixture_destroy(f);
    }
}

/* The filter of pages that INVLPG goes by has been made anew, and knows what is there. */
static void invlpg_after_many_pages(void **state)
{
    struct x86_fixture *f = start();
    enum tlb_reach reach = (enum tlb_reach)f->v.reach;
    uint64_t other = LINEAR + MEM_PAGE_SIZE;
    x86_fixture_map(f, LINEAR, numbered_page(f, 1), DATA);
    x86_fixture_map(f, other, numbered_page(f, 2), DATA);
    for (unsigned n = 0; n < TLB_FAST_NOTED + 10; n++) {
        assert_true(tlb_fast_fill(&f->v, reach, LINEAR, 4, false, false));
        assert_true(tlb_fast_fill(&f->v, reach, other, 4, true, false));
    }
    tlb_invlpg(&f->v, other);
    assert_int_not_equal(fast(f, false), 0);
    tlb_invlpg(&f->v, LINEAR);
    assert_int_equal(fast(f, false), 0);
    x86_fixture_destroy(f);
}

/* INVLPG of any address in a large page forgets all of it, in either half of the address space. */
static void invlpg_large(void **state)
{
    static const uint64_t places[] = {0x40000000, HIGH, 0xffffffff80000000ull};
    struct x86_fixture *f = start();

    for (unsigned level = 2; level <= 3; level++) {
        for (unsigned p = 0; p < 3; p++) {
            uint64_t base = places[p] + ((uint64_t)level << 31);
            uint64_t *entry = x86_fixture_entry(f, f->v.cr3, base, level);
            *entry = DATA | PTE_PS; /* physical 0 */
            for (unsigned i = 1; i < 32; i++) {
                *x86_fixture_ram(f, i * MEM_PAGE_SIZE) = i;
                assert_int_equal(load(f, base + i * MEM_PAGE_SIZE), i);
            }
            *entry = 0;
            tlb_invlpg(&f->v, base + 0x1ff123);
            for (unsigned i = 1; i < 32; i++)
                assert_int_equal(try_load(f, KERNEL, base + i * MEM_PAGE_SIZE, 8, NULL), VECTOR_PF);
        }
    }
    x86_fixture_destroy(f);
}

static void asids_run_out(void **state)
{
    struct x86_fixture *f = start();
    uint64_t roots[2] = {f->v.cr3, x86_fixture_table(f)};
    for (unsigned i = 0; i < 2; i++)
        *x86_fixture_entry(f, roots[i], LINEAR, 1) = numbered_page(f, i) | DATA;
    for (unsigned i = 0; i < 3 * 4096; i++) {
        switch_cr3(f, roots[i & 1], false);
        assert_int_equal(load(f, LINEAR), i & 1);
        assert_true(f->v.tlb.asid < 0xfff);
    }
    x86_fixture_destroy(f);
}

/* Whatever is done, after the invalidation that the manual asks for, every access agrees with the
 * tables. */
static void random_operations(void **state)
{
    struct x86_fixture *f = start();
    uint64_t roots[3] = {f->v.cr3, x86_fixture_table(f), x86_fixture_table(f)};
    uint32_t random = 12345;

    for (unsigned n = 0; n < 64; n++)
        numbered_page(f, n);
    f->v.cr4 |= CR4_PCIDE;
    tlb_flush_all(&f->v);
    for (unsigned step = 0; step < 300000; step++) {
        random = random * 1664525 + 1013904223;
        unsigned r = random >> 16, space = r % 3;
        uint64_t linear = LINEAR + (r >> 3) % 8 * MEM_PAGE_SIZE + ((r & 64) ? 4u << 20 : 0);
        switch ((r >> 7) % 8) {
        case 0:
            switch_cr3(f, roots[space] | (space + 1), r & 32);
            break;
        case 1: {
            unsigned now = (f->v.cr3 & 0xfff) ? (f->v.cr3 & 0xfff) - 1 : 0;
            *x86_fixture_entry(f, roots[now], linear, 1) =
                (r & 1024) ? (1u << 20) | (uint64_t)(r % 64) << 12 | DATA : 0;
            if (r & 2048)
                tlb_invlpg(&f->v, linear);
            else
                tlb_invpcid(&f->v, (r >> 12) & 3, f->v.cr3 & 0xfff, linear);
            break;
        }
        default: {
            uint64_t physical, value = 0;
            bool mapped = mmu_translate_debug(&f->v, linear, &physical);
            enum tlb_reach reach = (enum tlb_reach)(r % REACH_COUNT);
            int raised = try_load(f, reach, linear, 8, &value);
            if (raised != (mapped ? -1 : VECTOR_PF) ||
                (mapped && value != (physical - (1u << 20)) >> 12))
                fail_msg("step %u: raised %d, value %llu, physical %#llx", step, raised,
                         (unsigned long long)value, (unsigned long long)physical);
        }
        }
    }
    x86_fixture_destroy(f);
}

/* A write over a border checks both pages before it writes into either. */
static void crossing_write_is_all_or_nothing(void **state)
{
    static const unsigned sizes[] = {2, 4, 8};
    struct x86_fixture *f = start();
    uint64_t first = numbered_page(f, 1), second = numbered_page(f, 9);

    x86_fixture_map(f, LINEAR, first, DATA);
    x86_fixture_map(f, LINEAR + 0x1000, second, PTE_P | PTE_US);
    uint64_t *last = x86_fixture_ram(f, first) + 511;
    uint64_t *next = x86_fixture_ram(f, second);
    for (unsigned s = 0; s < 3; s++) {
        for (unsigned before = 1; before < sizes[s]; before++) {
            uint64_t at = LINEAR + 0x1000 - before;
            assert_int_equal(try_store(f, USER, at, ~0ull, sizes[s]), VECTOR_PF);
            assert_int_equal(f->v.fault.address, LINEAR + 0x1000);
            assert_int_equal(f->v.fault.error, PF_PRESENT | PF_WRITE | PF_USER);
            assert_int_equal(try_probe(f, USER, at, sizes[s], true), VECTOR_PF);
            assert_int_equal(try_write_bytes(f, USER, at, "01234567", sizes[s]), VECTOR_PF);
            assert_int_equal(*last, 1);
            assert_int_equal(*next, 9);
        }
    }
    *x86_fixture_entry(f, f->v.cr3, LINEAR + 0x1000, 1) |= PTE_RW;
    tlb_invlpg(&f->v, LINEAR + 0x1000);
    assert_int_equal(try_store(f, USER, LINEAR + 0xffd, 0x1122334455667788, 8), -1);
    assert_int_equal(*last >> 40, 0x667788);
    assert_int_equal(*next & 0xffffffffff, 0x1122334455);
    uint64_t value = 0;
    assert_int_equal(try_load(f, USER, LINEAR + 0xffd, 8, &value), -1);
    assert_int_equal(value, 0x1122334455667788);
    x86_fixture_destroy(f);
}

/* The first page is looked at first, and its fault has the address of the access. */
static void crossing_fault_order(void **state)
{
    struct x86_fixture *f = start();
    x86_fixture_map(f, LINEAR, 0x3000, DATA);
    *x86_fixture_entry(f, f->v.cr3, LINEAR, 1) = 0;
    assert_int_equal(try_load(f, USER, LINEAR + 0xffe, 4, NULL), VECTOR_PF);
    assert_int_equal(f->v.fault.address, LINEAR + 0xffe);
    assert_int_equal(f->v.fault.error, PF_USER);
    x86_fixture_destroy(f);
}

/* Outside 64-bit mode the byte after 0xffffffff is byte 0. */
static void wrap_at_4g(void **state)
{
    struct x86_fixture *f = x86_fixture_create(); /* paging off */
    *x86_fixture_ram(f, 0) = 0x8877665544332211;
    x86_fixture_ram(f, FIXTURE_ROM)[511] = 0xaabbccdd11223344;
    uint64_t value = 0;
    assert_int_equal(try_load(f, KERNEL, 0xfffffffe, 4, &value), -1);
    assert_int_equal(value, 0x2211aabb);
    x86_fixture_destroy(f);
}

static void device_accesses(void **state)
{
    struct x86_fixture *f = start();
    uint64_t ram = numbered_page(f, 0), value = 0;
    x86_fixture_map(f, LINEAR, ram, DATA);
    x86_fixture_map(f, LINEAR + 0x1000, FIXTURE_MMIO, DATA);

    for (unsigned size = 1; size <= 8; size *= 2) {
        f->io_count = 0;
        assert_int_equal(try_load(f, KERNEL, LINEAR + 0x1010, size, &value), -1);
        assert_int_equal(value & 0xff, 0x10);
        assert_int_equal(try_store(f, KERNEL, LINEAR + 0x1010, 0x55, size), -1);
        assert_int_equal(f->io_count, 2);
        assert_int_equal(f->io[0].address, FIXTURE_MMIO + 0x10);
        assert_int_equal(f->io[0].size, size);
        assert_true(!f->io[0].write && f->io[1].write && f->io[1].value == 0x55);
    }
    /* Two bytes of RAM, then six of the device in aligned pieces. */
    f->io_count = 0;
    assert_int_equal(try_store(f, KERNEL, LINEAR + 0xffe, 0x8877665544332211, 8), -1);
    assert_int_equal(x86_fixture_ram(f, ram)[511], 0x2211000000000000);
    assert_int_equal(f->io_count, 2);
    assert_int_equal(f->io[0].size, 4);
    assert_int_equal(f->io[0].value, 0x66554433);
    assert_int_equal(f->io[1].address, FIXTURE_MMIO + 4);
    assert_int_equal(f->io[1].value, 0x8877);
    assert_int_equal(try_load(f, KERNEL, LINEAR + 0xffe, 8, &value), -1);
    assert_int_equal(value, 0x0504030201002211);
    void *rmw = f;
    const uint8_t *fetch = (const uint8_t *)f;
    assert_int_equal(try_rmw(f, KERNEL, LINEAR + 0x1000, 4, &rmw), -1);
    assert_null(rmw);
    assert_int_equal(try_fetch(f, LINEAR + 0x1000, &fetch, NULL), -1);
    assert_null(fetch);
    x86_fixture_destroy(f);
}

static void moved_apic(void **state)
{
    struct x86_fixture *f = start();
    uint64_t ram = numbered_page(f, 0), value = 0;
    x86_fixture_map(f, LINEAR, ram, DATA);
    x86_fixture_map(f, LINEAR + 0x1000, X86_APIC_PAGE, DATA);
    *x86_fixture_ram(f, ram + 0x20) = 77;
    assert_int_equal(try_load(f, KERNEL, LINEAR + 0x20, 4, &value), -1);
    assert_int_equal(value, 77);
    f->v.apic_moved = ram | 1;
    tlb_flush_all(&f->v);
    for (unsigned n = 0; n < 2; n++) /* never cached as RAM */
        assert_int_equal(try_store(f, KERNEL, LINEAR + 0x20, 5, 4), -1);
    assert_int_equal(f->io_count, 2);
    assert_int_equal(f->io[1].address, X86_APIC_PAGE + 0x20);
    assert_int_equal(*x86_fixture_ram(f, ram + 0x20), 77);
    assert_int_equal(try_load(f, KERNEL, LINEAR + 0x1020, 4, NULL), -1);
    assert_int_equal(f->io[2].address, 0xfffffffffffff020); /* nobody's */
    x86_fixture_destroy(f);
}

static void rom_writes_are_dropped(void **state)
{
    struct x86_fixture *f = start();
    x86_fixture_map(f, LINEAR, FIXTURE_ROM, DATA);
    assert_int_equal(try_store(f, KERNEL, LINEAR, 1, 8), -1);
    assert_int_equal(try_write_bytes(f, KERNEL, LINEAR + 64, "abc", 3), -1);
    assert_null(tlb_pointer_rmw(&f->v, KERNEL, LINEAR, 4));
    assert_int_equal(load(f, LINEAR), 0);
    assert_int_equal(f->v.counters.exits[EXIT_ROM_WRITE], 2);
    assert_int_equal(f->mem.rom_writes, 2);
    x86_fixture_destroy(f);
}

/* D is set by the first write, though a read has filled the entry before. */
static void dirty_bits(void **state)
{
    struct x86_fixture *f = start();
    uint64_t page = numbered_page(f, 1);
    _Atomic uint8_t *flags;
    mem_page(&f->mem, GPA(page), &flags);
    x86_fixture_map(f, LINEAR, page, DATA);
    x86_fixture_map(f, LINEAR + 0x1000, page, DATA);
    uint64_t *pte = x86_fixture_entry(f, f->v.cr3, LINEAR, 1);

    load(f, LINEAR);
    assert_int_equal(*pte & (PTE_A | PTE_D), PTE_A);
    assert_int_equal(*flags & MEM_PAGE_DIRTY, 0);
    assert_int_equal(try_store(f, KERNEL, LINEAR, 1, 1), -1);
    assert_int_equal(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
    assert_int_equal(*flags & MEM_PAGE_DIRTY, MEM_PAGE_DIRTY);
    uint64_t walks = f->v.counters.page_walks;
    assert_int_equal(try_store(f, KERNEL, LINEAR, 2, 1), -1);
    assert_int_equal(f->v.counters.page_walks, walks);
    /* The same page under another address, whose D is still clear. */
    load(f, LINEAR + 0x1000);
    assert_int_equal(try_store(f, KERNEL, LINEAR + 0x1000, 1, 1), -1);
    assert_true(*x86_fixture_entry(f, f->v.cr3, LINEAR + 0x1000, 1) & PTE_D);
    x86_fixture_destroy(f);
}

/* Every store into a page with decoded code is told, however it is made. */
static void code_pages(void **state)
{
    struct x86_fixture *f = start();
    uint64_t page = numbered_page(f, 1), physical;
    _Atomic uint8_t *flags;
    const uint8_t *host = mem_page(&f->mem, GPA(page), &flags);
    x86_fixture_map(f, LINEAR, page, DATA);

    assert_int_equal(try_store(f, KERNEL, LINEAR, 7, 8), -1);
    assert_ptr_equal(tlb_fetch_page(&f->v, LINEAR + 5, &physical), host);
    assert_int_equal(physical, page);
    assert_ptr_equal(tlb_fetch_page(&f->v, LINEAR + 6, &physical), host); /* by its tag */
    assert_int_equal(physical, page);
    atomic_fetch_or(flags, MEM_PAGE_CODE);
    tlb_protect_page(&f->v, host);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(try_store(f, KERNEL, LINEAR + i, i, 1), -1);
        assert_int_equal(f->code_writes, 3 * i - 2);
        assert_int_equal(try_write_bytes(f, KERNEL, LINEAR + 64, "abc", 3), -1);
        assert_int_equal(f->code_writes, 3 * i - 1);
        void *p = tlb_pointer_rmw(&f->v, KERNEL, LINEAR + 128, 8);
        assert_non_null(p);
        host_store(p, 1, 8);
        tlb_pointer_wrote(&f->v, p, 8);
        assert_int_equal(f->code_writes, 3 * i);
        assert_int_equal(f->code_page, page);
    }
    load(f, LINEAR); /* a read fills no write tag */
    assert_int_equal(try_store(f, KERNEL, LINEAR, 1, 1), -1);
    assert_int_equal(f->code_writes, 10);
    x86_fixture_destroy(f);
}

static void rmw_pointers(void **state)
{
    struct x86_fixture *f = start();
    uint64_t page = numbered_page(f, 1);
    x86_fixture_map(f, LINEAR, page, DATA);
    x86_fixture_map(f, LINEAR + 0x1000, page, PTE_P | PTE_US);
    assert_ptr_equal(tlb_pointer_rmw(&f->v, USER, LINEAR + 0xff8, 8),
                     x86_fixture_ram(f, page + 0xff8));
    assert_null(tlb_pointer_rmw(&f->v, USER, LINEAR + 0xff9, 8));
    assert_int_equal(try_rmw(f, USER, LINEAR + 0x1000, 8, NULL), VECTOR_PF);
    assert_int_equal(f->v.fault.error, PF_PRESENT | PF_WRITE | PF_USER);
    x86_fixture_destroy(f);
}

/* SMAP and SMEP by reach: what one reach has filled must not serve another. */
static void reaches(void **state)
{
    struct x86_fixture *f = start();
    f->v.cr4 |= CR4_SMAP | CR4_SMEP;
    x86_fixture_map(f, LINEAR, numbered_page(f, 1), DATA);
    x86_fixture_map(f, LINEAR + 0x1000, numbered_page(f, 2), PTE_P | PTE_RW);

    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(try_load(f, USER, LINEAR, 8, NULL), -1);
        assert_int_equal(try_load(f, REACH_SUPERVISOR, LINEAR, 8, NULL), VECTOR_PF);
        assert_int_equal(f->v.fault.error, PF_PRESENT);
        assert_int_equal(try_load(f, REACH_SUPERVISOR_AC, LINEAR, 8, NULL), -1);
        assert_int_equal(try_load(f, USER, LINEAR + 0x1000, 8, NULL), VECTOR_PF);
        assert_int_equal(f->v.fault.error, PF_PRESENT | PF_USER);
        assert_int_equal(try_load(f, REACH_SUPERVISOR, LINEAR + 0x1000, 8, NULL), -1);
    }
    x86_fixture_map(f, LINEAR + 0x2000, 0x5000, PTE_P | PTE_XD); /* read first, then fetched */
    f->v.cpl = 0;
    assert_int_equal(try_load(f, REACH_SUPERVISOR_AC, LINEAR + 0x2000, 8, NULL), -1);
    assert_int_equal(try_fetch(f, LINEAR + 0x2000, NULL, NULL), VECTOR_PF);
    assert_int_equal(try_fetch(f, LINEAR, NULL, NULL), VECTOR_PF);
    assert_int_equal(f->v.fault.error, PF_PRESENT | PF_FETCH);
    f->v.cpl = 3;
    assert_int_equal(try_fetch(f, LINEAR, NULL, NULL), -1);
    x86_fixture_destroy(f);
}

/* DR7 conditions x lengths x accesses around the watched bytes. */
static void breakpoints(void **state)
{
    static const unsigned bytes_of[4] = {1, 2, 8, 4};
    struct x86_fixture *f = start();
    x86_fixture_map(f, LINEAR, numbered_page(f, 1), DATA);

    for (unsigned n = 0; n < 4; n++) {
        for (unsigned control = 0; control < 16; control++) {
            unsigned length = bytes_of[control >> 2], kind = control & 3;
            f->v.dr[n] = LINEAR + 64;
            f->v.dr7 = DR7_FIXED | 1u << (2 * n + (control & 1)) | control << (16 + 4 * n);
            tlb_flush_all(&f->v);
            for (unsigned access = 0; access < 2 * 4 * 24; access++) {
                bool write = access & 1;
                unsigned size = 1u << ((access >> 1) & 3);
                uint64_t at = LINEAR + 52 + access / 8;
                f->v.debug_pending = 0;
                assert_int_equal(write ? try_store(f, USER, at, 0, size)
                                       : try_load(f, USER, at, size, NULL),
                                 -1);
                bool overlap = at < LINEAR + 64 + length && at + size > LINEAR + 64;
                bool hit = overlap && (kind == 3 || (kind == 1 && write));
                if (f->v.debug_pending != (hit ? 1u << n : 0))
                    fail_msg("DR%u control %u, %s of %u at %d: %#llx", n, control,
                             write ? "write" : "read", size, (int)(at - LINEAR - 64),
                             (unsigned long long)f->v.debug_pending);
            }
        }
    }
    x86_fixture_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hit_costs_no_walk),
        cmocka_unit_test(spaces_and_pcids),
        cmocka_unit_test(invpcid_types),
        cmocka_unit_test(invlpg_fetched),
        cmocka_unit_test(fast_entries),
        cmocka_unit_test(fast_entries_global),
        cmocka_unit_test(invlpg_global),
        cmocka_unit_test(global_in_every_space),
        cmocka_unit_test(invlpg_slots),
        cmocka_unit_test(invlpg_after_many_pages),
        cmocka_unit_test(invlpg_large),
        cmocka_unit_test(asids_run_out),
        cmocka_unit_test(random_operations),
        cmocka_unit_test(crossing_write_is_all_or_nothing),
        cmocka_unit_test(crossing_fault_order),
        cmocka_unit_test(wrap_at_4g),
        cmocka_unit_test(device_accesses),
        cmocka_unit_test(moved_apic),
        cmocka_unit_test(rom_writes_are_dropped),
        cmocka_unit_test(dirty_bits),
        cmocka_unit_test(code_pages),
        cmocka_unit_test(rmw_pointers),
        cmocka_unit_test(reaches),
        cmocka_unit_test(breakpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
