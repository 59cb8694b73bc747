/* SPDX-License-Identifier: MIT */
/* The life cycle; see machine.h for the threads. What of the guest is running is decided by
 * `running`, `quit` and the queue of events alone, all under the machine's lock. */
#include "machine/machine.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock/clock.h"
#include "machine/internal.h"

static void stop_all(struct machine *m)
{
    for (unsigned i = 0; i < m->pc.vcpu_count; i++)
        vcpu_request(m->pc.vcpus[i], VCPU_REQUEST_STOP);
}

void machine_post(struct machine *m, enum machine_event event, uint32_t value)
{
    uint64_t one = 1;
    bool known = false;

    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->queued; i++)
        known |= m->queue[i].event == event;
    if (!known) {
        m->queue[m->queued].event = event;
        m->queue[m->queued++].value = value;
    }
    stop_all(m);
    pthread_mutex_unlock(&m->lock);
    /* It can only fail by being full, and then it is readable. */
    if (write(m->fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        log_error("eventfd: %s", strerror(errno));
}

bool machine_thread_may_run(struct machine_thread *t)
{
    struct machine *m = t->machine;

    pthread_mutex_lock(&m->lock);
    if (!m->quit && (!m->running || m->queued > 0)) {
        m->parked++;
        pthread_cond_broadcast(&m->stopped);
        while (!m->quit && (!m->running || m->queued > 0))
            pthread_cond_wait(&m->go, &m->lock);
        m->parked--;
    }
    bool quit = m->quit;
    vcpu_request_clear(t->vcpu, VCPU_REQUEST_STOP);
    pthread_mutex_unlock(&m->lock);
    return !quit;
}

/* Lock held; `running` is false. */
static void wait_stopped_locked(struct machine *m)
{
    stop_all(m);
    while (m->parked < m->pc.vcpu_count)
        pthread_cond_wait(&m->stopped, &m->lock);
}

void machine_pause(struct machine *m)
{
    pthread_mutex_lock(&m->lock);
    m->running = false;
    wait_stopped_locked(m);
    pthread_mutex_unlock(&m->lock);
    clock_stop(m->pc.clock);
}

void machine_resume(struct machine *m)
{
    clock_start(m->pc.clock);
    pthread_mutex_lock(&m->lock);
    m->running = true;
    pthread_cond_broadcast(&m->go);
    pthread_mutex_unlock(&m->lock);
}

int machine_fd(const struct machine *m)
{
    return m->fd;
}

/* The guest asked for a reset, or died and is to be reset. true = the machine goes on. */
static bool restart(struct machine *m, int *status)
{
    struct error e = {0};

    if (pc_reset(&m->pc, &e) == 0)
        return true;
    log_error("reset: %s", e.text);
    *status = MACHINE_FAILED;
    return false;
}

static bool died(struct machine *m, uint32_t cpu, int *status)
{
    if (m->config.on_triple_fault == MACHINE_ON_RESET) {
        log_warn("processor %u: triple fault; resetting", cpu);
        return restart(m, status);
    }
    log_error("processor %u: triple fault; its registers:", cpu);
    vcpu_dump(m->pc.vcpus[cpu], stderr);
    *status = MACHINE_DIED;
    return false;
}

/* Nothing of the guest runs. true = the machine goes on. */
static bool serve(struct machine *m, enum machine_event event, uint32_t value, int *status)
{
    switch (event) {
    case MACHINE_EVENT_RESET:
        if (pc_resume_by_shutdown_code(&m->pc))
            return true;
        if (m->config.on_reset == MACHINE_ON_RESET)
            return restart(m, status);
        *status = MACHINE_POWERED_OFF;
        return false;
    case MACHINE_EVENT_TRIPLE_FAULT:
        return died(m, value, status);
    case MACHINE_EVENT_DEBUG_EXIT:
        *status = (int)value;
        return false;
    case MACHINE_EVENT_FAILED:
        *status = MACHINE_FAILED;
        return false;
    default: /* power off, quit */
        *status = MACHINE_POWERED_OFF;
        return false;
    }
}

bool machine_service(struct machine *m, int *status)
{
    uint64_t count;
    bool goes_on = true;

    if (read(m->fd, &count, sizeof(count)) < 0)
        return true;
    pthread_mutex_lock(&m->lock);
    bool running = m->running;
    m->running = false;
    wait_stopped_locked(m);
    pthread_mutex_unlock(&m->lock);
    clock_stop(m->pc.clock);

    /* The console's thread may still post. */
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->queued && goes_on; i++) {
        enum machine_event event = m->queue[i].event;
        uint32_t value = m->queue[i].value;
        pthread_mutex_unlock(&m->lock);
        goes_on = serve(m, event, value, status);
        pthread_mutex_lock(&m->lock);
    }
    m->queued = 0;
    pthread_mutex_unlock(&m->lock);
    if (goes_on && running)
        machine_resume(m);
    return goes_on;
}

