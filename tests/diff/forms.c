/* SPDX-License-Identifier: MIT */
/* See forms.h: the walk over the opcode space, the key and the name of a form. */
#include "forms.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "advertised.h"
#include "random.h"

#define FORMS_MAX  32768u
#define TABLE_SIZE 131072u

#define PREFIX_KEY                                                          \
    (ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | \
     ZYDIS_ATTRIB_HAS_REPNE | ZYDIS_ATTRIB_HAS_BND)

struct walk {
    struct forms *f;
    uint32_t *table; /* open addressing: index + 1 of a form */
};

static bool encoded_by(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
                       ZydisOperandEncoding encoding)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (operands[i].encoding == encoding)
            return true;
    return false;
}

static uint64_t mix(uint64_t h, uint64_t value)
{
    return random_mix(h ^ (value + 0x9e3779b97f4a7c15u));
}

static uint64_t operand_key(uint64_t h, const ZydisDecodedOperand *o)
{
    h = mix(h, (uint64_t)o->type << 56 | (uint64_t)o->visibility << 48 | (uint64_t)o->size << 24 |
                   (uint64_t)o->element_type << 16 | o->element_count);
    if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) /* AH is an r8 as AL is */
        h = mix(h, o->encoding == ZYDIS_OPERAND_ENCODING_NONE
                       ? 1000u + o->reg.value
                       : (uint64_t)ZydisRegisterGetClass(o->reg.value));
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
        h = mix(h, o->mem.type);
    return h;
}

uint64_t form_key(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
    uint64_t h = insn->mnemonic;
    uint8_t opcode = insn->opcode;
    bool group = (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) &&
                 !encoded_by(insn, operands, ZYDIS_OPERAND_ENCODING_MODRM_REG);

    if (encoded_by(insn, operands, ZYDIS_OPERAND_ENCODING_OPCODE))
        opcode &= 0xf8;
    h = mix(h, (uint64_t)insn->encoding << 32 | insn->opcode_map << 16 | opcode);
    h = mix(h, group ? insn->raw.modrm.reg : 8);
    h = mix(h, insn->attributes & PREFIX_KEY);
    h = mix(h, (uint64_t)insn->avx.broadcast.mode << 16 | (uint64_t)insn->avx.has_sae << 8 |
                   (insn->avx.rounding.mode != ZYDIS_ROUNDING_MODE_INVALID &&
                    insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX));
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->encoding == ZYDIS_OPERAND_ENCODING_MASK)
            continue;
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (o->reg.value == ZYDIS_REGISTER_RIP ||
             ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_FLAGS))
            continue;
        if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
            o->type == ZYDIS_OPERAND_TYPE_REGISTER)
            h = mix(h, o->size); /* RCX or ECX by the address size: one form */
        else
            h = operand_key(h, o);
    }
    return h;
}

static const char *register_name(const ZydisDecodedOperand *o, char *text, size_t n)
{
    static const char *const names[] = {
        [ZYDIS_REGCLASS_GPR8] = "r8",      [ZYDIS_REGCLASS_GPR16] = "r16",
        [ZYDIS_REGCLASS_GPR32] = "r32",    [ZYDIS_REGCLASS_GPR64] = "r64",
        [ZYDIS_REGCLASS_X87] = "st",       [ZYDIS_REGCLASS_MMX] = "mm",
        [ZYDIS_REGCLASS_XMM] = "xmm",      [ZYDIS_REGCLASS_YMM] = "ymm",
        [ZYDIS_REGCLASS_ZMM] = "zmm",      [ZYDIS_REGCLASS_MASK] = "k",
        [ZYDIS_REGCLASS_SEGMENT] = "sreg", [ZYDIS_REGCLASS_CONTROL] = "cr",
        [ZYDIS_REGCLASS_DEBUG] = "dr",     [ZYDIS_REGCLASS_BOUND] = "bnd",
    };
    ZydisRegisterClass class = ZydisRegisterGetClass(o->reg.value);

    if (o->encoding == ZYDIS_OPERAND_ENCODING_NONE || class >= sizeof(names) / sizeof(names[0]) ||
        !names[class])
        snprintf(text, n, "%s", ZydisRegisterGetString(o->reg.value));
    else
        snprintf(text, n, "%s", names[class]);
    return text;
}

static const char *operand_name(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *o,
                                char *text, size_t n)
{
    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        return register_name(o, text, n);
    case ZYDIS_OPERAND_TYPE_MEMORY:
        snprintf(text, n, "%s%u%s", o->mem.type == ZYDIS_MEMOP_TYPE_VSIB ? "vm" : "m", o->size,
                 insn->avx.broadcast.mode && !insn->avx.broadcast.is_static ? "bcst" : "");
        return text;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        snprintf(text, n, "%s%u", o->imm.is_relative ? "rel" : "imm", o->size);
        return text;
    default:
        return "ptr";
    }
}

