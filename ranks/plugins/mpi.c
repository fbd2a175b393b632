/* Ranks reach each other by MPI. The only file that includes mpi.h, built by `make mpi` with each MPI's own
 * compiler into a library that ranks/join.c loads; nothing here asks for memory but MPI. MPI_THREAD_FUNNELED
 * is enough: one thread calls. */
#include <ctype.h>
#include <limits.h>
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../transport.h"

enum { TEXT = 400, TOGETHER = 64 };

static struct {
    MPI_Comm group[RANK_GROUPS];
    MPI_Datatype unit; /* 64 bytes, so that counts, which are int, reach 128 GiB */
    MPI_Request started[TRANSPORT_TAGS];
    MPI_Request gathers[TOGETHER]; /* between begin and end */
    int together, gathering;       /* whether we are there, and how many they are */
    int rank, size, node_rank, node_size;
    int ours; /* MPI was not initialized before */
    char version[MPI_MAX_LIBRARY_VERSION_STRING], why[TEXT + 64];
} mpi;

/* Whether a call failed; then why() says what MPI says of it. */
static int failed(int code, const char *function)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (code == MPI_SUCCESS)
        return 0;
    MPI_Error_string(code, text, &length);
    snprintf(mpi.why, sizeof mpi.why, "%s: %.*s", function, length < TEXT ? length : TEXT, text);
    return -1;
}

static int refuse(const char *reason)
{
    snprintf(mpi.why, sizeof mpi.why, "%s", reason);
    return -1;
}

static const char *version(void *self)
{
    (void)self;
    return mpi.version;
}

static const char *why(void *self)
{
    (void)self;
    return mpi.why;
}

static int rank_of(void *self, int *rank, int *size)
{
    (void)self;
    *rank = mpi.rank;
    *size = mpi.size;
    return 0;
}

static int node(void *self, int *rank, int *size)
{
    (void)self;
    *rank = mpi.node_rank;
    *size = mpi.node_size;
    return 0;
}

