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

#define M       KNOWN | MODRM
#define ALU(at) [at... at + 3] = M, [at + 4] = KNOWN | BYTE, [at + 5] = KNOWN | WIDE

static const uint8_t one_byte[256] = {
    ALU(0x00),
    ALU(0x08),
    ALU(0x10),
    ALU(0x18),
    ALU(0x20),
    ALU(0x28),
    ALU(0x30),
    ALU(0x38),
    [0x50 ... 0x5f] = KNOWN, /* PUSH, POP */
    [0x63] = M,
    [0x68] = KNOWN | WIDE,
    [0x69] = M | WIDE,
    [0x6a] = KNOWN | BYTE,
    [0x6b] = M | BYTE,
    [0x70 ... 0x7f] = KNOWN | BYTE, /* Jcc */
    [0x80] = M | BYTE,
    [0x81] = M | WIDE,
    [0x83] = M | BYTE,
    [0x84 ... 0x8b] = M,
    [0x8d] = M,
    [0x90 ... 0x99] = KNOWN,
    [0xa4 ... 0xa7] = KNOWN,
    [0xa8] = KNOWN | BYTE,
    [0xa9] = KNOWN | WIDE,
    [0xaa ... 0xaf] = KNOWN,
    [0xb0 ... 0xb7] = KNOWN | BYTE,
    [0xb8 ... 0xbf] = KNOWN | WIDE | LONG,
    [0xc0 ... 0xc1] = M | BYTE | VALUE, /* shifts and rotates */
    [0xc2] = KNOWN | WORD,
    [0xc3] = KNOWN,
    [0xc6] = M | BYTE,
    [0xc7] = M | WIDE,
    [0xc9] = KNOWN,
    [0xcc] = KNOWN,
    [0xd0 ... 0xd3] = M,
    [0xe8 ... 0xe9] = KNOWN | WIDE,
    [0xeb] = KNOWN | BYTE,
    [0xf6] = M | BYTE | GROUP,
    [0xf7] = M | WIDE | GROUP,
    [0xfc ... 0xfd] = KNOWN,
    [0xfe ... 0xff] = M,
};

static const uint8_t two_bytes[256] = {
    [0x0b] = KNOWN,
    [0x10 ... 0x1f] = M,
    [0x28 ... 0x2f] = M,
    [0x40 ... 0x6f] = M,
    [0x70] = M | BYTE,
    [0x74 ... 0x76] = M,
    [0x7c ... 0x7f] = M,
    [0x80 ... 0x8f] = KNOWN | WIDE, /* Jcc */
    [0x90 ... 0x9f] = M,
    [0xa3] = M,
    [0xa4] = M | BYTE | VALUE, /* SHLD */
    [0xa5] = M,
    [0xab] = M,
    [0xac] = M | BYTE | VALUE, /* SHRD */
    [0xad ... 0xb1] = M,
    [0xb3] = M,
    [0xb6 ... 0xb8] = M,
    [0xba] = M | BYTE | VALUE, /* BT and its kind */
    [0xbb ... 0xc1] = M,
    [0xc2] = M | BYTE,
    [0xc3] = M,
    [0xc4 ... 0xc6] = M | BYTE,
    [0xc7] = M,
    [0xc8 ... 0xcf] = KNOWN, /* BSWAP */
    [0xd0 ... 0xfe] = M,
};

static bool is_prefix(uint8_t b)
{
    return b == 0x66 || b == 0xf2 || b == 0xf3 || b == 0x64 || b == 0x65 || b == 0xf0;
}

/* Displacement after ModRM and SIB (SDM 2A tables 2-2 and 2-3), not with 16-bit addresses. */
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
    bool narrow = false, rex_w = false, code32 = unit_key & BT_KEY_CODE32;

    for (; at < 2 && is_prefix(bytes[at]); at++) {
        narrow |= bytes[at] == 0x66;
        if (code32 &&
            (bytes[at] & 0xfe) == 0x64) /* whether it is translated depends on the value */
            return p;
    }
    bool rex = (bytes[at] & 0xf0) == 0x40; /* INC, DEC in 32-bit code */
    if (rex && !code32)
        rex_w = bytes[at++] & 8;
    bool two = bytes[at] == 0x0f;
    at += two;
    unsigned layout = rex && code32 ? KNOWN : (two ? two_bytes : one_byte)[bytes[at]];
    at++;
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

typedef uint64_t __attribute__((aligned(1))) bytes8;
typedef uint32_t __attribute__((aligned(1))) bytes4;
typedef uint16_t __attribute__((aligned(1))) bytes2;

