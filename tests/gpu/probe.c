/* What tests/gpu/run asks of a card itself, over device/cuda.h. Each command prints one JSON object.
 *
 *   probe card                         what the card is, and which libraries serve it
 *   probe memory                       the card's free memory while context, kernels and cuBLAS come
 *   probe load FILE…                   how long the driver takes to load each image of kernels (PTX is
 * compiled) probe watch RUN.jsonl COMMAND…     free memory of the card while a command runs, by the steps in
 * its log probe ceilings [TOKENS]            rates of a copy and of products, among them those of GPT-2
 *   probe nccl PLUGIN                  a group of one rank by the plugin for NCCL: each call, and what it takes
 *   probe cards                        how many there are */
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/half_.h"
#include "device/cuda.h"
#include "device/cuda_find.h"
#include "kernels/kernels.h"
#include "memtrack/memtrack.h"
#include "ranks/transport.h"

enum { COMPUTE_MODE = 20, PAGEABLE_ACCESS = 88, R_32F = 0, R_16BF = 14, COMPUTE_32F = 68, COMPUTE_TF32 = 77 };
enum { NAME = 256, PATH = 1024, WORKSPACE = 32 << 20, TIMES = 5 };

static CudaDevice card;

static void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void die(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fputs("probe: ", stderr);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    exit(1);
}

