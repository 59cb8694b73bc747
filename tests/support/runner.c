/* SPDX-License-Identifier: MIT */
/* See runner.h. */
#include "runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HANDLERS 0x600u

static uint8_t sipi_vector(void *context)
{
    return ((struct runner *)context)->sipi;
}

static void init(void *context)
{
}

static uint8_t cr8_read(void *context)
{
    return 0;
}

static void cr8_write(void *context, uint8_t tpr)
{
}

static const struct vcpu_irq_ops irq_ops = {
    .sipi_vector = sipi_vector,
    .init = init,
    .cr8_read = cr8_read,
    .cr8_write = cr8_write,
};

void runner_put(struct runner *r, uint64_t address, const void *bytes, size_t n)
{
    if (mem_write(&r->f->mem, GPA(address), bytes, n) != 0)
        abort();
}

uint64_t runner_get(struct runner *r, uint64_t address, unsigned size)
{
    uint64_t value = 0;
    if (mem_read(&r->f->mem, GPA(address), &value, size) != 0)
        abort();
    return value;
}

static void vectors(struct runner *r)
{
    for (unsigned n = 0; n < 256; n++) {
        uint32_t entry = HANDLERS + 4 * n;
        runner_put(r, 4 * n, &entry, 4);
        runner_put(r, entry, "\xf4", 1);
    }
}

int runner_setup(void **state)
{
    struct runner *r = calloc(1, sizeof(*r));
    struct error e = {0};
    r->f = x86_fixture_create();
    r->v = &r->f->v;
    if (engine_interp.vm_init(&r->f->platform, &r->engine_vm, &e) != 0 ||
        engine_interp.vcpu_init(r->engine_vm, r->v, &e) != 0) {
        fprintf(stderr, "runner: %s\n", e.text);
        exit(1);
    }
    r->v->irq = &irq_ops;
    r->v->irq_context = r;
    vectors(r);
    r->v->seg[SEG_CS].selector = 0;
    r->v->seg[SEG_CS].base = 0;
    r->v->rip = RUNNER_CODE;
    r->v->gpr[RSP] = 0x7000;
    vcpu_update_mode(r->v);
    *state = r;
    return 0;
}

int runner_teardown(void **state)
{
    struct runner *r = *state;
    engine_interp.vcpu_fini(r->v);
    engine_interp.vm_fini(r->engine_vm);
    x86_fixture_destroy(r->f);
    free(r);
    return 0;
}

enum exit_reason runner_run(struct runner *r, uint64_t limit)
{
    return engine_interp.run(r->v, r->v->counters.instructions + limit);
}

int runner_vector(struct runner *r)
{
    enum exit_reason reason = runner_run(r, 1000);
    if (reason != EXIT_HLT) {
        fprintf(stderr, "runner: left by %s at %#llx\n", exit_names[reason],
                (unsigned long long)r->v->rip);
        return -2;
    }
    uint64_t rip = r->v->rip - 1;
    if (r->v->seg[SEG_CS].base != 0 || rip < HANDLERS || rip >= HANDLERS + 4 * 256)
        return -1;
    return (int)(rip - HANDLERS) / 4;
}
