/* The update rules, one row each, and the constructors that turn options into a row's scalars. A new rule is
 * a row, its kernel, and an options struct. */
#include <math.h>
#include <string.h>

#include "optim_.h"

/* ---- The table ------------------------------------------------------------------------------- */

static void update_sgd(const Kernels *kernels, int64_t n, const UpdateScalars *scalars, float *parameter,
                       const float *gradient, const OptimArrays state, int threads)
{
    kernels->sgd(n, scalars, parameter, gradient, state[0], threads);
}

static void update_rmsprop(const Kernels *kernels, int64_t n, const UpdateScalars *scalars, float *parameter,
                           const float *gradient, const OptimArrays state, int threads)
{
    kernels->rmsprop(n, scalars, parameter, gradient, state[0], state[1], threads);
}

static void update_adam(const Kernels *kernels, int64_t n, const UpdateScalars *scalars, float *parameter,
                        const float *gradient, const OptimArrays state, int threads)
{
    kernels->adam(n, scalars, parameter, gradient, state[0], state[1], threads);
}

typedef enum RuleId {
    RULE_SGD,
    RULE_SGD_MOMENTUM,
    RULE_SGD_NESTEROV,
    RULE_RMSPROP,
    RULE_ADAM,
    RULE_ADAMW
} RuleId;

/* 0.01 of weight decay is the only default that a user may want to undo: there, negative means none. */
static const OptimRule rules[] = {
    [RULE_SGD] = {"sgd", 0, {.lr = 1e-3f}, update_sgd, {NULL}},
    [RULE_SGD_MOMENTUM] = {"sgd-momentum", 0, {.lr = 1e-3f, .momentum = 0.9f}, update_sgd, {NULL}},
    [RULE_SGD_NESTEROV] =
        {"sgd-nesterov", 0, {.lr = 1e-3f, .momentum = 0.9f, .nesterov = 1}, update_sgd, {NULL}},
    [RULE_RMSPROP] =
        {"rmsprop", 1, {.lr = 1e-2f, .alpha = 0.99f, .eps = 1e-8f}, update_rmsprop, {"square_avg"}},
    [RULE_ADAM] = {"adam",
                   2,
                   {.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f},
                   update_adam,
                   {"exp_avg", "exp_avg_sq"}},
    [RULE_ADAMW] =
        {"adamw",
         2,
         {.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.01f, .decoupled = 1},
         update_adam,
         {"exp_avg", "exp_avg_sq"}},
};

#define RULE_COUNT ((int)(sizeof rules / sizeof *rules))

/* ---- Options to scalars ---------------------------------------------------------------------- */

static float or_default(float value, float fallback)
{
    return value == 0 ? fallback : value; /* NaN stays, and is refused */
}

static UpdateScalars with_defaults(const OptimRule *rule, UpdateScalars s)
{
    const UpdateScalars *d = &rule->defaults;
    if (d->weight_decay > 0 && s.weight_decay < 0)
        s.weight_decay = 0;
    else
        s.weight_decay = or_default(s.weight_decay, d->weight_decay);
    s.lr = or_default(s.lr, d->lr);
    s.momentum = or_default(s.momentum, d->momentum);
    s.alpha = or_default(s.alpha, d->alpha);
    s.beta1 = or_default(s.beta1, d->beta1);
    s.beta2 = or_default(s.beta2, d->beta2);
    s.eps = or_default(s.eps, d->eps);
    s.nesterov = s.nesterov || d->nesterov;
    s.decoupled = d->decoupled;
    s.grad_scale = 1;
    return s;
}

