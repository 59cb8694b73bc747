/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dev/uart.h"

#define GSI        UART_COM1_GSI
#define BYTE_NS    86806u /* 10 bits at 115,200 baud */
#define TIMEOUT_NS (4 * BYTE_NS)

static uint8_t get(struct harness *h, unsigned r)
{
    return inb(h, (uint16_t)(UART_COM1 + r));
}

static void put(struct harness *h, unsigned r, uint8_t value)
{
    outb(h, (uint16_t)(UART_COM1 + r), value);
}

static struct uart *create(struct harness *h, struct console *c)
{
    struct uart *u;
    assert_int_equal(uart_create(&u, &h->bus, UART_COM1, h->clock, harness_irq(h, GSI), c, NULL),
                     0);
    return u;
}

static void destroy(struct harness *h, struct uart *u)
{
    uart_destroy(u);
    harness_destroy(h);
}

/* Bytes come in through loop-back, which needs no host. Interrupts do not leave the chip then, so
 * IIR is what is looked at. */
static void loop(struct harness *h, const char *text)
{
    put(h, UART_MCR, UART_MCR_LOOP);
    for (; *text != 0; text++)
        put(h, UART_THR, (uint8_t)*text);
}

static uint8_t identity(struct harness *h)
{
    return get(h, UART_IIR) & 0x0f;
}

static void registers_after_reset(void **state)
{
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    assert_int_equal(get(h, UART_IER), 0);
    assert_int_equal(get(h, UART_IIR), UART_IIR_NONE);
    assert_int_equal(get(h, UART_LSR), UART_LSR_HOLDING | UART_LSR_EMPTY);
    assert_int_equal(get(h, UART_MSR), 0); /* nothing connected */
    put(h, UART_SCR, 0xa5);
    assert_int_equal(get(h, UART_SCR), 0xa5);
    put(h, UART_IER, 0xff);
    assert_int_equal(get(h, UART_IER), 0x0f);
    put(h, UART_LCR, 0x83);
    put(h, UART_DLL, 0x34);
    put(h, UART_DLM, 0x12);
    assert_int_equal(get(h, UART_DLL), 0x34);
    assert_int_equal(get(h, UART_DLM), 0x12);
    put(h, UART_LCR, 0x03);
    assert_int_equal(get(h, UART_IER), 0x0f);
    put(h, UART_MCR, 0xff);
    assert_int_equal(get(h, UART_MCR), 0x1f);
    destroy(h, u);
}

/* As Linux's 8250 driver tells a 16550A from the rest. */
static void is_a_16550a(void **state)
{
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    put(h, UART_FCR, 1);
    assert_int_equal(get(h, UART_IIR) & 0xc0, 0xc0);
    put(h, UART_FCR, 0xc0); /* without the enable bit nothing is written */
    assert_int_equal(get(h, UART_IIR) & 0xc0, 0);
    put(h, UART_MCR, UART_MCR_LOOP | 0x0a);
    assert_int_equal(get(h, UART_MSR) & 0xf0, 0x90);
    destroy(h, u);
}

static void transmitter_interrupt(void **state)
{
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    put(h, UART_MCR, UART_MCR_OUT2);
    put(h, UART_IER, UART_IER_TRANSMIT);
    assert_true(h->level[GSI]);
    assert_int_equal(get(h, UART_LSR) & UART_LSR_HOLDING, UART_LSR_HOLDING); /* does not clear */
    assert_true(h->level[GSI]);
    assert_int_equal(get(h, UART_IIR), UART_IIR_TRANSMIT);
    assert_false(h->level[GSI]);
    assert_int_equal(get(h, UART_IIR), UART_IIR_NONE);
    put(h, UART_IER, UART_IER_TRANSMIT); /* already on: no new interrupt */
    assert_int_equal(get(h, UART_IIR), UART_IIR_NONE);
    put(h, UART_IER, 0);
    put(h, UART_IER, UART_IER_TRANSMIT); /* Linux tests for this (UART_BUG_THRE) */
    assert_int_equal(get(h, UART_IIR), UART_IIR_TRANSMIT);
    unsigned rises = h->rises[GSI];
    put(h, UART_THR, 'a');
    assert_true(h->level[GSI]);
    assert_int_equal(h->rises[GSI], rises + 1);
    put(h, UART_THR, 'b'); /* not acknowledged: still an edge for each */
    assert_int_equal(h->rises[GSI], rises + 2);
    destroy(h, u);
}

