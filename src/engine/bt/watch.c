/* SPDX-License-Identifier: MIT */
/*
 * What is written for people to read: the trace of the units executed, and the map by which perf
 * names translated code (Linux tools/perf/Documentation/jit-interface.txt: a line "START SIZE name"
 * for each function, in hexadecimal, in /tmp/perf-PID.map).
 *
 * A trace wants each unit to be entered through bt_find, so units are not linked while there is
 * one.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

static int open_map(struct bt_vm *vm, struct error *e)
{
    char path[64];

    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    vm->perf_map = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (vm->perf_map == NULL)
        return error_set(e, errno, "--perf-map: cannot write %s: %s", path, strerror(errno));
    setvbuf(vm->perf_map, NULL, _IOLBF, 0); /* perf may look while we run */
    return 0;
}

int bt_watch_open(struct bt_vm *vm, struct error *e)
{
    const struct engine_config *c = vm->platform->engine_config;

    if (c == NULL)
        return 0;
    vm->trace = c->trace;
    vm->counting |= c->trace != NULL;
    return c->perf_map ? open_map(vm, e) : 0;
}

void bt_watch_close(struct bt_vm *vm)
{
    if (vm->perf_map != NULL && fclose(vm->perf_map) != 0)
        log_error("--perf-map: cannot write all of it: %s", strerror(errno));
    vm->perf_map = NULL;
}

void bt_watch_code(struct bt_vm *vm, const uint8_t *code, const uint8_t *end, const char *name,
                   uint64_t rip)
{
    if (vm->perf_map != NULL)
        fprintf(vm->perf_map, "%" PRIxPTR " %tx %s%" PRIx64 "\n", (uintptr_t)bt_exec(vm, code),
                end - code, name, rip);
}

void bt_watch_made(struct bt_vm *vm, const struct bt_unit *u)
{
    bt_watch_code(vm, u->code, u->code_end, "guest_", u->rip);
    bt_watch_code(vm, u->cold, u->cold_end, "guest_", u->rip);
}

void bt_watch_unit(struct vcpu *v)
{
    FILE *trace = bt_local(v)->vm->trace;

    if (trace == NULL)
        return;
    bt_vector_save(v);
    fprintf(trace, "%" PRIu64 " %" PRIx64 "\n", v->counters.instructions, v->rip + v->code_base);
}
