/* SPDX-License-Identifier: MIT */
/* What random vector state a host can hold: on one without AVX-512 the rest is zero. */
#ifndef TESTS_SUPPORT_VECTORS_H
#define TESTS_SUPPORT_VECTORS_H

#include <string.h>

#include "x86/regs.h"
#include "x86/vector.h"

enum { VECTOR_AVX = 2, VECTOR_OPMASK = 5, VECTOR_ZMM_HIGH = 6, VECTOR_ZMM_UPPER = 7 };

static inline void vectors_clip(struct x86_vector *s, uint64_t xcr0)
{
    unsigned lower = xcr0 >> VECTOR_ZMM_HIGH & 1 ? 8 : xcr0 >> VECTOR_AVX & 1 ? 4 : 2;
    unsigned upper = xcr0 >> VECTOR_ZMM_UPPER & 1 ? 8 : 0;
    for (unsigned n = 0; n < 32; n++)
        for (unsigned q = n < 16 ? lower : upper; q < X86_ZMM_QWORDS; q++)
            s->zmm[X86_ZMM_QWORDS * n + q] = 0;
    if (!(xcr0 >> VECTOR_OPMASK & 1))
        memset(s->k, 0, sizeof s->k);
}

#endif
