/* The same fact from two lines of a run log: where they differ, lines were lost, or are of another run. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runlog_cross_.h"
#include "runlog_read_.h"

void report_cross_begin_(RunCross *c, const json_t *run)
{
    *c = (RunCross){.lines = 1, .first_loss = NAN, .last_loss = NAN};
    c->has_plan = report_run_number_(json_object_get(run, "plan"), "peak_bytes", &c->plan_peak);
}

/* ---- Lines ----------------------------------------------------------------------------------- */

static void cross_names(int64_t *known, RunCross *c, const json_t *line)
{
    uint64_t from = 0;
    report_run_number_(line, "from", &from);
    if ((int64_t)from > *known)
        c->names_missing = 1;
    *known = (int64_t)from + (int64_t)json_array_size(json_object_get(line, "names"));
}

static void cross_row(RunCross *c, const RunEvent *event)
{
    c->rows++;
    c->names_missing |= event->path >= c->places || event->op >= c->ops; /* they come before their use */
    c->last_row_step = event->step;
    if (event->kind == RUN_ALLOC) {
        c->blocks_missing += event->serial > c->serial + 1 ? (int64_t)(event->serial - c->serial - 1) : 0;
        c->serial = event->serial;
        c->live += event->bytes;
    } else if (event->kind == RUN_FREE) {
        c->live -= event->bytes; /* of a block that is not in the log: then it is wrong, which is the point */
    }
}

static void cross_events(RunCross *c, const json_t *line)
{
    const json_t *rows = json_object_get(line, "rows");
    size_t at[RUN_COLUMNS];
    if (report_line_columns_(line, at))
        return;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        RunEvent event;
        if (report_line_row_(json_array_get(rows, i), at, &event))
            c->bad_rows++;
        else
            cross_row(c, &event);
    }
}

static int sums_to(const json_t *object, uint64_t peak)
{
    uint64_t sum = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) sum += (uint64_t)json_integer_value(value);
    return !object || sum == peak;
}

static void cross_order(RunCross *c, int64_t step)
{
    int64_t gap = step - c->last_step - 1;
    if (c->steps && gap > 0) {
        if (!c->gaps) {
            c->gap_from = c->last_step + 1;
            c->gap_to = step - 1;
        }
        c->gaps += gap;
    } else if (c->steps && gap < 0) {
        c->disorder++;
    }
    if (!c->steps++)
        c->first_step = step;
    if (step > c->last_step)
        c->last_step = step;
}

static void cross_step(RunCross *c, const json_t *line)
{
    uint64_t step = 0, peak = 0, live = 0;
    report_run_number_(line, "step", &step);
    report_run_number_(line, "peak_bytes", &peak);
    if (!c->steps)
        c->first_loss = report_run_real_(line, "loss");
    c->last_loss = report_run_real_(line, "loss");
    cross_order(c, (int64_t)step);
    if (peak > c->highest) {
        c->highest = peak;
        c->highest_step = (int64_t)step;
    }
    if ((!sums_to(json_object_get(line, "at_peak"), peak) ||
         !sums_to(json_object_get(line, "components_at_peak"), peak)) &&
        !c->wrong_sums++)
        c->first_wrong_sum = (int64_t)step;
    int has_live = report_run_number_(line, "live_bytes", &live);
    if (has_live && c->rows && !c->events_ended && !c->live_wrong && live != c->live) {
        c->live_wrong = (int64_t)step;
        c->live_said = live;
        c->live_seen = c->live;
    }
}

static void cross_end(RunCross *c, const json_t *line)
{
    const json_t *memory = json_object_get(line, "memory");
    const char *status = json_string_value(json_object_get(line, "status"));
    uint64_t steps = 0, lines = 0;
    report_run_number_(line, "steps", &steps);
    report_run_number_(line, "lines", &lines);
    c->has_end = 1;
    c->failed = !status || strcmp(status, "done") != 0;
    c->end_steps = (int64_t)steps;
    c->end_lines = (int64_t)lines;
    c->end_loss_first = report_run_real_(line, "loss_first");
    c->end_loss_last = report_run_real_(line, "loss_last");
    report_run_number_(memory, "peak_bytes", &c->end_peak);
    report_run_number_(json_object_get(memory, "planned"), "peak_bytes", &c->end_plan_peak);
}

int report_cross_line_(RunCross *c, const json_t *line, int64_t number)
{
    const char *kind = json_string_value(json_object_get(line, "kind"));
    if (kind && !strcmp(kind, "run")) {
        c->second_run = number;
        return 1;
    }
    if (c->has_end) {
        c->after_end++;
        return 0;
    }
    c->lines++;
    if (!kind) {
        if (c->bad_lines++ == 0)
            c->first_bad = number;
    } else if (!strcmp(kind, "places")) {
        cross_names(&c->places, c, line);
    } else if (!strcmp(kind, "ops")) {
        cross_names(&c->ops, c, line);
    } else if (!strcmp(kind, "events")) {
        cross_events(c, line);
    } else if (!strcmp(kind, "events_end")) {
        uint64_t step = 0;
        c->events_ended = 1;
        if (report_run_number_(line, "step", &step) && c->rows && (int64_t)step > c->last_row_step)
            c->rows_until = (int64_t)step;
    } else if (!strcmp(kind, "step")) {
        cross_step(c, line);
    } else if (!strcmp(kind, "end")) {
        cross_end(c, line);
    }
    return 0;
}

/* ---- Sentences ------------------------------------------------------------------------------- */

typedef struct Notes {
    int (*add)(void *user, const char *note);
    void *user;
    int failed;
} Notes;

