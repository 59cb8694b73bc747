/* SPDX-License-Identifier: MIT */
/*
 * Code that changes (SDM 3A 11.6: the store is seen by the next instruction through the same
 * address), code on two pages, and strings that stop in the middle (SDM 2B REP).
 */
#include "isa.h"

#define LINEAR 0x700000000000ul /* two pages of the tests' own */

static u8 page[2][4096] __attribute__((aligned(4096)));
static u8 source[2 * 4096] __attribute__((aligned(4096)));
static u8 sink[2 * 4096] __attribute__((aligned(4096)));

SNIPPET(next_op, "movb $0x77, 1f+1(%rip)\n1: mov $0, %al");
SNIPPET(later_op, "xor %eax, %eax\nmovb $0x66, 1f+1(%rip)\nnop\nnop\nadd $1, %ecx\n"
                  "1: mov $0, %al\nadd $1, %ecx");
SNIPPET(loop_op, "xor %eax, %eax\nxor %edx, %edx\n1: movb %cl, 2f+1(%rip)\n2: mov $0, %al\n"
                 "add %eax, %edx\ndec %ecx\njnz 1b");
SNIPPET(alias_op, "movb $0x55, (%rbx)\nmov $0, %al");
SNIPPET(rep_over, "rep movsb\nmov $1, %al\nmov $2, %ah");
PLACE(rep_next);
SNIPPET(rep_target, "rep movsb" AT(rep_next) "mov $1, %al");
PLACE(rep_stos_next);
SNIPPET(rep_stos, "rep stosb" AT(rep_stos_next) "hlt\nhlt\nhlt\nhlt");
SNIPPET(store_mov, "mov %eax, (%rbx)\njmp *%rbp");
SNIPPET(store_push, "mov %rsp, %r8\nlea 8(%rbx), %rsp\npush %rax\nmov %r8, %rsp\njmp *%rbp");
SNIPPET(store_xchg, "xchg %eax, (%rbx)\njmp *%rbp");
SNIPPET(store_cmpxchg, "mov %eax, %ecx\nmov (%rbx), %eax\nlock cmpxchg %ecx, (%rbx)\njmp *%rbp");
SNIPPET(store_stos, "mov %rbx, %rdi\nstosl\njmp *%rbp");
SNIPPET(store_movups, "movq %rax, %xmm0\nmovups %xmm0, (%rbx)\njmp *%rbp");
SNIPPET(store_movnti, "movnti %eax, (%rbx)\njmp *%rbp");
SNIPPET(store_fist, "mov %eax, (%rsi)\nfildl (%rsi)\nfistpl (%rbx)\njmp *%rbp");
SNIPPET(store_add, "sub (%rbx), %eax\nlock add %eax, (%rbx)\njmp *%rbp");
SNIPPET(movs_op, "rep movsb");
SNIPPET(movsq_op, "rep movsq");
SNIPPET(stosl_op, "rep stosl");
SNIPPET(cmps_op, "repe cmpsb");
SNIPPET(scas_op, "repne scasb");
SNIPPET(movs_32, "addr32 rep movsb");
SNIPPET(lods_op, "rep lodsb");

static u64 flags_of(unsigned n)
{
    return n ? (u64)page[n - 1] | PTE_P | PTE_W | PTE_U : 0;
}

/* Which of page[0], page[1], or none (0), each of the two linear pages shows. */
static void map(unsigned first, unsigned second)
{
    u64 *entry = page_entry(isa_pml4, 4, LINEAR, 1, PTE_P | PTE_W | PTE_U);
    entry[0] = flags_of(first);
    entry[1] = flags_of(second);
    invlpg(LINEAR);
    invlpg(LINEAR + 4096);
}

static void test_own_code(void)
{
    struct regs r = {0};
    run_kernel(&r, next_op);
    want("al", r.rax, 0x77);
    want_done(&r);
    verdict("next-instruction");

    r = (struct regs){0};
    run_kernel(&r, later_op);
    want("al", r.rax, 0x66);
    want("rcx", r.rcx, 2);
    verdict("same-block");

    r = (struct regs){.rcx = 200};
    run_kernel(&r, loop_op);
    want("sum", r.rdx, 200 * 201 / 2);
    verdict("in-a-loop");

    r = (struct regs){.rbx = user(alias_op) + 4};
    run_kernel(&r, alias_op);
    /* another linear address: seen after a serializing instruction at the latest, IRET is one */
    r = (struct regs){.rbx = user(alias_op) + 4};
    run_kernel(&r, alias_op);
    want("al", r.rax, 0x55);
    verdict("through-an-alias");

    static const u8 code[] = {0xb0, 0x21}; /* MOV AL, 0x21 */
    r = (struct regs){.rsi = (u64)code, .rdi = (u64)rep_next, .rcx = 2};
    run_kernel(&r, rep_target);
    want("al", r.rax, 0x21);
    want("rcx", r.rcx, 0);
    verdict("rep-movs-over-the-next");

    r = (struct regs){.rdi = (u64)rep_stos_next, .rcx = 4, .rax = 0x90};
    run_kernel(&r, rep_stos);
    want_done(&r);
    verdict("rep-stos-over-the-next");

    r = (struct regs){.rsi = (u64)rep_over, .rdi = (u64)rep_over, .rcx = 6};
    run_kernel(&r, rep_over); /* onto itself, the same bytes */
    want("ax", r.rax, 0x201);
    want("rcx", r.rcx, 0);
    verdict("rep-movs-onto-itself");
}

