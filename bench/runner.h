/* A session in a context of its own, so that several take turns in one process. */
#ifndef BRIM_BENCH_RUNNER_H
#define BRIM_BENCH_RUNNER_H

#include "session.h"

typedef struct Runner {
    Plan plan;
    Context *context; /* NULL: not opened */
    Session session;
} Runner;

/* Also of one that was not opened. */
static void runner_close(Runner *r)
{
    if (r->context) {
        context_use(NULL);
        context_destroy(r->context);
    }
    plan_free(&r->plan);
    *r = (Runner){0};
}

static inline double runner_step(void *runner)
{
    Runner *r = runner;
    return session_step(&r->session);
}

#endif
