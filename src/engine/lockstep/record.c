/* SPDX-License-Identifier: MIT */
/*
 * The leader's side: each hook does what it did before and logs it with its position. Outside the
 * leader's run (reset, boot) nothing is logged: then the machine's state is copied instead.
 *
 * Called with the guest's vector state in the host's registers: no libc, general registers only.
 */
#include "engine/gate.h"
#include "engine/lockstep/lockstep.h"

static struct lockstep *of(struct vcpu *v)
{
    return v->platform->gate_context;
}

/* Always somewhere to write to; NULL never. */
static struct entry *append(struct lockstep *l, enum entry_kind kind)
{
    static __thread struct entry nobody_reads;
    struct vcpu *v = l->v;

    if (!l->running)
        return &nobody_reads;
    if (l->count == l->room) {
        l->full = true;
        return &nobody_reads;
    }
    struct entry *x = &l->log[l->count++];
    x->kind = (uint8_t)kind;
    x->space = x->size = 0;
    x->ok = false;
    x->instructions = v->counters.instructions;
    x->exceptions = v->counters.exits[EXIT_EXCEPTION];
    x->rip = v->rip;
    x->address = x->value = x->offset = 0;
    return x;
}

/* ---- the gate ---- */

static uint64_t record_tsc(struct vcpu *v)
{
    struct entry *x = append(of(v), ENTRY_TSC);
    return x->value = of(v)->gate->tsc(v);
}

/* The one function below that has a use for the gate's context. */
static bool record_random(struct vcpu *v, bool seed, uint64_t *value)
{
    struct lockstep *l = of(v);
    struct entry *x = append(l, ENTRY_RANDOM);

    v->platform->gate_context = l->gate_context;
    x->ok = l->gate->random(v, seed, value);
    v->platform->gate_context = l;
    x->value = *value;
    return x->ok;
}

static uint64_t record_read(struct vcpu *v, enum bus_space space, uint64_t address, unsigned size)
{
    struct entry *x = append(of(v), ENTRY_READ);
    x->space = (uint8_t)space;
    x->size = (uint8_t)size;
    x->address = address;
    return x->value = of(v)->gate->read(v, space, address, size);
}

static void record_write(struct vcpu *v, enum bus_space space, uint64_t address, uint64_t value,
                         unsigned size)
{
    struct entry *x = append(of(v), ENTRY_WRITE);
    x->space = (uint8_t)space;
    x->size = (uint8_t)size;
    x->address = address;
    x->value = value;
    of(v)->gate->write(v, space, address, value, size);
}

static struct entry *append_event(struct vcpu *v, enum entry_kind kind)
{
    struct entry *x = append(of(v), kind);
    x->ok = (v->rflags & FLAG_RF) != 0;
    x->address = v->rflags & ~(uint64_t)FLAG_RF;
    return x;
}

static int record_acknowledge(struct vcpu *v)
{
    int vector = of(v)->gate->acknowledge(v);
    if (vector >= 0)
        append_event(v, ENTRY_INTERRUPT)->value = (uint64_t)vector;
    return vector;
}

/* Its effect is in guest memory: ENTRY_COPIED. */
static uint64_t record_steal(struct vcpu *v)
{
    return of(v)->gate->steal(v);
}

static void record_taken(struct vcpu *v, uint32_t request)
{
    append_event(v, request == VCPU_REQUEST_NMI    ? ENTRY_NMI
                    : request == VCPU_REQUEST_INIT ? ENTRY_INIT
                                                   : ENTRY_SIPI);
    if (of(v)->gate->taken != NULL)
        of(v)->gate->taken(v, request);
}

const struct gate_ops lockstep_record_gate = {
    .tsc = record_tsc,
    .random = record_random,
    .read = record_read,
    .write = record_write,
    .acknowledge = record_acknowledge,
    .steal = record_steal,
    .taken = record_taken,
};

/* ---- the interrupt controller beside the gate ---- */

static int irq_acknowledge(void *context)
{
    struct lockstep *l = context;
    return l->irq->acknowledge(l->irq_context);
}

static uint8_t irq_cr8_read(void *context)
{
    struct lockstep *l = context;
    struct entry *x = append(l, ENTRY_CR8_READ);
    x->value = l->irq->cr8_read(l->irq_context);
    return (uint8_t)x->value;
}

static void irq_cr8_write(void *context, uint8_t tpr)
{
    struct lockstep *l = context;
    append(l, ENTRY_CR8_WRITE)->value = tpr;
    l->irq->cr8_write(l->irq_context, tpr);
}

