/* SPDX-License-Identifier: MIT */
/*
 * Guest-physical memory; see mem.h. Each block lies in a PROT_NONE reservation of its own with
 * guards on both sides (decision 7), so that an address computed wrongly faults instead of reaching
 * another block. The host address is congruent to the guest's modulo 2 MiB: a huge page of the host
 * then holds exactly one of the guest.
 *
 * The map is read without a lock. The guest controls every address and length that comes in here,
 * and the content of RAM at any time.
 */
#include "mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE      ((uint64_t)2 << 20)
#define PHYSICAL_MAX   ((uint64_t)1 << 52) /* SDM 3A 4.1.4: MAXPHYADDR is at most 52 */
#define PAGES_OF(size) ((size) / MEM_PAGE_SIZE)

void mem_init(struct mem *m)
{
    memset(m, 0, sizeof(*m));
}

static size_t reservation_size(const struct mem_block *b)
{
    return b->size + 2 * (uint64_t)MEM_GUARD + HUGE_PAGE;
}

static void block_fini(struct mem_block *b)
{
    if (b->reservation != NULL)
        munmap(b->reservation, reservation_size(b));
    if (b->flags != NULL)
        munmap((void *)b->flags, PAGES_OF(b->size));
    if (b->fd >= 0)
        close(b->fd);
}

void mem_fini(struct mem *m)
{
    for (unsigned i = 0; i < m->block_count; i++)
        block_fini(&m->blocks[i]);
    mem_init(m);
}

static int check_new_block(const struct mem *m, const char *name, gpa_t base, uint64_t size,
                           struct error *e)
{
    if (size == 0 || size % MEM_PAGE_SIZE != 0 || base.v % MEM_PAGE_SIZE != 0)
        return error_set(e, EINVAL,
                         "memory '%s': base %#" PRIx64 " and size %#" PRIx64
                         " must be multiples of 4096 bytes, the size not 0",
                         name, base.v, size);
    if (base.v >= PHYSICAL_MAX || size > PHYSICAL_MAX - base.v)
        return error_set(e, EINVAL,
                         "memory '%s': %#" PRIx64 " bytes at %#" PRIx64
                         " do not fit below the limit of 52 address bits",
                         name, size, base.v);
    for (unsigned i = 0; i < m->block_count; i++) {
        const struct mem_block *b = &m->blocks[i];
        if (base.v < b->base.v + b->size && b->base.v < base.v + size)
            return error_set(e, EINVAL, "memory '%s' at %#" PRIx64 " overlaps '%s' at %#" PRIx64,
                             name, base.v, b->name, b->base.v);
    }
    if (m->block_count == MEM_BLOCKS_MAX)
        return error_set(e, ENOSPC, "memory '%s': more than %d blocks", name, MEM_BLOCKS_MAX);
    return 0;
}

