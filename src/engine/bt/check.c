/* SPDX-License-Identifier: MIT */
/*
 * The graph of a translation: every path from every place where it can be entered, by address, with
 * the state that all paths to it have in common (check_state.h). An instruction is looked at again
 * when less is known at it than before; that ends, for knowledge is only lost.
 */
#include "engine/bt/check_state.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

enum { BYTE_NEW, BYTE_START, BYTE_INSIDE };

struct graph {
    struct check c;
    ZydisDecoder decoder;
    struct check_state *states; /* of the instructions found, in the order of finding */
    unsigned found;
    uint16_t *number; /* by byte: which of them starts here */
    uint16_t *jumps; /* by byte: 1 + where the instruction here may jump, in the unit; 0: nowhere */
    bool *goes_on;   /* … it may go on to the next */
    uint8_t *bytes;  /* what each byte is */
    uint8_t *waiting; /* instructions to be looked at (again) */
    uint16_t *stack;  /* … the latest found first: before what follows a check, what is done when
                         it fails, which knows least */
    unsigned depth, size;
};

static const char *disassemble(const struct check_insn *i, char text[128])
{
    ZydisFormatter formatter;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_ATT);
    if (ZYAN_FAILED(ZydisFormatterFormatInstruction(&formatter, &i->insn, i->operands,
                                                    i->insn.operand_count_visible, text, 128,
                                                    (ZyanU64)(uintptr_t)i->at, NULL)))
        snprintf(text, 128, "?");
    return text;
}

bool check_fail(struct check *c, const char *format, ...)
{
    char rule[128], text[128];
    va_list ap;

    if (c->failed)
        return false;
    c->failed = true;
    va_start(ap, format);
    vsnprintf(rule, sizeof(rule), format, ap);
    va_end(ap);
    if (c->i == NULL)
        snprintf(c->why, c->why_size, "%s", rule);
    else
        snprintf(c->why, c->why_size, "%s, at +%#x: %s", rule, bt_unit_offset(c->u, c->i->at),
                 disassemble(c->i, text));
    return false;
}

/* ---- edges ---- */

static bool flow(struct graph *g, const uint8_t *to, const struct check_state *s)
{
    struct check *c = &g->c;
    uint32_t offset = bt_unit_offset(c->u, to);

    if (offset == BT_NOWHERE)
        return check_fail(c, "flow: leaves the unit");
    if (g->bytes[offset] == BYTE_INSIDE)
        return check_fail(c, "flow: into the middle of an instruction");
    if (c->i != NULL && to == c->i->at + c->i->insn.length)
        g->goes_on[bt_unit_offset(c->u, c->i->at)] = true;
    else if (c->i != NULL)
        g->jumps[bt_unit_offset(c->u, c->i->at)] = (uint16_t)(offset + 1);
    if (g->bytes[offset] == BYTE_NEW)
        g->number[offset] = (uint16_t)g->found++;
    struct check_state *old = &g->states[g->number[offset]];
    if (g->bytes[offset] == BYTE_NEW) {
        g->bytes[offset] = BYTE_START;
        *old = *s;
    } else if (old->depth != s->depth) {
        return check_fail(c, "rsp: pushes differ between two paths");
    } else if (old->reach != s->reach || old->turning != s->turning) {
        return check_fail(c, "reach: differs between two paths");
    } else if (old->mapped != s->mapped) {
        return check_fail(c, "crossing: the page's mapping was not compared");
    } else if (!check_join(old, s)) {
        return true;
    }
    if (!g->waiting[offset])
        g->stack[g->depth++] = (uint16_t)offset;
    g->waiting[offset] = true;
    return true;
}

static bool flow_jump(struct graph *g, const uint8_t *to, const struct check_state *from)
{
    struct check_state s = *from;
    s.marked = false;
    return flow(g, to, &s);
}

static uint8_t *target_of(const struct check_insn *i)
{
    return i->at + i->insn.length + i->operands[0].imm.value.s;
}

static const uint8_t *next_of(const struct check_insn *i)
{
    return i->at + i->insn.length;
}

/* ---- exits ---- */

