/* SPDX-License-Identifier: MIT */
/* The page walk of long mode against the whole permission table. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#include "rights.h"

#define LINEAR 0x0000123456789abcull
#define FRAME  0x40000000ull /* 1 GiB aligned, of no RAM: the walk does not mind */

static uint64_t entry_bits(const struct rights *r)
{
    return (r->present ? PTE_P : 0) | (r->write ? PTE_RW : 0) | (r->user ? PTE_US : 0) |
           (r->xd ? PTE_XD : 0);
}

static void ask(struct x86_fixture *f, const struct question *q, uint64_t *const entries[5],
                const uint64_t fixed[5])
{
    struct mmu_page page;
    uint32_t code = 99, expected_code;
    uint64_t before[5];

    for (unsigned i = 0; i < q->count; i++)
        *entries[i] = before[i] = fixed[i] | entry_bits(&q->levels[i]);
    bool expected = rights_oracle(q, &expected_code);
    bool got = mmu_walk(&f->v, LINEAR, q->access, q->user, q->ac, &page, &code);
    if (got != expected || code != expected_code)
        fail_msg("access %d user %d wp %d smep %d smap %d ac %d nxe %d leaf %#llx: got %d/%#x, "
                 "expected %d/%#x",
                 q->access, q->user, q->wp, q->smep, q->smap, q->ac, q->nxe,
                 (unsigned long long)before[q->count - 1], got, code, expected, expected_code);
    for (unsigned i = 0; i < q->count; i++) {
        uint64_t want = before[i];
        if (expected)
            want |= PTE_A;
        if (expected && i == q->count - 1 && q->access == MMU_WRITE)
            want |= PTE_D;
        if (*entries[i] != want)
            fail_msg("level %u: entry %#llx, expected %#llx", i, (unsigned long long)*entries[i],
                     (unsigned long long)want);
    }
    if (expected && page.physical != FRAME + ((LINEAR & ~0xfffull) & (page.page_size - 1)))
        fail_msg("physical %#llx", (unsigned long long)page.physical);
}

/* All rights at all levels x access x CPL x controls. */
static void permission_table(bool la57, unsigned leaf)
{
    struct x86_fixture *f = x86_fixture_create();
    struct question q = {.count = (la57 ? 5 : 4) - leaf + 1};
    uint64_t *entries[5], fixed[5];

    x86_fixture_long_mode(f, la57);
    for (unsigned i = 0; i < q.count; i++)
        entries[i] = x86_fixture_entry(f, f->v.cr3, LINEAR, (la57 ? 5 : 4) - i);
    for (unsigned i = 0; i < q.count; i++)
        fixed[i] = *entries[i] & 0xffffffffff000;
    fixed[q.count - 1] = FRAME | (leaf > 1 ? PTE_PS : 0);

    for (uint32_t rights = 0; rights < 1u << (4 * q.count); rights++) {
        for (unsigned i = 0; i < q.count; i++) {
            unsigned r = rights >> (4 * i);
            q.levels[i] = (struct rights){r & 1, r & 2, r & 4, r & 8};
        }
        for (unsigned how = 0; how < 3 * 64; how++) {
            q.access = (enum mmu_access)(how / 64);
            q.user = how & 1;
            q.wp = how & 2;
            q.smep = how & 4;
            q.smap = how & 8;
            q.nxe = how & 16;
            q.ac = how & 32;
            rights_set_controls(&f->v, &q);
            ask(f, &q, entries, fixed);
        }
    }
    x86_fixture_destroy(f);
}

static void permissions_4k(void **state)
{
    permission_table(false, 1);
}
static void permissions_2m(void **state)
{
    permission_table(false, 2);
}
static void permissions_1g(void **state)
{
    permission_table(false, 3);
}
static void permissions_la57_2m(void **state)
{
    permission_table(true, 2);
}

/* Which bits of an entry are reserved: SDM 3A tables 4-14 to 4-20, as ranges. */
static bool reserved_bit(unsigned bit, unsigned level, bool leaf, unsigned maxphyaddr, bool nxe)
{
    if (bit == 63)
        return !nxe;
    if (bit >= 52)
        return false;
    if (bit >= maxphyaddr)
        return true;
    if (level >= 4)
        return bit == 7;
    if (leaf && level == 3)
        return bit >= 13 && bit <= 29;
    if (leaf && level == 2)
        return bit >= 13 && bit <= 20;
    return false;
}

