/* SPDX-License-Identifier: MIT */
/* The abstract state of the checker, and what each instruction does to it (SDM 2). An instruction
 * that is not known here leaves nothing known of the registers and flags that it writes. */
#include "engine/bt/check_state.h"

#define FAST_MASK ((TLB_FAST_ENTRIES - 1) << 4)
#define JUMP_MASK (BT_JUMPS - 1)

static const struct check_value any;

unsigned check_gpr(ZydisRegister r)
{
    ZydisRegisterClass c = ZydisRegisterGetClass(r);
    unsigned id = (unsigned)ZydisRegisterGetId(r);
    switch (c) {
    case ZYDIS_REGCLASS_GPR8: /* AL CL DL BL AH CH DH BH SPL … */
        return id < 4 ? id : id - 4;
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return id;
    default:
        return CHECK_NONE;
    }
}

uint64_t check_bound(const struct check_value *v)
{
    switch (v->kind) {
    case CHECK_INDEX:
    case CHECK_JUMP:
        return (uint64_t)v->n << v->shl;
    default:
        return UINT64_MAX;
    }
}

bool check_is_host(const struct check_value *v)
{
    return v->kind == CHECK_ADDEND || v->kind == CHECK_HOST;
}

bool check_table_at(const struct check *c, int64_t disp, struct check_table *t)
{
    const unsigned reach = c->u->key & BT_KEY_REACH;
    const uint32_t fast = sizeof(((struct tlb *)0)->fast[0][0]);
    const uint32_t jumps = sizeof(((struct bt_local *)0)->jumps[0]);
    const struct check_table tables[] = {
        {(uint32_t)VCPU_OFFSET(tlb.fast) + 2 * reach * fast, fast, true, false},
        {(uint32_t)VCPU_OFFSET(tlb.fast) + (2 * reach + 1) * fast, fast, true, true},
        {LOCAL_OFFSET(jumps) + reach * jumps, jumps, false, false},
    };
    for (unsigned n = 0; n < 3; n++) {
        if (disp >= tables[n].base && disp < tables[n].base + (int64_t)tables[n].size) {
            *t = tables[n];
            return true;
        }
    }
    return false;
}

bool check_slot_at(const struct check *c, int64_t disp, struct check_slot *slot)
{
    const unsigned reach = c->u->key & BT_KEY_REACH;
    const int64_t size = sizeof(((struct tlb *)0)->slots[0][0]);
    int64_t at = disp - (int64_t)VCPU_OFFSET(tlb.slots) - 2 * reach * size;
    if (at < 0 || at >= 2 * size)
        return false;
    slot->write = at >= size;
    slot->field = (uint32_t)at % sizeof(struct tlb_fast);
    slot->base = (uint32_t)disp - slot->field;
    return true;
}

unsigned check_served_by_entry(const struct check_state *s, unsigned of, bool write)
{
    for (unsigned n = 0; n < 16; n++)
        if (s->r[n].kind == CHECK_LINEAR && s->r[n].of == of && s->r[n].write == write)
            return n;
    return CHECK_NONE;
}

unsigned check_served_by_slot(const struct check_state *s, uint32_t slot)
{
    for (unsigned n = 0; n < 16; n++)
        if (s->r[n].kind == CHECK_SLOT_OFFSET && s->r[n].slot == slot)
            return n;
    return CHECK_NONE;
}

const struct check_value *check_addend_of(const struct check_state *s,
                                          const ZydisDecodedOperandMem *m)
{
    unsigned base = check_gpr(m->base), index = check_gpr(m->index);
    if (base == CHECK_NONE || index == CHECK_NONE || m->scale != 1)
        return NULL;
    if (s->r[index].kind == CHECK_ADDEND && s->r[index].of == base)
        return &s->r[index];
    return s->r[base].kind == CHECK_ADDEND && s->r[base].of == index ? &s->r[base] : NULL;
}

/* ---- losing knowledge ---- */

/* What a value says of another register ends with that register's; the bits of an index stay. */
static void forget_register(struct check_state *s, unsigned reg)
{
    s->r[reg] = any;
    for (unsigned n = 0; n < 16; n++) {
        struct check_value *v = &s->r[n];
        if (v->kind == CHECK_ANY || v->of != reg)
            continue;
        if (v->kind == CHECK_INDEX || v->kind == CHECK_JUMP)
            v->of = CHECK_NONE;
        else
            *v = any;
    }
    if (s->flags_reg == reg)
        s->flags = CHECK_FLAGS_ANY;
}

static void set_register(struct check_state *s, unsigned reg, struct check_value v)
{
    forget_register(s, reg);
    if (v.kind == CHECK_ANY)
        return;
    if (v.of == reg && v.kind != CHECK_INDEX)
        return;
    if (v.of == reg)
        v.of = CHECK_NONE;
    s->r[reg] = v;
}

