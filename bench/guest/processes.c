/* SPDX-License-Identifier: MIT */
/* Group `processes`: making processes and threads, and waiting for their end. */
#include "bench.h"

#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t reap(pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
        bench_die("a child process");
    return (uint64_t)WEXITSTATUS(status);
}

uint64_t fork_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        pid_t child = fork();
        if (child < 0)
            bench_die("fork");
        if (child == 0)
            _exit((int)(n & 63));
        sum += reap(child);
    }
    return sum;
}

/* bench-exec and bench-exec-static are one program, linked in two ways: status 7. */
static uint64_t exec_run(const char *program, uint64_t work)
{
    const char *path = bench_beside(program);
    char *const argv[] = {(char *)path, NULL};
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        pid_t child = fork();
        if (child < 0)
            bench_die("fork");
        if (child == 0) {
            execv(path, argv);
            _exit(127);
        }
        sum += reap(child);
    }
    return sum;
}

uint64_t exec_static_run(uint64_t work)
{
    return exec_run("bench-exec-static", work);
}

uint64_t exec_dynamic_run(uint64_t work)
{
    return exec_run("bench-exec", work);
}

static void *thread_main(void *argument)
{
    return (void *)((uintptr_t)argument * 3);
}

uint64_t thread_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        pthread_t thread;
        void *result;
        if (pthread_create(&thread, NULL, thread_main, (void *)(uintptr_t)n) != 0 ||
            pthread_join(thread, &result) != 0)
            bench_die("pthread_create");
        sum += (uintptr_t)result;
    }
    return sum;
}
