/* SPDX-License-Identifier: MIT */
/* Random values, biased to where instructions go wrong: limits, powers of two, special floats,
 * page ends, non-canonical addresses. */
#ifndef DOPPEL_TESTS_DIFF_VALUES_H
#define DOPPEL_TESTS_DIFF_VALUES_H

#include "diff.h"
#include "random.h"

uint64_t value_integer(struct random *r);
uint64_t value_address(struct random *r, unsigned size); /* linear, of an access of size bytes */
uint64_t value_code_address(struct random *r);           /* target of a branch */
uint16_t value_selector(struct random *r);
void value_bytes(struct random *r, uint8_t *out, unsigned n); /* data of any element type */

/* Everything but RIP. */
void value_state(struct random *r, struct diff_state *s);

/* Of the vector state what the host has, as value_state leaves it. */
void value_clip(struct diff_state *s);

#endif
