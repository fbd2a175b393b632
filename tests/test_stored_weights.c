/* Parameters that are stored in 16 bit or quantised: which, where, with which values, and computing with
 * them. Values are those that fp32 would have, rounded once. */
#include <math.h>

#include "../optim/optim.h"
#include "stored_support.h"

/* ---- Which parameters ------------------------------------------------------------------------ */

static int ends_in(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcmp(name + n - m, end);
}

static int is_linear(ModelFamily family, const char *name)
{
    static const char *const ends[FAMILIES][8] = {
        [MODEL_MLP] = {"layers.0.weight", "layers.1.weight"},
        [MODEL_BERT] = {"dense.weight", "query.weight", "key.weight", "value.weight"},
        [MODEL_GPT2] = {"c_attn.weight", "c_proj.weight", "c_fc.weight"},
        [MODEL_LLAMA] = {"q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight",
                         "gate_proj.weight", "up_proj.weight", "down_proj.weight"},
    };
    for (int i = 0; i < 8 && ends[family][i]; i++)
        if (ends_in(name, ends[family][i]))
            return 1;
    return 0;
}

static void check_types(ModelFamily family, DType dtype, DType quantized)
{
    int scope = tensor_scope_begin();
    uint64_t bytes = 0;
    assert_int_equal(nn_set_weights(&(Weights){.dtype = dtype, .quantized = quantized, .frozen = 1}), 0);
    TensorList list = nn_parameters(small_model(&(Setting){.family = family}));
    assert_fine();
    for (int i = 0; i < list.count; i++) {
        Tensor *t = list.items[i];
        DType expected = quantized && is_linear(family, tensor_name(t)) ? quantized : dtype;
        if (tensor_dtype(t) != expected)
            fail_msg("%s is %s, not %s", tensor_name(t), dtype_name(tensor_dtype(t)), dtype_name(expected));
        assert_false(tensor_requires_grad(t));
        bytes += (shape_bytes(expected, tensor_shape(t)) + 63) / 64 * 64;
    }
    assert_int_equal(books()->live_by[MEM_FROZEN], bytes);
    assert_int_equal(books()->live, bytes);
    assert_int_equal(nn_set_weights(NULL), 0);
    tensor_scope_end(scope);
}

static void test_types(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        for (size_t dtype = 0; dtype < 3; dtype++) {
            check_types((ModelFamily)family, kinds[dtype], DTYPE_F32);
            for (size_t q = 3; q < COUNT(kinds); q++)
                check_types((ModelFamily)family, kinds[dtype], kinds[q]);
        }
}

static void test_left_out(void **state)
{
    (void)state;
    nn_set_weights(
        &(Weights){.quantized = DTYPE_NF4, .not_quantized = "model.layers.1,q_proj,layers.0.mlp.up"});
    TensorList list = nn_parameters(small_model(&(Setting){.family = MODEL_LLAMA}));
    for (int i = 0; i < list.count; i++) {
        const char *name = tensor_name(list.items[i]);
        int out = !is_linear(MODEL_LLAMA, name) || strstr(name, "layers.1.") || strstr(name, "q_proj");
        assert_int_equal(tensor_dtype(list.items[i]), out ? DTYPE_F32 : DTYPE_NF4);
        assert_int_equal(tensor_requires_grad(list.items[i]), out != 0);
    }
    nn_set_weights(NULL);
}

