/* SPDX-License-Identifier: MIT */
/*
 * What device tests stand on: a clock of instructions that the test moves, a bus, vCPUs that do not
 * run, and (on demand) the interrupt controllers. Everything is real but the passing of time.
 */
#ifndef TESTS_SUPPORT_RIG_H
#define TESTS_SUPPORT_RIG_H

#include "irq/irq.h"
#include "x86/cpuid.h"

#define RIG_CPUS 4

struct rig {
    uint64_t instructions;
    struct vm_clock *clock;
    struct bus bus;
    struct mem mem;
    struct msr_table msrs;
    struct cpuid_model cpuid;
    struct x86_platform platform;
    struct vcpu *cpu[RIG_CPUS];
    struct irq *irq;
    uint32_t random;
};

void rig_init(struct rig *r, uint64_t tsc_hz); /* 0: the usual one */
void rig_irq(struct rig *r);                   /* adds the interrupt controllers */
void rig_fini(struct rig *r);

/* Time moves to `ns`, every timer fires at its own time. */
void rig_to(struct rig *r, uint64_t ns);

uint8_t rig_in(struct rig *r, unsigned port);
void rig_out(struct rig *r, unsigned port, unsigned value);
uint32_t rig_read(struct rig *r, unsigned cpu, uint64_t address);
void rig_write(struct rig *r, unsigned cpu, uint64_t address, uint32_t value);

bool rig_intr(struct rig *r, unsigned cpu); /* VCPU_REQUEST_INTR */
int rig_ack(struct rig *r, unsigned cpu);   /* the vector, or -1 */

uint32_t rig_random(struct rig *r);
/* Random reads and writes of all sizes in a range, as a hostile driver makes them. */
void rig_hostile(struct rig *r, enum bus_space space, uint64_t base, uint64_t size, unsigned steps);

/* Saves a, loads into b, and asserts that they are equal. */
void rig_copy_state(const struct field_table *t, const void *a, void *b);
/* Saves a, puts `value` into the section at the field, and asserts that loading into b is refused
 * in a sentence that names the section. */
void rig_refuses(const struct field_table *t, const void *a, void *b, const char *field,
                 uint64_t value);

#endif