static void reading_iir_clears_only_what_it_reports(void **state)
{
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    loop(h, "x");
    put(h, UART_IER, UART_IER_TRANSMIT | UART_IER_RECEIVE);
    assert_int_equal(get(h, UART_IIR), UART_IIR_RECEIVE);
    assert_int_equal(get(h, UART_IIR), UART_IIR_RECEIVE);
    assert_int_equal(get(h, UART_RBR), 'x');
    assert_int_equal(get(h, UART_IIR), UART_IIR_TRANSMIT); /* was not lost */
    assert_int_equal(get(h, UART_IIR), UART_IIR_NONE);
    destroy(h, u);
}

static void priorities(void **state)
{
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    put(h, UART_MCR, UART_MCR_LOOP);
    get(h, UART_MSR);
    put(h, UART_MCR, UART_MCR_LOOP | UART_MCR_RTS); /* delta CTS */
    put(h, UART_THR, 'a');
    put(h, UART_THR, 'b'); /* overrun */
    put(h, UART_IER, 0x0f);
    assert_int_equal(get(h, UART_IIR), UART_IIR_LINE);
    assert_int_equal(get(h, UART_LSR), UART_LSR_READY | UART_LSR_OVERRUN | 0x60);
    assert_int_equal(get(h, UART_IIR), UART_IIR_RECEIVE);
    assert_int_equal(get(h, UART_RBR), 'b'); /* without FIFO the new one overwrites */
    assert_int_equal(get(h, UART_IIR), UART_IIR_TRANSMIT);
    assert_int_equal(get(h, UART_IIR), UART_IIR_MODEM);
    assert_int_equal(get(h, UART_MSR), UART_MSR_CTS | UART_MSR_DELTA_CTS);
    assert_int_equal(get(h, UART_IIR), UART_IIR_NONE);
    assert_int_equal(get(h, UART_MSR), UART_MSR_CTS);
    destroy(h, u);
}

static void fifo_trigger_levels(void **state)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    for (unsigned i = 0; i < 4; i++) {
        put(h, UART_FCR, (uint8_t)(i << 6 | 7));
        put(h, UART_IER, UART_IER_RECEIVE);
        for (unsigned n = 1; n <= UART_FIFO; n++) {
            loop(h, "q");
            assert_int_equal(identity(h), n >= levels[i] ? UART_IIR_RECEIVE : UART_IIR_NONE);
        }
        for (unsigned n = UART_FIFO; n > 0; n--) {
            assert_int_equal(identity(h), n >= levels[i] ? UART_IIR_RECEIVE : UART_IIR_NONE);
            assert_int_equal(get(h, UART_RBR), 'q');
        }
        assert_int_equal(get(h, UART_LSR) & UART_LSR_READY, 0);
    }
    destroy(h, u);
}

static void character_timeout(void **state)
{
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    put(h, UART_FCR, UART_FCR_ENABLE | 0x80); /* 8 */
    put(h, UART_IER, UART_IER_RECEIVE);
    loop(h, "ab");
    harness_run(h, TIMEOUT_NS - BYTE_NS);
    assert_int_equal(identity(h), UART_IIR_NONE);
    loop(h, "c"); /* starts it again */
    harness_run(h, TIMEOUT_NS - BYTE_NS);
    assert_int_equal(identity(h), UART_IIR_NONE);
    harness_run(h, 2 * BYTE_NS);
    assert_int_equal(identity(h), UART_IIR_TIMEOUT);
    assert_int_equal(get(h, UART_RBR), 'a'); /* reading clears it */
    assert_int_equal(identity(h), UART_IIR_NONE);
    harness_run(h, TIMEOUT_NS + BYTE_NS);
    assert_int_equal(identity(h), UART_IIR_TIMEOUT);
    get(h, UART_RBR);
    get(h, UART_RBR);
    harness_run(h, 2 * TIMEOUT_NS);
    assert_int_equal(identity(h), UART_IIR_NONE); /* empty */
    destroy(h, u);
}

