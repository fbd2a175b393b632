/* Reference kernels of rows.c. */
#include "kernels/reference_.h"
#include "kernels/values.h"

void reference_labelled_rows(const CrossEntropyDims *d, int64_t room, const int32_t *labels, int64_t *index,
                             int32_t *label, int64_t *count, const KernelRun *run)
{
    *count = 0;
    for (int64_t row = 0; row < d->rows; row++) {
        int bad = labels[row] < 0 || labels[row] >= d->classes;
        if (labels[row] == d->ignore_index)
            continue;
        if (bad && *run->fault < 0)
            *run->fault = row;
        if (!bad) {
            index[*count] = row;
            label[(*count)++] = labels[row];
        }
    }
    for (int64_t i = *count; i < room; i++) {
        index[i] = *count ? index[*count - 1] : 0;
        label[i] = d->ignore_index;
    }
}

void reference_gather_rows(DType type, int64_t n, int64_t c, const int64_t *index, const void *x, void *y,
                           const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++)
            values_set(type, y, i * c + j, values_get(type, x, index[i] * c + j));
}

void reference_scatter_rows(DType type, int64_t n, int64_t c, const int64_t *index, const void *x, float beta,
                            void *y, const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) {
            int64_t to = index[i] * c + j;
            float old = beta == 0.0f ? 0.0f : beta * values_get(type, y, to);
            values_set(type, y, to, values_get(type, x, i * c + j) + old);
        }
}

void reference_mean_tokens_forward(DType type, int64_t batch, int64_t seq, int64_t c, const void *x,
                                   const int32_t *mask, void *y, float *scale, const KernelRun *run)
{
    (void)run;
    for (int64_t b = 0; b < batch; b++) {
        int64_t count = 0;
        for (int64_t t = 0; t < seq; t++)
            count += !mask || mask[b * seq + t];
        scale[b] = count ? 1.0f / (float)count : 0.0f;
        for (int64_t j = 0; j < c; j++) {
            double sum = 0;
            for (int64_t t = 0; t < seq; t++)
                if (!mask || mask[b * seq + t])
                    sum += (double)values_get(type, x, (b * seq + t) * c + j);
            values_set(type, y, b * c + j, (float)(count ? sum / (double)count : 0));
        }
    }
}

void reference_mean_tokens_backward(DType type, int64_t batch, int64_t seq, int64_t c, const int32_t *mask,
                                    const float *scale, const void *dy, float beta, void *dx,
                                    const KernelRun *run)
{
    (void)run;
    for (int64_t row = 0; row < batch * seq; row++)
        for (int64_t j = 0; j < c; j++) {
            double slope = mask && !mask[row]
                               ? 0
                               : (double)scale[row / seq] * (double)values_get(type, dy, row / seq * c + j);
            double old = beta == 0.0f ? 0 : (double)beta * (double)values_get(type, dx, row * c + j);
            values_set(type, dx, row * c + j, (float)(slope + old));
        }
}
