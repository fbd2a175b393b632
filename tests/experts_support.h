/* A small model of layers with experts for tests: its script trains it as a Job says. */
#ifndef EXPERTS_SUPPORT_H
#define EXPERTS_SUPPORT_H

#include "../optim/optim.h"
#include "../tensor/ops_.h"
#include "ranks_support.h"

enum {
    LAYERS = 2,
    EXPERTS = 5,
    WIDTH = 24,
    HIDDEN = 12,
    BATCH = 2,
    SEQ = 7,
    TOKENS = BATCH * SEQ,
    STEPS = 3
};
enum { PARAMETERS = 3 }; /* of a layer: router, gate_up, down */

typedef struct Job {
    DType weights; /* of experts; 0 = f32, trained */
    int checkpoint, active, normalise, masked;
    float coefficient;
    const char *precision;
    RankStrategy strategy;
    float *numbers; /* trained parameters at the end */
    float *base;    /* experts of all layers, decoded */
    float loss[STEPS];
    char error[4][RANK_ERROR];
} Job;

typedef struct Layer {
    const Job *job;
    Tensor *parameter[PARAMETERS], *balance, *mask;
} Layer;

static inline Tensor *layer_forward(void *self, Tensor *x, const Batch *batch)
{
    const Layer *l = self;
    (void)batch;
    Tensor *router = tensor_linear(x, l->parameter[0], NULL, TENSOR_IDENTITY);
    Tensor *y = tensor_experts(x, tensor_donate(router), l->parameter[1], l->parameter[2],
                               &(ExpertsOptions){.active = l->job->active,
                                                 .normalise = l->job->normalise,
                                                 .balance = l->balance,
                                                 .mask = l->mask});
    return tensor_add(x, tensor_donate(y));
}

/* dtype 0: trained */
static inline Tensor *parameter_of(Shape shape, DType dtype, float std)
{
    int frozen = dtype != 0;
    Tensor *t = tensor_parameter_(frozen ? dtype : tensor_precision()->weights, shape, frozen);
    tensor_fill_normal(t, 0, std);
    return t;
}

static inline void layers_new(const Job *job, Layer *layers, Tensor **list)
{
    for (int i = 0; i < LAYERS; i++) {
        layers[i] = (Layer){.job = job};
        layers[i].parameter[0] = parameter_of(SHAPE(EXPERTS, WIDTH), 0, 1);
        layers[i].parameter[1] = parameter_of(SHAPE(EXPERTS, 2 * HIDDEN, WIDTH), job->weights, 0.3f);
        layers[i].parameter[2] = parameter_of(SHAPE(EXPERTS, WIDTH, HIDDEN), job->weights, 0.3f);
        for (int p = 0; p < PARAMETERS; p++)
            list[i * PARAMETERS + p] = layers[i].parameter[p];
    }
}

static inline Tensor *mask_new(void)
{
    Tensor *mask = tensor_new(DTYPE_I32, SHAPE(BATCH, SEQ), MEM_INPUT);
    int32_t values[TOKENS];
    for (int i = 0; i < TOKENS; i++)
        values[i] = i % SEQ < 5 + i / SEQ;
    if (mask)
        tensor_write(mask, 0, sizeof values, values);
    return mask;
}

/* A loss that depends on every output, and with a coefficient on the routing. */
static inline Tensor *loss_of(const Job *job, Layer *layers, Tensor *x, Tensor *balance)
{
    Tensor *mask = job->masked ? mask_new() : NULL;
    tensor_balance_begin(job->coefficient != 0 ? balance : NULL);
    for (int i = 0; i < LAYERS; i++) {
        layers[i].balance = job->coefficient != 0 ? balance : NULL;
        layers[i].mask = mask;
        x = job->checkpoint ? tensor_checkpoint(layer_forward, &layers[i], tensor_donate(x), NULL)
                            : layer_forward(&layers[i], x, NULL);
    }
    Tensor *loss = tensor_mean(tensor_mul(x, x));
    return job->coefficient != 0
               ? tensor_balance_loss(tensor_donate(loss), balance, job->active, job->coefficient)
               : loss;
}

static inline Tensor *input_of(int step)
{
    float x[TOKENS * WIDTH];
    fill_values(x, TOKENS * WIDTH, 70 + (uint32_t)step, 1, 0);
    Tensor *t = tensor_new(DTYPE_F32, SHAPE(BATCH, SEQ, WIDTH), MEM_INPUT);
    if (t)
        tensor_write(t, 0, sizeof x, x);
    return tensor_cast(t, tensor_precision()->activations);
}

/* Experts that ranks have divided are whole while somebody reads them. */
static inline void read_base(const Job *job, const Layer *layers)
{
    int64_t at = 0;
    for (int i = 0; i < LAYERS * 2; i++) {
        Tensor *t = layers[i / 2].parameter[1 + i % 2];
        if (t && shard_gather(t) == 0 && storage_data(t->storage) && job->base)
            tensor_decode_(t, 0, tensor_numel(t), job->base + at);
        shard_release(t);
        at += t ? tensor_numel(t) : 0;
    }
}

static inline void write_numbers(TensorList all, float *to)
{
    if (context_current()->ranks) {
        write_parts(all, to);
        return;
    }
    for (int i = 0; i < all.count; to += tensor_numel(all.items[i++])) /* a card's too */
        tensor_decode_(all.items[i], 0, tensor_numel(all.items[i]), to);
}

static inline int script(void *config)
{
    Job *job = config;
    Layer layers[LAYERS];
    Tensor *list[LAYERS * PARAMETERS];
    if (job->precision)
        tensor_set_precision(precision_by_name(job->precision));
    layers_new(job, layers, list);
    Tensor *balance = tensor_zeros(DTYPE_F32, SHAPE(3, EXPERTS), MEM_BUFFER);
    if (job->weights)
        read_base(job, layers);
    TensorList all = {list, LAYERS * PARAMETERS};
    Optimizer *optimizer = optim_adamw(all, &(AdamW){.lr = 1e-2f});
    for (int step = 0; step < STEPS && !error_code(); step++) {
        int scope = tensor_scope_begin();
        Tensor *loss = loss_of(job, layers, input_of(step), balance);
        tensor_backward(loss);
        for (int i = 0; i < all.count && !error_code(); i++)
            if (tensor_requires_grad(list[i]) && !context_current()->ranks)
                assert_true(tensor_grad(list[i]) || error_code()); /* of every expert, whatever the routing */
        if (loss && !context_is_meta(context_current()))
            job->loss[step] = tensor_item(loss);
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
    if (job->numbers && !context_is_meta(context_current()) && !error_code())
        write_numbers(all, job->numbers);
    for (int i = 0; i < all.count; i++)
        tensor_free(list[i]);
    return error_code();
}

#endif
