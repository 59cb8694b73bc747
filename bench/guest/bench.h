/* SPDX-License-Identifier: MIT */
/*
 * The kernels of `make bench`: small programs, each one row of the table in kernels.c. The same
 * static binary runs natively, under doppel and under QEMU, so a kernel's checksum depends on
 * nothing but its `work`.
 */
#ifndef DOPPEL_BENCH_H
#define DOPPEL_BENCH_H

#include <stddef.h>
#include <stdint.h>

struct kernel {
    const char *group, *name;
    const char *what;          /* one line for people */
    uint64_t work;             /* turns at --scale 100: about 0.2 s natively */
    void (*prepare)(void);     /* not timed; may be NULL */
    uint64_t (*run)(uint64_t); /* timed; returns the checksum */
};

extern const struct kernel kernels[];
extern const unsigned kernel_count;

/* Ends the program with a message; errno's text is added. */
_Noreturn void bench_die(const char *what);
/* Zeroed pages. */
void *bench_pages(size_t size);
/* The path of a file that lies beside the bench-guest program. */
const char *bench_beside(const char *name);

static inline uint64_t bench_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dul;
}

static inline float bench_random_float(uint64_t *state) /* from -1 to 1 */
{
    return (float)(int32_t)(bench_random(state) >> 32) / 2147483648.0f;
}

static inline uint64_t bench_mix(uint64_t sum, uint64_t value)
{
    sum = (sum ^ value) * 0xff51afd7ed558ccdul;
    return sum ^ sum >> 32;
}

uint64_t bench_hash(const void *data, size_t size);
/* Text that looks like prose: words of a small language, repeated as in prose. */
void bench_text(char *text, size_t size);

/* command.c: runs a program, feeds it nothing, hashes what it prints; a shell's script likewise,
 * with `count` as $1, busybox as $0. */
uint64_t command_hash(const char *const argv[]);
uint64_t command_shell(const char *script, uint64_t count);

#define KERNEL(name) uint64_t name##_run(uint64_t work)
#define PREPARED(name)         \
    void name##_prepare(void); \
    uint64_t name##_run(uint64_t work)

/* integer */
PREPARED(sha256);
PREPARED(lz);
PREPARED(sort);
KERNEL(bytecode);
PREPARED(chase);
PREPARED(hash);
KERNEL(shell);
/* calls */
KERNEL(fib);
KERNEL(ackermann);
PREPARED(virtual);
PREPARED(callback);
PREPARED(tree);
/* simd */
PREPARED(matrix);
PREPARED(fft);
PREPARED(nbody);
KERNEL(mandelbrot);
PREPARED(blend);
/* strings */
PREPARED(copy);
PREPARED(copy_rep);
PREPARED(length);
PREPARED(find_byte);
PREPARED(find_string);
PREPARED(compare);
/* syscalls */
KERNEL(getpid);
PREPARED(readwrite);
KERNEL(pingpong);
PREPARED(signal);
KERNEL(open);
/* memory */
KERNEL(mmap);
PREPARED(fault);
PREPARED(cow);
PREPARED(protect);
/* processes */
KERNEL(fork);
KERNEL(exec_static);
KERNEL(exec_dynamic);
KERNEL(commands);
KERNEL(thread);
/* programs */
KERNEL(gcc);
PREPARED(gzip);
PREPARED(gunzip);
PREPARED(xz);
KERNEL(python);
KERNEL(sqlite);

#undef KERNEL
#undef PREPARED
#endif
