/* SPDX-License-Identifier: MIT */
/*
 * Guest memory operands in translated code: the linear address, the check that it may be accessed,
 * and where it is in the host. Each check has a slot (x86/tlb.h), a copy of a TLB entry chosen by
 * the place in the code. So the host's address does not wait for a table look-up by the guest's;
 * of an operand with a base register alone it is the guest's own operand, with S1 as an index:
 *
 *            lea  disp(base), S0
 *            add  gs:slot, S0          - linear page: the offset in the page if the slot is this
 *            cmp  $(4096 - size), S0   page's; tag and page crossing in one unsigned comparison
 *            ja   cold
 *            mov  gs:slot+8, S1        host page - linear page
 *     after: access at disp(base, S1)
 *     cold:  sub  gs:slot, S0
 *            mov  $what, S1
 *            call check                by the table, or bt_do_miss; fills the slot
 *            jmp  after
 *
 * One check serves all accesses of the unit by the same registers, as long as these change by
 * constants only: it is made for the span of them (a fact, struct tr_fact), and each of the others
 * is `mov gs:slot+8, S1` and itself. Nothing between them touches the slot: it is filled by its own
 * check, and forgotten by C code that does not return to the same place (bt_do_site). When the span
 * crosses pages the code goes on in a unit of its own, made without sharing (bt_unit.alone).
 */
#include "engine/bt/translate.h"

#define RIP_OFFSET  offsetof(struct vcpu, rip)
#define ZERO_OFFSET offsetof(struct vcpu, zero)
#define SPAN_MAX    256 /* bytes: longer ones cross pages too often */

static unsigned reach_of(const struct translation *t)
{
    return t->reach;
}

/* ---- addresses ---- */

struct tr_address tr_address_of(const struct translation *t, const struct bt_insn *i)
{
    const struct insn *in = &i->in;
    struct tr_address a = {.seg = in->seg == SEG_FS || in->seg == SEG_GS ? in->seg : SEG_DS,
                           .base = in->base,
                           .index = in->index,
                           .scale = in->scale,
                           .wide = in->address_size == t->word,
                           .disp = in->disp};
    if (in->base == RIP_OFFSET) { /* disp has the instruction's length in it */
        a.base = ZERO_OFFSET;
        a.by_rip = true;
        a.disp += (int64_t)insn_rip(t, i);
    }
    if (a.base == ZERO_OFFSET && a.index == ZERO_OFFSET && in->address_size == 4) {
        a.disp = (uint32_t)a.disp;
        a.wide = true;
    }
    if (a.index == ZERO_OFFSET)
        a.scale = 0;
    return a;
}

struct tr_address tr_stack(int32_t disp)
{
    return (struct tr_address){
        .seg = SEG_DS, .base = 8 * RSP, .index = ZERO_OFFSET, .wide = true, .disp = disp};
}

static bool is_constant(const struct tr_address *a)
{
    return a->base == ZERO_OFFSET && a->index == ZERO_OFFSET;
}

static bool is_short(int64_t n)
{
    return n == (int32_t)n;
}

/* An address that is a displacement of the host's. */
static bool is_short_constant(const struct tr_address *a)
{
    return is_constant(a) && a->seg == SEG_DS && is_short(a->disp) &&
           is_short(-(a->disp & ~(int64_t)0xfff));
}

/* One register of the host's: the operand needs no scratch register but S1. */
static bool is_direct(const struct translation *t, const struct tr_address *a)
{
    return !t->code32 && a->seg == SEG_DS && a->wide && a->base != ZERO_OFFSET &&
           a->index == ZERO_OFFSET && host_of(a->base / 8) >= 0;
}

/* The host register that holds a base or index; loads it into `scratch` when it is in memory. */
static unsigned address_part(struct translation *t, uint8_t offset, unsigned scratch)
{
    int host = host_of(offset / 8);
    if (host >= 0)
        return (unsigned)host;
    emit_load(&t->e, scratch, offset);
    if (scratch == S1)
        t->in_s1 = 0;
    return scratch;
}

/* What an address by RSP has to have added (emit_stack.c). */
static int32_t rsp_of(const struct translation *t, const struct tr_address *a)
{
    return a->base == 8 * RSP ? t->rsp : 0;
}

