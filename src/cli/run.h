/* SPDX-License-Identifier: MIT */
/* `doppel run`: options, signals, and the controller's loop around one machine. */
#ifndef DOPPEL_CLI_RUN_H
#define DOPPEL_CLI_RUN_H

#include "cli/options.h"

/* The words after `run`; returns the exit status of the process. */
int cli_run(int count, char *const words[]);

#endif
