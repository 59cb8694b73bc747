/* SPDX-License-Identifier: MIT */
/* Data transfer (SDM 1 5.1.1): MOV and its kin, stack, exchange, conditional moves, conversions. */
#include "engine/host/alu.h"
#include "engine/host/processor.h"
#include "engine/interp/condition.h"
#include "engine/interp/interp.h"

#define BODY static inline __attribute__((always_inline)) const struct insn *

BODY mov_rr(struct vcpu *v, const struct insn *i, unsigned size)
{
    reg_write(v, i->dst, reg_read(v, i->src, size), size);
    return insn_next(v, i);
}

BODY mov_ri(struct vcpu *v, const struct insn *i, unsigned size)
{
    reg_write(v, i->dst, i->imm, size);
    return insn_next(v, i);
}

BODY mov_rm(struct vcpu *v, const struct insn *i, unsigned size)
{
    reg_write(v, i->dst, mem_load(v, i, size), size);
    return insn_next(v, i);
}

BODY mov_mr(struct vcpu *v, const struct insn *i, unsigned size)
{
    mem_store(v, i, reg_read(v, i->src, size), size);
    return insn_next(v, i);
}

BODY mov_mi(struct vcpu *v, const struct insn *i, unsigned size)
{
    mem_store(v, i, i->imm, size);
    return insn_next(v, i);
}

/* MOV with a 64-bit absolute address (opcodes A0-A3), which alone does not fit insn.disp. */
BODY moffs_rm(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t linear = segment_linear(v, i->seg, i->imm, size, false);
    reg_write(v, i->dst, load_linear(v, i->seg, linear, size), size);
    return insn_next(v, i);
}

BODY moffs_mr(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t linear = segment_linear(v, i->seg, i->imm, size, true);
    store_linear(v, i->seg, linear, reg_read(v, i->src, size), size);
    return insn_next(v, i);
}

BODY xchg_rr(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t a = reg_read(v, i->dst, size);
    uint64_t b = reg_read(v, i->src, size);
    reg_write(v, i->dst, b, size);
    reg_write(v, i->src, a, size);
    return insn_next(v, i);
}

/* With memory XCHG locks, prefix or not (SDM 2B). */
BODY xchg_memory(struct vcpu *v, const struct insn *i, unsigned reg, unsigned size)
{
    struct rmw m = rmw_begin(v, i, size);
    uint64_t old = rmw_load(v, &m, size);
    while (!rmw_replace(v, &m, &old, reg_read(v, reg, size), size))
        ;
    reg_write(v, reg, old, size);
    return insn_next(v, i);
}

BODY xchg_mr(struct vcpu *v, const struct insn *i, unsigned size)
{
    return xchg_memory(v, i, i->src, size);
}

BODY xchg_rm(struct vcpu *v, const struct insn *i, unsigned size)
{
    return xchg_memory(v, i, i->dst, size);
}

BODY xadd_rr(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t a = reg_read(v, i->dst, size);
    uint64_t r = alu_add(&v->rflags, a, reg_read(v, i->src, size), size);
    reg_write(v, i->src, a, size); /* first: the sum wins when both are one register */
    reg_write(v, i->dst, r, size);
    return insn_next(v, i);
}

BODY xadd_mr(struct vcpu *v, const struct insn *i, unsigned size)
{
    struct rmw m = rmw_begin(v, i, size);
    uint64_t a = rmw_load(v, &m, size);
    uint64_t rflags = v->rflags, r;
    if (i->prefixes & INSN_LOCK) {
        do {
            rflags = v->rflags;
            r = alu_add(&rflags, a, reg_read(v, i->src, size), size);
        } while (!rmw_replace(v, &m, &a, r, size));
    } else {
        rmw_store(v, &m, alu_add(&rflags, a, reg_read(v, i->src, size), size), size);
    }
    reg_write(v, i->src, a, size);
    v->rflags = rflags;
    return insn_next(v, i);
}

/* A failed 32-bit CMPXCHG writes only EAX (so RAX is zero-extended); a successful one only the
 * destination. */