/* Every way to store changes code that has just run. */
static void test_stores(void)
{
    static const struct {
        const char *name;
        const u8 *code;
    } t[] = {{"mov", store_mov},         {"push", store_push},  {"xchg", store_xchg},
             {"cmpxchg", store_cmpxchg}, {"stos", store_stos},  {"movups", store_movups},
             {"movnti", store_movnti},   {"fistp", store_fist}, {"lock-add", store_add}};
    static u32 scratch;
    map(1, 2);
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        for (unsigned value = 1; value < 4; value++) {
            u32 code = 0x40cd00b0 | value << 8; /* MOV AL, value; INT 0x40 */
            struct regs r = {.rax = code, .rbx = LINEAR, .rbp = LINEAR, .rsi = (u64)&scratch};
            run_kernel(&r, t[n].code);
            want_done(&r);
            want("al", r.rax & 0xff, value);
            want("rip", r.rip, LINEAR + 4);
        }
        verdict2("store/", t[n].name);
    }
}

static void test_pages(void)
{
    static const u8 code[2][5] = {{0xb0, 1, 0xcd, 0x40}, {0xb0, 2, 0xcd, 0x40}};
    struct regs r;
    memcpy(page[0], code[0], 4);
    memcpy(page[1], code[1], 4);
    for (unsigned n = 0; n < 6; n++) {
        map(1 + (n & 1), 0);
        r = (struct regs){0};
        run_kernel(&r, (void *)LINEAR);
        want("al", r.rax, 1 + (n & 1));
    }
    verdict("page-mapped-to-other-code");

    map(1, 2); /* MOV EAX, imm32 over the boundary; INT 0x40 */
    for (unsigned n = 1; n < 5; n++) {
        memset(page[0] + 4080, 0x90, 16);
        page[0][4096 - n] = 0xb8;
        memset(page[0] + 4096 - n + 1, 0, n - 1);
        memset(page[1], 0, 8);
        page[1][5 - n] = 0xcd;
        page[1][6 - n] = 0x40;
        for (unsigned value = 1; value < 4; value++) {
            memset(page[0] + 4096 - n + 1, 0, n - 1);
            page[1][4 - n] = (u8)value; /* the last byte, on the second page */
            r = (struct regs){0};
            run_kernel(&r, (void *)(LINEAR + 4080));
            want("eax", r.rax, value << 24);
            if (n > 1) {
                *(volatile u8 *)(LINEAR + 4096 - n + 1) = (u8)value; /* and on the first */
                r = (struct regs){0};
                run_kernel(&r, (void *)(LINEAR + 4080));
                want("eax", r.rax, value << 24 | value);
            }
        }
    }
    verdict("cross-page-code-changes");

    for (unsigned n = 1; n < 5; n++) {
        memset(page[0] + 4080, 0x90, 16);
        page[0][4096 - n] = 0xb8;
        map(1, 0);
        r = (struct regs){.rax = 0x1234};
        run_kernel(&r, (void *)(LINEAR + 4080));
        want_trap(&r, VECTOR_PF, PF_I, LINEAR + 4096 - n);
        want("cr2", r.cr2, LINEAR + 4096);
        want("rax", r.rax, 0x1234);
        r = (struct regs){.rax = 0x1234};
        run_user(&r, (void *)(LINEAR + 4096 - n - USER_BASE));
        want_trap(&r, VECTOR_PF, PF_I | PF_U, LINEAR + 4096 - n);
        want("cr2", r.cr2, LINEAR + 4096);
    }
    verdict("cross-page-second-missing");
    memset(page[0] + 4080, 0x90, 16);
    r = (struct regs){0};
    run_kernel(&r, (void *)(LINEAR + 4080));
    want_trap(&r, VECTOR_PF, PF_I, LINEAR + 4096); /* whole instructions up to the end */
    page[0][4095] = 0x06;                          /* undefined: the next page does not matter */
    r = (struct regs){0};
    run_kernel(&r, (void *)(LINEAR + 4080));
    want_trap(&r, VECTOR_UD, 0, LINEAR + 4095);
    memset(page[0] + 4080, 0x66, 16); /* too long already */
    r = (struct regs){0};
    run_kernel(&r, (void *)(LINEAR + 4080));
    want_trap(&r, VECTOR_GP, 0, LINEAR + 4080);
    verdict("end-of-page");
}

