/* SPDX-License-Identifier: MIT */
/* See generate.h: the instance and its place. */
#include "generate.h"

#include <string.h>

#include "advertised.h"
#include "legacy.h"
#include "values.h"

#define TRIES    200
#define CODE_END (DIFF_CODE + DIFF_CODE_PAGES * DIFF_PAGE)

void generate_patch(struct generator *g, uint64_t linear, const void *bytes, unsigned n)
{
    struct diff_case *c = g->c;

    for (unsigned done = 0; done < n;) {
        unsigned room = DIFF_PAGE - ((linear + done) & (DIFF_PAGE - 1));
        unsigned part = n - done < room ? n - done : room;
        int offset = diff_arena_offset(linear + done);

        if (offset >= 0 && c->patch_count < DIFF_PATCHES &&
            c->patch_bytes + part <= DIFF_PATCH_BYTES) {
            c->patch[c->patch_count].offset = (uint32_t)offset;
            c->patch[c->patch_count].size = (uint16_t)part;
            c->patch[c->patch_count].start = (uint16_t)c->patch_bytes;
            memcpy(c->bytes_of_patches + c->patch_bytes, (const uint8_t *)bytes + done, part);
            c->patch_bytes += part;
            c->patch_count++;
        }
        done += part;
    }
}

static void choose_registers(struct random *r, const struct form_template *t, struct form_choice *c)
{
    uint8_t general = t->code32 ? 7 : 15;
    uint8_t mask = t->code32 ? 7 : t->encoding == FORM_EVEX ? 31 : 15;
    uint64_t x = random_next(r);

    c->reg = x & mask;
    c->rm = x >> 8 & mask;
    c->vvvv = t->v_free ? x >> 16 & mask : 0;
    c->base = x >> 24 & general;
    c->index = x >> 32 & (t->vsib ? mask : general);
    c->scale = x >> 40 & 3;
    if (random_chance(r, 15)) /* the same register twice */
        c->rm = c->reg;
    if (random_chance(r, 5))
        c->index = c->base;
    c->mask = t->mask_free && random_chance(r, 70) ? x >> 48 & 7 : 0;
    c->zeroing = c->mask && random_chance(r, 40);
    c->rounding = x >> 52 & 3;
    c->force_rex = random_chance(r, 30);
}

static void choose_addressing(struct random *r, const struct form_template *t,
                              struct form_choice *c)
{
    static const uint8_t segments[] = {0x64, 0x65, 0x64, 0x65, 0x26, 0x2e, 0x36, 0x3e};
    unsigned way = random_below(r, 100);

    c->sib = t->vsib || way >= 60;
    c->rip_relative = !t->vsib && way < 8;
    c->absolute = !c->rip_relative && (way < 14 || way >= 96);
    c->mod = (uint8_t)random_below(r, 3);
    c->disp = (int32_t)(random_chance(r, 50) ? random_next(r) & 0xff : value_integer(r));
    if (random_chance(r, 12))
        c->segment = segments[random_below(r, sizeof(segments))];
    c->address32 = random_chance(r, 6);
}

static bool instance(struct generator *g, const struct forms *forms)
{
    const struct form_template *t = &g->form->t;
    struct random *r = &g->r;

    for (unsigned i = 0; i < TRIES; i++) {
        struct form_choice choice = {0};
        uint8_t bytes[40];

        choose_registers(r, t, &choice);
        choose_addressing(r, t, &choice);
        if (t->encoding != FORM_LEGACY)
            choice.force_rex &= t->encoding == FORM_VEX;
        if (i > TRIES / 2) /* some forms admit few addressing modes */
            choice.segment = 0, choice.address32 = false;

        unsigned n = form_write(t, &choice, bytes);
        uint64_t immediate = value_integer(r), more = value_integer(r);
        memcpy(bytes + n, &immediate, 8);
        memcpy(bytes + n + 8, &more, 8);
        if (ZYAN_FAILED(ZydisDecoderDecodeFull(&forms->decoder, bytes, 15, &g->insn, g->operands)))
            continue;
        if (form_key(&g->insn, g->operands) != g->form->key)
            continue;
        g->c->length = g->insn.length;
        memcpy(g->c->bytes, bytes, g->insn.length);
        return true;
    }
    return false;
}

