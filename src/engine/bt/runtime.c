/* SPDX-License-Identifier: MIT */
/*
 * What translated code calls, through stubs.c, on the vCPU's thread. All of the guest's general
 * registers are in struct vcpu; its arithmetic flags are in local->flags, its vector state may be
 * in the host's registers. So nothing here, nor what is called here before bt_vector_save, may
 * touch a vector register: this folder, x86/, mem/ and the interpreter are compiled for general
 * registers only, and tests/rules looks at the object code.
 */
#include "engine/bt/bt.h"

#include "engine/interp/step.h"
#include "x86/access.h"

/* ---- vector state ---- */

/* Leaves the host's as a program begins, with nothing pending. The pointers are in their place. */
static void x87_save(struct vcpu *v)
{
    struct x86_vector *s = &v->vector;
    uint64_t fip = s->fip, fdp = s->fdp;
    uint16_t fop = s->fop;
    __asm__ volatile("xsave64 %0; fninit" : "+m"(*s) : "a"(XCR0_X87), "d"(0));
    s->fip = fip;
    s->fdp = fdp;
    s->fop = fop;
    bt_local(v)->x87_live = false;
}

static void x87_load(struct vcpu *v)
{
    v->vector.xsave_header[0] = XCR0_X87;
    __asm__ volatile("xrstor64 %0" : : "m"(v->vector), "a"(XCR0_X87), "d"(0));
    bt_local(v)->x87_live = true;
}

void bt_vector_save(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    if (!l->vector_live)
        return;
    if (l->x87_live)
        x87_save(v);
    l->vm->stubs.vector_save[l->vector_class](v);
    l->vector_live = false;
}

void bt_vector_load(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    if (l->vector_live)
        return;
    l->vm->stubs.vector_load[l->vector_class](v);
    l->vector_live = true;
}

/* A sanitizer's own functions know nothing of the rule: the state is not left in the host then. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

static inline void called(struct vcpu *v)
{
    if (SANITIZED)
        bt_vector_save(v);
}

/* ---- flags and RIP ---- */

static inline void merge_flags(struct vcpu *v)
{
    v->rflags = (v->rflags & ~(uint64_t)FLAGS_ARITHMETIC) | bt_rflags_of(bt_local(v)->flags);
}

/* v->rip, RSP and the count of instructions, as they are at this place of the code. */
static void settle_at(struct vcpu *v, const uint8_t *exec)
{
    struct bt_vm *vm = bt_local(v)->vm;
    interp_lock_code(vm->interp);
    const struct bt_unit *u = bt_unit_at(vm, exec);
    interp_unlock_code(vm->interp);
    const struct bt_mark *m = bt_mark_at(vm, u, exec);
    v->rip = u->rip + m->rip;
    v->gpr[RSP] = bt_key_wrap(u->key, v->gpr[RSP] + (uint64_t)(int64_t)m->rsp);
    if (vm->counting)
        v->counters.instructions += m->count;
}

void bt_settle(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    if (!l->in_miss)
        return;
    settle_at(v, (const uint8_t *)(uintptr_t)l->miss_pc - 1); /* within the call */
    merge_flags(v);
    l->in_miss = false;
}

/* ---- going on ---- */

/* `requests` of the vCPU: something that a boundary would act on now. */
static bool is_pending(const struct vcpu *v, uint32_t requests)
{
    if (X86_UNLIKELY(v->debug_pending != 0 || v->activity != VCPU_ACTIVE))
        return true;
    if (X86_LIKELY(requests == 0))
        return false;
    return (requests & ~(uint32_t)(VCPU_REQUEST_INTR | VCPU_REQUEST_NMI | VCPU_REQUEST_SLEEPING)) ||
           ((requests & VCPU_REQUEST_INTR) && (v->rflags & FLAG_IF)) ||
           ((requests & VCPU_REQUEST_NMI) && !v->nmi_blocked && !v->interrupt_shadow);
}

bool bt_pending(const struct vcpu *v)
{
    return is_pending(v, vcpu_requests(v));
}

