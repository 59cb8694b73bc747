/* SPDX-License-Identifier: MIT */
/* What each instruction does to the abstract state of the checker (SDM 2). An instruction that is
 * not known here leaves nothing known of the registers and flags that it writes. */
#include "engine/bt/check_state.h"

#define FAST_MASK ((TLB_FAST_ENTRIES - 1) << 4)

static const struct check_value any = {.kind = CHECK_ANY};

/* A constant: an address, `what`, or one of the unit's records, which only S1 brings to a stub. */
static struct check_value moved_constant(const struct check *c, uint64_t value, unsigned to)
{
    const struct bt_unit *u = c->u;
    for (unsigned n = 0; to == S1 && n < u->exit_count; n++)
        if (value == (uintptr_t)&u->exits[n])
            return (struct check_value){.kind = CHECK_EXIT, .of = CHECK_NONE, .n = n};
    for (unsigned n = 0; to == S1 && n < u->site_count; n++)
        if (value == (uintptr_t)&u->sites[n])
            return (struct check_value){.kind = CHECK_SITE, .of = CHECK_NONE, .n = n};
    return (struct check_value){.kind = CHECK_SYM,
                                .low = c->code32 && value <= UINT32_MAX,
                                .address = check_constant(value)};
}

/* `low`: of 32 bits, as in struct check_value. */
static struct check_value symbol(const struct check_address *a, bool low)
{
    return (struct check_value){.kind = CHECK_SYM, .low = low, .address = *a};
}

static struct check_value copied(const struct check_state *s, unsigned from)
{
    struct check_address a;
    if (check_is_host(&s->r[from]))
        return s->r[from];
    return check_address_of(s, from, &a) ? symbol(&a, check_is_scratch(from) && s->r[from].low)
                                         : any;
}

static struct check_value addend_of(const struct check_address *from, bool write, uint32_t n)
{
    return (struct check_value){.kind = CHECK_ADDEND, .write = write, .n = n, .address = *from};
}

/* The addend of a slot or an entry, once that is known to serve an address. */
static struct check_value addend(const struct check *c, const ZydisDecodedOperand *o,
                                 const struct check_state *s)
{
    struct check_table t;
    struct check_slot slot;
    const struct check_fact *f;
    unsigned index = check_table_index(c, o, 8, &t), of;
    if (index != CHECK_NONE && t.fast &&
        (of = check_served_by_entry(s, index, t.write)) != CHECK_NONE)
        return addend_of(&s->r[of].address, t.write, MEM_PAGE_SIZE - s->r[of].n);
    if (check_is_slot(c, o, 8, &slot) && (f = check_fact_of(s, slot.base, NULL)) != NULL)
        return addend_of(&f->from, slot.write, f->n);
    return any;
}

static struct check_value loaded(const struct check *c, const ZydisDecodedOperand *o,
                                 const struct check_state *s, unsigned bits)
{
    unsigned cell =
        check_is_gs(o) && o->mem.base == ZYDIS_REGISTER_NONE && o->mem.index == ZYDIS_REGISTER_NONE
            ? check_variable_at(o->mem.disp.value)
            : CHECK_NONE;
    struct check_address a = check_of(cell);
    if (check_is_field(o, VCPU_OFFSET(requests), 32))
        return (struct check_value){.kind = CHECK_REQUESTS, .of = CHECK_NONE};
    if (check_is_field(o, LOCAL_OFFSET(not_held), 32))
        return (struct check_value){.kind = CHECK_NOT_HELD, .of = CHECK_NONE};
    if (c->code32 && bits == 32 && cell < CHECK_TEMP)
        return symbol(&a, true);
    if (bits != 64)
        return any;
    return cell < CHECK_TEMP ? symbol(&a, false) : addend(c, o, s);
}

