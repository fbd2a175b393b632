/* The summary of a PyTorch job: its parts sum to the peak, its verdicts are those of a replay, and nothing is
 * lost where memory runs out. */
#include <string.h>

#include "../estimate/pytorch/summary.h"
#include "support.h"

/* A small Llama on a card of compute capability 8.0. */
static PytorchJob small(void)
{
    return (PytorchJob){.model = {.family = PYTORCH_LLAMA,
                                  .vocab = 1031,
                                  .hidden = 192,
                                  .layers = 2,
                                  .heads = 6,
                                  .kv_heads = 2,
                                  .head_dim = 32,
                                  .intermediate = 344,
                                  .positions = 512},
                        .precision = PYTORCH_BF16,
                        .capability = 80,
                        .batch = 3,
                        .seq = 56,
                        .accumulate = 1,
                        .steps = 2,
                        .clip = 1};
}

typedef struct Case {
    const char *name;
    void (*change)(PytorchJob *job);
    PytorchPhase phase; /* of the peak */
} Case;

static void unchanged(PytorchJob *job)
{
    (void)job;
}

static void eager(PytorchJob *job)
{
    job->attention = PYTORCH_EAGER;
    job->seq = 300;
}

static void autocast(PytorchJob *job)
{
    job->precision = PYTORCH_AUTOCAST_BF16;
}

static void checkpointed(PytorchJob *job)
{
    job->checkpoint = PYTORCH_CHECKPOINT;
    job->model.layers = 8;
    job->accumulate = 3;
}

static void adapted(PytorchJob *job)
{
    job->lora_rank = 8;
    job->lora_targets = PYTORCH_ALL_LINEAR;
    job->quantize = PYTORCH_NF4;
    job->kbit_prepare = 1;
}

static void evaluated(PytorchJob *job)
{
    job->script = PYTORCH_TRAINER;
    job->mask = 1;
    job->evaluate = 4;
    job->metrics = 1;
    job->evaluate_batch = 30;
}

static void wide(PytorchJob *job)
{
    job->batch = 1;
    job->seq = 8;
    job->model.hidden = 1920;
    job->model.head_dim = 320;
}

static const Case cases[] = {
    {"as is", unchanged, PYTORCH_BACKWARD},   {"eager", eager, PYTORCH_BACKWARD},
    {"autocast", autocast, PYTORCH_BACKWARD}, {"checkpointed", checkpointed, PYTORCH_BACKWARD},
    {"adapted", adapted, PYTORCH_PHASES},     {"evaluated", evaluated, PYTORCH_EVALUATE},
    {"many parameters", wide, PYTORCH_STEP},
};

static PytorchJob job_of(const Case *c)
{
    PytorchJob job = small();
    c->change(&job);
    return job;
}

/* ---- Sums ------------------------------------------------------------------------------------ */

static void check_sums(const Case *c, const PytorchSummary *s)
{
    uint64_t kinds = 0, live = 0, by_kind[PYTORCH_KINDS] = {0}, highest = 0;
    for (int k = 0; k < PYTORCH_KINDS; k++)
        kinds += s->at_peak[k];
    for (size_t i = 0; i < s->live_count; i++) {
        live += s->live[i].bytes;
        by_kind[s->live[i].kind] += s->live[i].bytes;
        assert_true(!i || s->live[i].serial > s->live[i - 1].serial);
        assert_non_null(s->live[i].op);
    }
    assert_int_equal(kinds, s->requested);
    assert_int_equal(live, s->requested);
    assert_memory_equal(by_kind, s->at_peak, sizeof by_kind);
    assert_true(s->requested <= s->books.peak_requested && s->requested <= s->books.peak_allocated);
    assert_true(s->books.peak_allocated <= s->books.peak_reserved);
    assert_true(c->phase == PYTORCH_PHASES || s->peak_at.phase == c->phase);
    for (int i = 0; i < s->moment_count; i++) {
        highest = s->moments[i].allocated > highest ? s->moments[i].allocated : highest;
        assert_true(s->moments[i].left <= s->moments[i].allocated);
        for (int k = 0; k < i; k++)
            assert_true(s->moments[k].phase != s->moments[i].phase ||
                        s->moments[k].step != s->moments[i].step);
    }
    assert_int_equal(highest, s->books.peak_allocated);
}

