/* SPDX-License-Identifier: MIT */
/*
 * Guest memory operands in translated code: the linear address, and the check that it may be
 * accessed and where it is in the host. Each check has a slot (x86/tlb.h), a copy of a TLB entry
 * chosen by the place in the code: accesses by one register in one unit share a slot, all by RSP
 * share one. So the host's address does not wait for a table look-up by the guest's:
 *
 *            mov  S0, S1
 *            add  gs:slot, S1          - linear page: the offset in the page if the slot is this
 *            cmp  $(4096 - size), S1   page's; tag and page crossing in one unsigned comparison
 *            ja   cold
 *            mov  gs:slot+8, S1        host page - linear page
 *     after: access at (S0, S1)
 *     cold:  mov  $what, S1
 *            call check                by the table, or bt_do_miss; fills the slot
 *            jmp  after
 */
#include "engine/bt/translate.h"

#define RIP_OFFSET  offsetof(struct vcpu, rip)
#define ZERO_OFFSET offsetof(struct vcpu, zero)

static unsigned reach_of(const struct translation *t)
{
    return t->u->key & BT_KEY_REACH;
}

/* The host register that holds a base or index; loads it into `scratch` when it is in memory. */
static unsigned address_part(struct translation *t, uint8_t offset, unsigned scratch)
{
    int host = host_of(offset / 8);
    if (host >= 0)
        return (unsigned)host;
    emit_load(&t->e, scratch, offset);
    return scratch;
}

static void general_address(struct translation *t, const struct insn *in)
{
    bool wide = in->address_size == 8;
    unsigned base = EMIT_NO_BASE, index = EMIT_NO_INDEX;
    if (in->base != ZERO_OFFSET)
        base = address_part(t, in->base, S0);
    if (in->index != ZERO_OFFSET)
        index = address_part(t, in->index, S1);
    if (base == EMIT_NO_BASE && index == EMIT_NO_INDEX)
        emit_mov_constant(&t->e, S0, wide ? (uint64_t)(int64_t)in->disp : (uint32_t)in->disp);
    else if (wide && index == EMIT_NO_INDEX && in->disp == 0)
        emit_mov(&t->e, S0, base);
    else
        emit_lea(&t->e, wide, S0, base, index, in->scale, in->disp);
}

void tr_address(struct translation *t, const struct bt_insn *i)
{
    const struct insn *in = &i->in;
    if (in->base == RIP_OFFSET) { /* disp has the instruction's length in it */
        uint64_t a = insn_rip(t, i) + (uint64_t)(int64_t)in->disp;
        emit_mov_constant(&t->e, S0, in->address_size == 8 ? a : (uint32_t)a);
    } else {
        general_address(t, in);
    }
    if (in->seg == SEG_FS || in->seg == SEG_GS)
        emit_gs(&t->e, true, 0x03, S0,
                VCPU_OFFSET(seg[0].base) + in->seg * sizeof(struct x86_segment));
}

/* ---- slots ---- */

#define SLOT_STACK 0u
#define SLOT_FS    1u
#define SLOT_FIRST 2u /* given out from here on, round and round */

static unsigned slot_new(struct translation *t)
{
    return SLOT_FIRST + t->vm->next_slot++ % (TLB_SLOTS - SLOT_FIRST);
}

/* By the registers of the operand, within the unit; i NULL = the stack. */
static unsigned slot_of(struct translation *t, const struct bt_insn *i)
{
    if (i == NULL || i->in.base == 8 * RSP)
        return SLOT_STACK;
    if (i->in.seg == SEG_FS)
        return SLOT_FS;
    if (i->in.base == RIP_OFFSET)
        return SLOT_FIRST +
               ((insn_rip(t, i) + (uint64_t)(int64_t)i->in.disp) >> 12) % (TLB_SLOTS - SLOT_FIRST);
    unsigned reg = i->in.base != ZERO_OFFSET ? i->in.base / 8 : i->in.index / 8;
    if (reg >= 16 || i->in.seg == SEG_GS)
        return slot_new(t);
    if (t->slots[reg] == 0)
        t->slots[reg] = (uint16_t)slot_new(t);
    return t->slots[reg];
}

static uint32_t slot_offset(const struct translation *t, unsigned slot, bool write)
{
    return ((reach_of(t) * 2 + write) * TLB_SLOTS + slot) * (uint32_t)sizeof(struct tlb_fast);
}

/* For accesses that are here today and there tomorrow. */
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
    t->host = false;
}

void tr_check(struct translation *t, const struct bt_insn *i, unsigned size, bool write, bool quiet)
{
    struct emit *e = &t->e;
    uint32_t slot = slot_offset(t, slot_of(t, i), write);
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    *c = (struct bt_cold){
        .what = (MEM_PAGE_SIZE - size) | (write ? BT_CHECK_WRITE : 0) |
                (quiet ? BT_CHECK_QUIET : 0) | slot << 16,
        .stub = t->vm->stubs.check[reach_of(t)][write],
        .rip = t->i->offset,
        .count = (uint8_t)t->uncounted,
    };
    if (bt_is_scattered(t->vm, insn_rip(t, t->i))) {
        put_check_by_table(t, c, size, write);
        return;
    }
    slot += VCPU_OFFSET(tlb.slots);
    emit_mov(e, S1, S0);
    emit_gs(e, true, 0x03, S1, slot);
    EMIT(e, 0x49, 0x81, 0xfb); /* cmp $…, %r11 */
    emit_u32(e, MEM_PAGE_SIZE - size);
    c->patch = emit_jcc(e, 7); /* ja */
    emit_load(e, S1, slot + 8);
    c->after = e->at;
    t->host = false;
}

void tr_check_line(struct translation *t, unsigned size)
{
    struct emit *e = &t->e;
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    *c = (struct bt_cold){.what = BT_CHECK_WRITE | BT_CHECK_SPLIT |
                                  slot_offset(t, SLOT_STACK, true) << 16,
                          .stub = t->vm->stubs.check[reach_of(t)][true],
                          .rip = t->i->offset,
                          .count = (uint8_t)t->uncounted};
    emit_lea(e, true, S1, S0, EMIT_NO_INDEX, 0, (int32_t)size - 1);
    EMIT(e, 0x4d, 0x31, 0xd3);       /* xor %r10, %r11 */
    EMIT(e, 0x41, 0xf6, 0xc3, 0x40); /* test $64, %r11b */
    c->patch = emit_jcc(e, 5);       /* jne */
    c->after = e->at;
    t->host = false;
}

void tr_check_fold(struct translation *t, const struct bt_insn *i, unsigned size, bool write)
{
    tr_check(t, i, size, write, false);
    emit_lea(&t->e, true, S0, S0, S1, 0, 0);
}
