/* The optimizer inside backward, and gradients kept as zeros: parameters bitwise those of separate steps,
 * memory, and what is refused. */
#include "optim/optim.h"
#include "support.h"
#include "tensor/tensor_.h"

/* ---- Parameters bitwise those of separate steps ---------------------------------------------- */

typedef enum Mode { SEPARATE, FUSED, KEPT } Mode;

typedef struct Run {
    Setting setting;
    const char *optimizer;
    Mode mode;
    int tied, whole, chunk, groups; /* whole: the model is one checkpoint as well */
    int steps, threads;
    double loss;
    uint64_t gradients, peak, largest; /* own peak of gradients, of the whole; the largest parameter */
    uint64_t allocations;
} Run;

static Module *model_of(const Run *run)
{
    ModelPreset preset = small_preset(&run->setting);
    if (run->setting.family == MODEL_LLAMA)
        preset.config.llama.tied = run->tied;
    Module *model = nn_model(&preset);
    for (int i = 0; i < nn_block_count(model); i++)
        nn_set_checkpoint(nn_block(model, i), run->setting.checkpoint);
    nn_set_checkpoint(model, run->whole);
    nn_set_loss_chunk(model, run->chunk);
    return model;
}

static Optimizer *optimizer_of(const Run *run, Module *model)
{
    TensorList list = nn_parameters(model);
    Optimizer *optimizer = optim_by_name(run->optimizer, list, 0.01f, 0.1f);
    if (run->groups)
        optim_set_group(optimizer, (TensorList){list.items + 1, 2}, 0.5f, 0.3f);
    optim_set_schedule(optimizer, &(Schedule){.kind = SCHEDULE_COSINE, .warmup = 2, .total = 5});
    optim_set_in_backward(optimizer, run->mode == FUSED);
    return optimizer;
}

