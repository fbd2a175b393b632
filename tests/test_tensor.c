/* Contexts, errors, shapes, fills and scopes: the rules that every operation lives under. */
#include <limits.h>
#include <math.h>
#include <pthread.h>

#include "support.h"
#include "tensor/tensor_.h"

/* ---- Contexts -------------------------------------------------------------------------------- */

static void test_context_on_demand(void **state)
{
    (void)state;
    uint64_t live = memtrack_process_live();
    assert_null(context_use(NULL));
    assert_int_equal(error_code(), ERROR_NONE);
    Context *context = context_current();
    assert_non_null(context);
    assert_ptr_equal(context_current(), context);
    assert_true(context_threads(context) >= 1);
    assert_false(context_is_meta(context));
    assert_non_null(tensor_zeros(DTYPE_F32, SHAPE(3), MEM_INPUT));
    assert_int_equal(memtrack_stats(context_ledger(context))->live, 64);
    context_destroy(context);
    assert_int_equal(memtrack_process_live(), live);
    assert_null(context_use(NULL)); /* none is current after its end */
    context_destroy(NULL);
}

static void test_several_contexts(void **state)
{
    (void)state;
    Context *first = context_current();
    Context *second = context_create(&(ContextOptions){.threads = 2, .seed = 77, .meta = 1});
    assert_ptr_equal(context_current(), first);
    Tensor *a = tensor_zeros(DTYPE_F32, SHAPE(100), MEM_INPUT);
    assert_ptr_equal(context_use(second), first);
    assert_int_equal(context_seed(second), 77);
    assert_int_equal(context_threads(second), 2);
    assert_true(context_is_meta(second));
    assert_int_equal(books()->live, 0);
    Tensor *b = tensor_zeros(DTYPE_F32, SHAPE(100), MEM_INPUT);
    assert_int_equal(books()->live, 448);
    assert_null(tensor_add(a, b));
    assert_error(ERROR_STATE, "add", "another context");
    error_raise(ERROR_DATA, "of the second");
    context_use(first);
    assert_int_equal(error_code(), ERROR_NONE);
    assert_float_equal(tensor_f32(a)[99], 0, 0);
    context_destroy(second);
    assert_ptr_equal(context_current(), first);
    assert_int_equal(books()->live, 448);
}

static void test_context_options(void **state)
{
    (void)state;
    Context *outside = context_current();
    assert_null(context_create(&(ContextOptions){.kernels = "no such kernels"}));
    assert_null(context_create(&(ContextOptions){.memory = MEMTRACK_RESERVED})); /* no capacity */
    Visit v = visit(&(ContextOptions){.memory = MEMTRACK_RESERVED, .capacity = 4096, .threads = 1});
    assert_int_equal(memtrack_ledger_mode(context_ledger(context_current())), MEMTRACK_RESERVED);
    assert_non_null(tensor_new(DTYPE_F32, SHAPE(1024), MEM_INPUT));
    assert_null(tensor_new(DTYPE_F32, SHAPE(1), MEM_INPUT));
    assert_error(ERROR_MEMORY, "4 bytes for input", "4096 bytes are in use");
    leave(v);
    v = visit(&(ContextOptions){.capacity = 128, .threads = 1});
    assert_null(tensor_parameter(SHAPE(33)));
    assert_error(ERROR_MEMORY, "132 bytes for parameter");
    leave(v);
    assert_ptr_equal(context_current(), outside);
}

static void *train_alone(void *gradient)
{
    Context *context = context_create(&(ContextOptions){.threads = 1, .seed = 3});
    context_use(context);
    Tensor *w = tensor_parameter(SHAPE(5, 7));
    tensor_fill_normal(w, 0, 1);
    for (int step = 0; step < 200; step++) {
        int scope = tensor_scope_begin();
        tensor_backward(
            tensor_sum(tensor_gelu(tensor_linear(values(SHAPE(3, 7), 1, 1), w, NULL, TENSOR_SILU))));
        tensor_scope_end(scope);
    }
    if (!error_code())
        memcpy(gradient, grad_f32(w), 35 * sizeof(float));
    tensor_free(w);
    context_destroy(context_use(NULL));
    return NULL;
}

static void test_two_threads_two_contexts(void **state)
{
    (void)state;
    float gradient[3][35] = {{0}};
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, train_alone, gradient[i]), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    Context *mine = context_use(NULL);
    train_alone(gradient[2]);
    context_use(mine);
    assert_true(gradient[2][0] != 0);
    assert_memory_equal(gradient[0], gradient[2], sizeof gradient[0]);
    assert_memory_equal(gradient[1], gradient[2], sizeof gradient[0]);
}

/* ---- Errors ---------------------------------------------------------------------------------- */

