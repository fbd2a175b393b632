/* The attention operations in bf16 and f16: results and gradients against fp32 of the same numbers, their
 * types, what is kept, and the plan against the run. */
#include "base/half_.h"
#include "support.h"

enum { BATCH = 2, SEQ = 21, HEADS = 6, KV_HEADS = 2, SIZE = 7 };

static const DType types[] = {DTYPE_BF16, DTYPE_F16};

/* An input whose numbers the 16-bit type `exact` has, as `type`. */
static Tensor *numbers(DType type, DType exact, Shape shape, uint32_t stream)
{
    int64_t n = shape_numel(shape);
    Tensor *wide = values(shape, stream, 1.0), *half;
    uint16_t *bits = test_malloc((size_t)n * sizeof *bits);
    float *at = tensor_f32(wide); /* NULL on meta */
    for (int64_t i = 0; at && i < n; i++) {
        at[i] = as_stored(exact, at[i]);
        bits[i] = exact == DTYPE_BF16 ? half_to_bf16(at[i]) : half_to_f16(at[i]);
    }
    half = type == DTYPE_F32 ? wide : tensor_from(type, shape, MEM_INPUT, bits);
    test_free(bits);
    if (half != wide)
        tensor_free(wide);
    return half;
}

/* Under the precision whose weights are of the type, for only those and f32 have gradients. */
static Tensor *trained(DType type, DType exact, Shape shape, uint32_t stream)
{
    Tensor *x = numbers(type, exact, shape, stream);
    const char *precision = type == DTYPE_BF16 ? "bf16" : type == DTYPE_F16 ? "fp16-mixed" : "fp32";
    tensor_set_precision(precision_by_name(precision));
    tensor_set_requires_grad(x, 1);
    return x;
}

/* What a tensor holds, as floats that live as long as the scope. */
static float *floats_of(Tensor *x)
{
    int64_t n = tensor_numel(x);
    float *to = tensor_f32(tensor_new(DTYPE_F32, SHAPE(n), MEM_INPUT));
    const uint16_t *half = tensor_data(x);
    if (tensor_dtype(x) == DTYPE_F32)
        memcpy(to, half, (size_t)n * sizeof *to);
    for (int64_t i = 0; tensor_dtype(x) != DTYPE_F32 && i < n; i++)
        to[i] = tensor_dtype(x) == DTYPE_BF16 ? half_from_bf16(half[i]) : half_from_f16(half[i]);
    return to;
}

/* ---- One call, forward and backward ---------------------------------------------------------- */

typedef struct Way {
    int packed, causal, masked, recompute, only_k, window;
    float softcap;
    AttentionKind kind;
} Way;

typedef struct Made {
    Tensor *out, *in[3];
} Made;

static Way way_of(int i)
{
    return (Way){.packed = i & 1,
                 .causal = i >> 1 & 1,
                 .masked = i >> 2 & 1,
                 .kind = i >> 3 & 1 ? ATTENTION_EAGER : ATTENTION_FLASH,
                 .recompute = i >> 4 & 1,
                 .only_k = i >> 4 & 1,
                 .window = i % 3 ? 4 + i % 11 : 0,
                 .softcap = i % 5 == 2 ? 2 : 0};
}

static Tensor *mask_of(void)
{
    int32_t seen[BATCH * SEQ];
    for (int i = 0; i < BATCH * SEQ; i++)
        seen[i] = i % 5 != 3;
    return tensor_from(DTYPE_I32, SHAPE(BATCH, SEQ), MEM_INPUT, seen);
}

static Made make(const Way *way, DType type, DType exact)
{
    int kv = way->packed && way->masked ? HEADS : KV_HEADS;
    AttentionOptions o = {.heads = HEADS, .kv_heads = kv, .causal = way->causal, .kind = way->kind};
    Made m = {0};
    o.recompute = way->recompute;
    o.window = way->window;
    o.softcap = way->softcap;
    o.mask = way->masked ? mask_of() : NULL;
    o.by_head = way->packed && way->masked && way->causal;
    if (way->packed) {
        m.in[0] = trained(type, exact, SHAPE(BATCH, SEQ, (HEADS + 2 * kv) * SIZE), 1);
        m.out = tensor_attention_packed(m.in[0], &o);
    } else {
        for (int i = 0; i < 3; i++)
            m.in[i] = (way->only_k && i != 1 ? numbers : trained)(
                type, exact, SHAPE(BATCH, SEQ, (i ? kv : HEADS) * SIZE), 1 + (uint32_t)i);
        m.out = tensor_attention(m.in[0], m.in[1], m.in[2], &o);
    }
    tensor_keep(m.out);
    tensor_backward_from(m.out, numbers(type, exact, SHAPE(BATCH, SEQ, HEADS * SIZE), 7));
    return m;
}

