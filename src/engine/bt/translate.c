/* SPDX-License-Identifier: MIT */
/*
 * One unit: from the guest's bytes to host code. A unit is straight-line code within one page, with
 * side exits at conditional jumps; it ends at an unconditional transfer, at what the interpreter
 * must run and what may change anything, at the page's end, or after BT_UNIT_INSNS instructions.
 *
 * Units can be entered with the flags in RFLAGS or saved (flags.c); an exit says where they are.
 *
 * Layout: enter_host: save flags; enter_saved: poll; body, exits; enter_crossing; and elsewhere,
 * what is seldom run: exits that are not linked, misses. When the body wants the flags in RFLAGS
 * enter_host polls without destroying them, and enter_saved is behind the body. When the body
 * begins by writing them both entries are one, and the poll comes after that.
 */
#include "engine/bt/translate.h"

#include <errno.h>
#include <stdlib.h>

struct bt_scratch *bt_scratch_create(void)
{
    return calloc(1, sizeof(struct bt_scratch));
}

/* ---- marks, counts ---- */

static uint16_t offset_here(const struct translation *t)
{
    const struct bt_unit *u = t->u;
    if (u->code_end == NULL)
        return (uint16_t)(t->e.at - u->code);
    return (uint16_t)(u->code_end - u->code + (t->e.at - u->cold));
}

void tr_mark(struct translation *t)
{
    t->s->marks[t->mark_count++] = (struct bt_mark){
        .host = offset_here(t),
        .rip = t->i->offset,
        .count = (uint8_t)t->uncounted,
        .rsp = (int16_t)t->rsp,
        .host_flags = t->host && !t->saved,
    };
}

void tr_count(struct translation *t, unsigned extra)
{
    unsigned n = t->uncounted + extra;
    t->uncounted = 0;
    if (!t->vm->counting || n == 0)
        return;
    emit_load(&t->e, S1, VCPU_OFFSET(counters.instructions)); /* keeps the flags */
    emit_lea(&t->e, true, S1, S1, EMIT_NO_INDEX, 0, (int32_t)n);
    emit_store(&t->e, S1, VCPU_OFFSET(counters.instructions));
    t->in_s1 = 0;
}

void tr_get(struct translation *t, unsigned host, unsigned guest)
{
    int from = host_of(guest);
    if (from < 0)
        emit_load(&t->e, host, gpr_offset(guest));
    else
        emit_mov(&t->e, host, (unsigned)from);
}

void tr_put(struct translation *t, unsigned guest, unsigned host)
{
    int to = host_of(guest);
    if (to < 0)
        emit_store(&t->e, host, gpr_offset(guest));
    else
        emit_mov(&t->e, (unsigned)to, host);
}

void tr_put_linear(struct translation *t, unsigned host, uint64_t linear)
{
    emit_mov_constant(&t->e, host, linear);
    if (t->linear_count < LINEARS_MAX)
        t->s->linears[t->linear_count] = (uint16_t)(offset_here(t) - 8); /* if it is 64 bits */
    t->linear_count++;
}

/* ---- ways out ---- */

static void put_compare_requests(struct emit *e)
{
    emit_gs(e, false, 0x8b, S0, VCPU_OFFSET(requests));
    emit_gs(e, false, 0x3b, S0, LOCAL_OFFSET(held));
}

static bool is_crossing(const struct translation *t, uint64_t target)
{
    return ((target ^ t->u->rip) & MEM_PAGE_MASK) != 0;
}

static void put_to_indirect(struct translation *t, uint64_t target)
{
    tr_put_linear(t, S0, target);
    emit_jmp_to(&t->e, t->vm->stubs.indirect);
}

/* Something is pending, or the limit is near: jumps to the place that is returned, with the flags
 * saved. RFLAGS and scratch are lost. */
static uint8_t *put_poll(struct translation *t)
{
    struct emit *e = &t->e;
    put_compare_requests(e);
    if (!t->vm->counting)
        return emit_jcc(e, 5); /* jne */
    EMIT(e, 0x75, 0);          /* jne: out */
    uint8_t *requested = e->at;
    emit_load(e, S1, VCPU_OFFSET(counters.instructions));
    emit_gs(e, true, 0x3b, S1, LOCAL_OFFSET(count_limit));
    EMIT(e, 0x72, 5); /* jb: on */
    requested[-1] = (uint8_t)(e->at - requested);
    return emit_jmp(e);
}

