/* Copies of a ledger's books, and sizes as text. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "report.h"

static void copy_text(char *to, size_t size, const char *text)
{
    snprintf(to, size, "%s", text ? text : "");
}

void report_summary(const MemLedger *ledger, MemSummary *out)
{
    const MemTracker *tracker = memtrack_ledger_tracker(ledger);
    memset(out, 0, sizeof *out);
    out->stats = *memtrack_stats(ledger);
    copy_text(out->peak_path, sizeof out->peak_path, memtrack_path_name(tracker, out->stats.peak_at.path));
    copy_text(out->peak_op, sizeof out->peak_op, out->stats.peak_at.op);
    out->stats.peak_at.op = NULL; /* the text is what lasts */
    out->host_peak = memtrack_host_peak(tracker);
}

int64_t report_unaccounted(const MemSummary *summary)
{
    uint64_t tracked = summary->reserved ? summary->reserved : summary->stats.peak;
    if (summary->card.used) /* then it is not the process's */
        tracked = 0;
    return (int64_t)(summary->process_peak - tracked - summary->host_peak);
}

int64_t report_card_unaccounted(const MemSummary *summary)
{
    uint64_t known = summary->reserved ? summary->reserved : summary->stats.live;
#define X(id, name, whose) known += summary->card.id;
    MEM_CARD_ROWS(X)
#undef X
    return (int64_t)(summary->card.used - known);
}

static const struct {
    const char *name, *meaning;
} counters[] = {
    [MEM_CARD_NONE] = {"", ""},
    [MEM_CARD_PROCESS] = {"process", "nvidia-smi's figure for this process"},
    [MEM_CARD_ALL] = {"all", "nvidia-smi's figure for the whole card, because it has none for this process"},
    [MEM_CARD_DRIVER] = {"driver",
                         "the driver's figure for the whole card, and what others had is in context: "
                         "NVIDIA's management library does not answer"},
};

const char *report_card_counter(MemCardCounter counter)
{
    return counters[counter].name;
}

const char *report_card_meaning(MemCardCounter counter)
{
    return counters[counter].meaning;
}

const char *report_path(const MemSummary *summary)
{
    return summary->peak_path[0] ? summary->peak_path : "the model itself";
}

uint64_t report_group(const uint64_t by_component[MEM_COMPONENT_COUNT], MemGroup group)
{
    uint64_t sum = 0;
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        if (memtrack_component_group((MemComponent)i) == group)
            sum += by_component[i];
    return sum;
}

SizeText report_size(uint64_t bytes)
{
    SizeText out;
    double value = (double)bytes;
    if (bytes < 10240)
        snprintf(out.text, sizeof out.text, "%" PRIu64 " B", bytes);
    else if (value / 0x1p10 < 1023.95) /* what would print as 1024.0 is one of the next unit */
        snprintf(out.text, sizeof out.text, "%.1f KiB", value / 0x1p10);
    else if (value / 0x1p20 < 1023.95)
        snprintf(out.text, sizeof out.text, "%.1f MiB", value / 0x1p20);
    else if (value / 0x1p30 < 1023.995)
        snprintf(out.text, sizeof out.text, "%.2f GiB", value / 0x1p30);
    else
        snprintf(out.text, sizeof out.text, "%.2f TiB", value / 0x1p40);
    return out;
}

ReportUnit report_unit(uint64_t largest)
{
    static const struct {
        double below;
        ReportUnit unit;
    } units[] = {{0x1p16, {"KiB", 0x1p10, 2, 0.01}},
                 {10 * 0x1p20, {"MiB", 0x1p20, 2, 0.01}},
                 {10 * 0x1p30, {"MiB", 0x1p20, 1, 0.1}},
                 {10 * 0x1p40, {"GiB", 0x1p30, 2, 0.01}},
                 {INFINITY, {"TiB", 0x1p40, 2, 0.01}}};
    size_t i = 0;
    while ((double)largest >= units[i].below)
        i++;
    return units[i].unit;
}

SizeText report_count(int64_t n)
{
    char digits[24];
    SizeText out;
    int length = snprintf(digits, sizeof digits, "%" PRId64, n), used = 0;
    for (int i = 0; i < length; i++) {
        out.text[used++] = digits[i];
        int left = length - 1 - i;
        if (left > 0 && left % 3 == 0 && digits[i] != '-')
            out.text[used++] = ',';
    }
    out.text[used] = '\0';
    return out;
}

SizeText report_rate(double per_second)
{
    SizeText out;
    if (!(per_second > 0) || per_second >= 9.95)
        return report_count((int64_t)(per_second + 0.5));
    snprintf(out.text, sizeof out.text, "%.*f", per_second < 0.995 ? 2 : 1, per_second);
    return out;
}
