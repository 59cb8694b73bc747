/* SPDX-License-Identifier: MIT */
/*
 * The machine code around a copied instruction (see encode.h): moves exactly the guest registers
 * that the instruction touches between struct vcpu and the processor. A legacy SSE instruction
 * moves 128 bits and leaves the rest in memory alone; a VEX one stores its result and zeroes above
 * (SDM 1, 14.1.3); an EVEX one moves all 512. x87 and MMX go through XRSTOR64/XSAVE64 of that one
 * component, in place.
 *
 * RSP stays the host's throughout, so a signal may come at any point. Flags in go through POPFQ
 * with arithmetic flags only (decision 3).
 */
#include "engine/host/encode.h"

#include <string.h>

#include "x86/vcpu.h"

#define OFFSET_GPR(n) ((uint32_t)(offsetof(struct vcpu, gpr) + 8u * (n)))
#define OFFSET_ZMM(n) ((uint32_t)(offsetof(struct vcpu, vector.zmm) + 64u * (n)))
#define OFFSET_K(n)   ((uint32_t)(offsetof(struct vcpu, vector.k) + 8u * (n)))
#define OFFSET_MXCSR  ((uint32_t)offsetof(struct vcpu, vector.mxcsr))
#define OFFSET_X87    ((uint32_t)offsetof(struct vcpu, vector))
#define HOST_MXCSR    0x1f80u
#define BIT(value, n) ((uint8_t)((value) >> (n)&1))
#define BYTES(o, ...) put(o, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static uint8_t *put(uint8_t *o, const uint8_t *bytes, size_t n)
{
    memcpy(o, bytes, n);
    return o + n;
}

static uint8_t *put32(uint8_t *o, uint32_t value)
{
    memcpy(o, &value, sizeof value);
    return o + sizeof value;
}

/* ModRM and disp32 of [state_register + offset]. */
static uint8_t *put_state(uint8_t *o, const struct encode_plan *p, unsigned reg, uint32_t offset)
{
    o = BYTES(o, (uint8_t)(0x80 | (reg & 7) << 3 | (p->state_register & 7)));
    return put32(o, offset);
}

/* REX, then 0F opcode with the state as its memory operand. */
static uint8_t *put_0f(uint8_t *o, const struct encode_plan *p, bool w, uint8_t opcode,
                       unsigned reg, uint32_t offset)
{
    o = BYTES(o, (uint8_t)(0x40 | w << 3 | BIT(reg, 3) << 2 | BIT(p->state_register, 3)), 0x0f,
              opcode);
    return put_state(o, p, reg, offset);
}

static uint8_t *put_gpr(uint8_t *o, const struct encode_plan *p, bool store,
                        const struct encode_register *r)
{
    o = BYTES(o, (uint8_t)(0x48 | BIT(r->host, 3) << 2 | BIT(p->state_register, 3)),
              store ? 0x89 : 0x8b);
    return put_state(o, p, r->host, OFFSET_GPR(r->guest));
}

static uint8_t *put_vex(uint8_t *o, const struct encode_plan *p, bool w, bool wide, uint8_t opcode,
                        unsigned reg, uint32_t offset)
{
    o = BYTES(o, 0xc4, (uint8_t)(0x41 | !BIT(reg, 3) << 7 | !BIT(p->state_register, 3) << 5),
              (uint8_t)(w << 7 | 0x78 | wide << 2), opcode);
    return put_state(o, p, reg, offset);
}

static uint8_t *put_evex_move(uint8_t *o, const struct encode_plan *p, bool store, unsigned reg)
{
    o = BYTES(
        o, 0x62,
        (uint8_t)(0x41 | !BIT(reg, 3) << 7 | !BIT(p->state_register, 3) << 5 | !BIT(reg, 4) << 4),
        0x7c, 0x48, store ? 0x11 : 0x10);
    return put_state(o, p, reg, OFFSET_ZMM(reg));
}

static uint8_t *put_vector_loads(uint8_t *o, const struct encode_plan *p)
{
    for (unsigned i = 0; i < p->vectors; i++) {
        unsigned n = p->vector[i].guest;
        if (p->form == ENCODE_LEGACY)
            o = put_0f(o, p, false, 0x10, n, OFFSET_ZMM(n));
        else if (p->form == ENCODE_VEX)
            o = put_vex(o, p, false, p->wide, 0x10, n, OFFSET_ZMM(n));
        else
            o = put_evex_move(o, p, false, n);
    }
    for (unsigned n = 0; n < 8; n++)
        if (p->mask_used >> n & 1)
            o = put_vex(o, p, true, false, 0x90, n, OFFSET_K(n)); /* KMOVQ */
    return o;
}

