/* SPDX-License-Identifier: MIT */
/*
 * The guest's arithmetic flags. What destroys RFLAGS, a check or a poll, must leave them somewhere:
 *
 *  - saved in local->flags (LAHF, SETO), and brought back only for an instruction that reads them;
 *  - or nowhere, when they can be made again from registers by the instruction that made them (the
 *    maker) until another writes them all. Then only the seldom run part makes and saves them.
 *
 * So they are exact at every fault and interrupt, though most are never looked at.
 */
#include "engine/bt/translate.h"

void tr_put_save(struct emit *e)
{
    emit_mov(e, S0, RAX);
    EMIT(e, 0x9f, 0x0f, 0x90, 0xc0);       /* lahf; seto %al */
    EMIT(e, 0x66, 0x65, 0x89, 0x04, 0x25); /* mov %ax, %gs:flags */
    emit_u32(e, LOCAL_OFFSET(flags));
    emit_mov(e, RAX, S0);
}

/* OF by an addition that overflows when it was set, the others by SAHF. */
void tr_put_restore(struct emit *e)
{
    emit_store(e, RAX, LOCAL_OFFSET(temp[2]));
    EMIT(e, 0x65, 0x0f, 0xb7, 0x04, 0x25); /* movzwl %gs:flags, %eax */
    emit_u32(e, LOCAL_OFFSET(flags));
    EMIT(e, 0x04, 0x7f, 0x9e); /* add $0x7f, %al; sahf */
    emit_load(e, RAX, LOCAL_OFFSET(temp[2]));
}

/* ---- making them again ---- */

static bool is_plain_register(const ZydisDecodedOperand *o)
{
    if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return false;
    unsigned g = bt_gpr_number(o->reg.value);
    bool high = ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_GPR8 &&
                ZydisRegisterGetId(o->reg.value) >= 4 && ZydisRegisterGetId(o->reg.value) < 8;
    return g != BT_NO_GPR && host_of(g) >= 0 && !high;
}