/* In 32-bit code no upper half of RSP is seen, but by who comes from 64-bit code and goes back. */
static bool may_translate(const struct vcpu *v)
{
    return X86_LIKELY(v->code64) || (bt_is_flat32(v) && v->gpr[RSP] <= UINT32_MAX);
}

bool bt_may_run(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    uint32_t requests = vcpu_requests(v);
    bool middle = v->cpl == 1 || v->cpl == 2; /* a supervisor to data, and not to STAC or SWAPGS */
    if (is_pending(v, requests) || !may_translate(v) || v->reach == REACH_USER_ALIGNED || middle ||
        interp_needs_attention(v) ||
        (l->vm->counting && v->counters.instructions >= l->count_limit))
        return false;
    if (!v->code64)
        l->whole = bt_whole32(v);
    l->held = requests;
    l->not_held = ~requests;
    return true;
}

static const uint8_t *leave(struct vcpu *v)
{
    struct bt_vm *vm = bt_local(v)->vm;
    return bt_exec(vm, vm->stubs.leave);
}

/* Where v->rip goes on; v->rflags is whole. Raises. */
static const uint8_t *go_on(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    if (X86_UNLIKELY(!bt_may_run(v)))
        return leave(v);
    bt_refresh(v);
    const struct bt_jump *j = &l->jumps[v->reach][bt_jump_index(v->rip)];
    const uint8_t *code = j->code;
    if (j->rip != v->rip) {
        code = bt_find_code(v);
        if (code == NULL)
            return leave(v);
        bt_jump_enter(v, v->rip, code);
    }
    l->flags = bt_flags_of(v->rflags);
    bt_returns_choose(v);
    bt_vector_load(v);
    return code;
}

const uint8_t *bt_do_link(struct vcpu *v, struct bt_exit *x)
{
    struct bt_local *l = bt_local(v);
    called(v);
    merge_flags(v);
    v->rip = x->target;
    if (!bt_may_run(v))
        return leave(v);
    bt_refresh(v);
    uint64_t flushes = l->vm->flushes;
    struct bt_unit *u = bt_find(v, x->alone);
    if (u == NULL)
        return leave(v);
    if (l->vm->flushes == flushes) /* x is still there */
        bt_link(l->vm, x, u);
    l->counters.links++;
    l->flags = bt_flags_of(v->rflags);
    bt_returns_choose(v);
    bt_vector_load(v);
    return bt_exec(l->vm, u->enter_saved);
}

/* RIP of the RET that ran last, from its place in the code. */
static uint64_t last_ret(struct vcpu *v)
{
    struct bt_vm *vm = bt_local(v)->vm;
    const uint8_t *exec = vm->memory.exec + bt_local(v)->last_ret;
    interp_lock_code(vm->interp);
    const struct bt_unit *u = bt_unit_at(vm, exec);
    interp_unlock_code(vm->interp);
    return u->rip + bt_mark_at(vm, u, exec)->rip;
}

/* A target that is not canonical is the jump's own fault: back to it, for the interpreter. One that
 * came by no other way was a RET. */
static const uint8_t *bad_target(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    bool ret = l->branch == 0;
    v->rip = ret ? last_ret(v) : l->branch;
    v->gpr[RSP] -= ret ? 8 : (uint64_t)(int64_t)l->undo;
    if (l->vm->counting)
        v->counters.instructions--;
    l->branch = 0;
    bt_vector_save(v);
    interp_execute(v);
    return go_on(v);
}

const uint8_t *bt_do_indirect(struct vcpu *v, uint64_t target)
{
    struct bt_local *l = bt_local(v);
    called(v);
    merge_flags(v);
    if (X86_UNLIKELY(!x86_canonical(v, target)))
        return bad_target(v);
    l->branch = 0;
    v->rip = target;
    return go_on(v);
}

const uint8_t *bt_do_find(struct vcpu *v, uint64_t target)
{
    called(v);
    merge_flags(v);
    v->rip = target;
    bt_jump_forget(v, target);
    return go_on(v);
}

