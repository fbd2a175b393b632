/* What kernels are given: a struct by value each, so that host (C11) and card (.cu) share one declaration and
 * the size is known at the launch. Pointers are the card's. Arrays that are `void` are of the kernel's type.
 */
#ifndef BRIM_CUDA_ARGUMENTS_H
#define BRIM_CUDA_ARGUMENTS_H

#include "../../base/quant_layout_.h"
#include "../adam.h"
#include "../kernels.h"

enum { FAULT_BITS = 40 }; /* of an element's index */

/* Where a bad element is put down: *at is the least of (operation << FAULT_BITS | element), all ones = none.
 * For operation 0 that is an index, and -1. */
typedef struct Fault {
    unsigned long long *at, operation;
} Fault;

/* elements.cu: y from a and b; c columns, where b is a row. aligned: every array begins on 16
 * bytes.
 */
typedef struct ElementArguments {
    int64_t n, c;
    const void *a, *b;
    void *y;
    float alpha, beta;
    int kind, aligned;
} ElementArguments;

/* aligned: every row begins on 16 bytes. */
typedef struct GatedArguments {
    GatedDims d;
    const void *gate, *up, *dy;
    void *y, *dgate, *dup;
    float beta_gate, beta_up;
    int aligned;
} GatedArguments;

/* norm.cu. A team of threads has a row: a warp, or the block of 256. aligned: every array may be loaded by 16
 * bytes. */
enum { NORM_HELD = 4 /* packs of 8 that a thread holds */, NORM_PARTS = 256 };
typedef struct NormArguments {
    int64_t rows, c;
    int layer, team, aligned;
    float eps, plus, beta_dx; /* plus: norm_plus, -0 of layer norm */
    const void *x, *dy;
    const float *weight, *bias;
    float *mean, *rstd, *partial; /* partial (blocks, 2, c); NULL: no gradients of the weights */
    void *y, *dx;
} NormArguments;

typedef struct NormWeightArguments { /* of dweight, dbias */
    int64_t c;
    int parts;
    const float *partial;
    DType type[2];
    float beta[2];
    void *out[2];
} NormWeightArguments;

/* loss.cu. A row of logits has a team of threads, in backward one for each of `slices` parts. */
enum { LOSS_SLICE = 4 }; /* packs of 8 of a part that a thread has */
typedef struct LossArguments {
    CrossEntropyDims d;
    int64_t slices;
    int team, aligned;
    float scale, beta;
    const void *logits;
    const int32_t *labels;
    float *lse, *row_loss, *loss;
    const float *dloss;
    void *dlogits;
    float *part; /* of this part of the classes; or, of `count` that are joined, the first */
    int64_t apart;
    int count;
    Fault fault;
} LossArguments;

/* embedding.cu */
typedef struct EmbeddingArguments {
    int64_t n, c, vocab, first, all; /* the table's rows, from `first` on, of all */
    int aligned;
    const int32_t *ids;
    StoredArray table;
    void *y; /* forward */
    const void *dy;
    const int32_t *order; /* backward: positions by id */
    DType dtable_type;
    void *dtable;
    Fault fault;
} EmbeddingArguments;

/* Sorts positions by id, a digit of the ids at a time; each of `units` warps has a range of them. */
enum { SORT_BITS = 8, SORT_DIGITS = 1 << SORT_BITS, SORT_UNITS = 256 };
typedef struct SortArguments {
    int64_t n, vocab, first;
    int units, shift;
    const int32_t *ids, *from; /* from: positions, NULL = in their order */
    int32_t *to;
    int32_t *counts; /* (units + 1, digits): of a unit, then where it begins; last, where the digit does */
} SortArguments;

/* rope.cu: pairs [first, first + pairs) of every head; passes: what does not turn is written too */
enum { ROPE_PAIRS = 64 };
typedef struct RopeArguments {
    int64_t ld, behind;
    int batch, seq, heads, head_dim, group, half, inverse, interleaved, passes, offset, first, pairs, aligned;
    const void *x;
    void *y;
    float beta, scale, frequency[ROPE_PAIRS];
} RopeArguments;

