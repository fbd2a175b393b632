/* How gradients are added, and among whom: micro-batches apart, replicas of what is divided, weights that
 * stay whole, sums in the library's order. Each rank's plan, made alone, is its run. */
#include <math.h>

#include "../data/data.h"
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "ranks_support.h"

enum { MOST_RANKS = 8, STEPS = 2, LAYERS = 2 };

typedef struct Job {
    Setting setting;
    Ranks ranks;
    const char *precision; /* NULL = fp32 */
    int accumulate, apart, eight_bit, lora, blocks, in_backward, tied;
    float clip;
    float *weights;
    double loss[STEPS]; /* rank 0's */
    char error[MOST_RANKS][RANK_ERROR];
    MemStats stats[MOST_RANKS];
    uint64_t sent[MOST_RANKS];
    float norm;
} Job;

typedef struct Part {
    Job *job;
    int rank;
} Part;

static int data_ranks(const Job *job)
{
    int tensor = job->ranks.tensor > 1 ? job->ranks.tensor : 1;
    return job->ranks.size / tensor;
}

static Module *model_of(const Job *job)
{
    ModelPreset preset = preset_of_text(&job->setting, job->tied);
    if (job->lora)
        nn_set_weights(&(Weights){.dtype = DTYPE_F32, .frozen = 1});
    Module *model = nn_model(&preset);
    if (job->lora) {
        nn_set_weights(NULL);
        nn_add_lora(model, &(Lora){.rank = 4, .dropout = 0.1f});
    }
    nn_set_gather_blocks(model, job->blocks);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), job->setting.checkpoint);
    return model;
}

static int script(void *config)
{
    const Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current());
    Loader *data = data_text(
        "builtin",
        &(TextOptions){
            .batch = 2, .seq = SMALL_SEQ, .accumulate = job->accumulate, .seed = 1, .held_out = -1});
    if (job->precision)
        tensor_set_precision(precision_by_name(job->precision));
    Module *model = model_of(job);
    Optimizer *optimizer =
        job->eight_bit
            ? optim_adamw8bit(nn_parameters(model), &(AdamW8bit){.lr = 1e-2f, .weight_decay = 0.1f})
            : optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f, .weight_decay = 0.1f});
    optim_set_clip(optimizer, job->clip);
    optim_set_in_backward(optimizer, job->in_backward);
    for (int step = 0; step < STEPS && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        if (!meta && part->rank == 0) {
            job->loss[step] = tensor_step_loss();
            job->norm = optim_grad_norm(optimizer);
        }
        tensor_scope_end(scope);
    }
    if (!meta && !error_code())
        write_parts(nn_parameters(model), job->weights);
    return error_code();
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Ranks own = *ranks;
    Part part = {job, ranks->rank};
    Plan plan;
    own.unit = job->eight_bit ? DYNAMIC8_BLOCK : 0;
    RunOptions o = {.threads = 1, .seed = 5, .quiet = 1, .accumulate_apart = job->apart};
    int status = plan_and_run_with(o, script, &part, &own, &plan, job->error[ranks->rank]);
    job->stats[ranks->rank] = plan.memory.stats;
    job->sent[ranks->rank] = plan.step_sent;
    return status;
}

static const char *text_of(const Job *job)
{
    static char text[256];
    const Ranks *r = &job->ranks;
    snprintf(text, sizeof text, "%s, %s, %d ranks, %d replicas, tensor %d, %s, %d micro-batches",
             setting_text(&job->setting), ranks_strategy_name(r->strategy), r->size, r->replicas, r->tensor,
             ranks_reduce_name(r->reduce), job->accumulate);
    return text;
}

/* All ranks are alike: what they need, send and hold. */
static void run(Job *job)
{
    job->weights = numbers_new();
    int failed = as_these_ranks(&job->ranks, body, job);
    for (int r = 0; r < job->ranks.size; r++)
        if (job->error[r][0])
            fail_msg("%s: rank %d: %s", text_of(job), r, job->error[r]);
    assert_int_equal(failed, 0);
    for (int r = 1; r < job->ranks.size; r++) {
        assert_int_equal(job->stats[r].needs, job->stats[0].needs);
        assert_int_equal(job->stats[r].event_hash, job->stats[0].event_hash);
        assert_int_equal(job->sent[r], job->sent[0]);
    }
}

/* The same in one process; its plan is its run. */
static void run_alone(Job *job, int apart)
{
    Part part = {job, 0};
    RunOptions o = {.threads = 1, .seed = 5, .quiet = 1, .accumulate_apart = apart};
    Plan plan;
    RunResult result;
    job->weights = numbers_new();
    job->accumulate *= data_ranks(job);
    if (plan_script(script, &part, &o, &plan) || plan_execute(script, &part, &o, &plan, &result))
        fail_msg("%s: alone: %s%s", text_of(job), plan.error, result.error);
    assert_int_equal(result.memory.stats.event_hash, plan.memory.stats.event_hash);
    assert_int_equal(result.memory.stats.needs, plan.memory.stats.needs);
    job->stats[0] = plan.memory.stats;
    plan_free(&plan);
}

