/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>
#include <cmocka.h>

#include "backend/console.h"

struct peer {
    pthread_mutex_t lock;
    uint8_t bytes[8192];
    size_t count;
    unsigned breaks, rooms;
    _Atomic unsigned quits, failures;
    char sentence[ERROR_TEXT_MAX];
};

static size_t receive(void *context, const uint8_t *bytes, size_t n)
{
    struct peer *p = context;
    memcpy(p->bytes + p->count, bytes, n);
    p->count += n;
    return n;
}

static void receive_break(void *context)
{
    ((struct peer *)context)->breaks++;
}

static void room(void *context)
{
    ((struct peer *)context)->rooms++;
}

static void quit(void *context)
{
    ((struct peer *)context)->quits++;
}

static void failed(void *context, const char *sentence)
{
    struct peer *p = context;
    snprintf(p->sentence, sizeof(p->sentence), "%s", sentence);
    p->failures++;
}

static const struct console_client client = {receive, receive_break, room};
static const struct console_events events = {quit, failed};

static void put_all(struct console *c, const char *text)
{
    for (; *text != 0; text++)
        assert_true(console_put(c, (uint8_t)*text));
}

/* stdin and stdout become the given files; give_back undoes it. */
static int old_in, old_out;
static void take_stdio(int in, int out)
{
    old_in = dup(0);
    old_out = dup(1);
    dup2(in, 0);
    dup2(out, 1);
}

static void give_back(void)
{
    dup2(old_in, 0);
    dup2(old_out, 1);
    close(old_in);
    close(old_out);
}

static void bad_specs(void **state)
{
    struct console *c;
    struct error e;
    assert_int_equal(console_create(&c, "tcp:1", NULL, NULL, &e), -EINVAL);
    assert_non_null(strstr(e.text, "tcp:1"));
    assert_int_equal(console_create(&c, "file:", NULL, NULL, &e), -EINVAL);
    assert_int_equal(console_create(&c, "file:/nonexistent/x", NULL, NULL, &e), -ENOENT);
    assert_non_null(strstr(e.text, "/nonexistent/x"));
    assert_int_equal(console_create(&c, "file:/tmp", NULL, NULL, &e), -EISDIR);
}

static void none_takes_everything(void **state)
{
    struct console *c;
    assert_int_equal(console_create(&c, "none", NULL, NULL, NULL), 0);
    for (unsigned i = 0; i < 2 * CONSOLE_OUTPUT_MAX; i++)
        assert_true(console_put(c, 'x'));
    console_want_input(c, 16);
    assert_int_equal(console_destroy(c, 0, NULL), 0);
}

static void file_gets_all_at_exit(void **state)
{
    char path[] = "/tmp/doppel-console-XXXXXX", spec[64], got[32] = "";
    struct console *c;
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "old contents, longer than the new", 33), 33);
    snprintf(spec, sizeof(spec), "file:%s", path);
    assert_int_equal(console_create(&c, spec, NULL, NULL, NULL), 0);
    put_all(c, "last words");
    assert_int_equal(console_destroy(c, 1000, NULL), 0);
    assert_int_equal(pread(fd, got, sizeof(got), 0), 10);
    assert_string_equal(got, "last words");
    close(fd);
    unlink(path);
}

static void full_disk_is_reported(void **state)
{
    struct peer p = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct console *c;
    struct error e;
    assert_int_equal(console_create(&c, "file:/dev/full", &events, &p, NULL), 0);
    console_attach(c, &client, &p, &p.lock);
    put_all(c, "x");
    for (int i = 0; i < 2000 && p.failures == 0; i++)
        usleep(1000);
    assert_int_equal(p.failures, 1);
    assert_non_null(strstr(p.sentence, "/dev/full"));
    assert_non_null(strstr(p.sentence, "No space left"));
    for (unsigned i = 0; i < 2 * CONSOLE_OUTPUT_MAX; i++)
        assert_true(console_put(c, 'x')); /* thrown away; the guest is not held up */
    usleep(10000);
    assert_int_equal(p.failures, 1);
    console_detach(c);
    assert_int_equal(console_destroy(c, 100, &e), -ENOSPC);
    assert_non_null(strstr(e.text, "No space left"));
}

static void reader_goes_away(void **state)
{
    struct peer p = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct console *c;
    int in[2], out[2];
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    take_stdio(in[0], out[1]);
    int err = console_create(&c, "stdio", &events, &p, NULL);
    close(out[0]);
    if (err == 0)
        console_put(c, 'x');
    for (int i = 0; err == 0 && i < 2000 && p.failures == 0; i++)
        usleep(1000);
    int end = err == 0 ? console_destroy(c, 100, NULL) : 0;
    give_back();
    assert_int_equal(err, 0);
    assert_int_equal(p.failures, 1);
    assert_int_equal(end, -EPIPE);
    close(in[0]);
    close(in[1]);
    close(out[1]);
}

