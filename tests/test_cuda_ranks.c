/* Several ranks on the made-up card, each in a process with a driver of its own: bit for bit what one process
 * makes there of the same micro-batches, and each rank's run is the plan that it made alone. What they send
 * goes through the host. */
#include <math.h>

#include "cuda_support.h"
#include "../data/data.h"
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "rank_processes.h"
#include "ranks_support.h"

enum { STEPS = 2, MOST_RANKS = 3 };

typedef struct Job {
    Setting setting;
    RankStrategy strategy;
    int ranks, tensor, accumulate, blocks, in_backward, lora;
    DType quantized; /* the base under adapters; 0 = it is not */
    float clip;
    const char *precision;
    int broken;  /* 1 + the rank that stops */
    int guarded; /* nobody but the card touches its memory */
    /* What came of it. */
    char error[MOST_RANKS][RANK_ERROR];
    double loss[MOST_RANKS][STEPS];
    uint64_t needs[MOST_RANKS], sent[MOST_RANKS];
    float weights[RANK_NUMBERS];
} Job;

typedef struct Part {
    Job *job;
    int rank, alone;
} Part;

static Module *model_of(const Job *job)
{
    ModelPreset preset = preset_of_text(&job->setting, 0);
    if (job->quantized == DTYPE_NF4)
        preset.config.llama.hidden = 1100; /* whole groups of scales for two ranks */
    if (job->quantized)
        nn_set_weights(&(Weights){.quantized = job->quantized, .frozen = 1});
    Module *model = nn_model(&preset);
    nn_set_weights(NULL);
    if (job->lora)
        nn_add_lora(model, &(Lora){.rank = 4});
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), job->setting.checkpoint);
    nn_set_gather_blocks(model, job->blocks);
    return model;
}

/* The parts that this rank counts, where they are in the whole model. */
static void write_down(TensorList list, float *to)
{
    int64_t at = 0;
    for (int i = 0; i < list.count; at += tensor_numel(list.items[i++])) {
        TensorPart part = tensor_part_(list.items[i]);
        if (part.counts && part.count > 0 && part.master)
            storage_read(part.master, 0, (uint64_t)part.count * sizeof *to, to + at + part.first);
        else if (part.counts && part.count > 0)
            tensor_decode_(list.items[i], part.first, part.count, to + at + part.first);
    }
}

static int script(void *config)
{
    const Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current());
    if (!meta && job->broken == 1 + part->rank)
        return error_raise(ERROR_DATA, "this rank has no data");
    Loader *data =
        data_text("builtin", &(TextOptions){.batch = 2,
                                            .seq = SMALL_SEQ,
                                            .accumulate = job->accumulate * (part->alone ? job->ranks : 1),
                                            .seed = 1,
                                            .held_out = -1,
                                            .max_samples = 60});
    if (job->precision) {
        Precision wide = *precision_by_name(job->precision);
        wide.gradients = DTYPE_F32;
        tensor_set_precision(&wide);
    }
    Module *model = model_of(job);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f, .weight_decay = 0.1f});
    optim_set_clip(optimizer, job->clip);
    optim_set_in_backward(optimizer, job->in_backward);
    for (int step = 0; step < STEPS && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        if (!meta)
            job->loss[part->rank][step] = tensor_step_loss();
        tensor_scope_end(scope);
    }
    if (!meta && !error_code())
        write_down(nn_parameters(model), job->weights);
    return error_code();
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Part part = {job, ranks->rank, ranks->size == 1};
    Plan plan;
    setenv("STAND_IN_GUARD", job->guarded ? "1" : "0", 1);
    stand_in_environment();
    int status = plan_and_run_on("cuda", script, &part, ranks, &plan, job->error[ranks->rank]);
    job->needs[ranks->rank] = plan.memory.stats.needs;
    job->sent[ranks->rank] = plan.step_sent;
    return status;
}

static Job *start(const Job *asked)
{
    Job *job = processes_shared(sizeof *job);
    assert_non_null(job);
    *job = *asked;
    for (int i = 0; i < RANK_NUMBERS; i++)
        job->weights[i] = NAN;
    return job;
}

static void end(Job *job)
{
    processes_shared_end(job, sizeof *job);
}

static Job *run(const Job *asked)
{
    Job *job = start(asked);
    int failed = as_processes(
        &(Ranks){.size = job->ranks, .tensor = job->tensor, .strategy = job->strategy}, body, job);
    for (int r = 0; r < job->ranks; r++)
        if (job->error[r][0])
            fail_msg("%s, %d ranks: rank %d: %s", ranks_strategy_name(job->strategy), job->ranks, r,
                     job->error[r]);
    assert_int_equal(failed, 0);
    for (int r = 1; r < job->ranks; r++) {
        assert_true(job->needs[r] == job->needs[0] && job->needs[r] > 0);
        assert_true(job->sent[r] == job->sent[0] && job->sent[r] > 0);
    }
    return job;
}

/* One process, with each micro-batch's gradient apart. */
static Job *run_alone(const Job *asked)
{
    Job *job = start(asked);
    int failed = as_processes(&(Ranks){.size = 1, .strategy = RANKS_ZERO2}, body, job);
    if (failed)
        fail_msg("alone: %s", job->error[0]);
    return job;
}

