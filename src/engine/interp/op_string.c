/* SPDX-License-Identifier: MIT */
/*
 * String instructions (SDM 1 7.3.9), interruptible and restartable: after each iteration RSI, RDI
 * and RCX are architectural, so a fault or an interrupt leaves RIP at the instruction and it goes
 * on from there. Each iteration counts as one instruction, and requests and the instruction limit
 * are looked at between iterations (engine.h).
 *
 * MOVS and STOS move whole runs within a page at once where nobody could tell: forward, both
 * operands plain RAM within their TLB pages, not overlapping closer than the element.
 */
#include "engine/gate.h"
#include "engine/host/alu.h"
#include "engine/host/processor.h"
#include "engine/interp/interp.h"

enum string_kind { MOVS, STOS, LODS, SCAS, CMPS, INS, OUTS };

static uint64_t wrap_address(const struct insn *i, uint64_t a)
{
    return i->address_size == 8 ? a : i->address_size == 4 ? (uint32_t)a : (uint16_t)a;
}

static uint64_t source(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t a = wrap_address(i, v->gpr[RSI]);
    return load_linear(v, i->seg, segment_linear(v, i->seg, a, size, false), size);
}

static uint64_t destination(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t a = wrap_address(i, v->gpr[RDI]);
    return load_linear(v, SEG_ES, segment_linear(v, SEG_ES, a, size, false), size);
}

static void store_destination(struct vcpu *v, const struct insn *i, uint64_t value, unsigned size)
{
    uint64_t a = wrap_address(i, v->gpr[RDI]);
    store_linear(v, SEG_ES, segment_linear(v, SEG_ES, a, size, true), value, size);
}

static void advance(struct vcpu *v, const struct insn *i, unsigned reg, int64_t bytes)
{
    if (v->rflags & FLAG_DF)
        bytes = -bytes;
    reg_write(v, reg * 8, v->gpr[reg] + (uint64_t)bytes, i->address_size);
}

static void compare(struct vcpu *v, uint64_t a, uint64_t b, unsigned size)
{
    switch (size) {
    case 1:
        alu_cmp(&v->rflags, a, b, 1);
        break;
    case 2:
        alu_cmp(&v->rflags, a, b, 2);
        break;
    case 4:
        alu_cmp(&v->rflags, a, b, 4);
        break;
    default:
        alu_cmp(&v->rflags, a, b, 8);
        break;
    }
}

/* IN to memory: the store is probed before the port is read, whose read may have an effect. */
static void input(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint16_t port = (uint16_t)v->gpr[RDX];
    uint64_t a = wrap_address(i, v->gpr[RDI]);
    uint64_t linear = segment_linear(v, SEG_ES, a, size, true);
    struct insn es = *i;
    es.seg = SEG_ES;
    rmw_begin_slow(v, &es, linear, size);
    uint64_t value = gate_read(v, BUS_PIO, port, size);
    store_linear(v, SEG_ES, linear, value, size);
}

static inline __attribute__((always_inline)) void iterate(struct vcpu *v, const struct insn *i,
                                                          enum string_kind kind, unsigned size)
{
    switch (kind) {
    case MOVS:
        store_destination(v, i, source(v, i, size), size);
        break;
    case STOS:
        store_destination(v, i, v->gpr[RAX], size);
        break;
    case LODS:
        reg_write(v, RAX * 8, source(v, i, size), size);
        break;
    case SCAS:
        compare(v, v->gpr[RAX], destination(v, i, size), size);
        break;
    case CMPS: { /* processors read ES:RDI first, as CR2 shows when both would fault */
        if (size == 1 && (i->prefixes & INSN_REP) && host_processor.cmpsb_source_first) {
            uint64_t a = source(v, i, size);
            compare(v, a, destination(v, i, size), size);
            break;
        }
        uint64_t b = destination(v, i, size);
        compare(v, source(v, i, size), b, size);
        break;
    }
    case INS:
        input(v, i, size);
        break;
    case OUTS: {
        uint64_t value = source(v, i, size);
        gate_write(v, BUS_PIO, (uint16_t)v->gpr[RDX], value, size);
        break;
    }
    }
    if (kind == MOVS || kind == LODS || kind == CMPS || kind == OUTS)
        advance(v, i, RSI, size);
    if (kind == MOVS || kind == STOS || kind == SCAS || kind == CMPS || kind == INS)
        advance(v, i, RDI, size);
}

/* The host address and the bytes up to the page's end of a fast operand, or 0. */
static unsigned fast_span(struct vcpu *v, uint64_t linear, bool write, uint8_t **host)
{
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, (enum tlb_reach)v->reach, linear);
    if ((write ? e->write : e->read) != tlb_tag(&v->tlb, linear))
        return 0;
    *host = (uint8_t *)(e->addend + linear);
    return 4096 - (unsigned)(linear & 0xfff);
}