static void must(const char *what, int error)
{
    if (error)
        die("%s: error %d", what, error);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *function(const char *name, const char *or_else)
{
    static void *driver;
    const char *own = getenv("BRIM_CUDA_DRIVER");
    if (!driver)
        driver = dlopen(own ? own : "libcuda.so.1", RTLD_NOW);
    void *f = driver ? dlsym(driver, name) : NULL;
    return f || !or_else ? f : dlsym(driver, or_else);
}

static size_t bytes_free(size_t *total)
{
    size_t some = 0, all = 0;
    must("free memory", cuda.memory_info(&some, &all));
    if (total)
        *total = all;
    return some;
}

static void open_card(void)
{
    char why[1200];
    if (kernels_cuda_open(&card, 0, why, sizeof why))
        die("%s", why);
}

/* Bytes that driver and programs have of the card, by NVIDIA's management library; or -1. */
static long long nvml_used(CudaMoment moment)
{
    const CudaReading *r = &card.reading[moment];
    return r->known >> CUDA_COUNTS_CARD & 1 ? (long long)r->bytes[CUDA_COUNTS_CARD] : -1;
}

static const char *or_null(long long bytes)
{
    static char text[4][32];
    static int next;
    next = (next + 1) % 4;
    snprintf(text[next], sizeof text[next], "%lld", bytes);
    return bytes < 0 ? "null" : text[next];
}

/* ---- What the card is ---------------------------------------------------------------------------- */

/* Of the process's libraries: the file that one was opened from. */
static const char *library_file(const char *part)
{
    static char path[PATH];
    char line[PATH + 128];
    FILE *maps = fopen("/proc/self/maps", "re");
    path[0] = '\0';
    while (maps && !path[0] && fgets(line, sizeof line, maps)) {
        char *name = strchr(line, '/'), *last = strrchr(line, '/');
        if (name && !strncmp(last + 1, part, strlen(part)))
            snprintf(path, sizeof path, "%.*s", (int)strcspn(name, "\n"), name);
    }
    if (maps)
        fclose(maps);
    return path;
}

static int attribute(int which)
{
    int value = -1;
    cuda.device_attribute(&value, which, card.ordinal);
    return value;
}

static int say_card(void)
{
    int driver = 0, blas = 0;
    char name[NAME] = "";
    size_t total;
    open_card();
    long long used = nvml_used(CUDA_BEFORE);
    size_t some = bytes_free(&total);
    cuda.driver_version(&driver);
    cuda.device_name(name, NAME, card.ordinal);
    cublas.version(card.blas, &blas);
    printf("{\"name\": \"%s\", \"capability\": %d, \"multiprocessors\": %d, \"bytes\": %zu, \"free\": %zu, "
           "\"compute_mode\": %d, \"reads_pageable_memory\": %d, \"used_before\": %s, \"cuda\": %d, "
           "\"cublas\": %d, ",
           name, card.capability, card.multiprocessors, total, some, attribute(COMPUTE_MODE),
           attribute(PAGEABLE_ACCESS), or_null(used), driver, blas);
    printf("\"driver_file\": \"%s\", ", library_file("libcuda.so"));
    printf("\"cublas_file\": \"%s\"}\n", library_file("libcublas.so"));
    return 0;
}

/* What opening the card takes, as a run's books have it, and by whom it is counted. */
static int say_memory(void)
{
    static const char *const counters[] = {[CUDA_COUNTS_PROCESS] = "process",
                                           [CUDA_COUNTS_CARD] = "all",
                                           [CUDA_COUNTS_DRIVER] = "driver",
                                           [CUDA_COUNTERS] = "nobody"};
    size_t total;
    open_card();
    size_t some = bytes_free(&total);
    CudaUse use = cuda_in_use(&card);
    const CudaReading *last = &card.reading[CUDA_AFTER_LIBRARY];
    printf("{\"bytes\": %zu, \"counted_by\": \"%s\", \"others\": %llu, \"context\": %llu, \"kernels\": %llu, "
           "\"library\": %llu, \"used\": %llu, \"nvml_used_before\": %s, \"nvml_used_after\": %s, "
           "\"nvml_process\": %s, \"free_after_all\": %zu}\n",
           total, counters[use.counter], (unsigned long long)use.others, (unsigned long long)use.context,
           (unsigned long long)use.kernels, (unsigned long long)use.library, (unsigned long long)use.used,
           or_null(nvml_used(CUDA_BEFORE)), or_null(nvml_used(CUDA_AFTER_LIBRARY)),
           or_null(last->known & 1 << CUDA_COUNTS_PROCESS ? (long long)last->bytes[CUDA_COUNTS_PROCESS] : -1),
           some);
    return 0;
}

/* ---- Loading kernels ----------------------------------------------------------------------------- */

/* Those that this build carries, in the order in which they are tried: code for cards, then text. */
static int say_load(void)
{
    size_t bytes;
    void *image;
    open_card();
    printf("{\"images\": [");
    for (int which = 0; (image = kernels_cuda_unpack(card.capability, which, &bytes)); which++) {
        void *module = NULL;
        int text = !strncmp(image, ".version", 8) || strstr(image, "\n.version") != NULL;
        size_t before = bytes_free(NULL);
        double start = now();
        int error = cuda.module_load(&module, image, 0, NULL, NULL);
        double seconds = now() - start;
        printf("%s{\"what\": \"%s\", \"bytes\": %zu, \"seconds\": %.4f, \"of_the_card\": %zu, \"error\": %d}",
               which ? ", " : "", text ? "PTX" : "machine code", bytes, seconds, before - bytes_free(NULL),
               error);
        memtrack_host_free(NULL, image, bytes);
    }
    printf("]}\n");
    return 0;
}

/* ---- Free memory while a command trains ---------------------------------------------------------- */

typedef struct Watch {
    int steps;
    size_t least, most;
} Watch;

/* Steps in a log that is being written. */
static int logged(const char *path)
{
    int steps = 0;
    char *line = NULL;
    size_t size = 0;
    FILE *file = fopen(path, "re");
    while (file && getline(&line, &size, file) > 0)
        steps += !strncmp(line, "{\"kind\":\"step\"", 14);
    free(line);
    if (file)
        fclose(file);
    return steps;
}

static int say_watch(const char *log, char **command)
{
    static Watch seen[1024];
    int n = 0, status = 0;
    unlink(log);
    open_card();
    size_t before = bytes_free(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(2, 1);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* it goes when this does */
        execvp(command[0], command);
        _exit(127);
    }
    while (waitpid(child, &status, WNOHANG) == 0) {
        int steps = logged(log);
        size_t some = bytes_free(NULL);
        if (steps != logged(log)) /* one ended meanwhile */
            continue;
        if (n == 0 || (seen[n - 1].steps != steps && n < 1024))
            seen[n++] = (Watch){steps, some, some};
        Watch *w = &seen[n - 1];
        w->least = some < w->least ? some : w->least;
        w->most = some > w->most ? some : w->most;
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    printf("{\"code\": %d, \"free_before\": %zu, \"free_after\": %zu, \"by_steps\": [",
           WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), before, bytes_free(NULL));
    /* What changes while steps run: of moments when graphs were made and the last had not begun to be cleared
     * up. */
    enum { GRAPHS_MADE = 4 };
    size_t least = (size_t)-1, most = 0;
    for (int i = 0; i < n; i++) {
        printf("%s{\"steps\": %d, \"least\": %zu, \"most\": %zu}", i ? ", " : "", seen[i].steps,
               seen[i].least, seen[i].most);
        if (seen[i].steps < GRAPHS_MADE || i == n - 1)
            continue;
        least = seen[i].least < least ? seen[i].least : least;
        most = seen[i].most > most ? seen[i].most : most;
    }
    printf("], \"change_after_step_4\": %s}\n", most ? or_null((long long)(most - least)) : "null");
    return 0;
}

/* ---- Ceilings ------------------------------------------------------------------------------------ */

/* Milliseconds a call, of TIMES of them, by the driver's events. */
static double timed(void (*call)(const void *), const void *of)
{
    static int (*create)(void **, unsigned), (*record)(void *, void *), (*elapsed)(float *, void *, void *);
    static void *begin, *end;
    if (!begin) {
        void *f[] = {function("cuEventCreate", NULL), function("cuEventRecord", NULL),
                     function("cuEventElapsedTime", "cuEventElapsedTime_v2")};
        if (!f[0] || !f[1] || !f[2])
            die("the driver has no events");
        memcpy(&create, &f[0], sizeof create);
        memcpy(&record, &f[1], sizeof record);
        memcpy(&elapsed, &f[2], sizeof elapsed);
        must("an event", create(&begin, 0) || create(&end, 0));
    }
    float ms = 0;
    call(of); /* warm */
    must("an event", record(begin, card.stream));
    for (int i = 0; i < TIMES; i++)
        call(of);
    must("an event", record(end, card.stream));
    must("the card", cuda_wait(&card));
    must("an event", elapsed(&ms, begin, end));
    return (double)ms / TIMES;
}

/* bytes of the card, of random numbers: a product of zeros takes less than one of numbers. */
static CudaPointer random_array(size_t bytes, int type)
{
    enum { BLOCK = 1 << 22 };
    static uint32_t block[BLOCK / 4];
    static uint64_t state = 1;
    CudaPointer at = 0;
    must("memory of the card", cuda.alloc(&at, bytes));
    for (size_t i = 0; i < BLOCK / 4; i++) {
        float x[2];
        for (int j = 0; j < 2; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            x[j] = (float)(state >> 40) / (float)(1 << 23) - 1.0f;
        }
        memcpy(&block[i], x, 4);
        if (type == R_16BF)
            block[i] = half_to_bf16(x[0]) | (uint32_t)half_to_bf16(x[1]) << 16;
    }
    size_t first = bytes < BLOCK ? bytes : BLOCK;
    must("a copy", cuda.to_device(at, block, first, card.stream));
    for (size_t done = first; done < bytes;) {
        size_t n = done < bytes - done ? done : bytes - done;
        must("a copy", cuda.on_device(at + done, at, n, card.stream));
        done += n;
    }
    must("a copy", cuda_wait(&card));
    return at;
}

typedef struct Copy {
    CudaPointer to, from;
    size_t bytes;
} Copy;

static void call_copy(const void *of)
{
    const Copy *c = of;
    must("a copy", cuda.on_device(c->to, c->from, c->bytes, card.stream));
}

typedef struct Product { /* c (m, n) column-major, of a and b that are transposed or not */
    int ta, tb, m, n, k, type, compute;
    CudaPointer a, b, c;
} Product;

static void *pointer(CudaPointer at)
{
    return (void *)(uintptr_t)at;
}

static void call_product(const void *of)
{
    const Product *p = of;
    const float one = 1, none = 0;
    must("a product", cublas.gemm(card.blas, p->ta, p->tb, p->m, p->n, p->k, &one, pointer(p->a), p->type,
                                  p->ta ? p->k : p->m, pointer(p->b), p->type, p->tb ? p->n : p->k, &none,
                                  pointer(p->c), p->type, p->m, p->compute, -1));
}

static double product_ms(Product p)
{
    size_t size = p.type == R_16BF ? 2 : 4;
    p.a = random_array((size_t)p.m * (size_t)p.k * size, p.type);
    p.b = random_array((size_t)p.n * (size_t)p.k * size, p.type);
    p.c = random_array((size_t)p.m * (size_t)p.n * size, p.type);
    double ms = timed(call_product, &p);
    must("memory of the card", cuda.release(p.a) || cuda.release(p.b) || cuda.release(p.c));
    return ms;
}

typedef struct Precision {
    const char *name;
    int type, compute;
} Precision;

/* The linear layers of GPT-2 124M, with logits of a padded width: what a step's products take. */
typedef struct Layer {
    const char *name;
    int in, out, times;
} Layer;

static double step_ms(const Precision *x, int tokens, int divide)
{
    static const Layer layers[] = {{"attention in", 768, 2304, 12},
                                   {"attention out", 768, 768, 12},
                                   {"mlp in", 768, 3072, 12},
                                   {"mlp out", 3072, 768, 12},
                                   {"head", 768, 50304, 1}};
    double all = 0;
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
        int in = layers[i].in / divide, out = layers[i].out / divide;
        /* y (tokens, out) = x W^T; dx (tokens, in) = dy W; dW (out, in) = dy^T x */
        const Product p[] = {{1, 0, out, tokens, in, x->type, x->compute, 0, 0, 0},
                             {0, 0, in, tokens, out, x->type, x->compute, 0, 0, 0},
                             {0, 1, in, out, tokens, x->type, x->compute, 0, 0, 0}};
        double ms[3], flops = 2.0 * tokens * in * out;
        for (int j = 0; j < 3; j++)
            all += layers[i].times * (ms[j] = product_ms(p[j]));
        printf("%s\"%s\": {\"forward_ms\": %.4f, \"input_gradient_ms\": %.4f, \"weight_gradient_ms\": %.4f, "
               "\"tflops\": %.1f}",
               i ? ", " : "", layers[i].name, ms[0], ms[1], ms[2],
               3 * flops / (ms[0] + ms[1] + ms[2]) * 1e-9);
    }
    return all;
}

