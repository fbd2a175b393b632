#include "rank_threads.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../ranks/transport.h"

enum { MOST = 32, GATHERS = 64 };

/* What is received is a copy of what was there when the message left, and it has to be there still when its
 * sender has waited: nobody may write to what is on its way. */
typedef struct Message {
    const void *data; /* the sender's; NULL: there is none, or somebody has it */
    void *copy;
    uint64_t bytes;
    int taken;
} Message;

/* What all of them share. Everyone shows where his data lie, waits, copies, waits. */
typedef struct Meeting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int size, failed;
    int waiting[RANK_GROUPS][MOST]; /* by colour */
    int64_t turn[RANK_GROUPS][MOST];
    int colour[RANK_GROUPS][MOST], place[RANK_GROUPS][MOST];
    const void *shown[RANK_GROUPS][MOST];
    uint64_t bytes[RANK_GROUPS][MOST];
    Message message[MOST][MOST][TRANSPORT_TAGS]; /* from, to */
} Meeting;

typedef struct Member {
    Transport table;
    Meeting *meeting;
    Ranks ranks;
    RankBody *body;
    void *user;
    int status;
    char why[160];
    int together, pending; /* gathers that are over at end */
    struct {
        RankGroup group;
        void *data;
        uint64_t bytes;
    } gathers[GATHERS];
    Message *started[TRANSPORT_TAGS];
    const void *sent[TRANSPORT_TAGS];
} Member;

static int fail(Member *m, const char *why)
{
    snprintf(m->why, sizeof m->why, "%s", why);
    return -1;
}

/* The ranks of this group, in its order; returns how many, and *at which of them this is. */
static int members_of(const Member *m, RankGroup group, int members[MOST], int *at)
{
    const Meeting *all = m->meeting;
    int count = 0;
    for (int r = 0; r < all->size; r++)
        if (all->colour[group][r] == all->colour[group][m->ranks.rank])
            members[count++] = r;
    for (int i = 1; i < count; i++)
        for (int j = i; j > 0 && all->place[group][members[j]] < all->place[group][members[j - 1]]; j--) {
            int r = members[j];
            members[j] = members[j - 1];
            members[j - 1] = r;
        }
    for (int i = 0; i < count; i++)
        if (members[i] == m->ranks.rank)
            *at = i;
    return count;
}

/* together: all have shown their data and come here whatever happens to others, since they may be reading
 * each other's. */
static int meet_all(Member *m, RankGroup group, int together)
{
    Meeting *all = m->meeting;
    int members[MOST], at = 0, count = members_of(m, group, members, &at),
                       colour = all->colour[group][m->ranks.rank];
    pthread_mutex_lock(&all->lock);
    int64_t turn = all->turn[group][colour];
    int late = !together && all->failed; /* those who waited have gone */
    if (!late && ++all->waiting[group][colour] == count) {
        all->waiting[group][colour] = 0;
        all->turn[group][colour]++;
        pthread_cond_broadcast(&all->changed);
    }
    while (turn == all->turn[group][colour] && (together || !all->failed))
        pthread_cond_wait(&all->changed, &all->lock);
    int failed = turn == all->turn[group][colour];
    pthread_mutex_unlock(&all->lock);
    return failed ? fail(m, "a rank has stopped") : 0;
}

static int meet(Member *m, RankGroup group)
{
    return meet_all(m, group, 0);
}

/* Everyone has read what was shown. */
static int part(Member *m, RankGroup group)
{
    return meet_all(m, group, 1);
}

/* Shows everyone's data and sizes, which must be the same. */
static int show(Member *m, RankGroup group, const void *data, uint64_t bytes)
{
    Meeting *all = m->meeting;
    int members[MOST], at = 0, count = members_of(m, group, members, &at);
    all->shown[group][m->ranks.rank] = data;
    all->bytes[group][m->ranks.rank] = bytes;
    if (meet(m, group))
        return -1;
    for (int i = 0; i < count; i++)
        if (all->bytes[group][members[i]] != bytes)
            return fail(m, "the ranks sent different sizes");
    return 0;
}

static const char *version(void *self)
{
    (void)self;
    return "threads";
}

static const char *why(void *self)
{
    return ((Member *)self)->why;
}

static int rank(void *self, int *mine, int *size)
{
    Member *m = self;
    *mine = m->ranks.rank;
    *size = m->ranks.size;
    return 0;
}

