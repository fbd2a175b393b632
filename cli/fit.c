/* brim fit: levers and their combinations x cards. Each cell is planned, not estimated: whether it fits or by
 * how much not, the largest batch, the longest sequence; and for each row what bounds it. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "../device/cards.h"
#include "../device/device.h"
#include "fit_.h"
#include "precision.h"

/* ---- Which cards ----------------------------------------------------------------------------- */

static int on_card(const Fit *fit)
{
    return device_cuda_ordinal(fit->options->device) >= 0;
}

/* The kind of such cards: one that there is, or the next. */
static int kind_for(Fit *fit, const char *card, int capability)
{
    int kind = fit_kind(fit, capability);
    if (kind < 0 && fit->kinds < KINDS) {
        kind = fit->kinds++;
        fit->kind[kind] = (Kind){card, capability};
    }
    return kind < 0 ? 0 : kind;
}

static int add_card(Fit *fit, const char *title, uint64_t bytes, const Card *card)
{
    int capability = card ? card->capability : device_planned_capability(fit->options->device, NULL);
    if (fit->cards == CARDS)
        return usage("at most %d cards at a time", CARDS);
    if (on_card(fit) && capability < CUDA_OLDEST)
        return usage(
            "--card %s: brim's kernels are for NVIDIA cards of compute capability 7.5 and later, and "
            "the %s %s",
            title, card ? card->title : "card of this machine", capability ? "is older" : "is not one");
    if (on_card(fit) && capability < least_capability(fit->options))
        return usage(
            "--card %s: --precision %s needs a card of compute capability %d.%d or later, and the %s "
            "is older; there --precision fp32 trains in the same memory",
            title, fit->options->precision, least_capability(fit->options) / 10,
            least_capability(fit->options) % 10, card ? card->title : "card of this machine");
    snprintf(fit->title[fit->cards], sizeof fit->title[0], "%.23s", title);
    fit->name[fit->cards] = card ? card->name : NULL;
    fit->kind_of[fit->cards] = on_card(fit) ? kind_for(fit, card ? card->name : NULL, capability) : 0;
    fit->memory[fit->cards++] = bytes;
    return 0;
}

static int add_named(Fit *fit, const char *name)
{
    const Card *card = device_card(name);
    if (!card)
        return usage("--card: %s; --memory SIZE takes any size", device_card_unknown(name).text);
    return add_card(fit, card->name, card->bytes, card);
}

static int add_sized(Fit *fit, const char *text)
{
    uint64_t bytes;
    return parse_size("--memory", text, &bytes) || add_card(fit, text, bytes, NULL);
}

/* Each name of a comma list. */
static int each(Fit *fit, const char *list, int (*take)(Fit *fit, const char *name))
{
    while (*list) {
        char name[64];
        size_t length = strcspn(list, ",");
        snprintf(name, sizeof name, "%.*s", (int)length, list);
        if (take(fit, name))
            return EXIT_USAGE;
        list += length + (list[length] == ',');
    }
    return 0;
}

static int choose_cards(Fit *fit)
{
    const Options *o = fit->options;
    static const char usual[] = "t4,rtx3090,a100-40,a100-80,h200";
    if (o->cards && each(fit, o->cards, add_named))
        return EXIT_USAGE;
    if (o->memories && each(fit, o->memories, add_sized))
        return EXIT_USAGE;
    if (!o->cards && !o->memories && each(fit, usual, add_named))
        return EXIT_USAGE;
    for (int i = 0; i < fit->cards; i++)
        if (fit->memory[i] <= o->reserve)
            return usage("--reserve %s leaves nothing of %s", report_size(o->reserve).text, fit->title[i]);
    return fit->cards ? 0 : usage("--card and --memory name no card");
}

/* ---- Which levers ---------------------------------------------------------------------------- */

static int choose_rows(Fit *fit)
{
    static Variant variants[VARIANTS];
    if (fit->ranked)
        return fit_choose_ranks(fit);
    fit->methods = variants_list(fit->options, variants);
    for (int k = 0; k < fit->methods; k++)
        fit->method[k] = (Method){.variant = variants[k]};
    return 0;
}

/* ---- Needs ----------------------------------------------------------------------------------- */

