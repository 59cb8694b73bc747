/* SPDX-License-Identifier: MIT */
/* Any words after `doppel run`, split at each NUL of the input (libFuzzer). */
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

#define WORDS_MAX 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *words[WORDS_MAX];
    struct cli_run run;
    struct error e = {0};
    int count = 0;

    if (text == NULL)
        abort();
    memcpy(text, data, size);
    text[size] = '\0';
    for (size_t at = 0; at < size && count < WORDS_MAX; at += strlen(text + at) + 1)
        words[count++] = text + at;
    int r = cli_run_parse(count, words, &run, &e);
    if (r != -e.code || (r != 0 && e.text[0] == '\0'))
        abort(); /* every refusal has its sentence */
    free(text);
    return 0;
}
