/* Attention, with and without a cache: every table that runs here against the reference, over awkward shapes.
 */
#include "base/half_.h"
#include "products_support.h"

/* Inputs, outputs and gradients of one attention call. With `packed`, q, k and v are columns of one (B,T,3C)
 * array; BY_HEAD: of each head. */
enum { BY_HEAD = 2 };
typedef struct Attention {
    AttentionDims d;
    int packed;
    int64_t nq, nkv, nout, nlse, nprobs; /* floats of each array */
    float *q, *k, *v, *dout;
    float *out, *lse, *probs, *dq, *dk, *dv;
    int32_t *mask;
} Attention;

static Attention attention_inputs(AttentionDims d, int packed, int masked)
{
    int64_t rows = (int64_t)d.batch * d.seq, c = (int64_t)d.heads * d.head_dim,
            ckv = (int64_t)d.kv_heads * d.head_dim;
    Attention a = {.packed = packed};
    d.ldq = packed ? c + 2 * ckv : c + 1;
    d.ldk = d.ldv = packed ? d.ldq : ckv + 2;
    d.lddq = d.ldq, d.lddk = d.ldk, d.lddv = d.ldv;
    d.ldo = c;
    a.nq = rows * d.ldq, a.nkv = rows * d.ldk, a.nout = rows * d.ldo;
    a.nlse = (int64_t)d.batch * d.heads * d.seq, a.nprobs = a.nlse * d.seq;
    d.head_step = packed == BY_HEAD ? 3 * d.head_dim : 0;
    a.q = random_buffer(a.nq);
    a.k = packed ? a.q + (packed == BY_HEAD ? d.head_dim : c) : random_buffer(a.nkv);
    a.v = packed ? a.k + (packed == BY_HEAD ? d.head_dim : ckv) : random_buffer(a.nkv);
    for (int64_t i = 0; i < a.nq; i++)
        a.q[i] *= 3; /* scores that differ */
    a.dout = random_buffer(a.nout);
    if (masked) {
        a.mask = malloc((size_t)rows * sizeof *a.mask);
        assert_non_null(a.mask);
        for (int64_t i = 0; i < rows; i++) /* of several samples, the last has no key */
            a.mask[i] = (d.batch == 1 || i < rows - d.seq) && i % d.seq != 0 && random_float() > -0.5f;
    }
    d.key_mask = a.mask;
    a.d = d;
    return a;
}

static void attention_outputs(Attention *a)
{
    const AttentionDims *d = &a->d;
    a->out = filled_buffer(a->nout, NAN);
    a->lse = filled_buffer(a->nlse, NAN);
    a->probs = filled_buffer(a->nprobs, NAN);
    a->dq = filled_buffer(a->nq, NAN);
    int64_t q = a->packed == BY_HEAD ? d->head_dim : (int64_t)d->heads * d->head_dim;
    int64_t k = a->packed == BY_HEAD ? d->head_dim : (int64_t)d->kv_heads * d->head_dim;
    a->dk = a->packed ? a->dq + q : filled_buffer(a->nkv, NAN);
    a->dv = a->packed ? a->dk + k : filled_buffer(a->nkv, NAN);
}

static void drop_outputs(Attention *a)
{
    drop(a->out, a->nout), drop(a->lse, a->nlse), drop(a->probs, a->nprobs), drop(a->dq, a->nq);
    if (!a->packed)
        drop(a->dk, a->nkv), drop(a->dv, a->nkv);
}

static void drop_inputs(Attention *a)
{
    drop(a->q, a->nq), drop(a->dout, a->nout);
    if (!a->packed)
        drop(a->k, a->nkv), drop(a->v, a->nkv);
    free(a->mask);
}

/* probs_kept (nprobs), when not NULL, receives the probabilities. */
static void run_attention(const Kernels *kernels, Attention *a, AttentionKept kept, float *probs_kept,
                          int threads)
{
    const AttentionDims *d = &a->d;
    int64_t nf = (int64_t)(kernels->attention_workspace(d, kept, 0, on(threads)) / sizeof(float));
    int64_t nb = (int64_t)(kernels->attention_workspace(d, kept, 1, on(threads)) / sizeof(float));
    float *forward = filled_buffer(nf, NAN), *backward = filled_buffer(nb, NAN);
    float *probs = kept == KEPT_PROBS ? a->probs : NULL;
    if (kept == KEPT_LSE) {
        kernels->attention_flash_forward(d, a->q, a->k, a->v, a->out, a->lse, forward, on(threads));
        kernels->attention_flash_backward(d, a->q, a->k, a->v, a->out, a->lse, a->dout, a->dq, a->dk, a->dv,
                                          backward, on(threads));
    } else {
        kernels->attention_eager_forward(d, a->q, a->k, a->v, a->out, probs, forward, on(threads));
        if (probs_kept && probs)
            memcpy(probs_kept, a->probs, (size_t)a->nprobs * sizeof(float));
        kernels->attention_eager_backward(d, a->q, a->k, a->v, a->out, probs, a->dout, a->dq, a->dk, a->dv,
                                          backward, on(threads));
    }
    drop(forward, nf), drop(backward, nb);
}

