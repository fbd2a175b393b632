/* Whether this compiler makes kernels that multiply bf16 by dot instructions (AVX512-BF16): with the kernels
 * of AVX-512, whose table they extend. */
#ifndef BRIM_KERNELS_DOTS_H
#define BRIM_KERNELS_DOTS_H

#if defined(BRIM_HAVE_avx512) && (defined(__clang__) || __GNUC__ >= 10)
#define BRIM_HAVE_dots 1
#endif

#endif
