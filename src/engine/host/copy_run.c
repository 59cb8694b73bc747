/* SPDX-License-Identifier: MIT */
/*
 * Running a prepared instruction; see copy.h. On the vCPU's thread.
 *
 * SIMD floating-point exceptions are the processor's own: the stub runs under the guest's MXCSR,
 * and an unmasked exception arrives as SIGFPE at the copied instruction. The handler only moves the
 * thread on to the stub's way out, which stores MXCSR with its new flags and nothing else. SIGILL
 * there means that this processor does not have the instruction.
 *
 * x87 pointers (SDM 1, 8.1.8): the stub starts with sentinels in FIP, FDP and FOP. Where the
 * processor has put other values, the guest's own go in their place; so which instructions set
 * which pointer, and whether only exceptions do (CPUID.7.EBX[6]), is as on this processor. AMD's
 * do not tell (fpu.c), nor would the host's kernel keep them through a switch of tasks; there all
 * but the control instructions set FIP and FOP, and FDP when they have a memory operand
 * (tests/unit/engine/host/copy_test.c asks the processor about each).
 */
#include "engine/host/copy_code.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "engine/host/processor.h"
#include "x86/access.h"

#define FSW_ES         0x80u
#define FSW_PE         0x20u
#define FSW_EXCEPTIONS 0x3fu
#define X87_BYTES      160u /* of an XSAVE image */
/* An operand of 80 bits is two accesses on the processor, and the first has been made when the
 * second faults. */
#define M80           10u
#define M80_LOW_BYTES 8u
#define M80_LOW       UINT64_C(0xff)
#define M80_HIGH      UINT64_C(0x300)
#define FIP_SENTINEL  1u
#define FOP_SENTINEL  0x7ffu /* DF /7 with a register operand 7: no instruction has it */

static __thread const struct copy_code *volatile running;
static __thread volatile sig_atomic_t trapped;
static struct sigaction previous_fpe, previous_ill;

