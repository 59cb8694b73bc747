/* SPDX-License-Identifier: MIT */
/* 16550A serial port; see uart.c. */
#ifndef DOPPEL_DEV_UART_H
#define DOPPEL_DEV_UART_H

#include "backend/console.h"
#include "base/field.h"
#include "bus/bus.h"
#include "clock/clock.h"
#include "irq/irq.h"

#define UART_COM1     0x3f8
#define UART_COM1_GSI 4
#define UART_PORTS    8
#define UART_CLOCK_HZ 1843200u
#define UART_FIFO     16

/* Register offsets (data sheet PC16550D, table 2). */
#define UART_RBR 0 /* read */
#define UART_THR 0 /* write */
#define UART_DLL 0 /* under LCR.DLAB */
#define UART_IER 1
#define UART_DLM 1 /* under LCR.DLAB */
#define UART_IIR 2 /* read */
#define UART_FCR 2 /* write */
#define UART_LCR 3
#define UART_MCR 4
#define UART_LSR 5
#define UART_MSR 6
#define UART_SCR 7

#define UART_IER_RECEIVE  0x01
#define UART_IER_TRANSMIT 0x02
#define UART_IER_LINE     0x04
#define UART_IER_MODEM    0x08

#define UART_IIR_NONE     0x01
#define UART_IIR_MODEM    0x00
#define UART_IIR_TRANSMIT 0x02
#define UART_IIR_RECEIVE  0x04
#define UART_IIR_LINE     0x06
#define UART_IIR_TIMEOUT  0x0c
#define UART_IIR_FIFOS    0xc0

#define UART_FCR_ENABLE         0x01
#define UART_FCR_CLEAR_RECEIVE  0x02
#define UART_FCR_CLEAR_TRANSMIT 0x04
#define UART_FCR_TRIGGER        0xc0

#define UART_LCR_LENGTH 0x03
#define UART_LCR_STOP   0x04
#define UART_LCR_PARITY 0x08
#define UART_LCR_BREAK  0x40
#define UART_LCR_DLAB   0x80

#define UART_MCR_DTR  0x01
#define UART_MCR_RTS  0x02
#define UART_MCR_OUT1 0x04
#define UART_MCR_OUT2 0x08
#define UART_MCR_LOOP 0x10

#define UART_LSR_READY      0x01
#define UART_LSR_OVERRUN    0x02
#define UART_LSR_PARITY     0x04
#define UART_LSR_FRAMING    0x08
#define UART_LSR_BREAK      0x10
#define UART_LSR_HOLDING    0x20 /* THRE */
#define UART_LSR_EMPTY      0x40 /* TEMT */
#define UART_LSR_FIFO_ERROR 0x80

#define UART_MSR_DELTA_CTS 0x01
#define UART_MSR_DELTA_DSR 0x02
#define UART_MSR_TRAIL_RI  0x04
#define UART_MSR_DELTA_DCD 0x08
#define UART_MSR_CTS       0x10
#define UART_MSR_DSR       0x20
#define UART_MSR_RI        0x40
#define UART_MSR_DCD       0x80

struct uart;
extern const struct field_table uart_state;

/* console: not owned, outlives the uart; NULL for a port with nothing connected. */
int uart_create(struct uart **out, struct bus *bus, uint16_t port, struct vm_clock *clock,
                struct irq_line line, struct console *console, struct error *e);
void uart_destroy(struct uart *u);
void uart_reset(struct uart *u);

#endif
