/* What optim's own files share; not installed. */
#ifndef BRIM_OPTIM_INTERNAL_H
#define BRIM_OPTIM_INTERNAL_H

#include "../kernels/kernels.h"
#include "../tensor/tensor_.h"
#include "optim.h"

#define OPTIM_MAX_ARRAYS UPDATE_STATES

/* What of an options struct goes where in the scalars. */
typedef struct OptionField {
    size_t bytes, from, to; /* bytes 0 ends the list */
} OptionField;

/* One parameter's update, as its rule's kernel takes it. */
typedef struct UpdateCall {
    const Kernels *kernels;
    const KernelRun *run;
    UpdateArrays arrays;
    const UpdateScalars *scalars;
    const UpdateControl *control;
} UpdateCall;

/* A rule is one row of the table in rules.c. */
typedef struct UpdateRule {
    OptimRule shown;
    UpdateScalars defaults; /* taken where an option is 0 */
    void (*update)(const UpdateCall *call);
    /* PyTorch's names of the arrays of state, shaped like the parameter; the momentum buffer, which comes
     * with momentum, has its own name. */
    const char *state[OPTIM_MAX_ARRAYS];
    const OptionField *options; /* of its constructor */
    size_t decay_all;           /* the offset of that option */
    size_t tables;              /* of 8-bit states: the offset of that option */
} UpdateRule;

/* What a constructor was given beside the scalars. */
typedef struct RuleOptions {
    int decay_all;
    int tables; /* the states of embedding tables are 8 bit too */
} RuleOptions;

/* Its arrays without the momentum buffer. */
int rule_arrays(const UpdateRule *rule);

typedef struct ParameterState {
    Tensor *array[OPTIM_MAX_ARRAYS]; /* NULL where the rule has fewer */
    int64_t updates; /* bias correction counts the steps in which this parameter had a gradient */
    int updated; /* 0, or this step's is on its way to a card, which may decide that there is none: 1 + the
                  * operation before it. On the CPU 1, in backward alone. */
    int turn;    /* in backward: which one it was, from 1 */
    int number;  /* of the parameter in the whole model, of which this rank may have a stage */
    float lr_scale, weight_decay;
} ParameterState;

/* How the loss is scaled, and how that goes. */
typedef struct LossScaling {
    int on, step_skipped; /* step_skipped: the last one was */
    int64_t interval;     /* good steps in a row after which a dynamic scale grows */
    LossScale state;
} LossScaling;

struct Optimizer {
    ScopeItem item;
    const UpdateRule *rule;
    UpdateScalars scalars; /* lr is the base, before the schedule */
    UpdateControl control; /* of this step: what clipping found */
    Storage *squares;      /* on a card: the sum of each gradient's squares; NULL on the CPU */
    int arrays;            /* of state a parameter */
    int count, capacity;   /* of the two lists below */
    int absent;            /* parameters of other stages, at the end of the first one */
    int tables;            /* of RuleOptions */
    Tensor **parameters;   /* a reference each, so that who is freed first does not matter */
    ParameterState *state; /* of parameters[i] */
    Schedule schedule;
    float max_norm, grad_norm;
    LossScaling scaling;
    int stochastic; /* how bf16 is rounded */
    int64_t steps;
    GradientHook hook; /* in the context's list while in backward */
    int in_backward;
    int updates_in_backward; /* done inside backward since the last step */
    int final_at; /* the parameter found last: gradients become final roughly in the reverse order of the list
                   */
};

/* Scalars are complete and valid. NULL with an error, and nothing held, on failure. */
Optimizer *optimizer_new(const UpdateRule *rule, const UpdateScalars *scalars, const RuleOptions *options,
                         TensorList parameters);

/* Updates parameter i, which has a gradient. Allocates nothing. */
void optimizer_update(const Optimizer *optimizer, int i, UpdateScalars scalars);
/* The parameter is there and has a gradient. A parameter whose module was freed may still have received a
 * gradient. */
int optimizer_has_update(const Tensor *parameter);

/* Sets what updates read: the factor on every gradient, which is that of PyTorch's clip_grad_norm_ and undoes
 * the scale of the loss; or that nothing is to be updated, since a gradient is not finite. Reads gradients at
 * most once. 0, or raises: ranks do not agree. */
int optimizer_find_control(Optimizer *optimizer);

/* What updates read is found on the card; of `count` parameters from `first` on, whether their gradients are
 * finite too, and the factor that clips them. */
void optimizer_control_on_card(const Optimizer *optimizer, int first, int count);

/* Whether the gradient of parameter i is finite; else *bad is the first element that is not. A card is waited
 * for. */
int optimizer_is_finite(const Optimizer *optimizer, int i, int64_t *bad);
/* Updates that the card has not made, by what was read last, do not count. */
void optimizer_uncount(Optimizer *optimizer);
/* On a card a gradient was not finite when its parameter was to be updated in backward: raises that. */
int in_backward_blame(Optimizer *optimizer);

/* The scale of the loss that the gradients come from; 1 without scaling. */
double loss_scale_of_gradients(const Optimizer *optimizer);
/* After a step whose gradients were finite, or not. 0, or raises when scaling cannot help: `bad` is not. */
int loss_scale_step(Optimizer *optimizer, int finite);
/* The optimizer goes. */
void loss_scale_end(const Optimizer *optimizer);
/* Raises that a gradient is not finite, and which; `why`: what follows. */
int optimizer_blame(const Optimizer *optimizer, const char *why);
/* Raises that it is another rank's. */
int optimizer_blame_other(void);

/* The factor on the learning rate of `step`, counted from 0. */
double schedule_factor(const Schedule *schedule, int64_t step);
/* Raises ERROR_ARGUMENT and returns 0 when it makes no sense. */
int schedule_valid(const Schedule *schedule);

/* From this element on; NULL on meta. */
static inline void *optimizer_elements(DType type, const Storage *storage, int64_t first)
{
    return storage_data(storage) ? (char *)storage_data(storage) + dtype_bytes(type, 1, first) : NULL;
}

#endif
