/* brim fit --framework pytorch: per card what PyTorch would need of it, the largest batch and the longest
 * sequence. Every figure is a replay of the job's allocations; between reserved and allocated a replay with
 * the card's limit decides. */
#include <inttypes.h>
#include <malloc.h>
#include <string.h>

#include "../device/cuda.h"
#include "pytorch.h"

enum { FIT_CARDS = 12, FIT_MEMO = 512, MOST_BATCH = 1 << 16 };

typedef struct FitCard {
    const Card *card; /* NULL: a size alone */
    char title[24];
    uint64_t bytes, limit;
    ContextRange context;
    LeverText why;      /* there are no rules for it; "" otherwise */
    PytorchBooks books; /* as asked for */
    PytorchVerdict verdict;
    int batch, seq; /* the largest and longest that fit; 0: none */
} FitCard;

/* What has been replayed: cards of as many multiprocessors and the same capability need the same. */
typedef struct FitNeed {
    int capability, processors, batch, seq, accumulate;
    PytorchBooks books;
} FitNeed;

/* What is needed at two numbers of units; 0: not yet. */
typedef struct FitLine {
    int units[2];
    double bytes[2][2]; /* allocated, reserved */
} FitLine;

typedef struct PytorchFit {
    const Options *options;
    FitCard cards[FIT_CARDS];
    int count, failed, searching, seq_step, max_seq;
    FitNeed memo[FIT_MEMO];
    int memos;
    FitLine line[2]; /* of batches, of lengths */
} PytorchFit;

/* ---- Cards ----------------------------------------------------------------------------------- */

static int add_card(PytorchFit *fit, const Card *card, const char *title, uint64_t bytes)
{
    FitCard *c = &fit->cards[fit->count];
    if (fit->count == FIT_CARDS)
        return usage("at most %d cards at a time", FIT_CARDS);
    *c = (FitCard){.card = card, .bytes = bytes, .context = pytorch_context(fit->options, card)};
    snprintf(c->title, sizeof c->title, "%.23s", title);
    if (bytes <= c->context.high)
        return usage("the context, %s GiB, leaves nothing of %s", pytorch_context_text(c->context).text,
                     title);
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
    static const char usual[] = "t4,l4,rtx-3090,rtx-4090,a100-40,a100-80,h100,h200";
    const Options *o = fit->options;
    if (o->cards && each(fit, o->cards, 1))
        return EXIT_USAGE;
    if (o->memories && each(fit, o->memories, 0))
        return EXIT_USAGE;
    return o->cards || o->memories ? 0 : each(fit, usual, 1);
}

/* ---- Needs ----------------------------------------------------------------------------------- */

/* From the second micro-batch on all ask for the same, but that Trainer brings the inputs of all to the card
 * at once. So a search has a few, and what it finds is replayed with all. */
enum { MICRO_BATCHES = 3 };

static int job_at(const PytorchFit *fit, const FitCard *c, int batch, int seq, PytorchJob *job,
                  LeverText *why)
{
    Options o = *fit->options;
    o.batch = batch;
    o.seq = seq;
    if (fit->searching && o.accumulate > MICRO_BATCHES)
        o.accumulate = MICRO_BATCHES;
    return pytorch_job_or(&o, c->card, job, why);
}

/* NULL: there is no memory to replay it with. */
static const PytorchBooks *books_at(PytorchFit *fit, const PytorchJob *job)
{
    for (int i = 0; i < fit->memos; i++) {
        const FitNeed *n = &fit->memo[i];
        if (n->capability == job->capability && n->processors == job->processors && n->batch == job->batch &&
            n->seq == job->seq && n->accumulate == job->accumulate)
            return &n->books;
    }
    FitNeed *n = &fit->memo[fit->memos < FIT_MEMO ? fit->memos++ : FIT_MEMO - 1];
    *n = (FitNeed){job->capability, job->processors, (int)job->batch, (int)job->seq, job->accumulate, {0}};
    if (estimate_pytorch_peaks(job, NULL, &n->books)) {
        fit->failed = 1;
        return NULL;
    }
    return &n->books;
}

/* Whether it fits, and on an endless card its books; NULL where there are none. */
static int fits_at(PytorchFit *fit, const FitCard *c, int batch, int seq, const PytorchBooks **out)
{
    PytorchJob job;
    PytorchVerdict verdict;
    LeverText why;
    *out = NULL;
    if (job_at(fit, c, batch, seq, &job, &why))
        return 0;
    const PytorchBooks *books = *out = books_at(fit, &job);
    if (!books)
        return 0;
    if (books->peak_allocated > c->limit || books->peak_reserved <= c->limit)
        return books->peak_allocated <= c->limit;
    if (estimate_pytorch_verdict(&job, NULL, books, c->limit, &verdict)) {
        fit->failed = 1;
        return 0;
    }
    return pytorch_fits(&verdict);
}

/* Where the line through two numbers of units reaches the limit: of what is allocated or of what is reserved,
 * which are nearly straight in them. */
