/* SPDX-License-Identifier: MIT */
/*
 * The 8259A pair of a PC (Intel 8259A data sheet, 231468) with the ELCR of the PIIX.
 *
 * One deviation, shared by all virtual machines: an edge stays requested when its line falls again
 * before the acknowledge (the chip would answer with the spurious input 7). The cascade is no
 * stored edge: the master's input 2 is requested as long as the slave has something to deliver.
 *
 * Threads: irq->lock is held (bus dispatch takes it). The guest controls every register.
 */
#include "irq/internal.h"

#include <errno.h>

#define CASCADE 2u

/* Inputs that ELCR may make level-triggered: not the timer, keyboard, cascade, RTC and FPU. */
static const uint8_t elcr_mask[2] = {0xf8, 0xde};

static uint8_t requests(const struct pic_chip *c)
{
    return (uint8_t)((c->edges & ~c->elcr) | (c->lines & c->elcr));
}

/* The input to be served next, or -1: the first, from the highest priority on, that is requested,
 * not masked, and above everything in service. In special mask mode what is in service but masked
 * does not count; special fully nested mode lets the slave interrupt itself. */
static int highest(const struct pic_chip *c, uint8_t request, bool nested)
{
    uint8_t pending = request & (uint8_t)~c->imr;
    uint8_t blocking = c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr;
    for (unsigned i = 1; i <= 8; i++) {
        unsigned input = (c->lowest + i) & 7;
        if ((blocking & (1u << input)) &&
            !(nested && input == CASCADE && (pending & (1u << CASCADE))))
            return -1;
        if (pending & (1u << input))
            return (int)input;
    }
    return -1;
}

static int slave_highest(const struct pic *p)
{
    return highest(&p->chip[1], requests(&p->chip[1]), false);
}

static uint8_t master_requests(const struct pic *p)
{
    uint8_t r = requests(&p->chip[0]) & (uint8_t) ~(1u << CASCADE);
    return slave_highest(p) >= 0 ? r | (1u << CASCADE) : r;
}

static int master_highest(const struct pic *p)
{
    const struct pic_chip *m = &p->chip[0];
    return highest(m, master_requests(p), m->fully_nested);
}

static void update(struct pic *p)
{
    bool output = master_highest(p) >= 0;
    if (output != p->output) {
        p->output = output;
        irq_pic_output(p->irq, output);
    }
}

void pic_set_line(struct pic *p, unsigned input, bool level)
{
    struct pic_chip *c = &p->chip[input >> 3];
    uint8_t bit = (uint8_t)(1u << (input & 7));
    if (level && !(c->lines & bit))
        c->edges |= bit;
    c->lines = level ? c->lines | bit : c->lines & (uint8_t)~bit;
    update(p);
}

bool pic_line_pending(const struct pic *p, unsigned input)
{
    const struct pic_chip *c = &p->chip[input >> 3];
    bool open = input < 8 || !(p->chip[0].imr & (1u << CASCADE));
    return open && (c->edges & ~c->imr & ~c->elcr & (1u << (input & 7)));
}

static void take(struct pic_chip *c, unsigned input)
{
    uint8_t bit = (uint8_t)(1u << input);
    c->edges &= (uint8_t)~bit;
    if (!c->auto_eoi)
        c->isr |= bit;
    else if (c->rotate_auto)
        c->lowest = (uint8_t)input;
}

uint8_t pic_acknowledge(struct pic *p)
{
    struct pic_chip *master = &p->chip[0], *slave = &p->chip[1];
    int input = master_highest(p);
    uint8_t vector;

    if (input < 0)
        return master->base | 7;
    if (input == CASCADE) {
        int second = slave_highest(p);
        take(slave, (unsigned)second);
        vector = slave->base | (uint8_t)second;
    } else {
        vector = master->base | (uint8_t)input;
    }
    take(master, (unsigned)input);
    update(p);
    return vector;
}

