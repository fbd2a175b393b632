/* Products with few rows of x, as in writing one token after the other: each weight is read once and used a
 * few times, so memory is the limit, and packing weights for sgemm would only read them twice. Part of cpu.c.
 */
#include "kernels/kernels.h"
#include "kernels/range.h"

#include <string.h>

enum { FEW_ROWS = 8 };        /* above, sgemm is faster */
enum { FEW_STRIP = 1 << 11 }; /* columns whose sums stay in the first-level cache */

static float few_dot(int64_t in, const float *x, const float *w)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < in; i++)
        sum += x[i] * w[i];
    return sum;
}

/* y[j] = x w_j of four rows of W (out, in). */
static void few_dots(int64_t in, const float *x, const float *w, float *y)
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
    y[0] = s0;
    y[1] = s1;
    y[2] = s2;
    y[3] = s3;
}

/* The same of two rows of x, in apart, and of y, ld apart: each weight is loaded once for both. */
static void few_dots_twice(int64_t in, const float *x, const float *w, float *y, int64_t ld)
{
    const float *w0 = w, *w1 = w + in, *w2 = w + 2 * in, *w3 = w + 3 * in, *z = x + in;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, t0, t1, t2, t3)
    for (int64_t i = 0; i < in; i++) {
        s0 += x[i] * w0[i];
        s1 += x[i] * w1[i];
        s2 += x[i] * w2[i];
        s3 += x[i] * w3[i];
        t0 += z[i] * w0[i];
        t1 += z[i] * w1[i];
        t2 += z[i] * w2[i];
        t3 += z[i] * w3[i];
    }
    float sums[] = {s0, s1, s2, s3, t0, t1, t2, t3};
    memcpy(y, sums, 4 * sizeof(float));
    memcpy(y + ld, sums + 4, 4 * sizeof(float));
}

/* y (rows, cols), ld = out; W (cols, in). */
static void few_out_in(const LinearDims *d, int64_t cols, const float *x, const float *w, float *y)
{
    int64_t j = 0, r;
    for (; j + 4 <= cols; j += 4) {
        for (r = 0; r + 2 <= d->rows; r += 2)
            few_dots_twice(d->in, x + r * d->in, w + j * d->in, y + r * d->out + j, d->out);
        if (r < d->rows)
            few_dots(d->in, x + r * d->in, w + j * d->in, y + r * d->out + j);
    }
    for (; j < cols; j++)
        for (r = 0; r < d->rows; r++)
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

/* The same of two rows of x, in apart, and of y, ld apart. */
static void few_add_twice(int64_t cols, const float *x, int64_t in, const float *w, int64_t ld,
                          float *restrict y)
{
    const float *w0 = w, *w1 = w + ld, *w2 = w + 2 * ld, *w3 = w + 3 * ld, *z = x + in;
    float *restrict u = y + ld;
#pragma omp simd
    for (int64_t j = 0; j < cols; j++) {
        y[j] += x[0] * w0[j] + x[1] * w1[j] + x[2] * w2[j] + x[3] * w3[j];
        u[j] += z[0] * w0[j] + z[1] * w1[j] + z[2] * w2[j] + z[3] * w3[j];
    }
}

/* y (rows, cols), ld = out; W (in, cols), ld = out. */
static void few_in_out(const LinearDims *d, int64_t cols, const float *x, const float *w, float *y)
{
    int64_t i = 0, r;
    for (r = 0; r < d->rows; r++)
        memset(y + r * d->out, 0, (size_t)cols * sizeof(float));
    for (; i + 4 <= d->in; i += 4) {
        for (r = 0; r + 2 <= d->rows; r += 2)
            few_add_twice(cols, x + r * d->in + i, d->in, w + i * d->out, d->out, y + r * d->out);
        if (r < d->rows)
            few_add(cols, x + r * d->in + i, w + i * d->out, d->out, y + r * d->out);
    }
    for (; i < d->in; i++)
        for (r = 0; r < d->rows; r++) {
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
    int64_t strips =
        (cols + FEW_STRIP - 1) / FEW_STRIP; /* of equal width: short pieces of rows read slowly */
    for (int64_t i = 0; i < strips; i++) {
        int64_t first = col + range_begin(cols, i, strips), end = col + range_begin(cols, i + 1, strips);
        few_in_out(d, end - first, x, w + first, y + first);
    }
}
