/* SPDX-License-Identifier: MIT */
/*
 * Integer arithmetic by the host's own instructions, so that undefined flags and results are the
 * host's (decision 4). Each function takes operands of `size` bytes (1, 2, 4, 8; a constant at
 * every call, so that one case remains) and the guest's RFLAGS, of which it replaces the six
 * arithmetic flags that the instruction writes.
 *
 * Flags travel by LAHF/SETO and SAHF/ADD: unlike PUSHF they leave the host's stack (and red zone)
 * alone, and unlike POPF they are cheap and cannot touch TF or AC (decision 3).
 */
#ifndef DOPPEL_ENGINE_HOST_ALU_H
#define DOPPEL_ENGINE_HOST_ALU_H

#include <stdbool.h>
#include <stdint.h>

#include "x86/regs.h"

#define ALU_INLINE static inline __attribute__((always_inline))

/* AH = SF ZF AF PF CF, AL = OF. */
ALU_INLINE uint64_t alu_flags_out(uint64_t rflags, uint32_t ax)
{
    return (rflags & ~(uint64_t)FLAGS_ARITHMETIC) | ((ax >> 8) & (FLAGS_ARITHMETIC & 0xff)) |
           ((uint64_t)(ax & 1) << 11);
}

ALU_INLINE uint32_t alu_flags_in(uint64_t rflags)
{
    return (uint32_t)((rflags & 0xff) << 8) | ((rflags >> 11) & 1);
}

#define ALU_LOAD_FLAGS "addb $127, %%al\n\tsahf\n\t" /* OF from AL = 0 or 1, then the rest */
#define ALU_SAVE_FLAGS "\n\tlahf\n\tseto %%al"

#define ALU_CASE2(type, text, load, constraint)     \
    {                                               \
        type r = (type)a;                           \
        __asm__(load text ALU_SAVE_FLAGS            \
                : "+&a"(ax), [r] "+&" constraint(r) \
                : [b] constraint((type)b)           \
                : "cc");                            \
        a = r;                                      \
    }

/* r = r op b */
#define ALU_BINARY(name, op, load)                                                          \
    ALU_INLINE uint64_t alu_##name(uint64_t *rflags, uint64_t a, uint64_t b, unsigned size) \
    {                                                                                       \
        uint32_t ax = alu_flags_in(*rflags);                                                \
        switch (size) {                                                                     \
        case 1:                                                                             \
            ALU_CASE2(uint8_t, op "b %[b], %[r]", load, "q");                               \
            break;                                                                          \
        case 2:                                                                             \
            ALU_CASE2(uint16_t, op "w %[b], %[r]", load, "r");                              \
            break;                                                                          \
        case 4:                                                                             \
            ALU_CASE2(uint32_t, op "l %[b], %[r]", load, "r");                              \
            break;                                                                          \
        default:                                                                            \
            ALU_CASE2(uint64_t, op "q %[b], %[r]", load, "r");                              \
            break;                                                                          \
        }                                                                                   \
        *rflags = alu_flags_out(*rflags, ax);                                               \
        return a;                                                                           \
    }

ALU_BINARY(add, "add", "")
ALU_BINARY(or, "or", "")
ALU_BINARY(adc, "adc", ALU_LOAD_FLAGS)
ALU_BINARY(sbb, "sbb", ALU_LOAD_FLAGS)
ALU_BINARY(and, "and", "")
ALU_BINARY(sub, "sub", "")
ALU_BINARY(xor, "xor", "")
ALU_BINARY(cmp, "cmp", "")
ALU_BINARY(test, "test", "")

/* The 8-bit forms of these do not exist; size 1 is never asked for. BSF and BSR leave the
 * destination alone for a zero source on every processor (Intel documents it as undefined). */
#define ALU_WIDE(name, op)                                                                  \
    ALU_INLINE uint64_t alu_##name(uint64_t *rflags, uint64_t a, uint64_t b, unsigned size) \
    {                                                                                       \
        uint32_t ax = alu_flags_in(*rflags);                                                \
        switch (size) {                                                                     \
        case 2:                                                                             \
            ALU_CASE2(uint16_t, op "w %[b], %[r]", ALU_LOAD_FLAGS, "r");                    \
            break;                                                                          \
        case 4:                                                                             \
            ALU_CASE2(uint32_t, op "l %[b], %[r]", ALU_LOAD_FLAGS, "r");                    \
            break;                                                                          \
        default:                                                                            \
            ALU_CASE2(uint64_t, op "q %[b], %[r]", ALU_LOAD_FLAGS, "r");                    \
            break;                                                                          \
        }                                                                                   \
        *rflags = alu_flags_out(*rflags, ax);                                               \
        return a;                                                                           \
    }

