/* Norms of each head: RMS norm of a reshaped tensor. Nothing is copied on the way into it, out of it and into
 * the rotary positions behind it; recorded, recomputed, checkpointed and in a cache. And norms by 1 + weight.
 */
#include <math.h>

#include "../nn/module_.h"
#include "support.h"
#include "tensor/tensor_.h"

enum { B = 2, T = 5, H = 3, D = 8, C = H * D, FLOATS = B * T * C, ROWS = B * T * H };

static Tensor *through(Tensor *x, Tensor *weight)
{
    Tensor *heads = tensor_reshape(tensor_donate(x), SHAPE(B, T, H, D));
    Tensor *normed = tensor_rms_norm(tensor_donate(heads), weight, 1e-5f);
    Tensor *flat = tensor_reshape(tensor_donate(normed), SHAPE(B, T, C));
    return tensor_rope(tensor_donate(flat), H, 100);
}

/* Recorded, what the norm reads is kept, and one number a head and token; without recording nothing but the
 * result is. On the way there is never more than what goes in and what comes out. */
static void test_nothing_is_copied(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(B, T, C), 1, 1), *weight = leaf(SHAPE(D), 2, 1);
    for (int recorded = 1; recorded >= 0; recorded--) {
        if (!recorded)
            tensor_no_grad_begin();
        int scope = tensor_scope_begin();
        Tensor *made = tensor_scale(x, 2);
        uint64_t before = books()->live, all = rounded(FLOATS), statistics = rounded(ROWS);
        live_at("", MEM_TEMPORARY); /* a new peak */
        Tensor *y = through(made, weight);
        assert_fine();
        assert_int_equal(books()->live, recorded ? before + all + statistics : before);
        assert_int_equal(books()->peak, before + all + statistics);
        if (recorded)
            assert_int_equal(books()->live_by[MEM_ACTIVATION], all + statistics);
        assert_int_equal(tensor_dim(y, 2), C);
        tensor_scope_end(scope);
    }
    tensor_no_grad_end();
}

/* Norms of queries and keys are no more than one number a head and token at attention's peak. */
static void test_attention_peak(void **state)
{
    (void)state;
    for (int recorded = 0; recorded < 2; recorded++) {
        uint64_t peak[2];
        for (int norms = 0; norms < 2; norms++) {
            Visit v = visit(&(ContextOptions){.meta = 1, .threads = 1});
            Module *attention = nn_attention(
                &(AttentionConfig){.style = ATTENTION_LLAMA,
                                   .dim = 64,
                                   .heads = 8,
                                   .kv_heads = 2,
                                   .qk_norm = norms ? ATTENTION_NORM_HEADS : ATTENTION_NORM_NONE});
            Tensor *x = leaf(SHAPE(2, 40, 64), 1, 1);
            if (!recorded)
                tensor_no_grad_begin();
            live_at("", MEM_TEMPORARY); /* a new peak */
            uint64_t before = books()->live;
            nn_forward(attention, x, NULL);
            assert_fine();
            peak[norms] = books()->peak - before;
            leave(v);
        }
        uint64_t kept =
            rounded(2 * 40 * 8) + rounded(2 * 40 * 2) + rounded(2 * 40 * 64) + rounded(2 * 40 * 16);
        assert_true(peak[1] <= peak[0] + (recorded ? kept : 0));
    }
}

/* The same as head by head. */
static void test_values(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(B, T, C), 1, 1), *weight = leaf(SHAPE(D), 2, 1);
    Tensor *whole = tensor_rms_norm(tensor_reshape(x, SHAPE(B, T, H, D)), weight, 1e-5f);
    for (int row = 0; row < ROWS; row++) {
        double squares = 0;
        for (int j = 0; j < D; j++)
            squares += pow((double)tensor_f32(x)[row * D + j], 2) / D;
        for (int j = 0; j < D; j++)
            assert_float_equal(tensor_f32(whole)[row * D + j],
                               tensor_f32(x)[row * D + j] / sqrt(squares + 1e-5) * tensor_f32(weight)[j],
                               1e-5);
    }
}

/* ---- In a model ------------------------------------------------------------------------------ */

/* A block keeps its input, the norms' statistics, what goes into the norms of q and k, what they make after
 * rotation, v, attention's own, and the feed-forward's; nothing twice. */
static uint64_t kept_by_block(int batch, int seq, const LlamaConfig *c)
{
    int64_t n = (int64_t)batch * seq, h = n * c->dim, f = n * c->hidden, q = n * c->heads * c->head_dim,
            kv = n * c->kv_heads * c->head_dim;
    const int64_t list[] = {h, n, h, q, n * c->heads, q, kv, n * c->kv_heads, kv, kv, n * c->heads, q, h, n,
                            h, f, f, f};
    uint64_t bytes = 0;
    for (size_t i = 0; i < COUNT(list); i++)
        bytes += rounded(list[i]);
    return bytes;
}

