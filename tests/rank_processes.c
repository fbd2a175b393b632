#include "rank_processes.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../ranks/transport.h"

enum { MOST = 4, SLOT = 1 << 20 };

/* On its way from one rank to another; 0 bytes: nothing is. */
typedef struct Message {
    uint64_t bytes;
    char data[SLOT];
} Message;

/* Everyone shows a piece of his data in his slot, waits, copies what is his, waits. */
typedef struct Meeting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int size, failed;
    int waiting[RANK_GROUPS][MOST]; /* by colour */
    int64_t turn[RANK_GROUPS][MOST];
    int colour[RANK_GROUPS][MOST], place[RANK_GROUPS][MOST];
    uint64_t bytes[MOST];
    char slot[MOST][SLOT];
    Message message[MOST][MOST]; /* from, to */
} Meeting;

typedef struct Member {
    Meeting *meeting;
    int rank;
    char why[96];
} Member;

static Member me;

static int fail(const char *why)
{
    snprintf(me.why, sizeof me.why, "%s", why);
    return -1;
}

/* The ranks of this group, by their place in it. Returns how many. */
static int members_of(RankGroup group, int members[MOST], int *own)
{
    const Meeting *all = me.meeting;
    int count = 0;
    for (int r = 0; r < all->size; r++)
        if (all->colour[group][r] == all->colour[group][me.rank]) {
            members[all->place[group][r]] = r;
            count++;
        }
    *own = all->place[group][me.rank];
    return count;
}

static int meet(RankGroup group)
{
    Meeting *all = me.meeting;
    int members[MOST], own, count = members_of(group, members, &own), colour = all->colour[group][me.rank];
    pthread_mutex_lock(&all->lock);
    int64_t turn = all->turn[group][colour];
    if (++all->waiting[group][colour] == count) {
        all->waiting[group][colour] = 0;
        all->turn[group][colour]++;
        pthread_cond_broadcast(&all->changed);
    }
    while (turn == all->turn[group][colour] && !all->failed)
        pthread_cond_wait(&all->changed, &all->lock);
    int failed = turn == all->turn[group][colour];
    pthread_mutex_unlock(&all->lock);
    return failed ? fail("a rank has stopped") : 0;
}

/* One piece lies in everyone's slot. */
static int show(RankGroup group, const void *from, uint64_t bytes)
{
    Meeting *all = me.meeting;
    int members[MOST], own, count = members_of(group, members, &own);
    memcpy(all->slot[me.rank], from, bytes);
    all->bytes[me.rank] = bytes;
    if (meet(group))
        return -1;
    for (int i = 0; i < count; i++)
        if (all->bytes[members[i]] != bytes)
            return fail("the ranks sent different sizes");
    return 0;
}

static const char *version(void *self)
{
    (void)self;
    return "processes";
}

static const char *why(void *self)
{
    (void)self;
    return me.why;
}

static int rank_of(void *self, int *rank, int *size)
{
    (void)self;
    *rank = me.rank;
    *size = me.meeting->size;
    return 0;
}

static int divide(void *self, RankGroup group, int colour, int place)
{
    (void)self;
    if (meet(RANKS_ALL))
        return -1;
    me.meeting->colour[group][me.rank] = colour;
    me.meeting->place[group][me.rank] = place;
    return meet(RANKS_ALL);
}

static int barrier(void *self, RankGroup group)
{
    (void)self;
    return meet(group);
}

static int gather(void *self, RankGroup group, void *data, uint64_t bytes)
{
    int members[MOST], own, count = members_of(group, members, &own);
    char *to = data;
    (void)self;
    for (uint64_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < SLOT ? bytes - at : SLOT;
        if (show(group, to + (uint64_t)own * bytes + at, n))
            return -1;
        for (int i = 0; i < count; i++)
            if (i != own)
                memcpy(to + (uint64_t)i * bytes + at, me.meeting->slot[members[i]], n);
        if (meet(group))
            return -1;
    }
    return 0;
}

/* A piece for one after the other. */
static int exchange(void *self, RankGroup group, const void *from, void *to, uint64_t bytes)
{
    int members[MOST], own, count = members_of(group, members, &own);
    (void)self;
    for (int part = 0; part < count; part++)
        for (uint64_t at = 0, n; at < bytes; at += n) {
            n = bytes - at < SLOT ? bytes - at : SLOT;
            if (show(group, (const char *)from + (uint64_t)part * bytes + at, n))
                return -1;
            for (int i = 0; i < count && part == own; i++)
                memcpy((char *)to + (uint64_t)i * bytes + at, me.meeting->slot[members[i]], n);
            if (meet(group))
                return -1;
        }
    return 0;
}

static int broadcast(void *self, RankGroup group, void *data, uint64_t bytes, int root)
{
    int members[MOST], own;
    (void)self;
    members_of(group, members, &own);
    if (bytes > SLOT)
        return fail("too long");
    if (show(group, data, bytes))
        return -1;
    memcpy(data, me.meeting->slot[members[root]], bytes);
    return meet(group);
}