/* Bytes of a pipe are not keys; EOF ends input and nothing else. */
static void pipe_passes_unchanged(void **state)
{
    struct peer p = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct console *c, *second;
    struct error e;
    int in[2], out[2], err, busy;
    char got[8] = "";
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    assert_int_equal(write(in[1], "\001x\001\001h\003", 6), 6);
    close(in[1]);
    take_stdio(in[0], out[1]);
    err = console_create(&c, "stdio", &events, &p, NULL);
    busy = console_create(&second, "stdio", &events, &p, &e);
    if (err == 0) {
        console_attach(c, &client, &p, &p.lock);
        console_want_input(c, 100);
        for (int i = 0; i < 500; i++) { /* the I/O thread reads when the host lets it run */
            pthread_mutex_lock(&p.lock);
            bool all = p.count >= 6;
            pthread_mutex_unlock(&p.lock);
            if (all)
                break;
            usleep(10000);
        }
        console_put(c, 'o');
        console_put(c, 'k');
        console_detach(c);
        err = console_destroy(c, 1000, NULL);
    }
    give_back();
    assert_int_equal(err, 0);
    assert_int_equal(busy, -EBUSY);
    assert_int_equal(p.count, 6);
    assert_memory_equal(p.bytes, "\001x\001\001h\003", 6);
    assert_int_equal(p.quits, 0);
    assert_int_equal(p.failures, 0);
    assert_int_equal(read(out[0], got, sizeof(got)), 2);
    assert_string_equal(got, "ok");
    assert_int_equal(fcntl(out[1], F_GETFL) & O_NONBLOCK, 0); /* the shell's file is untouched */
    close(in[0]);
    close(out[0]);
    close(out[1]);
}

static void keys_of_a_terminal(void **state)
{
    struct peer p = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct console *c;
    int master, slave, err;
    struct termios before, during, after, restored;
    char got[512] = "";
    assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
    tcgetattr(slave, &before);
    take_stdio(slave, slave);
    err = console_create(&c, "stdio", &events, &p, NULL);
    if (err == 0) {
        tcgetattr(slave, &during);
        console_attach(c, &client, &p, &p.lock);
        ssize_t n = write(master, "a\001\001b\001bc\001z\003d\001h\001x", 15);
        (void)n;
        usleep(50000); /* keys work although the guest wants nothing */
        n = read(master, got, sizeof(got) - 1);
        pthread_mutex_lock(&p.lock);
        size_t early = p.count;
        console_want_input(c, 100);
        pthread_mutex_unlock(&p.lock);
        usleep(50000);
        pthread_mutex_lock(&p.lock);
        p.count += early * 1000; /* must be 0 */
        pthread_mutex_unlock(&p.lock);
        console_restore();
        tcgetattr(slave, &restored);
        console_detach(c);
        console_destroy(c, 100, NULL);
        tcgetattr(slave, &after);
    }
    give_back();
    assert_int_equal(err, 0);
    assert_int_equal(p.quits, 1);
    assert_int_equal(p.breaks, 1);
    assert_non_null(strstr(got, "Ctrl-A x"));
    assert_int_equal(p.count, 6);
    assert_memory_equal(p.bytes, "a\001bc\003d", 6);
    assert_int_equal(during.c_lflag & (ICANON | ECHO | ISIG), 0);
    assert_int_equal(restored.c_lflag, before.c_lflag);
    assert_int_equal(after.c_lflag, before.c_lflag);
    assert_int_equal(after.c_iflag, before.c_iflag);
    close(master);
    close(slave);
}

static void full_buffer_refuses_and_calls_back(void **state)
{
    struct peer p = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct console *c;
    int in[2], out[2], err;
    size_t sent = 0, got = 0;
    unsigned rooms = 0, mistakes = 0;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe2(out, O_NONBLOCK), 0);
    take_stdio(in[0], out[1]);
    err = console_create(&c, "stdio", &events, &p, NULL);
    if (err == 0) {
        console_attach(c, &client, &p, &p.lock);
        for (unsigned tries = 0; tries < 100; tries++) {
            while (console_put(c, (uint8_t)(sent % 253)))
                sent++;
            usleep(1000);
        }
        for (unsigned idle = 0; got < sent && idle < 2000;) {
            uint8_t bytes[4096];
            ssize_t n = read(out[0], bytes, sizeof(bytes));
            for (ssize_t i = 0; i < n; i++)
                mistakes += bytes[i] != got++ % 253;
            if (n <= 0) {
                idle++;
                usleep(1000);
            }
        }
        console_detach(c);
        rooms = p.rooms;
        err = console_destroy(c, 1000, NULL);
    }
    give_back();
    assert_int_equal(err, 0);
    assert_true(sent >= CONSOLE_OUTPUT_MAX);
    assert_int_equal(got, sent);
    assert_int_equal(mistakes, 0);
    assert_true(rooms >= 1);
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
}

/* A reader that never reads: the end comes all the same, after the time given. */
static void stuck_output_does_not_hang_the_end(void **state)
{
    struct console *c;
    int in[2], out[2], err;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    take_stdio(in[0], out[1]);
    err = console_create(&c, "stdio", NULL, NULL, NULL);
    while (err == 0 && console_put(c, 'x'))
        ;
    if (err == 0)
        err = console_destroy(c, 50, NULL);
    give_back();
    assert_int_equal(err, 0);
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_specs),
        cmocka_unit_test(none_takes_everything),
        cmocka_unit_test(file_gets_all_at_exit),
        cmocka_unit_test(full_disk_is_reported),
        cmocka_unit_test(reader_goes_away),
        cmocka_unit_test(pipe_passes_unchanged),
        cmocka_unit_test(keys_of_a_terminal),
        cmocka_unit_test(full_buffer_refuses_and_calls_back),
        cmocka_unit_test(stuck_output_does_not_hang_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
