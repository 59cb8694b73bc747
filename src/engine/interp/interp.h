/* SPDX-License-Identifier: MIT */
/*
 * Inside the reference engine: what its files share.
 *
 *  interp.c   the run loop, faults, events         code.c  decoded pages and look-up
 *  bind.c     instruction -> handler               op_*.c  the handlers, by kind
 *
 * A handler executes one instruction: v->rip is that instruction's address until everything that
 * can raise has been done, then it stores results, moves rip and returns the record to go on with,
 * or NULL to leave the inner loop (state that the loop depends on has changed, or the next record
 * must be looked up).
 */
#ifndef DOPPEL_ENGINE_INTERP_INTERP_H
#define DOPPEL_ENGINE_INTERP_INTERP_H

#include <pthread.h>

#include "engine/host/copy.h"
#include "x86/access.h"
#include "x86/insn.h"
#include "x86/segment.h"

struct code_cache;

#define INTERP_VCPUS_MAX 64
#define PROTECT_MAX      32 /* pages posted to one vCPU; more flush its TLB */

/* One per VM. */
struct interp_vm {
    struct x86_platform *platform;
    struct copy_cache *copies;
    struct insn_decoder decoder;
    struct interp *vcpus[INTERP_VCPUS_MAX];
    unsigned vcpu_count;

    /* Orders "this page holds code" (MEM_PAGE_CODE set) against "it was written" (posted to all,
     * then cleared). Held for moments, never while waiting for a vCPU. */
    pthread_mutex_t code_lock;
    void (*code_written)(void *context, gpa_t page); /* step.h: another engine's, or NULL */
    void *code_written_context;

    /* sync.c: where the vCPUs wait for each other. */
    pthread_mutex_t sync_lock;
    pthread_cond_t sync_changed;
    _Atomic(struct interp *) exclusive; /* all others are to be quiet */
    _Atomic unsigned waiting;           /* threads in sync_changed */
};

#define JUMP_CACHE_SIZE 4096u

struct jump_entry {
    uint64_t linear;  /* RIP + v->code_base, not wrapped */
    uint64_t context; /* what else the translation of it depends on; see code_context */
    const struct insn *insn;
};

/* One per vCPU: v->engine_state. */
struct interp {
    struct interp_vm *vm;
    struct vcpu *vcpu;
    pthread_t thread; /* that runs it; valid while `running` */
    _Atomic bool running;
    _Atomic bool quiet; /* sync.h */
    uint64_t protect_pages[PROTECT_MAX];
    unsigned protect_count;
    bool protect_all;
    uint64_t protect_posted; /* under sync_lock, as the above */
    _Atomic uint64_t protect_served;
    struct code_cache *code;
    uint64_t code_generation;         /* moves when decoded pages go */
    bool own_trap;                    /* the instruction itself decides on its single-step trap */
    uint64_t debug_held;              /* debug_pending as it was before the instruction in step() */
    uint64_t pause_first, pause_last; /* instruction counts of the present chain of PAUSEs */
    struct jump_entry jumps[JUMP_CACHE_SIZE];
};

/* ---- look-up of records; misses go to code.c ---- */

/* All that the record of a RIP depends on: mappings, decoded pages (both counters only grow, so
 * their sum is new after any change) and the mode. */
static inline uint64_t code_context(const struct vcpu *v, const struct interp *t)
{
    return (v->tlb.fetch_generation + t->code_generation) << 3 | v->code_key;
}

static inline struct jump_entry *jump_entry_of(struct interp *t, uint64_t linear)
{
    return &t->jumps[(linear ^ (linear >> 12)) & (JUMP_CACHE_SIZE - 1)];
}

/* The record at v->rip if it is at hand, else NULL. */
static inline const struct insn *code_known(struct vcpu *v)
{
    struct interp *t = v->engine_state;
    uint64_t linear = v->rip + v->code_base;
    const struct jump_entry *e = jump_entry_of(t, linear);
    return X86_LIKELY(e->linear == linear && e->context == code_context(v, t)) ? e->insn : NULL;
}

/* Continue at v->rip, which the handler has just set; polls the requests. */
static inline const struct insn *code_continue(struct vcpu *v)
{
    return X86_UNLIKELY(vcpu_requests(v) != 0) ? NULL : code_known(v);
}

/* ---- bind.c ---- */

/* The handler of i, or the one that raises #UD and counts it by name. May replace i->imm by a
 * pointer of the handler's. */
insn_exec bind_handler(struct interp_vm *vm, struct insn *i, const struct insn_full *full,
                       const uint8_t *bytes);

/* Pseudo-instructions that end a block; they retire nothing. */
const struct insn *op_look_up(struct vcpu *v, const struct insn *i);
const struct insn *op_stale(struct vcpu *v, const struct insn *i);
const struct insn *op_crossing(struct vcpu *v, const struct insn *i);
const struct insn *op_too_long(struct vcpu *v, const struct insn *i);
const struct insn *op_invalid(struct vcpu *v, const struct insn *i);

