/* Products with stored weights, each alternated with what it is compared with; medians of a round's ratios.
 *
 *     products [--quick] [--threads N] [--rounds N]
 *
 * First brim's own product with weights of every type, against itself with fp32 weights and against the BLAS
 * library's fp32 product. Then the three products of a training step with everything in 16 bit, A, B and C,
 * against the same two. Then how fast each type decodes within the cache. Then one token: a row of x times
 * weights that no cache holds, against what reading their bytes or decoding them takes, whichever is more.
 * Without --threads, with one and with two. */
#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

#include "../base/clock_.h"
#include "../base/half_.h"
#include "../base/quant_layout_.h"
#include "../kernels/kernels.h"
#include "order.h"

enum { ROUNDS = 64, TYPES = 6, BLAS = TYPES, SIDES = TYPES + 1 };
static const DType types[TYPES] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};

typedef struct Options {
    int threads, rounds;
} Options;

typedef struct Times {
    double seconds[SIDES][ROUNDS];
    int rounds;
} Times;

/* ---- Arrays ---------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static void *array(uint64_t bytes)
{
    void *at = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
    if (!at) {
        fprintf(stderr, "products: no memory for %llu bytes\n", (unsigned long long)bytes);
        exit(1);
    }
    return at;
}

static float *numbers(int64_t n)
{
    float *x = array(4 * (uint64_t)n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)random_bits() / (float)(1u << 30) - 1.0f;
    return x;
}

/* Of random codes, with scales as weights have them. */
static StoredArray weights(DType type, int64_t rows, int64_t cols)
{
    uint64_t bytes = dtype_bytes(type, rows, cols), half = 0;
    unsigned char *at = array(bytes);
    for (; half < bytes / 2 && !dtype_is_quantized(type) && type != DTYPE_F32; half++) {
        float value = (float)random_bits() / (float)(1u << 30) - 1.0f;
        ((uint16_t *)(void *)at)[half] = type == DTYPE_BF16 ? half_to_bf16(value) : half_to_f16(value);
    }
    if (type == DTYPE_F32) {
        free(at);
        return (StoredArray){numbers(rows * cols), type, rows, cols};
    }
    if (!dtype_is_quantized(type))
        return (StoredArray){at, type, rows, cols};
    for (uint64_t i = 0; i < bytes; i++)
        at[i] = (unsigned char)random_bits();
    QuantLayout l = quant_layout(type, rows, cols);
    float *scales = (float *)(void *)(at + (type == DTYPE_NF4 ? l.group_scales : l.scales));
    int64_t count = type == DTYPE_NF4 ? l.groups + 1 : type == DTYPE_INT8 ? rows : l.blocks;
    for (int64_t i = 0; i < count; i++)
        scales[i] = 0.05f;
    return (StoredArray){at, type, rows, cols};
}

static void drop(StoredArray w)
{
    free((void *)(uintptr_t)w.at);
}

/* ---- Products -------------------------------------------------------------------------------- */

typedef struct Product {
    int64_t m, k, n;
    int trans_b; /* forward; else the gradient of x */
} Product;

static const Product products[] = {{1024, 768, 2048, 1}, {1024, 768, 2064, 1}, {2048, 768, 2304, 1},
                                   {256, 768, 2048, 1},  {64, 768, 2048, 1},   {16, 2048, 2048, 1},
                                   {1024, 256, 2048, 1}, {2048, 256, 1024, 1}, {512, 4096, 4096, 1},
                                   {1024, 2048, 768, 0}, {512, 4096, 4096, 0}, {256, 100, 1000, 1}};

/* So many that each turn takes some 20 ms at 100 GFLOP/s a thread. */
static int repeats(const Product *p, int threads)
{
    double flops = 2.0 * (double)p->m * (double)p->k * (double)p->n;
    int times = (int)(2e9 * threads / flops);
    return times < 1 ? 1 : times;
}

static double gflops(const Product *p)
{
    return 2e-9 * (double)p->m * (double)p->k * (double)p->n;
}

