/* A stand-in for libnccl.so.2 between processes that each have a made-up card: what is put on the stream
 * happens when somebody waits for the card, in its order, and only when all ranks have come to it. As the
 * real one it refuses two ranks on one card, sums in an order of its own, and takes memory of the card
 * (STAND_IN_NCCL=MiB, 8). Calls that do not fit those of the other ranks are an error that is found later
 * (ncclCommGetAsyncError); STAND_IN_NCCL_FAIL=N makes one of the N-th. Ranks meet in a file of /dev/shm. */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#define API __attribute__((visibility("default")))
/* nccl.h's */
enum { OK = 0, UNHANDLED_CUDA = 1, SYSTEM = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE = 6 };
enum { UINT8 = 1, FLOAT32 = 7, SUM = 0 };
enum { RANKS = 8, SLOT = 1 << 20, CALLS = 256, PATIENCE = 60, NAME = 64 };
typedef struct Id {
    char internal[128];
} Id;

/* What ranks of a communicator share. */
typedef struct Meeting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int begun, size, here, waiting, failed, card[RANKS], colour[RANKS], key[RANKS];
    int64_t turn;
    uint64_t said[RANKS];
    size_t box[RANKS]
              [RANKS]; /* 1 + the bytes in the sender's slot, of a message from, to; 0: there is none */
    char slot[RANKS][SLOT];
} Meeting;

typedef struct Comm {
    Meeting *meeting;
    char name[NAME];
    int rank, size, splits, error;
    long long taken;
} Comm;

/* One call, or what a group of sends and receives is together. */
typedef enum Kind { GATHER, REDUCE, SCATTER, BROADCAST, EXCHANGE, SEND, RECEIVE } Kind;
typedef struct Call {
    Kind kind;
    Comm *comm;
    const char *from;
    char *to;
    size_t bytes; /* a rank's */
    int root;     /* or the other one of a message */
    const char *sends[RANKS];
    char *receives[RANKS];
    size_t sent[RANKS], received[RANKS];
} Call;

static int (*enqueue)(void (*)(void *), const void *, size_t), (*take)(long long);
static int (*current)(int *), (*use)(int, size_t *, unsigned char *, int *);
static int depth, calls, pending;
static Call group[CALLS];
static char last[256];

static int number(const char *name, int otherwise)
{
    return getenv(name) ? atoi(getenv(name)) : otherwise;
}

static int says(int code, const char *text)
{
    snprintf(last, sizeof last, "%s", text);
    return code;
}

static int load(void)
{
    const char *path = getenv("BRIM_CUDA_DRIVER");
    void *driver = dlopen(path ? path : "libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (!driver)
        return says(UNHANDLED_CUDA, "no driver is open");
    *(void **)&enqueue = dlsym(driver, "stand_in_enqueue");
    *(void **)&take = dlsym(driver, "stand_in_take");
    *(void **)&current = dlsym(driver, "cuCtxGetDevice");
    *(void **)&use = dlsym(driver, "stand_in_card_use");
    return enqueue && take && current && use ? OK : says(UNHANDLED_CUDA, "this is no stand-in");
}

/* ---- Meeting ---- */

static Meeting *share(const char *name)
{
    int file = shm_open(name, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, sizeof(Meeting)))
        return NULL;
    Meeting *m = mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return m == MAP_FAILED ? NULL : m;
}

/* By the first; the others wait until it is done. */
static void begin(Meeting *m, int first, int size)
{
    if (first) {
        pthread_mutexattr_t shared;
        pthread_condattr_t changes;
        pthread_mutexattr_init(&shared);
        pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
        pthread_mutex_init(&m->lock, &shared);
        pthread_condattr_init(&changes);
        pthread_condattr_setpshared(&changes, PTHREAD_PROCESS_SHARED);
        pthread_cond_init(&m->changed, &changes);
        m->size = size;
        __atomic_store_n(&m->begun, 1, __ATOMIC_RELEASE);
    }
    while (!__atomic_load_n(&m->begun, __ATOMIC_ACQUIRE))
        usleep(1000);
}