bool tr_can_remake(const struct bt_insn *i)
{
    const ZydisDecodedOperand *o = i->full->operands;
    if (i->kind != KIND_COPY || i->memory >= 0 || !i->flags_all || !is_plain_register(&o[0]))
        return false;
    bool immediate = o[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (!immediate && !is_plain_register(&o[1]))
        return false;
    bool same = !immediate && o[0].reg.value == o[1].reg.value;
    switch (i->full->insn.mnemonic) {
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
        return true;
    case ZYDIS_MNEMONIC_ADD: /* the first operand before it is the second taken off the result */
    case ZYDIS_MNEMONIC_SUB:
        return o[0].size >= 32 && !same;
    default:
        return false;
    }
}

static uint16_t bit_of(const ZydisDecodedOperand *o)
{
    unsigned g = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? bt_gpr_number(o->reg.value) : BT_NO_GPR;
    return g != BT_NO_GPR ? (uint16_t)(1u << g) : 0;
}

static uint16_t registers_of(const struct bt_insn *i)
{
    return bit_of(&i->full->operands[0]) | bit_of(&i->full->operands[1]);
}

static unsigned host_register(const ZydisDecodedOperand *o)
{
    return (unsigned)host_of(bt_gpr_number(o->reg.value));
}

/* opcode $imm, to (group 1), or opcode reg, to: with the second operand. */
static void put_group1(struct emit *e, const struct bt_insn *i, unsigned operation, unsigned to)
{
    const ZydisDecodedOperand *from = &i->full->operands[1];
    bool w = i->full->operands[0].size == 64;
    if (from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        EMIT(e, emit_rex(w, 0, 0, to), 0x81, (uint8_t)(0xc0 | operation << 3 | (to & 7)));
        emit_u32(e, (uint32_t)i->in.imm);
        return;
    }
    unsigned r = host_register(from);
    EMIT(e, emit_rex(w, r, 0, to), (uint8_t)(operation << 3 | 1),
         (uint8_t)(0xc0 | (r & 7) << 3 | (to & 7)));
}
enum { GROUP1_ADD = 0, GROUP1_SUB = 5, GROUP1_CMP = 7 };

/* S1 = what the first operand was: then the same once more, in S1. */
static void put_sum_again(struct emit *e, const struct bt_insn *i, bool add)
{
    const ZydisDecodedOperand *o = i->full->operands;
    emit_mov(e, S1, host_register(&o[0]));
    put_group1(e, i, add ? GROUP1_SUB : GROUP1_ADD, S1);
    put_group1(e, i, add ? GROUP1_ADD : GROUP1_CMP, S1);
}

/* AND, OR and XOR leave what TEST of their result leaves (SDM 1 A.1; AF is cleared by all). */
static void put_test(struct emit *e, const ZydisDecodedOperand *o)
{
    unsigned r = host_register(o);
    uint8_t rex = emit_rex(o->size == 64, r, 0, r);
    if (o->size == 16)
        EMIT(e, 0x66);
    EMIT(e, rex, o->size == 8 ? 0x84 : 0x85, (uint8_t)(0xc0 | (r & 7) << 3 | (r & 7)));
}

void tr_put_remake(struct emit *e, const struct bt_insn *i)
{
    uint8_t map[16];
    switch (i->full->insn.mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        put_sum_again(e, i, i->full->insn.mnemonic == ZYDIS_MNEMONIC_ADD);
        break;
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
        for (unsigned g = 0; g < 16; g++)
            map[g] = (uint8_t)host_of(g);
        rewrite_emit(e, i, NULL, map);
        break;
    default:
        put_test(e, &i->full->operands[0]);
        break;
    }
}

/* ---- where they are ---- */

static void remake(struct translation *t)
{
    tr_put_remake(&t->e, t->maker);
    t->in_s1 = 0;
    t->host = true;
}

void tr_save_flags(struct translation *t)
{
    if (t->saved)
        return;
    if (!t->host)
        remake(t);
    tr_put_save(&t->e);
    t->saved = true;
}

/* From `i` on the next that has to do with them writes them all: nothing before that may leave,
 * fault or look. */
static bool are_dead(const struct translation *t, const struct bt_insn *i)
{
    const struct bt_insn *end = t->s->insns + t->s->count;
    for (; i < end; i++) {
        bool quiet = i->kind == KIND_SKIP || i->kind == KIND_LEA ||
                     (i->kind == KIND_COPY && i->memory < 0 && !i->may_fault && i->plan.possible);
        if (!quiet || i->flags_read)
            return false;
        if (i->flags_all)
            return true;
    }
    return false;
}

/* It only leaves some, as AMD's IMUL does. */
bool tr_flags_are_dead(const struct translation *t)
{
    return !t->i->flags_read && t->i->flags_out && are_dead(t, t->i + 1);
}

void tr_host_flags(struct translation *t)
{
    if (t->host)
        return;
    if (t->saved)
        tr_put_restore(&t->e);
    else
        remake(t);
    t->host = true;
}

/* Between the instruction under way and the next that writes them all: nothing that leaves, faults
 * or changes what they are made from; or after the change nobody asks. */
static bool can_be_left(const struct translation *t)
{
    const struct bt_insn *end = t->s->insns + t->s->count;
    if (t->maker == NULL)
        return false;
    for (const struct bt_insn *i = t->i; i < end; i++) {
        bool plain = i->kind == KIND_COPY || i->kind == KIND_LEA || i->kind == KIND_PUSH ||
                     i->kind == KIND_POP || i->kind == KIND_SKIP;
        if (i->kind == KIND_JCC)
            continue;
        if (!plain || i->may_fault || (i->flags_in && i->memory >= 0) ||
            (i->kind == KIND_COPY && !i->plan.possible))
            return false;
        if (i->kind == KIND_COPY && (i->flags_all || (i->flags_in && i->flags_out)))
            return true;
        if (i->writes & registers_of(t->maker))
            return are_dead(t, i + 1);
    }
    return false;
}

void tr_leave_flags(struct translation *t)
{
    if (!t->saved && !(t->host && can_be_left(t)) && !(!t->host && t->maker != NULL))
        tr_save_flags(t);
    t->host = false;
}

void tr_flags_written(struct translation *t, const struct bt_insn *i)
{
    t->host = true;
    t->saved = false;
    t->maker = tr_can_remake(i) ? i : NULL;
}

void tr_flags_stay(struct translation *t, const struct bt_insn *i)
{
    if (t->maker != NULL && t->maker != i && (i->writes & registers_of(t->maker)))
        t->maker = NULL;
}

/* In the seldom run part: S0 is kept. */
void tr_put_save_cold(struct emit *e, const struct bt_insn *maker)
{
    tr_put_remake(e, maker);
    emit_store(e, RAX, LOCAL_OFFSET(temp[2]));
    EMIT(e, 0x9f, 0x0f, 0x90, 0xc0);       /* lahf; seto %al */
    EMIT(e, 0x66, 0x65, 0x89, 0x04, 0x25); /* mov %ax, %gs:flags */
    emit_u32(e, LOCAL_OFFSET(flags));
    emit_load(e, RAX, LOCAL_OFFSET(temp[2]));
}
