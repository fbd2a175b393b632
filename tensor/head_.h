/* What the two operations share that are a head and its loss (ops_head.c, ops_labelled.c): they compute a
 * part of the logits at a time, in workspace, which is a chunk of rows, or in backward a strip of classes. A
 * part's x is what meets the head's weight. (head_part.c) */
#ifndef BRIM_TENSOR_HEAD_H
#define BRIM_TENSOR_HEAD_H

#include "ops_.h"

enum { HIDDEN, WEIGHT, BIAS, LABELS, HEAD_INPUTS };

typedef struct HeadPart {
    int64_t first;     /* of its classes */
    LinearDims linear; /* from x to its logits */
    LinearDims below;  /* for the gradient of x: strips sum theirs in f32 */
    CrossEntropyDims loss;
} HeadPart;

/* Of the part's rows, but for bias, which has all classes. */
typedef struct HeadArrays {
    const void *x;
    const float *bias;
    const int32_t *labels;
    float *lse;          /* written by forward, and read by backward */
    float *said;         /* of classes that ranks have a part of each: written by forward (ClassParts) */
    void *logits, *rest; /* of the workspace: rest is what kernels need */
} HeadArrays;

/* Raises unless hidden, weight and labels are of types that a head takes. */
int head_check_types(const OpCall *call);
/* Raises unless hidden, labels and bias fit a head whose weight is (classes,width). */
int head_check(const OpCall *call, int64_t width);
/* Classes of all ranks' heads together. */
int64_t head_classes(const OpCall *call);
/* Rows of hidden; and of them those of a chunk. */
int64_t head_rows(const OpCall *call);
int64_t head_chunk_rows(const OpCall *call);
/* As many classes as have no more logits, of so many rows, than a chunk has of all classes; at least one. */
int64_t head_strip_classes(const OpCall *call, int64_t rows);

/* A chunk of so many rows, with logits of this type. */
HeadPart head_chunk(const OpCall *call, DType logits, int64_t rows);
/* At most `most` classes of so many rows, from class `first` on. */
HeadPart head_strip(const OpCall *call, DType logits, int64_t rows, int64_t most, int64_t first);
/* Bytes of the logits of so many rows and classes. */
uint64_t head_logits_room(const OpCall *call, DType logits, int64_t rows, int64_t classes);
/* Bytes of what kernels need for strips of so many rows. */
uint64_t head_strips_room(const OpCall *call, DType logits, int64_t rows, int64_t most);

/* The loss of a part's rows; of a chunk. Of classes that ranks have a part of, what these say of the rows. */
void head_part_forward(const OpCall *call, const HeadPart *p, const HeadArrays *a, float *loss);
/* The gradients of the weight and bias of a part's classes: `adds` to what parts before it have written. And
 * that of x, + beta dx; dx may be x; NULL: not wanted. */
void head_part_backward(const OpCall *call, const HeadPart *p, const HeadArrays *a, int adds, float beta,
                        void *dx);
/* The same of all classes of so many rows, strip by strip; sums (rows,width) gets the gradient of x. */
void head_strips_backward(const OpCall *call, DType logits, int64_t rows, int64_t most, const HeadArrays *a,
                          float *sums);

#endif
