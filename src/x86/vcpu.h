/* SPDX-License-Identifier: MIT */
/*
 * The virtual processor: architectural state and the hooks through which it reaches the machine.
 * No opinion on how it is run: every engine works on this struct (decision 14: outside run() it is
 * authoritative for the register groups marked valid).
 *
 * Threads: only the vCPU's own thread touches the struct, but for `requests`, which anybody may
 * set through vcpu_request.
 *
 * Software exceptions: x86_raise never returns; it records the exception and jumps to the frame
 * that the engine has put in `unwind`. Nothing architectural may have been changed before an access
 * that can raise (precise faults); no lock is held across one.
 */
#ifndef DOPPEL_X86_VCPU_H
#define DOPPEL_X86_VCPU_H

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/field.h"
#include "mem/mem.h"
#include "x86/regs.h"
#include "x86/tlb.h"
#include "x86/vector.h"

struct bus;
struct vm_clock;
struct gate_ops;
struct engine_config;
struct cpuid_model;
struct msr_table;
struct vcpu;

struct x86_segment {
    uint16_t selector;
    uint32_t attributes; /* ATTR_… */
    uint32_t limit;      /* in bytes, G applied */
    uint64_t base;
};

struct x86_table_register { /* GDTR, IDTR */
    uint64_t base;
    uint16_t limit;
};

/* What waits for the vCPU; acted on at the next instruction boundary. */
enum vcpu_request_bit {
    VCPU_REQUEST_INTR = 1 << 0, /* the interrupt controller has a vector for it (a level) */
    VCPU_REQUEST_NMI = 1 << 1,  /* an edge, cleared when taken; vcpu_request_nmi */
    VCPU_REQUEST_INIT = 1 << 2,
    VCPU_REQUEST_SIPI = 1 << 3,
    VCPU_REQUEST_STOP = 1 << 4,      /* leave run() with EXIT_REQUEST */
    VCPU_REQUEST_CODE = 1 << 5,      /* code pages were written by others; see tlb.h/engine */
    VCPU_REQUEST_LIMIT = 1 << 6,     /* the instruction limit of run() may have moved closer */
    VCPU_REQUEST_NMI_NEXT = 1 << 7,  /* another NMI behind REQUEST_NMI: vcpu_request_nmi */
    VCPU_REQUEST_A20 = 1 << 8,       /* platform->a20_closed has changed */
    VCPU_REQUEST_SLEEPING = 1 << 30, /* only while in vcpu_wait: a request must wake it */
};

enum vcpu_activity { VCPU_ACTIVE, VCPU_HALTED, VCPU_WAIT_FOR_SIPI, VCPU_SHUTDOWN };

/* One vocabulary for all engines: why guest execution was left, or would have been in hardware.
 * Software engines serve most without unwinding, through the same counters. ORDER exit_names. */
enum exit_reason {
    EXIT_NONE, /* the instruction limit was reached */
    EXIT_REQUEST,
    EXIT_PIO,
    EXIT_MMIO,
    EXIT_MSR,
    EXIT_CPUID,
    EXIT_HLT,
    EXIT_HYPERCALL,
    EXIT_INTERRUPT_WINDOW,
    EXIT_INTERRUPT, /* an external interrupt was delivered */
    EXIT_NMI,
    EXIT_EXCEPTION, /* an exception was delivered to the guest */
    EXIT_CR,
    EXIT_DR,
    EXIT_RDTSC,
    EXIT_INVLPG,
    EXIT_PAUSE,
    EXIT_ROM_WRITE,
    EXIT_UNSUPPORTED, /* an instruction the engine does not have: #UD, counted by name */
    EXIT_SHUTDOWN,    /* triple fault */
    EXIT_ERROR,       /* the host failed the engine */
    EXIT_REASONS
};
extern const char *const exit_names[EXIT_REASONS];

struct vcpu_counters {
    uint64_t instructions; /* retired; a REP counts each iteration's unit once at its end */
    uint64_t exits[EXIT_REASONS];
    uint64_t exit_ns[EXIT_REASONS];
    uint64_t tlb_misses, tlb_flushes, page_walks, page_faults;
    uint64_t code_pages_decoded, code_pages_invalidated, instructions_decoded;
    uint64_t split_locks;
};

/* Hooks that the interrupt controller fills in at wiring time (decision 15). */
struct vcpu_irq_ops {
    /* The INTA cycle: the vector to deliver, or -1 when the interrupt has gone. */
    int (*acknowledge)(void *context);
    uint8_t (*cr8_read)(void *context);
    void (*cr8_write)(void *context, uint8_t tpr);
    /* INIT and SIPI were taken; returns the SIPI vector. */
    uint8_t (*sipi_vector)(void *context);
    void (*init)(void *context); /* local APIC's INIT reset */
    /* tsc_offset was changed (WRMSR TSC, TSC_ADJUST): a TSC deadline is another time now. */
    void (*tsc_moved)(void *context);
    /* IA32_APIC_BASE enables the local APIC: CPUID shows it. NULL = always. */
    bool (*apic_enabled)(void *context);
    /* KVM_HC_SEND_IPI: `icr` to the APIC IDs first + n for each bit n of who[0] (`width` bits),
     * then who[1]. How many took it, or -EINVAL. NULL = not offered. */
    int64_t (*send_ipis)(void *context, const uint64_t who[2], unsigned width, uint64_t first,
                         uint64_t icr);
};

