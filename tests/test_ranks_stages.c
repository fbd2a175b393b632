/* Models in stages: each stage's weights are, bit for bit, those of one process that accumulates the same
 * micro-batches; each rank's plan, made alone, is its run; and a stage holds as many micro-batches as its
 * schedule says. */
#include <math.h>
#include <stdlib.h>

#include "../data/data.h"
#include "../nn/module_.h"
#include "../optim/optim.h"
#include "ranks_support.h"

enum { MOST_RANKS = 8, STEPS = 3 };

typedef struct Job {
    Setting setting;
    Ranks ranks;           /* size, stages, schedule, strategy */
    const char *precision; /* NULL = fp32 */
    int accumulate, tied, lora, evaluate, in_backward, chunk, wide;
    float clip;
    int64_t samples; /* of the data; 0 = all */
    int broken;      /* 1 + the rank that stops before step 1 */
    float *weights;  /* every rank writes what it has */
    double loss[MOST_RANKS][STEPS];
    float held_out[MOST_RANKS];
    char error[MOST_RANKS][RANK_ERROR];
    uint64_t activations[MOST_RANKS], parameters[MOST_RANKS], needs[MOST_RANKS], sent[MOST_RANKS];
} Job;

typedef struct Part {
    Job *job;
    int rank;
} Part;

static Module *model_of(const Job *job)
{
    ModelPreset preset = preset_of_text(&job->setting, job->tied);
    if (job->wide)
        preset.config.llama = (LlamaConfig){
            .vocab = 256, .dim = 96, .layers = 4, .heads = 8, .kv_heads = 4, .head_dim = 12, .hidden = 256};
    Module *model = nn_model(&preset);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), job->setting.checkpoint);
    nn_set_checkpoints(model, job->setting.pattern);
    nn_set_loss_chunk(model, job->chunk);
    if (job->lora)
        nn_add_lora(model, &(Lora){.rank = 4, .dropout = 0.1f});
    return model;
}

static void evaluate(const Part *part, Module *model)
{
    Loader *data = data_text(
        "builtin", &(TextOptions){.batch = 2,
                                  .seq = SMALL_SEQ,
                                  .split = DATA_HELD_OUT,
                                  .max_samples = 4,
                                  .mask_probability = is_masked(part->job->setting.family) ? 0.3f : 0});
    float sum = 0;
    nn_eval(model);
    tensor_no_grad_begin();
    for (int i = 0; i < 2; i++)
        for (const Batch *b; (b = data_next(data));)
            sum += tensor_item(nn_loss(model, b));
    tensor_no_grad_end();
    nn_train(model);
    part->job->held_out[part->rank] = sum;
}

static int script(void *config)
{
    const Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current());
    Loader *data =
        data_text("builtin", &(TextOptions){.batch = 2,
                                            .seq = job->wide ? 64 : SMALL_SEQ,
                                            .accumulate = job->accumulate,
                                            .seed = 1,
                                            .held_out = job->evaluate ? 0 : -1,
                                            .max_samples = job->samples,
                                            .mask_probability = is_masked(job->setting.family) ? 0.3f : 0});
    if (job->precision)
        tensor_set_precision(precision_by_name(job->precision));
    if (!meta && job->broken == 1 + part->rank)
        return error_raise(ERROR_DATA, "this rank has no data");
    Module *model = model_of(job);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f, .weight_decay = 0.1f});
    optim_set_clip(optimizer, job->clip);
    optim_set_in_backward(optimizer, job->in_backward);
    for (int step = 0; step < STEPS && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            nn_backward(model, b);
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        if (!meta)
            job->loss[part->rank][step] = tensor_step_loss();
        tensor_scope_end(scope);
    }
    if (job->evaluate)
        evaluate(part, model);
    if (!meta && !error_code())
        write_parts(nn_parameters(model), job->weights);
    return error_code();
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    int r = ranks->rank;
    Part part = {job, r};
    Plan plan;
    int status = plan_and_run(script, &part, ranks, &plan, job->error[r]);
    const MemStats *stats = &plan.memory.stats;
    job->needs[r] = stats->needs;
    job->sent[r] = plan.step_sent;
    job->activations[r] = stats->own_peak[MEM_ACTIVATION];
    job->parameters[r] = stats->own_peak[MEM_PARAMETER];
    return status;
}

