/* Precision: the conventions, and the context's. */
#include <string.h>

#include "card_.h"

static const Precision conventions[] = {
    {.name = "fp32"},
    {.name = "tf32", .tf32 = 1},
    {"bf16", DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, .stochastic = 1},
    {"bf16-states32", DTYPE_BF16, DTYPE_BF16, DTYPE_F32, DTYPE_BF16, .stochastic = 1},
    {"bf16-mixed", DTYPE_BF16, DTYPE_BF16, DTYPE_F32, DTYPE_BF16, .master = 1},
    {"bf16-autocast", .activations = DTYPE_BF16},
    {"fp16-mixed", DTYPE_F16, DTYPE_F16, DTYPE_F32, DTYPE_F16, .master = 1},
    {"fp16-autocast", .activations = DTYPE_F16},
};
enum { CONVENTIONS = sizeof conventions / sizeof conventions[0] };

const Precision *precision_at(int i)
{
    return i >= 0 && i < CONVENTIONS ? &conventions[i] : NULL;
}

const Precision *precision_by_name(const char *name)
{
    char known[160] = "";
    for (int i = 0; i < CONVENTIONS; i++) {
        if (name && !strcmp(name, conventions[i].name))
            return &conventions[i];
        strcat(known, i ? ", " : "");
        strcat(known, conventions[i].name);
    }
    error_raise(ERROR_ARGUMENT, "precision_by_name(): no precision is called '%s'; known are %s",
                name ? name : "(null)", known);
    return NULL;
}

static const char *problem_of(const Precision *p)
{
    if (!dtype_is_float(p->weights) || !dtype_is_float(p->gradients) || !dtype_is_float(p->states) ||
        !dtype_is_float(p->activations))
        return "weights, gradients, states and activations must be f32, bf16 or f16";
    if (p->weights == DTYPE_F16 && !p->master)
        return "f16 weights need an f32 master: updates smaller than their steps would be lost";
    if (p->weights == DTYPE_F32 && (p->gradients != DTYPE_F32 || p->states != DTYPE_F32 || p->master))
        return "f32 weights have f32 gradients and states, and no master";
    if (p->gradients != DTYPE_F32 && p->gradients != p->weights)
        return "gradients are f32, or of the weights' type";
    if (p->states == DTYPE_F16 || (p->states != DTYPE_F32 && p->states != p->weights))
        return "states are f32, or bf16 where weights are";
    if (p->tf32 && p->activations != DTYPE_F32)
        return "TF32 is for products of f32, and activations of 16 bit have none: tf32 goes with f32 "
               "activations";
    if (p->weights != DTYPE_F32 && p->activations != p->weights)
        return "activations are of the weights' type where those are 16 bit";
    return NULL;
}

/* Raises where the context's device has no products in TF32. */
static int check_tf32(const Context *context)
{
    int capability = context->card ? context->card->capability : 0;
    if (!context->card)
        return error_raise(ERROR_ARGUMENT,
                           "tensor_set_precision(): TF32 is a product of NVIDIA cards (device \"cuda\"); on "
                           "the CPU fp32 trains in the same memory");
    if (capability < CUDA_TF32)
        return error_raise(
            ERROR_ARGUMENT,
            "tensor_set_precision(): TF32 needs a card of compute capability 8.0 or later, and this one has "
            "%d.%d: there fp32 trains in the same memory, and fp16-mixed multiplies on tensor cores",
            capability / 10, capability % 10);
    return 0;
}

int tensor_set_precision(const Precision *precision)
{
    const Precision *p = precision ? precision : &conventions[0];
    Context *context = context_here();
    if (!context)
        return error_code();
    const char *problem = problem_of(p);
    if (problem)
        return error_raise(ERROR_ARGUMENT, "tensor_set_precision(): %s", problem);
    if (p->tf32 && check_tf32(context))
        return error_code();
    context->precision = *p;
    context->run.tf32 = p->tf32;
    return 0;
}

const Precision *tensor_precision(void)
{
    const Context *context = context_here();
    return context ? &context->precision : &conventions[0];
}
