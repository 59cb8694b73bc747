/* SPDX-License-Identifier: MIT */
/* Between the oracle and its child: the shared memory, and the child's start. */
#ifndef DOPPEL_TESTS_DIFF_ORACLE_CHILD_H
#define DOPPEL_TESTS_DIFF_ORACLE_CHILD_H

#include <stdatomic.h>

#include "oracle.h"

/* Where XSAVE puts the components (CPUID leaf 0Dh); offset 0 = the host has it not. */
struct oracle_xsave {
    uint32_t ymm_high, opmask, zmm_high, zmm_upper;
    uint32_t host_mxcsr_mask;
    uint64_t mask; /* components that a case sets */
};

struct oracle_shared {
    _Atomic uint32_t go;    /* a futex: batches that the parent has handed over */
    _Atomic uint32_t done;  /* a futex: batches that the child has finished */
    _Atomic uint32_t index; /* of the case that runs */
    uint32_t first, count;  /* of the batch: cases first … count-1 */
    bool code32;
    struct oracle_xsave xsave;
    struct diff_case cases[ORACLE_BATCH];
    struct diff_outcome outcomes[ORACLE_BATCH];
};

/* In the forked child; arena_fd is a memfd of DIFF_ARENA bytes. Does not return. */
_Noreturn void oracle_child(struct oracle_shared *shared, int arena_fd);

#endif
