/* What comes before and behind cuBLAS's products: operands of one type, biases, activations. */
#include "activation.h"
#include "stored.h"

/* As EACH_PACK, with j = i % c, kept up as i strides on: a division takes longer than the rest of such a
 * loop. */
#define EACH_PACK_OF_ROWS(i, j, n, c, count)                                                                 \
    for (int64_t stride_ = (int64_t)GRID_SIZE.x * BLOCK_SIZE.x * (count), step_ = stride_ % (c),             \
                 i = ((int64_t)BLOCK.x * BLOCK_SIZE.x + THREAD.x) * (count), j = i % (c);                    \
         i < (n); i += stride_, j += step_, j -= j >= (c) ? (c) : 0)

enum { FEW_NF4 = 32 }; /* in a row that a lane decodes at once */

/* y is the activation of what is stored before it, or would be. */
DEVICE void few_finish(const FewArguments *a, int64_t i, float value)
{
    void *to = a->pre ? a->pre : a->y;
    value_store(a->y_type, to, i, value);
    value_store(a->y_type, a->y, i, activation_value(a->act, value_load(a->y_type, to, i)));
}

#define KERNELS "products_.cu"
#include "typed.h"

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
