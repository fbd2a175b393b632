/* Runs of adapters, saved without their base: how much that is, resumed to the last bit, and refused on
 * another base. */
#include <sys/stat.h>

#include "../io/saved_run_.h"
#include "../io/weights.h"
#include "../nn/lora.h"
#include "resume_support.h"

enum { STEPS = 5, SAMPLES = 13, SEQ = 12, VOCAB = 256 };

typedef struct Case {
    ModelFamily family;
    const char *optimizer;
    Lora lora;
    const char *pattern;
    int accumulate, in_backward, tied;
    Weights weights; /* of the base */
} Case;

static const Case cases[] = {
    {MODEL_LLAMA, "adamw", {.rank = 3, .alpha = 6, .dropout = 0.2f}, .accumulate = 2},
    {MODEL_LLAMA,
     "adamw",
     {.rank = 2, .targets = "q_proj,embed_tokens"},
     "c+",
     .accumulate = 1,
     .in_backward = 1,
     .tied = 1},
    {MODEL_GPT2, "sgd", {.rank = 4, .targets = "c_attn", .dropout = 0.5f}, "cc", .accumulate = 1},
    {MODEL_BERT, "rmsprop", {.rank = 2, .rslora = 1}, .accumulate = 2},
    {MODEL_LLAMA,
     "adamw",
     {.rank = 2, .dropout = 0.1f},
     "c.",
     1,
     0,
     0,
     .weights = {.dtype = DTYPE_BF16, .quantized = DTYPE_NF4, .frozen = 1}},
    {MODEL_GPT2,
     "adam",
     {.rank = 2},
     NULL,
     1,
     0,
     0,
     .weights = {.dtype = DTYPE_F16, .quantized = DTYPE_INT8}},
};

typedef struct Run {
    const Case *c;
    const char *base;      /* directory of its weights; NULL = the seed's */
    const char *from, *to; /* directories; NULL = none */
    int64_t steps;
    uint64_t seed;   /* 0 = 3 */
    int whole;       /* trains the whole model instead */
    int trains_head; /* and the head beside the adapters */
    double loss[STEPS];
    IoSize size;
    int64_t trained, states;
} Run;

static ModelPreset preset_of(const Case *c)
{
    ModelPreset preset = small_preset(&(Setting){.family = c->family});
    nn_preset_set_vocab(&preset, c->family == MODEL_BERT ? TOKEN_VOCAB : VOCAB);
    if (c->tied)
        preset.config.llama.tied = 1;
    return preset;
}

static int64_t elements(TensorList list)
{
    int64_t count = 0;
    for (int i = 0; i < list.count; i++)
        count += tensor_numel(list.items[i]);
    return count;
}

static void make_model(Run *run, SavedRun *what, SavedRunInput *base)
{
    ModelPreset preset = preset_of(run->c);
    nn_set_weights(&run->c->weights);
    what->model = nn_model(&preset);
    if (run->base) {
        *base = (SavedRunInput){.name = "base", .path = run->base};
        io_load_weights(what->model, run->base, NULL, NULL);
        io_fingerprint(base);
        what->base = base;
    }
    if (!run->whole)
        nn_add_lora(what->model, &run->c->lora);
    if (run->trains_head)
        tensor_set_requires_grad(nn_parameter(what->model, "lm_head.weight"), 1);
    nn_set_checkpoints(what->model, run->c->pattern);
}

static void make_run(Run *run, SavedRun *what, SavedRunInput *base)
{
    const Case *c = run->c;
    *what = (SavedRun){
        .loader = data_text(at("text"), &(TextOptions){.batch = 2,
                                                       .seq = SEQ,
                                                       .accumulate = c->accumulate,
                                                       .seed = 5,
                                                       .held_out = -1,
                                                       .mask_probability = c->family == MODEL_BERT ? 0.3f : 0,
                                                       .max_samples = SAMPLES}),
        .keep = 100};
    make_model(run, what, base);
    what->optimizer = optim_by_name(c->optimizer, nn_parameters(what->model), 0.01f, 0);
    optim_set_in_backward(what->optimizer, c->in_backward);
    run->size = io_saved_run_size(what->model, what->optimizer);
    run->trained = elements(saved_run_parameters(what->model));
    run->states = elements(optim_parameters(what->optimizer)) * optim_state_arrays(what->optimizer);
}

