/* SPDX-License-Identifier: MIT */
/* The reference engine on an x86_fixture: machine code at an address, run until it halts. */
#ifndef TESTS_SUPPORT_RUNNER_H
#define TESTS_SUPPORT_RUNNER_H

#include "engine/engine.h"
#include "x86_fixture.h"

struct runner {
    struct x86_fixture *f;
    struct vcpu *v;
    void *engine_vm;
    uint8_t sipi;
};

/* A processor just after reset, in real mode; CS:IP is 0:0x7c00, SP 0x7000, the segments 0. The
 * vector table at 0 leads vector n to 0:0x600 + 4n, where a HLT is. */
int runner_setup(void **state);
int runner_teardown(void **state);

void runner_put(struct runner *r, uint64_t address, const void *bytes, size_t n);
uint64_t runner_get(struct runner *r, uint64_t address, unsigned size);
/* At most `limit` instructions. */
enum exit_reason runner_run(struct runner *r, uint64_t limit);
/* Runs from 0:0x7c00; the vector whose handler it halted at, -1 = it halted by itself. */
int runner_vector(struct runner *r);

#define RUNNER_CODE 0x7c00u

/* Machine code of 16-bit mode under a name: bytes from name to name_end, in a section of its own so
 * that .org counts from name. */
#define CODE16(name, text)                                                                 \
    __asm__(".pushsection .rodata.code." #name ",\"a\"\n.code16\n.globl " #name "\n" #name \
            ":\n" text "\n" #name "_end:\n.globl " #name "_end\n.code64\n.popsection");    \
    extern const uint8_t name[], name##_end[]
#define PUT(r, address, name) runner_put(r, address, name, (size_t)(name##_end - name))

#endif