BODY cmpxchg_rr(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t a = reg_read(v, i->dst, size);
    alu_cmp(&v->rflags, v->gpr[RAX], a, size);
    if (v->rflags & FLAG_ZF) {
        reg_write(v, i->dst, reg_read(v, i->src, size), size);
    } else {
        reg_write(v, RAX * 8, a, size);
    }
    return insn_next(v, i);
}

BODY cmpxchg_mr(struct vcpu *v, const struct insn *i, unsigned size)
{
    struct rmw m = rmw_begin(v, i, size);
    uint64_t mask = size == 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
    uint64_t want = v->gpr[RAX] & mask;
    uint64_t present = want;
    uint64_t rflags = v->rflags;

    if (i->prefixes & INSN_LOCK) {
        rmw_cas(v, &m, &present, reg_read(v, i->src, size), size);
        alu_cmp(&rflags, want, present, size);
    } else {
        present = rmw_load(v, &m, size);
        alu_cmp(&rflags, want, present, size);
        /* The store always happens (SDM 2A CMPXCHG). */
        rmw_store(v, &m, present == want ? reg_read(v, i->src, size) : present, size);
    }
    if (!(rflags & FLAG_ZF))
        reg_write(v, RAX * 8, present, size);
    v->rflags = rflags;
    return insn_next(v, i);
}

BODY push_r(struct vcpu *v, const struct insn *i, unsigned size)
{
    push(v, reg_read(v, i->dst, size), size);
    return insn_next(v, i);
}

BODY push_i(struct vcpu *v, const struct insn *i, unsigned size)
{
    push(v, i->imm, size);
    return insn_next(v, i);
}

BODY push_m(struct vcpu *v, const struct insn *i, unsigned size)
{
    push(v, mem_load(v, i, size), size);
    return insn_next(v, i);
}

BODY pop_r(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t value = stack_top(v, size);
    stack_set(v, stack_wrap(v, v->gpr[RSP] + size));
    reg_write(v, i->dst, value, size); /* after RSP: POP RSP keeps the value */
    return insn_next(v, i);
}

/* The address of the destination is computed with RSP already incremented (SDM 2B POP); RSP is put
 * back if the store raises, by keeping it apart until then. */
BODY pop_m(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t value = stack_top(v, size);
    uint64_t ea = effective_address(v, i);
    if (i->base == RSP * 8) {
        ea += size;
        if (i->address_size == 4)
            ea = (uint32_t)ea;
    }
    store_linear(v, i->seg, segment_linear(v, i->seg, ea, size, true), value, size);
    stack_set(v, stack_wrap(v, v->gpr[RSP] + size));
    return insn_next(v, i);
}

#define HANDLER(op, form, size)                                                          \
    static const struct insn *op##_##form##_##size(struct vcpu *v, const struct insn *i) \
    {                                                                                    \
        return op##_##form(v, i, size);                                                  \
    }
#define HANDLERS(op, form)                                                                \
    HANDLER(op, form, 1)                                                                  \
    HANDLER(op, form, 2)                                                                  \
    HANDLER(op, form, 4)                                                                  \
    HANDLER(op, form, 8)                                                                  \
    static const insn_exec op##_##form##_handlers[4] = {op##_##form##_1, op##_##form##_2, \
                                                        op##_##form##_4, op##_##form##_8};

HANDLERS(mov, rr)
HANDLERS(mov, ri)
HANDLERS(mov, rm)
HANDLERS(mov, mr)
HANDLERS(mov, mi)
HANDLERS(moffs, rm)
HANDLERS(moffs, mr)
HANDLERS(xchg, rr)
HANDLERS(xchg, mr)
HANDLERS(xchg, rm)
HANDLERS(xadd, rr)
HANDLERS(xadd, mr)
HANDLERS(cmpxchg, rr)
HANDLERS(cmpxchg, mr)
HANDLERS(push, r)
HANDLERS(push, i)
HANDLERS(push, m)
HANDLERS(pop, r)
HANDLERS(pop, m)

static uint64_t sign_extend(uint64_t value, unsigned size)
{
    unsigned shift = 64 - size * 8;
    return (uint64_t)((int64_t)(value << shift) >> shift);
}

