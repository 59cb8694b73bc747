/* SPDX-License-Identifier: MIT */
/* A vCPU with RAM, a gate that writes down what reaches it, and helpers that build page tables:
 * for unit tests of x86/. */
#ifndef TESTS_SUPPORT_X86_FIXTURE_H
#define TESTS_SUPPORT_X86_FIXTURE_H

#include <setjmp.h>

#include "engine/gate.h"
#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/mmu.h"
#include "x86/msr.h"

#define FIXTURE_RAM  (32u << 20)
#define FIXTURE_ROM  0xfffff000u /* one page */
#define FIXTURE_MMIO 0xd0000000u /* nothing there: reaches the gate */

#define PTE_P  (1ull << 0)
#define PTE_RW (1ull << 1)
#define PTE_US (1ull << 2)
#define PTE_A  (1ull << 5)
#define PTE_D  (1ull << 6)
#define PTE_PS (1ull << 7)
#define PTE_G  (1ull << 8)
#define PTE_XD (1ull << 63)

struct x86_fixture {
    struct vcpu v;
    struct mem mem;
    struct x86_platform platform;
    struct cpuid_model cpuid;
    struct msr_table msrs;
    uint64_t next_table; /* physical; grows down from the end of RAM */
    uint64_t tsc;
    struct {
        uint64_t address, value;
        unsigned size;
        bool write;
    } io[64];
    unsigned io_count;
    uint64_t code_writes, code_page;
};

struct x86_fixture *x86_fixture_create(void);
void x86_fixture_destroy(struct x86_fixture *f);

/* 64-bit mode with 4- or 5-level paging and empty tables. */
void x86_fixture_long_mode(struct x86_fixture *f, bool la57);
uint64_t x86_fixture_table(struct x86_fixture *f); /* a fresh, zero page for tables */
uint64_t *x86_fixture_ram(struct x86_fixture *f, uint64_t physical);

/* The entry of the given level (1 = PTE) for linear under the table at root; levels above are made,
 * with all rights, where they are absent. */
uint64_t *x86_fixture_entry(struct x86_fixture *f, uint64_t root, uint64_t linear, unsigned level);
void x86_fixture_map(struct x86_fixture *f, uint64_t linear, uint64_t physical, uint64_t bits);

/* The vector that the statement raised, or -1. v->fault has the rest. */
#define RAISED(f, statement)               \
    ({                                     \
        jmp_buf raised_buffer;             \
        volatile int raised_ = -1;         \
        (f)->v.unwind = &raised_buffer;    \
        if (setjmp(raised_buffer) == 0) {  \
            statement;                     \
        } else {                           \
            raised_ = (f)->v.fault.vector; \
        }                                  \
        raised_;                           \
    })

#endif
