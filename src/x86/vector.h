/* SPDX-License-Identifier: MIT */
/*
 * Vector and x87 state as the architecture sees it (decision 16): each register whole, so that one
 * move loads it, and plain arrays, so that the field table is a list. XSAVE images are made from it
 * by engine/host/fpu.c.
 *
 * The first 576 bytes are laid out as XSAVE's legacy region and header (SDM 1, 13.4): engines let
 * the processor save and restore the x87 component in place (XSAVE64 with a mask of 1). The parts
 * of it that this would not touch, and `scratch`, are no state.
 */
#ifndef DOPPEL_X86_VECTOR_H
#define DOPPEL_X86_VECTOR_H

#include <stdint.h>

#include "base/field.h"

#define X86_ZMM_QWORDS 8 /* of one register in zmm[] */

struct x86_vector {
    _Alignas(64) uint16_t fcw;
    uint16_t fsw;
    uint8_t ftw; /* abridged: bit n = physical register n is not empty (SDM 1, 10.5.1.1) */
    uint8_t ftw_reserved;
    uint16_t fop;
    uint64_t fip, fdp; /* FCS and FDS are zero: deprecated, CPUID.7.EBX[13] */
    uint32_t mxcsr;
    uint32_t mxcsr_mask;        /* not state */
    uint64_t st[16];            /* ST(i) = st[2i] and the low 16 bits of st[2i + 1] */
    uint64_t legacy_unused[44]; /* not state: XMM in an XSAVE image */
    uint64_t xsave_header[8];   /* not state: XSTATE_BV, XCOMP_BV */

    uint64_t k[8];
    _Alignas(64) uint64_t zmm[32 * X86_ZMM_QWORDS]; /* XMM and YMM are their low parts */
    uint64_t scratch[16];                           /* not state: bounce buffer of engines */
};

/* What the field table of the thing that holds the struct as `member` lists. */
#define X86_VECTOR_FIELDS(type, member)                                                       \
    FIELD(type, member.fcw), FIELD(type, member.fsw), FIELD(type, member.ftw),                \
        FIELD(type, member.fop), FIELD(type, member.fip), FIELD(type, member.fdp),            \
        FIELD(type, member.mxcsr), FIELD_ARRAY(type, member.st), FIELD_ARRAY(type, member.k), \
        FIELD_ARRAY(type, member.zmm)

#define MXCSR_RESERVED 0xffff0000u /* setting one of them raises #GP(0) */

/* Power-up state (SDM 3A table 9-1): FCW 0x40, all registers zero. INIT keeps the state. */
void x86_vector_reset(struct x86_vector *s);

/* For state that was loaded: NULL, or the name of the field with an impossible value. */
const char *x86_vector_check(const struct x86_vector *s);

#endif
