/* SPDX-License-Identifier: MIT */
/* What copy.c finds out about an instruction once, and copy_run.c and copy_hand.c use at each run.
 * Private to this folder. */
#ifndef DOPPEL_ENGINE_HOST_COPY_CODE_H
#define DOPPEL_ENGINE_HOST_COPY_CODE_H

#include "engine/host/copy.h"
#include "engine/host/encode.h"

/* What must be enabled: CR0.TS/EM, CR4, XCR0 (SDM 3A table 2-2, 2A 2.4 and 2.8). */
enum copy_need {
    NEED_SSE = 1 << 0,
    NEED_MMX = 1 << 1,
    NEED_X87 = 1 << 2,
    NEED_FWAIT = 1 << 3,
    NEED_VEX = 1 << 4,
    NEED_EVEX = 1 << 5,
    NEED_NOTHING_PENDING = 1 << 6, /* a waiting x87 or an MMX instruction: #MF */
};

enum copy_access {
    ACCESS_NONE,
    ACCESS_PLAIN,
    ACCESS_OPMASK,   /* elements chosen by k[mask] */
    ACCESS_VECTOR,   /* elements chosen by the sign bits of zmm[mask] */
    ACCESS_COMPRESS, /* as many elements, side by side, as k[mask] has ones; k0: all */
};

/* What an x87 instruction does to FIP and FOP, and to FDP if it has a memory operand. */
enum copy_pointers { POINTERS_KEPT, POINTERS_SET, POINTERS_CLEARED };

struct copy_memory {
    uint8_t access;    /* enum copy_access */
    uint8_t segment;   /* enum x86_sreg */
    uint8_t size;      /* bytes */
    uint8_t alignment; /* bytes that must be kept, or #GP(0); 1 = any */
    uint8_t first;     /* bytes that are checked before the rest is, or 0 */
    bool store;
    bool whole;       /* masked, but all of it is checked: the classes without fault suppression */
    uint8_t mask;     /* register */
    uint8_t element;  /* bytes of what one mask bit stands for in memory */
    uint8_t elements; /* in memory */
    uint8_t repeat;   /* mask bits in all: `elements`, or more when memory is broadcast */
};

struct copy_gather {
    uint8_t data, index, mask; /* registers; mask is opmask or vector */
    uint8_t base, scale;       /* base 0xff = none */
    uint8_t data_size, index_size, count;
    bool opmask, scatter, address32;
    int32_t displacement;
    uint8_t vector_size; /* bytes of VL */
    uint8_t result_size; /* bytes of the destination that are not zeroed */
};

/* Everything that makes two instructions the same; compared as bytes. */
struct copy_key {
    struct encode_plan plan;
    struct copy_memory memory;
    struct copy_gather gather;
    uint16_t mnemonic; /* of what is done by hand */
    uint16_t fop;
    uint8_t need;
    uint8_t hand_register[2]; /* MASKMOV: data, mask */
    uint8_t hand_size;
    uint8_t pointers; /* enum copy_pointers; of x87 instructions */
};

typedef void (*copy_hand)(struct vcpu *v, const struct copy_code *c, uint64_t effective_address);

struct copy_code {
    uint64_t (*stub)(struct vcpu *v, void *memory, uint64_t flags);
    const uint8_t *at, *resume; /* the instruction, and where to go on when it trapped */
    copy_hand hand;             /* instead of a stub */
    bool undefined;             /* this processor does not have it */
    struct copy_key key;
    struct copy_code *next; /* in the bucket */
};

/* Runs the stub on the registers of `scratch`, whose contents are lost: false when the processor
 * does not have the instruction. On any thread. */
bool copy_trial(struct vcpu *scratch, const struct copy_code *c);

/* What every MMX instruction does to the x87 state first (SDM 3A table 12-2): TOP becomes 0. */
void copy_enter_mmx(struct x86_vector *s);

/* Installs the handlers of SIGFPE and SIGILL, once per process. */
int copy_trap_install(struct error *e);

/* NULL, or the function for an instruction that is not copied but done by hand; fills the key. */
copy_hand copy_hand_prepare(struct copy_key *k, const ZydisDecodedInstruction *insn,
                            const ZydisDecodedOperand *operands);

/* Raises #UD, #NM, #MF. */
void copy_check_enabled(struct vcpu *v, uint8_t need);

/* Memory (copy_memory.c). Linear address of an access, checked; raises. */
uint64_t copy_linear(struct vcpu *v, uint8_t segment, uint64_t offset, unsigned size, bool write);

/* #AC, when alignment checking is on. */
void copy_check_natural(struct vcpu *v, uint64_t linear, unsigned size);

/* The bytes of an operand of at most 64 bytes, each with a bit of `bytes`: raises as accesses of
 * the chosen runs would, lowest first. load leaves the others alone; store probes all before
 * writing. */
void copy_load_bytes(struct vcpu *v, uint8_t segment, uint64_t offset, uint64_t bytes, uint8_t *to);
void copy_probe_bytes(struct vcpu *v, uint8_t segment, uint64_t offset, uint64_t bytes);
void copy_store_bytes(struct vcpu *v, uint8_t segment, uint64_t offset, uint64_t bytes,
                      const uint8_t *from);

/* Segment limits and canonical addresses of all chosen bytes; before any page fault. */
void copy_check_bytes(struct vcpu *v, uint8_t segment, uint64_t offset, uint64_t bytes, bool write);
/* The same, and pages, of one element after the other. */
void copy_probe_elements(struct vcpu *v, const struct copy_memory *m, uint64_t offset);

/* The bytes that a masked instruction touches, given its registers. */
uint64_t copy_active_bytes(const struct vcpu *v, const struct copy_memory *m);
uint64_t copy_whole_bytes(const struct copy_memory *m); /* of at most 64 */

enum x86_sreg copy_segment(ZydisRegister r);

#endif
