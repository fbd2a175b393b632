/* What optim's own files share; not installed. */
#ifndef BRIM_OPTIM_INTERNAL_H
#define BRIM_OPTIM_INTERNAL_H

#include "../kernels/kernels.h"
#include "../tensor/tensor_.h"
#include "optim.h"

#define OPTIM_MAX_ARRAYS 2

/* What of an options struct goes where in the scalars. */
typedef struct OptionField {
    size_t bytes, from, to; /* bytes 0 ends the list */
} OptionField;

/* One parameter's update, as its rule's kernel takes it. */
typedef struct UpdateCall {
    const Kernels *kernels;
    const KernelRun *run;
    int64_t n;
    const UpdateScalars *scalars;
    const UpdateControl *control;
    float *parameter;
    const float *gradient;
    float *state[OPTIM_MAX_ARRAYS]; /* NULL where the rule has fewer */
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
} UpdateRule;

/* Its arrays without the momentum buffer. */
int rule_arrays(const UpdateRule *rule);

typedef struct ParameterState {
    Tensor *array[OPTIM_MAX_ARRAYS]; /* NULL where the rule has fewer */
    int64_t updates; /* bias correction counts the steps in which this parameter had a gradient */
    float lr_scale, weight_decay;
} ParameterState;

struct Optimizer {
    ScopeItem item;
    const UpdateRule *rule;
    UpdateScalars scalars; /* lr is the base, before the schedule */
    UpdateControl control; /* of this step: what clipping found */
    int arrays;            /* of state a parameter */
    int count, capacity;   /* of the two lists below */
    Tensor **parameters;   /* a reference each, so that who is freed first does not matter */
    ParameterState *state; /* of parameters[i] */
    Schedule schedule;
    float max_norm, grad_norm;
    int64_t steps;
    GradientHook hook; /* in the context's list while in backward */
    int in_backward;
    int updates_in_backward; /* done inside backward since the last step */
    int final_at; /* the parameter found last: gradients become final roughly in the reverse order of the list
                   */
};

/* Scalars are complete and valid. NULL with an error, and nothing held, on failure. */
Optimizer *optimizer_new(const UpdateRule *rule, const UpdateScalars *scalars, int decay_all,
                         TensorList parameters);

/* Updates parameter i, which has a gradient. Allocates nothing. */
void optimizer_update(const Optimizer *optimizer, int i, UpdateScalars scalars);
/* The parameter is there and has a gradient. A parameter whose module was freed may still have received a
 * gradient. */
int optimizer_has_update(const Tensor *parameter);

/* The factor on the learning rate of `step`, counted from 0. */
double schedule_factor(const Schedule *schedule, int64_t step);
/* Raises ERROR_ARGUMENT and returns 0 when it makes no sense. */
int schedule_valid(const Schedule *schedule);

#endif
