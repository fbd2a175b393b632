/* What ranks send each other. Sums are taken in the order of the ranks, piece by piece through staging of a
 * planned size, so that they depend neither on the library nor on who is slow; where Ranks.reduce says so,
 * and by default beyond RANKS_ORDERED ranks, fp32 in the library's order. Of replicas each adds its ranks'
 * parts to the sum of those before it, so that the order is that of all ranks. */
#include "../kernels/kernels.h"
#include "ranks_.h"

enum { STAGING = 4 << 20 /* bytes of a piece, of all ranks together */ };

typedef enum CollectiveKind { GATHER = 1, EXCHANGE, SUM, SUM_PARTS, SUM_REPLICAS } CollectiveKind;

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static const char *verb(CollectiveKind kind)
{
    return kind == GATHER ? "gathering" : kind == EXCHANGE ? "exchanging gradients" : "summing gradients";
}

uint64_t ranks_mixed_(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
}

int ranks_enter_(const Context *context, const RanksWait *wait, uint64_t kind, uint64_t sent)
{
    RankTraffic *t = &context->ranks->traffic;
    RanksWait here = *wait;
    t->hash = ranks_mixed_(t->hash, kind ^ wait->bytes);
    t->sent += sent;
    here.number = ++t->calls;
    here.place = memtrack_path_name(context->tracker, memtrack_path(context->tracker));
    if (!context->meta)
        ranks_waiting_(context->ranks->is.transport, &here);
    return !context->meta;
}

int ranks_left_(const Context *context, const char *what, int failed)
{
    ranks_done_(context->ranks->is.transport);
    return failed ? error_raise(ERROR_RANKS, "%s with the other ranks: %s", what, carry_why_(context)) : 0;
}

/* Enters a collective of `bytes` a rank in the books. Whether anybody is there to take part in it. */
static int enter(const Context *context, RankGroup group, CollectiveKind kind, uint64_t bytes)
{
    uint64_t others = (uint64_t)context->ranks->count[group] - 1;
    return ranks_enter_(context, &(RanksWait){.what = verb(kind), .bytes = bytes},
                        (uint64_t)kind << 56 ^ (uint64_t)group << 60,
                        kind == SUM ? 2 * others * bytes / (others + 1) : others * bytes);
}

/* What was entered is over. 0, or raises. */
static int leave(const Context *context, CollectiveKind kind, int failed)
{
    return ranks_left_(context, verb(kind), failed);
}

static int gather(Context *context, RankGroup group, void *data, uint64_t bytes)
{
    if (!enter(context, group, GATHER, bytes))
        return 0;
    return leave(context, GATHER, carry_gather_(context, group, data, bytes));
}

int collective_gather(Context *context, RankGroup group, const Storage *data, uint64_t first, uint64_t bytes)
{
    char *at = storage_data(data);
    return gather(context, group, at ? at + first : NULL, bytes);
}

int collective_gather_at(Context *context, RankGroup group, void *data, uint64_t bytes)
{
    return gather(context, group, data, bytes);
}

int collective_gather_host_(Context *context, RankGroup group, void *data, uint64_t bytes)
{
    if (!enter(context, group, GATHER, bytes))
        return 0;
    const Transport *t = context->ranks->asked = context->ranks->is.transport;
    return leave(context, GATHER, t->gather(t->self, group, data, bytes));
}

void tensor_gathers_begin_(Context *context)
{
    if (context->meta || context->error || !context->ranks->is.transport)
        return;
    context->ranks->gathers = !ranks_left_(context, verb(GATHER), carry_begin_(context));
}

void tensor_gathers_later_(Context *context)
{
    if (context->ranks->gathers)
        ranks_left_(context, verb(GATHER), carry_later_(context, &context->ranks->gathers));
}

void tensor_gathers_end_(Context *context)
{
    if (!context->ranks->gathers)
        return;
    context->ranks->gathers = 0;
    ranks_waiting_(
        context->ranks->is.transport,
        &(RanksWait){.what = "gathering a block",
                     .place = memtrack_path_name(context->tracker, memtrack_path(context->tracker)),
                     .number = context->ranks->traffic.calls});
    ranks_left_(context, "gathering a block", carry_end_(context));
}

static int exchange(Context *context, RankGroup group, const void *from, void *to, uint64_t bytes)
{
    if (!enter(context, group, EXCHANGE, bytes))
        return 0;
    return leave(context, EXCHANGE, carry_exchange_(context, group, from, to, bytes));
}

/* ---- Sums in the order of ranks ---------------------------------------------------------------- */

/* Staging of pieces of `each` elements a rank. */
typedef struct Staging {
    Context *context;
    RankGroup group;
    DType type;
    uint64_t size; /* bytes of an element */
    int64_t each;
    int replicas, replica;     /* of the parts that a group sums; 1, 0 where it sums all */
    Storage *from, *got, *sum; /* to be sent; received; a piece in fp32, where it is to be rounded once */
} Staging;

