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

void emit_system(struct translation *t)
{
    uint32_t second = VCPU_OFFSET(rflags) + 1;
    tr_save_flags(t);
    switch (t->i->full.insn.mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
        put_byte(&t->e, BYTE_AND, second, (uint8_t) ~(FLAG_IF >> 8));
        break;
    case ZYDIS_MNEMONIC_STI: /* the next instruction is still shielded (SDM 2B STI) */
        put_byte(&t->e, BYTE_OR, second, FLAG_IF >> 8);
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
