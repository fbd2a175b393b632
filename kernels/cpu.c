/* Every CPU kernel as one translation unit, compiled once per instruction set (KERNEL_ISA: base, avx2,
 * avx512), so that the compiler vectorises each for its registers and inlines vecmath into it. dispatch.c
 * picks a table. */
#include "kernels.h"

#include "gemm_own.c"
#include "gemm.c"
#include "gemm_dots.c"
#include "gemm_stored.c"
#include "gemv.c"
#include "gemv_stored.c"
#include "linear.c"
#include "linear_dots.c"
#include "attention_tiles.c"
#include "attention.c"
#include "attention_backward.c"
#include "attention_cached.c"
#include "elementwise.c"
#include "activation.c"
#include "experts_products.c"
#include "experts.c"
#include "norm.c"
#include "embedding.c"
#include "rope.c"
#include "loss.c"
#include "rows.c"
#include "quantize.c"
#include "random.c"
#include "update.c"

#define KERNEL_JOIN_(a, b) a##b
#define KERNEL_JOIN(a, b)  KERNEL_JOIN_(a, b)
#define KERNEL_TEXT_(a)    #a
#define KERNEL_TEXT(a)     KERNEL_TEXT_(a)

extern const Kernels KERNEL_JOIN(kernels_cpu_, KERNEL_ISA);
const Kernels KERNEL_JOIN(kernels_cpu_, KERNEL_ISA) = {
    .name = KERNEL_TEXT(KERNEL_ISA),
#define KERNEL(type, kernel, arguments) .kernel = kernel,
#include "table.h"
};

#ifdef KERNEL_DOTS
#pragma GCC diagnostic ignored "-Woverride-init"
extern const Kernels kernels_cpu_dots;
const Kernels kernels_cpu_dots = {
#define KERNEL(type, kernel, arguments) .kernel = kernel,
#include "table.h"
    .name = "avx512-bf16",
    .gemm_stored = dots_gemm_stored,
    .linear_forward = dots_linear_forward,
    .linear_backward_input = dots_linear_backward_input,
    .linear_backward_weight = dots_linear_backward_weight,
    .experts_forward = dots_experts_forward,
    .experts_backward = dots_experts_backward,
};
#endif
