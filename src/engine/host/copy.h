/* SPDX-License-Identifier: MIT */
/*
 * Run one copied instruction on the host: all x87, MMX, SSE … AVX-512 instructions of the reference
 * engine go through here (decision 5). The instruction is re-encoded so that its memory operand, if
 * any, is [register]: the guest's memory itself where one page holds the operand and the TLB allows
 * the access, else a bounce buffer. Its general registers are the guest's, and no register of
 * doppel is touched; guest vector state is loaded from and saved to v->vector.
 *
 * Exceptions of the instruction itself: #XM (SIMD) and #MF are raised in the guest by looking at
 * the unmasked status before running (x87) or catching SIGFPE (SSE: the guest's MXCSR is loaded as
 * it is, so flags and priorities are the processor's); an instruction that the host does not have
 * ends in SIGILL and is #UD; #UD, #NM by CR0.TS/EM,
 * CR4.OSFXSR/OSXSAVE, XCR0 before running; alignment #GP(0)/#AC by the operand rule of the
 * instruction. x87 FIP/FDP/FOP are the guest's, written here, never the host's. What reads or
 * writes them (FNSTENV, XSAVE, ...) is not copied but done by hand: see fpu_ below.
 */
#ifndef DOPPEL_ENGINE_HOST_COPY_H
#define DOPPEL_ENGINE_HOST_COPY_H

#include <Zydis/Zydis.h>

#include "x86/vcpu.h"

struct copy_code; /* one prepared instruction: executable stub and operand description */

struct copy_cache; /* per VM: the executable memory and the stubs by instruction bytes */

int copy_cache_create(struct copy_cache **out, struct error *e);
void copy_cache_destroy(struct copy_cache *c);
/* The cache is bounded, and the guest chooses the instructions. When it is full, the engine drops
 * every pointer to prepared code (its decoded pages) and clears it; no thread may be in copy_run. A
 * full cache still has room for the instructions of some pages; without room, prepare is NULL. */
bool copy_cache_full(struct copy_cache *c);
void copy_cache_clear(struct copy_cache *c);

/* The stub for the instruction (bytes and its Zydis decode, 64-bit or compatibility mode), shared
 * among equal bytes; NULL when it is not one that may be copied (then it is unsupported). */
const struct copy_code *copy_prepare(struct copy_cache *c, const ZydisDecodedInstruction *insn,
                                     const ZydisDecodedOperand *operands, const uint8_t *bytes);

/* Runs it: memory operands through the guest's TLB with x86_linear checks, flags and general
 * registers in and out of v. Raises guest exceptions before anything architectural changed. Does
 * not advance rip. effective_address = offset in segment of the memory operand, already computed
 * (ignored when there is none, or VSIB: computed inside). */
void copy_run(struct vcpu *v, const struct copy_code *code, uint64_t effective_address);

/* XSAVE, XSAVEOPT, XSAVEC, XRSTOR, FXSAVE, FXRSTOR, by hand on v->vector with
 * guest XCR0, at the linear address; raise as the manual says. */
#define FPU_FXSAVE_BYTES 512u
/* How many bytes XSAVE, or XRSTOR of the image at linear, asks for by this mask. The latter raises.
 */
unsigned fpu_xsave_extent(const struct vcpu *v, uint64_t mask, bool compact);
unsigned fpu_xrstor_extent(struct vcpu *v, uint64_t linear, uint64_t mask);
void fpu_xsave(struct vcpu *v, uint64_t linear, uint64_t mask, bool compact, bool optimized,
               bool rex_w);
void fpu_xrstor(struct vcpu *v, uint64_t linear, uint64_t mask, bool rex_w);
void fpu_fxsave(struct vcpu *v, uint64_t linear, bool rex_w);
void fpu_fxrstor(struct vcpu *v, uint64_t linear, bool rex_w);
/* FNSTENV or FNSAVE, FLDENV or FRSTOR (with `registers`) in the format of the mode; size = 2 or 4,
 * of each field. environment.c. */
/* Raises as FNSTENV and FNSAVE do, or with `waits` FLDENV and FRSTOR, before their operand. */
void fpu_check_environment(struct vcpu *v, bool waits);
void fpu_store_environment(struct vcpu *v, uint64_t linear, unsigned size, bool registers);
void fpu_load_environment(struct vcpu *v, uint64_t linear, unsigned size, bool registers);
/* What follows from a loaded x87 image: reserved bits, FSW.ES and B. */
void fpu_settle_x87(struct x86_vector *s);

#endif
