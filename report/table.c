/* The tables. One unit a table, chosen by its largest number; every column is right-aligned under its
 * heading. */
#include <inttypes.h>
#include <string.h>

#include "report_.h"

enum { LABEL = 26, COLUMN = 11, SHARE = 9 };

static void cell(FILE *out, ReportUnit unit, const MemSummary *summary, uint64_t bytes)
{
    if (summary)
        fprintf(out, "%*.*f", COLUMN, unit.decimals, (double)bytes / unit.bytes);
}

/* Of the peak, where only one run is shown: between what is at the peak and own peaks, which are no parts. */
static void share(FILE *out, const MemSummary *planned, const MemSummary *measured, const uint64_t *bytes)
{
    const MemSummary *shown = measured ? measured : planned;
    if (planned && measured)
        return;
    if (bytes && shown->stats.peak)
        fprintf(out, "%*.1f %%", SHARE - 2, 100 * (double)*bytes / (double)shown->stats.peak);
    else
        fprintf(out, "%*s", SHARE, "");
}

const char *const report_group_labels_[MEM_GROUP_COUNT] = {
#define X(id, name, label, word, brief) [MEM_GROUP_##id] = label,
    MEMTRACK_GROUPS(X)
#undef X
};
const char *const report_group_short_[MEM_GROUP_COUNT] = {
#define X(id, name, label, word, brief) [MEM_GROUP_##id] = brief,
    MEMTRACK_GROUPS(X)
#undef X
};

static const char *const component_labels[MEM_COMPONENT_COUNT] = {
    [MEM_PARAMETER] = "  trainable",
    [MEM_FROZEN] = "  frozen",
    [MEM_MASTER] = "  master weights",
    [MEM_ACTIVATION_GRADIENT] = "  activation gradients",
    [MEM_TEMPORARY] = "  temporaries",
    [MEM_WORKSPACE] = "  workspace",
    [MEM_INPUT] = "  input",
    [MEM_BUFFER] = "  buffers",
    [MEM_KV_CACHE] = "  kv cache",
    [MEM_GATHERED] = "  gathered",
    [MEM_COMMUNICATION] = "  communication",
};

/* The moment an own peak was reached, for the groups that come and go within a step. What only grows in a
 * phase is highest at its end. */
static const char *own_peak_moment(const MemStats *stats, MemGroup group)
{
    int gradients = group == MEM_GROUP_GRADIENTS;
    MemComponent component = gradients ? MEM_GRADIENT : MEM_ACTIVATION;
    MemPhase phase = stats->own_peak_at[component].phase;
    static const char *const when[MEM_PHASE_COUNT] = {
        [MEM_PHASE_SETUP] = "",
        [MEM_PHASE_FORWARD] = "end of forward",
        [MEM_PHASE_BACKWARD] = "backward",
        [MEM_PHASE_RECOMPUTE] = "recompute",
        [MEM_PHASE_OPTIMIZER] = "optimizer step",
        [MEM_PHASE_EVALUATE] = "evaluation",
    };
    if ((!gradients && group != MEM_GROUP_ACTIVATIONS) || !stats->own_peak[component])
        return "";
    return gradients && phase == MEM_PHASE_BACKWARD ? "end of backward" : when[phase];
}

static int members_seen(const MemStats *stats, MemGroup group)
{
    int seen = 0;
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        seen += memtrack_component_group((MemComponent)i) == group && stats->own_peak[i] > 0;
    return seen;
}