void check_forget(struct check_state *s)
{
    memset(s->r, 0, sizeof(s->r));
    s->flags = CHECK_FLAGS_ANY;
    s->flags_reg = CHECK_NONE;
    s->flags_n = 0;
}

void check_called(struct check_state *s, bool write)
{
    uint32_t what = s->r[S1].n;
    check_forget(s);
    if (what & BT_CHECK_SPLIT) /* it returns for nothing */
        return;
    s->r[S1] = (struct check_value){.kind = CHECK_ADDEND,
                                    .of = S0,
                                    .write = write,
                                    .n = MEM_PAGE_SIZE - (what & BT_CHECK_LIMIT)};
}

static bool join_value(struct check_value *into, const struct check_value *from)
{
    if (into->kind == CHECK_ANY || memcmp(into, from, sizeof(*into)) == 0)
        return false;
    if (check_is_host(into) && into->kind == from->kind && into->of == from->of &&
        into->write == from->write) { /* both serve the lesser size */
        bool less = from->n < into->n;
        if (less)
            into->n = from->n;
        return less;
    }
    *into = any;
    return true;
}

bool check_join(struct check_state *into, const struct check_state *from)
{
    bool changed = false;
    for (unsigned n = 0; n < 16; n++)
        changed |= join_value(&into->r[n], &from->r[n]);
    if (into->flags != CHECK_FLAGS_ANY &&
        (into->flags != from->flags || into->flags_reg != from->flags_reg ||
         into->flags_n != from->flags_n)) {
        into->flags = CHECK_FLAGS_ANY;
        changed = true;
    }
    if (into->exit != from->exit && into->exit != 0) {
        into->exit = 0;
        changed = true;
    }
    bool polled = into->polled && from->polled, marked = into->marked && from->marked;
    changed |= polled != into->polled || marked != into->marked;
    into->polled = polled;
    into->marked = marked;
    return changed;
}

/* ---- instructions that make knowledge ---- */

static bool is_register(const ZydisDecodedOperand *o, unsigned bits)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->size == bits &&
           check_gpr(o->reg.value) != CHECK_NONE;
}