/* All are here; 0, or an error that stays. */
static int meet(Comm *c)
{
    Meeting *m = c->meeting;
    struct timespec late;
    clock_gettime(CLOCK_REALTIME, &late);
    late.tv_sec += PATIENCE;
    pthread_mutex_lock(&m->lock);
    int64_t turn = m->turn;
    if (++m->waiting == m->size) {
        m->waiting = 0;
        m->turn++;
        pthread_cond_broadcast(&m->changed);
    }
    int timeout = 0;
    while (turn == m->turn && !m->failed && !timeout)
        timeout = pthread_cond_timedwait(&m->changed, &m->lock, &late) != 0;
    if (turn == m->turn) {
        m->failed = 1;
        pthread_cond_broadcast(&m->changed);
        c->error = REMOTE;
    }
    pthread_mutex_unlock(&m->lock);
    return c->error;
}

/* Everyone says the same word of a call. */
static int agree(Comm *c, uint64_t word)
{
    Meeting *m = c->meeting;
    m->said[c->rank] = word;
    if (meet(c))
        return c->error;
    for (int r = 0; r < c->size; r++)
        if (m->said[r] != word)
            c->error = INVALID_USAGE;
    return meet(c) ? c->error : c->error;
}

/* ---- Calls, when their turn comes ---- */

static size_t piece(size_t left)
{
    return left < SLOT ? left : SLOT;
}

static void do_gather(const Call *f)
{
    Meeting *m = f->comm->meeting;
    for (size_t at = 0, n; at < f->bytes; at += n) {
        n = piece(f->bytes - at);
        memcpy(m->slot[f->comm->rank], f->from + at, n);
        if (meet(f->comm))
            return;
        for (int r = 0; r < f->comm->size; r++)
            memcpy(f->to + (size_t)r * f->bytes + at, m->slot[r], n);
        if (meet(f->comm))
            return;
    }
}

/* From the last rank to the first. */
static void add_slots(const Call *f, size_t n, char *to)
{
    const Meeting *m = f->comm->meeting;
    for (size_t i = 0; i < n / sizeof(float); i++) {
        float sum = 0;
        for (int r = f->comm->size - 1; r >= 0; r--)
            sum += ((const float *)(const void *)m->slot[r])[i];
        ((float *)(void *)to)[i] = sum;
    }
}

static void do_reduce(const Call *f)
{
    Meeting *m = f->comm->meeting;
    for (size_t at = 0, n; at < f->bytes; at += n) {
        n = piece(f->bytes - at);
        memcpy(m->slot[f->comm->rank], f->from + at, n);
        if (meet(f->comm))
            return;
        add_slots(f, n, f->to + at);
        if (meet(f->comm))
            return;
    }
}

static void do_scatter(const Call *f)
{
    Meeting *m = f->comm->meeting;
    for (int part = 0; part < f->comm->size; part++)
        for (size_t at = 0, n; at < f->bytes; at += n) {
            n = piece(f->bytes - at);
            memcpy(m->slot[f->comm->rank], f->from + (size_t)part * f->bytes + at, n);
            if (meet(f->comm))
                return;
            if (part == f->comm->rank)
                add_slots(f, n, f->to + at);
            if (meet(f->comm))
                return;
        }
}

static void do_broadcast(const Call *f)
{
    Meeting *m = f->comm->meeting;
    for (size_t at = 0, n; at < f->bytes; at += n) {
        n = piece(f->bytes - at);
        if (f->comm->rank == f->root)
            memcpy(m->slot[f->root], f->from + at, n);
        if (meet(f->comm))
            return;
        memcpy(f->to + at, m->slot[f->root], n);
        if (meet(f->comm))
            return;
    }
}

