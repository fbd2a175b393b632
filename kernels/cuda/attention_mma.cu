/* Flash forward on tensor cores (Dao, FlashAttention-2: arXiv 2307.08691): 128 queries a block, whose warps
 * have 32 each of head dim 64, 16 of 128. Probabilities are rounded to the arrays' type before they meet the
 * values.
 */
#include "attention_mma.h"

SHARED uint16_t mma_shared[MMA_SHARED];

/* What a warp has: of each of its 16-row tiles the queries, the running maximum and sum of two rows, and the
 * result so far. */
enum { MMA_MOST = 2 };
typedef struct MmaQueries {
    unsigned q[MMA_MOST][MMA_K][4];
    float out[MMA_MOST][MMA_N][4], s[MMA_MOST][MMA_TILES][4], max[MMA_MOST][2], sum[MMA_MOST][2];
} MmaQueries;

/* Scores of two rows become exponentials relative to their new maximum, what is summed before shrinks. */
DEVICE void mma_softmax(const AttentionArguments *a, const int32_t *mask, int row, int key, int hides,
                        int size, float s[][4], float out[][4], float max[2], float sum[2])
{
    const int tiles = MMA_STREAM(size) / 8;
    float scale = a->d.scale * LOG2_E;
    int column = key + (int)(THREAD.x % 4) * 2;
    UNROLL
    for (int half = 0; half < 2; half++) {
        float now = max[half];
        UNROLL
        for (int n = 0; n < tiles; n++) {
            UNROLL
            for (int e = 0; e < 2; e++) {
                float *x = &s[n][half * 2 + e];
                if (hides && !mma_sees(a, mask, row + half * 8, column + n * 8 + e))
                    *x = -INFINITY;
                now = fmaxf(now, *x);
            }
        }
        now = fmaxf(now, warp_xor(now, 1));
        now = fmaxf(now, warp_xor(now, 2));
        float shift = now == -INFINITY ? 0.0f : -now * scale, add = 0;
        float factor = now == max[half] ? 1.0f : exp2_near((max[half] - now) * scale);
        UNROLL
        for (int n = 0; n < tiles; n++) {
            UNROLL
            for (int e = 0; e < 2; e++) {
                float *x = &s[n][half * 2 + e];
                *x = exp2_near(fused(*x, scale, shift));
                add += *x;
            }
        }
        sum[half] = sum[half] * factor + add;
        max[half] = now;
        UNROLL
        for (int n = 0; n < size / 8; n++) {
            out[n][half * 2] *= factor;
            out[n][half * 2 + 1] *= factor;
        }
    }
}

/* What a tile of keys and values adds to a warp's queries. Each matrix is loaded once for all of them. */
DEVICE void mma_tile(const AttentionArguments *a, DType type, int size, int own, const int32_t *mask,
                     MmaQueries *w, int first, int key, const uint16_t *k, const uint16_t *v)
{
    const int keys = MMA_STREAM(size);
    unsigned b[4], p[MMA_MOST][4];
    UNROLL
    for (int m = 0; m < own; m++)
        mma_zero(&w->s[m][0][0], keys / 8 * 4);
    UNROLL
    for (int i = 0; i < size / 16; i++) {
        UNROLL
        for (int n = 0; n < keys / 16; n++) {
            mma_second(b, k, n, i, size);
            UNROLL
            for (int m = 0; m < own; m++) {
                mma(type, w->s[m][2 * n], w->q[m][i], b);
                mma(type, w->s[m][2 * n + 1], w->q[m][i], b + 2);
            }
        }
    }
    int hides = mma_hides(a, mask, first, 16 * own, key, keys);
    UNROLL
    for (int m = 0; m < own; m++)
        mma_softmax(a, mask, first + m * 16 + (int)(THREAD.x % 32 / 4), key, hides, size, w->s[m], w->out[m],
                    w->max[m], w->sum[m]);
    UNROLL
    for (int i = 0; i < keys / 16; i++) {
        UNROLL
        for (int m = 0; m < own; m++)
            mma_repack(type, p[m], w->s[m] + 2 * i);
        UNROLL
        for (int n = 0; n < size / 16; n++) {
            mma_summed(b, v, i, n, size);
            UNROLL
            for (int m = 0; m < own; m++) {
                mma(type, w->out[m][2 * n], p[m], b);
                mma(type, w->out[m][2 * n + 1], p[m], b + 2);
            }
        }
    }
}

