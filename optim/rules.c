/* The update rules, one row each, and the constructors that turn options into a row's scalars. A new rule is
 * a row, its kernel, an options struct and its constructor: CONTRIBUTING.md has the list of files. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "optim_.h"

/* ---- Kernels --------------------------------------------------------------------------------- */

static void update_sgd(const UpdateCall *c)
{
    c->kernels->sgd(&c->arrays, c->scalars, c->control, c->run);
}

static void update_rmsprop(const UpdateCall *c)
{
    c->kernels->rmsprop(&c->arrays, c->scalars, c->control, c->run);
}

static void update_adagrad(const UpdateCall *c)
{
    c->kernels->adagrad(&c->arrays, c->scalars, c->control, c->run);
}

static void update_adam(const UpdateCall *c)
{
    c->kernels->adam(&c->arrays, c->scalars, c->control, c->run);
}

/* ---- Options --------------------------------------------------------------------------------- */

#define TAKES(Options, field)                                                                                \
    {                                                                                                        \
        sizeof((Options){0}.field), offsetof(Options, field), offsetof(UpdateScalars, field)                 \
    }

static const OptionField sgd_options[] = {TAKES(Sgd, lr),        TAKES(Sgd, momentum),
                                          TAKES(Sgd, dampening), TAKES(Sgd, weight_decay),
                                          TAKES(Sgd, nesterov),  {0}};
static const OptionField rmsprop_options[] = {TAKES(RmsProp, lr),           TAKES(RmsProp, alpha),
                                              TAKES(RmsProp, eps),          TAKES(RmsProp, momentum),
                                              TAKES(RmsProp, weight_decay), {0}};
static const OptionField adagrad_options[] = {
    TAKES(Adagrad, lr), TAKES(Adagrad, eps), TAKES(Adagrad, weight_decay), {0}};
static const OptionField adam_options[] = {TAKES(Adam, lr),  TAKES(Adam, beta1),        TAKES(Adam, beta2),
                                           TAKES(Adam, eps), TAKES(Adam, weight_decay), {0}};
static const OptionField adamw_options[] = {TAKES(AdamW, lr),           TAKES(AdamW, beta1),
                                            TAKES(AdamW, beta2),        TAKES(AdamW, eps),
                                            TAKES(AdamW, weight_decay), {0}};
static const OptionField adam8bit_options[] = {TAKES(Adam8bit, lr),           TAKES(Adam8bit, beta1),
                                               TAKES(Adam8bit, beta2),        TAKES(Adam8bit, eps),
                                               TAKES(Adam8bit, weight_decay), {0}};
static const OptionField adamw8bit_options[] = {TAKES(AdamW8bit, lr),           TAKES(AdamW8bit, beta1),
                                                TAKES(AdamW8bit, beta2),        TAKES(AdamW8bit, eps),
                                                TAKES(AdamW8bit, weight_decay), {0}};

/* ---- The table ------------------------------------------------------------------------------- */

typedef enum RuleId {
    RULE_SGD,
    RULE_SGD_MOMENTUM,
    RULE_SGD_NESTEROV,
    RULE_RMSPROP,
    RULE_ADAGRAD,
    RULE_ADAM,
    RULE_ADAMW,
    RULE_ADAM8BIT,
    RULE_ADAMW8BIT
} RuleId;

