/* The cache of keys and values: logits through it are those of the whole sequence however it is cut, its
 * bytes are what the formula says, and what does not fit is refused. */
#include "generate_support.h"

/* ---- Equal to the whole sequence ------------------------------------------------------------- */

static void assert_rows_near(const char *what, const float *all, int B, int from, int count, Tensor *some,
                             double tolerance)
{
    const float *rows = tensor_f32(some);
    assert_non_null(rows);
    for (int b = 0; b < B; b++) {
        double apart = difference(all + ((int64_t)b * LENGTH + from) * VOCAB,
                                  rows + (int64_t)b * count * VOCAB, (int64_t)count * VOCAB);
        if (!(apart < tolerance))
            fail_msg("%s: tokens %d to %d of sequence %d are %g apart", what, from, from + count - 1, b,
                     apart);
    }
}

static void assert_rows(const char *what, const float *all, int B, int from, int count, Tensor *some)
{
    assert_rows_near(what, all, B, from, count, some, 2e-5);
}

/* The first `split` tokens at once, the rest one by one; then again in two pieces. */
static void check_split(const char *what, Module *model, const float *all, int B, int split)
{
    int scope = tensor_scope_begin();
    KvCache *cache = nn_kv_cache(model, B, LENGTH);
    Batch batch = some_ids(B, 0, split);
    assert_rows(what, all, B, 0, split, nn_forward_cached(model, &batch, cache));
    for (int t = split; t < LENGTH; t++) {
        batch = some_ids(B, t, 1);
        assert_rows(what, all, B, t, 1, nn_forward_cached(model, &batch, cache));
        assert_int_equal(nn_kv_cache_tokens(cache), t + 1);
    }
    nn_kv_cache_truncate(cache, split);
    if (split < LENGTH) {
        batch = some_ids(B, split, LENGTH - split);
        assert_rows(what, all, B, split, LENGTH - split, nn_forward_cached(model, &batch, cache));
    }
    nn_kv_cache_truncate(cache, 0);
    batch = some_ids(B, 0, split);
    Tensor *next = nn_forward_next(model, &batch, cache);
    assert_int_equal(tensor_shape(next).ndim, 2);
    assert_rows(what, all, B, split - 1, 1, next);
    assert_fine();
    tensor_scope_end(scope);
}

static void check_equal(const char *kernels, int threads)
{
    for (int m = 0; m < MODELS; m++) {
        Visit v = visit(&(ContextOptions){.threads = threads, .seed = 4, .kernels = kernels});
        Module *model = made_model(m);
        tensor_no_grad_begin();
        for (int B = 1; B <= 3; B += 2) {
            Batch batch = some_ids(B, 0, LENGTH);
            const float *all = tensor_f32(nn_forward(model, NULL, &batch));
            for (int split = 1; split <= LENGTH; split++)
                check_split(model_names[m], model, all, B, split);
        }
        tensor_no_grad_end();
        leave(v);
    }
}

static void test_equal_to_the_whole(void **state)
{
    (void)state;
    check_equal(NULL, 1);
    check_equal(NULL, 3);
    check_equal("reference", 1);
    check_equal("base", 5);
}

/* ---- Bytes ----------------------------------------------------------------------------------- */

