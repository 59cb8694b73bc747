/* SPDX-License-Identifier: MIT */
/*
 * Where the vCPU threads of one VM must wait for each other (decisions 8 and 9). Each is either in
 * guest code or *quiet*: outside run, or waiting here. A quiet thread holds no record, touches no
 * guest memory and no TLB, and looks at its requests before it goes on.
 *
 *  - Protect: a page is about to be decoded. Every other vCPU must have dropped its fast write tag
 *    of it, or be quiet, before the bytes are read; from then on writers come through mem's
 *    listener.
 *  - Exclusive: all others are quiet. For LOCK on an operand that no host LOCK can serve (across
 *    pages, on a device), and for what throws away shared code.
 *
 * Nobody waits while not quiet for somebody who does: a thread that waits is quiet itself.
 */
#ifndef DOPPEL_ENGINE_INTERP_SYNC_H
#define DOPPEL_ENGINE_INTERP_SYNC_H

#include "engine/interp/interp.h"

/* Around run(): a vCPU's thread begins and ends guest execution. */
void sync_enter_guest(struct interp *t);
void sync_leave_guest(struct interp *t);

/* At an instruction boundary with VCPU_REQUEST_CODE: waits while another is exclusive. */
void sync_pause(struct interp *t);

/* No other vCPU of the VM writes `page` without the listener knowing, on return. Between
 * instructions only: the thread is quiet meanwhile. */
void sync_protect(struct interp *t, gpa_t page);
/* Serves what sync_protect of others asks of this vCPU; from code_reclaim. */
void sync_serve_protect(struct interp *t);

/* The others are quiet from begin to end. May be called within an instruction. */
void sync_exclusive_begin(struct interp *t);
void sync_exclusive_end(struct interp *t);

#endif
