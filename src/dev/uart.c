/* SPDX-License-Identifier: MIT */
/*
 * 16550A serial port (National Semiconductor PC16550D data sheet; section numbers are its own).
 * Thread rule: the device's lock guards all state; the bus takes it for register access, the clock
 * for the time-out, the console for its callbacks. The guest controls every written byte, the
 * console's user the received ones.
 *
 * Time: a transmitted character goes to the console at once. While the console has no room, the
 * characters stay in the transmit FIFO and THRE stays clear; so the guest waits, and the vCPU's
 * thread never does. Reception takes no time either, but takes from the console only what fits in
 * the FIFO, and nothing while no receive interrupt would leave the chip (decision 22): a driver
 * that probes IER with OUT2 off throws away what it finds. A guest that polls for input, as
 * firmware does, is known by this: it reads LSR again and again though nothing waits to be sent;
 * who polls for room to send writes after one read. It gets one character at a time. Only the
 * character time-out interrupt (8.4.2) is timed, from the programmed rate.
 *
 * The interrupt line goes through OUT2, as on every PC; loop-back forces OUT2 off (8.6.3).
 */
#include "dev/uart.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IER_BITS          0x0f
#define MCR_BITS          0x1f
#define LSR_ERRORS        (UART_LSR_OVERRUN | UART_LSR_PARITY | UART_LSR_FRAMING | UART_LSR_BREAK)
#define MSR_DELTAS        0x0f
#define CHARACTER_TIMEOUT 4  /* characters (8.4.2) */
#define IDLE_POLLS        32 /* reads of LSR in a row */
#define NS_PER_S          1000000000u

struct uart {
    pthread_mutex_t lock;
    struct vm_clock *clock;
    struct irq_line line;
    struct console *console;
    struct clock_timer timer;
    size_t wanted; /* what the console was told */

    uint8_t ier, fcr, lcr, mcr, msr, scratch;
    uint16_t divisor;
    uint8_t overrun; /* LSR.OE */
    uint8_t receive[UART_FIFO], receive_errors[UART_FIFO];
    uint8_t receive_first, receive_count;
    uint8_t transmit[UART_FIFO];
    uint8_t transmit_first, transmit_count;
    uint8_t transmit_interrupt; /* THRE interrupt pending, until IIR is read or THR written */
    uint8_t timed_out;          /* character time-out pending */
    uint64_t timeout_deadline;  /* ns; CLOCK_NEVER = none */
    uint8_t idle_polls;         /* reads of LSR since anything was set or sent, up to IDLE_POLLS */
};

static bool has_fifo(const struct uart *u)
{
    return u->fcr & UART_FCR_ENABLE;
}

static unsigned fifo_size(const struct uart *u)
{
    return has_fifo(u) ? UART_FIFO : 1;
}

static unsigned trigger_level(const struct uart *u)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return has_fifo(u) ? levels[u->fcr >> 6] : 1;
}

static uint8_t line_status(const struct uart *u)
{
    uint8_t s = u->overrun ? UART_LSR_OVERRUN : 0;

    if (u->receive_count > 0)
        s |= UART_LSR_READY | u->receive_errors[u->receive_first];
    for (unsigned i = 0; has_fifo(u) && i < u->receive_count; i++) {
        if (u->receive_errors[(u->receive_first + i) % UART_FIFO] != 0)
            s |= UART_LSR_FIFO_ERROR;
    }
    if (u->transmit_count == 0)
        s |= UART_LSR_HOLDING | UART_LSR_EMPTY;
    return s;
}

/* The pending interrupt of the highest priority (table 5). */
static uint8_t interrupt_identity(const struct uart *u)
{
    if ((u->ier & UART_IER_LINE) && (line_status(u) & LSR_ERRORS))
        return UART_IIR_LINE;
    if ((u->ier & UART_IER_RECEIVE) && u->receive_count >= trigger_level(u))
        return UART_IIR_RECEIVE;
    if ((u->ier & UART_IER_RECEIVE) && u->timed_out)
        return UART_IIR_TIMEOUT;
    if ((u->ier & UART_IER_TRANSMIT) && u->transmit_interrupt)
        return UART_IIR_TRANSMIT;
    if ((u->ier & UART_IER_MODEM) && (u->msr & MSR_DELTAS))
        return UART_IIR_MODEM;
    return UART_IIR_NONE;
}