static void test_bytes(void **state)
{
    (void)state;
    Module *model = nn_llama(&(LlamaConfig){
        .vocab = 3000, .dim = 96, .layers = 3, .heads = 6, .kv_heads = 2, .hidden = 40, .max_seq = 100});
    LlamaShape shape = {.layers = 3, .dim = 96, .heads = 6, .kv_heads = 2};
    tensor_no_grad_begin();
    uint64_t before = books()->live;
    int64_t allocations = (int64_t)books()->allocations;
    KvCache *cache = nn_kv_cache(model, 2, 37);
    int64_t formula =
        2 * estimate_kv_cache_bytes(&shape, 37, sizeof(float)); /* a multiple of 64: no rounding */
    assert_int_equal(nn_kv_cache_bytes(cache), formula);
    assert_int_equal(books()->live_by[MEM_KV_CACHE], formula);
    assert_int_equal(books()->live - before, formula);
    assert_int_equal((int64_t)books()->allocations - allocations, 3); /* one a layer */
    assert_int_equal(live_at("model.layers.1.self_attn", MEM_KV_CACHE), formula / 3);
    assert_int_equal(nn_kv_cache_max_tokens(cache), 37);

    /* Of a prompt the logits of one position exist, not of all. */
    Batch batch = {.ids = integers(SHAPE(2, 30), 3, 3000)};
    memtrack_peak_reset(context_ledger(context_current()));
    before = books()->live;
    int scope = tensor_scope_begin();
    Tensor *logits = nn_forward_next(model, &batch, cache);
    assert_int_equal(tensor_dim(logits, 0), 2);
    assert_int_equal(tensor_dim(logits, 1), 3000);
    assert_int_equal(books()->live - before, rounded(2 * 3000));
    assert_true(books()->peak - before < rounded(2 * 30 * 3000));
    tensor_scope_end(scope);
    nn_kv_cache_free(cache);
    assert_int_equal(books()->live_by[MEM_KV_CACHE], 0);

    /* Rounded up by layer where it has to be. */
    cache = nn_kv_cache(model, 1, 1);
    assert_int_equal(nn_kv_cache_bytes(cache), 3 * rounded(2 * 2 * 16));
    scope = tensor_scope_begin();
    nn_kv_cache(model, 1, 3); /* goes with its scope */
    tensor_scope_end(scope);
    assert_int_equal(books()->live_by[MEM_KV_CACHE], nn_kv_cache_bytes(cache));
    tensor_no_grad_end();
}

/* ---- 16 bit ---------------------------------------------------------------------------------- */

/* Half the bytes; logits are off by the rounding of keys and values. However the text is cut they are the
 * same, but for the few keys and values that lie between two numbers of the type. */
static void check_16_bit(Module *model, const float *all, DType dtype, double tolerance)
{
    int scope = tensor_scope_begin();
    KvCacheOptions options = {.batch = 2, .max_tokens = LENGTH, .dtype = dtype};
    KvCache *whole = nn_kv_cache_of(model, &options), *single = nn_kv_cache_of(model, &options);
    KvCache *floats = nn_kv_cache(model, 2, LENGTH);
    uint64_t twice = 2 * nn_kv_cache_bytes(whole), bytes = nn_kv_cache_bytes(floats);
    assert_true(twice >= bytes && twice < bytes + 2 * 64 * 8); /* each layer is rounded up */
    Batch batch = some_ids(2, 0, LENGTH);
    const float *rows = tensor_f32(nn_forward_cached(model, &batch, whole));
    double apart = difference(all, rows, (int64_t)2 * LENGTH * VOCAB);
    if (!(apart < tolerance && apart > 1e-6))
        fail_msg("%s: %g apart", dtype_name(dtype), apart);
    for (int t = 0; t < LENGTH; t++) {
        batch = some_ids(2, t, 1);
        Tensor *row = nn_forward_cached(model, &batch, single);
        assert_rows_near(dtype_name(dtype), rows, 2, t, 1, row, tolerance / 10);
    }
    tensor_scope_end(scope);
}

