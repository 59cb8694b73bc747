/* SPDX-License-Identifier: MIT */
/* See isa.h. The descriptor tables, reports on COM1, page tables. */
#include "isa.h"

#define COM1       0x3f8
#define DEBUG_EXIT 0xf4
#define POOL_PAGES 64

struct tss isa_tss __attribute__((aligned(16)));
u64 isa_idt[256][2] __attribute__((aligned(16)));
u8 isa_kernel_stack[8192] __attribute__((aligned(4096)));
u8 isa_user_stack[8192] __attribute__((aligned(4096)));
u8 isa_ist_stack[8][4096] __attribute__((aligned(4096)));
static u8 pool[POOL_PAGES][4096] __attribute__((aligned(4096)));
static unsigned pool_used, cases;
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

bool text_is(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

/* ---- reports ---- */

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

static void format_hex(u64 value, char text[17])
{
    unsigned digits = 1;
    while (digits < 16 && value >> (4 * digits))
        digits++;
    for (unsigned n = 0; n < digits; n++)
        text[n] = "0123456789abcdef"[(value >> (4 * (digits - 1 - n))) & 15];
    text[digits] = '\0';
}

void print_hex(u64 value)
{
    char text[17];
    format_hex(value, text);
    print(text);
}

static void say(const char *text)
{
    while (*text != '\0' && reason_length < sizeof(reason) - 1)
        reason[reason_length++] = *text++;
    reason[reason_length] = '\0';
}

bool want(const char *what, u64 got, u64 wanted)
{
    char text[17];
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

void verdict2(const char *name, const char *suffix)
{
    print(reason_length ? "not ok " : "ok ");
    print(name);
    print(suffix);
    if (reason_length) {
        print(" - ");
        print(reason);
    }
    print("\n");
    cases++;
    reason_length = 0;
}

void verdict(const char *name)
{
    verdict2(name, "");
}

_Noreturn void finish(u8 value)
{
    out8(DEBUG_EXIT, value);
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* An exception that no case was waiting for. */
_Noreturn void isa_unexpected(u64 vector, u64 error, u64 rip, u64 cr2);
_Noreturn void isa_unexpected(u64 vector, u64 error, u64 rip, u64 cr2)
{
    print("# unexpected vector ");
    print_hex(vector);
    print(" error ");
    print_hex(error);
    print(" rip ");
    print_hex(rip);
    print(" cr2 ");
    print_hex(cr2);
    print("\n");
    finish(1);
}

/* ---- running ---- */

static void run(struct regs *r, u64 rip, unsigned cs, unsigned ss, u64 stack)
{
    r->rip = rip;
    r->cs = cs;
    r->ss = ss;
    if (r->rsp == 0)
        r->rsp = stack;
    r->rflags |= 2;
    isa_enter(r);
}

void run_kernel(struct regs *r, const void *code)
{
    run(r, (u64)code, KERNEL_CS, KERNEL_DS, (u64)(isa_kernel_stack + 4096));
}

void run_user(struct regs *r, const void *code)
{
    run(r, user(code), USER_CS, USER_DS, user(isa_user_stack + 4096));
}

static void load_data_segments(unsigned selector)
{
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(selector) : "memory");
}

void run_user32(struct regs *r, const void *code)
{
    load_data_segments(USER_DS);
    run(r, user(code), USER_CS32, USER_DS, user(isa_user_stack + 4096));
    load_data_segments(KERNEL_DS);
}

void run_kernel32(struct regs *r, const void *code)
{
    run(r, (u64)code, KERNEL_CS32, KERNEL_DS, (u64)(isa_kernel_stack + 4096));
}

void want_trap(const struct regs *r, unsigned vector, u64 error, u64 rip)
{
    want("vector", r->vector, vector);
    want("error", r->error, error);
    want("rip", r->rip, rip);
}

void want_done(const struct regs *r)
{
    if (!want("vector", r->vector, VECTOR_DONE)) {
        want("error", r->error, 0);
        want("rip", r->rip, 0);
    }
}

/* ---- tables ---- */

void set_gate(unsigned vector, const void *handler, unsigned selector, unsigned type_dpl_p,
              unsigned ist)
{
    u64 h = (u64)handler;
    isa_idt[vector][0] = (h & 0xffff) | (u64)selector << 16 | (u64)ist << 32 |
                         (u64)type_dpl_p << 40 | (h >> 16 & 0xffff) << 48;
    isa_idt[vector][1] = h >> 32;
}

void default_gate(unsigned vector)
{
    bool user_gate = vector == VECTOR_BP || vector == VECTOR_OF || vector == VECTOR_DONE;
    set_gate(vector, isa_vectors[vector], KERNEL_CS, user_gate ? 0xee : 0x8e, 1);
}

void set_descriptor(unsigned selector, u64 low)
{
    isa_gdt[selector >> 3] = low;
}

void set_system_descriptor(unsigned selector, u64 base, u32 limit, unsigned access)
{
    isa_gdt[selector >> 3] = (limit & 0xffff) | (base & 0xffffff) << 16 | (u64)access << 40 |
                             (u64)(limit >> 16 & 15) << 48 | (base >> 24 & 0xff) << 56;
    isa_gdt[(selector >> 3) + 1] = base >> 32;
}

void *page_alloc(void)
{
    if (pool_used == POOL_PAGES) {
        print("# the page pool is empty\n");
        finish(1);
    }
    return memset(pool[pool_used++], 0, 4096);
}

void page_reset(void)
{
    pool_used = 0;
}

u64 *page_entry(u64 *root, unsigned levels, u64 linear, unsigned level, u64 flags)
{
    u64 *table = root;
    for (unsigned at = levels;; at--) {
        u64 *entry = &table[linear >> (12 + 9 * (at - 1)) & 511];
        if (at == level)
            return entry;
        if (!(*entry & PTE_P))
            *entry = (u64)page_alloc() | flags;
        table = (u64 *)(*entry & 0xffffffffff000);
    }
}

void isa_start(const char *command_line);
void isa_start(const char *command_line)
{
    struct table_register idt = {sizeof(isa_idt) - 1, (u64)isa_idt};
    out8(0x21, 0xff); /* the BIOS leaves the timer's interrupt on, at vector 8 */
    out8(0xa1, 0xff);
    for (unsigned vector = 0; vector < 256; vector++)
        default_gate(vector);
    isa_tss.rsp[0] = (u64)(isa_ist_stack[0] + 4096);
    for (unsigned n = 1; n < 8; n++)
        isa_tss.ist[n] = (u64)(isa_ist_stack[n] + 4096);
    isa_tss.io_base = sizeof(isa_tss); /* beyond the limit: no bitmap */
    set_system_descriptor(TSS_SELECTOR, (u64)&isa_tss, sizeof(isa_tss) - 1, 0x89);
    __asm__ volatile("lidt %0; ltr %w1" ::"m"(idt), "r"(TSS_SELECTOR) : "memory");
    isa_main(command_line);
    isa_end();
}

void isa_end(void)
{
    char text[17];
    format_hex(cases, text);
    print("# end ");
    print(text);
    print("\n");
    finish(0x10);
}