static double time_product(const Product *p, const StoredArray *x, const StoredArray *w, float *y,
                           void *workspace, int blas, int threads)
{
    const Kernels *kernels = kernels_cpu(NULL);
    KernelRun run = {.threads = threads};
    int times = repeats(p, threads);
    double begin = clock_now();
    for (int i = 0; i < times; i++) {
        if (blas)
            kernels->gemm(0, p->trans_b, p->m, p->n, p->k, 1, x->at, x->cols, w->at, w->cols, 0, y, p->n,
                          &run);
        else
            kernels->gemm_stored(0, p->trans_b, p->m, p->n, p->k, 1, x, w, 0, DTYPE_F32, y, p->n, workspace,
                                 &run);
    }
    return (clock_now() - begin) / times;
}

/* Of each round, how long `side` took in times of `other`. */
static double ratio(const Times *t, int side, int other)
{
    double ratios[ROUNDS], room[ROUNDS];
    for (int i = 0; i < t->rounds; i++)
        ratios[i] = t->seconds[side][i] / t->seconds[other][i];
    return order_median(ratios, t->rounds, room);
}

static void measure_product(const Options *o, const Product *p, int threads)
{
    static Times t;
    const Kernels *kernels = kernels_cpu(NULL);
    KernelRun run = {.threads = threads};
    StoredArray x = {numbers(p->m * p->k), DTYPE_F32, p->m, p->k}, w[TYPES];
    float *y = array(4 * (uint64_t)(p->m * p->n));
    void *workspace =
        array(kernels->gemm_stored_workspace(p->m, p->n, p->k, DTYPE_F32, DTYPE_F32, DTYPE_F32, &run));
    for (int i = 0; i < TYPES; i++)
        w[i] = weights(types[i], p->trans_b ? p->n : p->k, p->trans_b ? p->k : p->n);
    t.rounds = o->rounds;
    for (int round = -1; round < o->rounds; round++)
        for (int side = 0; side < SIDES; side++)
            t.seconds[side][round < 0 ? 0 : round] =
                time_product(p, &x, &w[side == BLAS ? 0 : side], y, workspace, side == BLAS, threads);
    double room[ROUNDS], blas = order_median(t.seconds[BLAS], t.rounds, room);
    printf("%-8s %5d %5d %5d  %d  %7.1f  %5.2f", p->trans_b ? "forward" : "dx", (int)p->m, (int)p->k,
           (int)p->n, threads, gflops(p) / blas, ratio(&t, 0, BLAS));
    for (int i = 1; i < TYPES; i++)
        printf("  %5.2f %5.2f", ratio(&t, i, 0), ratio(&t, i, BLAS));
    printf("\n");
    fflush(stdout);
    for (int i = 0; i < TYPES; i++)
        drop(w[i]);
    drop(x), free(y), free(workspace);
}

/* ---- Everything in 16 bit -------------------------------------------------------------------- */

/* A layer's, of `rows` rows: y = x W^T, dx = dy W, dW = dy^T x. */
typedef struct Layer {
    int64_t rows, in, out;
} Layer;

static const Layer layers[] = {{1024, 288, 768},  {1024, 768, 288},   {2048, 768, 768},  {2048, 768, 3072},
                               {2048, 3072, 768}, {1024, 2048, 2048}, {512, 4096, 4096}, {4096, 256, 256}};
enum { LAYER_TYPES = 3 }; /* the first of `types`; side BLAS is that of fp32 */

static double time_layer(const Product *p, int trans_a, const StoredArray *a, const StoredArray *b, void *c,
                         void *workspace, int blas, int threads)
{
    const Kernels *kernels = kernels_cpu(NULL);
    KernelRun run = {.threads = threads};
    int times = repeats(p, threads);
    double begin = clock_now();
    for (int i = 0; i < times; i++) {
        if (blas)
            kernels->gemm(trans_a, p->trans_b, p->m, p->n, p->k, 1, a->at, a->cols, b->at, b->cols, 0, c,
                          p->n, &run);
        else
            kernels->gemm_stored(trans_a, p->trans_b, p->m, p->n, p->k, 1, a, b, 0, a->dtype, c, p->n,
                                 workspace, &run);
    }
    return (clock_now() - begin) / times;
}

