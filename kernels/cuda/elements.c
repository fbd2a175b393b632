/* Element-wise operations on a card: elements.cu. */
#include "../draw.h"
#include "launch_.h"

/* Whether arrays begin on 16 bytes; NULL does. */
static int aligned(const void *a, const void *b, const void *c)
{
    return ((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) % 16 == 0;
}

/* Blocks of a grid over n elements, in packs of 16 bytes. */
static int64_t pack_blocks(DType type, int64_t n)
{
    return cuda_blocks((n + 3) / (type == DTYPE_F32 ? 4 : 8) + 1);
}

static void start(const KernelRun *run, int kernel, DType type, ElementArguments *a)
{
    a->aligned = aligned(a->a, a->b, a->y);
    LAUNCH(run, kernel + cuda_typed(type), pack_blocks(type, a->n), 1, 1, CUDA_THREADS, *a);
}

void cuda_fill(DType type, int64_t n, float value, void *y, const KernelRun *run)
{
    ElementArguments a = {.n = n, .y = y, .alpha = value};
    start(run, CUDA_fill, type, &a);
}

void cuda_broadcast(DType type, int64_t n, float factor, const float *value, void *y, const KernelRun *run)
{
    ElementArguments a = {.n = n, .y = y, .alpha = factor, .a = value, .aligned = aligned(y, NULL, NULL)};
    LAUNCH(run, CUDA_broadcast + cuda_typed(type), pack_blocks(type, n), 1, 1, CUDA_THREADS, a);
}

static void convert(const KernelRun *run, int kernel, DType from, DType to, int64_t n, const void *x, void *y)
{
    ConvertArguments a = {.n = n, .x = x, .y = y, .from = from, .to = to, .aligned = aligned(x, y, NULL)};
    DType type = from == DTYPE_F32 || to == DTYPE_F32 ? DTYPE_F32 : to;
    LAUNCH(run, kernel, pack_blocks(type, n), 1, 1, CUDA_THREADS, a);
}

void cuda_copy(DType from, DType to, int64_t n, const void *x, void *y, const KernelRun *run)
{
    if (x != y)
        convert(run, CUDA_copy, from, to, n, x, y);
}

void cuda_accumulate(DType from, DType to, int64_t n, const void *x, void *y, const KernelRun *run)
{
    convert(run, CUDA_accumulate, from, to, n, x, y);
}

void cuda_add(DType type, int64_t n, const void *a, const void *b, void *y, const KernelRun *run)
{
    ElementArguments arguments = {.n = n, .a = a, .b = b, .y = y};
    start(run, CUDA_add, type, &arguments);
}

void cuda_add_row(DType type, int64_t rows, int64_t c, const void *a, const float *b, void *y,
                  const KernelRun *run)
{
    ElementArguments arguments = {.n = rows * c, .c = c, .a = a, .b = b, .y = y};
    start(run, CUDA_add_row, type, &arguments);
}

void cuda_scale(DType type, int64_t n, float alpha, const void *x, float beta, void *y, const KernelRun *run)
{
    ElementArguments a = {.n = n, .a = x, .y = y, .alpha = alpha, .beta = beta};
    start(run, CUDA_scale, type, &a);
}

void cuda_multiply(DType type, int64_t n, const void *a, const void *b, float beta, void *y,
                   const KernelRun *run)
{
    ElementArguments arguments = {.n = n, .a = a, .b = b, .y = y, .beta = beta};
    start(run, CUDA_multiply, type, &arguments);
}

void cuda_activation_forward(DType type, Activation act, int64_t n, const void *x, void *y,
                             const KernelRun *run)
{
    ElementArguments a = {.n = n, .a = x, .y = y, .kind = (int)act};
    start(run, CUDA_activation_forward, type, &a);
}

void cuda_activation_backward(DType type, Activation act, int64_t n, const void *x, const void *dy,
                              float beta, void *dx, const KernelRun *run)
{
    ElementArguments a = {.n = n, .a = x, .b = dy, .y = dx, .beta = beta, .kind = (int)act};
    start(run, CUDA_activation_backward, type, &a);
}

void cuda_softcap_forward(DType type, int64_t n, float cap, const void *x, void *y, const KernelRun *run)
{
    ElementArguments a = {.n = n, .a = x, .y = y, .alpha = cap};
    start(run, CUDA_softcap_forward, type, &a);
}

void cuda_softcap_backward(DType type, int64_t n, float cap, const void *x, const void *dy, float beta,
                           void *dx, const KernelRun *run)
{
    ElementArguments a = {.n = n, .a = x, .b = dy, .y = dx, .alpha = cap, .beta = beta};
    start(run, CUDA_softcap_backward, type, &a);
}

/* Rows without room between them are one. */
static void start_gated(const KernelRun *run, int kernel, DType type, GatedArguments *a)
{
    int64_t pack = type == DTYPE_F32 ? 4 : 8;
    a->d.ld = gated_ld(&a->d);
    if (a->d.ld == a->d.c) {
        a->d.ld = a->d.c *= a->d.rows;
        a->d.rows = 1;
    }
    a->aligned = aligned(a->gate, a->up, a->dy) && aligned(a->y, a->dgate, a->dup) &&
                 (a->d.rows == 1 || (a->d.c % pack == 0 && a->d.ld % pack == 0));
    LAUNCH(run, kernel + cuda_typed(type), cuda_blocks(a->d.rows * ((a->d.c + pack - 1) / pack)), 1, 1,
           CUDA_THREADS, *a);
}

void cuda_gated_forward(const GatedDims *d, DType type, const void *gate, const void *up, void *y,
                        const KernelRun *run)
{
    GatedArguments a = {.d = *d, .gate = gate, .up = up, .y = y};
    start_gated(run, CUDA_gated_forward, type, &a);
}

void cuda_gated_backward(const GatedDims *d, DType type, const void *gate, const void *up, const void *dy,
                         float beta_gate, void *dgate, float beta_up, void *dup, const KernelRun *run)
{
    GatedArguments a = {.d = *d,
                        .gate = gate,
                        .up = up,
                        .dy = dy,
                        .dgate = dgate,
                        .dup = dup,
                        .beta_gate = beta_gate,
                        .beta_up = beta_up};
    start_gated(run, CUDA_gated_backward, type, &a);
}

void cuda_dropout(DType type, int64_t samples, int64_t per_sample, float p, const DropoutKey *key,
                  const void *x, float beta, void *y, const KernelRun *run)
{
    int64_t pack = type == DTYPE_F32 ? 4 : 8;
    DropoutArguments a = {.samples = samples,
                          .per_sample = per_sample,
                          .x = x,
                          .y = y,
                          .key = *key,
                          .threshold = draw_dropout_threshold(p),
                          .keep = 1.0f / (1.0f - p),
                          .beta = beta,
                          .aligned = aligned(x, y, NULL) && per_sample % pack == 0};
    LAUNCH(run, CUDA_dropout + cuda_typed(type), cuda_blocks(samples * ((per_sample + pack - 1) / pack)), 1,
           1, CUDA_THREADS, a);
}

/* ---- Column sums ----------------------------------------------------------------------------- */

enum { COLUMN_SUM_ROWS = 128, COLUMN_SUM_PARTS = 64 };

/* Parts of the rows that are summed side by side: a function of the shape. */
static int64_t column_sum_parts(int64_t rows)
{
    int64_t parts = (rows + COLUMN_SUM_ROWS - 1) / COLUMN_SUM_ROWS;
    return parts < 1 ? 1 : parts > COLUMN_SUM_PARTS ? COLUMN_SUM_PARTS : parts;
}

size_t cuda_column_sum_workspace(int64_t rows, int64_t c, const KernelRun *run)
{
    (void)run;
    return column_sum_parts(rows) > 1 ? (size_t)(column_sum_parts(rows) * c) * sizeof(float) : 0;
}

void cuda_column_sum_of(DType type, int64_t rows, int64_t c, int64_t ld, const void *dy, DType dbias_type,
                        float beta, void *dbias, float *workspace, const KernelRun *run)
{
    int64_t parts = column_sum_parts(rows);
    ColumnSumArguments a = {.rows = rows,
                            .c = c,
                            .ld = ld,
                            .part_rows = (rows + parts - 1) / parts,
                            .x = dy,
                            .partial = workspace,
                            .y = dbias,
                            .beta = beta,
                            .to = dbias_type,
                            .parts = (int)parts};
    LAUNCH(run, CUDA_column_sum + cuda_typed(type), (c + 31) / 32, parts, 1, 256, a);
    if (parts > 1)
        LAUNCH(run, CUDA_column_sum_end, cuda_blocks(c), 1, 1, CUDA_THREADS, a);
}

void cuda_column_sum(DType type, int64_t rows, int64_t c, const void *dy, DType dbias_type, float beta,
                     void *dbias, float *workspace, const KernelRun *run)
{
    cuda_column_sum_of(type, rows, c, c, dy, dbias_type, beta, dbias, workspace, run);
}
