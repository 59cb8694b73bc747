/* SPDX-License-Identifier: MIT */
/*
 * The engines as subjects: a VM whose page tables give the address space of diff.h to CPL 3.
 *
 *   physical 0         page tables, GDT, IDT, TSS, kernel stack; linear GUEST_KERNEL, supervisor
 *   physical 0x100000  the arena
 *
 * The GDT's user descriptors are the host kernel's, read by LAR and LSL, so that loads of segment
 * registers end alike. A fault is seen where the guest's kernel would see it: each gate leads to an
 * address of its own (which holds HLT), and the frame on its stack has RIP, RFLAGS and error code.
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

#include "advertised.h"
#include "bus/bus.h"
#include "clock/clock.h"
#include "engine/engine.h"
#include "engine/interp/step.h"
#include "subject.h"
#include "x86/cpuid.h"
#include "x86/msr.h"

#define GUEST_KERNEL   UINT64_C(0xffffffff80000000)
#define GUEST_PML4     0x1000u
#define GUEST_PDPT_LOW 0x2000u
#define GUEST_PDPT_TOP 0x3000u
#define GUEST_PD_LOW   0x4000u
#define GUEST_PD_TOP   0x5000u
#define GUEST_PT_CODE  0x6000u
#define GUEST_PT_DATA  0x7000u
#define GUEST_GDT      0x8000u
#define GUEST_IDT      0x9000u
#define GUEST_TSS      0xa000u
#define GUEST_HANDLERS 0xb000u /* one of GUEST_HANDLER bytes for each vector */
#define GUEST_HANDLER  16u
#define GUEST_STACK    0xe000u /* its top */
#define GUEST_ARENA    0x100000u
#define GUEST_RAM      0x200000u
#define GUEST_VECTORS  32u

#define SELECTOR_KERNEL_CODE 0x10u
#define SELECTOR_TSS         0x40u
#define GDT_ENTRIES          16u
#define REP_LIMIT            100000u /* steps of one REP; the window ends it far sooner */

#define PTE_P     1u
#define PTE_W     2u
#define PTE_U     4u
#define PTE_LARGE 0x80u
#define PTE_NX    (UINT64_C(1) << 63)

#define TRANSLATED_LIMIT 1000000u /* far enough for translated code */

struct guest {
    const struct engine_ops *engine;
    bool counting; /* run gets a limit */
    struct mem mem;
    struct bus bus;
    struct vm_clock *clock;
    struct cpuid_model model;
    struct msr_table msrs;
    struct x86_platform platform;
    struct vcpu *v;
    void *engine_vm;
    uint8_t *ram, *arena;
    bool code_writable;
    uint64_t gdt[GDT_ENTRIES];
    uint8_t base[DIFF_ARENA], before[DIFF_ARENA];
};

static void put64(struct guest *g, uint32_t at, uint64_t value)
{
    memcpy(g->ram + at, &value, 8);
}

static uint64_t get64(const struct guest *g, uint32_t at)
{
    uint64_t value;

    memcpy(&value, g->ram + at, 8);
    return value;
}

static void make_page_tables(struct guest *g)
{
    const uint64_t table = PTE_P | PTE_W | PTE_U;

    put64(g, GUEST_PML4, GUEST_PDPT_LOW | table);
    put64(g, GUEST_PML4 + 511 * 8, GUEST_PDPT_TOP | table);
    put64(g, GUEST_PDPT_LOW, GUEST_PD_LOW | table);
    put64(g, GUEST_PDPT_TOP + 510 * 8, GUEST_PD_TOP | table);
    put64(g, GUEST_PD_TOP, PTE_P | PTE_W | PTE_LARGE);
    put64(g, GUEST_PD_LOW + (DIFF_CODE >> 21) * 8, GUEST_PT_CODE | table);
    put64(g, GUEST_PD_LOW + (DIFF_DATA >> 21) * 8, GUEST_PT_DATA | table);
    for (unsigned i = 0; i < DIFF_PAGES; i++) {
        uint32_t linear = diff_pages[i].linear;
        uint8_t access = diff_pages[i].access;
        uint32_t pt = linear >= DIFF_DATA ? GUEST_PT_DATA : GUEST_PT_CODE;
        put64(g, pt + (linear >> 12 & 511) * 8,
              (GUEST_ARENA + i * DIFF_PAGE) | PTE_P | PTE_U | ((access & DIFF_WRITE) ? PTE_W : 0) |
                  ((access & DIFF_EXECUTE) ? 0 : PTE_NX));
    }
}

