/* Two run logs side by side: what they differ in, and what that made of memory, loss and time. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/plural_.h"
#include "cli.h"
#include "report_.h"

enum { LABEL = 24, COLUMN = 12 };

static int same_model(const RunRecord *a, const RunRecord *b)
{
    return !strcmp(a->model, b->model) && !strcmp(a->family, b->family) && a->parameters == b->parameters;
}

/* ---- What they differ in --------------------------------------------------------------------- */

static const char *shown(const char *value)
{
    return value[0] ? value : "-";
}

/* What a log does not name, as one of an older brim, is off. */
static int is_off(const char *value)
{
    return !value[0] || !strcmp(value, "0") || !strcmp(value, "none");
}

static int differing_row(const char *name, const char *a, const char *b)
{
    if (!strcmp(a, b) || ((!a[0] || !b[0]) && is_off(a) && is_off(b)))
        return 0;
    printf("  %-*s %s -> %s\n", LABEL - 3, name, shown(a), shown(b));
    return 1;
}

static void print_options(const RunRecord *a, const RunRecord *b)
{
    int rows = 0;
    printf("\nB differs from A in\n");
    rows += differing_row("model", a->model, b->model);
    if (a->parameters != b->parameters)
        rows +=
            differing_row("parameters", report_count(a->parameters).text, report_count(b->parameters).text);
    for (size_t i = 0; i < a->option_names.count; i++)
        rows += differing_row(a->option_names.names[i], a->option_values.names[i],
                              run_option(b, a->option_names.names[i]));
    for (size_t i = 0; i < b->option_names.count; i++) /* what A does not name */
        if (!run_option(a, b->option_names.names[i])[0])
            rows += differing_row(b->option_names.names[i], "", b->option_values.names[i]);
    rows += differing_row("brim", a->brim, b->brim);
    if (!rows)
        printf("  nothing that the logs name\n");
    if (!same_model(a, b))
        printf("These are different models, so the differences below are not what an option saves.\n");
}

/* ---- Memory ---------------------------------------------------------------------------------- */

typedef struct Both {
    ReportUnit unit;
    int alike; /* the same model: then a share of A's means something */
} Both;

/* A log's names have underscores. */
static SizeText words_of(const char *name)
{
    SizeText out;
    snprintf(out.text, sizeof out.text, "%s", name);
    for (char *c = out.text; *c; c++)
        *c = *c == '_' ? ' ' : *c;
    return out;
}

static void signed_row(const Both *both, const char *label, int64_t a, int64_t b)
{
    double apart = ((double)b - (double)a) / both->unit.bytes;
    char difference[32] = "-", share[24] = "";
    if (fabs(apart) >= 0.5 * both->unit.smallest)
        snprintf(difference, sizeof difference, "%+.*f", both->unit.decimals, apart);
    else if (a != b)
        snprintf(difference, sizeof difference, "%+" PRId64 " B", b - a);
    if (both->alike && a > 0 && a != b)
        snprintf(share, sizeof share, "%+.0f %%", 100 * ((double)b / (double)a - 1));
    printf("%-*s%*.*f%*.*f%*s%*s\n", LABEL, words_of(label).text, COLUMN, both->unit.decimals,
           (double)a / both->unit.bytes, COLUMN, both->unit.decimals, (double)b / both->unit.bytes, COLUMN,
           difference, share[0] ? 8 : 0, share);
}

static void size_row(const Both *both, const char *label, uint64_t a, uint64_t b)
{
    signed_row(both, label, (int64_t)a, (int64_t)b);
}

/* What was measured, or where nothing was, what was planned. */
static Measured peak_of(const RunRecord *run)
{
    Measured m = measured_peak(run);
    if (m.present)
        return m;
    m.peak = run->plan.peak_bytes;
    memcpy(m.at_peak, run->plan.at_peak, sizeof m.at_peak);
    return m;
}

