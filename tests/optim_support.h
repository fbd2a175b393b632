/* What the tests of optimizers share: parameters of awkward shapes, gradients made by a loss that is linear
 * in the parameter, and the cases. */
#ifndef BRIM_OPTIM_SUPPORT_H
#define BRIM_OPTIM_SUPPORT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "optim/optim.h"
#include "tensor/ops.h"
#include "tests/tensor_data.h"

#define STEPS 20
#define COUNT 5

/* One element, a prime past a vector, two dimensions, many vectors, and enough for more than one thread. */
static const Shape shapes[COUNT] = {
    {1, {1, 1, 1, 1}}, {1, {33, 1, 1, 1}}, {2, {7, 5, 1, 1}}, {1, {1000, 1, 1, 1}}, {3, {3, 71, 67, 1}}};
static const char *const names[COUNT] = {"one", "bias", "weight", "long", "cube"};
/* Their bytes in f32, rounded up to 64. */
static const uint64_t rounded[COUNT] = {64, 192, 192, 4032, 57088}, rounded_sum = 61568;

static uint64_t live_before;

static inline Context *context_open(const ContextOptions *options)
{
    Context *context = context_create(options);
    assert_non_null(context);
    context_use(context);
    return context;
}

static inline int open_context(void **state)
{
    live_before = memtrack_process_live();
    *state = context_open(&(ContextOptions){.threads = 2, .seed = 7});
    return 0;
}

static inline int close_context(void **state)
{
    memtrack_fail_nth(0);
    context_destroy(*state);
    return memtrack_process_live() == live_before ? 0 : -1;
}

/* In [-1, 1), the same everywhere. */
static inline float noise(uint32_t stream, uint32_t i)
{
    uint32_t x = stream * 0x9E3779B9u + i;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    x ^= x >> 16;
    return (float)((double)x / 2147483648.0 - 1.0);
}

static inline Tensor *parameter(Shape shape, const char *name, uint32_t stream)
{
    Tensor *tensor = tensor_parameter(shape);
    tensor_set_name(tensor, name);
    float *data = tensor ? tensor_f32(tensor) : NULL;
    for (int64_t i = 0; data && i < tensor_numel(tensor); i++)
        data[i] = noise(stream, (uint32_t)i);
    return tensor;
}

/* One of each shape. */
typedef struct Set {
    Tensor *items[COUNT];
} Set;

static inline Set set_new(void)
{
    Set set;
    for (int i = 0; i < COUNT; i++)
        set.items[i] = parameter(shapes[i], names[i], 100 + (uint32_t)i);
    return set;
}

static inline void set_free(Set *set)
{
    for (int i = 0; i < COUNT; i++)
        tensor_free(set->items[i]);
}

static inline TensorList list_of(Set *set)
{
    return (TensorList){set->items, COUNT};
}

/* d/dp sum(p * g) = g, through the tape. */
static inline void give_gradient(Tensor *p, uint32_t stream, float scale)
{
    int scope = tensor_scope_begin();
    Tensor *g = tensor_new(DTYPE_F32, tensor_shape(p), MEM_INPUT);
    float *data = g ? tensor_f32(g) : NULL;
    for (int64_t i = 0; data && i < tensor_numel(g); i++)
        data[i] = scale * noise(stream, (uint32_t)i);
    tensor_backward(tensor_sum(tensor_mul(p, g)));
    tensor_scope_end(scope);
}

static inline void fine(void)
{
    if (error_code())
        print_message("error: %s\n", error_message());
    assert_int_equal(error_code(), ERROR_NONE);
}

/* The error is this one, and says so; cleared. */
static inline void refused(ErrorCode code, const char *text)
{
    if (!strstr(error_message(), text))
        print_message("got: %s\nwanted: %s\n", error_message(), text);
    assert_int_equal(error_code(), code);
    assert_non_null(strstr(error_message(), text));
    error_clear();
}

static inline const MemStats *books(void)
{
    return memtrack_stats(context_ledger(context_current()));
}

/* ---- The rules ------------------------------------------------------------------------------- */

typedef enum Kind { KIND_SGD, KIND_RMSPROP, KIND_ADAGRAD, KIND_ADAM, KIND_ADAMW } Kind;

typedef struct Case {
    const char *name;
    Kind kind;
    int arrays; /* of state */
    float lr, momentum, dampening, weight_decay, alpha, eps, beta1, beta2;
    int nesterov, decay_all;
} Case;

static const Case cases[] = {
    {"sgd", KIND_SGD, 0, .lr = 0.1f},
    {"sgd", KIND_SGD, 0, .lr = 0.1f, .weight_decay = 0.05f, .decay_all = 1},
    {"sgd-momentum", KIND_SGD, 1, .lr = 0.1f, .momentum = 0.9f, .weight_decay = 0.05f},
    {"sgd-momentum", KIND_SGD, 1, .lr = 0.1f, .momentum = 0.8f, .dampening = 0.3f, .weight_decay = 0.05f},
    {"sgd-nesterov", KIND_SGD, 1, .lr = 0.1f, .momentum = 0.9f, .nesterov = 1},
    {"sgd-nesterov", KIND_SGD, 1, .lr = 0.1f, .momentum = 0.9f, .nesterov = 1, .weight_decay = 0.1f},
    {"rmsprop", KIND_RMSPROP, 1, .lr = 0.01f, .alpha = 0.99f, .eps = 1e-8f},
    {"rmsprop", KIND_RMSPROP, 1, .lr = 0.01f, .alpha = 0.9f, .eps = 1e-3f, .weight_decay = 0.2f,
     .decay_all = 1},
    {"rmsprop", KIND_RMSPROP, 2, .lr = 0.01f, .alpha = 0.9f, .eps = 1e-6f, .momentum = 0.9f,
     .weight_decay = 0.05f},
    {"adagrad", KIND_ADAGRAD, 1, .lr = 0.1f, .eps = 1e-10f},
    {"adagrad", KIND_ADAGRAD, 1, .lr = 0.1f, .eps = 1e-3f, .weight_decay = 0.2f, .decay_all = 1},
    {"adam", KIND_ADAM, 2, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f},
    {"adam", KIND_ADAM, 2, .lr = 0.01f, .beta1 = 0.8f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f},
    {"adamw", KIND_ADAMW, 2, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f},
    {"adamw", KIND_ADAMW, 2, .lr = 0.02f, .beta1 = 0.8f, .beta2 = 0.95f, .eps = 1e-3f, .weight_decay = 0.5f,
     .decay_all = 1},
};

static inline Optimizer *make(const Case *c, TensorList list)
{
    switch (c->kind) {
    case KIND_SGD:
        return optim_sgd(
            list, &(Sgd){c->lr, c->momentum, c->dampening, c->weight_decay, c->nesterov, c->decay_all});
    case KIND_RMSPROP:
        return optim_rmsprop(list,
                             &(RmsProp){c->lr, c->alpha, c->eps, c->momentum, c->weight_decay, c->decay_all});
    case KIND_ADAGRAD:
        return optim_adagrad(list, &(Adagrad){c->lr, c->eps, c->weight_decay, c->decay_all});
    case KIND_ADAM:
        return optim_adam(list, &(Adam){c->lr, c->beta1, c->beta2, c->eps, c->weight_decay, c->decay_all});
    default:
        return optim_adamw(list, &(AdamW){c->lr, c->beta1, c->beta2, c->eps, c->weight_decay, c->decay_all});
    }
}

static inline void near(double value, double expected)
{
    if (!(fabs(value - expected) <= 1e-6))
        fail_msg("%.9g is not %.9g", value, expected);
}

#endif
