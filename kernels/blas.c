/* The BLAS library underneath, once a process: which of its kernels run, and its buffers and threads warmed
 * up.
 *
 * OpenBLAS picks kernels from a list of processor models while it is loaded, and a processor newer than the
 * list gets a guess: 0.3.21 serves Intel's family 6, model 207 (AVX-512) with SSE3 kernels, a tenth of its
 * speed. We ask the processor what it can do instead. Everything of OpenBLAS is a weak reference: another
 * library is left alone. */
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "kernels/team.h"

#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>

#define BLAS_WEAK __attribute__((weak))
extern void gotoblas_dynamic_quit(void) BLAS_WEAK;
extern void gotoblas_dynamic_init(void) BLAS_WEAK;
extern char *openblas_get_corename(void) BLAS_WEAK;
extern char *openblas_get_config(void) BLAS_WEAK;
extern void openblas_set_num_threads(int threads) BLAS_WEAK;

/* A product this large takes OpenBLAS's buffered path (its small-matrix kernels use none). */
enum { BLAS_WARM_SIDE = 32, BLAS_WARM_DEPTH = 1024, BLAS_WARM_ROUNDS = 8 };
static const float blas_warm_input[BLAS_WARM_SIDE * BLAS_WARM_DEPTH];

static pthread_once_t blas_core_once = PTHREAD_ONCE_INIT;
static pthread_once_t blas_threads_once = PTHREAD_ONCE_INIT;
static pthread_once_t blas_text_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t blas_start_lock = PTHREAD_MUTEX_INITIALIZER;
static int blas_threads_started;
static char blas_name[128];
static char blas_warning[256];

int blas_cpu_has_avx2(void)
{
#ifdef __x86_64__
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
#else
    return 0;
#endif
}

int blas_cpu_has_avx512(void)
{
#ifdef __x86_64__
    return blas_cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
#else
    return 0;
#endif
}

static int blas_is_one_of(const char *core, const char *const *names)
{
    for (; *names; names++)
        if (!strcmp(core, *names))
            return 1;
    return 0;
}

/* Vector width, in bits, of the kernels of an OpenBLAS core; 0 for cores we do not know: those are left
 * alone. */
static int blas_core_width(const char *core)
{
    static const char *const wide[] = {"SkylakeX", "Cooperlake", "SapphireRapids", NULL};
    static const char *const middle[] = {"Haswell", "Zen", "Excavator", NULL};
    static const char *const narrow[] = {
        "Katmai",    "Coppermine", "Northwood", "Prescott",    "Banias",     "Core2",        "Atom",
        "Penryn",    "Dunnington", "Nehalem",   "Sandybridge", "Athlon",     "Opteron_SSE3", "Opteron",
        "Barcelona", "Bobcat",     "Nano",      "Bulldozer",   "Piledriver", "Steamroller",  NULL};
    if (blas_is_one_of(core, wide))
        return 512;
    if (blas_is_one_of(core, middle))
        return 256;
    return blas_is_one_of(core, narrow) ? 128 : 0;
}

/* The core whose kernels this processor should run instead of `core`; NULL = it is served well. */
static const char *blas_better_core(const char *core)
{
    int width = blas_core_width(core);
    if (!width)
        return NULL;
    if (blas_cpu_has_avx512() && width < 512)
        return "SkylakeX";
    if (blas_cpu_has_avx2() && width < 256)
        return "Haswell";
    return NULL;
}

static void blas_switch_core(void)
{
    const char *chosen = getenv("OPENBLAS_CORETYPE");
    if ((chosen && *chosen) || !gotoblas_dynamic_quit || !gotoblas_dynamic_init || !openblas_get_corename)
        return;
    const char *better = blas_better_core(openblas_get_corename());
    if (!better)
        return;
    /* The variable is the only way to name a core; taken away again, for it is not ours to hand to child
     * processes. */
    setenv("OPENBLAS_CORETYPE", better, 1);
    gotoblas_dynamic_quit();
    gotoblas_dynamic_init();
    unsetenv("OPENBLAS_CORETYPE");
}

