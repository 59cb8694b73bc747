/* SPDX-License-Identifier: MIT */
/*
 * blocks: random blocks (block.h) under the translator, with and without a limit of instructions,
 * against the reference engine; and against the processor where a block is of its kind. Exit
 * status: 0 equal, 1 differences, 2 usage, 4 the host failed.
 */
#include <errno.h>
#include <getopt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "advertised.h"
#include "block.h"
#include "compare.h"
#include "guest.h"
#include "oracle.h"
#include "subject.h"

#define PRINTED_MAX 6u
#define JOBS_MAX    64u
#define EXIT_USAGE  2
#define EXIT_HOST   4

struct options {
    uint64_t blocks, seed;
    int64_t only;
    unsigned jobs;
    bool processor, code32;
    const struct subject_ops *const *subjects; /* by enum side */
};

/* In memory shared by the workers. */
struct results {
    _Atomic uint64_t blocks, different, strange, stopped, native, units, vectors[33];
    _Atomic unsigned printed;
};

enum side { SIDE_INTERP, SIDE_BT, SIDE_BT_COUNTING, SIDES };
static const struct subject_ops *const subjects_of[2][SIDES] = {
    {&subject_interp, &subject_bt, &subject_bt_counting},
    {&subject_interp32, &subject_bt32, &subject_bt32_counting},
};

struct worker {
    const struct options *o;
    struct results *results;
    struct block_forms forms;
    struct oracle *oracle;
    void *subject[SIDES];
    struct diff_outcome outcomes[SIDES][ORACLE_BATCH];
};

static void print_block(const struct forms *forms, const struct diff_case *c, FILE *out)
{
    uint8_t code[DIFF_PATCH_BYTES + 16] = {0};
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter formatter;

    memcpy(code, c->bytes_of_patches, c->patch_bytes);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    for (unsigned at = 0; at < c->patch_bytes;) {
        char text[128] = "?";
        if (ZYAN_FAILED(ZydisDecoderDecodeFull(&forms->decoder, code + at, 15, &insn, operands)))
            insn.length = 1;
        else
            ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible,
                                            text, sizeof(text), c->in.rip + at, NULL);
        fprintf(out, "    %llx  ", (unsigned long long)(c->in.rip + at));
        for (unsigned n = 0; n < 15; n++)
            if (n < insn.length)
                fprintf(out, "%02x", code[at + n]);
            else
                fprintf(out, "  ");
        fprintf(out, "  %s\n", text);
        at += insn.length;
    }
    for (unsigned i = 0; i < 16; i++)
        fprintf(out, "    r%-2u %016llx%s", i, (unsigned long long)c->in.gpr[i],
                i % 4 == 3 ? "\n" : "");
    fprintf(out, "    rflags %llx fs_base %llx gs_base %llx mxcsr %x\n",
            (unsigned long long)c->in.rflags, (unsigned long long)c->in.fs_base,
            (unsigned long long)c->in.gs_base, c->in.vector.mxcsr);
}

/* compare_outcomes calls its first side the processor. */
static void judge(struct worker *w, const struct diff_case *c, const struct diff_outcome *a,
                  const struct diff_outcome *b, const char *a_name, const char *b_name)
{
    char *text = NULL;
    size_t size = 0;

    if (compare_outcomes(c, a, b, b_name, NULL) && a->stopped == b->stopped)
        return;
    if (a->failure == b->failure && a->failure == DIFF_STRANGE) {
        /* It left its arena under both: there is nothing to compare. That must stay rare. */
        atomic_fetch_add(&w->results->strange, 1);
        return;
    }
    atomic_fetch_add(&w->results->different, 1);
    if (atomic_fetch_add(&w->results->printed, 1) >= PRINTED_MAX)
        return;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return;
    fprintf(out, "DIFFERENT: %s from %s; again: blocks%s --seed %llu --block %u\n", b_name, a_name,
            c->code32 ? " --code32" : "", (unsigned long long)c->seed, c->number);
    print_block(w->forms.forms, c, out);
    fprintf(out, "    \"processor\" is %s\n", a_name);
    compare_outcomes(c, a, b, b_name, out);
    fclose(out);
    fwrite(text, 1, size, stdout);
    fflush(stdout);
    free(text);
}

/* Which word of an operand CR2 names is the processor's own affair (docs/quirks.md: masked stores,
 * images); tests/diff knows the operand, here it is the page that counts. */
static void excuse_address(struct diff_outcome *processor, const struct diff_outcome *engine)
{
    if (processor->vector == VECTOR_PF && engine->vector == VECTOR_PF &&
        processor->address >> 12 == engine->address >> 12)
        processor->address = engine->address;
}

static bool is_refused(const struct diff_outcome *o)
{
    return o->vector == VECTOR_PF || o->vector == VECTOR_GP || o->vector == VECTOR_SS;
}

