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

    /* norms, loss, embedding, rows, rope */

    /* elements, reductions, random */
    .fill = cuda_fill,
    .scale = cuda_scale,

    /* storing */

    /* updates */
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
