/* SPDX-License-Identifier: MIT */
/* The life cycle, the vCPU's thread and the statistics, with an engine made for each test: its run
 * is a script in C, so that what is tested is the machine around it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "dev/acpi_pm.h"
#include "dev/debug_exit.h"
#include "dev/reset.h"
#include "machine/internal.h"

static _Atomic unsigned runs; /* calls of run in this test */
static uint64_t seen;         /* what a script has noted */
static struct machine *machine;

static void out(struct vcpu *v, uint16_t port, uint32_t value, unsigned size)
{
    gate_write(v, BUS_PIO, port, value, size);
}

static void power_off(struct vcpu *v)
{
    out(v, ACPI_PM1_CONTROL, ACPI_S5_TYPE << ACPI_CONTROL_SLEEP_SHIFT | ACPI_CONTROL_SLEEP_ENABLE,
        2);
}

static void reset(struct vcpu *v)
{
    out(v, RESET_CONTROL, RESET_CONTROL_SYSTEM, 1);
    out(v, RESET_CONTROL, RESET_CONTROL_TRIGGER, 1);
}

/* A machine around `run`, not started. */
static struct machine *make(enum exit_reason (*run)(struct vcpu *v, uint64_t limit),
                            struct machine_config change)
{
    static struct engine_ops engine;
    static char kernel[256];
    struct machine_config config = change;
    struct error e = {0};
    const char *build = getenv("BUILD");

    engine = engine_none;
    engine.run = run;
    snprintf(kernel, sizeof(kernel), "%s/tests/cli/guest.elf", build != NULL ? build : "build");
    config.engine = &engine;
    config.kernel = kernel;
    config.append = "h";
    config.cpu = "max";
    config.console = "none";
    config.cpus = 1;
    config.mem = 8 << 20;
    runs = 0;
    seen = 0;
    if (machine_create(&config, &machine, &e) != 0)
        fail_msg("%s", e.text);
    return machine;
}

/* Runs it to its end and returns the status. */
static int end(struct machine *m)
{
    machine_resume(m);
    int status = machine_run(m);
    assert_int_equal(machine_destroy(m, NULL), 0);
    return status;
}

static enum exit_reason run_power_off(struct vcpu *v, uint64_t limit)
{
    runs++;
    power_off(v);
    assert_true(vcpu_requests(v) & VCPU_REQUEST_STOP);
    return EXIT_REQUEST;
}

static void powers_off(void **state)
{
    assert_int_equal(end(make(run_power_off, (struct machine_config){0})), MACHINE_POWERED_OFF);
    assert_int_equal(runs, 1);
}

static enum exit_reason run_reset(struct vcpu *v, uint64_t limit)
{
    if (runs++ == 0) {
        uint8_t flag = 0x5a, gone[64] = {0};
        seen = v->rip;
        v->rip = v->gpr[RBX] = 0;
        v->counters.instructions = 77;
        assert_int_equal(mem_write(v->platform->mem, GPA(0x300000), &flag, 1), 0);
        assert_int_equal(mem_write(v->platform->mem, GPA(seen), gone, sizeof(gone)), 0);
        reset(v);
    } else {
        uint8_t flag, code[4];
        assert_int_equal(v->rip, seen);
        assert_int_not_equal(v->gpr[RBX], 0);
        assert_int_equal(v->counters.instructions, 77);
        assert_int_equal(mem_read(v->platform->mem, GPA(0x300000), &flag, 1), 0);
        assert_int_equal(flag, 0x5a);
        assert_int_equal(mem_read(v->platform->mem, GPA(seen), code, sizeof(code)), 0);
        assert_int_not_equal(code[0] | code[1] | code[2] | code[3], 0);
        power_off(v);
    }
    return EXIT_REQUEST;
}

