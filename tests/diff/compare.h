/* SPDX-License-Identifier: MIT */
/* Compares two outcomes of a case, and prints cases and differences. */
#ifndef DOPPEL_TESTS_DIFF_COMPARE_H
#define DOPPEL_TESTS_DIFF_COMPARE_H

#include <stdio.h>

#include "diff.h"
#include "forms.h"

/* True when equal. Otherwise, unless `out` is NULL, prints the fields that differ, under the names
 * of the two sides. What is left out, and why, is said in compare.c. */
bool compare_outcomes(const struct diff_case *c, const struct diff_outcome *processor,
                      const struct diff_outcome *engine, const char *engine_name, FILE *out);

/* The instruction, its input, and the command that runs it again. */
void compare_print_case(const struct forms *forms, const struct diff_case *c, FILE *out);

const char *compare_vector_name(uint8_t vector);

#endif
