/* What operations refuse and how they say it, what reading a tensor that is gone says, and what keeping and
 * giving away do to data, gradients and memory. */
#include <limits.h>
#include <math.h>

#include "../tensor/tensor_.h"
#include "support.h"

static Tensor *f32(Shape shape)
{
    return values(shape, 1, 1);
}

static Tensor *i32(Shape shape)
{
    return integers(shape, 2, 2);
}

/* ---- Shapes ---------------------------------------------------------------------------------- */

/* The call fails with this code, the message holds the texts, and nothing was allocated. */
#define assert_refused(code, call, ...)                                                                      \
    do {                                                                                                     \
        assert_null(call);                                                                                   \
        assert_error(code, __VA_ARGS__);                                                                     \
        assert_int_equal(books()->live_by[MEM_TEMPORARY] + books()->live_by[MEM_WORKSPACE], 0);              \
    } while (0)

static void test_linear_shapes(void **state)
{
    (void)state;
    Tensor *x = f32(SHAPE(2, 3, 5)), *w = f32(SHAPE(7, 5)), *b = f32(SHAPE(7));
    assert_refused(ERROR_SHAPE, tensor_linear(x, f32(SHAPE(7, 4)), b, 0), "linear", "(2,3,5)", "(7,4)",
                   "5 features");
    assert_refused(ERROR_SHAPE, tensor_linear_in_out(x, w, b, 0), "linear", "(2,3,5)", "(7,5)");
    assert_refused(ERROR_SHAPE, tensor_linear(x, w, f32(SHAPE(5)), 0), "linear", "bias", "(7)", "(5)");
    assert_refused(ERROR_SHAPE, tensor_linear(x, w, f32(SHAPE(7, 1)), 0), "linear", "bias", "(7,1)");
    assert_refused(ERROR_SHAPE, tensor_linear(x, b, NULL, 0), "linear", "weight", "(7)");
    assert_refused(ERROR_ARGUMENT, tensor_linear(i32(SHAPE(3, 5)), w, NULL, 0), "linear", "x", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_linear(x, i32(SHAPE(7, 5)), NULL, 0), "linear", "weight", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_linear(x, w, i32(SHAPE(7)), 0), "linear", "bias", "f32");
}

static void test_adapter_shapes(void **state)
{
    (void)state;
    Tensor *x = f32(SHAPE(2, 3, 5)), *a = f32(SHAPE(2, 5)), *u = f32(SHAPE(2, 3, 2)), *b = f32(SHAPE(7, 2));
    Tensor *y = f32(SHAPE(2, 3, 7));
    assert_refused(ERROR_SHAPE, tensor_lora_down(x, b, 0), "lora_down", "A must be (n,5)", "(7,2)");
    assert_refused(ERROR_SHAPE, tensor_lora_down(x, f32(SHAPE(5)), 0), "lora_down", "(5)");
    assert_refused(ERROR_ARGUMENT, tensor_lora_down(i32(SHAPE(3, 5)), a, 0), "lora_down", "x", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_lora_down(x, i32(SHAPE(2, 5)), 0), "lora_down", "A", "f32");
    assert_refused(ERROR_SHAPE, tensor_linear_onto(y, u, a, 1), "linear_onto", "B must be (n,2)", "(2,5)");
    assert_refused(ERROR_SHAPE, tensor_linear_onto(x, u, b, 1), "linear_onto", "(2,3,2)", "(7,2)", "(2,3,5)");
    assert_refused(ERROR_SHAPE, tensor_linear_onto(f32(SHAPE(5, 7)), u, b, 1), "linear_onto", "(5,7)");
    assert_refused(ERROR_ARGUMENT, tensor_linear_onto(i32(SHAPE(6, 7)), u, b, 1), "linear_onto", "y", "f32");
    assert_null(tensor_lora_down(NULL, a, 0));
    assert_null(tensor_lora_down(x, NULL, 0.5f));
    assert_null(tensor_linear_onto(NULL, u, b, 1));
    assert_null(tensor_linear_onto(y, NULL, b, 1));
    assert_null(tensor_linear_onto(y, u, NULL, 1));
}

