/* Which BLAS library multiplies. It is looked for when the first product is due, and not linked: planning,
 * reports and help need none, start without its 30 MiB of relocations, and a machine that has none can train
 * all the same. The choice:
 *
 *  1. what BRIM_BLAS names: a file, or "own";
 *  2. a BLAS that this program is linked with, libopenblas.so.0, libblas.so.3, libblis.so.4: the first that
 * is known to be written for the processor (OpenBLAS, BLIS, MKL);
 *  3. products of our own (gemm_own.c), which are faster than any other library is likely to be: the
 * reference BLAS, which Debian installs as libblas.so.3, takes ten to a hundred times as long.
 *
 * A library serves only if its answer to a small product is right, and not if it is an OpenBLAS built for one
 * thread (Debian's libopenblas0-serial): that shares a buffer among whoever calls it. It is never closed. */
#include "base/printable_.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "kernels/team.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <omp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum BlasKind { BLAS_PLAIN, BLAS_OPENBLAS, BLAS_BLIS, BLAS_MKL } BlasKind;

/* What serves, once found. */
typedef struct Blas {
    BlasSgemm *sgemm; /* as called; NULL = our own */
    BlasSgemm *inner; /* what a call through blas_sgemm_alone goes to */
    BlasKind kind;
    OpenBlas openblas;
    void (*blis_threads)(int64_t threads);
    int (*mkl_threads)(int threads);
    char name[128], path[256];
    char warning[640], error[640]; /* "" = none */
} Blas;

static Blas blas;
static char blas_broken[256]; /* why the first library that is there could not be used */
static pthread_once_t blas_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t blas_start_lock = PTHREAD_MUTEX_INITIALIZER;
static int blas_threads_started;

void blas_symbol(void *handle, const char *name, void *out)
{
    void *found = dlsym(handle, name);
    memcpy(out, &found, sizeof found); /* POSIX promises that this works; ISO C has no cast for it */
}

/* ---- Threads --------------------------------------------------------------------------------- */

/* Threads are ours (gemm.c): two pools would fight over the cores. Of the calling thread, where the library's
 * number of threads is each caller's own, as with OpenMP. */
static void blas_take_threads(void)
{
    if (blas.openblas.set_threads)
        blas.openblas.set_threads(1);
    if (blas.blis_threads)
        blas.blis_threads(1);
    if (blas.mkl_threads)
        blas.mkl_threads(1);
}

