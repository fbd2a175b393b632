/* What a dry run's live bytes were after each event of the logged window. A log on the meta ledger fills it,
 * so planning itself knows nothing of it. */
#include "runlog_.h"

enum { FIRST_CAPACITY = 4096 };

int report_in_window_(LogWindow *window, const MemEvent *event)
{
    if (!window->trains && event->where.phase == MEM_PHASE_FORWARD)
        *window = (LogWindow){.first = event->where.step, .trains = 1};
    return !window->trains || event->where.step < window->first + RUNLOG_STEPS;
}

static int grow(RunOutline *outline)
{
    size_t capacity = outline->capacity ? 2 * outline->capacity : FIRST_CAPACITY;
    uint64_t *live =
        memtrack_host_realloc(NULL, outline->live, outline->capacity * sizeof *live, capacity * sizeof *live);
    if (!live)
        return -1;
    outline->live = live;
    outline->capacity = capacity;
    return 0;
}

/* A run may evaluate between its first steps, a plan does so after them: evaluations are left out. */
static void take(void *user, const MemEvent *events, size_t count)
{
    RunOutline *outline = user;
    for (size_t i = 0; i < count && !outline->failed && outline->count < RUNLOG_EVENTS; i++) {
        if (!report_in_window_(&outline->window, &events[i]) || events[i].where.phase == MEM_PHASE_EVALUATE)
            continue;
        if (outline->count == outline->capacity && grow(outline)) {
            outline->failed = 1; /* a part would be taken for the whole */
            outline->count = 0;
            return;
        }
        outline->live[outline->count++] = events[i].live;
    }
}

RunOutline *report_outline_create(void)
{
    return memtrack_host_calloc(NULL, sizeof(RunOutline));
}

int report_outline_record(RunOutline *outline, MemLedger *ledger)
{
    outline->count = 0;
    outline->failed = 0;
    outline->window = (LogWindow){0};
    return memtrack_log_start(ledger, 0, take, outline);
}

void report_outline_destroy(RunOutline *outline)
{
    if (!outline)
        return;
    memtrack_host_free(NULL, outline->live, outline->capacity * sizeof *outline->live);
    memtrack_host_free(NULL, outline, sizeof *outline);
}
