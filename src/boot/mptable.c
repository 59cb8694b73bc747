/* SPDX-License-Identifier: MIT */
/* The MP table; see mptable.h. Section numbers are those of the specification, 1.4. Wiring thread;
 * nothing here comes from the guest. */
#include "boot/mptable.h"

#include <errno.h>
#include <string.h>

#include "boot/memmap.h"

enum { ENTRY_PROCESSOR, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_INTERRUPT, ENTRY_LOCAL_INTERRUPT };
enum { INTERRUPT_INT, INTERRUPT_NMI, INTERRUPT_SMI, INTERRUPT_EXTINT };
enum { BUS_PCI, BUS_ISA };
enum { PROCESSOR_ENABLED = 1, PROCESSOR_BOOT = 2, IOAPIC_ENABLED = 1 };
enum { FLAGS_BUS = 0, FLAGS_ACTIVE_HIGH_LEVEL = 0x0d }; /* table 4-10 */

#define SPECIFICATION  4 /* 1.4 */
#define LAPIC_VERSION  0x14
#define IOAPIC_VERSION 0x20
#define ISA_IRQS       16
#define ALL_LAPICS     0xff

struct __attribute__((packed)) pointer { /* 4.1 */
    char signature[4];
    uint32_t table;
    uint8_t length, specification, checksum, features[5];
};

struct __attribute__((packed)) header { /* 4.2 */
    char signature[4];
    uint16_t length;
    uint8_t specification, checksum;
    char oem_id[8], product_id[12];
    uint32_t oem_table;
    uint16_t oem_table_size, entries;
    uint32_t lapic;
    uint16_t extended_length;
    uint8_t extended_checksum, reserved;
};

struct __attribute__((packed)) processor { /* 4.3.1 */
    uint8_t type, apic_id, apic_version, flags;
    uint32_t signature, features, reserved[2];
};

struct __attribute__((packed)) bus { /* 4.3.2 */
    uint8_t type, id;
    char name[6];
};

struct __attribute__((packed)) ioapic { /* 4.3.3 */
    uint8_t type, id, version, flags;
    uint32_t address;
};

struct __attribute__((packed)) interrupt { /* 4.3.4, 4.3.5 */
    uint8_t type, kind;
    uint16_t flags;
    uint8_t source_bus, source_irq, apic, pin;
};

struct writer {
    struct __attribute__((packed)) {
        struct pointer pointer;
        struct header header;
        uint8_t entries[MPTABLE_CPUS_MAX * sizeof(struct processor) + 256];
    } image;
    size_t used; /* bytes of entries */
};
_Static_assert(sizeof(((struct writer *)0)->image) <= MEMMAP_BIOS_END - 16 - MPTABLE_AT,
               "it ends before the reset vector");

static uint8_t checksum(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint8_t sum = 0;
    while (n-- > 0)
        sum = (uint8_t)(sum + *p++);
    return (uint8_t)-sum;
}

static void put(struct writer *w, const void *entry, size_t n)
{
    memcpy(w->image.entries + w->used, entry, n);
    w->used += n;
    w->image.header.entries++;
}

static void put_bus(struct writer *w, uint8_t id, const char name[6])
{
    struct bus b = {.type = ENTRY_BUS, .id = id};
    memcpy(b.name, name, sizeof(b.name));
    put(w, &b, sizeof(b));
}

/* The PIT is wired to input 2 of the I/O APIC, and the cascade to none; the SCI is a level. */
static void put_interrupts(struct writer *w, const struct acpi_config *c)
{
    for (uint8_t irq = 0; irq < ISA_IRQS; irq++) {
        const struct interrupt i = {
            .type = ENTRY_INTERRUPT,
            .kind = INTERRUPT_INT,
            .flags = irq == c->sci ? FLAGS_ACTIVE_HIGH_LEVEL : FLAGS_BUS,
            .source_bus = BUS_ISA,
            .source_irq = irq,
            .apic = c->ioapic_id,
            .pin = irq == 0 ? 2 : irq,
        };
        if (irq != 2)
            put(w, &i, sizeof(i));
    }
    const struct interrupt local[2] = {
        {ENTRY_LOCAL_INTERRUPT, INTERRUPT_EXTINT, FLAGS_BUS, BUS_ISA, 0, ALL_LAPICS, 0},
        {ENTRY_LOCAL_INTERRUPT, INTERRUPT_NMI, FLAGS_BUS, BUS_ISA, 0, ALL_LAPICS, 1},
    };
    put(w, &local[0], sizeof(local[0]));
    put(w, &local[1], sizeof(local[1]));
}

int mptable_build(struct mem *m, const struct acpi_config *c, uint32_t signature, uint32_t features,
                  struct error *e)
{
    struct writer w = {
        .image.pointer = {.signature = "_MP_",
                          .table = MPTABLE_AT + sizeof(struct pointer),
                          .length = 1, /* paragraph */
                          .specification = SPECIFICATION},
        .image.header = {.signature = "PCMP",
                         .specification = SPECIFICATION,
                         .oem_id = "DOPPEL  ",
                         .product_id = "PC          ",
                         .lapic = c->lapic},
    };
    const struct ioapic io = {ENTRY_IOAPIC, c->ioapic_id, IOAPIC_VERSION, IOAPIC_ENABLED,
                              c->ioapic};

    for (unsigned id = 0; id < c->cpus && id < MPTABLE_CPUS_MAX; id++) {
        const struct processor p = {
            .type = ENTRY_PROCESSOR,
            .apic_id = (uint8_t)id,
            .apic_version = LAPIC_VERSION,
            .flags = id == 0 ? PROCESSOR_ENABLED | PROCESSOR_BOOT : PROCESSOR_ENABLED,
            .signature = signature,
            .features = features,
        };
        put(&w, &p, sizeof(p));
    }
    put_bus(&w, BUS_PCI, "PCI   ");
    put_bus(&w, BUS_ISA, "ISA   ");
    put(&w, &io, sizeof(io));
    put_interrupts(&w, c);

    w.image.header.length = (uint16_t)(sizeof(w.image.header) + w.used);
    w.image.header.checksum = checksum(&w.image.header, w.image.header.length);
    w.image.pointer.checksum = checksum(&w.image.pointer, sizeof(w.image.pointer));
    size_t size = sizeof(w.image.pointer) + w.image.header.length;
    if (mem_write(m, GPA(MPTABLE_AT), &w.image, size) != 0)
        return error_set(e, EFAULT, "the BIOS area at 0x%llx is not RAM", MPTABLE_AT);
    return 0;
}
