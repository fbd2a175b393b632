/* The gated feed-forward: of three layers, or of two where gate and up are made in one product, it computes
 * the same; and so do ranks that compute it together. */
#include <math.h>

#include "../nn/lora.h"
#include "../nn/module_.h"
#include "ranks_support.h"

enum { DIM = 16, HIDDEN = 24, BATCH = 2, SEQ = 5, NUMEL = BATCH * SEQ * DIM, MOST_RANKS = 4 };

static void fill(Module *module, const char *name, uint32_t stream)
{
    Tensor *t = nn_parameter(module, name);
    if (t)
        fill_values(tensor_f32(t), tensor_numel(t), stream, 1, 0);
}

static void copy_rows(Module *to, int64_t row, Module *from, const char *name, const char *name_from)
{
    Tensor *a = nn_parameter(to, name), *b = nn_parameter(from, name_from);
    int64_t width = tensor_numel(b) / tensor_dim(b, 0);
    memcpy(tensor_f32(a) + row * width, tensor_f32(b), (size_t)tensor_numel(b) * sizeof(float));
}

static void assert_rows(Module *module, int64_t row, Module *from, const char *name, const char *name_from)
{
    Tensor *a = nn_parameter(module, name), *b = nn_parameter(from, name_from);
    int64_t width = tensor_numel(b) / tensor_dim(b, 0);
    if (difference(grad_f32(a) + row * width, grad_f32(b), tensor_numel(b)) > 2e-6)
        fail_msg("the gradient of %s is not that of %s", name, name_from);
}

static Tensor *sum_of(Tensor *y)
{
    Tensor *weights = values(tensor_shape(y), 50, 1);
    return tensor_sum(tensor_mul(y, weights));
}

/* Gate and up, side by side, and the layers by themselves. */
static void check_fused(TensorActivation act, int bias)
{
    Module *apart = module_gated(DIM, HIDDEN, bias, act, 0), *fused = module_gated(DIM, HIDDEN, bias, act, 1);
    static const char *const names[] = {"gate_proj.weight", "up_proj.weight", "down_proj.weight",
                                        "gate_proj.bias",   "up_proj.bias",   "down_proj.bias"};
    for (int i = 0; i < (bias ? 6 : 3); i++)
        fill(apart, names[i], (uint32_t)i);
    assert_int_equal(nn_parameters(apart).count, bias ? 6 : 3);
    assert_int_equal(nn_parameters(fused).count, bias ? 4 : 2);
    for (int b = 0; b <= bias; b++) {
        const char *const both = b ? "gate_up_proj.bias" : "gate_up_proj.weight";
        copy_rows(fused, 0, apart, both, b ? "gate_proj.bias" : "gate_proj.weight");
        copy_rows(fused, HIDDEN, apart, both, b ? "up_proj.bias" : "up_proj.weight");
        copy_rows(fused, 0, apart, b ? "down_proj.bias" : "down_proj.weight",
                  b ? "down_proj.bias" : "down_proj.weight");
    }
    Tensor *x = leaf(SHAPE(BATCH, SEQ, DIM), 9, 1), *x2 = leaf(SHAPE(BATCH, SEQ, DIM), 9, 1);
    Tensor *y = nn_forward(apart, x, NULL), *y2 = nn_forward(fused, x2, NULL);
    Tensor *gate = tensor_activation(
        tensor_linear(x, nn_parameter(apart, names[0]), nn_parameter(apart, names[3]), TENSOR_IDENTITY), act);
    Tensor *up =
        tensor_linear(x, nn_parameter(apart, names[1]), nn_parameter(apart, names[4]), TENSOR_IDENTITY);
    Tensor *expected = tensor_linear(tensor_mul(gate, up), nn_parameter(apart, names[2]),
                                     nn_parameter(apart, names[5]), TENSOR_IDENTITY);
    assert_true(difference(tensor_f32(expected), tensor_f32(y), NUMEL) < 2e-6);
    assert_true(difference(tensor_f32(y), tensor_f32(y2), NUMEL) < 2e-6);
    Tensor *loss = tensor_add(sum_of(y), sum_of(y2));
    assert_int_equal(tensor_backward(loss), 0);
    assert_true(difference(grad_f32(x), grad_f32(x2), NUMEL) < 2e-6);
    assert_rows(fused, 0, apart, "gate_up_proj.weight", "gate_proj.weight");
    assert_rows(fused, HIDDEN, apart, "gate_up_proj.weight", "up_proj.weight");
    assert_rows(fused, 0, apart, "down_proj.weight", "down_proj.weight");
    if (bias) {
        assert_rows(fused, 0, apart, "gate_up_proj.bias", "gate_proj.bias");
        assert_rows(fused, HIDDEN, apart, "gate_up_proj.bias", "up_proj.bias");
    }
}

static void test_fused(void **state)
{
    (void)state;
    for (TensorActivation act = TENSOR_IDENTITY; act <= TENSOR_TANH; act++)
        for (int bias = 0; bias < 2; bias++) {
            int scope = tensor_scope_begin();
            check_fused(act, bias);
            tensor_scope_end(scope);
        }
    assert_fine();
}

/* nn_swiglu is the one with SiLU, and draws the same first values. */
static void test_swiglu(void **state)
{
    (void)state;
    Tensor *x = leaf(SHAPE(BATCH, SEQ, DIM), 9, 1);
    Module *a = nn_swiglu(DIM, HIDDEN), *b = module_gated(DIM, HIDDEN, 0, TENSOR_SILU, 0);
    for (int i = 0; i < 3; i++)
        memcpy(tensor_f32(nn_parameters(b).items[i]), tensor_f32(nn_parameters(a).items[i]),
               sizeof(float) * DIM * HIDDEN);
    Tensor *y = nn_forward(a, x, NULL), *z = nn_forward(b, x, NULL);
    assert_memory_equal(tensor_f32(y), tensor_f32(z), NUMEL * sizeof(float));
}

