/* op: what an operation is, as one row, for the library's own and for yours (examples/own_op.c).
 *
 * The shape rule is the only authority on sizes: it sees the inputs' shapes, checks them, and fills `plan`.
 * The engine allocates outputs, extras, gradients and workspace, keeps what `plan.saves` names for backward,
 * and calls the kernels with raw pointers. On meta it does all that and skips the kernels.
 */
#ifndef BRIM_OP_H
#define BRIM_OP_H

#include "../base/kernel_run.h"
#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define OP_MAX_INPUTS 8
#define OP_MAX_EXTRAS 2

#define OP_INPUT(i) (1u << (i)) /* bit of input i in the masks below */
#define OP_OUTPUT   (1u << OP_MAX_INPUTS)

/* What an op is told beside its inputs; each op reads its own member. */
typedef union OpAttr {
    struct {
        int act, in_out;
        int64_t ldy; /* elements between rows of y; 0 = as many as it has */
    } linear;
    struct {
        float eps, plus; /* plus: added to rms_norm's weight */
    } norm;
    struct {
        int kind;
    } activation;
    struct {
        int64_t rows, first;
        int64_t skipped; /* x begins in the middle: so many of the rows come before */
        int in_part;     /* and may end there */
    } add_rows;
    RopeOptions rope;
    struct {
        int heads, kv_heads, causal, flash, packed;
        int by_head;   /* packed: q, k and v of a head lie side by side */
        int recompute; /* eager keeps no scores: backward recomputes them */
        int past;      /* of attention_cached: tokens in the cache */
        int window;    /* as in AttentionOptions, and scale and softcap as well */
        float scale, softcap;
    } attention;
    struct {
        float factor;
    } scale;
    struct {
        DType type;
    } cast;
    struct {
        float p;
        uint32_t layer;
        uint64_t seed;
        int64_t step, first_sample;
        int64_t per_sample, skipped; /* x is a part of its samples: so many elements of the first come before;
                                        per_sample 0: it is not */
        int64_t whole,
            first; /* x has some elements of each row of so many, from this one on; 0: it has all */
    } dropout;
    struct {
        float scale;
        float softcap; /* 0 = none */
        int ignore_index;
        int64_t chunk_rows; /* of linear_cross_entropy and labelled_cross_entropy */
        int act;            /* of labelled_cross_entropy's transform */
        float eps;
        int64_t padding;  /* of cross_entropy: elements at the end of a row that are no logits */
        int64_t labelled; /* of labelled_cross_entropy: 1 + rows with a label; 0 = unknown */
        int64_t first_class, classes, all_classes; /* that are here, of all; all 0: it is not divided */
    } loss;
    struct {
        int first; /* 1: the first one, 0: the last */
    } position;
    struct {
        int64_t first, all; /* rows of a table that are here; all 0: it is whole */
    } embedding;
    struct {
        int active, normalise, act;
        float factor; /* of balance_loss */
    } experts;
    Shape shape;
    struct {
        int64_t i[4];
        double f[4];
    } own; /* for your ops */
} OpAttr;

typedef struct OpPlan {
    Shape out;
    DType out_type;                      /* 0 = f32 */
    uint64_t extra_bytes[OP_MAX_EXTRAS]; /* that forward writes for backward; 0 = none */
    uint64_t workspace;                  /* bytes, forward */
    uint64_t backward_workspace;         /* bytes */
    uint64_t recompute_workspace;        /* bytes */
    unsigned saves;                      /* OP_INPUT(i) | OP_OUTPUT that backward reads */
    unsigned recomputes; /* OP_OUTPUT: row->recompute can compute the output once more (tensor_recompute);
                            with OP_INPUT(i) for the saved inputs that it reads */
    int writes_dout;     /* backward uses the output gradient as scratch (the engine makes it unshared) */
    double flops, backward_flops; /* of the products; what is not a product counts 0 */
} OpPlan;

typedef struct OpCall {
    const struct OpRow *row;
    const struct Kernels *kernels; /* the device's kernel table */
    const KernelRun *run;          /* its threads, and where forward puts the index of a bad element */
    int inputs;
    unsigned needs; /* OP_INPUT(i): input i needs a gradient; 0 when not recording */
    OpAttr attr;
    Shape shape[OP_MAX_INPUTS]; /* of the inputs; ndim 0 = an optional input that is absent */
    DType dtype[OP_MAX_INPUTS];
    DType grad_type[OP_MAX_INPUTS]; /* of the inputs' gradients */
    OpPlan plan;
    /* While a kernel runs; NULL for what is absent or, in backward, was not saved. */
    void *in[OP_MAX_INPUTS];
    void *out;
    void *extra[OP_MAX_EXTRAS];
    void *workspace;
    /* Backward: write gradient i to din[i] (NULL: not wanted), adding to what is there when beta[i] is 1. */
    void *dout;
    void *din[OP_MAX_INPUTS];
    float beta[OP_MAX_INPUTS];
} OpCall;

typedef struct OpRow {
    const char *name;
    /* Checks shapes and fills call->plan; returns 0, or raises an error and returns non-zero. */
    int (*shape)(OpCall *call);
    /* Puts the index of the first bad element of the input named by `checked` into *call->run->fault. */
    void (*forward)(OpCall *call);
    void (*backward)(OpCall *call); /* NULL when every gradient passes */
    /* Writes call->out once more, in backward, from what this op keeps. For cheap ops that keep as much as
     * they make. */
    void (*recompute)(OpCall *call);
    unsigned
        in_place; /* OP_INPUT(i): the output may take donated input i's storage (forward works in place) */
    unsigned identity_grad;      /* gradient i *is* the output gradient */
    unsigned grad_in_dout;       /* gradient i may be written over the output gradient (at most one is) */
    unsigned grad_in_saved;      /* gradient i may be written over saved input i */
    unsigned grad_in_recomputed; /* the same, where input i was not kept but recomputed for backward */
    unsigned accumulates;        /* backward honours beta[i] = 1; otherwise the engine adds */
    unsigned grad_zeroed;        /* a new gradient i is zeroed first and backward adds to it (scatter) */
    int meets;   /* kernels are called on meta too, with NULL pointers: they meet other ranks, and
                    enter in the books what they exchange. They may raise errors */
    int checked; /* the integer input that forward checks */
    const char *checked_range; /* text of its range for the message: "ids must be in [0, vocabulary)" */
} OpRow;

/* Applies a row: checks, allocates, runs, records. inputs[i] may be NULL where the row allows it to be
 * absent. */
BRIM_API Tensor *tensor_apply(const OpRow *row, const OpAttr *attr, int inputs, Tensor *const *input);

#ifdef __cplusplus
}
#endif
#endif