static size_t largest(const Comm *c)
{
    size_t most = 0;
    for (int r = 0; r < c->size; r++)
        most = c->meeting->said[r] > most ? c->meeting->said[r] : most;
    return most;
}

/* What is sent to one after the other; what a rank does not receive, or of another size, is an error. All
 * ranks of a communicator come to it: of more than two no pair can send by itself here. */
static void do_exchange(const Call *f)
{
    Meeting *m = f->comm->meeting;
    int own = f->comm->rank, size = f->comm->size;
    for (int to = 0; to < size; to++) {
        m->said[own] = f->sent[to];
        if (meet(f->comm))
            return;
        for (int r = 0; r < size && to == own; r++)
            if (m->said[r] != f->received[r])
                m->failed = 1;
        size_t most = largest(f->comm);
        if (meet(f->comm))
            return;
        for (size_t at = 0; at < most; at += SLOT) {
            if (at < f->sent[to])
                memcpy(m->slot[own], f->sends[to] + at, piece(f->sent[to] - at));
            if (meet(f->comm))
                return;
            for (int r = 0; r < size && to == own; r++)
                if (at < f->received[r])
                    memcpy(f->receives[r] + at, m->slot[r], piece(f->received[r] - at));
            if (meet(f->comm))
                return;
        }
    }
}

/* Until the box is full, or empty. 0, or an error that stays. */
static int await(Comm *c, const size_t *box, int full)
{
    Meeting *m = c->meeting;
    struct timespec late;
    clock_gettime(CLOCK_REALTIME, &late);
    late.tv_sec += PATIENCE;
    int timeout = 0;
    while ((*box != 0) != full && !m->failed && !timeout)
        timeout = pthread_cond_timedwait(&m->changed, &m->lock, &late) != 0;
    if ((*box != 0) != full)
        c->error = REMOTE;
    return c->error;
}

/* Until it has been received. */
static void do_send(const Call *f)
{
    Comm *c = f->comm;
    Meeting *m = c->meeting;
    size_t *box = &m->box[c->rank][f->root];
    pthread_mutex_lock(&m->lock);
    for (size_t at = 0, n; at < f->bytes && !c->error; at += n) {
        n = piece(f->bytes - at);
        memcpy(m->slot[c->rank], f->from + at, n);
        *box = 1 + n;
        pthread_cond_broadcast(&m->changed);
        await(c, box, 0);
    }
    pthread_mutex_unlock(&m->lock);
}

static void do_receive(const Call *f)
{
    Comm *c = f->comm;
    Meeting *m = c->meeting;
    size_t *box = &m->box[f->root][c->rank];
    pthread_mutex_lock(&m->lock);
    for (size_t at = 0, n; at < f->bytes && !c->error; at += n) {
        n = piece(f->bytes - at);
        if (await(c, box, 1))
            break;
        if (*box != 1 + n)
            c->error = INVALID_USAGE;
        memcpy(f->to + at, m->slot[f->root], n);
        *box = 0;
        pthread_cond_broadcast(&m->changed);
    }
    pthread_mutex_unlock(&m->lock);
}

static void run(void *data)
{
    static void (*const kinds[])(const Call *) = {do_gather,   do_reduce, do_scatter, do_broadcast,
                                                  do_exchange, do_send,   do_receive};
    Call *f = data;
    uint64_t word = (uint64_t)f->kind << 56 ^ (uint64_t)f->root << 48 ^ f->bytes;
    if (f->comm->error || (f->kind < SEND && agree(f->comm, word)))
        return;
    kinds[f->kind](f);
    if (f->comm->meeting->failed && !f->comm->error)
        f->comm->error = REMOTE;
}

static int put(const Call *f)
{
    static int count;
    if (++count == number("STAND_IN_NCCL_FAIL", -1))
        f->comm->error = REMOTE;
    return enqueue(run, f, sizeof *f) ? says(UNHANDLED_CUDA, "the driver takes nothing") : OK;
}

/* ---- nccl.h's functions ---- */

