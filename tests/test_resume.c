/* A run that is resumed is the run that never stopped, to the last bit: four families, levers,
 * optimizers, wherever it was cut; as planned. What is of another run, or damaged, is told. */
#include "resume_support.h"

/* ---- Runs ------------------------------------------------------------------------------------ */

typedef struct Case {
    ModelFamily family;
    const char *optimizer;
    float dropout, clip;
    int accumulate, in_backward, keep, chunk, selective;
    const char *pattern;
    AttentionKind attention;
    const char *precision; /* NULL = fp32 */
} Case;

static const Case cases[] = {
    {MODEL_MLP, "adamw", .dropout = 0.2f, .clip = 1, .accumulate = 2},
    {MODEL_MLP, "sgd", .accumulate = 1},
    {MODEL_MLP, "sgd-nesterov", .accumulate = 1, .keep = 1},
    {MODEL_GPT2, "adamw", .dropout = 0.1f, .clip = 1, .accumulate = 3, .pattern = "c+"},
    {MODEL_GPT2, "rmsprop", .dropout = 0.3f, .accumulate = 1, .in_backward = 1, .chunk = 5},
    {MODEL_LLAMA, "adam", .clip = 0.5f, .accumulate = 2, .keep = 1, .selective = 1},
    {MODEL_LLAMA, "adamw", .accumulate = 1, .in_backward = 1, .pattern = "cc", .chunk = 7},
    {MODEL_LLAMA, "sgd-momentum", .clip = 1, .accumulate = 2, .attention = ATTENTION_EAGER},
    {MODEL_BERT, "adamw", .dropout = 0.1f, .clip = 1, .accumulate = 2, .pattern = ".c"},
    {MODEL_BERT, "sgd-momentum", .dropout = 0.2f, .accumulate = 1, .in_backward = 1, .selective = 1,
     .attention = ATTENTION_EAGER},
    {MODEL_BERT, "adam", .accumulate = 3, .keep = 1},
    {MODEL_ROBERTA, "adamw", .dropout = 0.1f, .accumulate = 2, .chunk = 7},
    {MODEL_DISTILBERT, "adamw", .dropout = 0.1f, .clip = 1, .accumulate = 1, .pattern = "c+"},
    {MODEL_MODERNBERT, "adamw", .dropout = 0.1f, .clip = 1, .accumulate = 2, .selective = 1},
    {MODEL_MLP, "adamw8bit", .dropout = 0.1f, .clip = 1, .accumulate = 2},
    {MODEL_MLP, "adam8bit", .accumulate = 1, .precision = "bf16-states32"},
    {MODEL_GPT2, "adamw", .dropout = 0.1f, .clip = 1, .accumulate = 2, .pattern = "c+", .precision = "bf16"},
    {MODEL_LLAMA, "adamw8bit", .accumulate = 1, .in_backward = 1, .chunk = 7, .precision = "bf16-mixed"},
    {MODEL_BERT, "adam", .clip = 1, .accumulate = 2, .keep = 1, .precision = "fp16-mixed"},
    {MODEL_LLAMA, "adamw", .accumulate = 2, .pattern = "cc", .selective = 1, .precision = "bf16-autocast"},
    {MODEL_GPT2, "rmsprop", .dropout = 0.1f, .accumulate = 1, .precision = "fp16-autocast"},
    {MODEL_GPT_NEOX, "adamw", .clip = 1, .accumulate = 2, .pattern = "c+", .selective = 1},
    {MODEL_MIXTRAL, "adamw", .clip = 1, .accumulate = 2, .pattern = "c+"},
    {MODEL_QWEN2_MOE, "adamw", .accumulate = 1, .pattern = "c+"},
    {MODEL_QWEN3_MOE, "adam", .accumulate = 1, .in_backward = 1, .precision = "bf16-mixed"},
};

/* 13 samples: with batch 2 an epoch has 7 steps, or 4 of two micro-batches, or 3 of three, the last short. */
enum { STEPS = 9, SAMPLES = 13, WIDTH = 31, SEQ = 12 };

typedef struct Run {
    const Case *c;
    const char *from, *to; /* directories; NULL = none */
    int64_t steps;         /* to do in all */
    int threads;
    double loss[STEPS];
    int64_t skipped;
} Run;

