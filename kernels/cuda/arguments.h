/* What kernels are given: a struct by value each, so that host (C11) and card (.cu) share one declaration and
 * the size is known at the launch. Pointers are the card's. Arrays that are `void` are of the kernel's type.
 */
#ifndef BRIM_CUDA_ARGUMENTS_H
#define BRIM_CUDA_ARGUMENTS_H

#include "../../base/quant_layout_.h"
#include "../kernels.h"

enum { FAULT_BITS = 40 }; /* of an element's index */

/* Where a bad element is put down: *at is the least of (operation << FAULT_BITS | element), all ones = none.
 * For operation 0 that is an index, and -1. */
typedef struct Fault {
    unsigned long long *at, operation;
} Fault;

/* elements.cu: y (and z) from a, b and d; c columns, where b is a row. */
typedef struct ElementArguments {
    int64_t n, c;
    const void *a, *b, *d;
    void *y, *z;
    float alpha, beta, beta2;
    int kind;
} ElementArguments;

/* Elements from a sample to the next, from a head to the next, and from a row (of D) to the next. */
typedef struct HeadStrides {
    int64_t sample, head, row;
} HeadStrides;

/* attention*.cu. keys: rows of k and v; those of attention_cached end before d.capacity. stats (B,H,T,2):
 * what is subtracted from a row's scores, and what their exponentials are multiplied by. part: keys of a part
 * of attention_token, whose results and (max, sum) are parts (B,H,splits,D + 2). */
typedef struct AttentionArguments {
    AttentionDims d;
    int keys, chunks; /* chunks: blocks of columns that share a tile of rows */
    const void *q, *k, *v, *o, *dout;
    void *out, *dq, *dk, *dv, *probs, *cache;
    float *lse, *delta, *stats, *parts;
    HeadStrides at_q, at_k, at_v, at_o, at_dq, at_dk, at_dv;
    int part, splits;
} AttentionArguments;

/* products.cu: what comes before and behind a product. Of a linear layer: y = act(x + bias), n elements in
 * rows of c; pre, where it is not NULL, gets x + bias. x may be pre, or y. */
typedef struct LinearArguments {
    int64_t n, c;
    const void *x;
    const float *bias;
    void *pre, *y;
    int act, wide; /* wide: all is aligned, and c whole packets of 16 bytes */
} LinearArguments;

/* Column sums of x (rows, c): first of parts of its rows, into partial (parts, c), then of those. */
typedef struct ColumnArguments {
    int64_t rows, c;
    const void *x;
    float *partial;
    void *y;
    DType type; /* of y */
    float beta;
    int parts;
} ColumnArguments;

/* y (rows,cols) with ldy = a part of a stored array, from element (row,col) on. */
typedef struct OperandArguments {
    StoredArray x;
    QuantLayout layout;
    int64_t row, col, rows, cols, ldy;
    void *y;
} OperandArguments;

/* y (rows,cols) with ldy = x (rows,cols) + beta y, rounded; x NULL: 0. */
typedef struct RoundArguments {
    int64_t rows, cols, ldy;
    const float *x;
    void *y;
    DType type;
    float beta;
} RoundArguments;

#endif