static void assert_apart_by(const Job *a, const Job *b, double least, double most)
{
    double d = numbers_apart(a->weights, b->weights);
    if (!(d >= least && d <= most))
        fail_msg("%s: weights are %g apart", text_of(a), d);
    for (int s = 0; s < STEPS; s++)
        if (fabs(a->loss[s] - b->loss[s]) > 1e-6 * b->loss[s])
            fail_msg("%s: loss %.9g, not %.9g", text_of(a), a->loss[s], b->loss[s]);
}

static void assert_equal_to_one(Job job, double most)
{
    Job alone = job;
    run(&job);
    run_alone(&alone, 1);
    assert_apart_by(&job, &alone, 0, most);
    test_free(job.weights);
    test_free(alone.weights);
}

static const Setting llama = {.family = MODEL_LLAMA, .layers = LAYERS},
                     gpt2 = {.family = MODEL_GPT2, .layers = LAYERS, .dropout = 0.2f, .checkpoint = 1};

/* ---- Micro-batches apart ---------------------------------------------------------------------- */

/* It is not the sum that kernels make where they add to what is there; it takes one gradient more, of the
 * largest parameter; and several ranks sum to it. */
static void test_apart_is_what_ranks_sum(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        Job job = {.setting = i ? gpt2 : llama, .ranks = {.size = 3}, .accumulate = 1}, apart = job,
            usual = job;
        run_alone(&apart, 1);
        run_alone(&usual, 0);
        assert_apart_by(&apart, &usual, 1e-12, 1e-4);
        const uint64_t *own = apart.stats[0].own_peak;
        assert_true(own[MEM_GRADIENT] > usual.stats[0].own_peak[MEM_GRADIENT]);
        run(&job);
        assert_apart_by(&job, &apart, 0, 0);
        test_free(job.weights);
        test_free(apart.weights);
        test_free(usual.weights);
    }
}

/* Ranks that compute a layer together and divide no data: one gradient more, and the same losses. */
static void test_apart_under_tensor_parallel(void **state)
{
    (void)state;
    for (int sequence = 0; sequence < 2; sequence++) {
        Job apart = {.setting = llama,
                     .ranks = {.size = 2, .tensor = 2, .sequence = sequence},
                     .accumulate = 3,
                     .apart = 1},
            usual = apart;
        usual.apart = 0;
        run(&apart);
        run(&usual);
        for (int s = 0; s < STEPS; s++)
            assert_true(fabs(apart.loss[s] - usual.loss[s]) <= 1e-6 * usual.loss[s]);
        assert_true(apart.stats[0].own_peak[MEM_GRADIENT] > usual.stats[0].own_peak[MEM_GRADIENT]);
        test_free(apart.weights);
        test_free(usual.weights);
    }
}

/* zero2 and zero3 do it anyway. */
static void test_apart_is_what_zero2_does(void **state)
{
    (void)state;
    for (int strategy = RANKS_ZERO2; strategy <= RANKS_ZERO3; strategy++) {
        Job apart = {.setting = llama,
                     .ranks = {.size = 2, .strategy = (RankStrategy)strategy},
                     .accumulate = 2,
                     .apart = 1},
            usual = apart;
        usual.apart = 0;
        run(&apart);
        run(&usual);
        assert_apart_by(&apart, &usual, 0, 0);
        assert_int_equal(apart.stats[0].event_hash, usual.stats[0].event_hash);
        test_free(apart.weights);
        test_free(usual.weights);
    }
}

static int refused(const Ranks *ranks, int apart, const char *sentence)
{
    Context *c = context_create(&(ContextOptions){.meta = 1, .ranks = ranks, .accumulate_apart = apart});
    Context *outside = context_use(c);
    int found = error_code() == ERROR_RANKS && strstr(error_message(), sentence);
    if (!found)
        print_error("'%s' is not in '%s'\n", sentence, error_message());
    context_use(outside);
    context_destroy(c);
    return found;
}

