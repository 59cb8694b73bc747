/* SPDX-License-Identifier: MIT */
/* KVM's hypercalls (Linux, Documentation/virt/kvm/x86/hypercalls.rst), by VMCALL or VMMCALL: number
 * in RAX, arguments in RBX, RCX, RDX, RSI, of 32 bits each outside 64-bit mode. On the vCPU's
 * thread; the guest controls all. */
#include "x86/vcpu.h"

#define HYPERCALL_SEND_IPI 10u
#define HYPERCALL_EPERM    1
#define HYPERCALL_ENOSYS   1000

int64_t x86_hypercall(struct vcpu *v)
{
    uint64_t mask = v->code64 ? UINT64_MAX : UINT32_MAX;
    uint64_t who[2] = {v->gpr[RBX] & mask, v->gpr[RCX] & mask};

    if (v->cpl != 0)
        return -HYPERCALL_EPERM;
    if ((v->gpr[RAX] & mask) != HYPERCALL_SEND_IPI || v->irq == NULL || v->irq->send_ipis == NULL)
        return -HYPERCALL_ENOSYS;
    return v->irq->send_ipis(v->irq_context, who, v->code64 ? 64 : 32, v->gpr[RDX] & mask,
                             v->gpr[RSI] & mask);
}
