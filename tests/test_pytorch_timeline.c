/* The timeline of a PyTorch job: its highest point is the peak, its kinds are those of the summary there, and
 * its spans are the phases of two steps. */
#include <string.h>

#include "../estimate/pytorch/summary.h"
#include "../estimate/pytorch/timeline.h"
#include "support.h"

static PytorchJob job_of(int layers, int accumulate, PytorchCheckpoint checkpoint)
{
    return (PytorchJob){.model = {.family = PYTORCH_LLAMA,
                                  .vocab = 1031,
                                  .hidden = 192,
                                  .layers = layers,
                                  .heads = 6,
                                  .kv_heads = 2,
                                  .head_dim = 32,
                                  .intermediate = 344,
                                  .positions = 512},
                        .precision = PYTORCH_BF16,
                        .capability = 80,
                        .checkpoint = checkpoint,
                        .batch = 3,
                        .seq = 56,
                        .accumulate = accumulate,
                        .steps = 2,
                        .clip = 1};
}

static uint64_t sum_of(const PytorchPoint *p)
{
    uint64_t sum = 0;
    for (int k = 0; k < PYTORCH_KINDS; k++)
        sum += p->by[k];
    return sum;
}

/* Parameters, states and inputs are what they are from the beginning; a gradient may still be a temporary. */
static void assert_as_in_summary(const PytorchPoint *p, const PytorchSummary *s)
{
    static const PytorchKind kinds[] = {PYTORCH_PARAMETER, PYTORCH_OPTIMIZER_STATE, PYTORCH_INPUT,
                                        PYTORCH_BUFFER, PYTORCH_WORKSPACE};
    assert_int_equal(sum_of(p), s->requested);
    for (size_t i = 0; i < COUNT(kinds); i++)
        assert_int_equal(p->by[kinds[i]], s->at_peak[kinds[i]]);
}

static void its_highest_point_is_the_peak(void **state)
{
    (void)state;
    static PytorchTimeline t;
    static const struct {
        int layers, accumulate;
        PytorchCheckpoint checkpoint;
    } trials[] = {
        {1, 1, PYTORCH_KEEP}, {2, 1, PYTORCH_KEEP}, {6, 3, PYTORCH_CHECKPOINT}, {24, 2, PYTORCH_KEEP}};
    for (size_t i = 0; i < COUNT(trials); i++) {
        PytorchJob job = job_of(trials[i].layers, trials[i].accumulate, trials[i].checkpoint);
        PytorchSummary s;
        uint64_t allocated = 0, reserved = 0;
        int highest = 0;
        assert_int_equal(estimate_pytorch_summary(&job, NULL, &s), 0);
        assert_int_equal(estimate_pytorch_timeline(&job, NULL, &t), 0);
        assert_true(t.count > PYTORCH_POINTS / 4 && t.count <= PYTORCH_POINTS);
        for (int k = 0; k < t.count; k++) {
            const PytorchPoint *p = &t.points[k];
            assert_true(sum_of(p) <= p->allocated && p->allocated <= p->reserved);
            highest = p->allocated > allocated ? k : highest;
            allocated = p->allocated > allocated ? p->allocated : allocated;
            reserved = p->reserved > reserved ? p->reserved : reserved;
        }
        assert_int_equal(allocated, s.books.peak_allocated);
        assert_int_equal(reserved, s.books.peak_reserved);
        assert_as_in_summary(&t.points[highest], &s);
        const PytorchSpan *span = &t.spans[t.points[highest].span];
        assert_int_equal(span->step, s.peak_at.step);
        assert_int_equal(span->phase, s.peak_at.phase);
        assert_int_equal(span->micro, s.peak_at.micro);
        estimate_pytorch_summary_free(&s);
    }
}

static void its_spans_are_the_phases(void **state)
{
    (void)state;
    static PytorchTimeline t;
    PytorchJob job = job_of(2, 2, PYTORCH_KEEP);
    int steps[2] = {0}, micros = 0;
    assert_int_equal(estimate_pytorch_timeline(&job, NULL, &t), 0);
    assert_int_equal(t.spans[0].phase, PYTORCH_MODEL);
    assert_int_equal(t.spans[0].first, 0);
    for (int i = 1; i < t.span_count; i++) {
        assert_true(t.spans[i].first >= t.spans[i - 1].first && t.spans[i].first < t.count);
        if (t.spans[i].phase == PYTORCH_BACKWARD) {
            steps[t.spans[i].step]++;
            micros += t.spans[i].micro;
        }
    }
    assert_int_equal(steps[0], 2);
    assert_int_equal(steps[1], 2);
    assert_int_equal(micros, 2);
}

/* A limit and a fraction of the card that are too small for the job change nothing. */
static void it_is_of_an_endless_card(void **state)
{
    (void)state;
    static PytorchTimeline t, with;
    PytorchAllocatorOptions small = {.fraction = 0.01, .total = UINT64_C(64) << 20, .limit = 1 << 20};
    PytorchJob job = job_of(2, 1, PYTORCH_KEEP);
    assert_int_equal(estimate_pytorch_timeline(&job, NULL, &t), 0);
    assert_int_equal(estimate_pytorch_timeline(&job, &small, &with), 0);
    assert_memory_equal(&t, &with, sizeof t);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    static PytorchTimeline t;
    PytorchJob job = job_of(1, 1, PYTORCH_KEEP);
    for (uint64_t n = 1;; n++) {
        memtrack_fail_nth(n);
        int failed = estimate_pytorch_timeline(&job, NULL, &t) != 0;
        int over = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(memtrack_process_live(), 0);
        assert_int_equal(failed, !over);
        if (over)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_highest_point_is_the_peak),
        cmocka_unit_test(its_spans_are_the_phases),
        cmocka_unit_test(it_is_of_an_endless_card),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
