/* The events as tables: CSV (RFC 4180) for spreadsheets and data frames, JSON Lines for scripts. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "exports_.h"

static const char *const kind_names[RUN_EVENT_KINDS] = {
    [RUN_ALLOC] = "alloc", [RUN_FREE] = "free", [RUN_RETAG] = "retag"};

/* ---- CSV ------------------------------------------------------------------------------------- */

/* Quoted where it must be. */
static void put_field(FILE *out, const char *text)
{
    int quote = strpbrk(text, ",\"\r\n") != NULL;
    if (quote)
        putc('"', out);
    for (; *text; text++) {
        if (*text == '"')
            putc('"', out);
        putc(*text, out);
    }
    if (quote)
        putc('"', out);
    putc(',', out);
}

int report_events_csv(const RunRecord *run, FILE *out)
{
    errno = 0;
    fputs("time_us,step,kind,phase,component,from,place,op,serial,address,bytes,requested,live_bytes\n", out);
    for (size_t i = 0; i < run->event_count; i++) {
        const RunEvent *e = &run->events[i];
        fprintf(out, "%" PRIu64 ",%" PRId32 ",", e->time_us, e->step);
        put_field(out, kind_names[e->kind]);
        put_field(out, report_run_phase(run, e->phase));
        put_field(out, report_run_component(run, e->component));
        put_field(out, report_run_component(run, e->from));
        put_field(out, report_run_path(run, e->path));
        put_field(out, report_run_op(run, e->op));
        fprintf(out, "%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\n", e->serial,
                report_run_address(run, e), e->bytes, e->requested, e->live);
    }
    return report_finish_(out);
}

/* ---- JSON Lines ------------------------------------------------------------------------------ */

static void add_name(ReportText *line, const char *key, const char *value)
{
    report_text_print_(line, ",\"%s\":", key);
    report_text_quote_(line, value);
}

int report_events_jsonl(const RunRecord *run, FILE *out)
{
    ReportText line = {0};
    errno = 0;
    for (size_t i = 0; i < run->event_count && !line.failed; i++) {
        const RunEvent *e = &run->events[i];
        report_text_clear_(&line);
        report_text_print_(&line, "{\"time_us\":%" PRIu64 ",\"step\":%" PRId32 ",\"kind\":\"%s\"", e->time_us,
                           e->step, kind_names[e->kind]);
        add_name(&line, "phase", report_run_phase(run, e->phase));
        add_name(&line, "component", report_run_component(run, e->component));
        add_name(&line, "from", report_run_component(run, e->from));
        add_name(&line, "place", report_run_path(run, e->path));
        add_name(&line, "op", report_run_op(run, e->op));
        report_text_print_(&line,
                           ",\"serial\":%" PRIu64 ",\"address\":%" PRIu64 ",\"bytes\":%" PRIu64
                           ",\"requested\":%" PRIu64 ",\"live_bytes\":%" PRIu64 "}\n",
                           e->serial, report_run_address(run, e), e->bytes, e->requested, e->live);
        if (!line.failed)
            fwrite(line.text, 1, line.length, out);
    }
    int failed = line.failed;
    report_text_free_(&line);
    if (failed)
        errno = ENOMEM;
    return failed ? -1 : report_finish_(out);
}
