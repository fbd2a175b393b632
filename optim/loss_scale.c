/* The scale of the loss, by which gradients too small for 16 bit are kept: PyTorch's GradScaler. Backward
 * starts from the scale (the context holds it), the update divides by that of this backward, and a step whose
 * gradients are not finite is skipped. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "optim_.h"

#define SCALE_FIRST 65536.0f
#define SCALE_LEAST 0x1p-14f
enum { SCALE_INTERVAL = 2000, SCALE_BAD_MOST = 32 /* steps in a row, at a scale that stays */ };

double loss_scale_of_gradients(const Optimizer *optimizer)
{
    float scale = optimizer->item.context->loss_scale.of_gradients;
    return scale > 0 ? (double)scale : 1;
}

/* The next backward starts from it. */
static void use(Optimizer *optimizer)
{
    Context *context = optimizer->item.context;
    context->loss_scale.next = optimizer->scaling.state.scale;
    context->loss_scale.owner = optimizer;
}

void loss_scale_end(const Optimizer *optimizer)
{
    Context *context = optimizer->item.context;
    if (context->loss_scale.owner != optimizer)
        return;
    context->loss_scale.next = context->loss_scale.of_gradients = 0;
    context->loss_scale.owner = NULL;
}

static void good_step(LossScale *s, int64_t interval)
{
    s->bad = 0;
    if (++s->good < interval || !s->dynamic)
        return;
    s->good = 0;
    if (isfinite(2 * s->scale))
        s->scale *= 2;
}

static int bad_step(const Optimizer *optimizer, LossScale *s)
{
    char why[160];
    if (s->dynamic && s->scale / 2 < SCALE_LEAST)
        snprintf(
            why, sizeof why,
            ", at a loss scale of %g still, so it is not the scale that makes it so; nothing was updated",
            (double)s->scale);
    else if (!s->dynamic && s->bad + 1 >= SCALE_BAD_MOST)
        snprintf(why, sizeof why,
                 ", as in each of %" PRId64 " steps in a row at a loss scale of %g; use a smaller one, or 0, "
                 "which is dynamic; nothing was updated",
                 s->bad + 1, (double)s->scale);
    else
        why[0] = '\0';
    if (why[0])
        return optimizer_blame(optimizer, why);
    s->good = 0;
    s->bad++;
    s->skipped++;
    if (s->dynamic)
        s->scale /= 2;
    return 0;
}

int loss_scale_step(Optimizer *optimizer, int finite)
{
    LossScaling *scaling = &optimizer->scaling;
    if (!scaling->on)
        return 0;
    if (finite)
        good_step(&scaling->state, scaling->interval);
    else if (bad_step(optimizer, &scaling->state) != 0)
        return error_code();
    scaling->step_skipped = !finite;
    use(optimizer);
    return 0;
}

/* ---- Settings -------------------------------------------------------------------------------- */

static int scale_valid(const char *function, float scale)
{
    if (scale >= SCALE_LEAST && scale < INFINITY)
        return 1;
    error_raise(ERROR_ARGUMENT,
                "%s(): a loss scale of %g makes gradients vanish, or is none; it must be a finite number not "
                "below 2^-14 (1 changes nothing), or 0, which is dynamic",
                function, (double)scale);
    return 0;
}

/* Why the loss cannot be scaled now; NULL = it can. */
static const char *problem(const Optimizer *optimizer, int dynamic)
{
    const Context *context = optimizer->item.context;
    if (context != context_here())
        return "the optimizer belongs to another context";
    if (context->loss_scale.owner && context->loss_scale.owner != optimizer)
        return "another optimizer of this context scales the loss, and a backward has one scale";
    if (dynamic && optimizer->in_backward)
        return "this optimizer updates inside backward, before it is known whether all gradients are finite; "
               "give a number, or call optim_set_in_backward(optimizer, 0)";
    for (int i = 0; i < optimizer->count; i++)
        if (optimizer->parameters[i]->grad)
            return "there are gradients, of another scale; call optim_zero_grad first";
    return NULL;
}

int optim_set_loss_scale(Optimizer *optimizer, float scale)
{
    int dynamic = scale == 0;
    if (!optimizer || (!dynamic && !scale_valid("optim_set_loss_scale", scale)))
        return error_code();
    const char *why = problem(optimizer, dynamic);
    if (why)
        return error_raise(ERROR_STATE, "optim_set_loss_scale(): %s", why);
    optimizer->scaling = (LossScaling){
        .on = 1,
        .interval = SCALE_INTERVAL,
        .state = {.scale = dynamic ? SCALE_FIRST : scale,
                  .dynamic = dynamic,
                  .skipped = optimizer->scaling.state.skipped},
    };
    use(optimizer);
    return error_code();
}

float optim_loss_scale(const Optimizer *optimizer)
{
    return optimizer && optimizer->scaling.on ? optimizer->scaling.state.scale : 1;
}

int64_t optim_skipped(const Optimizer *optimizer)
{
    return optimizer ? optimizer->scaling.state.skipped : 0;
}

int optim_step_skipped(const Optimizer *optimizer)
{
    return optimizer && optimizer->scaling.step_skipped;
}

LossScale optim_scaling(const Optimizer *optimizer)
{
    return optimizer ? optimizer->scaling.state : (LossScale){0};
}

int optim_set_scaling(Optimizer *optimizer, const LossScale *s)
{
    if (!optimizer || !s)
        return error_code();
    LossScaling *scaling = &optimizer->scaling;
    if ((s->scale != 0) != scaling->on || (scaling->on && (s->dynamic != 0) != scaling->state.dynamic))
        return error_raise(ERROR_ARGUMENT, "optim_set_scaling(): the loss scale is %s there, and %s here",
                           s->scale == 0 ? "none"
                           : s->dynamic  ? "dynamic"
                                         : "a number",
                           !scaling->on             ? "none"
                           : scaling->state.dynamic ? "dynamic"
                                                    : "a number");
    if (!scaling->on)
        return error_code();
    if (!scale_valid("optim_set_scaling", s->scale))
        return error_code();
    if (s->good < 0 || s->bad < 0 || s->skipped < s->bad)
        return error_raise(ERROR_ARGUMENT,
                           "optim_set_scaling(): %" PRId64 " good, %" PRId64 " bad and %" PRId64
                           " skipped steps cannot be",
                           s->good, s->bad, s->skipped);
    scaling->state = *s;
    scaling->step_skipped = s->bad > 0;
    use(optimizer);
    return error_code();
}