/* which: y, dx or dW */
static void measure_layer(const Options *o, const Layer *l, int which, int threads)
{
    static Times t;
    static const char *const names[] = {"forward", "dx", "dW"};
    int trans_a = which == 2, trans_b = which == 0;
    Product p = {which == 2 ? l->out : l->rows,
                 which == 0   ? l->in
                 : which == 1 ? l->out
                              : l->rows,
                 which == 0 ? l->out : l->in, trans_b};
    StoredArray a[LAYER_TYPES], b[LAYER_TYPES];
    void *c = array(4 * (uint64_t)(p.m * p.n)), *workspace[LAYER_TYPES];
    for (int i = 0; i < LAYER_TYPES; i++) {
        KernelRun run = {.threads = threads};
        a[i] = weights(types[i], trans_a ? p.k : p.m, trans_a ? p.m : p.k);
        b[i] = weights(types[i], trans_b ? p.n : p.k, trans_b ? p.k : p.n);
        workspace[i] = array(
            kernels_cpu(NULL)->gemm_stored_workspace(p.m, p.n, p.k, types[i], types[i], types[i], &run));
    }
    t.rounds = o->rounds;
    for (int round = -1; round < o->rounds; round++)
        for (int side = 0; side <= LAYER_TYPES; side++) {
            int i = side % LAYER_TYPES, blas = side == LAYER_TYPES;
            t.seconds[blas ? BLAS : side][round < 0 ? 0 : round] =
                time_layer(&p, trans_a, &a[i], &b[i], c, workspace[i], blas, threads);
        }
    double room[ROUNDS], blas = order_median(t.seconds[BLAS], t.rounds, room);
    printf("%-8s %5d %5d %5d  %d  %7.1f  %5.2f", names[which], (int)p.m, (int)p.k, (int)p.n, threads,
           gflops(&p) / blas, ratio(&t, 0, BLAS));
    for (int i = 1; i < LAYER_TYPES; i++)
        printf("  %5.2f %5.2f", ratio(&t, i, 0), ratio(&t, i, BLAS));
    printf("\n");
    fflush(stdout);
    for (int i = 0; i < LAYER_TYPES; i++)
        drop(a[i]), drop(b[i]), free(workspace[i]);
    free(c);
}

static void measure_layers(const Options *o, int threads)
{
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        for (int which = 0; which < 3; which++)
            measure_layer(o, &layers[i], which, threads);
}

/* ---- Decoding and one token ------------------------------------------------------------------ */

/* Seconds a weight, on one thread, decoded within the first two caches. */
static double time_decode(const StoredArray *w, float *y)
{
    enum { TIMES = 400 };
    const Kernels *kernels = kernels_cpu(NULL);
    KernelRun run = {.threads = 1};
    int64_t n = w->rows * w->cols;
    double begin = clock_now();
    for (int i = 0; i < TIMES; i++)
        kernels->decode(w, 0, n, y, &run);
    return (clock_now() - begin) / TIMES / (double)n;
}

static void measure_decode(const Options *o, double *seconds)
{
    enum { CHUNK = 1 << 14 };
    StoredArray w[TYPES];
    float *y = array(4 * CHUNK);
    double times[TYPES][ROUNDS], room[ROUNDS];
    for (int i = 0; i < TYPES; i++)
        w[i] = weights(types[i], 16, CHUNK / 16);
    for (int round = 0; round < o->rounds; round++)
        for (int i = 0; i < TYPES; i++)
            times[i][round] = time_decode(&w[i], y);
    printf("\ndecoding in cache, one thread, G weights/s:");
    for (int i = 0; i < TYPES; i++) {
        seconds[i] = order_median(times[i], o->rounds, room);
        printf("  %s %.1f", dtype_name(types[i]), 1e-9 / seconds[i]);
        drop(w[i]);
    }
    printf("\n\n");
    free(y);
}

static double time_token(const StoredArray *w, const float *x, float *y, int threads)
{
    LinearDims d = {.rows = 1, .in = w->cols, .out = w->rows};
    KernelRun run = {.threads = threads};
    double begin = clock_now();
    kernels_cpu(NULL)->linear_forward(&d, ACT_NONE, x, w, NULL, NULL, y, NULL, &run);
    return clock_now() - begin;
}

