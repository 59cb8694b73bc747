/* SPDX-License-Identifier: MIT */
/*
 * The one gate for everything that the guest's own state does not determine (decision 12). Engines
 * and x86/ reach time, randomness, devices and interrupts only through here, each at a position:
 * v->counters.instructions, exact at the call. Lockstep, record and replay put another table in
 * place of gate_live; nothing else changes.
 */
#ifndef DOPPEL_ENGINE_GATE_H
#define DOPPEL_ENGINE_GATE_H

#include "bus/bus.h"
#include "x86/vcpu.h"

struct gate_ops {
    uint64_t (*tsc)(struct vcpu *v);                            /* without tsc_offset */
    bool (*random)(struct vcpu *v, bool seed, uint64_t *value); /* RDRAND, RDSEED */
    uint64_t (*read)(struct vcpu *v, enum bus_space space, uint64_t address, unsigned size);
    void (*write)(struct vcpu *v, enum bus_space space, uint64_t address, uint64_t value,
                  unsigned size);
    int (*acknowledge)(struct vcpu *v); /* vector or -1 */
    uint64_t (*steal)(struct vcpu *v);  /* steal_time_host_ns of v's thread */
    /* NMI, INIT or SIPI, a VCPU_REQUEST_ bit, is taken now. NULL: nobody wants to know. */
    void (*taken)(struct vcpu *v, uint32_t request);
};

/* The clock, the bus, the host's RDRAND. Counts EXIT_PIO and EXIT_MMIO and their time. */
extern const struct gate_ops gate_live;
/* The same, but RDRAND and RDSEED come from a generator whose state is *(uint64_t *)gate_context of
 * the platform, so that two runs under the instruction clock are equal. One vCPU. */
extern const struct gate_ops gate_repeatable;

static inline uint64_t gate_tsc(struct vcpu *v)
{
    return v->platform->gate->tsc(v);
}
static inline bool gate_random(struct vcpu *v, bool seed, uint64_t *value)
{
    return v->platform->gate->random(v, seed, value);
}
/* No wider than size, whatever a recorded table gives: the host divides by it (op_bits.c). */
static inline uint64_t gate_read(struct vcpu *v, enum bus_space space, uint64_t address,
                                 unsigned size)
{
    uint64_t value = v->platform->gate->read(v, space, address, size);
    return size < 8 ? value & ((1ull << (8 * size)) - 1) : value;
}
static inline void gate_write(struct vcpu *v, enum bus_space space, uint64_t address,
                              uint64_t value, unsigned size)
{
    v->platform->gate->write(v, space, address, value, size);
}
static inline void gate_taken(struct vcpu *v, uint32_t request)
{
    if (v->platform->gate->taken != NULL)
        v->platform->gate->taken(v, request);
}
static inline int gate_acknowledge(struct vcpu *v)
{
    return v->platform->gate->acknowledge(v);
}

#endif
