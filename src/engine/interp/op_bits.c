/* SPDX-License-Identifier: MIT */
/* Shifts, rotates, bit tests and scans, multiply and divide, carry chains (SDM 1 5.1.2, 5.1.5,
 * 5.1.6), all by the host's ALU. Less hot than op_alu.c: sizes are resolved at run time. */
#include "engine/host/alu.h"
#include "engine/interp/interp.h"

typedef uint64_t (*alu_function)(uint64_t *rflags, uint64_t a, uint64_t b, unsigned size);

#define BODY static inline __attribute__((always_inline)) const struct insn *

/* Calls f with a constant size, so that each call is one host instruction. */
static inline __attribute__((always_inline)) uint64_t sized(alu_function f, uint64_t *rflags,
                                                            uint64_t a, uint64_t b, unsigned size)
{
    switch (size) {
    case 1:
        return f(rflags, a, b, 1);
    case 2:
        return f(rflags, a, b, 2);
    case 4:
        return f(rflags, a, b, 4);
    default:
        return f(rflags, a, b, 8);
    }
}

static inline __attribute__((always_inline)) uint64_t
wide_only(alu_function f, uint64_t *rflags, uint64_t a, uint64_t b, unsigned size)
{
    switch (size) {
    case 2:
        return f(rflags, a, b, 2);
    case 4:
        return f(rflags, a, b, 4);
    default:
        return f(rflags, a, b, 8);
    }
}

/* The count is an immediate (FORM_RI, FORM_MI) or CL (FORM_RR, FORM_MR). */
BODY shift(struct vcpu *v, const struct insn *i, alu_function f)
{
    uint64_t count = i->form == FORM_RI || i->form == FORM_MI ? i->imm : v->gpr[RCX];
    if (i->form == FORM_RI || i->form == FORM_RR) {
        uint64_t r = sized(f, &v->rflags, reg_read(v, i->dst, i->size), count, i->size);
        reg_write(v, i->dst, r, i->size);
    } else {
        struct rmw m = rmw_begin(v, i, i->size);
        uint64_t rflags = v->rflags;
        uint64_t r = sized(f, &rflags, rmw_load(v, &m, i->size), count, i->size);
        rmw_store(v, &m, r, i->size);
        v->rflags = rflags;
    }
    return insn_next(v, i);
}

#define SHIFT(op)                                                      \
    static const struct insn *op(struct vcpu *v, const struct insn *i) \
    {                                                                  \
        return shift(v, i, alu_##op);                                  \
    }
SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)
SHIFT(shl)
SHIFT(shr)
SHIFT(sar)

/* ROL and ROR of a register by an immediate other than 1 leave OF alone on some processors, though
 * by CL they write it: undefined by the manual, so the host is asked (decision 4). */
static bool host_rotate_keeps_overflow(void)
{
    uint8_t big = 0x40, value = 0x60, overflow;
    __asm__("addb %[big], %[big]\n\t" /* OF = 1 */
            "rolb $2, %[value]\n\t"   /* 0x81, CF = 1: written OF would be MSB ^ CF = 0 */
            "seto %[overflow]"
            : [value] "+&q"(value), [big] "+&q"(big), [overflow] "=&q"(overflow)
            :
            : "cc");
    return overflow;
}

static const struct insn *rotate_keeping_overflow(struct vcpu *v, const struct insn *i)
{
    uint64_t overflow = v->rflags & FLAG_OF;
    const struct insn *next = i->op == ZYDIS_MNEMONIC_ROL ? rol(v, i) : ror(v, i);
    v->rflags = (v->rflags & ~(uint64_t)FLAG_OF) | overflow;
    return next;
}

static insn_exec rotate_resolve(const struct insn *i)
{
    if (i->form == FORM_RI && (i->imm & (i->size == 8 ? 63 : 31)) != 1 &&
        host_rotate_keeps_overflow())
        return rotate_keeping_overflow;
    return i->op == ZYDIS_MNEMONIC_ROL ? rol : ror;
}

