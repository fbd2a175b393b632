/* Whether a job fits in a limit: a replay on an endless card, and one with the limit. */
#include <string.h>

#include "summary.h"

/* ---- The books alone, and with a limit ------------------------------------------------------- */

/* One run of the job for two replays: of an endless card, and of one with a limit. */
typedef struct Books {
    PytorchReplay *endless;
    PytorchReplay *limited; /* NULL before the limit can matter, and after the replay with it has failed */
    uint64_t limit;         /* of what has yet to become `limited`; 0: nothing has */
    uint64_t largest_segment;
    PytorchVerdict *verdict;
} Books;

/* More than any segment that may be reserved for these bytes. */
static uint64_t segment_for(const Books *b, uint64_t bytes)
{
    return b->largest_segment + 2 * bytes;
}

static int on_limited(Books *b, const PytorchEvent *e)
{
    int status = estimate_pytorch_give(b->limited, e);
    if (status != PYTORCH_OUT_OF_MEMORY)
        return status;
    b->verdict->failed = *e;
    b->verdict->books = *estimate_pytorch_books(b->limited);
    estimate_pytorch_destroy(b->limited);
    b->limited = NULL;
    return 0;
}

static int on_books(void *user, const PytorchEvent *e)
{
    Books *b = user;
    if (b->limit && e->action == PYTORCH_ALLOC &&
        estimate_pytorch_books(b->endless)->reserved + segment_for(b, e->bytes) > b->limit) {
        b->limited = estimate_pytorch_copy(b->endless, b->limit);
        b->limit = 0;
        if (!b->limited)
            return -1;
    }
    if (estimate_pytorch_give(b->endless, e))
        return -1;
    return b->limited ? on_limited(b, e) : 0;
}

/* How much fits under the limit, and under the fraction of the card that the process may take. */
static uint64_t room(const PytorchAllocatorOptions *options, uint64_t limit)
{
    if (!options || options->fraction <= 0)
        return limit;
    double allowed = options->fraction * (double)(options->total ? options->total : limit);
    return allowed < (double)limit ? (uint64_t)allowed : limit;
}

/* 0, or -1 without host memory. Of the verdict only what a replay with the limit tells is set. */
static int run(const PytorchJob *job, const PytorchAllocatorOptions *options, Books *b, PytorchBooks *books)
{
    b->endless = estimate_pytorch_endless(options);
    b->largest_segment = UINT64_C(32) << 20;
    if (options && options->large_segment_size > b->largest_segment)
        b->largest_segment = options->large_segment_size;
    if (b->limit && options && (options->fraction > 0 || options->expandable_segments)) {
        /* the total counts from the beginning, and where it is not said it is the limit */
        PytorchAllocatorOptions limited = *options;
        limited.limit = b->limit;
        b->limited = estimate_pytorch_create(&limited);
        b->limit = 0;
        if (!b->limited) {
            estimate_pytorch_destroy(b->endless);
            return -1;
        }
    }
    int failed = !b->endless || estimate_pytorch_job(job, on_books, b);
    if (b->endless)
        *books = *estimate_pytorch_books(b->endless);
    if (b->limited)
        b->verdict->books = *estimate_pytorch_books(b->limited);
    else if (b->verdict && !b->verdict->books.ooms)
        b->verdict->books = *books; /* it never came near the limit */
    estimate_pytorch_destroy(b->endless);
    estimate_pytorch_destroy(b->limited);
    return failed ? -1 : 0;
}

int estimate_pytorch_peaks(const PytorchJob *job, const PytorchAllocatorOptions *options, PytorchBooks *out)
{
    memset(out, 0, sizeof *out);
    return run(job, options, &(Books){0}, out);
}

int estimate_pytorch_verdict(const PytorchJob *job, const PytorchAllocatorOptions *options, uint64_t limit,
                             PytorchBooks *endless, PytorchVerdict *out)
{
    *out = (PytorchVerdict){.answer = PYTORCH_FITS};
    memset(endless, 0, sizeof *endless);
    if (run(job, options, &(Books){.limit = limit, .verdict = out}, endless))
        return -1;
    out->flushes = out->books.retries;
    if (limit && endless->peak_reserved <= room(options, limit))
        return 0;
    if (limit && !out->books.ooms)
        out->answer = PYTORCH_FITS_TIGHT;
    else
        out->answer = endless->peak_allocated > room(options, limit) ? PYTORCH_TOO_LARGE : PYTORCH_RUNS_OUT;
    return 0;
}

/* ---- A word, sooner -------------------------------------------------------------------------- */

/* A search asks it of many jobs, half of which do not fit: those end where they run out of memory. */
static int on_word(void *user, const PytorchEvent *e)
{
    return estimate_pytorch_give(user, e);
}

int estimate_pytorch_fits(const PytorchJob *job, const PytorchAllocatorOptions *options, uint64_t limit,
                          PytorchBooks *books)
{
    PytorchAllocatorOptions limited = options ? *options : (PytorchAllocatorOptions){0};
    memset(books, 0, sizeof *books);
    limited.limit = limit;
    if (!limit)
        return 0;
    PytorchReplay *replay = estimate_pytorch_create(&limited);
    int status = replay ? estimate_pytorch_job(job, on_word, replay) : -1;
    if (replay)
        *books = *estimate_pytorch_books(replay);
    estimate_pytorch_destroy(replay);
    return status == PYTORCH_OUT_OF_MEMORY ? 0 : status ? -1 : 1;
}
