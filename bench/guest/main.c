/* SPDX-License-Identifier: MIT */
/*
 * bench-guest: runs kernels and prints one line for each, on whatever side it is.
 *
 *   bench-guest list                             the table: group, row, what it measures
 *   bench-guest run SCALE GROUP|GROUP/ROW...     SCALE is in percent of the table's work
 *
 * Lines (the driver, bench/run, stamps them with the host's time as they come):
 *   bench dispatch HEX            which code the C library chose for this processor
 *   bench begin GROUP/ROW
 *   bench row GROUP/ROW NANOSECONDS PROCESSOR-NANOSECONDS CHECKSUM
 */
#include "bench.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

_Noreturn void bench_die(const char *what)
{
    fprintf(stderr, "bench-guest: %s: %s\n", what, strerror(errno));
    exit(1);
}

void *bench_pages(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        bench_die("mmap");
    return p;
}

const char *bench_beside(const char *name)
{
    static char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (length < 0)
        bench_die("/proc/self/exe");
    path[length] = 0;
    char *base = strrchr(path, '/') + 1;
    snprintf(base, sizeof(path) - (size_t)(base - path), "%s", name);
    return path;
}

uint64_t bench_hash(const void *data, size_t size)
{
    const uint8_t *p = data;
    uint64_t sum = size, word = 0;
    for (; size >= 8; p += 8, size -= 8) {
        memcpy(&word, p, 8);
        sum = bench_mix(sum, word);
    }
    word = 0;
    memcpy(&word, p, size);
    return bench_mix(sum, word);
}

void bench_text(char *text, size_t size)
{
    static const char *const syllables[16] = {"the", "an", "re", "tion", "is", "co", "ver", "ing",
                                              "st",  "en", "al", "per",  "on", "di", "ma",  "s"};
    uint64_t state = 20240229;
    size_t at = 0;
    while (at < size) {
        uint64_t r = bench_random(&state);
        r = r >> 60 < 10 ? r & 0x3ff0 : r; /* most words are of the common thousand */
        for (unsigned n = 0; n <= (r >> 4 & 3) && at < size; n++)
            for (const char *c = syllables[r >> (4 * n + 6) & 15]; *c != 0 && at < size;)
                text[at++] = *c++;
        if (at < size)
            text[at++] = ' ';
    }
}

/* The IRELATIVE relocations of a static program: each slot holds the function that was chosen by
 * CPUID (glibc's ifuncs). The program lies at fixed addresses, so equal sums mean equal code. */
extern const Elf64_Rela __rela_iplt_start[], __rela_iplt_end[];

static uint64_t dispatch_sum(void)
{
    uint64_t sum = 0;
    for (const Elf64_Rela *rela = __rela_iplt_start; rela < __rela_iplt_end; rela++)
        sum = bench_mix(sum, *(const uint64_t *)rela->r_offset);
    return sum;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Processor time of this process and of the children it has waited for. */
static uint64_t processor(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < 2; i++) {
        struct rusage r;
        getrusage(i == 0 ? RUSAGE_SELF : RUSAGE_CHILDREN, &r);
        sum += (uint64_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000000 +
               (uint64_t)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1000;
    }
    return sum;
}

static void run(const struct kernel *k, unsigned scale)
{
    uint64_t work = k->work * scale / 100;
    if (k->prepare != NULL)
        k->prepare();
    printf("bench begin %s/%s\n", k->group, k->name);
    fflush(stdout);
    uint64_t used = processor(), start = now();
    uint64_t sum = k->run(work > 0 ? work : 1);
    uint64_t took = now() - start;
    printf("bench row %s/%s %lu %lu %016lx\n", k->group, k->name, (unsigned long)took,
           (unsigned long)(processor() - used), (unsigned long)sum);
    fflush(stdout);
}

static int wanted(const struct kernel *k, const char *choice)
{
    size_t group = strlen(k->group);
    if (strncmp(choice, k->group, group) != 0)
        return 0;
    return choice[group] == 0 || (choice[group] == '/' && strcmp(choice + group + 1, k->name) == 0);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (const struct kernel *k = kernels; k < kernels + kernel_count; k++)
            printf("%s\t%s\t%s\n", k->group, k->name, k->what);
        return 0;
    }
    unsigned scale = argc > 3 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    if (scale == 0 || strcmp(argv[1], "run") != 0) {
        fprintf(stderr, "usage: bench-guest list | run SCALE GROUP|GROUP/ROW...\n");
        return 2;
    }
    printf("bench dispatch %016lx\n", (unsigned long)dispatch_sum());
    for (int i = 3; i < argc; i++) {
        unsigned found = 0;
        for (const struct kernel *k = kernels; k < kernels + kernel_count; k++)
            if (wanted(k, argv[i])) {
                run(k, scale);
                found++;
            }
        if (found == 0) {
            fprintf(stderr, "bench-guest: no group or row %s\n", argv[i]);
            return 2;
        }
    }
    return 0;
}
