/* A trace of unmodified PyTorch (tests/pytorch/), and its comparison with the prediction. */
#ifndef PYTORCH_TRACE_H
#define PYTORCH_TRACE_H

#include <stdint.h>
#include <stdio.h>

#include "../estimate/pytorch/pytorch.h"

typedef struct TraceLine {
    char action;     /* 'a', 'f', '=' */
    uint64_t value;  /* bytes; the number of the allocation; the phase's index */
    uint64_t stream; /* of an allocation; 0: the one that computes */
    char text[96];   /* the operation, or the phase */
} TraceLine;

typedef struct Trace {
    char name[128], flags[1024], versions[256], config[8192];
    uint64_t peak_requested, peak_allocated, peak_reserved;
    TraceLine *lines;
    size_t count;
} Trace;

int trace_read(const char *path, Trace *trace); /* plain or .gz; 0 when it is read */
void trace_free(Trace *trace);
int trace_job(const Trace *trace, PytorchJob *job); /* 0, or 1: flags or a model that are not predicted */
/* The number of events until the first difference; -1: none. `out`, which may be NULL, is shown both around
 * it. */
long trace_compare(const Trace *trace, const PytorchJob *job, FILE *out);

#endif
