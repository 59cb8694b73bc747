/* SPDX-License-Identifier: MIT */
/*
 * The follower's side: each hook takes its answer from the log, where the next entry must be the
 * same act at the same position. What comes from outside is posted to the follower when it stands
 * where the leader took it.
 */
#include "engine/gate.h"
#include "engine/interp/step.h"
#include "engine/lockstep/lockstep.h"

static struct lockstep *of(struct vcpu *f)
{
    return f->platform->gate_context;
}

/* Devices wrote while they served the entry just replayed. */
static void apply_copied(struct lockstep *l)
{
    while (l->next < l->count && l->log[l->next].kind == ENTRY_COPIED) {
        const struct entry *x = &l->log[l->next++];
        mem_write(&l->mem, GPA(x->address), l->bytes + x->offset, x->value);
    }
}

static bool same(const struct entry *a, const struct entry *b)
{
    bool with_value =
        a->kind == ENTRY_WRITE || a->kind == ENTRY_MSR_WRITE || a->kind == ENTRY_CR8_WRITE;
    return a->kind == b->kind && a->space == b->space && a->size == b->size &&
           a->address == b->address && a->instructions == b->instructions &&
           a->exceptions == b->exceptions && a->rip == b->rip &&
           (!with_value || a->value == b->value);
}

/* The entry that answers what the follower does. When it has none, the follower is stopped at its
 * next boundary, and whatever it computes until then is of no account. */
static const struct entry *expect(struct lockstep *l, struct entry act)
{
    static const struct entry nothing;
    struct vcpu *f = l->follower;

    if (!l->replaying)
        return &nothing;
    act.instructions = f->counters.instructions;
    act.exceptions = f->counters.exits[EXIT_EXCEPTION];
    act.rip = f->rip;
    const struct entry *x = l->next < l->count ? &l->log[l->next] : NULL;
    if (x == NULL || !same(x, &act)) {
        lockstep_entry_differs(l, x, &act);
        vcpu_request(f, VCPU_REQUEST_STOP);
        return &nothing;
    }
    l->next++;
    apply_copied(l);
    return x;
}

static const struct entry *expect_event(struct vcpu *f, enum entry_kind kind)
{
    return expect(of(f),
                  (struct entry){.kind = (uint8_t)kind, .address = f->rflags & ~(uint64_t)FLAG_RF});
}

/* ---- the gate ---- */

static uint64_t replay_tsc(struct vcpu *f)
{
    return expect(of(f), (struct entry){.kind = ENTRY_TSC})->value;
}

static bool replay_random(struct vcpu *f, bool seed, uint64_t *value)
{
    const struct entry *x = expect(of(f), (struct entry){.kind = ENTRY_RANDOM});
    *value = x->value;
    return x->ok;
}

static uint64_t replay_read(struct vcpu *f, enum bus_space space, uint64_t address, unsigned size)
{
    struct entry act = {
        .kind = ENTRY_READ, .space = (uint8_t)space, .size = (uint8_t)size, .address = address};
    return expect(of(f), act)->value;
}

static void replay_write(struct vcpu *f, enum bus_space space, uint64_t address, uint64_t value,
                         unsigned size)
{
    expect(of(f), (struct entry){.kind = ENTRY_WRITE,
                                 .space = (uint8_t)space,
                                 .size = (uint8_t)size,
                                 .address = address,
                                 .value = value});
}

static int replay_acknowledge(struct vcpu *f)
{
    vcpu_request_clear(f, VCPU_REQUEST_INTR);
    return (int)expect_event(f, ENTRY_INTERRUPT)->value;
}

static uint64_t replay_steal(struct vcpu *f)
{
    return 0; /* nobody asks: the follower's platform has no paravirt */
}

static void replay_taken(struct vcpu *f, uint32_t request)
{
    enum entry_kind kind = request == VCPU_REQUEST_NMI    ? ENTRY_NMI
                           : request == VCPU_REQUEST_INIT ? ENTRY_INIT
                                                          : ENTRY_SIPI;
    expect_event(f, kind);
}

const struct gate_ops lockstep_replay_gate = {
    .tsc = replay_tsc,
    .random = replay_random,
    .read = replay_read,
    .write = replay_write,
    .acknowledge = replay_acknowledge,
    .steal = replay_steal,
    .taken = replay_taken,
};

/* ---- the interrupt controller ---- */

static uint8_t irq_cr8_read(void *context)
{
    return (uint8_t)expect(context, (struct entry){.kind = ENTRY_CR8_READ})->value;
}

static void irq_cr8_write(void *context, uint8_t tpr)
{
    expect(context, (struct entry){.kind = ENTRY_CR8_WRITE, .value = tpr});
}

static uint8_t irq_sipi_vector(void *context)
{
    struct lockstep *l = context; /* gate_taken has just replayed its entry */
    return l->next > 0 ? (uint8_t)l->log[l->next - 1].value : 0;
}

static void irq_nothing(void *context)
{
}

