/* SPDX-License-Identifier: MIT */
/* Guest-physical memory: the map, hostile addresses and lengths, guards, flags, notifications. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// clang-format off
#include <cmocka.h>
// clang-format on
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "mem/mem.h"

#define LOW_END  0xa0000u
#define HIGH     0x100000000ull
#define HIGH_END (HIGH + (4u << 20))

struct told {
    unsigned count;
    uint64_t page;
};

static void told(void *context, gpa_t page)
{
    struct told *t = context;
    t->count++;
    t->page = page.v;
}

/* RAM 0…640 KiB, ROM right above it, a gap, RAM at 4 GiB. */
static void build(struct mem *m, enum mem_backing backing)
{
    struct error e = {0};
    mem_init(m);
    assert_int_equal(mem_add(m, "high", GPA(HIGH), HIGH_END - HIGH, backing, false, &e), 0);
    assert_int_equal(mem_add(m, "low", GPA(0), LOW_END, backing, false, &e), 0);
    assert_int_equal(mem_add(m, "rom", GPA(LOW_END), 0x10000, backing, true, &e), 0);
}

static void blocks_are_checked(void **state)
{
    static const struct {
        uint64_t base, size;
    } bad[] = {
        {0, 0},
        {1, 4096},
        {0x200000, 4095},
        {LOW_END - 4096, 8192},
        {HIGH, 4096},
        {HIGH_END - 4096, 4096},
        {0, UINT64_MAX & ~0xfffull},
        {UINT64_MAX & ~0xfffull, 4096},
        {1ull << 52, 4096},
        {(1ull << 52) - 4096, 8192},
    };
    struct mem m;
    struct error e = {0};
    build(&m, MEM_ANONYMOUS);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(
            mem_add(&m, "bad", GPA(bad[i].base), bad[i].size, MEM_ANONYMOUS, false, &e), -EINVAL);
        assert_non_null(strstr(e.text, "bad"));
    }
    for (unsigned i = m.block_count; i < MEM_BLOCKS_MAX; i++)
        assert_int_equal(
            mem_add(&m, "more", GPA(HIGH_END + i * 4096), 4096, MEM_ANONYMOUS, false, &e), 0);
    assert_int_equal(mem_add(&m, "last", GPA(1ull << 40), 4096, MEM_ANONYMOUS, false, &e), -ENOSPC);
    for (unsigned i = 1; i < m.block_count; i++)
        assert_true(m.blocks[i - 1].base.v < m.blocks[i].base.v);
    mem_fini(&m);
    assert_int_equal(m.block_count, 0);
}

static void hostile_addresses(void **state)
{
    static const struct {
        uint64_t a, n;
        bool good;
    } cases[] = {
        {0, 0, true},
        {UINT64_MAX, 0, true},
        {UINT64_MAX, 1, false},
        {0, LOW_END + 0x10000, true}, /* RAM and ROM touch */
        {0, LOW_END + 0x10001, false},
        {LOW_END + 0xffff, 1, true},
        {LOW_END + 0xffff, 2, false},
        {LOW_END + 0x10000, 1, false},
        {HIGH - 1, 1, false},
        {HIGH - 1, 2, false},
        {HIGH, HIGH_END - HIGH, true},
        {HIGH_END - 1, 1, true},
        {HIGH_END - 1, 2, false},
        {HIGH, UINT64_MAX, false},
        {HIGH, 0 - HIGH, false},
        {8, UINT64_MAX - 7, false},
    };
    struct mem m;
    uint8_t byte = 7;
    build(&m, MEM_ANONYMOUS);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(mem_contains(&m, GPA(cases[i].a), cases[i].n), cases[i].good);
        if (!cases[i].good) {
            assert_int_equal(mem_fill(&m, GPA(cases[i].a), 1, cases[i].n), -EFAULT);
            assert_int_equal(mem_read(&m, GPA(cases[i].a), &byte, cases[i].n), -EFAULT);
            assert_int_equal(mem_write(&m, GPA(cases[i].a), &byte, cases[i].n), -EFAULT);
        }
    }
    assert_int_equal(byte, 7);
    for (uint64_t a = 0; a < LOW_END + 0x10000; a += 512) {
        assert_int_equal(mem_read(&m, GPA(a), &byte, 1), 0);
        assert_int_equal(byte, 0); /* a refused fill has changed nothing */
    }
    mem_fini(&m);
}

