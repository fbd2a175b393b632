/* Medians and quantiles of times. */
#ifndef BRIM_BENCH_ORDER_H
#define BRIM_BENCH_ORDER_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline int order_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of sorted values, between two of them where the place is. */
static inline double order_at(const double *sorted, int count, double place)
{
    place = fmin(fmax(place, 0), count - 1);
    int below = (int)place, above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/* `room` holds count values. */
static inline double order_median(const double *values, int count, double *room)
{
    if (count < 1)
        return 0;
    memcpy(room, values, (size_t)count * sizeof *room);
    qsort(room, (size_t)count, sizeof *room, order_by_value);
    return order_at(room, count, (count - 1) / 2.0);
}

#endif
