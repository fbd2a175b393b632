/* See ranks_words.h. */
#include "ranks_words.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../base/plural_.h"
#include "report_.h"

__attribute__((format(printf, 2, 3))) static void add(RankWords *out, const char *format, ...)
{
    size_t length = strlen(out->text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out->text + length, sizeof out->text - length, format, arguments);
    va_end(arguments);
}

static int ranks_a_stage(const RankLayout *l)
{
    return l->stages > 1 && l->size >= l->stages ? l->size / l->stages : l->size;
}

static int stage_of(const RankLayout *l, int rank)
{
    return l->stages > 1 ? rank / ranks_a_stage(l) : 0;
}

RankWords report_rank_name(const RankLayout *l, const RankKind *k)
{
    RankWords out = {""};
    int each = ranks_a_stage(l);
    if (l->stages > 1 && (each == 1 || k->count == each))
        add(&out, "stage %d (", stage_of(l, k->first));
    add(&out, "rank%s %s", plural(k->count), k->ranks);
    if (l->stages > 1 && (each == 1 || k->count == each))
        add(&out, ")");
    return out;
}

int report_ranks_fullest(const RankKind *kinds, int count)
{
    int fullest = 0;
    for (int i = 1; i < count; i++)
        if (kinds[i].peak > kinds[fullest].peak)
            fullest = i;
    return fullest;
}

static int emptiest(const RankKind *kinds, int count)
{
    int least = 0;
    for (int i = 1; i < count; i++)
        if (kinds[i].peak < kinds[least].peak)
            least = i;
    return least;
}

/* Micro-batches whose activations a stage holds at once. */
static int64_t held_by(const RankLayout *l, int rank)
{
    int64_t behind = l->stages - stage_of(l, rank);
    return !strcmp(l->schedule, "1f1b") && behind < l->micro_batches ? behind : l->micro_batches;
}

/* ---- Why one is fuller than another ---------------------------------------------------------- */

/* What stays from step to step, what the micro-batches leave, and the rest. */
typedef struct Parts {
    uint64_t state, activations, rest;
} Parts;

static Parts parts_of(const RankKind *k)
{
    Parts p = {.activations = report_group(k->at_peak, MEM_GROUP_ACTIVATIONS)};
    p.state = report_group(k->at_peak, MEM_GROUP_PARAMETERS) - k->at_peak[MEM_GATHERED] +
              report_group(k->at_peak, MEM_GROUP_GRADIENTS) +
              report_group(k->at_peak, MEM_GROUP_OPTIMIZER_STATES);
    p.rest = k->peak > p.state + p.activations ? k->peak - p.state - p.activations : 0;
    return p;
}

static void add_held(RankWords *out, const RankLayout *l, const RankKind *more, const RankKind *less)
{
    int64_t a = held_by(l, more->first), b = held_by(l, less->first);
    if (l->stages > 1 && a != b)
        add(out, " (it holds %lld micro-batch%s of a step at once, that one %lld)", (long long)a,
            a == 1 ? "" : "es", (long long)b);
    else if (l->stages > 1)
        add(out, " (each holds %lld micro-batch%s at once)", (long long)a, a == 1 ? "" : "es");
}

/* The differences that count, a tenth of all of them at least, the largest first. */
static void add_reasons(RankWords *out, const RankLayout *l, const RankKind *more, const RankKind *less)
{
    static const char *const names[] = {"of weights, gradients and states", "of activations",
                                        "of gathered weights, workspaces and other overhead"};
    Parts a = parts_of(more), b = parts_of(less);
    uint64_t apart = more->peak - less->peak, had[] = {a.state, a.activations, a.rest},
             has[] = {b.state, b.activations, b.rest};
    int told[3] = {0}, any = 0;
    for (int round = 0; round < 3; round++) {
        int best = -1;
        for (int i = 0; i < 3; i++)
            if (!told[i] && had[i] > has[i] && (best < 0 || had[i] - has[i] > had[best] - has[best]))
                best = i;
        if (best < 0 || (had[best] - has[best]) * 10 < apart)
            break;
        told[best] = 1;
        add(out, "%s%s more %s", any++ ? ", " : ": ", report_size(had[best] - has[best]).text, names[best]);
        if (best == 1)
            add_held(out, l, more, less);
    }
    add(out, ".");
}

