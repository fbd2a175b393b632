/* See pytorch_tables.h: the peak by component, by layer, by moment, and beside brim's. */
#include <string.h>

#include "pytorch_tables.h"

static ReportUnit unit_of(const PytorchPlan *p)
{
    return report_unit(p->summary.books.peak_reserved);
}

static void number_in(int width, ReportUnit unit, uint64_t bytes)
{
    printf(" %*.*f", width, unit.decimals, (double)bytes / unit.bytes);
}

static void number(ReportUnit unit, uint64_t bytes)
{
    number_in(10, unit, bytes);
}

/* ---- Components ------------------------------------------------------------------------------ */

enum { NAME = 28, RULE = 71 };

static void line(void)
{
    for (int i = 0; i < RULE; i++)
        putchar('-');
    putchar('\n');
}

static void component(const PytorchPlan *p, const char *name, uint64_t bytes, int has_brim, uint64_t brim)
{
    ReportUnit unit = unit_of(p);
    printf("%-*s", NAME, name);
    number(unit, bytes);
    printf(" %7.1f %%", 100 * (double)bytes / (double)p->summary.requested);
    if (has_brim && !p->brim.status) {
        number(unit, brim);
        printf(" %+12.*f", unit.decimals, ((double)bytes - (double)brim) / unit.bytes);
    }
    printf("\n");
}

/* A component of brim's has no row of its own, but is in a group. */
static uint64_t brim_group(const PytorchPlan *p, MemGroup group)
{
    return p->brim.status ? 0 : report_group(p->brim.memory.stats.at_peak, group);
}

static void part(const PytorchPlan *p, PytorchKind kind)
{
    char name[40];
    snprintf(name, sizeof name, "  %.36s", estimate_pytorch_kind_name(kind));
    if (p->summary.at_peak[kind])
        component(p, name, p->summary.at_peak[kind], 0, 0);
}

static void total(const PytorchPlan *p, const char *name, uint64_t bytes, const char *behind)
{
    printf("%-*s", NAME, name);
    number(unit_of(p), bytes);
    printf("%s%s\n", behind[0] ? "  " : "", behind);
}

void pytorch_print_components(const PytorchPlan *p)
{
    const PytorchSummary *s = &p->summary;
    const uint64_t *at = s->at_peak;
    ReportUnit unit = unit_of(p);
    uint64_t parameters = at[PYTORCH_PARAMETER] + at[PYTORCH_FROZEN],
             overhead = at[PYTORCH_TEMPORARY] + at[PYTORCH_WORKSPACE] + at[PYTORCH_INPUT] +
                        at[PYTORCH_BUFFER] + at[PYTORCH_CAST] + at[PYTORCH_BUCKET];
    printf("%-*s %10s %9s%s\n", NAME, unit.name, "PyTorch", "share",
           p->brim.status ? "" : "       brim         more");
    printf("%-*s %10s %9s%s\n", NAME, "", "at peak", "of it", p->brim.status ? "" : "    at peak");
    component(p, "parameters", parameters, 1, brim_group(p, MEM_GROUP_PARAMETERS));
    if (at[PYTORCH_FROZEN] && at[PYTORCH_PARAMETER]) {
        part(p, PYTORCH_FROZEN);
        component(p, "  trained", at[PYTORCH_PARAMETER], 0, 0);
    }
    component(p, "gradients", at[PYTORCH_GRADIENT], 1, brim_group(p, MEM_GROUP_GRADIENTS));
    component(p, "optimizer states", at[PYTORCH_OPTIMIZER_STATE], 1,
              brim_group(p, MEM_GROUP_OPTIMIZER_STATES));
    component(p, "activations", at[PYTORCH_ACTIVATION], 1, brim_group(p, MEM_GROUP_ACTIVATIONS));
    component(p, "overhead", overhead, 1, brim_group(p, MEM_GROUP_OVERHEAD));
    part(p, PYTORCH_TEMPORARY);
    part(p, PYTORCH_WORKSPACE);
    part(p, PYTORCH_CAST);
    part(p, PYTORCH_BUCKET);
    part(p, PYTORCH_INPUT);
    part(p, PYTORCH_BUFFER);
    line();
    component(p, "requested", s->requested, 1, p->brim.memory.stats.peak);
    total(p, "allocated", s->books.peak_allocated, "in blocks of 512 bytes: what must fit");
    total(p, "reserved", s->books.peak_reserved, "in segments: what nvidia-smi shows");
    pytorch_print_ranks(&p->job);
    printf("Peak at: %s\n", pytorch_place(&s->peak_at, p->options->accumulate).text);
    if (!p->brim.status) {
        const MemStats *b = &p->brim.memory.stats;
        SayLine peak = {""};
        line_add(&peak, "brim's peak at: %s, %s%s%s%s, step %lld; it needs %s in one piece",
                 memtrack_phase_name(b->peak_at.phase), report_path(&p->brim.memory),
                 p->brim.memory.peak_op[0] ? " (" : "", p->brim.memory.peak_op,
                 p->brim.memory.peak_op[0] ? ")" : "", (long long)b->peak_at.step + 1,
                 report_size(b->needs).text);
        say_line(&peak);
    } else {
        printf("Without brim's own plan beside it: %s.\n", p->why_no_brim.text);
    }
}

