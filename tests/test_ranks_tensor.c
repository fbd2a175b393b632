/* Ranks that compute a layer together: what they train is what one process trains, up to the order of sums;
 * each rank's plan is its run; and what a layer keeps is a formula. */
#include <math.h>
#include <stdlib.h>

#include "../data/data.h"
#include "../kernels/kernels.h"
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "ranks_support.h"

enum { MOST_RANKS = 8, STEPS = 4 };

typedef struct Job {
    Setting setting;
    RankStrategy strategy;
    const char *precision; /* NULL = fp32 */
    int ranks, tensor, stages, accumulate, tied, in_backward;
    int chunk, skip;    /* rows of the loss; those without a label */
    int sequence, sums; /* rows are divided; sums: of a first backward alone, over all ranks */
    const char *lora;   /* layers with adapters; NULL = none */
    DType quantized;    /* what those are stored as; 0 = fp32 */
    float clip;
    float *initial, *gradients; /* of the whole; every rank writes its part. Gradients are those of a first
                                   backward, of ranks that all have the same data */
    float *own[MOST_RANKS];     /* of each rank, gradients of what it has whole */
    int64_t parameters;
    double loss[MOST_RANKS][STEPS], norm[MOST_RANKS];
    char error[MOST_RANKS][RANK_ERROR];
} Job;

typedef struct Part {
    Job *job;
    int ranks, rank; /* 1: one process, with all micro-batches */
} Part;

/* -1: it is padding. */
static int64_t place_of(const Tensor *t, int64_t i)
{
    int64_t place = tensor_place_(t, i, &(int64_t){1});
    return place < tensor_whole_numel_(t) ? place : -1;
}

static void write_initial(TensorList list, float *to)
{
    const Context *c = context_current();
    for (int i = 0; i < list.count; i++) {
        Tensor *t = list.items[i];
        TensorPart part = tensor_part_(t);
        for (int64_t k = 0; k < part.count && part.counts && !t->absent && dtype_is_float(part.type); k++) {
            int64_t place = place_of(t, part.first + k);
            float padding = 1, *at = place < 0 ? &padding : to + place;
            c->kernels->copy(part.type, DTYPE_F32, 1,
                             (char *)storage_data(part.weights) + dtype_bytes(part.type, 1, part.at + k), at,
                             &c->run);
            if (place < 0 && padding != 0)
                error_raise(ERROR_STATE, "padding of %s is %g", tensor_name(t), (double)padding);
        }
        to += tensor_whole_numel_(t);
    }
}

static void write_gradients(TensorList list, float *to, float *own)
{
    for (int i = 0; i < list.count; i++) {
        Tensor *t = list.items[i];
        const float *from = storage_f32(t->grad);
        for (int64_t k = 0; from && k < tensor_numel(t); k++) {
            int64_t place = place_of(t, k);
            if (place >= 0)
                to[place] = from[k];
            else if (from[k] != 0)
                error_raise(ERROR_STATE, "padding of %s has a gradient of %g", tensor_name(t),
                            (double)from[k]);
            if (own && !t->piece)
                own[k] = from[k];
        }
        to += tensor_whole_numel_(t);
        own = own ? own + tensor_whole_numel_(t) : NULL;
    }
}

static Module *model_of(const Job *job)
{
    ModelPreset preset = preset_of_text(&job->setting, job->tied);
    if (nn_family(job->setting.family)->decoder) {
        LlamaConfig *c = &preset.config.llama;
        int neox = job->setting.family == MODEL_GPT_NEOX;
        c->heads = 8;
        c->kv_heads = neox ? 8 : 4;
        c->qkv_bias = c->o_bias = c->mlp_bias = neox || (job->tied && job->setting.family == MODEL_LLAMA);
    }
    nn_set_weights(&(Weights){.quantized = job->quantized, .frozen = job->quantized != 0});
    Module *model = nn_model(&preset);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), job->setting.checkpoint);
    nn_set_selective(model, job->setting.selective);
    nn_set_loss_chunk(model, job->chunk);
    nn_set_skip_unlabelled(model, job->skip);
    if (job->lora)
        nn_add_lora(model,
                    &(Lora){.rank = 1, .alpha = 2, .dropout = job->setting.dropout, .targets = job->lora});
    return model;
}

