/* Optimizers over parameters of every convention: which type each state has and what that costs, what a step
 * writes, 8-bit states, and that threads do not matter. */
#include "../base/half_.h"
#include "optim_support.h"

#include "../kernels/kernels.h"
#include "../nn/nn.h"
#include "../io/safetensors.h"

void fill_values(float *to, int64_t n, uint32_t stream, double scale, double offset); /* support.h */

/* ---- Parameters ------------------------------------------------------------------------------ */

/* Of the current precision, with values by formula. */
static Tensor *typed_parameter(Shape shape, const char *name, uint32_t stream)
{
    Tensor *p = tensor_parameter_(tensor_precision()->weights, shape, 0);
    assert_non_null(p);
    tensor_set_name(p, name);
    int64_t n = tensor_numel(p);
    for (int64_t i = 0; i < n && !context_is_meta(context_current()); i++) {
        float value = noise(stream, (uint32_t)i);
        if (p->master)
            storage_f32(p->master)[i] = value;
        if (p->dtype == DTYPE_F32)
            tensor_f32(p)[i] = value;
        else
            ((uint16_t *)tensor_data(p))[i] =
                p->dtype == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
    }
    return p;
}

/* A gradient of its type, scaled. */
static void typed_gradient(Tensor *p, uint32_t stream, float scale)
{
    DType type = gradient_type(p);
    int64_t n = tensor_numel(p);
    tensor_drop_grad(p);
    gradient_set(p, storage_new(context_current(), (int64_t)dtype_bytes(type, 1, n), MEM_GRADIENT));
    assert_non_null(p->grad);
    for (int64_t i = 0; i < n && storage_data(p->grad); i++) {
        float value = scale * noise(stream, (uint32_t)i);
        if (type == DTYPE_F32)
            storage_f32(p->grad)[i] = value;
        else
            ((uint16_t *)storage_data(p->grad))[i] =
                type == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
    }
}

typedef struct Typed {
    Tensor *items[COUNT];
} Typed;

static Typed typed_set(void)
{
    Typed set;
    for (int i = 0; i < COUNT; i++)
        set.items[i] = typed_parameter(shapes[i], names[i], 100 + (uint32_t)i);
    return set;
}

static TensorList typed_list(Typed *set)
{
    return (TensorList){set->items, COUNT};
}

static void typed_free(Typed *set)
{
    for (int i = 0; i < COUNT; i++)
        tensor_free(set->items[i]);
}

/* A convention by name, its rounding and its gradients' type as asked for. */
static void set_convention(const char *name, int stochastic, int wide_gradients)
{
    Precision precision = *precision_by_name(name);
    precision.stochastic = stochastic;
    if (wide_gradients)
        precision.gradients = DTYPE_F32;
    assert_int_equal(tensor_set_precision(&precision), 0);
}

static const struct {
    const char *name;
    int stochastic, wide;
} conventions[] = {
    {"fp32", 0, 0},          {"bf16-mixed", 0, 0},    {"bf16-mixed", 0, 1},    {"bf16", 1, 0},
    {"bf16", 0, 0},          {"bf16-states32", 1, 0}, {"bf16-states32", 0, 1}, {"fp16-mixed", 0, 0},
    {"bf16-autocast", 0, 0}, {"fp16-autocast", 0, 0},
};
enum { CONVENTIONS = sizeof conventions / sizeof *conventions };

/* ---- What a step writes ---------------------------------------------------------------------- */

/* Copies of all arrays of a parameter, which the rule's kernel then updates by itself. */
typedef struct Copy {
    unsigned char *p, *state[2];
    float *master;
} Copy;

static void *copied(const void *from, size_t bytes)
{
    void *to = from ? test_malloc(bytes) : NULL;
    if (to)
        memcpy(to, from, bytes);
    return to;
}