static void reset_starts_the_kernel_again(void **state)
{
    struct machine *m = make(run_reset, (struct machine_config){.on_reset = MACHINE_ON_RESET});
    assert_int_equal(end(m), MACHINE_POWERED_OFF);
    assert_int_equal(runs, 2);
}

static void reset_may_end(void **state)
{
    struct machine *m = make(run_reset, (struct machine_config){.on_reset = MACHINE_ON_EXIT});
    assert_int_equal(end(m), MACHINE_POWERED_OFF);
    assert_int_equal(runs, 1);
}

static enum exit_reason run_triple_fault(struct vcpu *v, uint64_t limit)
{
    if (runs++ > 0)
        power_off(v);
    v->activity = VCPU_SHUTDOWN;
    return EXIT_SHUTDOWN;
}

static void triple_fault_ends(void **state)
{
    assert_int_equal(end(make(run_triple_fault, (struct machine_config){0})), MACHINE_DIED);
    assert_int_equal(runs, 1);
}

static enum exit_reason run_triple_fault_once(struct vcpu *v, uint64_t limit)
{
    if (runs == 1) {
        assert_int_equal(v->activity, VCPU_ACTIVE);
        return run_power_off(v, limit);
    }
    return run_triple_fault(v, limit);
}

static void triple_fault_may_reset(void **state)
{
    struct machine_config change = {.on_triple_fault = MACHINE_ON_RESET};
    assert_int_equal(end(make(run_triple_fault_once, change)), MACHINE_POWERED_OFF);
    assert_int_equal(runs, 2);
}

static enum exit_reason run_debug_exit(struct vcpu *v, uint64_t limit)
{
    if (runs++ == 0)
        out(v, DEBUG_EXIT_PORT, 5, 4);
    power_off(v); /* the first that was posted wins */
    return EXIT_REQUEST;
}

static void debug_exit_when_asked_for(void **state)
{
    struct machine_config with = {.debug_exit = true};
    assert_int_equal(end(make(run_debug_exit, with)), 5 << 1 | 1);
    assert_int_equal(end(make(run_debug_exit, (struct machine_config){0})), MACHINE_POWERED_OFF);
}

static enum exit_reason run_error(struct vcpu *v, uint64_t limit)
{
    return EXIT_ERROR;
}

static void engine_failure_ends(void **state)
{
    assert_int_equal(end(make(run_error, (struct machine_config){0})), MACHINE_FAILED);
}

static enum exit_reason run_count(struct vcpu *v, uint64_t limit)
{
    runs++;
    while (!(vcpu_requests(v) & VCPU_REQUEST_STOP))
        __atomic_fetch_add(&v->counters.instructions, 1, __ATOMIC_RELAXED);
    return EXIT_REQUEST;
}

static uint64_t count_of(struct machine *m)
{
    return __atomic_load_n(&m->pc.vcpus[0]->counters.instructions, __ATOMIC_RELAXED);
}

static void pause_stops_guest_and_clock(void **state)
{
    struct machine *m = make(run_count, (struct machine_config){0});
    uint64_t last = 0;

    usleep(10000);
    assert_int_equal(count_of(m), 0);
    for (int i = 0; i < 50; i++) {
        machine_resume(m);
        while (count_of(m) == last)
            ;
        machine_pause(m);
        last = count_of(m);
        uint64_t now = clock_now(m->pc.clock);
        usleep(1000);
        assert_int_equal(count_of(m), last);
        assert_int_equal(clock_now(m->pc.clock), now);
    }
    assert_int_equal(machine_destroy(m, NULL), 0);
}

/* An event that comes while the machine is paused is served then, and it stays paused. */
static void event_while_paused(void **state)
{
    struct machine *m = make(run_count, (struct machine_config){.on_reset = MACHINE_ON_RESET});
    int status = -1;

    assert_true(machine_service(m, &status));
    machine_post(m, MACHINE_EVENT_RESET, 0);
    machine_post(m, MACHINE_EVENT_RESET, 0);
    assert_true(machine_service(m, &status));
    assert_true(machine_service(m, &status));
    usleep(10000);
    assert_int_equal(count_of(m), 0);
    machine_post(m, MACHINE_EVENT_QUIT, 0);
    assert_false(machine_service(m, &status));
    assert_int_equal(status, MACHINE_POWERED_OFF);
    assert_int_equal(machine_destroy(m, NULL), 0);
}

