/* Whether a job fits in a limit, and no more: a search asks it of many jobs, half of which do not fit, and
 * those end where they run out of memory. */
#include <string.h>

#include "summary.h"

static int on_event(void *user, const PytorchEvent *e)
{
    PytorchReplay *replay = user;
    if (e->action == PYTORCH_MARK)
        return 0;
    if (e->action == PYTORCH_EMPTY_CACHE)
        return estimate_pytorch_empty_cache(replay) ? -1 : 0;
    if (e->action == PYTORCH_FREE)
        return estimate_pytorch_free(replay, e->serial) ? -1 : 0;
    int status = estimate_pytorch_alloc_on(replay, e->stream, e->serial, e->bytes);
    return status && status != PYTORCH_OUT_OF_MEMORY ? -1 : status;
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
    int status = replay ? estimate_pytorch_job(job, on_event, replay) : -1;
    if (replay)
        *books = *estimate_pytorch_books(replay);
    estimate_pytorch_destroy(replay);
    return status == PYTORCH_OUT_OF_MEMORY ? 0 : status ? -1 : 1;
}
