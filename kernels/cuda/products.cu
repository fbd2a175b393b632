/* What comes before and behind cuBLAS's products: operands of one type, biases, activations, sums of columns.
 */
#include "../../base/quant_codes_.h"
#include "activate.h"
#include "values.h"

/* The column of element i, kept up as i strides on: a division takes longer than all else of such a loop. */
#define EACH_COLUMN(i, j, n, c)                                                                              \
    for (int64_t stride_ = (int64_t)GRID_SIZE.x * BLOCK_SIZE.x, step_ = stride_ % (c),                       \
                 i = (int64_t)BLOCK.x * BLOCK_SIZE.x + THREAD.x, j = i % (c);                                \
         i < (n); i += stride_, j += step_, j -= j >= (c) ? (c) : 0)

enum { COLUMN_LANES = 32, COLUMN_ROWS = 8 };

DEVICE float operand(const StoredArray *x, const QuantLayout *layout, int64_t i)
{
    (void)layout;
    return value_load(x->dtype, x->at, i);
}

#define KERNELS "products_.cu"
#include "typed.h"

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
        int64_t at = i / a.cols * a.ldy + i % a.cols;
        float value = a.x ? a.x[i] : 0.0f;
        if (a.beta != 0)
            value += a.beta * value_load(a.type, a.y, at);
        value_store(a.type, a.y, at, value);
    }
}
