/* SPDX-License-Identifier: MIT */
/* The work of tests/smp/compute.c on the bare machine, for bench/smp: as many threads as are asked
 * for, and the TSC ticks that all of them together took. */
#include "compute.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <x86intrin.h>

#define THREADS 16

static unsigned long turns, digest[THREADS];
static unsigned table[THREADS][1024] __attribute__((aligned(4096)));
static pthread_barrier_t start;

static void *work(void *context)
{
    unsigned id = (unsigned)(unsigned long)context;
    pthread_barrier_wait(&start);
    digest[id] = compute(table[id], turns);
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned threads = argc == 3 ? (unsigned)atoi(argv[1]) : 0;
    pthread_t others[THREADS];
    if (threads == 0 || threads > THREADS) {
        fprintf(stderr, "usage: compute THREADS TURNS\n");
        return 2;
    }
    turns = strtoul(argv[2], NULL, 10);
    pthread_barrier_init(&start, NULL, threads);
    for (unsigned long id = 1; id < threads; id++)
        if (pthread_create(&others[id], NULL, work, (void *)id) != 0) {
            perror("compute: pthread_create");
            return 1;
        }
    unsigned long began = __rdtsc();
    work(NULL);
    for (unsigned id = 1; id < threads; id++)
        pthread_join(others[id], NULL);
    unsigned long took = __rdtsc() - began;
    for (unsigned id = 1; id < threads; id++)
        if (digest[id] != digest[0]) {
            fprintf(stderr, "compute: thread %u has another digest\n", id);
            return 1;
        }
    printf("%lu\n", took);
    return 0;
}