/* tokens of a step; few of them: layers of an eighth, for a stand-in. */
static int say_ceilings(int tokens)
{
    static const Precision precisions[] = {
        {"fp32", R_32F, COMPUTE_32F}, {"tf32", R_32F, COMPUTE_TF32}, {"bf16", R_16BF, COMPUTE_32F}};
    int small = tokens < 1024, side = small ? 64 : 8192;
    CudaPointer workspace = 0;
    open_card();
    must("memory of the card", cuda.alloc(&workspace, WORKSPACE));
    must("cuBLAS", cublas.set_workspace(card.blas, pointer(workspace), WORKSPACE));
    size_t bytes = small ? 1 << 20 : bytes_free(NULL) / 16;
    bytes = bytes > (size_t)4 << 30 ? (size_t)4 << 30 : bytes;
    Copy copy = {random_array(bytes, R_32F), random_array(bytes, R_32F), bytes};
    double ms = timed(call_copy, &copy);
    cuda.release(copy.to);
    cuda.release(copy.from);
    printf("{\"copy\": {\"bytes\": %zu, \"read_and_written_per_second\": %.4g}, \"tokens\": %d", bytes,
           2e3 * (double)bytes / ms, tokens);
    for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++) {
        const Precision *x = &precisions[i];
        double square = product_ms((Product){0, 0, side, side, side, x->type, x->compute, 0, 0, 0});
        printf(", \"%s\": {\"side\": %d, \"square_tflops\": %.2f, \"layers\": {", x->name, side,
               2e-9 * side * side * side / square);
        double all = step_ms(x, tokens, small ? 8 : 1);
        printf("}, \"step_ms\": %.3f, \"tokens_per_second\": %.0f}", all, tokens / all * 1e3);
    }
    printf("}\n");
    return 0;
}

