/* SPDX-License-Identifier: MIT */
/*
 * diff: random differential tests of user-mode instructions against the processor. For each form
 * (forms.h) the same number of cases (generate.h), run on the processor (oracle.h) and on an engine
 * (subject.h), and compared. Exit status: 0 equal, 1 differences, 2 usage, 4 the host failed.
 */
#include <errno.h>
#include <getopt.h>
#include <regex.h>
#include <signal.h>
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
#include "compare.h"
#include "engine/host/processor.h"
#include "generate.h"
#include "oracle.h"
#include "subject.h"

#define PRINTED_PER_FORM 2u
#define PRINTED_PER_RUN  60u /* forms with printed differences; all are in the summary */
#define JOBS_MAX         64
#define VECTORS          33 /* and "none" */
#define EXIT_DIFFERENT   1
#define EXIT_USAGE       2
#define EXIT_HOST        4
#define REPEATS          5u

static const struct subject_ops *const subjects[] = {
#ifdef DIFF_INTERP
    &subject_interp,      &subject_interp32,    &subject_bt,
    &subject_bt_counting, &subject_bt32,        &subject_bt32_counting,
#endif
    &subject_processor,   &subject_processor32,
};

struct options {
    uint64_t cases, seed;
    regex_t form;
    bool has_form, list, verbose;
    uint32_t only_id, only_number; /* --case */
    bool only;
    unsigned jobs;
    const struct subject_ops *subject;
};

/* One per form, in memory shared by the workers; each form belongs to one worker. */
struct tally {
    uint32_t cases, completed, different;
    bool impossible; /* no instance could be made */
    bool silent;     /* enough forms have been printed */
};

struct results {
    _Atomic uint64_t vectors[VECTORS];
    _Atomic uint32_t printed;
    _Atomic uint64_t left_out, units;
    struct tally tally[];
};

static const char usage[] =
    "usage: diff [--cases N] [--seed S|fresh] [--form REGEX] [--case ID.N] [--engine NAME]\n"
    "            [--jobs J] [--list] [--verbose]\n";

static bool number(const char *text, uint64_t *value)
{
    char *end;

    errno = 0;
    *value = strtoull(text, &end, 0);
    return !errno && *text && !*end && *text != '-';
}

static bool set_engine(struct options *o, const char *name)
{
    for (unsigned i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++)
        if (!strcmp(subjects[i]->name, name)) {
            o->subject = subjects[i];
            return true;
        }
    fprintf(stderr, "diff: no engine \"%s\"\n", name);
    return false;
}

static bool set_option(struct options *o, int option, const char *text)
{
    uint64_t value = 0;
    char c;

    switch (option) {
    case 'c':
        return number(text, &o->cases) && o->cases;
    case 's':
        if (!strcmp(text, "fresh"))
            return getrandom(&o->seed, sizeof(o->seed), 0) == sizeof(o->seed);
        return number(text, &o->seed);
    case 'f':
        o->has_form = true;
        return !regcomp(&o->form, text, REG_EXTENDED | REG_NOSUB);
    case 'o':
        o->only = true;
        return sscanf(text, "%x.%u%c", &o->only_id, &o->only_number, &c) == 2;
    case 'e':
        return set_engine(o, text);
    case 'j':
        if (!number(text, &value) || !value || value > JOBS_MAX)
            return false;
        o->jobs = (unsigned)value;
        return true;
    case 'l':
        return o->list = true;
    case 'v':
        return o->verbose = true;
    default:
        return false;
    }
}

static bool parse(struct options *o, int argc, char **argv)
{
    static const struct option options[] = {
        {"cases", required_argument, NULL, 'c'},
        {"seed", required_argument, NULL, 's'},
        {"form", required_argument, NULL, 'f'},
        {"case", required_argument, NULL, 'o'},
        {"engine", required_argument, NULL, 'e'},
        {"jobs", required_argument, NULL, 'j'},
        {"list", no_argument, NULL, 'l'},
        {"verbose", no_argument, NULL, 'v'},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0)
        if (!set_option(o, option, optarg))
            return false;
    return optind == argc;
}

