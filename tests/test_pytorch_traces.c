/* What PyTorch allocates, predicted, beside traces of unmodified PyTorch (tests/pytorch/): event by event,
 * then the peaks that PyTorch's own allocator counted. BRIM_TRACES names another folder of traces. */
#include <glob.h>
#include <math.h>

#include "../estimate/pytorch/summary.h"
#include "pytorch_trace.h"
#include "support.h"

static const char *folder(void)
{
    const char *named = getenv("BRIM_TRACES");
    return named && *named ? named : "tests/pytorch/fixtures";
}

typedef struct Found {
    size_t compared, refused, failed;
} Found;

/* What a version has no rules for is refused by name; a version without rules is not in the list of those
 * that have. */
static int is_refused(const Trace *trace, PytorchJob *job)
{
    char why[200];
    int unread = trace_job(trace, job);
    if (unread || estimate_pytorch_refuses(job, why, sizeof why))
        return 1;
    return 0;
}

/* Calls `each` with every trace in the folder that is predicted. */
static Found traces(const char *name, int (*each)(const Trace *trace, const PytorchJob *job))
{
    char text[512];
    glob_t paths = {0};
    Found found = {0};
    snprintf(text, sizeof text, "%s/%s/*.tr.gz", folder(), name);
    glob(text, 0, NULL, &paths);
    for (size_t i = 0; i < paths.gl_pathc; i++) {
        Trace trace;
        PytorchJob job;
        assert_int_equal(trace_read(paths.gl_pathv[i], &trace), 0);
        if (is_refused(&trace, &job)) {
            found.refused++;
        } else {
            found.compared++;
            found.failed += (size_t)each(&trace, &job);
        }
        trace_free(&trace);
    }
    globfree(&paths);
    return found;
}

/* ---- Events and peaks ------------------------------------------------------------------------ */

static int same_events(const Trace *trace, const PytorchJob *job)
{
    return trace->count && trace_compare(trace, job, stderr) >= 0;
}

static int same_peaks(const Trace *trace, const PytorchJob *job)
{
    PytorchBooks books;
    assert_int_equal(estimate_pytorch_peaks(job, NULL, &books), 0);
    if (books.peak_requested == trace->peak_requested && books.peak_allocated == trace->peak_allocated &&
        books.peak_reserved == trace->peak_reserved)
        return 0;
    print_error("%s: requested %llu, allocated %llu, reserved %llu; PyTorch has %llu, %llu, %llu\n",
                trace->name, (unsigned long long)books.peak_requested,
                (unsigned long long)books.peak_allocated, (unsigned long long)books.peak_reserved,
                (unsigned long long)trace->peak_requested, (unsigned long long)trace->peak_allocated,
                (unsigned long long)trace->peak_reserved);
    return 1;
}

static int near(uint64_t a, uint64_t b, double part)
{
    return fabs((double)a - (double)b) <= part * (double)b;
}

/* A quantised model of several files is loaded by several threads, so that its blocks lie otherwise: what is
 * requested is equal, and the rest is near. */
static int same_sizes(const Trace *trace, const PytorchJob *job)
{
    PytorchBooks books;
    if (job->quantize == PYTORCH_PLAIN)
        return same_peaks(trace, job);
    assert_int_equal(estimate_pytorch_peaks(job, NULL, &books), 0);
    return books.peak_requested != trace->peak_requested ||
           !near(books.peak_allocated, trace->peak_allocated, 0.001) ||
           !near(books.peak_reserved, trace->peak_reserved, 0.03);
}

static void compare(const char *name, size_t least, int (*each)(const Trace *trace, const PytorchJob *job))
{
    Found found = traces(name, each);
    if (found.failed || found.compared < least)
        fail_msg("%s: of %zu traces %zu are as predicted (and %zu refused), where there are at least %zu",
                 name, found.compared, found.compared - found.failed, found.refused, least);
}

/* A folder of traces, and how many there are at least. */
static const struct {
    const char *name;
    size_t least;
} folders[] = {
    {"current", 148},
    {"held-out", 64},
    {"torch-2.11", 62},
    {"transformers-4.57", 63},
    {"transformers-4.48", 67},
    {"transformers-4.46", 56},
    {"torch-2.6", 68},
    {"torch-2.6-transformers-4.46", 26},
    {"held-out-torch-2.11", 10},
    {"held-out-transformers-4.57", 9},
    {"held-out-transformers-4.48", 8},
    {"held-out-transformers-4.46", 8},
    {"held-out-torch-2.6", 8},
    {"held-out-torch-2.6-transformers-4.46", 8},
};

static void every_event_is_predicted(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(folders); i++)
        compare(folders[i].name, folders[i].least, same_events);
}

static void every_peak_is_predicted(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(folders); i++)
        compare(folders[i].name, folders[i].least, same_peaks);
    compare("sizes", 22, same_sizes);
}

/* A trace that is not the job's is told apart: the comparison above can fail. */
static void another_job_differs(void **state)
{
    (void)state;
    Trace trace;
    PytorchJob job;
    char path[512];
    snprintf(path, sizeof path, "%s/current/llama-sdpa-bf16.tr.gz", folder());
    assert_int_equal(trace_read(path, &trace), 0);
    assert_int_equal(trace_job(&trace, &job), 0);
    assert_int_equal(trace_compare(&trace, &job, NULL), -1);
    job.seq++;
    assert_true(trace_compare(&trace, &job, NULL) >= 0);
    job.seq--;
    job.optimizer = PYTORCH_SGD;
    assert_true(trace_compare(&trace, &job, NULL) >= 0);
    trace_free(&trace);
}

