/* The first line of a run log, and its memory objects. */
#include <math.h>
#include <string.h>

#include "runlog_read_.h"

double report_run_real_(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

int report_run_number_(const json_t *object, const char *key, uint64_t *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || (uint64_t)number > RUN_LIMIT)
        return 0;
    *out = (uint64_t)number;
    return 1;
}

static int copy_text(char **out, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    *out = report_run_copy_(text ? text : "");
    return *out ? 0 : -1;
}

/* ---- Memory objects -------------------------------------------------------------------------- */

/* What is left over may be less than nothing; 0 where it is no size. */
static int64_t left_over(const json_t *object)
{
    json_int_t bytes = json_integer_value(json_object_get(object, "unaccounted_bytes"));
    return bytes >= -(json_int_t)RUN_LIMIT && bytes <= (json_int_t)RUN_LIMIT ? bytes : 0;
}

static void read_card(const json_t *card, RunMemory *out)
{
    const char *counter = json_string_value(json_object_get(card, "counted_by"));
    report_run_number_(card, "used_bytes", &out->card.used);
    report_run_number_(card, "reserved_bytes", &out->card_reserved);
#define X(id, name, whose) report_run_number_(card, name "_bytes", &out->card.id);
    MEM_CARD_ROWS(X)
#undef X
    out->card_unaccounted = left_over(card);
    for (int i = MEM_CARD_NONE; counter && i <= MEM_CARD_DRIVER; i++)
        if (!strcmp(counter, report_card_counter((MemCardCounter)i)))
            out->card.counter = (MemCardCounter)i;
}

int report_run_memory_(const RunRecord *run, const json_t *object, RunMemory *out)
{
    const json_t *components = json_object_get(object, "components"),
                 *at = json_object_get(object, "peak_at"), *process = json_object_get(object, "process");
    uint64_t step = 0;
    out->present = report_run_number_(object, "peak_bytes", &out->peak_bytes);
    report_run_number_(object, "needs_bytes", &out->needs_bytes);
    for (size_t i = 0; i < run->components.count; i++) {
        const json_t *one = json_object_get(components, run->components.names[i]);
        report_run_number_(one, "at_peak", &out->at_peak[i]);
        report_run_number_(one, "peak", &out->own_peak[i]);
    }
    report_run_number_(at, "step", &step);
    out->peak_step = (int64_t)step;
    report_run_number_(process, "peak_bytes", &out->process_peak);
    out->unaccounted = left_over(process);
    read_card(json_object_get(object, "card"), out);
    return copy_text(&out->peak_phase, at, "phase") || copy_text(&out->peak_path, at, "place") ||
                   copy_text(&out->peak_op, at, "op")
               ? -1
               : 0;
}

static void free_text(char *text)
{
    if (text)
        memtrack_host_free(NULL, text, strlen(text) + 1);
}

void report_run_memory_free_(RunMemory *memory)
{
    free_text(memory->peak_phase);
    free_text(memory->peak_path);
    free_text(memory->peak_op);
}

/* ---- The first line -------------------------------------------------------------------------- */

static int refuse(const RunReading *reading, char *why, size_t why_size, const char *reason)
{
    snprintf(why, why_size, "%s: %s", reading->run->path, reason);
    return -1;
}

/* Names of strings, or of pairs whose first is the name; -1 when it is none or too long, -2 without memory.
 */
static int read_names(RunNames *names, const json_t *array, size_t limit, int pairs)
{
    if (!json_is_array(array) || json_array_size(array) == 0 || json_array_size(array) > limit)
        return -1;
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *one = json_array_get(array, i);
        const char *name = json_string_value(pairs ? json_array_get(one, 0) : one);
        if (!name)
            return -1;
        if (report_run_add_name_(names, name))
            return -2;
    }
    return 0;
}

static int read_tables(RunRecord *run, const json_t *line)
{
    const json_t *components = json_object_get(line, "components");
    int status =
        read_names(&run->components, components, RUN_COMPONENTS - 1, 1); /* one is left for "unknown" */
    if (!status)
        status = read_names(&run->groups, json_object_get(line, "groups"), RUN_GROUPS, 0);
    if (!status)
        status = read_names(&run->phases, json_object_get(line, "phases"), RUN_PHASES, 0);
    for (size_t i = 0; !status && i < run->components.count; i++) {
        const char *group = json_string_value(json_array_get(json_array_get(components, i), 1));
        run->component_group[i] = (int)run->groups.count - 1;
        for (size_t g = 0; group && g < run->groups.count; g++)
            if (!strcmp(group, run->groups.names[g]))
                run->component_group[i] = (int)g;
    }
    return status;
}

