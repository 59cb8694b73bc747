/* SPDX-License-Identifier: MIT */
/*
 * Analysis and re-encoding of one instruction (SDM 2A chapter 2). The instruction is written anew
 * from its fields: mandatory prefixes, REX/VEX/EVEX, opcode, ModRM with [memory_register] in place
 * of any memory operand, immediate. Segment and address-size prefixes are dropped, because the
 * address has been computed; registers stay as they are, but for RSP, which the host needs.
 *
 * Everything comes from the guest's bytes as Zydis decoded them; what is written is decoded again
 * and must be the same instruction.
 */
#include "engine/host/encode.h"

#include <string.h>

#include "x86/regs.h"

static bool is_vector(ZydisRegisterClass c)
{
    return c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_YMM || c == ZYDIS_REGCLASS_ZMM;
}

static bool is_gpr(ZydisRegisterClass c)
{
    return c == ZYDIS_REGCLASS_GPR64 || c == ZYDIS_REGCLASS_GPR32 || c == ZYDIS_REGCLASS_GPR16;
}

static bool note_register(struct encode_register *list, uint8_t *count, uint8_t index, bool written)
{
    for (unsigned i = 0; i < *count; i++) {
        if (list[i].guest == index) {
            list[i].written |= written;
            return true;
        }
    }
    if (*count == ENCODE_REGISTERS_MAX)
        return false;
    list[(*count)++] = (struct encode_register){index, index, written};
    return true;
}

static bool note_operand(struct encode_plan *p, const ZydisDecodedOperand *o)
{
    bool written = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        if (p->memory || o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
            return false;
        p->memory = true;
        return o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
    }
    if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    ZydisRegisterClass c = ZydisRegisterGetClass(o->reg.value);
    uint8_t id = (uint8_t)ZydisRegisterGetId(o->reg.value);
    if (is_vector(c)) {
        p->wide |= c == ZYDIS_REGCLASS_YMM;
        return note_register(p->vector, &p->vectors, id, written);
    }
    if (is_gpr(c))
        return note_register(p->gpr, &p->gprs, id, written);
    switch (c) {
    case ZYDIS_REGCLASS_MASK:
        p->mask_used |= (uint8_t)(1u << id);
        p->mask_written |= (uint8_t)(written << id);
        return true;
    case ZYDIS_REGCLASS_MMX:
    case ZYDIS_REGCLASS_X87:
        p->x87 = true;
        return true;
    default:
        return o->reg.value == ZYDIS_REGISTER_RFLAGS || o->reg.value == ZYDIS_REGISTER_EFLAGS ||
               o->reg.value == ZYDIS_REGISTER_X87STATUS ||
               o->reg.value == ZYDIS_REGISTER_X87CONTROL || o->reg.value == ZYDIS_REGISTER_X87TAG;
    }
}

/* Whether MXCSR matters: the exception types of SDM 2A 2.5 and 2.8 with SIMD floating-point
 * exceptions, and the approximations and classifications, which look at DAZ alone. */
static bool uses_mxcsr(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_NONE: /* CVTPI2PS and its kin */
        return insn->meta.category == ZYDIS_CATEGORY_CONVERT;
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
    case ZYDIS_EXCEPTION_CLASS_E2:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E11:
    case ZYDIS_EXCEPTION_CLASS_E11NF:
        return true;
    default:
        break;
    }
    const char *name = ZydisMnemonicGetString(insn->mnemonic);
    return !name || strstr(name, "rcp") || strstr(name, "rsqrt") || strstr(name, "fpclass") ||
           strstr(name, "cvt") || strstr(name, "getexp") || strstr(name, "scalef");
}

static void note_flags(struct encode_plan *p, const ZydisDecodedInstruction *insn)
{
    const ZydisAccessedFlags *f = insn->cpu_flags;
    if (!f)
        return;
    uint32_t defined = f->modified | f->set_0 | f->set_1;
    uint32_t touched = (defined | f->undefined) & FLAGS_ARITHMETIC;
    p->flags_out = touched;
    p->flags_in = (f->tested & FLAGS_ARITHMETIC) ||
                  (touched && (defined & FLAGS_ARITHMETIC) != FLAGS_ARITHMETIC);
}

static bool uses_host(const struct encode_plan *p, uint8_t reg)
{
    for (unsigned i = 0; i < p->gprs; i++)
        if (p->gpr[i].host == reg)
            return true;
    return false;
}

/* Gives RSP a stand-in, and finds registers for the two pointers. The candidates need neither SIB
 * nor displacement as a base, and C does not keep them. */