static void staging_end(Staging *s)
{
    storage_release(s->context, s->sum);
    storage_release(s->context, s->got);
    storage_release(s->context, s->from);
}

/* `most`: elements a rank that there are at all. */
static int staging_begin(Staging *s, Context *context, RankGroup group, DType type, int64_t most)
{
    int64_t size = (int64_t)dtype_bytes(type, 1, 1), ranks = context->ranks->count[group];
    int64_t unit = TRANSPORT_UNIT / size, each = STAGING / (size * ranks) / unit * unit;
    *s = (Staging){.context = context, .group = group, .type = type, .size = (uint64_t)size, .replicas = 1};
    if (group == RANKS_SHARD) {
        s->replicas = context->ranks->count[RANKS_REPLICA];
        s->replica = context->ranks->place[RANKS_REPLICA];
    }
    s->each = least(each < unit ? unit : each, round_up(most, unit));
    s->from = storage_new(context, s->each * size * ranks, MEM_COMMUNICATION);
    s->got = s->from ? storage_new(context, s->each * size * ranks, MEM_COMMUNICATION) : NULL;
    if (s->got && type != DTYPE_F32)
        s->sum = storage_new(context, s->each * (int64_t)sizeof(float), MEM_COMMUNICATION);
    if (s->got && (s->sum || type == DTYPE_F32))
        return 0;
    staging_end(s);
    return error_code();
}

static char *element(const Staging *s, const Storage *storage, int64_t i)
{
    return (char *)storage_data(storage) + (uint64_t)i * s->size;
}

/* count elements at `from`, then zeros up to `each`, become part r of what is sent. */
static void stage(const Staging *s, int rank, int64_t each, const char *from, int64_t count)
{
    const Kernels *k = s->context->kernels;
    const KernelRun *run = &s->context->run;
    count = count > 0 ? count : 0;
    if (count > 0)
        k->copy(s->type, s->type, count, from, element(s, s->from, rank * each), run);
    if (count < each)
        k->fill(s->type, each - count, 0, element(s, s->from, rank * each + count), run);
}

/* Where the sum of a piece is made, in fp32: where the first part has arrived, or the sum of the replicas
 * before. */
static float *sum_of(const Staging *s)
{
    return storage_data(s->sum ? s->sum : s->replica > 0 ? s->from : s->got);
}

/* Of what came, the sum in the order of ranks. */
static void add_in_order(const Staging *s, int64_t each, int64_t count)
{
    const Kernels *k = s->context->kernels;
    const KernelRun *run = &s->context->run;
    int ranks = s->context->ranks->count[s->group], first = s->replica == 0;
    float *sum = sum_of(s);
    if (count <= 0)
        return;
    if (first && s->sum)
        k->copy(s->type, DTYPE_F32, count, element(s, s->got, 0), sum, run);
    for (int r = first; r < ranks; r++)
        k->accumulate(s->type, DTYPE_F32, count, element(s, s->got, r * each), sum, run);
}

/* The sum goes from replica to replica, and from the last one to all. A rank sends as much as in a ring, on
 * average. */
static int add_over_replicas(const Staging *s, int64_t each)
{
    enum { TAG = STAGE_MESSAGES }; /* those below are of stages */
    Context *context = s->context;
    uint64_t bytes = (uint64_t)each * sizeof(float), last = (uint64_t)s->replicas - 1;
    const RankGroup all = RANKS_REPLICA;
    if (!ranks_enter_(context, &(RanksWait){.what = verb(SUM), .bytes = bytes},
                      (uint64_t)SUM_REPLICAS << 56 ^ (uint64_t)all << 60, 2 * last * bytes / (last + 1)))
        return 0;
    float *sum = sum_of(s);
    int failed = s->replica > 0 && carry_receive_(context, all, sum, bytes, s->replica - 1, TAG);
    if (!failed)
        add_in_order(s, each, each);
    if (!failed && s->replica < (int)last)
        failed = carry_send_(context, all, sum, bytes, s->replica + 1, TAG);
    if (!failed)
        failed = carry_broadcast_(context, all, sum, bytes, (int)last);
    return leave(context, SUM, failed);
}

/* A part's sum over a replica, and that over all of them, are one. */
static int in_library_order(const Context *context, RankGroup group, DType type)
{
    const struct ContextRanks *r = context->ranks;
    int ranks = r->count[group == RANKS_SHARD ? RANKS_DATA : group];
    if (type != DTYPE_F32)
        return 0;
    return r->is.reduce == RANKS_REDUCE_AUTO ? ranks > RANKS_ORDERED : r->is.reduce == RANKS_REDUCE_LIBRARY;
}

static int library_sum(Context *context, RankGroup group, int64_t n, float *data)
{
    if (!enter(context, group, SUM, (uint64_t)n * sizeof(float)))
        return 0;
    return leave(context, SUM, carry_sum_(context, group, data, (uint64_t)n));
}