/* ---- A small job ----------------------------------------------------------------------------- */

static const PytorchJob small = {
    .model = {.family = PYTORCH_LLAMA,
              .vocab = 103,
              .hidden = 64,
              .layers = 2,
              .heads = 4,
              .kv_heads = 2,
              .head_dim = 16,
              .intermediate = 96,
              .positions = 64},
    .precision = PYTORCH_AUTOCAST_BF16,
    .checkpoint = PYTORCH_CHECKPOINT,
    .capability = 90,
    .batch = 2,
    .seq = 16,
    .accumulate = 1,
    .steps = 1,
    .clip = 1,
};

/* ---- Refusals -------------------------------------------------------------------------------- */

static const PytorchDialect *versions(const char *torch, const char *transformers)
{
    for (int i = 0; estimate_pytorch_dialect_at(i); i++) {
        PytorchVersions v = estimate_pytorch_versions(estimate_pytorch_dialect_at(i));
        if (!strcmp(v.torch, torch) && !strcmp(v.transformers, transformers))
            return estimate_pytorch_dialect_at(i);
    }
    fail_msg("there are no rules for torch %s with transformers %s", torch, transformers);
    return NULL;
}

/* The newest versions have rules for the job, and old ones refuse it by name. */
static void refuses(PytorchJob job, const char *transformers, const char *says)
{
    char why[200] = "";
    job.dialect = NULL;
    assert_int_equal(estimate_pytorch_refuses(&job, why, sizeof why), 0);
    job.dialect = versions("2.15", transformers);
    assert_int_equal(estimate_pytorch_refuses(&job, why, sizeof why), 1);
    if (!strstr(why, says))
        fail_msg("transformers %s: \"%s\" does not say \"%s\"", transformers, why, says);
}

static void old_versions_refuse_by_name(void **state)
{
    (void)state;
    PytorchJob job = small;
    job.lora_rank = 8;
    job.checkpoint = PYTORCH_CHECKPOINT_REENTRANT;
    job.script = PYTORCH_TRAINER;
    refuses(job, "4.57", "reentrant checkpoints of adapters under this version of Trainer");
    refuses(job, "4.46", "reentrant checkpoints of adapters under this version of Trainer");
    job.script = PYTORCH_LOOP;
    job.quantize = PYTORCH_INT8;
    refuses(job, "4.46", "LLM.int8 with the versions of PEFT and bitsandbytes");
    job = small;
    job.seq = 1;
    refuses(job, "4.48", "rows of one token");
    job = small;
    job.model.family = PYTORCH_QWEN3;
    refuses(job, "4.48", "Qwen3");
    job = small;
    job.model.family = PYTORCH_BERT;
    job.attention = PYTORCH_EAGER;
    job.checkpoint = PYTORCH_CHECKPOINT_REENTRANT;
    refuses(job, "4.57", "reentrant checkpoints of BERT's eager attention");
    char why[200];
    job = small;
    job.model.family = PYTORCH_BERT;
    job.lora_rank = 8;
    job.quantize = PYTORCH_NF4;
    assert_int_equal(estimate_pytorch_refuses(&job, why, sizeof why), 1);
    assert_non_null(strstr(why, "BERT's quantised weights"));
}

/* ---- Host memory, and visitors that stop ------------------------------------------------------ */

typedef struct Stop {
    uint64_t live, events, at;
    int code;
} Stop;

static int count_live(void *user, const PytorchEvent *e)
{
    Stop *s = user;
    s->live += e->action == PYTORCH_ALLOC ? e->bytes : 0;
    s->live -= e->action == PYTORCH_FREE ? e->bytes : 0;
    return ++s->events == s->at ? s->code : 0;
}

static void a_visitor_stops_the_job(void **state)
{
    (void)state;
    Stop all = {0};
    assert_int_equal(estimate_pytorch_job(&small, count_live, &all), 0);
    assert_true(all.events > 1000);
    static const int codes[] = {1, 2, 7, -1};
    for (size_t i = 0; i < COUNT(codes); i++)
        for (uint64_t at = 1; at < all.events; at += all.events / 5) {
            Stop s = {.at = at, .code = codes[i]};
            assert_int_equal(estimate_pytorch_job(&small, count_live, &s), codes[i]);
            assert_int_equal(s.events, at);
            assert_int_equal(memtrack_process_live(), 0);
        }
}

static void each_allocation_of_the_host_fails_once(void **state)
{
    (void)state;
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        Stop s = {0};
        memtrack_fail_nth(n);
        int result = estimate_pytorch_job(&small, count_live, &s);
        int over = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(memtrack_process_live(), 0);
        if (over) {
            assert_int_equal(result, 0);
            break;
        }
        assert_int_equal(result, -1);
        failures++;
    }
    assert_true(failures > 5);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_event_is_predicted), cmocka_unit_test(every_peak_is_predicted),
        cmocka_unit_test(another_job_differs),      cmocka_unit_test(old_versions_refuse_by_name),
        cmocka_unit_test(a_visitor_stops_the_job),  cmocka_unit_test(each_allocation_of_the_host_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
