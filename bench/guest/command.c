/* SPDX-License-Identifier: MIT */
/* Running other programs, with what they print as the checksum; rows `shell` and `commands`. */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

uint64_t command_hash(const char *const argv[])
{
    static char buffer[65536];
    int out[2];
    if (pipe(out) != 0)
        bench_die("pipe");
    pid_t child = fork();
    if (child < 0)
        bench_die("fork");
    if (child == 0) {
        int null = open("/dev/null", O_RDONLY);
        if (null < 0 || dup2(null, 0) < 0 || dup2(out[1], 1) < 0)
            _exit(126);
        close(out[0]);
        close(out[1]);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(out[1]);
    uint64_t sum = 0;
    ssize_t got = 0;
    size_t have = 0;
    do { /* whole buffers, so that the sum does not depend on how the pipe cuts the stream */
        got = read(out[0], buffer + have, sizeof(buffer) - have);
        have += got > 0 ? (size_t)got : 0;
        if (have == sizeof(buffer) || got == 0) {
            sum = bench_mix(sum, bench_hash(buffer, have));
            have = 0;
        }
    } while (got > 0 || (got < 0 && errno == EINTR));
    close(out[0]);
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "bench-guest: %s: wait status %#x\n", argv[0], (unsigned)status);
        exit(1);
    }
    return sum;
}

uint64_t command_shell(const char *script, uint64_t count)
{
    char number[24];
    snprintf(number, sizeof(number), "%lu", (unsigned long)count);
    const char *busybox = bench_beside("busybox");
    return command_hash((const char *const[]){busybox, "sh", "-c", script, busybox, number, NULL});
}

/* Arithmetic and tests within the shell: no process is made. */
uint64_t shell_run(uint64_t work)
{
    return command_shell(
        "i=0 s=0; while [ $i -lt $1 ]; do s=$(((s * 31 + i) % 65521)); i=$((i + 1)); done\n"
        "echo $s",
        work);
}

/* A script's usual life: one small command after another. */
uint64_t commands_run(uint64_t work)
{
    return command_shell(
        "i=0; while [ $i -lt $1 ]; do $0 echo $i | $0 tr 0-9 a-j; i=$((i + 1)); done", work);
}
