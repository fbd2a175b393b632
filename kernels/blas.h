/* What kernel files share about the BLAS library and the processor, beyond kernels.h. */
#ifndef BRIM_BLAS_H
#define BRIM_BLAS_H

/* cblas_sgemm, whose arguments no library changes. The values are CBLAS's. */
enum { BLAS_ROW_MAJOR = 101, BLAS_NO_TRANS = 111, BLAS_TRANS = 112 };
typedef void BlasSgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a,
                       int lda, const float *b, int ldb, float beta, float *c, int ldc);

/* The library's product, on the calling thread alone; NULL = none serves, multiply by gemm_own.c. The first
 * call looks for the library. */
BlasSgemm *blas_sgemm(void);

/* The function `name` of what dlopen gave, into the function pointer `out`; NULL = there is none. */
void blas_symbol(void *handle, const char *name, void *out);

/* ---- openblas.c -------------------------------------------------------------------------------- */

/* Of an OpenBLAS; each may be NULL. */
typedef struct OpenBlas {
    void (*dynamic_quit)(void), (*dynamic_init)(void);
    char *(*core)(void), *(*config)(void);
    void (*set_threads)(int threads);
    int (*threads)(void);
    int (*parallel)(void); /* 0 serial, 1 threads of its own, 2 OpenMP */
} OpenBlas;

void openblas_find(void *handle, OpenBlas *out);
/* The core whose kernels this processor should run instead of `core`; NULL = it is served well. */
const char *openblas_better_core(const char *core);
/* What OPENBLAS_CORETYPE says and this OpenBLAS took; NULL = not set, or not known there. */
const char *openblas_chosen_core(const OpenBlas *library);
/* Moves it to the kernels this processor deserves, unless the user chose. Only while nobody multiplies. */
void openblas_switch_core(const OpenBlas *library);

/* ---- environment.c ----------------------------------------------------------------------------- */

/* Sets "NAME=value" (static; a name of less than 64 bytes) until environment_end, one at a time. 0; -1 where
 * there are more variables than it has room for, and nothing is set. */
int environment_begin(const char *assignment);
void environment_end(void);

/* ---- processor.c ------------------------------------------------------------------------------- */

/* Whether the processor and the system have all of x86-64-v3 (AVX2, FMA) or x86-64-v4 (AVX-512). */
int processor_has_avx2(void);
int processor_has_avx512(void);
int processor_has_avx512_bf16(void); /* and AVX512-BF16 beside it */

#endif
