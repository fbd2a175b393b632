/* Products with few rows of x, as in writing one token after the other: each weight is read once and used a
 * few times, so memory is the limit, and packing weights for sgemm would only read them twice. Part of cpu.c.
 */
#include "kernels/grid.h"
#include "kernels/kernels.h"
#include "kernels/range.h"
#include "kernels/vecmath.h"

#include <string.h>

enum { FEW_STRIP = 1 << 11 }; /* columns whose sums stay in the first-level cache */

/* Sums side by side, as many as a register holds; read from where floats lie. */
#if defined(__AVX512F__)
enum { FEW_LANES = 16 };
#elif defined(__AVX2__)
enum { FEW_LANES = 8 };
#else
enum { FEW_LANES = 4 };
#endif
typedef float FewSums __attribute__((vector_size(4 * FEW_LANES), aligned(4), may_alias));
#define FEW_LOAD(from, i) (*(const FewSums *)((from) + (i)*FEW_LANES))

/* Sums of neighbours within each 128 bits: (a0 + a1, a2 + a3, b0 + b1, b2 + b3). */
#define FEW_QUARTER(i, odd) 4 * i + odd, 4 * i + 2 + odd, FEW_LANES + 4 * i + odd, FEW_LANES + 4 * i + 2 + odd
#if defined(__AVX512F__)
#define FEW_NEIGHBOURS(odd) FEW_QUARTER(0, odd), FEW_QUARTER(1, odd), FEW_QUARTER(2, odd), FEW_QUARTER(3, odd)
#elif defined(__AVX2__)
#define FEW_NEIGHBOURS(odd) FEW_QUARTER(0, odd), FEW_QUARTER(1, odd)
#else
#define FEW_NEIGHBOURS(odd) FEW_QUARTER(0, odd)
#endif
#if defined(__clang__)
#define FEW_PICK(a, b, odd) __builtin_shufflevector(a, b, FEW_NEIGHBOURS(odd))
#else
typedef int32_t FewPlaces __attribute__((vector_size(4 * FEW_LANES)));
#define FEW_PICK(a, b, odd) __builtin_shuffle(a, b, (FewPlaces){FEW_NEIGHBOURS(odd)})
#endif

VEC_INLINE FewSums few_pairs(FewSums a, FewSums b)
{
    return FEW_PICK(a, b, 0) + FEW_PICK(a, b, 1);
}

/* totals (4) = each register's sum; one after the other they would take longer. */
VEC_INLINE void few_totals(FewSums s0, FewSums s1, FewSums s2, FewSums s3, float *totals)
{
    FewSums quarters = few_pairs(few_pairs(s0, s1), few_pairs(s2, s3)); /* of all four in each */
    float sums[FEW_LANES];
    memcpy(sums, &quarters, sizeof sums);
    for (int half = FEW_LANES / 2; half >= 4; half /= 2)
        for (int i = 0; i < half; i++)
            sums[i] += sums[half + i];
    memcpy(totals, sums, 4 * sizeof *totals);
}

