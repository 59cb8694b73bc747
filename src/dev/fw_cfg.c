/* SPDX-License-Identifier: MIT */
/*
 * Firmware configuration device (QEMU docs/specs/fw_cfg). Thread rule: register access under the
 * device's lock, taken by the bus; items are added before the vCPUs run. The guest controls the
 * selector and, in its memory, the whole DMA request, which is copied in once before it is looked
 * at.
 *
 * Every item is read-only: a DMA write ends with the error bit, as for a read-only item of QEMU.
 * What is read past the end of an item is zero.
 */
#include "dev/fw_cfg.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ID_TRADITIONAL 0x01
#define ID_DMA         0x02
#define IRQ0_OVERRIDE  (FW_CFG_FILES + FW_CFG_FILES_MAX) /* its place among the items */
#define ITEMS          (IRQ0_OVERRIDE + 1)
#define NO_ITEM        0xffff

static const uint8_t dma_signature[FW_CFG_DMA_SIZE] = "QEMU CFG";

struct item {
    uint8_t *bytes; /* owned */
    uint32_t size;
};

struct file { /* in the directory, as the guest sees it */
    uint32_t size, selector_and_reserved;
    char name[FW_CFG_NAME_MAX];
};

struct request { /* struct FWCfgDmaAccess, big-endian */
    uint32_t control, length;
    uint64_t address;
};

struct fw_cfg {
    pthread_mutex_t lock;
    struct mem *mem;
    struct item items[ITEMS];
    unsigned files;

    uint16_t selector;
    uint32_t offset;
    uint32_t dma_high;
};

static const struct item *selected(const struct fw_cfg *f)
{
    static const struct item none;
    if (f->selector == FW_CFG_IRQ0_OVERRIDE)
        return &f->items[IRQ0_OVERRIDE];
    return f->selector < IRQ0_OVERRIDE ? &f->items[f->selector] : &none;
}

static void select_item(struct fw_cfg *f, uint16_t selector)
{
    f->selector = selector;
    f->offset = 0;
}

static uint32_t left(const struct fw_cfg *f)
{
    const struct item *i = selected(f);
    return f->offset < i->size ? i->size - f->offset : 0;
}

/* Moves on by n, but never beyond the end: there is nothing to see there. */
static void advance(struct fw_cfg *f, uint32_t n)
{
    f->offset += n < left(f) ? n : left(f);
}

static uint64_t port_read(void *device, uint64_t offset, unsigned size)
{
    struct fw_cfg *f = device;

    if (size != 1 || offset != 1)
        return UINT64_MAX; /* the selector is for writing */
    uint8_t value = left(f) > 0 ? selected(f)->bytes[f->offset] : 0;
    advance(f, 1);
    return value;
}

static void port_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    if (offset == 0 && size == 2)
        select_item(device, (uint16_t)value);
}

/* Copies length bytes to guest memory, zeros past the item's end. false when any is not RAM. */
static bool dma_read(struct fw_cfg *f, uint64_t address, uint32_t length)
{
    uint32_t n = length < left(f) ? length : left(f);

    if (length == 0)
        return true;
    if (address + length < address || !mem_contains(f->mem, GPA(address), length))
        return false;
    bool ok = n == 0 || mem_write(f->mem, GPA(address), selected(f)->bytes + f->offset, n) == 0;
    return ok && (n == length || mem_fill(f->mem, GPA(address + n), 0, length - n) == 0);
}

/* The order of the specification: select first, then one of read, write, skip. */
static void dma_run(struct fw_cfg *f, uint64_t guest_address)
{
    struct request q;

    if (mem_read(f->mem, GPA(guest_address), &q, sizeof(q)) != 0)
        return; /* no place to put an error either */
    uint32_t control = be32toh(q.control), length = be32toh(q.length);
    bool ok = true;
    if (control & FW_CFG_DMA_SELECT)
        select_item(f, (uint16_t)(control >> 16));
    if (control & FW_CFG_DMA_READ)
        ok = dma_read(f, be64toh(q.address), length);
    else if (control & FW_CFG_DMA_WRITE)
        ok = false;
    if (ok && (control & (FW_CFG_DMA_READ | FW_CFG_DMA_SKIP)))
        advance(f, length);
    uint32_t done = htobe32(ok ? 0 : FW_CFG_DMA_ERROR);
    if (mem_write(f->mem, GPA(guest_address), &done, sizeof(done)) != 0)
        return; /* it was read above, so this is RAM; nothing else to do */
}

static uint64_t dma_port_read(void *device, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, dma_signature + offset, size);
    return value;
}

static void dma_port_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct fw_cfg *f = device;

    if (size != 4 || (offset & 3) != 0)
        return;
    uint32_t half = be32toh((uint32_t)value);
    if (offset == 0) {
        f->dma_high = half;
        return;
    }
    uint64_t address = (uint64_t)f->dma_high << 32 | half;
    f->dma_high = 0;
    dma_run(f, address);
}

static const struct bus_ops port_ops = {
    .read = port_read,
    .write = port_write,
    .max_size = 2,
};

static const struct bus_ops dma_ops = {
    .read = dma_port_read,
    .write = dma_port_write,
    .max_size = 4,
};

