/* SPDX-License-Identifier: MIT */
/* Any driver of the two timers, whose lines meet (libFuzzer). */
#include "machine.h"

#include "dev/hpet.h"
#include "dev/pit.h"

static struct fuzz_machine machine;
static struct hpet *hpet;
static struct pit *pit;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_machine_init(&machine);
    fuzz_must(hpet_create(&hpet, &machine.bus, machine.clock, machine.irq, NULL));
    fuzz_must(pit_create(&pit, &machine.bus, machine.clock, hpet_legacy_line(hpet, 0), NULL));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_range ranges[] = {
        {BUS_PIO, 0x40, 4}, {BUS_PIO, 0x61, 1}, {BUS_MMIO, HPET_BASE, 0x400}};
    pit_reset(pit);
    hpet_reset(hpet);
    fuzz_drive(&machine, ranges, sizeof(ranges) / sizeof(ranges[0]), data, size);
    return 0;
}
