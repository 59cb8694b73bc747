/* SPDX-License-Identifier: MIT */
/* What is said when leader and follower differ: both states side by side, what led to it, and one
 * line that names it. On the vCPU's thread, once; lockstep then ends the machine. */
#include "engine/lockstep/lockstep.h"

#define WORDS_MAX 8 /* of memory shown */

/* ORDER enum entry_kind */
static const char *const kinds[ENTRY_KINDS] = {
    "RDTSC",
    "RDRAND",
    "read",
    "write",
    "RDMSR",
    "WRMSR",
    "CR8 read",
    "CR8 write",
    "CPUID sees the local APIC",
    "interrupt",
    "NMI",
    "INIT",
    "SIPI",
    "a device wrote memory",
    "a slice begins",
};

static const char *describe(const struct entry *x, char text[160])
{
    char what[96];

    if (x == NULL)
        return "nothing";
    switch (x->kind) {
    case ENTRY_READ:
    case ENTRY_WRITE:
        snprintf(what, sizeof(what), "%s of %u bytes at %s %#llx: %#llx", kinds[x->kind], x->size,
                 x->space == BUS_PIO ? "port" : "address", (unsigned long long)x->address,
                 (unsigned long long)x->value);
        break;
    case ENTRY_INTERRUPT:
    case ENTRY_NMI:
    case ENTRY_INIT:
    case ENTRY_SIPI:
        snprintf(what, sizeof(what), "%s %#llx, rflags %#llx", kinds[x->kind],
                 (unsigned long long)x->value, (unsigned long long)x->address);
        break;
    case ENTRY_TSC:
    case ENTRY_APIC_ENABLED:
    case ENTRY_SLICE:
        snprintf(what, sizeof(what), "%s", kinds[x->kind]);
        break;
    default:
        snprintf(what, sizeof(what), "%s %#llx: %#llx", kinds[x->kind],
                 (unsigned long long)x->address, (unsigned long long)x->value);
        break;
    }
    snprintf(text, 160, "%s, rip %#llx at %llu after %llu exceptions", what,
             (unsigned long long)x->rip, (unsigned long long)x->instructions,
             (unsigned long long)x->exceptions);
    return text;
}

void lockstep_entry_differs(struct lockstep *l, const struct entry *leader,
                            const struct entry *follower)
{
    char a[160], b[160];
    if (l->why[0] == '\0')
        snprintf(l->why, sizeof(l->why), "%s did: %s; %s did: %s", l->leader->name,
                 describe(leader, a), engine_interp.name, describe(follower, b));
}

void lockstep_field_name(const struct difference *d, char name[LOCKSTEP_NAME])
{
    static const char *const gpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    if (d->field->offset == offsetof(struct vcpu, gpr))
        snprintf(name, LOCKSTEP_NAME, "%s", gpr[d->index]);
    else if (d->field->count > 1)
        snprintf(name, LOCKSTEP_NAME, "%s[%u]", d->field->name, d->index);
    else
        snprintf(name, LOCKSTEP_NAME, "%s", d->field->name);
}

static void show(const char *name, uint64_t leader, uint64_t follower)
{
    fprintf(stderr, "  %-24s %016llx  %016llx\n", name, (unsigned long long)leader,
            (unsigned long long)follower);
}

static void show_register(void *context, const struct difference *d)
{
    char name[LOCKSTEP_NAME];
    lockstep_field_name(d, name);
    show(name, d->leader, d->follower);
}

static void show_memory(const struct lockstep *l)
{
    char name[LOCKSTEP_NAME];
    unsigned shown = 0;
    gpa_t page;

    if (!lockstep_memory(l, &page))
        return;
    const uint64_t *a = (const uint64_t *)mem_page(l->machine->mem, page, NULL);
    const uint64_t *b = (const uint64_t *)mem_page(&l->mem, page, NULL);
    for (unsigned n = 0; n < MEM_PAGE_SIZE / 8 && shown < WORDS_MAX; n++) {
        if (a[n] == b[n])
            continue;
        snprintf(name, sizeof(name), "memory %#llx", (unsigned long long)page.v + 8 * n);
        show(name, a[n], b[n]);
        shown++;
    }
}

static void show_recent(const struct lockstep *l)
{
    uint64_t n = l->recent_count > LOCKSTEP_RECENT ? l->recent_count - LOCKSTEP_RECENT : 0;
    char text[160];
    for (; n < l->recent_count; n++)
        fprintf(stderr, "  %s\n", describe(&l->recent[n % LOCKSTEP_RECENT], text));
}

void lockstep_report(struct lockstep *l)
{
    fprintf(stderr, "  %-24s %-16s  %s\n", "", l->leader->name, engine_interp.name);
    show("rip", l->v->rip, l->follower->rip);
    show("instructions", l->v->counters.instructions, l->follower->counters.instructions);
    lockstep_registers(l, show_register, NULL);
    show_memory(l);
    fprintf(stderr, "  what came through the gate of late:\n");
    show_recent(l);
    log_error("lockstep: slice %llu, instructions %llu to %llu: %s and %s differ: %s",
              (unsigned long long)l->slices, (unsigned long long)l->start,
              (unsigned long long)l->v->counters.instructions, l->leader->name, engine_interp.name,
              l->why);
}