static void test_table_shapes(void **state)
{
    (void)state;
    Tensor *ids = i32(SHAPE(2, 3)), *table = f32(SHAPE(4, 5)), *x = f32(SHAPE(2, 3, 5));
    assert_refused(ERROR_ARGUMENT, tensor_embedding(f32(SHAPE(2, 3)), table), "embedding", "ids", "i32");
    assert_refused(ERROR_ARGUMENT, tensor_embedding(ids, i32(SHAPE(4, 5))), "embedding", "table", "f32");
    assert_refused(ERROR_SHAPE, tensor_embedding(ids, f32(SHAPE(4))), "embedding", "(4)");
    assert_refused(ERROR_SHAPE, tensor_embedding(i32(SHAPE(1, 1, 1, 2)), table), "embedding", "(1,1,1,2)");
    assert_refused(ERROR_SHAPE, tensor_add_rows(x, f32(SHAPE(4, 3)), 3), "add_rows", "(2,3,5)", "(4,3)");
    assert_refused(ERROR_SHAPE, tensor_add_rows(x, f32(SHAPE(5)), 3), "add_rows", "(5)");
    assert_refused(ERROR_SHAPE, tensor_add_rows(x, f32(SHAPE(2, 5)), 3), "add_rows", "sequence of 3",
                   "2 positions");
    assert_refused(ERROR_SHAPE, tensor_add_rows(x, table, 0), "add_rows", "0 rows");
    assert_refused(ERROR_SHAPE, tensor_add_rows(x, table, -1), "add_rows", "-1 rows");
    assert_refused(ERROR_SHAPE, tensor_add_rows(x, table, 4), "add_rows", "4 rows");
    assert_refused(ERROR_ARGUMENT, tensor_add_rows(i32(SHAPE(2, 3, 5)), table, 3), "add_rows", "x", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_add_rows(x, i32(SHAPE(4, 5)), 3), "add_rows", "table", "f32");
}

static void test_norm_shapes(void **state)
{
    (void)state;
    Tensor *x = f32(SHAPE(2, 3, 5)), *five = f32(SHAPE(5)), *three = f32(SHAPE(3));
    assert_refused(ERROR_SHAPE, tensor_layer_norm(x, three, five, 0), "layer_norm", "weight", "(2,3,5)",
                   "(3)");
    assert_refused(ERROR_SHAPE, tensor_layer_norm(x, five, three, 0), "layer_norm", "bias", "(3)");
    assert_refused(ERROR_SHAPE, tensor_rms_norm(x, f32(SHAPE(1, 5)), 0), "rms_norm", "weight", "(1,5)");
    assert_refused(ERROR_SHAPE, tensor_rms_norm_plus(x, f32(SHAPE(1, 5)), 0, 1), "rms_norm", "(1,5)");
    assert_refused(ERROR_ARGUMENT, tensor_rms_norm(i32(SHAPE(5)), five, 0), "rms_norm", "x", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_rms_norm(x, i32(SHAPE(5)), 0), "rms_norm", "weight", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_layer_norm(x, five, i32(SHAPE(5)), 0), "layer_norm", "bias", "f32");
}

static void test_mean_tokens_shapes(void **state)
{
    (void)state;
    Tensor *tokens = f32(SHAPE(2, 3, 4));
    assert_refused(ERROR_SHAPE, tensor_mean_tokens(f32(SHAPE(9, 12)), NULL), "mean_tokens", "(9,12)");
    assert_refused(ERROR_SHAPE, tensor_mean_tokens(tokens, i32(SHAPE(3, 2))), "mean_tokens", "(2,3)",
                   "(3,2)");
    assert_refused(ERROR_ARGUMENT, tensor_mean_tokens(tokens, f32(SHAPE(2, 3))), "mean_tokens", "mask",
                   "i32");
    assert_non_null(tensor_mean_tokens(tokens, i32(SHAPE(2, 3))));
}

