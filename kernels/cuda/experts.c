/* A mixture of experts on a card: experts.cu. */
#include "../experts.h"
#include "launch_.h"

enum { WARPS = CUDA_THREADS / 32 };

static int64_t tiles(int64_t n)
{
    return (n + EXPERTS_TILE - 1) / EXPERTS_TILE;
}

/* Rows side by side, as a CPU has them. */
typedef struct Room {
    char *wide, *narrow;
} Room;

static size_t wide_bytes(const ExpertsDims *d)
{
    return experts_line(dtype_bytes(d->type, experts_pairs(d), d->width));
}

static Room room_of(const ExpertsDims *d, void *workspace)
{
    return (Room){workspace, (char *)workspace + wide_bytes(d)};
}

size_t cuda_experts_workspace(const ExpertsDims *d, int backward, int wanted, DType dgate_up, DType ddown,
                              const KernelRun *run)
{
    size_t rows = wide_bytes(d) + experts_line(dtype_bytes(d->type, experts_pairs(d), d->hidden));
    size_t softmax = (size_t)d->rows * 2 * sizeof(float);
    (void)backward, (void)wanted, (void)dgate_up, (void)ddown, (void)run;
    return rows > softmax ? rows : softmax;
}

/* ---- Routing --------------------------------------------------------------------------------- */

void cuda_experts_route(const ExpertsDims *d, const void *router, const ExpertsBalance *balance,
                        void *routing, void *workspace, const KernelRun *run)
{
    ExpertsRouteArguments a = {.d = *d,
                               .r = experts_routing(d, routing),
                               .router = router,
                               .row = balance ? workspace : NULL,
                               .stats = balance ? balance->stats : NULL,
                               .mask = balance ? balance->mask : NULL};
    LAUNCH(run, CUDA_experts_route, (d->rows + WARPS - 1) / WARPS, 1, 1, CUDA_THREADS, a);
    LAUNCH(run, CUDA_experts_sort, d->experts, 1, 1, CUDA_THREADS, a);
    if (balance)
        LAUNCH(run, CUDA_experts_count, d->experts, 1, 1, CUDA_THREADS, a);
}

void cuda_experts_route_backward(const ExpertsDims *d, const void *router, const ExpertsBalance *balance,
                                 const void *routing, const float *dweight, float beta, void *drouter,
                                 const KernelRun *run)
{
    ExpertsRouteArguments a = {.d = *d,
                               .r = experts_routing(d, routing),
                               .router = router,
                               .stats = balance ? balance->stats : NULL,
                               .mask = balance ? balance->mask : NULL,
                               .dweight = dweight,
                               .drouter = drouter,
                               .beta = beta};
    LAUNCH(run, CUDA_experts_route_backward, (d->rows + WARPS - 1) / WARPS, 1, 1, CUDA_THREADS, a);
}

/* ---- Rows and products ----------------------------------------------------------------------- */

static void gather(const ExpertsDims *d, ExpertsRouting r, const void *x, void *to, const KernelRun *run)
{
    ExpertsRowsArguments a = {.d = *d, .r = r, .x = x, .y = to};
    a.bytes = (int64_t)dtype_bytes(d->type, 1, d->width);
    a.aligned = ((uintptr_t)x | (uintptr_t)to | (uintptr_t)a.bytes) % 16 == 0;
    LAUNCH(run, CUDA_experts_gather, (experts_pairs(d) + WARPS - 1) / WARPS, 1, 1, CUDA_THREADS, a);
}

/* y (rows,width) = the sum of a token's rows, weighted or not, + beta y. */
static void combine(const ExpertsDims *d, ExpertsRouting r, const float *weight, const void *rows, float beta,
                    void *y, const KernelRun *run)
{
    ExpertsRowsArguments a = {.d = *d, .r = r, .x = rows, .y = y, .weight = weight, .beta = beta};
    LAUNCH(run, CUDA_experts_combine + cuda_typed(d->type), cuda_blocks(d->rows * d->width), 1, 1,
           CUDA_THREADS, a);
}

