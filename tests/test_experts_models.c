/* Models with experts: which parameters a token passes through, what is refused, the loss that balances them,
 * and adapters beside them. Their kernels are tested by test_kernels_experts.c, their values against
 * transformers. */
#include <math.h>

#include "../nn/lora.h"
#include "../nn/module_.h"
#include "../tensor/ops_.h"
#include "support.h"

static ModelPreset preset_of(ModelFamily family)
{
    return small_preset(&(Setting){.family = family});
}

static void assert_dims(Tensor *tensor, int64_t a, int64_t b, int64_t c)
{
    assert_non_null(tensor);
    assert_int_equal(tensor_dim(tensor, 0), a);
    assert_int_equal(tensor_dim(tensor, 1), b);
    assert_int_equal(tensor_dim(tensor, 2), c);
}

/* ---- Parameters ------------------------------------------------------------------------------ */

static void test_active_parameters(void **state)
{
    (void)state;
    static const struct {
        const char *preset;
        int64_t all, active;
    } published[] = {
        {"mixtral-8x7b", 46702792704, 12879925248},     {"mixtral-8x22b", 140620634112, 39152031744},
        {"qwen3-30b-a3b", 30532122624, 3353032704},     {"qwen3-235b-a22b", 235093634560, 22190763520},
        {"qwen1.5-moe-a2.7b", 14315784192, 2689173504}, {"qwen2-57b-a14b", 57408658944, 14249270784},
        {"llama-3.1-8b", 8030261248, 8030261248},
    };
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
        Module *model = nn_model(nn_preset(published[i].preset));
        assert_int_equal(nn_parameter_count(model), published[i].all);
        assert_int_equal(nn_active_count(model), published[i].active);
        leave(v);
    }
    assert_int_equal(nn_active_count(NULL), 0);
}

static void test_names_and_shapes(void **state)
{
    (void)state;
    ModelPreset preset = preset_of(MODEL_QWEN3_MOE);
    Module *model = nn_model(&preset);
    assert_dims(nn_parameter(model, "model.layers.1.mlp.experts.gate_up_proj"), 6, 40, 32);
    assert_dims(nn_parameter(model, "model.layers.1.mlp.experts.down_proj"), 6, 32, 20);
    assert_dims(nn_parameter(model, "model.layers.1.mlp.gate.weight"), 6, 32, 0);
    /* The first layer is dense. */
    assert_dims(nn_parameter(model, "model.layers.0.mlp.gate_proj.weight"), 48, 32, 0);
    assert_null(nn_parameter(model, "model.layers.0.mlp.gate.weight"));
    assert_string_equal(nn_class_name(nn_block(model, 0)), "qwen3_moe_block");
    preset = preset_of(MODEL_QWEN2_MOE);
    model = nn_model(&preset);
    assert_dims(nn_parameter(model, "model.layers.1.mlp.experts.gate_up_proj"), 5, 32, 32);
    assert_dims(nn_parameter(model, "model.layers.1.mlp.shared_expert.up_proj.weight"), 28, 32, 0);
    assert_dims(nn_parameter(model, "model.layers.1.mlp.shared_expert.down_proj.weight"), 32, 28, 0);
    assert_dims(nn_parameter(model, "model.layers.1.mlp.shared_expert_gate.weight"), 1, 32, 0);
}