/* The same by another way: what lives is counted at every event. */
typedef struct Count {
    PytorchReplay *replay;
    uint64_t event, peak_event, highest;
    PytorchEvent at;
} Count;

static int count(void *user, const PytorchEvent *e)
{
    Count *c = user;
    if (e->action == PYTORCH_ALLOC)
        assert_int_equal(estimate_pytorch_alloc(c->replay, e->serial, e->bytes), 0);
    else if (e->action == PYTORCH_FREE)
        assert_int_equal(estimate_pytorch_free(c->replay, e->serial), 0);
    else if (e->action == PYTORCH_EMPTY_CACHE)
        assert_int_equal(estimate_pytorch_empty_cache(c->replay), 0);
    if (estimate_pytorch_books(c->replay)->allocated > c->highest) {
        c->highest = estimate_pytorch_books(c->replay)->allocated;
        c->peak_event = c->event;
        c->at = *e;
    }
    c->event++;
    return 0;
}

static void parts_sum_to_the_peak(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        PytorchJob job = job_of(&cases[i]);
        PytorchSummary s;
        PytorchBooks books;
        Count c = {.replay = estimate_pytorch_create(NULL)};
        assert_int_equal(estimate_pytorch_summary(&job, NULL, &s), 0);
        check_sums(&cases[i], &s);
        assert_int_equal(estimate_pytorch_job(&job, count, &c), 0);
        assert_int_equal(s.peak_event, c.peak_event);
        assert_int_equal(s.peak_at.serial, c.at.serial);
        assert_int_equal(estimate_pytorch_peaks(&job, NULL, &books), 0);
        assert_memory_equal(&books, &s.books, sizeof books);
        assert_memory_equal(&books, estimate_pytorch_books(c.replay), sizeof books);
        estimate_pytorch_destroy(c.replay);
        estimate_pytorch_summary_free(&s);
        assert_null(s.live);
    }
}

static void kinds_are_what_the_job_has(void **state)
{
    (void)state;
    PytorchJob job = small();
    PytorchSummary s;
    int64_t layer = 2 * 192 * 192 + 2 * 192 * 64 + 3 * 192 * 344 + 2 * 192,
            parameters = 2 * 1031 * 192 + 2 * layer + 192;
    assert_int_equal(estimate_pytorch_summary(&job, NULL, &s), 0);
    assert_int_equal(s.at_peak[PYTORCH_PARAMETER], 2 * parameters);
    assert_int_equal(s.at_peak[PYTORCH_OPTIMIZER_STATE], 4 * parameters);
    assert_int_equal(s.at_peak[PYTORCH_FROZEN], 0);
    assert_int_equal(s.at_peak[PYTORCH_INPUT], 2 * 3 * 56 * 8);
    assert_true(s.at_peak[PYTORCH_ACTIVATION] > 0);
    uint64_t states[2] = {0};
    for (size_t i = 0; i < s.live_count; i++) /* states stand where their parameters do */
        if (s.live[i].layer >= 0 && s.live[i].kind == PYTORCH_OPTIMIZER_STATE)
            states[s.live[i].layer] += s.live[i].bytes;
    assert_int_equal(states[0], 4 * layer);
    assert_int_equal(states[1], 4 * layer);
    estimate_pytorch_summary_free(&s);
    job.precision = PYTORCH_AUTOCAST_BF16;
    assert_int_equal(estimate_pytorch_summary(&job, NULL, &s), 0);
    assert_int_equal(s.at_peak[PYTORCH_PARAMETER], 4 * parameters);
    assert_true(s.at_peak[PYTORCH_CAST] > 0 && s.at_peak[PYTORCH_CAST] <= (uint64_t)(2 * parameters));
    estimate_pytorch_summary_free(&s);
}

/* ---- Verdicts -------------------------------------------------------------------------------- */

