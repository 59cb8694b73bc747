/* SPDX-License-Identifier: MIT */
/*
 * Calls and returns. A guest's CALL becomes a CALL of the host's, and its RET a RET, so that the
 * host's processor predicts it. The host's return address leads to the place behind the CALL, which
 * compares the guest's own return address (S0) with the one that belongs there: when they agree, as
 * they nearly always do, the code goes on by a linked jump; else by a look-up.
 *
 * The return stack is a hint, and always safe to be used. What it holds is only ever addresses of
 * code that was entered under the mappings and the mode of now: C code that does not go back to the
 * very place it was called from empties it (bt_returns_forget), and so does a CALL that finds it
 * full. At its first place lies the address of a stub that looks up what was not called here.
 * Signals of the host use it too, below rsp.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define GUARD   4096u
#define SIGNALS (128u << 10) /* below the last place, for the host's signal handlers */
#define RETURNS (64u << 10)
#define SIZE    (GUARD + SIGNALS + RETURNS)

int bt_returns_create(struct bt_local *l, struct error *e)
{
    uint8_t *p = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p + GUARD, SIZE - GUARD, PROT_READ | PROT_WRITE) != 0) {
        int err = errno;
        if (p != MAP_FAILED)
            munmap(p, SIZE);
        return error_set(e, err, "engine bt: no memory for a return stack: %s", strerror(err));
    }
    l->return_stack = p;
    l->returns_limit = (uintptr_t)p + GUARD + SIGNALS;
    l->returns_base = (uintptr_t)p + SIZE - 64;
    return 0;
}

void bt_returns_destroy(struct bt_local *l)
{
    if (l->return_stack != NULL)
        munmap(l->return_stack, SIZE);
    l->return_stack = NULL;
}

void bt_returns_forget(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    const uint8_t *stub = bt_exec(l->vm, l->vm->stubs.underflow[v->reach]);
    memcpy((void *)l->returns_base, &stub, sizeof(stub));
    l->returns = l->returns_base;
}