static Loader *data_of(const Job *job, int accumulate)
{
    return data_text("builtin",
                     &(TextOptions){.batch = 2,
                                    .seq = SMALL_SEQ,
                                    .accumulate = accumulate,
                                    .seed = 1,
                                    .held_out = -1,
                                    .mask_probability = is_masked(job->setting.family) ? 0.3f : 0});
}

static int script(void *config)
{
    const Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current());
    int data = job->ranks / (job->tensor * (job->stages ? job->stages : 1));
    Loader *loader = data_of(job, job->accumulate * (part->ranks > 1 ? 1 : data));
    if (job->precision)
        tensor_set_precision(precision_by_name(job->precision));
    Module *model = model_of(job);
    if (!meta && !error_code())
        write_initial(nn_parameters(model), job->initial);
    job->parameters = nn_parameter_count(model);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f, .weight_decay = 0.1f});
    optim_set_clip(optimizer, job->clip);
    optim_set_in_backward(optimizer, job->in_backward);
    for (int step = 0; step < STEPS && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(loader));)
            nn_backward(model, b);
        for (int i = 0; i < nn_parameters(model).count && job->sums; i++)
            tensor_reduce_(nn_parameters(model).items[i]);
        if (!meta && step == 0 && data == 1 && !job->stages && !error_code())
            write_gradients(nn_parameters(model), job->gradients, job->own[part->rank]);
        if (job->sums)
            return error_code();
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        if (!meta)
            job->loss[part->rank][step] = tensor_step_loss();
        if (step == 0)
            job->norm[part->rank] = (double)optim_grad_norm(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Ranks own = *ranks;
    Part part = {job, ranks->size, ranks->rank};
    Plan plan;
    own.tensor = job->tensor;
    own.stages = job->stages;
    own.sequence = job->sequence;
    return plan_and_run(script, &part, &own, &plan, job->error[ranks->rank]);
}

static void job_begin(Job *job)
{
    job->initial = numbers_new();
    job->gradients = numbers_new();
    for (int r = 0; r < job->ranks; r++)
        job->own[r] = numbers_new();
}

static void job_end(Job *job)
{
    test_free(job->initial);
    test_free(job->gradients);
    for (int r = 0; r < job->ranks; r++)
        test_free(job->own[r]);
}

static const char *text_of(const Job *job)
{
    static char text[256];
    snprintf(text, sizeof text, "%s%s, %s, %d ranks of which %d compute a layer, %d stages",
             setting_text(&job->setting), job->tied ? " tied" : "", ranks_strategy_name(job->strategy),
             job->ranks, job->tensor, job->stages);
    return text;
}

static void run(Job *job)
{
    int failed = as_ranks(job->ranks, job->strategy, body, job);
    for (int r = 0; r < job->ranks; r++)
        if (job->error[r][0])
            fail_msg("%s: rank %d: %s", text_of(job), r, job->error[r]);
    assert_int_equal(failed, 0);
}

static void run_alone(Job *job)
{
    Part part = {job, 1, 0};
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
    if (script(&part) != 0)
        fail_msg("%s: alone: %s", text_of(job), error_message());
    leave(v);
}

/* The root of the squares of the difference, beside that of the expected. */
static double apart(const float *a, const float *expected, int64_t n)
{
    double squares = 0, all = 0;
    for (int64_t i = 0; i < n; i++) {
        squares += ((double)a[i] - (double)expected[i]) * ((double)a[i] - (double)expected[i]);
        all += (double)expected[i] * (double)expected[i];
    }
    return sqrt(squares / all);
}

static void assert_gradients(const Job *job, const Job *alone)
{
    double d = apart(job->gradients, alone->gradients, job->parameters);
    if (!(d <= 1e-6))
        fail_msg("%s: gradients are %g of their norm apart from one process's", text_of(job), d);
    for (int r = 1; r < job->ranks; r++)
        for (int64_t i = 0; i < job->parameters; i++)
            if (!isnan(job->own[0][i]))
                assert_true(job->own[r][i] == job->own[0][i]);
}

