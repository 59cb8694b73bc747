/* SPDX-License-Identifier: MIT */
/* Dual-mapped executable memory; see exec_memory.h. The guest controls what is asked for, within
 * the bound, and never the bytes of the mapping itself. */
#include "engine/host/exec_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TRAP 0xcc /* INT3: unused memory that is run by mistake stops */

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
        void *write = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        code = write == MAP_FAILED ? errno : 0;
        void *exec = code ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
        if (!code && exec == MAP_FAILED) {
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

const uint8_t *exec_memory_code(const struct exec_memory *m, const uint8_t *writable)
{
    return m->exec + (writable - m->write);
}

void exec_memory_clear(struct exec_memory *m)
{
    memset(m->write, TRAP, m->used);
    m->used = 0;
}
