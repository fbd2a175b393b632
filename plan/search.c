/* The search for the least recomputation that fits a budget. Every candidate is really planned: no model of
 * what checkpointing would save can drift from what it does. */
#include "search.h"

#include <string.h>

enum { SMALL = 6 }; /* blocks: 2 x 233 choices */

typedef struct Searcher {
    const PlanSearch *search;
    PlanFound *found;
    PlanChoice choice; /* the candidate */
    double flops;      /* of its step, once planned */
} Searcher;

/* Better is: fewer FLOPs (of products), then less recomputation of other operations, then a smaller need. */
static int better(const PlanFound *f, const PlanChoice *choice, uint64_t needs, double flops, int fits)
{
    if (f->planned == 1)
        return 1;
    if (fits != f->fits)
        return fits;
    if (!fits)
        return needs < f->needs;
    double tolerance = 1e-9 * f->plain_flops;
    if (flops < f->step_flops - tolerance || flops > f->step_flops + tolerance)
        return flops < f->step_flops;
    if (choice->selective != f->choice.selective)
        return choice->selective < f->choice.selective;
    return needs < f->needs;
}

/* Plans the candidate; whether it fits. An error ends the search: see found->status. */
static int try_choice(Searcher *s)
{
    PlanFound *f = s->found;
    if (f->status)
        return 0;
    Plan plan;
    s->search->apply(s->search->config, &s->choice);
    f->status = plan_script(s->search->script, s->search->config, s->search->options, &plan);
    if (f->status) {
        memcpy(f->error, plan.error, sizeof f->error);
        plan_free(&plan);
        return 0;
    }
    uint64_t needs = plan.memory.stats.needs;
    int fits = needs <= s->search->options->budget;
    s->flops = plan.step_flops;
    if (f->planned++ == 0)
        f->plain_flops = plan.step_flops;
    if (better(f, &s->choice, needs, plan.step_flops, fits)) {
        f->choice = s->choice;
        f->needs = needs;
        f->step_flops = plan.step_flops;
        f->fits = fits;
    }
    plan_free(&plan);
    return fits;
}

/* ---- Every choice ---------------------------------------------------------------------------- */

static void try_all(Searcher *s, int at)
{
    if (at == s->search->blocks) {
        for (s->choice.selective = 0; s->choice.selective < 2; s->choice.selective++)
            try_choice(s);
        return;
    }
    const char *letters = at > 0 && s->choice.pattern[at - 1] != '.' ? ".c+" : ".c";
    for (; *letters && !s->found->status; letters++) {
        s->choice.pattern[at] = *letters;
        try_all(s, at + 1);
    }
}

/* ---- Bisection ------------------------------------------------------------------------------- */

/* The first `count` blocks are recomputed in segments of `length`. Segments are counted from the last of
 * these blocks, so that a shorter segment comes first in forward and last in backward, when there are the
 * most gradients. */
static int try_first(Searcher *s, int count, int length)
{
    memset(s->choice.pattern, '.', (size_t)s->search->blocks);
    for (int i = 0; i < count; i++)
        s->choice.pattern[i] = i == 0 || (count - i) % length == 0 ? 'c' : '+';
    return try_choice(s);
}

/* The fewest blocks, of at most `most`, that make it fit with segments of this length; most + 1 if none. */
static int bisect(Searcher *s, int length, int most)
{
    int low = 0, high = most;
    if (most < 1 || !try_first(s, most, length))
        return most + 1;
    while (high - low > 1 && !s->found->status) {
        int middle = low + (high - low) / 2;
        if (try_first(s, middle, length))
            high = middle;
        else
            low = middle;
    }
    return high;
}

/* The most blocks that can be recomputed for a choice that is better than the best so far, given what
 * recomputing all of them costs. */
static int worth_trying(const Searcher *s, int blocks)
{
    const PlanFound *f = s->found;
    double block = (s->flops - f->plain_flops) / blocks;
    double most = f->fits && block > 0 ? (f->step_flops - f->plain_flops) / block : blocks;
    return most < blocks ? (int)most : blocks;
}

/* Segments longer than twice the square root of the number of blocks hold more while backward runs them again
 * than they save in inputs. */
static void try_lengths(Searcher *s)
{
    int blocks = s->search->blocks;
    if (!try_first(s, blocks, 1) && s->found->status)
        return;
    int fewest = worth_trying(s, blocks) + 1;
    for (int length = 1; length * length <= 4 * blocks && !s->found->status;
         length += length < 4 ? 1 : length / 2) {
        int count = bisect(s, length, fewest - 1);
        if (count < fewest)
            fewest = count;
    }
}

static void search_large(Searcher *s)
{
    if (try_first(s, 0, 1))
        return; /* nothing has to be recomputed */
    s->choice.selective = 1;
    if (try_first(s, 0, 1) && s->found->step_flops <= s->found->plain_flops)
        return; /* no product has */
    try_lengths(s);
    s->choice.selective = 0;
    try_lengths(s);
}

int plan_search(const PlanSearch *search, PlanFound *found)
{
    Searcher s = {.search = search, .found = found};
    memset(found, 0, sizeof *found);
    if (search->blocks < 1 || search->blocks > PLAN_BLOCKS_MAX) {
        snprintf(found->error, sizeof found->error,
                 "a search over blocks needs 1 to %d of them; this model has %d", PLAN_BLOCKS_MAX,
                 search->blocks);
        return found->status = ERROR_ARGUMENT;
    }
    found->proven =
        search->method == PLAN_SEARCH_ALL || (search->method == PLAN_SEARCH_AUTO && search->blocks <= SMALL);
    if (found->proven)
        try_all(&s, 0);
    else
        search_large(&s);
    if (!found->status)
        search->apply(search->config, &found->choice);
    return found->status;
}
