/* SPDX-License-Identifier: MIT */
/* What an instruction does with the general registers: which it writes, and whether only by adding
 * a constant. Addresses made of them stay known or end with them (address.c). */
#include "engine/bt/translate.h"

unsigned bt_gpr_number(ZydisRegister r)
{
    unsigned id = (unsigned)ZydisRegisterGetId(r);
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
        return id < 4 ? id : id - 4; /* AH CH DH BH -> 0…3, SPL BPL SIL DIL -> 4…7 */
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return id;
    default:
        return BT_NO_GPR;
    }
}

/* Not as the base of its address, nor as the stack pointer of PUSH, POP, CALL, RET. */
static bool has_rsp(const struct bt_insn *i)
{
    for (unsigned n = 0; n < i->full.insn.operand_count; n++) {
        const ZydisDecodedOperand *o = &i->full.operands[n];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            o->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN && bt_gpr_number(o->reg.value) == RSP)
            return true;
    }
    return false;
}

static uint16_t written(const struct insn_full *full)
{
    uint16_t writes = 0;
    for (unsigned n = 0; n < full->insn.operand_count; n++) {
        const ZydisDecodedOperand *o = &full->operands[n];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        unsigned g = bt_gpr_number(o->reg.value);
        if (g != BT_NO_GPR)
            writes |= (uint16_t)(1u << g);
    }
    return writes;
}

static void adds(struct bt_insn *i, unsigned guest, int32_t n)
{
    i->adds_to = (uint8_t)guest;
    i->add = n;
}

/* ADD, SUB, INC, DEC and LEA of a whole register. */
static void adds_to_register(struct bt_insn *i)
{
    const ZydisDecodedOperand *o = i->full.operands;
    if (o[0].type != ZYDIS_OPERAND_TYPE_REGISTER || o[0].size != 64)
        return;
    int64_t n = o[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? o[1].imm.value.s : 0;
    bool immediate = o[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    unsigned guest = bt_gpr_number(o[0].reg.value);
    switch (i->full.insn.mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
        if (immediate)
            adds(i, guest, (int32_t)n);
        break;
    case ZYDIS_MNEMONIC_SUB:
        if (immediate && n != INT32_MIN)
            adds(i, guest, (int32_t)-n);
        break;
    case ZYDIS_MNEMONIC_INC:
        adds(i, guest, 1);
        break;
    case ZYDIS_MNEMONIC_DEC:
        adds(i, guest, -1);
        break;
    case ZYDIS_MNEMONIC_LEA:
        if (o[1].mem.base == o[0].reg.value && o[1].mem.index == ZYDIS_REGISTER_NONE)
            adds(i, guest, (int32_t)o[1].mem.disp.value);
        break;
    default:
        break;
    }
}

void bt_effects(struct bt_insn *i)
{
    i->writes = written(&i->full);
    i->has_rsp = has_rsp(i);
    i->pushes = false;
    i->adds_to = BT_NO_GPR;
    i->add = 0;
    switch (i->kind) {
    case KIND_COPY:
    case KIND_LEA:
        adds_to_register(i);
        break;
    case KIND_PUSH:
    case KIND_PUSHF:
    case KIND_CALL:
    case KIND_CALL_INDIRECT:
        i->pushes = true;
        adds(i, RSP, -8);
        break;
    case KIND_POP:
        if (i->in.dst != 8 * RSP)
            adds(i, RSP, 8);
        break;
    default:
        break;
    }
}
