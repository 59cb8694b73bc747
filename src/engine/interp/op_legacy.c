/* SPDX-License-Identifier: MIT */
/* Instructions that 64-bit mode does not have: BCD arithmetic, PUSHA, BOUND, ARPL, SALC. */
#include "engine/host/processor.h"
#include "engine/interp/interp.h"

static void set_flag(struct vcpu *v, uint64_t flag, bool on)
{
    v->rflags = on ? v->rflags | flag : v->rflags & ~flag;
}

static void set_szp(struct vcpu *v, uint8_t value)
{
    set_flag(v, FLAG_SF, value >> 7);
    set_flag(v, FLAG_ZF, value == 0);
    set_flag(v, FLAG_PF, !__builtin_parity(value));
}

/* What SDM 2A leaves undefined in these six is as processors have it (tests/diff): AAM clears CF
 * and AF, AAD sets all by its addition. On Intel's OF is 0, and AAA and AAS set SF, ZF and PF by
 * AL. On AMD's all four set OF, and AAA and AAS the others too, by their addition of 8 or of 16
 * bits. */

/* Of an adjustment of less than 128 upwards (sign 1) or downwards. */
static bool overflow8(uint8_t old, uint8_t result, int sign)
{
    return (sign > 0 ? result & ~old : old & ~result) & 0x80;
}

/* DAA, DAS (SDM 2A). */
static const struct insn *decimal(struct vcpu *v, const struct insn *i)
{
    int sign = i->op == ZYDIS_MNEMONIC_DAA ? 1 : -1;
    uint8_t old = (uint8_t)v->gpr[RAX], al = old;
    bool old_carry = v->rflags & FLAG_CF, carry = false;
    bool low = (al & 15) > 9 || (v->rflags & FLAG_AF);

    if (low) {
        al = (uint8_t)(al + sign * 6);
        carry = old_carry || (sign > 0 ? old > 0xf9 : old < 6);
    }
    if (old > 0x99 || old_carry) {
        al = (uint8_t)(al + sign * 0x60);
        carry = true;
    }
    reg_write(v, RAX * 8, al, 1);
    set_flag(v, FLAG_AF, low);
    set_flag(v, FLAG_CF, carry);
    set_flag(v, FLAG_OF, host_processor.bcd_flags_of_sum && overflow8(old, al, sign));
    set_szp(v, al);
    return insn_next(v, i);
}

/* AAA, AAS (SDM 2A). */
static const struct insn *ascii(struct vcpu *v, const struct insn *i)
{
    bool adjust = (v->gpr[RAX] & 15) > 9 || (v->rflags & FLAG_AF);
    uint16_t old = (uint16_t)v->gpr[RAX], ax = old;
    if (adjust)
        ax = (uint16_t)(i->op == ZYDIS_MNEMONIC_AAA ? ax + 0x106 : ax - 0x106);
    reg_write(v, RAX * 8, ax & 0xff0f, 2);
    set_flag(v, FLAG_AF | FLAG_CF, adjust);
    set_flag(v, FLAG_OF, false);
    set_szp(v, ax & 0x0f);
    if (host_processor.bcd_flags_of_sum) {
        int sign = i->op == ZYDIS_MNEMONIC_AAA ? 1 : -1;
        set_flag(v, FLAG_OF, overflow8((uint8_t)(old >> 8), (uint8_t)(ax >> 8), sign));
        set_flag(v, FLAG_SF, ax >> 15);
        set_flag(v, FLAG_ZF, ax == 0);
        set_flag(v, FLAG_PF, !__builtin_parity((uint8_t)ax));
    }
    return insn_next(v, i);
}

static const struct insn *ascii_multiply(struct vcpu *v, const struct insn *i)
{
    uint8_t base = (uint8_t)i->imm, al = (uint8_t)v->gpr[RAX];
    if (base == 0)
        x86_raise(v, VECTOR_DE);
    reg_write(v, RAX * 8, (uint64_t)(al / base) << 8 | al % base, 2);
    set_flag(v, FLAG_AF | FLAG_CF | FLAG_OF, false);
    set_szp(v, al % base);
    return insn_next(v, i);
}

