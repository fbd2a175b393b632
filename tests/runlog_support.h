/* What the tests of run logs share: a small run on a ledger without data, written to a file as a training
 * would be, and what must hold of any log that could be read. */
#ifndef TEST_RUNLOG_SUPPORT_H
#define TEST_RUNLOG_SUPPORT_H

#include <jansson.h>

#include "../report/exports.h"
#include "../report/report.h"
#include "../report/runlog.h"
#include "../report/runlog_read.h"
#include "support.h"

enum { WHY = 512 };

/* In `folder`, which the program makes and removes. */
static char log_folder[64];

static inline int make_log_folder(void **state)
{
    (void)state;
    strcpy(log_folder, "/tmp/brim-log-XXXXXX");
    return mkdtemp(log_folder) ? 0 : -1;
}

static inline int remove_log_folder(void **state)
{
    (void)state;
    char command[128];
    if (strncmp(log_folder, "/tmp/brim-log-", 14))
        return -1;
    snprintf(command, sizeof command, "rm -rf %s", log_folder);
    return system(command);
}

/* A path in the folder; four may be in use at once. */
static inline const char *log_path(const char *name)
{
    static char paths[4][128];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", log_folder, name);
    return path;
}

/* ---- A run ----------------------------------------------------------------------------------- */

typedef struct Device {
    MemTracker *tracker;
    MemLedger *ledger;
} Device;

static inline Device device_open(void)
{
    Device d = {.tracker = memtrack_create()};
    d.ledger = d.tracker ? memtrack_ledger_create(d.tracker, &(MemLedgerOptions){.name = "meta"}) : NULL;
    return d;
}

/* One parameter and its gradient, a large activation at the high end, a loss, and a re-tag. Names have what
 * CSV, JSON and massif must quote. Without memory it does less. */
static inline void device_setup(Device d, MemBlock *parameter)
{
    int pushed = memtrack_path_push(d.tracker, "model.\"head\", #1\n\xc3\xa9") >= 0;
    memtrack_alloc(d.ledger, 10000, MEM_PARAMETER, parameter);
    if (pushed)
        memtrack_path_pop(d.tracker);
    memtrack_phase_set(d.tracker, MEM_PHASE_FORWARD);
}

static inline void device_step(Device d, int64_t step)
{
    MemBlock activation, gradient, loss;
    memtrack_step_set(d.tracker, step);
    const char *outside = memtrack_op_set(d.tracker, "linear");
    int pushed = memtrack_path_push(d.tracker, "model.layers.0") >= 0;
    memtrack_alloc(d.ledger, 50000, MEM_TEMPORARY, &activation);
    memtrack_retag(d.ledger, &activation, MEM_ACTIVATION);
    memtrack_op_set(d.tracker, "cross_entropy");
    memtrack_alloc(d.ledger, 4, MEM_TEMPORARY, &loss);
    memtrack_phase_set(d.tracker, MEM_PHASE_BACKWARD);
    memtrack_alloc(d.ledger, 10000, MEM_GRADIENT, &gradient);
    memtrack_free(d.ledger, &activation);
    memtrack_phase_set(d.tracker, MEM_PHASE_OPTIMIZER);
    memtrack_free(d.ledger, &gradient);
    memtrack_free(d.ledger, &loss);
    if (pushed)
        memtrack_path_pop(d.tracker);
    memtrack_op_set(d.tracker, outside);
    memtrack_phase_set(d.tracker, MEM_PHASE_FORWARD);
}

enum { STEP_EVENTS = 7, PEAK = 10048 + 50048 + 64 + 10048, NEEDS = PEAK };

static inline json_t *run_object(void)
{
    return json_pack(
        "{s:s, s:s, s:i, s:[s,s], s:{s:i, s:i, s:s}, s:{s:i, s:i, s:{s:{s:i, s:i}}, s:{s:i, s:s, s:s, "
        "s:s}}, s:b}",
        "model", "toy", "family", "mlp", "parameters", 2500, "command", "train", "--steps", "options",
        "batch", 4, "steps", 3, "optimizer", "sgd", "plan", "peak_bytes", PEAK, "needs_bytes", NEEDS,
        "components", "parameter", "peak", 10048, "at_peak", 10048, "peak_at", "step", 1, "phase", "backward",
        "place", "model.layers.0", "op", "linear", "of_a_later_brim", 1);
}

/* One of several ranks. */
typedef struct Rank {
    json_t *ranks;  /* of the first line, stolen */
    uint64_t extra; /* bytes that it has beside what the others have: whole 64 */
} Rank;

static inline void add_rank(json_t *run, const Rank *rank)
{
    json_t *plan = json_object_get(run, "plan");
    json_object_set_new(run, "ranks", rank->ranks);
    json_object_set_new(plan, "peak_bytes", json_integer(PEAK + (json_int_t)rank->extra));
    json_object_set_new(plan, "needs_bytes", json_integer(NEEDS + (json_int_t)rank->extra));
}