/* Backwards: not the order of ranks, as a library's need not be. */
static int sum(void *self, RankGroup group, float *data, uint64_t count)
{
    int members[MOST], own, ranks = members_of(group, members, &own);
    (void)self;
    for (uint64_t at = 0, n; at < count; at += n) {
        n = count - at < SLOT / sizeof *data ? count - at : SLOT / sizeof *data;
        if (show(group, data + at, n * sizeof *data))
            return -1;
        for (uint64_t i = 0; i < n; i++) {
            data[at + i] = 0;
            for (int r = ranks - 1; r >= 0; r--)
                data[at + i] += ((const float *)(const void *)me.meeting->slot[members[r]])[i];
        }
        if (meet(group))
            return -1;
    }
    return 0;
}

/* Whether the message is there, or gone, or a rank has stopped; with the lock. */
static int await(const Message *message, int there)
{
    Meeting *all = me.meeting;
    while ((message->bytes != 0) != there && !all->failed)
        pthread_cond_wait(&all->changed, &all->lock);
    return (message->bytes != 0) != there ? fail("a rank has stopped") : 0;
}

static int start(void *self, RankGroup group, const void *data, uint64_t bytes, int to, int tag)
{
    Meeting *all = me.meeting;
    int members[MOST], own;
    (void)self;
    (void)tag;
    members_of(group, members, &own);
    Message *message = &all->message[me.rank][members[to]];
    if (bytes > SLOT)
        return fail("too long");
    pthread_mutex_lock(&all->lock);
    int failed = await(message, 0);
    if (!failed) {
        memcpy(message->data, data, bytes);
        message->bytes = bytes;
        pthread_cond_broadcast(&all->changed);
    }
    pthread_mutex_unlock(&all->lock);
    return failed;
}

/* What is sent has been copied. */
static int wait_for(void *self, int tag)
{
    (void)self;
    (void)tag;
    return 0;
}

static int receive(void *self, RankGroup group, void *data, uint64_t bytes, int from, int tag)
{
    Meeting *all = me.meeting;
    int members[MOST], own;
    (void)self;
    (void)tag;
    members_of(group, members, &own);
    Message *message = &all->message[members[from]][me.rank];
    pthread_mutex_lock(&all->lock);
    int failed = await(message, 1);
    if (!failed && message->bytes != bytes)
        failed = fail("the ranks sent different sizes");
    if (!failed) {
        memcpy(data, message->data, bytes);
        message->bytes = 0;
        pthread_cond_broadcast(&all->changed);
    }
    pthread_mutex_unlock(&all->lock);
    return failed;
}

static void give_up(void *self)
{
    Meeting *all = me.meeting;
    (void)self;
    pthread_mutex_lock(&all->lock);
    all->failed = 1;
    pthread_cond_broadcast(&all->changed);
    pthread_mutex_unlock(&all->lock);
}

static void leave(void *self)
{
    (void)self;
}

static void run(Meeting *meeting, const Ranks *ranks, int rank, RankBody *body, void *user)
{
    static const Transport table = {.abi = TRANSPORT_ABI,
                                    .version = version,
                                    .why = why,
                                    .rank = rank_of,
                                    .node = rank_of,
                                    .divide = divide,
                                    .barrier = barrier,
                                    .gather = gather,
                                    .exchange = exchange,
                                    .broadcast = broadcast,
                                    .sum = sum,
                                    .receive = receive,
                                    .start = start,
                                    .wait = wait_for,
                                    .close = leave,
                                    .abort = give_up};
    Ranks own = *ranks;
    me = (Member){.meeting = meeting, .rank = rank};
    own.rank = own.node_rank = rank;
    own.node_size = ranks->size;
    own.transport = &table;
    int status = body(&own, user);
    if (status)
        give_up(NULL);
    fflush(NULL);
    _exit(status ? 1 : 0);
}

static void begin(Meeting *meeting, int size)
{
    pthread_mutexattr_t shared;
    pthread_condattr_t changes;
    pthread_mutexattr_init(&shared);
    pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&meeting->lock, &shared);
    pthread_condattr_init(&changes);
    pthread_condattr_setpshared(&changes, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&meeting->changed, &changes);
    meeting->size = size;
    for (int g = 0; g < RANK_GROUPS; g++)
        for (int r = 0; r < size; r++)
            meeting->place[g][r] = r;
}

int as_processes(const Ranks *ranks, RankBody *body, void *user)
{
    Meeting *meeting = processes_shared(sizeof *meeting);
    int failed = 0, status;
    if (!meeting || ranks->size < 1 || ranks->size > MOST)
        return -1;
    begin(meeting, ranks->size);
    me.meeting = meeting;
    fflush(NULL);
    for (int r = 0; r < ranks->size; r++) {
        pid_t child = fork();
        if (child == 0)
            run(meeting, ranks, r, body, user);
        if (child < 0)
            give_up(NULL);
    }
    while (wait(&status) > 0)
        if (!WIFEXITED(status) || WEXITSTATUS(status)) {
            give_up(NULL);
            failed++;
        }
    processes_shared_end(meeting, sizeof *meeting);
    return failed;
}

void *processes_shared(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void processes_shared_end(void *memory, size_t bytes)
{
    if (memory)
        munmap(memory, bytes);
}
