/* SPDX-License-Identifier: MIT */
/* Any driver of fw_cfg, whose DMA requests lie in RAM made of the input (libFuzzer). */
#include "machine.h"

#include "dev/fw_cfg.h"

static struct fuzz_machine machine;
static struct fw_cfg *fw_cfg;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_machine_init(&machine);
    fuzz_must(fw_cfg_create(&fw_cfg, &machine.bus, &machine.mem, FUZZ_RAM, FUZZ_CPUS, NULL));
    fuzz_must(fw_cfg_add_file(fw_cfg, "etc/file", "0123456789", 10, NULL));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_range ranges[] = {{BUS_PIO, FW_CFG_SELECTOR, FW_CFG_PORTS},
                                               {BUS_PIO, FW_CFG_DMA, FW_CFG_DMA_SIZE}};
    fw_cfg_reset(fw_cfg);
    /* Small big-endian addresses name the input itself. */
    fuzz_must(mem_write(&machine.mem, GPA(0), data, size < 4096 ? size : 4096));
    fuzz_drive(&machine, ranges, sizeof(ranges) / sizeof(ranges[0]), data, size);
    return 0;
}
