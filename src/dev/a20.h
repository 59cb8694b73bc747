/* SPDX-License-Identifier: MIT */
/* The A20 gate, one line that two controllers drive; see a20.c. */
#ifndef DOPPEL_DEV_A20_H
#define DOPPEL_DEV_A20_H

#include "base/field.h"
#include "dev/events.h"

struct a20;
extern const struct field_table a20_state;

int a20_create(struct a20 **out, struct machine_sink sink, struct error *e);
void a20_destroy(struct a20 *a);
void a20_reset(struct a20 *a); /* opens it */

void a20_set(struct a20 *a, bool open);
bool a20_is_open(struct a20 *a);

#endif
