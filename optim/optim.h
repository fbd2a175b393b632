/* optim: SGD, RMSprop, Adagrad, Adam and AdamW with PyTorch's update rules; parameter groups, norm clipping,
 * schedules.
 *
 * An optimizer takes a list of parameters and knows no module. State is allocated at creation (component
 * OPTIMIZER, charged to each parameter's module path), zeroed, so that step 1 costs what step 2 costs. Its
 * type is f32 for parameters in f32, and for those in 16 bit what the context's precision says
 * (tensor/precision.h). An update reads and writes each array once: it computes in f32, and rounds once, at
 * random where the precision says so, by numbers that depend on the context's seed, the parameter's index,
 * the number of its update and the element alone. Optimizers belong to the current scope. Options are
 * structs; zero means the default named beside each field.
 */
#ifndef BRIM_OPTIM_H
#define BRIM_OPTIM_H

#include "../tensor/tensor.h"
#include "optim_names.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Optimizer Optimizer;

typedef struct Sgd {
    float lr;           /* 1e-3 */
    float momentum;     /* 0: no state at all */
    float dampening;    /* 0 */
    float weight_decay; /* 0; added to the gradient */
    int nesterov;       /* needs momentum > 0 and dampening 0 */
    int decay_all;      /* here and below. 0: weight decay spares 1-dimensional parameters (norms, biases),
                           which is usual for language models. 1: decays all, which is PyTorch's default */
} Sgd;

typedef struct RmsProp {
    float lr;       /* 1e-2 */
    float alpha;    /* 0.99 */
    float eps;      /* 1e-8 */
    float momentum; /* 0 */
    float weight_decay;
    int decay_all;
} RmsProp;

typedef struct Adagrad {
    float lr;           /* 1e-2 */
    float eps;          /* 1e-10 */
    float weight_decay; /* 0; added to the gradient */
    int decay_all;
} Adagrad;

typedef struct Adam {
    float lr;           /* 1e-3 */
    float beta1;        /* 0.9 */
    float beta2;        /* 0.999 */
    float eps;          /* 1e-8 */
    float weight_decay; /* 0; added to the gradient */
    int decay_all;
} Adam;

typedef struct AdamW {
    float lr;           /* 1e-3 */
    float beta1;        /* 0.9 */
    float beta2;        /* 0.999 */
    float eps;          /* 1e-8 */
    float weight_decay; /* 0.01; decoupled. Negative = none */
    int decay_all;
} AdamW;

/* Adam and AdamW whose two means are kept in 8 bit, in blocks of 256 with a scale: 2.03 bytes a parameter
 * instead of 8. Dettmers et al., arXiv 2110.02861; the nearest of bitsandbytes' dynamic codes. Parameters of
 * fewer than 4096 elements keep theirs in f32, and so do embedding tables, which are unstable otherwise. */
typedef struct Adam8bit {
    float lr;           /* 1e-3 */
    float beta1;        /* 0.9 */
    float beta2;        /* 0.999 */
    float eps;          /* 1e-8 */
    float weight_decay; /* 0; added to the gradient */
    int decay_all;
    int tables; /* 1: the states of embedding tables are 8 bit too */
} Adam8bit;

typedef struct AdamW8bit {
    float lr;           /* 1e-3 */
    float beta1;        /* 0.9 */
    float beta2;        /* 0.999 */
    float eps;          /* 1e-8 */
    float weight_decay; /* 0.01; decoupled, before the update. Negative = none */
    int decay_all;
    int tables; /* as in Adam8bit */
} AdamW8bit;

/* NULL with an error for options out of range, frozen-only or empty lists, or without memory. Frozen
 * parameters in the list are skipped and get no state. A parameter in f16 needs a master: its steps are too
 * small for it, and rounding at random is for bf16. Sources: PyTorch's documentation of torch.optim;
 * Duchi et al., Adaptive Subgradient Methods, JMLR 12 (2011), for Adagrad, whose lr_decay is a schedule here;
 * Loshchilov & Hutter, arXiv 1711.05101. */
BRIM_API Optimizer *optim_sgd(TensorList parameters, const Sgd *options);
BRIM_API Optimizer *optim_rmsprop(TensorList parameters, const RmsProp *options);
BRIM_API Optimizer *optim_adagrad(TensorList parameters, const Adagrad *options);
BRIM_API Optimizer *optim_adam(TensorList parameters, const Adam *options);
BRIM_API Optimizer *optim_adamw(TensorList parameters, const AdamW *options);
BRIM_API Optimizer *optim_adam8bit(TensorList parameters, const Adam8bit *options);
BRIM_API Optimizer *optim_adamw8bit(TensorList parameters, const AdamW8bit *options);