static Copy copy_new(const Optimizer *optimizer, int i)
{
    Tensor *p = optim_parameters(optimizer).items[i];
    size_t n = (size_t)tensor_numel(p);
    Copy copy = {.p = copied(tensor_data(p), shape_bytes(p->dtype, p->shape)),
                 .master = copied(storage_f32(p->master), 4 * n)};
    for (int k = 0; k < optim_state_arrays(optimizer); k++) {
        Tensor *array = optim_state(optimizer, i, k);
        copy.state[k] = copied(tensor_data(array), shape_bytes(array->dtype, array->shape));
    }
    return copy;
}

static void copy_free(Copy *copy)
{
    test_free(copy->p);
    if (copy->master)
        test_free(copy->master);
    for (int k = 0; k < 2; k++)
        if (copy->state[k])
            test_free(copy->state[k]);
}

static void assert_copy(const Copy *copy, const Optimizer *optimizer, int i)
{
    Tensor *p = optim_parameters(optimizer).items[i];
    assert_memory_equal(copy->p, tensor_data(p), shape_bytes(p->dtype, p->shape));
    if (copy->master)
        assert_memory_equal(copy->master, storage_f32(p->master), (size_t)tensor_numel(p) * 4);
    for (int k = 0; k < optim_state_arrays(optimizer); k++) {
        Tensor *array = optim_state(optimizer, i, k);
        assert_memory_equal(copy->state[k], tensor_data(array), shape_bytes(array->dtype, array->shape));
    }
}

static UpdateScalars scalars_of(const Case *c, int i, int64_t step)
{
    return (UpdateScalars){.lr = c->lr,
                           .momentum = c->momentum,
                           .dampening = c->dampening,
                           .weight_decay = c->decay_all || shapes[i].ndim > 1 ? c->weight_decay : 0,
                           .nesterov = c->nesterov,
                           .alpha = c->alpha,
                           .eps = c->eps,
                           .beta1 = c->beta1,
                           .beta2 = c->beta2,
                           .decoupled = c->kind == KIND_ADAMW,
                           .step = step};
}

static void update_copy(const Copy *copy, const Optimizer *optimizer, const Case *c, int i, int64_t step)
{
    const Kernels *k = context_current()->kernels;
    Tensor *p = optim_parameters(optimizer).items[i];
    const RoundingKey key = {.seed = 7, .parameter = (uint32_t)i};
    UpdateArrays a = {.n = tensor_numel(p),
                      .p = copy->p,
                      .p_type = p->dtype,
                      .master = copy->master,
                      .g = storage_data(p->grad),
                      .g_type = gradient_type(p),
                      .rounding = tensor_precision()->stochastic ? &key : NULL};
    for (int s = 0; s < optim_state_arrays(optimizer); s++) {
        a.state[s] = copy->state[s];
        a.state_type[s] = optim_state(optimizer, i, s)->dtype;
    }
    UpdateScalars scalars = scalars_of(c, i, step);
    const UpdateControl control = {.grad_scale = 1};
    (c->kind == KIND_SGD       ? k->sgd
     : c->kind == KIND_RMSPROP ? k->rmsprop
     : c->kind == KIND_ADAGRAD ? k->adagrad
                               : k->adam)(&a, &scalars, &control, &(KernelRun){.threads = 1});
}

static void check_case(const Case *c)
{
    Typed set = typed_set();
    Optimizer *optimizer = make(c, typed_list(&set));
    assert_non_null(optimizer);
    for (int64_t step = 1; step <= 3; step++) {
        Copy copies[COUNT];
        for (int i = 0; i < COUNT; i++) {
            typed_gradient(set.items[i], (uint32_t)(step * 10 + i), 1);
            copies[i] = copy_new(optimizer, i);
            update_copy(&copies[i], optimizer, c, i, step);
        }
        assert_int_equal(optim_step(optimizer), 0);
        for (int i = 0; i < COUNT; i++) {
            assert_copy(&copies[i], optimizer, i);
            copy_free(&copies[i]);
        }
        optim_zero_grad(optimizer);
    }
    fine();
    optimizer_free(optimizer);
    typed_free(&set);
}

static void test_steps(void **state)
{
    (void)state;
    for (int v = 0; v < CONVENTIONS; v++) {
        set_convention(conventions[v].name, conventions[v].stochastic, conventions[v].wide);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            check_case(&cases[i]);
    }
}