static int script(void *config)
{
    Run *run = config;
    SavedRun what;
    SavedRunInput base;
    make_run(run, &what, &base);
    if (run->from)
        io_load_run(run->from, &what, NULL);
    for (int64_t step = optim_steps(what.optimizer); step < run->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(what.loader));)
            tensor_backward(nn_loss(what.model, b));
        run->loss[step] = tensor_step_loss();
        brim_step(1);
        optim_step(what.optimizer);
        optim_zero_grad(what.optimizer);
        tensor_scope_end(scope);
        if (run->to)
            io_save_run(run->to, &what);
    }
    return error_code();
}

/* By its plan, from which no event differs. */
static void execute(Run *run)
{
    RunOptions options = {.threads = 1, .seed = run->seed ? run->seed : 3, .quiet = 1};
    Plan plan;
    RunResult result;
    if (plan_script(script, run, &options, &plan))
        fail_msg("%s", plan.error);
    IoSize planned = run->size;
    if (plan_execute(script, run, &options, &plan, &result))
        fail_msg("%s", result.error);
    assert_int_equal(result.segments_off_plan, 0);
    assert_int_equal(result.memory.stats.peak, plan.memory.stats.peak);
    assert_int_equal(planned.model, run->size.model);
    assert_int_equal(planned.optimizer, run->size.optimizer);
    plan_free(&plan);
}

/* What is refused, with this in the message. */
static void refuse(Run *run, const char *says)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = run->seed ? run->seed : 3});
    SavedRun what;
    SavedRunInput base;
    make_run(run, &what, &base);
    assert_fine();
    assert_int_equal(io_load_run(run->from, &what, NULL), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, says);
    leave(v);
}

static void write_text(void)
{
    char text[SAMPLES * SEQ + 1];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + hash32((uint32_t)i) % 26);
    spill(at("text"), text, sizeof text);
}

/* The weights of a base, in one file or in several. */
static const char *write_base(const Case *c, const char *name, uint64_t seed, uint64_t shard)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = seed});
    ModelPreset preset = preset_of(c);
    const char *path = at("%s", name);
    if (io_save_weights(nn_model(&preset), &preset, path, &(WeightsSaving){.shard = shard, .overwrite = 1}))
        fail_msg("%s", error_message());
    leave(v);
    return path;
}

static uint64_t size_of(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return (uint64_t)status.st_size;
}

/* ---- Resumed --------------------------------------------------------------------------------- */

static void cut_everywhere(const Case *c, const char *base)
{
    Run straight = {.c = c, .base = base, .to = at("straight"), .steps = STEPS};
    execute(&straight);
    for (int cut = 1; cut < STEPS; cut++) {
        Run resumed = {
            .c = c, .base = base, .from = at("straight/step-%08d", cut), .to = at("resumed"), .steps = STEPS};
        execute(&resumed);
        for (int i = cut; i < STEPS; i++)
            if (memcmp(&resumed.loss[i], &straight.loss[i], sizeof(double)) != 0)
                fail_msg("%s, cut after %d: loss %d is %.17g, not %.17g", c->optimizer, cut, i,
                         resumed.loss[i], straight.loss[i]);
        if (!same_saved_run(at("straight/step-%08d", STEPS), at("resumed/step-%08d", STEPS)))
            fail_msg("%s, cut after %d: the end differs", c->optimizer, cut);
        empty(resumed.to);
    }
    assert_true(straight.loss[0] != straight.loss[STEPS - 1]);
    empty(at("straight"));
}

static void test_as_if_never_stopped(void **state)
{
    (void)state;
    write_text();
    for (size_t i = 0; i < COUNT(cases); i++) {
        cut_everywhere(&cases[i], NULL);
        cut_everywhere(&cases[i], write_base(&cases[i], "base", 77, i % 2 ? 0 : 4000));
        empty(at("base"));
    }
}

/* ---- How much -------------------------------------------------------------------------------- */

