/* SPDX-License-Identifier: MIT */
/*
 * The proleptic Gregorian calendar by arithmetic. Years are counted from 1 March, so that the leap
 * day is the last of its year; 400 such years have 146,097 days (an era).
 */
#include "dev/calendar.h"

#define SECONDS_A_DAY 86400
#define ERA_YEARS     400
#define ERA_DAYS      146097
#define EPOCH_DAY     719468 /* days from 0000-03-01 to 1970-01-01 */
#define EPOCH_WEEKDAY 4      /* 1970-01-01 was a Thursday; 0 = Sunday */

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* Days from 1 March to the first of the month that is `month` months later (0…11). */
static int64_t month_start(int64_t month)
{
    return (153 * month + 2) / 5;
}

void calendar_from_seconds(int64_t seconds, struct calendar *c)
{
    int64_t day = floor_div(seconds, SECONDS_A_DAY);
    int64_t rest = seconds - day * SECONDS_A_DAY;

    c->second = (unsigned)(rest % 60);
    c->minute = (unsigned)(rest / 60 % 60);
    c->hour = (unsigned)(rest / 3600);
    c->weekday = (unsigned)(day + EPOCH_WEEKDAY - floor_div(day + EPOCH_WEEKDAY, 7) * 7) + 1;

    day += EPOCH_DAY;
    int64_t era = floor_div(day, ERA_DAYS);
    int64_t of_era = day - era * ERA_DAYS;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * of_year + 2) / 153; /* 0 = March */
    c->day = (unsigned)(of_year - month_start(month) + 1);
    c->month = (unsigned)(month < 10 ? month + 3 : month - 9);
    c->year = era * ERA_YEARS + year + (c->month <= 2);
}

int64_t calendar_to_seconds(const struct calendar *c)
{
    int64_t month = c->month < 1 ? 1 : c->month > 12 ? 12 : c->month;
    int64_t year = c->year - (month <= 2);
    int64_t era = floor_div(year, ERA_YEARS);
    int64_t of_era = year - era * ERA_YEARS;
    int64_t of_year = month_start(month > 2 ? month - 3 : month + 9) + (int64_t)c->day - 1;
    int64_t day = era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH_DAY;

    return day * SECONDS_A_DAY + (int64_t)c->hour * 3600 + (int64_t)c->minute * 60 + c->second;
}
