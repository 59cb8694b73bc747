/* SPDX-License-Identifier: MIT */
/*
 * The warm reset of two processors, as old code does it (MultiProcessor Specification 1.4, B.4 and
 * B.5): shutdown code in CMOS 0x0f, far pointer at 40:67; then INIT and SIPI of the application
 * processor, which looks at neither, or a reset of the boot processor in each way that a PC has,
 * which goes on at the pointer. What this guest keeps in memory survives.
 */
#include "smp.h"

#define SHUTDOWN_EOI_JUMP 0x05
#define SHUTDOWN_JUMP     0x0a
#define ICR_INIT          0x4500u
#define ICR_SIPI          (0x4600u | SMP_TRAMPOLINE >> 12)
#define LAPIC_ID          0x20u
#define LAPIC_ICR_HIGH    0x310u
#define MSR_APIC_BASE     0x1bu
#define APIC_BASE_BSP     0x100u

#define PATIENCE 20000u /* waits: the host may run others for long */

static volatile u64 beats; /* of the application processor, as long as it runs */
static volatile bool ap_sends_init;

static void wait(void)
{
    for (unsigned n = 0; n < 200000; n++)
        pause();
}

static u8 shutdown_code(void)
{
    out8(0x70, 0x0f);
    return in8(0x71);
}

static void set_shutdown_code(u8 code)
{
    out8(0x70, 0x0f);
    out8(0x71, code);
    __asm__ volatile("movl %0, 0x467" ::"r"((u32)SMP_TRAMPOLINE >> 4 << 16) : "memory");
}

static void send_to(unsigned id, u32 command)
{
    lapic_write(LAPIC_ICR_HIGH, id << 24);
    lapic_write(LAPIC_ICR, command);
}

static void beat(unsigned stack)
{
    for (;;) {
        beats++;
        if (ap_sends_init) {
            ap_sends_init = false;
            send_to(0, ICR_INIT);
        }
        pause();
    }
}

static bool ap_runs(void)
{
    u64 before = beats;
    wait();
    return beats != before;
}

static void start_ap(void)
{
    smp_next = 1;
    smp_entry = beat;
    send_to(1, ICR_SIPI);
    bool runs = false;
    for (unsigned n = 0; n < PATIENCE && !runs; n++)
        runs = ap_runs();
    want("the application processor runs", runs, true);
}

/* ---- The ways to reset the boot processor ---- */

static void by_reset_control(void)
{
    out8(0xcf9, 0x02);
    out8(0xcf9, 0x06);
}
static void by_keyboard_controller(void)
{
    out8(0x64, 0xfe);
}
static void by_port_92(void)
{
    out8(0x92, in8(0x92) | 1);
}
static void by_init(void)
{
    send_to(0, ICR_INIT);
}
static void by_init_of_another(void)
{
    ap_sends_init = true;
}

static const struct {
    const char *name;
    u8 code;
    void (*reset)(void);
} ways[] = {
    {"reset-control", SHUTDOWN_JUMP, by_reset_control},
    {"keyboard-controller", SHUTDOWN_EOI_JUMP, by_keyboard_controller},
    {"port-92", SHUTDOWN_JUMP, by_port_92},
    {"init", SHUTDOWN_JUMP, by_init},
    {"init-of-another", SHUTDOWN_EOI_JUMP, by_init_of_another},
};
static volatile unsigned way;

static void resumed(unsigned stack);

static _Noreturn void next(void)
{
    if (way == sizeof(ways) / sizeof(ways[0]))
        isa_end();
    set_shutdown_code(ways[way].code);
    smp_next = 2;
    smp_entry = resumed;
    ways[way].reset();
    for (unsigned n = 0; n < PATIENCE; n++)
        wait();
    want("the boot processor was reset", false, true);
    verdict(ways[way].name);
    isa_end();
}

static void resumed(unsigned stack)
{
    want("local APIC ID", lapic_read(LAPIC_ID) >> 24, 0);
    want("boot processor", (read_msr(MSR_APIC_BASE) & APIC_BASE_BSP) != 0, true);
    want("local APIC after INIT", lapic_read(LAPIC_SVR), 0xff);
    want("shutdown code was taken", shutdown_code(), 0);
    want("the application processor runs on", ap_runs(), false);
    start_ap();
    verdict(ways[way].name);
    way++;
    next();
}

void isa_main(const char *command_line)
{
    smp_place_trampoline();
    set_shutdown_code(SHUTDOWN_JUMP);
    smp_entry = beat;
    send_to(1, ICR_INIT);
    want("runs after INIT", ap_runs(), false);
    start_ap();
    want("shutdown code", shutdown_code(), SHUTDOWN_JUMP);
    verdict("init-sipi");
    next();
}
