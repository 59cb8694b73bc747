/* SPDX-License-Identifier: MIT */
/* Group `strings`: the C library's routines, which choose their code by CPUID. The line `dispatch`
 * that bench-guest prints tells whether all sides chose the same. */
#include "bench.h"

#include <string.h>

#define SIZE  65536
#define LINES 512

static char *text, *target;
static uint16_t sizes[1024];

static void text_prepare(void)
{
    text = bench_pages(SIZE + 4096);
    target = bench_pages(SIZE + 4096);
    bench_text(text, SIZE);
}

/* Most copies of real programs are short; some are pages. */
void copy_prepare(void)
{
    uint64_t state = 555;
    text_prepare();
    for (unsigned i = 0; i < 1024; i++) {
        uint64_t r = bench_random(&state);
        unsigned bits = 3 + (unsigned)(r >> 60) * 10 / 16;
        sizes[i] = (uint16_t)((r & ((1u << bits) - 1)) + 1);
    }
}

uint64_t copy_run(uint64_t work)
{
    for (uint64_t n = 0; n < work; n++)
        for (unsigned i = 0; i < 1024; i++)
            memcpy(target + (i * 61) % SIZE, text + ((i + n) * 37) % SIZE, sizes[i]);
    return bench_hash(target, SIZE);
}

void copy_rep_prepare(void)
{
    text_prepare();
}

/* REP MOVSQ and REP STOSB, as kernels and firmware use them. */
uint64_t copy_rep_run(uint64_t work)
{
    for (uint64_t n = 0; n < work; n++)
        for (unsigned i = 0; i < 16; i++) {
            void *to = target + i * 4096, *from = text + ((i + n) & 15) * 4096;
            uint64_t count = 512 - i * 16;
            __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count)::"memory");
            count = 128;
            __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"((int)n) : "memory");
        }
    return bench_hash(target, SIZE);
}

/* One string after another: words of 1 to 12 letters, lines of 80, pages. */
void length_prepare(void)
{
    text_prepare();
    for (unsigned i = 0; i < SIZE; i++)
        if (i < SIZE / 4 ? text[i] == ' ' : i < SIZE / 2 ? i % 80 == 0 : i % 4096 == 0)
            text[i] = 0;
    text[SIZE] = 0;
}

uint64_t length_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++)
        for (const char *at = text; at < text + SIZE;) {
            size_t length = strlen(at);
            sum = sum * 31 + length;
            at += length + 1;
        }
    return sum;
}

void find_byte_prepare(void)
{
    text_prepare();
    for (unsigned i = 97; i < SIZE; i += 97 + i % 331)
        text[i] = '\n';
    text[SIZE - 1] = '\n';
}

uint64_t find_byte_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++)
        for (const char *at = text; at < text + SIZE;) {
            at = memchr(at, '\n', (size_t)(text + SIZE - at));
            sum = sum * 31 + (size_t)(at - text);
            at++;
        }
    return sum;
}

void find_string_prepare(void)
{
    text_prepare();
    memcpy(text + SIZE - 32, "the needle in this haystack", 28);
}

uint64_t find_string_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++)
        sum = sum * 31 + (size_t)(strstr(text + (n & 63), "needle in this") - text);
    return sum;
}

/* Sorting lines by insertion of pointers: strcmp with long common beginnings. */
static const char *lines[LINES];

void compare_prepare(void)
{
    text_prepare();
    for (unsigned i = 0; i < LINES; i++) {
        char *line = text + i * 128;
        memcpy(line, "/usr/share/doc/common/beginning/", 32);
        line[127] = 0;
        lines[i] = line;
    }
}

uint64_t compare_run(uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++)
        for (unsigned i = 0; i < LINES; i++) {
            int order = strcmp(lines[i], lines[(i * 7 + n) % LINES]);
            sum = sum * 31 + (order > 0) + 2 * (order < 0);
        }
    return sum;
}
