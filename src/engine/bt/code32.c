/* SPDX-License-Identifier: MIT */
/*
 * 32-bit code, in compatibility mode and in protected mode: when it may be translated, and which of
 * its instructions mean the same as 64-bit code (SDM 1 3.3.7, 3.4.1.1; SDM 2A 2.2.1.2).
 *
 * Translated are flat segments: a base of 0 and a limit of 4 GiB for CS, DS, ES and SS. What the
 * code assumes of them is looked at whenever C code goes on; FS and GS, which kernels change on the
 * way in and out, are looked at by the code that uses them (tr_access). Registers and flags work as
 * in 64-bit code, for a 32-bit result clears the upper half; R8 to R15 cannot be named and stay
 * where they are. Addresses are sums of 32 bits, so they are made by an LEA of 32 bits (address.c).
 * RSP has no upper half while such code is translated.
 */
#include "engine/bt/translate.h"
#include "x86/segment.h"

bool bt_is_flat32(const struct vcpu *v)
{
    return insn_mode_of(v) == INSN_MODE_32 && x86_is_flat(v);
}

uint8_t bt_whole32(const struct vcpu *v)
{
    return (uint8_t)((x86_is_whole(&v->seg[SEG_FS]) ? BT_WHOLE_FS : 0) |
                     (x86_is_whole(&v->seg[SEG_GS]) ? BT_WHOLE_GS : 0));
}

/* ---- instructions ---- */

static bool has_general(const struct bt_insn *i)
{
    for (unsigned n = 0; n < i->full->insn.operand_count; n++)
        if (i->full->operands[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            bt_gpr_number(i->full->operands[n].reg.value) != BT_NO_GPR)
            return true;
    return false;
}

/* VEX and EVEX have bits that name registers 8 to 31, or 64 bits, where this mode ignores them
 * (SDM 2A 2.3.5, 2.7.1): only what is written as assemblers do. */
static bool is_plain_vector(const struct bt_insn *i)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    bool evex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    const uint8_t *raw = i->bytes + (evex ? zi->raw.evex.offset : zi->raw.vex.offset);
    if (!evex && raw[0] == 0xc5)
        return true;
    bool named = (raw[1] & 0x20) && (raw[2] & 0x40) && (!evex || (raw[1] & 0x10));
    bool wide = (raw[2] & 0x80) && has_general(i);
    return named && !wide && (!evex || (raw[3] & 8));
}

/* The last immediate of VBLENDVPS and its kin is a register. */
static bool names_in_immediate(const struct bt_insn *i)
{
    for (unsigned n = 0; n < i->full->insn.operand_count; n++)
        if (i->full->operands[n].encoding == ZYDIS_OPERAND_ENCODING_IS4)
            return true;
    return false;
}

bool code32_is_same(const struct bt_insn *i)
{
    if (i->in.op == ZYDIS_MNEMONIC_VZEROALL || i->in.op == ZYDIS_MNEMONIC_VZEROUPPER)
        return false; /* of 8 registers */
    return i->full->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
           (is_plain_vector(i) && !names_in_immediate(i));
}

/* On AMD's processors an access must not wrap within the segment (x86/segment.c), and where that
 * has a base the linear address does not tell. With registers code looks: tr_access. */
static bool stays_in_segment(const struct bt_insn *i)
{
    const ZydisDecodedOperand *o = &i->full->operands[i->memory];
    return o->mem.base != ZYDIS_REGISTER_NONE || o->mem.index != ZYDIS_REGISTER_NONE ||
           (uint64_t)(uint32_t)i->in.disp + o->size / 8 <= (uint64_t)UINT32_MAX + 1;
}

bool code32_can_address(const struct bt_insn *i)
{
    if (i->memory < 0)
        return true;
    if (i->in.address_size != 4)
        return false;
    switch (i->in.seg) {
    case SEG_FS:
    case SEG_GS:
        return stays_in_segment(i);
    case SEG_CS: /* not to be written */
        return false;
    default:
        return true;
    }
}