static bool wanted(const struct options *o, const struct form *f)
{
    if (f->excluded || (o->only && f->id != o->only_id))
        return false;
    return !o->has_form || !regexec(&o->form, f->name, 0, NULL, 0);
}

/* One worker: its oracle, its subject, its share of the forms. */
struct worker {
    const struct options *o;
    const struct forms *forms;
    struct results *results;
    struct oracle *oracle;
    void *subject;
    struct diff_outcome outcomes[ORACLE_BATCH];
    unsigned pending;
};

static void report(struct worker *w, unsigned i, struct tally *t)
{
    const struct diff_case *c = &oracle_cases(w->oracle)[i];
    char *text = NULL;
    size_t size = 0;
    FILE *out;

    if (t->different == 1)
        t->silent = atomic_fetch_add(&w->results->printed, 1) >= PRINTED_PER_RUN;
    if ((t->different > PRINTED_PER_FORM || t->silent) && !w->o->verbose)
        return;
    out = open_memstream(&text, &size);
    if (!out)
        return;
    fprintf(out, "DIFFERENT\n");
    compare_print_case(w->forms, c, out);
    compare_outcomes(c, &oracle_outcomes(w->oracle)[i], &w->outcomes[i], w->o->subject->name, out);
    fclose(out);
    fwrite(text, 1, size, stdout);
    fflush(stdout);
    free(text);
}

/* x87 instructions work on the pointers that were loaded for the case. A host's kernel that
 * switches tasks meanwhile loses them, where the processor does not save them
 * (engine/host/processor.h): so such a case may be asked once more. */
static bool repeats_equal(struct worker *w, unsigned i, struct error *e)
{
    struct diff_case *cases = oracle_cases(w->oracle), first = cases[0];
    ZydisMnemonic m = w->forms->form[cases[i].form].mnemonic;
    bool equal = false;

    if (host_processor.saves_pointers || ZydisMnemonicGetString(m)[0] != 'f')
        return false;
    cases[0] = cases[i];
    for (unsigned n = 0; n < REPEATS && !equal && oracle_run(w->oracle, 1, e) == 0; n++)
        equal =
            compare_outcomes(&cases[0], &oracle_outcomes(w->oracle)[0], &w->outcomes[i], "", NULL);
    cases[0] = first;
    return equal;
}

static int flush_batch(struct worker *w, struct error *e)
{
    const struct diff_outcome *processor = oracle_outcomes(w->oracle);
    const struct diff_case *cases = oracle_cases(w->oracle);
    unsigned n = w->pending;
    int err;

    w->pending = 0;
    if (!n)
        return 0;
    err = oracle_run(w->oracle, n, e);
    if (!err)
        err = w->o->subject->run(w->subject, cases, processor, w->outcomes, n, e);
    for (unsigned i = 0; !err && i < n; i++) {
        struct tally *t = &w->results->tally[cases[i].form];
        uint8_t vector = processor[i].vector;

        if (w->outcomes[i].failure == DIFF_LEFT_OUT) {
            atomic_fetch_add(&w->results->left_out, 1);
            continue;
        }
        t->cases++;
        t->completed += vector == DIFF_NO_VECTOR;
        atomic_fetch_add(&w->results->vectors[vector < VECTORS - 1 ? vector : VECTORS - 1], 1);
        if (compare_outcomes(&cases[i], &processor[i], &w->outcomes[i], "", NULL) ||
            repeats_equal(w, i, e))
            continue;
        t->different++;
        report(w, i, t);
    }
    return err;
}

