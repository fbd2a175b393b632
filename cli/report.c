/* brim report: what a run log says, on the terminal and in the files of other viewers. Its arguments are
 * files and outputs, not the options of a training. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "../base/nearest_.h"
#include "../base/plural_.h"
#include "../base/printable_.h"
#include "../report/exports.h"
#include "../report/html.h"
#include "../estimate/page_replay_.h"
#include "../estimate/pytorch_allocator.h"
#include "cli.h"

typedef int (*Export)(const RunRecord *run, FILE *out);
/* Of one log or two, which it reads itself. */
typedef int (*Page)(FILE *out, const char *const *paths, int count, char *error, size_t size);

static int write_page(FILE *out, const char *const *paths, int count, char *error, size_t size)
{
    return report_html(out, paths, count, &estimate_pytorch_page, error, size);
}

static const struct {
    const char *name, *help;
    Export write; /* one of the two */
    Page page;
} outputs[] = {
    {"--html", "a page for a browser; of two logs one over the other", .page = write_page},
    {"--torch-snapshot", "for PyTorch's memory viewer (pytorch.org/memory_viz)",
     .write = report_torch_snapshot},
    {"--trace", "for Perfetto (ui.perfetto.dev) and chrome://tracing", .write = report_chrome_trace},
    {"--massif", "for ms_print and massif-visualizer", .write = report_massif},
    {"--csv", "the events of set-up and two steps, a line each", .write = report_events_csv},
    {"--jsonl", "the same as JSON objects", .write = report_events_jsonl},
};
enum { OUTPUTS = sizeof outputs / sizeof outputs[0], LOGS = 2 };

typedef struct Request {
    const char *logs[LOGS], *files[OUTPUTS];
    int log_count, exports, pages;
} Request;

/* ---- Arguments ------------------------------------------------------------------------------- */

static int refuse(const char *format, const char *a)
{
    fputs("brim report: ", stderr);
    fprintf(stderr, format, a);
    fputs("; `brim help report` says more\n", stderr);
    return EXIT_USAGE;
}

void report_outputs_help(FILE *out)
{
    fprintf(out, "\noutputs:\n");
    for (int i = 0; i < OUTPUTS; i++) {
        int columns = fprintf(out, "  %s FILE", outputs[i].name);
        fprintf(out, "%*s %s\n", 26 - columns, "", outputs[i].help);
    }
}

static const char *output_name(int i, const void *user)
{
    (void)user;
    return i < OUTPUTS ? outputs[i].name : NULL;
}

static int unknown_output(const char *argument)
{
    fprintf(stderr, "brim report: unknown output '%s'%s; `brim help report` lists them\n", argument,
            nearest_text(argument, &(NameList){.at = output_name}, "").text);
    return EXIT_USAGE;
}

static int parse(Request *request, int argc, char **argv)
{
    memset(request, 0, sizeof *request);
    for (int i = 0; i < argc; i++) {
        const char *equals = strchr(argv[i], '=');
        size_t length = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
        int output = 0;
        if (strncmp(argv[i], "--", 2)) {
            if (request->log_count == LOGS)
                return refuse("'%s' is one log too many: at most two can be given", argv[i]);
            request->logs[request->log_count++] = argv[i];
            continue;
        }
        while (output < OUTPUTS &&
               (strlen(outputs[output].name) != length || strncmp(outputs[output].name, argv[i], length)))
            output++;
        if (output == OUTPUTS)
            return unknown_output(argv[i]);
        if (!equals && i + 1 == argc)
            return refuse("%s needs a file to write", argv[i]);
        request->files[output] = equals ? equals + 1 : argv[++i];
        request->exports += outputs[output].write != NULL;
        request->pages += outputs[output].page != NULL;
    }
    if (!request->log_count)
        return refuse("which log? Give the file that `brim train --log FILE` wrote%s", "");
    if (request->log_count > 1 && request->exports)
        return refuse("'%s' is one log too many for these outputs, which show one run", request->logs[1]);
    for (int i = 0; i < OUTPUTS * request->log_count; i++)
        if (same_file(request->files[i % OUTPUTS], request->logs[i / OUTPUTS]))
            return refuse("%s would be written over the log", request->files[i % OUTPUTS]);
    return EXIT_DONE;
}

/* ---- The summary ----------------------------------------------------------------------------- */

static const char *option(const RunRecord *run, const char *name)
{
    for (size_t i = 0; i < run->option_names.count; i++)
        if (!strcmp(run->option_names.names[i], name))
            return run->option_values.names[i];
    return "";
}

static void print_run(const RunRecord *run)
{
    printf("%s  %s parameters  %s  batch %s", run->model, report_count(run->parameters).text,
           option(run, "optimizer"), option(run, "batch"));
    if (strcmp(option(run, "seq"), "0"))
        printf(" x seq %s", option(run, "seq"));
    if (strcmp(option(run, "accumulate"), "1"))
        printf(" x accumulate %s", option(run, "accumulate"));
    if (strcmp(option(run, "checkpoint"), "none"))
        printf("  checkpoint %s", option(run, "checkpoint"));
    if (option(run, "attention")[0])
        printf("  %s attention", option(run, "attention"));
    printf("\nbrim %s\n", run->command);
}

