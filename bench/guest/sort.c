/* SPDX-License-Identifier: MIT */
/* Quicksort of 64-bit numbers, insertion sort below 16: branches that nothing predicts. */
#include "bench.h"

#include <string.h>

#define COUNT 100000

static uint64_t source[COUNT], items[COUNT];

void sort_prepare(void)
{
    uint64_t state = 88172645463325252ul;
    for (unsigned i = 0; i < COUNT; i++)
        source[i] = bench_random(&state);
}

static void insertion(uint64_t *a, long count)
{
    for (long i = 1; i < count; i++) {
        uint64_t x = a[i];
        long j = i;
        for (; j > 0 && a[j - 1] > x; j--)
            a[j] = a[j - 1];
        a[j] = x;
    }
}

static void quick(uint64_t *a, long count)
{
    while (count > 16) {
        uint64_t x = a[0], y = a[count / 2], z = a[count - 1];
        uint64_t low = x < y ? x : y, high = x < y ? y : x;
        uint64_t pivot = z < low ? low : z > high ? high : z;
        long i = 0, j = count - 1;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                uint64_t t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        quick(a, j + 1);
        a += i;
        count -= i;
    }
    insertion(a, count);
}

uint64_t sort_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        memcpy(items, source, sizeof(items));
        quick(items, COUNT);
        for (unsigned i = 0; i < COUNT; i += 1000)
            sum = bench_mix(sum, items[i]);
    }
    return sum;
}