static void name_form(struct form *form, const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *operands)
{
    static const char *const maps[] = {"", "0f", "0f38", "0f3a", "4", "5", "6", "7"};
    static const char *const encodings[] = {"", "vex.", "evex."};
    bool rounding = insn->avx.rounding.mode && insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    char text[16];
    int at;

    at = snprintf(form->name, sizeof(form->name), "%s%s%s ",
                  (insn->attributes & ZYDIS_ATTRIB_HAS_LOCK) ? "lock " : "",
                  (insn->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE)) ? "rep "
                  : (insn->attributes & ZYDIS_ATTRIB_HAS_REPNE)                       ? "repne "
                                                                                      : "",
                  ZydisMnemonicGetString(insn->mnemonic));
    for (unsigned i = 0; i < insn->operand_count_visible; i++) {
        if (operands[i].encoding == ZYDIS_OPERAND_ENCODING_MASK)
            continue;
        at += snprintf(form->name + at, sizeof(form->name) - (size_t)at, "%s%s", i ? "," : "",
                       operand_name(insn, &operands[i], text, sizeof(text)));
    }
    text[0] = 0;
    if (form->t.has_modrm && !form->t.reg_free)
        snprintf(text, sizeof(text), "/%u", form->t.reg);
    snprintf(form->name + at, sizeof(form->name) - (size_t)at, "%s [%s%s%s%02x%s w%u]",
             rounding            ? ",er"
             : insn->avx.has_sae ? ",sae"
                                 : "",
             encodings[form->t.encoding], maps[form->t.map & 7], form->t.map ? "." : "",
             insn->opcode, text, insn->operand_width);
}

