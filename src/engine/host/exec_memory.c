/* SPDX-License-Identifier: MIT */
/* Dual-mapped executable memory; see exec_memory.h. The guest controls what is asked for, within
 * the bound, and never the bytes of the mapping itself. */
#include "engine/host/exec_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TRAP 0xcc /* INT3: unused memory that is run by mistake stops */
#define HUGE ((size_t)2 << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* Address space of `size` at a multiple of 2 MiB, so that huge pages fit; NULL: none. */
static uint8_t *reserve(size_t size)
{
    size_t all = size + HUGE;
    uint8_t *p = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uint8_t *aligned = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    if (aligned > p)
        munmap(p, (size_t)(aligned - p));
    if (aligned + size < p + all)
        munmap(aligned + size, (size_t)(p + all - (aligned + size)));
    return aligned;
}

/* Maps the file at such a place; NULL with errno. */
static uint8_t *map(int fd, size_t size, int protection)
{
    uint8_t *at = reserve(size);
    if (at == NULL)
        return NULL;
    if (mmap(at, size, protection, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED)
        return at;
    int err = errno;
    munmap(at, size);
    errno = err;
    return NULL;
}

int exec_memory_create(struct exec_memory *m, size_t size, struct error *e)
{
    memset(m, 0, sizeof *m);
    int fd = memfd_create("doppel-code", MFD_CLOEXEC);
    if (fd < 0)
        return error_set(e, errno, "executable memory: memfd_create: %s", strerror(errno));
    int code = 0;
    if (ftruncate(fd, (off_t)size) < 0) {
        code = errno;
    } else {
        uint8_t *write = map(fd, size, PROT_READ | PROT_WRITE);
        code = write == NULL ? errno : 0;
        uint8_t *exec = code ? NULL : map(fd, size, PROT_READ | PROT_EXEC);
        if (!code && exec == NULL) {
            code = errno;
            munmap(write, size);
        }
        if (!code)
            *m = (struct exec_memory){.write = write, .exec = exec, .size = size};
    }
    close(fd);
    if (code)
        return error_set(e, code,
                         "executable memory: cannot map %zu bytes: %s; the host must allow a memfd "
                         "to be mapped executable",
                         size, strerror(code));
    return 0;
}

void exec_memory_destroy(struct exec_memory *m)
{
    if (m->size) {
        munmap(m->write, m->size);
        munmap(m->exec, m->size);
    }
    memset(m, 0, sizeof *m);
}

uint8_t *exec_memory_alloc(struct exec_memory *m, size_t n)
{
    if (n > m->size - m->used)
        return NULL;
    uint8_t *at = m->write + m->used;
    size_t rounded = (n + 15) & ~(size_t)15;
    if (rounded > m->size - m->used)
        rounded = m->size - m->used;
    memset(at, TRAP, rounded);
    m->used += rounded;
    return at;
}

uint8_t *exec_memory_huge(struct exec_memory *m, uint8_t *from)
{
    uint8_t *end = m->write + m->size;
    if ((size_t)(end - from) < HUGE)
        return end;
    *(volatile uint8_t *)from = *from; /* there must be a page */
    if (madvise(from, HUGE, MADV_COLLAPSE) != 0 ||
        madvise(m->exec + (from - m->write), HUGE, MADV_COLLAPSE) != 0)
        return end; /* the host has none, or no such call */
    return from + HUGE;
}

const uint8_t *exec_memory_code(const struct exec_memory *m, const uint8_t *writable)
{
    return m->exec + (writable - m->write);
}

void exec_memory_clear(struct exec_memory *m)
{
    memset(m->write, TRAP, m->used);
    m->used = 0;
}
