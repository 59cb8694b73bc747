/* SPDX-License-Identifier: MIT */
/* See oracle.h: the child that lives in its signal handler. Built without sanitizers and without
 * calls that the compiler could make to libc (build.mk). */
#include "oracle_child.h"

#include <asm/ldt.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define XSTATE_BV_OFFSET 512u
#define TRAP_DEBUG       VECTOR_DB
#define ST_BYTES         160u /* FCW … ST(7) of the legacy region */
#define FCW_INIT         0x37f

void oracle_entry(int signal);
void oracle_handler(int signal, siginfo_t *info, void *context);

static struct {
    struct oracle_shared *shared;
    uint8_t *arena; /* the pages of the case once more, all writable */
    uint32_t batch, index;
    bool running;
    uint8_t base[DIFF_ARENA], before[DIFF_ARENA];
    _Alignas(64) uint8_t stack[65536];
} child;

/* ORDER enum x86_gpr */
static const uint8_t gregs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};

static void copy(void *to, const void *from, unsigned long n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void zero(void *to, unsigned long n)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory");
}

static long futex(_Atomic uint32_t *word, long op, uint32_t value)
{
    register long r10 __asm__("r10") = 0;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_futex), "D"(word), "S"(op), "d"(value), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

static void load_quads(uint64_t *to, const uint64_t *from, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        to[i] = from[i];
}

/* Register by register, as XSAVE cuts them up (SDM 1, 13.4 and 13.5). */
static void vector_to_frame(const struct x86_vector *v, uint8_t *frame)
{
    const struct oracle_xsave *x = &child.shared->xsave;

    copy(frame, v, ST_BYTES);
    for (unsigned i = 0; i < 16; i++)
        load_quads((uint64_t *)(frame + 160 + 16 * i), &v->zmm[8 * i], 2);
    for (unsigned i = 0; x->ymm_high && i < 16; i++)
        load_quads((uint64_t *)(frame + x->ymm_high + 16 * i), &v->zmm[8 * i + 2], 2);
    if (x->opmask)
        load_quads((uint64_t *)(frame + x->opmask), v->k, 8);
    for (unsigned i = 0; x->zmm_high && i < 16; i++)
        load_quads((uint64_t *)(frame + x->zmm_high + 32 * i), &v->zmm[8 * i + 4], 4);
    if (x->zmm_upper)
        load_quads((uint64_t *)(frame + x->zmm_upper), &v->zmm[128], 128);
    *(uint64_t *)(frame + XSTATE_BV_OFFSET) |= x->mask;
}

static void frame_to_vector(const uint8_t *frame, struct x86_vector *v)
{
    const struct oracle_xsave *x = &child.shared->xsave;
    uint64_t in_use = *(const uint64_t *)(frame + XSTATE_BV_OFFSET);

    zero(v, sizeof(*v));
    if (in_use & XCR0_X87)
        copy(v, frame, ST_BYTES);
    else
        v->fcw = FCW_INIT;
    v->mxcsr = *(const uint32_t *)(frame + 24);
    v->mxcsr_mask = 0;
    for (unsigned i = 0; (in_use & XCR0_SSE) && i < 16; i++)
        load_quads(&v->zmm[8 * i], (const uint64_t *)(frame + 160 + 16 * i), 2);
    for (unsigned i = 0; (in_use & XCR0_AVX) && i < 16; i++)
        load_quads(&v->zmm[8 * i + 2], (const uint64_t *)(frame + x->ymm_high + 16 * i), 2);
    if (in_use & 1u << 5)
        load_quads(v->k, (const uint64_t *)(frame + x->opmask), 8);
    for (unsigned i = 0; (in_use & 1u << 6) && i < 16; i++)
        load_quads(&v->zmm[8 * i + 4], (const uint64_t *)(frame + x->zmm_high + 32 * i), 4);
    if (in_use & 1u << 7)
        load_quads(&v->zmm[128], (const uint64_t *)(frame + x->zmm_upper), 128);
}

