/* SPDX-License-Identifier: MIT */
/* Any driver of the keyboard controller and its keyboard (libFuzzer). */
#include "machine.h"

#include "dev/i8042.h"

static struct fuzz_machine machine;
static struct i8042 *i8042;
static struct a20 *a20;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_machine_init(&machine);
    fuzz_must(a20_create(&a20, fuzz_sink(), NULL));
    fuzz_must(i8042_create(&i8042, &machine.bus, irq_line_of(machine.irq, I8042_GSI), a20,
                           fuzz_sink(), NULL));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_range ranges[] = {{BUS_PIO, 0x60, 1}, {BUS_PIO, 0x64, 1}};
    a20_reset(a20);
    i8042_reset(i8042);
    fuzz_drive(&machine, ranges, sizeof(ranges) / sizeof(ranges[0]), data, size);
    return 0;
}