SNIPPET(two_modes, ".byte 0x40, 0xb0, 0x07");
/* 64-bit: REX; MOV AL, 7. 32-bit: INC EAX; MOV AL, 7. */
static void test_modes(void)
{
    for (unsigned n = 0; n < 3; n++) {
        struct regs r = {.rax = 0xff};
        run_kernel(&r, two_modes);
        want("64-bit", r.rax, 7);
        r = (struct regs){.rax = 0xff};
        run_kernel32(&r, two_modes);
        want("32-bit", r.rax, 0x107);
    }
    verdict("same-bytes-in-two-modes");
}

/* ---- strings of each size, count and overlap, against a model ---- */

SNIPPET(movsw_op, "rep movsw");
SNIPPET(movsl_op, "rep movsl");
SNIPPET(stosb_op, "rep stosb");
SNIPPET(stosw_op, "rep stosw");
SNIPPET(stosq_op, "rep stosq");

static u8 arena[8192] __attribute__((aligned(4096))), expected[sizeof(arena)];

static void model(u64 to, u64 from, bool moves, u64 value, u64 count, u64 size, bool down)
{
    volatile u8 *bytes = expected;
    for (; count > 0; count--, to += down ? -size : size, from += down ? -size : size) {
        u8 element[8];
        for (u64 n = 0; n < size; n++)
            element[n] = moves ? bytes[from + n] : (u8)(value >> 8 * n);
        for (u64 n = 0; n < size; n++)
            bytes[to + n] = element[n];
    }
}

static void try_string(const u8 *code, bool moves, u64 to, u64 from, u64 count, u64 size, bool down)
{
    const u64 value = 0x8877665544332211;
    for (u64 n = 0; n < sizeof(arena); n++)
        arena[n] = expected[n] = (u8)(n * 7 + (n >> 8));
    struct regs r = {.rax = value,
                     .rdx = 0x1234,
                     .rcx = count,
                     .rdi = (u64)arena + to,
                     .rsi = (u64)arena + from,
                     .rflags = FLAG_CF | FLAG_ZF | (down ? FLAG_DF : 0)};
    run_kernel(&r, code);
    u64 moved = down ? -(count * size) : count * size;
    model(to, from, moves, value, count, size, down);
    want("vector", r.vector, VECTOR_DONE);
    want("rcx", r.rcx, 0);
    want("rdi", r.rdi, (u64)arena + to + moved);
    want("rsi", r.rsi, (u64)arena + from + (moves ? moved : 0));
    want("rax", r.rax, value);
    want("rdx", r.rdx, 0x1234);
    want("flags", r.rflags & (FLAG_CF | FLAG_ZF | FLAG_SF | FLAG_OF), FLAG_CF | FLAG_ZF);
    for (u64 n = 0; n < sizeof(arena); n++)
        if (!want("byte", arena[n], expected[n]))
            break;
}

static void test_string_copies(void)
{
    static const u8 *const code[2][4] = {{stosb_op, stosw_op, stosl_op, stosq_op},
                                         {movs_op, movsw_op, movsl_op, movsq_op}};
    static const u16 counts[] = {0, 1, 2, 11, 12, 13, 64, 255};
    static const u16 starts[][2] = {{64, 2048},   {2050, 61},   {100, 101},
                                    {101, 100},   {200, 209},   {2095, 2056},
                                    {4000, 1000}, {1000, 4000}, {4095, 4090}};
    for (unsigned size = 0; size < 4; size++) {
        for (unsigned n = 0; n < 2 * 8 * 9; n++) {
            unsigned start = n / 16;
            bool down = n & 1 && starts[start][0] > 2040 && starts[start][1] > 2040;
            for (unsigned moves = 0; moves < 2; moves++)
                try_string(code[moves][size], moves, starts[start][0], starts[start][1],
                           counts[n / 2 % 8], 1u << size, down);
        }
    }
    verdict("strings-as-the-model");
}

/* ---- strings that fault half-way, and go on ---- */

struct string_case {
    const char *name;
    const u8 *code;
    u64 rsi, rdi, rcx; /* at the start */
    u64 rax;
    u64 done; /* iterations before the fault */
    u8 unit;  /* bytes */
    bool down, moves_rsi, moves_rdi;
    u64 cr2, error;
};

