/* A stand-in for libcublas: products by OpenBLAS, queued on the stand-in's stream. As the real one it takes
 * device memory of its own where no workspace was set, forgets the workspace when the stream is set, and
 * knows only the types that are documented for cublasGemmEx. TF32 rounds its inputs to 10 bits; 16 bit its
 * output. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/half_.h"
#define API __attribute__((visibility("default")))
enum {
    OK = 0,
    NOT_INITIALIZED = 1,
    ALLOC_FAILED = 3,
    INVALID_VALUE = 7,
    EXECUTION_FAILED = 13,
    INTERNAL_ERROR = 14,
    NOT_SUPPORTED = 15
};
enum { R_32F = 0, R_16F = 2, R_16BF = 14 };
enum { COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_32F_FAST_TF32 = 77 };
typedef struct Handle {
    void *workspace;
    size_t bytes;
    int own;
    long long taken; /* of the card's memory, STAND_IN_LIBRARY=MiB */
} Handle;
static void (*sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int, float,
                     float *, int);
static int (*enqueue)(void (*)(void *), const void *, size_t);
static int (*device_alloc)(unsigned long long *, size_t), (*device_take)(long long);

static float load(const void *p, int type, int64_t i, int tf32)
{
    if (type == R_16BF)
        return half_from_bf16(((const uint16_t *)p)[i]);
    if (type == R_16F)
        return half_from_f16(((const uint16_t *)p)[i]);
    float f = ((const float *)p)[i];
    uint32_t u = float_to_bits(f);
    return tf32 && (u & 0x7f800000u) != 0x7f800000u ? float_from_bits((u + 0x1000u) & 0xffffe000u) : f;
}
static void store(void *p, int type, int64_t i, float f)
{
    if (type == R_16BF)
        ((uint16_t *)p)[i] = half_to_bf16(f);
    else if (type == R_16F)
        ((uint16_t *)p)[i] = half_to_f16(f);
    else
        ((float *)p)[i] = f;
}
typedef struct Gemm {
    int ta, tb, at, ct, tf32, count;
    int64_t m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const void *a, *b;
    void *c;
    long long sa, sb, sc;
} Gemm;
static float *unpack(const void *p, int type, int tf32, int64_t rows, int64_t cols, int64_t ld)
{
    float *f = malloc(sizeof(float) * (size_t)rows * (size_t)cols);
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < rows; i++)
            f[j * rows + i] = load(p, type, j * ld + i, tf32);
    return f;
}
/* Where a sanitizer looks, copies: it sees what they read and write. */
#ifdef __SANITIZE_ADDRESS__
enum { IN_PLACE = 0 };
#else
enum { IN_PLACE = 1 };
#endif
static int64_t size(int type)
{
    return type == R_32F ? 4 : 2;
}
static void product(const Gemm *g, const char *a, const char *b, char *c)
{
    int oa = g->ta ? 112 : 111, ob = g->tb ? 112 : 111, m = (int)g->m, n = (int)g->n, k = (int)g->k;
    int ar = g->ta ? k : m, ac = g->ta ? m : k, br = g->tb ? n : k, bc = g->tb ? k : n;
    if (IN_PLACE && g->at == R_32F && g->ct == R_32F && !g->tf32) {
        sgemm(102, oa, ob, m, n, k, g->alpha, (const float *)a, (int)g->lda, (const float *)b, (int)g->ldb,
              g->beta, (float *)c, (int)g->ldc);
        return;
    }
    float *fa = unpack(a, g->at, g->tf32, ar, ac, g->lda), *fb = unpack(b, g->at, g->tf32, br, bc, g->ldb);
    float *fc =
        g->beta != 0 ? unpack(c, g->ct, 0, m, n, g->ldc) : malloc(sizeof(float) * (size_t)m * (size_t)n);
    sgemm(102, oa, ob, m, n, k, g->alpha, fa, ar, fb, br, g->beta, fc, m);
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < m; i++)
            store(c, g->ct, j * g->ldc + i, fc[j * m + i]);
    free(fa);
    free(fb);
    free(fc);
}
static void run_gemm(void *d)
{
    const Gemm *g = d;
    for (int i = 0; i < g->count; i++)
        product(g, (const char *)g->a + i * g->sa * size(g->at), (const char *)g->b + i * g->sb * size(g->at),
                (char *)g->c + i * g->sc * size(g->ct));
}
API int cublasCreate_v2(void **h)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD),
         *blas = dlopen("libopenblas.so.0", RTLD_NOW);
    if (!driver || !blas)
        return NOT_INITIALIZED;
    *(void **)&enqueue = dlsym(driver, "stand_in_enqueue");
    *(void **)&device_alloc = dlsym(driver, "cuMemAlloc_v2");
    *(void **)&device_take = dlsym(driver, "stand_in_take");
    *(void **)&sgemm = dlsym(blas, "cblas_sgemm");
    void (*threads)(int);
    *(void **)&threads = dlsym(blas, "openblas_set_num_threads");
    if (threads)
        threads(
            1); /* a card's work is one thread's here; the thread sanitizer does not see into the library */
    const char *own = getenv("STAND_IN_LIBRARY");
    Handle *handle = *h = calloc(1, sizeof *handle);
    if (!handle || !enqueue || !sgemm)
        return NOT_INITIALIZED;
    handle->taken = own ? atoll(own) << 20 : 0;
    return handle->taken && device_take(handle->taken) ? ALLOC_FAILED : OK;
}
API int cublasDestroy_v2(void *h)
{
    Handle *handle = h;
    if (handle->taken)
        device_take(-handle->taken);
    free(handle);
    return OK;
}
API int cublasGetVersion_v2(void *h, int *v)
{
    (void)h;
    *v = 130000;
    return OK;
}
API int cublasSetStream_v2(void *h, void *s)
{
    (void)s;
    ((Handle *)h)->workspace = NULL;
    return OK;
}
API int cublasSetWorkspace_v2(void *h, void *p, size_t n)
{
    if ((uintptr_t)p % 256)
        return INVALID_VALUE;
    ((Handle *)h)->workspace = p;
    ((Handle *)h)->bytes = n;
    return OK;
}
API int cublasSetMathMode(void *h, int mode)
{
    (void)h;
    (void)mode;
    return OK;
}
/* The types that cublasGemmEx is documented for, of those that are floats here: A and B of one, C of the same
 * or of f32, sums in f32; and TF32 of f32 alone. */
