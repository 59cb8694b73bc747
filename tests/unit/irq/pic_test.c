/* SPDX-License-Identifier: MIT */
/* The 8259A pair over the bus, as the data sheet describes it; interrupts are taken at vCPU 0,
 * whose LINT0 is ExtINT from power-up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"
#include "irq/internal.h"

static struct rig rig;

static void line(unsigned gsi, bool level)
{
    struct irq_line l = irq_line_of(rig.irq, gsi);
    irq_line_set(&l, level);
}

static void pulse(unsigned gsi)
{
    line(gsi, true);
    line(gsi, false);
}

static void start_pic(unsigned icw4_master)
{
    rig_out(&rig, 0x20, 0x11);
    rig_out(&rig, 0x21, 0x20);
    rig_out(&rig, 0x21, 4);
    rig_out(&rig, 0x21, icw4_master);
    rig_out(&rig, 0xa0, 0x11);
    rig_out(&rig, 0xa1, 0x28);
    rig_out(&rig, 0xa1, 2);
    rig_out(&rig, 0xa1, 1);
    rig_out(&rig, 0x21, 0);
    rig_out(&rig, 0xa1, 0);
}

static int setup(void **state)
{
    rig_init(&rig, 0);
    rig_irq(&rig);
    start_pic(1);
    return 0;
}

static int teardown(void **state)
{
    rig_fini(&rig);
    return 0;
}

static uint8_t read_isr(unsigned port)
{
    rig_out(&rig, port, 0x0b);
    return rig_in(&rig, port);
}

static uint8_t read_irr(unsigned port)
{
    rig_out(&rig, port, 0x0a);
    return rig_in(&rig, port);
}

static void priorities_are_fully_nested(void **state)
{
    assert_false(rig_intr(&rig, 0));
    pulse(5);
    pulse(1);
    assert_true(rig_intr(&rig, 0));
    assert_false(rig_intr(&rig, 1)); /* LINT0 of the others is masked */
    assert_int_equal(read_irr(0x20), 0x22);
    assert_int_equal(rig_ack(&rig, 0), 0x21);
    assert_int_equal(read_isr(0x20), 0x02);
    assert_false(rig_intr(&rig, 0)); /* 5 waits below 1 */
    pulse(0);
    assert_int_equal(rig_ack(&rig, 0), 0x20);
    rig_out(&rig, 0x20, 0x20); /* ends 0, the highest in service */
    assert_int_equal(read_isr(0x20), 0x02);
    rig_out(&rig, 0x20, 0x20);
    assert_int_equal(rig_ack(&rig, 0), 0x25);
    rig_out(&rig, 0x20, 0x65); /* specific */
    assert_int_equal(read_isr(0x20), 0);
    assert_false(rig_intr(&rig, 0));
}

static void masks_hold_and_release(void **state)
{
    rig_out(&rig, 0x21, 0x02);
    pulse(1);
    assert_false(rig_intr(&rig, 0));
    assert_int_equal(rig_in(&rig, 0x21), 0x02);
    rig_out(&rig, 0x21, 0);
    assert_true(rig_intr(&rig, 0));
    rig_out(&rig, 0x21, 0x02);
    assert_false(rig_intr(&rig, 0));
}

static void slave_comes_through_input_2(void **state)
{
    pulse(12);
    pulse(8);
    pulse(3);
    assert_int_equal(rig_ack(&rig, 0), 0x28);
    assert_int_equal(read_isr(0x20), 0x04);
    assert_int_equal(read_isr(0xa0), 0x01);
    assert_false(rig_intr(&rig, 0));
    rig_out(&rig, 0xa0, 0x20);
    assert_false(rig_intr(&rig, 0)); /* the master's input 2 is still in service */
    rig_out(&rig, 0x20, 0x20);
    assert_int_equal(rig_ack(&rig, 0), 0x2c);
    rig_out(&rig, 0xa0, 0x20);
    rig_out(&rig, 0x20, 0x20);
    assert_int_equal(rig_ack(&rig, 0), 0x23);
}

static void special_fully_nested_lets_the_slave_in(void **state)
{
    start_pic(0x11);
    pulse(12);
    assert_int_equal(rig_ack(&rig, 0), 0x2c);
    pulse(9);
    pulse(3);
    assert_int_equal(rig_ack(&rig, 0), 0x29);
    assert_false(rig_intr(&rig, 0)); /* 3 is below the cascade */
}

static void spurious_is_input_7(void **state)
{
    rig_out(&rig, 0x4d0, 0x20);
    assert_int_equal(rig_in(&rig, 0x4d0), 0x20);
    line(5, true);
    assert_true(rig_intr(&rig, 0));
    line(5, false);
    assert_false(rig_intr(&rig, 0));
    assert_int_equal(rig_ack(&rig, 0), -1); /* the level is gone: nothing is asked for */
    /* A processor already in its INTA cycle gets 7, and nothing is in service. */
    assert_int_equal(pic_acknowledge(&rig.irq->pic), 0x27);
    assert_int_equal(read_isr(0x20), 0);
}

