/* Whether a series of times drifts: medians, and the slope of Theil and Sen with Sen's interval, which
 * neither outliers nor a noise without a known distribution moves. */
#ifndef BRIM_BENCH_DRIFT_H
#define BRIM_BENCH_DRIFT_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DRIFT_BLOCKS = 60, DRIFT_BLOCK_MIN = 5, DRIFT_PAIRS = DRIFT_BLOCKS * (DRIFT_BLOCKS - 1) / 2 };

typedef struct Drift {
    double third[3];        /* medians of the first, middle and last third */
    double middle;          /* median of all */
    double low, most, high; /* change from the first to the last, as a fraction of the median: its estimate
                              lies between the ends of the 95 % interval */
    int blocks; /* medians of consecutive values that the slope is of; below 8: too few, and no interval */
} Drift;

static inline int drift_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of sorted values, between two of them where the place is. */
static inline double drift_at(const double *sorted, int count, double place)
{
    place = fmin(fmax(place, 0), count - 1);
    int below = (int)place, above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/* `room` holds count values. */
static inline double drift_median(const double *values, int count, double *room)
{
    if (count < 1)
        return 0;
    memcpy(room, values, (size_t)count * sizeof *room);
    qsort(room, (size_t)count, sizeof *room, drift_by_value);
    return drift_at(room, count, (count - 1) / 2.0);
}

/* The slopes of all pairs of blocks, in units a block; its median, and the ranks that bound it (Sen 1968). */
static inline void drift_slope(const double *blocks, int count, Drift *out)
{
    static double slopes[DRIFT_PAIRS];
    int pairs = 0;
    for (int i = 0; i < count; i++)
        for (int j = i + 1; j < count; j++)
            slopes[pairs++] = (blocks[j] - blocks[i]) / (j - i);
    qsort(slopes, (size_t)pairs, sizeof *slopes, drift_by_value);
    double spread = 1.96 * sqrt(count * (count - 1.0) * (2.0 * count + 5) / 18),
           whole = (count - 1) / out->middle;
    out->most = whole * drift_at(slopes, pairs, (pairs - 1) / 2.0);
    out->low = whole * drift_at(slopes, pairs, (pairs - spread) / 2 - 1);
    out->high = whole * drift_at(slopes, pairs, (pairs + spread) / 2);
}

/* Values in the order of time; `room` holds as many. */
static inline Drift drift_of(const double *values, int count, double *room)
{
    Drift drift = {.middle = drift_median(values, count, room), .blocks = count / DRIFT_BLOCK_MIN};
    if (drift.blocks > DRIFT_BLOCKS)
        drift.blocks = DRIFT_BLOCKS;
    for (int i = 0; i < 3; i++) {
        int from = (int)((long long)count * i / 3), to = (int)((long long)count * (i + 1) / 3);
        drift.third[i] = drift_median(values + from, to - from, room);
    }
    if (drift.blocks < 8 || !(drift.middle > 0))
        return drift;
    double blocks[DRIFT_BLOCKS];
    for (int i = 0; i < drift.blocks; i++) {
        int from = (int)((long long)count * i / drift.blocks);
        int to = (int)((long long)count * (i + 1) / drift.blocks);
        blocks[i] = drift_median(values + from, to - from, room);
    }
    drift_slope(blocks, drift.blocks, &drift);
    return drift;
}

#endif
