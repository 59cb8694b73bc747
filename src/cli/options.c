/* SPDX-License-Identifier: MIT */
/* The options of `doppel run` and the parser over them; see options.h. Words come from the user who
 * starts doppel; every error is one sentence that names the option and says what to do. */
#include "cli/options.h"

#include <errno.h>
#include <string.h>

#include "boot/memmap.h"
#include "machine/cgroup.h"
#include "x86/cpuid.h"

/* ORDER enum clock_source, enum machine_action */
static const char *const clock_names[] = {"real", "instructions", NULL};
static const char *const action_names[] = {"exit", "reset", NULL};

static const char *const check_names[] = {"translations", "lockstep",
                                          NULL}; /* ORDER enum engine_check */

#define MEMBER(m) offsetof(struct cli_run, m)

const struct cli_option cli_run_options[] = {
    {.name = "kernel",
     .kind = CLI_FILE,
     .value = "FILE",
     .offset = MEMBER(machine.kernel),
     .help = "the kernel: bzImage, ELF with the PVH note, or multiboot"},
    {.name = "firmware",
     .kind = CLI_FILE,
     .value = "FILE",
     .offset = MEMBER(machine.firmware),
     .help = "a ROM to start in lieu of a kernel, such as SeaBIOS"},
    {.name = "initrd",
     .kind = CLI_FILE,
     .value = "FILE",
     .offset = MEMBER(machine.initrd),
     .help = "the initial RAM disk (multiboot: the first module)"},
    {.name = "append",
     .kind = CLI_TEXT,
     .value = "TEXT",
     .standard = "",
     .offset = MEMBER(machine.append),
     .help = "the kernel's command line"},
    {.name = "mem",
     .kind = CLI_SIZE,
     .value = "SIZE",
     .standard = "512M",
     .offset = MEMBER(machine.mem),
     .min = MEMMAP_RAM_MIN,
     .max = MEMMAP_RAM_MAX,
     .help = "guest RAM in bytes, or with K, M, G, T; whole pages of 4K"},
    {.name = "cpus",
     .kind = CLI_COUNT,
     .value = "N",
     .standard = "1",
     .offset = MEMBER(machine.cpus),
     .min = 1,
     .max = MACHINE_CPUS_MAX,
     .help = "processors of the guest"},
    {.name = "cpu-weight",
     .kind = CLI_COUNT,
     .value = "N",
     .offset = MEMBER(machine.cpu_weight),
     .min = 1,
     .max = CGROUP_WEIGHT_MAX,
     .help = "the guest's share of busy host processors against others of weight 100 (cgroup v2)"},
    {.name = "cpu-cap",
     .kind = CLI_COUNT,
     .value = "PERCENT",
     .offset = MEMBER(machine.cpu_cap),
     .min = 1,
     .max = 100 * MACHINE_CPUS_MAX,
     .help = "the most that the guest's processors take together; 100 is one of the host's "
             "(cgroup v2)"},
    {.name = "cpu",
     .kind = CLI_CPU,
     .value = "MODEL[,vendor=VENDOR][,-FEATURE]...",
     .standard = "max",
     .offset = MEMBER(machine.cpu),
     .help = "the model of the processor, whose it is (intel or amd; else as the host's), and the "
             "features that it shall lack (doppel --man lists them)"},
    {.name = "engine",
     .kind = CLI_ENGINE,
     .value = "NAME",
     .standard = "auto",
     .offset = MEMBER(machine.engine),
     .help = "the way of running the processor"},
    {.name = "console",
     .kind = CLI_CONSOLE,
     .value = "WHERE",
     .standard = "stdio",
     .offset = MEMBER(machine.console),
     .help = "the first serial port: stdio (Ctrl-A x quits), file:PATH or none"},
    {.name = "clock",
     .kind = CLI_CHOICE,
     .value = "SOURCE",
     .standard = "real",
     .offset = MEMBER(machine.clock),
     .choices = clock_names,
     .help = "time for the guest: real, or instructions (executed; two runs are equal)"},
    {.name = "on-reset",
     .kind = CLI_CHOICE,
     .value = "ACTION",
     .standard = "reset",
     .offset = MEMBER(machine.on_reset),
     .choices = action_names,
     .help = "when the guest resets the machine: exit or reset"},
    {.name = "on-triple-fault",
     .kind = CLI_CHOICE,
     .value = "ACTION",
     .standard = "exit",
     .offset = MEMBER(machine.on_triple_fault),
     .choices = action_names,
     .help = "when the guest dies of a triple fault: exit (status 6) or reset, as hardware does"},
    {.name = "debug-exit",
     .kind = CLI_SWITCH,
     .offset = MEMBER(machine.debug_exit),
     .help = "a write of V to port 0xf4 ends with status (V << 1) | 1"},
    {.name = "test-device",
     .kind = CLI_SWITCH,
     .offset = MEMBER(machine.test_device),
     .help = "a device for test guests, as QEMU's pc-testdev: ports 0xe0, 0xe4, 0x2000, memory at "
             "0xff000000"},
    {.name = "check",
     .kind = CLI_LIST,
     .value = "LIST",
     .offset = MEMBER(machine.checks),
     .choices = check_names,
     .help = "what is checked of the engine, words joined by commas: translations (engine bt); "
             "lockstep (bt unless --engine says so): the reference engine runs beside it, status "
             "4 at the first difference"},
    {.name = "check-slice",
     .kind = CLI_COUNT,
     .value = "N",
     .offset = MEMBER(machine.check_slice),
     .min = 1,
     .max = 1u << 20,
     .help = "under lockstep: instructions between two comparisons (8192)"},
    {.name = "check-inject",
     .kind = CLI_COUNT,
     .value = "N",
     .offset = MEMBER(machine.check_inject),
     .min = 1,
     .max = UINT64_MAX,
     .help =
         "under lockstep: flip one bit, chosen by N, in the result of slice N, to see it found"},
    {.name = "stats",
     .kind = CLI_OPTIONAL_FILE,
     .value = "FILE",
     .offset = MEMBER(stats),
     .help = "at exit, statistics as JSON on stderr, or into FILE"},
    {.name = "trace",
     .kind = CLI_FILE,
     .value = "FILE",
     .offset = MEMBER(machine.trace),
     .help = "a line for each unit of guest code executed (interp: each instruction): instructions "
             "retired before it, its address; - is stdout"},
    {.name = "bt-cache",
     .kind = CLI_SIZE,
     .value = "SIZE",
     .standard = "128M",
     .offset = MEMBER(machine.bt_cache),
     .min = 1u << 20,
     .max = 1u << 30,
     .help = "room for translated code; when it is full, it is made again"},
    {.name = "perf-map",
     .kind = CLI_SWITCH,
     .offset = MEMBER(machine.perf_map),
     .help = "write /tmp/perf-PID.map, by which perf names translated code"},
    {.name = "help", .kind = CLI_SWITCH, .offset = MEMBER(help), .help = "this list"},
    {.name = NULL},
};

