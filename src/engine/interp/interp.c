/* SPDX-License-Identifier: MIT */
/*
 * The reference engine: full emulation by decoded records. It is the oracle of the faster engines,
 * so its rules are the manual's, kept in x86/, and its arithmetic is the host's.
 *
 * The inner loop runs records until one returns NULL or the instruction limit is reached; branches
 * poll the requests, so it leaves within one run of records. Around it, at instruction boundaries:
 * events by priority (x86_take_events), code invalidation, and single steps where each instruction
 * needs attention (TF, RF, armed breakpoints, interrupt shadow).
 *
 * Faults jump (x86_raise) to the frame set up in run, which delivers them and goes on.
 */
#include "engine/interp/interp.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "engine/interp/code.h"
#include "engine/interp/step.h"
#include "engine/interp/sync.h"

#define ATTENTION_FLAGS (FLAG_TF | FLAG_RF)

/* An armed instruction breakpoint at RIP: R/W = 0 (SDM 3B 17.2.4). */
static uint64_t instruction_breakpoint(const struct vcpu *v)
{
    uint64_t hit = 0;
    uint64_t linear = v->code64 ? v->rip : (uint32_t)(v->rip + v->code_base);
    for (unsigned n = 0; n < 4; n++) {
        bool enabled = (v->dr7 >> (2 * n)) & 3;
        if (enabled && ((v->dr7 >> (16 + 4 * n)) & 3) == 0 && v->dr[n] == linear)
            hit |= 1u << n;
    }
    return hit;
}

/* One instruction with everything that may want it alone; false when requests must be served first.
 * Raises. */
static bool step(struct vcpu *v)
{
    struct interp *t = v->engine_state;
    bool trap = (v->rflags & FLAG_TF) != 0;
    bool resume = (v->rflags & FLAG_RF) != 0;
    bool held = v->interrupt_shadow && v->shadow_blocks_debug; /* by MOV SS (SDM 3A 6.8.3) */

    if ((v->dr7 & DR7_ENABLED) && !resume && !held) {
        uint64_t hit = instruction_breakpoint(v);
        if (hit != 0) {
            v->fault.dr6 = hit;
            x86_raise(v, VECTOR_DB);
        }
    }
    const struct insn *i = code_known(v);
    if (i == NULL)
        i = code_find(v);
    while (i != NULL && i->exec == op_look_up) /* a run that ends where another begins */
        i = i->link != NULL ? i->link : code_find(v);
    if (i == NULL)
        return false;
    v->interrupt_shadow = false;
    v->shadow_blocks_debug = false;
    v->rflags &= ~(uint64_t)FLAG_RF;
    t->own_trap = false;
    t->debug_held = v->debug_pending;
    i->exec(v, i);
    t->debug_held = 0;
    v->counters.instructions++;
    bool holds = v->interrupt_shadow && v->shadow_blocks_debug;
    if (trap && !t->own_trap && !holds) /* not held by MOV SS but suppressed (SDM 3A 6.8.3) */
        v->debug_pending |= DR6_BS;
    return true;
}

/* An exception was raised by the instruction at RIP: data breakpoints that its earlier accesses met
 * are forgotten, for it has not completed (SDM 3B 17.2.4 has them as traps); it will meet them
 * again. What MOV SS held from before stays. */
static void deliver_fault(struct vcpu *v)
{
    struct interp *t = v->engine_state;
    v->debug_pending = t->debug_held;
    t->debug_held = 0;
    x86_deliver_fault(v);
}

/* Records until one asks for the outer loop, or the limit. Raises. */
static void run_records(struct vcpu *v)
{
    const struct insn *i = code_known(v);
    if (i == NULL)
        i = code_find(v);
    if (i == NULL)
        return;
    do {
        i = i->exec(v, i);
    } while (X86_LIKELY(++v->counters.instructions < v->instruction_limit) && i != NULL);
}

static bool needs_attention(const struct vcpu *v)
{
    return (v->rflags & ATTENTION_FLAGS) != 0 || (v->dr7 & DR7_ENABLED) != 0 || v->interrupt_shadow;
}

static void serve_code_requests(struct vcpu *v)
{
    while (vcpu_requests(v) & VCPU_REQUEST_CODE) {
        code_reclaim(v->engine_state);
        sync_pause(v->engine_state);
    }
}

