/* SPDX-License-Identifier: MIT */
/* Instructions that reach the machine or its control state: ports, MSRs, CPUID, control and debug
 * registers, TLB, time, randomness, HLT; and wide compare-and-exchange, cache hints and fences.
 * What hardware would exit for is counted here under the exit's name. */
#include <sched.h>

#include "engine/gate.h"
#include "engine/interp/interp.h"
#include "x86/cpuid.h"
#include "x86/msr.h"

static void require_cpl0(struct vcpu *v)
{
    if (v->cpl != 0)
        x86_raise_gp0(v);
}

/* IN and OUT: the port is an immediate or DX, the data AL, AX or EAX. */
static const struct insn *port_in(struct vcpu *v, const struct insn *i)
{
    uint16_t port = (uint16_t)(i->form == FORM_RI ? i->imm & 0xff : v->gpr[RDX]);
    x86_check_io(v, port, i->size);
    reg_write(v, RAX * 8, gate_read(v, BUS_PIO, port, i->size), i->size);
    x86_watch_io(v, port, i->size);
    return insn_next(v, i);
}

/* The data operand is the second one: its size is src_size for both forms. */
static const struct insn *port_out(struct vcpu *v, const struct insn *i)
{
    bool immediate = i->form != FORM_RR;
    uint16_t port = (uint16_t)(immediate ? i->imm & 0xff : v->gpr[RDX]);
    unsigned size = i->src_size;
    x86_check_io(v, port, size);
    gate_write(v, BUS_PIO, port, reg_read(v, RAX * 8, size), size);
    x86_watch_io(v, port, size);
    return vcpu_requests(v) & VCPU_REQUEST_A20 ? insn_next_slow(v, i) : insn_next(v, i);
}

static const struct insn *rdmsr(struct vcpu *v, const struct insn *i)
{
    uint64_t value;
    require_cpl0(v);
    v->counters.exits[EXIT_MSR]++;
    if (!msr_read(v, (uint32_t)v->gpr[RCX], &value))
        x86_raise_gp0(v);
    v->gpr[RAX] = (uint32_t)value;
    v->gpr[RDX] = value >> 32;
    return insn_next(v, i);
}

static const struct insn *wrmsr(struct vcpu *v, const struct insn *i)
{
    require_cpl0(v);
    v->counters.exits[EXIT_MSR]++;
    uint64_t value = v->gpr[RDX] << 32 | (uint32_t)v->gpr[RAX];
    if (!msr_write(v, (uint32_t)v->gpr[RCX], value))
        x86_raise_gp0(v);
    return insn_next_slow(v, i);
}

static const struct insn *cpuid(struct vcpu *v, const struct insn *i)
{
    uint32_t r[4];
    v->counters.exits[EXIT_CPUID]++;
    cpuid_execute(v, (uint32_t)v->gpr[RAX], (uint32_t)v->gpr[RCX], r);
    v->gpr[RAX] = r[0];
    v->gpr[RBX] = r[1];
    v->gpr[RCX] = r[2];
    v->gpr[RDX] = r[3];
    return insn_next(v, i);
}

static const struct insn *rdtsc(struct vcpu *v, const struct insn *i)
{
    if ((v->cr4 & CR4_TSD) && v->cpl != 0)
        x86_raise_gp0(v);
    v->counters.exits[EXIT_RDTSC]++;
    uint64_t tsc = gate_tsc(v) + v->tsc_offset;
    v->gpr[RAX] = (uint32_t)tsc;
    v->gpr[RDX] = tsc >> 32;
    if (i->op == ZYDIS_MNEMONIC_RDTSCP)
        v->gpr[RCX] = (uint32_t)v->tsc_aux;
    return insn_next(v, i);
}

static const struct insn *rdpid(struct vcpu *v, const struct insn *i)
{
    v->gpr[i->dst / 8] = (uint32_t)v->tsc_aux;
    return insn_next(v, i);
}

/* No performance counters are offered: at CPL 0 or with CR4.PCE any index is invalid. */
static const struct insn *rdpmc(struct vcpu *v, const struct insn *i)
{
    x86_raise_gp0(v);
}

static const struct insn *random_number(struct vcpu *v, const struct insn *i)
{
    uint64_t value = 0;
    bool got = gate_random(v, i->op == ZYDIS_MNEMONIC_RDSEED, &value);
    reg_write(v, i->dst, got ? value : 0, i->size);
    v->rflags = (v->rflags & ~(uint64_t)FLAGS_ARITHMETIC) | (got ? FLAG_CF : 0);
    return insn_next(v, i);
}