static void group_rows(FILE *out, ReportUnit unit, const MemSummary *planned, const MemSummary *measured,
                       MemGroup group)
{
    const MemSummary *shown = measured ? measured : planned;
    fprintf(out, "%-*s", LABEL, report_group_labels_[group]);
    cell(out, unit, planned, planned ? report_group(planned->stats.at_peak, group) : 0);
    cell(out, unit, measured, measured ? report_group(measured->stats.at_peak, group) : 0);
    uint64_t at_peak = report_group(shown->stats.at_peak, group);
    share(out, planned, measured, &at_peak);
    if (group != MEM_GROUP_OVERHEAD) {
        uint64_t own = report_group(shown->stats.own_peak, group);
        cell(out, unit, shown, own);
        const char *moment = own ? own_peak_moment(&shown->stats, group) : "";
        fprintf(out, "%s%s", moment[0] ? "  " : "", moment);
    }
    fputc('\n', out);
    if (group != MEM_GROUP_OVERHEAD && members_seen(&shown->stats, group) < 2)
        return;
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++) {
        if (memtrack_component_group((MemComponent)i) != group || !shown->stats.own_peak[i])
            continue;
        fprintf(out, "%-*s", LABEL,
                component_labels[i] ? component_labels[i] : memtrack_component_name((MemComponent)i));
        cell(out, unit, planned, planned ? planned->stats.at_peak[i] : 0);
        cell(out, unit, measured, measured ? measured->stats.at_peak[i] : 0);
        share(out, planned, measured, &shown->stats.at_peak[i]);
        cell(out, unit, shown, shown->stats.own_peak[i]);
        fputc('\n', out);
    }
}

static void peak_row(FILE *out, ReportUnit unit, const MemSummary *planned, const MemSummary *measured)
{
    int columns = (planned != NULL) + (measured != NULL) + 1;
    for (int i = 0; i < LABEL + columns * COLUMN + (planned && measured ? 0 : SHARE); i++)
        fputc('-', out);
    fprintf(out, "\n%-*s", LABEL, "peak");
    cell(out, unit, planned, planned ? planned->stats.peak : 0);
    cell(out, unit, measured, measured ? measured->stats.peak : 0);
    if (planned && measured) {
        int64_t apart = (int64_t)(measured->stats.peak - planned->stats.peak);
        fprintf(out, "   %" PRId64 " bytes apart", apart);
    }
    fputc('\n', out);
}

static void signed_size(FILE *out, const char *name, int64_t bytes)
{
    fprintf(out, " + %s %s%s", name, bytes < 0 ? "-" : "",
            report_size((uint64_t)(bytes < 0 ? -bytes : bytes)).text);
}

static void card_lines(FILE *out, const MemSummary *m)
{
    fprintf(out, "On the card: reserved %s", report_size(m->reserved ? m->reserved : m->stats.live).text);
#define X(id, name, whose)                                                                                   \
    if (m->card.id)                                                                                          \
        fprintf(out, " + %s %s", name, report_size(m->card.id).text);
    MEM_CARD_ROWS(X)
#undef X
    signed_size(out, "unaccounted", report_card_unaccounted(m));
    fprintf(out, " = used %s\nUsed: %s.\n", report_size(m->card.used).text,
            report_card_meaning(m->card.counter));
}

void report_beyond(FILE *out, const MemSummary *m)
{
    if (!m->process_peak)
        return;
    if (m->card.used)
        card_lines(out, m);
    else
        fprintf(out, "Reserved %s + ", report_size(m->reserved ? m->reserved : m->stats.peak).text);
    fprintf(out, "%s %s", m->card.used ? "Host" : "host", report_size(m->host_peak).text);
    signed_size(out, "unaccounted", report_unaccounted(m));
    fprintf(out, " = process %s\n", report_size(m->process_peak).text);
}

void report_table(FILE *out, const MemSummary *planned, const MemSummary *measured)
{
    const MemSummary *shown = measured ? measured : planned;
    ReportUnit unit = report_unit(shown->stats.peak);
    fprintf(out, "%-*s", LABEL, unit.name);
    if (planned)
        fprintf(out, "%*s", COLUMN, "planned");
    if (measured)
        fprintf(out, "%*s", COLUMN, "measured");
    int both = planned && measured;
    fprintf(out, "%*s%*s\n%-*s", both ? 0 : SHARE, both ? "" : "share", COLUMN, "own peak", LABEL, "");
    for (int i = 0; i < (planned != NULL) + (measured != NULL); i++)
        fprintf(out, "%*s", COLUMN, "at peak");
    fprintf(out, "%*s   (does not sum)\n", both ? 0 : SHARE, both ? "" : "of it");
    for (int group = 0; group < MEM_GROUP_COUNT; group++)
        group_rows(out, unit, planned, measured, (MemGroup)group);
    peak_row(out, unit, planned, measured);
    fprintf(out, "Peak at: %s, %s (%s), step %" PRId64 "\n", memtrack_phase_name(shown->stats.peak_at.phase),
            report_path(shown), shown->peak_op[0] ? shown->peak_op : "allocation",
            shown->stats.peak_at.step + 1);
    fprintf(out, "Needs %s in one piece (%" PRIu64 " bytes), gaps between blocks included.\n",
            report_size(shown->stats.needs).text, shown->stats.needs);
    if (measured)
        report_beyond(out, measured);
}