static void assert_attention_near(const Attention *x, const Attention *expected, int flash)
{
    assert_near("out", x->nout, x->out, expected->out, 2e-5);
    if (flash)
        assert_near("lse", x->nlse, x->lse, expected->lse, 2e-5);
    assert_near("dq", x->nq, x->dq, expected->dq, 1e-4);
    if (!x->packed) {
        assert_near("dk", x->nkv, x->dk, expected->dk, 1e-4);
        assert_near("dv", x->nkv, x->dv, expected->dv, 1e-4);
    }
}

static void assert_attention_same(const Attention *x, const Attention *y)
{
    assert_same_bits("out", x->nout, x->out, y->out);
    assert_same_bits("lse", x->nlse, x->lse, y->lse);
    assert_same_bits("dq", x->nq, x->dq, y->dq);
    if (!x->packed) {
        assert_same_bits("dk", x->nkv, x->dk, y->dk);
        assert_same_bits("dv", x->nkv, x->dv, y->dv);
    }
}

/* Eager that keeps nothing makes the same probabilities again. */
static void check_attention_again(const Kernels *kernels, const Attention *eager, int threads)
{
    Attention again = *eager;
    attention_outputs(&again);
    run_attention(kernels, &again, KEPT_NOTHING, NULL, threads);
    assert_attention_same(eager, &again);
    drop_outputs(&again);
}

static void check_attention(const Kernels *kernels, const Attention *inputs, const Attention *expected,
                            const float *probs, AttentionKept flash, int threads)
{
    Attention x = *inputs, again = *inputs;
    attention_outputs(&x);
    attention_outputs(&again);
    float *kept = filled_buffer(x.nprobs, NAN);
    run_attention(kernels, &x, flash, kept, threads);
    run_attention(kernels, &again, flash, NULL, threads);
    assert_attention_near(&x, expected, flash);
    assert_attention_same(&x, &again);
    if (!flash) {
        assert_near("probs", x.nprobs, kept, probs, 1e-5);
        check_attention_again(kernels, &x, threads);
    }
    drop(kept, x.nprobs);
    drop_outputs(&x);
    drop_outputs(&again);
}

/* Every table, eager and flash, against one reference run; the reference's flash against its eager. */
static void check_attention_shape(AttentionDims d, int packed, int masked)
{
    Attention inputs = attention_inputs(d, packed, masked);
    Attention expected = inputs, eager = inputs;
    attention_outputs(&expected);
    attention_outputs(&eager);
    float *probs = filled_buffer(inputs.nprobs, NAN);
    run_attention(kernels_reference(), &eager, 0, probs, 1);
    run_attention(kernels_reference(), &expected, 1, NULL, 1);
    assert_attention_near(&eager, &expected, 0);
    check_attention_again(kernels_reference(), &eager, 1);
    for (int isa = 0; isa < (d.seq > 200 && d.window ? ISAS : TABLES); isa++) {
        const Kernels *kernels = table_of(isa);
        for (int i = 0; kernels && i < 2; i++) {
            check_attention(kernels, &inputs, &expected, probs, i, 1);
            if (isa < ISAS)
                check_attention(kernels, &inputs, &expected, probs, i, 2 + (i + d.seq) % 2);
        }
    }
    drop(probs, inputs.nprobs);
    drop_outputs(&expected);
    drop_outputs(&eager);
    drop_inputs(&inputs);
}

