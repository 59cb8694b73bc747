/* SPDX-License-Identifier: MIT */
/* Makes a case of a form: an instance of the instruction, its place, registers and memory. */
#ifndef DOPPEL_TESTS_DIFF_GENERATE_H
#define DOPPEL_TESTS_DIFF_GENERATE_H

#include "diff.h"
#include "forms.h"
#include "random.h"

/* A case while it is being made. */
struct generator {
    struct random r;
    const struct form *form;
    struct diff_case *c;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    uint64_t target[ZYDIS_MAX_OPERAND_COUNT]; /* linear address of each memory operand */
};

/* Case `number` of form `index` under `seed`. false when no instance of the form could be made. */
bool generate_case(const struct forms *forms, uint32_t index, uint32_t number, uint64_t seed,
                   struct diff_case *c);

/* operands.c: gives each memory operand an address, the registers that lead there and data. */
void generate_operands(struct generator *g);

/* The segment of a memory operand (enum x86_segment_name). */
unsigned generate_segment(const ZydisDecodedOperand *o);

/* special.c: what single instructions need of their operands to get anywhere. */
void generate_special(struct generator *g);

/* Puts bytes at a linear address; what falls on absent pages is dropped. */
void generate_patch(struct generator *g, uint64_t linear, const void *bytes, unsigned n);

#endif