API int ncclGroupStart(void)
{
    depth++;
    return OK;
}

API int ncclGroupEnd(void)
{
    int status = OK;
    if (depth < 1)
        return says(INVALID_USAGE, "no group has begun");
    if (--depth)
        return OK;
    for (int i = 0; i < calls && !status; i++)
        status = put(&group[i]);
    calls = pending = 0;
    return status;
}

static int call_of(const Call *f, void *stream)
{
    if (!f->comm || !stream)
        return says(INVALID_ARGUMENT, "no communicator, or no stream");
    if (!depth)
        return put(f);
    if (calls == CALLS)
        return says(INVALID_USAGE, "the group is too large");
    group[calls++] = *f;
    return OK;
}

API int ncclAllGather(const void *from, void *to, size_t count, int type, Comm *comm, void *stream)
{
    Call f = {.kind = GATHER, .comm = comm, .from = from, .to = to, .bytes = count};
    return type == UINT8 ? call_of(&f, stream) : says(INVALID_ARGUMENT, "only bytes are gathered here");
}

API int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, Comm *comm, void *stream)
{
    Call f = {.kind = REDUCE, .comm = comm, .from = from, .to = to, .bytes = count * sizeof(float)};
    return type == FLOAT32 && op == SUM ? call_of(&f, stream) : says(INVALID_ARGUMENT, "only sums of floats");
}

API int ncclReduceScatter(const void *from, void *to, size_t count, int type, int op, Comm *comm,
                          void *stream)
{
    Call f = {.kind = SCATTER, .comm = comm, .from = from, .to = to, .bytes = count * sizeof(float)};
    return type == FLOAT32 && op == SUM ? call_of(&f, stream) : says(INVALID_ARGUMENT, "only sums of floats");
}

API int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, Comm *comm, void *stream)
{
    Call f = {.kind = BROADCAST, .comm = comm, .from = from, .to = to, .bytes = count, .root = root};
    return type == UINT8 ? call_of(&f, stream) : says(INVALID_ARGUMENT, "only bytes are sent here");
}

/* Sends and receives of one group are one call. */
static Call *exchange_of(Comm *comm)
{
    if ((pending && group[calls - 1].comm != comm) || (!pending && calls == CALLS))
        return NULL;
    if (!pending)
        group[calls++] = (Call){.kind = EXCHANGE, .comm = comm};
    pending = 1;
    return &group[calls - 1];
}

static int is_wrong(const Comm *comm, int type, int peer, const void *stream)
{
    return !comm || !stream || type != UINT8 || peer < 0 || peer >= comm->size;
}

API int ncclSend(const void *from, size_t count, int type, int peer, Comm *comm, void *stream)
{
    if (is_wrong(comm, type, peer, stream) || (!depth && peer == comm->rank))
        return says(INVALID_ARGUMENT, "no such message");
    if (!depth)
        return put(&(Call){.kind = SEND, .comm = comm, .from = from, .bytes = count, .root = peer});
    Call *f = exchange_of(comm);
    if (!f || f->sends[peer])
        return says(INVALID_USAGE, "two messages to a rank in a group");
    f->sends[peer] = from;
    f->sent[peer] = count;
    return OK;
}

API int ncclRecv(void *to, size_t count, int type, int peer, Comm *comm, void *stream)
{
    if (is_wrong(comm, type, peer, stream) || (!depth && peer == comm->rank))
        return says(INVALID_ARGUMENT, "no such message");
    if (!depth)
        return put(&(Call){.kind = RECEIVE, .comm = comm, .to = to, .bytes = count, .root = peer});
    Call *f = exchange_of(comm);
    if (!f || f->receives[peer])
        return says(INVALID_USAGE, "two messages from a rank in a group");
    f->receives[peer] = to;
    f->received[peer] = count;
    return OK;
}

API int ncclGetVersion(int *version)
{
    *version = 22809;
    return OK;
}

