/* The state of the soak, the control beside its steps, and faults that are planted to see that they are
 * found. */
#ifndef BRIM_BENCH_SOAK_H
#define BRIM_BENCH_SOAK_H

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

#include "../kernels/kernels.h"
#include "../nn/nn.h"
#include "watch.h"

enum { TIMES = 1 << 17, KEEP = 2, WRITTEN = 24, ROUND_STEPS = 6 };

typedef enum Plant {
    PLANT_NONE,
    PLANT_BYTE,
    PLANT_BLOCK,
    PLANT_MALLOC,
    PLANT_PAGE,
    PLANT_FILE,
    PLANT_THREAD,
    PLANT_SLOW,
    PLANTS
} Plant;
static const char *const plant_names[] = {"none", "byte", "block",  "malloc",
                                          "page", "file", "thread", "slow"};

/* Of each step, or of each round: seconds of the processors and of the clock, of the control beside it, the
 * log's size. */
typedef struct Times {
    double cpu[TIMES], wall[TIMES], control[TIMES], ratio[TIMES];
    uint32_t log_bytes[TIMES];
    int count;
} Times;

typedef struct Phase {
    const char *name, *about;
    double share; /* of the time */
    const ModelPreset *preset;
    int images, accumulate, loss_chunk, evaluate_every, write_every, save_every; /* 0 = never */
    int steps; /* of each run, many runs; 0 = one run until the time is over */
    double started, seconds;
    Watch watch;
    Times *times;
    int64_t done, epochs, evaluations, written, saves, rounds, off_plan;
    uint64_t save_bytes, disk_most;
    int entries_most;
    double loss_first, loss_last;
} Phase;

static struct {
    double minutes, allow;
    int threads;
    Plant plant;
    int planted;
    const char *only; /* the name of one phase, that gets all of the time */
    char folder[64], text[128], tokenizer[128], images[128], saves[128], log[128];
} soak = {.minutes = 1, .allow = 1};

/* Of seconds: everything happens often. */
static int is_short(void)
{
    return soak.minutes < 1;
}

/* Of processors, by the process or the thread. */
static double clock_seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- The control ----------------------------------------------------------------------------- */

/* What a thread works on: a product, and a pass over more than a cache holds. */
enum { CONTROL_ROWS = 128, CONTROL_SIDE = 256, CONTROL_FLOATS = 1 << 20, CONTROL_THREADS = 8 };
static float control_data[CONTROL_THREADS][CONTROL_FLOATS];

static int thread_count(void)
{
    return soak.threads ? soak.threads : kernels_default_threads();
}

/* Work that is always the same, on all threads: products and a pass over memory. What slows it down is the
 * machine. Seconds of processors. */
static double control(void)
{
    int threads = thread_count() < CONTROL_THREADS ? thread_count() : CONTROL_THREADS;
    double begin = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        float *x = control_data[t], *y = x + CONTROL_SIDE * CONTROL_SIDE,
              *z = y + CONTROL_ROWS * CONTROL_SIDE;
        for (int pass = 0; pass < 4; pass++) {
            kernels_cpu(NULL)->gemm(0, 1, CONTROL_ROWS, CONTROL_SIDE, CONTROL_SIDE, 1, y, CONTROL_SIDE, x,
                                    CONTROL_SIDE, 0, z, CONTROL_SIDE, &(KernelRun){.threads = 1});
            for (int i = 0; i < CONTROL_FLOATS; i++)
                x[i] = x[i] * 0.999f + 0.001f;
        }
    }
    return clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - begin;
}

/* ---- Planted faults -------------------------------------------------------------------------- */

static volatile double plant_sink;
static MemBlock planted_block;

static void *plant_wait(void *unused)
{
    pause();
    return unused;
}

static void plant_once(void)
{
    pthread_t thread;
    switch (soak.plant) {
    case PLANT_BYTE:
        memtrack_host_alloc(NULL, 1);
        break;
    case PLANT_BLOCK:
        memtrack_alloc(context_ledger(context_current()), 1, MEM_TEMPORARY, &planted_block);
        break;
    case PLANT_MALLOC:
        plant_sink = *(volatile char *)memset(malloc(1), 1, 1);
        break;
    case PLANT_PAGE:
        plant_sink = *(volatile char *)memset(
            mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, 1);
        break;
    case PLANT_FILE:
        open("/dev/null", O_RDONLY);
        break;
    case PLANT_THREAD:
        pthread_create(&thread, NULL, plant_wait, NULL);
        break;
    default:
        break;
    }
}

/* Once, when all is warm; a slow-down grows by a fiftieth of a step each step. */
static void plant(const Phase *phase, double step_seconds)
{
    if (soak.plant == PLANT_SLOW)
        for (double until =
                 clock_seconds(CLOCK_THREAD_CPUTIME_ID) + 0.02 * (double)phase->done * step_seconds;
             clock_seconds(CLOCK_THREAD_CPUTIME_ID) < until;)
            plant_sink = plant_sink + 1;
    else if (phase->watch.compared > 2 && !soak.planted++)
        plant_once();
}

#endif
