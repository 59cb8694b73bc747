/* SPDX-License-Identifier: MIT */
/*
 * The list of forms: every (mnemonic, encoding, operand kinds and sizes, LOCK/REP, broadcast or
 * rounding) that Zydis knows in 64-bit mode (or for 32-bit code), that CPUID advertises to the
 * guest. Found by walking the opcode space (map x opcode x prefixes x W x L x ModRM) and keeping
 * one template for each key.
 */
#ifndef DOPPEL_TESTS_DIFF_FORMS_H
#define DOPPEL_TESTS_DIFF_FORMS_H

#include <stdbool.h>
#include <stdint.h>

#include <Zydis/Zydis.h>

#include "base/error.h"

enum form_encoding { FORM_LEGACY, FORM_VEX, FORM_EVEX };
enum form_prefix { FORM_66 = 1, FORM_F2 = 2, FORM_F3 = 4, FORM_LOCK = 8 };

/* How to write the instruction down; what is "free" is chosen anew for each case. */
struct form_template {
    uint8_t encoding; /* enum form_encoding */
    uint8_t prefixes; /* enum form_prefix; legacy */
    uint8_t map;      /* 0 = one byte, 1 = 0F, 2 = 0F38, 3 = 0F3A; the number in VEX and EVEX */
    uint8_t opcode;
    uint8_t w, pp, l, b;
    uint8_t reg, rm; /* of ModRM where it is no operand */
    bool has_modrm, memory;
    bool reg_free, rm_free, opcode_free, v_free;
    bool mask_free, rounding_free, vsib;
    bool code32; /* no REX, eight registers, 0x67 asks for 16-bit addresses */
};

struct form {
    uint64_t key; /* form_key of every instance */
    uint32_t id;  /* of the key; names the form in reports */
    uint16_t mnemonic;
    struct form_template t;
    const char *excluded; /* why it is not run; or NULL */
    char name[104];
};

struct forms {
    struct form *form;
    unsigned count;
    bool code32;
    bool flat; /* as in struct diff_case: the caller's to set */
    ZydisDecoder decoder;
};

/* After features_init. -ENOMEM; -EEXIST when two keys share an id. */
int forms_find(struct forms *f, bool code32, struct error *e);
void forms_fini(struct forms *f);

uint64_t form_key(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands);

/* Why an instruction cannot be compared with the processor, or NULL (exclude.c). */
const char *form_exclusion(const ZydisDecodedInstruction *insn);

/* What is left out of forms that are run, a sentence each; ends with NULL. */
extern const char *const form_partial_exclusions[];

/* Writes an instance of t: `choose` supplies the free bits. Returns the length up to and with
 * ModRM, SIB and displacement (the immediate follows), *modrm_at = offset of ModRM. */
struct form_choice {
    uint8_t reg, rm, vvvv; /* 0 to 31 */
    uint8_t base, index;   /* 0 to 31 (index of VSIB), of a memory operand */
    uint8_t scale;         /* log2 */
    uint8_t mod;           /* 0, 1, 2: size of the displacement */
    bool sib, rip_relative, absolute;
    uint8_t mask, zeroing, rounding;
    bool force_rex;
    uint8_t segment; /* prefix byte or 0 */
    bool address32;
    int32_t disp;
};
unsigned form_write(const struct form_template *t, const struct form_choice *c, uint8_t *out);

#endif
