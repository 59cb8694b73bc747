/* SPDX-License-Identifier: MIT */
/* What a case of 32-bit code has of its own: segments, and registers of 32 bits. */
#ifndef DOPPEL_TESTS_DIFF_LEGACY_H
#define DOPPEL_TESTS_DIFF_LEGACY_H

#include "diff.h"
#include "random.h"

/* Chooses the segments to begin with, and ESP within SS. */
void legacy_segments(struct random *r, struct diff_case *c);

/* Mostly gives `segment` a base from which 16-bit addresses reach the data. */
void legacy_reach_by_word(struct random *r, struct diff_case *c, unsigned segment);

/* The linear address of RSP + offset; where a stack of 16 bits wraps, unordered_mask says so. */
uint64_t legacy_stack(struct diff_case *c, int64_t offset);

/* For instructions that load a selector. */
uint16_t legacy_selector(struct random *r);

/* Takes off what 32-bit code has not: upper halves, R8 to R15. */
void legacy_narrow(struct diff_case *c);

#endif
