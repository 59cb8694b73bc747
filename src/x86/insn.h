/* SPDX-License-Identifier: MIT */
/*
 * The compact decode record of one instruction, made once from Zydis' large structs and kept by the
 * engines for as long as the guest's code page stands.
 *
 * Register operands are byte offsets into `struct vcpu` (gpr is its first member), so that AH is
 * offset 1 and every read or write is one host access. A memory operand is base + (index << scale)
 * + disp, where an absent base or index is the offset of vcpu.zero and RIP-relative addressing has
 * vcpu.rip as base and the instruction's length in disp: no branches in address arithmetic.
 */
#ifndef DOPPEL_X86_INSN_H
#define DOPPEL_X86_INSN_H

#include <Zydis/Zydis.h>

#include "x86/vcpu.h"

#define INSN_LENGTH_MAX 15

/* The visible operands in order. I = immediate, R = general register, M = memory, S = segment
 * register, C and D = control and debug register; FORM_OTHER holds anything else. */
enum insn_form {
    FORM_NONE,
    FORM_R,
    FORM_M,
    FORM_I,
    FORM_S,
    FORM_RR,
    FORM_RI,
    FORM_RM,
    FORM_MR,
    FORM_MI,
    FORM_RS,
    FORM_SR,
    FORM_MS,
    FORM_SM,
    FORM_RC,
    FORM_CR,
    FORM_RD,
    FORM_DR,
    FORM_RRI,
    FORM_RMI,
    FORM_MRI,
    FORM_RRR,
    FORM_MRR,
    FORM_OTHER,
    FORMS
};

enum insn_prefix {
    INSN_LOCK = 1 << 0,
    INSN_REP = 1 << 1,      /* F3 */
    INSN_REPNE = 1 << 2,    /* F2 */
    INSN_OVERRIDE = 1 << 3, /* seg was named by a prefix */
    INSN_FAR = 1 << 4,      /* a far JMP, CALL or RET */
};

/* REAL: 16-bit code of real and virtual-8086 mode, which have no VEX and EVEX (SDM 2A 2.3.1). */
enum insn_mode { INSN_MODE_64, INSN_MODE_32, INSN_MODE_16, INSN_MODE_REAL, INSN_MODES };

struct insn;
typedef const struct insn *(*insn_exec)(struct vcpu *v, const struct insn *i);

struct insn {
    insn_exec exec; /* the engine's handler */
    uint64_t imm;   /* sign-extended immediate or displacement of a branch; or the handler's own */
    const struct insn *link; /* the engine's: target of a jump within the page, once known */
    int32_t disp;
    uint16_t op;          /* ZydisMnemonic */
    uint8_t dst, src;     /* register operands: byte offsets in struct vcpu; or a register number */
    uint8_t base, index;  /* of the memory operand: byte offsets in struct vcpu */
    uint8_t scale;        /* log2 */
    uint8_t seg;          /* enum x86_sreg */
    uint8_t size;         /* operand size in bytes */
    uint8_t src_size;     /* of the second operand, where it differs (MOVZX) */
    uint8_t address_size; /* bytes */
    uint8_t stack_size;   /* bytes of one push */
    uint8_t length;
    uint8_t form;     /* enum insn_form */
    uint8_t prefixes; /* enum insn_prefix */
};

enum insn_status {
    INSN_OK,
    INSN_INVALID,  /* #UD */
    INSN_TOO_LONG, /* more than 15 bytes: #GP(0) (SDM 2A 2.3.11) */
    INSN_PARTIAL,  /* the bytes end within the instruction */
};

/* What the caller may need beyond the record: Zydis' own structs, for run-copied instructions. */
struct insn_full {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

/* A decoder for one CPUID model: what the model does not offer is INSN_INVALID, and encodings that
 * are something else on a processor without a feature (TZCNT is BSF) are that. */
struct insn_decoder {
    ZydisDecoder modes[INSN_MODES];
    bool offered[ZYDIS_ISA_SET_MAX_VALUE + 1];
    bool amd; /* the model's vendor */
};
void insn_decoder_init(struct insn_decoder *d, const struct cpuid_model *model);

/* Decodes at most n bytes. On INSN_OK every field but exec and link is set. *full is scratch and
 * holds the long form on INSN_OK. */
enum insn_status insn_decode(const struct insn_decoder *d, enum insn_mode mode,
                             const uint8_t *bytes, unsigned n, struct insn *out,
                             struct insn_full *full);

static inline enum insn_mode insn_mode_of(const struct vcpu *v)
{
    return (enum insn_mode)(v->code_key >> 1);
}

#endif