/* Of normal(0, 0.02), as transformers draws them. */
static void test_first_values(void **state)
{
    (void)state;
    ModelPreset preset = preset_of(MODEL_MIXTRAL);
    Module *model = nn_model(&preset);
    static const char *const names[] = {"model.layers.0.mlp.experts.gate_up_proj",
                                        "model.layers.0.mlp.experts.down_proj",
                                        "model.layers.1.mlp.gate.weight"};
    for (int i = 0; i < 3; i++) {
        Tensor *t = nn_parameter(model, names[i]);
        double sum = 0, squares = 0;
        int64_t n = tensor_numel(t);
        for (int64_t k = 0; k < n; k++) {
            sum += (double)tensor_f32(t)[k];
            squares += (double)tensor_f32(t)[k] * (double)tensor_f32(t)[k];
        }
        assert_float_equal(sum / (double)n, 0, 0.1 / sqrt((double)n));
        assert_float_equal(sqrt(squares / (double)n), 0.02, 0.08 / sqrt((double)n));
    }
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void refuse(ModelPreset preset, const char *word, const char *other)
{
    assert_null(nn_model(&preset));
    assert_error(ERROR_ARGUMENT, word, other);
}

static void test_refusals(void **state)
{
    (void)state;
    ModelPreset p = preset_of(MODEL_MIXTRAL);
    p.config.llama.experts.count = 0;
    refuse(p, "mixtral", "experts.count");
    p = preset_of(MODEL_MIXTRAL);
    p.config.llama.experts.active = 6;
    refuse(p, "mixtral", "6 of 5 experts");
    p.config.llama.experts.active = 0;
    refuse(p, "mixtral", "experts.active");
    p = preset_of(MODEL_QWEN3_MOE);
    p.config.llama.experts.hidden = -1;
    refuse(p, "qwen3_moe", "experts.hidden");
    p.config.llama.experts = (ExpertsConfig){.count = 6, .active = 3, .shared_hidden = 8};
    refuse(p, "qwen3_moe", "no expert that all tokens share");
    p = preset_of(MODEL_QWEN2_MOE);
    p.config.llama.experts.shared_hidden = -8;
    refuse(p, "qwen2_moe", "experts.shared_hidden");
    p = preset_of(MODEL_LLAMA);
    p.config.llama.experts.count = 4;
    refuse(p, "llama", "has no experts");
}

/* ---- The loss that balances ------------------------------------------------------------------ */

static float loss_of(Module *model, const Batch *batch, float *gradient)
{
    int scope = tensor_scope_begin();
    Tensor *loss = nn_loss(model, batch), *router = nn_parameter(model, "model.layers.1.mlp.gate.weight");
    float value = tensor_item(loss);
    if (gradient) {
        tensor_backward(loss);
        memcpy(gradient, tensor_f32(tensor_grad(router)), (size_t)tensor_numel(router) * sizeof *gradient);
    }
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count; i++)
        tensor_free(tensor_grad(list.items[i]));
    tensor_scope_end(scope);
    return value;
}

/* It is added to the loss and its gradient, in proportion; with checkpoints and a head in chunks too. */
static void test_balance(void **state)
{
    (void)state;
    enum { ROUTER = 5 * 32 };
    float loss[3], gradient[3][ROUTER], again[ROUTER];
    for (int i = 0; i < 3; i++) {
        Visit v = visit(&(ContextOptions){.threads = 1, .seed = 7});
        Batch batch = small_batch(MODEL_MIXTRAL, 0, 0, 2);
        ModelPreset preset = preset_of(MODEL_MIXTRAL);
        preset.config.llama.experts.balance = 0.25f * (float)i;
        Module *model = nn_model(&preset);
        loss[i] = loss_of(model, &batch, gradient[i]);
        /* A second pass begins anew, whether the first had a backward or not. */
        assert_float_equal(loss_of(model, &batch, NULL), loss[i], 0);
        assert_float_equal(loss_of(model, &batch, again), loss[i], 0);
        assert_memory_equal(again, gradient[i], sizeof again);
        for (int b = 0; b < nn_block_count(model); b++)
            nn_set_checkpoint(nn_block(model, b), 1);
        assert_float_equal(loss_of(model, &batch, again), loss[i], 0);
        assert_memory_equal(again, gradient[i], sizeof again);
        nn_set_checkpoint(model, 1);
        assert_float_equal(loss_of(model, &batch, again), loss[i], 0);
        assert_memory_equal(again, gradient[i], sizeof again);
        nn_set_loss_chunk(model, 5);
        assert_float_equal(loss_of(model, &batch, again), loss[i], 1e-5);
        leave(v);
    }
    /* Two tokens of five experts that are evenly used have 2 at least. */
    assert_true(loss[1] - loss[0] > 0.25 * 1.9 && loss[1] - loss[0] < 0.25 * 5);
    assert_float_equal(loss[2] - loss[0], 2 * (loss[1] - loss[0]), 1e-5);
    int differ = 0;
    for (int k = 0; k < ROUTER; k++) {
        differ += gradient[1][k] != gradient[0][k];
        assert_float_equal(gradient[2][k] - gradient[0][k], 2 * (gradient[1][k] - gradient[0][k]), 1e-6);
    }
    assert_true(differ > ROUTER / 2);
}

