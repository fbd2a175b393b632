/* A context's rank, and what all ranks agree on once a step. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "ranks_.h"

static size_t bytes_of(const Ranks *is)
{
    return sizeof(struct ContextRanks) + (is->transport ? (size_t)is->size * sizeof(RankReport) : 0);
}

static int at_least_1(int n)
{
    return n > 1 ? n : 1;
}

/* What the ranks that divide the data, of which there are so many, cannot be told; "" = nothing. */
static void check_division(const Ranks *is, int data, char *why, size_t size)
{
    int replicas = at_least_1(is->replicas);
    if ((unsigned)is->reduce >= RANK_REDUCE_COUNT)
        snprintf(why, size, "there is no order of sums of this number (%d)", (int)is->reduce);
    else if (is->replicate_below < 0)
        snprintf(why, size, "replicate_below is %" PRId64 "; it is a number of elements",
                 is->replicate_below);
    else if (replicas > 1 && is->strategy == RANKS_DDP)
        snprintf(why, size, "ddp divides nothing, so each rank is a replica already; zero1 to zero3 have %d",
                 replicas);
    else if (data % replicas)
        snprintf(why, size, "%d ranks that divide the data are not divided into %d replicas", data, replicas);
    else if (replicas > 1 && data == replicas)
        snprintf(why, size, "%d replicas of %d ranks have one each, which divides nothing: that is ddp",
                 replicas, data);
}

/* 0, or -1 with what does not make sense. */
static int check_ranks(const Context *context, const ContextOptions *options, const Ranks *is, char *why,
                       size_t size)
{
    int tensor = at_least_1(is->tensor), stages = at_least_1(is->stages);
    why[0] = '\0';
    if (is->size < 1 || is->rank < 0 || is->rank >= is->size || is->size > RANKS_MOST ||
        (unsigned)is->strategy >= RANK_STRATEGY_COUNT)
        snprintf(why, size, "there is no rank %d of %d; ranks are 0 to size - 1, and at most %d", is->rank,
                 is->size, RANKS_MOST);
    else if (tensor > is->size || stages > is->size / tensor || is->size % (tensor * stages))
        snprintf(why, size, "%d ranks are not divided by %d that compute a layer together times %d stages",
                 is->size, tensor, stages);
    else if ((unsigned)is->schedule >= RANK_SCHEDULE_COUNT)
        snprintf(why, size, "there is no schedule of stages of this number (%d)", (int)is->schedule);
    else if (context->card && stages > 1)
        snprintf(why, size,
                 "stages of a model train on the CPU; on cuda, ranks divide the data or the layers");
    else if (options->accumulate_apart && stages > 1)
        snprintf(why, size, "stages add the gradients of micro-batches to what is there, not apart");
    else if (options->accumulate_apart && is->size > tensor && is->strategy < RANKS_ZERO2)
        snprintf(why, size,
                 "%s sums over ranks once a step, what each has added up by itself; zero2 and zero3 keep the "
                 "gradients of micro-batches apart",
                 ranks_strategy_name(is->strategy));
    else
        check_division(is, is->size / (tensor * stages), why, size);
    if (!why[0] && !options->meta && is->size > 1 && !is->transport)
        snprintf(why, size, "rank %d of %d has nothing to reach the others by (ranks_join)", is->rank,
                 is->size);
    return why[0] ? -1 : 0;
}

/* A rank is (stage, data, tensor), and of those of the data (replica, shard), the last counted first. 0, or
 * -1: the transport fails. */
static int find_groups(struct ContextRanks *r, int meta)
{
    const Ranks *is = &r->is;
    int tensor = at_least_1(is->tensor), stages = at_least_1(is->stages), replicas = at_least_1(is->replicas),
        data = is->size / (tensor * stages), shards = data / replicas;
    int in_data = is->rank / tensor % data, failed = 0;
    int at[RANK_GROUPS] = {[RANKS_ALL] = is->rank,
                           [RANKS_DATA] = in_data,
                           [RANKS_TENSOR] = is->rank % tensor,
                           [RANKS_STAGE] = is->rank / (tensor * data),
                           [RANKS_SHARD] = in_data % shards,
                           [RANKS_REPLICA] = in_data / shards};
    int of[RANK_GROUPS] = {[RANKS_ALL] = is->size, [RANKS_DATA] = data,    [RANKS_TENSOR] = tensor,
                           [RANKS_STAGE] = stages, [RANKS_SHARD] = shards, [RANKS_REPLICA] = replicas};
    int same_data = at[RANKS_STAGE] * tensor + at[RANKS_TENSOR]; /* have the same of the model */
    int colour[RANK_GROUPS] = {[RANKS_DATA] = same_data,
                               [RANKS_TENSOR] = is->rank / tensor,
                               [RANKS_STAGE] = in_data * tensor + at[RANKS_TENSOR],
                               [RANKS_SHARD] = same_data * replicas + at[RANKS_REPLICA],
                               [RANKS_REPLICA] = same_data * shards + at[RANKS_SHARD]};
    for (int g = 0; g < RANK_GROUPS; g++) {
        int several = g >= RANKS_SHARD ? replicas > 1 : g != RANKS_ALL && tensor * stages > 1;
        r->place[g] = at[g];
        r->count[g] = of[g];
        if (several && !meta && !failed)
            failed = carry_divide_(r, (RankGroup)g, colour[g], at[g]);
    }
    return failed;
}

