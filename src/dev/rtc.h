/* SPDX-License-Identifier: MIT */
/* MC146818 real-time clock and CMOS memory; see rtc.c. */
#ifndef DOPPEL_DEV_RTC_H
#define DOPPEL_DEV_RTC_H

#include "base/field.h"
#include "bus/bus.h"
#include "clock/clock.h"
#include "irq/irq.h"

#define RTC_PORT    0x70 /* index; 0x71 is the data */
#define RTC_GSI     8
#define RTC_CENTURY 0x32 /* FADT CENTURY */

struct rtc;
extern const struct field_table rtc_state;

/* RAM sizes in bytes, below and above 4 GiB, for the firmware's memory size bytes. */
int rtc_create(struct rtc **out, struct bus *bus, struct vm_clock *clock, struct irq_line line,
               uint64_t ram_below_4g, uint64_t ram_above_4g, struct error *e);
void rtc_destroy(struct rtc *r);
/* The clock is battery-backed: time, alarm and memory stay; interrupts are disabled. */
void rtc_reset(struct rtc *r);

/* The shutdown code (CMOS 0x0f), which is 0 afterwards: why the processor is to be reset. */
#define RTC_SHUTDOWN_EOI_JUMP 0x05 /* go on at the far pointer 40:67, after an EOI */
#define RTC_SHUTDOWN_JUMP     0x0a /* go on there */
uint8_t rtc_take_shutdown(struct rtc *r);

#endif
