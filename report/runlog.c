/* Writing the run log: lines are made in memory and written whole. Rows of events and steps are printed by
 * hand, as they are many; what the caller passes as JSON goes through jansson. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "report.h"
#include "runlog_.h"
#include "text_.h"

enum { OPS = 1024 }; /* names beyond are logged as no op; the engine has a few dozen */

struct RunLog {
    FILE *file;
    char *path;
    char error[512];
    ReportText line;
    const MemTracker *tracker;
    const char *ops[OPS]; /* static strings; 0 is none */
    int op_count, ops_written;
    int places_written;
    int64_t events, last_step, lines; /* lines: begun so far */
    LogWindow window;
    int attached, ended; /* ended: the line events_end is written */
    off_t opened;        /* where the file ended once it was open, and its lines so far */
    int64_t opened_lines;
};

/* ---- Lines ----------------------------------------------------------------------------------- */

static void fail(RunLog *log, const char *why)
{
    if (!log->error[0])
        snprintf(log->error, sizeof log->error, "cannot write the log %s: %s", log->path, why);
}

static ReportText *line_begin(RunLog *log, const char *kind)
{
    report_text_clear_(&log->line);
    report_text_print_(&log->line, "{\"kind\":\"%s\"", kind);
    log->lines++;
    return &log->line;
}

static void line_end(RunLog *log, const char *closing)
{
    report_text_print_(&log->line, "%s\n", closing);
    if (log->error[0])
        return;
    if (log->line.failed)
        fail(log, "out of host memory");
    else if (fwrite(log->line.text, 1, log->line.length, log->file) < log->line.length)
        fail(log, strerror(errno));
}

static void add_key(ReportText *line, const char *key)
{
    report_text_print_(line, ",\"%s\":", key);
}

static void add_integer(ReportText *line, const char *key, uint64_t value)
{
    report_text_print_(line, ",\"%s\":%" PRIu64, key, value);
}

static void add_real(ReportText *line, const char *key, double value)
{
    add_key(line, key);
    report_text_real_(line, value);
}

static void add_json(ReportText *line, const json_t *value)
{
    char small[64];
    size_t flags = JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9);
    size_t size = json_dumpb(value, small, sizeof small, flags);
    char *text = size ? memtrack_host_alloc(NULL, size) : NULL;
    if (text && json_dumpb(value, text, size, flags) == size)
        report_text_add_(line, text, size);
    else
        line->failed = 1;
    memtrack_host_free(NULL, text, size);
}

/* Names from..count of a table, a thousand a line. */
static void write_names(RunLog *log, const char *kind, int from, int count,
                        const char *(*name)(const RunLog *, int))
{
    while (from < count) {
        int until = count - from > RUNLOG_ROWS ? from + RUNLOG_ROWS : count;
        ReportText *line = line_begin(log, kind);
        report_text_print_(line, ",\"from\":%d,\"names\":[", from);
        for (int i = from; i < until; i++) {
            report_text_add_(line, ",", i > from);
            report_text_quote_(line, name(log, i));
        }
        line_end(log, "]}");
        from = until;
    }
}

/* ---- Opening --------------------------------------------------------------------------------- */

static void add_tables(ReportText *line)
{
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        report_text_print_(line, "%s[\"%s\",\"%s\"]", i ? "," : ",\"components\":[",
                           memtrack_component_name((MemComponent)i),
                           memtrack_group_name(memtrack_component_group((MemComponent)i)));
    for (int i = 0; i < MEM_PHASE_COUNT; i++)
        report_text_print_(line, "%s\"%s\"", i ? "," : "],\"phases\":[", memtrack_phase_name((MemPhase)i));
    for (int i = 0; i < MEM_GROUP_COUNT; i++)
        report_text_print_(line, "%s\"%s\"", i ? "," : "],\"groups\":[", memtrack_group_name((MemGroup)i));
    report_text_add_(line, "]", 1);
}