/* The word alone is that of the verdict; and where it fits so are its books. */
static void assert_same_word(const PytorchJob *job, uint64_t limit, const PytorchVerdict *v)
{
    PytorchBooks b;
    int fits = estimate_pytorch_fits(job, NULL, limit, &b);
    assert_int_equal(fits, v->answer == PYTORCH_FITS || v->answer == PYTORCH_FITS_TIGHT);
    if (!fits)
        return;
    assert_int_equal(b.peak_allocated, v->books.peak_allocated);
    assert_int_equal(b.peak_reserved, v->books.peak_reserved);
    assert_int_equal(b.retries, v->flushes);
}

static PytorchVerdict verdict_at(const PytorchJob *job, const PytorchBooks *books, uint64_t limit)
{
    PytorchVerdict v;
    PytorchBooks endless;
    assert_int_equal(estimate_pytorch_verdict(job, NULL, limit, &endless, &v), 0);
    assert_memory_equal(&endless, books, sizeof endless);
    assert_same_word(job, limit, &v);
    return v;
}

static int until_it_fails(void *user, const PytorchEvent *e)
{
    return estimate_pytorch_give(user, e);
}

/* The books of a replay that has the limit from the first event on. */
static PytorchBooks limited(const PytorchJob *job, PytorchAllocatorOptions options, uint64_t limit)
{
    options.limit = limit;
    PytorchReplay *replay = estimate_pytorch_create(&options);
    int status = estimate_pytorch_job(job, until_it_fails, replay);
    PytorchBooks books = *estimate_pytorch_books(replay);
    estimate_pytorch_destroy(replay);
    assert_int_equal(status, books.ooms ? PYTORCH_OUT_OF_MEMORY : 0);
    return books;
}

static int fails(const PytorchVerdict *v)
{
    return v->answer == PYTORCH_RUNS_OUT || v->answer == PYTORCH_TOO_LARGE;
}

static void verdicts_are_those_of_a_replay(void **state)
{
    (void)state;
    int seen[4] = {0};
    for (size_t i = 0; i < COUNT(cases); i++) {
        PytorchJob job = job_of(&cases[i]);
        PytorchBooks b;
        assert_int_equal(estimate_pytorch_peaks(&job, NULL, &b), 0);
        for (uint64_t limit = b.peak_reserved + 1; limit + (UINT64_C(4) << 20) > b.peak_allocated;
             limit -= UINT64_C(1) << 20) {
            PytorchVerdict v = verdict_at(&job, &b, limit);
            PytorchBooks whole = limited(&job, (PytorchAllocatorOptions){0}, limit);
            seen[v.answer]++;
            assert_memory_equal(&v.books, &whole, sizeof whole);
            assert_true((v.answer == PYTORCH_FITS) == (b.peak_reserved <= limit));
            assert_true((v.answer == PYTORCH_TOO_LARGE) == (b.peak_allocated > limit) || !fails(&v));
            assert_int_equal(v.failed.bytes != 0, fails(&v));
            assert_int_equal(v.books.ooms != 0, fails(&v));
            assert_true(v.answer != PYTORCH_FITS_TIGHT || v.books.peak_reserved <= limit);
            if (limit < UINT64_C(2) << 20)
                break;
        }
    }
    for (int a = 0; a < 4; a++)
        assert_true(seen[a] > 0);
}

static void nothing_fits_in_nothing(void **state)
{
    (void)state;
    PytorchJob job = small();
    PytorchBooks b;
    assert_int_equal(estimate_pytorch_peaks(&job, NULL, &b), 0);
    assert_int_equal(verdict_at(&job, &b, 0).answer, PYTORCH_TOO_LARGE);
    PytorchVerdict one = verdict_at(&job, &b, 1);
    assert_int_equal(one.answer, PYTORCH_TOO_LARGE);
    assert_int_equal(one.failed.phase, PYTORCH_MODEL);
    assert_int_equal(verdict_at(&job, &b, UINT64_MAX).answer, PYTORCH_FITS);
}