static bool connected(const struct uart *u)
{
    return (u->mcr & (UART_MCR_OUT2 | UART_MCR_LOOP)) == UART_MCR_OUT2;
}

/* How many characters the guest is ready for. */
static unsigned room_for_input(const struct uart *u)
{
    bool polls =
        u->idle_polls == IDLE_POLLS && !(u->ier & UART_IER_RECEIVE) && !(u->mcr & UART_MCR_LOOP);

    if (connected(u) && (u->ier & UART_IER_RECEIVE))
        return fifo_size(u) - u->receive_count;
    return polls && u->receive_count == 0 ? 1 : 0;
}

static void update(struct uart *u)
{
    size_t wanted = room_for_input(u);

    irq_line_set(&u->line, connected(u) && interrupt_identity(u) != UART_IIR_NONE);
    if (u->console != NULL && wanted != u->wanted) {
        u->wanted = wanted;
        console_want_input(u->console, wanted);
    }
}

static uint64_t character_ns(const struct uart *u)
{
    unsigned bits = 1 + 5 + (u->lcr & UART_LCR_LENGTH) + !!(u->lcr & UART_LCR_PARITY) +
                    (u->lcr & UART_LCR_STOP ? 2 : 1);
    unsigned divisor = u->divisor != 0 ? u->divisor : 1;
    return (uint64_t)bits * NS_PER_S * 16 * divisor / UART_CLOCK_HZ;
}

/* A character came or went: the time-out starts again. */
static void restart_timeout(struct uart *u)
{
    u->timed_out = false;
    u->timeout_deadline = CLOCK_NEVER;
    if (has_fifo(u) && u->receive_count > 0) {
        u->timeout_deadline = clock_now(u->clock) + CHARACTER_TIMEOUT * character_ns(u);
        clock_arm(u->clock, &u->timer, u->timeout_deadline);
    } else {
        clock_disarm(u->clock, &u->timer);
    }
}

static void timeout_fire(void *context)
{
    struct uart *u = context;
    u->timeout_deadline = CLOCK_NEVER;
    u->timed_out = u->receive_count > 0;
    update(u);
}

static void receive_character(struct uart *u, uint8_t byte, uint8_t errors)
{
    if (u->receive_count == fifo_size(u)) {
        u->overrun = true;
        if (!has_fifo(u)) { /* the new one overwrites; in a FIFO it is lost (8.4, LSR bit 1) */
            u->receive[u->receive_first] = byte;
            u->receive_errors[u->receive_first] = errors;
        }
        return;
    }
    unsigned at = (u->receive_first + u->receive_count) % UART_FIFO;
    u->receive[at] = byte;
    u->receive_errors[at] = errors;
    u->receive_count++;
    restart_timeout(u);
}

/* Sends what waits, as far as there is room; THRE comes when the last has gone. */
static void transmit(struct uart *u)
{
    while (u->transmit_count > 0) {
        uint8_t byte = u->transmit[u->transmit_first];
        if (u->mcr & UART_MCR_LOOP) {
            unsigned length = 5 + (u->lcr & UART_LCR_LENGTH);
            receive_character(u, byte & (uint8_t)((1u << length) - 1), 0);
        } else if (u->console != NULL && !(u->lcr & UART_LCR_BREAK) &&
                   !console_put(u->console, byte)) {
            return;
        }
        u->transmit_first = (u->transmit_first + 1) % UART_FIFO;
        u->transmit_count--;
    }
    u->transmit_interrupt = true;
}