static void overrun_keeps_the_fifo(void **state)
{
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    put(h, UART_FCR, UART_FCR_ENABLE);
    loop(h, "0123456789abcdefX");
    assert_int_equal(get(h, UART_LSR) & 0x1f, UART_LSR_READY | UART_LSR_OVERRUN);
    assert_int_equal(get(h, UART_LSR) & 0x1f, UART_LSR_READY);
    for (const char *p = "0123456789abcdef"; *p != 0; p++)
        assert_int_equal(get(h, UART_RBR), *p);
    assert_int_equal(get(h, UART_LSR) & UART_LSR_READY, 0);
    destroy(h, u);
}

static void break_travels_with_its_character(void **state)
{
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    put(h, UART_FCR, UART_FCR_ENABLE);
    loop(h, "a");
    put(h, UART_LCR, UART_LCR_BREAK | 3);
    put(h, UART_LCR, 3);
    loop(h, "z");
    put(h, UART_IER, UART_IER_LINE);
    assert_int_equal(identity(h), UART_IIR_NONE); /* not at the top yet */
    assert_int_equal(get(h, UART_LSR) & 0x9f, UART_LSR_FIFO_ERROR | UART_LSR_READY);
    assert_int_equal(get(h, UART_RBR), 'a');
    assert_int_equal(identity(h), UART_IIR_LINE);
    assert_int_equal(get(h, UART_LSR) & 0x9f,
                     UART_LSR_FIFO_ERROR | UART_LSR_READY | UART_LSR_BREAK);
    assert_int_equal(get(h, UART_LSR) & 0x9f, UART_LSR_READY);
    assert_int_equal(get(h, UART_RBR), 0);
    assert_int_equal(get(h, UART_RBR), 'z');
    destroy(h, u);
}

static void loop_back_cuts_to_the_word_length(void **state)
{
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    put(h, UART_LCR, 0); /* 5 bits */
    loop(h, "\x7f");
    assert_int_equal(get(h, UART_RBR), 0x1f);
    destroy(h, u);
}

