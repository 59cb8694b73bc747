/* SPDX-License-Identifier: MIT */
/* Independent work for one processor: arithmetic and a table of 4 KiB. In the guest compute.c, and
 * for comparison in bench/compute.c on the bare machine. */
#ifndef TESTS_SMP_COMPUTE_H
#define TESTS_SMP_COMPUTE_H

static inline unsigned long compute(unsigned table[1024], unsigned long turns)
{
    unsigned long h = 0x9e3779b97f4a7c15ul;
    for (unsigned long n = 0; n < turns; n++) {
        h = (h ^ n) * 0xff51afd7ed558ccdul;
        h ^= h >> 33;
        table[h & 1023] += (unsigned)h;
        h += table[n & 1023];
    }
    return h;
}

#endif
