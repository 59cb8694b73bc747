/* SPDX-License-Identifier: MIT */
/*
 * The engines as subjects: they run cases in the VM of guest.h.
 *
 * Under the interpreter cases alternate between its two ways in: interp_step, and run with a limit
 * (chained records, REP stopped and taken up again at every iteration).
 *
 * The translator gives no single steps of its own: with a limit so near the interpreter runs. There
 * the instruction is run with what follows, an INT3 wherever it may lead in the code pages, a fetch
 * fault elsewhere: either means that it has completed, and where. A branch into its own bytes is
 * left out, for what runs then is another instruction.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "engine/interp/step.h"
#include "guest.h"
#include "subject.h"

#define REP_LIMIT        100000u  /* steps of one REP; the window ends it far sooner */
#define TRANSLATED_LIMIT 1000000u /* far enough for translated code */

static void guest_destroy(void *subject)
{
    struct guest *g = subject;

    if (g->v && g->v->engine_state)
        g->engine->vcpu_fini(g->v);
    if (g->engine_vm)
        g->engine->vm_fini(g->engine_vm);
    if (g->clock)
        clock_destroy(g->clock);
    mem_fini(&g->mem);
    free(g->v);
    free(g);
}

static int wire(struct guest *g, struct error *e)
{
    struct clock_config clock = {.source = CLOCK_SOURCE_REAL};
    int err;

    mem_init(&g->mem);
    bus_init(&g->bus);
    msr_table_init(&g->msrs);
    err = mem_add(&g->mem, "ram", GPA(0), GUEST_RAM, MEM_ANONYMOUS, false, e);
    if (!err)
        err = clock_create(&clock, &g->clock, e);
    if (!err)
        err = cpuid_model_build(&g->model, "max", clock_tsc_hz(g->clock), 1, e);
    if (err)
        return err;
    g->platform = (struct x86_platform){.mem = &g->mem,
                                        .bus = &g->bus,
                                        .clock = g->clock,
                                        .cpuid = &g->model,
                                        .msrs = &g->msrs,
                                        .gate = &gate_repeatable,
                                        .gate_context = &g->random,
                                        .physical_address_bits = 40};
    g->v->platform = &g->platform;
    err = g->engine->vm_init(&g->platform, &g->engine_vm, e);
    return err ? err : g->engine->vcpu_init(g->engine_vm, g->v, e);
}

static int guest_create(void **subject, const struct engine_ops *engine, bool counting, bool code32,
                        struct error *e)
{
    struct guest *g = calloc(1, sizeof(*g));
    int err;

    if (!g)
        return error_set(e, ENOMEM, "no memory for the guest");
    g->engine = engine;
    g->counting = counting;
    g->code32 = code32;
    g->v = aligned_alloc(64, (sizeof(*g->v) + 63) & ~(size_t)63);
    if (!g->v) {
        free(g);
        return error_set(e, ENOMEM, "no memory for the guest's vCPU");
    }
    memset(g->v, 0, sizeof(*g->v));
    err = wire(g, e);
    if (err) {
        guest_destroy(g);
        return err;
    }
    g->ram = mem_page(&g->mem, GPA(0), NULL);
    g->arena = g->ram + GUEST_ARENA;
    guest_make_machine(g);
    diff_arena_fill(g->base);
    memcpy(g->before, g->base, DIFF_ARENA);
    memcpy(g->arena, g->base, DIFF_ARENA);
    *subject = g;
    return 0;
}

static void load(struct guest *g, const struct diff_case *c)
{
    const struct diff_state *s = &c->in;
    struct vcpu *v = g->v;

    g->random = c->seed;
    memcpy(v->gpr, s->gpr, sizeof(v->gpr));
    v->rip = s->rip;
    v->rflags = s->rflags;
    for (unsigned i = 0; i < 6; i++)
        v->seg[i] = guest_segment(g, c->in.selector[i], diff_segment_base(c, i));
    v->cpl = 3;
    v->vector = s->vector;
    v->interrupt_shadow = v->shadow_blocks_debug = false;
    v->debug_pending = 0;
    v->activity = VCPU_ACTIVE;
    vcpu_update_mode(v);
}

/* Whoever writes a page that holds decoded code must say so. */
static void tell_written(struct guest *g)
{
    for (unsigned i = 0; i < DIFF_PAGES; i++) {
        gpa_t page = GPA(GUEST_ARENA + i * DIFF_PAGE);
        _Atomic uint8_t *flags = NULL;

        mem_page(&g->mem, page, &flags);
        if (flags && (atomic_load(flags) & MEM_PAGE_CODE))
            mem_page_written(&g->mem, page, flags);
    }
}

