/* The replay: a step's products and its AdamW pass, and nothing else. One real step runs through a table of
 * kernels that notes sizes and addresses; the replay then does the same products, through the same of the two
 * (kernels->gemm, or brim's own where a linear layer takes that), at the same places of a copy of the
 * reservation, so that it finds the caches as the step does. Attention is plain products head by head
 * (threads take heads), whole T x T ones, with what is causal computed and thrown away. */
#ifndef BRIM_BENCH_REPLAY_H
#define BRIM_BENCH_REPLAY_H

#include <omp.h>

#include "../kernels/grid.h"
#include "../kernels/kernels.h"
#include "../base/clock_.h"
#include "session.h"

typedef enum ItemKind { ITEM_GEMM, ITEM_ATTENTION, ITEM_ATTENTION_BACKWARD, ITEM_UPDATE } ItemKind;

typedef struct Item {
    ItemKind kind;
    int trans_a, trans_b;
    int64_t m, n, k, lda, ldb, ldc;
    float beta;
    AttentionDims attention;
    UpdateScalars scalars;
    UpdateControl control;
    UpdateArrays arrays;
    float *at[8]; /* a b c | q k v out dout dq dk dv */
    double flops; /* that any implementation needs: half of a causal product */
    double best;  /* seconds */
} Item;

enum { REPLAY_ITEMS = 4096 };

typedef struct Replay {
    const Kernels *kernels;
    int threads;
    Item items[REPLAY_ITEMS];
    int count;
    unsigned char *source, *copy; /* the reservation and its copy */
    size_t bytes;
    MemTracker *tracker; /* that the copy is from */
    float *scores;       /* (threads, 2, T, T) */
    size_t scores_row;
    void *packed; /* workspace of brim's own products */
    size_t packed_bytes;
} Replay;

static Replay *recording; /* while a step is being noted */

static Item *replay_note(ItemKind kind)
{
    Item *item =
        &recording->items[recording->count < REPLAY_ITEMS - 1 ? recording->count++ : REPLAY_ITEMS - 1];
    *item = (Item){.kind = kind, .best = 1e30};
    return item;
}

static float *replay_moved(const void *pointer)
{
    return pointer ? (float *)(recording->copy + ((const unsigned char *)pointer - recording->source)) : NULL;
}

static int replay_is_own(const Item *i)
{
    return linear_is_faster((LinearProduct){i->m, i->n, i->k});
}

static void replay_note_gemm(Item shape, const void *a, const void *b, const void *c)
{
    Item *item = replay_note(ITEM_GEMM);
    size_t bytes = stored_workspace(shape.m, shape.n, shape.k, DTYPE_F32, recording->threads);
    if (replay_is_own(&shape) && bytes > recording->packed_bytes)
        recording->packed_bytes = bytes;
    shape.kind = ITEM_GEMM;
    shape.best = 1e30;
    *item = shape;
    item->at[0] = replay_moved(a);
    item->at[1] = replay_moved(b);
    item->at[2] = replay_moved(c);
    item->flops = 2.0 * (double)item->m * (double)item->n * (double)item->k;
}

static void note_linear_forward(const LinearDims *d, Activation act, const void *x, const StoredArray *w,
                                const float *bias, void *pre, void *y, void *workspace, const KernelRun *run)
{
    replay_note_gemm((Item){.trans_b = !d->in_out,
                            .m = d->rows,
                            .n = d->out,
                            .k = d->in,
                            .lda = d->in,
                            .ldb = d->in_out ? d->out : d->in,
                            .ldc = d->out},
                     x, w->at, pre ? pre : y);
    recording->kernels->linear_forward(d, act, x, w, bias, pre, y, workspace, run);
}

