/* summary: what a PyTorch job needs of a card: its events (pytorch.h) given to the caching allocator's replay
 * (../pytorch_allocator.h), its peak taken apart, and a verdict for a card.
 *
 * Three figures, as PyTorch has them: requested, the bytes of the tensors; allocated, in blocks; reserved, in
 * segments that the allocator keeps. The first is taken apart where the second is highest.
 */
#ifndef BRIM_PYTORCH_SUMMARY_H
#define BRIM_PYTORCH_SUMMARY_H

#include <stddef.h>

#include "../pytorch_allocator.h"
#include "pytorch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is alive at the peak. Its kind is the one that it is for: a gradient that backward has yet to hand to
 * its parameter is a temporary until it does, and counts as what it becomes. */
typedef struct PytorchAllocation {
    uint64_t serial, bytes;
    PytorchKind kind;
    PytorchPhase phase; /* in which it was made */
    int step, micro;
    int layer;          /* -1: none */
    int recomputed;     /* by checkpointing */
    const char *module; /* NULL: none; static */
    const char *op;     /* static */
} PytorchAllocation;

/* A phase of a step, of several micro-batches together; or all of an evaluation. */
typedef struct PytorchMoment {
    PytorchPhase phase;
    int step;
    uint64_t requested, allocated, reserved; /* each one's highest */
    uint64_t left;                           /* allocated at its end */
} PytorchMoment;

enum { PYTORCH_MOMENTS = 32 };

typedef struct PytorchSummary {
    PytorchBooks books;
    PytorchEvent peak_at;            /* the allocation that made `allocated` highest, the first time */
    uint64_t peak_event;             /* its number, from 0, marks counted */
    uint64_t requested;              /* there; books.peak_requested may be another moment's */
    uint64_t at_peak[PYTORCH_KINDS]; /* sum to `requested` */
    PytorchAllocation *live;         /* likewise; in the order in which they were made */
    size_t live_count;
    PytorchMoment moments[PYTORCH_MOMENTS]; /* in order; the last takes what is beyond */
    int moment_count;
    size_t live_room; /* for estimate_pytorch_summary_free */
} PytorchSummary;

/* A replay on a card that is never full: of `options` the limit and the fraction do not count. NULL without
 * host memory. */
PytorchReplay *estimate_pytorch_endless(const PytorchAllocatorOptions *options);
/* Gives an event to it. Returns 0; PYTORCH_OUT_OF_MEMORY; -1 without host memory. */
int estimate_pytorch_give(PytorchReplay *replay, const PytorchEvent *event);

/* `options` are the allocator's settings; their limit and fraction do not count here, on an endless card.
 * NULL: PyTorch's defaults. Returns 0; -1 without host memory, and *out is zeroed. */
int estimate_pytorch_summary(const PytorchJob *job, const PytorchAllocatorOptions *options,
                             PytorchSummary *out);
void estimate_pytorch_summary_free(PytorchSummary *summary); /* leaves it zeroed */
/* The books alone. */
int estimate_pytorch_peaks(const PytorchJob *job, const PytorchAllocatorOptions *options, PytorchBooks *out);

/* "activations", "optimizer states"; "backward", "step". */
const char *estimate_pytorch_kind_name(PytorchKind kind);
const char *estimate_pytorch_phase_name(PytorchPhase phase);

/* ---- Does it fit? ---------------------------------------------------------------------------- */

typedef enum PytorchAnswer {
    PYTORCH_FITS,       /* what it reserves on an endless card is not more than there is */
    PYTORCH_FITS_TIGHT, /* the replay with the limit ends, after flushes of the cache or without */
    PYTORCH_RUNS_OUT,   /* what it allocates would fit, and yet the replay with the limit fails */
    PYTORCH_TOO_LARGE   /* it allocates more than there is */
} PytorchAnswer;

typedef struct PytorchVerdict {
    PytorchAnswer answer;
    uint64_t flushes;    /* until the end, or until it fails */
    PytorchEvent failed; /* the request that fails; of PYTORCH_RUNS_OUT and PYTORCH_TOO_LARGE */
    PytorchBooks books;  /* with the limit; for no bytes at all those of an endless card */
} PytorchVerdict;

/* For `limit` bytes: what a card has beside the context; with a fraction of the card no more than that
 * counts. One run of the job gives both the books on an endless card, which are those of
 * estimate_pytorch_peaks, and the verdict. Where `options` have neither a limit nor a total, the total is the
 * limit. Returns 0, or -1 without host memory. */
int estimate_pytorch_verdict(const PytorchJob *job, const PytorchAllocatorOptions *options, uint64_t limit,
                             PytorchBooks *endless, PytorchVerdict *out);

/* The same verdict as a word, sooner: 1 where it fits, 0 where not, -1 without host memory. `books` are those
 * of the replay with the limit, up to where it fails; where they say no retries, those of an endless card. */
int estimate_pytorch_fits(const PytorchJob *job, const PytorchAllocatorOptions *options, uint64_t limit,
                          PytorchBooks *books);

#ifdef __cplusplus
}
#endif
#endif
