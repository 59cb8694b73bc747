/* SPDX-License-Identifier: MIT */
/*
 * One guest instruction written anew with other registers (SDM 2A chapter 2): prefixes without
 * segment and address size, REX/VEX/EVEX with the bits of the new registers, opcode, ModRM with the
 * memory operand's new place, the immediate as it was. The bytes come from the guest as
 * Zydis decoded them; rewrite_possible has seen that their form is one that is known here.
 */
#include "engine/bt/translate.h"

static bool is_high_byte(ZydisRegister r)
{
    return r == ZYDIS_REGISTER_AH || r == ZYDIS_REGISTER_CH || r == ZYDIS_REGISTER_DH ||
           r == ZYDIS_REGISTER_BH;
}

/* `absolute`: MOV with an address and no ModRM byte can be respelt. */
static bool operand_possible(const ZydisDecodedOperand *o, bool absolute, bool *high, bool *renamed)
{
    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        return true;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        *renamed = true;
        return o->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
               (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM || absolute);
    case ZYDIS_OPERAND_TYPE_REGISTER:
        if (bt_gpr_number(o->reg.value) != BT_NO_GPR) {
            unsigned n = bt_gpr_number(o->reg.value);
            *high |= is_high_byte(o->reg.value);
            *renamed |= n == RSP || host_of(n) < 0 || n >= 8;
            if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
                o->encoding == ZYDIS_OPERAND_ENCODING_NONE)
                return n < RSP; /* implied: it must be where the processor looks for it */
            return true;
        }
        switch (ZydisRegisterGetClass(o->reg.value)) {
        case ZYDIS_REGCLASS_XMM:
        case ZYDIS_REGCLASS_YMM:
        case ZYDIS_REGCLASS_ZMM:
        case ZYDIS_REGCLASS_MASK:
        case ZYDIS_REGCLASS_FLAGS:
            return true;
        default:
            return o->reg.value == ZYDIS_REGISTER_MXCSR;
        }
    default:
        return false;
    }
}

unsigned rewrite_rotated(const struct bt_insn *i)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    unsigned rotated = BT_NO_GPR;
    if (i->memory < 0)
        return BT_NO_GPR;
    for (unsigned n = 0; n < zi->operand_count; n++) {
        const ZydisDecodedOperand *o = &i->full->operands[n];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_high_byte(o->reg.value))
            rotated = bt_gpr_number(o->reg.value);
    }
    for (unsigned n = 0; n < zi->operand_count && rotated != BT_NO_GPR; n++) {
        const ZydisDecodedOperand *o = &i->full->operands[n];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && bt_gpr_number(o->reg.value) == rotated &&
            (!is_high_byte(o->reg.value) || o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_REG))
            return BT_NO_GPR; /* CMPXCHG has AL too */
    }
    return rotated;
}

static bool is_code32(const ZydisDecodedInstruction *zi)
{
    return zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_COMPAT_32;
}

/* MOV between the accumulator and an address. */
static bool is_absolute(const ZydisDecodedInstruction *zi)
{
    return is_code32(zi) && zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
           (zi->opcode & 0xfc) == 0xa0 && zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
}

bool rewrite_possible(const struct bt_insn *i)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    bool high = false, renamed = false;

    if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
        zi->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
        return false;
    for (unsigned n = 0; n < zi->operand_count; n++)
        if (!operand_possible(&i->full->operands[n], is_absolute(zi), &high, &renamed))
            return false;
    /* AH…DH have no encoding beside REX (SDM 2A 2.2.1.2). */
    return !(high && renamed) || rewrite_rotated(i) != BT_NO_GPR;
}

struct fields {
    uint8_t reg, rm, vvvv, opcode_register;
    bool has_reg, has_rm, has_vvvv, has_opcode_register, byte_register;
    uint8_t opcode, digit; /* digit: of ModRM, when no register is there */
    bool modrm;
    const struct tr_operand *memory;
};