ALU_WIDE(imul, "imul")
ALU_WIDE(bsf, "bsf")
ALU_WIDE(bsr, "bsr")
ALU_WIDE(tzcnt, "tzcnt")
ALU_WIDE(lzcnt, "lzcnt")
ALU_WIDE(popcnt, "popcnt")
ALU_WIDE(bt, "bt")
ALU_WIDE(bts, "bts")
ALU_WIDE(btr, "btr")
ALU_WIDE(btc, "btc")

#define ALU_CASE1(type, text, constraint)                                                         \
    {                                                                                             \
        type r = (type)a;                                                                         \
        __asm__(ALU_LOAD_FLAGS text ALU_SAVE_FLAGS : "+&a"(ax), [r] "+&" constraint(r) : : "cc"); \
        a = r;                                                                                    \
    }

/* r = op r */
#define ALU_UNARY(name, op)                                                                      \
    ALU_INLINE uint64_t alu_##name(uint64_t *rflags, uint64_t a, uint64_t unused, unsigned size) \
    {                                                                                            \
        uint32_t ax = alu_flags_in(*rflags);                                                     \
        (void)unused;                                                                            \
        switch (size) {                                                                          \
        case 1:                                                                                  \
            ALU_CASE1(uint8_t, op "b %[r]", "q");                                                \
            break;                                                                               \
        case 2:                                                                                  \
            ALU_CASE1(uint16_t, op "w %[r]", "r");                                               \
            break;                                                                               \
        case 4:                                                                                  \
            ALU_CASE1(uint32_t, op "l %[r]", "r");                                               \
            break;                                                                               \
        default:                                                                                 \
            ALU_CASE1(uint64_t, op "q %[r]", "r");                                               \
            break;                                                                               \
        }                                                                                        \
        *rflags = alu_flags_out(*rflags, ax);                                                    \
        return a;                                                                                \
    }

ALU_UNARY(inc, "inc")
ALU_UNARY(dec, "dec")
ALU_UNARY(neg, "neg")
ALU_UNARY(not, "not")

#define ALU_CASE_CL(type, text, constraint)         \
    {                                               \
        type r = (type)a;                           \
        __asm__(ALU_LOAD_FLAGS text ALU_SAVE_FLAGS  \
                : "+&a"(ax), [r] "+&" constraint(r) \
                : "c"((uint8_t)count)               \
                : "cc");                            \
        a = r;                                      \
    }

/* Shifts and rotates by a count the host masks as the guest's would; a zero count changes no flag.
 */
#define ALU_SHIFT(name, op)                                                                     \
    ALU_INLINE uint64_t alu_##name(uint64_t *rflags, uint64_t a, uint64_t count, unsigned size) \
    {                                                                                           \
        uint32_t ax = alu_flags_in(*rflags);                                                    \
        switch (size) {                                                                         \
        case 1:                                                                                 \
            ALU_CASE_CL(uint8_t, op "b %%cl, %[r]", "q");                                       \
            break;                                                                              \
        case 2:                                                                                 \
            ALU_CASE_CL(uint16_t, op "w %%cl, %[r]", "r");                                      \
            break;                                                                              \
        case 4:                                                                                 \
            ALU_CASE_CL(uint32_t, op "l %%cl, %[r]", "r");                                      \
            break;                                                                              \
        default:                                                                                \
            ALU_CASE_CL(uint64_t, op "q %%cl, %[r]", "r");                                      \
            break;                                                                              \
        }                                                                                       \
        *rflags = alu_flags_out(*rflags, ax);                                                   \
        return a;                                                                               \
    }

ALU_SHIFT(rol, "rol")
ALU_SHIFT(ror, "ror")
ALU_SHIFT(rcl, "rcl")
ALU_SHIFT(rcr, "rcr")
ALU_SHIFT(shl, "shl")
ALU_SHIFT(shr, "shr")
ALU_SHIFT(sar, "sar")

