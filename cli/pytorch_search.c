/* What fits: for each row and each card the verdict as asked for, the largest batch and the longest sequence.
 * Every answer is a replay with the card's limit. What is allocated and reserved is nearly straight in the
 * number of samples and of tokens, so lines through what has been replayed say where to look: what is
 * reserved says what fits for sure, what is allocated what does not. */
#include <malloc.h>
#include <stdatomic.h>
#include <string.h>

#include "pytorch_fit_.h"

int pytorch_most_batch(const Options *o)
{
    return o->lengths.samples && o->lengths.samples < MOST_BATCH ? (int)o->lengths.samples : MOST_BATCH;
}

/* ---- Needs ----------------------------------------------------------------------------------- */

static int is_need(const FitNeed *n, const PytorchJob *job)
{
    return n->capability == job->capability && n->processors == job->processors && n->batch == job->batch &&
           n->seq == job->seq && n->accumulate == job->accumulate;
}

static FitNeed *add_need(FitRow *row, const FitNeed *need)
{
    FitNeed *n = &row->memo[row->memos < FIT_MEMO ? row->memos++ : FIT_MEMO - 1];
    *n = *need;
    return n;
}

/* What a replay for another limit says of this one, too; NULL: nothing. */
static const FitNeed *known_need(FitRow *row, const PytorchJob *job, const PytorchAllocatorOptions *allocator,
                                 uint64_t limit)
{
    for (int i = 0; i < row->memos; i++) {
        FitNeed n = row->memo[i];
        if (!is_need(&n, job))
            continue;
        if (n.limit == limit)
            return &row->memo[i];
        if (n.part || allocator->fraction > 0 ||
            (n.books.peak_reserved > limit && n.books.peak_allocated <= limit))
            continue;
        n.limit = limit;
        n.verdict = (PytorchVerdict){
            .answer = n.books.peak_reserved <= limit ? PYTORCH_FITS : PYTORCH_TOO_LARGE, .books = n.books};
        return add_need(row, &n);
    }
    return NULL;
}

static FitNeed need_for(const PytorchJob *job, uint64_t limit)
{
    return (FitNeed){.capability = job->capability,
                     .processors = job->processors,
                     .batch = (int)job->batch,
                     .seq = (int)job->seq,
                     .accumulate = job->accumulate,
                     .limit = limit};
}

/* With all of the verdict, and what an endless card would need. NULL: there is no memory to replay it with.
 */
static const FitNeed *need_of(FitRow *row, const PytorchJob *job, const PytorchAllocatorOptions *allocator,
                              uint64_t limit)
{
    FitNeed n = need_for(job, limit);
    row->replays++;
    row->failed |= estimate_pytorch_verdict(job, allocator, limit, &n.books, &n.verdict) != 0;
    return row->failed ? NULL : add_need(row, &n);
}

/* Whether it fits, at once where it does not. */
static const FitNeed *answer_of(FitRow *row, const PytorchJob *job, const PytorchAllocatorOptions *allocator,
                                uint64_t limit)
{
    FitNeed n = need_for(job, limit);
    row->replays++;
    int fits = estimate_pytorch_fits(job, allocator, limit, &n.books);
    row->failed |= fits < 0;
    n.part = !fits || n.books.retries;
    n.verdict.answer = !fits ? PYTORCH_RUNS_OUT : n.books.retries ? PYTORCH_FITS_TIGHT : PYTORCH_FITS;
    return row->failed ? NULL : add_need(row, &n);
}

/* ---- Lines ----------------------------------------------------------------------------------- */

static void add_point(FitLine *line, int units, const PytorchBooks *books)
{
    int at = line->count;
    while (at > 0 && line->point[at - 1].units >= units)
        at--;
    int there = at < line->count && line->point[at].units == units;
    if (!there && line->count == FIT_POINTS)
        return;
    if (!there)
        memmove(&line->point[at + 1], &line->point[at], (size_t)(line->count++ - at) * sizeof *line->point);
    line->point[at] = (FitPoint){units, {books->peak_allocated, books->peak_reserved}};
}

/* Where the line through two points reaches the limit. */
static double crossing(const FitPoint *a, const FitPoint *b, int reserved, uint64_t limit)
{
    double slope = ((double)b->bytes[reserved] - (double)a->bytes[reserved]) / (b->units - a->units);
    return slope > 0 ? a->units + ((double)limit - (double)a->bytes[reserved]) / slope : 1e9;
}

/* The most units that need no more than the limit, as far as the points say. Beyond them a line may be that
 * of another peak, so not much further. */
static int units_in(const FitLine *line, int reserved, uint64_t limit)
{
    enum { FURTHER = 8 };
    const FitPoint *p = line->point;
    int under = 0; /* points up to the last that is under the limit */
    for (int i = 0; i < line->count; i++)
        under = p[i].bytes[reserved] <= limit ? i + 1 : under;
    if (!line->count)
        return 1;
    if (!under)
        return line->count > 1 ? (int)crossing(&p[0], &p[1], reserved, limit) : p[0].units / 2;
    const FitPoint *last = &p[under - 1];
    double most = under < line->count ? crossing(last, last + 1, reserved, limit)
                  : under > 1         ? crossing(last - 1, last, reserved, limit)
                                      : 1e9;
    double further = (double)FURTHER * last->units;
    return (int)(most < further ? most : further);
}