static void test_attention(void **state)
{
    (void)state;
    static const AttentionDims shapes[] = {
        {.batch = 1, .seq = 1, .heads = 1, .kv_heads = 1, .head_dim = 1},
        {.batch = 2, .seq = 1, .heads = 3, .kv_heads = 1, .head_dim = 5},
        {.batch = 3, .seq = 7, .heads = 2, .kv_heads = 2, .head_dim = 8},
        {.batch = 2, .seq = 65, .heads = 6, .kv_heads = 2, .head_dim = 33},
        {.batch = 1, .seq = 130, .heads = 3, .kv_heads = 3, .head_dim = 48},
        {.batch = 1, .seq = 300, .heads = 3, .kv_heads = 1, .head_dim = 7},
        {.batch = 2, .seq = 67, .heads = 1, .kv_heads = 1, .head_dim = 129},
        {.batch = 1, .seq = 3, .heads = 2, .kv_heads = 1, .head_dim = 300},
    };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int i = 0; i < 8; i++) {
            AttentionDims d = shapes[s];
            if (d.seq > 200 && i >> 1 & i >> 2 & 1)
                continue; /* the reference takes its time */
            if (d.seq > 60 && !full_form() && ((i ^ i >> 1 ^ i >> 2) & 1))
                continue; /* of the three, each pair in every way */
            d.causal = i & 1;
            d.scale = 1 / sqrtf((float)d.head_dim);
            check_attention_shape(d, i >> 1 & 1, i >> 2 & 1);
        }
}

/* q, k and v side by side in each head: every gradient is written, and nothing between them. */
static void test_attention_by_head(void **state)
{
    (void)state;
    static const AttentionDims shapes[] = {
        {.batch = 1, .seq = 1, .heads = 5, .kv_heads = 5, .head_dim = 1},
        {.batch = 3, .seq = 7, .heads = 2, .kv_heads = 2, .head_dim = 8},
        {.batch = 2, .seq = 67, .heads = 3, .kv_heads = 3, .head_dim = 33},
        {.batch = 1, .seq = 130, .heads = 2, .kv_heads = 2, .head_dim = 132, .window = 40, .softcap = 0.8f},
    };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int i = 0; i < 4; i++) {
            AttentionDims d = shapes[s];
            d.causal = i & 1;
            d.scale = 1 / sqrtf((float)d.head_dim);
            if (d.seq < 60 || full_form() || i == 3 - (int)s)
                check_attention_shape(d, BY_HEAD, i >> 1);
        }
}

/* Windows around the sizes of blocks and of the sequence, with and without a cap on scores. */
static void test_attention_window(void **state)
{
    (void)state;
    static const AttentionDims shapes[] = {
        {.batch = 1, .seq = 1, .heads = 1, .kv_heads = 1, .head_dim = 3},
        {.batch = 2, .seq = 9, .heads = 2, .kv_heads = 1, .head_dim = 5},
        {.batch = 1, .seq = 131, .heads = 2, .kv_heads = 2, .head_dim = 33},
        {.batch = 1, .seq = 300, .heads = 2, .kv_heads = 1, .head_dim = 7},
    };
    static const int windows[] = {1, 2, 3, 63, 64, 65, 127, 128, 129, 255, 256, 257, -1, 0, 1};
    for (int i = 0; i < 4 * 15 * 2; i++) {
        AttentionDims d = shapes[i / 30];
        int w = i / 2 % 15;
        d.causal = i & 1;
        d.window = w < 12 ? windows[w] : d.seq + windows[w];
        d.softcap = i % 3 ? 0 : 0.8f;
        d.scale = 1 / sqrtf((float)d.head_dim);
        if (d.window < 1 || (w < 12 && d.window > d.seq) || (d.seq > 60 && !full_form() && (w + i / 30) % 2))
            continue;
        check_attention_shape(d, i / 4 & 1, i / 8 & 1);
    }
}

/* A window over everything is none, and what no window has is not even read. */
static void test_attention_window_ends(void **state)
{
    (void)state;
    AttentionDims d = {.batch = 1, .seq = 600, .heads = 2, .kv_heads = 1, .head_dim = 8, .scale = 0.4f};
    for (int i = 0; i < TABLES * 6; i++) {
        const Kernels *kernels = table_of(i / 6);
        AttentionKept kept = i / 2 % 3;
        d.causal = i & 1;
        if (!kernels || (i / 6 == CARD && kept != KEPT_LSE))
            continue;
        Attention a = attention_inputs(d, 0, 0), all = a;
        attention_outputs(&a);
        attention_outputs(&all);
        if (d.causal) { /* of others the blocks differ */
            run_attention(kernels, &all, kept, NULL, 2);
            a.d.window = 600 + kept;
            run_attention(kernels, &a, kept, NULL, 2);
            assert_attention_same(&a, &all);
        }
        for (int64_t e = 0; e < 10 * a.d.ldk; e++) /* of ten tokens */
            a.k[e] = a.v[e] = NAN;
        a.d.window = 100;
        run_attention(kernels, &a, kept, NULL, 2);
        assert_true(isnan(a.out[0]) && isnan(a.dq[0]) && isnan(a.dk[0]));
        for (int64_t t = 240; t < d.seq; t++) /* of blocks that see none of them */
            for (int c = 0; c < 8; c++) {
                assert_true(isfinite(a.out[t * a.d.ldo + c]) && isfinite(a.dq[t * a.d.lddq + c]));
                assert_true(t < 400 ||
                            (isfinite(a.dk[t * a.d.lddk + c]) && isfinite(a.dv[t * a.d.lddv + c])));
            }
        drop_outputs(&a);
        drop_outputs(&all);
        drop_inputs(&a);
    }
}