static struct check_value moved(const struct check *c, const struct check_insn *i,
                                const struct check_state *s, unsigned to)
{
    const ZydisDecodedOperand *o = i->operands;
    if (check_is_immediate(&o[1]))
        return moved_constant(c, o[0].size == 64 ? o[1].imm.value.u : (uint32_t)o[1].imm.value.u,
                              to);
    if (check_is_register(&o[1], 64))
        return copied(s, check_gpr(o[1].reg.value));
    if (check_is_register(&o[1], 32))
        return (struct check_value){
            .kind = CHECK_INDEX, .of = (uint8_t)check_gpr(o[1].reg.value), .n = UINT32_MAX};
    return loaded(c, &o[1], s, o[0].size);
}

static struct check_value anded(const struct check_insn *i, const struct check_value *old)
{
    uint32_t mask = (uint32_t)i->operands[1].imm.value.u;
    if (old->kind != CHECK_INDEX || old->shl != 0)
        return (struct check_value){.kind = CHECK_INDEX, .of = CHECK_NONE, .n = mask};
    struct check_value v = *old;
    v.n &= mask;
    return v;
}

static struct check_value shifted(const struct check_insn *i, const struct check_value *old)
{
    unsigned by = (unsigned)i->operands[1].imm.value.u & 31;
    struct check_value v = *old;
    if (v.kind != CHECK_INDEX || (check_bound(&v) << by) > UINT32_MAX)
        return any;
    v.shl = (uint8_t)(v.shl + by);
    return v;
}

/* By how much the instruction changes its first operand, of 64 bits, or of 32 in 32-bit code. */
static bool adds_constant(const struct check *c, const struct check_insn *i, uint64_t *by)
{
    const ZydisDecodedOperand *o = i->operands;
    if (!check_is_register(&o[0], 64) && !(c->code32 && check_is_register(&o[0], 32)))
        return false;
    switch (i->insn.mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
        *by = o[1].imm.value.u;
        return check_is_immediate(&o[1]);
    case ZYDIS_MNEMONIC_SUB:
        *by = -o[1].imm.value.u;
        return check_is_immediate(&o[1]);
    case ZYDIS_MNEMONIC_INC:
        *by = 1;
        return true;
    case ZYDIS_MNEMONIC_DEC:
        *by = UINT64_MAX;
        return true;
    case ZYDIS_MNEMONIC_MOV:
        *by = 0;
        return check_is_register(&o[1], 64) && o[1].reg.value == o[0].reg.value;
    case ZYDIS_MNEMONIC_LEA:
        *by = (uint64_t)o[1].mem.disp.value;
        return check_gpr(o[1].mem.base) == check_gpr(o[0].reg.value) &&
               o[1].mem.index == ZYDIS_REGISTER_NONE && i->insn.address_width == 64;
    default:
        return false;
    }
}

static struct check_value added(const struct check *c, const struct check_insn *i,
                                const struct check_state *s, unsigned to)
{
    struct check_table t;
    struct check_slot slot;
    struct check_address a;
    uint64_t by;
    unsigned index = check_table_index(c, &i->operands[1], 0, &t);
    if (!check_is_scratch(to) || !check_address_of(s, to, &a))
        return any;
    if (!c->code32 && adds_constant(c, i, &by)) {
        a.at += by;
        return symbol(&a, false);
    }
    if (i->insn.mnemonic != ZYDIS_MNEMONIC_ADD || !check_exact(c, s, to, &a))
        return any;
    if (index != CHECK_NONE && t.fast && check_is_index(s, index, to, 8, FAST_MASK, 0))
        return (struct check_value){.kind = CHECK_SUM,
                                    .of = (uint8_t)index,
                                    .write = t.write,
                                    .low = c->code32,
                                    .address = a};
    if (check_is_slot(c, &i->operands[1], 0, &slot))
        return (struct check_value){.kind = CHECK_SLOT_SUM,
                                    .write = slot.write,
                                    .low = c->code32,
                                    .slot = slot.base,
                                    .address = a};
    return any;
}