/* Hooks of what the machine offers beside the processor (kvmclock, steal time), on v's thread. */
struct x86_paravirt_ops {
    void (*tsc_moved)(void *context, struct vcpu *v); /* as above */
    void (*interrupt)(void *context, struct vcpu *v); /* before an external one is delivered */
};

/* What the vCPUs of one VM share. Built at wiring time, and read-only while they run but for the
 * A20 gate. */
struct x86_platform {
    struct mem *mem;
    struct bus *bus;
    struct vm_clock *clock;
    const struct cpuid_model *cpuid;
    struct msr_table *msrs;
    const struct gate_ops *gate; /* engine/gate.h: the one gate of non-determinism */
    void *gate_context;
    const struct engine_config *engine_config; /* engine/engine.h, or NULL */
    uint8_t physical_address_bits;
    _Atomic bool a20_closed; /* who changes it posts VCPU_REQUEST_A20 to each vCPU */
    unsigned checks;         /* that the engine makes on itself: enum engine_check */
    const struct x86_paravirt_ops *paravirt; /* or NULL */
    void *paravirt_context;
};

#define X86_APIC_PAGE 0xfee00000ull /* the local APIC's after reset (SDM 3A 10.4.1) */

#define X86_A20 ((uint64_t)1 << 20)

#define VCPU_NAME_MAX        64
#define VCPU_UNSUPPORTED_MAX 16
#define VCPU_ENGINE_LOCAL    (832u << 10)

struct vcpu {
    /* Hot: the engines' inner loops. gpr first, so that a register operand is a byte offset. */
    uint64_t gpr[16];
    uint64_t rip;  /* of the instruction being executed, until it completes */
    uint64_t zero; /* always 0: the absent base or index of a memory operand (insn.h) */
    uint64_t rflags;
    uint64_t code_base;  /* CS.base; 0 in 64-bit mode; vcpu_update_mode */
    uint32_t code_limit; /* CS.limit outside 64-bit mode, as it was last */
    struct x86_segment seg[SEG_COUNT];
    uint8_t cpl;
    uint8_t reach;              /* enum tlb_reach of explicit data accesses; vcpu_update_mode */
    bool long_mode;             /* EFER.LMA */
    bool code64;                /* LMA and CS.L */
    uint8_t code_key;           /* what decoding depends on: CPL is 3, enum insn_mode << 1 */
    bool interrupt_shadow;      /* after STI or MOV/POP SS, until the next instruction has run */
    bool shadow_blocks_debug;   /* the shadow is of MOV/POP SS: #DB is held too (SDM 3A 6.8.3) */
    bool nmi_blocked;           /* until IRET */
    uint8_t activity;           /* enum vcpu_activity */
    _Atomic uint32_t requests;  /* enum vcpu_request_bit */
    uint64_t instruction_limit; /* run() returns EXIT_NONE at this count */

    uint64_t cr0, cr2, cr3, cr4;
    uint64_t dr[4], dr6, dr7;
    uint64_t efer, xcr0;
    struct x86_table_register gdtr, idtr;
    uint64_t pae_pdpte[4]; /* loaded by MOV CR3 under PAE paging (SDM 3A 4.4.1) */

    uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    uint64_t tsc_offset; /* guest TSC = clock_tsc + tsc_offset; moved by WRMSR TSC */
    uint64_t tsc_adjust, spec_ctrl, mcg_status;

    uint64_t debug_pending; /* DR6 bits of a trap to be taken after this instruction */

    struct x86_vector vector; /* and x87, between copied instructions */

    struct tlb tlb;

    /* Exception being raised, for the frame that catches it. */
    jmp_buf *unwind;
    struct {
        uint8_t vector;
        bool has_error;
        uint32_t error;
        uint64_t address; /* CR2 of a page fault; set into cr2 when delivered */
        uint64_t dr6;     /* of a debug exception */
    } fault;

    /* Wiring. */
    unsigned id; /* APIC ID */
    /* Where APIC_BASE has moved the local APIC's page, | 1; 0 = at X86_APIC_PAGE. The TLB is
     * flushed when it changes. */
    uint64_t apic_moved;
    /* The bits of physical addresses that are 0: the A20 gate as this vCPU has seen it last. The
     * TLB is flushed when it changes. */
    uint64_t a20_low;
    struct x86_platform *platform;
    const struct vcpu_irq_ops *irq;
    void *irq_context;
    void *engine_state; /* the engine's own, by engine->vcpu_init */
    /* The engine's own too, at a constant distance from the registers: for machine code that knows
     * one pointer. */
    _Alignas(64) uint8_t engine_local[VCPU_ENGINE_LOCAL];

