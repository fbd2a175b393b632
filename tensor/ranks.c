/* A context's rank, and what all ranks agree on once a step. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "ranks_.h"

int ranks_open_(Context *context, const ContextOptions *options, char *why, size_t size)
{
    const Ranks *is = options->ranks;
    if (!is || (is->size == 1 && is->strategy < RANKS_ZERO2))
        return 0;
    if (is->size < 1 || is->rank < 0 || is->rank >= is->size || is->size > RANKS_MOST || (unsigned)is->strategy >= RANK_STRATEGY_COUNT) {
        snprintf(why, size, "there is no rank %d of %d; ranks are 0 to size - 1, and at most %d", is->rank, is->size, RANKS_MOST);
        return -1;
    }
    if (context->card) {
        snprintf(why, size, "several ranks train on the CPU, not on cuda");
        return -1;
    }
    if (!options->meta && is->size > 1 && !is->transport) {
        snprintf(why, size, "rank %d of %d has nothing to reach the others by (ranks_join)", is->rank, is->size);
        return -1;
    }
    context->ranks = memtrack_host_calloc(context->tracker, sizeof *context->ranks);
    if (!context->ranks) {
        snprintf(why, size, "out of host memory");
        return -1;
    }
    context->ranks->is = *is;
    if (is->size == 1) /* the gradients of each micro-batch apart, as those of a rank are */
        context->ranks->is.strategy = RANKS_ZERO2;
    return 0;
}

void ranks_close_(Context *context)
{
    if (context->ranks)
        memtrack_host_free(context->tracker, context->ranks, sizeof *context->ranks);
    context->ranks = NULL;
}

int context_default_threads(const struct Ranks *ranks)
{
    int threads = kernels_default_threads(), here = !ranks ? 1 : ranks->node_size ? ranks->node_size : ranks->size;
    return threads / here > 0 ? threads / here : 1;
}

RankTraffic context_traffic_(const Context *context)
{
    return context->ranks ? context->ranks->traffic : (RankTraffic){0};
}

int context_rank_(const Context *context)
{
    return context->ranks ? context->ranks->is.rank : 0;
}

int context_ranks_(const Context *context)
{
    return context->ranks ? context->ranks->is.size : 1;
}

/* What a rank says of itself; 64 bytes. */
typedef struct RankWord {
    uint64_t hash; /* of the collectives so far */
    int64_t step;
    double loss, squares;
    int64_t bad;
    uint64_t rest[3];
} RankWord;
_Static_assert(sizeof(RankWord) == 64, "the unit of what ranks send");

/* Everyone's word is at `words`: sums in the order of ranks. */
static int read_words(Context *context, const RankWord *words, double *squares, int *bad)
{
    const Ranks *is = &context->ranks->is;
    const RankWord *mine = &words[is->rank];
    double loss = 0;
    *squares = 0;
    *bad = 0;
    for (int r = 0; r < is->size; r++) {
        if (words[r].hash != mine->hash || words[r].step != mine->step)
            return error_raise(ERROR_RANKS,
                               "rank %d is at step %" PRId64 " and rank %d at step %" PRId64
                               ", or they have not exchanged the same; a script may not depend on the rank",
                               is->rank, mine->step + 1, r, words[r].step + 1);
        loss += words[r].loss;
        *squares += words[r].squares;
        *bad += words[r].bad != 0;
    }
    context->step_loss = loss;
    return 0;
}

int ranks_agree_(Context *context, double *squares, int *bad)
{
    if (!context->ranks || context->ranks->is.size == 1)
        return 0;
    int size = context->ranks->is.size, rank = context->ranks->is.rank;
    Storage *words = storage_new(context, (int64_t)sizeof(RankWord) * size, MEM_COMMUNICATION);
    if (!words)
        return error_code();
    RankWord *at = storage_data(words);
    if (at)
        at[rank] = (RankWord){.hash = context->ranks->traffic.hash,
                              .step = context->steps_done,
                              .loss = context->step_loss,
                              .squares = *squares,
                              .bad = *bad};
    int failed = collective_gather(context, words, sizeof(RankWord));
    if (!failed && at)
        failed = read_words(context, at, squares, bad);
    storage_release(context, words);
    return failed;
}

int ranks_other_(const char *what)
{
    return error_raise(ERROR_RANKS, "another rank has %s", what);
}
