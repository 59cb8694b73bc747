/* SPDX-License-Identifier: MIT */
/*
 * The emitter: bytes of host instructions, one function for each shape that the translator writes
 * (SDM 2A chapter 2). Not an assembler: what it can write is what the checker can prove.
 *
 * `at` is the writable place; the code runs elsewhere (exec_memory.h), at at + to_exec.
 */
#ifndef DOPPEL_ENGINE_BT_EMIT_H
#define DOPPEL_ENGINE_BT_EMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct emit {
    uint8_t *at;
    ptrdiff_t to_exec;
};

static inline void emit_bytes(struct emit *e, const void *bytes, unsigned n)
{
    memcpy(e->at, bytes, n);
    e->at += n;
}

#define EMIT(e, ...) emit_bytes(e, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static inline void emit_u32(struct emit *e, uint32_t value)
{
    emit_bytes(e, &value, 4);
}
static inline void emit_u64(struct emit *e, uint64_t value)
{
    emit_bytes(e, &value, 8);
}

static inline uint8_t emit_rex(bool w, unsigned reg, unsigned index, unsigned base)
{
    return (uint8_t)(0x40 | w << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | (base >> 3));
}

/* opcode reg, %gs:disp; w = 64 bits. */
static inline void emit_gs(struct emit *e, bool w, uint8_t opcode, unsigned reg, uint32_t disp)
{
    uint8_t rex = emit_rex(w, reg, 0, 0);
    EMIT(e, 0x65);
    if (rex != 0x40)
        EMIT(e, rex);
    EMIT(e, opcode, (uint8_t)(4 | (reg & 7) << 3), 0x25);
    emit_u32(e, disp);
}

/* opcode reg, %gs:disp(index) */
static inline void emit_gs_index(struct emit *e, bool w, uint8_t opcode, unsigned reg,
                                 unsigned index, uint32_t disp)
{
    EMIT(e, 0x65, emit_rex(w, reg, index, 0), opcode, (uint8_t)(4 | (reg & 7) << 3),
         (uint8_t)(5 | (index & 7) << 3));
    emit_u32(e, disp);
}

/* mov %gs:disp, reg and back */
static inline void emit_load(struct emit *e, unsigned reg, uint32_t disp)
{
    emit_gs(e, true, 0x8b, reg, disp);
}
static inline void emit_store(struct emit *e, unsigned reg, uint32_t disp)
{
    emit_gs(e, true, 0x89, reg, disp);
}

/* 64 bits, between registers */
static inline void emit_mov(struct emit *e, unsigned to, unsigned from)
{
    EMIT(e, emit_rex(true, from, 0, to), 0x89, (uint8_t)(0xc0 | (from & 7) << 3 | (to & 7)));
}

static inline void emit_mov_constant(struct emit *e, unsigned to, uint64_t value)
{
    if (value <= UINT32_MAX) {
        if (to >= 8)
            EMIT(e, 0x41);
        EMIT(e, (uint8_t)(0xb8 | (to & 7)));
        emit_u32(e, (uint32_t)value);
    } else if ((uint64_t)(int64_t)(int32_t)value == value) {
        EMIT(e, emit_rex(true, 0, 0, to), 0xc7, (uint8_t)(0xc0 | (to & 7)));
        emit_u32(e, (uint32_t)value);
    } else {
        EMIT(e, emit_rex(true, 0, 0, to), (uint8_t)(0xb8 | (to & 7)));
        emit_u64(e, value);
    }
}

#define EMIT_NO_INDEX 16u
#define EMIT_NO_BASE  16u

/* lea disp(base, index << scale), to; with 32 bits the upper half is cleared. */
static inline void emit_lea(struct emit *e, bool wide, unsigned to, unsigned base, unsigned index,
                            unsigned scale, int32_t disp)
{
    unsigned x = index == EMIT_NO_INDEX ? 4 : index, b = base == EMIT_NO_BASE ? 5 : base;
    bool sib = index != EMIT_NO_INDEX || base == EMIT_NO_BASE || (base & 7) == 4;
    unsigned mod = base == EMIT_NO_BASE           ? 0
                   : disp == 0 && (base & 7) != 5 ? 0
                   : disp >= -128 && disp <= 127  ? 1
                                                  : 2;
    EMIT(e, emit_rex(wide, to, x, b), 0x8d,
         (uint8_t)(mod << 6 | (to & 7) << 3 | (sib ? 4 : (b & 7))));
    if (sib)
        EMIT(e, (uint8_t)(scale << 6 | (x & 7) << 3 | (b & 7)));
    if (mod == 1)
        EMIT(e, (uint8_t)disp);
    else if (mod == 2 || base == EMIT_NO_BASE)
        emit_u32(e, (uint32_t)disp);
}

/* jmp, call or jcc rel32; returns the place of the displacement. */
static inline uint8_t *emit_jmp(struct emit *e)
{
    EMIT(e, 0xe9, 0, 0, 0, 0);
    return e->at - 4;
}
static inline uint8_t *emit_jcc(struct emit *e, unsigned condition)
{
    EMIT(e, 0x0f, (uint8_t)(0x80 | condition), 0, 0, 0, 0);
    return e->at - 4;
}
static inline uint8_t *emit_call(struct emit *e)
{
    EMIT(e, 0xe8, 0, 0, 0, 0);
    return e->at - 4;
}
/* Both in the writable alias. */
static inline void emit_patch(uint8_t *displacement, const uint8_t *target)
{
    int32_t d = (int32_t)(target - (displacement + 4));
    memcpy(displacement, &d, 4);
}
/* The same while others may run it: displacement lies within an aligned quadword (SDM 3A 8.1.1, APM
 * 2 7.3.2), and its old and new targets are both good. */
static inline void emit_patch_atomic(uint8_t *displacement, const uint8_t *target)
{
    int32_t d = (int32_t)(target - (displacement + 4));
    __asm__ volatile("movl %1, %0" : "=m"(*(int32_t(*)[1])displacement) : "r"(d) : "memory");
}
static inline void emit_jmp_to(struct emit *e, const uint8_t *target)
{
    emit_patch(emit_jmp(e), target);
}
static inline void emit_call_to(struct emit *e, const uint8_t *target)
{
    emit_patch(emit_call(e), target);
}

#endif
