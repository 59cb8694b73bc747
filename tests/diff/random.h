/* SPDX-License-Identifier: MIT */
/* The tester's random numbers (splitmix64): a case is a function of its seed alone. */
#ifndef DOPPEL_TESTS_DIFF_RANDOM_H
#define DOPPEL_TESTS_DIFF_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct random {
    uint64_t s;
};

static inline uint64_t random_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t random_next(struct random *r)
{
    return random_mix(r->s += 0x9e3779b97f4a7c15u);
}

static inline uint32_t random_below(struct random *r, uint32_t n)
{
    return (uint32_t)(((random_next(r) >> 32) * n) >> 32);
}

static inline bool random_chance(struct random *r, unsigned percent)
{
    return random_below(r, 100) < percent;
}

#endif
