/* brim fit --inference: what weights are stored as x how many cards compute each layer together. Every row is
 * the plan of one rank, with a cache of --seq tokens; no process is started. */
#include <string.h>

#include "fit_.h"
#include "flags_.h"
#include "precision.h"
#include "several.h"
#include "writing.h"

enum { LABEL = 26 };

/* ---- Rows -------------------------------------------------------------------------------------- */

/* "bf16", "int8" */
static const char *stored_as(const Options *o)
{
    return o->quantized ? quantize_name(o->quantized) : weights_name(o->weights);
}

static void add_row(Fit *fit, const Options *o, int cards, int first)
{
    Method *m = &fit->method[fit->methods++];
    *m = (Method){.variant = {.options = *o, .target = MEM_GROUP_COUNT}, .first = first};
    m->variant.options.ranks.size = m->variant.options.ranks.tensor = cards;
    snprintf(m->variant.label, sizeof m->variant.label, cards > 1 ? "%s, tensor %d" : "%s, 1 card",
             stored_as(o), cards);
}

/* One card alone is always there. */
static void add_rows(Fit *fit, DType weights, DType quantized, const int counts[COUNTS], int count)
{
    Options o = *fit->options;
    int first = fit->methods;
    o.weights = weights;
    o.quantized = quantized;
    add_row(fit, &o, 1, first);
    for (int i = 0; i < count; i++)
        if (counts[i] > 1 && (fit->asked.tensor == 1 || counts[i] == fit->asked.tensor))
            add_row(fit, &o, counts[i], first);
}

int fit_choose_inference(Fit *fit)
{
    const Options *o = fit->options;
    int counts[COUNTS] = {fit->asked.tensor}, count = 1, fits = fit->asked.tensor == 1;
    if (check_prefill(o) || (o->card_counts && fit_parse_counts(o->card_counts, counts, &count)))
        return EXIT_USAGE;
    for (int i = 0; i < count; i++)
        fits |= counts[i] == fit->asked.tensor;
    if (!fits)
        return usage("--cards %s: --tensor %d is all cards that compute a text together", o->card_counts,
                     fit->asked.tensor);
    Options several = *o;
    several.ranks.size = several.ranks.tensor = counts[count - 1];
    LeverText why = ranks_problem(&several);
    if (why.text[0])
        return usage("%s", why.text);
    if (o->weights != DTYPE_F32 || o->quantized) {
        add_rows(fit, o->weights, o->quantized, counts, count);
        return 0;
    }
    add_rows(fit, DTYPE_BF16, DTYPE_F32, counts, count);
    add_rows(fit, DTYPE_BF16, DTYPE_INT8, counts, count);
    add_rows(fit, DTYPE_BF16, DTYPE_NF4, counts, count);
    return 0;
}

/* ---- What fits --------------------------------------------------------------------------------- */

/* Of the rows from k on that have the same weights: the first that fits, which has the fewest cards; NULL:
 * none.
 */
static const Method *fewest_cards(const Fit *fit, int k, int card)
{
    for (int first = k; k < fit->methods && fit->method[k].first == first; k++)
        if (fit_fits(fit, &fit->method[k], card))
            return &fit->method[k];
    return NULL;
}

static void say_card(LeverText *out, const Fit *fit, int card)
{
    int said = 0;
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = fit->method[k].first == k ? fewest_cards(fit, k, card) : NULL;
        if (!m)
            continue;
        int cards = m->variant.options.ranks.size;
        lever_add(out, said++ ? ", " : "%s: ", fit->title[card]);
        if (cards == 1)
            lever_add(out, "%s on one card", stored_as(&m->variant.options));
        else
            lever_add(out, "%s on %d cards", stored_as(&m->variant.options), cards);
    }
}

LeverText fit_inference_verdict(const Fit *fit)
{
    LeverText out = lever_say("%s", is_approximate(fit->options) ? "APPROXIMATE: " : "");
    int said = 0;
    for (int i = 0; i < fit->cards; i++)
        if (fit_best(fit, i)) {
            lever_add(&out, said++ ? "; " : "It fits ");
            say_card(&out, fit, i);
        }
    int without = 0;
    for (int i = 0; i < fit->cards; i++)
        if (!fit_best(fit, i))
            lever_add(&out, "%s%s",
                      without++ ? ", "
                      : said    ? "; nothing here fits "
                                : "Nothing here fits ",
                      fit->title[i]);
    const Method *least = fit_least_need(fit, 0);
    if (without && least)
        lever_add(&out, ": the least need is %s a card, %s", report_size(least->needs[0]).text,
                  least->variant.label);
    lever_add(&out, ".");
    return out;
}

