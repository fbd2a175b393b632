/* What plans and runs of several ranks say in words: which rank is the fullest and why
 * (report/ranks_words.h). */
#include <string.h>

#include "several.h"

void print_size_cell(double bytes, const char *behind)
{
    ReportUnit unit = report_unit((uint64_t)bytes);
    char text[48];
    snprintf(text, sizeof text, "%.*f %s", unit.decimals, bytes / unit.bytes, unit.name);
    printf(" %13s%s", text, behind);
}

/* A size and its unit stay together. */
static int word_length(const char *text)
{
    size_t length = strcspn(text, " "), unit = text[length] ? strcspn(text + length + 1, " ,.;:") : 0;
    const char *next = text + length + 1;
    int is_size = *text >= '0' && *text <= '9' && (unit == 1 || unit == 3) && next[unit - 1] == 'B';
    return (int)(is_size ? length + 1 + strcspn(next, " ") : length);
}

void print_sentence(const char *text)
{
    enum { WIDTH = 108 };
    int column = 0;
    while (*text) {
        int length = word_length(text);
        if (column && column + 1 + length > WIDTH) {
            printf("\n");
            column = 0;
        }
        column += printf("%s%.*s", column ? " " : "", length, text);
        text += length + (text[length] == ' ');
    }
    if (column)
        printf("\n");
}

void print_ranks_why(const RankLayout *layout, const RankKind *kinds, int count)
{
    print_sentence(report_ranks_why(layout, kinds, count).text);
    print_sentence(report_ranks_saving(layout, kinds, count).text);
}

RankLayout rank_layout(const Options *o)
{
    RankLayout l = {.size = o->ranks.size,
                    .data = data_ranks(o),
                    .tensor = o->ranks.tensor > 0 ? o->ranks.tensor : 1,
                    .stages = has_stages(o) ? o->ranks.stages : 1,
                    .micro_batches = o->accumulate,
                    .replicas = o->ranks.replicas};
    snprintf(l.strategy, sizeof l.strategy, "%s", ranks_strategy_name(o->ranks.strategy));
    snprintf(l.schedule, sizeof l.schedule, "%s", ranks_schedule_name(o->ranks.schedule));
    return l;
}

RankKind rank_kind(const MemSummary *memory, int first, int count)
{
    RankKind k = {.first = first, .count = count, .peak = memory->stats.peak};
    snprintf(k.ranks, sizeof k.ranks, count > 1 ? "%d-%d" : "%d", first, first + count - 1);
    memcpy(k.at_peak, memory->stats.at_peak, sizeof k.at_peak);
    return k;
}

void print_ranks_saving(const Options *o, const MemSummary *memory)
{
    RankLayout layout = rank_layout(o);
    RankKind kind = rank_kind(memory, o->ranks.rank, 1);
    print_sentence(report_ranks_saving(&layout, &kind, 1).text);
}
