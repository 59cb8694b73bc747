/* SPDX-License-Identifier: MIT */
/* The engine that runs no code: a processor halted for ever. Tests drive devices beside it, and a
 * machine can be wired, paused and saved without a guest. Thread rule of engine.h. */
#include "engine/engine.h"

static int none_available(struct error *e)
{
    return 0;
}

static int none_vm_init(struct x86_platform *p, void **engine_vm, struct error *e)
{
    *engine_vm = NULL;
    return 0;
}

static void none_vm_fini(void *engine_vm)
{
}

static int none_vcpu_init(void *engine_vm, struct vcpu *v, struct error *e)
{
    v->engine_state = NULL;
    return 0;
}

static void none_vcpu_fini(struct vcpu *v)
{
}

static enum exit_reason none_run(struct vcpu *v, uint64_t limit)
{
    if (vcpu_requests(v) & VCPU_REQUEST_STOP)
        return EXIT_REQUEST;
    if (v->counters.instructions >= limit)
        return EXIT_NONE;
    v->counters.exits[EXIT_HLT]++;
    return EXIT_HLT;
}

const struct engine_ops engine_none = {
    .name = "none",
    .summary = "runs no code; for tests of devices",
    .counts_always = true,
    .available = none_available,
    .vm_init = none_vm_init,
    .vm_fini = none_vm_fini,
    .vcpu_init = none_vcpu_init,
    .vcpu_fini = none_vcpu_fini,
    .run = none_run,
};
