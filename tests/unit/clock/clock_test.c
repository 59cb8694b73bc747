/* SPDX-License-Identifier: MIT */
/* The VM clock: exact times under the instruction source; no early fire and no fire after disarm
 * under the real one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <errno.h>
#include <cmocka.h>

#include "clock/clock.h"

struct fake {
    uint64_t instructions;
    unsigned rearmed;
};

static uint64_t fake_instructions(void *context)
{
    return ((struct fake *)context)->instructions;
}

static void fake_rearmed(void *context)
{
    ((struct fake *)context)->rearmed++;
}

static struct vm_clock *fake_clock(struct fake *f, uint64_t hz)
{
    struct clock_config config = {.source = CLOCK_SOURCE_INSTRUCTIONS,
                                  .instructions = fake_instructions,
                                  .rearmed = fake_rearmed,
                                  .context = f,
                                  .tsc_hz = hz};
    struct vm_clock *c = NULL;
    assert_int_equal(clock_create(&config, &c, NULL), 0);
    return c;
}

struct probe {
    struct vm_clock *clock;
    struct clock_timer timer;
    pthread_mutex_t lock;
    unsigned fired;
    uint64_t at, again;
    char *log, name;
    bool armed; /* by the test, under lock: a fire while false is one after disarm */
    bool late, early;
    uint64_t deadline;
};

static void probe_fire(void *context)
{
    struct probe *p = context;
    p->fired++;
    p->at = clock_now(p->clock);
    p->late |= !p->armed;
    p->early |= p->at < p->deadline;
    if (p->log != NULL)
        p->log[strlen(p->log)] = p->name;
    if (p->again != 0)
        clock_arm(p->clock, &p->timer, p->at + p->again);
}

static void probe_init(struct probe *p, struct vm_clock *c)
{
    *p = (struct probe){.clock = c, .armed = true};
    pthread_mutex_init(&p->lock, NULL);
    clock_timer_init(&p->timer, probe_fire, p, &p->lock);
}

static void probe_arm(struct probe *p, uint64_t deadline)
{
    pthread_mutex_lock(&p->lock);
    p->deadline = deadline;
    clock_arm(p->clock, &p->timer, deadline);
    pthread_mutex_unlock(&p->lock);
}

static void time_runs_only_between_start_and_stop(void **state)
{
    struct fake f = {.instructions = 1000};
    struct vm_clock *c = fake_clock(&f, 0);
    assert_int_equal(clock_now(c), 0);
    f.instructions += 50;
    assert_int_equal(clock_now(c), 0);
    clock_start(c);
    f.instructions += 7;
    assert_int_equal(clock_now(c), 70);
    clock_stop(c);
    f.instructions += 100;
    assert_int_equal(clock_now(c), 70);
    clock_start(c);
    clock_skip(c, 1000);
    assert_int_equal(clock_now(c), 1000);
    clock_skip(c, 500); /* never back */
    assert_int_equal(clock_now(c), 1000);
    f.instructions++;
    assert_int_equal(clock_now(c), 1010);
    clock_destroy(c);
}

static void timers_fire_in_order_at_their_time(void **state)
{
    struct fake f = {0};
    struct vm_clock *c = fake_clock(&f, 0);
    char log[8] = "";
    struct probe p[3];
    for (int i = 0; i < 3; i++) {
        probe_init(&p[i], c);
        p[i].log = log;
        p[i].name = (char)('a' + i);
    }
    clock_start(c);
    probe_arm(&p[0], 300);
    assert_int_equal(f.rearmed, 1);
    probe_arm(&p[1], 200);
    assert_int_equal(f.rearmed, 2);
    probe_arm(&p[2], 300);
    assert_int_equal(f.rearmed, 2);
    assert_int_equal(clock_deadline(c), 200);

    f.instructions = 19;
    clock_poll(c);
    assert_string_equal(log, "");
    f.instructions = 20;
    clock_poll(c);
    assert_string_equal(log, "b");
    clock_skip(c, 299);
    clock_poll(c);
    assert_string_equal(log, "b");
    clock_skip(c, 300);
    clock_poll(c);
    assert_string_equal(log, "bac");
    assert_int_equal(clock_deadline(c), CLOCK_NEVER);

    probe_arm(&p[0], 400);
    probe_arm(&p[1], 400);
    probe_arm(&p[0], 500);
    pthread_mutex_lock(&p[1].lock);
    clock_disarm(c, &p[1].timer);
    clock_disarm(c, &p[1].timer);
    pthread_mutex_unlock(&p[1].lock);
    clock_skip(c, 499);
    clock_poll(c);
    assert_string_equal(log, "bac");
    clock_skip(c, 500);
    clock_poll(c);
    assert_string_equal(log, "baca");
    clock_destroy(c);
}

static void tsc_conversions_never_round_early(void **state)
{
    static const uint64_t hz[] = {0, 1, 999999999, 2194842123, 3600000000};
    for (size_t i = 0; i < sizeof(hz) / sizeof(hz[0]); i++) {
        struct fake f = {0};
        struct vm_clock *c = fake_clock(&f, hz[i]);
        assert_int_equal(clock_tsc_hz(c), hz[i] ? hz[i] : CLOCK_TSC_HZ);
        for (uint64_t tsc = 1; tsc < UINT64_MAX / 7; tsc = tsc * 3 + 1) {
            uint64_t ns = clock_tsc_to_ns(c, tsc);
            if (ns == CLOCK_NEVER)
                continue;
            assert_true(clock_ns_to_tsc(c, ns) >= tsc);
            assert_true(clock_ns_to_tsc(c, ns - 1) < tsc);
        }
        clock_destroy(c);
    }
    struct fake f = {0};
    struct vm_clock *c = fake_clock(&f, 2500000000);
    clock_start(c);
    f.instructions = 100000000;
    assert_int_equal(clock_tsc(c), 2500000000);
    assert_int_equal(clock_epoch(c), 1704067200);
    clock_destroy(c);
}

