/* SPDX-License-Identifier: MIT */
/*
 * Executable memory: one memfd mapped twice, writable at one address and executable at another,
 * never both at one. Bounded: the whole range is mapped at creation (decision 10), memory is given
 * out from the front, and all of it is taken back at once.
 *
 * Threads: the owner serialises allocation and clearing; execution needs no lock.
 */
#ifndef DOPPEL_ENGINE_HOST_EXEC_MEMORY_H
#define DOPPEL_ENGINE_HOST_EXEC_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct exec_memory {
    uint8_t *write; /* PROT_READ | PROT_WRITE */
    uint8_t *exec;  /* PROT_READ | PROT_EXEC: the same bytes */
    size_t size, used;
};

/* size in bytes, a multiple of 4096. -ENOMEM or the errno of the host call, with the sentence. */
int exec_memory_create(struct exec_memory *m, size_t size, struct error *e);
void exec_memory_destroy(struct exec_memory *m);

/* A writable place for n bytes, aligned to 16, or NULL when there is no room. */
uint8_t *exec_memory_alloc(struct exec_memory *m, size_t n);
/* Asks for a huge page for what is from `from` on, up to the place that is returned; a wish, for
 * memory that is about to be filled (2 MiB of it become resident). `from`: the start, or what was
 * returned last. */
uint8_t *exec_memory_huge(struct exec_memory *m, uint8_t *from);
/* Where the processor runs what was written at `writable`. */
const uint8_t *exec_memory_code(const struct exec_memory *m, const uint8_t *writable);
/* Takes back everything; no thread may be inside. The memory is filled with traps again. */
void exec_memory_clear(struct exec_memory *m);

#endif