static void train(Run *run, Module *model, Optimizer *optimizer)
{
    for (int step = 0; step < run->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        Batch batch = small_batch(run->setting.family, step, 0, 4);
        Tensor *loss = nn_loss(model, &batch);
        tensor_backward(loss);
        run->loss = tensor_item(loss);
        if (run->mode == FUSED && !error_code())
            assert_int_equal(books()->live_by[MEM_GRADIENT], 0);
        optim_step(optimizer);
        if (run->mode == KEPT)
            optim_zero_grad_keep(optimizer);
        else
            optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
}

/* Parameters after the steps, copied into the context of before. */
static Tensor *parameters_after(Run *run)
{
    Visit v = visit(&(ContextOptions){.threads = run->threads ? run->threads : 1, .seed = 5});
    Module *model = model_of(run);
    Optimizer *optimizer = optimizer_of(run, model);
    train(run, model, optimizer);
    assert_fine();
    assert_int_equal(optim_steps(optimizer), run->steps);
    run->gradients = books()->own_peak[MEM_GRADIENT];
    run->peak = books()->peak;
    run->allocations = books()->allocations;
    Context *here = context_use(v.outside);
    uint64_t live = memtrack_process_live();
    context_use(here);
    TensorList list = nn_parameters(model);
    int64_t n = nn_parameter_count(model), at = 0;
    context_use(v.outside);
    Tensor *all = tensor_new(DTYPE_F32, SHAPE(n), MEM_INPUT);
    for (int i = 0; i < list.count; i++) {
        uint64_t bytes = list.items[i]->storage->block.bytes;
        run->largest = bytes > run->largest ? bytes : run->largest;
        memcpy(tensor_f32(all) + at, storage_f32(list.items[i]->storage),
               (size_t)tensor_numel(list.items[i]) * sizeof(float));
        at += tensor_numel(list.items[i]);
    }
    v.live += memtrack_process_live() - live;
    context_use(here);
    leave(v);
    return all;
}

static const char *run_text(const Run *run)
{
    static char text[160];
    snprintf(text, sizeof text, "%s %s%s%s%s chunk %d", setting_text(&run->setting), run->optimizer,
             run->tied ? " tied" : "", run->whole ? " whole" : "", run->groups ? " groups" : "", run->chunk);
    return text;
}

/* Bitwise; returns the two runs' own peaks of gradients. */
static void compare(Run run, Mode mode)
{
    int scope = tensor_scope_begin();
    run.steps = 5;
    Run other = run;
    other.mode = mode;
    Tensor *expected = parameters_after(&run), *got = parameters_after(&other);
    double apart = difference(tensor_f32(expected), tensor_f32(got), tensor_numel(expected));
    if (apart != 0)
        fail_msg("%s, mode %d: parameters differ by %g", run_text(&run), (int)mode, apart);
    if (run.loss != other.loss)
        fail_msg("%s, mode %d: losses %g and %g", run_text(&run), (int)mode, run.loss, other.loss);
    if (mode == FUSED && (other.gradients > 3 * run.largest || other.gradients >= run.gradients))
        fail_msg("%s: gradients up to %d bytes, of %d", run_text(&run), (int)other.gradients,
                 (int)run.gradients);
    if (mode == FUSED && other.allocations != run.allocations)
        fail_msg("%s: %d allocations, fused %d", run_text(&run), (int)run.allocations,
                 (int)other.allocations);
    if (mode == FUSED && other.peak > run.peak)
        fail_msg("%s: fused, the peak rises from %d to %d", run_text(&run), (int)run.peak, (int)other.peak);
    tensor_scope_end(scope);
}

static void test_equals_separate_steps(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        for (int i = 0; optim_rule_at(i); i++) {
            Run run = {.setting = {.family = (ModelFamily)family,
                                   .checkpoint = i % 2 == 1,
                                   .dropout = i % 3 == 0 ? 0.2f : 0},
                       .optimizer = optim_rule_at(i)->name,
                       .tied = i % 2 == 0,
                       .whole = i % 4 == 2,
                       .groups = i % 3 == 1,
                       .threads = 1 + (int)i % 2};
            compare(run, FUSED);
            run.setting.checkpoint = !run.setting.checkpoint;
            run.whole = !run.whole;
            run.tied = !run.tied;
            compare(run, FUSED);
        }
}

static void test_with_chunks(void **state)
{
    (void)state;
    for (int family = MODEL_BERT; family < FAMILIES; family++)
        for (int i = 0; i < 8; i++)
            compare((Run){.setting = {.family = (ModelFamily)family, .checkpoint = i & 1, .dropout = 0.2f},
                          .optimizer = "adamw",
                          .tied = i >> 1 & 1,
                          .whole = i >> 2 & 1,
                          .chunk = 7},
                    FUSED);
}

/* Freeing adds to nothing, keeping adds to zeros: the same sums, in the same order. */
static void test_kept_zeros_change_nothing(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        for (int i = 0; optim_rule_at(i); i++)
            compare((Run){.setting = {.family = (ModelFamily)family,
                                      .checkpoint = i % 2 == 1,
                                      .dropout = i % 3 == 0 ? 0.2f : 0},
                          .optimizer = optim_rule_at(i)->name,
                          .tied = i % 2 == 0,
                          .chunk = family == MODEL_MLP || i < 3 ? 0 : 5,
                          .threads = 1 + (int)i % 2},
                    KEPT);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Twelve layers alike: with the gradients freed one by one, no more than a few ever live. */
static void test_gradients_never_exist_together(void **state)
{
    (void)state;
    Run run = {
        .setting = {.family = MODEL_LLAMA, .layers = 12, .checkpoint = 1}, .optimizer = "sgd", .steps = 2};
    parameters_after(&run);
    uint64_t all = run.gradients;
    run.mode = FUSED;
    parameters_after(&run);
    assert_int_equal(run.largest, rounded(48 * 32)); /* of the feed-forward matrices */
    assert_true(run.gradients <= 2 * run.largest);
    assert_true(all > 20 * run.gradients);
}

/* Updates come in the middle of backward, at the parameter's place, in the optimizer's name. */
static void test_where(void **state)
{
    (void)state;
    MemTracker *tracker = context_tracker(context_current());
    MemLedger *ledger = context_ledger(context_current());
    Module *model = small_model(&(Setting){.family = MODEL_MLP});
    Optimizer *optimizer = optim_adam(nn_parameters(model), NULL);
    assert_int_equal(optim_set_in_backward(optimizer, 1), 0);
    Batch batch = small_batch(MODEL_MLP, 0, 0, 4);
    Tensor *loss = nn_loss(model, &batch);
    memtrack_log_start(ledger, 0, NULL, NULL);
    assert_int_equal(tensor_backward(loss), 0);
    int freed = 0, born = 0;
    for (size_t i = 0; i < memtrack_log_count(ledger); i++) {
        const MemEvent *e = memtrack_log_event(ledger, i);
        if (e->component != MEM_GRADIENT)
            continue;
        const char *path = memtrack_path_name(tracker, e->where.path);
        assert_int_equal(strncmp(path, "layers.", 7), 0);
        assert_int_equal(path[7], '2' - freed / 2);
        assert_int_equal(e->where.phase,
                         e->kind == MEM_EVENT_FREE ? MEM_PHASE_OPTIMIZER : MEM_PHASE_BACKWARD);
        assert_string_equal(e->where.op, e->kind == MEM_EVENT_FREE ? "adam" : "linear");
        freed += e->kind == MEM_EVENT_FREE;
        born += e->kind == MEM_EVENT_ALLOC;
    }
    memtrack_log_stop(ledger);
    assert_int_equal(freed, 6);
    assert_int_equal(born, 6);
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_FORWARD);
    assert_string_equal(memtrack_path_name(tracker, memtrack_path(tracker)), "");
    memtrack_log_start(ledger, 0, NULL, NULL);
    assert_int_equal(optim_step(optimizer), 0);
    optim_zero_grad(optimizer);
    assert_int_equal(memtrack_log_count(ledger), 0);
    memtrack_log_stop(ledger);
    assert_int_equal(optim_steps(optimizer), 1);
    assert_true(optim_grad_norm(optimizer) == 0);
}

/* Kept zeros live through the forward: the peak of a step rises by what is then there. */
static void test_kept_zeros_cost(void **state)
{
    (void)state;
    Run run = {.setting = {.family = MODEL_LLAMA}, .optimizer = "adamw", .steps = 3};
    parameters_after(&run);
    uint64_t freeing = run.peak, gradients = run.gradients;
    run.mode = KEPT;
    run.steps = 1; /* the first step has none */
    parameters_after(&run);
    assert_int_equal(run.peak, freeing);
    run.steps = 3;
    parameters_after(&run);
    assert_int_equal(run.gradients, gradients);
    assert_true(run.peak > freeing && run.peak <= freeing + gradients);
    Tensor *w = tensor_parameter(SHAPE(33));
    tensor_fill(w, 2);
    Optimizer *optimizer = optim_sgd((TensorList){&w, 1}, &(Sgd){.lr = 1});
    optim_zero_grad_keep(optimizer); /* nothing yet */
    assert_false(tensor_has_grad(w));
    tensor_backward(tensor_sum(w));
    uint64_t live = books()->live_by[MEM_GRADIENT];
    assert_int_equal(live, rounded(33));
    optim_zero_grad_keep(optimizer);
    optim_zero_grad_keep(NULL);
    assert_int_equal(books()->live_by[MEM_GRADIENT], live);
    for (int i = 0; i < 33; i++)
        assert_true(grad_f32(w)[i] == 0);
    tensor_backward(tensor_sum(tensor_scale(w, 3)));
    assert_int_equal(books()->live_by[MEM_GRADIENT], live);
    assert_true(grad_f32(w)[32] == 3);
    optim_zero_grad(optimizer);
    assert_int_equal(books()->live_by[MEM_GRADIENT], 0);
    tensor_free(w);
}

/* A trained input whose gradient a kept tensor shows too: that one's is not zeroed. */
static void test_kept_zeros_spare_others(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(4), 1, 1);
    Optimizer *optimizer = optim_sgd((TensorList){&w, 1}, NULL);
    Tensor *y = tensor_keep(tensor_add(w, values(SHAPE(4), 2, 1)));
    tensor_backward(tensor_sum(y));
    assert_true(grad_f32(w)[1] == 1);
    optim_zero_grad_keep(optimizer);
    assert_true(grad_f32(y)[1] == 1);
    assert_true(!tensor_has_grad(w) || grad_f32(w)[1] == 0);
}

