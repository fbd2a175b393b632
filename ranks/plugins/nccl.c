/* Cards reach each other by NCCL. The only file that includes nccl.h, built by `make nccl` where that is; the
 * library itself is opened by ranks/cards.c, and looked up here. What NCCL has no memory for or cannot do it
 * says at the call; what goes wrong later, on the card, `check` finds. */
#include <dlfcn.h>
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "../transport.h"

/* ncclCommSplit came with 2.18, the newest of them. */
#define NCCL_FUNCTIONS(X)                                                                                    \
    X(ncclGetVersion)                                                                                        \
    X(ncclGetUniqueId)                                                                                       \
    X(ncclCommInitRank)                                                                                      \
    X(ncclCommSplit)                                                                                         \
    X(ncclCommCount)                                                                                         \
    X(ncclCommUserRank)                                                                                      \
    X(ncclCommDestroy)                                                                                       \
    X(ncclCommAbort)                                                                                         \
    X(ncclCommGetAsyncError)                                                                                 \
    X(ncclGetErrorString)                                                                                    \
    X(ncclGetLastError)                                                                                      \
    X(ncclAllGather)                                                                                         \
    X(ncclAllReduce)                                                                                         \
    X(ncclReduceScatter)                                                                                     \
    X(ncclBroadcast)                                                                                         \
    X(ncclSend)                                                                                              \
    X(ncclRecv)                                                                                              \
    X(ncclGroupStart)                                                                                        \
    X(ncclGroupEnd)

static struct {
#define X(name) __typeof__(name) *name;
    NCCL_FUNCTIONS(X)
#undef X
} call;

static struct {
    const Transport *host;
    pthread_mutex_t lock;          /* of the communicators: they are asked by another thread, and go */
    ncclComm_t group[RANK_GROUPS]; /* NULL: not joined */
    cudaStream_t stream;
    char version[32], why[512];
} nccl = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int failed(ncclResult_t result, const char *function)
{
    if (result == ncclSuccess)
        return 0;
    const char *more = call.ncclGetLastError(NULL);
    snprintf(nccl.why, sizeof nccl.why, "%s: %s%s%.300s", function, call.ncclGetErrorString(result),
             more && *more ? ": " : "", more ? more : "");
    return -1;
}

static int refuse(const char *reason)
{
    snprintf(nccl.why, sizeof nccl.why, "%s", reason);
    return -1;
}

static const char *version(void *self)
{
    (void)self;
    return nccl.version;
}

static const char *why(void *self)
{
    (void)self;
    return nccl.why;
}

/* Rank 0's id by the host; all know whether it could be made. */
static int share_id(int rank, ncclUniqueId *id)
{
    struct {
        ncclUniqueId id;
        int failed;
        char why[64];
    } word;
    const Transport *host = nccl.host;
    memset(&word, 0, sizeof word);
    if (rank == 0 && (word.failed = failed(call.ncclGetUniqueId(&word.id), "ncclGetUniqueId")) != 0)
        snprintf(word.why, sizeof word.why, "%.60s", nccl.why);
    if (host->broadcast(host->self, RANKS_ALL, &word, sizeof word, 0))
        return refuse(host->why(host->self));
    *id = word.id;
    return word.failed ? refuse(word.why) : 0;
}

static int join_all(void *self, void *stream)
{
    const Transport *host = nccl.host;
    ncclUniqueId id;
    ncclComm_t all;
    int rank, size;
    (void)self;
    if (nccl.group[RANKS_ALL])
        return refuse("one context of a process joins the ranks at a time");
    if (host->rank(host->self, &rank, &size))
        return refuse(host->why(host->self));
    if (share_id(rank, &id) || failed(call.ncclCommInitRank(&all, size, id, rank), "ncclCommInitRank"))
        return -1;
    pthread_mutex_lock(&nccl.lock);
    for (int g = 0; g < RANK_GROUPS; g++)
        nccl.group[g] = all;
    nccl.stream = stream;
    pthread_mutex_unlock(&nccl.lock);
    return 0;
}

static void drop(ncclComm_t group, int aborts)
{
    if (aborts)
        call.ncclCommAbort(group);
    else
        call.ncclCommDestroy(group);
}

/* What waits for others is not locked. */
static void leave_all(void *self, int aborts)
{
    ncclComm_t gone[RANK_GROUPS];
    (void)self;
    pthread_mutex_lock(&nccl.lock);
    memcpy(gone, nccl.group, sizeof gone);
    memset(nccl.group, 0, sizeof nccl.group);
    pthread_mutex_unlock(&nccl.lock);
    for (int g = RANK_GROUPS - 1; g >= 0; g--)
        if (gone[g] && (g == RANKS_ALL || gone[g] != gone[RANKS_ALL]))
            drop(gone[g], aborts);
}

static int divide(void *self, RankGroup group, int colour, int place)
{
    ncclComm_t divided, before;
    (void)self;
    if (group == RANKS_ALL || (unsigned)group >= RANK_GROUPS)
        return refuse("all ranks are one group");
    if (failed(call.ncclCommSplit(nccl.group[RANKS_ALL], colour, place, &divided, NULL), "ncclCommSplit"))
        return -1;
    pthread_mutex_lock(&nccl.lock);
    before = nccl.group[group];
    nccl.group[group] = divided;
    pthread_mutex_unlock(&nccl.lock);
    if (before != nccl.group[RANKS_ALL])
        drop(before, 0);
    return 0;
}

