/* What comes before and behind cuBLAS's products: operands of one type, biases, activations. */
#include "activation.h"
#include "stored.h"

/* As EACH_PACK, with j = i % c, kept up as i strides on: a division takes longer than the rest of such a
 * loop. */
#define EACH_PACK_OF_ROWS(i, j, n, c, count)                                                                 \
    for (int64_t stride_ = (int64_t)GRID_SIZE.x * BLOCK_SIZE.x * (count), step_ = stride_ % (c),             \
                 i = ((int64_t)BLOCK.x * BLOCK_SIZE.x + THREAD.x) * (count), j = i % (c);                    \
         i < (n); i += stride_, j += step_, j -= j >= (c) ? (c) : 0)

#define KERNELS "products_.cu"
#include "typed.h"

enum { COLUMN_LANES = 32, COLUMN_ROWS = 8 };

/* Of a part of the rows, 32 columns a block: eight rows at a time, added up in a fixed order. */
GLOBAL(column_parts, 256, ColumnArguments)
{
    SHARED float sums[COLUMN_ROWS][COLUMN_LANES];
    int lane = (int)THREAD.x % COLUMN_LANES, row = (int)THREAD.x / COLUMN_LANES;
    int64_t j = (int64_t)BLOCK.x * COLUMN_LANES + lane, part = BLOCK.y;
    int64_t first = a.rows * part / a.parts, end = a.rows * (part + 1) / a.parts;
    float sum = 0;
    if (j < a.c)
        for (int64_t i = first + row; i < end; i += COLUMN_ROWS)
            sum += value_load(a.from, a.x, i * a.c + j);
    sums[row][lane] = sum;
    block_sync();
    if (row > 0 || j >= a.c)
        return;
    for (int i = 1; i < COLUMN_ROWS; i++)
        sum += sums[i][lane];
    a.partial[part * a.c + j] = sum;
}

GLOBAL(column_total, 256, ColumnArguments)
{
    EACH(j, a.c)
    {
        float sum = 0;
        for (int part = 0; part < a.parts; part++)
            sum += a.partial[part * a.c + j];
        if (a.beta != 0)
            sum += a.beta * value_load(a.type, a.y, j);
        value_store(a.type, a.y, j, sum);
    }
}

GLOBAL(product_round, 256, RoundArguments)
{
    EACH(i, a.rows * a.cols)
    {
        int64_t row = quotient(i, a.cols), at = row * a.ldy + i - row * a.cols;
        float value = a.x ? a.x[i] : 0.0f;
        if (a.beta != 0)
            value += a.beta * value_load(a.type, a.y, at);
        value_store(a.type, a.y, at, value);
    }
}