/* Resolvers of the op_*.c files: the handler for the form of i, or NULL. */
insn_exec alu_resolve(const struct insn *i);
insn_exec move_resolve(const struct insn *i);
insn_exec bits_resolve(const struct insn *i);
insn_exec branch_resolve(const struct insn *i);
insn_exec string_resolve(const struct insn *i);
insn_exec system_resolve(const struct insn *i);
insn_exec machine_resolve(const struct insn *i);
insn_exec legacy_resolve(const struct insn *i);
insn_exec fpu_resolve(const struct insn *i);

/* ---- operands ---- */

static inline const struct insn *insn_next(struct vcpu *v, const struct insn *i)
{
    v->rip += i->length;
    if (X86_UNLIKELY(!v->code64))
        v->rip = (uint32_t)v->rip;
    return i + 1;
}

/* After an instruction that changed what decoding, address or event rules depend on. */
static inline const struct insn *insn_next_slow(struct vcpu *v, const struct insn *i)
{
    insn_next(v, i);
    return NULL;
}

static inline __attribute__((always_inline)) uint64_t reg_read(const struct vcpu *v,
                                                               unsigned offset, unsigned size)
{
    return host_load((const uint8_t *)v + offset, size);
}

/* 32-bit results clear the upper half (SDM 1 3.4.1.1). */
static inline __attribute__((always_inline)) void reg_write(struct vcpu *v, unsigned offset,
                                                            uint64_t value, unsigned size)
{
    if (size == 4)
        host_store((uint8_t *)v + offset, (uint32_t)value, 8);
    else
        host_store((uint8_t *)v + offset, value, size);
}

/* The offset within the segment, wrapped to the address size. */
static inline __attribute__((always_inline)) uint64_t effective_address(const struct vcpu *v,
                                                                        const struct insn *i)
{
    uint64_t a = *(const x86_u64 *)((const uint8_t *)v + i->base) +
                 (*(const x86_u64 *)((const uint8_t *)v + i->index) << i->scale) +
                 (uint64_t)(int64_t)i->disp;
    if (X86_UNLIKELY(i->address_size != 8))
        a = i->address_size == 4 ? (uint32_t)a : (uint16_t)a;
    return a;
}

uint64_t interp_load_slow(struct vcpu *v, unsigned seg, uint64_t linear, unsigned size);
void interp_store_slow(struct vcpu *v, unsigned seg, uint64_t linear, uint64_t value,
                       unsigned size);

/* seg:offset -> linear. In 64-bit mode without the canonical check: a TLB tag is canonical, so the
 * check is left to the slow path of the access. */
static inline __attribute__((always_inline)) uint64_t
segment_linear(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write)
{
    if (X86_LIKELY(v->code64)) {
        if (X86_UNLIKELY(seg == SEG_FS || seg == SEG_GS))
            return offset + v->seg[seg].base;
        return offset;
    }
    return x86_linear(v, (enum x86_sreg)seg, offset, size, write);
}

static inline __attribute__((always_inline)) uint64_t load_linear(struct vcpu *v, unsigned seg,
                                                                  uint64_t linear, unsigned size)
{
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, (enum tlb_reach)v->reach, linear);
    if (X86_LIKELY(e->read == tlb_tag(&v->tlb, linear) && (linear & 0xfff) <= 4096 - size))
        return host_load((const void *)(e->addend + linear), size);
    return interp_load_slow(v, seg, linear, size);
}

static inline __attribute__((always_inline)) void
store_linear(struct vcpu *v, unsigned seg, uint64_t linear, uint64_t value, unsigned size)
{
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, (enum tlb_reach)v->reach, linear);
    if (X86_LIKELY(e->write == tlb_tag(&v->tlb, linear) && (linear & 0xfff) <= 4096 - size))
        host_store((void *)(e->addend + linear), value, size);
    else
        interp_store_slow(v, seg, linear, value, size);
}

static inline __attribute__((always_inline)) uint64_t mem_load(struct vcpu *v, const struct insn *i,
                                                               unsigned size)
{
    uint64_t ea = effective_address(v, i);
    return load_linear(v, i->seg, segment_linear(v, i->seg, ea, size, false), size);
}

static inline __attribute__((always_inline)) void mem_store(struct vcpu *v, const struct insn *i,
                                                            uint64_t value, unsigned size)
{
    uint64_t ea = effective_address(v, i);
    store_linear(v, i->seg, segment_linear(v, i->seg, ea, size, true), value, size);
}

/* Any bytes of seg:offset, checked; for far pointers, descriptor-table operands and the like. */
void mem_read_bytes(struct vcpu *v, unsigned seg, uint64_t offset, void *out, unsigned n);
void mem_write_bytes(struct vcpu *v, unsigned seg, uint64_t offset, const void *bytes, unsigned n);
/* Checked linear address for whatever does its own access (XSAVE, INVLPG takes no check). */
uint64_t mem_linear(struct vcpu *v, const struct insn *i, unsigned n, bool write);

/*
 * Read-modify-write of memory: faults as a write before anything is read (the error code has W set
 * even for the read, as on the processor). host is NULL where the operand crosses a page or is a
 * device; then the value goes through `linear`. So does LOCK across cache lines: the host's LOCK
 * could do it, but hosts punish split locks (operand.c).
 */