static void test_refused(void **state)
{
    (void)state;
    assert_int_equal(nn_set_weights(&(Weights){.dtype = DTYPE_INT8}), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "f32, bf16 or f16", "int8");
    assert_int_equal(nn_set_weights(&(Weights){.quantized = DTYPE_BF16}), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "int8, nf4", "bf16");
    nn_set_weights(&(Weights){.dtype = DTYPE_BF16, .quantized = DTYPE_INT8});
    Module *model = small_model(&(Setting){.family = MODEL_GPT2});
    nn_set_weights(NULL);
    tensor_set_requires_grad(nn_parameters(model).items[0], 1);
    assert_error(ERROR_ARGUMENT, "only f32");
    assert_null(optim_adamw(nn_parameters(model), &(AdamW){.lr = 1}));
    assert_error(ERROR_ARGUMENT, "every parameter is frozen");
    Tensor *int8 = tensor_new(DTYPE_INT8, SHAPE(2, 3), MEM_PARAMETER);
    assert_null(optim_adamw((TensorList){&int8, 1}, &(AdamW){.lr = 1}));
    assert_error(ERROR_ARGUMENT, "is not f32, bf16 or f16", "adapters");
    Tensor *x = tensor_zeros(DTYPE_F32, SHAPE(2, 32), MEM_INPUT),
           *w = tensor_new(DTYPE_NF4, SHAPE(32, 8), MEM_FROZEN);
    assert_null(tensor_linear_in_out(x, w, NULL, TENSOR_IDENTITY));
    assert_error(ERROR_ARGUMENT, "(out,in), not (in,out)");
    assert_null(tensor_rms_norm(x, tensor_new(DTYPE_INT8, SHAPE(1, 32), MEM_FROZEN), 1e-5f));
    assert_error(ERROR_ARGUMENT, "weight must be f32, bf16 or f16", "int8");
    assert_null(tensor_embedding(tensor_zeros(DTYPE_I32, SHAPE(2), MEM_INPUT), w));
    assert_error(ERROR_ARGUMENT, "table must be f32, bf16 or f16", "nf4");
    tensor_fill(tensor_new(DTYPE_I32, SHAPE(4), MEM_INPUT), 1);
    assert_error(ERROR_ARGUMENT, "i32");
}

/* ---- Which values ---------------------------------------------------------------------------- */

static void check_values(ModelFamily family, const Weights *weights)
{
    int scope = tensor_scope_begin();
    RandomState start = context_current()->random;
    TensorList plain = nn_parameters(small_model(&(Setting){.family = family}));
    context_current()->random = start;
    nn_set_weights(weights);
    TensorList typed = nn_parameters(small_model(&(Setting){.family = family}));
    nn_set_weights(NULL);
    assert_fine();
    for (int i = 0; i < plain.count; i++) {
        Tensor *t = typed.items[i];
        float *x = t->transposed ? turned(tensor_f32(plain.items[i]), tensor_dim(t, 0), tensor_dim(t, 1))
                                 : decoded(plain.items[i]);
        assert_int_equal(t->transposed, family == MODEL_GPT2 && dtype_is_quantized(tensor_dtype(t)));
        assert_encodes(tensor_name(t), t, x);
        test_free(x);
    }
    tensor_scope_end(scope);
}

static void test_random_values(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        for (size_t k = 1; k < COUNT(kinds); k++)
            check_values((ModelFamily)family, dtype_is_quantized(kinds[k])
                                                  ? &(Weights){.quantized = kinds[k], .frozen = 1}
                                                  : &(Weights){.dtype = kinds[k]});
}

/* Larger than the buffer, in shapes that no piece divides. */
static void test_pieces(void **state)
{
    (void)state;
    Shape shapes[] = {SHAPE(2501, 1001), SHAPE(7, 401111), SHAPE(1100, 2003)};
    for (size_t s = 0; s < COUNT(shapes); s++)
        for (size_t k = 1; k < COUNT(kinds); k++) {
            int scope = tensor_scope_begin();
            RandomState start = context_current()->random;
            Tensor *plain = tensor_new(DTYPE_F32, s < 2 ? shapes[s] : SHAPE(2003, 1100), MEM_BUFFER);
            tensor_fill_normal(plain, 0, 1);
            context_current()->random = start;
            Tensor *t = tensor_new(kinds[k], shapes[s], MEM_BUFFER);
            t->transposed = s == 2;
            memtrack_peak_reset(context_ledger(context_current()));
            uint64_t live = books()->live, scales = 4 * (uint64_t)(tensor_numel(t) + 63) / 64 + 64;
            tensor_fill_normal(t, 0, 1);
            assert_fine();
            assert_true(books()->peak <= live + (8 << 20) + (kinds[k] == DTYPE_NF4 ? scales : 0));
            assert_int_equal(books()->live, live);
            float *x = s == 2 ? turned(tensor_f32(plain), 1100, 2003) : decoded(plain);
            assert_encodes("a large matrix", t, x);
            test_free(x);
            tensor_scope_end(scope);
        }
}

/* ---- What goes wrong ------------------------------------------------------------------------- */

static int source_of(void *user, int64_t first, int64_t count, float *values)
{
    const float *from = user;
    if (!from)
        return error_raise(ERROR_FILE, "the source is gone");
    memcpy(values, from + first, (size_t)count * sizeof *values);
    return 0;
}