static void on_trap(int number, siginfo_t *info, void *context)
{
    greg_t *rip = &((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    const struct copy_code *c = running;
    if (c && (uintptr_t)*rip == (uintptr_t)c->at) {
        trapped = number;
        *rip = (greg_t)(uintptr_t)c->resume;
        return;
    }
    const struct sigaction *other = number == SIGFPE ? &previous_fpe : &previous_ill;
    if (other->sa_flags & SA_SIGINFO)
        other->sa_sigaction(number, info, context);
    else if (other->sa_handler != SIG_DFL && other->sa_handler != SIG_IGN)
        other->sa_handler(number);
    else
        sigaction(number, other, NULL); /* it happens again, and ends the process */
}

static int install_result;

static void install(void)
{
    struct sigaction a = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&a.sa_mask);
    if (sigaction(SIGFPE, &a, &previous_fpe) < 0 || sigaction(SIGILL, &a, &previous_ill) < 0)
        install_result = errno;
}

int copy_trap_install(struct error *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    host_processor_find();
    if (install_result)
        return error_set(e, install_result, "cannot catch SIGFPE: %s", strerror(install_result));
    return 0;
}

static void check_pending(struct vcpu *v)
{
    if (!(v->vector.fsw & FSW_ES))
        return;
    if (v->cr0 & CR0_NE)
        x86_raise(v, VECTOR_MF);
    vcpu_count_unsupported(v, "x87 exception through FERR# (CR0.NE=0)");
    x86_raise(v, VECTOR_UD);
}

static void check_rare(struct vcpu *v, uint8_t need)
{
    if ((need & NEED_SSE) && ((v->cr0 & CR0_EM) || !(v->cr4 & CR4_OSFXSR)))
        x86_raise(v, VECTOR_UD);
    if ((need & NEED_MMX) && (v->cr0 & CR0_EM))
        x86_raise(v, VECTOR_UD);
    uint64_t components = need & NEED_EVEX  ? XCR0_SSE | XCR0_AVX | XCR0_AVX512
                          : need & NEED_VEX ? XCR0_SSE | XCR0_AVX
                                            : 0;
    if (components && (!(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & components) != components))
        x86_raise(v, VECTOR_UD);
    if ((need & NEED_X87) && (v->cr0 & CR0_EM))
        x86_raise(v, VECTOR_NM);
    if (need & NEED_FWAIT) {
        if ((v->cr0 & (CR0_TS | CR0_MP)) == (CR0_TS | CR0_MP))
            x86_raise(v, VECTOR_NM);
    } else if (need && (v->cr0 & CR0_TS)) {
        x86_raise(v, VECTOR_NM);
    }
    if (need & NEED_NOTHING_PENDING)
        check_pending(v);
}

void copy_check_enabled(struct vcpu *v, uint8_t need)
{
    if (need == NEED_SSE && !(v->cr0 & (CR0_EM | CR0_TS)) && (v->cr4 & CR4_OSFXSR))
        return;
    if (need)
        check_rare(v, need);
}

/* The instruction trapped on the host: nothing has changed but MXCSR, and MMX has been entered
 * where an MMX register is an operand. */
static _Noreturn void raise_trap(struct vcpu *v, const struct copy_code *c)
{
    bool mmx_operand = !(c->key.plan.memory && c->key.plan.vectors);
    if ((c->key.need & NEED_MMX) && mmx_operand) {
        copy_enter_mmx(&v->vector);
        v->vector.ftw = 0xff;
    }
    bool simd = trapped == SIGFPE && (v->cr4 & CR4_OSXMMEXCPT);
    x86_raise(v, simd ? VECTOR_XM : VECTOR_UD);
}

static inline uint64_t call_stub(struct vcpu *v, const struct copy_code *c, void *memory)
{
    uint64_t flags = (v->rflags & FLAGS_ARITHMETIC) | FLAG_ONE;
    running = c;
    atomic_signal_fence(memory_order_seq_cst);
    uint64_t after = c->stub(v, memory, flags);
    atomic_signal_fence(memory_order_seq_cst);
    running = NULL;
    return after;
}

bool copy_trial(struct vcpu *scratch, const struct copy_code *c)
{
    x86_vector_reset(&scratch->vector);
    scratch->vector.xsave_header[0] = XCR0_X87;
    return call_stub(scratch, c, scratch->vector.scratch) != 0;
}

static void run_stub(struct vcpu *v, const struct copy_code *c, void *memory)
{
    const struct encode_plan *p = &c->key.plan;
    uint64_t after = call_stub(v, c, memory);
    if (X86_UNLIKELY(!after))
        raise_trap(v, c);
    if (p->flags_out)
        v->rflags = (v->rflags & ~(uint64_t)FLAGS_ARITHMETIC) | (after & FLAGS_ARITHMETIC);
}

static void run_x87_by_rule(struct vcpu *v, const struct copy_code *c, void *memory,
                            uint64_t offset)
{
    struct x86_vector *s = &v->vector;
    const struct copy_key *k = &c->key;
    uint64_t fip = s->fip, fdp = s->fdp;
    uint16_t fop = s->fop;
    run_stub(v, c, memory); /* returns with zeros, or the host's own */
    s->fip = k->pointers == POINTERS_SET ? v->rip : fip;
    s->fop = k->pointers == POINTERS_SET ? k->fop : fop;
    s->fdp = k->pointers == POINTERS_SET && k->memory.access != ACCESS_NONE ? offset : fdp;
    if (k->pointers == POINTERS_CLEARED)
        s->fip = s->fdp = s->fop = 0;
}

static void run_x87(struct vcpu *v, const struct copy_code *c, void *memory, uint64_t offset)
{
    struct x86_vector *s = &v->vector;
    s->xsave_header[0] = XCR0_X87;
    if (!host_processor.saves_pointers) {
        run_x87_by_rule(v, c, memory, offset);
        return;
    }
    if (!(c->key.need & (NEED_X87 | NEED_FWAIT))) {
        run_stub(v, c, memory);
        return;
    }
    uint64_t fip = s->fip, fdp = s->fdp;
    uint16_t fop = s->fop;
    s->fip = s->fdp = FIP_SENTINEL;
    s->fop = FOP_SENTINEL;
    run_stub(v, c, memory);
    bool initialised = s->fip == 0; /* FNINIT clears all three */
    if (initialised)
        return;
    s->fop = s->fop == FOP_SENTINEL ? fop : c->key.fop;
    s->fip = s->fip == FIP_SENTINEL ? fip : v->rip;
    s->fdp = s->fdp == FIP_SENTINEL ? fdp : offset;
}

static void run_with(struct vcpu *v, const struct copy_code *c, void *memory, uint64_t offset)
{
    if (c->key.plan.x87)
        run_x87(v, c, memory, offset);
    else
        run_stub(v, c, memory);
}

/* The guest's memory itself, when one page holds it and the TLB allows the access. */
static inline void *direct(struct vcpu *v, uint64_t linear, const struct copy_memory *m)
{
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, (enum tlb_reach)v->reach, linear);
    uint64_t tag = m->store ? e->write : e->read;
    if (X86_LIKELY(tag == tlb_tag(&v->tlb, linear) && (linear & 0xfff) + m->size <= 4096))
        return (void *)(e->addend + linear);
    return NULL;
}

