/* SPDX-License-Identifier: MIT */
/* Condition codes by their number in the encoding (SDM 1 appendix B). */
#ifndef DOPPEL_ENGINE_INTERP_CONDITION_H
#define DOPPEL_ENGINE_INTERP_CONDITION_H

#include "x86/vcpu.h"

enum condition {
    CC_O,
    CC_NO,
    CC_B,
    CC_NB,
    CC_Z,
    CC_NZ,
    CC_BE,
    CC_NBE,
    CC_S,
    CC_NS,
    CC_P,
    CC_NP,
    CC_L,
    CC_NL,
    CC_LE,
    CC_NLE,
    CC_COUNT
};

static inline __attribute__((always_inline)) bool condition_holds(const struct vcpu *v,
                                                                  enum condition cc)
{
    uint64_t f = v->rflags;
    bool less = ((f >> 7) ^ (f >> 11)) & 1;
    bool result;
    switch (cc & ~1u) {
    case CC_O:
        result = (f & FLAG_OF) != 0;
        break;
    case CC_B:
        result = (f & FLAG_CF) != 0;
        break;
    case CC_Z:
        result = (f & FLAG_ZF) != 0;
        break;
    case CC_BE:
        result = (f & (FLAG_CF | FLAG_ZF)) != 0;
        break;
    case CC_S:
        result = (f & FLAG_SF) != 0;
        break;
    case CC_P:
        result = (f & FLAG_PF) != 0;
        break;
    case CC_L:
        result = less;
        break;
    default:
        result = less || (f & FLAG_ZF) != 0;
        break;
    }
    return result ^ (cc & 1);
}

/* Expands X(suffix of Zydis' mnemonic, condition) for all sixteen. */
#define CONDITIONS(X) \
    X(O, CC_O)        \
    X(NO, CC_NO)      \
    X(B, CC_B)        \
    X(NB, CC_NB)      \
    X(Z, CC_Z)        \
    X(NZ, CC_NZ)      \
    X(BE, CC_BE)      \
    X(NBE, CC_NBE)    \
    X(S, CC_S)        \
    X(NS, CC_NS)      \
    X(P, CC_P)        \
    X(NP, CC_NP)      \
    X(L, CC_L)        \
    X(NL, CC_NL)      \
    X(LE, CC_LE)      \
    X(NLE, CC_NLE)

#endif