static int supported(int at, int bt, int ct, int compute)
{
    int half = at == R_16F || at == R_16BF;
    if (at != bt || (at != R_32F && !half) || (ct != at && ct != R_32F))
        return 0;
    return compute == COMPUTE_32F || compute == COMPUTE_32F_PEDANTIC ||
           (compute == COMPUTE_32F_FAST_TF32 && !half);
}
static int64_t least_ld(int64_t rows)
{
    return rows > 1 ? rows : 1;
}
static int gemm(Handle *handle, Gemm g, int bt, int compute)
{
    if (g.ta < 0 || g.ta > 1 || g.tb < 0 || g.tb > 1 || g.m < 0 || g.n < 0 || g.k < 0 || g.count < 0 ||
        g.lda < least_ld(g.ta ? g.k : g.m) || g.ldb < least_ld(g.tb ? g.n : g.k) || g.ldc < least_ld(g.m))
        return INVALID_VALUE;
    if (!supported(g.at, bt, g.ct, compute) || g.m > INT32_MAX || g.n > INT32_MAX || g.k > INT32_MAX)
        return NOT_SUPPORTED;
    if (g.m == 0 || g.n == 0)
        return OK;
    if ((uintptr_t)g.a % (size_t)size(g.at) || (uintptr_t)g.b % (size_t)size(g.at) ||
        (uintptr_t)g.c % (size_t)size(g.ct))
        return EXECUTION_FAILED;
    if (!handle->workspace && !handle->own) {
        unsigned long long p;
        if (device_alloc(&p, (size_t)32 << 20))
            return ALLOC_FAILED;
        handle->own = 1;
    }
    g.tf32 = compute == COMPUTE_32F_FAST_TF32;
    return enqueue(run_gemm, &g, sizeof g) ? INTERNAL_ERROR : OK;
}
API int cublasGemmStridedBatchedEx(void *h, int ta, int tb, int m, int n, int k, const void *alpha,
                                   const void *a, int at, int lda, long long sa, const void *b, int bt,
                                   int ldb, long long sb, const void *beta, void *c, int ct, int ldc,
                                   long long sc, int count, int compute, int algorithm)
{
    (void)algorithm;
    Gemm g = {ta, tb, at, ct, 0,  count, m, n, k, lda, ldb, ldc, *(const float *)alpha, *(const float *)beta,
              a,  b,  c,  sa, sb, sc};
    return gemm(h, g, bt, compute);
}
API int cublasGemmEx_64(void *h, int ta, int tb, int64_t m, int64_t n, int64_t k, const void *alpha,
                        const void *a, int at, int64_t lda, const void *b, int bt, int64_t ldb,
                        const void *beta, void *c, int ct, int64_t ldc, int compute, int algorithm)
{
    (void)algorithm;
    Gemm g = {ta, tb, at, ct, 0, 1, m, n, k, lda, ldb, ldc, *(const float *)alpha, *(const float *)beta,
              a,  b,  c,  0,  0, 0};
    return gemm(h, g, bt, compute);
}
