/* SPDX-License-Identifier: MIT */
/*
 * The engine that owns two; see lockstep.h. Each run is one slice: the leader to the slice's end or
 * whatever stops it before, the follower to the same place, the comparison.
 */
#include "engine/lockstep/lockstep.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/gate.h"

#define SLICE_STANDARD 8192u
/* Pages written are compared after each slice; this often, or when they are many, both engines
 * forget that they may write them. In between, their TLBs stay warm as in production. */
#define CLEAN_SLICES 16u
#define CLEAN_PAGES  192u
#define BYTES_EXTRA  (16u << 20) /* that devices may write in one slice, beyond the size of RAM */

static int available(struct error *e)
{
    return 0;
}

/* Address space only, until it is used. */
static void *reserve(uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p != MAP_FAILED ? p : NULL;
}

static void release(void *p, uint64_t size)
{
    if (p != NULL)
        munmap(p, size);
}

static int make_log(struct lockstep *l, struct error *e)
{
    uint64_t ram = 0;
    for (unsigned n = 0; n < l->machine->mem->block_count; n++)
        ram += l->machine->mem->blocks[n].size;
    l->room = 4 * l->config.slice + (1u << 16); /* few instructions make more than one entry */
    l->bytes_room = ram + BYTES_EXTRA;
    l->log = reserve(l->room * sizeof(struct entry));
    l->bytes = reserve(l->bytes_room);
    l->leader_pages.lockstep = l->follower_pages.lockstep = l;
    l->leader_pages.pages = reserve(LOCKSTEP_PAGES * sizeof(uint64_t));
    l->follower_pages.pages = reserve(LOCKSTEP_PAGES * sizeof(uint64_t));
    if (l->log == NULL || l->bytes == NULL || l->leader_pages.pages == NULL ||
        l->follower_pages.pages == NULL)
        return error_set(e, ENOMEM, "lockstep: no memory for the log");
    return 0;
}

/* RAM of the follower's own; loaders may have written to the machine's already. */
static int make_memory(struct lockstep *l, struct error *e)
{
    struct mem *m = l->machine->mem;
    int err = 0;

    for (unsigned n = 0; n < m->block_count && err == 0; n++) {
        const struct mem_block *b = &m->blocks[n];
        bool rom = (b->flags[0] & MEM_PAGE_ROM) != 0;
        err = mem_add(&l->mem, b->name, b->base, b->size, MEM_ANONYMOUS, rom, e);
        for (uint64_t at = 0; at < b->size && err == 0; at += MEM_PAGE_SIZE) {
            if (b->flags[at / MEM_PAGE_SIZE] & MEM_PAGE_DIRTY)
                mem_write(&l->mem, GPA(b->base.v + at), b->host + at, MEM_PAGE_SIZE);
        }
    }
    if (err == 0) {
        mem_observe(
            m, (struct mem_observer){lockstep_page_dirtied, lockstep_copied, &l->leader_pages});
        mem_observe(&l->mem,
                    (struct mem_observer){lockstep_page_dirtied, NULL, &l->follower_pages});
    }
    return err;
}

static void hook_machine(struct lockstep *l)
{
    struct x86_platform *p = l->machine;

    l->platform = (struct x86_platform){
        .mem = &l->mem,
        .bus = p->bus,
        .clock = p->clock,
        .cpuid = p->cpuid,
        .msrs = &l->msrs,
        .gate = &lockstep_replay_gate,
        .gate_context = l,
        .physical_address_bits = p->physical_address_bits,
    };
    lockstep_replay_msrs(l);
    l->gate = p->gate;
    l->gate_context = p->gate_context;
    p->gate = &lockstep_record_gate;
    p->gate_context = l;
    lockstep_record_msrs(l);
}

static void unhook_machine(struct lockstep *l)
{
    if (l->gate == NULL)
        return;
    lockstep_unrecord_msrs(l);
    l->machine->gate = l->gate;
    l->machine->gate_context = l->gate_context;
    mem_observe(l->machine->mem, (struct mem_observer){0});
}

static void vm_fini(void *engine_vm)
{
    struct lockstep *l = engine_vm;

    if (l->leader_vm != NULL)
        l->leader->vm_fini(l->leader_vm);
    if (l->follower_vm != NULL)
        engine_interp.vm_fini(l->follower_vm);
    unhook_machine(l);
    mem_fini(&l->mem);
    release(l->log, l->room * sizeof(struct entry));
    release(l->bytes, l->bytes_room);
    release(l->leader_pages.pages, LOCKSTEP_PAGES * sizeof(uint64_t));
    release(l->follower_pages.pages, LOCKSTEP_PAGES * sizeof(uint64_t));
    free(l);
}

static int vm_init(struct x86_platform *p, void **engine_vm, struct error *e)
{
    struct lockstep *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return error_set(e, ENOMEM, "lockstep: no memory");
    l->machine = p;
    if (p->engine_config != NULL)
        l->config = *p->engine_config;
    if (l->config.slice == 0)
        l->config.slice = SLICE_STANDARD;
    l->leader = l->config.leader != NULL ? l->config.leader : &engine_bt;
    mem_init(&l->mem);
    int err = l->leader->available(e);
    if (err == 0)
        err = make_log(l, e);
    if (err == 0)
        err = make_memory(l, e);
    if (err == 0) {
        hook_machine(l);
        err = engine_interp.vm_init(&l->platform, &l->follower_vm, e);
    }
    if (err == 0)
        err = l->leader->vm_init(p, &l->leader_vm, e);
    if (err != 0)
        vm_fini(l);
    else
        *engine_vm = l;
    return err;
}

