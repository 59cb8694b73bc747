/* SPDX-License-Identifier: MIT */
/*
 * What is to be done with an instruction, and what it does with the arithmetic flags. What is not
 * known here to be safe to run as it is goes to the interpreter.
 *
 * "Undefined" flags count as written, when they depend on the operands alone on this processor;
 * some leave them as they were (tests/unit/engine/bt/flags_test.c asks it, tests/diff compares
 * them). Shifts and rotates by CL leave all as they were when the count is 0.
 */
#include "engine/bt/translate.h"
#include "engine/host/processor.h"
#include "engine/interp/step.h"

static bool kind_by_mnemonic(uint8_t key, struct bt_insn *i)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    const ZydisDecodedOperand *o = &i->full->operands[0];
    bool far = zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    bool whole = i->in.stack_size == (key & BT_KEY_CODE32 ? 4 : 8) &&
                 (!(key & BT_KEY_CODE32) || code32_can_address(i));

    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_ENDBR32:
        i->kind = KIND_SKIP;
        return true;
    case ZYDIS_MNEMONIC_LEA:
        i->kind = key & BT_KEY_CODE32 && i->in.address_size != 4 ? KIND_SITE : KIND_LEA;
        return true;
    case ZYDIS_MNEMONIC_PUSH:
        i->kind = whole && o->type != ZYDIS_OPERAND_TYPE_REGISTER ? KIND_PUSH
                  : whole && i->in.form == FORM_R                 ? KIND_PUSH
                                                                  : KIND_SITE;
        return true;
    case ZYDIS_MNEMONIC_POP:
        i->kind = whole && i->in.form == FORM_R ? KIND_POP : KIND_SITE_END;
        return true;
    case ZYDIS_MNEMONIC_LEAVE:
        i->kind = whole ? KIND_LEAVE : KIND_SITE;
        return true;
    case ZYDIS_MNEMONIC_JMP:
        i->kind = far || !whole                             ? KIND_SITE_END
                  : o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? KIND_JMP
                                                            : KIND_JMP_INDIRECT;
        return true;
    case ZYDIS_MNEMONIC_CALL:
        i->kind = far || !whole                             ? KIND_SITE_END
                  : o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? KIND_CALL
                                                            : KIND_CALL_INDIRECT;
        return true;
    case ZYDIS_MNEMONIC_RET:
        i->kind = far || !whole ? KIND_SITE_END : KIND_RET;
        return true;
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_STD:
        i->kind = KIND_CLD;
        return true;
    default:
        break;
    }
    if (zi->meta.category == ZYDIS_CATEGORY_COND_BR) {
        bool counts = zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && zi->opcode >= 0xe0;
        i->kind = counts || !whole ? KIND_SITE_END : KIND_JCC;
        return true;
    }
    return false;
}

/* Instructions of the base set that are their own translation. */
static bool base_category(const ZydisDecodedInstruction *zi)
{
    switch (zi->meta.category) {
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_SETCC:
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_ROTATE:
    case ZYDIS_CATEGORY_CONVERT:
    case ZYDIS_CATEGORY_SEMAPHORE:
        return true;
    case ZYDIS_CATEGORY_BITBYTE: /* with a register as bit offset memory has no bounds */
        return zi->operand_count_visible < 2 ||
               !(zi->mnemonic == ZYDIS_MNEMONIC_BT || zi->mnemonic == ZYDIS_MNEMONIC_BTS ||
                 zi->mnemonic == ZYDIS_MNEMONIC_BTR || zi->mnemonic == ZYDIS_MNEMONIC_BTC) ||
               zi->raw.imm[0].size != 0 || zi->raw.modrm.mod == 3;
    case ZYDIS_CATEGORY_FLAGOP:
        return zi->mnemonic == ZYDIS_MNEMONIC_CLC || zi->mnemonic == ZYDIS_MNEMONIC_STC ||
               zi->mnemonic == ZYDIS_MNEMONIC_CMC || zi->mnemonic == ZYDIS_MNEMONIC_SAHF ||
               zi->mnemonic == ZYDIS_MNEMONIC_LAHF;
    case ZYDIS_CATEGORY_MISC:
        return zi->mnemonic == ZYDIS_MNEMONIC_LFENCE || zi->mnemonic == ZYDIS_MNEMONIC_SFENCE ||
               zi->mnemonic == ZYDIS_MNEMONIC_MFENCE;
    default:
        return false;
    }
}

static bool is_scalar_set(ZydisISAExt x)
{
    switch (x) {
    case ZYDIS_ISA_EXT_BASE:
    case ZYDIS_ISA_EXT_LONGMODE:
    case ZYDIS_ISA_EXT_SSE2: /* fences, MOVNTI */
    case ZYDIS_ISA_EXT_SSE:
        return true;
    default:
        return false;
    }
}

