/* What a step puts down for the host, and what its updates read: step.h. One block each. */
#include "step.h"
#include "values.h"

GLOBAL(step_fault, 1, StepFaultArguments)
{
    StepState *s = a.state;
    if (s->fault == ~0ull || s->fault >> FAULT_BITS != a.operation)
        return;
    s->fault_value = a.values[s->fault & ((1ull << FAULT_BITS) - 1)];
    s->faulty = a.tag;
}

/* The entries in their order; it takes long, once. */
DEVICE StepTag first_bad(const StepEntry *entry, int64_t entries, float *shared)
{
    for (int64_t e = 0; e < entries; e++) {
        float bad = 0;
        for (int64_t i = THREAD.x; i < entry[e].n; i += BLOCK_SIZE.x)
            if (!entry[e].padding || i % entry[e].row < entry[e].row - entry[e].padding)
                bad = isfinite(value_load(entry[e].type, entry[e].values, i)) ? bad : 1.0f;
        if (block_max(bad, shared) > 0)
            return entry[e].tag;
    }
    StepTag none = {0, 0, 0, 0};
    return none;
}

GLOBAL(step_loss, 256, StepLossArguments)
{
    SHARED float shared[32];
    StepState *s = a.state;
    float loss = a.loss[0];
    if (s->fault != ~0ull || s->is_bad)
        return;
    block_sync(); /* all have looked */
    if (isfinite(loss)) {
        if (THREAD.x == 0)
            s->loss += (double)loss;
        return;
    }
    StepTag tag = first_bad(a.entry, a.entries, shared);
    if (THREAD.x == 0) {
        s->bad_loss = loss;
        s->is_bad = 1;
        s->blamed = tag;
    }
}

GLOBAL(step_control, 256, StepControlArguments)
{
    SHARED double part[256];
    StepState *s = a.state;
    double sum = 0;
    for (int64_t i = THREAD.x; i < a.count; i += BLOCK_SIZE.x)
        sum += a.squares[i];
    part[THREAD.x] = sum;
    block_sync();
    if (THREAD.x > 0)
        return;
    sum = 0;
    for (unsigned i = 0; i < BLOCK_SIZE.x; i++)
        sum += part[i];
    double norm = sqrt(sum) / a.scale, most = (double)a.max_norm / (norm + 1e-6);
    double clip = a.max_norm > 0 && most < 1 ? most : 1;
    s->squares = sum;
    s->control.skip = s->control.skip || s->fault != ~0ull || s->is_bad || !isfinite(sum);
    s->control.grad_scale = (float)(clip / a.scale);
}