static int work(struct worker *w, unsigned job, uint32_t per_form, struct error *e)
{
    int err = 0;
    unsigned turn = 0;

    for (uint32_t f = 0; !err && f < w->forms->count; f++) {
        uint32_t first = w->o->only ? w->o->only_number : 0;
        uint32_t count = w->o->only ? 1 : per_form;

        if (!wanted(w->o, &w->forms->form[f]) || turn++ % w->o->jobs != job)
            continue;
        for (uint32_t i = first; !err && i < first + count; i++) {
            struct diff_case *c = &oracle_cases(w->oracle)[w->pending];
            if (!generate_case(w->forms, f, i, w->o->seed, c)) {
                w->results->tally[f].impossible = true;
                break;
            }
            if (++w->pending == ORACLE_BATCH)
                err = flush_batch(w, e);
        }
    }
    return err ? err : flush_batch(w, e);
}

static int run_worker(const struct options *o, const struct forms *forms, struct results *results,
                      unsigned job, uint32_t per_form)
{
    struct worker *w = calloc(1, sizeof(*w));
    struct error e = {0};
    int err;

    if (!w)
        return EXIT_HOST;
    w->o = o;
    w->forms = forms;
    w->results = results;
    err = oracle_create(&w->oracle, o->subject->code32, &e);
    if (!err) {
        err = o->subject->create(&w->subject, &e);
        if (!err) {
            err = work(w, job, per_form, &e);
            if (o->subject->units != NULL)
                atomic_fetch_add(&results->units, o->subject->units(w->subject));
            o->subject->destroy(w->subject);
        }
        oracle_destroy(w->oracle);
    }
    if (err)
        fprintf(stderr, "diff: %s\n", e.text);
    free(w);
    return err ? EXIT_HOST : 0;
}

static bool run_jobs(const struct options *o, const struct forms *forms, struct results *results,
                     uint32_t per_form)
{
    pid_t pids[JOBS_MAX];
    bool good = true;

    for (unsigned j = 0; j < o->jobs; j++) {
        pids[j] = fork();
        if (pids[j] == 0)
            exit(run_worker(o, forms, results, j, per_form));
    }
    for (unsigned j = 0; j < o->jobs; j++) {
        int status = 0;
        if (pids[j] < 0 || waitpid(pids[j], &status, 0) != pids[j])
            good = false;
        else if (WIFSIGNALED(status))
            fprintf(stderr, "diff: worker %u died of signal %d\n", j, WTERMSIG(status));
        good &= status == 0;
    }
    return good;
}

static void print_reasons(const struct forms *forms)
{
    const char *reasons[32];
    unsigned counts[32], n = 0, i;

    for (uint32_t f = 0; f < forms->count; f++) {
        const char *reason = forms->form[f].excluded;
        if (!reason)
            continue;
        for (i = 0; i < n && strcmp(reasons[i], reason); i++)
            ;
        if (i == n && n < 32)
            reasons[n] = reason, counts[n++] = 0;
        if (i < 32)
            counts[i]++;
    }
    for (i = 0; i < n; i++)
        printf("%s%u %s", i ? "; " : "", counts[i], reasons[i]);
}

static void print_vectors(const struct results *results)
{
    printf("outcomes:");
    for (unsigned i = 0; i < VECTORS; i++)
        if (results->vectors[i])
            printf(" %s %llu", compare_vector_name(i == VECTORS - 1 ? DIFF_NO_VECTOR : (uint8_t)i),
                   (unsigned long long)results->vectors[i]);
    printf("\n");
}

struct summary {
    uint32_t covered, impossible, different_forms, always_fault, excluded;
    uint64_t cases, different;
};

