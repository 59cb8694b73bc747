/* SPDX-License-Identifier: MIT */
/*
 * Reset, requests and exceptions of the virtual processor; see vcpu.h. Only vcpu_request and
 * vcpu_request_clear may be called from any thread.
 */
#include "x86/vcpu.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "x86/cpuid.h"
#include "x86/insn.h"

#define PAT_RESET 0x0007040600070406ull /* SDM 3A 11.12.4 */
/* Fast strings; BTS and PEBS unavailable (SDM 4, IA32_MISC_ENABLE) */
#define MISC_ENABLE_RESET (1u << 0 | 1u << 11 | 1u << 12)
#define CR0_RESET         (CR0_CD | CR0_NW | CR0_ET)

#define NS_PER_SECOND 1000000000u

static const struct x86_segment data_at_reset = {.attributes = 0x93, .limit = 0xffff};

static void reset_segments(struct vcpu *v)
{
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        v->seg[i] = data_at_reset;
    v->seg[SEG_CS] = (struct x86_segment){
        .selector = 0xf000, .attributes = 0x9b, .limit = 0xffff, .base = 0xffff0000};
    v->seg[SEG_LDTR] = (struct x86_segment){.attributes = 0x82, .limit = 0xffff};
    v->seg[SEG_TR] = (struct x86_segment){.attributes = 0x8b, .limit = 0xffff};
    v->gdtr = v->idtr = (struct x86_table_register){.limit = 0xffff};
}

/* What power-up and INIT have in common. */
static void reset_common(struct vcpu *v)
{
    uint32_t signature[4] = {0};
    if (v->platform != NULL && v->platform->cpuid != NULL)
        cpuid_execute(v, 1, 0, signature);

    memset(v->gpr, 0, sizeof(v->gpr));
    v->gpr[RDX] = signature[0];
    v->rip = 0xfff0;
    v->rflags = FLAG_ONE;
    reset_segments(v);
    v->cpl = 0;
    v->interrupt_shadow = v->shadow_blocks_debug = v->nmi_blocked = false;
    v->activity = v->id == 0 ? VCPU_ACTIVE : VCPU_WAIT_FOR_SIPI;
    v->cr2 = v->cr3 = v->cr4 = 0;
    memset(v->dr, 0, sizeof(v->dr));
    memset(v->pae_pdpte, 0, sizeof(v->pae_pdpte));
    v->dr6 = DR6_FIXED;
    v->dr7 = DR7_FIXED;
    v->debug_pending = 0;
    v->efer = 0;
    vcpu_update_mode(v);
}

void vcpu_take_a20(struct vcpu *v)
{
    vcpu_request_clear(v,
                       VCPU_REQUEST_A20); /* before it is read: who changes it again asks again */
    v->a20_low = atomic_load(&v->platform->a20_closed) ? X86_A20 : 0;
}

void vcpu_reset(struct vcpu *v)
{
    v->cr0 = CR0_RESET;
    v->xcr0 = XCR0_X87;
    v->star = v->lstar = v->cstar = v->fmask = v->kernel_gs_base = v->tsc_aux = 0;
    v->sysenter_cs = v->sysenter_esp = v->sysenter_eip = 0;
    v->pat = PAT_RESET;
    v->misc_enable = MISC_ENABLE_RESET;
    v->mtrr_def_type = 0;
    memset(v->mtrr_fixed, 0, sizeof(v->mtrr_fixed));
    memset(v->mtrr_base, 0, sizeof(v->mtrr_base));
    memset(v->mtrr_mask, 0, sizeof(v->mtrr_mask));
    /* The guest's TSC goes on from the VM clock: were it put back to 0 here, vCPUs reset one after
     * the other would differ. */
    v->tsc_offset = v->tsc_adjust = 0;
    v->spec_ctrl = v->mcg_status = 0;
    x86_vector_reset(&v->vector);
    reset_common(v);
    vcpu_request_clear(v, VCPU_REQUEST_NMI | VCPU_REQUEST_NMI_NEXT | VCPU_REQUEST_INIT |
                              VCPU_REQUEST_SIPI);
    vcpu_take_a20(v);
    tlb_init(&v->tlb);
}