API int ncclGetUniqueId(Id *id)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/brim-nccl-%d-%lx", (int)getpid(), (long)now.tv_nsec);
    return OK;
}

static Comm *comm_new(const char *name, int rank, int size)
{
    Comm *c = calloc(1, sizeof *c);
    long long bytes = (long long)number("STAND_IN_NCCL", 8) << 20;
    if (!c)
        return NULL;
    *c = (Comm){.meeting = share(name), .rank = rank, .size = size};
    snprintf(c->name, sizeof c->name, "%s", name);
    if (c->meeting && !take(bytes))
        c->taken = bytes;
    if (!c->meeting || (bytes && !c->taken))
        return free(c), NULL;
    begin(c->meeting, rank == 0, size);
    return c;
}

API int ncclCommInitRank(Comm **comm, int size, Id id, int rank)
{
    int device, slice;
    size_t out[4];
    unsigned char uuid[16];
    if (load())
        return UNHANDLED_CUDA;
    if (size < 1 || size > RANKS || rank < 0 || rank >= size)
        return says(INVALID_ARGUMENT, "no such rank");
    if (current(&device) || !use(device, out, uuid, &slice))
        return says(UNHANDLED_CUDA, "no card is current");
    Comm *c = comm_new(id.internal, rank, size);
    if (!c)
        return says(SYSTEM, "no memory of the card, or none that ranks share");
    c->meeting->card[rank] = uuid[15];
    if (meet(c))
        return says(REMOTE, "a rank did not come");
    if (rank == 0)
        shm_unlink(c->name);
    int duplicate = 0;
    for (int a = 0; a < size; a++)
        for (int b = 0; b < a; b++)
            duplicate |= c->meeting->card[a] == c->meeting->card[b];
    *comm = c;
    return duplicate ? says(INVALID_USAGE, "Duplicate GPU detected") : OK;
}

API int ncclCommSplit(Comm *comm, int colour, int key, Comm **made, void *config)
{
    Meeting *m = comm->meeting;
    char name[NAME + 32];
    int rank = 0, size = 0, first = -1;
    (void)config;
    m->colour[comm->rank] = colour;
    m->key[comm->rank] = key;
    if (meet(comm))
        return says(REMOTE, "a rank did not come");
    for (int r = 0; r < comm->size; r++) {
        int mine = m->colour[r] == colour;
        size += mine;
        rank += mine && (m->key[r] < key || (m->key[r] == key && r < comm->rank));
        first = mine && first < 0 ? r : first;
    }
    snprintf(name, sizeof name, "%.40s-%d-%d", comm->name, ++comm->splits, first);
    *made = comm_new(name, rank, size);
    if (meet(comm) || !*made)
        return says(SYSTEM, "no memory of the card, or none that ranks share");
    if (rank == 0)
        shm_unlink((*made)->name);
    return OK;
}

API int ncclCommCount(const Comm *comm, int *count)
{
    *count = comm->size;
    return OK;
}

API int ncclCommUserRank(const Comm *comm, int *rank)
{
    *rank = comm->rank;
    return OK;
}

API int ncclCommGetAsyncError(Comm *comm, int *error)
{
    *error = comm->error;
    return OK;
}

static int end(Comm *comm)
{
    take(-comm->taken);
    munmap(comm->meeting, sizeof *comm->meeting);
    free(comm);
    return OK;
}

/* Waits for the others. */
API int ncclCommDestroy(Comm *comm)
{
    meet(comm);
    return end(comm);
}

/* The others' calls fail. */
API int ncclCommAbort(Comm *comm)
{
    Meeting *m = comm->meeting;
    pthread_mutex_lock(&m->lock);
    m->failed = 1;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    comm->error = REMOTE; /* what is queued still sees it: it stays */
    return OK;
}

API const char *ncclGetErrorString(int error)
{
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error"};
    return error >= 0 && error < 7 ? texts[error] : "unknown";
}

API const char *ncclGetLastError(Comm *comm)
{
    (void)comm;
    return last;
}