/* What is due between two instructions. */
static enum exit_reason boundary(struct vcpu *v)
{
    uint32_t requests = vcpu_requests(v);
    if (requests & VCPU_REQUEST_CODE)
        serve_code_requests(v);
    if (requests & VCPU_REQUEST_LIMIT)
        vcpu_request_clear(v, VCPU_REQUEST_LIMIT); /* v->instruction_limit is read each time */
    if ((requests & ~(uint32_t)(VCPU_REQUEST_CODE | VCPU_REQUEST_LIMIT)) == 0 &&
        v->debug_pending == 0 && v->activity == VCPU_ACTIVE)
        return EXIT_NONE;
    return x86_take_events(v);
}

static enum exit_reason run_loop(struct vcpu *v)
{
    const struct engine_config *config = v->platform->engine_config;
    FILE *trace = config != NULL ? config->trace : NULL;

    while (v->counters.instructions < v->instruction_limit) {
        enum exit_reason exit = boundary(v);
        if (exit != EXIT_NONE)
            return exit;
        if (trace != NULL)
            fprintf(trace, "%" PRIu64 " %" PRIx64 "\n", v->counters.instructions,
                    v->rip + v->code_base);
        if (needs_attention(v) || trace != NULL)
            step(v);
        else
            run_records(v);
    }
    return EXIT_NONE;
}

static enum exit_reason interp_run(struct vcpu *v, uint64_t limit)
{
    struct interp *t = v->engine_state;
    jmp_buf frame;
    enum exit_reason exit;

    t->thread = pthread_self();
    t->running = true;
    v->instruction_limit = limit;
    sync_enter_guest(t);
    if (setjmp(frame) != 0) {
        sync_exclusive_end(t);
        deliver_fault(v);
    }
    v->unwind = &frame;
    exit = v->activity == VCPU_SHUTDOWN ? EXIT_SHUTDOWN : run_loop(v);
    v->unwind = NULL;
    sync_leave_guest(t);
    t->running = false;
    return exit;
}

enum exit_reason interp_step(struct vcpu *v)
{
    struct interp *t = v->engine_state;
    jmp_buf frame;

    t->thread = pthread_self();
    t->running = true;
    sync_enter_guest(t);
    if (setjmp(frame) == 0) {
        v->unwind = &frame;
        do
            serve_code_requests(v);
        while (!step(v));
    } else {
        sync_exclusive_end(t);
        deliver_fault(v);
    }
    serve_code_requests(v);
    v->unwind = NULL;
    sync_leave_guest(t);
    t->running = false;
    return v->activity == VCPU_SHUTDOWN ? EXIT_SHUTDOWN
           : v->activity == VCPU_ACTIVE ? EXIT_NONE
                                        : EXIT_HLT;
}

void interp_enter(struct vcpu *v)
{
    struct interp *t = v->engine_state;
    t->thread = pthread_self();
    t->running = true;
    sync_enter_guest(t);
}

void interp_leave(struct vcpu *v)
{
    struct interp *t = v->engine_state;
    sync_leave_guest(t);
    t->running = false;
}

enum exit_reason interp_boundary(struct vcpu *v)
{
    return boundary(v);
}

bool interp_needs_attention(const struct vcpu *v)
{
    return needs_attention(v);
}

void interp_execute(struct vcpu *v)
{
    do
        serve_code_requests(v);
    while (!step(v));
}

void interp_execute_some(struct vcpu *v, uint64_t instructions)
{
    uint64_t limit = v->instruction_limit;
    if (limit - v->counters.instructions > instructions)
        v->instruction_limit = v->counters.instructions + instructions;
    run_records(v);
    v->instruction_limit = limit;
}

void interp_fault(struct vcpu *v)
{
    sync_exclusive_end(v->engine_state);
    deliver_fault(v);
}

void interp_mark_code(struct vcpu *v, gpa_t page, const uint8_t *host)
{
    code_mark(v->engine_state, page, host);
}

void interp_listen(void *interp_vm, void (*written)(void *context, gpa_t page), void *context)
{
    struct interp_vm *vm = interp_vm;
    vm->code_written = written;
    vm->code_written_context = context;
}

void interp_lock_code(void *interp_vm)
{
    pthread_mutex_lock(&((struct interp_vm *)interp_vm)->code_lock);
}

void interp_unlock_code(void *interp_vm)
{
    pthread_mutex_unlock(&((struct interp_vm *)interp_vm)->code_lock);
}

