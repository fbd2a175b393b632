/* Several ranks: what they train together is what one process trains, bit for bit where sums have the same
 * order; and each rank's plan, made alone, is its run. */
#include <math.h>
#include <stdlib.h>

#include "../data/data.h"
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "ranks_support.h"

enum { MOST_RANKS = 4, STEPS = 3 };

typedef struct Job {
    Setting setting;
    RankStrategy strategy;
    const char *precision; /* NULL = fp32 */
    int ranks, accumulate, tied, in_backward, eight_bit, own_gradients, lora, blocks, last_block;
    int broken; /* 1 + the rank that does otherwise than the others */
    float clip;
    int64_t samples; /* of the data; 0 = all */
    float *weights;  /* every rank writes its part */
    double loss[MOST_RANKS][STEPS];
    char error[MOST_RANKS][RANK_ERROR];
    uint64_t needs[MOST_RANKS], sent[MOST_RANKS];
} Job;

typedef struct Part {
    Job *job;
    const Ranks *ranks; /* NULL: one process that keeps micro-batches apart */
    int rank;
} Part;

/* Adapters of the last block alone: nothing below it has a backward. */
static int in_the_last_block(void *user, const LoraLayer *layer, Lora *lora)
{
    (void)user;
    *lora = (Lora){.rank = 4};
    return strstr(layer->path, ".2.") != NULL;
}

static Module *model_of(const Job *job)
{
    ModelPreset preset = preset_of_text(&job->setting, job->tied);
    static const DType base_types[] = {DTYPE_F32, DTYPE_F32, DTYPE_BF16, DTYPE_F32};
    if (job->lora)
        nn_set_weights(&(Weights){.dtype = base_types[job->lora],
                                  .quantized = job->lora == 3 ? DTYPE_NF4 : DTYPE_F32,
                                  .frozen = 1});
    Module *model = nn_model(&preset);
    if (job->lora) {
        nn_set_weights(NULL);
        if (job->last_block)
            nn_add_lora_by(model, in_the_last_block, NULL);
        else
            nn_add_lora(model, &(Lora){.rank = 4, .dropout = 0.1f});
    }
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), job->setting.checkpoint);
    nn_set_checkpoints(model, job->setting.pattern);
    nn_set_gather_blocks(model, job->blocks);
    return model;
}

static int script(void *config)
{
    const Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current()), bert = is_masked(job->setting.family);
    int accumulate = job->accumulate * (part->ranks ? 1 : job->ranks);
    Loader *data = data_text("builtin", &(TextOptions){.batch = 2,
                                                       .seq = SMALL_SEQ,
                                                       .accumulate = accumulate,
                                                       .seed = 1,
                                                       .held_out = -1,
                                                       .max_samples = job->samples,
                                                       .mask_probability = bert ? 0.3f : 0});
    if (job->precision) { /* its gradients in fp32, so that sums of small parameters are rounded nowhere */
        Precision wide = *precision_by_name(job->precision);
        wide.gradients = job->own_gradients ? wide.gradients : DTYPE_F32;
        tensor_set_precision(&wide);
    }
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
        if (memtrack_stats(context_ledger(context_current()))->live_by[MEM_GATHERED])
            error_raise(ERROR_STATE, "weights are gathered behind a step");
        if (!meta)
            job->loss[part->rank][step] = tensor_step_loss();
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
    Part part = {job, ranks, ranks->rank};
    Plan plan;
    own.unit = job->eight_bit ? DYNAMIC8_BLOCK : 0;
    int status = plan_and_run(script, &part, &own, &plan, job->error[ranks->rank]);
    job->needs[ranks->rank] = plan.memory.stats.needs;
    job->sent[ranks->rank] = plan.step_sent;
    return status;
}

static const char *text_of(const Job *job)
{
    static char text[256];
    snprintf(text, sizeof text, "%s%s, %s, %d ranks", setting_text(&job->setting), job->tied ? " tied" : "",
             ranks_strategy_name(job->strategy), job->ranks);
    return text;
}

