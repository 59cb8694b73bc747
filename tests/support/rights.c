/* SPDX-License-Identifier: MIT */
/* See rights.h. */
#include "rights.h"

bool rights_oracle(const struct question *q, uint32_t *code)
{
    bool present = true, reserved = false, all_write = true, all_user = true, any_xd = false;
    for (unsigned i = 0; i < q->count && present && !reserved; i++) {
        const struct rights *r = &q->levels[i];
        present = r->present;
        reserved = present && r->xd && !q->nxe;
        all_write = all_write && r->write;
        all_user = all_user && r->user;
        any_xd = any_xd || r->xd;
    }
    bool allowed = true;
    if (q->user && !all_user)
        allowed = false;
    if (!q->user && all_user && q->access == MMU_FETCH && q->smep)
        allowed = false;
    if (!q->user && all_user && q->access != MMU_FETCH && q->smap && !q->ac)
        allowed = false;
    if (q->access == MMU_WRITE && !all_write && (q->user || q->wp))
        allowed = false;
    if (q->access == MMU_FETCH && any_xd)
        allowed = false;
    *code = 0;
    if (present && !reserved && allowed)
        return true;
    if (present)
        *code |= 1;
    if (q->access == MMU_WRITE)
        *code |= 2;
    if (q->user)
        *code |= 4;
    if (reserved)
        *code |= 8;
    if (q->access == MMU_FETCH && (q->nxe || q->smep))
        *code |= 16;
    return false;
}

void rights_set_controls(struct vcpu *v, const struct question *q)
{
    v->cr0 = (v->cr0 & ~(uint64_t)CR0_WP) | (q->wp ? CR0_WP : 0);
    v->cr4 = (v->cr4 & ~(uint64_t)(CR4_SMEP | CR4_SMAP)) | (q->smep ? CR4_SMEP : 0) |
             (q->smap ? CR4_SMAP : 0);
    v->efer = (v->efer & ~(uint64_t)EFER_NXE) | (q->nxe ? EFER_NXE : 0);
}
