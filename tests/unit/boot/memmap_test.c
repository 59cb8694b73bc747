/* SPDX-License-Identifier: MIT */
/* The PC memory map for every size that matters. */
#include "boot/memmap.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MIB (1ull << 20)
#define GIB (1ull << 30)

/* Sorted, disjoint, and every RAM entry of the E820 list inside one block. Returns the blocks' sum.
 */
static uint64_t check(const struct memmap *map)
{
    uint64_t end = 0, sum = 0;
    for (unsigned i = 0; i < map->ram_count; i++) {
        assert_true(map->ram[i].base >= end && map->ram[i].size > 0);
        assert_int_equal((map->ram[i].base | map->ram[i].size) % 4096, 0);
        end = map->ram[i].base + map->ram[i].size;
        sum += map->ram[i].size;
    }
    end = 0;
    for (unsigned i = 0; i < map->e820_count; i++) {
        const struct memmap_e820 *r = &map->e820[i];
        bool inside = r->type != MEMMAP_E820_RAM;
        assert_true(r->base >= end && r->size > 0);
        end = r->base + r->size;
        for (unsigned k = 0; k < map->ram_count; k++)
            inside |= r->base >= map->ram[k].base && end <= map->ram[k].base + map->ram[k].size;
        assert_true(inside);
    }
    return sum;
}

static void test_sizes(void **state)
{
    static const uint64_t sizes[] = {
        2 * MIB,        512 * MIB, 3 * GIB - 4096, 3 * GIB,
        3 * GIB + 4096, 4 * GIB,   8 * GIB,        MEMMAP_RAM_MAX,
    };
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct memmap map;
        assert_int_equal(memmap_build(sizes[i], &map, NULL), 0);
        assert_int_equal(check(&map), sizes[i] - (MEMMAP_SHADOW - MEMMAP_LOW_END));
        assert_int_equal(map.ram_count, sizes[i] > 3 * GIB ? 4 : 3);
        for (unsigned k = 0; k < map.ram_count; k++)
            assert_true(map.ram[k].base + map.ram[k].size <= 3 * GIB || map.ram[k].base == 4 * GIB);
    }
}

static void test_512m(void **state)
{
    static const struct memmap_e820 want[] = {
        {0, 0x9fc00, MEMMAP_E820_RAM},
        {0x9fc00, 0x400, MEMMAP_E820_RESERVED},
        {0xe0000, 0x20000, MEMMAP_E820_RESERVED},
        {0x100000, 0x1ff00000, MEMMAP_E820_RAM},
        {0xfec00000, 0x1400000, MEMMAP_E820_RESERVED},
    };
    struct memmap map;
    assert_int_equal(memmap_build(512 * MIB, &map, NULL), 0);
    assert_int_equal(map.e820_count, sizeof(want) / sizeof(want[0]));
    for (unsigned i = 0; i < map.e820_count; i++) {
        assert_int_equal(map.e820[i].base, want[i].base);
        assert_int_equal(map.e820[i].size, want[i].size);
        assert_int_equal(map.e820[i].type, want[i].type);
    }
}

static void test_refused(void **state)
{
    static const uint64_t sizes[] = {0,
                                     1,
                                     4096,
                                     2 * MIB - 4096,
                                     512 * MIB + 1,
                                     1 + 2 * MIB,
                                     UINT64_MAX,
                                     MEMMAP_RAM_MAX + 4096,
                                     0ull - 4096};
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct memmap map;
        struct error e = {0};
        assert_int_equal(memmap_build(sizes[i], &map, &e), -EINVAL);
        assert_int_equal(e.code, EINVAL);
        assert_non_null(strstr(e.text, "memory size"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_512m),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
