/* The table of reference kernels: what the tests compare with, and what a new device is written against. */
#include "kernels/reference_.h"

static const Kernels reference_table = {
    .name = "reference",
    .gemm = reference_gemm,
    .linear_forward = reference_linear_forward,
    .linear_backward_input = reference_linear_backward_input,
    .linear_backward_weight = reference_linear_backward_weight,
    .linear_workspace = reference_linear_workspace,
    .embedding_forward = reference_embedding_forward,
    .embedding_backward = reference_embedding_backward,
    .layer_norm_forward = reference_layer_norm_forward,
    .layer_norm_backward = reference_layer_norm_backward,
    .rms_norm_forward = reference_rms_norm_forward,
    .rms_norm_backward = reference_rms_norm_backward,
    .norm_workspace = reference_norm_workspace,
    .activation_forward = reference_activation_forward,
    .activation_backward = reference_activation_backward,
    .swiglu_forward = reference_swiglu_forward,
    .swiglu_backward = reference_swiglu_backward,
    .rope = reference_rope,
    .attention_eager_forward = reference_attention_eager_forward,
    .attention_eager_backward = reference_attention_eager_backward,
    .attention_flash_forward = reference_attention_flash_forward,
    .attention_flash_backward = reference_attention_flash_backward,
    .attention_workspace = reference_attention_workspace,
    .cross_entropy_forward = reference_cross_entropy_forward,
    .cross_entropy_backward = reference_cross_entropy_backward,
    .cross_entropy_workspace = reference_cross_entropy_workspace,
    .dropout = reference_dropout,
    .fill = reference_fill,
    .copy = reference_copy,
    .add = reference_add,
    .add_row = reference_add_row,
    .column_sum = reference_column_sum,
    .column_sum_workspace = reference_column_sum_workspace,
    .scale = reference_scale,
    .multiply = reference_multiply,
    .sum = reference_sum,
    .sum_squares = reference_sum_squares,
    .find_nonfinite = reference_find_nonfinite,
    .fill_normal = reference_fill_normal,
    .fill_uniform = reference_fill_uniform,
    .sgd = reference_sgd,
    .rmsprop = reference_rmsprop,
    .adam = reference_adam,
};

const Kernels *kernels_reference(void)
{
    return &reference_table;
}
