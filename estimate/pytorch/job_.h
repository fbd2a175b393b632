/* What the parts of a job share: its parameters, its model, its script. */
#ifndef BRIM_PYTORCH_JOB__H
#define BRIM_PYTORCH_JOB__H

#include "dialect_.h"
#include "torch_.h"

typedef struct TorchLinear {
    TorchTensor *weight, *bias;
} TorchLinear;

typedef struct TorchNorm {
    TorchTensor *weight, *bias;
} TorchNorm;

typedef struct TorchJob TorchJob;

/* A family: makes its parameters, and computes the loss. */
typedef struct TorchFamily {
    void (*make)(TorchJob *job);
    /* The loss and, in `outputs`, what the model's output keeps besides; both named in the caller's frame. */
    TorchTensor *(*forward)(TorchJob *job, TorchTensor *ids, TorchTensor *labels, TorchTensor *mask);
} TorchFamily;

struct TorchJob {
    Torch torch;
    const PytorchJob *asked;
    const TorchFamily *family;
    PytorchCard card;
    TorchType weights; /* the parameters' type */
    int64_t seq;       /* of this micro-batch */
    TorchTensor **parameters;
    size_t parameter_count, parameter_capacity;
    TorchTensor **states; /* of the optimizer */
    size_t state_count, state_capacity;
    void *model; /* the family's own */
    size_t model_bytes;
    TorchTensor *scaler[2], *found; /* GradScaler's scale and count; whether this step's gradients are infinite */
    TorchTensor **held;   /* what the model's output keeps: the cache, the logits */
    size_t held_count, held_capacity;
};

extern const TorchFamily torch_decoder, torch_gpt2, torch_bert;

TorchPlace torch_enter(Torch *t, const char *module); /* returns the place to go back to */
TorchTensor *torch_parameter(TorchJob *job, int dims, const int64_t *size);
TorchTensor *torch_buffer(TorchJob *job, TorchType type, int dims, const int64_t *size);
TorchLinear torch_make_linear(TorchJob *job, int64_t in, int64_t out, int bias);
TorchNorm torch_make_norm(TorchJob *job, int64_t size); /* of a LayerNorm */
/* Lists the parameter that was made last before those from `place` on. */
void torch_parameter_first(TorchJob *job, size_t place);
TorchTensor *torch_norm(Torch *t, const char *module, const TorchNorm *norm, TorchTensor *x);
/* Checkpointed where it is asked; `also` as in torch_checkpoint. */
TorchTensor *torch_layer(TorchJob *job, TorchFunction *layer, TorchTensor *x, TorchTensor *const *also);
TorchTensor *torch_project(TorchJob *job, const TorchLinear *linear, TorchTensor *x);
TorchTensor *torch_rms_norm(Torch *t, TorchTensor *x, TorchTensor *weight);
TorchTensor *torch_causal_loss(TorchJob *job, TorchTensor *logits, TorchTensor *labels);
/* NULL: attention's own causal rule is enough. */
TorchTensor *torch_causal_mask(TorchJob *job, TorchTensor *given, TorchType type, int64_t window, int caches);
/* Keeps x for as long as the model's output lives. */
void torch_hold(TorchJob *job, TorchTensor *x);

TorchTensor *torch_scale_loss(TorchJob *job, TorchTensor *loss);
void torch_unscale(TorchJob *job);
void torch_scaler_update(TorchJob *job);
void torch_clip(TorchJob *job);
void torch_step(TorchJob *job);
void torch_zero(TorchJob *job);
void torch_loop(TorchJob *job);

#endif
