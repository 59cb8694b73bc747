/* SPDX-License-Identifier: MIT */
/* The translator without a guest: bytes in a page, one unit at a time, for tests of check.h. */
#ifndef TESTS_SUPPORT_TRANSLATION_H
#define TESTS_SUPPORT_TRANSLATION_H

#include <stdio.h>
#include <stdlib.h>

#include "engine/bt/check.h"
#include "engine/bt/translate.h"
#include "engine/host/processor.h"
#include "x86/cpuid.h"

#define TRANSLATION_LINEAR 0x401000u
#define TRANSLATION_MEMORY (1u << 20)

struct translation_rig {
    struct cpuid_model cpuid;
    struct bt_vm vm;
    struct bt_page first, second;
    struct bt_unit u;
    bool alone; /* the units to be made: without sharing */
    uint8_t page[2 * MEM_PAGE_SIZE];
    char why[BT_CHECK_WHY];
};

static inline struct translation_rig *translation_create(void)
{
    struct translation_rig *r = calloc(1, sizeof(*r));
    struct error e = {0};
    host_processor_find();
    if (r == NULL || cpuid_model_build(&r->cpuid, "max", 1000000000, 1, &e) != 0 ||
        exec_memory_create(&r->vm.memory, TRANSLATION_MEMORY, &e) != 0 ||
        (r->vm.scratch = bt_scratch_create()) == NULL) {
        fprintf(stderr, "translation: %s\n", e.text);
        exit(1);
    }
    insn_decoder_init(&r->vm.decoder, &r->cpuid);
    bt_stubs_make(&r->vm);
    r->first = (struct bt_page){.linear = TRANSLATION_LINEAR, .token = 0x1234};
    r->second = (struct bt_page){.linear = TRANSLATION_LINEAR + MEM_PAGE_SIZE, .token = 0x5678};
    return r;
}

static inline void translation_forget(struct translation_rig *r)
{
    bt_allocations_drop(&r->vm, NULL, 0);
    memset(&r->u, 0, sizeof(r->u));
}

static inline void translation_destroy(struct translation_rig *r)
{
    translation_forget(r);
    exec_memory_destroy(&r->vm.memory);
    free(r->vm.scratch);
    free(r);
}

/* Translates from `offset` of r->page. crossing: its one instruction goes on in the second page. */
static inline void translation_make(struct translation_rig *r, unsigned offset, uint8_t key,
                                    bool crossing)
{
    translation_forget(r);
    r->u = (struct bt_unit){.rip = TRANSLATION_LINEAR + offset,
                            .key = key,
                            .alone = r->alone,
                            .code = r->vm.first,
                            .cold = r->vm.cold,
                            .page = &r->first,
                            .second = crossing ? &r->second : NULL};
    if (bt_translate(&r->vm, &r->u, r->page, crossing ? r->page + MEM_PAGE_SIZE : NULL) != 0)
        abort();
}

static inline int translation_check(struct translation_rig *r)
{
    r->why[0] = '\0';
    return bt_check(&r->vm, &r->u, r->why, sizeof(r->why));
}

/* Makes and checks; what was refused is on stderr. */
static inline int translation_try(struct translation_rig *r, unsigned offset, uint8_t key,
                                  bool crossing)
{
    translation_make(r, offset, key, crossing);
    int rc = translation_check(r);
    if (rc != 0) {
        fprintf(stderr, "%s; the guest's bytes at +%#x:", r->why, offset);
        for (unsigned n = 0; n < 15; n++)
            fprintf(stderr, " %02x", r->page[offset + n]);
        fputc('\n', stderr);
        bt_check_report(&r->u, stderr);
    }
    return rc;
}

/* Whether every access to come goes by the table (bt_is_scattered), or none. */
static inline void translation_by_table(struct translation_rig *r, bool all)
{
    memset(r->vm.scattered, all ? 0xff : 0, sizeof(r->vm.scattered));
}

static inline uint64_t translation_random(uint64_t *x) /* xorshift64 */
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* 20,000 units of random bytes, in all reaches and vector classes with `key` in addition: how many
 * were refused. */
static inline unsigned translation_try_random(struct translation_rig *r, uint8_t key)
{
    uint64_t x = 0x9e3779b97f4a7c15;
    unsigned refused = 0;
    for (unsigned n = 0; n < 20000; n++) {
        for (unsigned k = 0; k < 64; k += 8) {
            uint64_t bytes = translation_random(&x);
            memcpy(r->page + n % 1000 + k, &bytes, 8);
        }
        r->vm.counting = n & 1;
        translation_by_table(r, n & 2);
        r->alone = n & 4;
        unsigned reach = x % 3, class = x / 3 % 4;
        refused +=
            translation_try(r, n % 1000, (uint8_t)(reach | class << BT_KEY_VECTOR_SHIFT | key),
                            false) != 0;
    }
    r->vm.counting = r->alone = false;
    translation_by_table(r, false);
    return refused;
}

#endif