static int divide(void *self, RankGroup group, int colour, int place)
{
    Member *m = self;
    if (colour < 0 || colour >= MOST || meet(m, RANKS_ALL))
        return fail(m, "no such colour");
    m->meeting->colour[group][m->ranks.rank] = colour;
    m->meeting->place[group][m->ranks.rank] = place;
    return meet(m, RANKS_ALL);
}

static int barrier(void *self, RankGroup group)
{
    return meet(self, group);
}

static int end(void *self);

/* Until end there are no numbers where others' parts will be. */
static int gather_later(Member *m, RankGroup group, void *data, uint64_t bytes)
{
    int members[MOST], at = 0, count = members_of(m, group, members, &at);
    for (int i = 0; i < count; i++)
        if (i != at)
            memset((char *)data + (uint64_t)i * bytes, 0xFF, bytes);
    if (m->pending == GATHERS && end(m))
        return -1;
    m->together = 1;
    m->gathers[m->pending].group = group;
    m->gathers[m->pending].data = data;
    m->gathers[m->pending++].bytes = bytes;
    return 0;
}

static int gather(void *self, RankGroup group, void *data, uint64_t bytes)
{
    Member *m = self;
    int members[MOST], at = 0, count = members_of(m, group, members, &at);
    if (m->together)
        return gather_later(m, group, data, bytes);
    if (show(m, group, data, bytes))
        return -1;
    for (int i = 0; i < count; i++)
        if (i != at)
            memcpy((char *)data + (uint64_t)i * bytes,
                   (const char *)m->meeting->shown[group][members[i]] + (uint64_t)i * bytes, bytes);
    return part(m, group);
}

static int begin(void *self)
{
    ((Member *)self)->together = 1;
    return 0;
}

static int later(void *self)
{
    ((Member *)self)->together = 0;
    return 0;
}

static int end(void *self)
{
    Member *m = self;
    int failed = later(m), count = m->pending;
    m->pending = 0;
    for (int i = 0; i < count && !failed; i++)
        failed = gather(m, m->gathers[i].group, m->gathers[i].data, m->gathers[i].bytes);
    return failed;
}

static int exchange(void *self, RankGroup group, const void *from, void *to, uint64_t bytes)
{
    Member *m = self;
    int members[MOST], at = 0, count = members_of(m, group, members, &at);
    if (show(m, group, from, bytes))
        return -1;
    for (int i = 0; i < count; i++)
        memcpy((char *)to + (uint64_t)i * bytes,
               (const char *)m->meeting->shown[group][members[i]] + (uint64_t)at * bytes, bytes);
    return part(m, group);
}

static int broadcast(void *self, RankGroup group, void *data, uint64_t bytes, int root)
{
    Member *m = self;
    int members[MOST], at = 0;
    members_of(m, group, members, &at);
    if (show(m, group, data, bytes))
        return -1;
    if (at != root)
        memcpy(data, m->meeting->shown[group][members[root]], bytes);
    return part(m, group);
}

/* Backwards: not the order of ranks, as a library's need not be. */
static void add_all(const Member *m, RankGroup group, uint64_t first, uint64_t count, float *to)
{
    int members[MOST], at = 0, ranks = members_of(m, group, members, &at);
    for (uint64_t i = 0; i < count; i++) {
        float sum = 0;
        for (int r = ranks - 1; r >= 0; r--)
            sum += ((const float *)m->meeting->shown[group][members[r]])[first + i];
        to[i] = sum;
    }
}

static int sum(void *self, RankGroup group, float *data, uint64_t count)
{
    Member *m = self;
    float piece[256];
    for (uint64_t first = 0, n; first < count; first += n) {
        n = count - first < 256 ? count - first : 256;
        if (show(m, group, data, n))
            return -1;
        add_all(m, group, first, n, piece);
        if (part(m, group))
            return -1;
        memcpy(data + first, piece, n * sizeof *data);
    }
    return 0;
}

static int sum_parts(void *self, RankGroup group, const float *from, float *to, uint64_t count)
{
    Member *m = self;
    int members[MOST], at = 0;
    members_of(m, group, members, &at);
    if (show(m, group, from, count))
        return -1;
    add_all(m, group, (uint64_t)at * count, count, to);
    return part(m, group);
}