/* More steps ask for nothing new: what is planned of two holds for all. Nor do more micro-batches, but for
 * the inputs, which Trainer brings to the card together. */
static void what_repeats_needs_no_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        PytorchJob job = job_of(&cases[i]), longer;
        PytorchBooks b, more;
        job.accumulate = 3;
        assert_int_equal(estimate_pytorch_peaks(&job, NULL, &b), 0);
        longer = job;
        longer.steps = 5;
        assert_int_equal(estimate_pytorch_peaks(&longer, NULL, &more), 0);
        if (more.peak_requested != b.peak_requested)
            fail_msg("%s: steps", cases[i].name);
        longer = job;
        longer.accumulate = 9;
        assert_int_equal(estimate_pytorch_peaks(&longer, NULL, &more), 0);
        uint64_t inputs = UINT64_C(6) * 3 * 8 * (uint64_t)(job.batch * job.seq);
        if (more.peak_requested != b.peak_requested + (job.script == PYTORCH_TRAINER ? inputs : 0))
            fail_msg("%s: micro-batches", cases[i].name);
    }
}

/* ---- Options, names, refusals ---------------------------------------------------------------- */

static void settings_of_the_allocator_count(void **state)
{
    (void)state;
    PytorchJob job = small();
    PytorchAllocatorOptions pages = {.expandable_segments = 1, .total = UINT64_C(1) << 30};
    PytorchBooks plain, other;
    PytorchSummary s;
    job.seq = 500;
    job.batch = 9;
    assert_int_equal(estimate_pytorch_peaks(&job, NULL, &plain), 0);
    assert_int_equal(estimate_pytorch_peaks(&job, &pages, &other), 0);
    assert_int_equal(plain.peak_requested, other.peak_requested);
    assert_true(plain.peak_reserved != other.peak_reserved);
    assert_int_equal(estimate_pytorch_summary(&job, &pages, &s), 0);
    assert_memory_equal(&s.books, &other, sizeof other);
    estimate_pytorch_summary_free(&s);
}

/* Settings that a replay with a limit has to have from its first event on. */
static void verdicts_follow_the_settings(void **state)
{
    (void)state;
    const PytorchAllocatorOptions settings[] = {
        {.expandable_segments = 1, .total = UINT64_C(1) << 30},
        {.fraction = 0.5, .total = UINT64_C(64) << 20},
        {.fraction = 0.5, .total = UINT64_C(64) << 20, .garbage_collection_threshold = 0.6},
        {.max_split_size = UINT64_C(24) << 20},
    };
    PytorchJob job = small();
    job.seq = 500;
    job.batch = 9;
    for (size_t i = 0; i < COUNT(settings); i++) {
        PytorchAllocatorOptions endless = settings[i];
        PytorchBooks b, books;
        PytorchVerdict v;
        endless.fraction = 0;
        assert_int_equal(estimate_pytorch_peaks(&job, &endless, &b), 0);
        for (uint64_t limit = b.peak_reserved; limit > (UINT64_C(8) << 20); limit -= limit / 16) {
            PytorchBooks whole = limited(&job, settings[i], limit);
            assert_int_equal(estimate_pytorch_verdict(&job, &settings[i], limit, &books, &v), 0);
            assert_memory_equal(&books, &b, sizeof b); /* an endless card has no fraction */
            assert_memory_equal(&v.books, &whole, sizeof whole);
            assert_int_equal(fails(&v), whole.ooms > 0);
        }
    }
}

static void everything_has_a_name(void **state)
{
    (void)state;
    for (int k = 0; k < PYTORCH_KINDS; k++)
        assert_true(estimate_pytorch_kind_name((PytorchKind)k)[0] != '\0');
    for (int p = 0; p < PYTORCH_PHASES; p++)
        assert_true(estimate_pytorch_phase_name((PytorchPhase)p)[0] != '\0');
    assert_string_equal(estimate_pytorch_kind_name(PYTORCH_KINDS), "");
    assert_string_equal(estimate_pytorch_phase_name(PYTORCH_PHASES), "");
}