/* What 64-bit code spells in another way (SDM 2D appendix A). */
static void respell(const ZydisDecodedInstruction *zi, struct fields *f)
{
    if (!is_code32(zi) || zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT ||
        zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        return;
    if ((zi->opcode & 0xf0) == 0x40) { /* INC, DEC */
        f->opcode = 0xff;
        f->digit = zi->opcode >> 3 & 1;
        f->rm = f->opcode_register;
        f->modrm = f->has_rm = true;
        f->has_opcode_register = false;
    } else if (is_absolute(zi)) {
        f->opcode = (uint8_t)((zi->opcode & 1) | (zi->opcode & 2 ? 0x88 : 0x8a));
        f->digit = RAX;
        f->modrm = true;
    } else if (zi->opcode == 0x82) {
        f->opcode = 0x80;
    }
}

static struct fields find_fields(const struct bt_insn *i, const struct tr_operand *o,
                                 const uint8_t map[16])
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    struct fields f = {.memory = o,
                       .opcode = zi->opcode,
                       .digit = zi->raw.modrm.reg,
                       .modrm = (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0};
    for (unsigned n = 0; n < zi->operand_count; n++) {
        const ZydisDecodedOperand *o = &i->full->operands[n];
        unsigned number =
            o->type == ZYDIS_OPERAND_TYPE_REGISTER ? bt_gpr_number(o->reg.value) : BT_NO_GPR;
        if (number == BT_NO_GPR)
            continue;
        bool byte = ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_GPR8;
        /* AH…DH keep their encoding, 4 to 7 without REX; or are the low byte of a rotated copy. */
        bool high = is_high_byte(o->reg.value) && number != i->rotated;
        uint8_t host = high ? (uint8_t)(number + 4) : map[number];
        switch (o->encoding) {
        case ZYDIS_OPERAND_ENCODING_MODRM_REG:
            f.reg = host;
            f.has_reg = true;
            break;
        case ZYDIS_OPERAND_ENCODING_MODRM_RM:
            f.rm = host;
            f.has_rm = true;
            break;
        case ZYDIS_OPERAND_ENCODING_NDSNDD:
            f.vvvv = host;
            f.has_vvvv = true;
            break;
        case ZYDIS_OPERAND_ENCODING_OPCODE:
            f.opcode_register = host;
            f.has_opcode_register = true;
            break;
        default:
            continue;
        }
        f.byte_register |= byte && !high && host >= 4;
    }
    respell(zi, &f);
    return f;
}

/* REX.R, X and B of what is written. */
static void extension_bits(const struct bt_insn *i, const struct fields *f, bool *r, bool *x,
                           bool *b)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    uint8_t bits = 0; /* R X B in 7 6 5, not inverted */
    if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
        bits = (uint8_t)~i->bytes[zi->raw.evex.offset + 1];
    else if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        bits = (uint8_t)(~i->bytes[zi->raw.vex.offset + 1] &
                         (i->bytes[zi->raw.vex.offset] == 0xc4 ? 0xe0 : 0x80));
    else if (zi->attributes & ZYDIS_ATTRIB_HAS_REX)
        bits = (uint8_t)(zi->raw.rex.R << 7 | zi->raw.rex.X << 6 | zi->raw.rex.B << 5);
    *r = bits & 0x80;
    *x = bits & 0x40;
    *b = bits & 0x20;
    if (f->has_reg)
        *r = f->reg >= 8;
    if (f->memory != NULL) {
        *x = f->memory->index != EMIT_NO_INDEX && f->memory->index >= 8;
        *b = f->memory->base >= 8;
    } else if (f->has_rm) {
        *b = f->rm >= 8;
        *x = false;
    }
    if (f->has_opcode_register)
        *b = f->opcode_register >= 8;
}

/* With SIB and REX added, an instruction full of prefixes would be longer than 15 bytes. */
static bool comes_again(const ZydisDecodedInstruction *zi, unsigned prefix)
{
    for (unsigned n = prefix + 1; n < zi->raw.prefix_count; n++)
        if (zi->raw.prefixes[n].value == zi->raw.prefixes[prefix].value)
            return true;
    return false;
}

static void emit_legacy(struct emit *e, const struct bt_insn *i, const struct fields *f)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    bool r, x, b;
    for (unsigned n = 0; n < zi->raw.prefix_count; n++) {
        uint8_t p = zi->raw.prefixes[n].value;
        if ((p == 0x66 || p == 0xf2 || p == 0xf3 || p == 0xf0) && !comes_again(zi, n))
            EMIT(e, p);
    }
    extension_bits(i, f, &r, &x, &b);
    bool w = (zi->attributes & ZYDIS_ATTRIB_HAS_REX) && zi->raw.rex.W;
    if (w || r || x || b || f->byte_register)
        EMIT(e, (uint8_t)(0x40 | w << 3 | r << 2 | x << 1 | b));
    if (zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        EMIT(e, 0x0f);
    if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F38)
        EMIT(e, 0x38);
    if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        EMIT(e, 0x3a);
}

