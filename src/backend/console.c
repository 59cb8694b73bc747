/* SPDX-License-Identifier: MIT */
/*
 * Character backend; see console.h for threads and rules. The guest controls what is written and
 * when it reads; the host's user controls the input.
 *
 * One I/O thread waits for: the event (there is output, input is wanted, stop), stdin while it may
 * be read, the output file while bytes wait. The descriptors of stdio are shared with the shell, so
 * they are not made non-blocking: a terminal or pipe is opened again through /proc for a file
 * description of our own. Where that fails, writes after POLLOUT are small enough for a pipe.
 */
#include "backend/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backend/terminal.h"

#define KEY_ESCAPE 0x01 /* Ctrl-A */
#define GATHER_MS  1    /* output waits this long for more, so that printk is not a write a byte */
#define WRITE_MAX  4096 /* PIPE_BUF: does not block after POLLOUT */
#define READ_MAX   256

struct console {
    const struct console_events *events;
    void *events_context;
    char name[256]; /* for sentences */
    int in, out;    /* -1: none */
    bool owns_out, is_terminal, is_stdio;
    int event;
    bool threaded;
    pthread_t thread;

    pthread_mutex_t lock; /* guards what follows */
    const struct console_client *client;
    void *client_context;
    pthread_mutex_t *client_lock;
    uint8_t output[CONSOLE_OUTPUT_MAX]; /* ring */
    size_t output_first, output_count;
    bool refused; /* console_put said no since the last call of room */
    size_t wanted;
    bool stop;
    unsigned flush_ms;
    int failure; /* errno */

    /* The I/O thread's own. */
    uint8_t typed[CONSOLE_TYPED_MAX];
    size_t typed_count;
    bool escape;
};

/* stdin and stdout belong to the process: one console at a time may have them. */
static _Atomic bool stdio_taken;

static void wake(struct console *c)
{
    uint64_t one = 1;
    ssize_t n = write(c->event, &one, sizeof(one)); /* full means that it is awake already */
    (void)n;
}

void console_restore(void)
{
    terminal_restore();
}

static bool append_locked(struct console *c, uint8_t byte)
{
    if (c->output_count == CONSOLE_OUTPUT_MAX)
        return false;
    c->output[(c->output_first + c->output_count) % CONSOLE_OUTPUT_MAX] = byte;
    c->output_count++;
    return true;
}

bool console_put(struct console *c, uint8_t byte)
{
    if (c->out < 0)
        return true;
    pthread_mutex_lock(&c->lock);
    bool ok = c->failure != 0 || append_locked(c, byte);
    bool first = c->output_count == 1;
    if (!ok)
        c->refused = true;
    pthread_mutex_unlock(&c->lock);
    if (first)
        wake(c);
    return ok;
}

void console_want_input(struct console *c, size_t n)
{
    pthread_mutex_lock(&c->lock);
    bool more = n > 0 && c->wanted == 0;
    c->wanted = n;
    pthread_mutex_unlock(&c->lock);
    if (more && c->threaded)
        wake(c);
}

void console_attach(struct console *c, const struct console_client *client, void *context,
                    pthread_mutex_t *lock)
{
    pthread_mutex_lock(&c->lock);
    c->client = client;
    c->client_context = context;
    c->client_lock = lock;
    pthread_mutex_unlock(&c->lock);
}

/* The client, with its lock held; NULL when there is none. The client cannot go away meanwhile:
 * console_detach takes its lock before it clears the pointer. */
static const struct console_client *client_get(struct console *c)
{
    for (;;) {
        pthread_mutex_lock(&c->lock);
        if (c->client == NULL) {
            pthread_mutex_unlock(&c->lock);
            return NULL;
        }
        /* The order is client, console: here only a try, so that nobody waits for the other. */
        if (pthread_mutex_trylock(c->client_lock) == 0) {
            pthread_mutex_unlock(&c->lock);
            return c->client;
        }
        pthread_mutex_unlock(&c->lock);
        sched_yield();
    }
}

void console_detach(struct console *c)
{
    pthread_mutex_t *lock = c->client_lock;
    if (lock == NULL)
        return;
    pthread_mutex_lock(lock);
    pthread_mutex_lock(&c->lock);
    c->client = NULL;
    c->client_lock = NULL;
    c->wanted = 0;
    pthread_mutex_unlock(&c->lock);
    pthread_mutex_unlock(lock);
}

static void fail(struct console *c, int code)
{
    char sentence[ERROR_TEXT_MAX];

    pthread_mutex_lock(&c->lock);
    bool first = c->failure == 0;
    if (first)
        c->failure = code;
    c->output_count = 0;
    pthread_mutex_unlock(&c->lock);
    if (first && c->events != NULL && c->events->failed != NULL) {
        snprintf(sentence, sizeof(sentence), "console: cannot write to %s: %s", c->name,
                 strerror(code));
        c->events->failed(c->events_context, sentence);
    }
}

