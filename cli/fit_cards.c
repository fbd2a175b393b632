/* brim fit --cards: strategies x numbers of cards x cards. All ranks of a strategy need as much, because
 * their parts are padded, so rank 0 is planned for all; no process is started. */
#include <string.h>

#include "../device/device.h"
#include "fit_.h"
#include "flags_.h"
#include "several.h"

enum { LABEL = 20 };

/* ---- Which rows ------------------------------------------------------------------------------ */

/* Ascending, each once. 0 or EXIT_USAGE. */
static int parse_counts(const char *list, int counts[COUNTS], int *count)
{
    for (*count = 0; *list;) {
        char word[32];
        int64_t value;
        size_t length = strcspn(list, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, list);
        if (parse_whole("--cards", word, 1, RANKS_MOST, &value))
            return EXIT_USAGE;
        int at = 0;
        while (at < *count && counts[at] < value)
            at++;
        if (at == *count || counts[at] != value) {
            if (*count == COUNTS)
                return usage("--cards takes at most %d numbers", COUNTS);
            memmove(counts + at + 1, counts + at, (size_t)(*count - at) * sizeof *counts);
            counts[at] = (int)value;
            ++*count;
        }
        list += length + (list[length] == ',');
    }
    return *count ? 0 : usage("--cards needs a number of cards, such as 8 or 1,2,4,8");
}

static void add_row(Fit *fit, const Variant *variant, RankStrategy strategy, int cards)
{
    Method *m = &fit->method[fit->methods++];
    *m = (Method){.variant = *variant};
    m->variant.options.ranks.size = cards;
    m->variant.options.ranks.strategy = strategy;
    snprintf(m->variant.label, sizeof m->variant.label, cards > 1 ? "%s, %d cards" : "1 card",
             ranks_strategy_name(strategy), cards);
}

/* One card alone is always there: what the others are compared with. */
static void add_rows(Fit *fit, const Variant *variant, const int counts[COUNTS], int count)
{
    add_row(fit, variant, RANKS_DDP, 1);
    for (int i = 0; i < count; i++)
        for (int s = 0; s < RANK_STRATEGY_COUNT && counts[i] > 1; s++)
            add_row(fit, variant, (RankStrategy)s, counts[i]);
}

int fit_choose_ranks(Fit *fit)
{
    Variant variant = {.options = *fit->options, .target = MEM_GROUP_COUNT};
    int counts[COUNTS], count = 0;
    if (device_cuda_ordinal(fit->options->device) >= 0)
        return usage(
            "--cards excludes --device cuda: its ranks are planned as on the CPU, and what a card's "
            "kernels take beside is in --reserve; `brim plan --device cuda --ranks N` is to the byte");
    if (parse_counts(fit->options->card_counts, counts, &count))
        return EXIT_USAGE;
    Options several = *fit->options;
    several.ranks.size = counts[count - 1];
    LeverText why = ranks_problem(&several);
    if (why.text[0])
        return usage("%s", why.text);
    add_rows(fit, &variant, counts, count);
    if (variant_recomputed(&variant, fit->options))
        add_rows(fit, &variant, counts, count);
    return 0;
}

static int cards_of(const Method *m)
{
    return m->variant.options.ranks.size;
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static double gib(uint64_t bytes)
{
    return (double)bytes / 0x1p30;
}

static void batch_row(const Fit *fit, const Method *m)
{
    const Plan *plan = &m->variant.plan;
    printf("%-*s %10s %10s", LABEL, m->variant.label, report_size(plan->memory.stats.needs).text,
           plan->step_sent ? report_size(plan->step_sent).text : "-");
    for (int i = 0; i < fit->cards; i++) {
        char text[24];
        snprintf(text, sizeof text, "%s%d%s", m->batch[i] < m->variant.options.batch ? "only " : "",
                 m->batch[i], m->batch[i] == fit_most(fit, m) ? "+" : "");
        printf(" %9s", m->batch[i] ? text : fit_missing(fit_needs(fit, m, i), fit_limit(fit, i)).text);
    }
    printf("\n");
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
    printf("\n%-*s %10s %10s", LABEL, title, "needs", "sent/step");
    for (int i = 0; i < fit->cards; i++)
        printf(" %9s", fit->title[i]);
    printf("\n%-*s %10s %10s", LABEL, "", "", "");
    for (int i = 0; i < fit->cards; i++)
        printf(" %9.2f", gib(fit->memory[i]));
    printf("\n");
    for (int k = 0; k < fit->methods; k++) {
        const Method *m = &fit->method[k];
        if (begins_set(fit, k))
            printf("with %s, %.2f times the FLOPs\n", levers_text(&m->variant.options, fit->options).text,
                   m->variant.plan.step_flops / fit->method[0].variant.plan.step_flops);
        if (!m->variant.plan.status)
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
        if (m->variant.plan.status || (cards_of(m) > 1 && cards_of(m) != most))
            continue;
        parts_of(&m->variant.plan, parts);
        printf("%-*s", LABEL, m->variant.label);
        for (int i = 0; i < PARTS; i++)
            printf(" %11.2f", gib(parts[i]));
        printf("\n");
    }
}

/* ---- The textbook's example ------------------------------------------------------------------ */

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
    printf("\n%-*s %10s %10s  12 bytes a parameter: --precision bf16-states32\n", LABEL,
           "10B, A CARD OF 2, GB", "textbook", "zero3");
    for (int i = 0; i < PARTS; i++) {
        printf("%-*s", LABEL, part_names[i]);
        snprintf(range, sizeof range, "%.0f to %.0f", least / 1e9, most / 1e9);
        if (i == 4)
            printf(" %10s", range);
        else
            gb_cell(rule[i]);
        gb_cell((double)parts[i]);
        printf("%s%s\n", why[i][0] ? "  " : "", why[i]);
    }
    snprintf(range, sizeof range, "%.0f to %.0f", (states + least) / 1e9, (states + most) / 1e9);
    printf("%-*s %10s", LABEL, "together", range);
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
    int k = 0;
    while (k < fit->methods && !fit->method[k].variant.plan.status)
        k++;
    if (k < fit->methods)
        printf("\nLeft out: %s and those like it: %s.\n", fit->method[k].variant.label,
               fit->method[k].variant.plan.error);
}

void fit_cards_print(const Fit *fit)
{
    SayLine verdict = {""};
    print_title_on(fit->options, fit->parameters, &fit->bracket, 0, "");
    line_add(&verdict, "%.1000s", fit_verdict(fit).text);
    say_line(&verdict);
    printf("\nCards in GiB, %.2f of each reserved; what a library for sending takes itself is not planned.\n"
           "A cell is the largest batch of each card that fits, or what is missing, in GiB.\n"
           "A step's batch is that of all cards together; each card sends what a row says.\n",
           gib(fit->options->reserve));
    for (int s = 0; s < RANK_STRATEGY_COUNT; s++)
        printf("%s divides %s%s", ranks_strategy_name((RankStrategy)s),
               ranks_strategy_divides((RankStrategy)s), s + 1 < RANK_STRATEGY_COUNT ? ";\n" : ".\n");
    batch_table(fit);
    parts_table(fit);
    textbook_example(fit);
    say_left_out(fit);
}

void fit_cards_json(json_t *row, const Method *m)
{
    json_object_set_new(row, "ranks", json_integer(cards_of(m)));
    json_object_set_new(row, "strategy",
                        cards_of(m) > 1 ? json_string(ranks_strategy_name(m->variant.options.ranks.strategy))
                                        : json_null());
    json_object_set_new(row, "sent_step_bytes", json_integer((json_int_t)m->variant.plan.step_sent));
}
