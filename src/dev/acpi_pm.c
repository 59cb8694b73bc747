/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed hardware (ACPI 6.4 chapter 4.8). Thread rule: the device's lock guards all state; the
 * bus takes it for register access, the clock for the timer, the exported functions themselves. The
 * guest controls every written value.
 *
 * The PM timer counts the VM's clock. TMR_STS is set whenever bit 31 changes; that is seen lazily,
 * when a register is read, and by a clock timer only while TMR_EN asks for the interrupt.
 * Only S5 is offered in the DSDT: SLP_EN with another type does nothing.
 */
#include "dev/acpi_pm.h"

#include <errno.h>
#include <stdlib.h>

#define STATUS_BITS                                                                   \
    (ACPI_PM1_TIMER | ACPI_PM1_BUS_MASTER | ACPI_PM1_GLOBAL | ACPI_PM1_POWER_BUTTON | \
     ACPI_PM1_SLEEP_BUTTON | ACPI_PM1_RTC | ACPI_PM1_WAKE)
#define ENABLE_BITS                                                                     \
    (ACPI_PM1_TIMER | ACPI_PM1_GLOBAL | ACPI_PM1_POWER_BUTTON | ACPI_PM1_SLEEP_BUTTON | \
     ACPI_PM1_RTC)
#define CONTROL_BITS (ACPI_CONTROL_SCI_ENABLE | 0x0002 /* BM_RLD */ | ACPI_CONTROL_SLEEP_TYPE)

#define NS_PER_S 1000000000u

struct acpi_pm {
    pthread_mutex_t lock;
    struct vm_clock *clock;
    struct irq_line sci;
    struct machine_sink sink;
    struct clock_timer timer;

    uint16_t status, enable, control;
    uint16_t gpe_status, gpe_enable;
    uint8_t smi_command, smi_scratch;
    uint64_t half; /* changes of timer bit 31 that TMR_STS has told */
};

static uint64_t timer_ticks(const struct acpi_pm *p)
{
    return (uint64_t)((unsigned __int128)clock_now(p->clock) * ACPI_PM_TIMER_HZ / NS_PER_S);
}

static void update(struct acpi_pm *p)
{
    uint64_t half = timer_ticks(p) >> 31;

    if (half != p->half) {
        p->half = half;
        p->status |= ACPI_PM1_TIMER;
    }
    if ((p->enable & ACPI_PM1_TIMER) && !(p->status & ACPI_PM1_TIMER)) {
        unsigned __int128 ticks = (unsigned __int128)(half + 1) << 31;
        clock_arm(p->clock, &p->timer,
                  (uint64_t)((ticks * NS_PER_S + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ));
    } else {
        clock_disarm(p->clock, &p->timer);
    }
    irq_line_set(&p->sci,
                 (p->control & ACPI_CONTROL_SCI_ENABLE) &&
                     ((p->status & p->enable) != 0 || (p->gpe_status & p->gpe_enable) != 0));
}

static void timer_fire(void *context)
{
    update(context);
}

/* A block of 16-bit registers, read and written by any size (ACPI 6.4 4.7: byte accesses too). */
static uint64_t part(uint64_t registers, uint64_t offset)
{
    return registers >> (offset * 8);
}

static uint32_t merge(uint32_t registers, uint64_t offset, uint64_t value, unsigned size)
{
    uint32_t mask = (uint32_t)(((uint64_t)1 << (size * 8)) - 1) << (offset * 8);
    return (registers & ~mask) | ((uint32_t)(value << (offset * 8)) & mask);
}

static uint64_t event_read(void *device, uint64_t offset, unsigned size)
{
    struct acpi_pm *p = device;
    update(p);
    return part(p->status | (uint32_t)p->enable << 16, offset);
}

static void event_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *p = device;
    update(p);
    uint32_t clear = merge(0, offset, value, size);
    uint32_t enable = merge((uint32_t)p->enable << 16, offset, value, size);
    p->status &= ~clear;
    p->enable = (enable >> 16) & ENABLE_BITS;
    update(p);
}

static uint64_t control_read(void *device, uint64_t offset, unsigned size)
{
    struct acpi_pm *p = device;
    return part(p->control, offset);
}

static void control_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *p = device;
    uint32_t control = merge(p->control, offset, value, size);

    p->control = control & CONTROL_BITS;
    if ((control & ACPI_CONTROL_SLEEP_ENABLE) &&
        (control & ACPI_CONTROL_SLEEP_TYPE) == ACPI_S5_TYPE << ACPI_CONTROL_SLEEP_SHIFT)
        p->sink.events->power_off(p->sink.context);
    update(p);
}

static uint64_t timer_read(void *device, uint64_t offset, unsigned size)
{
    return part((uint32_t)timer_ticks(device), offset);
}

static void timer_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    /* read-only (4.8.3.3) */
}

static uint64_t gpe_read(void *device, uint64_t offset, unsigned size)
{
    struct acpi_pm *p = device;
    return part(p->gpe_status | (uint32_t)p->gpe_enable << 16, offset);
}

static void gpe_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *p = device;
    p->gpe_status &= ~merge(0, offset, value, size);
    p->gpe_enable = (uint16_t)(merge((uint32_t)p->gpe_enable << 16, offset, value, size) >> 16);
    update(p);
}

