/* SPDX-License-Identifier: MIT */
/* Memory operands: an address for each, and registers (or displacement) that lead there. */
#include <string.h>

#include "generate.h"
#include "legacy.h"
#include "values.h"

/* The general register behind a Zydis register used in an address, or -1. */
static int gpr_of(ZydisRegister reg)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);

    if (class != ZYDIS_REGCLASS_GPR64 && class != ZYDIS_REGCLASS_GPR32 &&
        class != ZYDIS_REGCLASS_GPR16)
        return -1;
    return ZydisRegisterGetId(reg);
}

/* RIP-relative and absolute operands: the displacement is all there is. */
static void aim_displacement(struct generator *g, uint64_t offset, bool rip_relative)
{
    const struct ZydisDecodedInstructionRawDisp_ *d = &g->insn.raw.disp;
    uint64_t value = rip_relative ? offset - (g->c->in.rip + g->c->length) : offset;
    int32_t narrow = (int32_t)value;
    int16_t word = (int16_t)value;

    if (d->size == 64)
        memcpy(g->c->bytes + d->offset, &value, 8);
    else if (d->size == 32)
        memcpy(g->c->bytes + d->offset, &narrow, 4);
    else if (d->size == 16)
        memcpy(g->c->bytes + d->offset, &word, 2);
}

/* base + index * scale + disp = offset, by the base if it is another register, else by both. */
static void aim_registers(struct generator *g, const ZydisDecodedOperand *o, uint64_t offset)
{
    static const uint64_t inverse[] = {[1] = 1,
                                       [2] = UINT64_C(0xaaaaaaaaaaaaaaab),
                                       [4] = UINT64_C(0xcccccccccccccccd),
                                       [8] = UINT64_C(0x8e38e38e38e38e39)}; /* of scale + 1 */
    int base = gpr_of(o->mem.base), index = gpr_of(o->mem.index);
    uint64_t *gpr = g->c->in.gpr;
    uint64_t rest = offset - (uint64_t)(o->mem.disp.has_displacement ? o->mem.disp.value : 0);
    uint8_t scale = o->mem.scale;

    if (base >= 0 && index == base) {
        gpr[base] = scale == 1 ? rest / 2 : rest * inverse[scale];
    } else if (base >= 0) {
        if (index >= 0 && random_chance(&g->r, 70))
            gpr[index] = random_below(&g->r, 4096);
        gpr[base] = rest - (index >= 0 ? gpr[index] * scale : 0);
    } else if (index >= 0) {
        gpr[index] = rest / scale;
    }
}

/* The index register of gathers and scatters: elements near the base, seldom far. */
static void aim_vector(struct generator *g, const ZydisDecodedOperand *o, uint64_t address)
{
    struct diff_case *c = g->c;
    unsigned number = (unsigned)ZydisRegisterGetId(o->mem.index);
    unsigned bytes = strstr(ZydisMnemonicGetString(g->form->mnemonic), "rq") ||
                             strstr(ZydisMnemonicGetString(g->form->mnemonic), "gatherq")
                         ? 8
                         : 4;
    unsigned spread = random_chance(&g->r, 80) ? 128 : 4096;
    int base = gpr_of(o->mem.base);

    for (unsigned at = 0; at < 64; at += bytes) {
        int64_t index = (int64_t)random_below(&g->r, spread) - (int64_t)(spread / 8);
        memcpy((uint8_t *)&c->in.vector.zmm[X86_ZMM_QWORDS * number] + at, &index, bytes);
    }
    if (base >= 0)
        c->in.gpr[base] = address - (uint64_t)o->mem.disp.value;
}

unsigned generate_segment(const ZydisDecodedOperand *o)
{
    switch (o->mem.segment) {
    case ZYDIS_REGISTER_ES:
        return SEG_ES;
    case ZYDIS_REGISTER_CS:
        return SEG_CS;
    case ZYDIS_REGISTER_SS:
        return SEG_SS;
    case ZYDIS_REGISTER_FS:
        return SEG_FS;
    case ZYDIS_REGISTER_GS:
        return SEG_GS;
    default:
        return SEG_DS;
    }
}

static void put_data(struct generator *g, uint64_t address, unsigned size)
{
    uint8_t data[80];

    if (size > sizeof(data))
        size = sizeof(data);
    value_bytes(&g->r, data, size);
    generate_patch(g, address, data, size);
}

/* Zydis gives hidden stack operands no size of use here. */
static unsigned operand_bytes(const ZydisDecodedOperand *o)
{
    unsigned bytes = o->size / 8;

    return bytes ? bytes : 8;
}

static void aim(struct generator *g, unsigned i)
{
    const ZydisDecodedOperand *o = &g->operands[i];
    unsigned size = operand_bytes(o);
    uint64_t address = value_address(&g->r, size);
    if (g->c->code32)
        address = (uint32_t)address;
    bool stack = (o->mem.base == ZYDIS_REGISTER_RSP || o->mem.base == ZYDIS_REGISTER_ESP) &&
                 o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
    if (g->c->code32 && g->insn.address_width == 16)
        legacy_reach_by_word(&g->r, g->c, generate_segment(o));
    uint64_t base = diff_segment_base(g->c, generate_segment(o)), offset = address - base;

    g->target[i] = address;
    if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
        aim_vector(g, o, address);
        return;
    }
    if (stack && random_chance(&g->r, 70)) { /* a push goes below, a pop above */
        address = g->target[i] = DIFF_DATA + DIFF_PAGE + random_below(&g->r, 1022) * 8;
        offset = address - base;
    }
    if (stack && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        offset += size;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
        aim_displacement(g, offset, true);
    else if (o->mem.base == ZYDIS_REGISTER_NONE && o->mem.index == ZYDIS_REGISTER_NONE)
        aim_displacement(g, offset, false);
    else
        aim_registers(g, o, offset);
    put_data(g, address, size);
}

void generate_operands(struct generator *g)
{
    /* Hidden operands first: what the instruction names wins. */
    for (int hidden = 1; hidden >= 0; hidden--)
        for (unsigned i = 0; i < g->insn.operand_count; i++)
            if (g->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
                (g->operands[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) == (hidden != 0))
                aim(g, i);
}
