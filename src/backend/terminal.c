/* SPDX-License-Identifier: MIT */
/* Raw terminal and back; see terminal.h. tcsetattr is async-signal-safe (POSIX 2.4.3). */
#include "backend/terminal.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>

static struct termios saved;
static int saved_fd;
static _Atomic bool is_raw;
static pthread_once_t at_exit_once = PTHREAD_ONCE_INIT;

static void restore_at_exit(void)
{
    atexit(terminal_restore);
}

int terminal_raw(int fd, struct error *e)
{
    struct termios raw;

    if (tcgetattr(fd, &saved) != 0)
        return error_set(e, errno, "cannot read the terminal's settings: %s", strerror(errno));
    raw = saved;
    raw.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    raw.c_oflag |= OPOST;
    raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN | ISIG);
    raw.c_cflag &= ~(tcflag_t)(CSIZE | PARENB);
    raw.c_cflag |= CS8;
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    pthread_once(&at_exit_once, restore_at_exit);
    saved_fd = fd;
    atomic_store(&is_raw, true); /* before the change: a signal between must restore */
    if (tcsetattr(fd, TCSANOW, &raw) != 0) {
        int code = errno;
        atomic_store(&is_raw, false);
        return error_set(e, code, "cannot make the terminal raw: %s", strerror(code));
    }
    return 0;
}

void terminal_restore(void)
{
    int code = errno;
    if (atomic_exchange(&is_raw, false))
        tcsetattr(saved_fd, TCSANOW, &saved);
    errno = code;
}