static void copies(void **state)
{
    struct mem m;
    uint8_t out[9000], in[9000];
    build(&m, MEM_MEMFD);
    for (unsigned i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)(i * 7);
    for (unsigned n = 0; n < 40; n++) {
        uint64_t at = LOW_END - 4500 + n; /* over pages, and from RAM into ROM */
        assert_int_equal(mem_write(&m, GPA(at), in, sizeof(in) - n), 0);
        assert_int_equal(mem_read(&m, GPA(at), out, sizeof(in) - n), 0);
        assert_memory_equal(in, out, sizeof(in) - n);
        assert_int_equal(mem_write(&m, GPA(n), in, n), 0);
        assert_int_equal(mem_read(&m, GPA(n), out, n), 0);
        assert_memory_equal(in, out, n);
    }
    assert_int_equal(mem_fill(&m, GPA(0xfff), 0x5a, 4098), 0);
    assert_int_equal(mem_read(&m, GPA(0), out, 9000), 0);
    assert_true(out[0xfff] == 0x5a && out[0x2000] == 0x5a && out[0x2001] != 0x5a);
    mem_fini(&m);
}

struct seen {
    unsigned dirtied, copied;
    uint64_t page, at, n;
};

static void saw_dirty(void *context, gpa_t page)
{
    struct seen *s = context;
    s->dirtied++;
    s->page = page.v;
}

static void saw_copy(void *context, gpa_t a, uint64_t n)
{
    struct seen *s = context;
    s->copied++;
    s->at = a.v;
    s->n = n;
}

static void observer(void **state)
{
    struct mem m;
    struct seen s = {0};
    uint64_t value = 0;
    build(&m, MEM_ANONYMOUS);
    mem_observe(&m, (struct mem_observer){saw_dirty, saw_copy, &s});

    assert_int_equal(mem_write(&m, GPA(0x3010), &value, 8), 0);
    assert_true(s.dirtied == 1 && s.page == 0x3000);
    assert_true(s.copied == 1 && s.at == 0x3010 && s.n == 8);
    assert_int_equal(mem_fill(&m, GPA(0x3ff0), 1, 0x20), 0); /* 0x3000 is dirty already */
    assert_true(s.dirtied == 2 && s.page == 0x4000);
    assert_true(s.copied == 2 && s.at == 0x3ff0 && s.n == 0x20);
    mem_page_clean(&m, GPA(0x3000));
    assert_true(mem_cas64(&m, GPA(0x3010), &value, 1));
    assert_true(s.dirtied == 3 && s.page == 0x3000 && s.copied == 2);
    assert_int_equal(mem_write(&m, GPA(HIGH_END), &value, 8), -EFAULT);
    assert_true(s.dirtied == 3 && s.copied == 2);
    mem_fini(&m);
}

static void flags_and_listeners(void **state)
{
    struct mem m;
    struct told t = {0};
    _Atomic uint8_t *flags;
    uint64_t value = 0;
    build(&m, MEM_ANONYMOUS);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(mem_add_listener(&m, (struct mem_listener){told, &t}), 0);
    assert_int_equal(mem_add_listener(&m, (struct mem_listener){told, &t}), -ENOSPC);
    m.listener_count = 1;

    assert_null(mem_page(&m, GPA(HIGH_END), NULL));
    assert_ptr_equal(mem_page(&m, GPA(0x3abc), &flags), mem_page(&m, GPA(0x3000), NULL));
    assert_int_equal(*flags, 0);
    assert_int_equal(mem_write(&m, GPA(0x3ffc), &value, 8), 0);
    assert_int_equal(*flags, MEM_PAGE_DIRTY);
    assert_int_equal(t.count, 0);
    atomic_fetch_or(flags, MEM_PAGE_CODE);
    assert_int_equal(mem_write(&m, GPA(0x2ffc), &value, 8), 0);
    assert_true(t.count == 1 && t.page == 0x3000);
    assert_int_equal(mem_fill(&m, GPA(0x2000), 0, 4096), 0);
    assert_int_equal(t.count, 1);
    value = 0;
    assert_true(mem_cas64(&m, GPA(0x3008), &value, 5));
    assert_int_equal(t.count, 2);
    mem_fini(&m);
}

