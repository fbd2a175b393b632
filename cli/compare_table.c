/* The tables of `brim compare`: peaks, what is there at the peak, own peaks and how they grow, and runs
 * beside their plans. */
#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "../device/device.h"
#include "compare_.h"
#include "levers_.h"
#include "several.h"

typedef struct Table {
    FILE *out;
    const Comparison *rows;
    ReportUnit unit;
    int width; /* of the labels */
} Table;

static Table table_of(FILE *out, const Comparison *c)
{
    uint64_t largest = 0;
    size_t width = 33;
    for (int i = 0; i < c->count; i++) {
        const Variant *v = &c->variants[i];
        largest = v->plan.memory.stats.peak > largest ? v->plan.memory.stats.peak : largest;
        width = strlen(v->label) > width ? strlen(v->label) : width;
    }
    return (Table){out, c, report_unit(largest), (int)width};
}

const Variant *compare_first(const Comparison *c)
{
    for (int i = 0; i < c->count; i++)
        if (!c->variants[i].plan.status)
            return &c->variants[i];
    return NULL;
}

int compare_fits(const Comparison *c, const Variant *v)
{
    uint64_t budget = c->options->budget;
    return !v->plan.status && (!budget || v->plan.memory.stats.needs <= budget);
}

static void number(const Table *t, int columns, double bytes)
{
    fprintf(t->out, " %*.*f", columns, t->unit.decimals, bytes / t->unit.bytes);
}

/* ---- Peaks ----------------------------------------------------------------------------------- */

static int64_t effective_batch(const Variant *v)
{
    return step_samples(&v->options);
}

static int batches_differ(const Comparison *c)
{
    for (int i = 1; i < c->count; i++)
        if (effective_batch(&c->variants[i]) != effective_batch(&c->variants[0]))
            return 1;
    return 0;
}

/* Whether a row has ranks, which send each other something a step. */
static int ranks_send(const Comparison *c)
{
    for (int i = 0; i < c->count; i++)
        if (has_ranks(&c->variants[i].options))
            return 1;
    return 0;
}

/* "-39 %"; no sign before nothing. */
static SizeText change_text(double ratio)
{
    SizeText out;
    double percent = 100 * (ratio - 1);
    if (percent > -0.5 && percent < 0.5)
        snprintf(out.text, sizeof out.text, "0 %%");
    else
        snprintf(out.text, sizeof out.text, "%+.0f %%", percent);
    return out;
}

static void peak_row(const Table *t, const Variant *v, const Variant *first, int batches)
{
    const Plan *p = &v->plan;
    double peak = (double)p->memory.stats.peak;
    fprintf(t->out, "%-*s", t->width, v->label);
    if (p->status) {
        fprintf(t->out, " %s\n", p->error);
        return;
    }
    if (batches)
        fprintf(t->out, " %9" PRId64, effective_batch(v));
    number(t, 9, peak);
    number(t, 9, (double)p->memory.stats.needs);
    if (t->rows->options->budget)
        fprintf(t->out, " %6s", compare_fits(t->rows, v) ? "yes" : "no");
    fprintf(t->out, " %7s %6.2f",
            v == first ? "" : change_text(peak / (double)first->plan.memory.stats.peak).text,
            p->step_flops / first->plan.step_flops);
    if (ranks_send(t->rows))
        number(t, 9, (double)p->step_sent);
    fprintf(t->out, "  %s %s\n", memtrack_phase_name(p->memory.stats.peak_at.phase), report_path(&p->memory));
}

static void peak_rows(const Table *t, const char *title)
{
    const Comparison *c = t->rows;
    int batches = batches_differ(c);
    fprintf(t->out, "%-*s", t->width, title);
    fprintf(t->out, "%s %9s %9s%s %7s %6s%s  %s\n", batches ? " effective" : "", "peak", "needs",
            c->options->budget ? "   fits" : "", "change", "FLOPs", ranks_send(c) ? "      sent" : "",
            "peak at");
    for (int i = 0; i < c->count; i++)
        peak_row(t, &c->variants[i], compare_first(c), batches);
}

static void floor_row(const Table *t)
{
    const uint64_t *own = t->rows->variants[0].plan.memory.stats.own_peak;
    uint64_t floor = report_group(own, MEM_GROUP_PARAMETERS) + report_group(own, MEM_GROUP_GRADIENTS) +
                     report_group(own, MEM_GROUP_OPTIMIZER_STATES);
    fprintf(t->out, "%-*s", t->width, "P + G + O");
    number(t, 9, (double)floor);
    fprintf(t->out, "  weights, gradients, states\n");
}