/* For libraries whose number of threads is the calling thread's. */
static void blas_sgemm_alone(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                             const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static _Thread_local int alone;
    if (!alone) {
        pthread_mutex_lock(&lock);
        blas_take_threads();
        pthread_mutex_unlock(&lock);
        alone = 1;
    }
    blas.inner(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/* ---- What a library is ------------------------------------------------------------------------ */

enum { BLAS_SERIAL = 0, BLAS_OPENMP = 2 }; /* of openblas_get_parallel */

static void blas_describe_openblas(Blas *found)
{
    char version[32] = "";
    found->kind = BLAS_OPENBLAS;
    sscanf(found->openblas.config(), "OpenBLAS %31s", version);
    snprintf(found->name, sizeof found->name, "OpenBLAS %s %s", version, found->openblas.core());
}

static void blas_describe_blis(Blas *found, void *handle)
{
    const char *(*version)(void), *(*text)(int);
    int (*model)(void);
    blas_symbol(handle, "bli_info_get_version_str", &version);
    blas_symbol(handle, "bli_arch_query_id", &model);
    blas_symbol(handle, "bli_arch_string", &text);
    const char *kernels = model && text ? text(model()) : "";
    /* Its own products, where it does not know the processor, are plain loops. */
    found->kind = strcmp(kernels, "generic") ? BLAS_BLIS : BLAS_PLAIN;
    snprintf(found->name, sizeof found->name, "BLIS %s %s", version ? version() : "", kernels);
}

static void blas_describe(Blas *found, void *handle)
{
    openblas_find(handle, &found->openblas);
    blas_symbol(handle, "bli_thread_set_num_threads", &found->blis_threads);
    blas_symbol(handle, "MKL_Set_Num_Threads_Local", &found->mkl_threads);
    snprintf(found->name, sizeof found->name, "an unknown BLAS");
    if (found->openblas.config && found->openblas.core) {
        blas_describe_openblas(found);
    } else if (found->blis_threads) {
        blas_describe_blis(found, handle);
    } else if (found->mkl_threads) {
        found->kind = BLAS_MKL;
        snprintf(found->name, sizeof found->name, "MKL");
    }
    int each = found->blis_threads || found->mkl_threads ||
               (found->openblas.parallel && found->openblas.parallel() == BLAS_OPENMP);
    found->inner = found->sgemm;
    found->sgemm = each ? blas_sgemm_alone : found->sgemm;
}

/* (2,3) (2,3)^T, over numbers that single precision holds exactly, added to 1. */
static int blas_multiplies(BlasSgemm *sgemm)
{
    static const float a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, -1, 2, 0, 3, 1};
    static const float right[] = {6, 10, 12, 22};
    float c[] = {1, 1, 1, 1};
    sgemm(BLAS_ROW_MAJOR, BLAS_NO_TRANS, BLAS_TRANS, 2, 2, 3, 1.0f, a, 3, b, 3, 1.0f, c, 2);
    return !memcmp(c, right, sizeof c);
}

/* ---- Looking for one -------------------------------------------------------------------------- */

/* OpenBLAS makes its threads while it is loaded; told to make none, it need not be asked to let them sleep.
 */
static void *blas_load(const char *file)
{
    int told = !getenv("OPENBLAS_NUM_THREADS") && !environment_begin("OPENBLAS_NUM_THREADS=1");
    void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (told)
        environment_end();
    return handle;
}

static void blas_note_path(Blas *found)
{
    Dl_info info;
    void *at;
    memcpy(&at, &found->inner, sizeof at);
    if (dladdr(at, &info) && info.dli_fname)
        snprintf(found->path, sizeof found->path, "%s", info.dli_fname);
}

/* Whether a shared object is whole: the loader maps a truncated one as if it were whole, and the process
 * dies. Section headers come last, so the file must reach to their end. A file of another form is left to the
 * loader, which refuses it. */
static int blas_is_whole(const char *file)
{
    ElfW(Ehdr) head;
    struct stat status;
    int from = strchr(file, '/') ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    if (from < 0)
        return 1;
    int read_all = read(from, &head, sizeof head) == (ssize_t)sizeof head && !fstat(from, &status);
    close(from);
    return !read_all || memcmp(head.e_ident, ELFMAG, SELFMAG) ||
           head.e_ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32) ||
           (uint64_t)head.e_shoff + (uint64_t)head.e_shnum * head.e_shentsize <= (uint64_t)status.st_size;
}

/* OpenBLAS maps a buffer for each thread, and tries for ever when it gets none. */
enum { BLAS_ADDRESSES = 160 << 20 };

