/* SPDX-License-Identifier: MIT */
/* A vCPU with RAM, a gate that writes down what reaches it, and helpers that build page tables:
 * for unit tests of x86/. */
#ifndef TESTS_SUPPORT_X86_FIXTURE_H
#define TESTS_SUPPORT_X86_FIXTURE_H

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

struct x86_fixture *x86_fixture_create(void); /* the model is "max,vendor=intel" */
void x86_fixture_model(struct x86_fixture *f, const char *spec); /* another one */
void x86_fixture_destroy(struct x86_fixture *f);

/* 64-bit mode with 4- or 5-level paging and empty tables. */
void x86_fixture_long_mode(struct x86_fixture *f, bool la57);
uint64_t x86_fixture_table(struct x86_fixture *f); /* a fresh, zero page for tables */
uint64_t *x86_fixture_ram(struct x86_fixture *f, uint64_t physical);

/* The entry of the given level (1 = PTE) for linear under the table at root; levels above are made,
 * with all rights, where they are absent. */
uint64_t *x86_fixture_entry(struct x86_fixture *f, uint64_t root, uint64_t linear, unsigned level);
void x86_fixture_map(struct x86_fixture *f, uint64_t linear, uint64_t physical, uint64_t bits);

/* An access that may raise: the vector, or -1; v->fault has the rest. They are functions because no
 * local variable of a test may live across setjmp. value, host, physical may be NULL. */
int try_load(struct x86_fixture *f, enum tlb_reach reach, uint64_t linear, unsigned size,
             uint64_t *value);
int try_store(struct x86_fixture *f, enum tlb_reach reach, uint64_t linear, uint64_t value,
              unsigned size);
int try_write_bytes(struct x86_fixture *f, enum tlb_reach reach, uint64_t linear, const void *bytes,
                    unsigned n);
int try_probe(struct x86_fixture *f, enum tlb_reach reach, uint64_t linear, unsigned n, bool write);
int try_rmw(struct x86_fixture *f, enum tlb_reach reach, uint64_t linear, unsigned size,
            void **host);
int try_fetch(struct x86_fixture *f, uint64_t linear, const uint8_t **host, uint64_t *physical);

#endif