static const struct insn *hlt(struct vcpu *v, const struct insn *i)
{
    require_cpl0(v);
    v->counters.exits[EXIT_HLT]++;
    v->activity = VCPU_HALTED;
    return insn_next_slow(v, i);
}

static const struct insn *hypercall(struct vcpu *v, const struct insn *i)
{
    v->counters.exits[EXIT_HYPERCALL]++;
    reg_write(v, RAX * 8, (uint64_t)x86_hypercall(v), v->code64 ? 8 : 4);
    return insn_next(v, i);
}

static const struct insn *mov_control(struct vcpu *v, const struct insn *i)
{
    v->counters.exits[EXIT_CR]++;
    if (i->form == FORM_RC) {
        v->gpr[i->dst / 8] = x86_read_cr(v, i->src);
        return insn_next(v, i);
    }
    uint64_t value = v->gpr[i->src / 8];
    x86_write_cr(v, i->dst, v->code64 ? value : (uint32_t)value);
    return insn_next_slow(v, i);
}

static const struct insn *mov_debug(struct vcpu *v, const struct insn *i)
{
    v->counters.exits[EXIT_DR]++; /* the checks, in their order, are in x86/ */
    if (i->form == FORM_RD) {
        v->gpr[i->dst / 8] = x86_read_dr(v, i->src);
        return insn_next(v, i);
    }
    uint64_t value = v->gpr[i->src / 8];
    x86_write_dr(v, i->dst, v->code64 ? value : (uint32_t)value);
    return insn_next_slow(v, i);
}

static const struct insn *clts(struct vcpu *v, const struct insn *i)
{
    v->counters.exits[EXIT_CR]++;
    require_cpl0(v);
    v->cr0 &= ~(uint64_t)CR0_TS;
    return insn_next(v, i);
}

static const struct insn *invlpg(struct vcpu *v, const struct insn *i)
{
    require_cpl0(v);
    v->counters.exits[EXIT_INVLPG]++;
    uint64_t linear = effective_address(v, i);
    if (i->seg == SEG_FS || i->seg == SEG_GS || !v->code64)
        linear += v->seg[i->seg].base;
    if (x86_canonical(v, linear)) /* else a no-op (SDM 2A INVLPG) */
        tlb_invlpg(v, linear);
    return insn_next_slow(v, i);
}

static const struct insn *invpcid(struct vcpu *v, const struct insn *i)
{
    uint64_t descriptor[2];
    require_cpl0(v);
    v->counters.exits[EXIT_INVLPG]++;
    mem_read_bytes(v, i->seg, effective_address(v, i), descriptor, 16);
    uint64_t type = reg_read(v, i->dst, v->code64 ? 8 : 4);
    uint64_t pcid = descriptor[0];
    if (type > 3 || (pcid >> 12) != 0)
        x86_raise_gp0(v);
    if (!(v->cr4 & CR4_PCIDE) && type < 2 && pcid != 0)
        x86_raise_gp0(v);
    if (type == 0 && !x86_canonical_register(v, descriptor[1]))
        x86_raise_gp0(v);
    tlb_invpcid(v, (unsigned)type, (uint16_t)pcid, descriptor[1]);
    return insn_next_slow(v, i);
}

/* INVD and WBINVD: no cache is modelled. */
static const struct insn *privileged_nop(struct vcpu *v, const struct insn *i)
{
    require_cpl0(v);
    return insn_next(v, i);
}

static const struct insn *xgetbv(struct vcpu *v, const struct insn *i)
{
    if (!(v->cr4 & CR4_OSXSAVE))
        x86_raise(v, VECTOR_UD);
    uint32_t index = (uint32_t)v->gpr[RCX];
    if (index > 1)
        x86_raise_gp0(v);
    uint64_t value = index == 0 ? v->xcr0 : v->xcr0; /* XINUSE: all that is enabled may be in use */
    v->gpr[RAX] = (uint32_t)value;
    v->gpr[RDX] = value >> 32;
    return insn_next(v, i);
}

