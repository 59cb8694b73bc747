/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/engine.h"

static uint64_t port_read(void *device, uint64_t offset, unsigned size)
{
    return *(uint8_t *)device;
}

static void port_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    *(uint8_t *)device = (uint8_t)value;
}

static const struct bus_ops port_ops = {port_read, port_write, 1, NULL};

struct fixture {
    struct bus bus;
    struct x86_platform platform;
    struct vcpu *v;
    uint64_t seed;
    uint8_t port;
};

static void setup(struct fixture *f, const struct gate_ops *gate)
{
    memset(f, 0, sizeof(*f));
    bus_init(&f->bus);
    assert_int_equal(bus_add(&f->bus, BUS_PIO, "p", 0x80, 1, &port_ops, &f->port, NULL, NULL), 0);
    f->v = aligned_alloc(64, (sizeof(*f->v) + 63) & ~(size_t)63);
    assert_non_null(f->v);
    memset(f->v, 0, sizeof(*f->v));
    f->platform.bus = &f->bus;
    f->platform.gate = gate;
    f->platform.gate_context = &f->seed;
    f->v->platform = &f->platform;
}

static void gate_reaches_the_bus_and_counts(void **state)
{
    struct fixture f;
    setup(&f, &gate_live);
    gate_write(f.v, BUS_PIO, 0x80, 0x5a, 1);
    assert_int_equal(f.port, 0x5a);
    assert_int_equal(gate_read(f.v, BUS_PIO, 0x80, 1), 0x5a);
    assert_int_equal(gate_read(f.v, BUS_MMIO, 0x80, 2), 0xffff);
    assert_int_equal(f.v->counters.exits[EXIT_PIO], 2);
    assert_int_equal(f.v->counters.exits[EXIT_MMIO], 1);
    assert_true(f.v->counters.exit_ns[EXIT_PIO] < 1000000000u);
    assert_int_equal(gate_acknowledge(f.v), -1);
    free(f.v);
}

static void live_random_differs(void **state)
{
    struct fixture f;
    uint64_t a, b;
    setup(&f, &gate_live);
    for (int seed = 0; seed < 2; seed++) {
        assert_true(gate_random(f.v, seed, &a));
        assert_true(gate_random(f.v, seed, &b));
        assert_true(a != b);
    }
    free(f.v);
}

static void repeatable_random_repeats(void **state)
{
    struct fixture f, g;
    uint64_t a, b, last = 0;
    setup(&f, &gate_repeatable);
    setup(&g, &gate_repeatable);
    for (int i = 0; i < 100; i++) {
        assert_true(gate_random(f.v, i & 1, &a));
        assert_true(gate_random(g.v, i & 1, &b));
        assert_true(a == b && a != last);
        last = a;
    }
    free(f.v);
    free(g.v);
}

static void none_runs_nothing(void **state)
{
    struct fixture f;
    void *vm;
    struct error e = {0};
    const struct engine_ops *none = engine_find("none", &e);
    assert_ptr_equal(none, &engine_none);
    setup(&f, &gate_live);
    assert_int_equal(none->vm_init(&f.platform, &vm, &e), 0);
    assert_int_equal(none->vcpu_init(vm, f.v, &e), 0);
    assert_int_equal(none->run(f.v, UINT64_MAX), EXIT_HLT);
    assert_int_equal(none->run(f.v, 0), EXIT_NONE);
    atomic_store(&f.v->requests, VCPU_REQUEST_STOP);
    assert_int_equal(none->run(f.v, UINT64_MAX), EXIT_REQUEST);
    assert_int_equal(vcpu_requests(f.v), VCPU_REQUEST_STOP);
    assert_int_equal(f.v->counters.instructions, 0);
    none->vcpu_fini(f.v);
    none->vm_fini(vm);
    free(f.v);
}

static void names(void **state)
{
    struct error e = {0};
    for (int i = 0; i < EXIT_REASONS; i++)
        assert_non_null(exit_names[i]);
    assert_null(engine_find("warp", &e));
    assert_int_equal(e.code, EINVAL);
    assert_non_null(strstr(e.text, "'warp'"));
    assert_non_null(strstr(e.text, "none"));
    assert_true(engine_find("auto", &e) != &engine_none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gate_reaches_the_bus_and_counts),
        cmocka_unit_test(live_random_differs),
        cmocka_unit_test(repeatable_random_repeats),
        cmocka_unit_test(none_runs_nothing),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