static int read_options(RunRecord *run, const json_t *options)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)options, key, value)
    {
        char number[64] = "";
        const char *text = json_string_value(value);
        if (json_is_integer(value))
            snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        else if (json_is_real(value))
            snprintf(number, sizeof number, "%g", json_real_value(value));
        else if (!text)
            continue;
        if (report_run_add_name_(&run->option_names, key) ||
            report_run_add_name_(&run->option_values, text ? text : number))
            return -1;
    }
    return 0;
}

static int read_command(RunRecord *run, const json_t *command)
{
    ReportText text = {0};
    for (size_t i = 0; i < json_array_size(command); i++) {
        const char *argument = json_string_value(json_array_get(command, i));
        report_text_print_(&text, "%s%s", i ? " " : "", argument ? argument : "?");
    }
    run->command = text.failed ? NULL : report_run_copy_(text.text ? text.text : "");
    report_text_free_(&text);
    return run->command ? 0 : -1;
}

static int read_small(const json_t *object, const char *key, int low, int high, int *out)
{
    uint64_t number = 0;
    int there = report_run_number_(object, key, &number) && number >= (uint64_t)low && number <= (uint64_t)high;
    *out = there ? (int)number : low;
    return there;
}

static void read_word(const json_t *object, const char *key, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(object, key));
    snprintf(out, size, "%s", text ? text : "");
}

/* What contradicts itself is no rank: the log is then shown as that of a process that is alone. */
static void read_rank(RunRank *out, const json_t *ranks)
{
    enum { MOST = 65536 };
    RunRank r = {.size = 0};
    RankLayout *l = &r.layout;
    uint64_t micro = 1;
    const json_t *like = json_object_get(ranks, "like");
    if (!read_small(ranks, "size", 2, MOST, &r.size) || !read_small(ranks, "rank", 0, r.size - 1, &r.rank))
        return;
    r.first = r.last = r.rank;
    if (json_array_size(like) == 2) {
        json_int_t first = json_integer_value(json_array_get(like, 0)),
                   last = json_integer_value(json_array_get(like, 1));
        r.first = first >= 0 && first <= r.rank ? (int)first : r.rank;
        r.last = last >= r.rank && last < r.size ? (int)last : r.rank;
    }
    l->size = r.size;
    read_small(ranks, "data", 1, r.size, &l->data);
    read_small(ranks, "tensor", 1, r.size, &l->tensor);
    read_small(ranks, "stages", 1, r.size, &l->stages);
    read_small(ranks, "replicas", 1, l->data, &l->replicas);
    report_run_number_(ranks, "micro_batches", &micro);
    l->micro_batches = (int64_t)micro;
    read_word(ranks, "strategy", l->strategy, sizeof l->strategy);
    read_word(ranks, "schedule", l->schedule, sizeof l->schedule);
    read_word(ranks, "run", r.run, sizeof r.run);
    report_run_number_(ranks, "sent_bytes_per_step", &r.sent);
    *out = r;
}

static int read_rest(RunRecord *run, const json_t *line)
{
    uint64_t parameters = 0;
    report_run_number_(line, "parameters", &parameters);
    run->parameters = (int64_t)parameters;
    run->planned = json_is_true(json_object_get(line, "planned"));
    read_rank(&run->rank, json_object_get(line, "ranks"));
    return copy_text(&run->brim, line, "brim") || copy_text(&run->model, line, "model") ||
                   copy_text(&run->family, line, "family") ||
                   read_command(run, json_object_get(line, "command")) ||
                   read_options(run, json_object_get(line, "options")) ||
                   report_run_memory_(run, json_object_get(line, "plan"), &run->plan)
               ? -1
               : 0;
}

int report_run_header_(RunReading *reading, const json_t *line, char *why, size_t why_size)
{
    RunRecord *run = reading->run;
    const char *kind = json_string_value(json_object_get(line, "kind"));
    uint64_t format = 0;
    if (!kind || strcmp(kind, "run") || !report_run_number_(line, "format", &format))
        return refuse(
            reading, why, why_size,
            "this is not a run log: its first line does not begin a run (brim train --log FILE writes one)");
    if (format != 1) {
        snprintf(why, why_size, "%s: a run log of format %llu; this brim reads format 1", run->path,
                 (unsigned long long)format);
        return -1;
    }
    int status = read_tables(run, line);
    if (status == -1)
        return refuse(reading, why, why_size,
                      "the first line is damaged: it must name the components, groups and phases");
    return status || read_rest(run, line) ? refuse(reading, why, why_size, "out of host memory") : 0;
}