/* The same, and RFLAGS survive. */
static uint8_t *put_poll_keeping_flags(struct emit *e)
{
    emit_mov(e, S1, RCX);
    emit_gs(e, false, 0x8b, RCX, VCPU_OFFSET(requests));
    emit_gs(e, false, 0x8b, S0, LOCAL_OFFSET(not_held));
    emit_lea(e, false, RCX, RCX, S0, 0, 1);
    EMIT(e, 0x67, 0xe3, 5 + 3); /* jecxz: on, for what is requested is what is held */
    emit_mov(e, RCX, S1);
    uint8_t *out = emit_jmp(e);
    emit_mov(e, RCX, S1);
    return out;
}

/* A displacement to come after `before` bytes of opcode within a naturally aligned quadword: it
 * will be patched by one store while others run it. */
static void align_displacement(struct emit *e, unsigned before)
{
    static const uint8_t nops[4][3] = {{0}, {0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}};
    unsigned at = ((unsigned)(uintptr_t)e->at + before) & 7, n = at > 4 ? 8 - at : 0;
    emit_bytes(e, nops[n], n);
}

/* A jump to `target` that will be linked: by a condition, 0 to 15, or */
enum { EXIT_JMP = -1, EXIT_CALL = -2 };
static void put_exit(struct translation *t, int how, uint64_t target)
{
    tr_settle_rsp(t);
    struct emit *e = &t->e;
    struct bt_exit *x = &t->s->exits[t->exit_count];
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    bool host = t->host && !t->saved;

    *c = (struct bt_cold){.kind = COLD_UNLINKED, .host = host, .exit = (uint16_t)t->exit_count++};
    *x = (struct bt_exit){
        .from = t->u, .target = target, .host_flags = host, .crossing = is_crossing(t, target)};
    align_displacement(e, how < 0 ? 1 : 2);
    x->patch = c->patch = how == EXIT_JMP    ? emit_jmp(e)
                          : how == EXIT_CALL ? emit_call(e)
                                             : emit_jcc(e, (unsigned)how);
}

void tr_exit(struct translation *t, uint64_t target)
{
    tr_count(t, 0);
    if (is_crossing(t, target) || !t->host)
        tr_save_flags(t);
    put_exit(t, EXIT_JMP, target);
    t->done = true;
}

void tr_side_exit(struct translation *t, unsigned condition, uint64_t target)
{
    tr_host_flags(t);
    if (!t->vm->counting && !(is_crossing(t, target) && !t->saved)) {
        put_exit(t, (int)condition, target);
        return;
    }
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    *c = (struct bt_cold){
        .kind = COLD_EXIT,
        .target = target,
        .host = t->host,
        .saved = t->saved,
        .rip = t->i->offset,
        .count = (uint8_t)(t->uncounted + 1),
    };
    c->patch = emit_jcc(&t->e, condition);
}

/* To the stub, from a jump that the look-up here does not serve: with where it came from, for a
 * target that is not canonical is the jump's own fault (SDM 1 3.3.7.1). */
static void put_indirect_cold(struct translation *t, const struct bt_cold *c)
{
    struct emit *e = &t->e;
    emit_patch(c->patch, e->at);
    EMIT(e, 0x65, 0xc7, 0x04, 0x25); /* movl $undo, %gs:undo */
    emit_u32(e, LOCAL_OFFSET(undo));
    emit_u32(e, (uint32_t)c->undo);
    tr_put_linear(t, S1, t->u->rip + c->rip);
    emit_store(e, S1, LOCAL_OFFSET(branch));
    emit_jmp_to(e, t->vm->stubs.indirect);
}

static void put_indirect(struct translation *t, int32_t undo, uint8_t modrm)
{
    struct emit *e = &t->e;
    unsigned reach = t->reach;
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    *c = (struct bt_cold){.kind = COLD_INDIRECT, .undo = undo, .rip = t->i->offset};
    tr_save_flags(t);
    tr_settle_rsp(t);
    tr_count(t, 0);
    c->patch = emit_jump_table(e, reach);
    EMIT(e, 0x65, 0x42, 0xff, modrm, 0x1d); /* jmp or call *%gs:jumps+8(%r11) */
    emit_u32(e, bt_jumps_offset(reach) + 8);
}

