/* The engine's element-wise helpers and reductions. Reductions run over slices that depend only on n, in
 * double, so that their results do not depend on the number of threads. What is in 16 bit is decoded a block
 * at a time. */
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/range.h"
#include "kernels/values.h"

/* Elements [begin, end) of each; the part of a thread. */
static void fill_part(DType type, int64_t begin, int64_t end, float value, void *y)
{
    float room[VALUES_BLOCK];
    for (int64_t i = begin, m; i < end; i += m) {
        m = values_block(type, end - i);
        float *to = values_room(type, y, i, room);
#pragma omp simd
        for (int64_t j = 0; j < m; j++)
            to[j] = value;
        values_store(type, m, to, y, i);
    }
}

static void fill(DType type, int64_t n, float value, void *y, const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++)
        fill_part(type, range_begin(n, part, team), range_begin(n, part + 1, team), value, y);
}

static void copy_part(DType from, DType to, int64_t begin, int64_t end, const void *x, void *y)
{
    float room[VALUES_BLOCK];
    if (from == to) {
        memcpy(values_at(to, y, begin), values_at(from, x, begin), (size_t)((end - begin) * values_size(to)));
        return;
    }
    for (int64_t i = begin, m; i < end; i += m) {
        m = range_min(VALUES_BLOCK, end - i);
        values_store(to, m, values_load(from, x, i, m, values_room(to, y, i, room)), y, i);
    }
}

static void copy(DType from, DType to, int64_t n, const void *x, void *y, const KernelRun *run)
{
    if (x == y)
        return;
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++)
        copy_part(from, to, range_begin(n, part, team), range_begin(n, part + 1, team), x, y);
}

VEC_INLINE void add_values(int64_t n, const float *a, const float *b, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static void add_part(DType type, int64_t begin, int64_t end, const void *a, const void *b, void *y)
{
    float left[VALUES_BLOCK], right[VALUES_BLOCK];
    for (int64_t i = begin, m; i < end; i += m) {
        m = values_block(type, end - i);
        const float *l = values_load(type, a, i, m, left), *r = values_load(type, b, i, m, right);
        float *to = values_room(type, y, i, left);
        add_values(m, l, r, to);
        values_store(type, m, to, y, i);
    }
}

static void add(DType type, int64_t n, const void *a, const void *b, void *y, const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++)
        add_part(type, range_begin(n, part, team), range_begin(n, part + 1, team), a, b, y);
}

static void accumulate_part(DType from, DType to, int64_t begin, int64_t end, const void *x, void *y)
{
    float left[VALUES_BLOCK], right[VALUES_BLOCK];
    for (int64_t i = begin, m; i < end; i += m) {
        m = values_block(from == DTYPE_F32 ? to : from, end - i);
        const float *l = values_load(to, y, i, m, left), *r = values_load(from, x, i, m, right);
        float *sum = values_room(to, y, i, left);
        add_values(m, l, r, sum);
        values_store(to, m, sum, y, i);
    }
}

static void accumulate(DType from, DType to, int64_t n, const void *x, void *y, const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++)
        accumulate_part(from, to, range_begin(n, part, team), range_begin(n, part + 1, team), x, y);
}

static void add_row(DType type, int64_t rows, int64_t c, const void *a, const float *b, void *y,
                    const KernelRun *run)
{
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < rows; row++) {
        float room[VALUES_BLOCK];
        for (int64_t j = 0, m; j < c; j += m) {
            m = values_block(type, c - j);
            float *to = values_room(type, y, row * c + j, room);
            add_values(m, values_load(type, a, row * c + j, m, room), b + j, to);
            values_store(type, m, to, y, row * c + j);
        }
    }
}

/* Adds rows to total (n); ld elements from one to the next. Eight at a time: fewer passes over total, and a
 * tree of sums. */
static void column_sum_rows(int64_t rows, int64_t n, const float *dy, int64_t ld, float *total)
{
    int64_t row = 0;
    for (; row + 8 <= rows; row += 8) {
        const float *r = dy + row * ld;
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            total[j] += ((r[j] + r[ld + j]) + (r[2 * ld + j] + r[3 * ld + j])) +
                        ((r[4 * ld + j] + r[5 * ld + j]) + (r[6 * ld + j] + r[7 * ld + j]));
    }
    for (; row < rows; row++) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            total[j] += dy[row * ld + j];
    }
}

/* The same of rows [begin, end) of dy (rows, c): in 16 bit a strip of eight rows at a time. */
static void column_sum_part(DType type, int64_t begin, int64_t end, int64_t c, const void *dy, float *total)
{
    enum { ROWS = 8, STRIP = VALUES_BLOCK / 2 };
    float room[ROWS * STRIP];
    if (type == DTYPE_F32) {
        column_sum_rows(end - begin, c, (const float *)dy + begin * c, c, total);
        return;
    }
    for (int64_t j = 0; j < c; j += STRIP) {
        int64_t n = range_min(STRIP, c - j);
        for (int64_t row = begin, rows; row < end; row += rows) {
            rows = range_min(ROWS, end - row);
            for (int64_t i = 0; i < rows; i++)
                values_load(type, dy, (row + i) * c + j, n, room + i * STRIP);
            column_sum_rows(rows, n, room, STRIP, total + j);
        }
    }
}

static size_t column_sum_workspace(int64_t rows, int64_t c, const KernelRun *run)
{
    (void)rows;
    return (size_t)(run->threads < 1 ? 1 : run->threads) * (size_t)c * sizeof(float);
}

