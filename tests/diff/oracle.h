/* SPDX-License-Identifier: MIT */
/*
 * The oracle: runs cases on the processor itself, in a child process that has the address space of
 * diff.h and may make no system call but futex and sigreturn.
 *
 * The child lives in one signal handler. It writes a case's whole state into the signal frame and
 * returns: the kernel loads all of it, the processor executes one instruction and traps (TF, or an
 * int3 behind it) or faults, and the next frame holds the whole result: registers, flags, vector
 * state by XSAVE, vector, error code and CR2. The handler runs without a TLS (FS belongs to the
 * case), so it calls no libc.
 */
#ifndef DOPPEL_TESTS_DIFF_ORACLE_H
#define DOPPEL_TESTS_DIFF_ORACLE_H

#include "base/error.h"
#include "diff.h"

#define ORACLE_BATCH 64

struct oracle;

/* code32: cases of 32-bit code come, and only those. -ENOTSUP with the sentence when the host's
 * kernel lacks FSGSBASE or XSAVE, or for code32 modify_ldt. */
int oracle_create(struct oracle **out, bool code32, struct error *e);
void oracle_destroy(struct oracle *o);

/* The caller fills oracle_cases()[0 … n-1] and reads oracle_outcomes() after the run. A child that
 * dies or hangs is replaced; its case says so. -errno when no child can be had. */
struct diff_case *oracle_cases(struct oracle *o);
const struct diff_outcome *oracle_outcomes(const struct oracle *o);
int oracle_run(struct oracle *o, unsigned n, struct error *e);

#endif