/* An operand across the end of 32-bit addresses. */
static bool is_at_end(const struct diff_outcome *o)
{
    return o->vector == VECTOR_PF && (uint32_t)o->address + 64 < 128;
}

/* Of 32-bit code: what the processor sees first there, the limit or the absent page, is its own
 * affair; and the pages that user code may not reach, it does not have where the guest has its
 * kernel. */
static void excuse_end(struct diff_outcome *processor, const struct diff_outcome *engine)
{
    if (is_refused(processor) && is_refused(engine) &&
        (is_at_end(processor) || is_at_end(engine))) {
        processor->vector = engine->vector;
        processor->error = engine->error;
        processor->address = engine->address;
    }
    if (processor->vector == VECTOR_PF && engine->vector == VECTOR_PF &&
        engine->address - DIFF_KERNEL32 < DIFF_KERNEL32_SIZE)
        processor->error |= PF_PRESENT;
}

/* Blocks that end, and change no code, may go to the processor. */
static int run_native(struct worker *w, const struct diff_case *cases, unsigned n, struct error *e)
{
    struct diff_case *native = oracle_cases(w->oracle);
    unsigned from[ORACLE_BATCH], count = 0;

    for (unsigned i = 0; i < n; i++) {
        const struct diff_outcome *o = &w->outcomes[SIDE_INTERP][i];
        if (block_kind(cases[i].number) != BLOCK_PLAIN || o->stopped || o->failure != DIFF_RAN)
            continue;
        native[count] = cases[i];
        from[count++] = i;
    }
    int err = count != 0 ? oracle_run(w->oracle, count, e) : 0;
    for (unsigned k = 0; err == 0 && k < count; k++) {
        struct diff_outcome p = oracle_outcomes(w->oracle)[k];
        p.stopped = false;
        excuse_address(&p, &w->outcomes[SIDE_BT][from[k]]);
        if (w->o->code32)
            excuse_end(&p, &w->outcomes[SIDE_BT][from[k]]);
        judge(w, &cases[from[k]], &p, &w->outcomes[SIDE_BT][from[k]], "the processor", "bt");
    }
    atomic_fetch_add(&w->results->native, count);
    return err;
}

static int run_batch(struct worker *w, const struct diff_case *cases, unsigned n, struct error *e)
{
    const struct diff_outcome *reference = w->outcomes[SIDE_INTERP];
    int err = 0;

    for (enum side s = 0; err == 0 && s < SIDES; s++)
        err = w->o->subjects[s]->run(w->subject[s], cases, s == SIDE_INTERP ? NULL : reference,
                                     w->outcomes[s], n, e);
    for (unsigned i = 0; err == 0 && i < n; i++) {
        const struct diff_outcome *r = &reference[i];
        judge(w, &cases[i], r, &w->outcomes[SIDE_BT_COUNTING][i], "interp", "bt-counting");
        if (!r->stopped)
            judge(w, &cases[i], r, &w->outcomes[SIDE_BT][i], "interp", "bt");
        atomic_fetch_add(&w->results->blocks, 1);
        atomic_fetch_add(&w->results->stopped, r->stopped);
        atomic_fetch_add(&w->results->vectors[r->vector < 32 ? r->vector : 32], 1);
    }
    if (err == 0 && w->oracle != NULL)
        err = run_native(w, cases, n, e);
    return err;
}

static int work(struct worker *w, unsigned job, struct error *e)
{
    struct diff_case *cases = calloc(ORACLE_BATCH, sizeof(*cases));
    uint64_t first = w->o->only >= 0 ? (uint64_t)w->o->only : 0;
    uint64_t end = w->o->only >= 0 ? first + 1 : w->o->blocks;
    unsigned pending = 0;
    int err = 0;

    if (cases == NULL)
        return error_set(e, ENOMEM, "no memory");
    for (uint64_t n = first; err == 0 && n < end; n++) {
        if (n / 16 % w->o->jobs != job && w->o->only < 0)
            continue;
        block_generate(&w->forms, w->o->seed, (uint32_t)n, &cases[pending]);
        if (++pending == ORACLE_BATCH) {
            err = run_batch(w, cases, pending, e);
            pending = 0;
        }
    }
    if (err == 0 && pending != 0)
        err = run_batch(w, cases, pending, e);
    free(cases);
    return err;
}

static int run_worker(const struct options *o, const struct forms *forms, struct results *results,
                      unsigned job)
{
    struct worker *w = calloc(1, sizeof(*w));
    struct error e = {0};

    if (w == NULL)
        return EXIT_HOST;
    w->o = o;
    w->results = results;
    int err = block_forms_init(&w->forms, forms);
    if (err == 0 && o->processor)
        err = oracle_create(&w->oracle, o->code32, &e);
    for (enum side s = 0; err == 0 && s < SIDES; s++)
        err = o->subjects[s]->create(&w->subject[s], &e);
    if (err == 0)
        err = work(w, job, &e);
    for (enum side s = 0; s < SIDES; s++) {
        if (w->subject[s] == NULL)
            continue;
        if (o->subjects[s]->units != NULL)
            atomic_fetch_add(&results->units, o->subjects[s]->units(w->subject[s]));
        o->subjects[s]->destroy(w->subject[s]);
    }
    if (w->oracle != NULL)
        oracle_destroy(w->oracle);
    block_forms_fini(&w->forms);
    free(w);
    if (err != 0)
        fprintf(stderr, "blocks: %s\n", e.text);
    return err != 0 ? EXIT_HOST : 0;
}

