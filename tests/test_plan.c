/* The plan is the run: every event of a training on meta is, byte by byte and in order, an event of the
 * training for real, over models, checkpointing, accumulation, attention, optimizers and threads. */
#include <unistd.h>

#include "plan_cases.h"

static void check_family(ModelFamily family)
{
    int made = 0;
    int attentions = family == MODEL_MLP ? 1 : 2;
    for (int i = 0; i < attentions * 2 * 2 * optimizer_count(); i++) {
        int rest = i / attentions;
        Case c = {.family = family,
                  .attention = i % attentions ? ATTENTION_EAGER : ATTENTION_FLASH,
                  .checkpoint = rest % 2,
                  .accumulate = rest / 2 % 2 ? 3 : 1,
                  .optimizer = optim_rule_at(rest / 4)->name,
                  .dropout = i % 5 == 2 ? 0.1f : 0,
                  .epochs = i % 7 == 3 ? 3 : 2};
        check_case(&c, 1, made++ % 3 == 0);
    }
}

static void mlp_matrix(void **state)
{
    (void)state;
    check_family(MODEL_MLP);
}

static void bert_matrix(void **state)
{
    (void)state;
    check_family(MODEL_BERT);
}

static void gpt2_matrix(void **state)
{
    (void)state;
    check_family(MODEL_GPT2);
}

static void llama_matrix(void **state)
{
    (void)state;
    check_family(MODEL_LLAMA);
}

/* Fused or with kept zeros, chunked, checkpointed, eager: each with each; some in segments, some selective.
 */
static void lever_matrix(void **state)
{
    (void)state;
    for (int i = 0; i < 3 * 2 * 2 * 2 * 4; i++) {
        int gradients = i % 3, rest = i / 3;
        Case c = {.family = (ModelFamily)(rest / 8),
                  .checkpoint = rest & 1,
                  .chunk = rest & 2 ? 7 : 0,
                  .attention = rest & 4 ? ATTENTION_EAGER : ATTENTION_FLASH,
                  .in_backward = gradients == 1,
                  .keep_zeros = gradients == 2,
                  .accumulate = gradients != 1 && i % 5 == 0 ? 3 : 1,
                  .optimizer = optim_rule_at(i % optimizer_count())->name,
                  .dropout = i % 5 == 2 ? 0.1f : 0,
                  .every = i % 7 == 3 ? 2 : 0,
                  .selective = i % 4 == 1};
        check_case(&c, 1 + i % 2, i % 3 == 0);
    }
}

/* Adapters of every layer, of some and of an embedding, with everything that keeps less. */
static void adapters(void **state)
{
    (void)state;
    static const char *const targets[][FAMILIES] = {
        {"all", "all", "all", "all"},
        {"layers.1", "query,dense", "c_attn,wte", "q_proj,v_proj,embed_tokens,lm_head"},
    };
    for (int i = 0; i < 2 * FAMILIES * 2 * 2; i++) {
        int family = i / 2 % FAMILIES, rest = i / (2 * FAMILIES);
        Case c = {.family = (ModelFamily)family,
                  .lora = targets[i % 2][family],
                  .checkpoint = rest & 1,
                  .accumulate = rest & 2 ? 3 : 1,
                  .in_backward = !(rest & 2) && i % 3 == 0,
                  .keep_zeros = i % 3 == 1,
                  .chunk = i % 2 == 0 && i % 5 < 2 ? 7 : 0,
                  .attention = i % 5 == 3 ? ATTENTION_EAGER : ATTENTION_FLASH,
                  .optimizer = optim_rule_at(i % optimizer_count())->name,
                  .dropout = i % 3 == 2 ? 0.1f : 0,
                  .every = i % 7 == 3 ? 2 : 0,
                  .selective = i % 4 == 1,
                  .epochs = 1};
        check_case(&c, 1 + i % 2, i % 3 == 0);
    }
}