static void note_linear_backward_input(const LinearDims *d, const void *dy, const StoredArray *w, float beta,
                                       void *dx, void *workspace, const KernelRun *run)
{
    replay_note_gemm((Item){.trans_b = d->in_out,
                            .m = d->rows,
                            .n = d->in,
                            .k = d->out,
                            .lda = d->out,
                            .ldb = d->in_out ? d->out : d->in,
                            .ldc = d->in,
                            .beta = beta},
                     dy, w->at, dx);
    recording->kernels->linear_backward_input(d, dy, w, beta, dx, workspace, run);
}

static void note_linear_backward_weight(const LinearDims *d, const void *x, const void *dy, DType dw_type,
                                        float beta_w, void *dw, DType dbias_type, float beta_b, void *dbias,
                                        void *workspace, const KernelRun *run)
{
    if (dw && d->in_out)
        replay_note_gemm((Item){.trans_a = 1,
                                .m = d->in,
                                .n = d->out,
                                .k = d->rows,
                                .lda = d->in,
                                .ldb = d->out,
                                .ldc = d->out,
                                .beta = beta_w},
                         x, dy, dw);
    else if (dw)
        replay_note_gemm((Item){.trans_a = 1,
                                .m = d->out,
                                .n = d->in,
                                .k = d->rows,
                                .lda = d->out,
                                .ldb = d->in,
                                .ldc = d->in,
                                .beta = beta_w},
                         dy, x, dw);
    recording->kernels->linear_backward_weight(d, x, dy, dw_type, beta_w, dw, dbias_type, beta_b, dbias,
                                               workspace, run);
}

static void replay_note_attention(const AttentionDims *d, ItemKind kind, int products,
                                  const void *const at[8])
{
    Item *item = replay_note(kind);
    item->attention = *d;
    for (int i = 0; i < 8; i++)
        item->at[i] = replay_moved(at[i]);
    double pairs = (double)d->seq * (d->causal ? 0.5 * (d->seq + 1) : d->seq);
    item->flops = 2.0 * products * (double)d->batch * d->heads * pairs * d->head_dim;
    size_t floats = (size_t)d->seq * (size_t)d->seq;
    if (floats > recording->scores_row)
        recording->scores_row = floats;
}

static void note_attention_forward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                   void *out, float *lse, float *workspace, const KernelRun *run)
{
    replay_note_attention(d, ITEM_ATTENTION, 2, (const void *[8]){q, k, v, out});
    recording->kernels->attention_flash_forward(d, q, k, v, out, lse, workspace, run);
}

static void note_attention_backward(const AttentionDims *d, const void *q, const void *k, const void *v,
                                    const void *out, const float *lse, const void *dout, void *dq, void *dk,
                                    void *dv, float *workspace, const KernelRun *run)
{
    replay_note_attention(d, ITEM_ATTENTION_BACKWARD, 4, (const void *[8]){q, k, v, out, dout, dq, dk, dv});
    recording->kernels->attention_flash_backward(d, q, k, v, out, lse, dout, dq, dk, dv, workspace, run);
}

static void note_adam(const UpdateArrays *a, const UpdateScalars *s, const UpdateControl *control,
                      const KernelRun *run)
{
    Item *item = replay_note(ITEM_UPDATE);
    item->scalars = *s;
    item->control = *control;
    item->scalars.lr = 0; /* the copy's parameters stay what they are */
    item->n = a->n;
    item->arrays = *a;
    item->arrays.p = replay_moved(a->p);
    item->arrays.master = replay_moved(a->master);
    item->arrays.g = replay_moved(a->g);
    for (int i = 0; i < UPDATE_STATES; i++)
        item->arrays.state[i] = replay_moved(a->state[i]);
    item->arrays.rounding = NULL;
    recording->kernels->adam(a, s, control, run);
}

/* Runs one step, noting. The reservation is found from the first parameter, which lies at its offset from
 * below. */
