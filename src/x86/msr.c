/* SPDX-License-Identifier: MIT */
/*
 * The MSR table: registration and look-up. See msr.h. Built at wiring time; afterwards only the
 * counters change, from any vCPU thread. The guest controls index and value.
 */
#include "x86/msr.h"

#include <errno.h>
#include <string.h>

#include "x86/msr_processor.h"

void msr_table_init(struct msr_table *t)
{
    memset(t, 0, sizeof(*t));
    for (unsigned i = 0; i < msr_processor_count; i++)
        msr_register(t, msr_processor[i], NULL);
}

int msr_register(struct msr_table *t, struct msr_entry entry, struct error *e)
{
    unsigned at = 0;

    while (at < t->count && t->entries[at].last < entry.first)
        at++;
    if (entry.first > entry.last)
        return error_set(e, EINVAL, "MSR %s: the range %#x to %#x is empty", entry.name,
                         entry.first, entry.last);
    if (at < t->count && t->entries[at].first <= entry.last)
        return error_set(e, EBUSY, "MSR %s (%#x) overlaps %s (%#x)", entry.name, entry.first,
                         t->entries[at].name, t->entries[at].first);
    if (t->count == MSR_ENTRIES_MAX)
        return error_set(e, ENOSPC, "MSR %s: more than %d entries", entry.name, MSR_ENTRIES_MAX);
    memmove(&t->entries[at + 1], &t->entries[at], (t->count - at) * sizeof(t->entries[0]));
    t->entries[at] = entry;
    t->count++;
    return 0;
}

static const struct msr_entry *find(const struct msr_table *t, uint32_t index)
{
    unsigned low = 0, high = t->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        const struct msr_entry *e = &t->entries[middle];
        if (index < e->first)
            high = middle;
        else if (index > e->last)
            low = middle + 1;
        else
            return e;
    }
    return NULL;
}

bool msr_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
    struct msr_table *t = v->platform->msrs;
    const struct msr_entry *e = find(t, index);
    if (e == NULL) {
        atomic_fetch_add_explicit(&t->unknown_reads, 1, memory_order_relaxed);
        return false;
    }
    return e->read != NULL && msr_offered(v->platform->cpuid, index) &&
           e->read(e->context, v, index, value);
}

bool msr_write(struct vcpu *v, uint32_t index, uint64_t value)
{
    struct msr_table *t = v->platform->msrs;
    const struct msr_entry *e = find(t, index);
    if (e == NULL) {
        atomic_fetch_add_explicit(&t->unknown_writes, 1, memory_order_relaxed);
        return false;
    }
    return e->write != NULL && msr_offered(v->platform->cpuid, index) &&
           e->write(e->context, v, index, value);
}