/* DS, ES, FS, GS are not in the frame: they are still the case's. */
static void collect_segments(struct diff_state *s, const greg_t *g)
{
    uint64_t csgsfs = (uint64_t)g[REG_CSGSFS];
    uint32_t sel;

    __asm__ volatile("mov %%es, %0" : "=r"(sel));
    s->selector[SEG_ES] = (uint16_t)sel;
    __asm__ volatile("mov %%ds, %0" : "=r"(sel));
    s->selector[SEG_DS] = (uint16_t)sel;
    __asm__ volatile("mov %%fs, %0" : "=r"(sel));
    s->selector[SEG_FS] = (uint16_t)sel;
    __asm__ volatile("mov %%gs, %0" : "=r"(sel));
    s->selector[SEG_GS] = (uint16_t)sel;
    s->selector[SEG_CS] = csgsfs & 0xffff;
    s->selector[SEG_SS] = csgsfs >> 48;
    __asm__ volatile("rdfsbase %0" : "=r"(s->fs_base));
    __asm__ volatile("rdgsbase %0" : "=r"(s->gs_base));
}

static void load_segments32(const struct diff_state *s)
{
    __asm__ volatile("mov %0, %%es; mov %1, %%ds; mov %2, %%fs; mov %3, %%gs"
                     :
                     : "r"((uint32_t)s->selector[SEG_ES]), "r"((uint32_t)s->selector[SEG_DS]),
                       "r"((uint32_t)s->selector[SEG_FS]), "r"((uint32_t)s->selector[SEG_GS]));
}

static void load_segments(const struct diff_state *s)
{
    uint32_t null = 0;

    __asm__ volatile("mov %0, %%es; mov %0, %%ds; mov %0, %%fs; mov %0, %%gs" : : "r"(null));
    __asm__ volatile("wrfsbase %0" : : "r"(s->fs_base));
    __asm__ volatile("wrgsbase %0" : : "r"(s->gs_base));
}

/* An IRET to where no int3 is: it has run, the fetch at its target faults. */
static bool left_for_absent_code(const struct diff_case *c, const struct diff_outcome *o)
{
    return o->vector == VECTOR_PF && (o->error & PF_FETCH) && o->address == o->out.rip &&
           o->out.rip - c->in.rip >= c->length;
}

/* What the CPUID model offers in its place. The image is aligned. */
static void offer_mxcsr_mask(const struct diff_case *c)
{
    int offset = c->mxcsr_mask_at ? diff_arena_offset(c->mxcsr_mask_at) : -1;
    uint32_t *mask = (uint32_t *)(child.arena + offset);
    if (offset >= 0 && offset % 4 == 0 && *mask == child.shared->xsave.host_mxcsr_mask)
        *mask = (uint32_t)~MXCSR_RESERVED;
}

static void collect(const struct diff_case *c, struct diff_outcome *o, const ucontext_t *u)
{
    const greg_t *g = u->uc_mcontext.gregs;
    uint64_t vector = (uint64_t)g[REG_TRAPNO];

    collect_segments(&o->out, g);
    for (unsigned i = 0; i < 16; i++)
        o->out.gpr[i] = (uint64_t)g[gregs[i]];
    o->out.rip = (uint64_t)g[REG_RIP];
    o->out.rflags = (uint64_t)g[REG_EFL];
    frame_to_vector((const uint8_t *)u->uc_mcontext.fpregs, &o->out.vector);
    o->failure = DIFF_RAN;
    o->vector = (uint8_t)vector;
    o->error = (uint32_t)g[REG_ERR];
    o->address = (uint64_t)g[REG_CR2];
    if (c->end_by_int3 && vector == VECTOR_BP) {
        o->out.rip--;
        o->vector = DIFF_NO_VECTOR;
    } else if (!c->end_by_int3 && vector == TRAP_DEBUG) {
        o->vector = DIFF_NO_VECTOR;
    }
    if (c->end_by_int3 && left_for_absent_code(c, o)) {
        o->out.rflags &= ~(uint64_t)FLAG_RF;
        o->vector = DIFF_NO_VECTOR;
    }
    offer_mxcsr_mask(c);
    diff_arena_collect(o, child.arena, child.before, child.base, c);
}

