/* SPDX-License-Identifier: MIT */
/*
 * `doppel run`; see run.h. The main thread is the machine's controller. SIGTERM, SIGINT and SIGHUP
 * are blocked in every thread (the mask is set before the first one starts) and read from a
 * signalfd: they end the machine in order, so that the terminal is restored, with status 4, because
 * a script that reads 0 may believe that the guest powered off.
 */
#include "cli/run.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

static int open_signals(struct error *e)
{
    static const int ending[] = {SIGTERM, SIGINT, SIGHUP};
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++) {
        struct sigaction old;
        /* What we were told to ignore (nohup) stays so: a signalfd would see it nevertheless. */
        if (sigaction(ending[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaddset(&set, ending[i]);
    }
    signal(SIGPIPE, SIG_IGN); /* a closed stdout is an error of a write, with its own sentence */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd >= 0 ? fd : error_set(e, errno, "signalfd: %s", strerror(errno));
}

/* The controller's loop. Returns the status. */
static int control(struct machine *m, int signals)
{
    struct pollfd fds[] = {{.fd = machine_fd(m), .events = POLLIN},
                           {.fd = signals, .events = POLLIN}};

    for (;;) {
        struct signalfd_siginfo info;
        int status;

        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            log_error("poll: %s", strerror(errno));
            return MACHINE_FAILED;
        }
        if (!machine_service(m, &status))
            return status;
        if (read(signals, &info, sizeof(info)) == sizeof(info)) {
            machine_pause(m);
            log_error("ended by SIG%s", sigabbrev_np((int)info.ssi_signo));
            return MACHINE_FAILED;
        }
    }
}

static int write_stats(struct machine *m, const struct cli_stats *stats)
{
    FILE *out = stats->file != NULL ? fopen(stats->file, "we") : stderr;
    int rc = 0;

    if (out == NULL) {
        log_error("--stats: cannot write %s: %s", stats->file, strerror(errno));
        return MACHINE_FAILED;
    }
    rc = machine_stats_write(m, out);
    if (out != stderr && fclose(out) != 0 && rc == 0)
        rc = -errno;
    if (rc == 0)
        return 0;
    log_error("--stats: cannot write %s: %s", stats->file != NULL ? stats->file : "to stderr",
              strerror(-rc));
    return MACHINE_FAILED;
}

int cli_run(int count, char *const words[])
{
    struct error e = {0};
    struct cli_run run;
    struct machine *m;

    if (cli_run_parse(count, words, &run, &e) != 0) {
        log_error("%s", e.text);
        return MACHINE_BAD_INPUT;
    }
    int signals = open_signals(&e);
    if (signals < 0) {
        log_error("%s", e.text);
        return MACHINE_FAILED;
    }
    int status = machine_create(&run.machine, &m, &e);
    if (status != 0) {
        log_error("%s", e.text);
        close(signals);
        return status;
    }
    machine_resume(m);
    status = control(m, signals);
    if (run.stats.wanted && write_stats(m, &run.stats) != 0 && status == MACHINE_POWERED_OFF)
        status = MACHINE_FAILED;
    if (machine_destroy(m, &e) != 0 && status != MACHINE_FAILED) {
        log_error("%s", e.text);
        status = status == MACHINE_DIED ? MACHINE_DIED : MACHINE_FAILED;
    }
    close(signals);
    return status;
}