static void test_errors_stick(void **state)
{
    (void)state;
    assert_string_equal(error_message(), "");
    assert_int_equal(error_raise(ERROR_DATA, "bad %s %d", "line", 7), ERROR_DATA);
    assert_int_equal(error_raise(ERROR_FILE, "later"), ERROR_DATA);
    assert_int_equal(error_code(), ERROR_DATA);
    assert_string_equal(error_message(), "bad line 7");
    error_clear();
    assert_int_equal(error_code(), ERROR_NONE);
    assert_string_equal(error_message(), "");
    MemTracker *tracker = context_tracker(context_current());
    memtrack_path_push(tracker, "layers");
    memtrack_path_push(tracker, "3");
    error_raise(ERROR_STATE, "stop");
    assert_string_equal(error_message(), "stop, at layers.3");
    memtrack_path_pop(tracker);
    memtrack_path_pop(tracker);
    error_clear();
    memtrack_path_push(tracker, "1");
    error_raise(ERROR_STATE, "stop");
    assert_string_equal(error_message(), "stop, at module '1'");
    memtrack_path_pop(tracker);
    error_clear();
    assert_string_equal(error_function(), "");
    error_raise(ERROR_ARGUMENT, "%s(): top_k is %d", "nn_sample", -1);
    assert_string_equal(error_message(), "top_k is -1");
    assert_string_equal(error_function(), "nn_sample");
    error_clear();
    assert_string_equal(error_function(), "");
    static const char *const whole[] = {"data_text: no name", "a b(): no name", "(): no name", "A(): no name",
                                        "none()", "none():none"};
    for (size_t i = 0; i < COUNT(whole); i++) {
        error_raise(ERROR_ARGUMENT, "%s", whole[i]);
        assert_string_equal(error_message(), whole[i]);
        assert_string_equal(error_function(), "");
        error_clear();
    }
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    error_raise(ERROR_STATE, "%s", text); /* too long a message is cut */
    assert_in_range(strlen(error_message()), 100, 600);
    error_clear();
    for (int code = 0; code < ERROR_COUNT; code++)
        assert_true(strlen(error_name((ErrorCode)code)) > 3);
    assert_string_equal(error_name(ERROR_SHAPE), "shapes do not fit");
    assert_string_equal(error_name(ERROR_COUNT), "unknown error");
}

/* ---- Shapes and types ------------------------------------------------------------------------ */

static void test_shapes(void **state)
{
    (void)state;
    const Shape bad[] = {SHAPE(0),    SHAPE(3, -1), SHAPE((int64_t)INT_MAX + 1),      {.ndim = 0},
                         {.ndim = 5}, {.ndim = -1}, SHAPE(INT_MAX, INT_MAX, INT_MAX), SHAPE(INT64_MIN)};
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_null(tensor_new(DTYPE_F32, bad[i], MEM_INPUT));
        assert_error(ERROR_SHAPE, "tensor_new");
    }
    assert_null(tensor_new(DTYPE_F32, SHAPE(4, 0), MEM_INPUT));
    assert_error(ERROR_SHAPE, "dimension 1 is 0", "2147483647");
    Visit v = visit(&(ContextOptions){.threads = 1, .capacity = 4096});
    assert_null(tensor_new(DTYPE_F32, SHAPE(INT_MAX, INT_MAX / 64), MEM_INPUT));
    assert_error(ERROR_MEMORY, "bytes for input"); /* more than there is, but it can be said */
    leave(v);
    assert_null(tensor_parameter(SHAPE(0)));
    assert_error(ERROR_SHAPE, "0");
    assert_null(tensor_new((DType)DTYPE_COUNT, SHAPE(1), MEM_INPUT));
    assert_error(ERROR_ARGUMENT, "type");
    assert_int_equal(books()->live, 0);
    Tensor *t = tensor_zeros(DTYPE_I32, SHAPE(2, 3, 5), MEM_BUFFER);
    assert_int_equal(tensor_dim(t, 0), 2);
    assert_int_equal(tensor_dim(t, -1), 5);
    assert_int_equal(tensor_dim(t, -3), 2);
    assert_int_equal(tensor_dim(t, 3), 0);
    assert_int_equal(tensor_dim(t, -4), 0);
    assert_int_equal(tensor_numel(t), 30);
    assert_int_equal(tensor_dtype(t), DTYPE_I32);
    assert_int_equal(books()->live_by[MEM_BUFFER], 128);
    assert_null(tensor_f32(t));
    assert_error(ERROR_ARGUMENT, "tensor_f32");
    assert_int_equal(tensor_i32(t)[29], 0);
    tensor_fill(t, 1);
    assert_error(ERROR_ARGUMENT, "tensor_fill");
    tensor_set_requires_grad(t, 1);
    assert_error(ERROR_ARGUMENT, "f32");
    assert_float_equal(tensor_item(t), 0, 0);
    assert_error(ERROR_SHAPE, "tensor_item", "(2,3,5)");
}

