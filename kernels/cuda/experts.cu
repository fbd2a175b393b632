/* A mixture of experts. How many rows an expert has is known to the card alone: grids are of the worst case,
 * and a block finds from the offsets which expert's rows are its own, or that there are none for it. Sums
 * over a token's experts are taken in their order; nothing is added by atomics. */
#include "activation.h"
#include "stored.h"

enum { EXPERTS_NONE = 0x7fffffff };

/* ---- Routing --------------------------------------------------------------------------------- */

DEVICE float experts_logit(const ExpertsRouteArguments *a, int64_t row, int e)
{
    return value_load(a->d.router, a->router, row * a->d.experts + e);
}

/* The largest logit behind the one of expert `last`, whose logit is `value`, in the order from large to
 * small, and of equal ones from first to last; last < 0: of all. EXPERTS_NONE: there is none (NaN). */
DEVICE int experts_next(const ExpertsRouteArguments *a, int64_t row, int last, float value, float *found)
{
    float best = -INFINITY;
    int at = EXPERTS_NONE;
    for (int e = (int)THREAD.x % 32; e < a->d.experts; e += 32) {
        float v = experts_logit(a, row, e);
        int behind = last < 0 || v < value || (v == value && e > last);
        if (behind && v == v && (at == EXPERTS_NONE || v > best)) {
            best = v;
            at = e;
        }
    }
    for (int lanes = 16; lanes > 0; lanes >>= 1) {
        float v = warp_xor(best, lanes);
        int e = (int)warp_xor_u32((unsigned)at, lanes);
        if (e != EXPERTS_NONE && (at == EXPERTS_NONE || v > best || (v == best && e < at))) {
            best = v;
            at = e;
        }
    }
    *found = best;
    return at;
}

/* A warp a token. */
GLOBAL(experts_route, 256, ExpertsRouteArguments)
{
    int64_t row = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32, first = row * a.d.active;
    int lane = (int)(THREAD.x % 32), last = -1;
    float value = 0, top = 0, sum = 0, some = 0;
    if (row >= a.d.rows)
        return;
    for (int j = 0; j < a.d.active; j++) {
        float found;
        int e = experts_next(&a, row, last, value, &found);
        if (e == EXPERTS_NONE) { /* what is left is NaN; so is the weight */
            e = j;
            found = NAN;
        }
        top = j ? top : found;
        if (lane == 0) {
            a.r.expert[first + j] = e;
            a.r.weight[first + j] = expf(found - top);
        }
        some += expf(found - top);
        last = e;
        value = found;
    }
    for (int e = lane; e < a.d.experts; e += 32)
        sum += expf(experts_logit(&a, row, e) - top);
    sum = warp_sum(sum);
    warp_sync();
    for (int j = lane; j < a.d.active; j += 32)
        a.r.weight[first + j] /= a.d.normalise ? some : sum;
    if (lane == 0 && a.row) {
        a.row[2 * row] = top;
        a.row[2 * row + 1] = sum;
    }
}

/* A block an expert. A thread has pairs side by side: it counts those of the expert, and of those before it,
 * learns how many lie before its own, and puts them down. */
GLOBAL(experts_sort, 256, ExpertsRouteArguments)
{
    SHARED int32_t equal[256], less[256];
    int64_t pairs = a.d.rows * a.d.active, each = (pairs + 255) / 256, begin = each * THREAD.x,
            end = begin + each;
    int32_t expert = (int32_t)BLOCK.x, same = 0, before = 0;
    end = end < pairs ? end : pairs;
    for (int64_t i = begin; i < end; i++) {
        same += a.r.expert[i] == expert;
        before += a.r.expert[i] < expert;
    }
    equal[THREAD.x] = same;
    less[THREAD.x] = before;
    for (unsigned reach = 1; reach < 256; reach *= 2) {
        block_sync();
        int32_t more = THREAD.x >= reach ? equal[THREAD.x - reach] : 0;
        int32_t lower = THREAD.x >= reach ? less[THREAD.x - reach] : 0;
        block_sync();
        equal[THREAD.x] += more;
        less[THREAD.x] += lower;
    }
    block_sync();
    int32_t at = less[255] + equal[THREAD.x] - same;
    for (int64_t i = begin; i < end; i++)
        if (a.r.expert[i] == expert) {
            a.r.pair[at] = (int32_t)i;
            a.r.place[i] = at++;
        }
    if (THREAD.x == 0)
        a.r.offset[expert] = less[255];
    if (THREAD.x == 0 && expert == a.d.experts - 1)
        a.r.offset[a.d.experts] = (int32_t)pairs;
}

