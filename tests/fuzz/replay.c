/* SPDX-License-Identifier: MIT */
/*
 * A fuzz target without libFuzzer: runs it over the inputs that its file keeps, and over mutants of
 * each, so that every build and sanitizer runs every target (`make check`).
 *
 *   TARGET_replay FILE [DIRECTORY]      with a directory: writes the inputs there, runs nothing
 *
 * FILE has one input a line, in hexadecimal digits; lines that begin with # say what it is.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX 4096u
#define MUTANTS   50u

int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint64_t random64(void) /* xorshift64 */
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* In a block of its own size, so that AddressSanitizer sees a read past the end. */
static void run(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL)
        abort();
    memcpy(copy, bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void run_mutant(const uint8_t *bytes, size_t size)
{
    uint8_t mutant[INPUT_MAX];
    memcpy(mutant, bytes, size);
    for (unsigned n = 1 + random64() % 4; n > 0 && size > 0; n--) {
        uint8_t *at = &mutant[random64() % size];
        *at = random64() & 1 ? (uint8_t)random64() : *at ^ (uint8_t)(1u << random64() % 8);
    }
    run(mutant, size > 0 && random64() % 8 == 0 ? random64() % size : size);
}

/* The bytes of a line of digits; -1 when it is anything else. */
static long parse(const char *line, uint8_t *bytes)
{
    size_t n = 0;
    unsigned byte;
    for (; line[0] != '\n' && line[0] != '\0'; line += 2) {
        if (n == INPUT_MAX || strspn(line, "0123456789abcdef") < 2 ||
            sscanf(line, "%2x", &byte) != 1)
            return -1;
        bytes[n++] = (uint8_t)byte;
    }
    return (long)n;
}

static int write_input(const char *directory, unsigned number, const uint8_t *bytes, size_t size)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/input-%u", directory, number);
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(bytes, 1, size, f) != size || fclose(f) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static char line[2 * INPUT_MAX + 2];
    static uint8_t bytes[INPUT_MAX];
    FILE *f = argc == 2 || argc == 3 ? fopen(argv[1], "r") : NULL;
    unsigned inputs = 0, number = 0;

    if (f == NULL) {
        fprintf(stderr, "usage: %s FILE [DIRECTORY]\n", argv[0]);
        return 2;
    }
    if (argc == 2 && LLVMFuzzerInitialize != NULL)
        LLVMFuzzerInitialize(&argc, &argv);
    while (number++, fgets(line, sizeof(line), f) != NULL) {
        if (line[0] == '#')
            continue;
        long size = parse(line, bytes);
        if (size < 0) {
            fprintf(stderr, "%s:%u: not a line of hexadecimal bytes\n", argv[1], number);
            return 2;
        }
        inputs++;
        if (argc == 3) {
            if (write_input(argv[2], inputs, bytes, (size_t)size) != 0)
                return 2;
            continue;
        }
        /* Should this be the last line, it names the culprit. */
        fprintf(stderr, "%s:%u\n", argv[1], number);
        run(bytes, (size_t)size);
        for (unsigned n = 0; n < MUTANTS; n++)
            run_mutant(bytes, (size_t)size);
    }
    fclose(f);
    printf("%u inputs, %u runs\n", inputs, argc == 3 ? 0 : inputs * (1 + MUTANTS));
    return inputs == 0;
}