static const struct bt_exit *exit_at(const struct check_insn *i, const struct bt_unit *u)
{
    for (unsigned n = 0; n < u->exit_count; n++)
        if (u->exits[n].patch == next_of(i) - 4)
            return &u->exits[n];
    return NULL;
}

static bool is_entry_of(const struct bt_exit *x, const uint8_t *to)
{
    return to == (x->crossing     ? x->to->enter_crossing
                  : x->host_flags ? x->to->enter_host
                                  : x->to->enter_saved);
}

static bool poll_rule(struct check *c, const struct check_state *s)
{
    return s->polled || check_fail(c, "poll: an exit without one");
}

/* A jump that links, Jcc or JMP: it goes to its unlinked code, or where it was linked to. `s` is
 * where it jumps. */
static bool exit_rule(struct graph *g, const struct check_insn *i, const struct bt_exit *x,
                      const struct check_state *s)
{
    struct check *c = &g->c;
    const struct bt_unit *u = c->u;
    const uint8_t *to = target_of(i);
    bool crosses = ((x->target ^ u->rip) & MEM_PAGE_MASK) != 0;

    bool whole = i->insn.length == (i->insn.meta.category == ZYDIS_CATEGORY_COND_BR ? 6 : 5);
    if (!whole || ((uintptr_t)x->patch & 7) > 4)
        return check_fail(c, "exit: its place cannot be patched by one store");
    if (x->from != u || (x->to == NULL ? to != x->unlinked : !is_entry_of(x, to)))
        return check_fail(c, "exit: neither to its unlinked code nor where it is linked to");
    if (x->to != NULL && (x->to->key & BT_KEY_REACH) != s->reach)
        return check_fail(c, "reach: to a unit of another");
    if (x->crossing != crosses)
        return check_fail(c, "exit: crosses pages, and does not say so");
    if (s->returned == CHECK_RETURNED ||
        (s->returned == CHECK_RETURNED_TO && s->return_to != x->target))
        return check_fail(c, "return: goes on where the RET did not go");
    if (x->alone && u->alone)
        return check_fail(c, "exit: from a unit made without sharing to another");
    if (s->depth != 0)
        return check_fail(c, "rsp: pushes at an exit");
    if (!check_mapped(c, s))
        return check_fail(c, "crossing: the page's mapping was not compared");
    struct check_state unlinked = *s;
    unlinked.exit = (uint16_t)(1 + (x - u->exits));
    return poll_rule(c, s) && flow_jump(g, x->unlinked, &unlinked);
}

/* What is to run there, and where C goes on, is for the reach of now. */
static bool site_rule(struct check *c, const struct check_state *s)
{
    const struct check_value *v = &s->r[S1];
    if (v->kind != CHECK_SITE)
        return check_fail(c, "site: no record of this unit");
    return c->u->sites[v->n].key == ((c->u->key & ~BT_KEY_REACH) | s->reach) ||
           check_fail(c, "reach: the site is of another");
}

static bool stub_rule(struct check *c, const uint8_t *to, const struct check_state *s)
{
    const struct bt_stubs *stubs = &c->vm->stubs;
    const struct check_value *v = &s->r[S1];

    if (s->depth != 0)
        return check_fail(c, "rsp: pushes at an exit");
    if (to == stubs->unpaired[c->reach])
        return s->returned != CHECK_NOT_RETURNED || check_fail(c, "return: not behind a call");
    if (s->returned != CHECK_NOT_RETURNED && to != stubs->link)
        return check_fail(c, "return: neither goes on nor looks up");
    if (to == stubs->indirect || to == stubs->find || to == stubs->leave)
        return true;
    if (!check_mapped(c, s))
        return check_fail(c, "crossing: the page's mapping was not compared");
    if (to == stubs->link)
        return (v->kind == CHECK_EXIT && v->n + 1 == s->exit) ||
               check_fail(c, "exit: another's record, or none");
    if (to == stubs->site)
        return site_rule(c, s);
    return check_fail(c, "flow: to no known stub");
}