/* ---- What is refused, and who owns what ------------------------------------------------------ */

static void test_refused(void **state)
{
    (void)state;
    Tensor *w[2] = {tensor_parameter(SHAPE(8)), tensor_parameter(SHAPE(8))};
    tensor_fill(w[0], 1);
    tensor_fill(w[1], 1);
    Optimizer *one = optim_sgd((TensorList){w, 2}, &(Sgd){.lr = 0.5f});
    assert_int_equal(optim_set_clip(one, 1), 0);
    assert_int_equal(optim_set_in_backward(one, 1), ERROR_STATE);
    assert_error(ERROR_STATE, "optim_set_in_backward", "norm", "optim_set_clip");
    optim_set_clip(one, 0);
    assert_int_equal(optim_set_in_backward(one, 1), 0);
    assert_int_equal(optim_set_in_backward(one, 7), 0); /* again: nothing changes */
    assert_int_equal(optim_set_clip(one, 1), ERROR_STATE);
    assert_error(ERROR_STATE, "optim_set_clip", "inside backward", "optim_set_in_backward(optimizer, 0)");
    assert_int_equal(optim_set_clip(one, 0), 0);
    optim_zero_grad_keep(one);
    assert_error(ERROR_STATE, "optim_zero_grad_keep", "none to keep", "optim_zero_grad");
    Optimizer *two = optim_sgd((TensorList){w + 1, 1}, NULL);
    assert_int_equal(optim_set_in_backward(two, 1), ERROR_STATE);
    assert_error(ERROR_STATE, "another optimizer in backward");

    tensor_backward(tensor_sum(tensor_mul(w[0], w[1])));
    assert_true(tensor_f32(w[0])[3] == 0.5f && tensor_f32(w[1])[3] == 0.5f);
    uint64_t allocations = books()->allocations;
    Tensor *loss = tensor_sum(w[0]);
    uint64_t forward = books()->allocations;
    assert_int_equal(tensor_backward(loss), ERROR_STATE);
    assert_error(ERROR_STATE, "second backward in one step", "sgd", "2 parameters", "optim_step");
    assert_int_equal(books()->allocations, forward);
    assert_true(forward > allocations);
    assert_true(tensor_f32(w[0])[3] == 0.5f);
    assert_false(tensor_has_grad(w[0]));
    assert_int_equal(context_current()->tape->count, 0);
    assert_int_equal(optim_set_in_backward(one, 0), ERROR_STATE);
    assert_error(ERROR_STATE, "optim_step first");
    assert_int_equal(optim_step(one), 0);
    assert_int_equal(tensor_backward(tensor_sum(w[0])), 0);
    assert_true(tensor_f32(w[0])[3] == 0);
    optim_step(one);
    assert_int_equal(optim_steps(one), 2);

    assert_int_equal(optim_set_in_backward(one, 0), 0);
    tensor_backward(tensor_sum(w[0]));
    tensor_backward(tensor_sum(w[0])); /* accumulates again */
    assert_true(grad_f32(w[0])[3] == 2 && tensor_f32(w[0])[3] == 0);
    assert_int_equal(optim_set_in_backward(NULL, 1), 0);
    tensor_free(w[0]);
    tensor_free(w[1]);
}