static pthread_mutex_t timer_lock = PTHREAD_MUTEX_INITIALIZER;
static struct clock_timer timer;

static void arm(uint64_t ns)
{
    pthread_mutex_lock(&timer_lock);
    clock_arm(machine->pc.clock, &timer, ns);
    pthread_mutex_unlock(&timer_lock);
}

static void note_and_quit(void *context)
{
    seen = machine_instructions(machine);
    machine_post(machine, MACHINE_EVENT_QUIT, 0);
}

static enum exit_reason run_to_limit(struct vcpu *v, uint64_t limit)
{
    runs++;
    assert_int_equal(v->instruction_limit, limit);
    while (v->counters.instructions < v->instruction_limit) {
        if (++v->counters.instructions == 100)
            arm(12345);
        if (vcpu_requests(v) & VCPU_REQUEST_STOP)
            return EXIT_REQUEST;
        vcpu_request_clear(v, VCPU_REQUEST_LIMIT);
    }
    return EXIT_NONE;
}

/* A far timer is there at the start; a nearer one, armed on the way, must cut the run short: it
 * fires at the first instruction whose time is not before 12345 ns. */
static void timers_fire_at_their_instruction(void **state)
{
    struct machine_config change = {.clock = CLOCK_SOURCE_INSTRUCTIONS};
    struct machine *m = make(run_to_limit, change);

    clock_timer_init(&timer, note_and_quit, NULL, &timer_lock);
    arm(1000000000);
    assert_int_equal(end(m), MACHINE_POWERED_OFF);
    assert_int_equal(seen, (12345 + CLOCK_NS_PER_INSTRUCTION - 1) / CLOCK_NS_PER_INSTRUCTION);
}

static void wake_by_nmi(void *context)
{
    seen = clock_now(machine->pc.clock);
    vcpu_request(machine->pc.vcpus[0], VCPU_REQUEST_NMI);
}

static enum exit_reason run_halt(struct vcpu *v, uint64_t limit)
{
    if (runs++ == 0)
        return EXIT_HLT;
    power_off(v);
    return EXIT_REQUEST;
}

/* An hour of halt takes no time at all under the instruction clock. */
static void halt_skips_to_the_deadline(void **state)
{
    struct machine_config change = {.clock = CLOCK_SOURCE_INSTRUCTIONS};
    struct machine *m = make(run_halt, change);

    clock_timer_init(&timer, wake_by_nmi, NULL, &timer_lock);
    arm(3600000000000);
    assert_int_equal(end(m), MACHINE_POWERED_OFF);
    assert_int_equal(seen, 3600000000000);
    assert_int_equal(runs, 2);
}

static void halt_ends_only_by_what_may_wake(void **state)
{
    struct machine *m = make(run_halt, (struct machine_config){0});
    struct vcpu *v = m->pc.vcpus[0];

    assert_false(v->rflags & FLAG_IF);
    machine_resume(m);
    vcpu_request(v, VCPU_REQUEST_INTR);
    while (runs == 0) /* until the host lets the thread run */
        usleep(1000);
    usleep(50000);
    assert_int_equal(runs, 1);
    vcpu_request(v, VCPU_REQUEST_NMI);
    assert_int_equal(machine_run(m), MACHINE_POWERED_OFF);
    assert_true(v->counters.exit_ns[EXIT_HLT] >= 20000000);
    assert_int_equal(machine_destroy(m, NULL), 0);
}

