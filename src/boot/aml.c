/* SPDX-License-Identifier: MIT */
/* AML writer; see aml.h. Any thread. Nothing here comes from the guest. */
#include "boot/aml.h"

#include <string.h>

enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_EXT = 0x5b,
    OP_EXT_DEVICE = 0x82,
};

void aml_init(struct aml *a, uint8_t *bytes, size_t capacity)
{
    *a = (struct aml){.bytes = bytes, .capacity = capacity};
}

static void put(struct aml *a, const void *bytes, size_t n)
{
    if (a->failed || n > a->capacity - a->size) {
        a->failed = true;
        return;
    }
    memcpy(a->bytes + a->size, bytes, n);
    a->size += n;
}

static void put8(struct aml *a, uint8_t value)
{
    put(a, &value, 1);
}

static void put_name(struct aml *a, const char *name)
{
    put(a, name, strlen(name));
}

static void open_package(struct aml *a)
{
    if (a->depth == AML_DEPTH)
        a->failed = true;
    if (!a->failed)
        a->open[a->depth++] = a->size;
}

/* PkgLength (ACPI 6.4, 20.2.4) counts itself: one byte up to 63, else 4 bits and 1 to 3 bytes. */
static size_t encode_length(size_t content, uint8_t out[4])
{
    if (content + 1 < 0x40) {
        out[0] = (uint8_t)(content + 1);
        return 1;
    }
    size_t extra = 1;
    while (content + 1 + extra >= (size_t)1 << (4 + 8 * extra))
        extra++;
    size_t length = content + 1 + extra;
    out[0] = (uint8_t)(extra << 6 | (length & 0xf));
    for (size_t i = 0; i < extra; i++)
        out[1 + i] = (uint8_t)(length >> (4 + 8 * i));
    return 1 + extra;
}

void aml_end(struct aml *a)
{
    uint8_t length[4];
    if (a->depth == 0)
        a->failed = true;
    if (a->failed)
        return;
    size_t start = a->open[--a->depth];
    size_t content = a->size - start;
    size_t n = content < (1u << 20) ? encode_length(content, length) : 0;
    if (n == 0 || n > a->capacity - a->size) {
        a->failed = true;
        return;
    }
    memmove(a->bytes + start + n, a->bytes + start, content);
    memcpy(a->bytes + start, length, n);
    a->size += n;
}

void aml_begin_scope(struct aml *a, const char *path)
{
    put8(a, OP_SCOPE);
    open_package(a);
    put_name(a, path);
}

void aml_begin_device(struct aml *a, const char *name)
{
    put8(a, OP_EXT);
    put8(a, OP_EXT_DEVICE);
    open_package(a);
    put_name(a, name);
}

void aml_begin_package(struct aml *a, uint8_t elements)
{
    put8(a, OP_PACKAGE);
    open_package(a);
    put8(a, elements);
}

void aml_name(struct aml *a, const char *name)
{
    put8(a, OP_NAME);
    put_name(a, name);
}

void aml_integer(struct aml *a, uint64_t value)
{
    if (value <= 1) {
        put8(a, value ? OP_ONE : OP_ZERO);
        return;
    }
    unsigned size = value <= 0xff ? 1 : value <= 0xffff ? 2 : value <= 0xffffffff ? 4 : 8;
    put8(a, size == 1 ? OP_BYTE : size == 2 ? OP_WORD : size == 4 ? OP_DWORD : OP_QWORD);
    put(a, &value, size);
}

void aml_string(struct aml *a, const char *text)
{
    put8(a, OP_STRING);
    put(a, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Compressed EISA ID (ACPI 6.4, 19.3.4): three letters of 5 bits, four hex digits, big-endian. */
void aml_eisa_id(struct aml *a, const char *id)
{
    if (strlen(id) != 7) {
        a->failed = true;
        return;
    }
    uint32_t value = 0;
    for (unsigned i = 0; i < 3; i++)
        value = value << 5 | (uint32_t)((id[i] - 'A' + 1) & 0x1f);
    for (unsigned i = 3; i < 7; i++)
        value = value << 4 | (hex_digit(id[i]) & 0xf);
    value = __builtin_bswap32(value);
    put8(a, OP_DWORD);
    put(a, &value, 4);
}

/* A buffer is its package length, its size as an integer, its bytes. The size is known at the end
 * and fits a byte, so that there is one place to fill in. */
void aml_begin_resources(struct aml *a)
{
    put8(a, OP_BUFFER);
    open_package(a);
    put8(a, OP_BYTE);
    put8(a, 0);
}

void aml_end_resources(struct aml *a)
{
    put(a, "\x79\x00", 2); /* end tag; checksum 0 = do not check (ACPI 6.4, 6.4.2.9) */
    if (a->failed || a->depth == 0)
        return;
    size_t start = a->open[a->depth - 1];
    size_t size = a->size - start - 2;
    if (size > 0xff)
        a->failed = true;
    a->bytes[start + 1] = (uint8_t)size;
    aml_end(a);
}

void aml_io(struct aml *a, uint16_t port, uint8_t length)
{
    uint8_t d[8] = {0x47, 1 /* decodes 16 bits */, [6] = 1 /* alignment */, [7] = length};
    memcpy(d + 2, &port, 2);
    memcpy(d + 4, &port, 2);
    put(a, d, sizeof(d));
}

void aml_irq(struct aml *a, uint8_t irq)
{
    uint16_t mask = (uint16_t)(1u << (irq & 15));
    put8(a, 0x22);
    put(a, &mask, 2);
}

void aml_memory32(struct aml *a, uint32_t base, uint32_t length)
{
    put(a, "\x86\x09\x00\x01", 4); /* 32-bit fixed range, writable */
    put(a, &base, 4);
    put(a, &length, 4);
}

enum { WINDOW_MEMORY = 0, WINDOW_IO = 1, WINDOW_BUS = 2 }; /* ACPI 6.4, table 6.44 */
#define WINDOW_FIXED    0x0c /* both ends are, and the bridge produces it (table 6.45) */
#define WINDOW_IO_ALL   0x03 /* of ISA and not (table 6.48) */
#define WINDOW_WRITABLE 0x01 /* and not cacheable (table 6.47) */

static void word_window(struct aml *a, uint8_t type, uint8_t flags, uint16_t first, uint16_t last)
{
    const uint16_t range[5] = {0, first, last, 0, (uint16_t)(last - first + 1)};
    const uint8_t head[6] = {0x88, 0x0d, 0x00, type, WINDOW_FIXED, flags};
    put(a, head, sizeof(head));
    put(a, range, sizeof(range));
}

void aml_bus_window(struct aml *a, uint16_t first, uint16_t last)
{
    word_window(a, WINDOW_BUS, 0, first, last);
}

void aml_io_window(struct aml *a, uint16_t first, uint16_t last)
{
    word_window(a, WINDOW_IO, WINDOW_IO_ALL, first, last);
}

void aml_memory_window(struct aml *a, uint32_t first, uint32_t last)
{
    const uint32_t range[5] = {0, first, last, 0, last - first + 1};
    const uint8_t head[6] = {0x87, 0x17, 0x00, WINDOW_MEMORY, WINDOW_FIXED, WINDOW_WRITABLE};
    put(a, head, sizeof(head));
    put(a, range, sizeof(range));
}
