/* SPDX-License-Identifier: MIT */
/* The processor as a subject of its own oracle. */
#include <string.h>

#include "oracle.h"
#include "subject.h"

static int create(void **subject, bool code32, struct error *e)
{
    struct oracle *o = NULL;
    int err = oracle_create(&o, code32, e);

    *subject = o;
    return err;
}

static int create64(void **subject, struct error *e)
{
    return create(subject, false, e);
}

static int create32(void **subject, struct error *e)
{
    return create(subject, true, e);
}

static void destroy(void *subject)
{
    oracle_destroy(subject);
}

static int run(void *subject, const struct diff_case *cases, const struct diff_outcome *processor,
               struct diff_outcome *outcomes, unsigned n, struct error *e)
{
    struct oracle *o = subject;
    int err;

    memcpy(oracle_cases(o), cases, n * sizeof(*cases));
    err = oracle_run(o, n, e);
    memcpy(outcomes, oracle_outcomes(o), n * sizeof(*outcomes));
    return err;
}

const struct subject_ops subject_processor = {"processor", false, false, create64,
                                              destroy,     run,   NULL};
const struct subject_ops subject_processor32 = {"processor32", true, false, create32,
                                                destroy,       run,  NULL};
