/* SPDX-License-Identifier: MIT */
/*
 * The wiring of a PC, top to bottom; see pc.h. Called by the controller while no vCPU runs. The
 * addresses of RAM are boot/memmap.h's, those of devices their headers'; both reach the guest
 * through the ACPI tables, which are made from what is wired here.
 */
#include "machine/pc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/a20.h"
#include "dev/acpi_pm.h"
#include "dev/debug_exit.h"
#include "dev/debugcon.h"
#include "dev/fw_cfg.h"
#include "dev/hpet.h"
#include "dev/i440fx.h"
#include "dev/i8042.h"
#include "dev/pit.h"
#include "dev/pvpanic.h"
#include "dev/reset.h"
#include "dev/rtc.h"
#include "dev/test_device.h"
#include "dev/uart.h"
#include "engine/gate.h"
#include "machine/firmware.h"
#include "x86/kvmclock.h"
#include "x86/steal_time.h"

#define CONSOLE_FLUSH_MS 2000u /* without progress; then what is left is lost, and reported */

#define PIC_MASTER 0x20 /* its command port (8259A) */
#define PIC_EOI    0x20 /* OCW2, non-specific */

/* Port, value: the 8259A pair at vectors 8 and 0x70, the timer, keyboard, cascade, floppy, mouse
 * and disk unmasked; channel 0 of the timer at 18.2 Hz. */
static const uint8_t bios_writes[][2] = {
    {0x20, 0x11}, {0x21, 0x08}, {0x21, 0x04}, {0x21, 0x01}, {0xa0, 0x11},
    {0xa1, 0x70}, {0xa1, 0x02}, {0xa1, 0x01}, {0x21, 0xb8}, {0xa1, 0x8f},
    {0x43, 0x34}, {0x40, 0x00}, {0x40, 0x00},
};

#define CPUID_ADDRESS_SIZES 0x80000008u /* EAX 7:0: physical address bits (SDM 2A CPUID) */

/* What comes from the user: sizes, names and files are checked before anything is made. */
static int read_input(struct pc *pc, struct error *e)
{
    const struct machine_config *config = pc->config;

    pc->boot = (struct boot_config){
        .firmware_path = config->firmware,
        .kernel_path = config->kernel,
        .initrd_path = config->initrd,
        .cmdline = config->append,
        .ram_size = config->mem,
        .acpi = &pc->acpi,
    };
    int rc = memmap_build(config->mem, &pc->memmap, e);
    return rc == 0 ? boot_files_read(&pc->files, &pc->boot, e) : rc;
}

static int add_memory(struct pc *pc, struct error *e)
{
    int rc = 0;

    for (unsigned i = 0; i < pc->memmap.ram_count && rc == 0; i++) {
        const struct memmap_range *r = &pc->memmap.ram[i];
        rc = mem_add(&pc->mem, r->name, GPA(r->base), r->size, MEM_ANONYMOUS, false, e);
    }
    size_t rom = pc->files.firmware.size;
    if (rc == 0 && rom > 0)
        rc = mem_add(&pc->mem, "firmware", GPA(MEMMAP_HOLE_END - rom), rom, MEM_ANONYMOUS, true, e);
    else if (rc == 0)
        rc = boot_reset_vector_add(&pc->mem, e);
    return rc;
}

static uint8_t physical_address_bits(const struct cpuid_model *model)
{
    for (unsigned i = 0; i < model->count; i++) {
        if (model->entries[i].leaf == CPUID_ADDRESS_SIZES)
            return (uint8_t)model->entries[i].eax;
    }
    return 36; /* what a processor without the leaf has (SDM 3A 4.1.4) */
}

/* Firmware sets the memory types itself. */
static void reset_vcpu(const struct pc *pc, struct vcpu *v)
{
    vcpu_reset(v);
    if (pc->config->firmware == NULL)
        boot_cpu_mtrrs(v);
}

static int add_vcpus(struct pc *pc, struct error *e)
{
    for (unsigned i = 0; i < pc->config->cpus; i++) {
        struct vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~(size_t)63);
        if (v == NULL)
            return error_set(e, ENOMEM, "no memory for processor %u", i);
        memset(v, 0, sizeof(*v));
        v->id = i;
        v->platform = &pc->platform;
        pc->vcpus[pc->vcpu_count++] = v;
        reset_vcpu(pc, v);
    }
    return 0;
}

/* What every vCPU shares: RAM, the bus, time, the processor's model, and the engine. */
static int add_processors(struct pc *pc, const struct pc_hooks *hooks, void *context,
                          struct error *e)
{
    const struct clock_config clock = {
        .source = pc->config->clock,
        .instructions = hooks->instructions,
        .rearmed = hooks->rearmed,
        .context = context,
    };
    bool repeatable = pc->config->clock == CLOCK_SOURCE_INSTRUCTIONS;
    int rc = add_memory(pc, e);

