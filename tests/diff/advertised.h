/* SPDX-License-Identifier: MIT */
/* Which of Zydis' instruction sets the guest is told of by CPUID (SDM 2A, CPUID; AMD APM 3 E). */
#ifndef DOPPEL_TESTS_DIFF_ADVERTISED_H
#define DOPPEL_TESTS_DIFF_ADVERTISED_H

#include <stdbool.h>
#include <stdint.h>

#include <Zydis/Zydis.h>

#include "base/error.h"

/* Reads the model that is tested ("max"); to be called first. */
int features_init(struct error *e);

bool features_advertise(ZydisISASet set);

/* A decoder that sees what a processor with these features sees: without LZCNT, CET or MPX their
 * encodings are those of older instructions. */
void features_decoder(ZydisDecoder *decoder, bool code32);

bool features_amd(void);           /* vendor */
uint64_t features_xcr0(void);      /* that the guest may set */
uint64_t features_host_xcr0(void); /* that the host's kernel has set */

#endif
