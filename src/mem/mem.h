/* SPDX-License-Identifier: MIT */
/*
 * Guest-physical memory: the RAM and ROM blocks, and the one place that turns a guest address into
 * a pointer. Nothing else in the tree does address arithmetic on guest RAM.
 *
 * Who gets in, and how:
 *  - devices and loaders: mem_read/mem_write (copies, checked, RAM/ROM only, never another device);
 *  - the page walk: mem_load64/mem_cas64 (one host access each, decision 8);
 *  - engines: mem_page, once per TLB fill; then host accesses of the guest's width.
 *
 * Page flags (decision 9): one atomic byte per guest page, tested by whoever writes. MEM_PAGE_CODE
 * means that some engine has decoded or translated the page: a writer other than that engine's own
 * vCPU thread must call mem_page_written, which tells the engines.
 *
 * Threads: the map is built before the first vCPU runs and is read without a lock afterwards.
 */
#ifndef DOPPEL_MEM_MEM_H
#define DOPPEL_MEM_MEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct {
    uint64_t v;
} gpa_t;

#define GPA(x) ((gpa_t){(uint64_t)(x)})

#define MEM_PAGE_SIZE  4096u
#define MEM_PAGE_MASK  (~(uint64_t)(MEM_PAGE_SIZE - 1))
#define MEM_BLOCKS_MAX 16
#define MEM_GUARD      (64u << 10) /* bytes of PROT_NONE before and after each block (decision 7) */

enum mem_backing {
    MEM_ANONYMOUS, /* private, huge pages wanted; resident memory follows what the guest touches */
    MEM_MEMFD,     /* shareable with other processes */
};

enum mem_page_flag {
    MEM_PAGE_CODE = 1 << 0,
    MEM_PAGE_DIRTY = 1 << 1,
    MEM_PAGE_SHARED = 1 << 2,
    MEM_PAGE_ROM = 1 << 3, /* reads as RAM; guest writes are dropped and counted */
};

struct mem_block {
    const char *name;
    gpa_t base;
    uint64_t size; /* multiple of the page size */
    uint8_t *host;
    void *reservation; /* host with its guards */
    int fd;            /* memfd, or -1 */
    _Atomic uint8_t *flags;
};

/* Told, on the writer's thread, that `page` (page-aligned), which had MEM_PAGE_CODE, was written by
 * something other than the engine. Must not block. */
struct mem_listener {
    void (*code_written)(void *context, gpa_t page);
    void *context;
};

/* Told, on the writer's thread, what the page flags alone do not keep. Must not block, nor touch a
 * vector register. */
struct mem_observer {
    void (*dirtied)(void *context, gpa_t page);         /* it has become MEM_PAGE_DIRTY */
    void (*copied)(void *context, gpa_t a, uint64_t n); /* by mem_write or mem_fill */
    void *context;
};

struct mem {
    struct mem_block blocks[MEM_BLOCKS_MAX]; /* sorted by base, disjoint */
    unsigned block_count;
    struct mem_listener listeners[4];
    unsigned listener_count;
    struct mem_observer observer; /* or NULLs */
    _Atomic uint64_t rom_writes;  /* dropped */
};

void mem_init(struct mem *m);
void mem_fini(struct mem *m);

/* Adds a zeroed block. base and size are page-aligned and overlap no other block. -EINVAL, -ENOMEM,
 * -ENOSPC with the sentence in *e. rom = guest writes are dropped (mem_write still writes). */
int mem_add(struct mem *m, const char *name, gpa_t base, uint64_t size, enum mem_backing backing,
            bool rom, struct error *e);
int mem_add_listener(struct mem *m, struct mem_listener l);
void mem_observe(struct mem *m, struct mem_observer o); /* the only one; both functions or none */

/* The host page behind a, or NULL when it is not RAM or ROM. *flags, when not NULL, gets the page's
 * flag byte. The pointer stays good for the life of m. Offset within the page is the caller's. */
uint8_t *mem_page(const struct mem *m, gpa_t a, _Atomic uint8_t **flags);

/* Copies n bytes of RAM or ROM. 0, or -EFAULT when any byte is neither (then nothing is copied).
 * A copy may cross pages but not blocks with a gap between. */
int mem_read(const struct mem *m, gpa_t a, void *out, size_t n);
int mem_write(struct mem *m, gpa_t a, const void *bytes, size_t n);
int mem_fill(struct mem *m, gpa_t a, uint8_t byte, uint64_t n);
bool mem_contains(const struct mem *m, gpa_t a, uint64_t n);

/* One aligned host load, or one compare-and-swap, of a page-table entry. false when it is not RAM
 * (or, for the swap, when the value was not `expected`; then *expected gets the present one). */
bool mem_load64(const struct mem *m, gpa_t a, uint64_t *value);
bool mem_load32(const struct mem *m, gpa_t a, uint32_t *value);
bool mem_cas64(struct mem *m, gpa_t a, uint64_t *expected, uint64_t value);
bool mem_cas32(struct mem *m, gpa_t a, uint32_t *expected, uint32_t value);

/* Marks the page dirty, before it is written. Returns the flags from before. */
uint8_t mem_page_dirty(struct mem *m, gpa_t a, _Atomic uint8_t *flags);
/* Clears the mark. Whoever may write the page without asking again is the caller's concern. */
void mem_page_clean(struct mem *m, gpa_t page);
/* For a writer through mem_page: marks the page dirty and tells the listeners if it held code. */
void mem_page_written(struct mem *m, gpa_t a, _Atomic uint8_t *flags);

#endif