static void test_strings(void)
{
    static const struct string_case t[] = {
        {"movs-target", movs_op, (u64)source, LINEAR + 4090, 20, 0, 6, 1, 0, 1, 1, LINEAR + 4096,
         PF_W},
        {"movs-source", movs_op, LINEAR + 4090, (u64)sink, 20, 0, 6, 1, 0, 1, 1, LINEAR + 4096, 0},
        {"movs-down", movs_op, (u64)source + 100, LINEAR + 4096 + 5, 9, 0, 6, 1, 1, 1, 1,
         LINEAR + 4095, PF_W},
        {"movsq", movsq_op, (u64)source, LINEAR + 4096 - 24, 9, 0, 3, 8, 0, 1, 1, LINEAR + 4096,
         PF_W},
        {"movsq-straddles", movsq_op, (u64)source, LINEAR + 4096 - 28, 9, 0, 3, 8, 0, 1, 1,
         LINEAR + 4096, PF_W},
        {"movsq-source-straddles", movsq_op, LINEAR + 4096 - 28, (u64)sink, 9, 0, 3, 8, 0, 1, 1,
         LINEAR + 4096, 0},
        {"stos", stosl_op, 0, LINEAR + 4096 - 400, 200, 0xabcdef01, 100, 4, 0, 0, 1, LINEAR + 4096,
         PF_W},
        {"cmps", cmps_op, (u64)source, LINEAR + 4090, 20, 0, 6, 1, 0, 1, 1, LINEAR + 4096, 0},
        {"scas", scas_op, 0, LINEAR + 4090, 20, 0xee, 6, 1, 0, 0, 1, LINEAR + 4096, 0},
        {"lods", lods_op, LINEAR + 4090, 0, 20, 0, 6, 1, 0, 1, 0, LINEAR + 4096, 0},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        const struct string_case *c = &t[n];
        struct regs r = {.rax = c->rax, .rcx = c->rcx, .rsi = c->rsi, .rdi = c->rdi};
        u64 step = c->down ? -(u64)c->unit : c->unit;
        for (unsigned i = 0; i < sizeof(source); i++)
            source[i] = (u8)(i * 7 + 1);
        memset(sink, 0, sizeof(sink));
        memcpy(page[0], source, 4096);
        memset(page[1], 0x33, 4096);
        if (c->code == cmps_op) {
            memcpy(page[0] + 4090, source, 6);
            memcpy(page[1], source + 6, 14);
        }
        if (c->code == scas_op)
            page[1][13] = 0xee;
        if (c->down)
            map(0, 2);
        else
            map(1, 0);
        r.rflags = c->down ? FLAG_DF : 0;
        run_kernel(&r, c->code);
        want_trap(&r, VECTOR_PF, c->error, (u64)c->code);
        want("cr2", r.cr2, c->cr2);
        want("rcx", r.rcx, c->rcx - c->done);
        want("rsi", r.rsi, c->rsi + (c->moves_rsi ? step * c->done : 0));
        want("rdi", r.rdi, c->rdi + (c->moves_rdi ? step * c->done : 0));
        map(1, 2);
        r.rflags &= ~(u64)FLAG_RF;
        isa_enter(&r); /* from where it stopped */
        want_done(&r);
        u64 total = c->code == scas_op ? 20 : c->rcx;
        want("rcx at the end", r.rcx, c->rcx - total);
        want("rsi at the end", r.rsi, c->rsi + (c->moves_rsi ? step * total : 0));
        want("rdi at the end", r.rdi, c->rdi + (c->moves_rdi ? step * total : 0));
        if (c->moves_rsi && c->moves_rdi && c->code != cmps_op && !c->down) {
            for (u64 i = 0; i < c->rcx * c->unit; i++)
                if (!want("byte", *(u8 *)(c->rdi + i), *(u8 *)(c->rsi + i)))
                    break;
        }
        if (c->code == stosl_op)
            want("last", *(u32 *)(page[1] + 396), 0xabcdef01);
        if (c->code == cmps_op || c->code == scas_op)
            want("zf", r.rflags & FLAG_ZF, FLAG_ZF);
        verdict2("string/", c->name);
    }
    struct regs r = {.rsi = (u64)source, .rdi = (u64)sink, .rcx = 0xff00000005};
    run_kernel(&r, movs_32); /* ECX counts; results are 32 bits wide */
    want_done(&r);
    want("rcx", r.rcx, 0);
    want("rsi", r.rsi, (u64)source + 5);
    verdict("string/32-bit-addresses");
    /* Overlapping by one: the byte spreads. */
    memset(sink, 0, 64);
    sink[0] = 0x99;
    r = (struct regs){.rsi = (u64)sink, .rdi = (u64)sink + 1, .rcx = 40};
    run_kernel(&r, movs_op);
    want("last", sink[40], 0x99);
    want("after", sink[41], 0);
    verdict("string/overlap");
}

void isa_main(const char *command_line)
{
    test_own_code();
    test_stores();
    test_pages();
    test_modes();
    test_string_copies();
    test_strings();
}
