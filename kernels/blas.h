/* What dispatch.c needs of blas.c beyond kernels.h. */
#ifndef BRIM_BLAS_H
#define BRIM_BLAS_H

/* Once a process: OpenBLAS on the kernels this processor deserves, and on one thread (threads are ours,
 * gemm.c). kernels_cpu calls it, so that whoever links a static library gets it with the kernels. */
void blas_prepare(void);

/* Whether the processor and the system have all of x86-64-v3 (AVX2, FMA) or x86-64-v4 (AVX-512). */
int blas_cpu_has_avx2(void);
int blas_cpu_has_avx512(void);

#endif