static void modem_lines(void **state)
{
    struct harness *h = harness_create();
    struct console *c;
    assert_int_equal(console_create(&c, "none", NULL, NULL, NULL), 0);
    struct uart *u = create(h, c);
    assert_int_equal(get(h, UART_MSR), UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
    put(h, UART_MCR, UART_MCR_LOOP | UART_MCR_OUT1);
    assert_int_equal(get(h, UART_MSR),
                     UART_MSR_RI | UART_MSR_DELTA_CTS | UART_MSR_DELTA_DSR | UART_MSR_DELTA_DCD);
    put(h, UART_MCR, UART_MCR_LOOP);
    assert_int_equal(get(h, UART_MSR), UART_MSR_TRAIL_RI);
    put(h, UART_MCR, UART_MCR_LOOP | UART_MCR_OUT1); /* the leading edge does not count */
    assert_int_equal(get(h, UART_MSR), UART_MSR_RI);
    destroy(h, u);
    console_destroy(c, 0, NULL);
}

static void out2_gates_the_line(void **state)
{
    struct harness *h = harness_create();
    struct uart *u = create(h, NULL);
    put(h, UART_IER, UART_IER_TRANSMIT);
    assert_false(h->level[GSI]);
    put(h, UART_MCR, UART_MCR_OUT2);
    assert_true(h->level[GSI]);
    put(h, UART_MCR, UART_MCR_OUT2 | UART_MCR_LOOP);
    assert_false(h->level[GSI]);
    destroy(h, u);
}

static bool wait_for(struct harness *h, uint8_t mask, uint8_t value)
{
    for (int i = 0; i < 2000; i++) {
        if ((get(h, UART_LSR) & mask) == value)
            return true;
        usleep(1000);
    }
    return false;
}

/* A reader that does not read: THRE goes away, and comes back with the room; nothing is lost. */
static void slow_output_holds_the_transmitter(void **state)
{
    struct harness *h = harness_create();
    struct console *c;
    char path[] = "/tmp/doppel-uart-XXXXXX", spec[64];
    size_t sent = 0, got = 0;

    assert_non_null(mkdtemp(path));
    snprintf(spec, sizeof(spec), "file:%s/fifo", path);
    assert_int_equal(mkfifo(spec + 5, 0600), 0);
    int fd = open(spec + 5, O_RDONLY | O_NONBLOCK);
    assert_true(fd >= 0);
    assert_int_equal(console_create(&c, spec, NULL, NULL, NULL), 0);
    struct uart *u = create(h, c);
    put(h, UART_FCR, UART_FCR_ENABLE);
    put(h, UART_MCR, UART_MCR_OUT2);
    while (sent < 2 * CONSOLE_OUTPUT_MAX && (get(h, UART_LSR) & UART_LSR_HOLDING))
        put(h, UART_THR, (uint8_t)(sent++ % 251));
    assert_in_range(sent, CONSOLE_OUTPUT_MAX, 2 * CONSOLE_OUTPUT_MAX - 1);
    put(h, UART_IER, UART_IER_TRANSMIT);
    assert_false(h->level[GSI]);
    for (unsigned i = 0; i < 15; i++) /* the FIFO takes the rest of its 16 */
        put(h, UART_THR, (uint8_t)(sent++ % 251));
    put(h, UART_THR, 0xff); /* is lost */
    while (got < sent) {
        uint8_t bytes[4096];
        ssize_t n = read(fd, bytes, sizeof(bytes));
        if (n < 0)
            assert_int_equal(errno, EAGAIN);
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(bytes[i], (got++ % 251));
        if (n <= 0)
            usleep(1000);
    }
    assert_true(wait_for(h, UART_LSR_HOLDING, UART_LSR_HOLDING));
    assert_true(h->level[GSI]);
    uart_destroy(u);
    assert_int_equal(console_destroy(c, 1000, NULL), 0);
    close(fd);
    unlink(spec + 5);
    rmdir(path);
    harness_destroy(h);
}

/* stdin is taken only when receive interrupts are on, and only what fits. */
static void input_is_taken_as_it_is_wanted(void **state)
{
    struct harness *h = harness_create();
    struct console *c;
    int in_pipe[2], old = dup(0), left;
    char text[41] = "0123456789012345678901234567890123456789";

    assert_int_equal(pipe2(in_pipe, O_NONBLOCK), 0);
    dup2(in_pipe[0], 0);
    assert_int_equal(write(in_pipe[1], text, 40), 40);
    assert_int_equal(console_create(&c, "stdio", NULL, NULL, NULL), 0);
    struct uart *u = create(h, c);
    usleep(20000);
    assert_int_equal(ioctl(0, FIONREAD, &left), 0);
    assert_int_equal(left, 40);
    assert_int_equal(get(h, UART_LSR) & UART_LSR_READY, 0);
    put(h, UART_IER, UART_IER_RECEIVE); /* as Linux probes for the port */
    usleep(20000);
    assert_int_equal(get(h, UART_LSR) & UART_LSR_READY, 0);
    put(h, UART_MCR, UART_MCR_OUT2);
    assert_true(wait_for(h, UART_LSR_READY, UART_LSR_READY));
    put(h, UART_FCR, UART_FCR_ENABLE); /* keeps the first character */
    usleep(20000);
    assert_int_equal(ioctl(0, FIONREAD, &left), 0);
    assert_int_equal(left, 24);
    assert_true(h->level[GSI]);
    put(h, UART_IER, 0); /* what is in the FIFO stays, no more comes */
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(get(h, UART_RBR), text[i]);
    usleep(20000);
    assert_int_equal(get(h, UART_LSR) & UART_LSR_READY, 0);
    put(h, UART_IER, UART_IER_RECEIVE);
    for (unsigned i = 16; i < 40; i++) {
        assert_true(wait_for(h, UART_LSR_READY, UART_LSR_READY));
        assert_int_equal(get(h, UART_RBR), text[i]);
    }
    assert_int_equal(get(h, UART_LSR) & (UART_LSR_OVERRUN | UART_LSR_READY), 0);
    uart_destroy(u);
    assert_int_equal(console_destroy(c, 0, NULL), 0);
    dup2(old, 0);
    close(old);
    close(in_pipe[0]);
    close(in_pipe[1]);
    harness_destroy(h);
}

/* A guest without interrupts that waits for a key gets one at a time; one that waits for room to
 * send does not, nor does the host lose what it was not asked for. */
static void input_for_who_polls(void **state)
{
    struct harness *h = harness_create();
    struct console *c;
    int in_pipe[2], old = dup(0), left;

    assert_int_equal(pipe2(in_pipe, O_NONBLOCK), 0);
    dup2(in_pipe[0], 0);
    assert_int_equal(write(in_pipe[1], "abc", 3), 3);
    assert_int_equal(console_create(&c, "stdio", NULL, NULL, NULL), 0);
    struct uart *u = create(h, c);
    put(h, UART_MCR, UART_MCR_DTR | UART_MCR_RTS);
    put(h, UART_LCR, UART_LCR_BREAK | 3); /* what is sent goes nowhere */
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(get(h, UART_LSR), UART_LSR_HOLDING | UART_LSR_EMPTY);
        put(h, UART_THR, 'x');
    }
    usleep(20000);
    assert_int_equal(ioctl(0, FIONREAD, &left), 0);
    assert_int_equal(left, 3);
    for (const char *wanted = "abc"; *wanted != 0; wanted++) {
        assert_true(wait_for(h, UART_LSR_READY, UART_LSR_READY));
        usleep(20000);
        assert_int_equal(ioctl(0, FIONREAD, &left), 0);
        assert_int_equal(left, strlen(wanted) - 1);
        assert_int_equal(get(h, UART_RBR), *wanted);
        put(h, UART_THR, (uint8_t)*wanted); /* its echo */
    }
    uart_destroy(u);
    assert_int_equal(console_destroy(c, 0, NULL), 0);
    dup2(old, 0);
    close(old);
    close(in_pipe[0]);
    close(in_pipe[1]);
    harness_destroy(h);
}

