/* SPDX-License-Identifier: MIT */
/*
 * The machine that fuzz targets share: RAM, bus, interrupt controllers, two vCPUs, and a clock of
 * instructions that the input moves. It is made once in a process; a target resets what it drives.
 */
#ifndef DOPPEL_TESTS_FUZZ_MACHINE_H
#define DOPPEL_TESTS_FUZZ_MACHINE_H

#include <stdlib.h>
#include <string.h>

#include "dev/events.h"
#include "engine/gate.h"
#include "irq/irq.h"
#include "x86/cpuid.h"

#define FUZZ_RAM  (1u << 20)
#define FUZZ_CPUS 2

struct fuzz_machine {
    uint64_t instructions, random;
    struct mem mem;
    struct bus bus;
    struct vm_clock *clock;
    struct msr_table msrs;
    struct cpuid_model cpuid;
    struct x86_platform platform;
    struct vcpu *vcpus[FUZZ_CPUS];
    struct irq *irq;
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void fuzz_must(int rc)
{
    if (rc != 0)
        abort();
}

static uint64_t fuzz_instructions(void *context)
{
    return ((struct fuzz_machine *)context)->instructions;
}

static inline void fuzz_machine_init(struct fuzz_machine *m)
{
    const struct clock_config clock = {
        .source = CLOCK_SOURCE_INSTRUCTIONS, .instructions = fuzz_instructions, .context = m};
    memset(m, 0, sizeof(*m));
    mem_init(&m->mem);
    bus_init(&m->bus);
    msr_table_init(&m->msrs);
    fuzz_must(mem_add(&m->mem, "ram", GPA(0), FUZZ_RAM, MEM_ANONYMOUS, false, NULL));
    fuzz_must(clock_create(&clock, &m->clock, NULL));
    fuzz_must(cpuid_model_build(&m->cpuid, "max", clock_tsc_hz(m->clock), FUZZ_CPUS, NULL));
    m->platform = (struct x86_platform){.mem = &m->mem,
                                        .bus = &m->bus,
                                        .clock = m->clock,
                                        .cpuid = &m->cpuid,
                                        .msrs = &m->msrs,
                                        .gate = &gate_repeatable,
                                        .gate_context = &m->random,
                                        .physical_address_bits = 46};
    for (unsigned i = 0; i < FUZZ_CPUS; i++) {
        m->vcpus[i] = aligned_alloc(64, (sizeof(struct vcpu) + 63) & ~(size_t)63);
        if (m->vcpus[i] == NULL)
            abort();
        memset(m->vcpus[i], 0, sizeof(struct vcpu));
        m->vcpus[i]->id = i;
        m->vcpus[i]->platform = &m->platform;
        vcpu_reset(m->vcpus[i]);
    }
    fuzz_must(irq_create(&m->irq, &m->bus, m->clock, &m->msrs, m->vcpus, FUZZ_CPUS, NULL));
    clock_start(m->clock);
}

static inline void fuzz_event_reset(void *context, const char *by)
{
}

static inline void fuzz_event_a20(void *context, bool open)
{
}

static inline void fuzz_event_power_off(void *context)
{
}

static inline struct machine_sink fuzz_sink(void)
{
    static const struct machine_events events = {
        .reset = fuzz_event_reset, .a20 = fuzz_event_a20, .power_off = fuzz_event_power_off};
    return (struct machine_sink){&events, NULL};
}

/* What a driver of registers in [base, base + size) may do, eight bytes of input for each step:
 * what, how wide, where, how long it waits, and a value. */
struct fuzz_range {
    enum bus_space space;
    uint64_t base;
    uint32_t size;
};

static inline void fuzz_drive(struct fuzz_machine *m, const struct fuzz_range *ranges, unsigned n,
                              const uint8_t *data, size_t size)
{
    for (; size >= 8; data += 8, size -= 8) {
        const struct fuzz_range *r = &ranges[(data[0] >> 4) % n];
        unsigned width = 1u << (data[0] >> 2 & (r->space == BUS_PIO ? 1 : 3));
        uint64_t at = r->base + (data[1] | data[2] << 8) % r->size;
        uint32_t value;
        if (r->space == BUS_PIO && (data[0] & 12) == 12)
            width = 4;
        memcpy(&value, data + 4, 4);
        if (data[0] & 1)
            bus_write(&m->bus, data[0] >> 1 & 1, r->space, at, value, width);
        else
            bus_read(&m->bus, data[0] >> 1 & 1, r->space, at, width);
        m->instructions += (uint64_t)data[3] << (data[3] & 15);
        clock_poll(m->clock);
    }
}

#endif