/* Adapters beside weights of every type, with everything that keeps less. */
static void stored_weights(void **state)
{
    (void)state;
    static const DType kinds[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16},
                       quantized[] = {DTYPE_F32, DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};
    for (int i = 0; i < FAMILIES * 12 * 2; i++) {
        int rest = i / (FAMILIES * 12) + i;
        Case c = {.family = (ModelFamily)(i % FAMILIES),
                  .lora = "all",
                  .weights = {.dtype = kinds[i / FAMILIES % 3], .quantized = quantized[i / FAMILIES / 3 % 4]},
                  .checkpoint = rest & 1,
                  .accumulate = rest & 2 ? 3 : 1,
                  .in_backward = !(rest & 2) && i % 3 == 0,
                  .chunk = i % 5 < 2 ? 7 : 0,
                  .attention = i % 5 == 3 ? ATTENTION_EAGER : ATTENTION_FLASH,
                  .optimizer = optim_rule_at(i % optimizer_count())->name,
                  .dropout = i % 3 == 2 ? 0.1f : 0,
                  .every = i % 7 == 3 ? 2 : 0,
                  .selective = i / 3 % 4 == 1,
                  .epochs = 1};
        check_case(&c, 1 + i % 2, i % 3 == 0);
    }
}

/* Every convention, of models that are trained whole and of adapters beside weights of every type. */
static void precisions(void **state)
{
    (void)state;
    static const DType kinds[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16},
                       quantized[] = {DTYPE_F32, DTYPE_INT8, DTYPE_NF4};
    for (int i = 0; cpu_precision(i / FAMILIES / 4); i++) {
        const Precision *p = cpu_precision(i / FAMILIES / 4);
        int rest = i / FAMILIES, adapters = rest % 4 == 3;
        Case c = {.family = (ModelFamily)(i % FAMILIES),
                  .precision = p->name,
                  .grad32 = !adapters && p->weights && rest % 4 == 1,
                  .checkpoint = rest % 2,
                  .accumulate = rest % 4 == 1 || i % 5 == 0 ? 3 : 1,
                  .in_backward = rest % 4 == 2 && i % 5 && i % 3 == 0,
                  .keep_zeros = i % 3 == 1,
                  .chunk = i % 5 < 2 ? 7 : 0,
                  .attention = (i / 3 + rest) % 2 ? ATTENTION_EAGER : ATTENTION_FLASH,
                  .optimizer = optim_rule_at((i + rest) % optimizer_count())->name,
                  .dropout = i % 3 == 2 ? 0.1f : 0,
                  .every = i % 7 == 3 ? 2 : 0,
                  .selective = i / 3 % 4 == 1,
                  .epochs = 1};
        if (adapters) {
            c.lora = "all";
            c.weights = (Weights){.dtype = kinds[i % 3], .quantized = quantized[i / 3 % 3], .frozen = 1};
        }
        check_case(&c, 1 + i % 2, i % 3 == 0);
    }
}

/* Which rows have a label is data: what is allocated does not depend on it. */
static void unlabelled_rows_skipped(void **state)
{
    (void)state;
    static const ModelFamily families[] = {MODEL_BERT, MODEL_BERT, MODEL_LLAMA, MODEL_GPT2};
    static const char *const targets[] = {"query", "all", "q_proj", "c_attn"};
    for (int i = 0; i < 32; i++) {
        int rest = i / 4;
        Case c = {.family = families[i % 4],
                  .skip = 1,
                  .chunk = i % 3 == 0   ? 7
                           : i % 3 == 1 ? 20
                                        : 0,
                  .accumulate = rest & 1 ? 3 : 1,
                  .checkpoint = rest >> 1 & 1,
                  .keep_zeros = i % 5 == 1,
                  .in_backward = !(rest & 1) && i % 5 == 2,
                  .optimizer = "adamw",
                  .dropout = i % 5 == 3 ? 0.1f : 0,
                  .selective = i % 7 == 4,
                  .epochs = 1};
        if (rest & 4) {
            c.lora = targets[i % 4];
            c.weights = (Weights){.dtype = i % 4 ? DTYPE_BF16 : DTYPE_F16,
                                  .quantized = i % 3 ? DTYPE_NF4 : DTYPE_F32};
        } else if (!c.in_backward) {
            static const char *const names[] = {"fp32", "bf16-mixed", "bf16", "bf16-autocast", "fp16-mixed"};
            c.precision = names[i % 5];
        }
        check_case(&c, 1 + i % 2, i % 3 == 0);
    }
}

/* Segments, selective recomputation, and both, with a checkpoint of each block in some. */
static void segments_and_selective(void **state)
{
    (void)state;
    for (int i = 0; i < 8 * FAMILIES; i++) {
        Case c = {.family = (ModelFamily)(i / 8),
                  .attention = i & 1 ? ATTENTION_EAGER : ATTENTION_FLASH,
                  .every = i >> 1 & 1 ? 2 : 0,
                  .selective = i >> 2 & 1,
                  .checkpoint = i % 7 == 3,
                  .accumulate = i % 3 ? 1 : 3,
                  .optimizer = "adamw",
                  .dropout = i & 1 ? 0.1f : 0,
                  .epochs = 1,
                  .layers = 3};
        check_case(&c, 1 + i % 2, 0);
    }
}

