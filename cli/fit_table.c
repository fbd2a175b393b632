/* What brim fit prints: the largest batch and the longest sequence by card, what bounds each row, and why a
 * lever alone does not help. */
#include <inttypes.h>
#include <string.h>

#include "../device/cards.h"
#include "../device/device.h"
#include "fit_.h"
#include "flags_.h"

static double gib(uint64_t bytes)
{
    return (double)bytes / 0x1p30;
}

static void heading(const Fit *fit, const char *title, const char *columns, const char *behind)
{
    printf("\n%-*s%s", SHORT, title, columns);
    for (int i = 0; i < fit->cards; i++)
        printf(" %12s", fit->title[i]);
    printf("%s\n%-*s", behind, SHORT + (int)strlen(columns), "");
    for (int i = 0; i < fit->cards; i++)
        printf(" %12.2f", gib(fit->memory[i]));
    printf("\n");
}

/* "no, -6.7" GiB; "no" where a plan is refused for such a card. */
static void missing_cell(uint64_t needs, uint64_t limit)
{
    char text[32];
    MissingText missing = fit_missing(needs, limit);
    snprintf(text, sizeof text, "no%s%s", missing.text[0] ? ", " : "", missing.text);
    printf(" %12s", text);
}

static void batch_cell(const Fit *fit, const Method *m, int card)
{
    const Options *o = &m->variant.options;
    char text[40], times[16] = "";
    if (!m->batch[card]) {
        missing_cell(fit_needs(fit, m, card), fit_limit(fit, card));
        return;
    }
    if (o->accumulate != fit->options->accumulate)
        snprintf(times, sizeof times, " x %d", o->accumulate);
    snprintf(text, sizeof text, "%s%d%s%s", m->batch[card] < o->batch ? "no, only " : "", m->batch[card],
             m->batch[card] < fit_most(fit, m) ? ""
             : m->batch[card] == fit->samples  ? " all"
                                               : "+",
             times);
    printf(" %12s", text);
}

static void seq_cell(const Method *m, int card)
{
    char text[24] = "no";
    if (m->seq[card])
        snprintf(text, sizeof text, "%d%s", m->seq[card],
                 m->seq[card] >= nn_preset_max_seq(&m->variant.options.preset) ? " all" : "");
    printf(" %12s", text);
}

/* At the longest of all cards; as asked for where nothing fits. */
static void print_bound(const Fit *fit, const Method *m)
{
    int card = 0;
    for (int i = 1; i < fit->cards; i++)
        card = m->seq[i] > m->seq[card] ? i : card;
    const Bound *bound = &m->bound[card];
    if (m->seq[card])
        printf("  %d: ", m->seq[card]);
    else
        printf("  as asked: ");
    printf("%s %s, %s %s\n", group_names[bound->group], report_size(bound->bytes).text,
           memtrack_phase_name(bound->phase), bound->path);
}

/* It says what fits as asked for, not the largest: nothing here can be planned. */
static void pytorch_row(const Fit *fit)
{
    printf("%-*s %10s %6s", SHORT, "PyTorch eager, as is, ESTIMATED",
           report_size(fit_pytorch(fit, fit->shown)).text, "");
    for (int i = 0; i < fit->cards; i++) {
        uint64_t needs = fit_pytorch(fit, i);
        if (needs <= fit_limit(fit, i))
            printf(" %12s", "yes");
        else
            missing_cell(needs, fit_limit(fit, i));
    }
    printf("\n");
}

static void batch_table(const Fit *fit)
{
    char title[64] = "LARGEST BATCH";
    if (fit->options->seq)
        snprintf(title, sizeof title, "LARGEST BATCH, seq %d", fit->options->seq);
    heading(fit, title, "      needs  FLOPs", "");
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        const Plan *plan = &m->variant.plan;
        if (plan->status) {
            printf("%-*s %s\n", SHORT, m->variant.label, plan->error);
            continue;
        }
        printf("%-*s %10s %6.2f", SHORT, m->variant.label, report_size(plan->memory.stats.needs).text,
               plan->step_flops / fit->method[0].variant.plan.step_flops);
        for (int i = 0; i < fit->cards; i++)
            batch_cell(fit, m, i);
        printf("\n");
    }
    pytorch_row(fit);
}

