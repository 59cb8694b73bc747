/* SPDX-License-Identifier: MIT */
/* See rig.h. */
#include "rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint64_t instructions(void *context)
{
    return ((struct rig *)context)->instructions;
}

void rig_init(struct rig *r, uint64_t tsc_hz)
{
    memset(r, 0, sizeof(*r));
    struct clock_config config = {.source = CLOCK_SOURCE_INSTRUCTIONS,
                                  .instructions = instructions,
                                  .context = r,
                                  .tsc_hz = tsc_hz};
    assert_int_equal(clock_create(&config, &r->clock, NULL), 0);
    bus_init(&r->bus);
    mem_init(&r->mem);
    msr_table_init(&r->msrs);
    assert_int_equal(cpuid_model_build(&r->cpuid, "max", 1000000000, RIG_CPUS, NULL), 0);
    r->platform = (struct x86_platform){.mem = &r->mem,
                                        .bus = &r->bus,
                                        .clock = r->clock,
                                        .msrs = &r->msrs,
                                        .cpuid = &r->cpuid,
                                        .physical_address_bits = 46};
    for (unsigned i = 0; i < RIG_CPUS; i++) {
        r->cpu[i] = aligned_alloc(64, (sizeof(struct vcpu) + 63) & ~(size_t)63);
        memset(r->cpu[i], 0, sizeof(struct vcpu));
        r->cpu[i]->id = i;
        r->cpu[i]->platform = &r->platform;
    }
    r->random = 1;
    clock_start(r->clock);
}

void rig_irq(struct rig *r)
{
    struct error e = {0};
    int err = irq_create(&r->irq, &r->bus, r->clock, &r->msrs, r->cpu, RIG_CPUS, &e);
    assert_string_equal(e.text, "");
    assert_int_equal(err, 0);
}

void rig_fini(struct rig *r)
{
    irq_destroy(r->irq);
    for (unsigned i = 0; i < RIG_CPUS; i++)
        free(r->cpu[i]);
    mem_fini(&r->mem);
    clock_destroy(r->clock);
}

void rig_to(struct rig *r, uint64_t ns)
{
    for (uint64_t at; (at = clock_deadline(r->clock)) <= ns;) {
        clock_skip(r->clock, at);
        clock_poll(r->clock);
    }
    clock_skip(r->clock, ns);
}

uint8_t rig_in(struct rig *r, unsigned port)
{
    return (uint8_t)bus_read(&r->bus, 0, BUS_PIO, port, 1);
}

void rig_out(struct rig *r, unsigned port, unsigned value)
{
    bus_write(&r->bus, 0, BUS_PIO, port, value, 1);
}

uint32_t rig_read(struct rig *r, unsigned cpu, uint64_t address)
{
    return (uint32_t)bus_read(&r->bus, cpu, BUS_MMIO, address, 4);
}

void rig_write(struct rig *r, unsigned cpu, uint64_t address, uint32_t value)
{
    bus_write(&r->bus, cpu, BUS_MMIO, address, value, 4);
}

bool rig_intr(struct rig *r, unsigned cpu)
{
    return vcpu_requests(r->cpu[cpu]) & VCPU_REQUEST_INTR;
}

int rig_ack(struct rig *r, unsigned cpu)
{
    return r->cpu[cpu]->irq->acknowledge(r->cpu[cpu]->irq_context);
}

uint32_t rig_random(struct rig *r)
{
    r->random ^= r->random << 13;
    r->random ^= r->random >> 17;
    r->random ^= r->random << 5;
    return r->random;
}

void rig_hostile(struct rig *r, enum bus_space space, uint64_t base, uint64_t size, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        unsigned width = 1u << rig_random(r) % (space == BUS_PIO ? 3 : 4);
        uint64_t address = base + rig_random(r) % size;
        unsigned cpu = rig_random(r) % RIG_CPUS;
        uint64_t value = (uint64_t)rig_random(r) << 32 | rig_random(r);
        if (rig_random(r) & 1)
            value &= 0xff;
        if (rig_random(r) & 1)
            address &= ~(uint64_t)(width - 1);
        if (rig_random(r) & 1)
            bus_write(&r->bus, cpu, space, address, value, width);
        else
            bus_read(&r->bus, cpu, space, address, width);
        if (i % 16 == 0) {
            clock_skip(r->clock, clock_now(r->clock) + rig_random(r) % 2000000);
            clock_poll(r->clock);
        }
    }
}

void rig_copy_state(const struct field_table *t, const void *a, void *b)
{
    struct field_buffer buffer = {0};
    struct error e = {0};
    const char *which = "";
    assert_int_equal(field_save(t, 0, a, &buffer), 0);
    const uint8_t *data = buffer.data;
    size_t size = buffer.size;
    int err = field_load(t, 0, b, &data, &size, &e);
    assert_string_equal(e.text, "");
    assert_int_equal(err, 0);
    assert_int_equal(size, 0);
    if (!field_equal(t, a, b, &which))
        fail_msg("%s: %s differs after loading", t->name, which);
    field_buffer_fini(&buffer);
}

void rig_refuses(const struct field_table *t, const void *a, void *b, const char *field,
                 uint64_t value)
{
    struct field_buffer buffer = {0};
    struct error e = {0};
    size_t behind = 0;
    const struct field *found = NULL;
    assert_int_equal(field_save(t, 0, a, &buffer), 0);
    for (const struct field *f = t->fields; f->name != NULL; f++) {
        if (found == NULL && strcmp(f->name, field) == 0)
            found = f;
        if (found != NULL)
            behind += (size_t)f->size * f->count;
    }
    assert_non_null(found);
    memcpy(buffer.data + buffer.size - behind, &value, found->size);
    const uint8_t *data = buffer.data;
    size_t size = buffer.size;
    assert_int_equal(field_load(t, 0, b, &data, &size, &e), -EINVAL);
    assert_ptr_equal(data, buffer.data);
    if (strstr(e.text, t->name) == NULL)
        fail_msg("the refusal does not name %s: %s", t->name, e.text);
    field_buffer_fini(&buffer);
}