static void plan_at(Fit *fit, const Method *m, int kind, int batch, int seq, Plan *plan)
{
    Options o = m->variant.options;
    o.batch = batch;
    o.seq = seq;
    o.cards = fit->kind[kind].card;
    Training training = {.options = &o};
    RunOptions run = run_options(&o);
    run.budget = 0;
    plan_script(training_script, &training, &run, plan);
    fit->parameters = training.parameters;
    if (m == &fit->method[0])
        fit->bracket = training.bracket;
    fit->samples = training.samples;
    plan_free(plan);
}

static uint64_t need(Fit *fit, Method *m, int kind, int batch, int seq)
{
    for (int i = 0; i < m->memos; i++)
        if (m->memo[i].kind == kind && m->memo[i].batch == batch && m->memo[i].seq == seq)
            return m->memo[i].bytes;
    Plan plan;
    plan_at(fit, m, kind, batch, seq, &plan);
    uint64_t bytes = plan.status ? UINT64_MAX : plan.memory.stats.needs;
    if (m->memos < MEMO)
        m->memo[m->memos++] = (Need){kind, batch, seq, bytes};
    return bytes;
}

static Bound bound_of(const Plan *plan)
{
    const MemSummary *memory = &plan->memory;
    Bound bound = {.group = bound_by(memory), .phase = memory->stats.peak_at.phase};
    bound.bytes = report_group(memory->stats.at_peak, bound.group);
    snprintf(bound.path, sizeof bound.path, "%s", report_path(memory));
    return bound;
}

/* What varies: the batch, or the sequence in steps. */
typedef struct Axis {
    int kind;               /* of the card */
    int batch, seq;         /* the fixed one; the other is `by seq ? … ` below */
    int by_seq, step, most; /* units of the varied one: value = units x step */
} Axis;

static uint64_t need_at(Fit *fit, Method *m, const Axis *axis, int64_t units)
{
    int value = (int)(units * axis->step);
    return axis->by_seq ? need(fit, m, axis->kind, axis->batch, value)
                        : need(fit, m, axis->kind, value, axis->seq);
}

/* Between a that fits and b that does not: where a straight line through the two would cross the limit, kept
 * away from both ends. Needs are nearly straight in batch and (but for eager attention) in sequence. */
static int64_t between(int64_t a, uint64_t need_a, int64_t b, uint64_t need_b, uint64_t limit)
{
    double part =
        need_b > need_a && need_b != UINT64_MAX ? (double)(limit - need_a) / (double)(need_b - need_a) : 0.5;
    int64_t guess = a + (int64_t)(part * (double)(b - a));
    return guess <= a ? a + 1 : guess >= b ? b - 1 : guess;
}

/* The largest number of units that fits, between 1 and axis->most; 0 if one unit does not. */
static int64_t largest(Fit *fit, Method *m, const Axis *axis, uint64_t limit)
{
    int64_t low = 1, high;
    uint64_t need_low = need_at(fit, m, axis, low), need_high = 0;
    if (need_low > limit)
        return 0;
    for (high = 2;; high = high * 2) { /* out until it does not fit, by the slope as soon as there is one */
        if (high > axis->most)
            high = axis->most;
        need_high = high > low ? need_at(fit, m, axis, high) : need_low;
        if (need_high > limit)
            break;
        if (high == axis->most)
            return high;
        double slope = (double)(need_high - need_low) / (double)(high - low);
        int64_t reach = slope > 0 ? high + (int64_t)((double)(limit - need_high) / slope) : axis->most;
        low = high;
        need_low = need_high;
        if (reach > 2 * high)
            high = reach / 2 + 1 < axis->most ? reach / 2 + 1 : (axis->most + 1) / 2;
    }
    while (high - low > 1) {
        int64_t middle = between(low, need_low, high, need_high, limit);
        uint64_t bytes = need_at(fit, m, axis, middle);
        if (bytes <= limit) {
            low = middle;
            need_low = bytes;
        } else {
            high = middle;
            need_high = bytes;
        }
    }
    return low;
}

