/* A plan holds on every processor and beside any BLAS: it is the same whichever kernels are chosen, and the
 * run is that plan whichever kernels compute it, with a library for products or without. */
#include <sys/wait.h>
#include <unistd.h>

#include "../kernels/kernels.h"
#include "plan_support.h"

static EventRecord first_events, other_events;
static Session session;

/* The reference is none of these: it packs nothing. */
static const char *const tables[] = {"base", "avx2", "avx512", "avx512-bf16"};

static const Case cases[] = {
    {.family = MODEL_LLAMA, .optimizer = "adamw", .accumulate = 1},
    {.family = MODEL_MLP, .optimizer = "adamw", .accumulate = 1, .lora = "all"},
    {.family = MODEL_LLAMA,
     .optimizer = "adamw",
     .accumulate = 1,
     .lora = "all",
     .dropout = 0.1f,
     .checkpoint = 1,
     .weights = {.dtype = DTYPE_BF16, .quantized = DTYPE_NF4}},
    {.family = MODEL_LLAMA,
     .optimizer = "adamw",
     .accumulate = 3,
     .lora = "q_proj,v_proj,embed_tokens",
     .chunk = 7,
     .weights = {.dtype = DTYPE_F16}},
    {.family = MODEL_GPT2,
     .optimizer = "adamw",
     .accumulate = 1,
     .lora = "all",
     .attention = ATTENTION_EAGER,
     .weights = {.dtype = DTYPE_BF16, .quantized = DTYPE_INT8}},
    {.family = MODEL_BERT,
     .optimizer = "adamw",
     .accumulate = 1,
     .lora = "all",
     .selective = 1,
     .weights = {.quantized = DTYPE_NF4_PLAIN}},
    {.family = MODEL_BERT, .optimizer = "adamw", .accumulate = 3, .skip = 1},
    {.family = MODEL_BERT,
     .optimizer = "adamw",
     .accumulate = 1,
     .lora = "query",
     .skip = 1,
     .chunk = 20,
     .weights = {.dtype = DTYPE_BF16, .quantized = DTYPE_INT8}},
};

static void plan_case(const Case *c, const char *kernels, int threads, EventRecord *events, Plan *plan)
{
    char text[128];
    RunOptions options = {.threads = threads, .seed = 3, .quiet = 1, .kernels = kernels};
    session = (Session){.c = *c, .planned = events};
    session.c.epochs = 1;
    if (plan_script(case_script, &session, &options, plan))
        fail_msg("%s, %s: %s", case_text(c, text), kernels, plan->error);
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static void plans_are_equal(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 5};
    for (size_t i = 0; i < COUNT(cases) * COUNT(threads); i++) {
        char text[128], what[256];
        const Case *c = &cases[i / COUNT(threads)];
        int count = threads[i % COUNT(threads)];
        Plan first, other;
        plan_case(c, tables[0], count, &first_events, &first);
        for (size_t t = 1; t < COUNT(tables); t++) {
            if (!kernels_cpu(tables[t]))
                continue;
            plan_case(c, tables[t], count, &other_events, &other);
            snprintf(what, sizeof what, "%s, %d threads, %s", case_text(c, text), count, tables[t]);
            assert_same_events(what, &first_events, &other_events);
            if (books_differ(&first.memory, &other.memory))
                fail_msg("%s: %s differ", what, books_differ(&first.memory, &other.memory));
            assert_int_equal(first.signatures, other.signatures);
            plan_free(&other);
        }
        plan_free(&first);
    }
}

/* Two steps of QLoRA of a model whose products are cut into many blocks. */
static int large_script(void *config)
{
    ModelPreset preset = *nn_preset("llama-3.2-1b");
    Loader *data = data_text("builtin", &(TextOptions){.batch = 1, .seq = 512, .seed = 1});
    nn_set_weights(config);
    Module *model = nn_model(&preset);
    nn_set_weights(NULL);
    nn_add_lora(model, &(Lora){.rank = 16});
    Optimizer *optimizer = optim_adamw(nn_parameters(model), NULL);
    for (int step = 0; step < 2 && !error_code(); step++) {
        int scope = tensor_scope_begin();
        for (const Batch *b; (b = data_next(data));)
            tensor_backward(nn_loss(model, b));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    return error_code();
}

static void plans_of_large_models(void **state)
{
    (void)state;
    static const Weights weights[] = {
        {.dtype = DTYPE_BF16, .quantized = DTYPE_NF4}, {.quantized = DTYPE_INT8}, {.dtype = DTYPE_F16}};
    for (size_t i = 0; i < COUNT(weights); i++) {
        Plan first, other;
        Weights w = weights[i];
        RunOptions options = {.threads = 7, .quiet = 1, .kernels = tables[0]};
        assert_int_equal(plan_script(large_script, &w, &options, &first), 0);
        assert_true(first.memory.stats.own_peak[MEM_WORKSPACE] > 1 << 20); /* what packs is in the books */
        for (size_t t = 1; t < COUNT(tables); t++) {
            options.kernels = tables[t];
            if (!kernels_cpu(tables[t]))
                continue;
            assert_int_equal(plan_script(large_script, &w, &options, &other), 0);
            if (books_differ(&first.memory, &other.memory))
                fail_msg("%s: %s differ", tables[t], books_differ(&first.memory, &other.memory));
            plan_free(&other);
        }
        plan_free(&first);
    }
}

/* ---- Runs ------------------------------------------------------------------------------------ */

/* Runs, with these kernels, what was planned with others: NULL, or what differs. */
static const char *run_differs(const Case *c, const char *kernels, const Plan *plan)
{
    RunResult result;
    RunOptions options = {.threads = 2, .seed = 3, .quiet = 1, .kernels = kernels};
    session = (Session){.c = *c};
    session.c.epochs = 1;
    if (plan_execute(case_script, &session, &options, plan, &result))
        return "whether it runs";
    return result.segments_off_plan ? "segments" : books_differ(&plan->memory, &result.memory);
}

/* In a process of its own, which looks for a library as BRIM_BLAS says (NULL = not set). */
static void run_in_child(const Case *c, const char *blas, const char *kernels, const Plan *plan)
{
    char text[128];
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        blas ? setenv("BRIM_BLAS", blas, 1) : unsetenv("BRIM_BLAS");
        alarm(120);
        const char *wrong = run_differs(c, kernels, plan);
        if (wrong)
            fprintf(stderr, "%s differ from the plan\n", wrong);
        _exit(wrong != NULL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (status)
        fail_msg("%s, BRIM_BLAS %s, %s kernels: off the plan", case_text(c, text), blas ? blas : "not set",
                 kernels);
}

static void runs_are_the_plan(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Plan plan;
        plan_case(&cases[i], "base", 2, NULL, &plan);
        for (size_t t = 0; t < COUNT(tables); t++)
            if (kernels_cpu(tables[t])) {
                run_in_child(&cases[i], NULL, tables[t], &plan);
                run_in_child(&cases[i], "own", tables[t], &plan);
            }
        plan_free(&plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(plans_are_equal),
                                       cmocka_unit_test(plans_of_large_models),
                                       cmocka_unit_test(runs_are_the_plan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
