/* SPDX-License-Identifier: MIT */
/*
 * The host bridge (Intel 82441FX data sheet, order number 290549), as far as firmware looks at it:
 * its identity and the PAM registers, by which firmware turns the ROM's copy below 1 MiB into RAM.
 * The registers are kept and switch nothing: RAM lies there from the start, with the ROM's bytes in
 * it (boot/firmware.c). The subsystem is the one by which SeaBIOS knows that fw_cfg is there.
 * Thread rule: the PCI core's. The guest controls every byte written.
 */
#include "dev/i440fx.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define VENDOR_INTEL     0x8086
#define DEVICE_82441FX   0x1237
#define REVISION         2
#define CLASS_BRIDGE     0x06 /* base class; subclass 0, host bridge */
#define SUBSYSTEM_VENDOR 0x1af4
#define SUBSYSTEM        0x1100
#define COMMAND          0x0006 /* memory and bus master; hard-wired (data sheet 3.2.3) */
#define STATUS           0x0280 /* fast back to back, medium DEVSEL (3.2.4) */
#define SMRAM            0x72
#define SMRAM_RESET      0x02 /* (3.2.22): no SMRAM is decoded */
#define PAM0_MASK        0x30 /* its low half is reserved */

struct i440fx {
    struct pci_function function;
    bool ram_open;
};

/* All but the PAM registers, which are the only ones that a guest can change. */
static void describe(struct pci_function *f)
{
    memset(f, 0, sizeof(*f));
    pci_set16(f, PCI_VENDOR_ID, VENDOR_INTEL);
    pci_set16(f, PCI_DEVICE_ID, DEVICE_82441FX);
    pci_set16(f, PCI_COMMAND, COMMAND);
    pci_set16(f, PCI_STATUS, STATUS);
    f->config[PCI_REVISION] = REVISION;
    f->config[PCI_CLASS + 2] = CLASS_BRIDGE;
    pci_set16(f, PCI_SUBSYSTEM_VENDOR_ID, SUBSYSTEM_VENDOR);
    pci_set16(f, PCI_SUBSYSTEM_ID, SUBSYSTEM);
    f->config[SMRAM] = SMRAM_RESET;
    memset(f->writable + I440FX_PAM, I440FX_PAM_ALL, I440FX_PAMS);
    f->writable[I440FX_PAM] = PAM0_MASK;
}

int i440fx_create(struct i440fx **out, struct pci *pci, bool ram_open, struct error *e)
{
    struct i440fx *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return error_set(e, ENOMEM, "no memory for the host bridge");
    describe(&b->function);
    b->ram_open = ram_open;
    i440fx_reset(b);
    int err = pci_add(pci, I440FX_DEVFN, &b->function, e);
    if (err != 0) {
        i440fx_destroy(b);
        return err;
    }
    *out = b;
    return 0;
}

void i440fx_destroy(struct i440fx *b)
{
    free(b);
}

void i440fx_reset(struct i440fx *b)
{
    for (unsigned at = I440FX_PAM; at < I440FX_PAM + I440FX_PAMS; at++)
        b->function.config[at] = b->ram_open ? b->function.writable[at] : 0;
}

static int state_check(const void *object, struct error *e)
{
    const struct i440fx *b = object;
    struct pci_function good;

    describe(&good);
    for (unsigned at = 0; at < PCI_CONFIG_SIZE; at++) {
        if ((b->function.config[at] ^ good.config[at]) & ~good.writable[at])
            return error_set(e, EINVAL, "saved state: i440fx: function.config is wrong at 0x%x",
                             at);
    }
    return 0;
}

static const struct field fields[] = {
    FIELD_ARRAY(struct i440fx, function.config),
    FIELD_END,
};

const struct field_table i440fx_state = {
    .name = "i440fx",
    .version = 1,
    .size = sizeof(struct i440fx),
    .fields = fields,
    .check = state_check,
};
