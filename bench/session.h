/* A model, its optimizer and one fixed batch: what a training step of a benchmark shape needs. The same code
 * runs on meta (planning, tracking) and for real. */
#ifndef BRIM_BENCH_SESSION_H
#define BRIM_BENCH_SESSION_H

#include <stdlib.h>
#include <string.h>

#include "../base/clock_.h"
#include "../nn/nn.h"
#include "../optim/optim.h"
#include "../plan/plan.h"
#include "../tensor/precision.h"
#include "../tensor/tensor_.h"
#include "../tests/tensor_data.h"

typedef struct Session {
    Module *model;
    Optimizer *optimizer;
    Batch batch;
    double loss;
    uint64_t model_bytes;    /* tracked when the model was there and nothing else */
    uint64_t model_resident; /* the process at that moment */
} Session;

/* Of sessions opened from here on: their heads compute rows with a label only. */
static int session_skips_unlabelled;

/* And their parameters and activations have these types; NULL = fp32. */
static const Precision *session_precision;

/* And their AdamW keeps its states in 8 bit. */
static int session_eight_bit;

static uint32_t session_random(uint32_t *state) /* xorshift32 */
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void session_fill(Session *s, const ModelPreset *preset)
{
    uint32_t state = 1;
    uint32_t vocab = (uint32_t)nn_preset_vocab(preset);
    int64_t rows = preset->batch * (int64_t)(preset->seq ? preset->seq : 1);
    float *features = s->batch.features ? tensor_f32(s->batch.features) : NULL;
    for (int64_t i = 0; features && i < tensor_numel(s->batch.features); i++)
        features[i] = (float)(session_random(&state) >> 8) * 0x1p-24f;
    int32_t *ids = s->batch.ids ? tensor_i32(s->batch.ids) : NULL, *labels = tensor_i32(s->batch.labels);
    for (int64_t i = 0; i < rows; i++) {
        int32_t token = (int32_t)(session_random(&state) % vocab);
        if (ids)
            ids[i] = token;
        /* 15 % of BERT's labels count; elsewhere all do */
        int counts = preset->family != MODEL_BERT || session_random(&state) % 100 < 15;
        labels[i] = counts ? (int32_t)(session_random(&state) % vocab) : BATCH_IGNORE;
        s->batch.labels_counted += counts;
    }
    s->batch.labels_total = s->batch.labels_counted;
}

/* The model is there: the optimizer of what it trains, and the batch. Returns error_code(). */
static int session_ready(Session *s, const ModelPreset *preset, float lr)
{
    const Context *context = context_current();
    s->model_bytes = memtrack_stats(context_ledger(context))->live;
    s->model_resident = memtrack_process_resident();
    TensorList all = nn_parameters(s->model);
    s->optimizer = session_eight_bit
                       ? optim_adamw8bit(all, &(AdamW8bit){.lr = lr, .weight_decay = 0.1f, .decay_all = 1})
                       : optim_adamw(all, &(AdamW){.lr = lr, .weight_decay = 0.1f, .decay_all = 1});
    if (preset->seq) {
        Shape shape = SHAPE(preset->batch, preset->seq);
        s->batch.ids = tensor_new(DTYPE_I32, shape, MEM_INPUT);
        s->batch.labels = tensor_new(DTYPE_I32, shape, MEM_INPUT);
    } else {
        s->batch.features =
            tensor_new(DTYPE_F32, SHAPE(preset->batch, preset->config.mlp.sizes[0]), MEM_INPUT);
        s->batch.labels = tensor_new(DTYPE_I32, SHAPE(preset->batch), MEM_INPUT);
    }
    s->batch.micros = 1;
    if (!error_code() && !context_is_meta(context))
        session_fill(s, preset);
    return error_code();
}

/* In the current context. Returns error_code(). */
static inline int session_open(Session *s, const ModelPreset *preset)
{
    memset(s, 0, sizeof *s);
    tensor_set_precision(session_precision);
    s->model = nn_model(preset);
    if (session_skips_unlabelled)
        nn_set_skip_unlabelled(s->model, 1);
    return session_ready(s, preset, 3e-4f);
}

/* Forward, loss, backward, AdamW, zero_grad. Returns its seconds. */
static double session_step(Session *s)
{
    double begin = clock_now();
    int scope = tensor_scope_begin();
    Tensor *loss = nn_loss(s->model, &s->batch);
    tensor_backward(loss);
    optim_step(s->optimizer);
    optim_zero_grad(s->optimizer);
    if (!error_code())
        s->loss = tensor_item(loss);
    tensor_scope_end(scope);
    return clock_now() - begin;
}

/* A Script. Its second step's events are those of all later ones. */
static inline int session_script(void *preset)
{
    Session s;
    if (session_open(&s, preset) == 0)
        for (int i = 0; i < 3 && !error_code(); i++)
            session_step(&s);
    return error_code();
}

#endif
