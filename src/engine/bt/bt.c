/* SPDX-License-Identifier: MIT */
/*
 * The engine: x86-64 and flat 32-bit code translated to x86-64 code (docs/translator.md). What it
 * does not translate (16-bit code, other segments, single steps, rare instructions) the interpreter
 * runs, on the same state.
 *
 * Host signals are used for the guest's arithmetic faults only; see trap.c.
 */
#include "engine/bt/bt.h"

#include <asm/prctl.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/interp/step.h"

#define CACHE_BYTES (128u << 20)
#define SOME        4096u /* instructions that the interpreter runs before we look again */
/* When instructions are counted every exit polls: nearer to the limit than this, single steps. */
#define LIMIT_MARGIN (BT_UNIT_INSNS + 2)

#ifdef DEBUG
static const bool checks_always = true;
#else
static const bool checks_always = false;
#endif

static int available(struct error *e)
{
    if (!__builtin_cpu_supports("bmi2"))
        return error_set(e, ENOTSUP,
                         "engine bt: the host's processor lacks BMI2; choose --engine interp");
    return 0;
}

static void vm_free(struct bt_vm *vm)
{
    bt_watch_close(vm);
    if (vm->interp != NULL)
        engine_interp.vm_fini(vm->interp);
    exec_memory_destroy(&vm->memory);
    free(vm->scratch);
    pthread_mutex_destroy(&vm->translating);
    free(vm);
}

static size_t cache_bytes(const struct x86_platform *p)
{
    const struct engine_config *c = p->engine_config;
    return c != NULL && c->bt_cache != 0 ? (size_t)c->bt_cache : CACHE_BYTES;
}

static int vm_init(struct x86_platform *p, void **engine_vm, struct error *e)
{
    struct bt_vm *vm = calloc(1, sizeof(*vm));
    if (vm == NULL)
        return error_set(e, ENOMEM, "engine bt: no memory");
    pthread_mutex_init(&vm->translating, NULL);
    vm->platform = p;
    vm->checking = checks_always || (p->checks & ENGINE_CHECK_TRANSLATIONS) != 0;
    vm->scratch = bt_scratch_create();
    int err = vm->scratch == NULL ? error_set(e, ENOMEM, "engine bt: no memory") : 0;
    if (err == 0)
        err = bt_watch_open(vm, e);
    if (err == 0)
        err = bt_trap_install(e);
    if (err == 0)
        err = exec_memory_create(&vm->memory, cache_bytes(p), e);
    if (err == 0)
        err = engine_interp.vm_init(p, &vm->interp, e);
    if (err != 0) {
        vm_free(vm);
        return err;
    }
    insn_decoder_init(&vm->decoder, p->cpuid);
    bt_stubs_make(vm);
    bt_watch_code(vm, vm->memory.write, vm->first, "doppel_stubs_", 0);
    interp_listen(vm->interp, bt_code_written, vm);
    vm->gate = p->gate;
    p->gate = &bt_gate;
    *engine_vm = vm;
    return 0;
}

static void vm_fini(void *engine_vm)
{
    struct bt_vm *vm = engine_vm;
    vm->platform->gate = vm->gate;
    bt_cache_fini(vm);
    vm_free(vm);
}

static int vcpu_init(void *engine_vm, struct vcpu *v, struct error *e)
{
    struct bt_vm *vm = engine_vm;
    if (vm->vcpu_count == BT_VCPUS_MAX)
        return error_set(e, EINVAL, "engine bt: more than %d vCPUs", BT_VCPUS_MAX);
    int err = engine_interp.vcpu_init(vm->interp, v, e);
    if (err != 0)
        return err;
    struct bt_local *l = bt_local(v);
    memset(l, 0, sizeof(*l));
    l->found = calloc(BT_FOUND, sizeof(*l->found));
    if (l->found == NULL) {
        engine_interp.vcpu_fini(v);
        return error_set(e, ENOMEM, "engine bt: no memory for vCPU %u", v->id);
    }
    l->self = v;
    l->vm = vm;
    l->filled[0] = BT_LOG + 1; /* the tables are to be emptied first */
    l->generation = UINT64_MAX;
    err = bt_returns_create(l, e);
    if (err != 0) {
        free(l->found);
        engine_interp.vcpu_fini(v);
        return err;
    }
    bt_cache_fini(vm); /* whose pages have no room for what this vCPU does */
    l->number = vm->vcpu_count++;
    vm->vcpus[l->number] = v;
    return 0;
}

