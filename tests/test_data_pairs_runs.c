/* Training on prompts and completions: what padding and splitting a batch change of a loss (nothing), the
 * plan that is the run, and runs that are resumed. */
#include <math.h>

#include "plan_support.h"
#include "resume_support.h"

enum { SAMPLES = 23, VOCAB = 60, STEPS = 10, MOST_TOKENS = 11 };

/* Samples of 2 to 11 ids, half of them with labels of their own. */
static void write_samples(const char *name)
{
    static char text[1 << 14];
    size_t used = 0;
    for (uint32_t k = 0; k < SAMPLES; k++) {
        int count = 2 + (int)(hash32(k) % (MOST_TOKENS - 1));
        used += (size_t)sprintf(text + used, "{\"ids\": [");
        for (int i = 0; i < count; i++)
            used += (size_t)sprintf(text + used, "%s%d", i ? "," : "",
                                    (int)(hash32(100 * k + (uint32_t)i) % VOCAB));
        used += (size_t)sprintf(text + used, "]");
        for (int i = 0; k % 2 && i < count; i++)
            used +=
                (size_t)sprintf(text + used, "%s%d", i ? "," : ", \"labels\": [",
                                i == 1 || i % 3 == 0 ? (int)(hash32(100 * k + (uint32_t)i) % VOCAB) : -100);
        used += (size_t)sprintf(text + used, k % 2 ? "]}\n" : "}\n");
    }
    spill(at("%s", name), text, used);
}

static Module *model_of(ModelFamily family, AttentionKind attention, float dropout)
{
    ModelPreset preset = {.name = "pairs", .family = family};
    if (family == MODEL_GPT2)
        preset.config.gpt2 =
            (Gpt2Config){.vocab = VOCAB, .dim = 24, .layers = 2, .heads = 3, .ffn = 40, .max_seq = 64};
    else
        preset.config.llama = (LlamaConfig){
            .vocab = VOCAB, .dim = 24, .layers = 2, .heads = 6, .kv_heads = 2, .hidden = 40, .max_seq = 64};
    nn_preset_set_attention(&preset, attention);
    nn_preset_set_dropout(&preset, dropout);
    return nn_model(&preset);
}

/* ---- One step -------------------------------------------------------------------------------- */

/* Its loss, and every gradient, copied into the context outside. */
static Tensor *step_of(ModelFamily family, const PairsOptions *o, double *loss, int64_t *labels)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 3});
    Loader *loader = data_pairs(at("samples.jsonl"), o);
    Module *model = model_of(family, ATTENTION_FLASH, 0);
    for (const Batch *b; (b = data_next(loader));)
        tensor_backward(nn_loss(model, b));
    assert_fine();
    *loss = tensor_step_loss();
    *labels = data_step_labels(loader);
    Tensor *all = all_gradients(model);
    int64_t count = tensor_numel(all);
    float *kept = test_malloc((size_t)count * sizeof *kept);
    memcpy(kept, tensor_f32(all), (size_t)count * sizeof *kept);
    leave(v);
    Tensor *copy = copy_of(kept, count);
    test_free(kept);
    return copy;
}

/* However a step's samples are split, its loss is their sum over all of its labels. */
static void test_accumulated(void **state)
{
    (void)state;
    write_samples("samples.jsonl");
    static const ModelFamily families[] = {MODEL_LLAMA, MODEL_GPT2};
    for (size_t f = 0; f < COUNT(families); f++)
        for (int pack = 0; pack < 2; pack++) {
            PairsOptions o = {.batch = 12, .held_out = -1, .vocab = VOCAB, .pack = pack, .seq = 14};
            double whole, parts;
            int64_t labels, same;
            Tensor *expected = step_of(families[f], &o, &whole, &labels);
            assert_true(whole > 1 && labels > 20);
            for (int batch = 1; batch <= 6; batch++) {
                o.batch = batch;
                o.accumulate = 12 / batch;
                if (12 % batch)
                    continue;
                Tensor *got = step_of(families[f], &o, &parts, &same);
                assert_int_equal(same, labels);
                if (fabs(parts - whole) > 1e-6 * whole)
                    fail_msg("batch %d: loss %.9g, not %.9g", batch, parts, whole);
                double apart = difference(tensor_f32(expected), tensor_f32(got), tensor_numel(expected));
                if (!(apart < 2e-5))
                    fail_msg("batch %d: gradients %g apart", batch, apart);
            }
        }
}