/* Gradients of some parameters are parts until they are summed: of rows that are divided, of norms that heads
 * share. */
static int has_parts(const Job *job)
{
    return job->sequence || job->setting.family == MODEL_QWEN3;
}

static void assert_equal_to_one(Job job)
{
    Job alone = job;
    job_begin(&job);
    job_begin(&alone);
    run(&job);
    run_alone(&alone);
    assert_int_equal(job.parameters, alone.parameters); /* the model's, whoever has them */
    assert_memory_equal(job.initial, alone.initial, (size_t)alone.parameters * sizeof *job.initial);
    if (job.ranks == job.tensor && !job.precision && !job.in_backward && !job.lora &&
        has_parts(&job) <= job.sums)
        assert_gradients(&job, &alone);
    double most = job.precision ? 2e-3 : 1e-6;
    for (int r = 0; r < job.ranks && !job.sums; r++) {
        assert_true(fabs(job.norm[r] - alone.norm[0]) <= most * alone.norm[0]);
        for (int s = 0; s < STEPS; s++)
            if (!(fabs(job.loss[r][s] - alone.loss[0][s]) <= most * alone.loss[0][s]))
                fail_msg("%s: rank %d: loss %d is %.9g, not %.9g", text_of(&job), r, s, job.loss[r][s],
                         alone.loss[0][s]);
    }
    job_end(&job);
    job_end(&alone);
}

static Setting setting_of(int i)
{
    static const Setting settings[] = {{.family = MODEL_LLAMA},
                                       {.family = MODEL_GPT2, .dropout = 0.2f, .checkpoint = 1},
                                       {.family = MODEL_BERT, .dropout = 0.1f},
                                       {.family = MODEL_LLAMA, .checkpoint = 1},
                                       {.family = MODEL_GPT2, .attention = ATTENTION_FLASH},
                                       {.family = MODEL_QWEN3},
                                       {.family = MODEL_SMOLLM3},
                                       {.family = MODEL_GRANITE},
                                       {.family = MODEL_ROBERTA, .dropout = 0.1f},
                                       {.family = MODEL_DISTILBERT, .dropout = 0.1f},
                                       {.family = MODEL_MODERNBERT},
                                       {.family = MODEL_GPT_NEOX}};
    return settings[i];
}

static void test_ranks_are_one_process(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++)
        for (int tensor = 2; tensor <= (i < 5 ? 4 : 2); tensor += 2)
            assert_equal_to_one((Job){.setting = setting_of(i),
                                      .ranks = tensor,
                                      .tensor = tensor,
                                      .accumulate = 1 + (i == 0),
                                      .tied = i == 3});
    assert_equal_to_one(
        (Job){.setting = {.family = MODEL_QWEN3}, .ranks = 2, .tensor = 2, .accumulate = 1, .sums = 1});
}

static void test_data_and_tensor(void **state)
{
    (void)state;
    static const RankStrategy strategies[] = {RANKS_DDP, RANKS_ZERO3, RANKS_ZERO1, RANKS_ZERO2};
    for (int i = 0; i < 3; i++)
        for (int s = 0; s < (i ? 2 : 4); s++)
            for (int data = 2; data <= (i ? 2 : 3); data++)
                assert_equal_to_one((Job){.setting = setting_of(i),
                                          .strategy = strategies[s],
                                          .ranks = 2 * data,
                                          .tensor = 2,
                                          .accumulate = 1});
}

/* Two stages, each computed by two ranks, for one and for two parts of the data. */
static void test_stages_and_tensor(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        for (int data = 1; data <= 2; data++)
            assert_equal_to_one((Job){.setting = setting_of(i),
                                      .ranks = 4 * data,
                                      .tensor = 2,
                                      .stages = 2,
                                      .accumulate = 3,
                                      .clip = i ? 0.05f : 0});
}

