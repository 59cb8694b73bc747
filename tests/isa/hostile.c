/* SPDX-License-Identifier: MIT */
/*
 * A guest that means harm to whoever translates or caches its code: code without end, more jump
 * targets than any table holds, executable memory that comes and goes, the stack anywhere, linear
 * addresses that meet in a TLB at every size. The answers must be right, and the run ends with the
 * monitor no larger than tests/isa/run allows.
 */
#include "isa.h"

#define FIELD   0x4000000ul /* 64 MiB of code to be, identity-mapped, above all else */
#define WRITTEN (32ul << 20)
#define STRIDE  208u /* over all offsets in a line and page */
#define WRITES  100000u
#define TARGETS 1000000u
#define MAPS    50000u
#define LINEAR  0x600000000000ul
#define WAYS    4096u /* more than a TLB has sets */

static u8 pages[2][4096] __attribute__((aligned(4096)));

SNIPPET(push_op, "push %rax");
SNIPPET(pop_op, "pop %rax");
SNIPPET(call_op, "call 1f\n1: nop");
SNIPPET(ret_op, "ret");
SNIPPET(leave_op, "leave");
SNIPPET(enter_load, "mov (%rbx), %rax");
SNIPPET(enter_store, "mov %rax, (%rbx)");

/* MOV EAX, value; RET */
static void put_function(u8 *at, u32 value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static u32 call(const void *at)
{
    u32 value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(at) : "memory", "cc");
    return value;
}

static void code_without_end(void)
{
    u64 wrong = 0, at = 0;
    for (u32 n = 0; n < WRITES; n++) {
        u8 *code = (u8 *)FIELD + at;
        put_function(code, n * 7);
        wrong += call(code) != n * 7;
        at = (at + STRIDE) % WRITTEN;
    }
    want("wrong", wrong, 0);
    verdict("code-without-end");
}

static void many_targets(void)
{
    u64 wrong = 0;
    for (u32 n = 0; n < TARGETS; n++)
        put_function((u8 *)FIELD + n * 16ul, n);
    for (u32 n = 0; n < TARGETS; n++) {
        u32 k = (u32)(n * 611953ul % TARGETS);
        wrong += call((u8 *)FIELD + k * 16ul) != k;
    }
    for (u32 n = 0; n < 2000; n++) /* those that may be there still */
        wrong += call((u8 *)FIELD + (TARGETS - 1 - n) * 16ul) != TARGETS - 1 - n;
    want("wrong", wrong, 0);
    verdict("a-million-targets");
}

static void executable_memory_comes_and_goes(void)
{
    u64 *entry = page_entry(isa_pml4, 4, LINEAR, 1, PTE_P | PTE_W | PTE_U), wrong = 0;
    put_function(pages[0] + 0x123, 1000);
    put_function(pages[1] + 0x123, 2000);
    for (u32 n = 0; n < MAPS; n++) {
        unsigned which = n * 2654435761u >> 31;
        *entry = (u64)pages[which] | PTE_P | PTE_W;
        invlpg(LINEAR);
        wrong += call((void *)(LINEAR + 0x123)) != 1000 + which * 1000;
        if (n % 64 == 0) { /* another function there, written through the other address */
            put_function(pages[which] + 0x123, n);
            wrong += call((void *)(LINEAR + 0x123)) != n;
            put_function(pages[which] + 0x123, 1000 + which * 1000);
        }
        if (n % 512 == 0) {
            struct regs r = {0};
            *entry = 0;
            invlpg(LINEAR);
            run_kernel(&r, (void *)(LINEAR + 0x123));
            wrong += r.vector != VECTOR_PF || r.cr2 != LINEAR + 0x123;
        }
    }
    *entry = 0;
    invlpg(LINEAR);
    want("wrong", wrong, 0);
    verdict("executable-memory-comes-and-goes");
}

/* Each operation at each stack pointer: what it touches there decides. */
static const struct {
    u8 *code;
    int offset; /* of the 8 bytes that it touches from RSP (RBP of LEAVE) */
    bool write;
} stack_ops[] = {
    {push_op, -8, true}, {pop_op, 0, false},   {call_op, -8, true},
    {ret_op, 0, false},  {leave_op, 0, false},
};