/* rows.cu */
enum { LABELLED_THREADS = 1024 };
typedef struct LabelledArguments {
    CrossEntropyDims d;
    int64_t room;
    const int32_t *labels;
    int64_t *index, *count;
    int32_t *label;
    Fault fault;
} LabelledArguments;

typedef struct RowsArguments {
    int64_t n, c;             /* c of values, or, where they are only moved, bytes */
    const int64_t *from, *to; /* rows of x and y; NULL: as they come */
    int aligned;
    const void *x;
    float beta;
    void *y;
} RowsArguments;

/* x sigmoid(gate), and gradients. aligned: every row of x, dy, y and dx begins on 16 bytes. */
typedef struct GateRowsArguments {
    int64_t rows, c;
    int aligned;
    float beta_x, beta_gate;
    const void *x, *gate, *dy;
    void *y, *dx, *dgate;
} GateRowsArguments;

/* The mean of a sample's tokens. aligned: every row of dy and dx begins on 16 bytes. */
typedef struct MeanTokensArguments {
    int64_t batch, seq, c;
    int aligned;
    float beta;
    const void *x, *dy;
    const int32_t *mask;
    void *y, *dx;
    float *scale;
} MeanTokensArguments;

typedef struct ConvertArguments {
    int64_t n;
    const void *x;
    void *y;
    DType from, to;
    int aligned;
} ConvertArguments;

/* aligned: every sample begins on 16 bytes. */
typedef struct DropoutArguments {
    int64_t samples, per_sample;
    const void *x;
    void *y;
    DropoutKey key;
    uint32_t threshold;
    float keep, beta;
    int aligned;
} DropoutArguments;

/* partial (parts, c), of part_rows rows each. */
typedef struct ColumnSumArguments {
    int64_t rows, c, ld, part_rows; /* ld: elements between rows of x */
    const void *x;
    float *partial;
    void *y;
    float beta;
    DType to;
    int parts;
} ColumnSumArguments;

/* reduce.cu: partial sums of blocks, and where the result goes. */
typedef struct ReduceArguments {
    int64_t n;
    const void *x;
    double *partial, factor;
    float *total;              /* of sum */
    double *squares;           /* of sum_squares */
    unsigned long long *index; /* of find_nonfinite: all ones = none, which is -1 */
    int square, aligned, blocks;
} ReduceArguments;

/* random.cu: mean and standard deviation, or low and high; last: the float before high. */
typedef struct RandomArguments {
    int64_t n, first;
    uint64_t seed, stream;
    float a, b, last, *y;
    int aligned;
} RandomArguments;

/* store.cu: elements [first, first + count) of w. aligned: whole packs of 8 have one scale, and they and
 * those of y begin on boundaries of theirs. */
typedef struct DecodeArguments {
    StoredArray w;
    QuantLayout layout;
    int64_t first, count;
    float *y;
    int aligned;
} DecodeArguments;

/* to: the whole array (rows,cols); scales: of all blocks of NF4, or those within `to`. */
typedef struct EncodeArguments {
    DType type;
    int aligned;
    int64_t cols, first, count;
    const float *x;
    void *to;
    float *scales;
    Fault fault;
} EncodeArguments;

typedef struct EncodeScalesArguments {
    int64_t blocks, groups;
    const float *scales;
    float *group_scales, *offset;
    unsigned char *codes;
} EncodeScalesArguments;

/* update.cu: what changes from step to step. The host computes it. */
typedef struct UpdateRates {
    UpdateScalars s;
    AdamFactors adam;
} UpdateRates;

/* What UpdateArrays has; scales: of 8-bit states. first: the place of element 0 in the whole parameter, of
 * which a rank may have a part. aligned: every array begins on 16 bytes. fault: the step's, all ones = none.
 */
typedef struct UpdateArguments {
    int64_t n, first;
    void *p;
    float *master;
    const void *g;
    void *state[UPDATE_STATES];
    float *scales[UPDATE_STATES];
    DType p_type, g_type, state_type[UPDATE_STATES];
    int random, aligned;
    RoundingKey rounding;
    UpdateRates rates;
    const UpdateControl *control;
    const unsigned long long *fault;
} UpdateArguments;

/* Elements from a sample to the next, from a head to the next, and from a row (of D) to the next. */
typedef struct HeadStrides {
    int64_t sample, head, row;
} HeadStrides;

