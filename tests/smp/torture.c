/* SPDX-License-Identifier: MIT */
/*
 * Processors that do everything that must be atomic, or seen in time, to the same memory, with
 * exact sums at the end: LOCK within a cache line, across lines and across pages; page-table
 * changes with shootdown by IPI; code that changes itself and others' code (SDM 3A 8.1.3).
 */
#include "smp.h"

#define ROUND_SPLIT 2048u /* one operation across pages in so many: all processors stop for it */
#define LINEAR      0x600000000000ul
#define TEXT_PAGES  2u

typedef u64 __attribute__((aligned(1))) u64_any;
typedef u32 __attribute__((aligned(1))) u32_any;

static unsigned cpus;
static u64 ops, rounds;

/* Two pages; at LINE a cache line ends, at 4096 the first page. */
#define LINE 64u
#define PAGE 4096u
static u8 area[2 * 4096] __attribute__((aligned(4096)));
static u8 bits_area[2 * 4096] __attribute__((aligned(4096)));
static __uint128_t wide __attribute__((aligned(16)));

/* ---- locked arithmetic ---- */

static inline void lock_inc64(void *p)
{
    __asm__ volatile("lock incq %0" : "+m"(*(u64_any *)p)::"cc");
}
static inline void lock_inc32(void *p)
{
    __asm__ volatile("lock incl %0" : "+m"(*(u32_any *)p)::"cc");
}
static inline u64 lock_xadd64(void *p, u64 add)
{
    __asm__ volatile("lock xaddq %0, %1" : "+r"(add), "+m"(*(u64_any *)p)::"cc", "memory");
    return add;
}
static inline void cmpxchg_inc64(void *p)
{
    u64 old = *(u64_any *)p;
    bool done;
    do
        __asm__ volatile("lock cmpxchgq %3, %2"
                         : "=@ccz"(done), "+a"(old), "+m"(*(u64_any *)p)
                         : "r"(old + 1)
                         : "memory");
    while (!done);
}
static inline void cmpxchg8b_inc(void *p)
{
    u32 low = *(u32_any *)p, high = *(u32_any *)((u8 *)p + 4);
    bool done;
    do {
        u64 next = (low | (u64)high << 32) + 0x100000001ul;
        __asm__ volatile("lock cmpxchg8b %3"
                         : "=@ccz"(done), "+a"(low), "+d"(high), "+m"(*(u64_any *)p)
                         : "b"((u32)next), "c"((u32)(next >> 32))
                         : "memory");
    } while (!done);
}
static inline void cmpxchg16b_inc(__uint128_t *p)
{
    u64 low = ((volatile u64 *)p)[0], high = ((volatile u64 *)p)[1];
    bool done;
    do
        __asm__ volatile("lock cmpxchg16b %3"
                         : "=@ccz"(done), "+a"(low), "+d"(high), "+m"(*p)
                         : "b"(low + 1), "c"(high + 3)
                         : "memory");
    while (!done);
}
static inline bool lock_bts(void *p, u64 bit)
{
    bool was;
    __asm__ volatile("lock btsq %2, %1" : "=@ccc"(was), "+m"(*(u64_any *)p) : "r"(bit) : "memory");
    return was;
}
static inline bool lock_btr(void *p, u64 bit)
{
    bool was;
    __asm__ volatile("lock btrq %2, %1" : "=@ccc"(was), "+m"(*(u64_any *)p) : "r"(bit) : "memory");
    return was;
}
static inline u64 exchange(void *p, u64 value)
{
    __asm__ volatile("xchgq %0, %1" : "+r"(value), "+m"(*(u64_any *)p)::"memory");
    return value;
}

static struct {
    u64 plain, split; /* operations of each kind */
    u64 ticket_sum;   /* of what XADD gave */
    u64 token;        /* in hand; XCHG moves tokens around */
    u64 lost_bits;
} mine[SMP_CPUS];
static u64 guarded[2];

/* What is at these places must not overlap. */
enum {
    AT_INC = 0,
    AT_XADD = LINE - 4,      /* across lines */
    AT_CAS = 2 * LINE - 3,   /* across lines, odd */
    AT_CAS8 = 3 * LINE - 6,  /* across lines */
    AT_BYTE = 4 * LINE,      /* INC of a byte */
    AT_TOKEN = 5 * LINE - 1, /* across lines */
    AT_INC32 = 6 * LINE - 2, /* across lines */
    AT_GUARD = 7 * LINE - 5, /* bit lock across lines */
    AT_OWN = 9 * LINE - 4,   /* each processor's bits of one word across lines */
};