static Loader *loader_of(const Case *c)
{
    static float features[SAMPLES * WIDTH];
    static int32_t labels[SAMPLES];
    fill_values(features, SAMPLES * WIDTH, 3, 1, 0);
    for (int i = 0; i < SAMPLES; i++)
        labels[i] = i % 10;
    if (c->family == MODEL_MLP)
        return data_table(&(TableOptions){.features = features,
                                          .labels = labels,
                                          .count = SAMPLES,
                                          .width = WIDTH,
                                          .batch = 2,
                                          .accumulate = c->accumulate,
                                          .seed = 5});
    return data_text(at("text"), &(TextOptions){.batch = 2,
                                                .seq = SEQ,
                                                .accumulate = c->accumulate,
                                                .seed = 5,
                                                .held_out = -1,
                                                .mask_probability = is_masked(c->family) ? 0.3f : 0,
                                                .max_samples = SAMPLES});
}

static ModelPreset preset_of(const Case *c)
{
    ModelPreset preset =
        small_preset(&(Setting){.family = c->family, .attention = c->attention, .dropout = c->dropout});
    if (c->family == MODEL_MLP && strstr(c->optimizer, "8bit"))
        preset.config.mlp.sizes[1] = 4096 / WIDTH + 1; /* the first matrix is large enough for them */
    if (is_masked(c->family))
        nn_preset_set_vocab(&preset, TOKEN_VOCAB);
    else if (c->family == MODEL_GPT2)
        preset.config.gpt2.vocab = 256;
    else if (c->family != MODEL_MLP) /* decoders of Llama's parts */
        preset.config.llama.vocab = 256;
    return preset;
}

static Optimizer *optimizer_of(const Case *c, Module *model)
{
    Optimizer *optimizer = optim_by_name(c->optimizer, nn_parameters(model), 0.01f, 0);
    optim_set_schedule(optimizer, &(Schedule){.kind = SCHEDULE_COSINE, .warmup = 2, .total = STEPS});
    optim_set_clip(optimizer, c->clip);
    optim_set_in_backward(optimizer, c->in_backward);
    if (c->precision && !strncmp(c->precision, "fp16", 4)) { /* so large that the first steps are skipped */
        optim_set_loss_scale(optimizer, 0);
        optim_set_scaling(optimizer, &(LossScale){.scale = 0x1p22f, .dynamic = 1});
    }
    return optimizer;
}

static int script(void *config)
{
    Run *run = config;
    const Case *c = run->c;
    ModelPreset preset = preset_of(c);
    if (c->precision)
        tensor_set_precision(precision_by_name(c->precision));
    SavedRun what = {.loader = loader_of(c), .model = nn_model(&preset), .keep = 100};
    nn_set_checkpoints(what.model, c->pattern);
    nn_set_selective(what.model, c->selective);
    nn_set_loss_chunk(what.model, c->chunk);
    what.optimizer = optimizer_of(c, what.model);
    if (run->from)
        io_load_run(run->from, &what, NULL);
    for (int64_t step = optim_steps(what.optimizer); step < run->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(what.loader));)
            tensor_backward(nn_loss(what.model, b));
        run->loss[step] = tensor_step_loss();
        brim_step(1);
        optim_step(what.optimizer);
        if (c->keep)
            optim_zero_grad_keep(what.optimizer);
        else
            optim_zero_grad(what.optimizer);
        tensor_scope_end(scope);
        if (run->to)
            io_save_run(run->to, &what);
    }
    run->skipped = optim_skipped(what.optimizer);
    return error_code();
}

/* By its plan, from which no event differs. */
static void execute(Run *run)
{
    RunOptions options = {.threads = run->threads ? run->threads : 1, .seed = 3, .quiet = 1};
    Plan plan;
    RunResult result;
    if (plan_script(script, run, &options, &plan))
        fail_msg("%s", plan.error);
    if (plan_execute(script, run, &options, &plan, &result))
        fail_msg("%s", result.error);
    assert_int_equal(result.segments_off_plan, 0);
    assert_int_equal(result.memory.stats.peak, plan.memory.stats.peak);
    assert_int_equal(result.memory.stats.needs, plan.memory.stats.needs);
    plan_free(&plan);
}

static void write_text(void)
{
    char text[SAMPLES * SEQ + 1];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + hash32((uint32_t)i) % 26);
    spill(at("text"), text, sizeof text);
}

/* Wherever it is cut (in 16 bit at three places): the losses and all that is saved at the end, state.json
 * included. */
