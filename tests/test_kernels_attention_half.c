/* Attention in bf16 and f16, with and without a cache: every table that runs here, and the reference, against
 * its own fp32 kernels on the same numbers. What those are given is what the 16-bit kernels read: rounded
 * inputs, the rounded output, the rounded probabilities. So results differ by their own rounding alone. */
#include "base/half_.h"
#include "products_support.h"

static const DType types[] = {DTYPE_BF16, DTYPE_F16};

static const Kernels *table(int isa) /* -1: the reference; NULL where it does not run here */
{
    return isa < 0 ? kernels_reference() : table_of(isa);
}

static uint16_t half_of(DType type, float value)
{
    return type == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
}

static float value_of(DType type, uint16_t half)
{
    return type == DTYPE_BF16 ? half_from_bf16(half) : half_from_f16(half);
}

/* ---- Arrays in two types --------------------------------------------------------------------- */

/* The same numbers as floats and in 16 bit, each between guard zones. */
typedef struct Both {
    int64_t n;
    float *wide;
    uint16_t *half;
} Both;

static int64_t half_floats(int64_t n)
{
    return (n + 1) / 2;
}

static Both both_empty(int64_t n) /* NaN */
{
    Both x = {.n = n, .wide = filled_buffer(n, NAN)};
    x.half = (uint16_t *)(void *)buffer(half_floats(n));
    for (int64_t i = 0; i < 2 * half_floats(n); i++)
        x.half[i] = 0x7FFF;
    return x;
}

static Both both_random(DType type, int64_t n, float size)
{
    Both x = both_empty(n);
    for (int64_t i = 0; i < n; i++) {
        x.half[i] = half_of(type, size * random_float());
        x.wide[i] = value_of(type, x.half[i]);
    }
    return x;
}

/* The floats become what the 16-bit array holds. */
static void both_decode(DType type, const Both *x)
{
    for (int64_t i = 0; i < x->n; i++)
        x->wide[i] = value_of(type, x->half[i]);
}

static void both_drop(Both *x)
{
    drop(x->wide, x->n);
    drop((float *)(void *)x->half, half_floats(x->n));
}

/* The distance from one number of the type to the next, near x. */
static double ulp(DType type, double x)
{
    int exponent, bits = type == DTYPE_BF16 ? 8 : 11, least = type == DTYPE_BF16 ? -126 : -14;
    frexp(x, &exponent);
    exponent = exponent - 1 < least ? least : exponent - 1;
    return ldexp(1.0, exponent - bits + 1);
}

/* In 16 bit what the floats are, rounded: half an ulp, and for each ulp beyond that what `ulps` allows; and
 * `noise`, by which sums in another order differ. Nothing is written where the floats are not. */
static void assert_rounded(const char *what, DType type, const Both *x, double ulps, double noise)
{
    for (int64_t i = 0; i < x->n; i++) {
        double value = (double)value_of(type, x->half[i]), expected = (double)x->wide[i];
        if (isnan(value) && isnan(expected))
            continue;
        if (!(fabs(value - expected) <= (ulps + 0.5) * ulp(type, expected) + noise))
            fail_msg("%s[%lld] of %s = %.8g, expected %.8g", what, (long long)i, dtype_name(type), value,
                     expected);
    }
}

static void assert_same_halves(const char *what, const Both *x, const Both *y)
{
    assert_int_equal(x->n, y->n);
    if (memcmp(x->half, y->half, (size_t)x->n * sizeof *x->half))
        fail_msg("%s is not bitwise the same", what);
}

/* ---- Without a cache ------------------------------------------------------------------------- */

enum { BY_HEAD = 2 };

typedef struct Case {
    AttentionDims d; /* its type is the 16-bit one */
    int packed;      /* BY_HEAD: q, k and v lie side by side in each head */
    Both q, k, v, dout;
    Both out, probs, dq, dk, dv;
    float *lse;
    int64_t rows; /* of lse and probs */
    int32_t *mask;
} Case;

static Both columns(const Both *of, int64_t first) /* of packed rows, from a column on */
{
    return (Both){of->n - first, of->wide + first, of->half + first};
}