static void guard(void *lock, u64 bit, u64 *counter)
{
    while (lock_bts(lock, bit))
        pause();
    *(volatile u64 *)counter = *(volatile u64 *)counter + 1;
    lock_btr(lock, bit);
}

/* Each processor sets and clears bits of its own in a word that all share. */
static void own_bits(unsigned id, void *word, u64 n)
{
    u64 bit = id * 8 + (n & 7);
    mine[id].lost_bits += lock_bts(word, bit);
    mine[id].lost_bits += !lock_btr(word, bit);
}

static void plain_round(unsigned id, u64 n)
{
    lock_inc64(area + AT_INC);
    mine[id].ticket_sum += lock_xadd64(area + AT_XADD, 1);
    cmpxchg_inc64(area + AT_CAS);
    cmpxchg8b_inc(area + AT_CAS8);
    cmpxchg16b_inc(&wide);
    __asm__ volatile("lock incb %0" : "+m"(area[AT_BYTE])::"cc");
    mine[id].token = exchange(area + AT_TOKEN, mine[id].token);
    lock_inc32(area + AT_INC32);
    own_bits(id, area + AT_OWN, n);
    if ((n & 63) == 0)
        guard(area + AT_GUARD, 77 & 63, &guarded[0]);
    mine[id].plain++;
}

/* Across pages, one kind after the other on the same word: bytes PAGE - 4 … PAGE + 3. */
static void split_round(unsigned id, u64 n)
{
    void *at = area + PAGE - 4, *bits = bits_area + PAGE - 3;
    switch (n % 6) {
    case 0:
        cmpxchg8b_inc(at);
        break;
    case 1:
        cmpxchg_inc64(at);
        lock_xadd64(at, 0x100000000ul);
        break;
    case 2:
        lock_xadd64(at, 0x100000001ul);
        break;
    case 3:
        lock_inc64(at);
        __asm__ volatile("lock addq %1, %0" : "+m"(*(u64_any *)at) : "r"(0x100000000ul) : "cc");
        break;
    case 4:
        own_bits(id, bits, n);
        mine[id].split--;
        break;
    default:
        guard(bits_area + 2 * LINE - 4, 40, &guarded[1]);
        lock_xadd64(at, 0x100000001ul);
    }
    mine[id].split++;
}

static void locked_work(unsigned id)
{
    mine[id].token = (u64)1 << (id * 8);
    smp_barrier();
    for (u64 n = 0; n < ops / (10 * cpus); n++) {
        plain_round(id, n);
        if (n % ROUND_SPLIT == 0)
            split_round(id, n / ROUND_SPLIT);
    }
}

/* All at once across pages, so that an update would be lost if they did not exclude each other. */
static u64 split_only;
static u8 split_area[2 * 4096] __attribute__((aligned(4096)));

static void split_work(unsigned id)
{
    smp_barrier();
    for (u64 n = 0; n < split_only; n++)
        lock_xadd64(split_area + PAGE - 4, 0x100000001ul);
}

static void test_split(void)
{
    smp_run(cpus, split_work);
    want("sum", *(u64_any *)(split_area + PAGE - 4), split_only * cpus * 0x100000001ul);
    verdict("split-together");
}

static void test_locked(void)
{
    u64 plain = 0, split = 0, tickets = 0, tokens = *(u64_any *)(area + AT_TOKEN), lost = 0;
    u64 guards = 0, split_guards = 0, all = 0;

    smp_run(cpus, locked_work);
    for (unsigned id = 0; id < cpus; id++) {
        plain += mine[id].plain;
        split += mine[id].split;
        tickets += mine[id].ticket_sum;
        lost += mine[id].lost_bits;
        all |= (u64)1 << (id * 8);
        tokens += mine[id].token;
        guards += (mine[id].plain + 63) / 64;
        u64 turns = (mine[id].plain + ROUND_SPLIT - 1) / ROUND_SPLIT;
        split_guards += turns / 6;
    }
    tokens += *(u64_any *)(area + AT_TOKEN);
    print("# locked: ");
    print_decimal(10 * plain);
    print(" operations within pages, ");
    print_decimal(split);
    print(" across\n");
    want("inc", *(u64_any *)(area + AT_INC), plain);
    want("xadd", *(u64_any *)(area + AT_XADD), plain);
    want("xadd tickets", tickets, plain * (plain - 1) / 2);
    want("cmpxchg", *(u64_any *)(area + AT_CAS), plain);
    want("cmpxchg8b", *(u64_any *)(area + AT_CAS8), plain * 0x100000001ul);
    want("cmpxchg16b low", (u64)wide, plain);
    want("cmpxchg16b high", (u64)(wide >> 64), 3 * plain);
    want("inc byte", area[AT_BYTE], plain & 0xff);
    want("xchg tokens", tokens, all);
    want("inc dword", *(u32_any *)(area + AT_INC32), (u32)plain);
    want("bits", lost, 0);
    want("under a bit lock", guarded[0], guards);
    verdict("locked-in-page");
    want("sum", *(u64_any *)(area + PAGE - 4), split * 0x100000001ul);
    want("under a bit lock", guarded[1], split_guards);
    want("bits left", *(u64_any *)(bits_area + PAGE - 3), 0);
    verdict("locked-across-pages");
}

