/* What brim fit --framework pytorch prints: what fits at the least cost, the job as it is card by card, and
 * the levers in the form of brim's own table. */
#include <inttypes.h>
#include <string.h>

#include "pytorch_fit_.h"

static double gib(uint64_t bytes)
{
    return (double)bytes / 0x1p30;
}

static int knows(const PytorchFit *fit, int card)
{
    return !fit->cards[card].why.text[0];
}

static int first_known(const PytorchFit *fit)
{
    for (int i = 0; i < fit->count; i++)
        if (knows(fit, i))
            return i;
    return -1;
}

/* ---- What fits at the least cost ------------------------------------------------------------- */

const FitRow *pytorch_best(const PytorchFit *fit, int card)
{
    for (int k = 0; k < fit->row_count && knows(fit, card); k++)
        if (pytorch_fits(&fit->rows[k].cell[card].verdict))
            return &fit->rows[k];
    return NULL;
}

/* "t4, rtx-3090 and h200": the cards of which it is the best row; NULL: where none fits. */
static void say_cards(LeverText *out, const PytorchFit *fit, const FitRow *best)
{
    int left = 0, said = 0;
    for (int i = 0; i < fit->count; i++)
        left += knows(fit, i) && pytorch_best(fit, i) == best;
    for (int i = 0; i < fit->count; i++)
        if (knows(fit, i) && pytorch_best(fit, i) == best)
            lever_add(out, "%s%s", !said++ ? "" : --left > 1 ? ", " : " and ", fit->cards[i].title);
}

/* The row that allocates least on that card. */
static const FitRow *least_of(const PytorchFit *fit, int card)
{
    const FitRow *least = fit->rows;
    for (int k = 1; k < fit->row_count; k++)
        if (fit->rows[k].cell[card].books.peak_allocated < least->cell[card].books.peak_allocated)
            least = &fit->rows[k];
    return least;
}

static void say_none(LeverText *out, const PytorchFit *fit, int others)
{
    int card = 0;
    while (!knows(fit, card) || pytorch_best(fit, card))
        card++;
    const FitRow *least = least_of(fit, card);
    lever_add(out, "%s fits ", others ? "; nothing here" : "Nothing here");
    say_cards(out, fit, NULL);
    lever_add(out, ": the least that is allocated is %s%s%s",
              report_size(least->cell[card].books.peak_allocated).text, least->flags.text[0] ? ", with " : "",
              least->flags.text);
}

static LeverText verdict_of(const PytorchFit *fit)
{
    LeverText out = {""};
    int said = 0, without = 0, adapters = 0;
    for (int k = 0; k < fit->row_count; k++) {
        const FitRow *row = &fit->rows[k];
        int cards = 0;
        for (int i = 0; i < fit->count; i++)
            cards += knows(fit, i) && pytorch_best(fit, i) == row;
        if (!cards)
            continue;
        lever_add(&out, said++ ? "; " : "It fits ");
        say_cards(&out, fit, row);
        lever_add(&out, row->flags.text[0] ? " with %s" : " as it is", row->flags.text);
        adapters |= row->adapters;
    }
    for (int i = 0; i < fit->count; i++)
        without += knows(fit, i) && !pytorch_best(fit, i);
    if (without)
        say_none(&out, fit, said);
    if (said || without)
        lever_add(&out, adapters ? ".  With --lora adapters are trained instead of the weights." : ".");
    return out;
}

/* ---- As it is, card by card ------------------------------------------------------------------ */

static LeverText missing(const FitCell *cell, uint64_t limit)
{
    return lever_say("no, %+.1f", gib(limit) - gib(cell->books.peak_allocated));
}

static LeverText verdict_cell(const FitCell *cell, uint64_t limit)
{
    switch (cell->verdict.answer) {
    case PYTORCH_FITS:
        return lever_say("fits");
    case PYTORCH_FITS_TIGHT:
        return lever_say("fits, %" PRIu64 " flush%s", cell->verdict.flushes,
                         cell->verdict.flushes == 1 ? "" : "es");
    case PYTORCH_RUNS_OUT:
        return lever_say("no: pieces");
    default:
        return missing(cell, limit);
    }
}

