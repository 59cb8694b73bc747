/* SPDX-License-Identifier: MIT */
/*
 * Port and MMIO dispatch; see bus.h for the contract and the thread rule. The guest controls
 * address, size and value; the engine passes only sizes 1, 2, 4 and 8.
 *
 * One guest access is cut into chunks that lie in one region (or in none), and a chunk of a region
 * into pieces that the device takes: the largest power of two that fits. The device's lock is held
 * over all pieces of a chunk, so that a split 64-bit access is not torn by another vCPU.
 */
#include "bus/bus.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#define PORT_MASK 0xffffu

static const uint64_t space_last[BUS_SPACES] = {[BUS_PIO] = PORT_MASK, [BUS_MMIO] = UINT64_MAX};
static const char *const space_names[BUS_SPACES] = {[BUS_PIO] = "port", [BUS_MMIO] = "MMIO"};

void bus_init(struct bus *b)
{
    memset(b, 0, sizeof(*b));
}

int bus_add(struct bus *b, enum bus_space space, const char *name, uint64_t base, uint64_t size,
            const struct bus_ops *ops, void *device, pthread_mutex_t *lock, struct error *e)
{
    struct bus_region *r = b->regions[space];
    unsigned n = b->count[space], at = 0;

    if (size == 0 || base > space_last[space] || size - 1 > space_last[space] - base)
        return error_set(e, EINVAL, "%s region '%s' at 0x%" PRIx64 " does not fit its space",
                         space_names[space], name, base);
    for (; at < n && r[at].base < base; at++)
        ;
    const struct bus_region *near = NULL;
    if (at > 0 && r[at - 1].base + (r[at - 1].size - 1) >= base)
        near = &r[at - 1];
    else if (at < n && base + (size - 1) >= r[at].base)
        near = &r[at];
    if (near != NULL)
        return error_set(e, EBUSY, "%s region '%s' at 0x%" PRIx64 " overlaps '%s' at 0x%" PRIx64,
                         space_names[space], name, base, near->name, near->base);
    if (n == BUS_REGIONS_MAX)
        return error_set(e, ENOSPC, "no room on the bus for the %s region '%s'", space_names[space],
                         name);
    memmove(&r[at + 1], &r[at], (n - at) * sizeof(*r));
    r[at] = (struct bus_region){name, base, size, ops, device, lock};
    b->count[space]++;
    return 0;
}

/* The region that holds a, or NULL; *run = bytes from a to the end of that region, or to the next
 * region when there is none (UINT64_MAX when no border follows). */
static const struct bus_region *find(const struct bus *b, enum bus_space space, uint64_t a,
                                     uint64_t *run)
{
    const struct bus_region *r = b->regions[space];
    unsigned low = 0, high = b->count[space];

    while (low < high) { /* the first region whose base lies above a */
        unsigned middle = (low + high) / 2;
        if (r[middle].base <= a)
            low = middle + 1;
        else
            high = middle;
    }
    if (low > 0 && a - r[low - 1].base < r[low - 1].size) {
        *run = r[low - 1].size - (a - r[low - 1].base);
        return &r[low - 1];
    }
    *run = low < b->count[space] ? r[low].base - a : UINT64_MAX;
    return NULL;
}

/* Bytes of an access of `left` bytes at a that stay within `run` and below the end of the space. */
static unsigned chunk_size(enum bus_space space, uint64_t a, unsigned left, uint64_t run)
{
    uint64_t n = left - 1; /* less one, for a space that ends at 2^64 */
    if (n > run - 1)
        n = run - 1;
    if (n > space_last[space] - a)
        n = space_last[space] - a;
    return (unsigned)n + 1;
}

static uint64_t size_mask(unsigned size)
{
    return size >= 8 ? UINT64_MAX : ((uint64_t)1 << (size * 8)) - 1;
}

static unsigned piece_size(const struct bus_ops *ops, unsigned left)
{
    unsigned max = ops->max_size != 0 ? ops->max_size : 8;
    unsigned size = 8;
    while (size > left || size > max)
        size /= 2;
    return size;
}

static uint64_t read_region(const struct bus_region *r, unsigned cpu, uint64_t offset, unsigned n)
{
    void *device = r->ops->instance != NULL ? r->ops->instance(r->device, cpu) : r->device;
    uint64_t value = 0;

    if (r->lock != NULL)
        pthread_mutex_lock(r->lock);
    for (unsigned done = 0, size; done < n; done += size) {
        size = piece_size(r->ops, n - done);
        value |= (r->ops->read(device, offset + done, size) & size_mask(size)) << (done * 8);
    }
    if (r->lock != NULL)
        pthread_mutex_unlock(r->lock);
    return value;
}

static void write_region(const struct bus_region *r, unsigned cpu, uint64_t offset, uint64_t value,
                         unsigned n)
{
    void *device = r->ops->instance != NULL ? r->ops->instance(r->device, cpu) : r->device;

    if (r->lock != NULL)
        pthread_mutex_lock(r->lock);
    for (unsigned done = 0, size; done < n; done += size) {
        size = piece_size(r->ops, n - done);
        r->ops->write(device, offset + done, (value >> (done * 8)) & size_mask(size), size);
    }
    if (r->lock != NULL)
        pthread_mutex_unlock(r->lock);
}

uint64_t bus_read(struct bus *b, unsigned cpu, enum bus_space space, uint64_t address,
                  unsigned size)
{
    uint64_t value = 0, run;

    for (unsigned done = 0, n; done < size; done += n) {
        uint64_t a = (address + done) & space_last[space];
        const struct bus_region *r = find(b, space, a, &run);
        n = chunk_size(space, a, size - done, run);
        if (r == NULL)
            atomic_fetch_add_explicit(&b->unclaimed[space], 1, memory_order_relaxed);
        value |= (r != NULL ? read_region(r, cpu, a - r->base, n) : size_mask(n)) << (done * 8);
    }
    return value;
}

void bus_write(struct bus *b, unsigned cpu, enum bus_space space, uint64_t address, uint64_t value,
               unsigned size)
{
    uint64_t run;

    for (unsigned done = 0, n; done < size; done += n) {
        uint64_t a = (address + done) & space_last[space];
        const struct bus_region *r = find(b, space, a, &run);
        n = chunk_size(space, a, size - done, run);
        if (r == NULL)
            atomic_fetch_add_explicit(&b->unclaimed[space], 1, memory_order_relaxed);
        else
            write_region(r, cpu, a - r->base, value >> (done * 8), n);
    }
}