/* ---- shootdown ---- */

static u64 frames[2][512] __attribute__((aligned(4096)));
static u64 *entry;
static unsigned leader, acknowledged, stop;
static volatile u64 shot; /* shootdowns that all have acknowledged */
static u64 increments[SMP_CPUS];

__attribute__((interrupt)) static void on_shootdown(void *frame)
{
    invlpg(LINEAR);
    __atomic_fetch_add(&acknowledged, 1, __ATOMIC_SEQ_CST);
    smp_eoi();
}

static void call_others(void)
{
    __atomic_store_n(&acknowledged, 0, __ATOMIC_SEQ_CST);
    smp_ipi_others(VECTOR_CALL);
    while (__atomic_load_n(&acknowledged, __ATOMIC_SEQ_CST) != cpus - 1)
        pause();
}

/* The page moves from frame to frame; once all have acknowledged, nobody writes the old one. */
static void lead_shootdown(void)
{
    static u64 before[512];
    for (u64 n = 0; n < rounds / cpus; n++) {
        unsigned now = n & 1, old = !now;
        bool had_written, dirty;
        *(volatile u64 *)entry = (u64)frames[now] | PTE_P | PTE_W;
        invlpg(LINEAR);
        call_others();
        shot++;
        memcpy(before, frames[old], sizeof(before));
        for (unsigned turn = 0; turn < 50; turn++)
            pause();
        for (unsigned k = 0; k < SMP_CPUS; k++)
            want("written after the shootdown", ((volatile u64 *)frames[old])[k * 8],
                 before[k * 8]);
        had_written = false;
        for (unsigned k = 0; k < SMP_CPUS; k++)
            had_written |= ((volatile u64 *)frames[now])[k * 8 + 1] == shot;
        dirty = *(volatile u64 *)entry & PTE_D;
        want("written but not dirty", had_written && !dirty, 0);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
}

static void shoot(unsigned id)
{
    if (id == leader)
        lead_shootdown();
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        lock_inc64((void *)(LINEAR + id * 64));
        pause();
        *(volatile u64 *)(LINEAR + id * 64 + 8) = shot;
        increments[id]++;
    }
}

static void test_shootdown(void)
{
    u64 total = 0, found = 0;
    smp_set_handler(VECTOR_CALL, on_shootdown);
    entry = page_entry(isa_pml4, 4, LINEAR, 1, PTE_P | PTE_W);
    *entry = (u64)frames[1] | PTE_P | PTE_W;
    for (leader = 0; leader < cpus; leader++) {
        stop = 0;
        smp_run(cpus, shoot);
    }
    for (unsigned id = 0; id < cpus; id++) {
        total += increments[id];
        found += frames[0][id * 8] + frames[1][id * 8];
    }
    print("# shootdown: ");
    print_decimal(rounds / cpus * cpus);
    print(" shootdowns, ");
    print_decimal(total);
    print(" increments\n");
    want("increments found", found, total);
    want("no increments", total == 0, 0);
    verdict("shootdown");
}

/* ---- code that changes ---- */

static u8 text[SMP_CPUS][4096] __attribute__((aligned(4096)));
static u8 shared_text[TEXT_PAGES][4096] __attribute__((aligned(4096)));
static u64 wrong[SMP_CPUS], calls[SMP_CPUS];
static volatile u32 published, previous;
static u8 *poked; /* the MOV EAX, imm32 that is patched */

static u32 call(const void *code)
{
    u32 value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(code) : "memory");
    return value;
}