LeverText fit_inference_flags(const Method *m)
{
    const Options *o = &m->variant.options;
    LeverText out = lever_say("--inference");
    if (o->ranks.tensor > 1)
        lever_add(&out, " --tensor %d", o->ranks.tensor);
    if (o->weights != DTYPE_F32)
        lever_add(&out, " --weights %s", weights_name(o->weights));
    if (o->quantized)
        lever_add(&out, " --quantize %s", quantize_name(o->quantized));
    return out;
}

/* ---- Tables ------------------------------------------------------------------------------------ */

/* A blank line between weights. */
static void separate(const Fit *fit, int k)
{
    if (k > 0 && fit->method[k].first == k)
        printf("\n");
}

static void batch_table(const Fit *fit)
{
    char title[40], blank[LABEL + 23];
    snprintf(title, sizeof title, "BATCH, cache of %d", fit->options->seq);
    snprintf(blank, sizeof blank, "%*s", LABEL + 22, "");
    printf("\n%-*s %10s %10s", LABEL, title, "needs", writes(fit->options) ? "sent/token" : "sent");
    fit_cards_heading(fit, blank);
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        separate(fit, k);
        if (m->variant.plan.status)
            continue;
        printf("%-*s %10s %10s", LABEL, m->variant.label,
               report_size(m->variant.plan.memory.stats.needs).text,
               m->sent ? report_size(m->sent).text : "-");
        fit_cards_cells(fit, m);
    }
}

static void parts_table(const Fit *fit)
{
    ReportUnit unit = report_unit(fit->method[0].variant.plan.memory.stats.peak);
    char title[40];
    snprintf(title, sizeof title, "A CARD AT THE PEAK, %s", unit.name);
    printf("\n%-*s %10s %10s %10s %10s\n", LABEL, title, "weights", "kv cache", "rest", "gaps");
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        const MemStats *s = &m->variant.plan.memory.stats;
        separate(fit, k);
        if (m->variant.plan.status)
            continue;
        uint64_t weights = report_group(s->at_peak, MEM_GROUP_PARAMETERS), cache = s->at_peak[MEM_KV_CACHE];
        const uint64_t part[] = {weights, cache, s->peak - weights - cache, s->needs - s->peak};
        printf("%-*s", LABEL, m->variant.label);
        for (size_t i = 0; i < sizeof part / sizeof part[0]; i++)
            printf(" %10.*f", unit.decimals, (double)part[i] / unit.bytes);
        printf("\n");
    }
}

static void say_left_out(const Fit *fit)
{
    for (int k = 0; k < fit->methods; k++)
        if (fit->method[k].variant.plan.status) {
            printf("\nLeft out: %s and those like it: %s.\n", fit->method[k].variant.label,
                   fit->method[k].variant.plan.error);
            return;
        }
}

void fit_inference_print(const Fit *fit)
{
    const Options *o = fit->options;
    SayLine verdict = {""};
    printf("%s  %s%s parameters%s  inference  batch %d", o->model, approximate_tag(o),
           report_count(fit->parameters).text, active_text(fit->active, fit->parameters).text, o->batch);
    if (o->seq)
        printf(writes(o) ? ", a cache of %d tokens" : " x seq %d", o->seq);
    printf("\n");
    approximate_print(o);
    line_add(&verdict, "%.1000s", fit_inference_verdict(fit).text);
    say_line(&verdict);
    printf("\nCards in GiB, %.2f of each reserved; what a library for sending takes itself is not planned.\n"
           "A cell is the largest batch of each card that fits, or what is missing, in GiB.\n"
           "tensor T: T cards compute each layer together; each has 1/T of its matrices, and the keys and "
           "values of "
           "its heads.\n",
           (double)o->reserve / 0x1p30);
    batch_table(fit);
    parts_table(fit);
    say_left_out(fit);
}

void fit_inference_json(json_t *row, const Method *m)
{
    const Options *o = &m->variant.options;
    json_object_set_new(row, "weights", json_string(weights_text(o).text));
    json_object_set_new(row, "tensor", json_integer(o->ranks.tensor));
    json_object_set_new(row, "sent_bytes_per_token", json_integer((json_int_t)m->sent));
    json_object_del(row, "step_flops");
    json_object_del(row, "options");
}
