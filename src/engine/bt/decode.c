/* SPDX-License-Identifier: MIT */
/*
 * Decoding for the translator, with a memory. Instructions that differ only in displacement and
 * immediate have one shape: prefixes, opcode, ModRM and SIB bytes. A program has some hundred, so
 * nearly always Zydis and classify have seen the shape before, and only the values are new.
 *
 * Shapes are told apart for the common opcodes of the legacy encodings (SDM 2D appendix A); all
 * others are decoded afresh. A shape is kept only if Zydis found its displacement and immediate
 * where we did. What classify looks at beyond the shape, shift counts, belongs to the shape.
 */
#include "engine/bt/translate.h"

enum layout {
    KNOWN = 1,  /* opcode */
    MODRM = 2,  /* ModRM byte follows */
    BYTE = 4,   /* immediate of 8 bits */
    WORD = 8,   /* … 16 bits */
    WIDE = 16,  /* … 32 bits, or 16 under 66 */
    LONG = 32,  /* … 64 bits under REX.W */
    VALUE = 64, /* the immediate is part of the shape */
    GROUP = 128 /* has its immediate only with reg = 0 or 1: F6, F7 */
};

struct parse {
    uint64_t key; /* the bytes of the shape, the unit's key above them; 0: none */
    uint8_t disp_at, disp_size, imm_at, imm_size, length;
};

#define ROW2(x)  x, x
#define ROW4(x)  ROW2(x), ROW2(x)
#define ROW8(x)  ROW4(x), ROW4(x)
#define ROW16(x) ROW8(x), ROW8(x)
#define M        (KNOWN | MODRM)
#define ALU      ROW4(M), KNOWN | BYTE, KNOWN | WIDE, ROW2(0)

static const uint8_t one_byte[256] = {
    /* 00 */ ALU,
    ALU,
    ALU,
    ALU,
    ALU,
    ALU,
    ALU,
    ALU,
    /* 40 */ ROW16(0),
    ROW16(KNOWN),
    /* 60 */ 0,
    0,
    0,
    M,
    ROW4(0),
    KNOWN | WIDE,
    M | WIDE,
    KNOWN | BYTE,
    M | BYTE,
    ROW4(0),
    /* 70 */ ROW16(KNOWN | BYTE),
    /* 80 */ M | BYTE,
    M | WIDE,
    0,
    M | BYTE,
    ROW8(M),
    0,
    M,
    0,
    M,
    /* 90 */ ROW8(KNOWN),
    ROW2(KNOWN),
    ROW2(0),
    ROW4(0),
    /* A0 */ ROW4(0),
    ROW4(KNOWN),
    KNOWN | BYTE,
    KNOWN | WIDE,
    ROW4(KNOWN),
    ROW2(KNOWN),
    /* B0 */ ROW8(KNOWN | BYTE),
    ROW8(KNOWN | WIDE | LONG),
    /* C0 */ ROW2(M | BYTE | VALUE),
    KNOWN | WORD,
    KNOWN,
    0,
    0,
    M | BYTE,
    M | WIDE,
    /* C8 */ 0,
    KNOWN,
    0,
    0,
    KNOWN,
    0,
    0,
    0,
    /* D0 */ ROW4(M),
    ROW4(0),
    ROW8(0),
    /* E0 */ ROW8(0),
    ROW2(KNOWN | WIDE),
    0,
    KNOWN | BYTE,
    ROW4(0),
    /* F0 */ ROW4(0),
    0,
    0,
    M | BYTE | GROUP,
    M | WIDE | GROUP,
    ROW4(0),
    KNOWN,
    KNOWN,
    M,
    M,
};

static const uint8_t two_bytes[256] = {
    /* 00 */ ROW8(0),
    0,
    0,
    0,
    KNOWN,
    ROW4(0),
    /* 10 */ ROW16(M),
    /* 20 */ ROW8(0),
    ROW8(M),
    /* 30 */ ROW16(0),
    /* 40 */ ROW16(M),
    ROW16(M),
    ROW16(M),
    /* 70 */ M | BYTE,
    0,
    0,
    0,
    M,
    M,
    M,
    0,
    ROW4(0),
    ROW4(M),
    /* 80 */ ROW16(KNOWN | WIDE),
    ROW16(M),
    /* A0 */ 0,
    0,
    0,
    M,
    M | BYTE | VALUE,
    M,
    0,
    0,
    0,
    0,
    0,
    M,
    M | BYTE | VALUE,
    M,
    M,
    M,
    /* B0 */ M,
    M,
    0,
    M,
    0,
    0,
    M,
    M,
    M,
    0,
    M | BYTE | VALUE,
    M,
    ROW4(M),
    /* C0 */ M,
    M,
    M | BYTE,
    M,
    M | BYTE,
    M | BYTE,
    M | BYTE,
    M,
    ROW8(KNOWN),
    /* D0 */ ROW16(M),
    ROW16(M),
    ROW8(M),
    ROW4(M),
    M,
    M,
    M,
    0,
};

static bool is_prefix(uint8_t b)
{
    return b == 0x66 || b == 0xf2 || b == 0xf3 || b == 0x64 || b == 0x65 || b == 0xf0;
}

/* Displacement after ModRM and SIB (SDM 2A tables 2-2 and 2-3; with 64-bit addresses). */
static unsigned displacement(const uint8_t *modrm)
{
    unsigned mod = modrm[0] >> 6, rm = modrm[0] & 7;
    if (mod == 0)
        return rm == 5 || (rm == 4 && (modrm[1] & 7) == 5) ? 4 : 0;
    return mod == 1 ? 1 : mod == 2 ? 4 : 0;
}

