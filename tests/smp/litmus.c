/* SPDX-License-Identifier: MIT */
/*
 * Litmus tests of the memory model (SDM 3A 8.2.3; Sewell et al., x86-TSO): each runs `runs` times
 * over arrays of cells, the processors kept near each other by a bounded wait per cell. What
 * x86-TSO forbids must not be seen; store buffering without a fence is allowed, and must be.
 */
#include "smp.h"

#define CELLS    4096u
#define SPINS    60u
#define PATIENCE 16u /* times `runs`, until the allowed outcome is seen */

struct cell { /* two variables in cache lines of their own, and what each processor read */
    volatile u32 x, pad_x[15];
    volatile u32 y, pad_y[15];
};

struct test {
    const char *name;
    unsigned cpus;
    void (*body[4])(struct cell *c, u8 *r);
    u8 forbidden; /* outcome, one bit per read: cpu 0's first read is bit 0; 0xff = none */
    u8 wanted;    /* must be seen; 0xff = none */
};

static struct cell cells[2][CELLS] __attribute__((aligned(64)));
static u8 reads[2][4][CELLS] __attribute__((aligned(64)));
static struct {
    volatile u32 at, pad[15];
} place[4] __attribute__((aligned(64)));
static u64 seen[16], runs;
static const struct test *test;

static inline void mfence(void)
{
    __asm__ volatile("mfence" ::: "memory");
}
static inline void locked(void)
{
    __asm__ volatile("lock orl $0, (%%rsp)" ::: "memory", "cc");
}
static inline void exchange(volatile u32 *to)
{
    u32 one = 1;
    __asm__ volatile("xchg %0, %1" : "+r"(one), "+m"(*to)::"memory");
}

#define BODY(name, ...)                     \
    static void name(struct cell *c, u8 *r) \
    {                                       \
        __VA_ARGS__;                        \
    }

BODY(sb0, c->x = 1; *r = (u8)c->y)
BODY(sb1, c->y = 1; *r = (u8)c->x)
BODY(sb0_mfence, c->x = 1; mfence(); *r = (u8)c->y)
BODY(sb1_mfence, c->y = 1; mfence(); *r = (u8)c->x)
BODY(sb0_lock, c->x = 1; locked(); *r = (u8)c->y)
BODY(sb1_lock, c->y = 1; locked(); *r = (u8)c->x)
BODY(sb0_xchg, exchange(&c->x); *r = (u8)c->y)
BODY(sb1_xchg, exchange(&c->y); *r = (u8)c->x)
BODY(mp0, c->x = 1; c->y = 1; *r = 0)
BODY(mp1, u32 y = c->y; u32 x = c->x; *r = (u8)(y | x << 1))
BODY(mp0_xchg, exchange(&c->x); exchange(&c->y); *r = 0)
BODY(mp1_mfence, u32 y = c->y; mfence(); u32 x = c->x; *r = (u8)(y | x << 1))
BODY(lb0, u32 x = c->x; c->y = 1; *r = (u8)x)
BODY(lb1, u32 y = c->y; c->x = 1; *r = (u8)y)
BODY(lb0_xchg, u32 x = c->x; exchange(&c->y); *r = (u8)x)
BODY(lb1_mfence, u32 y = c->y; mfence(); c->x = 1; *r = (u8)y)
BODY(store_x, c->x = 1; *r = 0)
BODY(store_y, c->y = 1; *r = 0)
BODY(store_x_xchg, exchange(&c->x); *r = 0)
BODY(store_y_xchg, exchange(&c->y); *r = 0)
BODY(read_xy, u32 x = c->x; u32 y = c->y; *r = (u8)(x | y << 1))
BODY(read_yx, u32 y = c->y; u32 x = c->x; *r = (u8)(y | x << 1))
BODY(read_xy_mfence, u32 x = c->x; mfence(); u32 y = c->y; *r = (u8)(x | y << 1))
BODY(read_yx_mfence, u32 y = c->y; mfence(); u32 x = c->x; *r = (u8)(y | x << 1))

