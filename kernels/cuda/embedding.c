/* Token and position tables on a card: embedding.cu. */
#include "launch_.h"

void cuda_embedding_forward(DType type, int64_t n, const int32_t *ids, const StoredArray *table,
                            TablePart part, void *y, const KernelRun *run)
{
    EmbeddingArguments a = {.n = n,
                            .c = table->cols,
                            .vocab = table->rows,
                            .first = part.first,
                            .all = part.all ? part.all : table->rows,
                            .ids = ids,
                            .table = *table,
                            .y = y,
                            .fault = cuda_fault_of(run)};
    a.aligned = a.c % 8 == 0 && ((uintptr_t)table->at | (uintptr_t)y) % 16 == 0;
    if (n > 0)
        LAUNCH(run, CUDA_embedding_forward + cuda_typed(type), (n + 7) / 8, 1, 1, CUDA_THREADS, a);
}

/* Digits of ids up to vocab, which stands for those that are out of range. */
static int sort_digits(int64_t vocab)
{
    int digits = 1;
    while (vocab >> (digits * SORT_BITS))
        digits++;
    return digits;
}

size_t cuda_embedding_workspace(int64_t n, int64_t vocab, DType dtable_type, const KernelRun *run)
{
    (void)dtable_type, (void)run;
    return (size_t)n * sizeof(int32_t) * (sort_digits(vocab) > 1 ? 2 : 1);
}

/* Returns positions by id, in their order where ids are the same. Counts lie in the card's scratch. */
static const int32_t *sort_ids(int64_t n, int64_t vocab, int64_t first, const int32_t *ids,
                               int32_t *workspace, const KernelRun *run)
{
    SortArguments a = {.n = n, .vocab = vocab, .first = first, .ids = ids};
    a.units = (int)((n + 255) / 256 < SORT_UNITS ? (n + 255) / 256 : SORT_UNITS);
    a.counts = (int32_t *)(uintptr_t)run->device->scratch;
    for (int digit = 0; digit < sort_digits(vocab); digit++) {
        a.shift = digit * SORT_BITS;
        a.to = NULL;
        LAUNCH(run, CUDA_sort_count, a.units, 1, 1, 32, a);
        LAUNCH(run, CUDA_sort_scan, 1, 1, 1, SORT_DIGITS, a);
        a.to = digit % 2 ? workspace + n : workspace;
        LAUNCH(run, CUDA_sort_place, a.units, 1, 1, 32, a);
        a.from = a.to;
    }
    return a.from;
}

void cuda_embedding_backward(DType type, int64_t n, int64_t c, int64_t vocab, int64_t first,
                             const int32_t *ids, const void *dy, DType dtable_type, void *dtable,
                             void *workspace, const KernelRun *run)
{
    EmbeddingArguments a = {.n = n,
                            .c = c,
                            .vocab = vocab,
                            .first = first,
                            .ids = ids,
                            .dy = dy,
                            .dtable_type = dtable_type,
                            .dtable = dtable};
    if (n == 0)
        return;
    a.order = sort_ids(n, vocab, first, ids, workspace, run);
    a.aligned = c % 8 == 0 && ((uintptr_t)dy | (uintptr_t)dtable) % 16 == 0;
    LAUNCH(run, CUDA_embedding_backward + cuda_typed(type), n, 1, 1, 128, a);
}
_Static_assert((SORT_UNITS + 1) * SORT_DIGITS * sizeof(int32_t) <= CUDA_SCRATCH, "counts fit the scratch");