/* Several key blocks and query splits, at a length where the reference would take too long: flash against
 * eager. */
static void test_attention_long(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        AttentionDims d = {.batch = 1,
                           .seq = 1111,
                           .heads = 2,
                           .kv_heads = 1,
                           .head_dim = 24,
                           .causal = i & 1,
                           .window = i / 2 * (300 - 290 * (i / 4)),
                           .softcap = i == 3 ? 1.5f : 0,
                           .scale = 0.3f};
        Attention eager = attention_inputs(d, 0, 0), flash = eager;
        for (int isa = 0; isa < ISAS; isa++) {
            const Kernels *kernels = kernels_cpu(isa_names[isa]);
            if (!kernels)
                continue;
            attention_outputs(&eager);
            run_attention(kernels, &eager, 0, NULL, 1);
            check_attention_again(kernels, &eager, 1);
            for (int threads = 1; threads <= 5; threads += 2) {
                attention_outputs(&flash);
                run_attention(kernels, &flash, 1, NULL, threads);
                assert_attention_near(&flash, &eager, 0);
                drop_outputs(&flash);
            }
            drop_outputs(&eager);
        }
        drop_inputs(&eager);
    }
}

/* Rows without a key: zeros, never NaN, and lse -infinity. */
static void test_attention_without_keys(void **state)
{
    (void)state;
    AttentionDims d = {
        .batch = 2, .seq = 9, .heads = 2, .kv_heads = 2, .head_dim = 4, .scale = 0.5f, .causal = 1};
    Attention a = attention_inputs(d, 0, 1);
    for (int isa = -1; isa < TABLES; isa++) {
        const Kernels *kernels = isa < 0 ? kernels_reference() : table_of(isa);
        for (AttentionKept kept = KEPT_PROBS; kernels && kept <= KEPT_NOTHING; kept++) {
            attention_outputs(&a);
            run_attention(kernels, &a, kept, NULL, 2);
            for (int64_t i = 0; i < a.nout / 2; i++) {
                assert_true(a.out[a.nout / 2 + i] == 0); /* the second sample is padding altogether */
                int64_t r = i / a.d.ldo;
                assert_true(a.dq[(d.seq + r) * a.d.lddq + i % a.d.ldo] == 0);
                assert_true(a.dk[(d.seq + r) * a.d.lddk + i % a.d.ldo] == 0);
                assert_true(a.dv[(d.seq + r) * a.d.lddv + i % a.d.ldo] == 0);
            }
            for (int64_t i = 0; kept == KEPT_LSE && i < a.nlse / 2; i++)
                assert_true(a.lse[a.nlse / 2 + i] == -INFINITY);
            for (int c = 0; c < 8; c++)
                assert_true(a.out[c] == 0); /* the first row of the first sample sees only its masked key */
            drop_outputs(&a);
        }
    }
    drop_inputs(&a);
}

/* sum(out * dout) of the reference's forward. */
static double attention_loss(Attention *a)
{
    kernels_reference()->attention_flash_forward(&a->d, a->q, a->k, a->v, a->out, a->lse, NULL, on(1));
    double loss = 0;
    for (int64_t i = 0; i < a->nout; i++)
        loss += (double)a->out[i] * (double)a->dout[i];
    return loss;
}

static void check_difference(Attention *a, float *x, const float *gradient, int64_t i)
{
    const float step = 4e-3f, old = x[i];
    x[i] = old + step;
    double above = attention_loss(a), wide = (double)x[i];
    x[i] = old - step;
    double slope = (above - attention_loss(a)) / (wide - (double)x[i]);
    x[i] = old;
    if (!(fabs(slope - (double)gradient[i]) <= 2e-3 * (1 + fabs(slope))))
        fail_msg("gradient %lld is %.6g, by differences %.6g", (long long)i, (double)gradient[i], slope);
}

