/* SPDX-License-Identifier: MIT */
/* What is compared with the oracle: an engine, or the processor once more (which finds forms whose
 * result is not a function of the case). */
#ifndef DOPPEL_TESTS_DIFF_SUBJECT_H
#define DOPPEL_TESTS_DIFF_SUBJECT_H

#include "base/error.h"
#include "diff.h"

struct subject_ops {
    const char *name;
    bool code32; /* for cases of 32-bit code */
    bool flat;   /* … in flat segments, most of them */
    int (*create)(void **subject, struct error *e);
    void (*destroy)(void *subject);
    /* processor: what the oracle has found. */
    int (*run)(void *subject, const struct diff_case *cases, const struct diff_outcome *processor,
               struct diff_outcome *outcomes, unsigned n, struct error *e);
    uint64_t (*units)(void *subject); /* of code translated; NULL: it does not translate */
};

extern const struct subject_ops subject_processor;
extern const struct subject_ops subject_processor32;
extern const struct subject_ops subject_interp;
extern const struct subject_ops subject_interp32;    /* in 32-bit protected mode */
extern const struct subject_ops subject_bt;          /* with no limit of instructions */
extern const struct subject_ops subject_bt_counting; /* with one */
extern const struct subject_ops subject_bt32;
extern const struct subject_ops subject_bt32_counting;

#endif
