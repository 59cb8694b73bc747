/* SPDX-License-Identifier: MIT */
/*
 * Whether leader and follower agree: the registers by the field table that also saves them, and
 * every page that either may have written. On the vCPU's thread, between runs.
 */
#include "engine/lockstep/lockstep.h"

/* The requests are the machine's, and RF may differ after an interrupted REP. */
static uint64_t mask_of(const struct field *f)
{
    if (f->offset == offsetof(struct vcpu, requests))
        return 0;
    return f->offset == offsetof(struct vcpu, rflags) ? ~(uint64_t)FLAG_RF : UINT64_MAX;
}

static uint64_t element(const struct vcpu *v, const struct field *f, unsigned index)
{
    uint64_t value = 0;
    memcpy(&value, (const uint8_t *)v + f->offset + (size_t)index * f->size, f->size);
    return value & mask_of(f);
}

unsigned lockstep_registers(const struct lockstep *l,
                            void (*found)(void *context, const struct difference *d), void *context)
{
    unsigned different = 0;
    for (const struct field *f = vcpu_state.fields; f->name != NULL; f++) {
        if (memcmp((const uint8_t *)l->v + f->offset, (const uint8_t *)l->follower + f->offset,
                   (size_t)f->size * f->count) == 0)
            continue;
        for (unsigned i = 0; i < f->count; i++) {
            uint64_t a = element(l->v, f, i), b = element(l->follower, f, i);
            if (a == b)
                continue;
            different++;
            if (found != NULL)
                found(context, &(struct difference){f, i, a, b});
        }
    }
    return different;
}

void lockstep_copy_registers(struct lockstep *l)
{
    for (const struct field *f = vcpu_state.fields; f->name != NULL; f++) {
        if (mask_of(f) != 0)
            memcpy((uint8_t *)l->follower + f->offset, (const uint8_t *)l->v + f->offset,
                   (size_t)f->size * f->count);
    }
}

static bool page_differs(const struct lockstep *l, gpa_t page)
{
    const uint8_t *a = mem_page(l->machine->mem, page, NULL), *b = mem_page(&l->mem, page, NULL);
    return a != NULL && b != NULL && memcmp(a, b, MEM_PAGE_SIZE) != 0;
}

static bool list_differs(const struct lockstep *l, const struct page_list *list, gpa_t *page)
{
    for (unsigned n = 0; n < list->count; n++) {
        *page = GPA(list->pages[n]);
        if (page_differs(l, *page))
            return true;
    }
    return false;
}

/* More pages were written than the lists hold: the flags know all of them. */
static bool any_differs(const struct lockstep *l, gpa_t *page)
{
    for (unsigned n = 0; n < l->mem.block_count; n++) {
        const struct mem_block *b = &l->mem.blocks[n];
        for (uint64_t at = 0; at < b->size; at += MEM_PAGE_SIZE) {
            _Atomic uint8_t *leader, *follower;
            *page = GPA(b->base.v + at);
            mem_page(l->machine->mem, *page, &leader);
            mem_page(&l->mem, *page, &follower);
            if (((*leader | *follower) & MEM_PAGE_DIRTY) && page_differs(l, *page))
                return true;
        }
    }
    return false;
}

uint64_t lockstep_first_word(const struct lockstep *l, gpa_t page)
{
    const uint64_t *a = (const uint64_t *)mem_page(l->machine->mem, page, NULL);
    const uint64_t *b = (const uint64_t *)mem_page(&l->mem, page, NULL);
    unsigned n = 0;
    while (n < MEM_PAGE_SIZE / 8 - 1 && a[n] == b[n])
        n++;
    return page.v + 8 * n;
}

bool lockstep_memory(const struct lockstep *l, gpa_t *page)
{
    if (l->leader_pages.overflow || l->follower_pages.overflow)
        return any_differs(l, page);
    return list_differs(l, &l->leader_pages, page) || list_differs(l, &l->follower_pages, page);
}

static void clean_list(struct mem *m, struct page_list *list)
{
    for (unsigned n = 0; n < list->count; n++)
        mem_page_clean(m, GPA(list->pages[n]));
    for (unsigned n = 0; n < m->block_count && list->overflow; n++) {
        const struct mem_block *b = &m->blocks[n];
        for (uint64_t at = 0; at < b->size; at += MEM_PAGE_SIZE)
            mem_page_clean(m, GPA(b->base.v + at));
    }
    list->count = 0;
    list->overflow = false;
}

void lockstep_clean(struct lockstep *l)
{
    clean_list(l->machine->mem, &l->leader_pages);
    clean_list(&l->mem, &l->follower_pages);
    tlb_flush_all(l->v);
    tlb_flush_all(l->follower);
}

static void first_name(void *context, const struct difference *d)
{
    char *name = context;
    if (name[0] == '\0')
        lockstep_field_name(d, name);
}

bool lockstep_compare(struct lockstep *l)
{
    char name[LOCKSTEP_NAME] = "";
    gpa_t page;
    unsigned registers = lockstep_registers(l, first_name, name);

    if (registers > 1)
        snprintf(l->why, sizeof(l->why), "%s and %u more", name, registers - 1);
    else if (registers == 1)
        snprintf(l->why, sizeof(l->why), "%s", name);
    else if (lockstep_memory(l, &page))
        snprintf(l->why, sizeof(l->why), "memory at %#llx",
                 (unsigned long long)lockstep_first_word(l, page));
    return l->why[0] == '\0';
}
