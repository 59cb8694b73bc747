/* SPDX-License-Identifier: MIT */
/* What is remembered of an instruction's shape gives the same as decoding it afresh, field by
 * field: random instructions of few shapes, each again and again with other values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "translation.h"

#define SETS      4000u
#define OF_ONE    8u
#define INSN_ROOM (INSN_LENGTH_MAX + 1)

static uint64_t state = 1;

static uint64_t next_random(void) /* SplitMix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static const struct {
    uint8_t bytes[3];
    uint8_t count;
} beginnings[] = {{{0}, 0},          {{0x48}, 1},       {{0x41}, 1},       {{0x66}, 1},
                  {{0xf3}, 1},       {{0xf2, 0x48}, 2}, {{0x66, 0x45}, 2}, {{0x65, 0x48}, 2},
                  {{0xf0}, 1},       {{0x4c, 0x0f}, 2}, {{0x0f}, 1},       {{0x66, 0x0f}, 2},
                  {{0xf3, 0x0f}, 2}, {{0x64, 0x66}, 2}, {{0xf2, 0x0f}, 2}};

/* Opcode, ModRM and SIB bytes of one set are the same, the rest differs. */
static void make(uint8_t *out, unsigned beginning, uint64_t shape)
{
    unsigned count = beginnings[beginning].count;
    for (unsigned n = 0; n < INSN_ROOM; n++)
        out[n] = (uint8_t)next_random();
    memcpy(out, beginnings[beginning].bytes, count);
    memcpy(out + count, &shape, 3);
}

static bool afresh(struct bt_vm *vm, uint8_t key, struct bt_insn *i, unsigned n)
{
    static struct insn_full full;
    i->bytes = i->copy;
    i->full = &full;
    if (insn_decode(&vm->decoder, bt_key_decodes(key), i->bytes, n, &i->in, &full) != INSN_OK)
        return false;
    classify(vm, key, i);
    bt_plan(i);
    bt_effects(i);
    return true;
}

/* Without the values of displacement and immediate, which are in the record alone. */
static void put_shape_of(struct insn_full *out, const struct bt_insn *i)
{
    *out = *i->full;
    out->insn.raw.disp.value = 0;
    out->insn.raw.imm[0].value.u = 0;
    for (unsigned n = 0; n < out->insn.operand_count; n++) {
        ZydisDecodedOperand *o = &out->operands[n];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
            o->mem.disp.value = 0;
        else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            o->imm.value.u = 0;
    }
}

static void assert_same(const struct bt_insn *a, const struct bt_insn *b)
{
    static struct insn_full of_a, of_b;
    put_shape_of(&of_a, a);
    put_shape_of(&of_b, b);
    assert_memory_equal(&of_a.insn, &of_b.insn, sizeof(of_a.insn));
    assert_memory_equal(of_a.operands, of_b.operands,
                        of_a.insn.operand_count * sizeof(of_b.operands[0]));
    assert_memory_equal(&a->plan, &b->plan, sizeof(a->plan));
    assert_int_equal(a->rotated, b->rotated);
    assert_int_equal(a->writes, b->writes);
    assert_int_equal(a->has_rsp, b->has_rsp);
    assert_int_equal(a->pushes, b->pushes);
    assert_int_equal(a->adds_to, b->adds_to);
    assert_int_equal(a->add, b->add);
    assert_ptr_equal(a->in.exec, b->in.exec);
    assert_int_equal(a->in.imm, b->in.imm);
    assert_int_equal(a->in.disp, b->in.disp);
    assert_memory_equal(&a->in.op, &b->in.op,
                        offsetof(struct insn, prefixes) + 1 - offsetof(struct insn, op));
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->flags_in, b->flags_in);
    assert_int_equal(a->flags_all, b->flags_all);
    assert_int_equal(a->flags_out, b->flags_out);
    assert_int_equal(a->may_fault, b->may_fault);
    assert_int_equal(a->memory, b->memory);
}

static void shapes_are_like_decoding(void **test)
{
    /* reaches and vector classes; 32-bit code */
    static const uint8_t keys[] = {0, 5, 9, 14, BT_KEY_CODE32 | 5, BT_KEY_CODE32 | 14};
    struct translation_rig *r = translation_create();
    struct bt_insn *seen = &r->vm.scratch->insns[0], fresh;
    unsigned decoded = 0;
    (void)test;

    for (unsigned set = 0; set < SETS; set++) {
        unsigned beginning = (unsigned)(next_random() % (sizeof(beginnings) / sizeof(*beginnings)));
        uint64_t shape = next_random();
        uint8_t key = keys[next_random() % sizeof(keys)];
        for (unsigned n = 0; n < OF_ONE; n++) {
            memset(seen, 0, sizeof(*seen));
            r->vm.scratch->number++;
            memset(&fresh, 0, sizeof(fresh));
            make(fresh.copy, beginning, shape);
            unsigned length = n < OF_ONE / 2 ? INSN_LENGTH_MAX : 1 + next_random() % 15;
            bool good = afresh(&r->vm, key, &fresh, length);
            assert_int_equal(bt_decode(&r->vm, key, fresh.copy, length, seen), good);
            if (good)
                assert_same(seen, &fresh);
            decoded += good;
        }
    }
    assert_true(decoded > SETS * OF_ONE / 4);
    translation_destroy(r);
}

/* All opcodes of the two maps, with each kind of ModRM. */
static void every_opcode(void **test)
{
    struct translation_rig *r = translation_create();
    struct bt_insn *seen = &r->vm.scratch->insns[0], fresh;
    (void)test;

    for (unsigned n = 0; n < 2 * sizeof(beginnings) / sizeof(*beginnings) * 256 * 256; n++) {
        unsigned beginning = n / 2 / 65536;
        uint8_t key = n & 1 ? BT_KEY_CODE32 | 14 : 14;
        for (unsigned again = 0; again < 2; again++) {
            memset(seen, 0, sizeof(*seen));
            r->vm.scratch->number++;
            memset(&fresh, 0, sizeof(fresh));
            make(fresh.copy, beginning, (n / 2 & 0xffff) | 0x250000);
            bool good = afresh(&r->vm, key, &fresh, INSN_LENGTH_MAX);
            assert_int_equal(bt_decode(&r->vm, key, fresh.copy, INSN_ROOM, seen), good);
            if (good)
                assert_same(seen, &fresh);
        }
    }
    translation_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_are_like_decoding),
        cmocka_unit_test(every_opcode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