/* A norm counts everything once, whoever has it; and what it clips shows in the losses. */
static void test_clipping(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        for (int data = 1; data <= 2; data++)
            assert_equal_to_one((Job){.setting = setting_of(i),
                                      .strategy = data > 1 && i ? RANKS_ZERO3 : RANKS_DDP,
                                      .ranks = 2 * data,
                                      .tensor = 2,
                                      .accumulate = 1,
                                      .clip = 0.05f});
}

static void test_updates_in_backward(void **state)
{
    (void)state;
    assert_equal_to_one(
        (Job){.setting = setting_of(1), .ranks = 2, .tensor = 2, .accumulate = 1, .in_backward = 1});
}

static void test_precisions(void **state)
{
    (void)state;
    static const char *const names[] = {"bf16-mixed", "bf16-autocast"};
    for (size_t i = 0; i < COUNT(names); i++)
        assert_equal_to_one((Job){
            .setting = setting_of((int)i), .ranks = 4, .tensor = 2, .accumulate = 1, .precision = names[i]});
}

/* What lies between layers is divided by rows too: two samples of 12 over two ranks, and over four, which
 * begin in the middle of one. */
static void test_rows(void **state)
{
    (void)state;
    for (int i = 0; i < 11; i++)
        for (int tensor = 2; tensor <= (i < 5 ? 4 : 2); tensor += 2)
            for (int sums = 0; sums < 2; sums++)
                assert_equal_to_one((Job){.setting = setting_of(i),
                                          .ranks = tensor,
                                          .tensor = tensor,
                                          .accumulate = 1 + (i == 0),
                                          .tied = i == 3,
                                          .chunk = i == 1 ? 7 : 0,
                                          .skip = i == 2,
                                          .sequence = 1,
                                          .sums = sums});
}

/* The same among ranks that divide the data, in stages, clipped, updated inside backward, in 16 bit, and
 * where only what is expensive is kept. */
static void test_rows_with_the_rest(void **state)
{
    (void)state;
    for (int strategy = RANKS_DDP; strategy <= RANKS_ZERO3; strategy++)
        assert_equal_to_one((Job){.setting = setting_of(strategy % 3),
                                  .strategy = (RankStrategy)strategy,
                                  .ranks = 4,
                                  .tensor = 2,
                                  .accumulate = 1 + (strategy == RANKS_ZERO2),
                                  .clip = 0.05f,
                                  .sequence = 1});
    for (int i = 0; i < 2; i++)
        assert_equal_to_one((Job){.setting = setting_of(i),
                                  .strategy = i ? RANKS_ZERO2 : RANKS_DDP,
                                  .ranks = i ? 8 : 4,
                                  .tensor = 2,
                                  .stages = 2,
                                  .accumulate = 3,
                                  .clip = 0.05f,
                                  .sequence = 1});
    Setting selective = setting_of(2);
    selective.selective = 1;
    for (int sums = 0; sums < 2; sums++)
        assert_equal_to_one((Job){
            .setting = selective, .ranks = 2, .tensor = 2, .accumulate = 1, .sequence = 1, .sums = sums});
    assert_equal_to_one((Job){
        .setting = setting_of(1), .ranks = 2, .tensor = 2, .accumulate = 1, .in_backward = 1, .sequence = 1});
    assert_equal_to_one((Job){.setting = setting_of(1),
                              .ranks = 4,
                              .tensor = 2,
                              .accumulate = 1,
                              .precision = "bf16-mixed",
                              .sequence = 1});
}

/* A head whose classes are cut, and its loss in chunks of rows, the last of them short, for all rows and for
 * those with a label. */
static void test_losses_in_parts(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        for (int way = 0; way < 3; way++)
            assert_equal_to_one((Job){.setting = setting_of(i),
                                      .ranks = way == 1 ? 4 : 2,
                                      .tensor = way == 1 ? 4 : 2,
                                      .accumulate = 1,
                                      .tied = i == 0 && way,
                                      .chunk = way == 1 ? 0 : 7,
                                      .skip = way > 0});
    for (int skip = 0; skip < 2; skip++)
        assert_equal_to_one((Job){.setting = setting_of(2),
                                  .ranks = 4,
                                  .tensor = 2,
                                  .accumulate = 1,
                                  .precision = "bf16-mixed",
                                  .chunk = 5,
                                  .skip = skip});
}

