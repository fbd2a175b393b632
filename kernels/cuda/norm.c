/* Layer norm and RMS norm on a card: norm.cu. */
#include "launch_.h"

/* Rows that a warp can hold have one, others a block. */
static int norm_team(int64_t c)
{
    return c <= 32 * 8 * NORM_HELD ? 32 : CUDA_THREADS;
}

/* Sets of rows whose sums are kept apart: a function of the shape alone. Those of narrow
 * rows take little memory. */
static int64_t norm_parts(int64_t rows, int64_t c)
{
    int64_t parts = (rows + 15) / 16, most = norm_team(c) == 32 ? NORM_PARTS : NORM_PARTS / 2;
    return parts < 1 ? 1 : parts > most ? most : parts;
}

static int norm_aligned(const NormArguments *a)
{
    uintptr_t all = (uintptr_t)a->x | (uintptr_t)a->dy | (uintptr_t)a->weight | (uintptr_t)a->bias |
                    (uintptr_t)a->partial | (uintptr_t)a->y | (uintptr_t)a->dx;
    return a->c % 8 == 0 && all % 16 == 0;
}

static void norm_forward(DType type, NormArguments a, const KernelRun *run)
{
    int threads = norm_team(a.c) == 32 ? 128 : CUDA_THREADS, rows = threads / norm_team(a.c);
    if (a.rows == 0)
        return;
    a.team = norm_team(a.c);
    a.aligned = norm_aligned(&a);
    LAUNCH(run, CUDA_norm_forward + cuda_typed(type), (a.rows + rows - 1) / rows, 1, 1, threads, a);
}

void cuda_layer_norm_forward(DType type, int64_t rows, int64_t c, float eps, const void *x,
                             const float *weight, const float *bias, void *y, float *mean, float *rstd,
                             const KernelRun *run)
{
    norm_forward(type,
                 (NormArguments){.rows = rows,
                                 .c = c,
                                 .layer = 1,
                                 .plus = norm_plus(0),
                                 .eps = eps,
                                 .x = x,
                                 .weight = weight,
                                 .bias = bias,
                                 .y = y,
                                 .mean = mean,
                                 .rstd = rstd},
                 run);
}

void cuda_rms_norm_forward(DType type, int64_t rows, int64_t c, float eps, float plus, const void *x,
                           const float *weight, void *y, float *rstd, const KernelRun *run)
{
    norm_forward(type,
                 (NormArguments){.rows = rows,
                                 .c = c,
                                 .eps = eps,
                                 .plus = norm_plus(plus),
                                 .x = x,
                                 .weight = weight,
                                 .y = y,
                                 .rstd = rstd},
                 run);
}

size_t cuda_norm_workspace(int64_t rows, int64_t c, const KernelRun *run)
{
    (void)run;
    return (size_t)norm_parts(rows, c) * 2 * (size_t)c * sizeof(float); /* (parts, 2, c) */
}

/* w: where the gradients of the weights go. */
static void norm_backward(DType type, NormArguments a, NormWeightArguments w, const KernelRun *run)
{
    int64_t parts = norm_parts(a.rows, a.c);
    int summed = w.out[0] || w.out[1];
    a.partial = summed ? (float *)(uintptr_t)w.partial : NULL;
    a.team = norm_team(a.c);
    a.aligned = norm_aligned(&a);
    w.c = a.c;
    w.parts = (int)parts;
    if (a.dx || summed)
        LAUNCH(run, CUDA_norm_backward + cuda_typed(type), parts, 1, 1, CUDA_THREADS, a);
    if (summed)
        LAUNCH(run, CUDA_norm_weights, (a.c + 31) / 32, w.out[1] ? 2 : 1, 1, CUDA_THREADS, w);
}

void cuda_layer_norm_backward(DType type, int64_t rows, int64_t c, const void *x, const float *weight,
                              const float *mean, const float *rstd, const void *dy, float beta_dx, void *dx,
                              DType dweight_type, float beta_dw, void *dweight, DType dbias_type,
                              float beta_db, void *dbias, float *workspace, const KernelRun *run)
{
    NormArguments a = {.rows = rows,
                       .c = c,
                       .layer = 1,
                       .plus = norm_plus(0),
                       .x = x,
                       .weight = weight,
                       .mean = (float *)(uintptr_t)mean,
                       .rstd = (float *)(uintptr_t)rstd,
                       .dy = dy,
                       .beta_dx = beta_dx,
                       .dx = dx};
    NormWeightArguments w = {.partial = workspace,
                             .type = {dweight_type, dbias_type},
                             .beta = {beta_dw, beta_db},
                             .out = {dweight, dbias}};
    norm_backward(type, a, w, run);
}

void cuda_rms_norm_backward(DType type, int64_t rows, int64_t c, float plus, const void *x,
                            const float *weight, const float *rstd, const void *dy, float beta_dx, void *dx,
                            DType dweight_type, float beta_dw, void *dweight, float *workspace,
                            const KernelRun *run)
{
    NormArguments a = {.rows = rows,
                       .c = c,
                       .plus = norm_plus(plus),
                       .x = x,
                       .weight = weight,
                       .rstd = (float *)(uintptr_t)rstd,
                       .dy = dy,
                       .beta_dx = beta_dx,
                       .dx = dx};
    NormWeightArguments w = {
        .partial = workspace, .type = {dweight_type}, .beta = {beta_dw}, .out = {dweight}};
    norm_backward(type, a, w, run);
}
