/* Parameters that are stored in 16 bit or quantised, loaded from files of any type and written as floats;
 * what that costs, up to the 8B. */
#include "../nn/lora.h"
#include "../optim/optim.h"
#include "stored_support.h"

/* ---- Loading --------------------------------------------------------------------------------- */

static void check_loading(ModelFamily family, SafetensorsType type, const Weights *weights)
{
    int scope = tensor_scope_begin();
    ModelPreset preset = small_preset(&(Setting){.family = family});
    Module *source = model_of(&preset, 40), *rounded = model_of(&preset, 50);
    assert_int_equal(
        io_save_weights(source, &preset, at("w"), &(WeightsSaving){.type = type, .overwrite = 1}), 0);
    assert_int_equal(io_load_weights(rounded, at("w"), NULL, NULL), 0);
    nn_set_weights(weights);
    Module *typed = nn_model(&preset);
    nn_set_weights(NULL);
    uint64_t live = books()->live, allocations = books()->allocations;
    assert_int_equal(io_load_weights(typed, at("w"), NULL, NULL), 0);
    int same =
        !weights->quantized && type == (weights->dtype == DTYPE_BF16 ? SAFETENSORS_BF16 : SAFETENSORS_F16);
    assert_int_equal(books()->live, live);
    assert_int_equal(books()->allocations == allocations, same); /* the file's own type is copied */
    TensorList x = nn_parameters(rounded), y = nn_parameters(typed);
    for (int i = 0; i < x.count; i++) {
        Tensor *t = y.items[i];
        float *values = t->transposed ? turned(tensor_f32(x.items[i]), tensor_dim(t, 0), tensor_dim(t, 1))
                                      : decoded(x.items[i]);
        assert_encodes(tensor_name(t), t, values);
        test_free(values);
    }
    tensor_scope_end(scope);
}

static void test_loading(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        for (int type = SAFETENSORS_F32; type <= SAFETENSORS_BF16; type++)
            for (size_t k = 1; k < COUNT(kinds); k++)
                check_loading((ModelFamily)family, (SafetensorsType)type,
                              dtype_is_quantized(kinds[k])
                                  ? &(Weights){.dtype = DTYPE_BF16, .quantized = kinds[k]}
                                  : &(Weights){.dtype = kinds[k]});
}

/* A plan that makes a model and loads a file has the events of the run. */
static void test_planned(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_GPT2);
    for (int type = SAFETENSORS_F32; type <= SAFETENSORS_BF16; type++)
        for (size_t k = 0; k < 3 * COUNT(kinds); k++) {
            uint64_t hash[2];
            assert_int_equal(io_save_weights(model_of(&preset, 1), &preset, at("w"),
                                             &(WeightsSaving){.type = (SafetensorsType)type, .overwrite = 1}),
                             0);
            const char *path = at("w");
            for (int meta = 0; meta < 2; meta++) {
                Visit v = visit(&(ContextOptions){.meta = meta, .threads = 1});
                nn_set_weights(
                    &(Weights){.dtype = kinds[k % 3], .quantized = k / 3 > 2 ? kinds[k / 3] : DTYPE_F32});
                Module *model = nn_model(&preset);
                assert_int_equal(io_load_weights(model, path, NULL, NULL), 0);
                hash[meta] = books()->event_hash;
                leave(v);
            }
            assert_int_equal(hash[0], hash[1]);
        }
}

/* New rows of a vocabulary keep what they were drawn as. */
static void test_growing(void **state)
{
    (void)state;
    static const SafetensorsType files[] = {SAFETENSORS_F32, SAFETENSORS_BF16};
    for (int i = 0; i < 2; i++) {
        ModelPreset preset = family(MODEL_LLAMA);
        assert_int_equal(io_save_weights(model_of(&preset, 1), &preset, at("g"),
                                         &(WeightsSaving){.type = files[i], .overwrite = 1}),
                         0);
        Module *rounded = model_of(&preset, 2);
        assert_int_equal(io_load_weights(rounded, at("g"), NULL, NULL), 0);
        preset.config.llama.vocab += 3;
        nn_set_weights(&(Weights){.dtype = DTYPE_BF16});
        Module *typed = nn_model(&preset);
        nn_set_weights(NULL);
        Tensor *table = nn_parameter(typed, "model.embed_tokens.weight");
        float *before = decoded(table);
        assert_int_equal(
            io_load_weights(typed, at("g"), &(WeightsOptions){.grow_vocab = SMALL_VOCAB + 3}, NULL), 0);
        float *after = decoded(table);
        const float *file = tensor_f32(nn_parameter(rounded, "model.embed_tokens.weight"));
        for (int64_t k = 0; k < tensor_numel(table); k++)
            assert_true(after[k] ==
                        (k < SMALL_VOCAB * 32 ? half_from_bf16(half_to_bf16(file[k])) : before[k]));
        test_free(before);
        test_free(after);
    }
}

/* Values are written as floats are, and GPT-2's turned back: a model of f32 that loads them has them. */
static void check_export(ModelFamily family, DType quantized, SafetensorsType type)
{
    int scope = tensor_scope_begin();
    ModelPreset preset = small_preset(&(Setting){.family = family});
    nn_set_weights(&(Weights){.dtype = DTYPE_BF16, .quantized = quantized});
    Module *typed = nn_model(&preset);
    nn_set_weights(NULL);
    assert_int_equal(io_save_weights(typed, &preset, at("x"), &(WeightsSaving){.type = type, .overwrite = 1}),
                     0);
    Module *plain = nn_model(&preset);
    assert_int_equal(io_load_weights(plain, at("x"), NULL, NULL), 0);
    TensorList x = nn_parameters(plain), y = nn_parameters(typed);
    for (int i = 0; i < x.count; i++) {
        int64_t n = tensor_numel(x.items[i]);
        float *a = decoded(x.items[i]), *b = test_malloc((size_t)n * sizeof *b);
        tensor_decode_file_(y.items[i], 0, n, b);
        for (int64_t k = 0; k < n; k++) {
            float expected = type == SAFETENSORS_BF16  ? half_from_bf16(half_to_bf16(b[k]))
                             : type == SAFETENSORS_F16 ? half_from_f16(half_to_f16(b[k]))
                                                       : b[k];
            assert_true(a[k] == expected);
        }
        test_free(a);
        test_free(b);
    }
    tensor_scope_end(scope);
}