VEC_INLINE float few_total(FewSums all)
{
    float sums[FEW_LANES];
    memcpy(sums, &all, sizeof sums);
    for (int half = FEW_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            sums[i] += sums[half + i];
    return sums[0];
}

/* x w: four registers of sums, for an addition takes as long as four of them. */
VEC_INLINE float few_dot(int64_t in, const float *x, const float *w)
{
    FewSums s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    int64_t left = in;
    for (; left >= 4 * FEW_LANES; left -= 4 * FEW_LANES, x += 4 * FEW_LANES, w += 4 * FEW_LANES) {
        s0 += FEW_LOAD(x, 0) * FEW_LOAD(w, 0);
        s1 += FEW_LOAD(x, 1) * FEW_LOAD(w, 1);
        s2 += FEW_LOAD(x, 2) * FEW_LOAD(w, 2);
        s3 += FEW_LOAD(x, 3) * FEW_LOAD(w, 3);
    }
    for (; left >= FEW_LANES; left -= FEW_LANES, x += FEW_LANES, w += FEW_LANES)
        s0 += FEW_LOAD(x, 0) * FEW_LOAD(w, 0);
    float total = few_total((s0 + s1) + (s2 + s3));
    for (int64_t i = 0; i < left; i++)
        total += x[i] * w[i];
    return total;
}

/* x w and z w: each weight is loaded once for both. */
VEC_INLINE void few_dot_twice(int64_t in, const float *x, const float *z, const float *w, float *xw,
                              float *zw)
{
    FewSums s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, t0 = {0}, t1 = {0}, t2 = {0}, t3 = {0};
    int64_t i = 0;
    for (; i + 4 * FEW_LANES <= in; i += 4 * FEW_LANES) {
        FewSums w0 = FEW_LOAD(w + i, 0), w1 = FEW_LOAD(w + i, 1);
        FewSums w2 = FEW_LOAD(w + i, 2), w3 = FEW_LOAD(w + i, 3);
        s0 += FEW_LOAD(x + i, 0) * w0;
        s1 += FEW_LOAD(x + i, 1) * w1;
        s2 += FEW_LOAD(x + i, 2) * w2;
        s3 += FEW_LOAD(x + i, 3) * w3;
        t0 += FEW_LOAD(z + i, 0) * w0;
        t1 += FEW_LOAD(z + i, 1) * w1;
        t2 += FEW_LOAD(z + i, 2) * w2;
        t3 += FEW_LOAD(z + i, 3) * w3;
    }
    for (; i + FEW_LANES <= in; i += FEW_LANES) {
        s0 += FEW_LOAD(x + i, 0) * FEW_LOAD(w + i, 0);
        t0 += FEW_LOAD(z + i, 0) * FEW_LOAD(w + i, 0);
    }
    *xw = few_total((s0 + s1) + (s2 + s3));
    *zw = few_total((t0 + t1) + (t2 + t3));
    for (; i < in; i++) {
        *xw += x[i] * w[i];
        *zw += z[i] * w[i];
    }
}

/* y (rows, cols), ldy apart; W (cols, in). W's rows are read one after the other, each from the first element
 * to the last: as fast as memory reads, and faster than several of them side by side. */
static void few_out_in(const LinearDims *d, int64_t cols, const float *x, const float *w, float *y,
                       int64_t ldy)
{
    int64_t in = d->in;
    for (int64_t j = 0; j < cols; j++, w += in, y++) {
        int64_t r = 0;
        for (; r + 2 <= d->rows; r += 2)
            few_dot_twice(in, x + r * in, x + (r + 1) * in, w, y + r * ldy, y + (r + 1) * ldy);
        if (r < d->rows)
            y[r * ldy] = few_dot(in, x + r * in, w);
    }
}

/* y (cols) += x (4) W (4, cols), W's rows ld apart. */
static void few_add(int64_t cols, const float *x, const float *w, int64_t ld, float *restrict y)
{
    const float *w0 = w, *w1 = w + ld, *w2 = w + 2 * ld, *w3 = w + 3 * ld;
#pragma omp simd
    for (int64_t j = 0; j < cols; j++)
        y[j] += x[0] * w0[j] + x[1] * w1[j] + x[2] * w2[j] + x[3] * w3[j];
}

/* The same of two rows of x, in apart, and of y, ldy apart. */
static void few_add_twice(int64_t cols, const float *x, int64_t in, const float *w, int64_t ld,
                          float *restrict y, int64_t ldy)
{
    const float *w0 = w, *w1 = w + ld, *w2 = w + 2 * ld, *w3 = w + 3 * ld, *z = x + in;
    float *restrict u = y + ldy;
#pragma omp simd
    for (int64_t j = 0; j < cols; j++) {
        y[j] += x[0] * w0[j] + x[1] * w1[j] + x[2] * w2[j] + x[3] * w3[j];
        u[j] += z[0] * w0[j] + z[1] * w1[j] + z[2] * w2[j] + z[3] * w3[j];
    }
}

/* y (rows, cols), ldy apart; W (in, cols), out apart. */
static void few_in_out(const LinearDims *d, int64_t cols, const float *x, const float *w, float *y,
                       int64_t ldy)
{
    int64_t i = 0, r;
    for (r = 0; r < d->rows; r++)
        memset(y + r * ldy, 0, (size_t)cols * sizeof(float));
    for (; i + 4 <= d->in; i += 4) {
        for (r = 0; r + 2 <= d->rows; r += 2)
            few_add_twice(cols, x + r * d->in + i, d->in, w + i * d->out, d->out, y + r * ldy, ldy);
        if (r < d->rows)
            few_add(cols, x + r * d->in + i, w + i * d->out, d->out, y + r * ldy);
    }
    for (; i < d->in; i++)
        for (r = 0; r < d->rows; r++) {
            float *restrict sum = y + r * ldy;
            float factor = x[r * d->in + i];
#pragma omp simd
            for (int64_t j = 0; j < cols; j++)
                sum[j] += factor * w[i * d->out + j];
        }
}

/* Columns [col, col + cols) of x W^T (or x W) into y (rows, out), ldy apart. */
static void few_columns(const LinearDims *d, int64_t col, int64_t cols, const float *x, const float *w,
                        float *y, int64_t ldy)
{
    if (!d->in_out) {
        few_out_in(d, cols, x, w + col * d->in, y + col, ldy);
        return;
    }
    int64_t strips =
        (cols + FEW_STRIP - 1) / FEW_STRIP; /* of equal width: short pieces of rows read slowly */
    for (int64_t i = 0; i < strips; i++) {
        int64_t first = col + range_begin(cols, i, strips), end = col + range_begin(cols, i + 1, strips);
        few_in_out(d, end - first, x, w + first, y + first, ldy);
    }
}
