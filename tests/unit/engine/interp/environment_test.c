/* SPDX-License-Identifier: MIT */
/* x87 environments of real mode (SDM 1 figures 8-10, 8-12), in both operand sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "runner.h"

/* ST(0) = 0, ST(1) = infinity, ST(2) = 1; the rest is empty. TOP is 5. */
CODE16(store, "mov %cr0, %eax\n and $0xfff3, %ax\n mov %eax, %cr0\n fninit\n fld1\n"
              "fld1\n fldz\n fdivrp\n fldz\n fnstenv 0x5000\n .byte 0x66\n fnstenv 0x5040\n hlt");
CODE16(load,
       "mov %cr0, %eax\n and $0xfff3, %ax\n mov %eax, %cr0\n fninit\n fldl2e\n fldpi\n"
       "fld1\n fnsave 0x5000\n .byte 0x66\n frstor 0x5080\n .byte 0x66, 0xdd, 0x36, 0x00, 0x51\n"
       "frstor 0x5000\n fnstenv 0x5180\n xorw $0x1800, 0x5182\n fldenv 0x5180\n"
       "fstpt 0x5200\n hlt");

static void test_formats(void **state)
{
    struct runner *r = *state;
    PUT(r, RUNNER_CODE, store);
    r->v->vector.fop = 0;
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(runner_get(r, 0x5000, 2), 0x37f);
    assert_int_equal(runner_get(r, 0x5002, 2) >> 11 & 7, 5);
    assert_int_equal(runner_get(r, 0x5004, 2), 0x27ff); /* 1, infinity, zero: 00 10 01 */
    uint64_t ip = runner_get(r, 0x5006, 2);
    assert_in_range(ip, RUNNER_CODE, RUNNER_CODE + 0x30);
    assert_int_equal(runner_get(r, 0x500e, 2), 0); /* 14 bytes, not more */
    assert_int_equal(runner_get(r, 0x5040, 4), 0xffff037f);
    assert_int_equal(runner_get(r, 0x5048, 4), 0xffff27ff);
    assert_int_equal(runner_get(r, 0x504c, 4), 0xffff0000 | ip);
    assert_int_equal(runner_get(r, 0x5050, 4) & 0x7ff, runner_get(r, 0x5008, 2) & 0x7ff);
    assert_int_equal(runner_get(r, 0x505c, 2), 0);
}

static void test_save_and_load(void **state)
{
    struct runner *r = *state;
    uint32_t image[7] = {0x27f, 5 << 11, 0x03ff, 0x1234, 0x5000 | 0x123, 0x8765, 0xa000};
    uint64_t st[2] = {0xc000000000000000, 0x4000}; /* 3.0 */
    PUT(r, RUNNER_CODE, load);
    runner_put(r, 0x5080, image, 28);
    runner_put(r, 0x5080 + 28, st, 10);
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(runner_get(r, 0x5100, 4), 0xffff027f);
    assert_int_equal(runner_get(r, 0x510c, 4), 0xffff1234);
    assert_int_equal(runner_get(r, 0x5110, 4), 0x5123);
    assert_int_equal(runner_get(r, 0x5114, 4), 0xffff8765);
    assert_int_equal(runner_get(r, 0x5118, 4), 0xa000);
    assert_int_equal(runner_get(r, 0x511c, 8), st[0]);
    assert_int_equal(runner_get(r, 0x5124, 2), st[1]);
    /* FLDENV moved TOP from 5 to 6: the registers keep their places, ST(0) is what ST(1) was */
    assert_int_equal(runner_get(r, 0x5200, 8), runner_get(r, 0x5000 + 14 + 10, 8));
    assert_int_equal(r->v->vector.fcw & 0x3f, 0x3f); /* FNSTENV has masked all */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, runner_setup, runner_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_formats), TEST(test_save_and_load)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
