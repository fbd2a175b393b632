/* LayerNorm and RMSNorm: a row is read from memory once and stays in L1 for the second look at it. Gradients
 * of the weights are summed in the same loop into one partial row a part; `threads` decides the parts. Rows
 * of 16 bit are decoded once, into a room on the stack; those that are wider than it a block at every look.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/range.h"
#include "kernels/values.h"

static size_t norm_workspace(int64_t rows, int64_t c, const KernelRun *run)
{
    (void)rows;
    return (size_t)(run->threads < 1 ? 1 : run->threads) * 2 * (size_t)c * sizeof(float); /* (parts, 2, c) */
}

/* Elements of a row that are looked at together. */
static int64_t norm_block(DType type, int64_t c)
{
    return type == DTYPE_F32 ? c : range_min(RANGE_BLOCK, c);
}

/* A block that was loaded before: where it is a whole row, it still lies in the room. */
static const float *norm_again(DType type, const void *x, int64_t at, int64_t n, int64_t c, float *room)
{
    return type != DTYPE_F32 && n == c ? room : values_load(type, x, at, n, room);
}

static float layer_norm_sum(int64_t n, const float *x)
{
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < n; j++)
        total += x[j];
    return total;
}

static float layer_norm_squares(int64_t n, const float *x, float m)
{
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < n; j++)
        squares += (x[j] - m) * (x[j] - m);
    return squares;
}

static void layer_norm_values(int64_t n, const float *x, float m, float r, const float *weight,
                              const float *bias, float *y)
{
    if (bias) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            y[j] = (x[j] - m) * r * weight[j] + bias[j];
    } else {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            y[j] = (x[j] - m) * r * weight[j];
    }
}

/* The row that begins at element `at`. room: of a block. */
static void layer_norm_row(DType type, int64_t at, int64_t c, float eps, const void *x, const float *weight,
                           const float *bias, void *y, float *mean, float *rstd, float *room)
{
    float total = 0.0f, squares = 0.0f;
    int64_t block = norm_block(type, c);
    for (int64_t j = 0, n; j < c; j += n) {
        n = range_min(block, c - j);
        total += layer_norm_sum(n, values_load(type, x, at + j, n, room));
    }
    const float m = total / (float)c;
    /* A second look instead of E[x^2] - E[x]^2, which cancels when the mean is large. */
    for (int64_t j = 0, n; j < c; j += n) {
        n = range_min(block, c - j);
        squares += layer_norm_squares(n, norm_again(type, x, at + j, n, c, room), m);
    }
    const float r = 1.0f / sqrtf(squares / (float)c + eps);
    for (int64_t j = 0, n; j < c; j += n) {
        n = range_min(block, c - j);
        const float *from = norm_again(type, x, at + j, n, c, room);
        float *to = values_room(type, y, at + j, room);
        layer_norm_values(n, from, m, r, weight + j, bias ? bias + j : NULL, to);
        values_store(type, n, to, y, at + j);
    }
    *mean = m;
    *rstd = r;
}

static void layer_norm_forward(DType type, int64_t rows, int64_t c, float eps, const void *x,
                               const float *weight, const float *bias, void *y, float *mean, float *rstd,
                               const KernelRun *run)
{
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < rows; row++) {
        float room[RANGE_BLOCK];
        layer_norm_row(type, row * c, c, eps, x, weight, bias, y, mean + row, rstd + row, room);
    }
}

/* What backward sums over a row: of g = dy weight, and of g xhat. */
typedef struct NormSums {
    float total, dot;
} NormSums;

static NormSums layer_norm_sums(int64_t n, const float *x, const float *weight, float m, float r,
                                const float *dy, float *dw, float *db)
{
    float total = 0.0f, dot = 0.0f;
#pragma omp simd reduction(+ : total, dot)
    for (int64_t j = 0; j < n; j++) {
        float xhat = (x[j] - m) * r, g = dy[j] * weight[j];
        total += g;
        dot += g * xhat;
        dw[j] += dy[j] * xhat;
        db[j] += dy[j];
    }
    return (NormSums){total, dot};
}