static void state_goes_round(void **state)
{
    struct fake f = {0};
    struct vm_clock *a = fake_clock(&f, 0), *b = fake_clock(&f, 0);
    struct field_buffer buffer = {0};
    struct error e = {0};
    clock_start(a);
    f.instructions = 12345;
    clock_stop(a);
    assert_int_equal(field_save(&clock_state, 0, a, &buffer), 0);
    const uint8_t *data = buffer.data;
    size_t size = buffer.size;
    assert_int_equal(field_load(&clock_state, 0, b, &data, &size, &e), 0);
    assert_true(field_equal(&clock_state, a, b, NULL));
    assert_int_equal(clock_now(b), 123450);
    clock_start(b);
    f.instructions++;
    assert_int_equal(clock_now(b), 123460);
    clock_stop(b);

    memset(buffer.data + buffer.size - 16, 0xff, 8);
    data = buffer.data;
    size = buffer.size;
    assert_int_equal(field_load(&clock_state, 0, b, &data, &size, &e), -EINVAL);
    assert_non_null(strstr(e.text, "elapsed"));
    field_buffer_fini(&buffer);
    clock_destroy(a);
    clock_destroy(b);
}

static struct vm_clock *real_clock(void)
{
    struct clock_config config = {.source = CLOCK_SOURCE_REAL};
    struct vm_clock *c = NULL;
    assert_int_equal(clock_create(&config, &c, NULL), 0);
    return c;
}

static void pause_us(long us)
{
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static void real_one_shots_never_fire_early(void **state)
{
    struct vm_clock *c = real_clock();
    struct probe p;
    probe_init(&p, c);
    clock_start(c);
    for (unsigned i = 0; i < 200; i++) {
        probe_arm(&p, clock_now(c) + i * 1777);
        for (int tries = 0; tries < 20000; tries++) {
            pthread_mutex_lock(&p.lock);
            unsigned fired = p.fired;
            pthread_mutex_unlock(&p.lock);
            if (fired == i + 1)
                break;
            pause_us(50);
        }
        pthread_mutex_lock(&p.lock);
        assert_int_equal(p.fired, i + 1);
        assert_false(p.early);
        pthread_mutex_unlock(&p.lock);
    }
    probe_arm(&p, clock_now(c) + 1000000);
    clock_stop(c);
    pause_us(20000);
    assert_int_equal(p.fired, 200); /* nothing fires while stopped */
    clock_start(c);
    pause_us(100000);
    pthread_mutex_lock(&p.lock);
    clock_disarm(c, &p.timer);
    pthread_mutex_unlock(&p.lock);
    assert_int_equal(p.fired, 201);
    clock_destroy(c);
}

struct racer {
    struct probe *probe;
    _Atomic bool *quit;
    unsigned seed;
};

/* Each round must see either its own timer fire or none at all after disarm. */
static void *race(void *context)
{
    struct racer *r = context;
    struct probe *p = r->probe;
    while (!atomic_load(r->quit)) {
        r->seed = r->seed * 1103515245 + 12345;
        pthread_mutex_lock(&p->lock);
        p->armed = true;
        p->deadline = clock_now(p->clock) + (r->seed >> 16) % 40000;
        clock_arm(p->clock, &p->timer, p->deadline);
        pthread_mutex_unlock(&p->lock);
        if (r->seed & 0x800)
            pause_us(20);
        pthread_mutex_lock(&p->lock);
        clock_disarm(p->clock, &p->timer);
        p->armed = false;
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

static void real_disarm_races(void **state)
{
    struct vm_clock *c = real_clock();
    struct probe p[2];
    pthread_t thread[4];
    struct racer racer[4];
    _Atomic bool quit = false;
    for (int i = 0; i < 2; i++)
        probe_init(&p[i], c);
    clock_start(c);
    for (unsigned i = 0; i < 4; i++) {
        racer[i] = (struct racer){.probe = &p[i & 1], .quit = &quit, .seed = i};
        pthread_create(&thread[i], NULL, race, &racer[i]);
    }
    for (int i = 0; i < 40; i++) {
        pause_us(10000);
        if (i % 8 == 7) {
            clock_stop(c);
            clock_start(c);
        }
    }
    atomic_store(&quit, true);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 2; i++) {
        assert_false(p[i].late);
        assert_true(p[i].fired > 0);
    }
    clock_destroy(c);
}

static void real_time_is_monotonic_over_a_stop(void **state)
{
    struct vm_clock *c = real_clock();
    clock_start(c);
    uint64_t last = 0;
    for (int i = 0; i < 20000; i++) {
        if (i % 100 == 0) {
            clock_stop(c);
            uint64_t stopped = clock_now(c);
            assert_true(stopped >= last);
            assert_int_equal(clock_now(c), stopped);
            clock_start(c);
        }
        uint64_t now = clock_tsc(c);
        assert_true(now >= last);
        last = now;
    }
    uint64_t epoch = clock_epoch(c);
    time_t t = time(NULL);
    assert_true(epoch <= (uint64_t)t && (uint64_t)t - epoch < 600);
    clock_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_runs_only_between_start_and_stop),
        cmocka_unit_test(timers_fire_in_order_at_their_time),
        cmocka_unit_test(tsc_conversions_never_round_early),
        cmocka_unit_test(state_goes_round),
        cmocka_unit_test(real_one_shots_never_fire_early),
        cmocka_unit_test(real_disarm_races),
        cmocka_unit_test(real_time_is_monotonic_over_a_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