static bool is_inside(const struct graph *g, const uint8_t *to)
{
    return bt_unit_offset(g->c.u, to) != BT_NOWHERE;
}

/* table_rule has seen that it is an entry of `jumps` that was compared. */
static bool indirect_rule(struct check *c, const struct check_insn *i, const struct check_state *s)
{
    const ZydisDecodedOperand *o = &i->operands[0];
    if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.segment != ZYDIS_REGISTER_GS ||
        (o->mem.base == ZYDIS_REGISTER_NONE && o->mem.index == ZYDIS_REGISTER_NONE))
        return check_fail(c, "flow: an indirect jump not by the table");
    if (s->depth != 0)
        return check_fail(c, "rsp: pushes at an exit");
    if (!check_mapped(c, s))
        return check_fail(c, "crossing: the page's mapping was not compared");
    return s->polled || check_fail(c, "poll: an indirect jump without one");
}

static bool jump(struct graph *g, const struct check_insn *i, const struct check_state *s)
{
    struct check *c = &g->c;
    if (i->operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return indirect_rule(c, i, s);
    const struct bt_exit *x = exit_at(i, c->u);
    if (x != NULL)
        return exit_rule(g, i, x, s);
    const uint8_t *to = target_of(i);
    return is_inside(g, to) ? flow_jump(g, to, s) : stub_rule(c, to, s);
}

/* The stub fills the slot that S1 names (runtime.c, bt_do_miss). */
static bool what_rule(struct check *c, const struct check_state *s, unsigned table)
{
    const uint32_t size = sizeof(((struct tlb *)0)->slots[0][0]);
    const struct check_value *what = &s->r[S1];
    struct check_address a;
    if (what->kind != CHECK_SYM || !check_is_constant(&what->address) ||
        what->address.at > UINT32_MAX)
        return check_fail(c, "check: the stub is not told what");
    if (!check_exact(c, s, S0, &a))
        return check_fail(c, "check: of no address");
    if (bt_check_slot((uint32_t)what->address.at) * sizeof(struct tlb_fast) / size != table)
        return check_fail(c, "check: the slot to be filled is another table's");
    return ((what->address.at & BT_CHECK_WRITE) != 0) == (table & 1) ||
           check_fail(c, "check: a read for a write, or the other way round");
}

/* Which of the string stubs of this reach, or not at all. */
static bool is_string_stub(const struct check *c, const uint8_t *to)
{
    for (unsigned kind = 0; kind < BT_STRINGS; kind++)
        for (unsigned size = 0; size < 4; size++)
            if (to == c->vm->stubs.strings[c->code32][c->reach][kind][size])
                return true;
    return false;
}

/* It comes back to where the site resumes, or goes the site's way. */
static bool string_call(struct graph *g, const struct check_insn *i, const struct check_state *s)
{
    struct check *c = &g->c;
    struct check_state after = *s;
    if (s->depth != 0)
        return check_fail(c, "rsp: pushes at a call");
    if (s->returned != CHECK_NOT_RETURNED)
        return check_fail(c, "return: neither goes on nor looks up");
    if (!check_mapped(c, s))
        return check_fail(c, "crossing: the page's mapping was not compared");
    if (!site_rule(c, s))
        return false;
    if (c->u->sites[s->r[S1].n].resume != bt_exec(c->vm, next_of(i)))
        return check_fail(c, "site: a string that goes on elsewhere");
    after.room = after.said_ret = after.marked = after.x87 = false;
    check_forget(&after);
    return flow(g, next_of(i), &after);
}

/* It loads the x87 state, and keeps two registers in temp meanwhile. */
static bool x87_call(struct graph *g, const struct check_insn *i, const struct check_state *s)
{
    struct check_state after = *s;
    if (s->depth != 0)
        return check_fail(&g->c, "rsp: pushes at a call");
    check_stored(&after, LOCAL_OFFSET(temp[3]), 16, CHECK_NONE);
    after.x87 = true;
    after.marked = false;
    return flow(g, next_of(i), &after);
}

/* The check stub of the unit's reach. It comes back with the guest's registers. */
static bool stub_call(struct graph *g, const struct check_insn *i, const struct check_state *s)
{
    struct check *c = &g->c;
    const unsigned reach = c->reach;
    if (is_string_stub(c, target_of(i)))
        return string_call(g, i, s);
    if (target_of(i) == c->vm->stubs.x87)
        return x87_call(g, i, s);
    if (target_of(i) != c->vm->stubs.check[reach][0] &&
        target_of(i) != c->vm->stubs.check[reach][1])
        return check_fail(c, "flow: a call of something else than the check stub");
    bool write = target_of(i) == c->vm->stubs.check[reach][1];
    if (s->depth != 0)
        return check_fail(c, "rsp: pushes at a call");
    if (!s->marked)
        return check_fail(c, "mark: a miss that does not say where in the guest it is");
    if (!check_mapped(c, s))
        return check_fail(c, "crossing: the page's mapping was not compared");
    if (!what_rule(c, s, 2 * reach + write))
        return false;
    struct check_state after = *s;
    check_called(&after, write);
    return flow(g, next_of(i), &after);
}

/* A call of the guest's. Behind it nothing is known but what every unit that returns has done, and
 * that the mapping is the one it was called under (return.c). */
static bool guest_call(struct graph *g, const struct check_insn *i, const struct bt_exit *x,
                       const struct check_state *s)
{
    struct check *c = &g->c;
    struct check_state after = {
        .mapped = s->mapped, .polled = true, .returned = CHECK_RETURNED, .reach = s->reach};
    if (!(x != NULL ? exit_rule(g, i, x, s) : indirect_rule(c, i, s)))
        return false;
    if (!s->room)
        return check_fail(c, "return: a call, and perhaps no room on the return stack");
    check_forget(&after);
    after.r[S0] = (struct check_value){.kind = CHECK_ANY}; /* ret() has seen to it */
    return flow(g, next_of(i), &after);
}

static bool call(struct graph *g, const struct check_insn *i, const struct check_state *s)
{
    const struct bt_exit *x = exit_at(i, g->c.u);
    if (x == NULL && i->operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return stub_call(g, i, s);
    return guest_call(g, i, x, s);
}

static bool ret(struct check *c, const struct check_state *s)
{
    if (s->depth != 0)
        return check_fail(c, "rsp: pushes at an exit");
    if (s->returned != CHECK_NOT_RETURNED)
        return check_fail(c, "return: neither goes on nor looks up");
    if (!s->said_ret)
        return check_fail(c, "return: does not say where it is");
    if (check_is_host(&s->r[S0]))
        return check_fail(c, "host address: used as data");
    if (!check_mapped(c, s))
        return check_fail(c, "crossing: the page's mapping was not compared");
    return poll_rule(c, s);
}

static bool branch(struct graph *g, const struct check_insn *i, const struct check_state *s)
{
    struct check_state taken, next;
    const struct bt_exit *x = exit_at(i, g->c.u);
    check_branch(i, s, &taken, &next);
    if (!flow(g, next_of(i), &next))
        return false;
    return x != NULL                    ? exit_rule(g, i, x, &taken)
           : is_inside(g, target_of(i)) ? flow_jump(g, target_of(i), &taken)
                                        : stub_rule(&g->c, target_of(i), &taken);
}

static bool transfer(struct graph *g, const struct check_insn *i, struct check_state *s)
{
    switch (i->insn.meta.category) {
    case ZYDIS_CATEGORY_UNCOND_BR:
        return jump(g, i, s);
    case ZYDIS_CATEGORY_CALL:
        return call(g, i, s);
    case ZYDIS_CATEGORY_COND_BR:
        return branch(g, i, s);
    case ZYDIS_CATEGORY_RET:
        return ret(&g->c, s);
    default:
        check_step(&g->c, i, s);
        return flow(g, next_of(i), s);
    }
}

/* ---- walking ---- */

static bool visit(struct graph *g, unsigned offset)
{
    struct check *c = &g->c;
    struct check_insn i; /* large, and all of it is the decoder's to fill */
    struct check_state s = g->states[g->number[offset]];

    i.at = bt_unit_place(c->u, offset);
    c->i = NULL;
    const uint8_t *end =
        i.at < c->u->code_end && i.at >= c->u->code ? c->u->code_end : c->u->cold_end;
    if (ZYAN_FAILED(
            ZydisDecoderDecodeFull(&g->decoder, i.at, (size_t)(end - i.at), &i.insn, i.operands)))
        return check_fail(c, "flow: no instruction at +%#x", offset);
    c->i = &i;
    c->reach = s.reach;
    for (unsigned n = 1; n < i.insn.length; n++) {
        if (g->bytes[offset + n] == BYTE_START)
            return check_fail(c, "flow: into the middle of an instruction");
        g->bytes[offset + n] = BYTE_INSIDE;
    }
    s.marked |= check_has_mark(c, &i);
    bool good = check_rules(c, &i, &s) && transfer(g, &i, &s);
    c->i = NULL;
    return good;
}

static bool walk(struct graph *g)
{
    while (g->depth > 0) {
        unsigned at = g->stack[--g->depth];
        g->waiting[at] = false;
        if (!visit(g, at))
            return false;
    }
    return true;
}

/* ---- loops ---- */

enum { COLOUR_NEW, COLOUR_OPEN, COLOUR_DONE };

static unsigned next_start(const struct graph *g, unsigned at)
{
    do
        at++;
    while (g->bytes[at] != BYTE_START);
    return at;
}

/* A way on that is not done yet; false: none. */
static bool way_on(const struct graph *g, unsigned at, const uint8_t *colour, unsigned *to)
{
    if (g->goes_on[at] && colour[ *to = next_start(g, at)] != COLOUR_DONE)
        return true;
    return g->jumps[at] != 0 && colour[*to = g->jumps[at] - 1u] != COLOUR_DONE;
}

/* Depth first from each instruction: to one that is still open leads a way from itself. */
static bool loop_rule(struct graph *g, uint8_t *colour)
{
    for (unsigned from = 0; from < g->size; from++) {
        if (g->bytes[from] != BYTE_START || colour[from] != COLOUR_NEW)
            continue;
        g->stack[g->depth++] = (uint16_t)from;
        while (g->depth > 0) {
            unsigned at = g->stack[g->depth - 1], to;
            colour[at] = COLOUR_OPEN;
            if (!way_on(g, at, colour, &to)) {
                colour[at] = COLOUR_DONE;
                g->depth--;
            } else if (colour[to] == COLOUR_OPEN) {
                return check_fail(&g->c, "poll: a loop within the unit, at +%#x", to);
            } else {
                g->stack[g->depth++] = (uint16_t)to;
            }
        }
    }
    return true;
}

/* ---- entries ---- */

static bool enter(struct graph *g, const uint8_t *at, uint8_t key, unsigned mapped, bool polled)
{
    struct check_state s = {
        .mapped = (uint8_t)mapped, .polled = polled, .reach = key & BT_KEY_REACH};
    check_forget(&s);
    return flow(g, at, &s);
}

static bool enter_everywhere(struct graph *g)
{
    const struct bt_unit *u = g->c.u;
    bool good = enter(g, u->enter_host, u->key, CHECK_PAGE_FIRST, false) &&
                enter(g, u->enter_saved, u->key, CHECK_PAGE_FIRST, false) &&
                enter(g, u->enter_crossing, u->key, 0, false);
    for (unsigned n = 0; good && n < u->site_count; n++) {
        const struct bt_site *s = &u->sites[n];
        if (s->from != u)
            return check_fail(&g->c, "site: of another unit");
        if (s->resume != NULL) /* C code has looked, and knows the mapping */
            good = enter(g, g->c.vm->memory.write + (s->resume - g->c.vm->memory.exec), s->key,
                         CHECK_PAGE_FIRST | (u->second != NULL ? CHECK_PAGE_SECOND : 0), true);
    }
    return good;
}

/* What runtime.c takes for granted of the lists. */
static bool lists_rule(struct check *c)
{
    const struct bt_unit *u = c->u;
    for (unsigned n = 0; n < u->mark_count; n++)
        if (u->marks[n].rip >= MEM_PAGE_SIZE || (n > 0 && u->marks[n].host < u->marks[n - 1].host))
            return check_fail(c, "mark: out of order");
    return true;
}

static bool place_rule(struct check *c)
{
    const struct bt_vm *vm = c->vm;
    const struct bt_unit *u = c->u;
    return (u->code >= vm->first && u->code < u->code_end && u->code_end <= vm->cold &&
            u->cold >= vm->cold && u->cold < u->cold_end &&
            u->cold_end <= vm->memory.write + vm->memory.size &&
            u->code_end - u->code + (u->cold_end - u->cold) <= (ptrdiff_t)BT_UNIT_BYTES) ||
           check_fail(c, "place: not in the cache, or too long");
}

/* Jcc, and JMP and CALL, begin two bytes and one before what is patched. */
static bool has_jump(const struct graph *g, const struct bt_exit *x)
{
    uint32_t at = bt_unit_offset(g->c.u, x->patch);
    return at != BT_NOWHERE && at >= 2 &&
           ((g->bytes[at - 1] == BYTE_START && (x->patch[-1] == 0xe9 || x->patch[-1] == 0xe8)) ||
            (g->bytes[at - 2] == BYTE_START && x->patch[-2] == 0x0f));
}

static void check_graph(struct graph *g)
{
    struct check *c = &g->c;
    if (!lists_rule(c) || !enter_everywhere(g) || !walk(g) || !loop_rule(g, g->waiting))
        return;
    for (unsigned n = 0; n < c->u->exit_count; n++)
        if (!has_jump(g, &c->u->exits[n]))
            check_fail(c, "exit: %u has no jump", n);
}

int bt_check(const struct bt_vm *vm, const struct bt_unit *u, char *why, size_t n)
{
    struct graph g = {
        .c = {.vm = vm, .u = u, .why = why, .why_size = n, .code32 = (u->key & BT_KEY_CODE32) != 0},
        .size = (unsigned)(u->code_end - u->code + (u->cold_end - u->cold))};
    int rc = -ENOMEM;

    if (!place_rule(&g.c))
        return -EINVAL;
    ZydisDecoderInit(&g.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    g.states = malloc(g.size * sizeof(*g.states)); /* most of it is never touched */
    g.number = malloc(g.size * sizeof(*g.number));
    g.stack = malloc(g.size * sizeof(*g.stack));
    g.jumps = calloc(g.size, sizeof(*g.jumps));
    g.goes_on = calloc(g.size, 1);
    g.bytes = calloc(g.size, 1);
    g.waiting = calloc(g.size, 1);
    if (g.states != NULL && g.number != NULL && g.stack != NULL && g.jumps != NULL &&
        g.goes_on != NULL && g.bytes != NULL && g.waiting != NULL) {
        check_graph(&g);
        rc = g.c.failed ? -EINVAL : 0;
    }
    free(g.states);
    free(g.number);
    free(g.stack);
    free(g.jumps);
    free(g.goes_on);
    free(g.bytes);
    free(g.waiting);
    return rc;
}

static void report_part(const struct bt_unit *u, const uint8_t *from, const uint8_t *end, FILE *f)
{
    ZydisDecoder decoder;
    struct check_insn i = {.at = (uint8_t *)from};
    char text[128];

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (; i.at < end; i.at += i.insn.length) {
        if (ZYAN_FAILED(
                ZydisDecoderDecodeFull(&decoder, i.at, (size_t)(end - i.at), &i.insn, i.operands)))
            break;
        fprintf(f, "  +%04x ", bt_unit_offset(u, i.at));
        for (unsigned n = 0; n < 15; n++)
            fprintf(f, n < i.insn.length ? "%02x" : "  ", i.at[n]);
        fprintf(f, "  %s\n", disassemble(&i, text));
    }
}

void bt_check_report(const struct bt_unit *u, FILE *f)
{
    fprintf(f, "the unit at %#llx:\n", (unsigned long long)u->rip);
    report_part(u, u->code, u->code_end, f);
    report_part(u, u->cold, u->cold_end, f);
}