/* Every single bit, at every level, of every mapping size. */
static void reserved_bits(void **state)
{
    static const unsigned widths[] = {36, 40, 46, 52};
    struct x86_fixture *f = x86_fixture_create();
    struct mmu_page page;
    uint32_t code;

    for (unsigned la57 = 0; la57 < 2; la57++) {
        for (unsigned leaf = 1; leaf <= 3; leaf++) {
            f->next_table = FIXTURE_RAM;
            x86_fixture_long_mode(f, la57);
            *x86_fixture_entry(f, f->v.cr3, LINEAR, leaf) =
                FRAME | PTE_P | PTE_US | PTE_RW | (leaf > 1 ? PTE_PS : 0);
            for (unsigned level = leaf; level <= 4 + la57; level++) {
                uint64_t *entry = x86_fixture_entry(f, f->v.cr3, LINEAR, level);
                uint64_t good = *entry;
                for (unsigned n = 0; n < 4 * 2 * 64; n++) {
                    unsigned bit = n & 63;
                    bool nxe = n & 64;
                    f->platform.physical_address_bits = widths[n >> 7];
                    f->v.efer = EFER_LMA | EFER_LME | (nxe ? EFER_NXE : 0);
                    bool bad = reserved_bit(bit, level, level == leaf, widths[n >> 7], nxe);
                    /* Bits that lead elsewhere are not this test's matter. */
                    if (!bad && (bit == 0 || bit == 7 || (bit >= 12 && bit < 52)))
                        continue;
                    *entry = good | (uint64_t)1 << bit;
                    bool ok = mmu_walk(&f->v, LINEAR, MMU_READ, false, true, &page, &code);
                    if (ok == bad || code != (bad ? (PF_PRESENT | PF_RESERVED) : 0))
                        fail_msg("bit %u of level %u, leaf %u, MAXPHYADDR %u: %d, code %#x", bit,
                                 level, leaf, widths[n >> 7], ok, code);
                    *entry = good;
                }
            }
        }
    }
    x86_fixture_destroy(f);
}

/* The first level that ends the walk decides: not present below a reserved bit is RSVD. */
static void first_offence_decides(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    struct mmu_page page;
    uint32_t code;

    x86_fixture_long_mode(f, false);
    uint64_t *pte = x86_fixture_entry(f, f->v.cr3, LINEAR, 1);
    uint64_t *pde = x86_fixture_entry(f, f->v.cr3, LINEAR, 2);
    *pte = 0;
    *pde |= 1ull << 50;
    assert_false(mmu_walk(&f->v, LINEAR, MMU_WRITE, true, false, &page, &code));
    assert_int_equal(code, PF_PRESENT | PF_RESERVED | PF_WRITE | PF_USER);
    *pde &= ~PTE_P; /* what is not present has no reserved bits */
    assert_false(mmu_walk(&f->v, LINEAR, MMU_WRITE, true, false, &page, &code));
    assert_int_equal(code, PF_WRITE | PF_USER);
    x86_fixture_destroy(f);
}

static void pat_bit_is_no_address(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    struct mmu_page page;
    uint32_t code;

    x86_fixture_long_mode(f, false);
    *x86_fixture_entry(f, f->v.cr3, LINEAR, 2) = 0x200000 | PTE_P | PTE_PS | 1u << 12 | PTE_G;
    assert_true(mmu_walk(&f->v, LINEAR, MMU_READ, false, false, &page, &code));
    assert_int_equal(page.physical, 0x200000 + (LINEAR & 0x1ff000));
    assert_int_equal(page.page_size, 2u << 20);
    assert_true(page.global && !page.dirty && !page.user && !page.writable);
    x86_fixture_destroy(f);
}

/* A table that lies where no RAM is reads as ones: reserved bits. */
static void table_outside_ram(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    struct mmu_page page;
    uint32_t code;

    x86_fixture_long_mode(f, false);
    f->v.cr3 = 0x3ffffffff000;
    assert_false(mmu_walk(&f->v, LINEAR, MMU_READ, false, false, &page, &code));
    assert_int_equal(code, PF_PRESENT | PF_RESERVED);
    x86_fixture_destroy(f);
}