static void test_sources_that_fail(void **state)
{
    (void)state;
    float values[96];
    for (size_t k = 0; k < COUNT(kinds); k++) {
        Tensor *t = tensor_new(kinds[k], SHAPE(8, 12), MEM_BUFFER);
        fill_values(values, 96, 3, 1, 0);
        assert_int_equal(tensor_store_(t, source_of, values), 0);
        assert_int_equal(tensor_store_(t, source_of, NULL), ERROR_FILE);
        assert_error(ERROR_FILE, "the source is gone");
        values[77] = kinds[k] == DTYPE_F16 ? 1e6f : kinds[k] == DTYPE_BF16 ? 3.4e38f : INFINITY;
        tensor_set_name(t, "some.weight");
        assert_int_equal(tensor_store_(t, source_of, values), k ? ERROR_NONFINITE : 0);
        if (k)
            assert_error(ERROR_NONFINITE, dtype_name(kinds[k]), "cannot hold", "element 77", "some.weight");
    }
}

static void test_every_allocation_fails(void **state)
{
    (void)state;
    uint64_t live = books()->live;
    int n = 1;
    nn_set_weights(&(Weights){.dtype = DTYPE_F16, .quantized = DTYPE_NF4});
    for (int passed = 0; !passed; n++) {
        int scope = tensor_scope_begin();
        memtrack_fail_nth((uint64_t)n);
        Module *model = small_model(&(Setting){.family = MODEL_BERT, .layers = 1});
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(model != NULL && !error_code(), passed);
        error_clear();
        tensor_scope_end(scope);
        assert_int_equal(books()->live, live);
    }
    nn_set_weights(NULL);
    assert_true(n > 100);
}

/* ---- Computing with them --------------------------------------------------------------------- */

/* A model of f32 with the decoded values of another. */
static void take_values(Module *plain, Module *typed)
{
    TensorList to = nn_parameters(plain), from = nn_parameters(typed);
    for (int i = 0; i < to.count; i++) {
        Tensor *t = from.items[i];
        float *x = decoded(t), *y = t->transposed ? turned(x, tensor_dim(t, 1), tensor_dim(t, 0)) : NULL;
        memcpy(tensor_f32(to.items[i]), y ? y : x, (size_t)tensor_numel(t) * sizeof *x);
        test_free(x);
        test_free(y);
    }
}

static void check_loss(const Setting *setting, const Weights *weights, int chunk)
{
    int scope = tensor_scope_begin();
    nn_set_weights(weights);
    Module *typed = small_model(setting);
    nn_set_weights(NULL);
    Module *plain = small_model(setting);
    take_values(plain, typed);
    Batch batch = small_batch(setting->family, 3, 0, 4);
    tensor_no_grad_begin();
    if (chunk) {
        nn_set_loss_chunk(typed, chunk);
        nn_set_loss_chunk(plain, chunk);
    }
    float a = tensor_item(nn_loss(typed, &batch)), b = tensor_item(nn_loss(plain, &batch));
    tensor_no_grad_end();
    assert_fine();
    if (!(fabsf(a - b) <= 2e-6f * fabsf(b)))
        fail_msg("%s, %s and %s: loss %.9g, of decoded weights %.9g", setting_text(setting),
                 dtype_name(weights->dtype), dtype_name(weights->quantized), (double)a, (double)b);
    tensor_scope_end(scope);
}

static void test_losses(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        for (size_t dtype = 0; dtype < 3; dtype++)
            for (size_t q = 2; q < COUNT(kinds); q++) {
                Weights weights = {
                    .dtype = kinds[dtype], .quantized = q > 2 ? kinds[q] : DTYPE_F32, .frozen = 1};
                Setting setting = {.family = (ModelFamily)family};
                check_loss(&setting, &weights, 0);
                if (family != MODEL_MLP)
                    check_loss(&setting, &weights, 5);
            }
}

/* ---- A model that there is ------------------------------------------------------------------- */

