/* SPDX-License-Identifier: MIT */
/*
 * Addresses as sums of variables, and what the checker knows by them. When a variable changes, what
 * is said by it ends; unless it is only added to, or a copy of its old value is at hand, or it gets
 * that value back: the translator uses RAX and RCX for a moment, and gives them back.
 */
#include "engine/bt/check_state.h"

static const struct check_value any = {.kind = CHECK_ANY};
static const struct check_value stale = {.kind = CHECK_STALE};

/* ---- addresses ---- */

struct check_address check_constant(uint64_t at)
{
    struct check_address a = {.at = at};
    memset(a.part, CHECK_NONE, sizeof(a.part));
    return a;
}

struct check_address check_of(unsigned variable)
{
    struct check_address a = check_constant(0);
    a.part[0] = (uint8_t)variable;
    return a;
}

static bool add_part(struct check_address *a, uint8_t part)
{
    unsigned n = CHECK_PARTS - 1;
    if (a->part[n] != CHECK_NONE)
        return false;
    for (; n > 0 && a->part[n - 1] > part; n--)
        a->part[n] = a->part[n - 1];
    a->part[n] = part;
    return true;
}

bool check_sum(struct check_address *a, const struct check_address *b, unsigned shift)
{
    const struct check_address from = *b;
    for (unsigned n = 0; n < CHECK_PARTS && from.part[n] != CHECK_NONE; n++)
        if ((from.part[n] >> 5) + shift > 3 || !add_part(a, (uint8_t)(from.part[n] + (shift << 5))))
            return false;
    a->at += from.at << shift;
    return true;
}

bool check_is_near(const struct check_address *a, const struct check_address *b)
{
    return memcmp(a->part, b->part, sizeof(a->part)) == 0;
}

bool check_is_constant(const struct check_address *a)
{
    return a->part[0] == CHECK_NONE;
}

uint32_t check_left(const struct check_address *from, uint32_t length,
                    const struct check_address *a)
{
    uint64_t off = a->at - from->at;
    return check_is_near(from, a) && off < length ? length - (uint32_t)off : 0;
}

bool check_has(const struct check_address *from, uint32_t length, const struct check_address *a,
               uint32_t n)
{
    return n > 0 && check_left(from, length, a) >= n;
}

/* What both ranges have; 0: nothing. */
static uint32_t intersect(struct check_address *a, uint32_t n, const struct check_address *b,
                          uint32_t m)
{
    uint32_t left = check_left(a, n, b);
    if (left > 0) {
        a->at = b->at;
        return left < m ? left : m;
    }
    left = check_left(b, m, a);
    return left < n ? left : n;
}

static bool is_only(const struct check_address *a, unsigned variable)
{
    return a->at == 0 && a->part[0] == variable && a->part[1] == CHECK_NONE;
}

static bool depends(const struct check_address *a, unsigned variable)
{
    for (unsigned n = 0; n < CHECK_PARTS && a->part[n] != CHECK_NONE; n++)
        if ((a->part[n] & 31) == variable)
            return true;
    return false;
}

static bool has_address(const struct check_value *v)
{
    switch (v->kind) {
    case CHECK_SYM:
    case CHECK_SUM:
    case CHECK_OFFSET:
    case CHECK_LINEAR:
    case CHECK_SLOT_SUM:
    case CHECK_SPAN:
    case CHECK_ADDEND:
        return true;
    default:
        return false;
    }
}

bool check_address_of(const struct check_state *s, unsigned reg, struct check_address *a)
{
    const struct check_value *v = &s->r[reg];
    *a = check_of(reg);
    if (!check_is_scratch(reg))
        return true;
    if (v->kind == CHECK_SYM || v->kind == CHECK_LINEAR)
        *a = v->address;
    else if (has_address(v) || check_is_host(v))
        return false;
    return true;
}

bool check_exact(const struct check *c, const struct check_state *s, unsigned reg,
                 struct check_address *a)
{
    if (c->code32 && !(check_is_scratch(reg) && s->r[reg].low))
        return false;
    return check_address_of(s, reg, a);
}

/* ---- variables ---- */

static void replace(struct check_address *a, unsigned from, unsigned to)
{
    struct check_address b = check_constant(a->at);
    if (!depends(a, from))
        return;
    for (unsigned n = 0; n < CHECK_PARTS && a->part[n] != CHECK_NONE; n++)
        add_part(&b, (a->part[n] & 31) == from ? (uint8_t)((a->part[n] & ~31u) | to) : a->part[n]);
    *a = b;
}

