/* What a step on a card puts down for the host, which reads it once, when the step is done. Not kernels of
 * the table: the engine starts these (step.c) between an operation and the next. */
#ifndef BRIM_CUDA_STEP_H
#define BRIM_CUDA_STEP_H

#include "arguments.h"

/* Whose values they are: the host's own words, which the card hands back. */
typedef struct StepTag {
    unsigned long long what, name; /* names, as addresses of the host's; 0 = none */
    int32_t path, parameter;
} StepTag;

typedef struct StepState {
    unsigned long long fault; /* arguments.h: Fault */
    StepTag faulty;           /* the operation */
    int32_t fault_value;      /* the bad element */
    int32_t is_bad;           /* a loss is not finite: the first such */
    double loss;              /* of the step's micro-batches together */
    StepTag blamed;           /* where the first value came from that is not finite; what 0 = found nowhere */
    float bad_loss;
    int32_t unused;
    int64_t index;  /* kernels that find an element put it here */
    double squares; /* of all gradients */
    UpdateControl control;
} StepState;

/* A tensor that a loss depends on. */
typedef struct StepEntry {
    const void *values;
    int64_t n, row; /* in rows, */
    StepTag tag;
    DType type;
    int32_t padding; /* of which so many elements at the end hold nothing */
} StepEntry;

typedef struct StepFaultArguments {
    StepState *state;
    const int32_t *values; /* that the operation checked */
    unsigned long long operation;
    StepTag tag;
} StepFaultArguments;

typedef struct StepLossArguments {
    StepState *state;
    const float *loss;
    const StepEntry *entry;
    int64_t entries;
} StepLossArguments;

typedef struct StepControlArguments {
    StepState *state;
    const double *squares; /* a gradient each */
    int64_t count;
    double scale;   /* of the loss, which gradients have */
    float max_norm; /* 0 = no clipping */
} StepControlArguments;

/* If the run's operation found a fault: whose it is, and the bad value. */
void cuda_step_fault(StepState *state, const int32_t *values, StepTag tag, const KernelRun *run);
/* Adds a loss to the step's. If it is not finite: finds the first of the entries that is not either. */
void cuda_step_loss(StepState *state, const float *loss, const StepEntry *entry, int64_t entries,
                    const KernelRun *run);
/* What updates read (state->control): nothing is to be updated after a fault, a loss that is not finite, or
 * gradients whose squares are not, these or others of the step; and the factor on every gradient. */
void cuda_step_control(StepState *state, const double *squares, int64_t count, double scale, float max_norm,
                       const KernelRun *run);

#endif
