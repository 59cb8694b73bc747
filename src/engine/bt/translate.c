/* SPDX-License-Identifier: MIT */
/*
 * One unit: from the guest's bytes to host code. A unit is straight-line code within one page, with
 * side exits at conditional jumps; it ends at an unconditional transfer, at what the interpreter
 * must run and what may change anything, at the page's end, or after BT_UNIT_INSNS instructions.
 *
 * Flags. Checks and polls destroy RFLAGS. The guest's flags are therefore in one of two places:
 * RFLAGS, after an instruction that wrote them, or local->flags. They are saved (PUSHFQ, cheap)
 * before the first thing that destroys them, and brought back (SAHF) only for an instruction that
 * reads them: so they are exact at every fault and interrupt, though most are never read. Units can
 * be entered with flags in either place; an exit says in which they are.
 *
 * Layout: [enter_host: save flags] enter_saved: body, exits; then what is seldom run: side exits,
 * misses, enter_crossing.
 */
#include "engine/bt/translate.h"

#include <errno.h>
#include <stdlib.h>

struct bt_scratch *bt_scratch_create(void)
{
    return calloc(1, sizeof(struct bt_scratch));
}

/* ---- flags ---- */

static void put_save_flags(struct emit *e)
{
    EMIT(e, 0x9c); /* pushfq; pop %gs:flags */
    EMIT(e, 0x65, 0x8f, 0x04, 0x25);
    emit_u32(e, LOCAL_OFFSET(flags));
}

void tr_save_flags(struct translation *t)
{
    if (t->host && !t->saved) {
        put_save_flags(&t->e);
        t->saved = true;
    }
}

/* OF by an addition that overflows when it was set, the others by SAHF. */
static void put_host_flags(struct emit *e)
{
    emit_store(e, RAX, LOCAL_OFFSET(temp[2]));
    EMIT(e, 0x65, 0x0f, 0xb6, 0x04, 0x25); /* movzbl %gs:flags+1, %eax */
    emit_u32(e, LOCAL_OFFSET(flags) + 1);
    EMIT(e, 0x24, 0x08, 0x04, 0x78); /* and $8, %al; add $0x78, %al */
    EMIT(e, 0x65, 0x8a, 0x24, 0x25); /* mov %gs:flags, %ah */
    emit_u32(e, LOCAL_OFFSET(flags));
    EMIT(e, 0x9e); /* sahf */
    emit_load(e, RAX, LOCAL_OFFSET(temp[2]));
}

void tr_host_flags(struct translation *t)
{
    if (!t->host) {
        put_host_flags(&t->e);
        t->host = true;
    }
}

/* ---- marks, counts ---- */

