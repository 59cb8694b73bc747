/* SPDX-License-Identifier: MIT */
/* The page walks of 32-bit and PAE paging against the whole permission table (SDM 3A 4.3, 4.4). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// clang-format off
#include <cmocka.h>
// clang-format on

#include "rights.h"

#define LINEAR 0xc0f56789u
#define FRAME  0x40000000u /* of no RAM: the walk does not mind */

/* One format with its leaf; the entries are `width` bytes wide. */
struct format {
    bool pae;
    unsigned levels; /* 1 = a large page */
    unsigned width;
    uint64_t size;
};

static const struct format formats[] = {
    {false, 2, 4, 4u << 10},
    {false, 1, 4, 4u << 20},
    {true, 2, 8, 4u << 10},
    {true, 1, 8, 2u << 20},
};

struct tables {
    struct x86_fixture *f;
    const struct format *format;
    uint64_t at[2]; /* of the entries for LINEAR, from the top */
};

static uint64_t get(const struct tables *t, unsigned i)
{
    uint64_t value = 0;
    assert_int_equal(mem_read(&t->f->mem, GPA(t->at[i]), &value, t->format->width), 0);
    return value;
}

static void put(const struct tables *t, unsigned i, uint64_t value)
{
    assert_int_equal(mem_write(&t->f->mem, GPA(t->at[i]), &value, t->format->width), 0);
}

static void build(struct tables *t, const struct format *format)
{
    struct x86_fixture *f = t->f = x86_fixture_create();
    struct vcpu *v = &f->v;
    uint64_t top = x86_fixture_table(f), table = x86_fixture_table(f);
    t->format = format;
    v->cr0 = CR0_PE | CR0_ET | CR0_PG;
    v->cr4 = CR4_PSE | (format->pae ? CR4_PAE : 0);
    if (format->pae) {
        v->pae_pdpte[LINEAR >> 30] = top | PTE_P;
        t->at[0] = top + (LINEAR >> 21 & 511) * 8;
        t->at[1] = table + (LINEAR >> 12 & 511) * 8;
    } else {
        v->cr3 = top;
        t->at[0] = top + (LINEAR >> 22) * 4;
        t->at[1] = table + (LINEAR >> 12 & 1023) * 4;
    }
    if (format->levels == 2) {
        put(t, 0, table | PTE_P | PTE_RW | PTE_US);
        put(t, 1, FRAME | PTE_P | PTE_RW | PTE_US);
    } else {
        put(t, 0, FRAME | PTE_PS | PTE_P | PTE_RW | PTE_US);
    }
    vcpu_update_mode(v);
}

static void ask(struct tables *t, const struct question *q, const uint64_t fixed[2])
{
    struct mmu_page page;
    uint32_t code = 99, expected_code;
    uint64_t before[2];

    for (unsigned i = 0; i < q->count; i++) {
        const struct rights *r = &q->levels[i];
        before[i] = fixed[i] | (r->present ? PTE_P : 0) | (r->write ? PTE_RW : 0) |
                    (r->user ? PTE_US : 0) | (r->xd ? PTE_XD : 0);
        put(t, i, before[i]);
    }
    bool expected = rights_oracle(q, &expected_code);
    bool got = mmu_walk(&t->f->v, LINEAR, q->access, q->user, q->ac, &page, &code);
    if (got != expected || code != expected_code)
        fail_msg("access %d user %d wp %d smep %d smap %d ac %d nxe %d leaf %#llx: got %d/%#x, "
                 "expected %d/%#x",
                 q->access, q->user, q->wp, q->smep, q->smap, q->ac, q->nxe,
                 (unsigned long long)before[q->count - 1], got, code, expected, expected_code);
    for (unsigned i = 0; i < q->count; i++) {
        uint64_t want = before[i] | (expected ? PTE_A : 0);
        if (expected && i == q->count - 1 && q->access == MMU_WRITE)
            want |= PTE_D;
        assert_int_equal(get(t, i), want);
    }
    if (!expected)
        return;
    assert_int_equal(page.page_size, t->format->size);
    assert_int_equal(page.physical, FRAME + (LINEAR & ~0xfffull & (t->format->size - 1)));
    assert_int_equal(page.dirty, q->access == MMU_WRITE);
}

