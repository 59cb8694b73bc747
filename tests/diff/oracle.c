/* SPDX-License-Identifier: MIT */
/* See oracle.h: the parent's side, which keeps a child alive and hands it batches. */
#include <cpuid.h>
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "advertised.h"
#include "oracle_child.h"

#define HWCAP2_FSGSBASE_BIT 2u /* AT_HWCAP2 on x86: the kernel lets user mode use WRFSBASE */
#define HANG_SECONDS        10

struct oracle {
    struct oracle_shared *shared;
    pid_t child;
    int fd;
};

static int start_child(struct oracle *o, struct error *e)
{
    pid_t parent = getpid();

    atomic_store(&o->shared->go, 0);
    atomic_store(&o->shared->done, 0);
    o->child = fork();
    if (o->child < 0)
        return error_set(e, errno, "cannot fork the oracle's child: %s", strerror(errno));
    if (o->child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        oracle_child(o->shared, o->fd);
    }
    return 0;
}

static void stop_child(struct oracle *o)
{
    if (o->child <= 0)
        return;
    kill(o->child, SIGKILL);
    waitpid(o->child, NULL, 0);
    o->child = 0;
}

static uint32_t component_offset(unsigned component)
{
    uint32_t a, b, c, d;

    if (!(features_host_xcr0() >> component & 1))
        return 0;
    __cpuid_count(13, component, a, b, c, d);
    return b;
}

/* A kernel may be built without (CONFIG_MODIFY_LDT_SYSCALL). */
static int check_ldt(struct error *e)
{
    uint8_t byte;

    if (syscall(SYS_modify_ldt, 0, &byte, (unsigned long)sizeof(byte)) < 0)
        return error_set(e, ENOTSUP, "the host's kernel has no modify_ldt: %s", strerror(errno));
    return 0;
}

static uint32_t host_mxcsr_mask(void)
{
    _Alignas(16) uint32_t image[128] = {0};
    __asm__("fxsave64 %0" : "+m"(image));
    return image[7];
}

static int check_host(struct oracle_xsave *x, bool code32, struct error *e)
{
    uint32_t a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1))
        return error_set(e, ENOTSUP, "the host has no XSAVE");
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT))
        return error_set(e, ENOTSUP, "the host's kernel has no FSGSBASE");
    x->host_mxcsr_mask = host_mxcsr_mask();
    x->ymm_high = component_offset(2);
    x->opmask = component_offset(5);
    x->zmm_high = component_offset(6);
    x->zmm_upper = component_offset(7);
    x->mask = features_host_xcr0() & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
    return code32 ? check_ldt(e) : 0;
}

int oracle_create(struct oracle **out, bool code32, struct error *e)
{
    struct oracle *o = calloc(1, sizeof(*o));
    int err;

    if (!o)
        return error_set(e, ENOMEM, "no memory for the oracle");
    o->fd = memfd_create("diff-arena", MFD_CLOEXEC);
    o->shared =
        mmap(NULL, sizeof(*o->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (o->fd < 0 || o->shared == MAP_FAILED || ftruncate(o->fd, DIFF_ARENA)) {
        err = error_set(e, errno, "no shared memory for the oracle: %s", strerror(errno));
        o->shared = o->shared == MAP_FAILED ? NULL : o->shared;
    } else {
        o->shared->code32 = code32;
        err = check_host(&o->shared->xsave, code32, e);
    }
    if (!err)
        err = start_child(o, e);
    if (err) {
        oracle_destroy(o);
        return err;
    }
    *out = o;
    return 0;
}

void oracle_destroy(struct oracle *o)
{
    stop_child(o);
    if (o->shared)
        munmap(o->shared, sizeof(*o->shared));
    if (o->fd >= 0)
        close(o->fd);
    free(o);
}

struct diff_case *oracle_cases(struct oracle *o)
{
    return o->shared->cases;
}

const struct diff_outcome *oracle_outcomes(const struct oracle *o)
{
    return o->shared->outcomes;
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    struct timespec limit = {.tv_sec = 1};

    syscall(SYS_futex, word, FUTEX_WAIT, value, &limit, NULL, 0);
}

/* DIFF_RAN when the batch is done, or what has become of the child. */
static enum diff_failure wait_for_child(struct oracle *o, uint32_t batch)
{
    struct oracle_shared *s = o->shared;
    uint32_t seen = UINT32_MAX;
    unsigned idle = 0;

    while (atomic_load(&s->done) != batch) {
        futex_wait(&s->done, batch - 1);
        if (atomic_load(&s->done) == batch)
            break;
        if (waitpid(o->child, NULL, WNOHANG) == o->child) {
            o->child = 0;
            return DIFF_DIED;
        }
        idle = atomic_load(&s->index) == seen ? idle + 1 : 0;
        seen = atomic_load(&s->index);
        if (idle >= HANG_SECONDS)
            return DIFF_HUNG;
    }
    return DIFF_RAN;
}

int oracle_run(struct oracle *o, unsigned n, struct error *e)
{
    struct oracle_shared *s = o->shared;

    for (unsigned first = 0; first < n;) {
        uint32_t batch = atomic_load(&s->go) + 1;
        s->first = first;
        s->count = n;
        atomic_store(&s->index, first);
        atomic_store(&s->go, batch);
        syscall(SYS_futex, &s->go, FUTEX_WAKE, 1, NULL, NULL, 0);

        enum diff_failure failure = wait_for_child(o, batch);
        if (failure == DIFF_RAN)
            return 0;
        uint32_t index = atomic_load(&s->index);
        s->outcomes[index].failure = (uint8_t)failure;
        first = index + 1;
        stop_child(o);
        int err = start_child(o, e);
        if (err)
            return err;
    }
    return 0;
}