static void test_elementwise_shapes(void **state)
{
    (void)state;
    Tensor *a = f32(SHAPE(2, 3)), *b = f32(SHAPE(3, 2)), *whole = i32(SHAPE(2, 3));
    assert_refused(ERROR_SHAPE, tensor_add(a, b), "add", "(2,3)", "(3,2)");
    assert_refused(ERROR_SHAPE, tensor_mul(a, f32(SHAPE(2, 3, 1))), "mul", "(2,3)", "(2,3,1)");
    assert_refused(ERROR_SHAPE, tensor_swiglu(a, f32(SHAPE(3))), "swiglu", "(2,3)", "(3)");
    assert_refused(ERROR_SHAPE, tensor_gated(a, b, TENSOR_GELU), "gated", "(2,3)", "(3,2)");
    assert_refused(ERROR_ARGUMENT, tensor_gated(a, a, (TensorActivation)9), "gated", "9");
    assert_refused(ERROR_SHAPE, tensor_gated_packed(a, TENSOR_GELU), "gated_packed", "(2,3)",
                   "3 is not even");
    assert_refused(ERROR_ARGUMENT, tensor_gated_packed(b, (TensorActivation)-1), "gated_packed", "-1");
    assert_refused(ERROR_ARGUMENT, tensor_gated_packed(i32(SHAPE(2, 2)), TENSOR_SILU), "gated_packed", "f32");
    assert_refused(ERROR_SHAPE, tensor_gate_rows(a, b), "gate_rows", "(2,3)", "(3,2)");
    assert_refused(ERROR_SHAPE, tensor_gate_rows(a, f32(SHAPE(2))), "gate_rows", "(2,1)", "(2)");
    assert_refused(ERROR_ARGUMENT, tensor_gate_rows(whole, f32(SHAPE(2, 1))), "gate_rows", "x", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_gate_rows(a, i32(SHAPE(2, 1))), "gate_rows", "gate", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_softcap(whole, 2), "softcap", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_softcap(a, -2), "softcap", "-2", "above 0");
    assert_refused(ERROR_ARGUMENT, tensor_softcap(a, NAN), "softcap", "nan");
    assert_refused(ERROR_ARGUMENT, tensor_softcap(a, INFINITY), "softcap", "inf");
    assert_ptr_equal(tensor_softcap(a, 0), a);
    assert_refused(ERROR_SHAPE, tensor_add(a, whole), "add", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_gelu(whole), "activation", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_scale(whole, 2), "scale", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_dropout(whole, 0.5f), "dropout", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_sum(whole), "sum", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_mean(whole), "mean", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_dropout(a, 1), "dropout", "1");
    assert_refused(ERROR_ARGUMENT, tensor_dropout(a, -0.5f), "dropout", "-0.5");
    assert_refused(ERROR_ARGUMENT, tensor_dropout(a, NAN), "dropout");
    assert_refused(ERROR_ARGUMENT, tensor_activation(a, (TensorActivation)9), "activation", "9");
    assert_refused(ERROR_ARGUMENT, tensor_linear(a, f32(SHAPE(2, 3)), NULL, (TensorActivation)-1), "linear",
                   "-1");
    assert_refused(ERROR_ARGUMENT, tensor_rope(f32(SHAPE(1, 2, 4)), 1, 0), "rope", "theta");
    assert_refused(ERROR_SHAPE, tensor_reshape(a, SHAPE(7)), "reshape", "(2,3)", "(7)");
    assert_refused(ERROR_SHAPE, tensor_reshape(a, SHAPE(-2, -3)), "reshape", "-2");
    assert_refused(ERROR_SHAPE, tensor_reshape(a, SHAPE(INT64_MAX, INT64_MAX)), "reshape");
    assert_refused(ERROR_SHAPE, tensor_reshape(a, (Shape){.ndim = 0}), "reshape");
    assert_refused(ERROR_SHAPE, tensor_reshape(a, (Shape){.ndim = 5}), "reshape");
}

/* As many scores as cannot be counted are refused, on meta as well. */
static void test_attention_scores_overflow(void **state)
{
    (void)state;
    Visit v = visit(&(ContextOptions){.meta = 1});
    Tensor *q = f32(SHAPE(1, INT32_MAX, 8));
    assert_non_null(tensor_attention(q, q, q, &(AttentionOptions){.heads = 4}));
    assert_null(tensor_attention(q, q, q, &(AttentionOptions){.heads = 4, .kind = ATTENTION_EAGER}));
    assert_error(ERROR_SHAPE, "attention", "too many elements");
    leave(v);
}