static void print_loss(double loss)
{
    if (isfinite(loss))
        printf("%.4f", loss);
    else
        printf("not finite");
}

static void print_steps(const RunRecord *run)
{
    const RunStep *steps = run->steps;
    size_t count = run->step_count;
    printf("\n%zu step%s", count, plural((long long)count));
    if (strcmp(option(run, "steps"), ""))
        printf(" of %s", option(run, "steps"));
    if (run->end.present)
        printf(", %.1f s", run->end.seconds);
    if (count) {
        printf("; loss ");
        print_loss(steps[0].loss);
        printf(" -> ");
        print_loss(steps[count - 1].loss);
    }
    if (run->validation_count) {
        const RunValidation *last = &run->validations[run->validation_count - 1];
        printf("; held out ");
        print_loss(last->loss);
        if (last->accuracy >= 0)
            printf(", accuracy %.2f %%", 100 * last->accuracy);
    }
    printf("\n");
    if (run->end.failed)
        printf("The run failed: %s\n", run->end.error);
}

enum { LABEL = 26, COLUMN = 14 };

/* The measured peak: of the whole run; where the log breaks off, of its highest step; without any, of its
 * events. */
typedef struct Measured {
    uint64_t peak, at_peak[RUN_COMPONENTS];
    int present;
} Measured;

static Measured peak_of_events(const RunRecord *run)
{
    Measured m = {.peak = run->peak_live, .present = run->event_count > 0};
    for (size_t i = 0; i < run->event_count && i <= run->peak_event; i++) {
        const RunEvent *e = &run->events[i];
        m.at_peak[e->from] -= e->kind == RUN_ALLOC ? 0 : e->bytes;
        m.at_peak[e->component] += e->kind == RUN_FREE ? 0 : e->bytes;
    }
    return m;
}

static Measured measured_peak(const RunRecord *run)
{
    Measured m = {.peak = run->end.memory.peak_bytes, .present = run->end.memory.present};
    memcpy(m.at_peak, run->end.memory.at_peak, sizeof m.at_peak);
    if (m.present)
        return m;
    for (size_t i = 0; i < run->step_count; i++)
        if (run->steps[i].peak_bytes > m.peak) {
            m.present = 1;
            m.peak = run->steps[i].peak_bytes;
            memcpy(m.at_peak, run->steps[i].at_peak, sizeof m.at_peak);
        }
    return m.present ? m : peak_of_events(run);
}

static void table_row(const char *label, int indent, uint64_t planned, const uint64_t *measured)
{
    printf("%*s%-*s%*s%*s\n", indent, "", LABEL - indent, label, COLUMN, report_count((int64_t)planned).text,
           measured ? COLUMN : 0, measured ? report_count((int64_t)*measured).text : "");
}

static void print_group(const RunRecord *run, const Measured *m, size_t group)
{
    uint64_t planned = 0, measured = 0;
    int members = 0;
    for (size_t i = 0; i < run->components.count; i++)
        if (run->component_group[i] == (int)group && (run->plan.at_peak[i] || m->at_peak[i])) {
            planned += run->plan.at_peak[i];
            measured += m->at_peak[i];
            members++;
        }
    table_row(run->groups.names[group], 0, planned, m->present ? &measured : NULL);
    for (size_t i = 0; members > 1 && i < run->components.count; i++)
        if (run->component_group[i] == (int)group && (run->plan.at_peak[i] || m->at_peak[i]))
            table_row(run->components.names[i], 2, run->plan.at_peak[i], m->present ? &m->at_peak[i] : NULL);
}

static void print_where(const RunRecord *run)
{
    const RunMemory *where = run->end.memory.present ? &run->end.memory : &run->plan;
    if (!where->present)
        return;
    printf("%s: step %" PRId64 ", %s, %s%s%s\n", where == &run->plan ? "planned peak at" : "peak at",
           where->peak_step, where->peak_phase, where->peak_path[0] ? where->peak_path : "the model itself",
           where->peak_op[0] ? ", " : "", where->peak_op);
}

static void print_peak(const RunRecord *run)
{
    Measured m = measured_peak(run);
    if (!run->plan.present && !m.present)
        return;
    printf("\n%-*s%*s%*s\n", LABEL, "bytes at peak", COLUMN, "planned", m.present ? COLUMN : 0,
           m.present ? "measured" : "");
    for (size_t g = 0; g < run->groups.count; g++)
        print_group(run, &m, g);
    table_row("peak", 0, run->plan.peak_bytes, m.present ? &m.peak : NULL);
    table_row("needs", 0, run->plan.needs_bytes,
              run->end.memory.present ? &run->end.memory.needs_bytes : NULL);
    print_where(run);
}

