/* SPDX-License-Identifier: MIT */
/*
 * What the guests of tests/isa share. A case is written
 *
 *     SNIPPET(div_zero, "div %ecx");              the code under test, ends with INT 0x40
 *     ...
 *     struct regs r = {.rcx = 0};
 *     run_kernel(&r, div_zero);                    to the next vector, whichever it is
 *     want("vector", r.vector, VECTOR_DE);
 *     want("rip", r.rip, (u64)div_zero);
 *     verdict("divide-by-zero");                   ok, or not ok with what differed
 *
 * Results go to COM1 in the form of tests/check; the last line is "# end N", N = cases.
 */
#ifndef DOPPEL_TESTS_ISA_H
#define DOPPEL_TESTS_ISA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

/* ORDER boot.S */
struct regs {
    u64 rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
    u64 rip, rflags, cs, ss;
    u64 vector, error; /* what ended the run; error 0 where there is none */
    u64 cr2, dr6;
    u64 frame; /* where the handler found the pushed RIP */
    u64 handler_rflags;
    u16 handler_ss;
};

struct __attribute__((packed)) tss {
    u32 reserved0;
    u64 rsp[3], ist[8]; /* ist[0] is reserved */
    u64 reserved1;
    u16 reserved2, io_base;
    u8 io_map[129];
};

struct __attribute__((packed)) table_register {
    u16 limit;
    u64 base;
};

enum {
    VECTOR_DE,
    VECTOR_DB,
    VECTOR_NMI,
    VECTOR_BP,
    VECTOR_OF,
    VECTOR_BR,
    VECTOR_UD,
    VECTOR_NM,
    VECTOR_DF,
    VECTOR_TS = 10,
    VECTOR_NP,
    VECTOR_SS,
    VECTOR_GP,
    VECTOR_PF,
    VECTOR_MF = 16,
    VECTOR_AC,
    VECTOR_XM = 19,
    VECTOR_DONE = 0x40, /* the snippet ran to its end */
};

enum { /* selectors; see boot.S */
       KERNEL_CS = 0x08,
       KERNEL_DS = 0x10,
       USER_CS32 = 0x1b,
       USER_DS = 0x23,
       USER_CS = 0x2b,
       KERNEL_CS32 = 0x38,
       TSS_SELECTOR = 0x40,
       LDT_SELECTOR = 0x50,
       FREE_SELECTOR = 0x60, /* from here to 0xf8 */
};

enum {
    FLAG_CF = 1 << 0,
    FLAG_PF = 1 << 2,
    FLAG_AF = 1 << 4,
    FLAG_ZF = 1 << 6,
    FLAG_SF = 1 << 7,
    FLAG_TF = 1 << 8,
    FLAG_IF = 1 << 9,
    FLAG_DF = 1 << 10,
    FLAG_OF = 1 << 11,
    FLAG_IOPL = 3 << 12,
    FLAG_NT = 1 << 14,
    FLAG_RF = 1 << 16,
    FLAG_VM = 1 << 17,
    FLAG_AC = 1 << 18,
    FLAG_ID = 1 << 21,
};

#define CR0_MP (1ul << 1)
#define CR0_EM (1ul << 2)
#define CR0_TS (1ul << 3)
#define CR0_NE (1ul << 5)
#define CR0_WP (1ul << 16)
#define CR0_AM (1ul << 18)
#define CR0_NW (1ul << 29)
#define CR0_CD (1ul << 30)
#define CR0_PG (1ul << 31)

#define CR4_TSD        (1ul << 2)
#define CR4_DE         (1ul << 3)
#define CR4_PAE        (1ul << 5)
#define CR4_PGE        (1ul << 7)
#define CR4_PCE        (1ul << 8)
#define CR4_OSFXSR     (1ul << 9)
#define CR4_OSXMMEXCPT (1ul << 10)
#define CR4_UMIP       (1ul << 11)
#define CR4_LA57       (1ul << 12)
#define CR4_FSGSBASE   (1ul << 16)
#define CR4_PCIDE      (1ul << 17)
#define CR4_OSXSAVE    (1ul << 18)
#define CR4_SMEP       (1ul << 20)
#define CR4_SMAP       (1ul << 21)

#define PTE_P  (1ul << 0)
#define PTE_W  (1ul << 1)
#define PTE_U  (1ul << 2)
#define PTE_A  (1ul << 5)
#define PTE_D  (1ul << 6)
#define PTE_PS (1ul << 7)
#define PTE_G  (1ul << 8)
#define PTE_NX (1ul << 63)

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

#define MSR_SYSENTER_CS  0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_EFER         0xc0000080
#define MSR_STAR         0xc0000081
#define MSR_LSTAR        0xc0000082
#define MSR_CSTAR        0xc0000083
#define MSR_FMASK        0xc0000084
#define MSR_FS_BASE      0xc0000100
#define MSR_GS_BASE      0xc0000101
#define MSR_KERNEL_GS    0xc0000102
#define MSR_TSC_AUX      0xc0000103

