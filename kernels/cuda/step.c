/* What the engine asks of a card between operations: step.cu. */
#include "step.h"

#include "launch_.h"

void cuda_step_fault(StepState *state, const int32_t *values, StepTag tag, const KernelRun *run)
{
    StepFaultArguments a = {state, values, (unsigned long long)run->operation, tag};
    LAUNCH(run, CUDA_step_fault, 1, 1, 1, 1, a);
}

void cuda_step_loss(StepState *state, const float *loss, const StepEntry *entry, int64_t entries,
                    const KernelRun *run)
{
    StepLossArguments a = {state, loss, entry, entries};
    LAUNCH(run, CUDA_step_loss, 1, 1, 1, CUDA_THREADS, a);
}

void cuda_step_control(StepState *state, const double *squares, int64_t count, double scale, float max_norm,
                       const KernelRun *run)
{
    StepControlArguments a = {state, squares, count, scale, max_norm};
    LAUNCH(run, CUDA_step_control, 1, 1, 1, CUDA_THREADS, a);
}
