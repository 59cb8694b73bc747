/* SPDX-License-Identifier: MIT */
/* Random blocks of instructions, as cases of tests/diff. */
#ifndef DOPPEL_TESTS_BLOCKS_BLOCK_H
#define DOPPEL_TESTS_BLOCKS_BLOCK_H

#include "diff.h"
#include "forms.h"

enum block_kind {
    BLOCK_PLAIN, /* what the processor can run in user mode, and answers for alone */
    BLOCK_ANY,   /* every form there is, TF and segment loads included */
    BLOCK_WRITES_CODE,
    BLOCK_KINDS
};

struct block_forms {
    const struct forms *forms;
    uint32_t *common, *any; /* indices */
    unsigned common_count, any_count;
};

/* -ENOMEM */
int block_forms_init(struct block_forms *b, const struct forms *forms);
void block_forms_fini(struct block_forms *b);

/* A function of seed and number alone. */
void block_generate(const struct block_forms *b, uint64_t seed, uint32_t number,
                    struct diff_case *c);
enum block_kind block_kind(uint32_t number);

#endif
