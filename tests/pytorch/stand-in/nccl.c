/* NCCL of one process that believes in the others: nothing is sent, and what the host wrote to the card and
 * reads again is the same on all ranks. NCCL's own buffers come from the driver, never from PyTorch's
 * allocator, so that there are no books of them here. */
#include "stand_in.h"

typedef struct Communicator {
    int ranks, rank;
} Communicator;

typedef struct UniqueId {
    char bytes[128];
} UniqueId;

enum { NO_MEMORY = 2 }; /* ncclSystemError */

static size_t bytes_of(int type) /* ncclDataType_t */
{
    static const unsigned char bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return type >= 0 && (size_t)type < sizeof bytes ? bytes[type] : 1;
}

EXPORT int ncclGetVersion(int *version)
{
    *version = 22800;
    return 0;
}

EXPORT int ncclGetUniqueId(UniqueId *id)
{
    memset(id, 1, sizeof *id);
    return 0;
}

EXPORT int ncclCommInitRankConfig(Communicator **comm, int ranks, UniqueId id, int rank, void *config)
{
    (void)id, (void)config;
    *comm = calloc(1, sizeof **comm);
    if (!*comm)
        return NO_MEMORY;
    **comm = (Communicator){ranks, rank};
    return 0;
}

EXPORT int ncclCommInitRank(Communicator **comm, int ranks, UniqueId id, int rank)
{
    return ncclCommInitRankConfig(comm, ranks, id, rank, NULL);
}

EXPORT int ncclCommInitRankScalable(Communicator **comm, int ranks, int rank, int ids, UniqueId *id,
                                    void *config)
{
    (void)ids;
    return ncclCommInitRankConfig(comm, ranks, *id, rank, config);
}

EXPORT int ncclCommCount(const Communicator *comm, int *count)
{
    *count = comm->ranks;
    return 0;
}

EXPORT int ncclCommUserRank(const Communicator *comm, int *rank)
{
    *rank = comm->rank;
    return 0;
}

EXPORT int ncclCommGetAsyncError(const Communicator *comm, int *error)
{
    (void)comm;
    *error = 0;
    return 0;
}

EXPORT const char *ncclGetErrorString(int error)
{
    return error ? "an error of the stand-in's NCCL" : "no error";
}

EXPORT const char *ncclGetLastError(const Communicator *comm)
{
    (void)comm;
    return "";
}

EXPORT int ncclAllGather(const void *from, void *to, size_t count, int type, const Communicator *comm,
                         void *stream)
{
    static __thread unsigned char values[MOST_WRITTEN];
    size_t bytes = count * bytes_of(type), all = bytes * (size_t)comm->ranks;
    (void)stream;
    if (all > sizeof values || !read_write(values, (uint64_t)from, bytes)) {
        forget_writes();
        return 0;
    }
    for (int rank = 1; rank < comm->ranks; rank++)
        memcpy(values + (size_t)rank * bytes, values, bytes);
    keep_write((uint64_t)to, values, all);
    return 0;
}

/* A list of tensors is gathered as broadcasts of every rank in turn: another rank's is what was ours. */
EXPORT int ncclBroadcast(const void *from, void *to, size_t count, int type, int root,
                         const Communicator *comm, void *stream)
{
    static const void *ours;
    if (root == comm->rank)
        ours = from;
    from = root == comm->rank ? from : ours;
    if (from && from != to)
        cudaMemcpyAsync(to, from, count * bytes_of(type), cudaMemcpyDeviceToDevice, stream);
    return 0;
}