static void complete_template(struct form_template *t, const ZydisDecodedInstruction *insn,
                              const ZydisDecodedOperand *operands)
{
    t->has_modrm = (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
    t->memory = t->has_modrm && insn->raw.modrm.mod != 3 &&
                encoded_by(insn, operands, ZYDIS_OPERAND_ENCODING_MODRM_RM);
    t->reg_free = encoded_by(insn, operands, ZYDIS_OPERAND_ENCODING_MODRM_REG);
    t->rm_free = encoded_by(insn, operands, ZYDIS_OPERAND_ENCODING_MODRM_RM);
    t->opcode_free = encoded_by(insn, operands, ZYDIS_OPERAND_ENCODING_OPCODE);
    t->v_free = encoded_by(insn, operands, ZYDIS_OPERAND_ENCODING_NDSNDD);
    t->mask_free = encoded_by(insn, operands, ZYDIS_OPERAND_ENCODING_MASK);
    t->rounding_free = t->encoding == FORM_EVEX && t->b && !t->memory &&
                       insn->avx.rounding.mode != ZYDIS_ROUNDING_MODE_INVALID;
    for (unsigned i = 0; i < insn->operand_count; i++)
        t->vsib |= operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
                   operands[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB;
}

/* Whether the bytes were read as meant: many opcodes of map 0 are prefixes or lead elsewhere. */
static bool is_template(const struct form_template *t, const ZydisDecodedInstruction *insn)
{
    static const ZydisInstructionEncoding encodings[] = {ZYDIS_INSTRUCTION_ENCODING_LEGACY,
                                                         ZYDIS_INSTRUCTION_ENCODING_VEX,
                                                         ZYDIS_INSTRUCTION_ENCODING_EVEX};

    return insn->encoding == encodings[t->encoding] && insn->opcode == t->opcode &&
           (t->encoding != FORM_LEGACY || insn->opcode_map == (ZydisOpcodeMap)t->map);
}

/* Decodes what the template and choice say; keeps it if its key is new and it is advertised. */
static void visit(struct walk *walk, const struct form_template *t, const struct form_choice *c)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t bytes[32] = {0};
    struct forms *f = walk->f;

    form_write(t, c, bytes);
    if (ZYAN_FAILED(ZydisDecoderDecodeFull(&f->decoder, bytes, 15, &insn, operands)) ||
        !is_template(t, &insn) || !features_advertise(insn.meta.isa_set))
        return;

    uint64_t key = form_key(&insn, operands);
    uint32_t slot = key & (TABLE_SIZE - 1);
    while (walk->table[slot]) {
        if (f->form[walk->table[slot] - 1].key == key)
            return;
        slot = (slot + 1) & (TABLE_SIZE - 1);
    }
    if (f->count == FORMS_MAX)
        return; /* forms_find says so */

    struct form *form = &f->form[f->count++];
    walk->table[slot] = f->count;
    form->key = key;
    form->id = (uint32_t)(key >> 32);
    form->mnemonic = (uint16_t)insn.mnemonic;
    form->t = *t;
    form->t.reg = c->reg & 7;
    form->t.rm = c->rm & 7;
    complete_template(&form->t, &insn, operands);
    form->excluded = form_exclusion(&insn);
    name_form(form, &insn, operands);
}

/* ModRM: every reg with a memory operand ([rax], and a SIB with base for VSIB), and every reg and
 * rm with registers (all rm where they name instructions of their own). */
static void visit_modrm(struct walk *walk, struct form_template *t, bool all_rm)
{
    struct form_choice c = {.vvvv = 0};

    t->code32 = walk->f->code32;
    t->has_modrm = t->reg_free = t->rm_free = true;
    c.mask = t->mask_free;
    for (unsigned reg = 0; reg < 8; reg++) {
        c.reg = (uint8_t)reg;
        t->memory = true;
        for (unsigned sib = 0; sib < 2; sib++) {
            c.sib = sib;
            c.index = 1;
            visit(walk, t, &c);
        }
        t->memory = false;
        for (unsigned rm = 0; rm < (all_rm ? 8 : 2); rm++) {
            c.rm = (uint8_t)rm;
            visit(walk, t, &c);
        }
    }
}

static void walk_legacy(struct walk *walk)
{
    static const uint8_t prefixes[] = {
        0,
        FORM_66,
        FORM_F2,
        FORM_F3,
        FORM_66 | FORM_F2,
        FORM_66 | FORM_F3,
        FORM_LOCK,
        FORM_LOCK | FORM_66,
    };

    for (unsigned map = 0; map < 4; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned p = 0; p < sizeof(prefixes); p++)
                for (unsigned w = 0; w < (walk->f->code32 ? 1 : 2); w++) {
                    struct form_template t = {.encoding = FORM_LEGACY,
                                              .prefixes = prefixes[p],
                                              .map = (uint8_t)map,
                                              .opcode = (uint8_t)opcode,
                                              .w = (uint8_t)w};
                    visit_modrm(walk, &t, map < 2);
                }
}

static void walk_vex(struct walk *walk)
{
    for (unsigned n = 0; n < 3u * 256 * 4 * 2 * 2; n++) {
        struct form_template t = {.encoding = FORM_VEX,
                                  .l = n & 1,
                                  .w = n >> 1 & 1,
                                  .pp = n >> 2 & 3,
                                  .opcode = (uint8_t)(n >> 4),
                                  .map = (uint8_t)(1 + (n >> 12))};
        visit_modrm(walk, &t, false);
    }
}

static void walk_evex(struct walk *walk)
{
    for (unsigned n = 0; n < 6u * 256 * 4 * 2 * 2 * 3; n++) {
        unsigned m = n / 3;
        struct form_template t = {.encoding = FORM_EVEX,
                                  .l = (uint8_t)(n % 3),
                                  .b = m & 1,
                                  .w = m >> 1 & 1,
                                  .pp = m >> 2 & 3,
                                  .opcode = (uint8_t)(m >> 4),
                                  .map = (uint8_t)(1 + (m >> 12))};
        if (t.map == 4)
            continue;
        visit_modrm(walk, &t, false);
        t.mask_free = true; /* a mask must be named by gathers and some others */
        visit_modrm(walk, &t, false);
    }
}

static int by_name(const void *a, const void *b)
{
    const struct form *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    return order ? order : (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static bool ids_unique(const struct forms *f)
{
    uint32_t *ids = calloc(f->count + 1, sizeof(*ids));
    bool unique = ids != NULL;

    for (unsigned i = 0; unique && i < f->count; i++)
        ids[i] = f->form[i].id;
    if (unique)
        qsort(ids, f->count, sizeof(*ids), by_id);
    for (unsigned i = 1; unique && i < f->count; i++)
        unique = ids[i] != ids[i - 1];
    free(ids);
    return unique;
}

int forms_find(struct forms *f, bool code32, struct error *e)
{
    struct walk walk = {.f = f};

    memset(f, 0, sizeof(*f));
    f->code32 = code32;
    f->form = calloc(FORMS_MAX, sizeof(*f->form));
    walk.table = calloc(TABLE_SIZE, sizeof(*walk.table));
    if (!f->form || !walk.table) {
        free(walk.table);
        forms_fini(f);
        return error_set(e, ENOMEM, "no memory for the list of forms");
    }
    features_decoder(&f->decoder, code32);
    walk_legacy(&walk);
    walk_vex(&walk);
    walk_evex(&walk);
    free(walk.table);
    if (f->count == FORMS_MAX)
        return error_set(e, ENOSPC, "more than %u forms: raise FORMS_MAX", FORMS_MAX);
    qsort(f->form, f->count, sizeof(*f->form), by_name);
    if (!ids_unique(f))
        return error_set(e, EEXIST, "two forms have one id");
    return 0;
}

void forms_fini(struct forms *f)
{
    free(f->form);
    f->form = NULL;
    f->count = 0;
}
