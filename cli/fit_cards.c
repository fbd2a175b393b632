/* brim fit --cards: what it prints of layouts x numbers of cards x cards. */
#include <inttypes.h>
#include <string.h>

#include "../device/device.h"
#include "fit_.h"
#include "flags_.h"
#include "several.h"

enum { LABEL = 28 };

static int cards_of(const Method *m)
{
    return m->variant.options.ranks.size;
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static double gib(uint64_t bytes)
{
    return (double)bytes / 0x1p30;
}

void fit_cards_cells(const Fit *fit, const Method *m)
{
    for (int i = 0; i < fit->cards; i++) {
        char text[24];
        snprintf(text, sizeof text, "%s%d%s", m->batch[i] < m->variant.options.batch ? "only " : "",
                 m->batch[i], m->batch[i] == fit_most(fit, m) ? "+" : "");
        printf(" %9s", m->batch[i] ? text : fit_missing(fit_needs(fit, m, i), fit_limit(fit, i)).text);
    }
    printf("\n");
}

void fit_cards_heading(const Fit *fit, const char *blank)
{
    for (int i = 0; i < fit->cards; i++)
        printf(" %9s", fit->title[i]);
    printf("\n%s", blank);
    for (int i = 0; i < fit->cards; i++)
        printf(" %9.2f", gib(fit->memory[i]));
    printf("\n");
}

static void batch_row(const Fit *fit, const Method *m)
{
    const Plan *plan = &m->variant.plan;
    printf("%-*s %10s %10s %7" PRId64, LABEL, m->variant.label, report_size(plan->memory.stats.needs).text,
           m->sent ? report_size(m->sent).text : "-", step_samples(&m->variant.options));
    fit_cards_cells(fit, m);
}

/* The rows of each set of levers stand under a line that says which. */
static int begins_set(const Fit *fit, int k)
{
    return cards_of(&fit->method[k]) == 1 && k > 0;
}

static void batch_table(const Fit *fit)
{
    char title[64] = "LARGEST BATCH";
    if (fit->options->seq)
        snprintf(title, sizeof title, "BATCH, seq %d", fit->options->seq);
    char blank[LABEL + 31];
    printf("\n%-*s %10s %10s %7s", LABEL, title, "needs", "sent/step", "samples");
    snprintf(blank, sizeof blank, "%*s", LABEL + 30, "");
    fit_cards_heading(fit, blank);
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (begins_set(fit, k))
            printf("with %s, %.2f times the FLOPs\n", levers_text(&m->variant.options, fit->options).text,
                   m->variant.plan.step_flops / fit->method[0].variant.plan.step_flops);
        if (!m->variant.plan.status && !m->hidden)
            batch_row(fit, m);
    }
}

/* In the order of the columns; they sum to the needs. */
enum { PARTS = 7 };
static const char *const part_names[PARTS] = {"parameters",  "gathered", "gradients", "states",
                                              "activations", "overhead", "gaps"};

static void parts_of(const Plan *plan, uint64_t parts[PARTS])
{
    const MemStats *s = &plan->memory.stats;
    parts[0] = report_group(s->at_peak, MEM_GROUP_PARAMETERS) - s->at_peak[MEM_GATHERED];
    parts[1] = s->at_peak[MEM_GATHERED];
    parts[2] = report_group(s->at_peak, MEM_GROUP_GRADIENTS);
    parts[3] = report_group(s->at_peak, MEM_GROUP_OPTIMIZER_STATES);
    parts[4] = report_group(s->at_peak, MEM_GROUP_ACTIVATIONS);
    parts[5] = report_group(s->at_peak, MEM_GROUP_OVERHEAD);
    parts[6] = s->needs - s->peak;
}