static void run(Job *job)
{
    job->weights = numbers_new();
    int failed = as_ranks(job->ranks, job->strategy, body, job);
    for (int r = 0; r < job->ranks; r++)
        if (job->error[r][0])
            fail_msg("%s: rank %d: %s", text_of(job), r, job->error[r]);
    assert_int_equal(failed, 0);
    for (int r = 1; r < job->ranks; r++) {
        assert_int_equal(job->needs[r], job->needs[0]);
        assert_int_equal(job->sent[r], job->sent[0]);
    }
}

/* The same in one process, with each micro-batch's gradient apart. */
static void run_alone(Job *job)
{
    Part part = {job, NULL, 0};
    job->weights = numbers_new();
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5, .accumulate_apart = 1});
    if (script(&part) != 0)
        fail_msg("%s: alone: %s", text_of(job), error_message());
    leave(v);
}

static double apart(const Job *a, const Job *b)
{
    return numbers_apart(a->weights, b->weights);
}

static void assert_equal_to_one(Job job, double most)
{
    Job alone = job;
    run(&job);
    run_alone(&alone);
    double d = apart(&job, &alone);
    if (!(d <= most))
        fail_msg("%s: weights are %g apart from one process's", text_of(&job), d);
    for (int r = 0; r < job.ranks; r++)
        for (int s = 0; s < STEPS; s++)
            if (fabs(job.loss[r][s] - alone.loss[0][s]) > 1e-6 * alone.loss[0][s])
                fail_msg("%s: rank %d: loss %.9g, not %.9g", text_of(&job), r, job.loss[r][s],
                         alone.loss[0][s]);
    test_free(job.weights);
    test_free(alone.weights);
}

static Setting setting_of(int i)
{
    static const Setting settings[] = {{.family = MODEL_LLAMA},
                                       {.family = MODEL_GPT2, .dropout = 0.2f, .checkpoint = 1},
                                       {.family = MODEL_BERT, .dropout = 0.1f},
                                       {.family = MODEL_ROBERTA, .dropout = 0.1f},
                                       {.family = MODEL_DISTILBERT},
                                       {.family = MODEL_MODERNBERT},
                                       {.family = MODEL_GPT_NEOX}};
    return settings[i];
}

static void test_ranks_are_one_process(void **state)
{
    (void)state;
    for (int i = 0; i < 7; i++)
        for (int strategy = i < 3 ? RANKS_DDP : RANKS_ZERO3; strategy <= RANKS_ZERO3; strategy++)
            for (int ranks = 2; ranks <= (i < 3 ? MOST_RANKS : 2); ranks++)
                assert_equal_to_one((Job){.setting = setting_of(i),
                                          .strategy = (RankStrategy)strategy,
                                          .ranks = ranks,
                                          .accumulate = 1},
                                    0);
}

static void test_tied_weights_and_checkpoints(void **state)
{
    (void)state;
    Setting llama = {.family = MODEL_LLAMA, .checkpoint = 1};
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
        assert_equal_to_one(
            (Job){
                .setting = llama, .strategy = (RankStrategy)strategy, .ranks = 3, .accumulate = 1, .tied = 1},
            0);
}

/* Each rank has tokens of its own for every expert, and no expert is on one rank alone. */
static void test_experts(void **state)
{
    (void)state;
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
        for (int ranks = 2; ranks <= 3; ranks++)
            assert_equal_to_one((Job){.setting = {.family = ranks == 3                ? MODEL_QWEN3_MOE
                                                            : strategy == RANKS_ZERO2 ? MODEL_MIXTRAL
                                                                                      : MODEL_QWEN2_MOE,
                                                  .checkpoint = strategy & 1},
                                      .strategy = (RankStrategy)strategy,
                                      .ranks = ranks,
                                      .accumulate = 1},
                                0);
}

/* The norm's sum has another order. */
static void test_clipping(void **state)
{
    (void)state;
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
        assert_equal_to_one((Job){.setting = setting_of(0),
                                  .strategy = (RankStrategy)strategy,
                                  .ranks = 3,
                                  .accumulate = 1,
                                  .clip = 0.05f},
                            1e-6);
}

static void test_updates_in_backward(void **state)
{
    (void)state;
    Job in = {.setting = setting_of(1), .ranks = 2, .accumulate = 1, .in_backward = 1}, after = in;
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++) {
        in.strategy = after.strategy = (RankStrategy)strategy;
        after.in_backward = 0;
        run(&in);
        run(&after);
        assert_true(apart(&in, &after) == 0);
        assert_int_equal(in.sent[0], after.sent[0]);
        test_free(in.weights);
        test_free(after.weights);
    }
}