static void assert_like(const char *what, int i, Tensor *half, Tensor *wide, DType type)
{
    double limit = type == DTYPE_BF16 ? 1.2e-2 : 1.5e-3, far;
    assert_int_equal(tensor_dtype(half), type);
    far = difference(floats_of(half), floats_of(wide), tensor_numel(wide));
    if (!(far <= limit))
        fail_msg("%s of %s, way %d: %g apart", what, dtype_name(type), i, far);
    assert_true(far > 0); /* it is not fp32 under another name */
}

static void test_values_and_gradients(void **state)
{
    (void)state;
    for (int i = 0; i < 64; i++) {
        Way way = way_of(i % 32);
        DType type = types[i / 32];
        int scope = tensor_scope_begin();
        Made half = make(&way, type, type), wide = make(&way, DTYPE_F32, type);
        assert_fine();
        assert_like("out", i, half.out, wide.out, type);
        for (int k = 0; k < (way.packed ? 1 : 3); k++) {
            assert_int_equal(tensor_has_grad(half.in[k]), tensor_has_grad(wide.in[k]));
            if (tensor_has_grad(half.in[k]))
                assert_like("gradient", i, tensor_grad(half.in[k]), tensor_grad(wide.in[k]), type);
        }
        tensor_scope_end(scope);
    }
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static MemStats books_of(const Way *way, DType type, int meta, int threads)
{
    Visit inside = visit(&(ContextOptions){.meta = meta, .threads = threads, .seed = 1});
    int scope = tensor_scope_begin();
    make(way, type, DTYPE_BF16);
    assert_fine();
    tensor_scope_end(scope);
    MemStats stats = *books();
    leave(inside);
    return stats;
}

static void test_plan_is_run(void **state)
{
    (void)state;
    for (int i = 0; i < 32 * 3; i++) {
        Way way = way_of(i % 32);
        DType type = i / 32 ? types[i / 32 - 1] : DTYPE_F32;
        MemStats plan = books_of(&way, type, 1, 1 + i % 2), run = books_of(&way, type, 0, 1 + i % 2);
        assert_int_equal(plan.peak, run.peak);
        assert_int_equal(plan.needs, run.needs);
        assert_int_equal(plan.allocations, run.allocations);
        assert_int_equal(plan.retags, run.retags);
        assert_memory_equal(plan.own_peak, run.own_peak, sizeof plan.own_peak);
    }
}

/* Eager keeps its probabilities in the type of the activations, flash log-sum-exps in fp32. */
static void test_what_is_kept(void **state)
{
    (void)state;
    int64_t rows = BATCH * HEADS * SEQ, out = BATCH * SEQ * HEADS * SIZE;
    Way flash = {.kind = ATTENTION_FLASH}, eager = {.kind = ATTENTION_EAGER};
    Way again = {.kind = ATTENTION_EAGER, .recompute = 1};
    uint64_t half_out = rounded((out + 1) / 2);
    assert_int_equal(books_of(&flash, DTYPE_BF16, 1, 1).own_peak[MEM_ACTIVATION], half_out + rounded(rows));
    assert_int_equal(books_of(&eager, DTYPE_BF16, 1, 1).own_peak[MEM_ACTIVATION],
                     half_out + rounded((rows * SEQ + 1) / 2));
    assert_int_equal(books_of(&again, DTYPE_BF16, 1, 1).own_peak[MEM_ACTIVATION], half_out);
    assert_int_equal(books_of(&eager, DTYPE_F32, 1, 1).own_peak[MEM_ACTIVATION],
                     rounded(out) + rounded(rows * SEQ));
}

/* ---- With a cache ---------------------------------------------------------------------------- */

/* Four tokens, then one, over a cache, against all five at once. */
static void check_cached(DType type, DType cached, int packed, int window)
{
    static const DType exact = DTYPE_BF16;
    int kv = packed && !window ? HEADS : KV_HEADS;
    int64_t row = HEADS * SIZE, kv_row = kv * SIZE, wide = row + 2 * kv_row;
    AttentionOptions o = {.heads = HEADS, .kv_heads = kv, .causal = 1, .window = window};
    o.by_head = packed && kv == HEADS && type == cached;
    Tensor *cache = tensor_zeros(cached, SHAPE(2, kv, window ? window : 6, SIZE), MEM_INPUT);
    Tensor *q, *k, *v, *all, *part = NULL;
    float *expected;
    if (packed) {
        q = numbers(type, exact, SHAPE(1, 5, wide), 1);
        all = tensor_attention_packed(q, &o);
    } else {
        q = numbers(type, exact, SHAPE(1, 5, row), 1);
        k = numbers(type, exact, SHAPE(1, 5, kv_row), 2);
        v = numbers(type, exact, SHAPE(1, 5, kv_row), 3);
        all = tensor_attention(q, k, v, &o);
    }
    expected = floats_of(all);
    for (int first = 0, count = 4; first < 5; first += count, count = 1) {
        int64_t size = type == DTYPE_F32 ? 4 : 2;
        const char *at = tensor_data(q);
        if (packed) {
            part = tensor_attention_cached_packed(
                tensor_from(type, SHAPE(1, count, wide), MEM_INPUT, at + first * wide * size), cache, first,
                &o);
        } else {
            const char *keys = tensor_data(k), *values_at_ = tensor_data(v);
            part = tensor_attention_cached(
                tensor_from(type, SHAPE(1, count, row), MEM_INPUT, at + first * row * size),
                tensor_from(type, SHAPE(1, count, kv_row), MEM_INPUT, keys + first * kv_row * size),
                tensor_from(type, SHAPE(1, count, kv_row), MEM_INPUT, values_at_ + first * kv_row * size),
                cache, first, &o);
        }
        assert_fine();
        assert_int_equal(tensor_dtype(part), type);
        const float *x = floats_of(part);
        double limit = type == DTYPE_BF16 || cached == DTYPE_BF16 ? 8e-3 : 1e-3;
        assert_true(difference(x, expected + first * row, count * row) <= limit);
    }
}

static void test_cached(void **state)
{
    (void)state;
    static const DType all[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < 54; i++) {
        int scope = tensor_scope_begin();
        tensor_no_grad_begin();
        check_cached(all[i % 3], all[i / 3 % 3], i / 9 % 2, i / 18 * 2 - i / 36);
        tensor_no_grad_end();
        tensor_scope_end(scope);
    }
}

/* ---- Refused --------------------------------------------------------------------------------- */

static void test_types_must_agree(void **state)
{
    (void)state;
    int scope = tensor_scope_begin();
    AttentionOptions o = {.heads = 2};
    Tensor *half = tensor_zeros(DTYPE_BF16, SHAPE(1, 3, 8), MEM_INPUT);
    Tensor *wide = tensor_zeros(DTYPE_F32, SHAPE(1, 3, 8), MEM_INPUT);
    Tensor *cache = tensor_zeros(DTYPE_F32, SHAPE(2, 2, 4, 4), MEM_INPUT);
    assert_null(tensor_attention(half, wide, half, &o));
    assert_error(ERROR_ARGUMENT, "attention: k must be bf16, as q is, not f32");
    assert_null(tensor_attention(wide, wide, half, &o));
    assert_error(ERROR_ARGUMENT, "attention: v must be f32, as q is, not bf16");
    tensor_no_grad_begin();
    assert_null(tensor_attention_cached(half, half, wide, cache, 0, &o));
    assert_error(ERROR_ARGUMENT, "attention: v must be bf16, as q is, not f32");
    tensor_no_grad_end();
    tensor_scope_end(scope);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_values_and_gradients, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_plan_is_run, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_what_is_kept, fresh_context, leave_context),
        cmocka_unit_test_setup_teardown(test_cached, fresh_context2, leave_context),
        cmocka_unit_test_setup_teardown(test_types_must_agree, fresh_context, leave_context),
    };
    return cmocka_run_group_tests_name("attention in 16 bit", tests, NULL, NULL);
}