static uint64_t value_at(const uint8_t *bytes, unsigned size, bool is_signed)
{
    uint64_t value = size == 8   ? *(const bytes8 *)bytes
                     : size == 4 ? *(const bytes4 *)bytes
                     : size == 2 ? *(const bytes2 *)bytes
                                 : *bytes;
    unsigned unused = 64 - 8 * size;
    return is_signed ? (uint64_t)((int64_t)(value << unused) >> unused) : value;
}

static bool has_operand(const struct bt_insn *i, ZydisOperandType type)
{
    for (unsigned n = 0; n < i->full->insn.operand_count_visible; n++)
        if (i->full->operands[n].type == type)
            return true;
    return false;
}

static bool fits(const struct parse *p, const struct bt_insn *i)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    if (zi->length != p->length || zi->raw.disp.size != 8 * p->disp_size ||
        zi->raw.imm[0].size != 8 * p->imm_size || zi->raw.imm[1].size != 0 ||
        (p->disp_size != 0 && zi->raw.disp.offset != p->disp_at) ||
        (p->imm_size != 0 && zi->raw.imm[0].offset != p->imm_at))
        return false;
    return (p->disp_size == 0 || has_operand(i, ZYDIS_OPERAND_TYPE_MEMORY)) &&
           (p->imm_size == 0 || has_operand(i, ZYDIS_OPERAND_TYPE_IMMEDIATE));
}

/* One that the unit under way refers to stays. */
static void keep_shape(struct bt_scratch *scratch, unsigned bucket, const struct parse *p,
                       const struct bt_insn *i)
{
    uint16_t *of = &scratch->shape_of[bucket];
    if (!fits(p, i) || (*of != 0 && scratch->shapes[*of - 1].used == scratch->number))
        return;
    if (*of == 0)
        *of = (uint16_t)++scratch->shape_count; /* there are as many as buckets */
    struct bt_shape *s = &scratch->shapes[*of - 1];
    struct insn_full *full = &scratch->shape_full[*of - 1];
    s->key = p->key;
    s->used = 0;
    s->imm_is_signed = i->full->insn.raw.imm[0].is_signed;
    s->disp = (int32_t)i->full->insn.raw.disp.value;
    s->insn = *i;
    s->insn.full = full;
    memcpy(full, i->full, sizeof(*full));
}

/* What i->copy holds is of this shape. */
static void from_shape(const struct bt_shape *s, const struct parse *p, struct bt_insn *i)
{
    memcpy(i, &s->insn, offsetof(struct bt_insn, bytes));
    if (p->disp_size != 0) {
        int64_t value = (int64_t)value_at(i->copy + p->disp_at, p->disp_size, true);
        int64_t of_shape = s->disp; /* in.disp may have more in it */
        i->in.disp = (int32_t)((uint32_t)i->in.disp + (uint32_t)(value - of_shape));
    }
    if (p->imm_size != 0)
        i->in.imm = value_at(i->copy + p->imm_at, p->imm_size, s->imm_is_signed);
    bt_effects_add(i);
}

static bool decode_anew(struct bt_vm *vm, uint8_t key, unsigned n, struct bt_insn *i)
{
    struct insn_full *full = &vm->scratch->full[i - vm->scratch->insns];
    i->full = full;
    if (insn_decode(&vm->decoder, bt_key_decodes(key), i->bytes, n, &i->in, full) != INSN_OK)
        return false;
    classify(vm, key, i);
    bt_plan(i);
    bt_effects(i);
    return true;
}

bool bt_decode(struct bt_vm *vm, uint8_t key, const uint8_t *bytes, unsigned n, struct bt_insn *i)
{
    struct bt_scratch *scratch = vm->scratch;
    if (n >= sizeof(i->copy))
        memcpy(i->copy, bytes, sizeof(i->copy));
    else
        memcpy(i->copy, bytes, n);
    if (n > INSN_LENGTH_MAX)
        n = INSN_LENGTH_MAX;
    struct parse p = parse(i->copy, key);
    unsigned bucket = (p.key * 0x9e3779b97f4a7c15u) >> 32 & (BT_SHAPES - 1);
    unsigned place = scratch->shape_of[bucket];
    struct bt_shape *s = place != 0 ? &scratch->shapes[place - 1] : NULL;

    i->bytes = i->copy;
    if (p.key != 0 && s != NULL && s->key == p.key && p.length <= n) {
        s->used = scratch->number;
        from_shape(s, &p, i);
        return true;
    }
    if (!decode_anew(vm, key, n, i))
        return false;
    if (p.key != 0)
        keep_shape(scratch, bucket, &p, i);
    return true;
}
