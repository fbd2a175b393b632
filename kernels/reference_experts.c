/* A mixture of experts as its definition reads, one pair of a token and an expert after the other, summed in
 * double. What is of 16 bit between the products is rounded where the tuned kernels round it. */
#include "kernels/experts_cpu.h"
#include "kernels/reference_.h"
#include "kernels/values.h"

#include <math.h>

static double expert_get(DType type, const void *x, int64_t i)
{
    return (double)values_get(type, x, i);
}

static void expert_blend(DType type, double value, float beta, void *y, int64_t i)
{
    values_set(type, y, i, (float)(beta == 0 ? value : value + (double)beta * expert_get(type, y, i)));
}

static double expert_activation(Activation act, double x)
{
    float in = (float)x, out;
    reference_activation_forward(DTYPE_F32, act, 1, &in, &out, NULL);
    return (double)out;
}

static double expert_slope(Activation act, double x)
{
    float in = (float)x, one = 1, out;
    reference_activation_backward(DTYPE_F32, act, 1, &in, &one, 0, &out, NULL);
    return (double)out;
}

/* ---- Routing --------------------------------------------------------------------------------- */

/* p (experts) = softmax of a token's logits. */
static void expert_softmax(const ExpertsDims *d, const void *router, int64_t row, double *p)
{
    double top = -INFINITY, sum = 0;
    for (int e = 0; e < d->experts; e++)
        top = fmax(top, expert_get(d->router, router, row * d->experts + e));
    for (int e = 0; e < d->experts; e++)
        sum += p[e] = exp(expert_get(d->router, router, row * d->experts + e) - top);
    for (int e = 0; e < d->experts; e++)
        p[e] /= sum;
}

void reference_experts_route(const ExpertsDims *d, const void *router, const ExpertsBalance *balance,
                             void *routing, void *workspace, const KernelRun *run)
{
    ExpertsRouting r = experts_routing(d, routing);
    double p[EXPERTS_MOST];
    (void)workspace, (void)run;
    for (int64_t row = 0; row < d->rows; row++) {
        int32_t *expert = r.expert + row * d->active;
        float logits[EXPERTS_MOST], top[EXPERTS_MOST];
        double some = 0;
        int counts = balance && (!balance->mask || balance->mask[row]);
        for (int e = 0; e < d->experts; e++)
            logits[e] = values_get(d->router, router, row * d->experts + e);
        experts_choose(d->experts, d->active, logits, top, expert);
        expert_softmax(d, router, row, p);
        for (int j = 0; j < d->active; j++)
            some += p[expert[j]];
        for (int j = 0; j < d->active; j++)
            r.weight[row * d->active + j] = (float)(p[expert[j]] / (d->normalise ? some : 1));
        for (int j = 0; counts && j < d->active; j++)
            balance->stats[expert[j]] += 1;
        for (int e = 0; counts && e < d->experts; e++)
            balance->stats[d->experts + e] += (float)p[e];
    }
    experts_sort(d, &r);
}

void reference_experts_route_backward(const ExpertsDims *d, const void *router, const ExpertsBalance *balance,
                                      const void *routing, const float *dweight, float beta, void *drouter,
                                      const KernelRun *run)
{
    ExpertsRouting r = experts_routing(d, routing);
    (void)run;
    for (int64_t row = 0; row < d->rows; row++) {
        const int32_t *expert = r.expert + row * d->active;
        const float *weight = r.weight + row * d->active, *slope = dweight + row * d->active;
        double p[EXPERTS_MOST] = {0}, g[EXPERTS_MOST] = {0}, to[EXPERTS_MOST] = {0}, mean = 0;
        int counts = balance && (!balance->mask || balance->mask[row]);
        if (counts || !d->normalise)
            expert_softmax(d, router, row, p);
        for (int e = 0; counts && e < d->experts; e++)
            g[e] = (double)balance->stats[2 * d->experts + e];
        for (int j = 0; j < d->active && !d->normalise; j++)
            g[expert[j]] += (double)slope[j];
        for (int e = 0; e < d->experts; e++)
            mean += p[e] * g[e];
        for (int e = 0; e < d->experts; e++)
            to[e] = p[e] * (g[e] - mean);
        mean = 0;
        for (int j = 0; j < d->active && d->normalise; j++)
            mean += (double)weight[j] * (double)slope[j];
        for (int j = 0; j < d->active && d->normalise; j++)
            to[expert[j]] += (double)weight[j] * ((double)slope[j] - mean);
        for (int e = 0; e < d->experts; e++)
            expert_blend(d->router, to[e], beta, drouter, row * d->experts + e);
    }
}

