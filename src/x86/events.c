/* SPDX-License-Identifier: MIT */
/* Events between instructions, by the priorities of SDM 3A table 6-2: INIT and SIPI, debug traps of
 * the instruction before, NMI, external interrupts. The vCPU's own thread; requests are set by any.
 */
#include "engine/gate.h"
#include "x86/descriptor.h"

static void take_init(struct vcpu *v)
{
    vcpu_request_clear(v, VCPU_REQUEST_INIT);
    gate_taken(v, VCPU_REQUEST_INIT);
    if (v->irq)
        v->irq->init(v->irq_context);
    vcpu_init_signal(v); /* the bootstrap processor stays active (SDM 3A 8.4.2) */
}

/* A SIPI means something only after INIT (SDM 3A 8.4.3). */
static bool take_sipi(struct vcpu *v)
{
    vcpu_request_clear(v, VCPU_REQUEST_SIPI);
    if (v->activity != VCPU_WAIT_FOR_SIPI || !v->irq)
        return false;
    gate_taken(v, VCPU_REQUEST_SIPI);
    uint8_t vector = v->irq->sipi_vector(v->irq_context);
    v->seg[SEG_CS].selector = (uint16_t)(vector << 8);
    v->seg[SEG_CS].base = (uint64_t)vector << 12;
    v->rip = 0;
    v->activity = VCPU_ACTIVE;
    vcpu_update_mode(v);
    return true;
}

static void take_debug_trap(struct vcpu *v)
{
    v->fault.vector = VECTOR_DB;
    v->fault.has_error = false;
    v->fault.dr6 = v->debug_pending;
    v->debug_pending = 0;
    x86_deliver_fault(v);
}

static void take_nmi(struct vcpu *v)
{
    uint32_t before = atomic_fetch_and(&v->requests, ~(VCPU_REQUEST_NMI | VCPU_REQUEST_NMI_NEXT));
    if (before & VCPU_REQUEST_NMI_NEXT)
        vcpu_request_nmi(v);
    gate_taken(v, VCPU_REQUEST_NMI);
    v->nmi_blocked = true;
    v->counters.exits[EXIT_NMI]++;
    x86_deliver_interrupt(v, VECTOR_NMI);
}

static void take_interrupt(struct vcpu *v)
{
    int vector = gate_acknowledge(v);
    if (vector < 0) /* it has gone: the controller lowers the request */
        return;
    v->counters.exits[EXIT_INTERRUPT]++;
    if (v->platform->paravirt != NULL)
        v->platform->paravirt->interrupt(v->platform->paravirt_context, v);
    x86_deliver_interrupt(v, (uint8_t)vector);
}

/* At most one; MOV SS holds debug traps, NMIs and interrupts, STI the latter two (SDM 2B STI: NMIs
 * may also be inhibited; then a handler never returns to the HLT of STI, HLT). */
static void take_one(struct vcpu *v)
{
    bool after_mov_ss = v->interrupt_shadow && v->shadow_blocks_debug;
    uint32_t requests = vcpu_requests(v);
    if (requests & VCPU_REQUEST_INIT) {
        take_init(v);
        return;
    }
    if ((requests & VCPU_REQUEST_SIPI) && take_sipi(v))
        return;
    if (v->activity == VCPU_WAIT_FOR_SIPI)
        return;
    if (v->debug_pending && !after_mov_ss) {
        take_debug_trap(v);
        return;
    }
    if ((requests & VCPU_REQUEST_NMI) && !v->nmi_blocked && !v->interrupt_shadow) {
        take_nmi(v);
        return;
    }
    if ((requests & VCPU_REQUEST_INTR) && (v->rflags & FLAG_IF) && !v->interrupt_shadow)
        take_interrupt(v);
}

enum exit_reason x86_take_events(struct vcpu *v)
{
    if (v->activity == VCPU_SHUTDOWN)
        return EXIT_SHUTDOWN;
    if (vcpu_requests(v) & VCPU_REQUEST_A20) {
        vcpu_take_a20(v);
        tlb_flush_all(v);
    }
    if (vcpu_requests(v) & VCPU_REQUEST_STOP)
        return EXIT_REQUEST;
    take_one(v);
    switch (v->activity) {
    case VCPU_SHUTDOWN:
        return EXIT_SHUTDOWN;
    case VCPU_HALTED:
    case VCPU_WAIT_FOR_SIPI:
        return EXIT_HLT;
    default:
        return EXIT_NONE;
    }
}
