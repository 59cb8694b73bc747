/* SPDX-License-Identifier: MIT */
/*
 * What the guests of tests/isa/legacy share: 32-bit programs, in flat protected mode without paging
 * where multiboot leaves them. As in ../lib/isa.h a case enters a snippet with a whole register
 * state and comes back with the state at the next vector, whichever it is:
 *
 *     SNIPPET(load, "mov %fs:(%ebx), %eax");       ends with INT 0x40
 *     ...
 *     struct regs r = {.ebx = 0x1000, .fs = sel};
 *     run(&r, load);
 *     want_trap(&r, VECTOR_GP, 0, AT_START(load));
 *     verdict("expand-down");
 *
 * run enters 32-bit code of ring 0 or, by .cs, any other code segment; .eflags with VM enters
 * virtual-8086 mode. run_real enters real mode. Snippets of 16-bit code are copied to LOW first.
 */
#ifndef DOPPEL_TESTS_ISA_LEGACY_H
#define DOPPEL_TESTS_ISA_LEGACY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

/* ORDER legacy.S */
struct regs {
    u32 eax, ecx, edx, ebx, esp, ebp, esi, edi;
    u32 eip, eflags, cs, ss, ds, es, fs, gs;
    u32 vector, error; /* what ended the run; error 0 where there is none */
    u32 cr2;
    u32 frame; /* ESP of the handler, at the pushed EIP */
};

enum {
    VECTOR_DE = 0,
    VECTOR_BP = 3,
    VECTOR_OF = 4,
    VECTOR_BR = 5,
    VECTOR_UD = 6,
    VECTOR_DF = 8,
    VECTOR_TS = 10,
    VECTOR_NP = 11,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    VECTOR_DONE = 0x40, /* the snippet ran to its end */
};

enum { /* selectors; see legacy.S */
       CODE = 0x08,
       DATA = 0x10,
       USER_CODE = 0x1b,
       USER_DATA = 0x23,
       TSS = 0x28,
       CODE_16 = 0x30,
       DATA_16 = 0x38,
       FREE = 0x40, /* from here to 0xf8 */
};

#define FLAG_CF   0x1u
#define FLAG_ZF   0x40u
#define FLAG_TF   0x100u
#define FLAG_IF   0x200u
#define FLAG_DF   0x400u
#define FLAG_IOPL 0x3000u
#define FLAG_NT   0x4000u
#define FLAG_VM   0x20000u

#define CR0_TS  (1u << 3)
#define CR0_WP  (1u << 16)
#define CR0_PG  (1u << 31)
#define CR4_PSE (1u << 4)
#define CR4_PAE (1u << 5)

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

#define LOW 0x8000u /* where 16-bit code runs, one page */

#define SNIPPET(name, code)                                                                   \
    __asm__(".pushsection .snippets, \"ax\"\n.balign 16\n.globl " #name "\n" #name ":\n" code \
            "\nint $0x40\n" #name "_end:\n.globl " #name "_end\n.popsection\n");              \
    extern u8 name[], name##_end[]
#define SNIPPET16(name, code) SNIPPET(name, ".code16\n" code "\nint $0x40\n.code32")

struct __attribute__((packed)) tss32 {
    u16 link, r0;
    u32 esp0;
    u16 ss0, r1;
    u32 esp1, ss1, esp2, ss2;
    u32 cr3, eip, eflags;
    u32 eax, ecx, edx, ebx, esp, ebp, esi, edi;
    u32 es, cs, ss, ds, fs, gs;
    u32 ldt;
    u16 trap, io_base;
    u8 io_map[33];
};

extern u16 legacy_pic_masks; /* of the 8259A pair at the entry, the slave's above */
extern u64 legacy_gdt[32], legacy_idt[256];
extern struct tss32 legacy_tss;
extern u8 legacy_vectors[256][16];
extern u8 kernel_stack[4096], user_stack[4096], fault_stack[4096]; /* the last is TSS.ESP0's */

void legacy_main(void);

/* ---- reports ---- */
void print(const char *text);
bool want(const char *what, u32 got, u32 wanted);
void verdict(const char *name);
void want_trap(const struct regs *r, unsigned vector, u32 error, u32 eip);
void want_done(const struct regs *r);

/* ---- running ---- */
void run(struct regs *r, const void *code);
/* In ring 3, flat. */
void run_user(struct regs *r, const void *code);
/* Copies a snippet to LOW; returns LOW. */
u32 place(const u8 *code, const u8 *end);
/* In real mode at r->cs:r->eip; `big`: data segments keep a limit of 4 GiB. */
void run_real(struct regs *r, bool big);
#define REAL(r, code, big) (place(code, code##_end), (r)->cs = LOW >> 4, run_real(r, big))

/* ---- tables ---- */
/* access: P, DPL, S, type; flags: G, D/B. */
void set_descriptor(unsigned selector, u32 base, u32 limit, u8 access, u8 flags);
/* A gate of any kind, in the GDT or the IDT. */
u64 gate(u16 selector, u32 offset, u8 access, u8 count);

static inline u32 read_cr0(void)
{
    u32 v;
    __asm__ volatile("mov %%cr0, %0" : "=r"(v));
    return v;
}
static inline void write_cr0(u32 v)
{
    __asm__ volatile("mov %0, %%cr0" ::"r"(v) : "memory");
}
static inline void write_cr3(u32 v)
{
    __asm__ volatile("mov %0, %%cr3" ::"r"(v) : "memory");
}
static inline void write_cr4(u32 v)
{
    __asm__ volatile("mov %0, %%cr4" ::"r"(v) : "memory");
}
static inline u64 read_msr(u32 index)
{
    u64 v;
    __asm__ volatile("rdmsr" : "=A"(v) : "c"(index));
    return v;
}
static inline void write_msr(u32 index, u64 v)
{
    __asm__ volatile("wrmsr" ::"c"(index), "A"(v) : "memory");
}
static inline void out8(u16 port, u8 v)
{
    __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
static inline u8 in8(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
/* A volatile word anywhere: addresses of low memory are none to the compiler. */
static inline u32 peek(u32 at)
{
    u32 v;
    __asm__ volatile("movl (%1), %0" : "=r"(v) : "r"(at) : "memory");
    return v;
}
static inline void poke(u32 at, u32 v)
{
    __asm__ volatile("movl %0, (%1)" ::"r"(v), "r"(at) : "memory");
}

void *memcpy(void *d, const void *s, size_t n);
void *memset(void *d, int c, size_t n);

#endif