/* Whether `ulimit -v` leaves addresses for the buffers of the usual number of threads. */
static int blas_has_room(char *why, size_t size)
{
    struct rlimit limit;
    char text[64] = "";
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return 1;
    int from = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t got = from >= 0 ? read(from, text, sizeof text - 1) : 0;
    if (from >= 0)
        close(from);
    uint64_t used = got > 0 ? strtoull(text, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
    if (used + (uint64_t)kernels_default_threads() * BLAS_ADDRESSES <= limit.rlim_cur)
        return 1;
    snprintf(why, size,
             "the process may only have %llu MiB of addresses (ulimit -v), too few for its buffers",
             (unsigned long long)(limit.rlim_cur >> 20));
    return 0;
}

/* Makes `handle` what serves. 0, or -1 with the reason in why. */
static int blas_take(void *handle, int fresh, int any, char *why, size_t size)
{
    Blas found = {0};
    blas_symbol(handle, "cblas_sgemm", &found.sgemm);
    if (!found.sgemm) {
        snprintf(why, size, "it has no cblas_sgemm");
        return -1;
    }
    openblas_find(handle, &found.openblas);
    int64_t (*blis_bits)(void);
    blas_symbol(handle, "bli_info_get_blas_int_type_size", &blis_bits);
    if ((found.openblas.config && strstr(found.openblas.config(), "USE64BITINT")) ||
        (blis_bits && blis_bits() == 64)) {
        snprintf(why, size, "its integers have 64 bits; brim calls a library whose have 32");
        return -1;
    }
    if (found.openblas.parallel && found.openblas.parallel() == BLAS_SERIAL) {
        snprintf(why, size, "it is built for one thread, and wrong when several multiply at once");
        return -1;
    }
    if (fresh)
        openblas_switch_core(&found.openblas);
    blas_describe(&found, handle);
    const char *core = found.kind == BLAS_OPENBLAS ? found.openblas.core() : NULL;
    int slow = found.kind == BLAS_PLAIN ||
               (core && openblas_better_core(core) && !openblas_chosen_core(&found.openblas));
    if (slow && !any) {
        snprintf(why, size, "%s is slower than brim's own products", found.name);
        return -1;
    }
    Blas before = blas;
    blas = found;
    blas_take_threads();
    if (!blas_multiplies(blas.sgemm)) {
        blas = before;
        snprintf(why, size, "%s multiplies wrongly", found.name);
        return -1;
    }
    blas_note_path(&blas);
    return 0;
}

/* Opens one and takes it. `any`: even a slow one. 0, or -1 with the reason in why ("" = it is not there). */
static int blas_try(const char *file, int any, char *why, size_t size)
{
    if (!blas_has_room(why, size))
        return -1;
    void *loaded = dlopen(file, RTLD_LAZY | RTLD_NOLOAD);
    int whole = loaded || blas_is_whole(file);
    void *handle = loaded ? loaded : whole ? blas_load(file) : NULL;
    why[0] = '\0';
    if (!whole) {
        snprintf(why, size, "the file is cut off");
        return -1;
    }
    if (!handle) {
        const char *text = dlerror();
        int itself = text && !strncmp(text, file, strlen(file)) && strstr(text, strerror(ENOENT));
        if (any || (text && !itself))
            snprintf(why, size, "%s", text ? text : "it cannot be loaded");
        return -1;
    }
    int status = blas_take(handle, !loaded, any, why, size);
    if (status)
        dlclose(handle);
    return status;
}

static void blas_use_own(void)
{
    blas.sgemm = NULL;
    snprintf(blas.name, sizeof blas.name, "brim's own products");
}

static void blas_find_named(const char *file)
{
    char why[320];
    blas_use_own();
    if (!strcmp(file, "own"))
        return;
    if (blas_try(file, 1, why, sizeof why))
        snprintf(blas.error, sizeof blas.error,
                 "BRIM_BLAS=%.120s: %s. Name a BLAS library that has cblas_sgemm, or \"own\" for brim's own "
                 "products, or unset it: brim then takes the fastest that it finds",
                 file, why);
    else if (blas.kind == BLAS_PLAIN)
        snprintf(blas.warning, sizeof blas.warning,
                 "BRIM_BLAS=%.120s: %s, most likely slower than brim's own products; unset it, or install "
                 "OpenBLAS (Debian: apt-get install libopenblas0-pthread)",
                 file, blas.name);
}

static void blas_find_any(void)
{
    static const char *const files[] = {"libopenblas.so.0", "libblas.so.3", "libblis.so.4"};
    char why[320] = "";
    if (dlsym(RTLD_DEFAULT, "cblas_sgemm") && !blas_take(RTLD_DEFAULT, 0, 0, why, sizeof why))
        return;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (!blas_try(files[i], 0, why, sizeof why))
            return;
        if (why[0] && !blas_broken[0])
            snprintf(blas_broken, sizeof blas_broken, "%s%s%.160s", strstr(why, files[i]) ? "" : files[i],
                     strstr(why, files[i]) ? "" : ": ", why);
    }
    blas_use_own();
    snprintf(
        blas.warning, sizeof blas.warning,
        "found no fast BLAS library%s%s%s: products are brim's own, and steps some 10 to 20 %% longer. "
        "Install OpenBLAS (Debian: apt-get install libopenblas0-pthread), or name a library in BRIM_BLAS",
        blas_broken[0] ? " (" : "", blas_broken, blas_broken[0] ? ")" : "");
}

