/* SPDX-License-Identifier: MIT */
/*
 * The checker: proves of a translation, from its bytes alone, that it stays within what translated
 * code may do. docs/checker.md has the rules. It shares nothing with the emitter but the layout of
 * structs: it decodes by Zydis and follows every path from every entry.
 */
#ifndef DOPPEL_ENGINE_BT_CHECK_H
#define DOPPEL_ENGINE_BT_CHECK_H

#include <stdio.h>

#include "engine/bt/bt.h"

#define BT_CHECK_WHY 256u

/* 0, or -EINVAL with the rule that is broken, where, and the instruction, in why[n]; -ENOMEM. The
 * caller holds vm->translating; no guest vector state is in the host's registers. */
int bt_check(const struct bt_vm *vm, const struct bt_unit *u, char *why, size_t n);
/* What a person needs to see why it was refused: the unit, disassembled. */
void bt_check_report(const struct bt_unit *u, FILE *f);

#endif