static void check_gradients(ModelFamily family)
{
    ModelPreset preset = preset_of(family);
    preset.config.llama.experts.active = 1;
    Module *model = nn_model(&preset);
    Batch batch = small_batch(family, 0, 0, 1);
    batch.ids = tensor_reshape(batch.ids, SHAPE(1, SMALL_SEQ));
    tensor_backward(nn_loss(model, &batch));
    assert_int_equal(error_code(), 0);
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count; i++)
        if (!tensor_grad(list.items[i]))
            fail_msg("%s has no gradient", tensor_name(list.items[i]));
}

/* Every expert has a gradient, whoever got tokens, and so has the one that all share. */
static void test_every_expert_has_a_gradient(void **state)
{
    (void)state;
    check_gradients(MODEL_QWEN3_MOE);
    check_gradients(MODEL_QWEN2_MOE);
}

/* ---- The expert that all tokens share -------------------------------------------------------- */

static Module *child_of(Module *module, const char *name)
{
    int i = 0;
    while (i < module->child_count && strcmp(module->children[i]->name, name) != 0)
        i++;
    assert_in_range(i, 0, module->child_count - 1);
    return module->children[i];
}

/* Its part of what a layer computes: sigmoid(gate) times a gated feed-forward of the same weights. */
static void test_shared_expert(void **state)
{
    (void)state;
    ModelPreset preset = preset_of(MODEL_QWEN2_MOE);
    Module *model = nn_model(&preset), *mlp = child_of(nn_block(model, 1), "mlp");
    Module *alone = child_of(mlp, "shared_expert");
    Tensor *down = nn_parameter(model, "model.layers.1.mlp.experts.down_proj");
    Tensor *gate = nn_parameter(model, "model.layers.1.mlp.shared_expert_gate.weight");
    float x[6 * 32];
    fill_values(x, 6 * 32, 3, 1, 0);
    fill_values(tensor_f32(gate), 32, 4, 1, 0);
    tensor_no_grad_begin();
    tensor_fill(down, 0); /* the others give nothing */
    Tensor *in = tensor_new(DTYPE_F32, SHAPE(2, 3, 32), MEM_INPUT);
    tensor_write(in, 0, sizeof x, x);
    const float *y = tensor_f32(nn_forward(mlp, in, NULL)), *part = tensor_f32(nn_forward(alone, in, NULL));
    for (int row = 0; row < 6; row++) {
        double g = 0;
        for (int k = 0; k < 32; k++)
            g += (double)x[row * 32 + k] * (double)tensor_f32(gate)[k];
        for (int k = 0; k < 32; k++)
            assert_float_equal(y[row * 32 + k], (double)part[row * 32 + k] / (1 + exp(-g)), 1e-6);
    }
    tensor_no_grad_end();
}

/* ---- Adapters -------------------------------------------------------------------------------- */

static void test_adapters(void **state)
{
    (void)state;
    ModelPreset preset = preset_of(MODEL_MIXTRAL);
    Module *model = nn_model(&preset);
    assert_int_equal(nn_add_lora(model, &(Lora){.targets = "w1"}), -1);
    assert_error(ERROR_ARGUMENT, "'w1'", "experts and their router take no adapters", "q_proj");
    assert_int_equal(nn_add_lora(model, &(Lora){.targets = "gate"}), -1);
    assert_error(ERROR_ARGUMENT, "'gate'", "take no adapters");
    int64_t active = nn_active_count(model);
    assert_int_equal(nn_add_lora(model, &(Lora){.rank = 2}), 8); /* q, k, v and o of both layers */
    for (int i = 0; i < nn_parameters(model).count; i++) {
        Tensor *t = nn_parameters(model).items[i];
        assert_int_equal(tensor_requires_grad(t), strstr(tensor_name(t), "lora_") != NULL);
    }
    assert_true(nn_active_count(model) > active);
    Batch batch = small_batch(MODEL_MIXTRAL, 0, 0, 2);
    tensor_backward(nn_loss(model, &batch));
    assert_int_equal(error_code(), 0);
    /* The shared expert's layers are linear layers, and so is its gate. */
    preset = preset_of(MODEL_QWEN2_MOE);
    model = nn_model(&preset);
    assert_int_equal(nn_add_lora(model, &(Lora){.rank = 2}), 2 * 8);
    assert_non_null(nn_parameter(model, "model.layers.0.mlp.shared_expert_gate.lora_A.weight"));
    /* In a layer without experts their names are linear layers'. */
    preset = preset_of(MODEL_QWEN3_MOE);
    assert_int_equal(nn_add_lora(nn_model(&preset), &(Lora){.targets = "gate_proj"}), 1);
}

