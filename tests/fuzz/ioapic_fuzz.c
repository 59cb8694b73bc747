/* SPDX-License-Identifier: MIT */
/* Any driver of the I/O APIC and the 8259A pair, with lines that move (libFuzzer). */
#include "machine.h"

static struct fuzz_machine machine;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_machine_init(&machine);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_range ranges[] = {
        {BUS_MMIO, 0xfec00000, 0x20}, {BUS_PIO, 0x20, 2}, {BUS_PIO, 0xa0, 2}, {BUS_PIO, 0x4d0, 2}};
    irq_reset(machine.irq);
    for (size_t i = 0; i + 8 <= size; i += 8) {
        struct irq_line line = irq_line_of(machine.irq, data[i + 4] % IRQ_LINES);
        irq_line_set(&line, data[i + 4] & 0x80);
        fuzz_drive(&machine, ranges, sizeof(ranges) / sizeof(ranges[0]), data + i, 8);
        if (data[i + 4] & 0x40)
            machine.vcpus[0]->irq->acknowledge(machine.vcpus[0]->irq_context);
    }
    return 0;
}
