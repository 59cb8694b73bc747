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
    struct check_state *states; /* at each byte that an instruction starts at */
    uint8_t *bytes;             /* what each byte is */
    uint8_t *waiting;           /* instructions to be looked at (again) */
    unsigned size, lowest;
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
        snprintf(c->why, c->why_size, "%s, at +%#x: %s", rule, (unsigned)(c->i->at - c->u->code),
                 disassemble(c->i, text));
    return false;
}

/* ---- edges ---- */

static bool flow(struct graph *g, const uint8_t *to, const struct check_state *s)
{
    struct check *c = &g->c;
    ptrdiff_t offset = to - c->u->code;

    if (offset < 0 || offset >= (ptrdiff_t)g->size)
        return check_fail(c, "flow: leaves the unit");
    if (g->bytes[offset] == BYTE_INSIDE)
        return check_fail(c, "flow: into the middle of an instruction");
    struct check_state *old = &g->states[offset];
    if (g->bytes[offset] == BYTE_NEW) {
        g->bytes[offset] = BYTE_START;
        *old = *s;
    } else if (old->depth != s->depth) {
        return check_fail(c, "rsp: pushes differ between two paths");
    } else if (old->mapped != s->mapped) {
        return check_fail(c, "crossing: the page's mapping was not compared");
    } else if (!check_join(old, s)) {
        return true;
    }
    g->waiting[offset] = true;
    if ((unsigned)offset < g->lowest)
        g->lowest = (unsigned)offset;
    return true;
}