static void cut_everywhere(const Case *c, int threads)
{
    Run straight = {.c = c, .to = at("straight"), .steps = STEPS, .threads = threads};
    execute(&straight);
    if (c->precision && !strncmp(c->precision, "fp16", 4)) /* some steps, and not all */
        assert_true(straight.skipped > 1 && straight.skipped < STEPS - 2);
    for (int cut = 1; cut < STEPS; cut += c->precision ? 3 : 1) {
        Run resumed = {.c = c,
                       .from = at("straight/step-%08d", cut),
                       .to = at("resumed"),
                       .steps = STEPS,
                       .threads = threads};
        execute(&resumed);
        for (int i = cut; i < STEPS; i++)
            if (memcmp(&resumed.loss[i], &straight.loss[i], sizeof(double)) != 0)
                fail_msg("%s %s, cut after %d: loss %d is %.17g, not %.17g", nn_family(c->family)->name,
                         c->optimizer, cut, i, resumed.loss[i], straight.loss[i]);
        if (!same_saved_run(at("straight/step-%08d", STEPS), at("resumed/step-%08d", STEPS)))
            fail_msg("%s %s, cut after %d: the end differs", nn_family(c->family)->name, c->optimizer, cut);
        empty(resumed.to);
    }
    empty(at("straight"));
}

static void test_as_if_never_stopped(void **state)
{
    (void)state;
    write_text();
    for (size_t i = 0; i < COUNT(cases); i++)
        cut_everywhere(&cases[i], 1);
    cut_everywhere(&cases[3], 2);
    cut_everywhere(&cases[5], 2);
}

/* A chain: every step in a run of its own. Saving changes no weight. */
static void test_every_step_a_run(void **state)
{
    (void)state;
    write_text();
    for (size_t i = 0; i < COUNT(cases); i += 3) {
        Run straight = {.c = &cases[i], .to = at("straight"), .steps = STEPS};
        execute(&straight);
        for (int step = 1; step <= STEPS; step++) {
            Run one = {
                .c = &cases[i], .from = step > 1 ? at("chain") : NULL, .to = at("chain"), .steps = step};
            execute(&one);
        }
        for (int step = 1; step <= STEPS; step++)
            assert_true(same_saved_run(at("straight/step-%08d", step), at("chain/step-%08d", step)));
        empty(at("straight"));
        empty(at("chain"));
    }
}

/* Another plan of recomputation is the same run, bit by bit. */
static void test_levers_may_change(void **state)
{
    (void)state;
    write_text();
    const Case plain = {MODEL_GPT2, "adamw", .dropout = 0.1f, .accumulate = 1};
    Case other = plain;
    other.pattern = "cc";
    other.in_backward = 1;
    Run straight = {.c = &plain, .to = at("straight"), .steps = STEPS};
    execute(&straight);
    Run resumed = {.c = &other, .from = at("straight/step-00000004"), .to = at("resumed"), .steps = STEPS};
    execute(&resumed);
    assert_true(same_saved_run(at("straight/step-%08d", STEPS), at("resumed/step-%08d", STEPS)));
}

/* A script's own: a parameter that only the first step reaches, then updated with the zeros that were kept;
 * values drawn from the context's random streams; the number of the step. */
static float own_steps(int64_t from, int64_t to, float *weights)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 1});
    Tiny t = tiny();
    t.run.keep = 9;
    if (from)
        assert_int_equal(io_load_run(at("own/step-%08d", (int)from), &t.run, NULL), 0);
    assert_int_equal(memtrack_step(context_tracker(context_current())), from);
    Tensor *drawn = tensor_new(DTYPE_F32, SHAPE(4), MEM_INPUT);
    TensorList list = nn_parameters(t.model);
    for (int64_t step = from; step < to; step++) {
        int scope = tensor_scope_begin();
        for (int i = 0; i < (step ? 1 : 2); i++)
            tensor_backward(tensor_sum(tensor_mul(list.items[i], list.items[i])));
        optim_step(t.optimizer);
        optim_zero_grad_keep(t.optimizer);
        tensor_fill_normal(drawn, 0, 1);
        tensor_scope_end(scope);
        assert_int_equal(io_save_run(at("own"), &t.run), 0);
    }
    assert_int_equal(optim_updates(t.optimizer, 1), to);
    memcpy(weights, tensor_f32(list.items[1]), 2 * sizeof(float));
    float last = tensor_f32(drawn)[3];
    tiny_end(&t);
    leave(v);
    return last;
}

static void test_scripts_own(void **state)
{
    (void)state;
    float straight[2], resumed[2];
    float drawn = own_steps(0, 4, straight);
    for (int64_t cut = 1; cut < 4; cut++) {
        assert_true(own_steps(cut, 4, resumed) == drawn);
        assert_memory_equal(straight, resumed, sizeof straight);
    }
}

/* Saving is no part of a step's time. */
static int slow_script(void *config)
{
    Tiny t = tiny();
    (void)config;
    for (int step = 0; step < 4; step++) {
        tiny_step(&t);
        brim_step(1);
        usleep(context_is_meta(context_current()) ? 0 : 200000);
        brim_lap();
    }
    tiny_end(&t);
    return error_code();
}

