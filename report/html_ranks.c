/* The ranks of a run in its report page: which are alike, what is to be said of them in words, and the events
 * of one of each kind. */
#include <string.h>

#include "html_.h"
#include "runlog.h"
#include "runlog_ranks.h"

enum { PATH_MOST = 4096, RANK_BARS = 16 }; /* more ranks than these have no bar each */

static json_t *text_or_null(const char *text)
{
    json_t *value = json_string(text);
    return value ? value : json_null();
}

static json_t *kind_json(const RunRanks *ranks, int i, int own, int number)
{
    const RunKind *k = &ranks->kinds[i];
    char id[48];
    snprintf(id, sizeof id, "rank-%d-%d", number, i);
    json_t *all = json_pack("{s:o, s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I}", "name",
                            text_or_null(report_rank_name(&ranks->layout, &k->words).text), "ranks",
                            k->words.ranks, "first", k->words.first, "count", k->words.count, "stage",
                            k->stage, "planned", (json_int_t)k->planned_peak, "needs", (json_int_t)k->needs,
                            "measured", (json_int_t)k->measured_peak, "process", (json_int_t)k->process,
                            "sent", (json_int_t)k->sent);
    if (i != own && i < RANK_LOGS)
        json_object_set_new(all, "log", json_string(id));
    json_object_set_new(all, "own", json_boolean(i == own));
    if (ranks->layout.size <= RANK_BARS) {
        json_t *numbers = json_array();
        for (int r = 0; r < ranks->layout.size; r++)
            if (ranks->kind[r] == i)
                json_array_append_new(numbers, json_integer(r));
        json_object_set_new(all, "numbers", numbers);
    }
    return all;
}

static json_t *ranks_json(const RunRanks *ranks, const RankKind *words, int number)
{
    const RankLayout *l = &ranks->layout;
    json_t *notes = json_array(), *kinds = json_array();
    for (size_t i = 0; i < ranks->notes.count; i++)
        json_array_append_new(notes, text_or_null(ranks->notes.names[i]));
    for (int i = 0; i < ranks->count; i++)
        json_array_append_new(kinds, kind_json(ranks, i, ranks->kind[ranks->rank], number));
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:I, s:s, s:s, s:i, s:o, s:o}", "size", l->size,
                     "data", l->data, "tensor", l->tensor, "stages", l->stages, "rank", ranks->rank,
                     "strategy", text_or_null(l->strategy), "schedule", text_or_null(l->schedule),
                     "micro_batches", (json_int_t)l->micro_batches, "why",
                     report_ranks_why(l, words, ranks->count).text, "saving",
                     report_ranks_saving(l, words, ranks->count).text, "fullest",
                     report_ranks_fullest(words, ranks->count), "notes", notes, "kinds", kinds);
}

static int write_part(const char *text, size_t length, void *out)
{
    html_write_json_(out, text, length);
    return 0;
}

static int write_json(Lines *lines, json_t *object, FILE *out)
{
    int failed = !object || json_dump_callback(object, write_part, out, JSON_COMPACT | JSON_ENSURE_ASCII);
    json_decref(object);
    putc('\n', out);
    return failed ? lines_fail_memory_(lines) : 0;
}

/* The lines that say what was live when. */
static int copy_events(Lines *lines, FILE *out)
{
    static const char *const copied[] = {"places", "ops", "events", "events_end", "end"};
    int failed = 0;
    json_t *run = html_read_run_(lines);
    if (!run)
        return -1;
    html_copy_line_(lines, out);
    json_decref(run);
    for (json_t *line; !failed && (line = lines_next_(lines, &failed)); json_decref(line))
        for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++)
            if (!strcmp(html_kind_(line), copied[i]))
                html_copy_line_(lines, out);
    return failed ? -1 : 0;
}

static int write_kind(const Lines *own, const RunRanks *ranks, int kind, int number, FILE *out)
{
    char path[PATH_MOST];
    Lines lines = {.error = own->error, .error_size = own->error_size};
    if (report_log_rank_path(path, sizeof path, own->path, ranks->kinds[kind].words.first) ||
        lines_open_(&lines, path))
        return -1;
    fprintf(out, "<script type=\"application/x-ndjson\" class=\"rank-log\" id=\"rank-%d-%d\">\n", number,
            kind);
    int failed = copy_events(&lines, out);
    fputs("</script>\n", out);
    lines_close_(&lines);
    return failed;
}

static int write_all(Lines *lines, const RunRanks *ranks, int number, FILE *out)
{
    RankKind *words = memtrack_host_calloc(NULL, (size_t)ranks->count * sizeof *words);
    if (!words)
        return lines_fail_memory_(lines);
    report_run_ranks_words(ranks, words);
    fprintf(out, "<script type=\"application/json\" class=\"ranks\" id=\"ranks-%d\">\n", number);
    int failed = write_json(lines, ranks_json(ranks, words, number), out);
    fputs("</script>\n", out);
    memtrack_host_free(NULL, words, (size_t)ranks->count * sizeof *words);
    for (int i = 0; i < ranks->count && i < RANK_LOGS && !failed; i++)
        if (i != ranks->kind[ranks->rank])
            failed = write_kind(lines, ranks, i, number, out);
    return failed;
}

int html_write_ranks_(Lines *lines, const json_t *run, int number, FILE *out)
{
    RunRecord record;
    RunRanks ranks = {.count = 0};
    char why[512];
    if (!json_object_get(run, "ranks"))
        return 0;
    memset(&record, 0, sizeof record);
    if (report_run_read(lines->path, &record, why, sizeof why))
        return lines_fail_(lines, "%s", why);
    int failed = report_run_ranks(&record, &ranks) ? lines_fail_memory_(lines) : 0;
    if (!failed && ranks.count)
        failed = write_all(lines, &ranks, number, out);
    report_run_ranks_free(&ranks);
    report_run_free(&record);
    return failed;
}
