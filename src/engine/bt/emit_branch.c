/* SPDX-License-Identifier: MIT */
/* Transfers of control, near. The target of an indirect one is read before anything is pushed. */
#include "engine/bt/translate.h"

/* Pushes the address of the next instruction; flags have been saved. */
static void put_push_return(struct translation *t)
{
    emit_lea(&t->e, true, S0, GUEST_RSP, EMIT_NO_INDEX, 0, -8);
    tr_check_fold(t, NULL, 8, true);
    emit_mov_constant(&t->e, S1, insn_next_rip(t, t->i));
    tr_mark(t);
    EMIT(&t->e, 0x4d, 0x89, 0x1a); /* mov %r11, (%r10) */
    emit_lea(&t->e, true, GUEST_RSP, GUEST_RSP, EMIT_NO_INDEX, 0, -8);
}

/* S0 = target of JMP or CALL through a register or memory. */
static void put_target(struct translation *t)
{
    tr_save_flags(t);
    if (t->i->in.form == FORM_R) {
        tr_get(t, S0, t->i->in.dst / 8);
        return;
    }
    tr_address(t, t->i);
    tr_check(t, t->i, 8, false, false);
    tr_mark(t);
    EMIT(&t->e, 0x4f, 0x8b, 0x14, 0x1a); /* mov (%r10, %r11), %r10 */
}

static void emit_call_indirect(struct translation *t)
{
    put_target(t);
    emit_store(&t->e, S0, LOCAL_OFFSET(temp[0]));
    put_push_return(t);
    emit_load(&t->e, S0, LOCAL_OFFSET(temp[0]));
}

static int32_t emit_ret(struct translation *t)
{
    uint32_t more = t->i->in.form == FORM_I ? (uint16_t)t->i->in.imm : 0;
    tr_save_flags(t);
    emit_mov(&t->e, S0, GUEST_RSP);
    tr_check(t, NULL, 8, false, false);
    tr_mark(t);
    EMIT(&t->e, 0x4f, 0x8b, 0x14, 0x1a); /* mov (%r10, %r11), %r10 */
    emit_lea(&t->e, true, GUEST_RSP, GUEST_RSP, EMIT_NO_INDEX, 0, (int32_t)(8 + more));
    return (int32_t)(8 + more);
}

static uint64_t target_of(const struct translation *t)
{
    return insn_next_rip(t, t->i) + t->i->in.imm;
}

/* Canonical even with 48 bits; else the interpreter decides. */
static bool plainly_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

void emit_branch(struct translation *t)
{
    const struct bt_insn *i = t->i;
    int32_t undo = 0;
    bool direct = i->kind == KIND_JCC || i->kind == KIND_JMP || i->kind == KIND_CALL;
    if (direct && !plainly_canonical(target_of(t))) {
        tr_site(t, i, i->kind != KIND_JCC);
        return;
    }
    switch (i->kind) {
    case KIND_JCC:
        tr_side_exit(t, i->full.insn.opcode & 15, target_of(t));
        t->uncounted++;
        return;
    case KIND_JMP:
        t->uncounted++;
        tr_exit(t, target_of(t));
        return;
    case KIND_CALL:
        tr_save_flags(t);
        put_push_return(t);
        t->uncounted++;
        tr_exit(t, target_of(t));
        return;
    case KIND_JMP_INDIRECT:
        put_target(t);
        break;
    case KIND_CALL_INDIRECT:
        emit_call_indirect(t);
        undo = -8;
        break;
    default:
        undo = emit_ret(t);
        break;
    }
    t->uncounted++;
    tr_indirect(t, undo);
}