/* ---- Experts --------------------------------------------------------------------------------- */

/* Which expert has the pair at this place. */
static int64_t expert_of(const ExpertsRouting *r, int64_t place)
{
    return r->expert[r->pair[place]];
}

void reference_experts_forward(const ExpertsDims *d, const void *x, const StoredArray *gate_up,
                               const StoredArray *down, const void *routing, void *kept, void *y,
                               void *workspace, const KernelRun *run)
{
    ExpertsRouting r = experts_routing(d, routing);
    ExpertsRoom room = experts_room(d, workspace);
    (void)run;
    for (int64_t i = 0; i < experts_pairs(d); i++) {
        StoredArray up = experts_matrix(gate_up, expert_of(&r, i)),
                    out = experts_matrix(down, expert_of(&r, i));
        int64_t row = r.pair[i] / d->active;
        for (int64_t h = 0; h < 2 * d->hidden; h++) {
            double sum = 0;
            for (int64_t c = 0; c < d->width; c++)
                sum += expert_get(d->type, x, row * d->width + c) *
                       (double)reference_element(&up, h * d->width + c);
            values_set(d->type, kept, i * 2 * d->hidden + h, (float)sum);
        }
        for (int64_t h = 0; h < d->hidden; h++) {
            int64_t at = i * 2 * d->hidden + h;
            double gate = expert_activation(d->act, expert_get(d->type, kept, at));
            values_set(d->type, room.narrow, i * d->hidden + h,
                       (float)(gate * expert_get(d->type, kept, at + d->hidden)));
        }
        for (int64_t c = 0; c < d->width; c++) {
            double sum = 0;
            for (int64_t h = 0; h < d->hidden; h++)
                sum += expert_get(d->type, room.narrow, i * d->hidden + h) *
                       (double)reference_element(&out, c * d->hidden + h);
            values_set(d->type, room.wide, i * d->width + c, (float)sum);
        }
    }
    for (int64_t i = 0; i < d->rows * d->width; i++) {
        double sum = 0;
        for (int64_t j = i / d->width * d->active; j < (i / d->width + 1) * d->active; j++)
            sum += (double)r.weight[j] * expert_get(d->type, room.wide, r.place[j] * d->width + i % d->width);
        values_set(d->type, y, i, (float)sum);
    }
}

/* Of one pair: the gradient of what its gate makes, then of gate and up; kept and narrow are written over. */
static void expert_gate_backward(const ExpertsDims *d, const ExpertsRouting *r, const StoredArray *down,
                                 const void *dy, int64_t i, void *kept, void *narrow, float *dweight)
{
    StoredArray out = experts_matrix(down, expert_of(r, i));
    double weight = (double)r->weight[r->pair[i]], dot = 0;
    for (int64_t h = 0; h < d->hidden; h++) {
        int64_t at = i * 2 * d->hidden + h, to = i * d->hidden + h;
        double gate = expert_get(d->type, kept, at), up = expert_get(d->type, kept, at + d->hidden), sum = 0;
        double act = expert_activation(d->act, gate);
        for (int64_t c = 0; down->at && c < d->width; c++)
            sum += expert_get(d->type, dy, r->pair[i] / d->active * d->width + c) *
                   (double)reference_element(&out, c * d->hidden + h);
        values_set(d->type, narrow, to, (float)sum);
        sum = expert_get(d->type, narrow, to);
        dot += sum * act * up;
        values_set(d->type, kept, at, (float)(weight * sum * up * expert_slope(d->act, gate)));
        values_set(d->type, kept, at + d->hidden, (float)(weight * sum * act));
        values_set(d->type, narrow, to, (float)(weight * act * up));
    }
    if (dweight)
        dweight[r->pair[i]] = (float)dot;
}