__attribute__((format(printf, 2, 3))) static void say(Notes *notes, const char *format, ...)
{
    char note[320];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note, sizeof note, format, arguments);
    va_end(arguments);
    if (!notes->failed)
        notes->failed = notes->add(notes->user, note) != 0;
}

static void say_where_it_ends(Notes *notes, const RunCross *c)
{
    const char *why = c->second_run ? "another run was written behind it."
                                    : "the run was killed, is still going, or its disk was full.";
    if (c->has_end)
        return;
    if (c->steps)
        say(notes, "The log breaks off after step %lld: %s", (long long)c->last_step, why);
    else
        say(notes, "The log breaks off before the first step was over: %s", why);
}

static void say_damage(Notes *notes, const RunCross *c)
{
    if (c->cut_off)
        say(notes, "Its last line is cut off.");
    if (c->bad_lines)
        say(notes, "Damaged lines left out: %lld, the first is line %lld.", (long long)c->bad_lines,
            (long long)c->first_bad);
    if (c->bad_rows)
        say(notes, "Damaged events left out: %lld.", (long long)c->bad_rows);
    if (c->second_run)
        say(notes,
            "Another run begins in line %lld: it is left out; `tail -n +%lld` of the file has it alone.",
            (long long)c->second_run, (long long)c->second_run);
    if (c->after_end)
        say(notes, "Lines behind the line that ends the run left out: %lld.", (long long)c->after_end);
}

static void say_missing_steps(Notes *notes, const RunCross *c)
{
    int64_t by_end = c->has_end && c->end_steps > c->steps ? c->end_steps - c->steps : 0;
    int64_t missing = by_end > c->gaps ? by_end : c->gaps;
    char which[96] = "";
    if (c->gaps && c->gap_from == c->gap_to)
        snprintf(which, sizeof which, " Step %lld is the first of them.", (long long)c->gap_from);
    else if (c->gaps)
        snprintf(which, sizeof which, " Steps %lld to %lld are the first of them.", (long long)c->gap_from,
                 (long long)c->gap_to);
    if (by_end)
        say(notes, "The end says %lld steps, and the log has lines of %lld: %lld are missing.%s",
            (long long)c->end_steps, (long long)c->steps, (long long)missing, which);
    else if (missing)
        say(notes, "Lines of %lld steps are missing.%s", (long long)missing, which);
    if (c->has_end && c->steps > c->end_steps)
        say(notes, "The end says %lld steps, and the log has lines of %lld: they are not of one run.",
            (long long)c->end_steps, (long long)c->steps);
    if (c->disorder)
        say(notes, "Lines of steps that come twice or out of order: %lld.", (long long)c->disorder);
}

static void say_missing_events(Notes *notes, const RunCross *c)
{
    if (c->names_missing)
        say(notes, "Names of module paths or operations are missing; they are shown as unknown.");
    if (c->blocks_missing)
        say(notes, "Events are missing: by their numbers %lld allocations.", (long long)c->blocks_missing);
    else if (c->rows_until)
        say(notes, "Events are missing: the last is of step %lld, and they should reach step %lld.",
            (long long)c->last_row_step + 1, (long long)c->rows_until + 1);
    else if (c->live_wrong)
        say(notes, "Events are missing: after step %lld they leave %lld bytes live, and its line says %lld.",
            (long long)c->live_wrong, (long long)c->live_seen, (long long)c->live_said);
}

static int differ(double a, double b)
{
    return isfinite(a) && isfinite(b) && fabs(a - b) > 1e-6 * fmax(1, fabs(a));
}

/* The end says otherwise than what the lines before it show. */
static void say_contradictions(Notes *notes, const RunCross *c)
{
    int complete = c->steps && c->steps == c->end_steps && !c->gaps;
    if (c->wrong_sums)
        say(notes, "Steps whose components do not add up to their peak: %lld, the first is step %lld.",
            (long long)c->wrong_sums, (long long)c->first_wrong_sum);
    if (!c->has_end)
        return;
    if (c->end_peak && c->highest > c->end_peak)
        say(notes, "The end says a peak of %lld bytes, and step %lld had %lld.", (long long)c->end_peak,
            (long long)c->highest_step, (long long)c->highest);
    if (c->has_plan && c->end_plan_peak && c->end_plan_peak != c->plan_peak)
        say(notes,
            "The end says that %lld bytes were planned, and the first line %lld: they are not of one run.",
            (long long)c->end_plan_peak, (long long)c->plan_peak);
    if (complete && differ(c->first_loss, c->end_loss_first))
        say(notes, "The end says a first loss of %.6g, and the first step's line %.6g.", c->end_loss_first,
            c->first_loss);
    if (complete && !c->failed && differ(c->last_loss, c->end_loss_last))
        say(notes, "The end says a last loss of %.6g, and the last step's line %.6g.", c->end_loss_last,
            c->last_loss);
}

int report_cross_notes_(const RunCross *c, int (*add)(void *user, const char *note), void *user)
{
    Notes notes = {add, user, 0};
    int64_t lost = c->end_lines - c->lines;
    say_where_it_ends(&notes, c);
    say_damage(&notes, c);
    if (c->end_lines && lost > 0)
        say(&notes, "Lines are missing: %lld of the %lld that the run wrote.", (long long)lost,
            (long long)c->end_lines);
    if (c->end_lines && lost < 0)
        say(&notes, "There are %lld lines more than the run wrote.", -(long long)lost);
    say_missing_steps(&notes, c);
    say_missing_events(&notes, c);
    say_contradictions(&notes, c);
    return notes.failed;
}
