/* Rows with a label, side by side: what a head computes when most rows of a batch have none; and the mean of
 * a sample's rows. Part of cpu.c. */
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/range.h"
#include "kernels/values.h"

static void labelled_rows(const CrossEntropyDims *d, int64_t room, const int32_t *labels, int64_t *index,
                          int32_t *label, int64_t *count, const KernelRun *run)
{
    int64_t used = 0;
    for (int64_t row = 0; row < d->rows; row++) {
        if (labels[row] == d->ignore_index)
            continue;
        if (labels[row] < 0 || labels[row] >= d->classes) {
            if (*run->fault < 0)
                *run->fault = row;
            continue;
        }
        index[used] = row;
        label[used++] = labels[row];
    }
    for (int64_t i = used; i < room; i++) {
        index[i] = used ? index[used - 1] : 0;
        label[i] = d->ignore_index;
    }
    *count = used;
}

static void gather_rows(DType type, int64_t n, int64_t c, const int64_t *index, const void *x, void *y,
                        const KernelRun *run)
{
    int team = range_threads(n * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i++)
        memcpy(values_at(type, y, i * c), values_at(type, x, index[i] * c), (size_t)(c * values_size(type)));
}

/* c elements of y from `to` on = those of x from `from` on + beta y. */
static void rows_add(DType type, int64_t c, const void *x, int64_t from, float beta, void *y, int64_t to)
{
    enum { BLOCK = 1024 };
    float added[BLOCK], old[BLOCK];
    for (int64_t j = 0; j < c; j += BLOCK) {
        int64_t count = range_min(BLOCK, c - j);
        const float *more = values_load(type, x, from + j, count, added);
        const float *before = values_load(type, y, to + j, count, old);
        float *sum = values_room(type, y, to + j, old);
#pragma omp simd
        for (int64_t k = 0; k < count; k++)
            sum[k] = more[k] + beta * before[k];
        values_store(type, count, sum, y, to + j);
    }
}

static void scatter_rows(DType type, int64_t n, int64_t c, const int64_t *index, const void *x, float beta,
                         void *y, const KernelRun *run)
{
    int team = range_threads(n * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i++) {
        if (beta == 0.0f)
            memcpy(values_at(type, y, index[i] * c), values_at(type, x, i * c),
                   (size_t)(c * values_size(type)));
        else
            rows_add(type, c, x, i * c, beta, y, index[i] * c);
    }
}

/* ---- The mean of tokens ----------------------------------------------------------------------- */

/* Of columns [j, j + n) of a sample whose first row begins at element `at`. Returns how many rows there are.
 */
static int64_t mean_tokens_sum(DType type, int64_t at, int64_t seq, int64_t c, int64_t j, int64_t n,
                               const void *x, const int32_t *mask, float *sum)
{
    float room[VALUES_BLOCK];
    int64_t count = 0;
    memset(sum, 0, (size_t)n * sizeof *sum);
    for (int64_t t = 0; t < seq; t++) {
        if (mask && !mask[t])
            continue;
        const float *row = values_load(type, x, at + t * c + j, n, room);
        count++;
#pragma omp simd
        for (int64_t k = 0; k < n; k++)
            sum[k] += row[k];
    }
    return count;
}

static void mean_tokens_forward(DType type, int64_t batch, int64_t seq, int64_t c, const void *x,
                                const int32_t *mask, void *y, float *scale, const KernelRun *run)
{
    int team = range_threads(batch * seq * c, run->threads);
    int64_t blocks = (c + VALUES_BLOCK - 1) / VALUES_BLOCK;
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < batch * blocks; i++) {
        float sum[VALUES_BLOCK];
        int64_t b = i / blocks, j = i % blocks * VALUES_BLOCK, n = range_min(VALUES_BLOCK, c - j);
        int64_t count =
            mean_tokens_sum(type, b * seq * c, seq, c, j, n, x, mask ? mask + b * seq : NULL, sum);
        float by = count ? 1.0f / (float)count : 0.0f;
        for (int64_t k = 0; k < n; k++)
            sum[k] *= by;
        if (type == DTYPE_F32)
            memcpy((float *)y + b * c + j, sum, (size_t)n * sizeof *sum);
        values_store(type, n, sum, y, b * c + j);
        if (!j)
            scale[b] = by;
    }
}

static void mean_tokens_row(DType type, int64_t c, float by, const void *dy, int64_t from, float beta,
                            void *dx, int64_t to)
{
    float slope[VALUES_BLOCK], old[VALUES_BLOCK];
    for (int64_t j = 0, n; j < c; j += n) {
        n = range_min(VALUES_BLOCK, c - j);
        const float *d = values_load(type, dy, from + j, n, slope);
        float *out = values_room(type, dx, to + j, old);
        if (beta != 0.0f)
            values_load(type, dx, to + j, n, old);
#pragma omp simd
        for (int64_t k = 0; k < n; k++)
            out[k] = d[k] * by + (beta == 0.0f ? 0.0f : beta * out[k]);
        values_store(type, n, out, dx, to + j);
    }
}

static void mean_tokens_backward(DType type, int64_t batch, int64_t seq, int64_t c, const int32_t *mask,
                                 const float *scale, const void *dy, float beta, void *dx,
                                 const KernelRun *run)
{
    int team = range_threads(batch * seq * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < batch * seq; row++) {
        int64_t b = row / seq;
        mean_tokens_row(type, c, mask && !mask[row] ? 0.0f : scale[b], dy, b * c, beta, dx, row * c);
    }
}