static void emit_vex(struct emit *e, const struct bt_insn *i, const struct fields *f)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    const uint8_t *raw = i->bytes + zi->raw.vex.offset;
    bool three = raw[0] == 0xc4, r, x, b;
    uint8_t map = three ? raw[1] & 0x1f : 1, second = three ? raw[2] : raw[1] & 0x7f;
    extension_bits(i, f, &r, &x, &b);
    if (f->has_vvvv)
        second = (uint8_t)((second & ~0x78u) | (~f->vvvv & 15) << 3);
    EMIT(e, 0xc4, (uint8_t)(!r << 7 | !x << 6 | !b << 5 | map), second);
}

static void emit_evex(struct emit *e, const struct bt_insn *i, const struct fields *f)
{
    const uint8_t *raw = i->bytes + i->full->insn.raw.evex.offset;
    uint8_t p[4] = {raw[0], raw[1], raw[2], raw[3]};
    bool r, x, b;
    extension_bits(i, f, &r, &x, &b);
    p[1] = (uint8_t)((p[1] & 0x1f) | !r << 7 | !x << 6 | !b << 5);
    if (f->has_reg)
        p[1] |= 0x10; /* R' */
    if (f->has_vvvv)
        p[2] = (uint8_t)((p[2] & ~0x78u) | (~f->vvvv & 15) << 3);
    emit_bytes(e, p, 4);
}

/* Without disp8, which EVEX scales (SDM 2A 2.7.5). */
static void put_operand(struct emit *e, unsigned reg, const struct tr_operand *o, bool evex)
{
    bool none = o->disp == 0 && (o->base & 7) != 5;
    bool byte = !none && !evex && o->disp >= -128 && o->disp <= 127;
    bool sib = o->index != EMIT_NO_INDEX || (o->base & 7) == 4;
    uint8_t mod = none ? 0 : byte ? 1 : 2;
    EMIT(e, (uint8_t)(mod << 6 | (reg & 7) << 3 | (sib ? 4 : o->base & 7)));
    if (sib)
        EMIT(e, (uint8_t)((o->index != EMIT_NO_INDEX ? o->index & 7 : 4) << 3 | (o->base & 7)));
    if (byte)
        EMIT(e, (uint8_t)o->disp);
    else if (!none)
        emit_u32(e, (uint32_t)o->disp);
}

void emit_memory(struct emit *e, bool w, uint8_t opcode, unsigned reg, const struct tr_operand *o)
{
    unsigned index = o->index != EMIT_NO_INDEX ? o->index : 0;
    EMIT(e, emit_rex(w, reg, index, o->base), opcode);
    put_operand(e, reg, o, false);
}

static void emit_modrm(struct emit *e, const struct bt_insn *i, const struct fields *f)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    uint8_t reg = f->has_reg ? f->reg & 7 : f->digit;
    if (f->memory != NULL)
        put_operand(e, reg, f->memory, zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX);
    else
        EMIT(e, (uint8_t)(0xc0 | reg << 3 | (f->has_rm ? f->rm & 7 : zi->raw.modrm.rm & 7)));
}

void rewrite_emit(struct emit *e, const struct bt_insn *i, const struct tr_operand *o,
                  const uint8_t map[16])
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    struct fields f = find_fields(i, o, map);
    uint8_t opcode = f.opcode;

    switch (zi->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        emit_vex(e, i, &f);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        emit_evex(e, i, &f);
        break;
    default:
        emit_legacy(e, i, &f);
        break;
    }
    if (f.has_opcode_register)
        opcode = (uint8_t)((opcode & ~7u) | (f.opcode_register & 7));
    EMIT(e, opcode);
    if (f.modrm)
        emit_modrm(e, i, &f);
    for (unsigned n = 0; n < 2; n++)
        if (zi->raw.imm[n].size != 0)
            emit_bytes(e, i->bytes + zi->raw.imm[n].offset, zi->raw.imm[n].size / 8);
}
