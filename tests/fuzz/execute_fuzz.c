/* SPDX-License-Identifier: MIT */
/* Any bytes as code in real, 32-bit and 64-bit mode: the decoder, what is made of its records, and
 * the interpreter's handlers, devices of the chipset within reach (libFuzzer). */
#include <signal.h>
#include <time.h>

#include "engine/engine.h"
#include "machine.h"

#define CODE      0x8000u
#define STEPS     64
#define CODE_SIZE 4096
#define TICK_NS   1000000
#define TICKS_MAX 2

static struct fuzz_machine machine;
static void *engine_vm;
static volatile sig_atomic_t ticks; /* since the input began */
static uint64_t written[FUZZ_RAM / MEM_PAGE_SIZE];
static unsigned written_count;

/* What one input leaves in memory must not decide about the next. */
static void note_written(void *context, gpa_t page)
{
    written[written_count++] = page.v;
}

static void note_copied(void *context, gpa_t a, uint64_t n)
{
}

static void forget_written(void)
{
    unsigned count = written_count;
    for (unsigned i = 0; i < count; i++)
        fuzz_must(mem_fill(&machine.mem, GPA(written[i]), 0, MEM_PAGE_SIZE));
    for (unsigned i = 0; i < count; i++)
        mem_page_clean(&machine.mem, GPA(written[i]));
    written_count = 0;
}

/* A fault whose handler faults does not retire an instruction, and may go on so for ever: as in a
 * machine, a request ends it. */
static void tick(int signal)
{
    ticks = ticks + 1;
    if (ticks >= TICKS_MAX)
        vcpu_request(machine.vcpus[0], VCPU_REQUEST_STOP);
}

static void start_ticks(void)
{
    const struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    const struct itimerspec each = {{0, TICK_NS}, {0, TICK_NS}};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    timer_t timer;
    if (sigaction(SIGRTMIN, &action, NULL) != 0 ||
        timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
        timer_settime(timer, 0, &each, NULL) != 0)
        abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_machine_init(&machine);
    fuzz_must(engine_interp.vm_init(&machine.platform, &engine_vm, NULL));
    fuzz_must(engine_interp.vcpu_init(engine_vm, machine.vcpus[0], NULL));
    mem_observe(&machine.mem, (struct mem_observer){note_written, note_copied, NULL});
    start_ticks();
    return 0;
}

/* Identity maps of the first 2 MiB: a PML4, a PDPT, a directory of large pages. */
static void put_tables(void)
{
    const uint64_t entries[3] = {0x2007, 0x3007, 0x87};
    for (unsigned i = 0; i < 3; i++)
        fuzz_must(mem_write(&machine.mem, GPA(0x1000 + i * 0x1000), &entries[i], 8));
}

static void set_mode(struct vcpu *v, unsigned mode, bool user)
{
    vcpu_reset(v);
    irq_reset(machine.irq);
    v->rip = CODE;
    v->seg[SEG_CS].base = 0;
    if (mode == 0) {
        vcpu_update_mode(v);
        tlb_flush_all(v);
        return;
    }
    for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
        v->seg[i].limit = 0xffffffff;
        v->seg[i].selector = (uint16_t)(0x18 | (user ? 3 : 0));
        v->seg[i].attributes = (i == SEG_CS ? 0x9b : 0x93) | ATTR_G |
                               (i != SEG_CS || mode == 1 ? ATTR_DB : ATTR_L) | (user ? 3u << 5 : 0);
    }
    v->cpl = user ? 3 : 0;
    v->cr0 = CR0_PE | CR0_ET | (mode == 2 ? CR0_PG : 0);
    v->cr4 = CR4_OSFXSR | CR4_OSXSAVE | (mode == 2 ? CR4_PAE : 0);
    v->efer = mode == 2 ? EFER_LME | EFER_LMA | EFER_SCE : 0;
    v->cr3 = 0x1000;
    v->xcr0 = machine.cpuid.xcr0_supported;
    vcpu_update_mode(v);
    tlb_flush_all(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vcpu *v = machine.vcpus[0];

    if (size < 17 || size > CODE_SIZE)
        return 0;
    set_mode(v, data[0] % 3, data[0] & 0x80);
    forget_written(); /* after the TLB, which was flushed, could still write */
    put_tables();
    for (unsigned i = 0; i < 16; i++)
        v->gpr[i] = (uint64_t)(int8_t)data[1 + i] << (data[0] >> 2 & 15);
    fuzz_must(mem_fill(&machine.mem, GPA(CODE), 0x90, CODE_SIZE));
    fuzz_must(mem_write(&machine.mem, GPA(CODE), data + 17, size - 17));
    machine.instructions = v->counters.instructions;
    ticks = 0;
    vcpu_request_clear(v, VCPU_REQUEST_STOP);
    engine_interp.run(v, v->counters.instructions + STEPS);
    return 0;
}