/* Adapters: one half of each is divided, and of the other half each rank finds a part of the gradient. */
static void test_adapters(void **state)
{
    (void)state;
    static const RankStrategy strategies[] = {RANKS_DDP, RANKS_ZERO1, RANKS_ZERO2, RANKS_ZERO3};
    for (int s = 0; s < 4; s++)
        assert_equal_to_one((Job){.setting = setting_of(s % 2),
                                  .strategy = strategies[s],
                                  .ranks = 4,
                                  .tensor = 2,
                                  .accumulate = 1,
                                  .clip = 0.05f,
                                  .lora = "all",
                                  .quantized = s > 1 ? DTYPE_INT8 : DTYPE_F32});
    assert_equal_to_one((Job){.setting = setting_of(2),
                              .ranks = 4,
                              .tensor = 2,
                              .stages = 2,
                              .accumulate = 2,
                              .lora = "query,dense,word_embeddings"});
}

/* ---- What a layer keeps ---------------------------------------------------------------------- */

typedef struct Shapes {
    int64_t batch, seq, width, hidden;
    int heads, kv_heads, layers, selective;
} Shapes;

static int step_of(void *config)
{
    const Shapes *s = config;
    Loader *loader = data_text(
        "builtin", &(TextOptions){.batch = (int)s->batch, .seq = (int)s->seq, .seed = 1, .held_out = -1});
    Module *model = nn_llama(&(LlamaConfig){.vocab = 256,
                                            .dim = (int)s->width,
                                            .layers = s->layers,
                                            .heads = s->heads,
                                            .kv_heads = s->kv_heads,
                                            .hidden = (int)s->hidden,
                                            .attention = ATTENTION_FLASH});
    nn_set_selective(model, s->selective);
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = 1e-2f});
    int scope = tensor_scope_begin();
    for (const Batch *b; (b = data_next(loader));)
        tensor_backward(nn_loss(model, b));
    optim_step(optimizer);
    optim_zero_grad(optimizer);
    tensor_scope_end(scope);
    return error_code();
}

static MemStats planned(Shapes shapes, int tensor, int sequence, int rank)
{
    Ranks ranks = {.size = tensor, .tensor = tensor, .sequence = sequence, .rank = rank};
    Plan plan;
    RunOptions o = {.threads = 1, .seed = 5, .quiet = 1, .ranks = tensor > 1 ? &ranks : NULL};
    if (plan_script(step_of, &shapes, &o, &plan) != 0)
        fail_msg("%s", plan.error);
    MemStats stats = plan.memory.stats;
    plan_free(&plan);
    return stats;
}

/* With sequence parallel all that is kept is divided, and keeping only what is expensive keeps less: what was
 * gathered is not kept in place of its rows. Every figure is a whole number of 64 bytes. */
static void test_what_a_layer_keeps(void **state)
{
    (void)state;
    Shapes s = {.batch = 2, .seq = 32, .width = 64, .hidden = 192, .heads = 8, .kv_heads = 4, .layers = 2};
    for (int way = 0; way < 5; way++) {
        int t = 1 << (way + 1) / 2, sequence = way && way % 2 == 0;
        Shapes more = s;
        more.layers++;
        int64_t h = s.width, kv = h * s.kv_heads / s.heads, rows = s.batch * s.seq;
        int64_t divided = 2 * h + 2 * kv + 3 * s.hidden + s.heads; /* q, k, v, out; gate, up, hidden; LSE */
        int64_t whole = 4 * rows * (4 * h + 2),
                expected = whole / (sequence ? t : 1) + 4 * rows * divided / t;
        int64_t weights = 4 * (2 * h) + 4 * (2 * h * h + 2 * h * kv + 3 * h * s.hidden) / t;
        for (int rank = 0; rank < t; rank++) {
            MemStats two = planned(s, t, sequence, rank), three = planned(more, t, sequence, rank);
            assert_int_equal(three.own_peak[MEM_ACTIVATION] - two.own_peak[MEM_ACTIVATION], expected);
            Shapes less = s, less_more = more;
            less.selective = less_more.selective = 1;
            MemStats few = planned(less, t, sequence, rank), fewer = planned(less_more, t, sequence, rank);
            assert_true(fewer.own_peak[MEM_ACTIVATION] - few.own_peak[MEM_ACTIVATION] < (uint64_t)expected);
            assert_int_equal(three.own_peak[MEM_PARAMETER] - two.own_peak[MEM_PARAMETER], weights);
            assert_int_equal(three.own_peak[MEM_OPTIMIZER] - two.own_peak[MEM_OPTIMIZER], 2 * weights);
        }
    }
}