static void difference(FILE *out, ReportUnit unit, const char *label, int64_t bytes)
{
    double shown = (double)bytes / unit.bytes;
    if (shown > -0.5 * unit.smallest && shown < 0.5 * unit.smallest)
        return;
    fprintf(out, "  %-*s%+*.*f\n", LABEL - 2, label, COLUMN, unit.decimals, shown);
}

void report_textbook(FILE *out, const MemSummary *summary)
{
    const MemStats *s = &summary->stats;
    ReportUnit unit = report_unit(s->peak);
    uint64_t own[MEM_GROUP_COUNT], at[MEM_GROUP_COUNT], textbook = 0;
    for (int g = 0; g < MEM_GROUP_COUNT; g++) {
        own[g] = report_group(s->own_peak, (MemGroup)g);
        at[g] = report_group(s->at_peak, (MemGroup)g);
        textbook += g == MEM_GROUP_OVERHEAD ? 0 : own[g];
    }
    fprintf(out, "\n%-*s%*.*f\n", LABEL, "textbook P + G + O + A", COLUMN, unit.decimals,
            (double)textbook / unit.bytes);
    difference(out, unit, "gradients not there yet",
               (int64_t)(at[MEM_GROUP_GRADIENTS] - own[MEM_GROUP_GRADIENTS]));
    difference(out, unit, "activations freed",
               (int64_t)(at[MEM_GROUP_ACTIVATIONS] - own[MEM_GROUP_ACTIVATIONS]));
    difference(out, unit, "states not there yet",
               (int64_t)(at[MEM_GROUP_OPTIMIZER_STATES] + at[MEM_GROUP_PARAMETERS] -
                         own[MEM_GROUP_OPTIMIZER_STATES] - own[MEM_GROUP_PARAMETERS]));
    difference(out, unit, "overhead", (int64_t)at[MEM_GROUP_OVERHEAD]);
    fprintf(out, "%-*s%*.*f\n", LABEL, "the true peak", COLUMN, unit.decimals, (double)s->peak / unit.bytes);
}

void report_row_heading(FILE *out, const char *label)
{
    fprintf(out, "%-*s", LABEL, label);
    for (int group = 0; group < MEM_GROUP_COUNT; group++)
        fprintf(out, "%8s", report_group_short_[group]);
    fprintf(out, "%8s MiB%9s\n", "peak", "ms/step");
}

void report_row(FILE *out, const char *label, const MemSummary *summary, double step_seconds)
{
    fprintf(out, "%-*s", LABEL, label);
    for (int group = 0; group < MEM_GROUP_COUNT; group++)
        fprintf(out, "%8.2f", (double)report_group(summary->stats.at_peak, (MemGroup)group) / 0x1p20);
    fprintf(out, "%8.2f", (double)summary->stats.peak / 0x1p20);
    if (step_seconds > 0)
        fprintf(out, "%13.1f", 1e3 * step_seconds);
    fputc('\n', out);
}

void report_step(FILE *out, const MemLedger *ledger, const StepLine *line)
{
    const MemStats *s = memtrack_stats(ledger);
    ReportUnit unit = report_unit(s->step_peak);
    fprintf(out, "step %4" PRId64 "  loss %7.4f %7s/s%s", line->step, line->loss,
            report_rate(line->tokens_per_second).text, line->same_memory ? "\n" : " |");
    if (line->same_memory)
        return;
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        fprintf(out, " %s %.*f", report_group_short_[g], unit.decimals,
                (double)report_group(s->step_at_peak, (MemGroup)g) / unit.bytes);
    fprintf(out, " = %.*f %s\n", unit.decimals, (double)s->step_peak / unit.bytes, unit.name);
}
