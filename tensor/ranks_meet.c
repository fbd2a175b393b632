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

/* The rank that failed first says why. Everyone's error has the same code, so that all do the same about it.
 */
static int raise_everywhere(Context *context, int from)
{
    char why[WHY] = "";
    ErrorCode code = (ErrorCode)context->ranks->reports[from].code;
    if (from == context->ranks->is.rank)
        snprintf(why, sizeof why, "%s", error_message());
    const Transport *t = meet(context, sizeof why);
    if (met(context, t->broadcast(t->self, RANKS_ALL, why, sizeof why, from)))
        return error_code();
    if (error_code() == (int)code)
        return code;
    error_clear();
    why[WHY - 1] = '\0';
    return error_raise(code, "rank %d: %s", from, why);
}

int ranks_agree_error_(Context *context, RankValue *value)
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
    reports[is->rank] =
        (RankReport){.place = place, .step = context->steps_done, .code = error_code(), .value = mine};
    const Transport *t = meet(context, sizeof *reports);
    if (met(context, t->gather(t->self, RANKS_ALL, reports, sizeof *reports)))
        return error_code();
    int of_stage = is->size / context->ranks->count[RANKS_STAGE];
    for (int r = is->size - 1; r >= 0; r--) {
        int same = r / of_stage == is->rank / of_stage; /* stages exchange what is theirs */
        if ((same && reports[r].place != place) || reports[r].step != context->steps_done)
            return error_raise(ERROR_RANKS,
                               "rank %d reads or writes files, and rank %d is elsewhere; a script may not "
                               "depend on the rank",
                               is->rank, r);
        failed = reports[r].code ? r : failed;
        if (value && reports[r].value > value->most)
            value->most = reports[r].value;
    }
    if (value)
        value->first = reports[0].value;
    return failed < 0 ? 0 : raise_everywhere(context, failed);
}

int ranks_agreed_(void)
{
    return ranks_agree_error_(context_here(), NULL);
}

int ranks_first_(void)
{
    return ranks_place_(context_here()) == 0;
}