    bus_init(&pc->bus);
    msr_table_init(&pc->msrs);
    if (rc == 0)
        rc = clock_create(&clock, &pc->clock, e);
    if (rc == 0)
        rc = cpuid_model_build(&pc->cpuid, pc->config->cpu, clock_tsc_hz(pc->clock),
                               (unsigned)pc->config->cpus, e);
    if (rc != 0)
        return rc;
    pc->platform = (struct x86_platform){
        .mem = &pc->mem,
        .bus = &pc->bus,
        .clock = pc->clock,
        .cpuid = &pc->cpuid,
        .msrs = &pc->msrs,
        .gate = repeatable ? &gate_repeatable : &gate_live,
        .gate_context = &pc->random,
        .physical_address_bits = physical_address_bits(&pc->cpuid),
        .checks = pc->config->checks,
    };
    return add_vcpus(pc, e);
}

static int open_trace(struct pc *pc, struct error *e)
{
    const char *path = pc->config->trace;

    if (path == NULL)
        return 0;
    pc->engine_config.trace = strcmp(path, "-") == 0 ? stdout : fopen(path, "we");
    if (pc->engine_config.trace == NULL)
        return error_set(e, errno, "--trace: cannot write %s: %s", path, strerror(errno));
    return 0;
}

static void close_trace(struct pc *pc)
{
    FILE *trace = pc->engine_config.trace;

    if (trace == NULL)
        return;
    bool bad = fflush(trace) != 0 || ferror(trace);
    if (trace != stdout && fclose(trace) != 0)
        bad = true;
    if (bad)
        log_error("--trace: cannot write all of %s", pc->config->trace);
    pc->engine_config.trace = NULL;
}

