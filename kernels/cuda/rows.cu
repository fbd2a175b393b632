/* Rows with a label, side by side; rows that a number gates; and the mean of a sample's rows. */
#include "activation.h"
#include "row.h"

/* A value of 16 bit, or a half of another one. */
typedef struct __attribute__((aligned(2), may_alias)) Half {
    uint16_t bits;
} Half;

#define KERNELS "rows_.cu"
#include "typed.h"

/* Rows of x to rows of y, unchanged; a warp a row. c is in bytes. */
GLOBAL(move_rows, 256, RowsArguments)
{
    int64_t i = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
    int lane = (int)(THREAD.x % 32);
    if (i >= a.n)
        return;
    int64_t size = a.aligned ? 16 : 2, c = a.c / size;
    int64_t x = (a.from ? a.from[i] : i) * c + lane, y = (a.to ? a.to[i] : i) * c + lane;
    for (int64_t left = c - lane; left > 0; left -= 32, x += 32, y += 32)
        if (a.aligned)
            ((PackWords4 *)a.y)[y] = ((const PackWords4 *)a.x)[x];
        else
            ((Half *)a.y)[y] = ((const Half *)a.x)[x];
}

/* One block. A thread has rows side by side: it counts its labels, learns how many lie before them, and puts
 * them down. */
GLOBAL(labelled_rows, LABELLED_THREADS, LabelledArguments)
{
    SHARED int64_t used[LABELLED_THREADS];
    int64_t each = (a.d.rows + LABELLED_THREADS - 1) / LABELLED_THREADS, begin = each * THREAD.x,
            end = begin + each, count = 0;
    end = end < a.d.rows ? end : a.d.rows;
    ROLLED
    for (int64_t row = begin; row < end; row++) {
        int32_t label = a.labels[row];
        int good = label >= 0 && label < a.d.classes, counted = label != a.d.ignore_index;
        count += good && counted;
        if (counted && !good)
            fault_at(a.fault, row);
    }
    used[THREAD.x] = count;
    for (unsigned reach = 1; reach < LABELLED_THREADS; reach *= 2) {
        block_sync();
        int64_t before = THREAD.x >= reach ? used[THREAD.x - reach] : 0;
        block_sync();
        used[THREAD.x] += before;
    }
    block_sync();
    int64_t all = used[LABELLED_THREADS - 1], at = used[THREAD.x] - count;
    for (int64_t row = begin; row < end; row++) {
        int32_t label = a.labels[row];
        if (label == a.d.ignore_index || label < 0 || label >= a.d.classes)
            continue;
        a.index[at] = row;
        a.label[at++] = label;
    }
    block_sync();
    int64_t last = all ? a.index[all - 1] : 0;
    for (int64_t i = all + THREAD.x; i < a.room; i += LABELLED_THREADS) {
        a.index[i] = last;
        a.label[i] = a.d.ignore_index;
    }
    if (THREAD.x == 0)
        a.count[0] = all;
}
