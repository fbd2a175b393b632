/* The live panel of a run. It is drawn when an op begins, at most ten times a second: no thread and no timer,
 * so nothing is read while it changes. */
#include <math.h>
#include <string.h>

#include "../base/clock_.h"
#include "live_.h"

static void copy_groups(uint64_t to[MEM_GROUP_COUNT], const uint64_t by[MEM_COMPONENT_COUNT])
{
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        to[g] = report_group(by, (MemGroup)g);
}

static uint64_t sum_of(const uint64_t by[MEM_GROUP_COUNT])
{
    uint64_t sum = 0;
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        sum += by[g];
    return sum;
}

MemCard live_card_(const Context *context)
{
    static const MemCardCounter counters[] = {[CUDA_COUNTS_PROCESS] = MEM_CARD_PROCESS,
                                              [CUDA_COUNTS_CARD] = MEM_CARD_ALL,
                                              [CUDA_COUNTS_DRIVER] = MEM_CARD_DRIVER,
                                              [CUDA_COUNTERS] = MEM_CARD_NONE};
    CudaUse use = context_device_use(context);
    return (MemCard){.counter = counters[use.counter],
                     .used = use.used,
                     .others = use.others,
                     .context = use.context,
                     .kernels = use.kernels,
                     .library = use.library,
                     .transport = use.transport,
                     .graphs = use.graphs};
}

/* Between steps, and not often: whoever counts takes its time. */
static void read_card(Live *live)
{
    enum { EVERY = 1 };
    if (!live->context->card || (live->card_read > 0 && clock_now() - live->card_read < EVERY))
        return;
    live->state.card = live_card_(live->context);
    live->card_read = clock_now();
}

/* While a step runs, the bar shows the last step's peak until this one exceeds it. Otherwise it would fall
 * back at the start of each step. */
static void draw(Live *live)
{
    const MemStats *stats = memtrack_stats(live->ledger);
    PanelState *s = &live->state;
    copy_groups(s->live, stats->live_by);
    if (stats->step_peak > sum_of(s->peak))
        copy_groups(s->peak, stats->step_at_peak);
    s->phase = memtrack_phase(memtrack_ledger_tracker(live->ledger));
    s->elapsed = clock_now() - live->started;
    live->fits = report_screen_draw(&live->screen, s);
}

static void on_op(void *user)
{
    Live *live = user;
    if (report_screen_due(&live->screen))
        draw(live);
}

void live_start_(Live *live, const RunOptions *o, const Plan *plan, const MemMachine *machine, FILE *out,
                 const Context *context, uint64_t reserved)
{
    const MemLedger *ledger = context->ledger;
    uint64_t available = context->card ? context_device_available(context) + reserved : machine->available;
    memset(live, 0, sizeof *live);
    live->on = o->panel && !o->quiet && report_screen_open(&live->screen, out);
    if (!live->on)
        return;
    live->context = context;
    live->ledger = ledger;
    live->started = clock_now();
    live->state = (PanelState){.steps = o->steps > 0 ? o->steps : plan->steps,
                               .left = -1,
                               .needs = plan->memory.stats.needs,
                               .limit = o->budget ? o->budget : available,
                               .limit_is_budget = o->budget > 0,
                               .counted = o->counted,
                               .loss = &live->curve,
                               .reserved = reserved};
    read_card(live);
    memtrack_watch(memtrack_ledger_tracker(ledger), on_op, live);
    draw(live);
}

/* Mean speed of the last seconds: a step's own would jump. */
static void note_rate(Live *live, double counted, double seconds)
{
    double keep = exp(-seconds / 3);
    live->counted = keep * live->counted + counted;
    live->seconds = keep * live->seconds + seconds;
    live->state.rate = live->counted / live->seconds;
}

/* By the mean of all steps but the first, evaluations included. */
static void note_left(Live *live)
{
    PanelState *s = &live->state;
    double t = clock_now();
    if (live->first_step == 0) {
        live->first_step = t;
        s->before = s->step - 1;
    }
    int64_t timed = s->step - s->before - 1;
    if (timed > 0 && s->steps >= s->step)
        s->left = (t - live->first_step) / (double)timed * (double)(s->steps - s->step);
}

int live_step_(Live *live, const StepLine *line, double counted, double seconds)
{
    if (!live->on)
        return 0;
    live->state.step = line->step;
    copy_groups(live->state.peak, memtrack_stats(live->ledger)->step_at_peak);
    report_curve_add(&live->curve, line->loss);
    if (live->curve.stride > 1 || live->curve.count > 1)
        note_rate(live, counted, seconds);
    note_left(live);
    read_card(live);
    if (report_screen_due(&live->screen))
        draw(live);
    return live->fits;
}

void live_make_room_(Live *live)
{
    if (live->on)
        report_screen_clear(&live->screen);
}

void live_end_(Live *live)
{
    if (!live->on)
        return;
    memtrack_watch(memtrack_ledger_tracker(live->ledger), NULL, NULL);
    report_screen_close(&live->screen);
    live->on = 0;
}