/* A row of the table of update rules. */
typedef struct OptimRule {
    const char *name;  /* "adamw" */
    const char *title; /* "AdamW" */
    int states;        /* that it keeps, of a parameter's size each, with its defaults */
    float usual_lr;    /* for training from scratch; 0: it scales the step of each element, and the model
                          decides (nn_family's lr) */
    float tuning_lr;   /* for weights that are trained already */
    int eight_bit;     /* its states are kept in 8 bit where that is worth it */
} OptimRule;
BRIM_API const OptimRule *optim_rule_at(int i); /* NULL past the end */
BRIM_API const OptimRule *
optim_rule(const char *name); /* NULL: there is none of this name; nothing is raised */
/* By a rule's name: "sgd", "sgd-momentum" (0.9), "sgd-nesterov" (0.9), "rmsprop", "adagrad", "adam", "adamw",
 * "adam8bit", "adamw8bit".
 * lr 0 = the default of each; weight_decay 0 = the default of each. An unknown name is an error that lists
 * these. */
BRIM_API Optimizer *optim_by_name(const char *name, TensorList parameters, float lr, float weight_decay);

/* From the next step on these parameters (all known to the optimizer) use lr * lr_scale and this weight
 * decay. */
BRIM_API int optim_set_group(Optimizer *optimizer, TensorList parameters, float lr_scale, float weight_decay);

typedef enum ScheduleKind { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE } ScheduleKind;
typedef struct Schedule {
    ScheduleKind kind;
    int64_t warmup;  /* steps of linear warm-up: step k (from 0) has lr * (k + 1) / warmup */
    int64_t total;   /* steps in all, warm-up included; needed by LINEAR and COSINE */
    float min_ratio; /* lr at the end, as a fraction of lr: 0 */
} Schedule;
/* From the next step on the learning rate follows this schedule. */
BRIM_API int optim_set_schedule(Optimizer *optimizer, const Schedule *schedule);
/* Scales all gradients so that their joint 2-norm is at most max_norm (PyTorch's clip_grad_norm_, its 1e-6
 * included); 0 = off. The update applies the factor; it takes no pass of its own. */
BRIM_API int optim_set_clip(Optimizer *optimizer, float max_norm);

/* Multiplies the loss before backward, and divides the gradients by the same number in the update, so that
 * small gradients do not vanish in 16 bit (Micikevicius et al., arXiv 1710.03740). Everything that is shown
 * is unscaled: the loss, the norm. A step in which a gradient is not finite is skipped: weights, states,
 * counts of updates, rounding and schedule stay as they are, to the bit, and it is no error. scale 0 =
 * dynamic, as PyTorch's GradScaler does it: 65536 at first, doubled after 2000 good steps in a row, halved
 * after a bad one. Where that would take it below 2^-14, or 32 steps in a row were skipped at a scale that
 * stays, scaling does not help: an error that names the gradient. Refused (ERROR_ARGUMENT) below 2^-14 or not
 * finite; and (ERROR_STATE) while there are gradients, beside another optimizer of the context that scales,
 * and, where dynamic, in backward. Returns error_code(). */
BRIM_API int optim_set_loss_scale(Optimizer *optimizer, float scale);
BRIM_API float optim_loss_scale(const Optimizer *optimizer); /* of the next backward; 1 = it is not scaled */
BRIM_API int64_t optim_skipped(const Optimizer *optimizer);  /* steps, of those taken */
BRIM_API int optim_step_skipped(const Optimizer *optimizer); /* 1: the last one was */

/* on: from now on a parameter is updated inside tensor_backward as soon as its gradient is final (tied
 * weights: after the last use), and the gradient is freed at once, so that gradients never exist together.
 * optim_step then only ends the step, optim_zero_grad finds nothing; parameters are bitwise those of separate
 * steps. The learning rate is that at the time of backward. Refused (ERROR_STATE) beside norm clipping, which
 * needs all gradients, beside a dynamic loss scale, for a parameter that another optimizer in backward
 * updates, and between a backward and its optim_step. A second tensor_backward before optim_step
 * (accumulation) is refused before it computes anything. A loss that is not finite updates nothing. An error
 * after it, such as memory that runs out, or (where the loss is scaled) a gradient that is not finite, leaves
 * some parameters updated and others not: its message says how many, and the first and the last. Then
 * optim_step ends the step without counting it. Returns error_code(). (Lv et al., arXiv 2306.09782,
 * call it LOMO.) */