/* ---- Quantised ------------------------------------------------------------------------------- */

static void assert_same_decoded(Tensor *a, int64_t first, Tensor *b)
{
    enum { MOST = 48 * 32 };
    float x[MOST], y[MOST];
    int64_t n = tensor_numel(b);
    assert_in_range(n, 1, MOST);
    tensor_decode_(a, first, n, x);
    tensor_decode_(b, 0, n, y);
    assert_memory_equal(x, y, (size_t)n * sizeof *x);
}

/* Each expert's matrix is quantised as a linear layer's is, whatever the others hold. */
static void check_each_matrix(Tensor *quantized, Tensor *plain, DType dtype)
{
    Shape shape = tensor_shape(plain);
    int64_t n = shape.dim[1] * shape.dim[2];
    assert_int_equal(tensor_dtype(quantized), dtype);
    for (int e = 0; e < shape.dim[0]; e++) {
        Module *linear = nn_linear(shape.dim[2], shape.dim[1], 0);
        Tensor *weight = nn_parameter(linear, "weight");
        tensor_write(weight, 0, n * (int64_t)sizeof(float), tensor_f32(plain) + e * n);
        assert_int_equal(nn_quantize(linear, &(Quantize){.dtype = dtype}), 1);
        assert_same_decoded(quantized, e * n, weight);
        module_free(linear);
    }
}

static void test_quantized(void **state)
{
    (void)state;
    static const DType types[] = {DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};
    static const ModelFamily kinds[] = {MODEL_MIXTRAL, MODEL_QWEN3_MOE, MODEL_QWEN2_MOE};
    static const char *const names[] = {"model.layers.1.mlp.experts.gate_up_proj",
                                        "model.layers.1.mlp.experts.down_proj"};
    for (int i = 0; i < 3; i++) {
        Visit v = visit(&(ContextOptions){.threads = 1, .seed = 3});
        ModelPreset preset = preset_of(kinds[i]);
        Module *plain = nn_model(&preset), *other = nn_model(&preset);
        for (int k = 0; k < 2; k++) {
            Tensor *from = nn_parameter(plain, names[k]);
            for (int64_t e = 0; e < tensor_numel(from); e++) /* another range in every expert */
                tensor_f32(from)[e] *= (float)(1 + e * tensor_dim(from, 0) / tensor_numel(from));
            tensor_write(nn_parameter(other, names[k]), 0, tensor_numel(from) * (int64_t)sizeof(float),
                         tensor_f32(from));
        }
        /* q, k, v, o; two a layer of experts, three of the layer that has none, four of the shared one. */
        int count = kinds[i] == MODEL_QWEN3_MOE ? 5 : kinds[i] == MODEL_QWEN2_MOE ? 12 : 4;
        assert_int_equal(nn_quantize(other, &(Quantize){.dtype = types[i]}), 8 + count);
        assert_int_equal(nn_quantize(other, &(Quantize){.dtype = types[i]}), 0);
        for (int k = 0; k < 2; k++)
            check_each_matrix(nn_parameter(other, names[k]), nn_parameter(plain, names[k]), types[i]);
        assert_int_equal(tensor_dtype(nn_parameter(other, "model.layers.1.mlp.gate.weight")), DTYPE_F32);
        /* Those that are left out by name stay. */
        Module *left = nn_model(&preset);
        nn_quantize(left, &(Quantize){.dtype = types[i], .not_quantized = "experts"});
        assert_int_equal(tensor_dtype(nn_parameter(left, names[0])), DTYPE_F32);
        assert_int_equal(tensor_dtype(nn_parameter(left, "model.layers.1.self_attn.q_proj.weight")),
                         types[i]);
        nn_set_weights(&(Weights){.quantized = types[i]});
        Module *made = nn_model(&preset);
        nn_set_weights(NULL);
        assert_int_equal(tensor_dtype(nn_parameter(made, names[1])), types[i]);
        Batch batch = small_batch(preset.family, 0, 0, 2);
        assert_true(isfinite(tensor_item(nn_loss(made, &batch))));
        assert_int_equal(error_code(), 0);
        leave(v);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_active_parameters), TEST(test_names_and_shapes), TEST(test_first_values),
        TEST(test_refusals),          TEST(test_balance),          TEST(test_every_expert_has_a_gradient),
        TEST(test_adapters),          TEST(test_quantized),        TEST(test_shared_expert),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