static void test_nonfinite_loss_updates_nothing(void **state)
{
    (void)state;
    Tensor *w = tensor_parameter(SHAPE(3));
    tensor_fill(w, 2);
    Optimizer *optimizer = optim_adamw((TensorList){&w, 1}, NULL);
    optim_set_in_backward(optimizer, 1);
    Tensor *huge = tensor_zeros(DTYPE_F32, SHAPE(3), MEM_INPUT);
    tensor_fill(huge, 3e38f);
    assert_int_equal(tensor_backward(tensor_sum(tensor_mul(w, huge))), ERROR_NONFINITE);
    assert_error(ERROR_NONFINITE, "infinite");
    assert_true(tensor_f32(w)[0] == 2);
    assert_int_equal(tensor_backward(tensor_sum(w)), 0); /* nothing was updated, so this is the first */
    assert_true(tensor_f32(w)[0] < 2);
    tensor_free(w);
}

/* A gradient that is not finite stops the updates where it is; the next step is as any other. */
static void test_nonfinite_gradient_stops(void **state)
{
    (void)state;
    Tensor *w[3];
    for (uint32_t i = 0; i < 3; i++) {
        w[i] = leaf(SHAPE(4), i, 1);
        tensor_set_name(w[i], (const char *[]){"a", "b", "c"}[i]);
    }
    Optimizer *optimizer = optim_sgd((TensorList){w, 3}, &(Sgd){.lr = 0.5f});
    optim_set_loss_scale(optimizer, 1024);
    optim_set_in_backward(optimizer, 1);
    float before[3];
    for (int i = 0; i < 3; i++)
        before[i] = tensor_f32(w[i])[2];
    Tensor *large = tensor_zeros(DTYPE_F32, SHAPE(4), MEM_INPUT);
    tensor_fill(large, 1e36f);
    Tensor *zero = tensor_zeros(DTYPE_F32, SHAPE(4), MEM_INPUT);
    tensor_fill(w[1], 0); /* its product is finite, its gradient times the scale is not */
    Tensor *first = tensor_mul(w[0], zero), *second = tensor_mul(w[1], large);
    Tensor *loss = tensor_sum(tensor_add(tensor_add(first, second), w[2]));
    assert_int_equal(tensor_backward(loss), ERROR_NONFINITE);
    assert_error(ERROR_NONFINITE, "tensor_backward", "parameter 1 'b' (4)", "loss scale of 1024",
                 "1 of 3 parameters was already updated, 'c'");
    assert_true(tensor_f32(w[2])[2] == before[2] - 0.5f);
    assert_true(tensor_f32(w[1])[2] == 0 && tensor_f32(w[0])[2] == before[0]);
    optim_zero_grad(optimizer);
    assert_int_equal(tensor_backward(tensor_sum(w[0])), ERROR_STATE); /* the step is not over */
    optim_step(optimizer);
    assert_error(ERROR_STATE, "second backward in one step", "1 of 3 parameters was already updated, 'c'");
    assert_int_equal(optim_steps(optimizer), 0);
    assert_int_equal(tensor_backward(tensor_sum(w[0])), 0);
    assert_int_equal(optim_step(optimizer), 0);
    assert_true(tensor_f32(w[0])[2] == before[0] - 0.5f);
    assert_int_equal(optim_steps(optimizer), 1);
    for (int i = 0; i < 3; i++)
        tensor_free(w[i]);
}