static void set_code_writable(struct guest *g, bool writable)
{
    if (g->code_writable == writable)
        return;
    g->code_writable = writable;
    for (unsigned i = 0; i < DIFF_CODE_PAGES; i++) {
        uint64_t entry = (GUEST_ARENA + i * DIFF_PAGE) | PTE_P | PTE_U | (writable ? PTE_W : 0);
        put64(g, GUEST_PT_CODE + (DIFF_CODE >> 12 & 511) * 8 + i * 8, entry);
        put64(g, GUEST_PT_DATA + (DIFF_ALIAS >> 12 & 511) * 8 + i * 8,
              writable ? entry | PTE_NX : 0);
    }
    tlb_flush_all(g->v);
}

/* A descriptor as LAR and LSL show it: type to G in bits 8 to 23, and the limit in bytes. */
static uint64_t descriptor(uint32_t rights, uint32_t limit)
{
    uint64_t low = (rights & 0x800000) ? limit >> 12 : limit;

    return (low & 0xffff) | (uint64_t)(rights & 0xf0ff00) << 32 | (low & 0xf0000) << 32;
}

static void make_gdt(struct guest *g)
{
    for (unsigned i = 1; i < GDT_ENTRIES; i++) {
        uint32_t selector = i * 8 + 3, rights = 0, limit = 0;
        bool seen;

        __asm__("lar %2, %0; setz %1" : "+r"(rights), "=q"(seen) : "r"(selector) : "cc");
        if (seen)
            __asm__("lsl %1, %0" : "+r"(limit) : "r"(selector) : "cc");
        g->gdt[i] = seen ? descriptor(rights, limit) : 0;
    }
    g->gdt[SELECTOR_KERNEL_CODE / 8] = descriptor(0xa09b00, UINT32_MAX);
    g->gdt[3] = descriptor(0xc09300, UINT32_MAX);
    g->gdt[1] = descriptor(0xc09b00, UINT32_MAX);
    memcpy(g->ram + GUEST_GDT, g->gdt, sizeof(g->gdt));
    put64(g, GUEST_GDT + SELECTOR_TSS,
          descriptor(0x008b00, 0x67) | GUEST_TSS << 16 | (GUEST_KERNEL >> 24 & 0xff) << 56);
    put64(g, GUEST_GDT + SELECTOR_TSS + 8, GUEST_KERNEL >> 32);
    put64(g, GUEST_TSS + 4, GUEST_KERNEL + GUEST_STACK); /* RSP0 */
    g->ram[GUEST_TSS + 0x66] = 0xff;                     /* the I/O bitmap: beyond the limit */
}

static void make_idt(struct guest *g)
{
    for (unsigned i = 0; i < GUEST_VECTORS; i++) {
        uint64_t handler = GUEST_KERNEL + GUEST_HANDLERS + i * GUEST_HANDLER;
        uint64_t dpl = i == VECTOR_BP || i == VECTOR_OF ? 3 : 0;

        put64(g, GUEST_IDT + i * 16,
              (handler & 0xffff) | SELECTOR_KERNEL_CODE << 16 | (0x8e00 | dpl << 13) << 32 |
                  (handler >> 16 & 0xffff) << 48);
        put64(g, GUEST_IDT + i * 16 + 8, handler >> 32);
    }
    memset(g->ram + GUEST_HANDLERS, 0xf4, GUEST_VECTORS * GUEST_HANDLER);
}

