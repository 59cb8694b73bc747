/* SPDX-License-Identifier: MIT */
/* The checker refuses what goes wrong with a check that serves several accesses: it is the wrong
 * one, it is too small, or what it was made for has changed. */
#include "seed.h"

#define LOAD_0    0x48, 0x8b, 0x08       /* mov (%rax), %rcx */
#define LOAD_8    0x48, 0x8b, 0x50, 8    /* mov 8(%rax), %rdx */
#define LOAD_RBX  0x48, 0x8b, 0x33       /* mov (%rbx), %rsi */
#define MOVE      0x48, 0x89, 0xfd       /* mov %rdi, %rbp */
#define MOVE_RAX  0x48, 0x89, 0xf8       /* mov %rdi, %rax */
#define HOST_8    0x4a, 0x8b, 0x54, 0x18 /* mov 8(%rax, %r11), %rdx */
#define TEST_PAGE 0x49, 0xf7, 0xc3       /* test $…, %r11 */

static void replace(uint8_t *at, const void *by, size_t n)
{
    memcpy(at, by, n);
}
#define REPLACE(at, ...) \
    replace(at, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static void shared_register_changed(void **state)
{
    MAKE(LOAD_0, MOVE, LOAD_8);
    REPLACE(FIND(MOVE), MOVE_RAX);
    refused("memory: no check leads here");
    MAKE(LOAD_0, LOAD_RBX, MOVE, LOAD_8); /* the slot is read again */
    REPLACE(FIND(MOVE), MOVE_RAX);
    refused("table: the host address is read before the check");
    MAKE(LOAD_0, LOAD_RBX, MOVE, LOAD_8);
    REPLACE(FIND(MOVE), 0x88, 0xcc, NOP); /* mov %cl, %ah */
    refused("table: the host address is read before the check");
    MAKE(LOAD_0, 0x48, 0x83, 0xc0, 8, 0x48, 0x8b, 0x10); /* add $8, %rax; mov (%rax), %rdx */
    FIND(0x48, 0x83, 0xc0, 8)[3] = 16;
    refused("memory: 8 bytes where 0 were checked");
    MAKE(LOAD_0, 0x48, 0x83, 0xc0, 8, 0x48, 0x8b, 0x10);
    FIND(0x48, 0x83, 0xc0, 8)[0] = 0x40; /* of 32 bits */
    refused("memory: no check leads here");
}

/* The translator uses RAX to save the flags, and must give it back. */
static void shared_register_not_given_back(void **state)
{
    MAKE(LOAD_0, 0x01, 0xde, LOAD_RBX, LOAD_8); /* add %ebx, %esi between */
    FIND(0x4c, 0x89, 0xd0)[2] = 0xc0; /* mov %r10, %rax of the entry: there nothing is known yet */
    assert_int_equal(translation_check(rig), 0);
    FIND(0x4c, 0x89, 0xd0)[2] = 0xc0; /* becomes mov %r8, %rax */
    refused("memory: no check leads here");
    MAKE(LOAD_0, 0x13, 0x48, 8);                            /* adc 8(%rax), %ecx */
    uint8_t *at = FIND(0x9e, 0x65, 0x48, 0x8b, 0x04, 0x25); /* sahf; mov %gs:temp[2], %rax */
    add32(at + 6, 8);
    refused("memory: no check leads here");
}

static void shared_span(void **state)
{
    MAKE(LOAD_0, LOAD_8);
    FIND(HOST_8)[4] = 9;
    refused("memory: 8 bytes where 7 were checked");
    MAKE(LOAD_0, LOAD_8);
    FIND(HOST_8)[4] = 0xff; /* below it */
    refused("memory: 8 bytes where 0 were checked");
    MAKE(LOAD_0, LOAD_8);
    FIND(HOST_8)[1] = 0x89;
    refused("memory: a write under the read table");
    MAKE(LOAD_0, LOAD_8);
    add32(FIND(COMPARE) + 3, 1);
    refused("memory: 8 bytes where 7 were checked");
}

/* Of a span that crosses pages the stub serves the first access alone. */
static void shared_across_pages(void **state)
{
    MAKE(LOAD_0, LOAD_8);
    nops(FIND(TEST_PAGE) + 7, 6); /* jne alone */
    refused("memory: 8 bytes where 0 were checked");
    MAKE(LOAD_0, LOAD_8);
    FIND(TEST_PAGE)[4] = 0xe0; /* two pages */
    refused("memory: 8 bytes where 0 were checked");
    MAKE(LOAD_0, LOAD_8);
    FIND(0x4d, 0x8d, 0x5a, 15)[3] = 14; /* lea 15(%r10), %r11 */
    refused("memory: 8 bytes where 7 were checked");
    MAKE(LOAD_0, LOAD_8);
    FIND(0x4d, 0x31, 0xd3)[2] = 0xdb; /* xor %r11, %r11 */
    refused("memory: 8 bytes where 0 were checked");
}

static uint32_t slot_at(const uint8_t *insn)
{
    uint32_t disp;
    memcpy(&disp, insn + 5, 4);
    return disp;
}

/* Every %gs:from becomes %gs:to. */
static void rename_slot(uint32_t from, uint32_t to)
{
    for (unsigned field = 0; field < 16; field += 8)
        for (uint8_t *at = rig->u.code; (at = find_from(at, &(uint32_t){from + field}, 4)) != NULL;)
            memcpy(at, &(uint32_t){to + field}, 4);
}

/* A second check of the unit fills the slot that the first one's accesses go on to use. */
static void shared_slot_filled_again(void **state)
{
    MAKE(LOAD_0, LOAD_RBX, LOAD_8);
    uint32_t first = slot_at(FIND(ADD_SLOT)), second = slot_at(FIND_LAST(ADD_SLOT));
    assert_int_not_equal(first, second);
    rename_slot(second, first);
    add32(FIND_LAST(0x41, 0xbb) + 2, (first - second) / (uint32_t)sizeof(struct tlb_fast) << 16);
    refused("table: the host address is read before the check");
    MAKE(LOAD_0, LOAD_RBX, LOAD_8);
    first = slot_at(FIND(ADD_SLOT)), second = slot_at(FIND_LAST(ADD_SLOT));
    uint8_t *cold = FIND(SUB_SLOT) + 9; /* by the stub alone */
    cold = find_from(cold, (uint8_t[]){SUB_SLOT}, 5);
    cold = find_from(cold, (uint8_t[]){0x41, 0xbb}, 2);
    add32(cold + 2, (first - second) / (uint32_t)sizeof(struct tlb_fast) << 16);
    refused("table: the host address is read before the check");
}

/* As it was once: RSP has one slot for all checks. */
static void shared_slot_of_stack(void **state)
{
    MAKE(0x48, 0x8b, 0x0c, 0x24,             /* mov (%rsp), %rcx */
         0x48, 0x8b, 0x94, 0x24, 0, 2, 0, 0, /* mov 512(%rsp), %rdx */
         0x48, 0x8b, 0x9c, 0x24, 8, 2, 0, 0, /* mov 520(%rsp), %rbx */
         0x48, 0x8b, 0x74, 0x24, 8);         /* mov 8(%rsp), %rsi */
    uint8_t *third = FIND_LAST(ADD_SLOT) - 4, *load = FIND_LAST(LOAD_SLOT);
    assert_int_equal(slot_at(third + 4) + 8, slot_at(load));
    assert_memory_equal(third, ((uint8_t[]){0x4d, 0x8d, 0x57, 8}), 4); /* lea 8(%r15), %r10 */
    nops(third, (size_t)(load - third));
    refused("memory: 8 bytes where 0 were checked");
}

/* Addresses made of what is in struct vcpu: a register, a segment's base. */
static void shared_cell_written(void **state)
{
    static const uint32_t segment = VCPU_OFFSET(seg[0].base) + SEG_GS * sizeof(struct x86_segment);
    MAKE(0x49, 0x8b, 0x0a, 0x49, 0x89, 0xdb, 0x49, 0x8b, 0x52,
         8); /* mov (%r10), %rcx; mov %rbx, %r11; mov 8(%r10), %rdx */
    uint8_t *store = FIND(0x65, 0x4c, 0x89, 0x14, 0x25);
    add32(store + 5, -8u);
    refused("memory: no check leads here");
    MAKE(0x65, 0x48, 0x8b, 0x08, 0x49, 0x89, 0xdb, 0x65, 0x48, 0x8b, 0x50, 8); /* of GS, by RAX */
    store = FIND(0x65, 0x4c, 0x89, 0x14, 0x25);
    memcpy(store + 5, &segment, 4);
    refused("table: the host address is read before the check");
}

static void shared_constant(void **state)
{
    static const uint8_t guest[] = {0x8b, 0x04, 0x25, 0, 0x40, 0x40, 0,  /* mov 0x404000, %eax */
                                    0x8b, 0x0c, 0x25, 8, 0x40, 0x40, 0}; /* mov 0x404008, %ecx */
    make(guest, sizeof(guest));
    FIND(0x41, 0x8b, 0x8b, 8, 0x40, 0x40)[4] = 0x50;
    refused("memory: 4 bytes where 0 were checked");
    make(guest, sizeof(guest));
    add32(FIND(0x65, 0x48, 0x81, 0x3c, 0x25) + 9, 0x1000);
    refused("memory: no check leads here");
    make(guest, sizeof(guest));
    add32(FIND(0x65, 0x48, 0x81, 0x3c, 0x25) + 9, 8);
    refused("table: the host address is read before the check");
    make(guest, sizeof(guest));
    nops(FIND(0x65, 0x48, 0x81, 0x3c, 0x25) + 13, 6);
    refused("table: the host address is read before the check");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_register_changed),
        cmocka_unit_test(shared_register_not_given_back),
        cmocka_unit_test(shared_span),
        cmocka_unit_test(shared_across_pages),
        cmocka_unit_test(shared_slot_filled_again),
        cmocka_unit_test(shared_slot_of_stack),
        cmocka_unit_test(shared_cell_written),
        cmocka_unit_test(shared_constant),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