/* Weights that are rounded come near those of fp32: the mean over many elements is theirs. */
static void test_near_fp32(void **state)
{
    enum { N = 20000, TIMES = 20 };
    double mean[3] = {0};
    static const char *const names_of[] = {"fp32", "bf16", "bf16"};
    (void)state;
    for (int v = 0; v < 3; v++) {
        set_convention(names_of[v], v == 1, 0);
        Tensor *p = tensor_parameter_(tensor_precision()->weights, SHAPE(N), 0);
        tensor_fill(p, 1);
        Optimizer *optimizer = optim_sgd((TensorList){&p, 1}, &(Sgd){.lr = 1e-3f});
        for (int step = 0; step < TIMES; step++) {
            int64_t bytes = (int64_t)dtype_bytes(gradient_type(p), 1, N);
            gradient_set(p, storage_new(context_current(), bytes, MEM_GRADIENT));
            for (int i = 0; i < N; i++)
                if (gradient_type(p) == DTYPE_F32)
                    storage_f32(p->grad)[i] = 1;
                else
                    ((uint16_t *)storage_data(p->grad))[i] = 0x3F80;
            optim_step(optimizer);
            optim_zero_grad(optimizer);
        }
        float value;
        for (int i = 0; i < N; i++) {
            tensor_decode_(p, i, 1, &value);
            mean[v] += (double)value / N;
        }
        optimizer_free(optimizer);
        tensor_free(p);
    }
    assert_true(fabs(mean[0] - 0.98) < 1e-5);
    assert_true(fabs(mean[1] - 0.98) < 4 * 0.0088 / sqrt(N)); /* sigma of a step is at most 2^-9 */
    assert_true(fabs(mean[2] - 1) < 1e-9);                    /* to nearest, no step is ever taken */
}

/* A step is the same for any number of threads, also where it rounds at random. */
static void test_threads(void **state)
{
    uint16_t *values[2];
    enum { N = 40000 };
    for (int v = 0; v < 2; v++) {
        Context *context = context_open(&(ContextOptions){.threads = v ? 3 : 1, .seed = 11});
        set_convention("bf16", 1, 0);
        Tensor *p = typed_parameter(SHAPE(N), "p", 3);
        Optimizer *optimizer = optim_adamw((TensorList){&p, 1}, &(AdamW){.lr = 0.01f});
        for (int step = 0; step < 4; step++) {
            typed_gradient(p, (uint32_t)step, 1);
            optim_step(optimizer);
        }
        values[v] = copied(tensor_data(p), 2 * N);
        optimizer_free(optimizer);
        tensor_free(p);
        context_destroy(context);
        context_use(*state);
    }
    assert_memory_equal(values[0], values[1], 2 * N);
    test_free(values[0]);
    test_free(values[1]);
}

/* ---- Gradients of every type ----------------------------------------------------------------- */

/* The largest of its type, or none: an element of a gradient. */
static void make_infinite(Tensor *p, int64_t i)
{
    const float infinity = INFINITY;
    const uint16_t half = gradient_type(p) == DTYPE_F16 ? 0x7C00 : 0x7F80;
    int wide = gradient_type(p) == DTYPE_F32;
    storage_write(p->grad, (uint64_t)i * (wide ? 4 : 2), wide ? 4 : 2,
                  wide ? (const void *)&infinity : &half);
}

static double norm_of(const Typed *set)
{
    double squares = 0;
    for (int i = 0; i < COUNT; i++)
        for (int64_t k = 0; k < tensor_numel(set->items[i]); k++) {
            const Tensor *p = set->items[i];
            const uint16_t *halves = storage_data(p->grad);
            float value = gradient_type(p) == DTYPE_F32   ? storage_f32(p->grad)[k]
                          : gradient_type(p) == DTYPE_F16 ? half_from_f16(halves[k])
                                                          : half_from_bf16(halves[k]);
            squares += (double)value * (double)value;
        }
    return sqrt(squares);
}

/* The norm is that of the gradients as they are; one that is not finite is named, or skips the step and
 * leaves everything as it is. */
