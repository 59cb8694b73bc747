/* SPDX-License-Identifier: MIT */
/*
 * Port and MMIO dispatch: where a register access lands. Every engine comes through bus_read and
 * bus_write, on the vCPU's thread; the bus takes the device's lock around the call (decision 14:
 * order device -> irq -> vCPU bits). What no device claims reads as all ones and drops writes, as
 * on a PC, and is counted.
 *
 * A device states its widest access; wider ones are split, narrower ones are passed as they are
 * (the value masked to the size). An access that begins in one region and ends in another is split
 * at the border. Device callbacks never re-enter an engine and never block on the host.
 *
 * The map is built at wiring time and read without a lock afterwards.
 */
#ifndef DOPPEL_BUS_BUS_H
#define DOPPEL_BUS_BUS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "base/error.h"

enum bus_space { BUS_PIO, BUS_MMIO, BUS_SPACES };

#define BUS_REGIONS_MAX 64

struct bus_ops {
    /* offset is from the start of the region; size is 1, 2, 4 or 8 and at most max_size. */
    uint64_t (*read)(void *device, uint64_t offset, unsigned size);
    void (*write)(void *device, uint64_t offset, uint64_t value, unsigned size);
    unsigned max_size; /* 0 means 8 */
    /* Registers that each processor sees as its own at one address (the local APIC page): when not
     * NULL, read and write get instance(device, cpu) in place of device. */
    void *(*instance)(void *device, unsigned cpu);
};

struct bus_region {
    const char *name;
    uint64_t base, size;
    const struct bus_ops *ops;
    void *device;
    pthread_mutex_t *lock; /* NULL: the device needs none (its state is atomic or per vCPU) */
};

struct bus {
    struct bus_region regions[BUS_SPACES][BUS_REGIONS_MAX]; /* sorted by base, disjoint */
    unsigned count[BUS_SPACES];
    _Atomic uint64_t unclaimed[BUS_SPACES];
};

void bus_init(struct bus *b);

/* -EBUSY names both when the region overlaps another; -ENOSPC when the table is full. */
int bus_add(struct bus *b, enum bus_space space, const char *name, uint64_t base, uint64_t size,
            const struct bus_ops *ops, void *device, pthread_mutex_t *lock, struct error *e);

/* cpu is the number of the vCPU that makes the access (its v->id). size is 1, 2, 4 or 8 (PIO: at
 * most 4). Port numbers wrap at 64 K. */
uint64_t bus_read(struct bus *b, unsigned cpu, enum bus_space space, uint64_t address,
                  unsigned size);
void bus_write(struct bus *b, unsigned cpu, enum bus_space space, uint64_t address, uint64_t value,
               unsigned size);

#endif