static Case case_inputs(AttentionDims d, int packed, int masked)
{
    int64_t rows = (int64_t)d.batch * d.seq, c = (int64_t)d.heads * d.head_dim;
    int64_t ckv = (int64_t)d.kv_heads * d.head_dim;
    Case a = {.packed = packed};
    d.ldq = packed ? c + 2 * ckv : c + 1;
    d.ldk = d.ldv = packed ? d.ldq : ckv + 2;
    d.lddq = d.ldq, d.lddk = d.ldk, d.lddv = d.ldv;
    d.ldo = c + (packed ? 0 : 3);
    d.scale = 1 / sqrtf((float)d.head_dim);
    if (packed == BY_HEAD)
        c = ckv = d.head_dim, d.head_step = 3 * d.head_dim;
    a.q = both_random(d.type, rows * d.ldq, 3);
    a.k = packed ? columns(&a.q, c) : both_random(d.type, rows * d.ldk, 1);
    a.v = packed ? columns(&a.q, c + ckv) : both_random(d.type, rows * d.ldv, 1);
    a.dout = both_random(d.type, rows * d.ldo, 1);
    a.rows = (int64_t)d.batch * d.heads * d.seq;
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

static void case_outputs(Case *a)
{
    a->out = both_empty(a->dout.n);
    a->probs = both_empty(a->rows * a->d.seq);
    a->lse = filled_buffer(a->rows, NAN);
    a->dq = both_empty(a->q.n);
    int apart = a->packed != BY_HEAD;
    a->dk =
        a->packed ? columns(&a->dq, (int64_t)(apart ? a->d.heads : 1) * a->d.head_dim) : both_empty(a->k.n);
    a->dv = a->packed ? columns(&a->dk, (int64_t)(apart ? a->d.kv_heads : 1) * a->d.head_dim)
                      : both_empty(a->v.n);
}

static void case_drop_outputs(Case *a)
{
    both_drop(&a->out), both_drop(&a->probs), both_drop(&a->dq);
    drop(a->lse, a->rows);
    if (!a->packed)
        both_drop(&a->dk), both_drop(&a->dv);
}

static void case_drop_inputs(Case *a)
{
    both_drop(&a->q), both_drop(&a->dout);
    if (!a->packed)
        both_drop(&a->k), both_drop(&a->v);
    free(a->mask);
}

static float *workspace_of(const Kernels *kernels, const AttentionDims *d, AttentionKept kept, int backward,
                           int threads, int64_t *floats)
{
    *floats = (int64_t)(kernels->attention_workspace(d, kept, backward, on(threads)) / sizeof(float));
    return filled_buffer(*floats, NAN);
}

/* Forward of one type: in 16 bit, or of the floats. */
static void forward(const Kernels *kernels, Case *a, DType type, AttentionKept kept, int threads)
{
    AttentionDims d = a->d;
    int half = type != DTYPE_F32;
    int64_t n;
    d.type = type;
    float *room = workspace_of(kernels, &d, kept, 0, threads, &n);
    const void *q = half ? (void *)a->q.half : a->q.wide, *k = half ? (void *)a->k.half : a->k.wide;
    const void *v = half ? (void *)a->v.half : a->v.wide;
    void *out = half ? (void *)a->out.half : a->out.wide;
    void *probs = half ? (void *)a->probs.half : a->probs.wide;
    if (kept == KEPT_LSE)
        kernels->attention_flash_forward(&d, q, k, v, out, a->lse, room, on(threads));
    else
        kernels->attention_eager_forward(&d, q, k, v, out, kept == KEPT_PROBS ? probs : NULL, room,
                                         on(threads));
    drop(room, n);
}

static void backward(const Kernels *kernels, Case *a, DType type, AttentionKept kept, int threads)
{
    AttentionDims d = a->d;
    int half = type != DTYPE_F32;
    int64_t n;
    d.type = type;
    float *room = workspace_of(kernels, &d, kept, 1, threads, &n);
    const void *q = half ? (void *)a->q.half : a->q.wide, *k = half ? (void *)a->k.half : a->k.wide;
    const void *v = half ? (void *)a->v.half : a->v.wide, *out = half ? (void *)a->out.half : a->out.wide;
    const void *probs = half ? (void *)a->probs.half : a->probs.wide;
    const void *dout = half ? (void *)a->dout.half : a->dout.wide;
    void *dq = half ? (void *)a->dq.half : a->dq.wide, *dk = half ? (void *)a->dk.half : a->dk.wide;
    void *dv = half ? (void *)a->dv.half : a->dv.wide;
    if (kept == KEPT_LSE)
        kernels->attention_flash_backward(&d, q, k, v, out, a->lse, dout, dq, dk, dv, room, on(threads));
    else
        kernels->attention_eager_backward(&d, q, k, v, out, kept == KEPT_PROBS ? probs : NULL, dout, dq, dk,
                                          dv, room, on(threads));
    drop(room, n);
}

/* What eager makes of the rounded probabilities: the floats of out. */
static void weigh_values(Case *a)
{
    enum { WIDEST = 129 };
    const AttentionDims *d = &a->d;
    assert_true(d->head_dim <= WIDEST);
    for (int64_t r = 0; r < a->rows; r++) {
        int64_t i = r % d->seq, h = r / d->seq % d->heads, b = r / d->seq / d->heads;
        int64_t kv = h / (d->heads / d->kv_heads);
        double sum[WIDEST] = {0};
        for (int64_t j = 0; j < (d->causal ? i + 1 : d->seq); j++) {
            double p = (double)value_of(d->type, a->probs.half[r * d->seq + j]);
            const float *v = a->v.wide + (b * d->seq + j) * d->ldv + kv * attention_head_step(d);
            for (int c = 0; c < d->head_dim; c++)
                sum[c] += p * (double)v[c];
        }
        for (int c = 0; c < d->head_dim; c++)
            a->out.wide[(b * d->seq + i) * d->ldo + h * d->head_dim + c] = (float)sum[c];
    }
}

/* A second run gives the same bits; eager that keeps nothing too. */
static void check_again(const Kernels *kernels, const Case *a, AttentionKept kept, int threads)
{
    Case again = *a;
    case_outputs(&again);
    forward(kernels, &again, a->d.type, kept, threads);
    backward(kernels, &again, a->d.type, kept, threads);
    assert_same_halves("out", &again.out, &a->out);
    assert_same_halves("dq", &again.dq, &a->dq);
    if (!a->packed) {
        assert_same_halves("dk", &again.dk, &a->dk);
        assert_same_halves("dv", &again.dv, &a->dv);
    }
    case_drop_outputs(&again);
}

static void check_case(const Kernels *kernels, const Case *inputs, AttentionKept kept, int threads)
{
    Case a = *inputs;
    DType type = a.d.type;
    case_outputs(&a);
    forward(kernels, &a, DTYPE_F32, kept, threads);
    float *lse = copied_buffer(a.rows, a.lse);
    forward(kernels, &a, type, kept, threads);
    if (kept == KEPT_LSE) {
        assert_near("lse", a.rows, lse, a.lse, 1e-5);
    } else {
        assert_rounded("probs", type, &a.probs, 0.01, 1e-6);
        weigh_values(&a);
    }
    assert_rounded("out", type, &a.out, 0.01, 1e-5);
    both_decode(type, &a.out);
    both_decode(type, &a.probs);
    backward(kernels, &a, type, kept, threads);
    backward(kernels, &a, DTYPE_F32, kept, threads);
    assert_rounded("dq", type, &a.dq, 0.01, 5e-5);
    if (!a.packed) {
        assert_rounded("dk", type, &a.dk, 0.01, 1e-4);
        assert_rounded("dv", type, &a.dv, 0.01, 1e-4);
    }
    check_again(kernels, &a, kept, threads);
    if (kept == KEPT_PROBS)
        check_again(kernels, &a, KEPT_NOTHING, threads);
    drop(lse, a.rows);
    case_drop_outputs(&a);
}

static void check_shape(AttentionDims d, int packed, int masked, int reference)
{
    Case inputs = case_inputs(d, packed, masked);
    for (int isa = reference ? -1 : 0; isa < (d.seq < 200 ? TABLES : ISAS); isa++)
        for (AttentionKept kept = KEPT_PROBS; table(isa) && kept <= KEPT_LSE; kept++) {
            check_case(table(isa), &inputs, kept, 1);
            if (isa >= 0 && isa < ISAS)
                check_case(table(isa), &inputs, kept, 2 + (d.seq + isa) % 3);
        }
    case_drop_inputs(&inputs);
}

static void test_attention_half(void **state)
{
    (void)state;
    static const AttentionDims shapes[] = {
        {.batch = 1, .seq = 1, .heads = 1, .kv_heads = 1, .head_dim = 1},
        {.batch = 2, .seq = 1, .heads = 3, .kv_heads = 1, .head_dim = 5},
        {.batch = 3, .seq = 7, .heads = 2, .kv_heads = 2, .head_dim = 8},
        {.batch = 2, .seq = 65, .heads = 6, .kv_heads = 2, .head_dim = 33},
        {.batch = 1, .seq = 130, .heads = 3, .kv_heads = 3, .head_dim = 48},
        {.batch = 2, .seq = 67, .heads = 1, .kv_heads = 1, .head_dim = 129},
    };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int i = 0; i < 16; i++) {
            AttentionDims d = shapes[s];
            if (d.seq > 60 && !full_form() && (((i ^ i >> 1 ^ i >> 2 ^ i >> 3) & 1) || (SANITIZED && i % 5)))
                continue; /* of the four, each three in every way */
            d.causal = i & 1;
            d.type = types[i >> 3];
            check_shape(d, i >> 1 & 1, i >> 2 & 1, d.seq < 60 || full_form() || i % 5 == 0);
            if (d.heads == d.kv_heads && (i >> 1 & 1) && (d.seq < 60 || i % 5 == 0))
                check_shape(d, BY_HEAD, i >> 2 & 1, 1);
        }
}