static uint64_t double_shift(const struct insn *i, uint64_t *rflags, uint64_t a, uint64_t b,
                             uint8_t count)
{
    bool left = i->op == ZYDIS_MNEMONIC_SHLD;
    switch (i->size) {
    case 2:
        return left ? alu_shld(rflags, a, b, count, 2) : alu_shrd(rflags, a, b, count, 2);
    case 4:
        return left ? alu_shld(rflags, a, b, count, 4) : alu_shrd(rflags, a, b, count, 4);
    default:
        return left ? alu_shld(rflags, a, b, count, 8) : alu_shrd(rflags, a, b, count, 8);
    }
}

static const struct insn *double_rr(struct vcpu *v, const struct insn *i)
{
    uint8_t count = (uint8_t)(i->form == FORM_RRI ? i->imm : v->gpr[RCX]);
    uint64_t r = double_shift(i, &v->rflags, reg_read(v, i->dst, i->size),
                              reg_read(v, i->src, i->size), count);
    reg_write(v, i->dst, r, i->size);
    return insn_next(v, i);
}

static const struct insn *double_mr(struct vcpu *v, const struct insn *i)
{
    uint8_t count = (uint8_t)(i->form == FORM_MRI ? i->imm : v->gpr[RCX]);
    struct rmw m = rmw_begin(v, i, i->size);
    uint64_t rflags = v->rflags;
    uint64_t r =
        double_shift(i, &rflags, rmw_load(v, &m, i->size), reg_read(v, i->src, i->size), count);
    rmw_store(v, &m, r, i->size);
    v->rflags = rflags;
    return insn_next(v, i);
}

/* BSF … POPCNT: destination register, source register or memory. */
BODY scan(struct vcpu *v, const struct insn *i, alu_function f)
{
    uint64_t b = i->form == FORM_RM ? mem_load(v, i, i->size) : reg_read(v, i->src, i->size);
    uint64_t a = reg_read(v, i->dst, i->size);
    uint64_t r = wide_only(f, &v->rflags, a, b, i->size);
    /* BSF and BSR of zero leave the whole destination as it was, upper half too. */
    if (b == 0 && (i->op == ZYDIS_MNEMONIC_BSF || i->op == ZYDIS_MNEMONIC_BSR))
        return insn_next(v, i);
    reg_write(v, i->dst, r, i->size);
    return insn_next(v, i);
}