/* What the tag was added to. */
static struct check_value subtracted(const struct check *c, const struct check_insn *i,
                                     const struct check_state *s, unsigned to)
{
    struct check_table t;
    struct check_slot slot;
    unsigned index = check_table_index(c, &i->operands[1], 0, &t);
    struct check_value v = s->r[to];
    if ((v.kind == CHECK_OFFSET || v.kind == CHECK_SUM) && v.of == index && t.fast &&
        t.write == v.write) {
        if (v.kind == CHECK_SUM)
            return symbol(&v.address, v.low);
        v.kind = CHECK_LINEAR;
        return v;
    }
    if (v.kind == CHECK_SLOT_SUM && check_is_slot(c, &i->operands[1], 0, &slot) &&
        slot.base == v.slot)
        return symbol(&v.address, v.low);
    return added(c, i, s, to);
}

/* LEA: a sum, or a host pointer. */
static struct check_value folded(const struct check *c, const struct check_insn *i,
                                 const struct check_state *s)
{
    const ZydisDecodedOperandMem *m = &i->operands[1].mem;
    struct check_address a;
    uint32_t n;
    const struct check_value *v = check_guest(c, s, m, &n);
    if (v != NULL && v->kind == CHECK_ADDEND && n > 0)
        return (struct check_value){
            .kind = CHECK_HOST, .of = CHECK_NONE, .write = v->write, .n = n};
    return !c->code32 && i->insn.address_width == 64 && check_operand_address(s, m, CHECK_NONE, &a)
               ? symbol(&a, false)
               : any;
}

/* LEA of 32 bits in 32-bit code: a sum of that size. */
static struct check_value folded32(const struct check_insn *i, const struct check_state *s)
{
    struct check_address a;
    if (i->insn.address_width != 64 ||
        !check_operand_address(s, &i->operands[1].mem, CHECK_NONE, &a))
        return any;
    if (check_is_constant(&a))
        a.at = (uint32_t)a.at;
    return symbol(&a, true);
}

/* lea 1(requests, not_held): 0 when the one is the complement of the other. */
static struct check_value compared_requests(const struct check_insn *i, const struct check_state *s)
{
    const ZydisDecodedOperandMem *m = &i->operands[1].mem;
    unsigned base = check_gpr(m->base), index = check_gpr(m->index);
    if (base == CHECK_NONE || index == CHECK_NONE || m->scale != 1 || m->disp.value != 1 ||
        s->r[base].kind != CHECK_REQUESTS || s->r[index].kind != CHECK_NOT_HELD)
        return any;
    return (struct check_value){.kind = CHECK_NEWS, .of = CHECK_NONE};
}

static struct check_value loaded_address(const struct check *c, const struct check_insn *i,
                                         const struct check_state *s)
{
    if (i->operands[0].size == 64)
        return folded(c, i, s);
    if (i->operands[0].size != 32)
        return any;
    struct check_value v = compared_requests(i, s);
    return v.kind == CHECK_ANY && c->code32 ? folded32(i, s) : v;
}

/* xor of two addresses. */
static struct check_value spanned(const struct check *c, const struct check_insn *i,
                                  const struct check_state *s, unsigned to)
{
    struct check_address last, first;
    const ZydisDecodedOperand *o = i->operands;
    if (!check_is_register(&o[1], 64) || !check_exact(c, s, to, &last) ||
        !check_exact(c, s, check_gpr(o[1].reg.value), &first) || !check_is_near(&last, &first) ||
        last.at - first.at >= MEM_PAGE_SIZE)
        return any;
    return (struct check_value){
        .kind = CHECK_SPAN, .n = (uint32_t)(last.at - first.at) + 1, .address = first};
}

/* What the first operand, a general register, holds afterwards. */
static struct check_value result(const struct check *c, const struct check_insn *i,
                                 const struct check_state *s)
{
    const ZydisDecodedOperand *o = i->operands;
    unsigned to = check_gpr(o[0].reg.value);
    bool wide = o[0].size == 64;
    switch (i->insn.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return o[0].size >= 32 ? moved(c, i, s, to) : any;
    case ZYDIS_MNEMONIC_RORX: /* n is no bound yet, but no table has such a size */
        return wide && check_is_register(&o[1], 64) && o[2].imm.value.u == 8
                   ? (struct check_value){.kind = CHECK_INDEX,
                                          .of = (uint8_t)check_gpr(o[1].reg.value),
                                          .ror = 8,
                                          .n = UINT32_MAX}
                   : any;
    case ZYDIS_MNEMONIC_AND:
        return o[0].size == 32 && check_is_immediate(&o[1]) ? anded(i, &s->r[to]) : any;
    case ZYDIS_MNEMONIC_SHL:
        return o[0].size == 32 && check_is_immediate(&o[1]) ? shifted(i, &s->r[to]) : any;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
        return wide ? added(c, i, s, to) : any;
    case ZYDIS_MNEMONIC_SUB:
        return wide ? subtracted(c, i, s, to) : any;
    case ZYDIS_MNEMONIC_XOR:
        return wide ? spanned(c, i, s, to) : any;
    case ZYDIS_MNEMONIC_LEA:
        return loaded_address(c, i, s);
    default:
        return any;
    }
}