static const struct insn *xsetbv(struct vcpu *v, const struct insn *i)
{
    if (!(v->cr4 & CR4_OSXSAVE))
        x86_raise(v, VECTOR_UD);
    require_cpl0(v);
    x86_xsetbv(v, (uint32_t)v->gpr[RCX], v->gpr[RDX] << 32 | (uint32_t)v->gpr[RAX]);
    return insn_next_slow(v, i);
}

/* ---- CMPXCHG8B, CMPXCHG16B ---- */

static const struct insn *cmpxchg8b(struct vcpu *v, const struct insn *i)
{
    struct rmw m = rmw_begin(v, i, 8);
    uint64_t want = v->gpr[RDX] << 32 | (uint32_t)v->gpr[RAX];
    uint64_t value = v->gpr[RCX] << 32 | (uint32_t)v->gpr[RBX];
    uint64_t present = want;
    bool equal = rmw_cas(v, &m, &present, value, 8);
    if (equal) {
        v->rflags |= FLAG_ZF;
    } else {
        v->rflags &= ~(uint64_t)FLAG_ZF;
        v->gpr[RAX] = (uint32_t)present;
        v->gpr[RDX] = present >> 32;
    }
    return insn_next(v, i);
}

static bool cas16(void *host, uint64_t want[2], uint64_t low, uint64_t high)
{
    bool done;
    __asm__ volatile("lock cmpxchg16b %[mem]"
                     : "=@ccz"(done), "+a"(want[0]),
                       "+d"(want[1]), [mem] "+m"(*(unsigned __int128 *)host)
                     : "b"(low), "c"(high)
                     : "memory");
    return done;
}