/* Reserves the window and places b->host in it. */
static int reserve(struct mem_block *b, struct error *e)
{
    void *p = mmap(NULL, reservation_size(b), PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return error_set(e, ENOMEM,
                         "memory '%s': the host gives no address space for %" PRIu64 " MiB: %s",
                         b->name, b->size >> 20, strerror(errno));
    uintptr_t first = (uintptr_t)p + MEM_GUARD;
    b->reservation = p;
    b->host = (uint8_t *)(first + ((b->base.v - first) & (HUGE_PAGE - 1)));
    return 0;
}

static int map_anonymous(struct mem_block *b, struct error *e)
{
    if (mmap(b->host, b->size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        return error_set(e, ENOMEM, "memory '%s': the host gives no %" PRIu64 " MiB: %s", b->name,
                         b->size >> 20, strerror(errno));
    madvise(b->host, b->size, MADV_HUGEPAGE); /* a wish: a host without huge pages refuses it */
    return 0;
}

static int map_memfd(struct mem_block *b, struct error *e)
{
    b->fd = memfd_create(b->name, MFD_CLOEXEC);
    if (b->fd < 0 || ftruncate(b->fd, (off_t)b->size) != 0 ||
        mmap(b->host, b->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
             b->fd, 0) == MAP_FAILED)
        return error_set(e, ENOMEM, "memory '%s': no memfd of %" PRIu64 " MiB: %s", b->name,
                         b->size >> 20, strerror(errno));
    return 0;
}

static int map_flags(struct mem_block *b, bool rom, struct error *e)
{
    void *p = mmap(NULL, PAGES_OF(b->size), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return error_set(e, ENOMEM, "memory '%s': the host gives no page flags: %s", b->name,
                         strerror(errno));
    b->flags = p;
    if (rom)
        memset(p, MEM_PAGE_ROM, PAGES_OF(b->size));
    return 0;
}

int mem_add(struct mem *m, const char *name, gpa_t base, uint64_t size, enum mem_backing backing,
            bool rom, struct error *e)
{
    struct mem_block b = {.name = name, .base = base, .size = size, .fd = -1};
    int err = check_new_block(m, name, base, size, e);
    if (err == 0)
        err = reserve(&b, e);
    if (err == 0)
        err = backing == MEM_MEMFD ? map_memfd(&b, e) : map_anonymous(&b, e);
    if (err == 0)
        err = map_flags(&b, rom, e);
    if (err != 0) {
        block_fini(&b);
        return err;
    }

    unsigned at = m->block_count++;
    for (; at > 0 && m->blocks[at - 1].base.v > base.v; at--)
        m->blocks[at] = m->blocks[at - 1];
    m->blocks[at] = b;
    return 0;
}

int mem_add_listener(struct mem *m, struct mem_listener l)
{
    if (m->listener_count == sizeof(m->listeners) / sizeof(m->listeners[0]))
        return -ENOSPC;
    m->listeners[m->listener_count++] = l;
    return 0;
}

void mem_observe(struct mem *m, struct mem_observer o)
{
    m->observer = o;
}

/* A PC has three to five blocks: comparing one after the other beats any tree. */
static inline const struct mem_block *block_of(const struct mem *m, uint64_t a)
{
    const struct mem_block *end = m->blocks + m->block_count;
    for (const struct mem_block *b = m->blocks; b != end; b++)
        if (a - b->base.v < b->size)
            return b;
    return NULL;
}

uint8_t *mem_page(const struct mem *m, gpa_t a, _Atomic uint8_t **flags)
{
    const struct mem_block *b = block_of(m, a.v);
    if (b == NULL)
        return NULL;
    uint64_t page = (a.v - b->base.v) / MEM_PAGE_SIZE;
    if (flags != NULL)
        *flags = &b->flags[page];
    return b->host + page * MEM_PAGE_SIZE;
}

bool mem_contains(const struct mem *m, gpa_t a, uint64_t n)
{
    if (n > UINT64_MAX - a.v)
        return false;
    for (unsigned i = 0; i < m->block_count && n > 0; i++) {
        const struct mem_block *b = &m->blocks[i];
        if (a.v - b->base.v >= b->size)
            continue;
        uint64_t here = b->size - (a.v - b->base.v);
        if (here >= n)
            return true;
        a.v += here; /* blocks are sorted: the next one, if it is adjacent */
        n -= here;
    }
    return n == 0;
}

/* A device that polls an index next to a vCPU that writes it must see one whole value. */
static void copy(void *to, const void *from, size_t n)
{
    if ((((uintptr_t)to | (uintptr_t)from) & (n - 1)) == 0) {
        switch (n) {
        case 1:
            *(volatile uint8_t *)to = *(const volatile uint8_t *)from;
            return;
        case 2:
            *(volatile uint16_t *)to = *(const volatile uint16_t *)from;
            return;
        case 4:
            *(volatile uint32_t *)to = *(const volatile uint32_t *)from;
            return;
        case 8:
            *(volatile uint64_t *)to = *(const volatile uint64_t *)from;
            return;
        }
    }
    memcpy(to, from, n);
}

int mem_read(const struct mem *m, gpa_t a, void *out, size_t n)
{
    if (!mem_contains(m, a, n))
        return -EFAULT;
    while (n > 0) {
        const struct mem_block *b = block_of(m, a.v);
        uint64_t offset = a.v - b->base.v;
        size_t here = b->size - offset < n ? b->size - offset : n;
        copy(out, b->host + offset, here);
        out = (uint8_t *)out + here;
        a.v += here;
        n -= here;
    }
    return 0;
}

static void tell_listeners(struct mem *m, gpa_t page)
{
    for (unsigned i = 0; i < m->listener_count; i++)
        m->listeners[i].code_written(m->listeners[i].context, page);
}

uint8_t mem_page_dirty(struct mem *m, gpa_t a, _Atomic uint8_t *flags)
{
    uint8_t before = atomic_fetch_or(flags, MEM_PAGE_DIRTY);
    if (!(before & MEM_PAGE_DIRTY) && m->observer.dirtied != NULL)
        m->observer.dirtied(m->observer.context, GPA(a.v & MEM_PAGE_MASK));
    return before;
}

void mem_page_clean(struct mem *m, gpa_t page)
{
    _Atomic uint8_t *flags;
    if (mem_page(m, page, &flags) != NULL)
        atomic_fetch_and(flags, (uint8_t)~MEM_PAGE_DIRTY);
}

void mem_page_written(struct mem *m, gpa_t a, _Atomic uint8_t *flags)
{
    /* Always the locked operation: it orders the data store before the test of CODE, against an
     * engine that sets CODE and then reads the bytes. */
    if (mem_page_dirty(m, a, flags) & MEM_PAGE_CODE)
        tell_listeners(m, GPA(a.v & MEM_PAGE_MASK));
}

/* What mem_write and mem_fill share: by pages, bytes from `bytes` or, when NULL, `fill`. */
static int write_pages(struct mem *m, gpa_t a, const uint8_t *bytes, uint8_t fill, uint64_t n)
{
    gpa_t first = a;
    uint64_t all = n;

    if (!mem_contains(m, a, n))
        return -EFAULT;
    while (n > 0) {
        _Atomic uint8_t *flags;
        uint8_t *host = mem_page(m, a, &flags);
        size_t offset = a.v % MEM_PAGE_SIZE;
        size_t here = MEM_PAGE_SIZE - offset < n ? MEM_PAGE_SIZE - offset : n;
        if (bytes != NULL) {
            copy(host + offset, bytes, here);
            bytes += here;
        } else {
            memset(host + offset, fill, here);
        }
        mem_page_written(m, a, flags);
        a.v += here;
        n -= here;
    }
    if (m->observer.copied != NULL)
        m->observer.copied(m->observer.context, first, all);
    return 0;
}

int mem_write(struct mem *m, gpa_t a, const void *bytes, size_t n)
{
    return write_pages(m, a, bytes, 0, n);
}

int mem_fill(struct mem *m, gpa_t a, uint8_t byte, uint64_t n)
{
    return write_pages(m, a, NULL, byte, n);
}

/* The naturally aligned object at a, or NULL when it is not RAM (or ROM) or not aligned. */
static inline void *object_at(const struct mem *m, gpa_t a, unsigned size, _Atomic uint8_t **flags)
{
    const struct mem_block *b = block_of(m, a.v);
    if (b == NULL || (a.v & (size - 1)) != 0)
        return NULL;
    *flags = &b->flags[(a.v - b->base.v) / MEM_PAGE_SIZE];
    return b->host + (a.v - b->base.v);
}

bool mem_load64(const struct mem *m, gpa_t a, uint64_t *value)
{
    _Atomic uint8_t *flags;
    const _Atomic uint64_t *p = object_at(m, a, 8, &flags);
    if (p == NULL)
        return false;
    *value = atomic_load_explicit(p, memory_order_acquire);
    return true;
}

bool mem_load32(const struct mem *m, gpa_t a, uint32_t *value)
{
    _Atomic uint8_t *flags;
    const _Atomic uint32_t *p = object_at(m, a, 4, &flags);
    if (p == NULL)
        return false;
    *value = atomic_load_explicit(p, memory_order_acquire);
    return true;
}

/* A table in ROM: the write of A or D is dropped like any other, and the walk goes on. */
static bool drop_rom_write(struct mem *m, _Atomic uint8_t *flags)
{
    if (!(atomic_load_explicit(flags, memory_order_relaxed) & MEM_PAGE_ROM))
        return false;
    atomic_fetch_add_explicit(&m->rom_writes, 1, memory_order_relaxed);
    return true;
}

bool mem_cas64(struct mem *m, gpa_t a, uint64_t *expected, uint64_t value)
{
    _Atomic uint8_t *flags;
    _Atomic uint64_t *p = object_at(m, a, 8, &flags);
    if (p == NULL)
        return false;
    if (drop_rom_write(m, flags))
        return true;
    if (!atomic_compare_exchange_strong(p, expected, value))
        return false;
    mem_page_written(m, a, flags);
    return true;
}

bool mem_cas32(struct mem *m, gpa_t a, uint32_t *expected, uint32_t value)
{
    _Atomic uint8_t *flags;
    _Atomic uint32_t *p = object_at(m, a, 4, &flags);
    if (p == NULL)
        return false;
    if (drop_rom_write(m, flags))
        return true;
    if (!atomic_compare_exchange_strong(p, expected, value))
        return false;
    mem_page_written(m, a, flags);
    return true;
}