static int add_engine(struct pc *pc, struct error *e)
{
    const struct machine_config *config = pc->config;
    bool lockstep = (config->checks & ENGINE_CHECK_LOCKSTEP) != 0;
    const struct engine_ops *engine = lockstep ? &engine_lockstep : config->engine;

    pc->engine_config.perf_map = config->perf_map;
    pc->engine_config.bt_cache = config->bt_cache;
    pc->engine_config.leader = config->engine;
    pc->engine_config.slice = config->check_slice;
    pc->engine_config.inject = config->check_inject;
    pc->platform.engine_config = &pc->engine_config;
    int rc = engine->vm_init(&pc->platform, &pc->engine_vm, e);
    if (rc != 0)
        return rc;
    pc->engine = engine;
    for (; pc->engine_vcpus < pc->vcpu_count && rc == 0; pc->engine_vcpus++) {
        rc = pc->engine->vcpu_init(pc->engine_vm, pc->vcpus[pc->engine_vcpus], e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static void tsc_moved(void *context, struct vcpu *v)
{
    kvmclock_update(((struct pc *)context)->kvmclock, v);
}

static void before_interrupt(void *context, struct vcpu *v)
{
    struct pc *pc = context;

    kvmclock_interrupt(pc->kvmclock, v);
    steal_time_update(pc->steal_time, v);
}

static const struct x86_paravirt_ops paravirt_ops = {
    .tsc_moved = tsc_moved,
    .interrupt = before_interrupt,
};

static int add_paravirt(struct pc *pc, struct error *e)
{
    int rc = kvmclock_create(&pc->kvmclock, &pc->mem, pc->clock, &pc->msrs, pc->vcpu_count, e);

    if (rc == 0)
        rc = steal_time_create(&pc->steal_time, &pc->mem, pc->clock, &pc->msrs, pc->vcpu_count, e);
    pc->platform.paravirt = &paravirt_ops;
    pc->platform.paravirt_context = pc;
    return rc;
}

/* The PCI bus: so far the host bridge alone. */
static int add_pci(struct pc *pc, struct error *e)
{
    int rc = pci_create(&pc->pci, &pc->bus, e);

    return rc == 0 ? i440fx_create(&pc->i440fx, pc->pci, pc->config->firmware == NULL, e) : rc;
}

/* Interrupt controllers, timers and what else the chipset has. */
static int add_chipset(struct pc *pc, struct machine_sink sink, struct error *e)
{
    struct bus *bus = &pc->bus;
    struct vm_clock *clock = pc->clock;
    uint64_t ram = pc->config->mem, low = ram < MEMMAP_HOLE ? ram : MEMMAP_HOLE;
    int rc = irq_create(&pc->irq, bus, clock, &pc->msrs, pc->vcpus, pc->vcpu_count, e);

    if (rc == 0)
        rc = add_paravirt(pc, e);
    if (rc == 0)
        rc = hpet_create(&pc->hpet, bus, clock, pc->irq, e);
    /* The HPET may take the place of these two: their lines go through it. */
    if (rc == 0)
        rc = pit_create(&pc->pit, bus, clock, hpet_legacy_line(pc->hpet, 0), e);
    if (rc == 0)
        rc = rtc_create(&pc->rtc, bus, clock, hpet_legacy_line(pc->hpet, RTC_GSI), low, ram - low,
                        e);
    if (rc == 0)
        rc = a20_create(&pc->a20, sink, e);
    if (rc == 0)
        rc = i8042_create(&pc->i8042, bus, irq_line_of(pc->irq, I8042_GSI), pc->a20, sink, e);
    if (rc == 0)
        rc = add_pci(pc, e);
    if (rc == 0)
        rc = reset_create(&pc->reset, bus, pc->pci, pc->a20, sink, e);
    if (rc == 0)
        rc = acpi_pm_create(&pc->acpi_pm, bus, clock, irq_line_of(pc->irq, ACPI_SCI), sink, e);
    return rc;
}

static int add_test_device(struct pc *pc, struct error *e)
{
    struct irq_line lines[IRQ_LINES];

    for (unsigned n = 0; n < IRQ_LINES; n++)
        lines[n] = irq_line_of(pc->irq, n);
    return test_device_create(&pc->test_device, &pc->bus, lines, e);
}

static int add_devices(struct pc *pc, struct machine_sink sink, struct error *e)
{
    struct bus *bus = &pc->bus;
    int rc = uart_create(&pc->uart, bus, UART_COM1, pc->clock, irq_line_of(pc->irq, UART_COM1_GSI),
                         pc->console, e);

    if (rc == 0)
        rc = debugcon_create(&pc->debugcon, bus, pc->console, e);
    if (rc == 0)
        rc = fw_cfg_create(&pc->fw_cfg, bus, &pc->mem, pc->config->mem, pc->vcpu_count, e);
    if (rc == 0)
        rc = pvpanic_create(&pc->pvpanic, bus, sink, e);
    if (rc == 0 && pc->config->debug_exit)
        rc = debug_exit_create(&pc->debug_exit, bus, sink, e);
    if (rc == 0 && pc->config->test_device)
        rc = add_test_device(pc, e);
    return rc;
}

/* What the ACPI tables say is what was wired above. */
static struct acpi_config acpi_of(const struct pc *pc)
{
    struct acpi_config acpi = acpi_config_default(pc->vcpu_count);

    acpi.pm1_event = ACPI_PM1_EVENT;
    acpi.pm1_control = ACPI_PM1_CONTROL;
    acpi.pm_timer = ACPI_PM_TIMER;
    acpi.gpe0 = ACPI_GPE0;
    acpi.gpe0_length = ACPI_GPE0_SIZE;
    acpi.sci = ACPI_SCI;
    acpi.smi_command = ACPI_SMI_COMMAND;
    acpi.acpi_enable = ACPI_SMI_ENABLE;
    acpi.acpi_disable = ACPI_SMI_DISABLE;
    acpi.s5_sleep_type = ACPI_S5_TYPE;
    acpi.reset_port = RESET_CONTROL;
    acpi.reset_value = RESET_CONTROL_TRIGGER;
    acpi.hpet = HPET_BASE;
    acpi.hpet_id = HPET_ID;
    acpi.pvpanic_port = PVPANIC_PORT;
    acpi.pci_config = PCI_CONFIG_ADDRESS;
    return acpi;
}

/* The kernel's files in memory, what the firmware that is not there would hold, and the chipset as
 * it would leave it. */
static int place(struct pc *pc, struct error *e)
{
    int rc = boot_place(&pc->mem, pc->vcpus[0], &pc->files, &pc->boot, e);

    for (unsigned i = 0; rc == 0 && boot_wants_bios_state(&pc->files) &&
                         i < sizeof(bios_writes) / sizeof(bios_writes[0]);
         i++)
        bus_write(&pc->bus, 0, BUS_PIO, bios_writes[i][0], bios_writes[i][1], 1);
    return rc == 0 && pc->config->firmware == NULL ? boot_reset_vector_place(&pc->mem, e) : rc;
}

int pc_create(struct pc *pc, const struct machine_config *config, const struct pc_hooks *hooks,
              void *context, struct error *e)
{
    const struct machine_sink sink = {.events = hooks->events, .context = context};

    memset(pc, 0, sizeof(*pc));
    pc->config = config;
    mem_init(&pc->mem);
    if (read_input(pc, e) != 0)
        return MACHINE_BAD_INPUT;
    int rc = add_processors(pc, hooks, context, e);
    if (rc != 0)
        return rc == -ENOMEM || rc == -EAGAIN ? MACHINE_FAILED : MACHINE_BAD_INPUT;
    if (open_trace(pc, e) != 0 ||
        console_create(&pc->console, config->console, hooks->console, context, e) != 0)
        return MACHINE_BAD_INPUT;
    if (add_chipset(pc, sink, e) != 0 || add_devices(pc, sink, e) != 0 || add_engine(pc, e) != 0)
        return MACHINE_FAILED;
    pc->acpi = acpi_of(pc);
    if (config->firmware != NULL && firmware_describe(pc, e) != 0)
        return MACHINE_FAILED;
    return place(pc, e) == 0 ? 0 : MACHINE_BAD_INPUT;
}

void pc_set_a20(struct pc *pc, bool open)
{
    atomic_store(&pc->platform.a20_closed, !open);
    for (unsigned i = 0; i < pc->vcpu_count; i++)
        vcpu_request(pc->vcpus[i], VCPU_REQUEST_A20);
}

int pc_reset(struct pc *pc, struct error *e)
{
    a20_reset(pc->a20);
    for (unsigned i = 0; i < pc->vcpu_count; i++)
        reset_vcpu(pc, pc->vcpus[i]);
    uart_reset(pc->uart);
    fw_cfg_reset(pc->fw_cfg);
    rtc_reset(pc->rtc);
    pit_reset(pc->pit);
    hpet_reset(pc->hpet);
    kvmclock_reset(pc->kvmclock);
    steal_time_reset(pc->steal_time);
    i8042_reset(pc->i8042);
    reset_reset(pc->reset);
    pci_reset(pc->pci);
    i440fx_reset(pc->i440fx);
    acpi_pm_reset(pc->acpi_pm);
    if (pc->test_device != NULL)
        test_device_reset(pc->test_device);
    irq_reset(pc->irq); /* last: it drops what the devices raised on their way */
    return place(pc, e);
}

bool pc_resume_by_shutdown_code(struct pc *pc)
{
    struct vcpu *bsp = pc->vcpus[0];
    uint16_t to[2]; /* offset, segment */

    if (pc->config->firmware != NULL) /* which looks itself */
        return false;
    uint8_t code = rtc_take_shutdown(pc->rtc);
    if ((code != RTC_SHUTDOWN_EOI_JUMP && code != RTC_SHUTDOWN_JUMP) ||
        mem_read(&pc->mem, GPA(MEMMAP_RESET_VECTOR), to, sizeof(to)) != 0)
        return false;
    if (code == RTC_SHUTDOWN_EOI_JUMP)
        bus_write(&pc->bus, 0, BUS_PIO, PIC_MASTER, PIC_EOI, 1);
    for (unsigned i = 0; i < pc->vcpu_count; i++) {
        struct vcpu *v = pc->vcpus[i];
        v->irq->init(v->irq_context);
        vcpu_init_signal(v);
    }
    reset_reset(pc->reset);
    bsp->seg[SEG_CS].selector = to[1];
    bsp->seg[SEG_CS].base = (uint32_t)to[1] << 4;
    bsp->rip = to[0];
    vcpu_update_mode(bsp);
    return true;
}

int pc_destroy(struct pc *pc, struct error *e)
{
    debugcon_destroy(pc->debugcon);
    uart_destroy(pc->uart);
    int rc = console_destroy(pc->console, CONSOLE_FLUSH_MS, e);
    test_device_destroy(pc->test_device);
    debug_exit_destroy(pc->debug_exit);
    pvpanic_destroy(pc->pvpanic);
    fw_cfg_destroy(pc->fw_cfg);
    acpi_pm_destroy(pc->acpi_pm);
    reset_destroy(pc->reset);
    i440fx_destroy(pc->i440fx);
    pci_destroy(pc->pci);
    i8042_destroy(pc->i8042);
    a20_destroy(pc->a20);
    rtc_destroy(pc->rtc);
    pit_destroy(pc->pit);
    hpet_destroy(pc->hpet);
    steal_time_destroy(pc->steal_time);
    kvmclock_destroy(pc->kvmclock);
    irq_destroy(pc->irq);
    while (pc->engine_vcpus > 0)
        pc->engine->vcpu_fini(pc->vcpus[--pc->engine_vcpus]);
    if (pc->engine != NULL)
        pc->engine->vm_fini(pc->engine_vm);
    while (pc->vcpu_count > 0)
        free(pc->vcpus[--pc->vcpu_count]);
    close_trace(pc);
    clock_destroy(pc->clock);
    mem_fini(&pc->mem);
    boot_files_free(&pc->files);
    return rc;
}