static void write_thr(struct uart *u, uint8_t value)
{
    u->transmit_interrupt = false;
    update(u); /* the line drops for an instant, so that an edge-triggered input sees the next */
    if (u->transmit_count < fifo_size(u)) {
        u->transmit[(u->transmit_first + u->transmit_count) % UART_FIFO] = value;
        u->transmit_count++;
    }
    transmit(u);
}

static uint8_t read_rbr(struct uart *u)
{
    uint8_t value = u->receive[u->receive_first];

    if (u->receive_count > 0) {
        u->receive_errors[u->receive_first] = 0;
        u->receive_first = (u->receive_first + 1) % UART_FIFO;
        u->receive_count--;
        restart_timeout(u);
    }
    return value;
}

static void clear_receive(struct uart *u)
{
    u->receive_first = u->receive_count = 0;
    memset(u->receive_errors, 0, sizeof(u->receive_errors));
    restart_timeout(u);
}

static void clear_transmit(struct uart *u)
{
    if (u->transmit_count > 0)
        u->transmit_interrupt = true;
    u->transmit_first = u->transmit_count = 0;
}

static void write_fcr(struct uart *u, uint8_t value)
{
    bool toggles = (value ^ u->fcr) & UART_FCR_ENABLE;

    /* What arrived before the FIFOs were turned on stays: Linux turns them on just after receive
     * interrupts, and would lose the first key of a script (decision 22). */
    if ((toggles && has_fifo(u)) || (value & UART_FCR_ENABLE && value & UART_FCR_CLEAR_RECEIVE))
        clear_receive(u);
    if (toggles || (value & UART_FCR_ENABLE && value & UART_FCR_CLEAR_TRANSMIT))
        clear_transmit(u);
    u->fcr = value & UART_FCR_ENABLE ? value & (UART_FCR_ENABLE | UART_FCR_TRIGGER) : 0;
}

static void write_ier(struct uart *u, uint8_t value)
{
    uint8_t rises = value & ~u->ier;

    u->ier = value & IER_BITS;
    if ((rises & UART_IER_TRANSMIT) && u->transmit_count == 0)
        u->transmit_interrupt = true; /* enabling with THR empty interrupts at once (8.4) */
}

/* The modem inputs: in loop-back the outputs (8.6), else a connected modem that is ready. */
static void update_modem(struct uart *u)
{
    uint8_t now = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;

    if (u->mcr & UART_MCR_LOOP) {
        now = u->mcr & UART_MCR_RTS ? UART_MSR_CTS : 0;
        now |= u->mcr & UART_MCR_DTR ? UART_MSR_DSR : 0;
        now |= u->mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0;
        now |= u->mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0;
    } else if (u->console == NULL) {
        now = 0;
    }
    uint8_t changed = now ^ u->msr;
    if (changed & UART_MSR_CTS)
        u->msr |= UART_MSR_DELTA_CTS;
    if (changed & UART_MSR_DSR)
        u->msr |= UART_MSR_DELTA_DSR;
    if (changed & u->msr & UART_MSR_RI)
        u->msr |= UART_MSR_TRAIL_RI;
    if (changed & UART_MSR_DCD)
        u->msr |= UART_MSR_DELTA_DCD;
    u->msr = (u->msr & MSR_DELTAS) | now;
}

static void write_lcr(struct uart *u, uint8_t value)
{
    bool breaks = (value & ~u->lcr) & UART_LCR_BREAK;

    u->lcr = value;
    if (breaks && (u->mcr & UART_MCR_LOOP))
        receive_character(u, 0, UART_LSR_BREAK);
}

