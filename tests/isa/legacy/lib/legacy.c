/* SPDX-License-Identifier: MIT */
/* See legacy.h: reports on COM1, the tables, placing 16-bit code. */
#include "legacy.h"

#define COM1       0x3f8
#define DEBUG_EXIT 0xf4
#define LOW_CODE   0x1000u /* ORDER legacy.S */
#define LOW_REGS   0x600u
#define REAL_STACK 0x7000u

extern u8 low_start[], low_end[], low_vectors[];

void legacy_enter(struct regs *r);
void legacy_enter_real(bool big);
void legacy_start(void);

u64 legacy_idt[256] __attribute__((aligned(16)));
struct tss32 legacy_tss __attribute__((aligned(16)));
u8 kernel_stack[4096] __attribute__((aligned(4096)));
u8 user_stack[4096] __attribute__((aligned(4096)));
u8 fault_stack[4096] __attribute__((aligned(4096)));
u16 legacy_pic_masks;
static unsigned cases;
static char reason[400];
static unsigned reason_length;

void *memset(void *d, int c, size_t n)
{
    void *to = d;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
    return d;
}

void *memcpy(void *d, const void *s, size_t n)
{
    void *to = d;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(s), "+c"(n)::"memory");
    return d;
}

static void print_char(char c)
{
    while (!(in8(COM1 + 5) & 0x20))
        ;
    out8(COM1, (u8)c);
}

void print(const char *text)
{
    while (*text != '\0')
        print_char(*text++);
}

static void format_hex(u32 value, char text[9])
{
    unsigned digits = 1;
    while (digits < 8 && value >> (4 * digits))
        digits++;
    for (unsigned n = 0; n < digits; n++)
        text[n] = "0123456789abcdef"[(value >> (4 * (digits - 1 - n))) & 15];
    text[digits] = '\0';
}

static void say(const char *text)
{
    while (*text != '\0' && reason_length < sizeof(reason) - 1)
        reason[reason_length++] = *text++;
    reason[reason_length] = '\0';
}

bool want(const char *what, u32 got, u32 wanted)
{
    char text[9];
    if (got == wanted)
        return true;
    if (reason_length > sizeof(reason) / 2)
        return false; /* enough is said */
    say(reason_length ? "; " : "");
    say(what);
    say(" is ");
    format_hex(got, text);
    say(text);
    say(", not ");
    format_hex(wanted, text);
    say(text);
    return false;
}

void verdict(const char *name)
{
    print(reason_length ? "not ok " : "ok ");
    print(name);
    if (reason_length) {
        print(" - ");
        print(reason);
    }
    print("\n");
    cases++;
    reason_length = 0;
}

void want_trap(const struct regs *r, unsigned vector, u32 error, u32 eip)
{
    want("vector", r->vector, vector);
    want("error", r->error, error);
    want("eip", r->eip, eip);
}

void want_done(const struct regs *r)
{
    if (!want("vector", r->vector, VECTOR_DONE)) {
        want("error", r->error, 0);
        want("eip", r->eip, 0);
    }
}

/* Selectors are pushed as words in some processors: what lies above them is not theirs. */
static void trim(struct regs *r)
{
    u32 *s[] = {&r->cs, &r->ss, &r->ds, &r->es, &r->fs, &r->gs};
    for (unsigned i = 0; i < sizeof(s) / sizeof(s[0]); i++)
        *s[i] &= 0xffff;
}

void run(struct regs *r, const void *code)
{
    u32 *data[] = {&r->ds, &r->es, &r->fs, &r->gs};
    bool user = (r->cs & 3) == 3 || (r->eflags & FLAG_VM);
    if (r->cs == 0)
        r->cs = CODE;
    if (r->ss == 0)
        r->ss = DATA;
    if (r->esp == 0)
        r->esp = (u32)(kernel_stack + sizeof(kernel_stack));
    for (unsigned i = 0; i < 4 && !user; i++)
        if (*data[i] == 0)
            *data[i] = DATA;
    if (code != NULL)
        r->eip = (u32)code;
    r->eflags |= 2;
    legacy_enter(r);
    trim(r);
}

