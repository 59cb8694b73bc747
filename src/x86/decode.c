/* SPDX-License-Identifier: MIT */
/* From Zydis' decode to the compact record; see insn.h. Any thread. The guest controls the bytes;
 * Zydis is the judge of what is an instruction, the engine of what is supported. */
#include "x86/insn.h"

#include <stddef.h>
#include <string.h>

#include "x86/isa.h"

#define ZERO_OFFSET offsetof(struct vcpu, zero)
#define RIP_OFFSET  offsetof(struct vcpu, rip)

_Static_assert(offsetof(struct vcpu, gpr) == 0, "register operands are offsets into struct vcpu");
_Static_assert(offsetof(struct vcpu, zero) < 256, "an operand offset is one byte");

static bool is_gpr(ZydisRegister r)
{
    ZydisRegisterClass c = ZydisRegisterGetClass(r);
    return c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 ||
           c == ZYDIS_REGCLASS_GPR64;
}

/* Byte offset of a general register. Zydis numbers 8-bit registers AL CL DL BL AH CH DH BH SPL BPL
 * SIL DIL R8B…, the others by their encoding. */
static uint8_t gpr_offset(ZydisRegister r)
{
    uint8_t id = (uint8_t)ZydisRegisterGetId(r);
    if (ZydisRegisterGetClass(r) != ZYDIS_REGCLASS_GPR8 || id < 4)
        return id * 8;
    if (id < 8)
        return (id - 4) * 8 + 1;
    return (id - 4) * 8;
}

static uint8_t address_register(ZydisRegister r)
{
    if (r == ZYDIS_REGISTER_NONE)
        return ZERO_OFFSET;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return RIP_OFFSET;
    return gpr_offset(r);
}

static uint8_t segment_number(ZydisRegister r)
{
    switch (r) {
    case ZYDIS_REGISTER_ES:
        return SEG_ES;
    case ZYDIS_REGISTER_CS:
        return SEG_CS;
    case ZYDIS_REGISTER_SS:
        return SEG_SS;
    case ZYDIS_REGISTER_FS:
        return SEG_FS;
    case ZYDIS_REGISTER_GS:
        return SEG_GS;
    default:
        return SEG_DS;
    }
}

static void set_memory(struct insn *out, const ZydisDecodedInstruction *zi,
                       const ZydisDecodedOperandMem *mem)
{
    static const uint8_t log2_of[9] = {0, 0, 1, 0, 2, 0, 0, 0, 3};

    out->base = address_register(mem->base);
    out->index = mem->type == ZYDIS_MEMOP_TYPE_VSIB ? ZERO_OFFSET : address_register(mem->index);
    out->scale = mem->scale <= 8 ? log2_of[mem->scale] : 0;
    out->seg = segment_number(mem->segment);
    out->disp = (int32_t)mem->disp.value;
    if (out->disp != mem->disp.value) /* MOV moffs64 alone has more than 32 bits */
        out->imm = (uint64_t)mem->disp.value;
    if (out->base == RIP_OFFSET)
        out->disp += zi->length;
}

/* 'R', 'M', … of one operand, 0 for anything else. */
static char operand_letter(const ZydisDecodedOperand *o)
{
    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        if (is_gpr(o->reg.value))
            return 'R';
        switch (ZydisRegisterGetClass(o->reg.value)) {
        case ZYDIS_REGCLASS_SEGMENT:
            return 'S';
        case ZYDIS_REGCLASS_CONTROL:
            return 'C';
        case ZYDIS_REGCLASS_DEBUG:
            return 'D';
        default:
            return 0;
        }
    case ZYDIS_OPERAND_TYPE_MEMORY:
        return 'M';
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        return 'I';
    default:
        return 0;
    }
}

static const char form_letters[FORMS][4] = {
    [FORM_NONE] = "",   [FORM_R] = "R",     [FORM_M] = "M",     [FORM_I] = "I",
    [FORM_S] = "S",     [FORM_RR] = "RR",   [FORM_RI] = "RI",   [FORM_RM] = "RM",
    [FORM_MR] = "MR",   [FORM_MI] = "MI",   [FORM_RS] = "RS",   [FORM_SR] = "SR",
    [FORM_MS] = "MS",   [FORM_SM] = "SM",   [FORM_RC] = "RC",   [FORM_CR] = "CR",
    [FORM_RD] = "RD",   [FORM_DR] = "DR",   [FORM_RRI] = "RRI", [FORM_RMI] = "RMI",
    [FORM_MRI] = "MRI", [FORM_RRR] = "RRR", [FORM_MRR] = "MRR", [FORM_OTHER] = "?",
};

