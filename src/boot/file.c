/* SPDX-License-Identifier: MIT */
/* Kernel and initrd files, read whole; see boot.h. Wiring thread. Whoever made the file controls
 * its bytes and may change it while it is read. */
#include "boot/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a file is when it is not a regular one. */
static const char *kind(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return NULL;
    case S_IFDIR:
        return "a directory";
    case S_IFIFO:
        return "a pipe";
    case S_IFSOCK:
        return "a socket";
    default:
        return "a device";
    }
}

static int check_kind(const struct stat *st, const char *path, const char *option, struct error *e)
{
    const char *is = kind(st->st_mode);
    if (is != NULL)
        return error_set(e, S_ISDIR(st->st_mode) ? EISDIR : EINVAL,
                         "%s is %s: give a regular file with %s", path, is, option);
    return 0;
}

/* The descriptor, or -errno. Opening does not block, nor wake a device. */
static int open_regular(const char *path, const char *option, uint64_t limit, struct error *e)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return error_set(e, errno, "cannot open %s: %s; check %s", path, strerror(errno), option);
    int r = check_kind(&st, path, option, e);
    if (r != 0)
        return r;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return error_set(e, errno, "cannot open %s: %s; check %s", path, strerror(errno), option);
    if (fstat(fd, &st) != 0)
        r = error_set(e, errno, "cannot look at %s: %s", path, strerror(errno));
    else
        r = check_kind(&st, path, option, e);
    if (r == 0 && st.st_size > 0 && (uint64_t)st.st_size > limit)
        r = error_set(e, EFBIG, "%s has %lld MiB, more than the %llu MiB that %s can take", path,
                      (long long)st.st_size >> 20, (unsigned long long)limit >> 20, option);
    if (r != 0) {
        close(fd);
        return r;
    }
    return fd;
}

/* Reads to the end of the file, whatever its size was said to be. One byte more than the limit is
 * asked for, so that a longer file shows. */
static int read_all(int fd, struct boot_bytes *b, const char *option, uint64_t limit,
                    struct error *e)
{
    size_t capacity = 0;
    for (;;) {
        if (b->size == capacity) {
            capacity = capacity == 0 ? 1u << 20 : capacity * 2;
            if (capacity > limit + 1)
                capacity = (size_t)limit + 1;
            uint8_t *data = realloc(b->data, capacity);
            if (data == NULL)
                return error_set(e, ENOMEM, "no memory to read %s", b->path);
            b->data = data;
        }
        ssize_t n = read(fd, b->data + b->size, capacity - b->size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(e, errno, "cannot read %s: %s", b->path, strerror(errno));
        if (n == 0)
            break;
        b->size += (size_t)n;
        if (b->size > limit)
            return error_set(e, EFBIG, "%s has more than the %llu MiB that %s can take", b->path,
                             (unsigned long long)limit >> 20, option);
    }
    if (b->size == 0)
        return error_set(e, EINVAL, "%s is empty: give another file with %s", b->path, option);
    return 0;
}

static void bytes_free(struct boot_bytes *b)
{
    free(b->path);
    free(b->data);
    *b = (struct boot_bytes){0};
}

static int bytes_read(struct boot_bytes *b, const char *path, const char *option, uint64_t limit,
                      struct error *e)
{
    int fd = open_regular(path, option, limit, e);
    if (fd < 0)
        return fd;
    b->path = strdup(path);
    int r = b->path == NULL ? error_set(e, ENOMEM, "no memory to read %s", path)
                            : read_all(fd, b, option, limit, e);
    close(fd);
    if (r != 0)
        bytes_free(b);
    return r;
}

int boot_files_read(struct boot_files *f, const struct boot_config *c, struct error *e)
{
    int r = 0;

    *f = (struct boot_files){0};
    if (c->firmware_path == NULL && c->kernel_path == NULL)
        return error_set(e, EINVAL, "there is no kernel: give one with --kernel");
    if (c->firmware_path != NULL)
        r = bytes_read(&f->firmware, c->firmware_path, "--firmware", BOOT_FIRMWARE_MAX, e);
    if (r == 0 && c->firmware_path != NULL)
        r = boot_firmware_check(&f->firmware, e);
    if (r == 0 && c->kernel_path != NULL)
        r = bytes_read(&f->kernel, c->kernel_path, "--kernel", BOOT_KERNEL_MAX, e);
    if (r == 0 && c->initrd_path != NULL)
        r = bytes_read(&f->initrd, c->initrd_path, "--initrd", c->ram_size, e);
    if (r != 0)
        boot_files_free(f);
    return r;
}

void boot_files_free(struct boot_files *f)
{
    bytes_free(&f->firmware);
    bytes_free(&f->kernel);
    bytes_free(&f->initrd);
}