static void capital(RankWords *out)
{
    if (out->text[0] >= 'a' && out->text[0] <= 'z')
        out->text[0] = (char)(out->text[0] - 'a' + 'A');
}

RankWords report_ranks_why(const RankLayout *l, const RankKind *kinds, int count)
{
    RankWords out = {""};
    if (count < 1)
        return out;
    const RankKind *full = &kinds[report_ranks_fullest(kinds, count)],
                   *least = &kinds[emptiest(kinds, count)];
    if (full->peak == least->peak) {
        add(&out, "No rank is fuller than another: the peak of each is %s.", report_size(full->peak).text);
        if (l->stages < 2)
            add(&out, " Each has as many samples%s.",
                l->data > 1 && strcmp(l->strategy, "ddp") != 0 ? ", and parts are padded to one size" : "");
        return out;
    }
    add(&out, "%s is the fullest with %s, ", report_rank_name(l, full).text, report_size(full->peak).text);
    capital(&out);
    add(&out, "%s more than %s, the emptiest", report_size(full->peak - least->peak).text,
        report_rank_name(l, least).text);
    add_reasons(&out, l, full, least);
    return out;
}

/* ---- What dividing saves --------------------------------------------------------------------- */

/* How many of the strategies' levels it is: 0 is ddp. */
static int level_of(const RankLayout *l)
{
    return !strncmp(l->strategy, "zero", 4) && l->strategy[4] >= '1' && l->strategy[4] <= '3'
               ? l->strategy[4] - '0'
               : 0;
}

static void answer_ddp(RankWords *out, const RankLayout *l, const RankKind *k)
{
    add(out,
        "Why does ddp save nothing? Each of %d data ranks has whole weights, gradients and states, as if it "
        "were "
        "alone: %s of its %s at the peak. What is divided are the samples, and --batch is that of a rank.",
        l->data, report_size(parts_of(k).state).text, report_size(k->peak).text);
}

static void add_whole(RankWords *out, uint64_t bytes, const char *name, int *any)
{
    if (bytes)
        add(out, "%s%s of %s", (*any)++ ? ", " : " ", report_size(bytes).text, name);
}

static void answer_zero(RankWords *out, const RankLayout *l, const RankKind *k)
{
    int level = level_of(l), any = 0, among = l->data / (l->replicas > 1 ? l->replicas : 1);
    const uint64_t *at = k->at_peak;
    uint64_t weights = at[MEM_PARAMETER] + at[MEM_FROZEN], masters = at[MEM_MASTER] + at[MEM_OPTIMIZER],
             divided = masters + (level > 1 ? at[MEM_GRADIENT] : 0) + (level > 2 ? weights : 0);
    uint64_t activations = report_group(at, MEM_GROUP_ACTIVATIONS),
             whole = (level > 1 ? 0 : at[MEM_GRADIENT]) + (level > 2 ? 0 : weights),
             known = divided + whole + activations + at[MEM_GATHERED];
    add(out,
        "Why do %d ranks not need 1/%d each%s? Of the %s of a rank, %s are parts of what is divided: %s%s.",
        among, among, l->replicas > 1 ? ", those of a replica" : "", report_size(k->peak).text,
        report_size(divided).text,
        level == 1   ? "states"
        : level == 2 ? "gradients and states"
                     : "weights, gradients and states",
        level > 1 ? " (a gradient is whole until it is summed)" : "");
    add(out, " The rest is each rank's own:");
    add_whole(out, whole, level == 1 ? "weights and gradients" : "weights", &any);
    add_whole(out, activations, "activations", &any);
    add_whole(out, at[MEM_GATHERED], "gathered weights", &any);
    add_whole(out, k->peak > known ? k->peak - known : 0, "other overhead", &any);
    add(out, ".");
}

RankWords report_ranks_saving(const RankLayout *l, const RankKind *kinds, int count)
{
    RankWords out = {""};
    if (count < 1 || l->data < 2)
        return out;
    const RankKind *full = &kinds[report_ranks_fullest(kinds, count)];
    if (level_of(l))
        answer_zero(&out, l, full);
    else
        answer_ddp(&out, l, full);
    return out;
}