static void fill_seq(Fit *fit, Method *m, int card, int max_seq)
{
    const Options *o = &m->variant.options;
    Axis lengths = {.kind = fit->kind_of[card],
                    .batch = o->batch,
                    .by_seq = 1,
                    .step = fit->seq_step,
                    .most = max_seq / fit->seq_step};
    Plan plan;
    m->seq[card] = fit->seq_step * (int)largest(fit, m, &lengths, fit_limit(fit, card));
    m->bound[card] = bound_of(&m->variant.plan);
    if (!m->seq[card] && (lengths.kind == fit->kind_of[fit->shown] || m->needs[lengths.kind] == UINT64_MAX))
        return;
    plan_at(fit, m, lengths.kind, o->batch, m->seq[card] ? m->seq[card] : o->seq, &plan);
    m->bound[card] = bound_of(&plan);
}

static void fill_row(Fit *fit, Method *m)
{
    const Options *o = &m->variant.options;
    int max_seq = nn_preset_max_seq(&o->preset);
    fit->seq_step = max_seq >= 4096 ? 128 : max_seq >= 512 ? 16 : 1;
    plan_at(fit, m, fit->kind_of[fit->shown], o->batch, o->seq, &m->variant.plan);
    while (m == fit->method && m->variant.plan.status && fit->shown + 1 < fit->cards)
        plan_at(fit, m, fit->kind_of[++fit->shown], o->batch, o->seq, &m->variant.plan);
    if (m->variant.plan.status)
        return;
    for (int i = 0; i < fit->kinds; i++)
        m->needs[i] = need(fit, m, i, o->batch, o->seq);
    for (int i = 0; i < fit->cards; i++) {
        Axis batches = {.kind = fit->kind_of[i], .seq = o->seq, .step = 1, .most = fit_most(fit, m)};
        m->batch[i] = (int)largest(fit, m, &batches, fit_limit(fit, i));
        if (o->seq && !fit->ranked)
            fill_seq(fit, m, i, max_seq);
        else
            m->bound[i] = bound_of(&m->variant.plan);
    }
}

/* Of all cards that are known by name, so that the smallest that would do can be said. */
static void plan_other_kinds(Fit *fit)
{
    const Card *card;
    int first = fit->kinds;
    for (int i = 0; on_card(fit) && (card = device_card_at(i)); i++)
        if (card->capability >= least_capability(fit->options))
            kind_for(fit, card->name, card->capability);
    for (int k = 0; k < fit->methods; k++) {
        Method *m = &fit->method[k];
        for (int i = first; i < fit->kinds && !m->variant.plan.status; i++)
            m->needs[i] = need(fit, m, i, m->variant.options.batch, m->variant.options.seq);
    }
}

/* ---- The command ----------------------------------------------------------------------------- */

/* Something fits on every card that was asked about. */
static int every_card_has_one(const Fit *fit)
{
    for (int i = 0; i < fit->cards; i++)
        if (!fit_best(fit, i))
            return 0;
    return 1;
}

int command_fit(const Options *options, int count)
{
    (void)count;
    static Fit fit;
    if (options->checkpoint.automatic)
        return usage("--checkpoint auto is for one budget; `brim fit` shows every choice: leave it out");
    if (options->budget)
        return usage("--budget is for one run; `brim fit` takes sizes as --memory 8GiB,16GiB");
    fit = (Fit){.options = options,
                .kinds = device_cuda_ordinal(options->device) < 0,
                .ranked = options->card_counts != NULL};
    if (choose_cards(&fit) || choose_rows(&fit))
        return EXIT_USAGE;
    ReportProgress progress = report_progress_start("planning", fit.methods);
    for (int k = 0; k < fit.methods; report_progress(&progress, ++k))
        fill_row(&fit, &fit.method[k]);
    report_progress_end(&progress);
    if (fit.method[0].variant.plan.status) {
        fprintf(stderr, "brim: %s\n", fit.method[0].variant.plan.error);
        return EXIT_NO;
    }
    if (!every_card_has_one(&fit) && !fit.ranked)
        plan_other_kinds(&fit);
    if (options->json)
        fit_print_json(&fit);
    else if (fit.ranked)
        fit_cards_print(&fit);
    else
        fit_print(&fit);
    return every_card_has_one(&fit) ? EXIT_DONE : EXIT_NO;
}
