/* SPDX-License-Identifier: MIT */
/*
 * From a decoded guest instruction to a host function that runs it: which registers it touches, its
 * bytes with the memory operand replaced, and the machine code around it.
 *
 * The function made is `uint64_t stub(struct vcpu *v, void *memory, uint64_t flags)`. It returns
 * the flags after the instruction (not zero; meaningful when flags_out), or 0 when it was left
 * through `resume`, the place where a signal handler goes on after the instruction trapped: then
 * only MXCSR has changed in the guest state.
 */
#ifndef DOPPEL_ENGINE_HOST_ENCODE_H
#define DOPPEL_ENGINE_HOST_ENCODE_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum encode_form { ENCODE_LEGACY, ENCODE_VEX, ENCODE_EVEX };

/* A host register that stands for one of the guest's while the instruction runs. */
struct encode_register {
    uint8_t guest, host;
    bool written;
};

#define ENCODE_REGISTERS_MAX 8

/* Plain bytes, no padding that matters: the cache compares it whole, after encode_plan zeroed it.
 */
struct encode_plan {
    uint8_t insn[16]; /* as the host runs it */
    uint8_t length;
    uint8_t form; /* enum encode_form */
    uint8_t gprs, vectors;
    struct encode_register gpr[ENCODE_REGISTERS_MAX];
    struct encode_register vector[ENCODE_REGISTERS_MAX];
    uint8_t mask_used, mask_written; /* bit n = k<n> */
    bool wide;                       /* VEX: some operand has 256 bits */
    bool x87;                        /* x87 or MMX state is read or written */
    bool mxcsr;                      /* results or flags depend on MXCSR */
    bool flags_in, flags_out;
    bool memory;
    uint8_t state_register, memory_register;
};

/* False when the instruction cannot be expressed so (VSIB, registers that do not fit, AH…DH). */
bool encode_plan(struct encode_plan *p, const ZydisDecodedInstruction *insn,
                 const ZydisDecodedOperand *operands, const uint8_t *bytes);

#define ENCODE_STUB_MAX 1024

/* Writes the function; returns its length. *at and *resume get offsets in it. */
size_t encode_stub(const struct encode_plan *p, uint8_t out[ENCODE_STUB_MAX], size_t *at,
                   size_t *resume);

#endif
