/* SPDX-License-Identifier: MIT */
/* An oracle for page walks that works on sets of rights, not on the bits of an entry. */
#ifndef TESTS_SUPPORT_RIGHTS_H
#define TESTS_SUPPORT_RIGHTS_H

#include "x86_fixture.h"

struct rights {
    bool present, write, user, xd;
};

struct question {
    struct rights levels[5]; /* from the top */
    unsigned count;
    enum mmu_access access;
    bool user, wp, smep, smap, ac, nxe;
};

/* What SDM 3A 4.6 and 4.7 say, read aloud. true = translated. */
bool rights_oracle(const struct question *q, uint32_t *code);
/* CR0.WP, CR4.SMEP and SMAP, EFER.NXE of the question. */
void rights_set_controls(struct vcpu *v, const struct question *q);

#endif