/* 0.01 of weight decay is the only default that a user may want to undo: there, negative means none. */
static const UpdateRule rules[] = {
    [RULE_SGD] = {.shown = {"sgd", "SGD", .states = 0, .usual_lr = 0.05f, .tuning_lr = 0.05f},
                  .defaults = {.lr = 1e-3f},
                  .update = update_sgd,
                  .options = sgd_options,
                  .decay_all = offsetof(Sgd, decay_all)},
    [RULE_SGD_MOMENTUM] = {.shown = {"sgd-momentum", "SGD with momentum", .states = 1, .usual_lr = 0.05f,
                                     .tuning_lr = 0.005f},
                           .defaults = {.lr = 1e-3f, .momentum = 0.9f},
                           .update = update_sgd,
                           .options = sgd_options,
                           .decay_all = offsetof(Sgd, decay_all)},
    [RULE_SGD_NESTEROV] = {.shown = {"sgd-nesterov", "SGD with Nesterov momentum", .states = 1,
                                     .usual_lr = 0.05f, .tuning_lr = 0.005f},
                           .defaults = {.lr = 1e-3f, .momentum = 0.9f, .nesterov = 1},
                           .update = update_sgd,
                           .options = sgd_options,
                           .decay_all = offsetof(Sgd, decay_all)},
    [RULE_RMSPROP] = {.shown = {"rmsprop", "RMSprop", .states = 1, .tuning_lr = 2e-5f},
                      .defaults = {.lr = 1e-2f, .alpha = 0.99f, .eps = 1e-8f},
                      .update = update_rmsprop,
                      .state = {"square_avg"},
                      .options = rmsprop_options,
                      .decay_all = offsetof(RmsProp, decay_all)},
    [RULE_ADAGRAD] = {.shown = {"adagrad", "Adagrad", .states = 1, .usual_lr = 0.005f, .tuning_lr = 1e-4f},
                      .defaults = {.lr = 1e-2f, .eps = 1e-10f},
                      .update = update_adagrad,
                      .state = {"sum"},
                      .options = adagrad_options,
                      .decay_all = offsetof(Adagrad, decay_all)},
    [RULE_ADAM] = {.shown = {"adam", "Adam", .states = 2, .tuning_lr = 2e-5f},
                   .defaults = {.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f},
                   .update = update_adam,
                   .state = {"exp_avg", "exp_avg_sq"},
                   .options = adam_options,
                   .decay_all = offsetof(Adam, decay_all)},
    [RULE_ADAMW] = {.shown = {"adamw", "AdamW", .states = 2, .tuning_lr = 2e-5f},
                    .defaults = {.lr = 1e-3f,
                                 .beta1 = 0.9f,
                                 .beta2 = 0.999f,
                                 .eps = 1e-8f,
                                 .weight_decay = 0.01f,
                                 .decoupled = 1},
                    .update = update_adam,
                    .state = {"exp_avg", "exp_avg_sq"},
                    .options = adamw_options,
                    .decay_all = offsetof(AdamW, decay_all)},
    [RULE_ADAM8BIT] = {.shown = {"adam8bit", "8-bit Adam", .states = 2, .tuning_lr = 2e-5f, .eight_bit = 1},
                       .defaults = {.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f},
                       .update = update_adam,
                       .state = {"exp_avg", "exp_avg_sq"},
                       .options = adam8bit_options,
                       .decay_all = offsetof(Adam8bit, decay_all),
                       .tables = offsetof(Adam8bit, tables)},
    [RULE_ADAMW8BIT] = {.shown = {"adamw8bit", "8-bit AdamW", .states = 2, .tuning_lr = 2e-5f,
                                  .eight_bit = 1},
                        .defaults = {.lr = 1e-3f,
                                     .beta1 = 0.9f,
                                     .beta2 = 0.999f,
                                     .eps = 1e-8f,
                                     .weight_decay = 0.01f,
                                     .decoupled = 1},
                        .update = update_adam,
                        .state = {"exp_avg", "exp_avg_sq"},
                        .options = adamw8bit_options,
                        .decay_all = offsetof(AdamW8bit, decay_all),
                        .tables = offsetof(AdamW8bit, tables)},
};

#define RULE_COUNT ((int)(sizeof rules / sizeof *rules))

const OptimRule *optim_rule_at(int i)
{
    return i >= 0 && i < RULE_COUNT ? &rules[i].shown : NULL;
}

const OptimRule *optim_rule(const char *name)
{
    for (int i = 0; name && i < RULE_COUNT; i++)
        if (!strcmp(rules[i].shown.name, name))
            return &rules[i].shown;
    return NULL;
}

int rule_arrays(const UpdateRule *rule)
{
    int count = 0;
    while (count < OPTIM_MAX_ARRAYS && rule->state[count])
        count++;
    return count;
}

/* ---- Options to scalars ---------------------------------------------------------------------- */

static float or_default(float value, float fallback)
{
    return value == 0 ? fallback : value; /* NaN stays, and is refused */
}

static UpdateScalars with_defaults(const UpdateRule *rule, UpdateScalars s)
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
    return s;
}