/* attention*.cu. keys: rows of k and v; those of attention_cached end before d.capacity, and are at most as
 * many. attention_unroll: of cache to out. stats (B,H,T,2):
 * what is subtracted from a row's scores, and what their exponentials are multiplied by. part: keys of a part
 * of attention_token, whose results and (max, sum) are parts (B,H,splits,D + 2). */
typedef struct AttentionArguments {
    AttentionDims d;
    int keys, chunks; /* chunks: blocks of columns that share a tile of rows */
    int pieces;       /* f32 may be read in fours, aligned to 16 bytes */
    const void *q, *k, *v, *o, *dout;
    void *out, *dq, *dk, *dv, *probs, *cache;
    float *lse, *delta, *stats, *parts;
    HeadStrides at_q, at_k, at_v, at_o, at_dq, at_dk, at_dv;
    int part, splits;
} AttentionArguments;

/* products.cu: what comes before and behind a product. Of a linear layer: y = act(x + bias), n elements in
 * rows of ld, of which c are used; pre, where it is not NULL, gets x + bias. x may be pre, or y. */
typedef struct LinearArguments {
    int64_t n, c, ld;
    const void *x;
    const float *bias;
    void *pre, *y;
    int act, aligned; /* every array begins on 16 bytes, and ld is whole packs of them */
} LinearArguments;

/* y = act(x W^T + bias) of at most FEW_ROWS rows, W (out,in) of any type; pre, where it is not NULL, gets
 * what is before the activation. aligned: arrays begin on 16 bytes, and rows of W are whole packs of them. */
enum { FEW_ROWS = 4 };
typedef struct FewArguments {
    int64_t in, out, ldy; /* ldy: elements between rows of y and pre */
    const void *x;
    StoredArray w;
    QuantLayout layout;
    const float *bias;
    void *pre, *y;
    DType y_type;
    int act, aligned;
} FewArguments;

/* y (rows,cols) with ldy = a part of a stored array, from element (row,col) on. */
typedef struct OperandArguments {
    StoredArray x;
    QuantLayout layout;
    int64_t row, col, rows, cols, ldy;
    void *y;
    int aligned;
} OperandArguments;

/* y (rows,cols) with ldy = x (rows,cols) + beta y, rounded; x NULL: 0. */
typedef struct RoundArguments {
    int64_t rows, cols, ldy;
    const float *x;
    void *y;
    DType type;
    float beta;
} RoundArguments;

/* experts.cu: a mixture of experts. Of routing and its gradient. row (rows,2): of each token the largest
 * logit, and the sum of exponentials below it; NULL: nobody counts. */
typedef struct ExpertsRouteArguments {
    ExpertsDims d;
    ExpertsRouting r;
    const void *router;
    float *row, *stats;
    const int32_t *mask;
    const float *dweight;
    void *drouter;
    float beta;
} ExpertsRouteArguments;

/* What is done by pair, or by token: y from x and z, with the pairs' weights where those are given. */
typedef struct ExpertsRowsArguments {
    ExpertsDims d;
    ExpertsRouting r;
    const void *x;
    void *y, *z;
    const float *weight;
    float *dweight;
    float beta;
    int64_t bytes; /* of a row that is moved */
    int aligned;   /* such rows begin on 16 bytes */
} ExpertsRowsArguments;

/* Of each expert: c (its rows,n) = a op(w) of k terms; or c (m,n) = a^T b + beta c over its rows. */
enum { EXPERTS_TILE = 64, EXPERTS_DEPTH = 16 };
typedef struct ExpertsProductArguments {
    int experts, trans_b;
    const int32_t *offset;
    const void *a, *b;
    StoredArray w; /* the first expert's matrix */
    QuantLayout layout;
    uint64_t stride; /* bytes from one expert's to the next one's, of w, or of c in the second product */
    int64_t m, n, k;
    void *c;
    DType c_type;
    float beta;
} ExpertsProductArguments;

typedef struct ExpertsBalanceArguments {
    int experts, active;
    float factor, *stats;
    const float *x; /* the loss, or its gradient */
    float *y;
} ExpertsBalanceArguments;

#endif
