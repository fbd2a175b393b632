/* Values of a type that is known when the kernel runs. What most of a kernel's time goes to has a kernel a
 * type instead (typed.h). */
#ifndef BRIM_CUDA_VALUES_H
#define BRIM_CUDA_VALUES_H

#include "../../base/half_.h"
#include "words.h"

#ifdef __CUDA_ARCH__
#define half_from_f16 word_from_f16
#define half_to_f16   word_to_f16
#if __CUDA_ARCH__ >= 800
#define half_to_bf16 word_to_bf16
#endif
#endif

DEVICE float value_load(DType type, const void *x, int64_t i)
{
    if (type == DTYPE_BF16)
        return half_from_bf16(((const uint16_t *)x)[i]);
    return type == DTYPE_F16 ? half_from_f16(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

/* To nearest, ties to even. */
DEVICE void value_store(DType type, void *y, int64_t i, float value)
{
    if (type == DTYPE_BF16)
        ((uint16_t *)y)[i] = half_to_bf16(value);
    else if (type == DTYPE_F16)
        ((uint16_t *)y)[i] = half_to_f16(value);
    else
        ((float *)y)[i] = value;
}

/* What is left of a value that is stored. */
DEVICE float value_round(DType type, float value)
{
    if (type == DTYPE_BF16)
        return half_from_bf16(half_to_bf16(value));
    return type == DTYPE_F16 ? half_from_f16(half_to_f16(value)) : value;
}

#endif
