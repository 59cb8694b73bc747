/* SPDX-License-Identifier: MIT */
/* Any driver of the serial port, with nothing connected (libFuzzer). */
#include "machine.h"

#include "dev/uart.h"

static struct fuzz_machine machine;
static struct uart *uart;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_machine_init(&machine);
    fuzz_must(uart_create(&uart, &machine.bus, UART_COM1, machine.clock,
                          irq_line_of(machine.irq, UART_COM1_GSI), NULL, NULL));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_range ranges[] = {{BUS_PIO, UART_COM1, UART_PORTS}};
    uart_reset(uart);
    fuzz_drive(&machine, ranges, sizeof(ranges) / sizeof(ranges[0]), data, size);
    return 0;
}