/* From so many elements on the host's own string instruction is faster than a loop, for all that it
 * takes to begin. It is exact, however the operands overlap: element by element. */
#define HOST_STRING 12u

#define HOST_STOS(suffix) \
    __asm__ volatile("rep stos" suffix : "+D"(to), "+c"(n) : "a"(value) : "memory")
#define HOST_MOVS(suffix) \
    __asm__ volatile("rep movs" suffix : "+D"(to), "+S"(from), "+c"(n) : : "memory")

static void fill(uint8_t *to, uint64_t value, uint64_t n, unsigned size)
{
    if (n < HOST_STRING)
        for (uint64_t k = 0; k < n; k++)
            host_store(to + k * size, value, size);
    else if (size == 1)
        HOST_STOS("b");
    else if (size == 2)
        HOST_STOS("w");
    else if (size == 4)
        HOST_STOS("l");
    else
        HOST_STOS("q");
}

static void copy(uint8_t *to, const uint8_t *from, uint64_t n, unsigned size)
{
    if (n < HOST_STRING)
        for (uint64_t k = 0; k < n; k++)
            host_store(to + k * size, host_load(from + k * size, size), size);
    else if (size == 1)
        HOST_MOVS("b");
    else if (size == 2)
        HOST_MOVS("w");
    else if (size == 4)
        HOST_MOVS("l");
    else
        HOST_MOVS("q");
}

/* RSI and RDI are linear addresses, but for a base of FS or GS in 64-bit mode. */
static bool is_plain(const struct vcpu *v, const struct insn *i)
{
    if (v->code64)
        return i->address_size == 8;
    return i->address_size == 4 && i->seg != SEG_FS && i->seg != SEG_GS &&
           ((v->gpr[RSI] | v->gpr[RDI]) >> 32) == 0 && x86_is_flat(v);
}

/* Does as many iterations of REP MOVS or STOS as are safe at once; 0 when the slow way must go. */
static uint64_t run_fast(struct vcpu *v, const struct insn *i, enum string_kind kind, unsigned size,
                         uint64_t count)
{
    uint8_t *to = NULL, *from = NULL;
    if (!is_plain(v, i) || (v->rflags & FLAG_DF) || (v->rflags & FLAG_TF))
        return 0;
    uint64_t left = v->instruction_limit - v->counters.instructions;
    uint64_t n = fast_span(v, v->gpr[RDI], true, &to) / size;
    if (n > count)
        n = count;
    if (n > left)
        n = left;
    if (kind == MOVS) {
        uint64_t linear = segment_linear(v, i->seg, v->gpr[RSI], size, false);
        uint64_t span = fast_span(v, linear, false, &from) / size;
        if (n > span)
            n = span;
    }
    if (n < 2)
        return 0;
    if (kind == MOVS)
        copy(to, from, n, size);
    else
        fill(to, v->gpr[RAX], n, size);
    if (kind == MOVS)
        v->gpr[RSI] = wrap_address(i, v->gpr[RSI] + n * size);
    v->gpr[RDI] = wrap_address(i, v->gpr[RDI] + n * size);
    return n;
}

/* A count of 0 under a 32-bit address size still clears the upper halves, of RCX always, of RSI and
 * RDI by MOVS and STOS only: not in the manual, but so Intel's processors do. */
static void zero_extend(struct vcpu *v, const struct insn *i, enum string_kind kind)
{
    if (i->address_size != 4)
        return;
    v->gpr[RCX] = 0;
    if (kind == MOVS)
        v->gpr[RSI] = (uint32_t)v->gpr[RSI];
    if (kind == MOVS || kind == STOS)
        v->gpr[RDI] = (uint32_t)v->gpr[RDI];
}