static const char *text_of(const Job *job)
{
    static char text[256];
    snprintf(text, sizeof text, "%s%s, %d of %d ranks are stages, %s, %d micro-batches, %s",
             setting_text(&job->setting), job->tied ? " tied" : "", job->ranks.stages, job->ranks.size,
             ranks_schedule_name(job->ranks.schedule), job->accumulate,
             ranks_strategy_name(job->ranks.strategy));
    return text;
}

static void run(Job *job)
{
    job->weights = numbers_new();
    int failed = as_these_ranks(&job->ranks, body, job);
    for (int pass = 0; pass < 2; pass++)
        for (int r = 0; r < job->ranks.size; r++)
            if (job->error[r][0] && (pass || !strstr(job->error[r], "a rank has stopped")))
                fail_msg("%s: rank %d: %s", text_of(job), r, job->error[r]);
    assert_int_equal(failed, 0);
}

/* In one process, which accumulates; apart: with each micro-batch's gradient apart. */
static void run_alone(Job *job, int apart)
{
    Ranks one = {.size = 1, .strategy = RANKS_ZERO2};
    Part part = {job, 0};
    job->weights = numbers_new();
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5, .ranks = apart ? &one : NULL});
    if (script(&part) != 0)
        fail_msg("%s: alone: %s", text_of(job), error_message());
    leave(v);
}

static void compare(const Job *job, const Job *other, double most)
{
    double d = numbers_apart(job->weights, other->weights);
    if (!(d <= most))
        fail_msg("%s: weights are %g apart from the others'", text_of(job), d);
    for (int r = 0; r < job->ranks.size; r++) {
        for (int s = 0; s < STEPS; s++)
            if (fabs(job->loss[r][s] - other->loss[0][s]) > 1e-6 * other->loss[0][s])
                fail_msg("%s: rank %d: loss %.9g, not %.9g", text_of(job), r, job->loss[r][s],
                         other->loss[0][s]);
        if (job->evaluate && job->held_out[r] != other->held_out[0])
            fail_msg("%s: rank %d: held-out loss %.9g, not %.9g", text_of(job), r, (double)job->held_out[r],
                     (double)other->held_out[0]);
    }
}

static void assert_equal_to_one(Job job, double most)
{
    Job alone = job;
    run(&job);
    run_alone(&alone, 0);
    compare(&job, &alone, most);
    test_free(job.weights);
    test_free(alone.weights);
}

static Job job_of(int stages, int accumulate, RankSchedule schedule)
{
    return (Job){.setting = {.family = MODEL_LLAMA, .layers = 4},
                 .ranks = {.size = stages, .stages = stages, .schedule = schedule},
                 .accumulate = accumulate};
}

static void test_stages_are_one_process(void **state)
{
    (void)state;
    static const int micros[] = {1, 4, 6};
    for (int stages = 2; stages <= 4; stages++)
        for (size_t m = 0; m < COUNT(micros); m++)
            for (int schedule = 0; schedule < RANK_SCHEDULE_COUNT; schedule++)
                assert_equal_to_one(job_of(stages, micros[m], (RankSchedule)schedule), 0);
}

/* One process that keeps micro-batches apart adds them in another way. */
static void test_which_order_it_is(void **state)
{
    (void)state;
    Job job = job_of(2, 4, RANKS_1F1B), apart = job, one = job;
    run(&job);
    run_alone(&one, 0);
    run_alone(&apart, 1);
    assert_true(numbers_apart(job.weights, one.weights) == 0);
    assert_true(numbers_apart(job.weights, apart.weights) > 0);
    assert_true(numbers_apart(job.weights, apart.weights) < 1e-3);
    test_free(job.weights);
    test_free(one.weights);
    test_free(apart.weights);
}