void tr_indirect(struct translation *t, int32_t undo)
{
    put_indirect(t, undo, 0x24);
    t->done = true;
}

/* ---- calls and returns: return.c ---- */

/* Room for one more on the return stack; else it is emptied. The flags have been saved. */
static void put_returns_check(struct translation *t)
{
    struct emit *e = &t->e;
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    EMIT(e, 0x65, 0x48, 0x3b, 0x24, 0x25); /* cmp %gs:limit, %rsp */
    emit_u32(e, BT_RETURNS_OFFSET(t->reach, limit));
    *c =
        (struct bt_cold){.kind = COLD_RETURNS, .reach = t->reach, .patch = emit_jcc(e, 2)}; /* jb */
    c->after = e->at;
}

/* Where the host comes back to, with the guest's return address in S0. */
static void put_return_point(struct translation *t)
{
    struct emit *e = &t->e;
    uint64_t rip = insn_next_rip(t, t->i);
    if ((uint64_t)(int64_t)(int32_t)rip == rip) {
        EMIT(e, 0x49, 0x81, 0xfa); /* cmp $rip, %r10 */
        emit_u32(e, (uint32_t)rip);
    } else {
        tr_put_linear(t, S1, rip);
        EMIT(e, 0x4d, 0x39, 0xda); /* cmp %r11, %r10 */
    }
    emit_patch(emit_jcc(e, 5), t->vm->stubs.unpaired[t->reach]); /* jne */
    t->in_s1 = 0;
    put_exit(t, EXIT_JMP, rip);
    t->done = true;
}

void tr_call(struct translation *t, uint64_t target)
{
    tr_save_flags(t);
    tr_settle_rsp(t);
    tr_count(t, 0);
    put_returns_check(t);
    t->host = false;
    put_exit(t, EXIT_CALL, target);
    put_return_point(t);
}

void tr_call_indirect(struct translation *t)
{
    tr_save_flags(t);
    put_returns_check(t);
    t->host = false;
    put_indirect(t, -t->word, 0x14);
    put_return_point(t);
}

void tr_ret(struct translation *t)
{
    struct emit *e = &t->e;
    tr_settle_rsp(t);
    tr_count(t, 0);
    EMIT(e, 0x65, 0xc7, 0x04, 0x25); /* movl $here, %gs:last_ret */
    emit_u32(e, LOCAL_OFFSET(last_ret));
    emit_u32(e, (uint32_t)(e->at - t->vm->memory.write));
    EMIT(e, 0xc3);
    t->done = true;
}

/* S1 = the record of the site; the flags are saved. */
static struct bt_site *put_site(struct translation *t, const struct bt_insn *i)
{
    struct bt_site *s = &t->s->sites[t->site_count++];
    tr_save_flags(t);
    tr_settle_rsp(t);
    tr_count(t, 0);
    *s = (struct bt_site){.from = t->u,
                          .insn = i->in,
                          .rip = insn_rip(t, i),
                          .key = (uint8_t)((t->u->key & ~BT_KEY_REACH) | t->reach)};
    EMIT(&t->e, 0x49, 0xbb); /* mov $s, %r11 */
    emit_u64(&t->e, (uint64_t)(t->site_count - 1));
    s->patch = t->e.at - 8;
    return s;
}

static void put_resume(struct translation *t, struct bt_site *s)
{
    s->resume = bt_exec(t->vm, t->e.at);
    tr_forget(t);
    t->x87 = false;
    t->whole = 0;
    t->host = false;
    t->saved = true;
}

void tr_site(struct translation *t, const struct bt_insn *i, bool ends)
{
    struct bt_site *s = put_site(t, i);
    emit_jmp_to(&t->e, t->vm->stubs.site);
    if (ends)
        t->done = true;
    else
        put_resume(t, s);
}

