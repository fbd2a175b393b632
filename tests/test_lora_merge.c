/* Adapters merged into the weights that they stand beside, of any type and into any that floats have; and
 * what is refused. */
#include "../tensor/ops_.h"
#include "adapted_support.h"

static Tensor *forward_of(Module *model, ModelFamily family)
{
    Batch batch = small_batch(family, 0, 0, 3);
    tensor_no_grad_begin();
    Tensor *y = nn_forward(model, NULL, &batch);
    tensor_no_grad_end();
    assert_fine();
    return y;
}

static void merged_models_compute_the_same(void **state)
{
    (void)state;
    static const char *const targets[] = {"all", "all", "embed_tokens,lm_head,o_proj", "c_proj,c_attn"};
    static const ModelFamily families[] = {MODEL_MLP, MODEL_BERT, MODEL_LLAMA, MODEL_GPT2};
    for (int i = 0; i < 4; i++) {
        Visit v = visit(&(ContextOptions){.threads = 2});
        Setting s = {.family = families[i]};
        Module *model = adapted(&s, &(Lora){.rank = 3, .targets = targets[i]});
        Tensor *before = forward_of(model, families[i]);
        TensorList list = nn_parameters(model);
        int adapters = nn_lora_count(model), count = list.count;
        uint64_t frozen = books()->live_by[MEM_FROZEN];
        assert_int_equal(nn_merge(model, DTYPE_F32), adapters);
        Tensor *after = forward_of(model, families[i]);
        assert_true(difference(tensor_f32(before), tensor_f32(after), tensor_numel(before)) <= 2e-6);
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

/* Of "layer.weight". */
static int has_adapter(Module *model, const char *weight)
{
    char name[160];
    int layer = (int)strlen(weight) - (int)strlen("weight");
    snprintf(name, sizeof name, "%.*slora_A.weight", layer > 0 ? layer : 0, weight);
    return nn_parameter(model, name) != NULL;
}

/* Those that had an adapter are of the type that was asked for and lie as floats do; no other has changed. */
static void compare_merged(Module *model, ModelFamily family, const char *adapts, DType into, Module *exactly,
                           Module *plain)
{
    TensorList list = nn_parameters(model), exact = nn_parameters(exactly), shapes = nn_parameters(plain);
    assert_int_equal(list.count, shapes.count);
    for (int i = 0; i < list.count; i++) {
        Tensor *t = list.items[i];
        int64_t n = tensor_numel(t);
        float *x = test_malloc((size_t)n * sizeof *x), *y = test_malloc((size_t)n * sizeof *y);
        assert_true(shape_equal(tensor_shape(t), tensor_shape(shapes.items[i])));
        assert_int_equal(tensor_dtype(t), adapts[i] ? into : tensor_dtype(exact.items[i]));
        assert_int_equal(t->in_out, adapts[i] && family == MODEL_GPT2);
        assert_false(t->transposed || tensor_requires_grad(t));
        tensor_decode_(t, 0, n, x);
        tensor_decode_(exact.items[i], 0, n, y);
        for (int64_t k = 0; k < n; k++)
            if (x[k] != (adapts[i] ? as_stored(into, y[k]) : y[k]))
                fail_msg("%s merged into %s: [%lld] is %g, of %g", tensor_name(t), dtype_name(into),
                         (long long)k, (double)x[k], (double)y[k]);
        test_free(x);
        test_free(y);
    }
}

/* Into fp32 exactly but for the order of sums, into 16 bit with one rounding of that. */
static void check_merge(ModelFamily family, const Weights *base)
{
    static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    static const double most[] = {2e-6, 2e-2, 3e-3};
    enum { TENSORS = 64 };
    Visit v = visit(&(ContextOptions){.threads = 2});
    const Setting setting = {.family = family};
    nn_set_weights(&(Weights){.frozen = 1});
    Module *plain = small_model(&setting), *exactly = NULL;
    RandomState start = context_current()->random;
    for (int k = 0; k < 3; k++) {
        char adapts[TENSORS] = {0};
        context_current()->random = start;
        nn_set_weights(base);
        Module *model = adapted(&setting, &(Lora){.rank = 3, .alpha = 6});
        nn_set_weights(NULL);
        TensorList list = nn_parameters(plain);
        for (int i = 0; i < list.count && i < TENSORS; i++)
            adapts[i] = (char)has_adapter(model, tensor_name(list.items[i]));
        Tensor *before = forward_of(model, family);
        int adapters = nn_lora_count(model), found = 0;
        for (int i = 0; i < TENSORS; i++)
            found += adapts[i];
        assert_int_equal(found, adapters);
        assert_int_equal(nn_merge(model, types[k]), adapters);
        Tensor *after = forward_of(model, family);
        double apart = difference(tensor_f32(before), tensor_f32(after), tensor_numel(before));
        if (!(apart <= most[k]))
            fail_msg("%s of %s and %s merged into %s: %g apart", nn_family(family)->name,
                     dtype_name(base->dtype), dtype_name(base->quantized), dtype_name(types[k]), apart);
        exactly = exactly ? exactly : model;
        compare_merged(model, family, adapts, types[k], exactly, plain);
        assert_int_equal(books()->live_by[MEM_PARAMETER], 0);
    }
    leave(v);
}

static void merging_into_other_types(void **state)
{
    (void)state;
    static const DType kinds[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16},
                       quantized[] = {DTYPE_F32, DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};
    for (int family = 0; family < FAMILIES; family++)
        for (size_t k = 0; k < COUNT(kinds); k++)
            for (size_t q = 0; q < COUNT(quantized); q++)
                check_merge((ModelFamily)family, &(Weights){.dtype = kinds[k], .quantized = quantized[q]});
}

/* The model computes on, with the adapters that are not merged yet. */
static void merging_without_memory(void **state)
{
    (void)state;
    uint64_t live = books()->live;
    for (int n = 1, passed = 0; !passed; n++) {
        int scope = tensor_scope_begin();
        nn_set_weights(&(Weights){.quantized = DTYPE_INT8});
        Module *model = adapted(&(Setting){.family = MODEL_GPT2}, &(Lora){.rank = 3});
        nn_set_weights(NULL);
        memtrack_fail_nth((uint64_t)n);
        int count = nn_merge(model, DTYPE_BF16);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(count > 0, passed);
        error_clear();
        forward_of(model, MODEL_GPT2);
        tensor_scope_end(scope);
        assert_int_equal(books()->live, live);
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
        TEST(merging_without_memory),
        TEST(merges_that_are_refused),
        TEST(an_optimizer_outlives_the_adapters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