/* ---- The largest ----------------------------------------------------------------------------- */

/* From the second micro-batch on all ask for the same, but that Trainer brings the inputs of all to the card
 * at once. So a search has a few, and what it finds is replayed with all. */
enum { MICRO_BATCHES = 3, POINTS = 3 };

/* A search in the row, on a card. */
typedef struct Search {
    const PytorchFit *fit;
    FitRow *row;
    int card, by_seq, few; /* few: micro-batches */
} Search;

/* NULL: it could not be replayed. */
static const FitNeed *try(const Search *s, int units)
{
    PytorchJob job = s->row->job[s->card];
    if (s->by_seq)
        job.seq = (int64_t)units * s->fit->seq_step;
    else
        job.batch = units;
    job.mask = pytorch_mask(&s->row->options, (int)job.batch);
    if (s->few && job.accumulate > MICRO_BATCHES)
        job.accumulate = MICRO_BATCHES;
    uint64_t limit = s->fit->cards[s->card].limit;
    FitLine *line = &s->row->line[s->by_seq];
    const PytorchAllocatorOptions *allocator = &s->row->allocator[s->card];
    const FitNeed *need = known_need(s->row, &job, allocator, limit);
    if (!need) /* the first points say where to look, also those that do not fit */
        need = line->count < POINTS ? need_of(s->row, &job, allocator, limit)
                                    : answer_of(s->row, &job, allocator, limit);
    if (need && !need->part)
        add_point(line, units, &need->books);
    return need;
}

/* Answers have five significant bits: each number up to 32, then the even ones, from 64 on every fourth. */
static int grain(int units)
{
    int step = 1;
    while (units / step >= 32)
        step *= 2;
    return step;
}

static int next_of(int units)
{
    int step = grain(units);
    return (units / step + 1) * step;
}

/* low fits, or is 0; high does not, or is one more than there can be. */
static int next_guess(const Search *s, int low, int high)
{
    const FitLine *line = &s->row->line[s->by_seq];
    uint64_t limit = s->fit->cards[s->card].limit;
    int sure = units_in(line, 1, limit), most = units_in(line, 0, limit), guess = sure;
    if (guess <= low) { /* between what is reserved and what is allocated */
        most = most < high ? most : high - 1;
        guess = most > low ? low + (2 * (most - low) + 2) / 3 : low + 1;
    } else if (guess >= high) {
        guess = low + (high - low) / 2;
    }
    guess -= guess % grain(guess);
    guess = guess <= low ? next_of(low) : guess;
    return guess < high ? guess : high - 1;
}

static int largest(const Search *s, int low, int high)
{
    while (next_of(low) < high && !s->row->failed) {
        int guess = next_guess(s, low, high);
        const FitNeed *need = try(s, guess);
        if (need && pytorch_fits(&need->verdict))
            low = guess;
        else
            high = guess;
    }
    return low;
}

static int search(const PytorchFit *fit, FitRow *row, int card, int by_seq)
{
    const Options *o = &row->options;
    const FitCell *cell = &row->cell[card];
    Search s = {fit, row, card, by_seq, o->accumulate > MICRO_BATCHES};
    int most = by_seq ? fit->max_seq / fit->seq_step : pytorch_most_batch(o);
    int asked = by_seq ? o->seq / fit->seq_step : o->batch;
    int whole =
        !by_seq || asked * fit->seq_step == o->seq; /* else a length between two steps was asked for */
    int fits = pytorch_fits(&cell->verdict);
    if (whole)
        add_point(&row->line[by_seq], asked, &cell->books);
    int found = fits ? largest(&s, asked, most + 1) : largest(&s, 0, asked + !whole);
    if (s.few)
        for (s.few = 0; found > (fits ? asked : 0) && !row->failed; found--) {
            const FitNeed *need = try(&s, found);
            if (need && pytorch_fits(&need->verdict))
                break;
        }
    return found;
}

static void fill_row(const PytorchFit *fit, FitRow *row)
{
    for (int i = 0; i < fit->count && !row->failed; i++) {
        FitCell *cell = &row->cell[i];
        if (fit->cards[i].why.text[0])
            continue;
        const FitNeed *need = need_of(row, &row->job[i], &row->allocator[i], fit->cards[i].limit);
        if (!need)
            return;
        cell->books = need->books;
        cell->verdict = need->verdict;
        cell->batch = search(fit, row, i, 0);
        cell->seq = fit->seq_step * search(fit, row, i, 1);
        if (pytorch_fits(&cell->verdict) && cell->seq < row->options.seq)
            cell->seq = row->options.seq;
    }
}

/* A row is one thread's; those at the end of the list are the longest work. */
int pytorch_fill(PytorchFit *fit)
{
    atomic_int left = fit->row_count;
    int failed = 0, threads = threads_of(fit->options);
    threads = threads < fit->row_count ? threads : fit->row_count;
    mallopt(M_TRIM_THRESHOLD, 1 << 30); /* a replay's memory is the next one's */
    mallopt(M_TOP_PAD, 64 << 20);
#pragma omp parallel num_threads(threads)
    for (int row; (row = atomic_fetch_sub(&left, 1) - 1) >= 0;)
        fill_row(fit, &fit->rows[row]);
    for (int i = 0; i < fit->row_count; i++)
        failed |= fit->rows[i].failed;
    return failed ? -1 : 0;
}