void tr_string(struct translation *t, const struct bt_insn *i)
{
    static const uint8_t log2_of[9] = {[1] = 0, [2] = 1, [4] = 2, [8] = 3};
    const ZydisDecodedOperand *o = &i->full->operands[0]; /* ES:RDI */
    enum bt_string kind =
        i->full->operands[1].type == ZYDIS_OPERAND_TYPE_MEMORY ? BT_MOVS : BT_STOS;
    struct bt_site *s = put_site(t, i);
    s->string = true;
    emit_call_to(&t->e, t->vm->stubs.strings[t->code32][t->reach][kind][log2_of[o->size / 8]]);
    put_resume(t, s);
}

/* ---- the seldom run part ---- */

/* S0 = the lowest address of the span; to the place that is returned when it crosses pages. */
static uint8_t *put_span_compare(struct translation *t, const struct bt_cold *c)
{
    struct emit *e = &t->e;
    emit_lea(e, !t->code32, S1, S0, EMIT_NO_INDEX, 0, (int32_t)c->span - 1);
    EMIT(e, 0x4d, 0x31, 0xd3); /* xor %r10, %r11 */
    EMIT(e, 0x49, 0xf7, 0xc3); /* test $…, %r11 */
    emit_u32(e, (uint32_t)MEM_PAGE_MASK);
    return emit_jcc(e, 5); /* jne */
}

/* The same instruction in a unit where each access is checked by itself. */
static void put_alone_exit(struct translation *t, const struct bt_cold *c)
{
    struct bt_insn at = {.offset = c->rip};
    t->i = &at;
    t->host = false;
    t->saved = true;
    t->uncounted = c->count;
    tr_count(t, 0);
    put_exit(t, EXIT_JMP, insn_rip(t, &at));
    t->s->exits[t->exit_count - 1].alone = true;
}

static void move_rsp(struct translation *t, int32_t by)
{
    if (by != 0)
        emit_lea(&t->e, !t->code32, GUEST_RSP, GUEST_RSP, EMIT_NO_INDEX, 0, by);
}

static void put_check_cold(struct translation *t, const struct bt_cold *c)
{
    struct emit *e = &t->e;
    uint8_t *crosses = NULL;
    emit_patch(c->patch, e->at);
    t->s->marks[t->mark_count++] =
        (struct bt_mark){.host = offset_here(t), .rip = c->rip, .count = c->count};
    move_rsp(t, c->rsp);
    if (c->table != 0)
        emit_gs_index(e, true, 0x2b, S0, S1, c->table);
    if (c->maker != NULL)
        tr_put_save_cold(e, c->maker);
    if (c->form == CHECK_OF_OFFSET)
        emit_gs(e, true, 0x2b, S0, c->slot);
    else if (c->form == CHECK_OF_CONSTANT)
        emit_mov_constant(e, S0, c->target);
    else if (c->back != 0)
        emit_lea(e, !t->code32, S0, S0, EMIT_NO_INDEX, 0, -c->back);
    if (c->span != 0)
        crosses = put_span_compare(t, c);
    if (c->back != 0)
        emit_lea(e, !t->code32, S0, S0, EMIT_NO_INDEX, 0, c->back);
    EMIT(e, 0x41, 0xbb); /* mov $what, %r11d */
    emit_u32(e, c->what);
    emit_call_to(e, c->stub);
    move_rsp(t, -c->rsp);
    emit_jmp_to(e, c->after);
    if (crosses != NULL) {
        emit_patch(crosses, e->at);
        put_alone_exit(t, c);
    }
}

/* Asks for the target; the link will lead past this. */
static void put_unlinked(struct translation *t, const struct bt_cold *c)
{
    struct emit *e = &t->e;
    struct bt_exit *x = &t->s->exits[c->exit];
    x->unlinked = e->at;
    emit_patch(c->patch, e->at);
    if (c->host)
        tr_put_save(e);
    EMIT(e, 0x49, 0xbb); /* mov $x, %r11; the address is put in when x has its place */
    emit_u64(e, c->exit);
    emit_jmp_to(e, t->vm->stubs.link);
}