/* ---- NCCL ---------------------------------------------------------------------------------------- */

static int one_rank(void *self, int *rank, int *size)
{
    (void)self;
    *rank = 0;
    *size = 1;
    return 0;
}

static int to_itself(void *self, RankGroup group, void *data, uint64_t bytes, int root)
{
    (void)self, (void)group, (void)data, (void)bytes, (void)root;
    return 0;
}

static const Transport *open_plugin(const char *path)
{
    static const Transport alone = {.abi = TRANSPORT_ABI, .rank = one_rank, .broadcast = to_itself};
    char why[600];
    CardTransportOpen *open = NULL;
    void *plugin = dlopen(path, RTLD_NOW), *found = plugin ? dlsym(plugin, "brim_card_transport") : NULL;
    void *library = cuda_find_nccl(why, sizeof why);
    if (!found || !library)
        die("%s", found ? why : dlerror());
    memcpy(&open, &found, sizeof open);
    const Transport *t = open(&alone, library, why, sizeof why);
    if (!t)
        die("%s", why);
    return t;
}

/* From the first 16 floats of a buffer to the next ones, or to themselves. */
static void one_call(const Transport *t, int which, float *data)
{
    enum { N = 16 };
    int failed = which == 0   ? t->gather(t->self, RANKS_ALL, data, N * sizeof *data)
                 : which == 1 ? t->exchange(t->self, RANKS_ALL, data, data + N, N * sizeof *data)
                 : which == 2 ? t->sum(t->self, RANKS_ALL, data, N)
                 : which == 3 ? t->sum_parts(t->self, RANKS_ALL, data, data + N, N)
                              : t->broadcast(t->self, RANKS_ALL, data, N * sizeof *data, 0);
    if (failed)
        die("%s", t->why(t->self));
}