/* `count` elements of what every rank is to have: parts of `each` go to who sums them, and come back as sums.
 * What is no whole number of parts is staged. */
static int sum_piece(const Staging *s, int64_t each, char *data, int64_t count)
{
    Context *context = s->context;
    int ranks = context->ranks->count[s->group], rank = context->ranks->place[s->group];
    int whole = count == each * ranks;
    char *parts = whole ? data : storage_data(s->from);
    for (int r = 0; r < ranks && !whole && !context->meta; r++)
        stage(s, r, each, data + (uint64_t)(r * each) * s->size, least(each, count - r * each));
    if (exchange(context, s->group, parts, storage_data(s->got), (uint64_t)each * s->size))
        return error_code();
    if (!context->meta) {
        add_in_order(s, each, each);
        context->kernels->copy(DTYPE_F32, s->type, each, sum_of(s), parts + (uint64_t)(rank * each) * s->size,
                               &context->run);
    }
    if (gather(context, s->group, parts, (uint64_t)each * s->size))
        return error_code();
    if (!whole && !context->meta)
        context->kernels->copy(s->type, s->type, count, parts, data, &context->run);
    return 0;
}

int collective_sum(Context *context, RankGroup group, DType type, int64_t n, const Storage *data)
{
    return collective_sum_at(context, group, type, n, storage_data(data));
}

int collective_sum_at(Context *context, RankGroup group, DType type, int64_t n, void *data)
{
    int ranks = context->ranks->count[group], failed = 0;
    if (ranks == 1)
        return 0;
    if (in_library_order(context, group, type))
        return library_sum(context, group, n, data);
    Staging s;
    if (staging_begin(&s, context, group, type, (n + ranks - 1) / ranks) != 0)
        return error_code();
    int64_t unit = TRANSPORT_UNIT / (int64_t)s.size;
    for (int64_t at = 0, piece; at < n && !failed; at += piece) {
        piece = least(n - at, s.each * ranks);
        int64_t each = round_up((piece + ranks - 1) / ranks, unit);
        failed = sum_piece(&s, each, data ? (char *)data + (uint64_t)at * s.size : NULL, piece);
    }
    staging_end(&s);
    return failed;
}

static int library_sum_parts(const Staging *s, int64_t each)
{
    Context *context = s->context;
    if (enter(context, s->group, SUM_PARTS, (uint64_t)each * s->size) &&
        leave(context, SUM_PARTS,
              carry_sum_parts_(context, s->group, storage_f32(s->from), storage_f32(s->got), (uint64_t)each)))
        return error_code();
    return s->replicas > 1 ? library_sum(context, RANKS_REPLICA, each, storage_f32(s->got)) : 0;
}

/* `count`: elements of the sum that are wanted here. */
static int ordered_sum_parts(const Staging *s, int64_t each, int64_t count)
{
    if (exchange(s->context, s->group, storage_data(s->from), storage_data(s->got), (uint64_t)each * s->size))
        return error_code();
    if (s->replicas > 1)
        return add_over_replicas(s, each);
    if (!s->context->meta)
        add_in_order(s, each, count);
    return 0;
}

/* Elements [at, at + each) of every rank's part. */
static int sum_parts_piece(const Staging *s, const SumParts *p, int64_t at, int64_t each)
{
    Context *context = s->context;
    int ranks = context->ranks->count[p->group], library = in_library_order(context, p->group, p->type);
    int64_t mine = least(each, least(p->each, p->n - context->ranks->place[p->group] * p->each) - at);
    for (int r = 0; r < ranks && !context->meta; r++) {
        int64_t first = r * p->each + at;
        stage(s, r, each, first < p->n ? (const char *)p->from + (uint64_t)first * s->size : NULL,
              least(each, p->n - first));
    }
    if (library ? library_sum_parts(s, each) : ordered_sum_parts(s, each, mine))
        return error_code();
    if (context->meta || mine <= 0)
        return 0;
    char *to = (char *)p->to + dtype_bytes(p->to_type, 1, p->at + at);
    const Kernels *k = context->kernels;
    (p->add ? k->accumulate : k->copy)(DTYPE_F32, p->to_type, mine, library ? storage_f32(s->got) : sum_of(s),
                                       to, &context->run);
    return 0;
}

int collective_sum_parts(Context *context, const SumParts *p)
{
    Staging s;
    int failed = staging_begin(&s, context, p->group, p->type, p->each);
    if (failed)
        return failed;
    int64_t unit = TRANSPORT_UNIT / (int64_t)s.size;
    for (int64_t at = 0, each; at < p->each && !failed; at += each) {
        each = round_up(least(s.each, p->each - at), unit);
        failed = sum_parts_piece(&s, p, at, each);
    }
    staging_end(&s);
    return failed;
}
