/* SPDX-License-Identifier: MIT */
/* Staged stacks and code targets of far transfers and event delivery (SDM 3A 5.8, 6.12, 6.14). No
 * push reaches memory before every check of the transfer is done. */
#include "x86/cpuid.h"
#include "x86/descriptor.h"

void x86_stack_current(struct vcpu *v, struct x86_stack *s, uint32_t ext)
{
    s->ss = v->seg[SEG_SS];
    s->is64 = v->code64;
    s->loaded = false;
    s->reach = v->reach;
    s->error = ext;
    s->sp = v->gpr[RSP];
    s->count = 0;
}

static uint64_t tss_load(struct vcpu *v, uint32_t offset, unsigned size, uint32_t ext)
{
    const struct x86_segment *tr = &v->seg[SEG_TR];
    if ((tr->attributes & ATTR_UNUSABLE) || offset + size - 1 > tr->limit)
        x86_raise_selector(v, VECTOR_TS, tr->selector, ext);
    if (!x86_canonical(v, tr->base + offset)) /* it may be so for the processor */
        x86_raise_error(v, VECTOR_GP, ext);
    return x86_load_reach(v, x86_implicit_reach(v), tr->base + offset, size);
}

/* SS of an inner ring: #TS where a return would raise #GP (SDM 2A CALL, INT n). */
static void load_inner_ss(struct vcpu *v, struct x86_stack *s, uint16_t selector, unsigned cpl,
                          uint32_t ext)
{
    if (x86_selector_null(selector))
        x86_raise_selector(v, VECTOR_TS, 0, ext);
    if (!x86_descriptor_read(v, selector, &s->descriptor))
        x86_raise_selector(v, VECTOR_TS, selector, ext);
    uint32_t attributes = x86_attributes(&s->descriptor);
    if ((selector & 3u) != cpl || ATTR_GET_DPL(attributes) != cpl ||
        !x86_is_writable_data(attributes))
        x86_raise_selector(v, VECTOR_TS, selector, ext);
    if (!(attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_SS, selector, ext);
    s->ss = x86_descriptor_segment(&s->descriptor, selector);
    s->error = (selector & 0xfffcu) | ext;
    s->loaded = true;
}

void x86_stack_of_tss(struct vcpu *v, struct x86_stack *s, unsigned cpl, unsigned ist, uint32_t ext)
{
    s->loaded = false;
    s->reach = (uint8_t)(cpl == 3 ? REACH_USER : x86_implicit_reach(v));
    s->error = ext;
    s->count = 0;
    s->is64 = v->long_mode;
    if (v->long_mode) {
        s->ss = x86_null_segment((uint16_t)cpl, cpl);
        s->sp = tss_load(v, ist ? 36 + 8 * (ist - 1) : 4 + 8 * cpl, 8, ext);
    } else if (v->seg[SEG_TR].attributes & 0x8) {
        s->sp = tss_load(v, 4 + 8 * cpl, 4, ext);
        load_inner_ss(v, s, (uint16_t)tss_load(v, 8 + 8 * cpl, 2, ext), cpl, ext);
    } else {
        s->sp = tss_load(v, 2 + 4 * cpl, 2, ext);
        load_inner_ss(v, s, (uint16_t)tss_load(v, 4 + 4 * cpl, 2, ext), cpl, ext);
    }
}

void x86_stack_of_return(struct vcpu *v, struct x86_stack *s, uint16_t selector, uint64_t sp,
                         unsigned cpl, bool to64)
{
    *s = (struct x86_stack){.is64 = to64, .sp = sp, .reach = v->reach};
    if (x86_selector_null(selector)) {
        if (!to64 || cpl == 3)
            x86_raise_gp0(v);
        s->ss = x86_null_segment(selector, cpl);
        return;
    }
    if (!x86_descriptor_read(v, selector, &s->descriptor))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    uint32_t attributes = x86_attributes(&s->descriptor);
    if ((selector & 3u) != cpl || ATTR_GET_DPL(attributes) != cpl ||
        !x86_is_writable_data(attributes))
        x86_raise_selector(v, VECTOR_GP, selector, 0);
    if (!(attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_SS, selector, 0);
    s->ss = x86_descriptor_segment(&s->descriptor, selector);
    s->loaded = true;
}

static uint64_t stack_mask(const struct x86_stack *s)
{
    if (s->is64)
        return UINT64_MAX;
    return (s->ss.attributes & ATTR_DB) ? 0xffffffff : 0xffff;
}

void x86_stack_push(struct vcpu *v, struct x86_stack *s, uint64_t value, unsigned size)
{
    s->sp = (s->sp & ~stack_mask(s)) | ((s->sp - size) & stack_mask(s));
    s->slots[s->count].address = x86_segment_linear(v, &s->ss, s->is64, s->sp & stack_mask(s), size,
                                                    true, VECTOR_SS, s->error);
    s->slots[s->count].value = value;
    s->slots[s->count++].size = size;
}

uint64_t x86_stack_pop(struct vcpu *v, struct x86_stack *s, unsigned size)
{
    uint64_t address = x86_segment_linear(v, &s->ss, s->is64, s->sp & stack_mask(s), size, false,
                                          VECTOR_SS, s->error);
    uint64_t value = x86_load_reach(v, (enum tlb_reach)s->reach, address, size);
    x86_stack_skip(s, size);
    return value;
}

uint16_t x86_stack_pop_selector(struct vcpu *v, struct x86_stack *s, unsigned size)
{
    if (cpuid_is_amd(v)) /* the whole slot is read */
        return (uint16_t)x86_stack_pop(v, s, size);
    uint16_t selector = (uint16_t)x86_stack_pop(v, s, 2);
    x86_stack_skip(s, size - 2);
    return selector;
}

void x86_stack_skip(struct x86_stack *s, uint64_t bytes)
{
    s->sp = (s->sp & ~stack_mask(s)) | ((s->sp + bytes) & stack_mask(s));
}

void x86_stack_prepare(struct vcpu *v, const struct x86_stack *s)
{
    enum tlb_reach reach = (enum tlb_reach)s->reach;
    for (unsigned i = 0; i < s->count; i++) {
        tlb_check_alignment(v, reach, s->slots[i].address, s->slots[i].size);
        tlb_probe(v, reach, s->slots[i].address, s->slots[i].size, true);
    }
    if (s->loaded)
        x86_descriptor_mark(v, &s->descriptor, TYPE_ACCESSED);
}

void x86_stack_store(struct vcpu *v, const struct x86_stack *s)
{
    for (unsigned i = 0; i < s->count; i++)
        x86_store_reach(v, (enum tlb_reach)s->reach, s->slots[i].address, s->slots[i].value,
                        s->slots[i].size);
}

uint64_t x86_stack_pointer(const struct vcpu *v, const struct x86_stack *s)
{
    if (s->is64)
        return s->sp;
    if (s->ss.attributes & ATTR_DB)
        return (uint32_t)s->sp;
    return (v->gpr[RSP] & ~(uint64_t)0xffff) | (s->sp & 0xffff);
}

void x86_code_read(struct vcpu *v, uint16_t selector, uint32_t ext, struct x86_code *c)
{
    if (x86_selector_null(selector))
        x86_raise_selector(v, VECTOR_GP, 0, ext);
    if (!x86_descriptor_read(v, selector, &c->descriptor))
        x86_raise_selector(v, VECTOR_GP, selector, ext);
    uint32_t attributes = x86_attributes(&c->descriptor);
    bool both = (attributes & ATTR_L) && (attributes & ATTR_DB);
    if (!x86_is_code(attributes) || (v->long_mode && both))
        x86_raise_selector(v, VECTOR_GP, selector, ext);
    c->segment = x86_descriptor_segment(&c->descriptor, selector);
    c->is64 = v->long_mode && (attributes & ATTR_L);
}

void x86_code_finish(struct vcpu *v, const struct x86_code *c, uint64_t offset, uint32_t ext)
{
    if (!(c->segment.attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_NP, c->segment.selector, ext);
    /* Of a return to compatibility code Intel's processors drop the upper half, AMD's hold it
     * against the limit (seen on both; tests/diff). */
    uint64_t held = cpuid_is_amd(v) ? offset : (uint32_t)offset;
    if (c->is64 ? !x86_canonical(v, offset) : held > c->segment.limit)
        x86_raise_error(v, VECTOR_GP, ext);
}

void x86_code_commit(struct vcpu *v, const struct x86_code *c, unsigned cpl, uint64_t rip)
{
    v->seg[SEG_CS] = c->segment;
    v->seg[SEG_CS].selector = (uint16_t)((c->segment.selector & 0xfffc) | cpl);
    v->cpl = (uint8_t)cpl;
    v->rip = c->is64 ? rip : (uint32_t)rip;
}