int cli_parse_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "KMGTPE";
    uint64_t n = 0;
    const char *p = text;

    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n))
            return -ERANGE;
    }
    if (p == text)
        return -EINVAL;
    if (*p != '\0') {
        char letter = *p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p;
        const char *suffix = strchr(suffixes, letter);
        if (suffix == NULL || p[1] != '\0')
            return -EINVAL;
        unsigned shift = 10 * (unsigned)(suffix - suffixes + 1);
        if (n > UINT64_MAX >> shift)
            return -ERANGE;
        n <<= shift;
    }
    *bytes = n;
    return 0;
}

/* A size as a person writes it: the largest unit that keeps it whole. */
static const char *size_text(uint64_t bytes, char text[32])
{
    static const char suffixes[] = "\0KMGTPE";
    unsigned unit = 0;

    for (; unit < 6 && bytes != 0 && bytes % 1024 == 0; unit++)
        bytes /= 1024;
    snprintf(text, 32, "%llu%.1s", (unsigned long long)bytes, &suffixes[unit]);
    return text;
}

static int set_switch(const struct cli_option *o, const char *value, void *member, struct error *e)
{
    *(bool *)member = true;
    return 0;
}

static int set_text(const struct cli_option *o, const char *value, void *member, struct error *e)
{
    *(const char **)member = value;
    return 0;
}

static int set_name(const struct cli_option *o, const char *value, void *member, struct error *e)
{
    if (value[0] == '\0')
        return error_set(e, EINVAL, "--%s: the value is empty; give a %s", o->name, o->value);
    return set_text(o, value, member, e);
}

static int set_optional_file(const struct cli_option *o, const char *value, void *member,
                             struct error *e)
{
    struct cli_stats *stats = member;

    stats->wanted = true;
    return value != NULL ? set_name(o, value, &stats->file, e) : 0;
}