/* Windows around the sizes of blocks and of the sequence, with and without a cap on scores. */
static void test_attention_half_window(void **state)
{
    (void)state;
    static const AttentionDims shapes[] = {
        {.batch = 2, .seq = 9, .heads = 2, .kv_heads = 1, .head_dim = 5},
        {.batch = 1, .seq = 131, .heads = 2, .kv_heads = 2, .head_dim = 33},
        {.batch = 1, .seq = 300, .heads = 4, .kv_heads = 2, .head_dim = 7},
    };
    static const int windows[] = {1, 4, 63, 64, 129, 256, 258, -1};
    for (int i = 0; i < 3 * 8 * 2; i++) {
        AttentionDims d = shapes[i / 16];
        int w = i / 2 % 8;
        d.causal = i & 1;
        d.type = types[(i + i / 16) % 2];
        d.window = windows[w] < 0 ? d.seq - 1 : windows[w];
        d.softcap = i % 3 ? 0 : 1.5f;
        if (d.window > d.seq || (d.seq > 60 && !full_form() && (w + i / 16) % (SANITIZED ? 4 : 2)))
            continue;
        check_shape(d, i / 4 & 1, i / 8 & 1, d.seq < 60);
    }
}

/* Several key blocks: tiles are filled again, and a unit's query blocks are split among threads. */
static void test_attention_half_long(void **state)
{
    (void)state;
    for (int i = 0; i < (SANITIZED ? 2 : 4); i++) {
        AttentionDims d = {.type = types[i >> 1], .batch = 1, .seq = 523, .heads = 4, .kv_heads = 2};
        d.head_dim = 24 + i;
        d.causal = i & 1;
        check_shape(d, 0, i == 1, 0);
        d.window = 290; /* tiles begin where they do */
        check_shape(d, 0, i == 1, 0);
    }
}