static inline __attribute__((always_inline)) const struct insn *
string(struct vcpu *v, const struct insn *i, enum string_kind kind, unsigned size)
{
    bool compares = kind == SCAS || kind == CMPS;

    if (kind == INS || kind == OUTS) /* before the count is looked at */
        x86_check_io(v, (uint16_t)v->gpr[RDX], size);
    if (!(i->prefixes & (INSN_REP | INSN_REPNE))) {
        iterate(v, i, kind, size);
        if (kind == INS || kind == OUTS)
            x86_watch_io(v, (uint16_t)v->gpr[RDX], size);
        return insn_next(v, i);
    }
    uint64_t count = reg_read(v, RCX * 8, i->address_size);
    uint64_t flags_before = v->rflags;
    if (count == 0)
        zero_extend(v, i, kind);
    while (count != 0) {
        uint64_t n = kind == MOVS || kind == STOS ? run_fast(v, i, kind, size, count) : 0;
        if (n == 0) {
            iterate(v, i, kind, size);
            if (kind == INS || kind == OUTS)
                x86_watch_io(v, (uint16_t)v->gpr[RDX], size);
            n = 1;
        }
        count -= n;
        reg_write(v, RCX * 8, count, i->address_size);
        v->counters.instructions += n - 1; /* the run loop counts the last iteration */
        if (compares && ((v->rflags & FLAG_ZF) != 0) != ((i->prefixes & INSN_REP) != 0))
            break;
        if (count == 0)
            break;
        /* It goes on: on Intel's processors the flags are those from before until it ends, should
         * the next iteration fault or an event come first (SDM 2B REP). */
        if (!host_processor.repeats_show_flags)
            v->rflags = flags_before;
        if (vcpu_requests(v) != 0 || v->debug_pending != 0 || (v->rflags & FLAG_TF)) {
            v->rflags |= FLAG_RF; /* pushed with the event, as for faults (SDM 3B 17.3.1.1) */
            return NULL;          /* RIP stays: the instruction goes on after the event */
        }
        if (v->counters.instructions + 1 >= v->instruction_limit)
            return NULL;
        v->counters.instructions++;
    }
    return insn_next(v, i);
}

#define HANDLER(kind, size)                                                       \
    static const struct insn *kind##_##size(struct vcpu *v, const struct insn *i) \
    {                                                                             \
        return string(v, i, kind, size);                                          \
    }
#define HANDLERS(kind) \
    HANDLER(kind, 1)   \
    HANDLER(kind, 2)   \
    HANDLER(kind, 4)   \
    HANDLER(kind, 8)

HANDLERS(MOVS)
HANDLERS(STOS)
HANDLERS(LODS)
HANDLERS(SCAS)
HANDLERS(CMPS)
HANDLER(INS, 1)
HANDLER(INS, 2)
HANDLER(INS, 4)
HANDLER(OUTS, 1)
HANDLER(OUTS, 2)
HANDLER(OUTS, 4)

static const struct {
    uint16_t op;
    insn_exec exec;
} handlers[] = {
    {ZYDIS_MNEMONIC_MOVSB, MOVS_1}, {ZYDIS_MNEMONIC_MOVSW, MOVS_2}, {ZYDIS_MNEMONIC_MOVSD, MOVS_4},
    {ZYDIS_MNEMONIC_MOVSQ, MOVS_8}, {ZYDIS_MNEMONIC_STOSB, STOS_1}, {ZYDIS_MNEMONIC_STOSW, STOS_2},
    {ZYDIS_MNEMONIC_STOSD, STOS_4}, {ZYDIS_MNEMONIC_STOSQ, STOS_8}, {ZYDIS_MNEMONIC_LODSB, LODS_1},
    {ZYDIS_MNEMONIC_LODSW, LODS_2}, {ZYDIS_MNEMONIC_LODSD, LODS_4}, {ZYDIS_MNEMONIC_LODSQ, LODS_8},
    {ZYDIS_MNEMONIC_SCASB, SCAS_1}, {ZYDIS_MNEMONIC_SCASW, SCAS_2}, {ZYDIS_MNEMONIC_SCASD, SCAS_4},
    {ZYDIS_MNEMONIC_SCASQ, SCAS_8}, {ZYDIS_MNEMONIC_CMPSB, CMPS_1}, {ZYDIS_MNEMONIC_CMPSW, CMPS_2},
    {ZYDIS_MNEMONIC_CMPSD, CMPS_4}, {ZYDIS_MNEMONIC_CMPSQ, CMPS_8}, {ZYDIS_MNEMONIC_INSB, INS_1},
    {ZYDIS_MNEMONIC_INSW, INS_2},   {ZYDIS_MNEMONIC_INSD, INS_4},   {ZYDIS_MNEMONIC_OUTSB, OUTS_1},
    {ZYDIS_MNEMONIC_OUTSW, OUTS_2}, {ZYDIS_MNEMONIC_OUTSD, OUTS_4},
};

/* MOVSD and CMPSD are SSE2 mnemonics too; string instructions have no visible operand. */
insn_exec string_resolve(const struct insn *i)
{
    if (i->form != FORM_NONE)
        return NULL;
    for (unsigned n = 0; n < sizeof(handlers) / sizeof(handlers[0]); n++) {
        if (handlers[n].op == i->op)
            return handlers[n].exec;
    }
    return NULL;
}