static int set_size(const struct cli_option *o, const char *value, void *member, struct error *e)
{
    char least[32], most[32];
    uint64_t bytes;
    int rc = cli_parse_size(value, &bytes);

    if (rc == -EINVAL)
        return error_set(e, EINVAL, "--%s: '%s' is not a size; give one such as 512M or 2G",
                         o->name, value);
    if (rc == -ERANGE || bytes < o->min || bytes > o->max)
        return error_set(e, EINVAL, "--%s: %s is out of range; give from %s to %s", o->name, value,
                         size_text(o->min, least), size_text(o->max, most));
    if (bytes % MEM_PAGE_SIZE != 0)
        return error_set(e, EINVAL, "--%s: %s is not a multiple of 4K; give whole pages", o->name,
                         value);
    *(uint64_t *)member = bytes;
    return 0;
}

static int set_count(const struct cli_option *o, const char *value, void *member, struct error *e)
{
    uint64_t n;
    size_t digits = strspn(value, "0123456789");

    if (digits == 0 || value[digits] != '\0')
        return error_set(e, EINVAL, "--%s: '%s' is not a number; give one from %llu to %llu",
                         o->name, value, (unsigned long long)o->min, (unsigned long long)o->max);
    if (cli_parse_size(value, &n) != 0 || n < o->min || n > o->max) {
        return error_set(e, EINVAL, "--%s: %s is out of range; give from %llu to %llu", o->name,
                         value, (unsigned long long)o->min, (unsigned long long)o->max);
    }
    *(uint64_t *)member = n;
    return 0;
}

/* Writes "a, b or c". */
static void list_choices(const char *const *choices, char *text, size_t size)
{
    size_t used = 0;

    text[0] = '\0';
    for (unsigned i = 0; choices[i] != NULL && used < size; i++) {
        const char *joint = i == 0 ? "" : choices[i + 1] == NULL ? " or " : ", ";
        used += (size_t)snprintf(text + used, size - used, "%s%s", joint, choices[i]);
    }
}

static int set_choice(const struct cli_option *o, const char *value, void *member, struct error *e)
{
    char known[128];

    for (unsigned i = 0; o->choices[i] != NULL; i++) {
        if (strcmp(o->choices[i], value) == 0) {
            *(unsigned *)member = i;
            return 0;
        }
    }
    list_choices(o->choices, known, sizeof(known));
    return error_set(e, EINVAL, "--%s: '%s' is unknown; give %s", o->name, value, known);
}

static int set_list(const struct cli_option *o, const char *value, void *member, struct error *e)
{
    char known[128];
    unsigned bits = 0;

    for (const char *word = value;; word++) {
        size_t length = strcspn(word, ",");
        unsigned i = 0;
        while (o->choices[i] != NULL &&
               (strlen(o->choices[i]) != length || memcmp(o->choices[i], word, length) != 0))
            i++;
        if (o->choices[i] == NULL) {
            list_choices(o->choices, known, sizeof(known));
            return error_set(e, EINVAL, "--%s: '%.*s' is unknown; give %s", o->name, (int)length,
                             word, known);
        }
        bits |= 1u << i;
        word += length;
        if (*word == '\0')
            break;
    }
    *(unsigned *)member = bits;
    return 0;
}

static int set_cpu(const struct cli_option *o, const char *value, void *member, struct error *e)
{
    if (cpuid_spec_check(value, e) != 0) {
        error_prefix(e, "--%s", o->name);
        return -EINVAL;
    }
    return set_text(o, value, member, e);
}

static int set_engine(const struct cli_option *o, const char *value, void *member, struct error *e)
{
    const struct engine_ops *engine = engine_find(value, e);

    if (engine == NULL) {
        error_prefix(e, "--%s", o->name);
        return -EINVAL;
    }
    *(const struct engine_ops **)member = engine;
    return 0;
}

static int set_console(const struct cli_option *o, const char *value, void *member, struct error *e)
{
    bool file = strncmp(value, "file:", 5) == 0 && value[5] != '\0';

    if (!file && strcmp(value, "stdio") != 0 && strcmp(value, "none") != 0)
        return error_set(e, EINVAL, "--%s: '%s' is unknown; give stdio, file:PATH or none", o->name,
                         value);
    return set_text(o, value, member, e);
}

static int (*const setters[CLI_KINDS])(const struct cli_option *o, const char *value, void *member,
                                       struct error *e) = {
    [CLI_SWITCH] = set_switch,
    [CLI_TEXT] = set_text,
    [CLI_CPU] = set_cpu,
    [CLI_FILE] = set_name,
    [CLI_OPTIONAL_FILE] = set_optional_file,
    [CLI_SIZE] = set_size,
    [CLI_COUNT] = set_count,
    [CLI_CHOICE] = set_choice,
    [CLI_LIST] = set_list,
    [CLI_ENGINE] = set_engine,
    [CLI_CONSOLE] = set_console,
};

