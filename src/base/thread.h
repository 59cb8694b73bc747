/* SPDX-License-Identifier: MIT */
/* How the host schedules a thread. */
#ifndef DOPPEL_BASE_THREAD_H
#define DOPPEL_BASE_THREAD_H

/*
 * The calling thread sleeps much and is waited for: it is to run soon after it is woken, also on a
 * busy host. No right is needed, and its share of the processor stays the same: the host is asked
 * for a short time slice, which Linux (6.12 and later; EEVDF) answers by an earlier turn. What the
 * host does not know is left as it was.
 */
void thread_prompt(void);

#endif