/* Masks go on from stage to stage; what is checkpointed ends where a stage does. */
static void test_dropout_and_checkpoints(void **state)
{
    (void)state;
    for (int schedule = 0; schedule < RANK_SCHEDULE_COUNT; schedule++)
        for (int stages = 2; stages <= 3; stages++) {
            Job job = job_of(stages, 4, (RankSchedule)schedule);
            job.setting.checkpoint = 1;
            assert_equal_to_one(job, 0);
            job.setting.checkpoint = 0;
            job.setting.pattern = "c++.";
            job.chunk = 5;
            assert_equal_to_one(job, 0);
            job.lora = 1;
            assert_equal_to_one(job, 0);
        }
}

/* The embedding that is the head too has two gradients, one a stage: their sum has another order. */
static void test_tied(void **state)
{
    (void)state;
    static const ModelFamily families[] = {MODEL_LLAMA,   MODEL_GPT2,    MODEL_BERT,       MODEL_OLMO2,
                                           MODEL_GRANITE, MODEL_ROBERTA, MODEL_DISTILBERT, MODEL_MODERNBERT,
                                           MODEL_MIXTRAL, MODEL_GPT_NEOX};
    for (size_t i = 0; i < COUNT(families); i++)
        for (int stages = 2; stages <= 3; stages++) {
            Job job = job_of(stages, 3, RANKS_1F1B);
            job.setting.family = families[i];
            job.setting.dropout = nn_family(families[i])->dropout_at ? 0.2f : 0;
            job.setting.checkpoint = stages == 3;
            job.tied = 1;
            assert_equal_to_one(job, 3e-5);
        }
}

static void test_clipping(void **state)
{
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        Job job = job_of(3, 4, RANKS_1F1B);
        job.clip = 0.05f;
        job.tied = tied;
        assert_equal_to_one(job, tied ? 3e-5 : 1e-6);
    }
}

static void test_precisions(void **state)
{
    (void)state;
    static const char *const names[] = {"bf16", "bf16-mixed", "fp16-mixed", "bf16-autocast"};
    for (size_t i = 0; i < COUNT(names); i++) {
        Job job = job_of(3, 4, RANKS_1F1B);
        job.precision = names[i];
        assert_equal_to_one(job, 0);
    }
}

static void test_held_out_data(void **state)
{
    (void)state;
    Job job = job_of(3, 2, RANKS_1F1B);
    job.evaluate = 1;
    assert_equal_to_one(job, 0);
}

/* An epoch's last step has fewer micro-batches, and its last fewer rows. */
static void test_short_steps(void **state)
{
    (void)state;
    for (int schedule = 0; schedule < RANK_SCHEDULE_COUNT; schedule++) {
        Job job = job_of(3, 4, (RankSchedule)schedule);
        job.samples = 11;
        assert_equal_to_one(job, 0);
    }
}

/* Data ranks, each of several stages, and each data rank whole: the same sums in the same order, but where
 * ZeRO-2 and 3 sum once a step instead of once a micro-batch. */
static void test_data_times_stages(void **state)
{
    (void)state;
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
        for (int tied = 0; tied < 2; tied++) {
            Job job = job_of(2, 3, RANKS_1F1B), whole = job;
            job.ranks.size = 4;
            job.tied = whole.tied = tied;
            job.clip = whole.clip = 1;
            job.ranks.strategy = (RankStrategy)strategy;
            whole.ranks = (Ranks){.size = 2, .strategy = RANKS_DDP};
            run(&job);
            run(&whole);
            compare(&job, &whole, tied ? 3e-5 : 1e-6);
            test_free(job.weights);
            test_free(whole.weights);
        }
}

/* Two ranks compute each layer of a stage together. */
static void test_tensor_times_stages(void **state)
{
    (void)state;
    Job job = job_of(2, 3, RANKS_1F1B), one = job;
    job.ranks.size = 4;
    job.ranks.tensor = 2;
    job.clip = one.clip = 1;
    run(&job);
    run_alone(&one, 0);
    for (int r = 0; r < 4; r++)
        for (int s = 0; s < STEPS; s++)
            assert_true(fabs(job.loss[r][s] - one.loss[0][s]) <= 1e-6 * one.loss[0][s]);
    test_free(job.weights);
    test_free(one.weights);
}