/* The poll command: a read takes the place of INTA for this chip alone. */
static uint8_t poll(struct pic *p, struct pic_chip *c)
{
    int input = c == &p->chip[0] ? master_highest(p) : slave_highest(p);
    c->poll = false;
    if (input < 0)
        return 7;
    take(c, (unsigned)input);
    update(p);
    return 0x80 | (uint8_t)input;
}

static uint64_t read(struct pic *p, unsigned chip, unsigned a0)
{
    struct pic_chip *c = &p->chip[chip];
    if (c->poll)
        return poll(p, c);
    if (a0)
        return c->imr;
    if (c->read_isr)
        return c->isr;
    return chip == 0 ? master_requests(p) : requests(c);
}

static void write_icw1(struct pic_chip *c, uint8_t value)
{
    c->edges = 0; /* an input must rise again */
    c->imr = c->isr = 0;
    c->lowest = 7;
    c->special_mask = c->read_isr = c->poll = false;
    c->auto_eoi = c->rotate_auto = c->fully_nested = false; /* until ICW4 says so */
    c->single = value & 2;
    c->icw4 = value & 1;
    c->next = 2;
}

static void write_ocw2(struct pic_chip *c, uint8_t value)
{
    unsigned level = value & 7;
    switch (value >> 5) {
    case 0: /* rotate in automatic EOI mode: clear, set */
    case 4:
        c->rotate_auto = value >> 7;
        return;
    case 1: /* non-specific EOI, without and with rotation */
    case 5:
        for (unsigned i = 1; i <= 8; i++) {
            level = (c->lowest + i) & 7;
            /* In special mask mode a masked level is not cleared (data sheet, "EOI"). */
            if (c->isr & ~(c->special_mask ? c->imr : 0) & (1u << level)) {
                c->isr &= (uint8_t) ~(1u << level);
                if (value & 0x80)
                    c->lowest = (uint8_t)level;
                return;
            }
        }
        return;
    case 3: /* specific EOI, without and with rotation */
    case 7:
        c->isr &= (uint8_t) ~(1u << level);
        if (value & 0x80)
            c->lowest = (uint8_t)level;
        return;
    case 6: /* set priority */
        c->lowest = (uint8_t)level;
        return;
    }
}

static void write_ocw3(struct pic_chip *c, uint8_t value)
{
    c->poll = value & 4;
    if (value & 2)
        c->read_isr = value & 1;
    if (value & 0x40)
        c->special_mask = value & 0x20;
}

static void write_data(struct pic_chip *c, uint8_t value)
{
    switch (c->next) {
    case 2:
        c->base = value & 0xf8;
        c->next = c->single ? (c->icw4 ? 4 : 0) : 3;
        return;
    case 3: /* which input the slave is on, is wired */
        c->next = c->icw4 ? 4 : 0;
        return;
    case 4:
        c->fully_nested = value & 0x10;
        c->auto_eoi = value & 2;
        c->next = 0;
        return;
    default:
        c->imr = value;
    }
}

static void write(struct pic *p, unsigned chip, unsigned a0, uint8_t value)
{
    struct pic_chip *c = &p->chip[chip];
    if (a0)
        write_data(c, value);
    else if (value & 0x10)
        write_icw1(c, value);
    else if (value & 8)
        write_ocw3(c, value);
    else
        write_ocw2(c, value);
    update(p);
}

static uint64_t master_read(void *pic, uint64_t offset, unsigned size)
{
    return read(pic, 0, (unsigned)offset);
}

static void master_write(void *pic, uint64_t offset, uint64_t value, unsigned size)
{
    write(pic, 0, (unsigned)offset, (uint8_t)value);
}

static uint64_t slave_read(void *pic, uint64_t offset, unsigned size)
{
    return read(pic, 1, (unsigned)offset);
}

static void slave_write(void *pic, uint64_t offset, uint64_t value, unsigned size)
{
    write(pic, 1, (unsigned)offset, (uint8_t)value);
}