static void test_16_bit(void **state)
{
    (void)state;
    static const char *const tables[] = {NULL, "reference"};
    for (int i = 0; i < 2; i++)
        for (int m = 0; m < MODELS; m++) {
            Visit v = visit(&(ContextOptions){.threads = 3, .seed = 4, .kernels = tables[i]});
            Module *model = made_model(m);
            tensor_no_grad_begin();
            Batch batch = some_ids(2, 0, LENGTH);
            const float *all = tensor_f32(nn_forward(model, NULL, &batch));
            check_16_bit(model, all, DTYPE_BF16, 2e-2);
            check_16_bit(model, all, DTYPE_F16, 3e-3);
            assert_null(nn_kv_cache_of(model, &(KvCacheOptions){1, 1, DTYPE_NF4}));
            assert_error(ERROR_ARGUMENT, "f32, bf16 or f16", "nf4");
            tensor_no_grad_end();
            leave(v);
        }
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    (void)state;
    Module *model = made_model(0), *other = made_model(3);
    Batch one = some_ids(1, 0, 1), four = some_ids(1, 0, 4), two_rows = some_ids(2, 0, 1);
    tensor_no_grad_begin();
    KvCache *cache = nn_kv_cache(model, 1, 5);
    assert_non_null(nn_forward_cached(model, &four, cache));
    assert_null(nn_forward_cached(model, &four, cache));
    assert_error(ERROR_ARGUMENT, "4 more tokens after 4", "max_tokens is 5");
    assert_int_equal(nn_kv_cache_tokens(cache), 4);
    assert_non_null(nn_forward_next(model, &one, cache)); /* the fifth */
    assert_null(nn_forward_next(model, &one, cache));
    assert_error(ERROR_ARGUMENT, "1 more token after 5", "max_tokens is 5");
    nn_kv_cache_truncate(cache, 6);
    assert_error(ERROR_ARGUMENT, "to 6 tokens", "holds 5");
    nn_kv_cache_truncate(cache, 0);
    assert_null(nn_forward_cached(other, &one, cache));
    assert_error(ERROR_ARGUMENT, "another model");
    assert_null(nn_forward_cached(model, &two_rows, cache));
    assert_error(ERROR_SHAPE, "(2,1)", "(1,T)");
    assert_null(nn_forward_cached(model, &(Batch){0}, cache));
    assert_error(ERROR_SHAPE, "ids");
    assert_null(nn_kv_cache(model, 0, 4));
    assert_error(ERROR_ARGUMENT, "batch of 0");
    assert_null(nn_kv_cache(model, 1, 0));
    assert_error(ERROR_ARGUMENT, "max_tokens of 0");
    assert_null(nn_kv_cache(small_model(&(Setting){.family = MODEL_BERT}), 1, 4));
    assert_error(ERROR_ARGUMENT, "looks ahead");
    assert_null(nn_kv_cache(small_model(&(Setting){.family = MODEL_MLP}), 1, 4));
    assert_error(ERROR_ARGUMENT, "no nn_attention");
    /* More positions than the model has: the model says so, and the cache is as before. */
    for (int m = 0; m < MODELS; m += 3) {
        Module *positions = m ? other : model;
        KvCache *longer = nn_kv_cache(positions, 1, 24);
        for (int i = 0; i < 5; i++)
            assert_non_null(nn_forward_cached(positions, &four, longer));
        assert_null(nn_forward_cached(positions, &one, longer));
        assert_error(ERROR_SHAPE, "sequence of 21", "20");
        assert_int_equal(nn_kv_cache_tokens(longer), 20);
    }
    tensor_no_grad_end();
    assert_null(nn_forward_cached(model, &one, cache));
    assert_error(ERROR_STATE, "tensor_no_grad_begin");
    Batch sneaked = one;
    sneaked.cache = cache;
    assert_null(nn_forward(model, NULL, &sneaked));
    assert_error(ERROR_STATE, "tensor_no_grad_begin");
    nn_kv_cache_free(NULL);
    assert_int_equal(nn_kv_cache_tokens(NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_the_whole),
        cmocka_unit_test_setup_teardown(test_bytes, fresh_context, leave_context),
        cmocka_unit_test(test_16_bit),
        cmocka_unit_test_setup_teardown(test_refusals, fresh_context2, leave_context),
    };
    return cmocka_run_group_tests_name("kv cache", tests, NULL, NULL);
}
