/* SPDX-License-Identifier: MIT */
/* Where things lie in guest memory; see image.h. Sizes and addresses come from files. */
#include "boot/image.h"

#include <errno.h>

static const char *add(struct layout *l, uint64_t base, uint64_t size, const char *what)
{
    if (l->count == LAYOUT_CLAIMS_MAX)
        return "too many separate pieces";
    l->claims[l->count].base = base;
    l->claims[l->count].size = size;
    l->claims[l->count++].what = what;
    return NULL;
}

/* The first claim that [base, base+size) touches, or -1. The range does not wrap. */
static int taken(const struct layout *l, uint64_t base, uint64_t size)
{
    for (unsigned i = 0; i < l->count; i++)
        if (base < l->claims[i].base + l->claims[i].size && l->claims[i].base < base + size)
            return (int)i;
    return -1;
}

static bool is_free_ram(const struct memmap *map, uint64_t base, uint64_t size)
{
    for (unsigned i = 0; i < map->e820_count; i++) {
        const struct memmap_e820 *r = &map->e820[i];
        if (r->type == MEMMAP_E820_RAM && base >= r->base &&
            boot_inside(base - r->base, size, r->size))
            return true;
    }
    return false;
}

int layout_claim(struct layout *l, uint64_t base, uint64_t size, const char *what, struct error *e)
{
    if (size == 0)
        return 0;
    if (!is_free_ram(l->map, base, size))
        return error_set(e, EINVAL,
                         "%s wants 0x%llx bytes at 0x%llx, where there is not that much free "
                         "memory; give more with --mem",
                         what, (unsigned long long)size, (unsigned long long)base);
    int other = taken(l, base, size);
    if (other >= 0)
        return error_set(e, EINVAL, "%s (0x%llx bytes at 0x%llx) lies over %s", what,
                         (unsigned long long)size, (unsigned long long)base, l->claims[other].what);
    const char *problem = add(l, base, size, what);
    return problem == NULL ? 0 : error_set(e, EINVAL, "%s: %s", what, problem);
}

/* The two searches look for a place in [low, high), which is RAM; false when there is none. */
static bool search_up(const struct layout *l, uint64_t size, uint64_t align, uint64_t low,
                      uint64_t high, uint64_t *base)
{
    uint64_t at = low;
    for (;;) {
        if (at > UINT64_MAX - (align - 1))
            return false;
        at = (at + align - 1) & ~(align - 1);
        if (!boot_inside(at, size, high))
            return false;
        int other = taken(l, at, size);
        if (other < 0)
            break;
        at = l->claims[other].base + l->claims[other].size;
    }
    *base = at;
    return true;
}

static bool search_down(const struct layout *l, uint64_t size, uint64_t align, uint64_t low,
                        uint64_t high, uint64_t *base)
{
    uint64_t top = high;
    for (;;) {
        if (top < low || size > top - low)
            return false;
        uint64_t at = (top - size) & ~(align - 1);
        if (at < low)
            return false;
        int other = taken(l, at, size);
        if (other < 0) {
            *base = at;
            return true;
        }
        top = l->claims[other].base;
    }
}

int layout_find(struct layout *l, enum layout_direction d, uint64_t size, uint64_t align,
                uint64_t low, uint64_t high, const char *what, uint64_t *base, struct error *e)
{
    const struct memmap *map = l->map;
    for (unsigned i = 0; i < map->e820_count; i++) {
        const struct memmap_e820 *r = &map->e820[d == LAYOUT_UP ? i : map->e820_count - 1 - i];
        if (r->type != MEMMAP_E820_RAM)
            continue;
        uint64_t from = r->base > low ? r->base : low;
        uint64_t end = r->base + r->size < high ? r->base + r->size : high;
        if (d == LAYOUT_UP ? !search_up(l, size, align, from, end, base)
                           : !search_down(l, size, align, from, end, base))
            continue;
        const char *problem = size == 0 ? NULL : add(l, *base, size, what);
        return problem == NULL ? 0 : error_set(e, ENOSPC, "%s: %s", what, problem);
    }
    return error_set(e, ENOSPC,
                     "no room for %s of %llu bytes between 0x%llx and 0x%llx; give more memory "
                     "with --mem",
                     what, (unsigned long long)size, (unsigned long long)low,
                     (unsigned long long)high);
}