/* The reads of an outcome's bits: sb, lb: cpu 0, cpu 1; mp: cpu 1's; iriw: cpu 2's, cpu 3's. */
static const struct test tests[] = {
    {"sb", 2, {sb0, sb1}, 0xff, 0},
    {"sb-mfence", 2, {sb0_mfence, sb1_mfence}, 0, 0xff},
    {"sb-lock", 2, {sb0_lock, sb1_lock}, 0, 0xff},
    {"sb-xchg", 2, {sb0_xchg, sb1_xchg}, 0, 0xff},
    {"mp", 2, {mp0, mp1}, 1, 0xff},
    {"mp-xchg", 2, {mp0_xchg, mp1}, 1, 0xff},
    {"mp-mfence", 2, {mp0, mp1_mfence}, 1, 0xff},
    {"lb", 2, {lb0, lb1}, 3, 0xff},
    {"lb-fenced", 2, {lb0_xchg, lb1_mfence}, 3, 0xff},
    {"iriw", 4, {store_x, store_y, read_xy, read_yx}, 5, 0xff},
    {"iriw-xchg", 4, {store_x_xchg, store_y_xchg, read_xy, read_yx}, 5, 0xff},
    {"iriw-mfence", 4, {store_x, store_y, read_xy_mfence, read_yx_mfence}, 5, 0xff},
};

static unsigned outcome(unsigned group, unsigned i)
{
    const u8(*r)[CELLS] = reads[group];
    if (test->cpus == 4)
        return r[2][i] | r[3][i] << 2;
    return test->body[0] == mp0 || test->body[0] == mp0_xchg ? r[1][i] : r[0][i] | r[1][i] << 1;
}

/* A test for two processors runs on two pairs at once, and the pairs change, because the host may
 * hold any two of the threads on one of its processors. */
static void one_batch(unsigned id, unsigned partner)
{
    bool pairs = test->cpus == 2;
    unsigned role = pairs ? id > partner : id;
    unsigned group = pairs && id != 0 && partner != 0;
    void (*body)(struct cell *, u8 *) = test->body[role];

    for (u32 i = 0; i < CELLS; i++) {
        place[id].at = i + 1;
        for (unsigned other = 0; other < 4; other++) {
            if (pairs && other != partner)
                continue;
            for (unsigned spin = 0; spin < SPINS && place[other].at <= i; spin++)
                ;
        }
        body(&cells[group][i], &reads[group][role][i]);
    }
}

static bool enough(u64 n)
{
    bool waits = test->wanted != 0xff && seen[test->wanted] == 0;
    return n >= (waits ? PATIENCE * runs : runs);
}

static void run_batches(unsigned id)
{
    unsigned groups = test->cpus == 2 ? 2 : 1, pairing = 0;

    for (u64 n = 0;; n += groups * CELLS) {
        smp_barrier(); /* nobody counts now: all see the same */
        if (enough(n))
            return;
        one_batch(id, id ^ (pairing + 1));
        pairing = (pairing + 1) % 3;
        smp_barrier();
        place[id].at = 0;
        for (unsigned group = 0; group < groups && id == 0; group++) {
            for (unsigned i = 0; i < CELLS; i++) {
                seen[outcome(group, i)]++;
                cells[group][i].x = cells[group][i].y = 0;
            }
        }
    }
}

static void run_test(void)
{
    u64 total = 0;
    memset(seen, 0, sizeof(seen));
    smp_run(4, run_batches);
    print("# ");
    print(test->name);
    for (unsigned n = 0; n < 16; n++) {
        total += seen[n];
        if (seen[n] == 0)
            continue;
        print(" ");
        for (unsigned bit = 0; bit < (test->cpus == 4 ? 4 : 2); bit++)
            print(n >> bit & 1 ? "1" : "0");
        print("=");
        print_decimal(seen[n]);
    }
    print("\n");
    want("fewer runs than asked for", total < runs, 0);
    if (test->forbidden != 0xff)
        want("runs with the forbidden outcome", seen[test->forbidden], 0);
    if (test->wanted != 0xff)
        want("allowed outcome seen", seen[test->wanted] != 0, 1);
    verdict(test->name);
}

void isa_main(const char *command_line)
{
    runs = smp_option(command_line, "runs", 1000000);
    smp_start(4);
    for (unsigned n = 0; n < sizeof(tests) / sizeof(tests[0]); n++) {
        test = &tests[n];
        run_test();
    }
}