#define SCAN(op)                                                       \
    static const struct insn *op(struct vcpu *v, const struct insn *i) \
    {                                                                  \
        return scan(v, i, alu_##op);                                   \
    }
SCAN(bsf)
SCAN(bsr)
SCAN(tzcnt)
SCAN(lzcnt)
SCAN(popcnt)

/* BT, BTS, BTR, BTC on memory with a register offset address the whole bit string: the operand
 * moves by the signed offset (SDM 2A BT). */
static uint64_t bit_address(const struct vcpu *v, const struct insn *i, uint64_t offset)
{
    unsigned bits = i->size * 8;
    unsigned shift = 64 - bits;
    int64_t bit = (int64_t)(offset << shift) >> shift;
    uint64_t ea = effective_address(v, i) + (uint64_t)((bit >> (i->size == 2   ? 4
                                                                : i->size == 4 ? 5
                                                                               : 6)) *
                                                       (int64_t)i->size);
    if (i->address_size != 8)
        ea = i->address_size == 4 ? (uint32_t)ea : (uint16_t)ea;
    return ea;
}

BODY bit_test(struct vcpu *v, const struct insn *i, alu_function f, bool write)
{
    unsigned size = i->size;
    bool immediate = i->form == FORM_RI || i->form == FORM_MI;
    uint64_t offset = immediate ? i->imm : reg_read(v, i->src, size);

    if (i->form == FORM_RI || i->form == FORM_RR) {
        uint64_t r = wide_only(f, &v->rflags, reg_read(v, i->dst, size), offset, size);
        if (write)
            reg_write(v, i->dst, r, size);
        return insn_next(v, i);
    }
    uint64_t ea = immediate ? effective_address(v, i) : bit_address(v, i, offset);
    if (!write) {
        uint64_t a = load_linear(v, i->seg, segment_linear(v, i->seg, ea, size, false), size);
        wide_only(f, &v->rflags, a, offset, size);
        return insn_next(v, i);
    }
    struct rmw m = rmw_begin_at(v, i, ea, size);
    uint64_t a = rmw_load(v, &m, size);
    uint64_t rflags = v->rflags;
    if (i->prefixes & INSN_LOCK) {
        uint64_t r;
        do {
            rflags = v->rflags;
            r = wide_only(f, &rflags, a, offset, size);
        } while (!rmw_replace(v, &m, &a, r, size));
    } else {
        rmw_store(v, &m, wide_only(f, &rflags, a, offset, size), size);
    }
    v->rflags = rflags;
    return insn_next(v, i);
}

#define BIT_TEST(op, write)                                            \
    static const struct insn *op(struct vcpu *v, const struct insn *i) \
    {                                                                  \
        return bit_test(v, i, alu_##op, write);                        \
    }
BIT_TEST(bt, false)
BIT_TEST(bts, true)
BIT_TEST(btr, true)
BIT_TEST(btc, true)

static void multiply(struct vcpu *v, unsigned op, uint64_t b, unsigned size)
{
    uint64_t *f = &v->rflags, *a = &v->gpr[RAX], *d = &v->gpr[RDX];
    bool is_signed = op == ZYDIS_MNEMONIC_IMUL;
    switch (size) {
    case 1:
        is_signed ? alu_imul1(f, a, d, b, 1) : alu_mul(f, a, d, b, 1);
        break;
    case 2:
        is_signed ? alu_imul1(f, a, d, b, 2) : alu_mul(f, a, d, b, 2);
        break;
    case 4:
        is_signed ? alu_imul1(f, a, d, b, 4) : alu_mul(f, a, d, b, 4);
        break;
    default:
        is_signed ? alu_imul1(f, a, d, b, 8) : alu_mul(f, a, d, b, 8);
        break;
    }
}

/* MUL and one-operand IMUL */
static const struct insn *multiply_one(struct vcpu *v, const struct insn *i)
{
    uint64_t b = i->form == FORM_M ? mem_load(v, i, i->size) : reg_read(v, i->dst, i->size);
    multiply(v, i->op, b, i->size);
    return insn_next(v, i);
}

/* True when the quotient fits: the host would raise #DE otherwise. Dividend is RDX:RAX (AX for
 * bytes) of `size`. */
static bool divides_unsigned(const struct vcpu *v, uint64_t b, unsigned size)
{
    if (b == 0)
        return false;
    if (size == 1)
        return ((v->gpr[RAX] >> 8) & 0xff) < b;
    return reg_read(v, RDX * 8, size) < b;
}

static bool divides_signed(const struct vcpu *v, uint64_t b, unsigned size)
{
    unsigned bits = size * 8;
    __int128 dividend, divisor;

    if (size == 1)
        dividend = (int16_t)v->gpr[RAX];
    else if (size == 8)
        dividend = (__int128)((unsigned __int128)v->gpr[RDX] << 64 | v->gpr[RAX]);
    else
        dividend = (int64_t)((reg_read(v, RDX * 8, size) << bits | reg_read(v, RAX * 8, size))
                             << (64 - 2 * bits)) >>
                   (64 - 2 * bits);
    divisor = (int64_t)(b << (64 - bits)) >> (64 - bits);
    if (divisor == 0)
        return false;
    __int128 limit = (__int128)1 << (bits - 1);
    /* -2^127 / -1 overflows __int128 itself; its quotient does not fit anyway. */
    if (divisor == -1)
        return dividend > -limit && dividend <= limit;
    __int128 quotient = dividend / divisor;
    return quotient >= -limit && quotient < limit;
}

static const struct insn *divide(struct vcpu *v, const struct insn *i)
{
    unsigned size = i->size;
    uint64_t b = i->form == FORM_M ? mem_load(v, i, size) : reg_read(v, i->dst, size);
    bool is_signed = i->op == ZYDIS_MNEMONIC_IDIV;
    uint64_t *f = &v->rflags, *a = &v->gpr[RAX], *d = &v->gpr[RDX];

    if (!(is_signed ? divides_signed(v, b, size) : divides_unsigned(v, b, size)))
        x86_raise(v, VECTOR_DE);
    switch (size) {
    case 1:
        is_signed ? alu_idiv(f, a, d, b, 1) : alu_div(f, a, d, b, 1);
        break;
    case 2:
        is_signed ? alu_idiv(f, a, d, b, 2) : alu_div(f, a, d, b, 2);
        break;
    case 4:
        is_signed ? alu_idiv(f, a, d, b, 4) : alu_div(f, a, d, b, 4);
        break;
    default:
        is_signed ? alu_idiv(f, a, d, b, 8) : alu_div(f, a, d, b, 8);
        break;
    }
    return insn_next(v, i);
}

/* IMUL r, r/m and r, r/m, imm */
static const struct insn *imul_wide(struct vcpu *v, const struct insn *i)
{
    unsigned size = i->size;
    bool memory = i->form == FORM_RM || i->form == FORM_RMI;
    bool immediate = i->form == FORM_RRI || i->form == FORM_RMI;
    uint64_t b = memory ? mem_load(v, i, size) : reg_read(v, i->src, size);
    uint64_t a = immediate ? i->imm : reg_read(v, i->dst, size);
    reg_write(v, i->dst, wide_only(alu_imul, &v->rflags, a, b, size), size);
    return insn_next(v, i);
}

static const struct insn *carry_add(struct vcpu *v, const struct insn *i)
{
    uint64_t b = i->form == FORM_RM ? mem_load(v, i, i->size) : reg_read(v, i->src, i->size);
    uint64_t flag = i->op == ZYDIS_MNEMONIC_ADCX ? FLAG_CF : FLAG_OF;
    reg_write(v, i->dst, alu_carry_add(reg_read(v, i->dst, i->size), b, i->size, &v->rflags, flag),
              i->size);
    return insn_next(v, i);
}

static const struct insn *crc32(struct vcpu *v, const struct insn *i)
{
    unsigned size = i->src_size;
    uint64_t b = i->form == FORM_RM ? mem_load(v, i, size) : reg_read(v, i->src, size);
    uint64_t a = v->gpr[i->dst / 8];
    uint32_t narrow = (uint32_t)a;
    switch (size) {
    case 1:
        __asm__("crc32b %1, %0" : "+r"(narrow) : "q"((uint8_t)b));
        break;
    case 2:
        __asm__("crc32w %1, %0" : "+r"(narrow) : "r"((uint16_t)b));
        break;
    case 4:
        __asm__("crc32l %1, %0" : "+r"(narrow) : "r"((uint32_t)b));
        break;
    default:
        __asm__("crc32q %1, %0" : "+r"(a) : "r"(b));
        narrow = (uint32_t)a;
        break;
    }
    v->gpr[i->dst / 8] = narrow;
    return insn_next(v, i);
}

static insn_exec shift_resolve(const struct insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
        return rotate_resolve(i);
    case ZYDIS_MNEMONIC_RCL:
        return rcl;
    case ZYDIS_MNEMONIC_RCR:
        return rcr;
    case ZYDIS_MNEMONIC_SHL:
        return shl;
    case ZYDIS_MNEMONIC_SHR:
        return shr;
    case ZYDIS_MNEMONIC_SAR:
        return sar;
    default:
        return NULL;
    }
}

insn_exec bits_resolve(const struct insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return i->form == FORM_RRI || i->form == FORM_RRR ? double_rr : double_mr;
    case ZYDIS_MNEMONIC_BSF:
        return bsf;
    case ZYDIS_MNEMONIC_BSR:
        return bsr;
    case ZYDIS_MNEMONIC_TZCNT:
        return tzcnt;
    case ZYDIS_MNEMONIC_LZCNT:
        return lzcnt;
    case ZYDIS_MNEMONIC_POPCNT:
        return popcnt;
    case ZYDIS_MNEMONIC_BT:
        return bt;
    case ZYDIS_MNEMONIC_BTS:
        return bts;
    case ZYDIS_MNEMONIC_BTR:
        return btr;
    case ZYDIS_MNEMONIC_BTC:
        return btc;
    case ZYDIS_MNEMONIC_MUL:
        return multiply_one;
    case ZYDIS_MNEMONIC_IMUL:
        return i->form == FORM_R || i->form == FORM_M ? multiply_one : imul_wide;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        return divide;
    case ZYDIS_MNEMONIC_ADCX:
    case ZYDIS_MNEMONIC_ADOX:
        return carry_add;
    case ZYDIS_MNEMONIC_CRC32:
        return crc32;
    default:
        return shift_resolve(i);
    }
}
