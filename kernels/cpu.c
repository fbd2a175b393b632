/* Every CPU kernel as one translation unit, compiled once per instruction set (KERNEL_ISA: base, avx2,
 * avx512), so that the compiler vectorises each for its registers and inlines vecmath into it. dispatch.c
 * picks a table. */
#include "kernels.h"

#include "gemm_own.c"
#include "gemm.c"
#include "gemv.c"
#include "linear.c"
#include "attention.c"
#include "attention_cached.c"
#include "elementwise.c"
#include "activation.c"
#include "norm.c"
#include "embedding.c"
#include "rope.c"
#include "loss.c"
#include "random.c"
#include "update.c"

#define KERNEL_JOIN_(a, b) a##b
#define KERNEL_JOIN(a, b)  KERNEL_JOIN_(a, b)
#define KERNEL_TEXT_(a)    #a
#define KERNEL_TEXT(a)     KERNEL_TEXT_(a)

extern const Kernels KERNEL_JOIN(kernels_cpu_, KERNEL_ISA);
const Kernels KERNEL_JOIN(kernels_cpu_, KERNEL_ISA) = {
    .name = KERNEL_TEXT(KERNEL_ISA),
    .gemm = gemm,
    .linear_forward = linear_forward,
    .linear_backward_input = linear_backward_input,
    .linear_backward_weight = linear_backward_weight,
    .linear_workspace = linear_workspace,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .layer_norm_forward = layer_norm_forward,
    .layer_norm_backward = layer_norm_backward,
    .rms_norm_forward = rms_norm_forward,
    .rms_norm_backward = rms_norm_backward,
    .norm_workspace = norm_workspace,
    .activation_forward = activation_forward,
    .activation_backward = activation_backward,
    .swiglu_forward = swiglu_forward,
    .swiglu_backward = swiglu_backward,
    .rope = rope,
    .attention_eager_forward = attention_eager_forward,
    .attention_eager_backward = attention_eager_backward,
    .attention_flash_forward = attention_flash_forward,
    .attention_flash_backward = attention_flash_backward,
    .attention_workspace = attention_workspace,
    .attention_append = attention_append,
    .attention_cached = attention_cached,
    .attention_cached_workspace = attention_cached_workspace,
    .cross_entropy_forward = cross_entropy_forward,
    .cross_entropy_backward = cross_entropy_backward,
    .cross_entropy_workspace = cross_entropy_workspace,
    .dropout = dropout,
    .fill = fill,
    .copy = copy,
    .add = add,
    .add_row = add_row,
    .column_sum = column_sum,
    .column_sum_workspace = column_sum_workspace,
    .scale = scale,
    .multiply = multiply,
    .sum = sum,
    .sum_squares = sum_squares,
    .find_nonfinite = find_nonfinite,
    .fill_normal = fill_normal,
    .fill_uniform = fill_uniform,
    .sgd = sgd,
    .rmsprop = rmsprop,
    .adagrad = adagrad,
    .adam = adam,
};