int ranks_open_(Context *context, const ContextOptions *options, char *why, size_t size)
{
    Ranks alone = {.size = 1};
    const Ranks *is = options->ranks ? options->ranks : &alone;
    int apart = options->accumulate_apart || (is->size == 1 && is->strategy >= RANKS_ZERO2);
    if (is->size == 1 && !apart)
        return 0;
    if (check_ranks(context, options, is, why, size))
        return -1;
    context->ranks = memtrack_host_calloc(context->tracker, bytes_of(is));
    if (!context->ranks) {
        snprintf(why, size, "out of host memory");
        return -1;
    }
    context->ranks->is = *is;
    if (carry_open_(context, why, size))
        return -1;
    if (find_groups(context->ranks, options->meta)) {
        snprintf(why, size, "dividing the ranks into groups: %.200s", carry_why_(context));
        return -1;
    }
    if (apart &&
        context->ranks->count[RANKS_DATA] == 1) { /* a part that is all, and gets sums as a part does */
        context->ranks->is.strategy = RANKS_ZERO2;
        context->ranks->apart = 1;
    }
    return carry_ready_(context, why, size);
}

void ranks_close_(Context *context)
{
    if (context->ranks) {
        stages_close_(context);
        carry_close_(context);
    }
    if (context->ranks)
        memtrack_host_free(context->tracker, context->ranks, bytes_of(&context->ranks->is));
    context->ranks = NULL;
}

int context_default_threads(const struct Ranks *ranks)
{
    int threads = kernels_default_threads(), here = !ranks             ? 1
                                                    : ranks->node_size ? ranks->node_size
                                                                       : ranks->size;
    return threads / here > 0 ? threads / here : 1;
}

RankTraffic context_traffic_(const Context *context)
{
    return context->ranks ? context->ranks->traffic : (RankTraffic){0};
}

void context_ask_to_stop_(Context *context, int reason)
{
    if (context->ranks)
        context->ranks->stop = reason;
}

int context_stopped_(const Context *context)
{
    return context->ranks ? context->ranks->stopped : 0;
}

int context_rank_(const Context *context)
{
    return context->ranks ? context->ranks->place[RANKS_DATA] : 0;
}

int context_ranks_(const Context *context)
{
    return context->ranks ? context->ranks->count[RANKS_DATA] : 1;
}

int context_divides_rows_(const Context *context)
{
    return context->ranks && context->ranks->is.sequence && context->ranks->count[RANKS_TENSOR] > 1;
}

int context_tensor_ranks_(const Context *context)
{
    return context->ranks ? context->ranks->count[RANKS_TENSOR] : 1;
}

/* What a rank says of itself; 64 bytes. */
typedef struct RankWord {
    uint64_t hash; /* of the collectives so far */
    int64_t step;
    double loss, squares;
    int64_t bad;
    uint64_t before, after; /* hashes of what stages next to each other exchanged */
    int64_t stop;           /* what asks this rank to stop; 0 = nothing */
} RankWord;
_Static_assert(sizeof(RankWord) == 64, "the unit of what ranks send");

/* Everyone's word is at `words`: sums in the order of ranks. Those that compute a layer together have one
 * loss. */