static void permissions(const struct format *format)
{
    struct tables t;
    struct question q = {.count = format->levels};
    uint64_t fixed[2];

    build(&t, format);
    for (unsigned i = 0; i < format->levels; i++)
        fixed[i] = get(&t, i) & ~7ull;
    for (uint32_t rights = 0; rights < 1u << (4 * q.count); rights++) {
        for (unsigned i = 0; i < q.count; i++) {
            unsigned r = rights >> (4 * i);
            q.levels[i] = (struct rights){r & 1, r & 2, r & 4, r & 8};
        }
        if (!format->pae && (q.levels[0].xd || q.levels[1].xd))
            continue;
        for (unsigned how = 0; how < 3 * 64; how++) {
            q.access = (enum mmu_access)(how / 64);
            q.user = how & 1;
            q.wp = how & 2;
            q.smep = how & 4;
            q.smap = how & 8;
            q.nxe = how & 16;
            q.ac = how & 32;
            bool nxe = q.nxe;
            q.nxe = nxe && format->pae; /* without PAE it is nothing, not even the code's I/D */
            rights_set_controls(&t.f->v, &q);
            t.f->v.efer = nxe ? EFER_NXE : 0;
            ask(&t, &q, fixed);
        }
    }
    x86_fixture_destroy(t.f);
}

static void permissions_all(void **state)
{
    for (unsigned i = 0; i < 4; i++)
        permissions(&formats[i]);
}

/* SDM 3A tables 4-4 to 4-6 and 4-9 to 4-11, as ranges. */
static bool reserved_bit(const struct format *format, unsigned bit, bool leaf, unsigned maxphyaddr,
                         bool nxe)
{
    if (!format->pae) {
        unsigned first = (maxphyaddr < 40 ? maxphyaddr : 40) - 19;
        return format->levels == 1 && bit >= first && bit <= 21;
    }
    if (bit == 63)
        return !nxe;
    return bit >= maxphyaddr || (leaf && format->levels == 1 && bit >= 13 && bit <= 20);
}

static void reserved_bits(void **state)
{
    static const unsigned widths[] = {36, 40, 46, 52};
    struct mmu_page page;
    uint32_t code;

    for (unsigned n = 0; n < 4 * 4 * 2 * 2 * 64; n++) {
        const struct format *format = &formats[n >> 10];
        unsigned bit = n & 63, level = n >> 6 & 1, width = widths[n >> 8 & 3];
        bool nxe = n >> 7 & 1;
        struct tables t;
        if (bit >= format->width * 8 || level >= format->levels)
            continue;
        bool bad = reserved_bit(format, bit, level == format->levels - 1, width, nxe);
        if (!bad && (bit == 0 || bit == 7 || (bit >= 12 && bit < 52)))
            continue;
        build(&t, format);
        t.f->platform.physical_address_bits = (uint8_t)width;
        t.f->v.efer = nxe ? EFER_NXE : 0;
        put(&t, level, get(&t, level) | 1ull << bit);
        bool ok = mmu_walk(&t.f->v, LINEAR, MMU_READ, false, true, &page, &code);
        if (ok == bad || code != (bad ? (PF_PRESENT | PF_RESERVED) : 0))
            fail_msg("bit %u of entry %u, format %u, MAXPHYADDR %u: %d, code %#x", bit, level,
                     n >> 10, width, ok, code);
        x86_fixture_destroy(t.f);
    }
}