static const uint8_t scratch[] = {S0, S1};

/* `to` holds what `from` holds, and nothing is said by `to`. */
static void rename_variable(struct check_state *s, unsigned from, unsigned to)
{
    for (unsigned n = 0; n < 2; n++)
        replace(&s->r[scratch[n]].address, from, to);
    for (unsigned n = 0; n < s->fact_count; n++)
        replace(&s->facts[n].from, from, to);
    for (unsigned n = 0; n < CHECK_TEMPS; n++)
        if (s->kept[n] == from)
            s->kept[n] = (uint8_t)to;
}

static void end_fact(struct check_state *s, unsigned n)
{
    memmove(&s->facts[n], &s->facts[n + 1], (--s->fact_count - n) * sizeof(s->facts[0]));
    memset(&s->facts[s->fact_count], 0, sizeof(s->facts[0]));
}

/* Nothing is said by the variable from now on. */
static void forget_variable(struct check_state *s, unsigned variable)
{
    for (unsigned n = s->fact_count; n-- > 0;)
        if (depends(&s->facts[n].from, variable))
            end_fact(s, n);
    for (unsigned n = 0; n < CHECK_TEMPS; n++)
        if (s->kept[n] == variable)
            s->kept[n] = (uint8_t)(CHECK_TEMP + n);
    for (unsigned n = 0; n < 2; n++) {
        struct check_value *v = &s->r[scratch[n]];
        if (!has_address(v) || !depends(&v->address, variable))
            continue;
        *v = v->kind == CHECK_ADDEND ? stale : any;
        if (scratch[n] != variable)
            forget_variable(s, scratch[n]); /* for it is a variable itself now */
    }
}

/* Another that holds the same, by which nothing is said: or CHECK_NONE. */
static unsigned copy_of(struct check_state *s, unsigned variable)
{
    for (unsigned n = 0; n < CHECK_TEMPS; n++)
        if (s->kept[n] == variable)
            return CHECK_TEMP + n;
    for (unsigned n = 0; n < 2; n++) {
        if (s->r[scratch[n]].kind != CHECK_SYM || !is_only(&s->r[scratch[n]].address, variable))
            continue;
        if (variable != scratch[n])
            forget_variable(s, scratch[n]);
        return scratch[n];
    }
    return CHECK_NONE;
}

/* Another value is to be put there. */
static void overwrite(struct check_state *s, unsigned variable)
{
    unsigned copy = copy_of(s, variable);
    if (copy != CHECK_NONE && copy != variable)
        rename_variable(s, variable, copy);
    forget_variable(s, variable);
}

/* ---- registers ---- */

/* What a value says of another register ends with that register's; the bits of an index stay. */
static void forget_named(struct check_state *s, unsigned reg)
{
    for (unsigned n = 0; n < 16; n++) {
        struct check_value *v = &s->r[n];
        if (v->of != reg || n == reg)
            continue;
        if (v->kind == CHECK_INDEX || v->kind == CHECK_JUMP) {
            v->of = CHECK_NONE;
        } else if (v->kind == CHECK_SUM || v->kind == CHECK_OFFSET) {
            *v = any;
            forget_variable(s, n);
        } else if (v->kind == CHECK_LINEAR) {
            v->kind = CHECK_SYM;
            v->of = v->write = 0;
            v->n = 0;
        }
    }
    if (s->flags_reg == reg)
        s->flags = CHECK_FLAGS_ANY;
}

void check_move(struct check_state *s, unsigned variable, uint64_t by)
{
    struct check_address *all[2 + CHECK_FACTS];
    unsigned count = 0;
    if (variable < 16) {
        forget_named(s, variable);
        s->r[variable] = any;
    }
    for (unsigned n = 0; n < 2; n++)
        all[count++] = &s->r[scratch[n]].address;
    for (unsigned n = 0; n < s->fact_count; n++)
        all[count++] = &s->facts[n].from;
    for (unsigned n = 0; n < count; n++)
        for (unsigned k = 0; k < CHECK_PARTS && all[n]->part[k] != CHECK_NONE; k++)
            if ((all[n]->part[k] & 31) == variable)
                all[n]->at -= by << (all[n]->part[k] >> 5);
    for (unsigned n = 0; n < CHECK_TEMPS; n++)
        if (s->kept[n] == variable)
            s->kept[n] = (uint8_t)(CHECK_TEMP + n);
}