#define EXTEND(name, bytes, convert)                                                 \
    static const struct insn *name##_r_##bytes(struct vcpu *v, const struct insn *i) \
    {                                                                                \
        reg_write(v, i->dst, convert(reg_read(v, i->src, bytes), bytes), i->size);   \
        return insn_next(v, i);                                                      \
    }                                                                                \
    static const struct insn *name##_m_##bytes(struct vcpu *v, const struct insn *i) \
    {                                                                                \
        reg_write(v, i->dst, convert(mem_load(v, i, bytes), bytes), i->size);        \
        return insn_next(v, i);                                                      \
    }
#define zero_extend(value, bytes) (value)

EXTEND(movzx, 1, zero_extend)
EXTEND(movzx, 2, zero_extend)
EXTEND(movsx, 1, sign_extend)
EXTEND(movsx, 2, sign_extend)
EXTEND(movsx, 4, sign_extend)

static const struct insn *lea(struct vcpu *v, const struct insn *i)
{
    reg_write(v, i->dst, effective_address(v, i), i->size);
    return insn_next(v, i);
}

static const struct insn *lea_8(struct vcpu *v, const struct insn *i)
{
    v->gpr[i->dst / 8] = effective_address(v, i);
    return insn_next(v, i);
}

/* CMOVcc loads its memory operand whatever the condition, and a 32-bit one clears the upper half
 * of the destination even when it does not move (SDM 2A). */
BODY cmov(struct vcpu *v, const struct insn *i, enum condition cc)
{
    uint64_t value = i->form == FORM_RM ? mem_load(v, i, i->size) : reg_read(v, i->src, i->size);
    if (!condition_holds(v, cc))
        value = reg_read(v, i->dst, i->size);
    reg_write(v, i->dst, value, i->size);
    return insn_next(v, i);
}

BODY setcc(struct vcpu *v, const struct insn *i, enum condition cc)
{
    if (i->form == FORM_R)
        reg_write(v, i->dst, condition_holds(v, cc), 1);
    else
        mem_store(v, i, condition_holds(v, cc), 1);
    return insn_next(v, i);
}

#define CONDITIONAL(suffix, cc)                                                   \
    static const struct insn *cmov_##suffix(struct vcpu *v, const struct insn *i) \
    {                                                                             \
        return cmov(v, i, cc);                                                    \
    }                                                                             \
    static const struct insn *set_##suffix(struct vcpu *v, const struct insn *i)  \
    {                                                                             \
        return setcc(v, i, cc);                                                   \
    }
CONDITIONS(CONDITIONAL)

static const struct insn *bswap(struct vcpu *v, const struct insn *i)
{
    if (i->size == 8)
        v->gpr[i->dst / 8] = __builtin_bswap64(v->gpr[i->dst / 8]);
    else if (i->size == 4)
        reg_write(v, i->dst, __builtin_bswap32((uint32_t)v->gpr[i->dst / 8]), 4);
    else
        reg_write(v, i->dst, 0, 2); /* undefined by the manual; every processor clears it */
    return insn_next(v, i);
}

static uint64_t byte_swap(uint64_t value, unsigned size)
{
    return __builtin_bswap64(value) >> (64 - size * 8);
}

static const struct insn *movbe(struct vcpu *v, const struct insn *i)
{
    if (i->form == FORM_RM)
        reg_write(v, i->dst, byte_swap(mem_load(v, i, i->size), i->size), i->size);
    else
        mem_store(v, i, byte_swap(reg_read(v, i->src, i->size), i->size), i->size);
    return insn_next(v, i);
}

/* CBW CWDE CDQE, CWD CDQ CQO */
static const struct insn *convert(struct vcpu *v, const struct insn *i)
{
    uint64_t a = v->gpr[RAX];
    switch (i->op) {
    case ZYDIS_MNEMONIC_CBW:
        reg_write(v, RAX * 8, sign_extend(a, 1), 2);
        break;
    case ZYDIS_MNEMONIC_CWDE:
        reg_write(v, RAX * 8, sign_extend(a, 2), 4);
        break;
    case ZYDIS_MNEMONIC_CDQE:
        reg_write(v, RAX * 8, sign_extend(a, 4), 8);
        break;
    case ZYDIS_MNEMONIC_CWD:
        reg_write(v, RDX * 8, (a >> 15) & 1 ? UINT64_MAX : 0, 2);
        break;
    case ZYDIS_MNEMONIC_CDQ:
        reg_write(v, RDX * 8, (a >> 31) & 1 ? UINT64_MAX : 0, 4);
        break;
    default: /* CQO */
        reg_write(v, RDX * 8, a >> 63 ? UINT64_MAX : 0, 8);
        break;
    }
    return insn_next(v, i);
}