static bool flow_jump(struct graph *g, const uint8_t *to, struct check_state s)
{
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

static bool poll_rule(struct check *c, const struct bt_exit *x, const struct check_state *s)
{
    const struct bt_unit *u = c->u;
    bool backward = x->target <= u->rip + x->rip || x->target <= u->rip;
    return s->polled || !(backward || x->crossing) ||
           check_fail(c, "poll: a jump back or to another page without one");
}

/* A jump that links: it goes to its unlinked code, or where it was linked to. */
static bool exit_rule(struct graph *g, const struct check_insn *i, const struct bt_exit *x,
                      const struct check_state *s)
{
    struct check *c = &g->c;
    const struct bt_unit *u = c->u;
    const uint8_t *to = target_of(i);
    bool crosses = ((x->target ^ u->rip) & MEM_PAGE_MASK) != 0;

    if (i->insn.length != 5 || ((uintptr_t)x->patch & 3) != 0)
        return check_fail(c, "exit: its place cannot be patched by one store");
    if (x->from != u || (x->to == NULL ? to != x->unlinked : !is_entry_of(x, to)))
        return check_fail(c, "exit: neither to its unlinked code nor where it is linked to");
    if (x->crossing != crosses)
        return check_fail(c, "exit: crosses pages, and does not say so");
    if (s->depth != 0)
        return check_fail(c, "rsp: pushes at an exit");
    if (!check_mapped(c, s))
        return check_fail(c, "crossing: the page's mapping was not compared");
    struct check_state unlinked = *s;
    unlinked.exit = (uint16_t)(1 + (x - u->exits));
    return poll_rule(c, x, s) && flow_jump(g, x->unlinked, unlinked);
}

static bool stub_rule(struct check *c, const uint8_t *to, const struct check_state *s)
{
    const struct bt_stubs *stubs = &c->vm->stubs;
    const struct check_value *v = &s->r[S1];

    if (s->depth != 0)
        return check_fail(c, "rsp: pushes at an exit");
    if (to == stubs->indirect || to == stubs->find || to == stubs->leave)
        return true;
    if (!check_mapped(c, s))
        return check_fail(c, "crossing: the page's mapping was not compared");
    if (to == stubs->link)
        return (v->kind == CHECK_EXIT && v->n + 1 == s->exit) ||
               check_fail(c, "exit: another's record, or none");
    if (to == stubs->site)
        return v->kind == CHECK_SITE || check_fail(c, "site: no record of this unit");
    return check_fail(c, "flow: to no known stub");
}

static bool is_inside(const struct graph *g, const uint8_t *to)
{
    return to >= g->c.u->code && to < g->c.u->code + g->size;
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
    return is_inside(g, to) ? flow_jump(g, to, *s) : stub_rule(c, to, s);
}

/* The stub fills the slot that S1 names (runtime.c, bt_do_miss). */
static bool what_rule(struct check *c, const struct check_value *what, unsigned table)
{
    const uint32_t size = sizeof(((struct tlb *)0)->slots[0][0]);
    if (what->kind != CHECK_CONSTANT)
        return check_fail(c, "check: the stub is not told what");
    uint32_t slot = what->n >> 16;
    if (slot / size != table || slot % sizeof(struct tlb_fast) != 0)
        return check_fail(c, "check: the slot to be filled is another table's");
    return ((what->n & BT_CHECK_WRITE) != 0) == (table & 1) ||
           check_fail(c, "check: a read for a write, or the other way round");
}

/* Only the check stub of the unit's reach is called. It comes back with the guest's registers. */
static bool call(struct graph *g, const struct check_insn *i, const struct check_state *s)
{
    struct check *c = &g->c;
    const unsigned reach = c->u->key & BT_KEY_REACH;
    if (i->operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
        (target_of(i) != c->vm->stubs.check[reach][0] &&
         target_of(i) != c->vm->stubs.check[reach][1]))
        return check_fail(c, "flow: a call of something else than the check stub");
    bool write = target_of(i) == c->vm->stubs.check[reach][1];
    if (s->depth != 0)
        return check_fail(c, "rsp: pushes at a call");
    if (!s->marked)
        return check_fail(c, "mark: a miss that does not say where in the guest it is");
    if (!check_mapped(c, s))
        return check_fail(c, "crossing: the page's mapping was not compared");
    if (!what_rule(c, &s->r[S1], 2 * reach + write))
        return false;
    struct check_state after = *s;
    check_called(&after, write);
    return flow(g, next_of(i), &after);
}

static bool transfer(struct graph *g, const struct check_insn *i, struct check_state *s)
{
    struct check_state taken, next;
    switch (i->insn.meta.category) {
    case ZYDIS_CATEGORY_UNCOND_BR:
        return jump(g, i, s);
    case ZYDIS_CATEGORY_CALL:
        return call(g, i, s);
    case ZYDIS_CATEGORY_COND_BR:
        check_branch(i, s, &taken, &next);
        return flow_jump(g, target_of(i), taken) && flow(g, next_of(i), &next);
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
    struct check_state s = g->states[offset];

    i.at = c->u->code + offset;
    c->i = NULL;
    if (ZYAN_FAILED(
            ZydisDecoderDecodeFull(&g->decoder, i.at, g->size - offset, &i.insn, i.operands)))
        return check_fail(c, "flow: no instruction at +%#x", offset);
    c->i = &i;
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
    for (unsigned at = 0; at < g->size; at = g->lowest) {
        g->lowest = at + 1;
        if (!g->waiting[at])
            continue;
        g->waiting[at] = false;
        if (!visit(g, at))
            return false;
    }
    return true;
}

static bool enter(struct graph *g, const uint8_t *at, unsigned mapped)
{
    struct check_state s = {.mapped = (uint8_t)mapped};
    check_forget(&s);
    return flow(g, at, &s);
}

static bool enter_everywhere(struct graph *g)
{
    const struct bt_unit *u = g->c.u;
    bool good = enter(g, u->enter_host, CHECK_PAGE_FIRST) &&
                enter(g, u->enter_saved, CHECK_PAGE_FIRST) && enter(g, u->enter_crossing, 0);
    for (unsigned n = 0; good && n < u->site_count; n++) {
        const struct bt_site *s = &u->sites[n];
        if (s->from != u)
            return check_fail(&g->c, "site: of another unit");
        if (s->resume != NULL)
            good = enter(g, g->c.vm->memory.write + (s->resume - g->c.vm->memory.exec),
                         CHECK_PAGE_FIRST | (u->second != NULL ? CHECK_PAGE_SECOND : 0));
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
    return (u->code >= vm->first && u->code < u->code_end &&
            u->code_end <= vm->memory.write + vm->memory.size &&
            u->code_end - u->code <= (ptrdiff_t)BT_UNIT_BYTES) ||
           check_fail(c, "place: not in the cache, or too long");
}

static void check_graph(struct graph *g)
{
    struct check *c = &g->c;
    if (!lists_rule(c) || !enter_everywhere(g) || !walk(g))
        return;
    for (unsigned n = 0; n < c->u->exit_count; n++) {
        ptrdiff_t at = c->u->exits[n].patch - 1 - c->u->code;
        if (at < 0 || at >= (ptrdiff_t)g->size || g->bytes[at] != BYTE_START ||
            c->u->code[at] != 0xe9) {
            check_fail(c, "exit: %u has no jump", n);
            return;
        }
    }
}

int bt_check(const struct bt_vm *vm, const struct bt_unit *u, char *why, size_t n)
{
    struct graph g = {.c = {.vm = vm, .u = u, .why = why, .why_size = n},
                      .size = (unsigned)(u->code_end - u->code)};
    int rc = -ENOMEM;

    if (!place_rule(&g.c))
        return -EINVAL;
    ZydisDecoderInit(&g.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    g.states = malloc(g.size * sizeof(*g.states));
    g.bytes = calloc(g.size, 1);
    g.waiting = calloc(g.size, 1);
    if (g.states != NULL && g.bytes != NULL && g.waiting != NULL) {
        check_graph(&g);
        rc = g.c.failed ? -EINVAL : 0;
    }
    free(g.states);
    free(g.bytes);
    free(g.waiting);
    return rc;
}

void bt_check_report(const struct bt_unit *u, FILE *f)
{
    ZydisDecoder decoder;
    struct check_insn i = {.at = u->code};
    char text[128];

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    fprintf(f, "the unit at %#llx:\n", (unsigned long long)u->rip);
    for (; i.at < u->code_end; i.at += i.insn.length) {
        if (ZYAN_FAILED(ZydisDecoderDecodeFull(&decoder, i.at, (size_t)(u->code_end - i.at),
                                               &i.insn, i.operands)))
            break;
        fprintf(f, "  +%04x ", (unsigned)(i.at - u->code));
        for (unsigned n = 0; n < 15; n++)
            fprintf(f, n < i.insn.length ? "%02x" : "  ", i.at[n]);
        fprintf(f, "  %s\n", disassemble(&i, text));
    }
}
