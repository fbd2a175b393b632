/* A layer of a mixture of experts, forward and backward, alternated with the replay of its products alone:
 * for each expert the BLAS library's product of as many rows as the routing gave it, on all threads. Medians
 * of a round's ratios. With --python PATH, PyTorch's time of transformers' block of the same shape beside it.
 *
 *     experts [--quick] [--threads N] [--rounds N] [--python PATH]
 *
 * Without --threads, with one and with two. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "../base/clock_.h"
#include "../base/half_.h"
#include "../kernels/experts.h"
#include "order.h"

enum { ROUNDS = 64 };

typedef struct Options {
    int threads, rounds;
    const char *python;
} Options;

/* Mixtral's proportions, those of Qwen3-MoE, and Mixtral's with one expert that gets most tokens. */
typedef struct Shape {
    const char *name;
    int64_t rows, width, hidden;
    int experts, active;
    float skew; /* how much larger the first expert's logits are */
} Shape;

static const Shape shapes[] = {
    {"mixtral", 2048, 256, 896, 8, 2, 0},
    {"mixtral-skewed", 2048, 256, 896, 8, 2, 6},
    {"mixtral-short", 128, 256, 896, 8, 2, 0},
    {"qwen3", 2048, 256, 96, 32, 8, 0},
};

/* ---- Arrays ---------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

static void *array(uint64_t bytes)
{
    void *at = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
    if (!at) {
        fprintf(stderr, "experts: no memory for %llu bytes\n", (unsigned long long)bytes);
        exit(1);
    }
    return at;
}

static float number(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 33) / (float)(1u << 30) - 1.0f;
}

static void *numbers(DType type, int64_t n, float size)
{
    float *x = array(4 * (uint64_t)n);
    for (int64_t i = 0; i < n; i++)
        x[i] = size * number();
    if (type == DTYPE_F32)
        return x;
    uint16_t *half = array(2 * (uint64_t)n);
    for (int64_t i = 0; i < n; i++)
        half[i] = type == DTYPE_BF16 ? half_to_bf16(x[i]) : half_to_f16(x[i]);
    free(x);
    return half;
}

typedef struct Layer {
    ExpertsDims d;
    void *x, *router, *dy, *y, *dx, *drouter, *kept, *routing, *workspace;
    StoredArray gate_up, down;
    ExpertsGradients g;
} Layer;

static Layer layer_new(const Shape *s, DType type, int threads)
{
    KernelRun run = {.threads = threads};
    Layer l = {.d = {s->rows, s->width, s->hidden, s->experts, s->active, 1, ACT_SILU, type, type}};
    int64_t pairs = experts_pairs(&l.d), weights = s->experts * s->hidden * s->width;
    float *logits = numbers(DTYPE_F32, s->rows * s->experts, 2);
    l.d.router = DTYPE_F32;
    for (int64_t i = 0; i < s->rows; i++)
        logits[i * s->experts] += s->skew;
    l.router = logits;
    l.x = numbers(type, s->rows * s->width, 1);
    l.dy = numbers(type, s->rows * s->width, 1);
    l.y = numbers(type, s->rows * s->width, 0);
    l.dx = numbers(type, s->rows * s->width, 0);
    l.drouter = numbers(DTYPE_F32, s->rows * s->experts, 0);
    l.kept = numbers(type, pairs * 2 * s->hidden, 0);
    l.gate_up = (StoredArray){numbers(type, 2 * weights, 0.1f), type, 2 * s->hidden, s->width};
    l.down = (StoredArray){numbers(type, weights, 0.1f), type, s->width, s->hidden};
    l.g = (ExpertsGradients){.dx = l.dx,
                             .dgate_up = numbers(type, 2 * weights, 0),
                             .ddown = numbers(type, weights, 0),
                             .dweight = numbers(DTYPE_F32, pairs, 0),
                             .gate_up_type = type,
                             .down_type = type};
    l.routing = array(experts_routing_bytes(&l.d));
    const Kernels *k = kernels_cpu(NULL);
    size_t forward = k->experts_workspace(&l.d, 0, 0, type, type, &run);
    size_t backward = k->experts_workspace(&l.d, 1, 7, type, type, &run);
    l.workspace = array(forward > backward ? forward : backward);
    return l;
}

static void layer_free(Layer *l)
{
    void *all[] = {l->x,
                   l->router,
                   l->dy,
                   l->y,
                   l->dx,
                   l->drouter,
                   l->kept,
                   l->routing,
                   l->workspace,
                   l->g.dgate_up,
                   l->g.ddown,
                   l->g.dweight,
                   (void *)(uintptr_t)l->gate_up.at,
                   (void *)(uintptr_t)l->down.at};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* ---- Times ----------------------------------------------------------------------------------- */

static double time_layer(Layer *l, int threads)
{
    const Kernels *k = kernels_cpu(NULL);
    KernelRun run = {.threads = threads};
    double begin = clock_now();
    k->experts_route(&l->d, l->router, NULL, l->routing, l->workspace, &run);
    k->experts_forward(&l->d, l->x, &l->gate_up, &l->down, l->routing, l->kept, l->y, l->workspace, &run);
    k->experts_backward(&l->d, l->x, &l->gate_up, &l->down, l->routing, l->kept, l->dy, &l->g, l->workspace,
                        &run);
    k->experts_route_backward(&l->d, l->router, NULL, l->routing, l->g.dweight, 0, l->drouter, &run);
    return clock_now() - begin;
}

/* What the replay's products read and write, in fp32. */
typedef struct Replay {
    float *wide, *narrow, *double_narrow, *up, *down, *dup, *ddown;
} Replay;

