/* The engine's element-wise helpers and reductions. Reductions run over slices that depend only on n, in
 * double, so that their results do not depend on the number of threads. */
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/range.h"

static void fill(int64_t n, float value, float *y, const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for simd schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i++)
        y[i] = value;
}

static void copy(int64_t n, const float *x, float *y, const KernelRun *run)
{
    if (x == y)
        return;
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++) {
        int64_t begin = range_begin(n, part, team), end = range_begin(n, part + 1, team);
        memcpy(y + begin, x + begin, (size_t)(end - begin) * sizeof *y);
    }
}

static void add(int64_t n, const float *a, const float *b, float *y, const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for simd schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static void add_row(int64_t rows, int64_t c, const float *a, const float *b, float *y, const KernelRun *run)
{
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < rows; row++) {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            y[row * c + j] = a[row * c + j] + b[j];
    }
}

/* Adds rows [begin, end) of dy to total. Eight at a time: fewer passes over total, and a tree of sums. */
static void column_sum_rows(int64_t begin, int64_t end, int64_t c, const float *dy, float *total)
{
    int64_t row = begin;
    for (; row + 8 <= end; row += 8) {
        const float *r = dy + row * c;
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            total[j] += ((r[j] + r[c + j]) + (r[2 * c + j] + r[3 * c + j])) +
                        ((r[4 * c + j] + r[5 * c + j]) + (r[6 * c + j] + r[7 * c + j]));
    }
    for (; row < end; row++) {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            total[j] += dy[row * c + j];
    }
}

static size_t column_sum_workspace(int64_t rows, int64_t c, const KernelRun *run)
{
    (void)rows;
    return (size_t)(run->threads < 1 ? 1 : run->threads) * (size_t)c * sizeof(float);
}

static void column_sum(int64_t rows, int64_t c, const float *dy, float beta, float *dbias, float *workspace,
                       const KernelRun *run)
{
    int parts =
        run->threads < 1 ? 1 : run->threads; /* fixes the result; the team only says who computes it */
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < parts; part++) {
        float *total = workspace + part * c;
        memset(total, 0, (size_t)c * sizeof *total);
        column_sum_rows(range_begin(rows, part, parts), range_begin(rows, part + 1, parts), c, dy, total);
    }
    for (int part = 1; part < parts; part++) {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            workspace[j] += workspace[part * c + j];
    }
    for (int64_t j = 0; j < c; j++)
        dbias[j] = beta == 0.0f ? workspace[j] : workspace[j] + beta * dbias[j];
}

static void scale(int64_t n, float alpha, const float *x, float beta, float *y, const KernelRun *run)
{
    int team = range_threads(n, run->threads);
    if (beta == 0.0f) {
#pragma omp parallel for simd schedule(static) num_threads(team)
        for (int64_t i = 0; i < n; i++)
            y[i] = alpha * x[i];
    } else {
#pragma omp parallel for simd schedule(static) num_threads(team)
        for (int64_t i = 0; i < n; i++)
            y[i] = alpha * x[i] + beta * y[i];
    }
}

static void multiply(int64_t n, const float *a, const float *b, float beta, float *y, const KernelRun *run)
{
    int team = range_threads(n, run->threads);
    if (beta == 0.0f) {
#pragma omp parallel for simd schedule(static) num_threads(team)
        for (int64_t i = 0; i < n; i++)
            y[i] = a[i] * b[i];
    } else {
#pragma omp parallel for simd schedule(static) num_threads(team)
        for (int64_t i = 0; i < n; i++)
            y[i] = a[i] * b[i] + beta * y[i];
    }
}

enum { REDUCTION_SLICES = 256 };

/* Elements of a slice: a multiple of the block, so that all blocks but the last are whole. */
static int64_t reduction_slice(int64_t n)
{
    int64_t blocks = (n + RANGE_BLOCK - 1) / RANGE_BLOCK;
    return (blocks + REDUCTION_SLICES - 1) / REDUCTION_SLICES * RANGE_BLOCK;
}

static double reduction_block_sum(int64_t n, const float *x)
{
    double total = 0.0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; i++)
        total += (double)x[i];
    return total;
}

static double reduction_block_squares(int64_t n, const float *x)
{
    double total = 0.0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; i++)
        total += (double)x[i] * (double)x[i];
    return total;
}

static double reduction_total(double (*block_total)(int64_t, const float *), int64_t n, const float *x,
                              int threads)
{
    double partial[REDUCTION_SLICES];
    if (n <= 0)
        return 0.0;
    int64_t slice = reduction_slice(n);
    int slices = (int)((n + slice - 1) / slice);
    int team = range_threads(n, threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int s = 0; s < slices; s++) {
        int64_t end = range_min(n, (s + 1) * slice);
        double total = 0.0;
        for (int64_t i = s * slice; i < end; i += RANGE_BLOCK)
            total += block_total(range_min(RANGE_BLOCK, end - i), x + i);
        partial[s] = total;
    }
    double total = 0.0;
    for (int s = 0; s < slices; s++)
        total += partial[s];
    return total;
}

static void broadcast(int64_t n, float factor, const float *value, float *y, const KernelRun *run)
{
    fill(n, value[0] * factor, y, run);
}

static void sum(int64_t n, const float *x, double factor, float *total, const KernelRun *run)
{
    total[0] = (float)(reduction_total(reduction_block_sum, n, x, run->threads) * factor);
}

static void sum_squares(int64_t n, const float *x, double *total, const KernelRun *run)
{
    total[0] = reduction_total(reduction_block_squares, n, x, run->threads);
}

static int nonfinite(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7f800000u) == 0x7f800000u;
}

static void find_nonfinite(int64_t n, const float *x, int64_t *index, const KernelRun *run)
{
    int64_t first = n;
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team) reduction(min : first)
    for (int64_t begin = 0; begin < n; begin += RANGE_BLOCK) {
        int64_t end = range_min(n, begin + RANGE_BLOCK);
        int found = 0;
        if (begin > first) /* this thread already has an earlier one */
            continue;
#pragma omp simd reduction(| : found)
        for (int64_t i = begin; i < end; i++)
            found |= nonfinite(x[i]);
        if (!found)
            continue;
        int64_t bad = begin;
        while (!nonfinite(x[bad]))
            bad++;
        first = range_min(first, bad);
    }
    index[0] = first < n ? first : -1;
}