static uint8_t form_of(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    char letters[4] = "";
    if (zi->operand_count_visible > 3)
        return FORM_OTHER;
    for (unsigned n = 0; n < zi->operand_count_visible; n++) {
        letters[n] = operand_letter(&ops[n]);
        if (letters[n] == 0)
            return FORM_OTHER;
    }
    for (unsigned f = 0; f < FORM_OTHER; f++) {
        if (letters[0] == form_letters[f][0] && letters[1] == form_letters[f][1] &&
            letters[2] == form_letters[f][2])
            return (uint8_t)f;
    }
    return FORM_OTHER;
}

static void set_operands(struct insn *out, const struct insn_full *full)
{
    const ZydisDecodedInstruction *zi = &full->insn;
    bool immediate = false;

    for (unsigned n = 0; n < zi->operand_count_visible; n++) {
        const ZydisDecodedOperand *o = &full->operands[n];
        switch (o->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER: {
            uint8_t where = is_gpr(o->reg.value) ? gpr_offset(o->reg.value)
                            : ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT
                                ? segment_number(o->reg.value)
                                : (uint8_t)ZydisRegisterGetId(o->reg.value);
            if (n == 0)
                out->dst = where;
            else if (n == 1)
                out->src = where; /* a third one is CL of SHLD and SHRD */
            break;
        }
        case ZYDIS_OPERAND_TYPE_MEMORY:
            set_memory(out, zi, &o->mem);
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            if (!immediate) /* ENTER's second one is fetched by its handler from src */
                out->imm = o->imm.value.u;
            else
                out->src = (uint8_t)o->imm.value.u;
            immediate = true;
            break;
        default:
            break;
        }
    }
    if (zi->operand_count_visible > 0)
        out->size = (uint8_t)(full->operands[0].size / 8);
    if (zi->operand_count_visible > 1)
        out->src_size = (uint8_t)(full->operands[1].size / 8);
}

/* F2 and F3 by the raw bytes, the last one counting: Zydis reports them only where they are named
 * in the manual, but F2 repeats MOVS and STOS as well. */
static uint8_t prefixes_of(const ZydisDecodedInstruction *zi)
{
    uint8_t p = 0;
    for (unsigned n = 0; n < zi->raw.prefix_count; n++) {
        if (zi->raw.prefixes[n].value == 0xf3)
            p = INSN_REP;
        else if (zi->raw.prefixes[n].value == 0xf2)
            p = INSN_REPNE;
    }
    if (zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        p |= INSN_LOCK;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT)
        p |= INSN_OVERRIDE;
    if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        p |= INSN_FAR;
    return p;
}

/* The segment of implicit memory operands (string instructions, XLAT): DS or the prefix's. In
 * 64-bit mode only FS and GS prefixes count (SDM 1 3.4.2.1). */
static uint8_t segment_of_prefix(const ZydisDecodedInstruction *zi)
{
    if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
        return SEG_FS;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
        return SEG_GS;
    if (zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
        return SEG_DS;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS)
        return SEG_CS;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS)
        return SEG_SS;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES)
        return SEG_ES;
    return SEG_DS;
}

