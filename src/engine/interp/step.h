/* SPDX-License-Identifier: MIT */
/*
 * The reference engine as a part of another one: the only header of this folder that another engine
 * may include (decision 6). The other engine creates it by engine_interp.vm_init and vcpu_init for
 * the same VM and vCPUs; v->engine_state is the interpreter's.
 *
 * Threads: all on the vCPU's own thread. What "raises" jumps to v->unwind, the caller's to set.
 */
#ifndef DOPPEL_ENGINE_INTERP_STEP_H
#define DOPPEL_ENGINE_INTERP_STEP_H

#include "x86/insn.h"

/* Executes the instruction at v->rip (a REP: until done, a request or the limit), delivering its
 * exception if it raises. v was given to engine_interp.vcpu_init. */
enum exit_reason interp_step(struct vcpu *v);

/* ---- within another engine's run ---- */

/* Around its run: the vCPUs wait for each other by sync.h's rules. */
void interp_enter(struct vcpu *v);
void interp_leave(struct vcpu *v);

/* At an instruction boundary: serves code requests, then events as x86_take_events. */
enum exit_reason interp_boundary(struct vcpu *v);
/* Whether the next instruction must be run by itself: TF, RF, breakpoints, interrupt shadow. */
bool interp_needs_attention(const struct vcpu *v);
/* One instruction. Raises; then interp_fault delivers. May wait for other vCPUs before it. */
void interp_execute(struct vcpu *v);
/* Many: until a request, or about `instructions` have retired. Raises. */
void interp_execute_some(struct vcpu *v, uint64_t instructions);
/* After a raise was caught in the caller's frame. */
void interp_fault(struct vcpu *v);

/* The handler of a decoded instruction if it works on registers, memory and the gate alone,
 * touching no vector state of the host; NULL for others. It raises. Returns with v->rip moved. */
insn_exec interp_handler(struct insn *i, const struct insn_full *full);

/* The page (its host address too) is about to be read as code: from now on every write to it is
 * told to the listener. Other vCPUs may run meanwhile, and the caller be quiet (sync.h). */
void interp_mark_code(struct vcpu *v, gpa_t page, const uint8_t *host);
/* Told of each write to a page marked as code, with the lock held that orders it against
 * interp_lock_code; on any thread. One listener. */
void interp_listen(void *interp_vm, void (*code_written)(void *context, gpa_t page), void *context);
void interp_lock_code(void *interp_vm);
void interp_unlock_code(void *interp_vm);

/* The other vCPUs are out of guest code from begin to end. */
void interp_exclusive_begin(struct vcpu *v);
void interp_exclusive_end(struct vcpu *v);

#endif