/* What a layer keeps: x, gate and up, and what down reads; fused the same, in two tensors less one. */
enum { WIDE = 64, ROWS = 32 };

static uint64_t peak_of(int fused)
{
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
    Module *module = module_gated(WIDE, WIDE, 0, TENSOR_GELU_TANH, fused);
    Tensor *x = leaf(SHAPE(ROWS, WIDE), 9, 1);
    uint64_t live = books()->live;
    Tensor *loss = tensor_sum(tensor_donate(nn_forward(module, x, NULL)));
    uint64_t bytes = books()->live - live - rounded(1);
    assert_int_equal(bytes, 3 * rounded(ROWS * WIDE));
    assert_int_equal(tensor_backward(loss), 0);
    bytes = books()->peak;
    leave(v);
    return bytes;
}

/* The gradients of gate and up are written over them, in one array as in two. Of two one is gone when the
 * layers have their last gradient; of one all is there, which is as much more. */
static void test_memory(void **state)
{
    (void)state;
    assert_true(peak_of(1) < peak_of(0) + 2 * rounded(ROWS * WIDE));
}

/* ---- Ranks ----------------------------------------------------------------------------------- */

typedef struct Job {
    int ranks, fused, bias;
    float y[MOST_RANKS][NUMEL], dx[MOST_RANKS][NUMEL];
    float *gradients; /* of the whole: every rank writes its part */
    char error[MOST_RANKS][RANK_ERROR];
} Job;

typedef struct Part {
    Job *job;
    int rank;
} Part;

static void write_gradients(TensorList list, float *to)
{
    for (int i = 0; i < list.count; to += tensor_whole_numel_(list.items[i++])) {
        Tensor *t = list.items[i];
        for (int64_t k = 0; t->grad && k < tensor_numel(t); k++)
            to[tensor_place_(t, k, &(int64_t){1})] = grad_f32(t)[k];
    }
}

static int script(void *config)
{
    Part *part = config;
    Job *job = part->job;
    int meta = context_is_meta(context_current()), scope = tensor_scope_begin();
    Module *module = module_gated(DIM, HIDDEN, job->bias, TENSOR_GELU_TANH, job->fused);
    Tensor *x = meta ? tensor_zeros(DTYPE_F32, SHAPE(BATCH, SEQ, DIM), MEM_INPUT)
                     : values(SHAPE(BATCH, SEQ, DIM), 9, 1);
    tensor_set_requires_grad(x, 1);
    Tensor *y = nn_forward(module, x, &(Batch){.ids = NULL});
    tensor_keep(y);
    Tensor *loss = tensor_sum(tensor_mul(y, y));
    tensor_backward(loss);
    if (!meta && !error_code()) {
        memcpy(job->y[part->rank], tensor_f32(y), sizeof job->y[0]);
        memcpy(job->dx[part->rank], grad_f32(x), sizeof job->dx[0]);
        write_gradients(nn_parameters(module), job->gradients);
    }
    tensor_scope_end(scope);
    return error_code();
}

static int body(const Ranks *ranks, void *user)
{
    Job *job = user;
    Ranks own = *ranks;
    own.tensor = own.size;
    Plan plan;
    return plan_and_run(script, &(Part){job, ranks->rank}, &own, &plan, job->error[ranks->rank]);
}

static Job *job_new(int ranks, int fused, int bias)
{
    Job *job = test_calloc(1, sizeof *job);
    *job = (Job){.ranks = ranks, .fused = fused, .bias = bias, .gradients = numbers_new()};
    if (ranks > 1) {
        as_ranks(ranks, RANKS_DDP, body, job);
        return job;
    }
    Visit v = visit(&(ContextOptions){.threads = 1, .seed = 5});
    assert_int_equal(script(&(Part){job, 0}), 0);
    leave(v);
    return job;
}

static void job_free(Job *job)
{
    test_free(job->gradients);
    test_free(job);
}

static void test_ranks(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        int ranks = i & 4 ? 4 : 2, fused = i & 1, bias = i >> 1 & 1;
        Job *one = job_new(1, fused, bias), *all = job_new(ranks, fused, bias);
        for (int r = 0; r < ranks; r++) {
            assert_string_equal(all->error[r], "");
            assert_true(difference(one->y[0], all->y[r], NUMEL) < 2e-6);
            assert_true(difference(one->dx[0], all->dx[r], NUMEL) < 2e-6);
        }
        assert_true(numbers_apart(all->gradients, one->gradients) < 1e-5);
        job_free(one);
        job_free(all);
    }
}

static void test_refuses(void **state)
{
    (void)state;
    assert_null(module_gated(0, 4, 0, TENSOR_GELU, 1));
    assert_error(ERROR_ARGUMENT, "linear", "in");
    assert_null(module_gated(4, 0, 0, TENSOR_GELU, 1));
    assert_error(ERROR_ARGUMENT, "linear", "out");
    Ranks ranks = {.size = 2, .tensor = 2};
    Visit v = visit(&(ContextOptions){.threads = 1, .meta = 1, .ranks = &ranks});
    for (int fused = 0; fused < 2; fused++) {
        assert_null(module_gated(8, 7, 0, TENSOR_GELU, fused));
        assert_error(ERROR_RANKS, "gated", "hidden", "7");
    }
    leave(v);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_fused), TEST(test_swiglu), TEST(test_memory),
                                       cmocka_unit_test(test_ranks), TEST(test_refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
