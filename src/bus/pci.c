/* SPDX-License-Identifier: MIT */
/* Configuration space; see pci.h. The guest controls the address register and every access. */
#include "bus/pci.h"

#include <errno.h>
#include <stdlib.h>

#define ADDRESS_ENABLE 0x80000000u
#define ADDRESS_KEPT   (ADDRESS_ENABLE | 0x0ffffffcu)
#define ADDRESS_BEYOND 0x0f000000u /* bits 11:8 of the register */

struct pci {
    pthread_mutex_t lock;
    struct pci_function *functions[PCI_FUNCTIONS];
    uint32_t address;
};

/* The function that the address register names, or NULL. There is bus 0 only. Host bridges of AMD
 * reach registers beyond the first 256 bytes through bits that are reserved elsewhere (NB_CFG bit
 * 46, EnableCf8ExtCfg); no function has any. */
static struct pci_function *selected(const struct pci *p)
{
    if (!(p->address & ADDRESS_ENABLE) || (p->address & ADDRESS_BEYOND) ||
        (p->address >> 16 & 0xff) != 0)
        return NULL;
    return p->functions[p->address >> 8 & 0xff];
}

static uint64_t data_read(void *device, uint64_t offset, unsigned size)
{
    struct pci *p = device;
    const struct pci_function *f = selected(p);
    unsigned at = (p->address & 0xfc) + (unsigned)offset;
    uint64_t value = 0;

    if (f == NULL)
        return UINT64_MAX;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)f->config[at + i] << 8 * i;
    return value;
}

static void data_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci *p = device;
    struct pci_function *f = selected(p);
    unsigned at = (p->address & 0xfc) + (unsigned)offset;

    for (unsigned i = 0; f != NULL && i < size; i++) {
        uint8_t mask = f->writable[at + i];
        f->config[at + i] = (f->config[at + i] & ~mask) | ((uint8_t)(value >> 8 * i) & mask);
    }
}

/* Four ports and at most four bytes: offset + size never leaves the dword. */
static const struct bus_ops data_ops = {
    .read = data_read,
    .write = data_write,
    .max_size = 4,
};

uint32_t pci_address_read(struct pci *p)
{
    pthread_mutex_lock(&p->lock);
    uint32_t value = p->address;
    pthread_mutex_unlock(&p->lock);
    return value;
}

void pci_address_write(struct pci *p, uint32_t value)
{
    pthread_mutex_lock(&p->lock);
    p->address = value & ADDRESS_KEPT;
    pthread_mutex_unlock(&p->lock);
}

void pci_set16(struct pci_function *f, unsigned offset, uint16_t value)
{
    f->config[offset] = (uint8_t)value;
    f->config[offset + 1] = (uint8_t)(value >> 8);
}

int pci_add(struct pci *p, unsigned devfn, struct pci_function *f, struct error *e)
{
    if (p->functions[devfn] != NULL)
        return error_set(e, EBUSY, "PCI function %02x.%u is taken", devfn >> 3, devfn & 7);
    p->functions[devfn] = f;
    return 0;
}

int pci_create(struct pci **out, struct bus *bus, struct error *e)
{
    struct pci *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return error_set(e, ENOMEM, "no memory for the PCI bus");
    pthread_mutex_init(&p->lock, NULL);
    int err = bus_add(bus, BUS_PIO, "PCI data", PCI_CONFIG_DATA, 4, &data_ops, p, &p->lock, e);
    if (err != 0) {
        pci_destroy(p);
        return err;
    }
    *out = p;
    return 0;
}

void pci_destroy(struct pci *p)
{
    if (p == NULL)
        return;
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void pci_reset(struct pci *p)
{
    pci_address_write(p, 0);
}

static int state_check(const void *object, struct error *e)
{
    const struct pci *p = object;
    if (p->address & ~ADDRESS_KEPT)
        return error_set(e, EINVAL, "saved state: pci: address has reserved bits");
    return 0;
}

static const struct field fields[] = {
    FIELD(struct pci, address),
    FIELD_END,
};

const struct field_table pci_state = {
    .name = "pci",
    .version = 1,
    .size = sizeof(struct pci),
    .fields = fields,
    .check = state_check,
};
