/* SPDX-License-Identifier: MIT */
/*
 * A block: 5 to 40 instructions, instances of the forms of tests/diff, with branches among them
 * (conditional, unconditional, near calls and returns, through registers; forth and back), ended by
 * the INT3s that fill the code pages.
 *
 * A few registers are pointers to data, near page ends of every kind (tests/diff/diff.h); memory
 * operands use them, and most instructions that would overwrite one are not taken: so the block
 * gets on. Those that are, and operands off other registers, fault at any place.
 */
#include "block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "legacy.h"
#include "random.h"
#include "values.h"

#define INSNS_LEAST 5u
#define INSNS_MOST  40u
#define TRIES       60u
#define CODE_BYTES  1024u

enum branch {
    BRANCH_NONE,
    BRANCH_SHORT,
    BRANCH_NEAR,
    BRANCH_REGISTER,
    BRANCH_ABSOLUTE,
    BRANCH_RETURN
};

struct item {
    uint16_t at;
    uint8_t branch; /* enum branch: its displacement is at field, to instruction `target` */
    uint8_t field, field_end, target;
};

struct maker {
    struct random r;
    const struct block_forms *b;
    enum block_kind kind;
    struct diff_case *c;
    bool code32;
    unsigned registers; /* general ones that there are */
    uint16_t pointers;  /* bit = register */
    uint8_t code[CODE_BYTES];
    unsigned size, count;
    struct item item[INSNS_MOST];
};

enum block_kind block_kind(uint32_t number)
{
    static const uint8_t kinds[8] = {BLOCK_PLAIN, BLOCK_ANY, BLOCK_WRITES_CODE, BLOCK_PLAIN,
                                     BLOCK_PLAIN, BLOCK_ANY, BLOCK_WRITES_CODE, BLOCK_ANY};
    return (enum block_kind)kinds[number / 2 % 8];
}

/* ---- which forms ---- */

static bool is_common(const ZydisDecodedInstruction *i)
{
    switch (i->meta.category) {
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_SETCC:
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_ROTATE:
    case ZYDIS_CATEGORY_BITBYTE:
    case ZYDIS_CATEGORY_CONVERT:
    case ZYDIS_CATEGORY_SEMAPHORE:
    case ZYDIS_CATEGORY_PUSH:
    case ZYDIS_CATEGORY_POP:
    case ZYDIS_CATEGORY_FLAGOP:
    case ZYDIS_CATEGORY_MISC:
        return i->meta.isa_set == ZYDIS_ISA_SET_I86 || i->meta.isa_set == ZYDIS_ISA_SET_I386 ||
               i->meta.isa_ext == ZYDIS_ISA_EXT_BASE || i->meta.isa_ext == ZYDIS_ISA_EXT_LONGMODE;
    default:
        return false;
    }
}

static bool decode(const struct forms *f, const uint8_t *bytes, ZydisDecodedInstruction *i,
                   ZydisDecodedOperand *operands)
{
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&f->decoder, bytes, 15, i, operands));
}

int block_forms_init(struct block_forms *b, const struct forms *forms)
{
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction insn;

    *b = (struct block_forms){.forms = forms,
                              .common = calloc(forms->count, sizeof(uint32_t)),
                              .any = calloc(forms->count, sizeof(uint32_t))};
    if (b->common == NULL || b->any == NULL)
        return -ENOMEM;
    for (uint32_t f = 0; f < forms->count; f++) {
        struct form_choice choice = {.base = 3, .mod = 2, .reg = 1, .rm = 2, .mask = 1};
        uint8_t bytes[40] = {0};
        if (forms->form[f].excluded)
            continue;
        form_write(&forms->form[f].t, &choice, bytes);
        if (!decode(forms, bytes, &insn, operands) ||
            insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
            continue; /* branches are laid by this file */
        b->any[b->any_count++] = f;
        if (is_common(&insn))
            b->common[b->common_count++] = f;
    }
    return 0;
}

void block_forms_fini(struct block_forms *b)
{
    free(b->common);
    free(b->any);
}

/* Interrupts of the host's kernel, and what the oracle steps or orders in its own way. */
static bool is_plain(const ZydisDecodedInstruction *i)
{
    switch (i->meta.category) {
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
    case ZYDIS_CATEGORY_X87_ALU:
    case ZYDIS_CATEGORY_GATHER:
    case ZYDIS_CATEGORY_SCATTER:
    case ZYDIS_CATEGORY_AVX2GATHER:
        return false;
    default:
        break;
    }
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_FXSAVE: /* words in any order */
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        return false;
    default:
        return i->meta.isa_ext != ZYDIS_ISA_EXT_X87 && i->meta.isa_ext != ZYDIS_ISA_EXT_MMX;
    }
}