/* Some parameters are one's, some another's, some nobody's; a gradient from before joins the next. */
static void test_several_optimizers(void **state)
{
    (void)state;
    Tensor *w[4];
    for (uint32_t i = 0; i < 4; i++)
        w[i] = leaf(SHAPE(6), i, 1);
    Optimizer *one = optim_sgd((TensorList){w, 1}, &(Sgd){.lr = 1});
    Optimizer *two = optim_sgd((TensorList){w + 1, 1}, &(Sgd){.lr = 2});
    Optimizer *apart = optim_sgd((TensorList){w + 2, 1}, &(Sgd){.lr = 3});
    tensor_backward(tensor_sum(w[0]));
    assert_int_equal(optim_set_in_backward(one, 1) | optim_set_in_backward(two, 1), 0);
    float before[4];
    for (int i = 0; i < 4; i++)
        before[i] = tensor_f32(w[i])[0];
    tensor_backward(tensor_sum(tensor_add(tensor_add(w[0], w[1]), tensor_add(w[2], w[3]))));
    assert_true(tensor_f32(w[0])[0] == before[0] - 2);
    assert_true(tensor_f32(w[1])[0] == before[1] - 2);
    assert_true(tensor_f32(w[2])[0] == before[2] && tensor_f32(w[3])[0] == before[3]);
    assert_true(!tensor_has_grad(w[0]) && !tensor_has_grad(w[1]));
    assert_true(tensor_has_grad(w[2]) && tensor_has_grad(w[3]));
    optim_step(one);
    optim_step(two);
    optim_step(apart);
    assert_true(tensor_f32(w[2])[0] == before[2] - 3);
    optimizer_free(one); /* its hook goes with it */
    assert_non_null(context_current()->gradient_hooks);
    assert_null(context_current()->gradient_hooks->next);
    assert_int_equal(tensor_backward(tensor_sum(tensor_add(w[0], w[1]))), 0);
    assert_true(tensor_has_grad(w[0]) && !tensor_has_grad(w[1]));
    assert_true(tensor_f32(w[1])[0] == before[1] - 2 - 2);
}

