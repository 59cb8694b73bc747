/* SPDX-License-Identifier: MIT */
/*
 * Port 0x92 (PS/2 system control port A: fast A20, fast reset) and the reset control register 0xcf9
 * (Intel PCH datasheet, "Reset Control Register"). Thread rule: register access under the device's
 * lock, taken by the bus. The guest controls every written byte.
 *
 * 0xcf9 lies inside the dword of the PCI configuration address port 0xcf8. Only a byte access to
 * 0xcf9 is the reset register: a guest that looks for PCI by outl(0xcf8) must not reset itself. So
 * the whole dword is claimed here; an access to all of it is passed on to the PCI core, and what
 * is left answers as an empty bus does.
 *
 * Bit 1 of port 0x92 is the A20 gate's line (a20.c).
 */
#include "dev/reset.h"

#include <errno.h>
#include <stdlib.h>

struct reset {
    pthread_mutex_t lock;
    struct machine_sink sink;
    struct pci *pci;
    struct a20 *a20;
    uint8_t port_a;
    uint8_t control;
};

static uint64_t port_a_read(void *device, uint64_t offset, unsigned size)
{
    struct reset *r = device;
    return r->port_a | (a20_is_open(r->a20) ? RESET_PORT_A_A20 : 0);
}

static void port_a_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct reset *r = device;
    bool rises = (value & RESET_PORT_A_RESET) && !(r->port_a & RESET_PORT_A_RESET);

    r->port_a = value & RESET_PORT_A_RESET;
    a20_set(r->a20, value & RESET_PORT_A_A20);
    if (rises)
        r->sink.events->reset(r->sink.context, "port 0x92");
}

static uint64_t control_read(void *device, uint64_t offset, unsigned size)
{
    struct reset *r = device;
    if (offset == 0 && size == 4)
        return pci_address_read(r->pci);
    return offset == RESET_CONTROL - PCI_CONFIG_ADDRESS && size == 1 ? r->control : UINT64_MAX;
}

static void control_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct reset *r = device;

    if (offset == 0 && size == 4)
        pci_address_write(r->pci, (uint32_t)value);
    if (offset != RESET_CONTROL - PCI_CONFIG_ADDRESS || size != 1)
        return;
    bool rises = (value & RESET_CONTROL_CPU) && !(r->control & RESET_CONTROL_CPU);
    r->control = value & (RESET_CONTROL_SYSTEM | RESET_CONTROL_CPU | RESET_CONTROL_FULL);
    if (rises)
        r->sink.events->reset(r->sink.context, "port 0xcf9");
}

static const struct bus_ops port_a_ops = {
    .read = port_a_read,
    .write = port_a_write,
    .max_size = 1,
};

static const struct bus_ops control_ops = {
    .read = control_read,
    .write = control_write,
    .max_size = 4,
};

int reset_create(struct reset **out, struct bus *bus, struct pci *pci, struct a20 *a20,
                 struct machine_sink sink, struct error *e)
{
    struct reset *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return error_set(e, ENOMEM, "no memory for the reset ports");
    pthread_mutex_init(&r->lock, NULL);
    r->sink = sink;
    r->pci = pci;
    r->a20 = a20;
    reset_reset(r);
    int err = bus_add(bus, BUS_PIO, "port 92", RESET_PORT_A, 1, &port_a_ops, r, &r->lock, e);
    if (err == 0)
        err = bus_add(bus, BUS_PIO, "reset control", PCI_CONFIG_ADDRESS, 4, &control_ops, r,
                      &r->lock, e);
    if (err != 0) {
        reset_destroy(r);
        return err;
    }
    *out = r;
    return 0;
}

void reset_destroy(struct reset *r)
{
    if (r == NULL)
        return;
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void reset_reset(struct reset *r)
{
    pthread_mutex_lock(&r->lock);
    r->port_a = 0;
    r->control = 0;
    pthread_mutex_unlock(&r->lock);
}

static int state_check(const void *object, struct error *e)
{
    const struct reset *r = object;
    if (r->port_a & ~RESET_PORT_A_RESET)
        return error_set(e, EINVAL, "saved state: reset: port_a has reserved bits");
    if (r->control & ~(RESET_CONTROL_SYSTEM | RESET_CONTROL_CPU | RESET_CONTROL_FULL))
        return error_set(e, EINVAL, "saved state: reset: control has reserved bits");
    return 0;
}

static const struct field fields[] = {
    FIELD(struct reset, port_a),
    FIELD(struct reset, control),
    FIELD_END,
};

const struct field_table reset_state = {
    .name = "reset",
    .version = 1,
    .size = sizeof(struct reset),
    .fields = fields,
    .check = state_check,
};