static uint64_t elcr_read(void *pic, uint64_t offset, unsigned size)
{
    return ((struct pic *)pic)->chip[offset & 1].elcr;
}

static void elcr_write(void *pic, uint64_t offset, uint64_t value, unsigned size)
{
    struct pic *p = pic;
    p->chip[offset & 1].elcr = (uint8_t)value & elcr_mask[offset & 1];
    update(p);
}

static const struct bus_ops master_ops = {
    .read = master_read, .write = master_write, .max_size = 1};
static const struct bus_ops slave_ops = {.read = slave_read, .write = slave_write, .max_size = 1};
static const struct bus_ops elcr_ops = {.read = elcr_read, .write = elcr_write, .max_size = 1};

int pic_init(struct pic *p, struct irq *irq, struct bus *bus, struct error *e)
{
    p->irq = irq;
    int err = bus_add(bus, BUS_PIO, "pic master", 0x20, 2, &master_ops, p, &irq->lock, e);
    if (err == 0)
        err = bus_add(bus, BUS_PIO, "pic slave", 0xa0, 2, &slave_ops, p, &irq->lock, e);
    if (err == 0)
        err = bus_add(bus, BUS_PIO, "pic elcr", 0x4d0, 2, &elcr_ops, p, &irq->lock, e);
    return err;
}

void pic_reset(struct pic *p)
{
    for (unsigned i = 0; i < 2; i++)
        p->chip[i] = (struct pic_chip){.lines = p->chip[i].lines, .lowest = 7, .imr = 0xff};
    update(p);
}

static int state_check(const void *object, struct error *e)
{
    const struct pic *p = object;
    for (unsigned i = 0; i < 2; i++) {
        const struct pic_chip *c = &p->chip[i];
        if (c->lowest > 7)
            return error_set(e, EINVAL, "saved state: pic: lowest is over 7");
        if (c->next == 1 || c->next > 4)
            return error_set(e, EINVAL, "saved state: pic: next is not an ICW");
        if (c->base & 7)
            return error_set(e, EINVAL, "saved state: pic: base is not a multiple of 8");
        if (c->elcr & ~elcr_mask[i])
            return error_set(e, EINVAL, "saved state: pic: elcr has an input that is edge only");
    }
    return 0;
}

static void state_loaded(void *object)
{
    struct pic *p = object;
    pthread_mutex_lock(&p->irq->lock);
    p->output = !(master_highest(p) >= 0); /* so that update tells the local APICs */
    update(p);
    pthread_mutex_unlock(&p->irq->lock);
}

/* clang-format off */
#define CHIP_FIELDS(n)                                                                            \
    FIELD(struct pic, chip[n].lines), FIELD(struct pic, chip[n].edges),                           \
    FIELD(struct pic, chip[n].isr), FIELD(struct pic, chip[n].imr),                               \
    FIELD(struct pic, chip[n].elcr), FIELD(struct pic, chip[n].base),                             \
    FIELD(struct pic, chip[n].lowest), FIELD(struct pic, chip[n].next),                           \
    FIELD(struct pic, chip[n].icw4), FIELD(struct pic, chip[n].single),                           \
    FIELD(struct pic, chip[n].auto_eoi), FIELD(struct pic, chip[n].rotate_auto),                  \
    FIELD(struct pic, chip[n].special_mask), FIELD(struct pic, chip[n].fully_nested),             \
    FIELD(struct pic, chip[n].read_isr), FIELD(struct pic, chip[n].poll)
/* clang-format on */

static const struct field state_fields[] = {CHIP_FIELDS(0), CHIP_FIELDS(1), FIELD_END};

const struct field_table pic_state = {
    .name = "pic",
    .version = 1,
    .size = sizeof(struct pic),
    .fields = state_fields,
    .check = state_check,
    .loaded = state_loaded,
};