static LeverText batch_text(const PytorchFit *fit, const FitCell *cell)
{
    int most = pytorch_most_batch(fit->options);
    if (!cell->batch)
        return lever_say("no");
    return lever_say("%d%s", cell->batch, cell->batch < most ? "" : most < MOST_BATCH ? " all" : "+");
}

static LeverText seq_text(const PytorchFit *fit, const FitCell *cell)
{
    if (!cell->seq)
        return lever_say("no");
    return lever_say("%d%s", cell->seq, cell->seq + fit->seq_step > fit->max_seq ? " all" : "");
}

static void print_card(const PytorchFit *fit, int card)
{
    const FitCard *c = &fit->cards[card];
    const FitCell *cell = &fit->rows[0].cell[card];
    printf("%-12s %6.2f", c->title, gib(c->bytes));
    if (c->why.text[0])
        printf("  not predicted\n");
    else
        printf(" %10.2f %10.2f  %-16s %8s %10s\n", gib(cell->books.peak_allocated),
               gib(cell->books.peak_reserved), verdict_cell(cell, c->limit).text, batch_text(fit, cell).text,
               seq_text(fit, cell).text);
}

static void print_cards(const PytorchFit *fit)
{
    printf("%-12s %6s %10s %10s  %-16s %8s %10s\n", "card", "memory", "allocated", "reserved", "as asked",
           "largest", "longest");
    printf("%-12s %6s %10s %10s  %-16s %8s %10s\n", "", "", "PREDICTED", "PREDICTED", "", "batch", "seq");
    for (int i = 0; i < fit->count; i++)
        print_card(fit, i);
}

/* ---- Levers ---------------------------------------------------------------------------------- */

enum { CELL = 10, NEED = 9 };

static void batch_cell(const PytorchFit *fit, const FitRow *row, int card)
{
    const FitCell *cell = &row->cell[card];
    LeverText text;
    if (!cell->batch)
        text = row->options.batch > 1 ? lever_say("no") : verdict_cell(cell, fit->cards[card].limit);
    else if (cell->batch < row->options.batch)
        text = lever_say("only %d", cell->batch);
    else
        text = batch_text(fit, cell);
    printf(" %*s", CELL, text.text);
}

static void seq_cell(const PytorchFit *fit, const FitRow *row, int card)
{
    printf(" %*s", CELL, seq_text(fit, &row->cell[card]).text);
}

/* The cards of the list from `first` on, `count` of them. */
static void print_table(const PytorchFit *fit, const char *title, const int *cards, int count,
                        void (*cell)(const PytorchFit *fit, const FitRow *row, int card))
{
    printf("\n%-*s %*s", FIT_LABEL, title, NEED, "allocated");
    for (int i = 0; i < count; i++)
        printf(" %*s", CELL, fit->cards[cards[i]].title);
    printf("\n%-*s %*s", FIT_LABEL, "", NEED, "");
    for (int i = 0; i < count; i++)
        printf(" %*.2f", CELL, gib(fit->cards[cards[i]].bytes));
    printf("\n");
    for (int k = 0; k < fit->row_count; k++) {
        const FitRow *row = &fit->rows[k];
        printf("%-*s %*.2f", FIT_LABEL, row->label, NEED,
               gib(row->cell[first_known(fit)].books.peak_allocated));
        for (int i = 0; i < count; i++)
            cell(fit, row, cards[i]);
        printf("\n");
    }
}

/* As many cards beside each other as the terminal takes; elsewhere all. */
static void print_levers(const PytorchFit *fit)
{
    PanelStyle style;
    int cards[FIT_CARDS], count = 0, beside = FIT_CARDS;
    char batches[40], lengths[40];
    for (int i = 0; i < fit->count; i++)
        if (knows(fit, i))
            cards[count++] = i;
    if (report_terminal(stdout, &style))
        beside = (style.width - FIT_LABEL - NEED - 2) / (CELL + 1);
    beside = beside < 1 ? 1 : beside;
    snprintf(batches, sizeof batches, "LARGEST BATCH, seq %d", fit->options->seq);
    snprintf(lengths, sizeof lengths, "LONGEST SEQUENCE, batch %d", fit->options->batch);
    for (int i = 0; i < count; i += beside)
        print_table(fit, batches, cards + i, count - i < beside ? count - i : beside, batch_cell);
    for (int i = 0; i < count; i += beside)
        print_table(fit, lengths, cards + i, count - i < beside ? count - i : beside, seq_cell);
}

