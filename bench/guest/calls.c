/* SPDX-License-Identifier: MIT */
/* Group `calls`: recursion, indirect calls, callbacks. Compiled without inlining and without jumps
 * in place of last calls (bench/build.mk), or there would be few calls left. */
#include "bench.h"

#include <stdlib.h>

#define SHAPES 4096
#define ITEMS  20000
#define LEAVES 65536

static uint64_t fib(uint64_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t ackermann(uint64_t m, uint64_t n)
{
    if (m == 0)
        return n + 1;
    return ackermann(m - 1, n == 0 ? 1 : ackermann(m, n - 1));
}

uint64_t fib_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++)
        sum = bench_mix(sum, fib(20 + (n & 1)));
    return sum;
}

uint64_t ackermann_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++)
        sum = bench_mix(sum, ackermann(2, 60 + (n & 7)));
    return sum;
}

/* Objects of four kinds in random order, called through their tables of functions. */
struct shape {
    const struct shape_ops *ops;
    uint32_t a, b;
};
struct shape_ops {
    uint32_t (*area)(const struct shape *);
    void (*grow)(struct shape *, uint32_t);
};

static uint32_t square_area(const struct shape *s)
{
    return s->a * s->a;
}
static uint32_t box_area(const struct shape *s)
{
    return s->a * s->b;
}
static uint32_t triangle_area(const struct shape *s)
{
    return s->a * s->b / 2;
}
static uint32_t ring_area(const struct shape *s)
{
    return s->a * s->a - s->b;
}
static void grow_one(struct shape *s, uint32_t by)
{
    s->a = (s->a + by) & 1023;
}
static void grow_both(struct shape *s, uint32_t by)
{
    s->a = (s->a + by) & 1023;
    s->b = (s->b + by) & 1023;
}

static const struct shape_ops shape_kinds[4] = {
    {square_area, grow_one},
    {box_area, grow_both},
    {triangle_area, grow_both},
    {ring_area, grow_one},
};
static struct shape shapes[SHAPES];

void virtual_prepare(void)
{
    uint64_t state = 4711;
    for (unsigned i = 0; i < SHAPES; i++) {
        uint64_t r = bench_random(&state);
        shapes[i] = (struct shape){&shape_kinds[r >> 62], r & 1023, r >> 10 & 1023};
    }
}

uint64_t virtual_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++)
        for (unsigned i = 0; i < SHAPES; i++) {
            uint32_t area = shapes[i].ops->area(&shapes[i]);
            shapes[i].ops->grow(&shapes[i], area & 7);
            sum += area;
        }
    return sum;
}

/* The C library's qsort calls back for each comparison. */
static uint32_t numbers[ITEMS], sorted[ITEMS];

void callback_prepare(void)
{
    uint64_t state = 31337;
    for (unsigned i = 0; i < ITEMS; i++)
        numbers[i] = (uint32_t)bench_random(&state);
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

uint64_t callback_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        for (unsigned i = 0; i < ITEMS; i++)
            sorted[i] = numbers[i];
        qsort(sorted, ITEMS, sizeof(*sorted), compare_numbers);
        sum = bench_mix(sum, sorted[n % ITEMS]);
    }
    return sum;
}

/* A binary search tree walked by recursion: deep, uneven returns. */
struct leaf {
    struct leaf *child[2];
    uint32_t key;
};
static struct leaf *leaves;

void tree_prepare(void)
{
    uint64_t state = 271828;
    leaves = bench_pages(LEAVES * sizeof(*leaves));
    leaves[0].key = 1u << 31;
    for (unsigned i = 1; i < LEAVES; i++) {
        struct leaf *at = &leaves[0], *leaf = &leaves[i];
        leaf->key = (uint32_t)bench_random(&state);
        for (;;) {
            struct leaf **next = &at->child[leaf->key > at->key];
            if (*next == NULL) {
                *next = leaf;
                break;
            }
            at = *next;
        }
    }
}

static uint64_t walk(const struct leaf *leaf, uint64_t depth)
{
    uint64_t sum = leaf->key * depth;
    for (unsigned i = 0; i < 2; i++)
        if (leaf->child[i] != NULL)
            sum += walk(leaf->child[i], depth + 1);
    return sum;
}

uint64_t tree_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++)
        sum = bench_mix(sum, walk(leaves, n));
    return sum;
}
