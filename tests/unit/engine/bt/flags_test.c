/* SPDX-License-Identifier: MIT */
/*
 * What classify says of an instruction's flags is true of this processor. Each opcode of the
 * general registers that is translated as a copy runs natively with the same registers, memory and
 * flags that it tests, while the other arithmetic flags are all clear, all set, and mixed. That
 * must make no difference to registers and memory; nor to flags, where classify says that it writes
 * them all or needs none. "Undefined" flags are what this is about: some processors leave them as
 * they were.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/mman.h>

#include "native.h"
#include "translation.h"

#define DATA      0x10000000u
#define DATA_SIZE 4096u
#define OPERAND   (DATA + 1024)
#define VALUES    24u
#define AROUND    256u /* bytes on each side of the operand that a displacement may reach */
#define KEY_AVX   (BT_VECTOR_AVX << BT_KEY_VECTOR_SHIFT)
#define INSN_ROOM (INSN_LENGTH_MAX + 1)

static uint64_t state = 1;
static uint8_t *data;
static unsigned instructions, writers, runs, wrong;

static uint64_t next_random(void) /* SplitMix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t value(void)
{
    uint64_t x = next_random();
    switch (x & 7) {
    case 0:
        return 0;
    case 1:
        return x >> 8 & 0x3f; /* a count */
    case 2:
        return UINT64_MAX;
    case 3:
        return UINT64_C(1) << (x >> 8 & 63);
    default:
        return next_random() >> (x >> 8 & 63);
    }
}

static bool concerns(const struct bt_insn *i)
{
    if (i->kind != KIND_COPY)
        return false;
    for (unsigned n = 0; n < i->full->insn.operand_count; n++) {
        const ZydisDecodedOperand *o = &i->full->operands[n];
        bool memory = o->type == ZYDIS_OPERAND_TYPE_MEMORY;
        if (memory && (o->mem.base != ZYDIS_REGISTER_RDI || o->mem.index != ZYDIS_REGISTER_NONE ||
                       o->mem.segment == ZYDIS_REGISTER_FS || o->mem.segment == ZYDIS_REGISTER_GS))
            return false;
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && bt_gpr_number(o->reg.value) == RSP)
            return false;
    }
    return true;
}

struct result {
    struct native_state s;
    struct native_fault fault;
    uint8_t memory[2 * AROUND];
};

static void run(const struct bt_insn *i, const struct native_state *from, const uint8_t *memory,
                uint64_t flags, struct result *r)
{
    memcpy(data + (OPERAND - DATA) - AROUND, memory, sizeof(r->memory));
    r->s = *from;
    r->s.rflags = FLAG_ONE | FLAG_IF | flags;
    r->fault = native_run(&r->s, i->copy, i->full->insn.length);
    memcpy(r->memory, data + (OPERAND - DATA) - AROUND, sizeof(r->memory));
    runs++;
}

static void report(const struct bt_insn *i, const char *what, uint64_t flags)
{
    if (wrong++ > 100)
        return;
    print_message("%s %s [%x]:", ZydisMnemonicGetString(i->full->insn.mnemonic), what,
                  (unsigned)flags);
    for (unsigned n = 0; n < i->full->insn.length; n++)
        print_message(" %02x", i->copy[n]);
    print_message("\n");
}

static bool judge(const struct bt_insn *i, const struct native_state *from, const uint8_t *memory)
{
    const ZydisAccessedFlags *f = i->full->insn.cpu_flags;
    uint64_t tested = f != NULL ? f->tested & FLAGS_ARITHMETIC : 0;
    uint64_t others = FLAGS_ARITHMETIC & ~tested, base = next_random() & tested;
    uint64_t in[] = {base, base | others, base | (next_random() & others)};
    struct result first, r;
    if (tested && !i->flags_in)
        report(i, "looks at flags", tested);
    run(i, from, memory, in[0], &first);
    for (unsigned n = 1; n < sizeof(in) / sizeof(in[0]); n++) {
        run(i, from, memory, in[n], &r);
        if (r.fault.vector != first.fault.vector)
            report(i, "faults by the flags", 0);
        if (r.fault.vector >= 0)
            continue;
        uint64_t flags = (r.s.rflags ^ first.s.rflags) & FLAGS_ARITHMETIC;
        bool same = memcmp(r.s.gpr, first.s.gpr, sizeof(r.s.gpr)) == 0 &&
                    memcmp(r.memory, first.memory, sizeof(r.memory)) == 0;
        if (!same)
            report(i, "depends on flags that it does not test", 0);
        else if (i->flags_all && flags)
            report(i, "does not write all flags: keeps", flags);
        else if (!i->flags_out && flags != in[n] - base)
            report(i, "writes flags", flags ^ (in[n] - base));
        else if (!i->flags_in && i->flags_out && flags)
            report(i, "keeps flags", flags);
        else
            continue;
        return false;
    }
    return true;
}

