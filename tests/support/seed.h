/* SPDX-License-Identifier: MIT */
/* A translation that the checker accepts, to break one rule in its bytes: for tests of check.h. */
#ifndef TESTS_SUPPORT_SEED_H
#define TESTS_SUPPORT_SEED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "translation.h"

#define KEY(reach, vector) ((uint8_t)((reach) | (vector) << BT_KEY_VECTOR_SHIFT))
#define SLOTS              sizeof(((struct tlb *)0)->slots[0][0])
#define FAST               sizeof(((struct tlb *)0)->fast[0][0])
#define NOP                0x90

static struct translation_rig *rig;

static inline int setup(void **state)
{
    rig = translation_create();
    return 0;
}

static inline int teardown(void **state)
{
    translation_destroy(rig);
    return 0;
}

/* Accesses go by the table of the TLB, not by a slot of their own. */
static inline void by_table(bool all)
{
    translation_by_table(rig, all);
}

/* From there on, in what is seldom run too; NULL: nowhere. */
static inline uint8_t *find_from(const uint8_t *from, const void *bytes, size_t n)
{
    const struct bt_unit *u = &rig->u;
    bool cold = from >= u->cold && from <= u->cold_end;
    uint8_t *at = memmem(from, (size_t)((cold ? u->cold_end : u->code_end) - from), bytes, n);
    return at != NULL || cold ? at : find_from(u->cold, bytes, n);
}

static inline uint8_t *find(const void *bytes, size_t n)
{
    uint8_t *at = find_from(rig->u.code, bytes, n);
    if (at == NULL) {
        bt_check_report(&rig->u, stderr);
        fail_msg("the translation has not the bytes that the violation starts from");
    }
    return at;
}
#define FIND(...) find((const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

#define FIND_LAST(...) find_last((const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static inline uint8_t *find_last(const void *bytes, size_t n)
{
    uint8_t *at = NULL, *next = find(bytes, n);
    for (; next != NULL; next = find_from(at + 1, bytes, n))
        at = next;
    return at;
}

static inline void make_for(enum tlb_reach reach, const void *guest, size_t n)
{
    memset(rig->page, NOP, sizeof(rig->page));
    memcpy(rig->page, guest, n);
    translation_make(rig, 0, KEY(reach, BT_VECTOR_AVX), false);
    assert_int_equal(translation_check(rig), 0);
}

static inline void make(const void *guest, size_t n)
{
    make_for(REACH_USER, guest, n);
}
#define MAKE(...) make((const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static inline void refused(const char *rule)
{
    if (translation_check(rig) == 0)
        fail_msg("accepted, though it breaks '%s'", rule);
    if (strncmp(rig->why, rule, strlen(rule)) != 0)
        fail_msg("refused by '%s', not by '%s'", rig->why, rule);
}

static inline void nops(uint8_t *at, size_t n)
{
    memset(at, NOP, n);
}

static inline void add32(uint8_t *at, uint32_t by)
{
    uint32_t value;
    memcpy(&value, at, 4);
    value += by;
    memcpy(at, &value, 4);
}

#define LOAD         0x8b, 0x01                   /* mov (%rcx), %eax */
#define LOAD_HOST    0x42, 0x8b, 0x04, 0x19       /* mov (%rcx, %r11), %eax */
#define ADD_SLOT     0x65, 0x4c, 0x03, 0x14, 0x25 /* add %gs:slot, %r10 */
#define SUB_SLOT     0x65, 0x4c, 0x2b, 0x14, 0x25
#define LOAD_SLOT    0x65, 0x4c, 0x8b, 0x1c, 0x25 /* mov %gs:slot + 8, %r11 */
#define COMPARE      0x49, 0x81, 0xfa             /* cmp $…, %r10 */
#define AND_INDEX    0x41, 0x81, 0xe3             /* and $…, %r11d */
#define ADD_ENTRY    0x65, 0x4e, 0x03, 0x14, 0x1d /* add %gs:…(%r11), %r10 */
#define JMP_BACK     0xeb, 0xfe
#define JMP_RAX      0xff, 0xe0
#define JMP_FAR_AWAY 0xe9, 0, 0x20, 0, 0
#define MOV_REG      0x48, 0x89, 0xc1 /* mov %rax, %rcx */

#endif
