/* html: the run log as one page that opens anywhere.
 */
#ifndef BRIM_REPORT_HTML_H
#define BRIM_REPORT_HTML_H

#include <stddef.h>
#include <stdio.h>

#include <jansson.h>

#include "../memtrack/memtrack.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the rules of another allocator make of a log's events: lines that the page shows beside them, and that
 * report/html_.h describes (estimate_pytorch_page replays PyTorch's). */
typedef struct PageReplay PageReplay;

/* Writes one self-contained HTML page: style, script and the logs are in it, and it asks for nothing else.
 * `paths` names one run log, or two that the page lays over each other. A log is read line by line: its size
 * is not limited by memory, except that the page shows up to 8192 points of a long run (each then the mean of
 * equally many steps). A last line that broke off is left out, as is any line that is not JSON; the page says
 * so. Returns 0; or -1 and a message in error[size]: a file that cannot be read or whose first line is not
 * that of a run log of format 1, no host memory, or an `out` that cannot be written. replay may be NULL. */
int report_html(FILE *out, const char *const *paths, int count, const PageReplay *replay, char *error,
                size_t size);

/* The page of what a job of PyTorch would need, from the JSON object of `brim plan --framework pytorch
 * --json` with what cli/pytorch_page.c adds. Returns 0; or -1 and a message in error[size]. */
int report_html_pytorch(FILE *out, const json_t *plan, char *error, size_t size);

#ifdef __cplusplus
}
#endif
#endif