static uint64_t smi_read(void *device, uint64_t offset, unsigned size)
{
    struct acpi_pm *p = device;
    return offset == 0 ? p->smi_command : p->smi_scratch;
}

static void smi_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *p = device;

    if (offset != 0) {
        p->smi_scratch = (uint8_t)value;
        return;
    }
    p->smi_command = (uint8_t)value;
    if (value == ACPI_SMI_ENABLE)
        p->control |= ACPI_CONTROL_SCI_ENABLE;
    else if (value == ACPI_SMI_DISABLE)
        p->control &= ~ACPI_CONTROL_SCI_ENABLE;
    update(p);
}

static const struct bus_ops event_ops = {event_read, event_write, 4, NULL};
static const struct bus_ops control_ops = {control_read, control_write, 2, NULL};
static const struct bus_ops timer_ops = {timer_read, timer_write, 4, NULL};
static const struct bus_ops gpe_ops = {gpe_read, gpe_write, 4, NULL};
static const struct bus_ops smi_ops = {smi_read, smi_write, 1, NULL};

static const struct {
    const char *name;
    uint16_t port, size;
    const struct bus_ops *ops;
} blocks[] = {
    {"acpi pm1 event", ACPI_PM1_EVENT, ACPI_PM1_EVENT_SIZE, &event_ops},
    {"acpi pm1 control", ACPI_PM1_CONTROL, ACPI_PM1_CONTROL_SIZE, &control_ops},
    {"acpi pm timer", ACPI_PM_TIMER, ACPI_PM_TIMER_SIZE, &timer_ops},
    {"acpi gpe0", ACPI_GPE0, ACPI_GPE0_SIZE, &gpe_ops},
    {"acpi smi command", ACPI_SMI_COMMAND, 2, &smi_ops},
};

int acpi_pm_create(struct acpi_pm **out, struct bus *bus, struct vm_clock *clock,
                   struct irq_line sci, struct machine_sink sink, struct error *e)
{
    struct acpi_pm *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return error_set(e, ENOMEM, "no memory for the ACPI registers");
    pthread_mutex_init(&p->lock, NULL);
    p->clock = clock;
    p->sci = sci;
    p->sink = sink;
    clock_timer_init(&p->timer, timer_fire, p, &p->lock);
    acpi_pm_reset(p);
    int err = 0;
    for (unsigned i = 0; err == 0 && i < sizeof(blocks) / sizeof(blocks[0]); i++)
        err = bus_add(bus, BUS_PIO, blocks[i].name, blocks[i].port, blocks[i].size, blocks[i].ops,
                      p, &p->lock, e);
    if (err != 0) {
        acpi_pm_destroy(p);
        return err;
    }
    *out = p;
    return 0;
}

void acpi_pm_destroy(struct acpi_pm *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    clock_disarm(p->clock, &p->timer);
    pthread_mutex_unlock(&p->lock);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void acpi_pm_reset(struct acpi_pm *p)
{
    pthread_mutex_lock(&p->lock);
    p->status = p->enable = p->control = 0;
    p->gpe_status = p->gpe_enable = 0;
    p->smi_command = p->smi_scratch = 0;
    p->half = timer_ticks(p) >> 31;
    update(p);
    pthread_mutex_unlock(&p->lock);
}

void acpi_pm_power_button(struct acpi_pm *p)
{
    pthread_mutex_lock(&p->lock);
    p->status |= ACPI_PM1_POWER_BUTTON;
    update(p);
    pthread_mutex_unlock(&p->lock);
}

void acpi_pm_event(struct acpi_pm *p, unsigned n)
{
    pthread_mutex_lock(&p->lock);
    p->gpe_status |= (uint16_t)(1u << (n & 15));
    update(p);
    pthread_mutex_unlock(&p->lock);
}

static int state_check(const void *object, struct error *e)
{
    const struct acpi_pm *p = object;
    if (p->status & ~STATUS_BITS)
        return error_set(e, EINVAL, "saved state: acpi_pm: status has reserved bits");
    if (p->enable & ~ENABLE_BITS)
        return error_set(e, EINVAL, "saved state: acpi_pm: enable has reserved bits");
    if (p->control & ~CONTROL_BITS)
        return error_set(e, EINVAL, "saved state: acpi_pm: control has reserved bits");
    return 0;
}

static void state_loaded(void *object)
{
    struct acpi_pm *p = object;
    pthread_mutex_lock(&p->lock);
    update(p);
    pthread_mutex_unlock(&p->lock);
}

static const struct field fields[] = {
    FIELD(struct acpi_pm, status),
    FIELD(struct acpi_pm, enable),
    FIELD(struct acpi_pm, control),
    FIELD(struct acpi_pm, gpe_status),
    FIELD(struct acpi_pm, gpe_enable),
    FIELD(struct acpi_pm, smi_command),
    FIELD(struct acpi_pm, smi_scratch),
    FIELD(struct acpi_pm, half),
    FIELD_END,
};

const struct field_table acpi_pm_state = {
    .name = "acpi_pm",
    .version = 1,
    .size = sizeof(struct acpi_pm),
    .fields = fields,
    .check = state_check,
    .loaded = state_loaded,
};
