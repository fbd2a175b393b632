/* A stand-in for libcublas: products by OpenBLAS, queued on the stand-in's stream. As the real one it takes
 * device memory of its own where no workspace was set, and forgets the workspace when the stream is set. TF32
 * rounds its inputs to 10 bits, bf16 its output. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define API __attribute__((visibility("default")))
enum { OK = 0, NOT_INITIALIZED = 1, ALLOC_FAILED = 3, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16BF = 14 };
enum { COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_32F_FAST_TF32 = 77 };
typedef struct Handle {
    void *workspace;
    size_t bytes;
    int own;
} Handle;
static void (*sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int, float,
                     float *, int);
static int (*enqueue)(void (*)(void *), const void *, size_t);
static int (*device_alloc)(unsigned long long *, size_t);

static float load(const void *p, int type, int64_t i, int tf32)
{
    uint32_t u;
    if (type == R_16BF)
        u = (uint32_t)((const uint16_t *)p)[i] << 16;
    else
        memcpy(&u, (const float *)p + i, 4);
    if (tf32)
        u = (u + 0x1000u) & 0xffffe000u;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static void store(void *p, int type, int64_t i, float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if (type == R_16BF)
        ((uint16_t *)p)[i] = (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    else
        ((float *)p)[i] = f;
}
typedef struct Gemm {
    int ta, tb, m, n, k, at, bt, ct, tf32, count, lda, ldb, ldc;
    float alpha, beta;
    const void *a, *b;
    void *c;
    long long sa, sb, sc;
} Gemm;
static float *unpack(const void *p, int type, int tf32, int rows, int cols, int ld)
{
    float *f = malloc(sizeof(float) * (size_t)rows * (size_t)cols);
    for (int j = 0; j < cols; j++)
        for (int i = 0; i < rows; i++)
            f[(int64_t)j * rows + i] = load(p, type, (int64_t)j * ld + i, tf32);
    return f;
}
static void run_gemm(void *d)
{
    const Gemm *g = d;
    for (int i = 0; i < g->count; i++) {
        const char *a = (const char *)g->a + i * g->sa * (g->at == R_32F ? 4 : 2);
        const char *b = (const char *)g->b + i * g->sb * (g->bt == R_32F ? 4 : 2);
        char *c = (char *)g->c + i * g->sc * (g->ct == R_32F ? 4 : 2);
        if (g->at == R_32F && g->bt == R_32F && g->ct == R_32F && !g->tf32) {
            sgemm(102, g->ta ? 112 : 111, g->tb ? 112 : 111, g->m, g->n, g->k, g->alpha, (const float *)a,
                  g->lda, (const float *)b, g->ldb, g->beta, (float *)c, g->ldc);
            continue;
        }
        int ar = g->ta ? g->k : g->m, ac = g->ta ? g->m : g->k, br = g->tb ? g->n : g->k,
            bc = g->tb ? g->k : g->n;
        float *fa = unpack(a, g->at, g->tf32, ar, ac, g->lda),
              *fb = unpack(b, g->bt, g->tf32, br, bc, g->ldb);
        float *fc = g->beta != 0 ? unpack(c, g->ct, 0, g->m, g->n, g->ldc)
                                 : malloc(sizeof(float) * (size_t)g->m * (size_t)g->n);
        sgemm(102, g->ta ? 112 : 111, g->tb ? 112 : 111, g->m, g->n, g->k, g->alpha, fa, ar, fb, br, g->beta,
              fc, g->m);
        for (int j = 0; j < g->n; j++)
            for (int r = 0; r < g->m; r++)
                store(c, g->ct, (int64_t)j * g->ldc + r, fc[(int64_t)j * g->m + r]);
        free(fa);
        free(fb);
        free(fc);
    }
}
API int cublasCreate_v2(void **h)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD),
         *blas = dlopen("libopenblas.so.0", RTLD_NOW);
    if (!driver || !blas)
        return NOT_INITIALIZED;
    *(void **)&enqueue = dlsym(driver, "stand_in_enqueue");
    *(void **)&device_alloc = dlsym(driver, "cuMemAlloc_v2");
    *(void **)&sgemm = dlsym(blas, "cblas_sgemm");
    *h = calloc(1, sizeof(Handle));
    return enqueue && sgemm ? OK : NOT_INITIALIZED;
}
API int cublasDestroy_v2(void *h)
{
    free(h);
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
    *(Handle *)h = (Handle){p, n, ((Handle *)h)->own};
    return OK;
}
API int cublasSetMathMode(void *h, int mode)
{
    (void)h;
    (void)mode;
    return OK;
}
API int cublasGemmStridedBatchedEx(void *h, int ta, int tb, int m, int n, int k, const void *alpha,
                                   const void *a, int at, int lda, long long sa, const void *b, int bt,
                                   int ldb, long long sb, const void *beta, void *c, int ct, int ldc,
                                   long long sc, int count, int compute, int algorithm)
{
    Handle *handle = h;
    (void)algorithm;
    if (m < 0 || n < 0 || k < 0 || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m)
        return INVALID_VALUE;
    if (at != bt ||
        (compute != COMPUTE_32F && compute != COMPUTE_32F_PEDANTIC && compute != COMPUTE_32F_FAST_TF32))
        return NOT_SUPPORTED;
    if (!handle->workspace && !handle->own) {
        unsigned long long p;
        if (device_alloc(&p, (size_t)32 << 20))
            return ALLOC_FAILED;
        handle->own = 1;
    }
    Gemm g = {ta,
              tb,
              m,
              n,
              k,
              at,
              bt,
              ct,
              compute == COMPUTE_32F_FAST_TF32 && at == R_32F,
              count,
              lda,
              ldb,
              ldc,
              *(const float *)alpha,
              *(const float *)beta,
              a,
              b,
              c,
              sa,
              sb,
              sc};
    return enqueue(run_gemm, &g, sizeof g) ? 14 : OK;
}
API int cublasGemmEx(void *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at,
                     int lda, const void *b, int bt, int ldb, const void *beta, void *c, int ct, int ldc,
                     int compute, int algorithm)
{
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, a, at, lda, 0, b, bt, ldb, 0, beta, c, ct,
                                      ldc, 0, 1, compute, algorithm);
}