static int read_words(Context *context, const RankWord *words, double *squares, int *bad)
{
    const Ranks *is = &context->ranks->is;
    const RankWord *mine = &words[is->rank];
    int tensor = context->ranks->count[RANKS_TENSOR],
        of_stage = is->size / context->ranks->count[RANKS_STAGE];
    double loss = 0;
    *squares = 0;
    *bad = 0;
    for (int r = 0; r < is->size; r++) {
        int same = r / of_stage == is->rank / of_stage; /* stages exchange what is theirs */
        int links = r == is->rank + of_stage   ? mine->after == words[r].before
                    : r == is->rank - of_stage ? mine->before == words[r].after
                                               : 1;
        if ((same && words[r].hash != mine->hash) || !links || words[r].step != mine->step)
            return error_raise(ERROR_RANKS,
                               "rank %d is at step %" PRId64 " and rank %d at step %" PRId64
                               ", or they have not exchanged the same; a script may not depend on the rank",
                               is->rank, mine->step + 1, r, words[r].step + 1);
        loss += r % tensor == 0 ? words[r].loss : 0;
        *squares += words[r].squares;
        *bad += words[r].bad != 0;
        context->ranks->stopped = words[r].stop ? (int)words[r].stop : context->ranks->stopped;
    }
    context->step_loss = loss;
    return 0;
}

static void say(const Context *context, RankWord *words, double squares, int bad)
{
    words[context->ranks->is.rank] = (RankWord){.hash = context->ranks->traffic.hash,
                                                .step = context->steps_done,
                                                .loss = context->step_loss,
                                                .squares = squares,
                                                .bad = bad,
                                                .stop = context->ranks->stop,
                                                .before = stage_link_(context, 1),
                                                .after = stage_link_(context, 0)};
}

/* Beside a card, words are the host's: in the room of reports, which nobody needs meanwhile. */
static int agree_beside_card(Context *context, double *squares, int *bad)
{
    RankWord *at = context->meta ? NULL : (RankWord *)(void *)context->ranks->reports;
    if (at)
        say(context, at, *squares, *bad);
    int failed = collective_gather_host_(context, RANKS_ALL, at, sizeof(RankWord));
    return !failed && at ? read_words(context, at, squares, bad) : failed;
}

int ranks_agree_(Context *context, double *squares, int *bad)
{
    if (!context->ranks || context->ranks->is.size == 1)
        return 0;
    if (context->card)
        return agree_beside_card(context, squares, bad);
    Storage *words =
        storage_new(context, (int64_t)sizeof(RankWord) * context->ranks->is.size, MEM_COMMUNICATION);
    if (!words)
        return error_code();
    RankWord *at = storage_data(words);
    if (at)
        say(context, at, *squares, *bad);
    int failed = collective_gather(context, RANKS_ALL, words, 0, sizeof(RankWord));
    if (!failed && at)
        failed = read_words(context, at, squares, bad);
    storage_release(context, words);
    return failed;
}

/* What a rank of a group says has to be the same on all of it; 64 bytes. */
typedef struct SameWord {
    uint64_t hash, word;
    uint64_t rest[6];
} SameWord;
_Static_assert(sizeof(SameWord) == 64, "the unit of what ranks send");

static int compare_words(const struct ContextRanks *r, const SameWord *words, const char *what)
{
    const SameWord *mine = &words[r->place[RANKS_TENSOR]];
    int first = r->is.rank - r->place[RANKS_TENSOR];
    for (int i = 0; i < r->count[RANKS_TENSOR]; i++)
        if (words[i].hash != mine->hash || words[i].word != mine->word)
            return error_raise(ERROR_RANKS,
                               "ranks %d and %d compute each layer together and have %s; a script may not "
                               "depend on the rank",
                               r->is.rank, first + i, what);
    return 0;
}

int ranks_same_(Context *context, uint64_t word, const char *what)
{
    if (error_code() || context_tensor_ranks_(context) == 1)
        return error_code();
    struct ContextRanks *r = context->ranks;
    int beside_card = context->card != NULL;
    Storage *words = NULL; /* beside a card they are the host's, as of updates */
    if (!beside_card && !(words = storage_new(context, (int64_t)sizeof(SameWord) * r->count[RANKS_TENSOR],
                                              MEM_COMMUNICATION)))
        return error_code();
    SameWord *at = !beside_card ? storage_data(words) : context->meta ? NULL : (SameWord *)(void *)r->reports;
    if (at)
        at[r->place[RANKS_TENSOR]] = (SameWord){.hash = r->traffic.hash, .word = word};
    int failed = beside_card ? collective_gather_host_(context, RANKS_TENSOR, at, sizeof(SameWord))
                             : collective_gather(context, RANKS_TENSOR, words, 0, sizeof(SameWord));
    if (!failed && at)
        failed = compare_words(r, at, what);
    storage_release(context, words);
    return failed;
}

int ranks_other_(const char *what)
{
    return error_raise(ERROR_RANKS, "another rank has %s", what);
}
