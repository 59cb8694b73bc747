/* SPDX-License-Identifier: MIT */
/* Segmentation and control transfer by the manual (SDM 3A chapters 3, 5, 6, 7). All raise. Guest
 * memory is reached through the implicit or explicit reach as the manual says. Checks of mode and
 * CPL are inside (#UD, #GP(0)); rip and rflags are committed here, the caller only counts. A
 * task switch saves next_rip as the old task's; what is wrong with the new task is raised with rip
 * in it. */
#ifndef DOPPEL_X86_SEGMENT_H
#define DOPPEL_X86_SEGMENT_H

#include "x86/vcpu.h"

/* MOV/POP Sreg, LDS … (not CS). Sets the interrupt shadow for SS only in the caller. */
void x86_load_segment(struct vcpu *v, enum x86_sreg sreg, uint16_t selector);
void x86_load_ldtr(struct vcpu *v, uint16_t selector);
void x86_load_tr(struct vcpu *v, uint16_t selector);

/* Far control transfers; size = operand size in bytes. next_rip = return address. They set rip. */
void x86_far_jump(struct vcpu *v, uint16_t selector, uint64_t offset, unsigned size,
                  uint64_t next_rip);
void x86_far_call(struct vcpu *v, uint16_t selector, uint64_t offset, unsigned size,
                  uint64_t next_rip);
void x86_far_return(struct vcpu *v, unsigned size, uint16_t pop_bytes);
void x86_iret(struct vcpu *v, unsigned size, uint64_t next_rip);
void x86_syscall(struct vcpu *v, uint64_t next_rip);
void x86_sysret(struct vcpu *v, unsigned size);
void x86_sysenter(struct vcpu *v);
void x86_sysexit(struct vcpu *v, unsigned size);

/* LAR, LSL, VERR, VERW: true (ZF) when the descriptor may be seen. */
bool x86_lar(struct vcpu *v, uint16_t selector, uint32_t *rights);
bool x86_lsl(struct vcpu *v, uint16_t selector, uint32_t *limit);
bool x86_verify(struct vcpu *v, uint16_t selector, bool write);

/* Linear address of offset in segment for an access of size bytes: outside 64-bit mode limit and
 * type checks, in it the canonical check; raises #GP(0), or #SS(0) for SS. write matters to the
 * type check. For SS-based addresses in 64-bit mode (RSP, RBP) pass SEG_SS. */
uint64_t x86_linear(struct vcpu *v, enum x86_sreg seg, uint64_t offset, unsigned size, bool write);

/* All of 4 GiB from its base on can be read and written. */
bool x86_is_whole(const struct x86_segment *s);
/* Outside 64-bit mode and real mode: CS, DS, ES and SS are whole (CS: can be read) with a base of
 * 0, and the stack is one of 32 bits. */
bool x86_is_flat(const struct vcpu *v);

/* IN/OUT/INS/OUTS at CPL > IOPL: the TSS I/O bitmap; raises #GP(0) (SDM 1 19.5.2). */
void x86_check_io(struct vcpu *v, uint16_t port, unsigned size);

/* After a port access: notes the I/O breakpoints it meets, under CR4.DE (SDM 3B 17.2.4). */
void x86_watch_io(struct vcpu *v, uint16_t port, unsigned size);

/* MOV to control and debug registers with every check; MOV from. cr 0,2,3,4,8; raises. */
void x86_write_cr(struct vcpu *v, unsigned cr, uint64_t value);
uint64_t x86_read_cr(struct vcpu *v, unsigned cr);
void x86_write_dr(struct vcpu *v, unsigned dr, uint64_t value);
uint64_t x86_read_dr(struct vcpu *v, unsigned dr);
void x86_lmsw(struct vcpu *v, uint16_t value);
void x86_xsetbv(struct vcpu *v, uint32_t index, uint64_t value);

#endif