static void write_header(RunLog *log, const json_t *run)
{
    const char *key;
    json_t *value;
    ReportText *line = line_begin(log, "run");
    report_text_print_(line, ",\"format\":%d,\"brim\":\"%s\"", RUNLOG_FORMAT, BRIM_VERSION);
    json_object_foreach((json_t *)(uintptr_t)run, key, value)
    {
        report_text_add_(line, ",", 1);
        report_text_quote_(line, key);
        report_text_add_(line, ":", 1);
        add_json(line, value);
    }
    add_tables(line);
    line_end(log, "}");
}

static void write_outline(RunLog *log, const RunOutline *outline)
{
    for (size_t from = 0; from < outline->count; from += RUNLOG_ROWS) {
        ReportText *line = line_begin(log, "outline");
        report_text_print_(line, ",\"from_step\":0,\"live\":[");
        for (size_t i = from; i < outline->count && i < from + RUNLOG_ROWS; i++)
            report_text_print_(line, "%s%" PRIu64, i > from ? "," : "", outline->live[i]);
        line_end(log, "]}");
    }
}

/* Whether the name still means this file: another run may have moved it away since it was opened. */
static int is_named(int file, const char *path)
{
    struct stat opened, named;
    return fstat(file, &opened) == 0 && stat(path, &named) == 0 && opened.st_dev == named.st_dev &&
           opened.st_ino == named.st_ino;
}

static int is_locked(int file, int kind)
{
    return flock(file, kind | LOCK_NB) != 0 && errno == EWOULDBLOCK; /* other errors: it knows no locks */
}

/* For as long as report_log_in_use of another run may hold it. */
static int stays_locked(int file)
{
    enum { TRIES = 250, PAUSE_MS = 4 };
    for (int i = 0; i < TRIES; i++) {
        if (!is_locked(file, LOCK_EX))
            return 0;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
    }
    return 1;
}