/* Sets whose instructions work on general registers by VEX or legacy encodings. */
static bool is_general_extension(ZydisISAExt x)
{
    return x == ZYDIS_ISA_EXT_BMI1 || x == ZYDIS_ISA_EXT_BMI2 || x == ZYDIS_ISA_EXT_LZCNT ||
           x == ZYDIS_ISA_EXT_ADOX_ADCX || x == ZYDIS_ISA_EXT_MOVBE;
}

/* The least class of enabled vector state that the set needs; -1: not copied. */
static int vector_class_of(const ZydisDecodedInstruction *zi)
{
    switch (zi->meta.isa_ext) {
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
        return BT_VECTOR_SSE;
    case ZYDIS_ISA_EXT_GFNI:
        return zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ? BT_VECTOR_SSE : BT_VECTOR_AVX;
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_F16C:
    case ZYDIS_ISA_EXT_FMA:
    case ZYDIS_ISA_EXT_VAES:
    case ZYDIS_ISA_EXT_VPCLMULQDQ:
        return BT_VECTOR_AVX;
    case ZYDIS_ISA_EXT_AVX512EVEX:
    case ZYDIS_ISA_EXT_AVX512VEX:
        return BT_VECTOR_AVX512;
    default:
        return -1;
    }
}

static bool touches_vector(const struct bt_insn *i)
{
    for (unsigned n = 0; n < i->full->insn.operand_count; n++) {
        const ZydisDecodedOperand *o = &i->full->operands[n];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        switch (ZydisRegisterGetClass(o->reg.value)) {
        case ZYDIS_REGCLASS_XMM:
        case ZYDIS_REGCLASS_YMM:
        case ZYDIS_REGCLASS_ZMM:
        case ZYDIS_REGCLASS_MASK:
            return true;
        default:
            if (o->reg.value == ZYDIS_REGISTER_MXCSR)
                return true;
            break;
        }
    }
    return false;
}

static bool may_copy(uint8_t key, const struct bt_insn *i)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    unsigned class = (key & BT_KEY_VECTOR) >> BT_KEY_VECTOR_SHIFT;

    if ((zi->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) || !rewrite_possible(i))
        return false;
    if ((key & BT_KEY_CODE32) && !(code32_is_same(i) && code32_can_address(i)))
        return false;
    if (i->memory >= 0 &&
        (i->full->operands[i->memory].size == 0 || i->full->operands[i->memory].size % 8 != 0))
        return false;
    /* With 16 bits processors read 2 bytes (SDM 2B MOVSXD), and the decoder says 4. */
    if (zi->mnemonic == ZYDIS_MNEMONIC_MOVSXD && i->in.size == 2)
        return false;
    if (zi->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || zi->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
        return class >= BT_VECTOR_AVX;
    if (!touches_vector(i)) {
        if (is_general_extension(zi->meta.isa_ext))
            return true;
        if (zi->mnemonic == ZYDIS_MNEMONIC_POPCNT || zi->mnemonic == ZYDIS_MNEMONIC_CRC32)
            return true;
        return is_scalar_set(zi->meta.isa_ext) && base_category(zi);
    }
    int need =
        zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ? BT_VECTOR_AVX512 : vector_class_of(zi);
    if (need >= 0 && zi->meta.isa_ext != ZYDIS_ISA_EXT_AVX512EVEX &&
        zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && need < BT_VECTOR_AVX)
        need = BT_VECTOR_AVX;
    return need >= 0 && (unsigned)need <= class;
}

/* Handlers of the interpreter after which the unit may go on: they change registers, flags and
 * memory only. */
static bool goes_on(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_SWAPGS:
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_RDPID:
        return true;
    default:
        return zi->meta.category == ZYDIS_CATEGORY_STRINGOP || base_category(zi) ||
               zi->meta.isa_ext == ZYDIS_ISA_EXT_X87 || zi->meta.isa_ext == ZYDIS_ISA_EXT_MMX;
    }
}

/* Handlers that may run with the guest's vector state in the host's registers: they call nothing
 * that lies outside x86/ but through the gate. */
static bool handler_is_light(const struct bt_insn *i)
{
    if (i->in.prefixes & INSN_LOCK)
        return false; /* split locks stop the other vCPUs */
    switch (i->full->insn.mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_XLAT:
    case ZYDIS_MNEMONIC_ENTER:
        return true;
    case ZYDIS_MNEMONIC_MOV: /* CR8 is the local APIC's */
        return i->in.form != FORM_RC && i->in.form != FORM_CR
                   ? i->in.form != FORM_RD && i->in.form != FORM_DR
                   : i->full->operands[i->in.form == FORM_RC].reg.value != ZYDIS_REGISTER_CR8;
    default:
        return goes_on(&i->full->insn);
    }
}

