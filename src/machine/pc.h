/* SPDX-License-Identifier: MIT */
/*
 * The PC: everything that is soldered to one board, made by one function (pc_create) from top to
 * bottom. It knows nothing of threads or of the life cycle; machine.c does.
 */
#ifndef DOPPEL_MACHINE_PC_H
#define DOPPEL_MACHINE_PC_H

#include "backend/console.h"
#include "boot/boot.h"
#include "dev/events.h"
#include "irq/irq.h"
#include "machine/machine.h"
#include "x86/cpuid.h"
#include "x86/msr.h"

struct pc {
    const struct machine_config *config;
    struct memmap memmap;
    struct mem mem;
    struct bus bus;
    struct vm_clock *clock;
    struct cpuid_model cpuid;
    struct msr_table msrs;
    uint64_t random; /* of gate_repeatable */
    struct x86_platform platform;
    struct vcpu *vcpus[MACHINE_CPUS_MAX];
    unsigned vcpu_count;
    const struct engine_ops *engine;
    struct engine_config engine_config;
    void *engine_vm;
    unsigned engine_vcpus; /* how many the engine was given */

    struct irq *irq;
    struct console *console; /* the host's side of the uart */
    struct pit *pit;
    struct hpet *hpet;
    struct rtc *rtc;
    struct uart *uart;
    struct a20 *a20;
    struct i8042 *i8042;
    struct pci *pci;
    struct i440fx *i440fx;
    struct reset *reset;
    struct acpi_pm *acpi_pm;
    struct pvpanic *pvpanic;
    struct debug_exit *debug_exit;
    struct test_device *test_device;
    struct debugcon *debugcon;
    struct fw_cfg *fw_cfg;
    struct kvmclock *kvmclock;
    struct steal_time *steal_time;

    struct boot_files files;
    struct boot_config boot;
    struct acpi_config acpi;
};

/* What the board needs of the machine around it. */
struct pc_hooks { /* all with the context given to pc_create */
    const struct machine_events *events;
    const struct console_events *console;
    uint64_t (*instructions)(void *context);
    void (*rearmed)(void *context);
};

/* Makes the board and loads the kernel. Returns 0, or the status to end with and the sentence in
 * *e; pc_destroy is to be called in either case. config outlives it. */
int pc_create(struct pc *pc, const struct machine_config *config, const struct pc_hooks *hooks,
              void *context, struct error *e);
/* As machine_destroy. */
int pc_destroy(struct pc *pc, struct error *e);

/* The A20 gate has moved: told by a device, on any thread. */
void pc_set_a20(struct pc *pc, bool open);

/* The reset line: processors, devices, and the kernel placed anew as there is no firmware that
 * would do it. RAM that it does not cover keeps its content, as on a warm reset. The vCPUs stand
 * still. */
int pc_reset(struct pc *pc, struct error *e);

/* What a BIOS does first after a reset, for a machine that has none: when the shutdown code in CMOS
 * asks for it, the processors alone are reset, and the boot processor goes on in real mode at the
 * far pointer 40:67 (how a 286 left protected mode; MultiProcessor Specification 1.4, B.4). false =
 * it does not. */
bool pc_resume_by_shutdown_code(struct pc *pc);

#endif
