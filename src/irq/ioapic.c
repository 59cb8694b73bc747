/* SPDX-License-Identifier: MIT */
/*
 * The I/O APIC (82093AA data sheet; ICH9 data sheet 13.5 for the EOI register): 24 inputs, version
 * 0x20, so that a guest may end a level interrupt with its EOI register.
 *
 * Lines are levels of "asserted": the polarity bit is kept and not looked at, since no wire of this
 * machine has a polarity of its own. An edge on a masked input is lost, as the data sheet says.
 *
 * Threads: irq->lock is held (bus dispatch takes it). The guest controls every register.
 */
#include "irq/internal.h"

#include <errno.h>

#define IOAPIC_BASE    0xfec00000u
#define IOAPIC_SIZE    0x1000u
#define IOAPIC_VERSION (0x20u | (IRQ_LINES - 1) << 16)

#define ENTRY_VECTOR(e)  ((uint8_t)(e))
#define ENTRY_MODE(e)    ((uint8_t)((e) >> 8 & 7))
#define ENTRY_LOGICAL    (1ull << 11)
#define ENTRY_STATUS     (1ull << 12)
#define ENTRY_REMOTE_IRR (1ull << 14)
#define ENTRY_LEVEL      (1ull << 15)
#define ENTRY_MASKED     (1ull << 16)
#define ENTRY_READ_ONLY  (ENTRY_STATUS | ENTRY_REMOTE_IRR)
#define ENTRY_WRITABLE   (0xff0000000001ffffull & ~ENTRY_READ_ONLY)
#define ENTRY_DEST(e)    ((uint32_t)((e) >> 56))

static struct apic_message message_of(uint64_t entry)
{
    struct apic_message m = {
        .destination = ENTRY_DEST(entry),
        .logical = entry & ENTRY_LOGICAL,
        .lowest = ENTRY_MODE(entry) == APIC_LOWEST,
        .level = entry & ENTRY_LEVEL,
        .mode = ENTRY_MODE(entry),
        .vector = ENTRY_VECTOR(entry),
    };
    if (!m.logical && m.destination == 0xff)
        m.destination = APIC_BROADCAST;
    return m;
}

static void send(struct ioapic *io, unsigned pin)
{
    struct apic_message m = message_of(io->entry[pin]);
    if (irq_deliver(io->irq, &m, NULL) && m.level &&
        (m.mode == APIC_FIXED || m.mode == APIC_LOWEST))
        io->entry[pin] |= ENTRY_REMOTE_IRR;
}

/* A level-triggered input is sent as long as it is asserted and not in service. */
static void service_level(struct ioapic *io, unsigned pin)
{
    uint64_t blocked = ENTRY_MASKED | ENTRY_REMOTE_IRR;
    if ((io->entry[pin] & ENTRY_LEVEL) && !(io->entry[pin] & blocked) && (io->lines & (1u << pin)))
        send(io, pin);
}

void ioapic_set_line(struct ioapic *io, unsigned pin, bool level)
{
    uint32_t bit = 1u << pin;
    bool rose = level && !(io->lines & bit);
    io->lines = level ? io->lines | bit : io->lines & ~bit;
    if (!rose)
        return;
    if (io->entry[pin] & ENTRY_LEVEL)
        service_level(io, pin);
    else if (!(io->entry[pin] & ENTRY_MASKED))
        send(io, pin);
}

bool ioapic_line_pending(const struct ioapic *io, unsigned pin)
{
    uint64_t entry = io->entry[pin];
    if (entry & (ENTRY_MASKED | ENTRY_LEVEL))
        return false;
    struct apic_message m = message_of(entry);
    return irq_vector_pending(io->irq, &m);
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
    for (unsigned pin = 0; pin < IRQ_LINES; pin++) {
        uint64_t e = io->entry[pin];
        if ((e & ENTRY_LEVEL) && (e & ENTRY_REMOTE_IRR) && ENTRY_VECTOR(e) == vector) {
            io->entry[pin] &= ~ENTRY_REMOTE_IRR;
            service_level(io, pin);
        }
    }
}

