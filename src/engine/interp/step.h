/* SPDX-License-Identifier: MIT */
/* Execute one instruction by the reference engine: the only header of this folder that another
 * engine may include (decision 6). */
#ifndef DOPPEL_ENGINE_INTERP_STEP_H
#define DOPPEL_ENGINE_INTERP_STEP_H

#include "x86/vcpu.h"

/* Executes the instruction at v->rip (a REP: until done, a request or the limit), delivering its
 * exception if it raises. v was given to engine_interp.vcpu_init. */
enum exit_reason interp_step(struct vcpu *v);

#endif
