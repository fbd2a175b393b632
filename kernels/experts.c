/* A mixture of experts: routing, the rows of each expert side by side, what is between the products, and sums
 * over the experts of a token in the order in which they were chosen. Part of cpu.c. */
#include "kernels/experts_cpu.h"
#include "kernels/kernels.h"
#include "kernels/range.h"
#include "kernels/values.h"
#include "kernels/vecmath.h"

#include <string.h>

/* ---- Routing --------------------------------------------------------------------------------- */

/* p (n) = exp(logits - top); returns their sum. */
static double experts_exponentials(int64_t n, const float *logits, float top, float *p)
{
    double sum = 0;
#pragma omp simd
    for (int64_t e = 0; e < n; e++)
        p[e] = vec_exp(logits[e] - top);
    for (int64_t e = 0; e < n; e++)
        sum += (double)p[e];
    return sum;
}

/* Of one token; p (experts) = its probabilities. */
static void experts_route_row(const ExpertsDims *d, const void *router, int64_t row, const ExpertsRouting *r,
                              float *p)
{
    float room[EXPERTS_MOST], top[EXPERTS_MOST];
    int64_t at = row * d->active;
    const float *logits = values_load(d->router, router, row * d->experts, d->experts, room);
    top[0] = 0; /* there is at least one, which not every compiler sees */
    experts_choose(d->experts, d->active, logits, top, r->expert + at);
    double all = experts_exponentials(d->experts, logits, top[0], p), some = 0;
    for (int j = 0; j < d->active; j++)
        some += (double)p[r->expert[at + j]];
    for (int j = 0; j < d->active; j++)
        r->weight[at + j] = (float)((double)p[r->expert[at + j]] / (d->normalise ? some : all));
    for (int e = 0; e < d->experts; e++)
        p[e] = (float)((double)p[e] / all);
}

/* Tokens of a slice; sums (experts): of the probabilities of those that count. NULL: nobody asks. */
static void experts_route_slice(const ExpertsDims *d, const void *router, const int32_t *mask,
                                const ExpertsRouting *r, int64_t slice, double *sums)
{
    float p[EXPERTS_MOST];
    for (int e = 0; sums && e < d->experts; e++)
        sums[e] = 0;
    for (int64_t row = range_begin(d->rows, slice, EXPERTS_SLICES);
         row < range_begin(d->rows, slice + 1, EXPERTS_SLICES); row++) {
        experts_route_row(d, router, row, r, p);
        for (int e = 0; sums && e < d->experts && (!mask || mask[row]); e++)
            sums[e] += (double)p[e];
    }
}

/* Counts and sums of probabilities onto those of other layers. */
static void experts_count(const ExpertsDims *d, const ExpertsBalance *balance, const ExpertsRouting *r,
                          const double *sums)
{
    int64_t count[EXPERTS_MOST] = {0};
    for (int64_t i = 0; i < experts_pairs(d); i++)
        count[r->expert[i]] += !balance->mask || balance->mask[i / d->active];
    for (int e = 0; e < d->experts; e++) {
        double sum = 0;
        for (int slice = 0; slice < EXPERTS_SLICES; slice++)
            sum += sums[slice * d->experts + e];
        balance->stats[e] += (float)count[e];
        balance->stats[d->experts + e] += (float)sum;
    }
}

static void experts_route(const ExpertsDims *d, const void *router, const ExpertsBalance *balance,
                          void *routing, void *workspace, const KernelRun *run)
{
    ExpertsRouting r = experts_routing(d, routing);
    double *sums = balance ? workspace : NULL;
    int team = range_threads(d->rows * d->experts, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int slice = 0; slice < EXPERTS_SLICES; slice++)
        experts_route_slice(d, router, balance ? balance->mask : NULL, &r, slice,
                            sums ? sums + slice * d->experts : NULL);
    experts_sort(d, &r);
    if (balance)
        experts_count(d, balance, &r, sums);
}

/* p (experts) = softmax(logits) times g less its mean under p, added to `to`. */
static void experts_softmax_slope(const ExpertsDims *d, const float *logits, const float *g, float *to)
{
    float p[EXPERTS_MOST], top = logits[0];
    double mean = 0;
    for (int e = 1; e < d->experts; e++)
        top = logits[e] > top ? logits[e] : top;
    double all = experts_exponentials(d->experts, logits, top, p);
    for (int e = 0; e < d->experts; e++)
        mean += (double)p[e] * (double)g[e] / all;
    for (int e = 0; e < d->experts; e++)
        to[e] += (float)((double)p[e] / all * ((double)g[e] - mean));
}