/* ---- comparisons ---- */

static bool is_token(const struct bt_page *p, const ZydisDecodedOperand *o, uint32_t value)
{
    uint32_t slot = LOCAL_OFFSET(tokens) + 4 * ((p->linear >> 12) & (BT_TOKENS - 1));
    return check_is_field(o, slot, 32) && value == p->token;
}

/* Which page's, or 0. */
static unsigned token_compared(const struct check *c, const ZydisDecodedOperand *o, uint32_t value)
{
    if (is_token(c->u->page, o, value))
        return CHECK_PAGE_FIRST;
    return c->u->second != NULL && is_token(c->u->second, o, value) ? CHECK_PAGE_SECOND : 0;
}

bool check_mapped(const struct check *c, const struct check_state *s)
{
    return s->mapped == (CHECK_PAGE_FIRST | (c->u->second != NULL ? CHECK_PAGE_SECOND : 0));
}

static void compared_constant(const struct check *c, const struct check_insn *i,
                              struct check_state *s)
{
    const ZydisDecodedOperand *o = i->operands;
    uint64_t n = o[1].imm.value.u;
    struct check_slot slot;
    if ((s->flags_n = token_compared(c, &o[0], (uint32_t)n)) != 0) {
        s->flags = CHECK_FLAGS_TOKEN;
    } else if (check_is_register(&o[0], 64) && n < MEM_PAGE_SIZE) {
        s->flags = CHECK_FLAGS_BELOW;
        s->flags_reg = (uint8_t)check_gpr(o[0].reg.value);
        s->flags_n = (uint32_t)n;
    } else if (check_is_slot(c, &o[0], 0, &slot) && n % MEM_PAGE_SIZE == 0) {
        s->flags = CHECK_FLAGS_SLOT;
        s->flags_n = slot.base;
        s->flags_at = -n;
    }
}

/* Behind a call: S0 against the address that belongs there, in S1 or as an immediate. */
static bool returned_to(const struct check_insn *i, struct check_state *s)
{
    const ZydisDecodedOperand *o = i->operands;
    struct check_address a;
    if (s->returned != CHECK_RETURNED || !check_is_register(&o[0], 64) ||
        check_gpr(o[0].reg.value) != S0)
        return false;
    if (check_is_immediate(&o[1]))
        a = check_constant(o[1].imm.value.u);
    else if (!check_is_register(&o[1], 64) || !check_address_of(s, check_gpr(o[1].reg.value), &a) ||
             !check_is_constant(&a))
        return false;
    s->flags = CHECK_FLAGS_RETURN;
    s->flags_at = a.at;
    return true;
}

static void compared(const struct check *c, const struct check_insn *i, struct check_state *s)
{
    const ZydisDecodedOperand *o = i->operands;
    struct check_table t;

    if (returned_to(i, s))
        return;
    if (check_is_field(&o[0], LOCAL_OFFSET(x87_live), 8) && check_is_immediate(&o[1]) &&
        o[1].imm.value.u == 0) {
        s->flags = CHECK_FLAGS_X87;
        return;
    }
    if (check_is_immediate(&o[1])) {
        compared_constant(c, i, s);
        return;
    }
    if (check_is_field(&o[1], BT_RETURNS_OFFSET(s->reach, limit), 64)) {
        s->flags = CHECK_FLAGS_ROOM;
        return;
    }
    if (check_is_register(&o[0], 32) && s->r[check_gpr(o[0].reg.value)].kind == CHECK_REQUESTS &&
        check_is_field(&o[1], LOCAL_OFFSET(held), 32)) {
        s->flags = CHECK_FLAGS_REQUESTS;
        return;
    }
    unsigned index = check_table_index(c, &o[1], 0, &t);
    const struct check_value *v = index != CHECK_NONE ? &s->r[index] : NULL;
    if (check_is_register(&o[0], 64) && v != NULL && !t.fast && v->kind == CHECK_INDEX &&
        v->n == BT_JUMP_MASK && v->shl == 0) { /* any entry: what it is of is compared */
        s->flags = CHECK_FLAGS_JUMP;
        s->flags_reg = (uint8_t)index;
    }
}

