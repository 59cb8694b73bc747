/* SPDX-License-Identifier: MIT */
/* Independent work on each of `cpus` processors, for bench/smp: the same digest from each, and the
 * TSC ticks that all of them together took. */
#include "compute.h"
#include "smp.h"

static u64 turns, digest[SMP_CPUS];
static u32 table[SMP_CPUS][1024] __attribute__((aligned(4096)));

static void work(unsigned id)
{
    digest[id] = compute(table[id], turns);
}

static u64 ticks(void)
{
    u32 low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
    return low | (u64)high << 32;
}

void isa_main(const char *command_line)
{
    unsigned cpus = (unsigned)smp_option(command_line, "cpus", 2);
    turns = smp_option(command_line, "turns", 100000);
    smp_start(cpus);
    u64 start = ticks();
    smp_run(cpus, work);
    u64 took = ticks() - start;
    for (unsigned id = 1; id < cpus; id++)
        want("digest", digest[id], digest[0]);
    want("no digest", digest[0] == 0, 0);
    print("# ticks ");
    print_decimal(took);
    print("\n");
    verdict("digests");
}