int machine_run(struct machine *m)
{
    struct pollfd fd = {.fd = m->fd, .events = POLLIN};
    int status;

    for (;;) {
        if (poll(&fd, 1, -1) < 0 && errno != EINTR) {
            log_error("poll: %s", strerror(errno));
            return MACHINE_FAILED;
        }
        if (!machine_service(m, &status))
            return status;
    }
}

/* What devices ask for; dev/events.h. */
static void on_reset(void *context, const char *by)
{
    machine_post(context, MACHINE_EVENT_RESET, 0);
}

static void on_a20(void *context, bool open)
{
    struct machine *m = context;
    pc_set_a20(&m->pc, open);
}

static void on_power_off(void *context)
{
    machine_post(context, MACHINE_EVENT_POWER_OFF, 0);
}

static void on_panic(void *context, bool crash_kernel)
{
    log_warn("the guest's kernel panicked%s", crash_kernel ? " and starts its crash kernel" : "");
}

static void on_debug_exit(void *context, int status)
{
    machine_post(context, MACHINE_EVENT_DEBUG_EXIT, (uint32_t)status);
}

static const struct machine_events device_events = {
    .reset = on_reset,
    .a20 = on_a20,
    .power_off = on_power_off,
    .panic = on_panic,
    .debug_exit = on_debug_exit,
};

static void on_console_quit(void *context)
{
    machine_post(context, MACHINE_EVENT_QUIT, 0);
}

static void on_console_failed(void *context, const char *sentence)
{
    log_error("%s", sentence);
    machine_post(context, MACHINE_EVENT_FAILED, 0);
}

static const struct console_events console_events = {
    .quit = on_console_quit,
    .failed = on_console_failed,
};

static int start_threads(struct machine *m, struct error *e)
{
    static const int faults[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS};
    sigset_t all, old;
    int rc = 0;

    /* Signals are the controller's, but for the faults of copied instructions: the kernel ends a
     * process that blocks the signal of its own fault. */
    sigfillset(&all);
    for (unsigned i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (unsigned i = 0; i < m->pc.vcpu_count && rc == 0; i++) {
        m->threads[i] = (struct machine_thread){.machine = m, .vcpu = m->pc.vcpus[i]};
        rc = machine_thread_start(&m->threads[i], e);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

/* The vCPU threads, in their own cgroup when the configuration asks for a share of the host. */
static int start_vcpus(struct machine *m, struct error *e)
{
    const struct machine_config *c = &m->config;
    struct error cause = {0};
    int left = 0;

    if (c->cpu_weight == 0 && c->cpu_cap == 0)
        return start_threads(m, e) == 0 ? 0 : MACHINE_FAILED;
    int rc = cgroup_create(&m->cgroup, c->cpu_weight, c->cpu_cap, &cause);
    if (rc == 0)
        rc = cgroup_enter(m->cgroup, &cause);
    if (rc != 0) {
        error_set(e, -rc, "--cpu-weight, --cpu-cap: %s; leave the option out", cause.text);
        return MACHINE_BAD_INPUT;
    }
    rc = start_threads(m, e);
    left = cgroup_leave(m->cgroup, rc == 0 ? e : &cause);
    return rc == 0 && left == 0 ? 0 : MACHINE_FAILED;
}

int machine_create(const struct machine_config *config, struct machine **out, struct error *e)
{
    const struct pc_hooks hooks = {
        .events = &device_events,
        .console = &console_events,
        .instructions = machine_instructions,
        .rearmed = machine_rearmed,
    };
    struct machine *m = calloc(1, sizeof(*m));

    if (m == NULL) {
        error_set(e, ENOMEM, "no memory for the machine");
        return MACHINE_FAILED;
    }
    m->config = *config;
    m->created_ns = machine_host_ns();
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->go, NULL);
    pthread_cond_init(&m->stopped, NULL);
    m->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int status = MACHINE_FAILED;
    if (m->fd < 0)
        error_set(e, errno, "eventfd: %s", strerror(errno));
    else
        status = pc_create(&m->pc, &m->config, &hooks, m, e);
    if (status == 0)
        status = start_vcpus(m, e);
    if (status != 0)
        machine_destroy(m, NULL);
    else
        *out = m;
    return status;
}

int machine_destroy(struct machine *m, struct error *e)
{
    pthread_mutex_lock(&m->lock);
    m->quit = true;
    stop_all(m);
    pthread_cond_broadcast(&m->go);
    pthread_mutex_unlock(&m->lock);
    for (unsigned i = 0; i < MACHINE_CPUS_MAX; i++) {
        if (m->threads[i].started)
            pthread_join(m->threads[i].thread, NULL);
    }
    cgroup_destroy(m->cgroup);
    int rc = pc_destroy(&m->pc, e);
    if (m->fd >= 0)
        close(m->fd);
    pthread_cond_destroy(&m->stopped);
    pthread_cond_destroy(&m->go);
    pthread_mutex_destroy(&m->lock);
    free(m);
    return rc;
}