static bool choose_registers(struct encode_plan *p)
{
    static const uint8_t stand_ins[] = {RAX, RCX, RDX, RBX};
    static const uint8_t pointers[] = {R8, R9, R10, R11};
    for (unsigned i = 0; i < p->gprs; i++) {
        if (p->gpr[i].guest != RSP)
            continue;
        unsigned n = 0;
        while (n < sizeof stand_ins && uses_host(p, stand_ins[n]))
            n++;
        if (n == sizeof stand_ins)
            return false;
        p->gpr[i].host = stand_ins[n];
    }
    p->state_register = uses_host(p, RDI) ? RSP : RDI;
    p->memory_register = uses_host(p, RSI) ? RSP : RSI;
    for (unsigned n = 0; n < sizeof pointers; n++) {
        if (uses_host(p, pointers[n]))
            continue;
        if (p->state_register == RSP)
            p->state_register = pointers[n];
        else if (p->memory_register == RSP)
            p->memory_register = pointers[n];
    }
    return p->state_register != RSP && p->memory_register != RSP;
}

/* The host register in the ModRM or vvvv field that holds `field` for RSP (4), or itself. Only
 * operands of class GPR are renamed. */
static uint8_t renamed(const struct encode_plan *p, const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *operands, ZydisOperandEncoding where,
                       uint8_t field)
{
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || o->encoding != where ||
            !is_gpr(ZydisRegisterGetClass(o->reg.value)) || ZydisRegisterGetId(o->reg.value) != RSP)
            continue;
        for (unsigned g = 0; g < p->gprs; g++)
            if (p->gpr[g].guest == RSP)
                return p->gpr[g].host;
    }
    return field;
}

struct fields {
    uint8_t modrm;
    bool has_modrm, base_high; /* the memory register is R8…R11 */
};

static struct fields make_modrm(const struct encode_plan *p, const ZydisDecodedInstruction *insn,
                                const ZydisDecodedOperand *operands)
{
    struct fields f = {0};
    f.has_modrm = insn->attributes & ZYDIS_ATTRIB_HAS_MODRM;
    if (!f.has_modrm)
        return f;
    uint8_t reg = renamed(p, insn, operands, ZYDIS_OPERAND_ENCODING_MODRM_REG, insn->raw.modrm.reg);
    if (p->memory) {
        f.modrm = (uint8_t)(reg << 3 | (p->memory_register & 7));
        f.base_high = p->memory_register >= R8;
    } else {
        uint8_t rm =
            renamed(p, insn, operands, ZYDIS_OPERAND_ENCODING_MODRM_RM, insn->raw.modrm.rm);
        f.modrm = (uint8_t)(0xc0 | reg << 3 | rm);
    }
    return f;
}

static uint8_t *write_legacy(uint8_t *o, const struct encode_plan *p, struct fields f,
                             const ZydisDecodedInstruction *insn)
{
    for (unsigned i = 0; i < insn->raw.prefix_count; i++) {
        uint8_t prefix = insn->raw.prefixes[i].value;
        if (prefix == 0x66 || prefix == 0xf2 || prefix == 0xf3)
            *o++ = prefix;
    }
    uint8_t rex = 0;
    if (insn->attributes & ZYDIS_ATTRIB_HAS_REX)
        rex = (uint8_t)(insn->raw.rex.W << 3 | insn->raw.rex.R << 2 | insn->raw.rex.B);
    if (p->memory)
        rex = (uint8_t)((rex & ~1u) | f.base_high);
    if (rex)
        *o++ = 0x40 | rex;
    switch (insn->opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT:
        break;
    case ZYDIS_OPCODE_MAP_0F:
        *o++ = 0x0f;
        break;
    case ZYDIS_OPCODE_MAP_0F38:
        *o++ = 0x0f;
        *o++ = 0x38;
        break;
    case ZYDIS_OPCODE_MAP_0F3A:
        *o++ = 0x0f;
        *o++ = 0x3a;
        break;
    default:
        return NULL;
    }
    return o;
}

/* The bits of VEX and EVEX that choose registers are inverted; outside 64-bit mode those that would
 * reach registers 8 and up are ignored by the processor, so they are set here. */
static uint8_t *write_vex(uint8_t *o, const struct encode_plan *p, struct fields f,
                          const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
                          const uint8_t *bytes, bool clear_w)
{
    const uint8_t *raw = bytes + insn->raw.vex.offset;
    bool three = raw[0] == 0xc4;
    uint8_t first = three ? raw[1] : (uint8_t)((raw[1] & 0x80) | 0x61);
    uint8_t second = three ? raw[2] : raw[1] & 0x7f;
    if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64) {
        first |= 0xe0;
        second |= 0x40;
    }
    if (clear_w)
        second &= 0x7f;
    if (p->memory)
        first = (uint8_t)(((first | 0x60) & ~0x20u) | (f.base_high ? 0 : 0x20));
    uint8_t vvvv = renamed(p, insn, operands, ZYDIS_OPERAND_ENCODING_NDSNDD, 0xff);
    if (vvvv != 0xff)
        second = (uint8_t)((second & ~0x78u) | (~vvvv & 15) << 3);
    *o++ = 0xc4;
    *o++ = first;
    *o++ = second;
    return o;
}