static const struct insn *flag_op(struct vcpu *v, const struct insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_CLC:
        v->rflags &= ~(uint64_t)FLAG_CF;
        break;
    case ZYDIS_MNEMONIC_STC:
        v->rflags |= FLAG_CF;
        break;
    case ZYDIS_MNEMONIC_CMC:
        v->rflags ^= FLAG_CF;
        break;
    case ZYDIS_MNEMONIC_CLD:
        v->rflags &= ~(uint64_t)FLAG_DF;
        break;
    case ZYDIS_MNEMONIC_STD:
        v->rflags |= FLAG_DF;
        break;
    case ZYDIS_MNEMONIC_LAHF:
        reg_write(v, RAX * 8 + 1, (v->rflags & 0xd5) | FLAG_ONE, 1);
        break;
    default: /* SAHF */
        v->rflags = (v->rflags & ~(uint64_t)0xd5) | (reg_read(v, RAX * 8 + 1, 1) & 0xd5);
        break;
    }
    return insn_next(v, i);
}

static const struct insn *xlat(struct vcpu *v, const struct insn *i)
{
    uint64_t ea = v->gpr[RBX] + (v->gpr[RAX] & 0xff);
    if (i->address_size != 8)
        ea = i->address_size == 4 ? (uint32_t)ea : (uint16_t)ea;
    reg_write(v, RAX * 8, load_linear(v, i->seg, segment_linear(v, i->seg, ea, 1, false), 1), 1);
    return insn_next(v, i);
}

static const struct insn *leave(struct vcpu *v, const struct insn *i)
{
    unsigned size = i->stack_size;
    uint64_t sp = stack_wrap(v, v->gpr[RBP]);
    uint64_t value = stack_load(v, sp, size);
    stack_set(v, stack_wrap(v, sp + size));
    reg_write(v, RBP * 8, value, size);
    return insn_next(v, i);
}

/* ENTER (SDM 2A): imm = bytes of locals, src = nesting level. The last word that the procedure's
 * frame will reach is probed as written, as the processor does, before RSP and RBP change. */
static const struct insn *enter(struct vcpu *v, const struct insn *i)
{
    unsigned size = i->stack_size, level = i->src & 31;
    uint64_t sp = stack_wrap(v, v->gpr[RSP] - size);
    /* With a 16-bit stack and a 32-bit operand EBP gets all of ESP. */
    uint64_t frame = stack_address_size(v) == 2 ? (v->gpr[RSP] & ~UINT64_C(0xffff)) | sp : sp;

    stack_store(v, sp, v->gpr[RBP], size);
    for (unsigned n = 1; n < level; n++) {
        uint64_t link = stack_load(v, stack_wrap(v, v->gpr[RBP] - n * size), size);
        sp = stack_wrap(v, sp - size);
        stack_store(v, sp, link, size);
    }
    if (level > 0) {
        sp = stack_wrap(v, sp - size);
        stack_store(v, sp, frame, size);
    }
    sp = stack_wrap(v, sp - (i->imm & 0xffff));
    struct insn probe = *i;
    probe.seg = SEG_SS;
    uint64_t linear = segment_linear(v, SEG_SS, sp, size, true);
    rmw_begin_slow(v, &probe, linear, size);
    stack_set(v, sp);
    reg_write(v, RBP * 8, frame, size);
    return insn_next(v, i);
}

static unsigned size_index(unsigned size)
{
    return size == 8 ? 3 : size / 2;
}

static insn_exec mov_resolve(const struct insn *i)
{
    unsigned s = size_index(i->size);
    switch (i->form) {
    case FORM_RR:
        return mov_rr_handlers[s];
    case FORM_RI:
        return mov_ri_handlers[s];
    case FORM_RM:
        return i->imm != 0 ? moffs_rm_handlers[s] : mov_rm_handlers[s];
    case FORM_MR:
        return i->imm != 0 ? moffs_mr_handlers[s] : mov_mr_handlers[s];
    case FORM_MI:
        return mov_mi_handlers[s];
    default:
        return NULL; /* segment, control and debug registers: system_resolve */
    }
}