static const struct insn *ascii_divide(struct vcpu *v, const struct insn *i)
{
    uint16_t ax = (uint16_t)v->gpr[RAX];
    uint8_t old = (uint8_t)ax, product = (uint8_t)((ax >> 8) * (uint8_t)i->imm);
    uint8_t al = (uint8_t)(old + product);
    reg_write(v, RAX * 8, al, 2);
    set_flag(v, FLAG_CF, al < old);
    set_flag(v, FLAG_AF, (old ^ product ^ al) & 0x10);
    set_flag(v, FLAG_OF, (old ^ al) & (product ^ al) & 0x80);
    set_szp(v, al);
    return insn_next(v, i);
}

static const struct insn *pusha(struct vcpu *v, const struct insn *i)
{
    unsigned size = i->stack_size;
    for (unsigned r = RAX; r <= RDI; r++)
        stack_store(v, stack_wrap(v, v->gpr[RSP] - (r + 1) * size), v->gpr[r], size);
    stack_set(v, stack_wrap(v, v->gpr[RSP] - 8 * size));
    return insn_next(v, i);
}

/* One after the other, as processors do: what was loaded before a fault stays, ESP has not moved.
 */
static const struct insn *popa(struct vcpu *v, const struct insn *i)
{
    unsigned size = i->stack_size;
    for (unsigned n = 0; n < 8; n++) {
        unsigned r = RDI - n;
        uint64_t value = stack_load(v, stack_wrap(v, v->gpr[RSP] + n * size), size);
        if (r != RSP)
            reg_write(v, r * 8, value, size);
    }
    stack_set(v, stack_wrap(v, v->gpr[RSP] + 8 * size));
    return insn_next(v, i);
}

static const struct insn *bound(struct vcpu *v, const struct insn *i)
{
    unsigned shift = 64 - i->size * 8;
    uint64_t ea = effective_address(v, i);
    uint64_t low = load_linear(v, i->seg, segment_linear(v, i->seg, ea, i->size, false), i->size);
    int64_t index = (int64_t)(reg_read(v, i->dst, i->size) << shift) >> shift;
    bool below = index < (int64_t)(low << shift) >> shift;
    if (below && !host_processor.bound_reads_both)
        x86_raise(v, VECTOR_BR);
    ea += i->size;
    uint64_t high = load_linear(v, i->seg, segment_linear(v, i->seg, ea, i->size, false), i->size);
    if (below || index > (int64_t)(high << shift) >> shift)
        x86_raise(v, VECTOR_BR);
    return insn_next(v, i);
}

static const struct insn *arpl(struct vcpu *v, const struct insn *i)
{
    bool memory = i->form == FORM_MR;
    if (!(v->cr0 & CR0_PE) || (v->rflags & FLAG_VM))
        x86_raise(v, VECTOR_UD);
    uint64_t selector = memory ? mem_load(v, i, 2) : reg_read(v, i->dst, 2);
    uint64_t rpl = reg_read(v, i->src, 2) & 3;
    bool raise = (selector & 3) < rpl;
    if (raise) {
        selector = (selector & ~3ull) | rpl;
        if (memory)
            mem_store(v, i, selector, 2);
        else
            reg_write(v, i->dst, selector, 2);
    }
    set_flag(v, FLAG_ZF, raise);
    return insn_next(v, i);
}

static const struct insn *salc(struct vcpu *v, const struct insn *i)
{
    reg_write(v, RAX * 8, v->rflags & FLAG_CF ? 0xff : 0, 1);
    return insn_next(v, i);
}

insn_exec legacy_resolve(const struct insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS:
        return decimal;
    case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAS:
        return ascii;
    case ZYDIS_MNEMONIC_AAM:
        return ascii_multiply;
    case ZYDIS_MNEMONIC_AAD:
        return ascii_divide;
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
        return pusha;
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
        return popa;
    case ZYDIS_MNEMONIC_BOUND:
        return bound;
    case ZYDIS_MNEMONIC_ARPL:
        return arpl;
    case ZYDIS_MNEMONIC_SALC:
        return salc;
    default:
        return NULL;
    }
}
