/* Learning-rate schedules as factors on the base rate: linear warm-up, then constant, linear or half a cosine
 * (Loshchilov & Hutter, arXiv 1608.03983). The end is reached at step `total`, one after the last, so that no
 * step of a run is spent at 0, and holds from there on. */
#include <inttypes.h>
#include <math.h>

#include "optim_.h"

static const double pi = 3.14159265358979323846;

double schedule_factor(const Schedule *schedule, int64_t step)
{
    if (step < schedule->warmup)
        return (double)(step + 1) / (double)schedule->warmup;
    if (schedule->kind == SCHEDULE_CONSTANT)
        return 1;
    double end = (double)schedule->min_ratio;
    if (step >= schedule->total)
        return end;
    double progress = (double)(step - schedule->warmup) / (double)(schedule->total - schedule->warmup);
    double left = schedule->kind == SCHEDULE_COSINE ? 0.5 * (1 + cos(pi * progress)) : 1 - progress;
    return end + (1 - end) * left;
}

int schedule_valid(const Schedule *schedule)
{
    int64_t warmup = schedule->warmup, total = schedule->total;
    int kind = (int)schedule->kind;
    int known = kind == SCHEDULE_CONSTANT || kind == SCHEDULE_LINEAR || kind == SCHEDULE_COSINE;
    if (!known)
        error_raise(ERROR_ARGUMENT, "schedule: kind %d is none of constant, linear, cosine", kind);
    else if (warmup < 0 || total < 0)
        error_raise(ERROR_ARGUMENT, "schedule: warmup %" PRId64 " and total %" PRId64 " must not be negative",
                    warmup, total);
    else if (kind != SCHEDULE_CONSTANT && total == 0)
        error_raise(ERROR_ARGUMENT, "schedule: linear and cosine need total, the number of steps in all");
    else if (total > 0 && warmup > total)
        error_raise(ERROR_ARGUMENT,
                    "schedule: %" PRId64 " steps of warm-up are more than the %" PRId64 " in all", warmup,
                    total);
    else if (!(schedule->min_ratio >= 0 && schedule->min_ratio <= 1))
        error_raise(ERROR_ARGUMENT, "schedule: min_ratio is %g; it must be in [0, 1]",
                    (double)schedule->min_ratio);
    else
        return 1;
    return 0;
}
