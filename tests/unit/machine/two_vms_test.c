/* SPDX-License-Identifier: MIT */
/* Two VMs in one process share nothing: neither memory, processors, time nor end. Each runs on the
 * reference engine, driven by a thread of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/internal.h"

struct side {
    struct machine *machine;
    const char *append; /* the guest of tests/cli/guest.S */
    char console[64], spec[80];
    int status;
};

static void make(struct side *s, const char *append, enum clock_source clock)
{
    static char kernel[256];
    const char *build = getenv("BUILD");
    struct error e = {0};

    snprintf(kernel, sizeof(kernel), "%s/tests/cli/guest.elf", build != NULL ? build : "build");
    snprintf(s->console, sizeof(s->console), "/tmp/two_vms.XXXXXX");
    close(mkstemp(s->console));
    snprintf(s->spec, sizeof(s->spec), "file:%s", s->console);
    struct machine_config config = {
        .engine = engine_find("interp", &e),
        .cpu = "max",
        .cpus = 1,
        .mem = 16 << 20,
        .kernel = kernel,
        .append = append,
        .console = s->spec,
        .clock = clock,
        .debug_exit = true,
        .on_reset = MACHINE_ON_RESET,
    };
    s->append = append;
    if (config.engine == NULL || machine_create(&config, &s->machine, &e) != 0)
        fail_msg("%s", e.text);
}

static void *control(void *context)
{
    struct side *s = context;
    s->status = machine_run(s->machine);
    return NULL;
}

static void run_both(struct side *a, struct side *b)
{
    pthread_t threads[2];

    machine_resume(a->machine);
    machine_resume(b->machine);
    pthread_create(&threads[0], NULL, control, a);
    pthread_create(&threads[1], NULL, control, b);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
}

/* Ends it and checks what it printed. */
static void finish(struct side *s, const char *printed)
{
    char text[64] = "";

    assert_int_equal(machine_destroy(s->machine, NULL), 0);
    FILE *f = fopen(s->console, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, sizeof(text) - 1, f) < sizeof(text) - 1);
    fclose(f);
    unlink(s->console);
    assert_string_equal(text, printed);
}

static uint64_t instructions(const struct side *s)
{
    return s->machine->pc.vcpus[0]->counters.instructions;
}

static void ends_and_consoles_are_their_own(void **state)
{
    struct side a, b;

    make(&a, "p", CLOCK_SOURCE_REAL);
    make(&b, "d", CLOCK_SOURCE_REAL);
    run_both(&a, &b);
    assert_int_equal(a.status, MACHINE_POWERED_OFF);
    assert_int_equal(b.status, 5 << 1 | 1);
    finish(&a, "hello\n");
    finish(&b, "");
}

/* The guest `r` tells by a word of RAM whether it is new: a word of the other's would end it early,
 * and after a different number of instructions. */
static void memory_is_their_own(void **state)
{
    struct side alone, other, a, b;

    make(&alone, "r", CLOCK_SOURCE_INSTRUCTIONS);
    make(&other, "p", CLOCK_SOURCE_REAL);
    run_both(&alone, &other);
    make(&a, "r", CLOCK_SOURCE_INSTRUCTIONS);
    make(&b, "r", CLOCK_SOURCE_INSTRUCTIONS);
    run_both(&a, &b);
    assert_int_equal(a.status, MACHINE_POWERED_OFF);
    assert_int_equal(b.status, MACHINE_POWERED_OFF);
    assert_true(instructions(&alone) > 20);
    assert_int_equal(instructions(&a), instructions(&alone));
    assert_int_equal(instructions(&b), instructions(&alone));
    finish(&alone, "ready\nready\nhello\n");
    finish(&other, "hello\n");
    finish(&a, "ready\nready\nhello\n");
    finish(&b, "ready\nready\nhello\n");
}

/* One stands still while the other runs to its end; then it goes on as if nothing had been. */
static void one_paused_while_the_other_ends(void **state)
{
    struct side a, b;

    make(&a, "c", CLOCK_SOURCE_REAL);
    make(&b, "c", CLOCK_SOURCE_REAL);
    machine_resume(a.machine);
    machine_pause(a.machine);
    uint64_t count = instructions(&a);
    uint64_t now = clock_now(a.machine->pc.clock);
    machine_resume(b.machine);
    assert_int_equal(machine_run(b.machine), MACHINE_POWERED_OFF);
    assert_int_equal(instructions(&a), count);
    assert_int_equal(clock_now(a.machine->pc.clock), now);
    machine_resume(a.machine);
    assert_int_equal(machine_run(a.machine), MACHINE_POWERED_OFF);
    assert_true(instructions(&a) > 2000000);
    assert_true(instructions(&b) > 2000000);
    finish(&a, "hello\n");
    finish(&b, "hello\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_and_consoles_are_their_own),
        cmocka_unit_test(memory_is_their_own),
        cmocka_unit_test(one_paused_while_the_other_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