static bool run_jobs(const struct options *o, const struct forms *forms, struct results *results)
{
    pid_t pids[JOBS_MAX];
    bool good = true;

    for (unsigned j = 0; j < o->jobs; j++) {
        pids[j] = fork();
        if (pids[j] == 0)
            exit(run_worker(o, forms, results, j));
    }
    for (unsigned j = 0; j < o->jobs; j++) {
        int status = 0;
        if (pids[j] < 0 || waitpid(pids[j], &status, 0) != pids[j])
            good = false;
        else if (WIFSIGNALED(status))
            fprintf(stderr, "blocks: worker %u died of signal %d\n", j, WTERMSIG(status));
        good &= status == 0;
    }
    return good;
}

static int conclude(const struct results *r, const struct options *o, double seconds)
{
    printf("outcomes:");
    for (unsigned v = 0; v < 33; v++)
        if (r->vectors[v] != 0)
            printf(" %s %llu", compare_vector_name(v < 32 ? (uint8_t)v : DIFF_NO_VECTOR),
                   (unsigned long long)r->vectors[v]);
    printf("\nblocks: %llu in %.1f s (%.0f a second), seed %llu; %llu stopped by the limit, %llu "
           "on the processor too, %llu units translated\n",
           (unsigned long long)r->blocks, seconds, (double)r->blocks / seconds,
           (unsigned long long)o->seed, (unsigned long long)r->stopped,
           (unsigned long long)r->native, (unsigned long long)r->units);
    printf("result: %llu differences, %llu outcomes that cannot be compared\n",
           (unsigned long long)r->different, (unsigned long long)r->strange);
    return r->different == 0 && r->strange <= r->blocks / 1000 + 2 && r->blocks != 0 &&
                   r->units >= r->blocks
               ? 0
               : 1;
}

static bool number(const char *text, uint64_t *value)
{
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 0);
    return errno == 0 && *text != 0 && *end == 0 && *text != '-';
}

static bool parse(struct options *o, int argc, char **argv)
{
    static const struct option options[] = {
        {"blocks", required_argument, NULL, 'b'},
        {"seed", required_argument, NULL, 's'},
        {"block", required_argument, NULL, 'o'},
        {"jobs", required_argument, NULL, 'j'},
        {"no-processor", no_argument, NULL, 'n'},
        {"code32", no_argument, NULL, 'c'},
        {NULL, 0, NULL, 0},
    };
    uint64_t value = 0;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        if (option == 'n') {
            o->processor = false;
        } else if (option == 'c') {
            o->code32 = true;
        } else if (option == 's' && !strcmp(optarg, "fresh")) {
            if (getrandom(&o->seed, sizeof(o->seed), 0) != sizeof(o->seed))
                return false;
        } else if (!number(optarg != NULL ? optarg : "", &value)) {
            return false;
        } else if (option == 'b') {
            o->blocks = value;
        } else if (option == 's') {
            o->seed = value;
        } else if (option == 'o') {
            o->only = (int64_t)(uint32_t)value;
        } else if (option == 'j' && value > 0 && value <= JOBS_MAX) {
            o->jobs = (unsigned)value;
        } else {
            return false;
        }
    }
    return optind == argc && o->blocks != 0 && o->blocks <= UINT32_MAX;
}

int main(int argc, char **argv)
{
    struct options o = {.blocks = 10000, .seed = 1, .jobs = 1, .only = -1, .processor = true};
    struct forms forms;
    struct error e = {0};
    struct timespec start, end;

    if (!parse(&o, argc, argv)) {
        fputs("usage: blocks [--blocks N] [--seed S|fresh] [--block N] [--jobs J] "
              "[--no-processor] [--code32]\n",
              stderr);
        return EXIT_USAGE;
    }
    struct results *results =
        mmap(NULL, sizeof(*results), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (results == MAP_FAILED || features_init(&e) || forms_find(&forms, o.code32, &e)) {
        fprintf(stderr, "blocks: %s\n", e.text);
        return EXIT_HOST;
    }
    o.subjects = subjects_of[o.code32];
    forms.flat = o.code32;
    clock_gettime(CLOCK_MONOTONIC, &start);
    bool good = run_jobs(&o, &forms, results);
    clock_gettime(CLOCK_MONOTONIC, &end);
    int status =
        conclude(results, &o,
                 (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
    forms_fini(&forms);
    return status != 0 ? status : good ? 0 : EXIT_HOST;
}