/* Of one sample, the loss by itself and in rows that are longer: no place before the padding sees it. */
static void test_padding_is_not_seen(void **state)
{
    (void)state;
    static const char one[] = "{\"ids\": [7, 8, 9, 10], \"labels\": [-100, -100, 9, 10]}\n";
    static const char two[] =
        "{\"ids\": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18], \"labels\": "
        "[-100,-100,-100,-100,-100,-100,-100,-100,-100,-100,-100,-100,-100,-100,-100,-100,-100,18]}\n";
    char text[sizeof one + sizeof two];
    static const ModelFamily families[] = {MODEL_LLAMA, MODEL_GPT2};
    for (size_t f = 0; f < COUNT(families); f++) {
        double alone[2], both;
        int64_t labels;
        PairsOptions o = {.batch = 2, .held_out = -1, .vocab = VOCAB};
        spill(at("samples.jsonl"), one, sizeof one - 1);
        step_of(families[f], &o, &alone[0], &labels);
        assert_int_equal(labels, 2);
        spill(at("samples.jsonl"), two, sizeof two - 1);
        step_of(families[f], &o, &alone[1], &labels);
        assert_int_equal(labels, 1);
        strcat(strcpy(text, one), two);
        spill(at("samples.jsonl"), text, strlen(text));
        step_of(families[f], &o, &both, &labels);
        assert_int_equal(labels, 3);
        if (fabs(both - (2 * alone[0] + alone[1]) / 3) > 1e-6 * both)
            fail_msg("%.9g, and %.9g and %.9g alone", both, alone[0], alone[1]);
    }
}

/* ---- Runs ------------------------------------------------------------------------------------ */

typedef struct PairsCase {
    ModelFamily family;
    AttentionKind attention;
    int pack, seq, batch, accumulate, checkpoint;
    float dropout;
} PairsCase;

static const PairsCase cases[] = {
    {MODEL_LLAMA, ATTENTION_FLASH, 0, 0, 4, 1, 0, 0},    {MODEL_LLAMA, ATTENTION_FLASH, 1, 16, 2, 2, 0, 0},
    {MODEL_LLAMA, ATTENTION_EAGER, 0, 5, 3, 2, 1, 0},    {MODEL_GPT2, ATTENTION_FLASH, 0, 8, 2, 3, 0, 0.1f},
    {MODEL_GPT2, ATTENTION_EAGER, 1, 20, 2, 1, 1, 0.2f}, {MODEL_LLAMA, ATTENTION_FLASH, 1, 0, 64, 1, 0, 0},
};

typedef struct PairsRun {
    const PairsCase *c;
    const PairsLengths *lengths;
    EventRecord *planned, *run;
    const char *from, *to; /* directories of saved runs; NULL = none */
    int64_t steps;
    double loss[STEPS], held_out;
} PairsRun;

static PairsOptions options_of(const PairsRun *r, DataSplit split)
{
    return (PairsOptions){.batch = r->c->batch,
                          .accumulate = split == DATA_TRAIN ? r->c->accumulate : 1,
                          .seq = r->c->seq,
                          .pack = r->c->pack,
                          .seed = 5,
                          .split = split,
                          .held_out = 0.2f,
                          .vocab = VOCAB,
                          .lengths = r->lengths};
}