/* ---- What is refused ------------------------------------------------------------------------- */

static Visit visit_rank(int tensor)
{
    Ranks ranks = {.size = tensor, .tensor = tensor};
    return visit(&(ContextOptions){.threads = 1, .seed = 5, .meta = 1, .ranks = &ranks});
}

static Module *llama(int heads, int kv_heads, int hidden)
{
    return nn_llama(&(LlamaConfig){
        .vocab = 256, .dim = 48, .layers = 1, .heads = heads, .kv_heads = kv_heads, .hidden = hidden});
}

static void test_what_is_not_divided(void **state)
{
    (void)state;
    Visit v = visit_rank(4);
    assert_null(llama(6, 6, 64));
    assert_error(ERROR_RANKS, "4 ranks", "heads 6", "2 would");
    assert_null(llama(8, 2, 64));
    assert_error(ERROR_RANKS, "kv_heads 2", "2 would");
    assert_null(llama(8, 4, 62));
    assert_error(ERROR_RANKS, "hidden 62", "2 would");
    assert_null(nn_gpt2(&(Gpt2Config){.vocab = 256, .dim = 48, .layers = 1, .heads = 4, .ffn = 50}));
    assert_error(ERROR_RANKS, "gpt2", "ffn 50", "2 would");
    assert_null(nn_bert(&(BertConfig){.vocab = 256, .dim = 48, .layers = 1, .heads = 4, .ffn = 49}));
    assert_error(ERROR_RANKS, "bert", "ffn 49", "1 would");
    const ModernBertConfig modern = {
        .vocab = 256, .dim = 48, .layers = 1, .heads = 4, .ffn = 48, .dropout = 0.1f};
    assert_null(nn_modernbert(&modern));
    assert_error(ERROR_RANKS, "modernbert: dropout within feed-forwards is not divided among");
    assert_null(nn_mlp(&(MlpConfig){.sizes = {8, 4}}));
    assert_error(ERROR_RANKS, "mlp", "4 ranks that compute a layer together");
    leave(v);
}

static void test_what_is_refused(void **state)
{
    (void)state;
    Visit v = visit_rank(2);
    Module *model = llama(4, 2, 64);
    assert_non_null(model);
    assert_int_equal(nn_quantize(model, NULL), -1);
    assert_error(ERROR_RANKS, "nn_quantize");
    Module *odd = llama(4, 2, 2 * 33);
    assert_non_null(odd);
    assert_int_equal(nn_add_lora(odd, &(Lora){.rank = 4, .dropout = 0.1f}), -1);
    assert_error(ERROR_RANKS, "nn_add_lora", "down_proj", "33 of its inputs", "multiple of 4");
    module_free(odd);
    module_free(model);
    leave(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_are_one_process), cmocka_unit_test(test_data_and_tensor),
        cmocka_unit_test(test_stages_and_tensor),     cmocka_unit_test(test_clipping),
        cmocka_unit_test(test_updates_in_backward),   cmocka_unit_test(test_precisions),
        cmocka_unit_test(test_losses_in_parts),       cmocka_unit_test(test_rows),
        cmocka_unit_test(test_rows_with_the_rest),    cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_what_a_layer_keeps),    cmocka_unit_test(test_what_is_not_divided),
        cmocka_unit_test(test_what_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
