/* The driver and cuBLAS by dlopen, and what an open card is asked for. */
#include "cuda.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../memtrack/memtrack.h"
#include "cuda_find.h"
#include "graph.h"
#include "nvml.h"

CudaDriver cuda;
CudaBlas cublas;

static int symbols(void *library, void *table, const char *const *names, size_t count, const char **missing)
{
    for (size_t i = 0; i < count; i++) {
        void *f = dlsym(library, names[i]);
        if (!f)
            return *missing = names[i], -1;
        memcpy((char *)table + i * sizeof f, &f,
               sizeof f); /* C has no cast from object to function pointer */
    }
    return 0;
}
static const char *const cuda_names[] = {
#define X(name, symbol, arguments) symbol,
    CUDA_FUNCTIONS(X)
#undef X
};
static const char *const cublas_names[] = {
#define X(name, symbol, arguments) symbol,
    CUBLAS_FUNCTIONS(X)
#undef X
};

enum {
    CUDA_CARDS = 32, /* of one machine */
    ATTRIBUTE_MULTIPROCESSORS = 16,
    ATTRIBUTE_COMPUTE_MODE = 20,
    ATTRIBUTE_MAJOR = 75,
    ATTRIBUTE_MINOR = 76,
    MODE_EXCLUSIVE = 3,
    MODE_PROHIBITED = 2,
    STREAM_NON_BLOCKING = 1,
    PARTS_IN_F32 = 16 /* cuBLAS's math mode: parts of 16-bit sums meet in f32 */
};

/* What all who open a card share. */
typedef struct SharedCard {
    int refs, functions;
    void *context, *module, **function, *nvml;
    size_t total;
    CudaReading reading[CUDA_MOMENTS];
} SharedCard;

