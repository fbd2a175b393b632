/* Rows with a label on a card: rows.cu. */
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