static void assert_same(const Job *job, const Job *alone, double most)
{
    double d = numbers_apart(job->weights, alone->weights);
    if (!(d <= most))
        fail_msg("%s, %d ranks: weights are %g apart from one process's", ranks_strategy_name(job->strategy),
                 job->ranks, d);
    for (int r = 0; r < job->ranks; r++)
        for (int s = 0; s < STEPS; s++)
            if (!(fabs(job->loss[r][s] - alone->loss[0][s]) <= 1e-6 * alone->loss[0][s]))
                fail_msg("rank %d: loss %.9g, not %.9g", r, job->loss[r][s], alone->loss[0][s]);
}

static void test_each_strategy_is_one_process(void **state)
{
    (void)state;
    static const Job of[] = {
        {.setting = {.family = MODEL_LLAMA}, .ranks = 2, .accumulate = 1},
        {.setting = {.family = MODEL_GPT2, .dropout = 0.2f, .checkpoint = 1}, .ranks = 3, .accumulate = 1}};
    for (size_t i = 0; i < COUNT(of); i++) {
        Job *alone = run_alone(&of[i]);
        for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy += 1 + (int)i) {
            Job *job = start(&of[i]);
            job->strategy = (RankStrategy)strategy;
            job->guarded = strategy == RANKS_ZERO3;
            Job *ran = run(job);
            assert_same(ran, alone, 0);
            end(ran);
            end(job);
        }
        end(alone);
    }
}

/* Masters, and parts of 16 bit; the norm, whose sum has another order; updates inside backward; adapters over
 * weights that are divided too, quantised ones among them; blocks that are gathered together. */
static void test_levers(void **state)
{
    (void)state;
    static const struct {
        Job job;
        double most;
    } of[] = {
        {{.strategy = RANKS_ZERO3, .precision = "bf16-mixed", .blocks = 1}, 0},
        {{.strategy = RANKS_ZERO1, .precision = "fp16-mixed"}, 0},
        {{.strategy = RANKS_ZERO3, .precision = "bf16"}, 0},
        {{.strategy = RANKS_ZERO2, .clip = 0.05f}, 1e-6},
        {{.strategy = RANKS_ZERO3, .lora = 1}, 0},
        {{.strategy = RANKS_ZERO3, .lora = 1, .quantized = DTYPE_NF4}, 0},
        {{.strategy = RANKS_ZERO3, .lora = 1, .quantized = DTYPE_INT8, .blocks = 1}, 0},
    };
    for (size_t i = 0; i < COUNT(of); i++) {
        Job *asked = start(&of[i].job);
        asked->setting.family = MODEL_LLAMA;
        asked->ranks = 2;
        asked->accumulate = 1;
        Job *alone = run_alone(asked), *ran = run(asked);
        assert_same(ran, alone, of[i].most);
        end(alone);
        end(ran);
        end(asked);
    }
}

static void test_updates_in_backward(void **state)
{
    (void)state;
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy += RANKS_ZERO3) {
        Job *after = start(&(Job){.setting = {.family = MODEL_GPT2},
                                  .strategy = (RankStrategy)strategy,
                                  .ranks = 2,
                                  .accumulate = 1});
        Job *in = start(after);
        in->in_backward = 1;
        Job *one = run(after), *other = run(in);
        assert_true(numbers_apart(one->weights, other->weights) == 0);
        end(one);
        end(other);
        end(in);
        end(after);
    }
}

/* Ranks that compute layers together have the same samples. */
static void test_layers_in_halves(void **state)
{
    (void)state;
    Job *one = start(&(Job){.setting = {.family = MODEL_LLAMA}, .ranks = 1, .accumulate = 1});
    Job *two = start(one);
    two->ranks = two->tensor = 2;
    Job *alone = run_alone(one), *ran = run(two);
    for (int r = 0; r < 2; r++)
        for (int s = 0; s < STEPS; s++)
            assert_true(fabs(ran->loss[r][s] - alone->loss[0][s]) <= 1e-6 * alone->loss[0][s]);
    end(alone);
    end(ran);
    end(two);
    end(one);
}

static void test_a_rank_stops(void **state)
{
    (void)state;
    Job *job = start(&(Job){.setting = {.family = MODEL_LLAMA},
                            .strategy = RANKS_ZERO3,
                            .ranks = 2,
                            .accumulate = 1,
                            .broken = 2});
    assert_int_equal(as_processes(&(Ranks){.size = 2, .strategy = RANKS_ZERO3}, body, job), 2);
    assert_non_null(strstr(job->error[0], "a rank has stopped"));
    assert_non_null(strstr(job->error[1], "this rank has no data"));
    end(job);
}

static int stages(const Ranks *ranks, void *user)
{
    Job *job = user;
    stand_in_environment();
    Context *context = context_create(&(ContextOptions){.device = "cuda", .ranks = ranks});
    Context *outside = context_use(context);
    int status = error_code();
    snprintf(job->error[ranks->rank], sizeof job->error[0], "%s", error_message());
    context_use(outside);
    context_destroy(context);
    return status;
}

static void test_stages_are_refused(void **state)
{
    (void)state;
    Job *job = start(&(Job){.ranks = 2});
    assert_int_equal(as_processes(&(Ranks){.size = 2, .stages = 2}, stages, job), 2);
    assert_non_null(strstr(job->error[0], "stages of a model train on the CPU"));
    end(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_strategy_is_one_process), cmocka_unit_test(test_levers),
        cmocka_unit_test(test_updates_in_backward),          cmocka_unit_test(test_layers_in_halves),
        cmocka_unit_test(test_a_rank_stops),                 cmocka_unit_test(test_stages_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
