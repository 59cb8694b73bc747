/* SPDX-License-Identifier: MIT */
/* Host bridge of the Intel 440FX, 82441FX; see i440fx.c. */
#ifndef DOPPEL_DEV_I440FX_H
#define DOPPEL_DEV_I440FX_H

#include <stdbool.h>

#include "bus/pci.h"

#define I440FX_DEVFN   PCI_DEVFN(0, 0)
#define I440FX_PAM     0x59 /* programmable attribute map, seven registers */
#define I440FX_PAMS    7
#define I440FX_PAM_ALL 0x33 /* RAM for reads and writes, both halves */

struct i440fx;
extern const struct field_table i440fx_state;

/* ram_open: no firmware will run, so PAM says what firmware leaves. */
int i440fx_create(struct i440fx **out, struct pci *pci, bool ram_open, struct error *e);
void i440fx_destroy(struct i440fx *b);
void i440fx_reset(struct i440fx *b);

#endif