static void layer_norm_slopes(int64_t n, const float *x, const float *weight, float m, float r, NormSums mean,
                              const float *dy, float beta, float *dx)
{
    float total = mean.total, dot = mean.dot;
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            dx[j] = r * (dy[j] * weight[j] - total - (x[j] - m) * r * dot);
    } else {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            dx[j] = r * (dy[j] * weight[j] - total - (x[j] - m) * r * dot) + beta * dx[j];
    }
}

/* dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = dy weight; dw and db are this part's partial rows. */
static void layer_norm_row_backward(DType type, int64_t at, int64_t c, const void *x, const float *weight,
                                    float m, float r, const void *dy, float beta, void *dx, float *dw,
                                    float *db)
{
    float room[3][RANGE_BLOCK];
    NormSums sums = {0.0f, 0.0f};
    int64_t block = norm_block(type, c);
    for (int64_t j = 0, n; j < c; j += n) {
        n = range_min(block, c - j);
        const float *xs = values_load(type, x, at + j, n, room[0]);
        const float *ds = values_load(type, dy, at + j, n, room[1]);
        NormSums some = layer_norm_sums(n, xs, weight + j, m, r, ds, dw + j, db + j);
        sums.total += some.total;
        sums.dot += some.dot;
    }
    sums.total /= (float)c;
    sums.dot /= (float)c;
    for (int64_t j = 0, n; j < c && dx; j += n) {
        n = range_min(block, c - j);
        const float *xs = norm_again(type, x, at + j, n, c, room[0]);
        const float *ds = norm_again(type, dy, at + j, n, c, room[1]);
        float *to = values_room(type, dx, at + j, room[2]);
        if (beta != 0.0f)
            values_load(type, dx, at + j, n, room[2]);
        layer_norm_slopes(n, xs, weight + j, m, r, sums, ds, beta, to);
        values_store(type, n, to, dx, at + j);
    }
}

/* out = sum over parts of partial[part][which] + beta out, rounded once where out is of 16 bit */
static void norm_reduce(int parts, int64_t c, int which, const float *partial, DType type, float beta,
                        void *out)
{
    float room[VALUES_BLOCK];
    for (int64_t j = 0, n; j < c && out; j += n) {
        n = values_block(type, c - j);
        float *to = values_room(type, out, j, room);
        const float *first = partial + which * c + j;
        if (beta != 0.0f)
            values_load(type, out, j, n, room);
        for (int64_t i = 0; i < n; i++)
            to[i] = first[i] + (beta == 0.0f ? 0.0f : beta * to[i]);
        for (int part = 1; part < parts; part++) {
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                to[i] += first[2 * part * c + i];
        }
        values_store(type, n, to, out, j);
    }
}

static void layer_norm_backward(DType type, int64_t rows, int64_t c, const void *x, const float *weight,
                                const float *mean, const float *rstd, const void *dy, float beta_dx, void *dx,
                                DType dweight_type, float beta_dw, void *dweight, DType dbias_type,
                                float beta_db, void *dbias, float *workspace, const KernelRun *run)
{
    int parts = run->threads < 1 ? 1 : run->threads;
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < parts; part++) {
        float *dw = workspace + 2 * part * c, *db = dw + c;
        memset(dw, 0, 2 * (size_t)c * sizeof *dw);
        int64_t end = range_begin(rows, part + 1, parts);
        for (int64_t row = range_begin(rows, part, parts); row < end; row++)
            layer_norm_row_backward(type, row * c, c, x, weight, mean[row], rstd[row], dy, beta_dx, dx, dw,
                                    db);
    }
    norm_reduce(parts, c, 0, workspace, dweight_type, beta_dw, dweight);
    norm_reduce(parts, c, 1, workspace, dbias_type, beta_db, dbias);
}

static float rms_norm_squares(int64_t n, const float *x)
{
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < n; j++)
        squares += x[j] * x[j];
    return squares;
}

static void rms_norm_values(int64_t n, const float *x, float r, float plus, const float *weight, float *y)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
        y[j] = x[j] * r * (plus + weight[j]);
}

