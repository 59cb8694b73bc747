/* SPDX-License-Identifier: MIT */
/* Rows `chase` and `hash`: loads whose address is the last load's value, and a hash table with open
 * addressing. */
#include "bench.h"

#define CHASE_COUNT 131072 /* of 64 bytes: 8 MiB, more than a second-level cache holds */
#define HASH_BITS   17
#define HASH_MASK   ((1u << HASH_BITS) - 1)

struct node {
    struct node *next;
    uint64_t value;
    uint64_t pad[6];
};

static struct node *nodes;
static uint64_t (*table)[2];

/* One cycle through all nodes in random order (Sattolo's shuffle). */
void chase_prepare(void)
{
    nodes = bench_pages(CHASE_COUNT * sizeof(*nodes));
    uint32_t *order = bench_pages(CHASE_COUNT * sizeof(*order));
    uint64_t state = 12345;
    for (uint32_t i = 0; i < CHASE_COUNT; i++)
        order[i] = i;
    for (uint32_t i = CHASE_COUNT - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(bench_random(&state) % i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < CHASE_COUNT; i++) {
        nodes[order[i]].next = &nodes[order[(i + 1) % CHASE_COUNT]];
        nodes[order[i]].value = i;
    }
}

uint64_t chase_run(uint64_t work)
{
    const struct node *node = nodes;
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++, node = node->next)
        sum += node->value * n;
    return sum;
}

void hash_prepare(void)
{
    table = bench_pages(sizeof(*table) << HASH_BITS);
}

/* The slot of the key, or the free one where it belongs. Key 0 is never used. */
static uint64_t *slot_of(uint64_t key)
{
    uint32_t at = (uint32_t)(key * 0x9e3779b97f4a7c15ul >> (64 - HASH_BITS));
    while (table[at][0] != key && table[at][0] != 0)
        at = (at + 1) & HASH_MASK;
    return table[at];
}

uint64_t hash_run(uint64_t work)
{
    uint64_t state = 987654321, sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        uint64_t key = (bench_random(&state) & (HASH_MASK >> 1)) + 1;
        uint64_t *slot = slot_of(key);
        slot[0] = key;
        sum += ++slot[1];
    }
    return sum;
}
