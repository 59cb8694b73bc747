/* SPDX-License-Identifier: MIT */
/*
 * Guest memory operands in translated code: the linear address, and the check by the fast TLB
 * (x86/tlb.h) that turns it into a host page and an offset.
 *
 *     retry: rorx $8, S0, S1          linear page number, at bit 4: entries have 16 bytes
 *            and  $0x3ff0, S1
 *            add  gs:table(S1), S0    - linear page: the offset in the page if the entry is its
 *            cmp  $(4096 - size), S0  tag and page crossing in one unsigned comparison
 *            ja   cold
 *            mov  gs:table+8(S1), S1  host page
 *     cold:  sub  gs:table(S1), S0    the address again
 *            mov  $what, S1
 *            call miss                fills the entry and comes back, or does not
 *            jmp  retry
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

void tr_check(struct translation *t, unsigned size, bool write, bool quiet)
{
    struct emit *e = &t->e;
    uint32_t table = (uint32_t)(VCPU_OFFSET(tlb.fast) +
                                (reach_of(t) * 2 + write) * sizeof(((struct tlb *)0)->fast[0][0]));
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    *c = (struct bt_cold){
        .retry = e->at,
        .what = size | (write ? BT_MISS_WRITE : 0) | (quiet ? BT_MISS_QUIET : 0),
        .table = table,
        .rip = t->i->offset,
        .count = (uint8_t)t->uncounted,
    };
    EMIT(e, 0xc4, 0x43, 0xfb, 0xf0, 0xda, 8); /* rorx $8, %r10, %r11 */
    EMIT(e, 0x41, 0x81, 0xe3);                /* and $…, %r11d */
    emit_u32(e, (TLB_FAST_ENTRIES - 1) << 4);
    emit_gs_index(e, true, 0x03, S0, S1, table);
    EMIT(e, 0x49, 0x81, 0xfa); /* cmp $…, %r10 */
    emit_u32(e, MEM_PAGE_SIZE - size);
    c->patch = emit_jcc(e, 7); /* ja */
    emit_gs_index(e, true, 0x8b, S1, S1, table + 8);
    t->host = false;
}

void tr_check_fold(struct translation *t, unsigned size, bool write)
{
    tr_check(t, size, write, false);
    emit_lea(&t->e, true, S0, S0, S1, 0, 0);
}