static int set_item(struct fw_cfg *f, unsigned selector, const void *bytes, size_t n)
{
    uint8_t *copy = malloc(n != 0 ? n : 1);
    if (copy == NULL)
        return -ENOMEM;
    memcpy(copy, bytes, n);
    free(f->items[selector].bytes);
    f->items[selector] = (struct item){copy, (uint32_t)n};
    return 0;
}

static int add_fixed_items(struct fw_cfg *f, uint64_t ram_size, unsigned cpus)
{
    uint32_t id = htole32(ID_TRADITIONAL | ID_DMA), count = 0;
    uint64_t ram = htole64(ram_size);
    uint16_t processors = htole16((uint16_t)cpus);
    uint8_t irq0_override = 1;
    int err = set_item(f, FW_CFG_SIGNATURE, "QEMU", 4);
    if (err == 0)
        err = set_item(f, FW_CFG_ID, &id, sizeof(id));
    if (err == 0)
        err = set_item(f, FW_CFG_RAM_SIZE, &ram, sizeof(ram));
    if (err == 0)
        err = set_item(f, FW_CFG_CPUS, &processors, sizeof(processors));
    if (err == 0)
        err = set_item(f, FW_CFG_MAX_CPUS, &processors, sizeof(processors));
    if (err == 0)
        err = set_item(f, FW_CFG_DIRECTORY, &count, sizeof(count));
    if (err == 0)
        err = set_item(f, IRQ0_OVERRIDE, &irq0_override, sizeof(irq0_override));
    return err;
}

int fw_cfg_create(struct fw_cfg **out, struct bus *bus, struct mem *mem, uint64_t ram_size,
                  unsigned cpus, struct error *e)
{
    struct fw_cfg *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return error_set(e, ENOMEM, "no memory for fw_cfg");
    pthread_mutex_init(&f->lock, NULL);
    f->mem = mem;
    f->selector = NO_ITEM;
    int err = add_fixed_items(f, ram_size, cpus);
    if (err != 0)
        error_set(e, -err, "no memory for fw_cfg");
    else
        err = bus_add(bus, BUS_PIO, "fw_cfg", FW_CFG_SELECTOR, FW_CFG_PORTS, &port_ops, f, &f->lock,
                      e);
    if (err == 0)
        err = bus_add(bus, BUS_PIO, "fw_cfg dma", FW_CFG_DMA, FW_CFG_DMA_SIZE, &dma_ops, f,
                      &f->lock, e);
    if (err != 0) {
        fw_cfg_destroy(f);
        return err;
    }
    *out = f;
    return 0;
}

void fw_cfg_destroy(struct fw_cfg *f)
{
    if (f == NULL)
        return;
    for (unsigned i = 0; i < ITEMS; i++)
        free(f->items[i].bytes);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

void fw_cfg_reset(struct fw_cfg *f)
{
    pthread_mutex_lock(&f->lock);
    select_item(f, NO_ITEM);
    f->dma_high = 0;
    pthread_mutex_unlock(&f->lock);
}

int fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *bytes, size_t n,
                    struct error *e)
{
    const struct item *old = &f->items[FW_CFG_DIRECTORY];
    size_t name_size = strlen(name);
    struct {
        uint32_t count;
        struct file files[FW_CFG_FILES_MAX];
    } directory = {0};

    if (name_size == 0 || name_size >= FW_CFG_NAME_MAX || n > UINT32_MAX)
        return error_set(e, EINVAL, "fw_cfg: the name or size of file '%s' is not possible", name);
    if (f->files == FW_CFG_FILES_MAX)
        return error_set(e, ENOSPC, "fw_cfg: no room for file '%s'", name);
    memcpy(&directory, old->bytes, old->size);
    for (unsigned i = 0; i < f->files; i++) {
        if (strcmp(directory.files[i].name, name) == 0)
            return error_set(e, EINVAL, "fw_cfg: there is a file '%s' already", name);
    }
    struct file *file = &directory.files[f->files];
    file->size = htobe32((uint32_t)n);
    file->selector_and_reserved = htobe32((FW_CFG_FILES + f->files) << 16);
    memcpy(file->name, name, name_size);
    directory.count = htobe32(f->files + 1);
    size_t size = sizeof(directory.count) + (f->files + 1) * sizeof(*file);
    if (set_item(f, FW_CFG_FILES + f->files, bytes, n) != 0 ||
        set_item(f, FW_CFG_DIRECTORY, &directory, size) != 0)
        return error_set(e, ENOMEM, "no memory for fw_cfg file '%s'", name);
    f->files++;
    return 0;
}

static int state_check(const void *object, struct error *e)
{
    const struct fw_cfg *f = object;
    if (f->offset > selected(f)->size)
        return error_set(e, EINVAL, "saved state: fw_cfg: offset lies beyond the selected item");
    return 0;
}

static const struct field fields[] = {
    FIELD(struct fw_cfg, selector),
    FIELD(struct fw_cfg, offset),
    FIELD(struct fw_cfg, dma_high),
    FIELD_END,
};

const struct field_table fw_cfg_state = {
    .name = "fw_cfg",
    .version = 1,
    .size = sizeof(struct fw_cfg),
    .fields = fields,
    .check = state_check,
};