static void test_what_is_refused(void **state)
{
    (void)state;
    static const struct {
        Ranks ranks;
        int apart;
        const char *sentence;
    } all[] = {
        {{.size = 2}, 1, "ddp sums over ranks once a step"},
        {{.size = 2, .strategy = RANKS_ZERO1}, 1, "zero1 sums over ranks once a step"},
        {{.size = 2, .stages = 2}, 1, "stages add the gradients"},
        {{.size = 4, .replicas = 2}, 0, "ddp divides nothing"},
        {{.size = 6, .replicas = 4, .strategy = RANKS_ZERO3}, 0, "6 ranks that divide the data are not"},
        {{.size = 4, .replicas = 4, .strategy = RANKS_ZERO2}, 0, "that is ddp"},
        {{.size = 4, .tensor = 2, .replicas = 2, .strategy = RANKS_ZERO2}, 0, "that is ddp"},
        {{.size = 2, .strategy = RANKS_ZERO3, .replicate_below = -1}, 0, "replicate_below is -1"},
        {{.size = 2, .reduce = RANK_REDUCE_COUNT}, 0, "there is no order of sums"},
    };
    for (size_t i = 0; i < COUNT(all); i++)
        assert_true(refused(&all[i].ranks, all[i].apart, all[i].sentence));
}

/* ---- Replicas --------------------------------------------------------------------------------- */

static void test_replicas_are_one_process(void **state)
{
    (void)state;
    static const int shapes[][2] = {{4, 2}, {6, 2}, {6, 3}};
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (int strategy = RANKS_ZERO1; strategy <= RANKS_ZERO3; strategy++)
            assert_equal_to_one((Job){.setting = (i + (size_t)strategy) % 2 ? gpt2 : llama,
                                      .ranks = {.size = shapes[i][0],
                                                .replicas = shapes[i][1],
                                                .strategy = (RankStrategy)strategy},
                                      .accumulate = 1},
                                0);
}

static Job four(RankStrategy strategy)
{
    return (Job){
        .setting = llama, .ranks = {.size = 4, .replicas = 2, .strategy = strategy}, .accumulate = 1};
}

static void test_replicas_with_other_levers(void **state)
{
    (void)state;
    for (int strategy = RANKS_ZERO1; strategy <= RANKS_ZERO3; strategy++) {
        Job job = four((RankStrategy)strategy);
        job.lora = 1;
        assert_equal_to_one(job, 0);
        job.lora = 0;
        job.eight_bit = 1;
        assert_equal_to_one(job, 0);
        job.eight_bit = 0;
        job.clip = 0.05f; /* the norm's sum has another order */
        assert_equal_to_one(job, 1e-6);
    }
    Job job = four(RANKS_ZERO3);
    job.blocks = 1;
    assert_equal_to_one(job, 0);
}

static void test_replicas_update_in_backward(void **state)
{
    (void)state;
    for (int strategy = RANKS_ZERO1; strategy <= RANKS_ZERO3; strategy++) {
        Job in = four((RankStrategy)strategy), after = in;
        in.in_backward = 1;
        run(&in);
        run(&after);
        assert_apart_by(&in, &after, 0, 0);
        test_free(in.weights);
        test_free(after.weights);
    }
}

/* Each part is counted once: the norm is that of one process, not of as many as there are replicas. */
static void test_the_norm_counts_a_part_once(void **state)
{
    (void)state;
    Job alone = four(RANKS_DDP);
    alone.clip = 1e9f;
    run_alone(&alone, 1);
    for (int strategy = RANKS_ZERO1; strategy <= RANKS_ZERO3; strategy++) {
        Job job = four((RankStrategy)strategy);
        job.clip = 1e9f;
        run(&job);
        assert_true(fabsf(job.norm - alone.norm) < 1e-5f * alone.norm);
        test_free(job.weights);
    }
    test_free(alone.weights);
}

/* 16-bit gradients are added in fp32, over replicas too, and rounded once. */
static void test_replicas_in_16_bits(void **state)
{
    (void)state;
    for (int strategy = RANKS_ZERO1; strategy <= RANKS_ZERO3; strategy++)
        for (int i = 0; i < 2; i++) {
            Job job = four((RankStrategy)strategy), plain;
            job.precision = i ? "bf16" : "bf16-mixed";
            plain = job;
            plain.ranks.replicas = 1;
            run(&job);
            run(&plain);
            assert_apart_by(&job, &plain, 0, 0);
            test_free(job.weights);
            test_free(plain.weights);
        }
}

/* Several micro-batches a rank: replicas beside the same ranks that are one. */
static void test_replicas_accumulate(void **state)
{
    (void)state;
    for (int strategy = RANKS_ZERO1; strategy <= RANKS_ZERO3; strategy++) {
        Job job = four((RankStrategy)strategy), plain;
        job.accumulate = 2;
        plain = job;
        plain.ranks.replicas = 1;
        run(&job);
        run(&plain);
        assert_apart_by(&job, &plain, 0, 0);
        test_free(job.weights);
        test_free(plain.weights);
    }
}

