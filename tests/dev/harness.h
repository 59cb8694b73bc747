/* SPDX-License-Identifier: MIT */
/*
 * A machine without a processor for tests of devices: RAM, bus, the instruction clock moved by the
 * test, interrupt lines that are recorded, events that are counted.
 */
#ifndef DOPPEL_TESTS_DEV_HARNESS_H
#define DOPPEL_TESTS_DEV_HARNESS_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/field.h"
#include "bus/bus.h"
#include "clock/clock.h"
#include "dev/a20.h"
#include "dev/events.h"
#include "irq/irq.h"
#include "mem/mem.h"

#define HARNESS_RAM (1u << 20)

struct harness {
    struct mem mem;
    struct bus bus;
    struct vm_clock *clock;
    uint64_t instructions;
    _Atomic bool level[IRQ_LINES]; /* the console's thread moves them too */
    _Atomic unsigned rises[IRQ_LINES];
    struct a20 *a20;
    bool a20_closed;
    unsigned resets, power_offs, panics, crash_kernels, exits;
    int status;
};

static uint64_t harness_instructions(void *context)
{
    return ((struct harness *)context)->instructions;
}

static void harness_line(void *sink, unsigned gsi, bool level)
{
    struct harness *h = sink;
    assert_in_range(gsi, 0, IRQ_LINES - 1);
    h->rises[gsi] += level && !h->level[gsi];
    h->level[gsi] = level;
}

static void harness_reset(void *context, const char *by)
{
    assert_non_null(by);
    ((struct harness *)context)->resets++;
}

static void harness_a20(void *context, bool open)
{
    ((struct harness *)context)->a20_closed = !open;
}

static void harness_power_off(void *context)
{
    ((struct harness *)context)->power_offs++;
}

static void harness_panic(void *context, bool crash_kernel)
{
    struct harness *h = context;
    h->panics += !crash_kernel;
    h->crash_kernels += crash_kernel;
}

static void harness_debug_exit(void *context, int status)
{
    struct harness *h = context;
    h->exits++;
    h->status = status;
}

static const struct machine_events harness_events = {
    .reset = harness_reset,
    .a20 = harness_a20,
    .power_off = harness_power_off,
    .panic = harness_panic,
    .debug_exit = harness_debug_exit,
};

static inline struct machine_sink harness_sink(struct harness *h)
{
    return (struct machine_sink){&harness_events, h};
}

static inline struct irq_line harness_irq(struct harness *h, unsigned gsi)
{
    return (struct irq_line){.set = harness_line, .sink = h, .gsi = gsi};
}

static inline struct harness *harness_create(void)
{
    struct harness *h = calloc(1, sizeof(*h));
    struct clock_config config = {
        .source = CLOCK_SOURCE_INSTRUCTIONS, .instructions = harness_instructions, .context = h};
    assert_non_null(h);
    mem_init(&h->mem);
    assert_int_equal(mem_add(&h->mem, "ram", GPA(0), HARNESS_RAM, MEM_ANONYMOUS, false, NULL), 0);
    bus_init(&h->bus);
    assert_int_equal(clock_create(&config, &h->clock, NULL), 0);
    clock_start(h->clock);
    assert_int_equal(a20_create(&h->a20, harness_sink(h), NULL), 0);
    return h;
}

static inline void harness_destroy(struct harness *h)
{
    a20_destroy(h->a20);
    clock_destroy(h->clock);
    mem_fini(&h->mem);
    free(h);
}

/* Time goes on; timers fire at their instruction. */
static inline void harness_run(struct harness *h, uint64_t ns)
{
    uint64_t end = h->instructions + ns / CLOCK_NS_PER_INSTRUCTION;

    for (;;) {
        uint64_t deadline = clock_deadline(h->clock);
        uint64_t now = clock_now(h->clock);
        uint64_t step = end - h->instructions;
        if (deadline != CLOCK_NEVER && deadline > now) {
            uint64_t until =
                (deadline - now + CLOCK_NS_PER_INSTRUCTION - 1) / CLOCK_NS_PER_INSTRUCTION;
            step = until < step ? until : step;
        } else if (deadline <= now) {
            step = 0;
        }
        h->instructions += step;
        clock_poll(h->clock);
        if (h->instructions >= end && clock_deadline(h->clock) > clock_now(h->clock))
            return;
    }
}

static inline uint32_t in(struct harness *h, uint16_t port, unsigned size)
{
    return (uint32_t)bus_read(&h->bus, 0, BUS_PIO, port, size);
}

static inline uint8_t inb(struct harness *h, uint16_t port)
{
    return (uint8_t)in(h, port, 1);
}

static inline void out(struct harness *h, uint16_t port, uint32_t value, unsigned size)
{
    bus_write(&h->bus, 0, BUS_PIO, port, value, size);
}

static inline void outb(struct harness *h, uint16_t port, uint8_t value)
{
    out(h, port, value, 1);
}

/* xorshift64*: the same on every machine. */
static inline uint64_t harness_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

/* A driver that does what it likes: random accesses of every size to the ports, some beyond. */
static inline void harness_hostile(struct harness *h, uint16_t port, unsigned ports, unsigned steps,
                                   uint64_t seed)
{
    static const uint8_t sizes[4] = {1, 1, 2, 4};

    for (unsigned i = 0; i < steps; i++) {
        uint64_t r = harness_random(&seed);
        uint16_t p = (uint16_t)(port + (r >> 8) % ports);
        unsigned size = sizes[r & 3];
        if (r & 4)
            out(h, p, (uint32_t)(r >> 32), size);
        else
            in(h, p, size);
        if ((r & 0xf8) == 0)
            harness_run(h, (r >> 40) & 0xffff);
    }
}

/* What a saves, b loads; then both are equal, and so are their streams. */
static inline void harness_round_trip(const struct field_table *t, void *a, void *b)
{
    struct field_buffer one = {0}, two = {0};
    const char *which = "";
    struct error e = {0};

    assert_int_equal(field_save(t, 0, a, &one), 0);
    const uint8_t *data = one.data;
    size_t size = one.size;
    if (field_load(t, 0, b, &data, &size, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(size, 0);
    if (!field_equal(t, a, b, &which))
        fail_msg("%s differs after loading", which);
    assert_int_equal(field_save(t, 0, b, &two), 0);
    assert_int_equal(one.size, two.size);
    assert_memory_equal(one.data, two.data, one.size);
    field_buffer_fini(&one);
    field_buffer_fini(&two);
}

/* A stream with that value in the field is refused and changes nothing. */
static inline void harness_refused(const struct field_table *t, void *object, const char *name,
                                   unsigned element, uint64_t value)
{
    struct field_buffer good = {0}, after = {0};
    const struct field *f = t->fields;
    size_t at = 4 + strlen(t->name) + 12;
    struct error e = {0};

    assert_int_equal(field_save(t, 0, object, &good), 0);
    for (; strcmp(f->name, name) != 0; f++)
        at += (size_t)f->size * f->count;
    assert_true(element < f->count);
    uint8_t *bad = malloc(good.size);
    assert_non_null(bad);
    memcpy(bad, good.data, good.size);
    memcpy(bad + at + (size_t)element * f->size, &value, f->size);
    const uint8_t *data = bad;
    size_t size = good.size;
    assert_int_equal(field_load(t, 0, object, &data, &size, &e), -EINVAL);
    assert_non_null(strstr(e.text, t->name));
    assert_int_equal(field_save(t, 0, object, &after), 0);
    assert_memory_equal(good.data, after.data, good.size);
    free(bad);
    field_buffer_fini(&good);
    field_buffer_fini(&after);
}

#endif