    struct vcpu_counters counters;
    /* What the guest used and is not supported, by name (vcpu_count_unsupported). */
    char unsupported[VCPU_NAME_MAX]; /* the last one */
    struct vcpu_unsupported {
        char name[VCPU_NAME_MAX];
        uint64_t count;
    } unsupported_counts[VCPU_UNSUPPORTED_MAX]; /* the last row is for all that found none */
};

extern const struct field_table vcpu_state; /* saves all architectural state above */

/* Takes over the state of the A20 gate; on v's thread, or while it stands still. */
void vcpu_take_a20(struct vcpu *v);

/* All of power-up reset (SDM 3A table 9-1), or INIT, which keeps FPU, MTRRs and TSC. The boot
 * processor (id 0) is then active, others wait for SIPI. The wiring and the counters stay; the
 * local APIC's own INIT reset is the caller's. Before the first reset the struct is zero but for
 * its wiring. */
void vcpu_reset(struct vcpu *v);
void vcpu_init_signal(struct vcpu *v);

/* Recomputes what is derived from CR0, CR4, EFER, CS, SS, RFLAGS.AC and VM: long_mode, code64,
 * code_key, code_base, code_limit, reach. To be called after any of them changed. */
void vcpu_update_mode(struct vcpu *v);

/* Any thread: sets bits and wakes the vCPU if it sleeps in vcpu_wait. */
void vcpu_request(struct vcpu *v, uint32_t bits);
void vcpu_request_clear(struct vcpu *v, uint32_t bits);
/* Any thread: an NMI. While none is in service two are kept, for the first would have been taken
 * before the second came; behind one in service one is latched (SDM 3A 6.7.1). */
void vcpu_request_nmi(struct vcpu *v);
/* IRET. */
void vcpu_unblock_nmi(struct vcpu *v);
/* The vCPU's thread: sleeps until (requests & wanted) is not zero, at most timeout_ns. */
void vcpu_wait(struct vcpu *v, uint32_t wanted, uint64_t timeout_ns);

/* Exceptions; they do not return. */
_Noreturn void x86_raise(struct vcpu *v, uint8_t vector);                       /* no error code */
_Noreturn void x86_raise_error(struct vcpu *v, uint8_t vector, uint32_t error); /* with one */
_Noreturn void x86_raise_page_fault(struct vcpu *v, uint64_t address, uint32_t error);

_Noreturn static inline void x86_raise_gp0(struct vcpu *v)
{
    x86_raise_error(v, VECTOR_GP, 0);
}

/* Delivers v->fault (after the engine caught it) with the rules of double and triple fault
 * (SDM 3A 6.15, table 6-5): on return the vCPU stands at the handler, or `activity` is
 * VCPU_SHUTDOWN. v->rip is the faulting instruction (or the next, for traps). */
void x86_deliver_fault(struct vcpu *v);

/* Delivers an external interrupt or NMI. Faults met on the way are delivered as well. */
void x86_deliver_interrupt(struct vcpu *v, uint8_t vector);

/* INT n, INT3, INTO, INT1: with the DPL checks of software interrupts. next_rip is pushed. Raises
 * (so the caller unwinds) on faults in delivery. */
void x86_software_interrupt(struct vcpu *v, uint8_t vector, uint64_t next_rip, bool int1);

/* VMCALL, VMMCALL: what RAX becomes (hypercall.c). */
int64_t x86_hypercall(struct vcpu *v);

/* What run() does at an instruction boundary when `requests` or debug_pending is not zero: takes at
 * most one event by the priorities of SDM 3A 6.9. Returns EXIT_NONE to go on, or the reason to
 * leave run(). Uses v->unwind of its own. Single step is run()'s to see: when an instruction began
 * with TF set, it adds DR6_BS to debug_pending after it (the one that sets TF does not trap). */
enum exit_reason x86_take_events(struct vcpu *v);

/* Counts under EXIT_UNSUPPORTED and the name; true when the name is new. */
bool vcpu_count_unsupported(struct vcpu *v, const char *name);

/* The registers as a readable block of lines, for a guest that died (dump.c). */
void vcpu_dump(const struct vcpu *v, FILE *f);

static inline bool x86_canonical(const struct vcpu *v, uint64_t a)
{
    unsigned shift = (v->cr4 & CR4_LA57) ? 7 : 16;
    return (uint64_t)((int64_t)(a << shift) >> shift) == a;
}

/* The same for what is loaded into a register or an INVPCID descriptor rather than accessed: bases
 * of FS, GS, GDTR, IDTR, LDTR, TR and addresses in MSRs are held against the widest paging that the
 * processor has, not the current one. */
bool x86_canonical_register(const struct vcpu *v, uint64_t a);

static inline uint32_t vcpu_requests(const struct vcpu *v)
{
    return atomic_load_explicit(&v->requests, memory_order_relaxed);
}

#endif