/* What a side exit has to do before it leaves. */
static void put_side_exit(struct translation *t, const struct bt_cold *c)
{
    struct bt_insn at = {.offset = c->rip};
    emit_patch(c->patch, t->e.at);
    t->i = &at;
    t->host = c->host;
    t->saved = c->saved;
    t->uncounted = c->count;
    tr_exit(t, c->target);
}

static void put_poll_cold(struct translation *t, const struct bt_cold *c)
{
    emit_patch(c->patch, t->e.at);
    if (c->maker != NULL)
        tr_put_save_cold(&t->e, c->maker);
    put_to_indirect(t, c->target);
}

static void put_returns_cold(struct translation *t, const struct bt_cold *c)
{
    struct emit *e = &t->e;
    emit_patch(c->patch, e->at);
    EMIT(e, 0x65, 0x48, 0x8b, 0x24, 0x25); /* mov %gs:base, %rsp */
    emit_u32(e, BT_RETURNS_OFFSET(c->reach, base));
    emit_jmp_to(e, c->after);
}

/* CLAC without SMAP: the reach stays as it is, and what the code goes on with is another unit's. */
static void put_no_smap(struct translation *t, const struct bt_cold *c)
{
    emit_patch(c->patch, t->e.at);
    tr_put_ac(&t->e, false);
    t->uncounted = c->count;
    tr_count(t, 0);
    put_to_indirect(t, c->target);
}

static void put_x87_cold(struct translation *t, const struct bt_cold *c)
{
    emit_patch(c->patch, t->e.at);
    emit_call_to(&t->e, t->vm->stubs.x87);
    emit_jmp_to(&t->e, c->after);
}

/* The list grows meanwhile. */
static void put_cold(struct translation *t)
{
    for (unsigned n = 0; n < t->cold_count; n++) {
        const struct bt_cold c = t->s->cold[n];
        switch (c.kind) {
        case COLD_CHECK:
            put_check_cold(t, &c);
            break;
        case COLD_INDIRECT:
            put_indirect_cold(t, &c);
            break;
        case COLD_UNLINKED:
            put_unlinked(t, &c);
            break;
        case COLD_EXIT:
            put_side_exit(t, &c);
            break;
        case COLD_RETURNS:
            put_returns_cold(t, &c);
            break;
        case COLD_POLL:
            put_poll_cold(t, &c);
            break;
        case COLD_NO_SMAP:
            put_no_smap(t, &c);
            break;
        case COLD_X87:
            put_x87_cold(t, &c);
            break;
        }
    }
}

void bt_put_token(uint8_t *at, const struct bt_page *p)
{
    struct emit e = {.at = at};
    EMIT(&e, 0x65, 0x81, 0x3c, 0x25); /* cmpl $token, %gs:tokens[…] */
    emit_u32(&e, LOCAL_OFFSET(tokens) + 4 * ((p->linear >> 12) & (BT_TOKENS - 1)));
    emit_u32(&e, p->token);
}

static void put_token_compare(struct emit *e, const struct bt_page *p)
{
    bt_put_token(e->at, p);
    e->at += 12;
}

static void put_enter_crossing(struct translation *t)
{
    struct emit *e = &t->e;
    struct bt_unit *u = t->u;
    u->enter_crossing = e->at;
    put_token_compare(e, u->page);
    emit_patch(emit_jcc(e, 4), u->enter_saved); /* je */
    put_to_indirect(t, u->rip);
}

/* ---- decoding and planning ---- */

static bool ends_unit(const struct bt_insn *i)
{
    switch (i->kind) {
    case KIND_SITE_END:
    case KIND_JMP:
    case KIND_CALL:
    case KIND_JMP_INDIRECT:
    case KIND_CALL_INDIRECT:
    case KIND_RET:
        return true;
    default:
        return false;
    }
}

static void classify_all(const struct bt_vm *vm, uint8_t key, struct bt_insn *i)
{
    classify(vm, key, i);
    bt_plan(i);
    bt_effects(i);
}

bool tr_is_shielded(const struct translation *t)
{
    return t->i > t->s->insns && t->i[-1].kind == KIND_STI;
}

static bool after_sti(const struct bt_scratch *s)
{
    return s->count > 0 && s->insns[s->count - 1].kind == KIND_STI;
}