/* Families that are made of BERT's parts: what differs from it, under everything that keeps less. */
static void encoders(void **state)
{
    (void)state;
    static const ModelFamily families[] = {MODEL_ROBERTA, MODEL_DISTILBERT, MODEL_MODERNBERT};
    static const char *const lora[] = {NULL, "all", NULL, "all"}, *const precisions[] = {"fp32", "bf16",
                                                                                         "bf16-mixed",
                                                                                         "fp16-autocast"};
    for (int i = 0; i < 3 * 4 * 4 * 2; i++) {
        int rest = i / 3, adapted = lora[rest % 4] != NULL;
        Case c = {.family = families[i % 3],
                  .lora = lora[rest % 4],
                  .precision = precisions[rest / 4 % 4],
                  .checkpoint = rest / 16,
                  .attention = (i + rest) % 2 ? ATTENTION_EAGER : ATTENTION_FLASH,
                  .accumulate = i % 4 ? 1 : 3,
                  .in_backward = i % 4 && i % 7 == 1,
                  .chunk = i % 5 < 2 ? 7 : 0,
                  .skip = i % 4 == 2,
                  .optimizer = optim_rule_at(i % optimizer_count())->name,
                  .dropout = i % 3 == 2 ? 0.1f : 0,
                  .every = i % 7 == 3 ? 2 : 0,
                  .selective = i / 3 % 4 == 1,
                  .epochs = 1};
        if (adapted && rest / 4 % 4 == 0)
            c.weights = (Weights){.dtype = DTYPE_BF16, .quantized = rest % 4 == 1 ? DTYPE_NF4 : DTYPE_INT8};
        check_case(&c, 1 + i % 2, i % 3 == 0);
    }
}

static const Case typical[] = {
    {.family = MODEL_MLP, .accumulate = 3, .optimizer = "adam"},
    {.family = MODEL_BERT, .accumulate = 1, .optimizer = "adamw", .dropout = 0.1f},
    {.family = MODEL_GPT2,
     .accumulate = 1,
     .optimizer = "sgd-momentum",
     .checkpoint = 1,
     .attention = ATTENTION_EAGER},
    {.family = MODEL_LLAMA, .accumulate = 3, .optimizer = "adamw", .checkpoint = 1},
    {.family = MODEL_MIXTRAL, .accumulate = 1, .optimizer = "adamw", .balance = 0.1f},
};

/* Workspaces depend on threads, so plans do; each plan is still its run. */
static void threads_are_planned(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(typical); i++)
        for (int threads = 1; threads <= 3; threads++) {
            Case c = typical[i];
            c.epochs = 1;
            check_case(&c, threads, 0);
        }
}

/* The record would show nothing if it did not see what the matrix varies. */
static void the_record_sees_the_levers(void **state)
{
    (void)state;
    Case c = {.family = MODEL_LLAMA, .accumulate = 1, .optimizer = "adamw"};
    check_case(&c, 1, 0);
    int kinds[3] = {0}, phases[MEM_PHASE_COUNT] = {0}, placed = 0, ops = 0;
    for (size_t i = 0; i < run_events.count; i++) {
        const MemEvent *e = &run_events.seen[i].event;
        kinds[e->kind]++;
        phases[e->where.phase]++;
        placed += !strcmp(run_events.seen[i].path, "model.layers.1.mlp");
        ops += same_text(e->where.op, "linear");
    }
    assert_true(kinds[MEM_EVENT_ALLOC] > 0 && kinds[MEM_EVENT_ALLOC] == kinds[MEM_EVENT_FREE]);
    assert_true(kinds[MEM_EVENT_RETAG] > 0 && placed > 0 && ops > 0);
    assert_true(phases[MEM_PHASE_SETUP] && phases[MEM_PHASE_FORWARD] && phases[MEM_PHASE_BACKWARD] &&
                phases[MEM_PHASE_EVALUATE]);
    assert_int_equal(phases[MEM_PHASE_RECOMPUTE], 0);
    c.checkpoint = 1;
    check_case(&c, 1, 0);
    size_t recomputed = 0;
    for (size_t i = 0; i < run_events.count; i++)
        recomputed += run_events.seen[i].event.where.phase == MEM_PHASE_RECOMPUTE;
    assert_true(recomputed > 0);
}