/* A block an expert: how many tokens went to it, and its probabilities' sum, onto those of other layers. */
GLOBAL(experts_count, 256, ExpertsRouteArguments)
{
    SHARED double shared[32];
    int e = (int)BLOCK.x;
    double sum = 0, count = 0;
    for (int64_t row = THREAD.x; row < a.d.rows; row += 256) {
        if (a.mask && !a.mask[row])
            continue;
        sum += (double)(expf(experts_logit(&a, row, e) - a.row[2 * row]) / a.row[2 * row + 1]);
        for (int64_t i = row * a.d.active; i < (row + 1) * a.d.active; i++)
            count += a.r.expert[i] == e;
    }
    sum = block_sum_f64(sum, shared);
    count = block_sum_f64(count, shared);
    if (THREAD.x == 0) {
        a.stats[e] += (float)count;
        a.stats[a.d.experts + e] += (float)sum;
    }
}

/* What the weights say of an expert's logit: the gradient of its probability, or, where weights are
 * normalised, of itself. */
DEVICE float experts_slope(const ExpertsRouteArguments *a, int64_t first, int e, float mean)
{
    for (int64_t j = first; j < first + a->d.active; j++)
        if (a->r.expert[j] == e)
            return a->d.normalise ? a->r.weight[j] * (a->dweight[j] - mean) : a->dweight[j];
    return 0;
}

