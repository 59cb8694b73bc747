/* SPDX-License-Identifier: MIT */
/* What an instruction does with the general registers: which it writes, and whether only by adding
 * a constant. Addresses made of them stay known or end with them (address.c). */
#include "engine/bt/translate.h"

/* ORDER ZydisRegister: without a call of its library, for this is asked often. */
unsigned bt_gpr_number(ZydisRegister r)
{
    _Static_assert(ZYDIS_REGISTER_AH == ZYDIS_REGISTER_AL + 4 &&
                       ZYDIS_REGISTER_SPL == ZYDIS_REGISTER_AL + 8 &&
                       ZYDIS_REGISTER_AX == ZYDIS_REGISTER_AL + 20 &&
                       ZYDIS_REGISTER_EAX == ZYDIS_REGISTER_AX + 16 &&
                       ZYDIS_REGISTER_RAX == ZYDIS_REGISTER_EAX + 16 &&
                       ZYDIS_REGISTER_R15 == ZYDIS_REGISTER_RAX + 15,
                   "AL…BL, AH…BH, SPL…R15B, AX…R15W, EAX…R15D, RAX…R15");
    if (r < ZYDIS_REGISTER_AL || r > ZYDIS_REGISTER_R15)
        return BT_NO_GPR;
    if (r >= ZYDIS_REGISTER_AX)
        return (r - ZYDIS_REGISTER_AX) & 15;
    return r < ZYDIS_REGISTER_AH ? r - ZYDIS_REGISTER_AL : r - ZYDIS_REGISTER_AH;
}

/* Not as the base of its address, nor as the stack pointer of PUSH, POP, CALL, RET. */
static bool has_rsp(const struct bt_insn *i)
{
    for (unsigned n = 0; n < i->full->insn.operand_count; n++) {
        const ZydisDecodedOperand *o = &i->full->operands[n];
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

static void adds(struct bt_insn *i, unsigned guest, enum bt_add is, int32_t n)
{
    i->adds_to = (uint8_t)guest;
    i->add_is = (uint8_t)is;
    i->add = n;
}

void bt_effects_add(struct bt_insn *i)
{
    if (i->add_is == ADD_IMMEDIATE)
        i->add = (int32_t)i->in.imm;
    else if (i->add_is == ADD_NEGATIVE && i->in.imm == (uint64_t)INT32_MIN)
        i->adds_to = BT_NO_GPR; /* its negative is no displacement */
    else if (i->add_is == ADD_NEGATIVE)
        i->add = -(int32_t)i->in.imm;
    else if (i->add_is == ADD_DISPLACEMENT)
        i->add = i->in.disp;
}

/* ADD, SUB, INC, DEC and LEA of a whole register. */
static void adds_to_register(struct bt_insn *i)
{
    const ZydisDecodedOperand *o = i->full->operands;
    bool code32 = i->full->insn.machine_mode == ZYDIS_MACHINE_MODE_LONG_COMPAT_32;
    if (o[0].type != ZYDIS_OPERAND_TYPE_REGISTER || o[0].size != (code32 ? 32 : 64))
        return;
    bool immediate = o[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    unsigned guest = bt_gpr_number(o[0].reg.value);
    switch (i->full->insn.mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
        if (immediate)
            adds(i, guest, ADD_IMMEDIATE, 0);
        break;
    case ZYDIS_MNEMONIC_SUB:
        if (immediate)
            adds(i, guest, ADD_NEGATIVE, 0);
        break;
    case ZYDIS_MNEMONIC_INC:
        adds(i, guest, ADD_FIXED, 1);
        break;
    case ZYDIS_MNEMONIC_DEC:
        adds(i, guest, ADD_FIXED, -1);
        break;
    case ZYDIS_MNEMONIC_LEA:
        if (o[1].mem.base == o[0].reg.value && o[1].mem.index == ZYDIS_REGISTER_NONE)
            adds(i, guest, ADD_DISPLACEMENT, 0);
        break;
    default:
        break;
    }
}

void bt_effects(struct bt_insn *i)
{
    i->writes = written(i->full);
    i->has_rsp = has_rsp(i);
    i->pushes = false;
    i->adds_to = BT_NO_GPR;
    i->add_is = ADD_FIXED;
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
        adds(i, RSP, ADD_FIXED, -i->in.stack_size);
        break;
    case KIND_POP:
        if (i->in.dst != 8 * RSP)
            adds(i, RSP, ADD_FIXED, i->in.stack_size);
        break;
    default:
        break;
    }
    bt_effects_add(i);
}
