/* SPDX-License-Identifier: MIT */
/*
 * The VM that cases run in: its page tables give the address space of diff.h to CPL 3.
 *
 *   physical 0         page tables, GDT, LDT, IDT, TSS, kernel stack; linear kernel, supervisor
 *   physical 0x100000  the arena
 *
 * The GDT's user descriptors are the host kernel's, read by LAR and LSL, so that loads of segment
 * registers end alike. A fault is seen where the guest's kernel would see it: each gate leads to an
 * address of its own (which holds HLT), and the frame on its stack has RIP, RFLAGS and error code.
 *
 * For 32-bit code the same in 32-bit protected mode with PAE paging, and the LDT of diff.h.
 */
#ifndef DOPPEL_TESTS_DIFF_GUEST_H
#define DOPPEL_TESTS_DIFF_GUEST_H

#include <string.h>

#include "bus/bus.h"
#include "clock/clock.h"
#include "diff.h"
#include "engine/engine.h"
#include "x86/cpuid.h"
#include "x86/msr.h"

#define GUEST_KERNEL64       UINT64_C(0xffffffff80000000)
#define GUEST_KERNEL32       UINT64_C(0xbf800000)
#define GUEST_KERNEL32_BYTES UINT64_C(0x200000)
#define GUEST_PML4           0x1000u
#define GUEST_PDPT_LOW       0x2000u
#define GUEST_PDPT_TOP       0x3000u
#define GUEST_PD_LOW         0x4000u
#define GUEST_PD_TOP         0x5000u
#define GUEST_PT_CODE        0x6000u
#define GUEST_PT_DATA        0x7000u
#define GUEST_GDT            0x8000u
#define GUEST_IDT            0x9000u
#define GUEST_TSS            0xa000u
#define GUEST_HANDLERS       0xb000u /* one of GUEST_HANDLER bytes for each vector */
#define GUEST_HANDLER        16u
#define GUEST_STACK          0xe000u /* its top */
#define GUEST_PDPT_PAE       0xf000u
#define GUEST_LDT            0xf800u
#define GUEST_ARENA          0x100000u
#define GUEST_RAM            0x200000u
#define GUEST_VECTORS        32u

#define SELECTOR_KERNEL_CODE 0x10u
#define SELECTOR_KERNEL_DATA 0x18u
#define SELECTOR_TSS         0x40u
#define SELECTOR_LDT         0x50u
#define GDT_ENTRIES          16u

struct guest {
    const struct engine_ops *engine;
    bool counting; /* run gets a limit */
    bool code32;
    uint64_t kernel; /* linear address of physical 0 */
    struct mem mem;
    struct bus bus;
    struct vm_clock *clock;
    struct cpuid_model model;
    struct msr_table msrs;
    uint64_t random; /* what RDRAND goes on from, the same in every run of a case */
    struct x86_platform platform;
    struct vcpu *v;
    void *engine_vm;
    uint8_t *ram, *arena;
    bool code_writable;
    uint64_t gdt[GDT_ENTRIES], ldt[DIFF_LDT];
    uint8_t base[DIFF_ARENA], before[DIFF_ARENA];
};

static inline void put64(struct guest *g, uint32_t at, uint64_t value)
{
    memcpy(g->ram + at, &value, 8);
}

static inline uint64_t get64(const struct guest *g, uint32_t at)
{
    uint64_t value;

    memcpy(&value, g->ram + at, 8);
    return value;
}

static inline uint32_t get32(const struct guest *g, uint32_t at)
{
    return (uint32_t)get64(g, at);
}

/* Tables in memory, and system registers that lead to them; g->ram is there. */
void guest_make_machine(struct guest *g);
/* Whether cases may write their code, and see it at DIFF_ALIAS too. */
void guest_set_code_writable(struct guest *g, bool writable);
/* A data or code segment register that holds `selector`. */
struct x86_segment guest_segment(const struct guest *g, uint16_t selector, uint64_t base);

#endif
