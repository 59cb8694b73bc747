/* SPDX-License-Identifier: MIT */
/*
 * What all parts of the differential tester share: the address space that one tested instruction
 * sees, a case (all of its input) and an outcome (all that it may have changed).
 *
 * The address space is the same on the processor (a sandboxed child maps it) and in the guest (its
 * page tables map it): two pages of code, and a data window whose neighbouring pages differ in
 * permission, so that each kind of page crossing exists. The pages that exist lie one after the
 * other in the arena. Everything else in the lower half is not present.
 *
 *      DIFF_DATA page   0   1   2   3   4   5   6   7   8   9
 *      permission       -   rw  rw  -   rw  r   -   r   rw  -
 *
 * A case of 32-bit code runs in the same space, through the segments of diff_ldt: on the processor
 * in compatibility mode, in the guest in 32-bit protected mode with PAE paging.
 */
#ifndef DOPPEL_TESTS_DIFF_DIFF_H
#define DOPPEL_TESTS_DIFF_DIFF_H

#include <stdbool.h>
#include <stdint.h>

#include "x86/regs.h"
#include "x86/vector.h"

#define DIFF_PAGE       4096u
#define DIFF_CODE       0x20000000u /* two pages, readable and executable */
#define DIFF_CODE_PAGES 2u
#define DIFF_DATA       0x30000000u
#define DIFF_DATA_PAGES 10u

enum diff_access { DIFF_READ = 1, DIFF_WRITE = 2, DIFF_EXECUTE = 4 };

struct diff_page {
    uint32_t linear;
    uint8_t access; /* enum diff_access */
};

/* The pages that exist; page i is at offset i * DIFF_PAGE of the arena. */
#define DIFF_PAGES 8u
#define DIFF_ARENA (DIFF_PAGES * DIFF_PAGE)
extern const struct diff_page diff_pages[DIFF_PAGES];

/* The guest's own 2 MiB while 32-bit code is tested, for its supervisor alone: nothing on the
 * processor. (In 64-bit mode they lie beyond all that the host's kernel tells of.) */
#define DIFF_KERNEL32      0xbf800000u
#define DIFF_KERNEL32_SIZE 0x200000u

/* Offset in the arena of a linear address, or -1 where nothing is mapped. */
int diff_arena_offset(uint64_t linear);

/* The arena before any case: int3 in the code pages, fixed noise in the others. */
void diff_arena_fill(uint8_t arena[DIFF_ARENA]);

/* A user descriptor, entry i of the LDT (selector 8 * i + 7) while 32-bit code is tested; what
 * modify_ldt(2) can make of one. */
enum diff_contents { DIFF_DATA_UP, DIFF_DATA_DOWN, DIFF_CODE_SEGMENT };
struct diff_descriptor {
    uint32_t base, limit; /* limit: 20 bits */
    uint8_t contents;     /* enum diff_contents */
    bool pages;           /* the limit counts pages */
    bool big;             /* D or B */
    bool restricted;      /* data: read-only; code: execute-only */
    bool absent;
};
#define DIFF_LDT 10u
extern const struct diff_descriptor diff_ldt[DIFF_LDT];

enum diff_selector {
    DIFF_SELECTOR_CODE = 0x07,
    DIFF_SELECTOR_FLAT = 0x0f,
    DIFF_SELECTOR_WINDOW = 0x17, /* DIFF_DATA's pages */
    DIFF_SELECTOR_CUT = 0x1f,    /* ends with DIFF_DATA page 4 */
    DIFF_SELECTOR_DOWN = 0x27,   /* begins with DIFF_DATA page 5 */
    DIFF_SELECTOR_READ_ONLY = 0x2f,
    DIFF_SELECTOR_EXECUTE_ONLY = 0x37,
    DIFF_SELECTOR_ABSENT = 0x3f,
    DIFF_SELECTOR_STACK_16 = 0x47, /* DIFF_DATA's pages, B = 0 */
    DIFF_SELECTOR_DOWN_16 = 0x4f,  /* DIFF_DATA page 2 to 15, B = 0 */
};

