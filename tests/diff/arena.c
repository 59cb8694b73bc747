/* SPDX-License-Identifier: MIT */
/* The arena: which pages exist, what they hold, and what a case has changed in them. Runs in the
 * oracle's child as well, inside a signal handler and without a TLS: no libc calls here. */
#include "diff.h"

#include "random.h"

const struct diff_page diff_pages[DIFF_PAGES] = {
    {DIFF_CODE, DIFF_READ | DIFF_EXECUTE},
    {DIFF_CODE + DIFF_PAGE, DIFF_READ | DIFF_EXECUTE},
    {DIFF_DATA + 1 * DIFF_PAGE, DIFF_READ | DIFF_WRITE},
    {DIFF_DATA + 2 * DIFF_PAGE, DIFF_READ | DIFF_WRITE},
    {DIFF_DATA + 4 * DIFF_PAGE, DIFF_READ | DIFF_WRITE},
    {DIFF_DATA + 5 * DIFF_PAGE, DIFF_READ},
    {DIFF_DATA + 7 * DIFF_PAGE, DIFF_READ},
    {DIFF_DATA + 8 * DIFF_PAGE, DIFF_READ | DIFF_WRITE},
};

int diff_arena_offset(uint64_t linear)
{
    for (unsigned i = 0; i < DIFF_PAGES; i++)
        if (linear - diff_pages[i].linear < DIFF_PAGE)
            return (int)(i * DIFF_PAGE + (linear & (DIFF_PAGE - 1)));
    return -1;
}

void diff_arena_fill(uint8_t arena[DIFF_ARENA])
{
    struct random r = {1};

    for (unsigned i = 0; i < DIFF_ARENA; i++)
        arena[i] =
            (diff_pages[i / DIFF_PAGE].access & DIFF_EXECUTE) ? 0xcc : (uint8_t)random_next(&r);
}

static void copy(volatile uint8_t *to, const uint8_t *from, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        to[i] = from[i];
}

void diff_case_lay(const struct diff_case *c, uint8_t arena[DIFF_ARENA])
{
    for (unsigned i = 0; i < c->patch_count; i++)
        copy(arena + c->patch[i].offset, c->bytes_of_patches + c->patch[i].start, c->patch[i].size);
    for (unsigned i = 0; i < c->length; i++) {
        int offset = diff_arena_offset(c->in.rip + i);
        if (offset >= 0)
            arena[offset] = c->bytes[i];
    }
}

static void restore(uint8_t *a, uint8_t *b, const uint8_t *base, unsigned offset, unsigned n)
{
    copy(a + offset, base + offset, n);
    copy(b + offset, base + offset, n);
}

static bool line_differs(const uint8_t *a, const uint8_t *b)
{
    const uint64_t *x = (const uint64_t *)a, *y = (const uint64_t *)b;
    uint64_t d = 0;

    for (unsigned i = 0; i < DIFF_LINE / 8; i++)
        d |= x[i] ^ y[i];
    return d != 0;
}

void diff_arena_collect(struct diff_outcome *o, uint8_t arena[DIFF_ARENA],
                        uint8_t before[DIFF_ARENA], const uint8_t base[DIFF_ARENA],
                        const struct diff_case *c)
{
    o->lines = 0;
    o->lines_sum = 0;
    for (unsigned at = 0; at < DIFF_ARENA; at += DIFF_LINE) {
        if (!line_differs(arena + at, before + at))
            continue;
        o->lines_sum = random_mix(o->lines_sum + at);
        for (unsigned i = 0; i < DIFF_LINE; i += 8)
            o->lines_sum = random_mix(o->lines_sum ^ *(const uint64_t *)(arena + at + i));
        if (o->lines < DIFF_LINES_MAX) {
            o->line[o->lines].offset = at;
            copy(o->line[o->lines].bytes, arena + at, DIFF_LINE);
        }
        o->lines++;
        restore(arena, before, base, at, DIFF_LINE);
    }
    for (unsigned i = 0; i < c->patch_count; i++)
        restore(arena, before, base, c->patch[i].offset, c->patch[i].size);
    for (unsigned i = 0; i < c->length; i++) {
        int offset = diff_arena_offset(c->in.rip + i);
        if (offset >= 0)
            restore(arena, before, base, (unsigned)offset, 1);
    }
}
