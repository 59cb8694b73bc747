/* SPDX-License-Identifier: MIT */
/*
 * Units that are wanted at another linear address. The linear address is a constant of the code, so
 * a library or a position-independent program, which every process maps elsewhere, would be
 * translated again for each. Instead the units that the last processes left behind are moved: of
 * all their bytes a few depend on where they are.
 *
 * A page is moved when no vCPU has a way into it: each has changed its mappings since it was there
 * (bt_page.entered), and so forgotten what it knew. That it was so many times ago keeps processes
 * that take turns from taking each other's units. Jumps within the page stay linked. Those from and
 * to other pages do not, for these may not follow.
 */
#include "engine/bt/bt.h"

#include "engine/bt/emit.h"
#include "engine/interp/step.h"

#define AGE 8u /* changes of mappings */

/* What lies within 4 GiB is user's and canonical with 48 bits, and too large for 32 bits: all of
 * the unit's linear addresses are 8 bytes in its code, here and there. */
bool bt_may_move(uint64_t rip)
{
    uint64_t margin = (uint64_t)8 << 30;
    return rip >= margin && rip < ((uint64_t)1 << 47) - margin;
}

static bool has_left(const struct bt_vm *vm, const struct bt_page *p, unsigned n)
{
    return vm->vcpus[n] == NULL || bt_local(vm->vcpus[n])->fetch_generation - p->entered[n] >= AGE;
}

static bool all_have_left(const struct bt_vm *vm, const struct bt_page *p)
{
    unsigned n = 0;
    while (n < vm->vcpu_count && has_left(vm, p, n))
        n++;
    return n == vm->vcpu_count;
}

/* One that vCPU number n has left and that may be moved there; NULL: none, or there is one. */
static struct bt_page *to_move(struct bt_vm *vm, uint64_t physical, uint64_t linear, uint8_t key,
                               unsigned n)
{
    struct bt_page *found = NULL;
    for (struct bt_page *p = *bt_pages_of(vm, physical); p != NULL; p = p->next) {
        if (p->physical != physical || p->key != key)
            continue;
        if (p->linear == linear)
            return NULL;
        if (p->units != NULL && !p->global && bt_may_move(p->linear) && has_left(vm, p, n))
            found = p;
    }
    return found;
}

static void drop_found(struct bt_vm *vm, const struct bt_unit *u)
{
    for (unsigned n = 0; n < vm->vcpu_count; n++)
        if (vm->vcpus[n] != NULL)
            bt_found_drop(vm->vcpus[n], u);
}

/* It stays behind: for ever, for what it leads to goes. */
static void retire(struct bt_vm *vm, struct bt_unit *u)
{
    bt_kill(vm, u);
    drop_found(vm, u);
    for (unsigned n = 0; n < u->exit_count; n++)
        if (u->exits[n].to != NULL)
            bt_unlink(&u->exits[n]);
}

static void unlink_crossing(struct bt_unit *u)
{
    for (struct bt_exit *x = u->incoming, *next; x != NULL; x = next) {
        next = x->next_incoming;
        if (x->crossing)
            bt_unlink(x);
    }
    for (unsigned n = 0; n < u->exit_count; n++)
        if (u->exits[n].crossing && u->exits[n].to != NULL)
            bt_unlink(&u->exits[n]);
}

static void move_unit(struct bt_vm *vm, struct bt_unit *u, uint64_t by)
{
    bt_unhash(vm, u);
    drop_found(vm, u);
    unlink_crossing(u);
    u->rip += by;
    for (unsigned n = 0; n < u->exit_count; n++)
        u->exits[n].target += by;
    for (unsigned n = 0; n < u->site_count; n++)
        u->sites[n].rip += by;
    for (unsigned n = 0; n < u->linear_count; n++) {
        uint8_t *at = bt_unit_place(u, u->linears[n]);
        uint64_t linear;
        memcpy(&linear, at, sizeof(linear));
        linear += by;
        memcpy(at, &linear, sizeof(linear));
    }
    bt_put_token(u->enter_crossing, u->page);
    bt_hash(vm, u);
    bt_watch_made(vm, u);
}

static void move_page(struct bt_vm *vm, struct bt_page *p, uint64_t linear)
{
    uint64_t by = linear - p->linear;
    struct bt_unit *u = p->units, *next;

    p->token = bt_token_of(vm, p->physical, linear, p->key);
    p->linear = linear;
    p->generation++; /* what is being made for it is of the old place */
    p->units = NULL;
    for (struct bt_unit *c = p->crossers; c != NULL; c = c->second_next)
        retire(vm, c);
    p->crossers = NULL;
    for (; u != NULL; u = next) {
        next = u->page_next;
        if (u->dead || !u->movable) {
            retire(vm, u);
            continue;
        }
        move_unit(vm, u, by);
        u->page_next = p->units;
        p->units = u;
    }
    for (u = p->units; u != NULL && bt_passes(vm, u);)
        u = u->page_next;
}

bool bt_move_page(struct vcpu *v, uint64_t physical, uint64_t linear, uint8_t key)
{
    struct bt_local *l = bt_local(v);
    struct bt_vm *vm = l->vm;

    if ((key & BT_KEY_REACH) != REACH_USER || !bt_may_move(linear))
        return false;
    interp_lock_code(vm->interp);
    struct bt_page *p = to_move(vm, physical, linear, key, l->number);
    interp_unlock_code(vm->interp);
    if (p == NULL)
        return false;
    bt_vector_save(v);
    interp_exclusive_begin(v);
    interp_lock_code(vm->interp);
    p = to_move(vm, physical, linear, key, l->number); /* all may have changed while we waited */
    bool moves = p != NULL && all_have_left(vm, p);
    if (moves)
        move_page(vm, p, linear);
    interp_unlock_code(vm->interp);
    interp_exclusive_end(v);
    l->counters.moved += moves;
    return moves;
}