static uint64_t uart_read(void *device, uint64_t offset, unsigned size)
{
    struct uart *u = device;
    uint8_t value = 0;

    switch (offset) {
    case UART_RBR:
        value = u->lcr & UART_LCR_DLAB ? (uint8_t)u->divisor : read_rbr(u);
        break;
    case UART_IER:
        value = u->lcr & UART_LCR_DLAB ? (uint8_t)(u->divisor >> 8) : u->ier;
        break;
    case UART_IIR:
        value = interrupt_identity(u);
        if (value == UART_IIR_TRANSMIT)
            u->transmit_interrupt = false; /* only when it is the one reported (table 5) */
        value |= has_fifo(u) ? UART_IIR_FIFOS : 0;
        break;
    case UART_LCR:
        value = u->lcr;
        break;
    case UART_MCR:
        value = u->mcr;
        break;
    case UART_LSR:
        value = line_status(u);
        u->overrun = false;
        if (u->receive_count > 0)
            u->receive_errors[u->receive_first] = 0;
        else if (u->transmit_count == 0 && u->idle_polls < IDLE_POLLS)
            u->idle_polls++;
        break;
    case UART_MSR:
        value = u->msr;
        u->msr &= ~MSR_DELTAS;
        break;
    case UART_SCR:
        value = u->scratch;
        break;
    }
    update(u);
    return value;
}

static void uart_write(void *device, uint64_t offset, uint64_t written, unsigned size)
{
    struct uart *u = device;
    uint8_t value = (uint8_t)written;

    u->idle_polls = 0;
    switch (offset) {
    case UART_THR:
        if (u->lcr & UART_LCR_DLAB)
            u->divisor = (u->divisor & 0xff00) | value;
        else
            write_thr(u, value);
        break;
    case UART_IER:
        if (u->lcr & UART_LCR_DLAB)
            u->divisor = (uint16_t)(value << 8) | (u->divisor & 0xff);
        else
            write_ier(u, value);
        break;
    case UART_FCR:
        write_fcr(u, value);
        break;
    case UART_LCR:
        write_lcr(u, value);
        break;
    case UART_MCR:
        u->mcr = value & MCR_BITS;
        update_modem(u);
        if (u->transmit_count > 0)
            transmit(u); /* what waited for the console now loops back */
        break;
    case UART_SCR:
        u->scratch = value;
        break;
    default: /* LSR and MSR are for reading (8.4, 8.7: writes are for factory tests) */
        break;
    }
    update(u);
}

static size_t console_receive(void *context, const uint8_t *bytes, size_t n)
{
    struct uart *u = context;
    size_t taken = 0;

    while (taken < n && room_for_input(u) > 0)
        receive_character(u, bytes[taken++], 0);
    update(u);
    return taken;
}

static void console_break(void *context)
{
    struct uart *u = context;

    if (u->mcr & UART_MCR_LOOP)
        return;
    receive_character(u, 0, UART_LSR_BREAK);
    update(u);
}

static void console_room(void *context)
{
    struct uart *u = context;

    if (u->transmit_count > 0)
        transmit(u);
    update(u);
}

static const struct console_client client = {
    .receive = console_receive,
    .receive_break = console_break,
    .room = console_room,
};

static const struct bus_ops uart_ops = {
    .read = uart_read,
    .write = uart_write,
    .max_size = 1,
};

int uart_create(struct uart **out, struct bus *bus, uint16_t port, struct vm_clock *clock,
                struct irq_line line, struct console *console, struct error *e)
{
    struct uart *u = calloc(1, sizeof(*u));
    if (u == NULL)
        return error_set(e, ENOMEM, "no memory for the serial port");
    pthread_mutex_init(&u->lock, NULL);
    u->clock = clock;
    u->line = line;
    clock_timer_init(&u->timer, timeout_fire, u, &u->lock);
    int err = bus_add(bus, BUS_PIO, "uart", port, UART_PORTS, &uart_ops, u, &u->lock, e);
    if (err != 0) {
        uart_destroy(u);
        return err;
    }
    u->console = console;
    if (console != NULL)
        console_attach(console, &client, u, &u->lock);
    uart_reset(u);
    *out = u;
    return 0;
}