static void test_exports(void **state)
{
    (void)state;
    for (int family = 0; family < FAMILIES; family++)
        for (int type = SAFETENSORS_F32; type <= SAFETENSORS_BF16; type++)
            for (size_t q = 2; q < COUNT(kinds); q++)
                check_export((ModelFamily)family, q > 2 ? kinds[q] : DTYPE_F32, (SafetensorsType)type);
}

static void test_loading_fails(void **state)
{
    (void)state;
    ModelPreset preset = family(MODEL_LLAMA);
    Module *source = model_of(&preset, 1);
    tensor_f32(nn_parameter(source, "model.layers.1.mlp.up_proj.weight"))[35] = 1e9f;
    assert_int_equal(save(source, &preset, "m"), 0);
    nn_set_weights(&(Weights){.dtype = DTYPE_F16});
    Module *typed = nn_model(&preset);
    nn_set_weights(NULL);
    assert_int_equal(io_load_weights(typed, at("m"), NULL, NULL), ERROR_NONFINITE);
    assert_error(ERROR_NONFINITE, "f16 cannot hold 1e+09", "element 35", "model.layers.1.mlp.up_proj.weight");
    for (int n = 1, passed = 0; !passed; n++) {
        uint64_t live = books()->live;
        memtrack_fail_nth((uint64_t)n);
        int status = io_load_weights(typed, at("m"), NULL, NULL);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(status, passed ? ERROR_NONFINITE : error_code());
        assert_int_not_equal(status, 0);
        error_clear();
        assert_int_equal(books()->live, live);
    }
}

/* ---- The 8B ---------------------------------------------------------------------------------- */

/* A file of these parameters in bf16, all holes but the header. */
static void sparse_file(const char *path, TensorList list)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    uint64_t length = 0, end = 0;
    for (int pass = 0; pass < 2; pass++) {
        long used = 0;
        end = 0;
        if (pass)
            fwrite(&length, 8, 1, file);
        for (int i = 0; i < list.count; i++) {
            Shape s = tensor_shape(list.items[i]);
            uint64_t bytes = 2 * (uint64_t)shape_numel(s);
            char text[256], dims[64];
            snprintf(dims, sizeof dims, s.ndim == 2 ? "%lld,%lld" : "%lld", (long long)s.dim[0],
                     (long long)s.dim[1]);
            int n = snprintf(text, sizeof text,
                             "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                             i ? ',' : '{', tensor_name(list.items[i]), dims, (unsigned long long)end,
                             (unsigned long long)(end + bytes));
            end += bytes;
            used += n;
            if (pass)
                fwrite(text, 1, (size_t)n, file);
        }
        length = (uint64_t)used + 1;
    }
    fputc('}', file);
    assert_int_equal(ftruncate(fileno(file), (off_t)(8 + length + end)), 0);
    fclose(file);
}

/* Bytes of facts: 3,600,417,664 in NF4, and two a weight of the rest. Blocks are rounded up to 64 bytes. */
static void test_8b(void **state)
{
    (void)state;
    Visit here = visit(&(ContextOptions){.meta = 1, .threads = 2});
    nn_set_weights(&(Weights){.dtype = DTYPE_BF16, .quantized = DTYPE_NF4});
    Module *model = nn_model(nn_preset("llama-3.1-8b"));
    assert_fine();
    uint64_t stored = 0, quantized = 0;
    TensorList list = nn_parameters(model);
    for (int i = 0; i < list.count; i++) {
        uint64_t bytes = shape_bytes(tensor_dtype(list.items[i]), tensor_shape(list.items[i]));
        stored += bytes;
        quantized += tensor_dtype(list.items[i]) == DTYPE_NF4 ? bytes : 0;
    }
    assert_true(quantized == 3600417664 && stored == 5702296448);
    assert_true(books()->live >= stored && books()->live < stored + 64 * (uint64_t)list.count);
    assert_true(books()->live_by[MEM_FROZEN] == books()->live);
    assert_true(books()->needs <= books()->live + (64 << 20));
    sparse_file(at("8b.safetensors"), list);
    assert_int_equal(io_load_weights(model, at("8b.safetensors"), NULL, NULL), 0);
    assert_true(books()->needs <= books()->live + (64 << 20));
    uint64_t frozen = books()->live;
    assert_int_equal(nn_add_lora(model, &(Lora){.rank = 16, .alpha = 32}), 224);
    assert_int_equal(nn_parameter_count(model), 8030261248 + 41943040);
    Optimizer *optimizer = optim_adamw(nn_lora_parameters(model), &(AdamW){.lr = 1e-4f});
    assert_int_equal(books()->live_by[MEM_PARAMETER], 4 * 41943040ull);
    assert_int_equal(books()->live_by[MEM_OPTIMIZER], 8 * 41943040ull);
    assert_int_equal(books()->live, frozen + 12 * 41943040ull);
    assert_true(books()->needs <= books()->live + (64 << 20));
    optimizer_free(optimizer);
    module_free(model);
    leave(here);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_loading),       TEST(test_growing), TEST(test_planned),
        TEST(test_loading_fails), TEST(test_exports), TEST(test_8b),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