/* Of registers and displacement alone. */
void tr_linear_to(struct translation *t, const struct tr_address *a, unsigned to)
{
    unsigned base = EMIT_NO_BASE, index = EMIT_NO_INDEX;
    int32_t disp = (int32_t)a->disp + rsp_of(t, a);
    if (is_constant(a)) {
        if (a->by_rip)
            tr_put_linear(t, to, (uint64_t)a->disp);
        else
            emit_mov_constant(&t->e, to, (uint64_t)a->disp);
        return;
    }
    if (a->base != ZERO_OFFSET)
        base = address_part(t, a->base, S0);
    if (a->index != ZERO_OFFSET)
        index = address_part(t, a->index, S1);
    bool wide = a->wide && !t->code32;
    if (wide && index == EMIT_NO_INDEX && disp == 0)
        emit_mov(&t->e, to, base);
    else
        emit_lea(&t->e, wide, to, base, index, a->scale, disp);
}

/* RFLAGS survive. */
void tr_linear(struct translation *t, const struct tr_address *a)
{
    uint32_t segment = (uint32_t)(VCPU_OFFSET(seg[0].base) + a->seg * sizeof(struct x86_segment));
    if (a->seg == SEG_DS) {
        tr_linear_to(t, a, S0);
    } else if (is_constant(a) && is_short(a->disp)) {
        emit_gs(&t->e, !t->code32, 0x8b, S0, segment);
        emit_lea(&t->e, !t->code32, S0, S0, EMIT_NO_INDEX, 0, (int32_t)a->disp);
    } else {
        tr_linear_to(t, a, S0);
        emit_gs(&t->e, !t->code32, 0x8b, S1, segment);
        emit_lea(&t->e, !t->code32, S0, S0, S1, 0, 0);
        t->in_s1 = 0;
    }
}

/* ---- slots ---- */

/* Of which there are TLB_SLOTS: by RSP; by FS; by GS and a displacement; constant addresses; and
 * those given out round and round. */
enum {
    SLOT_STACK,
    SLOT_FS,
    SLOT_GS,
    SLOT_CONSTANT = SLOT_GS + 16,
    SLOT_FIRST = SLOT_CONSTANT + 128
};

static unsigned slot_of(struct translation *t, const struct tr_address *a)
{
    uint64_t page = (uint64_t)a->disp >> 12;
    if (a->base == 8 * RSP && a->index == ZERO_OFFSET)
        return SLOT_STACK;
    if (a->seg == SEG_FS)
        return SLOT_FS;
    if (a->seg == SEG_GS && is_constant(a))
        return SLOT_GS + page % (SLOT_CONSTANT - SLOT_GS);
    if (is_constant(a))
        return SLOT_CONSTANT + page % (SLOT_FIRST - SLOT_CONSTANT);
    return SLOT_FIRST + t->vm->next_slot++ % (TLB_SLOTS - SLOT_FIRST);
}

/* ---- what is known already ---- */

static bool same_registers(const struct tr_address *a, const struct tr_address *b)
{
    return a->seg == b->seg && a->base == b->base && a->index == b->index && a->scale == b->scale &&
           a->wide == b->wide;
}

static struct tr_fact *find_fact(struct translation *t, const struct tr_address *a, unsigned size,
                                 bool write)
{
    for (unsigned n = 0; n < TR_FACTS; n++) {
        struct tr_fact *f = &t->facts[n];
        if (f->slot != 0 && same_registers(&f->of, a) && a->disp >= f->low &&
            a->disp + size <= f->high && (f->write || !write))
            return f;
    }
    return NULL;
}

void tr_forget(struct translation *t)
{
    memset(t->facts, 0, sizeof(t->facts));
    t->in_s1 = 0;
}

static bool depends(uint8_t offset, uint16_t registers)
{
    return offset != ZERO_OFFSET && (registers >> offset / 8 & 1) != 0;
}

/* By how much the instruction moves the address; false: it may be any other afterwards. */
static bool moves_by(const struct bt_insn *i, const struct tr_address *a, int32_t *by)
{
    *by = 0;
    if (depends(a->index, i->writes))
        return false;
    if (!depends(a->base, i->writes))
        return true;
    *by = i->add;
    return i->adds_to == a->base / 8;
}

void tr_wrote(struct translation *t, const struct bt_insn *i)
{
    int32_t by;
    for (unsigned n = 0; n < TR_FACTS; n++) {
        struct tr_fact *f = &t->facts[n];
        if (f->slot == 0)
            continue;
        if (!moves_by(i, &f->of, &by) || (i->kind == KIND_SWAPGS && f->of.seg == SEG_GS))
            f->slot = 0;
        f->low -= by;
        f->high -= by;
    }
}