static void level_inputs_ask_again(void **state)
{
    rig_out(&rig, 0x4d1, 0xff);
    assert_int_equal(rig_in(&rig, 0x4d1), 0xde); /* RTC and FPU stay edge */
    line(11, true);
    assert_int_equal(rig_ack(&rig, 0), 0x2b);
    rig_out(&rig, 0xa0, 0x20);
    rig_out(&rig, 0x20, 0x20);
    assert_int_equal(rig_ack(&rig, 0), 0x2b);
    line(11, false);
    rig_out(&rig, 0xa0, 0x20);
    rig_out(&rig, 0x20, 0x20);
    assert_false(rig_intr(&rig, 0));
    /* An edge input that stays high asks once. */
    line(1, true);
    assert_int_equal(rig_ack(&rig, 0), 0x21);
    rig_out(&rig, 0x20, 0x20);
    assert_false(rig_intr(&rig, 0));
}

static void automatic_eoi_and_rotation(void **state)
{
    start_pic(3);
    rig_out(&rig, 0x20, 0x80); /* rotate in automatic EOI mode */
    pulse(3);
    assert_int_equal(rig_ack(&rig, 0), 0x23);
    assert_int_equal(read_isr(0x20), 0);
    pulse(3);
    pulse(4); /* 3 is the lowest now, 4 the highest */
    assert_int_equal(rig_ack(&rig, 0), 0x24);
    assert_int_equal(rig_ack(&rig, 0), 0x23);

    start_pic(1);
    rig_out(&rig, 0x20, 0xc5); /* set priority: 5 the lowest, 6 the highest */
    pulse(0);
    pulse(6);
    assert_int_equal(rig_ack(&rig, 0), 0x26);
    rig_out(&rig, 0x20, 0xa0); /* EOI with rotation: 6 the lowest, 7 the highest */
    pulse(7);
    assert_int_equal(rig_ack(&rig, 0), 0x27);
}

static void special_mask_lets_lower_ones_in(void **state)
{
    pulse(1);
    assert_int_equal(rig_ack(&rig, 0), 0x21);
    pulse(6);
    assert_false(rig_intr(&rig, 0));
    rig_out(&rig, 0x21, 0x02);
    assert_false(rig_intr(&rig, 0));
    rig_out(&rig, 0x20, 0x68);
    assert_true(rig_intr(&rig, 0));
    rig_out(&rig, 0x20, 0x48);
    assert_false(rig_intr(&rig, 0));
}

static void poll_takes_the_place_of_inta(void **state)
{
    rig_out(&rig, 0x20, 0x0c);
    assert_int_equal(rig_in(&rig, 0x20), 7); /* nothing */
    pulse(4);
    rig_out(&rig, 0x20, 0x0c);
    assert_int_equal(rig_in(&rig, 0x20), 0x84);
    assert_int_equal(read_isr(0x20), 0x10);
    assert_false(rig_intr(&rig, 0));
}

static void a_lost_edge_is_known(void **state)
{
    struct irq_line l = irq_line_of(rig.irq, 0);
    rig_out(&rig, 0x21, 0x01);
    pulse(0);
    assert_false(irq_line_pending(&l)); /* masked: nobody counts the ticks */
    rig_out(&rig, 0x21, 0);
    assert_true(irq_line_pending(&l));
    rig_ack(&rig, 0);
    assert_false(irq_line_pending(&l));
    assert_null(irq_line_of(rig.irq, 2).set);
    assert_null(irq_line_of(rig.irq, 24).set);
}

static void state_goes_round(void **state)
{
    struct rig other;
    rig_init(&other, 0);
    rig_irq(&other);
    pulse(1);
    rig_ack(&rig, 0);
    pulse(9);
    line(4, true);
    rig_out(&rig, 0x20, 0xc3);
    rig_copy_state(&lapic_state, &rig.irq->lapics[0], &other.irq->lapics[0]);
    rig_copy_state(&pic_state, &rig.irq->pic, &other.irq->pic);
    assert_int_equal(rig_intr(&other, 0), rig_intr(&rig, 0));
    assert_int_equal(rig_ack(&other, 0), rig_ack(&rig, 0));
    rig_refuses(&pic_state, &rig.irq->pic, &other.irq->pic, "chip[1].lowest", 8);
    rig_refuses(&pic_state, &rig.irq->pic, &other.irq->pic, "chip[0].next", 5);
    rig_refuses(&pic_state, &rig.irq->pic, &other.irq->pic, "chip[0].elcr", 1);
    rig_refuses(&pic_state, &rig.irq->pic, &other.irq->pic, "chip[1].base", 0x21);
    rig_fini(&other);
}

static void hostile(void **state)
{
    static const unsigned base[] = {0x1e, 0x9e, 0x4ce};
    for (unsigned i = 0; i < 100000; i++) {
        rig_hostile(&rig, BUS_PIO, base[i % 3], 6, 3);
        line(rig_random(&rig) % 24, rig_random(&rig) & 1);
        bool intr = rig_intr(&rig, 0);
        if (rig_random(&rig) & 1)
            assert_int_equal(rig_ack(&rig, 0) >= 0, intr); /* the request is a level */
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(priorities_are_fully_nested),
        TEST(masks_hold_and_release),
        TEST(slave_comes_through_input_2),
        TEST(special_fully_nested_lets_the_slave_in),
        TEST(spurious_is_input_7),
        TEST(level_inputs_ask_again),
        TEST(automatic_eoi_and_rotation),
        TEST(special_mask_lets_lower_ones_in),
        TEST(poll_takes_the_place_of_inta),
        TEST(a_lost_edge_is_known),
        TEST(state_goes_round),
        TEST(hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
