/* Adapters merged into the weights that they stand beside, of any type and into any that floats have; and
 * what is refused. */
#include "adapted_support.h"

static void merged_models_compute_the_same(void **state)
{
    (void)state;
    static const char *const targets[] = {"all", "all", "embed_tokens,lm_head,o_proj", "c_proj,c_attn"};
    static const ModelFamily families[] = {MODEL_MLP, MODEL_BERT, MODEL_LLAMA, MODEL_GPT2};
    for (int i = 0; i < 4; i++) {
        Visit v = visit(&(ContextOptions){.threads = 2});
        Setting s = {.family = families[i]};
        Module *model = adapted(&s, &(Lora){.rank = 3, .targets = targets[i]});
        Batch batch = small_batch(families[i], 0, 0, 3);
        nn_eval(model);
        tensor_no_grad_begin();
        Tensor *before = nn_forward(model, NULL, &batch);
        TensorList list = nn_parameters(model);
        int adapters = nn_lora_count(model), count = list.count;
        uint64_t frozen = books()->live_by[MEM_FROZEN];
        assert_int_equal(nn_merge(model, DTYPE_F32), adapters);
        Tensor *after = nn_forward(model, NULL, &batch);
        tensor_no_grad_end();
        assert_true(difference(tensor_f32(before), tensor_f32(after), tensor_numel(before)) < 1e-5);
        assert_int_equal(nn_parameters(model).count, count - 2 * adapters);
        assert_int_equal(nn_lora_count(model), 0);
        assert_int_equal(nn_lora_parameters(model).count, 0);
        assert_int_equal(books()->live_by[MEM_PARAMETER], 0);
        assert_int_equal(books()->live_by[MEM_FROZEN], frozen);
        assert_int_equal(nn_merge(model, DTYPE_F32), -1);
        assert_error(ERROR_STATE, "nn_merge: ", "no adapter");
        /* And once more. */
        assert_int_equal(nn_add_lora(model, &(Lora){.targets = targets[i]}), adapters);
        leave(v);
    }
}

typedef struct Stored {
    ModelFamily family;
    Weights base;
    DType merged;
    double most; /* difference of logits, of the largest */
} Stored;

/* From any type into f32 exactly but for rounding, into 16 bit with its rounding, where it lies or anew. */
static void merging_into_other_types(void **state)
{
    (void)state;
    static const Stored cases[] = {
        {MODEL_LLAMA, {.dtype = DTYPE_BF16}, DTYPE_BF16, 2e-2},
        {MODEL_LLAMA, {.dtype = DTYPE_F16}, DTYPE_F32, 1e-5},
        {MODEL_LLAMA, {.quantized = DTYPE_NF4}, DTYPE_F32, 1e-5},
        {MODEL_LLAMA, {.dtype = DTYPE_BF16, .quantized = DTYPE_NF4_PLAIN}, DTYPE_F16, 4e-3},
        {MODEL_GPT2, {.dtype = DTYPE_BF16}, DTYPE_F32, 1e-5},
        {MODEL_GPT2, {.dtype = DTYPE_BF16}, DTYPE_BF16, 2e-2},
        {MODEL_GPT2, {.quantized = DTYPE_NF4}, DTYPE_F32, 1e-5},
        {MODEL_GPT2, {.quantized = DTYPE_INT8}, DTYPE_F16, 4e-3},
        {MODEL_BERT, {.quantized = DTYPE_INT8}, DTYPE_F32, 1e-5},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const Stored *c = &cases[i];
        Visit v = visit(&(ContextOptions){.threads = 2});
        nn_set_weights(&c->base);
        Module *model = adapted(&(Setting){.family = c->family}, &(Lora){.rank = 3});
        Batch batch = small_batch(c->family, 0, 0, 3);
        tensor_no_grad_begin();
        Tensor *before = nn_forward(model, NULL, &batch);
        assert_true(nn_merge(model, c->merged) > 0);
        Tensor *after = nn_forward(model, NULL, &batch);
        tensor_no_grad_end();
        double off = difference(tensor_f32(before), tensor_f32(after), tensor_numel(before));
        if (!(off <= c->most && (off > 0 || c->merged == DTYPE_F32)))
            fail_msg("case %zu: logits are off by %g", i, off);
        static const char *const names[] = {"", "bert.encoder.layer.0.intermediate.dense.weight",
                                            "transformer.h.0.mlp.c_fc.weight",
                                            "model.layers.0.mlp.up_proj.weight"};
        Tensor *weight = nn_parameter(model, names[c->family]);
        int in_out = c->family == MODEL_GPT2;
        assert_int_equal(tensor_dtype(weight), c->merged);
        assert_int_equal(tensor_dim(weight, !in_out), 32);
        assert_int_equal(tensor_dim(weight, in_out), 48);
        assert_int_equal(books()->live_by[MEM_PARAMETER], 0);
        assert_fine();
        leave(v);
    }
}

static void merges_that_are_refused(void **state)
{
    (void)state;
    Module *gpt2 = small_model(&(Setting){.family = MODEL_GPT2});
    assert_int_equal(nn_add_lora(gpt2, &(Lora){.targets = "wte,c_attn"}), 3);
    assert_int_equal(nn_merge(gpt2, DTYPE_F32), -1);
    assert_error(ERROR_STATE, "nn_merge: ", "transformer.wte", "head");
    assert_int_equal(nn_lora_count(gpt2), 3);
    static const DType quantised[] = {DTYPE_NF4, DTYPE_NF4_PLAIN, DTYPE_INT8};
    for (size_t i = 0; i < COUNT(quantised); i++) {
        assert_int_equal(nn_merge(gpt2, quantised[i]), -1);
        assert_error(ERROR_ARGUMENT, "nn_merge: ", dtype_name(quantised[i]), "f32, bf16 or f16");
    }
    assert_int_equal(nn_merge(gpt2, DTYPE_I32), -1);
    assert_error(ERROR_ARGUMENT, "nn_merge: ", "i32");
    Module *bert = small_model(&(Setting){.family = MODEL_BERT});
    assert_int_equal(nn_add_lora(bert, &(Lora){.targets = "decoder"}), 1);
    assert_int_equal(nn_merge(bert, DTYPE_F32), -1);
    assert_error(ERROR_STATE, "cls.predictions.decoder");
}

/* An optimizer that outlives the adapters it trained has nothing to update, and frees what it has. */
static void an_optimizer_outlives_the_adapters(void **state)
{
    (void)state;
    Setting s = {.family = MODEL_LLAMA};
    Module *model = adapted(&s, NULL);
    Optimizer *optimizer = optim_adamw(nn_lora_parameters(model), NULL);
    backward_of(model, s.family, &(Micro){{2}});
    optim_step(optimizer);
    assert_true(nn_merge(model, DTYPE_F32) > 0);
    optim_step(optimizer);
    assert_fine();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(merged_models_compute_the_same),
        TEST(merging_into_other_types),
        TEST(merges_that_are_refused),
        TEST(an_optimizer_outlives_the_adapters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