/* The reference itself, which everything else is compared with. */
static void test_attention_reference_gradient(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        AttentionDims d = {
            .batch = 2, .seq = 5, .heads = 4, .kv_heads = 2, .head_dim = 3, .scale = 0.6f, .causal = i & 1};
        d.window = i >> 2 ? 2 : 0;
        d.softcap = i >> 2 ? 1.3f : 0;
        Attention a = attention_inputs(d, 0, i >> 1 & 1);
        attention_outputs(&a);
        run_attention(kernels_reference(), &a, 1, NULL, 1);
        for (int64_t r = 0; r < (int64_t)d.batch * d.seq; r++) {
            for (int64_t c = 0; c < (int64_t)d.heads * d.head_dim; c++)
                check_difference(&a, a.q, a.dq, r * a.d.ldq + c);
            for (int64_t c = 0; c < (int64_t)d.kv_heads * d.head_dim; c++) {
                check_difference(&a, a.k, a.dk, r * a.d.ldk + c);
                check_difference(&a, a.v, a.dv, r * a.d.ldv + c);
            }
        }
        drop_outputs(&a);
        drop_inputs(&a);
    }
}

/* A NaN among the inputs must reach the output, not turn into a row of zeros. */
static void test_attention_keeps_nan(void **state)
{
    (void)state;
    AttentionDims d = {.batch = 1, .seq = 3, .heads = 1, .kv_heads = 1, .head_dim = 2, .scale = 1};
    Attention a = attention_inputs(d, 0, 0);
    a.q[0] = NAN;
    for (int isa = 0; isa < TABLES; isa++) {
        const Kernels *kernels = table_of(isa);
        for (AttentionKept kept = KEPT_PROBS; kernels && kept <= KEPT_NOTHING; kept++) {
            attention_outputs(&a);
            run_attention(kernels, &a, kept, NULL, 1);
            assert_true(isnan(a.out[0]) && isnan(a.out[1]) && !isnan(a.out[2]));
            drop_outputs(&a);
        }
    }
    drop_inputs(&a);
}

/* ---- attention over a cache ------------------------------------------------------------------ */

/* The numbers in the type that the cache has, in the same memory. */
static void make_cached(const AttentionDims *d, int64_t n, float *cache)
{
    uint16_t *to = (uint16_t *)cache;
    for (int64_t i = 0; i < n && d->cached != DTYPE_F32; i++) {
        float value;
        memcpy(&value, cache + i, sizeof value);
        to[i] = d->cached == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
    }
}

/* T tokens after `past`, appended and seen; q, k and v lie within rows that are wider. */
static void check_cached(const Kernels *kernels, AttentionDims d, int threads)
{
    int64_t row = (int64_t)d.heads * d.head_dim, kv_row = (int64_t)d.kv_heads * d.head_dim;
    int64_t apart = attention_head_step(&d) - d.head_dim; /* of what lies between heads */
    d.ldq = row + d.heads * apart + 3, d.ldo = row;
    d.ldk = kv_row + d.kv_heads * apart + 1, d.ldv = d.ldk + 1;
    /* Wide heads: as models do, for the rounding of a score of thousands of terms shows in its exponential.
     */
    d.scale = d.head_dim > 1000 ? 1 / sqrtf((float)d.head_dim) : 0.4f;
    int64_t rows = (int64_t)d.batch * d.seq, ncache = 2 * d.batch * kv_row * d.capacity;
    int64_t nq = rows * d.ldq, nk = rows * d.ldk, nv = rows * d.ldv, nout = rows * row;
    int64_t nwork = (int64_t)(kernels->attention_cached_workspace(&d, on(threads)) / sizeof(float));
    float *q = random_buffer(nq), *k = random_buffer(nk), *v = random_buffer(nv);
    float *cache = random_buffer(ncache), *out = filled_buffer(nout, NAN), *again = filled_buffer(nout, NAN);
    for (int64_t i = 0; i < ncache; i++)
        if (i / d.head_dim % d.capacity >= d.past)
            cache[i] = NAN; /* not written yet: must not be read */
    make_cached(&d, ncache, cache);
    float *expected_cache = copied_buffer(ncache, cache), *expected = filled_buffer(nout, NAN);
    float *workspace = filled_buffer(nwork, NAN);
    kernels->attention_append(&d, k, v, cache, on(threads));
    kernels_reference()->attention_append(&d, k, v, expected_cache, on(1));
    assert_same_bits("cache", ncache, cache, expected_cache);
    kernels->attention_cached(&d, q, cache, out, workspace, on(threads));
    kernels->attention_cached(&d, q, cache, again, workspace, on(threads));
    assert_same_bits("cached attention", nout, out, again);
    kernels_reference()->attention_cached(&d, q, cache, expected, NULL, on(1));
    assert_near("cached attention", nout, out, expected, 1e-5);
    drop(q, nq), drop(k, nk), drop(v, nv), drop(cache, ncache), drop(expected_cache, ncache);
    drop(out, nout), drop(again, nout), drop(expected, nout), drop(workspace, nwork);
}

