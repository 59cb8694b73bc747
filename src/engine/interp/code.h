/* SPDX-License-Identifier: MIT */
/* Decoded pages and the look-up of records by RIP; see code.c. */
#ifndef DOPPEL_ENGINE_INTERP_CODE_H
#define DOPPEL_ENGINE_INTERP_CODE_H

#include "engine/gate.h"
#include "engine/interp/interp.h"

int code_cache_create(struct code_cache **out);
void code_cache_destroy(struct code_cache *c);

/* The record at v->rip; decodes as needed. NULL when VCPU_REQUEST_CODE must be served first. Raises
 * #PF, #GP. */
const struct insn *code_find(struct vcpu *v);
/* The same without keeping it: code outside RAM. */
const struct insn *code_uncached(struct vcpu *v);

/* Before a page is read as code: no vCPU writes it any more without the listener knowing. Between
 * instructions; the thread may be quiet meanwhile. */
void code_mark(struct interp *t, gpa_t page, const uint8_t *host);

/* `page` was written and must not run from its records again: on the vCPU's own thread, at once;
 * from any other thread, at the next poll. */
void code_page_written(struct interp *t, gpa_t page);
void code_page_post(struct interp *t, gpa_t page);

/* Serves VCPU_REQUEST_CODE: takes what was posted, frees what is dead, and makes room
 * for copied instructions when their cache is full. Between instructions. */
void code_reclaim(struct interp *t);

#endif
