/* SPDX-License-Identifier: MIT */
/*
 * The A20 gate: closed, it holds the processors' A20M# low, and their bit 20 of physical addresses
 * is 0 (SDM 3A 22.33; IBM Personal System/2 Technical Reference, "System Control Port A"). Port
 * 0x92 and the keyboard controller's output port drive one line here: the last that was written
 * decides, and both read it back. After a reset it is open, as firmware leaves it.
 *
 * Thread rule: a lock of its own, below those of the two devices. The machine is told under it.
 */
#include "dev/a20.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct a20 {
    pthread_mutex_t lock;
    struct machine_sink sink;
    uint8_t open;
};

int a20_create(struct a20 **out, struct machine_sink sink, struct error *e)
{
    struct a20 *a = calloc(1, sizeof(*a));
    if (a == NULL)
        return error_set(e, ENOMEM, "no memory for the A20 gate");
    pthread_mutex_init(&a->lock, NULL);
    a->sink = sink;
    a->open = true;
    *out = a;
    return 0;
}

void a20_destroy(struct a20 *a)
{
    if (a == NULL)
        return;
    pthread_mutex_destroy(&a->lock);
    free(a);
}

void a20_reset(struct a20 *a)
{
    a20_set(a, true);
}

void a20_set(struct a20 *a, bool open)
{
    pthread_mutex_lock(&a->lock);
    if (a->open != open) {
        a->open = open;
        a->sink.events->a20(a->sink.context, open);
    }
    pthread_mutex_unlock(&a->lock);
}

bool a20_is_open(struct a20 *a)
{
    pthread_mutex_lock(&a->lock);
    bool open = a->open;
    pthread_mutex_unlock(&a->lock);
    return open;
}

static int state_check(const void *object, struct error *e)
{
    const struct a20 *a = object;
    return a->open > 1 ? error_set(e, EINVAL, "saved state: a20: open is out of range") : 0;
}

static void state_loaded(void *object)
{
    struct a20 *a = object;
    pthread_mutex_lock(&a->lock);
    a->sink.events->a20(a->sink.context, a->open);
    pthread_mutex_unlock(&a->lock);
}

static const struct field fields[] = {
    FIELD(struct a20, open),
    FIELD_END,
};

const struct field_table a20_state = {
    .name = "a20",
    .version = 1,
    .size = sizeof(struct a20),
    .fields = fields,
    .check = state_check,
    .loaded = state_loaded,
};