#define USER_BASE 0x40000000ul

/* Code under test: position-independent, in a section that is mapped for both privileges. */
#define SNIPPET(name, code)                                                                   \
    __asm__(".pushsection .snippets, \"ax\"\n.balign 16\n.globl " #name "\n" #name ":\n" code \
            "\nint $0x40\n.popsection\n");                                                    \
    extern u8 name[]
/* The same without an end of its own, in 32-bit code. */
#define SNIPPET32(name, code) SNIPPET(name, ".code32\n" code "\nint $0x40\n.code64")
/* Within a SNIPPET: a place to be compared with RIP. */
#define AT(label)    "\n.globl " #label "\n" #label ":\n"
#define PLACE(label) extern u8 label[]

extern u64 isa_pml4[512], isa_pdpt[512], isa_pd[512], isa_user_pd[512], isa_gdt[32];
extern u8 isa_vectors[256][16], isa_iret[];
extern struct tss isa_tss;
extern u64 isa_idt[256][2];
extern u8 isa_kernel_stack[8192], isa_user_stack[8192], isa_ist_stack[8][4096];
extern u64 isa_return_stack;
extern struct regs *isa_current;

/* To be defined by each guest. */
void isa_main(const char *command_line);
/* What follows isa_main, for a guest that does not return from there. */
_Noreturn void isa_end(void);

/* ---- reports ---- */
void print(const char *text);
void print_hex(u64 value);
bool want(const char *what, u64 got, u64 wanted);
void verdict(const char *name);
void verdict2(const char *name, const char *suffix);
_Noreturn void finish(u8 value);
bool text_is(const char *a, const char *b);
void *memset(void *d, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);

/* ---- running ---- */
void isa_enter(struct regs *r);
void isa_leave(void);
void isa_set_paging(u64 cr3, u64 cr4);
static inline u64 user(const void *p)
{
    return (u64)p + USER_BASE;
}
/* Fill in RIP, CS, SS, and RSP if it is 0, then enter. */
void run_kernel(struct regs *r, const void *code);
void run_user(struct regs *r, const void *code);
void run_user32(struct regs *r, const void *code);
void run_kernel32(struct regs *r, const void *code);
/* The usual: wants vector, error code and RIP. */
void want_trap(const struct regs *r, unsigned vector, u64 error, u64 rip);
void want_done(const struct regs *r);

/* ---- tables ---- */
void set_gate(unsigned vector, const void *handler, unsigned selector, unsigned type_dpl_p,
              unsigned ist);
void default_gate(unsigned vector);
void set_descriptor(unsigned selector, u64 low);
void set_system_descriptor(unsigned selector, u64 base, u32 limit, unsigned access);
/* A zeroed page of the pool, below 16 MiB. */
void *page_alloc(void);
void page_reset(void); /* gives the whole pool back */
/* The entry of `level` (1 = PTE) for linear under root, tables made on the way with `flags`. */
u64 *page_entry(u64 *root, unsigned levels, u64 linear, unsigned level, u64 flags);

/* ---- instructions ---- */
static inline u64 read_cr0(void)
{
    u64 v;
    __asm__ volatile("mov %%cr0, %0" : "=r"(v));
    return v;
}
static inline void write_cr0(u64 v)
{
    __asm__ volatile("mov %0, %%cr0" ::"r"(v) : "memory");
}
static inline u64 read_cr3(void)
{
    u64 v;
    __asm__ volatile("mov %%cr3, %0" : "=r"(v));
    return v;
}
static inline void write_cr3(u64 v)
{
    __asm__ volatile("mov %0, %%cr3" ::"r"(v) : "memory");
}
static inline u64 read_cr4(void)
{
    u64 v;
    __asm__ volatile("mov %%cr4, %0" : "=r"(v));
    return v;
}
static inline void write_cr4(u64 v)
{
    __asm__ volatile("mov %0, %%cr4" ::"r"(v) : "memory");
}
static inline void write_cr8(u64 v)
{
    __asm__ volatile("mov %0, %%cr8" ::"r"(v) : "memory");
}
static inline u64 read_msr(u32 index)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return low | (u64)high << 32;
}
static inline void write_msr(u32 index, u64 v)
{
    __asm__ volatile("wrmsr" ::"c"(index), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
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
static inline void invlpg(u64 linear)
{
    __asm__ volatile("invlpg (%0)" ::"r"(linear) : "memory");
}
static inline void cpuid(u32 leaf, u32 subleaf, u32 out[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(subleaf));
}
/* The manuals differ here and there: AMD's processor, else as Intel's. */
static inline bool is_amd(void)
{
    u32 r[4];
    cpuid(0, 0, r);
    return r[1] == 0x68747541 || r[1] == 0x6f677948; /* "Auth", "Hygo" */
}

#endif