static bool is_immediate(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

static bool is_gs(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
           o->mem.segment == ZYDIS_REGISTER_GS;
}

/* %gs:field, without index. */
static bool is_field(const ZydisDecodedOperand *o, uint32_t field, unsigned bits)
{
    return is_gs(o) && o->mem.base == ZYDIS_REGISTER_NONE && o->mem.index == ZYDIS_REGISTER_NONE &&
           o->mem.disp.value == field && o->size == bits;
}

/* %gs:table + field(index): the index register, or CHECK_NONE. */
static unsigned table_index(const struct check *c, const ZydisDecodedOperand *o, unsigned field,
                            struct check_table *t)
{
    if (!is_gs(o) || o->size != 64 || !check_table_at(c, o->mem.disp.value, t) ||
        o->mem.disp.value != t->base + (int64_t)field)
        return CHECK_NONE;
    if (o->mem.index == ZYDIS_REGISTER_NONE)
        return check_gpr(o->mem.base);
    return o->mem.base == ZYDIS_REGISTER_NONE && o->mem.scale == 1 ? check_gpr(o->mem.index)
                                                                   : CHECK_NONE;
}

/* %gs:slot + field. */
static bool is_slot(const struct check *c, const ZydisDecodedOperand *o, unsigned field,
                    struct check_slot *slot)
{
    return is_gs(o) && o->size == 64 && o->mem.base == ZYDIS_REGISTER_NONE &&
           o->mem.index == ZYDIS_REGISTER_NONE && check_slot_at(c, o->mem.disp.value, slot) &&
           slot->field == field;
}

static bool is_index(const struct check_state *s, unsigned index, unsigned of, unsigned ror,
                     uint32_t mask, unsigned shl)
{
    const struct check_value *v = &s->r[index];
    return v->kind == CHECK_INDEX && v->of == of && v->ror == ror && v->n == mask && v->shl == shl;
}

static struct check_value moved_constant(const struct check *c, uint64_t value, unsigned bits)
{
    const struct bt_unit *u = c->u;
    if (bits == 32)
        return (struct check_value){.kind = CHECK_CONSTANT, .of = CHECK_NONE, .n = (uint32_t)value};
    for (unsigned n = 0; n < u->exit_count; n++)
        if (value == (uintptr_t)&u->exits[n])
            return (struct check_value){.kind = CHECK_EXIT, .of = CHECK_NONE, .n = n};
    for (unsigned n = 0; n < u->site_count; n++)
        if (value == (uintptr_t)&u->sites[n])
            return (struct check_value){.kind = CHECK_SITE, .of = CHECK_NONE, .n = n};
    return any;
}

static struct check_value copied(const struct check_state *s, unsigned from)
{
    if (check_is_host(&s->r[from]))
        return s->r[from];
    return (struct check_value){.kind = CHECK_COPY, .of = (uint8_t)from};
}

/* The addend of a slot or an entry, once that is known to serve an address. */
static struct check_value addend(const struct check *c, const ZydisDecodedOperand *o,
                                 const struct check_state *s)
{
    struct check_table t;
    struct check_slot slot;
    unsigned index = table_index(c, o, 8, &t), of;
    if (index != CHECK_NONE && t.fast &&
        (of = check_served_by_entry(s, index, t.write)) != CHECK_NONE)
        return (struct check_value){.kind = CHECK_ADDEND,
                                    .of = (uint8_t)of,
                                    .write = t.write,
                                    .n = MEM_PAGE_SIZE - s->r[of].n};
    if (is_slot(c, o, 8, &slot) && (of = check_served_by_slot(s, slot.base)) != CHECK_NONE)
        return (struct check_value){.kind = CHECK_ADDEND,
                                    .of = s->r[of].of,
                                    .write = slot.write,
                                    .n = MEM_PAGE_SIZE - s->r[of].n};
    return any;
}

static struct check_value moved(const struct check *c, const struct check_insn *i,
                                const struct check_state *s)
{
    const ZydisDecodedOperand *o = i->operands;
    if (is_immediate(&o[1]))
        return moved_constant(c, o[1].imm.value.u, o[0].size);
    if (is_register(&o[1], 64))
        return copied(s, check_gpr(o[1].reg.value));
    if (is_register(&o[1], 32))
        return (struct check_value){
            .kind = CHECK_INDEX, .of = (uint8_t)check_gpr(o[1].reg.value), .n = UINT32_MAX};
    if (is_field(&o[1], VCPU_OFFSET(requests), 32))
        return (struct check_value){.kind = CHECK_REQUESTS, .of = CHECK_NONE};
    return o[0].size == 64 ? addend(c, &o[1], s) : any;
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

static struct check_value added(const struct check *c, const struct check_insn *i,
                                const struct check_state *s, unsigned to)
{
    struct check_table t;
    struct check_slot slot;
    unsigned index = table_index(c, &i->operands[1], 0, &t);
    if (index != CHECK_NONE && t.fast && is_index(s, index, to, 8, FAST_MASK, 0))
        return (struct check_value){.kind = CHECK_SUM, .of = (uint8_t)index, .write = t.write};
    if (is_slot(c, &i->operands[1], 0, &slot) && s->r[to].kind == CHECK_COPY)
        return (struct check_value){
            .kind = CHECK_SLOT_SUM, .of = s->r[to].of, .write = slot.write, .slot = slot.base};
    return any;
}

static struct check_value subtracted(const struct check *c, const struct check_insn *i,
                                     const struct check_state *s, unsigned to)
{
    struct check_table t;
    unsigned index = table_index(c, &i->operands[1], 0, &t);
    struct check_value v = s->r[to];
    if (v.kind != CHECK_OFFSET || v.of != index || !t.fast || t.write != v.write)
        return any;
    v.kind = CHECK_LINEAR;
    return v;
}

static struct check_value folded(const struct check_insn *i, const struct check_state *s)
{
    const ZydisDecodedOperandMem *m = &i->operands[1].mem;
    const struct check_value *v = check_addend_of(s, m);
    if (v == NULL || m->disp.value < 0 || m->disp.value >= v->n)
        return any;
    return (struct check_value){.kind = CHECK_HOST,
                                .of = CHECK_NONE,
                                .write = v->write,
                                .n = v->n - (uint32_t)m->disp.value};
}

/* What the first operand, a general register, holds afterwards. */
static struct check_value result(const struct check *c, const struct check_insn *i,
                                 const struct check_state *s)
{
    const ZydisDecodedOperand *o = i->operands;
    unsigned to = check_gpr(o[0].reg.value);
    switch (i->insn.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return o[0].size >= 32 ? moved(c, i, s) : any;
    case ZYDIS_MNEMONIC_RORX: /* n is no bound yet, but no table has such a size */
        return o[0].size == 64 && is_register(&o[1], 64) && o[2].imm.value.u == 8
                   ? (struct check_value){.kind = CHECK_INDEX,
                                          .of = (uint8_t)check_gpr(o[1].reg.value),
                                          .ror = 8,
                                          .n = UINT32_MAX}
                   : any;
    case ZYDIS_MNEMONIC_AND:
        return o[0].size == 32 && is_immediate(&o[1]) ? anded(i, &s->r[to]) : any;
    case ZYDIS_MNEMONIC_SHL:
        return o[0].size == 32 && is_immediate(&o[1]) ? shifted(i, &s->r[to]) : any;
    case ZYDIS_MNEMONIC_ADD:
        return o[0].size == 64 ? added(c, i, s, to) : any;
    case ZYDIS_MNEMONIC_SUB:
        return o[0].size == 64 ? subtracted(c, i, s, to) : any;
    case ZYDIS_MNEMONIC_LEA:
        return o[0].size == 64 ? folded(i, s) : any;
    default:
        return any;
    }
}

static bool is_token(const struct bt_page *p, const ZydisDecodedOperand *o, uint32_t value)
{
    uint32_t slot = LOCAL_OFFSET(tokens) + 4 * ((p->linear >> 12) & (BT_TOKENS - 1));
    return is_field(o, slot, 32) && value == p->token;
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

static void compared(const struct check *c, const struct check_insn *i, struct check_state *s)
{
    const ZydisDecodedOperand *o = i->operands;
    struct check_table t;

    if (is_immediate(&o[1])) {
        uint64_t n = o[1].imm.value.u;
        if (is_field(&o[0], VCPU_OFFSET(requests), 32) && n == 0) {
            s->flags = CHECK_FLAGS_REQUESTS;
        } else if ((s->flags_n = token_compared(c, &o[0], (uint32_t)n)) != 0) {
            s->flags = CHECK_FLAGS_TOKEN;
        } else if (is_register(&o[0], 64) && n < MEM_PAGE_SIZE) {
            s->flags = CHECK_FLAGS_BELOW;
            s->flags_reg = (uint8_t)check_gpr(o[0].reg.value);
            s->flags_n = (uint32_t)n;
        }
        return;
    }
    unsigned index = table_index(c, &o[1], 0, &t);
    if (is_register(&o[0], 64) && index != CHECK_NONE && !t.fast &&
        is_index(s, index, check_gpr(o[0].reg.value), 0, JUMP_MASK, 4)) {
        s->flags = CHECK_FLAGS_JUMP;
        s->flags_reg = (uint8_t)index;
    }
}

void check_step(const struct check *c, const struct check_insn *i, struct check_state *s)
{
    const ZydisDecodedInstruction *zi = &i->insn;
    const ZydisAccessedFlags *f = zi->cpu_flags;
    struct check_value value = any;
    unsigned to = CHECK_NONE;

    if (i->operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
        (to = check_gpr(i->operands[0].reg.value)) != CHECK_NONE)
        value = result(c, i, s);
    for (unsigned n = 0; n < zi->operand_count; n++) {
        const ZydisDecodedOperand *o = &i->operands[n];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) && check_gpr(o->reg.value) != CHECK_NONE)
            forget_register(s, check_gpr(o->reg.value));
    }
    if (value.kind != CHECK_ANY)
        set_register(s, to, value);
    if (f != NULL && (f->modified | f->set_0 | f->set_1 | f->undefined) != 0) {
        s->flags = CHECK_FLAGS_ANY;
        s->flags_reg = CHECK_NONE;
        s->flags_n = 0;
    }
    if (zi->mnemonic == ZYDIS_MNEMONIC_CMP)
        compared(c, i, s);
    if (zi->meta.category == ZYDIS_CATEGORY_PUSH)
        s->depth++;
    else if (zi->meta.category == ZYDIS_CATEGORY_POP)
        s->depth--;
}

/* ---- jumps ---- */

static void when_equal(struct check_state *s)
{
    if (s->flags == CHECK_FLAGS_REQUESTS)
        s->polled = true;
    else if (s->flags == CHECK_FLAGS_TOKEN)
        s->mapped |= (uint8_t)s->flags_n;
    else if (s->flags == CHECK_FLAGS_JUMP)
        s->r[s->flags_reg].kind = CHECK_JUMP;
}

static void when_not_above(struct check_state *s)
{
    if (s->flags != CHECK_FLAGS_BELOW)
        return;
    struct check_value *v = &s->r[s->flags_reg];
    if (v->kind == CHECK_SUM)
        v->kind = CHECK_OFFSET;
    else if (v->kind == CHECK_SLOT_SUM)
        v->kind = CHECK_SLOT_OFFSET;
    else
        return;
    v->n = s->flags_n;
}

void check_branch(const struct check_insn *i, const struct check_state *s,
                  struct check_state *taken, struct check_state *next)
{
    *taken = *next = *s;
    switch (i->insn.mnemonic) {
    case ZYDIS_MNEMONIC_JZ:
        when_equal(taken);
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
    case ZYDIS_MNEMONIC_JECXZ:
        if (s->r[RCX].kind == CHECK_REQUESTS)
            taken->polled = true;
        break;
    default:
        break;
    }
}
