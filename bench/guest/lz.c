/* SPDX-License-Identifier: MIT */
/* LZ77 with a hash table of 3-byte prefixes: compresses 256 KiB of text, expands it again. */
#include "bench.h"

#include <string.h>

#define SIZE      262144
#define HASH_BITS 14
#define WINDOW    32768
#define MATCH_MIN 4
#define MATCH_MAX 255

static uint8_t text[SIZE], packed[SIZE * 2], back[SIZE];
static uint32_t head[1 << HASH_BITS];

void lz_prepare(void)
{
    bench_text((char *)text, SIZE);
}

static uint32_t prefix(const uint8_t *p)
{
    uint32_t v = p[0] | p[1] << 8 | (uint32_t)p[2] << 16;
    return (v * 0x9e3779b1u) >> (32 - HASH_BITS);
}

static unsigned match_length(const uint8_t *a, const uint8_t *b, unsigned most)
{
    unsigned n = 0;
    while (n < most && a[n] == b[n])
        n++;
    return n;
}

/* A literal is 0 and the byte; a match its length and 2 bytes of distance. */
static size_t compress(void)
{
    size_t out = 0;
    memset(head, 0xff, sizeof(head));
    for (uint32_t at = 0; at < SIZE;) {
        unsigned length = 0, left = SIZE - at;
        uint32_t from = 0;
        if (left > MATCH_MIN) {
            uint32_t *slot = &head[prefix(text + at)];
            from = *slot;
            *slot = at;
            if (from < at && at - from < WINDOW)
                length = match_length(text + from, text + at, left < MATCH_MAX ? left : MATCH_MAX);
        }
        if (length < MATCH_MIN) {
            packed[out++] = 0;
            packed[out++] = text[at++];
            continue;
        }
        packed[out++] = (uint8_t)length;
        packed[out++] = (uint8_t)(at - from);
        packed[out++] = (uint8_t)((at - from) >> 8);
        at += length;
    }
    return out;
}

static void expand(size_t size)
{
    size_t out = 0;
    for (size_t at = 0; at < size;) {
        unsigned length = packed[at];
        if (length == 0) {
            back[out++] = packed[at + 1];
            at += 2;
            continue;
        }
        unsigned distance = packed[at + 1] | packed[at + 2] << 8;
        for (unsigned i = 0; i < length; i++, out++)
            back[out] = back[out - distance];
        at += 3;
    }
}

uint64_t lz_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++) {
        size_t size = compress();
        expand(size);
        sum = bench_mix(sum, size);
    }
    return bench_mix(sum, bench_hash(back, SIZE));
}
