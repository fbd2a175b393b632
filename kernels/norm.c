/* LayerNorm and RMSNorm: a row is read from memory once and stays in L1 for the second look at it. Gradients
 * of the weights are summed in the same loop into one partial row a part; `threads` decides the parts. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/range.h"

static size_t norm_workspace(int64_t rows, int64_t c, const KernelRun *run)
{
    (void)rows;
    return (size_t)(run->threads < 1 ? 1 : run->threads) * 2 * (size_t)c * sizeof(float); /* (parts, 2, c) */
}

static void layer_norm_row(int64_t c, float eps, const float *x, const float *weight, const float *bias,
                           float *y, float *mean, float *rstd)
{
    float total = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < c; j++)
        total += x[j];
    const float m = total / (float)c;
    /* A second look instead of E[x^2] - E[x]^2, which cancels when the mean is large. */
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < c; j++)
        squares += (x[j] - m) * (x[j] - m);
    const float r = 1.0f / sqrtf(squares / (float)c + eps);
    if (bias) {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            y[j] = (x[j] - m) * r * weight[j] + bias[j];
    } else {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            y[j] = (x[j] - m) * r * weight[j];
    }
    *mean = m;
    *rstd = r;
}

static void layer_norm_forward(int64_t rows, int64_t c, float eps, const float *x, const float *weight,
                               const float *bias, float *y, float *mean, float *rstd, const KernelRun *run)
{
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < rows; row++)
        layer_norm_row(c, eps, x + row * c, weight, bias, y + row * c, mean + row, rstd + row);
}

/* dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = dy weight; dw and db are this part's partial rows. */
static void layer_norm_row_backward(int64_t c, const float *x, const float *weight, float m, float r,
                                    const float *dy, float beta, float *dx, float *dw, float *db)
{
    float total = 0.0f, dot = 0.0f;
#pragma omp simd reduction(+ : total, dot)
    for (int64_t j = 0; j < c; j++) {
        float xhat = (x[j] - m) * r, g = dy[j] * weight[j];
        total += g;
        dot += g * xhat;
        dw[j] += dy[j] * xhat;
        db[j] += dy[j];
    }
    if (!dx)
        return;
    total /= (float)c;
    dot /= (float)c;
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            dx[j] = r * (dy[j] * weight[j] - total - (x[j] - m) * r * dot);
    } else {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            dx[j] = r * (dy[j] * weight[j] - total - (x[j] - m) * r * dot) + beta * dx[j];
    }
}

/* out = sum over parts of partial[part][which] + beta out */
static void norm_reduce(int parts, int64_t c, int which, const float *partial, float beta, float *out)
{
    if (!out)
        return;
    for (int64_t j = 0; j < c; j++)
        out[j] = partial[which * c + j] + (beta == 0.0f ? 0.0f : beta * out[j]);
    for (int part = 1; part < parts; part++) {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            out[j] += partial[(2 * part + which) * c + j];
    }
}

static void layer_norm_backward(int64_t rows, int64_t c, const float *x, const float *weight,
                                const float *mean, const float *rstd, const float *dy, float beta_dx,
                                float *dx, float beta_dw, float *dweight, float beta_db, float *dbias,
                                float *workspace, const KernelRun *run)
{
    int parts = run->threads < 1 ? 1 : run->threads;
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < parts; part++) {
        float *dw = workspace + 2 * part * c, *db = dw + c;
        memset(dw, 0, 2 * (size_t)c * sizeof *dw);
        int64_t end = range_begin(rows, part + 1, parts);
        for (int64_t row = range_begin(rows, part, parts); row < end; row++)
            layer_norm_row_backward(c, x + row * c, weight, mean[row], rstd[row], dy + row * c, beta_dx,
                                    dx ? dx + row * c : NULL, dw, db);
    }
    norm_reduce(parts, c, 0, workspace, beta_dw, dweight);
    norm_reduce(parts, c, 1, workspace, beta_db, dbias);
}

static void rms_norm_row(int64_t c, float eps, const float *x, const float *weight, float *y, float *rstd)
{
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < c; j++)
        squares += x[j] * x[j];
    const float r = 1.0f / sqrtf(squares / (float)c + eps);
#pragma omp simd
    for (int64_t j = 0; j < c; j++)
        y[j] = x[j] * r * weight[j];
    *rstd = r;
}

static void rms_norm_forward(int64_t rows, int64_t c, float eps, const float *x, const float *weight,
                             float *y, float *rstd, const KernelRun *run)
{
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < rows; row++)
        rms_norm_row(c, eps, x + row * c, weight, y + row * c, rstd + row);
}

/* dx = rstd (g - xhat mean(g xhat)) with g = dy weight, xhat = x rstd */
static void rms_norm_row_backward(int64_t c, const float *x, const float *weight, float r, const float *dy,
                                  float beta, float *dx, float *dw)
{
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < c; j++) {
        float xhat = x[j] * r;
        dot += dy[j] * weight[j] * xhat;
        dw[j] += dy[j] * xhat;
    }
    if (!dx)
        return;
    dot = dot / (float)c * r;
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            dx[j] = r * (dy[j] * weight[j] - x[j] * dot);
    } else {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            dx[j] = r * (dy[j] * weight[j] - x[j] * dot) + beta * dx[j];
    }
}

static void rms_norm_backward(int64_t rows, int64_t c, const float *x, const float *weight, const float *rstd,
                              const float *dy, float beta_dx, float *dx, float beta_dw, float *dweight,
                              float *workspace, const KernelRun *run)
{
    int parts = run->threads < 1 ? 1 : run->threads;
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < parts; part++) {
        float *dw = workspace + 2 * part * c;
        memset(dw, 0, (size_t)c * sizeof *dw);
        int64_t end = range_begin(rows, part + 1, parts);
        for (int64_t row = range_begin(rows, part, parts); row < end; row++)
            rms_norm_row_backward(c, x + row * c, weight, rstd[row], dy + row * c, beta_dx,
                                  dx ? dx + row * c : NULL, dw);
    }
    norm_reduce(parts, c, 0, workspace, beta_dw, dweight);
}