/* Adapters and their states, and what else is trained: to the byte of floats, planned from shapes alone. */
static void test_sizes(void **state)
{
    (void)state;
    write_text();
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int head = 0; head < 2; head++) {
            if (head && (cases[i].family != MODEL_LLAMA || cases[i].tied || cases[i].weights.dtype))
                continue;
            Run run = {.c = &cases[i], .to = at("run"), .steps = 1, .trains_head = head};
            execute(&run);
            uint64_t model = size_of(at("run/step-00000001/model.safetensors")),
                     optimizer = size_of(at("run/step-00000001/optimizer.safetensors"));
            assert_int_equal(run.size.model, model);
            assert_int_equal(run.size.optimizer, optimizer);
            Safetensors *file = safetensors_open(at("run/step-00000001/model.safetensors"));
            uint64_t bytes = 0, whole = 0;
            for (int k = 0; k < safetensors_count(file); k++) {
                const char *name = safetensors_at(file, k)->name;
                bytes += safetensors_at(file, k)->bytes;
                assert_true(strstr(name, ".lora_") || (head && !strcmp(name, "lm_head.weight")));
            }
            safetensors_close(file);
            assert_int_equal(bytes, 4 * run.trained);
            uint64_t states = 0;
            file = safetensors_open(at("run/step-00000001/optimizer.safetensors"));
            for (int k = 0; k < safetensors_count(file); k++)
                states +=
                    safetensors_at(file, k)->type == SAFETENSORS_F32 ? safetensors_at(file, k)->bytes : 0;
            safetensors_close(file);
            assert_int_equal(states, 4 * run.states);
            ModelPreset preset = preset_of(&cases[i]);
            nn_set_weights(NULL);
            whole = 4 * (uint64_t)nn_parameter_count(nn_model(&preset));
            assert_true(head || 4 * model < whole);
            assert_true(run.size.bytes >= model + optimizer + size_of(at("run/step-00000001/state.json")));
            empty(at("run"));
        }
}

/* ---- Another base ---------------------------------------------------------------------------- */

static void test_another_base(void **state)
{
    (void)state;
    const Case *c = &cases[0];
    write_text();
    const char *one = write_base(c, "one", 77, 0), *same = write_base(c, "same", 77, 0),
               *other = write_base(c, "other", 78, 0);
    Run run = {.c = c, .base = one, .to = at("run"), .steps = 1};
    execute(&run);
    run.from = at("run");
    run.to = NULL;
    run.base = same; /* the same weights by another path */
    run.steps = 2;
    execute(&run);
    run.base = other;
    refuse(&run, "the weights that are given now are others: put those back");
    run.base = NULL;
    refuse(&run, "one; give these weights here too");
    run.base = one;
    run.whole = 1;
    refuse(&run, "is of a run that trains adapters, and this one trains the whole model");
}

static void test_base_of_the_seed(void **state)
{
    (void)state;
    const Case *c = &cases[0];
    write_text();
    Run run = {.c = c, .to = at("run"), .steps = 1};
    execute(&run);
    run.from = at("run");
    run.to = NULL;
    run.seed = 4;
    refuse(&run, "seed is 4, was 3");
    run.seed = 0;
    run.base = write_base(c, "base", 3, 0);
    refuse(&run, "was drawn from the seed, not read from ");
    Run whole = {.c = c, .to = at("whole"), .steps = 1, .whole = 1};
    execute(&whole);
    run.base = NULL;
    run.from = at("whole");
    refuse(&run, "is of a run that trains the whole model, and this one trains adapters");
    const Case wider = {MODEL_LLAMA, "adamw", {.rank = 4, .alpha = 6, .dropout = 0.2f}, .accumulate = 2};
    run.from = at("run");
    run.c = &wider;
    refuse(&run, "lora_A.weight\" is not F32 (4,");
}

/* A directory of shards is its files in their order. */
static void test_fingerprints(void **state)
{
    (void)state;
    const Case *c = &cases[0];
    SavedRunInput a = {.name = "base", .path = write_base(c, "a", 5, 4000)},
                  b = {.name = "base", .path = write_base(c, "b", 6, 4000)},
                  file = {.name = "base", .path = at("one/model.safetensors")}, folder_of = {.name = "base"};
    folder_of.path = write_base(c, "one", 5, 0);
    assert_int_equal(
        io_fingerprint(&a) || io_fingerprint(&b) || io_fingerprint(&file) || io_fingerprint(&folder_of), 0);
    assert_true(a.bytes > 4000 && a.bytes == b.bytes && a.crc32 != b.crc32);
    assert_true(file.bytes == folder_of.bytes && file.crc32 == folder_of.crc32);
    assert_int_equal(mkdir(at("empty"), 0777), 0);
    a.path = at("empty");
    assert_int_equal(io_fingerprint(&a), ERROR_FILE);
    assert_error(ERROR_FILE, "has no model.safetensors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_as_if_never_stopped), TEST(test_sizes),        TEST(test_another_base),
        TEST(test_base_of_the_seed),    TEST(test_fingerprints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