static void test_gradients(void **state)
{
    (void)state;
    for (int v = 0; v < CONVENTIONS; v++)
        for (int clip = 0; clip < 2; clip++) {
            set_convention(conventions[v].name, conventions[v].stochastic, conventions[v].wide);
            Typed set = typed_set();
            Optimizer *optimizer = optim_adamw(typed_list(&set), NULL);
            Copy copies[COUNT];
            optim_set_clip(optimizer, clip ? 0.5f : 0);
            for (int i = 0; i < COUNT; i++)
                typed_gradient(set.items[i], (uint32_t)i, 1);
            double norm = norm_of(&set);
            assert_int_equal(optim_step(optimizer), 0);
            assert_true(!clip || fabs((double)optim_grad_norm(optimizer) / norm - 1) < 1e-6);
            optim_zero_grad_keep(optimizer);
            assert_true(norm_of(&set) == 0);
            for (int i = 0; i < COUNT; i++)
                copies[i] = copy_new(optimizer, i);
            make_infinite(set.items[4], 77);
            assert_int_equal(optim_step(optimizer), clip ? ERROR_NONFINITE : 0);
            if (clip)
                refused(ERROR_NONFINITE,
                        "element 77 of the gradient of parameter 4 'cube' (3,71,67) is infinite");
            if (!clip) { /* nobody looked */
                for (int i = 0; i < COUNT; i++) {
                    copy_free(&copies[i]);
                    copies[i] = copy_new(optimizer, i);
                }
            }
            optim_zero_grad(optimizer);
            assert_int_equal(optim_set_loss_scale(optimizer, 0), 0);
            int64_t updates = optim_updates(optimizer, 4);
            for (int i = 0; i < COUNT; i++)
                typed_gradient(set.items[i], (uint32_t)i, 1);
            make_infinite(set.items[4], 77);
            assert_int_equal(optim_step(optimizer), 0);
            assert_true(optim_step_skipped(optimizer));
            assert_int_equal(optim_updates(optimizer, 4), updates);
            for (int i = 0; i < COUNT; i++) {
                assert_copy(&copies[i], optimizer, i);
                copy_free(&copies[i]);
            }
            optimizer_free(optimizer);
            typed_free(&set);
        }
    fine();
}

/* ---- Bytes ----------------------------------------------------------------------------------- */

/* Of a parameter of Adam: weights, master, gradient and states as the bracket says. */
static void test_bytes(void **state)
{
    enum { N = 1 << 16 };
    static const struct {
        const char *name;
        int wide, weights, master, gradient, states;
    } expected[] = {
        {"fp32", 0, 4, 0, 4, 8},          {"bf16", 0, 2, 0, 2, 4},       {"bf16-states32", 0, 2, 0, 2, 8},
        {"bf16-mixed", 0, 2, 4, 2, 8},    {"bf16-mixed", 1, 2, 4, 4, 8}, {"fp16-mixed", 0, 2, 4, 2, 8},
        {"bf16-autocast", 0, 4, 0, 4, 8},
    };
    (void)state;
    for (size_t v = 0; v < sizeof expected / sizeof *expected; v++) {
        set_convention(expected[v].name, 0, expected[v].wide);
        Tensor *p = typed_parameter(SHAPE(256, N / 256), "p", 1);
        Optimizer *optimizer = optim_adamw((TensorList){&p, 1}, NULL);
        typed_gradient(p, 1, 1);
        assert_int_equal(books()->live_by[MEM_PARAMETER], expected[v].weights * N);
        assert_int_equal(books()->live_by[MEM_MASTER], expected[v].master * N);
        assert_int_equal(books()->live_by[MEM_GRADIENT], expected[v].gradient * N);
        assert_int_equal(books()->live_by[MEM_OPTIMIZER], expected[v].states * N);
        optimizer_free(optimizer);
        tensor_free(p);
        assert_int_equal(books()->live, 0);
    }
}

/* ---- 8-bit states ---------------------------------------------------------------------------- */

