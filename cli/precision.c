/* See precision.h. */
#include "precision.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "levers_.h"
#include "lora.h"

/* ---- Names ----------------------------------------------------------------------------------- */

SayLine precision_names(void)
{
    SayLine line = {""};
    for (int i = 0; precision_at(i); i++)
        line_add(&line, "%s%s", i ? ", " : "", precision_at(i)->name);
    return line;
}

const Precision *precision_named(const char *name)
{
    for (int i = 0; precision_at(i); i++)
        if (!strcmp(precision_at(i)->name, name))
            return precision_at(i);
    return NULL;
}

/* ---- What they come to ----------------------------------------------------------------------- */

/* Of the name alone; one that is not known is refused elsewhere. */
static Precision row_of(const Options *o)
{
    const Precision *row = precision_named(o->precision);
    return row ? *row : *precision_at(0);
}

int trains_in_16_bit(const Options *o)
{
    return !has_adapters(o) && row_of(o).weights != DTYPE_F32;
}

int rounds_weights(const Options *o)
{
    return trains_in_16_bit(o) && !row_of(o).master;
}

int computes_in_fp32(const Options *o)
{
    Precision row = row_of(o);
    return row.weights == DTYPE_F32 && row.activations == DTYPE_F32;
}

int computes_in_bf16(const Options *o)
{
    return row_of(o).activations == DTYPE_BF16;
}

int scales_loss(const Options *o)
{
    return row_of(o).activations == DTYPE_F16;
}

/* Sums of micro-batches are kept in fp32: each addition would be rounded, and small ones be lost. */
static int gradients_in_fp32(const Options *o)
{
    return o->grad_dtype ? !strcmp(o->grad_dtype, "32") : o->accumulate > 1;
}

static int rounds_to_nearest(const Options *o)
{
    return o->rounding ? !strcmp(o->rounding, "nearest") : !row_of(o).stochastic;
}

Precision precision_of(const Options *o)
{
    Precision p = row_of(o);
    if (trains_in_16_bit(o) && gradients_in_fp32(o))
        p.gradients = DTYPE_F32;
    else if (trains_in_16_bit(o))
        p.gradients = p.weights;
    if (rounds_weights(o))
        p.stochastic = !rounds_to_nearest(o);
    return p;
}

void set_precision(const Options *o)
{
    Precision p = precision_of(o);
    tensor_set_precision(&p);
}

/* 0: dynamic. */
static float loss_scale(const Options *o)
{
    return o->loss_scale && strcmp(o->loss_scale, "dynamic") != 0 ? strtof(o->loss_scale, NULL) : 0;
}

void loss_scale_to_optimizer(const Options *o, Optimizer *optimizer)
{
    if (scales_loss(o))
        optim_set_loss_scale(optimizer, loss_scale(o));
}

/* ---- What does not go together --------------------------------------------------------------- */

static LeverText grad_dtype_problem(const Options *o)
{
    if (strcmp(o->grad_dtype, "16") != 0 && strcmp(o->grad_dtype, "32") != 0)
        return lever_say("--grad-dtype must be 16 or 32, not '%.40s'", o->grad_dtype);
    if (has_adapters(o))
        return lever_say("--grad-dtype %s means nothing here: gradients of adapters are fp32", o->grad_dtype);
    if (!trains_in_16_bit(o))
        return lever_say(
            "--grad-dtype %s means nothing with --precision %.40s: its weights are fp32, and so are "
            "their gradients; bf16-mixed has weights of 16 bits",
            o->grad_dtype, o->precision);
    return lever_say("%s", "");
}

static LeverText rounding_problem(const Options *o)
{
    if (strcmp(o->rounding, "nearest") != 0 && strcmp(o->rounding, "stochastic") != 0)
        return lever_say("--rounding must be nearest or stochastic, not '%.40s'", o->rounding);
    if (has_adapters(o))
        return lever_say("--rounding %s means nothing here: the weights of adapters are fp32", o->rounding);
    if (!rounds_weights(o))
        return lever_say(
            "--rounding %s means nothing with --precision %.40s, which keeps all weights in fp32; "
            "bf16 and bf16-states32 round each update",
            o->rounding, o->precision);
    return lever_say("%s", "");
}

static LeverText loss_scale_problem(const Options *o)
{
    char *end;
    float scale = strtof(o->loss_scale, &end);
    int number = end != o->loss_scale && !*end && isfinite(scale) && scale >= 0x1p-14f;
    if (strcmp(o->loss_scale, "dynamic") != 0 && !number)
        return lever_say("--loss-scale must be dynamic, or a number of at least 2^-14, not '%.40s'",
                         o->loss_scale);
    if (!scales_loss(o))
        return lever_say(
            "--loss-scale %.40s means nothing with --precision %.40s: it lifts gradients into the "
            "small range of fp16, and %s has that of fp32",
            o->loss_scale, o->precision, row_of(o).activations == DTYPE_BF16 ? "bf16" : "fp32");
    return lever_say("%s", "");
}

LeverText precision_problem(const Options *o)
{
    LeverText why = {""};
    if (!precision_named(o->precision))
        return lever_say("--precision must be one of %s, not '%.40s'", precision_names().text, o->precision);
    if (row_of(o).tf32 && !strcmp(o->device, "cpu"))
        return lever_say(
            "--precision tf32 needs --device cuda: TF32 is a product of NVIDIA cards; on the CPU "
            "--precision fp32 trains in the same memory");
    if (o->grad_dtype)
        why = grad_dtype_problem(o);
    if (!why.text[0] && o->rounding)
        why = rounding_problem(o);
    if (!why.text[0] && o->loss_scale)
        why = loss_scale_problem(o);
    if (!why.text[0] && o->in_backward && scales_loss(o))
        why = lever_say(
            "--optimizer-in-backward excludes --precision %.40s: a step of fp16 is skipped when any "
            "gradient overflows, and by then some parameters would be updated; bf16 needs no "
            "scaling",
            o->precision);
    return why;
}

/* ---- In words -------------------------------------------------------------------------------- */

LeverText grad_dtype_text(const Options *o)
{
    return lever_say("%s", !trains_in_16_bit(o) ? "" : gradients_in_fp32(o) ? "32" : "16");
}

LeverText rounding_text(const Options *o)
{
    return lever_say("%s", !rounds_weights(o) ? "" : rounds_to_nearest(o) ? "nearest" : "stochastic");
}

LeverText loss_scale_text(const Options *o)
{
    return lever_say("%s", !scales_loss(o) ? "" : o->loss_scale ? o->loss_scale : "dynamic");
}

LeverText rounding_title(const Options *o)
{
    LeverText how = rounding_text(o);
    return lever_say("%s", !how.text[0]                   ? ""
                           : !strcmp(how.text, "nearest") ? "rounded to nearest"
                                                          : "stochastic rounding");
}

LeverText loss_scale_title(const Options *o)
{
    LeverText scale = loss_scale_text(o);
    return lever_say("%s%.40s", scale.text[0] ? "loss scale " : "", scale.text);
}