void check_set(struct check_state *s, unsigned reg, struct check_value v)
{
    forget_named(s, reg);
    if (v.kind == CHECK_INDEX && v.of == reg)
        v.of = CHECK_NONE;
    if (!check_is_scratch(reg)) {
        overwrite(s, reg);
        s->r[reg] = has_address(&v) ? any : v;
        return;
    }
    if (!has_address(&v)) {
        s->r[reg] = any;
        forget_variable(s, reg);
    }
    s->r[reg] = v;
}

/* The variable that alone `from` holds, a register or a place in temp. */
static unsigned held_by(const struct check_state *s, unsigned from)
{
    struct check_address a;
    if (from >= CHECK_TEMP)
        return s->kept[from - CHECK_TEMP];
    if (!check_address_of(s, from, &a) || a.at != 0 || a.part[0] >= CHECK_VARIABLES ||
        a.part[1] != CHECK_NONE)
        return CHECK_NONE;
    return a.part[0];
}

void check_copied(struct check_state *s, unsigned reg, unsigned from)
{
    forget_named(s, reg);
    overwrite(s, reg);
    s->r[reg] = any;
    unsigned variable = held_by(s, from);
    if (variable == CHECK_NONE || !(check_is_scratch(variable) || variable >= CHECK_TEMP))
        return;
    /* The register is the better name for it: it stays when the scratch registers change. */
    if (check_is_scratch(variable) && variable == from)
        s->r[from] = (struct check_value){.kind = CHECK_SYM, .address = check_of(from)};
    rename_variable(s, variable, reg);
    if (variable >= CHECK_TEMP)
        s->kept[variable - CHECK_TEMP] = (uint8_t)reg;
}

/* ---- struct vcpu ---- */

static const uint32_t cells[] = {
    VCPU_OFFSET(gpr) + 8 * 10,
    VCPU_OFFSET(gpr) + 8 * 11,
    VCPU_OFFSET(gpr) + 8 * 15,
    VCPU_OFFSET(seg[0].base) + SEG_FS * sizeof(struct x86_segment),
    VCPU_OFFSET(seg[0].base) + SEG_GS * sizeof(struct x86_segment),
};
#define CELLS (sizeof(cells) / sizeof(cells[0]))

unsigned check_variable_at(int64_t disp)
{
    for (unsigned n = 0; n < CELLS; n++)
        if (disp == cells[n])
            return CHECK_CELL + n;
    for (unsigned n = 0; n < CHECK_TEMPS; n++)
        if (disp == LOCAL_OFFSET(temp) + 8 * n)
            return CHECK_TEMP + n;
    return CHECK_NONE;
}

static bool overlaps(int64_t disp, unsigned size, uint32_t cell)
{
    return disp < (int64_t)cell + 8 && disp + size > (int64_t)cell;
}

static void stored_in_cell(struct check_state *s, unsigned cell, unsigned from, bool whole)
{
    struct check_address a, own = check_of(cell);
    if (whole && from != CHECK_NONE && check_address_of(s, from, &a) && check_is_near(&a, &own))
        check_move(s, cell, a.at);
    else
        overwrite(s, cell);
}

void check_stored(struct check_state *s, int64_t disp, unsigned size, unsigned from)
{
    for (unsigned n = 0; n < CELLS; n++)
        if (overlaps(disp, size, cells[n]))
            stored_in_cell(s, CHECK_CELL + n, from, size == 8 && disp == cells[n]);
    for (unsigned n = 0; n < CHECK_TEMPS; n++) {
        uint32_t cell = (uint32_t)(LOCAL_OFFSET(temp) + 8 * n);
        if (!overlaps(disp, size, cell))
            continue;
        forget_variable(s, CHECK_TEMP + n);
        s->kept[n] = (uint8_t)(CHECK_TEMP + n);
        if (size == 8 && disp == cell && from != CHECK_NONE && !check_is_scratch(from))
            s->kept[n] = (uint8_t)from;
    }
}

/* ---- facts ---- */