/* to (experts) = the gradient of one token's logits. */
static void experts_route_slope(const ExpertsDims *d, const void *router, const float *g,
                                const ExpertsRouting *r, const float *dweight, int64_t row, float *to)
{
    float room[EXPERTS_MOST], all[EXPERTS_MOST];
    const int32_t *expert = r->expert + row * d->active;
    const float *weight = r->weight + row * d->active, *slope = dweight + row * d->active;
    const float *logits = values_load(d->router, router, row * d->experts, d->experts, room);
    double mean = 0;
    for (int e = 0; e < d->experts; e++) {
        to[e] = 0;
        all[e] = g ? g[e] : 0;
    }
    for (int j = 0; j < d->active && d->normalise; j++)
        mean += (double)weight[j] * (double)slope[j];
    for (int j = 0; j < d->active; j++) {
        if (d->normalise)
            to[expert[j]] = (float)((double)weight[j] * ((double)slope[j] - mean));
        else
            all[expert[j]] += slope[j];
    }
    if (g || !d->normalise)
        experts_softmax_slope(d, logits, all, to);
}

static void experts_route_backward(const ExpertsDims *d, const void *router, const ExpertsBalance *balance,
                                   const void *routing, const float *dweight, float beta, void *drouter,
                                   const KernelRun *run)
{
    ExpertsRouting r = experts_routing(d, routing);
    int team = range_threads(d->rows * d->experts, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < d->rows; row++) {
        float to[EXPERTS_MOST], old[EXPERTS_MOST];
        const float *g = balance ? balance->stats + 2 * d->experts : NULL;
        int counts = balance && (!balance->mask || balance->mask[row]);
        int64_t at = row * d->experts;
        experts_route_slope(d, router, counts ? g : NULL, &r, dweight, row, to);
        if (beta != 0) {
            const float *before = values_load(d->router, drouter, at, d->experts, old);
            for (int e = 0; e < d->experts; e++)
                to[e] += beta * before[e];
        }
        if (d->router == DTYPE_F32)
            memcpy((float *)drouter + at, to, (size_t)d->experts * sizeof *to);
        else
            values_store(d->router, d->experts, to, drouter, at);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* to (pairs,width) = the tokens' rows of x, by expert. */
static void experts_gather(const ExpertsDims *d, const ExpertsRouting *r, const void *x, void *to,
                           const KernelRun *run)
{
    int64_t pairs = experts_pairs(d);
    int team = range_threads(pairs * d->width, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < pairs; i++)
        memcpy(values_at(d->type, to, i * d->width), values_at(d->type, x, r->pair[i] / d->active * d->width),
               (size_t)(d->width * values_size(d->type)));
}

/* y (rows,width) = the sum of a token's rows of `from`, each times its weight where those are given, + beta
 * y. */
static void experts_combine(const ExpertsDims *d, const ExpertsRouting *r, const float *weight,
                            const void *from, float beta, void *y, const KernelRun *run)
{
    int team = range_threads(experts_pairs(d) * d->width, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < d->rows; row++) {
        float sum[VALUES_BLOCK], room[VALUES_BLOCK];
        for (int64_t c = 0, m; c < d->width; c += m) {
            int64_t at = row * d->width + c;
            m = range_min(VALUES_BLOCK, d->width - c);
            const float *old = beta == 0 ? NULL : values_load(d->type, y, at, m, room);
            for (int64_t k = 0; k < m; k++)
                sum[k] = old ? beta * old[k] : 0;
            for (int64_t i = row * d->active; i < (row + 1) * d->active; i++) {
                const float *x = values_load(d->type, from, r->place[i] * d->width + c, m, room);
                float w = weight ? weight[i] : 1;
#pragma omp simd
                for (int64_t k = 0; k < m; k++)
                    sum[k] += w * x[k];
            }
            if (d->type == DTYPE_F32)
                memcpy((float *)y + at, sum, (size_t)m * sizeof *sum);
            else
                values_store(d->type, m, sum, y, at);
        }
    }
}

/* h (pairs,hidden) = act(gate) * up, of rows (2 hidden). */
static void experts_gate(const ExpertsDims *d, const void *kept, void *h, const KernelRun *run)
{
    int64_t pairs = experts_pairs(d);
    int team = range_threads(pairs * d->hidden, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < pairs; row++) {
        float left[VALUES_BLOCK], right[VALUES_BLOCK];
        for (int64_t c = 0, m; c < d->hidden; c += m) {
            int64_t gate = row * 2 * d->hidden + c, at = row * d->hidden + c;
            m = range_min(VALUES_BLOCK, d->hidden - c);
            activation_apply(d->act, m, values_load(d->type, kept, gate, m, left), left);
            const float *u = values_load(d->type, kept, gate + d->hidden, m, right);
            float *to = values_room(d->type, h, at, right);
#pragma omp simd
            for (int64_t k = 0; k < m; k++)
                to[k] = left[k] * u[k];
            values_store(d->type, m, to, h, at);
        }
    }
}

/* Of a pair's elements from column c on: gate and up become their gradients, and dh (the gradient of what
 * comes out of the gate, but for the weight w) becomes the weighted product. Returns their part of the
 * weight's gradient. */
static double experts_gate_part(const ExpertsDims *d, int64_t row, int64_t c, int64_t m, float w, void *kept,
                                void *dh)
{
    float in[3][VALUES_BLOCK], a[VALUES_BLOCK], slope[VALUES_BLOCK];
    int64_t at = row * d->hidden + c, gate = row * 2 * d->hidden + c, up = gate + d->hidden;
    const float *x = values_load(d->type, kept, gate, m, in[0]);
    const float *u = values_load(d->type, kept, up, m, in[1]), *g = values_load(d->type, dh, at, m, in[2]);
    float *to_x = values_room(d->type, kept, gate, in[0]), *to_u = values_room(d->type, kept, up, in[1]);
    float *product = values_room(d->type, dh, at, in[2]);
    double dot = 0;
    activation_apply(d->act, m, x, a);
    for (int64_t k = 0; k < m; k++) {
        float out = a[k] * u[k], back = g[k];
        dot += (double)(out * back);
        slope[k] = w * back * u[k];
        to_u[k] = w * back * a[k];
        product[k] = w * out;
    }
    activation_apply_slope(d->act, m, x, slope, 0, to_x);
    values_store(d->type, m, to_x, kept, gate);
    values_store(d->type, m, to_u, kept, up);
    values_store(d->type, m, product, dh, at);
    return dot;
}

static void experts_gate_backward(const ExpertsDims *d, const ExpertsRouting *r, void *kept, void *dh,
                                  float *dweight, const KernelRun *run)
{
    int64_t pairs = experts_pairs(d);
    int team = range_threads(pairs * d->hidden, run->threads);
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t row = 0; row < pairs; row++) {
        double dot = 0;
        for (int64_t c = 0, m; c < d->hidden; c += m) {
            m = range_min(VALUES_BLOCK, d->hidden - c);
            dot += experts_gate_part(d, row, c, m, r->weight[r->pair[row]], kept, dh);
        }
        if (dweight)
            dweight[r->pair[row]] = (float)dot;
    }
}

/* ---- All together ---------------------------------------------------------------------------- */

/* c (pairs,n) = a (pairs,k) times the expert's matrix, or, with trans_b, its transpose. */
static void experts_rows_product(const ExpertsDims *d, const ExpertsRouting *r, const void *a,
                                 const StoredArray *w, int trans_b, void *c, float *spaces, int64_t space,
                                 const KernelRun *run)
{
    int64_t n = trans_b ? w->rows : w->cols, k = trans_b ? w->cols : w->rows;
    experts_multiply(&(ExpertsProduct){.d = d,
                                       .routing = *r,
                                       .a = a,
                                       .w = *w,
                                       .trans_b = trans_b,
                                       .few = trans_b,
                                       .n = n,
                                       .k = k,
                                       .c = c,
                                       .cut = experts_rows_cut(d, n, k),
                                       .space = space,
                                       .spaces = spaces,
                                       .run = run});
}

/* dw of every expert (m,n) = its rows of a, transposed, times those of b, + beta dw. */
static void experts_weights_product(const ExpertsDims *d, const ExpertsRouting *r, const void *a,
                                    const void *b, float beta, const StoredArray *dw, float *spaces,
                                    int64_t space, const KernelRun *run)
{
    experts_multiply(&(ExpertsProduct){.d = d,
                                       .routing = *r,
                                       .weights = 1,
                                       .a = a,
                                       .b = b,
                                       .w = *dw,
                                       .m = dw->rows,
                                       .n = dw->cols,
                                       .beta = beta,
                                       .cut = experts_weights_cut(d, dw->rows, dw->cols, dw->dtype),
                                       .space = space,
                                       .spaces = spaces,
                                       .run = run});
}

static void experts_forward(const ExpertsDims *d, const void *x, const StoredArray *gate_up,
                            const StoredArray *down, const void *routing, void *kept, void *y,
                            void *workspace, const KernelRun *run)
{
    ExpertsRouting r = experts_routing(d, routing);
    ExpertsRoom room = experts_room(d, workspace);
    int64_t space = experts_forward_space(d);
    experts_gather(d, &r, x, room.wide, run);
    experts_rows_product(d, &r, room.wide, gate_up, 1, kept, room.space, space, run);
    experts_gate(d, kept, room.narrow, run);
    experts_rows_product(d, &r, room.narrow, down, 1, room.wide, room.space, space, run);
    experts_combine(d, &r, r.weight, room.wide, 0, y, run);
}

static void experts_backward(const ExpertsDims *d, const void *x, const StoredArray *gate_up,
                             const StoredArray *down, const void *routing, void *kept, const void *dy,
                             const ExpertsGradients *g, void *workspace, const KernelRun *run)
{
    ExpertsRouting r = experts_routing(d, routing);
    ExpertsRoom room = experts_room(d, workspace);
    int wanted = (g->dx != NULL) | (g->dgate_up != NULL) << 1 | (g->ddown != NULL) << 2;
    int64_t space = experts_backward_space(d, wanted, g->gate_up_type, g->down_type);
    experts_gather(d, &r, dy, room.wide, run);
    if (down->at)
        experts_rows_product(d, &r, room.wide, down, 0, room.narrow, room.space, space, run);
    else
        memset(room.narrow, 0, dtype_bytes(d->type, experts_pairs(d), d->hidden)); /* nobody asks for it */
    experts_gate_backward(d, &r, kept, room.narrow, g->dweight, run);
    if (g->ddown)
        experts_weights_product(d, &r, room.wide, room.narrow, g->beta_down,
                                &(StoredArray){g->ddown, g->down_type, d->width, d->hidden}, room.space,
                                space, run);
    if (g->dgate_up) {
        experts_gather(d, &r, x, room.wide, run);
        experts_weights_product(d, &r, kept, room.wide, g->beta_gate_up,
                                &(StoredArray){g->dgate_up, g->gate_up_type, 2 * d->hidden, d->width},
                                room.space, space, run);
    }
    if (g->dx) {
        experts_rows_product(d, &r, kept, gate_up, 0, room.wide, room.space, space, run);
        experts_combine(d, &r, NULL, room.wide, g->beta_x, g->dx, run);
    }
}

static size_t experts_workspace(const ExpertsDims *d, int backward, int wanted, DType dgate_up, DType ddown,
                                const KernelRun *run)
{
    return experts_cpu_workspace(d, backward, wanted, dgate_up, ddown, run);
}

/* ---- The loss that balances them ------------------------------------------------------------- */

/* 1 / tokens that have counted, of all layers; 0: none have. */
static double experts_share_of_token(int experts, int active, const float *stats)
{
    double pairs = 0;
    for (int e = 0; e < experts; e++)
        pairs += (double)stats[e];
    return pairs > 0 ? (double)active / pairs : 0;
}

static void experts_balance_forward(int experts, int active, float factor, const float *stats,
                                    const float *loss, float *y, const KernelRun *run)
{
    double share = experts_share_of_token(experts, active, stats), sum = 0;
    (void)run;
    for (int e = 0; e < experts; e++)
        sum += (double)stats[e] * share * ((double)stats[experts + e] * share);
    y[0] = loss[0] + (float)((double)factor * experts * sum);
}

static void experts_balance_backward(int experts, int active, float factor, const float *dy, float *stats,
                                     const KernelRun *run)
{
    double share = experts_share_of_token(experts, active, stats);
    (void)run;
    for (int e = 0; e < experts; e++)
        stats[2 * experts + e] =
            (float)((double)factor * experts * (double)stats[e] * share * share * (double)dy[0]);
}

#ifdef KERNEL_DOTS
static void dots_experts_forward(const ExpertsDims *d, const void *x, const StoredArray *gate_up,
                                 const StoredArray *down, const void *routing, void *kept, void *y,
                                 void *workspace, const KernelRun *run)
{
    KernelRun with = dots_run(run);
    experts_forward(d, x, gate_up, down, routing, kept, y, workspace, &with);
}

static void dots_experts_backward(const ExpertsDims *d, const void *x, const StoredArray *gate_up,
                                  const StoredArray *down, const void *routing, void *kept, const void *dy,
                                  const ExpertsGradients *g, void *workspace, const KernelRun *run)
{
    KernelRun with = dots_run(run);
    experts_backward(d, x, gate_up, down, routing, kept, dy, g, workspace, &with);
}
#endif