static inline uint64_t linear_unchecked(const struct vcpu *v, const struct copy_memory *m,
                                        uint64_t offset)
{
    return v->code64 && m->segment < SEG_FS ? offset : offset + v->seg[m->segment].base;
}

/* #GP(0) by the instruction's own rule; before #AC. */
static inline void check_alignment(struct vcpu *v, const struct copy_memory *m, uint64_t offset)
{
    if (linear_unchecked(v, m, offset) & (m->alignment - 1u))
        x86_raise_gp0(v);
}

/* Page crossings, devices, masked operands with an absent page. A faulting access has changed
 * nothing, because loads come before and probes before stores. */
static void run_bounced(struct vcpu *v, const struct copy_code *c, uint64_t offset)
{
    const struct copy_memory *m = &c->key.memory;
    uint8_t *bounce = (uint8_t *)v->vector.scratch;
    memset(bounce, 0, sizeof v->vector.scratch);
    uint64_t bytes = copy_active_bytes(v, m);
    if (m->size == M80) {
        copy_load_bytes(v, m->segment, offset, M80_LOW, bounce);
        copy_load_bytes(v, m->segment, offset, M80_HIGH, bounce);
    } else if (m->store)
        copy_probe_bytes(v, m->segment, offset, m->whole ? copy_whole_bytes(m) : bytes);
    else
        copy_load_bytes(v, m->segment, offset, bytes, bounce);
    run_with(v, c, bounce, offset);
    if (m->store)
        copy_store_bytes(v, m->segment, offset, bytes, bounce);
}

/* What #AC asks of a masked operand's address; 1 = nothing. */
static unsigned masked_alignment(const struct copy_memory *m)
{
    if (host_processor.aligns_vectors)
        return m->access == ACCESS_VECTOR ? 1 : m->element;
    return m->size <= sizeof(uint64_t) ? m->size : 1;
}

/* Masked operands: limits and canonical checks hold for the active elements only, alignment for the
 * whole if there is one. A TLB hit proves that the address is canonical. */
static void *find_masked(struct vcpu *v, const struct copy_memory *m, uint64_t offset)
{
    uint64_t linear = linear_unchecked(v, m, offset);
    if (X86_UNLIKELY((v->rflags & FLAG_AC) || m->alignment > 1) && copy_active_bytes(v, m)) {
        check_alignment(v, m, offset);
        copy_check_natural(v, linear, masked_alignment(m));
    }
    void *memory = v->code64 ? direct(v, linear, m) : NULL;
    if (!memory && host_processor.parts_in_order)
        copy_probe_elements(v, m, offset);
    else if (!memory)
        copy_check_bytes(v, m->segment, offset, copy_active_bytes(v, m), m->store);
    return memory;
}

/* A TLB hit proves that all of it is canonical; a limit may still cut it in 32-bit code. */
static void probe_first(struct vcpu *v, const struct copy_memory *m, uint64_t offset)
{
    if (v->code64 && direct(v, linear_unchecked(v, m, offset), m))
        return;
    uint64_t linear = copy_linear(v, m->segment, offset, m->first, m->store);
    copy_check_natural(v, linear, m->size);
    tlb_probe(v, (enum tlb_reach)v->reach, linear, m->first, m->store);
}

static void *find_plain(struct vcpu *v, const struct copy_memory *m, uint64_t offset)
{
    check_alignment(v, m, offset);
    if (X86_UNLIKELY(m->first))
        probe_first(v, m, offset);
    unsigned first = m->size == M80 && v->code64 ? M80_LOW_BYTES : m->size;
    uint64_t linear = copy_linear(v, m->segment, offset, first, m->store);
    if (X86_UNLIKELY(v->rflags & FLAG_AC))
        copy_check_natural(v, linear, m->size);
    void *memory = direct(v, linear, m);
    if (memory || (linear & 0xfff) + m->size > 4096)
        return memory;
    tlb_probe(v, (enum tlb_reach)v->reach, linear, m->size, m->store);
    return direct(v, linear, m);
}