/* More units than threads, which then share their sums one after the other. */
static void test_attention_half_units(void **state)
{
    (void)state;
    AttentionDims d = {.type = DTYPE_BF16, .batch = 4, .seq = 33, .heads = 6, .kv_heads = 3, .head_dim = 16};
    for (int masked = 0; masked < 2; masked++)
        check_shape(d, 0, masked, 0);
}

/* Rows without a key: zeros, never NaN. A NaN among the inputs reaches the output. */
static void test_attention_half_special(void **state)
{
    (void)state;
    AttentionDims d = {.batch = 2, .seq = 9, .heads = 2, .kv_heads = 2, .head_dim = 4, .causal = 1};
    for (int i = 0; i < 2 * (TABLES + 1) * 3; i++) {
        const Kernels *kernels = table(i / 6 - 1);
        AttentionKept kept = (AttentionKept)(i / 2 % 3);
        d.type = types[i % 2];
        if (!kernels)
            continue;
        Case a = case_inputs(d, 0, 1);
        case_outputs(&a);
        a.q.half[0] = 0x7FFF; /* NaN; of the first row, which sees only its masked key */
        a.q.half[a.d.ldq] = 0x7FFF;
        a.mask[1] = 1;
        forward(kernels, &a, d.type, kept, 2);
        backward(kernels, &a, d.type, kept, 2);
        for (int64_t r = d.seq; r < 2 * d.seq; r++) /* the second sample is padding altogether */
            for (int c = 0; c < 8; c++) {
                assert_int_equal(a.out.half[r * a.d.ldo + c] & 0x7FFF, 0);
                assert_int_equal(a.dq.half[r * a.d.lddq + c] & 0x7FFF, 0);
                assert_int_equal(a.dk.half[r * a.d.lddk + c] & 0x7FFF, 0);
                assert_int_equal(a.dv.half[r * a.d.lddv + c] & 0x7FFF, 0);
            }
        for (int c = 0; c < 4; c++) /* the first head's second row sees its own key */
            assert_true(isnan(value_of(d.type, a.out.half[a.d.ldo + c])));
        assert_true(!isnan(value_of(d.type, a.out.half[a.d.ldo + 4])));
        case_drop_outputs(&a);
        case_drop_inputs(&a);
    }
}