#define CACHE_LINE 64u

struct rmw {
    void *host;
    uint64_t linear;
    bool wrote_slow; /* tlb_pointer_wrote is due */
    bool exclusive;  /* LOCK off plain RAM: the other vCPUs wait until the store */
};

struct rmw rmw_begin_slow(struct vcpu *v, const struct insn *i, uint64_t linear, unsigned size);
uint64_t rmw_load_slow(struct vcpu *v, const struct rmw *m, unsigned size);
void rmw_store_slow(struct vcpu *v, const struct rmw *m, uint64_t value, unsigned size);

static inline __attribute__((always_inline)) struct rmw
rmw_begin_at(struct vcpu *v, const struct insn *i, uint64_t ea, unsigned size)
{
    uint64_t linear = segment_linear(v, i->seg, ea, size, true);
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, (enum tlb_reach)v->reach, linear);
    if (X86_LIKELY(e->write == tlb_tag(&v->tlb, linear) &&
                   (linear & (CACHE_LINE - 1)) <= CACHE_LINE - size))
        return (struct rmw){.host = (void *)(e->addend + linear)};
    return rmw_begin_slow(v, i, linear, size);
}

static inline __attribute__((always_inline)) struct rmw
rmw_begin(struct vcpu *v, const struct insn *i, unsigned size)
{
    return rmw_begin_at(v, i, effective_address(v, i), size);
}

static inline __attribute__((always_inline)) uint64_t rmw_load(struct vcpu *v, const struct rmw *m,
                                                               unsigned size)
{
    return X86_LIKELY(m->host != NULL) ? host_load(m->host, size) : rmw_load_slow(v, m, size);
}

static inline __attribute__((always_inline)) void rmw_store(struct vcpu *v, const struct rmw *m,
                                                            uint64_t value, unsigned size)
{
    if (X86_LIKELY(m->host != NULL)) {
        host_store(m->host, value, size);
        if (X86_UNLIKELY(m->wrote_slow))
            tlb_pointer_wrote(v, m->host, size);
    } else {
        rmw_store_slow(v, m, value, size);
    }
}

/* LOCK: replaces *expected by value in one host LOCK CMPXCHG (decision 8). false: *expected now
 * holds what is there. Off plain RAM it is a load and a store under the split lock. */
bool rmw_cas(struct vcpu *v, const struct rmw *m, uint64_t *expected, uint64_t value,
             unsigned size);

/* One turn of a LOCK loop: the same, where *expected came from rmw_load. Off plain RAM the first
 * turn ends it, for a device's register may read as another value each time. */
static inline bool rmw_replace(struct vcpu *v, const struct rmw *m, uint64_t *expected,
                               uint64_t value, unsigned size)
{
    if (X86_LIKELY(m->host != NULL))
        return rmw_cas(v, m, expected, value, size);
    rmw_store_slow(v, m, value, size);
    return true;
}

/* ---- stack ---- */

/* Width of SP arithmetic: 8 in 64-bit mode, else by SS.B. */
static inline unsigned stack_address_size(const struct vcpu *v)
{
    if (X86_LIKELY(v->code64))
        return 8;
    return (v->seg[SEG_SS].attributes & ATTR_DB) ? 4 : 2;
}

static inline uint64_t stack_wrap(const struct vcpu *v, uint64_t sp)
{
    switch (stack_address_size(v)) {
    case 8:
        return sp;
    case 4:
        return (uint32_t)sp;
    default:
        return (uint16_t)sp;
    }
}

static inline void stack_set(struct vcpu *v, uint64_t sp)
{
    switch (stack_address_size(v)) {
    case 8:
        v->gpr[RSP] = sp;
        break;
    case 4:
        v->gpr[RSP] = (uint32_t)sp;
        break;
    default:
        v->gpr[RSP] = (v->gpr[RSP] & ~(uint64_t)0xffff) | (uint16_t)sp;
        break;
    }
}

static inline __attribute__((always_inline)) void stack_store(struct vcpu *v, uint64_t sp,
                                                              uint64_t value, unsigned size)
{
    store_linear(v, SEG_SS, segment_linear(v, SEG_SS, sp, size, true), value, size);
}

static inline __attribute__((always_inline)) uint64_t stack_load(struct vcpu *v, uint64_t sp,
                                                                 unsigned size)
{
    return load_linear(v, SEG_SS, segment_linear(v, SEG_SS, sp, size, false), size);
}

static inline __attribute__((always_inline)) void push(struct vcpu *v, uint64_t value,
                                                       unsigned size)
{
    uint64_t sp = stack_wrap(v, v->gpr[RSP] - size);
    stack_store(v, sp, value, size);
    stack_set(v, sp);
}

/* The value at the top; the caller moves RSP by stack_set once nothing can raise any more. */
static inline __attribute__((always_inline)) uint64_t stack_top(struct vcpu *v, unsigned size)
{
    return stack_load(v, stack_wrap(v, v->gpr[RSP]), size);
}

#endif