void check_end_slot(struct check_state *s, uint32_t slot)
{
    for (unsigned n = s->fact_count; n-- > 0;)
        if (s->facts[n].slot == slot)
            end_fact(s, n);
}

void check_add_fact(struct check_state *s, uint32_t slot, const struct check_address *from,
                    uint32_t n)
{
    check_end_slot(s, slot);
    if (s->fact_count == CHECK_FACTS)
        end_fact(s, 0);
    s->facts[s->fact_count++] = (struct check_fact){.from = *from, .slot = slot, .n = n};
}

const struct check_fact *check_fact_of(const struct check_state *s, uint32_t slot,
                                       const struct check_address *a)
{
    for (unsigned n = 0; n < s->fact_count; n++)
        if (s->facts[n].slot == slot && (a == NULL || check_is_near(&s->facts[n].from, a)))
            return &s->facts[n];
    return NULL;
}

/* ---- where paths meet ---- */

void check_forget(struct check_state *s)
{
    memset(s->r, 0, sizeof(s->r));
    memset(s->facts, 0, sizeof(s->facts));
    s->fact_count = 0;
    for (unsigned n = 0; n < CHECK_TEMPS; n++)
        s->kept[n] = (uint8_t)(CHECK_TEMP + n);
    s->r[S0] = s->r[S1] = stale;
    s->flags = CHECK_FLAGS_ANY;
    s->flags_reg = CHECK_NONE;
    s->flags_n = 0;
    s->flags_at = 0;
}

static void join_host(struct check_value *into, const struct check_value *from)
{
    if (into->kind != from->kind || into->write != from->write) {
        *into = stale;
    } else if (into->kind == CHECK_HOST) {
        into->n = into->n < from->n ? into->n : from->n;
    } else if (into->kind == CHECK_ADDEND) {
        into->n = intersect(&into->address, into->n, &from->address, from->n);
        if (into->n == 0)
            *into = stale;
    }
}

static void join_register(struct check_state *into, const struct check_state *from, unsigned reg)
{
    struct check_value *v = &into->r[reg];
    const struct check_value *other = &from->r[reg];
    struct check_address a, b;
    if (memcmp(v, other, sizeof(*v)) == 0)
        return;
    if (check_is_host(v) || check_is_host(other)) {
        join_host(v, other);
    } else if (check_is_scratch(reg) && check_address_of(into, reg, &a) &&
               check_address_of(from, reg, &b) && memcmp(&a, &b, sizeof(a)) == 0) {
        bool low = v->low && other->low;
        if (v->kind != CHECK_ANY)
            *v = (struct check_value){.kind = CHECK_SYM, .low = low, .address = a};
        return;
    } else {
        *v = any;
    }
    if (check_is_scratch(reg) && !has_address(v))
        forget_variable(into, reg);
}

static void join_facts(struct check_state *into, const struct check_state *from)
{
    for (unsigned n = into->fact_count; n-- > 0;) {
        struct check_fact *f = &into->facts[n];
        const struct check_fact *other = check_fact_of(from, f->slot, &f->from);
        if (other != NULL)
            f->n = intersect(&f->from, f->n, &other->from, other->n);
        if (other == NULL || f->n == 0)
            end_fact(into, n);
    }
}

bool check_join(struct check_state *into, const struct check_state *from)
{
    struct check_state before;
    memcpy(&before, into, sizeof(before)); /* with its padding */
    for (unsigned n = 0; n < CHECK_TEMPS; n++)
        if (into->kept[n] != from->kept[n])
            into->kept[n] = (uint8_t)(CHECK_TEMP + n);
    join_facts(into, from);
    for (unsigned n = 0; n < 16; n++)
        join_register(into, from, n);
    if (into->flags != from->flags || into->flags_reg != from->flags_reg ||
        into->flags_n != from->flags_n || into->flags_at != from->flags_at)
        into->flags = CHECK_FLAGS_ANY;
    if (into->exit != from->exit)
        into->exit = 0;
    into->polled = into->polled && from->polled;
    into->marked = into->marked && from->marked;
    into->room = into->room && from->room;
    into->x87 = into->x87 && from->x87;
    into->said_ret = into->said_ret && from->said_ret;
    if (into->returned != from->returned || into->return_to != from->return_to) {
        into->returned = CHECK_RETURNED; /* which no way out will do with */
        into->return_to = 0;
    }
    return memcmp(&before, into, sizeof(before)) != 0;
}
