/* SPDX-License-Identifier: MIT */
/*
 * x87 instructions that are their own translation. The registers are in the host's only once an
 * instruction here has asked for them (local->x87_live), for few programs use them: loading and
 * saving them takes longer than all other vector state. C code that may use them saves them first
 * (bt_vector_save), and bt_do_miss gives them back to the unit that it returns to.
 *
 * FIP, FOP and FDP are the guest's, stored here by the rule of AMD's processors (copy_run.c);
 * others do not tell when they set them, and there the interpreter runs these instructions. An
 * unmasked exception is pending in the host's registers as it would be in the guest's, and stops
 * the next instruction that looks (trap.c).
 */
#include "engine/bt/translate.h"
#include "engine/host/processor.h"

/* What it does to FIP and FOP, and to FDP if it has a memory operand (SDM 1 8.1.8, APM 1 6.2.5). */
static bool sets_pointers(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FWAIT:
        return false;
    default:
        return true;
    }
}

/* By hand: what reads or writes the pointers, or clears them. */
static bool is_known(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return false;
    default:
        return true;
    }
}

bool tr_is_x87(uint8_t key, const struct bt_insn *i)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    bool enabled = (key & BT_KEY_VECTOR) != BT_VECTOR_NONE << BT_KEY_VECTOR_SHIFT;
    if (zi->meta.isa_ext != ZYDIS_ISA_EXT_X87 || !is_known(zi->mnemonic) || !enabled ||
        zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || host_processor.saves_pointers)
        return false;
    if (i->memory < 0)
        return true;
    const ZydisDecodedOperand *o = &i->full->operands[i->memory];
    return o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM && o->size <= 80 && i->in.seg != SEG_FS &&
           i->in.seg != SEG_GS && (!(key & BT_KEY_CODE32) || code32_can_address(i));
}

/* The guest's registers in the host's; RFLAGS are lost. */
static void put_live(struct translation *t)
{
    struct emit *e = &t->e;
    if (t->x87)
        return;
    tr_leave_flags(t);
    struct bt_cold *c = &t->s->cold[t->cold_count++];
    EMIT(e, 0x65, 0x80, 0x3c, 0x25); /* cmpb $0, %gs:x87_live */
    emit_u32(e, LOCAL_OFFSET(x87_live));
    EMIT(e, 0);
    *c = (struct bt_cold){.kind = COLD_X87, .patch = emit_jcc(e, 4)}; /* je */
    c->after = e->at;
    t->x87 = true;
}

static void put_pointers(struct translation *t, const struct tr_address *a)
{
    struct emit *e = &t->e;
    const struct insn_full *full = t->i->full;
    uint64_t rip = insn_rip(t, t->i);
    if (a != NULL) {
        tr_linear_to(t, a, S0);
        emit_store(e, S0, VCPU_OFFSET(vector.fdp));
    }
    tr_put_linear(t, S0, rip);
    emit_store(e, S0, VCPU_OFFSET(vector.fip));
    EMIT(e, 0x66, 0x65, 0xc7, 0x04, 0x25); /* movw $fop, %gs:fop */
    emit_u32(e, VCPU_OFFSET(vector.fop));
    EMIT(e, t->i->bytes[full->insn.raw.modrm.offset], full->insn.opcode & 7);
}

void emit_x87(struct translation *t)
{
    const struct bt_insn *i = t->i;
    bool memory = i->memory >= 0;
    struct tr_operand o = {0};
    struct tr_address a;
    uint8_t map[16];
    for (unsigned g = 0; g < 16; g++)
        map[g] = (uint8_t)host_of(g);
    put_live(t);
    if (memory) {
        const ZydisDecodedOperand *m = &i->full->operands[i->memory];
        a = tr_address_of(t, i);
        bool write = (m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
        o = tr_access(t, &a, m->size / 8, write, BT_CHECK_QUIET); /* #MF comes before #PF */
    }
    if (i->flags_in)
        tr_host_flags(t);
    tr_mark(t);
    rewrite_emit(&t->e, i, memory ? &o : NULL, map);
    if (i->flags_out)
        tr_flags_written(t, i);
    if (sets_pointers(i->full->insn.mnemonic))
        put_pointers(t, memory ? &a : NULL);
    t->uncounted++;
}
