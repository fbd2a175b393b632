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

/* 0, or -1 with what does not make sense. */
static int check_ranks(const Context *context, const ContextOptions *options, char *why, size_t size)
{
    const Ranks *is = options->ranks;
    int tensor = is->tensor > 1 ? is->tensor : 1, stages = is->stages > 1 ? is->stages : 1;
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
    else if (!options->meta && is->size > 1 && !is->transport)
        snprintf(why, size, "rank %d of %d has nothing to reach the others by (ranks_join)", is->rank,
                 is->size);
    return why[0] ? -1 : 0;
}

/* A rank is (stage, data, tensor), the last counted first. 0, or -1: the transport fails. */
static int find_groups(struct ContextRanks *r, int meta)
{
    const Ranks *is = &r->is;
    int tensor = is->tensor > 1 ? is->tensor : 1, stages = is->stages > 1 ? is->stages : 1;
    int data = is->size / (tensor * stages), failed = 0;
    int at[RANK_GROUPS] = {is->rank, is->rank / tensor % data, is->rank % tensor, is->rank / (tensor * data)};
    int of[RANK_GROUPS] = {is->size, data, tensor, stages};
    int colour[RANK_GROUPS] = {0, at[RANKS_STAGE] * tensor + at[RANKS_TENSOR], is->rank / tensor,
                               at[RANKS_DATA] * tensor + at[RANKS_TENSOR]};
    for (int g = 0; g < RANK_GROUPS; g++) {
        r->place[g] = at[g];
        r->count[g] = of[g];
        if (g != RANKS_ALL && !meta && tensor * stages > 1 && !failed)
            failed = carry_divide_(r, (RankGroup)g, colour[g], at[g]);
    }
    return failed;
}

int ranks_open_(Context *context, const ContextOptions *options, char *why, size_t size)
{
    const Ranks *is = options->ranks;
    if (!is || (is->size == 1 && is->strategy < RANKS_ZERO2))
        return 0;
    if (check_ranks(context, options, why, size))
        return -1;
    context->ranks = memtrack_host_calloc(context->tracker, bytes_of(is));
    if (!context->ranks) {
        snprintf(why, size, "out of host memory");
        return -1;
    }
    context->ranks->is = *is;
    if (is->size == 1) /* the gradients of each micro-batch apart, as those of a rank are */
        context->ranks->is.strategy = RANKS_ZERO2;
    if (carry_open_(context, why, size))
        return -1;
    if (find_groups(context->ranks, options->meta)) {
        snprintf(why, size, "dividing the ranks into groups: %.200s", carry_why_(context));
        return -1;
    }
    return 0;
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
    const struct ContextRanks *r = context->ranks;
    Storage *words =
        storage_new(context, (int64_t)sizeof(SameWord) * r->count[RANKS_TENSOR], MEM_COMMUNICATION);
    if (!words)
        return error_code();
    SameWord *at = storage_data(words);
    if (at)
        at[r->place[RANKS_TENSOR]] = (SameWord){.hash = r->traffic.hash, .word = word};
    int failed = collective_gather(context, RANKS_TENSOR, words, 0, sizeof(SameWord));
    if (!failed && at)
        failed = compare_words(r, at, what);
    storage_release(context, words);
    return failed;
}

int ranks_other_(const char *what)
{
    return error_raise(ERROR_RANKS, "another rank has %s", what);
}
