/* What Adam's step comes to for all elements: computed once, in double, as Python does. */
#ifndef BRIM_KERNELS_ADAM_H
#define BRIM_KERNELS_ADAM_H

#include <math.h>

#include "kernels/kernels.h"

typedef struct AdamFactors {
    float l2;     /* 0 in AdamW */
    float shrink; /* of the parameter before the update: 1 - lr weight_decay in AdamW, else 1 */
    float beta1, rest1, beta2, rest2;
    float root_correction; /* sqrt(1 - beta2^step) */
    float step_size;       /* lr / (1 - beta1^step) */
    float eps;
} AdamFactors;

static inline AdamFactors adam_factors(const UpdateScalars *s)
{
    double b1 = (double)s->beta1, b2 = (double)s->beta2, lr = (double)s->lr, decay = (double)s->weight_decay;
    AdamFactors f = {
        .l2 = s->decoupled ? 0.0f : s->weight_decay,
        .shrink = s->decoupled ? (float)(1.0 - lr * decay) : 1.0f,
        .beta1 = s->beta1,
        .rest1 = (float)(1.0 - b1),
        .beta2 = s->beta2,
        .rest2 = (float)(1.0 - b2),
        .root_correction = (float)sqrt(1.0 - pow(b2, (double)s->step)),
        .step_size = (float)(lr / (1.0 - pow(b1, (double)s->step))),
        .eps = s->eps,
    };
    return f;
}

#endif