void vcpu_init_signal(struct vcpu *v)
{
    v->cr0 = (v->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
    reset_common(v);
    /* Not the SIPI: the sender need not wait, so it may have come while INIT was pending. */
    vcpu_request_clear(v, VCPU_REQUEST_NMI | VCPU_REQUEST_NMI_NEXT);
    tlb_flush_all(v);
}

static enum insn_mode code_mode(const struct vcpu *v)
{
    if (v->code64)
        return INSN_MODE_64;
    if (v->seg[SEG_CS].attributes & ATTR_DB)
        return INSN_MODE_32;
    return (v->cr0 & CR0_PE) && !(v->rflags & FLAG_VM) ? INSN_MODE_16 : INSN_MODE_REAL;
}

void vcpu_update_mode(struct vcpu *v)
{
    v->long_mode = (v->efer & EFER_LMA) != 0;
    v->code64 = v->long_mode && (v->seg[SEG_CS].attributes & ATTR_L);
    v->code_base = v->code64 ? 0 : v->seg[SEG_CS].base;
    if (!v->code64 && v->code_limit != v->seg[SEG_CS].limit) {
        v->code_limit = v->seg[SEG_CS].limit;
        v->tlb.fetch_generation++; /* what was found was checked against the old limit */
    }
    v->code_key = (uint8_t)((v->cpl == 3) | code_mode(v) << 1);
    if (v->cpl == 3)
        v->reach = (v->cr0 & CR0_AM) && (v->rflags & FLAG_AC) ? REACH_USER_ALIGNED : REACH_USER;
    else if ((v->cr4 & CR4_SMAP) && !(v->rflags & FLAG_AC))
        v->reach = REACH_SUPERVISOR;
    else
        v->reach = REACH_SUPERVISOR_AC;
}

static long futex(_Atomic uint32_t *word, int operation, uint32_t value,
                  const struct timespec *until)
{
    return syscall(SYS_futex, word, operation, value, until, NULL, FUTEX_BITSET_MATCH_ANY);
}

void vcpu_request(struct vcpu *v, uint32_t bits)
{
    if (atomic_fetch_or(&v->requests, bits) & VCPU_REQUEST_SLEEPING)
        futex(&v->requests, FUTEX_WAKE_PRIVATE, 1, NULL);
}

void vcpu_request_nmi(struct vcpu *v)
{
    uint32_t before = atomic_load(&v->requests), bit;
    do
        bit = before & VCPU_REQUEST_NMI ? VCPU_REQUEST_NMI_NEXT : VCPU_REQUEST_NMI;
    while (!atomic_compare_exchange_weak(&v->requests, &before, before | bit));
    if (before & VCPU_REQUEST_SLEEPING)
        futex(&v->requests, FUTEX_WAKE_PRIVATE, 1, NULL);
}

void vcpu_unblock_nmi(struct vcpu *v)
{
    if (v->nmi_blocked)
        vcpu_request_clear(v, VCPU_REQUEST_NMI_NEXT);
    v->nmi_blocked = false;
}

void vcpu_request_clear(struct vcpu *v, uint32_t bits)
{
    atomic_fetch_and(&v->requests, ~bits);
}

static bool deadline_after(uint64_t ns, struct timespec *until)
{
    if (ns == UINT64_MAX)
        return false;
    clock_gettime(CLOCK_MONOTONIC, until);
    uint64_t nsec = (uint64_t)until->tv_nsec + ns % NS_PER_SECOND;
    until->tv_sec += (time_t)(ns / NS_PER_SECOND + nsec / NS_PER_SECOND);
    until->tv_nsec = (long)(nsec % NS_PER_SECOND);
    return true;
}

void vcpu_wait(struct vcpu *v, uint32_t wanted, uint64_t timeout_ns)
{
    struct timespec until;
    bool limited = deadline_after(timeout_ns, &until);
    uint32_t now = atomic_fetch_or(&v->requests, VCPU_REQUEST_SLEEPING) | VCPU_REQUEST_SLEEPING;

    while (!(now & wanted)) {
        /* EAGAIN: a bit came in between; EINTR: a signal; both look again. */
        if (futex(&v->requests, FUTEX_WAIT_BITSET_PRIVATE, now, limited ? &until : NULL) != 0 &&
            errno == ETIMEDOUT)
            break;
        now = atomic_load(&v->requests);
    }
    vcpu_request_clear(v, VCPU_REQUEST_SLEEPING);
}

static _Noreturn void unwind(struct vcpu *v, uint8_t vector, bool has_error, uint32_t error)
{
    v->fault.vector = vector;
    v->fault.has_error = has_error;
    v->fault.error = error;
    longjmp(*v->unwind, 1);
}

void x86_raise(struct vcpu *v, uint8_t vector)
{
    unwind(v, vector, false, 0);
}

void x86_raise_error(struct vcpu *v, uint8_t vector, uint32_t error)
{
    unwind(v, vector, true, error);
}

void x86_raise_page_fault(struct vcpu *v, uint64_t address, uint32_t error)
{
    v->counters.page_faults++;
    v->fault.address = address;
    unwind(v, VECTOR_PF, true, error);
}

bool vcpu_count_unsupported(struct vcpu *v, const char *name)
{
    unsigned n = 0;
    while (n < VCPU_UNSUPPORTED_MAX - 1 && v->unsupported_counts[n].count != 0 &&
           strcmp(v->unsupported_counts[n].name, name) != 0)
        n++;
    struct vcpu_unsupported *row = &v->unsupported_counts[n];
    if (row->count == 0)
        snprintf(row->name, sizeof(row->name), "%s",
                 n < VCPU_UNSUPPORTED_MAX - 1 ? name : "others");
    snprintf(v->unsupported, sizeof(v->unsupported), "%s", name);
    v->counters.exits[EXIT_UNSUPPORTED]++;
    return row->count++ == 0;
}
