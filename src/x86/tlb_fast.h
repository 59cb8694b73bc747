/* SPDX-License-Identifier: MIT */
/* What tlb.c does to the entries and slots that machine code looks into; see tlb.h. */
#ifndef DOPPEL_X86_TLB_FAST_H
#define DOPPEL_X86_TLB_FAST_H

#include "x86/tlb.h"

void tlb_fast_init(struct tlb *t);
void tlb_fast_enter(struct tlb *t, enum tlb_reach reach, uint64_t linear, bool write,
                    uintptr_t addend, bool global);
/* All; all but those of global pages; the 4 KiB page of `linear`; writes to the host page. */
void tlb_fast_flush(struct tlb *t);
void tlb_fast_leave_space(struct tlb *t);
void tlb_fast_forget_page(struct tlb *t, uint64_t linear);
void tlb_fast_protect(struct tlb *t, const uint8_t *host_page);

#endif
