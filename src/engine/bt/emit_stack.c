/* SPDX-License-Identifier: MIT */
/*
 * PUSH, POP, LEAVE. RSP moves after the access (SDM 2B PUSH, POP). Moves are summed up, and R15
 * follows when somebody may look: another unit, C code, an instruction with RSP as a register.
 * Addresses take the sum into their displacement; the seldom run part adds it and takes it off
 * again; where the host may fault, marks have it.
 */
#include "engine/bt/translate.h"

void tr_move_rsp(struct translation *t, int32_t by)
{
    t->rsp += by;
}

void tr_settle_rsp(struct translation *t)
{
    if (t->rsp != 0)
        emit_lea(&t->e, !t->code32, GUEST_RSP, GUEST_RSP, EMIT_NO_INDEX, 0, t->rsp);
    t->rsp = 0;
}

struct tr_operand tr_pushed(struct translation *t)
{
    struct tr_address a = tr_stack(-t->word);
    return tr_access(t, &a, t->word, true, 0);
}

void tr_store_constant(struct translation *t, struct tr_operand o, uint64_t value)
{
    if (t->code32 || (uint64_t)(int64_t)(int32_t)value == value) {
        tr_mark(t);
        emit_memory(&t->e, !t->code32, 0xc7, 0, &o); /* mov $imm32 */
        emit_u32(&t->e, (uint32_t)value);
        return;
    }
    unsigned scratch = tr_free_scratch(t, &o);
    emit_mov_constant(&t->e, scratch, value);
    tr_mark(t);
    emit_memory(&t->e, true, 0x89, scratch, &o);
}

void tr_store_linear(struct translation *t, struct tr_operand o, uint64_t linear)
{
    if (t->code32 || (uint64_t)(int64_t)(int32_t)linear == linear) {
        tr_store_constant(t, o, linear);
        return;
    }
    unsigned scratch = tr_free_scratch(t, &o);
    tr_put_linear(t, scratch, linear);
    tr_mark(t);
    emit_memory(&t->e, true, 0x89, scratch, &o);
}

static void emit_push_register(struct translation *t, unsigned guest)
{
    struct tr_operand o = tr_pushed(t);
    int host = host_of(guest);
    unsigned from = (unsigned)host;
    if (host < 0) {
        from = tr_free_scratch(t, &o);
        emit_load(&t->e, from, gpr_offset(guest));
    }
    tr_mark(t);
    emit_memory(&t->e, !t->code32, 0x89, from, &o);
}

static void emit_push_memory(struct translation *t)
{
    struct tr_address a = tr_address_of(t, t->i);
    struct tr_operand from = tr_access(t, &a, t->word, false, 0);
    tr_mark(t);
    emit_memory(&t->e, !t->code32, 0x8b, S0, &from);
    emit_store(&t->e, S0, LOCAL_OFFSET(temp[0]));
    struct tr_operand o = tr_pushed(t);
    unsigned scratch = tr_free_scratch(t, &o);
    emit_load(&t->e, scratch, LOCAL_OFFSET(temp[0]));
    tr_mark(t);
    emit_memory(&t->e, !t->code32, 0x89, scratch, &o);
}

static void emit_push(struct translation *t)
{
    const struct bt_insn *i = t->i;
    if (i->in.form == FORM_R)
        emit_push_register(t, i->in.dst / 8);
    else if (i->in.form == FORM_M)
        emit_push_memory(t);
    else
        tr_store_constant(t, tr_pushed(t), i->in.imm);
    tr_move_rsp(t, -t->word);
}

static void emit_pop(struct translation *t)
{
    unsigned guest = t->i->in.dst / 8;
    int host = guest == RSP ? -1 : host_of(guest);
    struct tr_address a = tr_stack(0);
    struct tr_operand o = tr_access(t, &a, t->word, false, 0);
    unsigned to = host >= 0 ? (unsigned)host : S0;
    tr_mark(t);
    emit_memory(&t->e, !t->code32, 0x8b, to, &o);
    if (guest == RSP) {
        emit_mov(&t->e, GUEST_RSP, S0);
        return;
    }
    if (host < 0)
        emit_store(&t->e, S0, gpr_offset(guest));
    tr_move_rsp(t, t->word);
}

static void emit_leave(struct translation *t)
{
    struct tr_address a = tr_stack(0);
    a.base = 8 * RBP;
    struct tr_operand o = tr_access(t, &a, t->word, false, 0);
    tr_mark(t);
    emit_memory(&t->e, !t->code32, 0x8b, S0, &o);
    emit_lea(&t->e, !t->code32, GUEST_RSP, RBP, EMIT_NO_INDEX, 0, t->word);
    emit_mov(&t->e, RBP, S0);
}

void emit_stack(struct translation *t)
{
    switch (t->i->kind) {
    case KIND_POP:
        emit_pop(t);
        break;
    case KIND_LEAVE:
        emit_leave(t);
        break;
    default:
        emit_push(t);
        break;
    }
}
