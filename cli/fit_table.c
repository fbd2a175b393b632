/* What brim fit prints: the largest batch and the longest sequence by card, what bounds each row, and why a
 * lever alone does not help. */
#include <inttypes.h>
#include <string.h>

#include "fit_.h"

static double gib(uint64_t bytes)
{
    return (double)bytes / 0x1p30;
}

int fit_fits(const Fit *fit, const Method *m, int card)
{
    return !m->plan.status && m->plan.memory.stats.needs <= fit->memory[card] - fit->options->reserve;
}

static void heading(const Fit *fit, const char *title, int numbers)
{
    printf("\n%-*s", SHORT, title);
    if (numbers)
        printf(" %10s %6s", "needs", "FLOPs");
    for (int i = 0; i < fit->cards; i++)
        printf(" %12s", fit->title[i]);
    printf("%s\n", numbers ? "" : "  bound at the peak by");
    printf("%-*s", SHORT + (numbers ? 18 : 0), "");
    for (int i = 0; i < fit->cards; i++)
        printf(" %12.2f", gib(fit->memory[i]));
    printf("\n");
}

static void batch_cell(const Fit *fit, const Method *m, int card)
{
    char text[24];
    uint64_t limit = fit->memory[card] - fit->options->reserve, needs = m->plan.memory.stats.needs;
    if (m->batch[card] >= m->options.batch)
        snprintf(text, sizeof text, "%d%s", m->batch[card],
                 m->batch[card] == fit_most(fit, m) ? (m->batch[card] == fit->samples ? " all" : "+") : "");
    else if (m->batch[card])
        snprintf(text, sizeof text, "no, only %d", m->batch[card]);
    else
        snprintf(text, sizeof text, "no, -%.1f", gib(needs - limit));
    printf(" %12s", text);
}

static void seq_cell(const Method *m, int card)
{
    char text[24] = "no";
    if (m->seq[card])
        snprintf(text, sizeof text, "%d%s", m->seq[card],
                 m->seq[card] >= nn_preset_max_seq(&m->options.preset) ? " all" : "");
    printf(" %12s", text);
}

static void print_bound(const Method *m)
{
    const MemSummary *memory = &m->plan.memory;
    MemGroup bound = bound_by(memory);
    printf("  %s %s, %s %s\n", group_names[bound],
           report_size(report_group(memory->stats.at_peak, bound)).text,
           memtrack_phase_name(memory->stats.peak_at.phase), report_path(memory));
}

static void print_tables(const Fit *fit)
{
    const Options *o = fit->options;
    char title[64] = "LARGEST BATCH";
    if (o->seq)
        snprintf(title, sizeof title, "LARGEST BATCH, seq %d", o->seq);
    heading(fit, title, 1);
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (m->plan.status) {
            printf("%-*s %s\n", SHORT, m->label, m->plan.error);
            continue;
        }
        printf("%-*s %10s %6.2f", SHORT, m->label, report_size(m->plan.memory.stats.needs).text,
               m->plan.step_flops / m->options.accumulate /
                   (fit->method[0].plan.step_flops / fit->method[0].options.accumulate));
        for (int i = 0; i < fit->cards; i++)
            batch_cell(fit, m, i);
        printf("\n");
    }
    snprintf(title, sizeof title, "LONGEST SEQUENCE, batch %d", o->batch);
    if (o->seq)
        heading(fit, title, 0);
    else
        printf("\n%-*s  %s\n", SHORT, "", "bound at the peak by");
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (m->plan.status)
            continue;
        printf("%-*s", SHORT, m->label);
        for (int i = 0; i < fit->cards && o->seq; i++)
            seq_cell(m, i);
        print_bound(m);
    }
}

static MemGroup grown_most(const MemSummary *from, const MemSummary *to)
{
    MemGroup most = 0;
    int64_t by = INT64_MIN;
    for (int g = 0; g < MEM_GROUP_COUNT; g++) {
        int64_t more = (int64_t)(report_group(to->stats.at_peak, (MemGroup)g) -
                                 report_group(from->stats.at_peak, (MemGroup)g));
        if (more > by) {
            by = more;
            most = (MemGroup)g;
        }
    }
    return most;
}