static struct summary summarize(const struct options *o, const struct forms *forms,
                                const struct results *results)
{
    struct summary s = {0};

    for (uint32_t f = 0; f < forms->count; f++) {
        const struct tally *t = &results->tally[f];
        const struct form *form = &forms->form[f];

        s.covered += t->cases != 0;
        s.cases += t->cases;
        s.different += t->different;
        s.excluded += form->excluded != NULL;
        if (form->excluded && !o->only && !o->has_form)
            printf("excluded: %s: %s\n", form->name, form->excluded);
        if (t->impossible && ++s.impossible)
            printf("impossible: %s: no instance could be made\n", form->name);
        if (t->cases && !t->completed && ++s.always_fault && o->verbose)
            printf("always faults: %s\n", form->name);
        if (t->different && ++s.different_forms)
            printf("different: %s: %u of %u cases\n", form->name, t->different, t->cases);
    }
    return s;
}

static bool conclude(const struct options *o, const struct forms *forms,
                     const struct results *results, uint32_t per_form, double seconds)
{
    struct summary s = summarize(o, forms, results);

    for (unsigned i = 0; form_partial_exclusions[i] && !o->only && !o->has_form; i++)
        printf("excluded in part: %s\n", form_partial_exclusions[i]);
    print_vectors(results);
    printf("cases: %llu in %.1f s (%.0f a second), seed %llu; %u forms faulted in every case\n",
           (unsigned long long)s.cases, seconds, (double)s.cases / seconds,
           (unsigned long long)o->seed, s.always_fault);
    bool translated = o->subject->units == NULL || results->units >= s.cases / 2;
    if (o->subject->units != NULL)
        printf("translated: %llu units; left out: %llu branches into themselves\n",
               (unsigned long long)results->units, (unsigned long long)results->left_out);
    printf("result: %llu cases in %u forms differ from the processor\n",
           (unsigned long long)s.different, s.different_forms);
    printf("coverage: %u forms covered of %u advertised, %u cases each, %u excluded (", s.covered,
           forms->count, o->only ? 1 : per_form, s.excluded);
    print_reasons(forms);
    printf(")\n");
    return !s.different && !s.impossible && s.cases && translated;
}

static int run(const struct options *o, const struct forms *forms)
{
    size_t size = sizeof(struct results) + forms->count * sizeof(struct tally);
    struct results *results =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct timespec start, end;
    uint32_t selected = 0;
    bool good;

    for (uint32_t f = 0; f < forms->count; f++)
        selected += wanted(o, &forms->form[f]);
    if (!selected || results == MAP_FAILED) {
        fprintf(stderr, "diff: %s\n", selected ? strerror(errno) : "no form is selected");
        return selected ? EXIT_HOST : EXIT_USAGE;
    }

    uint32_t per_form = (uint32_t)((o->cases + selected - 1) / selected);
    clock_gettime(CLOCK_MONOTONIC, &start);
    good = run_jobs(o, forms, results, per_form);
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (!conclude(o, forms, results, per_form,
                  (double)(end.tv_sec - start.tv_sec) +
                      (double)(end.tv_nsec - start.tv_nsec) / 1e9))
        return EXIT_DIFFERENT;
    return good ? 0 : EXIT_HOST;
}

static void list(const struct options *o, const struct forms *forms)
{
    for (uint32_t i = 0; i < forms->count; i++) {
        const struct form *f = &forms->form[i];
        if (!o->has_form || !regexec(&o->form, f->name, 0, NULL, 0))
            printf("%08x %s%s%s\n", f->id, f->name, f->excluded ? "  excluded: " : "",
                   f->excluded ? f->excluded : "");
    }
}

int main(int argc, char **argv)
{
    struct options o = {.cases = 100000, .seed = 1, .jobs = 1, .subject = subjects[0]};
    struct forms forms;
    struct error e = {0};
    int status = 0;

    if (!parse(&o, argc, argv)) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    if (features_init(&e) || forms_find(&forms, o.subject->code32, &e)) {
        fprintf(stderr, "diff: %s\n", e.text);
        return EXIT_HOST;
    }
    forms.flat = o.subject->flat;
    if (o.list)
        list(&o, &forms);
    else
        status = run(&o, &forms);
    forms_fini(&forms);
    if (o.has_form)
        regfree(&o.form);
    return status;
}