static void parts_table(const Fit *fit)
{
    int most = 0;
    for (int k = 0; k < fit->methods; k++)
        most = cards_of(&fit->method[k]) > most ? cards_of(&fit->method[k]) : most;
    printf("\n%-*s", LABEL, "AT THE PEAK, GiB");
    for (int i = 0; i < PARTS; i++)
        printf(" %11s", part_names[i]);
    printf("\n");
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        uint64_t parts[PARTS];
        if (begins_set(fit, k))
            printf("with %s\n", levers_text(&m->variant.options, fit->options).text);
        if (m->variant.plan.status || m->hidden || (cards_of(m) > 1 && cards_of(m) != most))
            continue;
        parts_of(&m->variant.plan, parts);
        printf("%-*s", LABEL, m->variant.label);
        for (int i = 0; i < PARTS; i++)
            printf(" %11.2f", gib(parts[i]));
        printf("\n");
    }
}

/* ---- The textbook's example ------------------------------------------------------------------ */

enum { TEXTBOOK_LABEL = 20 };

/* In the textbook's own unit, 10^9 bytes. */
static void gb_cell(double bytes)
{
    if (bytes != 0)
        printf(" %10.1f", bytes / 1e9);
    else
        printf(" %10s", "-");
}

/* "(20 + 20 + 80) / 2 + 20 to 40" beside the plan of a card with the same 12 bytes a parameter. */
static void textbook_table(const Options *o, const Plan *plan, const Plan *fp32)
{
    enum { CARDS_OF_IT = 2 };
    const double count = 10e9, least = 20e9,
                 most = 40e9; /* the textbook's; of activations from least to most */
    const double rule[PARTS] = {2 * count / CARDS_OF_IT, 0, 2 * count / CARDS_OF_IT, 8 * count / CARDS_OF_IT};
    double states = 0;
    char tokens[80], range[24];
    for (int i = 0; i < PARTS; i++)
        states += rule[i];
    snprintf(tokens, sizeof tokens, "of its own %d samples x %d tokens, not divided", o->batch, o->seq);
    const char *const why[PARTS] = {"",
                                    "whole while an operation reads them, one at a time",
                                    "backward has not reached the others; one is still whole",
                                    "",
                                    tokens,
                                    "gradients of activations, workspace, what is sent",
                                    ""};
    uint64_t parts[PARTS];
    parts_of(plan, parts);
    printf("\n%-*s %10s %10s  12 bytes a parameter: --precision bf16-states32\n", TEXTBOOK_LABEL,
           "10B, A CARD OF 2, GB", "textbook", "zero3");
    for (int i = 0; i < PARTS; i++) {
        printf("%-*s", TEXTBOOK_LABEL, part_names[i]);
        snprintf(range, sizeof range, "%.0f to %.0f", least / 1e9, most / 1e9);
        if (i == 4)
            printf(" %10s", range);
        else
            gb_cell(rule[i]);
        gb_cell((double)parts[i]);
        printf("%s%s\n", why[i][0] ? "  " : "", why[i]);
    }
    snprintf(range, sizeof range, "%.0f to %.0f", (states + least) / 1e9, (states + most) / 1e9);
    printf("%-*s %10s", TEXTBOOK_LABEL, "together", range);
    gb_cell((double)plan->memory.stats.needs);
    printf("  and %.1f with 16 bytes: --precision fp32\n", (double)fp32->memory.stats.needs / 1e9);
}

/* 0 where it cannot be planned. */
static int plan_zero3(const Options *from, const char *precision, Plan *plan)
{
    Options o = *from;
    Training training = {.options = &o};
    o.ranks.size = 2;
    o.ranks.strategy = RANKS_ZERO3;
    o.precision = precision;
    levers_to_preset(&o);
    RunOptions run = run_options(&o);
    int planned = !plan_script(training_script, &training, &run, plan);
    plan_free(plan);
    return planned;
}

static void textbook_example(const Fit *fit)
{
    static Plan states32, fp32;
    const Options *o = fit->options;
    if (!strcmp(o->model, "textbook-10b") && plan_zero3(o, "bf16-states32", &states32) &&
        plan_zero3(o, "fp32", &fp32))
        textbook_table(o, &states32, &fp32);
}

/* ---- All of it ------------------------------------------------------------------------------- */

