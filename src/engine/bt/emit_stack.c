/* SPDX-License-Identifier: MIT */
/* PUSH, POP, LEAVE. RSP moves after the access (SDM 2B PUSH, POP). */
#include "engine/bt/translate.h"

/* S0 = address of a push of 8 bytes, checked and folded. */
static void put_push_address(struct translation *t)
{
    tr_save_flags(t);
    emit_lea(&t->e, true, S0, GUEST_RSP, EMIT_NO_INDEX, 0, -8);
}

static void put_move_rsp(struct translation *t, int32_t by)
{
    emit_lea(&t->e, true, GUEST_RSP, GUEST_RSP, EMIT_NO_INDEX, 0, by);
}

static void put_store_s1(struct translation *t)
{
    tr_mark(t);
    EMIT(&t->e, 0x4d, 0x89, 0x1a); /* mov %r11, (%r10) */
}

static void emit_push_register(struct translation *t, unsigned guest)
{
    int host = host_of(guest);
    put_push_address(t);
    if (host >= 0) {
        tr_check(t, NULL, 8, true, false);
        tr_mark(t);
        EMIT(&t->e, emit_rex(true, (unsigned)host, S1, S0), 0x89, (uint8_t)((host & 7) << 3 | 4),
             (S1 & 7) << 3 | (S0 & 7)); /* mov host, (%r10, %r11) */
    } else {
        tr_check_fold(t, NULL, 8, true);
        emit_load(&t->e, S1, gpr_offset(guest));
        put_store_s1(t);
    }
    put_move_rsp(t, -8);
}

static void emit_push_memory(struct translation *t)
{
    tr_save_flags(t);
    tr_address(t, t->i);
    tr_check(t, t->i, 8, false, false);
    tr_mark(t);
    EMIT(&t->e, 0x4f, 0x8b, 0x14, 0x1a); /* mov (%r10, %r11), %r10 */
    emit_store(&t->e, S0, LOCAL_OFFSET(temp[0]));
    put_push_address(t);
    tr_check_fold(t, NULL, 8, true);
    emit_load(&t->e, S1, LOCAL_OFFSET(temp[0]));
    put_store_s1(t);
    put_move_rsp(t, -8);
}

static void emit_push_constant(struct translation *t, uint64_t value)
{
    put_push_address(t);
    tr_check_fold(t, NULL, 8, true);
    emit_mov_constant(&t->e, S1, value);
    put_store_s1(t);
    put_move_rsp(t, -8);
}

static void emit_pop(struct translation *t)
{
    unsigned guest = t->i->in.dst / 8;
    int host = guest == RSP ? -1 : host_of(guest);
    tr_save_flags(t);
    emit_mov(&t->e, S0, GUEST_RSP);
    tr_check(t, NULL, 8, false, false);
    tr_mark(t);
    unsigned to = host >= 0 ? (unsigned)host : S0;
    EMIT(&t->e, emit_rex(true, to, S1, S0), 0x8b, (uint8_t)((to & 7) << 3 | 4),
         (S1 & 7) << 3 | (S0 & 7)); /* mov (%r10, %r11), to */
    if (guest == RSP) {
        emit_mov(&t->e, GUEST_RSP, S0);
        return;
    }
    if (host < 0)
        emit_store(&t->e, S0, gpr_offset(guest));
    put_move_rsp(t, 8);
}

static void emit_leave(struct translation *t)
{
    tr_save_flags(t);
    emit_mov(&t->e, S0, RBP);
    tr_check(t, NULL, 8, false, false);
    tr_mark(t);
    EMIT(&t->e, 0x4f, 0x8b, 0x14, 0x1a); /* mov (%r10, %r11), %r10 */
    emit_lea(&t->e, true, GUEST_RSP, RBP, EMIT_NO_INDEX, 0, 8);
    emit_mov(&t->e, RBP, S0);
}

void emit_stack(struct translation *t)
{
    const struct bt_insn *i = t->i;
    switch (i->kind) {
    case KIND_POP:
        emit_pop(t);
        break;
    case KIND_LEAVE:
        emit_leave(t);
        break;
    default:
        if (i->in.form == FORM_R)
            emit_push_register(t, i->in.dst / 8);
        else if (i->in.form == FORM_M)
            emit_push_memory(t);
        else
            emit_push_constant(t, i->in.imm);
        break;
    }
}