static void put_function(u8 *at, u32 value) /* MOV EAX, value; RET */
{
    at[0] = 0xb8;
    *(volatile u32_any *)(at + 1) = value;
    at[5] = 0xc3;
}

/* The processor's own code: seen at the next instruction (8.1.3). */
static void self_modifying(unsigned id)
{
    u8 *code = text[id] + (id & 1 ? 0xff0 : 0x100);
    put_function(code, 0);
    for (u32 n = 0; n < rounds; n++) {
        *(volatile u32_any *)(code + 1) = n;
        wrong[id] += call(code) != n;
    }
}

/* One writes, all wait for it and serialize. */
static void cross_modifying(unsigned id)
{
    u8 *code = shared_text[0] + PAGE - 3; /* on two pages */
    u8 *inside = shared_text[0] + 0x200;
    for (u32 n = 0; n < rounds; n++) {
        if (n % cpus == id) {
            put_function(code, n);
            put_function(inside, ~n);
        }
        smp_barrier();
        serialize();
        wrong[id] += call(code) != n;
        wrong[id] += call(inside) != ~n;
        smp_barrier();
    }
}

__attribute__((interrupt)) static void on_serialize(void *frame)
{
    serialize();
    __atomic_fetch_add(&acknowledged, 1, __ATOMIC_SEQ_CST);
    smp_eoi();
}

/* INT3 stands in the instruction's place while its tail is written: do as the new one will. */
extern u8 on_breakpoint[];
u32 smp_emulated;
__asm__(".text\non_breakpoint:\n"
        "mov smp_emulated(%rip), %eax\n"
        "addq $4, (%rsp)\n" /* RIP is behind the INT3 */
        "iretq\n");

static u32 pattern(u32 n)
{
    return (n & 0xff) * 0x01010101u;
}

static void poke(u32 n)
{
    previous = published;
    smp_emulated = pattern(n);
    __atomic_store_n(&published, n, __ATOMIC_SEQ_CST);
    *(volatile u8 *)poked = 0xcc;
    call_others();
    *(volatile u32_any *)(poked + 1) = pattern(n);
    call_others();
    *(volatile u8 *)poked = 0xb8;
    call_others();
}

/* Callers see the value from before or after, whole, and after the last acknowledgement the new. */
static void poke_or_call(unsigned id)
{
    if (id == 0) {
        for (u32 n = 1; n <= rounds; n++) {
            poke(n);
            wrong[0] += call(poked) != pattern(n);
            previous = n; /* all have acknowledged: the one before is gone */
        }
        __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    }
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        pause();
        u32 first = previous, value = call(poked), last = published;
        bool known = false;
        for (u32 n = first; n <= last && !known; n++)
            known = value == pattern(n);
        wrong[id] += !known;
        calls[id]++;
    }
}

static void code_verdict(const char *name, void (*f)(unsigned id))
{
    u64 errors = 0, called = 0;
    memset(wrong, 0, sizeof(wrong));
    memset(calls, 0, sizeof(calls));
    stop = 0;
    smp_run(cpus, f);
    for (unsigned id = 0; id < cpus; id++) {
        errors += wrong[id];
        called += calls[id];
    }
    print("# ");
    print(name);
    print(": ");
    print_decimal(rounds);
    print(" changes");
    if (called != 0) {
        print(", ");
        print_decimal(called);
        print(" calls");
    }
    print("\n");
    want("calls of old or torn code", errors, 0);
    verdict(name);
}

static void test_code(void)
{
    code_verdict("self-modifying", self_modifying);
    code_verdict("cross-modifying", cross_modifying);
    smp_set_handler(VECTOR_CALL, on_serialize);
    smp_set_handler(VECTOR_BP, on_breakpoint);
    for (unsigned crossing = 0; crossing < 2; crossing++) {
        poked = crossing ? shared_text[0] + PAGE - 2 : shared_text[0] + 0x400;
        published = previous = 0;
        put_function(poked, 0);
        code_verdict(crossing ? "breakpoint-across-pages" : "breakpoint", poke_or_call);
    }
    default_gate(VECTOR_BP);
}

void isa_main(const char *command_line)
{
    cpus = (unsigned)smp_option(command_line, "cpus", 4);
    ops = smp_option(command_line, "ops", 4000000);
    rounds = smp_option(command_line, "rounds", 400);
    smp_start(cpus);
    split_only = smp_option(command_line, "splits", 3000);
    test_locked();
    test_split();
    test_shootdown();
    test_code();
}
