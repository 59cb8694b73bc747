/* SPDX-License-Identifier: MIT */
/* See smp.h. */
#include "smp.h"

extern u8 ap_begin[], ap_end[];
u8 smp_stack[SMP_CPUS][SMP_STACK] __attribute__((aligned(16)));
u32 smp_next = 1;

static struct tss tss[SMP_CPUS] __attribute__((aligned(16)));
static u8 ist_stack[SMP_CPUS][4096] __attribute__((aligned(16)));
static unsigned started = 1;
static unsigned ready, generation, members, done, arrived, sense;
static void (*task)(unsigned id);

u64 smp_option(const char *command_line, const char *name, u64 otherwise)
{
    for (const char *at = command_line; *at != '\0'; at++) {
        const char *a = at, *n = name;
        while (*n != '\0' && *a == *n) {
            a++;
            n++;
        }
        if (*n != '\0' || *a != '=' || (at != command_line && at[-1] != ' '))
            continue;
        u64 value = 0;
        for (a++; *a >= '0' && *a <= '9'; a++)
            value = value * 10 + (u64)(*a - '0');
        return value;
    }
    return otherwise;
}

void print_decimal(u64 value)
{
    char text[21], *at = text + 20;
    *at = '\0';
    do
        *--at = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    print(at);
}

__attribute__((interrupt)) static void on_wake(void *frame)
{
    smp_eoi();
}

void smp_set_handler(unsigned vector, const void *handler)
{
    set_gate(vector, handler, KERNEL_CS, 0x8e, 0);
}

static void send(u32 icr)
{
    lapic_write(LAPIC_ICR, icr);
    while (lapic_read(LAPIC_ICR) & 0x1000) /* delivery status (SDM 3A 10.6.1) */
        pause();
}

void smp_ipi_others(unsigned vector)
{
    send(0xc4000 | vector); /* all excluding self, assert, fixed */
}

static void start_application_processor(unsigned id)
{
    struct table_register idt = {sizeof(isa_idt) - 1, (u64)isa_idt};
    unsigned selector = FREE_SELECTOR + 16 * (id - 1);
    for (unsigned n = 1; n < 8; n++)
        tss[id].ist[n] = (u64)(ist_stack[id] + sizeof(ist_stack[id]));
    tss[id].io_base = sizeof(tss[id]);
    set_system_descriptor(selector, (u64)&tss[id], sizeof(tss[id]) - 1, 0x89);
    __asm__ volatile("lidt %0; ltr %w1" ::"m"(idt), "r"(selector) : "memory");
    lapic_write(LAPIC_SVR, 0x1ff);
    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);

    for (unsigned seen = 0;;) {
        __asm__ volatile("cli");
        while (__atomic_load_n(&generation, __ATOMIC_SEQ_CST) == seen)
            __asm__ volatile("sti; hlt; cli" ::: "memory");
        seen++;
        __asm__ volatile("sti");
        if (id < members)
            task(id);
        __atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
    }
}

void (*smp_entry)(unsigned id) = start_application_processor;

void smp_place_trampoline(void)
{
    memcpy((void *)SMP_TRAMPOLINE, ap_begin, (size_t)(ap_end - ap_begin));
}

void smp_start(unsigned cpus)
{
    if (cpus < 1 || cpus > SMP_CPUS) {
        print("# cpus must be 1 to 8\n");
        finish(1);
    }
    smp_set_handler(VECTOR_WAKE, on_wake);
    lapic_write(LAPIC_SVR, 0x1ff);
    __asm__ volatile("sti");
    if (cpus == 1)
        return;
    smp_place_trampoline();
    send(0xc4500); /* INIT */
    for (unsigned n = 0; n < 10000; n++)
        pause();
    send(0xc4600 | SMP_TRAMPOLINE >> 12); /* Start-Up, twice as the manual's example (8.4.4.1) */
    for (unsigned n = 0; n < 10000; n++)
        pause();
    send(0xc4600 | SMP_TRAMPOLINE >> 12);
    while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) != cpus - 1)
        pause();
    started = cpus;
}

void smp_run(unsigned n, void (*f)(unsigned id))
{
    task = f;
    members = n;
    done = arrived = 0;
    if (started > 1) {
        __atomic_fetch_add(&generation, 1, __ATOMIC_SEQ_CST);
        smp_ipi_others(VECTOR_WAKE);
    }
    f(0);
    while (__atomic_load_n(&done, __ATOMIC_SEQ_CST) != started - 1)
        pause();
}

void smp_barrier(void)
{
    unsigned mine = !__atomic_load_n(&sense, __ATOMIC_SEQ_CST);
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == members) {
        arrived = 0;
        __atomic_store_n(&sense, mine, __ATOMIC_SEQ_CST);
        return;
    }
    while (__atomic_load_n(&sense, __ATOMIC_SEQ_CST) != mine)
        pause();
}
