/* SPDX-License-Identifier: MIT */
/* The program: picks the command from one const table. */
#include <stdio.h>
#include <string.h>

#include "cli/run.h"

static const struct cli_command commands[] = {
    {
        .name = "run",
        .synopsis = "(--kernel FILE | --firmware FILE) [OPTION]...",
        .summary = "start a virtual machine and run it to its end",
        .options = cli_run_options,
        .run = cli_run,
    },
    {.name = NULL},
};

/* What is printed for a reader must have arrived: a full disk is a failure. */
static int printed(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    log_error("cannot write to stdout");
    return MACHINE_FAILED;
}

static const struct cli_command *find(const char *name)
{
    for (const struct cli_command *c = commands; c->name != NULL; c++) {
        if (strcmp(c->name, name) == 0)
            return c;
    }
    return NULL;
}

/* --help must win over whatever else is wrong with the words. */
static bool asks_help(int count, char *words[])
{
    for (int i = 0; i < count; i++) {
        if (strcmp(words[i], "--help") == 0)
            return true;
    }
    return false;
}

int main(int argc, char *argv[])
{
    if (argc < 2) {
        log_error("no command; see doppel --help");
        return MACHINE_BAD_INPUT;
    }
    if (strcmp(argv[1], "--help") == 0) {
        cli_help(stdout, commands);
        return printed();
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("doppel " DOPPEL_VERSION); /* the Makefile's */
        return printed();
    }
    if (strcmp(argv[1], "--completion") == 0) {
        cli_completion(stdout, commands);
        return printed();
    }
    if (strcmp(argv[1], "--man") == 0) {
        cli_man(stdout, commands);
        return printed();
    }
    const struct cli_command *command = find(argv[1]);
    if (command == NULL) {
        log_error("unknown %s '%s'; see doppel --help", argv[1][0] == '-' ? "option" : "command",
                  argv[1]);
        return MACHINE_BAD_INPUT;
    }
    if (asks_help(argc - 2, argv + 2)) {
        cli_help_command(stdout, command);
        return printed();
    }
    return command->run(argc - 2, argv + 2);
}