static uint8_t *write_evex(uint8_t *o, const struct encode_plan *p, struct fields f,
                           const ZydisDecodedInstruction *insn, const uint8_t *bytes, bool clear_w)
{
    uint8_t e[4];
    memcpy(e, bytes + insn->raw.evex.offset, sizeof e);
    if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64) {
        e[1] |= 0xf0;
        e[2] |= 0x40;
        e[3] |= 0x08;
    }
    if (clear_w)
        e[2] &= 0x7f;
    if (p->memory)
        e[1] = (uint8_t)(((e[1] | 0x60) & ~0x20u) | (f.base_high ? 0 : 0x20));
    memcpy(o, e, sizeof e);
    return o + sizeof e;
}

/* Its W chooses the width of EAX and EDX, hidden operands. */
static bool hides_width(const ZydisDecodedInstruction *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_VPCMPESTRI ||
           insn->mnemonic == ZYDIS_MNEMONIC_VPCMPESTRM;
}

/* Is what was written the instruction that was asked for? */
static bool same_instruction(const struct encode_plan *p, const ZydisDecodedInstruction *insn,
                             const ZydisDecodedOperand *operands)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction again;
    ZydisDecodedOperand others[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, p->insn, p->length, &again, others)) ||
        again.length != p->length || again.mnemonic != insn->mnemonic ||
        again.operand_count != insn->operand_count)
        return false;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *a = &operands[i], *b = &others[i];
        if (a->type != b->type)
            return false;
        if (a->type == ZYDIS_OPERAND_TYPE_MEMORY && a->size != b->size)
            return false;
        if (a->type != ZYDIS_OPERAND_TYPE_REGISTER || a->reg.value == b->reg.value)
            continue;
        bool renamed_stack =
            is_gpr(ZydisRegisterGetClass(a->reg.value)) && ZydisRegisterGetId(a->reg.value) == RSP;
        if (hides_width(insn) && a->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
            ZydisRegisterGetId(a->reg.value) == ZydisRegisterGetId(b->reg.value))
            continue;
        bool flags = ZydisRegisterGetClass(a->reg.value) == ZYDIS_REGCLASS_FLAGS;
        if (!flags && (!renamed_stack || a->size != b->size))
            return false;
    }
    return true;
}

static bool write_instruction(struct encode_plan *p, const ZydisDecodedInstruction *insn,
                              const ZydisDecodedOperand *operands, const uint8_t *bytes,
                              bool clear_w)
{
    struct fields f = make_modrm(p, insn, operands);
    if (p->memory && !f.has_modrm)
        return false;
    uint8_t *o = p->insn;
    memset(p->insn, 0, sizeof p->insn);
    switch (p->form) {
    case ENCODE_LEGACY:
        o = write_legacy(o, p, f, insn);
        break;
    case ENCODE_VEX:
        o = write_vex(o, p, f, insn, operands, bytes, clear_w);
        break;
    default:
        o = write_evex(o, p, f, insn, bytes, clear_w);
        break;
    }
    if (!o || (size_t)(o - p->insn) > sizeof p->insn - 3)
        return false;
    *o++ = insn->opcode;
    if (f.has_modrm)
        *o++ = f.modrm;
    if (insn->raw.imm[0].size) {
        uint8_t immediate = bytes[insn->raw.imm[0].offset];
        if (insn->raw.imm[0].size != 8 || insn->raw.imm[1].size)
            return false;
        if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
            for (unsigned i = 0; i < insn->operand_count; i++)
                if (operands[i].encoding == ZYDIS_OPERAND_ENCODING_IS4)
                    immediate &= 0x7f;
        *o++ = immediate;
    }
    p->length = (uint8_t)(o - p->insn);
    return same_instruction(p, insn, operands);
}

bool encode_plan(struct encode_plan *p, const ZydisDecodedInstruction *insn,
                 const ZydisDecodedOperand *operands, const uint8_t *bytes)
{
    memset(p, 0, sizeof *p);
    switch (insn->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
        p->form = ENCODE_LEGACY;
        break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        p->form = ENCODE_VEX;
        break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        p->form = ENCODE_EVEX;
        break;
    default:
        return false;
    }
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (!note_operand(p, &operands[i]))
            return false;
    p->x87 |= insn->meta.isa_ext == ZYDIS_ISA_EXT_X87 || insn->meta.isa_ext == ZYDIS_ISA_EXT_MMX ||
              insn->mnemonic == ZYDIS_MNEMONIC_CVTPI2PS ||
              insn->mnemonic == ZYDIS_MNEMONIC_CVTPI2PD;
    if (insn->meta.isa_ext != ZYDIS_ISA_EXT_X87)
        p->mxcsr = uses_mxcsr(insn);
    note_flags(p, insn);
    if (!choose_registers(p))
        return false;
    /* W is ignored outside 64-bit mode where it would choose a 64-bit general register; a
     * hidden one does not show in the comparison. */
    bool w_ignored = p->form != ENCODE_LEGACY && insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64;
    return (!(w_ignored && hides_width(insn)) &&
            write_instruction(p, insn, operands, bytes, false)) ||
           (w_ignored && write_instruction(p, insn, operands, bytes, true));
}