/* Until the instruction is done: a REP may stop before. */
static bool interpret(struct guest *g, const struct diff_case *c)
{
    struct vcpu *v = g->v;

    for (unsigned i = 0; i < REP_LIMIT; i++) {
        uint64_t before = v->counters.instructions;
        enum exit_reason exit;

        if (c->number & 1)
            exit = engine_interp.run(v, before + 1);
        else
            exit = interp_step(v);
        v->instruction_limit = UINT64_MAX;
        if (v->cpl == 0 || v->rip != c->in.rip || !c->end_by_int3)
            return exit != EXIT_SHUTDOWN && exit != EXIT_ERROR;
    }
    return false;
}

/* The handler of the INT3 or of the fetch fault ends it by HLT. */
static bool translate(struct guest *g)
{
    struct vcpu *v = g->v;
    uint64_t limit = v->counters.instructions + TRANSLATED_LIMIT;

    return g->engine->run(v, g->counting ? limit : ENGINE_NO_LIMIT) == EXIT_HLT;
}

/* Words of 4 bytes, on a stack that is not aligned. */
static void collect_fault32(struct guest *g, struct diff_outcome *o, uint32_t frame)
{
    if (frame == GUEST_STACK - 24) {
        o->error = get32(g, frame);
        frame += 4;
    }
    o->out.rip = get32(g, frame);
    o->out.selector[SEG_CS] = (uint16_t)get32(g, frame + 4);
    o->out.rflags = get32(g, frame + 8);
    o->out.gpr[RSP] = get32(g, frame + 12);
    o->out.selector[SEG_SS] = (uint16_t)get32(g, frame + 16);
}

static void collect_fault(struct guest *g, struct diff_outcome *o)
{
    const struct vcpu *v = g->v;
    uint64_t at = v->rip - (g->kernel + GUEST_HANDLERS);
    uint64_t frame = v->gpr[RSP] - g->kernel;
    bool has_error;

    if (at >= GUEST_VECTORS * GUEST_HANDLER || frame > GUEST_STACK - 20 ||
        frame < GUEST_STACK - 80) {
        o->failure = DIFF_STRANGE;
        return;
    }
    o->vector = (uint8_t)(at / GUEST_HANDLER);
    o->address = v->cr2;
    if (g->code32) {
        collect_fault32(g, o, (uint32_t)frame);
        return;
    }
    has_error = frame == GUEST_STACK - 48; /* else five words from the aligned top */
    if (has_error) {
        o->error = (uint32_t)get64(g, (uint32_t)frame);
        frame += 8;
    }
    o->out.rip = get64(g, (uint32_t)frame);
    o->out.selector[SEG_CS] = (uint16_t)get64(g, (uint32_t)frame + 8);
    o->out.rflags = get64(g, (uint32_t)frame + 16);
    o->out.gpr[RSP] = get64(g, (uint32_t)frame + 24);
    o->out.selector[SEG_SS] = (uint16_t)get64(g, (uint32_t)frame + 32);
}

static bool within(const struct diff_case *c, uint64_t rip)
{
    return rip - c->in.rip < c->length;
}

/* What came after the instruction is not its own: taken off the outcome. */
static void completed(const struct diff_case *c, struct diff_outcome *o)
{
    if (o->vector == VECTOR_BP && !within(c, o->out.rip - 1)) {
        o->out.rip--;
        o->vector = DIFF_NO_VECTOR;
    } else if (o->vector == VECTOR_PF && (o->error & PF_FETCH) && o->address == o->out.rip &&
               o->out.rip != c->in.rip) {
        o->out.rflags &= ~(uint64_t)FLAG_RF;
        o->vector = DIFF_NO_VECTOR;
    }
}

static void collect(struct guest *g, const struct diff_case *c, struct diff_outcome *o)
{
    const struct vcpu *v = g->v;

    memcpy(o->out.gpr, v->gpr, sizeof(o->out.gpr));
    o->out.rip = v->rip;
    o->out.rflags = v->rflags;
    for (unsigned i = 0; i < 6; i++)
        o->out.selector[i] = v->seg[i].selector;
    o->out.fs_base = v->seg[SEG_FS].base;
    o->out.gs_base = v->seg[SEG_GS].base;
    o->out.vector = v->vector;
    o->vector = DIFF_NO_VECTOR;
    o->error = 0;
    o->address = 0;
    if (v->cpl == 0)
        collect_fault(g, o);
    diff_arena_collect(o, g->arena, g->before, g->base, c);
    tell_written(g);
}

/* The same once more on units that are there and linked: with the code untouched. */
static bool run_again(struct guest *g, const struct diff_case *c)
{
    const unsigned code = DIFF_CODE_PAGES * DIFF_PAGE;

    if (memcmp(g->arena, g->before, code) != 0)
        return false;
    memcpy(g->arena + code, g->before + code, DIFF_ARENA - code);
    load(g, c);
    return true;
}

/* Without a limit a block that goes astray may never end: half a minute of one run is too much,
 * even where the host slows split locks down. */
static struct {
    struct vcpu *_Atomic vcpu;
    _Atomic unsigned ticks;
} watch;