static int scalars_valid(const UpdateRule *rule, const UpdateScalars *s)
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
        error_raise(ERROR_ARGUMENT, "optimizer %s: %s is %g; it must be %s", rule->shown.name,
                    checks[i].field, (double)checks[i].value,
                    checks[i].below > 1 ? "a finite number not below 0" : "in [0, 1)");
        return 0;
    }
    if (!isfinite(s->dampening)) {
        error_raise(ERROR_ARGUMENT, "optimizer %s: dampening is %g", rule->shown.name, (double)s->dampening);
        return 0;
    }
    if (s->nesterov && (s->momentum == 0 || s->dampening != 0)) {
        error_raise(ERROR_ARGUMENT,
                    "optimizer %s: nesterov needs momentum > 0 and dampening 0, not %g and %g",
                    rule->shown.name, (double)s->momentum, (double)s->dampening);
        return 0;
    }
    return 1;
}

static Optimizer *create(const UpdateRule *rule, TensorList parameters, UpdateScalars given,
                         const RuleOptions *options)
{
    if (error_code())
        return NULL;
    UpdateScalars scalars = with_defaults(rule, given);
    return scalars_valid(rule, &scalars) ? optimizer_new(rule, &scalars, options, parameters) : NULL;
}

/* ---- Constructors ---------------------------------------------------------------------------- */

/* Of the options struct that the rule's row describes; NULL = all defaults. */
static Optimizer *construct(RuleId id, TensorList parameters, const void *options)
{
    const UpdateRule *rule = &rules[id];
    UpdateScalars given = {0};
    RuleOptions rest = {0};
    for (const OptionField *f = rule->options; options && f->bytes; f++)
        memcpy((char *)&given + f->to, (const char *)options + f->from, f->bytes);
    if (options)
        memcpy(&rest.decay_all, (const char *)options + rule->decay_all, sizeof rest.decay_all);
    if (options && rule->shown.eight_bit)
        memcpy(&rest.tables, (const char *)options + rule->tables, sizeof rest.tables);
    return create(rule, parameters, given, &rest);
}

Optimizer *optim_sgd(TensorList parameters, const Sgd *options)
{
    int momentum = options && options->momentum != 0;
    return construct(!momentum           ? RULE_SGD
                     : options->nesterov ? RULE_SGD_NESTEROV
                                         : RULE_SGD_MOMENTUM,
                     parameters, options);
}

Optimizer *optim_rmsprop(TensorList parameters, const RmsProp *options)
{
    return construct(RULE_RMSPROP, parameters, options);
}

Optimizer *optim_adagrad(TensorList parameters, const Adagrad *options)
{
    return construct(RULE_ADAGRAD, parameters, options);
}

Optimizer *optim_adam(TensorList parameters, const Adam *options)
{
    return construct(RULE_ADAM, parameters, options);
}

Optimizer *optim_adamw(TensorList parameters, const AdamW *options)
{
    return construct(RULE_ADAMW, parameters, options);
}

Optimizer *optim_adam8bit(TensorList parameters, const Adam8bit *options)
{
    return construct(RULE_ADAM8BIT, parameters, options);
}

Optimizer *optim_adamw8bit(TensorList parameters, const AdamW8bit *options)
{
    return construct(RULE_ADAMW8BIT, parameters, options);
}

static void raise_unknown(const char *name)
{
    char known[128] = "";
    for (int i = 0; i < RULE_COUNT; i++) {
        if (i > 0)
            strncat(known, ", ", sizeof known - strlen(known) - 1);
        strncat(known, rules[i].shown.name, sizeof known - strlen(known) - 1);
    }
    error_raise(ERROR_ARGUMENT, "optim_by_name(): no optimizer is called '%s'; known are %s",
                name ? name : "(null)", known);
}

Optimizer *optim_by_name(const char *name, TensorList parameters, float lr, float weight_decay)
{
    for (int i = 0; name && i < RULE_COUNT; i++) {
        if (strcmp(name, rules[i].shown.name) != 0)
            continue;
        if (weight_decay < 0 && rules[i].defaults.weight_decay == 0)
            weight_decay = 0; /* negative means none, whichever the name */
        return create(&rules[i], parameters, (UpdateScalars){.lr = lr, .weight_decay = weight_decay},
                      &(RuleOptions){0});
    }
    raise_unknown(name);
    return NULL;
}