/* Bits 20:13 are address bits 39:32; bit 12 is PAT. Without CR4.PSE the PS bit means nothing. */
static void pse(void **state)
{
    struct tables t;
    struct mmu_page page;
    uint32_t code;
    uint64_t physical;

    build(&t, &formats[1]);
    put(&t, 0, 0x80c00000 | 0xa5u << 13 | 1u << 12 | PTE_PS | PTE_P | PTE_G);
    assert_true(mmu_walk(&t.f->v, LINEAR, MMU_READ, false, false, &page, &code));
    assert_int_equal(page.physical, 0xa580c00000 + (LINEAR & 0x3ff000));
    assert_true(page.global && !page.user && !page.writable && !page.no_execute);
    assert_true(mmu_translate_debug(&t.f->v, LINEAR, &physical));
    assert_int_equal(physical, 0xa580c00000 + (LINEAR & 0x3fffff));
    t.f->v.cr4 &= ~(uint64_t)CR4_PSE;
    uint64_t table = x86_fixture_table(t.f);
    put(&t, 0, table | PTE_PS | PTE_P);
    t.at[1] = table + (LINEAR >> 12 & 1023) * 4;
    put(&t, 1, 0x7000 | PTE_P);
    assert_true(mmu_walk(&t.f->v, LINEAR, MMU_READ, false, false, &page, &code));
    assert_int_equal(page.physical, 0x7000);
    x86_fixture_destroy(t.f);
}

/* The PDPTEs are the processor's copies: tables in memory do not count until CR3 is loaded. */
static void pdptes(void **state)
{
    struct tables t;
    struct mmu_page page;
    uint32_t code;

    build(&t, &formats[2]);
    t.f->v.cr3 = 0;
    assert_true(mmu_walk(&t.f->v, LINEAR, MMU_READ, true, false, &page, &code));
    assert_false(mmu_walk(&t.f->v, LINEAR & 0x3fffffff, MMU_WRITE, true, false, &page, &code));
    assert_int_equal(code, PF_WRITE | PF_USER);
    x86_fixture_destroy(t.f);
}

/* A 4 MiB page goes as one, whichever of its addresses INVLPG names. */
static void invlpg_of_4m(void **state)
{
    struct tables t;
    uint64_t value;

    build(&t, &formats[1]);
    put(&t, 0, 0x400000 | PTE_PS | PTE_P | PTE_RW);
    *x86_fixture_ram(t.f, 0x400000) = 0x11;
    *x86_fixture_ram(t.f, 0x7ff000) = 0x22;
    *x86_fixture_ram(t.f, 0x800000) = 0x33;
    *x86_fixture_ram(t.f, 0xbff000) = 0x44;
    assert_int_equal(try_load(t.f, REACH_SUPERVISOR, 0xc0c00000, 4, &value), -1);
    assert_int_equal(value, 0x11);
    assert_int_equal(try_load(t.f, REACH_SUPERVISOR, 0xc0fff000, 4, &value), -1);
    assert_int_equal(value, 0x22);
    put(&t, 0, 0x800000 | PTE_PS | PTE_P | PTE_RW);
    tlb_invlpg(&t.f->v, 0xc0e00000);
    assert_int_equal(try_load(t.f, REACH_SUPERVISOR, 0xc0c00000, 4, &value), -1);
    assert_int_equal(value, 0x33);
    assert_int_equal(try_load(t.f, REACH_SUPERVISOR, 0xc0fff000, 4, &value), -1);
    assert_int_equal(value, 0x44);
    x86_fixture_destroy(t.f);
}

/* What is no RAM reads as ones: with PSE a reserved bit, without a mapping of the highest page. */
static void table_outside_ram(void **state)
{
    struct tables t;
    struct mmu_page page;
    uint32_t code;

    build(&t, &formats[0]);
    t.f->v.cr3 = 0xd0000000;
    assert_false(mmu_walk(&t.f->v, LINEAR, MMU_READ, false, false, &page, &code));
    assert_int_equal(code, PF_PRESENT | PF_RESERVED);
    t.f->v.cr4 = 0;
    put(&t, 0, 0xd0000000 | PTE_P);
    t.f->v.cr3 = t.at[0] & ~0xfffull;
    assert_true(mmu_walk(&t.f->v, LINEAR, MMU_WRITE, false, false, &page, &code));
    assert_int_equal(page.physical, 0xfffff000);
    x86_fixture_destroy(t.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(permissions_all),
        cmocka_unit_test(reserved_bits),
        cmocka_unit_test(pse),
        cmocka_unit_test(pdptes),
        cmocka_unit_test(invlpg_of_4m),
        cmocka_unit_test(table_outside_ram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
