/* SPDX-License-Identifier: MIT */
/*
 * A writer of ACPI Machine Language (ACPI 6.4 chapter 20) and of resource descriptors (6.4), as
 * far as the DSDT needs them. Objects nest by aml_begin_… / aml_end. A writer that runs out of room
 * or depth sets `failed` and writes nothing more; the caller looks once at the end.
 */
#ifndef DOPPEL_BOOT_AML_H
#define DOPPEL_BOOT_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_DEPTH 8

struct aml {
    uint8_t *bytes;
    size_t size, capacity;
    size_t open[AML_DEPTH]; /* where the package length of each open object will be put */
    unsigned depth;
    bool failed;
};

void aml_init(struct aml *a, uint8_t *bytes, size_t capacity);

/* Names are NameSegs of four characters, or a path that starts with '\'. */
void aml_begin_scope(struct aml *a, const char *path);
void aml_begin_device(struct aml *a, const char *name);
void aml_begin_package(struct aml *a, uint8_t elements); /* aml_integer … for each element */
void aml_end(struct aml *a);

void aml_name(struct aml *a, const char *name); /* Name (name, …): the object follows */
void aml_integer(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *text);
void aml_eisa_id(struct aml *a, const char *id); /* "PNP0501" */

/* Buffer of resource descriptors: begin, descriptors, end (which adds the end tag). */
void aml_begin_resources(struct aml *a);
void aml_io(struct aml *a, uint16_t port, uint8_t length);
void aml_irq(struct aml *a, uint8_t irq); /* edge, active high, exclusive */
void aml_memory32(struct aml *a, uint32_t base, uint32_t length);
/* Ranges that a bridge passes on, both ends inclusive: bus numbers, ports, memory. */
void aml_bus_window(struct aml *a, uint16_t first, uint16_t last);
void aml_io_window(struct aml *a, uint16_t first, uint16_t last);
void aml_memory_window(struct aml *a, uint32_t first, uint32_t last);
void aml_end_resources(struct aml *a);

#endif
