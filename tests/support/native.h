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

/* The components of XCR0 that images have here: x87, SSE, AVX, AVX-512, or what there is of them.
 * clip clears what the processor has not. */
extern uint32_t native_mask;
void native_clip(struct x86_vector *s);

/* Whether FIP, FDP and FOP after a run are whole. Else they are what FNSTENV stored, 32 bits, and
 * zeros where the host's kernel switched tasks at the wrong moment (see fpu.c). */
bool native_pointers_whole(const struct x86_vector *s);

/* XSAVE images in the standard format, with the processor's own component offsets. */
extern uint8_t native_xsave[4096];
void native_image_from(uint8_t *image, const struct x86_vector *s);
void native_image_to(const uint8_t *image, struct x86_vector *s);

#endif
