/* brim fit: levers and their combinations x cards. Each cell is planned, not estimated: whether it fits or by
 * how much not, the largest batch, the longest sequence; and for each row what bounds it. */
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "../device/cards.h"
#include "../device/device.h"
#include "fit_.h"
#include "precision.h"
#include "pytorch.h"
#include "several.h"

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
    if (fit->options->inference)
        return fit_choose_inference(fit);
    if (fit->ranked)
        return fit_choose_ranks(fit);
    fit->methods = variants_list(fit->options, variants);
    for (int k = 0; k < fit->methods; k++)
        fit->method[k] = (Method){.variant = variants[k]};
    return 0;
}

/* ---- Needs ----------------------------------------------------------------------------------- */

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
    return axis->by_seq ? fit_need(fit, m, axis->kind, axis->batch, value)
                        : fit_need(fit, m, axis->kind, value, axis->seq);
}

/* How many units more fit where one takes `slope` bytes; at most so many. */
static int64_t units_in(uint64_t bytes, double slope, int64_t most)
{
    double units = slope > 0 ? (double)bytes / slope : (double)most;
    return units < (double)most ? (int64_t)units : most;
}

/* The largest number of units that fits, between 1 and axis->most; 0 if one unit does not. Needs are nearly
 * straight in batch and (but for eager attention) in sequence: the next guess is where the line through the
 * last two crosses the limit, kept between what fits and what does not. */
static int64_t largest(Fit *fit, Method *m, const Axis *axis, uint64_t limit)
{
    enum { FURTHER = 8 }; /* times as many: a first slope may be that of another peak */
    int64_t low = 1, high = axis->most + 1;
    uint64_t need_low = need_at(fit, m, axis, low);
    double slope = 0;
    if (need_low > limit)
        return 0;
    for (int64_t guess = 2; high - low > 1;) {
        guess = guess <= low ? low + 1 : guess >= high ? high - 1 : guess;
        uint64_t need = need_at(fit, m, axis, guess);
        if (need != UINT64_MAX)
            slope = ((double)need - (double)need_low) / (double)(guess - low);
        if (need <= limit) {
            low = guess;
            need_low = need;
        } else {
            high = guess;
        }
        guess = need == UINT64_MAX ? low + (high - low) / 2
                                   : low + units_in(limit - need_low, slope, FURTHER * low);
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
    fit_plan_at(fit, m, lengths.kind, o->batch, m->seq[card] ? m->seq[card] : o->seq, &plan);
    m->bound[card] = bound_of(&plan);
}

static void plan_row(Fit *fit, Method *m)
{
    const Options *o = &m->variant.options;
    int max_seq = nn_preset_max_seq(&o->preset);
    fit->seq_step = max_seq >= 4096 ? 128 : max_seq >= 512 ? 16 : 1;
    fit_plan_at(fit, m, fit->kind_of[fit->shown], o->batch, o->seq, &m->variant.plan);
    while (m == fit->method && m->variant.plan.status && fit->shown + 1 < fit->cards)
        fit_plan_at(fit, m, fit->kind_of[++fit->shown], o->batch, o->seq, &m->variant.plan);
    if (m->variant.plan.status || fit_plan_ranks(fit, m))
        return;
    for (int i = 0; i < fit->kinds; i++)
        m->needs[i] = fit_need(fit, m, i, o->batch, o->seq);
}

static void fill_cells(Fit *fit, Method *m)
{
    const Options *o = &m->variant.options;
    if (m->variant.plan.status || m->hidden)
        return;
    for (int i = 0; i < fit->cards; i++) {
        Axis batches = {.kind = fit->kind_of[i], .seq = o->seq, .step = 1, .most = fit_most(fit, m)};
        m->batch[i] = (int)largest(fit, m, &batches, fit_limit(fit, i));
        if (o->seq && !fit->ranked)
            fill_seq(fit, m, i, nn_preset_max_seq(&o->preset));
        else
            m->bound[i] = bound_of(&m->variant.plan);
    }
}

/* Every row as asked for, and then the cells of those that are shown. */
static void plan_rows(Fit *fit)
{
    ReportProgress progress = report_progress_start("planning", 2 * fit->methods);
    for (int k = 0; k < fit->methods; report_progress(&progress, ++k))
        plan_row(fit, &fit->method[k]);
    if (fit->ranked && !fit->options->inference)
        fit_hide_rows(fit);
    for (int k = 0; k < fit->methods; report_progress(&progress, fit->methods + ++k))
        fill_cells(fit, &fit->method[k]);
    report_progress_end(&progress);
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
            m->needs[i] = fit_need(fit, m, i, m->variant.options.batch, m->variant.options.seq);
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
    static Options o; /* of one card */
    if (pytorch_framework(options))
        return command_fit_pytorch(options);
    if (options->checkpoint.automatic)
        return usage("--checkpoint auto is for one budget; `brim fit` shows every choice: leave it out");
    if (options->budget)
        return usage("--budget is for one run; `brim fit` takes sizes as --memory 8GiB,16GiB");
    o = *options;
    o.ranks.tensor = o.ranks.stages = 1;
    fit = (Fit){.options = &o,
                .asked = options->ranks,
                .kinds = device_cuda_ordinal(options->device) < 0,
                .ranked = options->inference || options->card_counts};
    if (choose_cards(&fit) || choose_rows(&fit))
        return EXIT_USAGE;
    plan_rows(&fit);
    if (fit.method[0].variant.plan.status) {
        fprintf(stderr, "brim: %s\n", fit.method[0].variant.plan.error);
        return EXIT_NO;
    }
    if (!every_card_has_one(&fit) && !fit.ranked)
        plan_other_kinds(&fit);
    if (options->json)
        fit_print_json(&fit);
    else if (o.inference)
        fit_inference_print(&fit);
    else if (fit.ranked)
        fit_cards_print(&fit);
    else
        fit_print(&fit);
    return every_card_has_one(&fit) ? EXIT_DONE : EXIT_NO;
}