/* The stub looks in the table, which strings alone would not fill. */
static void fill_for_strings(struct vcpu *v, uint64_t to, uint64_t from)
{
    enum tlb_reach reach = (enum tlb_reach)v->reach;
    tlb_fast_fill(v, reach, to, 1, true, true);
    tlb_fast_fill(v, reach, from, 1, false, true);
}

const uint8_t *bt_do_site(struct vcpu *v, struct bt_site *s)
{
    struct bt_local *l = bt_local(v);
    called(v);

    l->counters.interpreted[s->insn.op]++;
    merge_flags(v);
    v->rip = s->rip;
    if (s->insn.exec != NULL) {
        uint64_t to = bt_key_wrap(s->key, v->gpr[RDI]), from = bt_key_wrap(s->key, v->gpr[RSI]);
        l->counters.light++;
        s->insn.exec(v, &s->insn);
        if (s->string)
            fill_for_strings(v, to, from);
        v->counters.instructions += l->vm->counting;
    } else {
        bt_vector_save(v);
        interp_execute(v);
    }
    /* Not the generation at the start: the interpreter may have served, and cleared, the request
     * that says that units have gone. */
    if (X86_LIKELY(l->generation == atomic_load(&l->vm->generation) && s->resume != NULL &&
                   v->rip == s->rip + s->insn.length && bt_key(v) == s->key &&
                   l->fetch_generation == v->tlb.fetch_generation) &&
        bt_may_run(v)) {
        l->flags = bt_flags_of(v->rflags);
        bt_vector_load(v);
        return s->resume;
    }
    return go_on(v);
}

/* The slot has missed BT_MISSES_LOOK times; if in little time, the access that missed last goes by
 * the table from now on. */
static void look_at_slot(struct vcpu *v, struct bt_misses *m, uint32_t what)
{
    struct bt_local *l = bt_local(v);
    uint64_t now = __builtin_ia32_rdtsc();
    bool often = now - m->since < (uint64_t)BT_MISSES_LOOK * BT_MISSES_CYCLES;
    m->left = BT_MISSES_LOOK;
    m->since = now;
    l->counters.slot_misses += BT_MISSES_LOOK;
    tlb_slots_limit(&v->tlb);
    if (!often || (what & BT_CHECK_SCATTERED)) /* it misses in the table too: no better unit */
        return;
    const uint8_t *pc = (const uint8_t *)(uintptr_t)l->miss_pc - 1;
    interp_lock_code(l->vm->interp);
    struct bt_unit *u = bt_unit_at(l->vm, pc);
    interp_unlock_code(l->vm->interp);
    uint64_t rip = u->rip + bt_mark_at(l->vm, u, pc)->rip;
    bt_scatter(v, u, rip);
    l->counters.scattered++;
}

/* A load across two pages of RAM: reads both, as the processor does in two accesses, and points the
 * access at the copy. False: not both are RAM that may be read. May raise. */
static bool load_across(struct vcpu *v, uint64_t linear, unsigned size, uint32_t what)
{
    struct bt_local *l = bt_local(v);
    enum tlb_reach reach = (enum tlb_reach)v->reach;
    unsigned first = MEM_PAGE_SIZE - (linear & (MEM_PAGE_SIZE - 1));
    if ((what & (BT_CHECK_WRITE | BT_CHECK_QUIET)) || first >= size || size > sizeof(l->bounce) ||
        !x86_canonical(v, linear + size - 1) || (!v->code64 && linear + size - 1 > UINT32_MAX) ||
        !tlb_fast_fill(v, reach, linear, first, false, false) ||
        !tlb_fast_fill(v, reach, linear + first, size - first, false, false))
        return false;
    tlb_read_bytes(v, reach, linear, l->bounce, size);
    l->temp[6] = (uintptr_t)l->bounce - linear;
    return true;
}

/* Back to the unit, which may have the x87 registers in the host's. */
static void give_back(struct vcpu *v, bool x87)
{
    bt_vector_load(v);
    if (X86_UNLIKELY(x87 && !bt_local(v)->x87_live))
        x87_load(v);
}