static uint64_t group_of(const RunRecord *run, const Measured *m, const char *group)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < run->components.count; i++)
        if (!strcmp(run->groups.names[run->component_group[i]], group))
            sum += m->at_peak[i];
    return sum;
}

static void print_where(const char *letter, const RunRecord *run)
{
    const RunMemory *m = run->end.memory.present ? &run->end.memory : &run->plan;
    if (m->present)
        printf("%s %s step %" PRId64 ", %s, %s%s%s\n", letter,
               m == &run->plan ? "is planned to peak at" : "peaks at", m->peak_step, m->peak_phase,
               m->peak_path[0] ? m->peak_path : "the model itself", m->peak_op[0] ? ", " : "", m->peak_op);
}

static uint64_t needs_of(const RunRecord *run)
{
    return run->end.memory.present ? run->end.memory.needs_bytes : run->plan.needs_bytes;
}

/* Where one of them was on a card. */
static void print_cards(const RunRecord *a, const RunRecord *b)
{
    const RunMemory *of_a = &a->end.memory, *of_b = &b->end.memory;
    const MemCard *x = &of_a->card, *y = &of_b->card;
    Both both = {report_unit(x->used > y->used ? x->used : y->used), x->used && y->used};
    char title[48];
    if (!x->used && !y->used)
        return;
    snprintf(title, sizeof title, "%s on the card", both.unit.name);
    printf("\n%-*s%*s%*s%*s\n", LABEL, title, COLUMN, "A", COLUMN, "B", COLUMN, "B - A");
    size_row(&both, "reserved", of_a->card_reserved, of_b->card_reserved);
#define X(id, name, whose)                                                                                   \
    if (x->id || y->id)                                                                                      \
        size_row(&both, name, x->id, y->id);
    MEM_CARD_ROWS(X)
#undef X
    signed_row(&both, "unaccounted", of_a->card_unaccounted, of_b->card_unaccounted);
    size_row(&both, "used", x->used, y->used);
}

static void print_memory(const RunRecord *a, const RunRecord *b)
{
    Measured of_a = peak_of(a), of_b = peak_of(b);
    Both both = {report_unit(of_a.peak > of_b.peak ? of_a.peak : of_b.peak), same_model(a, b)};
    char title[48];
    snprintf(title, sizeof title, "%s at each one's peak", both.unit.name);
    printf("\n%-*s%*s%*s%*s\n", LABEL, title, COLUMN, "A", COLUMN, "B", COLUMN, "B - A");
    for (size_t g = 0; g < a->groups.count; g++)
        size_row(&both, a->groups.names[g], group_of(a, &of_a, a->groups.names[g]),
                 group_of(b, &of_b, a->groups.names[g]));
    size_row(&both, "peak", of_a.peak, of_b.peak);
    size_row(&both, "needs, gaps included", needs_of(a), needs_of(b));
    print_where("A", a);
    print_where("B", b);
}

/* ---- Losses and times ------------------------------------------------------------------------ */

static void loss_row(const char *label, double a, double b)
{
    char difference[32] = "-", texts[2][32] = {"not finite", "not finite"};
    if (isfinite(a))
        snprintf(texts[0], sizeof texts[0], "%.4f", a);
    if (isfinite(b))
        snprintf(texts[1], sizeof texts[1], "%.4f", b);
    if (isfinite(a) && isfinite(b) && fabs(b - a) >= 5e-5)
        snprintf(difference, sizeof difference, "%+.4f", b - a);
    printf("%-*s%*s%*s%*s\n", LABEL, label, COLUMN, texts[0], COLUMN, texts[1], COLUMN, difference);
}

