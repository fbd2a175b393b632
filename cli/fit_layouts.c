/* brim fit --cards: which rows there are. All ranks that divide data and layers need as much, because their
 * parts are padded, so one is planned for all; of stages each is planned. No process is started. */
#include <string.h>

#include "../device/device.h"
#include "fit_.h"
#include "flags_.h"
#include "several.h"

int fit_parse_counts(const char *list, int counts[COUNTS], int *count)
{
    for (*count = 0; *list;) {
        char word[32];
        int64_t value;
        size_t length = strcspn(list, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, list);
        if (parse_whole("--cards", word, 1, RANKS_MOST, &value))
            return EXIT_USAGE;
        int at = 0;
        while (at < *count && counts[at] < value)
            at++;
        if (at == *count || counts[at] != value) {
            if (*count == COUNTS)
                return usage("--cards takes at most %d numbers", COUNTS);
            memmove(counts + at + 1, counts + at, (size_t)(*count - at) * sizeof *counts);
            counts[at] = (int)value;
            ++*count;
        }
        list += length + (list[length] == ',');
    }
    return *count ? 0 : usage("--cards needs a number of cards, such as 8 or 1,2,4,8");
}

/* ---- Layouts ----------------------------------------------------------------------------------- */

/* Of so many cards: those that compute a layer together, stages, and what the others divide. */
typedef struct Layout {
    int cards, tensor, stages;
    RankStrategy strategy;
} Layout;

/* "tensor 2 x stages 2 x zero1, 8 cards" */
static void name_layout(char *out, size_t size, const Layout *l)
{
    LeverText name = {""};
    if (l->tensor > 1)
        lever_add(&name, "tensor %d", l->tensor);
    if (l->stages > 1)
        lever_add(&name, "%sstages %d", name.text[0] ? " x " : "", l->stages);
    if (l->tensor * l->stages < l->cards)
        lever_add(&name, "%s%s", name.text[0] ? " x " : "", ranks_strategy_name(l->strategy));
    snprintf(out, size, l->cards > 1 ? "%.60s, %d cards" : "1 card", name.text, l->cards);
}

/* What makes up the rows with one set of levers. */
typedef struct Rows {
    Fit *fit;
    const Variant *variant;
    int first; /* the row of one card */
} Rows;

static void add_row(const Rows *rows, Layout l)
{
    Fit *fit = rows->fit;
    Method *m = &fit->method[fit->methods++];
    *m = (Method){.variant = *rows->variant, .first = rows->first};
    Ranks *ranks = &m->variant.options.ranks;
    ranks->size = l.cards;
    ranks->tensor = l.tensor;
    ranks->stages = l.stages;
    ranks->strategy = l.strategy;
    name_layout(m->variant.label, sizeof m->variant.label, &l);
}

/* All that --tensor and --stages leave open: what divides the data. */
static void add_asked(const Rows *rows, int cards)
{
    const Ranks *asked = &rows->fit->asked;
    int together = asked->tensor * asked->stages;
    for (int s = 0; s < RANK_STRATEGY_COUNT && cards % together == 0; s++)
        if (cards > together || s == RANKS_DDP)
            add_row(rows, (Layout){cards, asked->tensor, asked->stages, (RankStrategy)s});
}

/* Whether ranks have as many heads each. Of a model without heads no layer is divided. */
static int divides_heads(const Options *o, int tensor)
{
    ModelSizes sizes = nn_preset_sizes(&o->preset);
    return sizes.heads > 0 && sizes.heads % tensor == 0 && sizes.kv_heads % tensor == 0;
}

/* A stage waits while the first micro-batch comes and the last one goes: with fewer of them than stages, most
 * of the time. */
static int fills_stages(const Options *o, int stages)
{
    ModelSizes sizes = nn_preset_sizes(&o->preset);
    return sizes.heads > 0 && stages <= sizes.layers && stages <= o->accumulate;
}

enum { LARGEST_PART = 8 /* ranks that a layer or a model is cut into: a machine's cards */ };

static void add_tensor(const Rows *rows, int cards)
{
    for (int t = 2; t <= LARGEST_PART && t <= cards; t *= 2) {
        if (cards % t || !divides_heads(rows->fit->options, t))
            continue;
        if (cards > t)
            add_row(rows, (Layout){cards, t, 1, RANKS_ZERO1});
        add_row(rows, (Layout){cards, t, 1, cards > t ? RANKS_ZERO3 : RANKS_DDP});
    }
}