static void load(const struct diff_case *c, ucontext_t *u)
{
    greg_t *g = u->uc_mcontext.gregs;

    diff_case_lay(c, child.arena);
    diff_case_lay(c, child.before);
    for (unsigned i = 0; i < 16; i++)
        g[gregs[i]] = (greg_t)c->in.gpr[i];
    g[REG_RIP] = (greg_t)c->in.rip;
    g[REG_EFL] = (greg_t)(c->in.rflags | (c->end_by_int3 ? 0 : FLAG_TF));
    g[REG_CSGSFS] =
        (greg_t)((uint64_t)c->in.selector[SEG_CS] | (uint64_t)c->in.selector[SEG_SS] << 48);
    vector_to_frame(&c->in.vector, (uint8_t *)u->uc_mcontext.fpregs);
    if (c->code32)
        load_segments32(&c->in);
    else
        load_segments(&c->in);
}

static void next_batch(void)
{
    struct oracle_shared *s = child.shared;

    if (child.batch) {
        atomic_store(&s->done, child.batch);
        futex(&s->done, FUTEX_WAKE, 1);
    }
    while (atomic_load(&s->go) == child.batch)
        futex(&s->go, FUTEX_WAIT, child.batch);
    child.batch = atomic_load(&s->go);
    child.index = s->first;
}

void oracle_handler(int signal, siginfo_t *info, void *context)
{
    struct oracle_shared *s = child.shared;

    if (child.running) {
        collect(&s->cases[child.index], &s->outcomes[child.index], context);
        child.index++;
    }
    if (!child.running || child.index == s->count)
        next_batch();
    child.running = true;
    atomic_store_explicit(&s->index, child.index, memory_order_relaxed);
    load(&s->cases[child.index], context);
}

/* Should a case reach a system call after all, it ends the child and is reported. */
static bool forbid_system_calls(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static bool map_arena(int fd)
{
    child.arena = mmap(NULL, DIFF_ARENA, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (child.arena == MAP_FAILED)
        return false;
    for (unsigned i = 0; i < DIFF_PAGES; i++) {
        uint8_t access = diff_pages[i].access;
        int protection = PROT_READ | ((access & DIFF_WRITE) ? PROT_WRITE : 0) |
                         ((access & DIFF_EXECUTE) ? PROT_EXEC : 0);
        void *at = (void *)(uintptr_t)diff_pages[i].linear;
        if (mmap(at, DIFF_PAGE, protection, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd,
                 (off_t)i * DIFF_PAGE) != at)
            return false;
    }
    /* A page that the kernel has not mapped yet faults as not present, whatever it may be. */
    for (unsigned i = 0; i < DIFF_PAGES; i++)
        mlock((void *)(uintptr_t)diff_pages[i].linear, DIFF_PAGE);
    diff_arena_fill(child.base);
    copy(child.before, child.base, DIFF_ARENA);
    copy(child.arena, child.base, DIFF_ARENA);
    return true;
}

static bool make_ldt(void)
{
    for (unsigned i = 0; i < DIFF_LDT; i++) {
        const struct diff_descriptor *d = &diff_ldt[i];
        struct user_desc u = {
            .entry_number = i,
            .base_addr = d->base,
            .limit = d->limit,
            .seg_32bit = d->big,
            .contents = d->contents,
            .read_exec_only = d->restricted,
            .limit_in_pages = d->pages,
            .seg_not_present = d->absent,
        };
        if (syscall(SYS_modify_ldt, 1, &u, (unsigned long)sizeof(u)) != 0)
            return false;
    }
    return true;
}

_Noreturn void oracle_child(struct oracle_shared *shared, int arena_fd)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    stack_t stack = {.ss_sp = child.stack, .ss_size = sizeof(child.stack)};
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK};

    child.shared = shared;
    action.sa_handler = oracle_entry;
    sigfillset(&action.sa_mask);
    if (!map_arena(arena_fd) || (shared->code32 && !make_ldt()) || sigaltstack(&stack, NULL))
        _exit(1);
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        if (sigaction(signals[i], &action, NULL))
            _exit(1);
    if (!forbid_system_calls())
        _exit(1);
    __asm__ volatile("int3");
    __builtin_unreachable();
}