/* The one instruction of a unit with a second page. */
static void decode_crossing(struct bt_vm *vm, const struct bt_unit *u, const uint8_t *page,
                            const uint8_t *second)
{
    struct bt_scratch *s = vm->scratch;
    struct bt_insn *i = &s->insns[0];
    unsigned left = MEM_PAGE_SIZE - (u->rip & 0xfff);

    memcpy(i->copy, page + MEM_PAGE_SIZE - left, left);
    memcpy(i->copy + left, second, INSN_LENGTH_MAX - left);
    i->bytes = i->copy;
    i->offset = 0;
    i->full = &s->full[0];
    if (insn_decode(&vm->decoder, bt_key_decodes(u->key), i->bytes, INSN_LENGTH_MAX, &i->in,
                    &s->full[0]) == INSN_OK)
        classify_all(vm, u->key, i);
    else
        *i = (struct bt_insn){.kind = KIND_SITE_END, .memory = -1};
    s->count = 1;
    s->ends = ends_unit(i);
}

static void decode(struct bt_vm *vm, const struct bt_unit *u, const uint8_t *page)
{
    struct bt_scratch *s = vm->scratch;
    unsigned offset = u->rip & 0xfff, first = offset;

    s->count = 0;
    s->ends = false;
    /* One more after STI: what it shields belongs to its unit. */
    while ((s->count < BT_UNIT_INSNS || (s->count == BT_UNIT_INSNS && after_sti(s))) &&
           offset < MEM_PAGE_SIZE && !s->ends) {
        struct bt_insn *i = &s->insns[s->count];
        i->offset = (uint16_t)(offset - first);
        if (!bt_decode(vm, u->key, page + offset, MEM_PAGE_SIZE - offset, i)) {
            if (s->count == 0) { /* by the interpreter, whatever it is */
                *i = (struct bt_insn){.kind = KIND_SITE_END, .memory = -1};
                s->count = 1;
                s->ends = true;
            }
            return;
        }
        s->count++;
        s->ends = ends_unit(i);
        offset += i->in.length;
    }
}

/* Where the body wants the flags to be at its start: in RFLAGS, or saved. Neither: an instruction
 * before all checks writes them all, and can make them again at a poll behind it; `poll_behind`. */
static void plan_entry(struct translation *t, bool *host, bool *saved)
{
    *host = *saved = false;
    for (unsigned n = 0; n < t->s->count; n++) {
        const struct bt_insn *i = &t->s->insns[n];
        if (i->kind == KIND_SKIP || i->kind == KIND_LEA)
            continue;
        *host = i->kind == KIND_JCC || (i->kind == KIND_COPY && i->memory < 0 && i->flags_in);
        if (*host)
            return;
        if (i->kind != KIND_COPY || i->memory >= 0 || i->may_fault || !i->plan.possible)
            break;
        if (i->flags_all) {
            if (!tr_can_remake(i) || t->vm->counting || t->u->second != NULL)
                break;
            t->poll_behind = i;
            return;
        }
    }
    *saved = true;
}

/* Before anything of a unit with a second page: is it mapped where it was? */
static void put_second_check(struct translation *t)
{
    const struct bt_page *p = t->u->second;
    put_token_compare(&t->e, p);
    EMIT(&t->e, 0x74, 0); /* je */
    uint8_t *skip = t->e.at;
    emit_mov_constant(&t->e, S0, t->u->rip);
    emit_jmp_to(&t->e, t->vm->stubs.find);
    skip[-1] = (uint8_t)(t->e.at - skip);
}

/* Every entry looks whether something is pending, so no exit has to. */
static void put_entries(struct translation *t)
{
    struct bt_unit *u = t->u;
    struct emit *e = &t->e;
    bool host, saved;
    plan_entry(t, &host, &saved);
    if (t->poll_behind != NULL) {
        u->enter_host = u->enter_saved = e->at;
        return;
    }
    if (host && u->second == NULL && !t->vm->counting) {
        u->enter_host = e->at;
        t->poll = put_poll_keeping_flags(e);
        t->host = true;
        t->body = e->at;
        return; /* enter_saved is put_entry_saved's */
    }
    u->enter_host = e->at;
    tr_put_save(e);
    u->enter_saved = e->at;
    t->poll = put_poll(t);
    if (u->second != NULL)
        put_second_check(t);
    t->saved = true;
    if (host)
        tr_host_flags(t);
}