/* ---- All of it ------------------------------------------------------------------------------- */

static int same_context(ContextRange a, ContextRange b)
{
    return a.low == b.low && a.high == b.high;
}

/* That of most cards, and then of the others. */
static void say_context(const PytorchFit *fit)
{
    SayLine line = {"GiB.  "};
    ContextRange most = {0};
    for (int i = 0, best = 0; i < fit->count; i++) {
        int alike = 0;
        for (int k = 0; k < fit->count; k++)
            alike += same_context(fit->cards[i].context, fit->cards[k].context);
        most = alike > best ? fit->cards[i].context : most;
        best = alike > best ? alike : best;
    }
    line_add(&line, "Of each card the context takes %s", pytorch_context_text(most).text);
    for (int i = 0; i < fit->count; i++)
        if (!same_context(fit->cards[i].context, most))
            line_add(&line, "; of %s %s", fit->cards[i].title,
                     pytorch_context_text(fit->cards[i].context).text);
    line_add(&line, "; its upper end counts.");
    say_line(&line);
}

static int computes_in_bf16(const Options *o)
{
    int precision = pytorch_precision(o)->value;
    return precision == PYTORCH_BF16 || precision == PYTORCH_AUTOCAST_BF16;
}

/* bf16 came with compute capability 8.0; PyTorch takes it before, too. */
static void say_no_bf16(const PytorchFit *fit, int card)
{
    int some = 0;
    for (int k = 0; k < fit->row_count; k++)
        some |= computes_in_bf16(&fit->rows[k].options);
    if (some && fit->cards[card].card && fit->cards[card].card->capability < 80)
        printf("%s: it has no bf16 arithmetic, so bf16 is slow there; --precision fp16-autocast is usual.\n",
               fit->cards[card].title);
}

/* Said once for all cards that it is true of: in some row, for it is of 16 bits. */
static void say_unverified(const PytorchFit *fit)
{
    const PytorchJob *of = NULL;
    LeverText titles = {""};
    char why[240];
    for (int i = 0; i < fit->count; i++) {
        const PytorchJob *own = NULL;
        for (int k = 0; k < fit->row_count && !own && knows(fit, i); k++)
            if (estimate_pytorch_unverified(&fit->rows[k].job[i], why, sizeof why))
                own = &fit->rows[k].job[i];
        if (own)
            lever_add(&titles, "%s%s", titles.text[0] ? ", " : "", fit->cards[i].title);
        of = of ? of : own;
    }
    lever_add(&titles, ": ");
    if (of)
        pytorch_print_unverified(of, titles.text);
}

static void print_notes(const PytorchFit *fit)
{
    say_unverified(fit);
    for (int i = 0; i < fit->count; i++)
        if (!knows(fit, i))
            printf("%s: %s.\n", fit->cards[i].title, fit->cards[i].why.text);
        else
            say_no_bf16(fit, i);
    for (int i = 0; i < fit->count; i++)
        if (!fit->cards[i].card)
            printf("%s: a size alone is predicted for compute capability 8.0.\n", fit->cards[i].title);
}

static void print_legend(const PytorchFit *fit)
{
    SayLine answers = {"fits: the card holds all that PyTorch reserves."},
            cells = {"Allocated is as asked for"};
    line_add(&answers,
             "  fits, N flushes: it holds all that is allocated, and PyTorch empties its cache N times."
             "  no: pieces: it would hold what is allocated, but no free piece is large enough."
             "  no, -X: the card is X GiB too small for what is allocated.");
    say_line(&answers);
    if (fit->count > 1)
        line_add(&cells, ", on %s", fit->cards[first_known(fit)].title);
    line_add(&cells, ".  Batches from 32 on are even, from 64 on multiples of 4, and so on");
    if (fit->seq_step > 1)
        line_add(&cells, ";  lengths are multiples of %d, from %d on of %d, and so on", fit->seq_step,
                 fit->seq_step * 32, fit->seq_step * 2);
    line_add(&cells, ".");
    say_line(&cells);
}