BRIM_API int optim_set_in_backward(Optimizer *optimizer, int on);

/* Updates every parameter that has a gradient. A gradient norm that is not finite (when clipping) is an error
 * and nothing is updated; where the loss is scaled, the step is skipped instead. Returns error_code(). Does
 * nothing while an error is pending. Allocates nothing. */
BRIM_API int optim_step(Optimizer *optimizer);
/* Frees all gradients, so that the next backward starts from nothing (PyTorch's set_to_none). */
BRIM_API void optim_zero_grad(Optimizer *optimizer);
/* Fills the gradients that exist with zeros and keeps them (PyTorch's set_to_none=False): they live through
 * the next forward, and a parameter that the next backward does not reach is still updated, with zero.
 * Refused while in backward. */
BRIM_API void optim_zero_grad_keep(Optimizer *optimizer);

BRIM_API float optim_lr(const Optimizer *optimizer); /* that the next step will use, schedule included */
BRIM_API void optim_set_lr(Optimizer *optimizer, float lr); /* the base */
BRIM_API float
optim_grad_norm(const Optimizer *optimizer); /* of the last step, before clipping; 0 without clipping */
BRIM_API int64_t optim_steps(const Optimizer *optimizer);         /* taken, those skipped included */
BRIM_API const char *optim_name(const Optimizer *optimizer);      /* "adamw" */
BRIM_API TensorList optim_parameters(const Optimizer *optimizer); /* without frozen ones */
/* Of a model in stages (Ranks.stages): those that other ranks' optimizers have. Here they are names and
 * shapes. */
BRIM_API TensorList optim_absent(const Optimizer *optimizer);
BRIM_API void optimizer_free(Optimizer *optimizer); /* before its scope ends; NULL is fine */

/* ---- State, to be saved and restored (io_save_run does both) ---------------------------
 *
 * Everything an optimizer remembers: optim_steps, the base learning rate, and of each parameter (by its index
 * in optim_parameters) some arrays shaped like it (f32, bf16, f16, or of an 8-bit type: base/dtype.h)
 * and the number of its updates, which bias correction counts. Schedule, clipping, groups and the optimizer
 * in backward are settings, which a script sets by itself.
 */

BRIM_API int optim_state_arrays(const Optimizer *optimizer); /* of a parameter: 0, 1 or 2 */
/* As PyTorch calls them: "exp_avg", "exp_avg_sq", "square_avg", "momentum_buffer"; NULL out of range. */
BRIM_API const char *optim_state_name(const Optimizer *optimizer, int array);
/* The array itself, the optimizer's, to be read or written (tensor_read, tensor_write); NULL out of range. */
BRIM_API Tensor *optim_state(const Optimizer *optimizer, int parameter, int array);
/* What that array of a parameter, or of one of optim_absent, is made of. */
BRIM_API DType optim_state_type(const Optimizer *optimizer, const Tensor *parameter, int array);
BRIM_API int64_t optim_updates(const Optimizer *optimizer, int parameter); /* 0 out of range */
BRIM_API float optim_base_lr(const Optimizer *optimizer);                  /* before the schedule */
/* The scale of the loss, and what decides how it goes on. */
typedef struct LossScale {
    float scale; /* 0: the loss is not scaled */
    int dynamic;
    int64_t good, bad; /* steps in a row: one of the two is 0 */
    int64_t skipped;   /* in all */
} LossScale;
BRIM_API LossScale optim_scaling(const Optimizer *optimizer);
/* Of an optimizer that scales alike, dynamically or not: ERROR_ARGUMENT otherwise, and for what cannot be. */
BRIM_API int optim_set_scaling(Optimizer *optimizer, const LossScale *scaling);
/* Refused (ERROR_ARGUMENT) when negative or out of range; and between a backward that updated parameters and
 * its optim_step (ERROR_STATE). The schedule continues from the steps. */
BRIM_API int optim_set_updates(Optimizer *optimizer, int parameter, int64_t updates);
BRIM_API int optim_set_steps(Optimizer *optimizer, int64_t steps);

#ifdef __cplusplus
}
#endif
#endif