/* ---- What a stage holds ----------------------------------------------------------------------- */

static void test_layers_that_do_not_divide(void **state)
{
    (void)state;
    static const int begins[] = {0, 3, 5, 7, 9};
    for (int stage = 0; stage <= 4; stage++)
        assert_int_equal(module_stage_begins(9, 4, stage), begins[stage]);
    Job job = job_of(3, 4, RANKS_1F1B);
    job.setting.layers = 5;
    assert_equal_to_one(job, 0);
}

/* Of 2 x 64 positions, width 96, 8 heads, 4 of keys and values, 256 hidden, vocabulary 256. In a layer 4sb of
 * both norms' inputs and outputs and their roots, q, k, v and what attention puts out with its log-sum-exp,
 * and gate, up and their product; behind them the last norm, the logits and their log-sum-exp. */
enum {
    ROWS = 2 * 64,
    LAYER = 4 * ROWS * (4 * 96 + 2 + (2 + 2 * 4 / 8) * 96 + 3 * 256 + 8),
    HEAD = 4 * ROWS * (2 * 96 + 1 + 256 + 1),
    ACTIVATION = 4 * ROWS * 96,
    WORD = 64
};

static void test_what_is_held(void **state)
{
    (void)state;
    static const uint64_t layers[] = {4, 3, 2, 1};
    Job one = job_of(4, 6, RANKS_1F1B), all = job_of(4, 6, RANKS_GPIPE);
    one.wide = all.wide = 1;
    run(&one);
    run(&all);
    assert_true(numbers_apart(one.weights, all.weights) == 0);
    test_free(one.weights);
    test_free(all.weights);
    assert_int_equal(LAYER, 742400);
    assert_int_equal(HEAD, 230400);
    for (int stage = 0; stage < 4; stage++) {
        uint64_t head = stage == 3 ? HEAD : 0;
        assert_int_equal(one.activations[stage], layers[stage] * LAYER + head);
        assert_int_equal(all.activations[stage], 6 * (LAYER + head));
        assert_int_equal(module_stage_holds(RANKS_1F1B, 4, stage, 6), 4 - stage);
        assert_int_equal(module_stage_holds(RANKS_1F1B, 4, stage, 2), stage < 2 ? 2 : 4 - stage);
        assert_int_equal(module_stage_holds(RANKS_GPIPE, 4, stage, 6), 6);
    }
    /* Parameters: a layer's, and at the ends the embedding, or the head and its norm. */
    uint64_t layer = 4 * (2 * 96 * 96 + 2 * 48 * 96 + 3 * 96 * 256 + 2 * 96), table = 4 * 256 * 96;
    assert_int_equal(one.parameters[0], layer + table);
    assert_int_equal(one.parameters[1], layer);
    assert_int_equal(one.parameters[3], layer + table + 4 * 96);
    /* Sent in a step: each way an activation or its gradient, forwards a word of how many masks were drawn;
     * and the word that all ranks exchange. */
    assert_int_equal(one.sent[0], 6 * (ACTIVATION + 64) + 3 * WORD);
    assert_int_equal(one.sent[1], 6 * (2 * ACTIVATION + 64) + 3 * WORD);
    assert_int_equal(one.sent[3], 6 * ACTIVATION + 3 * WORD);
}

/* ---- What is refused, and a rank that stops ---------------------------------------------------- */

static void refused(Job job, const char *sentence)
{
    job.weights = numbers_new();
    assert_int_equal(as_these_ranks(&job.ranks, body, &job), job.ranks.size);
    for (int r = 0; r < job.ranks.size; r++)
        if (!strstr(job.error[r], sentence))
            fail_msg("rank %d: %s", r, job.error[r]);
    test_free(job.weights);
}