static void rms_norm_row(DType type, int64_t at, int64_t c, float eps, float plus, const void *x,
                         const float *weight, void *y, float *rstd, float *room)
{
    float squares = 0.0f;
    int64_t block = norm_block(type, c);
    for (int64_t j = 0, n; j < c; j += n) {
        n = range_min(block, c - j);
        squares += rms_norm_squares(n, values_load(type, x, at + j, n, room));
    }
    const float r = 1.0f / sqrtf(squares / (float)c + eps);
    for (int64_t j = 0, n; j < c; j += n) {
        n = range_min(block, c - j);
        const float *from = norm_again(type, x, at + j, n, c, room);
        float *to = values_room(type, y, at + j, room);
        rms_norm_values(n, from, r, plus, weight + j, to);
        values_store(type, n, to, y, at + j);
    }
    *rstd = r;
}

static void rms_norm_forward(DType type, int64_t rows, int64_t c, float eps, float plus, const void *x,
                             const float *weight, void *y, float *rstd, const KernelRun *run)
{
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < rows; row++) {
        float room[RANGE_BLOCK];
        rms_norm_row(type, row * c, c, eps, norm_plus(plus), x, weight, y, rstd + row, room);
    }
}

static float rms_norm_dot(int64_t n, const float *x, float plus, const float *weight, float r,
                          const float *dy, float *dw)
{
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < n; j++) {
        float xhat = x[j] * r;
        dot += dy[j] * (plus + weight[j]) * xhat;
        dw[j] += dy[j] * xhat;
    }
    return dot;
}

static void rms_norm_slopes(int64_t n, const float *x, float plus, const float *weight, float r, float dot,
                            const float *dy, float beta, float *dx)
{
    if (beta == 0.0f) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            dx[j] = r * (dy[j] * (plus + weight[j]) - x[j] * dot);
    } else {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            dx[j] = r * (dy[j] * (plus + weight[j]) - x[j] * dot) + beta * dx[j];
    }
}

/* dx = rstd (g - xhat mean(g xhat)) with g = dy (plus + weight), xhat = x rstd */
static void rms_norm_row_backward(DType type, int64_t at, int64_t c, float plus, const void *x,
                                  const float *weight, float r, const void *dy, float beta, void *dx,
                                  float *dw)
{
    float room[3][RANGE_BLOCK], dot = 0.0f;
    int64_t block = norm_block(type, c);
    for (int64_t j = 0, n; j < c; j += n) {
        n = range_min(block, c - j);
        const float *xs = values_load(type, x, at + j, n, room[0]);
        const float *ds = values_load(type, dy, at + j, n, room[1]);
        dot += rms_norm_dot(n, xs, plus, weight + j, r, ds, dw + j);
    }
    dot = dot / (float)c * r;
    for (int64_t j = 0, n; j < c && dx; j += n) {
        n = range_min(block, c - j);
        const float *xs = norm_again(type, x, at + j, n, c, room[0]);
        const float *ds = norm_again(type, dy, at + j, n, c, room[1]);
        float *to = values_room(type, dx, at + j, room[2]);
        if (beta != 0.0f)
            values_load(type, dx, at + j, n, room[2]);
        rms_norm_slopes(n, xs, plus, weight + j, r, dot, ds, beta, to);
        values_store(type, n, to, dx, at + j);
    }
}

static void rms_norm_backward(DType type, int64_t rows, int64_t c, float plus, const void *x,
                              const float *weight, const float *rstd, const void *dy, float beta_dx, void *dx,
                              DType dweight_type, float beta_dw, void *dweight, float *workspace,
                              const KernelRun *run)
{
    int parts = run->threads < 1 ? 1 : run->threads;
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < parts; part++) {
        float *dw = workspace + 2 * part * c;
        memset(dw, 0, (size_t)c * sizeof *dw);
        int64_t end = range_begin(rows, part + 1, parts);
        for (int64_t row = range_begin(rows, part, parts); row < end; row++)
            rms_norm_row_backward(type, row * c, c, norm_plus(plus), x, weight, rstd[row], dy, beta_dx, dx,
                                  dw);
    }
    norm_reduce(parts, c, 0, workspace, dweight_type, beta_dw, dweight);
}
