/* SPDX-License-Identifier: MIT */
/* Seconds since 1970-01-01 and the Gregorian calendar, for the real-time clock. Not libc's gmtime:
 * the registers hold what the guest wrote, dates that do not exist included. */
#ifndef DOPPEL_DEV_CALENDAR_H
#define DOPPEL_DEV_CALENDAR_H

#include <stdint.h>

struct calendar {
    unsigned second, minute, hour; /* 24 hours */
    unsigned weekday;              /* 1 = Sunday … 7 */
    unsigned day, month;           /* from 1 */
    int64_t year;
};

void calendar_from_seconds(int64_t seconds, struct calendar *c);

/* Any values: what exceeds its range carries over (day 0 is the day before the first); a month that
 * does not exist counts as the nearest. The weekday is not looked at. */
int64_t calendar_to_seconds(const struct calendar *c);

#endif
