/* Attention of one new token over a cache. Memory is the limit: a block goes once over the keys and values of
 * a part of a kv head's rows, with up to eight of the queries that share them; parts are joined afterwards.
 * More tokens than one go through flash's tiles (attention.cu). */
#include "attention.h"

enum { TOKEN_QUERIES = 8, TOKEN_GROUPS = ATTENTION_THREADS / TILE, TOKEN_RESULTS = TOKEN_QUERIES * COLUMNS };

SHARED float
    token_shared[TOKEN_GROUPS * TOKEN_RESULTS]; /* keys; then what the groups of threads have summed */
SHARED float token_queries[TOKEN_QUERIES][CHUNK], token_weights[TILE][TOKEN_QUERIES];
SHARED float token_factors[TOKEN_QUERIES], token_states[TOKEN_QUERIES][2];

GLOBAL(attention_append, 256, AttentionArguments)
{
    int64_t size = a.d.head_dim, heads = a.d.kv_heads, per_array = a.d.batch * heads * a.d.seq * size;
    EACH(i, 2 * per_array)
    {
        int64_t at = i % per_array, c = at % size, t = at / size % a.d.seq, unit = at / size / a.d.seq;
        const HeadStrides *s = i < per_array ? &a.at_k : &a.at_v;
        int64_t from = unit / heads * s->sample + unit % heads * s->head + t * s->row + c;
        int64_t to =
            ((i < per_array ? 0 : a.d.batch * heads) + unit) * a.d.capacity + (a.d.past + t) % a.d.capacity;
        float value = value_load(a.d.type, i < per_array ? a.k : a.v, from);
        if (t >= a.d.seq - a.d.capacity)
            value_store(a.d.cached, a.cache, to * size + c, value);
    }
}

/* out = rows of the cache, in the order of tokens, and behind them k and v. */
GLOBAL(attention_unroll, 256, AttentionArguments)
{
    int64_t size = a.d.head_dim, heads = a.d.kv_heads, units = a.d.batch * heads;
    int64_t old = a.d.past < a.d.window - 1 ? a.d.past : a.d.window - 1, rows = old + a.d.seq;
    EACH(i, 2 * units * rows * size)
    {
        int64_t c = i % size, t = i / size % rows, both = i / size / rows, unit = both % units;
        const HeadStrides *s = both < units ? &a.at_k : &a.at_v;
        int64_t from = unit / heads * s->sample + unit % heads * s->head + (t - old) * s->row + c;
        int64_t kept = both * a.d.capacity + (a.d.past - old + t) % a.d.capacity;
        int64_t to = both * (a.d.window - 1 + a.d.seq) + t;
        float value = t < old ? value_load(a.d.cached, a.cache, kept * size + c)
                              : value_load(a.d.type, both < units ? a.k : a.v, from);
        value_store(a.d.cached, a.out, to * size + c, value);
    }
}

/* Which part of which queries a block has: `count` heads from h on. */
typedef struct TokenPlace {
    int b, h, kv, count, split, column, first, end;
} TokenPlace;

DEVICE TokenPlace token_place(const AttentionArguments *a)
{
    TokenPlace p;
    int group = a->d.heads / a->d.kv_heads, blocks = (group + TOKEN_QUERIES - 1) / TOKEN_QUERIES;
    unsigned at = BLOCK.x;
    p.column = (int)(at % (unsigned)a->chunks) * COLUMNS;
    at /= (unsigned)a->chunks;
    p.split = (int)(at % (unsigned)a->splits);
    at /= (unsigned)a->splits;
    int query = (int)(at % (unsigned)blocks) * TOKEN_QUERIES;
    at /= (unsigned)blocks;
    p.kv = (int)(at % (unsigned)a->d.kv_heads);
    p.b = (int)(at / (unsigned)a->d.kv_heads);
    p.h = p.kv * group + query;
    p.count = group - query < TOKEN_QUERIES ? group - query : TOKEN_QUERIES;
    p.first = p.split * a->part;
    p.end = p.first + a->part < a->keys ? p.first + a->part : a->keys;
    return p;
}

/* token_weights = the scores of the keys [key, key + TILE). A thread has one key, and two of the queries. */
DEVICE void token_scores(const AttentionArguments *a, const TokenPlace *p, const HeadRows *k, int key)
{
    int own = (int)THREAD.x % TILE, query = (int)THREAD.x / TILE, size = a->d.head_dim;
    float first = 0, second = 0;
    for (int c = 0; c < size; c += CHUNK) {
        int n = size - c < CHUNK ? size - c : CHUNK, g = (int)THREAD.x / CHUNK, e = (int)THREAD.x % CHUNK;
        block_sync();
        load_transposed(token_shared, k, key, c, size, 1);
        int64_t at = p->b * a->at_q.sample + (p->h + g) * a->at_q.head + c + e;
        token_queries[g][e] = g < p->count && e < n ? value_load(a->d.type, a->q, at) * a->d.scale : 0.0f;
        block_sync();
        for (int i = 0; i < n && query < p->count; i++) {
            float x = token_shared[i * TILE_LD + own];
            first = fused(token_queries[query][i], x, first);
            second = fused(token_queries[query + TOKEN_GROUPS][i], x, second);
        }
    }
    int seen = key + own < p->end;
    if (a->d.softcap > 0) {
        first = a->d.softcap * tanhf(first / a->d.softcap);
        second = a->d.softcap * tanhf(second / a->d.softcap);
    }
    token_weights[own][query] = seen ? first : -INFINITY;
    token_weights[own][query + TOKEN_GROUPS] = seen ? second : -INFINITY;
}