static int set(const struct cli_option *o, const char *value, struct cli_run *run, struct error *e)
{
    return setters[o->kind](o, value, (char *)run + o->offset, e);
}

static const struct cli_option *find(const char *name, size_t length)
{
    for (const struct cli_option *o = cli_run_options; o->name != NULL; o++) {
        if (strlen(o->name) == length && memcmp(o->name, name, length) == 0)
            return o;
    }
    return NULL;
}

/* Parses the option at words[*i] and moves *i past what it used. */
static int parse_one(int count, char *const words[], int *i, uint64_t *given, struct cli_run *out,
                     struct error *e)
{
    const char *word = words[(*i)++];

    if (strncmp(word, "--", 2) != 0 || word[2] == '\0')
        return error_set(e, EINVAL, "'%s' is not an option; see doppel run --help", word);
    const char *value = strchr(word, '=');
    size_t length = value != NULL ? (size_t)(value++ - word) : strlen(word);
    const struct cli_option *o = find(word + 2, length - 2);
    if (o == NULL)
        return error_set(e, EINVAL, "unknown option '%.*s'; see doppel run --help", (int)length,
                         word);
    if (*given & (uint64_t)1 << (o - cli_run_options))
        return error_set(e, EINVAL, "--%s is given twice; give it once", o->name);
    *given |= (uint64_t)1 << (o - cli_run_options);
    if (o->kind == CLI_SWITCH) {
        if (value != NULL)
            return error_set(e, EINVAL, "--%s takes no value; leave out '=%s'", o->name, value);
    } else if (value == NULL && o->kind != CLI_OPTIONAL_FILE) {
        if (*i == count)
            return error_set(e, EINVAL, "--%s needs a value; give --%s %s", o->name, o->name,
                             o->value);
        value = words[(*i)++];
    }
    return set(o, value, out, e);
}

/* A check that nobody makes must not look as if it had passed. */
static int check_checks(const struct machine_config *m, struct error *e)
{
    for (unsigned i = 0; check_names[i] != NULL; i++)
        if (m->checks & ~m->engine->checks & 1u << i)
            return error_set(e, EINVAL,
                             "--check %s: the engine %s does not have it; give another --engine",
                             check_names[i], m->engine->name);
    bool lockstep = (m->checks & ENGINE_CHECK_LOCKSTEP) != 0;
    if (lockstep && m->cpus > 1)
        return error_set(e, EINVAL, "--check lockstep checks one processor; give --cpus 1");
    if (!lockstep && (m->check_inject != 0 || m->check_slice != 0))
        return error_set(e, EINVAL, "--check-%s needs --check lockstep",
                         m->check_inject != 0 ? "inject" : "slice");
    return 0;
}

/* What options say of each other. */
static int check_together(const struct machine_config *m, struct error *e)
{
    const char *beside = m->kernel != NULL      ? "kernel"
                         : m->initrd != NULL    ? "initrd"
                         : m->append[0] != '\0' ? "append"
                                                : NULL;

    if (m->firmware == NULL && m->kernel == NULL)
        return error_set(e, EINVAL, "no --kernel; give --kernel FILE, or --firmware FILE");
    if (m->firmware != NULL && beside != NULL)
        return error_set(e, EINVAL,
                         "--%s: firmware starts what it finds itself; leave out --%s or --firmware",
                         beside, beside);
    if (m->clock == CLOCK_SOURCE_INSTRUCTIONS && m->cpus > 1)
        return error_set(e, EINVAL,
                         "--clock instructions counts the instructions of one processor; give "
                         "--cpus 1 or --clock real");
    if (m->perf_map && m->engine != &engine_bt)
        return error_set(e, EINVAL, "--perf-map names translated code; give --engine bt");
    return check_checks(m, e);
}

int cli_run_parse(int count, char *const words[], struct cli_run *out, struct error *e)
{
    uint64_t given = 0;

    memset(out, 0, sizeof(*out));
    for (int i = 0; i < count;) {
        int rc = parse_one(count, words, &i, &given, out, e);
        if (rc != 0)
            return rc;
    }
    bool engine_given = out->machine.engine != NULL;
    for (const struct cli_option *o = cli_run_options; o->name != NULL && !out->help; o++) {
        if (given & (uint64_t)1 << (o - cli_run_options))
            continue;
        int rc = o->standard != NULL ? set(o, o->standard, out, e) : 0;
        if (rc != 0)
            return rc;
    }
    if (out->help)
        return 0;
    if ((out->machine.checks & ENGINE_CHECK_LOCKSTEP) && !engine_given)
        out->machine.engine = &engine_bt;
    return check_together(&out->machine, e);
}