/* Called where there is no other warning. */
static void blas_warn_of_core(void)
{
    const char *core = blas.openblas.core(), *better = openblas_better_core(core);
    const char *wanted = getenv("OPENBLAS_CORETYPE");
    if (wanted && *wanted && !openblas_chosen_core(&blas.openblas))
        snprintf(blas.warning, sizeof blas.warning,
                 "OPENBLAS_CORETYPE=%.64s is no core that this OpenBLAS has; it uses %s", wanted, core);
    else if (wanted && *wanted && better)
        snprintf(
            blas.warning, sizeof blas.warning,
            "OPENBLAS_CORETYPE=%.64s makes OpenBLAS use narrower vectors than this processor has; unset it, "
            "or set it to %s, for faster products",
            wanted, better);
    else if (better)
        snprintf(blas.warning, sizeof blas.warning,
                 "OpenBLAS uses its %s kernels, with narrower vectors than this processor has; install a "
                 "build with DYNAMIC_ARCH and %s for faster products",
                 core, better);
}

static void blas_find(void)
{
    const char *named = getenv("BRIM_BLAS");
    if (named && *named)
        blas_find_named(named);
    else
        blas_find_any();
    if (blas.sgemm && blas.kind == BLAS_OPENBLAS && !blas.warning[0])
        blas_warn_of_core();
    /* They hold names from the environment and words of the loader. */
    make_printable(blas.warning);
    make_printable(blas.error);
    make_printable(blas.path);
}

BlasSgemm *blas_sgemm(void)
{
    pthread_once(&blas_once, blas_find);
    return blas.sgemm;
}

/* Whether the process has threads that are not OpenBLAS's. */
static int others_run(const OpenBlas *library)
{
    int tasks = 0;
    DIR *directory = opendir("/proc/self/task");
    for (const struct dirent *entry; directory && (entry = readdir(directory));)
        tasks += entry->d_name[0] != '.';
    if (directory)
        closedir(directory);
    return tasks > (library->threads ? library->threads() : 1);
}

/* Where the program itself is linked with OpenBLAS, its kernels are switched before main, when nobody
 * multiplies. Where this library is loaded later and others may, they are left as they are. */
__attribute__((constructor)) static void blas_switch_linked(void)
{
    void *linked = dlopen("libopenblas.so.0", RTLD_LAZY | RTLD_NOLOAD);
    if (!linked)
        return;
    OpenBlas library;
    openblas_find(linked, &library);
    if (!others_run(&library))
        openblas_switch_core(&library);
    dlclose(linked);
}

/* ---- Starting --------------------------------------------------------------------------------- */

/* A product this large takes OpenBLAS's buffered path (its small-matrix kernels use none). */
enum { BLAS_WARM_SIDE = 32, BLAS_WARM_DEPTH = 1024, BLAS_WARM_ROUNDS = 8 };
static const float blas_warm_input[BLAS_WARM_SIDE * BLAS_WARM_DEPTH];

/* One product in every thread at the same time, so that each has its pool thread, its stack and a BLAS buffer
 * now, where failing is harmless. The library's buffers are shared: rounds make it likely that all threads
 * held one. */
static void blas_warm(int threads)
{
    const Kernels *kernels = kernels_cpu(NULL);
#pragma omp parallel num_threads(threads)
    for (int round = 0; round < BLAS_WARM_ROUNDS; round++) {
        float c[BLAS_WARM_SIDE * BLAS_WARM_SIDE];
#pragma omp barrier
        kernels->gemm(0, 1, BLAS_WARM_SIDE, BLAS_WARM_SIDE, BLAS_WARM_DEPTH, 1.0f, blas_warm_input,
                      BLAS_WARM_DEPTH, blas_warm_input, BLAS_WARM_DEPTH, 0.0f, c, BLAS_WARM_SIDE,
                      &(KernelRun){.threads = 1});
    }
}

int kernels_blas_start(int threads)
{
    if (threads < 1)
        threads = 1;
    team_settle();
    blas_sgemm();
    pthread_mutex_lock(&blas_start_lock);
    if (threads > blas_threads_started) {
        blas_warm(threads);
        blas_threads_started = threads;
    }
    pthread_mutex_unlock(&blas_start_lock);
    return blas.error[0] ? -1 : 0;
}

const char *kernels_blas_name(void)
{
    blas_sgemm();
    return blas.name;
}

const char *kernels_blas_path(void)
{
    blas_sgemm();
    return blas.path[0] ? blas.path : NULL;
}

const char *kernels_blas_warning(void)
{
    blas_sgemm();
    return blas.warning[0] ? blas.warning : NULL;
}

const char *kernels_blas_error(void)
{
    blas_sgemm();
    return blas.error[0] ? blas.error : NULL;
}