/* Scores become exponentials relative to the new maximum. A warp has a query, whose state all lanes know. */
DEVICE void token_softmax(float *max, float *sum)
{
    int lane = (int)THREAD.x % 32, g = (int)THREAD.x / 32;
    float x = token_weights[lane][g], y = token_weights[lane + 32][g];
    float before = *max, now = fmaxf(before, warp_max(fmaxf(x, y)));
    float factor = now == before ? 1.0f : expf(before - now), shift = now == -INFINITY ? 0.0f : now;
    x = expf(x - shift);
    y = expf(y - shift);
    token_weights[lane][g] = x;
    token_weights[lane + 32][g] = y;
    *sum = *sum * factor + warp_sum(x + y);
    *max = now;
    if (lane == 0)
        token_factors[g] = factor;
}

/* sum (queries, 2 columns) += weights times values, of the group's sixteen keys of a tile. */
DEVICE void token_values(const AttentionArguments *a, const TokenPlace *p, const HeadRows *v, int key,
                         float sum[TOKEN_QUERIES][2])
{
    int c = p->column + (int)THREAD.x % TILE, first = (int)THREAD.x / TILE * (TILE / TOKEN_GROUPS);
    UNROLL
    for (int g = 0; g < TOKEN_QUERIES; g++) {
        sum[g][0] *= token_factors[g];
        sum[g][1] *= token_factors[g];
    }
    for (int i = first; i < first + TILE / TOKEN_GROUPS && key + i < p->end; i++) {
        int64_t at = v->first + (int64_t)(key + i) * v->ld + c;
        float x = c < a->d.head_dim ? value_load(v->type, v->at, at) : 0.0f;
        float y = c + TILE < a->d.head_dim ? value_load(v->type, v->at, at + TILE) : 0.0f;
        UNROLL
        for (int g = 0; g < TOKEN_QUERIES; g++) {
            if (g >= p->count)
                break;
            sum[g][0] = fused(token_weights[i][g], x, sum[g][0]);
            sum[g][1] = fused(token_weights[i][g], y, sum[g][1]);
        }
    }
}

/* What the groups have summed, to where it is joined, or to the result. */
DEVICE void token_store(const AttentionArguments *a, const TokenPlace *p, float sum[TOKEN_QUERIES][2])
{
    int c = (int)THREAD.x % TILE, group = (int)THREAD.x / TILE, size = a->d.head_dim;
    UNROLL
    for (int g = 0; g < TOKEN_QUERIES; g++) {
        token_shared[group * TOKEN_RESULTS + g * COLUMNS + c] = sum[g][0];
        token_shared[group * TOKEN_RESULTS + g * COLUMNS + TILE + c] = sum[g][1];
    }
    block_sync();
    for (int i = (int)THREAD.x; i < p->count * COLUMNS; i += ATTENTION_THREADS) {
        int g = i / COLUMNS, column = p->column + i % COLUMNS;
        float all = 0;
        for (int n = 0; n < TOKEN_GROUPS; n++)
            all += token_shared[n * TOKEN_RESULTS + i];
        int64_t at = p->b * a->at_o.sample + (p->h + g) * a->at_o.head + column;
        int64_t row = ((int64_t)p->b * a->d.heads + p->h + g) * a->splits + p->split;
        float *part = a->parts + row * (size + 2);
        if (column < size && a->splits == 1)
            value_store(a->d.type, a->out, at, all / token_states[g][1]);
        else if (column < size)
            part[column] = all;
        if (a->splits > 1 && column < 2)
            part[size + column] = token_states[g][column];
    }
}

GLOBAL(attention_token, ATTENTION_THREADS, AttentionArguments)
{
    TokenPlace p = token_place(&a);
    HeadRows k = head_rows(a.k, a.d.cached, a.pieces, &a.at_k, p.b, p.kv, a.keys);
    HeadRows v = head_rows(a.v, a.d.cached, a.pieces, &a.at_v, p.b, p.kv, a.keys);
    float sum[TOKEN_QUERIES][2], max = -INFINITY, all = 0;
    UNROLL
    for (int g = 0; g < TOKEN_QUERIES; g++)
        sum[g][0] = sum[g][1] = 0;
    for (int key = p.first; key < p.end; key += TILE) {
        token_scores(&a, &p, &k, key);
        block_sync();
        token_softmax(&max, &all);
        block_sync();
        token_values(&a, &p, &v, key, sum);
    }
    if (THREAD.x % 32 == 0) {
        token_states[THREAD.x / 32][0] = max;
        token_states[THREAD.x / 32][1] = all;
    }
    block_sync();
    token_store(&a, &p, sum);
}

/* Joins a query's parts, in order. A block a query. */
GLOBAL(attention_join, ATTENTION_THREADS, AttentionArguments)
{
    int size = a.d.head_dim, h = (int)(BLOCK.x % (unsigned)a.d.heads),
        b = (int)(BLOCK.x / (unsigned)a.d.heads);
    const float *parts = a.parts + (int64_t)BLOCK.x * a.splits * (size + 2);
    float max = -INFINITY;
    for (int s = 0; s < a.splits; s++)
        max = fmaxf(max, parts[s * (size + 2) + size]);
    for (int c = (int)THREAD.x; c < size; c += ATTENTION_THREADS) {
        float value = 0, sum = 0;
        for (int s = 0; s < a.splits; s++) {
            const float *part = parts + s * (size + 2);
            float factor = part[size] == max ? 1.0f : expf(part[size] - max);
            value += factor * part[c];
            sum += factor * part[size + 1];
        }
        value_store(a.d.type, a.out, b * a.at_o.sample + h * a.at_o.head + c, value / sum);
    }
}
