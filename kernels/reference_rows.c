/* Reference kernels of rows.c. */
#include "kernels/reference_.h"

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

void reference_gather_rows(int64_t n, int64_t c, const int64_t *index, const float *x, float *y,
                           const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++)
            y[i * c + j] = x[index[i] * c + j];
}

void reference_scatter_rows(int64_t n, int64_t c, const int64_t *index, const float *x, float beta, float *y,
                            const KernelRun *run)
{
    (void)run;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) {
            float *to = y + index[i] * c + j;
            *to = x[i * c + j] + (beta == 0.0f ? 0.0f : beta * *to);
        }
}
