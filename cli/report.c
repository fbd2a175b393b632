/* brim report: what a run log says, on the terminal and in the files of other viewers; and what a memory
 * snapshot of PyTorch says. Its arguments are files and outputs, not the options of a training. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "../base/nearest_.h"
#include "../base/printable_.h"
#include "../report/torch_snapshot_read.h"
#include "cli.h"
#include "report_.h"

enum { LOGS = 2 };

typedef struct Request {
    const char *logs[LOGS], *files[REPORT_OUTPUTS];
    int log_count, exports, pages, json;
    char **predict; /* what stands behind --predict; NULL: it is not there */
    int predict_count;
} Request;

/* ---- Arguments ------------------------------------------------------------------------------- */

static int refuse(const char *format, const char *a)
{
    fputs("brim report: ", stderr);
    fprintf(stderr, format, a);
    fputs("; `brim help report` says more\n", stderr);
    return EXIT_USAGE;
}

static const char *output_name(int i, const void *user)
{
    (void)user;
    return i < REPORT_OUTPUTS ? report_outputs[i].name : NULL;
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
        if (!strcmp(argv[i], "--json")) {
            request->json = 1;
            continue;
        }
        if (!strcmp(argv[i], "--predict")) {
            request->predict = argv + i + 1;
            request->predict_count = argc - i - 1;
            break;
        }
        while (output < REPORT_OUTPUTS && (strlen(report_outputs[output].name) != length ||
                                           strncmp(report_outputs[output].name, argv[i], length)))
            output++;
        if (output == REPORT_OUTPUTS)
            return unknown_output(argv[i]);
        if (!equals && i + 1 == argc)
            return refuse("%s needs a file to write", argv[i]);
        request->files[output] = equals ? equals + 1 : argv[++i];
        request->exports += report_outputs[output].write != NULL;
        request->pages += report_outputs[output].page != NULL;
    }
    if (!request->log_count)
        return refuse("which log? Give the file that `brim train --log FILE` wrote%s", "");
    if (request->log_count > 1 && request->exports)
        return refuse("'%s' is one log too many for these outputs, which show one run", request->logs[1]);
    for (int i = 0; i < REPORT_OUTPUTS * request->log_count; i++)
        if (same_file(request->files[i % REPORT_OUTPUTS], request->logs[i / REPORT_OUTPUTS]))
            return refuse("%s would be written over the log", request->files[i % REPORT_OUTPUTS]);
    return EXIT_DONE;
}

/* ---- Outputs --------------------------------------------------------------------------------- */

typedef struct Filling {
    const RunRecord *run;
    ReportExport write;
    const Request *request;
    ReportPage page;
} Filling;

/* And says where it went. */
static int write_output(const Request *request, int output, IoFill fill, Filling *filling)
{
    const char *path = request->files[output];
    if (io_write_file(path, fill, filling))
        return say_error();
    printf("%s is written%s\n", path, report_outputs[output].page ? "; open it in a browser" : "");
    return EXIT_DONE;
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
        fprintf(stderr, "brim: note: %s: %s\n", run->path, run->notes.names[i]);
    if (!run->event_count)
        return EXIT_NO; /* the notes said so */
    for (int i = 0; i < REPORT_OUTPUTS && !status; i++)
        if (request->files[i] && report_outputs[i].write)
            status = write_output(request, i, fill_export,
                                  &(Filling){.run = run, .write = report_outputs[i].write});
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

/* And those of the other ranks of its run. */
static int report_one(RunRecord *run)
{
    RunRanks ranks;
    if (report_run_ranks(run, &ranks)) {
        complain("%s: out of host memory", run->path);
        return EXIT_NO;
    }
    make_record_printable(run);
    make_names_printable(&ranks.notes);
    print_summary(run, &ranks);
    report_run_ranks_free(&ranks);
    return EXIT_DONE;
}

/* Exports show one run: then there is but one log. */
static int report_runs(const Request *request, RunRecord *runs)
{
    if (request->exports)
        return write_exports(&runs[0], request);
    for (int i = 0; i < request->log_count && request->log_count > 1; i++)
        make_record_printable(&runs[i]);
    if (request->log_count > 1)
        print_difference(&runs[0], &runs[1]);
    else
        return report_one(&runs[0]);
    return EXIT_DONE;
}

static int read_and_report(const Request *request)
{
    RunRecord runs[LOGS];
    char why[512];
    int status = EXIT_DONE;
    memset(runs, 0, sizeof runs);
    for (int i = 0; i < request->log_count && !status; i++)
        if (report_run_read(request->logs[i], &runs[i], why, sizeof why)) {
            fprintf(stderr, "brim: %s\n", why);
            status = EXIT_NO;
        }
    if (!status)
        status = report_runs(request, runs);
    for (int i = 0; i < request->log_count; i++)
        report_run_free(&runs[i]);
    return status;
}

/* A snapshot is shown by itself: 1, and *status says how; 0 where there is none. */
static int shows_snapshot(const Request *request, int *status)
{
    const char *snapshot = NULL;
    for (int i = 0; i < request->log_count; i++)
        if (report_torch_is_snapshot(request->logs[i]))
            snapshot = request->logs[i];
    if (!snapshot)
        return 0;
    if (request->log_count > 1)
        *status = refuse("%s is a memory snapshot of PyTorch, which is shown alone", snapshot);
    else if (request->exports || request->pages)
        *status = refuse("%s is a memory snapshot of PyTorch: these outputs show a run's log", snapshot);
    else {
        PytorchJob job;
        *status =
            request->predict ? report_predict_job(request->predict_count, request->predict, &job) : EXIT_DONE;
        if (!*status)
            *status = report_snapshot(snapshot, request->json, request->predict ? &job : NULL);
    }
    return 1;
}

int command_report(int argc, char **argv)
{
    Request request;
    int status = parse(&request, argc, argv);
    if (!status && shows_snapshot(&request, &status))
        return status;
    if (!status && request.predict)
        return refuse("%s is no memory snapshot of PyTorch, which --predict lies beside", request.logs[0]);
    if (!status && request.json)
        return refuse("%s is no memory snapshot, of which --json is; --jsonl FILE has a log's events",
                      request.logs[0]);
    for (int i = 0; i < REPORT_OUTPUTS && !status; i++)
        if (request.files[i] && report_outputs[i].page)
            status = write_output(&request, i, fill_page,
                                  &(Filling){.request = &request, .page = report_outputs[i].page});
    if (status || (request.pages && !request.exports))
        return status;
    return read_and_report(&request);
}