void run_user(struct regs *r, const void *code)
{
    u32 *data[] = {&r->ds, &r->es, &r->fs, &r->gs};
    r->cs = USER_CODE;
    if (r->ss == 0)
        r->ss = USER_DATA;
    if (r->esp == 0)
        r->esp = (u32)(user_stack + sizeof(user_stack));
    for (unsigned i = 0; i < 4; i++)
        if (*data[i] == 0)
            *data[i] = USER_DATA;
    run(r, code);
}

u32 place(const u8 *code, const u8 *end)
{
    u8 *low;
    __asm__("" : "=r"(low) : "0"(LOW));
    memset(low, 0x90, 4096);
    memcpy(low, code, (size_t)(end - code));
    return LOW;
}

void run_real(struct regs *r, bool big)
{
    u8 *low, *regs;
    __asm__("" : "=r"(low) : "0"(LOW_CODE));
    __asm__("" : "=r"(regs) : "0"(LOW_REGS));
    memcpy(low, low_start, (size_t)(low_end - low_start));
    for (u32 n = 0; n < 256; n++)
        poke(n * 4, LOW_CODE + (u32)(low_vectors - low_start) + n * 8);
    if (r->esp == 0)
        r->esp = REAL_STACK;
    r->eflags |= 2;
    r->vector = r->error = 0;
    memcpy(regs, r, sizeof(*r));
    poke(LOW_REGS + 80, r->esp);
    poke(LOW_REGS + 84, r->ss);
    legacy_enter_real(big);
    memcpy(r, regs, sizeof(*r));
    trim(r);
    r->eip &= 0xffff;
    r->eflags &= 0xffff;
}

void set_descriptor(unsigned selector, u32 base, u32 limit, u8 access, u8 flags)
{
    legacy_gdt[selector / 8] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
                               (u64)(limit >> 16 & 15) << 48 | (u64)(flags & 15) << 52 |
                               (u64)(base >> 24) << 56;
}

u64 gate(u16 selector, u32 offset, u8 access, u8 count)
{
    return (offset & 0xffff) | (u64)selector << 16 | (u64)count << 32 | (u64)access << 40 |
           (u64)(offset >> 16) << 48;
}

void legacy_start(void)
{
    struct __attribute__((packed)) {
        u16 limit;
        u32 base;
    } idt = {sizeof(legacy_idt) - 1, (u32)legacy_idt};
    legacy_pic_masks = (u16)(in8(0x21) | in8(0xa1) << 8);
    out8(0x21, 0xff); /* the BIOS leaves the timer's interrupt on, at vector 8 */
    out8(0xa1, 0xff);
    for (unsigned vector = 0; vector < 256; vector++) {
        bool user = vector == VECTOR_BP || vector == VECTOR_OF || vector == VECTOR_DONE;
        legacy_idt[vector] = gate(CODE, (u32)legacy_vectors[vector], user ? 0xee : 0x8e, 0);
    }
    legacy_tss.esp0 = (u32)(fault_stack + sizeof(fault_stack));
    legacy_tss.ss0 = DATA;
    legacy_tss.io_base = offsetof(struct tss32, io_map);
    memset(legacy_tss.io_map, 0xff, sizeof(legacy_tss.io_map));
    set_descriptor(TSS, (u32)&legacy_tss, sizeof(legacy_tss) - 1, 0x89, 0);
    __asm__ volatile("lidt %0; ltr %w1" ::"m"(idt), "r"(TSS) : "memory");
    legacy_main();
    char text[9];
    format_hex(cases, text);
    print("# end ");
    print(text);
    print("\n");
    out8(DEBUG_EXIT, 0x10);
    for (;;)
        __asm__ volatile("hlt");
}
