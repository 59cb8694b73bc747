/* SPDX-License-Identifier: MIT */
/* Any driver of the local APICs of two processors (libFuzzer). */
#include "machine.h"

static struct fuzz_machine machine;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_machine_init(&machine);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_range ranges[] = {{BUS_MMIO, 0xfee00000, 0x1000}};
    irq_reset(machine.irq);
    for (size_t i = 0; i + 8 <= size; i += 8) {
        struct vcpu *v = machine.vcpus[data[i] >> 7];
        fuzz_drive(&machine, ranges, 1, data + i, 8);
        if (vcpu_requests(v) & VCPU_REQUEST_INTR)
            v->irq->acknowledge(v->irq_context);
        v->irq->cr8_write(v->irq_context, v->irq->cr8_read(v->irq_context));
        if (vcpu_requests(v) & VCPU_REQUEST_SIPI)
            v->irq->sipi_vector(v->irq_context);
        for (unsigned n = 0; n < FUZZ_CPUS; n++)
            vcpu_request_clear(machine.vcpus[n],
                               VCPU_REQUEST_NMI | VCPU_REQUEST_INIT | VCPU_REQUEST_SIPI);
    }
    return 0;
}