static void paging_off(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    struct mmu_page page;
    uint32_t code;
    uint64_t physical;

    assert_true(mmu_walk(&f->v, 0xfffffff0, MMU_FETCH, false, false, &page, &code));
    assert_int_equal(page.physical, 0xfffff000);
    assert_true(mmu_translate_debug(&f->v, 0x1234, &physical) && physical == 0x1234);
    x86_fixture_destroy(f);
}

static void debug_translation_changes_nothing(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    uint64_t physical;

    x86_fixture_long_mode(f, true);
    x86_fixture_map(f, LINEAR, 0x5000, PTE_P);
    assert_true(mmu_translate_debug(&f->v, LINEAR, &physical));
    assert_int_equal(physical, 0x5000 | (LINEAR & 0xfff));
    assert_int_equal(*x86_fixture_entry(f, f->v.cr3, LINEAR, 1), 0x5000 | PTE_P);
    assert_false(mmu_translate_debug(&f->v, LINEAR + 0x1000, &physical));
    x86_fixture_destroy(f);
}

struct race {
    _Atomic uint64_t *pte;
    uint64_t good;
    _Atomic bool stop;
    _Atomic uint64_t hits;
    uint64_t rounds, torn;
};

/* Another processor takes the page away; nobody may write into the entry afterwards. */
static void *take_away(void *context)
{
    struct race *r = context;
    /* On a busy machine the walker may not have had its turn yet. */
    for (; r->rounds < 200000 || atomic_load(&r->hits) == 0; r->rounds++) {
        atomic_store(r->pte, r->good);
        for (volatile int i = 0; i < 20; i++)
            ;
        atomic_exchange(r->pte, 0);
        for (volatile int i = 0; i < 20; i++)
            ;
        if (atomic_load(r->pte) != 0)
            r->torn++;
    }
    atomic_store(&r->stop, true);
    return NULL;
}

static void swap_race(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    struct mmu_page page;
    uint32_t code;
    pthread_t other;

    x86_fixture_long_mode(f, false);
    struct race r = {.pte = (_Atomic uint64_t *)x86_fixture_entry(f, f->v.cr3, LINEAR, 1),
                     .good = 0x7000 | PTE_P | PTE_RW};
    pthread_create(&other, NULL, take_away, &r);
    while (!atomic_load(&r.stop)) {
        if (mmu_walk(&f->v, LINEAR, MMU_WRITE, false, false, &page, &code)) {
            atomic_fetch_add(&r.hits, 1);
            assert_int_equal(page.physical, 0x7000);
            assert_true(page.dirty);
        } else {
            assert_int_equal(code, PF_WRITE);
        }
    }
    pthread_join(other, NULL);
    assert_int_equal(r.torn, 0);
    x86_fixture_destroy(f);
}

static void clear_entry(void *context, gpa_t page)
{
    *(uint64_t *)context = 0;
}

/* The same to the instruction: the leaf goes away after it was read, when A is set above it (that
 * page holds code, so that its writing is told). The walk must begin again, and write nothing. */
static void swap_fails(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    struct mmu_page page;
    uint32_t code;
    _Atomic uint8_t *flags;

    x86_fixture_long_mode(f, false);
    x86_fixture_map(f, LINEAR, 0x7000, PTE_P | PTE_RW);
    uint64_t *pte = x86_fixture_entry(f, f->v.cr3, LINEAR, 1);
    assert_int_equal(mem_add_listener(&f->mem, (struct mem_listener){clear_entry, pte}), 0);
    mem_page(&f->mem, GPA(f->v.cr3), &flags);
    atomic_fetch_or(flags, MEM_PAGE_CODE);
    assert_false(mmu_walk(&f->v, LINEAR, MMU_WRITE, false, false, &page, &code));
    assert_int_equal(code, PF_WRITE);
    assert_int_equal(*pte, 0);
    assert_int_equal(f->v.counters.page_walks, 2);
    x86_fixture_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(permissions_4k),
        cmocka_unit_test(permissions_2m),
        cmocka_unit_test(permissions_1g),
        cmocka_unit_test(permissions_la57_2m),
        cmocka_unit_test(reserved_bits),
        cmocka_unit_test(first_offence_decides),
        cmocka_unit_test(pat_bit_is_no_address),
        cmocka_unit_test(table_outside_ram),
        cmocka_unit_test(paging_off),
        cmocka_unit_test(debug_translation_changes_nothing),
        cmocka_unit_test(swap_race),
        cmocka_unit_test(swap_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