static int start(void *self, RankGroup group, const void *data, uint64_t bytes, int to, int tag)
{
    Member *m = self;
    int members[MOST], at = 0;
    members_of(m, group, members, &at);
    Message *message = &m->meeting->message[m->ranks.rank][members[to]][tag];
    if (m->started[tag])
        return fail(m, "a message of this tag is on its way");
    pthread_mutex_lock(&m->meeting->lock);
    free(message->copy);
    *message = (Message){.data = data, .copy = malloc(bytes), .bytes = bytes};
    memcpy(message->copy, data, bytes);
    pthread_cond_broadcast(&m->meeting->changed);
    pthread_mutex_unlock(&m->meeting->lock);
    m->started[tag] = message;
    m->sent[tag] = data;
    return 0;
}

static int receive(void *self, RankGroup group, void *data, uint64_t bytes, int from, int tag)
{
    Member *m = self;
    Meeting *all = m->meeting;
    int members[MOST], at = 0;
    members_of(m, group, members, &at);
    Message *message = &all->message[members[from]][m->ranks.rank][tag];
    pthread_mutex_lock(&all->lock);
    while (!message->data && !all->failed)
        pthread_cond_wait(&all->changed, &all->lock);
    int failed = !message->data, other = !failed && message->bytes != bytes;
    if (!failed && !other)
        memcpy(data, message->copy, bytes);
    message->data = NULL;
    message->taken = 1;
    pthread_cond_broadcast(&all->changed);
    pthread_mutex_unlock(&all->lock);
    return failed ? fail(m, "a rank has stopped") : other ? fail(m, "the ranks sent different sizes") : 0;
}

static int wait_for(void *self, int tag)
{
    Member *m = self;
    Message *message = m->started[tag];
    if (!message)
        return 0;
    pthread_mutex_lock(&m->meeting->lock);
    while (!message->taken && !m->meeting->failed)
        pthread_cond_wait(&m->meeting->changed, &m->meeting->lock);
    int failed = !message->taken, written = memcmp(message->copy, m->sent[tag], message->bytes) != 0;
    pthread_mutex_unlock(&m->meeting->lock);
    m->started[tag] = NULL;
    return failed    ? fail(m, "a rank has stopped")
           : written ? fail(m, "what was on its way has been written to")
                     : 0;
}

static void give_up(void *self)
{
    Meeting *all = ((Member *)self)->meeting;
    pthread_mutex_lock(&all->lock);
    all->failed = 1;
    pthread_cond_broadcast(&all->changed);
    pthread_mutex_unlock(&all->lock);
}

static void leave(void *self)
{
    (void)self;
}

static void *run(void *argument)
{
    Member *m = argument;
    m->status = m->body(&m->ranks, m->user);
    if (m->status)
        give_up(m);
    return NULL;
}

int as_ranks(int size, RankStrategy strategy, RankBody *body, void *user)
{
    return as_these_ranks(&(Ranks){.size = size, .strategy = strategy}, body, user);
}

static void free_messages(Meeting *all)
{
    for (int from = 0; from < all->size; from++)
        for (int to = 0; to < all->size; to++)
            for (int tag = 0; tag < TRANSPORT_TAGS; tag++)
                free(all->message[from][to][tag].copy);
}

int as_these_ranks(const Ranks *ranks, RankBody *body, void *user)
{
    static const Transport table = {.abi = TRANSPORT_ABI,
                                    .version = version,
                                    .why = why,
                                    .rank = rank,
                                    .node = rank,
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
                                    .close = leave,
                                    .abort = give_up};
    static Meeting meeting;
    static Member member[MOST];
    pthread_t thread[MOST];
    int failed = 0, size = ranks->size;
    if (size < 1 || size > MOST)
        return -1;
    memset(&meeting, 0, sizeof meeting);
    pthread_mutex_init(&meeting.lock, NULL);
    pthread_cond_init(&meeting.changed, NULL);
    meeting.size = size;
    for (int r = 0; r < size; r++) {
        Member *m = &member[r];
        *m = (Member){.table = table, .meeting = &meeting, .body = body, .user = user};
        m->table.self = m;
        m->ranks = *ranks;
        m->ranks.rank = m->ranks.node_rank = r;
        m->ranks.node_size = size;
        m->ranks.transport = &m->table;
    }
    for (int r = 0; r < size; r++)
        if (pthread_create(&thread[r], NULL, run, &member[r]))
            return -1;
    for (int r = 0; r < size; r++) {
        pthread_join(thread[r], NULL);
        failed += member[r].status != 0;
    }
    free_messages(&meeting);
    pthread_cond_destroy(&meeting.changed);
    pthread_mutex_destroy(&meeting.lock);
    return failed;
}
