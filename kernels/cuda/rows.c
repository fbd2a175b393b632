/* Rows with a label, rows that a number gates, and the mean of tokens on a card: rows.cu. */
#include "launch_.h"

void cuda_labelled_rows(const CrossEntropyDims *d, int64_t room, const int32_t *labels, int64_t *index,
                        int32_t *label, int64_t *count, const KernelRun *run)
{
    LabelledArguments a = {.d = *d,
                           .room = room,
                           .labels = labels,
                           .index = index,
                           .label = label,
                           .count = count,
                           .fault = cuda_fault_of(run)};
    LAUNCH(run, CUDA_labelled_rows, 1, 1, 1, LABELLED_THREADS, a);
}

/* A warp a row. */
static void rows_launch(int kernel, RowsArguments a, const KernelRun *run)
{
    if (a.n > 0)
        LAUNCH(run, kernel, (a.n + 7) / 8, 1, 1, CUDA_THREADS, a);
}

static void rows_move(DType type, RowsArguments a, const KernelRun *run)
{
    a.c *= type == DTYPE_F32 ? 4 : 2;
    a.aligned = ((uintptr_t)a.c | (uintptr_t)a.x | (uintptr_t)a.y) % 16 == 0;
    rows_launch(CUDA_move_rows, a, run);
}

void cuda_gather_rows(DType type, int64_t n, int64_t c, const int64_t *index, const void *x, void *y,
                      const KernelRun *run)
{
    rows_move(type, (RowsArguments){.n = n, .c = c, .from = index, .x = x, .y = y}, run);
}

void cuda_scatter_rows(DType type, int64_t n, int64_t c, const int64_t *index, const void *x, float beta,
                       void *y, const KernelRun *run)
{
    RowsArguments a = {.n = n, .c = c, .to = index, .x = x, .beta = beta, .y = y};
    if (beta == 0.0f) {
        rows_move(type, a, run);
        return;
    }
    a.aligned = c % 8 == 0 && ((uintptr_t)x | (uintptr_t)y) % 16 == 0;
    rows_launch(CUDA_add_to_rows + cuda_typed(type), a, run);
}

static void gate_rows_launch(int kernel, DType type, GateRowsArguments a, const KernelRun *run)
{
    uintptr_t all = (uintptr_t)a.x | (uintptr_t)a.dy | (uintptr_t)a.y | (uintptr_t)a.dx;
    a.aligned = a.c % 8 == 0 && all % 16 == 0;
    if (a.rows > 0)
        LAUNCH(run, kernel + cuda_typed(type), (a.rows + 7) / 8, 1, 1, CUDA_THREADS, a);
}

void cuda_gate_rows_forward(DType type, int64_t rows, int64_t c, const void *x, const void *gate, void *y,
                            const KernelRun *run)
{
    gate_rows_launch(CUDA_gate_rows_forward, type,
                     (GateRowsArguments){.rows = rows, .c = c, .x = x, .gate = gate, .y = y}, run);
}

void cuda_gate_rows_backward(DType type, int64_t rows, int64_t c, const void *x, const void *gate,
                             const void *dy, float beta_x, void *dx, float beta_gate, void *dgate,
                             const KernelRun *run)
{
    GateRowsArguments a = {.rows = rows,
                           .c = c,
                           .beta_x = beta_x,
                           .beta_gate = beta_gate,
                           .x = dgate ? x : NULL,
                           .gate = gate,
                           .dy = dy,
                           .dx = dx,
                           .dgate = dgate};
    gate_rows_launch(CUDA_gate_rows_backward, type, a, run);
}

/* A block has 32 columns of a sample. */
void cuda_mean_tokens_forward(DType type, int64_t batch, int64_t seq, int64_t c, const void *x,
                              const int32_t *mask, void *y, float *scale, const KernelRun *run)
{
    MeanTokensArguments a = {
        .batch = batch, .seq = seq, .c = c, .x = x, .mask = mask, .y = y, .scale = scale};
    LAUNCH(run, CUDA_mean_tokens_forward + cuda_typed(type), (c + 31) / 32, batch, 1, CUDA_THREADS, a);
}

void cuda_mean_tokens_backward(DType type, int64_t batch, int64_t seq, int64_t c, const int32_t *mask,
                               const float *scale, const void *dy, float beta, void *dx, const KernelRun *run)
{
    MeanTokensArguments a = {.batch = batch,
                             .seq = seq,
                             .c = c,
                             .aligned = c % 8 == 0 && ((uintptr_t)dy | (uintptr_t)dx) % 16 == 0,
                             .beta = beta,
                             .dy = dy,
                             .mask = mask,
                             .dx = dx,
                             .scale = (float *)(uintptr_t)scale};
    LAUNCH(run, CUDA_mean_tokens_backward + cuda_typed(type), (batch * seq + 7) / 8, 1, 1, CUDA_THREADS, a);
}
