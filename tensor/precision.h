/* precision: which type weights, their gradients, optimizer states and activations have. A policy of the
 * context: set it before a model is made. Losses, log-sum-exp, statistics of norms, sums and the arithmetic
 * of updates are f32 in each. */
#ifndef BRIM_PRECISION_H
#define BRIM_PRECISION_H

#include "../base/dtype.h"
#include "tensor_names.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Precision {
    const char *name;
    DType weights;     /* of parameters that are trained; frozen ones are what nn_set_weights says */
    DType gradients;   /* of those parameters */
    DType states;      /* the optimizer's, of 16-bit parameters; those of f32 parameters are f32 */
    DType activations; /* and their gradients: f32, bf16 or f16. 16 bit over f32 weights is autocast: a linear
                          layer multiplies with a 16-bit copy of its weight, which is there from the layer's
                          forward until its backward */
    int master;        /* 1: a 16-bit parameter has an f32 master beside it, which updates change first */
    int stochastic;    /* 1: what updates store in bf16 without a master is rounded stochastically */
    int tf32;          /* 1: cuBLAS multiplies f32, in linear layers, heads and adapters, as TF32: terms are
                          rounded to 10 bits of fraction, sums are f32. Attention stays f32. For cards of
                          compute capability 8.0 or later. No array is stored otherwise than without */
} Precision;

/* The conventions, by name:
 *
 * name            weights  master  gradients  states  bytes a parameter with Adam
 * fp32            f32      -       f32        f32     4 + 4 + 8 = 16
 * tf32            f32      -       f32        f32     4 + 4 + 8 = 16 (on a card: products in TF32)
 * bf16            bf16     -       bf16       bf16    2 + 2 + 4 = 8 (stochastic rounding)
 * bf16-states32   bf16     -       bf16       f32     2 + 2 + 8 = 12 (stochastic rounding)
 * bf16-mixed      bf16     f32     bf16       f32     2 + 2 + 4 + 8 = 16
 * bf16-autocast   f32      -       f32        f32     4 + 4 + 8 = 16, and 2 while a layer's copy is there
 * fp16-mixed      f16      f32     f16        f32     2 + 2 + 4 + 8 = 16
 * fp16-autocast   f32      -       f32        f32     4 + 4 + 8 = 16, and 2 */
BRIM_API const Precision *precision_by_name(const char *name); /* NULL after raising ERROR_ARGUMENT */
BRIM_API const Precision *precision_at(int i);                 /* NULL behind the last */

/* Of the current context, copied; NULL = fp32. Changed fields are fine where they make sense: gradients may
 * be f32 with 16-bit weights (18 bytes a parameter), stochastic may be 0. Returns 0, or raises
 * ERROR_ARGUMENT: f16 weights without a master, a type that is no float, gradients narrower than f32
 * weights, tf32 on the CPU, on an older card or with 16-bit activations. */
BRIM_API int tensor_set_precision(const Precision *precision);
BRIM_API const Precision *tensor_precision(void); /* never NULL */

#ifdef __cplusplus
}
#endif
#endif