/* What PyTorch's allocator would make of these requests; silent where there is no memory to find out. */
static void print_pytorch(const RunRecord *run)
{
    PytorchReplay *replay = estimate_pytorch_create();
    int failed = !replay;
    for (size_t i = 0; i < run->event_count && !failed; i++) {
        const RunEvent *e = &run->events[i];
        if (e->kind == RUN_ALLOC)
            failed = estimate_pytorch_alloc(replay, e->serial, e->requested) != 0;
        else if (e->kind == RUN_FREE)
            estimate_pytorch_free(replay, e->serial);
    }
    if (!failed && run->event_count) {
        const PytorchBooks *b = estimate_pytorch_books(replay);
        char segments[64];
        snprintf(segments, sizeof segments, "reserved, in %" PRIu64 " segment%s",
                 b->small_segments + b->large_segments,
                 plural((long long)(b->small_segments + b->large_segments)));
        printf("By the rules of PyTorch's CUDA allocator, bytes, each at its own peak:\n");
        table_row("requested", 0, b->peak_requested, NULL);
        table_row("rounded", 0, b->peak_allocated, NULL);
        table_row(segments, 0, b->peak_reserved, NULL);
    }
    estimate_pytorch_destroy(replay);
}

static void print_summary(const RunRecord *run)
{
    print_run(run);
    print_steps(run);
    print_peak(run);
    if (run->event_count)
        printf("\n%s events, from byte 0 %s step %d\n", report_count((int64_t)run->event_count).text,
               run->events_complete ? "to the end of" : "into", run->events[run->event_count - 1].step + 1);
    print_pytorch(run);
    for (size_t i = 0; i < run->notes.count; i++)
        printf("Note: %s\n", run->notes.names[i]);
}

/* ---- Outputs --------------------------------------------------------------------------------- */

typedef struct Filling {
    const RunRecord *run;
    Export write;
    const Request *request;
    Page page;
} Filling;

static int write_whole(const char *path, IoFill fill, Filling *filling)
{
    return io_write_file(path, fill, filling) ? say_error() : EXIT_DONE;
}

static int fill_export(FILE *out, void *user)
{
    const Filling *filling = user;
    return filling->write(filling->run, out);
}

static int write_exports(const RunRecord *run, const Request *request)
{
    int status = EXIT_DONE;
    for (size_t i = 0; i < run->notes.count; i++)
        fprintf(stderr, "brim: %s: %s\n", run->path, run->notes.names[i]);
    if (!run->event_count)
        return EXIT_NO; /* the notes said so */
    for (int i = 0; i < OUTPUTS && !status; i++)
        if (request->files[i] && outputs[i].write)
            status = write_whole(request->files[i], fill_export,
                                 &(Filling){.run = run, .write = outputs[i].write});
    return status;
}

static int fill_page(FILE *out, void *user)
{
    const Filling *filling = user;
    const Request *request = filling->request;
    char why[512];
    if (filling->page(out, request->logs, request->log_count, why, sizeof why))
        return error_raise(ERROR_DATA, "%s", why);
    return 0;
}

static void make_names_printable(RunNames *names)
{
    for (size_t i = 0; i < names->count; i++)
        make_printable(names->names[i]);
}

/* The record has names as the log has them, for other viewers; a terminal would obey some. */
static void make_record_printable(RunRecord *run)
{
    RunNames *const lists[] = {&run->option_names, &run->option_values, &run->components, &run->groups,
                               &run->phases,       &run->places,        &run->ops,        &run->notes};
    RunMemory *const memories[] = {&run->plan, &run->end.memory, &run->end.planned};
    char *const texts[] = {run->brim, run->model, run->family, run->command, run->end.error};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        make_names_printable(lists[i]);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i])
            make_printable(texts[i]);
    for (size_t i = 0; i < sizeof memories / sizeof memories[0]; i++)
        if (memories[i]->present) {
            make_printable(memories[i]->peak_phase);
            make_printable(memories[i]->peak_path);
            make_printable(memories[i]->peak_op);
        }
}

static int report_one(const Request *request, const char *path)
{
    RunRecord run;
    char why[512];
    if (report_run_read(path, &run, why, sizeof why)) {
        fprintf(stderr, "brim: %s\n", why);
        return EXIT_NO;
    }
    int status = EXIT_DONE;
    if (request->exports)
        status = write_exports(&run, request);
    else {
        make_record_printable(&run);
        print_summary(&run);
    }
    report_run_free(&run);
    return status;
}

int command_report(int argc, char **argv)
{
    Request request;
    int status = parse(&request, argc, argv);
    for (int i = 0; i < OUTPUTS && !status; i++)
        if (request.files[i] && outputs[i].page)
            status = write_whole(request.files[i], fill_page,
                                 &(Filling){.request = &request, .page = outputs[i].page});
    if (request.pages && !request.exports)
        return status;
    for (int i = 0; i < request.log_count && !status; i++) {
        if (i)
            printf("\n");
        status = report_one(&request, request.logs[i]);
    }
    return status;
}
