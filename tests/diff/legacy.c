/* SPDX-License-Identifier: MIT */
/* See legacy.h, and diff.h for the descriptors. */
#include "legacy.h"

#define USER_DATA   0x2b /* Linux' flat segments */
#define USER_CODE32 0x23

/* ORDER enum diff_selector */
const struct diff_descriptor diff_ldt[DIFF_LDT] = {
    {.limit = 0xfffff, .contents = DIFF_CODE_SEGMENT, .pages = true, .big = true},
    {.limit = 0xfffff, .pages = true, .big = true},
    {.base = DIFF_DATA, .limit = DIFF_DATA_PAGES * DIFF_PAGE - 1, .big = true},
    {.base = 0x10000000,
     .limit = (DIFF_DATA - 0x10000000) / DIFF_PAGE + 4,
     .pages = true,
     .big = true},
    {.limit = DIFF_DATA / DIFF_PAGE + 4, .contents = DIFF_DATA_DOWN, .pages = true, .big = true},
    {.limit = 0xfffff, .pages = true, .big = true, .restricted = true},
    {.limit = 0xfffff,
     .contents = DIFF_CODE_SEGMENT,
     .pages = true,
     .big = true,
     .restricted = true},
    {.limit = 0xfffff, .pages = true, .big = true, .absent = true},
    {.base = DIFF_DATA, .limit = DIFF_DATA_PAGES * DIFF_PAGE - 1},
    {.base = DIFF_DATA, .limit = 2 * DIFF_PAGE - 1, .contents = DIFF_DATA_DOWN},
};

static uint32_t base_of(uint16_t selector)
{
    return (selector & 4) && selector / 8 < DIFF_LDT ? diff_ldt[selector / 8].base : 0;
}

uint64_t diff_segment_base(const struct diff_case *c, unsigned segment)
{
    if (segment == SEG_FS)
        return c->in.fs_base;
    if (segment == SEG_GS)
        return c->in.gs_base;
    return c->code32 ? base_of(c->in.selector[segment]) : 0;
}

uint64_t legacy_stack(struct diff_case *c, int64_t offset)
{
    uint16_t selector = c->in.selector[SEG_SS];
    if (c->code32 && (selector & 4) && !diff_ldt[selector / 8].big) {
        c->unordered_mask = UINT16_MAX;
        return diff_segment_base(c, SEG_SS) + (uint16_t)(c->in.gpr[RSP] + (uint64_t)offset);
    }
    return diff_segment_base(c, SEG_SS) + c->in.gpr[RSP] + (uint64_t)offset;
}

static void set(struct diff_case *c, unsigned segment, uint16_t selector)
{
    c->in.selector[segment] = selector;
    if (segment == SEG_FS)
        c->in.fs_base = base_of(selector);
    if (segment == SEG_GS)
        c->in.gs_base = base_of(selector);
}

void legacy_segments(struct random *r, struct diff_case *c)
{
    static const uint16_t data[] = {DIFF_SELECTOR_FLAT,
                                    DIFF_SELECTOR_FLAT,
                                    USER_DATA,
                                    USER_DATA,
                                    DIFF_SELECTOR_WINDOW,
                                    DIFF_SELECTOR_CUT,
                                    DIFF_SELECTOR_DOWN,
                                    DIFF_SELECTOR_READ_ONLY,
                                    DIFF_SELECTOR_CODE,
                                    DIFF_SELECTOR_DOWN_16,
                                    0};
    static const uint16_t stack[] = {
        DIFF_SELECTOR_FLAT, DIFF_SELECTOR_FLAT,     USER_DATA,
        USER_DATA,          DIFF_SELECTOR_WINDOW,   DIFF_SELECTOR_CUT,
        DIFF_SELECTOR_DOWN, DIFF_SELECTOR_STACK_16, DIFF_SELECTOR_DOWN_16};
    static const uint16_t flat[] = {DIFF_SELECTOR_FLAT, USER_DATA};
    static const uint8_t names[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};

    set(c, SEG_CS,
        random_chance(r, 80)   ? DIFF_SELECTOR_CODE
        : random_chance(r, 50) ? USER_CODE32
                               : DIFF_SELECTOR_EXECUTE_ONLY);
    set(c, SEG_SS, stack[random_below(r, sizeof(stack) / sizeof(stack[0]))]);
    for (unsigned i = 0; i < sizeof(names); i++)
        set(c, names[i], data[random_below(r, sizeof(data) / sizeof(data[0]))]);
    if (c->flat && random_chance(r, 90)) {
        set(c, SEG_CS, random_chance(r, 50) ? DIFF_SELECTOR_CODE : USER_CODE32);
        for (unsigned i = 0; i < 2; i++)
            set(c, names[i], flat[random_below(r, 2)]);
        set(c, SEG_SS, flat[random_below(r, 2)]);
    }
    c->in.gpr[RSP] -= diff_segment_base(c, SEG_SS);
}

void legacy_reach_by_word(struct random *r, struct diff_case *c, unsigned segment)
{
    if (segment == SEG_CS || random_chance(r, 20))
        return;
    set(c, segment, random_chance(r, 70) ? DIFF_SELECTOR_WINDOW : DIFF_SELECTOR_STACK_16);
}

uint16_t legacy_selector(struct random *r)
{
    static const uint16_t selectors[] = {DIFF_SELECTOR_CODE,
                                         DIFF_SELECTOR_FLAT,
                                         DIFF_SELECTOR_FLAT,
                                         DIFF_SELECTOR_WINDOW,
                                         DIFF_SELECTOR_CUT,
                                         DIFF_SELECTOR_DOWN,
                                         DIFF_SELECTOR_READ_ONLY,
                                         DIFF_SELECTOR_EXECUTE_ONLY,
                                         DIFF_SELECTOR_ABSENT,
                                         DIFF_SELECTOR_STACK_16,
                                         DIFF_SELECTOR_DOWN_16,
                                         DIFF_SELECTOR_FLAT & ~3,
                                         USER_DATA,
                                         USER_CODE32,
                                         0,
                                         3,
                                         0x10,
                                         0x28,
                                         DIFF_LDT * 8 + 7,
                                         0xffff};
    return selectors[random_below(r, sizeof(selectors) / sizeof(selectors[0]))];
}

void legacy_narrow(struct diff_case *c)
{
    for (unsigned i = 0; i < 16; i++)
        c->in.gpr[i] = i < 8 ? (uint32_t)c->in.gpr[i] : 0;
    c->in.rip = (uint32_t)c->in.rip;
    c->unordered = (uint32_t)c->unordered;
    c->unordered_mask &= UINT32_MAX;
}