static unsigned immediate(unsigned layout, const uint8_t *modrm, bool narrow, bool rex_w)
{
    if ((layout & GROUP) && (modrm[0] & 0x30) != 0)
        return 0;
    if (layout & BYTE)
        return 1;
    if (layout & WORD)
        return 2;
    if (layout & WIDE)
        return (layout & LONG) && rex_w ? 8 : narrow && !rex_w ? 2 : 4;
    return 0;
}

/* The shape of what is at `bytes`, INSN_LENGTH_MAX of which may be read whatever they are. */
static struct parse parse(const uint8_t *bytes, uint8_t unit_key)
{
    struct parse p = {0};
    unsigned at = 0;
    bool narrow = false, rex_w = false;

    for (; at < 2 && is_prefix(bytes[at]); at++)
        narrow |= bytes[at] == 0x66;
    if ((bytes[at] & 0xf0) == 0x40)
        rex_w = bytes[at++] & 8;
    bool two = bytes[at] == 0x0f;
    at += two;
    unsigned layout = (two ? two_bytes : one_byte)[bytes[at++]];
    const uint8_t *modrm = bytes + at;
    if (!(layout & KNOWN))
        return p;
    if (layout & MODRM) {
        at += modrm[0] < 0xc0 && (modrm[0] & 7) == 4 ? 2 : 1;
        p.disp_size = (uint8_t)displacement(modrm);
    }
    p.disp_at = (uint8_t)at;
    p.imm_at = (uint8_t)(at + p.disp_size);
    p.imm_size = (uint8_t)immediate(layout, modrm, narrow, rex_w);
    p.length = (uint8_t)(p.imm_at + p.imm_size);
    memcpy(&p.key, bytes, sizeof(p.key));
    p.key &= ((uint64_t)1 << 8 * at) - 1; /* at <= 2 + 1 + 2 + 2 */
    if ((layout & VALUE) && at < 7)
        p.key |= (uint64_t)bytes[p.imm_at] << 8 * at;
    else if (layout & VALUE)
        return (struct parse){0};
    p.key |= (uint64_t)(unit_key | 0x80) << 56;
    return p;
}

static uint64_t value_at(const uint8_t *bytes, unsigned size, bool is_signed)
{
    uint64_t value = 0;
    for (unsigned n = 0; n < size; n++)
        value |= (uint64_t)bytes[n] << 8 * n;
    unsigned shift = 64 - 8 * size;
    return is_signed ? (uint64_t)((int64_t)(value << shift) >> shift) : value;
}

static int operand_with(const struct bt_insn *i, ZydisOperandType type)
{
    for (unsigned n = 0; n < i->full.insn.operand_count_visible; n++)
        if (i->full.operands[n].type == type)
            return (int)n;
    return -1;
}

static void keep_shape(struct bt_shape *s, const struct parse *p, const struct bt_insn *i)
{
    const ZydisDecodedInstruction *zi = &i->full.insn;
    if (zi->length != p->length || zi->raw.disp.size != 8 * p->disp_size ||
        zi->raw.imm[0].size != 8 * p->imm_size || zi->raw.imm[1].size != 0 ||
        (p->disp_size != 0 && zi->raw.disp.offset != p->disp_at) ||
        (p->imm_size != 0 && zi->raw.imm[0].offset != p->imm_at))
        return;
    int disp = operand_with(i, ZYDIS_OPERAND_TYPE_MEMORY);
    int imm = operand_with(i, ZYDIS_OPERAND_TYPE_IMMEDIATE);
    if ((disp < 0 && p->disp_size != 0) || (imm < 0 && p->imm_size != 0))
        return;
    *s = (struct bt_shape){.key = p->key,
                           .disp_operand = (int8_t)(p->disp_size != 0 ? disp : -1),
                           .imm_operand = (int8_t)(p->imm_size != 0 ? imm : -1),
                           .insn = *i};
}

/* What i->copy holds is of this shape. */
static void from_shape(const struct bt_shape *s, const struct parse *p, struct bt_insn *i)
{
    const struct bt_insn *t = &s->insn;
    ZydisDecodedInstruction *zi = &i->full.insn;

    *zi = t->full.insn;
    memcpy(i->full.operands, t->full.operands, zi->operand_count * sizeof(i->full.operands[0]));
    i->in = t->in;
    i->kind = t->kind;
    i->flags_in = t->flags_in;
    i->flags_all = t->flags_all;
    i->flags_out = t->flags_out;
    i->may_fault = t->may_fault;
    i->memory = t->memory;
    if (s->disp_operand >= 0) {
        int64_t value = (int64_t)value_at(i->copy + p->disp_at, p->disp_size, true);
        i->in.disp += (int32_t)(value - zi->raw.disp.value);
        i->full.operands[s->disp_operand].mem.disp.value = zi->raw.disp.value = value;
    }
    if (s->imm_operand >= 0) {
        uint64_t value = value_at(i->copy + p->imm_at, p->imm_size, zi->raw.imm[0].is_signed);
        i->in.imm = i->full.operands[s->imm_operand].imm.value.u = zi->raw.imm[0].value.u = value;
    }
}

bool bt_decode(struct bt_vm *vm, uint8_t key, struct bt_insn *i, unsigned n)
{
    struct parse p = parse(i->copy, key);
    struct bt_shape *s =
        &vm->scratch->shapes[(p.key * 0x9e3779b97f4a7c15u) >> 32 & (BT_SHAPES - 1)];

    i->bytes = i->copy;
    if (p.key != 0 && s->key == p.key && p.length <= n) {
        from_shape(s, &p, i);
        return true;
    }
    if (insn_decode(&vm->decoder, INSN_MODE_64, i->bytes, n, &i->in, &i->full) != INSN_OK)
        return false;
    classify(vm, key, i);
    if (p.key != 0)
        keep_shape(s, &p, i);
    return true;
}