void interp_exclusive_begin(struct vcpu *v)
{
    sync_exclusive_begin(v->engine_state);
}

void interp_exclusive_end(struct vcpu *v)
{
    sync_exclusive_end(v->engine_state);
}

/* The page that held code was written: by this vCPU's own store, or by another thread. The flag
 * stays until every vCPU has been told: a store that comes meanwhile must not go unseen. */
static void code_written(void *context, gpa_t page)
{
    struct interp_vm *vm = context;
    _Atomic uint8_t *flags;

    if (mem_page(vm->platform->mem, page, &flags) == NULL)
        return;
    pthread_mutex_lock(&vm->code_lock);
    if (vm->code_written != NULL)
        vm->code_written(vm->code_written_context, page);
    for (unsigned n = 0; n < vm->vcpu_count; n++) {
        struct interp *t = vm->vcpus[n];
        if (t->running && pthread_equal(t->thread, pthread_self()))
            code_page_written(t, page);
        else
            code_page_post(t, page);
    }
    atomic_fetch_and(flags, (uint8_t)~MEM_PAGE_CODE);
    pthread_mutex_unlock(&vm->code_lock);
}

static int available(struct error *e)
{
    return 0;
}

static int vm_init(struct x86_platform *p, void **engine_vm, struct error *e)
{
    struct interp_vm *vm = calloc(1, sizeof(*vm));
    if (vm == NULL)
        return error_set(e, ENOMEM, "engine interp: no memory");
    vm->platform = p;
    pthread_mutex_init(&vm->code_lock, NULL);
    pthread_mutex_init(&vm->sync_lock, NULL);
    pthread_cond_init(&vm->sync_changed, NULL);
    insn_decoder_init(&vm->decoder, p->cpuid);
    int err = copy_cache_create(&vm->copies, e);
    if (err == 0) {
        struct mem_listener l = {.code_written = code_written, .context = vm};
        err = mem_add_listener(p->mem, l);
        if (err != 0)
            error_set(e, -err, "engine interp: too many listeners on guest memory");
    }
    if (err != 0) {
        if (vm->copies != NULL)
            copy_cache_destroy(vm->copies);
        free(vm);
        return err;
    }
    *engine_vm = vm;
    return 0;
}

static void vm_fini(void *engine_vm)
{
    struct interp_vm *vm = engine_vm;
    copy_cache_destroy(vm->copies);
    pthread_cond_destroy(&vm->sync_changed);
    pthread_mutex_destroy(&vm->sync_lock);
    pthread_mutex_destroy(&vm->code_lock);
    free(vm);
}

static int vcpu_init(void *engine_vm, struct vcpu *v, struct error *e)
{
    struct interp_vm *vm = engine_vm;
    if (vm->vcpu_count == INTERP_VCPUS_MAX)
        return error_set(e, EINVAL, "engine interp: more than %d vCPUs", INTERP_VCPUS_MAX);
    struct interp *t = calloc(1, sizeof(*t));
    if (t == NULL || code_cache_create(&t->code) != 0) {
        free(t);
        return error_set(e, ENOMEM, "engine interp: no memory for vCPU %u", v->id);
    }
    t->vm = vm;
    t->vcpu = v;
    t->quiet = true;
    t->code_generation = 1; /* an empty jump cache holds context 0 */
    vm->vcpus[vm->vcpu_count++] = t;
    v->engine_state = t;
    return 0;
}

static void vcpu_fini(struct vcpu *v)
{
    struct interp *t = v->engine_state;
    struct interp_vm *vm = t->vm;
    for (unsigned n = 0; n < vm->vcpu_count; n++) { /* guest memory may still be written */
        if (vm->vcpus[n] == t)
            vm->vcpus[n] = vm->vcpus[--vm->vcpu_count];
    }
    code_cache_destroy(t->code);
    free(t);
    v->engine_state = NULL;
}

const struct engine_ops engine_interp = {
    .name = "interp",
    .summary = "full emulation: the reference, slow and exact",
    .counts_always = true,
    .checks = ENGINE_CHECK_LOCKSTEP,
    .available = available,
    .vm_init = vm_init,
    .vm_fini = vm_fini,
    .vcpu_init = vcpu_init,
    .vcpu_fini = vcpu_fini,
    .run = interp_run,
};