static int make_follower(struct lockstep *l, unsigned id, struct error *e)
{
    struct vcpu *f = aligned_alloc(64, (sizeof(*f) + 63) & ~(size_t)63);
    if (f == NULL)
        return error_set(e, ENOMEM, "lockstep: no memory for the processor");
    memset(f, 0, sizeof(*f));
    f->id = id;
    f->platform = &l->platform;
    vcpu_reset(f);
    int err = engine_interp.vcpu_init(l->follower_vm, f, e);
    if (err != 0)
        free(f);
    else
        l->follower = f;
    return err;
}

static void free_follower(struct lockstep *l)
{
    engine_interp.vcpu_fini(l->follower);
    free(l->follower);
    l->follower = NULL;
}

static int vcpu_init(void *engine_vm, struct vcpu *v, struct error *e)
{
    struct lockstep *l = engine_vm;

    if (l->v != NULL)
        return error_set(e, ENOTSUP, "lockstep checks one processor");
    int err = make_follower(l, v->id, e);
    if (err != 0)
        return err;
    err = l->leader->vcpu_init(l->leader_vm, v, e);
    if (err != 0) {
        free_follower(l);
        return err;
    }
    l->v = v;
    l->irq = v->irq;
    l->irq_context = v->irq_context;
    if (v->irq != NULL) {
        v->irq = &lockstep_record_irq;
        v->irq_context = l;
        l->follower->irq = &lockstep_replay_irq;
        l->follower->irq_context = l;
    }
    return 0;
}

static void vcpu_fini(struct vcpu *v)
{
    struct lockstep *l = v->platform->gate_context;

    l->leader->vcpu_fini(v);
    if (v->irq == &lockstep_record_irq) {
        v->irq = l->irq;
        v->irq_context = l->irq_context;
    }
    l->v = NULL;
    free_follower(l);
}

/* Outside run the struct vcpu is anybody's: it may have been reset, loaded or changed by hand. Then
 * its translations went, and the follower's must go as well. */
static void begin(struct lockstep *l)
{
    struct vcpu *f = l->follower;
    bool changed = lockstep_registers(l, NULL, NULL) != 0;

    lockstep_copy_registers(l); /* RF at least */
    if (changed) {
        vcpu_update_mode(f);
        tlb_init(&f->tlb);
    }
    f->counters.exits[EXIT_EXCEPTION] = l->v->counters.exits[EXIT_EXCEPTION];
    l->start = l->v->counters.instructions;
    l->slices++;
    l->count = l->next = l->bytes_used = 0;
    l->recent[l->recent_count++ % LOCKSTEP_RECENT] =
        (struct entry){.kind = ENTRY_SLICE,
                       .rip = l->v->rip,
                       .instructions = l->start,
                       .exceptions = f->counters.exits[EXIT_EXCEPTION]};
}

static void remember(struct lockstep *l)
{
    uint64_t n = l->count > LOCKSTEP_RECENT ? l->count - LOCKSTEP_RECENT : 0;
    for (; n < l->count; n++)
        l->recent[l->recent_count++ % LOCKSTEP_RECENT] = l->log[n];
}

static bool check(struct lockstep *l)
{
    if (l->foreign)
        snprintf(l->why, sizeof(l->why),
                 "guest memory was written by another thread while the "
                 "guest ran, which lockstep does not order");
    else if (l->full)
        snprintf(l->why, sizeof(l->why), "the log of one slice is full");
    if (l->slices == l->config.inject)
        lockstep_inject(l, l->config.inject);
    remember(l);
    if (l->why[0] != '\0' || !lockstep_follow(l) || !lockstep_compare(l)) {
        lockstep_report(l);
        return false;
    }
    if (l->slices % CLEAN_SLICES == 0 || l->leader_pages.count > CLEAN_PAGES ||
        l->leader_pages.overflow || l->follower_pages.overflow)
        lockstep_clean(l);
    return true;
}

static enum exit_reason run(struct vcpu *v, uint64_t limit)
{
    struct lockstep *l = v->platform->gate_context;
    uint64_t done = v->counters.instructions;
    uint64_t end = limit - done > l->config.slice && limit > done ? done + l->config.slice : limit;

    if (l->why[0] != '\0')
        return EXIT_ERROR;
    begin(l);
    l->thread = pthread_self();
    l->running = true;
    enum exit_reason exit = l->leader->run(v, end);
    l->running = false;
    return exit != EXIT_ERROR && check(l) ? exit : EXIT_ERROR;
}

static void stats(const struct vcpu *v,
                  void (*put)(void *context, const char *group, const char *name, uint64_t value),
                  void *context)
{
    const struct lockstep *l = v->platform->gate_context;

    put(context, "lockstep", "slices", l->slices);
    if (l->leader->stats != NULL)
        l->leader->stats(v, put, context);
}

const struct engine_ops engine_lockstep = {
    .name = "lockstep",
    .summary = "two engines, compared",
    .counts_always = true,
    .available = available,
    .vm_init = vm_init,
    .vm_fini = vm_fini,
    .vcpu_init = vcpu_init,
    .vcpu_fini = vcpu_fini,
    .run = run,
    .stats = stats,
};
