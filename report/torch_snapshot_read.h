/* A memory snapshot of PyTorch (torch.cuda.memory._dump_snapshot), read: the trace of one device, and what
 * its segments hold at the end. What is live without an alloc in the trace was there before the record began.
 */
#ifndef BRIM_TORCH_SNAPSHOT_READ_H
#define BRIM_TORCH_SNAPSHOT_READ_H

#include "pickle_read.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum TorchAction {
    TORCH_ALLOC,
    TORCH_FREE,        /* free_completed; free_requested in a trace that has none of the former */
    TORCH_SEGMENT_ADD, /* segment_alloc and segment_map */
    TORCH_SEGMENT_END, /* segment_free and segment_unmap */
    TORCH_OOM,
    TORCH_OTHER,
} TorchAction;

#define TORCH_NONE SIZE_MAX

typedef struct TorchEvent {
    TorchAction action;
    uint64_t address; /* of TORCH_OOM: what the card had free */
    uint64_t bytes;   /* as asked for, of a segment its size */
    uint64_t stream;
    int64_t time_us;
    PickleValue frames, category, metadata;
    size_t pair; /* of an alloc the free, of a free the alloc; TORCH_NONE: it is not in the record */
} TorchEvent;

/* A block that was live before the first event; frames only of one that is still live at the end. */
typedef struct TorchBefore {
    uint64_t address, bytes, stream;
    PickleValue frames, category; /* None where they are not known */
    size_t freed; /* the event; TORCH_NONE: never */
} TorchBefore;

typedef struct TorchSnapshot {
    Pickle *pickle;
    int device, devices;
    TorchEvent *events;
    size_t event_count, event_capacity;
    TorchBefore *before;
    size_t before_count, before_capacity;
    uint64_t before_bytes, before_reserved;
    /* At the end, from the segments; bytes. */
    uint64_t reserved, allocated, requested;
    size_t segments;
    uint64_t ooms;
    size_t first_oom;     /* TORCH_NONE: none */
    const char *settings; /* PYTORCH_CUDA_ALLOC_CONF; "" where it is not told */
} TorchSnapshot;

/* Whether a file begins like one, by its first bytes. */
int report_torch_is_snapshot(const char *path);
/* Of the device with the longest trace. 0, or -1 with one sentence in `why`; report_torch_free in both cases.
 */
int report_torch_read(const char *path, TorchSnapshot *snapshot, char *why, size_t why_size);
void report_torch_free(TorchSnapshot *snapshot);

/* ---- Its moves ------------------------------------------------------------------------------- */

/* One alloc or free: what was there before the record first, as allocs, then the trace in its order. */
typedef struct TorchMove {
    int is_free;
    uint64_t serial; /* from 1; the same for a block's alloc and free */
    uint64_t bytes, stream;
    size_t event; /* TORCH_NONE: before the record */
} TorchMove;
/* Stops when the visitor returns non-zero, and returns that. */
int report_torch_moves(const TorchSnapshot *snapshot, int (*visit)(void *user, const TorchMove *move),
                       void *user);

/* Bytes that are live, and in segments, at a moment. */
typedef struct TorchLevel {
    uint64_t requested, reserved;
} TorchLevel;
TorchLevel report_torch_begin(const TorchSnapshot *snapshot); /* before the first event */
void report_torch_apply(TorchLevel *level, const TorchEvent *event);

/* ---- Its frames ------------------------------------------------------------------------------ */

typedef struct TorchFrame {
    const char *name, *file;
    int64_t line;
} TorchFrame;
/* The i-th, the innermost is 0; 1, or 0 where there is none. */
int report_torch_frame(const TorchSnapshot *snapshot, PickleValue frames, size_t i, TorchFrame *frame);
/* "forward (transformers/models/llama/modeling_llama.py:155)": the innermost frame of Python that is not
 * PyTorch's own, else the innermost of Python, else of C++ the function whose backward it is. brim's own
 * snapshots have places by name. */
void report_torch_place(const TorchSnapshot *snapshot, PickleValue frames, char *text, size_t size);
/* Whether it is of Python and not PyTorch's own. */
int report_torch_frame_is_outer(const TorchFrame *frame);
/* The same of one frame. */
void report_torch_frame_text(const TorchFrame *frame, char *text, size_t size);
/* The innermost of the user's annotations at a moment, such as "Optimizer.step#AdamW.step"; "" in none. */
const char *report_torch_annotation(const TorchSnapshot *snapshot, int64_t time_us);

/* ---- Its peak -------------------------------------------------------------------------------- */

typedef struct TorchLive {
    uint64_t bytes;
    size_t event; /* TORCH_NONE: before the record */
    PickleValue frames, category;
} TorchLive;

/* Blocks of one kind or place. */
typedef struct TorchGroup {
    char *name;
    uint64_t bytes;
    size_t blocks;
} TorchGroup;

typedef struct TorchGroups {
    TorchGroup *items; /* most bytes first */
    size_t count, capacity;
} TorchGroups;

typedef struct TorchPeak {
    size_t event;      /* the first with most bytes live; TORCH_NONE: the record's beginning */
    TorchLevel level;  /* then */
    uint64_t reserved; /* the most, at any moment */
    TorchLive *live;   /* largest first, then oldest */
    size_t live_count;
    TorchGroups kinds, places;
} TorchPeak;
/* 0, or -1 without host memory; report_torch_peak_free in both cases. */
int report_torch_peak(const TorchSnapshot *snapshot, TorchPeak *peak);
void report_torch_peak_free(TorchPeak *peak);

#ifdef __cplusplus
}
#endif
#endif