static uint64_t kept(const LlamaConfig *config, int layers)
{
    LlamaConfig c = *config;
    c.layers = layers;
    Visit v = visit(&(ContextOptions){.meta = 1, .threads = 2});
    Batch batch = {.ids = integers(SHAPE(3, 7), 1, 40), .labels = integers(SHAPE(3, 7), 2, 40)};
    Tensor *loss = nn_loss(nn_qwen3(&c), &batch);
    uint64_t bytes = books()->live_by[MEM_ACTIVATION];
    assert_int_equal(tensor_backward(loss), 0);
    leave(v);
    return bytes;
}

static void test_kept_by_block(void **state)
{
    (void)state;
    LlamaConfig c = {.vocab = 40, .dim = 24, .heads = 6, .kv_heads = 2, .head_dim = 10, .hidden = 33};
    assert_int_equal(kept(&c, 3) - kept(&c, 2), kept_by_block(3, 7, &c));
}

static void test_recomputed(void **state)
{
    (void)state;
    static const ModelFamily families[] = {MODEL_QWEN3, MODEL_OLMO2};
    static const struct {
        const char *pattern;
        int checkpoint, selective;
    } ways[] = {{NULL, 0, 1}, {NULL, 1, 0}, {"c+c", 0, 1}, {".c+", 1, 1}};
    for (size_t i = 0; i < 2 * COUNT(families); i++) {
        Setting s = {
            .family = families[i / 2], .attention = i % 2 ? ATTENTION_EAGER : ATTENTION_FLASH, .layers = 3};
        double loss, other;
        Tensor *plain = small_gradients(&s, &(Micro){{4, 2}}, 2, 5, &loss);
        for (size_t w = 0; w < COUNT(ways); w++) {
            s.pattern = ways[w].pattern;
            s.checkpoint = ways[w].checkpoint;
            s.selective = ways[w].selective;
            Tensor *g = small_gradients(&s, &(Micro){{4, 2}}, 2, 5, &other);
            if (loss != other || difference(tensor_f32(plain), tensor_f32(g), tensor_numel(g)) != 0)
                fail_msg("%s: gradients differ", setting_text(&s));
        }
    }
}

/* ---- 1 + weight ------------------------------------------------------------------------------ */

/* Weights are 0 at first, for the same result; one that is 1 less has the same result and gradients. */
static void test_plus(void **state)
{
    (void)state;
    Module *plain = nn_rms_norm(D, 1e-3f), *plus = module_rms_norm_plus(D, 1e-3f, 1);
    float *w = tensor_f32(nn_parameter(plain, "weight")), *less = tensor_f32(nn_parameter(plus, "weight"));
    for (int j = 0; j < D; j++)
        assert_true(w[j] == 1 && less[j] == 0);
    for (int random = 0; random < 2; random++) {
        for (int j = 0; random && j < D; j++) {
            less[j] = (float)(j - 3) / 8; /* 1 + it has no rounding */
            w[j] = 1 + less[j];
        }
        const float *y[2], *dx[2], *dw[2];
        for (int i = 0; i < 2; i++) {
            Tensor *x = leaf(SHAPE(B, T, D), 1, 1),
                   *norm = tensor_keep(nn_forward(i ? plus : plain, x, NULL));
            assert_int_equal(tensor_backward(tensor_sum(tensor_mul(norm, norm))), 0);
            y[i] = tensor_f32(norm);
            dx[i] = tensor_f32(copy_of(grad_f32(x), B * T * D));
            dw[i] = tensor_f32(copy_of(grad_f32(nn_parameter(i ? plus : plain, "weight")), D));
        }
        assert_memory_equal(y[0], y[1], B * T * D * sizeof(float));
        assert_memory_equal(dx[0], dx[1], B * T * D * sizeof(float));
        assert_memory_equal(dw[0], dw[1], D * sizeof(float));
    }
    /* Nothing is added to a weight of -0. */
    Tensor *ones = tensor_new(DTYPE_F32, SHAPE(1, D), MEM_INPUT),
           *zeros = tensor_new(DTYPE_F32, SHAPE(D), MEM_INPUT);
    tensor_fill(ones, 1);
    tensor_fill(zeros, -0.0f);
    for (int p = 0; p < 2; p++) {
        const float *y = tensor_f32(tensor_rms_norm_plus(ones, zeros, 1e-5f, (float)p));
        assert_true(p ? y[0] > 0.9f : y[0] == 0 && signbit(y[0]));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_is_copied), TEST(test_attention_peak), TEST(test_values),
        TEST(test_kept_by_block),     TEST(test_recomputed),     TEST(test_plus),
    };
    return cmocka_run_group_tests_name("head norms", tests, NULL, NULL);
}