static void vcpu_fini(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    l->vm->vcpus[l->number] = NULL;
    bt_returns_destroy(l);
    free(l->found);
    engine_interp.vcpu_fini(v);
}

static enum exit_reason run_once(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);

    if (bt_pending(v)) {
        bt_vector_save(v);
        enum exit_reason exit = interp_boundary(v);
        if (exit != EXIT_NONE)
            return exit;
    }
    if (bt_may_run(v)) {
        bt_refresh(v);
        const uint8_t *code = bt_find_code(v);
        if (code != NULL) {
            bt_vector_load(v);
            l->flags = bt_flags_of(v->rflags);
            bt_returns_choose(v);
            l->vm->stubs.enter(v, code);
            return EXIT_NONE;
        }
        if ((vcpu_requests(v) & VCPU_REQUEST_CODE) || atomic_load(&l->vm->failed))
            return EXIT_NONE;
    }
    bt_watch_unit(v);
    bt_vector_save(v);
    if (!v->code64 && !bt_is_flat32(v) && !interp_needs_attention(v))
        interp_execute_some(v, SOME);
    else
        interp_execute(v);
    return EXIT_NONE;
}

static void enter_thread(struct vcpu *v)
{
    static __thread struct vcpu *based;
    bt_trap_enter(v);
    if (based != v) {
        syscall(SYS_arch_prctl, ARCH_SET_GS, v);
        based = v;
    }
}

static enum exit_reason run(struct vcpu *v, uint64_t limit)
{
    struct bt_local *l = bt_local(v);
    jmp_buf frame;
    enum exit_reason exit;

    v->instruction_limit = limit;
    interp_enter(v);
    enter_thread(v);
    if (limit != ENGINE_NO_LIMIT)
        bt_count(v);
    if (setjmp(frame) != 0) {
        bt_settle(v);
        interp_fault(v);
    }
    v->unwind = &frame;
    do {
        if (v->counters.instructions >= v->instruction_limit) {
            exit = EXIT_NONE;
            break;
        }
        l->count_limit =
            v->instruction_limit > LIMIT_MARGIN ? v->instruction_limit - LIMIT_MARGIN : 0;
        exit = atomic_load(&l->vm->failed)    ? EXIT_ERROR
               : v->activity == VCPU_SHUTDOWN ? EXIT_SHUTDOWN
                                              : run_once(v);
    } while (exit == EXIT_NONE);
    v->unwind = NULL;
    bt_vector_save(v);
    bt_trap_enter(NULL);
    interp_leave(v);
    return exit;
}

static void stats(const struct vcpu *v,
                  void (*put)(void *context, const char *group, const char *name, uint64_t value),
                  void *context)
{
    const struct bt_counters *c = &((const struct bt_local *)v->engine_local)->counters;

    put(context, NULL, "units", c->units);
    put(context, NULL, "pages_moved", c->moved);
    put(context, NULL, "links", c->links);
    put(context, NULL, "lookups", c->lookups);
    put(context, NULL, "lookups_found", c->found);
    put(context, NULL, "slot_misses", c->slot_misses);
    put(context, NULL, "fast_tlb_misses", c->misses);
    put(context, NULL, "accesses_interpreted", c->misses_elsewhere);
    put(context, NULL, "scattered_accesses", c->scattered);
    put(context, NULL, "host_faults", c->faults);
    put(context, NULL, "cache_flushes", c->flushes);
    put(context, NULL, "interpreted_lightly", c->light);
    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
        if (c->interpreted[m] != 0)
            put(context, "interpreted",
                m == 0 ? "(at a page's end or undefined)"
                       : ZydisMnemonicGetString((ZydisMnemonic)m),
                c->interpreted[m]);
}

const struct engine_ops engine_bt = {
    .name = "bt",
    .summary = "binary translation: the guest's code, translated to the host's",
    .checks = ENGINE_CHECK_TRANSLATIONS | ENGINE_CHECK_LOCKSTEP,
    .available = available,
    .vm_init = vm_init,
    .vm_fini = vm_fini,
    .vcpu_init = vcpu_init,
    .vcpu_fini = vcpu_fini,
    .run = run,
    .stats = stats,
};