/* c (pairs,n) = a (pairs,k) times the matrices, or, with trans_b, their transposes. */
static void rows_product(const ExpertsDims *d, ExpertsRouting r, const void *rows, const StoredArray *w,
                         int trans_b, void *c, const KernelRun *run)
{
    ExpertsProductArguments a = {.experts = d->experts,
                                 .trans_b = trans_b,
                                 .offset = r.offset,
                                 .a = rows,
                                 .w = *w,
                                 .stride = experts_stride(w->dtype, w->rows, w->cols),
                                 .n = trans_b ? w->rows : w->cols,
                                 .k = trans_b ? w->cols : w->rows,
                                 .c = c};
    if (dtype_is_quantized(w->dtype))
        a.layout = quant_layout(w->dtype, w->rows, w->cols);
    LAUNCH(run, CUDA_experts_rows + cuda_typed(d->type), tiles(experts_pairs(d)) + d->experts, tiles(a.n), 1,
           CUDA_THREADS, a);
}

/* dw of every expert (m,n) = its rows of a, transposed, times those of b, + beta dw. */
static void weights_product(const ExpertsDims *d, ExpertsRouting r, const void *left, const void *right,
                            int64_t m, int64_t n, DType type, float beta, void *dw, const KernelRun *run)
{
    ExpertsProductArguments a = {.experts = d->experts,
                                 .offset = r.offset,
                                 .a = left,
                                 .b = right,
                                 .stride = dtype_bytes(type, m, n),
                                 .m = m,
                                 .n = n,
                                 .c = dw,
                                 .c_type = type,
                                 .beta = beta};
    LAUNCH(run, CUDA_experts_weights + cuda_typed(d->type), tiles(n), tiles(m), d->experts, CUDA_THREADS, a);
}

void cuda_experts_forward(const ExpertsDims *d, const void *x, const StoredArray *gate_up,
                          const StoredArray *down, const void *routing, void *kept, void *y, void *workspace,
                          const KernelRun *run)
{
    ExpertsRouting r = experts_routing(d, routing);
    Room room = room_of(d, workspace);
    ExpertsRowsArguments gate = {.d = *d, .r = r, .x = kept, .y = room.narrow};
    gather(d, r, x, room.wide, run);
    rows_product(d, r, room.wide, gate_up, 1, kept, run);
    LAUNCH(run, CUDA_experts_gate + cuda_typed(d->type), cuda_blocks(experts_pairs(d) * d->hidden), 1, 1,
           CUDA_THREADS, gate);
    rows_product(d, r, room.narrow, down, 1, room.wide, run);
    combine(d, r, r.weight, room.wide, 0, y, run);
}

void cuda_experts_backward(const ExpertsDims *d, const void *x, const StoredArray *gate_up,
                           const StoredArray *down, const void *routing, void *kept, const void *dy,
                           const ExpertsGradients *g, void *workspace, const KernelRun *run)
{
    ExpertsRouting r = experts_routing(d, routing);
    Room room = room_of(d, workspace);
    ExpertsRowsArguments gate = {
        .d = *d, .r = r, .y = kept, .z = room.narrow, .weight = r.weight, .dweight = g->dweight};
    gather(d, r, dy, room.wide, run);
    if (down->at)
        rows_product(d, r, room.wide, down, 0, room.narrow, run);
    else /* nobody asks for it */
        cuda_fill(d->type, experts_pairs(d) * d->hidden, 0, room.narrow, run);
    LAUNCH(run, CUDA_experts_gate_backward + cuda_typed(d->type), (experts_pairs(d) + WARPS - 1) / WARPS, 1,
           1, CUDA_THREADS, gate);
    if (g->ddown)
        weights_product(d, r, room.wide, room.narrow, d->width, d->hidden, g->down_type, g->beta_down,
                        g->ddown, run);
    if (g->dgate_up) {
        gather(d, r, x, room.wide, run);
        weights_product(d, r, kept, room.wide, 2 * d->hidden, d->width, g->gate_up_type, g->beta_gate_up,
                        g->dgate_up, run);
    }
    if (g->dx) {
        rows_product(d, r, kept, gate_up, 0, room.wide, run);
        combine(d, r, NULL, room.wide, g->beta_x, g->dx, run);
    }
}

/* ---- The loss that balances them ------------------------------------------------------------- */

void cuda_experts_balance_forward(int experts, int active, float factor, const float *stats,
                                  const float *loss, float *y, const KernelRun *run)
{
    ExpertsBalanceArguments a = {experts, active, factor, (float *)(uintptr_t)stats, loss, y};
    LAUNCH(run, CUDA_experts_balance_forward, 1, 1, 1, 32, a);
}

void cuda_experts_balance_backward(int experts, int active, float factor, const float *dy, float *stats,
                                   const KernelRun *run)
{
    ExpertsBalanceArguments a = {experts, active, factor, stats, dy, NULL};
    LAUNCH(run, CUDA_experts_balance_backward, 1, 1, 1, 32, a);
}
