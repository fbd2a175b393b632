/* Models learn: one batch is learned by heart, with every kind of attention, checkpointed and accumulated,
 * and the memory of a step stays that of the first. */
#include <math.h>

#include "optim/optim.h"
#include "support.h"

typedef struct Run {
    double first, last;
    uint64_t live_after[2], peak_after[2]; /* of the second step and the last */
} Run;

/* Steps over the same batch, as one or as two micro-batches. */
static Run overfit(const Setting *s, int steps, int micros)
{
    Run run = {0};
    Module *model = small_model(s);
    float lr = s->family == MODEL_MLP ? 0.01f : 0.005f;
    Optimizer *optimizer = optim_adamw(nn_parameters(model), &(AdamW){.lr = lr, .weight_decay = -1});
    optim_set_clip(optimizer, 1);
    for (int step = 0; step < steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        double sum = 0;
        int64_t total = small_batch(s->family, 0, 0, 4).labels_counted;
        for (int micro = 0; micro < micros; micro++) {
            Batch batch = small_batch(s->family, 0, micro * 4 / micros, 4 / micros);
            batch.labels_total = total;
            batch.step = step; /* the masks change, the samples do not */
            Tensor *loss = nn_loss(model, &batch);
            tensor_backward(loss);
            sum += tensor_item(loss);
        }
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
        run.first = step ? run.first : sum;
        run.last = sum;
        run.live_after[step > 1] = books()->live;
        run.peak_after[step > 1] = books()->peak;
    }
    if (error_code())
        fail_msg("%s: %s", setting_text(s), error_message());
    return run;
}

static void check(const Setting *s, int steps, int micros)
{
    int scope = tensor_scope_begin();
    Run run = overfit(s, steps, micros);
    double chance = log(s->family == MODEL_MLP ? 10 : SMALL_VOCAB);
    if (fabs(run.first - chance) > 0.4)
        fail_msg("%s: starts at %g, chance is %g", setting_text(s), run.first, chance);
    if (!(run.last < 0.05))
        fail_msg("%s: from %g to %g only", setting_text(s), run.first, run.last);
    assert_int_equal(run.live_after[0], run.live_after[1]);
    assert_int_equal(run.peak_after[0], run.peak_after[1]);
    tensor_scope_end(scope);
}

static void test_overfit(void **state)
{
    (void)state;
    for (ModelFamily f = MODEL_MLP; f <= MODEL_LLAMA; f++)
        check(&(Setting){.family = f}, 150, 1);
}

static void test_overfit_checkpointed_and_accumulated(void **state)
{
    (void)state;
    for (ModelFamily f = MODEL_MLP; f <= MODEL_LLAMA; f++)
        check(&(Setting){.family = f, .checkpoint = 1, .attention = ATTENTION_EAGER}, 150, 2);
}

/* Only the head of a frozen model learns; nothing else moves or has a state. */
static void test_frozen_body(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_LLAMA});
    TensorList list = nn_parameters(model);
    Tensor *head = nn_parameter(model, "lm_head.weight"),
           *body = nn_parameter(model, "model.layers.0.mlp.up_proj.weight");
    for (int i = 0; i < list.count; i++)
        tensor_set_requires_grad(list.items[i], list.items[i] == head);
    Optimizer *optimizer = optim_adamw(list, &(AdamW){.lr = 0.05f});
    assert_int_equal(books()->live_by[MEM_OPTIMIZER], 2 * rounded(SMALL_VOCAB * 32));
    Tensor *head_before = copy_of(tensor_f32(head), tensor_numel(head));
    Tensor *body_before = copy_of(tensor_f32(body), tensor_numel(body));
    double loss[2] = {0};
    for (int step = 0; step < 30; step++) {
        int scope = tensor_scope_begin();
        Batch batch = small_batch(MODEL_LLAMA, 0, 0, 4);
        Tensor *l = nn_loss(model, &batch);
        assert_int_equal(live_at("model.layers.0", MEM_ACTIVATION),
                         0); /* nothing below the head is recorded */
        tensor_backward(l);
        loss[step > 0] = tensor_item(l);
        assert_true(tensor_has_grad(head) && !tensor_has_grad(body));
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    assert_true(loss[1] < 0.8 * loss[0]);
    assert_memory_equal(tensor_f32(body_before), tensor_f32(body),
                        (size_t)tensor_numel(body) * sizeof(float));
    assert_memory_not_equal(tensor_f32(head_before), tensor_f32(head),
                            (size_t)tensor_numel(head) * sizeof(float));
}

/* All but one of the query, key and value projections frozen: attention's other gradients are nobody's. */
static void test_one_projection_learns(void **state)
{
    (void)state;
    static const char *const names[] = {"q_proj", "k_proj", "v_proj"};
    for (int i = 0; i < 6; i++) {
        Setting s = {.family = MODEL_LLAMA, .attention = i % 2 ? ATTENTION_EAGER : ATTENTION_FLASH};
        Batch batch = small_batch(MODEL_LLAMA, 0, 0, 4);
        Module *whole = small_model(&s);
        TensorList list = nn_parameters(whole);
        char name[64];
        snprintf(name, sizeof name, "model.layers.0.self_attn.%s.weight", names[i / 2]);
        Tensor *one = nn_parameter(whole, name);
        tensor_backward(nn_loss(whole, &batch));
        Tensor *expected = copy_of(grad_f32(one), tensor_numel(one));
        for (int k = 0; k < list.count; k++) {
            tensor_drop_grad(list.items[k]);
            tensor_set_requires_grad(list.items[k], list.items[k] == one);
        }
        tensor_backward(nn_loss(whole, &batch));
        assert_true(difference(tensor_f32(expected), grad_f32(one), tensor_numel(one)) < 1e-6);
        for (int k = 0; k < list.count; k++)
            assert_int_equal(tensor_has_grad(list.items[k]), list.items[k] == one);
    }
}

/* The module goes between forward and backward, which says what it misses; its optimizer stays, with nothing
 * to update. */
static void test_optimizer_outlives_its_model(void **state)
{
    (void)state;
    Module *model = small_model(&(Setting){.family = MODEL_MLP});
    Optimizer *optimizer = optim_adamw(nn_parameters(model), NULL);
    optim_set_clip(optimizer, 1);
    Batch batch = small_batch(MODEL_MLP, 0, 0, 4);
    Tensor *loss = nn_loss(model, &batch);
    module_free(model);
    assert_int_equal(books()->live_by[MEM_PARAMETER], 0);
    assert_int_not_equal(tensor_backward(loss), 0);
    assert_error(ERROR_STATE, "linear reads the parameter", "freed after forward");
    assert_int_equal(optim_step(optimizer), 0);
    optim_zero_grad(optimizer);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_overfit),
        TEST(test_overfit_checkpointed_and_accumulated),
        TEST(test_frozen_body),
        TEST(test_optimizer_outlives_its_model),
        TEST(test_one_projection_learns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