static void on_tick(int number)
{
    struct vcpu *v = watch.vcpu;
    if (v != NULL && watch.ticks++ >= 300)
        vcpu_request(v, VCPU_REQUEST_STOP);
}

static void watch_begin(struct vcpu *v)
{
    static bool started;
    struct itimerval tick = {{0, 100000}, {0, 100000}};

    watch.ticks = 0;
    watch.vcpu = v;
    if (!started)
        started = signal(SIGALRM, on_tick) != SIG_ERR && setitimer(ITIMER_REAL, &tick, NULL) == 0;
}

static void watch_end(struct vcpu *v)
{
    watch.vcpu = NULL;
    vcpu_request_clear(v, VCPU_REQUEST_STOP);
}

static void run_block(struct guest *g, const struct diff_case *c, struct diff_outcome *o)
{
    bool limited = g->engine == &engine_interp || g->counting;
    bool twice = g->engine != &engine_interp && (c->number & 1) != 0;
    enum exit_reason exit;

    guest_set_code_writable(g, c->code_writable);
    diff_case_lay(c, g->arena);
    diff_case_lay(c, g->before);
    tell_written(g);
    load(g, c);
    if (!limited)
        watch_begin(g->v);
    do {
        uint64_t limit = g->v->counters.instructions + DIFF_BLOCK_LIMIT;
        exit = g->engine->run(g->v, limited ? limit : ENGINE_NO_LIMIT);
    } while (twice && run_again(g, c) && (twice = false, true));
    if (!limited)
        watch_end(g->v);
    o->failure = exit == EXIT_HLT || exit == EXIT_NONE ? DIFF_RAN : DIFF_STRANGE;
    o->stopped = exit == EXIT_NONE;
    collect(g, c, o);
    completed(c, o);
}

static int guest_run(void *subject, const struct diff_case *cases,
                     const struct diff_outcome *processor, struct diff_outcome *outcomes,
                     unsigned n, struct error *e)
{
    struct guest *g = subject;
    bool translating = g->engine != &engine_interp;

    for (unsigned i = 0; i < n; i++) {
        const struct diff_case *c = &cases[i];
        struct diff_outcome *o = &outcomes[i];

        if (c->block) {
            if (processor == NULL || !processor[i].stopped || g->counting)
                run_block(g, c, o);
            continue;
        }
        if (translating && processor[i].vector == DIFF_NO_VECTOR &&
            within(c, processor[i].out.rip)) {
            o->failure = DIFF_LEFT_OUT;
            continue;
        }
        diff_case_lay(c, g->arena);
        diff_case_lay(c, g->before);
        tell_written(g);
        load(g, c);
        bool ran = translating ? translate(g) : interpret(g, c);
        o->failure = ran ? DIFF_RAN : DIFF_STRANGE;
        collect(g, c, o);
        if (translating)
            completed(c, o);
    }
    return 0;
}

static void add_units(void *context, const char *group, const char *name, uint64_t value)
{
    if (group == NULL && !strcmp(name, "units"))
        *(uint64_t *)context += value;
}

static uint64_t guest_units(void *subject)
{
    struct guest *g = subject;
    uint64_t units = 0;

    if (g->engine->stats != NULL)
        g->engine->stats(g->v, add_units, &units);
    return units;
}

static int create_interp(void **subject, struct error *e)
{
    return guest_create(subject, &engine_interp, false, false, e);
}

static int create_interp32(void **subject, struct error *e)
{
    return guest_create(subject, &engine_interp, false, true, e);
}

static int create_bt(void **subject, struct error *e)
{
    return guest_create(subject, &engine_bt, false, false, e);
}

static int create_bt_counting(void **subject, struct error *e)
{
    return guest_create(subject, &engine_bt, true, false, e);
}

static int create_bt32(void **subject, struct error *e)
{
    return guest_create(subject, &engine_bt, false, true, e);
}

static int create_bt32_counting(void **subject, struct error *e)
{
    return guest_create(subject, &engine_bt, true, true, e);
}

#define SUBJECT(engine, bits32, flats, made, counts)                             \
    {                                                                            \
        .name = (engine), .code32 = (bits32), .flat = (flats), .create = (made), \
        .destroy = guest_destroy, .run = guest_run, .units = (counts)            \
    }

const struct subject_ops subject_interp = SUBJECT("interp", false, false, create_interp, NULL);
const struct subject_ops subject_interp32 = SUBJECT("interp32", true, false, create_interp32, NULL);
const struct subject_ops subject_bt = SUBJECT("bt", false, false, create_bt, guest_units);
const struct subject_ops subject_bt_counting =
    SUBJECT("bt-counting", false, false, create_bt_counting, guest_units);
const struct subject_ops subject_bt32 = SUBJECT("bt32", true, true, create_bt32, guest_units);
const struct subject_ops subject_bt32_counting =
    SUBJECT("bt32-counting", true, true, create_bt32_counting, guest_units);