/* The entry's, behind the instruction that wrote the flags. */
static void put_poll_behind(struct translation *t)
{
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    const struct bt_insn *i = t->i;
    t->i = i + 1; /* what is next, for the flags */
    tr_leave_flags(t);
    t->i = i;
    *c = (struct bt_cold){.kind = COLD_POLL,
                          .patch = put_poll(t),
                          .maker = t->saved ? NULL : t->maker,
                          .target = insn_next_rip(t, i)};
}

/* Of a body that wants the flags in RFLAGS. */
static void put_entry_saved(struct translation *t)
{
    struct emit *e = &t->e;
    if (t->body == NULL)
        return;
    t->u->enter_saved = e->at;
    t->poll_saved = put_poll(t);
    tr_put_restore(e);
    emit_jmp_to(e, t->body);
}

/* Where the entries' polls lead out. */
static void put_entries_cold(struct translation *t)
{
    struct emit *e = &t->e;
    if (t->poll_behind != NULL)
        return;
    emit_patch(t->poll, e->at);
    if (t->body != NULL) {
        tr_put_save(e);
        emit_patch(t->poll_saved, e->at);
    }
    put_to_indirect(t, t->u->rip);
}

/* Behind what STI shielded. */
static void put_poll_after_shield(struct translation *t)
{
    tr_save_flags(t);
    tr_settle_rsp(t);
    tr_count(t, 0);
    uint8_t *out = put_poll(t), *on = emit_jmp(&t->e);
    emit_patch(out, t->e.at);
    put_to_indirect(t, insn_next_rip(t, t->i));
    emit_patch(on, t->e.at);
    t->host = false;
}

/* Those that leave S1 as it is, or say what is in it. */
static bool keeps_s1(const struct bt_insn *i)
{
    return i->kind == KIND_COPY || i->kind == KIND_LEA || i->kind == KIND_PUSH ||
           i->kind == KIND_POP || i->kind == KIND_SKIP || i->kind == KIND_JCC ||
           i->kind == KIND_X87;
}

static void emit_insn(struct translation *t)
{
    switch (t->i->kind) {
    case KIND_SITE:
    case KIND_SITE_END:
        tr_site(t, t->i, t->i->kind == KIND_SITE_END);
        return; /* counts itself */
    case KIND_STRING:
        if (t->vm->counting) /* each iteration, which the interpreter does */
            tr_site(t, t->i, false);
        else
            tr_string(t, t->i);
        return;
    case KIND_SKIP:
        break;
    case KIND_COPY:
        emit_copy(t);
        return;
    case KIND_X87:
        emit_x87(t);
        return;
    case KIND_LEA:
        emit_lea_insn(t);
        break;
    case KIND_PUSH:
    case KIND_POP:
    case KIND_LEAVE:
        emit_stack(t);
        break;
    case KIND_CLI:
    case KIND_STI:
    case KIND_CLD:
    case KIND_SWAPGS:
    case KIND_PUSHF:
    case KIND_SMAP:
        emit_system(t);
        break;
    default:
        emit_branch(t);
        return;
    }
    t->uncounted++;
}

/* Those that take what RSP has moved by into account, for they have it in addresses alone. */
static bool keeps_rsp(const struct bt_insn *i)
{
    bool plain = i->kind == KIND_COPY || i->kind == KIND_LEA || i->kind == KIND_PUSH ||
                 i->kind == KIND_POP || i->kind == KIND_CALL || i->kind == KIND_RET ||
                 i->kind == KIND_X87;
    if (i->memory >= 0 && i->in.disp != (int16_t)i->in.disp)
        return false; /* the sum might not be a displacement */
    return i->kind == KIND_SKIP || (plain && !i->has_rsp);
}

static void put_insn(struct translation *t)
{
    if (!keeps_rsp(t->i))
        tr_settle_rsp(t);
    if (!keeps_s1(t->i))
        t->in_s1 = 0;
    emit_insn(t);
    if (!keeps_s1(t->i))
        t->in_s1 = 0;
    tr_wrote(t, t->i);
    tr_flags_stay(t, t->i);
}

