/* SPDX-License-Identifier: MIT */
/* What firmware finds in fw_cfg; see firmware.c. */
#ifndef DOPPEL_MACHINE_FIRMWARE_H
#define DOPPEL_MACHINE_FIRMWARE_H

#include "machine/pc.h"

/* The memory map and the ACPI tables; pc->acpi is made. -ENOMEM, -EINVAL with the sentence. */
int firmware_describe(struct pc *pc, struct error *e);

#endif