static int script(void *config)
{
    PairsRun *r = config;
    EventRecord *record = context_is_meta(context_current()) ? r->planned : r->run;
    PairsOptions train = options_of(r, DATA_TRAIN), held = options_of(r, DATA_HELD_OUT);
    if (record)
        record_start(record);
    SavedRun what = {.loader = data_pairs(at("samples.jsonl"), &train), .keep = 100};
    Loader *held_out = data_pairs(at("samples.jsonl"), &held);
    what.model = model_of(r->c->family, r->c->attention, r->c->dropout);
    if (r->c->checkpoint)
        nn_set_checkpoint_every(what.model, 1);
    what.optimizer = error_code() ? NULL : optim_by_name("adamw", nn_parameters(what.model), 0.01f, 0);
    optim_set_clip(what.optimizer, 1);
    if (r->from)
        io_load_run(r->from, &what, NULL);
    for (int64_t step = optim_steps(what.optimizer); step < r->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(what.loader));)
            tensor_backward(nn_loss(what.model, b));
        r->loss[step] = tensor_step_loss();
        brim_step(data_step_tokens(what.loader));
        optim_step(what.optimizer);
        optim_zero_grad(what.optimizer);
        tensor_scope_end(scope);
        if (r->to)
            io_save_run(r->to, &what);
    }
    r->held_out = error_code() ? 0 : case_validate(what.model, held_out);
    return error_code();
}

/* By its plan, from which no event differs. */
static void execute(const char *what, PairsRun *r)
{
    RunOptions options = {.threads = 1, .seed = 3, .quiet = 1};
    Plan plan;
    RunResult result;
    if (plan_script(script, r, &options, &plan))
        fail_msg("%s: %s", what, plan.error);
    if (plan_execute(script, r, &options, &plan, &result))
        fail_msg("%s: %s", what, result.error);
    if (r->planned)
        assert_same_events(what, r->planned, r->run);
    const char *differ = r->planned ? books_differ(&plan.memory, &result.memory) : NULL;
    if (differ || result.segments_off_plan)
        fail_msg("%s: %s, %lld segments off the plan", what, differ ? differ : "-",
                 (long long)result.segments_off_plan);
    plan_free(&plan);
}

static void name_case(char text[64], size_t i)
{
    snprintf(text, 64, "case %zu", i);
}

static void test_plan_is_run(void **state)
{
    (void)state;
    static EventRecord planned, run;
    write_samples("samples.jsonl");
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int known = 0; known < 2; known++) {
            char what[64];
            PairsOptions o = {.vocab = VOCAB};
            PairsLengths *lengths = known ? data_pairs_lengths(at("samples.jsonl"), &o) : NULL;
            PairsRun r = {
                .c = &cases[i], .lengths = lengths, .planned = &planned, .run = &run, .steps = STEPS};
            name_case(what, i);
            execute(what, &r);
            assert_true(isfinite(r.held_out) && r.held_out > 0);
            assert_true(r.loss[STEPS - 1] < r.loss[0]);
            data_pairs_lengths_free(lengths);
        }
}

static void test_resumed(void **state)
{
    (void)state;
    write_samples("samples.jsonl");
    for (size_t i = 0; i < COUNT(cases); i++) {
        char what[64];
        const char *whole = at("whole%zu", i), *parts = at("parts%zu", i);
        PairsRun r = {.c = &cases[i], .to = whole, .steps = STEPS};
        name_case(what, i);
        execute(what, &r);
        for (int cut = 1; cut < STEPS; cut += 3) {
            PairsRun first = {.c = &cases[i], .to = parts, .steps = cut};
            PairsRun second = {.c = &cases[i], .from = parts, .to = parts, .steps = STEPS};
            execute(what, &first);
            execute(what, &second);
            for (int step = 0; step < STEPS; step++)
                if ((step < cut ? first.loss : second.loss)[step] != r.loss[step])
                    fail_msg("%s, cut at %d: another loss at step %d", what, cut, step + 1);
            assert_true(second.held_out == r.held_out);
            assert_true(
                same_saved_run(at("whole%zu/step-%08d", i, STEPS), at("parts%zu/step-%08d", i, STEPS)));
            empty(parts);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_accumulated),
        TEST(test_padding_is_not_seen),
        TEST(test_plan_is_run),
        TEST(test_resumed),
    };
    return cmocka_run_group_tests_name("data_pairs runs", tests, NULL, NULL);
}