/* System registers; cases do not change them. */
static void make_system(struct guest *g)
{
    struct vcpu *v = g->v;

    vcpu_reset(v);
    v->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    v->cr3 = GUEST_PML4;
    v->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE |
             CR4_UMIP | CR4_DE | CR4_MCE;
    v->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    v->xcr0 = g->model.xcr0_supported;
    v->gdtr = (struct x86_table_register){GUEST_KERNEL + GUEST_GDT, sizeof(g->gdt) - 1};
    v->idtr = (struct x86_table_register){GUEST_KERNEL + GUEST_IDT, GUEST_VECTORS * 16 - 1};
    v->seg[SEG_LDTR] = (struct x86_segment){.attributes = ATTR_UNUSABLE | 0x82};
    v->seg[SEG_TR] = (struct x86_segment){.selector = SELECTOR_TSS,
                                          .attributes = 0x8b,
                                          .limit = 0x67,
                                          .base = GUEST_KERNEL + GUEST_TSS};
    v->instruction_limit = UINT64_MAX;
}

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
                                        .gate = &gate_live,
                                        .physical_address_bits = 40};
    g->v->platform = &g->platform;
    err = g->engine->vm_init(&g->platform, &g->engine_vm, e);
    return err ? err : g->engine->vcpu_init(g->engine_vm, g->v, e);
}

static int guest_create(void **subject, const struct engine_ops *engine, bool counting,
                        struct error *e)
{
    struct guest *g = calloc(1, sizeof(*g));
    int err;

    if (!g)
        return error_set(e, ENOMEM, "no memory for the guest");
    g->engine = engine;
    g->counting = counting;
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
    make_page_tables(g);
    make_gdt(g);
    make_idt(g);
    make_system(g);
    diff_arena_fill(g->base);
    memcpy(g->before, g->base, DIFF_ARENA);
    memcpy(g->arena, g->base, DIFF_ARENA);
    *subject = g;
    return 0;
}

static struct x86_segment segment_of(const struct guest *g, uint16_t selector, uint64_t base)
{
    if ((selector & ~3u) == 0)
        return (struct x86_segment){
            .selector = selector, .attributes = ATTR_UNUSABLE, .base = base};
    return (struct x86_segment){.selector = selector,
                                .attributes = g->gdt[selector / 8] >> 40 & 0xf0ff,
                                .limit = UINT32_MAX,
                                .base = base};
}

static void load(struct guest *g, const struct diff_state *s)
{
    struct vcpu *v = g->v;

    memcpy(v->gpr, s->gpr, sizeof(v->gpr));
    v->rip = s->rip;
    v->rflags = s->rflags;
    for (unsigned i = 0; i < 6; i++)
        v->seg[i] = segment_of(g, s->selector[i],
                               i == SEG_FS   ? s->fs_base
                               : i == SEG_GS ? s->gs_base
                                             : 0);
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

static void collect_fault(struct guest *g, struct diff_outcome *o)
{
    const struct vcpu *v = g->v;
    uint64_t at = v->rip - (GUEST_KERNEL + GUEST_HANDLERS);
    uint64_t frame = v->gpr[RSP] - GUEST_KERNEL;
    bool has_error;

    if (at >= GUEST_VECTORS * GUEST_HANDLER || frame > GUEST_STACK - 40 ||
        frame < GUEST_STACK - 80) {
        o->failure = DIFF_STRANGE;
        return;
    }
    o->vector = (uint8_t)(at / GUEST_HANDLER);
    o->address = v->cr2;
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
    load(g, &c->in);
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

    set_code_writable(g, c->code_writable);
    diff_case_lay(c, g->arena);
    diff_case_lay(c, g->before);
    tell_written(g);
    load(g, &c->in);
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
        load(g, &c->in);
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
    return guest_create(subject, &engine_interp, false, e);
}

static int create_bt(void **subject, struct error *e)
{
    return guest_create(subject, &engine_bt, false, e);
}

static int create_bt_counting(void **subject, struct error *e)
{
    return guest_create(subject, &engine_bt, true, e);
}

const struct subject_ops subject_interp = {"interp", create_interp, guest_destroy, guest_run, NULL};
const struct subject_ops subject_bt = {"bt", create_bt, guest_destroy, guest_run, guest_units};
const struct subject_ops subject_bt_counting = {"bt-counting", create_bt_counting, guest_destroy,
                                                guest_run, guest_units};