static void say_left_out(const Fit *fit)
{
    int k = 0, hidden = 0;
    for (int i = 0; i < fit->methods; i++)
        hidden += fit->method[i].hidden;
    while (k < fit->methods && !fit->method[k].variant.plan.status)
        k++;
    if (hidden)
        printf("\nNot shown: %d rows with tensor or stages, beside each of which another of as many cards "
               "needs no "
               "more and sends\nno more a sample. --tensor T and --stages P show theirs, --json all.\n",
               hidden);
    if (k < fit->methods)
        printf("\nLeft out: %s and those like it: %s.\n", fit->method[k].variant.label,
               fit->method[k].variant.plan.error);
}

static int any(const Fit *fit, int (*is)(const Options *o))
{
    for (int k = 0; k < fit->methods; k++)
        if (is(&fit->method[k].variant.options))
            return 1;
    return 0;
}

static int has_tensor(const Options *o)
{
    return o->ranks.tensor > 1;
}

/* What the words in the rows mean. */
static void say_layouts(const Fit *fit)
{
    const Options *o = fit->options;
    for (int s = 0; s < RANK_STRATEGY_COUNT; s++)
        printf("%s divides %s%s", ranks_strategy_name((RankStrategy)s),
               ranks_strategy_divides((RankStrategy)s), s + 1 < RANK_STRATEGY_COUNT ? ";\n" : ".\n");
    if (any(fit, has_tensor))
        printf("tensor T: T cards compute each layer together, on the same samples; each has 1/T of its "
               "matrices. "
               "They wait for\nwhat they send twice in each layer: links within a machine.\n");
    if (any(fit, has_stages))
        printf("stages P: the blocks are cut into P stages, %s; the fullest stage decides.\n",
               ranks_schedule_name(o->ranks.schedule));
    else if (nn_preset_sizes(&o->preset).heads > 0 && fit->asked.tensor == 1)
        printf("Stages wait for each other unless a step has as many micro-batches: --accumulate 2, 4 or 8 "
               "shows them.\n");
}

void fit_cards_print(const Fit *fit)
{
    SayLine verdict = {""};
    print_title_on(fit->options, fit->parameters, &fit->bracket, 0, "");
    line_add(&verdict, "%.1000s", fit_verdict(fit).text);
    say_line(&verdict);
    printf("\nCards in GiB, %.2f of each reserved; what a library for sending takes itself is not planned.\n"
           "A cell is the largest batch of each card that fits, or what is missing, in GiB.\n"
           "A step's samples are those of all cards together; each card sends what a row says.\n",
           gib(fit->options->reserve));
    say_layouts(fit);
    batch_table(fit);
    parts_table(fit);
    textbook_example(fit);
    say_left_out(fit);
}

static json_t *stages_json(const Method *m)
{
    json_t *all = json_array();
    int each = stage_ranks(&m->variant.options);
    for (int i = 0; i < m->variant.options.ranks.stages; i++)
        json_array_append_new(all, json_pack("{s:i, s:o, s:I, s:I}", "stage", i, "ranks",
                                             rank_numbers(i * each, (i + 1) * each - 1), "needs_bytes",
                                             (json_int_t)m->stage[i].needs, "sent_step_bytes",
                                             (json_int_t)m->stage[i].sent));
    return all;
}

void fit_cards_json(json_t *row, const Method *m)
{
    const Options *o = &m->variant.options;
    json_object_set_new(row, "ranks", json_integer(cards_of(m)));
    json_object_set_new(row, "strategy",
                        data_ranks(o) > 1 ? json_string(ranks_strategy_name(o->ranks.strategy))
                                          : json_null());
    json_object_set_new(row, "tensor", json_integer(o->ranks.tensor));
    json_object_set_new(row, "stages", json_integer(o->ranks.stages));
    json_object_set_new(row, "shown", json_boolean(!m->hidden));
    json_object_set_new(row, "samples_step", json_integer(step_samples(o)));
    json_object_set_new(row, "sent_step_bytes", json_integer((json_int_t)m->sent));
    json_object_set_new(row, "sent_by_all_step_bytes", json_integer((json_int_t)m->sent_by_all));
    if (has_stages(o))
        json_object_set_new(row, "distinct", stages_json(m));
}