static int replay_record(Replay *r, Session *s, uint64_t bytes)
{
    Context *context = context_here();
    const Storage *first = nn_parameters(s->model).items[0]->storage;
    r->kernels = context->kernels;
    r->threads = context->run.threads;
    r->bytes = bytes;
    r->source = (unsigned char *)first->block.data - first->block.offset;
    MemTracker *tracker = r->tracker = memtrack_create();
    MemLedger *ledger = tracker
                            ? memtrack_ledger_create(tracker, &(MemLedgerOptions){.name = "replay",
                                                                                  .mode = MEMTRACK_RESERVED,
                                                                                  .capacity = bytes})
                            : NULL;
    MemBlock block;
    if (!ledger || memtrack_alloc(ledger, bytes, MEM_PARAMETER, &block) != 0)
        return -1;
    r->copy = block.data;
    Kernels noting = *r->kernels;
    noting.linear_forward = note_linear_forward;
    noting.linear_backward_input = note_linear_backward_input;
    noting.linear_backward_weight = note_linear_backward_weight;
    noting.attention_flash_forward = note_attention_forward;
    noting.attention_flash_backward = note_attention_backward;
    noting.adam = note_adam;
    recording = r;
    context->kernels = &noting;
    session_step(s);
    context->kernels = r->kernels;
    size_t floats = r->scores_row * 2 * (size_t)r->threads;
    r->scores = memtrack_host_calloc(tracker, floats * sizeof(float));
    r->packed = memtrack_host_calloc(tracker, r->packed_bytes + 64);
    return r->scores && r->packed && !error_code() ? 0 : -1;
}

static void replay_close(Replay *r)
{
    memtrack_host_free(r->tracker, r->scores, r->scores_row * 2 * (size_t)r->threads * sizeof(float));
    memtrack_host_free(r->tracker, r->packed, r->packed_bytes + 64);
    memtrack_destroy(r->tracker);
    *r = (Replay){0};
}

static void replay_head(const Replay *r, const Item *item, int b, int h, float *p)
{
    const AttentionDims *d = &item->attention;
    int64_t t = d->seq, size = d->head_dim, row = b * t, head = h * size, query = h * attention_head_step(d),
            kv = h / (d->heads / d->kv_heads) * attention_head_step(d);
    float *ds = p + r->scores_row;
    float *q = item->at[0] + row * d->ldq + query, *k = item->at[1] + row * d->ldk + kv;
    float *v = item->at[2] + row * d->ldv + kv, *out = item->at[3] + row * d->ldo + head;
    if (item->kind == ITEM_ATTENTION) {
        r->kernels->gemm(0, 1, t, t, size, d->scale, q, d->ldq, k, d->ldk, 0, p, t,
                         &(KernelRun){.threads = 1});
        r->kernels->gemm(0, 0, t, size, t, 1, p, t, v, d->ldv, 0, out, d->ldo, &(KernelRun){.threads = 1});
        return;
    }
    const float *dout = item->at[4] + row * d->ldo + head;
    float *dq = item->at[5] + row * d->lddq + query, *dk = item->at[6] + row * d->lddk + kv;
    float *dv = item->at[7] + row * d->lddv + kv;
    r->kernels->gemm(1, 0, t, size, t, 1, p, t, dout, d->ldo, 0, dv, d->lddv, &(KernelRun){.threads = 1});
    r->kernels->gemm(0, 1, t, t, size, 1, dout, d->ldo, v, d->ldv, 0, ds, t, &(KernelRun){.threads = 1});
    r->kernels->gemm(0, 0, t, size, t, 1, ds, t, k, d->ldk, 0, dq, d->lddq, &(KernelRun){.threads = 1});
    r->kernels->gemm(1, 0, t, size, t, 1, ds, t, q, d->ldq, 0, dk, d->lddk, &(KernelRun){.threads = 1});
}

