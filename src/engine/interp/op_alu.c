/* SPDX-License-Identifier: MIT */
/* Two-operand arithmetic and logic (SDM 1 5.1.2, 5.1.4) by the host's ALU; see alu.h. Flags are
 * committed after the last access that can raise. */
#include "engine/host/alu.h"
#include "engine/interp/interp.h"

typedef uint64_t (*alu_function)(uint64_t *rflags, uint64_t a, uint64_t b, unsigned size);

#define BODY static inline __attribute__((always_inline)) const struct insn *

BODY alu_rr(struct vcpu *v, const struct insn *i, alu_function f, unsigned size, bool write)
{
    uint64_t r = f(&v->rflags, reg_read(v, i->dst, size), reg_read(v, i->src, size), size);
    if (write)
        reg_write(v, i->dst, r, size);
    return insn_next(v, i);
}

BODY alu_ri(struct vcpu *v, const struct insn *i, alu_function f, unsigned size, bool write)
{
    uint64_t r = f(&v->rflags, reg_read(v, i->dst, size), i->imm, size);
    if (write)
        reg_write(v, i->dst, r, size);
    return insn_next(v, i);
}

BODY alu_rm(struct vcpu *v, const struct insn *i, alu_function f, unsigned size, bool write)
{
    uint64_t b = mem_load(v, i, size);
    uint64_t r = f(&v->rflags, reg_read(v, i->dst, size), b, size);
    if (write)
        reg_write(v, i->dst, r, size);
    return insn_next(v, i);
}

/* Memory destination; b = register or immediate. */
BODY alu_memory(struct vcpu *v, const struct insn *i, uint64_t b, alu_function f, unsigned size,
                bool write)
{
    if (!write) {
        f(&v->rflags, mem_load(v, i, size), b, size);
        return insn_next(v, i);
    }
    struct rmw m = rmw_begin(v, i, size);
    uint64_t a = rmw_load(v, &m, size);
    uint64_t rflags = v->rflags;
    if (X86_UNLIKELY(i->prefixes & INSN_LOCK)) {
        uint64_t r;
        do {
            rflags = v->rflags;
            r = f(&rflags, a, b, size);
        } while (!rmw_replace(v, &m, &a, r, size));
    } else {
        rmw_store(v, &m, f(&rflags, a, b, size), size);
    }
    v->rflags = rflags;
    return insn_next(v, i);
}

BODY alu_mr(struct vcpu *v, const struct insn *i, alu_function f, unsigned size, bool write)
{
    return alu_memory(v, i, reg_read(v, i->src, size), f, size, write);
}

BODY alu_mi(struct vcpu *v, const struct insn *i, alu_function f, unsigned size, bool write)
{
    return alu_memory(v, i, i->imm, f, size, write);
}

#define HANDLER(op, form, size, write)                                                   \
    static const struct insn *op##_##form##_##size(struct vcpu *v, const struct insn *i) \
    {                                                                                    \
        return alu_##form(v, i, alu_##op, size, write);                                  \
    }
#define HANDLERS(op, form, write) \
    HANDLER(op, form, 1, write)   \
    HANDLER(op, form, 2, write)   \
    HANDLER(op, form, 4, write)   \
    HANDLER(op, form, 8, write)
#define FORM_ROW(op, form)                                                 \
    {                                                                      \
        op##_##form##_1, op##_##form##_2, op##_##form##_4, op##_##form##_8 \
    }
#define OPERATION(op, write)                       \
    HANDLERS(op, rr, write)                        \
    HANDLERS(op, ri, write)                        \
    HANDLERS(op, rm, write)                        \
    HANDLERS(op, mr, write)                        \
    HANDLERS(op, mi, write)                        \
    static const insn_exec op##_handlers[5][4] = { \
        FORM_ROW(op, rr), FORM_ROW(op, ri), FORM_ROW(op, rm), FORM_ROW(op, mr), FORM_ROW(op, mi)};

OPERATION(add, true)
OPERATION(or, true)
OPERATION(adc, true)
OPERATION(sbb, true)
OPERATION(and, true)
OPERATION(sub, true)
OPERATION(xor, true)
OPERATION(cmp, false)
OPERATION(test, false)

/* INC, DEC, NEG, NOT: one operand. */
#define UNARY_R(op, size)                                                                     \
    static const struct insn *op##_r_##size(struct vcpu *v, const struct insn *i)             \
    {                                                                                         \
        reg_write(v, i->dst, alu_##op(&v->rflags, reg_read(v, i->dst, size), 0, size), size); \
        return insn_next(v, i);                                                               \
    }
#define UNARY_M(op, size)                                                         \
    static const struct insn *op##_m_##size(struct vcpu *v, const struct insn *i) \
    {                                                                             \
        return alu_memory(v, i, 0, alu_##op, size, true);                         \
    }
#define UNARY(op)  \
    UNARY_R(op, 1) \
    UNARY_R(op, 2) \
    UNARY_R(op, 4) \
    UNARY_R(op, 8) \
    UNARY_M(op, 1) \
    UNARY_M(op, 2) \
    UNARY_M(op, 4) \
    UNARY_M(op, 8) \
    static const insn_exec op##_handlers[2][4] = {FORM_ROW(op, r), FORM_ROW(op, m)};

UNARY(inc)
UNARY(dec)
UNARY(neg)
UNARY(not )

static unsigned size_index(unsigned size)
{
    return size == 8 ? 3 : size / 2;
}

static insn_exec binary(const insn_exec handlers[5][4], const struct insn *i)
{
    static const int8_t rows[FORMS] = {
        [FORM_RR] = 1, [FORM_RI] = 2, [FORM_RM] = 3, [FORM_MR] = 4, [FORM_MI] = 5,
    };
    return rows[i->form] == 0 ? NULL : handlers[rows[i->form] - 1][size_index(i->size)];
}

static insn_exec unary(const insn_exec handlers[2][4], const struct insn *i)
{
    if (i->form != FORM_R && i->form != FORM_M)
        return NULL;
    return handlers[i->form == FORM_M][size_index(i->size)];
}

insn_exec alu_resolve(const struct insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_ADD:
        return binary(add_handlers, i);
    case ZYDIS_MNEMONIC_OR:
        return binary(or_handlers, i);
    case ZYDIS_MNEMONIC_ADC:
        return binary(adc_handlers, i);
    case ZYDIS_MNEMONIC_SBB:
        return binary(sbb_handlers, i);
    case ZYDIS_MNEMONIC_AND:
        return binary(and_handlers, i);
    case ZYDIS_MNEMONIC_SUB:
        return binary(sub_handlers, i);
    case ZYDIS_MNEMONIC_XOR:
        return binary(xor_handlers, i);
    case ZYDIS_MNEMONIC_CMP:
        return binary(cmp_handlers, i);
    case ZYDIS_MNEMONIC_TEST:
        return binary(test_handlers, i);
    case ZYDIS_MNEMONIC_INC:
        return unary(inc_handlers, i);
    case ZYDIS_MNEMONIC_DEC:
        return unary(dec_handlers, i);
    case ZYDIS_MNEMONIC_NEG:
        return unary(neg_handlers, i);
    case ZYDIS_MNEMONIC_NOT:
        return unary(not_handlers, i);
    default:
        return NULL;
    }
}
