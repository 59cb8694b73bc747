/* SPDX-License-Identifier: MIT */
/*
 * Vector instructions that are not copied: gathers and scatters, whose elements fault one by one
 * with the work done so far kept (SDM 2C VGATHERDPS, VSCATTERDPS), MASKMOVQ/MASKMOVDQU with their
 * implicit operand, LDMXCSR and STMXCSR, VZEROUPPER and VZEROALL. On the vCPU's thread; the guest
 * controls every register.
 */
#include "engine/host/copy_code.h"

#include <string.h>

#include "engine/host/processor.h"
#include "x86/access.h"

#define REGISTER_BYTES 64u
#define FSW_TOP        0x3800u

static uint8_t *vector(struct vcpu *v, unsigned n)
{
    return (uint8_t *)&v->vector.zmm[n * X86_ZMM_QWORDS];
}

static uint64_t element(const uint8_t *at, unsigned size)
{
    return host_load(at, size);
}

static bool gather_active(struct vcpu *v, const struct copy_gather *g, unsigned i)
{
    if (g->opmask)
        return v->vector.k[g->mask] >> i & 1;
    return vector(v, g->mask)[(i + 1) * g->data_size - 1] >> 7;
}

static void gather_done(struct vcpu *v, const struct copy_gather *g, unsigned i)
{
    if (g->opmask)
        v->vector.k[g->mask] &= ~((uint64_t)1 << i);
    else
        memset(vector(v, g->mask) + i * g->data_size, 0, g->data_size);
}

static uint64_t gather_offset(struct vcpu *v, const struct copy_gather *g, unsigned i)
{
    uint64_t index = element(vector(v, g->index) + i * g->index_size, g->index_size);
    if (g->index_size == 4)
        index = (uint64_t)(int64_t)(int32_t)(uint32_t)index;
    uint64_t base = g->base == 0xff ? 0 : v->gpr[g->base];
    uint64_t offset = base + index * g->scale + (uint64_t)(int64_t)g->displacement;
    return g->address32 ? (uint32_t)offset : offset;
}

/* Before its first access an AVX2 gather of Intel's makes each element of the mask, over all of VL,
 * all ones or all zeros, and zeroes both registers above VL. It shows when an element faults. */
static void prepare_avx2_gather(struct vcpu *v, const struct copy_gather *g)
{
    if (g->opmask || host_processor.gathers_in_order)
        return;
    for (unsigned i = 0; i < g->vector_size / g->data_size; i++)
        memset(vector(v, g->mask) + i * g->data_size, gather_active(v, g, i) ? 0xff : 0,
               g->data_size);
    memset(vector(v, g->mask) + g->vector_size, 0, REGISTER_BYTES - g->vector_size);
}

static void run_gather(struct vcpu *v, const struct copy_code *c, uint64_t effective_address)
{
    const struct copy_gather *g = &c->key.gather;
    uint8_t *data = vector(v, g->data);
    prepare_avx2_gather(v, g);
    for (unsigned i = 0; i < g->count; i++) {
        if (!gather_active(v, g, i)) {
            if (!g->opmask) /* zero already where it has been prepared */
                gather_done(v, g, i);
            continue;
        }
        uint64_t linear =
            copy_linear(v, c->key.memory.segment, gather_offset(v, g, i), g->data_size, g->scatter);
        if (g->opmask && !host_processor.gathers_unaligned) /* the AVX2 ones make no #AC */
            copy_check_natural(v, linear, g->data_size);
        uint8_t *at = data + i * g->data_size;
        if (g->scatter)
            x86_store(v, linear, element(at, g->data_size), g->data_size);
        else
            host_store(at, x86_load(v, linear, g->data_size), g->data_size);
        /* written to its end */
        if (!g->scatter && (g->opmask || !host_processor.gathers_in_order))
            memset(data + g->vector_size, 0, REGISTER_BYTES - g->vector_size);
        gather_done(v, g, i);
    }
    if (g->opmask)
        v->vector.k[g->mask] = 0;
    else
        memset(vector(v, g->mask), 0, REGISTER_BYTES);
    if (!g->scatter)
        memset(data + g->result_size, 0, REGISTER_BYTES - g->result_size);
}

static void run_zero(struct vcpu *v, const struct copy_code *c, uint64_t effective_address)
{
    unsigned kept = c->key.mnemonic == ZYDIS_MNEMONIC_VZEROALL ? 0 : 16;
    for (unsigned n = 0; n < (v->code64 ? 16u : 8u); n++)
        memset(vector(v, n) + kept, 0, REGISTER_BYTES - kept);
}

static void run_mxcsr(struct vcpu *v, const struct copy_code *c, uint64_t effective_address)
{
    const struct copy_memory *m = &c->key.memory;
    uint64_t linear = copy_linear(v, m->segment, effective_address, 4, m->store);
    copy_check_natural(v, linear, 4);
    if (m->store) {
        x86_store(v, linear, v->vector.mxcsr, 4);
        return;
    }
    uint32_t value = (uint32_t)x86_load(v, linear, 4);
    if (value & MXCSR_RESERVED)
        x86_raise_gp0(v);
    v->vector.mxcsr = value;
}

/* The registers are kept in the order of the stack, so they move. */
void copy_enter_mmx(struct x86_vector *s)
{
    unsigned top = (s->fsw & FSW_TOP) >> 11;
    uint64_t old[16];
    memcpy(old, s->st, sizeof old);
    for (unsigned i = 0; i < 8; i++)
        memcpy(&s->st[2 * ((i + top) & 7)], &old[2 * i], 16);
    s->fsw &= (uint16_t)~FSW_TOP;
}

