/* What `brim report` writes, and its help. */
#include "../estimate/page_replay_.h"
#include "../report/exports.h"
#include "../report/html.h"
#include "cli.h"
#include "report_.h"

static int write_page(FILE *out, const char *const *paths, int count, char *error, size_t size)
{
    return report_html(out, paths, count, &estimate_pytorch_page, error, size);
}

const ReportOutput report_outputs[REPORT_OUTPUTS] = {
    {"--html", "a page for a browser; of two logs, one over the other", .page = write_page},
    {"--torch-snapshot", "for PyTorch's memory viewer (pytorch.org/memory_viz)",
     .write = report_torch_snapshot},
    {"--trace", "for Perfetto (ui.perfetto.dev) and chrome://tracing", .write = report_chrome_trace},
    {"--massif", "for ms_print and massif-visualizer", .write = report_massif},
    {"--csv", "the events of set-up and two steps, a line each", .write = report_events_csv},
    {"--jsonl", "the same as JSON objects", .write = report_events_jsonl},
};

void report_outputs_help(FILE *out)
{
    fprintf(out, "\noutputs:\n");
    for (int i = 0; i < REPORT_OUTPUTS; i++) {
        int columns = fprintf(out, "  %s FILE", report_outputs[i].name);
        fprintf(out, "%*s %s\n", 26 - columns, "", report_outputs[i].help);
    }
}