static bool irq_apic_enabled(void *context)
{
    return expect(context, (struct entry){.kind = ENTRY_APIC_ENABLED})->ok;
}

const struct vcpu_irq_ops lockstep_replay_irq = {
    .cr8_read = irq_cr8_read,
    .cr8_write = irq_cr8_write,
    .sipi_vector = irq_sipi_vector,
    .init = irq_nothing,
    .tsc_moved = irq_nothing,
    .apic_enabled = irq_apic_enabled,
};

/* ---- MSRs ---- */

static bool msr_replay_read(void *context, struct vcpu *f, uint32_t index, uint64_t *value)
{
    const struct entry *x =
        expect(context, (struct entry){.kind = ENTRY_MSR_READ, .address = index});
    if (x->ok)
        *value = x->value;
    return x->ok;
}

static bool msr_replay_write(void *context, struct vcpu *f, uint32_t index, uint64_t value)
{
    struct entry act = {.kind = ENTRY_MSR_WRITE, .address = index, .value = value};
    return expect(context, act)->ok;
}

void lockstep_replay_msrs(struct lockstep *l)
{
    const struct msr_table *t = l->machine->msrs;
    for (unsigned n = 0; n < t->count; n++) {
        struct msr_entry e = t->entries[n];
        if (e.context != NULL) {
            e.read = msr_replay_read;
            e.write = msr_replay_write;
            e.context = l;
        }
        l->msrs.entries[n] = e;
    }
    l->msrs.count = t->count;
}

/* ---- the run ---- */

static void say_where(struct lockstep *l, uint64_t instructions, uint64_t exceptions)
{
    const struct vcpu *f = l->follower;
    if (l->why[0] != '\0')
        return;
    snprintf(l->why, sizeof(l->why),
             "%s is at instruction %llu after %llu exceptions, %s%s at %llu after %llu",
             l->leader->name, (unsigned long long)instructions, (unsigned long long)exceptions,
             engine_interp.name, f->activity != VCPU_ACTIVE ? " has stopped" : "",
             (unsigned long long)f->counters.instructions,
             (unsigned long long)f->counters.exits[EXIT_EXCEPTION]);
}

/* To a position. Its count is reached by the limit; after that, each instruction must fault or each
 * boundary bring a debug trap, until the exceptions are as many. */
static bool reach(struct lockstep *l, uint64_t instructions, uint64_t exceptions)
{
    struct vcpu *f = l->follower;

    if (f->counters.instructions < instructions)
        engine_interp.run(f, instructions);
    while (l->why[0] == '\0' && f->counters.instructions == instructions &&
           f->counters.exits[EXIT_EXCEPTION] < exceptions && f->activity == VCPU_ACTIVE) {
        uint64_t before = f->counters.exits[EXIT_EXCEPTION];
        if (f->debug_pending != 0)
            x86_take_events(f);
        if (f->counters.exits[EXIT_EXCEPTION] == before)
            interp_step(f);
    }
    if (f->counters.instructions != instructions || f->counters.exits[EXIT_EXCEPTION] != exceptions)
        say_where(l, instructions, exceptions);
    return l->why[0] == '\0';
}

static bool comes_from_outside(const struct entry *x)
{
    return x->kind >= ENTRY_INTERRUPT && x->kind <= ENTRY_SIPI;
}

/* A repeated string instruction that was interrupted has RF set for the leader only: it was a
 * request that stopped it there, the follower stopped at a limit. */
static bool take(struct lockstep *l, const struct entry *x)
{
    static const uint32_t requests[] = {
        [ENTRY_INTERRUPT] = VCPU_REQUEST_INTR,
        [ENTRY_NMI] = VCPU_REQUEST_NMI,
        [ENTRY_INIT] = VCPU_REQUEST_INIT,
        [ENTRY_SIPI] = VCPU_REQUEST_SIPI,
    };
    struct vcpu *f = l->follower;
    uint64_t next = l->next;

    f->rflags = (f->rflags & ~(uint64_t)FLAG_RF) | (x->ok ? FLAG_RF : 0);
    vcpu_request(f, requests[x->kind]);
    x86_take_events(f);
    vcpu_request_clear(f, requests[x->kind]);
    if (l->next == next)
        lockstep_entry_differs(l, x, NULL);
    return l->why[0] == '\0';
}

bool lockstep_follow(struct lockstep *l)
{
    const struct vcpu *v = l->v;
    bool good = true, more = true;

    l->next = 0;
    l->replaying = true;
    while (good && more) {
        uint64_t at = l->next;
        while (at < l->count && !comes_from_outside(&l->log[at]))
            at++;
        more = at < l->count;
        const struct entry *x = &l->log[at];
        good = more ? reach(l, x->instructions, x->exceptions)
                    : reach(l, v->counters.instructions, v->counters.exits[EXIT_EXCEPTION]);
        if (good && l->next != at) {
            lockstep_entry_differs(l, &l->log[l->next], NULL);
            good = false;
        }
        if (good && more)
            good = take(l, x);
    }
    l->replaying = false;
    return good;
}