void pytorch_print_fit(const PytorchFit *fit)
{
    const Options *o = fit->options;
    SayLine line = {""}, verdict = {""};
    int known = first_known(fit);
    line_add(&line, "%s", o->model);
    if (known >= 0)
        line_add(&line, "  %.800s", pytorch_title(o, &fit->rows[0].job[known]).text);
    say_line(&line);
    if (known >= 0) {
        printf("PREDICTED for %s; no card has confirmed it.\n",
               pytorch_versions(&fit->rows[0].job[known]).text);
        pytorch_print_data(o);
        line_add(&verdict, "%.1000s", verdict_of(fit).text);
        say_line(&verdict);
    }
    printf("\n");
    say_context(fit);
    printf("\n");
    print_cards(fit);
    if (known >= 0) {
        print_levers(fit);
        printf("\n");
        print_legend(fit);
        pytorch_say_words(fit);
        pytorch_print_ranks(&fit->rows[0].job[known]);
    }
    print_notes(fit);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void cell_json(json_t *to, const FitCell *cell, uint64_t limit)
{
    json_object_set_new(to, "allocated_bytes", json_integer((json_int_t)cell->books.peak_allocated));
    json_object_set_new(to, "reserved_bytes", json_integer((json_int_t)cell->books.peak_reserved));
    json_object_set_new(to, "verdict", pytorch_verdict_json(&cell->verdict, limit));
    json_object_set_new(to, "largest_batch", json_integer(cell->batch));
    json_object_set_new(to, "longest_seq", json_integer(cell->seq));
}

static json_t *card_json(const PytorchFit *fit, int card)
{
    const FitCard *c = &fit->cards[card];
    json_t *out = json_pack("{s:s, s:I, s:o}", "card", c->title, "bytes", (json_int_t)c->bytes,
                            "context_bytes", pytorch_context_json(c->context));
    if (!knows(fit, card)) {
        json_object_set_new(out, "error", json_text(c->why.text));
        return out;
    }
    const FitRow *best = pytorch_best(fit, card);
    json_object_set_new(out, "best", best ? json_text(best->flags.text) : json_null());
    json_object_set_new(out, "unverified", pytorch_unverified_json(&fit->rows[0].job[card]));
    cell_json(out, &fit->rows[0].cell[card], c->limit);
    return out;
}

static json_t *row_json(const PytorchFit *fit, const FitRow *row)
{
    json_t *cards = json_array();
    for (int i = 0; i < fit->count; i++) {
        if (!knows(fit, i))
            continue;
        const FitCell *cell = &row->cell[i];
        uint64_t limit = fit->cards[i].limit;
        json_t *out = json_pack("{s:s, s:b, s:I, s:o}", "card", fit->cards[i].title, "fits",
                                pytorch_fits(&cell->verdict), "free_bytes",
                                (json_int_t)(limit - cell->books.peak_allocated), "unverified",
                                pytorch_unverified_json(&row->job[i]));
        cell_json(out, cell, limit);
        json_array_append_new(cards, out);
    }
    return json_pack("{s:s, s:s, s:i, s:o}", "method", row->label, "flags", row->flags.text, "replays",
                     row->replays, "cards", cards);
}

void pytorch_print_fit_json(const PytorchFit *fit)
{
    const Options *o = fit->options;
    json_t *cards = json_array(), *methods = json_array();
    for (int i = 0; i < fit->count; i++)
        json_array_append_new(cards, card_json(fit, i));
    for (int k = 0; k < fit->row_count && first_known(fit) >= 0; k++)
        json_array_append_new(methods, row_json(fit, &fit->rows[k]));
    LeverText why;
    PytorchJob job = {.dialect = pytorch_dialect(o)};
    pytorch_job_or(o, NULL, &job, &why);
    json_print(json_pack("{s:s, s:i, s:i, s:{s:b, s:o, s:o, s:s, s:o, s:o, s:o}}", "model", o->model, "batch",
                         o->batch, "seq", o->seq, "pytorch", "predicted", 1, "versions",
                         pytorch_versions_json(&job), "ranks", pytorch_ranks_json(&job), "verdict",
                         verdict_of(fit).text, "data", pytorch_data_json(o), "cards", cards, "methods",
                         methods));
}
