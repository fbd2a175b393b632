/* Token and position tables. Backward gives each thread a strip of columns of every row: balanced whatever
 * the ids are (a few tokens make most of a text), no two threads meet, and sums are in the order of the ids
 * for any thread count. A table of gradients in 16 bit is rounded once a row: what adds to a row is linked,
 * so that it meets in f32 before. */
#include <stdint.h>
#include <string.h>

#include "kernels/decode.h"
#include "kernels/range.h"
#include "kernels/values.h"

static void embedding_row_halves(const Decoder *from, int64_t id, DType type, void *y, int64_t at)
{
    float room[VALUES_BLOCK];
    for (int64_t j = 0, n; j < from->cols; j += n) {
        n = range_min(VALUES_BLOCK, from->cols - j);
        decoder_row(from, id, j, n, room);
        values_store(type, n, room, y, at + j);
    }
}

static void embedding_forward(DType type, int64_t n, const int32_t *ids, const StoredArray *table,
                              TablePart part, void *y, const KernelRun *run)
{
    Decoder from = decoder(table);
    int64_t first = n, c = table->cols, vocab = table->rows, all = part.all ? part.all : vocab;
    int team = range_threads(n * c, run->threads);
#pragma omp parallel for schedule(static) num_threads(team) reduction(min : first)
    for (int64_t i = 0; i < n; i++) {
        int64_t id = ids[i] - part.first;
        if (ids[i] < 0 || ids[i] >= all)
            first = range_min(first, i);
        else if (id < 0 || id >= vocab)
            memset(values_at(type, y, i * c), 0, (size_t)(c * values_size(type)));
        else if (type == DTYPE_F32)
            decoder_row(&from, id, 0, c, (float *)y + i * c);
        else
            embedding_row_halves(&from, id, type, y, i * c);
    }
    if (first < n && *run->fault < 0)
        *run->fault = first;
}

static size_t embedding_workspace(int64_t n, int64_t vocab, DType dtable_type, const KernelRun *run)
{
    (void)run;
    return dtable_type == DTYPE_F32 ? 0 : (size_t)(n + vocab) * sizeof(int32_t);
}

/* Positions by id: first[id] and next[position], -1 = none. Positions of one id are in order. */
static void embedding_link(int64_t n, int64_t vocab, int64_t begin, const int32_t *ids, int32_t *next,
                           int32_t *first)
{
    for (int64_t id = 0; id < vocab; id++)
        first[id] = -1;
    for (int64_t i = n - 1; i >= 0; i--) {
        int64_t id = ids[i] - begin;
        next[i] = -1;
        if (id < 0 || id >= vocab)
            continue;
        next[i] = first[id];
        first[id] = (int32_t)i;
    }
}

static void embedding_add(int64_t n, const float *from, float *to)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
        to[j] += from[j];
}

/* What backward works on, the same for all strips. */
typedef struct EmbeddingSum {
    int64_t n, c, vocab, begin;        /* begin: the id of dtable's first row */
    const int32_t *ids, *next, *first; /* links: NULL where dtable is f32 */
    DType type, dtable_type;
    const void *dy;
    void *dtable;
} EmbeddingSum;

/* Columns [begin, end), at most a block: position by position into a table of floats. */
static void embedding_sum_floats(const EmbeddingSum *s, int64_t begin, int64_t end)
{
    float room[VALUES_BLOCK];
    for (int64_t i = 0; i < s->n; i++) {
        int64_t id = s->ids[i] - s->begin;
        if (id < 0 || id >= s->vocab)
            continue;
        const float *from = values_load(s->type, s->dy, i * s->c + begin, end - begin, room);
        embedding_add(end - begin, from, (float *)s->dtable + id * s->c + begin);
    }
}

/* The same id by id, each with what its row holds, into a table of 16 bit. */
static void embedding_sum_rows(const EmbeddingSum *s, int64_t begin, int64_t end)
{
    float room[VALUES_BLOCK], sum[VALUES_BLOCK];
    int64_t n = end - begin;
    for (int64_t i = 0; i < s->n; i++) {
        int64_t id = s->ids[i] - s->begin;
        if (id < 0 || id >= s->vocab || s->first[id] != i)
            continue;
        values_load(s->dtable_type, s->dtable, id * s->c + begin, n, sum);
        for (int64_t at = i; at >= 0; at = s->next[at])
            embedding_add(n, values_load(s->type, s->dy, at * s->c + begin, n, room), sum);
        values_store(s->dtable_type, n, sum, s->dtable, id * s->c + begin);
    }
}

static void embedding_backward(DType type, int64_t n, int64_t c, int64_t vocab, int64_t begin,
                               const int32_t *ids, const void *dy, DType dtable_type, void *dtable,
                               void *workspace, const KernelRun *run)
{
    int64_t line = 64 / values_size(dtable_type); /* elements of a cache line */
    int64_t lines = (c + line - 1) / line;
    int strips = (int)range_min(lines, range_threads(n * c, run->threads));
    int32_t *next = workspace, *first = next ? next + n : NULL;
    EmbeddingSum s = {n, c, vocab, begin, ids, next, first, type, dtable_type, dy, dtable};
    if (dtable_type != DTYPE_F32)
        embedding_link(n, vocab, begin, ids, next, first);
#pragma omp parallel for schedule(static) num_threads(strips)
    for (int strip = 0; strip < strips; strip++) {
        int64_t end = range_min(c, range_begin(lines, strip + 1, strips) * line);
        for (int64_t j = range_begin(lines, strip, strips) * line, m; j < end; j += m) {
            m = values_block(type == DTYPE_F32 ? dtable_type : type, end - j);
            if (dtable_type == DTYPE_F32)
                embedding_sum_floats(&s, j, j + m);
            else
                embedding_sum_rows(&s, j, j + m);
        }
    }
}
