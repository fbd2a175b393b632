/* timeline: what is alive of each kind while a job of PyTorch runs, as the allocator's replay has it, in so
 * many points that they can be drawn. */
#ifndef BRIM_PYTORCH_TIMELINE_H
#define BRIM_PYTORCH_TIMELINE_H

#include "../pytorch_allocator.h"
#include "pytorch.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PYTORCH_POINTS = 1536, PYTORCH_SPANS = 1024 };

/* Some events in a row, as the one of them at which most is allocated. */
typedef struct PytorchPoint {
    uint64_t by[PYTORCH_KINDS];   /* requested; a tensor is of the kind that it is known to have by then */
    uint64_t allocated, reserved; /* reserved: the highest of all of them */
    int span;                     /* of the event */
} PytorchPoint;

/* Points of one phase of a step and of one micro-batch. */
typedef struct PytorchSpan {
    PytorchPhase phase;
    int step, micro, first; /* its first point */
} PytorchSpan;

typedef struct PytorchTimeline {
    PytorchPoint points[PYTORCH_POINTS];
    PytorchSpan spans[PYTORCH_SPANS]; /* in order; the last takes what is beyond */
    int count, span_count;
    uint64_t stride; /* events of a point */
} PytorchTimeline;

/* On an endless card, as the summary. Returns 0; -1 without host memory. */
int estimate_pytorch_timeline(const PytorchJob *job, const PytorchAllocatorOptions *options,
                              PytorchTimeline *out);

#ifdef __cplusplus
}
#endif
#endif
