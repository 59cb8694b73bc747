/* SPDX-License-Identifier: MIT */
/* Loads of segment registers, LDTR and TR, and addresses within segments (SDM 3A 3.4, 5.3 to 5.7,
 * 7.2; SDM 2A LLDT, LTR; SDM 2B MOV). Selectors and descriptors are the guest's. */
#include "x86/segment.h"

#include "x86/cpuid.h"
#include "x86/descriptor.h"

static void load_ss(struct vcpu *v, uint16_t selector)
{
    struct x86_descriptor d;
    unsigned rpl = selector & 3;
    if (x86_selector_null(selector)) {
        if (!v->code64 || v->cpl == 3 || rpl != v->cpl)
            x86_raise_gp0(v);
        v->seg[SEG_SS] = x86_null_segment(selector, v->cpl);
        return;
    }
    if (!x86_descriptor_read(v, selector, &d))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    uint32_t attributes = x86_attributes(&d);
    if (rpl != v->cpl || !x86_is_writable_data(attributes) || ATTR_GET_DPL(attributes) != v->cpl)
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    if (!(attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_SS, selector, 0);
    x86_descriptor_mark(v, &d, TYPE_ACCESSED);
    v->seg[SEG_SS] = x86_descriptor_segment(&d, selector);
}

static void load_data(struct vcpu *v, enum x86_sreg sreg, uint16_t selector)
{
    struct x86_descriptor d;
    if (x86_selector_null(selector)) {
        v->seg[sreg] = x86_null_segment(selector, 0);
        return;
    }
    if (!x86_descriptor_read(v, selector, &d))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    uint32_t attributes = x86_attributes(&d);
    unsigned dpl = ATTR_GET_DPL(attributes), rpl = selector & 3;
    bool execute_only = x86_is_code(attributes) && !(attributes & TYPE_READABLE);
    if (!(attributes & ATTR_S) || execute_only)
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    if (!x86_is_conforming(attributes) && (rpl > dpl || v->cpl > dpl))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    if (!(attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_NP, selector, 0);
    x86_descriptor_mark(v, &d, TYPE_ACCESSED);
    v->seg[sreg] = x86_descriptor_segment(&d, selector);
}

void x86_load_segment(struct vcpu *v, enum x86_sreg sreg, uint16_t selector)
{
    if (x86_real_mode(v) || x86_virtual_8086(v))
        x86_real_load(v, sreg, selector);
    else if (sreg == SEG_SS)
        load_ss(v, selector);
    else
        load_data(v, sreg, selector);
    if (sreg == SEG_SS)
        vcpu_update_mode(v);
}

/* LLDT and LTR: reads a system descriptor of the GDT. */
static void system_read(struct vcpu *v, uint16_t selector, struct x86_descriptor *d)
{
    if ((selector & 4) || !x86_descriptor_read(v, selector, d))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
}

static struct x86_segment system_finish(struct vcpu *v, uint16_t selector, struct x86_descriptor *d)
{
    if (!x86_descriptor_extend(v, d))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    struct x86_segment s = x86_descriptor_segment(d, selector);
    if (v->long_mode && !x86_canonical_register(v, s.base))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    if (!(s.attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_NP, selector, 0);
    return s;
}

static void system_privilege(struct vcpu *v)
{
    if (x86_real_mode(v) || x86_virtual_8086(v))
        x86_raise(v, VECTOR_UD);
    if (v->cpl != 0)
        x86_raise_gp0(v);
}

void x86_load_ldtr(struct vcpu *v, uint16_t selector)
{
    struct x86_descriptor d;
    system_privilege(v);
    if (x86_selector_null(selector)) {
        v->seg[SEG_LDTR] = x86_null_segment(selector, 0);
        return;
    }
    system_read(v, selector, &d);
    if ((x86_attributes(&d) & (ATTR_S | ATTR_TYPE)) != SYSTEM_LDT)
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    v->seg[SEG_LDTR] = system_finish(v, selector, &d);
}

void x86_load_tr(struct vcpu *v, uint16_t selector)
{
    struct x86_descriptor d;
    system_privilege(v);
    if (x86_selector_null(selector))
        x86_raise_gp0(v);
    system_read(v, selector, &d);
    uint32_t type = x86_attributes(&d) & (ATTR_S | ATTR_TYPE);
    if (type != SYSTEM_TSS_AVAILABLE && (type != SYSTEM_TSS16_AVAILABLE || v->long_mode))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    struct x86_segment tr = system_finish(v, selector, &d);
    x86_descriptor_mark(v, &d, TYPE_BUSY);
    tr.attributes |= TYPE_BUSY;
    v->seg[SEG_TR] = tr;
}

/* SDM 3A 5.3, 5.5: may the segment be accessed so? */
static bool access_allowed(const struct vcpu *v, const struct x86_segment *s, bool write)
{
    if (s->attributes & ATTR_UNUSABLE)
        return false;
    if (x86_real_mode(v) || x86_virtual_8086(v))
        return true;
    if (s->attributes & TYPE_CODE)
        return !write && (s->attributes & TYPE_READABLE);
    return !write || (s->attributes & TYPE_WRITABLE);
}

/* A limit of 4 GiB is none for Intel's processors: an access that wraps there is allowed (SDM
 * 3A 5.3 leaves it open; tests/diff). */
static bool within_limit(const struct vcpu *v, const struct x86_segment *s, uint32_t offset,
                         unsigned size)
{
    uint64_t last = (uint64_t)offset + size - 1;
    if ((s->attributes & (TYPE_CODE | TYPE_EXPAND_DOWN)) == TYPE_EXPAND_DOWN)
        return offset > s->limit && last <= ((s->attributes & ATTR_DB) ? 0xffffffff : 0xffff);
    return last <= s->limit || (s->limit == 0xffffffff && !cpuid_is_amd(v));
}

uint64_t x86_segment_linear(struct vcpu *v, const struct x86_segment *s, bool is64, uint64_t offset,
                            unsigned size, bool write, uint8_t vector, uint32_t error)
{
    if (is64) {
        if (!x86_canonical(v, offset) || !x86_canonical(v, offset + size - 1))
            x86_raise_error(v, vector, error);
        return offset;
    }
    if (!access_allowed(v, s, write) || !within_limit(v, s, (uint32_t)offset, size))
        x86_raise_error(v, vector, error);
    return (uint32_t)(s->base + offset);
}

uint64_t x86_linear(struct vcpu *v, enum x86_sreg seg, uint64_t offset, unsigned size, bool write)
{
    const struct x86_segment *s = &v->seg[seg];
    if (v->code64 && (seg == SEG_FS || seg == SEG_GS))
        offset += s->base;
    return x86_segment_linear(v, s, v->code64, offset, size, write,
                              seg == SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
}

void x86_check_io(struct vcpu *v, uint16_t port, unsigned size)
{
    const struct x86_segment *tr = &v->seg[SEG_TR];
    unsigned iopl = (v->rflags & FLAG_IOPL) >> 12;
    if (x86_real_mode(v) || (v->cpl <= iopl && !x86_virtual_8086(v)))
        return;
    /* Only the 32-bit and 64-bit TSS have a map; its base is the word at 0x66. */
    if ((tr->attributes & (ATTR_UNUSABLE | 0x8)) != 0x8 || tr->limit < 0x67 ||
        !x86_canonical(v, tr->base))
        x86_raise_gp0(v);
    enum tlb_reach reach = x86_implicit_reach(v);
    uint32_t offset = (uint32_t)x86_load_reach(v, reach, tr->base + 0x66, 2) + port / 8;
    if (offset + 1 > tr->limit) /* two bytes are always read (SDM 1 19.5.2) */
        x86_raise_gp0(v);
    uint32_t map = (uint32_t)x86_load_reach(v, reach, tr->base + offset, 2) >> (port & 7);
    if (map & ((1u << size) - 1))
        x86_raise_gp0(v);
}

void x86_watch_io(struct vcpu *v, uint16_t port, unsigned size)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};
    if (__builtin_expect((v->dr7 & DR7_ENABLED) == 0 || !(v->cr4 & CR4_DE), 1))
        return;
    for (unsigned n = 0; n < 4; n++) {
        unsigned control = (unsigned)(v->dr7 >> (16 + 4 * n)) & 15;
        if (!((v->dr7 >> (2 * n)) & 3) || (control & 3) != 2)
            continue;
        unsigned length = lengths[control >> 2];
        uint64_t first = v->dr[n] & ~(uint64_t)(length - 1);
        if (port - first < length || first - port < size)
            v->debug_pending |= (uint64_t)1 << n;
    }
}

bool x86_is_whole(const struct x86_segment *s)
{
    const uint32_t all = ATTR_S | ATTR_P | ATTR_UNUSABLE | TYPE_CODE | TYPE_EXPAND_DOWN;
    return s->limit == UINT32_MAX &&
           (s->attributes & (all | TYPE_WRITABLE)) == (ATTR_S | ATTR_P | TYPE_WRITABLE);
}

static bool is_flat_data(const struct x86_segment *s)
{
    return s->base == 0 && x86_is_whole(s);
}

static bool is_flat_code(const struct x86_segment *s)
{
    const uint32_t wanted = ATTR_S | ATTR_P | TYPE_CODE | TYPE_READABLE;
    return s->base == 0 && s->limit == UINT32_MAX &&
           (s->attributes & (wanted | ATTR_UNUSABLE)) == wanted;
}

bool x86_is_flat(const struct vcpu *v)
{
    return !x86_real_mode(v) && is_flat_code(&v->seg[SEG_CS]) && is_flat_data(&v->seg[SEG_DS]) &&
           is_flat_data(&v->seg[SEG_ES]) && is_flat_data(&v->seg[SEG_SS]) &&
           (v->seg[SEG_SS].attributes & ATTR_DB);
}
