/* SPDX-License-Identifier: MIT */
/* Firmware configuration device of QEMU; see fw_cfg.c. */
#ifndef DOPPEL_DEV_FW_CFG_H
#define DOPPEL_DEV_FW_CFG_H

#include "base/field.h"
#include "bus/bus.h"
#include "mem/mem.h"

#define FW_CFG_SELECTOR 0x510 /* 16 bits; the data byte is at 0x511 */
#define FW_CFG_PORTS    2
#define FW_CFG_DMA      0x514 /* 64 bits, big-endian */
#define FW_CFG_DMA_SIZE 8

#define FW_CFG_SIGNATURE     0x0000
#define FW_CFG_ID            0x0001
#define FW_CFG_RAM_SIZE      0x0003
#define FW_CFG_CPUS          0x0005
#define FW_CFG_MAX_CPUS      0x000f
#define FW_CFG_DIRECTORY     0x0019
#define FW_CFG_FILES         0x0020 /* the first file's selector */
#define FW_CFG_FILES_MAX     64
#define FW_CFG_IRQ0_OVERRIDE 0x8002 /* of x86: the PIT is wired to input 2 of the I/O APIC */
#define FW_CFG_NAME_MAX      56     /* with its NUL */

#define FW_CFG_DMA_ERROR  0x01
#define FW_CFG_DMA_READ   0x02
#define FW_CFG_DMA_SKIP   0x04
#define FW_CFG_DMA_SELECT 0x08
#define FW_CFG_DMA_WRITE  0x10

struct fw_cfg;
extern const struct field_table fw_cfg_state;

int fw_cfg_create(struct fw_cfg **out, struct bus *bus, struct mem *mem, uint64_t ram_size,
                  unsigned cpus, struct error *e);
void fw_cfg_destroy(struct fw_cfg *f);
void fw_cfg_reset(struct fw_cfg *f);

/* Before the vCPUs run. The bytes are copied. -EINVAL: the name is empty, too long or known
 * already; -ENOSPC: too many files. */
int fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *bytes, size_t n,
                    struct error *e);

#endif