/* Writes one piece; true when something was written or thrown away. */
static bool write_some(struct console *c)
{
    uint8_t piece[WRITE_MAX];

    pthread_mutex_lock(&c->lock);
    size_t n = c->output_count < sizeof(piece) ? c->output_count : sizeof(piece);
    for (size_t i = 0; i < n; i++)
        piece[i] = c->output[(c->output_first + i) % CONSOLE_OUTPUT_MAX];
    pthread_mutex_unlock(&c->lock);
    if (n == 0)
        return false;
    ssize_t done = write(c->out, piece, n);
    if (done < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return false;
        fail(c, errno);
        done = 0;
    }
    pthread_mutex_lock(&c->lock);
    if (c->output_count > 0) { /* not thrown away by fail */
        c->output_first = (c->output_first + (size_t)done) % CONSOLE_OUTPUT_MAX;
        c->output_count -= (size_t)done;
    }
    bool room = c->refused;
    c->refused = false;
    pthread_mutex_unlock(&c->lock);
    if (room) {
        const struct console_client *client = client_get(c);
        if (client != NULL) {
            if (client->room != NULL)
                client->room(c->client_context);
            pthread_mutex_unlock(c->client_lock);
        }
    }
    return true;
}

static void help(struct console *c)
{
    static const char text[] = "\r\n"
                               "Ctrl-A x       quit doppel\r\n"
                               "Ctrl-A b       send a break\r\n"
                               "Ctrl-A h       this help\r\n"
                               "Ctrl-A Ctrl-A  send Ctrl-A\r\n";
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i + 1 < sizeof(text); i++)
        append_locked(c, (uint8_t)text[i]);
    pthread_mutex_unlock(&c->lock);
}

/* The key after Ctrl-A; true when it is a byte for the guest. */
static bool escape_key(struct console *c, uint8_t key)
{
    const struct console_client *client;

    switch (key) {
    case KEY_ESCAPE:
        return true;
    case 'x':
        if (c->events != NULL && c->events->quit != NULL)
            c->events->quit(c->events_context);
        return false;
    case 'b':
        client = client_get(c);
        if (client == NULL)
            return false;
        if (client->receive_break != NULL)
            client->receive_break(c->client_context);
        pthread_mutex_unlock(c->client_lock);
        return false;
    case 'h':
    case '?':
        help(c);
        return false;
    default:
        return false;
    }
}

static void take_input(struct console *c, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (c->is_terminal) {
            if (!c->escape && bytes[i] == KEY_ESCAPE) {
                c->escape = true;
                continue;
            }
            bool wanted = !c->escape || escape_key(c, bytes[i]);
            c->escape = false;
            if (!wanted)
                continue;
        }
        if (c->typed_count < CONSOLE_TYPED_MAX)
            c->typed[c->typed_count++] = bytes[i];
    }
}

static size_t wanted_now(struct console *c)
{
    pthread_mutex_lock(&c->lock);
    size_t n = c->wanted;
    pthread_mutex_unlock(&c->lock);
    return n;
}

static void deliver(struct console *c)
{
    while (c->typed_count > 0 && wanted_now(c) > 0) {
        const struct console_client *client = client_get(c);
        size_t taken = 0;
        if (client == NULL)
            return;
        size_t n = wanted_now(c); /* changes only under the client's lock */
        if (n > c->typed_count)
            n = c->typed_count;
        if (n > 0 && client->receive != NULL)
            taken = client->receive(c->client_context, c->typed, n);
        pthread_mutex_unlock(c->client_lock);
        if (taken == 0)
            return;
        memmove(c->typed, c->typed + taken, c->typed_count - taken);
        c->typed_count -= taken;
    }
}