/* What a step took: the median, and the middle half of the steps, or all where they are few. */
typedef struct StepTimes {
    double median, low, high;
    int known; /* 0: too few steps to tell their spread */
} StepTimes;

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Of all steps but the first, which warms up. */
static StepTimes times_of(const RunRecord *run)
{
    StepTimes times = {0};
    size_t n = 0, bytes = run->step_count * sizeof(double);
    double *seconds = memtrack_host_alloc(NULL, bytes);
    for (size_t i = 1; seconds && i < run->step_count; i++)
        if (run->steps[i].seconds > 0)
            seconds[n++] = run->steps[i].seconds;
    if (n >= 3) {
        size_t cut = n < 4 ? 0 : n / 4;
        qsort(seconds, n, sizeof *seconds, by_value);
        times = (StepTimes){seconds[n / 2], seconds[cut], seconds[n - 1 - cut], 1};
    }
    memtrack_host_free(NULL, seconds, bytes);
    return times;
}

/* With the digits that the spread leaves: two, or three where it is below a fortieth. */
static SizeText time_text(const StepTimes *times)
{
    SizeText out;
    int seconds = times->median >= 0.9995, digits = times->high - times->low < times->median / 40 ? 3 : 2;
    double value = seconds ? times->median : 1e3 * times->median;
    int decimals = digits - 1 - (int)floor(log10(value));
    double step = pow(10, -decimals);
    snprintf(out.text, sizeof out.text, "%.*f %s", decimals > 0 ? decimals : 0, round(value / step) * step,
             seconds ? "s" : "ms");
    return out;
}

static void print_times(const RunRecord *a, const RunRecord *b)
{
    StepTimes of_a = times_of(a), of_b = times_of(b);
    double change = of_a.known && of_b.known ? of_b.median / of_a.median - 1 : 0;
    char difference[32];
    if (!of_a.known || !of_b.known) {
        printf("%-*sfewer than four steps say nothing about time\n", LABEL + COLUMN - 7, "step, median");
        return;
    }
    if (!same_model(a, b))
        snprintf(difference, sizeof difference, "%*s", COLUMN, "-");
    else if ((of_a.low <= of_b.high && of_b.low <= of_a.high) || fabs(change) < 0.005)
        snprintf(difference, sizeof difference, "    about the same"); /* within the steps' spread */
    else
        snprintf(difference, sizeof difference, "%*s%+7.0f %%", COLUMN - 1, "", 100 * change);
    printf("%-*s%*s%*s%s\n", LABEL, "step, median", COLUMN, time_text(&of_a).text, COLUMN,
           time_text(&of_b).text, difference);
}

static void print_losses(const RunRecord *a, const RunRecord *b)
{
    size_t va = a->validation_count, vb = b->validation_count;
    printf("\n%-*s%*s%*s%*s\n", LABEL, "loss and time", COLUMN, "A", COLUMN, "B", COLUMN, "B - A");
    if (a->step_count && b->step_count) {
        const RunStep *end_a = &a->steps[a->step_count - 1], *end_b = &b->steps[b->step_count - 1];
        char label[64] = "loss of the last step";
        loss_row("loss of the first step", a->steps[0].loss, b->steps[0].loss);
        if (end_a->step == end_b->step)
            snprintf(label, sizeof label, "loss of step %" PRId64, end_a->step);
        loss_row(label, end_a->loss, end_b->loss);
        if (end_a->step != end_b->step)
            printf("%-*s%*" PRId64 "%*" PRId64 "\n", LABEL, "which was step", COLUMN, end_a->step, COLUMN,
                   end_b->step);
    }
    if (va && vb)
        loss_row("loss, held out", a->validations[va - 1].loss, b->validations[vb - 1].loss);
    print_times(a, b);
}

/* ---- Both ------------------------------------------------------------------------------------ */

static void print_notes(const char *letter, const RunRecord *run)
{
    for (size_t i = 0; i < run->notes.count; i++)
        printf("Note on %s: %s\n", letter, run->notes.names[i]);
}

void print_difference(const RunRecord *a, const RunRecord *b)
{
    printf("A  ");
    print_run(a, "   ");
    printf("B  ");
    print_run(b, "   ");
    if (a->notes.count || b->notes.count)
        printf("\n");
    print_notes("A", a);
    print_notes("B", b);
    print_options(a, b);
    print_memory(a, b);
    print_cards(a, b);
    print_losses(a, b);
}