static int scalars_valid(const OptimRule *rule, const UpdateScalars *s)
{
    const struct {
        const char *field;
        float value, below;
    } checks[] = {
        {"lr", s->lr, INFINITY},
        {"momentum", s->momentum, INFINITY},
        {"weight_decay", s->weight_decay, INFINITY},
        {"eps", s->eps, INFINITY},
        {"alpha", s->alpha, 1},
        {"beta1", s->beta1, 1},
        {"beta2", s->beta2, 1},
    };
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        if (checks[i].value >= 0 && checks[i].value < checks[i].below)
            continue;
        error_raise(ERROR_ARGUMENT, "optimizer %s: %s is %g; it must be %s", rule->name, checks[i].field,
                    (double)checks[i].value,
                    checks[i].below > 1 ? "a finite number not below 0" : "in [0, 1)");
        return 0;
    }
    if (!isfinite(s->dampening)) {
        error_raise(ERROR_ARGUMENT, "optimizer %s: dampening is %g", rule->name, (double)s->dampening);
        return 0;
    }
    if (s->nesterov && (s->momentum == 0 || s->dampening != 0)) {
        error_raise(ERROR_ARGUMENT,
                    "optimizer %s: nesterov needs momentum > 0 and dampening 0, not %g and %g", rule->name,
                    (double)s->momentum, (double)s->dampening);
        return 0;
    }
    return 1;
}

static Optimizer *create(RuleId id, TensorList parameters, UpdateScalars given, int decay_all)
{
    if (error_code())
        return NULL;
    const OptimRule *rule = &rules[id];
    UpdateScalars scalars = with_defaults(rule, given);
    return scalars_valid(rule, &scalars) ? optimizer_new(rule, &scalars, decay_all, parameters) : NULL;
}

/* ---- Constructors ---------------------------------------------------------------------------- */

Optimizer *optim_sgd(TensorList parameters, const Sgd *options)
{
    static const Sgd defaults;
    const Sgd *o = options ? options : &defaults;
    RuleId id = o->momentum == 0 ? RULE_SGD : o->nesterov ? RULE_SGD_NESTEROV : RULE_SGD_MOMENTUM;
    return create(id, parameters,
                  (UpdateScalars){.lr = o->lr,
                                  .momentum = o->momentum,
                                  .dampening = o->dampening,
                                  .weight_decay = o->weight_decay,
                                  .nesterov = o->nesterov},
                  o->decay_all);
}

Optimizer *optim_rmsprop(TensorList parameters, const RmsProp *options)
{
    static const RmsProp defaults;
    const RmsProp *o = options ? options : &defaults;
    return create(RULE_RMSPROP, parameters,
                  (UpdateScalars){.lr = o->lr,
                                  .alpha = o->alpha,
                                  .eps = o->eps,
                                  .momentum = o->momentum,
                                  .weight_decay = o->weight_decay},
                  o->decay_all);
}

Optimizer *optim_adam(TensorList parameters, const Adam *options)
{
    static const Adam defaults;
    const Adam *o = options ? options : &defaults;
    return create(RULE_ADAM, parameters,
                  (UpdateScalars){.lr = o->lr,
                                  .beta1 = o->beta1,
                                  .beta2 = o->beta2,
                                  .eps = o->eps,
                                  .weight_decay = o->weight_decay},
                  o->decay_all);
}

Optimizer *optim_adamw(TensorList parameters, const AdamW *options)
{
    static const AdamW defaults;
    const AdamW *o = options ? options : &defaults;
    return create(RULE_ADAMW, parameters,
                  (UpdateScalars){.lr = o->lr,
                                  .beta1 = o->beta1,
                                  .beta2 = o->beta2,
                                  .eps = o->eps,
                                  .weight_decay = o->weight_decay},
                  o->decay_all);
}

static void raise_unknown(const char *name)
{
    char known[128] = "";
    for (int i = 0; i < RULE_COUNT; i++) {
        if (i > 0)
            strncat(known, ", ", sizeof known - strlen(known) - 1);
        strncat(known, rules[i].name, sizeof known - strlen(known) - 1);
    }
    error_raise(ERROR_ARGUMENT, "optim_by_name: no optimizer is called '%s'; known are %s",
                name ? name : "(null)", known);
}

Optimizer *optim_by_name(const char *name, TensorList parameters, float lr, float weight_decay)
{
    for (int i = 0; name && i < RULE_COUNT; i++) {
        if (strcmp(name, rules[i].name) != 0)
            continue;
        if (weight_decay < 0 && rules[i].defaults.weight_decay == 0)
            weight_decay = 0; /* negative means none, whichever the name */
        return create((RuleId)i, parameters, (UpdateScalars){.lr = lr, .weight_decay = weight_decay}, 0);
    }
    raise_unknown(name);
    return NULL;
}