/* A warp a token. Of the softmax everything is taken apart from what is normalised. */
GLOBAL(experts_route_backward, 256, ExpertsRouteArguments)
{
    int64_t row = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32, first = row * a.d.active;
    int lane = (int)(THREAD.x % 32);
    if (row >= a.d.rows)
        return;
    int counts = a.stats && (!a.mask || a.mask[row]), soft = counts || !a.d.normalise;
    const float *g = a.stats + 2 * a.d.experts;
    float mean = 0, top = -INFINITY, sum = 0, dot = 0;
    for (int64_t j = first; a.d.normalise && j < first + a.d.active; j++)
        mean += a.r.weight[j] * a.dweight[j];
    for (int e = lane; soft && e < a.d.experts; e += 32)
        top = fmaxf(top, experts_logit(&a, row, e));
    top = warp_max(top);
    for (int e = lane; soft && e < a.d.experts; e += 32) {
        float p = expf(experts_logit(&a, row, e) - top);
        sum += p;
        dot += p * ((counts ? g[e] : 0.0f) + (a.d.normalise ? 0.0f : experts_slope(&a, first, e, mean)));
    }
    sum = warp_sum(sum);
    dot = warp_sum(dot) / sum;
    for (int e = lane; e < a.d.experts; e += 32) {
        float slope = experts_slope(&a, first, e, mean), to = a.d.normalise ? slope : 0.0f;
        if (soft)
            to += expf(experts_logit(&a, row, e) - top) / sum *
                  ((counts ? g[e] : 0.0f) + (a.d.normalise ? 0.0f : slope) - dot);
        if (a.beta != 0.0f)
            to += a.beta * value_load(a.d.router, a.drouter, row * a.d.experts + e);
        value_store(a.d.router, a.drouter, row * a.d.experts + e, to); /* only this lane reads that logit */
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

typedef struct __attribute__((aligned(2), may_alias)) ExpertsHalf {
    uint16_t bits;
} ExpertsHalf;

/* The tokens' rows by expert, unchanged; a warp a pair. */
GLOBAL(experts_gather, 256, ExpertsRowsArguments)
{
    int64_t i = (int64_t)BLOCK.x * (BLOCK_SIZE.x / 32) + THREAD.x / 32;
    if (i >= a.d.rows * a.d.active)
        return;
    int64_t c = a.bytes / (a.aligned ? 16 : 2), x = a.r.pair[i] / a.d.active * c, y = i * c;
    for (int64_t at = THREAD.x % 32; at < c; at += 32)
        if (a.aligned)
            ((PackWords4 *)a.y)[y + at] = ((const PackWords4 *)a.x)[x + at];
        else
            ((ExpertsHalf *)a.y)[y + at] = ((const ExpertsHalf *)a.x)[x + at];
}

/* ---- Products -------------------------------------------------------------------------------- */

/* Rows [row, end) of an expert, a tile of all. */
typedef struct ExpertsRows {
    int expert;
    int64_t row, end;
} ExpertsRows;

/* Of the tile with this number, counted over all experts; expert < 0: there is none. */
DEVICE ExpertsRows experts_tile(const ExpertsProductArguments *a, int64_t tile)
{
    for (int e = 0; e < a->experts; e++) {
        int64_t begin = a->offset[e], end = a->offset[e + 1];
        int64_t tiles = (end - begin + EXPERTS_TILE - 1) / EXPERTS_TILE;
        if (tile < tiles) {
            ExpertsRows rows = {e, begin + tile * EXPERTS_TILE, end};
            return rows;
        }
        tile -= tiles;
    }
    ExpertsRows none = {-1, 0, 0};
    return none;
}

enum { EXPERTS_EACH = EXPERTS_TILE / 16 }; /* rows, and columns, of a tile that each of 256 threads has */

/* sum += what the tiles in hand say. */
DEVICE void experts_multiply(float left[EXPERTS_DEPTH][EXPERTS_TILE],
                             float right[EXPERTS_DEPTH][EXPERTS_TILE], float sum[EXPERTS_EACH][EXPERTS_EACH])
{
    int row = (int)THREAD.x / 16, col = (int)THREAD.x % 16;
    for (int k = 0; k < EXPERTS_DEPTH; k++) {
        float x[EXPERTS_EACH], y[EXPERTS_EACH];
        for (int i = 0; i < EXPERTS_EACH; i++) {
            x[i] = left[k][row + 16 * i];
            y[i] = right[k][col + 16 * i];
        }
        for (int i = 0; i < EXPERTS_EACH; i++)
            for (int j = 0; j < EXPERTS_EACH; j++)
                sum[i][j] = fused(x[i], y[j], sum[i][j]);
    }
}

#define KERNELS "experts_.cu"
#include "typed.h"

/* ---- The loss that balances them ------------------------------------------------------------- */

/* 1 / tokens that have counted; 0: none have. */
DEVICE double experts_token(const ExpertsBalanceArguments *a)
{
    double pairs = 0;
    for (int e = (int)THREAD.x; e < a->experts; e += 32)
        pairs += (double)a->stats[e];
    pairs = warp_sum_f64(pairs);
    return pairs > 0 ? (double)a->active / pairs : 0.0;
}

/* One warp. */
GLOBAL(experts_balance_forward, 32, ExpertsBalanceArguments)
{
    double token = experts_token(&a), sum = 0;
    for (int e = (int)THREAD.x; e < a.experts; e += 32)
        sum += (double)a.stats[e] * token * ((double)a.stats[a.experts + e] * token);
    sum = warp_sum_f64(sum);
    if (THREAD.x == 0)
        a.y[0] = a.x[0] + (float)((double)a.factor * a.experts * sum);
}

GLOBAL(experts_balance_backward, 32, ExpertsBalanceArguments)
{
    double token = experts_token(&a), scale = (double)a.factor * a.experts * token * token * (double)a.x[0];
    for (int e = (int)THREAD.x; e < a.experts; e += 32)
        a.stats[2 * a.experts + e] = (float)(scale * (double)a.stats[e]);
}