/* y (n) = x + beta y: a sum in f32 is rounded once, with what is there. */
static void column_sum_store(DType type, int64_t n, const float *x, float beta, void *y)
{
    float room[VALUES_BLOCK];
    for (int64_t i = 0, m; i < n; i += m) {
        m = values_block(type, n - i);
        const float *old = beta == 0.0f ? NULL : values_load(type, y, i, m, room);
        float *to = values_room(type, y, i, room);
        for (int64_t j = 0; j < m; j++)
            to[j] = beta == 0.0f ? x[i + j] : x[i + j] + beta * old[j];
        values_store(type, m, to, y, i);
    }
}

static void column_sum(DType type, int64_t rows, int64_t c, const void *dy, DType dbias_type, float beta,
                       void *dbias, float *workspace, const KernelRun *run)
{
    int parts =
        run->threads < 1 ? 1 : run->threads; /* fixes the result; the team only says who computes it */
    int team = range_threads(rows * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < parts; part++) {
        float *total = workspace + part * c;
        memset(total, 0, (size_t)c * sizeof *total);
        column_sum_part(type, range_begin(rows, part, parts), range_begin(rows, part + 1, parts), c, dy,
                        total);
    }
    for (int part = 1; part < parts; part++) {
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            workspace[j] += workspace[part * c + j];
    }
    column_sum_store(dbias_type, c, workspace, beta, dbias);
}

static void scale_part(DType type, int64_t begin, int64_t end, float alpha, const void *x, float beta,
                       void *y)
{
    float in[VALUES_BLOCK], out[VALUES_BLOCK];
    for (int64_t i = begin, m; i < end; i += m) {
        m = values_block(type, end - i);
        const float *from = values_load(type, x, i, m, in);
        float *to = values_room(type, y, i, out);
        if (beta == 0.0f) {
#pragma omp simd
            for (int64_t j = 0; j < m; j++)
                to[j] = alpha * from[j];
        } else {
            values_load(type, y, i, m, out);
#pragma omp simd
            for (int64_t j = 0; j < m; j++)
                to[j] = alpha * from[j] + beta * to[j];
        }
        values_store(type, m, to, y, i);
    }
}

static void scale(DType type, int64_t n, float alpha, const void *x, float beta, void *y,
                  const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++)
        scale_part(type, range_begin(n, part, team), range_begin(n, part + 1, team), alpha, x, beta, y);
}

static void multiply_part(DType type, int64_t begin, int64_t end, const void *a, const void *b, float beta,
                          void *y)
{
    float left[VALUES_BLOCK], right[VALUES_BLOCK], out[VALUES_BLOCK];
    for (int64_t i = begin, m; i < end; i += m) {
        m = values_block(type, end - i);
        const float *l = values_load(type, a, i, m, left), *r = values_load(type, b, i, m, right);
        float *to = values_room(type, y, i, out);
        if (beta == 0.0f) {
#pragma omp simd
            for (int64_t j = 0; j < m; j++)
                to[j] = l[j] * r[j];
        } else {
            values_load(type, y, i, m, out);
#pragma omp simd
            for (int64_t j = 0; j < m; j++)
                to[j] = l[j] * r[j] + beta * to[j];
        }
        values_store(type, m, to, y, i);
    }
}

static void multiply(DType type, int64_t n, const void *a, const void *b, float beta, void *y,
                     const KernelRun *run)
{
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++)
        multiply_part(type, range_begin(n, part, team), range_begin(n, part + 1, team), a, b, beta, y);
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

static double reduction_total(double (*block_total)(int64_t, const float *), DType type, int64_t n,
                              const void *x, int threads)
{
    double partial[REDUCTION_SLICES];
    if (n <= 0)
        return 0.0;
    int64_t slice = reduction_slice(n);
    int slices = (int)((n + slice - 1) / slice);
    int team = range_threads(n, threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int s = 0; s < slices; s++) {
        float room[RANGE_BLOCK];
        int64_t end = range_min(n, (s + 1) * slice);
        double total = 0.0;
        for (int64_t i = s * slice, m; i < end; i += m) {
            m = range_min(RANGE_BLOCK, end - i);
            total += block_total(m, values_load(type, x, i, m, room));
        }
        partial[s] = total;
    }
    double total = 0.0;
    for (int s = 0; s < slices; s++)
        total += partial[s];
    return total;
}

static void broadcast(DType type, int64_t n, float factor, const float *value, void *y, const KernelRun *run)
{
    fill(type, n, value[0] * factor, y, run);
}

static void sum(DType type, int64_t n, const void *x, double factor, float *total, const KernelRun *run)
{
    total[0] = (float)(reduction_total(reduction_block_sum, type, n, x, run->threads) * factor);
}

static void sum_squares(DType type, int64_t n, const void *x, double *total, const KernelRun *run)
{
    total[0] = reduction_total(reduction_block_squares, type, n, x, run->threads);
}

static int nonfinite(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7f800000u) == 0x7f800000u;
}

static void find_nonfinite(DType type, int64_t n, const void *x, int64_t *index, const KernelRun *run)
{
    int64_t first = n;
    int team = range_threads(n, run->threads);
#pragma omp parallel for schedule(static) num_threads(team) reduction(min : first)
    for (int64_t begin = 0; begin < n; begin += RANGE_BLOCK) {
        float room[RANGE_BLOCK];
        int64_t m = range_min(RANGE_BLOCK, n - begin);
        int found = 0;
        if (begin > first) /* this thread already has an earlier one */
            continue;
        const float *block = values_load(type, x, begin, m, room);
#pragma omp simd reduction(| : found)
        for (int64_t i = 0; i < m; i++)
            found |= nonfinite(block[i]);
        if (!found)
            continue;
        int64_t bad = 0;
        while (!nonfinite(block[bad]))
            bad++;
        first = range_min(first, begin + bad);
    }
    index[0] = first < n ? first : -1;
}