static void test_attention_cached(void **state)
{
    (void)state;
    static const AttentionDims shapes[] = {
        {.batch = 1, .heads = 1, .kv_heads = 1, .head_dim = 1},
        {.batch = 2, .heads = 4, .kv_heads = 2, .head_dim = 5},
        {.batch = 1, .heads = 3, .kv_heads = 3, .head_dim = 64},
        {.batch = 3, .heads = 8, .kv_heads = 1, .head_dim = 17},
        {.batch = 1, .heads = 40, .kv_heads = 2, .head_dim = 8}, /* more queries a key than go together */
    };
    static const int pasts[] = {0, 1, 3, 127, 128, 261, 1030}, seqs[] = {1, 2, 7, 70}, teams[] = {1, 3, 8};
    for (int isa = 0; isa < TABLES; isa++) {
        const Kernels *kernels = table_of(isa);
        for (size_t i = 0; kernels && i < 5 * 7 * 4 * 3; i++) {
            AttentionDims d = shapes[i % 5];
            if (isa == CARD && (i >= 140 || (i + i / 5 + i / 35) % 3 || (i % 5 > 3 && i / 35 > 2)))
                continue; /* a card knows no threads, and the made-up one is slow */
            if (!full_form() && isa < ISAS &&
                ((int)(i + i / 5 + i / 35 + i / 140) % 3 != isa || (i >= 280 && i / 5 % 7 < 5)))
                continue; /* all of them, over the tables; many threads for long pasts */
            d.past = pasts[i / 5 % 7];
            d.seq = seqs[i / 35 % 4];
            d.capacity = d.past + d.seq + (int)i % 3;
            d.head_step = d.heads == d.kv_heads && i / 5 % 2 ? 3 * d.head_dim : 0;
            check_cached(kernels, d, teams[i / 140]);
            d.cached = i / 5 % 2 ? DTYPE_BF16 : DTYPE_F16;
            if (full_form() || i / 5 % 3 == 0)
                check_cached(kernels, d, teams[i / 140]);
        }
    }
}

/* One token whose keys serve a group of queries: every way in which groups, widths and keys fill registers.
 */
static void test_attention_cached_groups(void **state)
{
    (void)state;
    static const int groups[] = {1, 3, 4, 7, 8, 17}, sizes[] = {1, 15, 48, 64, 72, 128, 1030};
    static const int pasts[] = {0, 3, 61, 64, 129};
    for (int isa = 0; isa < TABLES; isa++) {
        const Kernels *kernels = table_of(isa);
        for (int i = 0; kernels && i < 6 * 7 * 5; i++) {
            if (!full_form() && (i + i / 6 + i / 42) % (isa < ISAS ? 3 : 7) != isa)
                continue;
            AttentionDims d = {.batch = 1 + i % 2, .seq = 1, .kv_heads = 1 + i / 6 % 2};
            d.heads = groups[i % 6] * d.kv_heads;
            d.head_dim = sizes[i / 6 % 7];
            d.past = d.head_dim > 1000 ? i / 42 : pasts[i / 42];
            d.capacity = d.past + 1 + i % 4;
            check_cached(kernels, d, 1 + i % 3);
            d.cached = i / 6 % 2 ? DTYPE_BF16 : DTYPE_F16;
            check_cached(kernels, d, 1 + i % 3);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_by_head),
        cmocka_unit_test(test_attention_window),
        cmocka_unit_test(test_attention_window_ends),
        cmocka_unit_test(test_attention_long),
        cmocka_unit_test(test_attention_without_keys),
        cmocka_unit_test(test_attention_reference_gradient),
        cmocka_unit_test(test_attention_keeps_nan),
        cmocka_unit_test(test_attention_cached),
        cmocka_unit_test(test_attention_cached_groups),
    };
    return cmocka_run_group_tests_name("kernels: attention", tests, NULL, NULL);
}