static void test_attention_shapes(void **state)
{
    (void)state;
    Tensor *q = f32(SHAPE(2, 3, 12)), *k = f32(SHAPE(2, 3, 6));
    AttentionOptions o = {.heads = 4, .kv_heads = 2};
    assert_refused(ERROR_SHAPE, tensor_attention(q, q, k, &o), "attention", "k (2,3,12)", "q (2,3,12)",
                   "2 of 4");
    assert_refused(ERROR_SHAPE, tensor_attention(q, k, f32(SHAPE(2, 4, 6)), &o), "attention", "v (2,4,6)");
    assert_refused(ERROR_SHAPE, tensor_attention(q, f32(SHAPE(6, 6)), k, &o), "attention", "k (6,6)");
    assert_refused(ERROR_SHAPE, tensor_attention(f32(SHAPE(6, 12)), k, k, &o), "attention", "(6,12)");
    assert_refused(ERROR_SHAPE, tensor_attention(q, q, q, &(AttentionOptions){.heads = 5}), "attention",
                   "5 heads");
    assert_refused(ERROR_ARGUMENT, tensor_attention(q, q, q, &(AttentionOptions){.heads = 0}), "attention",
                   "0 heads");
    assert_refused(ERROR_ARGUMENT, tensor_attention(q, q, q, &(AttentionOptions){.heads = -4}), "attention",
                   "-4");
    assert_refused(ERROR_ARGUMENT, tensor_attention(q, q, q, &(AttentionOptions){.heads = 4, .kv_heads = 3}),
                   "attention", "4 heads", "3 key-value");
    assert_refused(ERROR_ARGUMENT, tensor_attention(q, q, q, &(AttentionOptions){.heads = 4, .kv_heads = -2}),
                   "attention", "-2");
    o.mask = i32(SHAPE(2, 4));
    assert_refused(ERROR_SHAPE, tensor_attention(q, k, k, &o), "attention", "mask (2,4)", "(2,3)");
    o.mask = f32(SHAPE(2, 3));
    assert_refused(ERROR_SHAPE, tensor_attention(q, k, k, &o), "attention", "mask", "i32");
    o.mask = NULL;
    assert_refused(ERROR_SHAPE, tensor_attention_packed(q, &o), "attention", "qkv (2,3,12)", "4 heads",
                   "twice 2 key-value");
    o = (AttentionOptions){.heads = 4, .window = -1};
    assert_refused(ERROR_ARGUMENT, tensor_attention(q, q, q, &o), "attention", "window of -1");
    o = (AttentionOptions){.heads = 4, .softcap = -1};
    assert_refused(ERROR_ARGUMENT, tensor_attention(q, q, q, &o), "attention", "capped at -1");
    o = (AttentionOptions){.heads = 4, .scale = INFINITY};
    assert_refused(ERROR_ARGUMENT, tensor_attention(q, q, q, &o), "attention", "scaled by inf");
    o = (AttentionOptions){.heads = 4, .kv_heads = 2, .by_head = 1};
    assert_refused(ERROR_ARGUMENT, tensor_attention_packed(f32(SHAPE(2, 3, 16)), &o), "attention",
                   "as many key-value heads as heads, not 2 and 4");
    o = (AttentionOptions){.heads = 4, .softcap = NAN};
    assert_refused(ERROR_ARGUMENT, tensor_attention(q, q, q, &o), "attention", "capped at nan");
    o = (AttentionOptions){.heads = 4};
    assert_refused(ERROR_SHAPE, tensor_attention_packed(f32(SHAPE(2, 3, 10)), &o), "attention",
                   "qkv (2,3,10)");
    assert_refused(ERROR_SHAPE, tensor_attention_packed(f32(SHAPE(2, 3, 6)), &o), "attention", "qkv (2,3,6)");
    assert_refused(ERROR_ARGUMENT, tensor_attention(i32(SHAPE(2, 3, 12)), q, q, &o), "attention", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_attention(q, i32(SHAPE(2, 3, 12)), q, &o), "attention", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_attention_packed(i32(SHAPE(2, 3, 12)), &o), "attention", "f32");
}

static void test_other_shapes(void **state)
{
    (void)state;
    Tensor *x = f32(SHAPE(2, 3, 12)), *labels = i32(SHAPE(2, 3));
    assert_refused(ERROR_SHAPE, tensor_cross_entropy(x, i32(SHAPE(5)), -100, 1), "cross_entropy", "(2,3,12)",
                   "6 labels", "(5)");
    assert_refused(ERROR_ARGUMENT, tensor_cross_entropy_with(x, labels, &(LossOptions){.softcap = -1}),
                   "cross_entropy", "soft cap of -1", "0 for none");
    assert_refused(ERROR_ARGUMENT, tensor_cross_entropy(x, f32(SHAPE(2, 3)), -100, 1), "cross_entropy",
                   "labels", "i32");
    assert_refused(ERROR_ARGUMENT, tensor_cross_entropy(i32(SHAPE(6, 2)), labels, -100, 1), "cross_entropy",
                   "logits", "f32");
}

/* ---- Indices --------------------------------------------------------------------------------- */

