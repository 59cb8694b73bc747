/* SPDX-License-Identifier: MIT */
/* System instructions that are stores to struct vcpu. */
#include "engine/bt/translate.h"

/* and or or $imm8, %gs:byte */
static void put_byte(struct emit *e, unsigned operation, uint32_t offset, uint8_t value)
{
    EMIT(e, 0x65, 0x80, (uint8_t)(4 | operation << 3), 0x25);
    emit_u32(e, offset);
    EMIT(e, value);
}

#define BYTE_OR  1u
#define BYTE_AND 4u

/* An interrupt that waits may be taken from now on. */
static void put_hold_nothing(struct emit *e)
{
    EMIT(e, 0x65, 0xc7, 0x04, 0x25); /* movl */
    emit_u32(e, LOCAL_OFFSET(held));
    emit_u32(e, 0);
    EMIT(e, 0x65, 0xc7, 0x04, 0x25);
    emit_u32(e, LOCAL_OFFSET(not_held));
    emit_u32(e, UINT32_MAX);
}

static void put_swapgs(struct emit *e)
{
    uint32_t base = (uint32_t)(VCPU_OFFSET(seg[0].base) + SEG_GS * sizeof(struct x86_segment));
    emit_load(e, S0, base);
    emit_load(e, S1, VCPU_OFFSET(kernel_gs_base));
    emit_store(e, S0, VCPU_OFFSET(kernel_gs_base));
    emit_store(e, S1, base);
}

/* Arithmetic flags from where they were saved, the others from the vCPU; RF and VM are pushed as 0
 * (SDM 2B PUSHF). */
static void put_pushf(struct translation *t)
{
    struct emit *e = &t->e;
    struct tr_operand o = tr_pushed(t);
    unsigned scratch = tr_free_scratch(t, &o);
    emit_store(e, RAX, LOCAL_OFFSET(temp[7]));
    EMIT(e, 0x65, 0x0f, 0xb7, 0x04, 0x25); /* movzwl %gs:flags, %eax */
    emit_u32(e, LOCAL_OFFSET(flags));
    emit_mov(e, scratch, RAX);
    EMIT(e, 0x83, 0xe0, 1, 0xc1, 0xe0, 11, 0x41, 0xc1, (uint8_t)(0xe8 | (scratch & 7)), 8, 0x41,
         0x09, (uint8_t)(0xc0 | (scratch & 7))); /* and $1, %eax; shl $11; shr $8, scratch; or */
    emit_load(e, RAX, VCPU_OFFSET(rflags));
    EMIT(e, 0x25); /* and $…, %eax */
    emit_u32(e, ~(FLAGS_ARITHMETIC | FLAG_RF | FLAG_VM));
    EMIT(e, 0x41, 0x09, (uint8_t)(0xc0 | (scratch & 7))); /* or %eax, scratch */
    emit_load(e, RAX, LOCAL_OFFSET(temp[7]));
    tr_mark(t);
    emit_memory(e, !t->code32, 0x89, scratch, &o);
    tr_move_rsp(t, -t->word);
    t->host = false;
}

/* ---- STAC, CLAC ---- */

#define AC_BYTE (VCPU_OFFSET(rflags) + 2)

void tr_put_ac(struct emit *e, bool on)
{
    const uint8_t ac = FLAG_AC >> 16;
    put_byte(e, on ? BYTE_OR : BYTE_AND, AC_BYTE, on ? ac : (uint8_t)~ac);
}

static void put_byte_constant(struct emit *e, uint32_t offset, uint8_t value)
{
    EMIT(e, 0x65, 0xc6, 0x04, 0x25); /* movb */
    emit_u32(e, offset);
    EMIT(e, value);
}

/* mov %rsp, %gs:offset and back */
static void put_rsp(struct emit *e, uint8_t opcode, uint32_t offset)
{
    EMIT(e, 0x65, 0x48, opcode, 0x24, 0x25);
    emit_u32(e, offset);
}

/* AC is the other value, which is known; with it go the reach and its return stack. RFLAGS stay. */
static void put_reach(struct translation *t, enum tlb_reach reach)
{
    struct emit *e = &t->e;
    int32_t ac = reach == REACH_SUPERVISOR_AC ? (int32_t)FLAG_AC : -(int32_t)FLAG_AC;
    emit_load(e, S0, VCPU_OFFSET(rflags));
    emit_lea(e, true, S0, S0, EMIT_NO_INDEX, 0, ac);
    emit_store(e, S0, VCPU_OFFSET(rflags));
    put_rsp(e, 0x89, BT_RETURNS_OFFSET(t->reach, top));
    put_rsp(e, 0x8b, BT_RETURNS_OFFSET(reach, top));
    put_byte_constant(e, LOCAL_OFFSET(return_reach), (uint8_t)reach);
    put_byte_constant(e, VCPU_OFFSET(reach), (uint8_t)reach);
    t->reach = (uint8_t)reach;
    tr_forget(t);
}

/* The reach is that of AC, because AC is set or because SMAP is off: in that case it stays. */
static void put_smap_test(struct translation *t)
{
    struct emit *e = &t->e;
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    tr_save_flags(t);
    t->host = false;
    EMIT(e, 0x65, 0xf6, 0x04, 0x25); /* testb $SMAP, %gs:cr4 + 2 */
    emit_u32(e, VCPU_OFFSET(cr4) + 2);
    EMIT(e, CR4_SMAP >> 16);
    *c = (struct bt_cold){.kind = COLD_NO_SMAP,
                          .patch = emit_jcc(e, 4), /* je */
                          .count = (uint8_t)(t->uncounted + 1),
                          .target = insn_next_rip(t, t->i)};
    t->smap = true;
}

static void emit_smap(struct translation *t)
{
    bool set = t->i->full->insn.mnemonic == ZYDIS_MNEMONIC_STAC;
    if (t->reach == REACH_SUPERVISOR) {
        if (set)
            put_reach(t, REACH_SUPERVISOR_AC);
    } else if (!set) {
        if (!t->smap)
            put_smap_test(t);
        put_reach(t, REACH_SUPERVISOR);
    } else if (!t->smap) {
        tr_save_flags(t);
        tr_put_ac(&t->e, true);
        t->host = false;
    }
}

void emit_system(struct translation *t)
{
    uint32_t second = VCPU_OFFSET(rflags) + 1;
    if (t->i->kind == KIND_SMAP) {
        emit_smap(t);
        return;
    }
    if (t->i->kind == KIND_SWAPGS) {
        put_swapgs(&t->e);
        return;
    }
    tr_save_flags(t);
    if (t->i->kind == KIND_PUSHF) {
        put_pushf(t);
        return;
    }
    switch (t->i->full->insn.mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
        put_byte(&t->e, BYTE_AND, second, (uint8_t) ~(FLAG_IF >> 8));
        break;
    case ZYDIS_MNEMONIC_STI: /* the next instruction is still shielded (SDM 2B STI) */
        put_byte(&t->e, BYTE_OR, second, FLAG_IF >> 8);
        put_hold_nothing(&t->e);
        break;
    case ZYDIS_MNEMONIC_STD:
        put_byte(&t->e, BYTE_OR, second, FLAG_DF >> 8);
        break;
    default: /* CLD */
        put_byte(&t->e, BYTE_AND, second, (uint8_t) ~(FLAG_DF >> 8));
        break;
    }
    t->host = false;
}
