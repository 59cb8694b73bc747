/* SPDX-License-Identifier: MIT */
/*
 * Task switches (SDM 3A chapter 7): JMP and CALL to a TSS or task gate, events through task gates,
 * and IRET with NT, of 16-bit and 32-bit TSSs.
 *
 * Up to the commit point (SDM 3A 7.3, step 12) everything is read, checked and probed, and raises
 * in the old task. After it the new task's registers are in place, its segment registers with their
 * selectors but unusable, and what is wrong with them raises #TS, #NP, #SS or #GP in the new task,
 * at its first instruction. The vCPU's own thread; TSSs and descriptors are the guest's.
 */
#include "x86/descriptor.h"
#include "x86/segment.h"

#define DR6_BT           (1u << 15)
#define DR7_LOCAL        0x155u /* L0 to L3, LE */
#define TSS32_LIMIT      0x67u
#define TSS16_LIMIT      0x2bu
#define TSS32_CR3        0x1cu
#define TSS32_TRAP       0x64u
#define TASK_FLAGS_FIXED FLAG_ONE
#define TASK_FLAGS                                                                              \
    (FLAGS_ARITHMETIC | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | \
     FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID)

/* Where the fields of a TSS begin (SDM 3A figures 7-2, 7-10); general registers and segments
 * follow one another at `word` bytes. */
struct layout {
    unsigned ip, flags, gpr, segments, ldt, segment_count, word;
};
static const struct layout layout32 = {0x20, 0x24, 0x28, 0x48, 0x60, 6, 4};
static const struct layout layout16 = {0x0e, 0x10, 0x12, 0x22, 0x2a, 4, 2};

static const struct layout *layout_of(uint32_t attributes)
{
    return attributes & 0x8 ? &layout32 : &layout16;
}

struct task { /* what the new TSS holds */
    uint32_t cr3, ip, flags, gpr[8];
    uint16_t segments[6], ldt;
    bool trap;
};

static uint32_t load(struct vcpu *v, const struct x86_segment *tss, unsigned offset, unsigned size)
{
    return (uint32_t)x86_load_reach(v, x86_implicit_reach(v), (uint32_t)(tss->base + offset), size);
}

static void store(struct vcpu *v, const struct x86_segment *tss, unsigned offset, uint64_t value,
                  unsigned size)
{
    x86_store_reach(v, x86_implicit_reach(v), (uint32_t)(tss->base + offset), value, size);
}

static void read_task(struct vcpu *v, const struct x86_segment *tss, struct task *task)
{
    const struct layout *l = layout_of(tss->attributes);
    *task = (struct task){.ip = load(v, tss, l->ip, l->word),
                          .flags = load(v, tss, l->flags, l->word),
                          .ldt = (uint16_t)load(v, tss, l->ldt, 2)};
    for (unsigned i = 0; i < 8; i++)
        task->gpr[i] = load(v, tss, l->gpr + i * l->word, l->word);
    for (unsigned i = 0; i < l->segment_count; i++)
        task->segments[i] = (uint16_t)load(v, tss, l->segments + i * l->word, 2);
    if (l == &layout32) {
        task->cr3 = load(v, tss, TSS32_CR3, 4);
        task->trap = load(v, tss, TSS32_TRAP, 2) & 1;
    }
}

static void save_task(struct vcpu *v, const struct x86_segment *tss, uint64_t rip, uint64_t flags)
{
    const struct layout *l = layout_of(tss->attributes);
    store(v, tss, l->ip, rip, l->word);
    store(v, tss, l->flags, flags, l->word);
    for (unsigned i = 0; i < 8; i++)
        store(v, tss, l->gpr + i * l->word, v->gpr[i], l->word);
    for (unsigned i = 0; i < l->segment_count; i++)
        store(v, tss, l->segments + i * l->word, v->seg[i].selector, 2);
}

/* The dynamic fields of the old TSS, which are written. */
static void probe_old(struct vcpu *v, const struct x86_segment *tss)
{
    const struct layout *l = layout_of(tss->attributes);
    unsigned end = l->segments + l->segment_count * l->word;
    if ((tss->attributes & ATTR_UNUSABLE) || end - 1 > tss->limit)
        x86_raise_selector(v, VECTOR_TS, tss->selector, 0);
    tlb_probe(v, x86_implicit_reach(v), (uint32_t)(tss->base + l->ip), end - l->ip, true);
}