/* ---- The largest ----------------------------------------------------------------------------- */

void pytorch_print_largest(const PytorchPlan *p)
{
    enum { LARGEST = 10 };
    const PytorchAllocation *best[LARGEST] = {NULL};
    ReportUnit unit = unit_of(p);
    uint64_t rest = p->summary.requested;
    int count = 0;
    for (size_t i = 0; i < p->summary.live_count; i++) {
        const PytorchAllocation *a = &p->summary.live[i];
        int at = count;
        while (at > 0 && best[at - 1]->bytes < a->bytes)
            at--;
        if (at == LARGEST)
            continue;
        int last = count < LARGEST ? count++ : LARGEST - 1;
        for (int k = last; k > at; k--)
            best[k] = best[k - 1];
        best[at] = a;
    }
    printf("\nLARGEST AT THE PEAK, %s\n", unit.name);
    for (int i = 0; i < count; i++) {
        const PytorchAllocation *a = best[i];
        char where[96];
        rest -= a->bytes;
        if (a->layer >= 0)
            snprintf(where, sizeof where, "layers.%d%s%s", a->layer, a->module ? "." : "",
                     a->module ? a->module : "");
        else
            snprintf(where, sizeof where, "%s", a->module ? a->module : "the model itself");
        printf("%10.*f  %-19s %s, %s%s\n", unit.decimals, (double)a->bytes / unit.bytes,
               estimate_pytorch_kind_name(a->kind), where, a->op, a->recomputed ? ", recomputed" : "");
    }
    printf("%10.*f  in all others\n", unit.decimals, (double)rest / unit.bytes);
}

/* ---- By layer -------------------------------------------------------------------------------- */

enum { COLUMNS = 5, ROWS = 1024, LAYER = 25, NARROW = 8 };

typedef struct LayerRow {
    int layer;
    const char *module; /* where layer is -1 */
    uint64_t by[COLUMNS];
} LayerRow;

static int column_of(PytorchKind kind)
{
    switch (kind) {
    case PYTORCH_PARAMETER:
    case PYTORCH_FROZEN:
        return 0;
    case PYTORCH_GRADIENT:
        return 1;
    case PYTORCH_OPTIMIZER_STATE:
        return 2;
    case PYTORCH_ACTIVATION:
        return 3;
    default:
        return COLUMNS - 1;
    }
}

static LayerRow *row_of(LayerRow *rows, int *count, const PytorchAllocation *a)
{
    const char *module = a->layer >= 0 ? NULL : a->module;
    for (int i = *count; i-- > 0;)
        if (rows[i].layer == a->layer &&
            (rows[i].module == module || (module && rows[i].module && !strcmp(module, rows[i].module))))
            return &rows[i];
    if (*count == ROWS)
        return &rows[ROWS - 1];
    rows[*count] = (LayerRow){.layer = a->layer, .module = module};
    return &rows[(*count)++];
}

static int holds_peak(const PytorchPlan *p, const LayerRow *r)
{
    const PytorchEvent *at = &p->summary.peak_at;
    return r->layer == at->layer &&
           (r->layer >= 0 || (r->module && at->module && !strcmp(r->module, at->module)));
}

static void print_row(const PytorchPlan *p, const LayerRow *first, const LayerRow *last)
{
    char name[96];
    uint64_t sum = 0;
    int holds = 0;
    ReportUnit unit = unit_of(p);
    for (int c = 0; c < COLUMNS; c++)
        sum += first->by[c];
    if ((double)sum / unit.bytes < 0.5 * unit.smallest)
        return;
    for (const LayerRow *r = first; r <= last; r++)
        holds |= holds_peak(p, r);
    const char *mark = holds ? " <- peak" : "";
    if (first->layer >= 0 && first != last)
        snprintf(name, sizeof name, "layers.%d-%d, each%s", first->layer, last->layer, mark);
    else if (first->layer >= 0)
        snprintf(name, sizeof name, "layers.%d%s", first->layer, mark);
    else
        snprintf(name, sizeof name, "%s%s", first->module ? first->module : "script and model", mark);
    printf("%-*s", LAYER, name);
    for (int c = 0; c < COLUMNS; c++)
        number_in(NARROW, unit, first->by[c]);
    number_in(NARROW, unit, sum);
    printf("\n");
}