/* Right after its ENTRY_SIPI. */
static uint8_t irq_sipi_vector(void *context)
{
    struct lockstep *l = context;
    uint8_t vector = l->irq->sipi_vector(l->irq_context);
    if (l->running && l->count > 0 && l->log[l->count - 1].kind == ENTRY_SIPI)
        l->log[l->count - 1].value = vector;
    return vector;
}

static void irq_init(void *context)
{
    struct lockstep *l = context;
    l->irq->init(l->irq_context);
}

static void irq_tsc_moved(void *context)
{
    struct lockstep *l = context;
    if (l->irq->tsc_moved != NULL)
        l->irq->tsc_moved(l->irq_context);
}

static bool irq_apic_enabled(void *context)
{
    struct lockstep *l = context;
    struct entry *x = append(l, ENTRY_APIC_ENABLED);
    x->ok = l->irq->apic_enabled == NULL || l->irq->apic_enabled(l->irq_context);
    return x->ok;
}

const struct vcpu_irq_ops lockstep_record_irq = {
    .acknowledge = irq_acknowledge,
    .cr8_read = irq_cr8_read,
    .cr8_write = irq_cr8_write,
    .sipi_vector = irq_sipi_vector,
    .init = irq_init,
    .tsc_moved = irq_tsc_moved,
    .apic_enabled = irq_apic_enabled,
};

/* ---- MSRs that are not the processor's own: those have a context ---- */

static bool msr_record_read(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    const struct msr_link *link = context;
    struct entry *x = append(link->lockstep, ENTRY_MSR_READ);
    x->address = index;
    x->ok = link->before.read != NULL && link->before.read(link->before.context, v, index, value);
    if (x->ok)
        x->value = *value;
    return x->ok;
}

static bool msr_record_write(void *context, struct vcpu *v, uint32_t index, uint64_t value)
{
    const struct msr_link *link = context;
    struct entry *x = append(link->lockstep, ENTRY_MSR_WRITE);
    x->address = index;
    x->value = value;
    x->ok = link->before.write != NULL && link->before.write(link->before.context, v, index, value);
    return x->ok;
}

void lockstep_record_msrs(struct lockstep *l)
{
    struct msr_table *t = l->machine->msrs;
    for (unsigned n = 0; n < t->count; n++) {
        struct msr_entry *e = &t->entries[n];
        l->msr_links[n] = (struct msr_link){.lockstep = l, .before = *e};
        if (e->context == NULL)
            continue;
        e->read = msr_record_read;
        e->write = msr_record_write;
        e->context = &l->msr_links[n];
    }
}

void lockstep_unrecord_msrs(struct lockstep *l)
{
    struct msr_table *t = l->machine->msrs;
    for (unsigned n = 0; n < t->count; n++)
        t->entries[n] = l->msr_links[n].before;
}

/* ---- guest memory ---- */

static bool is_foreign(struct lockstep *l)
{
    return l->running && !pthread_equal(l->thread, pthread_self());
}

void lockstep_page_dirtied(void *page_list, gpa_t page)
{
    struct page_list *list = page_list;
    if (is_foreign(list->lockstep))
        list->lockstep->foreign = true;
    else if (list->count < LOCKSTEP_PAGES)
        list->pages[list->count++] = page.v;
    else
        list->overflow = true;
}

static void copy_out(const struct mem *m, uint64_t a, uint8_t *to, uint64_t n)
{
    while (n > 0) {
        uint64_t offset = a % MEM_PAGE_SIZE, here = MEM_PAGE_SIZE - offset;
        if (here > n)
            here = n;
        memcpy(to, mem_page(m, GPA(a), NULL) + offset, here);
        to += here;
        a += here;
        n -= here;
    }
}

/* While the vCPU stands still: loaders. */
static void mirror(struct lockstep *l, uint64_t a, uint64_t n)
{
    while (n > 0) {
        uint64_t offset = a % MEM_PAGE_SIZE, here = MEM_PAGE_SIZE - offset;
        if (here > n)
            here = n;
        mem_write(&l->mem, GPA(a), mem_page(l->machine->mem, GPA(a), NULL) + offset, here);
        a += here;
        n -= here;
    }
}

void lockstep_copied(void *page_list, gpa_t a, uint64_t n)
{
    struct lockstep *l = ((struct page_list *)page_list)->lockstep;

    if (!l->running) {
        mirror(l, a.v, n);
    } else if (is_foreign(l)) {
        l->foreign = true;
    } else if (n > l->bytes_room - l->bytes_used) {
        l->full = true;
    } else {
        struct entry *x = append(l, ENTRY_COPIED);
        x->address = a.v;
        x->value = n;
        x->offset = l->bytes_used;
        copy_out(l->machine->mem, a.v, l->bytes + l->bytes_used, n);
        l->bytes_used += n;
    }
}
