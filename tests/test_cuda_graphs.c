/* Kernels that come again go to the card as graphs. A run with graphs is the run without them, bit for bit;
 * what changes from step to step reaches the graphs; and a card without memory for graphs trains all the
 * same. */
#include "cuda_support.h"
#include "device/cuda.h"
#include "plan_support.h"

/* ---- Runs -------------------------------------------------------------------------------------- */

enum { STEPS = 9 };

typedef struct Run {
    Case c;
    float clip, factor; /* factor: of the loss; 0 = 1 */
    /* Left behind. */
    double loss[STEPS];
    int skipped[STEPS];
    float parameters[CASE_PARAMETERS];
    int64_t count;
    CudaUse use;
    StandInCounts seen;
} Run;

static void read_parameters(Run *run, Module *model)
{
    TensorList list = nn_parameters(model);
    run->count = 0;
    for (int i = 0; i < list.count; i++) {
        int64_t n = tensor_numel(list.items[i]);
        assert_true(run->count + n <= CASE_PARAMETERS);
        tensor_read(list.items[i], 0, (int64_t)dtype_bytes(tensor_dtype(list.items[i]), 1, n),
                    run->parameters + run->count);
        run->count += n;
    }
}

static int script(void *config)
{
    Run *run = config;
    const Case *c = &run->c;
    case_precision(c);
    Loader *train = case_loader(c, 0);
    Module *model = case_model(c);
    Optimizer *optimizer =
        error_code() ? NULL : optim_by_name(c->optimizer, nn_parameters(model), 0.01f, 0.1f);
    if (error_code())
        return error_code();
    optim_set_schedule(optimizer, &(Schedule){.kind = SCHEDULE_COSINE, .warmup = 3, .total = STEPS});
    if (c->in_backward)
        optim_set_in_backward(optimizer, 1);
    if (run->clip > 0)
        optim_set_clip(optimizer, run->clip);
    if (c->precision && !strncmp(c->precision, "fp16", 4))
        optim_set_loss_scale(optimizer, 0);
    for (int64_t step = 0; step < STEPS && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(train));)
            tensor_backward(tensor_scale(nn_loss(model, b), run->factor > 0 ? run->factor : 1));
        optim_step(optimizer);
        run->loss[step] = tensor_step_loss();
        run->skipped[step] = optim_step_skipped(optimizer);
        optim_zero_grad(optimizer);
        brim_step(data_step_tokens(train));
        tensor_scope_end(scope);
    }
    if (!context_is_meta(context_current()) && !error_code()) {
        read_parameters(run, model);
        run->use = context_device_use(context_current());
        run->seen = stand_in_seen();
    }
    return error_code();
}

static void train(Run *run, int no_graphs)
{
    char name[128];
    RunOptions options = {.threads = 1, .seed = 3, .quiet = 1, .device = "cuda", .no_graphs = no_graphs};
    StandInCounts before = stand_in_seen();
    if (brim_run(script, run, &options))
        fail_msg("%s, %s graphs: %s", case_text(&run->c, name), no_graphs ? "without" : "with",
                 error_message());
    run->seen.graphs -= before.graphs;
}

static Run with, without;

static void check_same(const Run *given)
{
    char name[128];
    uint64_t live = memtrack_process_live();
    with = without = *given;
    train(&with, 0);
    train(&without, 1);
    case_text(&given->c, name);
    for (int step = 0; step < STEPS; step++)
        if (with.loss[step] != without.loss[step] || with.skipped[step] != without.skipped[step])
            fail_msg("%s: step %d has the loss %.9g, without graphs %.9g", name, step + 1, with.loss[step],
                     without.loss[step]);
    assert_int_equal(with.count, without.count);
    if (memcmp(with.parameters, without.parameters, (size_t)with.count * sizeof(float)) != 0)
        fail_msg("%s: parameters differ from those without graphs", name);
    if (with.seen.graphs == 0 || without.seen.graphs != 0)
        fail_msg("%s: %llu graphs went, and with --no-graph %llu", name, with.seen.graphs,
                 without.seen.graphs);
    if (with.use.graphs == 0 || with.use.used - with.use.graphs != without.use.used ||
        without.use.graphs != 0)
        fail_msg("%s: the books have %llu bytes of graphs; the card has %llu in use, and without graphs %llu",
                 name, (unsigned long long)with.use.graphs, (unsigned long long)with.use.used,
                 (unsigned long long)without.use.used);
    assert_int_equal(memtrack_process_live(), live);
}

static void bits_are_the_same(void **state)
{
    (void)state;
    static const Run runs[] = {
        {.c = {.family = MODEL_MLP, .accumulate = 1, .optimizer = "rmsprop"}},
        /* Masks are drawn anew each step, and a step's labels are another number. */
        {.c = {.family = MODEL_BERT, .accumulate = 2, .optimizer = "adamw", .dropout = 0.2f}, .clip = 0.1f},
        {.c = {.family = MODEL_GPT2, .accumulate = 3, .optimizer = "sgd-momentum", .checkpoint = 1}},
        {.c = {.family = MODEL_LLAMA, .accumulate = 1, .optimizer = "adamw", .in_backward = 1, .chunk = 7}},
        {.c = {.family = MODEL_LLAMA, .accumulate = 1, .optimizer = "adamw", .precision = "bf16"}},
        {.c = {.family = MODEL_GPT2, .accumulate = 2, .optimizer = "adamw8bit", .precision = "bf16-mixed"},
         .clip = 1},
        {.c = {.family = MODEL_LLAMA,
               .accumulate = 1,
               .optimizer = "adamw",
               .lora = "q_proj,v_proj",
               .weights = {.quantized = DTYPE_NF4}}},
    };
    for (size_t i = 0; i < COUNT(runs); i++)
        check_same(&runs[i]);
}

/* The scale is far too large: steps are skipped, each with another scale, before one counts. */
static void scales_change_and_steps_are_skipped(void **state)
{
    (void)state;
    check_same(
        &(Run){.c = {.family = MODEL_LLAMA, .accumulate = 1, .optimizer = "adamw", .precision = "fp16-mixed"},
               .factor = 100});
    int skipped = 0;
    for (int step = 0; step < STEPS; step++)
        skipped += with.skipped[step];
    assert_in_range(skipped, 1, STEPS - 1);
}

static void a_full_card_trains_without_them(void **state)
{
    (void)state;
    const Run run = {.c = {.family = MODEL_LLAMA, .accumulate = 2, .optimizer = "adamw"}};
    char memory[64];
    without = with = run;
    train(&without, 1);
    uint64_t left = without.use.used; /* what the run takes: no more is there */
    snprintf(memory, sizeof memory, "%llu", (unsigned long long)(left >> 20));
    setenv("STAND_IN_MEMORY", memory, 1);
    train(&with, 0);
    unsetenv("STAND_IN_MEMORY");
    assert_int_equal(with.seen.graphs, 0);
    assert_int_equal(with.use.graphs, 0);
    assert_memory_equal(with.loss, without.loss, sizeof with.loss);
    assert_memory_equal(with.parameters, without.parameters, (size_t)with.count * sizeof(float));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_the_same),
        cmocka_unit_test(scales_change_and_steps_are_skipped),
        cmocka_unit_test(a_full_card_trains_without_them),
    };
    stand_in_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