static void tested(const struct check_insn *i, struct check_state *s)
{
    const ZydisDecodedOperand *o = i->operands;
    if (!check_is_register(&o[0], 64) || !check_is_immediate(&o[1]) ||
        o[1].imm.value.u != MEM_PAGE_MASK || s->r[check_gpr(o[0].reg.value)].kind != CHECK_SPAN)
        return;
    s->flags = CHECK_FLAGS_SPAN;
    s->flags_reg = (uint8_t)check_gpr(o[0].reg.value);
}

/* ---- one instruction ---- */

/* A general register of 64 bits loaded whole from another, or from struct vcpu: what holds the
 * same, or CHECK_NONE. */
static unsigned source(const struct check_insn *i)
{
    const ZydisDecodedOperand *o = i->operands;
    unsigned at;
    if (i->insn.mnemonic != ZYDIS_MNEMONIC_MOV || !check_is_register(&o[0], 64))
        return CHECK_NONE;
    if (check_is_register(&o[1], 64))
        return check_gpr(o[1].reg.value);
    if (!check_is_gs(&o[1]) || o[1].mem.base != ZYDIS_REGISTER_NONE ||
        o[1].mem.index != ZYDIS_REGISTER_NONE)
        return CHECK_NONE;
    at = check_variable_at(o[1].mem.disp.value);
    return at != CHECK_NONE && at >= CHECK_TEMP ? at : CHECK_NONE;
}

static void write_first(const struct check *c, const struct check_insn *i, struct check_state *s,
                        unsigned to)
{
    struct check_value v = result(c, i, s);
    uint64_t by;
    if (check_is_scratch(to))
        check_set(s, to, v);
    else if (adds_constant(c, i, &by))
        check_move(s, to, by);
    else if (source(i) != CHECK_NONE)
        check_copied(s, to, source(i));
    else
        check_set(s, to, v);
}

