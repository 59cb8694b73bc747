/* SPDX-License-Identifier: MIT */
/* STAC and CLAC change the reach within a unit: what the checker accepts of it, and that it refuses
 * a change by halves, and what is of the other reach. */
#include "seed.h"

#define STAC      0x0f, 0x01, 0xcb
#define CLAC      0x0f, 0x01, 0xca
#define CALL_ON   0xe8, 0x20, 0, 0, 0
#define CALL_RAX  0xff, 0xd0
#define RET       0xc3
#define FNINIT    0xdb, 0xe3
#define PUSH_RAX  0x50
#define STORE_RSP 0x65, 0x48, 0x89, 0x24, 0x25 /* mov %rsp, %gs:… */
#define LOAD_RSP  0x65, 0x48, 0x8b, 0x24, 0x25
#define SET_BYTE  0x65, 0xc6, 0x04, 0x25 /* movb $…, %gs:… */
#define MOVE_SIZE 9u

static void make_supervisor(const void *guest, size_t n)
{
    make_for(REACH_SUPERVISOR, guest, n);
}
#define MAKE_SUPERVISOR(...) \
    make_supervisor((const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

/* make_for has it checked. */
static void accepted(void **state)
{
    static const uint8_t guests[][32] = {
        {STAC, LOAD, CLAC, LOAD},
        {CLAC, LOAD, STAC, LOAD, CLAC, LOAD, STAC, LOAD},
        {LOAD, STAC, STAC, LOAD, CLAC, CLAC, LOAD},
        {STAC, PUSH_RAX, CALL_ON, CLAC},
        {STAC, CALL_RAX, CLAC},
        {CLAC, PUSH_RAX, CALL_ON},
        {STAC, RET},
        {CLAC, RET},
        {STAC, JMP_RAX},
        {CLAC, JMP_RAX},
        {STAC, FNINIT, LOAD, CLAC, FNINIT, LOAD},
        {CLAC, FNINIT, LOAD, STAC, FNINIT, LOAD},
        {0x39, 0xc8, STAC, 0x74, 4, CLAC, 0x75, 4}, /* cmp; je; jne */
    };
    for (unsigned n = 0; n < sizeof(guests) / sizeof(guests[0]); n++) {
        for (unsigned table = 0; table < 2; table++) {
            by_table(table != 0);
            make_for(REACH_SUPERVISOR, guests[n], sizeof(guests[0]));
            make_for(REACH_SUPERVISOR_AC, guests[n], sizeof(guests[0]));
        }
    }
    by_table(false);
}

static void change_by_halves(void **state)
{
    MAKE_SUPERVISOR(STAC, LOAD);
    nops(FIND(STORE_RSP), MOVE_SIZE);
    refused("rsp: named");
    MAKE_SUPERVISOR(STAC, LOAD);
    nops(FIND(LOAD_RSP), MOVE_SIZE);
    refused("reach: not changed together");
    MAKE_SUPERVISOR(STAC, LOAD);
    nops(FIND(SET_BYTE), MOVE_SIZE); /* whose return stack it is */
    refused("reach: not changed together");
    MAKE_SUPERVISOR(STAC, LOAD);
    nops(FIND_LAST(SET_BYTE), MOVE_SIZE);
    refused("reach: not changed together");
    MAKE_SUPERVISOR(STAC, LOAD);
    nops(FIND(STORE_RSP), 3 * MOVE_SIZE); /* the reach alone */
    refused("vcpu: %gs:");
}

static void change_of_other_fields(void **state)
{
    const uint32_t next = sizeof(struct bt_return_stack);
    MAKE_SUPERVISOR(STAC, LOAD);
    add32(FIND(STORE_RSP) + 5, next);
    refused("vcpu: %gs:");
    MAKE_SUPERVISOR(STAC, LOAD);
    add32(FIND(LOAD_RSP) + 5, -next);
    refused("reach: not changed together");
    MAKE_SUPERVISOR(STAC, LOAD);
    FIND(SET_BYTE)[8] = REACH_USER;
    refused("reach: not changed together");
    MAKE_SUPERVISOR(STAC, LOAD);
    FIND_LAST(SET_BYTE)[8] = REACH_USER;
    refused("reach: not changed together");
}

/* The same bytes in a unit of user code. */
static void change_by_user(void **state)
{
    MAKE_SUPERVISOR(STAC);
    rig->u.key = KEY(REACH_USER, BT_VECTOR_AVX);
    refused("vcpu: %gs:");
}

static void slot_of_the_old_reach(void **state)
{
    MAKE_SUPERVISOR(STAC, LOAD);
    add32(FIND(ADD_SLOT) + 5, (uint32_t)(0 - 2 * SLOTS));
    refused("table: ");
    MAKE_SUPERVISOR(LOAD, STAC, LOAD); /* what was checked before is not known any more */
    uint8_t *at = FIND_LAST(LOAD_SLOT);
    add32(at + 5, (uint32_t)(0 - 2 * SLOTS));
    refused("table: ");
}

static const uint8_t *target_of(const uint8_t *call)
{
    int32_t by;
    memcpy(&by, call + 1, sizeof(by));
    return call + 5 + by;
}

/* The way on behind a miss before STAC leads behind it. */
static void paths_differ(void **state)
{
    MAKE_SUPERVISOR(LOAD, STAC, MOV_REG);
    uint8_t *behind = FIND(MOV_REG), *call = FIND_LAST(0xe8);
    while (target_of(call) != rig->vm.stubs.check[REACH_SUPERVISOR][0])
        call--;
    assert_int_equal(call[5], 0xe9);
    emit_patch(call + 6, behind);
    refused("reach: differs between two paths");
}

static void exit_to_another_reach(void **state)
{
    MAKE_SUPERVISOR(STAC, JMP_BACK);
    struct bt_exit *x = &rig->u.exits[0];
    x->to = &rig->u;
    emit_patch(x->patch, x->host_flags ? rig->u.enter_host : rig->u.enter_saved);
    refused("reach: to a unit of another");
}

static void site_of_another_reach(void **state)
{
    MAKE_SUPERVISOR(STAC, FNINIT);
    rig->u.sites[0].key = rig->u.key;
    refused("reach: the site is of another");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepted),
        cmocka_unit_test(change_by_halves),
        cmocka_unit_test(change_of_other_fields),
        cmocka_unit_test(change_by_user),
        cmocka_unit_test(slot_of_the_old_reach),
        cmocka_unit_test(paths_differ),
        cmocka_unit_test(exit_to_another_reach),
        cmocka_unit_test(site_of_another_reach),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