/* With the largest part of a layer, stages go together with parts of the data as well. */
static void add_stages(const Rows *rows, int cards)
{
    const Options *o = rows->fit->options;
    int largest = 1;
    for (int t = 2; t <= LARGEST_PART && cards % t == 0 && divides_heads(o, t); t *= 2)
        largest = t;
    for (int p = 2; p <= LARGEST_PART && p <= cards; p *= 2)
        for (int t = 1; t <= largest && fills_stages(o, p) && cards % (t * p) == 0; t *= 2)
            if (t == 1 || t == largest || t * p == cards)
                add_row(rows, (Layout){cards, t, p, t * p < cards ? RANKS_ZERO1 : RANKS_DDP});
}

static int cuts_model(const Ranks *ranks)
{
    return ranks->tensor > 1 || ranks->stages > 1;
}

/* One card alone is always there: what the others are compared with. */
static void add_rows(Fit *fit, const Variant *variant, const int counts[COUNTS], int count)
{
    Rows rows = {fit, variant, fit->methods};
    add_row(&rows, (Layout){1, 1, 1, RANKS_DDP});
    for (int i = 0; i < count; i++) {
        if (counts[i] > 1 && cuts_model(&fit->asked))
            add_asked(&rows, counts[i]);
        for (int s = 0; s < RANK_STRATEGY_COUNT && counts[i] > 1 && !cuts_model(&fit->asked); s++)
            add_row(&rows, (Layout){counts[i], 1, 1, (RankStrategy)s});
        if (!cuts_model(&fit->asked) && !fit->undivided) {
            add_tensor(&rows, counts[i]);
            add_stages(&rows, counts[i]);
        }
    }
}

/* What is asked for goes together, and with the other options; else EXIT_USAGE. What is not asked for is left
 * out where it does not. */
static int check_layouts(Fit *fit, const int counts[COUNTS], int count)
{
    Options several = *fit->options;
    const Ranks *asked = &fit->asked;
    int together = asked->tensor * asked->stages, fits = 0;
    for (int i = 0; i < count; i++)
        fits |= counts[i] % together == 0;
    if (!fits)
        return usage("--cards %s: --tensor %d and --stages %d need a multiple of %d",
                     fit->options->card_counts, asked->tensor, asked->stages, together);
    if (asked->stages > FIT_STAGES)
        return usage("--stages %d: fit plans at most %d", asked->stages, FIT_STAGES);
    several.ranks.size = cuts_model(asked) ? together : counts[count - 1];
    several.ranks.tensor = asked->tensor;
    several.ranks.stages = asked->stages;
    LeverText why = ranks_problem(&several);
    if (why.text[0])
        return usage("%s", why.text);
    several.ranks.tensor = several.ranks.size;
    fit->undivided = !cuts_model(asked) && ranks_problem(&several).text[0];
    return 0;
}

int fit_choose_ranks(Fit *fit)
{
    Variant variant = {.options = *fit->options, .target = MEM_GROUP_COUNT};
    int counts[COUNTS], count = 0;
    if (device_cuda_ordinal(fit->options->device) >= 0)
        return usage(
            "--cards excludes --device cuda: its ranks are planned as on the CPU, and what a card's "
            "kernels take beside is in --reserve; `brim plan --device cuda --ranks N` is to the byte");
    if (fit_parse_counts(fit->options->card_counts, counts, &count) || check_layouts(fit, counts, count))
        return EXIT_USAGE;
    add_rows(fit, &variant, counts, count);
    if (variant_recomputed(&variant, fit->options))
        add_rows(fit, &variant, counts, count);
    return 0;
}

/* ---- Which of them are shown ------------------------------------------------------------------- */

double fit_sent_a_sample(const Method *m)
{
    return (double)m->sent_by_all / (double)step_samples(&m->variant.options);
}

/* Whether b makes a of no use: it has as many cards and the same levers. */
static int is_beaten(const Method *a, const Method *b)
{
    uint64_t needs_a = a->variant.plan.memory.stats.needs, needs_b = b->variant.plan.memory.stats.needs;
    double sent_a = fit_sent_a_sample(a), sent_b = fit_sent_a_sample(b);
    return a->first == b->first && a->variant.options.ranks.size == b->variant.options.ranks.size &&
           !b->variant.plan.status && needs_b <= needs_a && sent_b <= sent_a &&
           (needs_b < needs_a || sent_b < sent_a);
}

void fit_hide_rows(Fit *fit)
{
    for (int k = 0; k < fit->methods && !cuts_model(&fit->asked); k++) {
        Method *m = &fit->method[k];
        for (int i = 0; i < fit->methods && !m->variant.plan.status && cuts_model(&m->variant.options.ranks);
             i++)
            m->hidden |= is_beaten(m, &fit->method[i]);
    }
}
