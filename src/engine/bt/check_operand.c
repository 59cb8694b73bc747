/* SPDX-License-Identifier: MIT */
/* What the checker sees in operands: registers, fields of struct vcpu, entries of its tables, and
 * addresses of the guest's. */
#include "engine/bt/check_state.h"

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

bool check_table_at(const struct check *c, int64_t disp, struct check_table *t)
{
    const unsigned reach = c->reach;
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
    const unsigned reach = c->reach;
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

bool check_operand_address(const struct check_state *s, const ZydisDecodedOperandMem *m,
                           unsigned but, struct check_address *a)
{
    unsigned base = check_gpr(m->base), index = check_gpr(m->index), shift = 0;
    struct check_address part;
    *a = check_constant((uint64_t)m->disp.value);
    while (m->index != ZYDIS_REGISTER_NONE && 1u << shift != m->scale)
        shift++;
    if (base != CHECK_NONE && base != but &&
        !(check_address_of(s, base, &part) && check_sum(a, &part, 0)))
        return false;
    return index == CHECK_NONE || index == but ||
           (check_address_of(s, index, &part) && check_sum(a, &part, shift));
}

/* In 32-bit code, whose addresses wrap: beside the addend a register that holds the whole address,
 * or a constant. */
static bool is_exact(const struct check *c, const struct check_state *s,
                     const ZydisDecodedOperandMem *m, unsigned other)
{
    struct check_address a;
    return !c->code32 || other == CHECK_NONE ||
           (m->disp.value == 0 && m->scale <= 1 && check_exact(c, s, other, &a));
}

const struct check_value *check_guest(const struct check *c, const struct check_state *s,
                                      const ZydisDecodedOperandMem *m, uint32_t *n)
{
    unsigned base = check_gpr(m->base), index = check_gpr(m->index), by = CHECK_NONE;
    struct check_address a;
    if (index == CHECK_NONE && base != CHECK_NONE && s->r[base].kind == CHECK_HOST) {
        const struct check_value *v = &s->r[base];
        int64_t disp = m->disp.value;
        *n = disp >= 0 && disp < v->n ? v->n - (uint32_t)disp : 0;
        return v;
    }
    if (base != CHECK_NONE && base != index && s->r[base].kind == CHECK_ADDEND)
        by = base;
    else if (index != CHECK_NONE && base != index && m->scale == 1 &&
             s->r[index].kind == CHECK_ADDEND)
        by = index;
    if (by == CHECK_NONE || !is_exact(c, s, m, by == base ? index : base) ||
        !check_operand_address(s, m, by, &a) || !check_is_near(&a, &s->r[by].address))
        return NULL;
    *n = check_left(&s->r[by].address, s->r[by].n, &a);
    return &s->r[by];
}

bool check_is_register(const ZydisDecodedOperand *o, unsigned bits)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->size == bits &&
           check_gpr(o->reg.value) != CHECK_NONE;
}

bool check_is_immediate(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

bool check_is_gs(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
           o->mem.segment == ZYDIS_REGISTER_GS;
}

bool check_is_field(const ZydisDecodedOperand *o, uint32_t field, unsigned bits)
{
    return check_is_gs(o) && o->mem.base == ZYDIS_REGISTER_NONE &&
           o->mem.index == ZYDIS_REGISTER_NONE && o->mem.disp.value == field && o->size == bits;
}

unsigned check_table_index(const struct check *c, const ZydisDecodedOperand *o, unsigned field,
                           struct check_table *t)
{
    if (!check_is_gs(o) || o->size != 64 || !check_table_at(c, o->mem.disp.value, t) ||
        o->mem.disp.value != t->base + (int64_t)field)
        return CHECK_NONE;
    if (o->mem.index == ZYDIS_REGISTER_NONE)
        return check_gpr(o->mem.base);
    return o->mem.base == ZYDIS_REGISTER_NONE && o->mem.scale == 1 ? check_gpr(o->mem.index)
                                                                   : CHECK_NONE;
}

bool check_is_slot(const struct check *c, const ZydisDecodedOperand *o, unsigned field,
                   struct check_slot *slot)
{
    return check_is_gs(o) && o->size == 64 && o->mem.base == ZYDIS_REGISTER_NONE &&
           o->mem.index == ZYDIS_REGISTER_NONE && check_slot_at(c, o->mem.disp.value, slot) &&
           slot->field == field;
}

bool check_is_index(const struct check_state *s, unsigned index, unsigned of, unsigned ror,
                    uint32_t mask, unsigned shl)
{
    const struct check_value *v = &s->r[index];
    return v->kind == CHECK_INDEX && v->of == of && v->ror == ror && v->n == mask && v->shl == shl;
}
