/* SPDX-License-Identifier: MIT */
/*
 * The PCI core: configuration space of bus 0 by configuration mechanism 1 (PCI Local Bus
 * Specification 3.0, 3.2.2.3.2). A function owns its 256 bytes and says which bits a guest may
 * change; what is not there reads as all ones.
 *
 * Ports 0xcfc to 0xcff are claimed here. The dword 0xcf8 belongs to dev/reset.c, because a byte
 * access inside it is another register; it passes dword accesses on by pci_address_read/_write.
 *
 * Functions are added at wiring time. Thread rule: configuration accesses under the core's lock.
 */
#ifndef DOPPEL_BUS_PCI_H
#define DOPPEL_BUS_PCI_H

#include "base/field.h"
#include "bus/bus.h"

#define PCI_CONFIG_ADDRESS 0xcf8
#define PCI_CONFIG_DATA    0xcfc
#define PCI_CONFIG_SIZE    256u
#define PCI_FUNCTIONS      256u /* of one bus: 32 devices of 8 functions */

#define PCI_DEVFN(device, function) ((device) << 3 | (function))

enum { /* offsets of the common header (table 6-1) */
       PCI_VENDOR_ID = 0x00,
       PCI_DEVICE_ID = 0x02,
       PCI_COMMAND = 0x04,
       PCI_STATUS = 0x06,
       PCI_REVISION = 0x08,
       PCI_CLASS = 0x09, /* three bytes */
       PCI_HEADER_TYPE = 0x0e,
       PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
       PCI_SUBSYSTEM_ID = 0x2e,
};

struct pci_function {
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE]; /* bits that a write changes */
};

struct pci;
extern const struct field_table pci_state;

int pci_create(struct pci **out, struct bus *bus, struct error *e);
void pci_destroy(struct pci *p);
void pci_reset(struct pci *p);

/* f is not owned and outlives p. -EBUSY when there is one. */
int pci_add(struct pci *p, unsigned devfn, struct pci_function *f, struct error *e);

void pci_set16(struct pci_function *f, unsigned offset, uint16_t value);

uint32_t pci_address_read(struct pci *p);
void pci_address_write(struct pci *p, uint32_t value);

#endif
