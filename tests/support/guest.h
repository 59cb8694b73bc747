/* SPDX-License-Identifier: MIT */
/*
 * A bare guest for tests of src/x86: 2 MiB of RAM, tables at fixed places and one vCPU, run by no
 * engine. Long mode has 4 KiB identity pages; protected mode runs with paging off. What raises is
 * caught by GUEST_TRY, which also checks that a fault has left registers and RAM as they were.
 */
#ifndef TESTS_SUPPORT_GUEST_H
#define TESTS_SUPPORT_GUEST_H

#include "engine/gate.h"
#include "x86/cpuid.h"
#include "x86/vcpu.h"

#define GUEST_RAM      0x200000u
#define GUEST_PML4     0x1000u
#define GUEST_PT       0x4000u
#define GUEST_GDT      0x10000u
#define GUEST_IDT      0x11000u
#define GUEST_TSS      0x12000u
#define GUEST_LDT      0x13000u
#define GUEST_STACK    0x20800u /* of ring 0 while it runs */
#define GUEST_RSP0     0x22800u /* in the TSS */
#define GUEST_RSP1     0x23800u
#define GUEST_IST1     0x24800u
#define GUEST_USER     0x28800u
#define GUEST_HANDLER  0x30000u
#define GUEST_GDT_SIZE 0x100u

/* Selectors of the GDT; CODE32 and DATA are also those of protected mode. */
enum {
    SEL_CODE64 = 0x08,
    SEL_DATA = 0x10,
    SEL_USER_CODE32 = 0x1b,
    SEL_USER_DATA = 0x23,
    SEL_USER_CODE64 = 0x2b,
    SEL_TSS = 0x30, /* 16 bytes */
    SEL_LDT = 0x40, /* 16 bytes */
    SEL_CODE32 = 0x50,
    SEL_CONFORMING = 0x58,
    SEL_FREE = 0x60, /* from here on for the test */
};

struct guest {
    struct mem mem;
    struct cpuid_model cpuid;
    struct x86_platform platform;
    struct vcpu *v;
    int interrupt; /* what the controller acknowledges; -1 = none */
    unsigned acknowledged;
    uint8_t cr8, sipi;
    unsigned inits;
    int vector; /* of the exception that GUEST_TRY has caught; -1 = none */
    struct vcpu *before;
    uint8_t *ram_before;
};

/* cmocka set-up and tear-down; *state is the struct guest. */
int guest_setup_long(void **state);
int guest_setup_protected(void **state);
int guest_teardown(void **state);

/* Puts the vCPU in ring cpl; bits is 64, 32. */
void guest_ring(struct guest *g, unsigned cpl, unsigned bits);
uint64_t guest_descriptor(uint32_t base, uint32_t limit20, uint32_t attributes);
void guest_set_gdt(struct guest *g, uint16_t selector, uint64_t low);
/* attributes: type, S, DPL, P. A 64-bit gate in long mode, else one of 8 bytes. */
void guest_set_idt(struct guest *g, uint8_t vector, uint16_t selector, uint64_t offset,
                   uint32_t attributes, unsigned ist);
uint64_t guest_read(struct guest *g, uint64_t address, unsigned size);
void guest_write(struct guest *g, uint64_t address, uint64_t value, unsigned size);
/* Long mode: the entry of the identity page becomes address | bits. */
void guest_set_page(struct guest *g, uint64_t address, uint64_t bits);

void guest_mark(struct guest *g);            /* remember registers and RAM */
bool guest_unchanged(const struct guest *g); /* nothing but CR2 and A/D bits of page tables */

#define GUEST_TRY(g, call)                      \
    do {                                        \
        jmp_buf guest_frame;                    \
        (g)->v->unwind = &guest_frame;          \
        (g)->vector = -1;                       \
        guest_mark(g);                          \
        if (setjmp(guest_frame) == 0)           \
            call;                               \
        else                                    \
            (g)->vector = (g)->v->fault.vector; \
    } while (0)

/* The call raises vector with error (-1 = without an error code) and changes nothing. */
#define GUEST_RAISES(g, call, expected_vector, expected_error)                 \
    do {                                                                       \
        GUEST_TRY(g, call);                                                    \
        assert_int_equal((g)->vector, expected_vector);                        \
        assert_int_equal((g)->v->fault.has_error, (expected_error) != -1);     \
        if ((expected_error) != -1)                                            \
            assert_int_equal((g)->v->fault.error, (uint32_t)(expected_error)); \
        assert_true(guest_unchanged(g));                                       \
    } while (0)

#define GUEST_RUNS(g, call)                \
    do {                                   \
        GUEST_TRY(g, call);                \
        assert_int_equal((g)->vector, -1); \
    } while (0)

#endif