static void test_ids_out_of_range(void **state)
{
    (void)state;
    Tensor *table = tensor_parameter(SHAPE(5, 3));
    const int32_t bad[][4] = {{0, 1, 5, 2}, {0, -1, 2, 7}, {INT32_MAX, 0, 0, 0}, {0, 0, 0, INT32_MIN}};
    const char *const says[] = {"element 2 is 5", "element 1 is -1", "element 0 is 2147483647",
                                "element 3 is -2147483648"};
    for (int i = 0; i < 4; i++) {
        Tensor *ids = tensor_from(DTYPE_I32, SHAPE(2, 2), MEM_INPUT, bad[i]);
        assert_refused(ERROR_INDEX, tensor_embedding(ids, table), "embedding", says[i], "[0, vocabulary)");
    }
    tensor_free(table);
}

static void test_labels_out_of_range(void **state)
{
    (void)state;
    Tensor *logits = leaf(SHAPE(3, 4), 1, 1);
    const int32_t bad[][3] = {{0, 4, 1}, {-1, 0, 0}, {-100, -100, 99}};
    const char *const says[] = {"element 1 is 4", "element 0 is -1", "element 2 is 99"};
    for (int i = 0; i < 3; i++) {
        Tensor *labels = tensor_from(DTYPE_I32, SHAPE(3), MEM_INPUT, bad[i]);
        assert_refused(ERROR_INDEX, tensor_cross_entropy(logits, labels, -100, 1), "cross_entropy", says[i],
                       "[0, classes)");
    }
    /* The ignore index may be anything, a class included. */
    const int32_t good[] = {-1, 3, -1};
    Tensor *loss = tensor_cross_entropy(logits, tensor_from(DTYPE_I32, SHAPE(3), MEM_INPUT, good), -1, 1);
    assert_true(tensor_item(loss) > 0);
    assert_fine();
}

/* ---- What continues a sequence --------------------------------------------------------------- */

static void test_continued(void **state)
{
    (void)state;
    Tensor *x = f32(SHAPE(2, 3, 12)), *table = f32(SHAPE(9, 12)), *k = f32(SHAPE(2, 3, 4));
    Tensor *cache = f32(SHAPE(2, 4, 8, 2)); /* (2, B*kv_heads, capacity, D) */
    AttentionOptions o = {.heads = 6, .kv_heads = 2}, odd = {.heads = 6, .kv_heads = 4};
    assert_refused(ERROR_SHAPE, tensor_add_rows_from(x, table, 7, 3), "sequence of 10", "9 positions");
    assert_refused(ERROR_SHAPE, tensor_add_rows_from(x, table, -1, 3), "add_rows");
    assert_refused(ERROR_SHAPE, tensor_last(table), "last", "(9,12)");
    assert_refused(ERROR_ARGUMENT, tensor_last(i32(SHAPE(1, 2, 3))), "last", "f32");
    assert_refused(ERROR_SHAPE, tensor_first(table), "first", "(9,12)");
    assert_refused(ERROR_ARGUMENT, tensor_first(i32(SHAPE(1, 2, 3))), "first", "f32");
    assert_refused(ERROR_ARGUMENT, tensor_attention_cached(x, k, k, cache, 6, &o), "3 more tokens after 6",
                   "cache of 8");
    assert_refused(ERROR_ARGUMENT, tensor_attention_cached(x, k, k, cache, -1, &o), "after -1");
    assert_refused(ERROR_ARGUMENT, tensor_attention_cached(x, k, k, cache, 0, &odd), "6 heads", "4");
    assert_refused(ERROR_SHAPE, tensor_attention_cached(x, k, x, cache, 0, &o), "v (2,3,12)", "q (2,3,12)");
    assert_refused(ERROR_SHAPE, tensor_attention_cached(x, k, k, table, 0, &o), "cache (9,12)",
                   "(2,4,capacity,2)");
    assert_refused(ERROR_SHAPE, tensor_attention_cached(x, k, k, f32(SHAPE(2, 2, 8, 2)), 0, &o), "(2,2,8,2)");
    assert_refused(ERROR_ARGUMENT, tensor_attention_cached(x, k, k, i32(SHAPE(2, 4, 8, 2)), 0, &o), "cache",
                   "f32");
    assert_refused(ERROR_SHAPE, tensor_attention_cached_packed(k, cache, 0, &(AttentionOptions){.heads = 1}),
                   "qkv (2,3,4)");
    assert_refused(ERROR_SHAPE, tensor_attention_cached_packed(x, cache, 0, &o), "qkv (2,3,12)", "6 heads",
                   "twice 2 key-value");
    o.window = 7;
    assert_refused(ERROR_ARGUMENT, tensor_attention_cached(x, k, k, cache, 0, &o), "cache of 8 tokens",
                   "window of 7");
    o.window = 9; /* it holds all that a window sees, and no more */
    assert_refused(ERROR_ARGUMENT, tensor_attention_cached(x, k, k, cache, 6, &o), "3 more tokens after 6",
                   "cache of 8");
    o.window = 8; /* it holds the last ones */
    assert_refused(ERROR_ARGUMENT, tensor_attention_cached(x, k, k, cache, INT32_MAX - 2, &o),
                   "3 more tokens");
    o.window = 0;
    Tensor *trained = f32(SHAPE(2, 3, 12));
    tensor_set_requires_grad(trained, 1);
    assert_refused(ERROR_STATE, tensor_attention_cached(trained, k, k, cache, 0, &o), "tensor_no_grad_begin");
    assert_non_null(tensor_attention_cached(x, k, k, cache, 5, &o)); /* the last three that fit */
    o.window = 8;
    assert_non_null(tensor_attention_cached(x, k, k, cache, 1000, &o));
    assert_fine();
}