void pytorch_print_layers(const PytorchPlan *p)
{
    static LayerRow rows[ROWS];
    char title[64];
    int count = 0;
    for (size_t i = 0; i < p->summary.live_count; i++) {
        const PytorchAllocation *a = &p->summary.live[i];
        row_of(rows, &count, a)->by[column_of(a->kind)] += a->bytes;
    }
    snprintf(title, sizeof title, "BY LAYER AT THE PEAK, %s", unit_of(p).name);
    printf("\n%-*s %*s %*s %*s %*s %*s %*s\n", LAYER, title, NARROW, "params", NARROW, "grads", NARROW,
           "states", NARROW, "activ.", NARROW, "overhead", NARROW, "sum");
    for (int i = 0, next; i < count; i = next) {
        next = i + 1;
        while (rows[i].layer >= 0 && next < count && rows[next].layer == rows[next - 1].layer + 1 &&
               !memcmp(rows[i].by, rows[next].by, sizeof rows[i].by))
            next++;
        print_row(p, &rows[i], &rows[next - 1]);
    }
}

/* ---- Moments --------------------------------------------------------------------------------- */

enum { MOMENT = 20 };

void pytorch_print_moments(const PytorchPlan *p)
{
    ReportUnit unit = unit_of(p);
    char title[40];
    snprintf(title, sizeof title, "MOMENTS, %s", unit.name);
    printf("\n%-*s %10s %10s %10s %10s\n", MOMENT, title, "requested", "allocated", "reserved", "left");
    for (int i = 0; i < p->summary.moment_count; i++) {
        const PytorchMoment *m = &p->summary.moments[i];
        char name[64];
        if (m->phase <= PYTORCH_MAKE_OPTIMIZER || m->phase == PYTORCH_EVALUATE)
            snprintf(name, sizeof name, "%s", estimate_pytorch_phase_name(m->phase));
        else
            snprintf(name, sizeof name, "step %d  %s", m->step + 1, estimate_pytorch_phase_name(m->phase));
        printf("%-*s", MOMENT, name);
        number(unit, m->requested);
        number(unit, m->allocated);
        number(unit, m->reserved);
        number(unit, m->left);
        printf("%s\n", m->allocated == p->summary.books.peak_allocated &&
                               m->phase == p->summary.peak_at.phase &&
                               (m->step == p->summary.peak_at.step || m->phase == PYTORCH_EVALUATE)
                           ? "  <- the peak"
                           : "");
    }
}

/* ---- Beside brim's --------------------------------------------------------------------------- */

static void print_places(const PytorchPlan *p)
{
    uint64_t pytorch[PLACES], brim[PLACES];
    ReportUnit unit = unit_of(p);
    char title[40];
    snprintf(title, sizeof title, "ACTIVATIONS, %s", unit.name);
    pytorch_places(p, pytorch, brim);
    printf("\n%-*s %10s %10s %12s\n", NAME, title, "PyTorch", "brim", "more");
    for (int i = 0; i < PLACES; i++) {
        if (!pytorch[i] && !brim[i])
            continue;
        printf("%-*s", NAME, pytorch_place_names[i]);
        number(unit, pytorch[i]);
        number(unit, brim[i]);
        printf(" %+12.*f\n", unit.decimals, ((double)pytorch[i] - (double)brim[i]) / unit.bytes);
    }
}

/* Where a terminal is too narrow, the reason has a line of its own. */
static void print_more(ReportUnit unit, double bytes, const char *name, const char *why)
{
    enum { BEFORE = 36 + 1 + 10 + 2 };
    PanelStyle style;
    int narrow = report_terminal(stdout, &style) && BEFORE + (int)strlen(why) > style.width;
    if (bytes / unit.bytes < 0.5 * unit.smallest && bytes / unit.bytes > -0.5 * unit.smallest)
        return;
    printf("%-36s %+10.*f  %s%s\n", name, unit.decimals, bytes / unit.bytes, narrow ? "\n  " : "", why);
}

void pytorch_print_more(const PytorchPlan *p)
{
    PytorchMore rows[PYTORCH_DIFFERENCES];
    int count = pytorch_differences(p, rows);
    ReportUnit unit = unit_of(p);
    if (p->brim.status)
        return;
    double all = (double)p->summary.requested - (double)p->brim.memory.stats.peak;
    printf("\nWHAT PYTORCH'S PEAK HAS MORE, %s\n", unit.name);
    for (int i = 0; i < count; i++)
        print_more(unit, (double)rows[i].bytes, rows[i].name, rows[i].why);
    printf("%-36s %+10.*f\n", "in all", unit.decimals, all / unit.bytes);
    print_places(p);
}