static void test_lap(void **state)
{
    (void)state;
    RunOptions options = {.threads = 1, .seed = 1, .quiet = 1};
    Plan plan;
    RunResult result;
    brim_lap(); /* outside a run it is nothing */
    assert_int_equal(plan_script(slow_script, NULL, &options, &plan), 0);
    assert_int_equal(plan_execute(slow_script, NULL, &options, &plan, &result), 0);
    plan_free(&plan);
    /* The median of three steps is twice in their sum, however slow a busy machine makes them. */
    assert_true(result.seconds > 0.8 + 2 * result.step_seconds);
}

/* ---- Another run ----------------------------------------------------------------------------- */

static void test_of_another_run(void **state)
{
    (void)state;
    static const SavedRunSetting was[] = {{"batch", "2"}, {"lr", "0.1"}},
                                 is[] = {{"batch", "4"}, {"clip", "1"}};
    Tiny t = tiny();
    t.run.settings = was;
    t.run.setting_count = 2;
    tiny_train(&t, at("run"), 1, 2);
    float before = tensor_f32(nn_parameters(t.model).items[0])[0];
    t.run.settings = is;
    assert_int_equal(io_load_run(at("run"), &t.run, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "step-00000001 is of another run", "batch is 4, was 2",
                 "clip is 1, was not given", "lr is not given, was 0.1");
    t.run.settings = was;
    t.run.optimizer = optim_by_name("sgd", nn_parameters(t.model), 0, 0);
    assert_int_equal(io_load_run(at("run"), &t.run, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "optimizer is sgd, was adamw");
    t.run.optimizer = t.optimizer;
    t.run.model = nn_mlp(&(MlpConfig){.sizes = {4, 2}});
    assert_int_equal(io_load_run(at("run"), &t.run, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "of another model", "is not F32 (2,4)");
    t.run.model = nn_mlp(&(MlpConfig){.sizes = {3, 2, 2}});
    assert_int_equal(io_load_run(at("run"), &t.run, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "has 2 parameters, this one 4");
    t.run.model = t.model;
    t.run.loader = NULL;
    assert_int_equal(io_load_run(at("run"), &t.run, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "data is none, was a loader");
    assert_true(tensor_f32(nn_parameters(t.model).items[0])[0] == before);
    tiny_end(&t);
    Visit v = visit(&(ContextOptions){.threads = 2, .seed = 9});
    Tiny other = tiny();
    other.run.settings = was;
    other.run.setting_count = 2;
    assert_int_equal(io_load_run(at("run"), &other.run, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "seed is 9, was 1");
    leave(v);
    v = visit(&(ContextOptions){.threads = 2, .seed = 1});
    other = tiny();
    other.run.settings = was;
    other.run.setting_count = 2;
    SavedRunFound found;
    assert_int_equal(io_load_run(at("run"), &other.run, &found), 0);
    assert_non_null(strstr(found.note, "saved with 1 thread, resumes with 2"));
    assert_int_equal(io_load_run(found.path, &other.run, &found), 0); /* what was found, by itself */
    assert_int_equal(io_find_saved_run(found.path, &found), 0);
    assert_int_equal(found.step, 1);
    assert_int_equal(optim_steps(other.optimizer), 1);
    assert_int_equal(data_cursor(other.loader).step, 1);
    leave(v);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

/* The newest is damaged: the one before it is found, and why; never another outcome. */
static void expect_fallback(const char *what)
{
    SavedRunFound found;
    if (io_find_saved_run(at("run"), &found))
        fail_msg("%s: %s", what, error_message());
    if (found.step != 1)
        fail_msg("%s: unnoticed", what);
    assert_non_null(strstr(found.note, "step-00000002"));
}

static void damage(const char *name)
{
    char path[256], what[320];
    size_t size;
    snprintf(path, sizeof path, "%s", at("run/step-00000002/%s", name));
    char *bytes = slurp(path, &size);
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (char)(bytes[i] ^ (1 << i % 8));
        spill(path, bytes, size);
        snprintf(what, sizeof what, "byte %zu of %s", i, name);
        expect_fallback(what);
        bytes[i] = (char)(bytes[i] ^ (1 << i % 8));
    }
    for (size_t i = 0; i < size; i += 1 + i / 64) {
        spill(path, bytes, i);
        snprintf(what, sizeof what, "%s cut to %zu", name, i);
        expect_fallback(what);
    }
    unlink(path);
    expect_fallback(name);
    spill(path, bytes, size);
    test_free(bytes);
}

static void test_damage(void **state)
{
    (void)state;
    Tiny t = tiny();
    tiny_train(&t, at("run"), 2, 2);
    damage("state.json");
    damage("model.safetensors");
    damage("optimizer.safetensors");
    SavedRunFound found;
    assert_int_equal(io_load_run(at("run"), &t.run, &found), 0);
    assert_int_equal(found.step, 2);
    spill(at("run/step-00000002/state.json"), "x", 1);
    assert_int_equal(io_load_run(at("run/step-00000002"), &t.run, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "step-00000002/state.json is damaged");
    assert_int_equal(io_load_run(at("run"), &t.run, &found), 0);
    assert_int_equal(optim_steps(t.optimizer), 1);
    spill(at("run/step-00000001/optimizer.safetensors"), "x", 1);
    assert_int_equal(io_load_run(at("run"), &t.run, NULL), ERROR_DATA);
    assert_error(ERROR_DATA, "has no saved run that is whole", "state.json", "it has 1 byte, not");
    tiny_end(&t);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Nothing tracked, and each failing allocation is an error that leaves all as it was. */
static void test_allocations_fail(void **state)
{
    (void)state;
    Tiny t = tiny();
    tiny_train(&t, at("run"), 1, 2);
    tiny_step(&t);
    uint64_t events = books()->allocations, live = memtrack_process_live();
    int failed = 0;
    for (uint64_t n = 1;; n++) {
        memtrack_fail_nth(n);
        int status = io_save_run(at("run"), &t.run);
        memtrack_fail_nth(0);
        assert_int_equal(memtrack_process_live(), live);
        if (!status)
            break;
        assert_error(ERROR_HOST_MEMORY, "");
        assert_false(exists(at("run/step-00000002")));
        failed++;
    }
    assert_true(failed >= 5);
    for (uint64_t n = 1;; n++) {
        memtrack_fail_nth(n);
        int status = io_load_run(at("run"), &t.run, NULL);
        memtrack_fail_nth(0);
        assert_int_equal(memtrack_process_live(), live);
        if (!status)
            break;
        assert_error(ERROR_HOST_MEMORY, "");
        failed++;
    }
    assert_true(failed >= 15);
    assert_int_equal(books()->allocations, events);
    tiny_end(&t);
}

/* ---- The optimizer's state ------------------------------------------------------------------- */

static void test_optimizer_state(void **state)
{
    (void)state;
    static const struct {
        const char *name, *arrays[2];
    } rules[] = {{"sgd", {NULL}},
                 {"sgd-momentum", {"momentum_buffer"}},
                 {"rmsprop", {"square_avg"}},
                 {"adam", {"exp_avg", "exp_avg_sq"}},
                 {"adamw", {"exp_avg", "exp_avg_sq"}}};
    Tiny t = tiny();
    for (size_t i = 0; i < COUNT(rules); i++) {
        Optimizer *o = optim_by_name(rules[i].name, nn_parameters(t.model), 0.5f, 0);
        int arrays = (rules[i].arrays[0] != NULL) + (rules[i].arrays[1] != NULL);
        assert_int_equal(optim_state_arrays(o), arrays);
        for (int k = 0; k < arrays; k++) {
            assert_string_equal(optim_state_name(o, k), rules[i].arrays[k]);
            assert_non_null(optim_state(o, 1, k));
        }
        assert_null(optim_state_name(o, arrays));
        assert_null(optim_state(o, 0, arrays));
        assert_null(optim_state(o, 2, 0));
        assert_true(optim_base_lr(o) == 0.5f);
        assert_int_equal(optim_set_updates(o, 1, 7), 0);
        assert_int_equal(optim_updates(o, 1), 7);
        assert_int_equal(optim_updates(o, 0), 0);
        assert_int_equal(optim_set_steps(o, 9), 0);
        assert_int_equal(optim_steps(o), 9);
        assert_int_equal(optim_set_updates(o, 2, 1), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, "there is no parameter 2");
        assert_int_equal(optim_set_updates(o, 0, -1), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, "less than none");
        assert_int_equal(optim_set_steps(o, -1), ERROR_ARGUMENT);
        assert_error(ERROR_ARGUMENT, "less than none");
        optimizer_free(o);
    }
    assert_int_equal(optim_state_arrays(NULL), 0);
    assert_int_equal(optim_updates(NULL, 0), 0);
    tiny_end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_as_if_never_stopped), TEST(test_every_step_a_run), TEST(test_levers_may_change),
        TEST(test_of_another_run),      TEST(test_damage),           TEST(test_allocations_fail),
        TEST(test_optimizer_state),     TEST(test_scripts_own),      TEST(test_lap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