static uint8_t *put_vector_stores(uint8_t *o, const struct encode_plan *p)
{
    bool zero = false;
    for (unsigned i = 0; i < p->vectors; i++) {
        unsigned n = p->vector[i].guest;
        if (!p->vector[i].written)
            continue;
        if (p->form == ENCODE_LEGACY)
            o = put_0f(o, p, false, 0x11, n, OFFSET_ZMM(n));
        else if (p->form == ENCODE_VEX)
            o = put_vex(o, p, false, true, 0x11, n, OFFSET_ZMM(n));
        else
            o = put_evex_move(o, p, true, n);
        zero |= p->form == ENCODE_VEX;
    }
    for (unsigned n = 0; n < 8; n++)
        if (p->mask_written >> n & 1)
            o = put_vex(o, p, true, false, 0x91, n, OFFSET_K(n));
    if (!zero)
        return o;
    o = BYTES(o, 0xc5, 0xf9, 0xef, 0xc0); /* vpxor %xmm0, %xmm0, %xmm0 */
    for (unsigned i = 0; i < p->vectors; i++)
        if (p->vector[i].written)
            o = put_vex(o, p, false, true, 0x11, 0, OFFSET_ZMM(p->vector[i].guest) + 32);
    return o;
}

/* XRSTOR64 (5) or XSAVE64 (4) of the x87 component. MOV, not XOR: flags stay. */
static uint8_t *put_x87(uint8_t *o, const struct encode_plan *p, unsigned extension)
{
    o = BYTES(o, 0xb8, 1, 0, 0, 0, 0xba, 0, 0, 0, 0);
    return put_0f(o, p, true, 0xae, extension, OFFSET_X87);
}

static bool callee_saved(uint8_t reg)
{
    return reg == RBX || reg == RBP || reg >= R12;
}

static uint8_t *put_pops(uint8_t *o, const struct encode_plan *p)
{
    for (unsigned i = p->gprs; i-- > 0;)
        if (callee_saved(p->gpr[i].host))
            o = BYTES(o, (uint8_t)(0x40 | BIT(p->gpr[i].host, 3)),
                      (uint8_t)(0x58 | (p->gpr[i].host & 7)));
    return BYTES(o, 0xc3);
}

static uint8_t *put_enter(uint8_t *o, const struct encode_plan *p)
{
    for (unsigned i = 0; i < p->gprs; i++)
        if (callee_saved(p->gpr[i].host))
            o = BYTES(o, (uint8_t)(0x40 | BIT(p->gpr[i].host, 3)),
                      (uint8_t)(0x50 | (p->gpr[i].host & 7)));
    if (p->flags_in)
        o = BYTES(o, 0x52, 0x9d); /* push %rdx; popfq */
    if (p->state_register != RDI)
        o = BYTES(o, 0x49, 0x89, (uint8_t)(0xf8 | (p->state_register & 7)));
    if (p->memory && p->memory_register != RSI)
        o = BYTES(o, 0x49, 0x89, (uint8_t)(0xf0 | (p->memory_register & 7)));
    if (p->x87)
        o = put_x87(o, p, 5);
    if (p->mxcsr)
        o = put_0f(o, p, false, 0xae, 2, OFFSET_MXCSR);
    o = put_vector_loads(o, p);
    for (unsigned i = 0; i < p->gprs; i++)
        o = put_gpr(o, p, false, &p->gpr[i]);
    return o;
}

/* Guest MXCSR out, the host's in; *fixup gets the place of the constant's displacement. */
static uint8_t *put_mxcsr_leave(uint8_t *o, const struct encode_plan *p, uint8_t **fixup)
{
    *fixup = NULL;
    if (!p->mxcsr)
        return o;
    o = put_0f(o, p, false, 0xae, 3, OFFSET_MXCSR);
    o = BYTES(o, 0x0f, 0xae, 0x15);
    *fixup = o;
    return put32(o, 0);
}

static uint8_t *put_vzeroupper(uint8_t *o, const struct encode_plan *p)
{
    return p->form != ENCODE_LEGACY && p->vectors ? BYTES(o, 0xc5, 0xf8, 0x77) : o;
}

static void fix(uint8_t *fixup, const uint8_t *constant)
{
    if (fixup)
        put32(fixup, (uint32_t)(constant - (fixup + 4)));
}

size_t encode_stub(const struct encode_plan *p, uint8_t out[ENCODE_STUB_MAX], size_t *at,
                   size_t *resume)
{
    uint8_t *fixups[2];
    uint8_t *o = put_enter(out, p);
    *at = (size_t)(o - out);
    o = put(o, p->insn, p->length);
    for (unsigned i = 0; i < p->gprs; i++)
        if (p->gpr[i].written)
            o = put_gpr(o, p, true, &p->gpr[i]);
    if (p->flags_out)
        o = BYTES(o, 0x9c); /* pushfq: popped below as the result */
    o = put_vector_stores(o, p);
    o = put_mxcsr_leave(o, p, &fixups[0]);
    if (p->x87)
        o = BYTES(put_x87(o, p, 4), 0xdb, 0xe3); /* fninit: nothing pending for the host */
    o = put_vzeroupper(o, p);
    o = p->flags_out ? BYTES(o, 0x58) : BYTES(o, 0xb8, 1, 0, 0, 0);
    o = put_pops(o, p);

    *resume = (size_t)(o - out);
    o = put_mxcsr_leave(o, p, &fixups[1]);
    if (p->x87)
        o = BYTES(o, 0xdb, 0xe3);
    o = put_vzeroupper(o, p);
    o = BYTES(o, 0x31, 0xc0); /* xor %eax, %eax */
    o = put_pops(o, p);

    fix(fixups[0], o);
    fix(fixups[1], o);
    if (p->mxcsr)
        o = put32(o, HOST_MXCSR);
    return (size_t)(o - out);
}
