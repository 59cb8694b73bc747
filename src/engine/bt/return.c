/* SPDX-License-Identifier: MIT */
/*
 * Calls and returns. A guest's CALL becomes a CALL of the host's, and its RET a RET, so that the
 * host's processor predicts it. The host's return address leads to the place behind the CALL, which
 * compares the guest's own return address (S0) with the one that belongs there: when they agree, as
 * they nearly always do, the code goes on by a linked jump; else by a look-up.
 *
 * The return stack is a hint, and always safe to be used. What it holds is only ever addresses of
 * code that was entered under the mappings and the mode of now: there is one for each reach, and
 * bt_refresh empties them when mappings, units or the class of vector state have changed. A CALL
 * that finds it full empties it too. At its first place lies the address of a stub that looks up
 * what was not called here. Signals of the host use it too, below rsp.
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
    const size_t all = TLB_FAST_REACHES * SIZE;
    uint8_t *p = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bool good = p != MAP_FAILED;
    for (unsigned reach = 0; good && reach < TLB_FAST_REACHES; reach++) {
        uint8_t *one = p + reach * SIZE;
        good = mprotect(one + GUARD, SIZE - GUARD, PROT_READ | PROT_WRITE) == 0;
        l->return_stacks[reach].base = (uintptr_t)one + SIZE - 64;
        l->return_stacks[reach].limit = (uintptr_t)one + GUARD + SIGNALS;
    }
    if (!good) {
        int err = errno;
        if (p != MAP_FAILED)
            munmap(p, all);
        return error_set(e, err, "engine bt: no memory for a return stack: %s", strerror(err));
    }
    l->return_memory = p;
    return 0;
}

void bt_returns_destroy(struct bt_local *l)
{
    if (l->return_memory != NULL)
        munmap(l->return_memory, TLB_FAST_REACHES * SIZE);
    l->return_memory = NULL;
}

static void load(struct bt_local *l, unsigned reach)
{
    l->return_reach = (uint8_t)reach;
    l->returns = l->return_stacks[reach].top;
}

void bt_returns_forget(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    for (unsigned reach = 0; reach < TLB_FAST_REACHES; reach++) {
        const uint8_t *stub = bt_exec(l->vm, l->vm->stubs.underflow[reach]);
        memcpy((void *)l->return_stacks[reach].base, &stub, sizeof(stub));
        l->return_stacks[reach].top = l->return_stacks[reach].base;
    }
    load(l, l->return_reach);
}

void bt_returns_choose(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    if (l->return_reach == v->reach)
        return;
    l->return_stacks[l->return_reach].top = l->returns;
    load(l, v->reach);
}