/* A constructor, because switching is safe only while nobody multiplies: before main, that is certain. It
 * takes some 35 microseconds where it switches, and next to nothing where it does not. */
__attribute__((constructor)) static void blas_choose_core(void)
{
    pthread_once(&blas_core_once, blas_switch_core);
}

static void blas_take_threads(void)
{
    if (openblas_set_num_threads)
        openblas_set_num_threads(1); /* two pools would fight over the cores */
}

void blas_prepare(void)
{
    blas_choose_core();
    pthread_once(&blas_threads_once, blas_take_threads);
}

/* One product in every thread at the same time, so that each has its pool thread, its stack and a BLAS buffer
 * now, where failing is harmless. The library's buffers are shared: rounds make it likely that all threads
 * held one. */
static void blas_warm(int threads)
{
#pragma omp parallel num_threads(threads)
    for (int round = 0; round < BLAS_WARM_ROUNDS; round++) {
        float c[BLAS_WARM_SIDE * BLAS_WARM_SIDE];
#pragma omp barrier
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, BLAS_WARM_SIDE, BLAS_WARM_SIDE, BLAS_WARM_DEPTH,
                    1.0f, blas_warm_input, BLAS_WARM_DEPTH, blas_warm_input, BLAS_WARM_DEPTH, 0.0f, c,
                    BLAS_WARM_SIDE);
    }
}

int kernels_blas_start(int threads)
{
    if (threads < 1)
        threads = 1;
    team_settle();
    blas_prepare();
    pthread_mutex_lock(&blas_start_lock);
    if (threads > blas_threads_started) {
        blas_warm(threads);
        blas_threads_started = threads;
    }
    pthread_mutex_unlock(&blas_start_lock);
    return 0;
}

static void blas_write_text(void)
{
    blas_choose_core();
    if (!openblas_get_corename || !openblas_get_config) {
        snprintf(blas_name, sizeof blas_name, "BLAS (not OpenBLAS)");
        return;
    }
    const char *core = openblas_get_corename();
    char version[32] = "";
    sscanf(openblas_get_config(), "OpenBLAS %31s", version);
    snprintf(blas_name, sizeof blas_name, "OpenBLAS %s %s", version, core);

    const char *better = blas_better_core(core);
    if (!better)
        return;
    const char *chosen = getenv("OPENBLAS_CORETYPE");
    if (chosen && *chosen)
        snprintf(
            blas_warning, sizeof blas_warning,
            "OPENBLAS_CORETYPE=%s makes OpenBLAS use narrower vectors than this processor has; unset it, or "
            "set it to %s, for faster products",
            chosen, better);
    else
        snprintf(blas_warning, sizeof blas_warning,
                 "OpenBLAS uses its %s kernels, with narrower vectors than this processor has; install a "
                 "build with "
                 "DYNAMIC_ARCH and %s for faster products",
                 core, better);
}

const char *kernels_blas_name(void)
{
    pthread_once(&blas_text_once, blas_write_text);
    return blas_name;
}

const char *kernels_blas_warning(void)
{
    pthread_once(&blas_text_once, blas_write_text);
    return *blas_warning ? blas_warning : NULL;
}

/* Processors a control group's quota is worth (cgroup v2's cpu.max), rounded up; 0 = no quota. */
static int blas_quota_processors(void)
{
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!file)
        return 0;
    long quota = 0, period = 0;
    int read = fscanf(file, "%ld %ld", &quota, &period);
    fclose(file);
    return read == 2 && quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int kernels_default_threads(void)
{
    const char *wanted = getenv("BRIM_THREADS");
    if (wanted && atoi(wanted) > 0)
        return atoi(wanted);
    int processors = team_processors();
    int quota = blas_quota_processors();
    if (quota && quota < processors)
        processors = quota;
    return processors > 0 ? processors : 1;
}