/* The TSS descriptor that selector names, with the checks that every way of reaching it has. */
static struct x86_segment read_tss(struct vcpu *v, uint16_t selector, enum x86_task_cause cause,
                                   uint32_t ext, struct x86_descriptor *d)
{
    uint8_t wrong = cause == TASK_RETURN ? VECTOR_TS : VECTOR_GP;
    if ((selector & 4) || x86_selector_null(selector) || !x86_descriptor_read(v, selector, d))
        x86_raise_selector(v, wrong, selector, ext);
    uint32_t type = x86_attributes(d) & (ATTR_S | ATTR_TYPE);
    uint32_t busy = cause == TASK_RETURN ? TYPE_BUSY : 0;
    if (type != (SYSTEM_TSS_AVAILABLE | busy) && type != (SYSTEM_TSS16_AVAILABLE | busy))
        x86_raise_selector(v, wrong, selector, ext);
    if (!(x86_attributes(d) & ATTR_P))
        x86_raise_selector(v, VECTOR_NP, selector, ext);
    struct x86_segment tss = x86_descriptor_segment(d, selector);
    if (tss.limit < (type & 0x8 ? TSS32_LIMIT : TSS16_LIMIT))
        x86_raise_selector(v, VECTOR_TS, selector, ext);
    tss.attributes |= TYPE_BUSY;
    return tss;
}

/* ---- after the commit point ---- */

static void load_ldt(struct vcpu *v, uint16_t selector, uint32_t ext)
{
    struct x86_descriptor d;
    if (x86_selector_null(selector))
        return;
    if ((selector & 4) || !x86_descriptor_read(v, selector, &d) ||
        (x86_attributes(&d) & (ATTR_S | ATTR_TYPE)) != SYSTEM_LDT || !(x86_attributes(&d) & ATTR_P))
        x86_raise_selector(v, VECTOR_TS, selector, ext);
    v->seg[SEG_LDTR] = x86_descriptor_segment(&d, selector);
}

