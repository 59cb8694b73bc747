/* SPDX-License-Identifier: MIT */
/*
 * Running one instruction straight on the processor, from a given state, and catching its fault:
 * the oracle of the tests of copied instructions. One thread, one per process.
 */
#ifndef TESTS_SUPPORT_NATIVE_H
#define TESTS_SUPPORT_NATIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "x86/vector.h"

struct native_state {
    uint64_t gpr[16];
    uint64_t rflags;
    struct x86_vector vector;
};

struct native_fault {
    int vector; /* -1: none */
    uint64_t error, address;
};

/* Before copy_cache_create, whose handlers pass on what is not theirs. */
void native_init(void);

/* cmocka puts handlers of its own around each test: keep those of now, put them back in the test.
 */
void native_keep_handlers(void);
void native_restore_handlers(void);

/* Where the bytes of the next instruction will stand. */
uint64_t native_rip(void);

/* Runs it once; s is replaced by the state after it, or at its fault.
 */
struct native_fault native_run(struct native_state *s, const uint8_t *bytes, unsigned length);

/* XSAVE images in the standard format, with the processor's own component offsets. */
extern uint8_t native_xsave[4096];
void native_image_from(uint8_t *image, const struct x86_vector *s);
void native_image_to(const uint8_t *image, struct x86_vector *s);

#endif