static void note(struct translation *t, const struct tr_address *a, int64_t low, int64_t high,
                 bool write, uint32_t slot)
{
    struct tr_fact *free = NULL;
    for (unsigned n = 0; n < TR_FACTS && free == NULL; n++)
        free = t->facts[n].slot == 0 ? &t->facts[n] : NULL;
    if (free == NULL)
        free = &t->facts[t->next_fact++ % TR_FACTS];
    *free = (struct tr_fact){.of = *a, .low = low, .high = high, .write = write, .slot = slot};
}

/* ---- what is to come ---- */

struct span {
    const struct tr_address *of;
    int64_t low, high;
    bool write;
    int64_t moved; /* the registers since */
    unsigned uses;
};

static void extend(struct span *s, const struct tr_address *a, unsigned size, bool write)
{
    int64_t low = a->disp + s->moved, high = low + size;
    if ((write && !s->write) || !same_registers(a, s->of))
        return;
    low = low < s->low ? low : s->low;
    high = high > s->high ? high : s->high;
    if (high - low > SPAN_MAX)
        return;
    s->low = low;
    s->high = high;
    s->uses++;
}

static void extend_by(const struct translation *t, struct span *s, const struct bt_insn *i)
{
    struct tr_address a;
    if (i->memory >= 0 && i->kind != KIND_LEA) {
        const ZydisDecodedOperand *o = &i->full->operands[i->memory];
        a = tr_address_of(t, i);
        extend(s, &a, o->size / 8, (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0);
    }
    if (i->pushes) {
        a = tr_stack(-t->word);
        extend(s, &a, t->word, true);
    } else if (i->kind == KIND_POP || i->kind == KIND_RET) {
        a = tr_stack(0);
        extend(s, &a, t->word, false);
    }
}

/* Behind STI the unit must go on to the next instruction. */
static bool may_share(const struct translation *t, const struct tr_address *a)
{
    return !t->u->alone && a->wide && !(is_constant(a) && a->seg == SEG_DS) && !tr_is_shielded(t);
}

/* What one check is to serve: accesses by the same registers until these are lost, C code runs or
 * the reach changes. */
static struct span span_of(const struct translation *t, const struct tr_address *a, unsigned size,
                           bool write)
{
    struct span s = {.of = a, .low = a->disp, .high = a->disp + size, .write = write};
    int32_t by;
    if (!may_share(t, a))
        return s;
    for (const struct bt_insn *i = t->i; i < t->s->insns + t->s->count; i++) {
        if (i->kind == KIND_SITE || i->kind == KIND_SITE_END || i->kind == KIND_SMAP ||
            i->kind == KIND_STRING)
            break;
        extend_by(t, &s, i);
        if (!moves_by(i, a, &by))
            break;
        s.moved += by;
    }
    return s;
}

/* ---- checks ---- */

/* A slot serves one address: an older fact of it ends. */
static void forget_slot(struct translation *t, uint32_t slot)
{
    for (unsigned n = 0; n < TR_FACTS; n++)
        if (t->facts[n].slot == slot)
            t->facts[n].slot = 0;
    if (t->in_s1 == slot)
        t->in_s1 = 0;
}

static struct bt_cold *new_check(struct translation *t, unsigned size, bool write, uint32_t flags,
                                 unsigned slot)
{
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    uint32_t number = (reach_of(t) * 2 + write) * TLB_SLOTS + slot;
    *c = (struct bt_cold){
        .kind = COLD_CHECK,
        .what = (MEM_PAGE_SIZE - size) | (write ? BT_CHECK_WRITE : 0) | flags | number << 16,
        .slot = (uint32_t)(VCPU_OFFSET(tlb.slots) + number * sizeof(struct tlb_fast)),
        .stub = t->vm->stubs.check[reach_of(t)][write],
        .rip = t->i->offset,
        .count = (uint8_t)t->uncounted,
        .rsp = (int16_t)t->rsp,
        .maker = t->saved ? NULL : t->maker,
    };
    forget_slot(t, c->slot);
    return c;
}

/* For accesses that are here today and there tomorrow: S0, S1. */
static void put_check_by_table(struct translation *t, struct bt_cold *c, unsigned size, bool write)
{
    struct emit *e = &t->e;
    c->table = (uint32_t)(VCPU_OFFSET(tlb.fast) +
                          (reach_of(t) * 2 + write) * sizeof(((struct tlb *)0)->fast[0][0]));
    EMIT(e, 0xc4, 0x43, 0xfb, 0xf0, 0xda, 8); /* rorx $8, %r10, %r11 */
    EMIT(e, 0x41, 0x81, 0xe3);                /* and $…, %r11d */
    emit_u32(e, (TLB_FAST_ENTRIES - 1) << 4);
    emit_gs_index(e, true, 0x03, S0, S1, c->table);
    EMIT(e, 0x49, 0x81, 0xfa); /* cmp $…, %r10 */
    emit_u32(e, MEM_PAGE_SIZE - size);
    c->patch = emit_jcc(e, 7); /* ja */
    emit_gs_index(e, true, 0x2b, S0, S1, c->table);
    emit_gs_index(e, true, 0x8b, S1, S1, c->table + 8);
    c->after = e->at;
}

/* `reg` holds the lowest address of the span. */
static void put_compare(struct translation *t, struct bt_cold *c, unsigned reg, unsigned span)
{
    struct emit *e = &t->e;
    emit_gs(e, true, 0x03, reg, c->slot);
    EMIT(e, 0x49, 0x81, (uint8_t)(0xf8 | (reg & 7)));
    emit_u32(e, MEM_PAGE_SIZE - span);
    c->patch = emit_jcc(e, 7); /* ja */
    emit_load(e, S1, c->slot + 8);
    c->after = e->at;
}

/* The page of a constant address is a constant. */
static void put_check_constant(struct translation *t, struct bt_cold *c, const struct tr_address *a)
{
    struct emit *e = &t->e;
    c->form = CHECK_OF_CONSTANT;
    c->target = (uint64_t)a->disp;
    EMIT(e, 0x65, 0x48, 0x81, 0x3c, 0x25); /* cmpq $- page, %gs:slot */
    emit_u32(e, c->slot);
    emit_u32(e, (uint32_t) - (a->disp & ~(int64_t)0xfff));
    c->patch = emit_jcc(e, 5); /* jne */
    emit_load(e, S1, c->slot + 8);
    c->after = e->at;
}

/* Of an address that is no constant, or none of the host's. */
static void put_check_span(struct translation *t, struct bt_cold *c, const struct tr_address *a,
                           const struct span *s)
{
    struct emit *e = &t->e;
    unsigned span = (unsigned)(s->high - s->low);
    c->span = s->uses > 1 ? span : 0;
    c->back = (int32_t)(a->disp - s->low);
    if (is_direct(t, a)) {
        struct tr_address low = *a;
        low.disp = s->low;
        c->form = CHECK_OF_OFFSET;
        tr_linear_to(t, &low, S0);
        put_compare(t, c, S0, span);
        return;
    }
    tr_linear(t, a);
    if (c->back == 0)
        emit_mov(e, S1, S0);
    else
        emit_lea(e, !t->code32, S1, S0, EMIT_NO_INDEX, 0, -c->back);
    put_compare(t, c, S1, span);
}

/* Notes only what the check leaves in the slot whichever way it goes: not an access across pages,
 * which is served without one. */
static void put_check(struct translation *t, const struct tr_address *a, unsigned size, bool write,
                      uint32_t flags)
{
    struct bt_cold *c = new_check(t, size, write, flags, slot_of(t, a));
    struct span s = span_of(t, a, size, write);
    bool in_page = (a->disp & 0xfff) + size <= MEM_PAGE_SIZE;
    if (is_short_constant(a) && in_page)
        put_check_constant(t, c, a);
    else
        put_check_span(t, c, a, &s);
    t->in_s1 = 0;
    if (is_constant(a) && a->seg == SEG_DS && in_page)
        note(t, a, a->disp & ~(int64_t)0xfff, (a->disp & ~(int64_t)0xfff) + MEM_PAGE_SIZE, write,
             c->slot);
    else if (s.uses > 1)
        note(t, a, s.low, s.high, write, c->slot);
    else
        return;
    t->in_s1 = c->slot;
}

void tr_check_line(struct translation *t, const struct tr_address *a, unsigned size)
{
    struct emit *e = &t->e;
    tr_save_flags(t);
    t->host = false;
    tr_linear(t, a);
    struct bt_cold *c = new_check(t, MEM_PAGE_SIZE, true, BT_CHECK_SPLIT, SLOT_STACK);
    emit_lea(e, !t->code32, S1, S0, EMIT_NO_INDEX, 0, (int32_t)size - 1);
    EMIT(e, 0x4d, 0x31, 0xd3);       /* xor %r10, %r11 */
    EMIT(e, 0x41, 0xf6, 0xc3, 0x40); /* test $64, %r11b */
    c->patch = emit_jcc(e, 5);       /* jne */
    c->after = e->at;
    t->host = false;
    t->in_s1 = 0;
}

/* ---- operands ---- */

static struct tr_operand operand_of(const struct translation *t, const struct tr_address *a)
{
    if (is_direct(t, a))
        return (struct tr_operand){(uint8_t)host_of(a->base / 8), S1,
                                   (int32_t)a->disp + rsp_of(t, a)};
    if (is_short_constant(a))
        return (struct tr_operand){S1, EMIT_NO_INDEX, (int32_t)a->disp};
    return (struct tr_operand){S0, S1, 0};
}

/* 32-bit code: FS or GS is not flat but for its base: then the interpreter's. */
static void put_check_whole(struct translation *t, uint8_t segment)
{
    struct emit *e = &t->e;
    uint8_t bit = segment == SEG_FS ? BT_WHOLE_FS : BT_WHOLE_GS;
    if (t->whole & bit)
        return;
    tr_leave_flags(t);
    struct bt_cold *c = new_check(t, MEM_PAGE_SIZE, true, BT_CHECK_SPLIT, SLOT_STACK);
    c->form = CHECK_OF_CONSTANT;
    c->target = 1;                   /* no page's first byte: the stub must not find it */
    EMIT(e, 0x65, 0xf6, 0x04, 0x25); /* testb $bit, %gs:whole */
    emit_u32(e, LOCAL_OFFSET(whole));
    EMIT(e, bit);
    c->patch = emit_jcc(e, 4); /* je */
    c->after = e->at;
    t->in_s1 = 0;
    t->whole |= bit;
}

/* 32-bit code: an offset in a segment with a base, so near to the end that the access wraps on the
 * way to its linear address, is the interpreter's: AMD's processors refuse it. */
static void put_check_wrap(struct translation *t, const struct tr_address *a, unsigned size)
{
    struct emit *e = &t->e;
    tr_leave_flags(t);
    tr_linear_to(t, a, S0);
    struct bt_cold *c = new_check(t, MEM_PAGE_SIZE, true, BT_CHECK_SPLIT, SLOT_STACK);
    EMIT(e, 0x41, 0x81, 0xfa); /* cmp $-size, %r10d */
    emit_u32(e, -size);
    c->patch = emit_jcc(e, 7); /* ja */
    c->after = e->at;
    t->in_s1 = 0;
}

static bool may_wrap(const struct translation *t, const struct tr_address *a)
{
    return t->code32 && a->seg != SEG_DS && !is_constant(a) && t->vm->decoder.amd;
}

struct tr_operand tr_access(struct translation *t, const struct tr_address *a, unsigned size,
                            bool write, uint32_t flags)
{
    if (t->code32 && a->seg != SEG_DS)
        put_check_whole(t, a->seg);
    if (may_wrap(t, a))
        put_check_wrap(t, a, size);
    const struct tr_fact *f = a->wide ? find_fact(t, a, size, write) : NULL;
    if (f != NULL) {
        struct tr_operand o = operand_of(t, a);
        if (o.base == S0)
            tr_linear(t, a);
        if (t->in_s1 != f->slot)
            emit_load(&t->e, S1, f->slot + 8);
        t->in_s1 = f->slot;
        return o;
    }
    tr_leave_flags(t);
    if (bt_is_scattered(t->vm, insn_rip(t, t->i))) {
        tr_linear(t, a);
        put_check_by_table(t, new_check(t, size, write, flags | BT_CHECK_SCATTERED, slot_of(t, a)),
                           size, write);
        t->in_s1 = 0;
        return (struct tr_operand){S0, S1, 0};
    }
    put_check(t, a, size, write, flags);
    if (is_short_constant(a) && (a->disp & 0xfff) + size > MEM_PAGE_SIZE)
        return (struct tr_operand){S0, S1, 0}; /* S0 was needed for the check */
    return operand_of(t, a);
}

unsigned tr_free_scratch(struct translation *t, struct tr_operand *o)
{
    if (o->base != S0)
        return S0;
    emit_lea(&t->e, true, S0, S0, S1, 0, 0);
    *o = (struct tr_operand){S0, EMIT_NO_INDEX, 0};
    t->in_s1 = 0;
    return S1;
}