#define ALU_CASE_DOUBLE(type, text)                \
    {                                              \
        type r = (type)a;                          \
        __asm__(ALU_LOAD_FLAGS text ALU_SAVE_FLAGS \
                : "+&a"(ax), [r] "+&r"(r)          \
                : [b] "r"((type)b), "c"(count)     \
                : "cc");                           \
        a = r;                                     \
    }

/* SHLD, SHRD: 16-bit counts above 16 give the host's undefined result. */
#define ALU_DOUBLE(name, op)                                                                \
    ALU_INLINE uint64_t alu_##name(uint64_t *rflags, uint64_t a, uint64_t b, uint8_t count, \
                                   unsigned size)                                           \
    {                                                                                       \
        uint32_t ax = alu_flags_in(*rflags);                                                \
        switch (size) {                                                                     \
        case 2:                                                                             \
            ALU_CASE_DOUBLE(uint16_t, op "w %%cl, %[b], %[r]");                             \
            break;                                                                          \
        case 4:                                                                             \
            ALU_CASE_DOUBLE(uint32_t, op "l %%cl, %[b], %[r]");                             \
            break;                                                                          \
        default:                                                                            \
            ALU_CASE_DOUBLE(uint64_t, op "q %%cl, %[b], %[r]");                             \
            break;                                                                          \
        }                                                                                   \
        *rflags = alu_flags_out(*rflags, ax);                                               \
        return a;                                                                           \
    }

ALU_DOUBLE(shld, "shld")
ALU_DOUBLE(shrd, "shrd")

/* high:low = low * b (MUL, one-operand IMUL). RAX is an operand
 * and also where LAHF and SETO leave the flags, so the low half is parked in another register. */
#define ALU_CASE_MUL(type, text)                                                               \
    {                                                                                          \
        uint64_t ax = (uint64_t)alu_flags_in(*rflags);                                         \
        uint64_t l = *low, h = *high;                                                          \
        __asm__(ALU_LOAD_FLAGS "mov %[l], %%rax\n\t" text "\n\tmov %%rax, %[l]" ALU_SAVE_FLAGS \
                : "+&a"(ax), [l] "+&r"(l), "+&d"(h)                                            \
                : [b] "r"((type)b)                                                             \
                : "cc");                                                                       \
        *low = l;                                                                              \
        *high = h;                                                                             \
        *rflags = alu_flags_out(*rflags, (uint32_t)ax);                                        \
    }

/* *low and *high are RAX and RDX whole: the host writes the parts that the size writes. For size 1
 * the product is in AX, so *high is untouched. */
#define ALU_MULTIPLY(name, op)                                                              \
    ALU_INLINE void alu_##name(uint64_t *rflags, uint64_t *low, uint64_t *high, uint64_t b, \
                               unsigned size)                                               \
    {                                                                                       \
        switch (size) {                                                                     \
        case 1:                                                                             \
            ALU_CASE_MUL(uint8_t, op "b %b[b]");                                            \
            break;                                                                          \
        case 2:                                                                             \
            ALU_CASE_MUL(uint16_t, op "w %w[b]");                                           \
            break;                                                                          \
        case 4:                                                                             \
            ALU_CASE_MUL(uint32_t, op "l %k[b]");                                           \
            break;                                                                          \
        default:                                                                            \
            ALU_CASE_MUL(uint64_t, op "q %q[b]");                                           \
            break;                                                                          \
        }                                                                                   \
    }

ALU_MULTIPLY(mul, "mul")
ALU_MULTIPLY(imul1, "imul")
/* The caller has checked that the host will not raise #DE. */
ALU_MULTIPLY(div, "div")
ALU_MULTIPLY(idiv, "idiv")

/* a + b + CF by ADCX, or OF by ADOX: only that flag is written (SDM 2A). */
ALU_INLINE uint64_t alu_carry_add(uint64_t a, uint64_t b, unsigned size, uint64_t *rflags,
                                  uint64_t flag)
{
    uint64_t carry = (*rflags & flag) != 0, sum;
    bool out;
    if (size == 4) {
        sum = (uint64_t)(uint32_t)a + (uint32_t)b + carry;
        out = sum >> 32 != 0;
        sum = (uint32_t)sum;
    } else {
        bool first = __builtin_add_overflow(a, b, &sum);
        out = __builtin_add_overflow(sum, carry, &sum) | first;
    }
    *rflags = out ? *rflags | flag : *rflags & ~flag;
    return sum;
}

#endif