/* Divides by the sums. */
DEVICE void mma_finish(const AttentionArguments *a, DType type, int size, MmaQueries *w, int m, int b, int h,
                       int first)
{
    int row = first + (int)(THREAD.x % 32 / 4);
    float factor[2];
    UNROLL
    for (int half = 0; half < 2; half++) {
        float all = w->sum[m][half];
        all += warp_xor(all, 1);
        all += warp_xor(all, 2);
        factor[half] = all == 0 ? 0.0f : 1 / all;
        if (a->lse && THREAD.x % 4 == 0 && row + half * 8 < a->d.seq) /* log 0 = -infinity: no key is left */
            a->lse[((int64_t)b * a->d.heads + h) * a->d.seq + row + half * 8] =
                all == 0 ? -INFINITY : w->max[m][half] * a->d.scale + logf(all);
    }
    mma_store(type, a->out, &a->at_o, b, h, row, a->d.seq, size, w->out[m], factor);
}

/* own: tiles of 16 queries a warp. */
DEVICE void mma_forward(const AttentionArguments *a, DType type, int size, int own)
{
    if (!MMA_HAS(type))
        return;
    const int keys = MMA_STREAM(size), threads = MMA_QUERIES / 16 / own * 32, stage = 2 * keys * (size + 8);
    int tiles = (a->d.seq + MMA_QUERIES - 1) / MMA_QUERIES, h = (int)(BLOCK.x / (unsigned)tiles) % a->d.heads;
    int b = (int)(BLOCK.x / (unsigned)tiles) / a->d.heads, kv = h / (a->d.heads / a->d.kv_heads);
    int block =
        (tiles - 1 - (int)(BLOCK.x % (unsigned)tiles)) * MMA_QUERIES; /* where causal the longest first */
    int first = block + (int)(THREAD.x / 32) * 16 * own;
    MmaRows q = mma_rows(a->q, &a->at_q, b, h, a->d.seq), k = mma_rows(a->k, &a->at_k, b, kv, a->keys);
    MmaRows v = mma_rows(a->v, &a->at_v, b, kv, a->keys);
    const int32_t *mask = a->d.key_mask ? a->d.key_mask + (int64_t)b * a->d.seq : NULL;
    int begin = window_begin(&a->d, block), end = window_end(&a->d, block, MMA_QUERIES, a->keys);
    int own_begin = window_begin(&a->d, first);
    int own_end = first >= a->d.seq ? 0 : window_end(&a->d, first, 16 * own, a->keys);
    MmaQueries w;
    mma_copy(mma_shared, &q, block, MMA_QUERIES, size, threads);
    copy_commit();
    copy_wait(0);
    block_sync();
    UNROLL
    for (int m = 0; m < own; m++) {
        UNROLL
        for (int i = 0; i < size / 16; i++)
            mma_first(w.q[m][i], mma_shared + (first - block + m * 16) * (size + 8), i, size);
        mma_zero(&w.out[m][0][0], size / 8 * 4);
        w.max[m][0] = w.max[m][1] = -INFINITY;
        w.sum[m][0] = w.sum[m][1] = 0;
    }
    block_sync();
    mma_copy(mma_shared, &k, begin, keys, size, threads);
    mma_copy(mma_shared + stage / 2, &v, begin, keys, size, threads);
    copy_commit();
    for (int key = begin, now = 0; key < end; key += keys, now ^= 1) {
        uint16_t *next = mma_shared + (now ^ 1) * stage, *at = mma_shared + now * stage;
        if (key + keys < end) {
            mma_copy(next, &k, key + keys, keys, size, threads);
            mma_copy(next + stage / 2, &v, key + keys, keys, size, threads);
        }
        copy_commit();
        copy_wait(1);
        block_sync();
        if (key < own_end && key + keys > own_begin)
            mma_tile(a, type, size, own, mask, &w, first, key, at, at + stage / 2);
        block_sync();
    }
    copy_wait(0);
    UNROLL
    for (int m = 0; m < own; m++)
        mma_finish(a, type, size, &w, m, b, h, first + m * 16);
}

GLOBAL(attention_mma_64_bf16, 128, AttentionArguments)
{
    mma_forward(&a, DTYPE_BF16, 64, 2);
}

GLOBAL(attention_mma_64_f16, 128, AttentionArguments)
{
    mma_forward(&a, DTYPE_F16, 64, 2);
}

GLOBAL(attention_mma_128_bf16, 256, AttentionArguments)
{
    mma_forward(&a, DTYPE_BF16, 128, 1);
}

GLOBAL(attention_mma_128_f16, 256, AttentionArguments)
{
    mma_forward(&a, DTYPE_F16, 128, 1);
}