static void try(struct translation_rig *rig, const uint8_t *bytes)
{
    static struct insn_full full;
    struct bt_insn i = {.full = &full};
    memcpy(i.copy, bytes, INSN_ROOM);
    i.bytes = i.copy;
    if (insn_decode(&rig->vm.decoder, INSN_MODE_64, i.bytes, INSN_LENGTH_MAX, &i.in, &full) !=
        INSN_OK)
        return;
    classify(&rig->vm, KEY_AVX, &i);
    bt_plan(&i);
    if (!concerns(&i))
        return;
    instructions++;
    writers += i.flags_out;
    for (unsigned n = 0; n < VALUES; n++) {
        struct native_state from = {0};
        uint8_t memory[2 * AROUND];
        for (unsigned g = 0; g < 16; g++)
            from.gpr[g] = value();
        from.gpr[RDI] = OPERAND;
        from.vector.fcw = 0x37f;
        from.vector.mxcsr = 0x1f80;
        for (unsigned q = 0; q < 16; q++)
            from.vector.zmm[X86_ZMM_QWORDS * q] = value();
        for (unsigned q = 0; q < sizeof(memory); q += 8) {
            uint64_t x = value();
            memcpy(memory + q, &x, 8);
        }
        if (!judge(&i, &from, memory))
            return;
    }
}

/* After `head`: each opcode byte, ModRM's reg field, with a register and with [rdi]. */
static void sweep(struct translation_rig *rig, const uint8_t *head, unsigned count)
{
    for (unsigned n = 0; n < 256 * 16; n++) {
        uint8_t bytes[INSN_ROOM];
        uint8_t reg = (uint8_t)(n & 7), rm = (uint8_t)(next_random() & 3);
        for (unsigned k = 0; k < INSN_ROOM; k++)
            bytes[k] = (uint8_t)next_random();
        memcpy(bytes, head, count);
        bytes[count] = (uint8_t)(n >> 4);
        bytes[count + 1] = (uint8_t)(n & 8 ? 0xc0 | reg << 3 | rm : reg << 3 | 7);
        try(rig, bytes);
    }
}

static void flags_are_as_classified(void **test)
{
    static const struct {
        uint8_t bytes[4], count;
    } heads[] = {
        {{0}, 0},
        {{0x66}, 1},
        {{0x48}, 1},
        {{0x0f}, 1},
        {{0x66, 0x0f}, 2},
        {{0xf2, 0x0f}, 2},
        {{0xf3, 0x0f}, 2},
        {{0x48, 0x0f}, 2},
        {{0xf3, 0x48, 0x0f}, 3},
        {{0x0f, 0x38}, 2},
        {{0x66, 0x0f, 0x38}, 3},
        {{0xf2, 0x0f, 0x38}, 3},
        {{0xf3, 0x0f, 0x38}, 3},
        {{0x66, 0x0f, 0x3a}, 3},
        {{0xc4, 0xe2, 0x70}, 3}, /* VEX, 0F38: none, 66, F3, F2; W0 and W1 */
        {{0xc4, 0xe2, 0x71}, 3},
        {{0xc4, 0xe2, 0x72}, 3},
        {{0xc4, 0xe2, 0x73}, 3},
        {{0xc4, 0xe2, 0xf0}, 3},
        {{0xc4, 0xe2, 0xf1}, 3},
        {{0xc4, 0xe2, 0xf2}, 3},
        {{0xc4, 0xe2, 0xf3}, 3},
        {{0xc4, 0xe3, 0x7b}, 3}, /* RORX */
    };
    struct translation_rig *rig = translation_create();
    (void)test;
    native_init();
    data = mmap((void *)(uintptr_t)DATA, DATA_SIZE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    assert_ptr_equal(data, (void *)(uintptr_t)DATA);
    for (unsigned n = 0; n < sizeof(heads) / sizeof(heads[0]); n++)
        sweep(rig, heads[n].bytes, heads[n].count);
    print_message("%u instructions, %u write flags; %u runs, %u wrong\n", instructions, writers,
                  runs, wrong);
    assert_int_equal(wrong, 0);
    assert_true(instructions > 2000 && writers > 700);
    munmap(data, DATA_SIZE);
    translation_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_are_as_classified),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