/* Ended while it sleeps in HLT, and while nothing was ever started. */
static void destroy_at_any_time(void **state)
{
    struct machine *m = make(run_halt, (struct machine_config){0});
    assert_int_equal(machine_destroy(m, NULL), 0);
    m = make(run_halt, (struct machine_config){0});
    machine_resume(m);
    usleep(1000);
    assert_int_equal(machine_destroy(m, NULL), 0);
}

static enum exit_reason run_count_up(struct vcpu *v, uint64_t limit)
{
    v->counters.instructions = (1ull << 60) + 1; /* more than a double holds */
    v->counters.exits[EXIT_CPUID] = 3;
    v->counters.exit_ns[EXIT_CPUID] = 4;
    v->counters.tlb_misses = 5;
    gate_read(v, BUS_PIO, 0xeeee, 1);
    power_off(v);
    return EXIT_REQUEST;
}

static json_int_t at(json_t *root, const char *one, const char *two, const char *three)
{
    json_t *o = json_object_get(root, one);
    o = two != NULL ? json_object_get(o, two) : o;
    o = three != NULL ? json_object_get(o, three) : o;
    assert_true(json_is_integer(o));
    return json_integer_value(o);
}

static json_t *statistics_of(struct machine *m)
{
    char *text;
    size_t size;
    FILE *file = open_memstream(&text, &size);

    assert_int_equal(machine_stats_write(m, file), 0);
    fclose(file);
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    free(text);
    return root;
}

static void statistics(void **state)
{
    struct machine *m = make(run_count_up, (struct machine_config){0});

    machine_resume(m);
    assert_int_equal(machine_run(m), MACHINE_POWERED_OFF);
    json_t *root = statistics_of(m);
    assert_true(at(root, "instructions", NULL, NULL) == (1ll << 60) + 1);
    assert_int_equal(at(root, "exits", "cpuid", "count"), 3);
    assert_int_equal(at(root, "exits", "cpuid", "ns"), 4);
    assert_int_equal(at(root, "exits", "pio", "count"), 2);
    assert_int_equal(at(root, "tlb_misses", NULL, NULL), 5);
    assert_int_equal(at(root, "unclaimed", "pio", NULL), 1);
    assert_null(json_object_get(json_object_get(root, "exits"), "mmio"));
    json_decref(root);

    struct engine_ops lazy = engine_none; /* counts only when it has a limit */
    lazy.counts_always = false;
    m->pc.engine = &lazy;
    root = statistics_of(m);
    assert_true(json_is_null(json_object_get(root, "instructions")));
    assert_true(json_is_null(json_object_get(root, "instructions_per_cpu_second")));
    json_decref(root);
    m->config.clock = CLOCK_SOURCE_INSTRUCTIONS;
    root = statistics_of(m);
    assert_true(at(root, "instructions", NULL, NULL) == (1ll << 60) + 1);
    json_decref(root);
    m->config.clock = CLOCK_SOURCE_REAL;
    m->pc.engine = m->config.engine;

    FILE *file = fopen("/dev/full", "w");
    assert_int_not_equal(machine_stats_write(m, file), 0);
    fclose(file);
    assert_int_equal(machine_destroy(m, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(powers_off),
        cmocka_unit_test(reset_starts_the_kernel_again),
        cmocka_unit_test(reset_may_end),
        cmocka_unit_test(triple_fault_ends),
        cmocka_unit_test(triple_fault_may_reset),
        cmocka_unit_test(debug_exit_when_asked_for),
        cmocka_unit_test(engine_failure_ends),
        cmocka_unit_test(pause_stops_guest_and_clock),
        cmocka_unit_test(event_while_paused),
        cmocka_unit_test(timers_fire_at_their_instruction),
        cmocka_unit_test(halt_skips_to_the_deadline),
        cmocka_unit_test(halt_ends_only_by_what_may_wake),
        cmocka_unit_test(destroy_at_any_time),
        cmocka_unit_test(statistics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