static void what_has_no_rules_is_refused(void **state)
{
    (void)state;
    char why[200] = "";
    PytorchJob job = small();
    assert_int_equal(estimate_pytorch_refuses(&job, why, sizeof why), 0);
    job.capability = 70;
    assert_int_equal(estimate_pytorch_refuses(&job, why, sizeof why), 1);
    assert_non_null(strstr(why, "7.0"));
    job = small();
    job.quantize = PYTORCH_NF4;
    assert_int_equal(estimate_pytorch_refuses(&job, why, sizeof why), 1);
    assert_int_equal(estimate_pytorch_capability_at(-1), 0);
    assert_null(estimate_pytorch_dialect_at(-1));
    for (int i = 1; estimate_pytorch_capability_at(i); i++)
        assert_true(estimate_pytorch_capability_at(i) > estimate_pytorch_capability_at(i - 1));
    for (int i = 0; estimate_pytorch_dialect_at(i); i++)
        assert_true(estimate_pytorch_versions(estimate_pytorch_dialect_at(i)).torch[0] != '\0');
    assert_string_equal(estimate_pytorch_versions(NULL).torch,
                        estimate_pytorch_versions(estimate_pytorch_dialect_at(0)).torch);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* cuDNN's attention: of sdpa, in 16 bits, from compute capability 9.0 on, of versions that prefer it. */
static void what_no_trace_has_is_unverified(void **state)
{
    (void)state;
    char why[300] = "";
    PytorchJob job = small();
    assert_int_equal(estimate_pytorch_unverified(&job, why, sizeof why), 0);
    job.capability = 90;
    assert_int_equal(estimate_pytorch_unverified(&job, why, sizeof why), 1);
    assert_non_null(strstr(why, "sdpa takes cuDNN's kernel first"));
    PytorchJob others[] = {job, job, job};
    others[0].attention = PYTORCH_EAGER;
    others[1].precision = PYTORCH_FP32;
    for (int i = 0; estimate_pytorch_dialect_at(i); i++)
        if (!strcmp(estimate_pytorch_versions(estimate_pytorch_dialect_at(i)).torch, "2.6"))
            others[2].dialect = estimate_pytorch_dialect_at(i);
    assert_non_null(others[2].dialect);
    for (size_t i = 0; i < COUNT(others); i++)
        assert_int_equal(estimate_pytorch_unverified(&others[i], why, sizeof why), 0);
    job.precision = PYTORCH_AUTOCAST_BF16;
    assert_int_equal(estimate_pytorch_unverified(&job, why, sizeof why), 1);
}

static int fails_somewhere(const PytorchJob *job, uint64_t limit)
{
    PytorchSummary s;
    PytorchBooks books;
    PytorchVerdict v;
    if (estimate_pytorch_summary(job, NULL, &s))
        return 1;
    int failed = estimate_pytorch_verdict(job, NULL, limit, &books, &v) != 0;
    estimate_pytorch_summary_free(&s);
    return failed || estimate_pytorch_fits(job, NULL, limit, &books) < 0;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    PytorchJob job = small();
    PytorchBooks b;
    job.model.layers = 1;
    assert_int_equal(estimate_pytorch_peaks(&job, NULL, &b), 0);
    uint64_t limit = b.peak_reserved - 1;
    for (uint64_t n = 1;; n++) {
        memtrack_fail_nth(n);
        int failed = fails_somewhere(&job, limit);
        int over = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(memtrack_process_live(), 0);
        assert_int_equal(failed, !over);
        if (over) {
            assert_true(n > 10);
            break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_sum_to_the_peak),          cmocka_unit_test(kinds_are_what_the_job_has),
        cmocka_unit_test(verdicts_are_those_of_a_replay), cmocka_unit_test(nothing_fits_in_nothing),
        cmocka_unit_test(what_repeats_needs_no_more),     cmocka_unit_test(settings_of_the_allocator_count),
        cmocka_unit_test(verdicts_follow_the_settings),   cmocka_unit_test(everything_has_a_name),
        cmocka_unit_test(what_has_no_rules_is_refused),   cmocka_unit_test(what_no_trace_has_is_unverified),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