static void check_quantize(ModelFamily family, DType dtype)
{
    int scope = tensor_scope_begin();
    RandomState start = context_current()->random;
    Module *model = small_model(&(Setting){.family = family});
    context_current()->random = start;
    nn_set_weights(&(Weights){.quantized = dtype});
    Module *expected = small_model(&(Setting){.family = family});
    nn_set_weights(NULL);
    int quantized = 0;
    TensorList x = nn_parameters(model), y = nn_parameters(expected);
    for (int i = 0; i < y.count; i++)
        quantized += dtype_is_quantized(tensor_dtype(y.items[i]));
    uint64_t frozen = books()->live_by[MEM_FROZEN], trained = books()->live_by[MEM_PARAMETER];
    assert_int_equal(nn_quantize(model, &(Quantize){.dtype = dtype}), quantized);
    assert_int_equal(nn_quantize(model, &(Quantize){.dtype = dtype}), 0);
    assert_int_equal(books()->live_by[MEM_FROZEN], 2 * frozen);
    assert_true(books()->live_by[MEM_PARAMETER] < trained);
    for (int i = 0; i < x.count; i++) {
        float *a = decoded(x.items[i]), *b = decoded(y.items[i]);
        assert_int_equal(tensor_dtype(x.items[i]), tensor_dtype(y.items[i]));
        assert_true(shape_equal(tensor_shape(x.items[i]), tensor_shape(y.items[i])));
        assert_int_equal(tensor_requires_grad(x.items[i]), tensor_requires_grad(y.items[i]));
        assert_memory_equal(a, b, (size_t)tensor_numel(x.items[i]) * sizeof *a);
        test_free(a);
        test_free(b);
    }
    tensor_scope_end(scope);
}

static void test_quantize(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        for (size_t k = 3; k < COUNT(kinds); k++)
            check_quantize((ModelFamily)family, kinds[k]);
    Module *model = small_model(&(Setting){.family = MODEL_LLAMA});
    assert_int_equal(nn_quantize(model, &(Quantize){.not_quantized = "model.layers.0.mlp, v_proj"}), 3 + 6);
    assert_int_equal(nn_quantize(model, &(Quantize){.dtype = DTYPE_F16}), -1);
    assert_error(ERROR_ARGUMENT, "nn_quantize", "f16");
    for (int n = 1, passed = 0; !passed; n++) { /* what failed is as it was */
        int scope = tensor_scope_begin();
        Module *other = small_model(&(Setting){.family = MODEL_GPT2, .layers = 1});
        uint64_t live = books()->live;
        memtrack_fail_nth((uint64_t)n);
        int count = nn_quantize(other, NULL);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(count, passed ? 4 : -1);
        error_clear();
        assert_true(books()->live <= live);
        Batch batch = small_batch(MODEL_GPT2, 0, 0, 2);
        tensor_no_grad_begin();
        assert_non_null(nn_loss(other, &batch));
        tensor_no_grad_end();
        tensor_scope_end(scope);
    }
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* A gradient goes through frozen weights of each type as through their values in f32. */
static void check_gradient(DType dtype)
{
    int scope = tensor_scope_begin();
    Tensor *w = tensor_new(dtype, SHAPE(70, 50), MEM_FROZEN),
           *plain = tensor_new(DTYPE_F32, SHAPE(70, 50), MEM_FROZEN);
    Tensor *b = tensor_new(dtype_is_quantized(dtype) ? DTYPE_BF16 : dtype, SHAPE(70), MEM_FROZEN);
    Tensor *g = tensor_new(DTYPE_BF16, SHAPE(50), MEM_FROZEN), *x[2];
    tensor_fill_normal(w, 0, 1);
    tensor_fill_normal(b, 0, 1);
    tensor_fill_normal(g, 1, 0.1f);
    tensor_decode_(w, 0, 3500, tensor_f32(plain));
    for (int i = 0; i < 2; i++) {
        x[i] = leaf(SHAPE(9, 50), 7, 1);
        Tensor *y = tensor_linear(tensor_layer_norm(x[i], g, NULL, 1e-5f), i ? plain : w, b, TENSOR_GELU);
        tensor_backward(tensor_sum(tensor_mul(y, y)));
        assert_fine();
    }
    assert_true(difference(grad_f32(x[0]), grad_f32(x[1]), 450) < 2e-6);
    tensor_scope_end(scope);
}

static void test_gradients(void **state)
{
    (void)state;
    for (size_t k = 0; k < COUNT(kinds); k++)
        check_gradient(kinds[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_types),
        TEST(test_left_out),
        TEST(test_refused),
        TEST(test_random_values),
        TEST(test_pieces),
        TEST(test_sources_that_fail),
        TEST(test_every_allocation_fails),
        TEST(test_losses),
        TEST(test_quantize),
        TEST(test_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
