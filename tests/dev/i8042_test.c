/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "dev/i8042.h"

#define GSI I8042_GSI

static struct i8042 *create(struct harness *h)
{
    struct i8042 *k;
    assert_int_equal(i8042_create(&k, &h->bus, harness_irq(h, GSI), h->a20, harness_sink(h), NULL),
                     0);
    return k;
}

static void destroy(struct harness *h, struct i8042 *k)
{
    i8042_destroy(k);
    harness_destroy(h);
}

static bool full(struct harness *h)
{
    return inb(h, 0x64) & I8042_STATUS_OUTPUT;
}

static uint8_t take(struct harness *h)
{
    assert_true(full(h));
    return inb(h, 0x60);
}

/* The steps of Linux's i8042 driver, in its order. */
static void linux_probe(void **state)
{
    struct harness *h = harness_create();
    struct i8042 *k = create(h);
    assert_false(full(h));
    assert_int_equal(inb(h, 0x64) & 2, 0); /* never busy */
    outb(h, 0x64, 0xaa);
    assert_int_equal(take(h), 0x55);
    outb(h, 0x64, 0x20);
    uint8_t ctr = take(h);
    assert_int_equal(inb(h, 0x64) & I8042_STATUS_SYSTEM, I8042_STATUS_SYSTEM);
    assert_true(ctr & I8042_CONTROL_TRANSLATE);
    ctr = (ctr | I8042_CONTROL_DISABLED) & ~I8042_CONTROL_INTERRUPT;
    outb(h, 0x64, 0x60);
    outb(h, 0x60, ctr);
    outb(h, 0x64, 0x20);
    assert_int_equal(take(h), ctr);
    outb(h, 0x64, 0xd3); /* the auxiliary loop: an answer that is not the auxiliary port's */
    outb(h, 0x60, 0x5a);
    assert_true(full(h));
    assert_int_equal(inb(h, 0x64) & I8042_STATUS_AUX, 0);
    take(h);
    outb(h, 0x64, 0xa9);
    uint8_t aux = take(h);
    assert_true(aux != 0 && aux != 0xfa && aux != 0xff); /* "none" */
    outb(h, 0x64, 0xa8);
    outb(h, 0x64, 0x20);
    assert_true(take(h) & I8042_CONTROL_AUX_DISABLED);
    outb(h, 0x64, 0xab);
    assert_int_equal(take(h), 0);
    assert_int_equal(h->resets, 0);
    destroy(h, k);
}

static void keyboard_probe(void **state)
{
    struct harness *h = harness_create();
    struct i8042 *k = create(h);
    outb(h, 0x64, 0x60);
    outb(h, 0x60, I8042_CONTROL_INTERRUPT);
    outb(h, 0x60, 0xff);
    assert_int_equal(h->rises[GSI], 1);
    assert_int_equal(take(h), 0xfa);
    assert_int_equal(h->rises[GSI], 2); /* one edge for each byte */
    assert_int_equal(take(h), 0xaa);
    assert_false(h->level[GSI]);
    outb(h, 0x60, 0xf2);
    assert_int_equal(take(h), 0xfa);
    assert_int_equal(take(h), 0xab);
    assert_int_equal(take(h), 0x83);
    outb(h, 0x60, 0xed);
    assert_int_equal(take(h), 0xfa);
    outb(h, 0x60, 0x07);
    assert_int_equal(take(h), 0xfa);
    outb(h, 0x60, 0xf0);
    take(h);
    outb(h, 0x60, 3);
    assert_int_equal(take(h), 0xfa);
    outb(h, 0x60, 0xf0);
    take(h);
    outb(h, 0x60, 0);
    assert_int_equal(take(h), 0xfa);
    assert_int_equal(take(h), 3);
    outb(h, 0x60, 0xf0);
    take(h);
    outb(h, 0x60, 9);
    assert_int_equal(take(h), 0xfe);
    outb(h, 0x60, 0xee);
    assert_int_equal(take(h), 0xee);
    outb(h, 0x60, 0xfe);
    assert_int_equal(take(h), 0xee);
    outb(h, 0x60, 0xea); /* unknown */
    assert_int_equal(take(h), 0xfe);
    assert_false(full(h));
    outb(h, 0x64, 0x60);
    outb(h, 0x60, I8042_CONTROL_TRANSLATE);
    outb(h, 0x60, 0xf2);
    take(h);
    take(h);
    assert_int_equal(take(h), 0x41);
    assert_false(h->level[GSI]);
    destroy(h, k);
}