const uint8_t *bt_do_miss(struct vcpu *v, uint64_t linear, uint32_t what)
{
    struct bt_local *l = bt_local(v);
    struct bt_misses *m = &l->slots[bt_check_slot(what)];
    bool x87 = l->x87_live;
    called(v);
    if (m->left < 0) {
        look_at_slot(v, m, what);
        give_back(v, x87);
        return NULL;
    }
    unsigned size = MEM_PAGE_SIZE - (what & BT_CHECK_LIMIT);
    bool misaligned = (what & BT_CHECK_ALIGNED) && (linear & (size - 1)) != 0;
    l->counters.misses++;
    l->in_miss = true;
    if (X86_LIKELY(x86_canonical(v, linear)) && X86_LIKELY(!(what & BT_CHECK_SPLIT)) &&
        X86_LIKELY(tlb_fast_fill(v, (enum tlb_reach)v->reach, linear, size, what & BT_CHECK_WRITE,
                                 (what & BT_CHECK_QUIET) || misaligned))) {
        l->in_miss = false;
        give_back(v, x87);
        return NULL;
    }
    if (X86_LIKELY(x86_canonical(v, linear)) && !misaligned && load_across(v, linear, size, what)) {
        l->in_miss = false;
        give_back(v, x87);
        return BT_SERVED;
    }
    l->counters.misses_elsewhere++;
    bt_settle(v);
    bt_vector_save(v);
    interp_execute(v);
    return go_on(v);
}

const uint8_t *bt_do_fault(struct vcpu *v, uint64_t flags)
{
    struct bt_local *l = bt_local(v);
    struct bt_vm *vm = l->vm;
    const uint8_t *pc = (const uint8_t *)(uintptr_t)l->fault_pc;
    called(v);
    bt_returns_forget(v); /* the code may have had other things on the stack */

    interp_lock_code(vm->interp);
    const struct bt_unit *u = bt_unit_at(vm, pc);
    interp_unlock_code(vm->interp);
    l->counters.faults++;
    if (bt_mark_at(vm, u, pc)->host_flags)
        l->flags = bt_flags_of(flags);
    settle_at(v, pc);
    merge_flags(v);
    bt_vector_save(v);
    interp_execute(v);
    return go_on(v);
}

/* ---- the gate: devices and the clock are free to use vector registers ---- */

static const struct gate_ops *below(struct vcpu *v)
{
    return bt_local(v)->vm->gate;
}

static uint64_t gate_bt_tsc(struct vcpu *v)
{
    return below(v)->tsc(v); /* the vDSO's clock and arithmetic: general registers */
}

static bool gate_bt_random(struct vcpu *v, bool seed, uint64_t *value)
{
    bt_vector_save(v);
    return below(v)->random(v, seed, value);
}

static uint64_t gate_bt_read(struct vcpu *v, enum bus_space space, uint64_t address, unsigned size)
{
    bt_vector_save(v);
    return below(v)->read(v, space, address, size);
}

static void gate_bt_write(struct vcpu *v, enum bus_space space, uint64_t address, uint64_t value,
                          unsigned size)
{
    bt_vector_save(v);
    below(v)->write(v, space, address, value, size);
}

static int gate_bt_acknowledge(struct vcpu *v)
{
    bt_vector_save(v);
    return below(v)->acknowledge(v);
}

static uint64_t gate_bt_steal(struct vcpu *v)
{
    bt_vector_save(v);
    return below(v)->steal(v);
}

static void gate_bt_taken(struct vcpu *v, uint32_t request)
{
    if (below(v)->taken != NULL)
        below(v)->taken(v, request);
}

const struct gate_ops bt_gate = {
    .tsc = gate_bt_tsc,
    .random = gate_bt_random,
    .read = gate_bt_read,
    .write = gate_bt_write,
    .acknowledge = gate_bt_acknowledge,
    .steal = gate_bt_steal,
    .taken = gate_bt_taken,
};