static bool ends_by_int3(const struct generator *g)
{
    if (g->insn.attributes &
        (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        return true;
    if (g->form->t.vsib)
        return true;
    switch (g->form->mnemonic) {
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        return true;
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_POP:
        return g->operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
               g->operands[0].reg.value == ZYDIS_REGISTER_SS;
    default:
        return false;
    }
}

/* Mostly anywhere in the two pages of code; often across their border or up to the end; seldom into
 * the absent page behind, or on pages that may not be executed. */
static void place(struct generator *g)
{
    struct diff_case *c = g->c;
    struct random *r = &g->r;
    unsigned way = random_below(r, 100);

    c->end_by_int3 = ends_by_int3(g);
    c->in.rip = DIFF_CODE + random_below(r, DIFF_CODE_PAGES * DIFF_PAGE - 32);
    if (way < 10)
        c->in.rip = DIFF_CODE + DIFF_PAGE - random_below(r, c->length + 1);
    else if (way < 14 && !c->end_by_int3)
        c->in.rip = CODE_END - c->length;
    else if (way < 16)
        c->in.rip = CODE_END - random_below(r, c->length);
    else if (way == 16)
        c->in.rip = DIFF_DATA + (1 + random_below(r, 3)) * DIFF_PAGE + random_below(r, 4096);
}

/* AMD's processors take LOCK with VERR and VERW of memory, against their manual, and with MOV from
 * and to CR0, which it makes CR8 (APM 3 MOV CRn): not offered. */
static bool amd_takes_lock(ZydisMnemonic m, const ZydisDecodedInstruction *insn)
{
    bool control = m == ZYDIS_MNEMONIC_MOV && insn->opcode_map == ZYDIS_OPCODE_MAP_0F &&
                   (insn->opcode == 0x20 || insn->opcode == 0x22);
    return features_amd() && (m == ZYDIS_MNEMONIC_VERR || m == ZYDIS_MNEMONIC_VERW || control);
}

/* Instances that must be refused: LOCK where it is not allowed (#UD), more than 15 bytes (#GP). Not
 * up to an absent page: which is first, #UD or the fetch's #PF, is the decoder's own affair. */

static void spoil(struct generator *g)
{
    struct diff_case *c = g->c;
    unsigned way = random_below(&g->r, 100);
    uint8_t prefix = way == 0 ? 0xf0 : 0x3e;
    unsigned more = way == 0 ? 1 : DIFF_BYTES - c->length;

    if (c->in.rip < CODE_END && c->in.rip + DIFF_BYTES > CODE_END)
        return;
    if (way == 0 && amd_takes_lock(g->form->mnemonic, &g->insn))
        return;
    if (way > 1 || (way == 0 && (g->insn.attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK)))
        return;
    memmove(c->bytes + more, c->bytes, c->length);
    memset(c->bytes, prefix, more);
    c->length = (uint8_t)(c->length + more);
}

bool generate_case(const struct forms *forms, uint32_t index, uint32_t number, uint64_t seed,
                   struct diff_case *c)
{
    struct generator g = {.form = &forms->form[index], .c = c};

    /* The id, not the index: a case stays itself when the list of forms grows. */
    g.r.s = random_mix(seed ^ random_mix(g.form->key + number));
    c->seed = seed;
    c->form = index;
    c->number = number;
    c->patch_count = c->patch_bytes = 0;
    c->length = 0;
    if (!instance(&g, forms))
        return false;
    c->code32 = forms->code32;
    c->flat = forms->flat;
    value_state(&g.r, &c->in);
    if (c->code32)
        legacy_segments(&g.r, c);
    place(&g);
    generate_operands(&g);
    generate_special(&g);
    value_clip(&c->in);
    spoil(&g);
    if (c->code32)
        legacy_narrow(c);
    return true;
}