static SharedCard shared[CUDA_CARDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void cuda_error_text(int error, char *text, size_t size)
{
    const char *name = NULL;
    if (!cuda.error_name || cuda.error_name(error, &name) || !name)
        name = "an error of the driver's";
    snprintf(text, size, "%s (%d)", name, error);
}

static int says(char *why, size_t size, const char *what, int error)
{
    char text[96];
    cuda_error_text(error, text, sizeof text);
    snprintf(why, size, "%s: %s", what, text);
    return -1;
}

/* The libraries stay open: functions of theirs are in the tables above. */
static int load_driver(char *why, size_t size)
{
    const char *missing;
    int version = 0, e;
    if (!cuda.init) {
        void *library = cuda_find_driver(why, size);
        CudaDriver found;
        if (!library)
            return -1;
        if (symbols(library, &found, cuda_names, sizeof cuda_names / sizeof *cuda_names, &missing)) {
            snprintf(why, size,
                     "the driver is too old: its library has no %s; CUDA 12.0 (driver 525) is needed",
                     missing);
            return -1;
        }
        cuda = found;
    }
    if ((e = cuda.init(0)))
        return says(why, size, "the driver does not start", e);
    cuda.driver_version(&version);
    if (version >= CUDA_OLDEST_DRIVER)
        return 0;
    snprintf(why, size, "the driver serves CUDA %d.%d; 12.0 (driver 525) is needed", version / 1000,
             version % 1000 / 10);
    return -1;
}

static int load_cublas(char *why, size_t size)
{
    const char *missing;
    char path[1024];
    if (cublas.create)
        return 0;
    int driver = 0;
    cuda.driver_version(&driver);
    void *library = cuda_find_blas(driver, path, sizeof path, why, size);
    if (!library)
        return -1;
    CudaBlas found;
    if (symbols(library, &found, cublas_names, sizeof cublas_names / sizeof *cublas_names, &missing)) {
        snprintf(why, size, "%s has no %s; cuBLAS 12 or later is needed", path, missing);
        return -1;
    }
    cublas = found;
    return 0;
}

/* Which card it is, and whether it will do. */
static int look_at(CudaDevice *d, int ordinal, char *why, size_t size)
{
    int count = 0, e = cuda.device_count(&count), major = 0, minor = 0, mode = 0;
    if (e || count == 0) {
        snprintf(why, size, "the driver finds no card (error %d); CUDA_VISIBLE_DEVICES hides cards", e);
        return -1;
    }
    if (ordinal >= count || ordinal >= CUDA_CARDS) {
        snprintf(why, size, "there %s %d card%s, numbered from 0", count == 1 ? "is" : "are", count,
                 count == 1 ? "" : "s");
        return -1;
    }
    if ((e = cuda.device_get(&d->ordinal, ordinal)))
        return says(why, size, "the card does not answer", e);
    cuda.device_name(d->name, (int)sizeof d->name, d->ordinal);
    cuda.device_attribute(&major, ATTRIBUTE_MAJOR, d->ordinal);
    cuda.device_attribute(&minor, ATTRIBUTE_MINOR, d->ordinal);
    cuda.device_attribute(&mode, ATTRIBUTE_COMPUTE_MODE, d->ordinal);
    cuda.device_attribute(&d->multiprocessors, ATTRIBUTE_MULTIPROCESSORS, d->ordinal);
    d->capability = major * 10 + minor;
    if (d->capability < CUDA_OLDEST)
        snprintf(why, size,
                 "%s has compute capability %d.%d; there are kernels for 7.5 (Turing, T4) and later", d->name,
                 major, minor);
    else if (mode == MODE_PROHIBITED)
        snprintf(why, size, "%s is in compute mode 'prohibited': nvidia-smi -c 0 allows programs on it",
                 d->name);
    return d->capability < CUDA_OLDEST || mode == MODE_PROHIBITED ? -1 : 0;
}

/* The first context, and what it takes. */
static int begin(SharedCard *card, int ordinal, char *why, size_t size)
{
    unsigned char uuid[16];
    size_t left;
    int e, mode = 0;
    *card = (SharedCard){.nvml = cuda.device_uuid(uuid, ordinal) ? NULL : nvml_open(uuid)};
    cuda_take_reading(card->nvml, &card->reading[CUDA_BEFORE]);
    if ((e = cuda.context_retain(&card->context, ordinal))) {
        nvml_close(card->nvml);
        cuda.device_attribute(&mode, ATTRIBUTE_COMPUTE_MODE, ordinal);
        return says(why, size,
                    mode == MODE_EXCLUSIVE ? "the card is in exclusive use, and another program has it"
                                           : "the driver gives no context",
                    e);
    }
    cuda.context_set(card->context);
    cuda.memory_info(&left, &card->total);
    cuda_take_reading(card->nvml, &card->reading[CUDA_AFTER_CONTEXT]);
    return 0;
}

/* The driver's context and the kernels, once a process. */
static int join(CudaDevice *d, const void *image, char *why, size_t size)
{
    SharedCard *card = &shared[d->ordinal];
    int e;
    if (card->refs == 0) {
        if (begin(card, d->ordinal, why, size))
            return -1;
        if ((e = cuda.module_load(&card->module, image, 0, NULL, NULL))) {
            cuda.context_release(d->ordinal);
            nvml_close(card->nvml);
            return says(why, size, "the kernels do not load on this card", e);
        }
        cuda_take_reading(card->nvml, &card->reading[CUDA_AFTER_KERNELS]);
    }
    card->refs++;
    cuda.context_set(card->context);
    d->context = card->context;
    d->module = card->module;
    d->function = card->function;
    d->functions = card->functions;
    d->total = card->total;
    d->nvml = card->nvml;
    memcpy(d->reading, card->reading, sizeof d->reading);
    return 0;
}

static void leave(const CudaDevice *d)
{
    SharedCard *card = &shared[d->ordinal];
    if (!d->context || --card->refs > 0)
        return;
    memtrack_host_free(NULL, card->function, (size_t)card->functions * sizeof *card->function);
    cuda.module_unload(card->module);
    cuda.context_release(d->ordinal);
    nvml_close(card->nvml);
    *card = (SharedCard){0};
}

static int open_locked(CudaDevice *d, int ordinal, const void *image, char *why, size_t size)
{
    int e;
    if (load_driver(why, size) || look_at(d, ordinal, why, size) || load_cublas(why, size) ||
        join(d, image, why, size))
        return -1;
    if ((e = cuda.stream_create(&d->stream, STREAM_NON_BLOCKING)))
        return says(why, size, "the driver gives no stream", e);
    cuda_take_reading(d->nvml, &d->reading[CUDA_BEFORE_LIBRARY]);
    if ((e = cublas.create(&d->blas)) || (e = cublas.set_stream(d->blas, d->stream)) ||
        (e = cublas.set_math_mode(d->blas, PARTS_IN_F32))) {
        snprintf(why, size, "cuBLAS does not start (its status %d); it needs some memory of the card", e);
        return -1;
    }
    cuda_take_reading(d->nvml, &d->reading[CUDA_AFTER_LIBRARY]);
    d->reading[CUDA_BEFORE_TRANSPORT] = d->reading[CUDA_AFTER_TRANSPORT] = d->reading[CUDA_AFTER_LIBRARY];
    return 0;
}

static void close_locked(CudaDevice *d)
{
    if (d->blas)
        cublas.destroy(d->blas);
    if (d->stream)
        cuda.stream_destroy(d->stream);
    leave(d);
    *d = (CudaDevice){0};
}

int cuda_open(CudaDevice *d, int ordinal, const void *image, char *why, size_t size)
{
    *d = (CudaDevice){0};
    pthread_mutex_lock(&lock);
    int failed = open_locked(d, ordinal, image, why, size);
    if (failed)
        close_locked(d);
    pthread_mutex_unlock(&lock);
    return failed;
}

void cuda_close(CudaDevice *d)
{
    if (d->stream)
        cuda_wait(d);
    cuda_graphs_end(d);
    cuda_stage(d, NULL, 0);
    pthread_mutex_lock(&lock);
    close_locked(d);
    pthread_mutex_unlock(&lock);
}

void cuda_use(const CudaDevice *d)
{
    if (d->stream)
        cuda.context_set(d->context);
}

CudaUse cuda_in_use(const CudaDevice *d)
{
    CudaReading now;
    if (!d->stream)
        return (CudaUse){.counter = CUDA_COUNTERS};
    cuda_use(d);
    cuda_take_reading(d->nvml, &now);
    CudaUse use = cuda_use_between(d->reading, &now);
    use.graphs = use.used ? d->graph_bytes : 0;
    return use;
}

int cuda_driver_version(void)
{
    int version = 0;
    return cuda.init && !cuda.driver_version(&version) ? version : 0;
}

int cuda_blas_version(const CudaDevice *d)
{
    int version = 0;
    return d->blas && !cublas.version(d->blas, &version) ? version : 0;
}

static CudaDevice known;
static int is_known;

void cuda_look_known(const CudaDevice *found)
{
    is_known = found != NULL;
    if (found)
        known = *found;
}

int cuda_loaded(int ordinal)
{
    pthread_mutex_lock(&lock);
    int loaded = ordinal >= 0 && ordinal < CUDA_CARDS && shared[ordinal].refs > 0;
    pthread_mutex_unlock(&lock);
    return loaded;
}

int cuda_cards(void)
{
    char unused[512];
    int count = 0;
    pthread_mutex_lock(&lock);
    int failed = load_driver(unused, sizeof unused) || cuda.device_count(&count);
    pthread_mutex_unlock(&lock);
    return failed ? 0 : count;
}

int cuda_identity(int ordinal, unsigned char identity[16])
{
    int device;
    return ordinal < 0 || cuda_cards() <= ordinal || cuda.device_get(&device, ordinal) ||
                   cuda.device_uuid(identity, device)
               ? -1
               : 0;
}

int cuda_look(CudaDevice *d, int ordinal, char *why, size_t size)
{
    if (is_known && known.ordinal == ordinal) {
        *d = known;
        return 0;
    }
    *d = (CudaDevice){0};
    pthread_mutex_lock(&lock);
    int failed = load_driver(why, size) || look_at(d, ordinal, why, size) || load_cublas(why, size);
    pthread_mutex_unlock(&lock);
    return failed ? -1 : 0;
}

size_t cuda_workspace_bytes(int capability)
{
    return (size_t)(capability >= 90 ? 32 : 4) << 20; /* NVIDIA's advice for Hopper and later, and before */
}

int cuda_lend(CudaDevice *d, CudaPointer scratch, CudaPointer workspace, size_t workspace_bytes)
{
    d->scratch = scratch;
    d->workspace = workspace;
    d->workspace_bytes = workspace_bytes;
    /* After the stream: setting that forgets the workspace. */
    return workspace ? cublas.set_workspace(d->blas, (void *)(uintptr_t)workspace, workspace_bytes) : 0;
}

int cuda_stage(CudaDevice *d, void *memory, size_t bytes)
{
    if (d->staging)
        cuda.host_unregister(d->staging);
    d->staging = NULL;
    d->staging_bytes = d->staged = 0;
    if (!memory)
        return 0;
    int e = cuda.host_register(memory, bytes, 0);
    if (!e) {
        d->staging = memory;
        d->staging_bytes = bytes;
    }
    return e;
}

static int find_functions(SharedCard *card, const char *const *names, int count, char *why, size_t size)
{
    if (card->function)
        return 0;
    size_t bytes = (size_t)count * sizeof *card->function;
    void **function = memtrack_host_calloc(NULL, bytes);
    if (!function) {
        snprintf(why, size, "no host memory for %d kernels", count);
        return -1;
    }
    for (int i = 0; i < count; i++) {
        if (!cuda.module_function(&function[i], card->module, names[i]))
            continue;
        snprintf(why, size, "the module has no kernel %s", names[i]);
        memtrack_host_free(NULL, function, bytes);
        return -1;
    }
    card->function = function;
    card->functions = count;
    return 0;
}

int cuda_functions(CudaDevice *d, const char *const *names, int count, char *why, size_t size)
{
    SharedCard *card = &shared[d->ordinal];
    pthread_mutex_lock(&lock);
    int failed = find_functions(card, names, count, why, size);
    d->function = card->function;
    d->functions = card->functions;
    d->names = names;
    pthread_mutex_unlock(&lock);
    return failed;
}

static void keep(CudaDevice *d, int error)
{
    if (error && !d->error)
        d->error = error;
}

void cuda_launch(CudaDevice *d, int function, unsigned x, unsigned y, unsigned z, unsigned threads,
                 const void *arguments, size_t bytes)
{
    CudaCall call = {.kind = CUDA_CALL_LAUNCH,
                     .bytes = (uint32_t)bytes,
                     .function = function,
                     .x = x,
                     .y = y,
                     .z = z,
                     .threads = threads};
    cuda_put(d, call, arguments);
}

void cuda_product(CudaDevice *d, const CudaProduct *product)
{
    cuda_put(d, (CudaCall){.kind = CUDA_CALL_PRODUCT, .bytes = sizeof *product}, product);
}

static int launch(const CudaDevice *d, const CudaCall *c, const void *arguments)
{
    size_t bytes = c->bytes;
    void *extra[] = {(void *)1, (void *)(uintptr_t)arguments, (void *)2, &bytes, NULL};
    return cuda.launch(d->function[c->function], c->x, c->y, c->z, c->threads, 1, 1, 0, d->stream, NULL,
                       extra);
}

static int multiply(const CudaDevice *d, const CudaProduct *p)
{
    enum { ALGORITHM_DEFAULT = -1 };
    int status =
        cublas.gemm(d->blas, p->trans_a, p->trans_b, p->m, p->n, p->k, &p->alpha, p->a, p->type, p->lda, p->b,
                    p->type, p->ldb, &p->beta, p->c, p->c_type, p->ldc, p->compute, ALGORITHM_DEFAULT);
    return status ? CUDA_ERROR_OF_CUBLAS + status : 0;
}

int cuda_call_(const CudaDevice *d, const CudaCall *call, const void *about)
{
    const CudaClear *clear = about;
    switch (call->kind) {
    case CUDA_CALL_CLEAR:
        return cuda.set32(clear->to, 0, clear->words, d->stream);
    case CUDA_CALL_PRODUCT:
        return multiply(d, about);
    case CUDA_CALL_LAUNCH:
    default:
        return launch(d, call, about);
    }
}

static const char *blas_status(int status)
{
    switch (status) {
    case 1:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case 8:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case 11:
        return "CUBLAS_STATUS_MAPPING_ERROR";
    case 13:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 14:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case 15:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "an unknown status";
    }
}

void cuda_call_failed_(CudaDevice *d, int status, const CudaCall *call, const void *about)
{
    const CudaProduct *p = about;
    char text[96];
    if (d->error)
        return;
    keep(d, status);
    cuda_error_text(status, text, sizeof text);
    if (call->kind == CUDA_CALL_PRODUCT)
        snprintf(d->failed, sizeof d->failed,
                 "cuBLAS: %s (%d) for a product of (%" PRId64 ",%" PRId64 ") and (%" PRId64 ",%" PRId64
                 "), %s into %s",
                 blas_status(status - CUDA_ERROR_OF_CUBLAS), status - CUDA_ERROR_OF_CUBLAS, p->n, p->k, p->k,
                 p->m, p->type_name, p->c_type_name);
    else if (call->kind == CUDA_CALL_LAUNCH && d->names) /* a fault of a kernel before it may be the reason */
        snprintf(d->failed, sizeof d->failed, "%s, said when the kernel %s was launched", text,
                 d->names[call->function]);
}

int cuda_wait(CudaDevice *d)
{
    cuda_flush(d);
    keep(d, cuda.stream_wait(d->stream));
    cuda_graphs_waited_(d);
    d->staged = 0;
    return d->error;
}

void cuda_failure(const CudaDevice *d, char *text, size_t size)
{
    if (d->failed[0])
        snprintf(text, size, "%s", d->failed);
    else
        cuda_error_text(d->error, text, size);
}

/* ---- Copies ---------------------------------------------------------------------------------- */

/* Room in the staging for as many of the bytes as there is; waits when there is none. */
static unsigned char *stage(CudaDevice *d, size_t bytes, size_t *room)
{
    enum { ALIGNED = 64 };
    if (d->staged == d->staging_bytes)
        cuda_wait(d);
    unsigned char *at = d->staging + d->staged;
    size_t left = d->staging_bytes - d->staged;
    *room = bytes < left ? bytes : left;
    size_t used = (*room + ALIGNED - 1) / ALIGNED * ALIGNED;
    d->staged += used < left ? used : left;
    return at;
}

void cuda_write(CudaDevice *d, CudaPointer to, size_t bytes, const void *from)
{
    cuda_flush(d);
    if (!d->staging) {
        keep(d, cuda.to_device(to, from, bytes, d->stream));
        cuda_wait(d);
        return;
    }
    for (size_t done = 0, n; done < bytes && !d->error; done += n) {
        unsigned char *at = stage(d, bytes - done, &n);
        memcpy(at, (const char *)from + done, n);
        keep(d, cuda.to_device(to + done, at, n, d->stream));
    }
}

void cuda_read(CudaDevice *d, CudaPointer from, size_t bytes, void *to)
{
    cuda_flush(d);
    if (!d->staging) {
        keep(d, cuda.to_host(to, from, bytes, d->stream));
        cuda_wait(d);
        return;
    }
    for (size_t done = 0, n; done < bytes; done += n) {
        const unsigned char *at = stage(d, bytes - done, &n);
        if (!d->error)
            keep(d, cuda.to_host((void *)(uintptr_t)at, from + done, n, d->stream));
        if (cuda_wait(d))
            memset((char *)to + done, 0, n); /* whoever reads on reads something; the error is reported */
        else
            memcpy((char *)to + done, at, n);
    }
}

/* Whole words at once, and what is left over through the staging. */
void cuda_clear(CudaDevice *d, CudaPointer to, size_t bytes)
{
    static const unsigned char zeros[4];
    if (bytes >= 4)
        cuda_put(d, (CudaCall){.kind = CUDA_CALL_CLEAR, .bytes = sizeof(CudaClear)},
                 &(CudaClear){to, bytes / 4});
    if (bytes % 4)
        cuda_write(d, to + bytes / 4 * 4, bytes % 4, zeros);
}
