/* Rows with a label, side by side: what a head computes when most rows of a batch have none. Part of cpu.c.
 */
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