/* ---- NULL ------------------------------------------------------------------------------------ */

static void test_null_gives_null(void **state)
{
    (void)state;
    Tensor *x = f32(SHAPE(2, 2)), *no = NULL;
    AttentionOptions o = {.heads = 1};
    Tensor *const results[] = {
        tensor_linear(no, x, NULL, 0),
        tensor_linear(x, no, NULL, 0),
        tensor_linear_in_out(no, x, NULL, 0),
        tensor_embedding(no, x),
        tensor_embedding(x, no),
        tensor_add_rows(no, x, 1),
        tensor_add_rows(x, no, 1),
        tensor_layer_norm(no, x, x, 0),
        tensor_layer_norm(x, no, x, 0),
        tensor_rms_norm(no, x, 0),
        tensor_rms_norm(x, no, 0),
        tensor_rms_norm_plus(no, x, 0, 1),
        tensor_rms_norm_plus(x, no, 0, 1),
        tensor_activation(no, TENSOR_RELU),
        tensor_gelu(no),
        tensor_gelu_tanh(no),
        tensor_silu(no),
        tensor_relu(no),
        tensor_tanh(no),
        tensor_softcap(no, 1),
        tensor_gated(no, x, TENSOR_GELU),
        tensor_gated(x, no, TENSOR_GELU),
        tensor_gated_packed(no, TENSOR_GELU),
        tensor_swiglu(no, x),
        tensor_swiglu(x, no),
        tensor_gate_rows(no, x),
        tensor_gate_rows(x, no),
        tensor_rope(no, 1, 1),
        tensor_rope_with(no, &(RopeOptions){.heads = 1, .theta = 1}),
        tensor_add_rows_from(no, x, 1, 1),
        tensor_add_rows_from(x, no, 1, 1),
        tensor_last(no),
        tensor_first(no),
        tensor_mean_tokens(no, x),
        tensor_attention_cached(no, x, x, x, 0, &o),
        tensor_attention_cached(x, x, x, no, 0, &o),
        tensor_attention_cached(x, x, x, x, 0, NULL),
        tensor_attention_cached_packed(no, x, 0, &o),
        tensor_attention_cached_packed(x, no, 0, &o),
        tensor_attention(no, x, x, &o),
        tensor_attention(x, no, x, &o),
        tensor_attention(x, x, no, &o),
        tensor_attention(x, x, x, NULL),
        tensor_attention_packed(no, &o),
        tensor_attention_packed(x, NULL),
        tensor_add(no, x),
        tensor_add(x, no),
        tensor_mul(no, x),
        tensor_mul(x, no),
        tensor_scale(no, 1),
        tensor_dropout(no, 0.5f),
        tensor_reshape(no, SHAPE(1)),
        tensor_sum(no),
        tensor_mean(no),
        tensor_cross_entropy_with(no, x, &(LossOptions){0}),
        tensor_cross_entropy_with(x, no, &(LossOptions){0}),
        tensor_cross_entropy_with(x, x, NULL),
        tensor_linear_cross_entropy_with(x, x, NULL, x, NULL),
        tensor_cross_entropy(no, x, 0, 1),
        tensor_cross_entropy(x, no, 0, 1),
        tensor_keep(no),
        tensor_donate(no),
        tensor_promote(no),
    };
    for (size_t i = 0; i < COUNT(results); i++)
        if (results[i])
            fail_msg("call %d did not return NULL", (int)i);
    assert_null(tensor_data(NULL));
    assert_null(tensor_grad(NULL));
    assert_int_equal(tensor_numel(NULL), 0);
    assert_int_equal(tensor_dim(NULL, 0), 0);
    assert_int_equal(tensor_shape(NULL).ndim, 0);
    assert_float_equal(tensor_item(NULL), 0, 0);
    assert_string_equal(tensor_name(NULL), "");
    assert_false(tensor_requires_grad(NULL));
    tensor_free(NULL);
    tensor_drop_grad(NULL);
    tensor_set_name(NULL, "x");
    tensor_fill(NULL, 1);
    tensor_fill_normal(NULL, 0, 1);
    tensor_set_requires_grad(NULL, 1);
    assert_fine(); /* NULL passes silently: its cause has said what was wrong */
}

