/* SPDX-License-Identifier: MIT */
/* Any driver of the real-time clock: index, data, time (libFuzzer). */
#include "machine.h"

#include "dev/rtc.h"

static struct fuzz_machine machine;
static struct rtc *rtc;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_machine_init(&machine);
    fuzz_must(rtc_create(&rtc, &machine.bus, machine.clock, irq_line_of(machine.irq, RTC_GSI),
                         FUZZ_RAM, 0, NULL));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_range ranges[] = {{BUS_PIO, RTC_PORT, 2}};
    rtc_reset(rtc);
    fuzz_drive(&machine, ranges, sizeof(ranges) / sizeof(ranges[0]), data, size);
    return 0;
}
