/* SPDX-License-Identifier: MIT */
/* The table of all rows: group, name, what it measures, turns for about 0.2 s natively. */
#include "bench.h"

#define ROW(group, name, work, what)               \
    {                                              \
        group, #name, what, work, NULL, name##_run \
    }
#define PREPARED(group, name, work, what)                    \
    {                                                        \
        group, #name, what, work, name##_prepare, name##_run \
    }

const struct kernel kernels[] = {
    PREPARED("integer", sha256, 600, "SHA-256 of 64 KiB"),
    PREPARED("integer", lz, 100, "LZ77 of 256 KiB of text and back"),
    PREPARED("integer", sort, 25, "quicksort of 100,000 numbers"),
    ROW("integer", bytecode, 75000, "a bytecode interpreter with a jump table"),
    PREPARED("integer", chase, 2000000, "a linked list of 8 MiB in random order"),
    PREPARED("integer", hash, 40000000, "hash table, 131,072 slots of 16 bytes"),
    ROW("integer", shell, 60000, "busybox sh: a loop of arithmetic and tests"),

    ROW("calls", fib, 4000, "recursive Fibonacci"),
    ROW("calls", ackermann, 12000, "recursive Ackermann: deep stacks"),
    PREPARED("calls", virtual, 5000, "calls through the tables of 4 kinds of objects"),
    PREPARED("calls", callback, 100, "the C library's qsort with a comparison function"),
    PREPARED("calls", tree, 200, "recursion over a search tree of 65,536 nodes"),

    PREPARED("simd", matrix, 400, "product of 128 by 128 matrices of floats"),
    PREPARED("simd", fft, 2000, "FFT of 4,096 complex doubles"),
    PREPARED("simd", nbody, 2000000, "five bodies: square roots and divisions"),
    ROW("simd", mandelbrot, 8000, "scalar doubles with a branch a turn"),
    PREPARED("simd", blend, 10000, "alpha blending of 8-bit pixels"),

    PREPARED("strings", copy, 20000, "memcpy of 1 byte to 4 KiB"),
    PREPARED("strings", copy_rep, 150000, "REP MOVSQ and REP STOSB"),
    PREPARED("strings", length, 10000, "strlen of words, lines and pages"),
    PREPARED("strings", find_byte, 50000, "memchr for line ends"),
    PREPARED("strings", find_string, 20000, "strstr through 64 KiB"),
    PREPARED("strings", compare, 60000, "strcmp of paths with a common beginning"),

    ROW("syscalls", getpid, 1500000, "getpid"),
    PREPARED("syscalls", readwrite, 250000, "pwrite and pread of 512 bytes in memory"),
    ROW("syscalls", pingpong, 25000, "a byte to another process and back by pipes"),
    PREPARED("syscalls", signal, 60000, "a signal to oneself, and its handler"),
    ROW("syscalls", open, 120000, "open and close by a path of five names"),

    ROW("memory", mmap, 6000, "map, touch and unmap 16 pages"),
    PREPARED("memory", fault, 150, "1,024 page faults, and giving the pages back"),
    PREPARED("memory", cow, 60, "fork, and a write to 1,024 shared pages"),
    PREPARED("memory", protect, 10000, "mprotect of 32 pages and back, with writes"),

    ROW("processes", fork, 1000, "fork, exit and wait"),
    ROW("processes", exec_static, 150, "fork and exec of a static program"),
    ROW("processes", exec_dynamic, 100, "fork and exec of a dynamic program"),
    ROW("processes", commands, 80, "busybox sh: a pipe of two commands a turn"),
    ROW("processes", thread, 8000, "pthread_create and join"),

    ROW("programs", gcc, 2, "gcc -O2 of two files of C, and a link"),
    PREPARED("programs", gzip, 1, "gzip of 2 MiB of text"),
    PREPARED("programs", gunzip, 12, "gzip -d of the same"),
    PREPARED("programs", xz, 1, "xz -1 of 2 MiB of text"),
    ROW("programs", python, 500, "Python 3.11: dictionaries, strings, methods"),
    ROW("programs", sqlite, 80000, "SQLite: a table, an index, questions, an update"),
};

const unsigned kernel_count = sizeof(kernels) / sizeof(kernels[0]);
