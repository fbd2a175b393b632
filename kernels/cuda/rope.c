/* Rotary positions on a card: rope.cu. */
#include "launch_.h"

#include "../frequency.h"

void cuda_rope(const RopeDims *d, DType type, const void *x, float beta, void *y, const KernelRun *run)
{
    int half = rope_width(d) / 2;
    RopeArguments a = {.ld = d->ld,
                       .behind = d->behind,
                       .batch = d->batch,
                       .seq = d->seq,
                       .heads = d->heads,
                       .head_dim = d->head_dim,
                       .group = rope_group(d),
                       .half = half,
                       .inverse = d->inverse,
                       .interleaved = d->interleaved,
                       .offset = d->offset,
                       .x = x,
                       .beta = beta,
                       .scale = rope_scale(d),
                       .y = y};
    a.aligned = !d->interleaved && half % 8 == 0 && d->head_dim % 8 == 0 && d->ld % 8 == 0 &&
                (a.group == d->heads || d->behind % 8 == 0) && ((uintptr_t)x | (uintptr_t)y) % 16 == 0;
    a.passes = (x != y || beta != 0.0f) && (d->behind > 0 || d->head_dim > 2 * half);
    for (; a.first < half && d->batch > 0; a.first += ROPE_PAIRS, a.passes = 0) {
        a.pairs = half - a.first < ROPE_PAIRS ? half - a.first : ROPE_PAIRS;
        for (int i = 0; i < a.pairs; i++)
            a.frequency[i] = rope_frequency(d, a.first + i);
        LAUNCH(run, CUDA_rope + cuda_typed(type), (int64_t)d->batch * d->seq, 1, 1, 128, a);
    }
}
