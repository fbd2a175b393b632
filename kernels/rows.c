/* Rows with a label, side by side: what a head computes when most rows of a batch have none. Part of cpu.c.
 */
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/range.h"

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

static void gather_rows(int64_t n, int64_t c, const int64_t *index, const float *x, float *y,
                        const KernelRun *run)
{
    int team = range_threads(n * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i++)
        memcpy(y + i * c, x + index[i] * c, (size_t)c * sizeof *y);
}

static void scatter_rows(int64_t n, int64_t c, const int64_t *index, const float *x, float beta, float *y,
                         const KernelRun *run)
{
    int team = range_threads(n * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < n; i++) {
        const float *from = x + i * c;
        float *to = y + index[i] * c;
#pragma omp simd
        for (int64_t j = 0; j < c; j++)
            to[j] = beta == 0.0f ? from[j] : from[j] + beta * to[j];
    }
}