static void saved_state(void **state)
{
    struct harness *h = harness_create(), *g = harness_create();
    struct uart *a = create(h, NULL), *b = create(g, NULL);
    put(h, UART_FCR, UART_FCR_ENABLE | 0x40);
    put(h, UART_SCR, 0x77);
    put(h, UART_IER, UART_IER_RECEIVE);
    loop(h, "abc");
    put(h, UART_MCR, UART_MCR_OUT2);
    harness_round_trip(&uart_state, a, b);
    assert_false(g->level[GSI]);
    harness_run(g, TIMEOUT_NS + BYTE_NS); /* the time-out goes on */
    assert_true(g->level[GSI]);
    assert_int_equal(get(g, UART_IIR), UART_IIR_FIFOS | UART_IIR_TIMEOUT);
    assert_int_equal(get(g, UART_RBR), 'a');
    harness_refused(&uart_state, a, "ier", 0, 0x10);
    harness_refused(&uart_state, a, "fcr", 0, 0x40);
    harness_refused(&uart_state, a, "mcr", 0, 0x20);
    harness_refused(&uart_state, a, "receive_first", 0, 16);
    harness_refused(&uart_state, a, "receive_count", 0, 17);
    harness_refused(&uart_state, a, "transmit_first", 0, 255);
    harness_refused(&uart_state, a, "transmit_count", 0, 17);
    harness_refused(&uart_state, a, "receive_errors", 3, 0xff);
    harness_refused(&uart_state, a, "overrun", 0, 2);
    uart_reset(a);
    assert_int_equal(get(h, UART_LSR), 0x60);
    destroy(h, a);
    destroy(g, b);
}

static void hostile_driver(void **state)
{
    struct harness *h = harness_create(), *g = harness_create();
    struct console *c;
    assert_int_equal(console_create(&c, "none", NULL, NULL, NULL), 0);
    struct uart *a = create(h, c), *b = create(g, NULL);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        harness_hostile(h, UART_COM1 - 2, 12, 20000, seed);
        harness_round_trip(&uart_state, a, b);
    }
    destroy(h, a);
    destroy(g, b);
    console_destroy(c, 0, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers_after_reset),
        cmocka_unit_test(is_a_16550a),
        cmocka_unit_test(transmitter_interrupt),
        cmocka_unit_test(reading_iir_clears_only_what_it_reports),
        cmocka_unit_test(priorities),
        cmocka_unit_test(fifo_trigger_levels),
        cmocka_unit_test(character_timeout),
        cmocka_unit_test(overrun_keeps_the_fifo),
        cmocka_unit_test(break_travels_with_its_character),
        cmocka_unit_test(loop_back_cuts_to_the_word_length),
        cmocka_unit_test(modem_lines),
        cmocka_unit_test(out2_gates_the_line),
        cmocka_unit_test(slow_output_holds_the_transmitter),
        cmocka_unit_test(input_is_taken_as_it_is_wanted),
        cmocka_unit_test(input_for_who_polls),
        cmocka_unit_test(saved_state),
        cmocka_unit_test(hostile_driver),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