/* ---- With a cache ---------------------------------------------------------------------------- */

typedef struct Cached {
    AttentionDims d;
    Both q, k, v, out;
    void *cache, *wide_cache;
    int64_t bytes; /* of a cache */
} Cached;

static void *cache_of(int64_t bytes)
{
    float *cache = buffer((bytes + 3) / 4);
    memset(cache, 0xFF, (size_t)bytes); /* NaN: not written yet */
    return cache;
}

/* Tokens before: random, of the cache's type. */
static void fill_past(const AttentionDims *d, const Kernels *kernels, void *cache, void *other)
{
    AttentionDims before = *d;
    before.seq = d->past;
    before.past = 0;
    before.type = DTYPE_F32;
    before.head_step = 0;
    before.ldk = before.ldv = (int64_t)d->kv_heads * d->head_dim;
    int64_t n = (int64_t)d->batch * before.seq * before.ldk;
    float *k = random_buffer(n), *v = random_buffer(n);
    kernels->attention_append(&before, k, v, cache, on(1));
    kernels->attention_append(&before, k, v, other, on(1));
    drop(k, n), drop(v, n);
}

static void check_cached(const Kernels *kernels, AttentionDims d, int threads)
{
    int64_t row = (int64_t)d.heads * d.head_dim, kv_row = (int64_t)d.kv_heads * d.head_dim;
    int64_t rows = (int64_t)d.batch * d.seq, numbers = 2 * d.batch * kv_row * d.capacity;
    int64_t apart = attention_head_step(&d) - d.head_dim; /* of what lies between heads */
    d.ldq = row + d.heads * apart + 3, d.ldo = row;
    d.ldk = kv_row + d.kv_heads * apart + 1, d.ldv = d.ldk + 1;
    d.scale = 1 / sqrtf((float)d.head_dim);
    Both q = both_random(d.type, rows * d.ldq, 3), k = both_random(d.type, rows * d.ldk, 1);
    Both v = both_random(d.type, rows * d.ldv, 1), out = both_empty(rows * row),
         again = both_empty(rows * row);
    int64_t bytes = numbers * (d.cached == DTYPE_F32 ? 4 : 2);
    void *cache = cache_of(bytes), *expected = cache_of(bytes);
    fill_past(&d, kernels, cache, expected);
    AttentionDims wide = d;
    wide.type = DTYPE_F32;
    int64_t n = (int64_t)(kernels->attention_cached_workspace(&d, on(threads)) / sizeof(float));
    int64_t wide_n = (int64_t)(kernels->attention_cached_workspace(&wide, on(threads)) / sizeof(float));
    float *room = filled_buffer(n, NAN), *wide_room = filled_buffer(wide_n, NAN);
    kernels->attention_append(&d, k.half, v.half, cache, on(threads));
    kernels->attention_append(&wide, k.wide, v.wide, expected, on(threads));
    assert_memory_equal(cache, expected, (size_t)bytes);
    kernels->attention_cached(&d, q.half, cache, out.half, room, on(threads));
    kernels->attention_cached(&d, q.half, cache, again.half, room, on(threads));
    kernels->attention_cached(&wide, q.wide, cache, out.wide, wide_room, on(threads));
    assert_same_halves("cached attention", &out, &again);
    assert_rounded("cached attention", d.type, &out, 0.01, 1e-5);
    both_drop(&q), both_drop(&k), both_drop(&v), both_drop(&out), both_drop(&again);
    drop(cache, (bytes + 3) / 4), drop(expected, (bytes + 3) / 4);
    drop(room, n), drop(wide_room, wide_n);
}

