/* SPDX-License-Identifier: MIT */
/*
 * The command line: one const table of options per command, from which parsing, --help and the
 * manual page are made. The parser is our own because the C library's (argp, getopt) answers a
 * mistake in two lines and takes abbreviations, which would make every later option a breach of
 * scripts. Forms: --name VALUE, --name=VALUE, --name for a switch; each at most once.
 */
#ifndef DOPPEL_CLI_OPTIONS_H
#define DOPPEL_CLI_OPTIONS_H

#include <stddef.h>
#include <stdio.h>

#include "base/error.h"
#include "machine/machine.h"

/* What a value is. ORDER setters */
enum cli_kind {
    CLI_SWITCH,        /* bool, no value */
    CLI_TEXT,          /* const char *, taken as it is */
    CLI_CPU,           /* const char *, as cpuid_spec_check takes it */
    CLI_FILE,          /* the same, the name of a file */
    CLI_OPTIONAL_FILE, /* struct cli_stats; the value needs `=` */
    CLI_SIZE,          /* uint64_t bytes, with K, M, G, T, P, E; whole pages */
    CLI_COUNT,         /* uint64_t */
    CLI_CHOICE,        /* enum: index into choices */
    CLI_LIST,          /* unsigned: bit i for choices[i]; words joined by commas */
    CLI_ENGINE,        /* const struct engine_ops *, by engine_find */
    CLI_CONSOLE,       /* const char *, as console_create takes it */
    CLI_KINDS
};

struct cli_option {
    const char *name;
    enum cli_kind kind;
    const char *value;    /* how help names the value; NULL for a switch */
    const char *standard; /* the default, parsed as if given; NULL = none */
    size_t offset;        /* of the member in struct cli_run */
    const char *const *choices;
    uint64_t min, max; /* of CLI_SIZE and CLI_COUNT */
    const char *help;
};

struct cli_stats {
    bool wanted;
    const char *file; /* NULL = stderr */
};

struct cli_run {
    struct machine_config machine;
    struct cli_stats stats;
    bool help;
};

extern const struct cli_option cli_run_options[]; /* ends with name NULL */

/* Fills *out from the words after `run`; they must outlive it. -EINVAL with the sentence. With
 * --help everything else may be missing. */
int cli_run_parse(int count, char *const words[], struct cli_run *out, struct error *e);

/* "512M" to bytes. -EINVAL: not a size; -ERANGE: it does not fit 64 bits. */
int cli_parse_size(const char *text, uint64_t *bytes);

struct cli_command {
    const char *name;
    const char *synopsis;
    const char *summary;
    const struct cli_option *options;
    int (*run)(int count, char *const words[]); /* the words after the command; returns a status */
};

/* commands ends with name NULL. */
void cli_help(FILE *out, const struct cli_command *commands);
void cli_help_command(FILE *out, const struct cli_command *command);
void cli_man(FILE *out, const struct cli_command *commands);
void cli_completion(FILE *out, const struct cli_command *commands); /* for bash */

#endif
