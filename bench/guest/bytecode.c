/* SPDX-License-Identifier: MIT */
/* An interpreter of bytecode with a jump table, as a scripting language has: it counts the steps of
 * the Collatz sequences. */
#include "bench.h"

enum op {
    OP_SET,
    OP_MOVE,
    OP_ADD,
    OP_ADDI,
    OP_MULI,
    OP_SHR,
    OP_ANDI,
    OP_JNZ,
    OP_JMP,
    OP_LT,
    OP_END
};

struct insn {
    uint8_t op, a, b;
    int32_t c;
};

/* r0 the number, r1 its sequence, r2 steps, r3 scratch, r4 the limit */
static const struct insn program[] = {
    {OP_SET, 0, 0, 1},   /* 0:  r0 = 1 */
    {OP_SET, 2, 0, 0},   /* 1:  r2 = 0 */
    {OP_MOVE, 1, 0, 0},  /* 2:  next number: r1 = r0 */
    {OP_MOVE, 3, 1, 0},  /* 3:  step: r3 = r1 - 1 */
    {OP_ADDI, 3, 3, -1}, /* 4: */
    {OP_JNZ, 3, 0, 7},   /* 5:  if (r1 != 1) goto 7 */
    {OP_JMP, 0, 0, 15},  /* 6:  goto 15 */
    {OP_ADDI, 2, 2, 1},  /* 7:  r2++ */
    {OP_ANDI, 3, 1, 1},  /* 8:  r3 = r1 & 1 */
    {OP_JNZ, 3, 0, 12},  /* 9:  if odd goto 12 */
    {OP_SHR, 1, 1, 1},   /* 10: r1 /= 2 */
    {OP_JMP, 0, 0, 3},   /* 11: goto 3 */
    {OP_MULI, 1, 1, 3},  /* 12: r1 = 3 * r1 + 1 */
    {OP_ADDI, 1, 1, 1},  /* 13: */
    {OP_JMP, 0, 0, 3},   /* 14: goto 3 */
    {OP_ADDI, 0, 0, 1},  /* 15: r0++ */
    {OP_LT, 3, 0, 4},    /* 16: r3 = r0 < r4 */
    {OP_JNZ, 3, 0, 2},   /* 17: if (r3) goto 2 */
    {OP_END, 2, 0, 0},   /* 18: return r2 */
};

static int64_t interpret(const struct insn *code, int64_t limit)
{
    int64_t r[8] = {[4] = limit};
    for (const struct insn *i = code;; i++) {
        switch ((enum op)i->op) {
        case OP_SET:
            r[i->a] = i->c;
            break;
        case OP_MOVE:
            r[i->a] = r[i->b];
            break;
        case OP_ADD:
            r[i->a] += r[i->b];
            break;
        case OP_ADDI:
            r[i->a] = r[i->b] + i->c;
            break;
        case OP_MULI:
            r[i->a] = r[i->b] * i->c;
            break;
        case OP_SHR:
            r[i->a] = r[i->b] >> i->c;
            break;
        case OP_ANDI:
            r[i->a] = r[i->b] & i->c;
            break;
        case OP_JNZ:
            if (r[i->a] != 0)
                i = code + i->c - 1;
            break;
        case OP_JMP:
            i = code + i->c - 1;
            break;
        case OP_LT:
            r[i->a] = r[i->b] < r[i->c];
            break;
        case OP_END:
            return r[i->a];
        }
    }
}

uint64_t bytecode_run(uint64_t work)
{
    return (uint64_t)interpret(program, (int64_t)work);
}
