/* What ranks do together outside steps, where files are read and written: they wait for each other, and what
 * stops one of them stops all. None of it is in the books. A plan saves nothing, so nobody could compare; the
 * memory is the host's, and what is sent is some bytes a rank. */
#include <stdio.h>
#include <string.h>

#include "ranks_.h"

enum { WHY = 512 }; /* bytes of a message on its way */

static int is_several(const Context *context)
{
    return context->ranks && context->ranks->is.size > 1 && !context->meta;
}

/* The watch is told, as of what is in the books. */
static const Transport *meet(const Context *context, uint64_t bytes)
{
    const Transport *t = context->ranks->asked = context->ranks->is.transport;
    ranks_waiting_(t, &(RanksWait){.what = "reading or writing files", .bytes = bytes});
    return t;
}

static int met(const Context *context, int failed)
{
    return ranks_left_(context, "reading or writing files", failed);
}

int ranks_count_(const Context *context)
{
    return context->ranks ? context->ranks->is.size : 1;
}

int ranks_place_(const Context *context)
{
    return context->ranks ? context->ranks->is.rank : 0;
}

int ranks_gather_(const Context *context, void *data, uint64_t bytes)
{
    if (!is_several(context))
        return 0;
    const Transport *t = meet(context, bytes);
    return met(context, t->gather(t->self, RANKS_ALL, data, bytes));
}

int ranks_gather_parts_(const Context *context, void *data, uint64_t bytes)
{
    if (!is_several(context))
        return 0;
    const Transport *t = meet(context, bytes);
    return met(context, t->gather(t->self, shard_group(context), data, bytes));
}

/* The rank that failed first says why. Everyone's error has the same code, so that all do the same about it.
 */
static int raise_everywhere(Context *context, RankGroup group, int from)
{
    char why[WHY] = "";
    const RankReport *report = &context->ranks->reports[from];
    ErrorCode code = (ErrorCode)report->code;
    if (from == context->ranks->place[group])
        snprintf(why, sizeof why, "%s", error_message());
    const Transport *t = meet(context, sizeof why);
    if (met(context, t->broadcast(t->self, group, why, sizeof why, from)))
        return error_code();
    if (error_code() == (int)code)
        return code;
    error_clear();
    why[WHY - 1] = '\0';
    return error_raise(code, "rank %d: %s", (int)report->rank, why);
}

static int agree(Context *context, RankGroup group, RankValue *value)
{
    int64_t mine = value ? value->mine : 0;
    if (value)
        value->first = value->most = mine;
    if (!is_several(context))
        return error_code();
    const Ranks *is = &context->ranks->is;
    RankReport *reports = context->ranks->reports;
    uint64_t place = ~context->ranks->traffic.hash; /* in a step, this is where the hash itself is */
    int failed = -1;
    reports[context->ranks->place[group]] = (RankReport){
        .place = place, .step = context->steps_done, .code = error_code(), .value = mine, .rank = is->rank};
    const Transport *t = meet(context, sizeof *reports);
    if (met(context, t->gather(t->self, group, reports, sizeof *reports)))
        return error_code();
    int of_stage = is->size / context->ranks->count[RANKS_STAGE];
    for (int r = context->ranks->count[group] - 1; r >= 0; r--) {
        int same = (int)reports[r].rank / of_stage == is->rank / of_stage; /* stages exchange what is theirs */
        if ((same && reports[r].place != place) || reports[r].step != context->steps_done)
            return error_raise(ERROR_RANKS,
                               "rank %d reads or writes files, and rank %d is elsewhere; a script may not "
                               "depend on the rank",
                               is->rank, (int)reports[r].rank);
        failed = reports[r].code ? r : failed;
        if (value && reports[r].value > value->most)
            value->most = reports[r].value;
    }
    if (value)
        value->first = reports[0].value;
    return failed < 0 ? 0 : raise_everywhere(context, group, failed);
}

int ranks_agree_error_(Context *context, RankValue *value)
{
    return agree(context, RANKS_ALL, value);
}

int ranks_agree_parts_(Context *context)
{
    return agree(context, RANKS_DATA, NULL);
}

int ranks_agreed_(void)
{
    return ranks_agree_error_(context_here(), NULL);
}

int ranks_first_(void)
{
    return ranks_place_(context_here()) == 0;
}
