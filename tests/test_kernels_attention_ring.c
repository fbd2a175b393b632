/* Attention over a cache that holds the tokens of a window, however a text is cut: every table that runs here
 * against the reference's attention of the whole text. */
#include "base/half_.h"
#include "products_support.h"

/* A text, and what reference attention makes of all of it at once. Rows are (B,N,heads,D) and (B,N,Hkv,D);
 * heads of q, k and v may lie apart. */
typedef struct Ring {
    AttentionDims d; /* its window is the capacity of the cache */
    int tokens;
    float *q, *k, *v, *out, *cache;
} Ring;

/* Tokens [past, past + n) of every sample. */
static float *ring_part(const Ring *r, const float *of, int64_t width, int past, int n)
{
    float *part = buffer(r->d.batch * n * width);
    for (int b = 0; b < r->d.batch; b++)
        memcpy(part + b * n * width, of + ((int64_t)b * r->tokens + past) * width,
               (size_t)(n * width) * sizeof *part);
    return part;
}

/* As the operation does it: one token is put in and then sees what is there, of more each sees rows that are
 * laid out for them. */
static void ring_forward(const Kernels *kernels, Ring *r, int past, int n, int threads)
{
    AttentionDims d = r->d;
    int64_t row = (int64_t)d.heads * d.head_dim, q_row = d.ldq, kv_row = d.ldk;
    d.past = past, d.seq = n;
    AttentionDims all = d;
    if (n > 1)
        all.past = past < d.window ? past : d.window - 1, all.capacity = d.window - 1 + n;
    int64_t nwork = (int64_t)(kernels->attention_cached_workspace(&all, on(threads)) / sizeof(float));
    int64_t nrows = 2 * d.batch * (int64_t)d.kv_heads * d.head_dim * (d.window - 1 + n);
    float *q = ring_part(r, r->q, q_row, past, n), *k = ring_part(r, r->k, kv_row, past, n);
    float *v = ring_part(r, r->v, kv_row, past, n), *expected = ring_part(r, r->out, row, past, n);
    float *rows = filled_buffer(nrows, NAN), *other = filled_buffer(nrows, NAN);
    float *work = filled_buffer(nwork, NAN), *out = filled_buffer(d.batch * n * row, NAN);
    if (n > 1) {
        kernels->attention_unroll(&d, k, v, r->cache, rows, on(threads));
        kernels_reference()->attention_unroll(&d, k, v, r->cache, other, on(1));
        assert_same_bits("rows of a window", nrows, rows, other);
        kernels->attention_cached(&all, q, rows, out, work, on(threads));
    }
    kernels->attention_append(&d, k, v, r->cache, on(threads));
    if (n == 1)
        kernels->attention_cached(&d, q, r->cache, out, work, on(threads));
    assert_near("attention over a window's cache", d.batch * n * row, out, expected, 2e-5);
    drop(q, d.batch * n * q_row), drop(k, d.batch * n * kv_row), drop(v, d.batch * n * kv_row);
    drop(expected, d.batch * n * row), drop(out, d.batch * n * row);
    drop(rows, nrows), drop(other, nrows), drop(work, nwork);
}

static void check_ring(const Kernels *kernels, AttentionDims d, const int chunks[4], int threads)
{
    enum { TOKENS = 150 };
    int64_t row = (int64_t)d.heads * d.head_dim, step = attention_head_step(&d);
    int64_t q_row = d.heads * step, kv_row = d.kv_heads * step;
    int64_t rows = (int64_t)d.batch * TOKENS,
            ncache = 2 * (int64_t)d.batch * d.kv_heads * d.head_dim * d.window;
    d.capacity = d.window, d.causal = 1, d.scale = 0.4f;
    d.ldq = q_row, d.ldo = row, d.ldk = d.ldv = kv_row;
    Ring r = {d,
              TOKENS,
              random_buffer(rows * q_row),
              random_buffer(rows * kv_row),
              random_buffer(rows * kv_row),
              buffer(rows * row),
              filled_buffer(ncache, NAN)};
    for (int64_t i = 0; i < rows * kv_row && d.cached == DTYPE_BF16; i++) { /* what a cache can hold */
        r.k[i] = half_from_bf16(half_to_bf16(r.k[i]));
        r.v[i] = half_from_bf16(half_to_bf16(r.v[i]));
    }
    float *lse = buffer(rows * d.heads);
    d.seq = TOKENS;
    kernels_reference()->attention_flash_forward(&d, r.q, r.k, r.v, r.out, lse, NULL, on(1));
    for (int past = 0, i = 0; past < TOKENS; i++) {
        int n = chunks[i % 4] < TOKENS - past ? chunks[i % 4] : TOKENS - past;
        ring_forward(kernels, &r, past, n, threads);
        past += n;
    }
    drop(r.q, rows * q_row), drop(r.k, rows * kv_row), drop(r.v, rows * kv_row), drop(r.out, rows * row);
    drop(r.cache, ncache), drop(lse, rows * d.heads);
}

static void test_attention_cached_window(void **state)
{
    (void)state;
    static const int windows[] = {1, 2, 7, 64, 70, 149}, teams[] = {1, 3};
    static const int chunks[][4] = {{1, 1, 1, 1}, {3, 1, 1, 8}, {75, 1, 1, 30}, {1, 2, 90, 1}};
    for (int isa = -1; isa < TABLES; isa++) {
        const Kernels *kernels = isa < 0 ? kernels_reference() : table_of(isa);
        for (int i = 0; kernels && i < 6 * 4 * 2 * 2; i++) {
            AttentionDims d = {.batch = 1 + i % 2, .heads = 2 + i % 3, .kv_heads = 1, .head_dim = 5};
            if (i % 4 == 3)
                d.kv_heads = d.heads, d.head_step = 3 * d.head_dim;
            d.window = windows[i % 6];
            d.cached = i / 24 % 2 ? DTYPE_BF16 : DTYPE_F32;
            d.softcap = i % 5 ? 0 : 0.7f;
            if (!full_form() && (i + i / 6) % (isa == CARD ? 9 : 3) != (isa + 1) % 3)
                continue;
            check_ring(kernels, d, chunks[i / 6 % 4], teams[i / 48]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention_cached_window),
    };
    return cmocka_run_group_tests_name("kernels: a window's cache", tests, NULL, NULL);
}