static int check(void *self, char *reason, uint64_t size)
{
    ncclResult_t state = ncclSuccess;
    (void)self;
    pthread_mutex_lock(&nccl.lock);
    for (int g = 0; g < RANK_GROUPS && nccl.group[g] && state == ncclSuccess; g++)
        if (call.ncclCommGetAsyncError(nccl.group[g], &state) != ncclSuccess || state == ncclInProgress)
            state = ncclSuccess;
    if (state != ncclSuccess)
        snprintf(reason, size, "%s: %s", nccl.version, call.ncclGetErrorString(state));
    pthread_mutex_unlock(&nccl.lock);
    return state == ncclSuccess ? 0 : -1;
}

/* ---- Data, in the order of the stream ---------------------------------------------------------- */

static int gather(void *self, RankGroup group, void *data, uint64_t bytes)
{
    int own;
    (void)self;
    return failed(call.ncclCommUserRank(nccl.group[group], &own), "ncclCommUserRank") ||
           failed(call.ncclAllGather((const char *)data + (uint64_t)own * bytes, data, bytes, ncclUint8,
                                     nccl.group[group], nccl.stream),
                  "ncclAllGather");
}

/* All of them meet in one call, or each would wait for another. */
static int exchange(void *self, RankGroup group, const void *from, void *to, uint64_t bytes)
{
    ncclComm_t ranks = nccl.group[group];
    int count, wrong;
    (void)self;
    if (failed(call.ncclCommCount(ranks, &count), "ncclCommCount") ||
        failed(call.ncclGroupStart(), "ncclGroupStart"))
        return -1;
    wrong = 0;
    for (int r = 0; r < count && !wrong; r++)
        wrong =
            failed(call.ncclSend((const char *)from + (uint64_t)r * bytes, bytes, ncclUint8, r, ranks,
                                 nccl.stream),
                   "ncclSend") ||
            failed(call.ncclRecv((char *)to + (uint64_t)r * bytes, bytes, ncclUint8, r, ranks, nccl.stream),
                   "ncclRecv");
    return failed(call.ncclGroupEnd(), "ncclGroupEnd") || wrong ? -1 : 0;
}

static int broadcast(void *self, RankGroup group, void *data, uint64_t bytes, int root)
{
    (void)self;
    return failed(call.ncclBroadcast(data, data, bytes, ncclUint8, root, nccl.group[group], nccl.stream),
                  "ncclBroadcast");
}

static int sum(void *self, RankGroup group, float *data, uint64_t count)
{
    (void)self;
    return failed(call.ncclAllReduce(data, data, count, ncclFloat32, ncclSum, nccl.group[group], nccl.stream),
                  "ncclAllReduce");
}

static int sum_parts(void *self, RankGroup group, const float *from, float *to, uint64_t count)
{
    (void)self;
    return failed(
        call.ncclReduceScatter(from, to, count, ncclFloat32, ncclSum, nccl.group[group], nccl.stream),
        "ncclReduceScatter");
}

/* A send waits on the stream for its receive, and what follows waits for it: in a chain of ranks, where one
 * receives before it sends, all of them come to an end. */
static int receive(void *self, RankGroup group, void *data, uint64_t bytes, int from, int tag)
{
    (void)self, (void)tag;
    return failed(call.ncclRecv(data, bytes, ncclUint8, from, nccl.group[group], nccl.stream), "ncclRecv");
}

static int start(void *self, RankGroup group, const void *data, uint64_t bytes, int to, int tag)
{
    (void)self, (void)tag;
    return failed(call.ncclSend(data, bytes, ncclUint8, to, nccl.group[group], nccl.stream), "ncclSend");
}

static int wait_for(void *self, int tag)
{
    (void)self, (void)tag;
    return 0; /* whoever uses the buffer again does so on the stream */
}

static int begin(void *self)
{
    (void)self;
    return failed(call.ncclGroupStart(), "ncclGroupStart");
}

static int end(void *self)
{
    (void)self;
    return failed(call.ncclGroupEnd(), "ncclGroupEnd");
}

/* ---- Opening ----------------------------------------------------------------------------------- */

static int look_up(void *library, char *reason, uint64_t size)
{
    static const char *const names[] = {
#define X(name) #name,
        NCCL_FUNCTIONS(X)
#undef X
    };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        void *found = dlsym(library, names[i]);
        if (!found) {
            snprintf(reason, size, "this NCCL has no %s: 2.18 or later is needed", names[i]);
            return -1;
        }
        memcpy((char *)&call + i * sizeof found, &found, sizeof found);
    }
    return 0;
}

__attribute__((visibility("default"))) CardTransportOpen brim_card_transport;

const Transport *brim_card_transport(const Transport *host, void *library, char *reason, uint64_t size)
{
    static const Transport table = {.abi = TRANSPORT_ABI,
                                    .version = version,
                                    .why = why,
                                    .divide = divide,
                                    .gather = gather,
                                    .exchange = exchange,
                                    .broadcast = broadcast,
                                    .sum = sum,
                                    .sum_parts = sum_parts,
                                    .receive = receive,
                                    .start = start,
                                    .wait = wait_for,
                                    .begin = begin,
                                    .end = end,
                                    .join = join_all,
                                    .leave = leave_all,
                                    .check = check};
    int number = 0;
    if (look_up(library, reason, size))
        return NULL;
    nccl.host = host;
    call.ncclGetVersion(&number); /* 22809 */
    snprintf(nccl.version, sizeof nccl.version, "NCCL %d.%d.%d", number / 10000, number / 100 % 100,
             number % 100);
    return &table;
}