static void read_input(struct console *c)
{
    uint8_t bytes[READ_MAX];
    size_t most = sizeof(bytes);

    if (!c->is_terminal) {
        most = wanted_now(c);
        if (most > sizeof(bytes))
            most = sizeof(bytes);
        if (most == 0)
            return;
    }
    ssize_t n = read(c->in, bytes, most);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        c->in = -1; /* end of input, or a terminal that hung up: the guest goes on */
    else
        take_input(c, bytes, (size_t)n);
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* After stop: writes what is left, as long as there is progress. */
static void flush_output(struct console *c)
{
    uint64_t limit = now_ms() + c->flush_ms;
    struct pollfd out = {.fd = c->out, .events = POLLOUT};

    for (;;) {
        pthread_mutex_lock(&c->lock);
        bool left = c->output_count > 0;
        pthread_mutex_unlock(&c->lock);
        uint64_t now = now_ms();
        if (!left || now >= limit)
            return;
        if (poll(&out, 1, (int)(limit - now)) > 0 && write_some(c))
            limit = now_ms() + c->flush_ms;
    }
}

static void *io_thread(void *context)
{
    struct console *c = context;
    enum { EVENT, IN, OUT, COUNT };
    bool idle = true; /* nothing was waiting to be written */

    for (;;) {
        pthread_mutex_lock(&c->lock);
        bool stop = c->stop, output = c->output_count > 0;
        bool input = c->in >= 0 && (c->is_terminal || (c->wanted > 0 && c->typed_count == 0));
        pthread_mutex_unlock(&c->lock);
        if (stop)
            break;
        if (output && idle)
            poll(NULL, 0, GATHER_MS);
        idle = !output;
        struct pollfd fds[COUNT] = {
            [EVENT] = {.fd = c->event, .events = POLLIN},
            [IN] = {.fd = input ? c->in : -1, .events = POLLIN},
            [OUT] = {.fd = output ? c->out : -1, .events = POLLOUT},
        };
        if (poll(fds, COUNT, -1) < 0)
            continue;
        if (fds[EVENT].revents != 0) {
            uint64_t count;
            ssize_t n = read(c->event, &count, sizeof(count));
            (void)n;
        }
        if (fds[IN].revents & POLLNVAL)
            c->in = -1;
        else if (fds[IN].revents != 0)
            read_input(c);
        deliver(c);
        if (fds[OUT].revents != 0)
            write_some(c);
    }
    flush_output(c);
    return NULL;
}

/* A file description of our own for a terminal or pipe, so that it can be non-blocking. */
static int reopen(int fd)
{
    struct stat s;
    char path[32];

    if (fstat(fd, &s) != 0)
        return -1;
    if (!S_ISCHR(s.st_mode) && !S_ISFIFO(s.st_mode))
        return -1;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static int open_stdio(struct console *c, struct error *e)
{
    if (atomic_exchange(&stdio_taken, true))
        return error_set(e, EBUSY, "console: stdio is in use by another console");
    c->is_stdio = true;
    snprintf(c->name, sizeof(c->name), "standard output");
    c->in = STDIN_FILENO;
    c->is_terminal = isatty(STDIN_FILENO);
    c->out = reopen(STDOUT_FILENO);
    c->owns_out = c->out >= 0;
    if (c->out < 0)
        c->out = STDOUT_FILENO;
    return c->is_terminal ? terminal_raw(STDIN_FILENO, e) : 0;
}

static int open_file(struct console *c, const char *path, struct error *e)
{
    if (path[0] == 0)
        return error_set(e, EINVAL, "console: 'file:' needs a path");
    snprintf(c->name, sizeof(c->name), "'%s'", path);
    c->out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    c->owns_out = true;
    if (c->out < 0)
        return error_set(e, errno, "console: cannot write to '%s': %s", path, strerror(errno));
    return 0;
}

static int start_thread(struct console *c, struct error *e)
{
    sigset_t all, old;

    c->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (c->event < 0)
        return error_set(e, errno, "console: cannot make an event: %s", strerror(errno));
    sigfillset(&all); /* signals are the machine's; EPIPE comes as an error */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int code = pthread_create(&c->thread, NULL, io_thread, c);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (code != 0)
        return error_set(e, code, "console: cannot start its thread: %s", strerror(code));
    c->threaded = true;
    return 0;
}

int console_create(struct console **out, const char *spec, const struct console_events *events,
                   void *context, struct error *e)
{
    struct console *c = calloc(1, sizeof(*c));
    int err = 0;

    if (c == NULL)
        return error_set(e, ENOMEM, "no memory for the console");
    pthread_mutex_init(&c->lock, NULL);
    c->events = events;
    c->events_context = context;
    c->in = c->out = c->event = -1;
    if (strcmp(spec, "stdio") == 0)
        err = open_stdio(c, e);
    else if (strncmp(spec, "file:", 5) == 0)
        err = open_file(c, spec + 5, e);
    else if (strcmp(spec, "none") != 0)
        err = error_set(e, EINVAL, "unknown console '%s'; choose stdio, file:PATH or none", spec);
    if (err == 0 && c->out >= 0)
        err = start_thread(c, e);
    if (err != 0) {
        console_destroy(c, 0, NULL);
        return err;
    }
    *out = c;
    return 0;
}

int console_destroy(struct console *c, unsigned flush_ms, struct error *e)
{
    if (c == NULL)
        return 0;
    if (c->threaded) {
        pthread_mutex_lock(&c->lock);
        c->stop = true;
        c->flush_ms = flush_ms;
        pthread_mutex_unlock(&c->lock);
        wake(c);
        pthread_join(c->thread, NULL);
    }
    if (c->owns_out && c->out >= 0 && close(c->out) != 0 && c->failure == 0)
        c->failure = errno;
    if (c->event >= 0)
        close(c->event);
    if (c->is_stdio) {
        terminal_restore();
        atomic_store(&stdio_taken, false);
    }
    int code = c->failure;
    if (code != 0)
        error_set(e, code, "console: cannot write to %s: %s", c->name, strerror(code));
    pthread_mutex_destroy(&c->lock);
    free(c);
    return -code;
}
