/* SPDX-License-Identifier: MIT */
/*
 * The same pages of position-independent code at many linear addresses, in turn and at once, as
 * processes map a library: what depends on RIP follows, at each of them, faults too. Some stay
 * away long enough for an engine to think that nobody will come back.
 */
#include "isa.h"

#define PAGES     3
#define FIXED     0x600000000000ul /* the last page, always */
#define NOT_SHOWN 0x7fffdead0000ul
#define WILD      0x8000000000000000ul

/* Two pages of code and one of data. Each entry ends with INT 0x40. */
#define ENTRY(name) "\n.balign 16\n.globl " #name "\n" #name ":\n"
__asm__(
    ".pushsection .data\n.balign 4096\n.globl image\nimage:\n" /* */
    ENTRY(near_call) "call 1f\nint $0x40\n"
                     "1: mov (%rsp), %rax\nlea 2f(%rip), %rcx\ncall *%rcx\nret\n"
                     "2: mov (%rsp), %rbx\nret\n"                      /* */
    ENTRY(far_call) "call over\ncall *pointer_less(%rip)\nint $0x40\n" /* */
    ENTRY(by_data) "mov word(%rip), %rax\naddl $3, word(%rip)\nlea word(%rip), %rbx\n"
                   "mov word(%rip), %ecx\nlock incl word+4(%rip)\nmov word+4(%rip), %edx\n"
                   "movzbl word+1(%rip), %esi\nmovups word(%rip), %xmm0\nmovq %xmm0, %rdi\n"
                   "int $0x40\n" /* */
    ENTRY(by_short) "lea word(%eip), %rax\nlea word(%eip), %ebx\nlea word(%rip), %cx\n"
                    "movabs 0x600000000000, %eax\nlea word(%rip), %r15\nlea word(%rip), %r10d\nint "
                    "$0x40\n" /* */
    ENTRY(loops) "xor %eax, %eax\n1: add $1, %eax\njmp step\n"
                 ".globl step_back\nstep_back: test $3, %al\njz 2f\nadd $256, %eax\n2: dec "
                 "%ecx\njnz 1b\n"
                 "int $0x40\n" /* */
    ENTRY(sites) "push %rbx\nxor %eax, %eax\ncpuid\npop %rbx\nlea 1f(%rip), %rax\n"
                 "1: push $7\npop %rcx\nlea word(%rip), %rsi\nlodsb\nint $0x40\n" /* */
    ENTRY(divides) "xor %edx, %edx\nmov $1, %eax\n.globl division\ndivision: div %ecx\n"
                   "int $0x40\n"                                                          /* */
    ENTRY(stores) "push %rax\n.globl bad_store\nbad_store: mov %rax, (%rbx)\nint $0x40\n" /* */
    ENTRY(jumps) "lea 1f(%rip), %rax\njmp *%rax\nud2\n1: mov word+8(%rip), %rax\n"
                 ".globl wild_jump\nwild_jump: jmp *%rcx\n"                           /* */
    ENTRY(returns) "push %rcx\n.globl wild_return\nwild_return: ret\n"                /* */
                   ".org image + 0xff8\nfalls_over: lea -5(%rip), %rbx\n.byte 0x48\n" /* crosses
                                                                                         pages: */
                   ".byte 0x8d, 0x05, 0, 0, 0, 0\n"     /* lea 0(%rip), %rax */
                   "int $0x40\n"                        /* */
    ENTRY(over) "pop %rax\npush %rax\nret\n"            /* */
    ENTRY(step) "jmp step_back\n"                       /* */
    ENTRY(further) "mov (%rsp), %rbx\nret\n"            /* */
    ENTRY(second) "lea second(%rip), %rax\nint $0x40\n" /* */
                  ".org image + 0x2000\n.globl word, pointer_less\nword: .quad 0, "
                  "0\npointer_less: .quad 0\n"
                  ".org image + 0x3000\n.popsection\n");

extern u8 image[PAGES * 4096];
PLACE(near_call);
PLACE(far_call);
PLACE(by_data);
PLACE(by_short);
PLACE(loops);
PLACE(sites);
PLACE(divides);
PLACE(division);
PLACE(stores);
PLACE(bad_store);
PLACE(jumps);
PLACE(wild_jump);
PLACE(returns);
PLACE(wild_return);
PLACE(further);
PLACE(second);
extern u64 word[2], pointer_less;

static u64 base; /* where the image is now */
static u32 seed = 1;

static u32 random(void)
{
    seed = seed * 1664525 + 1013904223;
    return seed >> 8;
}

static u64 at(const u8 *p)
{
    return base + (u64)(p - image);
}

static void map(u64 linear, bool shown)
{
    for (unsigned n = 0; n < PAGES; n++) {
        *page_entry(isa_pml4, 4, linear + n * 4096, 1, PTE_P | PTE_W | PTE_U) =
            shown ? (u64)(image + n * 4096) | PTE_P | PTE_W | PTE_U : 0;
        invlpg(linear + n * 4096);
    }
}

/* Other processes run. */
static void stay_away(unsigned turns)
{
    while (turns-- > 0)
        write_cr3(read_cr3());
}

static void go(struct regs *r, const u8 *entry)
{
    run_user(r, (void *)(at(entry) - USER_BASE));
}

static void test_calls(void)
{
    struct regs r = {0};
    go(&r, near_call);
    want_done(&r);
    want("return", r.rax, at(near_call) + 5);
    want("inner return", r.rbx, at(near_call) + 7 + 4 + 7 + 2);

    r = (struct regs){0};
    pointer_less = at(further);
    go(&r, far_call);
    want_done(&r);
    want("return", r.rax, at(far_call) + 5);
    want("second return", r.rbx, at(far_call) + 11);
}