static int say_nccl(const char *path)
{
    enum { N = 32 };
    float values[N], back[N];
    char why[200];
    CudaPointer data = 0;
    open_card();
    must("memory of the card", cuda.alloc(&data, sizeof values));
    size_t before = bytes_free(NULL);
    const Transport *t = open_plugin(path);
    double start = now();
    if (t->join(t->self, card.stream))
        die("%s", t->why(t->self));
    double seconds = now() - start;
    size_t joined = bytes_free(NULL);
    int right = 1;
    for (int which = 0; which < 5; which++) {
        for (int i = 0; i < N; i++)
            values[i] = (float)(i < N / 2 ? 1 + i + which : 0);
        cuda_write(&card, data, sizeof values, values);
        one_call(t, which, pointer(data));
        cuda_read(&card, data, sizeof back, back);
        for (int i = 0; i < N; i++)
            right &= back[i] == (i < N / 2 ? values[i] : which == 1 || which == 3 ? values[i - N / 2] : 0.0f);
    }
    right &= !card.error && !t->check(t->self, why, sizeof why);
    size_t used = bytes_free(NULL);
    printf("{\"version\": \"%s\", \"right\": %s, \"join_seconds\": %.3f, \"taken_joining\": %lld, "
           "\"taken_by_use\": %lld, \"file\": \"%s\"}\n",
           t->version(t->self), right ? "true" : "false", seconds, (long long)before - (long long)joined,
           (long long)joined - (long long)used, library_file("libnccl.so"));
    t->leave(t->self, 0);
    return !right;
}

int main(int count, char **words)
{
    const char *command = count > 1 ? words[1] : "";
    if (!strcmp(command, "card"))
        return say_card();
    if (!strcmp(command, "memory"))
        return say_memory();
    if (!strcmp(command, "load"))
        return say_load();
    if (!strcmp(command, "watch") && count > 3)
        return say_watch(words[2], words + 3);
    if (!strcmp(command, "nccl") && count > 2)
        return say_nccl(words[2]);
    if (!strcmp(command, "cards"))
        return printf("%d\n", cuda_cards()) < 0;
    if (!strcmp(command, "ceilings"))
        return say_ceilings(count > 2 ? atoi(words[2]) : 32 * 1024);
    return fprintf(stderr, "usage: probe card|cards|memory|load|nccl|watch|ceilings …, as its source says\n"), 2;
}
