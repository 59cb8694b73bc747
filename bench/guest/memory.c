/* SPDX-License-Identifier: MIT */
/* Group `memory`: page faults and changes of the address space, 4 KiB pages throughout. */
#include "bench.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE  4096
#define PAGES 1024

static uint8_t *area;

static void small_pages(void)
{
    area = bench_pages(PAGES * PAGE);
    if (madvise(area, PAGES * PAGE, MADV_NOHUGEPAGE) != 0)
        bench_die("MADV_NOHUGEPAGE");
}

/* Maps 16 pages, touches them, unmaps them. */
uint64_t mmap_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        uint8_t *p = bench_pages(16 * PAGE);
        for (unsigned i = 0; i < 16; i++)
            p[i * PAGE + (n & 4095)] = (uint8_t)n;
        sum += p[5 * PAGE + (n & 4095)] + p[5 * PAGE + ((n + 1) & 4095)];
        munmap(p, 16 * PAGE);
    }
    return sum;
}

void fault_prepare(void)
{
    small_pages();
}

/* One fault a page, over and over: the pages are given back after each turn. */
uint64_t fault_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        for (unsigned i = 0; i < PAGES; i++)
            area[i * PAGE] = (uint8_t)(i + n);
        for (unsigned i = 0; i < PAGES; i++)
            sum += area[i * PAGE];
        if (madvise(area, PAGES * PAGE, MADV_DONTNEED) != 0)
            bench_die("MADV_DONTNEED");
    }
    return sum;
}

void cow_prepare(void)
{
    small_pages();
    for (unsigned i = 0; i < PAGES; i++)
        area[i * PAGE] = (uint8_t)i;
}

/* A child writes to every page that it shares with its parent. */
uint64_t cow_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        pid_t child = fork();
        if (child < 0)
            bench_die("fork");
        if (child == 0) {
            uint8_t mine = 0;
            for (unsigned i = 0; i < PAGES; i++)
                mine ^= area[i * PAGE]++;
            _exit(mine & 0x7f);
        }
        int status;
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
            bench_die("the child of cow");
        sum = bench_mix(sum, (uint64_t)status);
    }
    return bench_mix(sum, area[77 * PAGE]);
}

void protect_prepare(void)
{
    cow_prepare();
}

/* Takes the right to write from 32 pages and gives it back, with a write after each. */
uint64_t protect_run(uint64_t work)
{
    for (uint64_t n = 0; n < work; n++) {
        uint8_t *p = area + (n % (PAGES / 32)) * 32 * PAGE;
        if (mprotect(p, 32 * PAGE, PROT_READ) != 0 ||
            mprotect(p, 32 * PAGE, PROT_READ | PROT_WRITE) != 0)
            bench_die("mprotect");
        for (unsigned i = 0; i < 32; i++)
            p[i * PAGE] = (uint8_t)(p[i * PAGE] + i);
    }
    return bench_hash(area, PAGES * PAGE);
}