static void check_states(Tensor *p, const Optimizer *optimizer, int eight)
{
    uint64_t n = (uint64_t)tensor_numel(p), bytes = eight ? (n + 3) / 4 * 4 + (n + 255) / 256 * 4 : 4 * n;
    for (int k = 0; k < 2; k++) {
        const Tensor *array = optim_state(optimizer, 0, k);
        assert_int_equal(array->dtype, !eight ? DTYPE_F32 : k ? DTYPE_UDYNAMIC8 : DTYPE_DYNAMIC8);
        assert_int_equal(array->storage->block.requested, bytes);
        assert_true(shape_equal(array->shape, p->shape));
    }
}

/* Small parameters and tables stay in f32; 2.03125 bytes an element. */
static void test_which_are_8_bit(void **state)
{
    static const struct {
        Shape shape;
        int table, tables, eight;
    } expected[] = {
        {{1, {4095, 1, 1, 1}}, 0, 0, 0}, {{1, {4096, 1, 1, 1}}, 0, 0, 1}, {{2, {64, 64, 1, 1}}, 0, 0, 1},
        {{2, {99, 83, 1, 1}}, 0, 0, 1},  {{2, {99, 83, 1, 1}}, 1, 0, 0},  {{2, {99, 83, 1, 1}}, 1, 1, 1},
        {{2, {9, 8, 1, 1}}, 1, 1, 0},
    };
    static const char *const precisions[] = {"fp32", "bf16", "bf16-mixed"};
    (void)state;
    for (int v = 0; v < 3; v++) {
        set_convention(precisions[v], 0, 0);
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
            Tensor *p = typed_parameter(expected[i].shape, "p", 1);
            p->table = (unsigned char)expected[i].table;
            Optimizer *both[] = {
                optim_adam8bit((TensorList){&p, 1}, &(Adam8bit){.tables = expected[i].tables}),
                optim_adamw8bit((TensorList){&p, 1}, &(AdamW8bit){.tables = expected[i].tables})};
            for (int k = 0; k < 2; k++) {
                check_states(p, both[k], expected[i].eight);
                optimizer_free(both[k]);
            }
            tensor_free(p);
        }
    }
    Module *modules[] = {nn_embedding(99, 64), nn_linear(99, 64, 0)};
    for (int i = 0; i < 2; i++) {
        Optimizer *optimizer = optim_adamw8bit(nn_parameters(modules[i]), NULL);
        check_states(nn_parameters(modules[i]).items[0], optimizer, i);
        optimizer_free(optimizer);
        module_free(modules[i]);
    }
    Tensor *p = typed_parameter(SHAPE(1024, 256), "p", 1);
    Optimizer *optimizer = optim_by_name("adamw8bit", (TensorList){&p, 1}, 0, 0);
    assert_int_equal(books()->live_by[MEM_OPTIMIZER], 1024 * 256 * 2.03125);
    optimizer_free(optimizer);
    tensor_free(p);
    fine();
}

