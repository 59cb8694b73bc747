/* SPDX-License-Identifier: MIT */
/* What test guests ask of a board beside its real devices (--test-device only); see test_device.c.
 */
#ifndef DOPPEL_DEV_TEST_DEVICE_H
#define DOPPEL_DEV_TEST_DEVICE_H

#include "base/field.h"
#include "bus/bus.h"
#include "irq/irq.h"

#define TEST_DEVICE_PORT   0xe0 /* scratch, 4 bytes */
#define TEST_DEVICE_FLUSH  0xe4
#define TEST_DEVICE_LINES  0x2000 /* + line: 0 or not 0 */
#define TEST_DEVICE_MEMORY 0xff000000u
#define TEST_DEVICE_BYTES  0x10000u

struct test_device;
extern const struct field_table test_device_state;

/* lines[n] is interrupt line n of the board. */
int test_device_create(struct test_device **out, struct bus *bus,
                       const struct irq_line lines[IRQ_LINES], struct error *e);
void test_device_destroy(struct test_device *t);
void test_device_reset(struct test_device *t);

#endif
