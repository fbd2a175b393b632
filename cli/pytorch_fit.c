/* brim fit --framework pytorch: per card what PyTorch would need of it, the largest batch and the longest
 * sequence, of the job as it is and with levers. */
#include <string.h>

#include "../device/cuda.h"
#include "pytorch_fit_.h"

static int add_card(PytorchFit *fit, const Card *card, const char *title, uint64_t bytes)
{
    FitCard *c = &fit->cards[fit->count];
    if (fit->count == FIT_CARDS)
        return usage("at most %d cards at a time", FIT_CARDS);
    *c = (FitCard){.card = card, .bytes = bytes, .context = pytorch_context(fit->options, card)};
    snprintf(c->title, sizeof c->title, "%.23s", title);
    if (bytes <= c->context.high)
        return usage("a context of %.2f GiB leaves nothing of %s; --reserve SIZE says another",
                     (double)c->context.high / 0x1p30, title);
    c->limit = bytes - c->context.high;
    fit->count++;
    return 0;
}

static int each(PytorchFit *fit, const char *list, int named)
{
    for (const char *at = list; *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ',')) {
        char word[64];
        uint64_t bytes = 0;
        snprintf(word, sizeof word, "%.*s", (int)strcspn(at, ","), at);
        const Card *card = named ? device_card(word) : NULL;
        if (named && !card)
            return usage("--card: %s; --memory SIZE takes any size", device_card_unknown(word).text);
        if (!named && parse_size("--memory", word, &bytes))
            return EXIT_USAGE;
        if (add_card(fit, card, card ? card->name : word, card ? card->bytes : bytes))
            return EXIT_USAGE;
    }
    return 0;
}

static int choose_cards(PytorchFit *fit)
{
    static const char usual[] = "t4,rtx-3090,a100-40,a100-80,h200";
    const Options *o = fit->options;
    if (o->cards && each(fit, o->cards, 1))
        return EXIT_USAGE;
    if (o->memories && each(fit, o->memories, 0))
        return EXIT_USAGE;
    return o->cards || o->memories ? 0 : each(fit, usual, 1);
}

/* The job of each row on each card that there are rules for. */
static void make_jobs(PytorchFit *fit)
{
    LeverText why;
    for (int i = 0; i < fit->count; i++) {
        FitCard *c = &fit->cards[i];
        if (pytorch_job_or(fit->options, c->card, &fit->rows[0].job[i], &c->why))
            continue;
        for (int k = 0; k < fit->row_count; k++) {
            FitRow *row = &fit->rows[k];
            pytorch_job_or(&row->options, c->card, &row->job[i], &why);
            pytorch_allocator(&row->options, c->card, &row->allocator[i]); /* it was read before */
            if (!c->card)
                row->allocator[i].total = c->bytes;
        }
    }
}

int command_fit_pytorch(const Options *o)
{
    static FitRow rows[FIT_ROWS];
    PytorchFit fit = {.options = o, .rows = rows, .max_seq = nn_preset_max_seq(&o->preset)};
    PytorchJob job;
    int all = 1;
    fit.seq_step = fit.max_seq >= 4096 ? 128 : fit.max_seq >= 512 ? 16 : 1;
    if (o->budget)
        return usage("--budget is for one job; `brim fit` takes sizes as --memory 8GiB,16GiB");
    if (choose_cards(&fit) || pytorch_job(o, NULL, &job))
        return EXIT_USAGE;
    fit.row_count = pytorch_rows(o, rows);
    make_jobs(&fit);
    if (pytorch_fill(&fit)) {
        complain("there is no memory to predict this with");
        return EXIT_NO;
    }
    if (o->json)
        pytorch_print_fit_json(&fit);
    else
        pytorch_print_fit(&fit);
    for (int i = 0; i < fit.count; i++)
        all &= pytorch_best(&fit, i) != NULL;
    return all ? EXIT_DONE : EXIT_NO;
}