/* Several micro-batches a rank: another order of sums than one process has, but that of all strategies that
 * sum each of them. */
static void test_accumulation(void **state)
{
    (void)state;
    Job two = {.setting = setting_of(1), .strategy = RANKS_ZERO2, .ranks = 3, .accumulate = 2}, three = two;
    three.strategy = RANKS_ZERO3;
    run(&two);
    run(&three);
    assert_true(apart(&two, &three) == 0);
    test_free(two.weights);
    test_free(three.weights);
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
        assert_equal_to_one(
            (Job){.setting = setting_of(0), .strategy = (RankStrategy)strategy, .ranks = 2, .accumulate = 3},
            5e-6);
}

/* Epochs whose last steps have fewer samples than ranks, or than a micro-batch: the others' rows are
 * nobody's. */
static void test_uneven_data(void **state)
{
    (void)state;
    for (int64_t samples = 5; samples <= 9; samples += 2)
        for (int family = 0; family < 3; family += 2)
            assert_equal_to_one((Job){.setting = setting_of(family),
                                      .strategy = family ? RANKS_DDP : RANKS_ZERO3,
                                      .ranks = 3,
                                      .accumulate = 1,
                                      .samples = samples},
                                1e-5);
}

static void test_precisions(void **state)
{
    (void)state;
    static const char *const names[] = {"bf16-mixed", "fp16-mixed", "bf16", "bf16-autocast"};
    for (size_t i = 0; i < COUNT(names); i++)
        for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
            assert_equal_to_one((Job){.setting = setting_of(i ? 1 : 0),
                                      .strategy = (RankStrategy)strategy,
                                      .ranks = 3,
                                      .accumulate = 1,
                                      .precision = names[i]},
                                0);
}

/* 16-bit gradients are summed in fp32; the parts of ZeRO-2 and 3 stay so where there is a master. */
static void test_gradients_of_16_bits(void **state)
{
    (void)state;
    Job job[RANK_STRATEGY_COUNT];
    for (int i = 0; i < RANK_STRATEGY_COUNT; i++) {
        job[i] = (Job){.setting = setting_of(0),
                       .strategy = (RankStrategy)i,
                       .ranks = 2,
                       .accumulate = 1,
                       .precision = "bf16-mixed",
                       .own_gradients = 1};
        run(&job[i]);
    }
    assert_true(apart(&job[RANKS_ZERO2], &job[RANKS_ZERO3]) == 0);
    assert_true(apart(&job[RANKS_DDP], &job[RANKS_ZERO1]) == 0);
    for (int i = 0; i < RANK_STRATEGY_COUNT; i++)
        test_free(job[i].weights);
}

/* Adapters over frozen weights, which ZeRO-3 divides: 1 fp32, 2 bf16, 3 NF4 and fp32, which stays whole. */
static void test_blocks_are_gathered(void **state)
{
    (void)state;
    static const char *const patterns[] = {NULL, "ccc", "c++", ".c+", "c+."};
    for (size_t i = 0; i < COUNT(patterns); i++)
        for (int family = 0; family < 3; family++) {
            Setting s = setting_of(family);
            s.layers = 3;
            s.pattern = patterns[i];
            s.checkpoint = 0;
            Job one = {.setting = s, .strategy = RANKS_ZERO3, .ranks = 3, .accumulate = 1}, block = one, next;
            block.blocks = 1;
            next = block;
            next.blocks = 2;
            run(&one);
            run(&block);
            run(&next);
            assert_true(apart(&one, &block) == 0);
            assert_true(apart(&one, &next) == 0);
            assert_int_equal(next.sent[0], block.sent[0]); /* nothing that was not read has come */
            test_free(next.weights);
            assert_true(i != 1 || block.sent[0] < one.sent[0]); /* not gathered again after recomputing */
            test_free(one.weights);
            test_free(block.weights);
            assert_equal_to_one(block, 0);
        }
}