static void write_operands(const struct check *c, const struct check_insn *i, struct check_state *s)
{
    const ZydisDecodedOperand *first = &i->operands[0];
    unsigned to = CHECK_NONE;
    if (first->type == ZYDIS_OPERAND_TYPE_REGISTER &&
        (first->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        to = check_gpr(first->reg.value);
    if (to != CHECK_NONE)
        write_first(c, i, s, to);
    for (unsigned n = to == CHECK_NONE ? 0 : 1; n < i->insn.operand_count; n++) {
        const ZydisDecodedOperand *o = &i->operands[n];
        if (!(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && check_gpr(o->reg.value) != CHECK_NONE)
            check_set(s, check_gpr(o->reg.value), any);
        else if (check_is_gs(o))
            check_stored(s, o->mem.disp.value, o->size / 8,
                         i->insn.mnemonic == ZYDIS_MNEMONIC_MOV &&
                                 check_is_register(&i->operands[1], 64)
                             ? check_gpr(i->operands[1].reg.value)
                             : CHECK_NONE);
    }
}

/* movl $place of the constant in the code memory, %gs:last_ret */
static bool says_ret(const struct check *c, const struct check_insn *i)
{
    const ZydisDecodedOperand *o = i->operands;
    return i->insn.mnemonic == ZYDIS_MNEMONIC_MOV &&
           check_is_field(&o[0], LOCAL_OFFSET(last_ret), 32) && check_is_immediate(&o[1]) &&
           (uint32_t)o[1].imm.value.u ==
               (uint32_t)(i->at + i->insn.length - 4 - c->vm->memory.write);
}

/* ---- STAC, CLAC: the reach, and its return stack with it ---- */

static bool is_rsp(const ZydisDecodedOperand *o)
{
    return check_is_register(o, 64) && check_gpr(o->reg.value) == RSP;
}

static bool is_supervisor(unsigned reach)
{
    return reach == REACH_SUPERVISOR || reach == REACH_SUPERVISOR_AC;
}

/* Which of the two is not the one of now. */
static unsigned other_reach(const struct check_state *s)
{
    return s->reach == REACH_SUPERVISOR ? REACH_SUPERVISOR_AC : REACH_SUPERVISOR;
}

bool check_turn(const struct check *c, const struct check_insn *i, const struct check_state *s,
                enum check_turn *next)
{
    const ZydisDecodedOperand *o = i->operands;
    uint32_t field =
        s->turning == CHECK_TURN_RETURN ? LOCAL_OFFSET(return_reach) : VCPU_OFFSET(reach);
    if (i->insn.mnemonic != ZYDIS_MNEMONIC_MOV || !is_supervisor(c->u->key & BT_KEY_REACH))
        return false;
    *next = s->turning == CHECK_TURN_REACH ? CHECK_TURN_NONE : (enum check_turn)(s->turning + 1);
    switch (s->turning) {
    case CHECK_TURN_NONE:
        return check_is_field(&o[0], BT_RETURNS_OFFSET(s->reach, top), 64) && is_rsp(&o[1]);
    case CHECK_TURN_STACK:
        return is_rsp(&o[0]) && check_is_field(&o[1], BT_RETURNS_OFFSET(other_reach(s), top), 64);
    default:
        return check_is_field(&o[0], field, 8) && check_is_immediate(&o[1]) &&
               (o[1].imm.value.u & 0xff) == other_reach(s);
    }
}

/* From now on another table and other slots serve. */
static void turn(struct check_state *s, enum check_turn next)
{
    s->turning = (uint8_t)next;
    if (next != CHECK_TURN_NONE)
        return;
    s->reach = (uint8_t)other_reach(s);
    s->room = false;
    check_forget(s);
}

void check_step(const struct check *c, const struct check_insn *i, struct check_state *s)
{
    const ZydisDecodedInstruction *zi = &i->insn;
    const ZydisAccessedFlags *f = zi->cpu_flags;
    enum check_turn next;

    if (check_turn(c, i, s, &next)) {
        turn(s, next);
        return;
    }
    write_operands(c, i, s);
    if (f != NULL && (f->modified | f->set_0 | f->set_1 | f->undefined) != 0) {
        s->flags = CHECK_FLAGS_ANY;
        s->flags_reg = CHECK_NONE;
        s->flags_n = 0;
        s->flags_at = 0;
    }
    if (zi->mnemonic == ZYDIS_MNEMONIC_CMP)
        compared(c, i, s);
    else if (zi->mnemonic == ZYDIS_MNEMONIC_TEST)
        tested(i, s);
    s->said_ret = says_ret(c, i);
    if (check_is_field(&i->operands[1], BT_RETURNS_OFFSET(s->reach, base), 64))
        s->room = true; /* the return stack has been emptied: nothing else may read that */
    if (zi->meta.category == ZYDIS_CATEGORY_PUSH)
        s->depth++;
    else if (zi->meta.category == ZYDIS_CATEGORY_POP)
        s->depth--;
}

/* ---- calls ---- */

/* A slot that serves constant addresses of one page serves all of that. */
static bool widen(struct check_address *a, uint32_t *n)
{
    if (!check_is_constant(a) || a->at % MEM_PAGE_SIZE + *n > MEM_PAGE_SIZE)
        return false;
    a->at &= MEM_PAGE_MASK;
    *n = MEM_PAGE_SIZE;
    return true;
}

/* The stub fills the slot with the page of S0, unless the access lies in two: then it may have made
 * a copy of both (runtime.c, load_across), and the slot holds what it held, or anything. */
void check_called(struct check_state *s, bool write)
{
    uint32_t what = (uint32_t)s->r[S1].address.at;
    uint32_t slot =
        (uint32_t)VCPU_OFFSET(tlb.slots) + bt_check_slot(what) * (uint32_t)sizeof(struct tlb_fast);
    uint32_t n = MEM_PAGE_SIZE - (what & BT_CHECK_LIMIT);
    struct check_address a;

    check_address_of(s, S0, &a); /* a rule of the call's */
    bool low = s->r[S0].low;
    for (unsigned reg = 0; reg < 16; reg++)
        if (!check_is_scratch(reg))
            s->r[reg] = any; /* but it holds what it held */
    check_stored(s, LOCAL_OFFSET(temp), sizeof(((struct bt_local *)0)->temp), CHECK_NONE);
    check_set(s, S0, symbol(&a, low));
    s->flags = CHECK_FLAGS_ANY;
    check_end_slot(s, slot);
    if (what & BT_CHECK_SPLIT) { /* it returns for nothing */
        check_set(s, S1, (struct check_value){.kind = CHECK_STALE});
        return;
    }
    const struct check_fact *one = check_fact_of(s, 0, &a);
    if (widen(&a, &n)) {
        check_add_fact(s, slot, &a, n);
    } else if (one != NULL && check_has(&one->from, one->n, &a, n)) {
        a = one->from;
        n = one->n;
        check_add_fact(s, slot, &a, n);
    }
    check_end_slot(s, 0);
    check_set(s, S1, addend_of(&a, write, n));
}

/* ---- jumps ---- */

static void when_equal(struct check_state *s)
{
    const struct check_value *v = s->flags_reg < 16 ? &s->r[s->flags_reg] : NULL;
    struct check_address page = check_constant(s->flags_at);
    if (s->flags == CHECK_FLAGS_REQUESTS)
        s->polled = true;
    else if (s->flags == CHECK_FLAGS_TOKEN)
        s->mapped |= (uint8_t)s->flags_n;
    else if (s->flags == CHECK_FLAGS_JUMP)
        s->r[s->flags_reg].kind = CHECK_JUMP;
    else if (s->flags == CHECK_FLAGS_SLOT)
        check_add_fact(s, s->flags_n, &page, MEM_PAGE_SIZE);
    else if (s->flags == CHECK_FLAGS_SPAN && v->kind == CHECK_SPAN)
        check_add_fact(s, 0, &v->address, v->n);
    else if (s->flags == CHECK_FLAGS_RETURN) {
        s->returned = CHECK_RETURNED_TO;
        s->return_to = s->flags_at;
    }
}

static void when_not_above(struct check_state *s)
{
    if (s->flags != CHECK_FLAGS_BELOW)
        return;
    struct check_value *v = &s->r[s->flags_reg];
    if (v->kind == CHECK_SUM) {
        v->kind = CHECK_OFFSET;
        v->n = s->flags_n;
    } else if (v->kind == CHECK_SLOT_SUM) {
        struct check_address a = v->address;
        uint32_t n = MEM_PAGE_SIZE - s->flags_n;
        widen(&a, &n);
        check_add_fact(s, v->slot, &a, n);
    }
}

void check_branch(const struct check_insn *i, const struct check_state *s,
                  struct check_state *taken, struct check_state *next)
{
    *taken = *next = *s;
    switch (i->insn.mnemonic) {
    case ZYDIS_MNEMONIC_JZ:
        when_equal(taken);
        next->x87 |= s->flags == CHECK_FLAGS_X87;
        break;
    case ZYDIS_MNEMONIC_JNZ:
        when_equal(next);
        break;
    case ZYDIS_MNEMONIC_JNBE:
        when_not_above(next);
        break;
    case ZYDIS_MNEMONIC_JBE:
        when_not_above(taken);
        break;
    case ZYDIS_MNEMONIC_JB:
        next->room |= s->flags == CHECK_FLAGS_ROOM;
        break;
    case ZYDIS_MNEMONIC_JECXZ:
        if (s->r[RCX].kind == CHECK_NEWS)
            taken->polled = true;
        break;
    default:
        break;
    }
}