static void seq_table(const Fit *fit)
{
    const Options *o = fit->options;
    char title[64];
    snprintf(title, sizeof title, "LONGEST SEQUENCE, batch %d", o->batch);
    if (o->seq)
        heading(fit, title, "", "  bound at the longest by");
    else
        printf("\n%-*s  bound by\n", SHORT, "");
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (m->variant.plan.status)
            continue;
        printf("%-*s", SHORT, m->variant.label);
        for (int i = 0; i < fit->cards && o->seq; i++)
            seq_cell(m, i);
        print_bound(fit, m);
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

static int same_moment(const MemSummary *a, const MemSummary *b)
{
    return a->stats.peak_at.phase == b->stats.peak_at.phase && !strcmp(a->peak_path, b->peak_path);
}

static void say_more(const MemSummary *base, const Variant *v)
{
    const MemSummary *memory = &v->plan.memory;
    MemGroup grown = grown_most(base, memory);
    uint64_t before = report_group(base->stats.at_peak, grown),
             now = report_group(memory->stats.at_peak, grown);
    printf("%s needs %s more: ", v->label, report_size(memory->stats.needs - base->stats.needs).text);
    if (same_moment(base, memory) && before)
        printf("%s at the peak are %s instead of %s.\n", group_names[grown], report_size(now).text,
               report_size(before).text);
    else
        printf("its peak is at another moment (%s, %s), with %s of %s.\n",
               memtrack_phase_name(memory->stats.peak_at.phase), report_path(memory), report_size(now).text,
               group_names[grown]);
}

static void say_nothing(const MemSummary *base, const Variant *v)
{
    MemGroup bound = bound_by(base);
    uint64_t bytes = report_group(base->stats.at_peak, v->target);
    printf("%s saves nothing by itself: at the peak (%s, %s) there are %s%s%s; %s of %s bound it.\n",
           v->label, memtrack_phase_name(base->stats.peak_at.phase), report_path(base),
           bytes ? report_size(bytes).text : "no ", bytes ? " of " : "", group_names[v->target],
           report_size(report_group(base->stats.at_peak, bound)).text, group_names[bound]);
}

/* Why a single lever does not help: what it works on is not there when memory is highest. */
static void say_why(const Fit *fit)
{
    const MemSummary *base = &fit->method[0].variant.plan.memory;
    for (int k = 1; k < fit->methods; k++) {
        const Variant *v = &fit->method[k].variant;
        if (v->plan.status || v->target == MEM_GROUP_COUNT)
            continue;
        uint64_t needs = v->plan.memory.stats.needs, from = base->stats.needs;
        if (needs > from + from / 200)
            say_more(base, v);
        else if (needs + from / 200 > from)
            say_nothing(base, v);
    }
}

static int is_fp32(const Options *o)
{
    return o->weights == DTYPE_F32 && !o->quantized && !strcmp(o->precision, options_default.precision);
}

static int kinds_shown(const Fit *fit)
{
    int shown = 1;
    for (int i = 1; i < fit->cards; i++)
        shown += fit->kind_of[i] != fit->kind_of[0];
    return shown;
}

/* Where a size alone stands among the columns. */
static int shows_size(const Fit *fit)
{
    return fit->options->memories != NULL;
}

/* A plan for a size alone: of which card. */
static PlannedCard size_card(const Fit *fit)
{
    Options o = *fit->options;
    o.cards = NULL;
    return planned_card(&o);
}

/* What the columns are planned for, on a device. */
static void say_cards_planned(const Fit *fit)
{
    SayLine line = {""};
    if (device_cuda_ordinal(fit->options->device) < 0)
        return;
    if (kinds_shown(fit) > 1)
        line_add(&line, "Each column is planned for its card; needs are those of %s.",
                 fit->title[fit->shown]);
    if (shows_size(fit))
        line_add(&line, "%sA size is planned for %s.", line.text[0] ? " " : "", size_card(fit).text);
    if (line.text[0])
        say_line(&line);
}

void fit_print(const Fit *fit)
{
    const Options *o = fit->options;
    SayLine verdict = {""};
    int on_card = device_cuda_ordinal(o->device) >= 0;
    print_title_on(o, fit->parameters, &fit->bracket, 0,
                   !on_card          ? ""
                   : fit->cards > 1  ? "each card"
                   : shows_size(fit) ? size_card(fit).text
                                     : device_card(fit->name[0])->title);
    line_add(&verdict, "%.1000s", fit_verdict(fit).text);
    say_line(&verdict);
    printf("\n");
    printf("Cards in GiB, %.2f of each reserved; every figure but PyTorch's is brim's, planned%s.\n"
           "A cell is the largest batch that fits, or what is missing%s",
           gib(o->reserve), is_fp32(o) ? " in fp32, or as a row says" : "",
           o->seq ? "; of lengths the largest " : ".\n");
    if (o->seq && fit->seq_step > 1)
        printf("multiple of %d.\n", fit->seq_step);
    else if (o->seq)
        printf("that fits.\n");
    say_cards_planned(fit);
    batch_table(fit);
    seq_table(fit);
    printf("\n");
    say_why(fit);
    variants_say_words(stdout, o);
    printf("PyTorch's row is brim's need and, while its optimizer steps, one more copy of the parameters: at "
           "least that.\nIts CUDA context, 0.25 to 0.45 GiB, comes out of what is reserved.\n");
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *card_json(const Fit *fit, const Method *m, int card)
{
    const Bound *bound = &m->bound[card];
    uint64_t needs = fit_needs(fit, m, card);
    int planned = needs != UINT64_MAX;
    if (fit->ranked)
        return json_pack("{s:s, s:b, s:I, s:I, s:o}", "card", fit->title[card], "fits",
                         fit_fits(fit, m, card), "free_bytes", (json_int_t)(fit_limit(fit, card) - needs),
                         "needs_bytes", (json_int_t)needs, "largest_batch",
                         m->hidden ? json_null() : json_integer(m->batch[card]));
    return json_pack("{s:s, s:b, s:o, s:o, s:i, s:i, s:{s:s, s:I, s:s, s:s}}", "card", fit->title[card],
                     "fits", fit_fits(fit, m, card), "free_bytes",
                     planned ? json_integer((json_int_t)(fit_limit(fit, card) - needs)) : json_null(),
                     "needs_bytes", planned ? json_integer((json_int_t)needs) : json_null(), "largest_batch",
                     m->batch[card], "longest_seq", m->seq[card], "bound_at_longest", "group",
                     memtrack_group_name(bound->group), "bytes", (json_int_t)bound->bytes, "phase",
                     memtrack_phase_name(bound->phase), "place", bound->path);
}

static json_t *row_json(const Fit *fit, const Method *m)
{
    const Plan *plan = &m->variant.plan;
    if (plan->status)
        return json_pack("{s:s, s:o}", "method", m->variant.label, "error", json_text(plan->error));
    json_t *cards = json_array();
    for (int i = 0; i < fit->cards; i++)
        json_array_append_new(cards, card_json(fit, m, i));
    LeverText flags =
        fit->options->inference ? fit_inference_flags(m) : levers_text(&m->variant.options, fit->options);
    json_t *row = json_pack("{s:s, s:s, s:o, s:f, s:s, s:o, s:o}", "method", m->variant.label, "flags",
                            flags.text, "options", levers_json(&m->variant.options), "step_flops",
                            plan->step_flops, "bound_by", memtrack_group_name(bound_by(&plan->memory)),
                            "memory", json_memory(&plan->memory, NULL), "cards", cards);
    if (fit->options->inference)
        fit_inference_json(row, m);
    else if (fit->ranked)
        fit_cards_json(row, m);
    return row;
}

static json_t *best_json(const Fit *fit, int card)
{
    const Method *best = fit_best(fit, card);
    if (best && fit->ranked)
        return json_text(best->variant.label);
    return best ? json_text(levers_text(&best->variant.options, fit->options).text) : json_null();
}

/* With what it is planned for, on a device. */
static json_t *column_json(const Fit *fit, int card)
{
    json_t *column = json_pack("{s:s, s:I, s:o}", "card", fit->title[card], "bytes",
                               (json_int_t)fit->memory[card], "best", best_json(fit, card));
    Options o = *fit->options;
    json_t *planned = json_object();
    o.cards = fit->name[card];
    planned_card_json(planned, &o);
    if (json_object_size(planned))
        json_object_set(column, "planned_for", json_object_get(planned, "card"));
    json_decref(planned);
    return column;
}

void fit_print_json(const Fit *fit)
{
    json_t *rows = json_array(), *cards = json_array();
    for (int i = 0; i < fit->cards; i++)
        json_array_append_new(cards, column_json(fit, i));
    for (int k = 0; k < fit->methods; k++)
        json_array_append_new(rows, row_json(fit, &fit->method[k]));
    LeverText verdict = fit->options->inference ? fit_inference_verdict(fit) : fit_verdict(fit);
    json_t *all = json_pack("{s:s, s:I, s:i, s:i, s:I, s:s, s:I, s:o, s:o}", "model", fit->options->model,
                            "parameters", (json_int_t)fit->parameters, "batch", fit->options->batch, "seq",
                            fit->options->seq, "reserve_bytes", (json_int_t)fit->options->reserve, "verdict",
                            verdict.text, "pytorch_estimated_bytes", (json_int_t)fit_pytorch(fit, fit->shown),
                            "cards", cards, "methods", rows);
    json_object_set_new(all, "active_parameters", json_integer(fit->active));
    approximate_json(all, fit->options);
    if (fit->options->inference) /* that is of a training */
        json_object_del(all, "pytorch_estimated_bytes");
    json_print(all);
}