static void test_fills(void **state)
{
    (void)state;
    enum { N = 20000 };
    Tensor *a = tensor_new(DTYPE_F32, SHAPE(N), MEM_INPUT), *b = tensor_new(DTYPE_F32, SHAPE(N), MEM_INPUT);
    tensor_fill_normal(a, 3, 2);
    tensor_fill_normal(b, 3, 2);
    assert_memory_not_equal(tensor_f32(a), tensor_f32(b), N * sizeof(float)); /* each call has a stream */
    double mean = 0, variance = 0;
    for (int i = 0; i < N; i++)
        mean += tensor_f32(a)[i] / N;
    for (int i = 0; i < N; i++)
        variance += (tensor_f32(a)[i] - mean) * (tensor_f32(a)[i] - mean) / N;
    assert_true(fabs(mean - 3) < 0.08 && fabs(sqrt(variance) - 2) < 0.05);
    tensor_fill_uniform(b, -1, 3);
    mean = 0;
    for (int i = 0; i < N; i++) {
        assert_true(tensor_f32(b)[i] >= -1 && tensor_f32(b)[i] < 3);
        mean += tensor_f32(b)[i] / N;
    }
    assert_true(fabs(mean - 1) < 0.05);
    tensor_fill(b, -4.5f);
    assert_float_equal(tensor_f32(b)[N - 1], -4.5f, 0);
    Visit v = visit(&(ContextOptions){.threads = 2, .seed = 1}); /* the same seed and stream, other threads */
    Tensor *again = tensor_new(DTYPE_F32, SHAPE(N), MEM_INPUT);
    tensor_fill_normal(again, 3, 2);
    assert_memory_equal(tensor_f32(again), tensor_f32(a), N * sizeof(float));
    leave(v);
}

/* ---- Scopes ---------------------------------------------------------------------------------- */

static Tensor *made(void)
{
    return tensor_zeros(DTYPE_F32, SHAPE(16), MEM_INPUT);
}

static void test_scopes(void **state)
{
    (void)state;
    made();
    int outer = tensor_scope_begin();
    made();
    int inner = tensor_scope_begin();
    assert_true(inner > outer);
    Tensor *promoted = tensor_promote(made());
    Tensor *free_early = made();
    assert_int_equal(books()->live, 5 * 64 - 64);
    tensor_free(free_early);
    assert_int_equal(books()->live, 3 * 64);
    tensor_scope_end(inner);
    assert_int_equal(books()->live, 3 * 64);
    assert_float_equal(tensor_f32(promoted)[3], 0, 0);
    tensor_scope_begin();
    made();
    tensor_scope_begin();
    made();
    tensor_scope_end(outer); /* ends the inner ones too */
    assert_int_equal(books()->live, 64);
    tensor_scope_end(inner); /* already ended: nothing happens */
    assert_int_equal(books()->live, 64);
    assert_int_equal(tensor_scope_begin(), outer);
    tensor_scope_end(outer);
}

static void test_parameters_outlive_scopes(void **state)
{
    (void)state;
    int scope = tensor_scope_begin();
    Tensor *w = tensor_parameter(SHAPE(4));
    tensor_fill(w, 2);
    tensor_scope_end(scope);
    assert_float_equal(tensor_f32(w)[3], 2, 0);
    assert_int_equal(books()->live_by[MEM_PARAMETER], 64);
    assert_ptr_equal(tensor_promote(w), w);
    tensor_free(w);
    assert_int_equal(books()->live, 0);
}

static void test_too_many_scopes(void **state)
{
    (void)state;
    int first = tensor_scope_begin();
    for (int i = 0; i < 1000 && !error_code(); i++)
        tensor_scope_begin();
    assert_error(ERROR_STATE, "127 scopes", "tensor_scope_begin");
    int refused = tensor_scope_begin();
    assert_error(ERROR_STATE, "scopes");
    made();
    tensor_scope_end(refused);
    assert_int_equal(books()->live, 64);
    tensor_scope_end(first);
    assert_int_equal(books()->live, 0);
    assert_int_equal(tensor_scope_begin(), first);
    tensor_scope_end(first);
}

static int tape_length(void)
{
    return context_current()->tape->count;
}

/* Recorded work that nobody can reach any more goes with its scope, without a backward. */
static void test_unreachable_work(void **state)
{
    (void)state;
    Tensor *w = leaf(SHAPE(64), 1, 1);
    uint64_t live = books()->live;
    int scope = tensor_scope_begin();
    Tensor *h = tensor_gelu(w);
    tensor_sum(tensor_mul(h, h));
    assert_int_equal(tape_length(), 3);
    tensor_scope_end(scope);
    assert_int_equal(tape_length(), 0);
    assert_int_equal(books()->live, live);
    scope = tensor_scope_begin();
    Tensor *loss = tensor_promote(tensor_sum(tensor_gelu(w)));
    tensor_scope_end(scope);
    assert_int_equal(tape_length(), 2); /* the loss can still be reached */
    assert_int_equal(tensor_backward(loss), 0);
    assert_int_equal(tape_length(), 0);
    assert_non_null(tensor_grad(w));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_context, leave_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_context_on_demand),
        TEST(test_several_contexts),
        TEST(test_context_options),
        TEST(test_two_threads_two_contexts),
        TEST(test_errors_stick),
        TEST(test_shapes),
        TEST(test_fills),
        TEST(test_scopes),
        TEST(test_parameters_outlive_scopes),
        TEST(test_too_many_scopes),
        TEST(test_unreachable_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
