/* The table of a CUDA card: pointers are the card's, everything goes to its stream, and nothing waits. */
#include "launch_.h"

static const char *const names[] = {
#define PLAIN(name) #name,
#define TYPED(name) #name "_f32", #name "_bf16", #name "_f16",
#include "list.h"
};

static const Kernels cuda_table = {
    .name = "cuda",
    /* products */
    .gemm = cuda_gemm,
    .gemm_stored = cuda_gemm_stored,
    .gemm_stored_workspace = cuda_gemm_stored_workspace,
    .linear_forward = cuda_linear_forward,
    .linear_backward_input = cuda_linear_backward_input,
    .linear_backward_weight = cuda_linear_backward_weight,
    .linear_workspace = cuda_linear_workspace,

    /* attention */
    .attention_eager_forward = cuda_attention_eager_forward,
    .attention_eager_backward = cuda_attention_eager_backward,
    .attention_flash_forward = cuda_attention_flash_forward,
    .attention_flash_backward = cuda_attention_flash_backward,
    .attention_workspace = cuda_attention_workspace,
    .attention_append = cuda_attention_append,
    .attention_unroll = cuda_attention_unroll,
    .attention_cached = cuda_attention_cached,
    .attention_cached_workspace = cuda_attention_cached_workspace,

    /* norms, loss, embedding, rows, rope */
    .layer_norm_forward = cuda_layer_norm_forward,
    .layer_norm_backward = cuda_layer_norm_backward,
    .rms_norm_forward = cuda_rms_norm_forward,
    .rms_norm_backward = cuda_rms_norm_backward,
    .norm_workspace = cuda_norm_workspace,
    .cross_entropy_forward = cuda_cross_entropy_forward,
    .cross_entropy_backward = cuda_cross_entropy_backward,
    .cross_entropy_workspace = cuda_cross_entropy_workspace,
    .cross_entropy_part = cuda_cross_entropy_part,
    .cross_entropy_join = cuda_cross_entropy_join,
    .embedding_forward = cuda_embedding_forward,
    .embedding_backward = cuda_embedding_backward,
    .embedding_workspace = cuda_embedding_workspace,
    .labelled_rows = cuda_labelled_rows,
    .gather_rows = cuda_gather_rows,
    .scatter_rows = cuda_scatter_rows,
    .rope = cuda_rope,

    /* experts */
    .experts_route = cuda_experts_route,
    .experts_forward = cuda_experts_forward,
    .experts_backward = cuda_experts_backward,
    .experts_route_backward = cuda_experts_route_backward,
    .experts_workspace = cuda_experts_workspace,
    .experts_balance_forward = cuda_experts_balance_forward,
    .experts_balance_backward = cuda_experts_balance_backward,

    /* elements, reductions, random */
    .fill = cuda_fill,
    .copy = cuda_copy,
    .add = cuda_add,
    .accumulate = cuda_accumulate,
    .add_row = cuda_add_row,
    .column_sum = cuda_column_sum,
    .column_sum_workspace = cuda_column_sum_workspace,
    .scale = cuda_scale,
    .multiply = cuda_multiply,
    .broadcast = cuda_broadcast,
    .activation_forward = cuda_activation_forward,
    .activation_backward = cuda_activation_backward,
    .gated_forward = cuda_gated_forward,
    .gated_backward = cuda_gated_backward,
    .gate_rows_forward = cuda_gate_rows_forward,
    .gate_rows_backward = cuda_gate_rows_backward,
    .mean_tokens_forward = cuda_mean_tokens_forward,
    .mean_tokens_backward = cuda_mean_tokens_backward,
    .softcap_forward = cuda_softcap_forward,
    .softcap_backward = cuda_softcap_backward,
    .dropout = cuda_dropout,
    .sum = cuda_sum,
    .sum_squares = cuda_sum_squares,
    .find_nonfinite = cuda_find_nonfinite,
    .fill_normal = cuda_fill_normal,
    .fill_uniform = cuda_fill_uniform,

    /* storing */
    .decode = cuda_decode,
    .decode_transposed = cuda_decode_transposed,
    .encode = cuda_encode,
    .encode_scales = cuda_encode_scales,

    /* updates */
    .sgd = cuda_sgd,
    .rmsprop = cuda_rmsprop,
    .adagrad = cuda_adagrad,
    .adam = cuda_adam,
};

const Kernels *kernels_cuda(void)
{
    return &cuda_table;
}

int kernels_cuda_load(CudaDevice *device, char *why, size_t size)
{
    return cuda_functions(device, names, CUDA_KERNELS, why, size);
}

void cuda_start(const KernelRun *run, int kernel, int64_t x, int64_t y, int64_t z, int threads,
                const void *arguments, size_t bytes)
{
    cuda_launch(run->device, kernel, (unsigned)x, (unsigned)y, (unsigned)z, (unsigned)threads, arguments,
                bytes);
}