static void loads_and_swaps(void **state)
{
    struct mem m;
    uint64_t v64 = 1;
    uint32_t v32 = 1;
    _Atomic uint8_t *flags;
    build(&m, MEM_ANONYMOUS);
    assert_false(mem_load64(&m, GPA(4), &v64)); /* not aligned */
    assert_false(mem_load32(&m, GPA(2), &v32));
    assert_false(mem_load64(&m, GPA(HIGH_END), &v64));
    assert_false(mem_cas64(&m, GPA(HIGH_END), &v64, 2));
    assert_int_equal(v64, 1);

    assert_false(mem_cas64(&m, GPA(8), &v64, 2)); /* 0 is there */
    assert_int_equal(v64, 0);
    mem_page(&m, GPA(8), &flags);
    assert_int_equal(*flags, 0); /* nothing was written */
    assert_true(mem_cas64(&m, GPA(8), &v64, 0x100000002));
    assert_true(mem_load64(&m, GPA(8), &v64) && v64 == 0x100000002);
    assert_true(mem_load32(&m, GPA(12), &v32) && v32 == 1);
    assert_true(mem_cas32(&m, GPA(12), &v32, 3));
    assert_false(mem_cas32(&m, GPA(12), &v32, 4));
    assert_int_equal(v32, 3);

    v64 = 0; /* in ROM: dropped and counted */
    assert_true(mem_cas64(&m, GPA(LOW_END), &v64, 9));
    assert_true(mem_load64(&m, GPA(LOW_END), &v64) && v64 == 0);
    assert_int_equal(m.rom_writes, 1);
    mem_fini(&m);
}

/* What /proc/self/maps says of the bytes around the block. */
static void has_guards(const struct mem_block *b)
{
    unsigned long start, end, guards = 0;
    char rights[5];
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL) {
        if (sscanf(line, "%lx-%lx %4s", &start, &end, rights) != 3)
            continue;
        uintptr_t host = (uintptr_t)b->host;
        if (start <= host - MEM_GUARD && end == host && strcmp(rights, "---p") == 0)
            guards++;
        if (start == host + b->size && end >= host + b->size + MEM_GUARD &&
            strcmp(rights, "---p") == 0)
            guards++;
    }
    fclose(maps);
    assert_int_equal(guards, 2);
}

static void guards(void **state)
{
    for (int backing = MEM_ANONYMOUS; backing <= MEM_MEMFD; backing++) {
        struct mem m;
        build(&m, (enum mem_backing)backing);
        for (unsigned i = 0; i < m.block_count; i++) {
            has_guards(&m.blocks[i]);
            assert_int_equal(((uintptr_t)m.blocks[i].host ^ m.blocks[i].base.v) & 0x1fffff, 0);
            assert_int_equal(m.blocks[i].fd >= 0, backing == MEM_MEMFD);
        }
        mem_fini(&m);
    }
}

static unsigned long resident_pages(void)
{
    unsigned long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu %lu", &total, &resident), 2);
    fclose(f);
    return resident;
}

/* 8 GiB of which 3 bytes are touched: at most a huge page each, and the flags. */
static void memory_follows_touch(void **state)
{
    struct mem m;
    struct error e = {0};
    uint8_t byte = 1;
    mem_init(&m);
    unsigned long before = resident_pages();
    assert_int_equal(mem_add(&m, "ram", GPA(0), 8ull << 30, MEM_ANONYMOUS, false, &e), 0);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(mem_write(&m, GPA(i << 31), &byte, 1), 0);
    unsigned long grown = resident_pages() - before;
    assert_true(grown < 4 * 512);
    mem_fini(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_checked),
        cmocka_unit_test(hostile_addresses),
        cmocka_unit_test(copies),
        cmocka_unit_test(flags_and_listeners),
        cmocka_unit_test(observer),
        cmocka_unit_test(loads_and_swaps),
        cmocka_unit_test(guards),
        cmocka_unit_test(memory_follows_touch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