/* Why a single lever does not help: what it works on is not there when memory is highest. */
static void say_why(const Fit *fit)
{
    const MemSummary *base = &fit->method[0].plan.memory;
    MemGroup bound = bound_by(base);
    for (int k = 1; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (m->plan.status || m->target == MEM_GROUP_COUNT)
            continue;
        uint64_t needs = m->plan.memory.stats.needs, from = base->stats.needs;
        const char *what = m->label[0] == '+' ? m->label + 2 : m->label;
        MemGroup grown = grown_most(base, &m->plan.memory);
        if (needs > from + from / 200)
            printf("%s needs %s more: %s at the peak are %s instead of %s.\n", what,
                   report_size(needs - from).text, group_names[grown],
                   report_size(report_group(m->plan.memory.stats.at_peak, grown)).text,
                   report_size(report_group(base->stats.at_peak, grown)).text);
        else if (needs + from / 200 > from)
            printf("%s saves nothing by itself: at the peak (%s, %s) there are %s of %s; %s of %s bound "
                   "it.\n",
                   what, memtrack_phase_name(base->stats.peak_at.phase), report_path(base),
                   report_size(report_group(base->stats.at_peak, m->target)).text, group_names[m->target],
                   report_size(report_group(base->stats.at_peak, bound)).text, group_names[bound]);
    }
}

/* What PyTorch's foreach AdamW holds besides while it steps: about one more copy of the parameters; and what
 * a CUDA context takes. Both as reported, not measured here. */
static void say_pytorch(const Fit *fit)
{
    const MemStats *s = &fit->method[0].plan.memory.stats;
    uint64_t p = report_group(s->own_peak, MEM_GROUP_PARAMETERS);
    uint64_t step = p + report_group(s->own_peak, MEM_GROUP_GRADIENTS) +
                    report_group(s->own_peak, MEM_GROUP_OPTIMIZER_STATES) + p;
    uint64_t more = step > s->peak ? step - s->peak : 0;
    printf("PyTorch eager: ESTIMATED at least +%s (its optimizer step works on one more copy of the "
           "parameters), and "
           "+0.25 to 0.45 GiB of CUDA context.\n",
           report_size(more).text);
}

void fit_print(const Fit *fit)
{
    const Options *o = fit->options;
    print_title(o, fit->parameters, 0);
    printf("brim's engine, fp32; cards in GiB, %.2f of each reserved. A cell is the largest that fits, or "
           "what is "
           "missing.\n",
           gib(o->reserve));
    print_tables(fit);
    printf("\n");
    say_why(fit);
    say_pytorch(fit);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *row_json(const Fit *fit, const Method *m)
{
    if (m->plan.status)
        return json_pack("{s:s, s:o}", "method", m->label, "error", json_text(m->plan.error));
    json_t *cards = json_array();
    for (int i = 0; i < fit->cards; i++)
        json_array_append_new(cards, json_pack("{s:s, s:b, s:I, s:i, s:i}", "card", fit->title[i], "fits",
                                               fit_fits(fit, m, i), "free_bytes",
                                               (json_int_t)(fit->memory[i] - fit->options->reserve -
                                                            m->plan.memory.stats.needs),
                                               "largest_batch", m->batch[i], "longest_seq", m->seq[i]));
    return json_pack("{s:s, s:s, s:f, s:s, s:o, s:o}", "method", m->label, "flags",
                     levers_text(&m->options, fit->options).text, "step_flops", m->plan.step_flops,
                     "bound_by", memtrack_group_name(bound_by(&m->plan.memory)), "memory",
                     json_memory(&m->plan.memory, NULL), "cards", cards);
}

void fit_print_json(const Fit *fit)
{
    json_t *rows = json_array(), *cards = json_array();
    for (int i = 0; i < fit->cards; i++)
        json_array_append_new(
            cards, json_pack("{s:s, s:I}", "card", fit->title[i], "bytes", (json_int_t)fit->memory[i]));
    for (int k = 0; k < fit->methods; k++)
        json_array_append_new(rows, row_json(fit, &fit->method[k]));
    json_print(json_pack("{s:s, s:I, s:i, s:i, s:I, s:o, s:o}", "model", fit->options->model, "parameters",
                         (json_int_t)fit->parameters, "batch", fit->options->batch, "seq", fit->options->seq,
                         "reserve_bytes", (json_int_t)fit->options->reserve, "cards", cards, "methods",
                         rows));
}