/* A Zen 4 that reads ESP or RSP by an EVEX instruction whose X is set, which means nothing there,
 * misses what PUSH or CALL has just moved it by, unless an interrupt came between: VMOVD, VMOVQ and
 * VPBROADCAST in 999,966 to 10^6 of 10^6 runs. No function of the state. */
static bool reads_stale_stack_pointer(const ZydisDecodedInstruction *i,
                                      const ZydisDecodedOperand *o)
{
    if (i->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX || i->raw.evex.X)
        return false; /* the bit is stored inverted */
    for (unsigned n = 0; n < i->operand_count; n++)
        if (o[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (o[n].reg.value == ZYDIS_REGISTER_ESP || o[n].reg.value == ZYDIS_REGISTER_RSP))
            return true;
    return false;
}

static bool touches_segments(const ZydisDecodedInstruction *i, const ZydisDecodedOperand *o)
{
    for (unsigned n = 0; n < i->operand_count; n++)
        if (o[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(o[n].reg.value) == ZYDIS_REGCLASS_SEGMENT &&
            (o[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            return true;
    return false;
}

/* ---- single instructions ---- */

static unsigned some_pointer(struct maker *m)
{
    unsigned reg;
    do
        reg = random_below(&m->r, m->registers);
    while (!(m->pointers >> reg & 1));
    return reg;
}

static struct form_choice choose(struct maker *m, const struct form_template *t)
{
    uint8_t general = (uint8_t)(m->registers - 1);
    uint8_t mask = m->code32 ? 7 : t->encoding == FORM_EVEX ? 31 : 15;
    uint64_t x = random_next(&m->r);
    struct form_choice c = {
        .reg = x & mask,
        .rm = x >> 8 & mask,
        .vvvv = t->v_free ? x >> 16 & mask : 0,
        .index = x >> 24 & (t->vsib ? mask : general),
        .scale = x >> 32 & 3,
        .mask = t->mask_free && (x >> 40 & 1) ? x >> 44 & 7 : 0,
        .rounding = x >> 50 & 3,
        .mod = (uint8_t)(1 + (x >> 52 & 1)),
        .sib = t->vsib || (x >> 53 & 7) == 0,
        .force_rex = t->encoding == FORM_LEGACY && (x >> 56 & 3) == 0,
        .disp = (int32_t)(random_below(&m->r, 160)) - 80,
    };
    c.zeroing = c.mask && (x >> 60 & 1);
    c.base = random_chance(&m->r, 96) ? (uint8_t)some_pointer(m) : x >> 61;
    c.rip_relative = !t->vsib && random_chance(&m->r, 6);
    if (random_chance(&m->r, 4))
        c.segment = random_chance(&m->r, 50) ? 0x64 : 0x65;
    c.address32 = random_chance(&m->r, 2);
    return c;
}

/* What would overwrite a pointer; pushes and pops move RSP and leave it one. */
static bool spoils_pointer(const struct maker *m, const ZydisDecodedInstruction *i,
                           const ZydisDecodedOperand *o)
{
    for (unsigned n = 0; n < i->operand_count; n++) {
        ZydisRegisterClass class = ZydisRegisterGetClass(o[n].reg.value);
        if (o[n].type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(o[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) ||
            (class != ZYDIS_REGCLASS_GPR64 && class != ZYDIS_REGCLASS_GPR32 &&
             class != ZYDIS_REGCLASS_GPR16 && class != ZYDIS_REGCLASS_GPR8))
            continue;
        int id = ZydisRegisterGetId(o[n].reg.value);
        if (class == ZYDIS_REGCLASS_GPR8 && id >= 4)
            id -= 4;
        bool hidden = o[n].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
        if ((m->pointers >> id & 1) && !(hidden && id == RSP))
            return true;
    }
    return false;
}

static bool instance(struct maker *m, const struct form *form, uint8_t *bytes, unsigned *length)
{
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction insn;
    struct form_choice choice = choose(m, &form->t);
    uint64_t immediate = value_integer(&m->r), more = value_integer(&m->r);

    if (choice.rip_relative) { /* anywhere in the data */
        uint64_t rip = m->code32 ? 0 : m->c->in.rip + m->size + 8;
        choice.disp = (int32_t)(value_address(&m->r, 8) - rip);
    }
    unsigned n = form_write(&form->t, &choice, bytes);
    memcpy(bytes + n, &immediate, 8);
    memcpy(bytes + n + 8, &more, 8);
    if (!decode(m->b->forms, bytes, &insn, operands) || form_key(&insn, operands) != form->key)
        return false;
    if (m->kind == BLOCK_PLAIN && (!is_plain(&insn) || touches_segments(&insn, operands) ||
                                   reads_stale_stack_pointer(&insn, operands)))
        return false;
    if (touches_segments(&insn, operands) && !random_chance(&m->r, 10))
        return false;
    if (spoils_pointer(m, &insn, operands) && !random_chance(&m->r, 4))
        return false;
    if (insn.meta.category == ZYDIS_CATEGORY_INTERRUPT && !random_chance(&m->r, 10))
        return false;
    *length = insn.length;
    return true;
}

static void put(struct maker *m, const void *bytes, unsigned n)
{
    memcpy(m->code + m->size, bytes, n);
    m->size += n;
}

static void put_instance(struct maker *m)
{
    const struct block_forms *b = m->b;
    for (unsigned i = 0; i < TRIES; i++) {
        bool common = random_chance(&m->r, 70);
        uint32_t f = common ? b->common[random_below(&m->r, b->common_count)]
                            : b->any[random_below(&m->r, b->any_count)];
        uint8_t bytes[40] = {0};
        unsigned length;
        if (!instance(m, &b->forms->form[f], bytes, &length))
            continue;
        put(m, bytes, length);
        return;
    }
    put(m, "\x90", 1);
}

/* ---- branches ---- */

/* MOV scratch, address; JMP or CALL scratch, or PUSH and RET. */
static void put_register_branch32(struct maker *m, struct item *i, uint8_t scratch, unsigned way)
{
    put(m, (uint8_t[]){0xb8 | scratch, 0, 0, 0, 0}, 5);
    i->branch = BRANCH_ABSOLUTE;
    i->field = 1;
    i->field_end = 5;
    if (way < 90)
        put(m, (uint8_t[]){0xff, (uint8_t)((way < 86 ? 0xe0 : 0xd0) | scratch)}, 2);
    else
        put(m, (uint8_t[]){(uint8_t)(0x50 | scratch), 0xc3}, 2);
}

static void put_branch(struct maker *m, struct item *i)
{
    uint8_t condition = (uint8_t)random_below(&m->r, 16);
    uint8_t scratch = (uint8_t)random_below(&m->r, m->registers);
    unsigned way = random_below(&m->r, 100), from = m->size;

    while (scratch == RSP || (m->pointers >> scratch & 1))
        scratch = (uint8_t)random_below(&m->r, m->registers);
    if (way < 35) {
        put(m, (uint8_t[]){0x0f, 0x80 | condition, 0, 0, 0, 0}, 6);
        i->branch = BRANCH_NEAR;
    } else if (way < 60) {
        put(m, (uint8_t[]){0x70 | condition, 0}, 2);
        i->branch = BRANCH_SHORT;
    } else if (way < 66) { /* LOOPNE, LOOPE, LOOP, JRCXZ */
        put(m, (uint8_t[]){0xe0 | (condition & 3), 0}, 2);
        i->branch = BRANCH_SHORT;
    } else if (way < 72) {
        put(m, (uint8_t[]){0xe9, 0, 0, 0, 0}, 5);
        i->branch = BRANCH_NEAR;
    } else if (way < 82) {
        put(m, (uint8_t[]){0xe8, 0, 0, 0, 0}, 5);
        i->branch = BRANCH_NEAR;
    } else if (way < 94 && m->code32) {
        put_register_branch32(m, i, scratch, way);
        return;
    } else if (way < 94) { /* LEA scratch, [RIP+x]; JMP or CALL scratch, or PUSH and RET */
        uint8_t rex = 0x48 | (scratch >> 3) << 2, b = scratch >> 3, low = scratch & 7;
        put(m, (uint8_t[]){rex, 0x8d, (uint8_t)(low << 3 | 5), 0, 0, 0, 0}, 7);
        i->branch = BRANCH_REGISTER;
        i->field = (uint8_t)(m->size - from - 4);
        i->field_end = (uint8_t)(m->size - from);
        if (way < 90)
            put(m, (uint8_t[]){0x40 | b, 0xff, (uint8_t)((way < 86 ? 0xe0 : 0xd0) | low)}, 3);
        else
            put(m, (uint8_t[]){0x40 | b, (uint8_t)(0x50 | low), 0xc3}, 3);
        return;
    } else {
        put(m, (uint8_t[]){0xc3}, 1);
        i->branch = BRANCH_RETURN;
    }
    i->field_end = (uint8_t)(m->size - from);
    i->field = (uint8_t)(i->field_end - (i->branch == BRANCH_SHORT ? 1 : 4));
}

static void aim_branches(struct maker *m)
{
    for (unsigned n = 0; n < m->count; n++) {
        struct item *i = &m->item[n];
        if (i->branch == BRANCH_NONE || i->branch == BRANCH_RETURN)
            continue;
        /* mostly forth: a block that runs in circles is stopped by its limit */
        unsigned target = random_chance(&m->r, 80) ? n + 1 + random_below(&m->r, m->count - n)
                                                   : random_below(&m->r, n + 1);
        int32_t to = target < m->count ? m->item[target].at : (int32_t)m->size;
        int32_t by = to - (i->at + i->field_end);
        if (i->branch == BRANCH_ABSOLUTE)
            by = (int32_t)m->c->in.rip + to;
        if (i->branch == BRANCH_SHORT)
            m->code[i->at + i->field] = by >= -128 && by <= 127 ? (uint8_t)by : 0;
        else
            memcpy(m->code + i->at + i->field, &by, 4);
    }
}

/* ---- place, registers ---- */

static uint64_t pointer_value(struct maker *m)
{
    static const uint8_t pages[] = {1, 2, 4, 5, 7, 8};
    uint64_t page = DIFF_DATA + pages[random_below(&m->r, sizeof(pages))] * DIFF_PAGE;

    if (random_chance(&m->r, 35)) /* the next page is another, or none */
        return page + DIFF_PAGE - random_below(&m->r, 160);
    if (random_chance(&m->r, 50))
        return DIFF_DATA + 2 * DIFF_PAGE - random_below(&m->r, 160); /* both can be written */
    return page + random_below(&m->r, DIFF_PAGE);
}

static void make_state(struct maker *m)
{
    struct diff_state *s = &m->c->in;

    value_state(&m->r, s);
    if (m->code32)
        legacy_segments(&m->r, m->c);
    s->rflags &= ~(uint64_t)(random_chance(&m->r, 90) ? FLAG_DF : 0);
    m->pointers = 1u << RSP;
    for (unsigned n = 0; n < 5; n++)
        m->pointers |= (uint16_t)(1u << random_below(&m->r, m->registers));
    for (unsigned reg = 0; reg < m->registers; reg++)
        if ((m->pointers >> reg & 1) && (reg != RSP || random_chance(&m->r, 25)))
            s->gpr[reg] = pointer_value(m);
    if (m->pointers >> RCX == 0 || random_chance(&m->r, 80))
        s->gpr[RCX] &= 0xff;       /* LOOP, REP */
    if (!random_chance(&m->r, 30)) /* most vector code is not to raise */
        s->vector.mxcsr |= 0x1f80;
    s->rip = DIFF_CODE + random_below(&m->r, DIFF_CODE_PAGES * DIFF_PAGE - 700);
    if (random_chance(&m->r, 50)) /* across the border at any offset */
        s->rip = DIFF_CODE + DIFF_PAGE - random_below(&m->r, 300);
    else if (random_chance(&m->r, 10)) /* into the absent page */
        s->rip = DIFF_CODE + DIFF_CODE_PAGES * DIFF_PAGE - 1 - random_below(&m->r, 200);
}

/* Two pointers lead into the block, by its own address and by the other. */
static void aim_at_code(struct maker *m)
{
    for (unsigned n = 0; n < 2; n++) {
        unsigned reg = some_pointer(m);
        uint64_t at = m->c->in.rip + random_below(&m->r, m->size + 32);
        if (reg != RSP)
            m->c->in.gpr[reg] = random_chance(&m->r, 60) ? at : at - DIFF_CODE + DIFF_ALIAS;
    }
}

static void lay(struct maker *m)
{
    struct diff_case *c = m->c;
    uint64_t at = c->in.rip;
    for (unsigned done = 0; done < m->size;) {
        unsigned room = DIFF_PAGE - (unsigned)((at + done) & (DIFF_PAGE - 1));
        unsigned part = m->size - done < room ? m->size - done : room;
        int offset = diff_arena_offset(at + done);
        if (offset >= 0) {
            c->patch[c->patch_count].offset = (uint32_t)offset;
            c->patch[c->patch_count].size = (uint16_t)part;
            c->patch[c->patch_count].start = (uint16_t)c->patch_bytes;
            memcpy(c->bytes_of_patches + c->patch_bytes, m->code + done, part);
            c->patch_bytes += part;
            c->patch_count++;
        }
        done += part;
    }
}

void block_generate(const struct block_forms *b, uint64_t seed, uint32_t number,
                    struct diff_case *c)
{
    struct maker m = {.b = b,
                      .kind = block_kind(number),
                      .c = c,
                      .code32 = b->forms->code32,
                      .registers = b->forms->code32 ? 8 : 16};

    memset(c, 0, offsetof(struct diff_case, bytes_of_patches));
    m.r.s = random_mix(seed ^ random_mix(number + 1));
    c->seed = seed;
    c->number = number;
    c->code32 = b->forms->code32;
    c->flat = b->forms->flat;
    c->block = true;
    c->end_by_int3 = true;
    c->code_writable = m.kind == BLOCK_WRITES_CODE;
    make_state(&m);
    unsigned wanted = INSNS_LEAST + random_below(&m.r, INSNS_MOST - INSNS_LEAST + 1);
    for (m.count = 0; m.count < wanted && m.size < CODE_BYTES - 64; m.count++) {
        struct item *i = &m.item[m.count];
        i->at = (uint16_t)m.size;
        if (random_chance(&m.r, 18))
            put_branch(&m, i);
        else
            put_instance(&m);
    }
    aim_branches(&m);
    if (m.kind == BLOCK_WRITES_CODE)
        aim_at_code(&m);
    lay(&m);
    if (m.code32)
        legacy_narrow(c);
}
