/* The scale of the loss reaches every gradient of every model: a power of two changes exponents alone,
 * whatever is recomputed or computed in pieces. The loss itself is what it was. */
#include "support.h"

#include "../optim/optim.h"

enum { SCALE = 1024, CHUNK = 5, SAMPLES = 3 };

/* The gradients of a step whose loss is scaled, in memory of their own, and the loss. */
static float *gradients_of(const Setting *setting, int chunk, float scale, int64_t *count, double *loss)
{
    Visit v = visit(&(ContextOptions){.threads = 2, .seed = 3});
    int scope = tensor_scope_begin();
    Module *model = small_model(setting);
    if (setting->family != MODEL_MLP) /* which has no such head */
        nn_set_loss_chunk(model, chunk);
    Optimizer *optimizer = optim_sgd(nn_parameters(model), NULL);
    if (scale > 0)
        assert_int_equal(optim_set_loss_scale(optimizer, scale), 0);
    Batch batch = small_batch(setting->family, 0, 0, SAMPLES);
    tensor_backward(nn_loss(model, &batch));
    *loss = tensor_step_loss();
    *count = nn_parameter_count(model);
    float *copy = test_malloc((size_t)*count * sizeof *copy);
    memcpy(copy, tensor_f32(all_gradients(model)), (size_t)*count * sizeof *copy);
    assert_fine();
    tensor_scope_end(scope);
    leave(v);
    return copy;
}

static void check_model(const Setting *setting, int chunk)
{
    int64_t count, again;
    double loss, scaled_loss;
    float *plain = gradients_of(setting, chunk, 0, &count, &loss);
    float *scaled = gradients_of(setting, chunk, SCALE, &again, &scaled_loss);
    assert_true(loss == scaled_loss);
    assert_int_equal(count, again);
    for (int64_t i = 0; i < count; i++)
        if (scaled[i] != SCALE * plain[i])
            fail_msg("%s, chunk %d: gradient %lld is %.9g, not %d x %.9g", setting_text(setting), chunk,
                     (long long)i, (double)scaled[i], SCALE, (double)plain[i]);
    test_free(plain);
    test_free(scaled);
}

static void test_every_gradient(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES * 8; i++) {
        Setting setting = {.dropout = 0.1f,
                           .family = (ModelFamily)(i % FAMILIES),
                           .checkpoint = i / FAMILIES % 2,
                           .attention = i / FAMILIES / 2 % 2 ? ATTENTION_EAGER : ATTENTION_FLASH};
        check_model(&setting, i / FAMILIES / 4 ? CHUNK : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_gradient, fresh_context, leave_context)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
