/* SPDX-License-Identifier: MIT */
/* Group `syscalls`: the way into the kernel and back, with little work there. */
#include "bench.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

uint64_t getpid_run(uint64_t work)
{
    pid_t mine = getpid();
    uint64_t same = 0;
    for (uint64_t n = 0; n < work; n++)
        same += syscall(SYS_getpid) == mine;
    return same;
}

/* Blocks of 512 bytes to a file in memory and back. */
static int file;

void readwrite_prepare(void)
{
    file = memfd_create("bench", 0);
    if (file < 0)
        bench_die("memfd_create");
}

uint64_t readwrite_run(uint64_t work)
{
    uint64_t block[64] = {1, 2, 3}, sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        off_t at = (off_t)(n * 512 & 0xffff);
        block[5] = n;
        if (pwrite(file, block, sizeof(block), at) != sizeof(block) ||
            pread(file, block, sizeof(block), at) != sizeof(block))
            bench_die("pread, pwrite");
        sum = bench_mix(sum, block[5]);
    }
    return sum;
}

/* A byte to a child and back: two context switches a turn. */
uint64_t pingpong_run(uint64_t work)
{
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0)
        bench_die("pipe");
    pid_t child = fork();
    if (child < 0)
        bench_die("fork");
    uint8_t byte = 0;
    if (child == 0) {
        close(to[1]);
        while (read(to[0], &byte, 1) == 1) {
            byte = (uint8_t)(byte * 5 + 1);
            if (write(from[1], &byte, 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    close(to[0]);
    for (uint64_t n = 0; n < work; n++)
        if (write(to[1], &byte, 1) != 1 || read(from[0], &byte, 1) != 1)
            bench_die("a pipe of pingpong");
    close(to[1]);
    int status;
    if (waitpid(child, &status, 0) != child || status != 0)
        bench_die("the child of pingpong");
    close(from[0]);
    close(from[1]);
    return byte;
}

static volatile sig_atomic_t caught;

static void catch (int number)
{
    caught++;
}

void signal_prepare(void)
{
    struct sigaction action = {.sa_handler = catch};
    if (sigaction(SIGUSR1, &action, NULL) != 0)
        bench_die("sigaction");
}

uint64_t signal_run(uint64_t work)
{
    caught = 0;
    for (uint64_t n = 0; n < work; n++)
        raise(SIGUSR1);
    return (uint64_t)caught;
}

/* A path of five names, found in the kernel's cache of names. */
uint64_t open_run(uint64_t work)
{
    uint64_t opened = 0;
    for (uint64_t n = 0; n < work; n++) {
        int fd = open("/proc/../dev/../proc/version", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            bench_die("/proc/version");
        close(fd);
        opened++;
    }
    return opened;
}
