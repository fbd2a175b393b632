/* What a rank holds and sends, by hand-written integers: parts in units of 64 bytes, the formulas of ZeRO;
 * and ranks whose plans differ, which say so before anything is reserved. */
#include <inttypes.h>

#include "../nn/nn.h"
#include "../optim/optim.h"
#include "../plan/plan.h"
#include "../tensor/ranks_.h"
#include "rank_threads.h"
#include "support.h"

/* Linear layers one after the other, each of its own shape, and a class for each output of the last. */
typedef struct Job {
    int64_t width[4]; /* of the input, then of each layer's output; 0 ends them */
    int bias, micro_batches, steps;
    int rank_of_more; /* this rank trains one step more; -1: none does */
} Job;

static int script(void *config)
{
    const Job *job = config;
    enum { ROWS = 2 };
    Module *model = nn_sequential();
    int layers = 0, steps = job->steps;
    for (; layers < 3 && job->width[layers + 1]; layers++)
        nn_append(model, nn_linear(job->width[layers], job->width[layers + 1], job->bias));
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-3f});
    if (context_rank_(context_current()) == job->rank_of_more)
        steps++;
    for (int step = 0; step < steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (int m = 0; m < job->micro_batches; m++) {
            Tensor *x = tensor_zeros(DTYPE_F32, SHAPE(ROWS, job->width[0]), MEM_INPUT);
            Tensor *labels = tensor_zeros(DTYPE_I32, SHAPE(ROWS), MEM_INPUT);
            tensor_backward(tensor_cross_entropy(nn_forward(model, x, NULL), labels, BATCH_IGNORE, 0.5f));
        }
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

static Plan plan_of(const Job *job, RankStrategy strategy, int rank, int size)
{
    Plan plan;
    Ranks ranks = {.rank = rank, .size = size, .strategy = strategy};
    Job own = *job;
    if (plan_script(script, &own, &(RunOptions){.threads = 1, .ranks = &ranks}, &plan))
        fail_msg("%s, %d ranks: %s", ranks_strategy_name(strategy), size, plan.error);
    plan_free(&plan);
    return plan;
}

typedef struct Expected {
    RankStrategy strategy;
    uint64_t parameters, gradients, states, gathered, sent; /* own peaks, and what is sent a step */
} Expected;

static void check(const Job *job, int size, const Expected *e)
{
    for (int rank = 0; rank < size; rank++) {
        Plan plan = plan_of(job, e->strategy, rank, size);
        const uint64_t *own = plan.memory.stats.own_peak;
        const uint64_t seen[] = {own[MEM_PARAMETER], own[MEM_GRADIENT], own[MEM_OPTIMIZER], own[MEM_GATHERED],
                                 plan.step_sent};
        const uint64_t wanted[] = {e->parameters, e->gradients, e->states, e->gathered, e->sent};
        static const char *const names[] = {"parameters", "gradients", "states", "gathered", "sent"};
        for (size_t i = 0; i < COUNT(seen); i++)
            if (seen[i] != wanted[i])
                fail_msg("%s, rank %d of %d: %s %" PRIu64 " bytes, not %" PRIu64,
                         ranks_strategy_name(e->strategy), rank, size, names[i], seen[i], wanted[i]);
    }
}

/* One layer of 50 x 41 with a bias, 3 ranks. The weight: 2050 elements, 8200 bytes, charged 8256. A third is
 * 683.3, so a part is 688 elements = 2752 bytes, and all three 8256. The bias: 41 elements, charged 192;
 * fewer than 48, so it is whole everywhere. */
static void test_padded_parts_by_hand(void **state)
{
    (void)state;
    enum { WEIGHT = 8256, PART = 2752, BIAS = 192, RANKS = 3 };
    /* The weight's gradient: two parts to the others, two parts of sums from here to them. The bias: pieces
     * of 64 bytes. 64 bytes to each: what ranks agree on. */
    enum { WEIGHT_SENT = 4 * PART, REST_SENT = 4 * 64 + 2 * 64 };
    const Job job = {.width = {50, 41}, .bias = 1, .micro_batches = 1, .steps = 2, .rank_of_more = -1};
    const Expected all[] = {
        {RANKS_DDP, WEIGHT + BIAS, WEIGHT + BIAS, 2 * (WEIGHT + BIAS), 0, WEIGHT_SENT + REST_SENT},
        {RANKS_ZERO1, WEIGHT + BIAS, WEIGHT + BIAS, 2 * (PART + BIAS), 0, WEIGHT_SENT + REST_SENT},
        /* the whole gradient is there until its part is summed */
        {RANKS_ZERO2, WEIGHT + BIAS, WEIGHT + BIAS + PART, 2 * (PART + BIAS), 0, WEIGHT_SENT + REST_SENT},
        /* gathered once: nothing in front of the layer has a gradient, so backward does not read the weight
         */
        {RANKS_ZERO3, PART + BIAS, WEIGHT + BIAS + PART, 2 * (PART + BIAS), WEIGHT, WEIGHT_SENT + REST_SENT},
    };
    for (size_t i = 0; i < COUNT(all); i++)
        check(&job, RANKS, &all[i]);
}

/* Two layers of 64 x 64, no bias: P = 8192 parameters, 32768 bytes, which 2, 4 and 8 ranks divide without
 * padding. */
static void test_formulas_of_zero(void **state)
{
    (void)state;
    enum { LAYER = 64 * 64 * 4, P4 = 2 * LAYER };
    const Job job = {.width = {64, 64, 64}, .micro_batches = 1, .steps = 2, .rank_of_more = -1};
    for (uint64_t n = 2; n <= 8; n *= 2) {
        uint64_t others = n - 1, agreed = others * 64, part = P4 / n, once = others * part;
        const Expected all[] = {
            {RANKS_DDP, P4, P4, 2 * P4, 0, 2 * once + agreed},     /* 16 P */
            {RANKS_ZERO1, P4, P4, 2 * part, 0, 2 * once + agreed}, /* 8 P + 8 P / N */
            {RANKS_ZERO2, P4, part + LAYER, 2 * part, 0,
             2 * once + agreed}, /* 4 P + 12 P / N, and a whole gradient */
            /* 16 P / N, a whole weight and a whole gradient. Forward gathers both layers, backward the
               second. */
            {RANKS_ZERO3, part, part + LAYER, 2 * part, LAYER, once + once / 2 + once + agreed},
        };
        for (size_t i = 0; i < COUNT(all); i++)
            check(&job, (int)n, &all[i]);
    }
}

/* Of each micro-batch ZeRO-2 and 3 sum what DDP and ZeRO-1 sum once a step. */
static void test_what_accumulation_sends(void **state)
{
    (void)state;
    enum { P4 = 2 * 64 * 64 * 4, N = 4, ONCE = 3 * P4 / N, AGREED = 3 * 64 };
    const Job job = {.width = {64, 64, 64}, .micro_batches = 3, .steps = 2, .rank_of_more = -1};
    assert_int_equal(plan_of(&job, RANKS_DDP, 1, N).step_sent, 2 * ONCE + AGREED);
    assert_int_equal(plan_of(&job, RANKS_ZERO1, 1, N).step_sent, 2 * ONCE + AGREED);
    assert_int_equal(plan_of(&job, RANKS_ZERO2, 1, N).step_sent, 3 * ONCE + ONCE + AGREED);
    assert_int_equal(plan_of(&job, RANKS_ZERO3, 1, N).step_sent, 3 * (ONCE + ONCE / 2) + 3 * ONCE + AGREED);
}

/* ---- Plans that differ ------------------------------------------------------------------------- */

typedef struct Meeting {
    Job job[3];
    RankStrategy strategy[3];
    RankReduce reduce[3];
    int64_t below[3];
    int threads[3], status[3], reserved[3];
    char error[3][512];
} Meeting;

static int body(const Ranks *ranks, void *user)
{
    Meeting *m = user;
    int r = ranks->rank;
    Ranks is = *ranks;
    is.strategy = m->strategy[r];
    is.reduce = m->reduce[r];
    is.replicate_below = m->below[r];
    RunOptions o = {.threads = m->threads[r], .quiet = 1, .ranks = &is};
    Plan plan;
    RunResult result;
    if (plan_script(script, &m->job[r], &o, &plan))
        return 1;
    m->status[r] = plan_execute(script, &m->job[r], &o, &plan, &result);
    m->reserved[r] = result.memory.reserved != 0;
    memcpy(m->error[r], result.error, sizeof result.error);
    plan_free(&plan);
    return 0;
}

static Meeting meeting_of(void)
{
    Meeting m;
    memset(&m, 0, sizeof m);
    for (int r = 0; r < 3; r++) {
        m.job[r] = (Job){.width = {64, 64, 64}, .micro_batches = 1, .steps = 1, .rank_of_more = -1};
        m.strategy[r] = RANKS_ZERO2;
        m.threads[r] = 1;
    }
    return m;
}

/* All ranks know it, and nobody has reserved anything. */
static void refused(Meeting *m, const char *rank, const char *what)
{
    assert_int_equal(as_ranks(3, RANKS_ZERO2, body, m), 0);
    for (int r = 0; r < 3; r++) {
        assert_int_equal(m->status[r], ERROR_RANKS);
        assert_false(m->reserved[r]);
        if (!strstr(m->error[r], rank) || !strstr(m->error[r], what))
            fail_msg("rank %d: neither '%s' nor '%s' is in: %s", r, rank, what, m->error[r]);
    }
}

static void test_equal_plans_run(void **state)
{
    (void)state;
    Meeting m = meeting_of();
    assert_int_equal(as_ranks(3, RANKS_ZERO2, body, &m), 0);
    for (int r = 0; r < 3; r++) {
        assert_string_equal(m.error[r], "");
        assert_int_equal(m.status[r], 0);
        assert_true(m.reserved[r]);
    }
}

static void test_other_plans_are_refused(void **state)
{
    (void)state;
    Meeting m = meeting_of();
    m.strategy[2] = RANKS_ZERO3;
    refused(&m, "rank 2 ", "with zero3, not with zero2");
    m = meeting_of();
    m.reduce[1] = RANKS_REDUCE_LIBRARY;
    refused(&m, "rank 1 ", "is to add in library order, not auto");
    m = meeting_of();
    m.below[2] = 9;
    refused(&m, "rank 2 ", "below 9 elements whole, not below 0");
    m = meeting_of();
    m.threads[1] = 2;
    refused(&m, "rank 1 ", "has 2 threads, not 1");
    m = meeting_of();
    m.job[1].rank_of_more = 1;
    refused(&m, "rank 1 ", "planned 2 steps, not 1");
    m = meeting_of();
    m.job[2].width[1] = 80;
    refused(&m, "rank 2 ", "bytes, not ");
    m = meeting_of();
    m.job[0].micro_batches = 2; /* rank 0 is what the others are compared with */
    refused(&m, "rank 1 ", "same options and the same data");
}

/* Ranks of one machine need as much as all of them together, and have its threads together. */
static void test_the_machine_is_shared(void **state)
{
    (void)state;
    char why[512];
    MemMachine machine;
    Job job = {.width = {64, 64}, .micro_batches = 1, .steps = 1, .rank_of_more = -1};
    Ranks here = {.size = 4, .node_size = 4};
    Plan plan;
    assert_int_equal(plan_script(script, &job, &(RunOptions){.threads = 1, .ranks = &here}, &plan), 0);
    assert_int_equal(plan.ranks_here, 4);
    assert_int_equal(plan_fits_machine(&plan, 0, &machine, why, sizeof why), 0);
    plan.memory.stats.needs =
        machine.available / 3; /* three of them would fit, but for what is beside them */
    assert_int_equal(plan_fits_machine(&plan, 0, NULL, why, sizeof why), ERROR_MEMORY);
    assert_non_null(strstr(why, " for the 4 ranks on this machine"));
    plan.ranks_here = 1;
    assert_int_equal(plan_fits_machine(&plan, 0, NULL, why, sizeof why), 0);
    plan_free(&plan);
    int all = context_default_threads(NULL);
    assert_int_equal(context_default_threads(&(Ranks){.size = 1}), all);
    assert_int_equal(context_default_threads(&(Ranks){.size = 2}), all > 1 ? all / 2 : 1);
    assert_int_equal(context_default_threads(&(Ranks){.size = 1000}), 1);
    assert_int_equal(context_default_threads(&(Ranks){.size = 1000, .node_size = 1}),
                     all); /* alone on its machine */
}

/* ---- What ranks tell each other ----------------------------------------------------------------- */

static int tell(const Ranks *ranks, void *user)
{
    int mine[3] = {ranks->rank, 10 * ranks->rank, 7}, all[9] = {0}; /* not of 64 bytes */
    (void)user;
    if (ranks_gather(ranks, mine, sizeof mine, all))
        return 1;
    for (int r = 0; r < 3; r++)
        if (all[3 * r] != r || all[3 * r + 1] != 10 * r || all[3 * r + 2] != 7)
            return 1;
    return 0;
}

static void test_small_figures_are_gathered(void **state)
{
    (void)state;
    int mine = 5, all = 0;
    assert_int_equal(as_ranks(3, RANKS_DDP, tell, NULL), 0);
    assert_int_equal(ranks_gather(NULL, &mine, sizeof mine, &all), 0);
    assert_int_equal(all, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_padded_parts_by_hand),       cmocka_unit_test(test_formulas_of_zero),
        cmocka_unit_test(test_what_accumulation_sends),    cmocka_unit_test(test_equal_plans_run),
        cmocka_unit_test(test_other_plans_are_refused),    cmocka_unit_test(test_the_machine_is_shared),
        cmocka_unit_test(test_small_figures_are_gathered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