static void test_attention_cached_half(void **state)
{
    (void)state;
    static const AttentionDims shapes[] = {
        {.batch = 1, .heads = 1, .kv_heads = 1, .head_dim = 1},
        {.batch = 2, .heads = 4, .kv_heads = 2, .head_dim = 5},
        {.batch = 1, .heads = 3, .kv_heads = 3, .head_dim = 64},
        {.batch = 1, .heads = 40, .kv_heads = 2, .head_dim = 8}, /* more queries a key than go together */
    };
    static const int pasts[] = {0, 3, 127, 1030}, seqs[] = {1, 7, 70};
    static const DType caches[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < 4 * 4 * 3 * 3 * 2; i++) {
        AttentionDims d = shapes[i % 4];
        d.past = pasts[i / 4 % 4];
        d.seq = seqs[i / 16 % 3];
        d.cached = caches[i / 48 % 3];
        d.type = types[i / 144];
        d.capacity = d.past + d.seq + i % 3;
        d.head_step = d.heads == d.kv_heads && i / 16 % 2 ? 3 * d.head_dim : 0;
        for (int isa = -1; isa < TABLES; isa++) {
            int some = SANITIZED || d.past > 1000 || isa < 0;
            if (!table(isa) || (!full_form() && some && i % 3 != (isa + 3) % 3) || (isa == CARD && i % 7))
                continue; /* all of them, over the tables; some on the card, whose stand-in is slow */
            check_cached(table(isa), d, 1);
            if (isa >= 0 && isa < ISAS)
                check_cached(table(isa), d, 3 + i % 2 * 5);
        }
    }
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* A workspace depends on nothing but dims, types and threads; that of fp32 is not touched by 16 bit. */
static void test_attention_half_workspace(void **state)
{
    (void)state;
    AttentionDims d = {.batch = 2, .seq = 300, .heads = 4, .kv_heads = 2, .head_dim = 20, .capacity = 400};
    for (int i = 0; i < 3 * 3 * 2 * 4; i++) {
        int threads = i / 18 + 1, backward = i / 9 % 2;
        AttentionKept kept = (AttentionKept)(i / 3 % 3);
        d.type = i % 3 ? types[i % 3 - 1] : DTYPE_F32;
        d.cached = d.type;
        d.seq = i / 18 % 2 ? 1 : 300;
        const Kernels *base = kernels_cpu("base");
        for (int isa = 1; isa < ISAS; isa++) {
            const Kernels *other = kernels_cpu(isa_names[isa]);
            if (!other)
                continue;
            assert_int_equal(other->attention_workspace(&d, kept, backward, on(threads)),
                             base->attention_workspace(&d, kept, backward, on(threads)));
            assert_int_equal(other->attention_cached_workspace(&d, on(threads)),
                             base->attention_cached_workspace(&d, on(threads)));
        }
    }
    d = (AttentionDims){.batch = 2, .seq = 300, .heads = 4, .kv_heads = 2, .head_dim = 16};
    const Kernels *base = kernels_cpu("base");
    size_t wide = base->attention_workspace(&d, KEPT_LSE, 1, on(2));
    d.type = DTYPE_BF16;
    /* A thread's tiles of queries, outputs and their gradients, of keys and values, and dk and dv of a unit.
     */
    size_t tiles = (3 * 128 + 2 * 256) * 16 * sizeof(float) * 2, sums = 2 * 300 * 16 * sizeof(float) * 2;
    assert_int_equal(base->attention_workspace(&d, KEPT_LSE, 1, on(2)), wide + tiles + sums);
    assert_int_equal(base->attention_workspace(&d, KEPT_PROBS, 1, on(2)), wide + tiles + sums);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention_half),           cmocka_unit_test(test_attention_half_window),
        cmocka_unit_test(test_attention_half_long),      cmocka_unit_test(test_attention_half_units),
        cmocka_unit_test(test_attention_half_special),   cmocka_unit_test(test_attention_cached_half),
        cmocka_unit_test(test_attention_half_workspace),
    };
    return cmocka_run_group_tests_name("kernels: attention in 16 bit", tests, NULL, NULL);
}