/* REP STOS and MOVS of flat operands. */
static bool is_plain_string(uint8_t key, const struct bt_insn *i)
{
    switch (i->full->insn.mnemonic) {
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD: /* of SSE2 too, which has no REP */
    case ZYDIS_MNEMONIC_MOVSQ:
        return i->full->insn.meta.category == ZYDIS_CATEGORY_STRINGOP &&
               (i->in.prefixes & (INSN_REP | INSN_REPNE)) != 0 &&
               i->in.address_size == (key & BT_KEY_CODE32 ? 4 : 8) && i->in.seg != SEG_FS &&
               i->in.seg != SEG_GS;
    default:
        return false;
    }
}

/* Leaves "undefined" flags as they were: divisions on both vendors' processors, others on some. */
static bool keeps_undefined(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        return true;
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
        return host_processor.multiply_keeps_flags;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
        return host_processor.scan_keeps_flags;
    case ZYDIS_MNEMONIC_LZCNT:
    case ZYDIS_MNEMONIC_TZCNT:
        return host_processor.count_keeps_flags;
    default:
        return false;
    }
}

static void flags_of(struct bt_insn *i)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;
    const ZydisAccessedFlags *f = zi->cpu_flags;
    uint32_t all = FLAGS_ARITHMETIC;

    if (f == NULL)
        return;
    uint32_t written = (f->modified | f->set_0 | f->set_1 | f->undefined) & all;
    i->flags_out = written != 0;
    bool by_cl =
        (zi->meta.category == ZYDIS_CATEGORY_SHIFT || zi->meta.category == ZYDIS_CATEGORY_ROTATE) &&
        zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && zi->opcode != 0xd0 &&
        zi->opcode != 0xd1 &&
        (zi->raw.imm[0].size == 0 ||
         (i->bytes[zi->raw.imm[0].offset] & (i->in.size == 8 ? 63 : 31)) == 0);
    i->flags_all = written == all && !by_cl && !(f->undefined && keeps_undefined(zi->mnemonic));
    i->flags_read = (f->tested & all) != 0 || by_cl;
    i->flags_in = (f->tested & all) != 0 || (written != 0 && !i->flags_all);
}

void classify(const struct bt_vm *vm, uint8_t key, struct bt_insn *i)
{
    const ZydisDecodedInstruction *zi = &i->full->insn;

    i->memory = -1;
    for (unsigned n = 0; n < zi->operand_count; n++)
        if (i->full->operands[n].type == ZYDIS_OPERAND_TYPE_MEMORY && i->memory < 0)
            i->memory = (int8_t)n;
    i->flags_in = i->flags_read = i->flags_all = i->flags_out = i->may_fault = false;
    flags_of(i);
    i->may_fault = zi->meta.isa_ext == ZYDIS_ISA_EXT_X87 || zi->mnemonic == ZYDIS_MNEMONIC_DIV ||
                   zi->mnemonic == ZYDIS_MNEMONIC_IDIV || touches_vector(i) ||
                   zi->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
    i->in.exec = NULL;
    if (kind_by_mnemonic(key, i)) {
        if (i->kind != KIND_SITE && i->kind != KIND_SITE_END)
            return;
    } else if (zi->meta.category == ZYDIS_CATEGORY_PREFETCH ||
               zi->meta.category == ZYDIS_CATEGORY_WIDENOP) {
        i->kind = KIND_SKIP;
        return;
    } else if (may_copy(key, i)) {
        i->kind = KIND_COPY;
        return;
    } else if (tr_is_x87(key, i)) {
        i->kind = KIND_X87;
        return;
    } else if (zi->mnemonic == ZYDIS_MNEMONIC_SWAPGS && (key & BT_KEY_REACH) != REACH_USER) {
        i->kind = KIND_SWAPGS;
        return;
    } else if (zi->mnemonic ==
               (key & BT_KEY_CODE32 ? ZYDIS_MNEMONIC_PUSHFD : ZYDIS_MNEMONIC_PUSHFQ)) {
        i->kind = KIND_PUSHF;
        return;
    } else if ((zi->mnemonic == ZYDIS_MNEMONIC_CLI || zi->mnemonic == ZYDIS_MNEMONIC_STI) &&
               (key & BT_KEY_REACH) != REACH_USER) {
        i->kind = zi->mnemonic == ZYDIS_MNEMONIC_CLI ? KIND_CLI : KIND_STI;
        return;
    } else if ((zi->mnemonic == ZYDIS_MNEMONIC_CLAC || zi->mnemonic == ZYDIS_MNEMONIC_STAC) &&
               (key & BT_KEY_REACH) != REACH_USER) {
        i->kind = KIND_SMAP;
        return;
    } else {
        i->kind = goes_on(zi) || touches_vector(i) ? KIND_SITE : KIND_SITE_END;
    }
    if (is_plain_string(key, i))
        i->kind = KIND_STRING;
    if (handler_is_light(i))
        i->in.exec = interp_handler(&i->in, i->full);
}