static int on_line(const FitLine *line, int reserved, uint64_t limit, int otherwise)
{
    const double *bytes = line->bytes[reserved];
    double slope = line->units[0] && line->units[1] != line->units[0]
                       ? (bytes[1] - bytes[0]) / (line->units[1] - line->units[0])
                       : 0;
    double units = slope > 0 ? line->units[1] + ((double)limit - bytes[1]) / slope : otherwise;
    return units < 1 ? 1 : units < MOST_BATCH * 8.0 ? (int)units : MOST_BATCH * 8;
}

static void add_point(FitLine *line, int units, const PytorchBooks *books)
{
    if (units == line->units[1] || !books)
        return;
    line->units[0] = line->units[1];
    line->units[1] = units;
    for (int r = 0; r < 2; r++) {
        line->bytes[r][0] = line->bytes[r][1];
        line->bytes[r][1] = (double)(r ? books->peak_reserved : books->peak_allocated);
    }
}

/* The largest number of units that fits, up to `most`; 0: none does. It begins where the line of the card
 * before says. Where that does not fit although its bytes would, pieces decide: the end is near where what is
 * reserved reaches the limit, and from there on steps grow. */
static int largest(PytorchFit *fit, const FitCard *c, int by_seq, int most)
{
    const Options *o = fit->options;
    FitLine *line = &fit->line[by_seq];
    int low = 0, high = most + 1, pieces = 0, step = 1, guess = on_line(line, 0, c->limit, 1);
    while (high - low > 1 && !fit->failed) {
        const PytorchBooks *books = NULL;
        guess = guess <= low ? low + 1 : guess >= high ? high - 1 : guess;
        int good = by_seq ? fits_at(fit, c, o->batch, guess * fit->seq_step, &books)
                          : fits_at(fit, c, guess, o->seq, &books);
        add_point(line, guess, books);
        pieces += pieces || (!good && books && books->peak_allocated <= c->limit);
        if (good)
            low = guess;
        else
            high = guess;
        if (!pieces) {
            guess = on_line(line, 0, c->limit, 2 * guess);
            guess = low && guess > 9 * low ? 9 * low : guess; /* a first line may be that of another peak */
        } else if (pieces == 1) {
            guess = on_line(line, 1, c->limit, guess - 1);
        } else if (low && !good) {
            guess = low + (high - low) / 2;
        } else { /* away from the guess, further each time */
            guess += good ? step : -step;
            step *= 2;
        }
    }
    return low;
}

static int confirmed(PytorchFit *fit, const FitCard *c, int by_seq, int most)
{
    const PytorchBooks *books;
    fit->searching = fit->options->accumulate > MICRO_BATCHES;
    int found = largest(fit, c, by_seq, most), all = fit->searching;
    fit->searching = 0;
    while (all && found && !fit->failed &&
           !(by_seq ? fits_at(fit, c, fit->options->batch, found * fit->seq_step, &books)
                    : fits_at(fit, c, found, fit->options->seq, &books)))
        found--;
    return found;
}

static int fill(PytorchFit *fit, FitCard *c)
{
    const Options *o = fit->options;
    PytorchJob job;
    if (job_at(fit, c, o->batch, o->seq, &job, &c->why))
        return 0;
    const PytorchBooks *books = books_at(fit, &job);
    if (!books || estimate_pytorch_verdict(&job, NULL, books, c->limit, &c->verdict))
        return -1;
    c->books = *books;
    c->batch = confirmed(fit, c, 0, MOST_BATCH);
    c->seq = fit->seq_step * confirmed(fit, c, 1, fit->max_seq / fit->seq_step);
    return fit->failed ? -1 : 0;
}

/* ---- As text --------------------------------------------------------------------------------- */

static double gib(uint64_t bytes)
{
    return (double)bytes / 0x1p30;
}

static LeverText verdict_cell(const FitCard *c)
{
    switch (c->verdict.answer) {
    case PYTORCH_FITS:
        return lever_say("fits");
    case PYTORCH_FITS_TIGHT:
        return lever_say("fits, %" PRIu64 " flush%s", c->verdict.flushes,
                         c->verdict.flushes == 1 ? "" : "es");
    case PYTORCH_RUNS_OUT:
        return lever_say("no: pieces");
    default:
        return lever_say("no, %+.1f", gib(c->limit) - gib(c->books.peak_allocated));
    }
}

static void print_row(const PytorchFit *fit, const FitCard *c)
{
    char batch[24] = "no", seq[24] = "no";
    if (c->why.text[0]) {
        printf("%-13s %7.2f  %-19s not predicted\n", c->title, gib(c->bytes),
               pytorch_context_text(c->context).text);
        return;
    }
    if (c->batch)
        snprintf(batch, sizeof batch, "%d%s", c->batch, c->batch >= MOST_BATCH ? "+" : "");
    if (c->seq)
        snprintf(seq, sizeof seq, "%d%s", c->seq, c->seq + fit->seq_step > fit->max_seq ? " all" : "");
    printf("%-13s %7.2f  %-19s %10.2f %10.2f  %-16s %8s %12s\n", c->title, gib(c->bytes),
           pytorch_context_text(c->context).text, gib(c->books.peak_allocated), gib(c->books.peak_reserved),
           verdict_cell(c).text, batch, seq);
}

