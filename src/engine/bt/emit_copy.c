/* SPDX-License-Identifier: MIT */
/* Instructions that are their own translation: re-encoded with the host's registers and a checked
 * memory operand. Nothing of the guest's state changes before the access that may fault. */
#include "engine/bt/translate.h"

static void plan_register(struct bt_insn *i, const ZydisDecodedOperand *o, unsigned guest)
{
    struct bt_plan *p = &i->plan;
    unsigned k = 0;
    while (k < p->count && p->spilled[k] != guest)
        k++;
    if (k == p->count) {
        if (k == (i->memory >= 0 ? 1 : 2)) {
            p->possible = false;
            return;
        }
        p->spilled[p->count++] = (uint8_t)guest;
    }
    bool narrow = o->size < 32;
    bool may_keep = /* on a source of 0, though Zydis does not say so */
        i->full->insn.mnemonic == ZYDIS_MNEMONIC_BSF ||
        i->full->insn.mnemonic == ZYDIS_MNEMONIC_BSR;
    p->writes[k] |= (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    p->reads[k] |=
        (o->actions & (ZYDIS_OPERAND_ACTION_MASK_READ | ZYDIS_OPERAND_ACTION_CONDWRITE)) != 0 ||
        narrow || may_keep;
}

void bt_plan(struct bt_insn *i)
{
    i->plan = (struct bt_plan){.possible = true};
    i->rotated = (uint8_t)rewrite_rotated(i);
    for (unsigned n = 0; n < i->full->insn.operand_count; n++) {
        const ZydisDecodedOperand *o = &i->full->operands[n];
        unsigned g =
            o->type == ZYDIS_OPERAND_TYPE_REGISTER ? bt_gpr_number(o->reg.value) : BT_NO_GPR;
        if (g != BT_NO_GPR && host_of(g) < 0)
            plan_register(i, o, g);
    }
}

/* What is not cached is the interpreter's to judge: a masked operand need not be accessible where
 * the mask is clear, and a conversion raises before it stores. */
static bool is_quiet(const ZydisDecodedInstruction *zi)
{
    return (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
            zi->avx.mask.reg != ZYDIS_REGISTER_NONE && zi->avx.mask.reg != ZYDIS_REGISTER_K0) ||
           zi->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH || zi->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS ||
           zi->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD || zi->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD ||
           zi->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

/* SDM 1 14.9, 2A tables 2-17 and 2-46. */
static bool must_be_aligned(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_CMPXCHG16B:
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        return true;
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return false;
    default:
        return zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    }
}

static struct tr_operand put_memory(struct translation *t, const struct bt_insn *i)
{
    const ZydisDecodedOperand *o = &i->full->operands[i->memory];
    bool write = (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    struct tr_address a = tr_address_of(t, i);
    uint32_t flags = is_quiet(&i->full->insn) ? BT_CHECK_QUIET : 0;
    if (o->size >= 128 && must_be_aligned(&i->full->insn))
        flags |= BT_CHECK_ALIGNED;
    if (o->size > 8 &&
        ((i->in.prefixes & INSN_LOCK) || i->full->insn.mnemonic == ZYDIS_MNEMONIC_XCHG))
        tr_check_line(t, &a, o->size / 8);
    return tr_access(t, &a, o->size / 8, write, flags);
}

/* Scratch registers for those in memory; with a memory operand there is one. */
static void place_spilled(struct translation *t, uint8_t map[16], struct tr_operand *o, bool memory)
{
    static const uint8_t scratch[] = {S0, S1};
    const struct bt_plan *p = &t->i->plan;
    for (unsigned k = 0; k < p->count; k++) {
        unsigned host = memory ? tr_free_scratch(t, o) : scratch[k];
        if (host == S1)
            t->in_s1 = 0;
        map[p->spilled[k]] = (uint8_t)host;
        if (p->reads[k])
            emit_load(&t->e, host, gpr_offset(p->spilled[k]));
    }
}

/* rorx $by, from, to: RFLAGS survive. */
static void put_rotate(struct emit *e, unsigned to, unsigned from, unsigned by)
{
    EMIT(e, 0xc4, (uint8_t)(0x43 | (to < 8) << 7 | (from < 8) << 5), 0xfb, 0xf0,
         (uint8_t)(0xc0 | (to & 7) << 3 | (from & 7)), (uint8_t)by);
}

/* AH, BH, CH or DH beside a memory operand: as the low byte of a scratch register. */
static void emit_rotated(struct translation *t, struct tr_operand *o, uint8_t map[16])
{
    const ZydisDecodedOperand *regs = t->i->full->operands;
    unsigned guest = t->i->rotated, host = tr_free_scratch(t, o);
    bool writes = regs[t->i->memory == 0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    put_rotate(&t->e, host, guest, 8);
    map[guest] = (uint8_t)host;
    tr_mark(t);
    rewrite_emit(&t->e, t->i, o, map);
    if (writes)
        put_rotate(&t->e, guest, host, 64 - 8);
}

void emit_copy(struct translation *t)
{
    const struct bt_insn *i = t->i;
    const struct bt_plan *p = &i->plan;
    bool memory = i->memory >= 0;
    struct tr_operand o = {0};
    uint8_t map[16];

    if (!p->possible) {
        tr_site(t, i, false);
        return;
    }
    for (unsigned g = 0; g < 16; g++)
        map[g] = (uint8_t)host_of(g);
    if (memory)
        o = put_memory(t, i);
    if (i->flags_in && !tr_flags_are_dead(t))
        tr_host_flags(t);
    place_spilled(t, map, &o, memory);
    if (i->rotated != BT_NO_GPR) {
        emit_rotated(t, &o, map);
    } else {
        if (memory || i->may_fault)
            tr_mark(t);
        rewrite_emit(&t->e, i, memory ? &o : NULL, map);
    }
    if (i->flags_out)
        tr_flags_written(t, i);
    for (unsigned k = 0; k < p->count; k++)
        if (p->writes[k])
            emit_store(&t->e, map[p->spilled[k]], gpr_offset(p->spilled[k]));
    t->uncounted++;
}

/* LEA touches no memory and no flags: its operand is computed, not accessed. */
void emit_lea_insn(struct translation *t)
{
    const struct bt_insn *i = t->i;
    unsigned guest = i->in.dst / 8;
    struct tr_address a = tr_address_of(t, i);
    int host = host_of(guest);
    a.seg = SEG_DS;
    if (i->in.size == t->word && host >= 0 && a.wide) {
        tr_linear_to(t, &a, (unsigned)host);
        return;
    }
    tr_linear(t, &a);
    if (i->in.size == 8) {
        tr_put(t, guest, S0);
    } else if (i->in.size == 4) {
        EMIT(&t->e, 0x45, 0x89, 0xd2); /* mov %r10d, %r10d */
        tr_put(t, guest, S0);
    } else { /* 16 bits: merged into the register */
        if (host < 0) {
            emit_load(&t->e, S1, gpr_offset(guest));
            t->in_s1 = 0;
            host = S1;
        }
        EMIT(&t->e, 0x66, emit_rex(false, S0, 0, (unsigned)host), 0x89,
             (uint8_t)(0xc0 | (S0 & 7) << 3 | (host & 7)));
        if (host == S1)
            emit_store(&t->e, S1, gpr_offset(guest));
    }
}