/* tests/precision/adam8.py: five steps of AdamW whose states are stored by nearest codes. */
static void test_reference(void **state)
{
    Safetensors *file = safetensors_open("tests/precision/fixtures/adam8.safetensors");
    (void)state;
    assert_non_null(file);
    for (int i = 0; i < 3; i++) {
        char name[48];
        snprintf(name, sizeof name, "p%d.after", i);
        const SafetensorsEntry *after = safetensors_find(file, name);
        assert_non_null(after);
        Tensor *p = tensor_parameter_(DTYPE_F32, SHAPE(after->numel), 0);
        fill_values(tensor_f32(p), after->numel, 900 + (uint32_t)i, 1, 0);
        Optimizer *optimizer = optim_adamw8bit(
            (TensorList){&p, 1},
            &(AdamW8bit){.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .weight_decay = 0.1f, .decay_all = 1});
        for (uint32_t step = 0; step < 5; step++) {
            typed_gradient(p, 0, 0);
            fill_values(storage_f32(p->grad), after->numel, 1000 + 10 * (uint32_t)i + step, 0.01, 0);
            for (int64_t k = 0; k < after->numel; k++) /* blocks of several sizes */
                storage_f32(p->grad)[k] *= ldexpf(1, -(int)(k / 256 % 5));
            assert_int_equal(optim_step(optimizer), 0);
        }
        const float *expected = after->data, *made = tensor_f32(p);
        for (int64_t k = 0; k < after->numel; k++)
            assert_true(fabsf(made[k] - expected[k]) <= 1e-6f * (1 + fabsf(expected[k])));
        for (int k = 0; k < 2; k++) {
            snprintf(name, sizeof name, "p%d.codes%d", i, k + 1);
            const SafetensorsEntry *codes = safetensors_find(file, name);
            Tensor *array = optim_state(optimizer, 0, k);
            if (!codes) {
                assert_int_equal(array->dtype, DTYPE_F32);
                continue;
            }
            const unsigned char *want = codes->data, *have = tensor_data(array);
            int64_t differ = 0;
            for (int64_t j = 0; j < codes->numel; j++) {
                assert_true(abs(want[j] - have[j]) <= 1);
                differ += want[j] != have[j];
            }
            assert_true(1000 * differ <= codes->numel);
            snprintf(name, sizeof name, "p%d.absmax%d", i, k + 1);
            const SafetensorsEntry *scales = safetensors_find(file, name);
            const float *absmax = (const float *)(const void *)(have + (codes->numel + 3) / 4 * 4);
            for (int64_t j = 0; j < scales->numel; j++) {
                float want_scale;
                memcpy(&want_scale, (const char *)scales->data + 4 * j, sizeof want_scale);
                assert_true(fabsf(absmax[j] - want_scale) <= 2e-6f * want_scale);
            }
        }
        optimizer_free(optimizer);
        tensor_free(p);
    }
    safetensors_close(file);
    fine();
}

/* ---- Failures -------------------------------------------------------------------------------- */

/* Every allocation of a creation fails in turn; nothing stays. */
static void test_creation_fails(void **state)
{
    static const char *const precisions[] = {"bf16", "bf16-mixed", "fp32"};
    for (int v = 0; v < 3; v++) {
        set_convention(precisions[v], 1, 0);
        Typed set = typed_set();
        uint64_t live = books()->live, host = memtrack_host_live(context_tracker(*state)), n = 0;
        for (int made = 0; !made;) {
            memtrack_fail_nth(++n);
            Optimizer *optimizer = optim_by_name(v == 2 ? "adamw8bit" : "adamw", typed_list(&set), 0, 0);
            made = memtrack_fail_pending();
            memtrack_fail_nth(0);
            if (!made) {
                assert_null(optimizer);
                assert_true(error_code() == ERROR_MEMORY || error_code() == ERROR_HOST_MEMORY);
                error_clear();
            }
            optimizer_free(optimizer);
            assert_int_equal(books()->live, live);
            assert_int_equal(memtrack_host_live(context_tracker(*state)), host);
        }
        assert_int_equal(n, 3 + 3 * 2 * COUNT + 1); /* no buffer beside the arrays */
        typed_free(&set);
    }
}

static void test_refused(void **state)
{
    (void)state;
    Tensor *codes = tensor_zeros(DTYPE_INT8, SHAPE(8, 8), MEM_PARAMETER);
    codes->requires_grad = 1;
    assert_null(optim_adam((TensorList){&codes, 1}, NULL));
    refused(ERROR_ARGUMENT, "is not f32, bf16 or f16");
    Tensor *half = tensor_zeros(DTYPE_F16, SHAPE(8, 8), MEM_PARAMETER);
    half->requires_grad = 1;
    assert_null(optim_adam((TensorList){&half, 1}, NULL));
    refused(ERROR_ARGUMENT, "is f16 without an fp32 master");
    Precision precision = *precision_by_name("fp16-mixed");
    precision.master = 0;
    assert_int_equal(tensor_set_precision(&precision), ERROR_ARGUMENT);
    error_clear();
    tensor_free(codes);
    tensor_free(half);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_steps),     TEST(test_near_fp32),      TEST(test_threads),
        TEST(test_gradients), TEST(test_bytes),          TEST(test_which_are_8_bit),
        TEST(test_reference), TEST(test_creation_fails), TEST(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
