/* SPDX-License-Identifier: MIT */
/*
 * Field tables: one description of the guest-visible state of a thing, beside the thing, from the
 * day it is written. Saving, loading and comparing all walk the same table, so they cannot drift
 * apart (decision 16: little-endian, explicit widths, no host address or host time).
 *
 *   static const struct field uart_fields[] = {
 *       FIELD(struct uart, ier), FIELD(struct uart, fifo), FIELD_END,
 *   };
 *   const struct field_table uart_state = {
 *       .name = "uart", .version = 1, .size = sizeof(struct uart), .fields = uart_fields,
 *       .check = uart_state_check,   // refuses an illegal state, naming the field
 *       .loaded = uart_state_loaded, // re-arms timers, lines: what is derived from the fields
 *   };
 *
 * Stream of one thing: u32 length of name, name, u32 version, u32 instance, u32 payload length,
 * payload = the fields in table order, each element little-endian in its own width.
 */
#ifndef DOPPEL_BASE_FIELD_H
#define DOPPEL_BASE_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct field {
    const char *name;
    uint32_t offset; /* in the struct */
    uint16_t size;   /* of one element: 1, 2, 4 or 8 bytes */
    uint32_t count;  /* elements; 1 for a scalar */
};

#define FIELD(type, member)                                             \
    {                                                                   \
#member, offsetof(type, member), sizeof(((type *)0)->member), 1 \
    }
#define FIELD_ARRAY(type, member)                                        \
    {                                                                    \
#member, offsetof(type, member), sizeof(((type *)0)->member[0]), \
            sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]) \
    }
#define FIELD_END     \
    {                 \
        NULL, 0, 0, 0 \
    }

struct field_table {
    const char *name;
    uint32_t version;
    size_t size; /* sizeof the struct the offsets belong to */
    const struct field *fields;
    /* Both may be NULL. check sees a scratch copy and returns 0 or -EINVAL with the field's name in
     * the text; loaded runs on the live object after its fields were replaced. */
    int (*check)(const void *object, struct error *e);
    void (*loaded)(void *object);
};

/* A growing byte buffer; owner frees with field_buffer_fini. */
struct field_buffer {
    uint8_t *data;
    size_t size, capacity;
};
void field_buffer_fini(struct field_buffer *b);

/* Appends the section of one object. -ENOMEM only. */
int field_save(const struct field_table *t, uint32_t instance, const void *object,
               struct field_buffer *out);

/* Loads the section at *data, advancing *data and *size. The object is unchanged on any error: a
 * wrong name, version, instance or length, a truncated stream, or a state that check refuses. */
int field_load(const struct field_table *t, uint32_t instance, void *object, const uint8_t **data,
               size_t *size, struct error *e);

/* True when equal; otherwise *which (may be NULL) names the first field that differs. */
bool field_equal(const struct field_table *t, const void *a, const void *b, const char **which);

#endif
