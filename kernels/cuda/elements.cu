/* Element-wise operations. Memory is what they take time for: a thread has packs of 16 bytes. */
#include "activation.h"
#include "../draw.h"
#include "pack.h"

/* Four elements where an array is f32, so that a pack of it is 16 bytes. */
#define BOTH_TYPES(a, loop)                                                                                  \
    if ((a).from == DTYPE_F32 || (a).to == DTYPE_F32)                                                        \
        loop(4, &(a));                                                                                       \
    else                                                                                                     \
        loop(8, &(a))

/* The same type: as it is, NaNs too. */
DEVICE void copy_values(int count, const ConvertArguments *a)
{
    EACH_PACK(i, a->n, count)
    {
        Pack p = pack_read(a->from, count, a->x, i, a->n, a->aligned);
        if (a->from != a->to) {
            float x[PACK_MOST];
            pack_values(a->from, count, &p, x);
            p = pack_of(a->to, count, x);
        }
        pack_write(a->to, count, &p, a->y, i, a->n, a->aligned);
    }
}

DEVICE void accumulate_values(int count, const ConvertArguments *a)
{
    EACH_PACK(i, a->n, count)
    {
        float x[PACK_MOST], y[PACK_MOST];
        Pack from = pack_read(a->from, count, a->x, i, a->n, a->aligned);
        Pack to = pack_read(a->to, count, a->y, i, a->n, a->aligned);
        pack_values(a->from, count, &from, x);
        pack_values(a->to, count, &to, y);
        for (int k = 0; k < count; k++)
            y[k] += x[k];
        pack_store(a->to, count, y, a->y, i, a->n, a->aligned);
    }
}

GLOBAL(copy, 256, ConvertArguments)
{
    BOTH_TYPES(a, copy_values);
}

GLOBAL(accumulate, 256, ConvertArguments)
{
    BOTH_TYPES(a, accumulate_values);
}

GLOBAL(column_sum_end, 256, ColumnSumArguments)
{
    EACH(column, a.c)
    {
        float sum = 0;
        for (int part = 0; part < a.parts; part++)
            sum += a.partial[part * a.c + column];
        value_store(a.to, a.y, column, a.beta != 0.0f ? sum + a.beta * value_load(a.to, a.y, column) : sum);
    }
}

#define KERNELS "elements_.cu"
#include "typed.h"