/* Groups combined: each of two replicas is two ranks of two that compute a layer together. */
static void test_replicas_under_tensor_parallel(void **state)
{
    (void)state;
    for (int sequence = 0; sequence < 2; sequence++) {
        Job job = {.setting = llama,
                   .ranks = {.size = 8,
                             .tensor = 2,
                             .sequence = sequence,
                             .replicas = 2,
                             .strategy = sequence ? RANKS_ZERO2 : RANKS_ZERO3},
                   .accumulate = 1},
            plain = job;
        plain.ranks.replicas = 1;
        run(&job);
        run(&plain);
        /* Parts of the gradients of norms are summed over both groups: first over which, depends on their
         * size. */
        for (int s = 0; s < STEPS; s++)
            assert_true(fabs(job.loss[s] - plain.loss[s]) <= (sequence ? 1e-6 * plain.loss[s] : 0));
        assert_true(job.stats[0].needs > plain.stats[0].needs);
        test_free(job.weights);
        test_free(plain.weights);
    }
}

/* ---- Weights that stay whole ------------------------------------------------------------------ */

static void test_weights_below_stay_whole(void **state)
{
    (void)state;
    Job job = {.setting = llama, .ranks = {.size = 3, .strategy = RANKS_ZERO3}, .accumulate = 1}, none = job;
    run(&none);
    job.ranks.replicate_below = 2000;
    run(&job);
    assert_apart_by(&job, &none, 0, 0);
    assert_true(job.sent[0] < none.sent[0]);
    assert_true(job.stats[0].own_peak[MEM_PARAMETER] > none.stats[0].own_peak[MEM_PARAMETER]);
    assert_int_equal(job.stats[0].own_peak[MEM_OPTIMIZER], none.stats[0].own_peak[MEM_OPTIMIZER]);
    test_free(job.weights);
    /* All of them: zero2. */
    Job two = none, all = none;
    two.ranks.strategy = RANKS_ZERO2;
    all.ranks.replicate_below = INT64_MAX;
    run(&two);
    run(&all);
    assert_apart_by(&all, &two, 0, 0);
    assert_int_equal(all.stats[0].event_hash, two.stats[0].event_hash);
    assert_int_equal(all.sent[0], two.sent[0]);
    test_free(two.weights);
    test_free(all.weights);
    test_free(none.weights);
    for (int i = 0; i < 4; i++) {
        Job other = {.setting = i ? llama : gpt2,
                     .ranks = {.size = i == 3 ? 4 : 3,
                               .replicas = i == 3 ? 2 : 1,
                               .strategy = RANKS_ZERO3,
                               .replicate_below = 2000},
                     .accumulate = 1,
                     .lora = i == 1,
                     .blocks = i == 2};
        assert_equal_to_one(other, 0);
    }
}

/* ---- The library's order ---------------------------------------------------------------------- */

static void test_orders_have_names(void **state)
{
    (void)state;
    assert_int_equal(ranks_reduce("auto"), RANKS_REDUCE_AUTO);
    assert_int_equal(ranks_reduce("library"), RANKS_REDUCE_LIBRARY);
    assert_int_equal(ranks_reduce("tree"), -1);
    assert_string_equal(ranks_reduce_name(RANKS_REDUCE_ORDERED), "ordered");
    assert_string_equal(ranks_reduce_name(RANK_REDUCE_COUNT), "");
}

static void test_sums_in_the_librarys_order(void **state)
{
    (void)state;
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
        for (int replicas = 1; replicas <= 1 + (strategy > RANKS_DDP); replicas++) {
            Job job = {.setting = llama,
                       .ranks = {.size = 4,
                                 .replicas = replicas,
                                 .strategy = (RankStrategy)strategy,
                                 .reduce = RANKS_REDUCE_ORDERED},
                       .accumulate = 1},
                other = job;
            other.ranks.reduce = RANKS_REDUCE_LIBRARY;
            run(&job);
            run(&other);
            assert_apart_by(&job, &other, 1e-12, 1e-4); /* the threads add backwards */
            test_free(job.weights);
            test_free(other.weights);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_apart_is_what_ranks_sum),
        cmocka_unit_test(test_apart_under_tensor_parallel),
        cmocka_unit_test(test_apart_is_what_zero2_does),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_replicas_are_one_process),
        cmocka_unit_test(test_replicas_with_other_levers),
        cmocka_unit_test(test_replicas_update_in_backward),
        cmocka_unit_test(test_the_norm_counts_a_part_once),
        cmocka_unit_test(test_replicas_in_16_bits),
        cmocka_unit_test(test_replicas_accumulate),
        cmocka_unit_test(test_replicas_under_tensor_parallel),
        cmocka_unit_test(test_weights_below_stay_whole),
        cmocka_unit_test(test_orders_have_names),
        cmocka_unit_test(test_sums_in_the_librarys_order),
    };
    return cmocka_run_group_tests_name("ranks groups", tests, NULL, NULL);
}