void uart_destroy(struct uart *u)
{
    if (u == NULL)
        return;
    if (u->console != NULL)
        console_detach(u->console);
    pthread_mutex_lock(&u->lock);
    clock_disarm(u->clock, &u->timer);
    pthread_mutex_unlock(&u->lock);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

/* Master reset (table 3). The scratch and divisor registers have no reset value; the firmware's
 * usual 115200 baud, 8 bits, is what is found there. */
void uart_reset(struct uart *u)
{
    pthread_mutex_lock(&u->lock);
    u->ier = u->fcr = u->mcr = u->scratch = 0;
    u->lcr = UART_LCR_LENGTH;
    u->divisor = 1;
    u->overrun = false;
    memset(u->receive, 0, sizeof(u->receive));
    memset(u->transmit, 0, sizeof(u->transmit));
    u->transmit_first = u->transmit_count = 0;
    u->transmit_interrupt = false;
    u->idle_polls = 0;
    clear_receive(u);
    u->msr = 0;
    update_modem(u);
    u->msr &= ~MSR_DELTAS;
    update(u);
    pthread_mutex_unlock(&u->lock);
}

static int state_check(const void *object, struct error *e)
{
    const struct uart *u = object;
    static const char text[] = "saved state: uart: %s is out of range";

    if (u->ier & ~IER_BITS)
        return error_set(e, EINVAL, text, "ier");
    if (u->fcr & ~(UART_FCR_ENABLE | UART_FCR_TRIGGER) || (u->fcr != 0 && !has_fifo(u)))
        return error_set(e, EINVAL, text, "fcr");
    if (u->mcr & ~MCR_BITS)
        return error_set(e, EINVAL, text, "mcr");
    if (u->receive_first >= UART_FIFO)
        return error_set(e, EINVAL, text, "receive_first");
    if (u->receive_count > fifo_size(u))
        return error_set(e, EINVAL, text, "receive_count");
    if (u->transmit_first >= UART_FIFO)
        return error_set(e, EINVAL, text, "transmit_first");
    if (u->transmit_count > fifo_size(u))
        return error_set(e, EINVAL, text, "transmit_count");
    for (unsigned i = 0; i < UART_FIFO; i++) {
        if (u->receive_errors[i] & ~(LSR_ERRORS & ~UART_LSR_OVERRUN))
            return error_set(e, EINVAL, text, "receive_errors");
    }
    if (u->idle_polls > IDLE_POLLS)
        return error_set(e, EINVAL, text, "idle_polls");
    if (u->overrun > 1)
        return error_set(e, EINVAL, text, "overrun");
    if (u->transmit_interrupt > 1)
        return error_set(e, EINVAL, text, "transmit_interrupt");
    if (u->timed_out > 1)
        return error_set(e, EINVAL, text, "timed_out");
    return 0;
}

static void state_loaded(void *object)
{
    struct uart *u = object;

    pthread_mutex_lock(&u->lock);
    if (u->timeout_deadline != CLOCK_NEVER)
        clock_arm(u->clock, &u->timer, u->timeout_deadline);
    else
        clock_disarm(u->clock, &u->timer);
    if (u->transmit_count > 0)
        transmit(u); /* the new console may have room; otherwise `room` is asked for */
    update(u);
    pthread_mutex_unlock(&u->lock);
}

static const struct field fields[] = {
    FIELD(struct uart, ier),
    FIELD(struct uart, fcr),
    FIELD(struct uart, lcr),
    FIELD(struct uart, mcr),
    FIELD(struct uart, msr),
    FIELD(struct uart, scratch),
    FIELD(struct uart, divisor),
    FIELD(struct uart, overrun),
    FIELD_ARRAY(struct uart, receive),
    FIELD_ARRAY(struct uart, receive_errors),
    FIELD(struct uart, receive_first),
    FIELD(struct uart, receive_count),
    FIELD_ARRAY(struct uart, transmit),
    FIELD(struct uart, transmit_first),
    FIELD(struct uart, transmit_count),
    FIELD(struct uart, transmit_interrupt),
    FIELD(struct uart, timed_out),
    FIELD(struct uart, timeout_deadline),
    FIELD(struct uart, idle_polls),
    FIELD_END,
};

const struct field_table uart_state = {
    .name = "uart",
    .version = 1,
    .size = sizeof(struct uart),
    .fields = fields,
    .check = state_check,
    .loaded = state_loaded,
};