static void load_cs(struct vcpu *v, uint16_t selector, uint32_t ext)
{
    struct x86_descriptor d;
    if (x86_selector_null(selector) || !x86_descriptor_read(v, selector, &d))
        x86_raise_selector(v, VECTOR_TS, selector, ext);
    uint32_t attributes = x86_attributes(&d);
    unsigned dpl = ATTR_GET_DPL(attributes), rpl = selector & 3;
    if (!x86_is_code(attributes) || (x86_is_conforming(attributes) ? dpl > rpl : dpl != rpl))
        x86_raise_selector(v, VECTOR_TS, selector, ext);
    if (!(attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_NP, selector, ext);
    x86_descriptor_mark(v, &d, TYPE_ACCESSED);
    v->seg[SEG_CS] = x86_descriptor_segment(&d, selector);
    vcpu_update_mode(v);
}

static void load_ss(struct vcpu *v, uint16_t selector, uint32_t ext)
{
    struct x86_descriptor d;
    if (x86_selector_null(selector) || !x86_descriptor_read(v, selector, &d))
        x86_raise_selector(v, VECTOR_TS, selector, ext);
    uint32_t attributes = x86_attributes(&d);
    if ((selector & 3) != v->cpl || ATTR_GET_DPL(attributes) != v->cpl ||
        !x86_is_writable_data(attributes))
        x86_raise_selector(v, VECTOR_TS, selector, ext);
    if (!(attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_SS, selector, ext);
    x86_descriptor_mark(v, &d, TYPE_ACCESSED);
    v->seg[SEG_SS] = x86_descriptor_segment(&d, selector);
}

static void load_data(struct vcpu *v, enum x86_sreg sreg, uint16_t selector, uint32_t ext)
{
    struct x86_descriptor d;
    if (x86_selector_null(selector))
        return;
    if (!x86_descriptor_read(v, selector, &d))
        x86_raise_selector(v, VECTOR_TS, selector, ext);
    uint32_t attributes = x86_attributes(&d);
    unsigned dpl = ATTR_GET_DPL(attributes), rpl = selector & 3;
    if (!(attributes & ATTR_S) || (x86_is_code(attributes) && !(attributes & TYPE_READABLE)) ||
        (!x86_is_conforming(attributes) && (rpl > dpl || v->cpl > dpl)))
        x86_raise_selector(v, VECTOR_TS, selector, ext);
    if (!(attributes & ATTR_P))
        x86_raise_selector(v, VECTOR_NP, selector, ext);
    x86_descriptor_mark(v, &d, TYPE_ACCESSED);
    v->seg[sreg] = x86_descriptor_segment(&d, selector);
}

static void load_segments(struct vcpu *v, const struct task *task, uint32_t ext)
{
    load_ldt(v, task->ldt, ext);
    if (x86_virtual_8086(v)) {
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            x86_real_load(v, (enum x86_sreg)i, task->segments[i]);
        vcpu_update_mode(v);
    } else {
        load_cs(v, task->segments[SEG_CS], ext);
        load_ss(v, task->segments[SEG_SS], ext);
        load_data(v, SEG_ES, task->segments[SEG_ES], ext);
        load_data(v, SEG_DS, task->segments[SEG_DS], ext);
        load_data(v, SEG_FS, task->segments[SEG_FS], ext);
        load_data(v, SEG_GS, task->segments[SEG_GS], ext);
    }
    if (v->rip > v->seg[SEG_CS].limit)
        x86_raise_error(v, VECTOR_GP, ext);
}

/* The registers; the segments are there by their selectors only. */
static void commit(struct vcpu *v, const struct x86_segment *tss, const struct task *task,
                   bool nested)
{
    bool wide = tss->attributes & 0x8;
    uint32_t high = wide ? 0 : 0xffff0000u;
    v->seg[SEG_TR] = *tss;
    v->cr0 |= CR0_TS;
    v->rip = task->ip;
    v->rflags = (task->flags & TASK_FLAGS & ~(uint64_t)(wide ? 0 : 0xffff0000u)) |
                TASK_FLAGS_FIXED | (nested ? FLAG_NT : 0);
    for (unsigned i = 0; i < 8; i++)
        v->gpr[i] = task->gpr[i] | high; /* SDM 3A 7.6: a 16-bit TSS leaves ones above */
    v->cpl = (v->rflags & FLAG_VM) ? 3 : task->segments[SEG_CS] & 3;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        v->seg[i] = x86_null_segment(task->segments[i], i == SEG_SS ? v->cpl : 0);
    v->seg[SEG_LDTR] = x86_null_segment(task->ldt, 0);
    bool armed = v->dr7 & DR7_ENABLED;
    v->dr7 &= ~(uint64_t)DR7_LOCAL;
    v->interrupt_shadow = v->shadow_blocks_debug = false;
    vcpu_update_mode(v);
    if (armed)
        tlb_flush_all(v);
}

void x86_task_switch(struct vcpu *v, uint16_t selector, enum x86_task_cause cause,
                     const struct x86_task_event *event)
{
    struct x86_descriptor d;
    struct task task;
    struct x86_segment old = v->seg[SEG_TR];
    struct x86_segment tss = read_tss(v, selector, cause, event->ext, &d);
    bool nested = cause == TASK_CALL || cause == TASK_EVENT;
    uint64_t flags = event->rflags & ~(uint64_t)(cause == TASK_RETURN ? FLAG_NT : 0);

    probe_old(v, &old);
    enum tlb_reach reach = x86_implicit_reach(v);
    if (nested)
        tlb_probe(v, reach, (uint32_t)tss.base, 2, true);
    else
        tlb_probe(v, reach, (uint32_t)(v->gdtr.base + (old.selector & 0xfff8u) + 5), 1, true);
    read_task(v, &tss, &task);
    if (cause != TASK_RETURN)
        x86_descriptor_mark(v, &d, TYPE_BUSY);
    if (!nested)
        x86_descriptor_clear_busy(v, old.selector);
    save_task(v, &old, event->rip, flags);
    if (nested)
        store(v, &tss, 0, old.selector, 2);
    commit(v, &tss, &task, nested);
    if ((tss.attributes & 0x8) && (v->cr0 & CR0_PG))
        x86_task_load_cr3(v, task.cr3);
    load_segments(v, &task, event->ext);
    if (event->has_error) {
        unsigned size = tss.attributes & 0x8 ? 4 : 2;
        struct x86_stack stack;
        x86_stack_current(v, &stack, event->ext);
        x86_stack_push(v, &stack, event->error, size);
        x86_stack_prepare(v, &stack);
        x86_stack_store(v, &stack);
        v->gpr[RSP] = x86_stack_pointer(v, &stack);
    }
    if (task.trap)
        v->debug_pending |= DR6_BT;
}

void x86_task_return(struct vcpu *v, uint64_t next_rip)
{
    const struct x86_segment *tr = &v->seg[SEG_TR];
    struct x86_task_event event = {.rip = next_rip, .rflags = v->rflags};
    if ((tr->attributes & ATTR_UNUSABLE) || tr->limit < 1)
        x86_raise_selector(v, VECTOR_TS, tr->selector, 0);
    x86_task_switch(v, (uint16_t)load(v, tr, 0, 2), TASK_RETURN, &event);
}