void tr_mark(struct translation *t)
{
    t->s->marks[t->mark_count++] = (struct bt_mark){
        .host = (uint32_t)(t->e.at - t->u->code),
        .rip = t->i->offset,
        .count = (uint8_t)t->uncounted,
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

/* ---- ways out ---- */

static void put_compare_requests(struct emit *e)
{
    EMIT(e, 0x65, 0x83, 0x3c, 0x25); /* cmpl $0, %gs:requests */
    emit_u32(e, VCPU_OFFSET(requests));
    EMIT(e, 0);
}

static void put_to_indirect(struct translation *t, uint64_t target)
{
    emit_mov_constant(&t->e, S0, target);
    emit_jmp_to(&t->e, t->vm->stubs.indirect);
}

/* Leaves for `target` when something is pending. RFLAGS survives if the flags are not saved. */
static void put_poll(struct translation *t, uint64_t target)
{
    struct emit *e = &t->e;
    if (t->vm->counting)
        tr_save_flags(t);
    if (t->host && !t->saved) {
        emit_mov(e, S0, RCX);
        emit_gs(e, false, 0x8b, RCX, VCPU_OFFSET(requests));
        EMIT(e, 0x67, 0xe3, 0); /* jecxz */
        uint8_t *skip = e->at;
        emit_mov(e, RCX, S0);
        put_save_flags(e);
        put_to_indirect(t, target);
        skip[-1] = (uint8_t)(e->at - skip);
        emit_mov(e, RCX, S0);
        return;
    }
    put_compare_requests(e);
    EMIT(e, 0x74, 0); /* je */
    uint8_t *skip = e->at;
    if (t->vm->counting) {
        skip[-2] = 0x75; /* jne: out, else the limit */
        emit_load(e, S1, VCPU_OFFSET(counters.instructions));
        emit_gs(e, true, 0x3b, S1, LOCAL_OFFSET(count_limit));
        EMIT(e, 0x72, 0); /* jb */
        uint8_t *below = e->at;
        skip[-1] = (uint8_t)(e->at - skip);
        put_to_indirect(t, target);
        below[-1] = (uint8_t)(e->at - below);
    } else {
        put_to_indirect(t, target);
        skip[-1] = (uint8_t)(e->at - skip);
    }
    t->host = false;
}

static void put_exit(struct translation *t, uint64_t target)
{
    struct emit *e = &t->e;
    struct bt_exit *x = &t->s->exits[t->exit_count++];
    bool crossing = ((target ^ t->u->rip) & MEM_PAGE_MASK) != 0;

    if (crossing)
        tr_save_flags(t);
    if (crossing || target <= t->u->rip + t->i->offset || t->vm->counting || t->poll)
        put_poll(t, target);
    bool host = t->host && !t->saved;
    while (((uintptr_t)e->at & 3) != 3)
        EMIT(e, 0x90);
    *x = (struct bt_exit){.from = t->u,
                          .target = target,
                          .patch = emit_jmp(e),
                          .rip = t->i->offset,
                          .host_flags = host,
                          .crossing = crossing};
    x->unlinked = e->at;
    emit_patch(x->patch, x->unlinked);
    if (host)
        put_save_flags(e);
    EMIT(e, 0x49, 0xbb); /* mov $x, %r11; the address is put in when x has its place */
    emit_u64(e, (uint64_t)(t->exit_count - 1));
    emit_jmp_to(e, t->vm->stubs.link);
}

void tr_exit(struct translation *t, uint64_t target)
{
    tr_count(t, 0);
    put_exit(t, target);
    t->done = true;
}

void tr_side_exit(struct translation *t, unsigned condition, uint64_t target)
{
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    tr_host_flags(t);
    *c = (struct bt_cold){
        .kind = COLD_EXIT,
        .poll = t->poll,
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
    for (unsigned n = 0; n < 3; n++)
        if (c->more[n] != NULL)
            emit_patch(c->more[n], e->at);
    EMIT(e, 0x65, 0xc7, 0x04, 0x25); /* movl $undo, %gs:undo */
    emit_u32(e, LOCAL_OFFSET(undo));
    emit_u32(e, (uint32_t)c->undo);
    emit_mov_constant(e, S1, t->u->rip + c->rip);
    emit_store(e, S1, LOCAL_OFFSET(branch));
    emit_jmp_to(e, t->vm->stubs.indirect);
}

void tr_indirect(struct translation *t, int32_t undo)
{
    struct emit *e = &t->e;
    uint32_t jumps = (uint32_t)(LOCAL_OFFSET(jumps) + (t->u->key & BT_KEY_REACH) *
                                                          sizeof(((struct bt_local *)0)->jumps[0]));
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    *c = (struct bt_cold){.kind = COLD_INDIRECT, .undo = undo, .rip = t->i->offset};
    tr_save_flags(t);
    tr_count(t, 0);
    put_compare_requests(e);
    c->more[0] = emit_jcc(e, 5); /* jne */
    if (t->vm->counting) {
        emit_load(e, S1, VCPU_OFFSET(counters.instructions));
        emit_gs(e, true, 0x3b, S1, LOCAL_OFFSET(count_limit));
        c->more[1] = emit_jcc(e, 3); /* jae */
    }
    EMIT(e, 0x45, 0x89, 0xd3, 0x41, 0x81, 0xe3); /* mov %r10d, %r11d; and $…, %r11d */
    emit_u32(e, BT_JUMPS - 1);
    EMIT(e, 0x41, 0xc1, 0xe3, 4); /* shl $4, %r11d */
    emit_gs_index(e, true, 0x3b, S0, S1, jumps);
    c->more[2] = emit_jcc(e, 5);           /* jne */
    EMIT(e, 0x65, 0x42, 0xff, 0x24, 0x1d); /* jmp *%gs:jumps+8(%r11) */
    emit_u32(e, jumps + 8);
    t->done = true;
}

void tr_site(struct translation *t, const struct bt_insn *i, bool ends)
{
    struct bt_site *s = &t->s->sites[t->site_count++];
    tr_save_flags(t);
    tr_count(t, 0);
    *s = (struct bt_site){.from = t->u, .insn = i->in, .rip = insn_rip(t, i)};
    EMIT(&t->e, 0x49, 0xbb); /* mov $s, %r11 */
    emit_u64(&t->e, (uint64_t)(t->site_count - 1));
    s->patch = t->e.at - 8;
    emit_jmp_to(&t->e, t->vm->stubs.site);
    if (ends) {
        t->done = true;
        return;
    }
    s->resume = bt_exec(t->vm, t->e.at);
    t->host = false;
    t->saved = true;
}

/* ---- the seldom run part ---- */

static void put_check_cold(struct translation *t, const struct bt_cold *c)
{
    struct emit *e = &t->e;
    emit_patch(c->patch, e->at);
    t->s->marks[t->mark_count++] =
        (struct bt_mark){.host = (uint32_t)(e->at - t->u->code), .rip = c->rip, .count = c->count};
    if (c->table != 0)
        emit_gs_index(e, true, 0x2b, S0, S1, c->table);
    EMIT(e, 0x41, 0xbb); /* mov $what, %r11d */
    emit_u32(e, c->what);
    emit_call_to(e, c->stub);
    emit_jmp_to(e, c->after);
}

static void put_cold(struct translation *t)
{
    for (unsigned n = 0; n < t->cold_count; n++) {
        const struct bt_cold *c = &t->s->cold[n];
        if (c->kind != COLD_EXIT) {
            if (c->kind == COLD_CHECK)
                put_check_cold(t, c);
            else
                put_indirect_cold(t, c);
            continue;
        }
        struct bt_insn at = {.offset = c->rip};
        emit_patch(c->patch, t->e.at);
        t->i = &at;
        t->poll = c->poll;
        t->host = c->host;
        t->saved = c->saved;
        t->uncounted = c->count;
        tr_count(t, 0);
        put_exit(t, c->target);
    }
}

static void put_token_compare(struct emit *e, const struct bt_page *p)
{
    EMIT(e, 0x65, 0x81, 0x3c, 0x25); /* cmpl $token, %gs:tokens[…] */
    emit_u32(e, LOCAL_OFFSET(tokens) + 4 * ((p->linear >> 12) & (BT_TOKENS - 1)));
    emit_u32(e, p->token);
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
    if (insn_decode(&vm->decoder, INSN_MODE_64, i->bytes, INSN_LENGTH_MAX, &i->in, &i->full) ==
        INSN_OK)
        classify(vm, u->key, i);
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

/* Where the body wants the flags to be at its start. */
static void plan_entry(struct translation *t, bool *host, bool *saved)
{
    *host = *saved = false;
    for (unsigned n = 0; n < t->s->count; n++) {
        const struct bt_insn *i = &t->s->insns[n];
        if (i->kind == KIND_SKIP || i->kind == KIND_LEA || i->kind == KIND_SWAPGS)
            continue;
        if (i->kind == KIND_JCC || (i->kind == KIND_COPY && i->memory < 0 && i->flags_in)) {
            *host = true;
            return;
        }
        if (i->kind != KIND_COPY || i->memory >= 0 || i->may_fault) {
            *saved = true;
            return;
        }
        if (i->flags_all)
            return;
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

static void put_entries(struct translation *t)
{
    struct bt_unit *u = t->u;
    bool host, saved;
    plan_entry(t, &host, &saved);
    if (u->second != NULL) {
        u->enter_host = t->e.at;
        put_save_flags(&t->e);
        u->enter_saved = t->e.at;
        put_second_check(t);
        t->host = false;
        t->saved = true;
        return;
    }
    if (host) {
        u->enter_saved = t->e.at;
        put_host_flags(&t->e);
        u->enter_host = t->e.at;
    } else {
        u->enter_host = t->e.at;
        if (saved)
            put_save_flags(&t->e);
        u->enter_saved = t->e.at;
    }
    t->host = host;
    t->saved = saved;
}

static void put_insn(struct translation *t)
{
    switch (t->i->kind) {
    case KIND_SITE:
    case KIND_SITE_END:
        tr_site(t, t->i, t->i->kind == KIND_SITE_END);
        return; /* counts itself */
    case KIND_SKIP:
        break;
    case KIND_COPY:
        emit_copy(t);
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
        emit_system(t);
        break;
    default:
        emit_branch(t);
        return;
    }
    t->uncounted++;
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
    if (u->marks == NULL || u->exits == NULL || u->sites == NULL)
        return -ENOMEM;
    u->mark_count = t->mark_count;
    u->exit_count = t->exit_count;
    u->site_count = t->site_count;
    for (unsigned n = 0; n < u->exit_count; n++) {
        struct bt_exit *x = &u->exits[n];
        uint8_t *address = x->unlinked + (x->host_flags ? 9 : 0) + 2;
        memcpy(address, &x, sizeof(x));
    }
    for (unsigned n = 0; n < u->site_count; n++) {
        struct bt_site *s = &u->sites[n];
        memcpy(s->patch, &s, sizeof(s));
    }
    return 0;
}

int bt_translate(struct bt_vm *vm, struct bt_unit *u, const uint8_t *page, const uint8_t *second)
{
    struct translation t = {
        .vm = vm,
        .u = u,
        .s = vm->scratch,
        .e = {.at = u->code, .to_exec = vm->memory.exec - vm->memory.write},
    };
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
        bool shielded = n > 0 && t.s->insns[n - 1].kind == KIND_STI;
        t.poll = shielded;
        put_insn(&t);
        if (shielded && !t.done) {
            tr_count(&t, 0);
            put_poll(&t, insn_next_rip(&t, t.i));
        }
        t.poll = false;
    }
    if (!t.done) { /* on to the next page, or a unit of its own */
        const struct bt_insn *last = &t.s->insns[t.s->count - 1];
        tr_exit(&t, insn_next_rip(&t, last));
    }
    put_cold(&t);
    put_enter_crossing(&t);
    u->code_end = t.e.at;
    return keep_lists(&t);
}