static insn_exec stack_resolve(const struct insn *i)
{
    unsigned s = size_index(i->stack_size);
    switch (i->form) {
    case FORM_R:
        return i->op == ZYDIS_MNEMONIC_PUSH ? push_r_handlers[s] : pop_r_handlers[s];
    case FORM_M:
        return i->op == ZYDIS_MNEMONIC_PUSH ? push_m_handlers[s] : pop_m_handlers[s];
    case FORM_I:
        return push_i_handlers[s];
    default:
        return NULL;
    }
}

static insn_exec extend_resolve(const struct insn *i)
{
    bool memory = i->form == FORM_RM;
    if (i->op == ZYDIS_MNEMONIC_MOVZX)
        return i->src_size == 1 ? (memory ? movzx_m_1 : movzx_r_1)
                                : (memory ? movzx_m_2 : movzx_r_2);
    /* MOVSXD r16, m32 is encodable; Intel's processors read 16 bits (SDM 2B MOVSXD). */
    bool whole = memory && host_processor.movsxd_reads_32;
    switch (i->size < i->src_size && !whole ? i->size : i->src_size) {
    case 1:
        return memory ? movsx_m_1 : movsx_r_1;
    case 2:
        return memory ? movsx_m_2 : movsx_r_2;
    default:
        return memory ? movsx_m_4 : movsx_r_4;
    }
}

static insn_exec exchange_resolve(const struct insn *i)
{
    unsigned s = size_index(i->size);
    switch (i->op) {
    case ZYDIS_MNEMONIC_XCHG:
        return i->form == FORM_RR   ? xchg_rr_handlers[s]
               : i->form == FORM_MR ? xchg_mr_handlers[s]
                                    : xchg_rm_handlers[s];
    case ZYDIS_MNEMONIC_XADD:
        return i->form == FORM_RR ? xadd_rr_handlers[s] : xadd_mr_handlers[s];
    default:
        return i->form == FORM_RR ? cmpxchg_rr_handlers[s] : cmpxchg_mr_handlers[s];
    }
}

#define CMOV_CASE(suffix, cc)         \
    case ZYDIS_MNEMONIC_CMOV##suffix: \
        return cmov_##suffix;
#define SET_CASE(suffix, cc)         \
    case ZYDIS_MNEMONIC_SET##suffix: \
        return set_##suffix;

insn_exec move_resolve(const struct insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_MOV:
        return mov_resolve(i);
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
        return stack_resolve(i);
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        return extend_resolve(i);
    case ZYDIS_MNEMONIC_XCHG:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_CMPXCHG:
        return exchange_resolve(i);
    case ZYDIS_MNEMONIC_LEA:
        return i->size == 8 ? lea_8 : lea;
    case ZYDIS_MNEMONIC_BSWAP:
        return bswap;
    case ZYDIS_MNEMONIC_MOVBE:
        return movbe;
    case ZYDIS_MNEMONIC_CBW:
    case ZYDIS_MNEMONIC_CWDE:
    case ZYDIS_MNEMONIC_CDQE:
    case ZYDIS_MNEMONIC_CWD:
    case ZYDIS_MNEMONIC_CDQ:
    case ZYDIS_MNEMONIC_CQO:
        return convert;
    case ZYDIS_MNEMONIC_CLC:
    case ZYDIS_MNEMONIC_STC:
    case ZYDIS_MNEMONIC_CMC:
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_STD:
    case ZYDIS_MNEMONIC_LAHF:
    case ZYDIS_MNEMONIC_SAHF:
        return flag_op;
    case ZYDIS_MNEMONIC_XLAT:
        return xlat;
    case ZYDIS_MNEMONIC_LEAVE:
        return leave;
    case ZYDIS_MNEMONIC_ENTER:
        return enter;
        CONDITIONS(CMOV_CASE)
        CONDITIONS(SET_CASE)
    default:
        return NULL;
    }
}