static double time_replay(const Layer *l, const Replay *r, int threads)
{
    const Kernels *k = kernels_cpu(NULL);
    KernelRun run = {.threads = threads};
    ExpertsRouting routing = experts_routing(&l->d, l->routing);
    int64_t c = l->d.width, h = l->d.hidden;
    double begin = clock_now();
    for (int e = 0; e < l->d.experts; e++) {
        int64_t first = routing.offset[e], n = routing.offset[e + 1] - first;
        float *x = r->wide + first * c, *y = r->narrow + first * h, *z = r->double_narrow + first * 2 * h;
        float *up = r->up + e * 2 * h * c, *down = r->down + e * h * c;
        k->gemm(0, 1, n, 2 * h, c, 1, x, c, up, c, 0, z, 2 * h, &run);
        k->gemm(0, 1, n, c, h, 1, y, h, down, h, 0, x, c, &run);
        k->gemm(0, 0, n, h, c, 1, x, c, down, h, 0, y, h, &run);
        k->gemm(1, 0, c, h, n, 1, x, c, y, h, 0, r->ddown + e * h * c, h, &run);
        k->gemm(1, 0, 2 * h, c, n, 1, z, 2 * h, x, c, 0, r->dup + e * 2 * h * c, c, &run);
        k->gemm(0, 0, n, c, 2 * h, 1, z, 2 * h, up, c, 0, x, c, &run);
    }
    return clock_now() - begin;
}

/* PyTorch's milliseconds; 0: it says none. */
static double torch_time(const Options *o, const Shape *s, DType type, int threads)
{
    char command[1024], answer[64] = "";
    snprintf(
        command, sizeof command,
        "%s bench/torch_experts.py --rows %d --width %d --hidden %d --experts %d --active %d --threads %d "
        "--dtype %s --rounds %d",
        o->python, (int)s->rows, (int)s->width, (int)s->hidden, s->experts, s->active, threads,
        type == DTYPE_F32 ? "float32" : "bfloat16", o->rounds);
    FILE *f = popen(command, "r");
    char *said = f ? fgets(answer, sizeof answer, f) : NULL;
    if (f)
        pclose(f);
    return said ? strtod(answer, NULL) : 0;
}

static void measure(const Options *o, const Shape *s, DType type, int threads)
{
    Layer l = layer_new(s, type, threads);
    int64_t pairs = experts_pairs(&l.d), weights = s->experts * s->hidden * s->width;
    Replay r = {numbers(0, pairs * s->width, 1),
                numbers(0, pairs * s->hidden, 1),
                numbers(0, pairs * 2 * s->hidden, 1),
                numbers(0, 2 * weights, 0.1f),
                numbers(0, weights, 0.1f),
                numbers(0, 2 * weights, 0),
                numbers(0, weights, 0)};
    double layer[ROUNDS], replay[ROUNDS], ratios[ROUNDS], room[ROUNDS];
    for (int round = -1; round < o->rounds; round++) {
        int at = round < 0 ? 0 : round;
        layer[at] = time_layer(&l, threads);
        replay[at] = time_replay(&l, &r, threads);
        ratios[at] = layer[at] / replay[at];
    }
    double flops = 18.0 * (double)pairs * (double)s->width * (double)s->hidden;
    double mine = order_median(layer, o->rounds, room), products = order_median(replay, o->rounds, room);
    printf("%-15s %-5s %d  %8.2f ms  products %8.2f ms  %6.1f GFLOP/s  ratio %5.2f", s->name,
           dtype_name(type), threads, 1e3 * mine, 1e3 * products, 1e-9 * flops / products,
           order_median(ratios, o->rounds, room));
    double torch = o->python && s->skew == 0 ? torch_time(o, s, type, threads) : 0;
    if (torch > 0)
        printf("  PyTorch %8.2f ms, %.2f times", torch, torch / (1e3 * mine));
    printf("\n");
    fflush(stdout);
    float *all[] = {r.wide, r.narrow, r.double_narrow, r.up, r.down, r.dup, r.ddown};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    layer_free(&l);
}

static int parse(int argc, char **argv, Options *o)
{
    static const struct option names[] = {{"quick", 0, 0, 'q'},    {"threads", 1, 0, 't'},
                                          {"rounds", 1, 0, 'r'},   {"python", 1, 0, 'p'},
                                          {"no-torch", 0, 0, 'n'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == 'q')
            o->rounds = 5;
        else if (c == 't')
            o->threads = atoi(optarg);
        else if (c == 'r')
            o->rounds = atoi(optarg);
        else if (c == 'p')
            o->python = optarg;
        else if (c != 'n')
            return 2;
    }
    return o->threads < 0 || o->rounds < 1 || o->rounds > ROUNDS ? 2 : 0;
}

int main(int argc, char **argv)
{
    Options o = {.rounds = 21};
    if (parse(argc, argv, &o)) {
        fprintf(stderr, "usage: experts [--quick] [--threads N] [--rounds N] [--python PATH | --no-torch]\n");
        return 2;
    }
    int first = o.threads ? o.threads : 1, last = o.threads ? o.threads : 2;
    kernels_blas_start(last);
    printf("kernels %s, BLAS %s; products of fp32\n", kernels_cpu(NULL)->name, kernels_blas_name());
    for (int threads = first; threads <= last; threads++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (int half = 0; half < 2; half++)
                measure(&o, &shapes[i], half ? DTYPE_BF16 : DTYPE_F32, threads);
    return 0;
}