/* ---- Failing allocations --------------------------------------------------------------------- */

static void scenario(const Run *like)
{
    Context *context = context_create(&(ContextOptions){.threads = 1});
    if (!context)
        return;
    context_use(context);
    Run run = *like;
    Module *model = model_of(&run);
    Optimizer *optimizer = error_code() ? NULL : optimizer_of(&run, model);
    if (optimizer && !error_code())
        train(&run, model, optimizer);
}

static void sweep(const Run *run)
{
    Context *outside = context_use(NULL);
    uint64_t live = memtrack_process_live();
    int reached = 1, failures = 0;
    for (uint64_t n = 1; reached; n++) {
        memtrack_fail_nth(n);
        scenario(run);
        reached = !memtrack_fail_pending();
        memtrack_fail_nth(0);
        Context *context = context_use(NULL);
        if (context) {
            context_use(context);
            int code = error_code();
            if (code != ERROR_NONE && (!reached || (code != ERROR_HOST_MEMORY && code != ERROR_MEMORY)))
                fail_msg("%s, allocation %d: %s", run_text(run), (int)n, error_message());
            failures += code != ERROR_NONE;
            context_destroy(context_use(NULL));
        }
        if (memtrack_process_live() != live)
            fail_msg("%s, allocation %d: %d bytes stay", run_text(run), (int)n,
                     (int)(memtrack_process_live() - live));
        assert_true(n < 5000);
    }
    assert_true(failures > 100);
    context_use(outside);
}

static void test_failing_allocations(void **state)
{
    (void)state;
    for (int family = MODEL_BERT; family < FAMILIES; family++)
        for (int mode = FUSED; mode <= KEPT; mode++)
            sweep(&(Run){.setting = {.family = (ModelFamily)family, .layers = 1, .checkpoint = 1},
                         .optimizer = "adamw",
                         .tied = 1,
                         .whole = mode == FUSED,
                         .chunk = 7,
                         .mode = (Mode)mode,
                         .steps = 2});
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_equals_separate_steps),
        TEST(test_with_chunks),
        TEST(test_kept_zeros_change_nothing),
        TEST(test_gradients_never_exist_together),
        TEST(test_where),
        TEST(test_kept_zeros_cost),
        TEST(test_kept_zeros_spare_others),
        TEST(test_refused),
        TEST(test_nonfinite_loss_updates_nothing),
        TEST(test_nonfinite_gradient_stops),
        TEST(test_several_optimizers),
        TEST(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
