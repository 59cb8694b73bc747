/* SPDX-License-Identifier: MIT */
/* Transfers of control, near. The target of an indirect one is read before anything is pushed. */
#include "engine/bt/translate.h"

/* Pushes the address of the next instruction. */
static void put_push_return(struct translation *t)
{
    tr_store_linear(t, tr_pushed(t), insn_next_rip(t, t->i));
    tr_move_rsp(t, -t->word);
}

/* S0 = target of JMP or CALL through a register or memory. */
static void put_target(struct translation *t)
{
    if (t->i->in.form == FORM_R && t->code32) {
        emit_lea(&t->e, false, S0, (unsigned)host_of(t->i->in.dst / 8), EMIT_NO_INDEX, 0, 0);
        return;
    }
    if (t->i->in.form == FORM_R) {
        tr_get(t, S0, t->i->in.dst / 8);
        return;
    }
    struct tr_address a = tr_address_of(t, t->i);
    struct tr_operand o = tr_access(t, &a, t->word, false, 0);
    tr_mark(t);
    emit_memory(&t->e, !t->code32, 0x8b, S0, &o);
}

static void emit_call_indirect(struct translation *t)
{
    put_target(t);
    emit_store(&t->e, S0, LOCAL_OFFSET(temp[0]));
    put_push_return(t);
    tr_save_flags(t);
    emit_load(&t->e, S0, LOCAL_OFFSET(temp[0]));
}

static void emit_jmp_indirect(struct translation *t)
{
    tr_save_flags(t);
    put_target(t);
}

static void emit_ret(struct translation *t)
{
    int32_t more = t->i->in.form == FORM_I ? (uint16_t)t->i->in.imm : 0;
    struct tr_address a = tr_stack(0);
    tr_save_flags(t);
    struct tr_operand o = tr_access(t, &a, t->word, false, 0);
    tr_mark(t);
    emit_memory(&t->e, !t->code32, 0x8b, S0, &o);
    tr_move_rsp(t, t->word + more);
    t->uncounted++;
    if (t->i->in.form == FORM_I)
        tr_indirect(t, t->word + more);
    else
        tr_ret(t);
}

static uint64_t target_of(const struct translation *t)
{
    return bt_key_wrap(t->u->key, insn_next_rip(t, t->i) + t->i->in.imm);
}

/* Canonical even with 48 bits; else the interpreter decides. */
static bool plainly_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

void emit_branch(struct translation *t)
{
    const struct bt_insn *i = t->i;
    bool direct = i->kind == KIND_JCC || i->kind == KIND_JMP || i->kind == KIND_CALL;
    if (direct && !plainly_canonical(target_of(t))) {
        tr_site(t, i, i->kind != KIND_JCC);
        return;
    }
    switch (i->kind) {
    case KIND_JCC:
        tr_side_exit(t, i->full->insn.opcode & 15, target_of(t));
        t->uncounted++;
        break;
    case KIND_JMP:
        t->uncounted++;
        tr_exit(t, target_of(t));
        break;
    case KIND_CALL:
        put_push_return(t);
        t->uncounted++;
        tr_call(t, target_of(t));
        break;
    case KIND_JMP_INDIRECT:
        emit_jmp_indirect(t);
        t->uncounted++;
        tr_indirect(t, 0);
        break;
    case KIND_CALL_INDIRECT:
        emit_call_indirect(t);
        t->uncounted++;
        tr_call_indirect(t);
        break;
    default:
        emit_ret(t);
        break;
    }
}