/* What an optimizer keeps is a whole number of arrays a parameter, and nothing else about it differs. */
static void states_are_arrays_of_parameters(void **state)
{
    (void)state;
    Case c = {.family = MODEL_GPT2, .accumulate = 1};
    for (int i = 0; optim_rule_at(i); i++) {
        Plan plan;
        c.optimizer = optim_rule_at(i)->name;
        session = (Session){.c = c};
        assert_int_equal(plan_script(case_script, &session, &(RunOptions){.threads = 1}, &plan), 0);
        const uint64_t *own = plan.memory.stats.own_peak;
        assert_int_equal(own[MEM_OPTIMIZER], (uint64_t)optim_rule_at(i)->states * own[MEM_PARAMETER]);
        assert_int_equal(own[MEM_GRADIENT], own[MEM_PARAMETER]);
        plan_free(&plan);
    }
}

static void planning_twice_is_planning_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(typical); i++) {
        Plan first, second;
        session = (Session){.c = typical[i], .planned = &planned_events};
        assert_int_equal(plan_script(case_script, &session, &(RunOptions){.threads = 2}, &first), 0);
        session.planned = &run_events;
        assert_int_equal(plan_script(case_script, &session, &(RunOptions){.threads = 2}, &second), 0);
        assert_same_events("plan and plan", &planned_events, &run_events);
        assert_null(books_differ(&first.memory, &second.memory));
        assert_true(first.step_flops == second.step_flops);
        assert_int_equal(first.signatures, second.signatures);
        assert_true(first.signatures >= 3); /* set-up, steps, evaluations */
        int64_t segments = 0;
        for (int k = 0; k < first.signatures; k++) {
            assert_int_equal(first.signature[k].hash, second.signature[k].hash);
            assert_int_equal(first.signature[k].count, second.signature[k].count);
            assert_int_equal(first.signature[k].first_step, second.signature[k].first_step);
            segments += first.signature[k].count;
        }
        assert_true(segments > first.steps);
        plan_free(&first);
        plan_free(&second);
    }
}

/* Not only the memory: the numbers too. */
static void equal_runs_are_bitwise_equal(void **state)
{
    (void)state;
    static Session first;
    for (size_t i = 0; i < COUNT(typical); i++)
        for (int threads = 1; threads <= 2; threads++) {
            RunOptions options = {.threads = threads, .seed = 9, .quiet = 1};
            Plan plan;
            RunResult result;
            session = (Session){.c = typical[i]};
            assert_int_equal(plan_script(case_script, &session, &options, &plan), 0);
            assert_int_equal(plan_execute(case_script, &session, &options, &plan, &result), 0);
            first = session;
            options.malloc_blocks = 1; /* other addresses, same numbers */
            assert_int_equal(plan_execute(case_script, &session, &options, &plan, &result), 0);
            assert_true(first.parameter_count > 0 && first.loss > 0 && first.validation_loss > 0);
            assert_int_equal(first.parameter_count, session.parameter_count);
            assert_memory_equal(first.parameters, session.parameters,
                                (size_t)first.parameter_count * sizeof first.parameters[0]);
            assert_true(first.loss == session.loss && first.validation_loss == session.validation_loss);
            options.seed = 10;
            assert_int_equal(plan_execute(case_script, &session, &options, &plan, &result), 0);
            assert_memory_not_equal(first.parameters, session.parameters,
                                    (size_t)first.parameter_count * sizeof first.parameters[0]);
            plan_free(&plan);
        }
}

static int validating_script(void *config)
{
    int validate_first = *(int *)config;
    Module *model = nn_linear(4, 4, 0);
    Optimizer *optimizer = optim_sgd(nn_parameters(model), NULL);
    for (int step = 0; step < 3; step++) {
        int scope = tensor_scope_begin();
        Tensor *x = tensor_zeros(DTYPE_F32, SHAPE(2, 4), MEM_INPUT);
        tensor_fill(x, 1);
        tensor_backward(tensor_sum(nn_forward(model, x, NULL)));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        for (int i = 0; i < 2; i++)
            if (i == validate_first) {
                brim_step(2);
            } else {
                tensor_no_grad_begin();
                nn_forward(model, x, NULL);
                tensor_no_grad_end();
            }
        tensor_scope_end(scope);
    }
    return error_code();
}

