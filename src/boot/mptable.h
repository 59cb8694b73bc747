/* SPDX-License-Identifier: MIT */
/* The MP table (Intel MultiProcessor Specification 1.4), for SMP kernels that know no ACPI. */
#ifndef DOPPEL_BOOT_MPTABLE_H
#define DOPPEL_BOOT_MPTABLE_H

#include "boot/acpi.h"

#define MPTABLE_AT       0xfe000ull /* of the floating pointer, in the last of the BIOS area */
#define MPTABLE_CPUS_MAX 254u       /* APIC IDs have 8 bits, and 255 is for all */

/* Says what the ACPI tables of c say, of the first MPTABLE_CPUS_MAX processors. signature and
 * features: CPUID leaf 1, EAX and EDX. -EFAULT with the sentence. */
int mptable_build(struct mem *m, const struct acpi_config *c, uint32_t signature, uint32_t features,
                  struct error *e);

#endif