/* dw (experts,m,n) = every expert's rows of a, transposed, times its rows of b, + beta dw. per_token: which
 * of the two has a row a token, instead of one a pair; 0: a, 1: b. */
static void expert_weights(const ExpertsDims *d, const ExpertsRouting *r, const void *a, const void *b,
                           int per_token, int64_t m, int64_t n, DType type, float beta, void *dw)
{
    for (int64_t e = 0; e < d->experts; e++)
        for (int64_t at = 0; at < m * n; at++) {
            double sum = 0;
            for (int64_t i = r->offset[e]; i < r->offset[e + 1]; i++) {
                int64_t token = r->pair[i] / d->active;
                sum += expert_get(d->type, a, (per_token == 0 ? token : i) * m + at / n) *
                       expert_get(d->type, b, (per_token == 1 ? token : i) * n + at % n);
            }
            expert_blend(type, sum, beta, dw, e * m * n + at);
        }
}

static void expert_input(const ExpertsDims *d, const ExpertsRouting *r, const StoredArray *gate_up,
                         const void *kept, void *wide, float beta, void *dx)
{
    for (int64_t i = 0; i < experts_pairs(d); i++) {
        StoredArray up = experts_matrix(gate_up, expert_of(r, i));
        for (int64_t c = 0; c < d->width; c++) {
            double sum = 0;
            for (int64_t h = 0; h < 2 * d->hidden; h++)
                sum += expert_get(d->type, kept, i * 2 * d->hidden + h) *
                       (double)reference_element(&up, h * d->width + c);
            values_set(d->type, wide, i * d->width + c, (float)sum);
        }
    }
    for (int64_t i = 0; i < d->rows * d->width; i++) {
        double sum = 0;
        for (int64_t j = i / d->width * d->active; j < (i / d->width + 1) * d->active; j++)
            sum += expert_get(d->type, wide, r->place[j] * d->width + i % d->width);
        expert_blend(d->type, sum, beta, dx, i);
    }
}

void reference_experts_backward(const ExpertsDims *d, const void *x, const StoredArray *gate_up,
                                const StoredArray *down, const void *routing, void *kept, const void *dy,
                                const ExpertsGradients *g, void *workspace, const KernelRun *run)
{
    ExpertsRouting r = experts_routing(d, routing);
    ExpertsRoom room = experts_room(d, workspace);
    (void)run;
    for (int64_t i = 0; i < experts_pairs(d); i++)
        expert_gate_backward(d, &r, down, dy, i, kept, room.narrow, g->dweight);
    if (g->ddown)
        expert_weights(d, &r, dy, room.narrow, 0, d->width, d->hidden, g->down_type, g->beta_down, g->ddown);
    if (g->dgate_up)
        expert_weights(d, &r, kept, x, 1, 2 * d->hidden, d->width, g->gate_up_type, g->beta_gate_up,
                       g->dgate_up);
    if (g->dx)
        expert_input(d, &r, gate_up, kept, room.wide, g->beta_x, g->dx);
}

size_t reference_experts_workspace(const ExpertsDims *d, int backward, int wanted, DType dgate_up,
                                   DType ddown, const KernelRun *run)
{
    return experts_cpu_workspace(d, backward, wanted, dgate_up, ddown, run);
}

void reference_experts_balance_forward(int experts, int active, float factor, const float *stats,
                                       const float *loss, float *y, const KernelRun *run)
{
    double pairs = 0, sum = 0;
    (void)run;
    for (int e = 0; e < experts; e++) {
        pairs += (double)stats[e];
        sum += (double)stats[e] * (double)stats[experts + e];
    }
    double tokens = pairs / active;
    y[0] = loss[0] + (pairs > 0 ? (float)((double)factor * experts * sum / (tokens * tokens)) : 0);
}

void reference_experts_balance_backward(int experts, int active, float factor, const float *dy, float *stats,
                                        const KernelRun *run)
{
    double pairs = 0;
    (void)run;
    for (int e = 0; e < experts; e++)
        pairs += (double)stats[e];
    for (int e = 0; e < experts; e++) {
        double tokens = pairs / active;
        stats[2 * experts + e] =
            pairs > 0
                ? (float)((double)factor * experts * (double)stats[e] / (tokens * tokens) * (double)dy[0])
                : 0;
    }
}