/* After an error nothing runs, and the first message stays. */
static void test_error_stops_operations(void **state)
{
    (void)state;
    Tensor *a = f32(SHAPE(2, 3)), *b = f32(SHAPE(3));
    assert_null(tensor_add(a, b));
    assert_null(tensor_mul(a, a));
    assert_null(tensor_mul(a, b));
    assert_null(tensor_new(DTYPE_F32, SHAPE(1), MEM_INPUT));
    assert_error(ERROR_SHAPE, "add:", "(2,3)", "(3)");
    assert_non_null(tensor_mul(a, a));
}

/* ---- Data that is gone ----------------------------------------------------------------------- */

static void test_released_data(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(4), 1, 1), *h = tensor_gelu(x), *kept = tensor_keep(tensor_scale(h, 2));
    assert_int_equal(tensor_backward(tensor_sum(tensor_mul(kept, kept))), 0);
    assert_null(tensor_f32(h));
    assert_error(ERROR_STATE, "activation", "tensor_backward", "tensor_keep");
    assert_null(tensor_add(h, x));
    assert_error(ERROR_STATE, "add:", "tensor_keep");
    assert_non_null(tensor_f32(x));
    for (int i = 0; i < 4; i++) /* the gradient of the sum of y^2 is 2y */
        assert_float_equal(grad_f32(kept)[i], 2 * tensor_f32(kept)[i], 1e-6);
    assert_null(tensor_grad(h));
    assert_fine();
}

static void test_moved_data(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(4), 1, 1), *h = tensor_scale(x, 2), *y = tensor_scale(tensor_donate(h), 3);
    assert_null(tensor_f32(h));
    assert_error(ERROR_STATE, "scale", "tensor_donate");
    assert_null(tensor_scale(h, 1));
    assert_error(ERROR_STATE, "scale:", "tensor_donate");
    for (int i = 0; i < 4; i++)
        assert_float_equal(tensor_f32(y)[i], 6 * tensor_f32(x)[i], 1e-6);
    assert_int_equal(tensor_dim(h, 0), 4); /* the header stays */
    assert_ptr_equal(tensor_donate(x), x); /* a leaf stays whole */
    assert_non_null(tensor_scale(x, 1));
    assert_non_null(tensor_f32(x));
    assert_fine();
}

/* The op that takes a tensor given away works in its storage, or frees it at once. */
static void test_move_saves_memory(void **state)
{
    (void)state;
    enum { BYTES = 1024 * sizeof(float) };
    Tensor *x = leaf(SHAPE(1024), 1, 1), *h = tensor_scale(x, 2);
    uint64_t live = books()->live;
    const float *storage = tensor_f32(h);
    Tensor *y = tensor_scale(tensor_donate(h), 2);
    assert_int_equal(books()->live, live);
    assert_ptr_equal(tensor_f32(y), storage);
    Tensor *z = tensor_add(y, x);
    assert_int_equal(books()->live, live + BYTES);
    Tensor *saved =
        tensor_mul(tensor_donate(y), tensor_donate(z)); /* backward reads both: nothing can be taken */
    assert_int_equal(books()->live, live + 2 * BYTES);
    assert_int_equal(books()->live_by[MEM_ACTIVATION], 2 * BYTES);
    assert_int_equal(tensor_backward(tensor_sum(tensor_donate(saved))), 0);
    for (int i = 0; i < 1024; i++) /* (4x) (5x) */
        assert_float_equal(grad_f32(x)[i], 40 * tensor_f32(x)[i], 1e-4);
}

