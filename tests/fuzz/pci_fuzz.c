/* SPDX-License-Identifier: MIT */
/* Any driver of PCI configuration space and the ports around it (libFuzzer). */
#include "machine.h"

#include "dev/i440fx.h"
#include "dev/reset.h"

static struct fuzz_machine machine;
static struct pci *pci;
static struct i440fx *bridge;
static struct reset *reset;
static struct a20 *a20;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_machine_init(&machine);
    fuzz_must(pci_create(&pci, &machine.bus, NULL));
    fuzz_must(i440fx_create(&bridge, pci, false, NULL));
    fuzz_must(a20_create(&a20, fuzz_sink(), NULL));
    fuzz_must(reset_create(&reset, &machine.bus, pci, a20, fuzz_sink(), NULL));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_range ranges[] = {
        {BUS_PIO, 0xcf6, 12}, {BUS_PIO, 0xcf8, 1}, {BUS_PIO, 0xcfc, 4}, {BUS_PIO, 0x92, 1}};
    pci_reset(pci);
    i440fx_reset(bridge);
    a20_reset(a20);
    reset_reset(reset);
    fuzz_drive(&machine, ranges, sizeof(ranges) / sizeof(ranges[0]), data, size);
    return 0;
}
