/* Whether a series of times drifts: medians, and the slope of Theil and Sen with Sen's interval, which
 * neither outliers nor a noise without a known distribution moves. */
#ifndef BRIM_BENCH_DRIFT_H
#define BRIM_BENCH_DRIFT_H

#include "order.h"

enum { DRIFT_BLOCKS = 60, DRIFT_BLOCK_MIN = 5, DRIFT_PAIRS = DRIFT_BLOCKS * (DRIFT_BLOCKS - 1) / 2 };

typedef struct Drift {
    double third[3];        /* medians of the first, middle and last third */
    double middle;          /* median of all */
    double low, most, high; /* change from the first to the last, as a fraction of the median: its estimate
                              lies between the ends of the 95 % interval */
    int blocks; /* medians of consecutive values that the slope is of; below 8: too few, and no interval */
} Drift;

/* The slopes of all pairs of blocks, in units a block; its median, and the ranks that bound it (Sen 1968). */
static inline void drift_slope(const double *blocks, int count, Drift *out)
{
    static double slopes[DRIFT_PAIRS];
    int pairs = 0;
    for (int i = 0; i < count; i++)
        for (int j = i + 1; j < count; j++)
            slopes[pairs++] = (blocks[j] - blocks[i]) / (j - i);
    qsort(slopes, (size_t)pairs, sizeof *slopes, order_by_value);
    double spread = 1.96 * sqrt(count * (count - 1.0) * (2.0 * count + 5) / 18),
           whole = (count - 1) / out->middle;
    out->most = whole * order_at(slopes, pairs, (pairs - 1) / 2.0);
    out->low = whole * order_at(slopes, pairs, (pairs - spread) / 2 - 1);
    out->high = whole * order_at(slopes, pairs, (pairs + spread) / 2);
}

/* Values in the order of time; `room` holds as many. */
static inline Drift drift_of(const double *values, int count, double *room)
{
    Drift drift = {.middle = order_median(values, count, room), .blocks = count / DRIFT_BLOCK_MIN};
    if (drift.blocks > DRIFT_BLOCKS)
        drift.blocks = DRIFT_BLOCKS;
    for (int i = 0; i < 3; i++) {
        int from = (int)((long long)count * i / 3), to = (int)((long long)count * (i + 1) / 3);
        drift.third[i] = order_median(values + from, to - from, room);
    }
    if (drift.blocks < 8 || !(drift.middle > 0))
        return drift;
    double blocks[DRIFT_BLOCKS];
    for (int i = 0; i < drift.blocks; i++) {
        int from = (int)((long long)count * i / drift.blocks);
        int to = (int)((long long)count * (i + 1) / drift.blocks);
        blocks[i] = order_median(values + from, to - from, room);
    }
    drift_slope(blocks, drift.blocks, &drift);
    return drift;
}

#endif