static const struct insn *cmpxchg16b(struct vcpu *v, const struct insn *i)
{
    uint64_t linear = segment_linear(v, i->seg, effective_address(v, i), 16, true);
    if (linear & 15) /* SDM 2A CMPXCHG16B; before the canonical check, which may be #SS */
        x86_raise_gp0(v);
    if (!x86_canonical(v, linear))
        x86_raise_error(v, i->seg == SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
    enum tlb_reach reach = (enum tlb_reach)v->reach;
    uint64_t present[2] = {v->gpr[RAX], v->gpr[RDX]};
    void *host = tlb_pointer_rmw(v, reach, linear, 16);
    bool equal;
    if (host != NULL) {
        equal = cas16(host, present, v->gpr[RBX], v->gpr[RCX]);
        tlb_pointer_wrote(v, host, 16);
    } else { /* a device: two halves, as its bus would see them */
        tlb_probe(v, reach, linear, 16, true);
        tlb_read_bytes(v, reach, linear, present, 16);
        equal = present[0] == v->gpr[RAX] && present[1] == v->gpr[RDX];
        uint64_t value[2] = {equal ? v->gpr[RBX] : present[0], equal ? v->gpr[RCX] : present[1]};
        tlb_write_bytes(v, reach, linear, value, 16);
    }
    if (equal) {
        v->rflags |= FLAG_ZF;
    } else {
        v->rflags &= ~(uint64_t)FLAG_ZF;
        v->gpr[RAX] = present[0];
        v->gpr[RDX] = present[1];
    }
    return insn_next(v, i);
}

/* ---- hints and fences ---- */

static const struct insn *nop(struct vcpu *v, const struct insn *i)
{
    return insn_next(v, i);
}

/* PAUSEs no more than SPIN_GAP instructions apart are one wait; after SPIN_WINDOW of them what is
 * waited for may need this host processor (as PAUSE-loop exiting, SDM 3C 25.1.3). */
#define SPIN_GAP    32u
#define SPIN_WINDOW 2048u

static const struct insn *pause_op(struct vcpu *v, const struct insn *i)
{
    struct interp *t = v->engine_state;
    uint64_t now = v->counters.instructions;

    v->counters.exits[EXIT_PAUSE]++;
    if (now - t->pause_last > SPIN_GAP)
        t->pause_first = now;
    t->pause_last = now;
    if (X86_UNLIKELY(now - t->pause_first > SPIN_WINDOW)) {
        t->pause_first = now;
        if (t->vm->vcpu_count > 1)
            sched_yield();
    }
    return insn_next_slow(v, i);
}

static const struct insn *fence(struct vcpu *v, const struct insn *i)
{
    atomic_thread_fence(memory_order_seq_cst);
    return insn_next(v, i);
}

/* CLFLUSH, CLFLUSHOPT, CLWB fault as a load of one byte (SDM 2A CLFLUSH). */
static const struct insn *cache_line(struct vcpu *v, const struct insn *i)
{
    tlb_probe(v, (enum tlb_reach)v->reach, mem_linear(v, i, 1, false), 1, false);
    return insn_next(v, i);
}

static const struct insn *undefined(struct vcpu *v, const struct insn *i)
{
    x86_raise(v, VECTOR_UD);
}

static const struct {
    uint16_t op;
    insn_exec exec;
} handlers[] = {
    {ZYDIS_MNEMONIC_IN, port_in},
    {ZYDIS_MNEMONIC_OUT, port_out},
    {ZYDIS_MNEMONIC_RDMSR, rdmsr},
    {ZYDIS_MNEMONIC_WRMSR, wrmsr},
    {ZYDIS_MNEMONIC_CPUID, cpuid},
    {ZYDIS_MNEMONIC_RDTSC, rdtsc},
    {ZYDIS_MNEMONIC_RDTSCP, rdtsc},
    {ZYDIS_MNEMONIC_RDPID, rdpid},
    {ZYDIS_MNEMONIC_RDPMC, rdpmc},
    {ZYDIS_MNEMONIC_RDRAND, random_number},
    {ZYDIS_MNEMONIC_RDSEED, random_number},
    {ZYDIS_MNEMONIC_HLT, hlt},
    {ZYDIS_MNEMONIC_VMCALL, hypercall},
    {ZYDIS_MNEMONIC_VMMCALL, hypercall},
    {ZYDIS_MNEMONIC_CLTS, clts},
    {ZYDIS_MNEMONIC_INVLPG, invlpg},
    {ZYDIS_MNEMONIC_INVPCID, invpcid},
    {ZYDIS_MNEMONIC_INVD, privileged_nop},
    {ZYDIS_MNEMONIC_WBINVD, privileged_nop},
    {ZYDIS_MNEMONIC_XGETBV, xgetbv},
    {ZYDIS_MNEMONIC_XSETBV, xsetbv},
    {ZYDIS_MNEMONIC_CMPXCHG8B, cmpxchg8b},
    {ZYDIS_MNEMONIC_CMPXCHG16B, cmpxchg16b},
    {ZYDIS_MNEMONIC_NOP, nop},
    {ZYDIS_MNEMONIC_ENDBR32, nop},
    {ZYDIS_MNEMONIC_ENDBR64, nop},
    {ZYDIS_MNEMONIC_RDSSPD, nop},
    {ZYDIS_MNEMONIC_RDSSPQ, nop},
    {ZYDIS_MNEMONIC_PREFETCH, nop},
    {ZYDIS_MNEMONIC_PREFETCHW, nop},
    {ZYDIS_MNEMONIC_PREFETCHWT1, nop},
    {ZYDIS_MNEMONIC_PREFETCHNTA, nop},
    {ZYDIS_MNEMONIC_PREFETCHT0, nop},
    {ZYDIS_MNEMONIC_PREFETCHT1, nop},
    {ZYDIS_MNEMONIC_PREFETCHT2, nop},
    {ZYDIS_MNEMONIC_CLDEMOTE, nop},
    {ZYDIS_MNEMONIC_PAUSE, pause_op},
    {ZYDIS_MNEMONIC_MFENCE, fence},
    {ZYDIS_MNEMONIC_LFENCE, fence},
    {ZYDIS_MNEMONIC_SFENCE, fence},
    {ZYDIS_MNEMONIC_CLFLUSH, cache_line},
    {ZYDIS_MNEMONIC_CLFLUSHOPT, cache_line},
    {ZYDIS_MNEMONIC_CLWB, cache_line},
    {ZYDIS_MNEMONIC_UD0, undefined},
    {ZYDIS_MNEMONIC_UD1, undefined},
    {ZYDIS_MNEMONIC_UD2, undefined},
};

insn_exec machine_resolve(const struct insn *i)
{
    if (i->op == ZYDIS_MNEMONIC_MOV) {
        if (i->form == FORM_RC || i->form == FORM_CR)
            return mov_control;
        return i->form == FORM_RD || i->form == FORM_DR ? mov_debug : NULL;
    }
    for (unsigned n = 0; n < sizeof(handlers) / sizeof(handlers[0]); n++) {
        if (handlers[n].op == i->op)
            return handlers[n].exec;
    }
    return NULL;
}