static u64 wild(u32 n)
{
    static const u64 edges[] = {0,
                                1,
                                7,
                                8,
                                0x7fffffffffff,
                                0x800000000000,
                                0x7ffffffffff9,
                                0x800000000008,
                                0xffff7fffffffffff,
                                0xffff800000000000,
                                0xffff800000000004,
                                0xffffffffffffffff,
                                0xfffffffffffffff8,
                                0x8000000000000000,
                                0x10,
                                0xfffffffffffff000};
    if (n < sizeof(edges) / sizeof(edges[0]))
        return edges[n];
    return n * 0x9e3779b97f4a7c15ul >> (n % 5 * 11);
}

static bool canonical(u64 a)
{
    return (u64)((int64_t)(a << 16) >> 16) == a;
}

static bool mapped(u64 a) /* for user code; the tests' own pages are not guessed */
{
    return a >= USER_BASE && a < USER_BASE + (1ul << 30);
}

static void stack_anywhere(void)
{
    u64 wrong = 0, met[3] = {0};
    for (u32 n = 0; n < 3000; n++) {
        u64 sp = wild(n / 5);
        unsigned k = n % 5;
        struct regs r = {.rsp = sp, .rbp = sp};
        u64 at = sp + (u64)(int64_t)stack_ops[k].offset, end = at + 7;
        if (sp == 0 || mapped(at) || mapped(end))
            continue;
        run_user(&r, stack_ops[k].code);
        if (canonical(at) && canonical(end)) {
            u64 first = at >> 12 != end >> 12 && at >= USER_BASE && at < USER_BASE ? end : at;
            wrong += r.vector != VECTOR_PF || (r.cr2 != first && r.cr2 != (end & ~0xffful));
            wrong += (r.error & (PF_W | PF_U)) != (PF_U | (stack_ops[k].write ? PF_W : 0));
            met[0]++;
        } else {
            wrong += r.vector != VECTOR_SS || r.error != 0;
            met[1]++;
        }
        wrong += r.rip != user(stack_ops[k].code) || r.rsp != sp; /* nothing has moved */
    }
    want("wrong", wrong, 0);
    want("page faults met", met[0] > 500, true);
    want("stack faults met", met[1] > 500, true);
    verdict("stack-anywhere");
}

static void wild_addresses(void)
{
    u64 wrong = 0, seen = 0;
    for (u32 n = 0; n < 3000; n++) {
        u64 at = wild(n / 2), end = at + 7;
        struct regs r = {.rbx = at};
        if (mapped(at) || mapped(end))
            continue;
        run_user(&r, n % 2 ? enter_store : enter_load);
        seen++;
        if (canonical(at) && canonical(end))
            wrong += r.vector != VECTOR_PF || (r.cr2 != at && r.cr2 != (end & ~0xffful));
        else
            wrong += r.vector != VECTOR_GP || r.error != 0;
    }
    want("wrong", wrong, 0);
    want("seen", seen > 1000, true);
    verdict("wild-addresses");
}

/* One frame at addresses 2^k apart, then frames of their own: what meets in the TLB must not mix.
 */
static void aliases(void)
{
    const u64 base = LINEAR;
    u64 wrong = 0;
    for (unsigned k = 12; k < 45; k++) {
        *page_entry(isa_pml4, 4, base, 1, PTE_P | PTE_W | PTE_U) = (u64)pages[0] | PTE_P | PTE_W;
        *page_entry(isa_pml4, 4, base + (1ul << k), 1, PTE_P | PTE_W | PTE_U) =
            (u64)pages[k & 1] | PTE_P | PTE_W;
        invlpg(base);
        invlpg(base + (1ul << k));
        volatile u64 *a = (u64 *)(base + 8), *b = (u64 *)(base + (1ul << k) + 8);
        for (u64 n = 0; n < 64; n++) {
            *a = n;
            *b = n + 1000;
            wrong += *a != ((k & 1) ? n : n + 1000);
            wrong += *b != n + 1000;
        }
        *page_entry(isa_pml4, 4, base + (1ul << k), 1, 0) = 0;
        invlpg(base + (1ul << k));
    }
    want("wrong", wrong, 0);
    verdict("aliases-of-every-distance");

    wrong = 0;
    for (u64 stride = 1; stride <= 16; stride *= 2) { /* in the identity map */
        for (u64 n = 0; n < WAYS; n++)
            *(volatile u64 *)(FIELD + n * stride * 4096) = n * stride;
        for (u64 n = 0; n < WAYS; n++)
            wrong += *(volatile u64 *)(FIELD + n * stride * 4096) != n * stride;
    }
    want("wrong", wrong, 0);
    verdict("more-pages-than-entries");
}

void isa_main(const char *command_line)
{
    code_without_end();
    many_targets();
    executable_memory_comes_and_goes();
    stack_anywhere();
    wild_addresses();
    aliases();
}
