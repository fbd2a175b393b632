/* cuBLAS and cuBLASLt: products that are not computed. cublasLt always finds one algorithm, without a
 * workspace of its own. */
#include "stand_in.h"

enum { HEURISTIC_BYTES = 96 }; /* cublasLtMatmulHeuristicResult_t */

EXPORT int cublasCreate_v2(void **handle)
{
    *handle = new_handle();
    return 0;
}

EXPORT int cublasGetMathMode(void *handle, int *mode)
{
    (void)handle;
    *mode = 0;
    return 0;
}

EXPORT int cublasGetPointerMode_v2(void *handle, int *mode)
{
    (void)handle;
    *mode = 0;
    return 0;
}

EXPORT int cublasLtCreate(void **handle)
{
    *handle = new_handle();
    return 0;
}

EXPORT int cublasLtMatmulDescCreate(void **description, int compute, int scale)
{
    (void)compute, (void)scale;
    *description = new_handle();
    return 0;
}

EXPORT int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns,
                                      int64_t leading)
{
    (void)type, (void)rows, (void)columns, (void)leading;
    *layout = new_handle();
    return 0;
}

EXPORT int cublasLtMatmulPreferenceCreate(void **preference)
{
    *preference = new_handle();
    return 0;
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d,
                                          void *preference, int wanted, unsigned char *results, int *found)
{
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference;
    memset(results, 0, HEURISTIC_BYTES * (size_t)(wanted > 0));
    *found = 1;
    return 0;
}

EXPORT size_t cublasLtGetVersion(void)
{
    return 130400;
}
