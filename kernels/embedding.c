/* Token and position tables. Backward gives each thread a strip of columns of every row: balanced whatever
 * the ids are (a few tokens make most of a text), no two threads meet, and sums are in the order of the ids
 * for any thread count. */
#include <stdint.h>
#include <string.h>

#include "kernels/decode.h"
#include "kernels/range.h"

static void embedding_forward(int64_t n, const int32_t *ids, const StoredArray *table, float *y,
                              const KernelRun *run)
{
    Decoder from = decoder(table);
    int64_t first = n, c = table->cols, vocab = table->rows;
    int team = range_threads(n * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team) reduction(min : first)
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab)
            first = range_min(first, i);
        else
            decoder_row(&from, ids[i], 0, c, y + i * c);
    }
    if (first < n && *run->fault < 0)
        *run->fault = first;
}

static void embedding_backward(int64_t n, int64_t c, int64_t vocab, const int32_t *ids, const float *dy,
                               float *dtable, const KernelRun *run)
{
    enum { LINE = 16 }; /* floats of a cache line */
    int64_t lines = (c + LINE - 1) / LINE;
    int strips = (int)range_min(lines, range_threads(n * c, run->threads));
#pragma omp parallel for schedule(static) num_threads(strips)
    for (int strip = 0; strip < strips; strip++) {
        int64_t begin = range_begin(lines, strip, strips) * LINE;
        int64_t end = range_min(c, range_begin(lines, strip + 1, strips) * LINE);
        for (int64_t i = 0; i < n; i++) {
            if (ids[i] < 0 || ids[i] >= vocab)
                continue;
            float *to = dtable + ids[i] * c;
            const float *from = dy + i * c;
#pragma omp simd
            for (int64_t j = begin; j < end; j++)
                to[j] += from[j];
        }
    }
}