static void replay_item(const Replay *r, const Item *i)
{
    if (i->kind == ITEM_GEMM && replay_is_own(i)) {
        StoredArray a = {i->at[0], DTYPE_F32, i->trans_a ? i->k : i->m, i->lda};
        StoredArray b = {i->at[1], DTYPE_F32, i->trans_b ? i->n : i->k, i->ldb};
        r->kernels->gemm_stored(i->trans_a, i->trans_b, i->m, i->n, i->k, 1, &a, &b, i->beta, DTYPE_F32,
                                i->at[2], i->ldc, (char *)r->packed + 64 - (uintptr_t)r->packed % 64,
                                &(KernelRun){.threads = r->threads});
    } else if (i->kind == ITEM_GEMM) {
        r->kernels->gemm(i->trans_a, i->trans_b, i->m, i->n, i->k, 1, i->at[0], i->lda, i->at[1], i->ldb,
                         i->beta, i->at[2], i->ldc, &(KernelRun){.threads = r->threads});
    } else if (i->kind == ITEM_UPDATE) {
        r->kernels->adam(&i->arrays, &i->scalars, &i->control, &(KernelRun){.threads = r->threads});
    } else {
        int units = i->attention.batch * i->attention.heads;
#pragma omp parallel for schedule(static) num_threads(r->threads)
        for (int u = 0; u < units; u++)
            replay_head(r, i, u / i->attention.heads, u % i->attention.heads,
                        r->scores + (size_t)omp_get_thread_num() * 2 * r->scores_row);
    }
}

/* Finite, current values for the products; not timed. */
static void replay_refresh(Replay *r)
{
    memcpy(r->copy, r->source, r->bytes);
}

static double replay_run(Replay *r)
{
    double begin = clock_now(), last = begin;
    for (int i = 0; i < r->count; i++) {
        replay_item(r, &r->items[i]);
        double t = clock_now();
        if (t - last < r->items[i].best)
            r->items[i].best = t - last;
        last = t;
    }
    return last - begin;
}

/* ---- The physical limit ---------------------------------------------------------------------- */

typedef struct Limit {
    double flops, rate;        /* of products; of the fastest one that matters, FLOP/s */
    double bytes, memory_rate; /* of AdamW: seven arrays; bytes/s */
    double seconds;
} Limit;

/* Reads and writes what AdamW does, with nothing to compute. */
static void limit_stream(const Replay *r)
{
    for (int i = 0; i < r->count; i++) {
        const Item *item = &r->items[i];
        const UpdateArrays *a = &item->arrays;
        if (item->kind != ITEM_UPDATE || a->g_type != DTYPE_F32 || a->state_type[0] != DTYPE_F32)
            continue; /* the limit is that of fp32 */
        float *restrict p = a->p, *restrict first = a->state[0], *restrict second = a->state[1];
        const float *restrict g = a->g;
#pragma omp parallel for simd schedule(static) num_threads(r->threads)
        for (int64_t j = 0; j < item->n; j++) {
            p[j] += 0.0f * g[j];
            first[j] += 0.0f * g[j];
            second[j] += 0.0f * g[j];
        }
    }
}

static Limit limit_of(const Replay *r)
{
    Limit limit = {0};
    for (int i = 0; i < r->count; i++) {
        limit.flops += r->items[i].kind == ITEM_UPDATE ? 0 : r->items[i].flops;
        limit.bytes += r->items[i].kind == ITEM_UPDATE ? 28.0 * (double)r->items[i].n : 0;
    }
    for (int i = 0; i < r->count; i++) {
        const Item *item = &r->items[i];
        if (item->kind == ITEM_GEMM && item->flops > 0.01 * limit.flops &&
            item->flops / item->best > limit.rate)
            limit.rate = item->flops / item->best;
    }
    double best = 0; /* AdamW itself, where it is faster: small arrays stay in the cache */
    for (int i = 0; i < r->count; i++)
        best += r->items[i].kind == ITEM_UPDATE ? r->items[i].best : 0;
    for (int i = 0; i < 5; i++) {
        double begin = clock_now();
        limit_stream(r);
        double seconds = clock_now() - begin;
        best = seconds < best ? seconds : best;
    }
    limit.memory_rate = limit.bytes / best;
    limit.seconds = limit.flops / limit.rate + best;
    return limit;
}

#endif
