/* SPDX-License-Identifier: MIT */
/*
 * Product of matrices of floats. Compiled without fused multiply-add, which the other rows of group
 * `simd` have: QEMU 7.2 needs 0.2 us for each of single precision, 2,000 times native, and this row
 * alone would decide the group's mean.
 */
#include "bench.h"

#define MATRIX 128

static float left[MATRIX][MATRIX], right[MATRIX][MATRIX], product[MATRIX][MATRIX];

void matrix_prepare(void)
{
    uint64_t state = 1001;
    for (unsigned i = 0; i < MATRIX; i++)
        for (unsigned j = 0; j < MATRIX; j++) {
            left[i][j] = bench_random_float(&state);
            right[i][j] = bench_random_float(&state);
        }
}

uint64_t matrix_run(uint64_t work)
{
    for (uint64_t n = 0; n < work; n++)
        for (unsigned i = 0; i < MATRIX; i++) {
            float row[MATRIX] = {0};
            for (unsigned k = 0; k < MATRIX; k++)
                for (unsigned j = 0; j < MATRIX; j++)
                    row[j] += left[i][k] * right[k][j];
            for (unsigned j = 0; j < MATRIX; j++)
                product[i][j] = row[j] + product[i][j] * 0.5f;
        }
    return bench_hash(product, sizeof(product));
}
