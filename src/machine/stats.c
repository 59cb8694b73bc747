/* SPDX-License-Identifier: MIT */
/* --stats: what the machine did, as one JSON object. Counters are those of struct vcpu, the same
 * under every engine. Written while nothing runs; times are in seconds or, where named, ns. */
#include <errno.h>
#include <sys/resource.h>

#include <jansson.h>

#include "machine/internal.h"

static void set_count(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

static json_t *exits(const struct pc *pc)
{
    json_t *all = json_object();

    for (unsigned reason = 0; reason < EXIT_REASONS; reason++) {
        uint64_t count = 0, ns = 0;
        for (unsigned i = 0; i < pc->vcpu_count; i++) {
            count += pc->vcpus[i]->counters.exits[reason];
            ns += pc->vcpus[i]->counters.exit_ns[reason];
        }
        if (count == 0 && ns == 0)
            continue;
        json_t *one = json_object();
        set_count(one, "count", count);
        set_count(one, "ns", ns);
        json_object_set_new(all, exit_names[reason], one);
    }
    return all;
}

static const struct {
    const char *name;
    size_t offset;
} counter_names[] = {
    {"tlb_misses", offsetof(struct vcpu_counters, tlb_misses)},
    {"tlb_flushes", offsetof(struct vcpu_counters, tlb_flushes)},
    {"page_walks", offsetof(struct vcpu_counters, page_walks)},
    {"page_faults", offsetof(struct vcpu_counters, page_faults)},
    {"code_pages_decoded", offsetof(struct vcpu_counters, code_pages_decoded)},
    {"code_pages_invalidated", offsetof(struct vcpu_counters, code_pages_invalidated)},
    {"instructions_decoded", offsetof(struct vcpu_counters, instructions_decoded)},
    {"split_locks", offsetof(struct vcpu_counters, split_locks)},
};

static uint64_t counter_sum(const struct pc *pc, size_t offset)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < pc->vcpu_count; i++)
        sum += *(const uint64_t *)((const char *)&pc->vcpus[i]->counters + offset);
    return sum;
}

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

/* null: nobody has counted them. */
static void add_instructions(json_t *root, const struct machine *m, double cpu_seconds)
{
    uint64_t n = counter_sum(&m->pc, offsetof(struct vcpu_counters, instructions));
    bool known = m->pc.engine->counts_always || m->config.clock == CLOCK_SOURCE_INSTRUCTIONS;
    double rate = cpu_seconds > 0 ? (double)n / cpu_seconds : 0;

    json_object_set_new(root, "instructions", known ? json_integer((json_int_t)n) : json_null());
    json_object_set_new(root, "instructions_per_cpu_second", known ? json_real(rate) : json_null());
}

static void add_time(json_t *root, const struct machine *m)
{
    double wall = (double)(machine_host_ns() - m->created_ns) / 1e9;
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    double cpu = seconds(used.ru_utime) + seconds(used.ru_stime);
    json_object_set_new(root, "wall_seconds", json_real(wall));
    json_object_set_new(root, "cpu_seconds", json_real(cpu));
    json_object_set_new(root, "user_seconds", json_real(seconds(used.ru_utime)));
    json_object_set_new(root, "system_seconds", json_real(seconds(used.ru_stime)));
    json_object_set_new(root, "guest_seconds", json_real((double)clock_now(m->pc.clock) / 1e9));
    add_instructions(root, m, cpu);
    set_count(root, "max_resident_kib", (uint64_t)used.ru_maxrss);
}

/* What the guest asked for and nobody has. */
static json_t *unclaimed(const struct pc *pc)
{
    json_t *o = json_object();

    set_count(o, "pio", pc->bus.unclaimed[BUS_PIO]);
    set_count(o, "mmio", pc->bus.unclaimed[BUS_MMIO]);
    set_count(o, "msr_reads", pc->msrs.unknown_reads);
    set_count(o, "msr_writes", pc->msrs.unknown_writes);
    set_count(o, "rom_writes", pc->mem.rom_writes);
    return o;
}

/* What the guest used and is not supported: name -> count, over all vCPUs. */
static json_t *unsupported(const struct pc *pc)
{
    json_t *o = json_object();

    for (unsigned i = 0; i < pc->vcpu_count; i++) {
        for (unsigned n = 0; n < VCPU_UNSUPPORTED_MAX; n++) {
            const struct vcpu_unsupported *row = &pc->vcpus[i]->unsupported_counts[n];
            if (row->count != 0)
                set_count(o, row->name,
                          row->count + (uint64_t)json_integer_value(json_object_get(o, row->name)));
        }
    }
    return o;
}

/* root[group][name] += value; group NULL = root[name]. */
static void add_own(void *context, const char *group, const char *name, uint64_t value)
{
    json_t *o = context;
    if (group != NULL) {
        if (json_object_get(o, group) == NULL)
            json_object_set_new(o, group, json_object());
        o = json_object_get(o, group);
    }
    set_count(o, name, value + (uint64_t)json_integer_value(json_object_get(o, name)));
}

/* What the engine counts beside what all count. */
static json_t *own(const struct pc *pc)
{
    json_t *o = json_object();
    for (unsigned i = 0; i < pc->vcpu_count && pc->engine->stats != NULL; i++)
        pc->engine->stats(pc->vcpus[i], add_own, o);
    return o;
}

int machine_stats_write(struct machine *m, FILE *out)
{
    const struct pc *pc = &m->pc;
    json_t *root = json_object();

    json_object_set_new(root, "engine", json_string(pc->engine->name));
    json_object_set_new(
        root, "clock", json_string(m->config.clock == CLOCK_SOURCE_REAL ? "real" : "instructions"));
    set_count(root, "cpus", pc->vcpu_count);
    set_count(root, "mem_bytes", m->config.mem);
    add_time(root, m);
    json_object_set_new(root, "exits", exits(pc));
    for (size_t i = 0; i < sizeof(counter_names) / sizeof(counter_names[0]); i++)
        set_count(root, counter_names[i].name, counter_sum(pc, counter_names[i].offset));
    json_object_set_new(root, pc->engine->name, own(pc));
    json_object_set_new(root, "unclaimed", unclaimed(pc));
    json_object_set_new(root, "unsupported", unsupported(pc));

    errno = 0;
    bool ok =
        json_dumpf(root, out, JSON_INDENT(2)) == 0 && putc('\n', out) != EOF && fflush(out) == 0;
    int rc = ok ? 0 : errno != 0 ? -errno : -EIO;
    json_decref(root);
    return rc;
}
