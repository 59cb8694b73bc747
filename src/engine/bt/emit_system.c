/* SPDX-License-Identifier: MIT */
/* System instructions that are a store to struct vcpu. */
#include "engine/bt/translate.h"

/* and or or $imm8, %gs:byte */
static void put_byte(struct emit *e, unsigned operation, uint32_t offset, uint8_t value)
{
    EMIT(e, 0x65, 0x80, (uint8_t)(4 | operation << 3), 0x25);
    emit_u32(e, offset);
    EMIT(e, value);
}

#define BYTE_OR  1u
#define BYTE_AND 4u

/* An interrupt that waits may be taken from now on. */
static void put_hold_nothing(struct emit *e)
{
    EMIT(e, 0x65, 0xc7, 0x04, 0x25); /* movl */
    emit_u32(e, LOCAL_OFFSET(held));
    emit_u32(e, 0);
    EMIT(e, 0x65, 0xc7, 0x04, 0x25);
    emit_u32(e, LOCAL_OFFSET(not_held));
    emit_u32(e, UINT32_MAX);
}

static void put_swapgs(struct emit *e)
{
    uint32_t base = (uint32_t)(VCPU_OFFSET(seg[0].base) + SEG_GS * sizeof(struct x86_segment));
    emit_load(e, S0, base);
    emit_load(e, S1, VCPU_OFFSET(kernel_gs_base));
    emit_store(e, S0, VCPU_OFFSET(kernel_gs_base));
    emit_store(e, S1, base);
}

/* Arithmetic flags from where they were saved, the others from the vCPU; RF and VM are pushed as 0
 * (SDM 2B PUSHF). */
static void put_pushf(struct translation *t)
{
    struct emit *e = &t->e;
    struct tr_operand o = tr_pushed(t);
    unsigned scratch = tr_free_scratch(t, &o);
    emit_store(e, RAX, LOCAL_OFFSET(temp[7]));
    EMIT(e, 0x65, 0x0f, 0xb7, 0x04, 0x25); /* movzwl %gs:flags, %eax */
    emit_u32(e, LOCAL_OFFSET(flags));
    emit_mov(e, scratch, RAX);
    EMIT(e, 0x83, 0xe0, 1, 0xc1, 0xe0, 11, 0x41, 0xc1, (uint8_t)(0xe8 | (scratch & 7)), 8, 0x41,
         0x09, (uint8_t)(0xc0 | (scratch & 7))); /* and $1, %eax; shl $11; shr $8, scratch; or */
    emit_load(e, RAX, VCPU_OFFSET(rflags));
    EMIT(e, 0x25); /* and $…, %eax */
    emit_u32(e, ~(FLAGS_ARITHMETIC | FLAG_RF | FLAG_VM));
    EMIT(e, 0x41, 0x09, (uint8_t)(0xc0 | (scratch & 7))); /* or %eax, scratch */
    emit_load(e, RAX, LOCAL_OFFSET(temp[7]));
    tr_mark(t);
    emit_memory(e, true, 0x89, scratch, &o);
    tr_move_rsp(t, -8);
    t->host = false;
}

void emit_system(struct translation *t)
{
    uint32_t second = VCPU_OFFSET(rflags) + 1;
    if (t->i->kind == KIND_SWAPGS) {
        put_swapgs(&t->e);
        return;
    }
    tr_save_flags(t);
    if (t->i->kind == KIND_PUSHF) {
        put_pushf(t);
        return;
    }
    switch (t->i->full->insn.mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
        put_byte(&t->e, BYTE_AND, second, (uint8_t) ~(FLAG_IF >> 8));
        break;
    case ZYDIS_MNEMONIC_STI: /* the next instruction is still shielded (SDM 2B STI) */
        put_byte(&t->e, BYTE_OR, second, FLAG_IF >> 8);
        put_hold_nothing(&t->e);
        break;
    case ZYDIS_MNEMONIC_STD:
        put_byte(&t->e, BYTE_OR, second, FLAG_DF >> 8);
        break;
    default: /* CLD */
        put_byte(&t->e, BYTE_AND, second, (uint8_t) ~(FLAG_DF >> 8));
        break;
    }
    t->host = false;
}