/* Writes the whole log of a run of so many steps. Returns 0; or -1 when the log could not be opened or
 * attached, which only happens when `may_fail`. rank NULL: it is alone. */
static inline int write_run_of(const char *path, int steps, int may_fail, const Rank *rank)
{
    char why[WHY];
    json_int_t extra = rank ? (json_int_t)rank->extra : 0;
    int status = -1;
    RunOutline *outline = report_outline_create();
    for (int real = 0; real < 2 && outline; real++) {
        MemBlock parameter, more;
        Device d = device_open();
        json_t *run = real ? run_object() : NULL;
        if (run && rank)
            add_rank(run, rank);
        RunLog *log = real && d.ledger ? report_log_open(path, run, outline, why, sizeof why) : NULL;
        json_decref(run);
        int ready = d.ledger && (log ? !report_log_attach(log, d.ledger)
                                     : !real && !report_outline_record(outline, d.ledger));
        if (ready && extra)
            memtrack_alloc(d.ledger, (uint64_t)extra, MEM_ACTIVATION, &more);
        if (ready)
            device_setup(d, &parameter);
        for (int step = 0; ready && step < steps; step++) {
            device_step(d, step);
            if (real)
                report_log_step(log, d.ledger,
                                &(RunLogStep){step + 1, 1.0 / (step + 1), 0.001, 0.25, 4, 0, 0});
        }
        if (ready && real) {
            report_log_validation(log, &(RunLogValidation){steps, 0.5, 0.75, 0.125});
            memtrack_free(d.ledger, &parameter);
            if (extra)
                memtrack_free(d.ledger, &more);
            report_log_detach(log, d.ledger);
            json_t *memory =
                json_pack("{s:I, s:I}", "peak_bytes", PEAK + extra, "needs_bytes", NEEDS + extra);
            report_log_end(log, &(RunLogEnd){.steps = steps,
                                             .seconds = 1.5,
                                             .loss_first = 1,
                                             .loss_last = 1.0 / (steps ? steps : 1),
                                             .memory = memory});
            json_decref(memory);
            status = report_log_error(log)[0] ? -1 : 0;
        }
        memtrack_destroy(d.tracker);
        report_log_close(log);
    }
    report_outline_destroy(outline);
    if (!may_fail)
        assert_int_equal(status, 0);
    return status;
}

static inline int write_run(const char *path, int steps, int may_fail)
{
    return write_run_of(path, steps, may_fail, NULL);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static inline char *file_text(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *length = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(*length + 1);
    assert_int_equal(fread(text, 1, *length, file), *length);
    text[*length] = '\0';
    fclose(file);
    return text;
}

static inline void write_file(const char *path, const char *text, size_t length)
{
    remove(path); /* writing over a file waits for the disk */
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

/* ---- What holds of any record ---------------------------------------------------------------- */

static inline int has_note(const RunRecord *run, const char *words)
{
    for (size_t i = 0; i < run->notes.count; i++)
        if (strstr(run->notes.names[i], words))
            return 1;
    return 0;
}

/* Every export of it, to nowhere. */
static inline void export_to_nowhere(const RunRecord *run)
{
    static int (*const all[])(const RunRecord *, FILE *) = {
        report_torch_snapshot, report_chrome_trace, report_massif, report_events_csv, report_events_jsonl};
    FILE *file = fopen("/dev/null", "wb");
    for (size_t i = 0; i < COUNT(all); i++)
        assert_int_equal(all[i](run, file), 0);
    fclose(file);
}

static inline void check_record(const RunRecord *run)
{
    uint64_t live = 0, time = 0, peak = 0;
    size_t made = 0;
    for (size_t i = 0; i < run->event_count; i++) {
        const RunEvent *e = &run->events[i];
        assert_true(e->time_us >= time && e->block < run->block_count &&
                    e->component < run->components.count && e->from < run->components.count);
        const RunBlock *block = &run->blocks[e->block];
        assert_true(block->alloc <= i && (block->free == SIZE_MAX || block->free >= i));
        assert_int_equal(run->events[block->alloc].serial, e->serial);
        made += e->kind == RUN_ALLOC;
        live += e->kind == RUN_ALLOC ? e->bytes : 0;
        live -= e->kind == RUN_FREE ? e->bytes : 0;
        assert_int_equal(live, e->live);
        peak = live > peak ? live : peak;
        assert_true(report_run_address(run, e) + e->bytes <= run->reserved);
        assert_non_null(report_run_path(run, e->path));
        time = e->time_us;
    }
    assert_int_equal(made, run->block_count);
    assert_int_equal(peak, run->peak_live);
}

static inline void read_fine(const char *path, RunRecord *run)
{
    char why[WHY];
    if (report_run_read(path, run, why, sizeof why))
        fail_msg("%s", why);
    assert_string_equal(why, "");
    check_record(run);
}

#endif
