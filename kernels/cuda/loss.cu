/* Cross-entropy over rows of logits: one pass forward, one back. */
#include <float.h>

#include "activation.h"
#include "row.h"

enum { LOSS_TOGETHER = 4 }; /* packs that a thread loads at once */

/* The part of a row that this thread's team has: packs from `first` on, which begin at multiples of PACK of
 * the whole array, so that most are aligned whatever the number of classes is. */
typedef struct LossPart {
    int64_t row, slice, begin, end, first;
    int lane;
    int32_t label;
} LossPart;

DEVICE LossPart loss_part(const LossArguments *a)
{
    unsigned team = (unsigned)a->team;
    int64_t index = (int64_t)BLOCK.x * (BLOCK_SIZE.x / team) + THREAD.x / team;
    LossPart p = {.row = index / a->slices, .lane = (int)(THREAD.x % team)};
    p.slice = index % a->slices;
    if (p.row >= a->d.rows)
        return p;
    p.begin = p.row * a->d.ld;
    p.end = p.begin + a->d.classes;
    p.first = p.begin / PACK * PACK + (p.slice * LOSS_SLICE * team + p.lane) * PACK;
    p.label = a->labels[p.row];
    return p;
}

/* A logit as it counts. */
DEVICE float loss_logit(const LossArguments *a, float x)
{
    return a->d.softcap != 0.0f ? softcap_value(a->d.softcap, x) : x;
}

DEVICE void loss_add(const float *x, float *top, float *sum)
{
    float most = x[0];
    UNROLL
    for (int e = 1; e < PACK; e++)
        most = fmaxf(most, x[e]);
    if (most > *top) {
        *sum *= expf(*top - most);
        *top = most;
    }
    UNROLL
    for (int e = 0; e < PACK; e++)
        *sum += expf(x[e] - *top);
}

#define KERNELS "loss_.cu"
#include "typed.h"

/* A row's loss from what every part of its classes knows; a thread a row. */
GLOBAL(cross_entropy_join, 256, LossArguments)
{
    int64_t row = (int64_t)BLOCK.x * BLOCK_SIZE.x + THREAD.x;
    if (row >= a.d.rows)
        return;
    const float *part = a.part + row * CROSS_ENTROPY_PART;
    float top = part[PART_TOP], label = 0.0f;
    double sum = 0.0;
    a.lse[row] = a.row_loss[row] = 0.0f;
    if (a.labels[row] == a.d.ignore_index)
        return;
    for (int p = 1; p < a.count; p++)
        top = fmaxf(top, part[p * a.apart + PART_TOP]);
    for (int p = 0; p < a.count; p++) {
        const float *from = part + p * a.apart;
        sum += (double)from[PART_SUM] * (double)expf(from[PART_TOP] - top);
        label += from[PART_LABEL];
    }
    a.lse[row] = (float)((double)top + log(sum));
    a.row_loss[row] = (float)((double)top - (double)label + log(sum));
}

/* loss = scale * the sum of row_loss, in double; one block. */
GLOBAL(cross_entropy_sum, 256, LossArguments)
{
    SHARED double shared[32];
    double sum = 0.0;
    for (int64_t row = THREAD.x; row < a.d.rows; row += BLOCK_SIZE.x)
        sum += (double)a.row_loss[row];
    sum = block_sum_f64(sum, shared);
    if (THREAD.x == 0)
        a.loss[0] = (float)((double)a.scale * sum);
}
