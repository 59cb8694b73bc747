/* SPDX-License-Identifier: MIT */
/* Descriptors in guest memory: reading, marking, LAR, LSL, VERR, VERW (SDM 3A 3.4.5, 3.5; SDM 2A).
 * The tables and selectors are the guest's; the vCPU's own thread. */
#include "x86/descriptor.h"

#include <stdio.h>
#include <string.h>

#include "x86/segment.h"

/* Whether the 8 bytes at selector's index plus `skip` lie in its table; a base may be canonical for
 * the processor and not in the current paging. */
static bool table_address(const struct vcpu *v, uint16_t selector, unsigned skip, uint64_t *address)
{
    uint32_t offset = (selector & 0xfff8u) + skip;
    const struct x86_segment *ldt = &v->seg[SEG_LDTR];
    uint64_t base = v->gdtr.base;
    uint32_t limit = v->gdtr.limit;
    if (selector & 4) {
        if (ldt->attributes & ATTR_UNUSABLE)
            return false;
        base = ldt->base;
        limit = ldt->limit;
    }
    *address = base + offset;
    if (!v->long_mode)
        *address = (uint32_t)*address;
    return offset + 7 <= limit && x86_canonical(v, *address);
}

bool x86_descriptor_read(struct vcpu *v, uint16_t selector, struct x86_descriptor *d)
{
    if (!table_address(v, selector, 0, &d->address))
        return false;
    d->low = x86_load_reach(v, x86_implicit_reach(v), d->address, 8);
    d->high = 0;
    d->selector = selector;
    return true;
}

bool x86_descriptor_extend(struct vcpu *v, struct x86_descriptor *d)
{
    uint64_t address;
    if (!v->long_mode)
        return true;
    if (!table_address(v, d->selector, 8, &address))
        return false;
    d->high = x86_load_reach(v, x86_implicit_reach(v), address, 8);
    return ((d->high >> 40) & 0x1f) == 0;
}

void x86_descriptor_mark(struct vcpu *v, const struct x86_descriptor *d, uint8_t bit)
{
    enum tlb_reach reach = x86_implicit_reach(v);
    uint64_t address = d->address + 5; /* the byte of the type: it never crosses a page */
    if (d->low & (uint64_t)bit << 40)
        return;
    void *host = tlb_pointer_rmw(v, reach, address, 1);
    if (host) {
        __atomic_fetch_or((uint8_t *)host, bit, __ATOMIC_SEQ_CST);
        tlb_pointer_wrote(v, host, 1);
    } else {
        x86_store_reach(v, reach, address, ((d->low >> 40) & 0xff) | bit, 1);
    }
}

void x86_descriptor_clear_busy(struct vcpu *v, uint16_t selector)
{
    enum tlb_reach reach = x86_implicit_reach(v);
    uint64_t address = (uint32_t)(v->gdtr.base + (selector & 0xfff8u) + 5);
    void *host = tlb_pointer_rmw(v, reach, address, 1);
    if (host) {
        __atomic_fetch_and((uint8_t *)host, (uint8_t)~TYPE_BUSY, __ATOMIC_SEQ_CST);
        tlb_pointer_wrote(v, host, 1);
    } else {
        x86_store_reach(v, reach, address, x86_load_reach(v, reach, address, 1) & ~TYPE_BUSY, 1);
    }
}

struct x86_segment x86_descriptor_segment(const struct x86_descriptor *d, uint16_t selector)
{
    uint32_t attributes = x86_attributes(d);
    uint32_t limit = (uint32_t)(d->low & 0xffff) | ((uint32_t)(d->low >> 32) & 0xf0000);
    uint64_t base = ((d->low >> 16) & 0xffffff) | ((d->low >> 32) & 0xff000000);
    if (attributes & ATTR_S)
        attributes |= TYPE_ACCESSED;
    return (struct x86_segment){
        .selector = selector,
        .attributes = attributes,
        .limit = (attributes & ATTR_G) ? limit << 12 | 0xfff : limit,
        .base = base | (d->high & 0xffffffff) << 32,
    };
}

struct x86_segment x86_null_segment(uint16_t selector, unsigned dpl)
{
    return (struct x86_segment){.selector = selector, .attributes = ATTR_UNUSABLE | dpl << 5};
}

/* Types of system descriptors that LAR and LSL show, by type: in legacy and in long mode. */
enum { SHOW_LAR = 1, SHOW_LSL = 2, SHOW_LAR_LONG = 4, SHOW_LSL_LONG = 8 };
static const uint8_t system_shown[16] = {
    [SYSTEM_TSS16_AVAILABLE] = SHOW_LAR | SHOW_LSL,
    [SYSTEM_LDT] = SHOW_LAR | SHOW_LSL | SHOW_LAR_LONG | SHOW_LSL_LONG,
    [SYSTEM_TSS16_BUSY] = SHOW_LAR | SHOW_LSL,
    [SYSTEM_CALL_GATE16] = SHOW_LAR,
    [SYSTEM_TASK_GATE] = SHOW_LAR,
    [SYSTEM_TSS_AVAILABLE] = SHOW_LAR | SHOW_LSL | SHOW_LAR_LONG | SHOW_LSL_LONG,
    [SYSTEM_TSS_BUSY] = SHOW_LAR | SHOW_LSL | SHOW_LAR_LONG | SHOW_LSL_LONG,
    [SYSTEM_CALL_GATE] = SHOW_LAR | SHOW_LAR_LONG,
};

/* What the four instructions have in common; false = ZF is cleared. */
static bool visible(struct vcpu *v, uint16_t selector, struct x86_descriptor *d)
{
    if (x86_real_mode(v) || x86_virtual_8086(v))
        x86_raise(v, VECTOR_UD);
    if (x86_selector_null(selector) || !x86_descriptor_read(v, selector, d))
        return false;
    uint32_t attributes = x86_attributes(d);
    unsigned dpl = ATTR_GET_DPL(attributes), rpl = selector & 3;
    return x86_is_conforming(attributes) || (v->cpl <= dpl && rpl <= dpl);
}

static bool shown(struct vcpu *v, struct x86_descriptor *d, unsigned how)
{
    uint32_t attributes = x86_attributes(d);
    if (attributes & ATTR_S)
        return true;
    return (system_shown[x86_type(attributes)] & how) && x86_descriptor_extend(v, d);
}

bool x86_lar(struct vcpu *v, uint16_t selector, uint32_t *rights)
{
    struct x86_descriptor d;
    if (!visible(v, selector, &d) || !shown(v, &d, v->long_mode ? SHOW_LAR_LONG : SHOW_LAR))
        return false;
    *rights = (uint32_t)(d.low >> 32) & 0x00ffff00;
    return true;
}

bool x86_lsl(struct vcpu *v, uint16_t selector, uint32_t *limit)
{
    struct x86_descriptor d;
    if (!visible(v, selector, &d) || !shown(v, &d, v->long_mode ? SHOW_LSL_LONG : SHOW_LSL))
        return false;
    *limit = x86_descriptor_segment(&d, selector).limit;
    return true;
}

bool x86_verify(struct vcpu *v, uint16_t selector, bool write)
{
    struct x86_descriptor d;
    if (!visible(v, selector, &d))
        return false;
    uint32_t attributes = x86_attributes(&d);
    if (!(attributes & ATTR_S))
        return false;
    if (write)
        return x86_is_writable_data(attributes);
    return !x86_is_code(attributes) || (attributes & TYPE_READABLE);
}