static int divide(void *self, RankGroup group, int colour, int place)
{
    MPI_Comm divided;
    (void)self;
    if (group == RANKS_ALL || (unsigned)group >= RANK_GROUPS)
        return refuse("all ranks are one group");
    if (failed(MPI_Comm_split(mpi.group[RANKS_ALL], colour, place, &divided), "MPI_Comm_split"))
        return -1;
    if (mpi.group[group] != mpi.group[RANKS_ALL])
        MPI_Comm_free(&mpi.group[group]);
    mpi.group[group] = divided;
    return failed(MPI_Comm_set_errhandler(divided, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

static int barrier(void *self, RankGroup group)
{
    (void)self;
    return failed(MPI_Barrier(mpi.group[group]), "MPI_Barrier");
}

/* So many bytes as a count of bytes, or of units where int does not reach. */
static int count_of(uint64_t bytes, MPI_Datatype *type, int *count)
{
    uint64_t units = bytes <= INT_MAX ? bytes : bytes / TRANSPORT_UNIT;
    *type = bytes <= INT_MAX ? MPI_BYTE : mpi.unit;
    *count = (int)units;
    if (units > INT_MAX || (bytes > INT_MAX && bytes % TRANSPORT_UNIT != 0))
        return refuse("a message of more than 2 GiB has to be a multiple of 64 bytes, and 128 GiB at most");
    return 0;
}

static int units_of(uint64_t bytes, int *count)
{
    if (bytes % TRANSPORT_UNIT != 0 || bytes / TRANSPORT_UNIT > INT_MAX)
        return refuse("a rank's part has to be a multiple of 64 bytes, and 128 GiB at most");
    *count = (int)(bytes / TRANSPORT_UNIT);
    return 0;
}

static int wait_for_gathers(void)
{
    MPI_Status statuses[TOGETHER]; /* MPI_STATUSES_IGNORE is an array of none to gcc, with MPICH's header */
    int count = mpi.gathering;
    mpi.gathering = 0;
    return failed(MPI_Waitall(count, mpi.gathers, statuses), "MPI_Waitall");
}

static int begin(void *self)
{
    (void)self;
    mpi.together = 1;
    return 0;
}

static int later(void *self)
{
    (void)self;
    mpi.together = 0;
    return 0;
}

static int end(void *self)
{
    (void)self;
    mpi.together = 0;
    return wait_for_gathers();
}

static int gather(void *self, RankGroup group, void *data, uint64_t bytes)
{
    MPI_Datatype type;
    int count;
    (void)self;
    if (mpi.together && mpi.gathering == TOGETHER && wait_for_gathers())
        return -1;
    if (mpi.together)
        return count_of(bytes, &type, &count) ||
               failed(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, count, type, mpi.group[group],
                                     &mpi.gathers[mpi.gathering++]),
                      "MPI_Iallgather");
    return count_of(bytes, &type, &count) ||
           failed(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, count, type, mpi.group[group]),
                  "MPI_Allgather");
}

static int exchange(void *self, RankGroup group, const void *from, void *to, uint64_t bytes)
{
    int count;
    (void)self;
    return units_of(bytes, &count) ||
           failed(MPI_Alltoall(from, count, mpi.unit, to, count, mpi.unit, mpi.group[group]), "MPI_Alltoall");
}

static int broadcast(void *self, RankGroup group, void *data, uint64_t bytes, int root)
{
    MPI_Datatype type;
    int count;
    (void)self;
    return count_of(bytes, &type, &count) ||
           failed(MPI_Bcast(data, count, type, root, mpi.group[group]), "MPI_Bcast");
}

static int sum(void *self, RankGroup group, float *data, uint64_t count)
{
    enum { PIECE = 1 << 30 };
    (void)self;
    for (uint64_t at = 0, n; at < count; at += n) {
        n = count - at < PIECE ? count - at : PIECE;
        if (failed(MPI_Allreduce(MPI_IN_PLACE, data + at, (int)n, MPI_FLOAT, MPI_SUM, mpi.group[group]),
                   "MPI_Allreduce"))
            return -1;
    }
    return 0;
}

static int sum_parts(void *self, RankGroup group, const float *from, float *to, uint64_t count)
{
    (void)self;
    if (count > INT_MAX)
        return refuse("a rank's part of a sum has 2147483647 elements at most");
    return failed(MPI_Reduce_scatter_block(from, to, (int)count, MPI_FLOAT, MPI_SUM, mpi.group[group]),
                  "MPI_Reduce_scatter_block");
}

static int receive(void *self, RankGroup group, void *data, uint64_t bytes, int from, int tag)
{
    MPI_Datatype type;
    MPI_Status status;
    int count, got = 0;
    (void)self;
    if (count_of(bytes, &type, &count) ||
        failed(MPI_Recv(data, count, type, from, tag, mpi.group[group], &status), "MPI_Recv"))
        return -1;
    MPI_Get_count(&status, type, &got);
    return got == count ? 0 : refuse("the ranks sent different sizes");
}

static int start(void *self, RankGroup group, const void *data, uint64_t bytes, int to, int tag)
{
    MPI_Datatype type;
    int count;
    (void)self;
    if ((unsigned)tag >= TRANSPORT_TAGS || mpi.started[tag] != MPI_REQUEST_NULL)
        return refuse("a message of this tag is on its way");
    return count_of(bytes, &type, &count) ||
           failed(MPI_Isend(data, count, type, to, tag, mpi.group[group], &mpi.started[tag]), "MPI_Isend");
}

static int wait_for(void *self, int tag)
{
    (void)self;
    if ((unsigned)tag >= TRANSPORT_TAGS)
        return refuse("there is no such tag");
    return failed(MPI_Wait(&mpi.started[tag], MPI_STATUS_IGNORE), "MPI_Wait");
}

static void close_all(void *self)
{
    int done = 0;
    (void)self;
    if (MPI_Finalized(&done) != MPI_SUCCESS || done || !mpi.ours)
        return;
    for (int g = RANK_GROUPS - 1; g >= 0; g--)
        if (mpi.group[g] != mpi.group[RANKS_ALL] || g == RANKS_ALL)
            MPI_Comm_free(&mpi.group[g]);
    MPI_Type_free(&mpi.unit);
    MPI_Finalize();
}

/* Another thread may be inside MPI for ever, so MPI_Abort may be too: then an alarm ends this process, and
 * the launcher the others. */
static void abort_all(void *self)
{
    sigset_t alarms;
    (void)self;
    signal(SIGALRM, SIG_DFL);
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
    alarm(3);
    MPI_Abort(MPI_COMM_WORLD, 1);
    _exit(1);
}

/* "Open MPI v4.1.4, package: …" and "MPICH Version:      4.0.2" with a page below it: what is before the
 * comma, single spaces. */
static void one_line(char *text)
{
    char *to = text;
    text[strcspn(text, ",\n")] = 0;
    for (const char *from = text; *from; from++)
        if (!isspace((unsigned char)*from) || (to > text && to[-1] != ' '))
            *to++ = (char)(isspace((unsigned char)*from) ? ' ' : *from);
    *to = 0;
}

/* Groups are all ranks until they are divided. */
static int prepare(void)
{
    MPI_Comm here;
    int length = 0;
    MPI_Get_library_version(mpi.version, &length);
    one_line(mpi.version);
    if (failed(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler") ||
        failed(MPI_Comm_dup(MPI_COMM_WORLD, &mpi.group[RANKS_ALL]), "MPI_Comm_dup") ||
        failed(MPI_Comm_set_errhandler(mpi.group[RANKS_ALL], MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler") ||
        failed(MPI_Comm_rank(mpi.group[RANKS_ALL], &mpi.rank), "MPI_Comm_rank") ||
        failed(MPI_Comm_size(mpi.group[RANKS_ALL], &mpi.size), "MPI_Comm_size") ||
        failed(
            MPI_Comm_split_type(mpi.group[RANKS_ALL], MPI_COMM_TYPE_SHARED, mpi.rank, MPI_INFO_NULL, &here),
            "MPI_Comm_split_type") ||
        failed(MPI_Comm_rank(here, &mpi.node_rank), "MPI_Comm_rank") ||
        failed(MPI_Comm_size(here, &mpi.node_size), "MPI_Comm_size") ||
        failed(MPI_Comm_free(&here), "MPI_Comm_free") ||
        failed(MPI_Type_contiguous(TRANSPORT_UNIT, MPI_BYTE, &mpi.unit), "MPI_Type_contiguous") ||
        failed(MPI_Type_commit(&mpi.unit), "MPI_Type_commit"))
        return -1;
    for (int g = 0; g < RANK_GROUPS; g++)
        mpi.group[g] = mpi.group[RANKS_ALL];
    for (int tag = 0; tag < TRANSPORT_TAGS; tag++)
        mpi.started[tag] = MPI_REQUEST_NULL;
    return 0;
}

__attribute__((visibility("default"))) TransportOpen brim_transport;

const Transport *brim_transport(char *reason, uint64_t size)
{
    static const Transport table = {.abi = TRANSPORT_ABI,
                                    .version = version,
                                    .why = why,
                                    .rank = rank_of,
                                    .node = node,
                                    .divide = divide,
                                    .barrier = barrier,
                                    .gather = gather,
                                    .exchange = exchange,
                                    .broadcast = broadcast,
                                    .sum = sum,
                                    .sum_parts = sum_parts,
                                    .receive = receive,
                                    .start = start,
                                    .wait = wait_for,
                                    .begin = begin,
                                    .later = later,
                                    .end = end,
                                    .close = close_all,
                                    .abort = abort_all};
    int have = 0, level = MPI_THREAD_SINGLE;
    MPI_Initialized(&have);
    mpi.ours = !have;
    if (failed(have ? MPI_Query_thread(&level) : MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level),
               "MPI_Init_thread") ||
        (level < MPI_THREAD_FUNNELED &&
         refuse("this MPI was built, or initialized, without MPI_THREAD_FUNNELED")) ||
        prepare()) {
        snprintf(reason, size, "%s", mpi.why);
        return NULL;
    }
    return &table;
}
