/* What `brim fit` says first: which card takes the training, and with what. */
#include <string.h>

#include "../device/cards.h"
#include "../device/device.h"
#include "fit_.h"

/* Fewer cards, then fewer operations a sample (as one card has them with the same levers), then fewer bytes
 * sent a sample. */
static int costs_less_on_cards(const Fit *fit, const Method *a, const Method *b)
{
    double x = fit->method[a->first].variant.plan.step_flops,
           y = fit->method[b->first].variant.plan.step_flops;
    if (a->variant.options.ranks.size != b->variant.options.ranks.size)
        return a->variant.options.ranks.size < b->variant.options.ranks.size;
    if (x > 1.005 * y || y > 1.005 * x)
        return x < y;
    return fit_sent_a_sample(a) < fit_sent_a_sample(b);
}

static int costs_less(const Fit *fit, const Method *m, const Method *than)
{
    return fit->ranked ? costs_less_on_cards(fit, m, than)
                       : variant_costs_more(&than->variant, &m->variant, &fit->method[0].variant) > 0;
}

const Method *fit_best(const Fit *fit, int card)
{
    const Method *best = NULL;
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (fit_fits(fit, m, card) && (!best || costs_less(fit, m, best)))
            best = m;
    }
    return best;
}

const Method *fit_least_need(const Fit *fit, int kind)
{
    const Method *least = NULL;
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (!m->variant.plan.status && (!least || m->needs[kind] < least->needs[kind]))
            least = m;
    }
    return least;
}

/* The optimizer step of PyTorch's AdamW (foreach) works on about one more copy of the parameters: reported,
 * not measured here. What its modules keep beyond brim's comes on top. */
uint64_t fit_pytorch(const Fit *fit, int card)
{
    const MemStats *s = &fit->method[0].variant.plan.memory.stats;
    uint64_t masters = s->own_peak[MEM_MASTER], trained = s->own_peak[MEM_PARAMETER];
    uint64_t step = trained + masters + s->own_peak[MEM_FROZEN] +
                    report_group(s->own_peak, MEM_GROUP_GRADIENTS) +
                    report_group(s->own_peak, MEM_GROUP_OPTIMIZER_STATES);
    step += masters ? masters : trained; /* of what the update changes */
    uint64_t needs = fit_needs(fit, &fit->method[0], card);
    return needs == UINT64_MAX ? needs : needs + (step > s->peak ? step - s->peak : 0);
}

/* ---- The sentence ---------------------------------------------------------------------------- */

/* "t4, rtx-3090 and h200": those of which `best` is the best row; NULL: those that have none. */
static void say_cards(LeverText *out, const Fit *fit, const Method *best)
{
    int left = 0, said = 0;
    for (int i = 0; i < fit->cards; i++)
        left += fit_best(fit, i) == best;
    for (int i = 0; i < fit->cards; i++)
        if (fit_best(fit, i) == best) {
            left--;
            lever_add(out, "%s%s", !said++ ? "" : left ? ", " : " and ", fit->title[i]);
        }
}

/* "on 8 cards with --ranks 8 --parallel zero3 --checkpoint blocks" */
static void say_with_cards(LeverText *out, const Fit *fit, const Method *m)
{
    LeverText flags = levers_text(&m->variant.options, fit->options);
    if (m->variant.options.ranks.size > 1)
        lever_add(out, " on %d cards", m->variant.options.ranks.size);
    else
        lever_add(out, " on one card");
    lever_add(out, "%s%s", flags.text[0] ? " with " : " as it is", flags.text);
}

static void say_with(LeverText *out, const Fit *fit, const Method *m)
{
    const Plan *first = &fit->method[0].variant.plan, *plan = &m->variant.plan;
    if (fit->ranked) {
        say_with_cards(out, fit, m);
        return;
    }
    if (!m->variant.pulled) {
        lever_add(out, " as it is");
        return;
    }
    lever_add(out, " with %s", levers_text(&m->variant.options, fit->options).text);
    if (plan->step_flops > 1.005 * first->step_flops)
        lever_add(out, " (%.2f times the FLOPs)", plan->step_flops / first->step_flops);
}

/* Of the cards that are known by name, each by what a plan for it needs. */
static void say_smallest_card(LeverText *out, const Fit *fit)
{
    for (int i = 0; device_card_at(i); i++) {
        const Card *card = device_card_at(i);
        int kind = fit_kind(fit, card->capability);
        const Method *least = kind < 0 ? NULL : fit_least_need(fit, kind);
        if (least && card->bytes >= fit->options->reserve &&
            card->bytes - fit->options->reserve >= least->needs[kind]) {
            lever_add(out, "the smallest card that takes it is %s", card->name);
            return;
        }
    }
    lever_add(out, "no card of `brim gpus` takes it");
}

/* The least need is that of the kind of card that needs least. */
static void say_none(LeverText *out, const Fit *fit, int others)
{
    int kind = -1;
    for (int i = 0; i < fit->cards; i++) {
        int k = fit->kind_of[i];
        if (!fit_best(fit, i) &&
            (kind < 0 || fit_least_need(fit, k)->needs[k] < fit_least_need(fit, kind)->needs[kind]))
            kind = k;
    }
    const Method *least = fit_least_need(fit, kind);
    LeverText flags = levers_text(&least->variant.options, fit->options);
    lever_add(out, "%s fits ", others ? "; nothing here" : "Nothing here");
    say_cards(out, fit, NULL);
    if (fit->ranked) { /* more cards of the same would take it */
        lever_add(out, ": the least need is %s a card,", report_size(least->needs[kind]).text);
        say_with(out, fit, least);
        return;
    }
    if (least->needs[kind] == UINT64_MAX)
        lever_add(out, ": nothing of it can be planned for such a card; ");
    else
        lever_add(out, ": the least need is %s%s%s; ", report_size(least->needs[kind]).text,
                  flags.text[0] ? ", with " : "", flags.text);
    say_smallest_card(out, fit);
}

LeverText fit_verdict(const Fit *fit)
{
    LeverText out = lever_say("%s", is_approximate(fit->options) ? "APPROXIMATE: " : "");
    const Method *said[CARDS];
    int count = 0, without = 0, adapters = 0;
    for (int i = 0; i < fit->cards; i++) {
        const Method *best = fit_best(fit, i);
        int known = 0;
        for (int k = 0; k < count; k++)
            known |= said[k] == best;
        without += !best;
        if (known || !best)
            continue;
        lever_add(&out, count ? "; " : "It fits ");
        say_cards(&out, fit, best);
        say_with(&out, fit, best);
        said[count++] = best;
        adapters |= variant_adds_adapters(&best->variant, fit->options);
    }
    if (without)
        say_none(&out, fit, count);
    lever_add(&out, adapters ? ". With --lora adapters are trained instead of the weights." : ".");
    return out;
}
