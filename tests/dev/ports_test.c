/* SPDX-License-Identifier: MIT */
/* The devices without state: pvpanic, debug exit, debug console. */
#include "harness.h"

#include <fcntl.h>
#include <unistd.h>

#include "dev/debug_exit.h"
#include "dev/debugcon.h"
#include "dev/pvpanic.h"

static void panic(void **state)
{
    struct harness *h = harness_create();
    struct pvpanic *p;
    assert_int_equal(pvpanic_create(&p, &h->bus, harness_sink(h), NULL), 0);
    assert_int_equal(inb(h, PVPANIC_PORT), 3);
    outb(h, PVPANIC_PORT, 0xfc);
    assert_int_equal(h->panics + h->crash_kernels, 0);
    outb(h, PVPANIC_PORT, PVPANIC_CRASH_LOADED);
    assert_int_equal(h->crash_kernels, 1);
    outb(h, PVPANIC_PORT, PVPANIC_PANICKED);
    assert_int_equal(h->panics, 1);
    harness_hostile(h, PVPANIC_PORT - 2, 5, 100000, 5);
    pvpanic_destroy(p);
    harness_destroy(h);
}

static void debug_exit(void **state)
{
    struct harness *h = harness_create();
    struct debug_exit *d;
    assert_int_equal(debug_exit_create(&d, &h->bus, harness_sink(h), NULL), 0);
    out(h, DEBUG_EXIT_PORT, 0, 1);
    assert_int_equal(h->status, 1);
    out(h, DEBUG_EXIT_PORT, 0x10, 2);
    assert_int_equal(h->status, 0x21);
    out(h, DEBUG_EXIT_PORT, 0xffffff85, 4);
    assert_int_equal(h->status, 0x0b);
    assert_int_equal(h->exits, 3);
    outb(h, DEBUG_EXIT_PORT + 1, 1);
    assert_int_equal(h->exits, 3);
    assert_int_equal(in(h, DEBUG_EXIT_PORT, 4), 0);
    for (uint32_t i = 0; i < 1000; i++) {
        out(h, DEBUG_EXIT_PORT, i, 4);
        assert_int_equal(h->status & ~0xff, 0);
        assert_int_equal(h->status & 1, 1);
    }
    harness_hostile(h, DEBUG_EXIT_PORT - 2, 8, 100000, 6);
    debug_exit_destroy(d);
    harness_destroy(h);
}

static void debug_console(void **state)
{
    char path[] = "/tmp/doppel-debugcon-XXXXXX", spec[64] = "file:", text[16] = "";
    struct harness *h = harness_create();
    struct debugcon *d;
    struct console *c;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    strcat(spec, path);
    assert_int_equal(console_create(&c, spec, NULL, NULL, NULL), 0);
    assert_int_equal(debugcon_create(&d, &h->bus, c, NULL), 0);
    assert_int_equal(inb(h, DEBUGCON_PORT), 0xe9);
    for (const char *p = "SeaBIOS\n"; *p != 0; p++)
        outb(h, DEBUGCON_PORT, (uint8_t)*p);
    debugcon_destroy(d);
    assert_int_equal(console_destroy(c, 1000, NULL), 0);
    assert_int_equal(read(fd, text, sizeof(text)), 8);
    assert_string_equal(text, "SeaBIOS\n");
    close(fd);
    unlink(path);
    harness_destroy(h);
}

static void debug_console_of_nobody(void **state)
{
    struct harness *h = harness_create();
    struct debugcon *d;
    assert_int_equal(debugcon_create(&d, &h->bus, NULL, NULL), 0);
    harness_hostile(h, DEBUGCON_PORT - 2, 5, 100000, 7);
    debugcon_destroy(d);
    harness_destroy(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(panic),
        cmocka_unit_test(debug_exit),
        cmocka_unit_test(debug_console),
        cmocka_unit_test(debug_console_of_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
