/* SPDX-License-Identifier: MIT */
/*
 * Several processors for the guests of tests/smp, above tests/isa/lib: started by INIT and SIPI,
 * they sleep in HLT between smp_run calls. Processor 0 is the one that booted.
 */
#ifndef DOPPEL_TESTS_SMP_H
#define DOPPEL_TESTS_SMP_H

#include "isa.h"

#define SMP_CPUS  8
#define SMP_STACK 16384

enum { VECTOR_WAKE = 0x50, VECTOR_CALL = 0x51 };

#define LAPIC_EOI 0xb0
#define LAPIC_SVR 0xf0
#define LAPIC_ICR 0x300

/* The number after NAME= on the command line, else `otherwise`. */
u64 smp_option(const char *command_line, const char *name, u64 otherwise);
void print_decimal(u64 value);

/* Real-mode code at SMP_TRAMPOLINE leads a processor to smp_entry in 64-bit mode, on a stack of its
 * own: the number smp_next, which it counts up. */
#define SMP_TRAMPOLINE 0x10000ul
void smp_place_trampoline(void);
extern void (*smp_entry)(unsigned id);
extern u32 smp_next;

/* Starts processors 1 to cpus - 1. */
void smp_start(unsigned cpus);
/* f(id) on processors 0 to n - 1, with interrupts on; returns when all have. */
void smp_run(unsigned n, void (*f)(unsigned id));
/* Sense-reversing barrier of the n processors of the present smp_run. */
void smp_barrier(void);
/* The vector to every other processor that was started; for interrupt handlers: smp_eoi. */
void smp_ipi_others(unsigned vector);
/* `handler` is an interrupt function of the compiler; on the interrupted stack. */
void smp_set_handler(unsigned vector, const void *handler);

static inline u32 lapic_read(unsigned offset)
{
    return *(volatile u32 *)(0xfee00000ul + offset);
}
static inline void lapic_write(unsigned offset, u32 value)
{
    *(volatile u32 *)(0xfee00000ul + offset) = value;
}
static inline void smp_eoi(void)
{
    lapic_write(LAPIC_EOI, 0);
}
static inline void pause(void)
{
    __asm__ volatile("pause" ::: "memory");
}
static inline void serialize(void)
{
    u32 out[4];
    cpuid(0, 0, out);
}

#endif