static void test_data(void)
{
    struct regs r = {0};
    word[0] = 0x1122334455667788;
    go(&r, by_data);
    want_done(&r);
    want("word", r.rax, 0x1122334455667788);
    want("its address", r.rbx, at((u8 *)word));
    want("added to", r.rcx, 0x5566778b);
    want("locked", r.rdx, 0x11223345);
    want("byte", r.rsi, 0x77);
    want("vector", r.rdi, 0x112233455566778b);

    r = (struct regs){.rcx = ~0ul};
    go(&r, by_short);
    want_done(&r);
    want("absolute", r.rax, (u32)word[0]);
    want("32 bits", r.rbx, (u32)at((u8 *)word));
    want("16 bits", r.rcx, 0xffffffffffff0000 | (u16)at((u8 *)word));
    want("r15", r.r15, at((u8 *)word));
    want("r10", r.r10, (u32)at((u8 *)word));
}

static void test_over(void)
{
    struct regs r = {0};
    go(&r, image + 0xff8);
    want_done(&r);
    want("before the boundary", r.rbx, base + 0xffa);
    want("across it", r.rax, base + 0x1006);
}

static void test_flow(void)
{
    struct regs r = {.rcx = 100};
    go(&r, loops);
    want_done(&r);
    want("sum", r.rax, 100 + 75 * 256);

    r = (struct regs){.rbx = 5};
    go(&r, sites);
    want_done(&r);
    want("behind CPUID", r.rax & ~0xfful, at(sites) & ~0xfful);
    want("rcx", r.rcx, 7);
    want("rsi", r.rsi, at((u8 *)word) + 1);
    test_over();
}

static void test_faults(void)
{
    struct regs r = {0};
    go(&r, divides);
    want_trap(&r, VECTOR_DE, 0, at(division));

    r = (struct regs){.rbx = NOT_SHOWN};
    go(&r, stores);
    want_trap(&r, VECTOR_PF, PF_W | PF_U, at(bad_store));
    want("cr2", r.cr2, NOT_SHOWN);

    r = (struct regs){.rcx = WILD};
    word[1] = 42;
    go(&r, jumps);
    want_trap(&r, VECTOR_GP, 0, at(wild_jump));
    want("rax", r.rax, 42);

    r = (struct regs){.rcx = WILD};
    go(&r, returns);
    want_trap(&r, VECTOR_GP, 0, at(wild_return));
}

static void test_all(const char *name)
{
    test_calls();
    test_data();
    test_flow();
    test_faults();
    verdict(name);
}

/* By few page tables. */
static u64 some_place(void)
{
    return (u64)(2 + random() % 4) << 39 | (u64)(random() % 4) << 21 | (u64)(random() % 500) << 12;
}

/* One place after the other: each may have what the one before has left. */
static void test_one_by_one(void)
{
    for (unsigned n = 0; n < 40; n++) {
        base = some_place();
        map(base, true);
        test_all("one-by-one");
        map(base, false);
        stay_away(n % 3 * 10);
    }
}

/* Several at once, visited in any order, some after long. */
static void test_many(void)
{
    u64 places[6];
    for (unsigned n = 0; n < 6; n++) {
        places[n] = some_place();
        map(places[n], true);
    }
    for (unsigned n = 0; n < 60; n++) {
        base = places[random() % 6];
        test_all("many");
        stay_away(random() % 2 * 12);
    }
    for (unsigned n = 0; n < 6; n++)
        map(places[n], false);
}

/* Written between visits, through the first mapping of all. */
static void test_written(void)
{
    u8 *displacement = near_call + 1;
    for (unsigned n = 0; n < 20; n++) {
        base = some_place();
        map(base, true);
        test_calls();
        displacement[0] += 3; /* past the first instruction called, and back */
        displacement[0] += 1;
        struct regs r = {.rax = 99};
        go(&r, near_call);
        want_done(&r);
        want("rax is as it was", r.rax, 99);
        displacement[0] -= 4;
        map(base, false);
        stay_away(12);
        verdict("written");
    }
}

/* Of two pages that one instruction lies on the second alone is wanted elsewhere. */
static void test_second(void)
{
    for (unsigned n = 0; n < 10; n++) {
        u64 here = some_place(), there = some_place();
        struct regs r = {0};
        base = here;
        map(here, true);
        test_over();
        stay_away(12);
        base = there;
        map(there, true);
        go(&r, second);
        want_done(&r);
        want("rax", r.rax, at(second));
        map(there, false);
        base = here;
        test_over();
        map(here, false);
        stay_away(12);
        verdict("second");
    }
}

/* At the ends of what can be moved, and where constants are shorter. */
static void test_edges(void)
{
    static const u64 places[] = {0x90000000,     0x1fffff000,    0x200000000,    0x1fffffe000,
                                 0x7ffdffffe000, 0x7ffe00000000, 0x7fffffff8000, 0x7ffdffffd000,
                                 0x17ffff000,    0x200001000};
    for (unsigned n = 0; n < 3 * sizeof(places) / sizeof(places[0]); n++) {
        base = places[n % (sizeof(places) / sizeof(places[0]))];
        map(base, true);
        test_all("edges");
        map(base, false);
        stay_away(12);
    }
}

void isa_main(const char *command_line)
{
    *page_entry(isa_pml4, 4, FIXED, 1, PTE_P | PTE_W | PTE_U) =
        (u64)(image + 0x2000) | PTE_P | PTE_W | PTE_U;
    test_second(); /* first: no other place has anything to give */
    test_one_by_one();
    test_many();
    test_written();
    test_edges();
}