/* Processors check each half of 8 bytes whole, whatever the mask says (which the manual leaves to
 * them): Intel's the upper one first. */
static void probe_maskmov(struct vcpu *v, uint8_t segment, uint64_t offset, unsigned size)
{
    for (unsigned n = 0; n < size; n += 8) {
        unsigned half = host_processor.maskmov_upwards ? n : size - 8 - n;
        uint64_t linear = copy_linear(v, segment, offset + half, 8, true);
        copy_check_natural(v, linear, 8);
        tlb_probe(v, (enum tlb_reach)v->reach, linear, 8, true);
    }
}

static void run_maskmov(struct vcpu *v, const struct copy_code *c, uint64_t effective_address)
{
    const struct copy_key *k = &c->key;
    uint64_t data[2], mask[2];
    if (k->hand_size == 8) {
        copy_enter_mmx(&v->vector);
        v->vector.ftw = 0xff;
        data[0] = v->vector.st[2 * k->hand_register[0]];
        mask[0] = v->vector.st[2 * k->hand_register[1]];
    } else {
        memcpy(data, vector(v, k->hand_register[0]), sizeof data);
        memcpy(mask, vector(v, k->hand_register[1]), sizeof mask);
    }
    uint64_t bytes = 0, offset = v->gpr[RDI];
    for (unsigned i = 0; i < k->hand_size; i++)
        bytes |= (mask[i / 8] >> (i % 8 * 8 + 7) & 1) << i;
    if (k->memory.element) /* address size */
        offset &= ((uint64_t)1 << k->memory.element) - 1;
    probe_maskmov(v, k->memory.segment, offset, k->hand_size);
    copy_store_bytes(v, k->memory.segment, offset, bytes, (const uint8_t *)data);
}

static copy_hand prepare_gather(struct copy_key *k, const ZydisDecodedInstruction *insn,
                                const ZydisDecodedOperand *operands)
{
    struct copy_gather *g = &k->gather;
    const ZydisDecodedOperand *memory = NULL, *data = NULL, *mask = NULL;
    for (unsigned i = 0; i < insn->operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
            memory = o;
        else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
            data = o;
        else
            mask = o;
    }
    if (!memory || !data || !mask || memory->mem.type != ZYDIS_MEMOP_TYPE_VSIB)
        return NULL;
    const char *name = ZydisMnemonicGetString(insn->mnemonic);
    g->scatter = memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    g->opmask = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    g->data = (uint8_t)ZydisRegisterGetId(data->reg.value);
    g->mask = (uint8_t)ZydisRegisterGetId(mask->reg.value);
    g->index = (uint8_t)ZydisRegisterGetId(memory->mem.index);
    g->base = memory->mem.base == ZYDIS_REGISTER_NONE
                  ? 0xff
                  : (uint8_t)ZydisRegisterGetId(memory->mem.base);
    g->scale = memory->mem.scale;
    g->displacement = (int32_t)memory->mem.disp.value;
    g->address32 = insn->address_width == 32;
    g->data_size = (uint8_t)(memory->element_size / 8);
    g->index_size = strstr(name, "gatherd") || strstr(name, "scatterd") ? 4 : 8;
    g->vector_size = (uint8_t)(insn->avx.vector_length / 8);
    unsigned wider = g->data_size > g->index_size ? g->data_size : g->index_size;
    g->count = (uint8_t)(g->vector_size / wider);
    g->result_size = (uint8_t)(g->count * g->data_size);
    k->memory.segment = copy_segment(memory->mem.segment);
    k->need = g->opmask ? NEED_EVEX : NEED_VEX;
    return run_gather;
}

static copy_hand prepare_maskmov(struct copy_key *k, const ZydisDecodedInstruction *insn,
                                 const ZydisDecodedOperand *operands)
{
    bool mmx = insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
    k->hand_size = mmx ? 8 : 16;
    for (unsigned i = 0; i < 2; i++)
        k->hand_register[i] = (uint8_t)ZydisRegisterGetId(operands[i].reg.value);
    k->memory.segment = SEG_DS;
    for (unsigned i = 2; i < insn->operand_count; i++)
        if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            k->memory.segment = copy_segment(operands[i].mem.segment);
    k->memory.element = insn->address_width == 64 ? 0 : insn->address_width;
    k->need = mmx                                                ? NEED_MMX | NEED_NOTHING_PENDING
              : insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? NEED_VEX
                                                                 : NEED_SSE;
    return run_maskmov;
}

static copy_hand prepare_mxcsr(struct copy_key *k, const ZydisDecodedInstruction *insn,
                               const ZydisDecodedOperand *operands)
{
    k->memory.segment = copy_segment(operands[0].mem.segment);
    k->memory.store = operands[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    k->need = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? NEED_VEX : NEED_SSE;
    return run_mxcsr;
}

copy_hand copy_hand_prepare(struct copy_key *k, const ZydisDecodedInstruction *insn,
                            const ZydisDecodedOperand *operands)
{
    switch (insn->meta.category) {
    case ZYDIS_CATEGORY_GATHER:
    case ZYDIS_CATEGORY_AVX2GATHER:
    case ZYDIS_CATEGORY_SCATTER:
        return prepare_gather(k, insn, operands);
    default:
        break;
    }
    k->mnemonic = (uint16_t)insn->mnemonic;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR:
        return prepare_mxcsr(k, insn, operands);
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return prepare_maskmov(k, insn, operands);
    case ZYDIS_MNEMONIC_VZEROUPPER:
    case ZYDIS_MNEMONIC_VZEROALL:
        k->need = NEED_VEX;
        return run_zero;
    default:
        return NULL;
    }
}
