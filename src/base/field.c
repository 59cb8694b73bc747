/* SPDX-License-Identifier: MIT */
/* Walks field tables; see field.h. The stream is hostile until checked. No locks: the caller has
 * paused whatever changes the object. */
#include "base/field.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void field_buffer_fini(struct field_buffer *b)
{
    free(b->data);
    *b = (struct field_buffer){0};
}

static int append(struct field_buffer *b, const void *bytes, size_t n)
{
    if (b->capacity - b->size < n) {
        size_t want = b->capacity * 2 > b->size + n ? b->capacity * 2 : b->size + n;
        uint8_t *p = realloc(b->data, want);
        if (p == NULL)
            return -ENOMEM;
        b->data = p;
        b->capacity = want;
    }
    memcpy(b->data + b->size, bytes, n);
    b->size += n;
    return 0;
}

static int append_u32(struct field_buffer *b, uint32_t v)
{
    uint8_t le[4] = {v, v >> 8, v >> 16, v >> 24};
    return append(b, le, sizeof(le));
}

static bool take(const uint8_t **data, size_t *size, size_t n, const uint8_t **out)
{
    if (*size < n)
        return false;
    *out = *data;
    *data += n;
    *size -= n;
    return true;
}

static bool take_u32(const uint8_t **data, size_t *size, uint32_t *v)
{
    const uint8_t *p;
    if (!take(data, size, 4, &p))
        return false;
    *v = p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
    return true;
}

static size_t payload_size(const struct field_table *t)
{
    size_t n = 0;
    for (const struct field *f = t->fields; f->name != NULL; f++)
        n += (size_t)f->size * f->count;
    return n;
}

/* The host is x86-64 by definition of the product, so a field's bytes are already little-endian. */
int field_save(const struct field_table *t, uint32_t instance, const void *object,
               struct field_buffer *out)
{
    size_t old = out->size;
    size_t name_size = strlen(t->name);
    int err = append_u32(out, (uint32_t)name_size);
    if (err == 0)
        err = append(out, t->name, name_size);
    if (err == 0)
        err = append_u32(out, t->version);
    if (err == 0)
        err = append_u32(out, instance);
    if (err == 0)
        err = append_u32(out, (uint32_t)payload_size(t));
    for (const struct field *f = t->fields; err == 0 && f->name != NULL; f++)
        err = append(out, (const uint8_t *)object + f->offset, (size_t)f->size * f->count);
    if (err != 0)
        out->size = old;
    return err;
}

static int load_header(const struct field_table *t, uint32_t instance, const uint8_t **data,
                       size_t *size, struct error *e)
{
    uint32_t name_size, version, number, payload;
    const uint8_t *name;

    if (!take_u32(data, size, &name_size) || name_size > 255 ||
        !take(data, size, name_size, &name) || !take_u32(data, size, &version) ||
        !take_u32(data, size, &number) || !take_u32(data, size, &payload))
        return error_set(e, EINVAL, "saved state: truncated where section '%s' should begin",
                         t->name);
    if (name_size != strlen(t->name) || memcmp(name, t->name, name_size) != 0)
        return error_set(e, EINVAL, "saved state: section '%.*s' where '%s' was expected",
                         (int)name_size, (const char *)name, t->name);
    if (version != t->version)
        return error_set(e, EINVAL,
                         "saved state: section '%s' has version %u, this doppel reads version %u",
                         t->name, version, t->version);
    if (number != instance)
        return error_set(e, EINVAL, "saved state: section '%s' is instance %u, expected %u",
                         t->name, number, instance);
    if (payload != payload_size(t))
        return error_set(e, EINVAL, "saved state: section '%s' has %u bytes, expected %zu", t->name,
                         payload, payload_size(t));
    return 0;
}

int field_load(const struct field_table *t, uint32_t instance, void *object, const uint8_t **data,
               size_t *size, struct error *e)
{
    const uint8_t *p = *data, *payload;
    size_t left = *size;
    int err = load_header(t, instance, &p, &left, e);
    if (err != 0)
        return err;
    if (!take(&p, &left, payload_size(t), &payload))
        return error_set(e, EINVAL, "saved state: section '%s' is truncated", t->name);

    uint8_t *copy = aligned_alloc(64, (t->size + 63) & ~(size_t)63);
    if (copy == NULL)
        return error_set(e, ENOMEM, "saved state: no memory for section '%s'", t->name);
    memcpy(copy, object, t->size);
    for (const struct field *f = t->fields; f->name != NULL; f++) {
        memcpy(copy + f->offset, payload, (size_t)f->size * f->count);
        payload += (size_t)f->size * f->count;
    }
    if (t->check != NULL)
        err = t->check(copy, e);
    if (err == 0) {
        for (const struct field *f = t->fields; f->name != NULL; f++)
            memcpy((uint8_t *)object + f->offset, copy + f->offset, (size_t)f->size * f->count);
        if (t->loaded != NULL)
            t->loaded(object);
        *data = p;
        *size = left;
    }
    free(copy);
    return err;
}

bool field_equal(const struct field_table *t, const void *a, const void *b, const char **which)
{
    for (const struct field *f = t->fields; f->name != NULL; f++) {
        if (memcmp((const uint8_t *)a + f->offset, (const uint8_t *)b + f->offset,
                   (size_t)f->size * f->count) != 0) {
            if (which != NULL)
                *which = f->name;
            return false;
        }
    }
    return true;
}