static void print_peaks(const Table *t)
{
    const Comparison *c = t->rows;
    char title[64];
    if (c->lists) {
        peak_rows(t, t->unit.name);
        return;
    }
    snprintf(title, sizeof title, "SAME EFFECTIVE BATCH (%" PRId64 "), %s", effective_batch(&c->variants[0]),
             t->unit.name);
    peak_rows(t, title);
    floor_row(t);
}

void variants_table(FILE *out, const Options *o, const Variant *variants, int count)
{
    Comparison c = {o, variants, count, 0};
    Table t = table_of(out, &c);
    print_peaks(&t);
}

/* What the budget says: how many rows fit, and the one that costs least; or none, and the least need. */
static void budget_line(const Table *t)
{
    const Comparison *c = t->rows;
    const Variant *best = NULL, *first = compare_first(c);
    int fitting = 0;
    if (!c->options->budget)
        return;
    for (int i = 0; i < c->count; i++) {
        const Variant *v = &c->variants[i];
        fitting += compare_fits(c, v);
        if (compare_fits(c, v) && (!best || variant_costs_more(best, v, first) > 0))
            best = v;
    }
    SizeText budget = report_size(c->options->budget);
    const Variant *least = variants_least_need(c->variants, c->count);
    if (!fitting)
        fprintf(t->out, "No row fits the budget of %s; the least need is %s, that of: %s\n", budget.text,
                report_size(least->plan.memory.stats.needs).text, least->label);
    else if (c->lists)
        fprintf(t->out, "%d of %d rows fit the budget of %s.\n", fitting, c->count, budget.text);
    else
        fprintf(t->out, "%d of %d rows fit the budget of %s; the least cost is that of: %s\n", fitting,
                c->count, budget.text, best->label);
}

/* ---- By component ---------------------------------------------------------------------------- */

static void group_heading(const Table *t, const char *what)
{
    char title[64];
    snprintf(title, sizeof title, "%s, %s", what, t->unit.name);
    fprintf(t->out, "\n%-*s", t->width, title);
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        fprintf(t->out, " %14s", group_names[g]);
}

/* They sum to the peak. */
static void at_peak_rows(const Table *t)
{
    group_heading(t, "AT THE PEAK");
    fputc('\n', t->out);
    for (int i = 0; i < t->rows->count; i++) {
        const Variant *v = &t->rows->variants[i];
        if (v->plan.status)
            continue;
        fprintf(t->out, "%-*s", t->width, v->label);
        for (int g = 0; g < MEM_GROUP_COUNT; g++) {
            uint64_t bytes = report_group(v->plan.memory.stats.at_peak, (MemGroup)g);
            fprintf(t->out, " %7.*f%*s", t->unit.decimals, (double)bytes / t->unit.bytes,
                    g + 1 < MEM_GROUP_COUNT ? 7 : 0, "");
        }
        fputc('\n', t->out);
    }
}

/* The next option of a label, "--batch 2"; 0 at its end. */
static size_t option_length(const char *at)
{
    const char *next = at[0] ? strstr(at + 1, " --") : NULL;
    return next ? (size_t)(next - at) : strlen(at);
}

/* In how many options two labels of one list differ; `*numbers` becomes whether all of those are numbers, and
 * `*text` the last of b's. */
static int differences(const char *a, const char *b, int *numbers, LeverText *text)
{
    int count = 0;
    *numbers = 1;
    while (*a && *b) {
        size_t la = option_length(a), lb = option_length(b);
        if (la != lb || strncmp(a, b, la) != 0) {
            const char *value = strchr(b, ' ');
            count++;
            *numbers &= value && isdigit((unsigned char)value[1]);
            snprintf(text->text, sizeof text->text, "%.*s", (int)lb, b);
        }
        a += la + (a[la] == ' ');
        b += lb + (b[lb] == ' ');
    }
    return count;
}

/* The row that the growth of another is against: the first row if it differs in one option, else the first
 * that does, one with a number if there is such a row; of the levers of one set of options the first row.
 * NULL: none. */
static const Variant *against(const Comparison *c, int row, LeverText *option)
{
    const Variant *found = NULL;
    *option = (LeverText){""};
    for (int i = 0; c->lists && i < row; i++) {
        const Variant *v = &c->variants[i];
        int numbers;
        LeverText text;
        if (v->plan.status || differences(c->variants[row].label, v->label, &numbers, &text) != 1 ||
            (found && !numbers))
            continue;
        found = v;
        *option = text;
        if (numbers || i == 0)
            break;
    }
    return c->lists ? found : row > 0 ? &c->variants[0] : NULL;
}