static void test_reshape_shares(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(4, 6), 1, 1), *h = tensor_scale(x, 1);
    uint64_t live = books()->live;
    Tensor *view = tensor_reshape(h, SHAPE(2, 12));
    assert_int_equal(books()->live, live);
    assert_ptr_equal(tensor_f32(view), tensor_f32(h));
    assert_int_equal(tensor_dim(view, -1), 12);
    Tensor *y = tensor_scale(tensor_donate(view), 3); /* h still needs the storage */
    assert_ptr_not_equal(tensor_f32(y), tensor_f32(h));
    assert_float_equal(tensor_f32(h)[7], tensor_f32(x)[7], 0);
    Tensor *ids = i32(SHAPE(2, 3)), *row = tensor_reshape(ids, SHAPE(6)); /* the type is kept */
    assert_ptr_equal(tensor_i32(row), tensor_i32(ids));
}

/* ---- Dropout --------------------------------------------------------------------------------- */

enum { SAMPLES = 6, WIDTH = 700 };

static Tensor *dropped(Tensor *x, int64_t step, int64_t first_sample)
{
    tensor_random_begin(step, first_sample);
    return tensor_dropout(x, 0.25f);
}

static void test_dropout(void **state)
{
    (void)state;
    Tensor *ones = tensor_new(DTYPE_F32, SHAPE(SAMPLES, WIDTH), MEM_INPUT);
    tensor_fill(ones, 1);
    assert_ptr_equal(tensor_dropout(ones, 0), ones);
    tensor_set_requires_grad(ones, 1);
    Tensor *y = tensor_keep(dropped(ones, 4, 10));
    int zeros = 0;
    for (int i = 0; i < SAMPLES * WIDTH; i++) {
        zeros += tensor_f32(y)[i] == 0;
        assert_true(tensor_f32(y)[i] == 0 || fabs(tensor_f32(y)[i] - 1 / 0.75) < 1e-6);
    }
    assert_in_range(zeros, 0.22 * SAMPLES * WIDTH, 0.28 * SAMPLES * WIDTH);
    assert_int_equal(tensor_backward(tensor_sum(y)), 0); /* the mask is recomputed */
    assert_memory_equal(grad_f32(ones), tensor_f32(y), SAMPLES * WIDTH * sizeof(float));
}

/* A sample's mask depends on (seed, step, sample, layer) only. */
static void test_dropout_keys(void **state)
{
    (void)state;
    Tensor *ones = tensor_new(DTYPE_F32, SHAPE(SAMPLES, WIDTH), MEM_INPUT);
    Tensor *half = tensor_new(DTYPE_F32, SHAPE(SAMPLES / 2, WIDTH), MEM_INPUT);
    tensor_fill(ones, 1);
    tensor_fill(half, 1);
    const size_t bytes = SAMPLES * WIDTH * sizeof(float);
    Tensor *whole = dropped(ones, 4, 10), *second_layer = tensor_dropout(ones, 0.25f);
    assert_memory_equal(tensor_f32(dropped(ones, 4, 10)), tensor_f32(whole), bytes);
    assert_memory_equal(tensor_f32(dropped(half, 4, 10)), tensor_f32(whole), bytes / 2);
    assert_memory_equal(tensor_f32(dropped(half, 4, 13)), tensor_f32(whole) + SAMPLES * WIDTH / 2, bytes / 2);
    assert_memory_not_equal(tensor_f32(second_layer), tensor_f32(whole), bytes);
    assert_memory_not_equal(tensor_f32(dropped(ones, 5, 10)), tensor_f32(whole), bytes);
    assert_memory_not_equal(tensor_f32(dropped(ones, 4, 11)), tensor_f32(whole), bytes);
    for (int b = 1; b < SAMPLES; b++)
        assert_memory_not_equal(tensor_f32(whole), tensor_f32(whole) + (size_t)b * WIDTH,
                                WIDTH * sizeof(float));
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 2});
    Tensor *other = tensor_new(DTYPE_F32, SHAPE(SAMPLES, WIDTH), MEM_INPUT);
    tensor_fill(other, 1);
    assert_memory_not_equal(tensor_f32(dropped(other, 4, 10)), tensor_f32(whole), bytes);
    leave(v);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_linear_shapes),
        TEST(test_adapter_shapes),
        TEST(test_table_shapes),
        TEST(test_norm_shapes),
        TEST(test_mean_tokens_shapes),
        TEST(test_elementwise_shapes),
        TEST(test_attention_shapes),
        TEST(test_other_shapes),
        TEST(test_ids_out_of_range),
        TEST(test_labels_out_of_range),
        TEST(test_continued),
        TEST(test_null_gives_null),
        TEST(test_error_stops_operations),
        TEST(test_released_data),
        TEST(test_moved_data),
        TEST(test_move_saves_memory),
        TEST(test_reshape_shares),
        TEST(test_dropout),
        TEST(test_dropout_keys),
        TEST(test_attention_scores_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