static void *find_memory(struct vcpu *v, const struct copy_memory *m, uint64_t offset)
{
    return m->access == ACCESS_PLAIN || m->whole ? find_plain(v, m, offset)
                                                 : find_masked(v, m, offset);
}

static void probe_store(struct vcpu *v, const struct copy_memory *m, uint64_t offset)
{
    if (find_memory(v, m, offset))
        return;
    if (m->size == M80) {
        copy_probe_bytes(v, m->segment, offset, M80_LOW);
        copy_probe_bytes(v, m->segment, offset, M80_HIGH);
    } else {
        copy_probe_bytes(v, m->segment, offset, copy_active_bytes(v, m));
    }
}

/* An unmasked exception found before the store leaves memory alone (SDM 1, 8.5): then a page that
 * is absent must not fault, unless the processor looks at it before. So the result comes first
 * here, and the state after it takes effect when the store is known to succeed. */
static void run_x87_store(struct vcpu *v, const struct copy_code *c, uint64_t offset)
{
    const struct copy_memory *m = &c->key.memory;
    uint8_t *bounce = (uint8_t *)v->vector.scratch;
    uint8_t before[X87_BYTES], after[X87_BYTES];
    if (host_processor.stores_fault_first)
        probe_store(v, m, offset);
    memcpy(before, &v->vector, X87_BYTES);
    run_x87(v, c, bounce, offset);
    unsigned unmasked = v->vector.fsw & ~v->vector.fcw & FSW_EXCEPTIONS;
    if (unmasked & ~FSW_PE)
        return;
    memcpy(after, &v->vector, X87_BYTES);
    memcpy(&v->vector, before, X87_BYTES);
    copy_check_natural(v, linear_unchecked(v, m, offset), m->size);
    if (m->size == M80) {
        copy_store_bytes(v, m->segment, offset, M80_LOW, bounce);
        copy_store_bytes(v, m->segment, offset, M80_HIGH, bounce);
    } else {
        copy_store_bytes(v, m->segment, offset, copy_whole_bytes(m), bounce);
    }
    memcpy(&v->vector, after, X87_BYTES);
}

/* VCVTPS2PH: its SIMD exceptions come before any of the store, and MXCSR has its flags even when
 * the store faults; or the store's faults come first. */
static void run_converting_store(struct vcpu *v, const struct copy_code *c, uint64_t offset)
{
    const struct copy_memory *m = &c->key.memory;
    uint8_t *bounce = (uint8_t *)v->vector.scratch;
    if (host_processor.stores_fault_first)
        probe_store(v, m, offset);
    memset(bounce, 0, sizeof v->vector.scratch);
    run_with(v, c, bounce, offset);
    find_memory(v, m, offset); /* for what it raises */
    copy_store_bytes(v, m->segment, offset, copy_active_bytes(v, m), bounce);
}

void copy_run(struct vcpu *v, const struct copy_code *c, uint64_t effective_address)
{
    const struct copy_memory *m = &c->key.memory;
    if (X86_UNLIKELY(c->undefined))
        x86_raise(v, VECTOR_UD);
    copy_check_enabled(v, c->key.need);
    if (c->hand) {
        c->hand(v, c, effective_address);
        return;
    }
    if (m->access == ACCESS_NONE) {
        run_with(v, c, NULL, 0);
        return;
    }
    bool faults_first = host_processor.stores_fault_first;
    if ((c->key.need & NEED_MMX) && m->store && !faults_first)
        copy_enter_mmx(&v->vector);
    if ((c->key.need & NEED_X87) && m->store && (c->key.need & NEED_NOTHING_PENDING) &&
        (~v->vector.fcw & FSW_EXCEPTIONS)) {
        run_x87_store(v, c, effective_address);
        return;
    }
    if (m->store && c->key.plan.mxcsr) {
        run_converting_store(v, c, effective_address);
        return;
    }
    void *memory = find_memory(v, m, effective_address);
    if (X86_LIKELY(memory != NULL))
        run_with(v, c, memory, effective_address);
    else if (m->store && m->size == M80)
        run_x87_store(v, c, effective_address);
    else
        run_bounced(v, c, effective_address);
}