static double time_read(const float *x, int64_t n, int threads)
{
    int64_t fault = -1;
    KernelRun run = {.threads = threads, .fault = &fault};
    double begin = clock_now();
    int64_t bad = 0;
    kernels_cpu(NULL)->find_nonfinite(DTYPE_F32, n, x, &bad, &run);
    return bad >= 0 ? 0 : (clock_now() - begin) / (4.0 * (double)n);
}

/* Weights that need much more than the last cache, even in four bits. */
static void measure_token(const Options *o, const double *decode, int threads)
{
    static Times t;
    int64_t in = 4096, out = 65536;
    float *x = numbers(in), *y = array(4 * (uint64_t)out), *read = numbers(in * out / 4);
    for (int i = 0; i < TYPES; i++) {
        double ratios[ROUNDS], room[ROUNDS], bytes = (double)dtype_bytes(types[i], out, in);
        StoredArray w = weights(types[i], out, in);
        for (int round = 0; round < o->rounds; round++) {
            double limit = bytes * time_read(read, in * out / 4, threads);
            double decoding = (double)(in * out) * decode[i] / threads;
            t.seconds[i][round] = time_token(&w, x, y, threads);
            ratios[round] = t.seconds[i][round] / (limit > decoding ? limit : decoding);
            t.seconds[BLAS][round] = limit;
        }
        double token = order_median(t.seconds[i], o->rounds, room);
        printf("token  %-9s %d  %6.1f G weights/s  %6.1f GB/s  reading %6.1f  decoding %6.1f  ratio %5.2f\n",
               dtype_name(types[i]), threads, 1e-9 * (double)(in * out) / token, 1e-9 * bytes / token,
               1e-9 * bytes / order_median(t.seconds[BLAS], o->rounds, room), 1e-9 * threads / decode[i],
               order_median(ratios, o->rounds, room));
        fflush(stdout);
        drop(w);
    }
    free(x), free(y), free(read);
}

/* ---- Command --------------------------------------------------------------------------------- */

static int parse(int argc, char **argv, Options *o)
{
    static const struct option names[] = {
        {"quick", 0, 0, 'q'}, {"threads", 1, 0, 't'}, {"rounds", 1, 0, 'r'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == 'q')
            o->rounds = 3;
        else if (c == 't')
            o->threads = atoi(optarg);
        else if (c == 'r')
            o->rounds = atoi(optarg);
        else
            return 2;
    }
    return o->threads < 0 || o->rounds < 1 || o->rounds > ROUNDS ? 2 : 0;
}

int main(int argc, char **argv)
{
    Options o = {.rounds = 15};
    double decode[TYPES];
    if (parse(argc, argv, &o)) {
        fprintf(stderr, "usage: products [--quick] [--threads N] [--rounds N]\n");
        return 2;
    }
    int first = o.threads ? o.threads : 1, last = o.threads ? o.threads : 2;
    kernels_blas_start(last);
    printf("kernels %s, BLAS %s\n\n", kernels_cpu(NULL)->name, kernels_blas_name());
    printf("%-8s %5s %5s %5s %2s  %7s  %5s", "product", "M", "K", "N", "t", "BLAS", "own");
    for (int i = 1; i < TYPES; i++)
        printf("  %11s", dtype_name(types[i]));
    printf("\n%-30s  GFLOP/s  /BLAS  then of each type: / own fp32, / BLAS\n", "");
    for (int threads = first; threads <= last; threads++)
        for (size_t i = 0; i < sizeof products / sizeof *products; i++)
            measure_product(&o, &products[i], threads);
    printf("\n%-42s", "A, B and C of one type:");
    for (int i = 1; i < LAYER_TYPES; i++)
        printf("  %11s", dtype_name(types[i]));
    printf("\n");
    for (int threads = first; threads <= last; threads++)
        measure_layers(&o, threads);
    measure_decode(&o, decode);
    for (int threads = first; threads <= last; threads++)
        measure_token(&o, decode, threads);
    return 0;
}