/* The first that would need a limit to say which. */
static void print_notes(const PytorchFit *fit)
{
    for (int i = 0; i < fit->count; i++)
        if (fit->cards[i].why.text[0])
            printf("%s: %s.\n", fit->cards[i].title, fit->cards[i].why.text);
    for (int i = 0; i < fit->count; i++)
        if (!fit->cards[i].card)
            printf("%s: a size alone is predicted for compute capability 8.0.\n", fit->cards[i].title);
}

static void print_fit(const PytorchFit *fit, const PytorchJob *job)
{
    const Options *o = fit->options;
    SayLine line = {""};
    line_add(&line, "%s  %.800s", o->model, pytorch_title(o, job).text);
    say_line(&line);
    printf("PREDICTED for %s; no card has confirmed it. GiB; the context's upper end counts.\n\n",
           pytorch_versions(job).text);
    printf("%-13s %7s  %-19s %10s %10s  %-16s %8s %12s\n", "card", "memory", "context", "allocated",
           "reserved", "as asked", "largest", "longest");
    printf("%-13s %7s  %-19s %10s %10s  %-16s %8s %12s\n", "", "", "", "PREDICTED", "PREDICTED", "", "batch",
           "seq");
    for (int i = 0; i < fit->count; i++)
        print_row(fit, &fit->cards[i]);
    printf("\nFits: what PyTorch reserves is not more than the card has left. Fits, N flushes: what it "
           "allocates is not, and\n"
           "a replay with the card's limit ends after so many flushes of its cache. No: pieces: that replay "
           "runs out of\n"
           "memory, though what it allocates would fit. Else: what is missing to what it allocates.\n");
    if (job->parallel)
        printf("%s\n", pytorch_ranks_note(job).text);
    print_notes(fit);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *card_json(const FitCard *c)
{
    json_t *row = json_pack("{s:s, s:I, s:{s:I, s:I, s:s}}", "card", c->title, "bytes", (json_int_t)c->bytes,
                            "context_bytes", "low", (json_int_t)c->context.low, "high",
                            (json_int_t)c->context.high, "source", c->context.source);
    if (c->why.text[0]) {
        json_object_set_new(row, "error", json_text(c->why.text));
        return row;
    }
    json_object_set_new(row, "allocated_bytes", json_integer((json_int_t)c->books.peak_allocated));
    json_object_set_new(row, "reserved_bytes", json_integer((json_int_t)c->books.peak_reserved));
    json_object_set_new(row, "verdict", pytorch_verdict_json(&c->verdict, c->limit));
    json_object_set_new(row, "largest_batch", json_integer(c->batch));
    json_object_set_new(row, "longest_seq", json_integer(c->seq));
    return row;
}

static void print_json(const PytorchFit *fit, const PytorchJob *job)
{
    const Options *o = fit->options;
    json_t *cards = json_array();
    for (int i = 0; i < fit->count; i++)
        json_array_append_new(cards, card_json(&fit->cards[i]));
    json_print(json_pack("{s:s, s:i, s:i, s:{s:b, s:o, s:o, s:o}}", "model", o->model, "batch", o->batch,
                         "seq", o->seq, "pytorch", "predicted", 1, "versions", pytorch_versions_json(job),
                         "ranks", pytorch_ranks_json(job), "cards", cards));
}

/* ---- The command ----------------------------------------------------------------------------- */

int command_fit_pytorch(const Options *o)
{
    static PytorchFit fit;
    PytorchJob job;
    int failed = 0, all = 1;
    fit = (PytorchFit){.options = o, .max_seq = nn_preset_max_seq(&o->preset)};
    fit.seq_step = fit.max_seq >= 4096 ? 128 : fit.max_seq >= 512 ? 16 : 1;
    if (o->budget)
        return usage("--budget is for one job; `brim fit` takes sizes as --memory 8GiB,16GiB");
    if (o->longest)
        return usage(
            "--longest N is for one length; `brim fit` finds the longest: leave it out, or plan with it");
    if (choose_cards(&fit) || pytorch_job(o, NULL, &job))
        return EXIT_USAGE;
    mallopt(M_TRIM_THRESHOLD, 1 << 30); /* a replay's memory is the next one's */
    mallopt(M_TOP_PAD, 64 << 20);
    for (int i = 0; i < fit.count && !failed; i++)
        failed = fill(&fit, &fit.cards[i]);
    if (failed) {
        complain("there is no memory to predict this with");
        return EXIT_NO;
    }
    if (o->json)
        print_json(&fit, &job);
    else
        print_fit(&fit, &job);
    for (int i = 0; i < fit.count; i++)
        all &= !fit.cards[i].why.text[0] && pytorch_fits(&fit.cards[i].verdict);
    return all ? EXIT_DONE : EXIT_NO;
}