/* A log is one run's, and emptied only by the one that has it. */
static void open_file(RunLog *log)
{
    struct stat status;
    int file = -1, tries = 0;
    do {
        if (file >= 0)
            close(file);
        file = open(log->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (file < 0 || fstat(file, &status) != 0 || !S_ISREG(status.st_mode))
            break; /* a terminal or a pipe may have many writers */
        if (stays_locked(file)) {
            fail(log, "another run writes it");
            close(file);
            return;
        }
    } while (!is_named(file, log->path) && ++tries < 10);
    if (file >= 0 && (!S_ISREG(status.st_mode) || ftruncate(file, 0) == 0))
        log->file = fdopen(file, "w");
    if (log->file)
        return;
    fail(log, strerror(errno));
    if (file >= 0)
        close(file);
}

int report_log_in_use(const char *path)
{
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int used = file >= 0 && fstat(file, &status) == 0 && S_ISREG(status.st_mode) && is_locked(file, LOCK_SH);
    if (file >= 0)
        close(file);
    return used;
}

RunLog *report_log_open(const char *path, const json_t *run, const RunOutline *outline, char *why,
                        size_t why_size)
{
    RunLog *log = memtrack_host_calloc(NULL, sizeof *log);
    char *copy = log ? memtrack_host_strdup(NULL, path) : NULL;
    if (!copy) {
        memtrack_host_free(NULL, log, sizeof *log);
        snprintf(why, why_size, "cannot write the log %s: out of host memory", path);
        return NULL;
    }
    log->path = copy;
    log->op_count = 1;
    log->ops[0] = "";
    open_file(log);
    if (log->file) {
        setvbuf(log->file, NULL, _IONBF, 0); /* a line is one write */
        write_header(log, run);
        if (outline)
            write_outline(log, outline);
        log->opened = ftello(log->file);
        log->opened_lines = log->lines;
    }
    if (!log->error[0])
        return log;
    snprintf(why, why_size, "%s", log->error);
    report_log_close(log);
    return NULL;
}

int report_log_restart(RunLog *log)
{
    if (!log->error[0] && (log->opened < 0 || fseeko(log->file, log->opened, SEEK_SET) ||
                           ftruncate(fileno(log->file), log->opened)))
        fail(log, strerror(errno));
    log->lines = log->opened_lines;
    log->op_count = 1;
    log->ops_written = log->places_written = 0;
    log->events = log->last_step = 0;
    log->window = (LogWindow){0};
    log->ended = 0;
    return log->error[0] ? -1 : 0;
}

int report_log_rank_path(char *out, size_t size, const char *path, int rank)
{
    int length = rank ? snprintf(out, size, "%s.rank-%d", path, rank) : snprintf(out, size, "%s", path);
    return length < 0 || (size_t)length >= size ? -1 : 0;
}

/* ---- Events ---------------------------------------------------------------------------------- */

static const char *place_name(const RunLog *log, int path)
{
    return memtrack_path_name(log->tracker, path);
}

static const char *op_name(const RunLog *log, int op)
{
    return log->ops[op];
}

/* The op's number; a new one gets the next. */
static int op_number(RunLog *log, const char *op)
{
    if (!op || !op[0])
        return 0;
    for (int i = 1; i < log->op_count; i++)
        if (log->ops[i] == op)
            return i;
    for (int i = 1; i < log->op_count; i++)
        if (!strcmp(log->ops[i], op))
            return i;
    if (log->op_count == OPS)
        return 0;
    log->ops[log->op_count] = op;
    return log->op_count++;
}

static void write_event(RunLog *log, ReportText *line, const MemEvent *e, int first)
{
    report_text_print_(line,
                       "%s[%d,%" PRIu64 ",%" PRId64 ",%d,%d,%d,%d,%d,%" PRIu64 ",%" PRIu64 ",%d,%" PRIu64
                       ",%" PRIu64 "]",
                       first ? "" : ",", (int)e->kind, e->time_ns / 1000, e->where.step, (int)e->where.phase,
                       (int)e->component, (int)e->from, e->where.path, op_number(log, e->where.op), e->serial,
                       e->offset, (int)e->end, e->bytes, e->requested);
}

static void write_events(RunLog *log, const MemEvent *events, size_t count)
{
    for (size_t i = 0; i < count; i++)
        op_number(log, events[i].where.op);
    int places = memtrack_path_count(log->tracker);
    write_names(log, "places", log->places_written, places, place_name);
    write_names(log, "ops", log->ops_written, log->op_count, op_name);
    log->places_written = places;
    log->ops_written = log->op_count;
    ReportText *line = line_begin(log, "events");
    report_text_print_(
        line, ",\"columns\":[\"kind\",\"time_us\",\"step\",\"phase\",\"component\",\"from\",\"place\","
              "\"op\",\"serial\",\"offset\",\"end\",\"bytes\",\"requested\"],\"rows\":[");
    for (size_t i = 0; i < count; i++)
        write_event(log, line, &events[i], i == 0);
    line_end(log, "]}");
}

static void end_events(RunLog *log, int complete)
{
    if (log->ended)
        return;
    log->ended = 1;
    line_begin(log, "events_end");
    report_text_print_(&log->line, ",\"step\":%" PRId64 ",\"complete\":%s", log->last_step,
                       complete ? "true" : "false");
    line_end(log, "}");
}

static void take(void *user, const MemEvent *events, size_t count)
{
    RunLog *log = user;
    size_t inside = 0;
    if (log->ended || log->error[0])
        return;
    while (inside < count && report_in_window_(&log->window, &events[inside]) &&
           log->events + (int64_t)inside < RUNLOG_EVENTS)
        inside++;
    if (inside > 0) {
        write_events(log, events, inside);
        log->events += (int64_t)inside;
        log->last_step = events[inside - 1].where.step;
    }
    if (inside < count)
        end_events(log, !report_in_window_(&log->window, &events[inside]));
}

int report_log_attach(RunLog *log, MemLedger *ledger)
{
    log->tracker = memtrack_ledger_tracker(ledger);
    log->attached = memtrack_log_start(ledger, RUNLOG_ROWS, take, log) == 0;
    return log->attached ? 0 : -1;
}

void report_log_detach(RunLog *log, MemLedger *ledger)
{
    if (log->attached)
        memtrack_log_stop(ledger); /* hands over the rest */
    log->attached = 0;
}

/* What is kept so far goes to the file, so that a crash between steps loses none of it. */
static void flush_events(RunLog *log, MemLedger *ledger)
{
    if (!log->attached)
        return;
    report_log_detach(log, ledger);
    if (!log->ended && !log->error[0] && report_log_attach(log, ledger))
        end_events(log, 0);
}

/* ---- Steps and the end ----------------------------------------------------------------------- */

static void add_composition(ReportText *line, const MemStats *stats)
{
    for (int g = 0; g < MEM_GROUP_COUNT; g++)
        report_text_print_(line, "%s\"%s\":%" PRIu64, g ? "," : ",\"at_peak\":{",
                           memtrack_group_name((MemGroup)g), report_group(stats->step_at_peak, (MemGroup)g));
    for (int i = 0; i < MEM_COMPONENT_COUNT; i++)
        report_text_print_(line, "%s\"%s\":%" PRIu64, i ? "," : "},\"components_at_peak\":{",
                           memtrack_component_name((MemComponent)i), stats->step_at_peak[i]);
    report_text_add_(line, "}", 1);
}

void report_log_step(RunLog *log, MemLedger *ledger, const RunLogStep *step)
{
    const MemStats *stats = memtrack_stats(ledger);
    flush_events(log, ledger);
    ReportText *line = line_begin(log, "step");
    add_integer(line, "step", (uint64_t)step->step);
    add_real(line, "loss", step->loss);
    add_real(line, "lr", step->lr);
    add_integer(line, "tokens", (uint64_t)step->tokens);
    add_real(line, "seconds", step->seconds);
    if (step->loss_scale > 0) {
        add_real(line, "loss_scale", step->loss_scale);
        add_integer(line, "skipped", (uint64_t)step->skipped);
    }
    add_integer(line, "live_bytes", stats->live);
    add_integer(line, "peak_bytes", stats->step_peak);
    add_composition(line, stats);
    line_end(log, "}");
}

void report_log_validation(RunLog *log, const RunLogValidation *validation)
{
    ReportText *line = line_begin(log, "validation");
    add_integer(line, "step", (uint64_t)validation->step);
    add_real(line, "loss", validation->loss);
    if (validation->accuracy >= 0)
        add_real(line, "accuracy", validation->accuracy);
    if (validation->seconds > 0)
        add_real(line, "seconds", validation->seconds);
    line_end(log, "}");
}

void report_log_end(RunLog *log, const RunLogEnd *end)
{
    int failed = end->error && end->error[0];
    if (log->tracker)
        end_events(log, !failed);
    ReportText *line = line_begin(log, "end");
    report_text_print_(line, ",\"status\":\"%s\"", failed ? "failed" : "done");
    if (failed) {
        add_key(line, "error");
        report_text_quote_(line, end->error);
    }
    add_integer(line, "lines", (uint64_t)log->lines);
    add_integer(line, "steps", (uint64_t)end->steps);
    add_real(line, "seconds", end->seconds);
    add_real(line, "loss_first", end->loss_first);
    add_real(line, "loss_last", end->loss_last);
    if (end->memory) {
        add_key(line, "memory");
        add_json(line, end->memory);
    }
    line_end(log, "}");
}

const char *report_log_error(const RunLog *log)
{
    return log->error;
}

void report_log_close(RunLog *log)
{
    if (!log)
        return;
    if (log->file)
        fclose(log->file);
    report_text_free_(&log->line);
    memtrack_host_free(NULL, log->path, strlen(log->path) + 1);
    memtrack_host_free(NULL, log, sizeof *log);
}