static uint32_t read_register(const struct ioapic *io)
{
    switch (io->select) {
    case 0x00: /* ID */
    case 0x02: /* arbitration ID */
        return (uint32_t)io->id << 24;
    case 0x01:
        return IOAPIC_VERSION;
    }
    unsigned i = io->select - 0x10u;
    if (i >= 2 * IRQ_LINES)
        return 0;
    return (uint32_t)(io->entry[i / 2] >> (i % 2 * 32));
}

static void write_entry(struct ioapic *io, unsigned pin, unsigned shift, uint32_t value)
{
    uint64_t half = 0xffffffffull << shift;
    uint64_t writable = ENTRY_WRITABLE & half;
    uint64_t e = (io->entry[pin] & ~writable) | ((uint64_t)value << shift & writable);
    if (!(e & ENTRY_LEVEL))
        e &= ~ENTRY_REMOTE_IRR; /* how guests of version 0x11 end a level interrupt */
    io->entry[pin] = e;
    service_level(io, pin);
}

static void write_register(struct ioapic *io, uint32_t value)
{
    unsigned i = io->select - 0x10u;
    if (io->select == 0)
        io->id = value >> 24 & 15;
    else if (i < 2 * IRQ_LINES)
        write_entry(io, i / 2, i % 2 * 32, value);
}

static uint64_t page_read(void *device, uint64_t offset, unsigned size)
{
    struct ioapic *io = device;
    uint32_t value = 0;
    if ((offset & ~3ull) == 0)
        value = io->select;
    else if ((offset & ~3ull) == 0x10)
        value = read_register(io);
    return value >> (offset & 3) * 8;
}

static void page_write(void *device, uint64_t offset, uint64_t value, unsigned size)
{
    struct ioapic *io = device;
    if (offset == 0)
        io->select = (uint8_t)value;
    else if (offset == 0x10 && size == 4)
        write_register(io, (uint32_t)value);
    else if (offset == 0x40)
        ioapic_eoi(io, (uint8_t)value);
}

static const struct bus_ops page_ops = {.read = page_read, .write = page_write, .max_size = 4};

int ioapic_init(struct ioapic *io, struct irq *irq, struct bus *bus, struct error *e)
{
    io->irq = irq;
    return bus_add(bus, BUS_MMIO, "ioapic", IOAPIC_BASE, IOAPIC_SIZE, &page_ops, io, &irq->lock, e);
}

void ioapic_reset(struct ioapic *io)
{
    io->select = io->id = 0;
    for (unsigned i = 0; i < IRQ_LINES; i++)
        io->entry[i] = ENTRY_MASKED;
}

static int state_check(const void *object, struct error *e)
{
    const struct ioapic *io = object;
    if (io->lines >> IRQ_LINES)
        return error_set(e, EINVAL, "saved state: ioapic: lines has more than %u", IRQ_LINES);
    if (io->id > 15)
        return error_set(e, EINVAL, "saved state: ioapic: id is over 15");
    for (unsigned i = 0; i < IRQ_LINES; i++) {
        if (io->entry[i] & ~(ENTRY_WRITABLE | ENTRY_REMOTE_IRR) ||
            (io->entry[i] & (ENTRY_REMOTE_IRR | ENTRY_LEVEL)) == ENTRY_REMOTE_IRR)
            return error_set(e, EINVAL, "saved state: ioapic: entry %u is not legal", i);
    }
    return 0;
}

static const struct field state_fields[] = {
    FIELD_ARRAY(struct ioapic, entry),
    FIELD(struct ioapic, lines),
    FIELD(struct ioapic, select),
    FIELD(struct ioapic, id),
    FIELD_END,
};

/* Nothing is derived: what had been sent is in the local APICs' state. */
const struct field_table ioapic_state = {
    .name = "ioapic",
    .version = 1,
    .size = sizeof(struct ioapic),
    .fields = state_fields,
    .check = state_check,
};
