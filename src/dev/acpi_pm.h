/* SPDX-License-Identifier: MIT */
/* ACPI fixed hardware: PM1 event and control blocks, PM timer, GPE0, SMI command port; see
 * acpi_pm.c. The FADT and the DSDT are built from the constants here. */
#ifndef DOPPEL_DEV_ACPI_PM_H
#define DOPPEL_DEV_ACPI_PM_H

#include "base/field.h"
#include "bus/bus.h"
#include "clock/clock.h"
#include "dev/events.h"
#include "irq/irq.h"

#define ACPI_PM1_EVENT        0x600 /* PM1a_EVT_BLK: status, then enable, 2 bytes each */
#define ACPI_PM1_EVENT_SIZE   4
#define ACPI_PM1_CONTROL      0x604 /* PM1a_CNT_BLK */
#define ACPI_PM1_CONTROL_SIZE 2
#define ACPI_PM_TIMER         0x608 /* PM_TMR_BLK; 32 bits: FADT TMR_VAL_EXT */
#define ACPI_PM_TIMER_SIZE    4
#define ACPI_PM_TIMER_HZ      3579545u
#define ACPI_GPE0             0x620 /* GPE0_BLK: status, then enable, 2 bytes each */
#define ACPI_GPE0_SIZE        4
#define ACPI_SMI_COMMAND      0xb2 /* SMI_CMD; 0xb3 is its scratch byte */
#define ACPI_SMI_ENABLE       0xf1 /* ACPI_ENABLE */
#define ACPI_SMI_DISABLE      0xf0 /* ACPI_DISABLE */
#define ACPI_SCI              9    /* SCI_INT; level */
#define ACPI_S5_TYPE          5    /* SLP_TYPa in the DSDT's _S5 package */

#define ACPI_PM1_TIMER        0x0001 /* bits of PM1 status and enable (ACPI 6.4 4.8.3.1) */
#define ACPI_PM1_BUS_MASTER   0x0010
#define ACPI_PM1_GLOBAL       0x0020
#define ACPI_PM1_POWER_BUTTON 0x0100
#define ACPI_PM1_SLEEP_BUTTON 0x0200
#define ACPI_PM1_RTC          0x0400
#define ACPI_PM1_WAKE         0x8000

#define ACPI_CONTROL_SCI_ENABLE   0x0001 /* bits of PM1 control (4.8.3.2) */
#define ACPI_CONTROL_SLEEP_TYPE   0x1c00
#define ACPI_CONTROL_SLEEP_SHIFT  10
#define ACPI_CONTROL_SLEEP_ENABLE 0x2000

struct acpi_pm;
extern const struct field_table acpi_pm_state;

int acpi_pm_create(struct acpi_pm **out, struct bus *bus, struct vm_clock *clock,
                   struct irq_line sci, struct machine_sink sink, struct error *e);
void acpi_pm_destroy(struct acpi_pm *p);
void acpi_pm_reset(struct acpi_pm *p);

/* Any thread: the power button was pressed; general-purpose event n (0…15) happened. */
void acpi_pm_power_button(struct acpi_pm *p);
void acpi_pm_event(struct acpi_pm *p, unsigned n);

#endif