/* Of adapters in the last block alone, backward ends there: nothing is gathered for blocks below. */
static void test_blocks_without_a_backward(void **state)
{
    (void)state;
    for (int base = 1; base <= 3; base += 2)
        for (int blocks = 0; blocks <= 2; blocks++) {
            Setting s = setting_of(0);
            s.layers = 3;
            s.checkpoint = 0;
            assert_equal_to_one((Job){.setting = s,
                                      .strategy = RANKS_ZERO3,
                                      .ranks = 2,
                                      .accumulate = 1,
                                      .lora = base,
                                      .last_block = 1,
                                      .blocks = blocks},
                                0);
        }
}

static void test_adapters(void **state)
{
    (void)state;
    for (int base = 1; base <= 3; base++)
        for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
            assert_equal_to_one((Job){.setting = setting_of(0),
                                      .strategy = (RankStrategy)strategy,
                                      .ranks = 3,
                                      .accumulate = 1,
                                      .lora = base},
                                0);
}

static void test_states_of_8_bits(void **state)
{
    (void)state;
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
        for (int ranks = 2; ranks <= 3; ranks++)
            assert_equal_to_one((Job){.setting = setting_of(2),
                                      .strategy = (RankStrategy)strategy,
                                      .ranks = ranks,
                                      .accumulate = 1,
                                      .eight_bit = 1,
                                      .precision = ranks == 2 ? "fp32" : "bf16-mixed"},
                                0);
}

/* What a rank holds and sends, as integers. */
static void test_what_is_divided(void **state)
{
    (void)state;
    Job job[RANK_STRATEGY_COUNT];
    for (int i = 0; i < RANK_STRATEGY_COUNT; i++) {
        job[i] = (Job){.setting = setting_of(0), .strategy = (RankStrategy)i, .ranks = 4, .accumulate = 1};
        run(&job[i]);
        test_free(job[i].weights);
        if (i > 0)
            assert_true(job[i].needs[0] < job[i - 1].needs[0]);
    }
    assert_true(job[RANKS_ZERO3].sent[0] > job[RANKS_DDP].sent[0]);
}

static int broken(void *config)
{
    Part *part = config;
    if (!context_is_meta(context_current()) && part->ranks && part->job->broken == 1 + part->rank)
        return error_raise(ERROR_DATA, "this rank has no data");
    return script(config);
}

static int breaks(const Ranks *ranks, void *user)
{
    Job *job = user;
    Part part = {job, ranks, ranks->rank};
    Context *context = context_create(&(ContextOptions){.threads = 1, .seed = 5, .ranks = ranks});
    Context *outside = context_use(context);
    int status = broken(&part);
    snprintf(job->error[ranks->rank], sizeof job->error[0], "%s", error_message());
    context_use(outside);
    context_destroy(context);
    return status;
}

/* One rank stops: the others are told, wherever they wait, and say that it was not they. */
static void test_a_rank_stops(void **state)
{
    (void)state;
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
        for (int bad = 0; bad < 3; bad += 2) {
            Job job = {.setting = setting_of(0),
                       .strategy = (RankStrategy)strategy,
                       .ranks = 3,
                       .accumulate = 1,
                       .broken = 1 + bad};
            job.weights = numbers_new();
            uint64_t live = memtrack_process_live();
            assert_int_equal(as_ranks(3, job.strategy, breaks, &job), 3);
            for (int r = 0; r < 3; r++)
                assert_non_null(
                    strstr(job.error[r], r == bad ? "this rank has no data" : "a rank has stopped"));
            assert_int_equal(memtrack_process_live(), live);
            test_free(job.weights);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranks_are_one_process),
                                       cmocka_unit_test(test_tied_weights_and_checkpoints),
                                       cmocka_unit_test(test_experts),
                                       cmocka_unit_test(test_clipping),
                                       cmocka_unit_test(test_updates_in_backward),
                                       cmocka_unit_test(test_accumulation),
                                       cmocka_unit_test(test_uneven_data),
                                       cmocka_unit_test(test_precisions),
                                       cmocka_unit_test(test_gradients_of_16_bits),
                                       cmocka_unit_test(test_blocks_are_gathered),
                                       cmocka_unit_test(test_blocks_without_a_backward),
                                       cmocka_unit_test(test_adapters),
                                       cmocka_unit_test(test_states_of_8_bits),
                                       cmocka_unit_test(test_what_is_divided),
                                       cmocka_unit_test(test_a_rank_stops)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
