/* Products with few rows of x, as in writing one token after the other: each weight is read once and used a
 * few times, so memory is the limit, and packing weights for sgemm would only read them twice. Part of cpu.c.
 */
#include "kernels/kernels.h"
#include "kernels/range.h"

#include <string.h>

enum { FEW_ROWS = 4 };        /* above, sgemm is faster */
enum { FEW_STRIP = 1 << 10 }; /* columns whose sums stay in the first-level cache */

/* sums[j] = x w_j of four rows of W (out, in). */
static void few_dots(int64_t in, const float *x, const float *w, float *sums)
{
    const float *w0 = w, *w1 = w + in, *w2 = w + 2 * in, *w3 = w + 3 * in;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t i = 0; i < in; i++) {
        s0 += x[i] * w0[i];
        s1 += x[i] * w1[i];
        s2 += x[i] * w2[i];
        s3 += x[i] * w3[i];
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

static float few_dot(int64_t in, const float *x, const float *w)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < in; i++)
        sum += x[i] * w[i];
    return sum;
}

/* y (rows, cols), ld = out; W (cols, in). */
static void few_out_in(const LinearDims *d, int64_t cols, const float *x, const float *w, float *y)
{
    int64_t j = 0;
    for (; j + 4 <= cols; j += 4)
        for (int64_t r = 0; r < d->rows; r++)
            few_dots(d->in, x + r * d->in, w + j * d->in, y + r * d->out + j);
    for (; j < cols; j++)
        for (int64_t r = 0; r < d->rows; r++)
            y[r * d->out + j] = few_dot(d->in, x + r * d->in, w + j * d->in);
}

/* y (cols) += x (4) W (4, cols), W's rows ld apart. */
static void few_add(int64_t cols, const float *x, const float *w, int64_t ld, float *restrict y)
{
    const float *w0 = w, *w1 = w + ld, *w2 = w + 2 * ld, *w3 = w + 3 * ld;
#pragma omp simd
    for (int64_t j = 0; j < cols; j++)
        y[j] += x[0] * w0[j] + x[1] * w1[j] + x[2] * w2[j] + x[3] * w3[j];
}

/* y (rows, cols), ld = out; W (in, cols), ld = out. */
static void few_in_out(const LinearDims *d, int64_t cols, const float *x, const float *w, float *y)
{
    for (int64_t r = 0; r < d->rows; r++)
        memset(y + r * d->out, 0, (size_t)cols * sizeof(float));
    int64_t i = 0;
    for (; i + 4 <= d->in; i += 4)
        for (int64_t r = 0; r < d->rows; r++)
            few_add(cols, x + r * d->in + i, w + i * d->out, d->out, y + r * d->out);
    for (; i < d->in; i++)
        for (int64_t r = 0; r < d->rows; r++) {
            float *restrict sum = y + r * d->out;
            float factor = x[r * d->in + i];
#pragma omp simd
            for (int64_t j = 0; j < cols; j++)
                sum[j] += factor * w[i * d->out + j];
        }
}

/* Columns [col, col + cols) of x W^T (or x W) into y (rows, out). */
static void few_columns(const LinearDims *d, int64_t col, int64_t cols, const float *x, const float *w,
                        float *y)
{
    if (!d->in_out) {
        few_out_in(d, cols, x, w + col * d->in, y + col);
        return;
    }
    for (int64_t end = col + cols; col < end; col += FEW_STRIP)
        few_in_out(d, range_min(FEW_STRIP, end - col), x, w + col, y + col);
}