void insn_decoder_init(struct insn_decoder *d, const struct cpuid_model *model)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } machines[INSN_MODES] = {
        [INSN_MODE_64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
        [INSN_MODE_32] = {ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32},
        [INSN_MODE_16] = {ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16},
        /* Not Zydis' real mode, to which SYSENTER (#GP there) and SLDT are unknown. */
        [INSN_MODE_REAL] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
    };
    static const struct {
        ZydisDecoderMode mode;
        ZydisISASet set;
    } modes[] = {
        {ZYDIS_DECODER_MODE_MPX, ZYDIS_ISA_SET_MPX},
        {ZYDIS_DECODER_MODE_CET, ZYDIS_ISA_SET_CET},
        {ZYDIS_DECODER_MODE_LZCNT, ZYDIS_ISA_SET_LZCNT},
        {ZYDIS_DECODER_MODE_TZCNT, ZYDIS_ISA_SET_BMI1},
        {ZYDIS_DECODER_MODE_CLDEMOTE, ZYDIS_ISA_SET_CLDEMOTE},
    };

    for (unsigned set = 0; set <= ZYDIS_ISA_SET_MAX_VALUE; set++)
        d->offered[set] = isa_offered(model, (ZydisISASet)set);
    d->amd = model->amd;
    for (unsigned m = 0; m < INSN_MODES; m++) {
        ZydisDecoderInit(&d->modes[m], machines[m].machine, machines[m].stack);
        ZydisDecoderEnableMode(&d->modes[m], ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
        ZydisDecoderEnableMode(&d->modes[m], ZYDIS_DECODER_MODE_AMD_BRANCHES, model->amd);
        for (unsigned k = 0; k < sizeof(modes) / sizeof(modes[0]); k++)
            ZydisDecoderEnableMode(&d->modes[m], modes[k].mode, d->offered[modes[k].set]);
    }
}

/* The hypercalls that the KVM signature promises are no part of VMX or SVM for the guest. 0F 0D
 * with a register is no NOP of AMD's. */
static bool offered(const struct insn_decoder *d, const ZydisDecodedInstruction *zi)
{
    if (d->amd && zi->meta.isa_set == ZYDIS_ISA_SET_PREFETCH_NOP && zi->raw.modrm.mod == 3)
        return false;
    return d->offered[zi->meta.isa_set] || zi->mnemonic == ZYDIS_MNEMONIC_VMCALL ||
           zi->mnemonic == ZYDIS_MNEMONIC_VMMCALL;
}

/* UD0 and UD1 of AMD's processors end with the opcode: what would be their operand is not looked
 * at (APM 3 UD0). */
static bool is_undefined_of_amd(const struct insn_decoder *d, enum insn_mode mode,
                                const uint8_t *bytes, unsigned n)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e,
                                       0x36, 0x3e, 0x26, 0x64, 0x65};
    unsigned at = 0;
    while (d->amd && at < n && memchr(prefixes, bytes[at], sizeof(prefixes)))
        at++;
    if (mode == INSN_MODE_64 && at < n && (bytes[at] & 0xf0) == 0x40)
        at++;
    return d->amd && at + 2 <= n && bytes[at] == 0x0f &&
           (bytes[at + 1] == 0xff || bytes[at + 1] == 0xb9);
}

/* Near branches of AMD's with an operand-size prefix: Zydis knows of the relative ones that they
 * have 16 bits; the others of 64-bit mode do too (APM 3 CALL, JMP, RET). */
static bool is_word_branch(const struct insn_decoder *d, enum insn_mode mode,
                           const ZydisDecodedInstruction *zi)
{
    return d->amd && mode == INSN_MODE_64 && zi->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
           zi->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR &&
           (zi->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) && !zi->raw.rex.W;
}

enum insn_status insn_decode(const struct insn_decoder *d, enum insn_mode mode,
                             const uint8_t *bytes, unsigned n, struct insn *out,
                             struct insn_full *full)
{
    const ZydisDecodedInstruction *zi = &full->insn;
    ZyanStatus status =
        ZydisDecoderDecodeFull(&d->modes[mode], bytes, n, &full->insn, full->operands);
    if (!ZYAN_SUCCESS(status) && is_undefined_of_amd(d, mode, bytes, n))
        return INSN_INVALID;
    if (status == ZYDIS_STATUS_NO_MORE_DATA)
        return n >= INSN_LENGTH_MAX ? INSN_TOO_LONG : INSN_PARTIAL;
    if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return INSN_TOO_LONG;
    if (!ZYAN_SUCCESS(status) || !offered(d, zi))
        return INSN_INVALID;
    if (mode == INSN_MODE_REAL && zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        zi->encoding != ZYDIS_INSTRUCTION_ENCODING_3DNOW)
        return INSN_INVALID;

    *out = (struct insn){
        .op = (uint16_t)zi->mnemonic,
        .base = ZERO_OFFSET,
        .index = ZERO_OFFSET,
        .seg = segment_of_prefix(zi),
        .size = zi->operand_width / 8,
        .address_size = zi->address_width / 8,
        .stack_size = zi->operand_width / 8,
        .length = zi->length,
        .prefixes = prefixes_of(zi),
    };
    if (is_word_branch(d, mode, zi))
        out->size = out->stack_size = 2;
    set_operands(out, full);
    out->form = form_of(zi, full->operands);
    return INSN_OK;
}