/* Registers before or after. Segments are selectors (of ES CS SS DS FS GS). */
struct diff_state {
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags;
    uint64_t fs_base, gs_base;
    uint16_t selector[6];
    struct x86_vector vector; /* only what is named as state there counts */
};

#define DIFF_BYTES       16 /* one more than an instruction may have */
#define DIFF_PATCHES     24
#define DIFF_PATCH_BYTES 4096

struct diff_case {
    uint64_t seed;
    uint32_t form;   /* index in the list of forms */
    uint32_t number; /* of the case within the form */
    uint8_t length;
    uint8_t bytes[DIFF_BYTES];
    /* The end is seen by an int3 after the instruction, not by TF: for REP (TF stops after each
     * iteration), PUSHF and IRET (they show TF), MOV SS (it holds the trap back), gathers and
     * scatters (TF's trap comes in lieu of an element's fault: SDM 2C, VPGATHERDD). */
    bool end_by_int3;
    bool code32; /* 32-bit code */
    bool flat;   /* … most often with the segments that the translator knows */
    /* Addresses that the instruction may touch in any order; size 0: there are none such. */
    uint64_t unordered;
    uint32_t unordered_size;
    uint64_t unordered_mask; /* of the address size: where they wrap */
    bool partial_store;      /* a fault may come after the stores, or before: a far CALL's target */
    uint64_t mxcsr_mask_at;  /* where it stores MXCSR_MASK, or 0 */
    bool partial_load; /* a fault may come when some of the registers have been loaded: XRSTOR */
    /* Not one instruction but a block (tests/blocks): its code is in the patches, length is 0. It
     * runs until it faults or meets an INT3, or for DIFF_BLOCK_LIMIT instructions. */
    bool block;
    bool code_writable; /* the code pages are, there and at DIFF_ALIAS */
    struct diff_state in;
    unsigned patch_count, patch_bytes;
    struct {
        uint32_t offset; /* in the arena; never across its pages' ends */
        uint16_t size, start;
    } patch[DIFF_PATCHES];
    uint8_t bytes_of_patches[DIFF_PATCH_BYTES];
};

#define DIFF_BLOCK_LIMIT 1000u
#define DIFF_ALIAS       (DIFF_DATA + 32 * DIFF_PAGE) /* of the code pages, when writable */

#define DIFF_LINE      64
#define DIFF_LINES_MAX 64
#define DIFF_NO_VECTOR 0xff

enum diff_failure {
    DIFF_RAN,
    DIFF_DIED,    /* the oracle's child died in this case */
    DIFF_HUNG,    /* or did not come back */
    DIFF_STRANGE, /* the engine stands where no single instruction can lead */
    DIFF_LEFT_OUT /* it cannot run this one as the oracle does */
};

struct diff_outcome {
    struct diff_state out;
    uint8_t failure;    /* enum diff_failure */
    bool stopped;       /* a block: by its limit */
    uint8_t vector;     /* of the fault or trap that the instruction raised, or DIFF_NO_VECTOR */
    uint32_t error;     /* its error code */
    uint64_t address;   /* CR2 of a page fault */
    uint32_t lines;     /* of DIFF_LINE bytes in the arena that have changed */
    uint64_t lines_sum; /* over all of them; the first DIFF_LINES_MAX are kept: */
    struct {
        uint32_t offset;
        uint8_t bytes[DIFF_LINE];
    } line[DIFF_LINES_MAX];
};

/* The base of a segment that a case begins with (enum x86_segment_name; CS, DS… of 64-bit code: 0).
 */
uint64_t diff_segment_base(const struct diff_case *c, unsigned segment);

/* Lays a case into the arena (code and patches), as both sides do before they run it. */
void diff_case_lay(const struct diff_case *c, uint8_t arena[DIFF_ARENA]);

/* Records in *o which lines of `arena` differ from `before`, and makes both equal to `base` again.
 */
void diff_arena_collect(struct diff_outcome *o, uint8_t arena[DIFF_ARENA],
                        uint8_t before[DIFF_ARENA], const uint8_t base[DIFF_ARENA],
                        const struct diff_case *c);

#endif