static void growth_row(const Table *t, int row, int named)
{
    LeverText option;
    const Variant *v = &t->rows->variants[row], *base = against(t->rows, row, &option);
    int grown = 0;
    fprintf(t->out, "%-*s", t->width, v->label);
    for (int g = 0; g < MEM_GROUP_COUNT; g++) {
        uint64_t own = report_group(v->plan.memory.stats.own_peak, (MemGroup)g);
        uint64_t from = base ? report_group(base->plan.memory.stats.own_peak, (MemGroup)g) : 0;
        char times[24] = "";
        if (from > 0 && own != from)
            snprintf(times, sizeof times, " x%.2f", (double)own / (double)from);
        grown |= times[0] != '\0';
        int last = g + 1 == MEM_GROUP_COUNT && !(named && grown);
        fprintf(t->out, " %7.*f%*s", t->unit.decimals, (double)own / t->unit.bytes, last ? 0 : -7, times);
    }
    fprintf(t->out, named && grown ? "  %s\n" : "\n", option.text);
}

/* Each component's own peak, and how many times that of the row it is compared with: batch k has k-fold
 * activations. */
static void growth_rows(const Table *t)
{
    const Comparison *c = t->rows;
    int named = 0;
    LeverText option, one = {""};
    for (int i = 1; i < c->count; i++) /* the same for all rows need not be said */
        if (against(c, i, &option)) {
            named |= one.text[0] && strcmp(one.text, option.text) != 0;
            one = option;
        }
    group_heading(t, "OWN PEAKS and growth");
    fprintf(t->out, named ? "  against\n" : "\n");
    for (int i = 0; i < c->count; i++)
        if (!c->variants[i].plan.status)
            growth_row(t, i, named);
}

/* ---- Runs ------------------------------------------------------------------------------------ */

SizeText compare_ms(const Variant *v, int decimals, const char *unknown)
{
    SizeText out;
    if (v->result.step_seconds > 0)
        snprintf(out.text, sizeof out.text, "%.*f", decimals, 1e3 * v->result.step_seconds);
    else
        snprintf(out.text, sizeof out.text, "%s", unknown);
    return out;
}

static const char *not_run(const Table *t, const Variant *v)
{
    return v->ran ? v->result.error : compare_fits(t->rows, v) ? "not run" : "not run: it does not fit";
}

static void run_rows(const Table *t)
{
    int64_t steps = t->rows->options->run_steps;
    char title[64];
    snprintf(title, sizeof title, "%" PRId64 " STEP%s OF EACH, %s", steps, steps == 1 ? "" : "S",
             t->unit.name);
    int on_card = device_cuda_ordinal(t->rows->options->device) >= 0; /* there its own figures count */
    fprintf(t->out, "\n%-*s %9s %9s %6s %9s %12s %9s %9s\n", t->width, title, "planned", "measured", "apart",
            on_card ? "card used" : "process", "unaccounted", "ms/step", "loss");
    for (int i = 0; i < t->rows->count; i++) {
        const Variant *v = &t->rows->variants[i];
        const RunResult *r = &v->result;
        fprintf(t->out, "%-*s", t->width, v->label);
        if (!v->ran || r->status) {
            fprintf(t->out, " %s\n", not_run(t, v));
            continue;
        }
        uint64_t planned = v->plan.memory.stats.peak, measured = r->memory.stats.peak;
        number(t, 9, (double)planned);
        number(t, 9, (double)measured);
        fprintf(t->out, " %6" PRId64, (int64_t)(measured - planned));
        const MemSummary *m = &r->memory;
        number(t, 9, (double)(on_card ? m->card.used : m->process_peak));
        number(t, 12, (double)(on_card ? report_card_unaccounted(m) : report_unaccounted(m)));
        fprintf(t->out, " %9s %9.4f\n", compare_ms(v, 1, "-").text, r->loss_last);
    }
}

void compare_print(FILE *out, const Comparison *c)
{
    Table t = table_of(out, c);
    print_title(c->options, c->variants[0].parameters, &c->variants[0].bracket, 0);
    fprintf(out, "\n");
    print_peaks(&t);
    budget_line(&t);
    at_peak_rows(&t);
    growth_rows(&t);
    if (!c->lists) {
        fputc('\n', out);
        variants_say_words(out, c->options);
    }
    if (c->options->run_steps)
        run_rows(&t);
}
