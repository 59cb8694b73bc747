/* SPDX-License-Identifier: MIT */
/* The process's controlling terminal: raw mode and back. A terminal belongs to the process, not to
 * a VM, hence the one static state here. */
#ifndef DOPPEL_BACKEND_TERMINAL_H
#define DOPPEL_BACKEND_TERMINAL_H

#include "base/error.h"

/* Makes fd raw, but for output processing, so that doppel's own lines look right. */
int terminal_raw(int fd, struct error *e);
/* Back to what it was; does nothing when not raw. Async-signal-safe, any thread. */
void terminal_restore(void);

#endif