/* brim_step speaks of the step that was trained, before its validation and after. */
static void steps_are_told_after_validation(void **state)
{
    (void)state;
    double first[2], last[2];
    for (int validate_first = 0; validate_first < 2; validate_first++) {
        char text[4096] = "";
        FILE *out = tmpfile();
        RunOptions options = {.threads = 1, .seed = 3, .out = out};
        Plan plan;
        RunResult result;
        assert_int_equal(plan_script(validating_script, &validate_first, &options, &plan), 0);
        assert_int_equal(plan_execute(validating_script, &validate_first, &options, &plan, &result), 0);
        plan_free(&plan);
        first[validate_first] = result.loss_first;
        last[validate_first] = result.loss_last;
        rewind(out);
        text[fread(text, 1, sizeof text - 1, out)] = '\0';
        fclose(out);
        assert_non_null(strstr(text, "step    1"));
        assert_null(strstr(text, "step    4"));
    }
    assert_true(first[0] == first[1] && last[0] == last[1] && first[0] != last[0]);
}

typedef struct Timing {
    int validate_first;    /* before brim_step */
    int with_second, none; /* none: the script updates by itself */
} Timing;

static void rest(int milliseconds)
{
    usleep(context_is_meta(context_current()) ? 0 : (useconds_t)(1000 * milliseconds));
}

static void slow_validation(Module *model, Tensor *x)
{
    tensor_no_grad_begin();
    nn_forward(model, x, NULL);
    rest(200);
    tensor_no_grad_end();
}

/* 20 ms of a step before its optimizer, 20 between two optimizers, 200 ms of validation. */
static int timed_script(void *config)
{
    const Timing *t = config;
    Module *model = nn_linear(4, 4, 0), *other = nn_linear(4, 4, 0);
    Optimizer *first = optim_sgd(nn_parameters(model), NULL), *second = optim_sgd(nn_parameters(other), NULL);
    for (int step = 0; step < 4; step++) {
        int scope = tensor_scope_begin();
        Tensor *x = tensor_zeros(DTYPE_F32, SHAPE(2, 4), MEM_INPUT);
        tensor_backward(tensor_sum(nn_forward(model, nn_forward(other, x, NULL), NULL)));
        rest(20);
        if (!t->none)
            optim_step(first);
        if (t->with_second) {
            rest(20);
            optim_step(second);
        }
        optim_zero_grad(first);
        optim_zero_grad(second);
        if (t->validate_first)
            slow_validation(model, x);
        brim_step(2);
        if (!t->validate_first)
            slow_validation(model, x);
        tensor_scope_end(scope);
    }
    return error_code();
}

/* A step's time ends with optim_step; validation is in no step's time, whichever side of brim_step it is on.
 */
static void validation_is_not_timed(void **state)
{
    (void)state;
    static const Timing cases[] = {
        {.validate_first = 0}, {.validate_first = 1}, {.validate_first = 1, .with_second = 1}, {.none = 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Timing timing = cases[i];
        RunOptions options = {.threads = 1, .seed = 3, .quiet = 1};
        Plan plan;
        RunResult result;
        assert_int_equal(plan_script(timed_script, &timing, &options, &plan), 0);
        assert_int_equal(plan_execute(timed_script, &timing, &options, &plan, &result), 0);
        plan_free(&plan);
        assert_true(result.step_seconds > (timing.with_second ? 0.039 : 0.019));
        /* The median of three steps is at most half of their sum, however slow a busy machine makes them. */
        assert_true(result.seconds > 0.8 + 2 * result.step_seconds);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mlp_matrix),
        cmocka_unit_test(bert_matrix),
        cmocka_unit_test(gpt2_matrix),
        cmocka_unit_test(llama_matrix),
        cmocka_unit_test(lever_matrix),
        cmocka_unit_test(adapters),
        cmocka_unit_test(stored_weights),
        cmocka_unit_test(precisions),
        cmocka_unit_test(unlabelled_rows_skipped),
        cmocka_unit_test(segments_and_selective),
        cmocka_unit_test(encoders),
        cmocka_unit_test(threads_are_planned),
        cmocka_unit_test(the_record_sees_the_levers),
        cmocka_unit_test(states_are_arrays_of_parameters),
        cmocka_unit_test(planning_twice_is_planning_once),
        cmocka_unit_test(equal_runs_are_bitwise_equal),
        cmocka_unit_test(steps_are_told_after_validation),
        cmocka_unit_test(validation_is_not_timed),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