static void output_port_and_reset(void **state)
{
    struct harness *h = harness_create();
    struct i8042 *k = create(h);
    outb(h, 0x64, 0xd0);
    assert_int_equal(take(h) & 3, 3);
    outb(h, 0x64, 0xd1);
    outb(h, 0x60, 0xdd);
    outb(h, 0x64, 0xd0);
    assert_int_equal(take(h) & 3, 1);
    outb(h, 0x64, 0xff); /* pulses nothing */
    assert_int_equal(h->resets, 0);
    outb(h, 0x64, 0xd1);
    outb(h, 0x60, 0xde);
    assert_int_equal(h->resets, 1);
    outb(h, 0x64, 0xfe);
    assert_int_equal(h->resets, 2);
    outb(h, 0x64, 0xd2);
    outb(h, 0x60, 0x42);
    assert_int_equal(take(h), 0x42);
    destroy(h, k);
}

static uint8_t output_port(struct harness *h)
{
    outb(h, 0x64, 0xd0);
    return take(h);
}

static void a20_gate(void **state)
{
    struct harness *h = harness_create(), *g = harness_create();
    struct i8042 *k = create(h);
    assert_int_equal(output_port(h) & 2, 2);
    outb(h, 0x64, 0xd1);
    outb(h, 0x60, 0xdd);
    assert_true(h->a20_closed);
    assert_int_equal(output_port(h) & 2, 0);
    outb(h, 0x64, 0xdf);
    assert_false(h->a20_closed);
    assert_int_equal(output_port(h) & 2, 2);
    outb(h, 0x64, 0xdd);
    assert_true(h->a20_closed);
    harness_round_trip(&a20_state, h->a20, g->a20);
    assert_true(g->a20_closed);
    harness_refused(&a20_state, h->a20, "open", 0, 2);
    harness_refused(&i8042_state, k, "output_port", 0, 3);
    a20_reset(h->a20);
    assert_false(h->a20_closed);
    assert_int_equal(h->resets, 0);
    harness_destroy(g);
    destroy(h, k);
}

static void status_tells_command_from_data(void **state)
{
    struct harness *h = harness_create();
    struct i8042 *k = create(h);
    outb(h, 0x64, 0xae);
    assert_true(inb(h, 0x64) & I8042_STATUS_COMMAND);
    outb(h, 0x60, 0xf4);
    assert_false(inb(h, 0x64) & I8042_STATUS_COMMAND);
    uint8_t last = take(h);
    assert_int_equal(inb(h, 0x60), last == 0xfa ? 0 : 0xff); /* empty: whatever, but no byte */
    assert_false(full(h));
    destroy(h, k);
}

static void saved_state(void **state)
{
    struct harness *h = harness_create(), *g = harness_create();
    struct i8042 *a = create(h), *b = create(g);
    outb(h, 0x64, 0x60);
    outb(h, 0x60, I8042_CONTROL_INTERRUPT);
    outb(h, 0x60, 0xf2);
    outb(h, 0x64, 0x61); /* waits for its byte */
    harness_round_trip(&i8042_state, a, b);
    assert_true(g->level[GSI]);
    assert_int_equal(take(g), 0xfa);
    assert_int_equal(take(g), 0xab);
    assert_int_equal(take(g), 0x83);
    outb(g, 0x60, 0x33);
    outb(g, 0x64, 0x21);
    assert_int_equal(take(g), 0x33);
    harness_refused(&i8042_state, a, "queue_count", 0, 17);
    harness_refused(&i8042_state, a, "queue_first", 0, 16);
    harness_refused(&i8042_state, a, "memory", 0, 0x80);
    harness_refused(&i8042_state, a, "status", 0, 1);
    harness_refused(&i8042_state, a, "scan_code_set", 0, 0);
    harness_refused(&i8042_state, a, "scanning", 0, 2);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        harness_hostile(h, 0x5e, 10, 20000, seed);
        harness_round_trip(&i8042_state, a, b);
    }
    i8042_reset(a);
    assert_false(h->level[GSI]);
    assert_false(full(h));
    destroy(h, a);
    destroy(g, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linux_probe),
        cmocka_unit_test(keyboard_probe),
        cmocka_unit_test(output_port_and_reset),
        cmocka_unit_test(status_tells_command_from_data),
        cmocka_unit_test(a20_gate),
        cmocka_unit_test(saved_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