/* ---- the lists that stay ---- */

static void *keep(struct bt_vm *vm, const void *from, unsigned count, size_t size)
{
    void *p = bt_allocate(vm, count * size);
    if (p != NULL)
        memcpy(p, from, count * size);
    return p;
}

static int keep_lists(struct translation *t)
{
    struct bt_unit *u = t->u;
    u->marks = keep(t->vm, t->s->marks, t->mark_count, sizeof(*u->marks));
    u->exits = keep(t->vm, t->s->exits, t->exit_count, sizeof(*u->exits));
    u->sites = keep(t->vm, t->s->sites, t->site_count, sizeof(*u->sites));
    u->linears = keep(t->vm, t->s->linears, u->movable ? t->linear_count : 0, sizeof(*u->linears));
    if (u->marks == NULL || u->exits == NULL || u->sites == NULL || u->linears == NULL)
        return -ENOMEM;
    u->mark_count = t->mark_count;
    u->exit_count = t->exit_count;
    u->site_count = t->site_count;
    u->linear_count = t->linear_count;
    for (unsigned n = 0; n < u->exit_count; n++) {
        struct bt_exit *x = &u->exits[n];
        uint8_t *address = x->unlinked + (x->host_flags ? TR_SAVE_BYTES : 0) + 2;
        memcpy(address, &x, sizeof(x));
    }
    for (unsigned n = 0; n < u->site_count; n++) {
        struct bt_site *s = &u->sites[n];
        memcpy(s->patch, &s, sizeof(s));
    }
    return 0;
}

/* Whether all that depends on where the unit is is in `linears`, and in the lists. Not so of
 * addresses of 32 bits by RIP, and of constants that may lie in pages beside those by RIP: a check
 * may serve both. */
static bool is_movable(const struct translation *t)
{
    if (!bt_may_move(t->u->rip) || t->u->second != NULL || t->linear_count > LINEARS_MAX)
        return false;
    for (unsigned n = 0; n < t->s->count; n++) {
        const struct insn *in = &t->s->insns[n].in;
        struct tr_address a;
        if (t->s->insns[n].memory < 0)
            continue;
        a = tr_address_of(t, &t->s->insns[n]);
        if (a.by_rip ? in->address_size != 8 : bt_may_move((uint64_t)a.disp))
            return false;
    }
    return true;
}

int bt_translate(struct bt_vm *vm, struct bt_unit *u, const uint8_t *page, const uint8_t *second)
{
    struct translation t = {
        .vm = vm,
        .u = u,
        .s = vm->scratch,
        .reach = u->key & BT_KEY_REACH,
        .smap = (u->key & BT_KEY_REACH) == REACH_SUPERVISOR,
        .code32 = (u->key & BT_KEY_CODE32) != 0,
        .word = u->key & BT_KEY_CODE32 ? 4 : 8,
        .e = {.at = u->code, .to_exec = vm->memory.exec - vm->memory.write},
    };
    vm->scratch->number++;
    if (second != NULL)
        decode_crossing(vm, u, page, second);
    else
        decode(vm, u, page);
    if (after_sti(t.s)) { /* what it shields is not here: the interpreter knows how */
        t.s->insns[t.s->count - 1].kind = KIND_SITE_END;
        t.s->ends = true;
    }
    put_entries(&t);
    for (unsigned n = 0; n < t.s->count; n++) {
        t.i = &t.s->insns[n];
        put_insn(&t);
        if (t.i == t.poll_behind)
            put_poll_behind(&t);
        if (tr_is_shielded(&t) && !t.done)
            put_poll_after_shield(&t);
    }
    if (!t.done) { /* on to the next page, or a unit of its own */
        const struct bt_insn *last = &t.s->insns[t.s->count - 1];
        tr_exit(&t, insn_next_rip(&t, last));
    }
    put_entry_saved(&t);
    put_enter_crossing(&t);
    u->code_end = t.e.at;
    t.e.at = u->cold;
    put_cold(&t);
    put_entries_cold(&t);
    u->cold_end = t.e.at;
    u->movable = is_movable(&t);
    return keep_lists(&t);
}
