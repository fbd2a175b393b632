/* Sides of a benchmark that take turns in rounds, so that what disturbs the machine disturbs everyone: their
 * times, and a peer in Python that answers with its own. */
#ifndef BRIM_BENCH_ROUNDS_H
#define BRIM_BENCH_ROUNDS_H

#include <time.h>

#include "child.h"
#include "kernels/kernels.h"
#include "order.h"

enum { MAX_ROUNDS = 99, MAX_STEPS = 400 };

/* One side's steps over all rounds. */
typedef struct Side {
    double all[MAX_ROUNDS * MAX_STEPS], round[MAX_ROUNDS];
    double work[MAX_ROUNDS]; /* processor seconds of a round, all threads together */
    int count, rounds;
} Side;

static double median(const double *values, int count)
{
    static double room[MAX_ROUNDS * MAX_STEPS];
    return order_median(values, count, room);
}

static void side_add(Side *side, double seconds)
{
    side->all[side->count++] = seconds;
}

/* Closes a round of the last `steps` steps. */
static void side_round(Side *side, int steps)
{
    if (steps > 0)
        side->round[side->rounds++] = median(side->all + side->count - steps, steps);
}

/* Processor time of this process so far: what others do on the machine counts less in it than in the clock.
 */
static inline double worked(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A round of `steps` steps; step: runs one and returns its seconds. */
static inline void side_turn(Side *side, int steps, double (*step)(void *), void *of)
{
    double begin = worked();
    for (int i = 0; i < steps; i++)
        side_add(side, step(of));
    side->work[side->rounds] = worked() - begin;
    side_round(side, steps);
}

/* Median of the ratios within a round. */
static double ratio_of_rounds(const double *a, const double *b, int rounds)
{
    double ratio[MAX_ROUNDS];
    for (int i = 0; i < rounds; i++)
        ratio[i] = a[i] / b[i];
    return median(ratio, rounds);
}

/* How many steps take `turn` seconds. */
static inline int turn_steps(double step_seconds, double turn)
{
    int steps = (int)(turn / step_seconds);
    return steps < 1 ? 1 : steps > MAX_STEPS ? MAX_STEPS : steps;
}

/* PyTorch's kernels other than products take the vectors that brim's table uses. */
typedef struct PeerSetting {
    char text[64]; /* a variable for env */
} PeerSetting;

static inline PeerSetting peer_vectors(void)
{
    const char *isa = kernels_cpu(NULL)->name;
    PeerSetting setting;
    if (!strcmp(isa, "avx512-bf16")) /* which PyTorch chooses for its products by itself */
        isa = "avx512";
    snprintf(setting.text, sizeof setting.text, "ATEN_CPU_CAPABILITY=%s",
             strcmp(isa, "base") ? isa : "default");
    return setting;
}

/* Steps of the peer; side: NULL while it warms up. Returns how many there were. */
static inline int peer_turn(Child *child, int steps, Side *side, double *growth)
{
    json_t *answer = child_ask(child, "step", steps);
    json_t *ms = json_object_get(answer, "ms");
    int count = (int)json_array_size(ms);
    for (int i = 0; i < count && side; i++)
        side_add(side, 1e-3 * json_number_value(json_array_get(ms, (size_t)i)));
    *growth = json_number_value(json_object_get(answer, "rss_peak_growth_mib"));
    json_decref(answer);
    return count;
}

/* What this program measures of itself in a process of its own, given these arguments behind its name. */
static inline double own_growth(const char *argv[])
{
    char path[4096];
    Child child;
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    argv[0] = path;
    if (child_start(&child, argv) != 0)
        return 0;
    json_t *answer = child_answer(&child);
    double growth = json_number_value(json_object_get(answer, "growth"));
    json_decref(answer);
    child_end(&child);
    return growth;
}

/* "1.15 (<=1.20) pass"; without a target the value alone. */
static const char *verdict(double value, double target, int at_most)
{
    static char text[4][40];
    static int next;
    char *out = text[next = (next + 1) % 4];
    if (value <= 0)
        return "-";
    int pass = at_most ? value <= target : value >= target;
    if (target <= 0)
        snprintf(out, sizeof text[0], "%.2f", value);
    else
        snprintf(out, sizeof text[0], "%.2f (%s%.2f) %s", value, at_most ? "<=" : ">=", target,
                 pass ? "pass" : "MISS");
    return out;
}

#endif