static int plain_loop(void *config)
{
    const Part *part = config;
    Loader *data = data_text("builtin", &(TextOptions){.batch = 2, .seq = SMALL_SEQ});
    Module *model = model_of(part->job);
    for (const Batch *b; (b = data_next(data));)
        tensor_backward(nn_loss(model, b));
    return error_code();
}

static void test_refused(void **state)
{
    (void)state;
    Job job = job_of(3, 2, RANKS_1F1B);
    job.setting.layers = 2;
    refused(job, "2 layers are not divided into 3 stages; at most 2 can be");
    job = job_of(2, 2, RANKS_1F1B);
    job.in_backward = 1;
    refused(job, "optim_set_in_backward(optimizer, 0)");
    job.setting.family = MODEL_MLP;
    job.in_backward = 0;
    Ranks first = {.size = 2, .stages = 2};
    Part part = {&job, 0};
    Visit v = visit(&(ContextOptions){.meta = 1, .ranks = &first});
    Module *mlp = model_of(&job);
    Batch batch = small_batch(MODEL_MLP, 0, 0, 2);
    nn_backward(mlp, &batch);
    assert_non_null(strstr(error_message(), "this mlp is not divided into stages"));
    leave(v);
    v = visit(&(ContextOptions){.meta = 1, .ranks = &first});
    job.setting.family = MODEL_LLAMA;
    plain_loop(&part);
    assert_non_null(strstr(error_message(), "call nn_backward(model, batch)"));
    leave(v);
    v = visit(&(ContextOptions){.meta = 1, .ranks = &first});
    float value;
    tensor_read(nn_parameter(model_of(&job), "lm_head.weight"), 0, 4, &value);
    assert_non_null(strstr(error_message(), "belongs to another stage of the model"));
    leave(v);
}

static int breaks(const Ranks *ranks, void *user)
{
    Job *job = user;
    Part part = {job, ranks->rank};
    Context *context = context_create(&(ContextOptions){.threads = 1, .seed = 5, .ranks = ranks});
    Context *outside = context_use(context);
    int status = script(&part);
    snprintf(job->error[ranks->rank], sizeof job->error[0], "%s", error_message());
    context_use(outside);
    context_destroy(context);
    return status;
}

static void test_a_rank_stops(void **state)
{
    (void)state;
    for (int schedule = 0; schedule < RANK_SCHEDULE_COUNT; schedule++)
        for (int bad = 0; bad < 3; bad++) {
            Job job = job_of(3, 4, (RankSchedule)schedule);
            job.broken = 1 + bad;
            job.weights = numbers_new();
            uint64_t live = memtrack_process_live();
            assert_int_equal(as_these_ranks(&job.ranks, breaks, &job), 3);
            for (int r = 0; r < 3; r++)
                assert_non_null(
                    strstr(job.error[r], r == bad ? "this rank has no data" : "a rank has stopped"));
            assert_int_equal(memtrack_process_live(), live);
            test_free(job.weights);
        }
}

static void test_names(void **state)
{
    (void)state;
    assert_int_equal(ranks_schedule("1f1b"), RANKS_1F1B);
    assert_int_equal(ranks_schedule("gpipe"), RANKS_GPIPE);
    assert_int_equal(ranks_schedule("interleaved"), -1);
    assert_string_equal(ranks_schedule_name(RANKS_GPIPE), "gpipe");
    assert_non_null(strstr(ranks_schedule_holds(RANKS_GPIPE), "all micro-batches"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stages_are_one_process),
                                       cmocka_unit_test(test_which_order_it_is),
                                       cmocka_unit_test(test_dropout_and_checkpoints),
                                       cmocka_unit_test(test_tied),
                                       cmocka_unit_test(test_clipping),
                                       cmocka_unit_test(test_precisions),
                                       cmocka_unit_test(test_held_out_data),
                                       cmocka_unit_test(test_short_steps),
                                       cmocka_unit_test(test_data_times_stages),
                                       cmocka_unit_test(test_tensor_times_stages),
                                       cmocka_unit_test(test_layers_that_do_not_divide),
                                       cmocka_unit_test(test_what_is_held),
                                       cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_a_rank_stops),
                                       cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
