/* SPDX-License-Identifier: MIT */
/*
 * The contract of an engine: a way of running vCPUs.
 *
 *  - available: may be called at any time; 0, or -errno with the sentence that says what the host
 *    lacks. caps tells the composition of the CPUID model what the engine cannot run.
 *  - vm_init/vm_fini: once per VM, before the first vCPU thread; the engine adds its mem_listener.
 *  - vcpu_init/vcpu_fini: on the wiring thread.
 *  - run: on the vCPU's own thread. Executes until v->counters.instructions >= limit (EXIT_NONE),
 *    HLT with nothing pending (EXIT_HLT), VCPU_REQUEST_STOP (EXIT_REQUEST; the bit is left set for
 *    the machine to clear), triple fault (EXIT_SHUTDOWN), or failure of the host (EXIT_ERROR, the
 *    sentence logged). Port, MMIO, MSR, CPUID and the like are served inside through the gate and
 *    counted in v->counters. Polls v->requests at least every 4,096 instructions; with a limit, it
 *    stops exactly there (REP counts each iteration). With ENGINE_NO_LIMIT it need not count the
 *    instructions at all: v->counters.instructions is then what it happens to know.
 *  - sync: moves register groups into struct vcpu; run() of software engines leaves all valid.
 *
 * Threads: run may be on several vCPUs at once. Pre: v->unwind is the engine's to set.
 */
#ifndef DOPPEL_ENGINE_ENGINE_H
#define DOPPEL_ENGINE_ENGINE_H

#include "engine/gate.h"

#define ENGINE_NO_LIMIT UINT64_MAX

/* Bits of x86_platform.checks. ORDER check_names */
enum engine_check {
    ENGINE_CHECK_TRANSLATIONS = 1 << 0, /* bt: each one is proved to keep its rules */
    ENGINE_CHECK_LOCKSTEP = 1 << 1,     /* engine_lockstep runs it beside the reference */
};

struct engine_ops {
    const char *name;
    const char *summary; /* for --help */
    bool counts_always;  /* instructions, with ENGINE_NO_LIMIT too */
    unsigned checks;     /* enum engine_check: those that it can make */
    int (*available)(struct error *e);
    int (*vm_init)(struct x86_platform *p, void **engine_vm, struct error *e);
    void (*vm_fini)(void *engine_vm);
    int (*vcpu_init)(void *engine_vm, struct vcpu *v, struct error *e);
    void (*vcpu_fini)(struct vcpu *v);
    enum exit_reason (*run)(struct vcpu *v, uint64_t limit);
    /* Counters of the engine's own, for --stats: calls put for each; NULL = none. While v stands
     * still. A name may come several times: they are added up. */
    void (*stats)(const struct vcpu *v,
                  void (*put)(void *context, const char *group, const char *name, uint64_t value),
                  void *context);
};

/* How an engine is to run beside its own defaults; platform->engine_config, which may be NULL. */
struct engine_config {
    uint64_t bt_cache; /* bytes of translated code; 0 = the default */
    FILE *trace;       /* a line for each unit of guest code executed: instructions retired, RIP */
    bool perf_map;     /* name translated code for perf in /tmp/perf-PID.map */

    /* Of engine_lockstep. */
    const struct engine_ops *leader; /* checked against engine_interp */
    uint64_t slice;                  /* instructions between two comparisons */
    uint64_t inject; /* after that many slices flip a bit of the leader; 0 = never */
};

extern const struct engine_ops engine_interp;
extern const struct engine_ops engine_bt;
extern const struct engine_ops engine_none; /* runs nothing: EXIT_HLT at once */

/* Two of them, compared (engine/lockstep/). For one vCPU; run() returns EXIT_NONE earlier than the
 * limit. Not by a name of its own: --check lockstep. */
extern const struct engine_ops engine_lockstep;

/* NULL-terminated, in the order of preference of `auto`. */
extern const struct engine_ops *const engines[];

/* "auto" or a name. NULL with the sentence when unknown or not available here. */
const struct engine_ops *engine_find(const char *name, struct error *e);

#endif
