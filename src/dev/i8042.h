/* SPDX-License-Identifier: MIT */
/* Keyboard controller 8042 with an AT keyboard, no auxiliary device; see i8042.c. */
#ifndef DOPPEL_DEV_I8042_H
#define DOPPEL_DEV_I8042_H

#include "base/field.h"
#include "bus/bus.h"
#include "dev/a20.h"
#include "dev/events.h"
#include "irq/irq.h"

#define I8042_DATA   0x60
#define I8042_STATUS 0x64 /* read; command when written */
#define I8042_GSI    1

#define I8042_STATUS_OUTPUT  0x01 /* a byte waits at 0x60 */
#define I8042_STATUS_SYSTEM  0x04
#define I8042_STATUS_COMMAND 0x08 /* the last write was to 0x64 */
#define I8042_STATUS_OPEN    0x10 /* keyboard not locked */
#define I8042_STATUS_AUX     0x20

#define I8042_CONTROL_INTERRUPT     0x01
#define I8042_CONTROL_AUX_INTERRUPT 0x02
#define I8042_CONTROL_SYSTEM        0x04
#define I8042_CONTROL_DISABLED      0x10
#define I8042_CONTROL_AUX_DISABLED  0x20
#define I8042_CONTROL_TRANSLATE     0x40

struct i8042;
extern const struct field_table i8042_state;

int i8042_create(struct i8042 **out, struct bus *bus, struct irq_line line, struct a20 *a20,
                 struct machine_sink sink, struct error *e);
void i8042_destroy(struct i8042 *k);
void i8042_reset(struct i8042 *k);

#endif
